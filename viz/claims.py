"""What the numbers of a population allow to be said, in words.

Finding.numbers, .arrays -> above, below or not told apart from nothing, by the 95 % interval -> Claim: words, yes or no
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy import ndarray

from sparnet.metrics import CONFIDENCE, estimates
from sparnet.regions import OUTLINES
from viz.instruments.agreement import rank_correlation
from viz.instruments.faithfulness import ALPHA, GRADIENT, RANDOM, SOBEL
from viz.instruments.regions import ALONG, LEFT, OTHER, STRENGTH
from viz.instruments.sanity import NO_FROM, YES_BELOW, verdict
from viz.instruments.stability import INPUT, KINDS, OUTPUT

CHANCE = 1 - CONFIDENCE  # of the cells, on average, whose interval leaves out what is true
PREFERS = 1.1  # times the mean: less may be certain over many faces, but is not worth a word
COSTS = 0.01  # dB, the same


@dataclass(frozen=True)
class Claim:
    """One finding in one or two sentences of Markdown."""

    text: str
    shows: bool  # the maps show it; else it is what they do not show


def side(low: float | None, high: float | None, at: float = 0) -> int:
    """1, -1: the interval lies above, below `at`; 0: it holds it, or there is none."""
    if low is None or high is None or np.isnan(low) or np.isnan(high):
        return 0
    return int(low > at) - int(high < at)


def between(value: Mapping[str, float], digits: int = 2, sign: bool = False) -> str:
    """{"mean", "low", "high"} -> "0.12 [0.10, 0.14]"; "none" without a mean."""
    if value["mean"] is None:
        return "none"
    form = f"{'+' if sign else ''}.{digits}f"
    ends = f" [{value['low']:{form}}, {value['high']:{form}}]" if value["low"] is not None else ""
    return f"{value['mean']:{form}}{ends}"


def parts(regions: Mapping) -> Claim:
    """Do units prefer brows, eyes, nose or mouth?"""
    counts = {part: preferring(regions, part) for part in OUTLINES}
    more = f"more than {100 * (PREFERS - 1):.0f} % more open"
    cells = [(unit, part) for part, (units, _, _) in counts.items() for unit in units]
    told = ", ".join(f"{part} {len(units)}" for part, (units, _, _) in counts.items())
    if not cells:
        return Claim(
            f"**No part of the face.** No unit is {more} at brows, eyes, nose or mouth than over the picture.", False
        )
    unit, part = max(cells, key=lambda cell: cell_of(regions, *cell)["mean"])
    return Claim(
        f"**Parts of the face.** `{unit}` is {between(cell_of(regions, unit, part))} times as open at the {part} as "
        "over the whole picture, the strongest preference for such a part. Units of "
        f"{len(regions['ratios'])} that are {more} than their mean: {told}.",
        True,
    )


def moved(regions: Mapping) -> Claim:
    """Do preferences go with the face when it is moved, or stay at their places?"""
    of = regions["controls"]["all units"]
    numbers = (
        f"off by {between(of[ALONG])} doublings where the parts move along, {between(of[LEFT])} where they are left "
        "behind"
    )
    if of["tells"] == "content":
        text = (
            "**Not a fixed stencil.** When the face is moved, the preferences move with it: they are "
            f"{numbers}. Any filter of the picture would do the same."
        )
    elif of["tells"] == "place":
        text = f"**Places, not parts.** When the face is moved, the preferences stay where they were: {numbers}."
    else:
        text = f"**Parts or places** cannot be told apart by moving the face: {numbers}."
    return Claim(text, of["tells"] == "content")


def individual(regions: Mapping) -> Claim:
    """Does the table hold this face's own map, or would anybody's do?"""
    ends = [(cell["low"], cell["high"]) for of in regions["own_minus_another"].values() for cell in of.values()]
    differ, of = sum(side(*end) != 0 for end in ends), regions["controls"]["all units"]
    numbers = (
        f"in {differ} of {len(ends)} cells of the table the mean differs (about {CHANCE * len(ends):.0f} would by "
        f"chance); face by face the preferences are off by {between(of[OTHER])} doublings, themselves "
        f"{between(of[STRENGTH])} strong"
    )
    if differ > 2 * CHANCE * len(ends):
        return Claim(f"**More than the layout of aligned faces.** Laid under another face's map, {numbers}.", True)
    return Claim(
        "**Not more than the layout of aligned faces, on the mean.** Laid under the map of another face, the parts of "
        f"this one are preferred as much: {numbers}.",
        False,
    )


def faithful(numbers: Mapping) -> Claim:
    """Does the rest of the face depend on what is attended to, more than by chance?"""
    score = numbers["scores"][ALPHA]["elsewhere"]
    told = f"score {between(score, sign=True)}, 1 perfect, 0 chance"
    where = side(score["low"], score["high"])
    if where > 0:
        text = f"**Related to the result.** Damage where attention is high changes the rest of the face more: {told}."
    elif where < 0:
        text = f"**The wrong way round.** Damage where attention is *low* changes the rest of the face more: {told}."
    else:
        text = f"**No better than chance.** The rest of the face does not depend more on what is attended to: {told}."
    return Claim(text, where > 0)


def leads(numbers: Mapping) -> Claim:
    """Is attention better at that than a gradient, than edges, than chance?"""
    groups: dict[int, list[str]] = {1: [], 0: [], -1: []}
    for name, words in ((SOBEL, "edges by Sobel"), (GRADIENT, "the gradient"), (RANDOM, "random maps")):
        lead = numbers["lead_of_attention"][name]
        groups[side(lead["low"], lead["high"])].append(f"{words} ({between(lead, sign=True)})")
    said = [
        f"{words} {', '.join(groups[way])}"
        for way, words in ((1, "ahead of"), (0, "not told apart from"), (-1, "behind"))
        if groups[way]
    ]
    first = all(side(*(numbers["lead_of_attention"][name][end] for end in ("low", "high"))) > 0
                for name in (SOBEL, GRADIENT))  # fmt: skip
    title = "Better than simple maps" if first else "Not better than every simple map"
    return Claim(f"**{title}.** By the same test the mean of all attention maps is {'; '.join(said)}.", first)


def learned(sanity: Mapping) -> Claim:
    """Would the maps be there without learning?"""
    return _badge(
        sanity["badge"]["learning"],
        ("Made by learning", "Partly there without learning", "There without learning"),
        "with random weights in place of the trained ones",
    )


def of_the_face(sanity: Mapping) -> Claim:
    """Would the maps be the same for another face?"""
    return _badge(
        sanity["badge"]["face"],
        ("Different from face to face", "Much alike from face to face", "The same for every face"),
        "for another face",
    )


def places(arrays: Mapping[str, ndarray]) -> Claim:
    """Does it matter for the result where a unit looks? By flattening one unit's map to its mean."""
    mode = list(arrays["modes"]).index("mean")
    units = list(arrays["units"])
    top = units[int(arrays["rms"][:, mode].argmax())]
    change = between(cell(arrays, "rms", top, "mean"), 1)
    first = f"Flattening the map of `{top}` changes the restored face most, by {change} of 255 levels (RMS)"
    if "psnr_change" not in arrays:
        return Claim(f"**Some places matter.** {first}.", True)
    changes = {unit: cell(arrays, "psnr_change", unit, "mean") for unit in units}
    worse = [unit for unit, of in changes.items() if side(of["low"], of["high"], at=-COSTS) < 0]
    better = [unit for unit, of in changes.items() if side(of["low"], of["high"], at=COSTS) > 0]
    told = (
        f"{first}. Flattened one at a time, {len(worse)} of {len(units)} units cost more than {COSTS} dB of PSNR, "
        f"{len(better)} gain as much, for {len(units) - len(worse) - len(better)} neither can be told"
    )
    if not worse:
        return Claim(f"**Where they look does not pay.** {told}.", False)
    most = min(worse, key=lambda unit: changes[unit]["mean"])
    costs = between(changes[most], 3, sign=True)
    return Claim(f"**Some places matter.** {told}; `{most}` costs most, {costs} dB.", True)


