"""Pieces of the page that several tabs have: the status line, notices, scripts.

status_html -> facts, notice, notes
"""

import html
from io import BytesIO
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.blocks import BlockContext
from gradio.components import Component
from PIL import Image

from sparnet.images import data_url

STATIC = Path(__file__).parents[1] / "static"

GUESS = "A restored face is a plausible guess by a neural network. It is not evidence of who someone is."
Widget = Component | BlockContext  # what an event may change
NOT_YET = gr.update(value=None, interactive=False)


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


def preview(image: np.ndarray, side: int = 1280) -> str:
    """A picture (H,W,3) uint8 for a screen, no result: a JPEG of at most `side` pixels a side, as a data URL."""
    file, picture = BytesIO(), Image.fromarray(image)
    picture.thumbnail((side, side))
    picture.save(file, "JPEG", quality=92)
    return data_url(file.getvalue(), "jpeg")
