"""Which parts of the face each unit prefers.

points -> sparnet.regions masks (S,S) -> area_weights (h,w) --+-> preference: mean inside / mean of the map
Subject -> spatial_maps {unit: (h,w)} ------------------------'
one face -> table (units, regions) -> regions_figure
many faces -> tables (N, units, regions) -> mean_interval -> regions_figure, what may be chance is marked
"""

from collections.abc import Iterable, Mapping
from math import nan
from operator import length_hint

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from numpy import ndarray

from sparnet.errors import UserError
from sparnet.faces import TEMPLATE, TEMPLATE_SIDE
from sparnet.images import to_image
from sparnet.regions import masks_from_five_points, region_masks
from sparnet.restorer import Progress
from viz.atlas import mean_map
from viz.finding import Finding, Subject, attending

MEANING = (
    "How open each unit's gate is inside a part of the face, over its mean over the whole picture: above 1 it lets "
    "more of its features through there, below 1 less; it does not say that the result depends on it (ablation does), "
    "nor how strong the features are, and on the smallest maps a part covers only a few cells."
)
COLORS = {  # Okabe and Ito 2008: told apart by the colour-blind
    "brows": "#E69F00",
    "eyes": "#0072B2",
    "nose": "#009E73",
    "mouth": "#D55E00",
    "skin": "#F0D5C0",
    "rest": "#D9D9D9",
}
SCALE = (1 / 4, 4)  # of the colours, logarithmic: half and double are equally far from 1
RESAMPLES, CONFIDENCE = 2000, 0.95
ALIGNED = "the template, as if aligned"


