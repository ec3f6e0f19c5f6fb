"""Looking inside: every instrument in the page and for programs, on a small network, in a real browser and client."""

import io
import json
import re
from pathlib import Path

import gradio_client.exceptions
import numpy as np
import pytest
import skimage.data
import torch
from gradio import FileData
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Page, expect
from served import PATIENCE, served, watched

from sparnet import Restorer, SPARNet, SPARNetConfig, images
from sparnet.errors import UserError
from sparnet.faces import Face
from sparnet.model import FaceAttentionUnit
from viz.instruments import INSTRUMENTS, ablation, agreement, edit, gate, query
from viz.instruments.edit import Edit
from viz.subject import Subject
from viz.tabs import models, painting, serving
from viz.tabs.inside import _pixels

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio.queueing")  # its use of pandas

ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")
POINTS = np.array([(206.0, 111), (242, 111), (223, 132), (209, 146), (240, 146)])
FACE, OTHER = Face(np.array([180.0, 70, 265, 180]), POINTS), Face(np.array([170.0, 90, 240, 170]))
SMALL = SPARNetConfig(
    size=64, smallest=16, min_channels=8, max_channels=8, body_depth=3, bottleneck=8, hourglass_channels=8,
    degraded_size=16,
)  # fmt: skip
UNITS = [plan.name for plan in SMALL.units()]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SPARNet(SMALL).eval()


@pytest.fixture(scope="module")
def calls():
    """A unit's name every time that any network runs through it while the server runs."""
    return []


@pytest.fixture(scope="module")
def server(tmp_path_factory, model, calls):
    forward = FaceAttentionUnit.forward

    def counted(self, x, *rest, **more):
        calls.append(type(self).__name__)
        return forward(self, x, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaceAttentionUnit, "forward", counted)
        with served(tmp_path_factory.mktemp("page"), model, [FACE, OTHER]) as address:
            yield address


@pytest.fixture(scope="module")
def name(server):
    """What the small network is called on the page."""
    return models.first_model()


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False)


@pytest.fixture(scope="module")
def subject(model, name):
    """The first face as the page must give it to the instruments."""
    one = Restorer(model).restore_face(skimage.data.astronaut(), FACE, "simulate")
    return Subject.of(model, name, one)


@pytest.fixture
def page(server, browser):
    with watched(browser, server) as page:
        yield page


@pytest.fixture
def inside(page):
    """The tab with the astronaut's first face, the gates measured."""
    page.get_by_role("tab", name="Look inside").click()
    page.locator("#inside-photo-input input[type=file]").set_input_files(ASTRONAUT)
    open_tab(page, "Gate")
    expect(page.locator("#png-gate")).to_be_enabled(timeout=PATIENCE)
    return page


def open_tab(page: Page, label: str) -> None:
    page.locator("#instruments").get_by_role("tab", name=label, exact=True).click()


def numbers(page: Page, instrument: str) -> dict:
    """The finding's JSON, by its button."""
    expect(page.locator(f"#json-{instrument}")).to_be_enabled(timeout=PATIENCE)
    with page.expect_download() as download:
        page.locator(f"#json-{instrument}").click()
    return json.loads(Path(download.value.path()).read_text())


def pixels(page: Page, canvas) -> np.ndarray:
    side, values = canvas.evaluate(
        """canvas => [canvas.width,
        [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]]"""
    )
    return np.array(values, np.uint8).reshape(-1, side, 4)[..., :3]


def test_a_face_restored_in_the_first_tab_is_taken_over_with_its_number_and_mode(page, model):
    page.locator("#photo-input input[type=file]").set_input_files(ASTRONAUT)
    expect(page.locator("#download-atlas")).to_be_enabled(timeout=PATIENCE)
    page.locator("#faces [data-face='1']").click()
    expect(page.locator("#download-atlas")).to_be_enabled(timeout=PATIENCE)
    page.locator("#to-inside").click()
    expect(page.locator("#inside-status")).to_contain_text("2 of 2", timeout=PATIENCE)
    expect(page.locator("#inside-status")).to_contain_text("reduced first")
    open_tab(page, "Gate")
    found = numbers(page, "gate")
    assert found["provenance"]["faces"][0]["box"] == OTHER.box.tolist()
    one = Restorer(model).restore_face(skimage.data.astronaut(), OTHER, "simulate")
    expected = gate.study(Subject.of(model, "small", one)).numbers["units"]
    for unit in UNITS:
        assert found["units"][unit] == pytest.approx(expected[unit], abs=1e-5)


