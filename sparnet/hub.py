"""A model in the project's own format, from a folder or from the Hugging Face Hub, read strictly.

    repo id -> fetch_model: a commit, verified -> folder -> config.json + model.safetensors -> model, eval, float32

The ecosystem's mixin fills in what is missing and drops what it does not know; here both are errors that name it.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from threading import Thread
from typing import Any, Self

import httpx2
import torch
from huggingface_hub import (
    HfApi,
    ModelCardData,
    PyTorchModelHubMixin,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.sha import git_hash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparnet.errors import UserError
from sparnet.files import sha256_of
from sparnet.limits import MAX_CONFIG_BYTES, MAX_HEADER_BYTES, MAX_TENSORS, MAX_WEIGHTS_BYTES
from sparnet.text import first_line, listed

CONFIG, WEIGHTS = "config.json", "model.safetensors"
UNFINISHED = (
    "Before it is published, this card needs the data, the scores with their protocol, the limits and the licence."
)
CARD = f"""---
{{{{ card_data }}}}
---

# A face restoration network of the SPARNet family

Paper: https://arxiv.org/abs/2012.01211. Load this folder with `sparnet.load_model`, RCAN and Wavelet-SRNet, which it is
compared with, with `training.networks.load`.

{UNFINISHED}
"""
KINDS = {  # of numbers that a model may be stored in, as safetensors calls them; the last two of its counts
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32,
}  # fmt: skip
GRACE, SLOWEST = 120.0, 100_000  # seconds for a download, and bytes a second for what is announced beyond them
TIMEOUT = 5  # seconds for the Hub's first answer; the client's own rule is six tries of up to a minute


class StrictHubMixin(PyTorchModelHubMixin):
    """`save_pretrained`, `push_to_hub` as the ecosystem knows them, and a `from_pretrained` that passes over nothing.

    For an `nn.Module` built as `cls(config)`, where `config` is a `cls.config_class`, a dataclass of JSON values.
    """

    config_class: type
    state_dict: Callable[..., dict[str, Any]]  # nn.Module's, as the other two
    load_state_dict: Callable[..., Any]
    eval: Callable[..., Self]

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]: passes over no option that is unknown
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        map_location: str | torch.device = "cpu",
        strict: bool = True,
    ) -> Self:
        """A folder or a Hub repo id -> the model in eval mode, float32, on `map_location`.

        `UserError` names what is missing, unknown or misshaped. Only safetensors are read, never a pickle. Fields that
        config.json leaves out have their defaults. A folder has no revision.
        """
        if not strict:
            raise ValueError(
                "strict=False is not offered: weights that do not fit would give a face nobody trained for"
            )
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = fetch_model(
                str(pretrained_model_name_or_path),
                revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        elif revision is not None:
            raise UserError(f"{folder} is a folder and has no revision {revision!r}: leave revision out.")
        with torch.device("meta"):  # nothing is allocated before the shapes are known to fit
            model = cls(read_config(folder, cls.config_class))
        return model._filled(read_weights(folder, model.state_dict()), map_location, str(folder))

    @classmethod
    def from_weights(
        cls, config, weights: Mapping[str, Tensor], device: str | torch.device = "cpu", origin: str = "the state dict"
    ) -> Self:
        """The model in eval mode with a float32 copy of `weights`; `UserError` if they are not exactly its own."""
        with torch.device("meta"):  # as in from_pretrained
            model = cls(config)
        return model._filled(weights, device, origin)

    def _filled(self, weights: Mapping[str, Tensor], device: str | torch.device, origin: str) -> Self:
        """This model of the meta device, with values."""
        check_weights(self.state_dict(), weights, origin)
        copies = {
            key: tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
            for key, tensor in weights.items()
        }
        self.load_state_dict(copies, assign=True)
        return self.eval()


def check_weights(expected: Mapping[str, Tensor], given: Mapping[str, Any], origin: str) -> None:
    """`UserError` unless `given` has exactly the keys, shapes and kinds of number of `expected`, all finite.

    Of a safetensors header it has slices, which know shape and kind of what is not read yet.
    """
    problems = [f"{key} is missing" for key in expected if key not in given]
    problems += [f"{key} is unknown" for key in given if key not in expected]
    for key in expected.keys() & given.keys():
        have, need = given[key], expected[key]
        read = isinstance(have, Tensor)
        shape, kind = (have.shape, have.dtype) if read else (tuple(have.get_shape()), KINDS.get(have.get_dtype()))
        if shape != need.shape:
            problems.append(f"{key} has shape {tuple(shape)} where the model has {tuple(need.shape)}")
        elif kind is None or kind.is_floating_point != need.is_floating_point():
            problems.append(f"{key} is {kind or have.get_dtype()} where the model has {need.dtype}")
        elif read and not have.sum(dtype=torch.float64).isfinite():
            problems.append(f"{key} has values that are not finite")
    if problems:
        raise UserError(f"The weights in {origin} do not fit their configuration: {_few(problems)}.")


def read_config(folder: Path, config_class: type):
    """config.json of a model folder; `UserError` names the file and the field."""
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(
            f"{folder} has no {CONFIG}, so the shape of its model is unknown. Save it with save_pretrained."
        )
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise UserError(f"{file} is larger than {MAX_CONFIG_BYTES:,} bytes, so it is not a model's configuration.")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise UserError(f"{file} nests too deeply to be a model's configuration.") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}). Fetch or save the model again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds a {type(values).__name__}, not an object of the model's fields.")
    known = [field.name for field in fields(config_class)]
    if unknown := [key for key in values if key not in known]:
        raise UserError(f"{file} has unknown fields: {_few(unknown)}. Known are {', '.join(known)}.")
    try:
        return config_class(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: {error}.") from error


def read_weights(folder: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """model.safetensors of a model folder, as stored; its header has to announce the keys, shapes and kinds `expected`.

    `UserError` where it does not, before a value is read, or where the file is missing, cut short or something else.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise UserError(f"{folder} has no {WEIGHTS}; pickled weights are never read. Save it with save_pretrained.")
    with file.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    if header > MAX_HEADER_BYTES or file.stat().st_size > MAX_WEIGHTS_BYTES:
        raise UserError(
            f"{file} is larger than any model of this project: {MAX_WEIGHTS_BYTES:,} bytes, {MAX_HEADER_BYTES:,} of "
            "them for names, are the most. Fetch or save the model again."
        )
    try:
        with safe_open(file, "pt") as stored:
            keys = stored.offset_keys()
            if len(keys) > MAX_TENSORS:
                raise UserError(
                    f"The weights in {folder} are {len(keys):,} tensors, which no model of this project has."
                )
            check_weights(expected, {key: stored.get_slice(key) for key in keys}, str(folder))
            return {key: stored.get_tensor(key) for key in keys}
    except SafetensorError as error:
        raise UserError(f"{file} is not a whole safetensors file ({error}). Fetch or save the model again.") from error


