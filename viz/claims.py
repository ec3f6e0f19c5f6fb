"""What the numbers of a population allow to be said, in words.

Finding.numbers, .arrays -> above, below or not told apart from nothing, by the 95 % interval -> Claim: words, yes or no
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy import ndarray

from sparnet.metrics import estimates, labelled
from sparnet.regions import OUTLINES
from viz.instruments.effect import ELSEWHERE, PER_CHANGE
from viz.instruments.faithfulness import ALPHA, GRADIENT, PER_DAMAGE, RANDOM, SCALED, SOBEL
from viz.instruments.population import LAYOUT, OWN
from viz.instruments.regions import ALONG, COLORS, LEFT
from viz.instruments.sanity import NO_FROM, YES_BELOW, verdict
from viz.instruments.stability import INPUT, KINDS, OUTPUT

PREFERS = 1.1  # times the mean: less may be certain over many faces, but is not worth a word
COSTS = 0.01  # dB, the same
MOST = 0.5  # of a map's variance


@dataclass(frozen=True)
class Claim:
    text: str  # one or two sentences of Markdown
    shows: bool  # the maps show it; else it is what they do not show


def side(value: Mapping, at: float = 0) -> int:
    """1, -1: the interval from "low" to "high" lies above, below `at`; 0: it holds it, or there is none."""
    low, high = value["low"], value["high"]
    return 0 if low is None or high is None else int(low > at) - int(high < at)


def against(value: Mapping[str, float]) -> str:
    """`between` with its sign, and whether the interval touches chance, which is 0."""
    return between(value, sign=True) + ("" if side(value) else " (touches chance)")


def between(value: Mapping[str, float], digits: int = 2, sign: bool = False) -> str:
    """{"mean", "low", "high"} -> "0.12 [0.10, 0.14]"; "none" without a mean."""
    if value["mean"] is None:
        return "none"
    form = f"{'+' if sign else ''}.{digits}f"
    ends = f" [{value['low']:{form}}, {value['high']:{form}}]" if value["low"] is not None else ""
    return f"{value['mean']:{form}}{ends}"


def parts(regions: Mapping, attention: Mapping) -> Claim:
    """Do units prefer brows, eyes, nose or mouth? attention: unit -> part -> how open it is there, from 0 to 1."""
    counts = {part: preferring(regions, part) for part in OUTLINES}
    more = f"more than {100 * (PREFERS - 1):.0f} % more open"
    cells = [(unit, part) for part, (units, _, _) in counts.items() for unit in units]
    if not cells:
        return Claim(
            f"**No part of the face.** No unit is {more} at brows, eyes, nose or mouth than over the picture.", False
        )
    unit, part = max(cells, key=lambda cell: regions["ratios"][cell[0]][cell[1]]["mean"])
    numbers = ", ".join(f"{part} {len(units)}" for part, (units, _, _) in counts.items())
    return Claim(
        f"**Parts of the face.** `{unit}` is {between(regions['ratios'][unit][part])} times as open at the {part} as "
        f"over the whole picture, the strongest preference for such a part: {between(attention[unit][part])} of 1 "
        f"where it averages {between(attention[unit]['picture'], 3)}. Units of {len(regions['ratios'])} that are "
        f"{more} than their mean: {numbers}.",
        True,
    )


def moved(regions: Mapping) -> Claim:
    """Do preferences go with the face when it is moved, or stay at their places?"""
    control = regions["controls"]["all units"]
    numbers = (
        f"off by {between(control[ALONG])} doublings where the parts move along, {between(control[LEFT])} where they "
        "are left behind"
    )
    texts = {
        "content": "**Not a fixed stencil.** When the face is moved, the preferences move with it: they are "
        f"{numbers}. Any filter of the picture would do the same.",
        "place": f"**Places, not parts.** When the face is moved, the preferences stay where they were: {numbers}.",
        "undecided": f"**Parts or places** cannot be told apart by moving the face: {numbers}.",
    }
    return Claim(texts[control["tells"]], control["tells"] == "content")


def layout(population: Mapping) -> Claim:
    """Is a unit's map the layout of all aligned faces, this face's own, or neither? By shares of its variance."""
    units = population["units"]
    most = [mostly(shares) for shares in units.values()]
    count = {name: most.count(name) for name in (LAYOUT, OWN, "neither", "undecided")}
    of_all = {
        LAYOUT: "The layout of all aligned faces",
        OWN: "This face's own",
        "neither": "Neither the layout of aligned faces nor the face",
    }
    mixed = "The layout of aligned faces in some units, the face in others"
    title = next((title for name, title in of_all.items() if count[name] == len(units)), mixed)
    stages = ", ".join(
        f"{stage} {_range([units[unit][LAYOUT]['mean'] for unit in names])}"
        for stage, names in groupby(units, key=lambda unit: unit.partition(".")[0])
    )
    edges = population["edges"]
    return Claim(
        f"**{title}.** Most of a map's variance over its places is what all faces have in common in {count[LAYOUT]} of "
        f"{len(units)} units, what follows this face in {count[OWN]}, neither in {count['neither']}; in "
        f"{count['undecided']} it cannot be told. In common: {stages}. Of edges by Sobel, which know this face alone, "
        f"{between(edges[LAYOUT])} is in common and {between(edges[OWN])} follows the face.",
        count[OWN] > count[LAYOUT],
    )


def mostly(shares: Mapping[str, Mapping]) -> str:
    """What more than `MOST` of a map's variance is by its interval: "layout", "own", "neither", or "undecided"."""
    sides = {name: side(shares[name], MOST) for name in (LAYOUT, OWN)}
    return next(
        (name for name, where in sides.items() if where > 0),
        "neither" if set(sides.values()) == {-1} else "undecided",
    )


