"""Pieces of the page that several tabs have: notices, scripts, endpoints."""

import html
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr
from gradio.blocks import BlockContext
from gradio.components import Component

from viz.tabs.serving import UNOPENED, explained

STATIC = Path(__file__).parents[1] / "static"

GUESS = "A restored face is a plausible guess by a neural network. It is not evidence of who someone is."
Widget = Component | BlockContext  # what an event may change
NOT_YET = gr.update(value=None, interactive=False)


def notice(text: str) -> str:
    return f"<div class='notice' role='alert'>{html.escape(text)}</div>"


def script(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def drawn(value: object, *scripts: str, **settings) -> gr.HTML:
    """What these scripts of viz/static draw of `value` and of what is put in its place."""
    return gr.HTML(value, html_template="", js_on_load="".join(map(script, scripts)), **settings)


def endpoint(
    name: str, handler: Callable, inputs: list[Component], outputs: Component | Sequence[Component], lane: dict
) -> None:
    """An endpoint for programs, in one of the lanes; nothing on the page calls it."""
    gr.Button(visible=False).click(
        explained(handler), inputs, outputs, api_name=name, api_visibility="public", **UNOPENED, **lane
    )
