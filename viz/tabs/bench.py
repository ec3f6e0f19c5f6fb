"""The bench: one photo, its faces, restored by one model. It is the page's only state, and every tab works on it.

upload -> opened -> Opened -> at, toggled, with_box, turned, by another model -> Opened
Opened -> picture, facts                the restored photo, how it was done
       -> face -> subject, provenance   what an instrument is given
first: the astronaut, rebuilt from 16x16 pixels when the server starts
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from hashlib import sha256
from secrets import token_hex
from time import perf_counter

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from sparnet.checkpoints import MODELS
from sparnet.errors import UserError
from sparnet.faces import Face
from sparnet.images import encode_png, resize
from sparnet.restorer import Mode, RestoredFace, disclaimer, paste_faces
from viz.instruments.population import Population, kept
from viz.provenance import provenance
from viz.subject import Subject
from viz.tabs.models import DEVICE, first_model, models_here, named
from viz.tabs.serving import (
    FACES,
    Photo,
    check_flag,
    device_name,
    face_index,
    find,
    restorer,
    restorer_for,
    without_paths,
)

EXPIRED = "This result was deleted: after an hour, or earlier when many visitors are here. Give the photo again."
OUTDATED = "The page shows something else by now. Try again with that."
NO_FACE = "There is no face to look at. Give a photo with a face, or mark one in it by hand."


@dataclass(frozen=True, eq=False)
class Opened:
    """A photo and what was made of it; nothing of it changes, another choice is another `Opened`."""

    photo: Photo
    model: str
    mode: Mode
    whole: bool  # the picture is already a face
    faces: tuple[Face, ...]  # that were found, or marked by hand; largest first
    restored: tuple[RestoredFace | None, ...]  # the same faces; None: it could not be, or was not asked for
    detector: str
    notes: tuple[str, ...]
    engine: str = ""  # what ran the network, in which precision
    seconds: float = 0.0
    index: int = 0  # the face that is looked at
    left_out: frozenset[int] = frozenset()  # faces that stay as they were in the photo
    searched: tuple[str, ...] = ()  # the notes of the search for faces
    token: str = field(default_factory=lambda: token_hex(8), init=False)  # another for each, `replace`d ones too

    @property
    def face(self) -> RestoredFace:
        """The one that is looked at; `UserError` if there is none."""
        face = self.restored[self.index] if self.restored else None
        if face is None:
            raise UserError(NO_FACE)
        return face

    @property
    def is_example(self) -> bool:
        """Whether the photo is the page's own, turned perhaps."""
        return any(example.photo.data is self.photo.data for example in examples().values())

    @property
    def lies(self) -> int:
        """By how many quarters of a circle, clockwise, to turn the photo so that its largest face is upright."""
        points = self.faces[0].landmarks if self.faces else None
        if points is None:
            return 0
        x, y = points[3:].mean(0) - points[:2].mean(0)  # from the eyes to the mouth
        return round(math.atan2(x, y) / (math.pi / 2)) % 4

    @cached_property
    def subject(self) -> Subject:
        """The face before its network, for instruments."""
        return Subject.of(named(self.model).model, self.model, self.face, self.detector)

    def by(self, model: str) -> Subject:
        """The same face before another model, cut out and reduced as that one's are."""
        restore, mode, _ = restorer_for(model, self.mode)
        face = restore.restore_face(self.photo.pixels(), self.faces[self.index], mode, whole=self.whole)
        return Subject.of(restore.model, model, face, self.detector)

    def at(self, index: int) -> "Opened":
        """Another of its faces; `UserError` if that was not restored."""
        if self.restored[index] is None:
            raise UserError(f"Face {index + 1} could not be restored; the notes below the picture say why.")
        return replace(self, index=index)

    def toggled(self, index: int) -> "Opened":
        """The face left as it was in the photo, or restored again."""
        return replace(self, left_out=self.left_out ^ {index})

    def with_box(self, box: tuple[float, float, float, float]) -> "Opened":
        """With one more face, marked by hand as left, top, right, bottom in pixels of the photo, which is looked at."""
        if len(self.faces) >= FACES:
            raise UserError(f"This page takes {FACES} faces of a photo. Cut the photo for others.")
        face = Face(np.array(box, float))
        restore, _ = restorer(self.model)
        restored = restore.restore_face(self.photo.pixels(), face, self.mode)
        faces, before = ((), ()) if self.whole else (self.faces, self.restored)
        return replace(self, faces=(*faces, face), restored=(*before, restored), index=len(faces), whole=False)

    def picture(self, strength: float = 1.0, pixels: np.ndarray | None = None) -> np.ndarray:
        """(H,W,3) uint8, the photo with its faces restored but those left out; strength: their share, 0 to 1.

        pixels: the photo's, where they are decoded already.
        """
        pixels = self.photo.pixels() if pixels is None else pixels
        faces = [face for i, face in enumerate(self.restored) if face and i not in self.left_out]
        pasted = paste_faces(pixels, faces, self.mode, self.whole)
        return blended(pixels, pasted, strength)

    def png(self, strength: float = 1.0, badge: bool = False) -> bytes:
        """The picture's file, as transparent as the photo; it says that it is a guess, with a badge visibly, too."""
        given = self.photo.decoded()
        picture = self.picture(strength, given.pixels)
        says = disclaimer(self.model) if any(self.restored) else None
        return encode_png(badged(picture, self.model) if badge and says else picture, given.alpha, says)

    def facts(self) -> dict:
        """What a person wants to know about how it was done, ready for JSON."""
        return {
            "model": self.model,
            "device": device_name(),
            "engine": self.engine,
            "mode": self.mode,
            "seconds": round(self.seconds, 2),
            "detector": self.detector,
            "faces": [
                [round(float(edge), 1) for edge in face.box]
                for face, restored in zip(self.faces, self.restored, strict=True)
                if restored
            ],
            "notes": list(self.notes),
        }

    def population(self) -> Population:
        """What is usual for the model; `UserError` if that was not gathered."""
        try:
            return kept(self.model, named(self.model).weights)
        except UserError as error:  # which tells the command that gathers them
            raise UserError(f"What is usual for {self.model} is not known: no other faces were gathered.") from error

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
        return provenance(command, [named(self.model).record], [face], settings, DEVICE)


