"""68 points by the real package face-alignment, with a network of FAN's shape that sees what a test has drawn."""

import os

os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # before Numba is imported: compiling takes longer than all of this

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up import SMALL
from torch.nn.functional import avg_pool2d

from sparnet import SPARNet, fan, images
from sparnet.errors import UserError
from sparnet.faces import Detector, Face, whole_box
from sparnet.fan import FanLandmarks, is_fan
from training.evaluation import judges
from viz.bench import Bench, Options, fan_of
from viz.instruments.regions import face_regions

BOX = np.array([120.0, 60, 280, 240])
SPOTS = {30: (200, 140), 36: (165, 120), 45: (236, 118), 8: (204, 215)}  # some of the 68 points, xy in the photo
COLOURS = {30: (255, 0, 0), 36: (0, 255, 0), 45: (0, 0, 255), 8: (255, 255, 0)}


class Seer(torch.nn.Module):
    """Crops (B,3,256,256) in 0..1 -> heatmaps (B,68,64,64): where the colours of the spots are."""

    def forward(self, crops):
        red, green, blue = avg_pool2d(crops, 4).unbind(1)
        seen = {
            30: red - green - blue,
            36: green - red - blue,
            45: blue - red - green,
            8: (red + green) / 2 - blue - 0.5,
        }
        heat = torch.zeros(len(crops), 68, 64, 64)
        for point, map_ in seen.items():
            heat[:, point] = map_.clamp(min=0)
        return [heat]


@pytest.fixture
def photo():
    picture = np.full((300, 400, 3), 128, np.uint8)
    for point, (x, y) in SPOTS.items():
        picture[y - 4 : y + 5, x - 4 : x + 5] = COLOURS[point]
    return picture


def seeing(detector=None):
    found = FanLandmarks(detector, network=Seer())
    found.fan.flip_input = False  # a mirrored colour is no other eye's
    return found


def test_fan_sees_the_points_in_the_box_that_our_detector_gives(photo):
    calls = []
    detector = Detector("stand-in", "", lambda picture: calls.append(picture.shape) or [Face(BOX)])
    points = seeing(detector)(photo)
    assert calls == [photo.shape]
    assert points.shape == (68, 2)
    for point, place in SPOTS.items():
        np.testing.assert_allclose(points[point], place, atol=6)  # a heatmap's cell is 6 pixels of this face
    assert seeing(Detector("stand-in", "", lambda picture: []))(photo) is None


def test_no_detector_of_the_package_is_made_and_nothing_is_downloaded(monkeypatch):
    import face_alignment.utils

    monkeypatch.setattr(face_alignment.utils, "download_url_to_file", None)
    assert not hasattr(seeing().fan.face_detector, "detect_from_image")


def test_weights_that_are_not_here_are_told_with_what_to_do(monkeypatch, tmp_path):
    import face_alignment.api

    def offline(url):
        raise OSError("no route to host")

    monkeypatch.setattr(face_alignment.api, "load_file_from_url", offline)
    with pytest.raises(UserError, match=r"could not be downloaded \(no route to host\). Fetch https.*2DFAN4"):
        FanLandmarks()
    with pytest.raises(UserError, match="There is no file"):
        FanLandmarks(weights=tmp_path / "none.pth.tar")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth.tar")
    with pytest.raises(UserError, match="does not hold FAN's weights"):
        FanLandmarks(weights=tmp_path / "other.pth.tar")
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(UserError, match="pip install"):
        FanLandmarks()


def test_it_is_imported_only_when_it_is_asked_for():
    assert is_fan("fan") == (True, None)
    assert is_fan("fan=weights/2DFAN4.pth.tar") == (True, "weights/2DFAN4.pth.tar")
    assert is_fan("pfld.onnx") == (False, None)
    assert fan_of(None, "cpu") == (None, None)
    with pytest.raises(UserError, match="it can be fan"):
        fan_of("pfld.onnx", "cpu")


def test_the_evaluator_s_landmarks_are_of_our_detector_s_faces(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(judges, "FanLandmarks", lambda *given: asked.append(given) or "FAN")
    finder = SimpleNamespace(name="ours")
    monkeypatch.setattr(judges, "find_detector", lambda file: finder)
    (tmp_path / "weights").write_bytes(b"weights")
    chosen = judges.choose(landmarks=f"fan={tmp_path / 'weights'}")
    assert chosen.landmarks == "FAN"
    assert asked == [(finder, str(tmp_path / "weights"), "cpu")]
    assert chosen.record["landmarks"].startswith("weights, SHA-256 ")
    assert chosen.record["faces found by"] == "ours"


def regions_of(photo, tmp_path, monkeypatch, network):
    monkeypatch.setattr(fan, "_network", network)
    torch.manual_seed(0)
    SPARNet(SMALL).save_pretrained(tmp_path / "model")
    images.save_png(photo, tmp_path / "face.png")
    options = Options(
        tmp_path, tmp_path / "face.png", str(tmp_path / "model"), whole=True, landmarks="fan", device="cpu"
    )
    return Bench(options).subject()


def test_the_parts_are_drawn_by_fan_s_outlines_and_say_so(photo, tmp_path, monkeypatch):
    network = Seer()
    network.forward = lambda crops: [torch.rand(len(crops), 68, 64, 64, generator=torch.Generator().manual_seed(1))]
    subject = regions_of(photo, tmp_path, monkeypatch, lambda weights: network)
    assert subject.points.shape == (68, 2)
    assert face_regions(subject)[1] == "68 points, by FAN"


def test_without_fan_the_five_points_serve_and_it_is_told(photo, tmp_path, monkeypatch):
    def missing(weights):
        raise UserError("Its weights are not here.")

    subject = regions_of(photo, tmp_path, monkeypatch, missing)
    assert subject.points is None or subject.points.shape == (5, 2)
    assert "FAN cannot be used: Its weights are not here." in subject.points_from


def test_the_face_of_a_whole_picture_has_a_box_within_it():
    x1, y1, x2, y2 = whole_box(512)
    assert 0 < x1 < x2 < 512
    assert 0 < y1 < y2 < 512
