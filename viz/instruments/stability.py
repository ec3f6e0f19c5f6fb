"""Do the maps, and the restored face, hold still when the input is changed in ways that should not matter?

degraded -> noise, JPEG, shift, flip -> network -> maps, restored -> the change undone --+
degraded -----------------------------> network -> maps, restored ----------------------+-> Drift of each unit
                                                                                        +-> variance of each place
many faces -> Drift of each -> mean and 95 % interval over the faces
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import cv2
import numpy as np
import torch
from torch import Tensor

from sparnet.attention import mean_map
from sparnet.images import to_image, to_tensor
from sparnet.metrics import ends, estimates, labelled
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import REAL, Instrument, Option, Seed
from viz.instruments.agreement import correlation, is_constant
from viz.instruments.regions import shift
from viz.subject import Subject, over_faces, spatial_maps
from viz.views import Matrix, Panel, View, numerals, pictures

MEANING = (
    "How much every unit's map, and the restored face, change under a little noise, a JPEG's losses, a shift or a flip "
    "of the input, shift and flip undone again: a map that holds still is reproducible, not therefore right, and one "
    "that ignores the face holds stillest of all."
)
KINDS = ("noise", "jpeg", "shift", "flip")
MEASURES = ("correlation", "change", "rms")  # of a `Drift`
NOISE = 2  # standard deviation in levels of 0..255
QUALITY = 75  # of the JPEG
SHIFT = 2  # pixels of the face
INPUT, OUTPUT = "input", "output"  # rows beside the units: the degraded face itself, for scale, and the restored one
Noises = Annotated[int, Option("How many different noises are added.", 1, 1000)]

_BORDER = 16  # a margin of 1/16 of the side is not compared: what a shift brings in there is made up
_UNITS_LIMIT, _OUTPUT_LIMIT = 0.1, 25  # ends of the colours of the variance maps: RMS change of alpha, in levels


@dataclass(frozen=True, eq=False)
class Perturbation:
    """A small change of the input and its undoing in everything that comes out."""

    kind: str  # one of KINDS
    name: str
    change: Callable[[Tensor], Tensor]  # (1,3,S,S) in [-1,1] -> the same
    undo: Callable[[np.ndarray], np.ndarray] = lambda maps: maps  # (C,S,S) -> the same


def perturbations(seeds: Iterable[int]) -> list[Perturbation]:
    """Noise of each seed, at least one; JPEG; shifts to the four sides; a horizontal flip."""
    changes = [Perturbation("noise", f"noise, seed {seed}", partial(add_noise, seed=seed)) for seed in seeds]
    changes.append(Perturbation("jpeg", f"JPEG, quality {QUALITY}", jpeg))
    for name, x, y in (("right", SHIFT, 0), ("left", -SHIFT, 0), ("down", 0, SHIFT), ("up", 0, -SHIFT)):
        undo = partial(np.roll, shift=(-y, -x), axis=(1, 2))  # what goes round lies in the border
        changes.append(Perturbation("shift", f"{SHIFT} px {name}", partial(shift, x=x, y=y), undo))
    changes.append(Perturbation("flip", "flip", lambda face: face.flip(3), lambda maps: maps[:, :, ::-1]))
    return changes


def add_noise(face: Tensor, seed: int) -> Tensor:
    """Gaussian noise of `NOISE` levels, each pixel and colour its own; kept in [-1,1], not rounded to 8 bits."""
    noise = torch.randn(face.shape, generator=torch.Generator().manual_seed(seed))
    return (face + noise.to(face) * (NOISE / 127.5)).clamp(-1, 1)


def jpeg(face: Tensor) -> Tensor:
    """Written as a JPEG of `QUALITY` and read again, by OpenCV with its usual halved colours."""
    _, file = cv2.imencode(".jpg", to_image(face)[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, QUALITY))  # OpenCV takes BGR
    return to_tensor(np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR))[..., ::-1]).to(face)


@dataclass(frozen=True)
class Drift:
    """One map, or picture, before and after a perturbation that was undone; None where that is not defined."""

    correlation: float | None  # Pearson's, -1..1: 1, the same but for scale and offset; None of a constant map
    change: float | None  # RMS change / standard deviation of the map before; None of a constant map that changed
    rms: float  # RMS change, in the map's own units

    @classmethod
    def of(cls, before: np.ndarray, after: np.ndarray) -> "Drift":
        """Of two arrays of one shape."""
        rms = float(np.sqrt(np.square(after - before, dtype=np.float64).mean()))
        if is_constant(before):
            still = is_constant(np.stack((before, after)))
            return cls(None, 0.0 if still else None, rms)
        return cls(correlation(before, after), rms / float(before.std(dtype=np.float64)), rms)


def inner(maps: np.ndarray) -> np.ndarray:
    """(C,S,S) -> the part that is compared: without S/16 pixels, at least those of a shift, along each side."""
    border = max(SHIFT, maps.shape[-1] // _BORDER)
    return maps[:, border:-border, border:-border]


def on_the_face(alpha: np.ndarray, size: int) -> np.ndarray:
    """(h,w) -> (1,S,S) float32, bilinear.

    A shift of 2 pixels is a part of one of a smaller map's; it is undone after enlarging, since a map has no value
    between its pixels. So a smaller map changes a little by where its pixels lie, even for a perfect network.
    """
    return cv2.resize(alpha, (size, size), interpolation=cv2.INTER_LINEAR)[None]


def responses(subject: Subject, face: Tensor) -> dict[str, np.ndarray]:
    """Input (3,S,S), every unit's mean map (1,S,S) and output (3,S,S), the pictures in [-1,1], for this input."""
    with torch.no_grad():
        trace = subject.model.trace(face)
    maps = {unit: on_the_face(mean_map(alpha), face.shape[-1]) for unit, alpha in trace.alphas.items()}
    return {INPUT: face[0].float().cpu().numpy(), **maps, OUTPUT: trace.restored[0].float().cpu().numpy()}