def fetch_model(
    repo_id: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """The folder of config.json and model.safetensors of one commit of a Hub repo, from the cache if it can be.

    A commit hash as `revision` always gives the same model and needs no network once cached. Where the Hub cannot be
    reached the cached copy is used, with a warning. Every file is checked against the hash that the Hub stated, and
    what the Hub announces as larger than a model can be is not downloaded.
    """
    command = f"hf download {repo_id}" + (f" --revision {revision}" if revision else "")
    seconds = {CONFIG: GRACE, WEIGHTS: GRACE}
    with _explained(repo_id, revision, command):
        if not local_files_only and (force_download or not _is_cached_commit(repo_id, revision, cache_dir)):
            try:
                for name, largest in ((CONFIG, MAX_CONFIG_BYTES), (WEIGHTS, MAX_WEIGHTS_BYTES)):
                    size = _ask_hub(repo_id, name, revision, token)
                    check_announced(repo_id, name, size, largest)
                    seconds[name] += (size or 0) / SLOWEST
            except (httpx2.TransportError, OfflineModeIsEnabled) as error:
                if force_download:
                    raise
                local_files_only = True
                if not isinstance(error, OfflineModeIsEnabled):
                    warnings.warn(
                        f"The Hub cannot be reached ({first_line(error)}): looking for {repo_id} in the cache.",
                        stacklevel=2,
                    )
        arguments = {"token": token, "cache_dir": cache_dir, "force_download": force_download, "etag_timeout": TIMEOUT}
        arguments["local_files_only"] = local_files_only
        config = Path(_in_time(seconds[CONFIG], command, repo_id, CONFIG, revision=revision, **arguments))
        commit = config.parent.name  # the weights must be of the same commit, even if one is pushed meanwhile
        weights = Path(_in_time(seconds[WEIGHTS], command, repo_id, WEIGHTS, revision=commit, **arguments))
    for file in (config, weights):
        _verify(file, f"{command} --force-download")
    return weights.parent


def _in_time(seconds: float, command: str, *arguments, **settings) -> str:
    """`hf_hub_download` of these arguments; `UserError` after so many seconds: the client would wait while it drips.

    Its thread is left behind then: it ends with the process.
    """
    path: Future[str] = Future()

    def download() -> None:
        try:
            path.set_result(hf_hub_download(*arguments, **settings))
        except BaseException as error:  # whoever waits gets it
            path.set_exception(error)

    Thread(target=download, daemon=True).start()
    try:
        return path.result(seconds)
    except TimeoutError as error:
        if path.done():
            raise
        raise UserError(
            f"{arguments[1]} of {arguments[0]} took more than {seconds:.0f} seconds and is not here yet. "
            f"Try again, or fetch it by `{command}`."
        ) from error


def stated_licence(repo_id: str, revision: str | None = None) -> str | None:
    """The licence that the card of a Hub repo states; None: none. `UserError` says why the Hub does not answer."""
    try:
        with _explained(repo_id, revision, f"python -m sparnet fetch {repo_id}"):
            card = HfApi().model_info(repo_id, revision=revision, timeout=TIMEOUT).card_data
    except OfflineModeIsEnabled as error:
        raise UserError(
            f"The licence of {repo_id} is on the Hub, and the offline mode is on: unset HF_HUB_OFFLINE."
        ) from error
    return licence_of(card) if card else None


def licence_of(card: ModelCardData) -> str | None:
    """The licence that a card's front matter names; None: none."""
    stated = card.get("license_name") or card.get("license") or []
    return " or ".join(map(str, stated if isinstance(stated, list) else [stated])) or None


def fetch_file(repo_id: str, name: str) -> str:
    """The path of one file of a Hub repo in the cache, filled if needed; at once, or within seconds, when offline.

    Raises what the Hub's client does.
    """
    try:
        return hf_hub_download(repo_id, name, local_files_only=True)
    except LocalEntryNotFoundError:
        # One question without the client's retries, which would last half a minute.
        get_hf_file_metadata(hf_hub_url(repo_id, name), timeout=TIMEOUT)
        return hf_hub_download(repo_id, name, etag_timeout=TIMEOUT)


def _is_cached_commit(repo_id: str, revision: str | None, cache_dir: str | Path | None) -> bool:
    """Whether both files are here already and can never change, as only those of a full commit hash."""
    if not re.fullmatch("[0-9a-f]{40}", revision or ""):
        return False
    found = [try_to_load_from_cache(repo_id, name, cache_dir, revision) for name in (CONFIG, WEIGHTS)]
    return all(isinstance(path, str) for path in found)


def check_announced(repo_id: str, name: str, size: int | None, largest: int) -> None:
    """`UserError` if a file is announced as larger than it can be."""
    if size is not None and size > largest:
        raise UserError(
            f"{name} of {repo_id} has {size:,} bytes; {largest:,} are the most, so it is not a model of this project "
            "and was not downloaded."
        )


def _ask_hub(repo_id: str, name: str, revision: str | None, token: str | bool | None) -> int | None:
    """How large the file is, in one short question; raises if nobody answers: the client would go on for minutes."""
    try:
        url = hf_hub_url(repo_id, name, revision=revision)
        return get_hf_file_metadata(url, token=token, timeout=TIMEOUT).size
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        raise httpx2.TransportError(f"it answers {error.response.status_code}") from error


@contextmanager
def _explained(repo_id: str, revision: str | None, command: str) -> Iterator[None]:
    """The client's errors as sentences that say what to do."""
    at = f"{repo_id} at revision {revision}" if revision else repo_id
    try:
        yield
    except (HFValidationError, HfHubHTTPError, EntryNotFoundError, httpx2.TransportError, OSError) as error:
        reasons = {  # a narrower one before those that it is one of
            HFValidationError: f"{repo_id!r} cannot be a Hub repo id, which is owner/name: {error}",
            GatedRepoError: f"{repo_id} is gated: accept its conditions on its page on the Hub, then log in with "
            "`hf auth login`.",
            RepositoryNotFoundError: f"The Hub has no public model {repo_id}. Check the spelling; if it is private, "
            "log in with `hf auth login`.",
            RevisionNotFoundError: f"{repo_id} has no revision {revision!r}; give a commit hash, tag or branch of it.",
            LocalEntryNotFoundError: f"{at} is not in the cache and the Hub cannot be reached. With a network, "
            f"`{command}` fills the cache.",
            EntryNotFoundError: f"{at} is not a model of this project: it lacks {CONFIG} or {WEIGHTS} (pickled weights "
            "are never read).",
            HfHubHTTPError: f"The Hub refused {at}: {first_line(error)}. Try later, or log in with `hf auth login`.",
            Exception: f"The download of {at} did not finish ({first_line(error)}); nothing half was kept. `{command}` "
            "tries again.",
        }
        raise UserError(next(text for kind, text in reasons.items() if isinstance(error, kind))) from error


def _verify(file: Path, command: str) -> None:
    """`UserError` unless a cached file is what the Hub stated: its blob is named by its SHA-256, or by git's hash."""
    stated = file.readlink().name if file.is_symlink() else ""
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", stated):
        return  # no symlinks on this system, or not the Hub but a mirror with tags of its own: nothing to compare
    if (actual := hash_like(stated, file)) != stated:
        raise UserError(
            f"{file.name} in the cache is corrupt: its hash is {actual}, the Hub states {stated}. "
            f"`{command}` fetches it again."
        )


def hash_like(stated: str, file: Path) -> str:
    """The file's hash as the Hub states it: SHA-256 of large files, with 64 digits, git's hash of small ones."""
    return sha256_of(file) if len(stated) == 64 else git_hash(file.read_bytes())


def _few(items: Sequence[str]) -> str:
    return listed([item if len(item) < 200 else f"{item[:200]} ..." for item in items], 4, "; ")
