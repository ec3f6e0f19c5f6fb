"""Regions of a face drawn by hand, and the score inside each."""

import json
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut

from sparnet.errors import UserError
from sparnet.faces import TEMPLATE
from sparnet.metrics import psnr, region_psnr
from sparnet.regions import REGIONS, masks_from_five_points, region_masks


def arc(centre, radii, first, last, points):
    """Points on an ellipse from one angle to another in degrees, 0 to the right, 90 down."""
    angles = np.radians(np.linspace(first, last, points))
    return np.array(centre) + np.column_stack((np.cos(angles), np.sin(angles))) * radii


def drawn_face(size=128, degrees=0.0):
    """68 landmarks of a plain upright face in the middle, eyes 0.3 of the side apart; turned about the centre."""
    parts = [
        arc((0.5, 0.48), (0.3, 0.4), 180, 0, 17),  # jaw
        arc((0.36, 0.42), (0.09, 0.05), 200, 340, 5),  # brows
        arc((0.64, 0.42), (0.09, 0.05), 200, 340, 5),
        np.column_stack((np.full(4, 0.5), np.linspace(0.45, 0.58, 4))),  # bridge
        np.column_stack((np.linspace(0.44, 0.56, 5), [0.62, 0.63, 0.64, 0.63, 0.62])),  # wings
        arc((0.35, 0.46), (0.055, 0.025), 180, 480, 6),  # eyes
        arc((0.65, 0.46), (0.055, 0.025), 180, 480, 6),
        arc((0.5, 0.75), (0.11, 0.05), 180, 510, 12),  # lips
        arc((0.5, 0.75), (0.08, 0.02), 180, 495, 8),
    ]
    turn = np.radians(degrees)
    rotation = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
    return ((np.concatenate(parts) - 0.5) @ rotation + 0.5) * size - 0.5


def holds(mask, point):
    x, y = np.rint(point).astype(int)
    return mask[y, x]


@pytest.mark.parametrize("size", [16, 128, 512])
@pytest.mark.parametrize("points", [drawn_face(1), drawn_face(1, 40), drawn_face(1) * 3 - 1, drawn_face(1) + 0.4])
def test_every_pixel_is_in_exactly_one_region(points, size):
    masks = region_masks(points * size, size)
    assert tuple(masks) == REGIONS
    assert all(mask.shape == (size, size) and mask.dtype == bool for mask in masks.values())
    assert (np.sum(list(masks.values()), axis=0) == 1).all()


@pytest.mark.parametrize("degrees", [0, -30, 75])
def test_regions_hold_what_they_are_named_after(degrees):
    points = drawn_face(128, degrees)
    masks = region_masks(points, 128)
    for name, own in {
        "eyes": range(36, 48),
        "brows": range(17, 27),
        "nose": range(28, 36),
        "mouth": range(48, 68),
    }.items():
        assert all(holds(masks[name], points[index]) for index in own), name
    left_eye, nose, mouth, chin = points[36:42].mean(axis=0), points[33], points[48:60].mean(axis=0), points[8]
    assert holds(masks["eyes"], left_eye)
    assert holds(masks["skin"], (mouth + chin) / 2)
    assert holds(masks["skin"], points[27] + 0.8 * (points[27] - nose))  # the forehead
    assert holds(masks["rest"], chin + 0.15 * (chin - nose))
    assert masks["rest"][0, 0]
    assert masks["rest"][-1, -1]


def test_a_turned_face_has_turned_regions():
    upright, turned = region_masks(drawn_face(), 128), region_masks(drawn_face(degrees=90), 128)
    for name in REGIONS:
        mask = np.rot90(upright[name], -1)
        assert (mask & turned[name]).sum() > 0.93 * (mask | turned[name]).sum(), name


def test_a_larger_picture_has_the_same_regions_finer():
    small, large = region_masks(drawn_face(128), 128), region_masks(drawn_face(512), 512)
    for name in REGIONS:
        mask = small[name].repeat(4, axis=0).repeat(4, axis=1)
        assert (mask & large[name]).sum() > 0.8 * (mask | large[name]).sum(), name


def test_a_face_outside_the_picture_leaves_only_the_rest():
    masks = region_masks(drawn_face() + 1000, 128)
    assert masks["rest"].all()


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((68, 2), np.nan)])
def test_what_is_not_68_points_is_refused(points):
    with pytest.raises(ValueError, match=r"\(68, 2\)"):
        region_masks(points, 128)


