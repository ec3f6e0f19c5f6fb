"""The evaluator: what it measures is what it says, nothing is lost, and two runs agree."""

import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import mean_colours
import numpy as np
import pytest
import torch
from made_up import pictures
from PIL import Image
from runs import ROOT, SMALL
from skimage.metrics import peak_signal_noise_ratio

from sparnet import SPARNet, images, metrics
from sparnet.errors import UserError
from sparnet.faces import Face
from sparnet.metrics import luma, psnr
from sparnet.regions import REGIONS, region_masks
from training import evaluate, validation
from training.baselines import RCAN, RCANConfig
from training.command import run_command
from training.data import Index, Item, centre_view, index_pictures
from training.degradations import fixed
from training.evaluate import main
from training.evaluation import comparison, tables
from training.evaluation import report as whole
from training.evaluation.comparison import BATCH, Case, Trial, compare, measure
from training.evaluation.identity import aligned
from training.evaluation.judges import Judges, known_points
from training.evaluation.ledger import Ledger, Results, Row, summary
from training.evaluation.methods import Bicubic, Pictures, load_network, pairing_name
from training.evaluation.protocols import PROTOCOLS, Condition, factor_of
from training.evaluation.report import crowd

FACES = 11  # a batch and a bit


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "small"
    SPARNet(SMALL).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def larger(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("models") / "larger"
    SPARNet(replace(SMALL, size=64, smallest=32, degraded_size=16)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "faces", FACES, side=64)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def report(file: Path) -> dict:
    """The JSON but for the part that may differ; numbers outside of strict JSON are an error."""

    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(file.read_text(), parse_constant=refuse)
    del found["run"]
    return found


def trial(faces: Path, *methods, **changes) -> Trial:
    return Trial(index_pictures([faces]).items, methods, 32, "bicubic4", **changes)


# What is measured


def test_a_row_holds_what_pillow_the_network_and_scikit_image_give_by_hand(faces, model, tmp_path):
    main([str(model)], faces, tmp_path / "scores.json")
    found = report(tmp_path / "scores.json")
    bicubic = Image.Resampling.BICUBIC
    sharp = Image.open(faces / "03.png").convert("RGB").resize((32, 32), bicubic)
    degraded = sharp.resize((8, 8), bicubic).resize((32, 32), bicubic)
    with torch.inference_mode():
        face = torch.from_numpy(np.array(degraded)).permute(2, 0, 1)[None].float() / 127.5 - 1
        answer = SPARNet.from_pretrained(model)(face)[0].permute(1, 2, 0).numpy()
    restored = np.rint((answer.clip(-1, 1) + 1) * 127.5)
    for method, face in (("bicubic", np.array(degraded)), ("small", restored.astype(np.uint8))):
        by_hand = peak_signal_noise_ratio(luma(np.array(sharp)), luma(face), data_range=255)
        assert found["rows"][3]["values"][method]["psnr"] == pytest.approx(by_hand, abs=0.01)
    assert found["rows"][3]["name"] == "03.png"
    column = [row["values"]["small"]["psnr"] for row in found["rows"]]
    assert found["scores"]["small"]["psnr"]["mean"] == pytest.approx(np.mean(column))
    gain = np.subtract(column, [row["values"]["bicubic"]["psnr"] for row in found["rows"]]).mean()
    assert found["scores"]["small"]["psnr"]["difference"]["mean"] == pytest.approx(gain)


def test_models_of_different_sizes_get_the_same_faces_brought_to_their_size_and_back(faces, model, larger):
    both = [load_network(str(model)), load_network(str(larger))]
    at = replace(trial(faces, Bicubic(), *both), size=64)
    (one,) = compare(at, [0])
    sharp = np.array(Image.open(faces / "00.png"))
    np.testing.assert_array_equal(one.restored["bicubic"], fixed(sharp, 16, "00.png"))
    small = images.resize(one.restored["bicubic"], 32)
    with torch.inference_mode():
        answer = images.to_image(both[0].model(images.to_tensor(small)))
    np.testing.assert_array_equal(one.restored["small"], images.resize(answer, 64))
    assert "small works at 32x32" in at.describe()
    assert "larger works" not in at.describe()


def test_the_largest_model_decides_the_common_size_and_the_reduction_is_a_factor(faces, model, larger, capsys):
    main([str(model), str(larger)], faces, limit=2)
    assert "faces: 2 faces, 16x16 -> 64x64, bicubic; small works at 32x32" in capsys.readouterr().out


def test_the_score_of_a_model_in_training_is_the_evaluators(faces, model, tmp_path):
    main([str(model)], faces, tmp_path / "scores.json")
    found = report(tmp_path / "scores.json")["scores"]
    ours = validation.measure(SPARNet.from_pretrained(model), index_pictures([faces]).items)
    assert (ours.psnr, ours.ssim) == pytest.approx([found["small"][name]["mean"] for name in ("psnr", "ssim")])
    assert ours.gain == pytest.approx(found["small"]["psnr"]["difference"]["mean"])


def test_a_baseline_stands_beside_the_family(tmp_path, faces):
    torch.manual_seed(0)
    RCAN(RCANConfig(size=32, degraded_size=8, groups=1, blocks=1, channels=16)).save_pretrained(tmp_path / "net")
    network = load_network(f"deep={tmp_path / 'net'}")
    assert (network.name, network.factor, network.describe()["kind"]) == ("deep", 4, "RCAN")
    assert compare(trial(faces, network), [0])[0].restored["deep"].shape == (32, 32, 3)
    assert network.attention(np.zeros((32, 32, 3), np.uint8)) is None


def test_the_record_has_the_hash_of_the_weights_file(model):
    weights = (model / "model.safetensors").read_bytes()
    assert load_network(str(model)).describe()["sha256"] == sha256(weights).hexdigest()


# Intervals


def test_the_difference_is_paired_and_faces_without_a_value_are_left_out_of_both():
    generator = np.random.default_rng(0)
    easy = generator.normal(25, 5, 60)
    ours = easy + generator.normal(1, 0.1, 60)
    ours[7] = np.nan
    rows = [
        Row(0, i, f"{i}", {"bicubic": {"psnr": low}, "ours": {"psnr": high}})
        for i, (low, high) in enumerate(zip(easy, ours, strict=True))
    ]
    found = summary(Results(len(rows)).add(rows), ["bicubic", "ours"], "bicubic", seed=0)["ours"]["psnr"]
    there = ~np.isnan(ours)
    assert (found.n, found.difference.n) == (59, 59)
    assert found.difference.mean == pytest.approx((ours - easy)[there].mean())
    assert found.difference.high - found.difference.low < 0.1 < found.high - found.low


def test_a_row_survives_the_ledger_with_infinite_and_missing_values(tmp_path):
    values, faults = {"m": {"psnr": np.inf, "nrmse": np.nan}}, [["grey", "sharp", "why"]]
    row = Row(0, 0, "a.png", values, faults, {"m": [0.5]}, True, {"nrmse": 0.1}, True)
    ledger = Ledger(tmp_path / "scores.json", {}, (1, 1), resume=False)
    ledger.begin()
    ledger.add([row])
    (again,) = ledger.rows()
    assert again.values["m"]["psnr"] == np.inf
    assert np.isnan(again.values["m"]["nrmse"])
    assert replace(again, values={}) == replace(row, values={})


# Landmarks, identity, regions


POINTS = np.random.default_rng(0).uniform(8, 24, (68, 2))


def test_landmarks_off_by_a_known_share_of_the_eyes_have_that_error(faces):
    eyes = np.linalg.norm(POINTS[36] - POINTS[45])
    answers = iter([POINTS, POINTS + np.array([0.04 * eyes, 0]), None])  # on the sharp face, then on each method's
    judges = Judges(landmarks=lambda face: next(answers))
    at = trial(faces, Bicubic(), Other(), judges=judges)
    row = measure(at, compare(at, [0])[0])
    assert row.values["bicubic"]["nrmse"] == pytest.approx(0.04)
    assert row.values["bicubic"]["landmark_auc"] == pytest.approx(0.5)  # half way to 0.08
    assert np.isnan(row.values["other"]["nrmse"])
    assert (row.values["other"]["landmark_auc"], row.values["other"]["landmark_failed"]) == (0, 1)
    assert [fault[:2] for fault in row.faults] == [("no landmarks", "other"), ("grey", "other")]


def test_the_landmarks_found_in_sharp_pictures_are_the_floor_where_the_true_ones_are_known(tmp_path, capsys, faces):
    shutil.copytree(faces, tmp_path / "faces")
    for i in range(4):  # known in the first four
        (tmp_path / "faces" / f"{i:02}.json").write_text(json.dumps({"landmarks68": (2 * POINTS + 0.5).tolist()}))
    eyes = np.linalg.norm(POINTS[36] - POINTS[45])
    biased = POINTS + np.array([0.02 * eyes, 0])
    at = trial(tmp_path / "faces", Bicubic(), judges=Judges(landmarks=lambda face: biased))
    found, results = whole.evaluate(at, index_pictures([tmp_path / "faces"]), "faces", tmp_path / "scores.json")
    floor = found["landmark_floor"]
    assert (floor["nrmse"].mean, floor["nrmse"].n) == (pytest.approx(0.02), 4)
    assert floor["landmark_auc"].mean == pytest.approx(0.75)
    assert found["faces"]["ignored_files"] == []  # they are used
    assert results.column("sharp", "nrmse")[:5] == pytest.approx([0.02] * 4 + [np.nan], nan_ok=True)
    assert report(tmp_path / "scores.json")["rows"][3]["floor"]["nrmse"] == pytest.approx(0.02)
    said = tables.terminal(found)
    assert "landmarks known from files beside 4 of 11 faces, found in the sharp picture for the others" in said
    assert "sharp (floor): NRMSE ↓ 0.0200 [0.0200, 0.0200]" in said
    nowhere = trial(faces, Bicubic(), judges=Judges(landmarks=lambda face: biased))
    assert whole.evaluate(nowhere, index_pictures([faces]), "faces")[0]["landmark_floor"] is None


def test_a_sharp_face_without_landmarks_is_named_and_not_scored_by_them(faces):
    at = trial(faces, Bicubic(), judges=Judges(landmarks=lambda face: None, regions=True))
    row = measure(at, compare(at, [0])[0])
    assert row.faults == [("no landmarks", "sharp", "in the sharp face")]
    assert row.values["bicubic"].keys() == {"psnr", "ssim"}


def test_landmarks_that_cannot_be_read_stop_the_evaluation(faces, model, tmp_path):
    (tmp_path / "00.png").write_bytes((faces / "00.png").read_bytes())
    (tmp_path / "00.json").write_text("[]")
    with pytest.raises(UserError, match="cannot be read as landmarks"):
        main([str(model)], tmp_path, regions=True)
    main([str(model)], tmp_path)  # a file of that name says nothing about landmarks to whoever does not ask for them


def test_the_regions_errors_add_up_to_that_of_the_whole_face(faces):
    at = trial(faces, Bicubic(), judges=Judges(landmarks=lambda face: POINTS, regions=True))
    values = measure(at, compare(at, [0])[0]).values["bicubic"]
    squared = {name: 255**2 / 10 ** (values[f"psnr_{name}"] / 10) for name in REGIONS}
    pixels = {name: mask.sum() for name, mask in region_masks(POINTS, 32).items()}
    there = [name for name in REGIONS if pixels[name]]
    whole = sum(squared[name] * pixels[name] for name in there) / 32**2
    assert values["psnr"] == pytest.approx(10 * np.log10(255**2 / whole))


def test_the_perceptual_distance_sees_eight_bit_faces_in_minus_one_to_one(faces):
    class Mean:
        def distances(self, a, b):
            return (a - b).abs().mean(dim=(1, 2, 3))

    at = trial(faces, Bicubic(), judges=Judges(lpips=Mean()))
    (one,) = compare(at, [0])
    difference = np.abs(one.restored["bicubic"] / 127.5 - one.sample.sharp / 127.5).mean()
    assert measure(at, one).values["bicubic"]["lpips"] == pytest.approx(difference, rel=1e-5)


def test_a_face_that_cannot_be_aligned_is_named_and_has_no_identity(faces):
    for detector in (
        lambda face: [],
        lambda face: [Face(np.zeros(4))],
        lambda face: [Face(np.zeros(4), np.ones((5, 2)))],
    ):
        at = trial(faces, Bicubic(), judges=Judges(embedder=Aligning(), detector=detector))
        row = measure(at, compare(at, [0])[0])
        assert [(kind, whose) for kind, whose, _ in row.faults] == [("no face", "sharp")]
        assert "identity" not in row.values["bicubic"]


def test_known_landmarks_follow_the_picture_into_its_crop(tmp_path):
    picture = np.zeros((218, 178, 3), np.uint8)  # CelebA's, whose face square is not in the centre
    picture[118:121, 80:83] = 255
    images.save_png(picture, tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps({"landmarks68": [[81, 119]] * 68}))
    (item,) = index_pictures([tmp_path]).items
    for size in (64, 128, 256):
        view = centre_view(picture, size)[..., 0].astype(float)
        rows, columns = np.indices(view.shape)
        centroid = np.array([(columns * view).sum(), (rows * view).sum()]) / view.sum()
        np.testing.assert_allclose(known_points(item, picture, size)[0], centroid, atol=0.1)


class Other:
    """A method that answers in grey."""

    name = "other"

    def restore(self, degraded, names):
        return [np.full_like(face, 128) for face in degraded]


class Embedder:
    """The mean colour, as a direction."""

    def embed(self, face, points):
        mean = face.reshape(-1, 3).mean(axis=0) - 100
        return mean / np.linalg.norm(mean)


class Aligning:
    """Embeds what the real embedders are given."""

    def embed(self, face, points):
        return aligned(face, points)[0, 0] / 1.0


def test_a_face_against_itself_has_cosine_one_and_strangers_are_told_apart(faces, tmp_path):
    for i in range(FACES):
        (tmp_path / f"{i:02}.json").write_text(json.dumps({"landmarks68": POINTS.tolist()}))
        (tmp_path / f"{i:02}.png").write_bytes((faces / f"{i:02}.png").read_bytes())
    items = index_pictures([tmp_path]).items
    at = trial(
        tmp_path,
        Pictures("same", tmp_path, items, 32, resize=True),
        Other(),
        judges=Judges(embedder=Embedder()),
    )
    rows = [measure(at, one) for one in compare(at, range(FACES))]
    assert all(row.known for row in rows)
    assert all(row.values["same"]["identity"] == pytest.approx(1) for row in rows)
    found = crowd(at, {row.index: {name: np.array(some) for name, some in row.embeddings.items()} for row in rows})
    assert found["methods"]["same"]["verification_auc"] == pytest.approx(1)
    assert found["methods"]["other"]["verification_auc"] == pytest.approx(0.5)  # one answer for all
    assert found["methods"]["same"]["frechet_on_identity"] == pytest.approx(0, abs=1e-9)
    assert not any("fid" in key for some in found["methods"].values() for key in some)


# Pictures of other programs


def restored_copy(faces: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in faces.glob("*.png"):
        Image.open(file).save((folder / file.name).with_suffix(".bmp"))  # paired by the stem
    return folder


def test_the_sharp_faces_themselves_score_infinitely_well(faces, tmp_path, capsys):
    folder = restored_copy(faces, tmp_path / "perfect")
    main(data=faces, restored=[folder], json_file=tmp_path / "scores.json")
    found = report(tmp_path / "scores.json")
    assert (found["scores"]["perfect"]["psnr"]["mean"], found["scores"]["perfect"]["psnr"]["identical"]) == (
        None,
        FACES,
    )
    assert found["rows"][0]["values"]["perfect"]["psnr"] == "inf"
    assert found["scores"]["perfect"]["ssim"]["mean"] == pytest.approx(1)
    assert "bicubic" not in found["scores"]
    printed = capsys.readouterr().out
    assert "11 faces, compared at 64x64" in printed
    assert "identical (11)" in printed


def test_a_picture_identical_to_the_sharp_one_is_counted_and_the_mean_is_of_the_rest(faces, model, tmp_path, capsys):
    folder = restored_copy(faces, tmp_path / "theirs")
    for file in sorted(folder.iterdir())[2:]:
        image = np.array(Image.open(file))
        Image.fromarray(image ^ np.uint8(4)).save(file)
    main([f"net={model}"], faces, tmp_path / "scores.json", restored=[folder], size=32, markdown=tmp_path / "table.md")
    found = report(tmp_path / "scores.json")
    psnr = found["scores"]["theirs"]["psnr"]
    values = {method: [row["values"][method]["psnr"] for row in found["rows"]] for method in found["scores"]}
    assert values["theirs"][:2] == ["inf", "inf"]
    assert psnr["mean"] == pytest.approx(np.mean(values["theirs"][2:]))
    assert psnr["low"] < psnr["mean"] < psnr["high"]
    assert (psnr["n"], psnr["identical"]) == (FACES - 2, 2)
    gains = np.subtract(values["theirs"][2:], values["bicubic"][2:])
    assert psnr["difference"]["mean"] == pytest.approx(gains.mean())
    assert found["scores"]["net"]["psnr"]["identical"] == found["scores"]["theirs"]["ssim"]["identical"] == 0
    for text in (capsys.readouterr().out, (tmp_path / "table.md").read_text()):
        assert "2 identical left out" in text
        assert not re.search(r"\binf\b", text)


def test_a_restored_face_without_the_colours_of_the_sharp_one_is_named(faces, tmp_path, capsys):
    folder = restored_copy(faces, tmp_path / "theirs")
    Image.open(folder / "03.bmp").convert("L").save(folder / "03.bmp")
    main(data=faces, restored=[folder], json_file=tmp_path / "scores.json")
    (fault,) = report(tmp_path / "scores.json")["faces"]["faults"]["grey"]
    assert (fault["name"], fault["of"]) == ("03.png", "theirs")
    assert "03.png (theirs: restored without the colours" in capsys.readouterr().out


def test_pictures_and_models_are_compared_on_the_same_faces(faces, model, tmp_path):
    folder = restored_copy(faces, tmp_path / "perfect")
    main([f"net={model}"], faces, tmp_path / "scores.json", restored=[folder], size=32)
    assert list(report(tmp_path / "scores.json")["scores"]) == ["bicubic", "net", "perfect"]


def test_missing_and_extra_names_are_an_error_that_lists_them(faces, tmp_path):
    folder = restored_copy(faces, tmp_path / "theirs")
    (folder / "03.bmp").rename(folder / "three.bmp")
    with pytest.raises(UserError, match="1 missing: 03; 1 not among the sharp ones: three"):
        main(data=faces, restored=[folder])
    (folder / "three.bmp").rename(folder / "03.bmp")
    Image.open(folder / "03.bmp").save(folder / "03.png")
    with pytest.raises(UserError, match="there twice: 03"):
        main(data=faces, restored=[folder])


def test_damaged_and_differently_sized_pictures_are_named_and_not_scored(faces, tmp_path, capsys):
    folder = restored_copy(faces, tmp_path / "theirs")
    (folder / "02.bmp").write_bytes(b"BM is not enough")
    Image.new("RGB", (48, 48)).save(folder / "05.bmp")
    main(data=faces, restored=[folder], json_file=tmp_path / "scores.json")
    found = report(tmp_path / "scores.json")
    named = {kind: [fault["name"] for fault in some] for kind, some in found["faces"]["faults"].items()}
    assert named == {"unreadable": ["02.png"], "size": ["05.png"]}
    assert found["scores"]["theirs"]["ssim"]["n"] == found["faces"]["scored"] == FACES - 2
    assert "9 of 11 faces" in capsys.readouterr().out
    main(data=faces, restored=[folder], json_file=tmp_path / "one-size.json", size=64)
    assert report(tmp_path / "one-size.json")["scores"]["theirs"]["ssim"]["n"] == FACES - 1


def test_pictures_in_folders_are_told_apart_and_paired_by_their_whole_names(faces, tmp_path):
    sharp, theirs = tmp_path / "sharp", tmp_path / "theirs"
    for person in ("ann", "bob"):
        for folder, suffix in ((sharp, ".png"), (theirs, ".bmp")):
            (folder / person).mkdir(parents=True)
            for i in range(2):
                picture = Image.open(faces / f"{i + 2 * (person == 'bob'):02}.png")
                picture.convert("L").save((folder / person / f"{i}.png").with_suffix(suffix))
    options = {"data": sharp, "restored": [theirs], "json_file": tmp_path / "scores.json"}
    main(**options)
    found = report(tmp_path / "scores.json")
    names = ["ann/0.png", "ann/1.png", "bob/0.png", "bob/1.png"]
    assert [row["name"] for row in found["rows"]] == names
    assert found["scores"]["theirs"]["ssim"]["mean"] == 1  # grey against the same grey, each its own
    assert [fault["name"] for fault in found["faces"]["faults"]["grey"]] == names
    assert found["faces"]["fault_counts"] == {"grey": 4}
    (theirs / "bob" / "0.bmp").rename(theirs / "bob" / "00.bmp")
    with pytest.raises(UserError, match="1 missing: bob/0; 1 not among the sharp ones: bob/00"):
        main(**options)


def test_a_shard_is_only_how_pictures_are_packed():
    assert pairing_name("faces.tar/ann/0.png") == pairing_name("ann/0.jpg") == "ann/0"
    assert pairing_name("a/b.TAR/./0.1.png") == "a/0.1"


# Faults of the sharp faces


def test_unreadable_grey_and_small_pictures_are_named_and_counted(faces, model, tmp_path, capsys):
    folder = tmp_path / "faces"
    folder.mkdir()
    for file in faces.glob("*.png"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "01.png").write_bytes(b"no picture")
    Image.open(faces / "02.png").convert("L").save(folder / "02.png")
    Image.open(faces / "03.png").resize((24, 24)).save(folder / "03.png")
    main([str(model)], folder, tmp_path / "scores.json")
    found, printed = report(tmp_path / "scores.json"), capsys.readouterr().out
    named = {kind: [fault["name"] for fault in some] for kind, some in found["faces"]["faults"].items()}
    assert named == {"unreadable": ["01.png"], "enlarged": ["03.png"], "grey": ["02.png"]}
    assert (found["faces"]["pictures"], found["faces"]["scored"]) == (FACES, FACES - 1)
    assert all(name in printed for name in ("10 of 11 faces", "01.png", "02.png", "03.png"))


def test_a_folder_without_any_readable_picture_has_no_score(model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="nothing to score"):
        main([str(model)], tmp_path)


def test_other_peoples_160x160_are_not_cut_as_celebas_when_that_is_said(tmp_path, capsys):
    folder = pictures(tmp_path / "faces", 2, side=160)
    main(data=folder, restored=[folder], json_file=tmp_path / "celebas.json")
    assert "2 faces (2 cut as CelebA's), compared at 128x128" in capsys.readouterr().out
    main(data=folder, restored=[folder], json_file=tmp_path / "whole.json", crop="centre")
    assert "2 faces, compared at 160x160" in capsys.readouterr().out
    celebas, whole = report(tmp_path / "celebas.json"), report(tmp_path / "whole.json")
    assert (celebas["faces"]["cut_as_celebas"], whole["faces"]["cut_as_celebas"]) == (2, 0)
    (item,) = index_pictures([folder]).items[:1]
    (one,) = compare(replace(trial(folder, Bicubic()), size=160, crop="centre"), [0])
    np.testing.assert_array_equal(one.sample.sharp, item.picture())


# Protocols


def test_a_moved_face_takes_its_landmarks_along():
    face = np.zeros((65, 65, 3), np.uint8)
    face[20:23, 40:43] = 255
    rows, columns = np.indices((65, 65))
    for condition in (Condition("shift", 0.1), Condition("rotation", 30), Condition("scale", 0.7)):
        moved, points = condition.moved(face, np.array([[41.0, 21.0]]))
        light = moved[..., 0].astype(float)
        centroid = np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()
        np.testing.assert_allclose(points[0], centroid, atol=0.3)
        assert np.linalg.norm(points[0] - (41, 21)) > 3
    assert points[0] == pytest.approx((32 + 0.7 * 9, 32 - 0.7 * 11))  # about the centre


def test_noise_belongs_to_the_picture_and_the_seed_and_has_its_strength():
    face, noise = np.full((64, 64, 3), 128, np.uint8), Condition("noise", 20)
    spoilt = noise.spoilt(face, "a.png", 0)
    np.testing.assert_array_equal(spoilt, noise.spoilt(face, "a.png", 0))
    assert (spoilt != noise.spoilt(face, "b.png", 0)).any()
    assert (spoilt != noise.spoilt(face, "a.png", 1)).any()
    assert (spoilt.astype(float) - 128).std() == pytest.approx(20, rel=0.03)
    assert Condition().spoilt(face, "a.png", 0) is face


def test_robustness_has_a_curve_for_every_sweep_that_starts_at_the_plain_score(faces, model, tmp_path, capsys):
    main([str(model)], faces, tmp_path / "swept.json", protocol="robustness", limit=2)
    main([str(model)], faces, tmp_path / "plain.json", limit=2)
    swept, plain = report(tmp_path / "swept.json"), report(tmp_path / "plain.json")
    assert swept["scores"] == plain["scores"]
    assert len(swept["conditions"]) == len(PROTOCOLS["robustness"].conditions) - 1 == 24
    noisy = [one["scores"]["bicubic"]["psnr"]["mean"] for one in swept["conditions"] if one["sweep"] == "noise"]
    assert noisy == sorted(noisy, reverse=True)
    main([str(model)], faces, tmp_path / "alone.json", protocol="robustness", limit=1)
    assert report(tmp_path / "alone.json")["conditions"][0]["scores"]["small"]["psnr"]["low"] is None
    assert "with rotation (degrees, anticlockwise)" in capsys.readouterr().out


def test_real_pictures_have_figures_without_ground_truth_only(faces, model, tmp_path):
    main([str(model)], faces, tmp_path / "scores.json", protocol="real", limit=3)
    found = report(tmp_path / "scores.json")
    assert found["scores"]["bicubic"].keys() == {"blur", "laplacian"}
    view = np.array(Image.open(faces / "00.png").resize((32, 32), Image.Resampling.BICUBIC).convert("L")).astype(int)
    around = np.pad(view, 1, mode="reflect")
    laplacian = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:] - 4 * view
    assert found["rows"][0]["values"]["bicubic"]["laplacian"] == pytest.approx(laplacian.var(), rel=0.01)
    with pytest.raises(UserError, match="no sharp faces"):
        main([str(model)], faces, protocol="real", rgb=True)


def test_attention_units_are_counted_and_order_the_table(model, tmp_path, faces):
    torch.manual_seed(0)
    SPARNet(replace(SMALL, attention_units=1)).save_pretrained(tmp_path / "one")
    SPARNet(replace(SMALL, attention="none")).save_pretrained(tmp_path / "none")
    out = tmp_path / "table.md"
    names = [str(model), str(tmp_path / "one"), str(tmp_path / "none")]
    ablation = replace(PROTOCOLS["attention-units"], degradation="bicubic4", size=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "attention-units", ablation)
        main(names, faces, protocol="attention-units", limit=2, markdown=out)
    rows = [
        line.split(" | ") for line in out.read_text().splitlines() if line.startswith(("| none", "| one", "| small"))
    ]
    assert [(row[0].strip("| "), row[2]) for row in rows] == [("none", "0"), ("one", "1"), ("small", "4")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"protocol": "helen"}, "There is no protocol 'helen'; there are plain, helen-16to128"),
        ({"degradation": "bilinear"}, "There is no degradation 'bilinear'"),
        ({"degradation": "bicubic3"}, "32x32 faces cannot be reduced 3 times"),
        ({"protocol": "hd-blind", "degradation": "bicubic8"}, "Protocol hd-blind means --degradation blind"),
        ({"protocol": "hd-blind", "size": 128}, "Protocol hd-blind means --size 512"),
        ({"resume": True}, "give --json too"),
        ({"html": Path("nowhere/report.html")}, "There is no folder nowhere"),
        ({"lpips": Path("nowhere.safetensors")}, "nowhere.safetensors"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_told(faces, model, options, said):
    with pytest.raises(UserError, match=said):
        main([str(model)], faces, **options)


@pytest.mark.parametrize("option", ["json_file", "html", "markdown", "latex", "sheet"])
def test_no_file_is_written_among_the_pictures(faces, model, tmp_path, option):
    theirs = restored_copy(faces, tmp_path / "theirs")
    for folder in (faces, theirs):
        with pytest.raises(UserError, match="would be read as data"):
            main([str(model)], faces, restored=[Path(f"ours={theirs}")], **{option: folder / "out.png"})
        assert not (folder / "out.png").exists()


def test_models_for_different_degradations_and_equal_names_need_a_word(faces, model, tmp_path):
    torch.manual_seed(0)
    SPARNet(replace(SMALL, degraded_size=None)).save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="choose one by --degradation"):
        main([str(model), f"blind={tmp_path / 'small'}"], faces)
    with pytest.raises(UserError, match="--model LABEL=small"):
        main([str(model), str(tmp_path / "small")], faces, degradation="blind")
    main([str(model), f"blind={tmp_path / 'small'}"], faces, degradation="blind", limit=1)
    with pytest.raises(UserError, match="cannot be called sharp"):
        main([f"sharp={model}"], faces)


