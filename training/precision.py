"""What a training step computes in on this machine: bfloat16 is not faster everywhere.

    device -> has it bfloat16 at all? -> a step of the recipe's network each way -> the faster one, and why

On a CPU that only emulates it a step takes several times as long as in float32; on one that has it, narrow networks may
still be faster in float32. Weights, their averages and the optimiser are float32 either way.
"""

import time
from collections.abc import Callable

import torch

from training.losses import PIXEL
from training.networks import build, channels_last
from training.recipes import Precision, Recipe

TIMED_FACES = 4  # the ratio of the two hardly depends on the batch
ROUNDS = 3


def is_slow(device: torch.device) -> bool:
    """Whether bfloat16 is emulated or missing on the device."""
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def choose_precision(recipe: Recipe, device: torch.device) -> tuple[Precision, str]:
    """-> the faster precision for the recipe's steps on the device, and the reason in words."""
    if is_slow(device):
        return "fp32", f"this {device.type} has no fast bfloat16"
    if device.type == "cuda":
        return "bf16", "this GPU computes in it"
    seconds = time_steps(recipe, device)
    choice = min(seconds, key=lambda name: seconds[name])
    return choice, ", ".join(f"{name} takes {value:.2f} s" for name, value in seconds.items()) + " for a small step"


def time_steps(recipe: Recipe, device: torch.device) -> dict[Precision, float]:
    """Seconds of the pixel loss and its gradient on a few faces, either way: the best of some rounds taken in turns."""
    timer = step_timer(recipe, device, TIMED_FACES)
    seconds: dict[Precision, list[float]] = {"bf16": [], "fp32": []}
    for _ in range(1 + ROUNDS):
        for name, spent in seconds.items():
            spent.append(timer(name))
    return {name: min(spent[1:]) for name, spent in seconds.items()}


def step_timer(recipe: Recipe, device: torch.device, faces: int) -> Callable[[Precision], float]:
    """-> a function that takes the recipe's loss and gradient on at most so many faces, and tells the seconds."""
    model = channels_last(build(recipe)).to(device)
    side, loss = recipe.model.size, PIXEL[recipe.loss]
    batch = torch.zeros(min(faces, recipe.batch_size), 3, side, side, device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)

    def seconds(precision: Precision) -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            restored = model(batch)
        loss(restored.float(), batch).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return seconds
