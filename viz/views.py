"""What can be touched of a finding: linked maps and pictures, and charts; for the report's page and the app's tab.

Finding -> the instrument's view -> View: pictures, groups of maps -> payload -> static/maps.js
                                      charts (Plotly)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy import ndarray
from plotly import graph_objects as go

from sparnet.attention import COLORMAPS
from sparnet.images import data_url, encode_png
from viz.explorer import color_tables, encoded
from viz.figures import BLUE, GREEN, ORANGE, PINK, RED, SKY

_CELLS = 128  # a side of a map in the page; the NPZ has every cell
DIVERGING = "PuOr_r"  # of differences: 0 in the middle
SERIES = (BLUE, ORANGE, GREEN, PINK, RED, SKY)


@dataclass(frozen=True)
class View:
    """What can be touched of a finding: pictures and maps on one frame, and charts."""

    pictures: list[dict] = field(default_factory=list)  # always there
    groups: dict[str, list[dict]] = field(default_factory=dict)  # one at a time, by their names
    charts: dict[str, go.Figure] = field(default_factory=dict)  # by their captions
    shown: str | None = None  # the group to begin with; None: the first
    ordered: bool = False  # whether the groups follow each other, as states of a training do: then a slider chooses

    def payload(self, pick: str | None = None) -> dict:
        """Pictures and groups for static/maps.js; pick: the picture on which a part can be marked."""
        return {
            "pictures": self.pictures,
            "groups": self.groups,
            "shown": self.shown or next(iter(self.groups), None),
            "ordered": self.ordered,
            "pick": pick,
        }


def all_tables() -> dict[str, str]:
    """Every colour table that a view can ask for, as `color_tables`."""
    return color_tables((*COLORMAPS, DIVERGING))


def panel(name: str, values: ndarray, scale: tuple[float, float] = (0, 1), colors: str = "viridis") -> dict:
    """A map (h,h) as `encoded`, drawn in colours of `scale`; one of more than 128 cells a side is averaged to them."""
    if len(values) > _CELLS:
        values = cv2.resize(np.float32(values), (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    return {"name": name, **encoded(values), "scale": [float(end) for end in scale], "colors": colors}


def picture(name: str, image: ndarray) -> dict:
    """A picture (S,S,3) uint8 on the same frame as the maps."""
    return {"name": name, "image": data_url(encode_png(image))}


def pictures(arrays: dict[str, ndarray]) -> list[dict]:
    """Those of the face that are among the arrays."""
    return [picture(name, arrays[name]) for name in ("degraded", "restored", "sharp") if name in arrays]


def bars(names: Iterable[str], series: dict[str, Sequence[float | None]], unit: str) -> go.Figure:
    """Bars side by side, one of each series for each name; none of None and NaN."""
    return go.Figure(
        [
            go.Bar(x=list(names), y=[known(value) for value in values], name=label, marker_color=color)
            for (label, values), color in zip(series.items(), SERIES, strict=False)
        ],
        {"barmode": "group", "yaxis": {"title": unit}},
    )


def lines(x: ndarray, series: dict[str, ndarray], over: str, unit: str) -> go.Figure:
    """A curve of each series; of each pair of neighbours the second is dashed, in the same colour."""
    return go.Figure(
        [
            go.Scatter(
                x=x.tolist(),
                y=y.tolist(),
                name=label,
                line={"color": SERIES[i // 2 % len(SERIES)], "dash": "dash" if i % 2 else "solid"},
            )
            for i, (label, y) in enumerate(series.items())
        ],
        {"xaxis": {"title": over}, "yaxis": {"title": unit, "rangemode": "tozero"}},
    )


def matrix(
    values: ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    colors: ndarray,
    ends: tuple[float, float | None],
    text: ndarray,
    digits: int = 2,
) -> go.Figure:
    """Values (rows,columns) in `colors` (n,3) from end to end, None the highest; `text` in the cells, none of NaN."""
    heat = go.Heatmap(
        z=[[known(value) for value in row] for row in values],
        x=list(columns),
        y=list(rows),
        text=[["" if np.isnan(value) else f"{value:.{digits}f}" for value in row] for row in text],
        texttemplate="%{text}",
        hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
        zmin=ends[0],
        zmax=ends[1],
        colorscale=[[i / (len(colors) - 1), f"rgb({r},{g},{b})"] for i, (r, g, b) in enumerate(colors.tolist())],
        showscale=False,
    )
    return go.Figure(heat, {"yaxis": {"autorange": "reversed"}, "height": 110 + 30 * len(rows)})


def known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
