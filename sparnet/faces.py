"""Faces: find them, cut them out upright, put them back.

    photo -> Detector -> Face(box, landmarks) -> crop_transform -> to_crop (2,3) -> crop_face -> crop (S,S,3)
             (YuNet, or LBP cascade and refine)
    photo with the face restored <- paste_into <- soft mask <- restored (S,S,3) <-- network <-------'

Points are xy in photo pixels; a whole number is the centre of a pixel.
"""

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, floor
from pathlib import Path

import cv2
import httpx2
import numpy as np
import skimage  # its parts are loaded when they are used: SciPy, behind them, takes its time

from sparnet.checkpoints import BUNDLED
from sparnet.errors import UserError
from sparnet.hub import fetch_file
from sparnet.images import resize
from sparnet.landmarks import LandmarkNet

log = logging.getLogger(__name__)

# Where FFHQ-aligned 512x512 faces have the eyes, the tip of the nose and the corners of the mouth, as widely published.
TEMPLATE = np.array([(192.98, 239.95), (318.90, 240.19), (256.63, 314.02), (201.26, 371.41), (313.09, 371.15)])
TEMPLATE_SIDE = 512

# Centre x, y, width, height of boxes where the face lies on the template: medians over 30 aligned CelebA-HQ test faces
# and scikit-image's astronaut, each at 3 sizes. `Face.box` always means the first, brow or hairline to chin.
FACE_BOX = (256, 279, 276, 380)  # YuNet's boxes, 93 of them; sd 21, 7, 9, 14 pixels
LBP_BOX = (257, 276, 285, 285)  # windows of the LBP cascade, 158 of them; sd 19, 21, 40, 40 pixels

LANDMARKS = BUNDLED / "landmarks5"  # trained by this project
LOOKS = 2  # of the landmark net: the second sees the face as the first aligned it

MIN_FACE = 4  # pixels; less is not a face but a mistake

YUNET_REPO, YUNET_FILE = "opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx"
YUNET_SCORE = 0.8


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a photo; without landmarks it is taken to be upright and frontal."""

    box: np.ndarray  # (4,) float: x1, y1, x2, y2, from brow or hairline to chin
    landmarks: np.ndarray | None = None  # (5,2) float: the eyes, left in the upright face first; nose; mouth corners
    score: float = 1.0  # the detector's, higher is surer; 1 where a person gave the box


class Faces(list[Face]):
    """What a detector found, and the side in photo pixels of the smallest faces that it looked for."""

    def __init__(self, faces: Iterable[Face] = (), smallest: float | None = None):
        super().__init__(faces)
        self.smallest = smallest  # None: the detector does not say


@dataclass(frozen=True, eq=False)
class Detector:
    """Photo (H,W,3) uint8 RGB -> its faces, largest first; `note` tells the user which detector this is and why."""

    name: str
    note: str
    find: Callable[[np.ndarray], list[Face]]
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)  # cv2's networks are not thread-safe

    def __call__(self, photo: np.ndarray) -> Faces:
        with self._lock:
            faces = self.find(photo)
        smallest = faces.smallest if isinstance(faces, Faces) else None
        return Faces(sorted(faces, key=lambda face: -_area(face.box)), smallest)


@functools.cache
def find_detector(yunet: str | Path | None = None) -> Detector:
    """YuNet from the given file, else from the Hub or its cache, else the LBP cascade that comes with scikit-image.

    The cascade gives boxes only; the bundled landmark net adds the points. `UserError` if the given file is not a YuNet
    network or the bundled one is damaged. The choice is kept until the process ends.
    """
    if yunet is not None:
        return Detector("YuNet", f"Faces were searched with YuNet from {Path(yunet).name}.", _YuNet(yunet))
    try:
        path = fetch_file(YUNET_REPO, YUNET_FILE)
    except (OSError, httpx2.TransportError) as error:
        # Absent or refused (all of huggingface_hub's errors are OSErrors), offline, no room or right to store it.
        log.warning(
            "YuNet could not be fetched from the Hub: %s. With a network, this fetches it: hf download %s %s",
            error, YUNET_REPO, YUNET_FILE,
        )  # fmt: skip
        net = _landmark_net(LANDMARKS)
        aligned = f"aligned by our landmark net {LANDMARKS.name} (upright where it is unsure)" if net else "not aligned"
        note = (
            "Faces were searched with scikit-image's LBP cascade, which sees only frontal, nearly upright faces, and "
            f"{aligned}: the better detector, YuNet, is not here."
        )
        return Detector("LBP cascade", note, LBPCascade(net))
    return Detector("YuNet", f"Faces were searched with YuNet ({YUNET_REPO}).", _YuNet(path))


@contextmanager
def opened_by_opencv(path: str | Path, name: str, repo: str) -> Iterator[None]:
    """`UserError` if the file is missing or OpenCV cannot use it; it should be the Hub's `name` in `repo`."""
    if not Path(path).is_file():
        raise UserError(f"There is no file {path}. Give the path of {name} from the Hub's {repo}.")
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5.0 warns of its own default
    try:
        yield
    except cv2.error as error:
        raise UserError(f"OpenCV cannot use {path}. Fetch {name} from the Hub's {repo} again.") from error
    finally:
        cv2.utils.logging.setLogLevel(level)


