"""One face by several models: the numbers, the strip, /compare in the real client and the tab in a real browser."""

import io
import json
from pathlib import Path

import gradio_client.exceptions
import numpy as np
import pytest
import skimage.data
import torch
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import expect
from served import served

from sparnet import Restorer, SPARNet, SPARNetConfig, load_model
from sparnet.attention import mean_attention
from sparnet.checkpoints import DEFAULT_MODEL, MODELS
from sparnet.faces import Face
from sparnet.metrics import psnr
from viz.compare import Column, OneFace, best, comparison_strip, restored_column, side_by_side
from viz.tabs import models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio.queueing")  # its use of pandas

ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")
FACE, OTHER = Face(np.array([180.0, 70, 265, 180])), Face(np.array([170.0, 90, 240, 170]))
BLIND = SPARNetConfig(  # as SPARNetHD is, but small: another size, and no one size that faces were reduced to
    size=256, smallest=32, min_channels=8, max_channels=16, hourglass_channels=8, bottleneck=16,
    body_depth=1, norm="instance", degraded_size=None,
)  # fmt: skip
NOT_HERE = "sparnet"  # known, but not bundled
BUNDLED = [name for name, entry in MODELS.items() if entry.bundled]
PATIENCE = 60_000  # milliseconds, for a busy machine


@pytest.fixture(scope="module")
def blind():
    torch.manual_seed(0)
    return SPARNet(BLIND).eval()


@pytest.fixture(scope="module")
def calls():
    """The sizes of the faces that any network was given while the server runs."""
    return []


@pytest.fixture(scope="module")
def server(tmp_path_factory, blind, calls):
    """The address of the page, whose networks' calls are counted."""
    trace = Restorer.trace

    def counted(self, degraded, features=False):
        calls.append(len(degraded))
        return trace(self, degraded, features)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Restorer, "trace", counted)
        with served(tmp_path_factory.mktemp("page"), blind, [FACE, OTHER]) as address:
            yield address


@pytest.fixture(scope="module")
def offered(server):
    """The name of the stand-in for SPARNetHD."""
    return models.first_model()


@pytest.fixture
def one():
    return OneFace(skimage.data.astronaut(), FACE, "simulate")


def plain(value: int, side: int = 128) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_a_picture_identical_to_the_original_is_called_that_and_its_facts_are_plain_json():
    flat = np.full((128, 128, 3), 90, np.uint8)  # what bicubic gives back exactly
    face = OneFace(flat, Face(np.array([0.0, 0, 128, 128])), "simulate", whole=True)
    bicubic = next(column for column in side_by_side(face, []) if column.name == "Bicubic")
    assert bicubic.lines()[-1] == "identical to the original"
    assert bicubic.facts()["identical"] is True
    json.dumps(bicubic.facts(), allow_nan=False)


def test_every_model_is_given_the_same_sixteen_by_sixteen_pixels(one):
    small = Image.fromarray(one.crop(128)).resize((16, 16), Image.Resampling.BICUBIC)
    for size in (128, 256):
        enlarged = small.resize((size, size), Image.Resampling.BICUBIC)
        assert np.array_equal(one.degraded(size), np.array(enlarged))


def test_as_it_is_every_model_is_given_the_same_place_of_the_photo():
    one = OneFace(skimage.data.astronaut(), FACE, "as_is")
    reduced = np.array(Image.fromarray(one.degraded(256)).resize((128, 128), Image.Resampling.BOX))
    assert np.abs(reduced.astype(int) - one.degraded(128)).mean() < 2


def test_a_model_shows_what_restoring_the_photo_with_it_gives(one):
    restorer = Restorer(load_model(DEFAULT_MODEL))
    column = restored_column(DEFAULT_MODEL, restorer, one)
    usual = restorer(one.photo, faces=[one.face]).faces[0]
    assert np.array_equal(column.picture, usual.restored)
    assert column.attention.mean() == pytest.approx(
        np.mean([float(alpha.mean()) for alpha in usual.alphas.values()]), abs=1e-6
    )
    assert (column.pixels, column.parameters) == (128, sum(w.numel() for w in restorer.model.parameters()))
    assert column.seconds > 0


