"""One instrument on the page: its question, what it can be told, its answer as linked maps, charts and files.

Instrument -> Panel -> controls (controls.py) and widgets
another face -> renewed: nothing measured of it yet
face, values -> measure -> Finding -> its meaning, linked maps (static/view.js), charts
                                   -> files (static/files.js): of what is slow at once, else when they are asked for
"""

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

import gradio as gr
from gradio.components import Component
from plotly import graph_objects as go

from sparnet.attention import mean_map
from sparnet.errors import UserError
from viz.finding import Finding
from viz.instrument import Instrument, Setting
from viz.instruments import query
from viz.tabs.bench import Opened, current
from viz.tabs.controls import lane, option_control, saved, source_controls, study, telling
from viz.tabs.pieces import Widget, drawn, notice
from viz.tabs.serving import HIDDEN, PRIVATE, UNOPENED, UNQUEUED, event_value, sentence, shares
from viz.views import View, all_tables, pictures

CHARTS = 3  # at most, of any instrument
MEASURE = "<p class='hint'>Not measured of this face yet. Press Measure; it takes some seconds.</p>"
MARK = "<p class='hint'>Drag over a part of the restored face, or click on it.</p>"
KINDS = {"png": "Figure (PNG)", "pdf": "For print (PDF)", "json": "Numbers (JSON)", "npz": "Arrays (NPZ)"}


