"""The first tab, where a photo comes in: its faces restored, before and after, and what the network looked at.

photo, or an example, and an intention -> opened -> Opened, the page's state
Opened -> photo with framed faces (static/photo.js) -> another face, left as it was, marked by hand, turned
       -> before and after (static/stage.js), attention maps (static/maps.js), files to download
"""

import html
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from sparnet.attention import face_atlas, maps_npz
from sparnet.errors import UserError
from sparnet.images import data_url, encode_png, preview, resize
from sparnet.restorer import cut_face, disclaimer
from viz.explorer import payload, strengths
from viz.tabs.bench import (
    Opened,
    badged,
    blended,
    current,
    examples,
    first,
    made_for_any_damage,
    model_for,
    opened,
)
from viz.tabs.models import arrival, hub_hint, models_here
from viz.tabs.pieces import GUESS, drawn, endpoint, notice
from viz.tabs.serving import (
    HIDDEN,
    LOADING,
    PRIVATE,
    QUICK,
    UNOPENED,
    UNQUEUED,
    check_settings,
    chosen_index,
    device_name,
    download,
    event_value,
    explained,
    read_photo,
    restorer,
    sentence,
    shares,
)

MODES = [
    ("Restore my photo\nFaces of any damage, as they are", "as_is"),
    ("Rebuild my photo from 16x16 pixels\nThe experiment that SPARNet was made for", "simulate"),
]
DONE = {"as_is": "restored as it is", "simulate": "rebuilt from 16x16 pixels"}
PRIVACY = "Deleted within an hour, never shared or trained on."
FILES = {"photo": "Restored photo", "face": "Restored face", "maps": "Maps (numbers)", "atlas": "Maps (picture)"}
PICTURES = ("photo", "face")  # the others are of attention, which not every model has
_PRESS = "() => setTimeout(() => document.querySelector('#download-file').click(), 50)"  # once the browser has the file
SIDE = 512  # pixels of a face on the page, where the photo has as many


