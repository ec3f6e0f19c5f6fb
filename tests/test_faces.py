"""Finding faces, cutting them out, putting them back."""

from pathlib import Path

import cv2
import httpx2
import numpy as np
import pytest
import skimage.data
from huggingface_hub import constants
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from skimage.transform import SimilarityTransform

from sparnet import faces, hub, images
from sparnet.errors import UserError
from sparnet.faces import Face, crop_face, crop_transform, find_detector, paste_into, soft_mask

SHARED = Path(__file__).parents[2] / "shared"
YUNET = SHARED / "instruments" / "face_detection_yunet.onnx"
ASTRONAUT_EYES = np.array([(205.0, 104), (246, 104)])  # read off the picture


def needed(path):
    if not path.exists():
        pytest.skip(f"{path.relative_to(SHARED.parent)} is not here")
    return path


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def astronaut():
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def lbp():
    return faces.Detector("LBP cascade", "", faces.LBPCascade())


@pytest.fixture
def fresh():
    """The choice of a detector is kept for the process: not from or for other tests."""
    find_detector.cache_clear()
    yield
    find_detector.cache_clear()


def similarity(scale, degrees, shift):
    angle = np.radians(degrees)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def noise(rng, height, width):
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def apply(affine, points):
    return points @ affine[:, :2].T + affine[:, 2]


def test_landmarks_come_to_lie_on_the_template_whatever_the_photo_did_to_them():
    template = (faces.TEMPLATE + 0.5) / 4 - 0.5
    for degrees in (0, 30, -90, 179):
        to_photo = similarity(0.37, degrees, (200, 90))
        face = Face(np.zeros(4), apply(to_photo, template))
        to_crop = crop_transform(face, 128)
        assert np.allclose(apply(to_crop, face.landmarks), template, atol=1e-6)
        assert np.linalg.det(to_crop[:, :2]) > 0


def test_inexact_landmarks_are_fitted_as_scikit_image_fits_them(rng):
    for _ in range(5):
        landmarks = faces.TEMPLATE * 0.3 + rng.normal(0, 8, (5, 2))
        expected = SimilarityTransform.from_estimate(landmarks, faces.TEMPLATE)
        scaled = crop_transform(Face(np.zeros(4), landmarks), 512)
        # Umeyama's fit differs from plain least squares only in how it scales noise
        assert np.linalg.norm(scaled - expected.params[:2]) < 0.02 * np.linalg.norm(scaled)


def test_a_box_alone_is_cut_out_upright_with_the_face_where_the_template_has_it():
    centre, size = np.array(faces.FACE_BOX[:2]), np.array(faces.FACE_BOX[2:])
    box = (
        np.concatenate((centre - size / 2, centre + size / 2)) + 0.5
    ) / 4 - 0.5  # a face that is already on a 128 template
    assert np.allclose(crop_transform(Face(box), 128), [[1, 0, 0], [0, 1, 0]])
    assert np.allclose(crop_transform(Face(box * 2 + 10), 128)[:, :2], np.eye(2) / 2)


@pytest.mark.parametrize("box", [(10, 10, 10, 40), (40, 40, 10, 10), (10, 10, 12, 12), (np.nan, 0, 9, 9)])
def test_a_box_that_spans_no_face_is_a_user_error(box):
    with pytest.raises(UserError, match=r"left,top,right,bottom"):
        crop_transform(Face(np.array(box, float)), 128)


@pytest.mark.parametrize("landmarks", [np.full((5, 2), 7.0), np.full((5, 2), np.nan)])
def test_landmarks_that_span_no_face_are_a_user_error(landmarks):
    with pytest.raises(UserError, match="five points"):
        crop_transform(Face(np.zeros(4), landmarks), 128)


def test_a_crop_at_unit_scale_is_a_slice(rng):
    photo = noise(rng, 200, 300)
    crop = crop_face(photo, similarity(1, 0, (-50, -30)), 64)
    assert np.array_equal(crop, photo[30:94, 50:114])


def test_a_crop_over_the_edge_continues_by_reflection(rng):
    photo = noise(rng, 100, 120)
    padded = np.pad(photo, ((40, 40), (40, 40), (0, 0)), mode="reflect")
    for x, y in ((-30, -20), (90, 70), (-30, 70), (28, -25)):
        crop = crop_face(photo, similarity(1, 0, (-x, -y)), 64)
        assert np.array_equal(crop, padded[y + 40 : y + 104, x + 40 : x + 104])


