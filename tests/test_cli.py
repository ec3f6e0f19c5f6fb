"""The command line, run as a user runs it."""

import os
import re
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import released
import skimage.data
import torch
from made_up import SMALL
from PIL import Image

from sparnet import SPARNet, SPARNetConfig, cli, images, load_model
from sparnet.checkpoints import MODELS
from sparnet.faces import Detector

ROOT = Path(__file__).parents[1]
BOX = "170,60,270,190"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    SPARNet(SMALL).save_pretrained(path)
    return path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "astronaut.png"
    images.save_png(skimage.data.astronaut(), path)
    return path


@pytest.fixture
def run(capsys):
    """run(*arguments) -> (exit code, stdout, stderr)"""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


def assert_one_line(code, err, words):
    assert code == 2
    assert re.search(words, err)
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_photo_is_restored_and_its_attention_written(run, photo, folder, tmp_path):
    code, out, _ = run(
        "restore", photo, tmp_path / "out.png", "--model", folder, "--box", BOX, "--attention", tmp_path / "maps"
    )
    assert code == 0
    assert "1 face restored" in out
    restored = images.load(tmp_path / "out.png")
    original = images.load(photo)
    assert restored.shape == original.shape
    assert not np.array_equal(restored, original)
    assert np.array_equal(restored[400:], original[400:])
    with np.load(tmp_path / "maps" / "out_face1.npz") as maps:
        plans = SPARNet.from_pretrained(folder).config.units()
        assert maps.files == [plan.name for plan in plans]
        for plan in plans:
            assert maps[plan.name].shape == (1, plan.map_size, plan.map_size)
            assert maps[plan.name].dtype == np.float32
            assert (maps[plan.name] > 0).all()
            assert (maps[plan.name] < 1).all()
    assert Image.open(tmp_path / "maps" / "out_face1.png").width > 200


