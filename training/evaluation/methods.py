"""What is compared: bicubic, networks, and pictures that any other program made.

    degraded (S,S,3) -> Bicubic --------------------------------------------------> the same
                     -> Model: bicubic to its size -> forward -> bicubic back to S --> restored (S,S,3)
    name of the face -> Pictures: DIR/<the same name>.* ---------------------------> restored (S,S,3)

Every method gets the same degraded faces, and answers with faces of the same size.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import torch
from numpy import ndarray

from sparnet import images
from sparnet.attention import mean_attention
from sparnet.checkpoints import weights_file
from sparnet.errors import UserError
from sparnet.files import sha256_of
from sparnet.model import SPARNet
from sparnet.text import listed
from sparnet.threads import use_free_cores
from training.command import Diverged
from training.data import Crop, Item, centre_view, content_hash, face_square, index_pictures
from training.evaluation.ledger import Fault
from training.networks import Network, load


class Bicubic:
    """The degraded face as it is: enlarged by bicubic. The anchor of every comparison."""

    name = "bicubic"

    def restore(self, degraded: Sequence[ndarray], names: Sequence[str]) -> list[ndarray]:
        return list(degraded)

    def describe(self) -> dict:
        return {"kind": "bicubic"}


class Model:
    """A model of the family, or a baseline; works at its own size, whatever the faces' is."""

    def __init__(
        self, name: str, model: Network, device: torch.device | str = "cpu", weights_sha256: str | None = None
    ):
        self.name, self.model, self.device, self.weights_sha256 = name, model.to(device), device, weights_sha256

    @property
    def size(self) -> int:
        return self.model.config.size

    @property
    def factor(self) -> int | None:
        """By how much its faces were reduced in training; None: blind."""
        small = self.model.config.degraded_size
        return self.size // small if small else None

    def restore(self, degraded: Sequence[ndarray], names: Sequence[str]) -> list[ndarray]:
        """Faces (S,S,3) uint8 -> (S,S,3) uint8, in float32; `Diverged` where the answer is not finite."""
        use_free_cores()
        with torch.inference_mode():
            restored = self.model(self._tensors(degraded)).float().cpu()
        if not restored.isfinite().all():
            raise Diverged(f"{self.name} answers with values that are not numbers.")
        return [_at(images.to_image(face), len(low)) for face, low in zip(restored, degraded, strict=True)]

    def attention(self, degraded: ndarray) -> ndarray | None:
        """Mean over units and channels of every alpha, (h,w) float32; None for a network that has none."""
        if not isinstance(self.model, SPARNet):
            return None
        with torch.inference_mode():
            return mean_attention(self.model.trace(self._tensors([degraded])).alphas)

    def _tensors(self, degraded: Sequence[ndarray]) -> torch.Tensor:
        """Faces (S,S,3) uint8 -> (B,3,s,s) at the network's own size, on its device."""
        return torch.cat([images.to_tensor(_at(face, self.size)) for face in degraded]).to(self.device)

    def describe(self) -> dict:
        """What it is, for the record: class, config, parameters, and the SHA-256 of the file of its weights."""
        units = self.model.config.units() if isinstance(self.model, SPARNet) else []
        return {
            "kind": type(self.model).__name__,
            "size": self.size,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "attention_units": sum(unit.attention != "none" for unit in units),
            "config": asdict(self.model.config),
            "sha256": self.weights_sha256,
        }


class Pictures:
    """A folder of restored faces, paired with the sharp ones by their names in their folders, without the ending.

    Another size than the common one is a fault, unless all are to be brought to one (`resize`). Of the sharp ones the
    first `limit` are compared. `UserError` lists the names that are missing or too many.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        sharp: Sequence[Item],
        size: int,
        resize: bool,
        crop: Crop = "auto",
        limit: int | None = None,
    ):
        self.name, self.size, self.resize = name, size, resize
        self.crop: Crop = crop
        ours, theirs = by_name(sharp), by_name(index_pictures([folder]).items)
        faults = [("missing", ours.keys() - theirs.keys()), ("not among the sharp ones", theirs.keys() - ours.keys())]
        problems = [f"{len(names)} {what}: {listed(sorted(names), 20)}" for what, names in faults if names]
        if problems:
            raise UserError(f"The pictures in {folder} do not pair with the sharp ones; {'; '.join(problems)}.")
        self.items = {name: theirs[name] for name in list(ours)[:limit]}

    def restore(self, degraded: Sequence[ndarray], names: Sequence[str]) -> list[ndarray | Fault]:
        """The pictures of these names at the common size; a `Fault` for each that is damaged or of another size."""
        return [self._load(pairing_name(name)) for name in names]

    def _load(self, name: str) -> ndarray | Fault:
        try:
            picture = self.items[name].picture()
        except UserError as error:
            return Fault("unreadable", self.name, str(error))
        if face_square(picture, self.crop)[2] != self.size and not self.resize:
            height, width = picture.shape[:2]
            return Fault(
                "size",
                self.name,
                f"{width}x{height} where {self.size}x{self.size} is compared; --size N brings all pictures to one size",
            )
        return centre_view(picture, self.size, self.crop)

    def describe(self) -> dict:
        """For the record, by the bytes of all pictures: each is read."""
        return {"kind": "pictures", "data_sha256": content_hash(list(self.items.values()))}


Method = Bicubic | Model | Pictures


def pairing_name(within: str) -> str:
    """What a sharp and a restored picture have in common: "n000001/0001_01.jpg" -> "n000001/0001_01".

    A shard is only how pictures are packed, so its name is not part of it.
    """
    return PurePosixPath(re.sub(r"[^/]*\.tar/", "", within, flags=re.IGNORECASE)).with_suffix("").as_posix()


def by_name(items: Sequence[Item]) -> dict[str, Item]:
    """By `pairing_name`, in the same order; `UserError` if two pictures have the same."""
    names = Counter(pairing_name(item.within) for item in items)
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise UserError(
            f"Pictures are paired by their names without the ending, and these are there twice: {listed(twice, 20)}."
        )
    return {pairing_name(item.within): item for item in items}


def load_network(source: str, device: torch.device | str = "cpu") -> Model:
    """[LABEL=]SOURCE; a SOURCE for `load_model`, or the folder of a baseline."""
    label, source = labelled(source)
    return Model(label, load(source), device, sha256_of(weights_file(source)))


def labelled(text: str) -> tuple[str, str]:
    """LABEL=PLACE -> (label, place); PLACE alone is called by its last part. A path that is there has no label."""
    label, equals, place = text.partition("=")
    if equals and not Path(text).exists():
        return label, place
    return Path(text).absolute().name, text


def _at(face: ndarray, side: int) -> ndarray:
    return face if len(face) == side else images.resize(face, side)
