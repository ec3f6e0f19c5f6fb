"""What the face loses when one unit's attention is replaced: not where a unit looks, but whether that matters.

face -> unit 1 -> ... -> unit k: alpha -> 0 | 1 | its mean | shuffled -> unit k+1 -> ... -> restored, changed
        computed once, shared ------'     all of them in one batch ---------------------'   |
                                                             RMS change, PSNR change <------'
study: units x modes    study_many: their means over faces    study_pairs: two units at once, and the interaction
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from sparnet.errors import UserError
from sparnet.images import to_image
from sparnet.metrics import RESAMPLES, ends, estimates, labelled, psnr, ssim
from sparnet.model import SPARNet
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import ATTENTION, MATTERS, Instrument, Option, Seed, Units
from viz.instruments.gate import resume, steps, steps_after
from viz.subject import Subject, attending, over_faces
from viz.views import DIVERGING, Bars, Matrix, Panel, View, numerals, pictures

Mode = Literal["zero", "one", "mean", "shuffle"]
MODES: tuple[Mode, ...] = get_args(Mode)
Modes = Annotated[list[Mode] | None, Option("What replaces a unit's attention; none chosen: each in turn.")]
PAIRS = "ablation-pairs"  # what the findings of two units at once are called
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
_CAPTIONS = {
    "rms": (
        "How much the face changes, by unit and by what replaces its alpha; the strongest change first:",
        "RMS, 8-bit levels",
    ),
    "psnr_change": ("How much nearer to the sharp face, or, below 0, farther from it:", "PSNR change, dB"),
}
_BYTES = 10**9  # memory at most, for a batch


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
    # a unit holds about four tensors of the size of its largest at a time
    largest = max(max(plan.c_in, plan.c_out) * plan.map_size**2 for plan in model.config.units())
    rows = max(1, _BYTES // (4 * 4 * largest))
    for step in steps(model, face):
        if step.name in units:
            alphas = torch.cat([replacement(step.alpha, mode, seed) for mode in modes])
            parts = [resume(model, step.name, step.shortcut + batch * step.f) for batch in alphas.split(rows)]
            yield step.name, torch.cat(parts)


def levels(restored: Tensor) -> ndarray:
    """(B,3,S,S) in [-1,1], as on a screen: -> (B,S,S,3) float32 in 0..255, clamped like a picture but not rounded."""
    return ((restored.float().clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).cpu().numpy()


def rms(difference: ndarray) -> ndarray:
    """(...,S,S,3) -> (...): the square root of the mean square over places and colours, in the same 8-bit levels."""
    return np.sqrt(np.square(difference, dtype=np.float64).mean((-3, -2, -1)))


@torch.no_grad()
def study(
    subject: Subject,
    units: Units = None,
    modes: Modes = None,
    seed: Seed = 0,
    pairs: Annotated[
        bool, Option("Replace every two units together, too, to see which depend on each other.", shown=True)
    ] = False,
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
    modes, units = list(modes or MODES), attending(subject, units)
    before = subject.model(subject.degraded)
    rows: list[dict[str, ndarray]] = []
    strongest: dict[Mode, tuple[str, float, Tensor]] = {}  # unit, RMS change, restored
    for i, (unit, restored) in enumerate(replaced(subject.model, subject.degraded, units, modes, seed)):
        rows.append(_effects(subject, before, restored))
        for mode, change, face in zip(modes, rows[-1]["rms"], restored, strict=True):
            if mode not in strongest or change > strongest[mode][1]:
                strongest[mode] = unit, change, face[None]
        progress(i + 1, len(units), f"{unit} replaced in {len(modes)} ways")

    restored_face, table = to_image(before), _table(rows)
    arrays = {"units": np.array(units), "modes": np.array(modes), **table, "restored": restored_face}
    for mode, (_, _, face) in strongest.items():
        difference = np.sqrt(np.square(levels(face) - levels(before))[0].mean(-1))
        arrays |= {f"{mode}/picture": to_image(face), f"{mode}/difference": difference}
    numbers = {"model": subject.name, "seed": seed, "unit_of_rms": "8-bit levels"}
    if subject.sharp is not None:
        numbers |= {"psnr": psnr(restored_face, subject.sharp), "ssim": ssim(restored_face, subject.sharp)}
    numbers["ranking"] = _ranking(units, modes, table)
    top = max(float(arrays[f"{mode}/difference"].max()) for mode in strongest)
    groups = {
        f"strongest of {mode}": [
            Panel(f"{unit}, alpha = {_SAYS[mode]}", arrays[f"{mode}/picture"]),
            Panel(f"change, RMS {change:.1f}", arrays[f"{mode}/difference"], (0, top), "inferno"),
        ]
        for mode, (unit, change, _) in strongest.items()
    }
    view = View(pictures(arrays), groups, _diagrams(units, modes, table))
    return Finding("ablation", MEANING, numbers, arrays, view, "What replacing one unit's attention does to this face")


@torch.no_grad()
def study_many(
    subjects: Iterable[Subject],
    units: Units = None,
    modes: Modes = None,
    seed: Seed = 0,
    progress: Progress = silent,
) -> Finding:
    """The same over faces in front of one network: means with 95 % bootstrap intervals; arrays `NAME_of_faces`.

    PSNR and SSIM change only if every face was sharp once. `UserError` without a face or for several networks.
    """
    modes = list(modes or MODES)

    def measure(_: int, subject: Subject) -> dict[str, ndarray]:
        before = subject.model(subject.degraded)
        changed = replaced(subject.model, subject.degraded, attending(subject, units), modes, seed)
        return _table([_effects(subject, before, restored) for _, restored in changed])

    last, faces = over_faces(subjects, measure, progress, "Replacing attention in", least=1)
    names, table, means = attending(last, units), {}, {name: estimates(values, seed) for name, values in faces.items()}
    for name, found in means.items():
        table |= zip((name, f"{name}_low", f"{name}_high"), ends(found), strict=True)
    count = len(faces["rms"])
    numbers = {
        "model": last.name,
        "seed": seed,
        "unit_of_rms": "8-bit levels",
        "faces": count,
        "interval": f"95 %, percentile bootstrap over the faces, {RESAMPLES} samples",
        "ranking": _ranking(names, modes, means),
    }
    arrays = {f"{name}_of_faces": values for name, values in faces.items()}
    arrays |= {"units": np.array(names), "modes": np.array(modes), **table}
    view = View(diagrams=_diagrams(names, modes, means))
    title = f"What replacing one unit's attention does: mean of {count} faces"
    return Finding("ablation", MEANING, numbers, arrays, view, title)


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
    top, widest = float(effect.max()), max(float(np.abs(interaction).max()), 1e-6)
    seen = ("cividis_r", (0, top))
    tables = {
        "How much the face changes when both units are replaced (on the diagonal: the one alone), levels:": (
            (effect, *seen)
        ),
        "How far that is from the sum of the two changes: 0 if they simply add, levels:": (rest, *seen),
        "Effect minus both alone, levels:": (interaction, DIVERGING, (-widest, widest)),
    }
    diagrams = {
        caption: Matrix(values, units, units, colors, scale, numerals(values, 1))
        for caption, (values, colors, scale) in tables.items()
    }
    title = f"Two units replaced at once, alpha = {_SAYS[mode]}; RMS in 8-bit levels"
    return Finding(PAIRS, PAIRS_MEANING, numbers, arrays, View(diagrams=diagrams), title)


def _diagrams(units: Sequence[str], modes: Sequence[Mode], table: dict[str, ndarray]) -> dict[str, Bars]:
    """Bars of a table's rms and, if known, psnr_change (units,modes), numbers or Estimates; the strongest first."""
    order = np.argsort(-ends(table["rms"])[0].max(axis=1), kind="stable")
    return {
        caption: Bars(
            [units[int(i)] for i in order],
            {f"alpha = {_SAYS[mode]}": table[name][order, j] for j, mode in enumerate(modes)},
            unit,
        )
        for name, (caption, unit) in _CAPTIONS.items()
        if name in table
    }


