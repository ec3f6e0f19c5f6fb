"""Perceptual distances: how far restored and sharp are apart to a net that learned to see; the net is frozen.

    restored, sharp (B,3,S,S) in [-1,1] -> the pixels it knows -> activations of its stages -> their distance, a scalar

VGG19 is from the Hub, or from a given file; the others are from files only. Which kind was used belongs in the card of
the model that it trained.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from sparnet.checkpoints import read_released
from sparnet.errors import UserError
from sparnet.hub import WEIGHTS, check_weights, fetch_model
from sparnet.model import Convolution

PerceptualKind = Literal["vgg19", "vgg19_normalised", "lpips_squeeze"]

VGG19_REPO = "timm/vgg19.tv_in1k"  # torchvision's weights, BSD-3-Clause
_CLASSIFIER = ("classifier.", "pre_logits.", "head.")  # torchvision's and timm's keys of what comes after the features

_FILES = {
    "vgg19": "VGG19 with the keys of torchvision or timm (features.0.weight ...), safetensors or .pth",
    "vgg19_normalised": "VGG19 of normalised activations up to relu3_1 (0.weight, 2.weight ... 16.weight), safetensors",
    "lpips_squeeze": "SqueezeNet 1.1 (features.0.weight ...) and LPIPS v0.1 (lin0.weight ... lin6.weight), safetensors",
}


class VggDistance(nn.Module):
    """Sum over stages i of E|phi_i(restored) - phi_i(sharp)|, equal weights: Johnson et al. 2016, arXiv 1603.08155.

    `at` are the numbers of the layers phi_i; `mean` and `std` are of RGB in 0..1. A face with a side under `smallest`
    pixels is enlarged to it, bilinearly.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: Sequence[nn.Module],
        at: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        smallest: int = 1,
    ):
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.at, self.smallest = at, smallest
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def stages(self, face: Tensor) -> list[Tensor]:
        if face.shape[-1] < self.smallest:
            face = F.interpolate(face, (self.smallest, self.smallest), mode="bilinear")
        return _activations(self.features, self.at, ((face + 1) / 2 - self.mean) / self.std)

    def forward(self, restored: Tensor, sharp: Tensor) -> Tensor:
        pairs = zip(self.stages(restored), self.stages(sharp.detach()), strict=True)
        return torch.stack([F.l1_loss(ours, theirs) for ours, theirs in pairs]).sum()


def vgg19(channels: int = 64) -> VggDistance:
    """Stages relu1_2, relu2_2, relu3_4, relu4_4 and conv5_4 before its ReLU; numbered as in torchvision; zero padding.

    As SPARNetHD was trained: mean and std of ImageNet, and the 224 pixels that VGG19 learned from. `channels` are those
    of its first block.
    """
    layers, c_in = [], 3
    for width, depth in zip((1, 2, 4, 8, 8), (2, 2, 4, 4, 4), strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(c_in, channels * width, 3, padding=1), nn.ReLU(inplace=True)]
            c_in = channels * width
        layers.append(nn.MaxPool2d(2))
    return VggDistance(layers[:-2], (3, 8, 17, 26, 34), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), smallest=224)


def vgg19_normalised() -> VggDistance:
    """Stages relu1_1, relu2_1, relu3_1, whose mean activations are 1 (Gatys et al. 2016); padding by reflection.

    Layer 0 makes of RGB in 0..1 what the net was trained on.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    c_in = 3
    for width, depth in ((64, 2), (128, 2), (256, 1)):
        for _ in range(depth):  # the first number is the padding's, which our convolution has in it
            layers += [nn.Identity(), Convolution(c_in, width), nn.ReLU(inplace=True)]
            c_in = width
        layers.append(nn.MaxPool2d(2))
    return VggDistance(layers[:-1], (3, 10, 17), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Fire(nn.Module):
    """SqueezeNet's unit: (B,c_in,h,w) -> (B,2*wide,h,w)."""

    def __init__(self, c_in: int, narrow: int, wide: int):
        super().__init__()
        self.squeeze = nn.Conv2d(c_in, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


LPIPS_STAGES = {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512}  # number of a layer: its channels


class Lpips(nn.Module):
    """LPIPS v0.1 with SqueezeNet 1.1: Zhang et al. 2018, arXiv 1801.03924; 0 for equal faces."""

    shift: Tensor
    scale: Tensor

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(  # numbered as in torchvision
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        for i, channels in enumerate(LPIPS_STAGES.values()):
            self.add_module(f"lin{i}", nn.Conv2d(channels, 1, 1, bias=False))
        # LPIPS's own, of faces in [-1,1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)

    def stages(self, face: Tensor) -> list[Tensor]:
        return _activations(self.features, tuple(LPIPS_STAGES), (face - self.shift) / self.scale)

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """Of each pair, (B,): sum over stages of the mean over places of w . (phi(a)/|phi(a)| - phi(b)/|phi(b)|)^2."""
        total = a.new_zeros(len(a), dtype=next(self.parameters()).dtype)
        for i, (x, y) in enumerate(zip(self.stages(a), self.stages(b), strict=True)):
            lin = self.get_submodule(f"lin{i}")
            with torch.autocast(a.device.type, enabled=False):  # squares of small differences
                x, y = (F.normalize(phi.to(total.dtype), dim=1, eps=1e-10) for phi in (x, y))
                total = total + lin((x - y).square()).mean(dim=(1, 2, 3))
        return total

    def forward(self, restored: Tensor, sharp: Tensor) -> Tensor:
        return self.distances(restored, sharp.detach()).mean()


def load_perceptual(kind: PerceptualKind, file: Path | None = None) -> nn.Module:
    """module(restored, sharp) -> scalar; faces (B,3,S,S) in [-1,1]; frozen, eval mode; only `restored` gets a gradient.

    Every weight has to fit. Without a `file`, VGG19 is fetched from the Hub. `UserError` says what is needed.
    """
    net = {"vgg19": vgg19, "vgg19_normalised": vgg19_normalised, "lpips_squeeze": Lpips}[kind]()
    try:
        if file is None and kind != "vgg19":
            raise UserError(f"{kind} cannot be downloaded and no file was given.")
        weights = _read(file or fetch_model(VGG19_REPO) / WEIGHTS)
        if kind == "vgg19":
            weights = {key: value for key, value in weights.items() if not key.startswith(_CLASSIFIER)}
        target = net.features if kind == "vgg19_normalised" else net  # whose keys are those of the file
        check_weights(target.state_dict(), weights, str(file or VGG19_REPO))
    except UserError as error:
        raise UserError(f"{error} The perceptual loss {kind} takes a file of {_FILES[kind]}.") from error
    target.load_state_dict(weights)
    return net.requires_grad_(False).eval()


def load_lpips(file: Path) -> Lpips:
    """`load_perceptual` of that kind, for its distances of single pairs."""
    net = load_perceptual("lpips_squeeze", file)
    assert isinstance(net, Lpips)
    return net


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise UserError(f"{file} is not there.")
    if file.suffix == ".pth":
        return read_released(file)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is not a whole safetensors file ({error}).") from error


def _activations(layers: nn.Sequential, at: tuple[int, ...], x: Tensor) -> list[Tensor]:
    """What the layers numbered `at` make of x, in order."""
    found = []
    for i, layer in enumerate(layers):
        x = layer(x)
        if i in at:
            found.append(x)
    return found
