"""The network.

    face (B,3,S,S) -> stem -> encoder: S/2 ... smallest -> body: smallest -> decoder: ... S/2, S -> out -> restored
                              every unit: f = F_feat(x), alpha = sigmoid(F_att(f)), x' = shortcut(x) + alpha * f

"Learning Spatial Attention for Face Super-Resolution", Chen et al., IEEE TIP 2021, arXiv 2012.01211.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from math import gcd
from reprlib import repr as brief
from typing import Literal, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparnet.hub import CARD, StrictHubMixin
from sparnet.limits import LARGEST, check_cost

Attention = Literal["2d", "3d", "channel", "2d+channel", "none"]
Norm = Literal["batch", "instance", "group"]
Activation = Literal["leaky_relu", "prelu"]
Scale = Literal["down", "same", "up"]
Edit = Callable[[str, Tensor], Tensor]
"""edit(unit name, alpha) -> the alpha that gates the unit instead; same shape, or one that broadcasts to it."""

_RANGE_TOLERANCE = 1e-3  # rounding of a face that went through another dtype


@dataclass(frozen=True)
class SPARNetConfig:
    """One member of the SPARNet family; the defaults are the released SPARNet, 16x16 -> 128x128.

    Sides are in pixels. `ValueError` names the value that cannot be and why.
    """

    size: int = 128  # side of the face, the same at input and output: degraded faces come in already enlarged
    smallest: int = 16  # side of the smallest feature map, where the body works
    min_channels: int = 32
    max_channels: int = 128
    base_channels: int | None = None  # width of the stem; None: max_channels // (scales + 1), as released
    body_depth: int = 10  # the released scripts count three encoder units as the norm: see `body_units`
    degraded_size: int | None = 16  # side faces were reduced to in training; None: no one size (blind restoration)
    attention: Attention = "2d"  # one map a unit, or one for each channel; the other kinds are ablations
    attention_units: int | None = None  # how many units attend, spread evenly over the network; None: all
    bottleneck: int | None = 4  # side of the innermost hourglass map in the units that work on 64x64; None: one scale
    hourglass_channels: int = 64
    norm: Norm = "batch"
    activation: Activation = "leaky_relu"  # released; the paper's text says PReLU

    def __post_init__(self):
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(field.type)
            if get_origin(field.type) is Literal:
                if value not in allowed:
                    raise ValueError(
                        f"{field.name} is {brief(value)}; it must be one of {', '.join(map(repr, allowed))}"
                    )
            elif type(value) not in (allowed or (int,)) or (
                value is not None and value < 1 and field.name != "body_depth"
            ):
                raise ValueError(f"{field.name} is {brief(value)}; it must be a positive whole number")
            elif value is not None and value > LARGEST.get(field.name, value):
                raise ValueError(f"{field.name} is {brief(value)}; it must be at most {LARGEST[field.name]}")
        ratio = self.size // self.smallest
        if ratio * self.smallest != self.size or ratio < 2 or ratio & (ratio - 1):
            raise ValueError(
                f"size {self.size} is not smallest {self.smallest} times 2, 4, 8, ...: "
                "each encoder unit halves the map until it has the smallest side"
            )
        if self.min_channels > self.max_channels:
            raise ValueError(f"min_channels {self.min_channels} is greater than max_channels {self.max_channels}")
        if self.base_channels and self.clip(self.base_channels) != self.base_channels:
            raise ValueError(
                f"base_channels {self.base_channels} is outside min_channels {self.min_channels} to "
                f"max_channels {self.max_channels} and would be clipped"
            )
        if self.bottleneck and (self.bottleneck > 64 or self.bottleneck & (self.bottleneck - 1)):
            raise ValueError(f"bottleneck is {self.bottleneck}; it must be a power of two, at most 64")
        if self.body_units < 0:
            raise ValueError(
                f"body_depth {self.body_depth} leaves {self.body_units} body units after {self.scales} encoder units; "
                f"it must be at least {self.scales - 3}"
            )
        units = 2 * self.scales + self.body_units
        if self.attention_units and (self.attention == "none" or self.attention_units > units):
            reason = f"there are {units} units" if self.attention != "none" else "attention is 'none'"
            raise ValueError(f"attention_units is {self.attention_units}, but {reason}")
        for plan in self.units():
            innermost = -(-plan.map_size // 2**plan.hourglass_depth)
            if innermost < 2:
                raise ValueError(
                    f"the hourglass of {plan.name} would shrink its {plan.map_size}x{plan.map_size} map to "
                    f"{innermost}x{innermost}, too small to pad by reflection; raise bottleneck (now {self.bottleneck})"
                )
        check_cost(self)

    @property
    def scales(self) -> int:
        """Number of encoder units, and of decoder units: log2(size / smallest)."""
        return (self.size // self.smallest).bit_length() - 1

    @property
    def body_units(self) -> int:
        return self.body_depth + 3 - self.scales

    @property
    def stem_channels(self) -> int:
        return self.base_channels or self.clip(self.max_channels // (self.scales + 1))

    def clip(self, channels: int) -> int:
        return max(self.min_channels, min(channels, self.max_channels))

    def units(self) -> list["UnitPlan"]:
        """Every Face Attention Unit in forward order."""
        plans = []
        width, depth, side = self.stem_channels, (64 // (self.bottleneck or 64)).bit_length(), self.size

        def add(name: str, scale: Scale, c_in: int) -> None:
            kind = self.attention if self._attends(len(plans)) else "none"
            levels = max(depth, 0) if self.bottleneck and kind not in ("channel", "none") else 0
            plans.append(UnitPlan(name, scale, c_in, self.clip(width), side, kind, levels))

        for i in range(self.scales):
            depth, side = depth - 1, side // 2
            c_in, width = self.clip(width), width * 2
            add(f"encoder.{i}", "down", c_in)
        for i in range(self.body_units):
            add(f"body.{i}", "same", self.clip(width))
        for i in range(self.scales):
            depth, side = depth + 1, side * 2
            c_in, width = self.clip(width), width // 2
            add(f"decoder.{i}", "up", c_in)
        return plans

    def _attends(self, i: int) -> bool:
        """Whether unit `i` is one of the k that have attention: spread evenly over all n, the last among them."""
        n = 2 * self.scales + self.body_units
        k = self.attention_units or n
        return (i + 1) * k // n > i * k // n


@dataclass(frozen=True)
class UnitPlan:
    """Where one Face Attention Unit stands and how large it is; `map_size` is the side of f and alpha in pixels."""

    name: str
    scale: Scale
    c_in: int
    c_out: int
    map_size: int
    attention: Attention
    hourglass_depth: int  # 0 without an hourglass


@dataclass(frozen=True)
class Trace:
    """What one forward pass did; keys are the units' names in forward order."""

    restored: Tensor  # (B,3,S,S), not clamped
    alphas: dict[str, Tensor]  # (B,1,h,w), (B,C,h,w) or (B,C,1,1), raw, in (0,1); after `edit`, what gated the unit
    features: dict[str, Tensor] | None  # f, the branch that alpha gates: (B,C,h,w), for the units that have an alpha


