"""Pieces of a page that several tabs have: the photo and what to do with it, the status line, scripts.

photo_inputs -> photo, mode, whole        status_html -> facts, notice, notes
"""

import html
from functools import cache
from pathlib import Path

import gradio as gr
import skimage.data
from gradio.utils import get_upload_folder

from sparnet.files import make_folder
from sparnet.images import resize, save_png
from viz.tabs.models import first_model, hub_hint, model_choices
from viz.tabs.serving import EXAMPLES

STATIC = Path(__file__).parents[1] / "static"

MODE_CHOICES = [
    ("Simulate a tiny photo: reduce each face to 16x16 pixels first", "simulate"),
    ("Restore the photo as it is", "as_is"),
]
GUESS = "A restored face is a plausible guess by a neural network. It is not evidence of who someone is."
EXPIRED = "This result was deleted: after an hour, or earlier when many visitors are here. Restore the photo again."
NOT_YET = gr.update(value=None, interactive=False)


def model_input(elem_id: str) -> gr.Dropdown:
    """One model, for `photo_inputs` to put in its place."""
    return gr.Dropdown(
        model_choices(),
        value=first_model(),
        label="Model",
        info=f"Or type {hub_hint()}" if hub_hint() else None,
        allow_custom_value=bool(hub_hint()),
        filterable=True,
        elem_id=elem_id,
        render=False,
    )


def photo_inputs(models: gr.Dropdown, prefix: str = "") -> tuple[gr.Image, gr.Radio, gr.Checkbox]:
    """A photo and examples, then `models` (made with render=False), then what to do with faces.

    prefix: what the elements' ids begin with, so that no two tabs have the same.
    """
    photo = gr.Image(
        label="Photo",
        height=330,
        placeholder="Drop a photo here",
        webcam_options=gr.WebcamOptions(mirror=False),  # restored as others see the face
        elem_id=f"{prefix}photo-input",
    )
    mode = gr.Radio(
        MODE_CHOICES, value="simulate", label="What to do with faces", elem_id=f"{prefix}mode", render=False
    )
    whole = gr.Checkbox(label="The picture is already a face: do not search", elem_id=f"{prefix}whole", render=False)
    gr.Examples(
        [[str(path), *settings] for path, *settings in _examples()],
        [photo, mode, whole],
        label="Or try one: an astronaut, and her face in 16x16 pixels",
        api_visibility="private",
        visible_columns=[0],
        elem_id=f"{prefix}examples",
    )
    models.render()
    mode.render()
    whole.render()
    return photo, mode, whole


def status_html(values: dict[str, str], notes: list[str], found: bool) -> str:
    """One line of facts; under it, what the visitor should know. Where no face was found, the last note says so."""
    line = facts_line(values)
    if not found:
        line += notice(f"{notes[-1]} For that, tick “The picture is already a face”.")
        notes = notes[:-1]
    return line + "<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>"


def facts_line(values: dict[str, str]) -> str:
    return "<dl>" + "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in values.items()) + "</dl>"


def notice(text: str) -> str:
    return f"<div class='notice' role='alert'>{html.escape(text)}</div>"


def script(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


@cache
def _examples() -> list[tuple[Path, str, bool]]:
    """(file, mode, already a face): NASA's portrait of Eileen Collins, public domain, and her face in 256 pixels."""
    astronaut = skimage.data.astronaut()
    folder = Path(get_upload_folder()) / EXAMPLES
    make_folder(folder)
    whole, tiny = folder / "astronaut.png", folder / "astronaut-16x16.png"
    save_png(astronaut, whole)
    save_png(resize(astronaut[8:216, 120:328], 16), tiny)
    return [(whole, "simulate", False), (tiny, "as_is", True)]
