"""Would the maps look like this without learning, or in front of another face?

network -> out, decoder ... stem made random, cascading or each alone -> maps of the same face -+
face ----------------------------------------------------------------> maps -------------------+-> rank correlation
other faces, the face mirrored, upside down -------------------------> maps -------------------+   -> badge
many faces -> correlations of each -> mean and 95 % interval over the faces -> badge

Adebayo et al. 2018, "Sanity Checks for Saliency Maps", arXiv 1810.03292: a map that survives the loss of what the
network learned cannot explain what it learned. Their cascade goes from the output to the input. Here a unit's map is
made inside the network, so nothing behind the unit can change it: it is exactly itself until its own unit is random.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import skimage
import torch
from numpy import ndarray
from torch import nn

from sparnet.metrics import Estimate, ends, estimates, labelled
from sparnet.model import SPARNet
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import OTHER_FACES, REAL, Instrument, Option, Seed
from viz.instruments.agreement import is_constant, rank_correlation
from viz.subject import Subject, over_faces, spatial_maps
from viz.views import DIVERGING, Bars, Matrix, View

MEANING = (
    "How much of each map is still there when the network's learned weights are replaced by random ones, and when it "
    "is given another face: 'depends' says that the map would be another one without that, not that it is right, that "
    "it knows what a face is, or that the result depends on it; an edge filter depends on the face as well."
)
# |rank correlation|, set before any network was measured: its square is the share of the ranks' variance in common
YES_BELOW = 0.5  # at most a quarter in common
NO_FROM = 0.8  # about two thirds or more
OTHERS = "other faces"
TURNED, MIRRORED = "upside down", "mirrored"
HERE, BACK = "at the same place", "turned back"

_APART = 2**31  # from the seeds that people give; the generator takes 32 bits
_NEIGHBOURS = 3  # faces before it that each face of a folder is compared with
Draws = Annotated[int, Option("How many random networks to compare with.", 1, 1000)]


def parts(model: SPARNet) -> dict[str, nn.Module]:
    """Everything that has weights, from the input to the output: stem, every unit, out."""
    return {"stem": model.stem, **dict(model.units()), "out": model.out}


def unlearned(model: SPARNet, seed: int) -> SPARNet:
    """A network of the same shape as before any training; not the start of a training that had the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed + _APART)
        return SPARNet(model.config)


def randomise(copy: SPARNet, model: SPARNet, names: Collection[str], fresh: SPARNet) -> None:
    """Give the parts `names` of a copy of `model` the weights of `fresh`, from `unlearned`; the rest gets the model's.

    Batch norms of a random part normalise by the face at hand, as in a first step of training: the running statistics
    of trained features would push random ones out of the sigmoid's range, and a map flat for that reason would pass for
    one that learning made. What is trained keeps its statistics.
    """
    learned, random = parts(model), parts(fresh)
    for name, part in parts(copy).items():
        part.load_state_dict((random if name in names else learned)[name].state_dict())
        part.train(name in names)


def similarity(first: ndarray, other: ndarray) -> float | None:
    """SSIM (Wang et al. 2004) of two maps (h,w), each stretched to 0..1, -1..1; None if either is constant.

    A window of 7x7, or the largest odd one that fits. Stretched, as two faint maps would else be alike by being flat.
    """
    if is_constant(first) or is_constant(other):
        return None
    first, other = ((alpha - alpha.min()) / np.ptp(alpha) for alpha in (first.astype(float), other.astype(float)))
    window = min(7, len(first) - 1 + len(first) % 2)
    if window < 3:
        return None
    value = skimage.metrics.structural_similarity(first, other, data_range=1, win_size=window)
    return float(value)  # pyright: ignore[reportArgumentType]  it is a tuple only where maps or gradients are asked for


def cascade(subject: Subject, seed: int) -> tuple[ndarray, ndarray]:
    """Rank correlation and SSIM with the trained maps, (parts, units): row i has part i and all behind it random.

    Rows from the output to the input, as it goes; the last is a network that never learned. NaN is a constant map.
    """
    names = list(parts(subject.model))[::-1]
    return _against(subject, [names[: i + 1] for i in range(len(names))], seed)


def independent(subject: Subject, seed: int) -> tuple[ndarray, ndarray]:
    """The same with nothing but part i random, in the same order: which part makes which map."""
    return _against(subject, [[name] for name in list(parts(subject.model))[::-1]], seed)


