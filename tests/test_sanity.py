"""The randomisation and input checks, on networks of which the answer is known."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import SMALL, small_subject
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from sparnet.errors import UserError
from sparnet.model import SPARNet, Trace
from viz.instruments.sanity import (
    NO_FROM,
    OTHERS,
    YES_BELOW,
    cascade,
    flips,
    independent,
    parts,
    randomise,
    similarity,
    study,
    study_many,
    surrogate,
    unlearned,
    verdict,
)
from viz.subject import Subject

TINY = replace(SMALL, max_channels=8, body_depth=1)
UNITS = [plan.name for plan in TINY.units()]
PARTS = ["out", *UNITS[::-1], "stem"]  # in the order in which they are made random


class Looking(SPARNet):
    """Its only map is the face's own brightness, whatever the weights: what an edge filter is to saliency."""

    def trace(self, face, edit=None, features=False):
        return Trace(face, {"body.0": torch.sigmoid(face.mean(1, keepdim=True))}, None)


class Staring(SPARNet):
    """Its only map is a slope from corner to corner, whatever the weights and the face."""

    def trace(self, face, edit=None, features=False):
        return Trace(face, {"body.0": torch.linspace(0.1, 0.9, 1024).view(1, 1, 32, 32)}, None)


def subject(kind=SPARNet, seed: int = 0, **changes) -> Subject:
    torch.manual_seed(0)
    return small_subject(seed, kind(replace(TINY, **changes)).eval())


def randomised(model, names, seed=0):
    copy = deepcopy(model)
    randomise(copy, model, names, unlearned(model, seed))
    return copy


def verdicts(finding):
    return {name: one["verdict"] for name, one in finding.numbers["badge"].items()}


def test_a_network_with_itself_is_one():
    one = subject()
    with torch.no_grad():
        same = randomised(one.model, []).trace(one.degraded).alphas
        own = one.model.trace(one.degraded).alphas
    assert all(torch.equal(same[name], own[name]) for name in own)
    ranks, ssim = cascade(one, seed=0)
    assert np.allclose(ranks[0], 1)  # only `out` is random, and no map comes after it
    assert np.allclose(ssim[0], 1)


@pytest.mark.parametrize("check", [cascade, independent])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_map_is_itself_until_its_own_unit_is_random(check, norm):
    ranks, ssim = check(subject(norm=norm), seed=0)
    assert ranks.shape == ssim.shape == (len(PARTS), len(UNITS))
    for i, part in enumerate(PARTS):
        for j, unit in enumerate(UNITS):
            behind = PARTS.index(unit) > i  # counted from the output: the part comes after the unit
            assert (ranks[i, j] == pytest.approx(1)) == behind, (part, unit)


def test_the_last_row_of_the_cascade_is_a_network_that_never_learned():
    one = subject()
    fresh = unlearned(one.model, 7)  # in training mode: batch norms see this face
    with torch.no_grad():
        expected, own = fresh.trace(one.degraded).alphas, one.model.trace(one.degraded).alphas
    ranks, _ = cascade(one, seed=7)
    for j, unit in enumerate(UNITS):
        assert ranks[-1, j] == pytest.approx(spearmanr(expected[unit].ravel(), own[unit].ravel()).statistic)


def test_each_seed_has_its_own_unlearned_network_that_no_training_of_this_seed_began_with():
    model = subject().model  # made with torch's seed 0
    weights = [unlearned(model, seed).stem.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], model.stem.weight)


def test_only_the_named_parts_of_the_copy_are_random_and_the_model_is_left_alone():
    model = subject().model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    copy = randomised(model, ["decoder.0"], seed=1)
    assert torch.equal(torch.rand(4), drawn)  # the caller's random numbers are not used up
    changed = {name[:9] for name, value in copy.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder.0"}
    with torch.no_grad():
        copy.trace(subject().degraded)  # its batch norms count, the model's must not
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_a_copy_that_was_random_is_the_trained_network_again_when_asked():
    one = subject()
    copy = randomised(one.model, list(parts(one.model)))
    with torch.no_grad():
        copy.trace(one.degraded)
    randomise(copy, one.model, [], unlearned(one.model, 0))
    assert not any(module.training for module in copy.modules())
    expected = one.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in copy.state_dict().items())


def test_a_random_network_keeps_nothing_of_the_trained_statistics():
    one, other = subject(), subject()
    for module in other.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean += 5
            module.running_var *= 100
    maps = []
    for each in (one, other):
        with torch.no_grad():
            maps.append(randomised(each.model, list(parts(each.model))).trace(one.degraded).alphas)
    assert all(torch.equal(maps[0][unit], maps[1][unit]) for unit in UNITS)


def test_a_map_that_ignores_weights_and_face_gets_no_badge():
    found = study(subject(Staring), [subject(Staring, seed=1)], draws=1)
    assert verdicts(found) == {"learning": "no", "face": "no"}


