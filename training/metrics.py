"""Scores of a restored face against the sharp one.

    restored, sharp (H,W,3) uint8 RGB -> luma Y, 16..235 -> PSNR in dB, SSIM

The paper's protocol, with scikit-image underneath.
"""

import numpy as np
from numpy import ndarray
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def luma(image: ndarray, truncate: bool = False) -> ndarray:
    """Y of ITU-R BT.601 in studio swing, (H,W) float64 in 16..235: 16 + 65.481 R + 128.553 G + 24.966 B, RGB in 0..1.

    `truncate` cuts Y to whole numbers, as the released evaluation script does: only to compare with its figures.
    """
    y = rgb2ycbcr(image)[..., 0]
    return y.astype("uint8").astype(float) if truncate else y


def psnr(restored: ndarray, sharp: ndarray, truncate: bool = False) -> float:
    """Peak signal-to-noise ratio on Y in dB, 10 log10(255^2 / MSE); infinite for equal pictures."""
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(luma(sharp, truncate), luma(restored, truncate), data_range=255))


def ssim(restored: ndarray, sharp: ndarray, truncate: bool = False) -> float:
    """Structural similarity on Y, in -1..1: Wang et al. 2004, Gaussian window of sigma 1.5, population covariance."""
    return float(
        structural_similarity(
            luma(sharp, truncate),
            luma(restored, truncate),
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )
