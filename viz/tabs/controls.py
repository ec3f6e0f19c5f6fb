"""What a visitor may tell an instrument: its options as controls, and its Sources as the page opens them.

an Option or a Source of a study -> a control in its tab, the same hidden for programs -> value, trusted in nothing
values, Opened -> study: each value checked, each Source opened -> Finding
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from sparnet.errors import UserError
from sparnet.restorer import Progress
from viz import report
from viz.finding import KINDS, Finding
from viz.instrument import EDITS, OTHER, OTHER_FACES, PATCH, POPULATION, Instrument, Setting, Source
from viz.instruments import INSTRUMENTS, edit
from viz.subject import Subject
from viz.tabs import serving
from viz.tabs.bench import Opened
from viz.tabs.models import hub_hint, models_here


@dataclass(frozen=True)
class Opening:
    """How the page opens a Source."""

    controls: dict[str, Callable[..., Component]]  # by what programs call their values
    open: Callable[..., Any]  # (Opened, their values) -> what the study is given; None: nothing


def _patch(now: Opened, patch: object) -> tuple[int, ...] | None:
    if patch is None:
        return None
    if not isinstance(patch, list) or len(patch) != 4 or not all(isinstance(edge, int) for edge in patch):
        raise UserError("A patch is four whole numbers: left, top, right, bottom in pixels of the restored face.")
    return tuple(patch)


def _other(now: Opened, other_model: Any, other_photo: object) -> Subject:
    """The same face in front of another model, or the largest face of another photo in front of this one."""
    if bool(other_model) == bool(other_photo):
        raise UserError("Choose either another model or another photo to compare with.")
    if other_model:
        return now.by(other_model)  # which checks it
    photo = serving.read_photo(other_photo).pixels()
    faces, _, notes = serving.find(photo, now.whole)
    if not faces:
        raise UserError(f"In the other photo: {notes[-1]}")
    restore, _ = serving.restorer(now.model)
    face = restore.restore_face(photo, faces[0], now.mode, whole=now.whole)
    return Subject.of(restore.model, now.model, face)


def _edits(now: Opened, edits: object) -> list[edit.Edit]:
    if edits is None:
        raise UserError("Give a file of edits, as the page saves them.")
    return edit.from_json(serving.read_upload(edits), now.subject)


def _other_model(**look) -> gr.Dropdown:
    here = [("choose one", ""), *((name, name) for name in models_here())]
    custom = bool(hub_hint())
    return gr.Dropdown(here, value="", label="Another model on this face", allow_custom_value=custom, **look)


def _marked(**look) -> gr.JSON:
    label = "[left, top, right, bottom] in pixels of the restored face"
    look["visible"] = False  # marked on the picture
    return gr.JSON(label=label, **look)


_other_photo = partial(gr.Image, label="or another photo", height=150, sources=["upload", "clipboard"], buttons=[])
SOURCES: dict[Source, Opening] = {
    PATCH: Opening({"patch": _marked}, _patch),
    OTHER: Opening({"other_model": _other_model, "other_photo": _other_photo}, _other),
    EDITS: Opening({"edits": partial(gr.File, label="Edits as the page saves them, JSON")}, _edits),
    POPULATION: Opening({}, Opened.population),
    OTHER_FACES: Opening({}, lambda now: None),
}


def on_page() -> dict[str, Instrument]:
    """The instruments of one face whose Sources the page can open."""
    return {
        name: instrument
        for name, instrument in INSTRUMENTS.items()
        if instrument.needs_face and SOURCES.keys() >= set(instrument.required)
    }


def reported() -> list[str]:
    """Those that need nothing but a face."""
    return [
        name
        for name, instrument in on_page().items()
        if not any(SOURCES[source].controls for source in instrument.required)
    ]


def lane(instrument: Instrument) -> dict:
    return serving.SLOW if instrument.slow else serving.QUICK


def given_to(instrument: Instrument) -> dict[str, Any]:
    """Names and defaults of all that programs can give it."""
    opened = [name for source in instrument.sources.values() for name in SOURCES[source].controls]
    return dict.fromkeys(opened) | {name: setting.default for name, setting in instrument.settings.items()}


def source_controls(instrument: Instrument, **look) -> dict[str, Component]:
    makers = {name: make for source in instrument.sources.values() for name, make in SOURCES[source].controls.items()}
    return {name: make(**_named(instrument, name, look)) for name, make in makers.items()}


def option_control(instrument: Instrument, setting: Setting, units: Sequence[str] = (), **look) -> Component:
    """The control of an option; units: what is offered where units are to be named."""
    look = _named(instrument, setting.name, look)
    look |= {"label": setting.name.replace("_", " ").capitalize(), "info": setting.option.about}
    if setting.choices or setting.option.units:
        return gr.Dropdown(list(setting.choices or units), value=setting.default, multiselect=setting.many, **look)
    if setting.kind is bool:
        return gr.Checkbox(setting.default, **look)
    if setting.kind is str:
        return gr.Textbox(setting.default, **look)
    precision = 0 if setting.kind is int else None
    return gr.Number(setting.default, minimum=setting.option.least, maximum=_most(setting), precision=precision, **look)


def study(instrument: Instrument, now: Opened, given: dict[str, Any], progress: Progress) -> tuple[Finding, dict]:
    """The finding about the face, and by which options; `given` by their names, as a visitor gave them."""
    options = {name: setting.checked(given.get(name), _most(setting)) for name, setting in instrument.settings.items()}
    opened, settings = {}, {}
    for parameter, source in instrument.sources.items():
        values = {name: given.get(name) for name in SOURCES[source].controls}
        if (value := SOURCES[source].open(now, **values)) is not None:
            opened[parameter] = value
        settings |= {name: value for name, value in values.items() if not isinstance(value, dict)}  # of files nothing
    return instrument.study(now.subject, **opened, **options, progress=progress), settings | options


def _most(setting: Setting) -> float | None:
    limits = [limit for limit in (setting.option.most, serving.OPTIONS_MOST.get(setting.name)) if limit is not None]
    return min(limits, default=None)


def _named(instrument: Instrument, name: str, look: dict) -> dict:
    return look | {"elem_id": f"{instrument.name}-{name}"} if look.get("visible", True) else look


def saved(finding: Finding, provenance: dict, kinds: Sequence[str] = KINDS) -> dict[str, str]:
    """The finding's files of these kinds where Gradio serves them from."""
    return {path.suffix[1:]: str(path) for path in finding.save(serving.download_folder(), provenance, kinds)}


def written_report(now: Opened, names: list[str], progress: gr.Progress) -> str:
    """The path of an HTML report by these instruments."""
    given = {POPULATION: lambda _: now.population()}
    made = report.study(now.subject, given, only=names, progress=telling(progress))
    return serving.download(made.page(now.provenance("report", {"only": names}), {}).encode(), "attention-report.html")


def telling(progress: gr.Progress) -> Progress:
    """An instrument's progress on the page."""
    return lambda done, total, text: progress(done / max(total, 1), desc=text)
