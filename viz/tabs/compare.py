"""The second tab: one face of a photo as bicubic and several models show it, side by side.

photo, models, mode -> compare -> status, columns, photo with numbered faces -> choose -> the same of another face
                                  left, right -> slide, without the networks
"""

import html
import reprlib
from dataclasses import dataclass, replace

import gradio as gr

from sparnet.attention import colorize
from sparnet.errors import UserError
from sparnet.faces import Face
from sparnet.images import data_url, encode_png
from viz.compare import (
    ATTENTION,
    PROTOCOL,
    Column,
    OneFace,
    best,
    comparison_strip,
    restored_column,
    side_by_side,
)
from viz.explorer import photo_payload
from viz.tabs.models import LOADING, arrival, hub_hint, model_choices, models_here
from viz.tabs.pieces import EXPIRED, GUESS, NOT_YET, facts_line, notice, photo_inputs, script, status_html
from viz.tabs.serving import (
    QUICK,
    UNOPENED,
    Photo,
    check_settings,
    chosen_index,
    device_name,
    download,
    explained,
    face_index,
    find,
    read_photo,
    restorer,
    sentence,
)

MAX_MODELS = 6
WELCOME = """<div class="welcome"><ol>
<li><b>Give it a photo.</b> Every model restores the same face of it, from the same pixels.</li>
<li><b>Side by side.</b> Bicubic enlargement and each model at one size, with size, time and attention.</li>
<li><b>Between any two.</b> Choose a left and a right picture, and move the slider.</li>
</ol><p>Your photo is read on this server, kept for an hour at most, and never shared or used for training.</p></div>"""


