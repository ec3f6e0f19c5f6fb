"""Foreign text is text: what a medium's own reader sees is the name, and nothing of it acts."""

import html
import warnings
from io import BytesIO

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparnet.text import for_figure, for_html, for_latex, for_markdown, plain

NAMES = [
    "a$^$b.jpg",
    r"a\$^$\b.jpg",
    "$",
    "$\\frac$",
    "\u4eba\u8138 \U0001f600.jpg",
    "a\udcff.jpg",
    "a\x1b[31m\nb",
    "_{$x",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_draws_any_name_without_mathematics_and_without_a_warning(name):
    figure = Figure()
    FigureCanvasAgg(figure)
    title = figure.suptitle(for_figure(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(BytesIO(), format="png", dpi=30)
        figure.savefig(BytesIO(), format="pdf")
    shown, is_mathematics = title._preprocess_math(title.get_text())  # what Matplotlib draws
    assert not is_mathematics
    assert shown.count("$") == name.count("$")
    assert shown.count("\\") >= name.count("\\")


def test_nothing_acts_on_the_terminal_and_each_name_stays_in_its_line():
    assert plain("a\x1b[31m\nb\r\x9b\u202e\u2028\udcff") == "a\\x1b[31m\\nb\\r\\x9b\\u202e\\u2028\\udcff"
    for name in ("caf\u00e9 \u4eba\u8138.jpg", "\U0001f468\u200d\U0001f469 \u0646\u0645\u06cc\u200c\u062e"):
        assert plain(name) == name


def test_markup_is_escaped_for_each_medium():
    assert html.unescape(for_html("<b a='\"'>&")) == "<b a='\"'>&"
    assert not set("<>'\"") & set(for_html("<b a='\"'>"))
    assert for_markdown("a|b`c`<i>*d*[e](f)_g_\nh") == (r"a&#124;b\`c\`&lt;i&gt;\*d\*\[e\](f)\_g\_\\nh")
    assert for_latex(r"a_b%c\d{e}$f^g~h#i&j") == (
        r"a\_b\%c\textbackslash{}d\{e\}\$f\textasciicircum{}g\textasciitilde{}h\#i\&j"
    )