def test_opening_the_tab_takes_nothing_away_from_a_photo_of_its_own(page, tmp_path):
    page.locator("#photo-input input[type=file]").set_input_files(ASTRONAUT)
    expect(page.locator("#download-atlas")).to_be_enabled(timeout=PATIENCE)
    page.get_by_role("tab", name="Look inside").click()
    expect(page.locator("#png-atlas")).to_be_enabled(timeout=PATIENCE)
    images.save_png(np.ascontiguousarray(skimage.data.astronaut()[:, ::-1]), tmp_path / "other.png")
    page.locator("#inside-photo-input input[type=file]").set_input_files(tmp_path / "other.png")
    first = page.locator("#film img").get_attribute("src")
    expect(page.locator("#film img")).not_to_have_attribute("src", first, timeout=PATIENCE)
    own = page.locator("#film img").get_attribute("src")
    page.get_by_role("tab", name="Restore", exact=True).click()
    page.get_by_role("tab", name="Look inside").click()
    page.wait_for_timeout(1500)
    assert page.locator("#film img").get_attribute("src") == own
    page.get_by_role("tab", name="Restore", exact=True).click()
    page.locator("#to-inside").click()  # asked for
    expect(page.locator("#film img")).to_have_attribute("src", first, timeout=PATIENCE)
    expect(page.locator("#inside-photo-input img")).to_have_count(0)


def test_every_gate_shows_its_maps_and_pointing_at_one_tells_the_values_of_all(inside, subject):
    buttons = inside.locator("#view-gate .choice button")
    expect(buttons).to_have_text(UNITS)
    buttons.filter(has_text=UNITS[-1]).click()
    stages = inside.locator("#view-gate .stage")
    expect(stages).to_have_count(2 + len(gate.MAPS))
    box = stages.nth(3).bounding_box()
    x, y = 0.7, 0.3
    stages.nth(3).hover(position={"x": x * box["width"], "y": y * box["height"]})
    maps = gate.study(subject).arrays
    shown = [float(text) for text in inside.locator("#view-gate output").all_inner_texts()[2:]]
    for text, part in zip(shown, ("x_in", "shortcut", "f", "alpha", "gated", "x_out"), strict=True):
        values = maps[f"{UNITS[-1]}/{part}"]
        side = len(values)
        assert text == pytest.approx(values[int(y * side), int(x * side)], rel=0.006, abs=1e-3)
    place = f"({int(x * SMALL.size)}, {int(y * SMALL.size)})"  # in pixels of the face
    assert inside.locator("#view-gate output").all_inner_texts()[:2] == [place, place]
    rings = inside.locator("#view-gate .ring")
    assert rings.count() == 2 + len(gate.MAPS)
    assert {ring.evaluate("ring => ring.style.display") for ring in rings.all()} == {"block"}


