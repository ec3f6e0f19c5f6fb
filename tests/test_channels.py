"""Channels of 3D attention: on maps made for one answer, and against numpy and scipy."""

import json
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from made_up import SMALL, small_network, small_subject
from scipy.stats import entropy

from sparnet.errors import UserError
from viz.instruments.channels import ChannelNumbers, channel_maps, clusters, mean_effect, study
from viz.subject import Subject

TINY = replace(SMALL, body_depth=1)


def subject(equal: bool = False, **changes) -> Subject:
    """A small network, all channels of an alpha the same if `equal`, in front of noise."""
    model = small_network(0, TINY, **({"attention": "3d"} | changes))
    with torch.no_grad():
        for _, unit in model.units():
            if equal:
                unit.attention.weight.copy_(unit.attention.weight[:1].expand_as(unit.attention.weight))
                unit.attention.bias.fill_(0.3)
    return small_subject(model=model)


def patterns(count, side=12, seed=0):
    return np.random.default_rng(seed).uniform(0.2, 0.8, (count, side, side))


def test_the_mean_explains_all_of_equal_channels_and_nothing_of_levels():
    place, level = patterns(1), patterns(9, side=1)
    assert astuple(ChannelNumbers.of(np.repeat(place, 9, axis=0))) == pytest.approx((9, 1, 0, 0))
    assert astuple(ChannelNumbers.of(np.tile(level, (1, 12, 12)))) == pytest.approx((9, 0, 1, 0))
    added = ChannelNumbers.of((place + level) / 2)
    assert added.only_3d == pytest.approx(0)
    assert min(added.place, added.channel) > 0.1
    assert ChannelNumbers.of(np.full((9, 12, 12), 0.4, np.float32)).place == 1


def test_the_share_of_places_is_the_squared_correlation_with_the_channel_mean():
    alpha = patterns(6) + patterns(1, seed=1) + patterns(6, side=1, seed=2)
    numbers = ChannelNumbers.of(alpha)
    mean = np.broadcast_to(alpha.mean(axis=0), alpha.shape)
    assert numbers.place == pytest.approx(np.corrcoef(alpha.ravel(), mean.ravel())[0, 1] ** 2)
    assert numbers.place + numbers.channel + numbers.only_3d == pytest.approx(1)
    unrelated = ChannelNumbers.of(patterns(20, side=64))
    assert unrelated.place == pytest.approx(1 / 20, rel=0.05)


def test_maps_over_the_channels_equal_those_of_numpy_and_scipy():
    alpha = patterns(5).astype(np.float32)
    maps = channel_maps(alpha)
    for name, expected in {"mean": np.mean, "max": np.max, "spread": np.std}.items():
        assert np.allclose(maps[name], expected(alpha, axis=0))
    assert np.allclose(maps["in_use"], np.exp(entropy(alpha, axis=0)) / 5)
    alone = np.zeros((5, 1, 1))
    alone[2] = 0.7
    assert channel_maps(alone)["in_use"].item() == pytest.approx(1 / 5)
    assert channel_maps(np.full((5, 1, 1), 0.7))["in_use"].item() == pytest.approx(1)


def test_channels_that_look_alike_are_found_whatever_their_level_and_contrast():
    generator = np.random.default_rng(3)
    truth = generator.permutation(np.repeat([0, 1, 2], (10, 6, 4)))
    noise = generator.normal(0, 0.02, (20, 12, 12))
    alpha = generator.uniform(0.2, 0.9, (20, 1, 1)) * patterns(3)[truth] + generator.random((20, 1, 1)) + noise
    alpha = np.concatenate((alpha, np.full((1, 12, 12), 0.5))).astype(np.float32)
    labels, kinds = clusters(alpha, 3, seed=0)
    assert np.array_equal(labels, [*truth, -1])  # the largest is the first
    assert [members for _, members, _ in kinds] == [10, 6, 4]
    assert [truth[channel] for channel, _, _ in kinds] == [0, 1, 2]
    for cluster, (channel, _, r) in enumerate(kinds):
        group = alpha[labels == cluster].reshape(-1, 144)
        assert r == pytest.approx(np.mean([np.corrcoef(a, alpha[channel].ravel())[0, 1] for a in group]), abs=1e-5)
    again = clusters(alpha, 3, seed=0)
    assert np.array_equal(again[0], labels)
    assert again[1] == kinds


def test_equal_channels_are_one_cluster_and_flat_ones_none():
    [(_, members, r)] = clusters(np.repeat(patterns(1), 5, axis=0), 4, seed=0)[1]
    assert (members, r) == (5, pytest.approx(1))
    labels, kinds = clusters(np.full((3, 4, 4), 0.5, np.float32), 4, seed=0)
    assert labels.tolist() == [-1] * 3
    assert kinds == []


def test_3d_attention_with_equal_channels_adds_nothing():
    finding = study(subject(equal=True))
    assert finding.numbers["rms_change_of_all"] == pytest.approx(0, abs=1e-4)
    for numbers in finding.numbers["units"].values():
        assert numbers["place"] == pytest.approx(1)
        assert numbers["rms_change"] == pytest.approx(0, abs=1e-4)


def test_the_effect_of_the_mean_is_that_of_an_edited_forward():
    one = subject()
    effects = mean_effect(one)
    with torch.no_grad():
        before = one.model(one.degraded)
        mean = one.model.trace(one.degraded).alphas["body.0"].mean(1)
        after = one.model.trace(one.degraded, lambda name, alpha: mean[None] if name == "body.0" else alpha).restored
    expected = 127.5 * (after.clamp(-1, 1) - before.clamp(-1, 1)).square().mean().sqrt()
    assert effects["body.0"] == pytest.approx(expected.item(), rel=1e-3)
    assert list(effects) == [*(plan.name for plan in TINY.units()), "all"]
    assert effects["all"] != pytest.approx(effects["body.0"], rel=0.1)


@pytest.mark.parametrize("attention", ["3d", "2d+channel"])
def test_a_study_keeps_every_map_and_shows_each_unit(attention):
    finding = study(subject(attention=attention), count=3, seed=5)
    json.dumps(finding.numbers, allow_nan=False)
    assert finding.numbers["seed"] == 5
    units = list(finding.numbers["units"])
    pictures = [axes for axes in finding.figure.axes if axes.images]
    assert len(pictures) == sum(4 + len(of["clusters"]) for of in finding.numbers["units"].values())
    alpha = finding.arrays[f"{units[0]}/representatives"]
    assert alpha.shape == (len(finding.numbers["units"][units[0]]["clusters"]), 16, 16)
    assert np.array_equal(pictures[4].images[0].get_array(), alpha[0])


def test_channel_attention_is_all_levels_without_groups():
    one = subject(attention="channel")
    finding = study(one)
    assert "places do not exist" in finding.meaning
    gates = one.model.trace(one.degraded).alphas["body.0"].detach().numpy().ravel()
    assert np.array_equal(finding.arrays["body.0/gates"], gates)
    assert finding.numbers["units"]["body.0"]["channel"] == pytest.approx(1)
    assert "clusters" not in finding.numbers["units"]["body.0"]


def test_one_map_a_unit_has_no_channels_to_compare():
    with pytest.raises(UserError, match=r"one attention map a unit.*3D"):
        study(subject(attention="2d"))
    with pytest.raises(UserError, match="no attention"):
        study(subject(attention="none"))
