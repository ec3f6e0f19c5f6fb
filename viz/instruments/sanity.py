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
from functools import partial
from typing import Annotated

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy import ndarray
from skimage.metrics import structural_similarity
from torch import nn

from sparnet.errors import UserError
from sparnet.metrics import mean_interval
from sparnet.model import SPARNet
from sparnet.restorer import Progress
from sparnet.text import for_figure
from viz.figures import BLUE, GREEN, ORANGE, RED, canvas, in_inches, quiet
from viz.finding import Finding, silent
from viz.instrument import OTHER_FACES, REAL, Instrument, Option, Seed
from viz.instruments.agreement import is_constant, rank_correlation
from viz.subject import Subject, each_face, spatial_maps
from viz.views import View, bars

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
_LEARNING, _FACE = BLUE, RED
_SHADE = {"yes": GREEN, "weak": ORANGE, "no": RED, "undefined": "#999999"}
Draws = Annotated[int, Option("Random networks.", 1, 1000)]


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
    return float(structural_similarity(first, other, data_range=1, win_size=window)) if window >= 3 else None


def cascade(subject: Subject, seed: int) -> tuple[ndarray, ndarray]:
    """Rank correlation and SSIM with the trained maps, (parts, units): row i has part i and all behind it random.

    Rows from the output to the input, as it goes; the last is a network that never learned. NaN is a constant map.
    """
    names = list(parts(subject.model))[::-1]
    return _against(subject, [names[: i + 1] for i in range(len(names))], seed)


def independent(subject: Subject, seed: int) -> tuple[ndarray, ndarray]:
    """The same with nothing but part i random, in the same order: which part makes which map."""
    return _against(subject, [[name] for name in list(parts(subject.model))[::-1]], seed)


def flips(subject: Subject) -> dict[str, list[float]]:
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
        turned = {OTHERS: list(_mean(faces)), **turned}
        face, probe = _mean(np.abs(faces)), OTHERS
    else:
        face, probe = np.abs(turned[f"{TURNED}, {HERE}"]), f"{TURNED}, {HERE}"
    learning = _mean(np.abs(tables[:, 0, -1]))
    badge = {"learning": _badge(_median(learning)), "face": _badge(_median(face)) | {"against": probe}}
    figure = sanity_figure(
        _mean(tables[:, 0]), _mean(tables[:, 2]), units, rows, learning, face, badge, probe,
        f"Do the maps of {subject.name} depend on learning, and on the face? One face, {draws} random networks",
    )  # fmt: skip
    numbers = {
        "model": subject.name,
        **_settings(draws, seed),
        "badge": badge,
        "units": _units(units, learning, face),
        "ssim_all_random": _named(units, _mean(tables[:, 1, -1])),
        "inputs": {name: _named(units, values) for name, values in turned.items()},
    }
    progress(draws + 1, draws + 1, "Done")
    names = ("cascade", "cascade_ssim", "independent", "independent_ssim")
    arrays = {name: tables[:, i] for i, name in enumerate(names)}
    arrays |= {name: np.array(values) for name, values in turned.items()}
    return Finding("sanity", MEANING, numbers, arrays, figure)


