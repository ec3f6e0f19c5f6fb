"""The first tab, where a photo comes in: its faces restored, before and after, and what the network looked at.

photo, intention -> opened -> Opened, the page's state -> photo with faces | before, after | attention maps | files
"""

import gradio as gr

from viz.tabs.bench import Opened, first, opened
from viz.tabs.models import first_model, model_choices
from viz.tabs.pieces import notice, status_html
from viz.tabs.serving import QUICK, UNOPENED, read_photo, sentence

MODES = [("Restore my photo", "as_is"), ("Rebuild it from 16x16 pixels", "simulate")]


class Tab:
    """The tab's widgets; `now` and `token` are the page's state, which every other tab reads by `bench.current`."""

    def __init__(self):
        shown = first()
        self.now = gr.State(None, time_to_live=3600)
        self.token = gr.Textbox(shown.token, visible="hidden", elem_id="token")
        self.photo = gr.Image(label="Photo", height=200, elem_id="photo-input")
        self.mode = gr.Radio(MODES, value=shown.mode, label="Intention", elem_id="mode")
        self.model = gr.Dropdown(model_choices(), value=first_model(), label="Model", elem_id="model")
        self.whole = gr.Checkbox(label="The picture is already a face", elem_id="whole")
        self.status = gr.HTML(_status(shown), elem_id="status", elem_classes="status")
        self.to_inside = gr.Button("Look inside: does it matter, is it real, what if?", elem_id="to-inside")
        outputs = [self.now, self.token, self.status]
        for event in (self.photo.change, self.mode.input, self.whole.input):
            event(self.open, [self.photo, self.mode, self.model, self.whole], outputs, **UNOPENED, **QUICK)

    def open(self, upload, mode, model, whole, progress=gr.Progress()):  # noqa: B008  Gradio looks for this default
        if upload is None:
            return gr.skip()
        try:
            now = opened(read_photo(upload), model, mode, whole, progress)
            return {self.now: now, self.token: now.token, self.status: _status(now)}
        except Exception as error:  # told on the page; `sentence` logs what is not the visitor's mistake
            return {self.status: notice(sentence(error))}


def _status(now: Opened) -> str:
    return status_html({"faces": str(len(now.faces)), "model": now.model}, list(now.notes), found=bool(now.faces))