def test_unit_overlay_opacity_blend_and_colours_never_ask_the_network_nor_the_server(inside, calls):
    view = inside.locator("#view-gate")
    last = view.locator(".stage canvas").nth(3)  # alpha
    plain, before = pixels(inside, last), len(calls)
    asked = []
    inside.on("request", lambda request: asked.append(request.url) if not request.url.startswith("data:") else None)
    view.locator("[name=over]").select_option("restored")
    view.locator("[name=opacity]").evaluate(
        "range => { range.value = 35; range.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    view.locator("[name=blend]").select_option("multiply")
    assert last.evaluate("canvas => [canvas.style.opacity, canvas.style.mixBlendMode]") == ["0.35", "multiply"]
    assert view.locator(".stage").nth(5).locator("img").get_attribute("src").startswith("data:image/png")
    view.locator("[name=colors]").select_option("gray")
    grey = pixels(inside, last)
    assert not np.array_equal(grey, plain)
    assert np.ptp(grey.astype(int), axis=-1).max() == 0
    for unit in UNITS[:3]:
        view.get_by_role("button", name=unit, exact=True).click()
    assert len(calls) == before
    assert asked == []


def test_another_face_is_measured_anew_and_nothing_of_the_last_one_stays(inside):
    open_tab(inside, "Stability")
    inside.locator("#run-stability").click()
    expect(inside.locator("#json-stability")).to_be_enabled(timeout=PATIENCE)
    first = inside.locator("#film img").get_attribute("src")
    open_tab(inside, "Regions")
    assert numbers(inside, "regions")["regions_from"].startswith("5 points")
    inside.locator("#inside-faces [data-face='1']").click()
    expect(inside.locator("#inside-status")).to_contain_text("2 of 2", timeout=PATIENCE)
    expect(inside.locator("#chart-regions-0 .js-plotly-plot")).to_be_visible(timeout=PATIENCE)  # it was open
    assert inside.locator("#film img").get_attribute("src") != first
    open_tab(inside, "Stability")
    expect(inside.locator("#told-stability")).to_contain_text("Not measured of this face yet")
    expect(inside.locator("#view-stability canvas")).to_have_count(0)


@pytest.mark.parametrize(
    ("label", "instrument"),
    [("Ablation", "ablation"), ("Faithfulness", "faithfulness"), ("Sanity", "sanity")],
)
def test_what_is_slow_is_measured_when_asked_for(inside, label, instrument):
    open_tab(inside, label)
    expect(inside.locator(f"#told-{instrument}")).to_contain_text("Not measured of this face yet")
    inside.locator(f"#run-{instrument}").click()
    expect(inside.locator(f"#told-{instrument} .meaning")).to_be_visible(timeout=PATIENCE)
    expect(inside.locator(f"#chart-{instrument}-0 .js-plotly-plot")).to_be_visible(timeout=PATIENCE)
    assert numbers(inside, instrument)["provenance"]["models"][0]["config"]["size"] == SMALL.size


def test_a_part_marked_on_the_restored_face_is_what_is_asked_about(inside):
    open_tab(inside, "Query")
    expect(inside.locator("#view-query .stage")).to_have_count(2)
    stage = inside.locator("#view-query .stage.pick")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    inside.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    inside.mouse.down()
    inside.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.625 * box["height"], steps=4)
    inside.mouse.up()
    found = numbers(inside, "query")
    assert found["patch"] == pytest.approx([16, 32, 48, 40], abs=1)
    assert found["complete"]


def test_a_click_is_an_eighth_of_the_face_about_it_and_stays_inside():
    assert _pixels([0.5, 0.5, 0.5, 0.5], 128) == [56, 56, 72, 72]
    assert _pixels([0.0, 0.99, 0.0, 0.99], 128) == [0, 112, 16, 128]
    assert _pixels([0.25, 0.5, 0.5, 1], 128) == [32, 64, 64, 128]


def test_painted_attention_changes_the_face_and_can_be_undone_saved_and_replayed(inside, subject, tmp_path):
    open_tab(inside, "Paint")
    canvas = inside.locator("#paint-canvas canvas").first
    canvas.wait_for()
    inside.locator("#paint-unit input").click()
    inside.get_by_role("option", name="body.0", exact=True).click()
    inside.locator("#paint-apply").click()
    expect(inside.locator("#paint-told")).to_contain_text("Nothing is painted yet", timeout=PATIENCE)
    inside.wait_for_timeout(1000)  # the new backdrop
    paint(inside, canvas)
    inside.locator("#paint-apply").click()
    expect(inside.locator("#paint-told")).to_contain_text("Edits 1: body.0", timeout=PATIENCE)
    found = numbers(inside, "edit")
    assert found["rms_change_of_alpha"]["body.0"] > 0
    with inside.expect_download() as download:
        inside.locator("#paint-save").click()
    saved = Path(download.value.path()).read_text()
    (one,) = edit.from_json(saved, subject)
    assert one.unit == "body.0"
    assert one.mask.max() == 1  # orange, the first brush, boosts
    assert one.mask.min() == 0
    assert found["rms"] == pytest.approx(edit.study(subject, [one]).numbers["rms"], abs=1e-3)
    centre = np.argwhere(one.mask == 1).mean(0) / one.mask.shape
    assert centre == pytest.approx([0.5, 0.5], abs=0.1)

    inside.locator("#paint-undo").click()
    expect(inside.locator("#paint-told")).to_contain_text("Paint on the map", timeout=PATIENCE)
    expect(inside.locator("#view-edit canvas")).to_have_count(0)
    (tmp_path / "edits.json").write_text(saved)
    inside.locator("#tab-edit input[accept='.json']").set_input_files(tmp_path / "edits.json")
    expect(inside.locator("#paint-told")).to_contain_text("Edits 1: body.0", timeout=PATIENCE)
    again = numbers(inside, "edit")
    assert again["rms"] == pytest.approx(found["rms"], abs=1e-6)


