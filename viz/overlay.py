"""One attention map in colour over a face.

    alpha (h,w) -> level 0..255 -> colour table (256,3) -+
    base (S,S,3) uint8 ----------------------------------+-> (1 - opacity) base + opacity colour -> (S,S,3) uint8

`static/explorer.js` does the same in the browser; a test holds it to this file.
"""

import numpy as np
from matplotlib import colormaps

COLORMAPS = ("viridis", "magma", "inferno", "cividis", "gray")  # perceptually uniform: equal steps look equal


def color_table(colormap: str) -> np.ndarray:
    """(256,3) uint8 RGB, the colours of 0..1 in 256 steps."""
    return colormaps[colormap](np.arange(256), bytes=True)[:, :3].copy()


def colorize(alpha: np.ndarray, colormap: str = "viridis", low: float = 0, high: float = 1) -> np.ndarray:
    """(h,w) -> (h,w,3) uint8; `low` and below take the first colour, `high` and above the last."""
    share = np.clip((alpha - low) / max(high - low, 1e-12), 0, 1)
    return color_table(colormap)[_round(share * 255).astype(np.uint8)]


def enlarge(image: np.ndarray, side: int) -> np.ndarray:
    """(h,w,...) -> (side,side,...), nearest: every value shown is one that the map has."""
    rows, columns = (np.arange(side) * extent // side for extent in image.shape[:2])
    return image[rows[:, None], columns]


def overlay(
    base: np.ndarray,
    alpha: np.ndarray,
    colormap: str = "viridis",
    opacity: float = 0.6,
    low: float = 0,
    high: float = 1,
) -> np.ndarray:
    """Map (h,w) over base (S,S,3) uint8 -> (S,S,3) uint8; opacity 0 leaves the base, 1 leaves the map."""
    color = enlarge(colorize(alpha, colormap, low, high), base.shape[0])
    return _round((1 - opacity) * base + opacity * color).astype(np.uint8)


def _round(x: np.ndarray) -> np.ndarray:
    return np.floor(x + 0.5)  # halves go up, as the browser's Math.round does
