"""What a unit's attention lets through: the paper's equation 3, term by term.

              +-> shortcut(x_in) ------------------+
x_in (C,h,w) -+                                    + -> x_out; of each the length of its vector at every place
              +-> f = F_feat(x_in) -> alpha * f ---+
                  alpha = sigmoid(F_att(f))
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sparnet.attention import feature_strength, mean_map
from sparnet.model import FaceAttentionUnit, SPARNet, check_face
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import ATTENTION, WHERE, Instrument, Option
from viz.subject import Subject, attending
from viz.views import Bars, Panel, View, pictures

MEANING = (
    "One unit's equation as pictures: alpha scales the new features f at every place before they are added to what "
    "the shortcut carries on; a long vector is a strong signal, not a useful one, so strength here does not prove "
    "effect on the face: ablation does."
)
MAPS = ("x_in", "shortcut", "f", "alpha", "gated", "x_out")  # of each unit, gated being alpha * f


@dataclass(frozen=True, eq=False)
class Step:
    """One unit with attention at work: x_out = shortcut + alpha * f; all (B,C,h,w), alpha as in `Trace`."""

    name: str
    unit: FaceAttentionUnit
    x_in: Tensor
    alpha: Tensor
    f: Tensor
    x_out: Tensor

    @property
    def shortcut(self) -> Tensor:
        """What reaches x_out past the gate; x_in itself where the unit changes neither scale nor width."""
        return self.unit.shortcut(self.x_in)


@dataclass(frozen=True)
class GateNumbers:
    """One gate of one face in numbers."""

    mean_alpha: float
    passed: float  # sum of alpha f's map / sum of f's, 0..1; above mean_alpha: alpha is high where f is strong
    norm_share: float  # |alpha f| / (|shortcut| + |alpha f|), 0..1; norms are L2 over channels and places
    output_share: float  # <alpha f, x_out> / |x_out|^2; that of the shortcut is the rest to 1. Beyond 0..1 they oppose

    @classmethod
    def of(cls, step: Step) -> "GateNumbers":
        shortcut, f, alpha = (value[0].double() for value in (step.shortcut, step.f, step.alpha))
        gated = alpha * f
        x_out = shortcut + gated
        return cls(
            mean_alpha=float(alpha.mean()),
            passed=_ratio(gated.norm(dim=0).sum(), f.norm(dim=0).sum()),
            norm_share=_ratio(gated.norm(), shortcut.norm() + gated.norm()),
            output_share=_ratio((gated * x_out).sum(), x_out.square().sum()),
        )


def steps(model: SPARNet, face: Tensor) -> Iterator[Step]:
    """Every unit with attention in forward order, as `SPARNet.trace` runs them; nothing stays on the model."""
    check_face(model, face)
    return steps_after(model, None, model.stem(face))


def steps_after(model: SPARNet, unit: str | None, x: Tensor) -> Iterator[Step]:
    """The steps that follow on x (B,C,h,w), the output of `unit`, or of the stem if None."""
    for name, later in _units_after(model, unit):
        x_out, alpha, f = later(x)
        if alpha is not None:
            yield Step(name, later, x, alpha, f, x_out)
        x = x_out


def resume(model: SPARNet, unit: str, x: Tensor) -> Tensor:
    """The output x (B,C,h,w) of `unit` -> restored (B,3,S,S), not clamped: the rest of the network."""
    for _, later in _units_after(model, unit):
        x, _, _ = later(x)
    return model.out(x)


def gate_maps(step: Step) -> dict[str, np.ndarray]:
    """`MAPS` of the first face, (h,w) float32 each: L2 norm over the channels; of alpha the mean over them.

    Channel attention has one alpha a channel, the same at every place, so its map is flat.
    """
    tensors = {"x_in": step.x_in, "shortcut": step.shortcut, "f": step.f, "x_out": step.x_out}
    strength = {name: feature_strength(value[0]) for name, value in tensors.items()}
    strength["gated"] = feature_strength(step.alpha[0] * step.f[0])
    strength["alpha"] = np.broadcast_to(mean_map(step.alpha[0]), strength["f"].shape).copy()
    return {name: strength[name] for name in MAPS}


@torch.no_grad()
def study(
    subject: Subject,
    unit: Annotated[str | None, Option("The unit of the figure; else that of the most contrast.", units=True)] = None,
    progress: Progress = silent,
) -> Finding:
    """Every gate's numbers and maps, arrays "UNIT/MAP"; the figure shows `unit`, or that of the most contrast in alpha.

    `UserError` for a network without attention maps, or without one in `unit`.
    """
    names = attending(subject)
    if unit is not None:
        attending(subject, [unit])
    numbers, maps, faces = {}, {}, subject.faces
    for i, step in enumerate(steps(subject.model, subject.degraded)):
        progress(i, len(names), f"Looking into {step.name}")
        numbers[step.name], maps[step.name] = GateNumbers.of(step), gate_maps(step)
    progress(len(names), len(names), "Done")
    unit = unit or max(maps, key=lambda name: maps[name]["alpha"].std())
    groups = {name: _equation(shown) for name, shown in maps.items()}
    series = {
        "alpha f beside the shortcut, by norm": [gate.norm_share for gate in numbers.values()],
        "share of f that is passed": [gate.passed for gate in numbers.values()],
        "mean alpha": [gate.mean_alpha for gate in numbers.values()],
    }
    view = View(
        pictures(faces), groups, {"Every unit of this face:": Bars(numbers, series, "share", ends=(0, 1))}, shown=unit
    )
    return Finding(
        "gate",
        MEANING,
        {"model": subject.name, "shown": unit, "units": {name: asdict(gate) for name, gate in numbers.items()}},
        {f"{name}/{key}": value for name, shown in maps.items() for key, value in shown.items()} | faces,
        view,
        f"{unit}: x_out = shortcut(x_in) + alpha f",
        "The length of the feature vector at every place, black 0. What the unit is given and gives shares one scale "
        "of colours, and so do f and alpha f: what alpha takes away is seen.",
        printed=replace(view, groups={unit: groups[unit]}),
    )


def _equation(maps: dict[str, np.ndarray]) -> list[Panel]:
    """One unit's maps in two groups of one scale each, and alpha from 0 to 1."""
    carried = (0, float(max(maps[name].max() for name in ("x_in", "shortcut", "x_out"))))
    new = (0, float(maps["f"].max()))
    return [
        *(Panel(name, maps[name], carried, "inferno") for name in ("x_in", "shortcut", "x_out")),
        *(Panel(label, maps[name], new, "inferno") for name, label in (("f", "f"), ("gated", "alpha f"))),
        Panel("alpha", maps["alpha"]),
    ]


def _units_after(model: SPARNet, unit: str | None) -> list[tuple[str, FaceAttentionUnit]]:
    units = list(model.units())
    return units if unit is None else units[[name for name, _ in units].index(unit) + 1 :]


def _ratio(part: Tensor, whole: Tensor) -> float:
    """part / whole; 0 of nothing."""
    return float(part / whole) if whole else 0.0


INSTRUMENT = Instrument(
    "gate",
    WHERE,
    "What does each gate let through?",
    "Unit by unit the terms of x_out = shortcut(x_in) + alpha f: how long the feature vector is at every place.",
    study,
    attention=ATTENTION,
)
