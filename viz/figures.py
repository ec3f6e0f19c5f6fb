"""What the figures for print share: a white canvas without pyplot, axes placed in inches, the palette.

canvas -> Figure; in_inches, bare -> axes that maps fill; pictures of one face stay pixels, never smoothed
"""

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure

# Okabe and Ito 2008: apart for every kind of colour vision
BLUE, ORANGE, GREEN, PINK, RED, SKY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"


def canvas(width: float, height: float, layout: str | None = None) -> Figure:
    """A white figure of this size in inches; no pyplot: its global state is not made for a server's threads."""
    figure = Figure(figsize=(width, height), facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def in_inches(figure: Figure, x: float, y: float, w: float, h: float) -> Axes:
    """Axes placed in inches from the top left, so that every map has exactly the same size."""
    width, height = figure.get_size_inches()
    return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))


def bare(*all_axes: Axes) -> None:
    """Nothing around what is shown."""
    for axes in all_axes:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)


def quiet(bar: Colorbar) -> Colorbar:
    """A colour bar with small ticks and no frame."""
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    return bar