def test_a_factor_stands_for_the_reduction():
    assert [factor_of(name) for name in ("bicubic4", "bicubic8", "bicubic16", "blind")] == [4, 8, 16, None]


# Interruption, processes, FID


class Stopped(Exception):
    pass


def stop_after(batches: int, monkeypatch) -> list[int]:
    """The evaluator stops after so many more batches; -> the list of the pictures that it will have compared."""
    seen = []

    def compare_or_stop(trial, indices, *rest):
        if len(seen) >= batches * BATCH:
            raise Stopped
        seen.extend(indices)
        return compare(trial, indices, *rest)

    monkeypatch.setattr(comparison, "compare", compare_or_stop)
    return seen


def test_an_interrupted_evaluation_resumes_to_the_same_report(faces, model, tmp_path, monkeypatch):
    main([str(model)], faces, tmp_path / "whole.json")
    seen = stop_after(1, monkeypatch)
    with pytest.raises(Stopped):
        main([str(model)], faces, tmp_path / "scores.json")
    resumed = stop_after(9, monkeypatch)
    with pytest.raises(UserError, match="interrupted evaluation: go on with --resume"):
        main([str(model)], faces, tmp_path / "scores.json")
    with pytest.raises(UserError, match=r"Cannot resume .* protocol\.seed was 0 and is now 1"):
        main([str(model)], faces, tmp_path / "scores.json", resume=True, seed=1)
    main([str(model)], faces, tmp_path / "scores.json", resume=True)
    assert seen + resumed == list(range(FACES))
    assert report(tmp_path / "scores.json") == report(tmp_path / "whole.json")
    assert not list(tmp_path.glob("*.rows-*"))


