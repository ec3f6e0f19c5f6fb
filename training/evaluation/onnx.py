"""Judges that come as ONNX files, run by OpenCV.

crop (S,S,3) uint8 RGB -> (crop / 255 - mean) / std -> (1,3,S,S) -> cv2.dnn -> (D,)
"""

from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from sparnet.errors import UserError


class OnnxNetwork:
    """(S,S,3) uint8 RGB -> (D,) float64, with pixels as (p / 255 - mean) / std; not thread-safe, as cv2's networks are.

    `UserError` if the file is missing, damaged or made for crops of another size.
    """

    def __init__(
        self, file: str | Path, side: int, mean: tuple[float, ...] = (0,) * 3, std: tuple[float, ...] = (1,) * 3
    ):
        if not Path(file).is_file():
            raise UserError(f"There is no file {file}. Give the path of an ONNX network for {side}x{side} crops.")
        self.mean, self.std = np.array(mean), np.array(std)
        try:
            self.network = cv2.dnn.readNetFromONNX(str(file))
            self.length = self(np.zeros((side, side, 3), np.uint8)).size
        except cv2.error as error:
            raise UserError(f"OpenCV cannot run {file} on {side}x{side} RGB crops: {error.err}") from error
        if (outputs := len(self.network.getUnconnectedOutLayersNames())) != 1:
            raise UserError(f"{file} has {outputs} outputs where one is expected. Is it another network's file?")

    def __call__(self, crop: ndarray) -> ndarray:
        pixels = ((crop / 255 - self.mean) / self.std).astype(np.float32)
        self.network.setInput(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
        return self.network.forward().ravel().astype(float)
