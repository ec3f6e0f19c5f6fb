"""Named recipes: what is trained, on which views of a face, for how long.

    recipe name -> Recipe(model, views, losses, optimisers, schedule) -> training.train

A recipe says everything that decides the weights but the data and the seed; the run keeps it beside its checkpoint.
"""

from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Literal

from sparnet.errors import UserError
from sparnet.model import SPARNetConfig
from training.baselines import RCANConfig, WaveletSRNetConfig
from training.perceptual import PerceptualKind

NetworkConfig = SPARNetConfig | RCANConfig | WaveletSRNetConfig
Loss = Literal["l1", "l2", "charbonnier", "wavelet", "l1+amplitude"]
Precision = Literal["auto", "bf16", "fp32"]
"""What a step computes in; auto: the faster of the two on this machine, see `training.precision`."""
Schedule = Literal["constant", "wsd"]
"""Warm-up and then constant; or "warm-up, stable, decay": the last quarter of the training is its anneal."""


RELEASED = SPARNetConfig()
TINY = SPARNetConfig(base_channels=16, min_channels=16, hourglass_channels=16, body_depth=6)
RELEASED_HD = SPARNetConfig(size=512, smallest=32, max_channels=512, norm="instance", degraded_size=None)
LIGHT_HD = replace(RELEASED_HD, max_channels=128)
REHEARSED = {  # what makes a network small and leaves its design as it is
    SPARNetConfig: {"min_channels": 8, "max_channels": 16, "base_channels": None, "hourglass_channels": 8},
    RCANConfig: {"groups": 2, "blocks": 2, "channels": 16},
    WaveletSRNetConfig: {"channels": 4, "stages": 2, "blocks": 1, "band_channels": 2},
}


NARROW = {  # what one CPU core trains in minutes, at 64x64; all of one order of cost, none of them tuned
    SPARNetConfig: {
        "min_channels": 4,
        "max_channels": 32,
        "base_channels": 4,
        "hourglass_channels": 4,
        "body_depth": 6,
    },
    RCANConfig: {"groups": 5, "blocks": 4, "channels": 24, "reduction": 4},
    WaveletSRNetConfig: {"channels": 16, "stages": 3, "blocks": 2, "band_channels": 4},
}


@dataclass(frozen=True)
class Gan:
    """What SPARNetHD's training adds to the pixel loss: the other losses and their weights, and the discriminator's."""

    pixel: float = 100.0
    perceptual: float = 1.0
    feature_matching: float = 10.0
    adversarial: float = 1.0
    perceptual_kind: PerceptualKind = "vgg19"
    pixel_steps: int = 0  # so many steps at the start see the pixel loss alone
    scales: int = 3  # discriminators, each on half the side of the one before
    channels: int = 64
    max_channels: int = 512
    lr: float = 4e-4  # of the discriminator
    generator_spectral_norm: bool = True


@dataclass(frozen=True)
class Anneal:
    """The last steps of a training, over which the rate falls linearly to 0, and what is trained otherwise in them."""

    start: int  # finished steps when it begins
    end: int  # and when it is over, and the training with it
    loss: Loss | None = None  # None: as before
    zoom: tuple[float, float] | None = None

    def share_at(self, step: int) -> float:
        """Share of the rate after `step` finished steps: 1 at the start and before, 0 at the end."""
        return min(1.0, (self.end - step) / (self.end - self.start))


def last_quarter(steps: int) -> Anneal:
    """The anneal over the last quarter of so many steps."""
    return Anneal(steps - ceil(steps / 4), steps)