def opened(
    photo: Photo, model: str, mode: str, whole: bool | None, progress: Callable[..., object],
    number: int | None = None, before: Opened | None = None,
) -> Opened:  # fmt: skip
    """The photo with every face restored, or only face `number`, counted from 1: `UserError` if that is not there.

    A model for faces of all damages takes them as they are, whatever the mode, and a note says so. before: the same
    photo by other settings, whose faces stay, marked by hand or left out, unless it was said what is a face.
    """
    check_flag("whole", whole)
    progress(0, desc=f"Loading {model}")
    restore, settled, notes = restorer_for(model, mode)
    progress(0.1, desc="Looking for faces")
    pixels, start = photo.pixels(), perf_counter()
    kept = before if before and before.whole == bool(whole) else None
    faces, detector, found = (kept.faces, kept.detector, kept.searched) if kept else find(pixels, bool(whole))
    wanted = range(len(faces)) if number is None else [face_index(number, len(faces), found)]
    restoration = restore(
        pixels,
        mode=settled,
        faces="whole" if whole else [faces[i] for i in wanted],
        progress=lambda done, total, text: progress(0.2 + 0.8 * done / max(total, 1), desc=text),
    )
    made = {id(face.face): face for face in restoration.faces}
    restored = tuple(restoration.faces) if whole else tuple(made.get(id(face)) for face in faces)
    shown = [i for i, face in enumerate(restored) if face]
    return Opened(
        photo,
        model,
        settled,
        bool(whole),
        tuple(faces),
        restored,
        detector,
        tuple(dict.fromkeys(map(without_paths, [*photo.notes, *notes, *found, *restoration.notes]))),
        restoration.engine,
        perf_counter() - start,
        wanted[0] if number is not None else kept.index if kept and kept.index in shown else next(iter(shown), 0),
        kept.left_out if kept else frozenset(),
        tuple(found),
    )