@pytest.mark.parametrize("changed", ["sharp", "landmarks", "restored"])
def test_changed_pixels_or_landmarks_are_not_resumed_into_the_old_rows(faces, tmp_path, monkeypatch, changed):
    sharp, theirs = tmp_path / "sharp", restored_copy(faces, tmp_path / "theirs")
    shutil.copytree(faces, sharp)
    for file in sharp.glob("*.png"):
        file.with_suffix(".json").write_text(json.dumps({"landmarks68": POINTS.tolist()}))
    options = {"data": sharp, "restored": [theirs], "json_file": tmp_path / "scores.json", "regions": True}
    stop_after(1, monkeypatch)
    with pytest.raises(Stopped):
        main(**options)
    stop_after(9, monkeypatch)
    file, said = {
        "sharp": (sharp / "10.png", r"data\.(description|sha256)"),
        "landmarks": (sharp / "10.json", r"data\.(description|sha256)"),
        "restored": (theirs / "10.bmp", r"methods\.theirs\.data_sha256"),
    }[changed]
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])  # of the same size
    with pytest.raises(UserError, match=f"Cannot resume .* {said} was"):
        main(**options, resume=True)
    file.write_bytes(content)
    main(**options, resume=True)
    found = report(tmp_path / "scores.json")
    assert len(found["data"]["sha256"]) == 64
    assert found["faces"]["known_landmarks"] == FACES


