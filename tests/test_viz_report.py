"""The report of one face: complete, the same numbers as in the files, no network, nothing from a file's name runs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from sparnet import SPARNet, SPARNetConfig, images
from viz import cli, report

FACE = np.ascontiguousarray(skimage.data.astronaut()[8:216, 120:328])
HOSTILE = "<img src=x onerror=alert(1)>&'.png"  # a slash cannot be in a file's name
SMALL = SPARNetConfig(
    size=32, smallest=16, min_channels=8, max_channels=8, body_depth=0, bottleneck=32, hourglass_channels=8
)
UNITS = [plan.name for plan in SMALL.units()]
SKIPPED = ("query", "faithfulness", "effect", "sanity")  # the slow ones: that they can be shown is tested on their own


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A report of a face with a hostile name, the model beside it."""
    path = tmp_path_factory.mktemp("report")
    torch.manual_seed(0)
    SPARNet(SMALL).save_pretrained(path / "model")
    images.save_png(FACE, path / HOSTILE)
    make(path / HOSTILE, path / "model", path / "out", *(part for name in SKIPPED for part in ("--skip", name)))
    return path / "out"


def make(face, model, out, *options):
    with pytest.raises(SystemExit) as caught:
        cli.main(["report", str(face), "--whole", "--model", str(model), "--out", str(out), *map(str, options)])
    assert caught.value.code == 0


@pytest.fixture(scope="module")
def html(folder) -> str:
    return (folder / report.PAGE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def opened(browser, folder):
    """opened(width) -> the page; at the end nothing may have gone wrong or outside."""
    problems, pages = [], []

    def opened(width, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else problems.append(one.url))
        page.goto((folder / report.PAGE).as_uri())
        return page

    yield opened
    for page in pages:
        page.close()
    assert problems == []


@pytest.fixture(scope="module")
def page(opened):
    return opened(1280)


def test_the_page_holds_everything_and_a_hostile_name_is_text(html):
    page = html[: html.index("<script>")]
    assert re.findall(r'(?:src|href)="(?!data:|#|[\w.-]+\.(?:json|npz|png|pdf)")', page) == []
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;&#39;.png" in page


def test_every_instrument_is_there_with_its_files_or_its_reason(html, folder):
    there = re.findall(r'<section id="([\w-]+)">', html)
    assert there == ["atlas", "gate", "regions", "ablation", "stability", "left-out"]
    left_out = html[html.index('<section id="left-out">') :]
    assert "one attention map a unit" in left_out
    assert "give --other-model or --other-face" in left_out
    for name in ("atlas", "gate", "ablation", "regions", "stability"):
        finding = json.loads((folder / f"{name}.json").read_text())
        assert finding["meaning"].replace("'", "&#39;") in html
        assert finding["provenance"]["command"] == "report"
        assert all(f'href="{name}.{kind}"' in html for kind in ("json", "npz", "png"))
    assert not (folder / "query.json").exists()
    film = Image.open(folder / report.FILM)
    assert film.n_frames == len(UNITS)


def test_pointing_at_a_place_shows_every_maps_value_there(page, folder):
    stages = page.locator("#atlas .stage")
    assert stages.count() == 3 + len(UNITS)  # degraded, restored, sharp
    x, y = 0.72, 0.3
    box = stages.nth(4).bounding_box()
    stages.nth(4).hover(position={"x": x * box["width"], "y": y * box["height"]})
    shown = page.locator("#atlas output").all_inner_texts()[3:]
    with np.load(folder / "atlas.npz") as arrays:
        for unit, text in zip(UNITS, shown, strict=True):
            side = arrays[unit].shape[-1]
            assert float(text) == pytest.approx(arrays[unit][0, int(y * side), int(x * side)], rel=0.006)
    rings = page.locator("#atlas .ring")
    assert {ring.evaluate("e => e.style.display") for ring in rings.all()} == {"block"}
    assert float(rings.first.evaluate("e => parseFloat(e.style.left)")) == pytest.approx(72, abs=1)


def test_units_can_be_chosen_and_charts_have_the_files_numbers(page, folder):
    page.locator("#gate .choice button", has_text=UNITS[0]).click()
    assert page.locator("#gate .choice [aria-pressed=true]").all_inner_texts() == [UNITS[0]]
    with np.load(folder / "gate.npz") as arrays:
        low, high = arrays[f"{UNITS[0]}/x_in"].min(), arrays[f"{UNITS[0]}/x_in"].max()
    label = page.locator("#gate canvas[aria-label^=x_in]").get_attribute("aria-label")
    assert [float(number) for number in re.findall(r"[\d.e+-]+", label)[-2:]] == pytest.approx([low, high], rel=0.006)
    with np.load(folder / "ablation.npz") as arrays:
        for i, mode in enumerate(arrays["modes"]):
            page.locator("#ablation .js-plotly-plot").first.wait_for()
            bars = page.evaluate(f"document.querySelector('#ablation .chart > div').data[{i}]")
            assert {"zero": "0", "one": "1", "mean": "mean", "shuffle": "shuffled"}[mode] in bars["name"]
            shown = dict(zip(bars["x"], bars["y"], strict=True))
            assert [shown[unit] for unit in arrays["units"]] == pytest.approx(arrays["rms"][:, i])
        strongest = dict(zip(arrays["units"].tolist(), arrays["rms"].max(axis=1), strict=True))
        assert bars["x"] == sorted(strongest, key=lambda unit: -strongest[unit])


def test_it_fits_a_phone_and_the_dark(opened):
    page = opened(400, "dark")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.querySelector('section')).backgroundColor]"
    )
    assert sum(map(int, re.findall(r"\d+", ink)[:3])) > 600 > 150 > sum(map(int, re.findall(r"\d+", paper)[:3]))
    page.locator("#atlas .js-plotly-plot").first.wait_for()
    assert page.evaluate("document.querySelector('#atlas .chart > div').layout.font.color") == ink


