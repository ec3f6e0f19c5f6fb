"""The page in a real browser and its endpoints in the real client, on the bundled weights and without a network."""

import io
import json
import re
import runpy
import signal
import sys
import time
import urllib.request
from base64 import b64decode
from pathlib import Path

import gradio as gr
import gradio_client.exceptions
import httpx2
import numpy as np
import profiles
import pytest
import skimage.data
from gradio_client import Client, handle_file
from made_up import PORTRAIT
from PIL import Image
from playwright.sync_api import Page, expect
from served import left, quiet, started, visit, watched

import app
from sparnet.checkpoints import DEFAULT_MODEL, MODELS
from sparnet.errors import UserError
from sparnet.faces import Detector, Face
from sparnet.images import resize
from viz.tabs import bench, models, restore, serving, tools

ROOT = Path(__file__).parents[1]
ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")
BLIND = "sparnet-hd-light-256"
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
UNITS = [plan.name for plan in MODELS[DEFAULT_MODEL].config.units()]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, folder of its temporary files, process)"""
    files = tmp_path_factory.mktemp("served")
    with started(files, tmp_path_factory.mktemp("log") / "app.log") as (address, process):
        yield address, files, process


@pytest.fixture(scope="module")
def client(server):
    return Client(server[0], verbose=False)


@pytest.fixture
def new_page(server, browser):
    with watched(browser, server[0]) as page:
        page.set_viewport_size(DESKTOP)
        yield page


@pytest.fixture(scope="module")
def opened(server, browser):
    with watched(browser, server[0]) as page:
        page.set_viewport_size(DESKTOP)
        yield page


@pytest.fixture
def page(opened):
    """One page for tests that do not need a new one: at first as it opens, then with the photo of the test before."""
    yield opened
    left(opened.problems)
    assert opened.problems == []


def upload(page: Page, path: Path) -> None:
    """Give a photo, and wait until its result is there."""
    token = page.locator("#token textarea, #token input").first.input_value()
    page.locator("#photo-input input[type=file]").set_input_files(path)
    page.wait_for_function("token => document.querySelector('#token :is(textarea, input)').value !== token", arg=token)


def settled(page: Page, act) -> None:
    """`act`, and wait until the page shows its result."""
    token = page.locator("#token textarea, #token input").first.input_value()
    act()
    page.wait_for_function("token => document.querySelector('#token :is(textarea, input)').value !== token", arg=token)


def pictures(page: Page, side: str = "right") -> dict[str, np.ndarray]:
    """What a side of the slider shows: `base`, and `over` it where it is Restored."""
    shown = {}
    for layer in ("base", "over"):
        place = page.locator(f".stage .side.{side} .{layer}")
        if place.get_attribute("hidden") is None:
            data = b64decode(place.get_attribute("src").partition(",")[2])
            shown[layer] = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    return shown


def open_advanced(page: Page) -> None:
    if not page.get_by_label("The picture is already a face").is_visible():
        page.get_by_role("button", name="Advanced").click()


def choose(page: Page, name: str, value: str) -> None:
    page.locator(f".stage [name={name}][value='{value}'] + span").click()


def downloaded(page: Page, kind: str) -> Path:
    with page.expect_download() as event:
        page.locator(f"#download-{kind}").click()
    expect(page.locator(f"#download-{kind}")).to_be_enabled()
    return event.value.path()


STANDS = """new Promise(done => {
    const before = scrollY;
    setTimeout(() => done(scrollY === before), 200);
})"""  # whether the page does not scroll


def in_sight(page: Page, selector: str) -> bool:
    """Whether all of it can be seen without scrolling."""
    box, size = page.locator(selector).first.bounding_box(), page.viewport_size
    return box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= size["width"] and (
        box["y"] + box["height"] <= size["height"]
    )  # fmt: skip


def background(page: Page) -> int:
    """0 black to 255 white, at the page's corner."""
    return np.array(Image.open(io.BytesIO(page.screenshot())).convert("L"))[2, 2]


def two_faces(folder: Path) -> Path:
    astronaut = Image.open(ASTRONAUT).convert("RGB").crop((100, 0, 360, 260))
    two = Image.new("RGB", (700, 300), "white")
    two.paste(astronaut, (20, 20))
    two.paste(astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((200, 200)), (420, 40))
    two.save(folder / "two.png")
    return folder / "two.png"


