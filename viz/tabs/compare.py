"""The tab where one face stands as several models show it, side by side.

the page's face, models -> a column each, once a face -> static/compare.js: slider between any two, scores, maps
                                                      -> all of them as a PNG
"""

import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from sparnet.errors import UserError
from sparnet.images import data_url, encode_png
from sparnet.restorer import disclaimer
from viz.compare import (
    PROTOCOL,
    Column,
    OneFace,
    comparison_strip,
    counterpart,
    highest_alpha,
    most_contrast,
    reference,
    restored_column,
    side_by_side,
)
from viz.explorer import color_tables
from viz.tabs import serving
from viz.tabs.bench import Opened, current
from viz.tabs.models import arrival, hub_hint, models_here
from viz.tabs.pieces import NOT_YET, drawn, endpoint
from viz.tabs.restore import Tab as Bench
from viz.views import SERIES, Panel

MAX_MODELS = len(SERIES)  # a colour each
EMPTY = f"() => [null, {json.dumps(NOT_YET)}]"  # view and strip
_NO_TRUTH = "Nothing is scored: no sharper picture of the face is known. Judge by eye."


@dataclass(frozen=True, eq=False)
class Compared:
    """What was computed of a visitor's face."""

    token: str
    columns: dict[str, Column] = field(default_factory=dict)  # by model


class Tab:
    """The tab's widgets. Its columns are asked for by the page, when they are in sight and not of the face that is."""

    def __init__(self, bench: Bench):
        self.bench, self.done = bench, gr.State(None, time_to_live=3600)
        with gr.Row(elem_id="compare-settings"):
            self.models = gr.Dropdown(
                models_here(),
                value=models_here()[:MAX_MODELS],
                label=f"Models, up to {MAX_MODELS}",
                info=f"Or type {hub_hint()}" if hub_hint() else None,
                multiselect=True,
                max_choices=MAX_MODELS,
                allow_custom_value=bool(hub_hint()),
                elem_id="compare-models",
            )
            self.strip = gr.DownloadButton("Side by side (PNG)", size="sm", interactive=False, elem_id="download-strip")
        self.view = drawn(None, "maps.js", "compare.js", elem_id="compare-view")
        _endpoint(bench)
        inputs = [*bench.state, self.models, self.done]
        outputs = [self.view, self.done, self.strip]
        settings: dict[str, Any] = {"trigger_mode": "always_last", **serving.HIDDEN, **serving.QUICK}
        self.view.submit(self.compare, inputs, outputs, **settings)
        self.models.input(arrival, self.models, None, **serving.LOADING).then(self.compare, inputs, outputs, **settings)
        # in the browser: an answer of the server could come after the new face's first columns
        bench.token.change(None, None, [self.view, self.strip], js=EMPTY, **serving.HIDDEN)
        bench.token.change(self.forget, [bench.token, self.done], self.done, **serving.HIDDEN)

    def forget(self, token, done: Compared | None):
        """What was kept of another face goes."""
        return None if done and done.token != token else gr.skip()

    def compare(self, now, token, models, done: Compared | None) -> Iterator[dict]:
        """A column after the other; those that are known of this face are not computed again."""
        try:
            now = current(now, token)
            now.face  # noqa: B018  there has to be one
            names, face = _names(models), OneFace(now.photo.pixels(), now.faces[now.index], now.mode, now.whole)
            known = done.columns if done and done.token == now.token else {}
            restored, columns = [], []
            for restored, notes in _restored(face, names, known):
                columns = side_by_side(face, restored)
                yield {self.view: _payload(now, columns, names[len(restored) :], notes)}
            title = f"Face {now.index + 1} of {len(now.faces)}"
            kept = {column.name: column for column in restored if column.picture is not None}
            yield {
                self.done: Compared(now.token, kept),
                self.strip: gr.update(value=_strip(face, columns, title, now.photo.name, now.model), interactive=True),
            }
        except Exception as error:  # told on the page; `sentence` logs what is not the visitor's mistake
            yield {self.view: {"token": token, "error": serving.sentence(error)}, self.strip: NOT_YET}