class Tab:
    """The tab's widgets; `state` is the page's, `now` and `token`, which every other tab reads by `bench.current`."""

    def __init__(self):
        shown = first()
        pixels = shown.photo.pixels()
        self.now = gr.State(None, time_to_live=3600)
        self.token = gr.Textbox(shown.token, visible="hidden", elem_id="token")
        self.state: list[Component] = [self.now, self.token]
        self.sent = gr.State(None)  # the last photo that was given, as the browser names it
        self.strength = gr.State(1.0)
        self.remembered = gr.BrowserState({}, storage_key="sparnet", secret="sparnet")
        with gr.Row(elem_id="bench"):
            with gr.Column(elem_id="bench-photo", min_width=280):
                self.photo = gr.Image(
                    label="Photo",
                    show_label=False,
                    height=116,
                    placeholder="Drop a photo here",
                    webcam_options=gr.WebcamOptions(mirror=False),  # restored as others see the face
                    elem_id="photo-input",
                )
                gr.HTML(f"<p>{PRIVACY}</p>", elem_id="privacy")
                self.faces = drawn(_photo(shown, pixels), "photo.js", elem_id="faces")
                self.examples = gr.HTML(
                    _examples(), elem_id="examples", js_on_load="for (const button of "
                    "element.querySelectorAll('button')) button.onclick = () => trigger('select', {example: "
                    "button.dataset.example});",
                )  # fmt: skip
            with gr.Column(elem_id="bench-settings", min_width=280):
                mode, model = preference({})
                self.mode = gr.Radio(MODES, value=mode, label="With my photo", container=False, elem_id="mode")
                with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                    self.model = gr.Dropdown(
                        _model_choices(),
                        value=model,
                        label="Model",
                        info=f"Or type {hub_hint()}" if hub_hint() else None,
                        allow_custom_value=bool(hub_hint()),
                        elem_id="model",
                    )
                    self.whole = gr.Checkbox(
                        shown.whole, label="The picture is already a face: do not search", elem_id="whole"
                    )
                    self.badge = gr.Checkbox(label="Mark downloads as restored, visibly", elem_id="badge")
                gr.HTML(f"<p class='guess'>{GUESS}</p>")
            with gr.Column(elem_id="bench-stage", min_width=280):
                self.stage = drawn(_stage(shown, pixels), "stage.js", elem_id="stage")
                with gr.Row(elem_id="downloads"):
                    self.files = {
                        kind: gr.Button(label, size="sm", elem_id=f"download-{kind}") for kind, label in FILES.items()
                    }
                    self.file = gr.DownloadButton("File", visible="hidden", elem_id="download-file")
                self.status = gr.HTML(_status(shown), elem_id="status", elem_classes="status")
            with gr.Column(elem_id="bench-maps", min_width=280):
                scripts = ("maps.js", "kept.js", "beside.js")
                self.maps = drawn(_maps(shown), *scripts, elem_id="maps", features=None, unit=None)
                self.to_inside = gr.Button("Look inside: does it matter, is it real, what if?", elem_id="to-inside")
        # everything that another photo, face or setting changes
        self.outputs: list[Component] = [*self.state, self.faces, self.stage, self.maps, self.status]
        self.outputs += [self.mode, self.model, self.whole, *self.files.values()]
        _endpoints(self.photo, self.model, self.mode, self.whole)
        self._wire()

    def _wire(self) -> None:
        latest = {"trigger_mode": "always_last"}  # what is asked for while something is restored comes next
        shown: dict[str, Any] = {"show_progress_on": self.stage, **UNOPENED, **latest, **PRIVATE, **QUICK}
        settings = [*self.state, self.mode, self.model, self.whole]
        self.photo.change(_sent, self.photo, [self.sent, self.photo], show_progress="hidden", **UNOPENED, **LOADING)
        self.sent.change(explained(self.give, self.failed), [self.sent, self.mode, self.model], self.outputs, **shown)
        self.examples.select(explained(self.example, self.failed), None, self.outputs, **shown)
        arrived = self.model.input(arrival, self.model, None, show_progress_on=self.stage, **latest, **LOADING)
        again = explained(self.again, self.failed)
        self.mode.input(partial(again, intention=True), [*settings, self.remembered], self.outputs, **shown)
        for event in (arrived.then, self.whole.input):
            event(again, [*settings, self.remembered], self.outputs, **shown)
        for component in (self.faces, self.stage):
            component.select(explained(self.touch, self.failed), self.state, self.outputs, **shown)
        for event, chosen in ((self.mode.input, [self.mode]), (arrived.then, [self.mode, self.model])):
            event(_remember, [self.remembered, *chosen], self.remembered, **UNQUEUED)
        self.maps.select(self.measure_features, self.state, self.maps, **HIDDEN, **QUICK)
        self.stage.release(_strength, None, self.strength, **HIDDEN, **QUICK)
        given = [*self.state, self.strength, self.badge]
        for kind, button in self.files.items():
            waiting = partial(gr.update, value="Preparing…", interactive=False)
            ready = partial(gr.update, value=FILES[kind], interactive=True)
            waits = button.click(waiting, None, button, **UNQUEUED)
            made = waits.then(explained(partial(self.write_file, kind)), given, self.file, **HIDDEN, **QUICK)
            made.success(None, None, None, js=_PRESS, **HIDDEN)
            made.then(ready, None, button, **UNQUEUED)

    def view(self, now: Opened) -> dict:
        """Every output at once, so that nothing of an earlier photo stays beside a later one."""
        pixels = now.photo.pixels()  # once: a photo takes long to decode
        return {
            self.now: now,
            self.token: now.token,
            self.faces: _photo(now, pixels),
            self.stage: _stage(now, pixels),
            self.maps: _maps(now),
            self.status: _status(now),
            self.mode: now.mode,
            self.model: now.model,
            self.whole: now.whole,
            **{
                button: gr.update(interactive=any(now.restored) and (kind in PICTURES or bool(now.face.alphas)))
                for kind, button in self.files.items()
            },
        }

    def failed(self, message: str) -> dict:
        """What was there stays; the mistake is told."""
        return {self.status: notice(message)}

    def give(self, upload, mode, model, progress=gr.Progress()):  # noqa: B008  Gradio looks for this default
        """A new photo: nothing of the last one stays, neither its faces nor that it was one."""
        return self.view(opened(read_photo(upload), model, mode, False, progress))

    def example(self, event: gr.EventData, progress=gr.Progress()):  # noqa: B008
        return self.example_named(event_value(event, "example"), progress)

    def example_named(self, name: object, progress: gr.Progress) -> dict:
        example = examples().get(str(name))
        if example is None:
            raise UserError("There is no such example. Choose one of those that are shown.")
        if example is next(iter(examples().values())):
            now = first()
        else:
            now = opened(example.photo, model_for(example.mode), example.mode, example.whole, progress)
        return self.view(now) | {self.mode: gr.skip(), self.model: gr.skip()}  # they are for the visitor's photo

    def again(self, now, token, mode, model, whole, remembered, intention=False, progress=gr.Progress()):  # noqa: B008
        """The same photo and its faces with other settings; another intention chooses its model."""
        if now is None or now.token == token:
            now = current(now, token)
        else:
            whole = now.whole  # asked of the photo before
        check_settings(model, mode, whole)
        if intention:
            model = _preferred_model(remembered, mode)
        return self.view(opened(now.photo, model, mode, whole, progress, before=now))

    def touch(self, now, token, event: gr.EventData, progress=gr.Progress()):  # noqa: B008
        """What was done to a frame on the photo, or another face chosen."""
        now = current(now, token)
        index, toggle = event_value(event, "index"), event_value(event, "toggle")
        box, turn = event_value(event, "box"), event_value(event, "turn")
        if toggle is not None:
            now = now.toggled(chosen_index(toggle, len(now.faces)))
        elif box is not None:
            now = now.with_box(_pixels(box, now))
        elif turn in (1, 2, 3):
            turned = replace(now.photo, turns=(now.photo.turns + turn) % 4)
            now = opened(turned, now.model, now.mode, False, progress)
        else:
            now = now.at(chosen_index(index, len(now.faces)))
        return self.view(now)

    def measure_features(self, now, token):
        """How strong the features are that the maps gate, for which the network runs once more."""
        try:
            now = current(now, token)
            restore, _ = restorer(now.model)
            features = restore.trace(now.face.degraded, features=True).features or {}
            return gr.update(features=strengths({name: maps[0] for name, maps in features.items()}, token))
        except Exception as error:  # told in the component
            return gr.update(features={"token": token, "error": sentence(error)})

    def take(self, mode, model, event: gr.EventData, progress=gr.Progress()):  # noqa: B008
        """A moment of the live camera, given as a photo."""
        return self.give({"path": event_value(event, "path")}, mode, model, progress)

    def recall(self, remembered):
        """Intention and model as they were chosen in this browser."""
        if not remembered:
            return gr.skip()
        mode, model = preference(remembered)
        return {self.mode: mode, self.model: model}

    def write_file(self, kind: str, now, token, strength, badge) -> str:
        """The path of a file to download."""
        return _file(kind, current(now, token), strength, bool(badge))