@pytest.mark.parametrize("factor", [2, 3, 5.5, 12])
def test_a_face_larger_than_the_crop_is_reduced_without_aliasing(rng, factor):
    side = int(64 * factor)
    photo = noise(rng, side + 40, side + 40)
    crop = crop_face(photo, np.array([[1 / factor, 0, -20 / factor], [0, 1 / factor, -20 / factor]]), 64)
    expected = np.asarray(Image.fromarray(photo).resize((64, 64), Image.BOX, box=(20, 20, 20 + side, 20 + side)))
    plain = cv2.warpAffine(photo, np.array([[1 / factor, 0, 0], [0, 1 / factor, 0]]), (64, 64))
    assert crop.std() < 1.15 * expected.std()  # noise that aliases keeps its contrast
    assert plain.std() > 1.3 * crop.std()


def test_a_reduced_face_looks_as_pillow_reduces_it(astronaut):
    large = np.asarray(Image.fromarray(astronaut).resize((3072, 3072), Image.BICUBIC))  # the face is 1,100 pixels high
    to_crop = np.array([[1 / 12, 0, 0.5 / 12 - 0.5 - 70], [0, 1 / 12, 0.5 / 12 - 0.5]])
    expected = np.asarray(Image.fromarray(large).resize((128, 128), Image.BOX, box=(840, 0, 840 + 1536, 1536)))
    assert peak_signal_noise_ratio(expected, crop_face(large, to_crop, 128)) > 35


def test_an_enlarged_face_looks_as_opencv_enlarges_it(rng):
    photo = noise(rng, 40, 40)
    enlarged = cv2.resize(photo, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    crop = crop_face(photo, np.array([[8, 0, 3.5 - 96], [0, 8, 3.5 - 96]]), 128)
    assert np.abs(crop.astype(int) - enlarged[96:224, 96:224]).max() <= 3


def paste_face(photo, restored, to_crop, crop=None, original=None):
    """`paste_into` a copy."""
    pasted = photo.copy()
    paste_into(pasted, restored, to_crop, crop, photo if original is None else original)
    return pasted


def test_photos_too_long_for_opencv_are_cut_and_pasted(rng):
    photo = noise(rng, 64, 40_000)
    to_crop = similarity(1, 0, (-39_900, 0))
    crop = crop_face(photo, to_crop, 64)
    assert np.array_equal(crop, photo[:, 39_900:39_964])
    assert np.array_equal(paste_face(photo, crop, to_crop, crop), photo)


TRANSFORMS = {
    "unit": similarity(1, 0, (-40, -30)),
    "rotated": similarity(0.8, 25, (-20, -60)),
    "upside down": similarity(0.6, 180, (100, 80)),
    "large": similarity(0.3, 3, (0, 0)),
    "tiny": similarity(16, 10, (-900, -800)),
    "corner": similarity(0.7, -15, (40, 40)),
    "mostly outside": similarity(1, 0, (50, 50)),
    "outside": similarity(1, 0, (500, 500)),
}


@pytest.mark.parametrize("to_crop", TRANSFORMS.values(), ids=TRANSFORMS)
def test_pasting_an_untouched_crop_leaves_the_photo_unchanged(rng, to_crop):
    photo = noise(rng, 150, 180)
    before = photo.copy()
    crop = crop_face(photo, to_crop, 64)
    assert np.array_equal(paste_face(photo, crop, to_crop, crop), photo)
    assert np.array_equal(photo, before)


def test_replacing_with_an_untouched_crop_is_exact_at_unit_scale(rng):
    photo, to_crop = noise(rng, 150, 180), TRANSFORMS["unit"]
    pasted = paste_face(photo, crop_face(photo, to_crop, 64), to_crop)
    assert np.abs(pasted.astype(int) - photo).max() <= 1


def test_replacing_with_an_untouched_crop_costs_little_where_the_crop_holds_the_detail(astronaut):
    for scale, degrees in ((1.0, 20), (1.7, 0), (2.5, -35)):
        to_crop = similarity(scale, degrees, (0, 0))
        to_crop[:, 2] = 127.5 - to_crop[:, :2] @ (224, 120)
        pasted = paste_face(astronaut, crop_face(astronaut, to_crop, 256), to_crop)
        changed = (pasted != astronaut).any(axis=2)
        assert changed.any()
        assert peak_signal_noise_ratio(astronaut[:240, 100:350], pasted[:240, 100:350]) > 40


def test_replacing_lets_nothing_of_the_photo_show_through(rng):
    photo = noise(rng, 150, 180)
    for to_crop in (TRANSFORMS["unit"], TRANSFORMS["rotated"], TRANSFORMS["upside down"]):
        pasted = paste_face(photo, np.full((64, 64, 3), 90, np.uint8), to_crop)
        points = np.array([(x, y) for x in range(26, 39) for y in range(26, 39)], float)
        inverse = np.linalg.inv(np.vstack((to_crop, (0, 0, 1))))[:2]
        x, y = np.rint(apply(inverse, points)).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < 180) & (y < 150)
        assert inside.any()
        assert (pasted[y[inside], x[inside]] == 90).all()