class Panel:
    """The widgets of an instrument; `outputs` is all that an answer fills, `renewable` what another face changes."""

    def __init__(self, instrument: Instrument, now: Opened | None = None, shown: bool = False):
        self.instrument = instrument
        self.controls: dict[str, Component] = {}
        self.run: gr.Button | None = None
        settings = instrument.settings
        one = (name for name, setting in settings.items() if setting.option.units and not setting.many)
        self.unit = next(one, None)  # the option that is one unit, which is chosen above all instruments
        with gr.Column(visible=shown, elem_id=f"panel-{instrument.name}", elem_classes="instrument") as self.column:
            gr.HTML(f"<h2>{instrument.title}</h2><p>{instrument.about}</p>", elem_classes="about")
            self._ask([] if now is None else list(now.face.alphas))
            self._answer(*("", None) if now is None else self._not_yet(now))
        self.asked = gr.State(None)  # (token, nonce): this face is to be measured, without a button
        self.done = gr.State(None)  # token of the face that was measured
        self.saved = gr.State(None)  # the files of that by kind, if they were written
        self.outputs: list[Widget] = [self.told, self.view, *self.charts, self.rest, self.files, self.done, self.saved]
        controls = self.controls.items()
        self.of_units = [control for name, control in controls if name in settings and settings[name].option.units]
        self.patch = [self.controls["patch"]] if instrument.pick else []  # the part that was marked

    def _ask(self, units: list[str]) -> None:
        """What the instrument can be told: in a line, and what few want to tell it; units: of the face's network."""
        own = [setting for setting in self.instrument.settings.values() if setting.name != self.unit]
        shown, folded = ([setting for setting in own if setting.option.shown is asked] for asked in (True, False))
        if self.instrument.slow or self.instrument.sources or shown:
            with gr.Row(elem_classes="panel-controls"):
                self.controls |= source_controls(self.instrument)
                self._add(shown, units)
                if self.instrument.slow:
                    self.run = gr.Button("Measure", variant="primary", elem_id=f"run-{self.instrument.name}", scale=0)
        if folded:
            with gr.Accordion("Options", open=False, elem_id=f"options-{self.instrument.name}"), gr.Row():
                self._add(folded, units)

    def _add(self, settings: Iterable[Setting], units: list[str]) -> None:
        self.controls |= {setting.name: option_control(self.instrument, setting, units) for setting in settings}

    def _answer(self, message: str, view: dict | None) -> None:
        name = self.instrument.name
        self.told = gr.HTML(message, elem_id=f"told-{name}", elem_classes="told")
        self.view = drawn(view, "maps.js", "view.js", elem_id=f"view-{name}")
        self.charts: list[Component] = []
        for i in range(CHARTS):
            with gr.Column(elem_classes="chart"):  # always there, and unseen while empty: a chart that comes with its
                caption, plot = gr.HTML(), gr.Plot(show_label=False, container=False, elem_id=f"chart-{name}-{i}")
            self.charts += [caption, plot]  # column is now and then lost
        with gr.Column(visible=False) as self.rest:
            self.files = drawn(None, "files.js", elem_id=f"files-{name}", elem_classes="files")

    @property
    def renewable(self) -> list[Widget]:
        return [self.told, self.view, *self.charts, self.rest, self.done, self.saved, *self.of_units, *self.patch]

    def wire(self, state: list[Component], look: Component) -> None:
        """Measure when asked. state: now and token of the bench; look: the unit that is chosen."""
        inputs = [*state, look, *self.controls.values()]
        work = {**UNOPENED, **lane(self.instrument)}
        settings: dict[str, Any] = {"show_progress_on": self.told, **PRIVATE, **work}
        if self.run is None:
            events = [self.asked.change(self.measure_once, [self.asked, self.done, *inputs], self.outputs,
                                        trigger_mode="always_last", **settings)]  # fmt: skip
            events += [
                control.input(  # pyright: ignore[reportAttributeAccessIssue]  Gradio gives it to each class, not the base
                    self.measure, inputs, self.outputs, trigger_mode="always_last", **settings
                )
                for control in self.controls.values()
            ]
        else:
            events = [self.run.click(self.measure, inputs, self.outputs, **settings)]
        if self.patch:
            events.append(self.view.select(self.mark, inputs, [*self.outputs, *self.patch], **settings))
        for event in events:
            event.then(self.drop_if_old, [state[1], self.done], self.outputs, **UNQUEUED)
        self.files.download(self.write, [self.saved, *inputs], [self.files, self.saved], trigger_mode="multiple",
                            **HIDDEN, **work)  # fmt: skip

    def renewed(self, now: Opened) -> dict:
        """Nothing measured of this face yet."""
        units = gr.update(choices=list(now.face.alphas), value=None)
        return self.empty(*self._not_yet(now)) | dict.fromkeys(self.of_units, units) | dict.fromkeys(self.patch)

    def _not_yet(self, now: Opened) -> tuple[str, dict | None]:
        """What to do, and the pictures that can be marked."""
        if self.instrument.pick:
            return MARK, self._payload(View(pictures({"degraded": now.face.degraded, "restored": now.face.restored})))
        return MEASURE if self.instrument.slow else "", None

    def measure(self, now, token, look, *values) -> Iterator[dict]:
        """What the instrument says of the face by the values of its controls, or why it says nothing; then files."""
        try:
            now = current(now, token)
            finding, settings = self.find(now, look, values)
            yield self.answer(finding, now.token)
            if self.instrument.slow:
                yield {self.saved: saved(finding, now.provenance(self.instrument.name, settings))}
        except Exception as error:  # told on the page; `sentence` logs what is not the visitor's mistake
            yield self.empty(notice(sentence(error)))

    def measure_once(self, asked, done, now, token, *given) -> Iterator[dict]:
        """The same, unless nobody asked."""
        if is_due(asked, done, token):
            yield from self.measure(now, token, *given)
        else:
            yield gr.skip()

    def mark(self, now, token, look, event: gr.EventData, *values) -> Iterator[dict]:
        """The same of a part that was marked on the face."""
        given = dict(zip(self.controls, values, strict=True))
        try:
            given["patch"] = pixels_of(event_value(event, "patch"), len(current(now, token).face.restored))
        except Exception as error:  # the same
            yield self.empty(notice(sentence(error)))
            return
        for made in self.measure(now, token, look, *given.values()):
            yield made | {self.controls["patch"]: given["patch"]}

    def write(self, paths, now, token, look, event: gr.EventData, *values) -> dict:
        """A file of the answer; what is quick is measured once more for each, as few keep what they look at."""
        kind = event_value(event, "kind")
        try:
            now = current(now, token)
            if not isinstance(kind, str) or kind not in KINDS:
                raise UserError("There is no such file. Choose one of those that are offered.")
            if paths is None and self.instrument.slow:
                raise UserError("The files are still being written. Try again in a moment.")
            paths = paths or {}
            if kind not in paths:
                finding, settings = self.find(now, look, values)
                paths = paths | saved(finding, now.provenance(self.instrument.name, settings), [kind])
            return {self.files: self._offer(kind=kind, url=f"gradio_api/file={paths[kind]}"), self.saved: paths}
        except Exception as error:  # the same
            return {self.files: self._offer(kind=kind, error=sentence(error))}

    def _offer(self, **made) -> dict:
        """What files.js shows."""
        return {"name": self.instrument.name, "kinds": KINDS, **made}

    def find(self, now: Opened, look: object, values: tuple) -> tuple[Finding, dict]:
        """The finding by what the controls say, and what they said."""
        given = dict(zip(self.controls, values, strict=True)) | (
            {self.unit: chosen_unit(look, now)} if self.unit else {}
        )
        return study(self.instrument, now, given, telling(gr.Progress()))

    def drop_if_old(self, token, done):
        """An answer about a face that is no longer looked at goes."""
        return gr.skip() if done in (None, token) else self.empty()

    def empty(self, message: str = "", view: dict | None = None) -> dict:
        """Nothing measured of this face yet; `message` says what to do, `view` has what can be marked."""
        return {
            self.told: message,
            self.view: view,
            **dict.fromkeys(self.charts),
            self.rest: gr.update(visible=False),
            self.done: None,
            self.saved: None,
        }

    def answer(self, finding: Finding, token: str) -> dict:
        """The finding on the page, its files to follow."""
        made = {
            self.told: f"<p class='meaning'>{finding.meaning}</p>",
            self.view: self._payload(finding.view),
            self.rest: gr.update(visible=True),
            self.files: self._offer(),
            self.done: token,
            self.saved: None,
        }
        charts = finding.view.charts.items()
        shown = (part for caption, chart in charts for part in (f"<p>{caption}</p>", _styled(chart)))
        return made | dict(zip_longest(self.charts, shown))

    def _payload(self, view: View) -> dict:
        return {"view": view.payload(self.instrument.pick), "tables": all_tables()}