@dataclass(frozen=True)
class Recipe:
    """One training; sides and shifts are shares of the face's square, lengths are optimiser steps."""

    name: str
    published: str  # score of the published weights of this model, with its protocol
    ours: str = "not trained yet"  # score of weights that this project trained by it, with its protocol
    model: NetworkConfig = RELEASED  # without a degraded_size it is trained on blindly degraded faces
    grey: float = 0.0  # share of the faces that are made grey
    zoom: tuple[float, float] = (1.0, 1.3)  # drawn log-uniformly; below 1 the face is smaller than the crop
    shift: float = 1 / 16
    flip: bool = True
    loss: Loss = "l1"  # between the pixels of restored and sharp
    gan: Gan | None = None  # None: the pixel loss alone
    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    batch_size: int = 32  # over all processes and micro-batches
    accumulate: int = 1  # micro-batches whose gradients make a step, where the memory does not hold the batch
    epochs: int = 20
    steps: int | None = None  # None: as many as the epochs need on the given data
    schedule: Schedule = "constant"
    warmup: int = 200  # steps over which the rate rises to `lr`
    clip: float | None = 1.0  # largest L2 norm of the gradient
    ema: float = 0.999  # decay of the averaged weights that are validated and exported; 0: no averaging
    precision: Precision = "auto"
    validate_every: int = 1000

    def __post_init__(self):
        for name in ("lr", "batch_size", "epochs", "validate_every", "accumulate", "clip"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be greater than 0.")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps is {self.steps}; it must be at least 1.")
        if self.batch_size % self.accumulate:
            raise UserError(
                f"A batch of {self.batch_size} cannot be split into {self.accumulate} micro-batches; "
                "choose a --batch-size or --accumulate that fit."
            )

    def at(self, size: int) -> "Recipe":
        """The same training on faces of another side; all other sides follow, so that task and weights' shapes stay."""
        sides = {
            name: value * size // self.model.size
            for name in ("size", "smallest", "degraded_size")
            if (value := getattr(self.model, name, None))
        }
        try:
            return replace(self, model=replace(self.model, **sides))
        except ValueError as error:
            raise UserError(f"--size {size} does not suit {self.name}: {error}.") from error

    def rehearsal(self) -> "Recipe":
        """The same losses on a network, faces and a batch so small that 20 steps take seconds; the last 4 the full one.

        VGG19 stays whole, and takes a second or more a step.
        """
        small = self.at(64)
        gan = replace(self.gan, pixel_steps=16, scales=1, channels=8) if self.gan else None
        model = replace(small.model, **REHEARSED[type(small.model)])
        return replace(
            small, model=model, gan=gan, batch_size=2, steps=20, warmup=5, validate_every=10, precision="fp32"
        )

    def narrow(self) -> "Recipe":
        """The same task at 64x64 by the same design, as narrow as `NARROW` says, at a rate that a short run needs."""
        small = self.at(64)
        model = replace(small.model, **NARROW[type(small.model)])
        return replace(small, model=model, lr=1e-3, batch_size=16, warmup=50)

    def length(self, pictures: int) -> int:
        """Optimiser steps of the whole training on that many pictures."""
        return self.steps or ceil(self.epochs * pictures / self.batch_size)

    def rate_at(self, step: int, anneal: Anneal | None = None) -> float:
        """Share of the learning rates after `step` finished steps: linear warm-up, constant, linear to 0 by `anneal`.

        By schedule wsd the pixel phase before a full loss is a training of its own: its last quarter anneals it, and
        the full loss warms up anew.
        """
        pixel_steps = self.gan.pixel_steps if self.gan and self.schedule == "wsd" else 0
        since = step if step < pixel_steps else step - pixel_steps
        share = min(1.0, (since + 1) / self.warmup) if self.warmup else 1.0
        if step < pixel_steps:
            share *= last_quarter(pixel_steps).share_at(step)
        return share * anneal.share_at(step) if anneal else share

    def annealed(self, anneal: Anneal | None) -> "Recipe":
        """The recipe as it is during its anneal."""
        if anneal is None:
            return self
        return replace(self, loss=anneal.loss or self.loss, zoom=anneal.zoom or self.zoom)

    def ema_at(self, step: int) -> float:
        """Decay after `step` finished steps; small at first, so that random weights are soon forgotten."""
        return min(self.ema, (1 + step) / (10 + step))

    def record(self) -> dict:
        """Everything that decides the weights, as plain values, for files and comparison."""
        return {name: value for name, value in asdict(self).items() if name not in ("published", "ours")}


