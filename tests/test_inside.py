"""Looking inside: every instrument in the page and for programs, on a small network, in a real browser and client."""

import asyncio
import json
import re
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from pathlib import Path

import gradio as gr
import gradio_client.exceptions
import numpy as np
import pytest
import skimage.data
import torch
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Page, expect
from served import PATIENCE, quiet, served, visit, watched

import app
from sparnet import Restorer, SPARNet, SPARNetConfig, images
from sparnet.errors import UserError
from sparnet.faces import Face
from sparnet.model import FaceAttentionUnit
from viz.instrument import QUESTIONS
from viz.instruments import INSTRUMENTS, ablation, agreement, edit, gate, query
from viz.instruments.edit import Edit
from viz.subject import Subject
from viz.tabs import bench, models, painting, serving
from viz.tabs import inside as tab
from viz.tabs.painting import SIDE
from viz.tabs.panel import Panel, pixels_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio.queueing")  # its use of pandas

ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")
POINTS = np.array([(206.0, 111), (242, 111), (223, 132), (209, 146), (240, 146)])
FACE, OTHER = Face(np.array([180.0, 70, 265, 180]), POINTS), Face(np.array([170.0, 90, 240, 170]))
SMALL = SPARNetConfig(
    size=32, smallest=16, min_channels=8, max_channels=8, body_depth=1, bottleneck=16, hourglass_channels=8,
    degraded_size=16,
)  # fmt: skip
UNITS = [plan.name for plan in SMALL.units()]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SPARNet(SMALL).eval()


@pytest.fixture(scope="module")
def calls():
    """A unit's identity every time that any network runs through it while the server runs."""
    return []


@pytest.fixture(scope="module")
def late():
    """By the name of a handler, seconds that its answers take to the browser, once what they set is set."""
    return {}


@pytest.fixture(scope="module")
def server(tmp_path_factory, model, calls, late):
    forward, answer = FaceAttentionUnit.forward, app.Page.postprocess_data

    async def delayed(self, block_fn, *rest):
        made = await answer(self, block_fn, *rest)
        await asyncio.sleep(late.get(block_fn.name, 0))
        return made

    def counted(self, x, *rest, **more):
        calls.append(id(self))
        return forward(self, x, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaceAttentionUnit, "forward", counted)
        patch.setattr(app.Page, "postprocess_data", delayed)
        blind = SPARNet(replace(SMALL, degraded_size=None)).eval()
        with served(tmp_path_factory.mktemp("page"), model, [FACE, OTHER], blind=blind) as address:
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


@pytest.fixture(scope="module")
def page(server, browser):
    """The page as it opens: the astronaut's faces, rebuilt by the small network."""
    with watched(browser, server) as page:
        yield page


@pytest.fixture
def inside(page):
    """The tab with the astronaut's first face, rebuilt from few pixels."""
    if "Face 1 of 2, rebuilt" not in "".join(page.locator("#inside-face").all_text_contents()):
        page.get_by_role("tab", name="Restore", exact=True).click()
        page.locator("#examples [data-example=astronaut]").click()
    page.get_by_role("tab", name="Look inside").click()
    expect(page.locator("#inside-face")).to_contain_text("Face 1 of 2, rebuilt", timeout=PATIENCE)
    return page


def open_instrument(page: Page, label: str) -> None:
    page.locator("#rail").get_by_role("button", name=label, exact=True).click()


def numbers(page: Page, instrument: str) -> dict:
    """The finding's JSON, by its button."""
    expect(page.locator(f"#told-{instrument} .meaning")).to_be_visible(timeout=PATIENCE)
    with page.expect_download() as download:
        page.locator(f"#json-{instrument}").click()
    return json.loads(Path(download.value.path()).read_text())


def pixels(page: Page, canvas) -> np.ndarray:
    side, values = canvas.evaluate(
        """canvas => [canvas.width,
        [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]]"""
    )
    return np.array(values, np.uint8).reshape(-1, side, 4)[..., :3]


def test_a_photo_restored_and_looked_into_costs_a_run_a_face_and_one_for_the_gates(page, calls):
    before = len(calls)
    page.locator("#photo-input input[type=file]").set_input_files(ASTRONAUT)
    expect(page.locator("#status")).to_contain_text("blind", timeout=PATIENCE)
    page.locator("#to-inside").click()
    expect(page.locator("#inside-face")).to_contain_text("Face 1 of 2, restored as it is", timeout=PATIENCE)
    expect(page.locator("#view-atlas .stage").first).to_be_visible(timeout=PATIENCE)
    open_instrument(page, "Gate")
    expect(page.locator("#view-gate .stage").first).to_be_visible(timeout=PATIENCE)
    assert max(Counter(calls[before:]).values()) <= 2 + 1
    page.locator("#inside-change").click()
    expect(page.locator("#photo-input")).to_be_visible()


