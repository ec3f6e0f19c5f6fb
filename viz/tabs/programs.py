"""The instruments for programs: an endpoint for each, and /report.

photo, model, mode, face, whole, the instrument's own options -> Looked -> study -> figure PNG, arrays NPZ, numbers JSON
"""

from collections.abc import Callable
from inspect import Parameter, Signature, signature

import gradio as gr

from sparnet.errors import UserError
from sparnet.restorer import Progress
from viz import edit
from viz.finding import Finding
from viz.tabs.instruments import INSTRUMENTS
from viz.tabs.looking import Looked, look, saved, telling, written_report
from viz.tabs.serving import QUICK, SLOW, UNOPENED, explained, read_photo, read_upload

REPORTED = ("gate", "ablate", "regions", "faithfulness", "sanity", "query", "stability", "population", "channels")
"""The instruments of a report that need nothing but a face, beside the atlas."""

_NAMES = {"compare": "agreement"}  # /compare compares models' pictures
_OPTIONS: dict[str, Callable[[], gr.components.Component]] = {
    "pairs": lambda: gr.Checkbox(visible=False, label="Every two units at once"),
    "unit": lambda: gr.Textbox(visible=False, label="A unit whose own map is tested too"),
    "patch": lambda: gr.JSON(visible=False, label="[left, top, right, bottom] in pixels of the restored face"),
    "detector": lambda: gr.Textbox("gradient", visible=False, label="gradient or sum"),
    "other_model": lambda: gr.Textbox(visible=False, label="Another model on this face"),
    "other_photo": lambda: gr.Image(visible=False, label="Another photo for this model"),
    "edits": lambda: gr.File(visible=False, label="Edits as the page saves them, JSON"),
}


def build(given: list[gr.components.Component]) -> None:
    """Put the endpoints into the Blocks that are open; `given` are photo, model, mode and whole of a tab."""
    photo, model, mode, whole = given
    face = gr.Number(1, precision=0, minimum=1, label="Face, counted from 1", visible=False)
    files = [gr.File(visible=False, label=label) for label in ("Figure, PNG", "Arrays, NPZ", "Numbers, JSON")]
    settings = {"api_visibility": "public", **UNOPENED}
    studies = [(_NAMES.get(piece.name, piece.name), piece.asks, piece.study, piece.lane) for piece in INSTRUMENTS]
    for name, asks, study, lane in (*studies, ("edit", "What if a unit looked elsewhere?", _replay, QUICK)):
        own = [_OPTIONS[option.name]() for option in _own(study)]
        gr.Button(visible=False).click(
            explained(_endpoint(name, asks, study)), [photo, model, mode, face, whole, *own], files, api_name=name,
            **settings, **lane,
        )  # fmt: skip
    gr.Button(visible=False).click(
        explained(_report), [photo, model, mode, face, whole], gr.File(visible=False, label="Report, HTML"),
        api_name="report", **settings, **SLOW,
    )  # fmt: skip


def _report(photo, model, mode, face=1, whole=False, progress=gr.Progress()):  # noqa: B008  Gradio looks for it
    """Every instrument on one face. Returns an HTML file that needs no network; it takes a minute or so.

    photo, model, mode, face and whole are as in /attention.
    """
    now = look(read_photo(photo), model, mode, whole, progress, face)
    return written_report(now, ["atlas", *REPORTED], progress)


def _replay(now: Looked, edits: object = None, progress: Progress | None = None) -> Finding:
    """Edits that were painted on the page."""
    if edits is None:
        raise UserError("Give a file of edits, as the page saves them.")
    subject = now.subject
    return edit.study(subject, edit.from_json(read_upload(edits), subject), progress)


def _own(study: Callable) -> list[Parameter]:
    """The instrument's own options."""
    return [one for name, one in signature(study).parameters.items() if name in _OPTIONS]


def _endpoint(name: str, asks: str, study: Callable[..., Finding]) -> Callable:
    """A handler whose signature names the instrument's own options beside the common ones, as Gradio shows them."""

    def common(photo, model, mode, face=1, whole=False): ...

    def run(photo, model, mode, face, whole, *rest):
        *values, progress = rest
        now = look(read_photo(photo), model, mode, whole, progress, face)
        finding = study(now, *values, progress=telling(progress))
        paths = saved(finding, now.provenance(name, settings_of(study, values)))
        return paths["png"], paths["npz"], paths["json"]

    own = [one.replace(annotation=Parameter.empty) for one in _own(study)]
    progress = Parameter("progress", Parameter.POSITIONAL_OR_KEYWORD, default=gr.Progress())
    run.__signature__ = Signature([*signature(common).parameters.values(), *own, progress])
    run.__name__ = name
    run.__doc__ = (
        f"{asks} Returns a figure as PNG, its arrays as NPZ, and its numbers as JSON with the settings that make it "
        "anew.\n\nphoto, model, mode, face and whole are as in /attention."
    )
    return run


def settings_of(study: Callable, values: list) -> dict:
    """The values of an instrument's own options; of files nothing."""
    return {one.name: value for one, value in zip(_own(study), values, strict=True) if not isinstance(value, dict)}