def flips(subject: Subject) -> dict[str, ndarray]:
    """Rank correlation of every unit's map with that of the face mirrored or upside down; NaN is a constant map.

    At the same place, 1 is a map that ignores the face and knows only positions. Turned back with the face, 1 is a map
    that follows it entirely.
    """
    own = spatial_maps(subject)
    found = {}
    for name, axis in ((TURNED, 0), (MIRRORED, 1)):
        maps = spatial_maps(replace(subject, degraded=subject.degraded.flip(axis + 2)))
        found[f"{name}, {HERE}"] = _correlations(own, maps)
        found[f"{name}, {BACK}"] = _correlations(own, {unit: np.flip(alpha, axis) for unit, alpha in maps.items()})
    return found


def surrogate(alpha: ndarray, generator: np.random.Generator) -> ndarray:
    """A map (h,w) of the same spectrum with random phases: as smooth, and of nothing (Theiler et al. 1992)."""
    noise = np.fft.fft2(generator.standard_normal(alpha.shape))  # of a real picture, so that the map is real
    return np.fft.ifft2(np.abs(np.fft.fft2(alpha)) * noise / np.abs(noise)).real


def verdict(correlation: float) -> str:
    """|rank correlation| with what lacks learning, or the face -> does the map depend on it? "yes", "weak" or "no".

    "undefined" for NaN: a constant map has no order that could be kept or lost.
    """
    if np.isnan(correlation):
        return "undefined"
    return "yes" if abs(correlation) < YES_BELOW else "weak" if abs(correlation) < NO_FROM else "no"


def study(
    subject: Subject,
    others: Annotated[Sequence[Subject] | None, OTHER_FACES] = None,
    draws: Draws = 3,
    seed: Seed = 0,
    progress: Progress = silent,
) -> Finding:
    """The checks on one face, with `draws` random networks; without other faces, the face upside down stands in.

    Each unit's number is the mean |correlation| over the random networks, or the other faces; the badge's is the median
    over the units.
    """
    rows = list(parts(subject.model))[::-1]
    tables = []
    for draw in range(draws):
        progress(draw, draws + 1, f"Making the network random, {draw + 1} of {draws}")
        tables.append([*cascade(subject, seed + draw), *independent(subject, seed + draw)])
    progress(draws, draws + 1, "Turning the face")
    tables = np.array(tables)  # (draws, 4, parts, units)
    turned, own = flips(subject), spatial_maps(subject)
    units = list(own)
    if others:
        faces = np.array([_correlations(own, spatial_maps(other)) for other in others])
        turned = {OTHERS: _mean(faces), **turned}
        face, probe = _mean(np.abs(faces)), OTHERS
    else:
        face, probe = np.abs(turned[f"{TURNED}, {HERE}"]), f"{TURNED}, {HERE}"
    learning = _mean(np.abs(tables[:, 0, -1]))
    badge = {"learning": _badge(_median(learning)), "face": _badge(_median(face)) | {"against": probe}}
    numbers = {
        "model": subject.name,
        **_settings(draws, seed),
        "badge": badge,
        "units": _units(units, learning, face),
        "ssim_all_random": labelled(_mean(tables[:, 1, -1]), units),
        "inputs": {name: labelled(values, units) for name, values in turned.items()},
    }
    progress(draws + 1, draws + 1, "Done")
    names = ("cascade", "cascade_ssim", "independent", "independent_ssim")
    arrays = {name: tables[:, i] for i, name in enumerate(names)}
    arrays |= turned
    view = _view(badge, units, rows, learning, face, _mean(tables[:, 0]), _mean(tables[:, 2]))
    title = f"Do the maps of {subject.name} depend on learning, and on the face? One face, {draws} random networks"
    return Finding("sanity", MEANING, numbers, arrays, view, title, _note(badge))


