"""One face by several models: the numbers, the strip, /compare in the real client and the tab in a real browser."""

import io
import json
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import gradio_client.exceptions
import numpy as np
import pytest
import skimage.data
import torch
from gradio_client import Client, handle_file
from matplotlib import colormaps
from PIL import Image
from playwright.sync_api import expect
from served import PATIENCE, quiet, served, watched

from sparnet import Restorer, SPARNet, SPARNetConfig, load_model
from sparnet.attention import mean_map
from sparnet.checkpoints import DEFAULT_MODEL
from sparnet.errors import UserError
from sparnet.faces import Face
from sparnet.images import degrade
from sparnet.metrics import psnr, ssim
from viz.compare import Column, OneFace, comparison_strip, counterpart, most_contrast, restored_column, side_by_side
from viz.tabs import compare, models, serving
from viz.views import BLUE, ORANGE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio.queueing")  # its use of pandas

ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")
FACE, OTHER = Face(np.array([180.0, 70, 265, 180])), Face(np.array([170.0, 90, 240, 170]))
SMALL = SPARNetConfig(
    size=64, smallest=16, min_channels=8, max_channels=8, body_depth=3, bottleneck=8, hourglass_channels=8,
    degraded_size=16,
)  # fmt: skip
BLIND = SPARNetConfig(  # as SPARNetHD is, but small: another size, and no one size that faces were reduced to
    size=128, smallest=16, min_channels=8, max_channels=8, body_depth=4, bottleneck=8, hourglass_channels=8,
    norm="instance", degraded_size=None,
)  # fmt: skip
BROKEN = replace(SMALL, hourglass_channels=16)
NOT_HERE = "sparnet"  # known, but not bundled


def network(config: SPARNetConfig) -> SPARNet:
    torch.manual_seed(0)
    return SPARNet(config).eval()


@pytest.fixture(scope="module")
def blind():
    return network(BLIND)


@pytest.fixture(scope="module")
def calls():
    """The sizes of the faces that any network was given while the server runs."""
    return []


@pytest.fixture(scope="module")
def server(tmp_path_factory, blind, calls):
    """The address of the page, whose networks' calls are counted; the model `broken` always fails."""
    trace, others = Restorer.trace, {"blind": blind, "broken": network(BROKEN)}

    def counted(self, degraded, features=False):
        if self.model.config == BROKEN:
            raise UserError("It is broken.")
        calls.append(len(degraded))
        return trace(self, degraded, features)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Restorer, "trace", counted)
        patch.setattr(compare, "models_here", lambda: list(models._offered))
        with served(tmp_path_factory.mktemp("page"), network(SMALL), [FACE, OTHER], **others) as address:
            yield address


@pytest.fixture
def face():
    return OneFace(skimage.data.astronaut(), FACE, "simulate")


def test_what_is_known_of_a_face_is_not_computed_again_and_keeps_its_colour(face, monkeypatch):
    asked = []

    def failing(name):
        asked.append(name)
        raise UserError("No.")

    monkeypatch.setattr(serving, "restorer", failing)
    known = {"b": Column("b", BLUE, plain(1), seconds=0.1)}
    *_, (columns, _) = compare._restored(face, ["a", "b", "c"], known)
    assert (columns[1], asked) == (known["b"], ["a", "c"])
    assert len({column.color for column in columns}) == 3


def plain(value: int, side: int = 128) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_a_picture_identical_to_the_original_is_called_that_and_its_facts_are_plain_json():
    flat = np.full((128, 128, 3), 90, np.uint8)  # what bicubic gives back exactly
    face = OneFace(flat, Face(np.array([0.0, 0, 128, 128])), "simulate", whole=True)
    bicubic = next(column for column in side_by_side(face, []) if column.name == "Bicubic")
    assert bicubic.lines()[-1] == "identical to the original"
    assert bicubic.facts()["identical"] is True
    json.dumps(bicubic.facts(), allow_nan=False)


def test_every_model_that_enlarges_is_given_the_same_sixteen_by_sixteen_pixels(face):
    small = Image.fromarray(face.crop(128)).resize((16, 16), Image.Resampling.BICUBIC)
    for size in (128, 256):
        enlarged = small.resize((size, size), Image.Resampling.BICUBIC)
        assert np.array_equal(face.degraded(size, 16), np.array(enlarged))


