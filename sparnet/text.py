"""Text of strangers (names of files, folders and models, messages about them) as text in every medium.

    foreign -> plain: no control characters -> terminal
                 '-> for_figure, for_html, for_markdown, for_latex: nothing of it is markup there

What the project says itself is not passed through here: it may break lines and draw an alpha.
"""

import functools
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import category

if TYPE_CHECKING:
    from jinja2 import Environment

_JOINERS = "\u200c\u200d"  # of Persian words and of emoji; other invisible characters may turn the line around
_MARKDOWN = re.compile(r"([\\`*_{}\[\]#~$!])")
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "`": "\\textasciigrave{}"}
    | {"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", '"': "\\textquotedbl{}"}
)


def plain(text: str, keep: str = "") -> str:
    r"""Without characters that act instead of being seen, such as ESC or a newline: they become \x1b, \n.

    So does a byte of a file's name that is not UTF-8. `keep` are left as they are.
    """
    return "".join(
        character
        if character in keep or category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in _JOINERS
        else character.encode("unicode_escape").decode()
        for character in text
    )


def listed(names: Sequence[str], most: int, between: str = ", ") -> str:
    """The first of them, `most` at most, and how many more there are."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_line(error: Exception) -> str:
    """What a library's error says first, or its kind where it says nothing; without a full stop."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def for_figure(text: str) -> str:
    """For Matplotlib: no dollar begins mathematics, and what its font cannot draw is a box, without a warning."""
    known = _glyphs()
    return "".join(character if ord(character) in known else "\u25a1" for character in plain(text)).replace("$", r"\$")


def for_html(text: str) -> str:
    """For the content of an element, the value of an attribute, and Plotly's texts, which are HTML too."""
    return html.escape(plain(text))


def for_markdown(text: str) -> str:
    """For a line or a cell of a table."""
    escaped = _MARKDOWN.sub(r"\\\1", html.escape(plain(text), quote=False))
    return escaped.replace("|", "&#124;")


def for_markdown_code(text: str) -> str:
    """A code span, not for tables."""
    text = plain(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def for_latex(text: str) -> str:
    """For running text and the cells of a table."""
    return plain(text).translate(_LATEX)


def html_templates(folder: Path) -> "Environment":
    """Jinja's environment for the HTML templates in the folder: every value is text unless it is said to be safe."""
    from jinja2 import Environment, FileSystemLoader  # here, because restoring needs no reports
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=finalize
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # units and columns keep their order
    return environment


@functools.cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font  # here, because restoring needs no figures

    return frozenset(get_font(findfont(FontProperties())).get_charmap())
