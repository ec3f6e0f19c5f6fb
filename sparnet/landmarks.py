"""The points of a face: five that a small net sees, which turn a detector's box into an alignment, or 68 in a file.

    crop (64,64,3) uint8 -> convolutions down to 4x4, back up to 16x16 -> 5 maps -> softmax -> mean xy -> (5,2)
                              '---------------- + ----------------'

The mean place under each map is exact to a fraction of a pixel, and it is differentiable.

    picture.json, or else picture.pts, beside picture.jpg -> read_landmarks -> (68,2) of 300-W
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sparnet.errors import UserError
from sparnet.hub import StrictHubMixin
from sparnet.images import to_tensor

MIRRORED = [1, 0, 2, 4, 3]  # the points of a mirrored face, in their order


@dataclass(frozen=True)
class LandmarkConfig:
    """The shape of a `LandmarkNet`: the crop's side and the channels at a half, quarter, eighth, sixteenth of it."""

    size: int = 64
    channels: tuple[int, int, int, int] = (16, 32, 64, 96)

    def __post_init__(self):
        object.__setattr__(self, "channels", tuple(self.channels))  # JSON has only lists
        if self.size < 16 or self.size % 16 or len(self.channels) != 4 or min(self.channels) < 1:
            raise ValueError(
                f"size is {self.size}, which must be a multiple of 16, and channels {self.channels} must be four"
            )


class LandmarkNet(nn.Module, StrictHubMixin):
    """Crops (B,3,S,S) in [-1,1] -> (B,5,2): xy of eyes (left in the crop first), nose tip, mouth corners, in pixels."""

    config_class = LandmarkConfig

    def __init__(self, config: LandmarkConfig | None = None):
        super().__init__()
        self.config = config or LandmarkConfig()
        half, quarter, eighth, sixteenth = self.config.channels
        self.stem = nn.Sequential(_block(3, half, 2), _block(half, quarter, 2), _block(quarter, quarter))
        self.eighth = nn.Sequential(_block(quarter, eighth, 2), _block(eighth, eighth))
        self.sixteenth = nn.Sequential(
            _block(eighth, sixteenth, 2), _block(sixteenth, sixteenth), nn.Conv2d(sixteenth, eighth, 1)
        )
        self.up = nn.Sequential(_block(eighth, eighth), nn.Conv2d(eighth, quarter, 1))
        self.maps = nn.Sequential(_block(quarter, quarter), nn.Conv2d(quarter, 5, 1))

    def forward(self, crops: Tensor) -> Tensor:
        fine = self.stem(crops)
        middle = self.eighth(fine)
        middle = self.up(middle + interpolate(self.sixteenth(middle), scale_factor=2.0))
        maps = self.maps(fine + interpolate(middle, scale_factor=2.0))
        side = maps.shape[-1]
        weights = maps.flatten(2).softmax(dim=2).unflatten(2, (side, side))
        places = (torch.arange(side, device=maps.device) + 0.5) * (self.config.size / side) - 0.5
        return torch.stack(((weights.sum(dim=2) * places).sum(dim=2), (weights.sum(dim=3) * places).sum(dim=2)), dim=2)

    @torch.inference_mode()
    def locate(self, crop: np.ndarray) -> np.ndarray:
        """(S,S,3) uint8 RGB -> (5,2) float xy in its pixels: the mean of what is seen in it and in its mirror image."""
        face = to_tensor(crop)
        points, mirrored = self(torch.cat((face, face.flip(3)))).double().numpy()
        mirrored = mirrored[MIRRORED] * (-1, 1) + (self.config.size - 1, 0)
        return (points + mirrored) / 2


def landmarks_file(picture: str | Path) -> Path | None:
    """The .json or else the .pts beside the picture; None without either."""
    files = (Path(picture).with_suffix(suffix) for suffix in (".json", ".pts"))
    return next((file for file in files if file.is_file()), None)


def read_landmarks(picture: str | Path) -> np.ndarray | None:
    """Known landmarks (68,2) in pixels of the picture, from its `landmarks_file`; None without one.

    JSON: {"landmarks68": [[x, y], ...]}, the first pixel's centre at 0. The .pts of 300-W count pixels from 1, so 1 is
    subtracted. `UserError` if the file does not hold 68 points.
    """
    file = landmarks_file(picture)
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            points = np.array(json.loads(text)["landmarks68"], float)
        else:
            points = np.array(text.partition("{")[2].partition("}")[0].split(), float).reshape(-1, 2) - 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as landmarks ({error}). Correct it or take it away.") from error
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise UserError(f"{file} does not hold 68 points x, y. Correct it or take it away.")
    return points


def _block(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


def five_of_68(landmarks68: np.ndarray) -> np.ndarray:
    """The five of the 68 points: means of the eyes' contours, tip of the nose, corners of the mouth."""
    return np.array([landmarks68[36:42].mean(axis=0), landmarks68[42:48].mean(axis=0), *landmarks68[[30, 48, 54]]])
