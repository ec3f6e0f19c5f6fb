"""The real page: as a process of its own, or in this one with a stand-in for the detector and a model of the test's."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

import app
from sparnet import SPARNet
from sparnet.faces import Detector, Face
from viz.tabs import bench, models, serving
from viz.tabs.theme import CSS, theme

ROOT = Path(__file__).parents[1]
PATIENCE = int(os.environ.get("PATIENCE", 60_000))  # milliseconds of the browser, for a busy machine


@contextmanager
def started(files: Path, log: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address and the process of `python app.py` without a network, its temporary files in `files`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(files)}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, ROOT / "app.py", "--host", "127.0.0.1", "--port", str(port)],
            env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=files,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
    else:
        pytest.fail(f"the page did not come: {log.read_text()}")
    yield address, process
    process.kill()
    process.wait()
    for trace in ("A request failed", "Traceback"):
        assert trace not in log.read_text()


@contextmanager
def served(folder: Path, model: SPARNet, faces: Sequence[Face], **others: SPARNet) -> Iterator[str]:
    """-> its address; `model` and others are offered by the host, and the detector finds `faces` in every photo."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as free:
        (folder / "served").mkdir()
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "served"))
        found = Detector("stand-in", "The faces of the test, always.", lambda photo: list(faces))
        patch.setattr(serving, "_detectors", [found])
        patch.setattr(models, "_offered", {})
        patch.setattr(models, "_shelf", models.Shelf())
        patch.setattr(bench, "_first", [])
        for name, network in {"model": model, **others}.items():
            network.save_pretrained(folder / name)
            models.offer(str(folder / name))
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        page = app.build()
        look = {"theme": theme(), "css_paths": list(CSS), "footer_links": ["api"]}
        yield page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, **look)[1]
        page.close(verbose=False)


@contextmanager
def watched(browser: Browser, address: str) -> Iterator[Page]:
    """The page, just opened; `AssertionError` if its console has an error or it asks any other host for anything."""
    page = browser.new_page(viewport={"width": 1360, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.problems = problems = []
    ours = (address, "data:", "blob:")
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("framenavigated", lambda frame: left(problems))
    page.on("request", lambda request: None if request.url.startswith(ours) else problems.append(request.url))
    page.goto(address)
    yield page
    page.close()
    left(problems)
    assert problems == [], problems


def left(problems: list[str]) -> None:
    """Takes out what Gradio itself complains of when a page is left while an answer is still on its way."""
    own = ("AbortError", "Connection errored out")
    problems[:] = [problem for problem in problems if not any(words in problem for words in own)]
