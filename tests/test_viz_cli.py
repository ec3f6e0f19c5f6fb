"""The instruments' command line, run as a user runs it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from sparnet import Restorer, SPARNet, SPARNetConfig, engine, images, load_model
from sparnet.faces import Detector, Face, whole_landmarks
from sparnet.hub import WEIGHTS
from sparnet.regions import TEMPLATE68
from viz import cli
from viz.instruments.edit import Edit, to_json
from viz.instruments.population import kept
from viz.subject import Subject

ROOT = Path(__file__).parents[1]
FACE = np.ascontiguousarray(skimage.data.astronaut()[8:216, 120:328])
SMALL = SPARNetConfig(
    size=32, smallest=16, min_channels=8, max_channels=8, body_depth=2, bottleneck=32, hourglass_channels=8
)
UNITS = [plan.name for plan in SMALL.units()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two models so small that a test can wait for them, a face, and a folder of faces."""
    path = tmp_path_factory.mktemp("bench")
    for seed, (name, attention) in enumerate((("flat", "2d"), ("deep", "3d"))):
        torch.manual_seed(seed)
        SPARNet(SPARNetConfig(**SMALL.__dict__ | {"attention": attention})).save_pretrained(path / name)
    images.save_png(FACE, path / "face.png")
    (path / "faces").mkdir()
    for i, face in enumerate((FACE, FACE[:, ::-1], 255 - FACE)):
        images.save_png(np.ascontiguousarray(face), path / "faces" / f"{i}.png")
    model = load_model(path / "flat")
    edits = [Edit(UNITS[0], np.random.default_rng(0).uniform(-1, 1, (64, 64)))]
    (path / "edits.json").write_text(to_json(Subject(model, "flat", torch.zeros(1, 3, 32, 32)), edits))
    return path


@pytest.fixture
def run(capsys, folder, tmp_path):
    """run(command, *arguments) -> (exit code, stdout, stderr); paths in the arguments are those of `folder`."""

    def run(command, *arguments, model="flat"):
        given = [str(folder / part) if isinstance(part, Path) else str(part) for part in arguments]
        with pytest.raises(SystemExit) as caught:
            cli.main([command, *given, "--model", str(folder / model), "--out", str(tmp_path / "out")])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def assert_one_line(result, words):
    code, _, err = result
    assert code == 2
    assert re.search(words, err)
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def saved(path):
    """The JSON and the arrays that a finding left."""
    with np.load(path.with_suffix(".npz")) as arrays:
        return json.loads(path.with_suffix(".json").read_text()), dict(arrays)


ALONE = {
    "atlas": ("atlas", ()),
    "gate": ("gate", ("--unit", UNITS[1])),
    "ablation": ("ablation", ("--mode", "zero", "--mode", "mean")),
    "edit": ("edit", ("--edits", Path("edits.json"))),
    "regions": ("regions", ()),
    "query": ("query", ("--patch", "10,10,20,18", "--steps", "4")),
    "agreement": ("agreement", ("--other-model", "{folder}/deep")),
    "faithfulness": ("faithfulness", ("--cells", "4", "--levels", "2", "--draws", "1")),
    "effect": ("effect", ("--cells", "4", "--draws", "1")),
    "sanity": ("sanity", ("--draws", "1", "--faces", Path("faces"))),
    "stability": ("stability", ("--noises", "1")),
}


@pytest.mark.parametrize("command", ALONE)
def test_every_instrument_writes_what_was_planned_and_says_what_it_means(command, run, folder, tmp_path, monkeypatch):
    planned = set()
    monkeypatch.setattr(cli, "check_targets", lambda targets, inputs: planned.update(path for _, path in targets))
    name, options = ALONE[command]
    options = [part.format(folder=folder) if isinstance(part, str) else part for part in options]
    code, out, err = run(command, Path("face.png"), "--whole", *options)
    assert (code, err) == (0, "")
    assert {tmp_path / "out" / f"{name}.{kind}" for kind in cli.KINDS} <= planned
    assert set((tmp_path / "out").iterdir()) <= planned
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{name}.{kind}" for kind in ("json", "npz", "png")
    ]
    numbers, arrays = saved(tmp_path / "out" / name)
    assert numbers["meaning"] in out
    assert "face.png, face 1 of 1" in out
    assert max(map(len, out.splitlines())) < 1000
    assert str(folder) not in json.dumps(numbers)  # files can be given away
    assert all(str(tmp_path / "out" / f"{name}.{kind}") in out for kind in ("json", "npz", "png"))
    assert arrays
    assert Image.open(tmp_path / "out" / f"{name}.png").width > 50


