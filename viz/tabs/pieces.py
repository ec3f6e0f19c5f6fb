"""Pieces of the page that several tabs have: notices, scripts."""

import html
from pathlib import Path

import gradio as gr
from gradio.blocks import BlockContext
from gradio.components import Component

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