def test_the_face_that_is_looked_at_is_measured(inside, model):
    open_instrument(inside, "Gate")
    expect(inside.locator("#told-gate .meaning")).to_be_visible(timeout=PATIENCE)
    inside.locator("#inside-change").click()
    inside.locator("#faces [data-face='1']").click()
    inside.get_by_role("tab", name="Look inside").click()
    expect(inside.locator("#inside-face")).to_contain_text("Face 2 of 2, rebuilt from 16x16", timeout=PATIENCE)
    found = numbers(inside, "gate")  # which was open
    assert found["provenance"]["faces"][0]["box"] == OTHER.box.tolist()
    one = Restorer(model).restore_face(skimage.data.astronaut(), OTHER, "simulate")
    expected = gate.study(Subject.of(model, "small", one)).numbers["units"]
    for unit in UNITS:
        assert found["units"][unit] == pytest.approx(expected[unit], abs=1e-5)


def test_what_does_not_apply_is_grey_and_says_why(inside):
    for name, why in (("Channels", "no maps of channels here"), ("Population", "no other faces gathered")):
        button = inside.locator("#rail nav button", has_text=name)
        expect(button).to_be_disabled()
        expect(button).to_contain_text(why)
    assert inside.locator("#rail nav h2").all_inner_texts() == list(QUESTIONS)


def test_a_visitor_is_told_no_command_where_something_is_not_known(server):
    now = bench.opened(
        bench.Photo(ASTRONAUT.read_bytes(), "astronaut"), models.first_model(), "as_is", False, bench.silent
    )
    why = {name: tab._why_not(instrument, now) for name, instrument in INSTRUMENTS.items() if instrument.needs_face}
    assert why["effect"] == "for faces rebuilt from 16x16"
    for ask in (now.population, lambda: INSTRUMENTS["effect"].study(now.subject)):
        with pytest.raises(UserError) as told:
            ask()
        assert "--" not in str(told.value)


def test_unit_and_scale_are_chosen_once_and_kept_from_one_instrument_to_the_next(inside):
    inside.locator("#look [name=unit]").select_option("body.1")
    inside.locator("#look [name=scale]").select_option("own")
    open_instrument(inside, "Gate")
    pressed = inside.locator("#view-gate .choice [aria-pressed=true]")
    expect(pressed).to_have_text("body.1", timeout=PATIENCE)
    alpha = inside.locator("#view-gate figure").filter(has=inside.get_by_text("alpha", exact=True))
    ends = alpha.locator(".scale").inner_text().split()
    assert 0 < float(ends[0]) < float(ends[1]) < 1
    inside.locator("#view-gate .choice").get_by_role("button", name="body.2", exact=True).click()
    expect(inside.locator("#look [name=unit]")).to_have_value("body.2")
    open_instrument(inside, "Paint")
    expect(inside.locator("#paint canvas")).to_have_attribute("aria-label", re.compile("body.2"), timeout=PATIENCE)
    inside.locator("#look [name=scale]").select_option("one")
    open_instrument(inside, "Gate")
    expect(alpha.locator(".scale")).to_have_text("01")
    inside.get_by_role("tab", name="Restore", exact=True).click()
    scale = inside.locator("section.beside [name=scale]")
    expect(scale).to_have_value("one")  # as chosen there, for the face that is on the screen
    scale.select_option("own")
    inside.get_by_role("tab", name="Look inside").click()
    expect(inside.locator("#look [name=scale]")).to_have_value("own")
    expect(alpha.locator(".scale")).not_to_have_text("01")


