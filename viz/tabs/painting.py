"""What if a unit looked elsewhere? Attention painted by hand, in the page.

unit's map over the restored face -> gr.ImageEditor: blue suppresses, orange boosts -> Edit -> list of edits
list of edits -> the network -> before | after, linked maps, chart, files; undo; the list as JSON, and from JSON
"""

import io
import json
from collections.abc import Callable

import gradio as gr
import numpy as np
from gradio import FileData
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs
from PIL import Image

from sparnet.attention import mean_map, overlay
from sparnet.errors import UserError
from sparnet.images import to_image
from viz.instruments import edit
from viz.instruments.edit import BOOST, SUPPRESS, Edit
from viz.subject import Subject
from viz.tabs.bench import EXPIRED, Opened
from viz.tabs.controls import telling
from viz.tabs.panel import Panel
from viz.tabs.pieces import NOT_YET, notice
from viz.tabs.serving import PAINTED_BYTES, QUICK, UNOPENED, download, explained, read_upload, sentence, size_of

CANVAS = 512  # px
_INDICES = (None, "", "null", "0", "1")  # of a layer, as a browser sends them
HINT = (
    "<p class='hint'>Paint on the map, then press Apply. Blue holds features back there, orange lets them through.</p>"
)


def layer(file: FileData | bytes | None, **_) -> np.ndarray | None:
    """What a browser sends as a layer of the canvas, trusted in nothing -> (H,W,4) uint8; only a PNG or WebP is opened.

    `UserError` for anything else, or one much larger than the canvas.
    """
    if file is None:
        return None
    data = read_upload(file) if isinstance(file, FileData) else bytes(file)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:  # reads the header only
            if max(image.size) <= 2 * CANVAS:
                return np.array(image.convert("RGBA"))
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged files, bombs included
        raise UserError("The painted layer cannot be read. Clear it and paint again.") from error
    raise UserError("The painted layer is larger than the canvas. Clear it and paint again.")


def few_layers(canvas: gr.ImageEditor) -> Callable[[AcceptBlobs], None]:
    """What takes a layer of the canvas on its way, before the event that uses it; keeps few of those that wait."""

    @server
    def accept_blobs(data: AcceptBlobs) -> None:
        if data.data["index"] not in _INDICES:  # Gradio makes a list as long as that
            raise UserError("The canvas has fewer layers.")
        gr.ImageEditor.accept_blobs(canvas, data)
        while size_of([vars(blobs) for blobs in canvas.blob_storage.values()], set()) > PAINTED_BYTES:
            del canvas.blob_storage[next(iter(canvas.blob_storage))]

    return accept_blobs