def faithful(numbers: Mapping) -> Claim:
    """Does the rest of the face depend on what is attended to, more than what the damage did to the input explains?"""
    scores = numbers["scores"]
    score = scores[SCALED][PER_DAMAGE]
    where = side(score)
    title, words = {
        1: ("Related to the result", "more, for as much damage of the input, where attention is high"),
        0: ("No better than chance", "as much, for as much damage of the input, wherever attention is"),
        -1: ("The wrong way round", "*less*, for as much damage of the input, where attention is high"),
    }[where]
    text = (
        f"**{title}.** Damage changes the rest of the face {words}: score {against(score)}, 1 perfect, 0 chance, by "
        "the mean of the maps brought to one scale; by that of the maps as they are "
        f"{against(scores[ALPHA][PER_DAMAGE])}. Whatever the damage, the score is "
        f"{against(scores[SCALED]['elsewhere'])}, but that of the input's own change is "
        f"{against(scores[SCALED]['input'])}."
    )
    units = [scores[unit][PER_DAMAGE] for unit in scores if "." in unit]
    if units:
        sides = [side(unit) for unit in units]
        text += (
            f" Of {len(units)} units' own maps {sides.count(1)} score above chance, {sides.count(-1)} below, "
            f"{sides.count(0)} touch it."
        )
    return Claim(text, where > 0)


def leads(numbers: Mapping) -> Claim:
    """Is attention better at that than a gradient, than edges, than chance?"""
    groups: dict[int, list[str]] = {1: [], 0: [], -1: []}
    for name, words in ((SOBEL, "edges by Sobel"), (GRADIENT, "the gradient"), (RANDOM, "random maps")):
        lead = numbers["lead_of_attention"][name]
        groups[side(lead)].append(f"{words} ({against(lead)})")
    found = [
        f"{words} {', '.join(groups[way])}"
        for way, words in ((1, "ahead of"), (0, "not told apart from"), (-1, "behind"))
        if groups[way]
    ]
    first = all(side(numbers["lead_of_attention"][name]) > 0 for name in (SOBEL, GRADIENT))
    title = "Better than simple maps" if first else "Not better than every simple map"
    return Claim(f"**{title}.** By the same test the mean of all attention maps is {'; '.join(found)}.", first)


def helps(effect: Mapping) -> Claim:
    """Do patches of the input that are attended to help the rest of the restoration more than others?

    By what they do elsewhere: a patch helps its own place whatever the network is.
    """
    found, edges = (effect["correlations"][name] for name in (SCALED, SOBEL))
    where, controlled = (side(found[name]) for name in (ELSEWHERE, PER_CHANGE))
    if where > 0:
        title = "Attention is where the input helps the rest of the face"
        title += "" if controlled > 0 else ", but only since it differs more there"
    else:
        title = "Attention is where the input helps less" if where else "Attention is not where the input helps"
    cells = effect["cells"][ELSEWHERE]
    return Claim(
        f"**{title}.** Rank correlation of the mean of all maps, brought to one scale, with what a patch of the input "
        f"does for the rest of the face: {against(found[ELSEWHERE])}, for as much change of the input "
        f"{against(found[PER_CHANGE])}; of edges by Sobel {against(edges[ELSEWHERE])} and "
        f"{against(edges[PER_CHANGE])}. On the mean over the faces {cells['help']} of {sum(cells.values())} patches "
        f"help the rest, {cells['harm']} harm it.",
        where > 0 and controlled > 0,
    )


def learned(sanity: Mapping) -> Claim:
    """Would the maps be there without learning?"""
    titles = ("Made by learning", "Partly there without learning", "There without learning")
    return _badge(sanity, "learning", titles, "with random weights in place of the trained ones")


