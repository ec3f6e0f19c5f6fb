"""Named ways to compare: what is done to the sharp face before the methods see it, and what the paper says of it.

name -> Protocol(degradation, conditions, published) -> training.evaluate

sharp face -> move -> moved sharp face -> degradation -> degraded face -> spoil -> what every method is given
              '------------ Condition: off-alignment ------------- or noise, blur, JPEG ------------'
"""

import re
from dataclasses import dataclass
from hashlib import sha256

import cv2
import numpy as np
from numpy import ndarray

from sparnet.errors import UserError
from sparnet.faces import crop_face, transform_points
from training.degradations import Gaussian, Jpeg, Noise


@dataclass(frozen=True)
class Condition:
    """One point of a sweep: the sharp face is moved before its degradation, or the degraded face is spoilt after it.

    Lengths are shares of the face's side, so that a level means the same at every size.
    """

    sweep: str = "as it is"
    level: float = 0.0

    def moved(self, sharp: ndarray, points: ndarray | None) -> tuple[ndarray, ndarray | None]:
        """Sharp face (S,S,3) uint8 and its landmarks (N,2) after the move; what comes in at the border is mirrored."""
        size, centre = len(sharp), ((len(sharp) - 1) / 2,) * 2
        match self.sweep:
            case "shift":
                move = np.array([(1, 0, self.level * size), (0, 1, 0)])
            case "rotation":
                move = cv2.getRotationMatrix2D(centre, self.level, 1.0)
            case "scale":
                move = cv2.getRotationMatrix2D(centre, 0.0, self.level)
            case _:
                return sharp, points
        return crop_face(sharp, move, size), points if points is None else transform_points(move, points)

    def spoilt(self, degraded: ndarray, name: str, seed: int) -> ndarray:
        """Degraded face (S,S,3) uint8, with the noise drawn from the picture's name and the seed."""
        match self.sweep:
            case "noise":
                draw = int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:8])
                return Noise(self.level, per_channel=True, seed=draw)(degraded)
            case "blur":
                return Gaussian(self.level * len(degraded))(degraded)
            case "JPEG":
                return Jpeg(int(self.level))(degraded)
        return degraded


SWEEPS = {  # name: (what a level is, levels)
    "noise": ("sigma, in levels of 0-255", (5, 10, 20, 40)),
    "blur": ("sigma, as a share of the side", (0.01, 0.02, 0.04, 0.08)),
    "JPEG": ("quality", (90, 60, 30, 10)),
    "shift": ("to the right, as a share of the side", (-0.1, -0.05, 0.05, 0.1)),
    "rotation": ("degrees, anticlockwise", (-30, -15, 15, 30)),
    "scale": ("factor", (0.7, 0.85, 1.15, 1.3)),
}
AS_IT_IS = Condition()


@dataclass(frozen=True)
class Published:
    """A row of somebody's table, for orientation: never measured here. None: not stated there."""

    method: str
    psnr: float | None = None  # dB on Y
    ssim: float | None = None
    landmark_auc: float | None = None  # share; the threshold is not known
    identity: float | None = None  # cosine, of another data set: UMD-Face
    fid: float | None = None


@dataclass(frozen=True)
class Protocol:
    """What a comparison is called and does; fields that are None are decided by the models or the command line."""

    name: str
    about: str
    degradation: str | None = None  # bicubic8, blind: see `factor_of`
    size: int | None = None  # common side of the faces in px
    sharp: bool = True  # whether there is a ground truth
    conditions: tuple[Condition, ...] = (AS_IT_IS,)
    published: tuple[Published, ...] = ()
    published_on: str = ""


_PAPER = (  # arXiv 2012.01211, on Helen
    Published("bicubic", 23.52, 0.641, 0.044, 0.185),
    Published("RCAN", 26.40, 0.765, 0.565, 0.537),
    Published("Wavelet-SRNet", 26.42, 0.771, 0.584, 0.515),
    Published("SPARNet", 26.59, 0.772, 0.585, 0.555),
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("plain", "the degradation that the models were made for, or the one that is given"),
        Protocol(
            "helen-16to128",
            "the paper's main table: Helen faces of 16x16 restored to 128x128",
            degradation="bicubic8",
            size=128,
            published=_PAPER,
            published_on="the paper's own cut of Helen, identity on UMD-Face; threshold of the landmark AUC unknown",
        ),
        Protocol("celeba-16to128", "CelebA test faces of 16x16 restored to 128x128", degradation="bicubic8", size=128),
        Protocol(
            "hd-blind",
            "512x512 faces after SPARNetHD's blind degradation, one draw for each picture's name",
            degradation="blind",
            size=512,
            published=(
                Published("SPARNetHD, paper", fid=27.16),
                Published("SPARNetHD 2D, released", fid=26.72),
                Published("SPARNetHD 3D, released", fid=28.42),
            ),
            published_on="CelebA-TestN, which is not this folder",
        ),
        Protocol(
            "real",
            "bad photos without a ground truth: figures that need none, and a contact sheet to look at",
            sharp=False,
        ),
        Protocol(
            "attention-units",
            "what attention is worth: the same network with attention in fewer and more of its units",
            degradation="bicubic8",
            size=128,
            published=(Published("fewest attention units", 26.30), Published("most attention units", 26.60)),
            published_on="Helen in the paper",
        ),
        Protocol(
            "robustness",
            "how the scores fall with noise, blur, JPEG and off-alignment",
            conditions=(
                AS_IT_IS,
                *(Condition(sweep, level) for sweep, (_, levels) in SWEEPS.items() for level in levels),
            ),
        ),
    )
}


def factor_of(degradation: str) -> int | None:
    """By how much the sides are reduced: 8 for "bicubic8", which is the paper's; None for "blind". Else `UserError`."""
    if degradation == "blind":
        return None
    if match := re.fullmatch(r"bicubic([1-9]\d*)", degradation):
        return int(match[1])
    raise UserError(f"There is no degradation {degradation!r}; there are bicubic4, bicubic8, bicubic16 and blind.")


def find_protocol(name: str) -> Protocol:
    """`UserError` if there is no such protocol."""
    if name not in PROTOCOLS:
        raise UserError(f"There is no protocol {name!r}; there are {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]