def test_rows_of_processes_that_share_no_folder_are_missed_before_the_work(tmp_path):
    ledgers = [Ledger(tmp_path / "scores.json", {"seed": 0}, (1, 3), resume=False, process=i) for i in range(2)]
    ledgers[0].begin()
    with pytest.raises(UserError, match=r"1 of 2 processes .* folder that all of them share"):
        ledgers[0].check(2)
    ledgers[1].begin()
    ledgers[0].check(2)


def test_rows_come_back_in_order_whoever_wrote_them_and_the_last_counts(tmp_path):
    def row(condition, index, value):
        return Row(condition, index, f"{index}.png", {"ours": {"psnr": value}})

    a, b = (Ledger(tmp_path / "scores.json", {"seed": 0}, (2, 2), resume=False, process=i) for i in range(2))
    a.begin()
    b.begin()
    b.add([row(1, 1, np.inf), row(0, 1, 2.0)])
    a.add([row(1, 0, 3.0), row(0, 0, 0.0)])
    a.add([row(0, 0, 1.0)])
    assert [replace(one, faults=()) for one in a.rows()] == [
        row(0, 0, 1.0),
        row(0, 1, 2.0),
        row(1, 0, 3.0),
        row(1, 1, np.inf),
    ]
    again = Ledger(tmp_path / "scores.json", {"seed": 0}, (2, 3), resume=True)
    np.testing.assert_array_equal(again.done, [[True, True, False]] * 2)
    with pytest.raises(UserError, match=r"2 rows of .*scores\.json are missing"):
        list(again.rows())