def study_many(subjects: Iterable[Subject], draws: Draws = 1, seed: Seed = 0, progress: Progress = silent) -> Finding:
    """The checks over faces of one network: means with 95 % bootstrap intervals; every face has its random networks.

    Each face is compared with the three before it. A badge is that of the mean of the faces' medians over units.
    """
    cascades, alones, learning, face, model = [], [], [], [], None
    before: deque[Mapping[str, ndarray]] = deque(maxlen=_NEIGHBOURS)
    for i, subject in enumerate(each_face(subjects, progress, "Checking")):
        model, own, rows = subject.name, spatial_maps(subject), list(parts(subject.model))[::-1]
        seeds = range(seed + i * draws, seed + (i + 1) * draws)
        tables = np.array([cascade(subject, one)[0] for one in seeds])
        cascades.append(_mean(tables))
        alones.append(_mean(np.array([independent(subject, one)[0] for one in seeds])))
        learning.append(_mean(np.abs(tables[:, -1])))
        if before:
            face.append(_mean(np.abs([_correlations(own, other) for other in before])))
        before.append(own)
    if len(learning) < 3:
        raise UserError("Intervals over faces and pairs of them need at least three. Give a folder with more faces.")
    units, learning, face = list(own), np.array(learning), np.array(face)
    badge = {}
    for name, values in (("learning", learning), ("face", face)):
        middle = np.array([_median(one) for one in values])
        mean, low, high = (_known(float(value)) for value in mean_interval(middle, seed))
        badge[name] = _badge(_median(middle) if mean is None else mean) | {"low": low, "high": high}
    badge["face"]["against"] = OTHERS
    figure = sanity_figure(
        _mean(np.array(cascades)), _mean(np.array(alones)), units, rows, _mean(learning), _mean(face), badge, OTHERS,
        f"Do the maps of {model} depend on learning, and on the face? Mean of {len(learning)} faces",
    )  # fmt: skip
    numbers = {
        "model": model,
        "faces": len(learning),
        **_settings(draws, seed),
        "badge": badge,
        "units": _units(units, _mean(learning), _mean(face)),
        "intervals": {
            name: _intervals(units, values, seed) for name, values in (("learning", learning), ("face", face))
        },
    }
    arrays = {"cascade": np.array(cascades), "independent": np.array(alones), "learning": learning, "face": face}
    return Finding("sanity", MEANING, numbers, arrays, figure)