def test_the_numbers_are_those_of_the_arrays_and_the_arrays_those_of_the_network(run, folder, tmp_path):
    run("atlas", Path("face.png"), "--whole")
    numbers, arrays = saved(tmp_path / "out" / "atlas")
    degraded = images.degrade(images.resize(FACE, 32), 16)
    with torch.no_grad():
        trace = load_model(folder / "flat").trace(images.to_tensor(degraded))
    assert np.array_equal(arrays["degraded"], degraded)
    assert list(numbers["units"]) == list(trace.alphas) == UNITS
    for unit, alpha in trace.alphas.items():
        assert np.array_equal(arrays[unit], alpha[0].numpy())
        assert numbers["units"][unit]["mean"] == pytest.approx(arrays[unit].mean(dtype=np.float64))


def test_a_finding_says_what_it_was_made_from_and_no_path_of_the_machine(run, folder, tmp_path):
    run("gate", Path("face.png"), "--whole", "--unit", UNITS[1])
    numbers, _ = saved(tmp_path / "out" / "gate")
    made = numbers["provenance"]
    digest = {name: sha256((folder / name).read_bytes()).hexdigest() for name in (f"flat/{WEIGHTS}", "face.png")}
    (model,), (face,) = made["models"], made["faces"]
    assert model["weights_sha256"] == digest[f"flat/{WEIGHTS}"]
    assert SPARNetConfig(**model["config"]) == SMALL
    assert (face["file"], face["sha256"], face["mode"]) == ("face.png", digest["face.png"], "simulate")
    assert made["settings"]["unit"] == UNITS[1]
    assert made["versions"]["torch"] == torch.__version__
    assert str(tmp_path) not in json.dumps(numbers)


def test_of_a_hub_repo_the_commit_is_kept(folder, tmp_path, local_hub):
    commit = local_hub.commit("me/model", {file.name: file.read_bytes() for file in (folder / "flat").iterdir()})
    given = ["atlas", folder / "face.png", "--whole", "--model", "me/model", "--out", tmp_path / "out"]
    with pytest.raises(SystemExit) as caught:
        cli.main([str(part) for part in given])
    assert caught.value.code == 0
    (model,) = saved(tmp_path / "out" / "atlas")[0]["provenance"]["models"]
    assert (model["id"], model["revision"]) == ("me/model", commit)


def test_of_several_faces_the_one_asked_for_is_studied_with_its_landmarks(run, folder, tmp_path, monkeypatch):
    points = np.array([(85.0, 75), (125, 75), (105, 100), (90, 125), (120, 125)])
    found = [Face(np.array([50.0, 40, 160, 160])), Face(np.array([60.0, 50, 150, 150]), points)]
    finder = Detector("a stub", "Found by a stub.", lambda photo: found)
    monkeypatch.setattr("sparnet.restorer.find_detector", lambda: finder)
    assert run("regions", Path("face.png"), "--face", 2, "--as-is")[0] == 0
    numbers, _ = saved(tmp_path / "out" / "regions")
    (face,) = numbers["provenance"]["faces"]
    assert (face["face"], face["of"], face["box"], face["mode"]) == (2, 2, [60, 50, 150, 150], "as_is")
    assert numbers["regions_from"] == "5 points, by a stub"
    assert_one_line(run("regions", Path("face.png"), "--face", 3), "has 2 faces: there is no --face 3")


