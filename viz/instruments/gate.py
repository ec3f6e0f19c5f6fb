"""What a unit's attention lets through: the paper's equation 3, term by term.

              +-> shortcut(x_in) ------------------+
x_in (C,h,w) -+                                    + -> x_out; of each the length of its vector at every place
              +-> f = F_feat(x_in) -> alpha * f ---+
                  alpha = sigmoid(F_att(f))
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sparnet.attention import feature_strength, mean_map
from sparnet.images import to_image
from sparnet.model import FaceAttentionUnit, SPARNet, check_face
from sparnet.restorer import Progress
from viz.figures import BLUE, ORANGE, bare, canvas
from viz.finding import Finding, silent
from viz.instrument import ATTENTION, WHERE, Instrument, Option
from viz.subject import Subject, attending
from viz.views import View, bars, panel, pictures

MEANING = (
    "One unit's equation as pictures: alpha scales the new features f at every place before they are added to what "
    "the shortcut carries on; a long vector is a strong signal, not a useful one, so strength here does not prove "
    "effect on the face: ablation does."
)
MAPS = ("x_in", "shortcut", "f", "alpha", "gated", "x_out")  # of each unit, gated being alpha * f

_GREY = "#b5b5b5"


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
    numbers, maps = {}, {}
    for i, step in enumerate(steps(subject.model, subject.degraded)):
        progress(i, len(names), f"Looking into {step.name}")
        numbers[step.name], maps[step.name] = GateNumbers.of(step), gate_maps(step)
    progress(len(names), len(names), "Done")
    unit = unit or max(maps, key=lambda name: maps[name]["alpha"].std())
    degraded, restored = to_image(subject.degraded), to_image(resume(subject.model, step.name, step.x_out))
    arrays = {f"{name}/{key}": value for name, of in maps.items() for key, value in of.items()}
    return Finding(
        "gate",
        MEANING,
        {"model": subject.name, "shown": unit, "units": {name: asdict(of) for name, of in numbers.items()}},
        arrays | {"degraded": degraded, "restored": restored},
        gate_figure(unit, maps[unit], numbers, {"network input": degraded, "restored": restored}),
    )


def gate_figure(
    unit: str, maps: dict[str, np.ndarray], numbers: dict[str, GateNumbers], pictures: dict[str, np.ndarray]
) -> Figure:
    """One unit's maps as its equation, the two `pictures` of the face before them; beneath, every unit's shares.

    Feature maps start at 0, black, and share the scale of their row, so that what alpha takes away is seen; alpha has
    the scale 0..1.
    """
    figure = canvas(10.5, 8.2, "constrained")
    figure.suptitle(
        rf"{unit}:  $x_{{out}} = shortcut(x_{{in}}) + \alpha \cdot f$,  length of the vector at every place, black 0",
        x=0.01, ha="left", size=11,
    )  # fmt: skip
    axes = figure.subplots(3, 4, height_ratios=(1, 1, 0.9))
    carried, gated = ("x_in", "shortcut", "x_out"), ("f", "alpha", "gated")
    titles = {"x_in": r"$x_{in}$", "shortcut": r"$shortcut(x_{in})$", "x_out": r"$x_{out}$",
              "f": r"$f$, new features", "alpha": rf"$\alpha$, mean {numbers[unit].mean_alpha:.2f}",
              "gated": rf"$\alpha \cdot f$, {numbers[unit].passed:.0%} passed"}  # fmt: skip
    for row, (caption, picture), names in zip(axes, pictures.items(), (carried, gated), strict=False):
        row[0].imshow(picture, interpolation="nearest")
        row[0].set_title(caption, fontsize=9, loc="left")
        strongest = max(maps[name].max() for name in names if name != "alpha")
        for ax, name in zip(row[1:], names, strict=True):
            colors, top = ("viridis", 1) if name == "alpha" else ("inferno", strongest)
            image = ax.imshow(maps[name], cmap=colors, vmin=0, vmax=top, interpolation="nearest")
            ax.set_title(titles[name], fontsize=9, loc="left")
            figure.colorbar(image, ax=ax, shrink=0.85, pad=0.02).ax.tick_params(labelsize=7)
        for ax in row:
            bare(ax)
    _draw_shares(figure, axes[2], unit, numbers)
    return figure


def _draw_shares(figure: Figure, places, unit: str, numbers: dict[str, GateNumbers]) -> None:
    grid = places[0].get_gridspec()
    for place in places:
        place.remove()
    ax = figure.add_subplot(grid[2, :])
    x = np.arange(len(numbers))
    shares = [of.norm_share for of in numbers.values()]
    ax.bar(x, shares, 0.7, color=[ORANGE if name == unit else _GREY for name in numbers])
    ax.plot(x, [of.mean_alpha for of in numbers.values()], "o", color=BLUE, markersize=5, label=r"mean of $\alpha$")
    passed = [of.passed for of in numbers.values()]
    ax.plot(x, passed, "_", color="black", markersize=13, label=r"share of $f$ that is passed")
    ax.bar(0, 0, color=_GREY, label=r"share of $x_{out}$'s two terms that is $\alpha f$" + f"; orange: {unit}")
    ax.set_xticks(x, list(numbers), rotation=45, ha="right", fontsize=8)
    ax.set_ylim(0, 1)
    ax.tick_params(axis="y", labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title("Every unit of this face", fontsize=9, loc="left")
    ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.55, 1.16), ncols=3)


def _units_after(model: SPARNet, unit: str | None) -> list[tuple[str, FaceAttentionUnit]]:
    units = list(model.units())
    return units if unit is None else units[[name for name, _ in units].index(unit) + 1 :]


def _ratio(part: Tensor, whole: Tensor) -> float:
    """part / whole; 0 of nothing."""
    return float(part / whole) if whole else 0.0


def view(finding: Finding) -> View:
    units, arrays = finding.numbers["units"], finding.arrays
    groups = {}
    for unit in units:
        maps = {name: arrays[f"{unit}/{name}"] for name in MAPS}
        carried = max(maps[name].max() for name in ("x_in", "shortcut", "x_out"))
        tops = dict.fromkeys(MAPS, carried) | dict.fromkeys(("f", "gated"), maps["f"].max())
        groups[unit] = [
            *(panel(name, maps[name], (0, tops[name]), "inferno") for name in ("x_in", "shortcut", "f")),
            panel("alpha", maps["alpha"]),
            panel("alpha f", maps["gated"], (0, tops["gated"]), "inferno"),
            panel("x_out", maps["x_out"], (0, tops["x_out"]), "inferno"),
        ]
    labels = {
        "norm_share": "alpha f beside the shortcut, by norm",
        "passed": "share of f that is passed",
        "mean_alpha": "mean alpha",
    }
    series = {label: [one[name] for one in units.values()] for name, label in labels.items()}
    charts = {"Every unit of this face:": bars(units, series, "share")}
    return View(pictures(arrays), groups, charts, finding.numbers["shown"])


INSTRUMENT = Instrument(
    "gate",
    WHERE,
    "What does each gate let through?",
    "Unit by unit the terms of x_out = shortcut(x_in) + alpha f: how long the feature vector is at every place.",
    study,
    view=view,
    attention=ATTENTION,
)