def test_a_batch_that_cannot_be_written_whole_is_not_there_and_another_file_is_not_read(tmp_path):
    ledger = Ledger(tmp_path / "scores.json", {"seed": 0}, (1, 2), resume=False)
    ledger.begin()

    def killed():
        yield Row(0, 0, "0.png", {})
        raise Stopped

    with pytest.raises(Stopped):
        ledger.add(killed())
    assert not Ledger(tmp_path / "scores.json", {"seed": 0}, (1, 2), resume=True).done.any()
    ledger.file.write_text('{"seed": 0}\n{"condition": 0, "index": 0}\n')  # as earlier versions wrote it
    with pytest.raises(UserError, match=r"rows-0 cannot be used \(file is not a database\): .*take it away"):
        Ledger(tmp_path / "scores.json", {"seed": 0}, (1, 2), resume=True)


METHODS, NUMBERS = ("bicubic", "a", "b"), [f"metric {i}" for i in range(6)]


def test_a_face_costs_some_bytes_a_number_whatever_the_conditions(tmp_path, monkeypatch):
    """By Python's own count of its memory, with instruments that answer at once."""

    def made_up(trial, one, condition):
        values = {method: {metric: 25.0 + one.index for metric in NUMBERS} for method in METHODS}
        embeddings = {key: [0.6, 0.8] for key in (*METHODS, "sharp")} if one.index in trial.embedded else {}
        fault = ("grey", "sharp", "all pixels have red = green = blue")
        return Row(condition, one.index, one.name, values, [fault], {} if condition else embeddings)

    def nothing(trial, indices, condition, clock):
        return [Case(i, trial.items[i].within, None) for i in indices]

    monkeypatch.setattr(comparison, "compare", nothing)
    monkeypatch.setattr(comparison, "measure", made_up)
    monkeypatch.setattr(whole, "content_hash", lambda *given: "0" * 64)
    monkeypatch.setattr(metrics, "RESAMPLES", 20)  # for speed: they do not grow with the faces, as little as these do
    monkeypatch.setattr("training.evaluation.ledger.MOST_NAMED", 100)
    monkeypatch.setattr(comparison, "MOST_IMPOSTORS", 100)
    monkeypatch.setattr(comparison, "BATCH", 100)  # every batch waits for the disk
    file = tmp_path / "one.png"
    file.write_bytes(b"")
    protocol = replace(PROTOCOLS["robustness"], conditions=PROTOCOLS["robustness"].conditions[:2])
    peaks = []
    for count in (101, 200, 1000):  # the first also loads what is loaded once
        items = [Item(f"data/{i:06}.png", str(file), 0, 0) for i in range(count)]
        at = Trial(items, [SimpleNamespace(name=name, describe=dict) for name in METHODS], 32, None, protocol=protocol)
        tracemalloc.start()
        found, results = whole.evaluate(at, Index(items, []), "data", tmp_path / "scores.json")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found["faces"]["fault_counts"] == {"grey": count}
        assert len(found["faces"]["faults"]["grey"]) == 100
        assert found["scores"]["a"]["metric 5"].n == count
        assert found["identity"]["faces"] == len(results.embeddings) == 100
        assert len(json.loads((tmp_path / "scores.json").read_text())["rows"]) == 2 * count
    each = (peaks[2] - peaks[1]) / 800
    assert each < 32 * len(METHODS) * len(NUMBERS)  # its columns and their differences; rows would take six times that


