"""One face before one network: what every instrument is given.

photo -> Restorer -> Subject: network, degraded face, sharp face if known, points -> attending, spatial_maps
a folder of them -> over_faces: what is measured of each, stacked
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import length_hint

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from sparnet.attention import mean_map
from sparnet.errors import UserError
from sparnet.faces import LANDMARKS, transform_points, whole_landmarks
from sparnet.images import to_image, to_tensor
from sparnet.model import SPARNet, Trace
from sparnet.restorer import Progress, RestoredFace


@dataclass(frozen=True, eq=False)
class Subject:
    """One face in front of one network; S is the network's size."""

    model: SPARNet  # in eval mode
    name: str  # the model's, as people call it
    degraded: Tensor  # (1,3,S,S) float32 in [-1,1], on the model's device: what the network is given
    sharp: np.ndarray | None = None  # (S,S,3) uint8, the face before it was degraded; None: not known
    points: np.ndarray | None = None  # (5,2) or (68,2) xy in pixels of the face; None: not known
    points_from: str | None = None  # who saw them, in words; None: not told

    @cached_property
    def trace(self) -> Trace:
        """What the network makes of the face."""
        with torch.no_grad():
            return self.model.trace(self.degraded)

    @cached_property
    def alphas(self) -> dict[str, Tensor]:
        """unit -> (1,C,h,w), in forward order."""
        return self.trace.alphas

    @cached_property
    def restored(self) -> np.ndarray:
        """(S,S,3) uint8."""
        return to_image(self.trace.restored)

    @property
    def faces(self) -> dict[str, np.ndarray]:
        """What the network is given, and what it makes of it: (S,S,3) uint8 each."""
        return {"degraded": to_image(self.degraded), "restored": self.restored}

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
        subject = cls(
            model,
            name,
            to_tensor(face.degraded).to(next(model.parameters())),
            face.crop if face.degraded is not face.crop else None,
            points,
            None if points is None or source is None else f"by {source}",
        )
        known = {unit: alpha[None] for unit, alpha in face.alphas.items()}
        vars(subject).update(alphas=known, restored=face.restored)  # the network ran already
        return subject


def attending(subject: Subject, units: Sequence[str] | None = None) -> list[str]:
    """The units with attention in forward order, or those of them that are asked for; `UserError` if one is not."""
    names = [plan.name for plan in subject.model.config.units() if plan.attention != "none"]
    if not names:
        raise UserError(f"{subject.name} has no attention maps to look at. Choose a model with attention.")
    if unknown := [unit for unit in units or () if unit not in names]:
        raise UserError(f"{subject.name} has no attention in {', '.join(unknown)}. Choose from {', '.join(names)}.")
    return names if units is None else [name for name in names if name in units]


def spatial_maps(subject: Subject) -> dict[str, ndarray]:
    """Every unit's map (h,w) of this face in forward order, 3D averaged; `UserError` if the model has no such maps."""
    attending(subject)
    maps = {unit: mean_map(alpha) for unit, alpha in subject.alphas.items()}
    if all(alpha.size == 1 for alpha in maps.values()):
        raise UserError(
            f"{subject.name} gates whole channels, not places, so its attention prefers no part of the face. "
            "Look at its channels, or choose a model with 2D or 3D attention."
        )
    return maps


def over_faces(
    subjects: Iterable[Subject],
    measure: Callable[[int, Subject], dict[str, ndarray]],
    progress: Progress,
    doing: str,
    least: int = 2,
) -> tuple[Subject, dict[str, ndarray]]:
    """The last subject, and what `measure(i, subject)` gives of every face of a folder, stacked: (faces, ...) each.

    One face is in memory at a time; what not every face has is left out. `UserError` for faces of several models, or
    fewer than `least`.
    """
    total, last, found = length_hint(subjects), None, []
    for i, subject in enumerate(subjects):
        progress(i, total, f"{doing} face {i + 1}")
        if last is not None and last.name != subject.name:
            raise UserError(f"The faces are of two models, {last.name} and {subject.name}. Study one model at a time.")
        last = subject
        found.append(measure(i, subject))
    if last is None or len(found) < least:
        wanted = ("no face", "one face", "two faces", "three faces")[least]
        raise UserError(f"Over a folder this needs at least {wanted}. Give a folder with more of them.")
    progress(len(found), len(found), "Done")
    common = [name for name in found[0] if all(name in face for face in found)]
    return last, {name: np.array([face[name] for face in found]) for name in common}
