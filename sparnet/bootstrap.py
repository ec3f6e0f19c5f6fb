"""How sure is a mean over faces? Its interval, from the faces drawn again and again.

    values (N faces, ...) -> N faces drawn with replacement, RESAMPLES times -> means -> their middle 95 % -> low, high

Efron and Tibshirani 1993, chapter 13.
"""

import numpy as np
from numpy import ndarray

RESAMPLES = 2000
CONFIDENCE = 0.95


def mean_interval(values: ndarray, seed: int) -> tuple[ndarray, ndarray, ndarray]:
    """(N faces, ...) -> mean, low, high (...): the percentile bootstrap interval over the faces; NaN is no value.

    The faces drawn are the same for all columns. One value alone, or an infinite one, has no interval: NaN. The memory
    is a few times that of the values, whatever the number of resamples.
    """
    columns = np.asarray(values, float).reshape(len(values), -1)
    missing = np.isnan(columns)
    gaps, counts = missing.any(axis=0), len(columns) - missing.sum(axis=0)
    filled = np.where(missing, 0, columns)
    there = (~missing[:, gaps]).astype(float)
    generator = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, columns.shape[1]))
    share = np.full(columns.shape[1], len(columns), float)  # of the faces drawn, those that have a value
    with np.errstate(invalid="ignore", divide="ignore"):  # no value, none drawn, or an infinite one
        mean = filled.sum(axis=0) / counts
        for i in range(RESAMPLES):
            times = np.bincount(generator.integers(len(columns), size=len(columns)), minlength=len(columns))
            times = times.astype(float)
            share[gaps] = times @ there
            drawn[i] = times @ filled / share
    low, high = np.full((2, len(mean)), np.nan)
    known = (counts > 1) & np.isfinite(mean)
    if known.any():
        edges = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))
        low[known], high[known] = np.nanpercentile(drawn[:, known], edges, axis=0)
    shape = np.shape(values)[1:]
    return mean.reshape(shape), low.reshape(shape), high.reshape(shape)