@pytest.mark.parametrize("to_crop", TRANSFORMS.values(), ids=TRANSFORMS)
def test_pasting_leaves_no_fringe_and_nothing_beside_the_crop(to_crop):
    white = np.full((150, 180, 3), 255, np.uint8)
    assert (paste_face(white, np.full((64, 64, 3), 255, np.uint8), to_crop) == 255).all()
    pasted = paste_face(white, np.zeros((64, 64, 3), np.uint8), to_crop)[..., 0]
    y, x = np.mgrid[:150, :180]
    in_crop = apply(to_crop, np.column_stack((x.ravel(), y.ravel()))).reshape(150, 180, 2)
    half = max(1, np.sqrt(np.linalg.det(to_crop[:, :2]))) / 2  # a pixel of the photo may lie half inside
    outside = ((in_crop < -0.5 - half) | (in_crop > 63.5 + half)).any(axis=2)
    assert (pasted[outside] == 255).all()


def test_a_pasted_face_fades_without_a_step():
    white = np.full((200, 200, 3), 255, np.uint8)
    pasted = paste_face(white, np.zeros((128, 128, 3), np.uint8), similarity(1, 0, (-36, -36)))[..., 0].astype(int)
    for line in (pasted[100], pasted[:, 100], np.diag(pasted)):
        assert np.abs(np.diff(line)).max() < 255 / 8
        assert (np.diff(line[:100]) <= 0).all()
        assert line[100] == 0


def test_detail_that_the_crop_cannot_hold_stays_when_the_change_is_pasted(rng):
    photo, to_crop = noise(rng, 300, 300) // 2, similarity(0.25, 0, (-5, -5))
    crop = crop_face(photo, to_crop, 64)
    pasted = paste_face(photo, crop + np.uint8(20), to_crop, crop)
    assert np.array_equal(pasted[120:180, 120:180], photo[120:180, 120:180] + 20)


def test_where_two_faces_overlap_the_change_is_not_made_twice(rng):
    photo, to_crop = noise(rng, 150, 180) // 2, TRANSFORMS["unit"]
    crop = crop_face(photo, to_crop, 64)
    brighter = crop + np.uint8(50)
    once = paste_face(photo, brighter, to_crop, crop, photo)
    twice = paste_face(once, brighter, to_crop, crop, photo)
    assert once[62, 72].tolist() == (photo[62, 72] + 50).tolist()
    assert (twice <= photo + 50).all()
    assert np.array_equal(twice[50:74, 60:84], once[50:74, 60:84])


