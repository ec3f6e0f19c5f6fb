"""The first tab: a photo in, its faces restored, every attention map of the network that did it.

photo, model, mode -> restore -> status, photo with numbered faces -> choose -> before | after, explorer, downloads
"""

from dataclasses import dataclass, field, replace
from secrets import token_hex

import gradio as gr
import numpy as np

from sparnet.attention import face_atlas, maps_npz
from sparnet.errors import UserError
from sparnet.faces import Face
from sparnet.images import encode_png
from sparnet.restorer import RestoredFace
from viz.explorer import payload, photo_payload
from viz.tabs.models import LOADING, arrival, first_model
from viz.tabs.pieces import EXPIRED, GUESS, NOT_YET, facts_line, model_input, notice, photo_inputs, script, status_html
from viz.tabs.serving import (
    QUICK,
    UNOPENED,
    Photo,
    chosen_index,
    device_name,
    download,
    explained,
    face_index,
    read_photo,
    restorer,
    sentence,
    settled_mode,
    timed_restoration,
)

WELCOME = """<div class="welcome"><ol>
<li><b>Give it a photo.</b> Drop one on the left, paste it, take one, or choose an example.</li>
<li><b>Compare.</b> Each face is found and restored. A slider shows it before and after.</li>
<li><b>Look inside.</b> Every attention map of the network appears beneath: choose one and lay it over the face.</li>
</ol><p>Your photo is read on this server, kept for an hour at most, and never shared or used for training.</p></div>"""
ABOUT_MAPS = """<h2>Attention atlas</h2>
<p>The network is a chain of units. Each computes features <i>f</i> and a map <i>&alpha;</i>, between 0 and 1, that
gates them: <i>x</i>&#8242; = shortcut(<i>x</i>) + <i>&alpha;</i>&#8201;&middot;&#8201;<i>f</i>. <b>Bright</b>: the
unit lets its features through here. <b>Dark</b>: it holds them back. Do <em>not</em> conclude that a bright place
matters for the result: the features there may be weak, and later units may undo them.</p>"""
FILES = ("photo", "face", "maps", "atlas")  # to download; a model without attention has only the first two


@dataclass(frozen=True, eq=False)
class Shown:
    """What one visitor is looking at."""

    photo: Photo
    faces: list[Face]
    model: str
    mode: str
    whole: bool
    detector: str
    notes: list[str]
    file: str  # the restored photo
    index: int = 0
    chosen: RestoredFace | None = None
    token: str = field(default_factory=lambda: token_hex(8))  # of this restoration

    def at(self, index: int) -> "Shown":
        """Another face of the photo, restored once more, as its features are large."""
        restore, _ = restorer(self.model)
        face = restore.restore_face(self.photo.pixels(), self.faces[index], self.mode, features=True, whole=self.whole)
        return replace(self, index=index, chosen=face)