def _sent(upload):
    """The photo goes on, and the place where it was dropped is free for the next."""
    return gr.skip() if upload is None else (upload, None)


def _examples() -> str:
    def button(name: str, example) -> str:
        pixels = example.photo.pixels()
        picture = pixels if example.whole else pixels[8:216, 120:328]
        blocks = " class='blocks'" if example.whole else ""
        return (
            f"<button type='button' data-example='{name}'><img{blocks} src='{data_url(encode_png(picture))}' "
            f"alt='{html.escape(example.alt)}'><span>{html.escape(example.label)}</span></button>"
        )

    buttons = "".join(button(name, example) for name, example in examples().items())
    return f"<div class='examples' role='group' aria-label='Examples'>{buttons}</div>"


def _model_choices() -> list[tuple[str, str]]:
    """(label, name) of the models here, each with what it is made for."""
    return [
        (f"{name}: {'faces of any damage' if made_for_any_damage(name) else '16x16 to 128x128'}", name)
        for name in models_here()
    ]


def preference(remembered: object) -> tuple[str, str]:
    """Intention and model that this browser chose last, where they still are to be had."""
    mode = remembered.get("mode") if isinstance(remembered, dict) else None
    mode = mode if mode in ("as_is", "simulate") else "as_is"
    return mode, _preferred_model(remembered, mode)


def _preferred_model(remembered: object, mode: str) -> str:
    models = remembered.get("models") if isinstance(remembered, dict) else None
    model = models.get(mode) if isinstance(models, dict) else None
    if model in models_here() and not (mode == "simulate" and made_for_any_damage(model)):
        return str(model)
    return model_for(mode)


def _remember(remembered: object, mode: object, model: object = None) -> dict:
    """What the browser is to keep: the intention, and for each the model, if that was chosen now."""
    models = remembered.get("models") if isinstance(remembered, dict) else None
    models = models if isinstance(models, dict) else {}
    if not isinstance(mode, str):
        return {}
    return {"mode": mode, "models": {**models, mode: model} if isinstance(model, str) else models}


def _strength(event: gr.EventData) -> float:
    value = event_value(event, "strength")
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else 1.0


def _pixels(box: object, now: Opened) -> tuple[float, float, float, float]:
    """left, top, right, bottom in shares of the photo, as the browser says, -> in its pixels."""
    left, top, right, bottom = shares(box, "The frame is not one. Drag over a face on the photo.")
    height, width = now.photo.pixels().shape[:2]
    if (right - left) * width < 8 or (bottom - top) * height < 8:
        raise UserError("The frame is too small. Drag over the whole face, from brow to chin.")
    return left * width, top * height, right * width, bottom * height


