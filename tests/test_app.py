"""The page in a real browser and its endpoints in the real client, on the bundled weights and without a network."""

import io
import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import gradio as gr
import gradio_client.exceptions
import httpx2
import numpy as np
import profiles
import pytest
import skimage.data
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Page, expect
from served import PATIENCE, started, watched

from sparnet.attention import overlay
from sparnet.checkpoints import DEFAULT_MODEL, MODELS
from sparnet.errors import UserError
from viz.tabs import models, serving

ROOT = Path(__file__).parents[1]
ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")
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


@pytest.fixture(scope="module")
def maps(client):
    """The astronaut's raw maps, unit -> (C,h,w), by way of the endpoint."""
    return np.load(client.predict(handle_file(ASTRONAUT), DEFAULT_MODEL, "simulate", api_name="/attention")[1])


@pytest.fixture
def page(server, browser):
    with watched(browser, server[0]) as page:
        yield page


@pytest.fixture
def restored(page):
    upload(page, ASTRONAUT)
    page.wait_for_function("document.querySelectorAll('#explorer [data-unit]').length")
    expect(page.locator("#download-atlas")).to_be_enabled(timeout=PATIENCE)
    return page


def upload(page: Page, path: Path) -> None:
    page.locator("#photo-input input[type=file]").set_input_files(path)


