"""The straight line from a photo to its restored faces and their attention.

photo -> find faces -> crop -> degrade, or as it is -> engine, a batch -> restored, alphas -> paste -> Restoration
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sparnet.engine import Engine, engine_for
from sparnet.errors import UserError
from sparnet.faces import (
    Detector,
    Face,
    centred_square,
    crop_face,
    crop_transform,
    crop_whole,
    find_detector,
    paste_into,
    whole_transform,
)
from sparnet.images import check_image, degrade, is_grey, to_grey, to_image, to_tensor
from sparnet.limits import cost
from sparnet.model import SPARNet, Trace

Mode = Literal["simulate", "as_is"]
MODES: tuple[Mode, ...] = ("simulate", "as_is")
MIN_SIDE = 16  # pixels; the smallest photo that is taken
BATCH_BYTES = 500_000_000  # for the faces that go through the network at once
BOX_SIDES = 4  # the photo's shorter ones; a larger box is no face, and the photo mirrored to fill it takes for ever
Box = Sequence[float]
Progress = Callable[[int, int, str], object]


@dataclass(frozen=True, eq=False)
class RestoredFace:
    """One face on its way through; S is the model's size."""

    face: Face
    to_crop: np.ndarray  # (2,3), photo -> crop
    crop: np.ndarray  # (S,S,3) uint8, cut from the photo
    degraded: np.ndarray  # (S,S,3) uint8, what the network saw
    restored: np.ndarray  # (S,S,3) uint8; grey where `degraded` is
    alphas: dict[str, Tensor]  # unit -> (1,h,w), (C,h,w) or (C,1,1) float32 on the CPU, raw, in (0,1)
    features: dict[str, Tensor] | None  # unit -> (C,h,w) float32 on the CPU, what alpha gates; None: not asked for


@dataclass(frozen=True, eq=False)
class Restoration:
    """A photo with its restored faces pasted; without a face it is the photo unchanged."""

    photo: np.ndarray  # (H,W,3) uint8
    faces: list[RestoredFace]  # in the order in which they were pasted
    detector: str  # who found the faces
    notes: list[str]  # sentences for the user: which detector, what fell back, what was not restored
    failed: int = 0  # faces that were found but could not be restored; each has its note
    engine: str = ""  # what ran the network, in which precision