def spatial_maps(subject: Subject) -> dict[str, ndarray]:
    """Every unit's map (h,w) of this face in forward order, 3D averaged; `UserError` if the model has no such maps."""
    attending(subject)
    with torch.no_grad():
        alphas = subject.model.trace(subject.degraded).alphas
    maps = {unit: mean_map(alpha) for unit, alpha in alphas.items()}
    if all(alpha.size == 1 for alpha in maps.values()):
        raise UserError(
            f"{subject.name} gates whole channels, not places, so its attention prefers no part of the face. "
            "Look at its channels, or choose a model with 2D or 3D attention."
        )
    return maps


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

    w are `area_weights`, so r is that of the map enlarged to the face without smoothing: 16x16 and 128x128 compare.
    """
    ratios = {}
    for region, mask in masks.items():
        weights = area_weights(mask, len(alpha))
        total = weights.sum()
        ratios[region] = float((weights * alpha).sum() / total / alpha.mean(dtype=np.float64)) if total else nan
    return ratios


def mean_interval(values: ndarray, seed: int) -> tuple[ndarray, ndarray, ndarray]:
    """(N faces, ...) -> mean, low, high (...): NaN is no value; the 95 % percentile bootstrap interval over the faces.

    Efron and Tibshirani 1993, chapter 13: the faces are drawn again with replacement, the same ones for all columns.
    One value alone has no interval.
    """
    columns = values.reshape(len(values), -1)
    there = ~np.isnan(columns)
    filled = np.where(there, columns, 0)
    generator = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, columns.shape[1]))
    with np.errstate(invalid="ignore"):  # a region that no face has, or none of those drawn
        mean = filled.sum(axis=0) / there.sum(axis=0)
        for i in range(RESAMPLES):
            counts = np.bincount(generator.integers(len(values), size=len(values)), minlength=len(values))
            drawn[i] = (counts @ filled) / (counts @ there)
    low, high = np.full((2, len(mean)), nan)
    known = there.sum(axis=0) > 1
    if known.any():
        edges = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))
        low[known], high[known] = np.nanpercentile(drawn[:, known], edges, axis=0)
    return tuple(array.reshape(values.shape[1:]) for array in (mean, low, high))


def regions_figure(
    rows: Mapping[str, str],
    ratios: ndarray,
    picture: ndarray,
    shares: Mapping[str, float],
    title: str,
    caption: str,
    interval: tuple[ndarray, ndarray] | None = None,
) -> Figure:
    """Heat map (units, regions) of ratios beside the picture (S,S,3) uint8 that shows where the regions are.

    rows: unit -> its size in words; shares: region -> its share of the picture; interval: low and high of the ratios,
    whose cells that hold 1 are marked with a ring.
    """
    height = max(1.4 + 0.38 * len(rows), 3.2)  # inches; the picture needs 2.15
    figure = Figure(figsize=(10, height), facecolor="white")
    FigureCanvasAgg(figure)
    left = figure.add_axes((0.02, 1 - 3.05 / height, 0.215, 2.15 / height))
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
    figure.suptitle(title, x=0.02, y=1 - 0.15 / height, ha="left", va="top", fontsize=11)
    told = "Mean attention in the region over the map's own mean: 1 is no preference. %: share of the picture."
    if interval is not None:
        told += " Small: 95 % interval; ring: it holds 1."
    figure.text(0.02, 1 - 0.45 / height, told, fontsize=8, va="top", color="0.35")
    return figure


def study(subject: Subject, progress: Progress | None = None) -> Finding:
    """Which parts of this one face each unit prefers; of chance only `study_many` knows."""
    if progress:
        progress(0, 1, "Measuring the regions")
    masks, source = face_regions(subject)
    maps = spatial_maps(subject)
    table = np.array([list(preference(alpha, masks).values()) for alpha in maps.values()])
    shares = {region: float(mask.mean()) for region, mask in masks.items()}
    tint = _tint(np.stack(list(masks.values())))
    face = to_image(subject.degraded)
    figure = regions_figure(
        _sizes(maps), table, np.rint(0.5 * face + 0.5 * tint).astype(np.uint8), shares,
        f"Where each unit of {subject.name} looks: one face", f"regions over the input, by {source}",
    )  # fmt: skip
    numbers = {
        "model": subject.name,
        "regions_from": source,
        "share_of_picture": shares,
        "ratios": {unit: _named(row) for unit, row in zip(maps, table, strict=True)},
    }
    if progress:
        progress(1, 1, "Done")
    return Finding("regions", MEANING, numbers, {"ratios": table, "masks": np.stack(list(masks.values()))}, figure)


def study_many(subjects: Iterable[Subject], seed: int = 0, progress: Progress | None = None) -> Finding:
    """Which parts of a face each unit prefers on the mean over faces of one model, with 95 % intervals.

    The mean is that of the faces' ratios; the cells are not corrected for their number, so that of 100 without a
    preference about 5 show one. Memory grows only by the ratios, about 1 kB a face.
    """
    tables, coverage, sources, model, maps = [], 0, {}, None, {}
    total = length_hint(subjects)
    for i, subject in enumerate(subjects):
        if progress:
            progress(i, total, f"Measuring the regions of face {i + 1}")
        if model not in (None, subject.name):
            raise UserError(f"The faces are of two models, {model} and {subject.name}. Study one model at a time.")
        model, maps = subject.name, spatial_maps(subject)
        masks, source = face_regions(subject)
        tables.append([list(preference(alpha, masks).values()) for alpha in maps.values()])
        coverage = coverage + np.stack(list(masks.values()))
        sources[source] = sources.get(source, 0) + 1
    if len(tables) < 2:
        raise UserError("An interval over faces needs at least two faces. Give a folder with more of them.")
    tables = np.array(tables)
    mean, low, high = mean_interval(tables, seed)
    shares = {region: float(share) for region, share in zip(COLORS, (coverage / len(tables)).mean((1, 2)), strict=True)}
    figure = regions_figure(
        _sizes(maps), mean, _tint(coverage), shares, f"Where each unit of {model} looks: mean of {len(tables)} faces",
        f"the most frequent region, by {', '.join(sources)}", (low, high),
    )  # fmt: skip
    numbers = {
        "model": model,
        "faces": len(tables),
        "regions_from": sources,
        "seed": seed,
        "resamples": RESAMPLES,
        "confidence": CONFIDENCE,
        "share_of_picture": shares,
        "ratios": {
            unit: {
                name: _named(values) for name, values in zip(("mean", "low", "high"), cells, strict=True)
            }
            for unit, cells in zip(maps, np.stack((mean, low, high), axis=1), strict=True)
        },
    }  # fmt: skip
    if progress:
        progress(len(tables), len(tables), "Done")
    arrays = {"ratios": tables, "mean": mean, "low": low, "high": high, "coverage": coverage / len(tables)}
    return Finding("regions", MEANING, numbers, arrays, figure)


def _tint(coverage: ndarray) -> ndarray:
    """(regions,S,S) -> (S,S,3) uint8: each pixel in the colour of the region that covers it most."""
    colors = np.array([to_rgb(color) for color in COLORS.values()])
    return np.rint(colors[coverage.argmax(axis=0)] * 255).astype(np.uint8)


def _sizes(maps: Mapping[str, ndarray]) -> dict[str, str]:
    return {unit: "{}x{}".format(*alpha.shape) for unit, alpha in maps.items()}


def _named(row: ndarray) -> dict[str, float | None]:
    """region -> its number, None where it has none: JSON knows no NaN."""
    return {region: None if np.isnan(value) else float(value) for region, value in zip(COLORS, row, strict=True)}
