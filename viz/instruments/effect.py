"""Does a patch of the input help the restoration, or harm it? Interventions, patch by patch, signed.

degraded -> one cell replaced by other cells of the same face, drawn -> network -> error against the sharp face
    effect = PSNR with the cell as it is - mean over the draws of PSNR with it replaced: above 0 the cell helps
effects (cells,cells), attention of every unit on the same cells -> rank correlation: does attention go where help is?

Causal effect maps (Hu et al. 2024, arXiv 2407.19789): what do(cell = another) changes of a result whose truth is known.
A cell helps its own place whatever the network is, so the rest of the face is watched as well ("elsewhere"); and one
with contrast changes more when it is replaced, so correlations are also of the effect for as much change of the input.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from numpy import ndarray

from sparnet.attention import enlarge
from sparnet.errors import UserError
from sparnet.images import to_image
from sparnet.metrics import estimates, labelled
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import MATTERS, Instrument, Option, Seed
from viz.instruments.ablation import levels
from viz.instruments.agreement import rank_correlation
from viz.instruments.faithfulness import SCALED, SOBEL, sobel_map, standardised
from viz.instruments.regions import area_weights
from viz.subject import Subject, over_faces, spatial_maps
from viz.views import DIVERGING, Bars, Panel, View

MEANING = (
    "By how many dB the restored face is nearer to the sharp one because of a patch of the input, against other "
    "patches in its place: above 0 the patch helps, below 0 it harms; that of one face and few draws is rough, and "
    "where attention goes along with help it may be since both go along with contrast."
)
WHOLE, ELSEWHERE, CHANGE = "whole", "elsewhere", "change"
PER_CHANGE = "for as much change"
LEAST_CHANGE = 1.0  # RMS of the input over the cell, 8-bit levels: below, nothing was replaced
Cells = Annotated[int, Option("Patches along a side of the face; one of them is replaced at a time.", 2, 64)]
Draws = Annotated[int, Option("How many other patches take the place of each.", 1, 1000)]

_BATCH = 16 * 128 * 128  # pixels at once through the network


def effects(
    subject: Subject, cells: int = 8, draws: int = 4, seed: int = 0, progress: Progress = silent
) -> dict[str, ndarray]:
    """Of every cell (cells,cells): its effect in dB on the "whole" face and "elsewhere", and the "change" of the input.

    dB of PSNR over the colours; elsewhere leaves out the cell itself; the change is the RMS over the cell in 8-bit
    levels. Means over the draws. `UserError` without a sharp face, or if the cells do not fit.
    """
    if subject.sharp is None:
        raise UserError("Whether a patch helps is known only where the sharp face is. Rebuild a sharp one from 16x16.")
    size = subject.degraded.shape[-1]
    if size % cells:
        raise UserError(f"A face of {size} pixels has no {cells} x {cells} cells. Choose a number that divides it.")
    side, count, generator = size // cells, cells * cells, np.random.default_rng(seed)
    others = [generator.permutation(np.delete(np.arange(count), cell))[:draws] for cell in range(count)]
    pairs = [(cell, int(other)) for cell, drawn in enumerate(others) for other in drawn]
    places = [(slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
              for row, column in np.ndindex(cells, cells)]  # fmt: skip
    found, batch = np.zeros((3, count)), max(1, _BATCH // size**2)
    with torch.no_grad():
        before = _error(subject.model(subject.degraded), subject.sharp)[0]
        for start in range(0, len(pairs), batch):
            progress(start, len(pairs), f"Replacing {pairs[start][0] + 1} of {count} cells")
            some = pairs[start : start + batch]
            replaced = subject.degraded.repeat(len(some), 1, 1, 1)
            for face, (cell, other) in zip(replaced, some, strict=True):
                face[:, *places[cell]] = subject.degraded[0, :, *places[other]]
            errors = _error(subject.model(replaced), subject.sharp)
            changes = (127.5 * (replaced - subject.degraded)).square().sum((1, 2, 3)).cpu().numpy()
            for (cell, _), after, change in zip(some, errors, changes, strict=True):
                inside = [error[places[cell]].sum() for error in (before, after)]
                whole = _decibels(before.sum(), after.sum())
                elsewhere = _decibels(before.sum() - inside[0], after.sum() - inside[1])
                found[:, cell] += whole, elsewhere, np.sqrt(change / (3 * side**2))
    progress(len(pairs), len(pairs), "Done")
    mean = (found / len(others[0])).reshape(3, cells, cells)
    return dict(zip((WHOLE, ELSEWHERE, CHANGE), mean, strict=True))


def _error(restored: torch.Tensor, sharp: ndarray) -> ndarray:
    """(B,3,S,S), (S,S,3) uint8 -> (B,S,S): mean squared error over the colours, in 8-bit levels."""
    return np.square(levels(restored) - sharp, dtype=np.float64).mean(-1)


def _decibels(before: float, after: float) -> float:
    """PSNR before - PSNR after, of errors over the same pixels; 0 where there is no error at all."""
    return float(10 * np.log10(after / before)) if before > 0 and after > 0 else 0.0


def correlations(maps: Mapping[str, ndarray], found: Mapping[str, ndarray]) -> ndarray:
    """Maps (S,S), effects of the cells -> (maps, 3): rank correlation with whole, elsewhere, and that for its change.

    NaN where either is constant. Cells that were replaced by their like have no effect for as much change.
    """
    cells = len(found[WHOLE])
    changed = found[CHANGE] >= LEAST_CHANGE
    with np.errstate(divide="ignore", invalid="ignore"):
        targets = [found[WHOLE], found[ELSEWHERE], found[ELSEWHERE] / np.square(found[CHANGE])]
    rows = []
    for saliency in maps.values():
        mean = area_weights(saliency, cells)
        pairs = [(mean, target) for target in targets[:2]] + [(mean[changed], targets[2][changed])]
        rows.append([rank_correlation(*pair) if pair[0].size > 1 else None for pair in pairs])
    return np.array(rows, float)


def attention_maps(subject: Subject) -> dict[str, ndarray]:
    """(S,S) each: the mean of all units' maps brought to one scale, every unit's own, and edges to compare with."""
    size = subject.degraded.shape[-1]
    own = {unit: enlarge(alpha, size) for unit, alpha in spatial_maps(subject).items()}
    mean = np.mean([standardised(alpha) for alpha in own.values()], axis=0)
    return {SCALED: mean, **own, SOBEL: sobel_map(subject.degraded)}


def study(subject: Subject, cells: Cells = 8, draws: Draws = 4, seed: Seed = 0, progress: Progress = silent) -> Finding:
    """Which patches of this face help, and whether attention is where they are."""
    maps = attention_maps(subject)
    found = effects(subject, cells, draws, seed, progress)
    related = correlations(maps, found)
    numbers = {
        "model": subject.name,
        **_settings(cells, draws, seed),
        "cells_that_help": int((found[WHOLE] > 0).sum()),
        "cells_that_harm": int((found[WHOLE] < 0).sum()),
        "correlations": labelled(related, list(maps), (WHOLE, ELSEWHERE, PER_CHANGE)),
    }
    faces = {"degraded": to_image(subject.degraded), "sharp": subject.sharp}
    view = _view([Panel(name, face) for name, face in faces.items()], found, list(maps), related, "")
    title = f"Which patches help {subject.name} to restore this face?"
    return Finding("effect", MEANING, numbers, found | faces, view, title)


def study_many(
    subjects: Iterable[Subject],
    cells: Cells = 8,
    draws: Draws = 1,
    seed: Seed = 0,
    progress: Progress = silent,
) -> Finding:
    """The same over faces that are aligned alike: means with 95 % bootstrap intervals over them, cell by cell."""

    def measure(i: int, subject: Subject) -> dict[str, ndarray]:
        maps = attention_maps(subject)
        found = effects(subject, cells, draws, seed + i)
        return found | {"correlations": correlations(maps, found)}

    last, arrays = over_faces(subjects, measure, progress, "Replacing patches of")
    faces, names, model = len(arrays[WHOLE]), list(attention_maps(last)), last.name
    cell_by_cell = {name: estimates(arrays[name], seed) for name in (WHOLE, ELSEWHERE)}
    sides = {name: [value.side() for value in found.flat] for name, found in cell_by_cell.items()}
    related = estimates(arrays["correlations"], seed)
    numbers = {
        "model": model,
        "faces": faces,
        **_settings(cells, draws, seed),
        "cells": {
            name: {"help": found.count(1), "harm": found.count(-1), "neither": found.count(0)}
            for name, found in sides.items()
        },
        "correlations": labelled(related, names, (WHOLE, ELSEWHERE, PER_CHANGE)),
    }
    mean = {name: arrays[name].mean(0) for name in (WHOLE, ELSEWHERE, CHANGE)}
    view = _view([], mean, names, related, "; lines: 95 % interval over the faces")
    title = f"Which patches help {model} to restore a face? Mean of {faces} faces"
    return Finding("effect", MEANING, numbers, arrays, view, title)


def _view(
    pictures: list[Panel], found: Mapping[str, ndarray], names: Sequence[str], related: ndarray, spread: str
) -> View:
    """The signed maps, and the correlations of every map (maps, 3), numbers or Estimates."""
    tops = {name: max(float(np.abs(found[name]).max()), 1e-6) for name in (WHOLE, ELSEWHERE)}
    panels = [
        Panel(f"{label}, dB", found[name], (-tops[name], tops[name]), DIVERGING)
        for name, label in ((WHOLE, "on the whole face"), (ELSEWHERE, "on the rest of it"))
    ]
    series = {
        "the effect on the whole face": related[:, 0],
        "on the rest": related[:, 1],
        "on the rest, for as much change of the input": related[:, 2],
    }
    caption = f"Rank correlation of a map with the help of the cells it is high at; edges by Sobel beside{spread}:"
    return View(
        pictures,
        {"effect of each cell: orange helps, violet harms": panels},
        {caption: Bars(names, series, "rank correlation", ends=(-1, 1))},
    )


def _settings(cells: int, draws: int, seed: int) -> dict:
    return {"cells_on_a_side": cells, "draws": draws, "seed": seed, "unit_of_effect": "dB of PSNR over the colours"}


INSTRUMENT = Instrument(
    "effect",
    MATTERS,
    "Does a patch of the input help?",
    "Each patch of the input is replaced by others: what that costs or gains against the sharp face, and "
    "whether attention is high where it costs.",
    study,
    over_faces=study_many,
    slow=True,
    needs_sharp=True,
)
