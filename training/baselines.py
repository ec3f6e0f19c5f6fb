"""The networks that the paper compares SPARNet with, on SPARNet's own input: the degraded face, already enlarged.

    face (B,3,S,S) -> SmallFace (B,3,s,s) -> RCAN: s -> residual groups -> pixel shuffle, S -----------> restored
                                          -> Wavelet-SRNet: s -> embedding -> wavelet packets -> Haar, S -> restored

"Image Super-Resolution Using Very Deep Residual Channel Attention Networks", Zhang et al., ECCV 2018, 1807.02758.
"Wavelet-SRNet: A Wavelet-Based CNN for Multi-Scale Face Super Resolution", Huang et al., ICCV 2017.
"""

from dataclasses import dataclass, fields
from reprlib import repr as brief

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sparnet.hub import CARD, StrictHubMixin
from sparnet.model import ChannelAttention, check_face

LARGEST = {  # of a configuration's fields, as of a SPARNet's: checked before anything is built
    "size": 1024,
    "degraded_size": 512,
    "groups": 32,
    "blocks": 64,
    "channels": 256,
    "reduction": 256,
    "stages": 6,
    "band_channels": 64,
}
HUB = {"library_name": "sparnet", "model_card_template": CARD, "pipeline_tag": "image-to-image"}