@dataclass(frozen=True, eq=False)
class Compared:
    """What one visitor is looking at: one face of those found in a photo, by every model that was asked for."""

    photo: Photo
    faces: list[Face]
    models: list[str]
    mode: str
    whole: bool
    detector: str
    notes: list[str]  # of the search for faces
    index: int = 0  # the face that is shown
    columns: tuple[Column, ...] = ()
    model_notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The columns that have a picture."""
        return [column.name for column in self.columns if column.picture is not None]

    @property
    def title(self) -> str:
        done = "reduced to 16x16 pixels" if self.mode == "simulate" else "as it is"
        return f"Face {self.index + 1} of {len(self.faces)}, {done}"


def build() -> None:
    """Put the tab into the Blocks that are open."""
    shown = gr.State(None, time_to_live=3600)
    with gr.Row(elem_classes="bench"):
        with gr.Column(scale=4, min_width=320):
            models = gr.Dropdown(
                model_choices(),
                value=models_here()[:MAX_MODELS],
                label="Models",
                info=f"Up to {MAX_MODELS}" + (f"; or type {hub_hint()}" if hub_hint() else ""),
                multiselect=True,
                max_choices=MAX_MODELS,
                allow_custom_value=bool(hub_hint()),
                filterable=True,
                elem_id="compare-models",
                render=False,
            )
            photo, mode, whole = photo_inputs(models, "compare-")
            run = gr.Button("Compare", variant="primary", elem_id="compare")
        with gr.Column(scale=8, min_width=320):
            status = gr.HTML(_ready(), elem_id="compare-status", elem_classes="status")
            welcome = gr.HTML(WELCOME)
            columns = gr.HTML(visible=False, elem_id="columns")
            with gr.Row(visible=False) as result:
                with gr.Column(min_width=300):
                    with gr.Row():
                        left, right = (
                            gr.Dropdown([], label=label, min_width=120, filterable=False, elem_id=f"compare-{name}")
                            for name, label in (("left", "Left"), ("right", "Right"))
                        )
                    slider = gr.ImageSlider(
                        label="Left | right",
                        format="png",
                        type="numpy",
                        interactive=False,
                        buttons=["fullscreen"],
                        max_height=460,
                        elem_id="compare-slider",
                    )
                with gr.Column(min_width=300):
                    faces = gr.HTML(None, html_template="", js_on_load=script("photo.js"), elem_id="compare-faces")
                    strip = gr.DownloadButton("Side by side (PNG)", size="sm", elem_id="download-strip")
            gr.HTML(f"<p class='guess'>{GUESS}</p>")

    _endpoint(photo, models, mode, whole)

    def view(told: str, now: Compared | None = None, pair: tuple[str | None, str | None] = (None, None)) -> dict:
        """Every output at once, so that nothing of an earlier photo stays beside a later one."""
        found = bool(now and now.faces)
        return {
            status: told,
            shown: now if found else None,
            welcome: gr.update(visible=not found),
            columns: gr.update(value=_figures(now.columns) if found else "", visible=found),
            result: gr.update(visible=found),
            faces: photo_payload(now.photo.pixels(), None, [face.box for face in now.faces]) if found else None,
            **face_view(now if found else None, pair),
        }

    def face_view(now: Compared | None, pair: tuple[str | None, str | None]) -> dict:
        """What shows pictures of one face; the visitor's pair is kept where both are still there."""
        if now is None:
            return {left: gr.skip(), right: gr.skip(), slider: None, strip: NOT_YET}
        if not set(pair) <= set(now.names):
            pair = "Bicubic", best(now.columns)
        png = encode_png(comparison_strip(now.columns, now.title))
        return {
            **{side: gr.update(choices=now.names, value=name) for side, name in zip((left, right), pair, strict=True)},
            slider: _slide(now, *pair),
            strip: gr.update(value=download(png, _strip_name(now)), interactive=True),
        }

    def compare(upload, models, mode, whole, left, right, progress=gr.Progress()):  # noqa: B008  Gradio looks for it
        try:
            given = read_photo(upload)
        except Exception as error:  # told on the page; `sentence` logs what is not the visitor's mistake
            return view(_ready() + notice(sentence(error))) | {photo: None}
        try:
            now = _found(given, models, mode, whole, progress)
            if now.faces:
                now = _compared(now, 0, progress)
            return view(_status(now), now, (left, right))
        except Exception as error:  # the same
            return view(_ready() + notice(sentence(error)))

    def compare_if_given(upload, *rest, progress=gr.Progress()):  # noqa: B008
        return compare(upload, *rest, progress) if upload else gr.skip()

    def choose(now: Compared | None, left, right, event: gr.EventData, progress=gr.Progress()):  # noqa: B008
        if now is None:
            raise UserError(EXPIRED)
        now = _compared(now, chosen_index(event, len(now.faces)), progress)
        return {shown: now, status: _status(now), columns: _figures(now.columns), **face_view(now, (left, right))}

    def slide(now: Compared | None, left, right):
        if now is None:
            raise UserError(EXPIRED)
        return _slide(now, left, right)

    inputs = [photo, models, mode, whole, left, right]
    outputs = [photo, status, shown, welcome, columns, result, faces, left, right, slider, strip]
    settings = {"api_visibility": "private", **QUICK}
    models.input(arrival, models, None, **LOADING)
    for event in (photo.change, mode.input, whole.input):
        event(compare_if_given, inputs, outputs, show_progress_on=status, **UNOPENED, **settings)
    run.click(compare, inputs, outputs, show_progress_on=status, **UNOPENED, **settings)
    faces.select(
        explained(choose),
        [shown, left, right],
        [shown, status, columns, left, right, slider, strip],
        show_progress_on=columns,
        **settings,
    )
    for side in (left, right):
        side.input(explained(slide), [shown, left, right], slider, show_progress="hidden", api_visibility="private")
    photo.clear(lambda: view(_ready()), None, outputs, show_progress="hidden", api_visibility="private")


def _endpoint(photo: gr.Image, models: gr.Dropdown, mode: gr.Radio, whole: gr.Checkbox) -> None:
    """/compare for programs; the parameters' names are those of the function."""
    face = gr.Number(1, precision=0, minimum=1, label="Face, counted from 1", visible=False)
    strip, facts = gr.File(visible=False, label="Side by side, PNG"), gr.JSON(visible=False, label="How it was done")

    def compare(photo, models, mode, face=1, whole=False, progress=gr.Progress()):  # noqa: B008
        """One face by several models. Returns a labelled picture of them side by side as PNG, and facts a column.

        models: names or Hub ids. mode: "simulate" gives every model the same 16x16 pixels, and the original
        is the truth for psnr and ssim; "as_is" does not. face: counted from 1, largest first. A model that failed has
        its `error`. whole: the picture is already a face.
        """
        now = _found(read_photo(photo), models, mode, whole, progress)
        now = _compared(now, face_index(face, len(now.faces), now.notes), progress)
        failed = [column.error for column in now.columns if column.picture is None]
        if len(failed) == len(now.models):
            raise UserError(f"No model could restore the face. {failed[0]}")
        png = encode_png(comparison_strip(now.columns, now.title))
        return download(png, _strip_name(now)), {
            "device": device_name(),
            "mode": now.mode,
            "detector": now.detector,
            "face": [round(float(edge), 1) for edge in now.faces[now.index].box],
            "columns": [column.facts() for column in now.columns],
            "notes": [*now.notes, *now.model_notes],
        }

    gr.Button(visible=False).click(
        explained(compare),
        [photo, models, mode, face, whole],
        [strip, facts],
        api_name="compare",
        api_visibility="public",
        **QUICK,
        **UNOPENED,
    )


