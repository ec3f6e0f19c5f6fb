"""Named recipes: what is trained, on which views of a face, for how long.

    recipe name -> Recipe(model, views, loss, optimiser, schedule) -> training.train

A recipe says everything that decides the weights but the data and the seed; the run keeps it beside its checkpoint.
"""

from dataclasses import asdict, dataclass
from math import ceil, cos, pi
from typing import Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from sparnet.errors import UserError
from sparnet.model import SPARNet, SPARNetConfig

Loss = Literal["l1", "l2"]
Precision = Literal["bf16", "fp32"]
Schedule = Literal["constant", "cosine"]


RELEASED = SPARNetConfig()
TINY = SPARNetConfig(base_channels=16, min_channels=16, hourglass_channels=16, body_depth=6)


@dataclass(frozen=True)
class Recipe:
    """One training; sides and shifts are shares of the face's square, lengths are optimiser steps."""

    name: str
    published: str  # score of the published weights of this model, with its protocol
    ours: str = "not trained yet"  # score of weights that this project trained by it, with its protocol
    model: SPARNetConfig = RELEASED
    zoom: tuple[float, float] = (1.0, 1.3)  # drawn log-uniformly; below 1 the face is smaller than the crop
    shift: float = 1 / 16
    flip: bool = True
    loss: Loss = "l1"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    batch_size: int = 32  # over all processes
    epochs: int = 20
    steps: int | None = None  # None: as many as the epochs need on the given data
    schedule: Schedule = "constant"
    warmup: int = 200  # steps over which the rate rises to `lr`
    clip: float = 1.0  # largest L2 norm of the gradient
    ema: float = 0.999  # decay of the averaged weights that are validated and exported; 0: no averaging
    precision: Precision = "bf16"
    validate_every: int = 1000

    def __post_init__(self):
        for name in ("lr", "batch_size", "epochs", "validate_every", "clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be greater than 0")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps is {self.steps}; it must be at least 1")
        if self.model.degraded_size is None:
            raise UserError(f"recipe {self.name} has no degraded_size; only bicubic degradation can be trained yet")

    def length(self, pictures: int) -> int:
        """Optimiser steps of the whole training on that many pictures."""
        return self.steps or ceil(self.epochs * pictures / self.batch_size)

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of the step after `step` finished ones: linear warm-up, then constant or cosine to 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "constant" or step < self.warmup:
            return self.lr * rise
        return self.lr * 0.5 * (1 + cos(pi * (step - self.warmup) / max(1, steps - self.warmup)))

    def ema_at(self, step: int) -> float:
        """Decay after `step` finished steps; small at first, so that random weights are soon forgotten."""
        return min(self.ema, (1 + step) / (10 + step))

    def record(self) -> dict:
        """Everything that decides the weights, as plain values, for files and comparison."""
        return {name: value for name, value in asdict(self).items() if name not in ("published", "ours")}


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # As released: L1, Adam 2e-4 at a constant rate, 20 epochs. Warm-up, clipping and averaging are ours.
        Recipe("sparnet", published="27.43 dB / 0.8201 on Helen, released weights"),
        Recipe(
            "sparnet-paper",  # the paper's text: PReLU and a squared loss
            published="26.59 dB / 0.772 on Helen, the paper's table",
            model=SPARNetConfig(activation="prelu"),
            loss="l2",
        ),
        Recipe(
            "sparnet-light-3d",
            published="27.39 dB / 0.8189 on Helen, released weights",
            model=SPARNetConfig(attention="3d", body_depth=1),
        ),
        Recipe(
            "sparnet-tiny",  # ours, for CPUs and live video
            published="none: our own design",
            ours="27.03 dB / 0.775 on 150 CelebA test faces, bicubic 24.08 / 0.659: checkpoints/sparnet-tiny",
            model=TINY,
            zoom=(0.83, 1.3),  # faces aligned to the FFHQ template are smaller in the crop than CelebA's
            lr=1e-3,
            batch_size=16,
            schedule="cosine",
            ema=0.998,
            validate_every=500,
        ),
    )
}


def size_of(config: SPARNetConfig) -> tuple[float, float]:
    """Million parameters, and GFLOP for one face (a multiplication and an addition are two); nothing is computed."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        model = SPARNet(config)
        model(torch.empty(1, 3, config.size, config.size))
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6, counter.get_total_flops() / 1e9


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; `UserError` lists the names there are."""
    if name not in RECIPES:
        raise UserError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
