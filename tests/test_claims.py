"""What may be said, on numbers planted on both sides of each claim and in between."""

import re

import numpy as np
import pytest

from sparnet.metrics import estimates, labelled
from viz import claims
from viz.instruments.effect import ELSEWHERE, PER_CHANGE, WHOLE
from viz.instruments.faithfulness import ALPHA, GRADIENT, PER_DAMAGE, RANDOM, SCALED, SCORES, SOBEL
from viz.instruments.population import LAYOUT, OWN, Shares
from viz.instruments.regions import ALONG, COLORS, LEFT, OTHER, STRENGTH

WAYS = {1: (0.1, 0.3), 0: (-0.1, 0.3), -1: (-0.3, -0.1)}  # intervals above 0, about it, below


def value(low, high):
    return {"mean": (low + high) / 2, "low": low, "high": high}


def regions(eyes=(0.9, 1.2), tells="content"):
    """Two units; of the first the interval at the eyes."""
    ratios = {unit: {part: value(1, 1) for part in COLORS} for unit in ("body.0", "body.1")}
    ratios["body.0"]["eyes"] = value(*eyes)
    names = (STRENGTH, OTHER, LEFT, ALONG)
    controls = {"all units": {"tells": tells} | {name: value(0.4, 0.6) for name in names}}
    return {"ratios": ratios, "controls": controls}


ATTENTION = {"body.0": {"eyes": value(0.2, 0.4), "picture": value(0.1, 0.2)}}


def faithfulness(score=1, sobel=1, gradient=1, random=1, raw=1, units=()):
    """`score` of the maps of one scale for as much damage, `raw` whatever the damage; of units' own maps."""
    leads = {SOBEL: sobel, GRADIENT: gradient, RANDOM: random}
    maps = {SCALED: score, ALPHA: score} | {f"body.{i}": way for i, way in enumerate(units)}
    return {
        "scores": {
            name: {measure: value(*WAYS[raw]) for measure in SCORES} | {PER_DAMAGE: value(*WAYS[way])}
            for name, way in maps.items()
        },
        "lead_of_attention": {name: value(*WAYS[way]) for name, way in leads.items()},
    }


def population(kinds, faces=40, seed=0):
    """What is found over made-up maps of 16x16: "layout" the same for all faces, "content" that of a random picture.

    "content" moves with its picture, "noise" is another map at every look.
    """
    generator = np.random.default_rng(seed)
    shares, rows = Shares(), []
    layouts = {unit: generator.random((16, 16)) for unit in (*kinds, "edges")}
    for _ in range(faces):
        picture = generator.random((20, 20))
        looks = [  # at the face, and at the face moved right and down by two cells of its map
            {
                unit: {"layout": layouts[unit], "content": window, "noise": generator.random((16, 16)),
                       "both": layouts[unit] + window}[kind]
                for unit, kind in (kinds | {"edges": "content"}).items()
            }
            for window in (picture[2:18, 2:18], picture[:16, :16])
        ]  # fmt: skip
        rows.append(shares.add(*looks))
    *units, edges = labelled(estimates(np.array(rows), seed), [*kinds, "edges"], (LAYOUT, OWN)).values()
    return {"units": dict(zip(kinds, units, strict=True)), "edges": edges}


def ablation(changes, psnr=True):
    """Units whose flattening changes PSNR by these intervals, the first the most in RMS; closing changes nothing."""
    rows = []
    for i, (low, high) in enumerate(changes):
        rms = 2 * (len(changes) - i)
        flattened = {"unit": f"body.{i}", "mode": "mean", "rms": value(rms - 0.5, rms + 0.5)}
        closed = {"unit": f"body.{i}", "mode": "zero", "rms": value(0, 0)}
        if psnr:
            flattened["psnr_change"], closed["psnr_change"] = value(low, high), value(0, 0)
        rows += [flattened, closed]
    return {"ranking": rows}


@pytest.mark.parametrize(
    ("low", "high", "way"),
    [(0.1, 0.2, 1), (-0.2, -0.1, -1), (-0.1, 0.1, 0), (0, 0.1, 0), (None, 0.1, 0), (np.nan, np.nan, 0)],
)
def test_the_side_of_an_interval(low, high, way):
    assert claims.side({"low": low, "high": high}) == way
    assert claims.side({"low": 0.9, "high": 1.05}, at=1) == 0