def _found(
    photo: Photo, models: list[str] | str | None, mode: str, whole: bool | None, progress: gr.Progress
) -> Compared:
    """The photo's faces, searched once for all models; nothing restored yet."""
    names = [models] if isinstance(models, str) else models or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{reprlib.repr(models)} is not a list of models' names. Give them as texts.")
    check_settings(None, mode, whole)
    names = list(dict.fromkeys(names))
    if not 1 <= len(names) <= MAX_MODELS:
        raise UserError(f"{len(names)} models are chosen. Choose 1 to {MAX_MODELS}.")
    progress(0, desc="Looking for faces")
    faces, detector, notes = find(photo.pixels(), whole)
    return Compared(photo, faces, names, mode, whole, detector, [*photo.notes, *notes])


def _compared(now: Compared, index: int, progress: gr.Progress) -> Compared:
    """The face restored by every model; one that fails has its message in its column, and the others go on."""
    one, restored, notes = OneFace(now.photo.pixels(), now.faces[index], now.mode, now.whole), [], []
    for i, name in enumerate(now.models):
        progress((i + 0.1) / len(now.models), desc=f"Restoring with {name}")
        try:
            restore, fell_back = restorer(name)
            restored.append(restored_column(name, restore, one))
            too_sharp = restore.too_sharp(one.pixels, index + 1) if now.mode == "as_is" else []
            notes += [f"{name}: {note}" for note in (*fell_back, *too_sharp)]
        except Exception as error:  # told in its column; `sentence` logs what is not the visitor's mistake
            restored.append(Column(name, error=sentence(error)))
    return replace(now, index=index, columns=tuple(side_by_side(one, restored)), model_notes=tuple(notes))


def _strip_name(now: Compared) -> str:
    return f"{now.photo.name}-face-{now.index + 1}-side-by-side.png"


def _slide(now: Compared, left: str, right: str) -> dict:
    pictures = {column.name: column.picture for column in now.columns if column.picture is not None}
    if not {left, right} <= set(pictures):
        raise UserError("There is no such picture. Choose two of those that are shown.")
    return gr.update(value=(pictures[left], pictures[right]), label=f"{left} | {right}")


def _figures(columns: tuple[Column, ...]) -> str:
    """The columns as HTML, with what their numbers and colours mean beneath."""
    notes = [PROTOCOL] * any(column.psnr is not None for column in columns)
    notes += [ATTENTION] * any(column.attention is not None for column in columns)
    return f"<div class='columns'>{''.join(map(_figure, columns))}</div>" + "".join(f"<p>{note}</p>" for note in notes)


def _figure(column: Column) -> str:
    name = html.escape(column.name)
    if column.picture is None:
        return f"<figure><h3>{name}</h3><div class='failed'>{html.escape(column.error)}</div></figure>"
    attention = ""
    if column.attention is not None:
        source = data_url(encode_png(colorize(column.attention)))
        attention = (
            f"<div><img class='attention' alt='Mean attention of {name}' src='{source}'>"
            f"<small>attention<br>mean {column.attention.mean():.2f}</small></div>"
        )
    lines = "".join(f"<small>{line}</small>" for line in column.lines())
    picture = data_url(encode_png(column.picture))
    return (
        f"<figure><h3>{name}</h3><img alt='The face by {name}' src='{picture}'>"
        f"<figcaption>{lines}{attention}</figcaption></figure>"
    )


def _ready() -> str:
    return facts_line({"status": "ready", "device": device_name()})


def _status(now: Compared) -> str:
    seconds = [column.seconds for column in now.columns if column.seconds is not None]
    return status_html(
        {
            "faces": str(len(now.faces)),
            "models": f"{len(seconds)} of {len(now.models)}",
            "device": device_name(),
            "time": f"{sum(seconds):.1f} s",
            "detector": now.detector,
        },
        [*now.notes, *now.model_notes],
        found=bool(now.faces),
    )
