"""Do the restored faces, as a crowd, look like the sharp ones? Frechet distance of their features.

    restored -> features (N,D) -> mean, covariance --.
    sharp    -> features (M,D) -> mean, covariance ---- distance of the two Gaussians

It is called FID only with the published Inception weights, run by torchmetrics and torch-fidelity. On other features
the number means something else and has another name.
"""

from collections.abc import Iterable
from hashlib import file_digest
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from sparnet.errors import UserError

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
    # A B has the eigenvalues of the symmetric A^(1/2) B A^(1/2), and these can be had without complex numbers
    product = np.linalg.eigvalsh(root @ b @ root)
    return float(max(shift @ shift + np.trace(a) + np.trace(b) - 2 * np.sqrt(product.clip(0)).sum(), 0))


def frechet_on(features_name: str, restored: ndarray, sharp: ndarray) -> tuple[str, float]:
    """The distance on any features but Inception's, with the name it is printed under: `frechet_on_<features_name>`."""
    return f"frechet_on_{features_name}", frechet_distance(restored, sharp)


class InceptionDistance:
    """FID (Heusel et al. 2017), picture by picture in constant memory: pool-3 features of TensorFlow's Inception.

    `weights` is the published file; without it torch-fidelity downloads it. `UserError` if a package is missing, the
    weights cannot be had, or the file is another one.
    """

    def __init__(self, weights: str | Path | None = None, device: torch.device | str = "cpu"):
        if weights is not None:
            _check_weights(Path(weights))
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance

            # TensorFlow's resize to 299, as in the published figures, is the one without antialiasing
            metric = FrechetInceptionDistance(
                feature_extractor_weights_path=None if weights is None else str(weights), antialias=False
            )
        except OSError as error:  # all of urllib's errors are
            raise UserError(
                f"The Inception weights of FID could not be downloaded ({error}). "
                f"Fetch {INCEPTION_URL} and give the file."
            ) from error
        except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch is a RuntimeError
            raise UserError(
                f"FID needs packages that cannot be used here ({error}): pip install 'torchmetrics[image]', "
                "with the torchvision that belongs to your torch."
            ) from error
        self.metric, self.device = metric.to(device), device

    def add(self, restored: ndarray, sharp: ndarray) -> None:
        """One more of each, (H,W,3) uint8 RGB."""
        for picture, real in ((restored, False), (sharp, True)):
            self.metric.update(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(self.device), real=real)

    def value(self) -> float:
        """The distance of what was added; `UserError` for fewer than two faces."""
        if self.metric.real_features_num_samples < 2:
            raise UserError("FID needs at least two faces, and thousands to mean something. Give more.")
        return float(self.metric.compute())


def fid(
    pairs: Iterable[tuple[ndarray, ndarray]], weights: str | Path | None = None, device: torch.device | str = "cpu"
) -> float:
    """FID of (restored, sharp) pictures (H,W,3) uint8 RGB, read once; errors as for `InceptionDistance`."""
    distance = InceptionDistance(weights, device)
    for restored, sharp in pairs:
        distance.add(restored, sharp)
    return distance.value()


def _check_weights(file: Path) -> None:
    """`UserError` unless the file is the published one: no others make a FID, and torch-fidelity unpickles any."""
    try:
        with file.open("rb") as stream:
            digest = file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}. Fetch {INCEPTION_URL} and give the file.") from error
    if digest != INCEPTION_SHA256:
        raise UserError(
            f"{file} is not the published Inception file of FID. Fetch {INCEPTION_URL} and give it unchanged."
        )
