"""What the face would be if a unit looked elsewhere: a painted change of its alpha, saved and replayed.

painted layers, blue | orange -> mask -1..1 -+
                   strength, unit -----------+-> Edit -> alpha' -> SPARNet.trace -> restored: before, after
                                                  |
JSON: hash of the weights, mask as PNG <----------+---- undo: the list without its last
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor
from torch.nn import functional as F

from sparnet.attention import mean_map
from sparnet.checkpoints import fingerprint
from sparnet.errors import UserError
from sparnet.images import to_image
from sparnet.model import Trace
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import EDITS, WHAT_IF, Instrument
from viz.instruments.ablation import levels, rms
from viz.subject import Subject, attending
from viz.views import BLUE, DIVERGING, ORANGE, Bars, Panel, View

MEANING = (
    "The face as the network restores it with alpha as you painted it, beside the face without: what a unit's "
    "attention can do there; such an alpha never came up in training, so an odd result shows the network's limits and "
    "not what it normally does."
)
SUPPRESS, BOOST = BLUE, ORANGE  # the two brushes

_STEPS = 127  # of a mask on either side of 0
_MAX_BYTES, _MAX_EDITS, _MAX_SIDE = 8_000_000, 64, 1024  # of a file, in it, of a mask: files come from strangers


@dataclass(frozen=True, eq=False)
class Edit:
    """A painted change of one unit's alpha, in every channel alike."""

    unit: str
    mask: np.ndarray  # (h,w) float32, any size to 1024, -1: suppress ... 0: leave ... 1: boost; in steps of 1/127
    strength: float = 1  # above 0, to 1: scales the mask

    def __post_init__(self):
        mask = np.asarray(self.mask, np.float32)
        if mask.ndim != 2 or not mask.size or max(mask.shape) > _MAX_SIDE or not (np.abs(mask) <= 1).all():
            raise ValueError(f"a mask is (h,w), at most {_MAX_SIDE} a side, of -1 to 1; this one is {mask.shape}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; it must be above 0, at most 1")
        object.__setattr__(self, "mask", np.rint(mask * _STEPS) / np.float32(_STEPS))  # so that a file can hold it


def edited(alpha: Tensor, edit: Edit) -> Tensor:
    """alpha (B,C,h,w) -> alpha' the same shape: the share |m| of the way to 1 where m > 0, to 0 where m < 0.

    alpha' = (1 - |m|) alpha + |m| [m > 0], m = strength * mask. So alpha stays in 0..1 without clipping and keeps its
    pattern, m = 0 keeps it bit for bit, and boosting acts on 1 - alpha as suppressing does on alpha. Each place of the
    map takes the mean of the mask's pixels that it touches.
    """
    mask = F.adaptive_avg_pool2d(torch.from_numpy(edit.mask)[None], (alpha.shape[-2], alpha.shape[-1]))[0]
    m = (edit.strength * mask).to(alpha)
    return torch.lerp(alpha, (m > 0).to(alpha), m.abs())


@torch.no_grad()
def apply(subject: Subject, edits: Sequence[Edit]) -> tuple[Trace, Trace]:
    """The face before and after; edits of the same unit act in their order, later units on what they are then given.

    `UserError` if the network has no map to paint on in one of the units.
    """
    _map_sizes(subject, [edit.unit for edit in edits])

    def all_edits(name: str, alpha: Tensor) -> Tensor:
        for edit in edits:
            alpha = edited(alpha, edit) if edit.unit == name else alpha
        return alpha

    return subject.trace, subject.model.trace(subject.degraded, all_edits) if edits else subject.trace


def to_json(subject: Subject, edits: Sequence[Edit]) -> str:
    """Edits of this network as a file's text; `from_json` gives them back exactly."""
    return json.dumps(_record(subject, edits), indent=1)


def from_json(text: str | bytes, subject: Subject) -> list[Edit]:
    """A file's text, trusted in nothing -> its edits; `UserError` says what is wrong with it.

    They are of one network: with other weights or another size the same paint would mean something else.
    """
    if len(text) > _MAX_BYTES:
        raise UserError(f"The file of edits is larger than {_MAX_BYTES // 1_000_000} MB. Save fewer edits in one.")
    try:
        saved = _File.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "all of it"
        raise UserError(
            f"The file holds no edits as they are saved here: {where}: {problem['msg']}. Choose another, or save anew."
        ) from error
    if saved.model.sha256 != fingerprint(subject.model):
        name = saved.model.name
        raise UserError(
            f"The edits were painted for other weights than those of {subject.name}: for {name}. Load those."
        )
    sizes, edits = _map_sizes(subject, [edit.unit for edit in saved.edits]), []
    for i, edit in enumerate(saved.edits, 1):
        here = [sizes[edit.unit]] * 2
        if edit.map != here:
            raise UserError(
                f"edit {i} was painted on a map of {edit.map}; that of {edit.unit} is {here}. Load its model."
            )
        edits.append(Edit(edit.unit, _decode(edit.mask, f"edit {i}"), edit.strength))
    return edits