def crop_transform(face: Face, size: int) -> np.ndarray:
    """The similarity (2,3) that takes the face in the photo to the FFHQ template in a size x size crop.

    Least squares over five points, or, of a box alone, shift and scale without rotation. `UserError` if the points or
    the box do not span a face.
    """
    to_size = size / TEMPLATE_SIDE
    if face.landmarks is not None:
        points = np.asarray(face.landmarks, float)
        if not np.ptp(points, axis=0).max() >= MIN_FACE / 2:
            raise UserError(
                "The five points of the face lie on one spot or are not numbers. Give a box around the face."
            )
        return skimage.transform.SimilarityTransform.from_estimate(points, (TEMPLATE + 0.5) * to_size - 0.5).params[:2]
    x1, y1, x2, y2 = np.asarray(face.box, float)
    if not (x2 - x1 >= MIN_FACE and y2 - y1 >= MIN_FACE):
        raise UserError(
            f"The face box {x1:g},{y1:g},{x2:g},{y2:g} is not at least {MIN_FACE} pixels wide and high. "
            "Give it as left,top,right,bottom."
        )
    cx, cy, width, height = FACE_BOX
    scale = to_size * np.sqrt(width * height / ((x2 - x1) * (y2 - y1)))
    centre = (np.array([cx, cy]) + 0.5) * to_size - 0.5
    return np.column_stack((np.eye(2) * scale, centre - scale * np.array([x1 + x2, y1 + y2]) / 2))


def refine(photo: np.ndarray, box: np.ndarray, net: LandmarkNet) -> np.ndarray | None:
    """Where the net sees the five points (5,2) of the face in the box, in photo pixels; None if they are implausible.

    That is, not those of a face, or of one that is not where the box has it, not of its size, or not upright.
    """
    size = net.config.size
    face = Face(box)
    to_crop = box_to_crop = crop_transform(face, size)
    for _ in range(LOOKS):
        landmarks = transform_points(inverse_transform(to_crop), net.locate(crop_face(photo, to_crop, size)))
        if not _plausible((transform_points(box_to_crop, landmarks) + 0.5) * TEMPLATE_SIDE / size - 0.5):
            return None
        face = Face(box, landmarks)
        to_crop = crop_transform(face, size)
    return face.landmarks


def track(photo: np.ndarray, face: Face) -> Face | None:
    """A face of the frame before, where the bundled net sees it in this one; None where it is lost or has no points."""
    net = _landmark_net(LANDMARKS)
    before = face.landmarks
    if net is None or before is None or (points := refine(photo, face.box, net)) is None:
        return None
    moved = points.mean(0) - before.mean(0)
    scale = np.linalg.norm(np.ptp(points, axis=0)) / np.linalg.norm(np.ptp(before, axis=0))
    centre, half = (face.box[:2] + face.box[2:]) / 2 + moved, (face.box[2:] - face.box[:2]) / 2 * scale
    return Face(np.concatenate((centre - half, centre + half)), points)


def whole_landmarks(face: np.ndarray) -> np.ndarray | None:
    """Where the bundled net sees the five points (5,2) of a picture (S,S,3) uint8 that is a face, in its pixels.

    As `refine` of a face that lies on the FFHQ template; None where it is nowhere near, or without the net. (Mean error
    over the distance of the eyes: 150 CelebA faces cut at 128x128 9 %, where the template is 22 % away; 50 Helen faces
    9 and 36 %. On those that the cascade finds too its box is no better a start: 8.7 and 8.6 %, 7.9 and 8.1 %.)
    """
    net = _landmark_net(LANDMARKS)
    if net is None:
        return None
    return refine(face, whole_box(len(face)), net)