def is_due(asked: tuple[str, str] | None, done: str | None, token: str) -> bool:
    """Whether this face was asked about and not answered: Gradio tells of a State's first value as of a change."""
    return asked is not None and asked[0] == token != done


def chosen_unit(look: object, now: Opened) -> str | None:
    """The unit that the visitor chose above all instruments, as the browser says; else that of the most contrast."""
    alphas = now.face.alphas
    unit = look.get("unit") if isinstance(look, dict) else None
    if unit in list(alphas):
        return unit
    return max(alphas, key=lambda name: float(mean_map(alphas[name]).std()), default=None)


def pixels_of(mark: object, size: int) -> list[int]:
    """left, top, right, bottom in shares of the face -> in pixels; a point becomes an eighth of the face about it.

    `UserError` unless the browser's mark is four numbers of 0 to 1.
    """
    refusal = "The mark is not on the face. Drag over a part of it."
    left, top, right, bottom = (round(share * size) for share in shares(mark, refusal))
    if right - left < 2 or bottom - top < 2:
        return list(query.patch_around((left + right) / 2, (top + bottom) / 2, size // 8, size))
    return [left, top, right, bottom]


def _styled(chart: go.Figure) -> go.Figure:
    """In colours that are read on white and on black."""
    axis = {"gridcolor": "rgba(128,136,132,.25)", "zerolinecolor": "rgba(128,136,132,.6)", "automargin": True}
    several = len(list(chart.select_traces())) > 1
    chart.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#7b8580", "family": "IBM Plex Sans, system-ui, sans-serif", "size": 12},
        margin={"l": 56, "r": 12, "t": 44 if several else 12, "b": 40},
        showlegend=several,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        height=chart.layout.height or 380,
    )
    chart.update_xaxes(**axis)
    chart.update_yaxes(**axis)
    return chart
