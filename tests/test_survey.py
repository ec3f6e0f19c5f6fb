"""The page over a folder of faces: what it holds, whom it does not show, and what is not done twice."""

import json
import re

import numpy as np
import pytest
import torch
from made_up import pictures
from PIL import Image
from skimage.data import astronaut

from sparnet import SPARNet, SPARNetConfig, images
from sparnet.faces import Detector, Face
from viz import cli, survey
from viz.survey import FEWEST, is_kept, studies

SMALL = SPARNetConfig(
    size=32, smallest=16, min_channels=8, max_channels=8, body_depth=1, bottleneck=32, hourglass_channels=8
)
FACES = 6  # enough for these tests only
MARK = (255, 0, 255)  # a colour that no colour map has
COLLINS = Detector("stand-in", "The astronaut's face, always.", lambda photo: [Face(np.array([180.0, 70, 265, 180]))])


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A network, a folder of enough marked faces, and a first survey of them, in one folder."""
    path = tmp_path_factory.mktemp("survey")
    torch.manual_seed(0)
    SPARNet(SMALL).save_pretrained(path / "net")
    for file in pictures(path / "faces", FACES, 32).iterdir():
        face = images.load(file)
        face[:20, :20] = MARK
        images.save_png(face, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "FEWEST", FACES)
        patch.setattr("sparnet.restorer.find_detector", lambda: COLLINS)
        assert run(path) == 0
        yield path


def run(path, *more, page="docs/found.md"):
    given = ["survey", "--faces", path / "faces", "--model", path / "net", "--out", path / "out", "--levels", 2]
    with pytest.raises(SystemExit) as caught:
        cli.main([str(part) for part in (*given, "--page", path / page, *more)])
    return caught.value.code


def page(path, name="found"):
    return (path / "docs" / f"{name}.md").read_text()


def changed_at(path):
    return {name: (path / "out" / f"{name}.json").stat().st_mtime_ns for name in studies()}


def test_the_page_holds_every_figure_and_says_what_it_was_made_from(bench):
    text = page(bench)
    figures = re.findall(r"!\[.+\]\((found/.+\.png)\)", text)
    assert sorted(figures) == sorted(f"found/{path.name}" for path in (bench / "docs/found").iterdir())
    assert {f"found/{name}.png" for name in studies()} < set(figures)
    made = json.loads((bench / "out/regions.json").read_text())["provenance"]
    assert made["models"][0]["weights_sha256"] in text
    assert f"{FACES} pictures" in text
    assert "--seed 0" in text
    for name in ("regions", "faithfulness", "ablation", "sanity", "stability", "population"):
        assert f"`python -m viz {name} --faces FACES --out OUT" in text
    assert text.count("Not to be concluded") == len(studies())
    assert text.index("What the maps show") < text.index("What they do not show") < text.index("## ")
    assert not re.search(r"nan|None|\{\{|\b20\d\d\b|" + re.escape(str(bench)), text)


def test_the_numbers_on_the_page_are_those_of_the_findings(bench):
    score = json.loads((bench / "out/faithfulness.json").read_text())["scores"]["Sobel"]["elsewhere per damage"]
    assert "| Sobel | {mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**score) in page(bench)
    with np.load(bench / "out/population.npz") as arrays:
        levels = arrays["levels"].mean(0)
    assert f"| `encoder.0` | {levels[0]:.3f} [" in page(bench)


def test_no_figure_shows_anybody_of_the_folder_and_the_page_names_nobody(bench):
    for path in [*(bench / "docs/found").iterdir(), *(bench / "out").rglob("*.png")]:
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert np.abs(pixels - MARK).max(axis=2).min() > 60, path.name
    hers = np.asarray(Image.open(bench / "docs/found/astronaut-atlas.png").convert("RGB")).astype(int)
    skin = np.median(astronaut()[110:150, 205:245].reshape(-1, 3), axis=0)
    assert (np.abs(hers - skin).max(axis=2) < 12).sum() > 50  # while she is seen
    assert not any(f"{i:02}.png" in page(bench) for i in range(FACES))


def test_run_again_nothing_is_done_again_and_the_page_is_the_same(bench, monkeypatch, capsys):
    before, text = changed_at(bench), page(bench)
    names = dict.fromkeys(studies())
    monkeypatch.setattr(survey, "studies", lambda only=(): names)  # calling one would fail
    assert run(bench) == 0
    assert changed_at(bench) == before
    assert page(bench) == text
    assert f"kept: {' '.join(studies())}" in capsys.readouterr().out


def test_after_an_interruption_only_what_is_missing_is_done(bench, monkeypatch):
    done = []

    def counted(name, study):
        return lambda *given, **options: done.append(name) or study(*given, **options)

    counting = {name: counted(name, study) for name, study in studies().items()}
    monkeypatch.setattr(survey, "studies", lambda only=(): counting)
    text = page(bench)
    (bench / "out/stability.npz").unlink()
    (bench / "out/population.png").unlink()
    assert run(bench) == 0
    assert sorted(done) == ["population", "stability"]
    assert page(bench) == text


def test_what_was_found_of_other_faces_weights_or_settings_is_not_kept(bench):
    made = json.loads((bench / "out/regions.json").read_text())["provenance"]
    assert is_kept(bench / "out", "regions", made)
    assert not is_kept(bench / "out", "regions", made | {"settings": made["settings"] | {"seed": 1}})
    assert not is_kept(bench / "out", "regions", made | {"faces": made["faces"][1:]})
    assert not is_kept(bench / "out", "regions", made | {"models": [made["models"][0] | {"weights_sha256": "0"}]})
    assert not is_kept(bench / "nowhere", "regions", made)


def test_few_faces_and_a_face_of_ones_own_are_refused(bench, capsys):
    assert FEWEST == 30
    assert run(bench, "--limit", FACES - 1) == 2
    assert f"at least {FACES}" in capsys.readouterr().err
    assert run(bench, bench / "faces/00.png") == 2
    assert "exclude each other" in capsys.readouterr().err


def test_a_figure_of_the_page_is_small_and_still_readable(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (100, 2000, 3), np.uint8)
    images.save_png(noise, tmp_path / "large.png")
    (tmp_path / "small.png").write_bytes(survey.for_the_page(tmp_path / "large.png"))
    assert Image.open(tmp_path / "small.png").size == (survey.WIDTH, survey.WIDTH // 20)
    assert (tmp_path / "small.png").stat().st_size < (tmp_path / "large.png").stat().st_size / 3


def test_a_survey_by_some_instruments_has_their_sections_and_says_so(bench, capsys):
    assert run(bench, "--only", "stability", page="docs/part.md") == 0
    text = page(bench, "part")
    assert re.findall(r"viz (\w+) --faces FACES", text) == ["population", "regions", "stability", "survey"]
    assert "--only stability --out OUT" in text
    assert (bench / "docs/part/stability.png").exists()
    assert not (bench / "docs/part/sanity.png").exists()
    assert run(bench, "--only", "atlas", page="docs/part.md") == 2
    assert "no survey by atlas" in capsys.readouterr().err
