"""Figures for print, without pyplot, whose global state is not made for a server's threads: the sheet.

View: pictures, groups of maps, charts -> boxes in inches, left to right and down -> sheet -> Figure
"""

from collections.abc import Sequence
from functools import partial
from textwrap import wrap
from typing import Any

from matplotlib.figure import Figure

from sparnet.attention import bare, color_bar, in_inches
from sparnet.text import for_figure
from viz.views import WIDTH, Diagram, Panel, View

# inches
SIDE = 1.2  # of a panel
_GAP, _BETWEEN, _MARGIN = 0.08, 0.35, 0.25  # of two panels, of two boxes, around the sheet
_BAR, _BAR_ROOM, _LINE = 0.08, 0.45, 0.14  # a colour bar, with its numbers; a line of text of 8 points
_LETTERS = 17  # of 8 points, in an inch


def sheet(view: View, title: str, note: str = "", side: float = SIDE) -> Figure:
    """Pictures and groups of maps under their names, from left to right and down, then charts under their captions.

    Maps of one scale of colours share a colour bar, at the right of the first of them. `note` stands beneath the title;
    what others have named is text in all of them. side: of a map, in inches.
    """
    scales: set = set()  # that have their colour bar
    blocks = {"the face": view.pictures, **view.groups} if view.pictures else view.groups
    boxes = [
        (*_block_size(name, maps, side), partial(_block, name, maps, side, scales)) for name, maps in blocks.items()
    ]
    boxes += [(*_chart_size(name, chart), partial(_chart, name, chart)) for name, chart in view.diagrams.items()]
    width = max([WIDTH, *(w for w, _, _ in boxes)])
    lines = [line for paragraph in note.splitlines() for line in _wrapped(paragraph, width)]
    x, y, row, places = 0.0, 0.5 + _LINE * (len(lines) + bool(lines)), 0.0, []
    for w, h, draw in boxes:
        if x and x + w > width:
            x, y, row = 0.0, y + row, 0.0
        places.append((x + _MARGIN, y, draw))
        x, row = x + w + _BETWEEN, max(row, h)
    figure = Figure(figsize=(width + 2 * _MARGIN, y + row), facecolor="white")
    _text(figure, _MARGIN, 0.15, [title], fontsize=11)
    _text(figure, _MARGIN, 0.42, lines, color="0.35")
    for x, y, draw in places:
        draw(figure, x, y)
    return figure


def _block_size(name: str, maps: Sequence[Panel], side: float) -> tuple[float, float]:
    bars = sum(_last(maps, i) for i in range(len(maps)))
    width = len(maps) * (side + _GAP) - _GAP + bars * _BAR_ROOM
    return max(width, 1.15 * len(name) / _LETTERS), _above(maps, side) + side + 0.25


def _above(maps: Sequence[Panel], side: float) -> float:
    """Inches for the block's name and its maps'."""
    return 0.22 + _LINE * max(len(_wrapped(panel.name, side)) for panel in maps)


def _block(name: str, maps: Sequence[Panel], side: float, scales: set, figure: Figure, x: float, y: float) -> None:
    _text(figure, x, y, [name], weight="bold")
    y += _above(maps, side)
    for i, panel in enumerate(maps):
        axes = in_inches(figure, x, y, side, side)
        image = panel.draw(axes)
        bare(axes)
        axes.set_title("\n".join(map(for_figure, _wrapped(panel.name, side))), fontsize=7, loc="left", pad=3)
        x += side + _GAP
        if _last(maps, i):
            if image is not None and panel.key not in scales:
                color_bar(figure, image, in_inches(figure, x, y, _BAR, side))
            scales.add(panel.key)
            x += _BAR_ROOM


def _last(maps: Sequence[Panel], i: int) -> bool:
    """Whether the panel is the last before one of another scale, so that its colour bar stands there."""
    return maps[i].key is not None and (i + 1 == len(maps) or maps[i + 1].key != maps[i].key)


def _chart_size(caption: str, chart: Diagram) -> tuple[float, float]:
    (w, h), (left, above, below) = chart.size, chart.room
    lines = len(_wrapped(caption, left + w))
    return left + w + _BAR_ROOM * (chart.key is not None), lines * _LINE + above + h + below + 0.15


def _chart(caption: str, chart: Diagram, figure: Figure, x: float, y: float) -> None:
    (w, h), (left, above, _) = chart.size, chart.room
    lines = _wrapped(caption, left + w)
    _text(figure, x, y, lines)
    y += len(lines) * _LINE + above
    axes = in_inches(figure, x + left, y, w, h)
    image = chart.draw(axes)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if image is not None and chart.key is not None:
        color_bar(figure, image, in_inches(figure, x + left + w + _GAP, y, _BAR, h))


def _wrapped(text: str, width: float) -> list[str]:
    """Lines of 8 points, no wider than so many inches."""
    return wrap(text, max(int(width * _LETTERS), 1))


def _text(figure: Figure, x: float, y: float, lines: Sequence[str], **style: Any) -> None:
    """Lines of text whose top left is so many inches from that of the figure."""
    width, height = figure.get_size_inches()
    text = "\n".join(map(for_figure, lines))
    figure.text(x / width, 1 - y / height, text, **({"va": "top", "fontsize": 8} | style))
