"""What every tab needs: uploads to photos, names to restorers, errors to sentences, results to files.

upload -> read_photo -> (H,W,3) uint8        model name -> restorer -> Restorer of a loaded model
handler -> explained -> a sentence on the page, the traceback in the log
"""

import functools
import html
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import gradio as gr
import numpy as np
import torch
from gradio import route_utils
from gradio.utils import get_upload_folder

from sparnet import Restorer
from sparnet.errors import UserError
from sparnet.faces import Detector, Face, find_detector
from sparnet.images import decode
from sparnet.restorer import MODES, Restoration, find_faces
from viz.tabs.models import DEVICE, named

log = logging.getLogger(__name__)

ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}  # for every event that runs a network
UNOPENED = {"preprocess": False}  # for every event with a photo: Gradio's own preprocessing opens it with any format
BUG = "Something went wrong on our side. The server's log has the details; please try another photo or model."

_detectors: list[Detector] = []  # the one that whoever runs the server chose, if they did


def find_faces_with(yunet: str) -> None:
    """Use this YuNet file from now on; `UserError` if it is not one."""
    _detectors[:] = [find_detector(yunet)]


class _PrivateUpload(route_utils.GradioUploadFile):
    """An upload whose folder nobody else gets: Gradio names it by the content, so equal photos would share one."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sha.update(secrets.token_bytes(32))


def keep_uploads_apart() -> None:
    """From now on, never one path for two uploads."""
    route_utils.GradioUploadFile = _PrivateUpload


def read_photo(upload: dict | None) -> np.ndarray:
    """A gr.Image's value as the browser sent it -> (H,W,3) uint8 RGB; `UserError` in words if it is not a photo."""
    if not upload or not upload.get("path"):
        raise UserError("Choose a photo first: drop one on the left, paste it, or take a picture.")
    return decode(Path(upload["path"]).read_bytes())


def restorer(name: str | None) -> tuple[Restorer, list[str]]:
    """A model that a visitor names -> its restorer, and what fell back while it was loaded."""
    loaded = named(name)
    return Restorer(loaded.model, *_detectors), loaded.notes


def device_name() -> str:
    return torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"


def timed_restoration(
    photo: np.ndarray, model: str, mode: str, whole: bool, progress: gr.Progress
) -> tuple[Restoration, dict]:
    """Restore a photo; with it, what a person wants to know about how it was done, ready for JSON."""
    check_mode(mode)
    progress(0, desc=f"Loading {model}")
    restore, notes = restorer(model)
    progress(0.1, desc="Looking for faces")
    start = perf_counter()
    result = restore(
        photo,
        mode=mode,
        faces="whole" if whole else None,
        progress=lambda done, total, text: progress(0.1 + 0.9 * done / max(total, 1), desc=text),
    )
    return result, {
        "model": model,
        "device": device_name(),
        "mode": mode,
        "seconds": round(perf_counter() - start, 2),
        "detector": result.detector,
        "faces": [[round(float(edge), 1) for edge in face.face.box] for face in result.faces],
        "notes": notes + result.notes,
    }


def check_mode(mode: str) -> None:
    if mode not in MODES:
        raise UserError(f"{mode!r} is not a mode. Choose one of {', '.join(MODES)}.")


def settled_mode(model: str, mode: str) -> tuple[str, list[str]]:
    """The mode, but "as_is" for a model that knows no one size to reduce faces to; what fell back, and a note of that.

    `UserError` for another mode, or a model that cannot be had.
    """
    check_mode(mode)
    restore, notes = restorer(model)
    if mode == "simulate" and restore.model.config.degraded_size is None:
        return "as_is", [*notes, f"{model} takes faces however damaged, so they were restored as they are."]
    return mode, notes


def find(photo: np.ndarray, whole: bool) -> tuple[list[Face], str, list[str]]:
    """The photo's faces, largest first, who found them, and notes; `whole`: the picture is already a face."""
    return find_faces(photo, "whole" if whole else None, *_detectors)


def face_index(number: int | None, count: int, notes: list[str]) -> int:
    """A face's number, counted from 1, as an index into the `count` that were found."""
    number = int(number or 0)
    if not 1 <= number <= count:
        raise UserError(f"There is no face {number}; {count} found. {'' if count else notes[-1]}".strip())
    return number - 1


def download(data: bytes, name: str) -> str:
    """Write a result where Gradio serves it from and later deletes it; -> its path, in a folder of its own."""
    file = download_folder() / name
    file.write_bytes(data)
    return str(file)


def download_folder() -> Path:
    """A new folder that Gradio serves from and later deletes; its name cannot be guessed."""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    return folder


def sentence(error: Exception) -> str:
    """What to tell a person about an error; a bug goes to the log with its traceback."""
    if isinstance(error, UserError):
        return str(error)
    log.error("A request failed", exc_info=error)
    return BUG


def explained(handler: Callable) -> Callable:
    """The handler for Gradio, with any error told as a sentence."""

    @functools.wraps(handler)
    def run(*args, **kwargs):
        try:
            return handler(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error(html.escape(sentence(error), quote=False), print_exception=False) from error

    return run