def _photo(now: Opened, pixels: np.ndarray) -> dict:
    """What photo.js shows."""
    height, width = pixels.shape[:2]
    boxes = [np.clip(face.box / [width, height, width, height], 0, 1).round(5).tolist() for face in now.faces]
    frames = [
        {"box": box, "on": face is not None and i not in now.left_out, "failed": face is None}
        for i, (box, face) in enumerate(zip(boxes, now.restored, strict=True))
    ]
    if (times := 200 // height) > 1:  # or a tiny one is hardly seen
        pixels = pixels.repeat(times, 0).repeat(times, 1)
    return {"photo": preview(pixels, 640), "faces": frames, "index": now.index, "lies": now.lies}


def _stage(now: Opened, pixels: np.ndarray) -> dict:
    """What stage.js shows."""
    shown = {
        "key": now.token,
        "of": f"{hash(now.photo.data):x}",  # another for another photo
        "names": {
            "Input": f"Input{', 16x16 pixels' * (now.mode == 'simulate')}",
            "Restored": f"Restored by {now.model}",
        },
        "before": "Input" if now.mode == "simulate" else "Original",
        "photo": {"Original": preview(pixels)}
        | ({"Restored": preview(now.picture(pixels=pixels))} if any(now.restored) else {}),
        "face": None,
        "index": now.index,
        "faces": [{"i": i, "on": i not in now.left_out} for i, face in enumerate(now.restored) if face],
        "alone": now.whole,
        "note": f"Example: {DONE[now.mode]}" if now.is_example else "",
    }
    if not any(now.restored):
        return shown
    face = now.face
    _, original = cut_face(pixels, now.faces[now.index], SIDE, now.whole)
    small = 16 if now.mode == "simulate" else len(face.degraded)
    return shown | {
        "face": {
            "Original": preview(original),
            "Input": data_url(encode_png(resize(face.degraded, small))),
            "Bicubic": preview(resize(face.degraded, len(original))),
            "Restored": preview(original) if now.index in now.left_out else data_url(encode_png(face.restored)),
        }
    }


def _maps(now: Opened) -> dict | None:
    if not any(now.restored):
        return None
    face = now.face
    return payload(face.degraded, face.restored, face.alphas, now.token)


def _file(kind: str, now: Opened, strength: float = 1.0, badge: bool = False) -> str:
    """The path of one of `FILES`."""
    face, name = now.face, f"{now.photo.name}-face-{now.index + 1}"
    if kind == "photo":
        return download(now.png(strength, badge), f"{now.photo.name}-restored.png")
    if kind == "maps":
        return download(maps_npz(face.alphas), f"{name}-attention.npz")
    if kind == "atlas":
        return download(face_atlas(face, f"{now.model}, face {now.index + 1}"), f"{name}-atlas.png")
    picture = blended(face.crop, face.restored, strength)
    picture = badged(picture, now.model) if badge else picture
    return download(encode_png(picture, description=disclaimer(now.model)), f"{name}.png")


def _status(now: Opened) -> str:
    """One line of facts, what the visitor must know, and the notes folded away."""
    count, done = len(now.faces), sum(face is not None for face in now.restored)
    found = f"{count or 'No'} face{'s' * (count != 1)} found by {now.detector}"
    facts = ["The whole picture is the face" if now.whole else found]
    if count:
        made = "rebuilt" if now.mode == "simulate" else "restored"
        some = f"{done} of them " * (done < count)
        facts += [f"{some}{made} by {now.model} in {now.seconds:.1f} s", f"{device_name()}, {now.engine}"]
    line = "<p class='facts'>" + " · ".join(map(html.escape, facts)) + "</p>"
    if not count:
        why = (
            f"{now.notes[-1]} To take the whole picture as one, open Advanced and tick “The picture is already a face”."
        )
        return notice(why) + line
    warnings = [note for note in now.notes if "was not restored" in note]
    if now.mode == "as_is" and not made_for_any_damage(now.model):
        warnings.insert(
            0,
            f"{now.model} was made to enlarge faces of 16x16 pixels; faces that are sharper than that it distorts. "
            f"{model_for('as_is')} takes faces of any damage.",
        )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in now.notes)
    line += f"<details><summary>Notes</summary><ul>{notes}</ul></details>"
    return notice(" ".join(warnings)) + line if warnings else line


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
        now = opened(read_photo(photo), model, mode, whole, progress)
        return download(now.png(), f"{now.photo.name}-restored.png"), now.facts()

    def attention(photo, model, mode, face=1, whole=False, progress=gr.Progress()):  # noqa: B008
        """Every attention map of one face. Returns the atlas as PNG and the raw maps as NPZ, unit -> (C,h,w) float32.

        face: which one, counted from 1, largest first. The rest is as in /restore.
        """
        now = opened(read_photo(photo), model, mode, whole, progress, face)
        if not now.face.alphas:
            raise UserError(f"{model} has no attention maps. Choose another model.")
        return _file("atlas", now), _file("maps", now)

    endpoint("restore", restore, [photo, model, mode, whole], [picture, facts], QUICK)
    endpoint("attention", attention, [photo, model, mode, face, whole], [atlas, maps], QUICK)