@dataclass(frozen=True, eq=False)
class Stability:
    """One face's stability; rows are input, units in forward order, output."""

    scores: dict[str, dict[str, list[Drift]]]  # row -> kind -> one for each perturbation of that kind
    variance: dict[str, np.ndarray]  # row -> `inner` part: mean over KINDS of the mean squared change, colours averaged

    @classmethod
    def of(cls, subject: Subject, seeds: Iterable[int], progress: Progress = silent) -> "Stability":
        """Every perturbation of one face, one forward each."""
        changes = perturbations(seeds)
        before = responses(subject, subject.degraded)
        scores = {row: {kind: [] for kind in KINDS} for row in before}
        squares = {row: {kind: 0.0 for kind in KINDS} for row in before}
        for i, perturbation in enumerate(changes):
            progress(i, len(changes), perturbation.name)
            for row, maps in responses(subject, perturbation.change(subject.degraded)).items():
                undone = perturbation.undo(maps)
                was, now = inner(before[row]), inner(undone)
                scores[row][perturbation.kind].append(Drift.of(was, now))
                squares[row][perturbation.kind] += np.square(now - was, dtype=np.float64).mean(0)
        progress(len(changes), len(changes), "Done")
        variance = {
            row: np.mean([squares[row][kind] / len(kinds[kind]) for kind in KINDS], axis=0)
            for row, kinds in scores.items()
        }
        return cls(scores, variance)

    def table(self, measure: str) -> np.ndarray:
        """(rows, KINDS) float64: the mean of a `Drift`'s field over the perturbations of a kind; NaN: not defined."""
        return np.array(
            [[np.mean([getattr(score, measure) for score in kinds[kind]], dtype=float) for kind in KINDS]
             for kinds in self.scores.values()]
        )  # fmt: skip


def study(subject: Subject, noises: Noises = 4, seed: Seed = 0, progress: Progress = silent) -> Finding:
    """Scores of every unit, the input and the output by kind of perturbation; arrays "variance/UNIT", the `inner` part.

    `UserError` for a network without attention that has places.
    """
    seeds = list(range(seed, seed + noises))
    spatial_maps(subject)
    found = Stability.of(subject, seeds, progress)
    tables = {measure: found.table(measure) for measure in MEASURES}
    title = f"{subject.name}: what small changes of the input do"
    numbers = {"model": subject.name, **_settings(seeds), "rows": _rows(found.scores, tables)}
    return _finding(numbers, tables, tables, found.variance, title, subject.faces)


