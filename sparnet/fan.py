"""68 points of a face by 2D-FAN (Bulat and Tzimiropoulos 2017), of the package face-alignment, in our detector's boxes.

photo, faces -> each box, cut as FAN was trained -> FAN, and of the mirror image -> 68 heatmaps -> (68,2) xy px

Its own face detector, which it would download, is not used. The package, which takes Numba with it, is
imported when it is asked for.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import torch
from torch import nn

from sparnet.errors import UserError
from sparnet.faces import Detector, Face

NAME = "fan"  # what a command line calls it
WEIGHTS = "2DFAN-4"  # what the package calls them
REFERENCE = 165  # pixels of a face's box, width and height averaged, at scale 1: what the package has for YuNet's boxes


def is_fan(given: str) -> tuple[bool, str | None]:
    """Whether an option asks for FAN, as fan or fan=FILE, and the file of its weights if it names one."""
    name, _, weights = given.partition("=")
    return name == NAME, weights or None


class FanLandmarks:
    """`UserError` if the package is missing, or its weights are neither given nor to be had."""

    def __init__(
        self,
        detector: Detector | None = None,
        weights: str | Path | None = None,
        device: str = "cpu",
        network: nn.Module | None = None,
    ):
        """weights: a file as the authors publish it; None: their server's, kept by PyTorch after the first time.

        network: crops (B,3,256,256) in 0..1 -> heatmaps (B,68,64,64), or a list whose last is; None: FAN.
        """
        try:
            from face_alignment import FaceAlignment, LandmarksType  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                f"The landmarks of FAN need the package face-alignment, which cannot be used here ({error}): "
                "pip install 'face-alignment>=1.5', or give the file of a 68-point ONNX network."
            ) from error

        class Fan(FaceAlignment):
            def _load_native(self, network_name, network_size, device, dtype):  # pyright: ignore[reportIncompatibleMethodOverride]
                return (network or _network(weights)).to(device, dtype=dtype).eval()

        self.detector = detector
        self.fan = Fan(LandmarksType.TWO_D, device=device, compile=False, face_detector="folder")
        self.fan.face_detector = SimpleNamespace(reference_scale=REFERENCE)  # of the boxes that it is given

    def points(self, photo: np.ndarray, faces: Sequence[Face]) -> list[np.ndarray]:
        """(H,W,3) uint8 RGB and its faces -> (68,2) float xy each, in pixels of the photo, 0 at the first's centre."""
        boxes = [[*map(float, face.box), 1.0] for face in faces]
        if not boxes:
            return []
        found = self.fan.get_landmarks_from_image(photo, detected_faces=boxes)
        return [np.asarray(points, float) for points in found or ()]

    def __call__(self, photo: np.ndarray) -> np.ndarray | None:
        """(H,W,3) uint8 RGB -> (68,2) of the largest face that the detector finds, None where it finds none."""
        if self.detector is None:
            raise ValueError("without a detector only the points of given faces can be found")
        found = self.detector(photo)
        return self.points(photo, found[:1])[0] if found else None


def _network(weights: str | Path | None) -> nn.Module:
    """FAN with these weights, read as data; `UserError` if they cannot be had or are not FAN's."""
    from face_alignment.api import FAN, NetworkSize, load_file_from_url, models_urls  # pyright: ignore

    if weights is None:
        try:
            weights = load_file_from_url(models_urls[WEIGHTS])
        except (URLError, OSError) as error:
            raise UserError(
                f"The weights of FAN are not here and could not be downloaded ({error}). Fetch {models_urls[WEIGHTS]} "
                "and give the file, as fan=FILE; or give that of a 68-point ONNX network."
            ) from error
    if not Path(weights).is_file():
        raise UserError(f"There is no file {weights}. Give FAN's weights, {models_urls[WEIGHTS]}.")
    network = FAN(int(NetworkSize.LARGE))
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file can make the reader fail in any way
        raise UserError(f"{weights} does not hold FAN's weights. Fetch {models_urls[WEIGHTS]} again.") from error
    return network