def test_as_it_is_models_are_given_the_same_place_of_the_photo(face):
    reduced = np.array(Image.fromarray(face.degraded(256, None)).resize((128, 128), Image.Resampling.BOX))
    assert np.abs(reduced.astype(int) - face.degraded(128, None)).mean() < 2


def test_a_model_is_only_given_what_it_is_made_for():
    photo = skimage.data.astronaut()
    tiny = Face(np.array([180.0, 70, 192, 85]))  # about as small as a model for 16x16 takes it
    for mode, face, small, given in (
        ("simulate", FACE, 16, 16),
        ("simulate", FACE, 32, 32),
        ("simulate", FACE, None, None),
        ("as_is", FACE, None, None),
        ("as_is", FACE, 16, 16),
        ("as_is", tiny, 16, None),
    ):
        assert OneFace(photo, face, mode).reduced_to(small) == given


def test_a_model_shows_what_restoring_the_photo_with_it_gives(face):
    restorer = Restorer(load_model(DEFAULT_MODEL))
    column = restored_column(DEFAULT_MODEL, restorer, face)
    usual = restorer(face.photo, faces=[face.face]).faces[0]
    assert np.abs(column.picture.astype(int) - usual.restored).max() <= 1  # the engine may be built between the two
    assert list(column.maps) == list(usual.alphas)
    assert all(np.abs(column.maps[unit] - mean_map(alpha)).max() < 1e-4 for unit, alpha in usual.alphas.items())
    assert (column.pixels, column.parameters) == (128, sum(w.numel() for w in restorer.model.parameters()))
    assert column.seconds > 0


def test_a_model_that_saw_the_sharp_face_is_not_scored_and_says_so(face, blind):
    column = restored_column("blind", Restorer(blind), face)
    usual = Restorer(blind).restore_face(face.photo, FACE, "as_is").restored
    assert np.abs(column.picture.astype(int) - usual).max() <= 1
    assert (column.psnr, column.ssim, column.reduced_to) == (None, None, None)
    assert column.lines()[0] == "given the sharp face: not scored"


def test_scores_are_at_one_size_whoever_else_is_compared(face):
    columns = side_by_side(face, [restored_column("small", Restorer(network(SMALL)), face)])
    assert [column.name for column in columns] == ["Original", "Bicubic", "small"]
    truth = face.crop(128)
    for column in columns[1:]:
        at_one_size = np.array(Image.fromarray(column.picture).resize((128, 128), Image.Resampling.BICUBIC))
        assert (column.psnr, column.ssim) == (psnr(at_one_size, truth), ssim(at_one_size, truth))
    assert np.array_equal(columns[1].picture, degrade(truth, 16))
    assert columns[0].psnr is None


def test_as_it_is_there_is_no_truth_and_nothing_is_scored(face, blind):
    face = replace(face, mode="as_is")
    small = restored_column("small", Restorer(network(SMALL)), face)
    alone = side_by_side(face, [restored_column("blind", Restorer(blind), face)])
    assert [column.name for column in alone] == ["Original", "blind"]
    assert alone[1].given == "the face as it is"
    columns = side_by_side(face, [small])
    assert [column.name for column in columns] == ["Original", "Bicubic", "small"]
    assert [column.reduced_to for column in columns] == [None, 16, 16]
    assert all(column.psnr is None for column in (*alone, *columns))


def test_a_face_as_small_as_what_models_are_given_is_no_truth():
    tiny = OneFace(skimage.data.astronaut()[:16, :16], Face(np.array([0.0, 0, 16, 16])), "simulate", whole=True)
    assert all(column.psnr is None for column in side_by_side(tiny, []))


@pytest.mark.parametrize(
    ("unit", "depths", "expected"),
    [
        ("encoder.2", (3, 6, 3), "encoder.2"),
        ("body.0", (3, 10, 3), "body.0"),
        ("body.5", (3, 10, 3), "body.9"),
        ("body.2", (3, 11, 3), "body.4"),
        ("decoder.1", (3, 6, 5), "decoder.2"),
        ("body.3", (3, 1, 3), "body.0"),
        ("body.3", (3, 0, 3), None),
    ],
)
def test_the_closest_unit_is_of_the_same_group_and_relative_depth(unit, depths, expected):
    def units(depths):
        groups = zip(("encoder", "body", "decoder"), depths, strict=True)
        return [f"{group}.{i}" for group, depth in groups for i in range(depth)]

    assert counterpart(unit, units((3, 6, 3)), units(depths)) == expected


