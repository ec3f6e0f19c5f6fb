"""The losses against their formulae in NumPy and against finite differences."""

import numpy as np
import pytest
import torch

from training.discriminator import Judgement
from training.losses import PIXEL, feature_matching, hinge_discriminator, hinge_generator


def judgements(seed, requires_grad=False):
    """Two scales of two layers, float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul(2).requires_grad_(requires_grad)

    return [
        Judgement([draw(2, 3, 4, 4), draw(2, 5, 3, 3)], draw(2, 1, 2, 2)),
        Judgement([draw(2, 3, 2, 2), draw(2, 5, 2, 2)], draw(2, 1, 1, 1)),
    ]


def rebuilt(tensors):
    a, b, score_1, c, d, score_2 = tensors
    return [Judgement([a, b], score_1), Judgement([c, d], score_2)]


def flat(judged):
    return [tensor for features, score in judged for tensor in (*features, score)]


def scored(*scores):
    return [Judgement([], torch.tensor(score, dtype=torch.float64).view(1, 1, 1, -1)) for score in scores]


def test_hinge_by_hand():
    real, fake = scored([2.0, 0.5], [-1.0]), scored([-2.0, 0.5], [0.0])
    assert hinge_discriminator(real, fake).item() == ((0.25 + 0.75) / 2 + (2 + 1) / 2) / 2
    assert hinge_generator(fake).item() == (0.75 + 0) / 2


def test_hinge_is_the_formula():
    real, fake = judgements(0), judgements(1)
    terms = [
        0.5 * (np.maximum(0, 1 - r.score.numpy()).mean() + np.maximum(0, 1 + f.score.numpy()).mean())
        for r, f in zip(real, fake, strict=True)
    ]
    assert hinge_discriminator(real, fake).item() == pytest.approx(np.mean(terms))
    assert hinge_generator(fake).item() == pytest.approx(-np.mean([f.score.numpy().mean() for f in fake]))


def test_a_judge_that_is_sure_enough_learns_nothing_more():
    real = scored([1.5])
    real[0].score.requires_grad_()
    hinge_discriminator(real, scored([-1.5])).backward()
    assert not real[0].score.grad.any()


def test_feature_matching_is_the_formula():
    real, fake = judgements(0), judgements(1)
    scales = [
        sum(np.abs(a.numpy() - b.numpy()).mean() for a, b in zip(r.features, f.features, strict=True))
        for r, f in zip(real, fake, strict=True)
    ]
    assert feature_matching(real, fake).item() == pytest.approx(np.mean(scales))
    assert feature_matching(real, real).item() == 0


def test_feature_matching_leaves_the_real_side_alone():
    real, fake = judgements(0, requires_grad=True), judgements(1, requires_grad=True)
    feature_matching(real, fake).backward()
    assert all(tensor.grad is None for tensor in flat(real))
    assert all(feature.grad.abs().min() > 0 for judgement in fake for feature in judgement.features)


@pytest.mark.parametrize(
    "loss",
    [
        lambda fake: hinge_discriminator(judgements(0), fake),
        lambda fake: hinge_discriminator(fake, judgements(0)),
        hinge_generator,
        lambda fake: feature_matching(judgements(0), fake),
    ],
    ids=["hinge of fake", "hinge of real", "generator", "feature matching"],
)
def test_gradients_are_finite_differences(loss):
    assert torch.autograd.gradcheck(lambda *tensors: loss(rebuilt(tensors)), flat(judgements(1, requires_grad=True)))


@pytest.mark.parametrize(("name", "formula"), [("l1", np.abs), ("l2", np.square)])
def test_pixel_losses_are_means_over_every_value(name, formula):
    restored, sharp = torch.rand(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert PIXEL[name](restored, sharp).item() == pytest.approx(formula(restored.numpy() - sharp.numpy()).mean())


def test_amplitudes_are_those_of_numpy_and_do_not_tell_where_a_detail_is():
    restored, sharp = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    faces = restored.numpy(), sharp.numpy()
    mine, theirs = (np.abs(np.fft.fft2(face)) / 8 for face in faces)
    expected = np.abs(np.subtract(*faces)).mean() + np.abs(mine - theirs).mean()
    assert PIXEL["l1+amplitude"](restored, sharp).item() == pytest.approx(expected)
    misplaced = sharp.roll((1, 3), (2, 3))
    assert PIXEL["l1+amplitude"](misplaced, sharp).item() == pytest.approx(PIXEL["l1"](misplaced, sharp).item())


@pytest.mark.parametrize("loss", [hinge_discriminator, feature_matching])
def test_another_number_of_scales_is_an_error(loss):
    with pytest.raises(ValueError, match="zip"):
        loss(judgements(0), judgements(1)[:1])