class Restorer:
    """Restores every face of a photo; keeps nothing between calls but the model's engine, see `engine_for`.

    Without a detector, `find_detector()` chooses one when a photo has to be searched. While the best engine is being
    built, PyTorch runs the network.
    """

    def __init__(self, model: SPARNet, detector: Detector | None = None, engine: str = "auto"):
        self.model = model
        self.detector = detector
        self.engine = engine

    def __call__(
        self,
        photo: np.ndarray,
        mode: Mode | None = None,
        faces: Literal["whole"] | Sequence[Face | Box] | None = None,
        progress: Progress | None = None,
        features: bool = False,
    ) -> Restoration:
        """(H,W,3) uint8 RGB -> `Restoration`.

        mode: "simulate" reduces each face to the size the model was trained to enlarge, "as_is" does not; None: the
        first if the model has such a size. faces: None searches; "whole" takes the picture as one face; or faces, or
        their boxes x1, y1, x2, y2. progress(done, total, text) is called around each batch of faces. A face that cannot
        be restored is left out and noted; `UserError` if the photo or the mode cannot be used.
        """
        mode = self._mode(mode)
        found, detector, notes = find_faces(photo, faces, self.detector)
        run = self.run()
        if run.note:
            notes.append(run.note)
        restored, total = [], len(found)
        most = max(1, BATCH_BYTES // cost(self.model.config)[1])
        for first in range(0, total, most):
            batch = found[first : first + most]
            if progress:
                some = f"face {first + 1}" if len(batch) == 1 else f"faces {first + 1} to {first + len(batch)}"
                progress(first, total, f"Restoring {some} of {total}")
            for number, one in enumerate(self._restore(run, photo, batch, mode, features, faces == "whole"), first + 1):
                if isinstance(one, UserError):
                    notes.append(f"Face {number} was not restored. {one}")
                    continue
                restored.append(one)
                if mode == "as_is":
                    notes += self.too_sharp(side_in_photo(one.to_crop, self.model.config.size), number)
        if restored and is_grey(photo):
            notes.append("The photo has no colour, so of the colours that the network gave the brightness was kept.")
        if progress:
            progress(total, total, "Done")
        result = paste_faces(photo, restored, mode, whole=faces == "whole")
        return Restoration(result, restored, detector, notes, total - len(restored), str(run))

    def restore_face(
        self, photo: np.ndarray, face: Face, mode: Mode, features: bool = False, whole: bool = False
    ) -> RestoredFace:
        """One face of the photo; `UserError` if it cannot be cut out or the network fails on it."""
        (one,) = self._restore(self.run(), photo, [face], self._mode(mode), features, whole)
        if isinstance(one, UserError):
            raise one
        return one

    def _restore(
        self, run: Engine, photo: np.ndarray, faces: Sequence[Face], mode: Mode, features: bool, whole: bool
    ) -> list[RestoredFace | UserError]:
        """Each face of a batch, or why it is not restored."""
        small = self.model.config.degraded_size if mode == "simulate" else None
        results: list[RestoredFace | UserError] = []
        cut = []
        for face in faces:
            try:
                to_crop, crop = cut_face(photo, face, self.model.config.size, whole)
                cut.append((len(results), face, to_crop, crop, crop if small is None else degrade(crop, small)))
                results.append(UserError())  # its place
            except UserError as error:
                results.append(error)
        if not cut:
            return results
        trace = self._trace(run, [degraded for *_, degraded in cut], features)
        for i, (place, face, to_crop, crop, degraded) in enumerate(cut):
            try:
                restored = picture_of(trace.restored[i : i + 1], degraded)
            except UserError as error:
                results[place] = error
                continue
            maps = None if trace.features is None else _of_face(trace.features, i)
            results[place] = RestoredFace(face, to_crop, crop, degraded, restored, _of_face(trace.alphas, i), maps)
        return results

    def trace(self, degraded: np.ndarray, features: bool = False) -> Trace:
        """What the network makes of a degraded face (S,S,3) uint8, S the model's size."""
        return self._trace(self.run(), [degraded], features)

    def run(self) -> Engine:
        """What runs the network now."""
        return engine_for(self.model, self.engine, background=self.engine == "auto")

    def _trace(self, run: Engine, degraded: Sequence[np.ndarray], features: bool) -> Trace:
        weight = next(self.model.parameters())
        batch = torch.cat([to_tensor(face) for face in degraded])
        with evaluating(self.model):
            return run(batch.to(weight), features)

    def too_sharp(self, in_photo: float, number: int) -> list[str]:
        """A note if a model that enlarges small faces is given a large one as it is: it sharpens detail that is sharp.

        in_photo: `side_in_photo` of the face; number: which face of the photo, counted from 1.
        """
        small = self.model.config.degraded_size
        if small is None or in_photo < 2 * small:
            return []
        return [
            f"Face {number} is about {in_photo:.0f} pixels large and was restored as it is, by a model for faces of "
            f"{small}: unless it is very blurred, expect distortions, and rather simulate {small} x {small}."
        ]

    def _mode(self, mode: Mode | None) -> Mode:
        reducible = self.model.config.degraded_size is not None
        if mode is None:
            return "simulate" if reducible else "as_is"
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(map(repr, MODES))} or None")
        if mode == "simulate" and not reducible:
            raise UserError(
                "This model was trained on faces of all degrees of damage, so there is no one size to reduce faces to. "
                "Restore them as they are."
            )
        return mode


def mode_of(simulate: bool | None) -> Mode | None:
    """As a command line tells it; None: the model decides."""
    return None if simulate is None else "simulate" if simulate else "as_is"


def disclaimer(model: str) -> str:
    """What a restored picture's file says of itself."""
    return f"Restored by {model}: a plausible guess, not evidence of identity."


