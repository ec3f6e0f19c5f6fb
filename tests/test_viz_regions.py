"""Preferences for regions, on maps whose answer is known and against a second way of measuring them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparnet.bootstrap import mean_interval
from sparnet.errors import UserError
from sparnet.faces import TEMPLATE
from sparnet.model import SPARNet, SPARNetConfig
from sparnet.regions import TEMPLATE68, masks_from_five_points
from viz.finding import Subject
from viz.overlay import enlarge
from viz.regions import COLORS, area_weights, face_regions, preference, study, study_many

TINY = SPARNetConfig(
    size=32, smallest=8, min_channels=8, max_channels=16, hourglass_channels=8, body_depth=1, bottleneck=16
)
MASKS = masks_from_five_points(TEMPLATE / 4, 128)


def subject(flat: bool = False, seed: int = 0, points: np.ndarray | None = TEMPLATE / 16, **changes) -> Subject:
    """A small network of strong contrast, or its alpha 0.3 everywhere if `flat`; noise, bright at the eyes."""
    torch.manual_seed(0)
    model = SPARNet(replace(TINY, **changes)).eval()
    for _, unit in model.units():
        if flat:
            torch.nn.init.zeros_(unit.attention.weight)
            torch.nn.init.constant_(unit.attention.bias, np.log(0.3 / 0.7))
        elif unit.kind == "2d":
            unit.attention.weight.data *= 30
    face = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) - 1
    face[:, :, 12:19] += 1
    return Subject(model, "tiny", face, points=points)


def rings(figure):
    return [line for axes in figure.axes for line in axes.lines if line.get_marker() == "o"]


def test_a_map_twice_as_high_in_the_eyes_has_the_ratio_that_follows():
    ratios = preference(np.where(MASKS["eyes"], 0.8, 0.4), MASKS)
    mean = 1 + MASKS["eyes"].mean()  # in units of the lower value
    assert ratios == pytest.approx({name: (2 if name == "eyes" else 1) / mean for name in MASKS})


@pytest.mark.parametrize("side", [2, 16, 64, 128])
def test_a_small_map_has_the_ratios_of_its_enlargement_by_whole_pixels(side):
    alpha = np.random.default_rng(side).random((side, side))
    expected = {name: enlarge(alpha, 128)[mask].mean() / alpha.mean() for name, mask in MASKS.items()}
    assert preference(alpha, MASKS) == pytest.approx(expected)


@pytest.mark.parametrize("side", [4, 32])
def test_the_weights_of_all_regions_fill_every_cell_and_keep_each_area(side):
    weights = {name: area_weights(mask, side) for name, mask in MASKS.items()}
    assert np.allclose(sum(weights.values()), 1)
    assert {name: w.mean() for name, w in weights.items()} == pytest.approx({n: m.mean() for n, m in MASKS.items()})


def test_a_region_outside_the_picture_has_no_ratio_in_numbers_and_in_json():
    finding = study(subject(points=TEMPLATE / 16 + 1000))
    assert np.isnan(finding.arrays["ratios"][:, list(COLORS).index("mouth")]).all()
    assert json.loads(json.dumps(finding.numbers, allow_nan=False))["ratios"]["body.0"]["mouth"] is None


def test_flat_attention_prefers_nothing_in_any_unit():
    finding = study(subject(flat=True))
    assert np.allclose(finding.arrays["ratios"], 1, atol=1e-6)
    assert list(finding.numbers["ratios"]) == [plan.name for plan in TINY.units()]
    assert {text.get_text() for axes in finding.figure.axes for text in axes.texts} == {"1.00"}


def test_regions_partition_the_face_whatever_they_are_drawn_from():
    for points, told in ((None, "as if aligned"), (TEMPLATE / 16, "5 points"), (TEMPLATE68 / 16, "68 points")):
        masks, source = face_regions(subject(points=points))
        assert told in source
        assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()
    aligned = face_regions(subject(points=(TEMPLATE + 0.5) / 16 - 0.5))[0]
    assert all(np.array_equal(mask, aligned[name]) for name, mask in face_regions(subject(points=None))[0].items())


def test_many_faces_have_the_mean_of_the_single_ones_and_intervals_around_it():
    one = subject()
    faces = [replace(subject(seed=seed, points=TEMPLATE / 16 + seed / 2), model=one.model) for seed in range(6)]
    finding = study_many(iter(faces), seed=3)
    single = np.array([study(face).arrays["ratios"] for face in faces])
    assert np.allclose(finding.arrays["mean"], single.mean(axis=0))
    low, high = finding.arrays["low"], finding.arrays["high"]
    assert (low <= finding.arrays["mean"]).all()
    assert (finding.arrays["mean"] <= high).all()
    assert 0 < ((low <= 1) & (high >= 1)).sum() == len(rings(finding.figure)) < low.size
    assert finding.numbers["regions_from"] == {"5 points": 6}
    assert np.array_equal((low, high), mean_interval(single, seed=3)[1:])
    assert not np.array_equal(low, mean_interval(single, seed=4)[1])


def test_attention_without_places_and_one_face_alone_are_refused():
    with pytest.raises(UserError, match="channels, not places"):
        study(subject(attention="channel"))
    with pytest.raises(UserError, match="no attention"):
        study(subject(attention="none"))
    with pytest.raises(UserError, match="two faces"):
        study_many([subject()])
    with pytest.raises(UserError, match="two models, tiny and other"):
        study_many([subject(), replace(subject(), name="other")])


def test_progress_is_told_face_by_face():
    told = []
    study_many([subject(), subject(seed=1)], progress=lambda done, total, text: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
