"""The baselines against the published sizes and against plain formulas of what their papers define."""

import json

import numpy as np
import pytest
import skimage.data
import torch
from scipy.linalg import hadamard
from torch.nn import functional as F

from sparnet import images
from sparnet.errors import UserError
from training.baselines import (
    RCAN,
    BaselineConfig,
    RCANConfig,
    SmallFace,
    WaveletSRNet,
    WaveletSRNetConfig,
    from_haar_packets,
    haar_packets,
    wavelet_loss,
)

SMALL = {
    RCAN: RCANConfig(size=32, degraded_size=8, groups=2, blocks=2, channels=8, reduction=2),
    WaveletSRNet: WaveletSRNetConfig(size=32, degraded_size=8, channels=8, stages=3, band_channels=4),
}
both = pytest.mark.parametrize("network", SMALL)


def small(network):
    torch.manual_seed(0)
    return network(SMALL[network]).eval()


def faces(batch=1, seed=0):
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def packets_by_hadamard(image, levels):
    """(C,H,W) -> (4^levels,C,H/2^levels,W/2^levels): each block of pixels times the Walsh functions, one by one."""
    side = 2**levels
    walsh = hadamard(side) / side**0.5
    channels, height, width = image.shape
    blocks = image.reshape(channels, height // side, side, width // side, side)
    bands = []
    for band in range(side * side):
        digits = [band >> 2 * level & 3 for level in range(levels)]
        across = sum((digit & 1) << level for level, digit in enumerate(digits))
        down = sum((digit >> 1) << level for level, digit in enumerate(digits))
        bands.append(np.einsum("cyixj,i,j->cyx", blocks, walsh[down], walsh[across]))
    return np.array(bands)


@pytest.mark.parametrize(("scale", "millions"), [(2, 15.44), (4, 15.59), (8, 15.74)])
def test_rcan_has_the_published_size(scale, millions):
    """About 16 M in the paper; 15.44 M at x2 and 15.59 M at x4 in the tables of those who compare with it."""
    with torch.device("meta"):
        network = RCAN(RCANConfig(size=128, degraded_size=128 // scale))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


def test_rcan_is_the_arithmetic_of_its_paper():
    network, face = small(RCAN), faces(2)
    weights = network.state_dict()

    def convolution(x, name):
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def gate(f, name):
        pooled = f.numpy().mean((2, 3))
        w1, b1, w2, b2 = (weights[f"{name}.{key}"].numpy().squeeze() for key in
                          ("squeeze.weight", "squeeze.bias", "excite.weight", "excite.bias"))  # fmt: skip
        alpha = 1 / (1 + np.exp(-(np.maximum(pooled @ w1.T + b1, 0) @ w2.T + b2)))
        return torch.from_numpy(alpha)[..., None, None]

    head = x = convolution(network.small(face), "head")
    for group in range(2):
        before = x
        for block in range(2):
            name = f"body.layers.{group}.layers.{block}"
            f = convolution(convolution(x, f"{name}.conv1").relu(), f"{name}.conv2")
            x = x + gate(f, f"{name}.attention") * f
        x = before + convolution(x, f"body.layers.{group}.layers.2")
    x = head + convolution(x, "body.layers.2")
    for layer in (0, 2):
        x = F.pixel_shuffle(convolution(x, f"up.{layer}"), 2)
    with torch.no_grad():
        torch.testing.assert_close(network(face), convolution(x, "tail"))


def test_the_small_face_is_the_one_that_was_enlarged():
    crop = skimage.data.astronaut()[8:216, 120:328]
    tiny = images.resize(crop, 16)
    back = SmallFace(BaselineConfig())(images.to_tensor(images.resize(tiny, 128)))
    error = (back - images.to_tensor(tiny)).abs() * 127.5
    assert error.mean() < 0.2  # of 255 levels
    dim = (tiny // 2 + 64).astype(np.uint8)  # far from black and white, where nothing is clipped
    back = SmallFace(BaselineConfig())(images.to_tensor(images.resize(dim, 128)))
    assert (back - images.to_tensor(dim)).abs().max() * 127.5 < 0.5


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_wavelet_packets_are_the_walsh_functions_of_each_block(levels):
    image = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    packets = haar_packets(image, levels)
    expected = packets_by_hadamard(image[0].numpy(), levels)
    np.testing.assert_allclose(packets[0].numpy(), expected.reshape(packets.shape[1:]), atol=1e-12)
    torch.testing.assert_close(from_haar_packets(packets, levels), image)


def test_each_subnet_predicts_its_own_band_of_the_restored_face():
    network, face = small(WaveletSRNet), faces()
    with torch.no_grad():
        before = haar_packets(network(face), 2)[0].unflatten(0, (16, 3))
        for parameter in (network.prediction[0].norm2.bias, network.prediction[2].bias):
            parameter.view(16, -1)[5] += 1  # of the sixth subnet alone
        after = haar_packets(network(face), 2)[0].unflatten(0, (16, 3))
    changed = (after - before).abs().amax((1, 2, 3)) > 1e-4
    assert changed.nonzero().flatten().tolist() == [5]


def test_the_wavelet_loss_is_that_of_the_published_script():
    restored, sharp = faces(2), faces(2, seed=1) / 2
    total = 0
    for one, other in zip(restored.double().numpy(), sharp.double().numpy(), strict=True):
        mine, theirs = packets_by_hadamard(one, 3), packets_by_hadamard(other, 3)
        low, high = ((mine[part] - theirs[part]) ** 2 for part in (slice(0, 1), slice(1, None)))
        missing = 1.2 * (theirs[1:] ** 2).sum(1) - (mine[1:] ** 2).sum(1)
        texture = np.where(missing > 0, missing, 0).mean()
        total += 0.01 * low.sum() / 2 + 0.99 * high.sum() / 2 + texture + 0.1 * ((one - other) ** 2).sum() / 2
    assert wavelet_loss(restored, sharp).item() == pytest.approx(total / 2 / (3 * 32 * 32), rel=1e-5)


@both
def test_every_parameter_learns(network):
    model = small(network).train()
    wavelet_loss(model(faces(4)), faces(4, seed=1), levels=2).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@both
def test_a_saved_baseline_comes_back_with_its_configuration(network, tmp_path):
    model, face = small(network), faces()
    model.save_pretrained(tmp_path)
    loaded = network.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(face), model(face))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"channels": 16}))
    with pytest.raises(UserError, match="do not fit their configuration"):
        network.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"depth": 3}))
    with pytest.raises(UserError, match="unknown fields: depth"):
        network.from_pretrained(tmp_path)