def paste_faces(photo: np.ndarray, faces: Sequence[RestoredFace], mode: Mode, whole: bool = False) -> np.ndarray:
    """The photo (H,W,3) uint8 with these faces of it in their places, as a new array; `whole`: it is one face."""
    height, width = photo.shape[:2]
    fade = (width > height, height > width) if whole else (True, True)  # beside a whole picture is nothing to fade into
    result = photo.copy()
    for face in faces:
        crop = face.crop if mode == "as_is" else None  # else the face's own detail would show through
        paste_into(result, face.restored, face.to_crop, crop, photo, fade)
    return result


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, where looking changes no statistics; afterwards each of its parts as it was."""
    training = [part for part in model.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def find_faces(
    photo: np.ndarray,
    faces: Literal["whole"] | Sequence[Face | Box] | None = None,
    detector: Detector | None = None,
) -> tuple[list[Face], str, list[str]]:
    """The faces to restore, who found them, and the first notes; `faces` and errors as in `Restorer`."""
    height, width = check_image(photo).shape[:2]
    if min(height, width) < MIN_SIDE:
        raise UserError(f"The picture is {width} x {height} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed.")
    if isinstance(faces, str):
        if faces != "whole":
            raise ValueError(f"faces is {faces!r}; it must be None, 'whole', or a list of faces or boxes")
        left, top, side = centred_square(photo)
        notes = [] if height == width else ["The picture is not square: its centred square was taken as the face."]
        return [Face(np.array([left, top, left + side, top + side], float))], "none: the whole picture", notes
    if faces is not None:
        given = [face if isinstance(face, Face) else Face(np.array(face, float)) for face in faces]
        for face in given:
            x1, y1, x2, y2 = face.box
            if not (x1 < width and y1 < height and x2 > 0 and y2 > 0):
                raise UserError(
                    f"The box {x1:g},{y1:g},{x2:g},{y2:g} lies outside the photo, which is {width} x {height} "
                    "pixels. Give it as left,top,right,bottom."
                )
            if max(x2 - x1, y2 - y1) > BOX_SIDES * min(width, height):
                raise UserError(
                    f"The box {x1:g},{y1:g},{x2:g},{y2:g} is more than {BOX_SIDES} times as large as the photo, "
                    f"which is {width} x {height} pixels. Give it as left,top,right,bottom in pixels."
                )
        return given, "none: given by the caller", []
    detector = detector or find_detector()
    found = detector(photo)
    notes = [detector.note]
    if found.smallest is not None:
        notes.append(f"Faces from about {found.smallest:.0f} pixels up were searched.")
    if not found:
        notes.append(
            "No human face was found, so the photo is unchanged. If it shows one, give its box, or take the whole "
            "picture as the face."
        )
    return found, detector.name, notes


def picture_of(restored: Tensor, degraded: np.ndarray) -> np.ndarray:
    """The network's answer (1,3,S,S) to the degraded face as (S,S,3) uint8; `UserError` if it is not a picture."""
    if not restored.isfinite().all():
        raise UserError("The network's answer is not a picture: its weights or its number format are not usable.")
    picture = to_image(restored)
    return to_grey(picture) if is_grey(degraded) else picture  # colours that the network made up are left out


def cut_face(photo: np.ndarray, face: Face, size: int, whole: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """to_crop (2,3), photo -> crop, and the crop (size,size,3) uint8; `whole`: the picture is already a face."""
    to_crop = whole_transform(photo, size) if whole else crop_transform(face, size)
    return to_crop, crop_whole(photo, size) if whole else crop_face(photo, to_crop, size)


def side_in_photo(to_crop: np.ndarray, size: int) -> float:
    """How many of the photo's pixels one side of the crop of `size` covers."""
    return float(size / np.hypot(*to_crop[:, 0]))


def _of_face(maps: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """Of a batch those of one face, which does not keep the others in memory."""
    return {name: value[i].to("cpu", torch.float32, copy=True) for name, value in maps.items()}