def paint(page: Page, canvas) -> None:
    """A stroke across the middle of the canvas."""
    page.locator("#paint-apply").scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=12)
    page.mouse.up()
    page.wait_for_timeout(1000)  # the editor sends its layers a moment after the stroke


def test_only_pictures_of_the_canvas_are_opened_as_paint(tmp_path, monkeypatch):
    def file(kind: str, side: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGBA" if kind != "GIF" else "P", (side, side)).save(buffer, kind)
        return buffer.getvalue()

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # where what was sent lies
    assert painting.layer(None) is None
    assert painting.layer(file("PNG", 512)).shape == (512, 512, 4)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "layer.webp").write_bytes(file("WEBP", 512))
    assert painting.layer(FileData(path=str(tmp_path / "layer.webp"))).shape == (512, 512, 4)
    with pytest.raises(UserError, match="larger than the canvas"):
        painting.layer(file("PNG", 5000))
    for other in (file("GIF", 64), b"<svg/>", b""):
        with pytest.raises(UserError, match="cannot be read"):
            painting.layer(other)


def test_the_report_is_one_file_that_opens_without_the_server(inside, browser, tmp_path):
    open_tab(inside, "Report")
    for title in (
        "Does the rest of the face follow?",
        "Is it learned, and of this face?",
        "Where did this part come from?",
    ):
        inside.locator("#report-instruments").get_by_label(title).uncheck()
    inside.locator("#run-report").click()
    expect(inside.locator("#report-file")).to_be_enabled(timeout=PATIENCE)
    with inside.expect_download() as download:
        inside.locator("#report-file").click()
    (tmp_path / "report.html").write_bytes(Path(download.value.path()).read_bytes())
    alone = browser.new_page()
    outside = []
    alone.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else outside.append(one.url))
    alone.goto((tmp_path / "report.html").as_uri())
    ids = alone.locator("section").evaluate_all("all => all.map(section => section.id)")
    assert ids == [
        "atlas",
        "gate",
        "regions",
        "ablation",
        "stability",
        "left-out",
    ]  # no population was gathered, 2D attention has no channels
    assert outside == []
    alone.close()


def test_a_photo_without_a_face_says_what_to_do(inside, monkeypatch):
    none = serving.Detector("stand-in", "No faces, always.", lambda photo: [])
    monkeypatch.setattr(serving, "_detectors", [none])
    inside.locator("#inside").click()
    expect(inside.locator("#inside-status .notice")).to_contain_text("No human face was found", timeout=PATIENCE)
    expect(inside.locator("#instruments")).to_be_hidden()


