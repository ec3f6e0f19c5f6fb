"""Weights that are not bundled: the authors' by name, anybody's from the Hub by repo id.

name -> terms, for the user to accept -> fetch -> a part file of that version, resumed -> the right model? -> its place
"""

import os
from hashlib import sha256
from pathlib import Path

import httpx2
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, get_session

from sparnet.checkpoints import MODELS, ModelEntry, is_repo_id, load_entry, load_model, unknown_model, weights_file
from sparnet.errors import UserError
from sparnet.files import make_folder, to_disk
from sparnet.hub import TIMEOUT, check_announced, stated_licence
from sparnet.limits import MAX_WEIGHTS_BYTES
from sparnet.text import first_line

AUTHORS_LICENCE = "https://creativecommons.org/licenses/by-nc-sa/4.0/"
PLAIN = {"Accept-Encoding": "identity"}  # compressed, a file could not be resumed


def terms(name: str, revision: str | None = None) -> dict[str, str]:
    """What to know before `fetch`: where from, how large, under which licence; `UserError` if there is no such model.

    Of a Hub repo the licence that its card states, which takes a question to the Hub.
    """
    if name in MODELS:
        entry = MODELS[name]
        licence = entry.licence if entry.bundled else f"{entry.licence}: {AUTHORS_LICENCE}"
        return {"from": entry.source, "size": f"about {4 * entry.parameters / 1e6:.0f} MB", "licence": licence}
    if not is_repo_id(name):
        raise unknown_model(name)
    return {"from": f"the Hub, {name}", "licence": stated_licence(name, revision) or "none is stated in its card"}


def fetch(name: str, revision: str | None = None) -> Path:
    """The weights file of a model by its name in `MODELS` or its Hub repo id, downloaded unless it is here.

    What an interrupted download has left is resumed. `UserError` if it cannot be had, or is another model; then nothing
    is kept. Whoever calls this accepts the licence.
    """
    if name not in MODELS:
        load_model(name, revision=revision)
        return weights_file(name, revision)
    entry = MODELS[name]
    if not entry.bundled and not entry.path.is_file():
        _fetch_released(entry)
    load_model(name)
    return entry.weights


def _fetch_released(entry: ModelEntry) -> None:
    """Download the authors' file to where it is looked for."""
    file = entry.path
    make_folder(file.parent)
    with WeakFileLock(file.with_suffix(".lock")):  # another process may be at it
        if file.is_file():
            return
        part = _download(entry, file)
        try:
            load_entry(entry, part)
        except UserError as error:
            part.unlink()
            message = str(error).replace(str(part), "it")
            raise UserError(f"{entry.source} is not what it should be, and was not kept: {message}") from error
        os.replace(part, file)
        to_disk(file.parent)


def _download(entry: ModelEntry, file: Path) -> Path:
    """The whole file of the entry's address under another name beside `file`; `UserError` says what went wrong."""
    try:
        size, version = _announced(entry.source)
        check_announced(entry.source, file.name, size, MAX_WEIGHTS_BYTES)
        part = file.with_name(f".{file.name}.{sha256(version.encode()).hexdigest()[:16]}.part")
        for other in file.parent.glob(f".{file.name}.*.part"):
            if other != part or not version:
                other.unlink()
        with part.open("ab") as stream:
            if stream.tell() > size:
                stream.truncate(0)
                stream.seek(0)
            headers = PLAIN | ({"If-Range": version} if version else {})  # another version would be sent from its start
            http_get(
                entry.source, stream, resume_size=stream.tell(), headers=headers, expected_size=size,
                displayed_filename=file.name,
            )  # fmt: skip
        to_disk(part)
    except (httpx2.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"The download of {entry.name} did not finish ({first_line(error)}). `python -m sparnet fetch {entry.name}`"
            f" goes on where it stopped; or get {entry.source} by other means and save it as {entry.path}."
        ) from error
    return part


def _announced(address: str) -> tuple[int, str]:
    """Size of the file, and its version as `If-Range` takes it, empty if none is stated; asked by its first byte."""
    headers = PLAIN | {"Range": "bytes=0-0"}
    with get_session().stream("GET", address, headers=headers, timeout=TIMEOUT) as response:
        response.raise_for_status()
        stated, tag = response.headers, response.headers.get("ETag", "")
        size = stated.get("Content-Range", "").rpartition("/")[2] or stated.get("Content-Length", "")
        if not size.isdecimal():
            raise httpx2.ProtocolError("its size is not stated")
        return int(size), "" if tag.startswith("W/") else tag  # a weak tag does not promise the same bytes
