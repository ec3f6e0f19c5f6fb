"""Where in the face is it better? The score of each region.

restored, sharp (S,S,3) uint8 RGB -> squared error on Y -> mean over each region's pixels -> PSNR per region
"""

from collections.abc import Mapping

import numpy as np
from numpy import ndarray

from training.metrics import luma


def region_psnr(restored: ndarray, sharp: ndarray, masks: Mapping[str, ndarray]) -> dict[str, float]:
    """PSNR on Y in dB of each region's pixels: infinite where nothing differs, NaN where the region has no pixel.

    Masks are (S,S) bool, as from `sparnet.regions.region_masks`. 10 log10(255^2 / MSE), as `metrics.psnr`.
    """
    error = np.square(luma(restored) - luma(sharp))
    with np.errstate(divide="ignore"):
        return {
            name: float(10 * np.log10(255**2 / error[mask].mean())) if mask.any() else np.nan
            for name, mask in masks.items()
        }
