"""Fixtures that every test may use."""

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from hub import local_hub
from made_up import PORTRAIT
from playwright.sync_api import sync_playwright

from sparnet import checkpoints, images
from sparnet.attention import figure_png

__all__ = ["local_hub"]

# Gradio's client leaves files in the system's temporary folder, in one that is another user's if he came first. Here
# they go at the end; pytest's own stay where they are.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
TEMPORARY = tempfile.TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True)
os.environ["TMPDIR"] = tempfile.tempdir = TEMPORARY.name
os.environ.setdefault("SPARNET_ENGINE", "torch")  # to compile each test's own small network takes longer than to run it
# Files that take ten seconds or more; of those with a browser no two at once, as far as that can be known.
LONG = [
    *("app", "training", "engine", "recipes", "attack", "inside", "viz_cli", "gan", "cli", "scale", "evaluate"),
    *("viz_report", "faces", "accessible", "compare", "attack_models", "survey", "live", "checkpoints", "maps", "zero"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first: processes that share the files then end at about the same time."""
    order = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


@pytest.fixture(autouse=True, scope="session")
def nothing_fetched(tmp_path_factory):
    """Whatever weights whoever runs the tests has fetched, here none are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "FETCHED", tmp_path_factory.mktemp("fetched"))
        yield


@pytest.fixture(autouse=True, scope="session")
def coarse_figures():
    """The instruments' files take a moment each to write; no test needs them as fine as print does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("viz.finding.figure_png", partial(figure_png, dpi=60))
        yield


@pytest.fixture(scope="session")
def portrait(tmp_path_factory) -> Path:
    """A photo of the astronaut, a quarter of the one that comes with scikit-image."""
    file = tmp_path_factory.mktemp("portrait") / "astronaut.png"
    images.save_png(PORTRAIT, file)
    return file


@pytest.fixture
def fresh_accelerator():
    """One process trains at several precisions only in tests; threads that wait for each other crawl."""
    AcceleratorState._reset_state(reset_partial_state=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def quick(monkeypatch):
    """Small runs take longer to draw (see test_watch.py) and to wait for the disk than to train."""
    monkeypatch.setattr("training.train.watch", lambda run: None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        missing = f"no browser: install one of {', '.join(names)}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        browser.executable = path
        yield browser
        browser.close()
