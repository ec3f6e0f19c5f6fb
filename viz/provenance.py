"""What makes a finding anew: which network, by which weights, under which versions.

name, folder, .pth or Hub id -> weights_file -> SHA-256 -> model_record; versions
"""

import platform
from dataclasses import asdict
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path

from sparnet.checkpoints import MODELS
from sparnet.hub import WEIGHTS, fetch
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
        "weights_sha256": sha256(weights),
        "config": asdict(model.config),
    }


def weights_file(source: str, revision: str | None = None) -> Path:
    """The file that `load_model` has just read; of a Hub repo in its cache, in a folder named by the commit."""
    if source in MODELS:
        return MODELS[source].weights
    path = Path(source)
    if path.exists():
        return path / WEIGHTS if path.is_dir() else path
    return fetch(source, revision, local_files_only=True) / WEIGHTS


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide the numbers and the figures."""
    names = ("torch", "numpy", "opencv-python", "scikit-image", "pillow", "matplotlib")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
