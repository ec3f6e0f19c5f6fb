"""What is usual: attention over many faces, and how one face differs from it.

faces -> maps, one face at a time -> Moments (Welford) -> Population: mean, std (h,w) --+-> study_many
         maps of the face, and of the face moved ---------> Shares: layout, own ---------'
face  -> maps -> z = (map - mean) / std ----------------------------'---------------> study
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile

import numpy as np
from numpy import ndarray

from sparnet.errors import UserError
from sparnet.files import encode_npz, save_bytes, sha256_of
from sparnet.images import to_image
from sparnet.metrics import CONFIDENCE, RESAMPLES, estimates, labelled
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import KEEP, POPULATION, REAL, Instrument, Seed
from viz.instruments.faithfulness import SOBEL, sobel_map
from viz.instruments.regions import MOVE, shift
from viz.subject import Subject, over_faces, spatial_maps
from viz.views import DIVERGING, Bars, Panel, View, pictures

MEANING = (
    "Where each unit looks on the mean over faces that are aligned alike, and how much that varies from face to face; "
    "what moves with the face (glasses, hair, a turned head) blurs the mean, so a pale mean is not a lack of interest. "
    "What all maps have in common may be a stencil or the parts of aligned faces: moving the face tells the two apart."
)
FACE_MEANING = (
    "Where this face's maps leave what is usual, in standard deviations of the population: beyond 2 is rare, but among "
    "hundreds of places some always are, and it says neither that the face is wrong nor that it is badly restored."
)
FLOOR = 0.002  # half a shade of 256: a smaller standard deviation counts as this, or z would blow up the invisible
KEPT = ".population.npz"  # instead of the weights' suffix
RARE = 2  # standard deviations
LAYOUT, OWN = "layout", "own"  # shares of a map's variance over its places
_STD_END, _Z_END = 0.25, 4  # ends of the colour scales
_SIDE = 0.9  # inches of a map in print


@dataclass
class Moments:
    """Mean and variance of arrays given one by one, in the memory of two (Welford 1962); exact where sums cancel."""

    count: int = 0
    mean: ndarray = field(default_factory=lambda: np.zeros(()))
    squares: ndarray = field(default_factory=lambda: np.zeros(()))  # sum of the squared distances from the mean

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
class Shares:
    """How much of a map's variance over its places is common to all faces, and how much this face's own.

    A unit's map of face i is a_i(p) = m(p) + c_i(p) + noise: m is the layout of all faces that are aligned alike, c_i
    follows face i. Over the places, with the mean maps of the faces before it, which do not know this face:
    layout = cov(a_i, mean a) / var(a_i). With b_i the map of the face moved, moved back to where it was:
    own = (cov(a_i, b_i) - cov(a_i, mean b)) / var(a_i). Neither has a bias, whatever the number of faces.
    """

    maps: dict[str, Moments] = field(default_factory=dict)
    moved: dict[str, Moments] = field(default_factory=dict)

    def add(self, maps: Mapping[str, ndarray], moved: Mapping[str, ndarray]) -> ndarray:
        """Maps (h,w) of one face and of it moved right and down by 1/`MOVE` -> (maps, 2): layout, own; NaN: not known.

        Only places that both show count. Of the first face, and of a constant map, nothing is known.
        """
        shares = np.full((len(maps), 2), np.nan)
        for i, (unit, a) in enumerate(maps.items()):
            step, side = len(a) // MOVE, len(a)
            a, b = a[: side - step, : side - step], moved[unit][step:, step:]
            before, before_moved = (means.setdefault(unit, Moments()) for means in (self.maps, self.moved))
            if before.count and np.ptp(a) > 0:
                common, following, strange = (covariance(a, other) for other in (before.mean, b, before_moved.mean))
                shares[i] = np.divide((common, following - strange), covariance(a, a))
            before.add(a)
            before_moved.add(b)
        return shares


def covariance(first: ndarray, other: ndarray) -> float:
    """Of two maps over their places."""
    return float(((first - first.mean()) * (other - other.mean())).mean())


@dataclass(frozen=True, eq=False)
class Population:
    """One network's attention over many faces that are aligned alike."""

    model: str
    faces: int
    mean: dict[str, ndarray]  # unit -> (h,w) float64
    std: dict[str, ndarray]  # unit -> (h,w) float64, over the faces, of n - 1
    levels: ndarray  # (faces, units): each map's mean
    data: str | None = None  # which faces they are, in words
    shares: ndarray | None = None  # (faces, units and, last, edges by Sobel, 2): layout, own, as `Shares`


