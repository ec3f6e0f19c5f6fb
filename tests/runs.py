"""Small runs of the trainer: recipes, jobs and processes for the tests of all its parts."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from socket import socket

from accelerate.state import AcceleratorState

from sparnet.model import SPARNetConfig
from training import train as trainer
from training.recipes import Gan, Recipe
from training.run import Job, Run
from training.train import train

ROOT = Path(__file__).parents[1]
ALONE = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}  # threads that wait for each other crawl
SMALL = SPARNetConfig(
    size=32,
    smallest=16,
    min_channels=8,
    max_channels=16,
    hourglass_channels=8,
    body_depth=0,
    bottleneck=32,
    degraded_size=8,
)
RECIPE = Recipe(
    "test",
    published="none",
    model=SMALL,
    lr=2e-3,
    batch_size=4,
    steps=6,
    schedule="wsd",
    warmup=2,
    precision="fp32",
    validate_every=3,
)
GAN = Recipe(
    "test-hd",
    published="none",
    model=replace(SMALL, size=48, smallest=24, bottleneck=32, norm="instance", degraded_size=None),
    gan=Gan(perceptual=0.0, scales=1, channels=4, max_channels=8),
    grey=0.3,
    lr=1e-3,
    betas=(0.5, 0.99),
    batch_size=4,
    steps=6,
    warmup=2,
    clip=None,
    precision="fp32",
    validate_every=3,
)


def job(faces: Path, out: Path, **changes) -> Job:
    return replace(Job([faces], out, workers=0, log_every=2), **changes)


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def another() -> None:
    """Forget the run before: one process trains several only in tests."""
    AcceleratorState._reset_state(reset_partial_state=True)


def together(count: int, function: Callable, *arguments: object) -> None:
    """Run the function in so many processes that know each other, as torchrun and `accelerate launch` start them."""
    with socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}

    def run(rank: int) -> None:
        for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"}).items():
            os.environ[name] = str(value)
        function(*arguments)

    another()
    processes = [get_context("fork").Process(target=run, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count


def start(recipe: Recipe, job: Job) -> BaseProcess:
    """Train in a process of its own that waits before its last step, so that it cannot end before it is killed.

    A fork, because a new one would import PyTorch first.
    """
    take_step = trainer.take_step

    def take_or_wait(run: Run, *arguments: object) -> object:
        return time.sleep(600) if run.progress.step == recipe.steps - 1 else take_step(run, *arguments)

    def run() -> None:
        trainer.take_step = take_or_wait
        train(recipe, job)

    another()
    process = get_context("fork").Process(target=run)
    process.start()
    return process
