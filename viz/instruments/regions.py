"""Which parts of the face each unit prefers.

points -> sparnet.regions masks (S,S) -> area_weights (h,w) --+-> preference: mean inside / mean of the map
Subject -> spatial_maps {unit: (h,w)} ------------------------'
one face -> table (units, regions) -> regions_figure
many faces -> tables (N, units, regions) -> mean_interval -> regions_figure, what may be chance is marked
           another face's maps under this face's masks -+
           the face moved, the masks moved or left -----+-> profile_distance -> is it what is shown, or the place?
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from math import nan

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from sparnet.attention import color_table
from sparnet.errors import UserError
from sparnet.faces import TEMPLATE, TEMPLATE_SIDE
from sparnet.images import to_image
from sparnet.metrics import CONFIDENCE, RESAMPLES, estimates, mean_interval
from sparnet.regions import masks_from_five_points, region_masks
from sparnet.restorer import Progress
from sparnet.text import for_figure
from viz.figures import BLUE, GREEN, ORANGE, RED, canvas
from viz.finding import Finding, silent
from viz.instrument import WHERE, Instrument, Seed
from viz.subject import Subject, each_face, spatial_maps
from viz.views import DIVERGING, View, matrix, panel, picture, pictures

MEANING = (
    "How open each unit's gate is inside a part of the face, over its mean over the whole picture: above 1 it lets "
    "more of its features through there, below 1 less; it does not say that the result depends on it (ablation does), "
    "nor how strong the features are, and on the smallest maps a part covers only a few cells."
)
MANY_MEANING = (
    f"{MEANING} Where the map of another face prefers the part as much, the unit knows the place of such parts in "
    "aligned pictures, and not this face; moving the face tells the two apart."
)
COLORS = {
    "brows": ORANGE,
    "eyes": BLUE,
    "nose": GREEN,
    "mouth": RED,
    "skin": "#F0D5C0",
    "rest": "#D9D9D9",
}
SCALE = (1 / 4, 4)  # of the colours, logarithmic: half and double are equally far from 1
ALIGNED = "the template, as if aligned"
MOVE = 8  # the face is moved by 1/8 of the picture's side: 16 of 128 pixels, two cells of a map of 16x16
STRENGTH, OTHER, LEFT, ALONG = "strength", "another face", "masks left", "masks moved along"
CONTROLS = (STRENGTH, OTHER, LEFT, ALONG)

_NEIGHBOURS = 3  # faces before it whose maps are laid under each face's masks
_ENDS = ("mean", "low", "high")
_LEAST = 1e-6  # of a ratio, so that a gate that is shut has a logarithm
_INK = {STRENGTH: "0.75", OTHER: ORANGE, LEFT: RED, ALONG: BLUE}


def face_regions(subject: Subject) -> tuple[dict[str, ndarray], str]:
    """Masks (S,S) bool in the order of `COLORS`, which part the picture; and what they were drawn from.

    `Subject.points` may be 68 landmarks, or five: then the parts are coarse. Without points the face is taken to be
    aligned to the FFHQ template, and the second value says so.
    """
    size = subject.degraded.shape[-1]
    if subject.points is None:
        points, source = (TEMPLATE + 0.5) * size / TEMPLATE_SIDE - 0.5, ALIGNED
    else:
        points, source = subject.points, f"{len(subject.points)} points"
        source += f", {subject.points_from}" if subject.points_from else ""
    masks = region_masks(points, size) if len(points) == 68 else masks_from_five_points(points, size)
    return {region: masks[region] for region in COLORS}, source


def area_weights(mask: ndarray, side: int) -> ndarray:
    """(S,S) bool -> (side,side) float64, 0..1: how much of each cell of a smaller map the region covers; no threshold.

    S is a multiple of side, as every unit's map is of the face.
    """
    step = len(mask) // side
    return mask.reshape(side, step, side, step).mean(axis=(1, 3))


def preference(alpha: ndarray, masks: Mapping[str, ndarray]) -> dict[str, float]:
    """Map (h,w) and masks (S,S) -> r = (sum w alpha / sum w) / mean alpha of each region; 1: none, NaN: no such region.

    w are `area_weights`, so r is that of the map enlarged to the face without smoothing: 16x16 and 128x128 compare. The
    mean is over what the masks cover together, which may be a part of the picture.
    """
    weights = {region: area_weights(mask, len(alpha)) for region, mask in masks.items()}
    inside = {region: (float((w * alpha).sum()), float(w.sum())) for region, w in weights.items()}
    total, area = np.sum(list(inside.values()), axis=0)
    return {region: value / share / (total / area) if share else nan for region, (value, share) in inside.items()}


def shift(face: Tensor, x: int, y: int) -> Tensor:
    """Moved x pixels right and y down; the border's pixels are repeated where nothing came from."""
    height, width = face.shape[2:]
    padded = F.pad(face, (abs(x), abs(x), abs(y), abs(y)), mode="replicate")
    return padded[:, :, abs(y) - y : abs(y) - y + height, abs(x) - x : abs(x) - x + width]


