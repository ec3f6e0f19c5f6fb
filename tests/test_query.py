"""Attribution: of linear networks, where it is known; its completeness, and where it lies."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from made_up import SMALL, small_network
from torch import nn

from sparnet.errors import UserError
from viz.instruments.query import (
    DETECTORS,
    PATHS,
    TOLERANCE,
    Overlap,
    attribute,
    blur,
    cells,
    diffusion_index,
    gini,
    gradient_strength,
    patch_around,
    patch_sum,
    study,
)
from viz.subject import Subject

TINY = replace(SMALL, body_depth=1, activation="prelu", degraded_size=8)
PATCH = (10, 12, 16, 20)


def network(**changes):
    return small_network(0, TINY, **changes)


def face(seed=0):
    """Smooth, as a face that was enlarged."""
    picture = np.random.default_rng(seed).random((8, 8, 3), np.float32)
    large = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_LINEAR) * 1.8 - 0.9
    return torch.from_numpy(large).permute(2, 0, 1)[None].contiguous()


def pixels(x):
    return x[0].permute(1, 2, 0).numpy()


def linear_network():
    """An affine SPARNet: no bend in its activations, and attention that ignores the face."""
    model = network()
    for module in model.modules():
        if isinstance(module, nn.PReLU):
            nn.init.ones_(module.weight)
    for _, unit in model.units():
        nn.init.zeros_(unit.attention.weight)
    return model


@pytest.mark.parametrize("path", PATHS)
def test_of_a_linear_network_the_attribution_is_weight_times_change_whatever_the_path(path):
    model, x = linear_network(), face()
    found = attribute(model, x, PATCH, 3, "sum", path, steps=3)
    places = [(row, column) for row in (2, 11, 14, 19, 23) for column in (5, 10, 13, 21)]
    probes = torch.zeros(1 + 3 * len(places), 3, 32, 32)  # nothing, then one colour of one pixel in each
    for i, (row, column) in enumerate(places):
        probes[range(1 + 3 * i, 4 + 3 * i), range(3), row, column] = 1
    with torch.no_grad():
        sums = model(probes)[:, :, 12:20, 10:16].sum((1, 2, 3))
    weights = (sums[1:] - sums[0]).reshape(-1, 3).numpy()
    change = pixels(x) - blur(pixels(x), 3)
    expected = [weight @ change[place] for weight, place in zip(weights, places, strict=True)]
    assert np.ptp(expected) > 0.01
    assert np.allclose([found.pixels[place] for place in places], expected, rtol=1e-3, atol=1e-5)
    assert found.residual < 1e-4


def test_one_step_is_exact_where_the_gradient_changes_evenly_since_it_is_taken_in_the_middle(monkeypatch):
    monkeypatch.setitem(DETECTORS, "energy", lambda restored, patch: patch_sum(restored.square(), patch))
    found = attribute(linear_network(), face(), PATCH, 8, "energy", "linear", steps=1)
    assert found.pixels.sum() == pytest.approx(found.change, rel=1e-3)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_attributions_sum_to_the_change_within_the_tolerance_and_more_steps_miss_less(detector, path):
    model = network()
    for _, unit in model.units():
        unit.attention.weight.data *= 20  # so that attention bends the network too
    few, usual = (attribute(model, face(), PATCH, 8, detector, path, steps) for steps in (1, 25))
    with torch.no_grad():
        detect = DETECTORS[detector]
        after = detect(model(face()), PATCH)
        before = detect(model(torch.from_numpy(blur(pixels(face()), 8)).permute(2, 0, 1)[None]), PATCH)
    assert usual.change == pytest.approx(float(after - before), rel=1e-4)
    assert usual.pixels.sum() == pytest.approx(usual.change, rel=TOLERANCE)
    assert usual.residual < few.residual
    assert all(weight.grad is None for weight in model.parameters())


def test_nothing_is_attributed_in_a_network_that_ignores_its_input():
    model = network()
    nn.init.zeros_(model.out.weight)
    found = attribute(model, face(), PATCH, 3, steps=2)
    assert not found.pixels.any()
    assert (found.change, found.residual, diffusion_index(found.pixels, 8)) == (0, 0, None)


@pytest.mark.parametrize("path", PATHS.values())
def test_a_path_leads_from_the_blurred_face_to_the_face(path):
    x = pixels(face())
    assert np.allclose(path(x, 3, 0), cv2.GaussianBlur(x, (0, 0), 3))
    assert np.array_equal(path(x, 3, 1), x)
    detail = [path(x, 3, t).std() for t in (0, 0.5, 1)]
    assert detail == sorted(detail)


@pytest.mark.parametrize("patch", [PATCH, (28, 0, 32, 32)])
def test_the_gradient_detector_is_the_length_of_the_step_to_the_next_pixels(patch):
    left, top, right, bottom = patch
    expected = 0
    for channel in face(3)[0].tolist():
        for y in range(top, bottom):
            for x in range(left, right):
                dx = channel[y][min(x + 1, 31)] - channel[y][x]
                dy = channel[min(y + 1, 31)][x] - channel[y][x]
                expected += np.hypot(np.hypot(dx, dy), 0.001)
    assert gradient_strength(face(3), patch).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_detector_has_a_gradient_where_the_patch_is_flat():
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(gradient_strength(flat, PATCH).sum(), flat)
    assert gradient.isfinite().all()


def test_the_sum_detector_sums_the_patch_of_each_face():
    faces = torch.cat((face(1), face(2)))
    assert np.allclose(patch_sum(faces, PATCH), faces.numpy()[:, :, 12:20, 10:16].sum((1, 2, 3)))


def test_gini_is_the_mean_difference_of_all_pairs():
    values = np.random.default_rng(4).exponential(size=(5, 6))
    pairs = np.abs(values.reshape(-1, 1) - values.reshape(1, -1)).sum()
    assert gini(values) == pytest.approx(pairs / (2 * 30**2 * values.mean()))
    assert gini(np.ones(10)) == pytest.approx(0)
    assert gini(np.eye(1, 10)) == pytest.approx(0.9)
    assert gini(np.zeros(10)) is None


def test_the_diffusion_index_counts_the_pixels_of_the_small_face():
    values = np.random.default_rng(5).normal(size=(32, 32))
    assert np.allclose(cells(values, 8), values.reshape(8, 4, 8, 4).sum((1, 3)), atol=1e-5)
    assert diffusion_index(np.ones((32, 32)), 8) == pytest.approx(100)
    one = np.zeros((32, 32))
    one[8:12, 4:8] = values[8:12, 4:8]
    assert diffusion_index(one, 8) == pytest.approx(100 / 64, rel=1e-5)


def test_a_planted_attribution_overlaps_with_alpha_wholly_not_at_all_or_by_chance():
    alpha = np.random.default_rng(6).permutation(100).reshape(10, 10) / 100
    signs = np.random.default_rng(7).choice((-1.0, 1.0), (40, 40))  # strength counts, not sign
    inside = np.kron(alpha >= 0.8, np.ones((4, 4))) * signs
    assert Overlap.of(inside, alpha).in_top == pytest.approx(1)
    assert Overlap.of(signs - inside, alpha).in_top == 0
    assert Overlap.of(signs, alpha).in_top == pytest.approx(0.2)
    assert Overlap.of(np.kron(alpha, np.ones((4, 4))), alpha).correlation == pytest.approx(1)
    constant = Overlap.of(inside, np.full((10, 10), 0.5))
    assert (constant.correlation, constant.in_top) == (None, pytest.approx(0.2))


@pytest.mark.parametrize(
    ("place", "patch"),
    [((16, 16), (12, 12, 20, 20)), ((0, 31), (0, 24, 8, 32)), ((31, 5), (24, 1, 32, 9))],
)
def test_a_patch_about_a_place_stays_inside_the_face(place, patch):
    assert patch_around(*place, 8, 32) == patch


def test_a_study_says_what_was_done_and_calls_itself_incomplete_where_it_is(tmp_path):
    done = []
    subject = Subject(network(), "a", face())
    with torch.no_grad():  # as an app may call it
        finding = study(subject, PATCH, sigma=8, steps=1, progress=lambda *args: done.append(args))
    numbers = finding.numbers
    assert (numbers["patch"], numbers["steps"], numbers["cells"]) == (list(PATCH), 1, 8)
    assert numbers["attributed"] == pytest.approx(finding.arrays["attribution"].sum())
    assert list(numbers["units"]) == [plan.name for plan in TINY.units()]
    assert 0 < numbers["inside_patch"] < 1
    assert numbers["residual"] > TOLERANCE
    assert not numbers["complete"]
    assert any("NOT complete" in text.get_text() for text in finding.figure.texts)
    assert done[-1][:2] == (1, 1)
    assert len(finding.save(tmp_path)) == 3


def test_what_cannot_be_asked_is_told():
    with pytest.raises(UserError, match="not inside the face of 32 x 32"):
        study(Subject(network(), "a", face()), (20, 20, 33, 28))
    with pytest.raises(UserError, match="no attention"):
        study(Subject(network(attention="none", bottleneck=None), "a", face()))
