"""The report: tables that others can read in, and a page that needs no network and hides nothing."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SMALL

from sparnet import SPARNet, images
from training.data import Index, index_pictures
from training.evaluation import gallery, tables
from training.evaluation.comparison import Trial
from training.evaluation.judges import Judges
from training.evaluation.methods import Bicubic, Model, Pictures
from training.evaluation.protocols import PROTOCOLS, SWEEPS
from training.evaluation.report import evaluate

HOSTILE = "<img src=x onerror=alert(1)>&.png"  # a slash cannot be in a file's name
POINTS = np.random.default_rng(0).uniform(8, 24, (68, 2))


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "faces_1"
    folder.mkdir()
    for i, name in enumerate([*(f"{i:02}.png" for i in range(8)), HOSTILE]):
        coarse = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        images.save_png(images.resize(coarse, 32), folder / name)
    Image.open(folder / HOSTILE).convert("L").save(folder / HOSTILE)  # grey, so that it is named on the page
    (folder / "08.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def at(faces) -> Trial:
    torch.manual_seed(0)
    network = Model("a_model", SPARNet(SMALL).eval())
    found = iter(np.random.default_rng(0).normal(POINTS, 0.3, (100, 68, 2)))
    judges = Judges(landmarks=lambda face: next(found), regions=True)
    return Trial(index_pictures([faces]).items, [Bicubic(), network], 32, "bicubic4", judges)


@pytest.fixture(scope="module")
def evaluated(at, faces) -> tuple:
    return evaluate(at, index_pictures([faces]), faces.name)


@pytest.fixture(scope="module")
def scores(evaluated) -> dict:
    return evaluated[0]


@pytest.fixture(scope="module")
def html(evaluated, at) -> str:
    return gallery.page(*evaluated, at, count=4)


def test_the_terminal_says_over_how_many_and_what_is_wrong(scores):
    said = tables.terminal(scores)
    assert "faces_1: 9 of 10 faces, 8x8 -> 32x32, bicubic; PSNR and SSIM on Y" in said
    assert "unreadable (not scored), 1: 08.png" in said
    ours = scores["scores"]["a_model"]["psnr"]
    line = next(line for line in said.splitlines() if line.startswith("PSNR dB"))
    assert f"{ours.mean:.3f} [{ours.low:.3f}, {ours.high:.3f}]" in line
    assert "minus bicubic" in said
    assert "landmarks known from files beside 0 of 9 faces" in said


def test_markdown_and_latex_hold_the_same_table(scores):
    pipes = [line.strip("| ").split(" | ") for line in tables.markdown(scores).splitlines() if line.startswith("|")]
    head, rows = pipes[0], pipes[2:]
    assert (head[0], head[2], head[3]) == ("method", "PSNR dB ↑", "gain dB")
    assert len({len(line) for line in pipes}) == 1
    assert rows[1][2].startswith(f"{scores['scores']['a_model']['psnr'].mean:.3f} [")
    tex = tables.latex(scores)
    line = next(line for line in tex.splitlines() if line.strip().startswith("a\\_model"))
    cells = [cell.strip() for cell in line.removesuffix("\\\\").split("&")]
    assert cells[2:] == rows[1][2:]
    assert "faces\\_1" in tex
    assert len(re.findall("(?<!\\\\)[_%#]", tex)) == 0


def test_published_figures_stand_apart_with_the_gain_over_their_own_bicubic(scores):
    helen = scores | {"protocol": scores["protocol"] | {"name": "helen-16to128"}}
    head, rows = tables.published_table(helen)
    assert dict(zip(head, rows[-1], strict=True)) == {
        "published": "SPARNet",
        "PSNR dB": "26.59",
        "gain dB": "+3.07",  # 26.59 - 23.52
        "SSIM": "0.772",
        "landmark AUC": "0.585",
        "identity on UMD-Face": "0.555",
    }
    assert "not measured here" in tables.terminal(helen)
    assert tables.published_table(scores) is None


def test_the_contact_sheet_shows_what_was_scored(at, faces):
    sheet = gallery.contact_sheet(at, 2)
    assert sheet.shape == (20 + 2 * 36 + 4, 3 * 36 + 4, 3)
    sharp = np.array(Image.open(faces / "00.png"))
    np.testing.assert_array_equal(sheet[20:52, 76:108], sharp)


def test_the_page_holds_only_so_many_faces_and_asks_nobody(html):
    assert "4 of 9 are in this page" in html
    page = html[: html.index("<script>")]
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;.png, sharp: all pixels" in page


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a report at a width; at the end, nothing was wrong in it, and nobody was asked."""
    problems = []

    def open_at(html: str, width: int):
        file = tmp_path / "report.html"
        file.write_text(html, encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else problems.append(one.url))
        page.goto(file.as_uri())
        return page

    yield open_at
    assert problems == []


