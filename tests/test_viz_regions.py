"""Preferences for regions, on maps whose answer is known and against a second way of measuring them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import SMALL, small_network

from sparnet.attention import enlarge
from sparnet.errors import UserError
from sparnet.faces import TEMPLATE
from sparnet.metrics import mean_interval
from sparnet.model import SPARNet, Trace
from sparnet.regions import TEMPLATE68, masks_from_five_points
from viz.instruments.regions import (
    ALONG,
    COLORS,
    LEFT,
    OTHER,
    STRENGTH,
    area_weights,
    face_regions,
    preference,
    profile_distance,
    study,
    study_many,
)
from viz.subject import Subject

TINY = replace(SMALL, body_depth=1)
MASKS = masks_from_five_points(TEMPLATE / 4, 128)


def subject(flat: bool = False, seed: int = 0, points: np.ndarray | None = TEMPLATE / 16, **changes) -> Subject:
    """A small network of strong contrast, or its alpha 0.3 everywhere if `flat`; noise, bright at the eyes."""
    model = small_network(0, TINY, **changes)
    for _, unit in model.units():
        if flat:
            torch.nn.init.zeros_(unit.attention.weight)
            torch.nn.init.constant_(unit.attention.bias, np.log(0.3 / 0.7))
        elif unit.kind == "2d":
            unit.attention.weight.data *= 30
    face = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) - 1
    face[:, :, 12:19] += 1
    return Subject(model, "tiny", face, points=points)


def marked(figure, mark="○"):
    """The cells with this mark."""
    return [text for axes in figure.axes for text in axes.texts if mark in text.get_text()]


class Seeing(SPARNet):
    """Its only map is the face's own brightness: it goes where the face goes."""

    def trace(self, face, edit=None, features=False):
        return Trace(face, {"body.0": torch.sigmoid(4 * face.mean(1, keepdim=True))}, None)


class Staring(SPARNet):
    """Its only map is a stencil of eyes, whatever the face."""

    def trace(self, face, edit=None, features=False):
        eyes = torch.from_numpy(masks_from_five_points(TEMPLATE / 16, 32)["eyes"])
        return Trace(face, {"body.0": 0.1 + 0.8 * eyes[None, None]}, None)


def planted(kind, seed=0, aside=0.0, noise=0.3):
    """A face that is bright in its eyes, in front of a network whose map is known; `aside`: pixels to the right."""
    points = TEMPLATE / 16 + (aside, 0)
    eyes = masks_from_five_points(points, 32)["eyes"]
    face = noise * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) - 0.9
    face[:, :, eyes] += 1.2
    return Subject(PLANTED[kind], "planted", face, points=points)


PLANTED = {kind: kind(TINY).eval() for kind in (Seeing, Staring)}


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
    assert {words for axes in finding.figure.axes for text in axes.texts if (words := text.get_text())} == {"1.00"}


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
    assert 0 < ((low <= 1) & (high >= 1)).sum() == len(marked(finding.figure)) < low.size
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


def test_over_a_part_of_the_picture_the_mean_is_that_parts():
    alpha = np.random.default_rng(0).random((128, 128))
    known = np.zeros((128, 128), bool)
    known[16:, 8:] = True
    ratios = preference(alpha, {name: mask & known for name, mask in MASKS.items()})
    assert ratios == pytest.approx({n: alpha[mask & known].mean() / alpha[known].mean() for n, mask in MASKS.items()})


def test_the_distance_of_profiles_is_in_doublings_and_leaves_out_what_either_has_not():
    assert profile_distance(np.array([2.0, 0.5, 2, 2])) == pytest.approx(1)
    assert profile_distance(np.array([4.0, 1, np.nan]), np.array([1.0, 1, 3])) == pytest.approx(np.sqrt(2))
    assert profile_distance(np.array([3.0, 0.2]), np.array([3.0, 0.2])) == 0


def test_when_the_face_is_moved_a_map_of_the_picture_goes_along_and_a_stencil_stays():
    for kind, told, goes, stays in ((Seeing, "content", ALONG, LEFT), (Staring, "place", LEFT, ALONG)):
        controls = study_many([planted(kind, seed) for seed in range(4)]).numbers["controls"]
        assert list(controls) == ["body.0", "all units"]
        assert {of["tells"] for of in controls.values()} == {told}
        assert controls["body.0"][goes]["mean"] == pytest.approx(0, abs=1e-5)
        assert controls["body.0"][stays]["mean"] > 0.3
    flat = study_many([subject(flat=True, seed=seed) for seed in range(4)]).numbers["controls"]["all units"]
    assert flat[STRENGTH]["mean"] == pytest.approx(0, abs=1e-5)


def test_another_faces_map_is_as_near_only_where_faces_are_alike():
    alike = study_many([planted(Seeing, seed) for seed in range(5)])
    apart = study_many([planted(Seeing, seed, aside=4 * (seed % 2)) for seed in range(6)])
    alike, apart = (found.numbers["controls"]["body.0"][OTHER]["mean"] for found in (alike, apart))
    assert alike < 0.5 * apart
