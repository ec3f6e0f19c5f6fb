"""The straight line from a photo to its restoration."""

from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from made_up import SMALL

from sparnet import SPARNet, SPARNetConfig, images
from sparnet.errors import UserError
from sparnet.faces import Detector, Face, Faces
from sparnet.model import Trace
from sparnet.restorer import Restorer

BOX = np.array([170.0, 60, 270, 190])


class Copying(SPARNet):
    """Gives its input back, brighter by `brighter` of 255."""

    brighter = 0

    def trace(self, face, edit=None, features=False):
        trace = super().trace(face, edit, features)
        return Trace(face + self.brighter / 127.5, trace.alphas, trace.features)


class Broken(SPARNet):
    def trace(self, face, edit=None, features=False):
        trace = super().trace(face, edit, features)
        return Trace(trace.restored * torch.nan, trace.alphas, trace.features)


def model(kind=SPARNet, **config):
    torch.manual_seed(0)
    return kind(replace(SMALL, **{"degraded_size": 8} | config)).eval()


def finder(*boxes):
    return Detector(
        "a stub", "Faces were searched with a stub.", lambda photo: [Face(np.array(b, float)) for b in boxes]
    )


@pytest.fixture(scope="module")
def photo():
    return skimage.data.astronaut()


def test_a_restoration_holds_every_step_of_every_face(photo):
    network = model()
    (face,) = Restorer(network, finder(BOX))(photo, features=True).faces
    assert face.crop.shape == face.degraded.shape == face.restored.shape == (32, 32, 3)
    assert np.array_equal(face.degraded, images.degrade(face.crop, 8))
    expected = network.trace(images.to_tensor(face.degraded), features=True)
    assert np.array_equal(face.restored, images.to_image(expected.restored))
    names = [plan.name for plan in network.config.units()]
    assert list(face.alphas) == list(face.features) == names
    for name in names:
        assert torch.equal(face.alphas[name], expected.alphas[name][0])
        assert torch.equal(face.features[name], expected.features[name][0])
        assert face.alphas[name].dtype == torch.float32
        assert not face.alphas[name].requires_grad
    assert Restorer(network, finder(BOX))(photo).faces[0].features is None


def test_simulating_is_the_default_where_the_model_has_a_size_to_reduce_to(photo):
    (face,) = Restorer(model(), finder(BOX))(photo).faces
    assert not np.array_equal(face.degraded, face.crop)
    (face,) = Restorer(model(degraded_size=None), finder(BOX))(photo).faces
    assert np.array_equal(face.degraded, face.crop)
    with pytest.raises(UserError, match="Restore them as they are"):
        Restorer(model(degraded_size=None), finder(BOX))(photo, mode="simulate")
    with pytest.raises(ValueError, match="'simulate', 'as_is'"):
        Restorer(model(), finder(BOX))(photo, mode="asis")


def test_a_network_that_changes_nothing_leaves_the_photo_as_it_is(photo):
    result = Restorer(model(Copying), finder(BOX, (0, 0, 60, 80), (480, 480, 540, 560)))(photo, mode="as_is")
    assert len(result.faces) == 3
    assert np.array_equal(result.photo, photo)


def test_simulating_replaces_the_detail_of_the_face_and_nothing_else(photo):
    before = photo.copy()
    result = Restorer(model(Copying), finder(BOX))(photo)
    assert np.array_equal(photo, before)
    roughness = [np.abs(np.diff(image[90:150, 200:240].astype(int), axis=1)).mean() for image in (result.photo, photo)]
    assert roughness[0] < roughness[1] / 2
    changed = (result.photo != photo).any(axis=2)
    y, x = changed.nonzero()
    assert (x.min(), y.min()) >= (100, 0)
    assert changed[:, :80].sum() == changed[300:].sum() == 0


def test_overlapping_faces_are_cut_from_the_photo_and_changed_once(photo):
    network = model(Copying)
    network.brighter = 40
    dark = photo // 2
    result = Restorer(network, finder(BOX, BOX))(dark, mode="as_is")
    assert np.array_equal(result.faces[0].crop, result.faces[1].crop)
    change = result.photo.astype(int) - dark
    assert change.max() == 40
    assert (change[115:135, 210:230] == 40).all()


def test_no_face_is_a_normal_result_that_says_what_to_do(photo):
    result = Restorer(model(), finder())(photo)
    assert result.faces == []
    assert result.failed == 0
    assert np.array_equal(result.photo, photo)
    assert any("No human face was found" in note and "give its box" in note for note in result.notes)
    assert result.detector == "a stub"


def test_the_smallest_size_that_was_searched_is_told(photo):
    detector = Detector("a stub", "A stub searched.", lambda photo: Faces([Face(BOX)], smallest=37.5))
    assert "Faces from about 38 pixels up were searched." in Restorer(model(), detector)(photo).notes


def test_a_face_that_cannot_be_restored_is_noted_and_the_others_are_restored(photo):
    # the detector's largest face comes first, so that the degenerate one is the second
    result = Restorer(model(Copying), finder((9, 9, 9, 9), BOX))(photo)
    assert len(result.faces) == 1
    assert result.failed == 1
    assert any(note.startswith("Face 2 was not restored") for note in result.notes)