@dataclass(frozen=True)
class BaselineConfig:
    """Sides are in pixels. `ValueError` names the value that cannot be and why."""

    size: int = 128  # side of the face, the same at input and output
    degraded_size: int = 16  # side that faces were reduced to, where the network works

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{field.name} is {brief(value)}; it must be a positive whole number")
            if value > LARGEST[field.name]:
                raise ValueError(f"{field.name} is {brief(value)}; it must be at most {LARGEST[field.name]}")
        if self.size != self.degraded_size << self.doublings or not self.doublings:
            raise ValueError(f"size {self.size} is not degraded_size {self.degraded_size} times 2, 4, 8, ...")

    @property
    def doublings(self) -> int:
        """log2(size / degraded_size), rounded down."""
        return max((self.size // self.degraded_size).bit_length() - 1, 0)


class SmallFace(nn.Module):
    """(B,3,S,S) -> (B,3,s,s): the small face whose bicubic enlargement is nearest to the given one, by least squares.

    Enlarging is linear, U x U^T with Pillow's U (S,s), so its pseudoinverse gives back what was enlarged, but for what
    the enlarged face lost to rounding and clipping: 16x16 from 128x128 to 0.1 of 255 levels on average, where reducing
    it by bicubic once more would be 5 levels off. `reduce` is a constant, kept with the weights to be where they are.
    """

    reduce: Tensor

    def __init__(self, config: BaselineConfig):
        super().__init__()
        size, small = config.size, config.degraded_size
        enlarge = Image.fromarray(np.eye(small, dtype=np.float32)).resize((small, size), Image.Resampling.BICUBIC)
        self.register_buffer("reduce", torch.tensor(np.linalg.pinv(np.array(enlarge)), dtype=torch.float32))

    def forward(self, face: Tensor) -> Tensor:
        with torch.autocast(face.device.type, enabled=False):  # bfloat16 tells fewer levels apart than 8 bits
            return self.reduce @ face @ self.reduce.T


@dataclass(frozen=True)
class RCANConfig(BaselineConfig):
    """The defaults are the published network, at x8."""

    groups: int = 10
    blocks: int = 20  # in each group
    channels: int = 64
    reduction: int = 16  # channels over those of the channel attention's bottleneck

    def __post_init__(self):
        super().__post_init__()
        if self.channels < self.reduction:
            raise ValueError(f"channels {self.channels} are fewer than reduction {self.reduction}: none would be left")


class Residual(nn.Module):
    """x -> x + layers(x)."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class RCAB(nn.Module):
    """Residual channel attention block (Zhang et al., section 3.4): x (B,C,h,w) -> x + alpha * f, alpha (B,C,1,1)."""

    def __init__(self, config: RCANConfig):
        super().__init__()
        self.conv1 = _convolution(config.channels, config.channels)
        self.conv2 = _convolution(config.channels, config.channels)
        self.attention = ChannelAttention(config.channels, lambda _: nn.ReLU(), config.reduction)

    def forward(self, x: Tensor) -> Tensor:
        f = self.conv2(F.relu(self.conv1(x)))
        return x + self.attention(f) * f


class RCAN(nn.Module, StrictHubMixin, **HUB):
    """Face (B,3,S,S) in [-1,1] -> restored, the same shape, not clamped; a face that does not fit is a `ValueError`.

    As published but for the shift by DIV2K's mean colour: faces in [-1,1] are centred already.
    """

    config_class = RCANConfig

    def __init__(self, config: RCANConfig):
        super().__init__()
        self.config = config
        width = config.channels

        def group() -> Residual:
            return Residual(*(RCAB(config) for _ in range(config.blocks)), _convolution(width, width))

        self.small = SmallFace(config)
        self.head = _convolution(3, width)
        self.body = Residual(*(group() for _ in range(config.groups)), _convolution(width, width))
        doubling = ((_convolution(width, 4 * width), nn.PixelShuffle(2)) for _ in range(config.doublings))
        self.up = nn.Sequential(*(layer for layers in doubling for layer in layers))
        self.tail = _convolution(width, 3)

    def forward(self, face: Tensor) -> Tensor:
        check_face(self, face)
        return self.tail(self.up(self.body(self.head(self.small(face)))))


@dataclass(frozen=True)
class WaveletSRNetConfig(BaselineConfig):
    """The defaults are the published network, at x8."""

    channels: int = 64  # of the embedding's first stage; each later stage doubles them
    stages: int = 5
    blocks: int = 2  # residual blocks in each stage
    band_channels: int = 32  # of each wavelet band's own subnet; its last block doubles them

    @property
    def bands(self) -> int:
        return 4**self.doublings


class WaveletBlock(nn.Module):
    """Residual block with batch norm, (B,c_in,h,w) -> (B,c_out,h,w), in `groups` that do not see each other.

    With `shared` the first convolution sees all of x whatever the group.
    """

    def __init__(self, c_in: int, c_out: int, groups: int = 1, shared: bool = False):
        super().__init__()
        first = 1 if shared else groups
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, groups=first, bias=False)
        self.conv1 = _convolution(c_in, c_out, first, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = _convolution(c_out, c_out, groups, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        f = self.conv2(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(self.shortcut(x) + f))


class WaveletSRNet(nn.Module, StrictHubMixin, **HUB):
    """Face (B,3,S,S) in [-1,1] -> restored, the same shape, not clamped; a face that does not fit is a `ValueError`.

    The embedding net keeps the small face's s x s places; a subnet for each band of the sharp face's full wavelet
    packet decomposition, all of s x s, predicts that band; the reconstruction net is the inverse transform and has
    nothing to learn. The subnets are one grouped network. Train it with `wavelet_loss`.
    """

    config_class = WaveletSRNetConfig

    def __init__(self, config: WaveletSRNetConfig):
        super().__init__()
        self.config = config
        widths = [config.channels * 2**stage for stage in range(config.stages)]
        bands, narrow = config.bands, config.bands * config.band_channels
        self.small = SmallFace(config)
        self.head = nn.Sequential(_convolution(3, widths[0], bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        blocks = [width for width in widths for _ in range(config.blocks)]
        self.embedding = nn.Sequential(
            *(WaveletBlock(c_in, c_out) for c_in, c_out in zip([widths[0], *blocks], blocks, strict=False))
        )
        self.prediction = nn.Sequential(
            WaveletBlock(widths[-1], narrow, bands, shared=True),
            WaveletBlock(narrow, 2 * narrow, bands),
            _convolution(2 * narrow, 3 * bands, bands),
        )

    def forward(self, face: Tensor) -> Tensor:
        check_face(self, face)
        packets = self.prediction(self.embedding(self.head(self.small(face))))
        return from_haar_packets(packets, self.config.doublings)


def haar_packets(image: Tensor, levels: int) -> Tensor:
    """Full Haar wavelet packet decomposition, orthonormal: (B,C,H,W) -> (B,4^levels*C,H/2^levels,W/2^levels).

    Each level splits every band into four by its 2x2 pixels: their sum, horizontal, vertical and diagonal difference,
    over 2. Bands are C channels wide; the first is the sum of all. H and W are multiples of 2^levels.
    """
    for _ in range(levels):
        a, b, c, d = (image[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
        image = torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1) / 2
    return image


def from_haar_packets(packets: Tensor, levels: int) -> Tensor:
    """The inverse of `haar_packets`: (B,4^levels*C,h,w) -> (B,C,h*2^levels,w*2^levels)."""
    for _ in range(levels):
        m, x, y, z = packets.chunk(4, 1)
        pixels = torch.stack([m + x + y + z, m - x + y - z, m + x - y - z, m - x - y + z], 2) / 2
        packets = F.pixel_shuffle(pixels.flatten(1, 2), 2)
    return packets


def wavelet_loss(restored: Tensor, sharp: Tensor, levels: int = 3) -> Tensor:
    """The wavelet, texture and full-image loss of Wavelet-SRNet, between pictures (B,3,S,S); S a multiple of 2^levels.

    The transform is invertible, so the packets of the restored picture are those that the network predicted. Weights,
    slack 1.2 and what is a sum or a mean are those of the authors' training script; the whole is divided by the number
    of a picture's values, a constant, to be of the size of a mean squared error. All terms are squares, so it does not
    matter that the authors' pixels are in [0,1].
    """
    mine, theirs = haar_packets(restored, levels), haar_packets(sharp, levels)
    error = (mine - theirs).square().sum((2, 3)) / 2  # (B, bands * 3); the first band is the small face
    wavelet = 0.01 * error[:, :3].sum(1) + 0.99 * error[:, 3:].sum(1)
    full = (restored - sharp).square().sum((1, 2, 3)) / 2
    energy, wanted = (x[:, 3:].unflatten(1, (-1, 3)).square().sum(2) for x in (mine, theirs))
    texture = F.relu(1.2 * wanted - energy).mean((1, 2, 3))  # detail weaker than the sharp face's, at each place
    return (wavelet + texture + 0.1 * full).mean() / sharp[0].numel()


def _convolution(c_in: int, c_out: int, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    """3x3 convolution padded by zeros, as both papers have it."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, groups=groups, bias=bias)