def test_a_picture_that_is_a_face_is_measured_by_the_file_beside_it_else_by_the_net_else_by_the_template(
    run, folder, tmp_path, monkeypatch
):
    faces = tmp_path / "three"
    faces.mkdir()
    for name in "abc":
        images.save_png(FACE if name != "c" else np.zeros_like(FACE), faces / f"{name}.png")
    points = TEMPLATE68 * len(FACE) / 512  # as pixels of the picture, which the network does not see at this size
    (faces / "a.json").write_text(json.dumps({"landmarks68": points.tolist()}))
    monkeypatch.setattr("viz.subject.whole_landmarks", lambda face: whole_landmarks(face) if face.any() else None)
    assert run("regions", "--faces", faces)[0] == 0
    numbers, _ = saved(tmp_path / "out" / "regions")
    assert numbers["regions_from"] == {
        "68 points, of the file beside the picture": 1,
        "5 points, by landmarks5": 1,
        "the template, as if aligned": 1,
    }
    bench = cli.Bench(cli.Options(tmp_path / "out", model=str(folder / "flat")))
    eyes = bench.look(faces / "a.png", whole=True).points[36:48].mean(0)
    assert eyes == pytest.approx(
        (points[36:48].mean(0) + 0.5) * 32 / len(FACE) - 0.5
    )  # in pixels of the network's face


def test_all_faces_of_a_folder_are_looked_at_by_one_engine_however_long_it_takes_to_be_built(
    folder, tmp_path, monkeypatch
):
    fill, looked = engine.Build.fill, []

    def slow(*arguments):
        time.sleep(0.3)
        fill(*arguments)

    def noted(restorer, *arguments):
        looked.append(restoration := restored(restorer, *arguments))
        return restoration

    restored = Restorer.__call__
    monkeypatch.setattr(engine.Build, "fill", slow)
    monkeypatch.setattr(Restorer, "__call__", noted)
    bench = cli.Bench(cli.Options(tmp_path / "out", model=str(folder / "flat")))
    assert len(list(bench.faces_in(folder / "faces"))) == 3
    assert {restoration.engine for restoration in looked} == {"PyTorch, folded, float32"}


@pytest.mark.parametrize(
    "command", ["ablation", "regions", "faithfulness", "effect", "sanity", "stability", "agreement", "population"]
)
def test_over_a_folder_every_face_counts(command, run, folder, tmp_path):
    quick = {"faithfulness": ["--cells", 4, "--levels", 2], "effect": ["--cells", 4], "stability": ["--noises", 1]}
    more = {"agreement": ["--other-model", folder / "deep"], **quick}.get(command, [])
    code, _, err = run(command, "--faces", Path("faces"), *map(str, more))
    assert (code, err) == (0, "")
    (path,) = (tmp_path / "out").glob("*.json")
    made = json.loads(path.read_text())["provenance"]["faces"]
    assert [face["file"] for face in made] == ["0.png", "1.png", "2.png"]


def test_one_face_against_a_folder_and_over_a_training(run, folder, tmp_path):
    assert run("population", Path("face.png"), "--whole", "--faces", Path("faces"))[0] == 0
    numbers, arrays = saved(tmp_path / "out" / "population")
    assert numbers["faces"] == 3
    assert set(arrays) == {"degraded"} | {f"{unit}/{kind}" for unit in UNITS for kind in ("map", "z", "mean")}
    two = ["--checkpoint", folder / "flat", "--checkpoint", folder / "flat"]
    assert run("training", Path("face.png"), "--whole", *map(str, two))[0] == 0
    numbers, _ = saved(tmp_path / "out" / "training")
    assert [r == pytest.approx(1) for r in numbers["units"][UNITS[0]]["r_with_last"]] == [True, True]


def test_a_population_is_kept_for_the_app_only_of_a_folder(run, folder):
    assert_one_line(run("population", Path("face.png"), "--faces", Path("faces"), "--keep", "x"), "and no FACE")
    assert run("population", "--faces", Path("faces"), "--keep", "three faces", model="deep")[0] == 0
    usual = kept("deep", folder / "deep" / WEIGHTS)
    assert (usual.faces, usual.data) == (3, "three faces")


def test_pairs_and_channels(run, tmp_path):
    assert run("ablation", Path("face.png"), "--whole", "--pairs", "--unit", UNITS[0], "--unit", UNITS[1])[0] == 0
    _, arrays = saved(tmp_path / "out" / "ablation-pairs")
    assert arrays["effect"].shape == (2, 2)
    assert run("channels", Path("face.png"), "--whole", "--count", 2, model="deep")[0] == 0
    assert_one_line(run("channels", Path("face.png"), "--whole"), "one attention map a unit")


