"""What is usual: attention over many faces, over a training run, and over the depth of one network.

faces -> maps, one face at a time -> Moments (Welford) -> Population: mean, std (h,w) -> study_many
face  -> maps -> z = (map - mean) / std ----------------------------'---------------> study
checkpoints in order, one probe face -> maps over time (T,h,w) -> study_training
OUT/attention/step-*.npz of a training run -> maps over time ---> study_run
one face -> its maps in forward order -> coarse_to_fine -> gif
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from operator import length_hint
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image

from sparnet.errors import UserError
from sparnet.files import save_bytes, sha256_of
from sparnet.images import to_image
from sparnet.metrics import CONFIDENCE, RESAMPLES, mean_interval
from sparnet.restorer import Progress
from sparnet.text import for_figure
from viz.finding import Finding, Subject
from viz.overlay import overlay
from viz.regions import spatial_maps

MEANING = (
    "Where each unit looks on the mean over faces that are aligned alike, and how much that varies from face to face; "
    "what moves with the face (glasses, hair, a turned head) blurs the mean, so a pale mean is not a lack of interest."
)
FACE_MEANING = (
    "Where this face's maps leave what is usual, in standard deviations of the population: beyond 2 is rare, but among "
    "hundreds of places some always are, and it says neither that the face is wrong nor that it is badly restored."
)
TRAINING_MEANING = (
    "One face's maps at every checkpoint and their correlation with those of the last: when each unit settled on its "
    "places; one face and one run, so another run's units may share the work differently."
)
FLOOR = 0.002  # half a shade of 256: a smaller standard deviation counts as this, or z would blow up the invisible
KEPT = ".population.npz"  # instead of the weights' suffix
RARE = 2  # standard deviations
_STD_END, _Z_END = 0.25, 4  # ends of the colour scales
_COLUMNS, _MAP, _PITCH, _MARGIN, _HEAD = 8, 1.12, 1.19, 0.25, 0.75  # maps a row; inches


@dataclass
class Moments:
    """Mean and variance of arrays given one by one, in the memory of two (Welford 1962); exact where sums cancel."""

    count: int = 0
    mean: ndarray | float = 0.0
    squares: ndarray | float = 0.0  # sum of the squared distances from the mean

    def add(self, value: ndarray) -> None:
        value = value.astype(np.float64)
        self.count += 1
        away = value - self.mean
        self.mean = self.mean + away / self.count
        self.squares = self.squares + away * (value - self.mean)

    @property
    def std(self) -> ndarray:
        """The sample's standard deviation, of n - 1; needs two arrays."""
        return np.sqrt(self.squares / (self.count - 1))


@dataclass(frozen=True, eq=False)
class Population:
    """One network's attention over many faces that are aligned alike."""

    model: str
    faces: int
    mean: dict[str, ndarray]  # unit -> (h,w) float64
    std: dict[str, ndarray]  # unit -> (h,w) float64, over the faces, of n - 1
    levels: ndarray  # (faces, units): each map's mean


def gather(subjects: Iterable[Subject], progress: Progress | None = None) -> Population:
    """The population of these faces, one at a time; `UserError` for fewer than two, or faces of several models.

    Only faces that are aligned alike have a mean worth looking at. Memory grows by one number a face and unit.
    """
    moments: dict[str, Moments] = {}
    levels, model, total = [], None, length_hint(subjects)
    for i, subject in enumerate(subjects):
        if progress:
            progress(i, total, f"Tracing face {i + 1}")
        if model not in (None, subject.name):
            raise UserError(f"The faces are of two models, {model} and {subject.name}. Study one model at a time.")
        model, maps = subject.name, spatial_maps(subject)
        for unit, alpha in maps.items():
            moments.setdefault(unit, Moments()).add(alpha)
        levels.append([alpha.mean(dtype=np.float64) for alpha in maps.values()])
    if len(levels) < 2:
        raise UserError("A population needs at least two faces. Give a folder with more of them.")
    if progress:
        progress(len(levels), len(levels), "Done")
    mean, std = ({unit: getattr(of, name) for unit, of in moments.items()} for name in ("mean", "std"))
    return Population(model, len(levels), mean, std, np.array(levels))


def z_scores(maps: Mapping[str, ndarray], population: Population) -> dict[str, ndarray]:
    """unit -> (h,w): z = (map - mean) / max(std, FLOOR); `UserError` if the maps are of another network."""
    if {unit: alpha.shape for unit, alpha in maps.items()} != {unit: m.shape for unit, m in population.mean.items()}:
        raise UserError(f"The population is of {population.model}, whose units differ. Gather one with this model.")
    return {unit: (alpha - population.mean[unit]) / population.std[unit].clip(FLOOR) for unit, alpha in maps.items()}


