"""What a face's units looked at, in a real browser: its colours are those of sparnet/attention.py."""

import io
import json

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect
from served import PATIENCE, watched

from sparnet import SPARNet, SPARNetConfig
from sparnet.attention import colorize, feature_strength, overlay
from sparnet.images import data_url, encode_png, to_image
from viz.explorer import payload, strengths
from viz.tabs.pieces import script
from viz.tabs.theme import CSS

SMALL = SPARNetConfig(
    size=32, smallest=8, min_channels=8, max_channels=16, hourglass_channels=8, body_depth=2, bottleneck=16
)
UNITS = [plan.name for plan in SMALL.units()]
SCRIPTS = script("maps.js") + script("kept.js") + script("beside.js")
LOOK = script("kept.js") + script("look.js")  # of the tab "Look inside"


def traced(**changes):
    """A face before a small network: degraded, restored (32,32,3) uint8, and its trace."""
    torch.manual_seed(1)
    model = SPARNet(SPARNetConfig(**SMALL.__dict__ | changes)).eval()
    for name, parameter in model.named_parameters():
        if "attention" in name or name.endswith(("squeeze.weight", "excite.weight")):
            torch.nn.init.normal_(parameter, std=0.4)  # as drawn at first, every alpha is nearly the same
    degraded = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        trace = model.trace(degraded, features=True)
    return to_image(degraded), to_image(trace.restored), trace


@pytest.fixture(scope="module")
def face():
    return traced()


@pytest.fixture(scope="module")
def maps(face):
    """unit -> (h,w)"""
    return {unit: alpha[0, 0].numpy() for unit, alpha in face[2].alphas.items()}


@pytest.fixture(scope="module")
def empty(browser, tmp_path_factory):
    """A page with the styles and without a server; its origin has a storage."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.set_default_timeout(10_000)
    page.route("http://page.test/", lambda route: route.fulfill(body="<!doctype html><body>", content_type="text/html"))
    yield page
    page.close()


@pytest.fixture
def mount(empty):
    """mount(payload) -> the page that shows it; `sent` there holds what it told the server. No error may be left."""
    problems = []
    told = empty.on("pageerror", lambda error: problems.append(str(error)))

    def mounted(value, storage=None, **props) -> Page:
        empty.goto("http://page.test/")
        empty.evaluate("kept => { localStorage.clear(); if (kept) localStorage['sparnet-maps'] = kept; }", storage)
        for path in CSS:
            empty.add_style_tag(path=path)
        start(empty, {"value": value, "features": None, "unit": None} | props)
        return empty

    yield mounted
    assert told is None
    assert problems == []


def start(page: Page, props: dict, scripts: str = SCRIPTS) -> None:
    """As Gradio runs the script."""
    page.evaluate(
        """([script, props]) => { const root = document.createElement("div"); root.id = "maps";
        document.body.replaceChildren(root); window.sent = []; window.watchers = {}; window.props = props;
        new Function("element", "props", "watch", "trigger", script)(root, props,
            (name, act) => (watchers[name] = act), (name, data) => sent.push([name, data])); }""",
        [scripts, props],
    )


def given(page: Page, name: str, value) -> None:
    """The server has sent a prop."""
    page.evaluate("([name, value]) => { props[name] = value; watchers[name](); }", [name, value])


def pixels(page: Page, selector: str, side: int) -> np.ndarray:
    """(side,side,3), the middle of each of its cells as the screen shows it."""
    picture = page.locator(selector).screenshot()
    shown = np.array(Image.open(io.BytesIO(picture)).convert("RGB"), int)
    rows, columns = (((np.arange(side) + 0.5) * extent / side).astype(int) for extent in shown.shape[:2])
    return shown[rows[:, None], columns]


def large(page: Page) -> np.ndarray:
    """The dialog's map, each pixel of the face once."""
    page.add_style_tag(content=".large .stage { width: 256px !important; border-radius: 0 !important } "
                               ".large .stage img { image-rendering: pixelated !important }")  # fmt: skip
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    return pixels(page, ".large .stage", 32)


def same(shown: np.ndarray, expected: np.ndarray) -> bool:
    """Within 1 of 255, but for a hundredth, where 16 bits put a value beyond the border of two colours."""
    error = np.abs(shown - expected.astype(int))
    return error.max() <= 2 and (error > 1).mean() < 0.01


def test_where_most_maps_are_faint_their_own_ranges_are_offered(mount, face):
    faint = {unit: 0.1 * alpha for unit, alpha in face[2].alphas.items()}
    offer = mount(payload(*face[:2], faint)).get_by_role("button", name="Stretch each")
    expect(offer).to_be_hidden()
    page = mount(payload(*face[:2], faint | {UNITS[0]: face[2].alphas[UNITS[0]]}))
    offer.click()
    expect(page.locator(".beside [name=scale]")).to_have_value("own")
    expect(offer).to_be_hidden()


