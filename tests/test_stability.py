"""Stability, of networks whose answer to every small change of the input is known."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import SMALL, small_network
from PIL import Image
from torch import nn

from sparnet.errors import UserError
from sparnet.images import to_image, to_tensor
from sparnet.model import Trace
from viz.instruments.stability import (
    INPUT,
    KINDS,
    OUTPUT,
    Drift,
    Stability,
    add_noise,
    inner,
    jpeg,
    on_the_face,
    perturbations,
    shift,
    study,
    study_many,
)
from viz.subject import Subject

TINY = replace(SMALL, body_depth=1)
RAMP = torch.linspace(0.1, 0.9, 32).expand(1, 1, 32, 32)  # brighter to the right


class Known:
    """A network of two units: one map is the face's own brightness, the other a ramp whatever the face."""

    def trace(self, face):
        return Trace(face, {"face": face.mean(1, keepdim=True) / 4 + 0.5, "ramp": RAMP}, None)


def network(**changes):
    return small_network(0, TINY, **changes)


def face(seed=0):
    picture = np.random.default_rng(seed).integers(40, 215, (8, 8, 3), np.uint8)
    return to_tensor(np.array(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC)))


@pytest.fixture(scope="module")
def known():
    return Stability.of(Subject(Known(), "known", face()), [0, 1])


def scores(found, row, kind):
    return found.scores[row][kind]


def test_noise_has_its_strength_and_its_seed():
    grey = torch.zeros(1, 3, 128, 128)
    levels = add_noise(grey, 1) * 127.5
    assert levels.std().item() == pytest.approx(2, rel=0.02)
    assert levels.mean().abs() < 0.05
    assert torch.equal(levels, add_noise(grey, 1) * 127.5)
    assert not torch.equal(levels, add_noise(grey, 2) * 127.5)
    assert add_noise(torch.ones(1, 3, 128, 128), 1).max() == 1


def test_a_jpeg_is_that_of_pillow_red_being_red():
    picture = to_image(face())
    picture[:16, :16] = (250, 10, 10)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=75)
    ours = to_image(jpeg(to_tensor(picture))).astype(int)
    assert np.abs(ours - np.array(Image.open(file))).mean() < 1
    assert np.abs(ours - picture).max() > 3  # it did lose something


@pytest.mark.parametrize(("x", "y"), [(2, 0), (-2, 0), (0, 2), (0, -2)])
def test_a_shift_moves_to_the_right_and_down_and_repeats_the_border(x, y):
    before, after = face()[0].numpy(), shift(face(), x, y)[0].numpy()
    for row, column in ((0, 0), (31, 31), (5, 9), (31, 0)):
        source = (np.clip(row - y, 0, 31), np.clip(column - x, 0, 31))
        assert np.array_equal(after[:, row, column], before[:, *source])


@pytest.mark.parametrize("one", perturbations([0])[2:], ids=lambda one: one.name)
def test_undoing_a_shift_or_a_flip_leaves_nothing_of_it_but_at_the_border(one):
    assert not torch.equal(one.change(face()), face())
    assert np.array_equal(inner(one.undo(one.change(face())[0].numpy())), inner(face()[0].numpy()))


def test_a_score_is_that_of_numpy():
    before, after = np.random.default_rng(0).random((2, 1, 9, 9), np.float32)
    score = Drift.of(before, after)
    assert score.correlation == pytest.approx(np.corrcoef(before.ravel(), after.ravel())[0, 1])
    assert score.rms == pytest.approx(np.linalg.norm(after - before) / 9)
    assert score.change == pytest.approx(score.rms / np.std(before))
    assert Drift.of(before, before) == Drift(pytest.approx(1), 0, 0)


def test_a_constant_map_is_still_or_has_no_score():
    constant = np.full((1, 4, 4), 0.3, np.float32)
    assert Drift.of(constant, constant) == Drift(None, 0, 0)
    assert Drift.of(constant, np.nextafter(constant, 1)).change == 0  # rounding is no change
    assert Drift.of(constant, constant + 0.1) == Drift(None, None, pytest.approx(0.1))


def test_a_map_that_moves_with_the_face_is_perfectly_stable_under_shift_and_flip(known):
    for row in (INPUT, "face", OUTPUT):
        for kind in ("shift", "flip"):
            assert all(score == Drift(pytest.approx(1), 0, 0) for score in scores(known, row, kind))
        for kind in ("noise", "jpeg"):
            assert all(score.change > 0 for score in scores(known, row, kind))


