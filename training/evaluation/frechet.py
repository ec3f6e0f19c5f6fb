"""Do the restored faces, as a crowd, look like the sharp ones? Frechet distance of their features.

    restored -> features (N,D) -> mean, covariance --.
    sharp    -> features (M,D) -> mean, covariance ---- distance of the two Gaussians

It is called FID only with the published Inception weights, run by torchmetrics and torch-fidelity. On other features
the number means something else and has another name.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy import ndarray

from sparnet.errors import UserError
from sparnet.files import sha256_of

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def frechet_distance(a: ndarray, b: ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to features (N,D) and (M,D), at least 0; in float64.

    |mean_a - mean_b|^2 + Tr(A + B - 2 (A B)^(1/2)) with the sample covariances A, B (Heusel et al. 2017, equation 6).
    `UserError` for fewer than two faces. It is biased upwards while N and M are not well above D.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(a), len(b)) < 2:
        raise UserError(
            f"A Frechet distance of {len(a)} and {len(b)} faces cannot be: a covariance needs at least two. Give more."
        )
    shift = a.mean(axis=0) - b.mean(axis=0)
    a, b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b))
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    # A B has the eigenvalues of the symmetric A^(1/2) B A^(1/2), and these need no complex numbers
    product = np.linalg.eigvalsh(root @ b @ root)
    return float(max(shift @ shift + np.trace(a) + np.trace(b) - 2 * np.sqrt(product.clip(0)).sum(), 0))


class InceptionDistances:
    """FID (Heusel et al. 2017) of several methods, face by face in constant memory, on pool-3 features of Inception.

    The sharp pictures' features are computed once for all methods. `weights` is the published file of TensorFlow's
    Inception; without it torch-fidelity downloads it. Several processes each add their faces. `UserError` if a package
    is missing, the weights are not available, or the file is another one.
    """

    def __init__(self, methods: Iterable[str], weights: str | Path | None = None, device: torch.device | str = "cpu"):
        if weights is not None:
            _check_published(Path(weights))
        self.device = device
        self.sharp = _metric(weights, device)  # of which only the real pictures' sums are used
        self.restored = {method: _metric(weights, device) for method in methods}  # and of these the others'

    def add(self, sharp: ndarray, restored: Mapping[str, ndarray]) -> None:
        """One more face, (H,W,3) uint8 RGB, and what the methods made of it."""
        self.sharp.update(self._batch(sharp), real=True)
        for method, face in restored.items():
            self.restored[method].update(self._batch(face), real=False)

    def values(self) -> dict[str, float]:
        """The distances over all processes, in each of which this is called once, when every face was added.

        `UserError` for fewer than two faces.
        """
        found = {}
        for method, metric in self.restored.items():
            metric.merge_state(self.sharp)
            with metric.sync_context():  # outside of it, the numbers are those of this process
                if min(metric.real_features_num_samples, metric.fake_features_num_samples) < 2:
                    raise UserError("FID needs at least two faces, and thousands to mean something. Give more.")
                # a process that had no face does not know the numbers' type, and cannot compute
                own = float(metric.compute()) if metric.update_called else None
            found[method] = next(value for value in gather_object([own]) if value is not None)
        return found

    def _batch(self, face: ndarray) -> torch.Tensor:
        return torch.from_numpy(face.copy()).permute(2, 0, 1)[None].to(self.device)


def _metric(weights: str | Path | None, device: torch.device | str) -> Any:
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance  # pyright: ignore[reportMissingImports]  optional

        return FrechetInceptionDistance(
            feature_extractor_weights_path=None if weights is None else str(weights),
            antialias=False,  # TensorFlow's resize to 299, as in the published figures, is the one without
            sync_on_compute=False,  # but around it, so that the faces are counted over all processes
        ).to(device)
    except OSError as error:  # all of urllib's errors are
        raise UserError(
            f"The Inception weights of FID could not be downloaded ({error}). "
            f"Fetch {INCEPTION_URL} and give the file by --inception."
        ) from error
    except (ImportError, RuntimeError, TypeError) as error:  # a torchvision that does not fit, an old torchmetrics
        raise UserError(
            f"FID needs packages that cannot be used here ({error}): pip install 'torchmetrics[image]>=1.9', "
            "with the torchvision that belongs to your torch."
        ) from error


def _check_published(file: Path) -> None:
    """`UserError` unless the file is the published one: no others make a FID, and torch-fidelity unpickles any."""
    try:
        digest = sha256_of(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}. Fetch {INCEPTION_URL} and give the file.") from error
    if digest != INCEPTION_SHA256:
        raise UserError(
            f"{file} is not the published Inception file of FID. Fetch {INCEPTION_URL} and give it unchanged."
        )
