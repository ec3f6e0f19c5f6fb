"""What is measured on one face, and which instruments were chosen to do it.

    restored, sharp (S,S,3) uint8 --> psnr, ssim, always           -.
                                  --> psnr_rgb, lpips, nrmse, identity, psnr_<region>, as chosen -> {metric: value}
    restored alone --> blur, laplacian, where there is no ground truth ------------------------'

A metric that a face has no value for, since no face was found in it, is NaN there; the fault says so by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch
from numpy import ndarray
from skimage.measure import blur_effect

from sparnet import images
from sparnet.errors import UserError
from sparnet.faces import Detector, find_detector
from sparnet.fan import NAME, FanLandmarks, is_fan
from sparnet.files import sha256_of
from sparnet.landmarks import five_of_68, landmarks_file, read_landmarks
from sparnet.metrics import psnr, psnr_rgb, region_psnr, ssim, ssim_rgb
from sparnet.regions import REGIONS, region_masks
from training.data import Crop, Item, face_square
from training.evaluation.identity import KINDS, OnnxEmbedder, SFace
from training.evaluation.landmarks import THRESHOLD, OnnxLandmarks, landmark_values
from training.evaluation.ledger import SHARP, Fault
from training.perceptual import Lpips, load_lpips


@dataclass(frozen=True)
class Metric:
    """How a number is printed and read."""

    title: str
    unit: str
    digits: int
    better: str  # "higher", "lower", or "" where neither is better by itself
    about: str


METRICS = {
    "psnr": Metric("PSNR", "dB", 3, "higher", "on Y of BT.601, 16-235, peak 255"),
    "ssim": Metric("SSIM", "", 4, "higher", "on Y, Gaussian window of sigma 1.5"),
    "psnr_rgb": Metric("PSNR RGB", "dB", 3, "higher", "over red, green and blue"),
    "ssim_rgb": Metric("SSIM RGB", "", 4, "higher", "mean of red, green and blue"),
    "lpips": Metric("LPIPS", "", 4, "lower", "v0.1 with SqueezeNet 1.1, on 8-bit pictures"),
    "nrmse": Metric("NRMSE", "", 4, "lower", "landmarks' mean error over the outer eye corners' distance, where found"),
    "landmark_auc": Metric("landmark AUC", "", 4, "higher", f"cumulative error curve up to {THRESHOLD}; not found: 0"),
    "landmark_failed": Metric(
        "landmark failures", "", 3, "lower", f"share of faces with an error above {THRESHOLD} or not found"
    ),
    "identity": Metric("identity", "", 4, "higher", "cosine of the embeddings of restored and sharp, aligned alike"),
    "fid": Metric("FID", "", 2, "lower", "Heusel et al. 2017, TensorFlow's Inception, all scored faces"),
    **{
        f"psnr_{name}": Metric(f"PSNR {name}", "dB", 2, "higher", f"on Y, over the pixels of: {name}")
        for name in REGIONS
    },
    "blur": Metric(
        "blur", "", 4, "", "Crete et al. 2007 by scikit-image, 0-1; says nothing of likeness: grey noise is not blurred"
    ),
    "laplacian": Metric(
        "variance of Laplacian", "", 1, "", "sharpness and noise alike: invented detail raises it as true detail does"
    ),
}


@dataclass(frozen=True, eq=False)
class Sample:
    """One face as every method meets it; `sharp` and the points are None where there is no ground truth."""

    degraded: ndarray  # (S,S,3) uint8; the sharp one where nothing is degraded, only pictures compared
    sharp: ndarray | None = None  # (S,S,3) uint8
    known: ndarray | None = None  # (68,2) px of `sharp`, from the file beside the picture
    points: ndarray | None = None  # the same, or else measured on `sharp`
    five: ndarray | None = None  # (5,2) px of `sharp`, by which restored and sharp are aligned for the embedder
    embedding: ndarray | None = None  # (D,) of `sharp`


@dataclass(frozen=True, eq=False)
class Judges:
    """The chosen ones; None was not asked for. `record` names their files, with hashes."""

    truncate: bool = False
    rgb: bool = False
    lpips: Lpips | None = None
    landmarks: Callable[[ndarray], ndarray | None] | None = None
    embedder: OnnxEmbedder | SFace | None = None
    detector: Detector | None = None
    regions: bool = False
    device: torch.device | str = "cpu"
    record: Mapping[str, str] = field(default_factory=dict)

    @property
    def need_points(self) -> bool:
        return bool(self.landmarks or self.embedder or self.regions)

    def look(self, degraded: ndarray, sharp: ndarray, known: ndarray | None = None) -> tuple[Sample, list[Fault]]:
        """What is measured once on the sharp face, for all methods; `known` are its landmarks (68,2) from a file."""
        faults, points, five, embedding = [], known, None, None
        if points is None and self.landmarks:
            points = self.landmarks(sharp)
            if points is None:
                faults.append(Fault("no landmarks", SHARP, "in the sharp face"))
        if points is None and self.regions and not self.landmarks:
            faults.append(Fault("no landmarks", SHARP, "beside the picture; --landmarks would look for them"))
        if self.embedder:
            found = self.detector(sharp) if known is None and self.detector else []
            five = five_of_68(known) if known is not None else found[0].landmarks if found else None
            try:
                if five is None:
                    raise UserError("the detector finds none, or not its points, in the sharp face")
                embedding = self.embedder.embed(sharp, five)
            except UserError as error:
                faults.append(Fault("no face", SHARP, str(error)))
        return Sample(degraded, sharp, known, points, five, embedding), faults

    def floor(self, sample: Sample) -> dict[str, float]:
        """The landmark metrics of the sharp picture itself, where its landmarks are known from a file; else nothing.

        A network's points differ from another annotation even in a sharp picture: no method is expected below that.
        """
        if self.landmarks is None or sample.sharp is None or sample.known is None:
            return {}
        return landmark_values(self.landmarks(sample.sharp), sample.known)

    def measure(self, restored: ndarray, sample: Sample) -> tuple[dict[str, float], ndarray | None]:
        """Values by metric, and the embedding (D,) if there is an embedder."""
        sharp, embedding = sample.sharp, None
        if sharp is None:
            grey = cv2.cvtColor(restored, cv2.COLOR_RGB2GRAY)
            blur = float(blur_effect(grey))  # pyright: ignore[reportArgumentType]  a list only of several axes
            return {"blur": blur, "laplacian": float(cv2.Laplacian(grey, cv2.CV_64F).var())}, None
        values = {"psnr": psnr(restored, sharp, self.truncate), "ssim": ssim(restored, sharp, self.truncate)}
        if self.rgb:
            values |= {"psnr_rgb": psnr_rgb(restored, sharp), "ssim_rgb": ssim_rgb(restored, sharp)}
        if self.lpips is not None:
            with torch.inference_mode():
                pair = (images.to_tensor(face).to(self.device) for face in (restored, sharp))
                values["lpips"] = self.lpips.distances(*pair).item()
        if self.landmarks and sample.points is not None:
            values |= landmark_values(self.landmarks(restored), sample.points)
        if self.embedder and sample.five is not None and sample.embedding is not None:
            embedding = self.embedder.embed(restored, sample.five)
            values["identity"] = float(embedding @ sample.embedding)  # a cosine: both have length 1
        if self.regions and sample.points is not None:
            masks = region_masks(sample.points, len(sharp))
            values |= {f"psnr_{name}": value for name, value in region_psnr(restored, sharp, masks).items()}
        return values, embedding


def choose(
    lpips: Path | None = None,
    landmarks: str | None = None,
    identity: str | None = None,
    detector: Path | None = None,
    regions: bool = False,
    rgb: bool = False,
    truncate: bool = False,
    device: torch.device | str = "cpu",
) -> Judges:
    """The instruments of a command line; `landmarks` is a file or fan[=file], `identity` "sface" or [KIND=]file.

    KIND says what pixels the embedder takes: sface, or one of `identity.KINDS`, arcface if not said.
    """
    identity = identity or ""
    kind, _, embedder_file = identity.partition("=")
    if kind not in ("", "sface", *KINDS):
        kind, embedder_file = "arcface", identity
    files = {"lpips": lpips, "landmarks": landmarks, "identity": embedder_file or kind, "detector": detector}
    record = {what: _named(file) for what, file in files.items() if file}
    finder = embedder = network = None
    if identity or landmarks:
        finder = find_detector(detector)
        record["faces found by"] = finder.name
    if landmarks and finder:
        fan, weights = is_fan(landmarks)
        network = FanLandmarks(finder, weights, str(device)) if fan else OnnxLandmarks(landmarks, finder)
    if identity:
        record["identity by"] = kind
        embedder = SFace(embedder_file or None) if kind == "sface" else OnnxEmbedder(embedder_file, kind)
    perceptual = load_lpips(lpips).to(device) if lpips else None
    return Judges(truncate, rgb, perceptual, network, embedder, finder, regions, device, record)


def known_file(item: Item) -> Path | None:
    """The file of landmarks beside the picture; None without one, and in a shard."""
    return None if Path(item.path).suffix.lower() == ".tar" else landmarks_file(item.path)


def known_points(item: Item, picture: ndarray, size: int, crop: Crop = "auto") -> ndarray | None:
    """Landmarks (68,2) from the file beside the picture, in pixels of its `centre_view`; None without a file."""
    points = read_landmarks(item.path) if known_file(item) else None
    if points is None:
        return None
    x, y, side = face_square(picture, crop)
    return (points + 0.5 - (x, y)) * (size / side) - 0.5


def _named(file: str | Path) -> str:
    """For the record: its name and hash, or that of an instrument which brings its own file."""
    if file in (NAME, "sface"):
        return str(file)
    fan, weights = is_fan(str(file))
    file = weights if fan and weights else file
    if not Path(file).is_file():
        raise UserError(f"There is no file {file}.")
    return f"{Path(file).name}, SHA-256 {sha256_of(Path(file))}"