def profile_distance(first: ndarray, other: ndarray | float = 1.0) -> ndarray:
    """Ratios (..., regions) -> (...): root mean square over the regions of log2(first / other), in doublings.

    0: the same preferences; against 1 it is how strong they are: 1 means twice or half of the mean in a typical part.
    A region that either has not is left out.
    """
    doublings = np.log2(np.maximum(first, _LEAST)) - np.log2(np.maximum(other, _LEAST))
    there = ~np.isnan(doublings)
    return np.sqrt(np.square(np.where(there, doublings, 0)).sum(-1) / there.sum(-1))


def moved_profiles(subject: Subject, maps: Mapping[str, ndarray], masks: Mapping[str, ndarray]) -> ndarray:
    """The face moved by 1/`MOVE` of the side to the four sides -> (units, 2): mean distance of profile, left and along.

    Left: the masks stay, and the profile is compared with that of the same places before; along: they move with the
    face, and it is compared with that of the same parts before. 0 at "left" is a map that knows only places, 0 at
    "along" one that follows the face. Both only where the moved picture shows what was there before, nothing made up.
    """
    size = subject.degraded.shape[-1]
    found = []
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        x, y = x * size // MOVE, y * size // MOVE
        after = spatial_maps(replace(subject, degraded=shift(subject.degraded, x, y)))
        rows, columns = ((places >= 0) & (places < size) for places in (np.arange(size) - y, np.arange(size) - x))
        known = rows[:, None] & columns  # in the moved picture; the rest is made up
        stay = {region: mask & known for region, mask in masks.items()}
        before = {region: mask & np.roll(known, (-y, -x), (0, 1)) for region, mask in masks.items()}
        along = {region: np.roll(mask, (y, x), (0, 1)) for region, mask in before.items()}
        found.append(
            [
                [
                    profile_distance(_row(after[unit], stay), _row(alpha, stay)),
                    profile_distance(_row(after[unit], along), _row(alpha, before)),
                ]
                for unit, alpha in maps.items()
            ]
        )
    return np.mean(found, axis=0)


