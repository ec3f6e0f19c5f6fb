"""One instrument on the page: its question, what it needs to be told, its answer as linked maps, charts and files.

Piece (instruments.py) -> Panel -> widgets
Finding -> Panel.answer -> its meaning, linked maps (static/view.js), charts, files
"""

import gradio as gr
from plotly import graph_objects as go

from viz.finding import Finding
from viz.tabs.instruments import Piece
from viz.tabs.looking import saved
from viz.tabs.pieces import NOT_YET, script
from viz.views import View, all_tables, view_of

CHARTS = 2  # at most, of any instrument
KINDS = {"png": "Figure (PNG)", "pdf": "for print (PDF)", "json": "Numbers (JSON)", "npz": "Arrays (NPZ)"}


class Panel:
    """The widgets of a `Piece`; `outputs` is everything that an answer fills."""

    def __init__(self, piece: Piece, heading: bool = True):
        self.piece = piece
        name = piece.name
        if heading:
            gr.HTML(f"<h2>{piece.asks}</h2><p>{piece.about}</p>", elem_classes="about")
        with gr.Row(elem_classes="panel-controls"):
            self.controls = piece.controls()
            self.run = gr.Button("Measure", variant="primary", elem_id=f"run-{name}", visible=piece.slow, scale=0)
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

    @property
    def outputs(self) -> list:
        charts = [widget for chart in self.charts for widget in chart]
        return [self.told, self.view, *charts, self.row, *self.files.values(), self.done]

    def empty(self, told: str = "", view: View | None = None) -> dict:
        """Nothing measured of this face yet; `told` says what to do, `view` what can be marked."""
        return {
            self.told: told,
            self.view: None if view is None else _payload(view, self.piece.pick),
            **{column: gr.update(visible=False) for column, _, _ in self.charts},
            **{plot: None for _, _, plot in self.charts},
            self.row: gr.update(visible=False),
            **dict.fromkeys(self.files.values(), NOT_YET),
            self.done: None,
        }

    def answer(self, finding: Finding, provenance: dict, token: str) -> dict:
        """The finding on the page."""
        view = view_of(finding)
        made = {
            self.told: f"<p class='meaning'>{finding.meaning}</p>",
            self.view: _payload(view, self.piece.pick),
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
