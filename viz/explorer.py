"""What the browser needs to show any map of a face over anything at once, without the model or the server.

degraded, restored, alphas, features -> payload: JSON with pictures as PNG and maps as 16-bit numbers -> explorer.js
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

from sparnet.attention import COLORMAPS, MapNumbers, color_table, feature_strength, mean_map
from sparnet.images import data_url, encode_png

_SCREEN = 1280
_LEVELS = 65535  # a map is sent in 16 bits: exact to 0.00001, and 0.001 is shown


def payload(
    degraded: np.ndarray, restored: np.ndarray, alphas: dict[str, Tensor], features: dict[str, Tensor] | None = None
) -> dict:
    """One face for the explorer; pictures (S,S,3) uint8, maps (C,h,w), features the same keys or None."""
    return {
        "side": restored.shape[0],
        "degraded": _png(degraded),
        "restored": _png(restored),
        "tables": color_tables(),
        "units": [_unit(name, alpha, features[name] if features else None) for name, alpha in alphas.items()],
    }


def photo_payload(photo: np.ndarray, restored: np.ndarray | None, boxes: list[np.ndarray]) -> dict:
    """A photo (H,W,3) uint8 before and, if it is known, after; its faces x1, y1, x2, y2 in shares of its sides."""
    height, width = photo.shape[:2]
    shares = [np.clip(box / [width, height, width, height], 0, 1) for box in boxes]
    return {
        "original": _for_a_screen(photo),
        "restored": None if restored is None else _for_a_screen(restored),
        "faces": [{"box": share.round(5).tolist()} for share in shares],
    }


def color_tables(names: Sequence[str] = COLORMAPS) -> dict[str, str]:
    """Colour map name -> its 256 RGB triples, base64."""
    return {name: _base64(color_table(name)) for name in names}


def _unit(name: str, alpha: Tensor, features: Tensor | None) -> dict:
    mean = mean_map(alpha)
    if features is not None:  # channel attention has one number a channel: the same at every place of the features
        mean = np.broadcast_to(mean, features.shape[-2:])
    unit = {
        "name": name,
        "group": name.partition(".")[0],
        "size": mean.shape[0],
        "channels": alpha.shape[-3],
        "numbers": asdict(MapNumbers.of(mean)),
        "alpha": _base64((mean * _LEVELS).round().astype("<u2")),
    }
    if features is not None:
        strength = feature_strength(features)
        strongest = float(strength.max())
        unit["strongest"] = strongest
        unit["features"] = _base64((strength / max(strongest, 1e-12) * 255).round().astype(np.uint8))
    return unit


def _for_a_screen(photo: np.ndarray) -> str:
    """A preview, not a result: at most _SCREEN pixels a side, as JPEG."""
    file, image = BytesIO(), Image.fromarray(photo)
    image.thumbnail((_SCREEN, _SCREEN))
    image.save(file, "JPEG", quality=92)
    return data_url(file.getvalue(), "jpeg")


def _png(image: np.ndarray) -> str:
    return data_url(encode_png(image))


def _base64(array: np.ndarray) -> str:
    return b64encode(array.tobytes()).decode()
