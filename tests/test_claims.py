"""What may be said, on numbers planted on both sides of each claim and in between."""

import re

import numpy as np
import pytest

from viz import claims
from viz.instruments.faithfulness import ALPHA, GRADIENT, RANDOM, SOBEL
from viz.instruments.regions import ALONG, COLORS, LEFT, OTHER, STRENGTH

WAYS = {1: (0.1, 0.3), 0: (-0.1, 0.3), -1: (-0.3, -0.1)}  # intervals above 0, about it, below


def value(low, high):
    return {"mean": (low + high) / 2, "low": low, "high": high}


def regions(eyes=(0.9, 1.2), tells="content", differ=0):
    """Two units; of the first the interval at the eyes, of `differ` cells one that leaves out 0."""
    cells = [(0.1, 0.2)] * differ + [(-0.1, 0.1)] * (2 * len(COLORS) - differ)
    ratios, differences = {}, {}
    for i, unit in enumerate(("body.0", "body.1")):
        ends = dict(zip(COLORS, cells[i * len(COLORS) :], strict=False))
        ratios[unit] = {part: value(1, 1) for part in COLORS}
        differences[unit] = {part: value(*interval) for part, interval in ends.items()}
    ratios["body.0"]["eyes"] = value(*eyes)
    names = (STRENGTH, OTHER, LEFT, ALONG)
    controls = {"all units": {"tells": tells} | {name: value(0.4, 0.6) for name in names}}
    return {"ratios": ratios, "own_minus_another": differences, "controls": controls}


def faithfulness(score=1, sobel=1, gradient=1, random=1):
    leads = {SOBEL: sobel, GRADIENT: gradient, RANDOM: random}
    return {
        "scores": {ALPHA: {"elsewhere": value(*WAYS[score])}},
        "lead_of_attention": {name: value(*WAYS[way]) for name, way in leads.items()},
    }


def ablation(changes, psnr=True):
    """Arrays of units whose flattening changes PSNR by these intervals, the first the most in RMS."""
    rms = np.arange(len(changes), 0, -1.0)[:, None] * (1, 2)
    arrays = {"units": np.array([f"body.{i}" for i in range(len(changes))]), "modes": np.array(["zero", "mean"])}
    arrays |= {"rms": rms, "rms_low": rms - 0.5, "rms_high": rms + 0.5}
    if psnr:
        for name, numbers in (("_low", [low for low, _ in changes]), ("", [sum(c) / 2 for c in changes]),
                              ("_high", [high for _, high in changes])):  # fmt: skip
            arrays[f"psnr_change{name}"] = np.array(numbers)[:, None] * (0, 1)
    return arrays


@pytest.mark.parametrize(
    ("low", "high", "way"),
    [(0.1, 0.2, 1), (-0.2, -0.1, -1), (-0.1, 0.1, 0), (0, 0.1, 0), (None, 0.1, 0), (np.nan, np.nan, 0)],
)
def test_the_side_of_an_interval(low, high, way):
    assert claims.side(low, high) == way
    assert claims.side(0.9, 1.05, at=1) == 0


@pytest.mark.parametrize(
    ("eyes", "words", "shows"),
    [((2, 3), r"`body.0` is 2.50 \[2.00, 3.00\] times as open at the eyes", True),
     ((1.05, 1.09), "No part of the face", False), ((0.9, 3), "No part of the face", False),
     ((0.1, 0.2), "No part of the face", False)],
)  # fmt: skip
def test_a_part_is_preferred_if_the_interval_lies_well_above_the_mean(eyes, words, shows):
    claim = claims.parts(regions(eyes))
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


@pytest.mark.parametrize(("differ", "shows"), [(0, False), (1, False), (2, True), (12, True)])
def test_another_faces_map_differs_in_more_cells_than_by_chance(differ, shows):
    claim = claims.individual(regions(differ=differ))
    assert f"in {differ} of 12 cells" in claim.text
    assert claim.shows == shows
    assert claim.text.startswith("**More than" if shows else "**Not more than")


@pytest.mark.parametrize(
    ("way", "words"), [(1, "Related to the result"), (0, "No better than chance"), (-1, "The wrong way round")]
)
def test_faithful_by_the_interval_of_the_score(way, words):
    claim = claims.faithful(faithfulness(score=way))
    assert words in claim.text
    assert claim.shows == (way > 0)


def test_leads_are_sorted_by_their_intervals():
    text = claims.leads(faithfulness(sobel=-1, gradient=0, random=1)).text
    assert "ahead of random maps (+0.20" in text
    assert "not told apart from the gradient (+0.10" in text
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
    badge = {"correlation": value(low, high)}
    claim = claims.learned({"badge": {"learning": badge}})
    assert title in claim.text
    assert claim.shows == (high < 0.5)
    assert "constant" in claims.of_the_face({"badge": {"face": {"correlation": {"mean": None}}}}).text


def test_places_matter_if_flattening_costs_psnr():
    claim = claims.places(ablation([(-0.3, -0.2), (-0.02, 0.02), (0.1, 0.2)]))
    assert claim.shows
    assert "`body.0` changes the restored face most, by 6.0 [5.5, 6.5] of 255" in claim.text
    assert "1 of 3 units cost" in claim.text
    assert "1 gain as much, for 1 neither" in claim.text
    assert "`body.0` costs most, -0.250 [-0.300, -0.200] dB" in claim.text
    assert not claims.places(ablation([(-0.009, -0.001), (0.1, 0.2)])).shows  # certain, and next to nothing
    assert "PSNR" not in claims.places(ablation([(0, 0)], psnr=False)).text


@pytest.mark.parametrize(("sign", "words"), [(1, "matters more:"), (-1, "matters less:"), (0, "does not tell")])
def test_openness_and_effect_over_the_units(sign, words):
    generator = np.random.default_rng(0)
    levels = generator.random((40, 8))
    effects = sign * levels + generator.random((40, 8)) * (1 if sign else 100)
    arrays = {"modes": np.array(["mean", "zero"]), "rms_of_faces": np.stack((-effects, effects), axis=2)}
    found, text = claims.openness(arrays, levels, seed=0)
    assert words in text
    assert found["low"] < found["mean"] < found["high"]


def test_the_stillest_and_the_least_still():
    def rows(**values):
        return {kind: {"correlation": {"mean": values.get(kind, 1.0)}} for kind in ("noise", "jpeg", "shift", "flip")}

    numbers = {"rows": {"input": rows(flip=0), "a": rows(shift=0.5), "b": rows(shift=0.9, flip=None), "output": rows()}}
    assert claims.stable(numbers).endswith("correlate 0.70 to 1.00 with themselves after a small change; least after "
                                           "shift, and there least in `a`, 0.50")  # fmt: skip
