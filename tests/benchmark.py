"""Time, loss and memory of every engine, and of the page; states the machine: `make bench`.

this process: one face -> plain PyTorch, the reference of its network | each engine and precision, with maps or not
              a photo of 20 faces, and its faces alone; atlas and ablation of the released SPARNet's design
child:        app.py -> page ready in seconds -> one photo restored -> peak memory of the server
"""

import argparse
import math
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

if "--avx2" in sys.argv:  # before the libraries are loaded, which read it
    os.environ.update(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2")

import numpy as np
import openvino
import skimage
import torch
from camera import film
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from sparnet import Restorer, SPARNet, SPARNetConfig, images, load_model  # noqa: E402
from sparnet.attention import atlas_figure  # noqa: E402
from sparnet.engine import PRECISION, PRECISIONS, engine_for, openvino_graph, openvino_settings, runner  # noqa: E402
from sparnet.folding import outputs_of  # noqa: E402
from sparnet.limits import cost  # noqa: E402
from viz.finding import figure_png  # noqa: E402
from viz.instruments import ablation  # noqa: E402
from viz.subject import Subject  # noqa: E402

FEATURES = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_bf16",
)  # what decides how fast a network runs, and in which precision


def main():
    parser = argparse.ArgumentParser()
    parts = ("engines", "photo", "instruments", "page")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=parts, action="append", help="repeatable")
    parser.add_argument("--network", choices=networks(), action="append", help="for engines; repeatable")
    parser.add_argument("--avx2", action="store_true", help="no instruction that a processor with AVX2 alone lacks")
    options = parser.parse_args()
    print_machine()
    if options.avx2:
        print("          of them AVX2 alone, by what PyTorch, oneDNN and MKL let themselves be told")
    chosen = options.only or parts
    if "engines" in chosen:
        time_the_engines(options.rounds, options.network)
    if "photo" in chosen:
        time_a_photo_of_many_faces(options.rounds)
    if "instruments" in chosen:
        time_the_instruments()
    if "page" in chosen:
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


def networks() -> dict[str, SPARNet]:
    """The released SPARNet's design has random weights: its own cannot be bundled, and take the same time."""
    torch.manual_seed(0)
    names = ("sparnet-tiny", "sparnet-hd-light-256")
    return {"sparnet": SPARNet(SPARNetConfig()).eval()} | {name: load_model(name) for name in names}


def engines(model: SPARNet) -> dict[str, Callable[[torch.Tensor], list[torch.Tensor]]]:
    """Each way to run the network: faces (B,3,S,S) -> restored, and every alpha where the name says maps."""
    ways = {
        "PyTorch, float32": lambda faces: [model(faces)],
        "PyTorch, float32, maps": lambda faces: outputs_of(model, faces),
        "PyTorch, folded, float32, maps": engine_for(model, "torch").outputs,
    }
    core, settings = openvino.Core(), openvino_settings()
    rounded = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") and "--avx2" not in sys.argv
    for maps in (False, True):
        graph = openvino_graph(model, maps)
        for precision, name in PRECISIONS.items():
            if name == "float32" or rounded:
                compiled = core.compile_model(graph, "CPU", settings | {PRECISION: precision})
                ways[f"OpenVINO, {name}{', maps' * maps}"] = runner(compiled)
    return ways


