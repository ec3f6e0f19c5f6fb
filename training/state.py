"""What a run keeps on disk, so that it can be killed at any moment.

    checkpoint.pt            everything needed to go on and, at its end, the hash of that; replaced as a whole
    checkpoint.previous.pt   the one before, should the disk damage the first
    before-anneal.pt         the last one at the constant rate, to go on from with --from-constant
    model/, best/            the averaged weights: latest, and best by validation; for SPARNet.from_pretrained
    annealed/                those at the end of an anneal
    .lock                    locked by the process that trains here

Whatever is written is complete and on the disk before it gets its name.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import file_digest, sha256
from pathlib import Path
from typing import IO

import torch
from pydantic import ConfigDict, NonNegativeInt, TypeAdapter, ValidationError, with_config
from safetensors.torch import save
from torch import Tensor
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from sparnet.errors import UserError
from sparnet.files import make_folder, save_bytes, to_disk, write_whole
from sparnet.folders import printable
from sparnet.hub import CONFIG, WEIGHTS
from sparnet.landmarks import LandmarkNet
from training.networks import Network

CHECKPOINT, PREVIOUS, BEFORE_ANNEAL = "checkpoint.pt", "checkpoint.previous.pt", "before-anneal.pt"
LOCK = ".lock"
SEAL = b"\nSHA-256 %s\n"  # the end of a checkpoint: the hash of all before it; what follows an archive, torch skips
SEALED = len(SEAL % bytes(64))
ARCHIVE_END, ARCHIVE_END_SIZE = b"PK\5\6", 22  # with these a checkpoint ends that has no hash


class _Record(TypedDict):
    recipe: dict


@with_config(ConfigDict(strict=True))
class _Kept(TypedDict):
    """What every checkpoint holds; some hold more."""

    model: dict
    averaged: dict
    optimizer: dict
    record: _Record
    step: NonNegativeInt
    best: float
    scores: str
    history: dict
    unreadable: list


def has_run(folder: Path) -> bool:
    """Whether a run has left something to resume in the folder."""
    return any((folder / name).exists() for name in (CHECKPOINT, PREVIOUS))


def check_folder(folder: Path, resume: bool) -> None:
    """`UserError` if there is a run that would be overwritten, or none to `resume`."""
    if has_run(folder) and not resume:
        raise UserError(f"{folder} already holds a run; go on with --resume, or choose another --out.")
    if resume and not has_run(folder):
        raise UserError(f"There is no run to resume in {folder}; start one without --resume.")


def lock(folder: Path, resume: bool) -> IO:
    """Make the folder this process's until the file is closed or the process ends, however it ends.

    `UserError` if another process trains there, or has trained there since `check_folder`. The lock is the process's
    own: unlike `flock`'s it is not inherited by the loader's workers, which outlive a killed trainer by seconds.
    """
    try:
        file = (folder / LOCK).open("a")
    except OSError as error:
        raise UserError(f"{folder / LOCK} cannot be written: {error.strerror}. Choose another --out.") from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if not isinstance(error, BlockingIOError | PermissionError):
            raise UserError(f"{folder / LOCK} cannot be locked: {error.strerror}; choose another --out.") from error
        raise UserError(f"Another process trains in {folder}; wait until it ends, or choose another --out.") from error
    check_folder(folder, resume)
    for leftover in folder.rglob(".*.tmp"):  # of a trainer that was killed while it wrote
        leftover.unlink()
    return file


def save_checkpoint(folder: Path, state: dict, name: str = CHECKPOINT) -> None:
    """Replace the checkpoint of that name by `state` and its hash; of the usual name, a sound one before is kept."""
    current = folder / name

    def put_in_place(temporary: Path) -> None:
        with temporary.open("w+b") as file:  # given a path, torch would not say why it cannot write
            try:
                torch.save(state, file)
            except RuntimeError as error:
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
            file.seek(0)
            digest = file_digest(file, sha256)
            file.write(SEAL % digest.hexdigest().encode())
        if name == CHECKPOINT and current.exists() and hash_fits(current) is not False:
            to_disk(temporary)
            os.replace(current, folder / PREVIOUS)

    with _advised():
        write_whole(current, put_in_place)


def load_checkpoint(folder: Path, say: Callable[[str], None], names: Sequence[str] = (CHECKPOINT, PREVIOUS)) -> dict:
    """The first checkpoint of these names that is not damaged; `say` hears of damage, and of one that has no hash.

    `UserError` if there is none, or it is not one of this trainer.
    """
    check_folder(folder, resume=True)
    damaged = False
    for path in (folder / name for name in names):
        if not path.exists():
            continue
        try:
            sealed = hash_fits(path)
            if sealed is False:
                raise ValueError("its content does not fit its SHA-256")
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many kinds for a damaged file; each is told
            say(f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())})")
            damaged = True
            continue
        if damaged:
            say(f"{path}, the checkpoint before it, is used")
        if not sealed:
            say(f"{path} has no hash, as earlier versions wrote it: damage to it may go unnoticed")
        try:
            TypeAdapter(_Kept).validate_python(state)
        except ValidationError as error:
            fault = error.errors()[0]
            what = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".removeprefix(": ")
            raise UserError(
                f"{path} is not a checkpoint of this trainer ({what}); take it away, or choose another --out."
            ) from error
        return state
    raise UserError(f"No readable checkpoint in {folder}; start again in another folder, --init {folder}/model helps.")


def hash_fits(path: Path) -> bool | None:
    """Whether the checkpoint is what was written, by its hash; None: it has none, as from before there was one."""
    digest, size = sha256(), path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - ARCHIVE_END_SIZE))
        if file.read().startswith(ARCHIVE_END):
            return None
        file.seek(0)
        left = max(0, size - SEALED)
        while chunk := file.read(min(left, 1 << 20)):
            digest.update(chunk)
            left -= len(chunk)
        return file.read() == SEAL % digest.hexdigest().encode()


def put_back(parts: Mapping[str, torch.nn.Module | torch.optim.Optimizer], state: dict, folder: Path) -> None:
    """Load each part's state; `UserError` names one that does not fit."""
    for name, part in parts.items():
        try:
            part.load_state_dict(state[name])
            if isinstance(part, torch.optim.Optimizer):
                _check_moments(part)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:  # as torch finds out
            raise UserError(
                f"The checkpoint in {folder} does not fit: its {name} is not this recipe's "
                f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); start another run with --init."
            ) from error


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    """`ValueError` unless the optimiser's state has the shapes of its parameters, which it does not check itself."""
    for group in optimizer.param_groups:
        if missing := optimizer.defaults.keys() - group.keys():
            raise ValueError(f"no {min(missing)}")
        for parameter in group["params"]:
            moments = optimizer.state.get(parameter) or {}
            shapes = {key: value.shape for key, value in moments.items() if isinstance(value, Tensor)}
            expected = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            if shapes not in ({}, expected):
                raise ValueError(f"moments {shapes} for a parameter of {tuple(parameter.shape)}")


def differences(then: dict, now: dict, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    """(dotted name, value then, value now) wherever two records of the same shape differ."""
    for key in sorted(then.keys() | now.keys()):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b


def write_model(model: Network | LandmarkNet, folder: Path) -> None:
    """Write model.safetensors and config.json, each replaced as a whole."""
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    make_folder(folder)
    save_bytes(save(weights), folder / WEIGHTS)  # first, because a disk that fills is found out here
    save_bytes(json.dumps(asdict(model.config), sort_keys=True, indent=2).encode(), folder / CONFIG)


def export(model: Network, folder: Path, card: str) -> None:
    """`write_model`, and its card."""
    with _advised():
        write_model(model, folder)
        save_bytes(printable(card).encode(), folder / "README.md")


@contextmanager
def _advised() -> Iterator[None]:
    """What the disk refuses is told with what to do."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} What was saved before is whole: make room, then go on with --resume.") from error
