"""Pictures that are nobody's face, for tests that only need pictures."""

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
