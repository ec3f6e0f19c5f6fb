"""Do two networks look at the same places of one face, or one network at the same places of two?

face, network -> maps {unit: (h,w)} -+
                                     +-> pair_units -> on_one_grid -> MapAgreement: correlations, overlap, difference
face, network -> maps {unit: (h,w)} -+
many such couples of faces -> MapAgreement of each -> mean and 95 % interval over the couples
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from operator import length_hint
from typing import Annotated

import cv2
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from sparnet.errors import UserError
from sparnet.images import to_image
from sparnet.metrics import estimates
from sparnet.restorer import Progress
from sparnet.text import for_figure
from viz.figures import BLUE, GREEN, RED, bare, canvas, in_inches, quiet
from viz.finding import Finding, silent
from viz.instrument import OTHER, REAL, Instrument, Option, Seed
from viz.subject import Subject, spatial_maps
from viz.views import DIVERGING, View, bars, panel, picture

MEANING = (
    "Each unit's map beside its partner's and their signed difference: high correlation and overlap say that both look "
    "at the same places, not that either is right, nor that units of the same name do the same work in two networks."
)
SHARE = 0.2  # of the positions of a map: those that count as looked at
Share = Annotated[float, Option("Of the places: those that count as looked at.", 0.001, 1)]

_ROUNDING = 1e-6  # of a map's largest value: a spread below this is float32's, not the map's
_DIFFERENCE = 0.5  # end of the difference's colours, in units of alpha
_MAP, _GAP, _BETWEEN, _ROW, _HEAD, _MARGIN = 1.42, 0.08, 0.42, 2.08, 2.75, 0.3  # inches


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
    """Two units that are compared."""

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
    a, b = (values.astype(np.float64).ravel() - values.mean(dtype=np.float64) for values in (first, other))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def rank_correlation(first: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's rho, -1..1: Pearson's r of the ranks, equal values sharing their mean rank; None as `correlation`."""
    if is_constant(first) or is_constant(other):
        return None
    return correlation(_ranks(first), _ranks(other))


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
    pairs = [Pair(name, name if name in other else _same_depth(name, first, other)) for name in first]
    pairs += [Pair(_same_depth(name, other, first), name) for name in other if name not in first]
    return sorted(pairs, key=lambda pair: (first.index(pair.first), other.index(pair.other)))