def test_the_mask_is_one_inside_zero_at_the_border_and_symmetric():
    for size in (16, 128, 512):
        mask = soft_mask(size)
        assert mask[size // 2, size // 2] == 1
        assert max(mask[0].max(), mask[:, -1].max()) == 0
        assert np.allclose(mask, mask[::-1])
        assert np.allclose(mask, mask.T)
    assert (soft_mask(64, (False, False)) == 1).all()
    assert (soft_mask(64, (False, True))[32] == 1).all()
    assert (soft_mask(64, (False, True))[0] == 0).all()


@pytest.fixture
def near(astronaut):
    """The part of the photo where she is, a third of it, because the cascade takes its time; it begins at (80, 0)."""
    return np.ascontiguousarray(astronaut[:300, 80:380])


def test_the_cascade_finds_the_astronaut_and_puts_her_eyes_near_the_template(near, lbp):
    (face,) = lbp(near)
    assert face.landmarks is None
    eyes = apply(crop_transform(face, 512), ASTRONAUT_EYES - (80, 0))
    assert np.abs(eyes - faces.TEMPLATE[:2]).max() < 45  # pixels of 512


def test_the_cascade_gives_boxes_in_photo_pixels_however_large_the_photo_is(near, lbp, monkeypatch):
    monkeypatch.setattr(faces.LBPCascade, "SIDE", 300)
    large = np.asarray(Image.fromarray(near).resize((1800, 1800), Image.BICUBIC))
    (face,), (large_face,) = lbp(near), lbp(large)
    assert np.allclose(large_face.box / 6, face.box, atol=12)


def test_no_face_is_found_where_there_is_none(rng, lbp):
    for photo in (np.zeros((100, 100, 3), np.uint8), noise(rng, 120, 90), noise(rng, 16, 16), noise(rng, 17, 900)):
        assert lbp(photo) == []
    assert lbp(skimage.data.coffee()[100:300, :300]) == []


def test_without_network_and_cache_the_cascade_takes_over_and_says_so(fresh, monkeypatch, tmp_path, near, caplog):
    def offline(*_, **__):
        raise httpx2.ConnectError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "get_hf_file_metadata", offline)
    detector = find_detector()
    assert detector.name == "LBP cascade"
    assert "Name or service not known" in caplog.text
    assert "hf download opencv/face_detection_yunet" in caplog.text  # for the host; a visitor is shown the note
    assert "hf download" not in detector.note
    assert "aligned by our landmark net landmarks5" in detector.note
    (face,) = detector(near)
    assert np.abs(face.landmarks[:2] - (ASTRONAUT_EYES - (80, 0))).max() < 8


def test_without_the_landmark_net_too_the_user_hears_that_faces_are_not_aligned(fresh, monkeypatch, tmp_path, near):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(faces, "LANDMARKS", tmp_path / "landmarks5")
    detector = find_detector()
    assert "not aligned" in detector.note
    (face,) = detector(near)
    assert face.landmarks is None


