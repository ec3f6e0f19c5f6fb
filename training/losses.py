"""The losses of SPARNetHD, each a function of faces or of what the discriminators made of them.

    restored, sharp ----------------------------------> PIXEL               \\
    sharp    -> discriminator -> real [a scale each] -> feature_matching     > generator
    restored -> discriminator -> fake [a scale each] -> hinge_generator     /
    real, fake of a detached face ---------------------> hinge_discriminator -> discriminator

Perceptual distances are in `training.perceptual`. Every loss is a scalar.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.baselines import wavelet_loss
from training.discriminator import Judgement

CHARBONNIER_EPSILON = 1e-3  # in the units of a face in [-1,1]


def charbonnier(restored: Tensor, sharp: Tensor) -> Tensor:
    """E[sqrt((restored - sharp)^2 + eps^2)]: L1 with a gradient that is smooth at 0; Charbonnier et al. 1994."""
    return ((restored - sharp).square() + CHARBONNIER_EPSILON**2).sqrt().mean()


def l1_and_amplitude(restored: Tensor, sharp: Tensor) -> Tensor:
    """E|restored - sharp| + E||F(restored)| - |F(sharp)||, F the orthonormal 2D Fourier transform of each colour.

    The second term tells how strong every frequency should be and not where: detail that is missing costs, detail that
    is misplaced does not. By Parseval both are of one order, and count alike.
    """
    mine, theirs = (torch.fft.fft2(face, norm="ortho").abs() for face in (restored, sharp))
    return F.l1_loss(restored, sharp) + F.l1_loss(mine, theirs)


PIXEL = {
    "l1": F.l1_loss,  # as released
    "l2": F.mse_loss,  # as the paper
    "charbonnier": charbonnier,
    "wavelet": wavelet_loss,  # Wavelet-SRNet's
    "l1+amplitude": l1_and_amplitude,
}
"""Name -> (restored, sharp) -> the pixel loss."""


def hinge_discriminator(real: list[Judgement], fake: list[Judgement]) -> Tensor:
    """Mean over scales of half of E[max(0, 1 - D(sharp))] + E[max(0, 1 + D(restored))].

    Lim and Ye 2017, arXiv 1705.02894; half of it as SPARNetHD was trained.
    """
    pairs = zip(real, fake, strict=True)
    return 0.5 * torch.stack([F.relu(1 - r.score).mean() + F.relu(1 + f.score).mean() for r, f in pairs]).mean()


def hinge_generator(fake: list[Judgement]) -> Tensor:
    """Mean over scales of -E[D(restored)]."""
    return torch.stack([-f.score.mean() for f in fake]).mean()


def feature_matching(real: list[Judgement], fake: list[Judgement]) -> Tensor:
    """Mean over scales of the sum over layers i of E|D_i(sharp) - D_i(restored)|: Wang et al. 2018, arXiv 1711.11585.

    Each of the five layers counts whole; pix2pixHD's own code weighs them by 4 / their number. Only `fake` gets a
    gradient.
    """
    return torch.stack([_distance(r.features, f.features) for r, f in zip(real, fake, strict=True)]).mean()


def _distance(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    return torch.stack([F.l1_loss(f, r.detach()) for r, f in zip(real, fake, strict=True)]).sum()