def test_the_other_instruments_can_be_shown(folder, tmp_path, browser):
    torch.manual_seed(1)
    SPARNet(SPARNetConfig(**SMALL.__dict__ | {"attention": "3d"})).save_pretrained(tmp_path / "deep")
    (tmp_path / "faces").mkdir()
    for i, face in enumerate((FACE, FACE[::-1], 255 - FACE)):
        images.save_png(np.ascontiguousarray(face), tmp_path / "faces" / f"{i}.png")
    (tmp_path / "run" / "attention").mkdir(parents=True)
    for step in range(3):
        np.savez(
            tmp_path / f"run/attention/step-{step}.npz", degraded=FACE, restored=FACE, unit=np.full((4, 4), step / 4)
        )
    names = ("channels", "agreement", "population", "faithfulness", "sanity", "query", "training")
    only = [part for name in names for part in ("--only", name)]
    more = ["--other-model", folder.parent / "model", "--faces", tmp_path / "faces", "--run", tmp_path / "run"]
    make(tmp_path / "faces" / "0.png", tmp_path / "deep", tmp_path / "out", *only, *more)
    page = browser.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((tmp_path / "out" / report.PAGE).as_uri())
    ids = page.locator("section").evaluate_all("all => all.map(section => section.id)")
    assert sorted(ids) == sorted(names)
    for name in names:
        assert page.locator(f"#{name} canvas").count() > 0 or name == "sanity"
        page.locator(f"#{name} .js-plotly-plot").first.wait_for()
    along = page.locator("#training .along")
    assert along.inner_text() == "step 2"  # begins with the last
    along.locator("input").evaluate("range => { range.value = 1; range.dispatchEvent(new Event('input')); }")
    assert along.inner_text() == "step 1"
    assert page.locator("#training canvas[role=img]").get_attribute("aria-label").endswith("from 0.25 to 0.25")
    assert problems == []
    page.close()
