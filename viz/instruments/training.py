"""How the maps came about: one face's attention at every checkpoint of a training run.

checkpoints in order, one face -> of_checkpoints -+
OUT/attention/step-*.npz of a run -> of_run ------+-> Training: maps over time (T,h,w) -> study: when each unit settled
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import length_hint
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy import ndarray
from plotly import graph_objects as go

from sparnet.errors import UserError
from sparnet.restorer import Progress
from sparnet.text import for_figure, for_html
from viz.figures import canvas
from viz.finding import Finding, silent
from viz.instrument import REAL, TRAINING, Instrument
from viz.subject import Subject, spatial_maps
from viz.views import SERIES, View, known, panel, picture

MEANING = (
    "One face's maps at every checkpoint and their correlation with those of the last: when each unit settled on its "
    "places; one face and one run, so another run's units may share the work differently."
)
_COLUMNS, _MAP, _HEAD = 8, 1.12, 0.75  # maps a row; inches


@dataclass(frozen=True, eq=False)
class Training:
    """One face's maps by the states of one network, in order."""

    labels: list[str]  # of the states
    maps: dict[str, ndarray]  # unit -> (T,h,w)
    restored: ndarray | None = None  # (T,S,S,3) uint8; None: not kept


def of_checkpoints(checkpoints: Iterable[Subject], progress: Progress = silent) -> Training:
    """One face in front of a network's checkpoints, each labelled by its Subject's name.

    Given as a generator, one network at a time is in memory. `UserError` if the face or the units change.
    """
    labels, over_time, degraded, total = [], {}, None, length_hint(checkpoints)
    for i, subject in enumerate(checkpoints):
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
    progress(len(labels), len(labels), "Done")
    return Training(labels, {unit: np.stack(alphas) for unit, alphas in over_time.items()})


def of_run(run: Path, progress: Progress = silent) -> Training:
    """A training run's own face, the astronaut, from RUN/attention/step-*.npz, which its validations wrote.

    `UserError` if the folder has none, or they do not fit together.
    """
    paths = sorted((run / "attention").glob("step-*.npz"))
    if not paths:
        raise UserError(f"{run} has no attention/step-*.npz. Give the folder of a training run, its --out.")
    labels, over_time = [], {}
    for i, path in enumerate(paths):
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
    progress(len(paths), len(paths), "Done")
    restored = np.stack(over_time.pop("restored"))
    stacks = {unit: np.stack(states).astype(np.float32) for unit, states in over_time.items()}
    return Training(labels, stacks, restored)


def study(training: Annotated[Training, TRAINING], progress: Progress = silent) -> Finding:
    """Arrays "UNIT/over_time" (T,h,w) and, if kept, "restored/over_time" (T,S,S,3) uint8, and when the maps settled.

    r is Pearson's with the last state's map, None of a constant map.
    """
    units = {
        unit: {
            "mean": [float(alpha.mean(dtype=np.float64)) for alpha in stack],
            "r_with_last": [_correlation(alpha, stack[-1]) for alpha in stack],
        }
        for unit, stack in training.maps.items()
    }
    arrays = {f"{unit}/over_time": stack for unit, stack in training.maps.items()}
    if training.restored is not None:
        arrays["restored/over_time"] = training.restored
    figure = training_figure(training.labels, training.maps, units)
    return Finding("training", MEANING, {"checkpoints": training.labels, "units": units}, arrays, figure)


def training_figure(labels: Sequence[str], stacks: Mapping[str, ndarray], units: Mapping[str, Mapping]) -> Figure:
    """A row a unit, a column a checkpoint, at most eight evenly spread with the first and the last; r with the last."""
    shown = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), _COLUMNS)).round().astype(int))
    figure = canvas(10, _HEAD + 0.2 + 1.3 * len(stacks))
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


def _correlation(a: ndarray, b: ndarray) -> float | None:
    if min(a.std(), b.std()) <= 1e-6:  # float32's rounding: no variance of the map's own
        return None
    return float(np.corrcoef(a.ravel().astype(np.float64), b.ravel())[0, 1])


def view(finding: Finding) -> View:
    labels, units = finding.numbers["checkpoints"], finding.numbers["units"]
    restored = finding.arrays.get("restored/over_time")
    groups = {
        label: [
            *([picture("restored", restored[i])] if restored is not None else []),
            *(panel(unit, finding.arrays[f"{unit}/over_time"][i]) for unit in units),
        ]
        for i, label in enumerate(labels)
    }
    series = {unit: [known(r) for r in one["r_with_last"]] for unit, one in units.items()}
    curves = [
        go.Scatter(x=[for_html(label) for label in labels], y=r, name=unit, line={"color": color, "dash": dash})
        for (unit, r), (dash, color) in zip(series.items(), product(("solid", "dash", "dot"), SERIES), strict=False)
    ]
    chart = go.Figure(curves, {"yaxis": {"title": "correlation"}})
    caption = "Correlation of each unit's map with its last; at 1 it has settled:"
    return View([], groups, {caption: chart}, shown=labels[-1], ordered=True)


INSTRUMENT = Instrument(
    "training",
    REAL,
    "How did the maps come about?",
    "One face's maps at every checkpoint of a training run, and their correlation with the last: --run takes the "
    "astronaut's that the trainer wrote at every validation, --checkpoint FACE's by saved models.",
    study,
    view=view,
)
