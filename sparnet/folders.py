"""Folders -> the files in them that are data.

    folder -> files_in -> Files: kept, in a fixed order | left out: hidden, or of a training run
    target, folders -> check_outside: what is written would not be read as data the next time

The only place that looks through folders for pictures; every command line goes through it.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from .errors import UserError
from .images import SUFFIXES

RUN_FILES = ("checkpoint.pt", "checkpoint.previous.pt", "run.json")
"""What tells the folder of a training run, whose sample sheets and curves are pictures but not data."""


class Files(NamedTuple):
    """Files in the order of their paths, and what is left out, files and whole folders, in the same order."""

    kept: list[Path]
    left_out: list[Path]


def files_in(folder: Path, deep: bool = True) -> Files:
    """The files of a folder, and those of the folders in it unless it is not `deep`; links to folders are not followed.

    Hidden files and folders and the folders of training runs are left out; `UserError` if `folder` is one of the
    latter, or cannot be read.
    """
    kept, left_out = [], []
    for place, folders, names in os.walk(folder, onerror=_refuse):
        place = Path(place)
        if is_run(names):
            if place == Path(folder):
                raise UserError(f"{folder} is the folder of a training run, which is never data: give another folder.")
            left_out.append(place)
            folders.clear()
            continue
        left_out += (place / name for name in [*folders, *names] if is_hidden(name))
        folders[:] = [name for name in folders if deep and not is_hidden(name)]
        kept += (place / name for name in names if not is_hidden(name) and (place / name).is_file())
    return Files(sorted(kept), sorted(left_out))


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder itself, by name; `UserError` if there are none."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    found = [path for path in files_in(folder, deep=False).kept if path.suffix.lower() in SUFFIXES]
    if not found:
        raise UserError(f"{folder} has no photos, that is, no files ending in {', '.join(SUFFIXES)}.")
    return found


def is_hidden(name: str) -> bool:
    """Whether a part of a path is kept out of sight, as "._a.jpg", which macOS puts beside a.jpg."""
    return name.startswith(".") and name not in (".", "..")


def is_run(names: Iterable[str]) -> bool:
    """Whether files of these names together are a training run's."""
    return not set(RUN_FILES).isdisjoint(names)


def check_outside(target: Path, sources: Sequence[Path]) -> None:
    """`UserError` if `target`, a file or folder to be written, is one of the sources or, links resolved, within one."""
    resolved = Path(os.path.realpath(target))
    places = [place for place in (resolved, *resolved.parents) if os.path.exists(place)]
    for source in filter(os.path.exists, sources):
        if any(os.path.samefile(place, source) for place in places):
            raise UserError(
                f"{target} is {source} or lies within it, and would be read as data the next time: "
                "write to another folder."
            )


def printable(text: str) -> str:
    """A name, or text with names, as it can be shown and stored: what is not UTF-8 is spelled out, as \\udcff."""
    return text.encode(errors="backslashreplace").decode()


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error
