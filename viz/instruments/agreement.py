"""Do two networks look at the same places of one face, or one network at the same places of two?

face, network -> maps {unit: (h,w)} -+
                                     +-> pair_units -> on_one_grid -> MapAgreement: correlations, overlap, difference
face, network -> maps {unit: (h,w)} -+
many such couples of faces -> MapAgreement of each -> mean and 95 % interval over the couples
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated

import cv2
import numpy as np
import scipy

from sparnet.errors import UserError
from sparnet.metrics import estimates, labelled
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import OTHER, REAL, Instrument, Option, Seed
from viz.subject import Subject, over_faces, spatial_maps
from viz.views import DIVERGING, Bars, Panel, View, numerals

MEANING = (
    "Each unit's map beside its partner's and their signed difference: high correlation and overlap say that both look "
    "at the same places, not that either is right, nor that units of the same name do the same work in two networks."
)
SHARE = 0.2  # of the positions of a map: those that count as looked at
Share = Annotated[float, Option("What part of a map's places, the highest, counts as looked at.", 0.001, 1)]

_ROUNDING = 1e-6  # of a map's largest value: a spread below this is float32's, not the map's
_DIFFERENCE = 0.5  # end of the difference's colours, in units of alpha
_SIDES = ("first", "other")
_TITLE = "Where they look: {} (first) and {} (other)"


@dataclass(frozen=True)
class MapAgreement:
    """Two maps of one grid; None where a constant map has no correlation."""

    pearson: float | None  # -1..1; 1: the same but for scale and offset
    spearman: float | None  # -1..1; 1: the same order of places
    iou: float  # of the top places, 0..1; chance is share / (2 - share): 0.11 of 20 %
    difference: float  # mean of first - other
    rms_difference: float

    @classmethod
    def of(cls, first: np.ndarray, other: np.ndarray, share: float = SHARE) -> "MapAgreement":
        difference = first.astype(np.float64) - other
        return cls(
            pearson=correlation(first, other),
            spearman=rank_correlation(first, other),
            iou=iou(first, other, share),
            difference=float(difference.mean()),
            rms_difference=float(np.sqrt((difference**2).mean())),
        )


@dataclass(frozen=True)
class Pair:
    first: str
    other: str

    @property
    def name(self) -> str:
        return self.first if self.first == self.other else f"{self.first} | {self.other}"

    @property
    def by(self) -> str:
        return "name" if self.first == self.other else "depth"


def correlation(first: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's r of the values at the same places, -1..1; None if either is constant, as r is not defined then."""
    if is_constant(first) or is_constant(other):
        return None
    return float(np.corrcoef(first.ravel(), other.ravel(), dtype=np.float64)[0, 1])


