"""A network and faces in front of it, for the command line; what it looked at can be found again.

FACE, or every picture of a folder -> find_faces, Restorer -> Subject; Bench.provenance: by which files it was made
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from sparnet import images
from sparnet.checkpoints import DEFAULT_MODEL, load_model
from sparnet.command import Device, ModelName, Revision, Simulate, Whole, Yunet
from sparnet.engine import engine_for
from sparnet.errors import UserError
from sparnet.faces import Face, find_detector, transform_points, whole_box
from sparnet.fan import FanLandmarks, is_fan
from sparnet.files import sha256_of
from sparnet.folders import pictures_in
from sparnet.landmarks import read_landmarks
from sparnet.model import SPARNet
from sparnet.restorer import Restorer, find_faces, mode_of
from viz.provenance import model_record, provenance
from viz.subject import Subject

_PATHS = ("model", "other_model", "checkpoint", "out", "photo")  # paths, whose last parts are told elsewhere


@dataclass(frozen=True)
class Options:
    """What every command can be told."""

    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write into.")]
    photo: Annotated[Path | None, typer.Argument(metavar="FACE", help="A photo with a face in it.")] = None
    model: ModelName = DEFAULT_MODEL
    simulate: Simulate = None
    face: Annotated[int, typer.Option(metavar="N", min=1, help="Which face of the photo; 1 is the largest.")] = 1
    whole: Whole = False
    yunet: Yunet = None
    landmarks: Annotated[
        str | None,
        typer.Option(help="fan[=FILE of its weights]: 68 points by FAN, for the true outlines of the parts."),
    ] = None
    device: Device = None
    revision: Revision = None
    pdf: Annotated[bool, typer.Option("--pdf", help="Write the figure as a PDF for print too.")] = False


class Bench:
    """The network and the faces put in front of it, remembered so that what is found can be found again."""

    def __init__(self, options: Options):
        self.options = options
        self.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.detector = find_detector(options.yunet) if options.yunet else None
        self.fan, self.no_fan = fan_of(options.landmarks, self.device)
        self.models: list[dict] = []
        self.faces: dict[tuple, dict] = {}  # each once, however often it was looked at
        self.left_out: list[str] = []  # why, of each picture of a folder that cannot be looked at
        self.network = self.load(options.model, options.revision)

    def load(self, source: str, revision: str | None = None) -> tuple[SPARNet, str]:
        """The model and its name, of a file or folder the last two parts of its path; `UserError` of `load_model`."""
        model = load_model(source, self.device, revision)
        record = model_record(source, model, revision)
        self.models.append(record)
        return model, record["id"]

    def subject(self, network: tuple[SPARNet, str] | None = None) -> Subject:
        """FACE of the command line in front of the model, or of this one; `UserError` if it was not given."""
        if self.options.photo is None:
            raise UserError("There is no face to look at: give a photo as FACE.")
        return self.look(self.options.photo, self.options.face, self.options.whole, network)

    def faces_in(self, folder: Path) -> "FolderOfFaces":
        """The aligned faces of a folder; those that are none are left out. `UserError` if no face is left."""
        paths = []
        for path in pictures_in(folder):
            try:
                find_faces(images.load(path), "whole")
                read_landmarks(path)
            except UserError as error:
                self.left_out.append(str(error))
            else:
                paths.append(path)
        if not paths:
            raise UserError(f"None of the pictures in {folder} can be looked at. {self.left_out[0]}")
        return FolderOfFaces(self, paths)

    def look(
        self, path: Path, number: int = 1, whole: bool = False, network: tuple[SPARNet, str] | None = None
    ) -> Subject:
        """One face of a photo as the app takes it; `UserError` if there is no such face or it cannot be restored."""
        model, name = network or self.network
        photo = images.load(path)
        found, detector, notes = find_faces(photo, "whole" if whole else None, self.detector)
        if not found:
            raise UserError(f"{path}: {' '.join(notes)} For that, give --whole.")
        if number > len(found):
            raise UserError(f"{path} has {len(found)} face{'s' * (len(found) > 1)}: there is no --face {number}.")
        faces = "whole" if whole else [found[number - 1]]
        result = Restorer(model)(photo, mode_of(self.options.simulate), faces)
        if not result.faces:
            raise UserError(f"{path}: {' '.join(result.notes)}")
        face = result.faces[0]
        mode = "simulate" if face.degraded is not face.crop else "as_is"
        subject = Subject.of(model, name, face, detector)
        if whole and (written := read_landmarks(path)) is not None:
            points = transform_points(face.to_crop, written)
            subject = replace(subject, points=points, points_from="of the file beside the picture")
        elif self.fan:
            if whole:  # which has no box of a detector
                points = self.fan.points(face.crop, [Face(whole_box(len(face.crop)))])[0]
            else:
                points = transform_points(face.to_crop, self.fan.points(photo, [face.face])[0])
            subject = replace(subject, points=points, points_from="by FAN")
        elif self.no_fan:
            subject = replace(subject, points_from=f"{subject.points_from}, for FAN cannot be used: {self.no_fan}")
        self.faces[path, number, mode] = {
            "file": path.name,
            "sha256": sha256_of(path),
            "face": number,
            "of": len(found),
            "box": face.face.box.round(2).tolist(),
            "detector": detector,
            "points": subject.points_from,
            "mode": mode,
        }
        return subject

    def summary(self) -> str:
        """Who looked at what, in one line."""
        models = ", ".join(model["id"] for model in self.models)
        if not self.faces:
            return f"{models} on {self.device}"
        first, *more = self.faces.values()
        face = f"{first['file']}, face {first['face']} of {first['of']} ({first['detector']}), {first['mode']}"
        return f"{face}{f' and {len(more)} more' if more else ''}; {models} on {self.device}"

    def provenance(self, command: str, settings: Mapping[str, Any]) -> dict:
        """What makes a finding anew; of paths only the names."""
        given = asdict(self.options) | dict(settings)
        told = {name: _plain(value) for name, value in given.items() if name not in _PATHS}
        return provenance(command, self.models, list(self.faces.values()), told, self.device)


@dataclass(frozen=True, eq=False)
class FolderOfFaces:
    """Subjects made one at a time, so that a folder of any size fits into memory; it knows how many there are."""

    bench: Bench
    paths: Sequence[Path]
    network: tuple[SPARNet, str] | None = None  # None: the bench's

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Subject]:
        engine_for((self.network or self.bench.network)[0])  # all by the same, however long it takes to be built
        return (self.bench.look(path, whole=True, network=self.network) for path in self.paths)

    def by(self, model: str) -> "FolderOfFaces":
        """The same faces in front of another model."""
        return replace(self, network=self.bench.load(model))


def fan_of(landmarks: str | None, device: str) -> tuple[FanLandmarks | None, str | None]:
    """FAN if it is asked for; or, in place of it, why it cannot be used. `UserError` if something else is asked for."""
    if landmarks is None:
        return None, None
    asked, weights = is_fan(landmarks)
    if not asked:
        raise UserError(f"--landmarks is {landmarks!r}; it can be fan, or fan=FILE with its weights.")
    try:
        return FanLandmarks(None, weights, device), None
    except UserError as error:
        if weights:
            raise
        return None, str(error)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.name if isinstance(value, Path) else value
