"""Is it still the same person? Embeddings of faces, compared by the angle between them.

    sharp face -> its five points -> to_crop -- sharp    -> crop (112,112,3) -> embedder -> unit vector (D,) --.
                                        '------ restored -> crop (112,112,3) -> embedder -> unit vector (D,) -- cosine

Restored and sharp are aligned by the points of the sharp face. They show the same face in the same place; points found
in the restored one would add the detector's error to the score, and where it finds none there would be no score.

A cosine alone says little. Beside it belong the cosines of different people (`impostor_cosines`), those of bicubic, and
how well the two are told apart (`verification_auc`).
"""

import re
from collections.abc import Iterable
from pathlib import Path

import cv2
import httpx2
import numpy as np
from numpy import ndarray
from scipy.stats import mannwhitneyu
from skimage.transform import SimilarityTransform

from sparnet.errors import UserError
from sparnet.faces import crop_face, opened_by_opencv
from sparnet.hub import fetch_file
from training.evaluation.onnx import OnnxNetwork

# Eyes, nose, mouth corners in a 112x112 crop, as ArcFace (Deng et al. 2019) and most embedders since were trained.
TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
SIDE = 112

KINDS = {  # of ONNX embedders: (mean, std) of RGB in 0..1. A wrong choice is not an error but lower cosines.
    "arcface": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's, of the usual MobileFaceNet exports
    "insightface": ((0.5,) * 3, (0.5,) * 3),
}

SFACE_REPO, SFACE_FILE = "opencv/face_recognition_sface", "face_recognition_sface_2021dec.onnx"


class OnnxEmbedder:
    """An ONNX file, aligned RGB (1,3,112,112) normalised as its `kind` in `KINDS` says -> embedding of any length.

    `UserError` if the file is no such network or the kind is unknown.
    """

    def __init__(self, file: str | Path, kind: str = "arcface"):
        if kind not in KINDS:
            raise UserError(f"There is no kind of embedder {kind!r}. Known are {', '.join(KINDS)}.")
        self.network = OnnxNetwork(file, SIDE, *KINDS[kind])

    def embed(self, face: ndarray, points: ndarray) -> ndarray:
        """(H,W,3) uint8 RGB and the five points (5,2) of the sharp face -> (D,) float64 of length 1."""
        return _unit(self.network(aligned(face, points)))


class SFace:
    """SFace (Zhong et al. 2021) as OpenCV runs it, from a file, else from the Hub or its cache.

    `UserError` if the file is no such network or is not available.
    """

    def __init__(self, file: str | Path | None = None):
        try:
            file = file or fetch_file(SFACE_REPO, SFACE_FILE)
        except (OSError, httpx2.TransportError) as error:  # all of huggingface_hub's errors are OSErrors
            raise UserError(
                f"SFace could not be fetched from the Hub ({error}). With a network, this fetches it: "
                f"hf download {SFACE_REPO} {SFACE_FILE}. Or give its file: --identity sface=FILE."
            ) from error
        with opened_by_opencv(file, SFACE_FILE, SFACE_REPO):
            self.network = cv2.FaceRecognizerSF.create(str(file), "")
            self.network.feature(np.zeros((SIDE, SIDE, 3), np.uint8))

    def embed(self, face: ndarray, points: ndarray) -> ndarray:
        """(H,W,3) uint8 RGB and the five points (5,2) of the sharp face -> (128,) float64 of length 1."""
        return _unit(self.network.feature(cv2.cvtColor(aligned(face, points), cv2.COLOR_RGB2BGR)).ravel().astype(float))


def aligned(face: ndarray, points: ndarray) -> ndarray:
    """The face (112,112,3) uint8 with its five points as near the template as shift, turn and scale bring them.

    `UserError` if the points do not span a face.
    """
    points = np.asarray(points, float)
    if not np.ptp(points, axis=0).max() > 0:  # false for NaN too
        raise UserError("The five points of the face lie on one spot or are not numbers, so it cannot be aligned.")
    return crop_face(face, SimilarityTransform.from_estimate(points, TEMPLATE).params[:2], SIDE)


def impostor_cosines(embeddings: ndarray, people: ndarray) -> ndarray:
    """Cosines (P,) of every two sharp faces of different people, from unit vectors (N,D): what a stranger scores."""
    return (embeddings @ embeddings.T)[np.triu(np.not_equal.outer(people, people), 1)]


def verification_auc(same: ndarray, different: ndarray) -> float:
    """Chance, 0..1, that a pair of the same person has the higher cosine than a pair of two people; a tie is half.

    That is the area under the ROC curve, by the sum of ranks (Hanley and McNeil 1982).
    """
    return float(mannwhitneyu(same, different).statistic / (same.size * different.size))


def identities(names: Iterable[str], rule: str) -> list[str]:
    """Who each picture shows, by the first group of the regular expression, which begins where the name begins.

    A rule with a slash sees the name with its folders: "(.+)/" finds ID in "ID/0001_01.jpg"; one without sees the last
    part alone: "(.+)_" finds ID in "ID_0001.png", in whatever folder. There is no default: what stands before an
    underscore is often no person. `UserError` where the rule does not fit.
    """
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UserError(f"The rule {rule!r} for identities is not a regular expression: {error}.") from error
    if not pattern.groups:
        raise UserError(f'The rule {rule!r} for identities has no group. Put the identity in brackets, as in "(.+)_".')
    people = []
    for name in names:
        match = pattern.match(name if "/" in rule else name.rpartition("/")[2])
        if not match or not match[1]:
            raise UserError(f"The rule {rule!r} finds no identity in {name}. Correct the rule or the name.")
        people.append(match[1])
    return people


def _unit(embedding: ndarray) -> ndarray:
    return embedding / np.linalg.norm(embedding)