def test_every_gate_shows_its_maps_and_pointing_at_one_tells_the_values_of_all(inside, subject):
    open_instrument(inside, "Gate")
    buttons = inside.locator("#view-gate .choice button")
    expect(buttons).to_have_text(UNITS, timeout=PATIENCE)
    buttons.filter(has_text=UNITS[-1]).click()
    stages = inside.locator("#view-gate .stage")
    expect(stages).to_have_count(2 + len(gate.MAPS))
    box = stages.nth(3).bounding_box()
    x, y = 0.7, 0.3
    stages.nth(3).hover(position={"x": x * box["width"], "y": y * box["height"]})
    maps = gate.study(subject).arrays
    shown = [float(text) for text in inside.locator("#view-gate output").all_inner_texts()[2:]]
    for text, part in zip(shown, ("x_in", "shortcut", "x_out", "f", "gated", "alpha"), strict=True):
        values = maps[f"{UNITS[-1]}/{part}"]
        side = len(values)
        assert text == pytest.approx(values[int(y * side), int(x * side)], rel=0.006, abs=1e-3)
    place = f"({int(x * SMALL.size)}, {int(y * SMALL.size)})"  # in pixels of the face
    assert inside.locator("#view-gate output").all_inner_texts()[:2] == [place, place]
    rings = inside.locator("#view-gate .ring")
    assert rings.count() == 2 + len(gate.MAPS)
    assert {ring.evaluate("ring => ring.style.display") for ring in rings.all()} == {"block"}


def test_unit_overlay_opacity_blend_and_colours_never_ask_the_network_nor_the_server(inside, calls):
    open_instrument(inside, "Gate")
    expect(inside.locator("#told-gate .meaning")).to_be_visible(timeout=PATIENCE)
    view = inside.locator("#view-gate")
    last = view.locator(".stage canvas").nth(5)  # alpha
    quiet(inside)
    plain, before = pixels(inside, last), len(calls)
    inside.requests.clear()
    view.locator("[name=over]").select_option("restored")
    view.locator("[name=opacity]").evaluate(
        "range => { range.value = 35; range.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    view.locator("[name=blend]").select_option("multiply")
    opacity = 'canvas.getContext("2d").getImageData(0, 0, 1, 1).data[3]'
    assert last.evaluate(f"canvas => [{opacity}, canvas.style.mixBlendMode]") == [89, "multiply"]
    assert view.locator(".stage").nth(5).locator("img").get_attribute("src").startswith("data:image/png")
    view.locator("[name=colors]").select_option("gray")
    grey = pixels(inside, last)
    assert not np.array_equal(grey, plain)
    assert np.ptp(grey.astype(int), axis=-1).max() == 0
    for unit in UNITS[:3]:
        view.get_by_role("button", name=unit, exact=True).click()
    assert len(calls) == before
    assert inside.requests == []


def test_another_face_is_measured_anew_and_nothing_of_the_last_one_stays(inside):
    open_instrument(inside, "Stability")
    inside.locator("#run-stability").click()
    expect(inside.locator("#told-stability .meaning")).to_be_visible(timeout=PATIENCE)
    open_instrument(inside, "Atlas")
    inside.locator("#run-film").click()
    expect(inside.locator("#film img")).to_be_visible(timeout=PATIENCE)
    open_instrument(inside, "Regions")
    assert numbers(inside, "regions")["regions_from"].startswith("5 points")
    first = inside.locator("#inside-face img").last.get_attribute("src")
    inside.locator("#inside-change").click()
    inside.locator("#faces [data-face='1']").click()
    inside.get_by_role("tab", name="Look inside").click()
    expect(inside.locator("#inside-face")).to_contain_text("Face 2 of 2", timeout=PATIENCE)
    assert inside.locator("#inside-face img").last.get_attribute("src") != first
    expect(inside.locator("#chart-regions-0 .js-plotly-plot")).to_be_visible(timeout=PATIENCE)  # it was open
    open_instrument(inside, "Stability")
    expect(inside.locator("#told-stability")).to_contain_text("Not measured of this face yet")
    expect(inside.locator("#view-stability canvas")).to_have_count(0)
    open_instrument(inside, "Atlas")
    expect(inside.locator("#view-atlas .stage").first).to_be_visible(timeout=PATIENCE)
    expect(inside.locator("#film img")).to_have_count(0)


@pytest.mark.parametrize(("opened", "measured"), [("Regions", "regions"), ("Gate", "gate")])
def test_an_instrument_opened_before_the_face_has_come_stays_open_and_is_measured(inside, late, opened, measured):
    open_instrument(inside, "Gate")
    expect(inside.locator("#told-gate .meaning")).to_be_visible(timeout=PATIENCE)
    late["renew"] = 2
    inside.locator("#inside-change").click()
    inside.locator("#faces [data-face='1']").click()
    expect(inside.locator("#faces [data-face='1']")).to_have_attribute("aria-pressed", "true")
    inside.get_by_role("tab", name="Look inside").click()
    open_instrument(inside, opened)
    expect(inside.locator("#inside-face")).to_contain_text("Face 2 of 2", timeout=PATIENCE)
    late.clear()
    expect(inside.locator("#rail [aria-current=true]")).to_have_text(opened)
    assert numbers(inside, measured)["provenance"]["faces"][0]["box"] == OTHER.box.tolist()


def test_an_answer_that_comes_after_its_face_has_gone_is_dropped():
    with gr.Blocks():
        panel = Panel(INSTRUMENTS["stability"])
    assert panel.drop_if_old("new", "old")[panel.told] == ""
    assert panel.drop_if_old("new", "new") == panel.drop_if_old("new", None) == gr.skip()


@pytest.mark.parametrize(
    ("label", "instrument"),
    [("Ablation", "ablation"), ("Faithfulness", "faithfulness"), ("Sanity", "sanity")],
)
def test_what_is_slow_is_measured_when_asked_for(inside, label, instrument):
    open_instrument(inside, label)
    expect(inside.locator(f"#told-{instrument}")).to_contain_text("Not measured of this face yet")
    inside.locator(f"#run-{instrument}").click()
    expect(inside.locator(f"#told-{instrument} .meaning")).to_be_visible(timeout=PATIENCE)
    expect(inside.locator(f"#chart-{instrument}-0 .js-plotly-plot")).to_be_visible(timeout=PATIENCE)
    assert numbers(inside, instrument)["provenance"]["models"][0]["config"]["size"] == SMALL.size


def test_a_part_marked_on_the_restored_face_is_what_is_asked_about(inside):
    open_instrument(inside, "Query")
    expect(inside.locator("#view-query .stage")).to_have_count(2)
    stage = inside.locator("#view-query .stage.pick")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    inside.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    inside.mouse.down()
    inside.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.625 * box["height"], steps=4)
    inside.mouse.up()
    found = numbers(inside, "query")
    assert found["patch"] == pytest.approx([8, 16, 24, 20], abs=1)
    assert found["complete"]


