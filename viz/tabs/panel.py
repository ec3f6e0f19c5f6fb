"""One instrument on the page: its question, what it needs to be told, its answer as linked maps, charts and files.

Instrument -> Panel -> controls (controls.py) and widgets
Finding -> Panel.answer -> its meaning, linked maps (static/view.js), charts, files
"""

from collections.abc import Iterable

import gradio as gr
from plotly import graph_objects as go

from viz.finding import Finding
from viz.instrument import Instrument, Setting
from viz.tabs.controls import option_control, saved, source_controls
from viz.tabs.pieces import NOT_YET, script
from viz.views import View, all_tables

CHARTS = 2  # at most, of any instrument
KINDS = {"png": "Figure (PNG)", "pdf": "for print (PDF)", "json": "Numbers (JSON)", "npz": "Arrays (NPZ)"}


class Panel:
    """The widgets of an instrument; `outputs` is everything that an answer fills."""

    def __init__(self, instrument: Instrument, alone: bool = True):
        """alone: with its heading and its controls, for nothing else on the page gives it what it needs."""
        self.instrument = instrument
        name, settings = instrument.name, instrument.settings.values()
        self.controls: dict[str, gr.components.Component] = {}
        if alone:
            gr.HTML(f"<h2>{instrument.title}</h2><p>{instrument.about}</p>", elem_classes="about")
            with gr.Row(elem_classes="panel-controls"):
                self.controls |= source_controls(instrument)
                self._add(setting for setting in settings if setting.option.shown)
                asked = instrument.slow or bool(settings)
                self.run = gr.Button("Measure", variant="primary", elem_id=f"run-{name}", visible=asked, scale=0)
            if folded := [setting for setting in settings if not setting.option.shown]:
                with gr.Accordion("Options", open=False, elem_id=f"options-{name}"), gr.Row():
                    self._add(folded)
        self.told = gr.HTML(elem_id=f"told-{name}", elem_classes="told")
        self.view = gr.HTML(
            None, html_template="", js_on_load=script("maps.js") + script("view.js"), elem_id=f"view-{name}"
        )
        self.charts = []
        for i in range(CHARTS):
            with gr.Column(visible=False, elem_classes="chart") as column:
                caption, plot = gr.HTML(), gr.Plot(show_label=False, container=False, elem_id=f"chart-{name}-{i}")
            self.charts.append((column, caption, plot))
        with gr.Row(visible=False, elem_classes="files") as self.row:
            self.files = {
                kind: gr.DownloadButton(label, size="sm", elem_id=f"{kind}-{name}") for kind, label in KINDS.items()
            }
        self.done = gr.State(None)  # the token of what was last answered

    def _add(self, settings: Iterable[Setting]) -> None:
        self.controls |= {setting.name: option_control(self.instrument, setting) for setting in settings}

    @property
    def of_units(self) -> list[gr.components.Component]:
        """The controls that offer the units of the face's network."""
        return [self.controls[name] for name, one in self.instrument.settings.items() if one.option.units]

    @property
    def patch(self) -> gr.components.Component | None:
        """The part that was marked, of an instrument that asks about one."""
        return self.controls["patch"] if self.instrument.pick else None

    @property
    def outputs(self) -> list:
        charts = [widget for chart in self.charts for widget in chart]
        return [self.told, self.view, *charts, self.row, *self.files.values(), self.done]

    def empty(self, told: str = "", view: View | None = None) -> dict:
        """Nothing measured of this face yet; `told` says what to do, `view` what can be marked."""
        return {
            self.told: told,
            self.view: None if view is None else _payload(view, self.instrument.pick),
            **{column: gr.update(visible=False) for column, _, _ in self.charts},
            **{plot: None for _, _, plot in self.charts},
            self.row: gr.update(visible=False),
            **dict.fromkeys(self.files.values(), NOT_YET),
            self.done: None,
        }

    def answer(self, finding: Finding, provenance: dict, token: str) -> dict:
        """The finding on the page."""
        view = self.instrument.view(finding)
        made = {
            self.told: f"<p class='meaning'>{finding.meaning}</p>",
            self.view: _payload(view, self.instrument.pick),
            self.row: gr.update(visible=True),
            self.done: token,
        }
        charts = list(view.charts.items())
        for i, (column, caption, plot) in enumerate(self.charts):
            there = i < len(charts)
            made[column] = gr.update(visible=there)
            made[caption] = f"<p>{charts[i][0]}</p>" if there else ""
            made[plot] = _styled(charts[i][1]) if there else None
        paths = saved(finding, provenance)
        for kind, button in self.files.items():
            made[button] = gr.update(value=paths[kind], interactive=True)
        return made


def _payload(view: View, pick: str | None) -> dict:
    return {"view": view.payload(pick), "tables": all_tables()}


def _styled(chart: go.Figure) -> go.Figure:
    """In colours that are read on white and on black."""
    axis = {"gridcolor": "rgba(128,136,132,.25)", "zerolinecolor": "rgba(128,136,132,.6)", "automargin": True}
    several = len(chart.data) > 1
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
