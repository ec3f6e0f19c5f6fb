"""How the maps came about: one face's attention at every checkpoint of a training run.

checkpoints in order, one face -> of_checkpoints -+
OUT/attention/step-*.npz of a run -> of_run ------+-> Training: maps over time (T,h,w) -> study: when each unit settled
"""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile

import numpy as np
import torch
from numpy import ndarray

from sparnet.errors import UserError
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import REAL, TRAINING, Instrument
from viz.instruments.agreement import correlation
from viz.subject import Subject, spatial_maps
from viz.views import Lines, Panel, View

MEANING = (
    "One face's maps at every checkpoint and their correlation with those of the last: when each unit settled on its "
    "places; one face and one run, so another run's units may share the work differently."
)
_COLUMNS = 8  # maps of a unit in print


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
    if any(len({state.shape for state in states}) > 1 or len(states) < len(paths) for states in over_time.values()):
        raise UserError(f"The states in {run}/attention are of different networks. Take away those of the other one.")
    progress(len(paths), len(paths), "Done")
    restored = np.stack(over_time.pop("restored"))
    stacks = {unit: np.stack(states).astype(np.float32) for unit, states in over_time.items()}
    return Training(labels, stacks, restored)


def study(training: Annotated[Training, TRAINING], progress: Progress = silent) -> Finding:
    """Arrays "UNIT/over_time" (T,h,w) and, if kept, "restored/over_time" (T,S,S,3) uint8, and when the maps settled.

    r is Pearson's with the last state's map, None of a constant map.
    """
    labels, maps = training.labels, training.maps
    units = {
        unit: {
            "mean": [float(alpha.mean(dtype=np.float64)) for alpha in stack],
            "r_with_last": [correlation(alpha, stack[-1]) for alpha in stack],
        }
        for unit, stack in maps.items()
    }
    stacks = maps if training.restored is None else {"restored": training.restored, **maps}
    arrays = {f"{name}/over_time": stack for name, stack in stacks.items()}
    groups = {label: [Panel(name, stack[i]) for name, stack in stacks.items()] for i, label in enumerate(labels)}
    series = {unit: measured["r_with_last"] for unit, measured in units.items()}
    caption = "Correlation of each unit's map with its last; at 1 it has settled:"
    view = View([], groups, {caption: Lines(labels, series, "", "correlation")}, shown=labels[-1], ordered=True)
    shown = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), _COLUMNS)).round().astype(int))
    rows = {unit: [Panel(labels[i], stack[i]) for i in shown] for unit, stack in maps.items()}
    title, printed = "Attention of one face over the training", View([], rows, view.diagrams)
    return Finding("training", MEANING, {"checkpoints": labels, "units": units}, arrays, view, title, printed=printed)


INSTRUMENT = Instrument(
    "training",
    REAL,
    "How did the maps come about?",
    "One face's maps at every checkpoint of a training run, and their correlation with the last: --run takes the "
    "astronaut's that the trainer wrote at every validation, --checkpoint FACE's by saved models.",
    study,
)