def study_many(subjects: Iterable[Subject], noises: Noises = 4, seed: Seed = 0, progress: Progress = silent) -> Finding:
    """`study` of many faces in one network: means with 95 % intervals over the faces, and the mean variance maps.

    Arrays: each measure (faces, rows, KINDS), NaN where it is not defined. `UserError` without a face, of several
    models, or for a network without attention that has places.
    """
    seeds = list(range(seed, seed + noises))
    variance: dict[str, np.ndarray] = {}

    def measure(_: int, subject: Subject) -> dict[str, np.ndarray]:
        spatial_maps(subject)
        found = Stability.of(subject, seeds)
        for row, values in found.variance.items():
            variance[row] = variance.get(row, 0) + values
        return {measure: found.table(measure) for measure in MEASURES}

    last, measures = over_faces(subjects, measure, progress, "Changing", least=1)
    count = len(measures["rms"])
    found = {name: estimates(values, seed) for name, values in measures.items()}
    numbers = {"model": last.name, "faces": count, "seed": seed, **_settings(seeds), "rows": _rows(variance, found)}
    tables = {name: ends(values)[0] for name, values in found.items()}
    title = f"{last.name}: what small changes of the input do, mean of {count} faces"
    return _finding(numbers, measures, tables, {row: values / count for row, values in variance.items()}, title, {})


def _finding(
    numbers: dict,
    measures: Mapping[str, np.ndarray],
    tables: Mapping[str, np.ndarray],
    variance: Mapping[str, np.ndarray],
    title: str,
    faces: dict[str, np.ndarray],
) -> Finding:
    """Tables rows x KINDS of correlation and change, the root of the variance on the inner part."""
    rows = list(variance)
    captions = {
        "correlation": "Correlation of each map with itself after the change; 1 holds still:",
        "change": "RMS change by the spread of the map; 0 holds still:",
    }
    colors = {"correlation": "viridis", "change": "viridis_r"}
    diagrams = {
        caption: Matrix(tables[name], rows, KINDS, colors[name], text=numerals(tables[name]))
        for name, caption in captions.items()
    }
    spread = {row: np.sqrt(values) for row, values in variance.items()}
    alphas = max(float(values.max()) for row, values in spread.items() if row not in (INPUT, OUTPUT))
    ends = {row: float(values.max()) if row in (INPUT, OUTPUT) else alphas for row, values in spread.items()}
    maps = [Panel(row, values, (0, ends[row]), "magma") for row, values in spread.items()]
    view = View(pictures(faces), {"RMS change of each place": maps}, diagrams)
    units = np.sqrt(np.mean([values for row, values in variance.items() if row not in (INPUT, OUTPUT)], axis=0))
    printed = [
        Panel("all units: of alpha", units, (0, _UNITS_LIMIT), "inferno"),
        Panel("restored face: 8-bit levels", spread[OUTPUT] * 127.5, (0, _OUTPUT_LIMIT), "inferno"),
    ]
    return Finding(
        "stability",
        MEANING,
        numbers,
        {"rows": np.array(rows), "kinds": np.array(KINDS), **measures}
        | {f"variance/{row}": values for row, values in variance.items()}
        | faces,
        view,
        title,
        printed=replace(view, groups={"RMS change of each place": printed}),
    )


def _settings(seeds: list[int]) -> dict:
    return {"noise_levels": NOISE, "noise_seeds": seeds, "jpeg_quality": QUALITY, "shift_px": SHIFT}


def _rows(rows: Iterable[str], tables: Mapping[str, np.ndarray]) -> dict:
    """{row: {kind: {measure: value or Estimate}}} for JSON."""
    return labelled(np.stack([tables[name] for name in MEASURES], axis=-1), list(rows), KINDS, MEASURES)


INSTRUMENT = Instrument(
    "stability",
    REAL,
    "Does it hold still?",
    "The maps again after a little noise, JPEG, a shift of two pixels, and mirrored.",
    study,
    over_faces=study_many,
    slow=True,
)