def regions_figure(
    rows: Mapping[str, str],
    ratios: ndarray,
    picture: ndarray,
    shares: Mapping[str, float],
    title: str,
    caption: str,
    interval: tuple[ndarray, ndarray] | None = None,
    beyond: ndarray | None = None,
    controls: Mapping[str, dict] | None = None,
) -> Figure:
    """Heat map (units, regions) of ratios beside the picture (S,S,3) uint8 that shows where the regions are.

    rows: unit -> its size in words; shares: region -> its share of the picture; interval: low and high of the ratios,
    whose cells that hold 1 are marked with a ring; beyond: 1 and -1 in cells that another
    face's map would make lower and higher, marked with triangles; controls: as `_controls` gives them, drawn beneath.
    """
    height = max(1.4 + 0.38 * len(rows), 3.35) + (2.6 if controls else 0)  # inches; the picture needs 2.15
    figure = canvas(10, height)
    left = figure.add_axes((0.02, 1 - 3.2 / height, 0.215, 2.15 / height))
    left.imshow(picture, interpolation="nearest")
    left.axis("off")
    left.set_title(caption, fontsize=8, loc="left", color="0.25")
    axes = figure.add_axes((0.36, 1 - (1.2 + 0.38 * len(rows)) / height, 0.54, 0.38 * len(rows) / height))
    norm, cmap = LogNorm(*SCALE), colormaps["PuOr_r"].with_extremes(bad="white")
    axes.imshow(ratios, cmap=cmap, norm=norm, aspect="auto")
    for i, j in np.ndindex(ratios.shape):
        ratio = ratios[i, j]
        if np.isnan(ratio):
            axes.text(j, i, "none", ha="center", va="center", fontsize=7, color="0.5")
            continue
        ink = "white" if np.dot(cmap(norm(ratio))[:3], (0.299, 0.587, 0.114)) < 0.5 else "black"
        axes.text(j, i, f"{ratio:.2f}", ha="center", va="center" if interval is None else "bottom", size=9, color=ink)
        if interval is not None and not np.isnan(interval[0][i, j]):
            low, high = (side[i, j] for side in interval)
            axes.text(j, i + 0.07, f"{low:.2f}…{high:.2f}", ha="center", va="top", fontsize=6, color=ink)
            if low <= 1 <= high:
                axes.plot(j + 0.38, i - 0.18, "o", markersize=5, markerfacecolor="none", markeredgecolor=ink)
        if beyond is not None and beyond[i, j] in (1, -1):
            axes.plot(j - 0.38, i - 0.18, "^" if beyond[i, j] > 0 else "v", markersize=4, color=ink)
    axes.set_yticks(range(len(rows)), [f"{unit}  {size}" for unit, size in rows.items()], fontsize=8)
    axes.set_xticks(range(len(shares)), [f"{region}\n{share:.1%}" for region, share in shares.items()], fontsize=8)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False, pad=8)
    for j, region in enumerate(shares):  # the key to the picture
        axes.plot([j - 0.4, j + 0.4], [-0.62, -0.62], color=COLORS[region], linewidth=4, clip_on=False)
    axes.set_xlim(-0.5, len(shares) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        ScalarMappable(norm, cmap),
        cax=figure.add_axes((0.925, axes.get_position().y0, 0.013, axes.get_position().height)),
        extend="both",
    )
    bar.set_ticks([1 / 4, 1 / 2, 1, 2, 4], labels=["1/4", "1/2", "1", "2", "4"], fontsize=7)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.ax.set_title("ratio", fontsize=8)
    figure.suptitle(for_figure(title), x=0.02, y=1 - 0.15 / height, ha="left", va="top", fontsize=11)
    told = "Mean attention in the region over the map's own mean: 1 is no preference. %: share of the picture."
    if interval is not None:
        told += " Small: 95 % interval; ring: it holds 1."
    if beyond is not None:
        told += (
            "\nTriangle: more, or less, than the map of another face has under this face's parts; none: no difference."
        )
    figure.text(0.02, 1 - 0.45 / height, told, fontsize=8, va="top", color="0.35")
    if controls:
        _draw_controls(figure.add_axes((0.09, 0.75 / height, 0.89, 1.45 / height)), controls)
    return figure


