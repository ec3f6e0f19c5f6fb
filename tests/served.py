"""The real page: as a process of its own, or in this one with a stand-in for the detector and a model of the test's.

started, served -> address; watched -> the page, in a browser that keeps what it has loaded; quiet: it asks no more
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect

import app
from sparnet import SPARNet
from sparnet.faces import Detector, Face
from viz.tabs import bench, models, serving
from viz.tabs.theme import CSS, theme

ROOT = Path(__file__).parents[1]
PATIENCE = int(os.environ.get("PATIENCE", 60_000))  # milliseconds of the browser, for a busy machine
LEFT_OPEN = 15  # seconds without a request, after which a stream of answers is one that Gradio has forgotten to close
expect.set_options(timeout=PATIENCE)


STILL = """addEventListener("DOMContentLoaded", () => {
    const style = document.createElement("style");
    style.textContent = "*, *::before, *::after { animation: none !important; transition: none !important }";
    document.head.append(style);
})"""  # what moves while a page waits is drawn without a graphics card, and takes longer than what it waits for


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
            env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=files, start_new_session=True,
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
    with suppress(ProcessLookupError):  # it was stopped by the test
        os.killpg(process.pid, signal.SIGKILL)  # with its workers, if it has any
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
        bench.first.cache_clear()
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
    bench.first.cache_clear()


def visit(browser: Browser) -> Page:
    """A new page of a visitor without a past, whose browser has the scripts of earlier pages still loaded."""
    if not hasattr(browser, "visitors"):
        browser.visitors = browser.new_context(viewport={"width": 1360, "height": 1000})
    page = browser.visitors.new_page()
    page.set_default_timeout(PATIENCE)
    page.add_init_script("if (!sessionStorage.here) { localStorage.clear(); sessionStorage.here = 1; }")
    page.add_init_script(STILL)
    return page


@contextmanager
def watched(browser: Browser, address: str) -> Iterator[Page]:
    """The page, just opened; `AssertionError` if its console has an error or it asks any other host for anything.

    page.requests: all that it has asked the server, page.waiting: what is not answered yet.
    """
    page = visit(browser)
    page.problems, page.requests, page.waiting = problems, requests, waiting = [], [], set()

    def begun(request: Request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            problems.append(request.url)
        elif request.url.startswith(address) and "/heartbeat/" not in request.url:  # that is never answered
            requests.append(request.url)
            waiting.add(request)

    page.on("request", begun)
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda request: waiting.discard(request))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("framenavigated", lambda frame: left(problems))
    page.goto(address)
    yield page
    page.close()
    left(problems)
    assert problems == [], problems


def quiet(page: Page) -> None:
    """Waits until all that the page has asked is answered, and the answers have made it ask nothing more."""
    begun, since = -1, time.monotonic()
    while page.waiting or begun < len(page.requests):
        if begun < len(page.requests):
            since = time.monotonic()
        silent = time.monotonic() - since
        if silent > LEFT_OPEN and all("/queue/data" in request.url for request in page.waiting):
            return
        assert silent < PATIENCE / 1000, [request.url for request in page.waiting]
        begun = len(page.requests)
        page.wait_for_timeout(200)
        page.evaluate("new Promise(done => requestIdleCallback(done))")


def left(problems: list[str]) -> None:
    """Takes out what Gradio itself complains of when a page is left while an answer is still on its way."""
    own = ("AbortError", "Connection errored out")
    problems[:] = [problem for problem in problems if not any(words in problem for words in own)]
