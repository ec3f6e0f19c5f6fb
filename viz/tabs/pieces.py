"""Pieces of the page that several tabs have: notices, scripts, pictures for a screen."""

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
