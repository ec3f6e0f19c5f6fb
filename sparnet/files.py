"""Files: the one place that reads them whole, lists and makes folders, plans what is written, and writes it.

    everything a command will write -> check_targets (not an input, not each other, no name too long) -> the work
    result -> write_whole: temporary file beside it -> on the disk -> its name; a kill leaves the old or the new

Nothing of the user's is overwritten but what the same command wrote before.
"""

import os
import secrets
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import file_digest
from io import BytesIO
from pathlib import Path
from unicodedata import normalize

import numpy as np

from sparnet.errors import UserError

Key = tuple[str, str]  # folder, name; the same for names that some file system takes for one


def read_whole(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; `UserError` names any other (a folder, a device ...)."""
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:  # a pipe would wait
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise UserError(f"{path} is not a regular file. Choose a photo.")
            if state.st_size > limit:
                raise UserError(
                    f"{path} has {state.st_size / 1e6:,.0f} MB; at most {limit / 1e6:,.0f} are read. Make it smaller."
                )
            return file.read(limit)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def encode_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by their names as an NPZ file's content, compressed."""
    file = BytesIO()
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]  none is called allow_pickle
    return file.getvalue()


def sha256_of(file: Path) -> str:
    """Of the file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def make_folder(path: Path) -> None:
    """Make the folder and those above it; `UserError` if that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {path} cannot be made: {error.strerror}. Choose another.") from error


def save_bytes(data: bytes, path: str | Path) -> None:
    """Write a file whole or not at all; `UserError` if that is impossible."""
    write_whole(Path(path), lambda temporary: temporary.write_bytes(data))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new file beside `path` and put that in its place; `UserError` if the system refuses.

    Killed at any moment it leaves the old file or the new one.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # not longer where the name is as long as can be
    try:
        write(temporary)
        to_disk(temporary)
        os.replace(temporary, path)
        to_disk(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Wait until the file, or the folder's list of names, is on the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def key_of(path: Path) -> Key:
    """Where a name is, without regard to case and to how its accents are written; links above it are followed."""
    return str(path.parent.resolve()), plain_name(path.name)


def plain_name(name: str) -> str:
    """The same for all names that some file system takes for one."""
    return normalize("NFD", normalize("NFD", name).casefold())


def unique_names(photos: Sequence[Path]) -> list[str]:
    """A name for the result of each photo of a folder: its stem, or where that is taken its whole name.

    No two are the same, whatever their case: a.jpg, a.png and a.jpg.bmp keep their endings; where only the case of two
    differs, a number follows.
    """
    names, shorter = [], [photo.stem for photo in photos]
    while names != shorter:
        names, keys = shorter, [plain_name(name) for name in shorter]
        count = Counter(keys)
        shorter = [photos[i].name if count[key] > 1 else names[i] for i, key in enumerate(keys)]
    taken: set[str] = set()
    for i, name in enumerate(names):
        number = 1
        while plain_name(names[i]) in taken:
            number += 1
            names[i] = f"{name}-{number}"
        taken.add(plain_name(names[i]))
    return names


def check_targets(targets: Iterable[tuple[str, Path]], inputs: Iterable[Path]) -> None:
    """`UserError` unless every target, (what it is, path), can be a file of its own and none is one of the inputs."""
    read = {key: path for path in inputs for key in _keys(path)}
    planned: dict[Key, str] = {}
    for what, path in targets:
        check_name(path)
        if path.is_dir():
            raise UserError(f"{path}, {what}, is a folder. Give another name.")
        if same := _keys(path) & read.keys():
            raise UserError(f"{path}, {what}, would be written over {read[same.pop()]}, which is read. Choose another.")
        if other := planned.get(key_of(path)):
            raise UserError(f"{other} and {what} would both be written to {path}. Name them apart.")
        planned[key_of(path)] = what


def check_folder(path: Path) -> None:
    """`UserError` unless there is a folder for the file."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"There is no folder {path.parent} to write {path.name} into. Create it first.")


def check_name(path: Path) -> None:
    """`UserError` if the file system cannot hold a file of this name; its folder need not be there yet."""
    folder = path.parent
    while not os.path.exists(folder) and folder != folder.parent:  # of a name too long, pathlib would raise
        folder = folder.parent
    longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for part in path.relative_to(folder).parts:
        if len(os.fsencode(part)) > longest:
            raise UserError(f"The name {part} is longer than the {longest} bytes that fit there. Choose a shorter one.")


def _keys(path: Path) -> set[Key]:
    """By its name, and if it is there by the file itself, which may have other names."""
    if not os.path.exists(path):
        return {key_of(path)}
    state = path.stat()
    return {key_of(path), (str(state.st_dev), str(state.st_ino))}
