"""A film for Chromium's fake camera: the astronaut's face, moving."""

from pathlib import Path

import cv2
import numpy as np
import skimage.data

SIDE, FRAMES = 480, 60


def film(file: Path) -> None:
    """Write a Motion JPEG of `FRAMES` pictures."""
    astronaut = skimage.data.astronaut()[0:320, 60:380]
    with file.open("wb") as out:
        for t in np.linspace(0, 2 * np.pi, FRAMES, endpoint=False):
            move = np.float32([[1.4, 0, 60 * np.sin(t)], [0, 1.4, 30 * np.cos(t)]])
            picture = cv2.warpAffine(astronaut, move, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
            out.write(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
