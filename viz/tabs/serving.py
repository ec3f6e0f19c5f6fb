"""What every tab needs: uploads to photos, names to restorers, errors to sentences, results to files.

upload -> read_upload -> bytes -> Photo -> (H,W,3) uint8        model name -> restorer -> Restorer of a loaded model
handler -> explained -> a sentence on the page, the traceback in the log
The table of what visitors may do stands here; door.py holds them to it.
"""

import contextlib
import dataclasses
import fcntl
import functools
import html
import logging
import os
import re
import reprlib
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from gradio.utils import get_upload_folder

from sparnet import Restorer
from sparnet.errors import UserError
from sparnet.faces import Detector, Face, find_detector
from sparnet.images import Decoded, decode_photo
from sparnet.restorer import MODES, Mode, find_faces
from viz.tabs.models import DEVICE, named

log = logging.getLogger(__name__)

# What visitors may do; SECURITY.md has the same table in words.
PHOTO_PIXELS = 4032 * 3024  # what a camera of 12 megapixels makes; the command line takes 40
FACES = 20  # of one photo, the largest; each takes the time of a network
UPLOAD_BYTES = 40_000_000  # a file
UPLOAD_FILES = 4  # that a request names, but for many photos at a time
MANY_PHOTOS = 30  # restored at a time, and as many files in an upload
MANY_BYTES = 160_000_000  # an upload; and of many photos, as they are unpacked, or no other is begun
MANY_PIXELS = 10 * PHOTO_PIXELS  # the same
MANY_SECONDS = 120  # the same
ZIP_ENTRIES = 1000
REQUESTS = 1000  # at the same time, answers that are being sent or waited for among them
REQUESTS_OF_ONE = 100  # of these from one address
QUERY_BYTES = 2000  # of an address, after its ?
SESSION_LETTERS = 100  # of the name that a browser gives itself
UPLOADS = 60  # that arrive at the same time, and as many other requests
UPLOADS_OF_ONE = 20  # of these from one address
GRACE = 10  # seconds until a body must come faster than SLOWEST
SLOWEST = 10_000  # bytes a second
JSON_BYTES = 200_000  # a request that is no upload
FIELD_BYTES = 10_000  # a part of an upload that is no file
CALL_BYTES = 4_000_000  # a call of a tool, which can hold a photo
DISK_BYTES = 4_000_000_000  # uploads and results together, the oldest going first
FILE_SECONDS = 3000  # that uploads and results are kept; looked for every SWEEP_SECONDS
SWEEP_SECONDS = 600
SESSIONS = 1000  # visitors who are remembered
KEPT_BYTES = 500_000_000  # of what all of them look at, in memory; the oldest goes first
WAITING = 100  # requests
WAITING_OF_ONE = 20  # of these from one address, a lane
LIVE_SECONDS = 120  # that one visitor is live
LIVE_IDLE = 5  # seconds without a frame until another one may be
LIVE_BYTES, LIVE_PIXELS = 100_000, 640 * 640  # of a frame
OPTIONS_MOST = {"steps": 200, "draws": 10, "noises": 20, "cells": 64, "levels": 50, "count": 64}  # of instruments

# Two lanes, so that a restoration never waits behind an instrument of minutes; each runs one network at a time.
QUICK: dict[str, Any] = {"concurrency_id": "quick", "concurrency_limit": 1}
SLOW: dict[str, Any] = {"concurrency_id": "slow", "concurrency_limit": 1}
LANES = {lane["concurrency_id"] for lane in (QUICK, SLOW)}
# How events are wired. With a photo: Gradio's own preprocessing would open it with any format.
UNOPENED: dict[str, Any] = {"preprocess": False}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # the page's own, no endpoint
HIDDEN: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}
UNQUEUED: dict[str, Any] = {**HIDDEN, "queue": False}
LOADING: dict[str, Any] = {**PRIVATE, "concurrency_limit": None}  # nothing but `models.arrival`
ZIP_START = b"PK\x03\x04"
NOT_SENT = "This is no file that was sent to this page. Choose a photo, drop it, or take a picture."
BUSY = "The page is busy, try again in a moment."
BUG = "Something went wrong on our side. The server's log has the details; please try another photo or model."

_detectors: list[Detector] = []  # the one that whoever runs the server chose, if they did
_FOLDER, _LOCK = "sparnet-", "in-use"  # of a server, and in it


def find_faces_with(yunet: str) -> None:
    """Use this YuNet file from now on; `UserError` if it is not one."""
    _detectors[:] = [find_detector(yunet)]


