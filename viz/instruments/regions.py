"""Which parts of the face each unit prefers.

points -> sparnet.regions masks (S,S) -> area_weights (h,w) --+-> preference: mean inside / mean of the map
Subject -> spatial_maps {unit: (h,w)} ------------------------'
one face -> table (units, regions) -> regions_figure
many faces -> tables (N, units, regions) -> estimates -> regions_figure, what may be chance is marked
           another face's maps under this face's masks -+
           the face moved, the masks moved or left -----+-> profile_distance -> is it what is shown, or the place?
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import nan

import numpy as np
from matplotlib.colors import to_rgb
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from sparnet.faces import TEMPLATE, TEMPLATE_SIDE
from sparnet.images import to_image
from sparnet.metrics import CONFIDENCE, RESAMPLES, ends, estimates, labelled
from sparnet.regions import masks_from_five_points, region_masks
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import WHERE, Instrument, Seed
from viz.subject import Subject, over_faces, spatial_maps
from viz.views import BLUE, DIVERGING, GREEN, ORANGE, RED, Bars, Matrix, Panel, View, numerals, pictures

MEANING = (
    "How open each unit's gate is inside a part of the face, over its mean over the whole picture: above 1 it lets "
    "more of its features through there, below 1 less; it does not say that the result depends on it (ablation does), "
    "nor how strong the features are, and on the smallest maps a part covers only a few cells."
)
MANY_MEANING = (
    f"{MEANING} A preference for a part of aligned faces may be one for its place: moving the face tells the two "
    "apart, the population how much of a map is this face's own."
)
COLORS = {
    "brows": ORANGE,
    "eyes": BLUE,
    "nose": GREEN,
    "mouth": RED,
    "skin": "#F0D5C0",
    "rest": "#D9D9D9",
}
ALIGNED = "the template, as if aligned"
MOVE = 8  # the face is moved by 1/8 of the picture's side: 16 of 128 pixels, two cells of a map of 16x16
STRENGTH, OTHER, LEFT, ALONG = "strength", "another face", "masks left", "masks moved along"
CONTROLS = (STRENGTH, OTHER, LEFT, ALONG)

_NEIGHBOURS = 3  # faces before it whose maps are laid under each face's masks
_LEAST = 1e-6  # of a ratio, so that a gate that is shut has a logarithm
_LABELS = (  # of `CONTROLS`
    "how strong its preferences are",
    "off by another face's map",
    "off after moving the face; parts left behind",
    "parts moved along",
)
_TELLS = {1: "content", 0: "undecided", -1: "place"}  # by the side of "left minus along"
_NOTE = "%: share of the picture."
_CAPTION = "Mean attention in the region over the map's own mean: 1 is no preference, orange more, violet less."


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
    return F.pad(face, (x, -x, y, -y), mode="replicate")  # below 0 it cuts off


def profile_distance(first: ndarray, other: ndarray | float = 1.0) -> ndarray:
    """Ratios (..., regions) -> (...): root mean square over the regions of log2(first / other), in doublings.

    0: the same preferences; against 1 it is how strong they are: 1 means twice or half of the mean in a typical part.
    A region that either has not is left out.
    """
    doublings = np.log2(np.maximum(first, _LEAST)) - np.log2(np.maximum(other, _LEAST))
    return np.sqrt(np.nanmean(np.square(doublings), axis=-1))


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


def study(subject: Subject, progress: Progress = silent) -> Finding:
    """Which parts of this one face each unit prefers; of chance only `study_many` knows."""
    progress(0, 1, "Measuring the regions")
    masks, source = face_regions(subject)
    maps = spatial_maps(subject)
    table = np.array([_row(alpha, masks) for alpha in maps.values()])
    shares = {region: float(mask.mean()) for region, mask in masks.items()}
    face, stack = to_image(subject.degraded), np.stack(list(masks.values()))
    parts = np.rint(0.5 * face + 0.5 * _tint(stack)).astype(np.uint8)
    numbers = {
        "model": subject.name,
        "regions_from": source,
        "share_of_picture": shares,
        "ratios": labelled(table, list(maps), list(COLORS)),
    }
    progress(1, 1, "Done")
    arrays = {"ratios": table, "masks": stack, "degraded": face, "parts": parts}
    chart = {_CAPTION: _table(maps, table, shares, numerals(table))}
    alphas = [Panel(unit, alpha) for unit, alpha in maps.items()]
    view = View([*pictures(arrays), Panel(f"its parts, by {source}", parts)], {"attention": alphas}, chart)
    title = f"Where each unit of {subject.name} looks: one face"
    arrays |= {f"alpha/{unit}": alpha for unit, alpha in maps.items()}
    return Finding("regions", MEANING, numbers, arrays, view, title, _NOTE, printed=replace(view, groups={}))


def study_many(subjects: Iterable[Subject], seed: Seed = 0, progress: Progress = silent) -> Finding:
    """Which parts of a face each unit prefers on the mean over faces of one model, with 95 % intervals.

    The mean is that of the faces' ratios; the cells are not corrected for their number, so that of 100 without a
    preference about 5 show one. `CONTROLS` ask whether the preference is this face's: `profile_distance` of each face's
    ratios to those of the maps of up to three faces before it under this face's masks, and of `moved_profiles`.
    Memory grows only by the ratios, about 2 kB a face.
    """
    coverage = np.zeros(())
    sources: dict[str, int] = {}
    before: deque[Mapping[str, ndarray]] = deque(maxlen=_NEIGHBOURS)

    def measure(_: int, subject: Subject) -> dict[str, ndarray]:
        nonlocal coverage
        maps = spatial_maps(subject)
        masks, source = face_regions(subject)
        own = np.array([_row(alpha, masks) for alpha in maps.values()])
        swapped = np.array([[_row(alpha, masks) for alpha in other.values()] for other in before])
        strange = profile_distance(swapped, own).mean(0) if before else np.full(len(own), nan)
        distances = np.column_stack((profile_distance(own), strange, moved_profiles(subject, maps, masks)))
        before.append(maps)
        coverage = coverage + np.stack(list(masks.values()))
        sources[source] = sources.get(source, 0) + 1
        return {"ratios": own, "distances": distances}

    last, arrays = over_faces(subjects, measure, progress, "Measuring the regions of")
    tables, maps, model = arrays["ratios"], spatial_maps(last), last.name
    faces, units, regions = len(tables), list(maps), list(COLORS)
    ratios = estimates(tables, seed)
    mean, low, high = ends(ratios)
    covered = coverage / faces
    shares = dict(zip(regions, map(float, covered.mean((1, 2))), strict=True))
    controlled, names = _controls(arrays["distances"], seed), [*units, "all units"]
    controls = labelled(controlled, names, (*CONTROLS, "left minus along"))
    for unit, measured in zip(names, controlled, strict=True):
        controls[unit]["tells"] = _TELLS[measured[-1].side()]
    numbers = {
        "model": model,
        "faces": faces,
        "regions_from": sources,
        "seed": seed,
        "resamples": RESAMPLES,
        "confidence": CONFIDENCE,
        "moved_by": f"1/{MOVE} of the side",
        "share_of_picture": shares,
        "ratios": labelled(ratios, units, regions),
        "controls": controls,
    }
    text = numerals(mean).astype(object)
    for place, ratio in np.ndenumerate(ratios):
        if ratio.low is not None:
            text[place] += f"\n{ratio.low:.2f}…{ratio.high:.2f}{'' if ratio.side(at=1) else ' ○'}"
    series = {label: controlled[:, i] for i, label in enumerate(_LABELS)}
    diagrams = {
        f"{_CAPTION} Small: 95 % interval; ring: it holds 1.": _table(maps, mean, shares, text),
        "Is it what is shown, or the place in the picture? Where parts moved along are less off than those left "
        "behind, the map goes with the face.": Bars(names, series, "doublings, RMS"),
    }
    view = View([Panel(f"the parts, by {', '.join(sources)}", _tint(covered))], diagrams=diagrams)
    arrays |= {"mean": mean, "low": low, "high": high, "coverage": covered}
    title = f"Where each unit of {model} looks: mean of {faces} faces"
    return Finding("regions", MANY_MEANING, numbers, arrays, view, title, _NOTE)


def _table(maps: Mapping[str, ndarray], ratios: ndarray, shares: Mapping[str, float], text: ndarray) -> Matrix:
    """Ratios (units, regions) on a logarithmic scale, so that half and double are equally far from 1."""
    rows = ["{}  {}x{}".format(unit, *alpha.shape) for unit, alpha in maps.items()]
    columns = [f"{region} {share:.1%}" for region, share in shares.items()]
    ends = (-2.0, 2.0)  # from a quarter to four times
    return Matrix(np.log2(np.maximum(ratios, _LEAST)), rows, columns, DIVERGING, ends, text, list(COLORS.values()))


def _controls(distances: ndarray, seed: int) -> ndarray:
    """(N, units, CONTROLS) -> (units and their mean, CONTROLS and left minus along) of Estimate.

    A map goes with the content if its profile changes more with the masks left than with those moved along, the
    interval of the difference leaving out 0; with the place if less.
    """
    distances = np.concatenate((distances, distances.mean(1, keepdims=True)), axis=1)
    gap = distances[..., CONTROLS.index(LEFT)] - distances[..., CONTROLS.index(ALONG)]
    return estimates(np.concatenate((distances, gap[..., None]), axis=2), seed)


def _row(alpha: ndarray, masks: Mapping[str, ndarray]) -> ndarray:
    return np.array(list(preference(alpha, masks).values()))


def _tint(coverage: ndarray) -> ndarray:
    """(regions,S,S) -> (S,S,3) uint8: each pixel in the colour of the region that covers it most."""
    colors = np.array([to_rgb(color) for color in COLORS.values()])
    return np.rint(colors[coverage.argmax(axis=0)] * 255).astype(np.uint8)


INSTRUMENT = Instrument(
    "regions",
    WHERE,
    "Which parts of the face does each unit prefer?",
    "Mean attention in brows, eyes, nose, mouth and skin, over the map's own mean.",
    study,
    over_faces=study_many,
)