def test_the_cold_page_shows_a_restored_face_and_its_attention_without_scrolling_or_asking(page):
    assert all(in_sight(page, selector) for selector in (".stage .compare", "#maps .strongest", "#status .facts"))
    expect(page.locator("#status")).to_contain_text(DEFAULT_MODEL)
    expect(page.locator(".stage .note")).to_have_text("Example: rebuilt from 16x16 pixels")
    expect(page.locator("#mode .selected")).to_contain_text("Restore my photo")
    blocks, restored = pictures(page, "left")["base"], pictures(page)["over"]
    assert blocks.shape == (16, 16, 3)
    assert restored.shape == (128, 128, 3)
    original = pictures(page)["base"]
    error = [np.abs(resize(image, 512).astype(int) - original).mean() for image in (restored, blocks)]
    assert error[0] < error[1], "the network is nearer to her face than sixteen pixels are"
    quiet(page)
    asked = [url for url in page.requests if url.split("?")[0].endswith(("/queue/join", "/run/predict"))]
    assert len(asked) == 2, "the page comes ready: only the link and what the browser remembers are asked about"
    shift = page.evaluate("""new Promise(done => new PerformanceObserver(list => done(list.getEntries().reduce(
        (sum, entry) => sum + entry.value, 0))).observe({type: "layout-shift", buffered: true})) """)
    assert shift < 0.1


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_photo_is_restored_as_it_is_and_the_result_comes_into_sight(new_page, size, portrait):
    page = new_page
    page.set_viewport_size(size)
    upload(page, portrait)
    expect(page.locator("#status")).to_contain_text(BLIND)
    expect(page.locator("#mode label").first).to_have_class(re.compile("selected"))
    expect(page.locator(".stage .compare")).to_be_in_viewport(ratio=0.99)  # it scrolls smoothly
    shown = pictures(page)
    assert {name: image.shape[0] for name, image in shown.items()} == {"base": 512, "over": 256}
    assert 1 < np.abs(resize(shown["over"], 512).astype(int) - shown["base"]).mean() < 12, "her own face, restored"
    assert pictures(page, "left")["base"].shape == (512, 512, 3)
    page.wait_for_function(STANDS)
    assert in_sight(page, "#maps .strongest")
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


def test_a_photo_and_settings_that_are_given_while_another_is_restored_are_not_lost(new_page, tmp_path, portrait):
    page = new_page
    frames, drop = page.locator(".photo [data-face]"), "#photo-input input[type=file]"

    def give(photo: Path) -> None:
        page.locator(drop).set_input_files(photo)
        page.wait_for_function("all => all.every(one => document.querySelector(one))", arg=[drop, "#stage .pending"])

    give(portrait)
    give(two_faces(tmp_path))
    expect(frames).to_have_count(2)
    give(portrait)
    page.locator("#mode label").last.click()
    expect(page.locator(".stage b.right")).to_have_text(f"Restored by {DEFAULT_MODEL}")
    expect(frames).to_have_count(1)


def test_slider_sides_and_strength_act_without_the_server_and_reach_the_download(page):
    page.locator("#maps .strongest").wait_for()
    quiet(page)
    page.requests.clear()
    bar = page.locator(".stage .compare input")
    bar.press("ArrowLeft")
    bar.press("ArrowLeft")
    assert bar.input_value() == "48"
    assert page.locator(".stage .compare").evaluate("place => place.style.getPropertyValue('--cut')") == "48%"
    for name in ("Original", "Bicubic", "Input", "Restored"):
        choose(page, "left", name)
        assert ("over" in pictures(page, "left")) == (name == "Restored")
    assert page.requests == []
    page.locator("[name=strength]").fill("50")
    assert page.locator(".side.right .over").evaluate("picture => picture.style.opacity") == "0.5"
    page.locator("[name=strength]").dispatch_event("change")
    half = np.array(Image.open(downloaded(page, "photo")).convert("RGB")).astype(int)
    page.locator("[name=strength]").fill("100")
    page.locator("[name=strength]").dispatch_event("change")
    full, original = (
        np.array(Image.open(downloaded(page, "photo")).convert("RGB")).astype(int),
        skimage.data.astronaut(),
    )
    assert np.abs(full - original).max() > 20
    assert np.abs(half - (full + original) / 2).max() <= 1


