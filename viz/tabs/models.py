"""The models that a visitor may name, and their loading, for which nobody else waits.

name -> the host's own | the table's | a Hub id that the host allows -> loaded once, by a thread of its own -> kept
SPARNET_FETCH="sparnet-hd owner/name" -> fetched when the page starts, as in a Space, which has no command line

Never a path: visitors have no files here.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from reprlib import repr as brief

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from sparnet.checkpoints import DEFAULT_MODEL, MODELS, load_model, weights_file
from sparnet.errors import UserError
from sparnet.fetch import fetch, terms
from sparnet.hub import WEIGHTS
from sparnet.model import SPARNet
from viz.provenance import model_record
from viz.tabs.fetching import fetch_public

log = logging.getLogger(__name__)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # that models are loaded onto
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")  # where visitor and host are one
FETCH = "SPARNET_FETCH"  # names, as `sparnet fetch` takes them; whoever sets it accepts their licences
KEPT_MODELS = 3  # in memory; a SPARNetHD takes 350 MB
FETCHES = 2  # models that visitors named, on their way from the Hub at once
PATIENCE = 3  # seconds that a restoration waits for one of them, which holds those up who come after
RETRY_SECONDS = 10  # so long what could not be loaded is not tried again


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model in eval mode, and what there is to know about it."""

    model: SPARNet
    notes: list[str]  # what fell back while it was loaded
    weights: Path
    record: dict  # for provenance


_offered: dict[str, tuple[str, str | None]] = {}  # by whoever runs the server: a folder, .pth or Hub repo; its commit
_allowed: list[str] = []  # patterns of Hub ids


def offer(source: str) -> None:
    """Put a model of the host's own before those of the table, named by its path's end; `UserError` if it is none."""
    load_model(source)
    path = Path(source)
    if source in MODELS or not path.exists():
        _offered[source] = source, None if source in MODELS else weights_file(source).parent.name
        return
    parts = path.resolve().with_suffix("").parts if path.is_file() else path.resolve().parts
    names = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
    name = next(name for name in names if name not in (*_offered, *MODELS))
    _offered[name] = source, None


def fetch_named_by_host() -> None:
    """Fetch what the environment names; what cannot be had goes to the log, and the page starts without it."""
    for name in os.environ.get(FETCH, "").replace(",", " ").split():
        try:
            log.warning("%s names %s, licence: %s", FETCH, name, terms(name)["licence"])
            fetch(name)
            if name not in MODELS:
                offer(name)
        except UserError as error:
            log.error("%s: %s", FETCH, error)


def allow_hub(patterns: list[str]) -> None:
    """From now on, visitors may type the Hub ids that fit one of these patterns, such as owner/*; `*` means all."""
    _allowed[:] = patterns


def hub_hint() -> str | None:
    """What a visitor may type, in words; None: nothing."""
    if not _allowed:
        return None
    return "a Hugging Face Hub id: " + ("owner/name" if "*" in _allowed else ", ".join(_allowed))


def first_model() -> str:
    """The name of the model that the page starts with."""
    return (*_offered, DEFAULT_MODEL)[0]


def models_here() -> list[str]:
    """The names of the models that need no download."""
    return [*_offered, *(name for name, entry in MODELS.items() if entry.weights.is_file() and name not in _offered)]


def named(name: object) -> Loaded:
    """The model of that name, kept loaded; `UserError` if there is none or it cannot be had.

    A model from the Hub that takes longer than `PATIENCE` seconds is loaded without anybody waiting.
    """
    future = _begin(str(name or "").strip())
    try:
        return future.result(PATIENCE if future.fetched else None)
    except TimeoutError as error:
        if future.done():
            raise
        raise UserError(f"{brief(name)} is still being fetched from the Hub. Try again in a moment.") from error


async def arrival(names: object) -> None:
    """Wait, without a thread, until these models are loaded or cannot be: what uses them next says which.

    names: one or a list, as the browser says; what is no name is left to what uses it next, too.
    """
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str):
            continue
        with suppress(UserError):
            await asyncio.gather(asyncio.wrap_future(_begin(name.strip())), return_exceptions=True)


def name_of(model: SPARNet) -> str | None:
    """By what name this very model is loaded; None: it is not, or no more."""
    return _shelf.name_of(model)