def test_a_photo_without_colour_comes_back_without_and_the_user_is_told(photo):
    grey = images.to_grey(photo)
    network = model()
    for mode in ("simulate", "as_is"):
        result = Restorer(network, finder(BOX))(grey, mode=mode)
        (face,) = result.faces
        raw = images.to_image(network.trace(images.to_tensor(face.degraded)).restored)
        assert not images.is_grey(raw)
        assert images.is_grey(face.restored)
        assert images.is_grey(result.photo)
        assert np.abs(face.restored[..., 0] - raw @ (0.299, 0.587, 0.114)).max() < 1
        assert any("no colour" in note for note in result.notes)
    result = Restorer(network, finder(BOX))(photo)
    assert not images.is_grey(result.faces[0].restored)
    assert not any("no colour" in note for note in result.notes)


def test_a_network_that_answers_nan_restores_nothing(photo):
    result = Restorer(model(Broken), finder(BOX))(photo)
    assert result.faces == []
    assert result.failed == 1
    assert np.array_equal(result.photo, photo)
    assert any("not restored" in note for note in result.notes)


@pytest.mark.parametrize("shape", [(32, 32), (100, 100), (90, 50), (50, 90)])
def test_a_picture_that_is_already_a_face_is_taken_whole(photo, shape):
    network = model(Copying)
    network.brighter = 30
    picture = np.ascontiguousarray(photo[60 : 60 + shape[0], 180 : 180 + shape[1]]) // 2
    result = Restorer(network)(picture, faces="whole", mode="as_is")
    (face,) = result.faces
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    assert face.face.box.tolist() == [left, top, left + side, top + side]
    assert np.array_equal(face.crop, images.resize(picture[top : top + side, left : left + side], 32))
    change = result.photo.astype(int) - picture
    if shape[0] == shape[1]:
        assert (change == 30).all()  # to the very edges
    elif shape[0] > shape[1]:
        assert (change[shape[0] // 2] == 30).all()
        assert (change[:top] == 0).all()
    else:
        assert (change[:, shape[1] // 2] == 30).all()
        assert (change[:, :left] == 0).all()


def test_a_whole_picture_of_the_models_size_becomes_the_networks_answer(photo):
    network = model()
    picture = images.resize(photo[40:190, 150:300], 32)
    for mode in ("simulate", "as_is"):
        result = Restorer(network)(picture, faces="whole", mode=mode)
        seen = images.degrade(picture, 8) if mode == "simulate" else picture
        expected = images.to_image(network(images.to_tensor(seen)).detach())
        assert np.array_equal(result.faces[0].restored, expected)
        assert np.abs(result.photo.astype(int) - expected).max() <= (0 if mode == "simulate" else 1)


def test_boxes_and_faces_given_by_the_caller_are_used_without_searching(photo):
    def search(_):
        raise AssertionError("searched")

    restorer = Restorer(model(), Detector("a stub", "", search))
    by_box = restorer(photo, faces=[BOX.tolist()])
    by_face = restorer(photo, faces=[Face(BOX)])
    assert np.array_equal(by_box.photo, by_face.photo)
    assert "caller" in by_box.detector
    with pytest.raises(UserError, match="outside the photo"):
        restorer(photo, faces=[(600, 10, 700, 90)])
    with pytest.raises(ValueError, match="'whole'"):
        restorer(photo, faces="all")


def test_a_large_face_as_it_is_is_noted_for_a_model_of_small_ones(photo):
    notes = Restorer(model(), finder(BOX, (10, 10, 16, 18)))(photo, mode="as_is").notes
    assert [note[:6] for note in notes if "expect distortions" in note] == ["Face 1"]
    assert not any("expect" in note for note in Restorer(model(), finder(BOX))(photo).notes)


def test_progress_goes_from_nothing_to_all(photo):
    calls = []
    Restorer(model(), finder(BOX, BOX))(photo, progress=lambda done, total, text: calls.append((done, total, text)))
    assert [call[:2] for call in calls] == [(0, 2), (2, 2)]
    assert all(call[2] for call in calls)


def test_what_is_too_small_or_no_photo_is_refused(photo):
    restorer = Restorer(model(), finder())
    with pytest.raises(UserError, match="15 x 40 pixels"):
        restorer(photo[:40, :15])
    assert restorer(photo[:16, :16]).faces == []
    for wrong in (photo.astype(np.float32), photo[..., 0], photo.tolist()):
        with pytest.raises(ValueError, match="uint8 RGB"):
            restorer(wrong)


def test_calls_do_not_influence_each_other_and_nothing_is_kept(photo):
    restorer = Restorer(model(), finder(BOX))
    before = dict(vars(restorer))
    first = restorer(photo)
    restorer(photo[:, ::-1], mode="as_is", features=True)
    second = restorer(photo)
    assert np.array_equal(first.photo, second.photo)
    assert vars(restorer) == before


def test_a_model_in_half_precision_is_fed_in_its_own_number_format(photo):
    (face,) = Restorer(model().bfloat16(), finder(BOX))(photo).faces
    (exact,) = Restorer(model(), finder(BOX))(photo).faces
    assert all(alpha.dtype == torch.float32 for alpha in face.alphas.values())
    assert np.abs(face.restored.astype(int) - exact.restored).mean() < 3


def test_restoring_with_a_model_in_training_changes_nothing_of_it_and_gives_what_eval_mode_gives(photo):
    torch.manual_seed(0)
    model = SPARNet(SPARNetConfig(size=32, smallest=8, min_channels=8, max_channels=16, bottleneck=16)).train()
    model.body[0].norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    restored = Restorer(model)(photo, faces=[BOX]).faces[0].restored
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert np.array_equal(restored, Restorer(model.eval())(photo, faces=[BOX]).faces[0].restored)