def _endpoint(bench: Bench) -> None:
    """/compare for programs; the parameters' names are those of the function."""
    face = gr.Number(1, precision=0, minimum=1, label="Face, counted from 1", visible=False)
    models = gr.Dropdown(models_here(), multiselect=True, allow_custom_value=True, label="Models", visible=False)
    strip, facts = gr.File(visible=False, label="Side by side, PNG"), gr.JSON(visible=False, label="How it was done")

    def compare(photo, models, mode, face=1, whole=False, progress=gr.Progress()):  # noqa: B008
        """One face by several models. Returns a labelled picture of them side by side as PNG, and facts a column.

        models: names or Hub ids. Each is given what it is made for, and its `given` and `reduced_to` say what: a model
        that enlarges has the face reduced to its 16x16 pixels, a model for faces of any damage takes it as it is. mode:
        "simulate" takes the face in the photo for the truth and scores what was made of the reduced one by psnr and
        ssim; "as_is" scores nothing and reduces only where the photo has the face much larger than that. face: counted
        from 1, largest first. A model that failed has its `error`. whole: the picture is already a face.
        """
        photo, names = serving.read_photo(photo), _names(models)
        serving.check_settings(None, mode, whole)
        pixels = photo.pixels()
        progress(0, desc="Looking for faces")
        faces, detector, notes = serving.find(pixels, bool(whole))
        index = serving.face_index(face, len(faces), notes)
        one = OneFace(pixels, faces[index], mode, bool(whole))
        progress(0.2, desc="Restoring")
        *_, (restored, fell_back) = _restored(one, names, {})
        failed = [column.error for column in restored if column.picture is None]
        if len(failed) == len(names):
            raise UserError(f"No model could restore the face. {failed[0]}")
        columns = side_by_side(one, restored)
        return _strip(one, columns, f"Face {index + 1} of {len(faces)}", photo.name), {
            "device": serving.device_name(),
            "mode": mode,
            "detector": detector,
            "face": [round(float(edge), 1) for edge in faces[index].box],
            "columns": [column.facts() for column in columns],
            "notes": [*photo.notes, *notes, *fell_back],
        }

    endpoint("compare", compare, [bench.photo, models, bench.mode, face, bench.whole], [strip, facts], serving.QUICK)


def _names(models: object) -> list[str]:
    """The models to compare, each once; `UserError` unless they are 1 to `MAX_MODELS` texts."""
    names = [models] if isinstance(models, str) else models or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{reprlib.repr(models)} is not a list of models' names. Give them as texts.")
    names = list(dict.fromkeys(names))
    if not 1 <= len(names) <= MAX_MODELS:
        raise UserError(f"{len(names)} models are chosen. Choose 1 to {MAX_MODELS}.")
    return names


def _restored(face: OneFace, names: list[str], known: dict[str, Column]) -> Iterator[tuple[list[Column], list[str]]]:
    """No column, then one more at a time, with what fell back; a model that fails has its message in its column.

    A known model keeps its column and colour.
    """
    free = [color for color in SERIES if color not in {known[name].color for name in names if name in known}]
    columns, notes = [], []
    yield columns, notes
    for name in names:
        if name in known:
            column = known[name]
        else:
            color = free.pop(0)
            try:
                restore, fell_back = serving.restorer(name)
                notes += [f"{name}: {note}" for note in fell_back]
                column = restored_column(name, restore, face, color)
            except Exception as error:  # told in its column; `sentence` logs what is not the visitor's mistake
                column = Column(name, color, error=serving.sentence(error))
        columns.append(column)
        yield columns, notes


def _strip(face: OneFace, columns: list[Column], title: str, photo: str, model: str | None = None) -> str:
    """The path of the columns as a PNG, which says that they are guesses; `model`: see `comparison_strip`."""
    done = "reduced to 16x16 pixels" if face.mode == "simulate" else "as it is"
    models = ", ".join(column.name for column in columns if column.seconds is not None)
    png = encode_png(comparison_strip(columns, f"{title}, {done}", model), description=disclaimer(models))
    return serving.download(png, f"{photo}-{title.partition(' of ')[0].lower().replace(' ', '-')}-side-by-side.png")


def _payload(now: Opened, columns: list[Column], waiting: list[str], notes: list[str]) -> dict:
    """What static/compare.js shows; every map on one scale, from 0 to the highest value of all."""
    source, names = reference(columns, now.model), [column.name for column in columns]
    units, highest = list(source.maps) if source else [], highest_alpha(columns)
    scored = any(column.psnr is not None for column in columns)
    return {
        "token": now.token,
        "columns": [_shown(column, units, highest) for column in columns],
        "waiting": waiting,
        "pair": ["Bicubic" if "Bicubic" in names else "Original", now.model],
        "units": units,
        "chosen": most_contrast(source.maps) if source else [],
        "of": source.name if source else None,
        "highest": highest,
        "tables": color_tables(("viridis",)),
        "protocol": PROTOCOL if scored else _NO_TRUTH,
        "notes": notes,
    }


def _shown(column: Column, units: list[str], highest: float) -> dict:
    owns = {unit: counterpart(unit, units, list(column.maps)) for unit in units}
    return {
        "name": column.name,
        "color": column.color,
        "picture": None if column.picture is None else data_url(encode_png(column.picture)),
        "lines": column.lines(),
        "psnr": None if column.identical else column.psnr,
        "ssim": column.ssim,
        "identical": column.identical,
        "error": column.error,
        "units": owns,
        "maps": {own: Panel(own, column.maps[own], (0, highest)).payload() for own in set(owns.values()) if own},
    }
