"""What every instrument is given, and what it answers.

photo -> Restorer -> Subject: network, degraded face, sharp face if known -> instrument -> Finding
Finding: meaning, numbers, arrays, figure -> save -> NAME.json, NAME.npz, NAME.png, NAME.pdf if asked for
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from sparnet.errors import UserError
from sparnet.faces import LANDMARKS, transform_points, whole_landmarks
from sparnet.files import make_folder, save_bytes
from sparnet.images import to_tensor
from sparnet.model import SPARNet
from sparnet.restorer import Progress, RestoredFace

_PRINT = {"pdf.fonttype": 42, "savefig.dpi": 300}  # text as text in TrueType, which journals ask for


@dataclass(frozen=True, eq=False)
class Subject:
    """One face in front of one network; S is the network's size."""

    model: SPARNet  # in eval mode
    name: str  # the model's, as people call it
    degraded: Tensor  # (1,3,S,S) float32 in [-1,1], on the model's device: what the network is given
    sharp: np.ndarray | None = None  # (S,S,3) uint8, the face before it was degraded; None: not known
    points: np.ndarray | None = None  # (5,2) or (68,2) xy in pixels of the face; None: not known
    points_from: str | None = None  # who saw them, in words; None: not told

    @classmethod
    def of(cls, model: SPARNet, name: str, face: RestoredFace, detector: str | None = None) -> "Subject":
        """A face as `Restorer` gave it; the sharp one is known only where it was reduced first.

        Its points are the detector's; of a face without, as a whole picture is, those that the landmark net sees: the
        net and no detector, so that a folder's faces are all measured alike, with a network or without.
        """
        landmarks, source = face.face.landmarks, detector
        if landmarks is None:
            points, source = whole_landmarks(face.crop), LANDMARKS.name
        else:
            points = transform_points(face.to_crop, landmarks)
        return cls(
            model,
            name,
            to_tensor(face.degraded).to(next(model.parameters())),
            face.crop if face.degraded is not face.crop else None,
            points,
            None if points is None or source is None else f"by {source}",
        )


def attending(subject: Subject, units: Sequence[str] | None = None) -> list[str]:
    """The units with attention in forward order, or those of them that are asked for; `UserError` if one is not."""
    names = [plan.name for plan in subject.model.config.units() if plan.attention != "none"]
    if not names:
        raise UserError(f"{subject.name} has no attention maps to look at. Choose a model with attention.")
    if unknown := [unit for unit in units or () if unit not in names]:
        raise UserError(f"{subject.name} has no attention in {', '.join(unknown)}. Choose from {', '.join(names)}.")
    return names if units is None else [name for name in names if name in units]


@dataclass(frozen=True, eq=False)
class Finding:
    """What one instrument found, ready for a page, a file and a report."""

    instrument: str  # what its files are called
    meaning: str  # one sentence: what one sees, and what one may not conclude
    numbers: dict  # values that JSON knows, settings and seed among them
    arrays: dict[str, np.ndarray]  # everything the figure was drawn from
    figure: Figure

    def save(self, folder: Path, provenance: dict | None = None, pdf: bool = False) -> list[Path]:
        """Write NAME.json, NAME.npz, NAME.png and, if asked for, NAME.pdf into the folder, made if needed; -> paths.

        provenance: what makes the figure anew (model, weights, face, settings, versions), kept in the JSON.
        """
        make_folder(folder)
        numbers = {"instrument": self.instrument, "meaning": self.meaning, **self.numbers}
        if provenance is not None:
            numbers["provenance"] = provenance
        arrays = BytesIO()
        np.savez_compressed(arrays, **self.arrays)
        files = {
            "json": json.dumps(numbers, indent=1, allow_nan=False).encode(),
            "npz": arrays.getvalue(),
            "png": figure_png(self.figure),
        }
        if pdf:
            files["pdf"] = figure_pdf(self.figure)
        paths = []
        for kind, data in files.items():
            paths.append(folder / f"{self.instrument}.{kind}")
            save_bytes(data, paths[-1])
        return paths


def within(progress: Progress | None, i: int, count: int, name: str) -> Progress | None:
    """The progress of instrument `i` of `count` as its share of the whole."""
    if progress is None:
        return None
    return lambda done, total, text: progress(round(1000 * (i + done / max(total, 1))), 1000 * count, f"{name}: {text}")


def figure_png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as a PNG file."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def figure_pdf(figure: Figure) -> bytes:
    """The figure for print: lines and text stay vectors, maps stay the cells they are; the same bytes every time."""
    file = BytesIO()
    with rc_context(_PRINT):
        figure.savefig(file, format="pdf", metadata={"CreationDate": None})
    return file.getvalue()
