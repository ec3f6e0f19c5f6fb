"""What a finding shows, for print and for the page: the same values in both."""

from base64 import b64decode

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sparnet.metrics import Estimate
from viz.figures import sheet
from viz.views import Bars, Lines, Matrix, Panel, View, numerals

MAP = np.linspace(0, 1, 16).reshape(4, 4)
VALUES = np.array([[0.5, np.nan], [-1, 1]])
CHARTS = {
    "bars": Bars(["a", "<b>"], {"one": [Estimate(2, 1, 4, 9), None], "$two$": [0.5, np.nan]}, "dB", {3: "chance"}),
    "lines": Lines([0, 1, 2], {f"{i}": [i, 2 * i, None] for i in range(8)}, "step", "r"),
    "matrix": Matrix(VALUES, ["up", "down"], ["left", "right"], ends=(-1, 1), text=numerals(VALUES)),
    "colours": Matrix(VALUES, ["up", "down"], ["left", "right"], ends=(-1, 1), marks=["red", "blue"]),
}


def axes_of(view: View, what: str) -> list:
    return [axes for axes in sheet(view, "title").axes if axes.get_title("left") == what or axes.get_ylabel() == what]


def test_a_large_map_is_averaged_for_the_page_and_quantised_finely():
    values = np.random.default_rng(0).normal(size=(256, 256))
    payload = Panel("map", values, (-1, 1), "PuOr_r").payload()
    assert payload["side"] == 128
    levels = np.frombuffer(b64decode(payload["values"]), "<u2").reshape(128, 128)
    low, high = payload["range"]
    expected = values.reshape(128, 2, 128, 2).mean((1, 3))
    np.testing.assert_allclose(low + (high - low) * levels / 65534, expected, atol=(high - low) / 65534)
    values[:2, :2] = np.nan
    levels = np.frombuffer(b64decode(Panel("map", values).payload()["values"]), "<u2").reshape(128, 128)
    assert np.argwhere(levels == 65535).tolist() == [[0, 0]]


def test_what_has_no_value_has_no_bar():
    (bar,) = Bars(["a", "b", "c"], {"correlation": [0.5, None, np.nan]}, "").plotly().data
    assert bar.y == (0.5, None, None)


def test_bars_and_their_intervals_are_the_same_in_print_and_on_the_page():
    view = View(diagrams={"bars": CHARTS["bars"]})
    (axes,) = axes_of(view, "dB")
    page = view.charts["bars"]
    printed = [[bar.get_height() for bar in series] for series in axes.containers]
    assert np.array_equal(printed, [[2, np.nan], [0.5, np.nan]], equal_nan=True)
    assert [series.y for series in page.data] == [(2, None), (0.5, None)]
    (_, low), (_, high) = axes.collections[0].get_segments()[0]
    error = page.data[0].error_y
    assert (low, high) == (1, 4) == (2 - error.arrayminus[0], 2 + error.array[0])
    assert page.layout.shapes[0].y0 == 3
    assert page.data[0].x == ("a", "&lt;b&gt;")


def test_curves_beyond_the_colours_are_dashed_in_print_and_on_the_page():
    view = View(diagrams={"lines": CHARTS["lines"]})
    (axes,) = axes_of(view, "r")
    page = view.charts["lines"].data
    assert [line.get_color() for line in axes.lines] == [series.line.color for series in page]
    assert [line.get_linestyle() for line in axes.lines] == ["-"] * 6 + ["--"] * 2
    assert [series.line.dash for series in page] == ["solid"] * 6 + ["dash"] * 2
    assert page[7].y == (7, 14, None)


def test_a_matrix_has_its_words_or_a_colour_bar():
    view = View(diagrams={name: CHARTS[name] for name in ("matrix", "colours")})
    first, second, bar = sheet(view, "title").axes
    assert [text.get_text() for text in first.texts] == ["0.50", "none", "-1.00", "1.00"]
    assert second.images[0].get_clim() == (-1, 1)
    assert bar.get_ylim() == (-1, 1)
    words, colours = (chart.data[0] for chart in view.charts.values())
    assert (words.showscale, colours.showscale) == (False, True)
    assert words.text[0][1] == "none"
    assert words.z[0] == [0.5, None]
    assert "red" in colours.x[0]


def test_maps_of_one_scale_share_a_colour_bar_and_what_others_named_is_text():
    maps = [
        Panel("a", MAP),
        Panel("$b$", MAP),
        Panel("c", MAP, (-1, 1), "PuOr_r"),
        Panel("p", np.zeros((4, 4, 3), np.uint8)),
    ]
    figure = sheet(View([], {"first": maps, "second": maps[:2]}, CHARTS), "$title$", "note " * 60)
    FigureCanvasAgg(figure).draw()  # what is no text would fail here
    shown = [axes for axes in figure.axes if axes.images and axes.get_title("left")]
    assert [axes.get_title("left") for axes in shown] == ["a", r"\$b\$", "c", "p", "a", r"\$b\$"]
    assert len({tuple(axes.get_window_extent().size.round(3)) for axes in shown}) == 1
    bars = [axes for axes in figure.axes if not axes.images and axes.collections and not axes.get_ylabel()]
    assert len(bars) == 3  # two scales of maps, and the matrix without words


@pytest.mark.parametrize("count", [1, 9])
def test_nothing_lies_on_something_else_or_outside_the_sheet(count):
    figure = sheet(View([], {f"block {i}": [Panel("map", MAP)] * 3 for i in range(count)}, CHARTS), "title", "a note")
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes += [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        for other in boxes[:i]:
            over = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(over) < 3  # pixels of 100 an inch
