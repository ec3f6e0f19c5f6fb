"""The Frechet distance against SciPy's matrix root and closed forms; FID's plumbing with features seen through."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from mean_colours import MeanColours
from scipy.linalg import sqrtm

from sparnet.errors import UserError
from training.evaluation.frechet import INCEPTION_URL, InceptionDistances, frechet_distance


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def correlated(rng, faces, features, shift=0.0):
    return rng.normal(size=(faces, features)) @ rng.normal(size=(features, features)) + shift


def test_it_is_the_formula_with_the_root_of_the_product(rng):
    a, b = correlated(rng, 200, 12), correlated(rng, 150, 12, shift=0.7)
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = a.mean(axis=0) - b.mean(axis=0)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_independent_features_add_up_their_shift_and_their_difference_in_spread():
    corners = np.array([(1.0, 1), (1, -1), (-1, 1), (-1, -1)])  # uncorrelated, variance 4/3 each
    a, b = corners * (1, 2) + (5, 0), corners * (3, 0.5) + (2, 4)
    assert frechet_distance(a, b) == pytest.approx(3**2 + 4**2 + 4 / 3 * ((1 - 3) ** 2 + (2 - 0.5) ** 2))


def test_one_feature_is_a_feature_too():
    assert frechet_distance([[0.0], [2]], [[1.0], [7]]) == pytest.approx(3**2 + 2 * (1 - 3) ** 2)


@pytest.mark.parametrize("faces", [300, 5])  # more and fewer than features: then the covariance is singular
def test_the_same_faces_have_no_distance(rng, faces):
    a = correlated(rng, faces, 12)
    assert 0 <= frechet_distance(a, a) < 1e-5
    assert 0 <= frechet_distance(a, a[::-1].astype(np.float32)) < 1e-4


@pytest.mark.parametrize(("n", "m"), [(1, 9), (9, 1), (0, 9)])
def test_too_few_faces_are_the_users_mistake(rng, n, m):
    with pytest.raises(UserError, match="at least two"):
        frechet_distance(rng.normal(size=(n, 3)), rng.normal(size=(m, 3)))


@pytest.fixture
def library(monkeypatch):
    """Puts an object in the place of the module that FID comes from."""

    def put(module):
        for name in ("torchmetrics", "torchmetrics.image"):
            monkeypatch.setitem(sys.modules, name, SimpleNamespace())
        monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", module)

    return put


def test_fid_is_of_all_the_pictures_and_the_sharp_ones_are_looked_at_once(library, rng, monkeypatch):
    library(SimpleNamespace(FrechetInceptionDistance=MeanColours))
    monkeypatch.setattr(MeanColours, "updates", {True: 0, False: 0})
    restored, other, sharp = rng.integers(0, 256, (3, 6, 8, 8, 3), np.uint8)
    sharp //= 2
    distances = InceptionDistances(["ours", "other"])
    for a, b, truth in zip(restored, other, sharp, strict=True):
        distances.add(truth, {"ours": a, "other": b})
    assert MeanColours.updates == {True: 6, False: 12}
    found = distances.values()
    for name, faces in (("ours", restored), ("other", other)):
        assert found[name] == pytest.approx(frechet_distance(faces.mean(axis=(1, 2)), sharp.mean(axis=(1, 2))))
    alone = InceptionDistances(["ours"])
    alone.add(sharp[0], {"ours": restored[0]})
    with pytest.raises(UserError, match="two faces"):
        alone.values()


def test_without_the_library_fid_says_what_to_install(library):
    library(None)
    with pytest.raises(UserError, match=r"pip install 'torchmetrics\[image\]>=1.9'"):
        InceptionDistances(["ours"])


def test_a_library_too_old_for_its_options_is_told(library):
    def old(feature_extractor_weights_path):
        raise AssertionError("not reached")

    library(SimpleNamespace(FrechetInceptionDistance=old))
    with pytest.raises(UserError, match=r"antialias.*pip install 'torchmetrics\[image\]>=1.9'"):
        InceptionDistances(["ours"])


def test_a_torchvision_that_does_not_fit_is_explained(library):
    class Broken:
        __path__ = ()

        def __getattr__(self, name):
            raise RuntimeError("operator torchvision::nms does not exist")

    library(Broken())
    with pytest.raises(UserError, match=r"nms does not exist.*torchvision that belongs"):
        InceptionDistances(["ours"])


def test_without_weights_fid_says_where_they_are(library):
    def download(**arguments):
        raise OSError("no route")

    library(SimpleNamespace(FrechetInceptionDistance=download))
    with pytest.raises(UserError, match="no route") as caught:
        InceptionDistances(["ours"])
    assert INCEPTION_URL in str(caught.value)


def test_other_weights_than_the_published_are_refused_unread(library, tmp_path):
    library(SimpleNamespace(FrechetInceptionDistance=MeanColours))
    (tmp_path / "other.pth").write_bytes(b"any pickle")
    for name in ("other.pth", "missing.pth"):
        with pytest.raises(UserError, match=name):
            InceptionDistances(["ours"], tmp_path / name)