def of_the_face(sanity: Mapping) -> Claim:
    """Would the maps be the same for another face?"""
    titles = ("Different from face to face", "Much alike from face to face", "The same for every face")
    return _badge(sanity, "face", titles, "for another face")


def places(ablation: Mapping) -> Claim:
    """Does it matter for the result where a unit looks? By flattening one unit's map to its mean."""
    units = replaced_by(ablation, "mean")
    top = next(iter(units))
    change = between(units[top]["rms"], 1)
    first = f"Flattening the map of `{top}` changes the restored face most, by {change} of 255 levels (RMS)"
    if "psnr_change" not in units[top]:
        return Claim(f"**Some places matter.** {first}.", True)
    changes = {unit: effects["psnr_change"] for unit, effects in units.items()}
    worse = [unit for unit, change in changes.items() if side(change, at=-COSTS) < 0]
    better = [unit for unit, change in changes.items() if side(change, at=COSTS) > 0]
    text = (
        f"{first}. Flattened one at a time, {len(worse)} of {len(units)} units cost more than {COSTS} dB of PSNR, "
        f"{len(better)} gain as much, for {len(units) - len(worse) - len(better)} neither can be told"
    )
    if not worse:
        return Claim(f"**Where they look does not pay.** {text}.", False)
    most = min(worse, key=lambda unit: changes[unit]["mean"])
    costs = between(changes[most], 3, sign=True)
    return Claim(f"**Some places matter.** {text}; `{most}` costs most, {costs} dB.", True)


def attention_at(regions: Mapping[str, ndarray], levels: ndarray, units: Iterable[str], seed: int) -> dict:
    """unit -> part -> how open the gate is there, and over the "picture": means over the faces with intervals.

    regions: the arrays of that finding, ratios (faces,units,parts); levels (faces,units): each map's mean.
    """
    inside = np.concatenate((regions["ratios"] * levels[..., None], levels[..., None]), axis=2)
    return labelled(estimates(inside, seed), list(units), [*COLORS, "picture"])


def stable(numbers: Mapping) -> str:
    """How still do the maps hold? The kind of change that they follow least, and the unit."""
    found: dict[str, dict[str, float]] = {
        kind: {
            unit: row[kind]["correlation"]["mean"]
            for unit, row in numbers["rows"].items()
            if unit not in (INPUT, OUTPUT) and row[kind]["correlation"]["mean"] is not None
        }
        for kind in KINDS
    }
    mean = {kind: float(np.mean(list(values.values()))) for kind, values in found.items() if values}
    if not mean:
        return "The maps are constant, so none can change"
    least = min(mean, key=lambda kind: mean[kind])
    unit = min(found[least], key=lambda name: found[least][name])
    return (
        f"On the mean over units the maps correlate {mean[least]:.2f} to {max(mean.values()):.2f} with themselves "
        f"after a small change; least after {least}, and there least in `{unit}`, {found[least][unit]:.2f}"
    )


def preferring(regions: Mapping, part: str) -> tuple[list[str], list[str], list[str]]:
    """Units that are more open in the part than `PREFERS` times their mean, less than its inverse, and neither."""
    groups: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for unit, ratios in regions["ratios"].items():
        above, below = side(ratios[part], PREFERS), side(ratios[part], 1 / PREFERS)
        groups[1 if above > 0 else -1 if below < 0 else 0].append(unit)
    return groups[1], groups[-1], groups[0]


def replaced_by(ablation: Mapping, mode: str) -> dict[str, Mapping]:
    """What replacing each unit's attention in this way does, the largest RMS change first."""
    return {row["unit"]: row for row in ablation["ranking"] if row["mode"] == mode}


OF = {  # the claims that each instrument's numbers allow alone
    "regions": (moved,),
    "population": (layout,),
    "ablation": (places,),
    "faithfulness": (faithful, leads),
    "effect": (helps,),
    "sanity": (learned, of_the_face),
}


def _badge(sanity: Mapping, name: str, titles: tuple[str, str, str], when: str) -> Claim:
    """By the verdict at both ends of the interval; where they differ, by the weaker one."""
    correlation = sanity["badge"][name]["correlation"]
    if correlation["mean"] is None:
        return Claim(f"**Flat maps.** Most are constant, so there is nothing to compare {when}.", False)
    order = ("yes", "weak", "no")
    found = max((verdict(correlation[end]) for end in ("low", "high")), key=order.index)
    return Claim(
        f"**{titles[order.index(found)]}.** {when[0].upper()}{when[1:]}, a map's |rank correlation| with itself is "
        f"{between(correlation)} in the median unit (below {YES_BELOW}: another map; from {NO_FROM}: the same; "
        f"unrelated maps as smooth have {between(sanity['null'])}).",
        found == "yes",
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