@pytest.mark.parametrize(
    ("eyes", "words", "shows"),
    [((2, 3), r"`body.0` is 2.50 \[2.00, 3.00\] times as open at the eyes .+ 0.30 \[0.20, 0.40\] of 1 where", True),
     ((1.05, 1.09), "No part of the face", False), ((0.9, 3), "No part of the face", False),
     ((0.1, 0.2), "No part of the face", False)],
)  # fmt: skip
def test_a_part_is_preferred_if_the_interval_lies_well_above_the_mean(eyes, words, shows):
    claim = claims.parts(regions(eyes), ATTENTION)
    assert claim.shows == shows
    assert re.search(words, claim.text)


def test_units_are_counted_above_below_and_between():
    for eyes, groups in (((2, 3), (["body.0"], [], ["body.1"])), ((0.5, 0.6), ([], ["body.0"], ["body.1"]))):
        assert claims.preferring(regions(eyes), "eyes") == groups
    assert claims.preferring(regions((0.95, 1.3)), "eyes") == ([], [], ["body.0", "body.1"])


@pytest.mark.parametrize(
    ("tells", "words", "shows"),
    [("content", "move with it", True), ("place", "stay where they", False), ("undecided", "cannot be told", False)],
)  # fmt: skip
def test_what_moving_the_face_tells(tells, words, shows):
    claim = claims.moved(regions(tells=tells))
    assert words in claim.text
    assert claim.shows == shows


@pytest.mark.parametrize(
    ("kind", "title", "layout", "own"),
    [
        ("layout", "The layout of all aligned faces", 1, 0),
        ("content", "This face's own", 0, 1),
        ("noise", "Neither the layout of aligned faces nor the face", 0, 0),
    ],
)
def test_a_population_of_known_maps_gets_its_sentence(kind, title, layout, own):
    numbers = population({"encoder.0": kind, "body.0": kind, "body.1": kind})
    claim = claims.layout(numbers)
    assert claim.text.startswith(f"**{title}.**")
    assert claim.shows == (kind == "content")
    for shares in numbers["units"].values():
        assert shares[LAYOUT]["mean"] == pytest.approx(layout, abs=0.05)
        assert shares[OWN]["mean"] == pytest.approx(own, abs=0.05)
    assert numbers["edges"][OWN]["mean"] == pytest.approx(1, abs=0.05)  # beside which it stands


def test_a_mixed_population_is_counted_unit_by_unit():
    numbers = population({"encoder.0": "content", "body.0": "layout", "body.1": "both", "decoder.0": "noise"})
    both = numbers["units"].pop("body.1")
    assert both[LAYOUT]["mean"] == pytest.approx(0.5, abs=0.1)
    assert both[LAYOUT]["mean"] + both[OWN]["mean"] == pytest.approx(1, abs=0.05)
    assert [claims.mostly(shares) for shares in numbers["units"].values()] == [OWN, LAYOUT, "neither"]
    numbers["units"]["body.1"] = {LAYOUT: value(0.4, 0.6), OWN: value(0.3, 0.45)}
    claim = claims.layout(numbers)
    assert "in some units, the face in others" in claim.text
    assert "in 1 of 4 units, what follows this face in 1, neither in 1; in 1 it cannot be told" in claim.text
    assert not claim.shows


def test_what_is_known_of_the_first_face_and_of_a_constant_map_is_nothing():
    shares = Shares()
    flat, maps = {"body.0": np.ones((16, 16))}, {"body.0": np.random.default_rng(0).random((16, 16))}
    assert np.isnan(shares.add(maps, maps)).all()
    assert np.isnan(shares.add(flat, flat)).all()
    assert np.isfinite(shares.add(maps, maps)).all()


@pytest.mark.parametrize(
    ("way", "words"), [(1, "Related to the result"), (0, "No better than chance"), (-1, "The wrong way round")]
)
def test_faithful_by_the_score_for_as_much_damage_and_not_by_the_other(way, words):
    for raw in WAYS:
        claim = claims.faithful(faithfulness(score=way, raw=raw))
        assert words in claim.text
        assert claim.shows == (way > 0)
        assert claim.text.count("touches chance") == 2 * (way == 0) + 2 * (raw == 0)
    units = claims.faithful(faithfulness(units=(1, 1, -1, 0))).text
    assert "Of 4 units' own maps 2 score above chance, 1 below, 1 touch it" in units