def test_the_units_of_the_highest_contrast_come_in_forward_order():
    maps = {f"body.{i}": np.linspace(0.5 - spread, 0.5 + spread, 9) for i, spread in enumerate((0.3, 0, 0.4, 0.1, 0.2))}
    assert most_contrast(maps) == ["body.0", "body.2", "body.4"]


@pytest.mark.parametrize(("side", "panel"), [(128, 256), (320, 320)])
def test_the_strip_shows_each_picture_whole_in_order_and_nothing_runs_into_another_column(side, panel):
    greys = [40, 90, 200]
    names = ["Bicubic", "somebody-with-a-long-name/a-model-with-a-name-of-ninety-six-letters-as-the-hub-allows", "c"]
    columns = [
        Column(name, picture=plain(grey, side), pixels=side, parameters=10**6, seconds=0.5)
        for name, grey in zip(names, greys, strict=True)
    ]
    columns.insert(1, Column("failed", error="It is not here. " * 20 + "https://example.org/" + "x" * 200))
    strip = comparison_strip(columns, "A title")
    lefts = []
    for grey in greys:
        rows, places = np.where((strip == grey).all(2))
        assert (np.ptp(rows) + 1, np.ptp(places) + 1, len(rows)) == (panel, panel, panel**2)
        lefts.append(places.min())
    assert lefts == sorted(lefts)
    for left in lefts[1:]:
        assert (strip[:, left - 12 : left - 4] == 255).all()  # between frames
    assert (strip[:, -10:] == 255).all()


def test_the_strip_has_each_columns_colour_and_maps_on_one_scale_only_where_a_model_has_them():
    flat = np.full((4, 4), 0.25, np.float32)
    columns = [
        Column("a", BLUE, plain(9), maps={"body.0": flat, "body.1": 2 * flat}),
        Column("b", ORANGE, plain(9), maps={"body.0": 2 * flat}),
    ]
    strip = comparison_strip(columns, "")

    def count(color: tuple[int, ...]) -> int:
        return int((strip == color).all(2).sum())

    for color in (BLUE, ORANGE):
        rgb = tuple(bytes.fromhex(color[1:]))
        assert count(rgb) == 264**2 - 256**2
    table = colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    half, whole = (np.floor(0.6 * table[level] + 0.4 * 9 + 0.5).astype(int) for level in (128, 255))
    assert len(comparison_strip([Column("c", picture=plain(9))], "")) < len(strip) - 80
    assert (count(tuple(half)), count(tuple(whole))) == (80**2, 3 * 80**2)


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False)


def test_the_client_compares_models_and_a_failed_one_has_its_message(client):
    strip, facts = client.predict(
        handle_file(ASTRONAUT), ["model", NOT_HERE, "blind", "model"], "simulate", api_name="/compare"
    )
    columns = {column["name"]: column for column in facts["columns"]}
    assert list(columns) == ["Original", "Bicubic", "model", NOT_HERE, "blind"]
    assert "is not bundled" in columns[NOT_HERE]["error"]
    assert [columns[name]["pixels"] for name in ("Bicubic", "model", "blind")] == [16, 64, 128]
    assert [columns[name]["given"] for name in ("model", "blind")] == ["16x16 pixels", "the sharp face"]
    assert [columns[name]["reduced_to"] for name in ("model", "blind")] == [16, None]
    assert columns["Bicubic"]["psnr"] > 15
    assert 0 < columns["Bicubic"]["ssim"] < 1
    assert (columns["Original"]["psnr"], columns["blind"]["psnr"]) == (None, None)
    assert facts["face"] == FACE.box.tolist()
    assert facts["notes"] == ["The faces of the test, always."]
    with Image.open(strip) as picture:
        assert picture.format == "PNG"
        assert picture.text["Description"].startswith("Restored by model, blind:")
        assert picture.width > 5 * 256