def test_all_columns_get_the_largest_models_size_and_are_scored_against_the_original(one, blind):
    small = Column("small", one.crop(128), pixels=128, parameters=1, seconds=0.1)
    failed = Column("failed", error="It is not here.")
    columns = side_by_side(one, [small, failed, restored_column("blind", Restorer(blind), one)])
    assert [column.name for column in columns] == ["Original", "Bicubic", "small", "failed", "blind"]
    assert {column.picture.shape for column in columns if column.picture is not None} == {(256, 256, 3)}
    original, bicubic, enlarged, still_failed, _ = columns
    assert np.array_equal(original.picture, one.crop(256))
    assert np.array_equal(bicubic.picture, one.degraded(256))
    by_pillow = Image.fromarray(small.picture).resize((256, 256), Image.Resampling.BICUBIC)
    assert np.array_equal(enlarged.picture, np.array(by_pillow))
    assert enlarged.psnr == pytest.approx(psnr(np.array(by_pillow), one.crop(256)))
    assert enlarged.psnr > bicubic.psnr
    assert (original.psnr, still_failed) == (None, failed)
    assert best(columns) == "small"


def test_as_it_is_there_is_no_truth_and_nothing_is_scored():
    one = OneFace(skimage.data.astronaut(), FACE, "as_is")
    models = [Column(name, plain(value), 128, 1, 0.1) for name, value in (("a", 1), ("b", 2))]
    columns = side_by_side(one, [*models, Column("c", error="No.")])
    assert [column.name for column in columns] == ["Bicubic", "a", "b", "c"]
    assert all(column.psnr is None and column.ssim is None for column in columns)
    assert best(columns) == "b"


def test_bicubic_is_never_what_a_model_is_chosen_for_even_if_it_scores_higher():
    bicubic = Column("Bicubic", plain(1), psnr=30.0, ssim=0.9)
    models = [Column(name, plain(2), 128, 1, 0.1, psnr=psnr) for name, psnr in (("a", 20.0), ("b", 25.0), ("c", 24.0))]
    assert best([bicubic, *models]) == "b"
    assert best([bicubic, Column("d", error="No.")]) == "Bicubic"


def test_mean_attention_weighs_every_unit_the_same_whatever_its_maps_size():
    small, large = torch.rand(1, 3, 2, 2), torch.rand(1, 1, 4, 4)
    expected = (np.kron(small[0].mean(0).numpy(), np.ones((2, 2))) + large[0, 0].numpy()) / 2
    assert np.allclose(mean_attention({"encoder.0": small, "decoder.0": large}), expected)
    assert mean_attention({}) is None


@pytest.mark.parametrize(("side", "panel"), [(128, 256), (320, 320)])
def test_the_strip_shows_each_picture_whole_in_order_and_nothing_runs_into_another_column(side, panel):
    greys = [40, 90, 200]
    names = ["Bicubic", "somebody-with-a-long-name/a-model-with-a-name-of-ninety-six-letters-as-the-hub-allows", "c"]
    columns = [Column(name, plain(grey, side), side, 10**6, 0.5) for name, grey in zip(names, greys, strict=True)]
    columns.insert(1, Column("failed", error="It is not here. " * 20 + "https://example.org/" + "x" * 200))
    strip = comparison_strip(columns, "A title")
    lefts = []
    for grey in greys:
        rows, places = np.where((strip == grey).all(2))
        assert (np.ptp(rows) + 1, np.ptp(places) + 1, len(rows)) == (panel, panel, panel**2)
        lefts.append(places.min())
    assert lefts == sorted(lefts)
    for left in lefts[1:]:
        assert (strip[:, left - 8 : left] == 255).all()  # between columns
    assert (strip[:, -10:] == 255).all()


def test_the_strip_has_attention_on_one_scale_only_where_a_model_has_it():
    columns = [Column("a", plain(9), attention=np.zeros((4, 4), np.float32)), Column("b", plain(9))]
    darkest = (68, 1, 84)  # viridis at 0
    assert (comparison_strip(columns, "") == darkest).all(2).sum() == 128**2
    without = comparison_strip(columns[1:], "")
    assert not (without == darkest).all(2).any()
    assert len(without) < len(comparison_strip(columns, "")) - 128


def test_the_client_compares_models_and_a_failed_one_has_its_message(server, offered):
    models = [DEFAULT_MODEL, NOT_HERE, offered, DEFAULT_MODEL]
    strip, facts = Client(server, verbose=False).predict(
        handle_file(ASTRONAUT), models, "simulate", api_name="/compare"
    )
    columns = {column["name"]: column for column in facts["columns"]}
    assert list(columns) == ["Original", "Bicubic", DEFAULT_MODEL, NOT_HERE, offered]
    assert "is not bundled" in columns[NOT_HERE]["error"]
    assert [columns[name]["pixels"] for name in ("Bicubic", DEFAULT_MODEL, offered)] == [16, 128, 256]
    assert columns[DEFAULT_MODEL]["psnr"] > columns["Bicubic"]["psnr"] > 15
    assert 0 < columns["Bicubic"]["ssim"] < 1
    assert columns["Original"]["psnr"] is None
    assert facts["face"] == FACE.box.tolist()
    assert facts["notes"] == ["The faces of the test, always."]
    with Image.open(strip) as picture:
        assert picture.format == "PNG"
        assert picture.width > 5 * 256


