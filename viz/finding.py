"""What an instrument answers.

Subject -> instrument -> Finding; on the way Progress, which is silent where nobody watches
Finding: meaning, numbers, arrays, view, figure -> save -> NAME.json, NAME.npz, NAME.png, NAME.pdf
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from sparnet.attention import figure_png
from sparnet.files import encode_npz, make_folder, save_bytes
from sparnet.restorer import Progress
from viz.figures import SIDE, sheet
from viz.views import View

KINDS = ("json", "npz", "png", "pdf")  # of files that a finding may have; the last, for print, if asked for
_PRINT: dict[Any, Any] = {"pdf.fonttype": 42, "savefig.dpi": 300}  # text as text in TrueType, which journals ask for


@dataclass(frozen=True, eq=False)
class Finding:
    """What one instrument found, ready for a page, a file and a report."""

    instrument: str  # what its files are called
    meaning: str  # one sentence: what one sees, and what one may not conclude
    numbers: dict  # values that JSON knows, settings and seed among them
    arrays: dict[str, np.ndarray]  # everything the figure is drawn from
    view: View = field(default_factory=View)  # for a page
    title: str = ""  # of the figure, as in `sheet`; so are note and side
    note: str = ""
    side: float = SIDE
    printed: View | None = None  # what the figure shows instead of the view
    draw: Callable[[], Figure] | None = None  # a figure that is no sheet

    @cached_property
    def figure(self) -> Figure:
        """For print, drawn when it is asked for."""
        return self.draw() if self.draw else sheet(self.printed or self.view, self.title, self.note, self.side)

    def save(self, folder: Path, provenance: dict | None = None, kinds: Sequence[str] = KINDS[:-1]) -> list[Path]:
        """Write NAME.KIND for each of these `KINDS` into the folder, made if needed; -> paths in the same order.

        provenance: what makes the figure anew (model, weights, face, settings, versions), kept in the JSON.
        """
        make_folder(folder)
        numbers = {"instrument": self.instrument, "meaning": self.meaning, **self.numbers}
        if provenance is not None:
            numbers["provenance"] = provenance
        encode: dict[str, Callable[[], bytes]] = {
            "json": lambda: json.dumps(numbers, indent=1, allow_nan=False).encode(),
            "npz": lambda: encode_npz(self.arrays),
            "png": lambda: figure_png(self.figure),
            "pdf": lambda: figure_pdf(self.figure),
        }
        paths = [folder / f"{self.instrument}.{kind}" for kind in kinds]
        for kind, path in zip(kinds, paths, strict=True):
            save_bytes(encode[kind](), path)
        return paths


def silent(done: int, total: int, text: str) -> None:
    """The `Progress` that nobody watches."""


def within(progress: Progress, i: int, count: int, name: str) -> Progress:
    """The progress of instrument `i` of `count` as its share of the whole."""
    return lambda done, total, text: progress(round(1000 * (i + done / max(total, 1))), 1000 * count, f"{name}: {text}")


def figure_pdf(figure: Figure) -> bytes:
    """The figure for print: lines and text stay vectors, maps stay the cells they are; the same bytes every time."""
    file = BytesIO()
    with rc_context(_PRINT):
        figure.savefig(file, format="pdf", metadata={"CreationDate": None})
    return file.getvalue()