def _draw_controls(axes: Axes, controls: Mapping[str, dict]) -> None:
    """Bars of every control for each unit, with intervals."""
    labels = {
        STRENGTH: "how strong its preferences are",
        OTHER: "off by another face's map",
        LEFT: "off after moving the face; parts left behind",
        ALONG: "parts moved along",
    }
    for k, name in enumerate(CONTROLS):
        x = np.arange(len(controls)) + (k - 1.5) * 0.2
        mean, low, high = (np.array([of[name][end] for of in controls.values()], float) for end in _ENDS)
        axes.bar(x, mean, 0.19, color=_INK[name], label=labels[name])
        axes.vlines(x, low, high, color="0.2", linewidth=0.8)
    axes.set_xticks(range(len(controls)), list(controls), fontsize=8, rotation=30, ha="right", rotation_mode="anchor")
    axes.tick_params(labelsize=8)
    axes.set_ylabel("doublings, RMS over\nthe parts", fontsize=8)
    axes.set_xlim(-0.6, len(controls) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    title = "Is it what is shown, or the place in the picture? Blue shorter than red: the map goes with the face."
    axes.set_title(title, fontsize=9, loc="left", pad=20)
    axes.legend(fontsize=7.5, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(-0.01, 0.98), borderaxespad=0)


def study(subject: Subject, progress: Progress = silent) -> Finding:
    """Which parts of this one face each unit prefers; of chance only `study_many` knows."""
    progress(0, 1, "Measuring the regions")
    masks, source = face_regions(subject)
    maps = spatial_maps(subject)
    table = np.array([_row(alpha, masks) for alpha in maps.values()])
    shares = {region: float(mask.mean()) for region, mask in masks.items()}
    face, stack = to_image(subject.degraded), np.stack(list(masks.values()))
    parts = np.rint(0.5 * face + 0.5 * _tint(stack)).astype(np.uint8)
    figure = regions_figure(
        _sizes(maps), table, parts, shares,
        f"Where each unit of {subject.name} looks: one face", f"regions over the input, by {source}",
    )  # fmt: skip
    numbers = {
        "model": subject.name,
        "regions_from": source,
        "share_of_picture": shares,
        "ratios": {unit: _named(row) for unit, row in zip(maps, table, strict=True)},
    }
    progress(1, 1, "Done")
    arrays = {"ratios": table, "masks": stack, "degraded": face, "parts": parts}
    arrays |= {f"alpha/{unit}": alpha for unit, alpha in maps.items()}
    return Finding("regions", MEANING, numbers, arrays, figure)


def study_many(subjects: Iterable[Subject], seed: Seed = 0, progress: Progress = silent) -> Finding:
    """Which parts of a face each unit prefers on the mean over faces of one model, with 95 % intervals.

    The mean is that of the faces' ratios; the cells are not corrected for their number, so that of 100 without a
    preference about 5 show one. `CONTROLS` ask whether the preference is this face's: `profile_distance` of each face's
    ratios to those of the maps of up to three faces before it under this face's masks, and of `moved_profiles`.
    Memory grows only by the ratios, about 2 kB a face.
    """
    tables, others, distances, coverage, sources, model, maps = [], [], [], 0, {}, None, {}
    before: deque[Mapping[str, ndarray]] = deque(maxlen=_NEIGHBOURS)
    for subject in each_face(subjects, progress, "Measuring the regions of"):
        model, maps = subject.name, spatial_maps(subject)
        masks, source = face_regions(subject)
        own = np.array([_row(alpha, masks) for alpha in maps.values()])
        swapped = np.array([[_row(alpha, masks) for alpha in other.values()] for other in before])
        strange = profile_distance(swapped, own).mean(0) if before else np.full(len(own), nan)
        distances.append(np.column_stack((profile_distance(own), strange, moved_profiles(subject, maps, masks))))
        tables.append(own)
        others.append(swapped.mean(0) if before else np.full(own.shape, nan))
        before.append(maps)
        coverage = coverage + np.stack(list(masks.values()))
        sources[source] = sources.get(source, 0) + 1
    if len(tables) < 2:
        raise UserError("An interval over faces needs at least two faces. Give a folder with more of them.")
    tables, others, distances = np.array(tables), np.array(others), np.array(distances)
    mean, low, high = mean_interval(tables, seed)
    other, _, _ = mean_interval(others, seed)
    _, below, above = mean_interval(tables - others, seed)
    shares = {region: float(share) for region, share in zip(COLORS, (coverage / len(tables)).mean((1, 2)), strict=True)}
    controls = _controls(list(maps), distances, seed)
    figure = regions_figure(
        _sizes(maps), mean, _tint(coverage), shares, f"Where each unit of {model} looks: mean of {len(tables)} faces",
        ", ".join(sources), (low, high), np.sign(below) * (np.sign(below) == np.sign(above)), controls,
    )  # fmt: skip
    cells = {"mean": mean, "low": low, "high": high, "of_another_face": other}
    cells |= {"own_minus_another_low": below, "own_minus_another_high": above}
    numbers = {
        "model": model,
        "faces": len(tables),
        "regions_from": sources,
        "seed": seed,
        "resamples": RESAMPLES,
        "confidence": CONFIDENCE,
        "moved_by": f"1/{MOVE} of the side",
        "share_of_picture": shares,
        "ratios": {
            unit: {name: _named(values[i]) for name, values in cells.items()} for i, unit in enumerate(maps)
        },
        "controls": controls,
    }  # fmt: skip
    arrays = {"ratios": tables, "of_another_face": others, "distances": distances}
    arrays |= {"mean": mean, "low": low, "high": high, "coverage": coverage / len(tables)}
    return Finding("regions", MANY_MEANING, numbers, arrays, figure)


def _controls(units: Sequence[str], distances: ndarray, seed: int) -> dict[str, dict]:
    """(N, units, CONTROLS) -> each control's mean and interval by unit, and of the mean of all; and what they tell.

    That is "content" if the profile changes more with the masks left than with those moved along, the interval of
    the difference leaving out 0; "place" if less; else "undecided".
    """
    distances = np.concatenate((distances, distances.mean(1, keepdims=True)), axis=1)
    gap = distances[..., CONTROLS.index(LEFT)] - distances[..., CONTROLS.index(ALONG)]
    each = np.concatenate((distances, gap[..., None]), axis=2)
    found = {}
    for unit, row in zip((*units, "all units"), estimates(each, seed), strict=True):
        found[unit] = dict(zip((*CONTROLS, "left minus along"), map(asdict, row), strict=True))
        low, high = np.array((row[-1].low, row[-1].high), float)  # NaN is neither
        found[unit]["tells"] = "content" if low > 0 else "place" if high < 0 else "undecided"
    return found


def _row(alpha: ndarray, masks: Mapping[str, ndarray]) -> list[float]:
    return list(preference(alpha, masks).values())


def _tint(coverage: ndarray) -> ndarray:
    """(regions,S,S) -> (S,S,3) uint8: each pixel in the colour of the region that covers it most."""
    colors = np.array([to_rgb(color) for color in COLORS.values()])
    return np.rint(colors[coverage.argmax(axis=0)] * 255).astype(np.uint8)


def _sizes(maps: Mapping[str, ndarray]) -> dict[str, str]:
    return {unit: "{}x{}".format(*alpha.shape) for unit, alpha in maps.items()}


def _named(row: ndarray) -> dict[str, float | None]:
    """region -> its number, None where it has none: JSON knows no NaN."""
    return {region: None if np.isnan(value) else float(value) for region, value in zip(COLORS, row, strict=True)}


def view(finding: Finding) -> View:
    arrays, units = finding.arrays, list(finding.numbers["ratios"])
    ratios = arrays["ratios"]
    colors, ends = color_table(DIVERGING)[::17], tuple(np.log2(SCALE))
    chart = matrix(np.log2(ratios), units, list(COLORS), colors, ends, ratios)
    return View(
        [*pictures(arrays), picture("its parts", arrays["parts"])],
        {"attention": [panel(unit, arrays[f"alpha/{unit}"]) for unit in units]},
        {"Mean attention in the region over the map's own mean: 1 is no preference, orange more, violet less.": chart},
    )


INSTRUMENT = Instrument(
    "regions",
    WHERE,
    "Which parts of the face does each unit prefer?",
    "Mean attention in brows, eyes, nose, mouth and skin, over the map's own mean.",
    study,
    over_faces=study_many,
    view=view,
)