def test_a_small_frames_number_is_within_the_photo_at_every_edge(mount):
    page = mount(None)
    corners = [(0, 0.02), (0.93, 0), (0.4, 0.9), (0.97, 0.96), (0.3, 0.5)]
    faces = [{"box": [x, y, x + 0.03, y + 0.04], "on": True, "failed": False} for x, y in corners]
    picture = data_url(encode_png(np.zeros((300, 400, 3), np.uint8)))
    start(page, {"value": {"photo": picture, "faces": faces, "index": 0, "lies": 0}}, script("photo.js"))
    page.add_style_tag(content=".photo { width: 288px }")
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    photo = page.locator(".frames").bounding_box()
    numbers = [number.bounding_box() for number in page.locator(".frames b").all()]
    frames = [frame.bounding_box() for frame in page.locator(".frames button").all()]
    for number, frame in zip(numbers, frames, strict=True):
        for edge, length in (("x", "width"), ("y", "height")):
            assert number[edge] >= photo[edge] - 0.5
            assert number[edge] + number[length] <= photo[edge] + photo[length] + 0.5
        assert number["y"] + number["height"] <= frame["y"] + 1 or number["y"] >= frame["y"] + frame["height"] - 1


def test_every_unit_is_there_in_forward_order_and_three_of_the_highest_contrast_over_the_face(mount, face, maps):
    page = mount(payload(*face[:2], face[2].alphas))
    units = "all => all.map(button => button.dataset.unit)"
    assert page.locator(".atlas [data-unit]").evaluate_all(units) == UNITS
    contrast = sorted(UNITS, key=lambda unit: -maps[unit].std())
    assert page.locator(".strongest [data-unit]").evaluate_all(units) == contrast[:3]
    expect(page.get_by_text(f"three of {len(UNITS)} units")).to_be_visible()
    groups = page.locator(".atlas [role=group]").evaluate_all("all => all.map(group => group.ariaLabel)")
    assert groups == ["encoder", "body", "decoder"]


def test_a_map_is_laid_over_the_face_as_by_the_reference_without_the_server(mount, face, maps):
    degraded, restored, trace = face
    page = mount(payload(degraded, restored, trace.alphas))
    requests = []
    page.on("request", lambda request: None if request.url.startswith("data:") else requests.append(request.url))
    page.locator(".atlas [data-unit='decoder.1']").click()
    page.get_by_role("button", name="Restored").click()
    page.locator("dialog [name=blend]").select_option("normal")
    page.locator("dialog [name=opacity]").fill("20")
    top, alpha = max(alpha.max() for alpha in maps.values()), maps["decoder.1"]
    assert same(large(page), overlay(restored, alpha, "viridis", 0.2, 0, top))
    page.locator("dialog [name=scale]").select_option("one")
    page.locator("dialog [name=colors]").select_option("magma")
    page.get_by_role("button", name="Input").click()
    assert same(large(page), overlay(degraded, alpha, "magma", 0.2))
    page.locator("dialog [name=scale]").select_option("own")
    expect(page.get_by_text("Do not compare maps").last).to_be_visible()
    assert same(large(page), overlay(degraded, alpha, "magma", 0.2, alpha.min(), alpha.max()))
    page.get_by_role("button", name="Next unit").click()
    expect(page.locator("dialog [name=unit]")).to_have_value("decoder.1")  # the last
    page.locator("dialog [name=unit]").select_option("body.1")
    alpha = maps["body.1"]
    assert same(large(page), overlay(degraded, alpha, "magma", 0.2, alpha.min(), alpha.max()))
    assert page.evaluate("sent") == requests == []


def test_glow_leaves_the_face_where_attention_is_low(mount, face, maps):
    _, restored, trace = face
    page = mount(payload(*face[:2], trace.alphas))
    page.locator(".atlas [data-unit='decoder.1']").click()
    page.get_by_role("button", name="Restored").click()
    top, alpha = max(alpha.max() for alpha in maps.values()), maps["decoder.1"]
    share = (alpha / top)[..., None]
    expected = (1 - share) * restored + share * colorize(alpha, "viridis", 0, top)
    assert np.abs(large(page) - expected).max() <= 2


def test_thumbnails_have_the_colours_of_the_chosen_scale(mount, face, maps):
    page = mount(payload(*face[:2], face[2].alphas))
    page.locator("[name=scale]").select_option("one")
    for unit in ("encoder.0", "body.1"):
        alpha = maps[unit]
        values = page.locator(f".atlas [data-unit='{unit}'] canvas").evaluate(
            "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
        )
        shown = np.array(values, np.uint8).reshape(*alpha.shape, 4)[..., :3]
        other = (shown != colorize(alpha)).any(-1)
        assert other.mean() < 0.02  # in 16 bits a value on the border of two colours may fall either way