def whole_box(size: int) -> np.ndarray:
    """The box x1, y1, x2, y2 of the face in a picture of size x size that is a face on the FFHQ template."""
    scale = TEMPLATE_SIDE / size
    return template_box(np.column_stack((np.eye(2) * scale, [(scale - 1) / 2] * 2)))


def template_box(to_template: np.ndarray) -> np.ndarray:
    """The upright box (4,) that YuNet would draw around a face which the similarity (2,3) takes to `TEMPLATE`."""
    centre = transform_points(inverse_transform(to_template), np.array([FACE_BOX[:2]]))[0]
    half = np.array(FACE_BOX[2:]) / 2 / np.hypot(*to_template[:, 0])
    return np.concatenate((centre - half, centre + half))


def centred_square(photo: np.ndarray) -> tuple[int, int, int]:
    """Left, top and side in pixels of the largest square in the middle of the photo."""
    height, width = photo.shape[:2]
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side


def whole_transform(photo: np.ndarray, size: int) -> np.ndarray:
    """The transform (2,3) for a picture that is already a face: its centred square fills the crop."""
    left, top, side = centred_square(photo)
    scale = size / side
    return np.column_stack((np.eye(2) * scale, scale * (0.5 - np.array([left, top])) - 0.5))


def crop_face(photo: np.ndarray, to_crop: np.ndarray, size: int) -> np.ndarray:
    """Cut (size,size,3) uint8 out of the photo, antialiased; what lies outside the photo is its reflection."""
    (x1, y1), (x2, y2) = _footprint(to_crop, size)
    height, width = photo.shape[:2]
    left, right = _with_reflection(x1, x2, width)
    top, bottom = _with_reflection(y1, y2, height)
    part = np.ascontiguousarray(photo[top:bottom, left:right])  # OpenCV does not warp sides of 32768 and more
    return _warp(part, to_crop @ _shift(left, top), size, size, cv2.BORDER_REFLECT_101)


def crop_whole(photo: np.ndarray, size: int) -> np.ndarray:
    """The centred square of the photo at size x size, Pillow's bicubic as in training."""
    left, top, side = centred_square(photo)
    return resize(photo[top : top + side, left : left + side], size)


def paste_into(
    photo: np.ndarray,
    restored: np.ndarray,
    to_crop: np.ndarray,
    crop: np.ndarray | None,
    original: np.ndarray,
    fade: tuple[bool, bool] = (True, True),
) -> None:
    """Put the restored face (S,S,3) under `soft_mask` in its place in the photo, which may have others pasted already.

    With `crop`, the face as it was cut out of `original`: what restoring changed is added to the photo, so that an
    unchanged face changes nothing and detail too fine for the crop stays. With None: the pixels are replaced, nothing
    of the photo shows through.
    """
    size = len(restored)
    (x1, y1), (x2, y2) = _footprint(to_crop, size)
    height, width = photo.shape[:2]
    left, right = np.clip((floor(x1), ceil(x2) + 1), 0, width)
    top, bottom = np.clip((floor(y1), ceil(y2) + 1), 0, height)
    if left >= right or top >= bottom:
        return

    mask = soft_mask(size, fade)[..., None]
    face = restored.astype(np.float32) if crop is None else restored.astype(np.float32) - crop
    to_photo = _shift(-left, -top) @ np.vstack((inverse_transform(to_crop), (0, 0, 1)))
    # face and mask are warped as a product, so that where the mask ends no dark fringe comes in
    warped = _warp(
        np.concatenate((face * mask, mask), axis=2), to_photo[:2], right - left, bottom - top, cv2.BORDER_REPLICATE
    )
    face, mask = warped[..., :3], warped[..., 3:]
    if crop is not None:
        face = face + mask * original[top:bottom, left:right]
    under = photo[top:bottom, left:right] * (1 - mask) + face
    photo[top:bottom, left:right] = np.rint(under.clip(0, 255))


