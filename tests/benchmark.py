"""Time and memory of one face with all its maps, and of the page; states the machine: `make bench`.

this process: a face 128x128 -> trace, beside a plain forward and the released SPARNet's design in turns
              of that design: atlas of its 16 maps, ablation of its 16 units in 4 ways
child:        app.py -> page ready in seconds -> one photo restored -> peak memory of the server
"""

import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import skimage
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from sparnet import SPARNet, SPARNetConfig, images, load_model  # noqa: E402
from sparnet.attention import atlas_figure  # noqa: E402
from viz.finding import figure_png  # noqa: E402
from viz.instruments import ablation  # noqa: E402
from viz.subject import Subject  # noqa: E402

ROUNDS = 15
FEATURES = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_bf16",
)  # what decides how fast a network runs, and in which precision


def main():
    print_machine()
    time_one_face()
    time_the_instruments()
    time_the_page()


def print_machine():
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?"
    )
    flags = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("flags")), "").split()
    features = [name for name in FEATURES if name in flags]
    print(f"machine   {cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    print(f"features  {' '.join(features) or 'not known'}")
    print(f"software  Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads")


def degraded_astronaut() -> torch.Tensor:
    return images.to_tensor(images.degrade(images.resize(skimage.data.astronaut()[:256, 96:352], 128), 16))


def time_one_face():
    face = degraded_astronaut()
    tiny, released = load_model("sparnet-tiny"), SPARNet(SPARNetConfig()).eval()
    runs = {
        "sparnet-tiny, restored + all maps": lambda: tiny.trace(face),
        "sparnet-tiny, restored only": lambda: tiny(face),
        "released SPARNet's design, restored + all maps": lambda: released.trace(face),
    }
    seconds = {name: [] for name in runs}
    with torch.inference_mode():
        for round_number in range(ROUNDS + 2):
            for name, run in runs.items():  # in turns, so that a drifting machine touches all alike
                start = time.perf_counter()
                run()
                if round_number >= 2:
                    seconds[name].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    print(f"\none 128x128 face, float32, median of {ROUNDS} rounds taken in turns (ratio to the first row)")
    for name, values in seconds.items():
        ratio = statistics.median(np.divide(values, first))
        print(f"  {name:48} {statistics.median(values) * 1000:7.0f} ms   x {ratio:.2f}")


def time_the_instruments():
    subject = Subject(SPARNet(SPARNetConfig()).eval(), "untrained", degraded_astronaut())
    with torch.inference_mode():
        alphas = subject.model.trace(subject.degraded).alphas
    atlas_figure(alphas)  # the first figure of a process also loads fonts
    runs = {
        f"atlas of {len(alphas)} maps, from their trace (target 0.3 s)": lambda: atlas_figure(alphas),
        "the same as a PNG of 200 dots an inch": lambda: figure_png(atlas_figure(alphas)),
        f"ablation of {len(alphas)} units x {len(ablation.MODES)} modes (target 20 s)": lambda: ablation.study(subject),
    }
    print("\ninstruments on the released SPARNet's design, once each")
    for name, run in runs.items():
        start = time.perf_counter()
        run()
        print(f"  {name:58} {time.perf_counter() - start:6.2f} s")


def time_the_page():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port)], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        try:
            wait_for(url, server, log)
            ready = time.perf_counter() - start
            idle = peak_memory(server.pid)
            start = time.perf_counter()
            restore_astronaut(url)
            restored = time.perf_counter() - start
            print(f"\nthe page, no network\n  ready {ready:.1f} s after the start")
            print(f"  first photo (512x512, one face) restored through the API in {restored:.1f} s, detection included")
            print(f"  peak memory {idle:.2f} GB before it, {peak_memory(server.pid):.2f} GB after it")
        finally:
            server.terminate()
            server.wait(10)


def wait_for(url: str, server: subprocess.Popen, log, limit: float = 120):
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log.seek(0)
            raise SystemExit(f"the app stopped while starting:\n{log.read().decode()}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the page was not ready after {limit:.0f} s")


def restore_astronaut(url: str):
    from gradio_client import Client, handle_file

    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "astronaut.png"
        images.save_png(skimage.data.astronaut(), photo)
        Client(url, verbose=False, download_files=folder).predict(handle_file(photo), api_name="/restore")


def peak_memory(pid: int) -> float:
    """Highest resident memory of a process so far, in GB (Linux: VmHWM)."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024**2 * 1024**3 / 1e9


if __name__ == "__main__":
    main()