def test_pointing_at_a_map_tells_the_raw_value_and_its_place(mount, face, maps):
    page = mount(payload(*face[:2], face[2].alphas))
    map_ = page.locator(".atlas [data-unit='encoder.0'] .stage")
    side = map_.bounding_box()["width"]
    map_.hover(position={"x": side * 3.8 / 16, "y": side * 9.8 / 16})
    said = f"\N{GREEK SMALL LETTER ALPHA} = {maps['encoder.0'][9, 3]:.3f} at (3, 9)"
    expect(page.locator(".beside > output")).to_have_text(f"encoder.0: {said}")
    map_.click()
    map_ = page.locator(".large .stage")
    side = map_.bounding_box()["width"]
    map_.hover(position={"x": side * 3.8 / 16, "y": side * 9.8 / 16})
    expect(page.locator(".large output")).to_have_text(said)


def test_arrow_keys_go_to_the_next_unit_and_escape_closes(mount, face):
    page = mount(payload(*face[:2], face[2].alphas))
    first = page.locator(f".atlas [data-unit='{UNITS[1]}']")
    first.press("ArrowLeft")
    expect(page.locator(f".atlas [data-unit='{UNITS[0]}']")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_be_visible()
    page.locator("dialog").get_by_role("button", name="Close").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("dialog [name=unit]")).to_have_value(UNITS[1])
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    page.get_by_role("button", name=f"All {len(UNITS)} maps").click()
    expect(page.locator("dialog [data-unit]")).to_have_count(len(UNITS))
    page.locator("dialog [data-unit='body.1']").click()
    expect(page.locator("dialog [name=unit]")).to_have_value("body.1")


def test_numbers_and_words_say_what_is_seen(mount, face, maps):
    page = mount(payload(*face[:2], face[2].alphas))
    page.locator(".atlas [data-unit='body.1']").click()
    alpha = maps["body.1"]
    numbers = dict(
        zip(page.locator("dialog dt").all_inner_texts(), page.locator("dialog dd").all_inner_texts(), strict=True)
    )
    assert numbers["mean"] == f"{alpha.mean():.3f}"
    assert numbers["std. deviation"] == f"{alpha.std():.3f}"
    assert numbers["above mean"] == f"{round((alpha > alpha.mean()).mean() * 100)} % of places"
    spot = np.zeros((1, 12, 12), np.float32)
    spot[0, :4, 8:] = 0.5
    page = mount(payload(*face[:2], {"body.0": torch.from_numpy(spot)}))
    for role in ("button", "img"):
        said = page.get_by_role(role, name="body.0: attention from 0 to 0.5, highest at the top right")
        expect(said.first).to_be_visible()
        said.first.click()


def test_what_was_chosen_is_remembered_and_what_is_not_ours_is_ignored(mount, face):
    value = payload(*face[:2], face[2].alphas)
    page = mount(value)
    page.locator("[name=scale]").focus()
    page.locator("[name=scale]").select_option("own")
    expect(page.locator("[name=scale]")).to_be_focused()  # what is drawn anew leaves the keyboard where it is
    page.locator(".atlas [data-unit='body.1']").click()
    page.locator("dialog [name=colors]").select_option("cividis")
    kept = page.evaluate("localStorage['sparnet-maps']")
    assert json.loads(kept) == {"colors": "cividis", "scale": "own", "unit": "body.1"}
    page = mount(value, kept)
    expect(page.locator("[name=scale]")).to_have_value("own")
    expect(page.locator(".atlas [aria-current=true]")).to_have_attribute("data-unit", "body.1")
    for other in ("not JSON", "null", '{"colors": "constructor", "scale": "constructor", "unit": 3}'):
        page = mount(value, other)
        expect(page.locator("[name=scale]")).to_have_value("most")


def test_unit_and_scale_are_remembered_from_one_tab_to_the_other(mount, face):
    value = payload(*face[:2], face[2].alphas)
    look = {"value": {"units": list(face[2].alphas), "unit": "body.0", "scale": "one"}}
    page = mount(value)
    start(page, look, LOOK)
    expect(page.locator("[name=scale]")).to_have_value("one")  # nobody chose yet: each tab keeps its own
    start(page, {"value": value})
    expect(page.locator("[name=scale]")).to_have_value("most")
    page.locator("[name=scale]").select_option("own")
    page.locator(".atlas [data-unit='body.1']").click()
    page.locator("dialog [name=colors]").select_option("cividis")
    start(page, look, LOOK)
    expect(page.locator("[name=scale]")).to_have_value("own")
    expect(page.locator("[name=unit]")).to_have_value("body.1")
    page.locator("[name=scale]").select_option("one")
    page.locator("[name=unit]").select_option("body.0")
    start(page, {"value": value})
    expect(page.locator("[name=scale]")).to_have_value("one")
    expect(page.locator(".atlas [aria-current=true]")).to_have_attribute("data-unit", "body.0")
    assert json.loads(page.evaluate("localStorage['sparnet-maps']"))["colors"] == "cividis"


