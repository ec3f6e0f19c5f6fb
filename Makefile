# make app    open the demo at http://127.0.0.1:7860       make test   every test, with a real browser
# make bench  time and memory of one face and of the page  make lint   ruff and pyright
# make attack  20 visitors and a hostile one for two minutes, every answer checked; ARGS="--clients 5 --seconds 20"
# make bench-threads  what two busy processes cost each other
# make bench-training  speed of a training step and of its loader; ARGS=--compile for torch.compile too
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash

.PHONY: app test attack bench bench-threads bench-training lint clean browser

app: $(VENV)/app-installed
	$(BIN)/python app.py $(ARGS)

# Two processes, each file of tests in one of them, in the order of tests/conftest.py. One thread a process: on the
# tests' small networks more would only wait for each other.
test: $(VENV)/dev-installed browser lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

attack: $(VENV)/dev-installed
	$(BIN)/python tests/attack.py $(ARGS)

bench: $(VENV)/dev-installed
	$(BIN)/python tests/benchmark.py $(ARGS)

bench-threads: $(VENV)/dev-installed
	$(BIN)/python tests/threads_benchmark.py

bench-training: $(VENV)/dev-installed
	$(BIN)/python tests/training_benchmark.py $(ARGS)

lint: $(VENV)/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# OpenCV needs the system's libGL and glib (packages.txt, which a Hugging Face Space installs too).
$(VENV)/app-installed: requirements.txt constraints.txt packages.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt -c constraints.txt
	$(BIN)/python -c "import cv2" || $(call apt-install,packages.txt)
	$(BIN)/python -c "import cv2"
	touch $@

$(VENV)/dev-installed: requirements-dev.txt $(VENV)/app-installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

# The browser test drives the system's Chromium.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(call apt-install,tests/packages.txt)

apt-install = { command -v apt-get >/dev/null && \
	SUDO=$$([ $$(id -u) = 0 ] || echo sudo) && \
	$$SUDO apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $$SUDO apt-get install -y -qq --no-install-recommends $$(cat $(1)) >/dev/null; } || \
	{ echo "Please install these system packages (Debian's names) and try again: $$(tr '\n' ' ' < $(1))" >&2; exit 1; }
