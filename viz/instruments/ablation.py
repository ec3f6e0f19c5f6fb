"""What the face loses when one unit's attention is replaced: not where a unit looks, but whether that matters.

face -> unit 1 -> ... -> unit k: alpha -> 0 | 1 | its mean | shuffled -> unit k+1 -> ... -> restored, changed
        computed once, shared ------'     all of them in one batch ---------------------'   |
                                                             RMS change, PSNR change <------'
study: units x modes    study_many: their means over faces    study_pairs: two units at once, and the interaction
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sparnet.attention import color_table
from sparnet.errors import UserError
from sparnet.images import to_image
from sparnet.metrics import RESAMPLES, mean_interval, psnr, ssim
from sparnet.model import SPARNet
from sparnet.restorer import Progress
from viz.figures import BLUE, GREEN, ORANGE, PINK, bare, canvas
from viz.finding import Finding, silent
from viz.instrument import ATTENTION, MATTERS, Instrument, Option, Seed, Units
from viz.instruments.gate import resume, steps, steps_after
from viz.subject import Subject, attending, each_face
from viz.views import View, bars, matrix, panel, picture, pictures

Mode = Literal["zero", "one", "mean", "shuffle"]
MODES: tuple[Mode, ...] = get_args(Mode)
Modes = Annotated[list[Mode] | None, Option("What replaces alpha; without it, all.")]
PAIRS = "ablation-pairs"  # what the findings of two units at once are called
MEASURES = ("rms", "psnr_change", "ssim_change")  # the last two where the sharp face is known
MEANING = (
    "How much the restored face changes when one unit's attention is replaced and all later units react to it: 'zero' "
    "and 'one' tell what closing or opening the whole unit does, 'mean' and 'shuffle' what its places matter; a small "
    "change does not make a unit useless, since others may do its work, and a replaced map is one the network never "
    "met in training."
)
PAIRS_MEANING = (
    "What replacing the attention of two units at once does beyond the two alone: where the rest is 0 the changes of "
    "the picture simply add; a rest says that one unit's effect depends on the other, not which of them leads."
)

_SAYS = {"zero": "0: closed", "one": "1: open", "mean": "its mean", "shuffle": "its places shuffled"}
_COLORS = {"zero": BLUE, "one": ORANGE, "mean": GREEN, "shuffle": PINK}
_BYTES = 10**9  # memory at most, for a batch


@dataclass(frozen=True, eq=False)
class Example:
    """The face with one unit's alpha replaced, beside what it was before."""

    unit: str
    rms: float  # of the change, in 8-bit levels
    picture: np.ndarray  # (S,S,3) uint8
    difference: np.ndarray  # (S,S) float32, RMS over the colours, in 8-bit levels

    @classmethod
    def of(cls, unit: str, before: Tensor, after: Tensor) -> "Example":
        change = (levels(after) - levels(before))[0]
        return cls(unit, rms(change).item(), to_image(after), np.sqrt(np.square(change).mean(-1)))


