"""One face of a photo in front of one model, as the instruments of the page and of its endpoints are given it.

photo, model, mode -> look -> Looked: the faces that were found, one of them restored -> Subject, provenance
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

import gradio as gr

from sparnet.faces import Face
from sparnet.restorer import Progress, RestoredFace
from viz import report
from viz.finding import Finding
from viz.instrument import POPULATION
from viz.instruments.population import Population, kept
from viz.provenance import versions
from viz.subject import Subject
from viz.tabs.models import named
from viz.tabs.serving import (
    DEVICE,
    Photo,
    check_settings,
    download_folder,
    face_index,
    find,
    restorer,
    settled_mode,
)


@dataclass(frozen=True, eq=False)
class Looked:
    """What one visitor looks into."""

    photo: Photo
    faces: list[Face]
    model: str
    mode: str
    whole: bool
    detector: str
    notes: list[str]
    index: int = 0
    one: RestoredFace | None = None  # None: no face was found
    token: str = ""  # another for every face and setting
    came_from: tuple[str, int] | None = None  # the token and face of another tab that was taken over

    def at(self, index: int) -> "Looked":
        """Another face of the photo; `UserError` if it cannot be restored."""
        restore, _ = restorer(self.model)
        one = restore.restore_face(self.photo.pixels(), self.faces[index], self.mode, whole=self.whole)
        return replace(self, index=index, one=one, token=token_hex(8))

    @property
    def subject(self) -> Subject:
        return Subject.of(restorer(self.model)[0].model, self.model, self.one, self.detector)

    def by(self, model: str) -> Subject:
        """The same face in front of another model, cut out and reduced as that one's are."""
        mode, _ = settled_mode(model, self.mode)
        restore, _ = restorer(model)
        one = restore.restore_face(self.photo.pixels(), self.faces[self.index], mode, whole=self.whole)
        return Subject.of(restore.model, model, one, self.detector)

    def population(self) -> Population:
        """What is usual for the model; `UserError` if that was not gathered."""
        return kept(self.model, named(self.model).weights)

    def provenance(self, command: str, settings: dict) -> dict:
        """What makes a finding anew; of the photo only the hash of its pixels: it is the visitor's."""
        face = {
            "file": "the photo",
            "sha256": sha256(self.photo.pixels().tobytes()).hexdigest(),
            "sha256_of": "its pixels, RGB, row by row",
            "face": self.index + 1,
            "of": len(self.faces),
            "box": self.faces[self.index].box.round(2).tolist(),
            "detector": self.detector,
            "mode": self.mode,
        }
        return {
            "command": command,
            "models": [named(self.model).record],
            "faces": [face],
            "settings": settings,
            "device": DEVICE,
            "versions": versions(),
        }


def look(
    photo: Photo, model: str, mode: str, whole: bool | None, progress: gr.Progress, number: int | None = None
) -> Looked:
    """At a photo's largest face, if there is one; or at face `number`, counted from 1: `UserError` if it is not there.

    A model for faces of all damages takes them as they are, whatever the mode, and a note says so.
    """
    check_settings(model, mode, whole)
    progress(0, desc=f"Loading {model}")
    mode, notes = settled_mode(model, mode)
    progress(0.2, desc="Looking for faces")
    faces, detector, said = find(photo.pixels(), whole)
    looked = Looked(photo, faces, model, mode, whole, detector, [*photo.notes, *notes, *said])
    progress(0.6, desc="Restoring the face")
    if number is not None:
        return looked.at(face_index(number, len(faces), said))
    return looked.at(0) if faces else looked


def saved(finding: Finding, provenance: dict) -> dict[str, str]:
    """The finding's files where Gradio serves them from, by kind: json, npz, png, pdf."""
    return {path.suffix[1:]: str(path) for path in finding.save(download_folder(), provenance, pdf=True)}


def written_report(now: Looked, names: list[str], progress: gr.Progress) -> str:
    """The path of an HTML report by these instruments."""
    given = {POPULATION: lambda _: now.population()}
    made = report.study(now.subject, given, only=names, progress=telling(progress))
    file: Path = download_folder() / "attention-report.html"
    file.write_text(made.page(now.provenance("report", {"only": names}), {}), encoding="utf-8")
    return str(file)


def telling(progress: gr.Progress) -> Progress:
    """An instrument's progress on the page."""
    return lambda done, total, text: progress(done / max(total, 1), desc=text)
