"""What if a unit looked elsewhere? Attention painted by hand, in the page.

unit's map over the restored face -> static/paint.js: strokes of orange, which boost, and blue, which suppress
  -> mask -> Edit -> the network -> the face as painted, after each stroke; the edits as JSON, and from JSON
"""

from base64 import b64decode, b64encode

import cv2
import gradio as gr
import numpy as np
from gradio.components import Component
from PIL import Image

from sparnet.attention import mean_map, overlay
from sparnet.errors import UserError
from sparnet.images import data_url, encode_png, preview, to_image
from viz.finding import Finding
from viz.instruments import edit
from viz.instruments.ablation import levels, rms
from viz.instruments.edit import BOOST, SUPPRESS, Edit
from viz.tabs.bench import Opened, current
from viz.tabs.controls import telling
from viz.tabs.panel import Panel, chosen_unit, is_due
from viz.tabs.pieces import NOT_YET, Widget, drawn, notice
from viz.tabs.serving import HIDDEN, PRIVATE, QUICK, UNOPENED, download, explained, read_upload

SIDE = 128  # cells of the canvas: as many as the finest map has
_SHOWN = 512  # px of the face beneath
_STEPS = 127  # of a mask on either side of 0
HINT = "<p class='hint'>Paint on the face: orange lets the unit's features through, blue holds them back.</p>"


def mask_of(canvas: object) -> tuple[str, np.ndarray]:
    """What a browser says was painted, trusted in nothing -> unit, mask (SIDE,SIDE) float32 of -1 to 1.

    `UserError` unless it is {"unit": text, "mask": base64 of a byte for each cell: 1 is -1, 128 is 0, 255 is 1}.
    """
    unit, mask = (canvas.get(name) if isinstance(canvas, dict) else None for name in ("unit", "mask"))
    try:
        cells = np.frombuffer(b64decode(mask, validate=True), np.uint8) if isinstance(mask, str) else np.zeros(0)
    except ValueError:  # not base64
        cells = np.zeros(0)
    if not isinstance(unit, str) or cells.size != SIDE**2 or not cells.all():
        raise UserError("What was painted cannot be read. Clear it and paint again.")
    return unit, (cells.reshape(SIDE, SIDE).astype(np.float32) - 128) / _STEPS


