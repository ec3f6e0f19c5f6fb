"""What makes a finding anew: which network, by which weights, under which versions.

name, folder, .pth or Hub id -> weights_file -> SHA-256 -> model_record; versions
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparnet.checkpoints import MODELS, weights_file
from sparnet.files import sha256_of
from sparnet.model import SPARNet


def model_record(source: str, model: SPARNet, revision: str | None = None) -> dict:
    """JSON values of a model that `load_model(source, revision=revision)` has just given; of a path its last parts."""
    weights = weights_file(source, revision)
    is_file = source not in MODELS and Path(source).exists()
    is_repo = source not in MODELS and not is_file
    return {
        "id": "/".join(Path(source).resolve().parts[-2:]) if is_file else source,
        "revision": weights.parent.name if is_repo else None,  # the commit
        "weights": weights.name,
        "weights_sha256": sha256_of(weights),
        "config": asdict(model.config),
    }


def provenance(command: str, models: list[dict], faces: list[dict], settings: Mapping[str, Any], device: str) -> dict:
    """What makes a finding anew, as JSON values."""
    return {
        "command": command,
        "models": models,
        "faces": faces,
        "settings": settings,
        "device": device,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide the numbers and the figures."""
    names = ("torch", "numpy", "opencv-python", "scikit-image", "pillow", "matplotlib")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