class Painting:
    """The widgets; `outputs` is everything that another face empties."""

    def __init__(self, now: gr.State):
        self.now, self.edits = now, gr.State([])
        with gr.Row(elem_classes="painting"):
            with gr.Column(scale=5, min_width=320):
                gr.HTML(f"<h2>{edit.INSTRUMENT.title}</h2><p>{edit.INSTRUMENT.about}</p>", elem_classes="about")
                with gr.Row():
                    self.unit = gr.Dropdown([], label="Unit", filterable=False, min_width=140, elem_id="paint-unit")
                    self.strength = gr.Slider(0.05, 1, 1, step=0.05, label="Strength", min_width=140,
                                              elem_id="paint-strength")  # fmt: skip
                self.canvas = gr.ImageEditor(
                    type="numpy",
                    image_mode="RGBA",
                    format="png",
                    sources=(),
                    transforms=(),
                    layers=False,
                    buttons=[],
                    brush=gr.Brush(default_size=60, colors=[BOOST, SUPPRESS], default_color=BOOST, color_mode="fixed"),
                    eraser=gr.Eraser(default_size=60),
                    canvas_size=(CANVAS, CANVAS),
                    fixed_canvas=True,
                    height=CANVAS + 110,
                    show_label=False,
                    elem_id="paint-canvas",
                )
                self.canvas.convert_and_format_image = layer  # Gradio's own opens any format
                self.canvas.accept_blobs = few_layers(self.canvas)
                with gr.Row():
                    self.apply = gr.Button("Apply", variant="primary", min_width=90, elem_id="paint-apply")
                    self.undo = gr.Button("Undo the last", min_width=90, elem_id="paint-undo")
                with gr.Row():
                    self.file = gr.DownloadButton("Save the edits (JSON)", size="sm", interactive=False,
                                                  elem_id="paint-save")  # fmt: skip
                    self.load = gr.UploadButton("Replay a file of edits", size="sm", file_types=[".json"],
                                                elem_id="paint-load")  # fmt: skip
            with gr.Column(scale=4, min_width=300):
                self.slider = gr.ImageSlider(
                    label="As the network attends | as you painted",
                    format="png",
                    type="numpy",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="paint-slider",
                )
                self.told = gr.HTML(elem_id="paint-told", elem_classes="told")
        self.panel = Panel(edit.INSTRUMENT, alone=False)
        self._wire()

    @property
    def outputs(self) -> list:
        own = [self.edits, self.unit, self.canvas, self.slider, self.told, self.file]
        return [*own, *self.panel.outputs]

    def _wire(self) -> None:
        private = {"api_visibility": "private"}
        settings = {"show_progress_on": self.told, **private, **QUICK}
        given = [self.now, self.edits, self.unit]
        self.apply.click(self.add, [*given, self.canvas, self.strength], self.outputs, **settings)
        self.undo.click(self.take_back, given, self.outputs, **settings)
        self.load.upload(self.replay, [self.now, self.load], self.outputs, **settings, **UNOPENED)
        self.unit.input(explained(self.show_unit), given, self.canvas, show_progress="hidden", **private)

    def empty(self, now: Opened | None) -> dict:
        """Nothing painted on this face yet."""
        made = {self.edits: [], self.slider: None, self.told: HINT, self.file: NOT_YET, **self.panel.empty()}
        if now is None:
            return made | {self.unit: gr.update(choices=[], value=None), self.canvas: None}
        units = [plan.name for plan in now.subject.model.config.units() if plan.attention in ("2d", "3d", "2d+channel")]
        if not units:
            told = notice(f"{now.model} has no attention maps to paint on. Choose another model.")
            return made | {self.unit: gr.update(choices=[], value=None), self.canvas: None, self.told: told}
        alphas = {name: mean_map(now.face.alphas[name]) for name in units}
        unit = max(units, key=lambda name: alphas[name].std())  # that of the most contrast
        return made | {self.unit: gr.update(choices=units, value=unit), self.canvas: _backdrop(now.subject, [], unit)}

    def show_unit(self, now: Opened | None, edits: list[Edit], unit: str):
        if now is None:
            raise UserError(EXPIRED)
        return _backdrop(now.subject, edits, unit)

    def add(self, now, edits, unit, canvas, strength, progress=gr.Progress()):  # noqa: B008  Gradio looks for it
        """One more edit, as painted."""
        try:
            if now is None:
                raise UserError(EXPIRED)
            if not 0 < strength <= 1:
                raise UserError("The strength must be above 0, at most 1.")
            edits = [*edits, Edit(unit, edit.painted(canvas), strength)]
            return self.shown(now, edits, unit, progress)
        except Exception as error:  # told on the page; `sentence` logs what is not the visitor's mistake
            return {self.told: notice(sentence(error))}

    def take_back(self, now, edits, unit, progress=gr.Progress()):  # noqa: B008
        try:
            if now is None:
                raise UserError(EXPIRED)
            if not edits:
                raise UserError("There is no edit to undo.")
            return self.shown(now, edits[:-1], unit, progress)
        except Exception as error:  # the same
            return {self.told: notice(sentence(error))}

    def replay(self, now, upload, progress=gr.Progress()):  # noqa: B008
        try:
            if now is None:
                raise UserError(EXPIRED)
            edits = edit.from_json(read_upload(upload), now.subject)
            if not edits:
                raise UserError("The file holds no edit. Choose another.")
            return self.shown(now, edits, edits[-1].unit, progress)
        except Exception as error:  # the same
            return {self.told: notice(sentence(error))}

    def shown(self, now: Opened, edits: list[Edit], unit: str, progress: gr.Progress) -> dict:
        """The face under these edits, and the unit's map as it now is, to paint on further."""
        subject = now.subject
        if not edits:
            return self.empty(now) | {self.unit: unit, self.canvas: _backdrop(subject, [], unit)}
        finding = edit.study(subject, edits, telling(progress))
        made = self.panel.answer(finding, now.provenance("edit", {}), now.token)
        painted = ", ".join(f"{i + 1}: {one.unit}" for i, one in enumerate(edits))
        change = f"The face changed by {finding.numbers['rms']:.1f} of 255 levels (RMS)."
        made[self.told] = f"<p class='hint'>Edits {painted}. {change}</p>"
        return made | {
            self.edits: edits,
            self.unit: unit,
            self.canvas: _backdrop(subject, edits, unit),
            self.slider: (finding.arrays["before"], finding.arrays["after"]),
            self.file: gr.update(
                value=download(json.dumps(finding.numbers["edits"], indent=1).encode(), "edits.json"), interactive=True
            ),
        }


def _backdrop(subject: Subject, edits: list[Edit], unit: str) -> np.ndarray:
    """The unit's map, with the edits so far, over the face: (CANVAS,CANVAS,3) uint8 to paint on."""
    _, after = edit.apply(subject, edits)
    if unit not in after.alphas:
        raise UserError("There is no such unit. Choose one of the list.")
    face = np.array(Image.fromarray(to_image(after.restored)).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC))
    grey = np.repeat(face.mean(-1, keepdims=True), 3, axis=-1)  # so that the map's colours, and the paint, stand out
    return overlay(grey, mean_map(after.alphas[unit]), "gray", 0.55)
