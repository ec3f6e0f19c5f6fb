"""A model that a visitor named, from the Hub: with nobody's token, within limits of size and time, into its own cache.

owner/name -> config.json, checked -> model.safetensors, of the size and hash announced -> CACHE/owner--name/commit

The host's own Hub cache is neither read nor written: it may hold what only the host may see.
"""

import re
import shutil
import tempfile
import threading
import time
from pathlib import Path

import httpx2
import torch
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from sparnet.errors import UserError
from sparnet.hub import CONFIG, TIMEOUT, WEIGHTS, check_announced, hash_like, read_config
from sparnet.limits import MAX_CONFIG_BYTES, MAX_HEADER_BYTES
from sparnet.model import SPARNet

FETCH_SECONDS = 120  # for one model, from the first question to the last byte
CACHED_MODELS = 8  # that visitors named, on disk; the one longest unused goes first
CACHED_BYTES = 2 * 1024**3

_COMMIT, _HASH = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_pruning = threading.Lock()


def cache() -> Path:
    """Where models that visitors named are kept, beside the host's own Hub cache."""
    return Path(constants.HF_HUB_CACHE).with_name("sparnet-visitors")


def fetch_public(repo_id: str) -> tuple[Path, list[str]]:
    """The folder of a public model's newest commit, named by the commit, and a note if it may not be the newest.

    `UserError` if it cannot be had, is too large or takes too long; then nothing of it is kept.
    """
    home = cache() / repo_id.replace("/", "--")
    cache().mkdir(parents=True, exist_ok=True)
    notes = []
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=cache()) as half:
            commit = _download(repo_id, home, Path(half))
    except HfHubHTTPError as error:  # for somebody who has no account on this server
        raise UserError(
            f"The Hub has no public model {repo_id} of this project (it answers {error.response.status_code}). Check "
            "the spelling; whoever runs this app can offer a private one."
        ) from error
    except (httpx2.TransportError, OfflineModeIsEnabled) as error:
        commit = _newest(home)
        if commit is None:
            raise UserError(
                f"The Hub cannot be reached from here, and {repo_id} was not fetched before. Try again later."
            ) from error
        notes = [f"The Hub cannot be reached: this is the copy of {repo_id} that was fetched before."]
    folder = home / commit
    home.touch()
    with _pruning:
        _prune()
    return folder, notes


def _download(repo_id: str, home: Path, half: Path) -> str:
    """Fill home/commit by way of the folder `half`, unless it is there already; -> the commit."""
    if constants.HF_HUB_OFFLINE:
        raise OfflineModeIsEnabled("offline mode")
    deadline = time.monotonic() + FETCH_SECONDS
    with httpx2.Client(follow_redirects=True, timeout=TIMEOUT) as client:
        commit = _save(client, repo_id, "main", half / CONFIG, MAX_CONFIG_BYTES, deadline)
        if not (home / commit).is_dir():
            _save(client, repo_id, commit, half / WEIGHTS, _largest_weights(half, repo_id), deadline)
            home.mkdir(exist_ok=True)
            half.rename(home / commit)
            half.mkdir()  # for who made it to remove
    return commit


def _largest_weights(folder: Path, repo_id: str) -> int:
    """How many bytes the weights file of that config.json can have; `UserError` if there cannot be such a model."""
    try:
        config = read_config(folder, SPARNet.config_class)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), repo_id)) from error
    with torch.device("meta"):
        state = SPARNet(config).state_dict()
    return MAX_HEADER_BYTES + 8 * sum(tensor.numel() for tensor in state.values())


def _save(client: httpx2.Client, repo_id: str, revision: str, file: Path, largest: int, deadline: float) -> str:
    """One file of the repo, checked against the size and the hash that the Hub states; -> the commit it is of."""
    url = hf_hub_url(repo_id, file.name, revision=revision)
    headers = build_hf_headers(token=False) | {"Accept-Encoding": "identity"}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code >= 500:
            raise httpx2.TransportError(f"it answers {response.status_code}")
        hf_raise_for_status(response)
        named = constants.HUGGINGFACE_HEADER_X_REPO_COMMIT
        answers = (answer.headers for answer in (response, *reversed(response.history)))
        stated = next((answer for answer in answers if named in answer), {})  # the Hub's own, which may send us on
        commit = stated.get(named, "")
        if not _COMMIT.fullmatch(commit):
            raise UserError(f"The Hub names no commit of {repo_id}. Try later.")
        size = stated.get(constants.HUGGINGFACE_HEADER_X_LINKED_SIZE) or response.headers.get("Content-Length", "")
        check_announced(repo_id, file.name, int(size) if size.isdecimal() else None, largest)
        written = 0
        with file.open("wb") as saved:
            for chunk in response.iter_bytes():
                written += len(chunk)
                check_announced(repo_id, file.name, written, largest)
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{repo_id} could not be downloaded within {FETCH_SECONDS:g} seconds. Try again later."
                    )
                saved.write(chunk)
    etag = stated.get(constants.HUGGINGFACE_HEADER_X_LINKED_ETAG) or stated.get("ETag", "")
    digest = etag.removeprefix("W/").strip('"')
    if _HASH.fullmatch(digest) and hash_like(digest, file) != digest:  # a mirror may have tags of its own
        raise UserError(f"{file.name} of {repo_id} arrived damaged. Try again later.")
    return commit


def _newest(home: Path) -> str | None:
    commits = sorted(home.glob("*"), key=lambda folder: folder.stat().st_mtime)
    return commits[-1].name if commits else None


def _prune() -> None:
    """Remove the models longest unused until count and bytes are within the limits, and all old commits of each."""
    for half in cache().glob(".*"):  # of servers that were killed
        if time.time() - half.stat().st_mtime > 10 * FETCH_SECONDS:
            shutil.rmtree(half)
    homes = sorted(cache().glob("[!.]*"), key=lambda home: home.stat().st_mtime)
    for home in homes:
        for commit in home.iterdir():
            if commit.name != _newest(home):
                shutil.rmtree(commit)
    sizes = [sum(file.stat().st_size for file in home.rglob("*")) for home in homes]
    while len(homes) > CACHED_MODELS or (sum(sizes) > CACHED_BYTES and len(homes) > 1):
        shutil.rmtree(homes.pop(0))
        sizes.pop(0)