def study_many(subjects: Iterable[Subject], draws: Draws = 1, seed: Seed = 0, progress: Progress = silent) -> Finding:
    """The checks over faces of one network: means with 95 % bootstrap intervals; every face has its random networks.

    Each face is compared with the three before it. A badge is that of the mean of the faces' medians over units, and
    null the same of maps that are unrelated and as smooth.
    """
    before: deque[Mapping[str, ndarray]] = deque(maxlen=_NEIGHBOURS)
    generator = np.random.default_rng(seed)

    def measure(i: int, subject: Subject) -> dict[str, ndarray]:
        own, seeds = spatial_maps(subject), range(seed + i * draws, seed + (i + 1) * draws)
        tables = np.array([cascade(subject, drawn)[0] for drawn in seeds])
        found = {
            "cascade": _mean(tables),
            "independent": _mean(np.array([independent(subject, drawn)[0] for drawn in seeds])),
            "learning": _mean(np.abs(tables[:, -1])),
            "face": _mean(np.abs([_correlations(own, other) for other in before or [own]])),
            "null": np.abs(_correlations(own, {unit: surrogate(alpha, generator) for unit, alpha in own.items()})),
        }
        before.append(own)
        return found

    last, arrays = over_faces(subjects, measure, progress, "Checking", least=3)
    model, units, rows = last.name, list(spatial_maps(last)), list(parts(last.model))[::-1]
    arrays["face"] = arrays["face"][1:]  # the first has none before it
    learning, face = (estimates(arrays[name], seed) for name in ("learning", "face"))
    medians = {name: np.array([[_median(values)] for values in arrays[name]]) for name in ("learning", "face", "null")}
    middle = {name: estimates(values, seed)[0] for name, values in medians.items()}
    badge = {name: _badge(middle[name]) for name in ("learning", "face")}
    badge["face"]["against"] = OTHERS
    numbers = {
        "model": model,
        "faces": len(arrays["learning"]),
        **_settings(draws, seed),
        "badge": badge,
        "null": labelled(middle["null"]),
        "units": _units(units, learning, face),
    }
    view = _view(badge, units, rows, learning, face, _mean(arrays["cascade"]), _mean(arrays["independent"]))
    title = f"Do the maps of {model} depend on learning, and on the face? Mean of {numbers['faces']} faces"
    return Finding("sanity", MEANING, numbers, arrays, view, title, _note(badge))


def _view(
    badge: Mapping[str, Mapping],
    units: Sequence[str],
    rows: Sequence[str],
    learning: ndarray,
    face: ndarray,
    cascading: ndarray,
    alone: ndarray,
) -> View:
    """Every unit's two numbers with the limits, and the two tables (parts, units) of rank correlations."""
    verdicts = "; ".join(f"on {name}: {badge[name]['verdict']}" for name in ("learning", "face"))
    caption = f"How much of each map stays; below {YES_BELOW} it depends, from {NO_FROM} not ({verdicts}):"
    series = {"with every weight random": learning, f"with {badge['face']['against']}": face}
    limits = {YES_BELOW: "below: depends", NO_FROM: "above: does not"}
    tables = {"Output to input: this part and all above it random:": cascading, "This part alone random:": alone}
    diagrams = {words: Matrix(values, rows, units, DIVERGING, (-1, 1)) for words, values in tables.items()}
    return View(diagrams={caption: Bars(units, series, "|rank correlation|", limits, (0, 1))} | diagrams)


def _note(badge: Mapping[str, Mapping]) -> str:
    return (
        f"depends on learning: {badge['learning']['verdict']}; depends on the face: {badge['face']['verdict']}\n"
        "Tables: rank correlation of each unit's map (columns) with its trained self, parts of the network (rows) "
        "random: 1 (dark orange) unchanged, 0 (white) unrelated. Grey: a map is constant."
    )


def _against(subject: Subject, sets: Sequence[Collection[str]], seed: int) -> tuple[ndarray, ndarray]:
    own, fresh = spatial_maps(subject), unlearned(subject.model, seed)
    copy = deepcopy(subject.model)
    ranks, ssim = [], []
    for names in sets:
        randomise(copy, subject.model, names, fresh)
        maps = spatial_maps(replace(subject, model=copy))
        ranks.append(_correlations(own, maps))
        ssim.append([similarity(own[unit], maps[unit]) for unit in own])
    return np.array(ranks), np.array(ssim, float)


def _correlations(own: Mapping[str, ndarray], other: Mapping[str, ndarray]) -> ndarray:
    return np.array([rank_correlation(own[unit], other[unit]) for unit in own], float)


def _mean(values: ndarray) -> ndarray:
    """Over the first axis, of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(0) / known.sum(0)


def _median(values: ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else np.nan


def _badge(correlation: float | Estimate) -> dict[str, Any]:
    return {"verdict": verdict(float(ends(correlation)[0])), "correlation": labelled(correlation)}


def _units(units: Sequence[str], learning: ndarray, face: ndarray) -> dict[str, dict]:
    return {unit: {"learning": _badge(a), "face": _badge(b)} for unit, a, b in zip(units, learning, face, strict=True)}


def _settings(draws: int, seed: int) -> dict:
    return {"random_networks": draws, "seed": seed, "yes_below": YES_BELOW, "no_from": NO_FROM}


INSTRUMENT = Instrument(
    "sanity",
    REAL,
    "Is it learned, and of this face?",
    "The maps again with learned weights made random, part by part, and with the face turned and mirrored.",
    study,
    over_faces=study_many,
    slow=True,
)