def test_the_print_figure_holds_its_text_as_text(run, tmp_path):
    run("atlas", Path("face.png"), "--whole", "--pdf")
    pdf = (tmp_path / "out" / "atlas.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf  # TrueType: letters, not outlines
    assert b"/Type3" not in pdf


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("atlas",), "give a photo as FACE"),
        (("atlas", Path("nobody.png")), "nobody.png cannot be read"),
        (("regions", Path("face.png"), "--faces", Path("faces")), "exclude each other"),
        (("regions", "--faces", Path("flat")), "has no photos"),
        (("regions", "--faces", Path("nowhere")), "There is no folder"),
        (("gate", Path("face.png"), "--whole", "--unit", "body.99"), "no attention in body.99"),
        (("ablation", Path("face.png"), "--whole", "--mode", "two"), "Input should be .zero., .one"),
        (("edit", Path("face.png"), "--whole", "--edits", Path("face.png")), "Invalid JSON"),
        (("query", Path("face.png"), "--whole", "--patch", "1,2,3"), "left,top,right,bottom"),
        (("agreement", Path("face.png"), "--whole"), "nothing to compare with"),
        (("population", Path("face.png"), "--whole"), "a folder of aligned ones with --faces"),
        (("report", Path("face.png"), "--whole", "--only", "magic"), "no instrument magic"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words, run):
    assert_one_line(run(*arguments), words)


def test_findings_are_not_written_among_the_faces(run, folder, tmp_path):
    assert_one_line(run("regions", "--faces", tmp_path), "would be read as data")
    assert not (tmp_path / "out").exists()


def test_without_a_face_the_user_is_told_of_whole(run, monkeypatch):
    monkeypatch.setattr("sparnet.restorer.find_detector", lambda: Detector("a stub", "A stub.", lambda photo: []))
    assert_one_line(run("atlas", Path("face.png")), "No human face was found.* --whole")


def test_the_module_runs_as_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "viz", "atlas", "missing.jpg", "--out", tmp_path],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert_one_line((done.returncode, done.stdout, done.stderr), "missing.jpg cannot be read")


@pytest.mark.parametrize("name", ["atlas.png", "Atlas.PNG"])
def test_an_input_is_not_written_over_and_that_is_told_before_the_work(run, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    images.save_png(FACE, out / name)
    before = (out / name).read_bytes()
    assert_one_line(run("atlas", out / name, "--whole"), "which is read")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {name: before}


def test_a_damaged_picture_of_a_folder_is_left_out_and_told_at_the_end(run, folder, tmp_path):
    faces = tmp_path / "faces"
    faces.mkdir()
    for name in ("a", "b"):
        images.save_png(FACE, faces / f"{name}.png")
    (faces / "c.png").write_bytes(b"cut short")
    (faces / "._a.png").write_bytes(b"hidden")
    code, _, err = run("regions", "--faces", faces)
    assert code == 2
    assert "1 pictures were left out" in err
    assert "c.png" in err
    assert len(saved(tmp_path / "out" / "regions")[0]["provenance"]["faces"]) == 2


@pytest.mark.parametrize("name", ["a$^$b", "\x1b[31mred", "\u4eba\u8138"])
def test_a_models_name_is_text_in_every_figure(run, folder, tmp_path, name, recwarn):
    model = tmp_path / name
    shutil.copytree(folder / "flat", model)
    for command in ("atlas", "regions"):  # the atlas draws itself, all others are sheets
        code, out, err = run(command, Path("face.png"), "--whole", model=model)
        assert (code, err) == (0, "")
        assert "\x1b" not in out
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


@pytest.mark.parametrize(
    "options",
    [
        ("query", "--sigma=nan"), ("query", "--sigma=inf"), ("agreement", "--share=nan"), ("ablation", "--seed=-1"),
        ("faithfulness", "--seed=99999999999999999999999"), ("faithfulness", "--levels=99999999999999999999999"),
        ("faithfulness", "--draws=99999999999"), ("stability", "--noises=x"), ("atlas", "--face=0"),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_is_told_in_one_line(run, options):
    assert_one_line(run(options[0], Path("face.png"), "--whole", *options[1:]), "--help")
