"""What a run keeps on disk, so that it can be killed at any moment.

    checkpoint.pt            everything needed to go on, replaced as a whole
    checkpoint.previous.pt   the one before, should the disk damage the first
    before-anneal.pt         the last one at the constant rate, to go on from with --from-constant
    model/, best/            the averaged weights: latest, and best by validation; for SPARNet.from_pretrained
    annealed/                those at the end of an anneal

Whatever is written is complete and on the disk before it gets its name.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from sparnet.errors import UserError
from training.networks import Network

CHECKPOINT, PREVIOUS, BEFORE_ANNEAL = "checkpoint.pt", "checkpoint.previous.pt", "before-anneal.pt"


def has_run(folder: Path) -> bool:
    """Whether a run has left something to resume in the folder."""
    return any((folder / name).exists() for name in (CHECKPOINT, PREVIOUS))


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, put that in place: a kill leaves the old or the new.

    `UserError` if the disk is full or cannot be written; the old is still there then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _told(path):
        write(temporary)
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)


def save_checkpoint(folder: Path, state: dict, name: str = CHECKPOINT) -> None:
    """Replace the checkpoint of that name by `state`; of the usual name, the one before is kept."""
    current = folder / name

    def put_in_place(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, torch would not say why it cannot write
            torch.save(state, file)
        if name == CHECKPOINT and current.exists():
            _to_disk(temporary)
            os.replace(current, folder / PREVIOUS)

    write_whole(current, put_in_place)


def load_checkpoint(folder: Path, say: Callable[[str], None], names: Sequence[str] | None = None) -> dict:
    """The first readable checkpoint of these names, without them the newest; `say` hears of a damaged one.

    `UserError` if there is none.
    """
    if not has_run(folder):
        raise UserError(f"there is no run to resume in {folder}; start one without --resume")
    for name in names or (CHECKPOINT, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many kinds for a damaged file; each is told
            say(f"{path} is damaged ({type(error).__name__}: {error})")
    raise UserError(f"no readable checkpoint in {folder}; start again in another folder, --init {folder}/model helps")


def export(model: Network, folder: Path, card: str) -> None:
    """Write config.json, model.safetensors and a README, each replaced as a whole."""
    copy = type(model)(model.config)  # contiguous and on the CPU, whatever the trained one is
    copy.load_state_dict(model.state_dict())
    fresh = folder.with_name(f".{folder.name}.tmp")
    with _told(folder):
        fresh.mkdir(parents=True, exist_ok=True)
        (fresh / "README.md").write_text(card)  # before save_pretrained, which would put its own
        copy.save_pretrained(fresh)
        folder.mkdir(exist_ok=True)
        (fresh / "model.safetensors").chmod((fresh / "config.json").stat().st_mode)  # safetensors makes it private
        for name in ("config.json", "README.md", "model.safetensors"):
            _to_disk(fresh / name)
            os.replace(fresh / name, folder / name)
        shutil.rmtree(fresh)
        _to_disk(folder)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the disk refuses becomes one line that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(
            f"{path} cannot be written: {reason}. What was saved before is whole; make room, then go on with --resume"
        ) from error


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
