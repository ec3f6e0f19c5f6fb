"""The deletion test, on networks of which it is known where they look."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import SMALL, random_faces, small_network, small_subject

from sparnet.attention import enlarge
from sparnet.errors import UserError
from sparnet.metrics import mean_interval
from viz.instruments.faithfulness import (
    ALPHA,
    GRADIENT,
    PER_DAMAGE,
    RANDOM,
    SCALED,
    SOBEL,
    area_between,
    deletions,
    gradient_map,
    impute,
    ranking,
    saliency_maps,
    sobel_map,
    standardised,
    study,
    study_many,
)
from viz.subject import Subject

TINY = replace(SMALL, max_channels=8, body_depth=1)
QUICK = dict(cells=8, levels=2, draws=1)


def deletion(network, face, saliency, *settings, **named):
    """`deletions` of one map."""
    return deletions(network, face, [saliency], *settings, **named)[0]


def subject(seed: int = 0, **changes) -> Subject:
    return small_subject(seed, small_network(0, TINY, **changes))


def looking(weights: np.ndarray):
    """A network that puts the weighted mean of its input everywhere: only pixels of weight matter, and to all alike."""
    weights = torch.from_numpy(weights).float()
    return lambda face: (face * weights).mean((1, 2, 3), keepdim=True).expand_as(face)


def planted() -> np.ndarray:
    """Two neighbouring cells of 8 x 8, one of each colour."""
    known = np.zeros((8, 8))
    known[3, 4:6] = 1
    return enlarge(known, 32)


def test_a_planted_saliency_is_perfect_and_its_reverse_is_perfectly_wrong():
    network, face = looking(planted()), torch.where(torch.from_numpy(planted()) == 1, 0.8, -0.5).float()
    face = face.expand(1, 3, 32, 32)  # whatever else is damaged, what replaces the two cells is -0.5
    curves = deletion(network, face, planted(), cells=8, levels=4)
    assert curves.scores()["elsewhere"] == pytest.approx(1, abs=0.02)
    assert np.allclose(curves.most[0], curves.most[0, -1], rtol=0.02)
    assert (curves.least[0, :-1] == 0).all()
    assert curves.most[0, -1] > 1
    reverse = deletion(network, face, -planted(), cells=8, levels=4)
    assert reverse.scores()["elsewhere"] == pytest.approx(-1, abs=0.02)


def test_a_random_saliency_is_zero_within_its_interval_and_the_right_one_is_not():
    generator = np.random.default_rng(0)
    weights = enlarge(generator.exponential(size=(8, 8)), 32)
    network = looking(weights)
    scores = [
        deletion(network, random_faces(seed=i), generator.random((32, 32)), 8, 3, i).scores()["elsewhere"]
        for i in range(40)
    ]
    _, low, high = mean_interval(np.array(scores)[:, None], seed=0)
    assert low < 0 < high
    assert high - low < 0.35
    right = [deletion(network, random_faces(seed=i), weights, 8, 3, i).scores()["elsewhere"] for i in range(10)]
    assert np.mean(right) > high + 0.1


def test_a_network_that_copies_its_input_changes_nowhere_else():
    curves = deletion(lambda face: face, random_faces(), planted(), cells=8, levels=3)
    assert (curves.most[0] == 0).all()
    assert curves.scores()["elsewhere"] is None
    assert np.allclose(curves.most[1], curves.most[2])  # anywhere: what was done to the input
    assert (np.diff(curves.most[1]) > 0).all()


def test_a_map_that_only_finds_what_damages_easily_does_not_score_for_as_much_damage():
    """All pixels matter alike here, but some are smooth: to damage those does nothing."""
    generator = np.random.default_rng(0)
    contrast = enlarge(generator.integers(0, 2, (8, 8)), 32)
    scores = []
    for seed in range(12):
        face = 0.8 * torch.from_numpy(contrast).float() * random_faces(seed=seed)
        signs = torch.from_numpy(generator.choice([-1.0, 1.0], (32, 32))).float()  # so that no damage cancels another
        scores.append(deletion(looking(signs.numpy()), face, contrast, cells=8, levels=3, seed=seed).scores())
    plain, controlled = (np.array([[score[name]] for score in scores]) for name in ("elsewhere", PER_DAMAGE))
    assert plain.mean() > 0.3
    assert abs(controlled.mean()) < 0.2 * plain.mean()
    weights = enlarge(generator.exponential(size=(8, 8)), 32) * signs.numpy()
    right = [
        deletion(looking(weights), random_faces(seed=i), np.abs(weights), 8, 3, i).scores()[PER_DAMAGE]
        for i in range(8)
    ]
    assert np.mean(right) > 0.3  # while a map of what does matter keeps its score


def test_maps_of_one_scale_count_alike():
    generator = np.random.default_rng(0)
    wide, narrow = generator.random((16, 16)), generator.random((16, 16))
    for name, mean in (("raw", wide + narrow / 100), ("scaled", standardised(wide) + standardised(narrow / 100))):
        correlation = np.corrcoef(mean.ravel(), narrow.ravel())[0, 1]
        assert (correlation > 0.6) == (name == "scaled")
    assert not standardised(np.full((4, 4), 0.3)).any()


def test_all_orders_end_with_the_same_cells_damaged():
    network, face = looking(np.random.default_rng(1).random((32, 32))), random_faces()
    curves = [deletion(network, face, saliency, 8, 2) for saliency in np.random.default_rng(2).random((2, 32, 32))]
    ends = [end[:, -1] for one in curves for end in (one.most, one.least)]
    assert np.allclose(ends, ends[0], rtol=1e-4)


def test_the_area_of_known_curves():
    assert area_between(np.array([4.0, 4, 4]), np.array([0.0, 0, 4])) == 1
    assert area_between(np.array([2.0, 3, 4]), np.array([1.0, 2, 4])) == 0.25
    assert area_between(np.zeros(3), np.zeros(3)) is None


def test_removed_pixels_solve_the_equations_of_their_neighbours():
    face = random_faces(size=12)[0].double()
    removed = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(1)) < 0.6
    filled = impute(face, removed)
    for mask, picture in zip(removed.numpy(), filled.numpy(), strict=True):
        system, right = np.eye(144), face.numpy().reshape(3, 144).copy()
        for y, x in np.argwhere(mask):
            around = [
                (yy * 12 + xx, (1 / 6 if yy == y or xx == x else 1 / 12))
                for yy in range(max(y - 1, 0), min(y + 2, 12))
                for xx in range(max(x - 1, 0), min(x + 2, 12))
                if (yy, xx) != (y, x)
            ]
            row = y * 12 + x
            right[:, row] = 0
            for column, weight in around:
                system[row, column] = -weight / sum(weight for _, weight in around)
        assert np.allclose(picture.reshape(3, 144), np.linalg.solve(system, right.T).T, atol=2e-3)


def test_nothing_of_a_removed_pixel_is_left():
    face, removed = random_faces(size=16)[0], torch.zeros(1, 16, 16, dtype=torch.bool)
    removed[:, 4:9, 3:12] = True
    other = torch.where(removed[0], -face, face)
    assert torch.equal(impute(face, removed), impute(other, removed))
    assert torch.equal(impute(face, torch.zeros_like(removed))[0], face)
    assert torch.allclose(impute(torch.full_like(face, 0.7), removed), torch.tensor(0.7), atol=1e-3)


def test_the_cells_of_each_colour_are_ranked_by_their_means():
    saliency = np.random.default_rng(0).random((16, 16))
    means = saliency.reshape(4, 4, 4, 4).mean((1, 3)).ravel()
    colors = ranking(saliency, cells=4)
    assert sorted(np.concatenate(colors)) == list(range(16))
    for color, ranked in enumerate(colors):
        assert {sum(divmod(int(cell), 4)) % 2 for cell in ranked} == {color}
        assert (np.diff(means[ranked]) < 0).all()


def test_equal_cells_come_in_an_order_of_the_seed_not_of_the_picture():
    flat = np.ones((32, 32))
    first, again, other = (ranking(flat, 8, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, np.sort(first))


@pytest.mark.parametrize("cells", [3, 5, 64])
def test_a_board_that_does_not_fit_is_refused(cells):
    with pytest.raises(UserError, match=f"{cells} x {cells} cells"):
        ranking(np.ones((32, 32)), cells)


def test_the_gradient_map_is_the_jacobians_column_norms():
    scale = torch.rand(8, 8)
    assert np.allclose(gradient_map(lambda face: face * scale, random_faces(size=8)), scale * 3**0.5, atol=1e-6)
    torch.manual_seed(0)
    mixing = torch.nn.Conv2d(3, 3, 3, padding=1)
    face = random_faces(size=8)
    jacobian = torch.autograd.functional.jacobian(mixing, face)
    exact = jacobian.square().sum((0, 1, 2, 3, 4, 5)).sqrt()
    assert np.allclose(gradient_map(mixing, face, probes=400), exact, rtol=0.1)
    assert mixing.weight.grad is None


def test_the_edge_map_sees_an_edge_where_it_is():
    face = torch.full((1, 3, 8, 8), -1.0)
    face[..., 4:] = 1
    edges = sobel_map(face)
    assert (edges[:, 3:5] > 0.5).all()
    assert np.allclose(np.delete(edges, (3, 4), axis=1), 0)


def test_a_unit_of_hand_set_attention_is_the_map_that_is_tested():
    one = subject()
    for _, unit in one.model.units():
        torch.nn.init.zeros_(unit.attention.weight)
        torch.nn.init.constant_(unit.attention.bias, np.log(0.3 / 0.7))
    maps = saliency_maps(one, ["body.0"], draws=2, seed=0)
    assert list(maps) == [ALPHA, SCALED, "body.0", GRADIENT, SOBEL, f"{RANDOM} 1", f"{RANDOM} 2"]
    assert np.allclose(maps[ALPHA], 0.3)
    assert np.allclose(maps["body.0"], 0.3)
    assert {saliency.shape for saliency in maps.values()} == {(32, 32)}


def test_a_study_tells_the_same_numbers_again_and_leaves_the_network_alone(tmp_path):
    one = subject()
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    found = study(one, ["body.0"], **QUICK)
    found.save(tmp_path)
    told = json.loads((tmp_path / "faithfulness.json").read_text())
    assert list(told["scores"]) == [ALPHA, SCALED, "body.0", GRADIENT, SOBEL, RANDOM]
    assert told["percent"] == [25, 50]
    maps = saliency_maps(one, ["body.0"], draws=1, seed=0)
    for name, saliency in ((SOBEL, sobel_map(one.degraded)), ("body.0", maps["body.0"]), (GRADIENT, maps[GRADIENT])):
        expected = deletion(one.model, one.degraded, saliency, 8, 2)
        assert told["scores"][name] == pytest.approx(expected.scores())
        assert np.allclose(found.arrays[f"{name}.most"], expected.most)
    assert all(torch.equal(value, before[name]) for name, value in one.model.state_dict().items())
    assert all(weight.grad is None for weight in one.model.parameters())


def test_the_figure_shows_each_map_once_and_its_own_curves():
    found = study(subject(), **QUICK)
    titles = [axes.get_title(loc="left") for axes in found.figure.axes if axes.images]
    assert titles == ["input", ALPHA, SCALED, GRADIENT, SOBEL, f"{RANDOM} 1"]
    (chart,) = (axes for axes in found.figure.axes if axes.get_xlabel() == "cells damaged, %")
    curves = {line.get_label(): line.get_ydata() for line in chart.lines}
    for name in (ALPHA, GRADIENT, SOBEL):
        for end in ("most", "least"):
            assert np.allclose(curves[f"{name}, {end} salient"], found.arrays[f"{name}.{end}"][0])


def test_over_a_folder_the_scores_are_the_means_and_the_leads_are_face_by_face(tmp_path):
    subjects = [subject(seed) for seed in range(3)]
    found = study_many(subjects, **QUICK)
    found.save(tmp_path)
    scores = []
    for i, one in enumerate(subjects):
        maps = saliency_maps(one, (), 1, i)
        tests = {name: deletion(one.model, one.degraded, maps[name], 8, 2, i) for name in (ALPHA, SCALED, SOBEL)}
        scores.append({name: curves.scores() for name, curves in tests.items()})
    edges = [face[SOBEL]["elsewhere"] for face in scores]
    measured = found.numbers["scores"]
    assert measured[ALPHA]["elsewhere"]["mean"] == pytest.approx(np.mean([face[ALPHA]["elsewhere"] for face in scores]))
    assert min(edges) <= measured[SOBEL]["elsewhere"]["low"] < np.mean(edges) < measured[SOBEL]["elsewhere"]["high"]
    lead = np.mean([face[SCALED][PER_DAMAGE] - face[SOBEL][PER_DAMAGE] for face in scores])
    assert found.numbers["lead_of_attention"][SOBEL]["mean"] == pytest.approx(lead)


def test_what_cannot_be_tested_is_refused_with_what_to_do():
    with pytest.raises(UserError, match=r"no attention in body\.7.*encoder\.0"):
        study(subject(), ["body.7"], **QUICK)
    with pytest.raises(UserError, match="has no attention"):
        study(subject(attention="none"), **QUICK)
    with pytest.raises(UserError, match="gates whole channels"):
        study(subject(attention="channel"), **QUICK)
    with pytest.raises(UserError, match="at least two faces"):
        study_many([subject()], **QUICK)
    with pytest.raises(UserError, match="one model at a time"):
        study_many([subject(), Subject(subject().model, "another", random_faces())], **QUICK)


def test_several_maps_at_once_are_tested_as_each_alone_and_their_common_end_is_damaged_once():
    one, passes = subject(), []

    def network(faces):
        passes.append(len(faces))
        return one.model(faces)

    maps = list(saliency_maps(one, (), 1, 0).values())
    with torch.no_grad():
        together = deletions(network, one.degraded, maps, cells=4, levels=2)
    assert sum(passes) <= 1 + 2 + 4 * len(maps)  # untouched; every cell of each colour; half of them, most and least
    for curves, saliency in zip(together, maps, strict=True):
        alone = deletion(one.model, one.degraded, saliency, cells=4, levels=2)
        assert np.allclose(curves.most, alone.most, rtol=1e-3)
        assert np.allclose(curves.least, alone.least, rtol=1e-3)