def test_a_click_is_an_eighth_of_the_face_about_it_and_stays_inside():
    assert pixels_of([0.5, 0.5, 0.5, 0.5], 128) == [56, 56, 72, 72]
    assert pixels_of([0.0, 0.99, 0.0, 0.99], 128) == [0, 112, 16, 128]
    assert pixels_of([0.25, 0.5, 0.5, 1], 128) == [32, 64, 64, 128]
    for shares in (None, "x", [0, 0, 1], [0, 0, 2, 1], [0, 0, "1", 1]):
        with pytest.raises(UserError, match="not on the face"):
            pixels_of(shares, 128)


def test_painted_attention_changes_the_face_and_can_be_undone_saved_and_replayed(inside, subject, tmp_path):
    inside.locator("#look [name=unit]").select_option("body.0")
    open_instrument(inside, "Paint")
    canvas = inside.locator("#paint canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile("body.0"), timeout=PATIENCE)
    face = inside.locator("#paint-after img").last
    unpainted = face.get_attribute("src")
    stroke(inside, canvas)
    expect(inside.locator("#told-edit")).to_contain_text("Painted: body.0", timeout=PATIENCE)
    assert face.get_attribute("src") != unpainted
    with inside.expect_download() as download:
        inside.locator("#paint-save").click()
    saved = Path(download.value.path()).read_text()
    (one,) = edit.from_json(saved, subject)
    assert one.unit == "body.0"
    assert one.mask.max() == 1  # the first brush boosts
    assert one.mask.min() == 0
    assert np.argwhere(one.mask == 1).mean(0) / one.mask.shape == pytest.approx([0.5, 0.5], abs=0.05)
    expected = edit.study(subject, [one])
    expect(inside.locator("#told-edit")).to_contain_text(f"changed by {expected.numbers['rms']:.1f} of 255")
    inside.locator("#run-edit").click()
    found = numbers(inside, "edit")
    assert found["rms"] == pytest.approx(expected.numbers["rms"], abs=1e-3)

    inside.locator("#paint [value=suppress]").check(force=True)
    canvas.focus()
    inside.keyboard.press("Space")  # where the first stroke ended
    expect(face).not_to_have_attribute("src", face.get_attribute("src"), timeout=PATIENCE)
    for _ in range(2):
        inside.locator("#paint").get_by_role("button", name="Undo").click()
    expect(inside.locator("#told-edit")).to_contain_text("Paint on the face", timeout=PATIENCE)
    expect(face).to_have_attribute("src", unpainted)
    expect(inside.locator("#view-edit canvas")).to_have_count(0)
    (tmp_path / "edits.json").write_text(saved)
    inside.locator("#paint-load").locator("..").locator("input[type=file]").set_input_files(tmp_path / "edits.json")
    expect(inside.locator("#told-edit")).to_contain_text("Painted: body.0", timeout=PATIENCE)
    inside.locator("#run-edit").click()
    assert numbers(inside, "edit")["rms"] == pytest.approx(found["rms"], abs=1e-6)


def stroke(page: Page, canvas) -> None:
    """A stroke across the middle of the canvas."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=4)
    page.mouse.up()


def test_only_a_mask_of_the_canvas_is_taken_as_paint():
    cells = np.full((SIDE, SIDE), 128, np.uint8)
    cells[3, 5], cells[6, 7] = 255, 1

    def sent(cells: bytes) -> dict:
        return {"unit": "body.0", "mask": b64encode(cells).decode()}

    unit, mask = painting.mask_of(sent(cells.tobytes()))
    assert (unit, mask[3, 5], mask[6, 7], np.abs(mask).sum()) == ("body.0", 1, -1, 2)
    assert painting.canvas_of("body.0", [Edit("body.0", mask), Edit("body.1", -mask)]) == sent(cells.tobytes())
    right = sent(cells.tobytes())
    wrong = [None, [], "x", {}, right | {"unit": 5}, right | {"mask": None}, right | {"mask": "é"}]
    for value in (*wrong, sent(cells.tobytes()[1:]), sent(bytes(SIDE**2)), sent(cells.tobytes() * 2)):
        with pytest.raises(UserError, match="cannot be read"):
            painting.mask_of(value)


def test_the_report_is_one_file_that_opens_without_the_server(inside, browser, tmp_path):
    inside.locator("#to-report").click()
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
    expected = ["atlas", "gate", "regions", "ablation", "effect", "stability", "left-out"]
    assert ids == expected  # no population was gathered, 2D attention has no channels
    assert outside == []
    alone.close()


def test_a_photo_without_a_face_says_what_to_do(inside, monkeypatch):
    none = serving.Detector("stand-in", "No faces, always.", lambda photo: [])
    monkeypatch.setattr(serving, "_detectors", [none])
    expect(inside.locator("#rail")).to_be_visible()
    inside.locator("#inside-change").click()
    inside.locator("#photo-input input[type=file]").set_input_files(ASTRONAUT)
    expect(inside.locator("#inside-face .notice")).to_contain_text("no face to look at", timeout=PATIENCE)
    inside.get_by_role("tab", name="Look inside").click()
    expect(inside.locator("#rail")).to_be_hidden()


def test_it_fits_a_phone_and_the_dark(server, browser):
    page = visit(browser)
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.goto(f"{server}?__theme=dark")
    page.get_by_role("tab", name="Look inside").click()
    expect(page.locator("#view-atlas .stage").first).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#rail nav")).to_be_hidden()
    page.locator("#rail select").select_option("gate")
    expect(page.locator("#view-gate .stage").first).to_be_visible(timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    accent = page.locator("#view-gate figcaption").first.evaluate("node => getComputedStyle(node).color")
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
    (tmp_path / "edits.json").write_text(edit.to_json(subject, [Edit("body.1", mask)]))
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
        ("/query", {"detector": "nose"}, "detector is .nose."),
        ("/faithfulness", {"units": ["nose"]}, "has no attention in nose"),
        ("/agreement", {}, "either another model or another photo"),
        ("/agreement", {"other_model": "/etc"}, "not a model"),
        ("/edit", {}, "Give a file of edits"),
        ("/channels", {}, "one attention map a unit"),
        ("/population", {}, "no other faces were gathered"),
    ],
)
def test_mistakes_are_answered_by_sentences(client, name, endpoint, options, told):
    with pytest.raises(gradio_client.exceptions.AppError, match=told):
        client.predict(photo=handle_file(ASTRONAUT), model=name, mode="simulate", **options, api_name=endpoint)


def test_a_model_for_all_damages_takes_the_face_as_it_is(client):
    _, _, told = client.predict(handle_file(ASTRONAUT), "blind", "simulate", api_name="/gate")
    assert json.loads(Path(told).read_text())["provenance"]["faces"][0]["mode"] == "as_is"