def test_in_a_browser_the_table_sorts_and_a_point_shows_its_face(open_page, html, scores):
    page = open_page(html, 1280)
    methods = page.locator("#scores tbody td:first-child")
    psnr = page.locator("#scores thead button", has_text="PSNR dB ↑").first
    psnr.click()
    best = sorted(scores["scores"], key=lambda name: -scores["scores"][name]["psnr"].mean)
    assert methods.all_inner_texts() == best
    psnr.click()
    assert methods.all_inner_texts() == best[::-1]
    page.locator("#plot-scatter").scroll_into_view_if_needed()
    x, y = page.evaluate(
        """() => {
            const plot = document.getElementById("plot-scatter"), box = plot.getBoundingClientRect();
            const {xaxis, yaxis} = plot._fullLayout, {x, y} = plot._fullData[0];
            return [box.left + xaxis._offset + xaxis.d2p(x[0]), box.top + yaxis._offset + yaxis.d2p(y[0])];
        }"""
    )
    page.mouse.move(x - 20, y - 20)
    page.mouse.move(x, y, steps=4)
    page.locator("#hover img").first.wait_for()
    assert page.locator("#hover figcaption").all_inner_texts() == ["degraded", "a_model", "sharp"]
    assert page.locator("#hover b").inner_text() == "00.png"
    assert page.locator(".js-plotly-plot").count() == 3  # faces, landmarks, regions
    assert HOSTILE in page.evaluate("plots.scatter.data[0].customdata.map(([, name]) => name)")
    assert page.evaluate("document.documentElement.scrollWidth") == 1280


def test_a_perfect_score_is_sorted_as_the_highest(evaluated, at):
    report, results = evaluated
    scores = {method: dict(scores) for method, scores in report["scores"].items()}
    scores["a_model"]["psnr"] = replace(scores["a_model"]["psnr"], mean=None, low=None, high=None, n=0, identical=9)
    page = gallery.page(report | {"scores": scores}, results, at, count=1)
    bicubic, ours = (
        re.findall(r'<td data-sort="(.*?)">\s*<span class="(.*?)">(.*?)<', row)[0] for row in page.split("<tr>")[2:4]
    )
    assert float(bicubic[0]) == scores["bicubic"]["psnr"].mean
    assert ours == ("Infinity", "best", "identical")


def test_on_a_phone_every_sweep_has_a_plot_of_its_own_with_a_curve_for_each_method(open_page, faces, at):
    swept = Trial(at.items[:3], at.methods, 32, "bicubic4", protocol=PROTOCOLS["robustness"])
    found = evaluate(swept, index_pictures([faces]), faces.name)
    page = open_page(gallery.page(*found, swept, count=1), 390)
    for sweep, (meaning, levels) in SWEEPS.items():
        plot = page.locator(f"#plot-{sweep}")
        left, right, first, last = plot.evaluate(
            """plot => [plot, plot.querySelector(".xtitle")]
                .map(one => one.getBoundingClientRect()).flatMap(({left, right}) => [left, right])"""
        )
        assert plot.locator(".xtitle").text_content() == meaning
        assert left <= first < last <= right  # not over its neighbours'
        curves = plot.evaluate("plot => plot.data.map(({name, x}) => [name, x.length])")
        assert curves == [["bicubic", len(levels) + 1], ["a_model", len(levels) + 1]]
    assert page.locator(".legend span").all_inner_texts() == ["bicubic", "a_model"]
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_without_bicubic_and_networks_the_page_speaks_of_neither(faces):
    items = [item for item in index_pictures([faces]).items if "08" not in item.name]
    alone = Trial(items, [Pictures("theirs", faces, index_pictures([faces]).items, 32, resize=True)], 32, None)
    found = evaluate(alone, Index(items, []), faces.name)
    page = gallery.page(*found, alone, count=4)
    page = page[: page.index("<script>")]
    assert "identical" in page
    assert "inf dB" not in page
    assert "difference to bicubic" not in page
    assert "Attention is" not in page


def test_pictures_without_ground_truth_are_all_in_the_contact_sheet(faces, at):
    real = Trial(at.items, at.methods, 32, None, protocol=PROTOCOLS["real"])
    page = gallery.page(*evaluate(real, index_pictures([faces]), faces.name), real, count=4)
    assert page.count('alt="degraded"') == page.count('alt="a_model"') == 4
    assert "Best, median and worst" not in page


def test_foreign_names_are_text_in_every_table(scores):
    name = "<b>a|b`_$\n"
    hostile = scores | {
        "scores": {name: scores["scores"]["a_model"]},
        "methods": {name: scores["methods"]["a_model"]},
        "data": scores["data"] | {"name": name},
        "run": scores["run"] | {"seconds_per_face": {}},
    }
    pipes = [line for line in tables.markdown(hostile).splitlines() if line.startswith("|")]
    assert len(pipes) == 3
    assert len({line.count("|") for line in pipes}) == 1
    assert "<b>" not in tables.markdown(hostile)
    tex = re.sub(r"\$\\[a-z]+\$", "", tables.latex(hostile))  # our own arrows
    assert re.findall(r"(?<!\\)[_%#$]", tex) == []
    assert "<b>a|b`_$\\n: 9 of 10 faces" in tables.terminal(hostile)