def two_processes(*line: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", *map(str, line)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_two_processes_write_the_report_of_one_and_fid_counts_the_faces_of_both(faces, model, tmp_path, monkeypatch):
    for name in ("torchmetrics", "torchmetrics.image", "torchmetrics.image.fid"):
        monkeypatch.setitem(sys.modules, name, None)  # put back at the end
    mean_colours.put_in_place()
    arguments = ["--model", model, "--data", faces, "--fid", "--limit", BATCH + 1, "--json"]
    main([str(model)], faces, tmp_path / "one.json", fid=True, limit=BATCH + 1)
    done = two_processes("tests/mean_colours.py", *arguments, tmp_path / "two.json")
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout
    assert json.loads((tmp_path / "two.json").read_text())["run"]["faces_timed"] == BATCH + 1  # shared, not done twice
    one, two = report(tmp_path / "one.json"), report(tmp_path / "two.json")
    ours, theirs = ([some["scores"][name].pop("fid")["mean"] for name in ("bicubic", "small")] for some in (one, two))
    assert theirs == pytest.approx(ours)  # the order of the faces is another
    assert two == one
    assert not list(tmp_path.glob("*.rows-*"))


def test_fid_sees_every_face_of_every_method_once_even_when_resumed(faces, model, tmp_path, monkeypatch):
    made = []

    class Distances:
        def __init__(self, methods, weights, device):
            assert (methods, weights) == (["bicubic", "small"], Path("inception.pth"))
            self.faces = []
            made.append(self)

        def add(self, sharp, restored):
            self.faces.append((sharp, restored))

        def values(self):
            return {name: float(sum(name in some for _, some in self.faces)) for name in ("bicubic", "small")}

    monkeypatch.setattr(evaluate, "InceptionDistances", Distances)
    options = {"json_file": tmp_path / "scores.json", "inception": Path("inception.pth")}
    stop_after(1, monkeypatch)
    with pytest.raises(Stopped):
        main([str(model)], faces, **options)
    stop_after(9, monkeypatch)
    main([str(model)], faces, **options, resume=True)
    assert report(tmp_path / "scores.json")["scores"]["small"]["fid"]["mean"] == FACES
    whole = [
        np.array(Image.open(faces / f"{i:02}.png").resize((32, 32), Image.Resampling.BICUBIC)) for i in range(FACES)
    ]
    for (sharp, restored), face in zip(made[-1].faces, whole, strict=True):
        np.testing.assert_array_equal(sharp, face)
        assert psnr(restored["bicubic"], sharp) != psnr(restored["small"], sharp)


def test_the_command_line_names_its_options_and_answers_a_mistake_in_one_line(
    tmp_path, faces, model, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--sharp", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --data DIR, the sharp faces, is needed, and one --model or --restored DIR at least."
    ]
    line = f"evaluate --model {model} --data {faces} --limit 2 --identities (.)(.)"
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 0
    assert "faces: 2 faces" in capsys.readouterr().out


def test_an_embedders_file_is_read_as_its_kind_says(tmp_path, monkeypatch):
    from training.evaluation import judges

    (tmp_path / "a=b.onnx").write_bytes(b"weights")
    made = []
    monkeypatch.setattr(judges, "OnnxEmbedder", lambda *given: made.append(("onnx", *given)))
    monkeypatch.setattr(judges, "SFace", lambda *given: made.append(("sface", *given)))
    file = str(tmp_path / "a=b.onnx")
    for identity in (file, f"insightface={file}", f"sface={file}", "sface"):
        chosen = judges.choose(identity=identity)
        assert chosen.record["identity by"] == ("sface" if "sface" in identity.split(str(tmp_path))[0] else made[-1][2])
    assert made == [("onnx", file, "arcface"), ("onnx", file, "insightface"), ("sface", file), ("sface", None)]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"json_file": "scores", "html": "SCORES"}, "--json and --html would both be written"),
        ({"sheet": "{faces}/{first}"}, "would be read as data the next time"),
        ({"json_file": "{model}/config.json"}, "which is read"),
        ({"markdown": "x" * 300}, "longer than"),
    ],
)
def test_reports_are_not_written_over_each_other_nor_over_what_is_read(faces, model, tmp_path, files, said):
    first = min(path.name for path in faces.iterdir())
    files = {name: tmp_path / file.format(faces=faces, model=model, first=first) for name, file in files.items()}
    before = {path: path.read_bytes() for path in (*faces.iterdir(), *Path(model).iterdir()) if path.is_file()}
    with pytest.raises(UserError, match=said):
        main(model=[str(model)], data=faces, **files)
    assert before == {path: path.read_bytes() for path in before}
    assert list(tmp_path.iterdir()) == []