def gather(subjects: Iterable[Subject], progress: Progress = silent, shares: Shares | None = None) -> Population:
    """The population of these faces, one at a time; `UserError` for fewer than two, or faces of several models.

    Only faces that are aligned alike have a mean worth looking at. Memory grows by some numbers a face and unit.
    shares: to know them too, which needs each face a second time, moved.
    """
    moments: dict[str, Moments] = {}

    def measure(_: int, subject: Subject) -> dict[str, ndarray]:
        maps = spatial_maps(subject)
        for unit, alpha in maps.items():
            moments.setdefault(unit, Moments()).add(alpha)
        found = {"levels": np.array([alpha.mean(dtype=np.float64) for alpha in maps.values()])}
        if shares is not None:
            step = subject.degraded.shape[-1] // MOVE
            moved = replace(subject, degraded=shift(subject.degraded, step, step))
            edges, moved_edges = ({SOBEL: sobel_map(face.degraded)} for face in (subject, moved))
            found["shares"] = shares.add(maps | edges, spatial_maps(moved) | moved_edges)
        return found

    last, found = over_faces(subjects, measure, progress, "Tracing")
    levels = found["levels"]
    mean, std = ({unit: getattr(moment, name) for unit, moment in moments.items()} for name in ("mean", "std"))
    return Population(last.name, len(levels), mean, std, levels, shares=found.get("shares"))


def z_scores(maps: Mapping[str, ndarray], population: Population) -> dict[str, ndarray]:
    """unit -> (h,w): z = (map - mean) / max(std, FLOOR); `UserError` if the maps are of another network."""
    if {unit: alpha.shape for unit, alpha in maps.items()} != {unit: m.shape for unit, m in population.mean.items()}:
        raise UserError(f"The population is of {population.model}, whose units differ. Gather one with this model.")
    return {unit: (alpha - population.mean[unit]) / population.std[unit].clip(FLOOR) for unit, alpha in maps.items()}


def study_many(
    subjects: Iterable[Subject],
    keep: Annotated[Callable[[Population], object] | None, KEEP] = None,
    seed: Seed = 0,
    progress: Progress = silent,
) -> Finding:
    """Mean map and standard deviation of every unit over the faces, arrays "UNIT/mean" and "UNIT/std".

    Each unit's mean attention, and the `Shares` of its maps' variance beside those of edges, with 95 % bootstrap
    intervals over the faces. keep: what writes it, for the app.
    """
    population = gather(subjects, progress, Shares())
    if keep is not None:
        keep(population)
    means, shares = estimates(population.levels, seed), estimates(np.asarray(population.shares), seed)
    units = {
        unit: labelled(mean) | labelled(share, (LAYOUT, OWN)) | {"std_over_faces": float(population.std[unit].mean())}
        for unit, mean, share in zip(population.mean, means, shares, strict=False)  # the last share is of edges
    }
    numbers = {
        "model": population.model,
        "faces": population.faces,
        "seed": seed,
        "resamples": RESAMPLES,
        "confidence": CONFIDENCE,
        "units": units,
        "edges": labelled(shares[-1], (LAYOUT, OWN)),
    }
    groups = {
        unit: [Panel("mean of the faces", mean), Panel("SD over them", population.std[unit], (0, _STD_END), "magma")]
        for unit, mean in population.mean.items()
    }
    arrays = {f"{unit}/mean": alpha for unit, alpha in population.mean.items()}
    arrays |= {f"{unit}/std": std for unit, std in population.std.items()}
    arrays |= {"levels": population.levels, "shares": np.asarray(population.shares)}
    title = f"Attention of {population.model}: {population.faces} faces"
    return Finding("population", MEANING, numbers, arrays, View([], groups), title, side=_SIDE)


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
    path = weights.with_suffix(KEPT)
    levels = population.levels.astype(np.float32)
    arrays |= {"about": np.array(json.dumps(about)), "units": np.array(list(population.mean)), "levels": levels}
    save_bytes(encode_npz(arrays), path)
    return path