NO_FIGURE = "no figure known to us"
FEW_TO_MANY = "26.30 to 26.60 dB on Helen from few to many, the paper; which units it means is not known to us"
BEYOND = "none: beyond the paper"
RCAN_SCORE = "26.40 dB / 0.765 on Helen, the paper's table"
WAVELET_SCORE = "26.42 dB / 0.771 on Helen, the paper's table"
HD = {
    "gan": Gan(),
    "grey": 0.3,
    "zoom": (1.0, 1.0),
    "shift": 0.0,
    "lr": 1e-4,
    "betas": (0.5, 0.99),
    "batch_size": 2,
    "epochs": 10,
    "clip": None,
}

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
            ours="27.29 dB / 0.784 on 150 CelebA test faces, bicubic 24.08 / 0.659: checkpoints/sparnet-tiny",
            model=TINY,
            zoom=(0.83, 1.3),  # faces aligned to the FFHQ template are smaller in the crop than CelebA's
            lr=1e-3,
            batch_size=16,
            schedule="wsd",
            ema=0.998,
            validate_every=500,
        ),
        # As released: 10 epochs of FFHQ at constant rates, the moving average published.
        Recipe("sparnet-hd", published="FID 26.72 on CelebA-TestN, released weights", model=RELEASED_HD, **HD),
        Recipe(
            "sparnet-hd-3d",
            published="FID 28.42 on CelebA-TestN, released weights",
            model=replace(RELEASED_HD, attention="3d"),
            **HD,
        ),
        Recipe("sparnet-hd-light", published="none: our own design", model=LIGHT_HD, **HD),
        Recipe(
            "sparnet-hd-light-256",  # what two CPU cores can train
            published="none: our own design",
            ours="LPIPS 0.217 on 30 blindly degraded faces, bicubic 0.354: checkpoints/sparnet-hd-light-256",
            model=replace(LIGHT_HD, size=256),
            **HD
            | {
                "gan": Gan(
                    perceptual_kind="vgg19_normalised",
                    pixel_steps=2000,
                    channels=32,
                    max_channels=256,
                    generator_spectral_norm=False,
                ),
                "zoom": (1.0, 1.2),
                "shift": 1 / 32,
                "lr": 5e-4,
                "batch_size": 4,
                "schedule": "wsd",
                "ema": 0.995,
                "warmup": 50,
            },
        ),
        # Other scales; sparnet is 8x.
        Recipe("sparnet-4x", published=NO_FIGURE, model=replace(RELEASED, degraded_size=32)),
        Recipe("sparnet-16x", published=NO_FIGURE, model=replace(RELEASED, degraded_size=8)),
        # Ablations: what takes the place of the hourglass attention, how far it sees, and how many units have it.
        *(
            Recipe(f"sparnet-{name}", published=published, model=replace(RELEASED, **change))
            for name, change, published in (
                ("no-attention", {"attention": "none"}, NO_FIGURE),
                ("channel-attention", {"attention": "channel"}, NO_FIGURE),
                ("single-scale", {"bottleneck": None}, NO_FIGURE),
                ("bottleneck-8", {"bottleneck": 8}, NO_FIGURE),
                ("bottleneck-16", {"bottleneck": 16}, NO_FIGURE),
                ("3d", {"attention": "3d"}, NO_FIGURE),
                ("attention-1", {"attention_units": 1}, FEW_TO_MANY),
                ("attention-4", {"attention_units": 4}, FEW_TO_MANY),
                ("attention-8", {"attention_units": 8}, FEW_TO_MANY),
                ("attention-12", {"attention_units": 12}, FEW_TO_MANY),
                ("spatial-channel", {"attention": "2d+channel"}, BEYOND),
            )
        ),
        *(
            Recipe(f"{name}-amplitude", published=BEYOND, model=replace(RELEASED, attention=kind), loss="l1+amplitude")
            for name, kind in (("sparnet", "2d"), ("sparnet-spatial-channel", "2d+channel"))
        ),
        # Baselines: rates and batches of their authors; the small ones are what a CPU can train.
        *(
            Recipe(name, published=published, model=model, lr=1e-4, betas=(0.9, 0.999), batch_size=16)
            for name, model, published in (
                ("rcan", RCANConfig(groups=5, blocks=6), f"{RCAN_SCORE}, of rcan-published"),
                ("rcan-published", RCANConfig(), RCAN_SCORE),
            )
        ),
        *(
            Recipe(name, published=published, model=model, loss="wavelet", betas=(0.9, 0.999), batch_size=64)
            for name, model, published in (
                (
                    "wavelet-srnet",
                    WaveletSRNetConfig(channels=32, stages=4, band_channels=8),
                    f"{WAVELET_SCORE}, of wavelet-srnet-published",
                ),
                ("wavelet-srnet-published", WaveletSRNetConfig(), WAVELET_SCORE),
            )
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; `UserError` lists the names there are."""
    if name not in RECIPES:
        raise UserError(f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
