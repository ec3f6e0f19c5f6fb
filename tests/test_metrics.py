"""Scores against formulae written out in NumPy and SciPy."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.data import astronaut

from sparnet.metrics import Estimate, estimates, luma, mean_interval, psnr, psnr_rgb, ssim, ssim_rgb


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    sharp = astronaut()[:96, 180:276]
    noise = np.random.default_rng(0).normal(0, 12, sharp.shape)
    return np.clip(sharp + noise, 0, 255).round().astype(np.uint8), sharp


def studio_luma(image: np.ndarray) -> np.ndarray:
    return 16 + image.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255


def gaussian_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, 11x11 window, averaged where the window lies in the picture."""

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, radius=5)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ma, mb = mean(a), mean(b)
    va, vb, covariance = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    values = (2 * ma * mb + c1) * (2 * covariance + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return float(values[5:-5, 5:-5].mean())


@pytest.mark.parametrize(("rgb", "y"), [((0, 0, 0), 16), ((255, 255, 255), 235), ((255, 0, 0), 81.481)])
def test_luma_has_the_studio_swing_of_bt601(rgb, y):
    assert luma(np.full((2, 3, 3), rgb, np.uint8)) == pytest.approx(np.full((2, 3), y))


def test_psnr_is_the_formula_on_luma(pair):
    restored, sharp = pair
    error = np.mean((studio_luma(restored) - studio_luma(sharp)) ** 2)
    assert psnr(restored, sharp) == pytest.approx(10 * np.log10(255**2 / error), abs=1e-6)


def test_ssim_is_the_formula_on_luma(pair):
    restored, sharp = pair
    assert ssim(restored, sharp) == pytest.approx(gaussian_ssim(studio_luma(restored), studio_luma(sharp)), abs=1e-6)


def test_psnr_of_colours_averages_the_error_over_all_three(pair):
    restored, sharp = (picture.astype(float) for picture in pair)
    error = np.mean((restored - sharp) ** 2)
    assert psnr_rgb(*pair) == pytest.approx(10 * np.log10(255**2 / error), abs=1e-6)


def test_ssim_of_colours_is_the_mean_of_the_formula_on_each(pair):
    restored, sharp = (picture.astype(float) for picture in pair)
    each = [gaussian_ssim(restored[..., channel], sharp[..., channel]) for channel in range(3)]
    assert ssim_rgb(*pair) == pytest.approx(np.mean(each), abs=1e-6)


def test_colour_alone_costs_the_colour_scores_only():
    sharp = np.full((32, 32, 3), 128, np.uint8)
    red_for_green = np.full((32, 32, 3), (128 + 51, 128 - 26, 128), np.uint8)  # 51 x 65.481 is nearly 26 x 128.553
    assert psnr(red_for_green, sharp) > 60
    assert psnr_rgb(red_for_green, sharp) < 20


def test_truncation_cuts_luma_to_whole_numbers_before_scoring(pair):
    restored, sharp = pair
    a, b = np.floor(studio_luma(restored)), np.floor(studio_luma(sharp))
    assert psnr(restored, sharp, truncate=True) == pytest.approx(
        10 * np.log10(255**2 / np.mean((a - b) ** 2)), abs=1e-6
    )
    assert ssim(restored, sharp, truncate=True) == pytest.approx(gaussian_ssim(a, b), abs=1e-6)
    assert psnr(restored, sharp, truncate=True) != psnr(restored, sharp)


def test_a_face_against_itself_has_no_error(pair):
    assert psnr(pair[1], pair[1]) == psnr_rgb(pair[1], pair[1]) == np.inf
    assert ssim(pair[1], pair[1]) == pytest.approx(1)
    assert ssim_rgb(pair[1], pair[1]) == pytest.approx(1)


def test_an_estimate_is_the_mean_its_interval_and_how_many_faces_have_a_value():
    values = np.array([[1.0, np.nan, 5.0], [2.0, np.nan, np.nan], [6.0, np.nan, np.nan]])
    first, second, third = estimates(values, seed=0)
    _, low, high = mean_interval(values, seed=0)
    assert first == Estimate(3.0, float(low[0]), float(high[0]), 3)
    assert second == Estimate(None, None, None, 0)
    assert third == Estimate(5.0, None, None, 1)  # one face has no interval