@pytest.mark.parametrize(
    ("rest", "per_change", "title", "shows"),
    [
        (1, 1, "Attention is where the input helps the rest of the face", True),
        (1, 0, "Attention is where the input helps the rest of the face, but only since it differs more there", False),
        (1, -1, "Attention is where the input helps the rest of the face, but only since it differs more there", False),
        (0, 1, "Attention is not where the input helps", False),
        (-1, -1, "Attention is where the input helps less", False),
    ],
)
def test_whether_attention_is_where_the_input_helps(rest, per_change, title, shows):
    found = {WHOLE: value(*WAYS[1]), ELSEWHERE: value(*WAYS[rest]), PER_CHANGE: value(*WAYS[per_change])}
    cells = {"help": 40, "harm": 4, "neither": 20}
    claim = claims.helps({"correlations": {SCALED: found, SOBEL: found}, "cells": {ELSEWHERE: cells}})
    assert claim.text.startswith(f"**{title}.**")
    assert "40 of 64 patches help the rest, 4 harm it" in claim.text
    assert claim.shows == shows


def test_leads_are_sorted_by_their_intervals():
    text = claims.leads(faithfulness(sobel=-1, gradient=0, random=1)).text
    assert "ahead of random maps (+0.20" in text
    assert "not told apart from the gradient (+0.10 [-0.10, +0.30] (touches chance))" in text
    assert "behind edges by Sobel (-0.20" in text
    assert claims.leads(faithfulness()).shows
    assert "behind" not in claims.leads(faithfulness()).text
    assert not claims.leads(faithfulness(gradient=0)).shows
    assert claims.leads(faithfulness(random=-1)).shows  # chance has a claim of its own


@pytest.mark.parametrize(
    ("low", "high", "title"),
    [(0.1, 0.2, "Made by learning"), (0.4, 0.6, "Partly"), (0.6, 0.7, "Partly"), (0.7, 0.9, "There without learning")],
)
def test_a_badge_is_the_weaker_of_its_ends(low, high, title):
    null = value(0.1, 0.2)
    claim = claims.learned({"badge": {"learning": {"correlation": value(low, high)}}, "null": null})
    assert title in claim.text
    assert "unrelated maps as smooth have 0.15 [0.10, 0.20]" in claim.text
    assert claim.shows == (high < 0.5)
    constant = {"badge": {"face": {"correlation": {"mean": None, "low": None, "high": None}}}, "null": null}
    assert "constant" in claims.of_the_face(constant).text


def test_places_matter_if_flattening_costs_psnr():
    claim = claims.places(ablation([(-0.3, -0.2), (-0.02, 0.02), (0.1, 0.2)]))
    assert claim.shows
    assert "`body.0` changes the restored face most, by 6.0 [5.5, 6.5] of 255" in claim.text
    assert "1 of 3 units cost" in claim.text
    assert "1 gain as much, for 1 neither" in claim.text
    assert "`body.0` costs most, -0.250 [-0.300, -0.200] dB" in claim.text
    assert not claims.places(ablation([(-0.009, -0.001), (0.1, 0.2)])).shows  # certain, and next to nothing
    assert "PSNR" not in claims.places(ablation([(0, 0)], psnr=False)).text


def test_how_open_a_gate_is_at_a_part_is_its_ratio_times_its_level_face_by_face():
    generator = np.random.default_rng(0)
    ratios, levels = generator.random((5, 2, len(COLORS))), generator.random((5, 2))
    found = claims.attention_at({"ratios": ratios}, levels, ["body.0", "body.1"], seed=0)
    eyes = list(COLORS).index("eyes")
    assert found["body.1"]["eyes"]["mean"] == pytest.approx((ratios[:, 1, eyes] * levels[:, 1]).mean())
    assert found["body.0"]["picture"]["mean"] == pytest.approx(levels[:, 0].mean())


def test_the_stillest_and_the_least_still():
    def rows(**values):
        return {kind: {"correlation": {"mean": values.get(kind, 1.0)}} for kind in ("noise", "jpeg", "shift", "flip")}

    numbers = {"rows": {"input": rows(flip=0), "a": rows(shift=0.5), "b": rows(shift=0.9, flip=None), "output": rows()}}
    assert claims.stable(numbers).endswith("correlate 0.70 to 1.00 with themselves after a small change; least after "
                                           "shift, and there least in `a`, 0.50")  # fmt: skip
