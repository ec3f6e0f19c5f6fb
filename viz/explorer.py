"""What the browser needs to show any map of a face over anything at once, without the model or the server.

map (h,w) -> encoded: 16-bit levels of its own range -> static/maps.js: decoded, painted
degraded, restored, alphas -> payload  -+-> static/beside.js: "What it looked at"
features -> strengths, when asked for  -+
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from torch import Tensor

from sparnet.attention import COLORMAPS, MapNumbers, color_table, feature_strength, mean_map
from sparnet.images import data_url, encode_png

_NONE = 65535  # the level of a place without a value


def payload(degraded: np.ndarray, restored: np.ndarray, alphas: dict[str, Tensor], token: str = "") -> dict:
    """One face for "What it looked at"; pictures (S,S,3) uint8, maps (C,h,w) of the units; token: names the face.

    On the page, where `script` reads a file of viz/static and `select` is told {"features": true} once a visitor asks:

        scripts = script("maps.js") + script("kept.js") + script("beside.js")
        maps = gr.HTML(payload(...), html_template="", js_on_load=scripts, elem_id="maps", features=None, unit=None)
        maps.select(handler, ..., maps)  # -> gr.HTML(features=strengths(features, token)) or {"token", "error"}

    `unit` chooses one from outside, as a link does.
    """
    return {
        "token": token,
        "degraded": data_url(encode_png(degraded)),
        "restored": data_url(encode_png(restored)),
        "tables": color_tables(),
        "units": [_unit(name, alpha) for name, alpha in alphas.items()],
    }


def strengths(features: dict[str, Tensor], token: str = "") -> dict:
    """How strong each unit's features (C,h,w) are at every place; they cost another run of the network."""
    return {"token": token, "units": {name: encoded(feature_strength(f)) for name, f in features.items()}}


def color_tables(names: Sequence[str] = COLORMAPS) -> dict[str, str]:
    """Colour map name -> its 256 RGB triples, base64."""
    return {name: _base64(color_table(name)) for name in names}


def encoded(values: np.ndarray) -> dict:
    """A map (h,h) for the page, NaN where it has no value: exact to 1/131068 of its range, lowest to highest."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    share = (values - low) / max(high - low, 1e-12)
    levels = np.where(np.isnan(share), _NONE, np.rint(np.nan_to_num(share) * (_NONE - 1)))
    return {"side": len(values), "values": _base64(levels.astype("<u2")), "range": [low, high]}


def _unit(name: str, alpha: Tensor) -> dict:
    mean = mean_map(alpha)
    unit = {"name": name, "channels": alpha.shape[-3], "numbers": asdict(MapNumbers.of(mean)), **encoded(mean)}
    if mean.size == 1:  # channel attention, which knows no places
        gates = alpha.float().flatten().tolist()
        unit |= {"gates": gates, "range": [min(gates), max(gates)]}
    return unit


def _base64(array: np.ndarray) -> str:
    return b64encode(array.tobytes()).decode()