@torch.no_grad()
def study(
    subject: Subject, other: Annotated[Subject, OTHER], share: Share = SHARE, progress: Progress = silent
) -> Finding:
    """Two faces in one network, or two networks on one face; arrays "PAIR/first" and "PAIR/other", on one grid.

    `UserError` for a network without attention that has places.
    """
    names = _names(subject, other)
    maps, pictures = [], []
    for i, one in enumerate((subject, other)):
        progress(i, 2, f"Looking at {names[i]}")
        maps.append(spatial_maps(one))
        pictures.append((to_image(one.degraded), to_image(one.model(one.degraded))))
    progress(2, 2, "Done")
    aligned = _aligned(*maps)
    numbers = {pair: MapAgreement.of(*two, share) for pair, two in aligned.items()}
    arrays = {}
    for i, side in enumerate(("first", "other")):
        arrays |= {f"degraded/{side}": pictures[i][0], f"restored/{side}": pictures[i][1]}
        arrays |= {f"{pair.name}/{side}": two[i] for pair, two in aligned.items()}
    rows = [
        {**asdict(pair), "by": pair.by, "side": len(aligned[pair][0]), **asdict(of)} for pair, of in numbers.items()
    ]
    return Finding(
        "agreement",
        MEANING,
        {"first": names[0], "other": names[1], "share": share, "chance_iou": share / (2 - share), "pairs": rows},
        arrays,
        agreement_figure(aligned, numbers, names, pictures, share),
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
    found: list[dict[Pair, MapAgreement]] = []
    names, total = None, length_hint(subjects)
    for subject, beside in zip(subjects, other, strict=True):
        progress(len(found), total, f"Comparing face {len(found) + 1}")
        if names not in (None, _names(subject, beside)):
            raise UserError(f"Not all faces are of {names[0]} and {names[1]}. Compare one couple of models at a time.")
        names = _names(subject, beside)
        aligned = _aligned(spatial_maps(subject), spatial_maps(beside))
        found.append({pair: MapAgreement.of(*two, share) for pair, two in aligned.items()})
    if not found:
        raise UserError("There is no face to compare. Give a folder with at least one.")
    progress(len(found), len(found), "Done")
    pairs = list(found[0])
    measures = [field.name for field in fields(MapAgreement)]
    columns = {
        name: np.array([[getattr(one[pair], name) for pair in pairs] for one in found], float) for name in measures
    }
    means = {name: estimates(values, seed) for name, values in columns.items()}
    rows = [
        {**asdict(pair), "by": pair.by} | {name: asdict(each[i]) for name, each in means.items()}
        for i, pair in enumerate(pairs)
    ]
    settings = {"first": names[0], "other": names[1], "share": share, "chance_iou": share / (2 - share)}
    return Finding(
        "agreement",
        MEANING,
        {**settings, "couples": len(found), "seed": seed, "pairs": rows},
        {"pairs": np.array([pair.name for pair in pairs]), **columns},
        population_figure(pairs, means, names, len(found), share),
    )


def agreement_figure(
    maps: dict[Pair, tuple[np.ndarray, np.ndarray]],
    numbers: dict[Pair, MapAgreement],
    names: tuple[str, str],
    pictures: list[tuple[np.ndarray, np.ndarray]],
    share: float = SHARE,
) -> Figure:
    """Both faces, degraded and restored; then of each pair the two maps, 0..1, and first - other, centred at 0."""
    columns, rows = 2, -(-len(maps) // 2)
    block = 3 * _MAP + 2 * _GAP
    width = 2 * _MARGIN + columns * block + (columns - 1) * _BETWEEN
    height = _HEAD + rows * _ROW
    figure = canvas(width, height)
    figure.suptitle(
        for_figure(f"Where they look: {names[0]} (first) and {names[1]} (other)"),
        x=_MARGIN / width, y=1 - 0.15 / height, ha="left", va="top", size=12,
    )  # fmt: skip

    def axes_at(x: float, y: float, w: float, h: float):
        """Axes in inches from the top left."""
        axes = in_inches(figure, x, y, w, h)
        bare(axes)
        return axes

    for i, (side, two) in enumerate(zip(("first", "other"), pictures, strict=True)):
        for j, (caption, image) in enumerate(zip(("network input", "restored"), two, strict=True)):
            axes = axes_at(_MARGIN + (2 * i + j) * (_MAP + _GAP), 0.8, _MAP, _MAP)
            axes.imshow(image, interpolation="nearest")
            axes.set_title(f"{side}: {caption}", fontsize=8, loc="left", pad=3)
    bar_x = _MARGIN + block + _BETWEEN + _MAP + _GAP + 0.2
    for y, label, colors, scale in (
        (0.85, r"attention $\alpha$ of first and other", "viridis", Normalize(0, 1)),
        (1.6, "first \N{MINUS SIGN} other; red: first attends more", "RdBu_r", Normalize(-_DIFFERENCE, _DIFFERENCE)),
    ):
        bar = figure.colorbar(
            ScalarMappable(scale, colors), cax=axes_at(bar_x, y, 2.3, 0.12), orientation="horizontal",
            extend="neither" if colors == "viridis" else "both",
        )  # fmt: skip
        quiet(bar)
        bar.set_label(label, fontsize=8, labelpad=2)

    for i, (pair, two) in enumerate(maps.items()):
        row, column = divmod(i, columns)
        x, y = _MARGIN + column * (block + _BETWEEN), _HEAD + row * _ROW
        shown = (*two, two[0].astype(np.float64) - two[1])
        for j, values in enumerate(shown):
            axes = axes_at(x + j * (_MAP + _GAP), y, _MAP, _MAP)
            colors, low, high = ("viridis", 0, 1) if j < 2 else ("RdBu_r", -_DIFFERENCE, _DIFFERENCE)
            axes.imshow(values, cmap=colors, vmin=low, vmax=high, interpolation="nearest")
            axes.set_xlabel(("first", "other", "first \N{MINUS SIGN} other")[j], fontsize=6.5, labelpad=2, color="0.3")
            if j == 0:
                of = numbers[pair]
                axes.set_title(pair.name, fontsize=9, loc="left", pad=14, weight="bold")
                facts = f"r {_shown(of.pearson)}   rank {_shown(of.spearman)}   IoU of the top {share:.0%} {of.iou:.2f}"
                facts += f"   mean difference {of.difference:+.2f}"
                axes.text(0, 1.035, facts, transform=axes.transAxes, fontsize=7, color="0.3")
    return figure


def population_figure(
    pairs: list[Pair], means: dict[str, np.ndarray], names: tuple[str, str], couples: int, share: float = SHARE
) -> Figure:
    """Of every pair of units the measures' Estimate (pairs,) over the couples of faces."""
    figure = canvas(10, 4.4, "constrained")
    axes = figure.subplots()
    x = np.arange(len(pairs))
    series = (
        ("pearson", "correlation r", "o", BLUE),
        ("spearman", "rank correlation", "s", RED),
        ("iou", f"IoU of the top {share:.0%}", "^", GREEN),
    )
    for shift, (key, label, marker, color) in zip((-0.2, 0, 0.2), series, strict=True):
        mean, low, high = (
            np.array([getattr(each, end) for each in means[key]], float) for end in ("mean", "low", "high")
        )
        ends = np.maximum((mean - low, high - mean), 0)  # equal but for rounding where all faces are alike
        axes.errorbar(x + shift, mean, ends, fmt=marker, color=color, label=label, markersize=5)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.axhline(share / (2 - share), color=GREEN, linewidth=0.8, linestyle=":", label="IoU by chance")
    axes.set_xticks(x, [pair.name for pair in pairs], rotation=45, ha="right", fontsize=8)
    axes.set_ylim(-1, 1.05)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"{names[0]} and {names[1]}: agreement of their maps, mean of {couples} faces with 95 % interval",
        fontsize=10, loc="left",
    )  # fmt: skip
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="lower right")
    return figure


