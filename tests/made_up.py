"""Pictures that are nobody's face, and checkpoints of no run, for tests that need only the kind."""

from pathlib import Path

import numpy as np

from sparnet import images


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
