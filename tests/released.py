"""The released Face-SPARNet generators a second time, as plain functions on a state dict with the released names.

    random_state(architecture) -> {released name: values} -> restore(state, face) -> restored, alphas

Written from the published facts alone and independent of sparnet.model and sparnet.checkpoints: a witness for both.
"""

from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Architecture:
    """The constants that the facts give for a released model."""

    size: int = 128
    smallest: int = 16
    min_ch: int = 32
    max_ch: int = 128
    body_depth: int = 10
    maps: str = "2d"
    norm: str = "batch"
    spectral: bool = False
    prelu: bool = False
    inner: int = 64
    bottleneck: int = 4


SPARNET = Architecture()
LIGHT_3D = Architecture(body_depth=1, maps="3d")
HD = Architecture(size=512, smallest=32, max_ch=512, norm="instance", spectral=True)
HD_3D = Architecture(size=512, smallest=32, max_ch=512, norm="instance", spectral=True, maps="3d")


def shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Every released name with its shape, spectral norm already folded."""
    found: dict[str, tuple[int, ...]] = {}

    def clip(c):
        return max(a.min_ch, min(c, a.max_ch))

    def convolution(name, c_in, c_out, bias=True):
        found[f"{name}.conv2d.weight"] = (c_out, c_in, 3, 3)
        if bias:
            found[f"{name}.conv2d.bias"] = (c_out,)

    def norm(name, channels):
        for part in ("weight", "bias") + (("running_mean", "running_var") if a.norm == "batch" else ()):
            found[f"{name}.{part}"] = (channels,)
        if a.norm == "batch":
            found[f"{name}.num_batches_tracked"] = ()

    def block(name, c_in, c_out, activation=True):
        convolution(name, c_in, c_out, bias=False)
        norm(f"{name}.norm.norm", c_out)
        if a.prelu and activation:
            found[f"{name}.relu.func.weight"] = (c_out,)

    def unit(name, c_in, c_out, depth, scaled):
        if scaled or c_in != c_out:
            convolution(f"{name}.shortcut_func", c_in, c_out)
        norm(f"{name}.preact_func.0.norm", c_in)
        if a.prelu:
            found[f"{name}.preact_func.1.func.weight"] = (c_in,)
        block(f"{name}.conv1", c_in, c_out)
        block(f"{name}.conv2", c_out, c_out, activation=False)
        for level in range(depth, 0, -1):
            block(f"{name}.att_func.b1_{level}", c_out if level == depth else a.inner, a.inner)
            block(f"{name}.att_func.b2_{level}", c_out if level == depth else a.inner, a.inner)
            block(f"{name}.att_func.b3_{level}", a.inner, a.inner)
        block(f"{name}.att_func.b2_plus_1", a.inner, a.inner)
        convolution(f"{name}.att_func.out_block.0", a.inner, 1 if a.maps == "2d" else c_out)

    steps = int(log2(a.size // a.smallest))
    n, depth = clip(a.max_ch // (steps + 1)), int(log2(64 / a.bottleneck)) + 1
    convolution("encoder.0", 3, n)
    for i in range(steps):
        depth -= 1
        unit(f"encoder.{i + 1}", clip(n), clip(2 * n), depth, True)
        n = 2 * n
    for i in range(a.body_depth + 3 - steps):
        unit(f"res_layers.{i}", clip(n), clip(n), depth, False)
    for i in range(steps):
        depth += 1
        unit(f"decoder.{i}", clip(n), clip(n // 2), depth, True)
        n = n // 2
    convolution("out_conv", clip(n), 3)
    return found


def random_state(a: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """A state dict as released: running statistics that matter, convolutions under spectral norm where they were."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    state = {}
    for name, shape in shapes(a).items():
        if len(shape) == 4:
            weight = normal(*shape) * (2 / (shape[1] * 9)) ** 0.5
            if "out_block" in name and not a.spectral:
                weight *= 0.03  # keeps alpha off 0 and 1, where any two maps agree
            if not a.spectral:
                state[name] = weight
                continue
            u = F.normalize(normal(shape[0]), dim=0)
            v = F.normalize(weight.flatten(1).T @ u, dim=0)  # one step of the power iteration, so not the true sigma
            state |= {f"{name}_orig": weight, f"{name}_u": u, f"{name}_v": v}
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000)
        elif name.endswith("running_var") or (name.endswith("weight") and "norm" in name):
            state[name] = 0.5 + torch.rand(shape, generator=random)
        elif name.endswith("func.weight"):  # PReLU slopes
            state[name] = 0.4 * torch.rand(shape, generator=random)
        else:
            state[name] = 0.1 * normal(*shape)
    return state