@dataclass(frozen=True, eq=False)
class Photo:
    """A visitor's photo as it was sent: its pixels, which take a hundred times more memory, are made when needed."""

    data: bytes
    name: str  # for the names of downloads: letters, digits, - and _
    notes: tuple[str, ...] = ()  # of decoding it
    turns: int = 0  # quarters of a circle, clockwise, by which the visitor had it turned

    def decoded(self) -> Decoded:
        """Pixels and what is transparent; `UserError` in words if it is not a photo, or larger than the page takes."""
        decoded = decode_photo(self.data, PHOTO_PIXELS)
        if not self.turns:
            return decoded
        alpha = None if decoded.alpha is None else _turned(decoded.alpha, self.turns)
        return dataclasses.replace(decoded, pixels=_turned(decoded.pixels, self.turns), alpha=alpha)

    def pixels(self) -> np.ndarray:
        """(H,W,3) uint8 sRGB, of `decoded`."""
        return self.decoded().pixels


def _turned(image: np.ndarray, turns: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(image, -turns))


def read_photo(upload: object) -> Photo:
    """A gr.Image's value as it came -> the photo, which can be decoded; `UserError` in words otherwise."""
    if upload is None:
        raise UserError("Choose a photo first: drop one on the left, paste it, or take a picture.")
    return photo_of(read_upload(upload), file_stem(Path(str(_path(upload))).stem))


def photo_of(data: bytes, name: str) -> Photo:
    """A file's content -> the photo, which can be decoded; `UserError` in words otherwise."""
    photo = Photo(data, name)
    return dataclasses.replace(photo, notes=photo.decoded().notes)