def replacement(alpha: Tensor, mode: Mode, seed: int = 0) -> Tensor:
    """alpha (1,C,h,w) -> what gates the unit instead, the same shape.

    zero and one close and open it. mean and shuffle are over the places, of each channel its own mean and of all the
    same permutation: how much passes stays, where does not. Channel attention (1,C,1,1) has no places: over channels.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
    if mode == "zero":
        return torch.zeros_like(alpha)
    if mode == "one":
        return torch.ones_like(alpha)
    values = alpha.flatten(2) if alpha.shape[-2:] != (1, 1) else alpha.reshape(1, 1, -1)
    if mode == "mean":
        changed = values.mean(-1, keepdim=True).expand_as(values)
    else:
        order = np.random.default_rng(seed).permutation(values.shape[-1])
        changed = values[..., torch.from_numpy(order).to(values.device)]
    return changed.reshape(alpha.shape)


def replaced(
    model: SPARNet, face: Tensor, units: Sequence[str], modes: Sequence[Mode] = MODES, seed: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """(unit, restored (len(modes),3,S,S)) for each of `units` in forward order, face (1,3,S,S); not clamped.

    The same as `trace` with an edit of that unit, which computes all units again: here those before it run once for
    all units and modes. Later units attend to what they are then given: the total effect, not the direct one.
    """
    rows = _rows(model)
    for step in steps(model, face):
        if step.name in units:
            alphas = torch.cat([replacement(step.alpha, mode, seed) for mode in modes])
            parts = [resume(model, step.name, step.shortcut + some * step.f) for some in alphas.split(rows)]
            yield step.name, torch.cat(parts)


def levels(restored: Tensor) -> np.ndarray:
    """(B,3,S,S) in [-1,1], as on a screen: -> (B,S,S,3) float32 in 0..255, clamped like a picture but not rounded."""
    return ((restored.float().clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).cpu().numpy()


def rms(difference: np.ndarray) -> np.ndarray:
    """(...,S,S,3) -> (...): the square root of the mean square over places and colours, in the same 8-bit levels."""
    return np.sqrt(np.square(difference, dtype=np.float64).mean((-3, -2, -1)))


@torch.no_grad()
def study(
    subject: Subject,
    units: Units = None,
    modes: Modes = None,
    seed: Seed = 0,
    pairs: Annotated[bool, Option("Every two units at once.", shown=True)] = False,
    progress: Progress = silent,
) -> Finding:
    """Every unit (or `units`) x mode on one face, ranked by RMS change; PSNR and SSIM change where it was sharp once.

    Arrays: `rms`, `psnr_change`, `ssim_change` (units, modes); of each mode the strongest as picture and difference.
    pairs: `study_pairs` instead, of one mode.
    """
    if pairs:
        if modes and len(modes) > 1:
            raise UserError("Pairs of units are replaced in one way: give one mode.")
        return study_pairs(subject, units, modes[0] if modes else "mean", seed, progress)
    modes = modes or MODES
    units = attending(subject, units)
    before = subject.model(subject.degraded)
    table = {name: np.zeros((len(units), len(modes))) for name in _measures(subject)}
    strongest: dict[Mode, Example] = {}
    for i, (unit, restored) in enumerate(replaced(subject.model, subject.degraded, units, modes, seed)):
        for name, values in _effects(subject, before, restored).items():
            table[name][i] = values
        for j, mode in enumerate(modes):
            if mode not in strongest or table["rms"][i, j] > strongest[mode].rms:
                strongest[mode] = Example.of(unit, before, restored[j : j + 1])
        progress(i + 1, len(units), f"{unit} replaced in {len(modes)} ways")

    arrays = {"units": np.array(units), "modes": np.array(modes), **table, "restored": to_image(before)}
    for mode, example in strongest.items():
        arrays |= {f"{mode}/picture": example.picture, f"{mode}/difference": example.difference}
    numbers = {"model": subject.name, "seed": seed, "unit_of_rms": "8-bit levels"}
    if subject.sharp is not None:
        restored_face = to_image(before)
        numbers |= {"psnr": psnr(restored_face, subject.sharp), "ssim": ssim(restored_face, subject.sharp)}
    numbers["ranking"] = _ranking(units, modes, table)
    return Finding("ablation", MEANING, numbers, arrays, ablation_figure(units, modes, table, strongest))


@torch.no_grad()
def study_many(
    subjects: Iterable[Subject],
    units: Units = None,
    modes: Modes = None,
    seed: Seed = 0,
    progress: Progress = silent,
) -> Finding:
    """The same over faces in front of one network: means with 95 % bootstrap intervals; arrays `NAME_of_faces`.

    PSNR and SSIM change only if every face was sharp once. `ValueError` without a face or for several networks.
    """
    subjects, modes = list(subjects), modes or MODES
    if len({id(subject.model) for subject in subjects}) != 1:
        raise ValueError("subjects are one or more faces in front of one network")
    units = attending(subjects[0], units)
    measures = set.intersection(*(set(_measures(subject)) for subject in subjects))
    faces = {name: np.zeros((len(subjects), len(units), len(modes))) for name in MEASURES if name in measures}
    for k, subject in enumerate(each_face(subjects, progress, "Replacing attention in")):
        before = subject.model(subject.degraded)
        for i, (_, restored) in enumerate(replaced(subject.model, subject.degraded, units, modes, seed)):
            effects = _effects(subject, before, restored)
            for name, values in faces.items():
                values[k, i] = effects[name]

    table = {}
    for name, values in faces.items():
        table |= zip((name, f"{name}_low", f"{name}_high"), mean_interval(values, seed), strict=True)
    numbers = {
        "model": subjects[0].name,
        "seed": seed,
        "unit_of_rms": "8-bit levels",
        "faces": len(subjects),
        "interval": f"95 %, percentile bootstrap over the faces, {RESAMPLES} samples",
        "ranking": _ranking(units, modes, table),
    }
    arrays = {f"{name}_of_faces": values for name, values in faces.items()}
    arrays |= {"units": np.array(units), "modes": np.array(modes), **table}
    title = f"Mean of {len(subjects)} faces; lines: its 95 % interval"
    return Finding("ablation", MEANING, numbers, arrays, ablation_figure(units, modes, table, title=title))


@torch.no_grad()
def study_pairs(
    subject: Subject,
    units: Sequence[str] | None = None,
    mode: Mode = "mean",
    seed: int = 0,
    progress: Progress = silent,
) -> Finding:
    """Every two units replaced at once; of the changes d of the picture, alone and together, in 8-bit levels:

    effect_ij = RMS(d_ij), on the diagonal RMS(d_i); interaction_ij = effect_ij - effect_i - effect_j, below 0 also for
    unrelated changes, whose RMS adds like lengths at right angles; rest_ij = RMS(d_ij - d_i - d_j), 0 if and only if
    the changes add. A unit gets in every pair the map that it gets alone, made of its alpha in the untouched network.
    """
    units = attending(subject, units)
    if len(units) < 2:
        raise UserError("A pair needs two units with attention. Choose another.")
    before = levels(subject.model(subject.degraded))
    maps, starts, alone = {}, {}, {}
    for step in steps(subject.model, subject.degraded):
        if step.name in units:
            maps[step.name] = replacement(step.alpha, mode, seed)
            starts[step.name] = step.shortcut + maps[step.name] * step.f
            alone[step.name] = levels(resume(subject.model, step.name, starts[step.name])) - before

    effect = np.diag([rms(alone[name]).item() for name in units])
    rest, done, pairs = np.zeros_like(effect), 0, len(units) * (len(units) - 1) // 2
    for i, first in enumerate(units):
        for step in steps_after(subject.model, first, starts[first]):
            if step.name in units:
                progress(done, pairs, f"{first} and {step.name}")
                both = resume(subject.model, step.name, step.shortcut + maps[step.name] * step.f)
                change, j = levels(both) - before, units.index(step.name)
                effect[i, j] = effect[j, i] = rms(change).item()
                rest[i, j] = rest[j, i] = rms(change - alone[first] - alone[step.name]).item()
                done += 1
    progress(pairs, pairs, "Done")
    single = np.diag(effect)
    interaction = np.where(np.eye(len(units), dtype=bool), 0, effect - (single + single[:, None]))
    ranking = [
        {"units": [units[i], units[j]], "effect": effect[i, j], "interaction": interaction[i, j], "rest": rest[i, j]}
        for i, j in zip(*np.triu_indices(len(units), 1), strict=True)
    ]
    ranking = sorted(ranking, key=lambda row: -row["rest"])
    numbers = {"model": subject.name, "mode": mode, "seed": seed, "unit_of_rms": "8-bit levels", "ranking": ranking}
    arrays = {"units": np.array(units), "effect": effect, "interaction": interaction, "rest": rest}
    return Finding(PAIRS, PAIRS_MEANING, numbers, arrays, pairs_figure(units, mode, effect, interaction, rest))


def ablation_figure(
    units: Sequence[str],
    modes: Sequence[Mode],
    table: dict[str, np.ndarray],
    examples: dict[Mode, Example] | None = None,
    title: str = "What replacing one unit's attention does to this face",
) -> Figure:
    """Bars of `table`'s rms and, if it has one, psnr_change, (units,modes); beneath, the examples.

    Units are ranked by the rms of alpha = its mean, which tells what the places matter, or else of the first mode.
    With rms_low and rms_high (the same for PSNR) a line over each bar goes from one to the other.
    """
    by = "mean" if "mean" in modes else modes[0]
    order = table["rms"][:, modes.index(by)].argsort()[::-1]
    bars_high, pictures_high = 1.1 + 0.115 * len(order) * (len(modes) + 1), 5.1 if examples else 0
    figure = canvas(10.5, bars_high + pictures_high, "constrained")
    parts = figure.subfigures(2, 1, height_ratios=(bars_high, pictures_high)) if examples else [figure]
    shown = [name for name in ("rms", "psnr_change") if name in table]
    labels = {"rms": "change of the restored face, RMS in 8-bit levels",
              "psnr_change": "change of PSNR (Y) in dB: left of 0 is worse"}  # fmt: skip
    all_axes = parts[0].subplots(1, len(shown), sharey=True, squeeze=False)[0]
    title += f"; ranked by alpha = {_SAYS[by]}"
    parts[0].suptitle(title, x=0.01, ha="left", size=11)
    for ax, name in zip(all_axes, shown, strict=True):
        for j, mode in enumerate(modes):
            y = np.arange(len(order)) + (j - (len(modes) - 1) / 2) * 0.8 / len(modes)
            values = table[name][order, j]
            spread = None
            if f"{name}_low" in table:
                spread = np.abs([values - table[f"{name}_low"][order, j], table[f"{name}_high"][order, j] - values])
            ax.barh(
                y, values, 0.8 / len(modes), color=_COLORS[mode], label=f"alpha = {_SAYS[mode]}",
                xerr=spread, error_kw={"elinewidth": 0.8, "ecolor": "0.2"},
            )  # fmt: skip
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.set_xlabel(labels[name], fontsize=9)
        ax.set_yticks(range(len(order)), [units[i] for i in order])
        ax.tick_params(labelsize=8)
        ax.tick_params(axis="y", length=0)
        ax.margins(y=0.01)
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
    all_axes[0].invert_yaxis()
    parts[0].legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower left", ncols=4, frameon=False)
    if examples:
        _draw_examples(parts[1], examples)
    return figure


def pairs_figure(
    units: Sequence[str], mode: Mode, effect: np.ndarray, interaction: np.ndarray, rest: np.ndarray
) -> Figure:
    """Three heat maps (n,n), units in forward order: effect, interaction (white 0), rest; in 8-bit levels."""
    figure = canvas(11, 4.4, "compressed")
    figure.suptitle(
        f"Two units replaced at once, alpha = {_SAYS[mode]}; RMS in 8-bit levels", x=0.01, ha="left", size=11
    )
    top, widest = effect.max(), max(np.abs(interaction).max(), 1e-6)
    panels = (
        ("effect; diagonal: the unit alone", effect, "viridis", 0, top),
        ("interaction: effect minus both alone", interaction, "PuOr", -widest, widest),
        ("rest: what does not simply add", rest, "viridis", 0, top),
    )
    for ax, (title, values, colors, low, high) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        image = ax.imshow(values, cmap=colors, vmin=low, vmax=high)
        ax.set_title(title, fontsize=9, loc="left")
        ax.set_xticks(range(len(units)), units, rotation=90, fontsize=7)
        ax.set_yticks(range(len(units)), units, fontsize=7)
        ax.tick_params(length=0)
        figure.colorbar(image, ax=ax, shrink=0.6, pad=0.02).ax.tick_params(labelsize=7)
    return figure


def _draw_examples(figure, examples: dict[Mode, Example]) -> None:
    figure.suptitle(
        "Of each way the strongest: the face then, and how far it is from the face before", x=0.01, ha="left", size=10
    )
    axes = figure.subplots(2, len(examples), squeeze=False)
    strongest = max(example.difference.max() for example in examples.values())
    for column, (mode, example) in zip(axes.T, examples.items(), strict=True):
        column[0].imshow(example.picture, interpolation="nearest")
        column[0].set_title(f"{example.unit}, {mode}", fontsize=9, loc="left")
        image = column[1].imshow(example.difference, cmap="inferno", vmin=0, vmax=strongest, interpolation="nearest")
        column[1].set_title(f"RMS {example.rms:.1f}", fontsize=8, loc="left")
        for ax in column:
            bare(ax)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, pad=0.01)
    bar.set_label("8-bit levels, black: unchanged", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _measures(subject: Subject) -> tuple[str, ...]:
    return MEASURES if subject.sharp is not None else MEASURES[:1]


def _effects(subject: Subject, before: Tensor, after: Tensor) -> dict[str, np.ndarray]:
    """Restored (1,3,S,S) and (m,3,S,S) -> each measure of the m, (m,)."""
    effects = {"rms": rms(levels(after) - levels(before))}
    if subject.sharp is not None:
        faces = map(to_image, (before, *after))
        base, *scored = ((psnr(face, subject.sharp), ssim(face, subject.sharp)) for face in faces)
        change = np.array(scored) - base
        effects |= {"psnr_change": change[:, 0], "ssim_change": change[:, 1]}
    return effects


def _ranking(units: Sequence[str], modes: Sequence[Mode], table: dict[str, np.ndarray]) -> list[dict]:
    """Rows of the table by falling RMS change, for JSON; without what is no number, as the interval of one face."""
    order = np.argsort(-table["rms"], axis=None, kind="stable")
    places = zip(*np.unravel_index(order, table["rms"].shape), strict=True)
    return [
        {"unit": units[i], "mode": modes[j]}
        | {name: float(values[i, j]) for name, values in table.items() if np.isfinite(values[i, j])}
        for i, j in places
    ]


def _rows(model: SPARNet) -> int:
    """How many faces to run at once: a unit holds about four tensors of the size of its largest at a time."""
    largest = max(max(plan.c_in, plan.c_out) * plan.map_size**2 for plan in model.config.units())
    return max(1, _BYTES // (4 * 4 * largest))


def view(finding: Finding) -> View:
    arrays = finding.arrays
    if finding.instrument == PAIRS:
        return _view_of_pairs(finding)
    units, modes = arrays["units"].tolist(), arrays["modes"].tolist()
    top = max(float(arrays[f"{mode}/difference"].max()) for mode in modes)
    groups = {
        f"strongest of {mode}": [
            picture("after", arrays[f"{mode}/picture"]),
            panel("change, RMS", arrays[f"{mode}/difference"], (0, top), "inferno"),
        ]
        for mode in modes
    }
    order = np.argsort(-arrays["rms"].max(axis=1), kind="stable")
    captions = {
        "rms": (
            "How much the face changes, by unit and by what replaces its alpha; the strongest change first:",
            "RMS, 8-bit levels",
        ),
        "psnr_change": ("How much nearer to the sharp face, or, below 0, farther from it:", "PSNR change, dB"),
    }
    charts = {
        caption: bars([units[i] for i in order], dict(zip(modes, arrays[name][order].T, strict=True)), unit)
        for name, (caption, unit) in captions.items()
        if name in arrays
    }
    return View(pictures(arrays), groups, charts)


def _view_of_pairs(finding: Finding) -> View:
    arrays = finding.arrays
    units = arrays["units"].tolist()
    captions = {
        "effect": "How much the face changes when both units are replaced (on the diagonal: the one alone), levels:",
        "rest": "How far that is from the sum of the two changes: 0 if they simply add, levels:",
    }
    colors = color_table("cividis")[::-17]  # dark the highest
    return View(
        charts={
            caption: matrix(arrays[name], units, units, colors, (0, None), arrays[name], digits=1)
            for name, caption in captions.items()
        }
    )


INSTRUMENT = Instrument(
    "ablation",
    MATTERS,
    "Does a unit matter?",
    "Its attention is replaced by 0, 1, its mean, or its own values in other places, and every later unit reacts.",
    study,
    over_faces=study_many,
    view=view,
    attention=ATTENTION,
    slow=True,
    more_files=(PAIRS,),
)