def test_the_module_runs_as_a_program_and_exits_with_2_after_one_line(tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "sparnet", "restore", "missing.jpg", tmp_path / "out.png"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert_one_line(done.returncode, done.stderr, "There is no missing.jpg")


def test_without_a_face_the_photo_is_written_unchanged_and_the_user_told(run, folder, tmp_path, monkeypatch):
    nobody = Detector("a stub", "Faces were searched with a stub.", lambda photo: [])
    monkeypatch.setattr("sparnet.restorer.find_detector", lambda: nobody)
    images.save_png(skimage.data.coffee(), tmp_path / "coffee.png")
    code, out, _ = run("restore", tmp_path / "coffee.png", tmp_path / "out.png", "--model", folder)
    assert code == 0
    assert "No human face was found" in out
    assert np.array_equal(images.load(tmp_path / "out.png"), skimage.data.coffee())


def test_transparency_is_kept_and_an_unusable_profile_is_told(run, folder, tmp_path):
    astronaut = skimage.data.astronaut()
    alpha = np.full(astronaut.shape[:2], 255, np.uint8)
    alpha[:, :100], alpha[:, 100:120] = 0, 128
    photo, out = tmp_path / "cut-out.png", tmp_path / "out.png"
    Image.fromarray(np.dstack((astronaut, alpha))).save(photo, icc_profile=b"damaged")
    code, printed, _ = run("restore", photo, out, "--model", folder, "--box", BOX)
    assert code == 0
    assert "colour profile is damaged" in printed
    written = np.asarray(Image.open(out))
    assert np.array_equal(written[..., 3], alpha)
    assert np.array_equal(written[400:, 120:, :3], astronaut[400:, 120:])


def test_modes_and_whole_pictures_can_be_chosen(run, photo, folder, tmp_path):
    results = []
    for options in (["--simulate"], ["--as-is"], []):
        code, _, _ = run("restore", photo, tmp_path / "out.png", "--model", folder, "--whole", *options)
        assert code == 0
        results.append(images.load(tmp_path / "out.png"))
    assert not np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_hidden_files_and_a_result_folder_within_the_folder_are_not_read(run, photo, folder, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    face = images.resize(images.load(photo)[40:190, 150:300], 48)
    images.save_png(face, source / "a.png")
    (source / "._a.png").write_bytes(b"what macOS puts beside it")
    for _ in range(2):
        assert run("restore", source, source / "restored", "--model", folder, "--whole")[0] == 0
    assert [path.name for path in (source / "restored").iterdir()] == ["a.png"]
    (source / "checkpoint.pt").write_bytes(b"")
    code, _, err = run("restore", source, source / "restored", "--model", folder, "--whole")
    assert_one_line(code, err, "is the folder of a training run")


def test_a_folder_is_restored_and_what_is_unreadable_named(run, photo, folder, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    face = images.resize(images.load(photo)[40:190, 150:300], 48)
    images.save_png(face, source / "a.png")
    Image.fromarray(face).save(source / "a.JPG")
    images.save_png(face, source / "b.png")
    (source / "c.jpg").write_text("not a photo")
    (source / "notes.txt").write_text("not meant")
    code, out, err = run("restore", source, tmp_path / "out", "--model", folder, "--whole")
    assert code == 2
    assert "1 of 4 photos could not be restored: c.jpg" in err
    assert out.count("1 face restored") == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.JPG.png", "a.png.png", "b.png"]
    (source / "c.jpg").unlink()
    code, _, _ = run("restore", source, tmp_path / "out", "--model", folder, "--whole")
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.jpg", "{tmp}/out.png"], "There is no missing.jpg"),
        (["{photo}", "{tmp}/out.jpg"], "must end in .png"),
        (["{photo}", "{tmp}"], "must end in .png"),
        (["{photo}", "{tmp}/nowhere/out.png"], "There is no folder"),
        (["{photo}", "{photo}"], "would be written over"),
        (["{tmp}", "{tmp}"], "OUT is IN"),
        (["{tmp}", "{photo}"], "cannot be made"),
        (["{tmp}/empty", "{tmp}/out"], "has no photos"),
        (["{photo}", "{tmp}/out.png", "--box", "1,2,3"], "four numbers"),
        (["{photo}", "{tmp}/out.png", "--box", "1,2,3,x"], "four numbers"),
        (["{photo}", "{tmp}/out.png", "--box", "900,900,990,990"], "outside the photo"),
        (["{photo}", "{tmp}/out.png", "--box", "50,50,40,40"], "at least 4 pixels"),
        (["{photo}", "{tmp}/out.png", "--box", "1,2,30,40", "--whole"], "exclude each other"),
        (["{photo}", "{tmp}/out.png", "--model", "no-such"], "no-such"),
        (["{photo}", "{tmp}/out.png", "--device", "abacus"], "abacus"),
        (["{photo}", "{tmp}/out.png", "--yunet", "{photo}"], "cannot use"),
        (["{photo}", "{tmp}/out.png", "--attention", "{photo}"], "cannot be made"),
        (["{tmp}/text.jpg", "{tmp}/out.png"], "a text, not a photo"),
    ],
)
def test_a_users_mistake_is_one_clear_line_and_nothing_is_written(run, photo, folder, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("not a photo")
    before = photo.read_bytes()
    arguments = [argument.format(tmp=tmp_path, photo=photo) for argument in arguments]
    if "--model" not in arguments:
        arguments += ["--model", folder]
    code, _, err = run("restore", *arguments)
    assert_one_line(code, err, words)
    assert photo.read_bytes() == before
    assert not (tmp_path / "out.png").exists()


def test_the_table_shows_every_model_with_its_licence_and_where_it_is(run):
    code, out, _ = run("models")
    assert code == 0
    for entry in MODELS.values():
        assert entry.name in out
        assert entry.licence in out
        assert entry.scores in out
    for count in ("10.52 M", "5.24 M", "85.79 M", "90.09 M"):
        assert count in out


def test_a_model_without_a_card_or_a_token_is_not_published(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "get_token", lambda: None)
    copy = tmp_path / "model"
    SPARNet.from_pretrained(folder).save_pretrained(copy)
    code, out, err = run("publish", copy, "--repo", "me/mine")  # the card that save_pretrained writes says nothing yet
    assert_one_line(code, err, "unfinished")
    (copy / "README.md").unlink()
    code, out, err = run("publish", copy, "--repo", "me/mine")
    assert_one_line(code, err, "missing")
    (copy / "README.md").write_text("# Mine")
    code, out, err = run("publish", copy, "--repo", "me/mine")
    assert_one_line(code, err, "hf auth login")
    for name in ("config.json", "model.safetensors", "README.md", "Public repo me/mine"):
        assert name in out
    (copy / "model.safetensors").write_bytes(b"cut short")
    code, _, err = run("publish", copy, "--repo", "me/mine")
    assert_one_line(code, err, "safetensors")


def test_a_published_model_is_loaded_from_the_hub_as_it_was(run, local_hub, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    model = SPARNet.from_pretrained(folder)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("# Mine: data, scores, limits, licence")
    (tmp_path / "model" / "photo.jpg").write_bytes(b"not for the Hub")
    code, out, _ = run("publish", tmp_path / "model", "--repo", "me/published", "--yes")
    assert code == 0
    assert "Published" in out
    repo = local_hub.repos["me/published"]
    uploaded = repo.commits[repo.branches["main"]]
    assert b"# Mine" in uploaded["README.md"]
    assert "photo.jpg" not in uploaded
    back = load_model("me/published").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(back[name], value)


def test_released_weights_are_converted_to_a_folder_that_loads(run, photo, tmp_path):
    torch.save(released.random_state(released.LIGHT_3D), tmp_path / "light.pth")
    code, out, _ = run("convert", tmp_path / "light.pth", tmp_path / "light")
    assert code == 0
    assert "non-commercial" in out
    assert SPARNet.from_pretrained(tmp_path / "light").config == MODELS["sparnet-light-3d"].config


def test_a_folder_that_was_interrupted_is_resumed_without_doing_a_photo_twice_or_losing_one(
    run, named, folder, tmp_path, monkeypatch
):
    source, load, done = named("a.png", "b.png", "c.png", "d.png"), images.load_photo, []
    arguments = ("restore", source, tmp_path / "out", "--model", folder, "--whole", "--attention", tmp_path / "maps")

    def killed(path):
        if len(done) == 2:
            raise SystemExit("killed")
        done.append(path.name)
        return load(path)

    with monkeypatch.context() as patch:
        patch.setattr(images, "load_photo", killed)
        assert run(*arguments)[0] == "killed"
    monkeypatch.setattr(images, "load_photo", lambda path: done.append(path.name) or load(path))
    assert run(*arguments, "--resume")[0] == 0
    assert done == ["a.png", "b.png", "c.png", "d.png"]
    assert len(list((tmp_path / "out").iterdir())) == len(list((tmp_path / "maps").glob("*.npz"))) == 4
    assert run(*arguments, "--resume")[0] == 0
    assert len(done) == 4


def test_processes_share_a_folder_and_all_finish_though_a_photo_of_one_fails(named, folder, tmp_path):
    source = named(*(f"{number}.png" for number in range(5)))
    (source / "0.png").write_text("not a photo")  # the first process has failed before the second is through
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--no_python", sys.executable]
    line = [*launch, "-m", "sparnet", "restore", source, tmp_path / "out", "--model", folder, "--whole"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "1 of 3 photos could not be restored: 0.png" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{number}.png" for number in range(1, 5)]
    assert done.stdout.count("1 face restored") == 4


def test_one_photo_is_in_memory_at_a_time_and_written_before_the_next_is_read(
    run, named, folder, tmp_path, monkeypatch
):
    source, load, alive = named(*(f"{number}.png" for number in range(6))), images.load_photo, []

    def counted(path):
        assert len(list((tmp_path / "out").iterdir())) == len(alive)
        given = load(path)
        alive.append(weakref.ref(given.pixels))
        assert sum(photo() is not None for photo in alive) <= 1
        return given

    monkeypatch.setattr(images, "load_photo", counted)
    assert run("restore", source, tmp_path / "out", "--model", folder, "--whole")[0] == 0
    assert len(alive) == 6


def test_what_cannot_be_converted_is_a_user_error(run, tmp_path):
    (tmp_path / "page.pth").write_text("<html>Not found</html>")
    assert_one_line(*run("convert", tmp_path / "page.pth", tmp_path / "model")[::2], "web page")
    assert_one_line(*run("convert", tmp_path / "missing.pth", tmp_path / "model")[::2], "There is no model")
    assert not (tmp_path / "model").exists()


def test_half_precision_halves_the_file_and_hardly_changes_the_weights(run, tmp_path):
    config = SPARNetConfig(size=32, smallest=8, min_channels=8, max_channels=32, hourglass_channels=16, bottleneck=16)
    SPARNet(config).save_pretrained(tmp_path / "full")
    code, _, _ = run("convert", tmp_path / "full", tmp_path / "half", "--half")
    assert code == 0
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    full, half = (SPARNet.from_pretrained(tmp_path / name).state_dict() for name in ("full", "half"))
    for name, value in full.items():
        assert half[name].dtype == value.dtype
        torch.testing.assert_close(half[name], value, rtol=2**-10, atol=1e-7)


def test_a_box_far_larger_than_the_photo_is_refused_at_once(run, photo, folder, tmp_path):
    box = "--box=-1e6,-1e6,1e6,1e6"
    result = run("restore", photo, tmp_path / "out.png", "--model", folder, box)
    assert_one_line(*result[::2], "times as large as the photo")


@pytest.fixture
def named(tmp_path):
    """named(*names) -> a new folder with a face by each of the names."""

    def named(*names):
        (tmp_path / "in").mkdir()
        for name in names:
            picture = images.resize(skimage.data.astronaut()[40:190, 150:300], 32)
            (tmp_path / "in" / name).write_bytes(images.encode_png(picture))
        return tmp_path / "in"

    return named


def test_three_photos_of_one_stem_give_three_results_and_hidden_files_are_not_photos(run, named, folder, tmp_path):
    source = named("a.jpg", "a.png", "a.jpg.bmp")
    (source / "._a.jpg").write_bytes(b"what another system left")
    code, _, _ = run("restore", source, tmp_path / "out", "--model", folder, "--whole")
    assert code == 0
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_attention_written_over_a_photo_or_a_result_is_told_before_anything_is_written(run, named, folder, tmp_path):
    source, out = named("x.png", "x_face1.png"), tmp_path / "out"
    before = {path: path.read_bytes() for path in source.iterdir()}
    for attention in (source, out):
        result = run("restore", source, out, "--model", folder, "--whole", "--attention", attention)
        assert_one_line(*result[::2], "x_face1.png")
    assert {path: path.read_bytes() for path in source.iterdir()} == before
    assert not out.exists()


def test_no_name_ends_a_folder(run, named, folder, tmp_path):
    source = named("a$^$b.jpg", "\x1b[31m.png", os.fsdecode(b"\xff.png"), f"{'x' * 251}.png", "\u4eba.png")
    arguments = ("restore", source, tmp_path / "out", "--model", folder, "--whole", "--attention", tmp_path / "maps")
    code, out, err = run(*arguments)
    assert code == 2  # the longest has no room for _face1.npz
    assert "1 of 5 photos could not be restored" in err
    assert out.count("1 face restored") == 4
    assert "\x1b[31m" not in out + err
    assert "Traceback" not in err
    assert len(list((tmp_path / "maps").iterdir())) == 8


def test_a_bug_with_one_photo_is_told_with_its_traceback_and_the_others_go_on(
    run, named, folder, tmp_path, monkeypatch
):
    source, load = named("a.png", "b.png"), images.load_photo

    def broken(path):
        if path.name == "a.png":
            raise ZeroDivisionError("a bug")
        return load(path)

    monkeypatch.setattr(images, "load_photo", broken)
    code, out, err = run("restore", source, tmp_path / "out", "--model", folder, "--whole")
    assert code == 2
    assert "Traceback" in err
    assert "1 of 2 photos could not be restored: a.png" in err
    assert out.count("1 face restored") == 1


@pytest.mark.parametrize("photo", ["/dev/zero", "{tmp}/pipe", "x" * 300])
def test_what_is_no_file_is_refused_in_one_line(run, folder, tmp_path, photo):
    os.mkfifo(tmp_path / "pipe")
    result = run("restore", photo.format(tmp=tmp_path), tmp_path / "out.png", "--model", folder)
    assert_one_line(*result[::2], "not a regular file|too long")


@pytest.mark.parametrize("arguments", [["nothing"], ["restore"], ["restore", "a", "b", "--nope"], ["models", "x"]])
def test_wrong_options_are_one_line(run, arguments):
    assert_one_line(*run(*arguments)[::2], "--help")


def test_a_model_is_never_converted_over_a_model_nor_over_a_card(run, folder, tmp_path):
    weights = (folder / "model.safetensors").read_bytes()
    assert_one_line(*run("convert", folder, folder, "--half")[::2], "holds a model already")
    assert (folder / "model.safetensors").read_bytes() == weights
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my card")
    assert run("convert", folder, tmp_path / "mine")[0] == 0
    assert (tmp_path / "mine" / "README.md").read_text() == "my card"