def kept(model: str, weights: Path) -> Population:
    """What `keep` wrote beside a model's weights; `UserError` if there is none of these."""
    path = weights.with_suffix(KEPT)
    make = f"With a folder of faces that are aligned alike: python -m viz population --faces DIR --model {model} --keep"
    if not path.is_file():
        raise UserError(f"No population of {model} was gathered yet. {make}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            about, units = json.loads(str(arrays["about"])), arrays["units"].tolist()
            mean, std = ({unit: arrays[f"{unit}/{name}"].astype(float) for unit in units} for name in ("mean", "std"))
            levels = arrays["levels"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(f"{path.name} of {model} is damaged ({error}). {make}") from error
    if about["weights_sha256"] != sha256_of(weights):
        raise UserError(f"The population of {model} was gathered with other weights than it has now. {make}")
    return Population(model, about["faces"], mean, std, levels, about["data"])


def study(subject: Subject, population: Annotated[Population, POPULATION], progress: Progress = silent) -> Finding:
    """How this face, aligned as the population's, differs from it: arrays "UNIT/z", "UNIT/map" and "UNIT/mean".

    z is as uncertain as the population is small; the face itself should not be in it.
    """
    progress(0, 1, "Tracing the face")
    maps = spatial_maps(subject)
    z = z_scores(maps, population)
    units = {
        unit: {
            "mean_z": float(values.mean()),
            "rms_z": float(np.sqrt(np.square(values).mean())),
            "rare": float((abs(values) > RARE).mean()),  # share of the places; 0.046 if z were normal
            "at_the_floor": float((population.std[unit] < FLOOR).mean()),
        }
        for unit, values in z.items()
    }
    numbers = {"model": subject.name, "faces": population.faces, "floor": FLOOR, "rare_beyond": RARE, "units": units}
    panels = {
        "difference in SD": [Panel(unit, values, (-_Z_END, _Z_END), DIVERGING) for unit, values in z.items()],
        "this face": [Panel(unit, alpha) for unit, alpha in maps.items()],
        "mean of the others": [Panel(unit, population.mean[unit]) for unit in maps],
    }
    by_unit = {
        unit: [replace(group[i], name=name) for name, group in reversed(panels.items())] for i, unit in enumerate(maps)
    }
    rare = {"share beyond 2 SD": [unit["rare"] for unit in units.values()]}
    caption = "How much of each map is unusual; 0.046 if the differences were normal:"
    progress(1, 1, "Done")
    arrays = {"degraded": to_image(subject.degraded)}
    for unit in z:
        arrays |= {f"{unit}/map": maps[unit], f"{unit}/z": z[unit], f"{unit}/mean": population.mean[unit]}
    meaning = FACE_MEANING
    if population.data is not None:
        meaning += f" The others are {population.faces:,} faces: {population.data}."
        numbers["population"] = population.data
    view = View(pictures(arrays), panels, {caption: Bars(units, rare, "share of the places")})
    title = f"One face against the population: {subject.name}"
    printed = replace(view, groups=by_unit)
    return Finding("population", meaning, numbers, arrays, view, title, side=_SIDE, printed=printed)


INSTRUMENT = Instrument(
    "population",
    REAL,
    "How does this face differ from what is usual?",
    "Each map against the mean of many faces' maps, in standard deviations.",
    study,
    over_faces=study_many,
)
