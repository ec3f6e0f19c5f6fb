"""What every instrument is given, and what it answers.

photo -> Restorer -> Subject: network, degraded face, sharp face if known -> instrument -> Finding
Finding: meaning, numbers, arrays, figure -> save -> NAME.json, NAME.npz, NAME.png
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from sparnet.images import make_folder, save_bytes
from sparnet.model import SPARNet
from viz.atlas import figure_png


@dataclass(frozen=True, eq=False)
class Subject:
    """One face in front of one network; S is the network's size."""

    model: SPARNet  # in eval mode
    name: str  # the model's, as people call it
    degraded: Tensor  # (1,3,S,S) float32 in [-1,1], on the model's device: what the network is given
    sharp: np.ndarray | None = None  # (S,S,3) uint8, the face before it was degraded; None: not known
    points: np.ndarray | None = None  # (5,2) xy in pixels of the face: eyes, nose, mouth corners; None: not known


@dataclass(frozen=True, eq=False)
class Finding:
    """What one instrument found, ready for a page, a file and a report."""

    instrument: str  # its name on the command line
    meaning: str  # one sentence: what one sees, and what one may not conclude
    numbers: dict  # values that JSON knows, settings and seed among them
    arrays: dict[str, np.ndarray]  # everything the figure was drawn from
    figure: Figure

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.json, NAME.npz and NAME.png into the folder, made if needed; -> their paths."""
        make_folder(folder)
        paths = [folder / f"{self.instrument}.{kind}" for kind in ("json", "npz", "png")]
        text = json.dumps({"instrument": self.instrument, "meaning": self.meaning, **self.numbers}, indent=1)
        save_bytes(text.encode(), paths[0])
        np.savez_compressed(paths[1], **self.arrays)
        save_bytes(figure_png(self.figure), paths[2])
        return paths
