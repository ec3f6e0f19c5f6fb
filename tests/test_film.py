"""Films read back with Pillow."""

from io import BytesIO

import numpy as np
import pytest
from made_up import SMALL, small_subject
from PIL import Image

from sparnet.attention import colorize
from viz.film import coarse_to_fine, gif


def read_back(film):
    """Frames (H,W,3) uint8 of a GIF, and how long each is shown in ms."""
    frames, times = [], []
    with Image.open(BytesIO(film)) as picture:
        assert picture.format == "GIF"
        assert picture.info["loop"] == 0
        for i in range(picture.n_frames):
            picture.seek(i)
            frames.append(np.array(picture.convert("RGB")))
            times.append(picture.info["duration"])
    return frames, times


def test_a_film_has_its_frames_in_their_order():
    frames = [np.full((20, 30, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255), (9, 200, 40), (0, 0, 0))]
    shown, times = read_back(gif(frames, seconds=0.5))
    assert np.array_equal(shown, frames)
    assert times == [500, 500, 500, 1500]
    with pytest.raises(ValueError, match="one size"):
        gif([frames[0], frames[1][:10]])


def test_the_film_of_a_face_has_a_frame_for_each_unit():
    one = small_subject()
    forward = coarse_to_fine(one)
    shown, _ = read_back(gif(forward))
    assert len(shown) == len(SMALL.units())
    for frame, alpha in zip(forward, one.model.trace(one.degraded).alphas.values(), strict=True):
        alpha = alpha[0, 0].detach().numpy()
        cell = len(alpha) // 2  # of the map alone, which fills the right half
        x, y = np.array((311.1, 43.6)) + 286.7 * (cell + 0.5) / len(alpha)
        assert np.allclose(frame[int(y), int(x)], colorize(alpha)[cell, cell], atol=2)