def test_offline_mode_is_respected(fresh, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    detector = find_detector()
    assert detector.name == "LBP cascade"
    assert "offline" in caplog.text.lower()


def test_only_absence_falls_back_other_errors_are_raised(fresh, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "get_hf_file_metadata", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        find_detector()


def test_a_cached_yunet_is_used_without_asking_the_network(fresh, monkeypatch, tmp_path, astronaut):
    def asked(*_, **__):
        raise AssertionError("the network was asked")

    repo = tmp_path / "models--opencv--face_detection_yunet"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    (snapshot / faces.YUNET_FILE).write_bytes(needed(YUNET).read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "get_hf_file_metadata", asked)
    detector = find_detector()
    assert detector.name == "YuNet"
    assert len(detector(astronaut)) == 1


def test_a_file_that_is_not_yunet_is_a_user_error(tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match="cannot use"):
        find_detector(tmp_path / "other.onnx")
    with pytest.raises(UserError, match="no file"):
        find_detector(tmp_path / "missing.onnx")


@pytest.fixture(scope="module")
def yunet():
    return find_detector(needed(YUNET))


def turned_eyes(quarters):
    """`ASTRONAUT_EYES` in np.rot90(astronaut, quarters), by turning about the middle of its 512x512 pixels."""
    return apply(SimilarityTransform(rotation=-np.pi / 2 * quarters).params[:2], ASTRONAUT_EYES - 255.5) + 255.5


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_face_is_found_and_upright_in_its_crop_and_pasted_back_in_place(astronaut, yunet, quarters):
    photo = np.ascontiguousarray(np.rot90(astronaut, quarters))
    (face,), (upright,) = yunet(photo), yunet(astronaut)
    assert np.abs(face.landmarks[:2] - turned_eyes(quarters)).max() < 8
    x1, y1, x2, y2 = face.box
    assert all(x1 < x < x2 and y1 < y < y2 for x, y in face.landmarks)
    to_crop = crop_transform(face, 128)
    crop = crop_face(photo, to_crop, 128)
    expected = crop_face(astronaut, crop_transform(upright, 128), 128)
    assert peak_signal_noise_ratio(expected, crop) > 35
    assert np.array_equal(paste_face(photo, crop, to_crop, crop), photo)


def test_a_face_that_is_found_surely_is_not_searched_in_turned_copies(astronaut, yunet, monkeypatch):
    shapes, look = [], yunet.find._look
    monkeypatch.setattr(yunet.find, "_look", lambda photo: shapes.append(photo.shape) or look(photo))
    yunet(astronaut)
    assert len(shapes) == 1


def test_small_faces_in_a_large_photo_are_found_once_each_wherever_they_are(rng, astronaut, yunet):
    coarse = rng.integers(60, 190, (25, 40, 3), np.uint8)
    scene = cv2.resize(coarse, (8000, 5000), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(astronaut, (340, 340), interpolation=cv2.INTER_AREA)  # her face is 60 pixels wide
    corners = [(0, 0), (1130, 270), (1710, 1180), (5200, 3100), (7660, 4660)]  # some where tiles overlap or begin
    for left, top in corners:
        scene[top : top + 340, left : left + 340] = small
    found = yunet(scene)
    assert len(found) == len(corners)
    assert 12 < found.smallest < 60
    eyes = sorted(face.landmarks[:2].tolist() for face in found)
    for (left, top), seen in zip(corners, eyes, strict=True):
        assert np.abs(seen - (ASTRONAUT_EYES * 340 / 512 + (left, top))).max() < 4


def test_the_smallest_size_that_was_searched_is_known(astronaut, yunet, lbp):
    assert yunet(astronaut).smallest == 12
    assert lbp(astronaut[:300, 80:380]).smallest == 24
    enlarged = cv2.resize(astronaut, (2560, 2560), interpolation=cv2.INTER_CUBIC)
    assert yunet(enlarged).smallest == 24  # a face was found at once, so nothing finer was looked at
    assert yunet(np.full((1500, 2560, 3), 90, np.uint8)).smallest == 12


def test_the_cascade_finds_a_turned_face_where_it_has_the_net(near):
    cascade = faces.LBPCascade(faces._landmark_net(faces.LANDMARKS))
    (face,) = cascade(np.ascontiguousarray(np.rot90(near)))
    x, y = (ASTRONAUT_EYES - (80, 0)).T
    assert np.abs(face.landmarks[:2] - np.column_stack((y, 299 - x))).max() < 8


def test_yunet_finds_the_eyes_at_every_size_of_photo_and_every_tilt(astronaut, yunet):
    for side in (100, 200, 512, 2500):
        photo = np.asarray(Image.fromarray(astronaut).resize((side, side), Image.LANCZOS))
        (face,) = yunet(photo)
        assert np.abs(face.landmarks[:2] * 512 / side - ASTRONAUT_EYES).max() < 8
    tilt = SimilarityTransform(rotation=np.radians(20), translation=(90, -60)).params[:2]
    tilted = cv2.warpAffine(astronaut, tilt, (512, 512))
    (face,) = yunet(tilted)
    assert np.abs(face.landmarks[:2] - apply(tilt, ASTRONAUT_EYES)).max() < 10
    eyes = apply(crop_transform(face, 128), face.landmarks[:2])
    assert abs(eyes[0, 1] - eyes[1, 1]) < 3  # upright again


def test_a_large_face_is_found_and_cut_out_as_a_small_one_is(astronaut, yunet):
    large = np.asarray(Image.fromarray(astronaut[:256, 96:352]).resize((3072, 3072), Image.BICUBIC))
    (face,) = yunet(large)
    assert face.box[3] - face.box[1] > 999
    small = Face(face.box, (face.landmarks + 0.5) / 12 - 0.5 + (96, 0))
    assert np.abs(small.landmarks[:2] - ASTRONAUT_EYES).max() < 8
    crops = (crop_face(large, crop_transform(face, 128), 128), crop_face(astronaut, crop_transform(small, 128), 128))
    assert peak_signal_noise_ratio(*crops) > 28


@pytest.mark.parametrize("tier", ["YuNet", "LBP cascade"])
def test_people_are_found_in_every_photo_and_no_person_among_dogs(tier, yunet, lbp):
    detector = yunet if tier == "YuNet" else lbp
    for path in sorted(needed(SHARED / "faces" / "test" / "photos").iterdir()):
        found = detector(images.load(path))
        assert (len(found) == 0) == (path.stem == "dogs"), path.name
        areas = [np.prod(face.box[2:] - face.box[:2]) for face in found]
        assert areas == sorted(areas, reverse=True)


def test_the_cascade_centres_aligned_faces(lbp):
    centres = []
    for path in sorted(needed(SHARED / "faces" / "test" / "hd512").iterdir())[:8]:
        small = images.resize(images.load(path), 256)
        found = lbp(small)
        assert found, path.name
        eyes = apply(crop_transform(found[0], 512), (faces.TEMPLATE[:2] + 0.5) / 2 - 0.5)
        centres.append(eyes.mean(axis=0))
    assert np.median(np.abs(centres - faces.TEMPLATE[:2].mean(axis=0))) < 30  # pixels of 512