@both
@pytest.mark.parametrize(
    ("face", "message"),
    [
        (torch.zeros(1, 3, 8, 8), r"shape \(1, 3, 8, 8\).*takes \(B, 3, 32, 32\)"),
        (torch.full((1, 3, 32, 32), 255.0), r"from 255 to 255; RGB in \[-1, 1\]"),
    ],
    ids=["size", "range"],
)
def test_an_unusable_face_is_an_error_that_says_what_is_expected(network, face, message):
    with pytest.raises(ValueError, match=message):
        small(network)(face)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (RCANConfig, {"groups": 0}, "groups is 0; it must be a positive whole number"),
        (RCANConfig, {"blocks": 2.5}, "blocks is 2.5; it must be a positive whole number"),
        (RCANConfig, {"size": 48}, "size 48 is not degraded_size 16 times 2, 4, 8"),
        (RCANConfig, {"size": 16}, "size 16 is not degraded_size 16 times 2, 4, 8"),
        (RCANConfig, {"channels": 8}, "channels 8 are fewer than reduction 16"),
        (WaveletSRNetConfig, {"degraded_size": None}, "degraded_size is None; it must be a positive whole number"),
        (WaveletSRNetConfig, {"degraded_size": 256}, "size 128 is not degraded_size 256 times"),
    ],
    ids=str,
)
def test_an_impossible_configuration_is_an_error_that_says_which_value_and_why(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        kind(**changes)
