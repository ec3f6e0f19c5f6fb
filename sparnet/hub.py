"""A model in the project's own format, from a folder or from the Hugging Face Hub, read strictly.

    repo id -> fetch: one commit, verified, cached -> folder -> config.json + model.safetensors -> model, eval, float32

The ecosystem's mixin fills in what is missing and drops what it does not know; here both are errors that name it.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from hashlib import sha1, sha256
from pathlib import Path
from typing import Self

import httpx2
import torch
from huggingface_hub import (
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
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparnet.errors import UserError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
UNFINISHED = (
    "Before it is published, this card needs the data, the scores with their protocol, the limits and the licence."
)
CARD = f"""---
{{{{ card_data }}}}
---

# A face restoration network of the SPARNet family

Paper: https://arxiv.org/abs/2012.01211. Load this folder with `sparnet.load_model`.

{UNFINISHED}
"""
TIMEOUT = 5  # seconds for the Hub's first answer; the client's own rule is six tries of up to a minute


class StrictHubMixin(PyTorchModelHubMixin):
    """`save_pretrained`, `push_to_hub` as the ecosystem knows them, and a `from_pretrained` that passes over nothing.

    For an `nn.Module` built as `cls(config)`, where `config` is a `cls.config_class`, a dataclass of JSON values.
    """

    config_class: type

    @classmethod
    def from_pretrained(
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
            folder = fetch(
                str(pretrained_model_name_or_path),
                revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        elif revision is not None:
            raise UserError(f"{folder} is a folder and has no revision {revision!r}: leave revision out")
        return cls.from_weights(read_config(folder, cls.config_class), read_weights(folder), map_location, str(folder))

    @classmethod
    def from_weights(
        cls, config, weights: Mapping[str, Tensor], device: str | torch.device = "cpu", origin: str = "the state dict"
    ) -> Self:
        """The model in eval mode with a float32 copy of `weights`; `UserError` if they are not exactly its own."""
        with torch.device("meta"):  # nothing is allocated before the shapes are known to fit
            model = cls(config)
        check_weights(model.state_dict(), weights, origin)
        copies = {
            key: tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
            for key, tensor in weights.items()
        }
        model.load_state_dict(copies, assign=True)
        return model.eval()


def check_weights(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], origin: str) -> None:
    """`UserError` unless `given` has exactly the keys, shapes and kinds of number of `expected`, all finite."""
    problems = [f"{key} is missing" for key in expected if key not in given]
    problems += [f"{key} is unknown" for key in given if key not in expected]
    for key in expected.keys() & given.keys():
        have, need = given[key], expected[key]
        if have.shape != need.shape:
            problems.append(f"{key} has shape {tuple(have.shape)} where the model has {tuple(need.shape)}")
        elif have.is_floating_point() != need.is_floating_point():
            problems.append(f"{key} is {have.dtype} where the model has {need.dtype}")
        elif not have.sum(dtype=torch.float64).isfinite():
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
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}). Fetch or save the model again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds a {type(values).__name__}, not an object of the model's fields.")
    known = [field.name for field in fields(config_class)]
    if unknown := [key for key in values if key not in known]:
        raise UserError(f"{file} has unknown fields: {_few(unknown)}. Known are {', '.join(known)}.")
    try:
        return config_class(**values)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """model.safetensors of a model folder, as stored; `UserError` where it is missing, cut short or something else."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise UserError(f"{folder} has no {WEIGHTS}; pickled weights are never read. Save it with save_pretrained.")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is not a whole safetensors file ({error}). Fetch or save the model again.") from error


def fetch(
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
    reached the cached copy is used, with a warning. Every file is checked against the hash that the Hub stated.
    """
    command = f"hf download {repo_id}" + (f" --revision {revision}" if revision else "")
    with _explained(repo_id, revision, command):
        if not local_files_only and (force_download or not _is_cached_commit(repo_id, revision, cache_dir)):
            try:
                _ask_hub(repo_id, revision, token)
            except (httpx2.TransportError, OfflineModeIsEnabled) as error:
                if force_download:
                    raise
                local_files_only = True
                if not isinstance(error, OfflineModeIsEnabled):
                    warnings.warn(
                        f"The Hub cannot be reached ({_reason(error)}): looking for {repo_id} in the cache.",
                        stacklevel=2,
                    )
        arguments = {"token": token, "cache_dir": cache_dir, "force_download": force_download, "etag_timeout": TIMEOUT}
        arguments["local_files_only"] = local_files_only
        config = Path(hf_hub_download(repo_id, CONFIG, revision=revision, **arguments))
        commit = config.parent.name  # the weights must be of the same commit, even if one is pushed meanwhile
        weights = Path(hf_hub_download(repo_id, WEIGHTS, revision=commit, **arguments))
    for file in (config, weights):
        _verify(file, f"{command} --force-download")
    return weights.parent


def _is_cached_commit(repo_id: str, revision: str | None, cache_dir: str | Path | None) -> bool:
    """Whether both files are here already and can never change, as only those of a full commit hash."""
    if not re.fullmatch("[0-9a-f]{40}", revision or ""):
        return False
    found = [try_to_load_from_cache(repo_id, name, cache_dir, revision) for name in (CONFIG, WEIGHTS)]
    return all(isinstance(path, str) for path in found)


def _ask_hub(repo_id: str, revision: str | None, token: str | bool | None) -> None:
    """One short question that raises if nobody answers; the client itself would go on asking for minutes."""
    try:
        get_hf_file_metadata(hf_hub_url(repo_id, CONFIG, revision=revision), token=token, timeout=TIMEOUT)
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
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} cannot be a Hub repo id, which is owner/name: {error}") from error
    except GatedRepoError as error:
        raise UserError(
            f"{repo_id} is gated: accept its conditions on its page on the Hub, then log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"The Hub has no public model {repo_id}. Check the spelling; if it is private, log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repo_id} has no revision {revision!r}; give a commit hash, tag or branch of it.") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{at} is not in the cache and the Hub cannot be reached. With a network, `{command}` fills the cache."
        ) from error
    except EntryNotFoundError as error:
        raise UserError(
            f"{at} is not a model of this project: it lacks {CONFIG} or {WEIGHTS} (pickled weights are never read)."
        ) from error
    except HfHubHTTPError as error:
        raise UserError(
            f"The Hub refused {at}: {_reason(error)}. Try later, or log in with `hf auth login`."
        ) from error
    except (httpx2.TransportError, OSError) as error:
        raise UserError(
            f"The download of {at} did not finish ({_reason(error)}); nothing half was kept. `{command}` tries again."
        ) from error


def _verify(file: Path, command: str) -> None:
    """`UserError` unless a cached file is what the Hub stated: its blob is named by its SHA-256, or by git's hash."""
    stated = file.readlink().name if file.is_symlink() else ""
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", stated):
        return  # no symlinks on this system, or not the Hub but a mirror with tags of its own: nothing to compare
    data = file.read_bytes()
    actual = sha256(data) if len(stated) == 64 else sha1(b"blob %d\0" % len(data) + data)
    if actual.hexdigest() != stated:
        raise UserError(
            f"{file.name} in the cache is corrupt: its hash is {actual.hexdigest()}, the Hub states {stated}. "
            f"`{command}` fetches it again."
        )


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _few(items: list[str], shown: int = 4) -> str:
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return "; ".join(items[:shown]) + more
