"""The real page in this process, with a stand-in for the detector and a model of the test's own before the others."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import app
from sparnet import SPARNet
from sparnet.faces import Detector, Face
from viz.tabs import models, serving


@contextmanager
def served(folder: Path, model: SPARNet, faces: Sequence[Face]) -> Iterator[str]:
    """-> its address; `model` is offered by the host, and the detector finds `faces` in every photo."""
    model.save_pretrained(folder / "model")
    with pytest.MonkeyPatch.context() as patch, socket.socket() as free:
        (folder / "served").mkdir()
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "served"))
        found = Detector("stand-in", "The faces of the test, always.", lambda photo: list(faces))
        patch.setattr(serving, "_detectors", [found])
        patch.setattr(models, "_offered", {})
        patch.setattr(models, "_shelf", models.Shelf())
        models.offer(str(folder / "model"))
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        page = app.build()
        yield page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)[1]
        page.close(verbose=False)