def rank_correlation(first: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's rho, -1..1: Pearson's r of the ranks, equal values sharing their mean rank; None as `correlation`."""
    if is_constant(first) or is_constant(other):
        return None
    return correlation(scipy.stats.rankdata(first), scipy.stats.rankdata(other))


def is_constant(values: np.ndarray) -> bool:
    """Whether the values differ by no more than float32's rounding."""
    return bool(np.ptp(values) <= _ROUNDING * np.abs(values).max())


def top_weights(values: np.ndarray, share: float = SHARE) -> np.ndarray:
    """1 at the highest values, 0 elsewhere, in sum exactly `share` of all; -> float64 of the same shape.

    Values equal at the border share what is left, so a constant map is `share` everywhere: it has no top.
    """
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    above = values.size - count.cumsum()  # how many positions are higher than each distinct value
    return np.clip((share * values.size - above) / count, 0, 1)[place].reshape(values.shape)


def iou(first: np.ndarray, other: np.ndarray, share: float = SHARE) -> float:
    """Intersection over union of the `top_weights` a, b of two maps: sum min(a, b) / sum max(a, b), 0..1.

    Without ties that is the IoU of two sets. Two random maps have share / (2 - share) on average.
    """
    a, b = top_weights(first, share), top_weights(other, share)
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


def on_one_grid(first: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two square maps -> both on the smaller grid, the larger one by the mean over each cell's area.

    Never enlarged: a correlation of interpolated values would count each of them several times.
    """
    side = min(len(first), len(other))
    return shrink(first, side), shrink(other, side)


def shrink(values: np.ndarray, side: int) -> np.ndarray:
    """(h,w) -> (side,side) float32, not larger: the mean over the area of each cell."""
    return cv2.resize(values.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)


def pair_units(first: list[str], other: list[str]) -> list[Pair]:
    """Units in forward order -> pairs, in the order of `first`: by name where both have it, otherwise by depth.

    A unit without a namesake gets that of the other network which stands at the same share of the way through the same
    part (encoder, body, decoder), or through all units if that part is empty. Every unit is in at least one pair.
    """
    pairs = [Pair(name, name if name in other else same_depth(name, first, other)) for name in first]
    pairs += [Pair(same_depth(name, other, first), name) for name in other if name not in first]
    return sorted(pairs, key=lambda pair: (first.index(pair.first), other.index(pair.other)))


def study(
    subject: Subject, other: Annotated[Subject, OTHER], share: Share = SHARE, progress: Progress = silent
) -> Finding:
    """Two faces in one network, or two networks on one face; arrays "PAIR/first" and "PAIR/other", on one grid.

    `UserError` for a network without attention that has places.
    """
    names = _names(subject, other)
    maps, arrays = [], {}
    for i, (side, looked) in enumerate(zip(_SIDES, (subject, other), strict=True)):
        progress(i, 2, f"Looking at {names[i]}")
        maps.append(spatial_maps(looked))
        arrays |= {f"{name}/{side}": face for name, face in looked.faces.items()}
    progress(2, 2, "Done")
    faces = [
        Panel(f"{shown}: {name}", arrays[f"{what}/{side}"])
        for what, shown in (("degraded", "input"), ("restored", "restored"))
        for side, name in zip(_SIDES, names, strict=True)
    ]
    rows, groups, headed = [], {}, {}
    for pair, two in _aligned(*maps).items():
        both = MapAgreement.of(*two, share)
        rows.append({**_row(pair), "side": len(two[0]), **asdict(both)})
        arrays |= {f"{pair.name}/{side}": values for side, values in zip(_SIDES, two, strict=True)}
        panels = [Panel(f"alpha: {name}", values) for name, values in zip(names, two, strict=True)]
        panels.append(Panel("first - other", two[0] - two[1], (-_DIFFERENCE, _DIFFERENCE), DIVERGING))
        r, rank, overlap = numerals(np.array([both.pearson, both.spearman, both.iou], float))
        groups[pair.name] = headed[f"{pair.name}   r {r}   rank {rank}   IoU {overlap}"] = panels
    series = {"correlation": [row["pearson"] for row in rows], "IoU of the top": [row["iou"] for row in rows]}
    view = View(faces, groups, {"How alike the two maps of each pair are:": Bars(groups, series, "1 is the same")})
    return Finding(
        "agreement",
        MEANING,
        _settings(names, share) | {"pairs": rows},
        arrays,
        view,
        _TITLE.format(*names),
        f"IoU: of the top {share:.0%} of the places.",
        printed=replace(view, groups=headed),
    )


def study_many(
    subjects: Iterable[Subject],
    other: Annotated[Iterable[Subject], OTHER],
    share: Share = SHARE,
    seed: Seed = 0,
    progress: Progress = silent,
) -> Finding:
    """`study` of faces, `other` the same ones by another network: means with 95 % intervals over the couples.

    Arrays: `pairs`, and of each measure (couples, pairs), NaN where a map is constant. `UserError` without a couple, of
    several models, or for a network without attention that has places.
    """
    others, pairs, names = iter(other), [], ("", "")
    measures = [field.name for field in fields(MapAgreement)]

    def measure(i: int, subject: Subject) -> dict[str, np.ndarray]:
        nonlocal pairs, names
        beside = next(others)
        if i and names != _names(subject, beside):
            raise UserError(f"Not all faces are of {names[0]} and {names[1]}. Compare one couple of models at a time.")
        names = _names(subject, beside)
        aligned = _aligned(spatial_maps(subject), spatial_maps(beside))
        pairs = list(aligned)
        found = [asdict(MapAgreement.of(*two, share)) for two in aligned.values()]
        return {name: np.array([pair[name] for pair in found], float) for name in measures}

    _, columns = over_faces(subjects, measure, progress, "Comparing", least=1)
    couples = len(columns["iou"])
    means = {name: estimates(values, seed) for name, values in columns.items()}
    rows = [_row(pair) | {name: labelled(each[i]) for name, each in means.items()} for i, pair in enumerate(pairs)]
    series = {
        "correlation r": means["pearson"],
        "rank correlation": means["spearman"],
        f"IoU of the top {share:.0%}": means["iou"],
    }
    chance = {share / (2 - share): "IoU by chance"}
    chart = Bars([pair.name for pair in pairs], series, "1 is the same", chance, (-1, 1.05))
    return Finding(
        "agreement",
        MEANING,
        _settings(names, share) | {"couples": couples, "seed": seed, "pairs": rows},
        {"pairs": np.array([pair.name for pair in pairs]), **columns},
        View(diagrams={f"Mean of {couples} faces with its 95 % interval:": chart}),
        _TITLE.format(*names),
    )


def _settings(names: tuple[str, str], share: float) -> dict:
    return {**dict(zip(_SIDES, names, strict=True)), "share": share, "chance_iou": share / (2 - share)}


def _row(pair: Pair) -> dict:
    return {**asdict(pair), "by": pair.by}


def _names(subject: Subject, other: Subject) -> tuple[str, str]:
    same = subject.name == other.name
    return (subject.name, f"{other.name} on another face" if same else other.name)


def _aligned(first: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[Pair, tuple[np.ndarray, np.ndarray]]:
    return {pair: on_one_grid(first[pair.first], other[pair.other]) for pair in pair_units(list(first), list(other))}


def same_depth(name: str, own: Sequence[str], others: Sequence[str]) -> str:
    """Of `others` the unit at the same share of the way through the same part, or through all if there is no such."""
    own_part, other_part = ([unit for unit in units if unit.partition(".")[0] == name.partition(".")[0]]
                            for units in (own, others))  # fmt: skip
    if not other_part:
        own_part, other_part = own, others
    return other_part[int((own_part.index(name) + 0.5) / len(own_part) * len(other_part))]


INSTRUMENT = Instrument(
    "agreement",
    REAL,
    "Do two networks, or two faces, get the same maps?",
    "Each unit's two maps side by side: their correlation, how far their highest fifths overlap, their difference.",
    study,
    over_faces=study_many,
    slow=True,
)
