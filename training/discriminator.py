"""The judges of SPARNetHD: three discriminators, each at a scale of its own.

    face (B,3,S,S) -> halve -> (B,3,S/2,S/2) -> halve -> (B,3,S/4,S/4)
      |                 |                          |
      v                 v                          v
    3x3 convolution -> leaky ReLU -> 4 x [3x3 convolution, stride 2 -> instance norm -> leaky ReLU] -> features
    the last of the 5 features -> 3x3 convolution without padding -> score

As trained by the authors of arXiv 2012.01211, after pix2pixHD (Wang et al., CVPR 2018, arXiv 1711.11585), with spectral
norm on every convolution (Miyato et al., ICLR 2018, arXiv 1802.05957).
"""

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from sparnet.model import Convolution, InstanceNorm


class Judgement(NamedTuple):
    """What one discriminator made of a face."""

    features: list[Tensor]  # after each layer, (B,C,h,w)
    score: Tensor  # (B,1,h,w), not autocast, one for each patch, not bounded; above 0: real


class Discriminator(nn.Module):
    """face (B,3,S,S) in [-1,1] -> Judgement at one scale, whose last map is 3x3 at least: S > 2^(halvings + 1).

    The first layer keeps the face's size and has no norm, so that brightness and contrast are judged too; each of the
    `halvings` after it doubles the channels, up to `max_channels`.
    """

    def __init__(self, channels: int = 64, max_channels: int = 512, halvings: int = 4):
        super().__init__()
        widths = [min(channels * 2**i, max_channels) for i in range(halvings + 1)]
        self.layers = nn.ModuleList([nn.Sequential(spectral_norm(Convolution(3, widths[0])), nn.LeakyReLU(0.2))])
        for c_in, c_out in pairwise(widths):
            convolution = spectral_norm(Convolution(c_in, c_out, "down", bias=False))
            self.layers.append(nn.Sequential(convolution, InstanceNorm(c_out), nn.LeakyReLU(0.2)))
        self.score = spectral_norm(nn.Conv2d(widths[-1], 1, 3))

    def forward(self, face: Tensor) -> Judgement:
        features, x = [], face
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return Judgement(features, self.score(x).to(next(self.parameters()).dtype))


class MultiScaleDiscriminator(nn.Module):
    """face (B,3,S,S) in [-1,1] -> a Judgement at S, S/2, S/4 ... pixels; S is `smallest` at least."""

    def __init__(self, scales: int = 3, channels: int = 64, max_channels: int = 512, halvings: int = 4):
        super().__init__()
        self.scales = nn.ModuleList(Discriminator(channels, max_channels, halvings) for _ in range(scales))
        self.smallest = (2 ** (halvings + 1) + 1) * 2 ** (scales - 1)

    def forward(self, face: Tensor) -> list[Judgement]:
        face = face.to(next(self.parameters()).dtype)  # bfloat16 has fewer levels than a picture has
        judgements = [self.scales[0](face)]
        for discriminator in self.scales[1:]:
            # Without antialiasing, detail too fine for the smaller face would come back in it as false coarse detail.
            face = F.interpolate(face, scale_factor=0.5, mode="bicubic", antialias=True)
            judgements.append(discriminator(face))
        return judgements