class Convolution(nn.Conv2d):
    """3x3 convolution padded by reflection: (B,c_in,h,w) -> (B,c_out,h',w'); down strides by 2, up enlarges first."""

    def __init__(self, c_in: int, c_out: int, scale: str = "same", bias: bool = True):
        stride = 2 if scale == "down" else 1
        super().__init__(c_in, c_out, 3, stride, bias=bias)
        self.up = scale == "up"

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]: x, as in the equations
        if self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        with torch.autocast(x.device.type, enabled=False):  # which would pad in float32 and double the copies
            x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return super().forward(x)


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm with a learned scale and shift, no running statistics: (B,C,h,w) -> the same shape."""

    def __init__(self, channels: int):
        super().__init__(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]: the same
        if x.device.type != "cpu":
            return super().forward(x)
        # The batch norm of one face is its instance norm, and on CPUs its kernels need no other memory layout.
        faces = [F.batch_norm(face, None, None, self.weight, self.bias, True, 0, self.eps) for face in x.split(1)]
        return faces[0] if len(faces) == 1 else torch.cat(faces)


class ConvolutionBlock(nn.Module):
    """Convolution, norm, activation; the norm has the bias, so the convolution has none."""

    def __init__(self, config: SPARNetConfig, c_in: int, c_out: int, scale: str = "same", activate: bool = True):
        super().__init__()
        self.convolution = Convolution(c_in, c_out, scale, bias=False)
        self.norm = _norm(config, c_out)
        self.activation = _activation(config, c_out) if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.convolution(x)))


class Hourglass(nn.Module):
    """F_att without its last convolution: f (B,c_in,h,w) -> (B,hourglass_channels,h,w), seen at `depth` + 1 scales.

    Level `depth` works on the full map, level 1 on the smallest but one. Depth 0 is one convolution at a single scale.
    """

    def __init__(self, config: SPARNetConfig, c_in: int, depth: int):
        super().__init__()
        inner = config.hourglass_channels
        levels = range(depth, 0, -1)
        widths = [c_in if level == depth else inner for level in levels]
        self.skip = nn.ModuleList(ConvolutionBlock(config, width, inner) for width in widths)
        self.down = nn.ModuleList(ConvolutionBlock(config, width, inner, "down") for width in widths)
        self.innermost = ConvolutionBlock(config, inner if depth else c_in, inner)
        self.up = nn.ModuleList(ConvolutionBlock(config, inner, inner, "up") for _ in levels)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for skip, down in zip(self.skip, self.down, strict=True):
            skips.append(skip(x))
            x = down(x)
        x = self.innermost(x)
        for skip, up in zip(reversed(skips), reversed(self.up), strict=True):
            x = up(x)
            if x.shape != skip.shape:  # an odd map: halving rounded up
                x = F.interpolate(x, skip.shape[-2:], mode="nearest")
            x = skip + x
        return x


class ChannelAttention(nn.Module):
    """Squeeze and excitation (Hu et al., CVPR 2018, equations 2 and 3): f (B,C,h,w) -> alpha (B,C,1,1), in (0,1)."""

    def __init__(self, channels: int, activation: Callable[[int], nn.Module], reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.activation = activation(hidden)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, f: Tensor) -> Tensor:
        return torch.sigmoid(self.excite(self.activation(self.squeeze(f.mean((2, 3), keepdim=True)))))


class FaceAttentionUnit(nn.Module):
    """x (B,c_in,h,w) -> (x', alpha, f): the paper's equations 2 and 3, with x' = shortcut(x) + alpha * f.

    Without attention, an ablation, it is a residual unit: x' = shortcut(x) + f, and alpha is None.
    """

    def __init__(self, config: SPARNetConfig, plan: UnitPlan):
        super().__init__()
        unchanged = plan.scale == "same" and plan.c_in == plan.c_out
        self.shortcut = nn.Identity() if unchanged else Convolution(plan.c_in, plan.c_out, plan.scale)
        self.norm = _norm(config, plan.c_in)
        self.activation = _activation(config, plan.c_in)
        self.conv1 = ConvolutionBlock(config, plan.c_in, plan.c_out, "up" if plan.scale == "up" else "same")
        self.conv2 = ConvolutionBlock(
            config, plan.c_out, plan.c_out, "down" if plan.scale == "down" else "same", activate=False
        )
        self.kind = plan.attention
        if self.kind in ("2d", "3d", "2d+channel"):
            self.hourglass = Hourglass(config, plan.c_out, plan.hourglass_depth)
            self.attention = Convolution(config.hourglass_channels, plan.c_out if self.kind == "3d" else 1)
        if self.kind in ("channel", "2d+channel"):
            self.channel = ChannelAttention(plan.c_out, partial(_activation, config))

    def forward(
        self, x: Tensor, edit: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        f = self.conv2(self.conv1(self.activation(self.norm(x))))
        if self.kind == "none":
            return self.shortcut(x) + f, None, f
        alpha = self.alpha(f)
        if edit is not None:
            alpha = edit(alpha)
        return self.shortcut(x) + alpha * f, alpha, f

    def alpha(self, f: Tensor) -> Tensor:
        """f (B,C,h,w) -> (B,1,h,w) if 2d, (B,C,h,w) if 3d or 2d+channel, (B,C,1,1) if channel.

        2d+channel is in the order of CBAM (Woo et al., ECCV 2018, equation 1), channels first: the hourglass sees f as
        they gate it. CBAM gates by one and then by the other; their product is the one alpha that does the same.
        """
        if self.kind == "channel":
            return self.channel(f)
        if self.kind == "2d+channel":
            channel = self.channel(f)
            return channel * torch.sigmoid(self.attention(self.hourglass(channel * f)))
        return torch.sigmoid(self.attention(self.hourglass(f)))


class SPARNet(
    nn.Module,
    StrictHubMixin,
    library_name="sparnet",
    model_card_template=CARD,
    pipeline_tag="image-to-image",
    tags=["face-restoration", "face-super-resolution", "spatial-attention"],
):
    """Restores a degraded face; keeps every attention map that it used when asked with `trace`.

    Face in and out: (B,3,S,S) float32 RGB in [-1,1], S = config.size; a smaller degraded face is enlarged first
    (bicubic, `sparnet.images`). The output is not clamped. In eval mode a face of the wrong size, dtype or range
    raises `ValueError`.
    """

    config_class = SPARNetConfig

    def __init__(self, config: SPARNetConfig):
        super().__init__()
        self.config = config
        plans = config.units()
        self.stem = Convolution(3, plans[0].c_in)
        self.encoder, self.body, self.decoder = (
            nn.ModuleList(FaceAttentionUnit(config, plan) for plan in plans if plan.name.startswith(part))
            for part in ("encoder", "body", "decoder")
        )
        self.out = Convolution(plans[-1].c_out, 3)

    def units(self) -> Iterator[tuple[str, FaceAttentionUnit]]:
        """Every unit with its name, in forward order."""
        for part in ("encoder", "body", "decoder"):
            for i, unit in enumerate(getattr(self, part)):
                yield f"{part}.{i}", unit

    def forward(self, face: Tensor) -> Tensor:
        check_face(self, face)
        x = self.stem(face)
        for _, unit in self.units():
            x, _, _ = unit(x)
        return self.out(x)

    def trace(self, face: Tensor, edit: Edit | None = None, features: bool = False) -> Trace:
        """Restore `face` and return every alpha, with every f too if `features`; nothing stays on the model.

        `edit(name, alpha)` returns the alpha that gates the unit instead (1 opens it, 0 closes it).
        """
        check_face(self, face)
        alphas, gated = {}, {}
        x = self.stem(face)
        for name, unit in self.units():
            x, alpha, f = unit(x, partial(_edited, edit, name) if edit else None)
            if alpha is None:
                continue
            alphas[name] = alpha
            if features:
                gated[name] = f
        return Trace(self.out(x), alphas, gated if features else None)


def check_face(model: nn.Module, face: Tensor) -> None:
    """`ValueError` unless `face` is a batch for `model`, by its config.size and, in eval mode, by dtype and range."""
    side, dtype = model.config.size, next(model.parameters()).dtype
    if face.ndim != 4 or face.shape[1:] != (3, side, side) or not len(face):
        raise ValueError(
            f"face has shape {tuple(face.shape)}; this model takes (B, 3, {side}, {side}): enlarge it to "
            f"{side}x{side} first, sparnet.images.to_tensor and sparnet.images.degrade do"
        )
    if not model.training:  # a trainer's loader vouches for its faces, and looking costs a wait on a GPU
        if face.dtype != dtype:
            raise ValueError(f"face is {face.dtype}, the model's weights are {dtype}: convert one")
        if not face.detach().abs().amax() <= 1 + _RANGE_TOLERANCE:
            raise ValueError(
                f"face has values from {face.min().item():.4g} to {face.max().item():.4g}; "
                "RGB in [-1, 1] is expected: (pixels / 255 - 0.5) / 0.5"
            )


def _edited(edit: Edit, name: str, alpha: Tensor) -> Tensor:
    edited = edit(name, alpha)
    try:
        return edited.to(alpha).expand_as(alpha)
    except (AttributeError, RuntimeError) as error:
        got = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
        raise ValueError(
            f"edit returned {got} for {name}; a tensor is needed that broadcasts to its alpha, {tuple(alpha.shape)}"
        ) from error


def _norm(config: SPARNetConfig, channels: int) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    if config.norm == "instance":
        return InstanceNorm(channels)
    return nn.GroupNorm(gcd(32, channels), channels)


def _activation(config: SPARNetConfig, channels: int) -> nn.Module:
    return nn.LeakyReLU(0.2) if config.activation == "leaky_relu" else nn.PReLU(channels, init=0.2)
