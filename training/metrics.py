"""Scores of a restored face against the sharp one.

    restored, sharp (H,W,3) uint8 RGB -> luma Y, 16..235 -> psnr in dB, ssim
                                      '-> red, green, blue -> psnr_rgb in dB, ssim_rgb

The paper's protocol is on Y; scikit-image computes, and the tests compare with the formulae written out in NumPy and
SciPy.
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
    """Peak signal-to-noise ratio on Y in dB, 10 log10(255^2 / MSE); infinite for equal pictures.

    Huynh-Thu and Ghanbari 2008. The peak is 255 although Y ends at 235: so the paper and the field have it.
    """
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(luma(sharp, truncate), luma(restored, truncate), data_range=255))


def ssim(restored: ndarray, sharp: ndarray, truncate: bool = False) -> float:
    """Structural similarity on Y, in -1..1: Wang et al. 2004, equation 13; Gaussian window of sigma 1.5, 11x11.

    Population covariance; the mean is taken where the window lies in the picture.
    """
    return _structural(luma(sharp, truncate), luma(restored, truncate))


def psnr_rgb(restored: ndarray, sharp: ndarray) -> float:
    """`psnr`'s formula in dB with the squared error averaged over pixels and colours; infinite for equal pictures."""
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(sharp, restored, data_range=255))


def ssim_rgb(restored: ndarray, sharp: ndarray) -> float:
    """`ssim`'s formula on red, green and blue alone, averaged over the three; in -1..1."""
    return _structural(sharp, restored, channel_axis=2)


def _structural(sharp: ndarray, restored: ndarray, channel_axis: int | None = None) -> float:
    return float(
        structural_similarity(
            sharp,
            restored,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=channel_axis,
        )
    )