def sanity_figure(
    cascading: ndarray,
    alone: ndarray,
    units: Sequence[str],
    rows: Sequence[str],
    learning: ndarray,
    face: ndarray,
    badge: Mapping[str, Mapping],
    probe: str,
    title: str,
) -> Figure:
    """The badge, the two tables (parts, units) of rank correlations, and every unit's two numbers with the limits."""
    table = 0.21 * len(rows)  # inches
    width, height = 11, 5.35 + table
    figure = canvas(width, height)

    axes_at = partial(in_inches, figure)

    figure.suptitle(for_figure(title), x=0.2 / width, y=1 - 0.15 / height, ha="left", va="top", fontsize=11)
    said = {"learning": "depends on learning", "face": "depends on the face"}
    shown = "its map of other faces" if probe == OTHERS else "its map of the face upside down"
    against = {"learning": "its map with random weights", "face": shown}
    for i, (name, words) in enumerate(said.items()):
        one = badge[name]
        value = "none" if one["correlation"] is None else f"{one['correlation']:.2f}"
        figure.text(
            (0.2 + 5.3 * i) / width, 1 - 0.72 / height, f"{words}: {one['verdict']}", fontsize=11, color="white",
            weight="bold", va="center",
            bbox={"boxstyle": "round,pad=0.4", "facecolor": _SHADE[one["verdict"]], "edgecolor": "none"},
        )  # fmt: skip
        figure.text(
            (0.2 + 5.3 * i) / width, 1 - 1.05 / height,
            f"median |rank correlation| of a map with {against[name]}: {value}", fontsize=8, color="0.35", va="center",
        )  # fmt: skip

    top = 1.95
    titles = (
        ("output to input: this part and all above it random", cascading),
        ("this part alone random", alone),
    )
    for i, (words, values) in enumerate(titles):
        axes = axes_at(1.0 + 4.75 * i, top, 4.4, table)
        axes.imshow(np.ma.masked_invalid(values), cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
        axes.set_facecolor("0.8")  # behind the cells that have no correlation
        axes.set_title(words, fontsize=9, loc="left", pad=6, weight="bold")
        axes.set_xticks(range(len(units)), units, rotation=90, fontsize=7)
        axes.set_yticks(range(len(rows)), rows if i == 0 else [], fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), "PuOr_r"), cax=axes_at(10.25, top, 0.12, table))
    quiet(bar)
    figure.text(
        1.0 / width, 1 - (top - 0.4) / height,
        "Rank correlation of each unit's map (columns) with its trained self, parts of the network (rows) random: "
        "1 (dark orange) unchanged, 0 (white) unrelated. Grey: a map is constant.",
        fontsize=8, color="0.35",
    )  # fmt: skip

    axes = axes_at(1.0, top + table + 1.05, 9.15, 1.3)
    places = np.arange(len(units))
    axes.bar(places - 0.2, learning, 0.36, color=_LEARNING, label=f"with {against['learning']}")
    axes.bar(places + 0.2, face, 0.36, color=_FACE, label=f"with {shown}")
    for limit, words in ((YES_BELOW, "below: depends"), (NO_FROM, "above: does not")):
        axes.axhline(limit, color="0.3", linewidth=0.8, linestyle=":")
        axes.text(len(units) - 0.45, limit, words, fontsize=6, va="center", color="0.3")
    axes.set(xlim=(-0.5, len(units) - 0.5), ylim=(0, 1))
    axes.set_xticks(places, units, rotation=90, fontsize=7)
    axes.tick_params(labelsize=7)
    axes.set_ylabel("|rank correlation|", fontsize=7)
    axes.legend(fontsize=7, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _against(subject: Subject, sets: Sequence[Collection[str]], seed: int) -> tuple[ndarray, ndarray]:
    own, fresh = spatial_maps(subject), unlearned(subject.model, seed)
    copy = deepcopy(subject.model)
    ranks, ssim = [], []
    for names in sets:
        randomise(copy, subject.model, names, fresh)
        maps = spatial_maps(replace(subject, model=copy))
        ranks.append(_correlations(own, maps))
        ssim.append([_number(similarity(own[unit], maps[unit])) for unit in own])
    return np.array(ranks), np.array(ssim)


def _correlations(own: Mapping[str, ndarray], other: Mapping[str, ndarray]) -> list[float]:
    return [_number(rank_correlation(own[unit], other[unit])) for unit in own]


def _mean(values: ndarray) -> ndarray:
    """Over the first axis, of what is there; NaN where nothing is."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0).sum(0) / there.sum(0)


def _median(values: ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(np.median(there)) if there.size else np.nan


def _badge(correlation: float) -> dict:
    return {"verdict": verdict(correlation), "correlation": _known(correlation)}


def _units(units: Sequence[str], learning: ndarray, face: ndarray) -> dict[str, dict]:
    return {unit: {"learning": _badge(a), "face": _badge(b)} for unit, a, b in zip(units, learning, face, strict=True)}


def _intervals(units: Sequence[str], values: ndarray, seed: int) -> dict[str, list[float | None]]:
    _, low, high = mean_interval(values, seed)
    return {unit: [_known(a), _known(b)] for unit, a, b in zip(units, low, high, strict=True)}


def _settings(draws: int, seed: int) -> dict:
    return {"random_networks": draws, "seed": seed, "yes_below": YES_BELOW, "no_from": NO_FROM}


def _named(units: Sequence[str], values: Iterable[float]) -> dict[str, float | None]:
    return {unit: _known(value) for unit, value in zip(units, values, strict=True)}


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def view(finding: Finding) -> View:
    units, badge = finding.numbers["units"], finding.numbers["badge"]
    labels = {"learning": "with every weight random", "face": f"with {badge['face']['against']}"}
    chart = bars(
        units,
        {label: [one[name]["correlation"] for one in units.values()] for name, label in labels.items()},
        "|rank correlation|",
    )
    verdicts = "; ".join(f"on {name}: {badge[name]['verdict']}" for name in labels)
    caption = f"How much of each map stays; below {YES_BELOW} it depends, from {NO_FROM} not ({verdicts}):"
    return View(charts={caption: chart})


INSTRUMENT = Instrument(
    "sanity",
    REAL,
    "Is it learned, and of this face?",
    "The maps again with learned weights made random, part by part, and with the face turned and mirrored.",
    study,
    over_faces=study_many,
    view=view,
    slow=True,
)