def _table(rows: Sequence[dict[str, ndarray]]) -> dict[str, ndarray]:
    """The effects of every unit, stacked: (units,modes) each."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _effects(subject: Subject, before: Tensor, after: Tensor) -> dict[str, ndarray]:
    """Restored (1,3,S,S) and (m,3,S,S) -> each measure of the m, (m,)."""
    effects = {"rms": rms(levels(after) - levels(before))}
    if subject.sharp is not None:
        faces = map(to_image, (before, *after))
        base, *scored = ((psnr(face, subject.sharp), ssim(face, subject.sharp)) for face in faces)
        change = np.array(scored) - base
        effects |= {"psnr_change": change[:, 0], "ssim_change": change[:, 1]}
    return effects


def _ranking(units: Sequence[str], modes: Sequence[Mode], table: dict[str, ndarray]) -> list[dict]:
    """Rows of a table (units,modes) of numbers or Estimates, the largest RMS change first, for JSON."""
    change = ends(table["rms"])[0]
    places = np.unravel_index(np.argsort(-change, axis=None, kind="stable"), change.shape)
    return [
        {"unit": units[i], "mode": modes[j]} | {name: labelled(values[i, j]) for name, values in table.items()}
        for i, j in zip(*places, strict=True)
    ]


INSTRUMENT = Instrument(
    "ablation",
    MATTERS,
    "Does a unit matter?",
    "Its attention is replaced by 0, 1, its mean, or its own values in other places, and every later unit reacts.",
    study,
    over_faces=study_many,
    attention=ATTENTION,
    slow=True,
    more_files=(PAIRS,),
)
