"""What a finding shows, described once and drawn twice: for print by Matplotlib, for the page by maps.js and Plotly.

Panel, a map or a picture -------------+-> View -> figures.sheet (Matplotlib)
Bars, Lines, Matrix: a chart of values -+       -> payload -> static/maps.js; charts -> Plotly
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy import ndarray
from plotly import graph_objects as go

from sparnet.attention import COLORMAPS, color_table
from sparnet.images import data_url, encode_png
from sparnet.metrics import Estimate, ends
from sparnet.text import for_figure, for_html
from viz.explorer import color_tables, encoded

# Okabe and Ito 2008: apart for every kind of colour vision
BLUE, ORANGE, GREEN, PINK, RED, SKY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"
SERIES = (BLUE, ORANGE, GREEN, PINK, RED, SKY)
WIDTH = 10.0  # of a figure, in inches
_CELLS = 128  # a side of a map in the page; the NPZ has every cell
DIVERGING = "PuOr_r"  # of differences: 0 in the middle
_DASHES = {"solid": "-", "dash": "--", "dot": ":"}  # of Plotly and of Matplotlib

Values = Sequence[float | Estimate | None] | ndarray
"""A number or an Estimate each; nothing is drawn for None and NaN."""


@dataclass(frozen=True, eq=False)
class Panel:
    """A map (h,w), drawn in colours of `scale`, or a picture (S,S,3) uint8; no pixel is smoothed."""

    name: str
    values: ndarray
    scale: tuple[float, float] = (0, 1)
    colors: str = "viridis"

    @property
    def key(self) -> tuple | None:
        return None if self.values.ndim == 3 else (self.colors, *self.scale)

    def draw(self, axes: Axes) -> AxesImage:
        low, high = self.scale
        return axes.imshow(self.values, cmap=self.colors, vmin=low, vmax=high, interpolation="nearest")

    def payload(self) -> dict:
        """A picture as PNG; a map as `encoded`, averaged to 128 cells a side where it has more."""
        if self.values.ndim == 3:
            return {"name": self.name, "image": data_url(encode_png(self.values))}
        values = self.values
        if len(values) > _CELLS:
            values = cv2.resize(values.astype(np.float32), (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
        scale = [float(end) for end in self.scale]
        return {"name": self.name, **encoded(values), "scale": scale, "colors": self.colors}


def pictures(arrays: Mapping[str, ndarray]) -> list[Panel]:
    """Those of the face that are among the arrays; the degraded one is the network's input."""
    names = {"degraded": "input", "restored": "restored", "sharp": "sharp"}
    return [Panel(shown, arrays[name]) for name, shown in names.items() if name in arrays]


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars side by side or stacked, one of each series for each name, a line over each from low to high."""

    names: Iterable[str]
    series: Mapping[str, Values]
    unit: str
    at: Mapping[float, str] = field(default_factory=dict)  # values to compare with, and what they are
    ends: tuple[float, float] | None = None  # of the axis
    stacked: bool = False

    key, size = None, (WIDTH - 0.6, 1.5)

    @property
    def room(self) -> tuple[float, float, float]:
        return 0.6, _legend_room(self.series), 0.6

    def draw(self, axes: Axes) -> None:
        places, base = np.arange(len(list(self.names))), 0.0
        width = 0.8 if self.stacked else 0.8 / len(self.series)
        for i, (label, values) in enumerate(self.series.items()):
            mean, low, high = ends(values)
            x = places + (0 if self.stacked else (i - (len(self.series) - 1) / 2) * width)
            axes.bar(x, mean, width * 0.95, bottom=base, color=SERIES[i], label=for_figure(label))
            axes.vlines(x, low, high, color="0.2", linewidth=0.8)
            base = base + mean if self.stacked else 0.0
        axes.axhline(0, color="0.3", linewidth=0.8)
        for value, what in self.at.items():
            axes.axhline(value, color="0.3", linewidth=0.8, linestyle=":")
            axes.text(len(places) - 0.5, value, what, fontsize=6, ha="right", va="bottom", color="0.3")
        axes.set_xticks(
            places, [for_figure(name) for name in self.names], rotation=45, ha="right", rotation_mode="anchor"
        )
        axes.set(xlim=(-0.5, len(places) - 0.5), ylim=self.ends)
        axes.set_ylabel(self.unit, fontsize=7)
        _legend(axes, self.series)

    def plotly(self) -> go.Figure:
        parts = []
        for (label, values), color in zip(self.series.items(), SERIES, strict=False):
            mean, low, high = ends(values)
            error = None
            if np.isfinite(low).any():
                error = {"array": _known(high - mean), "arrayminus": _known(mean - low), "thickness": 1}
            names = [for_html(name) for name in self.names]
            parts.append(go.Bar(x=names, y=_known(mean), name=for_html(label), marker_color=color, error_y=error))
        layout = {"barmode": "stack" if self.stacked else "group", "yaxis": {"title": self.unit, "range": self.ends}}
        chart = go.Figure(parts, layout)
        for value, what in self.at.items():
            chart.add_hline(value, line_dash="dot", line_width=1, annotation_text=what)
        return chart


@dataclass(frozen=True, eq=False)
class Lines:
    """A curve of each series; those after the first `colors` have the same colours again, dashed."""

    x: Sequence[float] | Sequence[str]
    series: Mapping[str, Values]
    over: str  # what x is
    unit: str
    colors: int = len(SERIES)

    key, size = None, (WIDTH - 0.6, 2.0)

    @property
    def room(self) -> tuple[float, float, float]:
        return 0.6, _legend_room(self.series), 0.4

    def draw(self, axes: Axes) -> None:
        x = [for_figure(value) if isinstance(value, str) else value for value in self.x]
        for (label, values), (color, dash) in zip(self.series.items(), self._styles(), strict=False):
            axes.plot(x, ends(values)[0], color=color, linestyle=_DASHES[dash], label=for_figure(label))
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.set_xlabel(self.over, fontsize=7)
        axes.set_ylabel(self.unit, fontsize=7)
        _legend(axes, self.series)

    def plotly(self) -> go.Figure:
        x = [for_html(value) if isinstance(value, str) else float(value) for value in self.x]
        parts = [
            go.Scatter(x=x, y=_known(ends(values)[0]), name=for_html(label), line={"color": color, "dash": dash})
            for (label, values), (color, dash) in zip(self.series.items(), self._styles(), strict=False)
        ]
        return go.Figure(parts, {"xaxis": {"title": self.over}, "yaxis": {"title": self.unit, "rangemode": "tozero"}})

    def _styles(self) -> list[tuple[str, str]]:
        return [(color, dash) for dash in _DASHES for color in SERIES[: self.colors]]


@dataclass(frozen=True, eq=False)
class Matrix:
    """Values (rows,columns) in colours from end to end, None being the lowest or highest, with words in the cells."""

    values: ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    colors: str = "viridis"
    ends: tuple[float | None, float | None] = (0, 1)
    text: ndarray | None = None  # (rows,columns) str, such as `numerals`; None: a colour bar instead
    marks: Sequence[str] = ()  # colours before the columns' names, a key to a picture

    @property
    def key(self) -> str | None:
        return self.colors if self.text is None else None

    @property
    def size(self) -> tuple[float, float]:
        lines = 0 if self.text is None else 1 + max(str(words).count("\n") for words in self.text.flat)
        w, h = ((0.23, 0.21), (0.45, 0.24), (0.72, 0.4))[lines]
        return w * len(self.columns), h * len(self.rows)

    @property
    def room(self) -> tuple[float, float, float]:
        return 0.1 + 0.065 * max(map(len, self.rows)), 0.05, 0.1 + 0.055 * max(map(len, self.columns))

    def draw(self, axes: Axes) -> AxesImage:
        low, high = self.ends
        image = axes.imshow(self.values, cmap=self.colors, vmin=low, vmax=high, aspect="auto")
        axes.set_facecolor("0.8")  # behind the cells that have no value
        if self.text is not None:
            for (i, j), words in np.ndenumerate(self.text):
                dark = np.dot(image.to_rgba(self.values[i, j])[:3], (0.299, 0.587, 0.114)) < 0.5
                axes.text(j, i, words, ha="center", va="center", fontsize=7, color="white" if dark else "black")
        names = [for_figure(name) for name in self.columns]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(self.rows)), [for_figure(name) for name in self.rows])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for j, color in enumerate(self.marks):
            axes.plot([j - 0.4, j + 0.4], [-0.57, -0.57], color=color, linewidth=4, clip_on=False)
        axes.set(xlim=(-0.5, len(self.columns) - 0.5), ylim=(len(self.rows) - 0.5, -0.5))
        return image

    def plotly(self) -> go.Figure:
        names = [for_html(name) for name in self.columns]
        if self.marks:
            names = [f'<span style="color:{c}">\u25a0</span> {name}' for c, name in zip(self.marks, names, strict=True)]
        text = numerals(self.values) if self.text is None else self.text
        table = color_table(self.colors)[::17].tolist()
        heat = go.Heatmap(
            z=[_known(row) for row in self.values],
            x=names,
            y=[for_html(name) for name in self.rows],
            text=[[str(words).replace("\n", "<br>") for words in row] for row in text],
            texttemplate=None if self.text is None else "%{text}",
            hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
            zmin=self.ends[0],
            zmax=self.ends[1],
            colorscale=[[i / (len(table) - 1), f"rgb({r},{g},{b})"] for i, (r, g, b) in enumerate(table)],
            showscale=self.text is None,
        )
        return go.Figure(heat, {"yaxis": {"autorange": "reversed"}, "height": 110 + 30 * len(self.rows)})


Diagram = Bars | Lines | Matrix


def numerals(values: ndarray, digits: int = 2) -> ndarray:
    """Values -> their text, of the same shape; "none" of NaN."""
    return np.vectorize(lambda value: "none" if np.isnan(value) else f"{value:.{digits}f}", otypes=[str])(values)


@dataclass(frozen=True)
class View:
    """What can be touched of a finding: pictures and maps on one frame, and charts."""

    pictures: list[Panel] = field(default_factory=list)  # always there
    groups: dict[str, list[Panel]] = field(default_factory=dict)  # one at a time, by their names
    diagrams: Mapping[str, Diagram] = field(default_factory=dict)  # by their captions
    shown: str | None = None  # the group to begin with; None: the first
    ordered: bool = False  # whether the groups follow each other, as states of a training do: then a slider chooses

    def payload(self, pick: str | None = None) -> dict:
        """Pictures and groups for static/maps.js; pick: the picture on which a part can be marked."""
        return {
            "pictures": [panel.payload() for panel in self.pictures],
            "groups": {name: [panel.payload() for panel in panels] for name, panels in self.groups.items()},
            "shown": self.shown or next(iter(self.groups), None),
            "ordered": self.ordered,
            "pick": pick,
        }

    @property
    def charts(self) -> dict[str, go.Figure]:
        """The diagrams by their captions, for a page."""
        return {caption: diagram.plotly() for caption, diagram in self.diagrams.items()}


def all_tables() -> dict[str, str]:
    """Every colour table that a view can ask for, as `color_tables`."""
    return color_tables((*COLORMAPS, DIVERGING))


def _known(values: Iterable[float]) -> list[float | None]:
    """For JSON, which knows no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


def _legend_columns(series: Iterable[str]) -> int:
    return int(WIDTH / (0.6 + 0.055 * max(map(len, series))))


def _legend_room(series: Mapping[str, Values]) -> float:
    """Inches above a chart for the names of its series, of which a single one needs none."""
    return 0.1 + 0.16 * (len(series) > 1) * -(-len(series) // _legend_columns(series))


def _legend(axes: Axes, series: Mapping[str, Values]) -> None:
    if len(series) > 1:
        place = {"loc": "lower left", "bbox_to_anchor": (-0.01, 0.98), "borderaxespad": 0, "labelspacing": 0.2}
        axes.legend(fontsize=7, frameon=False, ncols=_legend_columns(series), **place)
