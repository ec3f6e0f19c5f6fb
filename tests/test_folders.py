"""Looking through folders: what is data, and what is written where it would be read again."""

import os
from pathlib import Path

import pytest

from sparnet.errors import UserError
from sparnet.folders import check_outside, files_in, pictures_in, printable


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_hidden_files_and_the_folders_of_runs_are_left_out_and_told(tmp_path):
    data = make(tmp_path, "b/c.png", "a.png", "._a.png", ".hidden/d.png", "b/.e.png")
    make(data, "r/checkpoint.pt", "r/samples/s.png", "young/run.json", "killed/checkpoint.previous.pt")
    kept, left_out = files_in(data)
    assert [path.relative_to(data).as_posix() for path in kept] == ["a.png", "b/c.png"]
    told = [path.relative_to(data).as_posix() for path in left_out]
    assert told == sorted(told) == ["._a.png", ".hidden", "b/.e.png", "killed", "r", "young"]
    assert files_in(data, deep=False).kept == [data / "a.png"]
    assert files_in(tmp_path / ".hidden").kept == [tmp_path / ".hidden" / "d.png"], "who names it wants it"


def test_a_run_is_not_data_even_where_it_is_named(tmp_path):
    with pytest.raises(UserError, match="is the folder of a training run"):
        files_in(make(tmp_path, "checkpoint.pt", "curves.png"))


def test_a_folder_without_pictures_is_an_error_that_names_the_endings(tmp_path):
    make(tmp_path, "a.PNG", "notes.txt", "deep/b.png", "._c.jpg")
    assert pictures_in(tmp_path) == [tmp_path / "a.PNG"]
    (tmp_path / "a.PNG").unlink()
    with pytest.raises(UserError, match=r"no photos, that is, no files ending in \.jpg"):
        pictures_in(tmp_path)
    with pytest.raises(UserError, match="There is no folder"):
        pictures_in(tmp_path / "missing")


@pytest.mark.parametrize("target", ["faces", "faces/out", "faces/deep/out/sheet.png", "link/out", "x/../faces/out"])
def test_what_would_be_written_into_a_source_is_refused(tmp_path, target):
    faces = make(tmp_path / "faces", "deep/a.png")
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(faces / "deep")
    with pytest.raises(UserError, match="or lies within it"):
        check_outside(tmp_path / target, [tmp_path / "missing", faces])


@pytest.mark.parametrize("target", [".", "out", "faces2", "faces/../out"])
def test_what_is_written_beside_or_above_a_source_is_not(tmp_path, target):
    check_outside(tmp_path / target, [make(tmp_path / "faces", "a.png")])


def test_a_name_that_is_not_utf8_becomes_text_that_every_file_can_hold():
    assert printable(os.fsdecode(b"a\xff\xc3\xa9.png")) == "a\\udcff\u00e9.png"