def test_it_fits_a_phone_and_the_dark(server, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.set_default_timeout(PATIENCE)
    page.goto(f"{server}?__theme=dark")
    page.locator("#photo-input input[type=file]").set_input_files(ASTRONAUT)
    expect(page.locator("#download-atlas")).to_be_enabled(timeout=PATIENCE)
    page.get_by_role("tab", name="Look inside").click()  # takes over what was restored, without a button
    expect(page.locator("#png-atlas")).to_be_enabled(timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    accent = page.locator("#view-atlas figcaption").first.evaluate("node => getComputedStyle(node).color")
    assert min(map(int, re.findall(r"\d+", accent)[:3])) > 120  # light on dark
    page.close()


def test_every_instrument_is_offered_to_programs(client):
    offered = client.view_api(return_format="dict")
    assert offered["unnamed_endpoints"] == {}
    instruments = {f"/{name}" for name in INSTRUMENTS if name != "training"}  # a visitor has no run here
    assert set(offered["named_endpoints"]) == {"/restore", "/attention", "/compare", "/report"} | instruments


def test_the_client_ablates(client, name, subject):
    figure, arrays, told = client.predict(handle_file(ASTRONAUT), name, "simulate", api_name="/ablation")
    assert Image.open(figure).format == "PNG"
    expected = ablation.study(subject)
    with np.load(arrays) as found:
        assert found["units"].tolist() == UNITS
        assert found["rms"] == pytest.approx(expected.arrays["rms"], abs=1e-3)
    told = json.loads(Path(told).read_text())
    assert told["ranking"][0]["unit"] == expected.numbers["ranking"][0]["unit"]
    assert told["provenance"]["command"] == "ablation"
    assert "astronaut" not in json.dumps(told)  # the file's name is the visitor's


def test_the_client_gives_an_instrument_its_own_options(client, name, subject, tmp_path):
    photo = handle_file(ASTRONAUT)
    given = {"photo": photo, "model": name, "mode": "simulate"}
    _, arrays, told = client.predict(**given, pairs=True, api_name="/ablation")
    assert json.loads(Path(told).read_text())["instrument"] == "ablation-pairs"
    _, arrays, told = client.predict(**given, patch=[8, 8, 24, 16], detector="sum", api_name="/query")
    expected = query.study(subject, (8, 8, 24, 16), "sum")
    with np.load(arrays) as found:
        assert found["attribution"] == pytest.approx(expected.arrays["attribution"], abs=1e-4)
    settings = {"patch": [8, 8, 24, 16], "detector": "sum", "path": "progressive", "sigma": None, "steps": 25}
    assert json.loads(Path(told).read_text())["provenance"]["settings"] == settings
    mask = np.zeros((16, 16))
    mask[4:8] = 1
    edit.save(subject, [Edit("body.1", mask)], tmp_path / "edits.json")
    _, arrays, _ = client.predict(**given, edits=handle_file(tmp_path / "edits.json"), api_name="/edit")
    with np.load(arrays) as found:
        assert np.array_equal(found["after"], edit.study(subject, [Edit("body.1", mask)]).arrays["after"])
    images.save_png(np.ascontiguousarray(skimage.data.astronaut()[:, ::-1]), tmp_path / "other.png")
    _, arrays, told = client.predict(**given, other_photo=handle_file(tmp_path / "other.png"), api_name="/agreement")
    told = json.loads(Path(told).read_text())
    one = Restorer(subject.model).restore_face(images.load(tmp_path / "other.png"), FACE, "simulate")
    expected = agreement.study(subject, Subject.of(subject.model, name, one)).numbers["pairs"]
    assert [row["pearson"] for row in told["pairs"]] == pytest.approx([row["pearson"] for row in expected], abs=1e-4)


@pytest.mark.parametrize(
    ("endpoint", "options", "told"),
    [
        ("/ablation", {"face": 9}, "There is no face 9"),
        ("/query", {"patch": [0, 0, 999, 9]}, "is not inside the face"),
        ("/query", {"patch": "all"}, "four whole numbers"),
        ("/query", {"detector": "nose"}, "detector has no .nose."),
        ("/faithfulness", {"units": ["nose"]}, "has no attention in nose"),
        ("/agreement", {}, "either another model or another photo"),
        ("/agreement", {"other_model": "/etc"}, "not a model"),
        ("/edit", {}, "Give a file of edits"),
        ("/channels", {}, "one attention map a unit"),
        ("/population", {}, "was gathered yet"),
    ],
)
def test_mistakes_are_answered_by_sentences(client, name, endpoint, options, told):
    with pytest.raises(gradio_client.exceptions.AppError, match=told):
        client.predict(photo=handle_file(ASTRONAUT), model=name, mode="simulate", **options, api_name=endpoint)


def test_a_model_for_all_damages_takes_the_face_as_it_is(client):
    _, _, told = client.predict(handle_file(ASTRONAUT), "sparnet-hd-light-256", "simulate", api_name="/gate")
    assert json.loads(Path(told).read_text())["provenance"]["faces"][0]["mode"] == "as_is"