def test_the_client_may_ask_for_another_face_as_it_is(server, offered):
    _, facts = Client(server, verbose=False).predict(
        handle_file(ASTRONAUT), [DEFAULT_MODEL], "as_is", face=2, api_name="/compare"
    )
    assert [column["name"] for column in facts["columns"]] == ["Bicubic", DEFAULT_MODEL]
    assert facts["face"] == OTHER.box.tolist()
    assert facts["columns"][1]["psnr"] is None
    assert any(note.startswith(f"{DEFAULT_MODEL}: Face 2 is about") for note in facts["notes"])


@pytest.mark.parametrize(
    ("models", "mode", "face", "told"),
    [
        ([], "simulate", 1, "0 models are chosen"),
        ([f"me/{i}" for i in range(7)], "simulate", 1, "7 models are chosen"),
        ([DEFAULT_MODEL], "sharpen", 1, "is not a mode"),
        ([DEFAULT_MODEL], "simulate", 3, "There is no face 3; 2 found"),
    ],
)
def test_the_clients_mistakes_are_answered_by_sentences(server, models, mode, face, told):
    with pytest.raises(gradio_client.exceptions.AppError, match=told):
        Client(server, verbose=False).predict(handle_file(ASTRONAUT), models, mode, face, api_name="/compare")


def test_the_tab_compares_and_the_slider_goes_between_any_two_without_the_network(server, offered, calls, browser):
    page = browser.new_page(viewport={"width": 1360, "height": 1000})
    page.set_default_timeout(PATIENCE)
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(server)
    page.get_by_role("tab", name="Compare").click()
    tab = page.locator("#compare-tab")
    tab.locator("#compare-models input").click()
    page.get_by_role("option", name=f"{NOT_HERE} (weights").click()
    tab.locator("#compare-models input").press("Escape")
    tab.locator("#compare-photo-input input[type=file]").set_input_files(ASTRONAUT)
    here = [offered, *BUNDLED]
    names = ["Original", "Bicubic", *here, NOT_HERE]
    expect(tab.locator("#columns h3")).to_have_text(names, timeout=PATIENCE)
    expect(tab.locator("#columns .failed")).to_contain_text("is not bundled")
    expect(tab.locator("#columns .attention")).to_have_count(len(here))
    expect(tab.locator("#compare-status")).to_contain_text(f"{len(here)} of {len(here) + 1}")

    def picture(source: str) -> np.ndarray:
        return np.array(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"))

    def slider() -> list[np.ndarray]:
        return [picture(tab.locator("#compare-slider img").nth(i).get_attribute("src")) for i in (0, 1)]

    one = OneFace(skimage.data.astronaut(), FACE, "simulate")
    bicubic, model = slider()
    assert np.array_equal(bicubic, one.degraded(256))
    before = len(calls)
    assert before >= len(here)
    for side, name in (("left", offered), ("right", "Original")):
        tab.locator(f"#compare-{side} input").click()
        tab.locator(f"#compare-{side}").get_by_role("option", name=name, exact=True).click()
        expect(tab.locator(f"#compare-{side}").get_by_role("option")).to_have_count(0)
    expect(tab.locator("#compare-slider")).to_contain_text(f"{offered} | Original", timeout=PATIENCE)
    left, right = slider()
    assert np.array_equal(right, one.crop(256))
    assert not np.array_equal(left, bicubic)
    assert not np.array_equal(left, model)
    assert len(calls) == before

    tab.get_by_role("button", name="Face 2").click()
    expect(tab.locator("#columns small").first).not_to_have_text(f"{one.pixels}x{one.pixels} in the photo")
    _, right = slider()
    assert np.array_equal(right, OneFace(one.photo, OTHER, "simulate").crop(256))
    assert len(calls) == before + len(here)
    with page.expect_download() as download:
        tab.locator("#download-strip").click()
    assert np.array(Image.open(download.value.path())).shape[1] > len(names) * 256
    page.close()
    assert problems == []
