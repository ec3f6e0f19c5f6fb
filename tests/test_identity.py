"""Embeddings and what is counted from their cosines, against a second way of computing each."""

from itertools import combinations, product
from pathlib import Path

import cv2
import httpx2
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from scipy.stats import mannwhitneyu
from skimage.data import astronaut
from skimage.transform import SimilarityTransform

from sparnet import hub, images
from sparnet.errors import UserError
from sparnet.faces import find_detector
from training.evaluation.identity import (
    TEMPLATE,
    OnnxEmbedder,
    SFace,
    aligned,
    identities,
    impostor_cosines,
    verification_auc,
)

SHARED = Path(__file__).parents[2] / "shared"
YUNET = SHARED / "instruments/face_detection_yunet.onnx"
MOBILEFACENET = SHARED / "instruments/identity_mobilefacenet.onnx"
with_instruments = pytest.mark.skipif(not MOBILEFACENET.exists(), reason="the shared instruments are not here")

POINTS = np.array([(205.0, 104), (246, 104), (228, 128), (209, 148), (243, 148)])  # of the astronaut, by eye


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# alignment


def test_a_face_that_lies_on_the_template_is_left_as_it_is():
    face = astronaut()[60:172, 170:282]
    assert np.array_equal(aligned(face, TEMPLATE), face)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 2), (25, 1), (-40, 1.5)])