def build() -> tuple[gr.State, gr.State, gr.Button]:
    """Put the tab into the Blocks that are open; -> what is `Shown`, which of its faces, and the button to look inside.

    The button belongs to whoever has the other tab.
    """
    shown, chosen = gr.State(None, time_to_live=3600), gr.State(0)
    with gr.Row(elem_classes="bench"):
        with gr.Column(scale=4, min_width=320):
            model = model_input("model")
            photo, mode, whole = photo_inputs(model)
            run = gr.Button("Restore", variant="primary", elem_id="restore")
        with gr.Column(scale=8, min_width=320):
            status = gr.HTML(_ready(), elem_id="status", elem_classes="status")
            welcome = gr.HTML(WELCOME, elem_id="welcome")
            with gr.Row(visible=False) as result:
                with gr.Column(min_width=300, elem_id="face-column"):
                    slider = gr.ImageSlider(
                        label="Before | restored",
                        format="png",
                        type="numpy",
                        interactive=False,
                        buttons=["fullscreen"],
                        max_height=460,
                        elem_id="slider",
                    )
                with gr.Column(min_width=300):
                    faces = gr.HTML(None, html_template="", js_on_load=script("photo.js"), elem_id="faces")
            with gr.Row(visible=False, elem_id="downloads") as downloads:
                files = [
                    gr.DownloadButton(label, size="sm", elem_id=f"download-{name}", interactive=False)
                    for name, label in [
                        ("photo", "Restored photo"),
                        ("face", "Restored face"),
                        ("maps", "Maps (NPZ)"),
                        ("atlas", "Atlas (PNG)"),
                    ]
                ]
            gr.HTML(f"<p class='guess'>{GUESS}</p>")
    with gr.Column(visible=False, elem_id="atlas-section") as atlas:
        gr.HTML(ABOUT_MAPS, elem_classes="about")
        explorer = gr.HTML(None, html_template="", js_on_load=script("explorer.js"), elem_id="explorer")
        inside = gr.Button("Look inside: does it matter, is it real, what if?", elem_id="to-inside")

    _endpoints(photo, model, mode, whole)  # first, or the handlers below would take their names

    def view(told: str, now: Shown | None = None, pictures: dict | None = None) -> dict:
        """Every output at once, so that nothing of an earlier photo stays beside a later one."""
        found = now is not None
        before_after, maps = _face_views(now) if found else (None, None)
        return {
            status: told,
            shown: _without_features(now) if found else None,
            chosen: 0,
            welcome: gr.update(visible=not found),
            result: gr.update(visible=found),
            faces: pictures,
            slider: before_after,
            downloads: gr.update(visible=found),
            atlas: gr.update(visible=found),
            explorer: maps,
            **dict.fromkeys(files, NOT_YET),
        }

    choice = mode

    def restore(upload, model, mode, whole, progress=gr.Progress()):  # noqa: B008  Gradio looks for this default
        try:
            given = read_photo(upload)
        except Exception as error:  # told on the page; `sentence` logs what is not the visitor's mistake
            return view(_ready() + notice(sentence(error))) | {photo: None}
        try:
            pixels = given.pixels()
            settled, notes = settled_mode(model, mode)
            done, facts = timed_restoration(pixels, model, settled, whole, progress)
            facts["notes"] = list(dict.fromkeys([*given.notes, *facts["notes"], *notes]))
            if not done.faces:
                return view(_status(facts)) | {choice: settled}
            found = [face.face for face in done.faces]
            file = _photo_file(done.photo, given)
            now = Shown(given, found, model, settled, whole, done.detector, done.notes, file).at(0)
            pictures = photo_payload(pixels, done.photo, [face.box for face in found])
            return view(_status(facts), now, pictures) | {choice: settled}
        except Exception as error:  # the same
            return view(_ready() + notice(sentence(error)))

    def restore_if_given(upload, model, mode, whole, progress=gr.Progress()):  # noqa: B008
        return restore(upload, model, mode, whole, progress) if upload else gr.skip()

    def choose(now: Shown | None, event: gr.EventData):
        if now is None:
            raise UserError(EXPIRED)
        now = now.at(chosen_index(event, len(now.faces)))
        return _without_features(now), now.index, *_face_views(now), *[NOT_YET] * len(files)

    def write_files(now: Shown | None):
        if now is None:
            return [NOT_YET] * len(files)
        kinds = FILES if now.chosen.alphas else FILES[:2]
        paths = _files(now.chosen, now.index, now.photo, now.model, kinds[1:])
        ready = [gr.update(value=path, interactive=True) for path in (now.file, *paths)]
        return ready + [NOT_YET] * (len(files) - len(ready))

    inputs = [photo, model, mode, whole]
    outputs = [photo, mode, status, shown, chosen, welcome, result, faces, slider, downloads, atlas, explorer, *files]
    settings = {"api_visibility": "private", **QUICK}
    arrived = model.input(arrival, model, None, show_progress_on=status, **LOADING)
    changes = [event(restore_if_given, inputs, outputs, show_progress_on=status, **UNOPENED, **settings)
               for event in (photo.change, arrived.then, mode.input, whole.input)]  # fmt: skip
    asked = run.click(restore, inputs, outputs, show_progress_on=status, **UNOPENED, **settings)
    picked = faces.select(
        explained(choose), shown, [shown, chosen, slider, explorer, *files], show_progress_on=slider, **settings
    )
    for event in (*changes, asked, picked):
        event.then(explained(write_files), shown, files, show_progress="hidden", **settings)
    photo.clear(lambda: view(_ready()), None, outputs, show_progress="hidden", api_visibility="private")
    return shown, chosen, inside


