"""Patches that help, harm and do nothing, planted; and whether attention is where they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import SMALL

from sparnet.attention import enlarge
from sparnet.errors import UserError
from sparnet.images import to_image, to_tensor
from sparnet.metrics import psnr_rgb
from sparnet.model import SPARNet
from viz.instruments.effect import CHANGE, ELSEWHERE, PER_CHANGE, WHOLE, correlations, effects, study, study_many
from viz.subject import Subject

HELPS, HARMS, NOTHING = (0, 0), (0, 3), (3, 0)  # cells of 4 x 4
HELPED, HARMED = (2, 2), (1, 1)  # what they are copied to


def place(cell: tuple[int, int]) -> tuple[slice, slice]:
    return tuple(slice(8 * i, 8 * i + 8) for i in cell)


def planted() -> Subject:
    """A network that answers grey, but for two cells that it copies from others: a true copy, and a false one."""
    generator = np.random.default_rng(0)
    degraded = generator.integers(0, 256, (32, 32, 3), np.uint8)
    sharp = np.full((32, 32, 3), 90, np.uint8)
    sharp[place(HELPED)] = degraded[place(HELPS)]
    degraded[place(HARMS)] = 255  # farther from the sharp face than any other cell

    def network(face):
        restored = torch.zeros_like(face)
        restored[:, :, *place(HELPED)] = face[:, :, *place(HELPS)]
        restored[:, :, *place(HARMED)] = face[:, :, *place(HARMS)]
        return restored

    return Subject(network, "planted", to_tensor(degraded), sharp)


@pytest.fixture(scope="module")
def model() -> SPARNet:
    torch.manual_seed(0)
    return SPARNet(SMALL).eval()


def subject(model: SPARNet, face: int = 0) -> Subject:
    sharp = np.random.default_rng(face).integers(0, 256, (32, 32, 3), np.uint8)
    return Subject(model, "small", to_tensor(sharp // 2 + 40), sharp)


def test_a_planted_patch_helps_another_harms_and_the_others_do_nothing():
    found = effects(planted(), cells=4, draws=5)
    for name in (WHOLE, ELSEWHERE):
        assert found[name][HELPS] > 0.1
        assert found[name][HARMS] < -0.1
        others = found[name].copy()
        others[HELPS] = others[HARMS] = 0
        assert not others.any()
    assert found[CHANGE].min() > 30


def test_an_effect_is_the_mean_of_differences_of_psnr():
    setup = planted()
    found = effects(setup, cells=4, draws=15)  # every other cell, so nothing is left to chance
    (row, column), costs = HELPS, []
    before = psnr_rgb(to_image(setup.model(setup.degraded)), setup.sharp)
    for other in np.ndindex(4, 4):
        if other != HELPS:
            face = setup.degraded.clone()
            face[:, :, *place(HELPS)] = setup.degraded[:, :, *place(other)]
            costs.append(before - psnr_rgb(to_image(setup.model(face)), setup.sharp))
    assert found[WHOLE][row, column] == pytest.approx(np.mean(costs), abs=0.01)  # a picture is rounded to levels


def test_a_patch_that_only_helps_its_own_place_does_nothing_elsewhere():
    setup = planted()
    itself = replace(setup, model=lambda face: face, sharp=to_image(setup.degraded) // 2 + 40)
    found = effects(itself, cells=4, draws=3)
    assert not np.allclose(found[WHOLE], 0)
    assert np.allclose(found[ELSEWHERE], 0, atol=1e-9)


def test_attention_is_compared_with_what_helps():
    found = effects(planted(), cells=4, draws=5)
    right = enlarge(found[WHOLE], 32)
    whole, elsewhere, per_change = correlations({"right": right, "wrong": -right, "flat": 0 * right}, found).T
    assert whole[:2] == pytest.approx([1, -1])
    assert elsewhere[:2] == pytest.approx([1, -1])
    assert per_change[0] > 0.9
    assert np.isnan(whole[2])


def test_one_face_and_many_have_their_numbers(model):
    one = study(subject(model), cells=4, draws=1, seed=1)
    assert one.numbers["cells_that_help"] + one.numbers["cells_that_harm"] <= 16
    many = study_many((subject(model, face) for face in range(3)), cells=4, seed=1)
    assert np.array_equal(many.arrays[WHOLE][0], one.arrays[WHOLE])
    assert sum(many.numbers["cells"][WHOLE].values()) == 16
    related = many.numbers["correlations"]["Sobel"][PER_CHANGE]
    assert related["mean"] == pytest.approx(many.arrays["correlations"][:, -1, 2].mean())
    assert related["low"] <= related["mean"] <= related["high"]


def test_a_face_that_was_never_sharp_and_cells_that_do_not_fit_are_refused(model):
    with pytest.raises(UserError, match="only where the sharp face is"):
        study(replace(subject(model), sharp=None))
    with pytest.raises(UserError, match="has no 5 x 5 cells"):
        study(subject(model), cells=5)