def canvas_of(unit: str, edits: list[Edit]) -> dict:
    """The unit's edits as the canvas shows them, each over those before it: the other way of `mask_of`."""
    mask = np.zeros((SIDE, SIDE), np.float32)
    for change in edits:
        if change.unit == unit:
            over = change.strength * cv2.resize(change.mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            mask = over + (1 - np.abs(over)) * mask
    return {"unit": unit, "mask": b64encode(np.rint(mask * _STEPS + 128).astype(np.uint8).tobytes()).decode()}


class Painting(Panel):
    """The panel of the instrument that is painted to: at once when it is opened, measured in full when asked."""

    def _ask(self, units: list[str]) -> None:
        self.edits = gr.State([])
        with gr.Row(elem_classes="painting"):
            self.canvas = drawn(None, "paint.js", elem_id="paint", min_width=280)
            self.after = gr.HTML(elem_id="paint-after", min_width=280)
        with gr.Row(elem_classes="files"):
            self.run = gr.Button("Measure what moved", size="sm", elem_id="run-edit", scale=0)
            self.file = gr.DownloadButton("Save the edits (JSON)", size="sm", elem_id="paint-save", scale=0)
            self.load = gr.UploadButton("Replay a file of edits", size="sm", file_types=[".json"],
                                        elem_id="paint-load", scale=0)  # fmt: skip
        self.controls = {"edits": self.edits}

    @property
    def renewable(self) -> list[Widget]:
        return [*super().renewable, self.edits, self.canvas, self.after, self.file]

    def wire(self, state: list[Component], look: Component) -> None:
        super().wire(state, look)
        shown = {"show_progress_on": self.after, **PRIVATE, **QUICK}
        self.asked.change(explained(self.begin), [self.asked, self.done, *state, look], self.renewable, **shown)
        self.canvas.input(explained(self.paint, self.failed), [*state, self.edits, self.canvas], self.renewable,
                          trigger_mode="always_last", **shown)  # fmt: skip
        self.load.upload(explained(self.replay, self.failed), [*state, self.load], self.renewable, **shown, **UNOPENED)
        self.canvas.select(explained(self.turn_to), [*state, self.edits, look], self.canvas,
                           trigger_mode="always_last", **HIDDEN, **QUICK)  # fmt: skip

    def find(self, now: Opened, look: object, values: tuple) -> tuple[Finding, dict]:
        return edit.study(now.subject, *values, progress=telling(gr.Progress())), {}

    def renewed(self, now: Opened) -> dict:
        return super().renewed(now) | {self.edits: [], self.canvas: None, self.after: "", self.file: NOT_YET}

    def begin(self, asked, done, now, token, look):
        """Nothing painted yet, on the unit that is chosen."""
        if not is_due(asked, done, token):
            return gr.skip()
        now = current(now, token)
        unit = chosen_unit(look, now)
        return self.shown(now, []) | {self.canvas: _canvas(now, [], unit)}

    def turn_to(self, now, token, edits, look):
        """Another unit to paint on; those before it stay as they are painted."""
        now = current(now, token)
        return _canvas(now, edits, chosen_unit(look, now))

    def paint(self, now, token, edits, canvas):
        """After a stroke: the unit's mask as it is now, in place of the one that it had."""
        unit, mask = mask_of(canvas)
        edits = [change for change in edits if change.unit != unit]
        return self.shown(current(now, token), [*edits, Edit(unit, mask)] if mask.any() else edits)

    def replay(self, now, token, upload):
        now = current(now, token)
        edits = edit.from_json(read_upload(upload), now.subject)
        if not edits:
            raise UserError("The file holds no edit. Choose another.")
        return self.shown(now, edits) | {self.canvas: _canvas(now, edits, edits[-1].unit)}

    def failed(self, message: str) -> dict:
        return {self.told: notice(message)}

    def shown(self, now: Opened, edits: list[Edit]) -> dict:
        """The face under these edits, and the edits as a file."""
        before, after = edit.apply(now.subject, edits)
        change = rms((levels(after.restored) - levels(before.restored))[0]).item()
        units = ", ".join(dict.fromkeys(change.unit for change in edits))
        message = f"<p class='hint'>Painted: {units}. The face changed by {change:.1f} of 255 levels (RMS).</p>"
        file = NOT_YET
        if edits:
            path = download(edit.to_json(now.subject, edits).encode(), "edits.json")
            file = gr.update(value=path, interactive=True)
        return self.empty(message if edits else HINT) | {
            self.edits: edits,
            self.done: now.token,
            self.after: _before_after(to_image(before.restored), to_image(after.restored)),
            self.file: file,
        }


def _canvas(now: Opened, edits: list[Edit], unit: str | None) -> dict:
    """The unit's map as the edits of other units leave it, over the face in grey, to paint on."""
    subject = now.subject
    if unit is None:
        raise UserError(f"{now.model} has no attention maps to paint on. Choose another model.")
    _, after = edit.apply(subject, [change for change in edits if change.unit != unit])
    face = Image.fromarray(to_image(after.restored)).resize((_SHOWN, _SHOWN), Image.Resampling.BICUBIC)
    grey = np.repeat(np.array(face).mean(-1, keepdims=True), 3, axis=-1)  # so that the paint stands out
    picture = overlay(grey, mean_map(after.alphas[unit]), "gray", 0.55)
    look = {"face": preview(picture, _SHOWN), "side": SIDE, "colors": {"boost": BOOST, "suppress": SUPPRESS}}
    return canvas_of(unit, edits) | look


def _before_after(before: np.ndarray, after: np.ndarray) -> str:
    """The face as painted; the one without while it is held."""
    images = "".join(f"<img src='{data_url(encode_png(face))}' alt=''>" for face in (before, after))
    name = "The restored face with attention as painted. Hold to see it without."
    return (
        "<figure><figcaption>Restored, as painted. Hold it down to see it without.</figcaption>"
        f"<button type='button' class='hold' aria-label='{name}'>{images}</button></figure>"
    )
