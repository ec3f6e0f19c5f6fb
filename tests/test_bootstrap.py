"""The interval of a mean against SciPy's bootstrap on the same draws, the normal law, and the memory it may take."""

import tracemalloc

import numpy as np
import pytest
import scipy.stats

from sparnet.metrics import CONFIDENCE, RESAMPLES, mean_interval


def scipys(values: np.ndarray, seed: int) -> tuple[float, float]:
    """SciPy draws the same faces from the same generator, so nothing but rounding may differ."""
    found = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile",
        rng=np.random.default_rng(seed), batch=1,
    )  # fmt: skip
    return tuple(found.confidence_interval)


def test_it_is_scipys_percentile_interval_to_the_last_digits():
    values = np.random.default_rng(5).normal(20, 3, (37, 2)) ** 3
    mean, low, high = mean_interval(values, seed=1)
    for j in range(2):
        assert mean[j] == pytest.approx(values[:, j].mean(), rel=1e-12)
        assert (low[j], high[j]) == pytest.approx(scipys(values[:, j], seed=1), rel=1e-12)
    assert low[0] != mean_interval(values, seed=2)[1][0]


def test_what_is_missing_is_no_value_and_leaves_the_other_columns_alone():
    values = np.random.default_rng(0).normal(5, 2, (400, 2))
    whole = mean_interval(values, seed=1)
    values[:100, 1] = np.nan
    mean, low, high = mean_interval(values, seed=1)
    assert [mean[0], low[0], high[0]] == [array[0] for array in whole]
    assert mean[1] == pytest.approx(values[100:, 1].mean())
    for j, n in enumerate((400, 300)):
        half = 1.96 * np.nanstd(values[:, j]) / np.sqrt(n)
        assert (mean[j] - low[j], high[j] - mean[j]) == pytest.approx((half, half), rel=0.1)


def test_a_constant_has_itself_and_one_value_none_or_an_infinite_one_has_no_interval():
    values = np.full((9, 4), np.nan)
    values[:, 0], values[0, 1], values[:, 3] = 2.5, 7, np.inf
    mean, low, high = mean_interval(values, seed=0)
    assert (mean[0], low[0], high[0]) == (2.5, 2.5, 2.5)
    assert mean[1] == 7
    assert np.isnan(mean[2])
    assert mean[3] == np.inf
    assert np.isnan([low[1:], high[1:]]).all()


def test_the_shape_is_that_of_one_face():
    values = np.random.default_rng(0).normal(size=(6, 2, 3))
    assert [array.shape for array in mean_interval(values, 0)] == [(2, 3)] * 3
    flat = mean_interval(values.reshape(6, 6), 0)
    for array, one in zip(mean_interval(values, 0), flat, strict=True):
        np.testing.assert_array_equal(array.ravel(), one)


def test_the_memory_is_a_few_times_the_values_and_not_faces_times_resamples():
    values = np.random.default_rng(0).normal(size=(20_000, 5))
    values[::7, 3] = np.nan
    tracemalloc.start()
    mean_interval(values, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * values.nbytes < 8 * 20_000 * RESAMPLES / 20