def blended(before: np.ndarray, after: np.ndarray, strength: float) -> np.ndarray:
    """`before` at strength 0, `after` at 1, uint8 both."""
    if strength >= 1:
        return after
    return np.rint(before + strength * (after.astype(np.float32) - before)).astype(np.uint8)


def badged(picture: np.ndarray, model: str) -> np.ndarray:
    """The picture (H,W,3) uint8 with a line at its foot that says what made it; as an array of its own."""
    image = Image.fromarray(picture)
    font = ImageFont.load_default(max(10, image.height // 32))
    text = f"restored by {model}"
    left, top, right, bottom = font.getbbox(text)
    margin = max(3, image.height // 100)
    place = int(image.height - (bottom - top) - 3 * margin)
    foot = image.crop((0, place, min(image.width, int(right - left) + 4 * margin), image.height))
    image.paste(Image.blend(foot, Image.new("RGB", foot.size), 0.6), (0, place))
    ImageDraw.Draw(image).text((2 * margin - left, place + 1.5 * margin - top), text, "white", font)
    return np.array(image)


def model_for(mode: str) -> str:
    """The first model here that is made for the intention: for faces as they are, or to rebuild reduced ones."""
    models = models_here()
    suited = (name for name in models if made_for_any_damage(name) == (mode == "as_is"))
    return next(suited, first_model())


def made_for_any_damage(name: str) -> bool:
    config = MODELS[name].config if name in MODELS else named(name).model.config
    return config.degraded_size is None


@dataclass(frozen=True)
class Example:
    """A picture that is here, and what to do with it."""

    label: str
    alt: str
    photo: Photo
    mode: Mode
    whole: bool = False


@cache
def examples() -> dict[str, Example]:
    """NASA's portrait of Eileen Collins, public domain, comes with scikit-image; the others are made of it."""
    astronaut = skimage.data.astronaut()
    face = astronaut[8:216, 120:328]

    def photo(pixels: np.ndarray, name: str) -> Photo:
        return Photo(encode_png(pixels), name)

    return {
        "astronaut": Example("Astronaut", "An astronaut in an orange suit", photo(astronaut, "astronaut"), "simulate"),
        "tiny": Example(
            "16x16", "Her face in 16 by 16 pixels", photo(resize(face, 16), "astronaut-16x16"), "simulate", True
        ),
        "damaged": Example("Damaged", "Her photo, blurred, noisy and compressed",
                           photo(_damaged(astronaut), "astronaut-damaged"), "as_is"),
    }  # fmt: skip


def _damaged(image: np.ndarray) -> np.ndarray:
    """Blurred, reduced, noisy, compressed, as old photos on the web are; the same every time."""
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5))
    small = np.array(blurred.resize((image.shape[1] // 3, image.shape[0] // 3), Image.Resampling.BICUBIC), float)
    noisy = small + np.random.default_rng(0).normal(0, 6, small.shape)
    file = io.BytesIO()
    Image.fromarray(np.rint(noisy.clip(0, 255)).astype(np.uint8)).save(file, "JPEG", quality=45)
    with Image.open(file) as jpeg:
        return np.array(jpeg.resize(image.shape[1::-1], Image.Resampling.BICUBIC))


@cache
def first() -> Opened:
    """What every visitor sees before giving a photo: the first example, restored once, when the page is built."""
    example = next(iter(examples().values()))
    return opened(example.photo, model_for(example.mode), example.mode, example.whole, silent)


def current(now: Opened | None, token: object) -> Opened:
    """What the visitor's page shows, by its token; `UserError` if the server has deleted it, or has newer."""
    if now is not None and now.token == token:
        return now
    if token == first().token:
        return first()
    raise UserError(EXPIRED if now is None else OUTDATED)


def silent(*_: float, desc: str = "") -> None:
    """The progress of what nobody waits for."""
