"""Endpoints for programs: one for each instrument, and /report; those of a tab stand beside it.

photo, model, mode, face, whole, the instrument's own options -> Opened -> study -> figure PNG, arrays NPZ, numbers JSON
"""

from collections.abc import Callable
from inspect import Parameter, Signature, signature

import gradio as gr

from sparnet.restorer import MODES
from viz.instrument import Instrument
from viz.tabs.bench import opened
from viz.tabs.controls import (
    given_to,
    lane,
    on_page,
    option_control,
    reported,
    saved,
    source_controls,
    study,
    telling,
    written_report,
)  # fmt: skip
from viz.tabs.models import first_model, models_here
from viz.tabs.pieces import endpoint
from viz.tabs.serving import SLOW, read_photo


def build() -> None:
    """Put the endpoints into the Blocks that are open."""
    photo = gr.Image(label="Photo", visible=False)
    model = gr.Dropdown(models_here(), value=first_model(), label="Model", visible=False)
    mode = gr.Radio([(mode, mode) for mode in MODES], value=MODES[0], label="Mode", visible=False)
    face = gr.Number(1, precision=0, minimum=1, label="Face, counted from 1", visible=False)
    whole = gr.Checkbox(label="The picture is already a face", visible=False)
    files = [gr.File(visible=False, label=label) for label in ("Figure, PNG", "Arrays, NPZ", "Numbers, JSON")]
    for name, instrument in on_page().items():
        own = [*source_controls(instrument, visible=False).values()]
        own += [option_control(instrument, setting, visible=False) for setting in instrument.settings.values()]
        endpoint(name, _measured(instrument), [photo, model, mode, face, whole, *own], files, lane(instrument))
    page = gr.File(visible=False, label="Report, HTML")
    endpoint("report", _report, [photo, model, mode, face, whole], page, SLOW)


def _report(photo, model, mode, face=1, whole=False, progress=gr.Progress()):  # noqa: B008  Gradio looks for it
    """Every instrument on one face. Returns an HTML file that needs no network; it takes a minute or so.

    photo, model, mode, face and whole are as in /attention.
    """
    now = opened(read_photo(photo), model, mode, whole, progress, face)
    return written_report(now, reported(), progress)


def _measured(instrument: Instrument) -> Callable:
    """A handler whose signature names the instrument's own options beside the common ones, as Gradio shows them."""
    own = given_to(instrument)

    def common(photo, model, mode, face=1, whole=False): ...

    def run(photo, model, mode, face, whole, *rest):
        *values, progress = rest
        now = opened(read_photo(photo), model, mode, whole, progress, face)
        finding, settings = study(instrument, now, dict(zip(own, values, strict=True)), telling(progress))
        return tuple(saved(finding, now.provenance(instrument.name, settings), ("png", "npz", "json")).values())

    more = {**own, "progress": gr.Progress()}
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=value) for name, value in more.items()]
    run.__signature__ = Signature([*signature(common).parameters.values(), *parameters])
    run.__name__ = instrument.name
    run.__doc__ = (
        f"{instrument.title} Returns a figure as PNG, its arrays as NPZ, and its numbers as JSON with the settings "
        "that make it anew.\n\nphoto, model, mode, face and whole are as in /attention."
    )
    return run