def fetched(page: Page, selector: str) -> np.ndarray:
    """The picture behind an <img>, as it came from the server."""
    source = page.locator(selector).get_attribute("src")
    return np.array(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"))


def drawn(page: Page, selector: str) -> np.ndarray:
    """The pixels of a canvas, (h,w,3)."""
    side, values = page.evaluate(
        """selector => { const canvas = document.querySelector(selector);
        return [canvas.width, [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]]; }""",
        selector,
    )
    return np.array(values, np.uint8).reshape(-1, side, 4)[..., :3]


def large(page: Page) -> np.ndarray:
    return drawn(page, "#explorer [data-large]")


def background(page: Page) -> int:
    """0 black to 255 white, at the page's corner."""
    return np.array(Image.open(io.BytesIO(page.screenshot())).convert("L"))[2, 2]


def test_a_photo_becomes_two_different_pictures_and_one_map_for_each_unit(restored):
    before, after = (fetched(restored, f"#slider img >> nth={i}") for i in (0, 1))
    assert before.shape == after.shape == (128, 128, 3)
    assert np.abs(before.astype(int) - after).mean() > 2
    buttons = restored.locator("#explorer [data-unit]")
    assert buttons.evaluate_all("all => all.map(one => one.dataset.unit)") == UNITS
    for group in ("encoder", "body", "decoder"):
        expect(restored.get_by_role("heading", name=group)).to_be_visible()
    status = restored.locator("#status").inner_text()
    assert all(fact in status for fact in (DEFAULT_MODEL, "CPU", "LBP", " s\n"))
    expect(restored.get_by_text("not evidence of who someone is")).to_be_visible()


def test_unit_opacity_colours_base_and_range_act_at_once_without_the_server(restored, maps):
    after = fetched(restored, "#slider img >> nth=1")
    seen, requests = large(restored), []
    restored.on("request", lambda request: requests.append(request.url))

    def look() -> np.ndarray:
        nonlocal seen
        now = large(restored)
        assert not np.array_equal(now, seen)
        seen = now
        return now.astype(int)

    first = max(maps.values(), key=lambda alpha: alpha.mean(0).std())
    assert np.abs(seen.astype(int) - overlay(after, first.mean(0), "viridis", 0.6)).max() <= 1
    restored.locator("[data-unit='body.3']").click()
    look()
    restored.locator("[data-unit='decoder.1']").click()
    alpha = maps["decoder.1"].mean(0)
    assert np.abs(look() - overlay(after, alpha, "viridis", 0.6)).max() <= 1
    restored.locator("[name=opacity]").fill("25")
    assert np.abs(look() - overlay(after, alpha, "viridis", 0.25)).max() <= 1
    restored.locator("[name=colors]").select_option("magma")
    assert np.abs(look() - overlay(after, alpha, "magma", 0.25)).max() <= 1
    thumbnail = drawn(restored, "[data-unit='decoder.1'] canvas")
    other = (thumbnail != overlay(np.zeros((64, 64, 3)), alpha, "magma", 1)).any(-1)
    assert other.sum() <= 4  # the page has 16 bits of each value: one on the border of two colours may fall either way
    restored.locator("[name=stretch]").check()
    assert np.abs(look() - overlay(after, alpha, "magma", 0.25, alpha.min(), alpha.max())).max() <= 2
    expect(restored.get_by_text("do not compare maps")).to_be_visible()
    for base in ("Input", "Features"):
        restored.get_by_text(base, exact=True).click()
        look()
    restored.locator("[data-unit='decoder.1']").press("ArrowLeft")
    expect(restored.locator("[data-unit='decoder.0']")).to_be_focused()
    look()
    assert requests == []


def test_hovering_shows_the_raw_value_and_its_place(restored, maps):
    restored.locator("[data-unit='encoder.0']").click()
    canvas = restored.locator("[data-large]")
    side = canvas.bounding_box()["width"]
    canvas.hover(position={"x": side * 20.5 / 64, "y": side * 40.5 / 64})
    value = maps["encoder.0"].mean(0)[40, 20]
    expect(restored.locator("[data-hover]")).to_have_text(f"\N{GREEK SMALL LETTER ALPHA} = {value:.3f} at (20, 40)")


def test_another_face_can_be_chosen_on_the_photo(page, tmp_path):
    astronaut = Image.open(ASTRONAUT).convert("RGB").crop((100, 0, 360, 260))
    two = Image.new("RGB", (700, 300), "white")
    two.paste(astronaut, (20, 20))
    two.paste(astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((200, 200)), (420, 40))
    two.save(tmp_path / "two.png")
    upload(page, tmp_path / "two.png")
    expect(page.locator("[data-face]")).to_have_count(2)
    first = fetched(page, "#slider img >> nth=1")
    source = page.locator("#slider img >> nth=1").get_attribute("src")
    page.get_by_role("button", name="Face 2").click()
    expect(page.locator("#slider img >> nth=1")).not_to_have_attribute("src", source, timeout=PATIENCE)
    assert np.abs(fetched(page, "#slider img >> nth=1").astype(int) - first).mean() > 5
    expect(page.get_by_role("button", name="Face 2")).to_have_attribute("aria-pressed", "true")


def test_the_downloads_are_what_they_say(restored):
    def downloaded(name: str) -> Path:
        with restored.expect_download() as event:
            restored.locator(f"#download-{name}").click()
        return event.value.path()

    photo, face, atlas = (np.array(Image.open(downloaded(name)).convert("RGB")) for name in ("photo", "face", "atlas"))
    original = skimage.data.astronaut()
    assert photo.shape == original.shape
    assert np.array_equal(photo[:, :20], original[:, :20])  # far from every face
    assert not np.array_equal(photo, original)
    assert np.array_equal(face, fetched(restored, "#slider img >> nth=1"))
    assert min(atlas.shape[:2]) > 600
    assert np.load(downloaded("maps")).files == UNITS


def test_the_example_of_sixteen_pixels_runs_when_it_is_clicked(page):
    page.locator("#examples img").nth(1).click()
    expect(page.locator("#explorer [data-unit]")).to_have_count(len(UNITS), timeout=PATIENCE)
    expect(page.locator("#whole input")).to_be_checked()


def test_settings_chosen_before_the_photo_do_not_keep_the_maps_away(page):
    page.get_by_label("The picture is already a face").check()
    upload(page, ASTRONAUT)
    expect(page.locator("#explorer [data-unit]")).to_have_count(len(UNITS), timeout=PATIENCE)


def test_a_model_for_blind_restoration_takes_the_faces_as_they_are_and_says_so(page):
    units = [plan.name for plan in MODELS["sparnet-hd-light-256"].config.units()]
    page.locator("#model input").fill("sparnet-hd-light-256")
    page.locator("#model input").press("Enter")
    upload(page, ASTRONAUT)
    expect(page.locator("#explorer [data-unit]")).to_have_count(len(units), timeout=PATIENCE)
    expect(page.locator("#status")).to_contain_text("so they were restored as they are")
    expect(page.get_by_label("Restore the photo as it is")).to_be_checked()


def test_a_text_file_named_jpg_is_answered_by_a_sentence(server, browser, tmp_path):
    (tmp_path / "notes.jpg").write_text("This is not a photo.")
    page = browser.new_page()
    page.goto(server[0])
    upload(page, tmp_path / "notes.jpg")
    expect(page.get_by_text("not a photo that can be read")).to_be_visible(timeout=PATIENCE)
    page.close()


def test_a_damaged_photo_is_answered_by_a_sentence_and_leaves_nothing_of_the_last_one(restored, tmp_path):
    (tmp_path / "cut.png").write_bytes(ASTRONAUT.read_bytes()[:5000])
    restored.get_by_label("Remove Image").click()
    expect(restored.locator("#explorer")).to_be_hidden(timeout=PATIENCE)
    upload(restored, tmp_path / "cut.png")
    expect(restored.locator(".notice")).to_contain_text("damaged or incomplete", timeout=PATIENCE)
    expect(restored.locator("#explorer")).to_be_hidden()
    expect(restored.locator("#slider")).to_be_hidden()


def test_a_photo_without_a_face_is_answered_by_what_to_do(page, tmp_path):
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "coffee.jpg")
    upload(page, tmp_path / "coffee.jpg")
    expect(page.locator(".notice")).to_contain_text("No human face was found", timeout=PATIENCE)
    expect(page.locator(".notice")).to_contain_text("tick “The picture is already a face”")
    expect(page.locator("#slider")).to_be_hidden()
    page.get_by_label("The picture is already a face").check()
    expect(page.locator("#explorer [data-unit]")).to_have_count(len(UNITS), timeout=PATIENCE)