def load(path: str | Path, subject: Subject) -> list[Edit]:
    """`from_json` of a file; `UserError` if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return from_json(text, subject)


def study(subject: Subject, edits: Annotated[Sequence[Edit], EDITS], progress: Progress = silent) -> Finding:
    """The face before and after `edits`, and how far every unit's alpha has moved, painted or not.

    Arrays: `before`, `after`, `difference`; of each painted unit `UNIT/before`, `UNIT/after`. `UserError` of no edit.
    """
    if not edits:
        raise UserError("There is no edit to apply. Paint one, or load a file of edits.")
    progress(0, 1, "Restoring the face before and after")
    before, after = apply(subject, edits)
    progress(1, 1, "Done")
    change = (levels(after.restored) - levels(before.restored))[0]
    arrays = {
        "before": to_image(before.restored),
        "after": to_image(after.restored),
        "difference": np.sqrt(np.square(change).mean(-1)),
    }
    maps = {}
    for unit in dict.fromkeys(edit.unit for edit in edits):
        was, now = (mean_map(trace.alphas[unit]) for trace in (before, after))
        arrays |= {f"{unit}/before": was, f"{unit}/after": now}
        maps[unit] = [Panel("alpha before", was), Panel("alpha after", now)]
        maps[unit].append(Panel("suppressed or boosted", now - was, (-1, 1), DIVERGING))
    moved = {name: (after.alphas[name] - alpha).square().mean().sqrt().item() for name, alpha in before.alphas.items()}
    numbers = {
        "model": subject.name,
        "edits": _record(subject, edits),  # a file of edits in itself
        "rms": rms(change).item(),
        "unit_of_rms": "8-bit levels",
        "rms_change_of_alpha": moved,
    }
    face = [Panel(f"restored {when}", arrays[when]) for when in ("before", "after")]
    face.append(Panel("change, RMS", arrays["difference"], (0, max(arrays["difference"].max(), 1)), "inferno"))
    chart = Bars(moved, {"RMS change of alpha": list(moved.values())}, "alpha")
    view = View(face, maps, {"How far every unit's alpha moved:": chart})
    title = f"The face with attention as painted: RMS change {numbers['rms']:.1f} of 255 levels"
    return Finding("edit", MEANING, numbers, arrays, view, title)


def _map_sizes(subject: Subject, units: Sequence[str]) -> dict[str, int]:
    """Sides of the maps that can be painted on, by unit; `UserError` if one of `units` has none."""
    attending(subject, units)
    plans = {plan.name: plan for plan in subject.model.config.units()}
    if flat := [unit for unit in units if plans[unit].attention == "channel"]:
        raise UserError(f"{', '.join(flat)} weighs channels and has no places to paint on. Choose another model.")
    return {name: plan.map_size for name, plan in plans.items()}


class _SavedEdit(BaseModel, strict=True):
    unit: str
    map: list[int]  # height, width
    strength: float = Field(gt=0, le=1)
    mask: str  # PNG, 8 bits grey: 1 is -1, 128 is 0, 255 is 1


class _SavedModel(BaseModel, strict=True):
    name: str
    sha256: str


class _File(BaseModel, strict=True):
    format: Literal["sparnet-attention-edits"]
    version: Literal[1]
    model: _SavedModel
    edits: list[_SavedEdit] = Field(max_length=_MAX_EDITS)


def _record(subject: Subject, edits: Sequence[Edit]) -> dict:
    sizes = _map_sizes(subject, [edit.unit for edit in edits])
    if len(edits) > _MAX_EDITS:
        raise UserError(f"A file holds at most {_MAX_EDITS} edits; these are {len(edits)}. Undo some.")
    saved = [
        _SavedEdit(unit=edit.unit, map=[sizes[edit.unit]] * 2, strength=edit.strength, mask=_encode(edit.mask))
        for edit in edits
    ]
    model = _SavedModel(name=subject.name, sha256=fingerprint(subject.model))
    return _File(format="sparnet-attention-edits", version=1, model=model, edits=saved).model_dump()


def _encode(mask: np.ndarray) -> str:
    file = BytesIO()
    Image.fromarray(np.rint(mask * _STEPS + 128).astype(np.uint8)).save(file, "PNG", optimize=True)
    return b64encode(file.getvalue()).decode()


def _decode(text: str, where: str) -> np.ndarray:
    try:
        with Image.open(BytesIO(b64decode(text, validate=True)), formats=("PNG",)) as image:
            if image.mode != "L" or max(image.size) > _MAX_SIDE:
                raise ValueError(f"it is {image.mode}, {image.size}")
            values = np.array(image, np.float32)
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged files, bombs included
        raise UserError(
            f"The mask of {where} is not an 8-bit grey PNG of at most {_MAX_SIDE} x {_MAX_SIDE}. Save the edits again."
        ) from error
    if not values.all():
        raise UserError(f"The mask of {where} has a value below -1. Save the edits again.")
    return (values - 128) / _STEPS


INSTRUMENT = Instrument(
    "edit",
    WHAT_IF,
    "What if a unit looked elsewhere?",
    "Attention is suppressed or boosted where it was painted on a unit's map, and the network restores the face anew.",
    study,
    label="Paint",
)
