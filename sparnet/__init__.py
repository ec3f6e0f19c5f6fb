"""Restore a degraded face and see the attention that did it.

photo -> Restorer(load_model("sparnet-tiny")) -> Restoration: the photo, its restored faces, every attention map
"""

from sparnet.checkpoints import convert_released, load_model
from sparnet.model import SPARNet, SPARNetConfig
from sparnet.restorer import Restorer

__all__ = ["Restorer", "SPARNet", "SPARNetConfig", "convert_released", "load_model"]
