"""Are the parts of the face where they belong? 68 landmarks, and errors between two sets of them.

    picture -> face detector -> a 68-point ONNX network, or FAN (sparnet.fan) -> predicted (68,2)
    .json or .pts beside the picture, or the sharp picture's points -> truth (68,2)
    (predicted, truth) -> nrmse -> landmark_values: error, its share of the area under the curve, failure

The 68 points are those of 300-W, xy in pixels of the picture, a whole number at the centre of a pixel. A face in which
no landmarks are found has an infinite error: it lowers the curve and counts as a failure, it is never left out.
"""

from pathlib import Path

import numpy as np
from numpy import ndarray

from sparnet.errors import UserError
from sparnet.faces import Detector, crop_face, inverse_transform, transform_points
from training.evaluation.onnx import OnnxNetwork

OUTER_EYES = (36, 45)  # outer corners of the eyes
THRESHOLD = 0.08  # of the eyes' distance; usual on 300-W (AUC_0.08). What the SPARNet paper used is unknown.

PFLD_SIDE = 112
MARGIN = 1.2  # side of the square crop: over the shorter side of the detector's box, then the longer of the points' box
LOOKS = 2  # the second is less bound to the detector's box: on 50 Helen faces NRMSE 0.0371 -> 0.0337


class OnnxLandmarks:
    """A PFLD-style file: square crop (1,3,112,112) RGB in 0..1 -> 68 xy in 0..1 of the crop.

    `UserError` if the file is no such network.
    """

    def __init__(self, file: str | Path, detector: Detector):
        self.network, self.detector = OnnxNetwork(file, PFLD_SIDE), detector
        if self.network.length != 2 * 68:
            raise UserError(f"{file} answers with {self.network.length} numbers where 68 landmarks are 136.")

    def __call__(self, face: ndarray) -> ndarray | None:
        """(H,W,3) uint8 RGB -> (68,2) of the largest face, None where the detector finds none."""
        found = self.detector(face)
        if not found:
            return None
        points = found[0].box.reshape(2, 2)
        side = MARGIN * np.ptp(points, axis=0).min()
        for _ in range(LOOKS):
            scale, centre = PFLD_SIDE / side, (points.min(axis=0) + points.max(axis=0)) / 2
            to_crop = np.column_stack((np.eye(2) * scale, (PFLD_SIDE - 1) / 2 - scale * centre))
            shares = self.network(crop_face(face, to_crop, PFLD_SIDE)).reshape(68, 2)
            points = transform_points(inverse_transform(to_crop), shares * PFLD_SIDE - 0.5)
            side = MARGIN * np.ptp(points, axis=0).max()
        return points


def nrmse(predicted: ndarray | None, truth: ndarray) -> float:
    """Mean distance of the points (68,2), over that of the outer eye corners of `truth`; infinite for None.

    The error of 300-W (Sagonas et al. 2013), which the field prints as NRMSE although no square is averaged.
    """
    if predicted is None:
        return np.inf
    left, right = truth[list(OUTER_EYES)]
    return float(np.linalg.norm(predicted - truth, axis=1).mean() / np.linalg.norm(right - left))


def landmark_values(found: ndarray | None, truth: ndarray) -> dict[str, float]:
    """The metrics of points (68,2) against the true ones; None: none were found, a failure without an error.

    The mean of `landmark_auc` over faces is the area under the cumulative error curve up to `THRESHOLD`, as a share
    0..1 of the best: that of a step curve is the mean of how far each error lies below the threshold.
    """
    error = nrmse(found, truth)
    return {
        "nrmse": error if np.isfinite(error) else np.nan,
        "landmark_auc": max(0.0, 1 - error / THRESHOLD),
        "landmark_failed": float(error > THRESHOLD),
    }