def use(shelf: "Shelf", device: str) -> None:
    """From now on, models are those of this shelf, and others are loaded onto that device."""
    global _shelf, DEVICE
    _shelf, DEVICE = shelf, device


def _begin(name: str) -> "Load":
    if name in _offered or name in MODELS:
        return _shelf.begin(name, _load_here, fetched=False)
    _check_allowed(name)
    return _shelf.begin(name, _load_from_hub, fetched=True)


def _check_allowed(name: str) -> None:
    try:
        validate_repo_id(name)
        is_hub_id = "/" in name
    except HFValidationError:
        is_hub_id = False
    if not (is_hub_id and any(fnmatchcase(name, pattern) for pattern in _allowed)):
        hint = f", or type {hub_hint()}" if _allowed else ""
        raise UserError(
            f"{brief(name)} is not a model of this page. Choose one of {', '.join((*_offered, *MODELS))}{hint}."
        )


def _load_here(name: str) -> Loaded:
    entry = None if name in _offered else MODELS[name]
    if entry and not entry.weights.is_file() and not entry.bundled:
        raise UserError(
            f"{name} is the authors' model and is not bundled (licence: {entry.licence}). Whoever runs this app can "
            f"add its weights by `python -m sparnet fetch {name}`. Choose another model."
        )
    source, revision = _offered.get(name, (name, None))
    try:
        model = load_model(source, DEVICE, revision)
    except UserError as error:  # which names files of the server
        log.error("%s cannot be loaded: %s", name, error)
        raise UserError(f"{name} cannot be loaded; the server's log says why. Choose another model.") from error
    return Loaded(model, [], weights_file(source, revision), model_record(source, model, revision))


def _load_from_hub(name: str) -> Loaded:
    folder, notes = fetch_public(name)
    try:
        model = load_model(folder, DEVICE)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), name)) from error
    record = model_record(str(folder), model) | {"id": name, "revision": folder.name}
    return Loaded(model, notes, folder / WEIGHTS, record)


class Load(Future[Loaded]):
    """A model that is on its way, is there, or could not be had."""

    fetched: bool  # from the Hub, for a visitor
    failed: float | None = None  # when, in seconds of the monotonic clock


class Shelf:
    """Models by name: each is loaded once, however many ask for it, and the last few are kept."""

    def __init__(self):
        self._unlock()
        self._loads: dict[str, Load] = {}  # the last used is the last
        os.register_at_fork(after_in_child=self._unlock)  # another thread may hold it, which the child has not

    def _unlock(self) -> None:
        self._lock = threading.Lock()

    def put(self, name: str) -> None:
        """Load a model of the host's or the table's in this thread; `UserError` if that cannot be."""
        load = Load()
        load.fetched = False
        load.set_result(_load_here(name))
        self._loads[name] = load

    def name_of(self, model: SPARNet) -> str | None:
        with self._lock:
            return next((name for name in self._there() if self._loads[name].result().model is model), None)

    def _there(self) -> list[str]:
        return [name for name, load in self._loads.items() if load.done() and load.failed is None]

    def begin(self, name: str, load: Callable[[str], Loaded], fetched: bool) -> Load:
        """`load(name)` in a thread of its own, unless it is there already; `UserError` if too many are being fetched.

        What failed is not tried again for `RETRY_SECONDS`.
        """
        with self._lock:
            for other, ended in list(self._loads.items()):
                if ended.failed is not None and time.monotonic() - ended.failed > RETRY_SECONDS:
                    del self._loads[other]
            future = self._loads.pop(name, None)
            if future is None:
                if fetched and sum(other.fetched and not other.done() for other in self._loads.values()) >= FETCHES:
                    raise UserError("Other models are being fetched from the Hub. Try again in a moment.")
                future = Load()
                future.fetched = fetched
                threading.Thread(target=self._fill, args=(future, name, load), daemon=True).start()
            self._loads[name] = future
            return future

    def _fill(self, future: Load, name: str, load: Callable[[str], Loaded]) -> None:
        try:
            loaded = load(name)
        except Exception as error:  # told to everybody who asked
            future.failed = time.monotonic()
            future.set_exception(error)
            return
        with self._lock:
            kept = self._there()
            for name in kept[: len(kept) + 1 - KEPT_MODELS]:
                del self._loads[name]
        future.set_result(loaded)


_shelf = Shelf()