def time_the_engines(rounds: int, chosen: list[str] | None = None):
    peak = matrix_product_peak()
    print(
        f"\npeak      {peak:.0f} GFLOP/s, of float32 matrix products of 1024x1024; shares of it count what the network"
    )
    print("          multiplies as it is, so that a folded one, which multiplies less, may have more than all of it")
    for name, model in networks().items():
        if chosen and name not in chosen:
            continue
        size = model.config.size
        sharp = images.resize(skimage.data.astronaut()[:256, 96:352], size)
        face = images.to_tensor(images.degrade(sharp, model.config.degraded_size or size // 4))
        ways = engines(model)
        with torch.inference_mode():
            seconds = in_turns({way: partial(run, face) for way, run in ways.items()}, rounds)
            losses = {way: loss(run(face)[0], model(face), images.to_tensor(sharp)) for way, run in ways.items()}
        reference = seconds["PyTorch, float32"]
        print(f"\n{name}, one face of {size}x{size}, median of {rounds} rounds in turns; x: of the first row's speed")
        for way, values in seconds.items():
            ratio, share = np.median(reference / values), cost(model.config)[0] / values.min() / peak
            text = f"{np.median(values) * 1000:7.0f} ms   x {ratio:.2f}   {share:4.0%} of the peak"
            print(f"  {way:40} {text}   {losses[way]:+.4f} dB")
        if "--avx2" not in sys.argv:
            print(f"  chosen: {engine_for(model)}")


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each round of each, one after the other, so that a drifting machine touches all alike."""
    seconds = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def matrix_product_peak() -> float:
    """GFLOP/s of float32 matrix products: what convolutions could reach at most, with as many multiplications."""
    left, right = torch.rand(1024, 1024), torch.rand(1024, 1024)
    return 2 * 1024**3 / in_turns({"product": lambda: left @ right}, 30)["product"].min() / 1e9


def loss(restored: torch.Tensor, exact: torch.Tensor, sharp: torch.Tensor) -> float:
    """dB of PSNR over the sharp face (1,3,S,S) that the answer lies above the exact one."""
    error, least = ((answer - sharp).square().mean().item() for answer in (restored, exact))
    return 10 * math.log10(least / error)


def time_a_photo_of_many_faces(rounds: int):
    photo, faces = photo_of_faces(20)
    model = load_model("sparnet-tiny")
    run, restorer = engine_for(model), Restorer(model)
    batch = degraded_astronaut().expand(len(faces), -1, -1, -1).contiguous()
    runs = {"alone": lambda: [run(face[None]) for face in batch], "photo": lambda: restorer(photo, faces=faces)}
    seconds = in_turns(runs, rounds)
    print(f"\na photo of {photo.shape[1]}x{photo.shape[0]} with {len(faces)} faces, sparnet-tiny by {run}")
    print(f"  its faces through the network, each alone {np.median(seconds['alone']):6.2f} s")
    ratio = np.median(seconds["photo"] / seconds["alone"])
    print(f"  cut, restored and pasted                  {np.median(seconds['photo']):6.2f} s   x {ratio:.2f}")


def photo_of_faces(count: int) -> tuple[np.ndarray, list[list[float]]]:
    """The astronaut's face beside itself, five in a row, and a box around each."""
    face, box = skimage.data.astronaut()[:256, 96:352], np.array([74, 60, 174, 190])
    rows = -(-count // 5)
    boxes = [(box + np.array([column, row, column, row]) * 256).tolist() for row in range(rows) for column in range(5)]
    return np.tile(face, (rows, 5, 1)), boxes[:count]


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
            time_the_camera(url)
        finally:
            server.terminate()
            server.wait(10)


def time_the_camera(url: str, seconds: int = 20):
    """The tab Live in Chromium, by a fake camera in which a face moves; the browser takes its share of the cores."""
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if path is None:
        print("  live: no Chromium here")
        return
    fake = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        face = Path(folder) / "face.mjpeg"
        film(face)
        arguments = ["--no-sandbox", "--disable-gpu", *fake, f"--use-file-for-fake-video-capture={face}"]
        page = playwright.chromium.launch(executable_path=path, args=arguments).new_page()
        page.goto(url)
        page.get_by_role("tab", name="Live").click()
        page.get_by_role("button", name="Start the camera").click()
        page.wait_for_timeout(10_000)  # for the engine
        told = []
        for _ in range(seconds):
            page.wait_for_timeout(1000)
            told.append([float(number) for number in re.findall(r"[\d.]+", page.locator("#live .hint").inner_text())])
    rate, delay = np.median(told, 0)
    print(f"  live: {rate:.1f} faces a second, {delay:.0f} ms behind the camera, end to end (medians of {seconds} s)")


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
