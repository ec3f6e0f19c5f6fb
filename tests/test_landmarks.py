"""The landmark net: where it sees the points, what it is used for, how it is trained."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage.transform import AffineTransform, SimilarityTransform

from sparnet import faces
from sparnet.errors import UserError
from sparnet.faces import LANDMARKS, Face, crop_face, crop_transform, refine, transform_points, whole_landmarks
from sparnet.landmarks import LandmarkConfig, LandmarkNet, five_of_68, read_landmarks
from training.data import index_pictures
from training.landmarks import CELEBA, YAW, aligned, degraded, deviations, most_frontal, parallax, warped
from training.landmarks import main as train
from training.landmarks_score import Errors, shaken, true_box

SHARED = Path(__file__).parents[2] / "shared"
EYES = np.array([(205.0, 104), (246, 104)])  # of the astronaut, read off the picture
BOX = np.array([177.0, 68, 273, 190])  # her face, brow to chin


@pytest.fixture(scope="module")
def net():
    return LandmarkNet.from_pretrained(LANDMARKS)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def turned(degrees):
    """The astronaut turned about her face, and where her eyes went."""
    turn = cv2.getRotationMatrix2D((225, 125), degrees, 1)
    picture = cv2.warpAffine(skimage.data.astronaut(), turn, (512, 512), borderMode=cv2.BORDER_REFLECT_101)
    return picture, AffineTransform(np.vstack((turn, (0, 0, 1))))(EYES)


def roll(points):
    dx, dy = points[1] - points[0]
    return np.degrees(np.arctan2(dy, dx))


@pytest.mark.parametrize("larger", [1 / 1.3, 1, 1.3])
def test_in_a_picture_that_is_a_face_the_eyes_are_where_a_person_sees_them_though_the_template_lies_elsewhere(larger):
    to_crop = crop_transform(Face(BOX), 128)
    to_crop = np.column_stack((to_crop[:, :2] * larger, larger * (to_crop[:, 2] - 63.5) + 63.5 - (0, 6)))
    eyes = transform_points(to_crop, EYES)
    landmarks = whole_landmarks(crop_face(skimage.data.astronaut(), to_crop, 128))
    far = 0.15 * np.linalg.norm(eyes[1] - eyes[0])
    assert np.linalg.norm(landmarks[:2] - eyes, axis=1).max() < far
    template = (faces.TEMPLATE[:2] + 0.5) / 4 - 0.5
    assert np.linalg.norm(template - eyes, axis=1).max() > far


def test_of_a_whole_picture_points_that_cannot_be_are_dropped_and_without_the_net_there_are_none(monkeypatch, tmp_path):
    face, template = np.zeros((128, 128, 3), np.uint8), (faces.TEMPLATE + 0.5) / 4 - 0.5
    for moved, there in ((0, True), (40, False)):
        monkeypatch.setattr(faces, "_landmark_net", lambda folder, moved=moved: Says(faces.TEMPLATE + 4 * moved))
        landmarks = whole_landmarks(face)
        assert np.allclose(landmarks, template) if there else landmarks is None
    monkeypatch.undo()
    monkeypatch.setattr(faces, "LANDMARKS", tmp_path / "landmarks5")
    assert whole_landmarks(face) is None


@pytest.mark.parametrize("degrees", [-30, -15, 0, 15, 30])
def test_a_turned_face_is_cut_out_upright_where_its_box_alone_leaves_it_turned(net, degrees):
    picture, eyes = turned(degrees)
    landmarks = refine(picture, BOX, net)
    assert np.linalg.norm(landmarks[:2] - eyes, axis=1).max() < 0.15 * 41  # of the distance of her eyes
    in_crop = [
        AffineTransform(np.vstack((crop_transform(face, 512), (0, 0, 1))))(eyes)
        for face in (Face(BOX), Face(BOX, landmarks))
    ]
    assert abs(roll(in_crop[0]) + degrees) < 0.1
    assert abs(roll(in_crop[1])) < 6


def test_a_box_that_is_off_is_put_right(net, rng):
    picture, _ = turned(0)
    for _ in range(4):
        moved = shaken(BOX, rng)
        landmarks = refine(picture, moved, net)
        assert np.linalg.norm(landmarks[:2] - EYES, axis=1).max() < 0.2 * 41, moved


def test_points_follow_the_photo_s_size(net):
    picture, _ = turned(10)
    large = cv2.resize(picture, (2048, 2048), interpolation=cv2.INTER_CUBIC)
    box = (BOX + 0.5) * 4 - 0.5
    assert np.abs((refine(large, box, net) + 0.5) / 4 - 0.5 - refine(picture, BOX, net)).max() < 1.5


class Says:
    """A net that always says the same points of a 512x512 crop."""

    config = LandmarkConfig(size=512)

    def __init__(self, points):
        self.points = np.asarray(points, float)

    def locate(self, crop):
        assert crop.shape == (512, 512, 3)
        return self.points


CENTRE = faces.TEMPLATE.mean(axis=0)


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), 256.0),
        faces.TEMPLATE + 200,
        (faces.TEMPLATE - CENTRE) * 2 + CENTRE,
        (faces.TEMPLATE - CENTRE) / 2 + CENTRE,
        (faces.TEMPLATE - CENTRE) * -1 + CENTRE,
        faces.TEMPLATE[[3, 4, 2, 0, 1]],
        np.full((5, 2), np.nan),
    ],
    ids=["one spot", "outside", "large", "small", "upside down", "eyes below mouth", "no numbers"],
)
def test_points_that_cannot_be_the_box_s_face_are_refused(points):
    assert refine(np.zeros((300, 300, 3), np.uint8), np.array([50.0, 50, 150, 190]), Says(points)) is None


def test_points_where_the_box_has_them_are_kept():
    box = np.array([50.0, 50, 150, 190])
    landmarks = refine(np.zeros((300, 300, 3), np.uint8), box, Says(faces.TEMPLATE))
    assert np.allclose(crop_transform(Face(box, landmarks), 128), crop_transform(Face(box), 128))


def test_the_offline_detector_s_faces_have_the_net_s_points(net):
    picture, eyes = turned(12)
    picture = picture[:300, 80:380]  # where she is: the cascade takes its time
    (face,) = faces.LBPCascade(net)(picture)
    assert np.abs(face.landmarks[:2] - eyes + (80, 0)).max() < 0.15 * 41
    (alone,) = faces.LBPCascade()(picture)
    assert alone.landmarks is None
    assert np.array_equal(alone.box, face.box)


def test_where_the_net_is_unsure_the_box_is_kept():
    (face,) = faces.LBPCascade(Says(np.full((5, 2), 9.0)))(turned(0)[0][:300, 80:380])
    assert face.landmarks is None


def test_the_bundled_net_is_small_and_its_card_states_data_scores_and_licence():
    assert (LANDMARKS / "model.safetensors").stat().st_size < 1_000_000
    assert all(
        tensor.dtype in (torch.float16, torch.int64) for tensor in load_file(LANDMARKS / "model.safetensors").values()
    )
    card = (LANDMARKS / "README.md").read_text()
    assert all(word in card for word in ("CelebA", "Non-commercial", "helen128", "%", "Limits"))


def test_the_net_s_output_is_the_mean_place_under_its_maps():
    net = LandmarkNet(LandmarkConfig(32, (4, 4, 4, 4))).eval()
    maps = torch.full((1, 5, 8, 8), -50.0)
    for point, (x, y) in enumerate([(0, 0), (7, 0), (3, 4), (0, 7), (7, 7)]):
        maps[0, point, y, x] = 50
    maps[0, 2, 4, 4] = 50  # halfway between two places
    net.maps.register_forward_hook(lambda *_: maps)
    points = net(torch.zeros(1, 3, 32, 32))[0]
    assert points.tolist() == [[1.5, 1.5], [29.5, 1.5], [15.5, 17.5], [1.5, 29.5], [29.5, 29.5]]


@pytest.mark.parametrize("config", [{"size": 40}, {"channels": (1, 2, 3)}, {"channels": (0, 1, 1, 1)}])
def test_a_configuration_that_cannot_be_is_a_value_error(config):
    with pytest.raises(ValueError, match="multiple of 16"):
        LandmarkConfig(**config)


def test_the_points_of_a_warped_picture_are_where_its_content_went():
    """Witness: a dot painted on one point alone is seen there, and the points of the others stay dark."""
    points = CELEBA - (16, 32)
    for seed in range(4):
        views = []
        for x, y in points:
            picture = np.zeros((160, 160, 3), np.uint8)
            cv2.circle(picture, (round(x * 16), round(y * 16)), 5 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
            view, there = warped(picture, points, 64, np.random.default_rng(seed))
            views.append(view[..., 0])
        inside = (there > 1).all(axis=1) & (there < 62).all(axis=1)
        assert inside.any()
        columns, rows = np.rint(there[inside]).astype(int).T
        lit = np.array(views)[:, rows, columns] > 100
        mirrored = lit[[1, 0, 2, 4, 3]]  # a view may be
        assert np.array_equal(lit, np.eye(5, dtype=bool)[:, inside]) or np.array_equal(
            mirrored, np.eye(5, dtype=bool)[:, inside]
        )


@pytest.mark.parametrize("yaw", [-YAW, 10, YAW])
def test_a_turned_head_s_nose_goes_ahead_of_its_mouth_its_outline_the_other_way_and_nothing_folds(yaw):
    eyes, turn = np.array([(24.0, 30), (40, 30)]), np.radians(yaw)
    nose, mouth, outline = (
        parallax(np.array(32.0 + x), np.array(30.0 + y), eyes, turn)[0] for x, y in [(0, 10), (0, 17), (16, 8)]
    )
    assert np.abs(parallax(*eyes.T, eyes, turn)).max() < 0.05 * 16  # of the distance of the eyes
    assert 0.3 < mouth / nose < 0.7
    assert outline / nose < -0.5
    assert np.sign(nose) == np.sign(yaw)
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    move = parallax(x, y, eyes, turn)
    assert np.diff(x - move[0], axis=1).min() > 0
    assert np.abs(move[1]).max() < 1e-9


def test_a_head_turns_about_the_axis_across_its_own_eyes(rng):
    eyes, x, y = np.array([(24.0, 30), (40, 30)]), *rng.uniform(0, 64, (2, 20))
    roll = SimilarityTransform(scale=1.5, rotation=0.4, translation=(5, -3))
    there = roll(np.column_stack((x, y)))
    upright = roll(np.column_stack((x, y)) + parallax(x, y, eyes, 0.5).T)
    assert np.allclose(there + parallax(*there.T, roll(eyes), 0.5).T, upright)


def test_faces_own_points_are_those_the_net_sees_about_canonical_ones(tmp_path, rng):
    """Witness: scikit-image's similarity from the net's crop to the picture."""
    moves = rng.normal(0, 2, (6, 5, 2))
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (160, 160, 3), np.uint8)).save(tmp_path / f"{number}.png")
    to_picture = SimilarityTransform.from_estimate((faces.TEMPLATE + 0.5) / 8 - 0.5, CELEBA - (16, 32))
    net = SimpleNamespace(config=LandmarkConfig(), locate=lambda crop: next(seen))
    seen = iter(to_picture.inverse(CELEBA - (16, 32) + move) for move in moves)
    assert np.allclose(deviations(index_pictures([tmp_path]).items, net), moves - moves.mean(axis=0), atol=0.01)


def test_the_most_frontal_faces_are_those_whose_nose_is_between_the_eyes():
    aside = np.zeros((4, 5, 2))
    aside[:, 2, 0] = 3, -1, -4, 0
    aside[2, :2, 0] = -4  # both eyes too: the face is beside its place, not turned
    assert most_frontal(aside, 0.5).tolist() == [False, False, True, True]
    assert most_frontal(aside, 1).all()


def test_a_mirrored_face_has_its_left_eye_left():
    picture = np.zeros((160, 160, 3), np.uint8)
    for seed in range(10):
        _, points = warped(picture, CELEBA - (16, 32), 64, np.random.default_rng(seed))
        assert points[0, 0] < points[1, 0]


def test_views_are_drawn_from_the_seed_alone(rng):
    picture = rng.integers(0, 256, (160, 160, 3), np.uint8)

    def view(seed):
        generator = np.random.default_rng(seed)
        return degraded(warped(picture, CELEBA - (16, 32), 64, generator)[0], generator)

    assert np.array_equal(view(1), view(1))
    assert not np.array_equal(view(1), view(2))
    assert view(1).dtype == np.uint8
    assert view(1).shape == (64, 64, 3)


def test_faces_of_an_unknown_alignment_are_a_user_error(tmp_path):
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / "face.png")
    with pytest.raises(UserError, match=r"face\.png is 100 x 100"):
        aligned(index_pictures([tmp_path]).items[0])


def test_training_writes_a_net_that_loads_the_same_for_the_same_seed(tmp_path, rng):
    faces = tmp_path / "faces"
    faces.mkdir()
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (160, 160, 3), np.uint8)).save(faces / f"{number}.png")
    for out, seed, init in (("a", 0, None), ("b", 0, None), ("c", 1, None), ("d", 0, tmp_path / "c")):
        train([faces], tmp_path / out, init, 0.5, steps=2, batch_size=4, seed=seed)
    first, same, other, further = ((tmp_path / out / "model.safetensors").read_bytes() for out in "abcd")
    assert first == same
    assert len({first, other, further}) == 3
    assert LandmarkNet.from_pretrained(tmp_path / "a").locate(np.zeros((64, 64, 3), np.uint8)).shape == (5, 2)


def test_a_net_is_not_written_among_its_pictures(tmp_path):
    with pytest.raises(UserError, match="would be read as data"):
        train([tmp_path], tmp_path / "net")


def test_on_labelled_faces_the_net_s_alignment_is_several_times_better_than_the_box_s(net, rng):
    folder = SHARED / "faces" / "test" / "helen128"
    if not folder.exists():
        pytest.skip("shared/faces/test/helen128 is not here")
    score = Errors(net)
    for path in sorted(folder.glob("*.png")):
        truth = five_of_68(np.array(json.loads(path.with_suffix(".json").read_text())["landmarks68"]))
        score.add(np.asarray(Image.open(path).convert("RGB")), shaken(true_box(truth), rng), truth)
    assert len(score.alone) == 50
    alone, refined = np.mean(score.alone, axis=0), np.mean(score.refined, axis=0)
    assert refined[:5].mean() < 0.1  # of the distance of the eyes
    assert refined[:2].mean() < 0.08
    assert refined[2] < 0.14  # heads turned aside
    assert refined[5] < alone[5] / 2.5


def test_a_mirrored_crop_has_mirrored_points(net, rng):
    crop = rng.integers(0, 256, (64, 64, 3), np.uint8)
    mirrored = net.locate(np.ascontiguousarray(crop[:, ::-1]))
    assert np.allclose(net.locate(crop), mirrored[[1, 0, 2, 4, 3]] * (-1, 1) + (63, 0), atol=1e-3)


# known landmarks


def pts(points):
    rows = "\n".join(f"{x} {y}" for x, y in points)
    return f"version: 1\nn_points:  {len(points)}\n{{\n{rows}\n}}\n"


@pytest.fixture
def truth():
    """68 points anywhere."""
    return np.random.default_rng(0).uniform(0, 128, (68, 2))


def test_json_is_read_as_it_is_and_pts_counts_pixels_from_one(tmp_path, truth):
    (tmp_path / "a.json").write_text(json.dumps({"landmarks68": truth.tolist()}))
    (tmp_path / "b.pts").write_text(pts((truth + 1).tolist()))
    assert read_landmarks(tmp_path / "a.png") == pytest.approx(truth)
    assert read_landmarks(tmp_path / "b.jpg") == pytest.approx(truth)
    assert read_landmarks(tmp_path / "c.png") is None


def test_json_is_preferred(tmp_path, truth):
    (tmp_path / "a.json").write_text(json.dumps({"landmarks68": truth.tolist()}))
    (tmp_path / "a.pts").write_text("damaged")
    assert read_landmarks(tmp_path / "a.png") == pytest.approx(truth)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{"),
        ("a.json", "[1, 2]"),
        ("a.json", '{"landmarks5": []}'),
        ("a.json", json.dumps({"landmarks68": [[1, 2]] * 67})),
        ("a.json", json.dumps({"landmarks68": [[1, 2, 3]] * 68})),
        ("a.json", json.dumps({"landmarks68": [[1, None]] * 68})),
        ("a.pts", pts([(1, 2)] * 67)),
        ("a.pts", pts([("x", "y")] * 68)),
        ("a.pts", "1 2\n" * 68),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        read_landmarks(tmp_path / "a.png")
