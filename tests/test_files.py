"""Files: nothing of the user's is overwritten, names are planned before the work, writes are whole."""

import os
from pathlib import Path

import pytest

from sparnet.errors import UserError
from sparnet.files import check_targets, read_whole, save_bytes, unique_names, write_whole
from sparnet.folders import pictures_in


def names_of(*photos):
    return unique_names([Path(photo) for photo in photos])


def test_a_photos_result_is_called_by_its_stem_or_where_that_is_taken_by_its_whole_name():
    assert names_of("a.jpg", "b.png") == ["a", "b"]
    assert names_of("a.jpg", "a.jpg.bmp", "a.png") == ["a.jpg", "a.jpg.bmp", "a.png"]


@pytest.mark.parametrize(
    "photos",
    [
        ("A.jpg", "a.jpg"),
        ("A.jpg", "a.jpg", "a.jpg-2.png"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("STRASSE.jpg", "stra\u00dfe.jpg"),
    ],
)
def test_results_are_files_of_their_own_where_case_and_accents_do_not_count(photos):
    names = names_of(*photos)
    assert len({name.casefold().replace("e\u0301", "\u00e9") for name in names}) == len(photos)


def test_a_target_is_never_an_input_by_whatever_name(tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"photo")
    (tmp_path / "link.png").symlink_to(photo)
    os.link(photo, tmp_path / "hard.png")
    (tmp_path / "folder").symlink_to(tmp_path)
    for target in ("photo.png", "link.png", "hard.png", "folder/photo.png", "PHOTO.png", "x/../photo.png"):
        with pytest.raises(UserError, match="which is read"):
            check_targets([("the result", tmp_path / target)], [photo])
    check_targets([("the result", tmp_path / "other.png")], [photo])


def test_two_targets_are_never_one_file_and_both_are_named(tmp_path):
    with pytest.raises(UserError, match="--json and --html would both be written"):
        check_targets([("--json", tmp_path / "a"), ("--html", tmp_path / "A")], [])


def test_a_name_too_long_and_a_folder_are_found_out_before_the_work(tmp_path):
    for target in ("x" * 300, f"{'x' * 300}/a.png"):
        with pytest.raises(UserError, match="longer than"):
            check_targets([("the result", tmp_path / target)], [])
    with pytest.raises(UserError, match="is a folder"):
        check_targets([("the result", tmp_path)], [])
    save_bytes(b"longest", tmp_path / ("x" * 255))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"longest"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    save_bytes(b"old", tmp_path / "a")

    def interrupted(file):
        file.write_bytes(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", interrupted)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")
    for path, words in (
        ("/dev/zero", "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path, "folder|regular|directory"),
        (tmp_path / "large", "at most"),
    ):
        with pytest.raises(UserError, match=words):
            read_whole(Path(path), 4)
    assert read_whole(tmp_path / "large", 5) == b"12345"


def test_hidden_files_and_what_is_no_file_are_not_among_a_folders_photos(tmp_path):
    for name in ("b.JPG", "a.png", "._a.png", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert [path.name for path in pictures_in(tmp_path)] == ["a.png", "b.JPG"]
