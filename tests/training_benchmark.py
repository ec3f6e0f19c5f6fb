"""How fast `sparnet` trains, beside a plain loop of the same network, and whether its pictures come fast enough.

    the trainer's step: channels last, fused Adam, clipping, averaging; fp32 and bf16 --+
    a plain one: float32, NCHW, Adam, nothing else -------------------------------------+-- in turns -> images/s, ratio
    the trainer's, compiled (--compile) ------------------------------------------------+
    pictures -> the trainer's loader -> images/s, over those of the training

`make bench-training`; with ARGS="--data DIR" for pictures of your own and ARGS="--compile" for torch.compile too.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState
from benchmark import print_machine
from PIL import Image
from torch.nn import functional as F

from sparnet import SPARNet, SPARNetConfig
from training.networks import size_of
from training.recipes import find_recipe
from training.run import Job, Run, prepare
from training.train import fetch, take_step

LOADED = 25  # batches


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of pictures or tar shards; without it, made-up pictures")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile too; its first step takes minutes")
    options = parser.parse_args()
    print_machine()
    recipe = replace(find_recipe("sparnet"), batch_size=options.batch_size, steps=10**6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = Job([options.data or made_up_pictures(folder / "faces")], folder / "run")
        run = prepare(recipe, job)  # which says what it computes in, and why
        chosen = run.recipe.precision
        other = "fp32" if chosen == "bf16" else "bf16"
        AcceleratorState._reset_state()
        beside = prepare(replace(recipe, precision=other), replace(job, out=folder / "other"))
        ways = {
            "plain float32 NCHW": plain(run),
            "the trainer": trainer(run),
            f"the trainer in {other}": trainer(beside),
        }
        if options.compile:
            AcceleratorState._reset_state()
            job = replace(run.job, out=folder / "compiled", compile=True)
            ways["the trainer, compiled"] = trainer(prepare(recipe, job))
        speed = time_steps(ways, options.rounds, recipe.batch_size)
        loading = time_loading(run)
    workers = run.job.workers
    print(f"\npictures by {workers} worker: {loading:.1f} images/s, {loading / speed:.1f} times the trainer's")
    if run.accelerator.device.type == "cuda":
        print_share_of_peak(recipe.model, speed)


def made_up_pictures(folder: Path) -> Path:
    """64 JPEG files as large as CelebA's."""
    folder.mkdir()
    for i in range(64):
        coarse = np.random.default_rng(i).integers(0, 256, (27, 22, 3), np.uint8)
        Image.fromarray(coarse).resize((178, 218), Image.Resampling.BICUBIC).save(folder / f"{i:02}.jpg", quality=90)
    return folder


def trainer(run: Run) -> Callable[[], object]:
    """The trainer's step, always on the same batch."""
    [batches] = islice(fetch(run), 1)
    return lambda: take_step(run, batches, {})


def plain(run: Run) -> Callable[[], object]:
    """A step as one would first write it: the same network, loss and batch size; `item` waits for a GPU."""
    device, config = run.accelerator.device, run.recipe.model
    model = SPARNet(config).to(device).train()
    adam = torch.optim.Adam(model.parameters(), run.recipe.lr, run.recipe.betas)
    degraded, sharp = torch.rand(2, run.recipe.batch_size, 3, config.size, config.size, device=device) * 2 - 1

    def step() -> float:
        adam.zero_grad()
        loss = F.l1_loss(model(degraded), sharp)
        loss.backward()
        adam.step()
        return loss.item()

    return step


def time_steps(ways: dict[str, Callable[[], object]], rounds: int, batch_size: int) -> float:
    """Print the speed of each way and its ratio to the first; -> the trainer's images/s."""
    seconds = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, step in ways.items():  # in turns, so that a drifting machine touches all alike
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    reference, *_ = seconds.values()
    print(f"\nsparnet, steps of {batch_size} faces, median of {rounds} rounds taken in turns after a first step")
    for name, (first, *others) in seconds.items():
        ratio = statistics.median(np.divide(reference[1:], others))
        print(
            f"  {name:22} {batch_size / statistics.median(others):8.2f} images/s   x {ratio:.2f}"
            f"   first step {first:.1f} s"
        )
    return batch_size / statistics.median(seconds["the trainer"][1:])


def time_loading(run: Run) -> float:
    """Images/s of the trainer's own loader, with nothing else to do."""
    batches = fetch(run)
    next(batches)  # the worker starts
    start = time.perf_counter()
    for _ in islice(batches, LOADED):
        pass
    return LOADED * run.recipe.batch_size / (time.perf_counter() - start)


def print_share_of_peak(config: SPARNetConfig, speed: float) -> None:
    """What the trainer computes, three forward passes a face, against a large bfloat16 matrix product on this GPU."""
    side, repeats = 8192, 20
    a, b = torch.randn(2, side, side, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize()
    peak = 2 * side**3 * repeats / (time.perf_counter() - start)
    used = 3e9 * size_of(config)[1] * speed
    print(f"matrix products {peak / 1e12:.0f} TFLOP/s, the trainer {used / 1e12:.1f} TFLOP/s: {used / peak:.1%}")


if __name__ == "__main__":
    main()