def _endpoints(photo: gr.Image, model: gr.Dropdown, mode: gr.Radio, whole: gr.Checkbox) -> None:
    """/restore and /attention for programs; the parameters' names are those of the functions."""
    face = gr.Number(1, precision=0, minimum=1, label="Face, counted from 1", visible=False)
    facts = gr.JSON(visible=False, label="How it was done")
    picture, atlas, maps = (
        gr.File(visible=False, label=label) for label in ("Restored photo, PNG", "Atlas, PNG", "Maps, NPZ")
    )

    def restore(photo, model, mode, whole=False, progress=gr.Progress()):  # noqa: B008
        """Restore every face of a photo. Returns the photo as PNG, and model, device, seconds, detector, faces, notes.

        mode: "simulate" reduces each face to the size the model was trained on first; "as_is" does not. whole: the
        picture is already a face.
        """
        given = read_photo(photo)
        done, facts = timed_restoration(given.pixels(), model, mode, whole, progress)
        facts["notes"] = [*given.notes, *facts["notes"]]
        return _photo_file(done.photo, given), facts

    def attention(photo, model, mode, face=1, whole=False, progress=gr.Progress()):  # noqa: B008
        """Every attention map of one face. Returns the atlas as PNG and the raw maps as NPZ, unit -> (C,h,w) float32.

        face: which one, counted from 1, largest first. The rest is as in /restore.
        """
        given = read_photo(photo)
        done, _ = timed_restoration(given.pixels(), model, mode, whole, progress)
        index = face_index(face, len(done.faces), done.notes)
        if not done.faces[index].alphas:
            raise UserError(f"{model} has no attention maps. Choose another model.")
        return _files(done.faces[index], index, given, model, only=("atlas", "maps"))

    settings = {"api_visibility": "public", **QUICK, **UNOPENED}
    inputs = [photo, model, mode]
    gr.Button(visible=False).click(
        explained(restore), [*inputs, whole], [picture, facts], api_name="restore", **settings
    )
    gr.Button(visible=False).click(
        explained(attention), [*inputs, face, whole], [atlas, maps], api_name="attention", **settings
    )


def _face_views(now: Shown) -> tuple[dict, dict]:
    """The slider's update and the explorer's payload of the chosen face."""
    face, small = now.chosen, restorer(now.model)[0].model.config.degraded_size
    before = f"Bicubic from {small}x{small}" if now.mode == "simulate" else "As it was"
    slider = gr.update(value=(face.degraded, face.restored), label=f"{before} | restored")
    return slider, payload(face.degraded, face.restored, face.alphas, face.features)


def _without_features(now: Shown) -> Shown:
    """What is kept of it: features are large."""
    return replace(now, chosen=replace(now.chosen, features=None))


def _photo_file(restored: np.ndarray, photo: Photo) -> str:
    """The path of the restored photo to download, as transparent as the photo is."""
    return download(encode_png(restored, photo.decoded().alpha), f"{photo.name}-restored.png")


def _files(face: RestoredFace, index: int, photo: Photo, model: str, only: tuple[str, ...]) -> list[str]:
    """Paths of a face's files to download, in the order asked for."""
    name = f"{photo.name}-face-{index + 1}"
    write = {
        "face": lambda: download(encode_png(face.restored), f"{name}.png"),
        "maps": lambda: download(maps_npz(face.alphas), f"{name}-attention.npz"),
        "atlas": lambda: download(face_atlas(face, f"{model}, face {index + 1}"), f"{name}-atlas.png"),
    }
    return [write[kind]() for kind in only]


def _ready() -> str:
    return facts_line({"status": "ready", "model": first_model(), "device": device_name()})


def _status(facts: dict) -> str:
    return status_html(
        {
            "faces": str(len(facts["faces"])),
            "model": facts["model"],
            "device": facts["device"],
            "engine": facts["engine"],
            "time": f"{facts['seconds']:.1f} s",
            "detector": facts["detector"],
        },
        facts["notes"],
        found=bool(facts["faces"]),
    )