def study_many(subjects: Iterable[Subject], seed: int = 0, progress: Progress | None = None) -> Finding:
    """Mean map and standard deviation of every unit over the faces, arrays "UNIT/mean" and "UNIT/std".

    Each unit's mean attention with its 95 % bootstrap interval over the faces. `population_of` reads the arrays back.
    """
    population = gather(subjects, progress)
    mean, low, high = mean_interval(population.levels, seed)
    units = {}
    for i, (unit, std) in enumerate(population.std.items()):
        units[unit] = {"mean": mean[i], "low": low[i], "high": high[i], "std_over_faces": std.mean()}
    numbers = {
        "model": population.model,
        "faces": population.faces,
        "seed": seed,
        "resamples": RESAMPLES,
        "confidence": CONFIDENCE,
        "units": {unit: {name: float(value) for name, value in of.items()} for unit, of in units.items()},
    }
    rows = {
        "mean of the faces: dark 0, bright 1": (population.mean, "viridis", (0, 1)),
        f"standard deviation over the faces: dark 0, bright {_STD_END}": (population.std, "magma", (0, _STD_END)),
    }
    figure = maps_figure(rows, f"Attention of {population.model}: {population.faces} faces")
    arrays = {f"{unit}/mean": alpha for unit, alpha in population.mean.items()}
    arrays |= {f"{unit}/std": std for unit, std in population.std.items()}
    return Finding("population", MEANING, numbers, arrays | {"levels": population.levels}, figure)


def population_of(numbers: Mapping, arrays: Mapping[str, ndarray]) -> Population:
    """The population that `study_many` found, from what it gave or from its files."""
    mean, std = ({unit: arrays[f"{unit}/{name}"] for unit in numbers["units"]} for name in ("mean", "std"))
    return Population(numbers["model"], numbers["faces"], mean, std, arrays["levels"])


def keep(population: Population, weights: Path, data: str) -> Path:
    """Write the population beside the weights' file that it was gathered with, for the app; -> its path.

    Mean and std in half precision, finer than a shade of the colours; `data` says in words which faces they are.
    """
    about = {
        "model": population.model,
        "faces": population.faces,
        "data": data,
        "weights_sha256": sha256_of(weights),
    }
    arrays = {f"{unit}/mean": alpha.astype(np.float16) for unit, alpha in population.mean.items()}
    arrays |= {f"{unit}/std": std.astype(np.float16) for unit, std in population.std.items()}
    file, path = BytesIO(), weights.with_suffix(KEPT)
    levels = population.levels.astype(np.float32)
    np.savez_compressed(file, about=json.dumps(about), units=list(population.mean), levels=levels, **arrays)
    save_bytes(file.getvalue(), path)
    return path