def test_a_map_that_ignores_the_face_is_stable_under_noise_and_moves_against_shift_and_flip(known):
    step = 0.8 / 31  # of the ramp, from one pixel to the next
    assert all(score.rms == 0 for kind in ("noise", "jpeg") for score in scores(known, "ramp", kind))
    assert [score.rms for score in scores(known, "ramp", "shift")] == pytest.approx([2 * step, 2 * step, 0, 0])
    assert scores(known, "ramp", "flip")[0].correlation == pytest.approx(-1)
    places = np.linspace(0.1, 0.9, 32)
    expected = (0 + 0 + 2 * (2 * step) ** 2 / 4 + (places[::-1] - places) ** 2) / len(KINDS)
    assert known.variance["ramp"].shape == (28, 28)  # without the border
    assert np.allclose(known.variance["ramp"], expected[2:-2], atol=1e-6)


def test_the_table_has_the_mean_of_every_kind(known):
    table = known.table("rms")
    assert table.shape == (4, len(KINDS))
    assert table[2, KINDS.index("shift")] == pytest.approx(0.8 / 31)  # two of the four move the ramp by two steps
    assert np.isfinite(known.table("correlation")).all()


def test_attention_that_ignores_the_face_is_perfectly_stable():
    model = network()
    for _, unit in model.units():
        nn.init.zeros_(unit.attention.weight)
        nn.init.constant_(unit.attention.bias, 0.4)
    found = Stability.of(Subject(model, "a", face()), [0])
    assert found.table("rms")[1:-1].max() < 1e-7
    assert (found.table("change")[1:-1] == 0).all()
    assert np.isnan(found.table("correlation")[1:-1]).all()
    assert (found.table("rms")[-1] > 0).all()


def test_on_the_face_a_map_keeps_its_constants_and_its_place():
    assert np.array_equal(on_the_face(np.full((4, 4), 0.25, np.float32), 32), np.full((1, 32, 32), 0.25))
    ramp = np.arange(8, dtype=np.float32)[None].repeat(8, 0)
    expected = (np.arange(32) + 0.5) / 4 - 0.5  # where a pixel of the face lies among the map's
    assert np.allclose(on_the_face(ramp, 32)[0, 0, 2:-2], expected[2:-2])


def test_a_study_names_every_row_and_can_be_made_again(tmp_path):
    subject, done = Subject(network(attention="3d"), "a", face()), []
    finding = study(subject, noises=1, seed=5, progress=lambda *args: done.append(args))
    rows = [INPUT, *(plan.name for plan in TINY.units()), OUTPUT]
    assert list(finding.numbers["rows"]) == rows
    assert finding.numbers["noise_seeds"] == [5]
    assert done[-1][:2] == (len(perturbations([5])),) * 2
    again = Stability.of(subject, [5])
    assert np.array_equal(again.table("change"), finding.arrays["change"])
    assert not np.array_equal(Stability.of(subject, [6]).table("change"), finding.arrays["change"])
    assert len(finding.save(tmp_path)) == 3


def test_over_faces_the_scores_are_means_of_the_single_faces_with_an_interval():
    subjects = [Subject(network(), "a", face(seed)) for seed in range(3)]
    finding = study_many(iter(subjects), noises=1)
    singles = np.array([Stability.of(one, [0]).table("change") for one in subjects])
    assert np.array_equal(finding.arrays["change"], singles)
    change = finding.numbers["rows"]["body.0"]["flip"]["change"]
    expected = singles[:, list(finding.numbers["rows"]).index("body.0"), KINDS.index("flip")].mean()
    assert change["mean"] == pytest.approx(expected)
    assert change["low"] < expected < change["high"]
    assert change["n"] == 3
    assert json.dumps(finding.numbers, allow_nan=False)


def test_what_cannot_be_studied_is_told():
    with pytest.raises(UserError, match="no attention"):
        study(Subject(network(attention="none", bottleneck=None), "a", face()))
    with pytest.raises(UserError, match="at least one face"):
        study_many([])
    with pytest.raises(UserError, match="two models"):
        study_many([Subject(network(), name, face()) for name in "ab"], noises=1)