def _names(subject: Subject, other: Subject) -> tuple[str, str]:
    same = subject.name == other.name
    return (subject.name, f"{other.name} on another face" if same else other.name)


def _aligned(first: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[Pair, tuple[np.ndarray, np.ndarray]]:
    return {pair: on_one_grid(first[pair.first], other[pair.other]) for pair in pair_units(list(first), list(other))}


def _same_depth(name: str, own: list[str], others: list[str]) -> str:
    part = name.partition(".")[0]
    here, there = ([unit for unit in units if unit.partition(".")[0] == part] for units in (own, others))
    if not there:
        here, there = own, others
    return there[int((here.index(name) + 0.5) / len(here) * len(there))]


def _ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest; equal values share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[place]


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def view(finding: Finding) -> View:
    arrays, pairs = finding.arrays, finding.numbers["pairs"]
    sides = {key: finding.numbers[key] for key in ("first", "other")}
    faces = [
        picture(f"{what}: {side}", arrays[f"{what}/{key}"])
        for what in ("degraded", "restored")
        for key, side in sides.items()
    ]
    names = [name.removesuffix("/first") for name in arrays if name.endswith("/first")]
    groups = {
        name: [
            *(panel(f"alpha: {side}", arrays[f"{name}/{key}"]) for key, side in sides.items()),
            panel("first - other", arrays[f"{name}/first"] - arrays[f"{name}/other"], (-0.5, 0.5), DIVERGING),
        ]
        for name in names
        if name not in ("degraded", "restored")
    }
    series = {"correlation": [one["pearson"] for one in pairs], "IoU of the top": [one["iou"] for one in pairs]}
    chart = bars(groups, series, "1 is the same")
    return View(faces, groups, {"How alike the two maps of each pair are:": chart})


INSTRUMENT = Instrument(
    "agreement",
    REAL,
    "Do two networks, or two faces, get the same maps?",
    "Maps on one grid: correlation, overlap of the top fifth, and the difference.",
    study,
    over_faces=study_many,
    view=view,
    slow=True,
)
