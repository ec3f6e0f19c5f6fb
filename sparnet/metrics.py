"""How good is a restored face, and how sure is a mean over faces?

    restored, sharp (H,W,3) uint8 RGB -> luma Y, 16..235 -> psnr in dB, ssim, region_psnr
                                      '-> red, green, blue -> psnr_rgb in dB, ssim_rgb
    values (N faces, ...) -> N faces drawn with replacement, RESAMPLES times -> means -> their middle 95 % -> low, high

The paper's protocol is on Y; scikit-image computes, and the tests compare with the formulae written out in NumPy and
SciPy. The bootstrap is that of Efron and Tibshirani 1993, chapter 13.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import skimage
from numpy import ndarray

RESAMPLES = 2000
CONFIDENCE = 0.95


def luma(image: ndarray, truncate: bool = False) -> ndarray:
    """Y of ITU-R BT.601 in studio swing, (H,W) float64 in 16..235: 16 + 65.481 R + 128.553 G + 24.966 B, RGB in 0..1.

    `truncate` cuts Y to whole numbers, as the released evaluation script does: only to compare with its figures.
    """
    y = skimage.color.rgb2ycbcr(image)[..., 0]
    return y.astype("uint8").astype(float) if truncate else y


def psnr(restored: ndarray, sharp: ndarray, truncate: bool = False) -> float:
    """Peak signal-to-noise ratio on Y in dB, 10 log10(255^2 / MSE); infinite for equal pictures.

    Huynh-Thu and Ghanbari 2008. The peak is 255 although Y ends at 235: so the paper and the field have it.
    """
    with np.errstate(divide="ignore"):
        pair = luma(sharp, truncate), luma(restored, truncate)
        return float(skimage.metrics.peak_signal_noise_ratio(*pair, data_range=255))


def ssim(restored: ndarray, sharp: ndarray, truncate: bool = False) -> float:
    """Structural similarity on Y, in -1..1: Wang et al. 2004, equation 13; Gaussian window of sigma 1.5, 11x11.

    Population covariance; the mean is taken where the window lies in the picture.
    """
    return _structural(luma(sharp, truncate), luma(restored, truncate))


def psnr_rgb(restored: ndarray, sharp: ndarray) -> float:
    """`psnr`'s formula in dB with the squared error averaged over pixels and colours; infinite for equal pictures."""
    with np.errstate(divide="ignore"):
        return float(skimage.metrics.peak_signal_noise_ratio(sharp, restored, data_range=255))


def ssim_rgb(restored: ndarray, sharp: ndarray) -> float:
    """`ssim`'s formula on red, green and blue alone, averaged over the three; in -1..1."""
    return _structural(sharp, restored, channel_axis=2)


def region_psnr(restored: ndarray, sharp: ndarray, masks: Mapping[str, ndarray]) -> dict[str, float]:
    """PSNR on Y in dB of each region's pixels: infinite where nothing differs, NaN where the region has no pixel.

    Masks are (S,S) bool, as from `regions.region_masks`. 10 log10(255^2 / MSE), as `psnr`.
    """
    error = np.square(luma(restored) - luma(sharp))
    with np.errstate(divide="ignore"):
        return {
            name: float(10 * np.log10(255**2 / error[mask].mean())) if mask.any() else np.nan
            for name, mask in masks.items()
        }


def mean_interval(values: ndarray, seed: int) -> tuple[ndarray, ndarray, ndarray]:
    """(N faces, ...) -> mean, low, high (...): the percentile bootstrap interval over the faces; NaN is no value.

    The faces drawn are the same for all columns. One value alone, or an infinite one, has no interval: NaN. The memory
    is a few times that of the values, whatever the number of resamples.
    """
    columns = np.asarray(values, float).reshape(len(values), -1)
    missing = np.isnan(columns)
    gaps, counts = missing.any(axis=0), len(columns) - missing.sum(axis=0)
    filled = np.where(missing, 0, columns)
    known = (~missing[:, gaps]).astype(float)
    generator = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, columns.shape[1]))
    share = np.full(columns.shape[1], len(columns), float)  # of the faces drawn, those that have a value
    with np.errstate(invalid="ignore", divide="ignore"):  # no value, none drawn, or an infinite one
        mean = filled.sum(axis=0) / counts
        for i in range(RESAMPLES):
            times = np.bincount(generator.integers(len(columns), size=len(columns)), minlength=len(columns))
            times = times.astype(float)
            share[gaps] = times @ known
            drawn[i] = times @ filled / share
    low, high = np.full((2, len(mean)), np.nan)
    sure = (counts > 1) & np.isfinite(mean)
    if sure.any():
        edges = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))
        low[sure], high[sure] = np.nanpercentile(drawn[:, sure], edges, axis=0)
    shape = np.shape(values)[1:]
    return mean.reshape(shape), low.reshape(shape), high.reshape(shape)


@dataclass(frozen=True)
class Estimate:
    """A mean over faces with its interval; None: there is none."""

    mean: float | None
    low: float | None
    high: float | None
    n: int  # faces that have a value

    def side(self, at: float = 0) -> int:
        """1 or -1: the interval lies above or below `at`; 0: it holds it, or there is none."""
        return 0 if self.low is None or self.high is None else int(self.low > at) - int(self.high < at)


def estimates(values: ndarray, seed: int) -> ndarray:
    """(N faces, ...) -> (...) of Estimate, by `mean_interval`."""
    values = np.asarray(values, float)
    ends, counts = np.stack(mean_interval(values, seed)), (~np.isnan(values)).sum(axis=0)
    found = np.empty(counts.shape, object)
    for place in np.ndindex(counts.shape):
        mean, low, high = (None if np.isnan(end) else float(end) for end in ends[:, *place])
        found[place] = Estimate(mean, low, high, int(counts[place]))
    return found


def ends(found: Any) -> ndarray:
    """(...) of Estimate, numbers or None -> (3,...): mean, low and high of each, NaN where there is none."""
    values = np.asarray(found, object)
    rows = [(v.mean, v.low, v.high) if isinstance(v, Estimate) else (v, None, None) for v in values.flat]
    return np.array(rows, float).reshape(*values.shape, 3).transpose(-1, *range(values.ndim))


def labelled(values: Any, *labels: Sequence[str]) -> Any:
    """Values (a, b, ...) -> {label of a: {label of b: value}}, for JSON.

    An Estimate becomes its fields, what is not finite None.
    """
    if labels:
        return {label: labelled(part, *labels[1:]) for label, part in zip(labels[0], values, strict=True)}
    if isinstance(values, Estimate):
        return {name: labelled(value) for name, value in asdict(values).items()}
    if values is None or not np.isfinite(values):
        return None
    return values.item() if isinstance(values, np.generic) else values


def _structural(sharp: ndarray, restored: ndarray, channel_axis: int | None = None) -> float:
    value = skimage.metrics.structural_similarity(
        sharp,
        restored,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=channel_axis,
    )
    return float(value)  # pyright: ignore[reportArgumentType]  it is a tuple only where maps or gradients are asked for