def openness(ablation: Mapping[str, ndarray], levels: ndarray, seed: int) -> tuple[dict[str, float], str]:
    """Rank correlation over the units of mean attention (faces,units) and the change by closing them, and in words."""
    zero = list(ablation["modes"]).index("zero")
    effects = ablation["rms_of_faces"][:, :, zero]
    each = [rank_correlation(*pair) for pair in zip(levels[: len(effects)], effects, strict=True)]
    found = asdict(estimates(np.array(each, float)[:, None], seed)[0])
    words = {
        1: "A unit that is more open matters more",
        0: "Whether a unit is open does not tell whether it matters",
        -1: "A unit that is more open matters less",
    }[side(found["low"], found["high"])]
    return found, (
        f"{words}: over the units, mean attention and the change by closing the unit have a rank correlation of "
        f"{between(found, sign=True)}"
    )


def stable(numbers: Mapping) -> str:
    """How still do the maps hold? The kind of change that they follow least, and the unit."""
    found: dict[str, dict[str, float]] = {
        kind: {
            unit: of[kind]["correlation"]["mean"]
            for unit, of in numbers["rows"].items()
            if unit not in (INPUT, OUTPUT) and of[kind]["correlation"]["mean"] is not None
        }
        for kind in KINDS
    }
    mean = {kind: float(np.mean(list(of.values()))) for kind, of in found.items() if of}
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
    for unit in regions["ratios"]:
        one = cell_of(regions, unit, part)
        above, below = side(one["low"], one["high"], PREFERS), side(one["low"], one["high"], 1 / PREFERS)
        groups[1 if above > 0 else -1 if below < 0 else 0].append(unit)
    return groups[1], groups[-1], groups[0]


def cell_of(regions: Mapping, unit: str, part: str) -> dict[str, float]:
    """One cell of the table of regions."""
    return regions["ratios"][unit][part]


def cell(arrays: Mapping[str, ndarray], measure: str, unit: str, mode: str) -> dict[str, float]:
    """One cell of the table of ablations."""
    at = list(arrays["units"]).index(unit), list(arrays["modes"]).index(mode)
    names = {"mean": measure, "low": f"{measure}_low", "high": f"{measure}_high"}
    return {end: float(arrays[name][at]) for end, name in names.items()}


def summary(claims: Iterable[Claim]) -> tuple[Sequence[str], Sequence[str]]:
    """What the maps show, and what they do not."""
    claims = list(claims)
    return [one.text for one in claims if one.shows], [one.text for one in claims if not one.shows]


def _badge(badge: Mapping, titles: tuple[str, str, str], when: str) -> Claim:
    """By the verdict at both ends of the interval; where they differ, by the weaker one."""
    correlation = badge["correlation"]
    if correlation["mean"] is None:
        return Claim(f"**Flat maps.** Most are constant, so there is nothing to compare {when}.", False)
    order = ("yes", "weak", "no")
    found = max((verdict(correlation[end]) for end in ("low", "high")), key=order.index)
    told = between(correlation)
    return Claim(
        f"**{titles[order.index(found)]}.** {when[0].upper()}{when[1:]}, a map's |rank correlation| with itself is "
        f"{told} in the median unit (below {YES_BELOW}: another map; from {NO_FROM}: the same).",
        found == "yes",
    )
