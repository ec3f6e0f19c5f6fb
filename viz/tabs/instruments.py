"""The instruments of the page and of its endpoints: what each asks, needs to be told, and does.

INSTRUMENTS: Piece per instrument -> panel.py: its tab -> programs.py: its endpoint
"""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import gradio as gr

from sparnet.errors import UserError
from sparnet.restorer import Progress
from viz import ablation, agreement, channels, faithfulness, gate, population, query, regions, sanity, stability
from viz.finding import Finding, Subject
from viz.tabs.looking import Looked
from viz.tabs.models import hub_hint, models_here
from viz.tabs.serving import QUICK, SLOW, check_flag, find, read_photo, restorer


@dataclass(frozen=True)
class Piece:
    """What the page knows of one instrument."""

    name: str  # as on the command line
    label: str  # of its tab
    asks: str  # the question, as a heading
    about: str  # what is done, in a sentence
    study: Callable[..., Finding]  # (Looked, value of each control, progress=Progress)
    controls: Callable[[], list[gr.components.Component]] = list
    slow: bool = False  # seconds rather than moments: only when asked for, and in a lane of its own
    pick: str | None = None  # the picture on which a part can be marked: the first control's value

    @property
    def lane(self) -> dict:
        return SLOW if self.slow else QUICK


def _gate(now: Looked, progress: Progress | None = None) -> Finding:
    return gate.study(now.subject, progress=progress)


def _regions(now: Looked, progress: Progress | None = None) -> Finding:
    return regions.study(now.subject, progress)


def _ablate(now: Looked, pairs: bool = False, progress: Progress | None = None) -> Finding:
    check_flag("pairs", pairs)
    study = ablation.study_pairs if pairs else ablation.study
    return study(now.subject, progress=progress)


def _query(
    now: Looked, patch: list | None = None, detector: str = "gradient", progress: Progress | None = None
) -> Finding:
    if detector not in list(query.DETECTORS):
        raise UserError(f"{reprlib.repr(detector)} is not a detector. Choose one of {', '.join(query.DETECTORS)}.")
    if patch is not None:
        if not isinstance(patch, list) or len(patch) != 4 or not all(isinstance(edge, int) for edge in patch):
            raise UserError("A patch is four whole numbers: left, top, right, bottom in pixels of the restored face.")
        patch = tuple(patch)
    return query.study(now.subject, patch, detector, progress=progress)


def _faithfulness(now: Looked, unit: str | None = None, progress: Progress | None = None) -> Finding:
    if not isinstance(unit, str | None):
        raise UserError(f"{reprlib.repr(unit)} is not a unit. Give its name as text.")
    return faithfulness.study(now.subject, [unit] if unit else None, progress=progress)


def _sanity(now: Looked, progress: Progress | None = None) -> Finding:
    return sanity.study(now.subject, progress=progress)


def _stability(now: Looked, progress: Progress | None = None) -> Finding:
    return stability.study(now.subject, progress=progress)


def _compare(
    now: Looked, other_model: str | None = None, other_photo: dict | None = None, progress: Progress | None = None
) -> Finding:
    """The same face in front of another model, or the largest face of another photo in front of this one."""
    if bool(other_model) == bool(other_photo):
        raise UserError("Choose either another model or another photo to compare with.")
    if other_model:
        return agreement.study(now.subject, now.by(other_model), progress=progress)
    photo = read_photo(other_photo).pixels()
    faces, _, notes = find(photo, now.whole)
    if not faces:
        raise UserError(f"In the other photo: {notes[-1]}")
    restore, _ = restorer(now.model)
    one = restore.restore_face(photo, faces[0], now.mode, whole=now.whole)
    return agreement.study(now.subject, Subject.of(restore.model, now.model, one), progress=progress)


def _channels(now: Looked, progress: Progress | None = None) -> Finding:
    return channels.study(now.subject, progress=progress)


def _population(now: Looked, progress: Progress | None = None) -> Finding:
    usual, data = now.population()
    finding = population.study(now.subject, usual, progress)
    told = f"{finding.meaning} The others are {usual.faces:,} faces: {data}."
    return replace(finding, meaning=told, numbers={**finding.numbers, "population": data})


def _other() -> list[gr.components.Component]:
    here = [("choose one", ""), *((name, name) for name in models_here())]
    model = gr.Dropdown(
        here,
        value="",
        label="Another model on this face",
        allow_custom_value=bool(hub_hint()),
        elem_id="other-model",
    )
    photo = gr.Image(
        label="or another photo", height=150, sources=["upload", "clipboard"], buttons=[], elem_id="other-photo"
    )
    return [model, photo]


INSTRUMENTS = (
    Piece(
        "gate",
        "Gate",
        "What does each gate let through?",
        "Unit by unit the terms of <i>x</i>&#8242; = shortcut(<i>x</i>) + <i>&alpha;</i>&#8201;&middot;&#8201;"
        "<i>f</i>: how long the feature vector is at every place.",
        _gate,
    ),
    Piece(
        "regions",
        "Regions",
        "Which parts of the face does each unit prefer?",
        "Mean attention in brows, eyes, nose, mouth and skin, over the map's own mean.",
        _regions,
    ),
    Piece(
        "ablate",
        "Ablation",
        "Does a unit matter?",
        "Its attention is replaced by 0, 1, its mean, or its own values in other places, and every later unit reacts.",
        _ablate,
        lambda: [gr.Checkbox(label="Every two units at once", elem_id="ablate-pairs", min_width=200)],
        slow=True,
    ),
    Piece(
        "query",
        "Pixel query",
        "Where did this part come from?",
        "Mark a part of the restored face. Gradients along the way from the blurred to the real input tell which input "
        "pixels made it.",
        _query,
        lambda: [
            gr.State(None),
            gr.Radio(
                [("its detail", "gradient"), ("its brightness", "sum")],
                value="gradient",
                label="What of the part",
                elem_id="query-detector",
            ),
        ],
        slow=True,
        pick="restored",
    ),
    Piece(
        "faithfulness",
        "Faithfulness",
        "Does the rest of the face follow?",
        "Cells of the input are damaged in the order of a map, and the rest of the restored face is watched; beside "
        "attention a gradient, an edge filter and chance.",
        _faithfulness,
        lambda: [gr.Dropdown([("none", "")], value="", label="Also one unit's own map", elem_id="faithfulness-unit")],
        slow=True,
    ),
    Piece(
        "sanity",
        "Sanity",
        "Is it learned, and of this face?",
        "The maps again with learned weights made random, part by part, and with the face turned and mirrored.",
        _sanity,
        slow=True,
    ),
    Piece(
        "stability",
        "Stability",
        "Does it hold still?",
        "The maps again after a little noise, JPEG, a shift of two pixels, and mirrored.",
        _stability,
        slow=True,
    ),
    Piece(
        "compare",
        "Beside another",
        "Do two networks, or two faces, get the same maps?",
        "Maps on one grid: correlation, overlap of the top fifth, and the difference.",
        _compare,
        _other,
        slow=True,
    ),
    Piece(
        "population",
        "Against others",
        "How does this face differ from what is usual?",
        "Every map against its mean over many faces, aligned alike, in their standard deviations.",
        _population,
    ),
    Piece(
        "channels",
        "Channels",
        "Does attention differ from channel to channel?",
        "For 3D and channel attention: mean, spread and clusters over the channels.",
        _channels,
    ),
)
