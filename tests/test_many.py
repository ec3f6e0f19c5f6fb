"""Many photos in one go: a hostile ZIP, the limits, and the tab in a real browser."""

import csv
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from attacker import Attacker
from PIL import Image
from playwright.sync_api import expect
from served import PATIENCE, served, watched

from sparnet import Restorer, SPARNet, SPARNetConfig, images
from sparnet.checkpoints import DEFAULT_MODEL
from sparnet.errors import UserError
from sparnet.faces import Detector, Face
from viz.tabs import many, serving
from viz.tabs.models import named

ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")
FACE = Face(np.array([180.0, 70, 265, 180]))
PNG = ASTRONAUT.read_bytes()
BOMB = 3_000_000  # bytes unpacked; in the test that is too much
SMALL = SPARNetConfig(
    size=64, smallest=16, min_channels=8, max_channels=8, body_depth=3, bottleneck=8, hourglass_channels=8,
    degraded_size=None,
)  # fmt: skip


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def rows(result: Path) -> dict[str, dict]:
    """The table of the results, by the photos' names."""
    with zipfile.ZipFile(result) as archive:
        return {row["photo"]: row for row in csv.DictReader(io.StringIO(archive.read("restored.csv").decode()))}


@pytest.fixture
def send(tmp_path, monkeypatch):
    """Puts files where uploads lie -> a gr.File's value."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(serving, "_detectors", [Detector("stand-in", "Always.", lambda photo: [FACE])])

    def send(**files: bytes) -> list[dict]:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        return [{"path": str(tmp_path / name), "orig_name": name} for name in files]

    return send


def result_of(uploads: list[dict], **options) -> tuple[Path, list[str]]:
    """The ZIP of results, and the figures of the gallery."""
    results = many.Results()
    given = {"model": DEFAULT_MODEL, "mode": "simulate", "whole": False, "badge": False} | options
    figures = list(many.restored(list(many.sent_photos(uploads)), results=results, **given))
    return Path(results.close()), figures


def test_of_a_hostile_zip_the_good_photos_are_restored_and_each_of_the_others_is_told(send, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "UPLOAD_BYTES", BOMB - 1)
    liar = zipped({"liar.png": bytes(BOMB)}).replace(struct.pack("<I", BOMB), struct.pack("<I", 1000))
    hostile = {
        "../../x.png": PNG,
        "album/x.jpg": PNG,
        "letter.txt": b"Dear Sir or Madam, this is no photo.",
        "bomb.png": bytes(BOMB),
        "nested.zip": zipped({"x.png": PNG}),
        "__MACOSX/x.png": b"",
        ".DS_Store": b"",
        "=cmd.png": PNG[:1000],
    }
    uploads = send(a=zipped(hostile), b=liar, c=b"PK\x03\x04" + bytes(99))
    result, figures = result_of(uploads)
    table = rows(result)
    assert set(table) == {"x.png", "x.jpg", "letter.txt", "bomb.png", "nested.zip", "liar.png", "'=cmd.png", "c"}
    assert [name for name, row in table.items() if row["restored file"]] == ["x.png", "x.jpg"]
    with zipfile.ZipFile(result) as archive:
        assert sorted(archive.namelist()) == ["restored.csv", "x-2-restored.png", "x-restored.png"]
    for name, told in {
        "letter.txt": "is a text, not a photo",
        "bomb.png": "when unpacked; at most",
        "nested.zip": "is a ZIP archive",
        "liar.png": "damaged within the ZIP",
        "'=cmd.png": "damaged or incomplete",
        "c": "The ZIP is damaged",
    }.items():
        assert told in table[name]["notes"]
    assert len(figures) == len(table)
    assert sum("class='failed'" in figure for figure in figures) == 6
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a", "b", "c", "restored.zip"]
    assert not (tmp_path.parent / "x.png").exists()


def test_a_restored_photo_is_what_the_first_tab_makes_of_it_and_says_what_it_is(send):
    result, _ = result_of(send(photo=PNG))
    expected = Restorer(named(DEFAULT_MODEL).model)(skimage.data.astronaut(), faces=[FACE])
    with zipfile.ZipFile(result) as archive, Image.open(archive.open("photo-restored.png")) as picture:
        difference = np.abs(np.array(picture).astype(int) - expected.photo)
        assert difference.max() <= 2  # the page's engine may round otherwise
        assert picture.text["Description"].startswith(f"Restored by {DEFAULT_MODEL}")
    row = rows(result)["photo"]
    assert (row["faces"], row["model"], row["mode"], row["detector"]) == ("1", DEFAULT_MODEL, "simulate", "stand-in")
    assert "Always." in row["notes"]


def test_a_photo_without_a_face_is_no_result(send, monkeypatch):
    monkeypatch.setattr(serving, "_detectors", [Detector("stand-in", "Never.", lambda photo: [])])
    result, (figure,) = result_of(send(photo=PNG))
    assert "No human face was found" in figure
    assert (rows(result)["photo"]["restored file"], rows(result)["photo"]["faces"]) == ("", "0")


@pytest.mark.parametrize("limit", ["MANY_BYTES", "MANY_PIXELS", "MANY_SECONDS"])
def test_beyond_a_limit_no_other_photo_is_begun(send, monkeypatch, limit):
    monkeypatch.setattr(serving, limit, 0)
    result, _ = result_of(send(first=PNG, second=PNG))
    table = rows(result)
    done = [name for name, row in table.items() if row["restored file"]]
    assert done == ([] if limit == "MANY_SECONDS" else ["first"])
    assert "It was left out" in table["second"]["notes"]


def test_a_zip_of_many_entries_is_refused_before_they_are_read(send, monkeypatch):
    monkeypatch.setattr(serving, "ZIP_ENTRIES", 3)
    monkeypatch.setattr(zipfile.ZipFile, "infolist", lambda archive: pytest.fail("they were read"))
    (photo,) = many.sent_photos(send(a=zipped({str(i): b"" for i in range(4)})))
    assert photo.name == "a"
    with pytest.raises(UserError, match="more than 3 files"):
        photo.read()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    torch.manual_seed(0)
    with served(tmp_path_factory.mktemp("page"), SPARNet(SMALL).eval(), [FACE]) as address:
        yield address


def test_the_tab_restores_files_and_zips_and_gives_one_zip(server, browser, tmp_path):
    images.save_png(np.ascontiguousarray(skimage.data.astronaut()[:, ::-1]), tmp_path / "mirrored.png")
    (tmp_path / "album.zip").write_bytes(zipped({"in/astronaut.png": PNG, "note.txt": b"nothing to see, just a text"}))
    (tmp_path / "letter.jpg").write_bytes(b"Dear Sir or Madam, this is no photo." * 1000)
    sent = [tmp_path / "mirrored.png", tmp_path / "letter.jpg", tmp_path / "album.zip"]
    with watched(browser, server) as page:
        page.get_by_role("tab", name="Many photos").click()
        expect(page.locator("#many-how")).to_contain_text("Restore my photo, with model")
        page.locator("#many-files input[type=file]").set_input_files(sent)
        expect(page.locator("#many-files")).to_contain_text("album", timeout=PATIENCE)
        page.locator("#many-run").click()
        expect(page.locator("#many-result")).to_be_enabled(timeout=PATIENCE)
        expect(page.locator("#many-gallery b")).to_have_text(
            ["mirrored.png", "letter.jpg", "astronaut.png", "note.txt"]
        )
        expect(page.locator("#many-gallery .failed")).to_contain_text(["is a text, not a photo"] * 2)
        expect(page.get_by_role("status").filter(has_text="4 of 4")).to_contain_text("2 restored, 2 not")
        with page.expect_download() as download:
            page.locator("#many-result").click()
        assert {name for name, row in rows(download.value.path()).items() if row["faces"] == "1"} == {
            "mirrored.png", "astronaut.png",
        }  # fmt: skip


def test_more_files_than_the_table_says_are_refused_and_a_zip_is_no_photo_elsewhere(server):
    attacker = Attacker(server.rstrip("/"))
    sent = {"path": attacker.upload(PNG).json()[0], "meta": {"_type": "gradio.FileData"}}
    settings = [False, False, "as_is", "model"]
    data = [[sent] * (serving.MANY_PHOTOS + 1), *settings]
    assert f"names more than {serving.MANY_PHOTOS} files" in attacker.event("many-run", "click", "a", data)
    two = [("files", ("x.png", PNG)), ("files", ("letter.jpg", b"Dear Sir or Madam, this is no photo."))]
    assert len(Path(attacker.http.post("upload", files=two).json()[1]).read_bytes()) == 12
    zip_file = {"path": attacker.upload(zipped({"x.png": PNG})).json()[0]}
    assert "is a ZIP archive" in attacker.call("restore", zip_file, "model", "as_is", False)
    assert serving.NOT_SENT in attacker.event("many-run", "click", "b", [[sent | {"path": "/etc/passwd"}], *settings])