@torch.no_grad()
def restore(state: dict[str, Tensor], face: Tensor, groups: int | None = None) -> tuple[Tensor, list[Tensor]]:
    """face (B,3,S,S) in [-1,1] -> restored face, and every alpha in forward order; `groups` if under group norm."""

    def matrix(name):
        if f"{name}_orig" not in state:
            return state[name]
        weight = state[f"{name}_orig"]
        sigma = torch.dot(state[f"{name}_u"], torch.mv(weight.reshape(weight.shape[0], -1), state[f"{name}_v"]))
        return weight / sigma

    def convolution(x, name, scale="same"):
        if scale == "up":
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(
            x, matrix(f"{name}.conv2d.weight"), state.get(f"{name}.conv2d.bias"), 2 if scale == "down" else 1
        )

    def norm(x, name):
        if groups:
            return F.group_norm(x, groups, state[f"{name}.weight"], state[f"{name}.bias"])
        if f"{name}.running_mean" in state:
            mean, variance = (state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var"))
        else:
            mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
        weight, bias = (state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def activation(x, name):
        slope = state.get(f"{name}.func.weight")
        return torch.where(x > 0, x, x * (0.2 if slope is None else slope.view(1, -1, 1, 1)))

    def block(x, name, scale="same"):
        return activation(norm(convolution(x, name, scale), f"{name}.norm.norm"), f"{name}.relu")

    def hourglass(x, name, level):
        up = block(x, f"{name}.b2_{level}", "down")
        up = hourglass(up, name, level - 1) if level > 1 else block(up, f"{name}.b2_plus_1")
        up = block(up, f"{name}.b3_{level}", "up")
        skip = block(x, f"{name}.b1_{level}")
        return skip + (up if up.shape == skip.shape else F.interpolate(up, skip.shape[2:], mode="nearest"))

    def unit(x, name, scale):
        f = activation(norm(x, f"{name}.preact_func.0.norm"), f"{name}.preact_func.1")
        f = block(f, f"{name}.conv1", "up" if scale == "up" else "same")
        f = norm(convolution(f, f"{name}.conv2", "down" if scale == "down" else "same"), f"{name}.conv2.norm.norm")
        level = len({key for key in names if key.startswith(f"{name}.att_func.b1_") and ".conv2d.weight" in key})
        attended = hourglass(f, f"{name}.att_func", level)
        alpha = 1 / (1 + torch.exp(-convolution(attended, f"{name}.att_func.out_block.0")))
        shortcut = f"{name}.shortcut_func"
        if f"{shortcut}.conv2d.weight" in names:
            x = convolution(x, shortcut, scale)
        return x + alpha * f, alpha

    names = {key.removesuffix("_orig").removesuffix("_u").removesuffix("_v") for key in state}
    alphas = []
    x = convolution(face, "encoder.0")
    for part, first, scale in (("encoder", 1, "down"), ("res_layers", 0, "same"), ("decoder", 0, "up")):
        units = len({key.split(".")[1] for key in names if key.startswith(f"{part}.")}) - first
        for i in range(first, first + units):
            x, alpha = unit(x, f"{part}.{i}", scale)
            alphas.append(alpha)
    return convolution(x, "out_conv"), alphas