def test_a_map_that_only_copies_the_face_depends_on_the_face_alone():
    one = subject(Looking)
    assert verdicts(study(one, draws=1)) == {"learning": "no", "face": "yes"}
    found = study(one, [subject(Looking, seed=i) for i in (1, 2)], draws=1)
    assert verdicts(found) == {"learning": "no", "face": "yes"}
    assert found.numbers["badge"]["face"]["against"] == OTHERS


def test_a_map_that_copies_the_face_follows_its_flips():
    one = subject(Looking)
    light = one.degraded[0].mean(0).numpy()
    found = flips(one)
    assert found["upside down, turned back"] == pytest.approx([1])
    assert found["mirrored, turned back"] == pytest.approx([1])
    for name, turned in (("upside down", light[::-1]), ("mirrored", light[:, ::-1])):
        expected = spearmanr(light.ravel(), turned.ravel()).statistic
        assert found[f"{name}, at the same place"] == pytest.approx([expected], abs=1e-6)


def test_a_constant_map_has_no_verdict():
    one = subject()
    for _, unit in one.model.units():
        torch.nn.init.zeros_(unit.attention.weight)
    found = study(one, draws=1)
    assert verdicts(found) == {"learning": "undefined", "face": "undefined"}
    assert found.numbers["badge"]["learning"]["correlation"] is None


def test_the_verdict_has_its_limits_where_it_says():
    assert [verdict(x) for x in (0, -0.49, YES_BELOW, -0.79, NO_FROM, -1)] == ["yes", "yes", "weak", "weak", "no", "no"]
    assert verdict(np.nan) == "undefined"


def test_similarity_is_scikit_images_of_the_stretched_maps():
    a, b = np.random.default_rng(0).random((2, 16, 16))
    stretched = [(x - x.min()) / (x.max() - x.min()) for x in (a, b)]
    assert similarity(a, b) == pytest.approx(structural_similarity(*stretched, data_range=1))
    assert similarity(a, 0.1 + 0.01 * a) == pytest.approx(1)
    assert similarity(a, np.full_like(a, 0.3)) is None
    assert similarity(a[:2, :2], b[:2, :2]) is None
    assert similarity(a[:4, :4], a[:4, :4]) == pytest.approx(1)


def test_a_study_tells_the_same_numbers_again(tmp_path):
    found = study(subject(), draws=2)
    found.save(tmp_path)
    told = json.loads((tmp_path / "sanity.json").read_text())
    expected = np.abs([cascade(subject(), seed)[0][-1] for seed in (0, 1)]).mean(0)
    assert [unit["learning"]["correlation"] for unit in told["units"].values()] == pytest.approx(expected)
    assert told["badge"]["learning"]["correlation"] == pytest.approx(np.median(expected))
    words = " ".join(text.get_text() for text in found.figure.texts)
    for name, claim in (("learning", "depends on learning"), ("face", "depends on the face")):
        assert f"{claim}: {told['badge'][name]['verdict']}" in words


def test_a_surrogate_is_as_smooth_and_unrelated():
    generator = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(generator.standard_normal((32, 32)), 0), 1)
    drawn = [surrogate(smooth, generator) for _ in range(40)]
    for alpha in drawn[:3]:
        np.testing.assert_allclose(np.abs(np.fft.fft2(alpha)), np.abs(np.fft.fft2(smooth)), rtol=1e-6)
    correlations = [spearmanr(smooth.ravel(), alpha.ravel()).statistic for alpha in drawn]
    assert abs(np.mean(correlations)) < 3 * np.std(correlations) / 40**0.5
    assert np.mean(np.abs(correlations)) > 0.1  # what smooth maps have in common by chance, and rough ones have not
    rough = [spearmanr(*generator.standard_normal((2, 1024))).statistic for _ in range(40)]
    assert np.mean(np.abs(rough)) < 0.05


def test_over_a_folder_each_face_meets_those_before_it():
    faces = [subject(Looking, seed) for seed in range(3)]
    found = study_many(faces)
    lights = [one.degraded[0].mean(0).numpy().ravel() for one in faces]

    def alike(i, j):
        return abs(spearmanr(lights[i], lights[j]).statistic)

    expected = [alike(1, 0), (alike(2, 0) + alike(2, 1)) / 2]
    assert found.arrays["face"][:, 0] == pytest.approx(expected, abs=1e-6)
    assert found.numbers["badge"]["face"]["correlation"]["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert verdicts(found) == {"learning": "no", "face": "yes"}
    assert found.numbers["badge"]["learning"]["correlation"]["low"] == pytest.approx(1)


def test_what_cannot_be_checked_is_refused_with_what_to_do():
    with pytest.raises(UserError, match="has no attention"):
        study(subject(attention="none"), draws=1)
    with pytest.raises(UserError, match="at least three"):
        study_many([subject(Looking), subject(Looking)])
    with pytest.raises(UserError, match="one model at a time"):
        study_many([subject(Looking), Subject(subject(Looking).model, "another", subject().degraded)])
