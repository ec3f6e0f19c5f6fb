"""Agreement of maps: against scipy, against sets, and of networks whose maps are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import SMALL, small_network, small_subject
from scipy import stats

from sparnet.errors import UserError
from viz.instruments.agreement import (
    MapAgreement,
    correlation,
    iou,
    on_one_grid,
    pair_units,
    rank_correlation,
    shrink,
    study,
    study_many,
    top_weights,
)
from viz.subject import Subject, spatial_maps

TINY = replace(SMALL, body_depth=1)
NAMES = [plan.name for plan in TINY.units()]


def subject(seed=0, name="a", **changes):
    return small_subject(seed, small_network(seed, TINY, **changes), name)


def attending_at(level, face):
    """A subject whose every alpha is `level` everywhere."""
    one = subject(name=f"always {level}")
    for _, unit in one.model.units():
        torch.nn.init.zeros_(unit.attention.weight)
        torch.nn.init.constant_(unit.attention.bias, np.log(level / (1 - level)))
    return Subject(one.model, one.name, face)


def random_map(seed, levels=None):
    values = np.random.default_rng(seed).random((16, 16), np.float32)
    return values if levels is None else np.round(values * levels) / levels


@pytest.mark.parametrize("levels", [None, 5])
def test_correlations_are_scipys_ties_or_not(levels):
    first, other = random_map(1, levels), random_map(2, levels) + random_map(1, levels)
    assert correlation(first, other) == pytest.approx(stats.pearsonr(first.ravel(), other.ravel()).statistic)
    assert rank_correlation(first, other) == pytest.approx(stats.spearmanr(first.ravel(), other.ravel()).statistic)


def test_a_map_agrees_with_itself_and_not_with_its_complement():
    alpha = random_map(3)
    same, opposite = MapAgreement.of(alpha, alpha), MapAgreement.of(alpha, 1 - alpha)
    assert (same.iou, same.difference, same.rms_difference) == (1, 0, 0)
    assert (same.pearson, same.spearman) == (pytest.approx(1), pytest.approx(1))
    assert opposite.iou == 0
    assert (opposite.pearson, opposite.spearman) == (pytest.approx(-1), pytest.approx(-1))


def test_the_difference_is_signed():
    low, high = np.full((4, 4), 0.2, np.float32), np.full((4, 4), 0.5, np.float32)
    assert MapAgreement.of(low, high).difference == pytest.approx(-0.3)
    assert MapAgreement.of(high, low).rms_difference == pytest.approx(0.3)


@pytest.mark.parametrize("noise", [0, 1e-8])
def test_a_constant_map_has_no_correlation_even_if_it_is_constant_only_but_for_rounding(noise):
    constant = np.full((16, 16), 0.3) + noise * random_map(4)
    assert correlation(constant, random_map(5)) is None
    assert rank_correlation(random_map(5), constant) is None


def test_without_ties_the_overlap_is_that_of_two_sets():
    first, other = (np.random.default_rng(seed).permutation(100).reshape(10, 10) for seed in (6, 7))
    sets = [{place for place in range(100) if values.flat[place] >= 80} for values in (first, other)]
    assert iou(first, other) == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))


@pytest.mark.parametrize("share", [0.2, 0.33])
@pytest.mark.parametrize("levels", [None, 4, 0.1])
def test_the_top_has_exactly_its_share_and_equal_values_share_it(share, levels):
    values = random_map(8, levels)
    weights = top_weights(values, share)
    assert weights.sum() == pytest.approx(share * values.size)
    for level in np.unique(values):
        assert len(np.unique(weights[values == level])) == 1
    order = np.argsort(values, axis=None)
    assert (np.diff(weights.ravel()[order]) >= 0).all()


def test_two_constant_maps_have_no_top_and_a_constant_map_overlaps_any_other_by_chance():
    constant = np.full((10, 10), 0.7)
    assert (top_weights(constant) == 0.2).all()
    other = np.random.default_rng(9).permutation(100).reshape(10, 10)
    assert iou(constant, other) == pytest.approx(0.2 / 1.8)


def test_maps_meet_on_the_smaller_grid_as_means_over_area():
    large, small = random_map(10), random_map(11)[:4, :4]
    reduced, same = on_one_grid(large, small)
    assert np.allclose(reduced, large.reshape(4, 4, 4, 4).mean((1, 3)))
    assert np.array_equal(same, small)
    back = on_one_grid(small, large)
    assert np.array_equal(back[0], same)
    assert np.array_equal(back[1], reduced)


def test_resampling_keeps_constants_and_means_where_the_sides_do_not_divide():
    assert np.allclose(shrink(np.full((12, 12), 0.4, np.float32), 5), 0.4)
    assert shrink(random_map(12), 5).mean() == pytest.approx(random_map(12).mean(), abs=1e-6)


def test_units_pair_by_name_and_the_others_by_their_depth_in_the_same_part():
    short = ["encoder.0", "body.0", "body.1", "decoder.0"]
    long = ["encoder.0", "body.0", "body.1", "body.2", "body.3", "decoder.0"]
    pairs = {(pair.first, pair.other): pair.by for pair in pair_units(short, long)}
    assert pairs == {
        ("encoder.0", "encoder.0"): "name",
        ("body.0", "body.0"): "name",
        ("body.1", "body.1"): "name",
        ("body.1", "body.2"): "depth",
        ("body.1", "body.3"): "depth",
        ("decoder.0", "decoder.0"): "name",
    }
    turned = {(pair.other, pair.first): pair.by for pair in pair_units(long, short)}
    assert turned == pairs


def test_a_part_that_one_network_lacks_pairs_by_depth_in_the_whole():
    pairs = pair_units(["encoder.0", "body.0", "body.1", "decoder.0"], ["encoder.0", "decoder.0", "decoder.1"])
    assert [(pair.first, pair.other) for pair in pairs] == [
        ("encoder.0", "encoder.0"),
        ("body.0", "decoder.0"),  # 3/8 of the way falls into the second third
        ("body.1", "decoder.0"),
        ("decoder.0", "decoder.0"),
        ("decoder.0", "decoder.1"),
    ]


def test_a_network_agrees_with_itself():
    one = subject()
    finding = study(one, one)
    assert [row["first"] for row in finding.numbers["pairs"]] == NAMES
    for row in finding.numbers["pairs"]:
        assert (row["by"], row["iou"], row["rms_difference"]) == ("name", 1, 0)
        assert row["pearson"] == pytest.approx(1)


def test_known_maps_give_known_differences():
    face = subject().degraded
    finding = study(attending_at(0.7, face), attending_at(0.4, face))
    for row in finding.numbers["pairs"]:
        assert row["difference"] == pytest.approx(0.3, abs=1e-6)
        assert row["pearson"] is None
    assert np.allclose(finding.arrays["body.0/first"] - finding.arrays["body.0/other"], 0.3)


def test_networks_of_other_sizes_and_kinds_meet_on_one_grid():
    finding = study(subject(), subject(1, "b", size=64, smallest=8, attention="3d", body_depth=2))
    sides = {row["first"]: row["side"] for row in finding.numbers["pairs"]}
    assert sides["encoder.0"] == 16
    names = {row["other"] for row in finding.numbers["pairs"]}
    assert names == {plan.name for plan in replace(TINY, size=64, body_depth=2).units()}


def test_the_figure_shows_every_pair_and_its_difference_centred_at_zero():
    finding = study(subject(), subject(1, "b"))
    panels = [axes.images[0] for axes in finding.figure.axes if axes.images]
    assert len(panels) == 4 + 3 * len(NAMES)
    for first, other, difference in zip(panels[4::3], panels[5::3], panels[6::3], strict=True):
        assert first.get_clim() == other.get_clim() == (0, 1)
        assert sum(difference.get_clim()) == 0
        assert np.allclose(difference.get_array(), first.get_array() - other.get_array())


def test_over_faces_the_mean_is_that_of_the_single_faces_and_lies_in_its_interval(tmp_path):
    couples = [(subject(seed), subject(seed + 10, "b")) for seed in range(3)]
    finding = study_many(*zip(*couples, strict=True), seed=3)
    for i, row in enumerate(finding.numbers["pairs"]):
        maps = [[spatial_maps(one)[NAMES[i]] for one in couple] for couple in couples]
        values = [np.corrcoef(first.ravel(), other.ravel())[0, 1] for first, other in maps]
        assert row["pearson"]["mean"] == pytest.approx(np.mean(values), abs=1e-5)
        assert min(values) - 1e-5 <= row["pearson"]["low"] < row["pearson"]["mean"] < row["pearson"]["high"]
    assert finding.numbers["couples"] == 3
    assert len(finding.save(tmp_path)) == 3


def test_what_cannot_be_compared_is_told():
    with pytest.raises(UserError, match="no attention"):
        study(subject(), subject(attention="none", bottleneck=None))
    with pytest.raises(UserError, match="at least one face"):
        study_many([], [])
    with pytest.raises(UserError, match="Not all faces are of a and b"):
        study_many([subject()] * 2, [subject(name=name) for name in "bc"])