def test_the_downloads_are_what_they_say_and_say_what_they_are(page):
    photo, face, atlas = (Image.open(downloaded(page, kind)) for kind in ("photo", "face", "atlas"))
    assert np.array_equal(np.array(photo)[:, :20], skimage.data.astronaut()[:, :20]), "far from every face"
    assert np.array_equal(np.array(face), pictures(page)["over"])
    for picture in (photo, face):
        assert picture.info["Description"] == (
            f"Restored by {DEFAULT_MODEL}: a plausible guess, not evidence of identity."
        )
    assert min(atlas.size) > 600
    assert np.load(downloaded(page, "maps")).files == UNITS
    open_advanced(page)
    page.get_by_label("Mark downloads as restored").check()
    marked = np.array(Image.open(downloaded(page, "face")))
    changed = (marked != np.array(face)).any((1, 2))
    assert changed[-12:].any()
    assert not changed[:100].any()
    page.get_by_label("Mark downloads as restored").uncheck()


def test_mistakes_are_told_in_sentences_and_what_was_shown_stays(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("This is not a photo.")
    page.problems.clear()
    page.locator("#photo-input input[type=file]").set_input_files(tmp_path / "notes.jpg")
    expect(page.get_by_text("not a photo that can be read")).to_be_visible()
    quiet(page)
    page.problems.clear()  # the browser tells of the refused upload
    (tmp_path / "cut.png").write_bytes(ASTRONAUT.read_bytes()[:5000])
    page.locator("#photo-input input[type=file]").set_input_files(tmp_path / "cut.png")
    expect(page.locator("#status .notice")).to_contain_text("damaged or incomplete")
    assert pictures(page)["over"].shape == (128, 128, 3)


def test_faces_are_chosen_left_out_and_marked_by_hand_on_the_photo(page, tmp_path):
    upload(page, two_faces(tmp_path))
    frames = page.locator(".photo [data-face]")
    expect(frames).to_have_count(2)
    first = pictures(page)["over"]
    choose(page, "chip", "photo")
    frames.nth(1).focus()
    settled(page, lambda: page.keyboard.press("Enter"))
    expect(frames.nth(1)).to_be_focused()
    assert np.abs(pictures(page)["over"].astype(int) - first).mean() > 5
    expect(frames.nth(1)).to_have_attribute("aria-pressed", "true")
    page.locator("[name=strength]").fill("90")
    settled(page, frames.nth(1).click)
    assert page.locator("[name=strength]").input_value() == "90"
    page.locator("[name=strength]").fill("100")
    expect(frames.nth(1)).to_have_accessible_name("Face 2, left as it was, shown")
    expect(page.locator(".stage .note")).to_contain_text("left as it was")
    expect(page.locator(".stage b.right")).to_have_text("Left as it was")
    left = pictures(page)
    assert np.array_equal(left["over"], left["base"])
    photo, given = np.array(Image.open(downloaded(page, "photo"))), np.array(Image.open(tmp_path / "two.png"))
    assert np.array_equal(photo[:, 350:], given[:, 350:])
    assert not np.array_equal(photo[:, :350], given[:, :350])
    page.locator(".photo .frames").scroll_into_view_if_needed()
    box = page.locator(".photo .frames").bounding_box()

    def drag():
        page.mouse.move(box["x"] + 0.46 * box["width"], box["y"] + 0.1 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.58 * box["width"], box["y"] + 0.9 * box["height"], steps=3)
        page.mouse.up()

    settled(page, drag)
    expect(frames).to_have_count(3)
    expect(frames.nth(2)).to_have_attribute("aria-pressed", "true")
    settled(page, page.locator("#mode label").last.click)
    expect(page.locator("#status")).to_contain_text(DEFAULT_MODEL)
    expect(frames).to_have_count(3)  # by another model the faces are the same
    expect(frames.nth(2)).to_have_attribute("aria-pressed", "true")
    expect(frames.nth(1)).to_have_accessible_name("Face 2, left as it was")


def test_a_photo_that_lies_on_its_side_is_offered_turned(page, tmp_path):
    Image.fromarray(np.rot90(PORTRAIT[:, :240])).save(tmp_path / "lying.png")
    upload(page, tmp_path / "lying.png")
    expect(page.locator(".photo")).to_contain_text("The photo lies on its side")
    settled(page, page.get_by_role("button", name="Turn it").click)
    expect(page.get_by_role("button", name="Turn it")).to_have_count(0)
    assert Image.open(downloaded(page, "photo")).size == (240, 256)


def test_a_new_photo_keeps_nothing_of_the_last_one(page, tmp_path):
    settled(page, page.locator("[data-example=tiny]").click)
    assert pictures(page, "left")["base"].shape == (16, 16, 3)
    open_advanced(page)
    expect(page.get_by_label("The picture is already a face")).to_be_checked()
    settled(page, page.locator("#mode label").first.click)
    upload(page, two_faces(tmp_path))
    expect(page.locator(".photo [data-face]")).to_have_count(2)
    expect(page.get_by_label("The picture is already a face")).not_to_be_checked()
    expect(page.locator("#status")).to_contain_text(BLIND)


def test_the_model_follows_the_intention_and_the_browser_remembers_both(new_page, portrait):
    page = new_page
    settled(page, page.locator("#mode label").last.click)
    settled(page, page.locator("#mode label").first.click)
    expect(page.locator("#status")).to_contain_text(BLIND)
    assert pictures(page, "left")["base"].shape == (512, 512, 3)
    settled(page, page.locator("#mode label").last.click)
    expect(page.locator("#status")).to_contain_text(DEFAULT_MODEL)
    quiet(page)
    page.reload()
    expect(page.locator("#mode .selected")).to_contain_text("Rebuild my photo")
    upload(page, portrait)
    expect(page.locator("#status")).to_contain_text(DEFAULT_MODEL)


def test_a_photo_without_a_face_is_answered_by_what_to_do(page, tmp_path):
    Image.fromarray(skimage.data.coffee()[::2, ::2]).save(tmp_path / "coffee.jpg")
    upload(page, tmp_path / "coffee.jpg")
    expect(page.locator(".notice")).to_contain_text("No human face was found")
    expect(page.locator(".notice")).to_contain_text("tick “The picture is already a face”")
    expect(page.locator("#download-face")).to_be_disabled()
    open_advanced(page)
    settled(page, page.get_by_label("The picture is already a face").check)
    assert pictures(page)["over"].shape == (256, 256, 3)


def test_a_model_that_is_used_for_what_it_was_not_made_for_is_said_beside_the_result(page, portrait):
    upload(page, portrait)
    open_advanced(page)
    page.locator("#model input").fill(DEFAULT_MODEL)
    settled(page, lambda: page.locator("#model input").press("Enter"))
    expect(page.locator("#status .notice")).to_contain_text("made to enlarge faces of 16x16 pixels")


def test_a_face_that_cannot_be_restored_keeps_its_number_and_another_is_shown(monkeypatch):
    x, y = np.array([180.0, 70]), np.array([265.0, 180])
    faces = [Face(np.r_[x, y]), Face(np.r_[x, y], np.ones((5, 2))), Face(np.r_[x + 4, y])]
    monkeypatch.setattr(serving, "_detectors", [Detector("stand-in", "Always.", lambda photo: faces)])
    photo = bench.Photo(ASTRONAUT.read_bytes(), "astronaut")
    now = bench.opened(photo, DEFAULT_MODEL, "simulate", False, bench.silent)
    assert [face["i"] for face in restore._stage(now, photo.pixels())["faces"]] == [0, 2]
    assert [face["failed"] for face in restore._photo(now, photo.pixels())["faces"]] == [False, True, False]
    assert "2 of them rebuilt" in restore._status(now)
    assert "Face 2 was not restored" in restore._status(now)
    with pytest.raises(UserError, match="Face 2 could not be restored"):
        now.at(1)
    faces[:] = faces[1:]
    assert bench.opened(photo, DEFAULT_MODEL, "simulate", False, bench.silent).index == 1


def test_other_settings_keep_the_faces_until_it_is_said_that_the_picture_is_one(monkeypatch):
    searched = []

    def find(photo):
        searched.append(photo)
        return [Face(np.array([180.0, 70, 265, 180])), Face(np.array([60.0, 40, 130, 140]))]

    monkeypatch.setattr(serving, "_detectors", [Detector("stand-in", "The stand-in searched.", find)])
    photo = bench.Photo(ASTRONAUT.read_bytes(), "astronaut")
    now = bench.opened(photo, DEFAULT_MODEL, "simulate", False, bench.silent)
    now = now.with_box((300, 300, 380, 400)).toggled(0)
    again = bench.opened(photo, DEFAULT_MODEL, "as_is", False, bench.silent, before=now)
    assert len(searched) == 1
    assert [face.box.tolist() for face in again.faces] == [face.box.tolist() for face in now.faces]
    assert (again.index, again.left_out) == (2, {0})
    assert "The stand-in searched." in again.notes
    assert again.token != now.token
    whole = bench.opened(photo, DEFAULT_MODEL, "as_is", True, bench.silent, before=again)
    assert (len(whole.faces), whole.index, whole.left_out) == (1, 0, frozenset())
    assert len(bench.opened(photo, DEFAULT_MODEL, "as_is", False, bench.silent, before=whole).faces) == 2
    assert len(searched) == 2


def test_a_visitor_is_shown_no_command_no_path_and_no_model_that_is_not_here(page):
    open_advanced(page)
    page.locator("#model input").click()
    offered = page.locator("[role=option]").all_inner_texts()
    assert {text.partition(":")[0].strip(" \n\u2713") for text in offered} == {
        name for name, entry in MODELS.items() if entry.bundled
    }
    page.locator("summary").first.click()
    text = page.locator("body").inner_text()
    assert "hf download" not in text
    assert str(ROOT) not in text


def test_the_dark_page_is_dark_the_other_light_and_it_fits_a_phone(server, browser, page):
    assert background(page) > 230
    dark = visit(browser)
    dark.set_viewport_size(PHONE)
    dark.goto(f"{server[0]}/?__theme=dark")
    dark.locator(".stage .compare").wait_for()
    assert background(dark) < 40
    assert dark.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    dark.close()


def test_the_list_of_endpoints_asks_for_nothing_that_is_not_there(page):
    with page.expect_response("**/monitoring/summary") as asked:
        page.get_by_text("Use via API").click()
    assert asked.value.json() == {"functions": {}}


def test_the_client_restores_a_photo(client, portrait):
    path, facts = client.predict(handle_file(portrait), DEFAULT_MODEL, "simulate", api_name="/restore")
    photo = np.array(Image.open(path))
    assert photo.shape == PORTRAIT.shape
    left, top, right, bottom = map(int, facts["faces"][0])
    assert not np.array_equal(photo[top:bottom, left:right], PORTRAIT[top:bottom, left:right])
    assert (facts["model"], facts["mode"]) == (DEFAULT_MODEL, "simulate")
    assert facts["seconds"] > 0
    assert facts["detector"]
    assert facts["notes"]


def test_a_profile_reaches_the_decoder_and_transparency_the_download(client, tmp_path):
    alpha = np.full(PORTRAIT.shape[:2], 255, np.uint8)
    alpha[:, :30] = 0
    profile = profiles.rgb_profile(profiles.DISPLAY_P3, 2.2)
    Image.fromarray(np.dstack((PORTRAIT, alpha))).save(tmp_path / "wide.png", icc_profile=profile)
    path, _ = client.predict(handle_file(tmp_path / "wide.png"), "sparnet-tiny", "simulate", api_name="/restore")
    restored = np.asarray(Image.open(path))
    assert np.array_equal(restored[..., 3], alpha)
    expected = profiles.to_srgb(PORTRAIT, profiles.DISPLAY_P3, 2.2)
    assert np.abs(restored[230:, 50:, :3] - expected[230:, 50:]).max() < 1.5
    Image.fromarray(PORTRAIT).save(tmp_path / "damaged.png", icc_profile=b"damaged")
    _, facts = client.predict(handle_file(tmp_path / "damaged.png"), "sparnet-tiny", "simulate", api_name="/restore")
    assert any("colour profile is damaged" in note for note in facts["notes"])


def test_the_client_gets_the_atlas_and_every_map_with_the_models_sizes(client):
    atlas, maps = client.predict(
        photo=handle_file(ASTRONAUT), model=DEFAULT_MODEL, mode="as_is", face=1, whole=True, api_name="/attention"
    )
    assert Image.open(atlas).format == "PNG"
    maps = np.load(maps)
    for plan in MODELS[DEFAULT_MODEL].config.units():
        assert maps[plan.name].shape == (1, plan.map_size, plan.map_size)
        assert maps[plan.name].dtype == np.float32
        assert ((maps[plan.name] > 0) & (maps[plan.name] < 1)).all()


@pytest.mark.parametrize(
    ("model", "face", "told"),
    [
        (DEFAULT_MODEL, 99, "There is no face 99"),
        ("/etc", 1, "not a model"),
        ("../checkpoints", 1, "not a model"),
        ("sparnet", 1, "is not bundled"),
        ("nobody/nothing", 1, "nobody/nothing"),
    ],
)
def test_the_clients_mistakes_are_answered_by_sentences(client, model, face, told, portrait):
    with pytest.raises(gradio_client.exceptions.AppError, match=told):
        client.predict(handle_file(portrait), model, "simulate", face, api_name="/attention")


def test_a_path_on_the_server_is_not_read(server):
    def answer(photo: str) -> str:
        data = [{"path": photo, "meta": {"_type": "gradio.FileData"}}, DEFAULT_MODEL, "simulate", False]
        address = f"{server[0]}/gradio_api/call/restore"
        request = urllib.request.Request(
            address, json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as event:
            address = f"{address}/{json.load(event)['event_id']}"
        with urllib.request.urlopen(address) as events:
            return events.read().decode()

    uploaded = next(path for path in server[1].rglob("astronaut.png"))
    assert "event: complete" in answer(str(uploaded))  # the request itself is right
    assert "event: complete" not in answer(str(ASTRONAUT))


def test_a_taken_port_is_told_in_one_line_with_exit_code_2(server, monkeypatch, capsys):
    monkeypatch.setattr(tools, "offered", lambda: False)
    port = server[0].rsplit(":", 1)[1]
    with pytest.raises(SystemExit) as ended:
        app.serve("127.0.0.1", int(port))
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.splitlines()[-1].startswith(f"Port {port} on 127.0.0.1 cannot be used")
    assert "Traceback" not in told


def test_a_bug_is_told_politely_and_logged_with_its_traceback(caplog):
    def broken():
        raise RuntimeError("internal detail")

    with pytest.raises(gr.Error) as told:
        serving.explained(broken)()
    assert told.value.message == serving.BUG
    assert "internal detail" in caplog.text


def test_a_users_mistake_is_told_as_it_is_and_not_as_markup():
    def refuse():
        raise UserError("Choose <another> photo.")

    with pytest.raises(gr.Error, match="Choose &lt;another&gt; photo"):
        serving.explained(refuse)()


def test_only_models_whose_weights_are_here_are_offered():
    names = models.models_here()
    assert names[0] == DEFAULT_MODEL
    assert set(names) == {name for name, entry in MODELS.items() if entry.weights.is_file()}


def test_an_own_model_that_cannot_be_loaded_ends_the_start_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["app.py", "--model", str(tmp_path / "missing")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "app.py"), run_name="__main__")
    assert ended.value.code == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: There is no model")


def test_equal_photos_of_two_visitors_do_not_share_a_path(server):
    with ASTRONAUT.open("rb") as one, ASTRONAUT.open("rb") as other:
        answers = [httpx2.post(f"{server[0]}/gradio_api/upload", files={"files": file}) for file in (one, other)]
    paths = [Path(answer.raise_for_status().json()[0]) for answer in answers]
    assert paths[0].parent != paths[1].parent
    assert paths[0].read_bytes() == paths[1].read_bytes() == ASTRONAUT.read_bytes()


def test_when_the_server_is_stopped_at_work_it_ends_well_and_nothing_is_left(server, client, opened, portrait):
    _, files, process = server
    opened.close()  # which would complain of it
    client.predict(handle_file(portrait), DEFAULT_MODEL, "simulate", api_name="/restore")
    assert any(path.is_file() for path in files.rglob("*"))
    at_work = client.submit(handle_file(portrait), DEFAULT_MODEL, "simulate", api_name="/faithfulness")
    while not at_work.status().progress_data:
        assert not at_work.done()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0, "not aborted by the thread that computes"
    assert [path for path in files.rglob("*") if path.is_file()] == []
