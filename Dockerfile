# The page in a container:  docker build -t sparnet . && docker run -p 7860:7860 sparnet
# With the authors' weights, whose licence you then accept:  docker run -e SPARNET_FETCH=sparnet-hd ...
FROM python:3.11-slim
WORKDIR /app
COPY packages.txt requirements.txt constraints.txt ./
RUN apt-get update && xargs -a packages.txt apt-get install -y --no-install-recommends && rm -rf /var/lib/apt/lists/*
RUN python -m pip install --no-cache-dir -r requirements.txt -c constraints.txt
COPY . .
RUN useradd --create-home page
USER page
EXPOSE 7860
CMD ["python", "app.py", "--host", "0.0.0.0"]