@pytest.fixture
def pair():
    sharp = astronaut()[60:188, 160:288]
    noise = np.random.default_rng(0).normal(0, 12, sharp.shape)
    return np.clip(sharp + noise, 0, 255).round().astype(np.uint8), sharp


def test_an_error_in_one_region_is_scored_there_alone(pair):
    masks = region_masks(drawn_face(), 128)
    sharp = pair[1]
    restored = sharp.copy()
    restored[masks["mouth"]] = 255 - sharp[masks["mouth"]]
    scores = region_psnr(restored, sharp, masks)
    assert {name for name, score in scores.items() if score == np.inf} == set(REGIONS) - {"mouth"}
    weights = np.array([65.481, 128.553, 24.966]) / 255
    error = ((restored.astype(float) - sharp)[masks["mouth"]] @ weights) ** 2
    assert scores["mouth"] == pytest.approx(10 * np.log10(255**2 / error.mean()), abs=1e-6)


def test_the_regions_errors_add_up_to_the_whole_picture_s(pair):
    masks = region_masks(drawn_face(), 128)
    scores = region_psnr(*pair, masks)
    error = sum(masks[name].mean() * 255**2 / 10 ** (score / 10) for name, score in scores.items())
    assert 10 * np.log10(255**2 / error) == pytest.approx(psnr(*pair), abs=1e-6)


def test_a_region_without_pixels_has_no_score(pair):
    scores = region_psnr(*pair, region_masks(drawn_face() + 1000, 128))
    assert np.isnan(scores["mouth"])
    assert scores["rest"] == pytest.approx(psnr(*pair))


def five_of(points):
    """Eyes, nose tip and mouth corners of 68 landmarks."""
    return np.array([points[36:42].mean(axis=0), points[42:48].mean(axis=0), *points[[30, 48, 54]]])


@pytest.mark.parametrize("size", [16, 128])
@pytest.mark.parametrize("shift", [0, 0.4, 5])
def test_regions_of_five_points_partition_the_picture_too(size, shift):
    masks = masks_from_five_points(five_of(drawn_face(1, 20) + shift) * size, size)
    assert tuple(masks) == REGIONS
    assert (np.sum(list(masks.values()), axis=0) == 1).all()
    assert masks["rest"].all() == (shift == 5)


def test_regions_of_five_points_hold_these_points_wherever_the_face_is():
    to_face = np.array([(0.2, -0.1, 30), (0.1, 0.2, -10)])  # turned by 27 degrees
    left, right, nose, *corners = points = TEMPLATE @ to_face[:, :2].T + to_face[:, 2]
    masks = masks_from_five_points(points, 128)
    assert holds(masks["eyes"], left)
    assert holds(masks["eyes"], right)
    assert holds(masks["nose"], nose)
    assert holds(masks["mouth"], np.mean(corners, axis=0))
    assert all(holds(masks["mouth"], 0.9 * corner + 0.1 * np.mean(corners, axis=0)) for corner in corners)
    up = (left + right) / 2 - nose
    assert all(holds(masks["brows"], eye + 0.6 * up) for eye in (left, right))
    assert holds(masks["skin"], nose - 1.6 * up)  # the chin
    assert holds(masks["rest"], nose - 2.6 * up)


def test_regions_of_five_points_are_about_those_of_68_landmarks_of_people():
    folder = Path(__file__).parents[2] / "shared/faces/test/helen128"
    if not folder.is_dir():
        pytest.skip("there are no faces with landmarks here")
    overlap = []
    for path in folder.glob("*.json"):
        points = np.array(json.loads(path.read_text())["landmarks68"])
        fine, coarse = region_masks(points, 128), masks_from_five_points(five_of(points), 128)
        overlap.append([(fine[name] & coarse[name]).sum() / (fine[name] | coarse[name]).sum() for name in REGIONS])
    assert (np.median(overlap, axis=0) > 0.5).all()


def test_five_points_that_span_no_face_are_refused():
    with pytest.raises(UserError, match="five points"):
        masks_from_five_points(np.full((5, 2), 7.0), 128)
    with pytest.raises(ValueError, match=r"\(68, 2\)"):
        masks_from_five_points(drawn_face(), 128)