def test_restoring_without_a_photo_says_what_to_do(page):
    page.locator("#restore").click()
    expect(page.locator(".notice")).to_contain_text("Choose a photo first")


def test_dark_and_light_differ_in_background_and_fit_a_phone(server, browser):
    lightness = {}
    for theme in ("dark", "light"):
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(f"{server[0]}/?__theme={theme}")
        upload(page, ASTRONAUT)
        expect(page.locator("#explorer [data-unit]")).to_have_count(len(UNITS), timeout=PATIENCE)
        lightness[theme] = background(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.close()
    assert lightness["dark"] < 40
    assert lightness["light"] > 230


def test_the_client_restores_a_photo(client):
    path, facts = client.predict(handle_file(ASTRONAUT), DEFAULT_MODEL, "simulate", api_name="/restore")
    photo = np.array(Image.open(path))
    assert photo.shape == (512, 512, 3)
    left, top, right, bottom = map(int, facts["faces"][0])
    assert not np.array_equal(photo[top:bottom, left:right], skimage.data.astronaut()[top:bottom, left:right])
    assert (facts["model"], facts["mode"]) == (DEFAULT_MODEL, "simulate")
    assert facts["seconds"] > 0
    assert facts["detector"]
    assert facts["notes"]


def test_a_profile_reaches_the_decoder_and_transparency_the_download(client, tmp_path):
    astronaut = skimage.data.astronaut()
    alpha = np.full(astronaut.shape[:2], 255, np.uint8)
    alpha[:, :60] = 0
    profile = profiles.rgb_profile(profiles.DISPLAY_P3, 2.2)
    Image.fromarray(np.dstack((astronaut, alpha))).save(tmp_path / "wide.png", icc_profile=profile)
    path, _ = client.predict(handle_file(tmp_path / "wide.png"), "sparnet-tiny", "simulate", api_name="/restore")
    restored = np.asarray(Image.open(path))
    assert np.array_equal(restored[..., 3], alpha)
    expected = profiles.to_srgb(astronaut, profiles.DISPLAY_P3, 2.2)
    assert np.abs(restored[400:, 100:, :3] - expected[400:, 100:]).max() < 1.5
    Image.fromarray(astronaut).save(tmp_path / "damaged.png", icc_profile=b"damaged")
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
def test_the_clients_mistakes_are_answered_by_sentences(client, model, face, told):
    with pytest.raises(gradio_client.exceptions.AppError, match=told):
        client.predict(handle_file(ASTRONAUT), model, "simulate", face, api_name="/attention")


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


def test_a_taken_port_is_told_in_one_line_with_exit_code_2(server):
    port = server[0].rsplit(":", 1)[1]
    done = subprocess.run([sys.executable, ROOT / "app.py", "--port", port], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Port {port} on 127.0.0.1 cannot be used")
    assert done.stderr.count("\n") == 1


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


def test_models_whose_weights_are_here_are_offered_first():
    names = [name for _, name in models.model_choices()]
    assert names[0] == DEFAULT_MODEL
    assert set(names) == set(MODELS)


def test_an_own_model_that_cannot_be_loaded_ends_the_start_with_one_line(tmp_path):
    command = [sys.executable, ROOT / "app.py", "--model", str(tmp_path / "missing")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "There is no model" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_equal_photos_of_two_visitors_do_not_share_a_path(server):
    with ASTRONAUT.open("rb") as one, ASTRONAUT.open("rb") as other:
        answers = [httpx2.post(f"{server[0]}/gradio_api/upload", files={"files": file}) for file in (one, other)]
    paths = [Path(answer.raise_for_status().json()[0]) for answer in answers]
    assert paths[0].parent != paths[1].parent
    assert paths[0].read_bytes() == paths[1].read_bytes() == ASTRONAUT.read_bytes()


def test_when_the_server_is_stopped_at_work_it_ends_well_and_no_photo_and_no_result_is_left(server, client):
    _, files, process = server
    client.predict(handle_file(ASTRONAUT), DEFAULT_MODEL, "simulate", api_name="/restore")
    assert any(path.is_file() for path in files.rglob("*"))
    at_work = client.submit(handle_file(ASTRONAUT), DEFAULT_MODEL, "simulate", api_name="/faithfulness")
    while not at_work.status().progress_data:
        assert not at_work.done()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0, "not aborted by the thread that computes"
    assert [path for path in files.rglob("*") if path.is_file()] == []