def read_upload(upload: object) -> bytes:
    """What a visitor names -> its content. The only place that opens it: a regular file that was sent to this server.

    `UserError` in one and the same sentence for anything else, so that nobody learns what is on the disk.
    """
    try:
        file = sent_file(_path(upload))
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO would wait for a writer
        with os.fdopen(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_size <= UPLOAD_BYTES:
                return opened.read(UPLOAD_BYTES)
    except OSError as error:
        raise UserError(NOT_SENT) from error
    raise UserError(NOT_SENT)


def _path(upload: object) -> object:
    """By what path a visitor names a file, which may be anything."""
    return upload.get("path") if isinstance(upload, dict) else getattr(upload, "path", None)


def sent_file(path: object) -> Path:
    """The path with all links followed; `UserError` unless it lies in the folder of this server's uploads."""
    try:
        file = Path(path).resolve(strict=True) if isinstance(path, str) else None
        if file and file.is_relative_to(Path(get_upload_folder()).resolve()):
            return file
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte, links in a circle
        raise UserError(NOT_SENT) from error
    raise UserError(NOT_SENT)


def file_stem(name: str) -> str:
    """What is left of a foreign file name where nothing can be misunderstood: letters, digits, - and _."""
    return re.sub(r"[^\w-]+", "-", name[:40]).strip("-_") or "photo"


def size_of(value: object, seen: set[int]) -> int:
    """Bytes of memory that pictures, tensors and texts in `value` take; `seen`: those that were counted already."""
    if isinstance(value, dict):
        return sum(size_of(item, seen) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(size_of(item, seen) for item in value)
    if dataclasses.is_dataclass(value):
        return size_of(vars(value), seen)
    if isinstance(value, np.ndarray):
        value = value if value.base is None else value.base  # a view keeps all of it
    elif isinstance(value, torch.Tensor):
        value = value.untyped_storage()
    key = value.data_ptr() if isinstance(value, torch.UntypedStorage) else id(value)
    if key in seen:
        return 0
    seen.add(key)
    if isinstance(value, (bytes, str)):
        return len(value)
    return value.nbytes() if isinstance(value, torch.UntypedStorage) else getattr(value, "nbytes", 0)


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """This server's own folder for uploads and results, gone when it ends; those of servers that were killed go first.

    A living server holds a lock on a file in its folder, which the system gives up whatever way the server ends.
    """
    above = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    for lock in above.glob(f"{_FOLDER}*/{_LOCK}"):
        if _is_dead(lock):
            shutil.rmtree(lock.parent, ignore_errors=True)  # another server may be at it, too
    with tempfile.TemporaryDirectory(prefix=_FOLDER, dir=above) as files, (Path(files) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(lock.name, Path(files) / _LOCK)  # only now, or a server that starts would take this one for dead
        yield Path(files)


def _is_dead(lock: Path) -> bool:
    """Whether the folder of this lock is ours and nobody's any more."""
    if lock.parent.is_symlink() or lock.parent.lstat().st_uid != os.getuid():
        return False
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone in the meantime, or no file
        return False
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def restorer(name: str | None) -> tuple[Restorer, list[str]]:
    """A model that a visitor names -> its restorer, and what fell back while it was loaded."""
    loaded = named(name)
    return Restorer(loaded.model, next(iter(_detectors), None)), [without_paths(note) for note in loaded.notes]


def device_name() -> str:
    return torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"


def check_settings(model: object, mode: object, whole: object = None) -> None:
    """`UserError` unless they are of the types that a visitor's settings have."""
    if not isinstance(model, str | None):
        raise UserError(f"{reprlib.repr(model)} is not a model's name. Give one as text.")
    if mode not in MODES:
        raise UserError(f"{reprlib.repr(mode)} is not a mode. Choose one of {', '.join(MODES)}.")
    check_flag("whole", whole)


def check_flag(name: str, value: object) -> None:
    """`UserError` unless it is true, false, or not given."""
    if not isinstance(value, bool | None):
        raise UserError(f"{name} is {reprlib.repr(value)}. It can be true or false.")


def restorer_for(model: str, mode: object) -> tuple[Restorer, Mode, list[str]]:
    """As `restorer`, and the mode: "as_is" for a model that knows no one size to reduce faces to, which a note says.

    `UserError` for another mode, or a model that cannot be had.
    """
    check_settings(model, mode)
    restore, notes = restorer(model)
    if mode == "as_is":
        return restore, "as_is", notes
    if restore.model.config.degraded_size is None:
        notes.append(f"{model} takes faces however damaged, so they were restored as they are.")
        return restore, "as_is", notes
    return restore, "simulate", notes


def find(photo: np.ndarray, whole: bool) -> tuple[list[Face], str, list[str]]:
    """The photo's `FACES` largest, who found them, and notes; `whole`: the picture is already a face."""
    faces, detector, notes = find_faces(photo, "whole" if whole else None, *_detectors)
    if len(faces) > FACES:
        notes.append(f"{len(faces)} faces were found; this page takes the {FACES} largest. Cut the photo for others.")
    return faces[:FACES], detector, [without_paths(note) for note in notes]


def face_index(number: object, count: int, notes: Sequence[str]) -> int:
    """A face's number as a visitor gave it, counted from 1, as an index into the `count` that were found."""
    if not isinstance(number, int | float) or number not in range(1, count + 1):
        none = "" if count else notes[-1]
        raise UserError(f"There is no face {reprlib.repr(number)}; {count} found. {none}".strip())
    return int(number) - 1


def chosen_index(index: object, count: int) -> int:
    """Which of the `count` faces was chosen on the photo, as the browser says; `UserError` if none of them was."""
    if not isinstance(index, int | float) or index not in range(count):
        raise UserError("There is no such face. Choose one on the photo.")
    return int(index)


def shares(box: object, refusal: str) -> list[float]:
    """left, top, right, bottom of a place on a picture, 0 to 1, as the browser says; `UserError` if it is no such."""
    edges = box if isinstance(box, list) and len(box) == 4 else []
    if not edges or not all(isinstance(edge, int | float) and 0 <= edge <= 1 for edge in edges):
        raise UserError(refusal)
    return edges


def event_value(event: gr.EventData, name: str) -> object:
    """What the browser says of an event, which may be anything; None if it says nothing of that name."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def download(data: bytes, name: str) -> str:
    """Write a result where Gradio serves it from and later deletes it; -> its path, in a folder of its own."""
    file = download_folder() / name
    file.write_bytes(data)
    return str(file)


def delete_the_oldest() -> None:
    """Keep `DISK_BYTES` of uploads and results, the latest."""
    files, left = [], DISK_BYTES
    for path in Path(get_upload_folder()).glob("*/*"):
        with contextlib.suppress(FileNotFoundError):  # by Gradio, in the meantime
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    for _, size, path in sorted(files, reverse=True):
        left -= size
        if left < 0:
            path.unlink(missing_ok=True)


def download_folder() -> Path:
    """A new folder that Gradio serves from and later deletes; its name cannot be guessed."""
    delete_the_oldest()
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    return folder


def sentence(error: Exception) -> str:
    """What to tell a visitor about an error; a bug goes to the log with its traceback."""
    if isinstance(error, UserError):
        return without_paths(str(error))
    log.error("A request failed", exc_info=error)
    return BUG


def without_paths(text: str) -> str:
    """The text with the folders of this server left out: of a path only its last name is for visitors."""
    return re.sub(r"(?<![\w:/.])/(?:[^\s/'\"]+/)+", "", text)


def explained(handler: Callable, tell: Callable[[str], object] | None = None) -> Callable:
    """The handler for Gradio, with any error told as a sentence: over the page, or in the answer that `tell` makes."""

    @functools.wraps(handler)
    def run(*args, **kwargs):
        try:
            return handler(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            if tell:
                return tell(sentence(error))
            raise gr.Error(html.escape(sentence(error), quote=False), print_exception=False) from error

    return run