def test_a_link_chooses_the_unit(mount, face):
    page = mount(payload(*face[:2], face[2].alphas), unit="decoder.0")
    current = page.locator(".atlas [aria-current=true]")
    expect(current).to_have_attribute("data-unit", "decoder.0")
    given(page, "unit", "nowhere.7")
    expect(current).to_have_attribute("data-unit", "decoder.0")
    given(page, "unit", "body.0")
    expect(current).to_have_attribute("data-unit", "body.0")


def test_features_are_asked_for_once_and_those_of_another_face_are_not_shown(mount, face):
    *_, trace = face
    page = mount(payload(*face[:2], trace.alphas, "this"))
    page.locator(".atlas [data-unit='encoder.0']").click()
    page.get_by_role("button", name="Features").click()
    expect(page.get_by_text("once more")).to_be_visible()
    given(page, "features", strengths(trace.features, "another"))
    expect(page.get_by_text("once more")).to_be_visible()
    given(page, "features", {"token": "this", "error": "This result was deleted."})
    expect(page.get_by_text("This result was deleted.")).to_be_visible()
    given(page, "features", strengths(trace.features, "this"))
    assert page.evaluate("sent") == [["select", {"features": True}]]
    page.locator("dialog [name=opacity]").fill("0")
    strength = feature_strength(trace.features["encoder.0"])
    grey = np.repeat(np.round(255 * strength / strength.max()), 2, 0).repeat(2, 1)
    assert np.abs(large(page) - grey[..., None]).max() <= 1
    given(page, "value", payload(*face[:2], trace.alphas, "next"))
    page.locator(".atlas [data-unit='encoder.0']").click()
    expect(page.get_by_role("button", name="Grey")).to_have_attribute("aria-pressed", "true")


def test_channel_attention_is_bars_and_no_attention_a_sentence(mount):
    degraded, restored, trace = traced(attention="channel")
    page = mount(payload(degraded, restored, trace.alphas))
    expect(page.get_by_text("whole channels, not places")).to_be_visible()
    canvas = page.locator(".atlas [data-unit='body.0'] canvas")
    filled = canvas.evaluate("""canvas => { const { width, height } = canvas; const data = canvas.getContext("2d")
        .getImageData(0, 0, width, height).data; return [...Array(width).keys()].map(x => [...Array(height).keys()]
        .filter(y => data[4 * (y * width + x) + 3]).length / height); }""")
    gates = np.sort(trace.alphas["body.0"].numpy().ravel())[::-1]
    top = max(alpha.max().item() for alpha in trace.alphas.values())
    assert np.abs(np.array(filled) - gates / top).max() <= 1 / len(gates)
    page = mount(payload(degraded, restored, {}))
    expect(page.get_by_text("This model has no attention maps")).to_be_visible()


def test_it_fits_its_column_and_a_phone(mount, face):
    page = mount(payload(*face[:2], face[2].alphas))
    page.add_style_tag(content="#maps { width: 392px }")
    assert page.locator(".beside").bounding_box()["height"] <= 620
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(".beside .all").click()
    box = page.locator("dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert page.locator("dialog").evaluate("node => node.scrollWidth <= node.clientWidth")
    page.set_viewport_size({"width": 1000, "height": 900})


def test_gradio_carries_the_event_and_the_answer(browser, face, tmp_path):
    *_, trace = face
    with gr.Blocks(analytics_enabled=False) as blocks:
        value = payload(*face[:2], trace.alphas, "token")
        maps = gr.HTML(value, html_template="", js_on_load=SCRIPTS, elem_id="maps", features=None, unit="body.1")
        maps.select(lambda: gr.HTML(features=strengths(trace.features, "token")), None, maps)
    address = blocks.launch(prevent_thread_lock=True, quiet=True, css_paths=list(CSS))[1]
    with watched(browser, address) as page:
        expect(page.locator(".atlas [aria-current=true]")).to_have_attribute("data-unit", "body.1", timeout=PATIENCE)
        page.locator(".atlas [data-unit='body.0']").click()
        page.get_by_role("button", name="Features").click()
        expect(page.locator(".large canvas")).to_have_count(2)  # the features and the map; the dialog is still open
    blocks.close(verbose=False)