def test_the_client_may_ask_for_another_face_as_it_is(client):
    _, facts = client.predict(handle_file(ASTRONAUT), ["blind"], "as_is", face=2, api_name="/compare")
    assert [column["name"] for column in facts["columns"]] == ["Original", "blind"]
    assert facts["face"] == OTHER.box.tolist()
    assert facts["columns"][1]["given"] == "the face as it is"


@pytest.mark.parametrize(
    ("models", "mode", "face", "told"),
    [
        ([], "simulate", 1, "0 models are chosen"),
        ([f"me/{i}" for i in range(7)], "simulate", 1, "7 models are chosen"),
        (["model"], "sharpen", 1, "is not a mode"),
        (["model"], "simulate", 3, "There is no face 3; 2 found"),
        (["broken"], "simulate", 1, "No model could restore the face. It is broken."),
    ],
)
def test_the_clients_mistakes_are_answered_by_sentences(client, models, mode, face, told):
    with pytest.raises(gradio_client.exceptions.AppError, match=told):
        client.predict(handle_file(ASTRONAUT), models, mode, face, api_name="/compare")


def test_the_opened_tab_compares_by_itself_and_two_clicked_columns_stand_in_the_slider(server, blind, calls, browser):
    with watched(browser, server) as page:
        page.get_by_role("tab", name="Compare").click()
        view = page.locator("#compare-view")
        expect(view.locator(".columns h2")).to_have_text(["Original", "Bicubic", "model", "blind", "broken"])
        expect(page.locator("#download-strip")).to_be_enabled(timeout=PATIENCE)
        expect(view.locator(".failed")).to_have_text("It is broken.")
        expect(view.get_by_text("given the sharp face: not scored")).to_be_visible()
        expect(view.locator(".map canvas[role=img]")).to_have_count(2 * 3)
        expect(view.locator(".scores dt")).to_have_text(["Bicubic", "model"] * 2)

        def slider() -> list[np.ndarray]:
            sources = view.locator(".stage img").evaluate_all("all => all.map(image => image.src)")
            return [np.array(Image.open(io.BytesIO(b64decode(source.partition(",")[2])))) for source in sources]

        face = OneFace(skimage.data.astronaut(), FACE, "simulate")
        assert np.array_equal(slider()[0], face.degraded(128, 16))
        by_blind = Restorer(blind).restore_face(face.photo, FACE, "as_is").restored
        quiet(page)
        before = len(calls)
        page.requests.clear()
        view.locator("[data-key='column blind']").click()
        view.locator("[data-key='column Original']").click()
        expect(view.locator(".stage b")).to_have_text(["blind", "Original"])
        left, right = slider()
        assert np.abs(left.astype(int) - by_blind).max() <= 1
        assert np.array_equal(right, face.crop(256))
        view.locator("[data-key='column model']").press("l")
        expect(view.locator("[data-key='column model']")).to_be_focused()
        expect(view.locator(".stage b")).to_have_text(["model", "Original"])
        colors = view.locator("figure:has([data-key^='column ']), .stage .side").evaluate_all(
            "all => all.map(part => part.style.getPropertyValue('--color'))"
        )
        assert colors[0] == colors[4] == BLUE  # the left half of the slider and the model's column
        view.locator("[data-key=slider]").press("ArrowRight")
        view.locator("select").nth(0).select_option("body.0")
        expect(view.locator(".map:has(canvas[role=img]) small").first).to_contain_text("body.0, up to")
        page.get_by_role("tab", name="Restore").click()
        page.get_by_role("tab", name="Compare").click()
        expect(view.locator(".stage b")).to_have_text(["model", "Original"])
        assert page.requests == []

        page.get_by_role("tab", name="Restore").click()
        page.get_by_role("radio", name="face 2").click(force=True)
        page.get_by_role("tab", name="Compare").click()
        pixels = replace(face, face=OTHER).pixels
        expect(view.locator(".columns figcaption").first).to_have_text(f"{pixels}x{pixels} in the photo")
        quiet(page)  # its columns come one after the other
        expect(page.locator("#download-strip")).to_be_enabled(timeout=PATIENCE)
        assert len(calls) == before + 2
        with page.expect_download() as download:
            page.locator("#download-strip").click()
        assert np.array(Image.open(download.value.path())).shape[1] > 5 * 256