def test_a_turned_and_scaled_face_is_brought_back(degrees, scale):
    face = cv2.GaussianBlur(astronaut()[60:172, 170:282], (0, 0), 2)  # so that interpolation costs little
    move = SimilarityTransform(scale=scale, rotation=np.radians(degrees), translation=(150, 150)).params[:2]
    photo = cv2.warpAffine(face, move, (500, 500), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    back = aligned(photo, TEMPLATE @ move[:, :2].T + move[:, 2])
    assert np.abs(back.astype(int) - face)[4:-4, 4:-4].mean() < 1
    assert np.abs(aligned(photo, TEMPLATE).astype(int) - face).mean() > 20


@pytest.mark.parametrize("points", [np.full((5, 2), 40.0), np.full((5, 2), np.nan)])
def test_points_that_span_no_face_are_the_users_mistake(points):
    with pytest.raises(UserError, match="five points"):
        aligned(astronaut(), points)


# cosines


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_impostors_are_all_pairs_of_different_people(rng):
    faces, people = unit(rng.normal(size=(6, 8))), np.array(["b", "a", "b", "c", "a", "b"])
    strangers = [faces[i] @ faces[j] for i, j in combinations(range(6), 2) if people[i] != people[j]]
    assert impostor_cosines(faces, people) == pytest.approx(strangers)
    assert len(strangers) == 15 - 3 - 1
    assert impostor_cosines(faces[:1], people[:1]).size == 0


def test_verification_is_the_share_of_pairs_in_the_right_order(rng):
    same, different = rng.normal(0.6, 0.2, 40).round(1), rng.normal(0.2, 0.2, 70).round(1)  # rounded: with ties
    won = [(s > d) + (s == d) / 2 for s, d in product(same, different)]
    assert verification_auc(same, different) == pytest.approx(np.mean(won))
    assert verification_auc(same, different) == pytest.approx(mannwhitneyu(same, different).statistic / (40 * 70))
    assert verification_auc(np.array([0.9, 0.8]), np.array([0.1, 0.7])) == 1
    assert verification_auc(np.array([0.1]), np.array([0.2, 0.3])) == 0
    assert verification_auc(np.array([0.5]), np.array([0.5])) == 0.5


def test_identities_by_a_rule():
    assert identities(["17_0001.png", "17_b.png", "4_a_b.png"], "([^_]+)_") == ["17", "17", "4"]


def test_a_rule_with_a_slash_sees_the_folders_and_one_without_the_last_part_alone():
    names = ["n000001/0001_01.jpg", "n000002/0001_01.jpg"]
    assert identities(names, "(.+)/") == ["n000001", "n000002"]
    assert identities(names, "(.+)_") == ["0001", "0001"]
    assert identities(["set_1/ann_01.jpg", "set_2/ann_02.jpg"], "(.+)_") == ["ann", "ann"]


@pytest.mark.parametrize(
    ("rule", "says"), [("(", "regular expression"), ("[^_]+_", "brackets"), ("(x)", "17_a"), ("(x?)", "17_a")]
)
def test_a_rule_that_does_not_fit_is_the_users_mistake(rule, says):
    with pytest.raises(UserError, match=says):
        identities(["17_a.png"], rule)


# embedders


@with_instruments
def test_the_network_sees_the_aligned_face_normalised():
    face = astronaut()
    network = cv2.dnn.readNetFromONNX(str(MOBILEFACENET))
    crop = aligned(face, POINTS)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    network.setInput(cv2.dnn.blobFromImage(((crop - mean) / std).astype(np.float32)))
    embedding = OnnxEmbedder(MOBILEFACENET).embed(face, POINTS)
    assert embedding.shape == (128,)
    assert np.linalg.norm(embedding) == pytest.approx(1)
    assert embedding @ unit(network.forward())[0] == pytest.approx(1)
    assert embedding @ OnnxEmbedder(MOBILEFACENET, "insightface").embed(face, POINTS) < 0.999


@with_instruments
def test_sface_sees_the_aligned_face_as_opencv_defines_it():
    face, embedder = astronaut(), SFace(MOBILEFACENET)  # another network, run in the same way
    network = cv2.dnn.readNetFromONNX(str(MOBILEFACENET))
    network.setInput(cv2.dnn.blobFromImage(aligned(face, POINTS)))  # RGB in 0..255
    assert embedder.embed(face, POINTS) @ unit(network.forward())[0] == pytest.approx(1)
    opencv = cv2.FaceRecognizerSF.create(str(MOBILEFACENET), "")
    row = np.concatenate(([180, 70, 90, 120], POINTS.ravel(), [1])).astype(np.float32)[None]
    theirs = unit(opencv.feature(opencv.alignCrop(np.ascontiguousarray(face[..., ::-1]), row)))[0]
    assert embedder.embed(face, POINTS) @ theirs > 0.98  # they interpolate linearly


@with_instruments
def test_people_are_told_apart_and_degraded_faces_less_well():
    detector, embedder = find_detector(YUNET), OnnxEmbedder(MOBILEFACENET)
    sharp, restored = [], {32: [], 16: []}
    for file in sorted((SHARED / "faces/test/celeba128").glob("*.png"))[:16]:
        face = images.load(file)
        points = detector(face)[0].landmarks
        sharp.append(embedder.embed(face, points))
        for small, embeddings in restored.items():
            embeddings.append(embedder.embed(images.degrade(face, small), points))
    strangers = impostor_cosines(np.array(sharp), np.arange(len(sharp)))
    same = {small: np.sum(np.multiply(sharp, found), axis=1) for small, found in restored.items()}
    assert sharp[0] @ sharp[0] == pytest.approx(1)
    assert abs(strangers.mean()) < 0.05
    assert verification_auc(same[32], strangers) > 0.99
    assert 0.85 < verification_auc(same[16], strangers) < 0.98  # 0.94 on 100 faces
    assert np.mean(same[32]) - np.mean(same[16]) > 0.3


@pytest.mark.parametrize("embedder", [OnnxEmbedder, SFace])
@pytest.mark.parametrize("content", [None, b"not a network"])
def test_a_file_that_is_no_network_is_named(tmp_path, embedder, content):
    file = tmp_path / "net.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"net\.onnx"):
        embedder(file)


def test_an_unknown_kind_of_embedder_is_told_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="arcface, insightface"):
        OnnxEmbedder(tmp_path / "net.onnx", "facenet")


def test_sface_is_taken_from_the_cache_or_says_how_to_fetch_it(monkeypatch, tmp_path):
    def cached(repo, file, **arguments):
        assert (repo, file) == ("opencv/face_recognition_sface", "face_recognition_sface_2021dec.onnx")
        return str(tmp_path / "cached.onnx")

    def not_cached(repo, file, **arguments):
        assert arguments == {"local_files_only": True}
        raise LocalEntryNotFoundError("not here")

    def offline(url, **arguments):
        raise httpx2.ConnectError("no route")

    monkeypatch.setattr(hub, "get_hf_file_metadata", offline)
    monkeypatch.setattr(hub, "hf_hub_download", cached)
    with pytest.raises(UserError, match=r"cached\.onnx"):
        SFace()
    monkeypatch.setattr(hub, "hf_hub_download", not_cached)
    with pytest.raises(UserError, match="hf download opencv/face_recognition_sface"):
        SFace()
