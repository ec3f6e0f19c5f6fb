"""A small network, a face before it, pictures of nobody, checkpoints of no run: for tests that need only the kind."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage.data
import torch

from sparnet import SPARNet, SPARNetConfig, images
from viz.subject import Subject

SMALL = SPARNetConfig(  # of every part one at least, and so small that a test can wait for it
    size=32, smallest=8, min_channels=8, max_channels=16, hourglass_channels=8, body_depth=2, bottleneck=16
)
PORTRAIT = np.ascontiguousarray(skimage.data.astronaut()[:256, 96:352])  # her face and little else: found sooner


def random_faces(batch: int = 1, size: int = 32, seed: int = 0) -> torch.Tensor:
    """(batch,3,size,size) float32 in [-1,1], always the same."""
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def small_network(seed: int = 0, config: SPARNetConfig = SMALL, **changes: object) -> SPARNet:
    """As the config but for the changes, its weights always the same."""
    torch.manual_seed(seed)
    return SPARNet(replace(config, **changes)).eval()


def small_subject(seed: int = 0, model: SPARNet | None = None, name: str = "tiny", **changes: object) -> Subject:
    """The random face of this seed before the model, or else before the `small_network` with these changes."""
    model = model or small_network(**changes)
    return Subject(model, name, random_faces(size=model.config.size, seed=seed))


def pictures(folder: Path, count: int, side: int) -> Path:
    """The new folder with 00.png, 01.png ... of side x side: random colours on a coarse grid, always the same."""
    folder.mkdir()
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 256, (12, 12, 3), np.uint8)
        images.save_png(images.resize(coarse, side), folder / f"{i:02}.png")
    return folder


def checkpoint(step: int, **changes: object) -> dict:
    """What a checkpoint of the trainer holds, as small as can be."""
    whole = {"model": {}, "averaged": {}, "optimizer": {}, "record": {"recipe": {}}, "step": step, "best": 1.0}
    return whole | {"scores": "none", "history": {}, "unreadable": []} | changes