def kept(model: str, weights: Path) -> tuple[Population, str]:
    """What `keep` wrote beside a model's weights, and which faces they are; `UserError` if there is none of these."""
    path = weights.with_suffix(KEPT)
    make = f"With a folder of faces that are aligned alike: python -m viz population --faces DIR --model {model} --keep"
    if not path.is_file():
        raise UserError(f"No population of {model} was gathered yet. {make}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            about, units = json.loads(str(arrays["about"])), arrays["units"].tolist()
            mean, std = ({unit: arrays[f"{unit}/{of}"].astype(float) for unit in units} for of in ("mean", "std"))
            levels = arrays["levels"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(f"{path.name} of {model} is damaged ({error}). {make}") from error
    if about["weights_sha256"] != sha256_of(weights):
        raise UserError(f"The population of {model} was gathered with other weights than it has now. {make}")
    return Population(model, about["faces"], mean, std, levels), about["data"]


def study(subject: Subject, population: Population, progress: Progress | None = None) -> Finding:
    """How this face, aligned as the population's, differs from it: arrays "UNIT/z", "UNIT/map" and "UNIT/mean".

    z is as uncertain as the population is small; the face itself should not be in it.
    """
    if progress:
        progress(0, 1, "Tracing the face")
    maps = spatial_maps(subject)
    z = z_scores(maps, population)
    units = {
        unit: {
            "mean_z": float(of.mean()),
            "rms_z": float(np.sqrt(np.square(of).mean())),
            "rare": float((abs(of) > RARE).mean()),  # share of the places; 0.046 if z were normal
            "at_the_floor": float((population.std[unit] < FLOOR).mean()),
        }
        for unit, of in z.items()
    }
    numbers = {"model": subject.name, "faces": population.faces, "floor": FLOOR, "rare_beyond": RARE, "units": units}
    rows = {
        "this face: dark 0, bright 1": (maps, "viridis", (0, 1)),
        f"mean of {population.faces} faces": (population.mean, "viridis", (0, 1)),
        f"difference in standard deviations: violet -{_Z_END}, white 0, orange {_Z_END}": (
            z, "PuOr_r", (-_Z_END, _Z_END),
        ),
    }  # fmt: skip
    figure = maps_figure(rows, f"One face against the population: {subject.name}")
    if progress:
        progress(1, 1, "Done")
    arrays = {"degraded": to_image(subject.degraded)}
    for unit in z:
        arrays |= {f"{unit}/map": maps[unit], f"{unit}/z": z[unit], f"{unit}/mean": population.mean[unit]}
    return Finding("population", FACE_MEANING, numbers, arrays, figure)


def study_training(checkpoints: Iterable[Subject], progress: Progress | None = None) -> Finding:
    """One face's maps by a network's checkpoints in order, arrays "UNIT/over_time" (T,h,w), and when they settled.

    Each Subject's name labels its checkpoint; given as a generator, one network at a time is in memory. r is Pearson's
    with the last checkpoint's map, None of a constant map. `UserError` if the face or the units change.
    """
    labels, over_time, degraded, total = [], {}, None, length_hint(checkpoints)
    for i, subject in enumerate(checkpoints):
        if progress:
            progress(i, total, f"Tracing {subject.name}")
        maps = spatial_maps(subject)
        degraded = subject.degraded.cpu() if degraded is None else degraded
        shapes = {unit: alphas[0].shape for unit, alphas in over_time.items()}
        if labels and shapes != {unit: alpha.shape for unit, alpha in maps.items()}:
            raise UserError(
                f"The units of {subject.name} are not those of {labels[0]}. Give checkpoints of one recipe."
            )
        if not torch.equal(subject.degraded.cpu(), degraded):
            raise UserError(f"{subject.name} was given another face than {labels[0]}. Give all the same one.")
        labels.append(subject.name)
        for unit, alpha in maps.items():
            over_time.setdefault(unit, []).append(alpha)
    if not labels:
        raise UserError("There are no checkpoints to look at. Give at least one model folder.")
    if progress:
        progress(len(labels), len(labels), "Done")
    return _training(labels, {unit: np.stack(alphas) for unit, alphas in over_time.items()})


def study_run(run: Path, progress: Progress | None = None) -> Finding:
    """The same of a training run's own face, the astronaut, from RUN/attention/step-*.npz, which its validations wrote.

    Array "restored/over_time" (T,S,S,3) uint8 too. `UserError` if the folder has none, or they do not fit together.
    """
    paths = sorted((run / "attention").glob("step-*.npz"))
    if not paths:
        raise UserError(f"{run} has no attention/step-*.npz. Give the folder of a training run, its --out.")
    labels, over_time = [], {}
    for i, path in enumerate(paths):
        if progress:
            progress(i, len(paths), f"Reading {path.name}")
        labels.append(f"step {int(path.stem.removeprefix('step-')):,}")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for name in arrays.files:
                    over_time.setdefault(name, []).append(arrays[name])
        except (OSError, ValueError, BadZipFile) as error:
            raise UserError(f"{path} cannot be read ({error}). Take it away, with the PNG beside it.") from error
    del over_time["degraded"]
    if any(len({one.shape for one in states}) > 1 or len(states) < len(paths) for states in over_time.values()):
        raise UserError(f"The states in {run}/attention are of different networks. Take away those of the other one.")
    if progress:
        progress(len(paths), len(paths), "Done")
    restored = np.stack(over_time.pop("restored"))
    stacks = {unit: np.stack(states).astype(np.float32) for unit, states in over_time.items()}
    return _training(labels, stacks, {"restored/over_time": restored})


def _training(labels: list[str], stacks: dict[str, ndarray], more: Mapping[str, ndarray] | None = None) -> Finding:
    units = {
        unit: {
            "mean": [float(alpha.mean(dtype=np.float64)) for alpha in stack],
            "r_with_last": [_correlation(alpha, stack[-1]) for alpha in stack],
        }
        for unit, stack in stacks.items()
    }
    return Finding(
        "training",
        TRAINING_MEANING,
        {"checkpoints": labels, "units": units},
        {f"{unit}/over_time": stack for unit, stack in stacks.items()} | dict(more or {}),
        training_figure(labels, stacks, units),
    )


def maps_figure(rows: Mapping[str, tuple[Mapping[str, ndarray], str, tuple[float, float]]], title: str) -> Figure:
    """Every unit a column in forward order, eight to a block; its maps below. rows: what -> (maps, colours, range)."""
    units = list(next(iter(rows.values()))[0])
    block = len(rows) * _PITCH + 0.3
    width = 2 * _MARGIN + min(len(units), _COLUMNS) * _PITCH
    height = _HEAD + 0.22 * len(rows) + -(-len(units) // _COLUMNS) * block
    figure = Figure(figsize=(max(width, 6), height), facecolor="white")
    FigureCanvasAgg(figure)
    width = figure.get_figwidth()
    figure.text(_MARGIN / width, 1 - 0.35 / height, for_figure(title), fontsize=11)
    for i, what in enumerate(rows):
        figure.text(_MARGIN / width, 1 - (0.6 + 0.22 * i) / height, f"row {i + 1}: {what}", fontsize=8, color="0.35")
    for i, unit in enumerate(units):
        down, across = divmod(i, _COLUMNS)
        for row, (maps, colormap, (low, high)) in enumerate(rows.values()):
            x, y = _MARGIN + across * _PITCH, _HEAD + 0.22 * len(rows) + down * block + row * _PITCH
            axes = figure.add_axes((x / width, 1 - (y + _MAP) / height, _MAP / width, _MAP / height))
            axes.imshow(maps[unit], cmap=colormap, vmin=low, vmax=high, interpolation="nearest")
            axes.axis("off")
            if row == 0:
                axes.set_title("{}  {}x{}".format(unit, *maps[unit].shape), fontsize=7, loc="left", pad=3)
    return figure


def training_figure(labels: Sequence[str], stacks: Mapping[str, ndarray], units: Mapping[str, Mapping]) -> Figure:
    """A row a unit, a column a checkpoint, at most eight evenly spread with the first and the last; r with the last."""
    shown = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), _COLUMNS)).round().astype(int))
    figure = Figure(figsize=(10, _HEAD + 0.2 + 1.3 * len(stacks)), facecolor="white")
    FigureCanvasAgg(figure)
    height = figure.get_figheight()
    figure.text(0.02, 1 - 0.35 / height, "Attention of one face over the training", fontsize=11)
    figure.text(
        0.02, 1 - 0.6 / height, "dark 0, bright 1; r: correlation with the last checkpoint's map", size=8, color="0.35"
    )
    for row, (unit, stack) in enumerate(stacks.items()):
        y = 1 - (_HEAD + 0.2 + row * 1.3 + _MAP) / height
        figure.text(0.02, y + _MAP / 2 / height, for_figure(unit), fontsize=8, weight="bold")
        for column, step in enumerate(shown):
            axes = figure.add_axes((0.12 + column * 0.109, y, 0.105, _MAP / height))
            axes.imshow(stack[step], cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
            axes.axis("off")
            r = units[unit]["r_with_last"][step]
            told = "constant" if r is None else f"r {r:.2f}"
            axes.set_title(f"{for_figure(labels[step])}\n{told}" if row == 0 else told, fontsize=7, loc="left", pad=2)
    return figure


def coarse_to_fine(subject: Subject) -> list[ndarray]:
    """One frame a unit in forward order, (H,W,3) uint8: its map over the restored face, and the map alone, 0..1."""
    maps = spatial_maps(subject)
    with torch.no_grad():
        restored = to_image(subject.model(subject.degraded))
    frames = []
    for i, (unit, alpha) in enumerate(maps.items()):
        figure = Figure(figsize=(6.1, 3.4), facecolor="white")
        FigureCanvasAgg(figure)
        for x, picture in ((0.02, overlay(restored, alpha)), (0.51, alpha)):
            axes = figure.add_axes((x, 0.02, 0.47, 0.86))
            axes.imshow(picture, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
            axes.axis("off")
        words = "{} of {}: {}, {}x{}, mean {:.2f}".format(i + 1, len(maps), unit, *alpha.shape, alpha.mean())
        figure.text(0.02, 0.92, words, fontsize=11)
        frames.append(_pixels(figure))
    return frames


def gif(frames: Sequence[ndarray], seconds: float = 0.8) -> bytes:
    """Frames (H,W,3) uint8 of one size -> an animated GIF that repeats, each shown for `seconds`, the last three times.

    256 colours a frame, not dithered. A frame equal to the one before it only prolongs it.
    """
    if not frames or len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"a film has frames of one size; these are {[frame.shape for frame in frames]}")
    pictures = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames]
    times = [round(seconds * 1000)] * (len(frames) - 1) + [round(seconds * 3000)]
    file = BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    return file.getvalue()


def _correlation(a: ndarray, b: ndarray) -> float | None:
    if min(a.std(), b.std()) <= 1e-6:  # float32's rounding: no variance of the map's own
        return None
    return float(np.corrcoef(a.ravel().astype(np.float64), b.ravel())[0, 1])


def _pixels(figure: Figure) -> ndarray:
    """The drawn figure, (H,W,3) uint8, 100 pixels an inch."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