def soft_mask(size: int, fade: tuple[bool, bool] = (True, True)) -> np.ndarray:
    """(size,size) float32: 1 over the face, falling smoothly to 0 at the border of a rounded square.

    `fade` tells along which axes, x and y, it falls; where a crop ends with its photo there is nothing to fade into.
    """
    inside = 1 - 2 / size  # the outermost pixels are 0
    centred = np.abs((np.arange(size) + 0.5) * 2 / size - 1)
    x, y = (centred * axis for axis in fade)
    radius = (x[None, :] ** 4 + y[:, None] ** 4) ** 0.25
    ramp = ((inside - radius) / 0.3).clip(0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


class _YuNet:
    """Finds faces from a dozen pixels up, with landmarks, by looking at reduced copies of the photo.

    YuNet is surest of faces from 10 to 160 pixels, so each copy but the smallest is only asked for these. (Asked for
    more, it takes large dogs for people; on the smallest copy degraded faces score 0.88 and up, dogs 0.73.)

    It takes most upside-down faces for upright ones, if less surely: 105 of them scored 0.908 at most, as did a dog in
    a turned photo, nine in ten of 143 upright faces more. So only faces above that end the search at once. Without one,
    the photo is turned; and still without one, finer copies are searched, tile by tile.
    """

    SIDES = (320, 640, 1280)
    SMALLEST, LARGEST = 12, 160
    SURE = 0.91
    TILE, OVERLAP = 640, 224  # the overlap holds the largest face, which is higher than wide

    def __init__(self, path: str | Path):
        with opened_by_opencv(path, YUNET_FILE, YUNET_REPO):
            self.network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), YUNET_SCORE)
            self._search(np.zeros((32, 32, 3), np.uint8))

    def __call__(self, photo: np.ndarray) -> Faces:
        length = max(photo.shape[:2])
        found, side = _any_way_up(photo, self._look, self._sure), self.SIDES[-1]
        while side < length and not any(map(self._sure, found)):
            side *= 2
            found = _apart([*found, *(self._look_again(photo, face) for face in self._look_closely(photo, side))])
        return Faces(found, self.SMALLEST * max(1, length / side))

    def _look(self, photo: np.ndarray) -> list[Face]:
        faces = []
        for side in self.SIDES:
            reduced, scale = _reduced(photo, side)
            for box, landmarks, score in self._search(reduced):
                if side == self.SIDES[0] or np.sqrt(_area(box)) <= self.LARGEST:
                    faces.append(Face((box + 0.5) / scale - 0.5, (landmarks + 0.5) / scale - 0.5, score))
            if scale == 1:
                break
        return _apart(faces)

    def _look_closely(self, photo: np.ndarray, side: int) -> list[Face]:
        """Small faces in a copy with a longer side of at most `side`, by overlapping tiles."""
        reduced, scale = _reduced(photo, side)
        height, width = reduced.shape[:2]
        tops, lefts = (range(0, max(1, n - self.OVERLAP), self.TILE - self.OVERLAP) for n in (height, width))
        faces = []
        for corner in np.array([(left, top) for top in tops for left in lefts]):
            left, top = corner
            tile = np.ascontiguousarray(reduced[top : top + self.TILE, left : left + self.TILE])
            for box, landmarks, score in self._search(tile):
                if np.sqrt(_area(box)) <= self.LARGEST:
                    box, landmarks = (np.tile(corner, 2) + box, corner + landmarks)
                    faces.append(Face((box + 0.5) / scale - 0.5, (landmarks + 0.5) / scale - 0.5, score))
        return _apart(faces)

    def _look_again(self, photo: np.ndarray, face: Face) -> Face:
        """The same face by the photo's own pixels: its points are exact only to a pixel or two of a copy's."""
        reach = 2 * (face.box[2:] - face.box[:2]).max()
        middle = (face.box[:2] + face.box[2:]) / 2
        left, top = corner = np.maximum(np.floor(middle - reach), 0).astype(int)
        right, bottom = np.ceil(middle + reach).astype(int) + 1
        near = [
            Face(other.box + np.tile(corner, 2), other.landmarks + corner, other.score)
            for other in self._look(np.ascontiguousarray(photo[top:bottom, left:right]))
        ]
        same = [other for other in near if _intersection(face.box, other.box) > 0.4 * _area(face.box)]
        return max(same, key=lambda other: other.score, default=face)

    def _sure(self, face: Face) -> bool:
        if face.landmarks is None or face.score < self.SURE or (face.box[2:] - face.box[:2]).min() < MIN_FACE:
            return False
        return _plausible(transform_points(crop_transform(Face(face.box), TEMPLATE_SIDE), face.landmarks))

    def _search(self, photo: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, float]]:
        self.network.setInputSize(photo.shape[1::-1])
        _, rows = self.network.detect(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
        found = []
        for row in np.asarray(rows if rows is not None else [], np.float64).reshape(-1, 15):
            x, y, width, height = row[:4]
            found.append((np.array([x, y, x + width, y + height]), row[4:14].reshape(5, 2), float(row[14])))
        return found


class LBPCascade:
    """Finds frontal, upright faces from 24 pixels up in a copy of at most 640; their landmarks only with a net.

    A face must be found in the photo and in its mirror image, and be at least half as wide as the largest: that halves
    the recall on difficult faces but takes away nearly all false alarms. With a net, a photo without a face that has
    plausible points is searched turned, too.
    """

    SIDE = 640
    WINDOW = 24

    def __init__(self, net: LandmarkNet | None = None):
        self.net = net
        self.cascade = skimage.feature.Cascade(skimage.data.lbp_frontal_face_cascade_filename())

    def __call__(self, photo: np.ndarray) -> Faces:
        smallest = self.WINDOW * max(1, max(photo.shape[:2]) / self.SIDE)
        if self.net is None:  # which way up a box is cannot be seen from it
            return Faces(self._look(photo), smallest)
        found = _any_way_up(photo, self._look, lambda face: face.landmarks is not None)
        least = max((_area(face.box) for face in found), default=0) / 4
        return Faces([face for face in found if _area(face.box) >= least], smallest)

    def _look(self, photo: np.ndarray) -> list[Face]:
        reduced, scale = _reduced(photo, self.SIDE)
        width = reduced.shape[1]
        windows = [(window, False) for window in self._search(reduced)]
        if not windows:
            return []
        mirrored = self._search(np.ascontiguousarray(reduced[:, ::-1]))
        windows += [(np.array([width - x2, y1, width - x1, y2]), True) for x1, y1, x2, y2 in mirrored]
        windows.sort(key=lambda pair: -_area(pair[0]))

        groups: list[list[tuple[np.ndarray, bool]]] = []  # overlapping windows are one face
        for window in windows:
            for group in groups:
                smaller = min(_area(window[0]), _area(group[0][0]))
                if _intersection(window[0], group[0][0]) > 0.5 * smaller:
                    group.append(window)
                    break
            else:
                groups.append([window])
        merged = [
            np.mean([window for window, _ in group], axis=0)
            for group in groups
            if len({is_mirrored for _, is_mirrored in group}) == 2
        ]
        smallest = max(map(_area, merged), default=0) / 4
        boxes = [self._face_box(window) / scale - 0.5 for window in merged if _area(window) >= smallest]
        points = [None if self.net is None else refine(photo, box, self.net) for box in boxes]
        return [Face(box, five, 0.4 if five is None else 0.5) for box, five in zip(boxes, points, strict=True)]

    def _search(self, photo: np.ndarray) -> list[np.ndarray]:
        height, width = photo.shape[:2]
        if min(height, width) <= self.WINDOW:
            return []
        found = self.cascade.detect_multi_scale(
            photo, scale_factor=1.2, step_ratio=1, min_size=(self.WINDOW,) * 2, max_size=(height, width)
        )
        return [np.array([w["c"], w["r"], w["c"] + w["width"], w["r"] + w["height"]], float) for w in found]

    @staticmethod
    def _face_box(window: np.ndarray) -> np.ndarray:
        """The cascade's square window -> the box that YuNet would have drawn."""
        x1, y1, x2, _ = window
        scale = (x2 - x1) / LBP_BOX[2]
        corner = np.array([x1, y1]) - scale * (np.array(LBP_BOX[:2]) - LBP_BOX[2] / 2)  # of the template, in the photo
        return template_box(np.column_stack((np.eye(2), -corner)) / scale)


def _any_way_up(
    photo: np.ndarray, look: Callable[[np.ndarray], list[Face]], sure: Callable[[Face], bool]
) -> list[Face]:
    """The faces that `look` finds; unless it is sure of one at least, also those it is sure of in the photo turned.

    By 90, 180 and 270 degrees. Of two in one place the one that scores higher is kept.
    """
    found = look(photo)
    if any(map(sure, found)):
        return found
    height, width = photo.shape[:2]
    for quarters in (1, 2, 3):
        for face in filter(sure, look(np.ascontiguousarray(np.rot90(photo, quarters)))):
            corners = _turned_back(face.box.reshape(2, 2), quarters, width, height)
            box = np.concatenate((corners.min(axis=0), corners.max(axis=0)))
            points = None if face.landmarks is None else _turned_back(face.landmarks, quarters, width, height)
            found.append(Face(box, points, face.score))
    return _apart(found)


def _turned_back(points: np.ndarray, quarters: int, width: int, height: int) -> np.ndarray:
    """Points (N,2) xy in np.rot90(photo, quarters) -> in the photo."""
    x, y = points.T
    back = {1: (width - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, height - 1 - x)}
    return np.stack(back[quarters], axis=1)


def _apart(faces: Sequence[Face]) -> list[Face]:
    """Of faces that overlap by more than 0.4 of their union, the one with the highest score."""
    if not faces:
        return []
    boxes = [(*face.box[:2], *(face.box[2:] - face.box[:2])) for face in faces]
    kept = cv2.dnn.NMSBoxes(boxes, [face.score for face in faces], 0, 0.4)
    return [faces[i] for i in kept]


def _warp(image: np.ndarray, matrix: np.ndarray, width: int, height: int, border: int) -> np.ndarray:
    """Affine warp without aliasing: sampled at least once for each pixel of `image`, then averaged."""
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    finer = max(1, ceil(1 / scale - 1e-6))
    finer = min(finer, max(1, 4096 // max(width, height)))  # enough for a smooth average, and bounds the memory
    matrix = finer * matrix + np.array([[0, 0, (finer - 1) / 2]] * 2)
    flags = cv2.INTER_CUBIC if finer == 1 else cv2.INTER_LINEAR
    warped = cv2.warpAffine(image, matrix, (width * finer, height * finer), flags=flags, borderMode=border)
    if finer > 1:
        warped = cv2.resize(warped, (width, height), interpolation=cv2.INTER_AREA)
    return warped


def _footprint(to_crop: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The smallest upright rectangle in the photo that holds the crop: its (x1, y1) and (x2, y2)."""
    corners = np.array([(x, y, 1) for x in (-0.5, size - 0.5) for y in (-0.5, size - 0.5)])
    corners = corners @ inverse_transform(to_crop).T
    return corners.min(axis=0), corners.max(axis=0)


def _with_reflection(low: float, high: float, length: int) -> tuple[int, int]:
    """The part of a photo's axis that low .. high and its reflection at the photo's edges touch."""
    first, last = min(low, 2 * length - high), max(high, -low)
    start = min(max(floor(first) - 3, 0), length - 1)
    return start, max(min(ceil(last) + 4, length), start + 1)


@functools.cache
def _landmark_net(folder: Path) -> LandmarkNet | None:
    return LandmarkNet.from_pretrained(folder) if folder.is_dir() else None


def _plausible(points: np.ndarray) -> bool:
    """Whether five points in a box's own 512x512 crop are a face that the box may well have meant."""
    if not np.ptp(points, axis=0).max() > 0:  # on one spot, or not numbers
        return False
    to_points = skimage.transform.SimilarityTransform.from_estimate(TEMPLATE, points).params[:2]
    scale = np.hypot(*to_points[:, 0])
    degrees = np.degrees(np.arctan2(to_points[1, 0], to_points[0, 0]))
    shift = np.linalg.norm(points.mean(axis=0) - TEMPLATE.mean(axis=0))
    misfit = np.linalg.norm(transform_points(to_points, TEMPLATE) - points, axis=1).mean()
    eyes = np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])
    return bool(1 / 1.6 < scale < 1.6 and abs(degrees) < 45 and shift < eyes and misfit < 0.25 * eyes * scale)


def transform_points(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N,2) xy through an affine (2,3)."""
    return points @ affine[:, :2].T + affine[:, 2]


def inverse_transform(affine: np.ndarray) -> np.ndarray:
    """The affine (2,3) that undoes an affine (2,3)."""
    return np.linalg.inv(np.vstack((affine, (0, 0, 1))))[:2]


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def _reduced(photo: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """A copy with a longer side of at most `side`, and its scale."""
    height, width = photo.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale == 1:
        return photo, scale
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(photo, shape, interpolation=cv2.INTER_AREA), scale


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _intersection(a: np.ndarray, b: np.ndarray) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(max(width, 0) * max(height, 0))
