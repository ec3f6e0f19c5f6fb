"""The discriminators against the arithmetic of their layers, and what each of them can see."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from training.discriminator import Discriminator, MultiScaleDiscriminator
from training.losses import hinge_discriminator


def faces(size, count=1):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size)) * 2 - 1


def small():
    torch.manual_seed(0)
    return MultiScaleDiscriminator(3, channels=4, max_channels=8, halvings=2)


@pytest.fixture(scope="module")
def authors():
    """The discriminators as the authors trained them, and the mode in which nothing of them is computed."""
    with FakeTensorMode() as mode:
        return MultiScaleDiscriminator(), mode


@pytest.mark.parametrize("size", [512, 256])
def test_three_scales_have_five_feature_maps_with_the_shapes_of_their_arithmetic(authors, size):
    net, mode = authors
    with mode:
        judgements = net(torch.empty(2, 3, size, size))
    assert len(judgements) == 3
    for scale, (features, score) in enumerate(judgements):
        side = size // 2**scale
        shapes = [(2, 64, side, side)]  # padding 1, kernel 3, stride 1
        for channels in (128, 256, 512, 512):
            side = (side + 2 * 1 - 3) // 2 + 1  # stride 2
            shapes.append((2, channels, side, side))
        assert [f.shape for f in features] == shapes
        assert score.shape == (2, 1, side - 3 + 1, side - 3 + 1)  # no padding


def test_the_three_have_as_many_parameters_as_the_authors(authors):
    assert sum(p.numel() for p in authors[0].parameters()) == 11_750_403


def test_channels_double_up_to_their_limit():
    with FakeTensorMode():
        features, _ = Discriminator(48, 100)(torch.empty(1, 3, 128, 128))
    assert [f.shape[1] for f in features] == [48, 96, 100, 100, 100]


def written_out(c: int, limit: int) -> nn.Sequential:
    """The authors' discriminator as a plain list of layers, without spectral norm."""
    layers = [nn.ReflectionPad2d(1), nn.Conv2d(3, c, 3), nn.LeakyReLU(0.2)]
    for c_in, c_out in ((c, 2 * c), (2 * c, 4 * c), (4 * c, limit), (limit, limit)):
        convolution = nn.Conv2d(c_in, c_out, 3, stride=2, bias=False)
        layers += [nn.ReflectionPad2d(1), convolution, nn.InstanceNorm2d(c_out, affine=True), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(limit, 1, 3))


def test_one_discriminator_is_its_layers_written_out():
    torch.manual_seed(0)
    net, plain = Discriminator(4, 20).double(), written_out(4, 20).double()
    for module in net.modules():
        if isinstance(module, nn.InstanceNorm2d):  # whose scale and shift are 1 and 0 at first
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    net.eval()  # no power iteration between the two ways
    folded = {}
    for name, value in net.state_dict().items():
        if name.endswith("original"):
            layer = name.removesuffix(".parametrizations.weight.original")
            u, v = (net.state_dict()[f"{layer}.parametrizations.weight.0.{vector}"] for vector in ("_u", "_v"))
            folded[f"{layer}.weight"] = value / (u @ value.flatten(1) @ v)
        elif not name.endswith(("_u", "_v")):
            folded[name] = value
    ours = sorted(folded, key=lambda name: (name.split(".")[:-1], name.endswith("bias")))  # layers.0.0 ... score
    assert [folded[name].shape for name in ours] == [value.shape for value in plain.state_dict().values()]
    plain.load_state_dict(dict(zip(plain.state_dict(), map(folded.get, ours), strict=True)))
    x, expected = faces(64, 2).double(), []
    features, score = net(x)
    for layer in plain:
        x = layer(x)
        if isinstance(layer, nn.LeakyReLU):
            expected.append(x)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(score, x)


def test_one_discriminator_sees_brightness_and_contrast_of_the_whole_face():
    torch.manual_seed(0)
    net, face = Discriminator(4, 8).eval(), faces(64)
    for other in (0.5 * face, 0.5 * face + 0.5):
        assert (net(face).score - net(other).score).abs().max() > 0.01


def test_every_convolution_has_spectral_norm_one():
    net = small().train()
    for _ in range(40):  # each pass is a power iteration
        net(faces(64))
    convolutions = [m for m in net.eval().modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 3 * (1 + 2 + 1)
    for convolution in convolutions:
        largest = torch.linalg.svdvals(convolution.weight.flatten(1))[0].item()
        assert largest == pytest.approx(1, rel=0.02)


def test_each_scale_sees_the_face_halved_as_pillow_would():
    seen = []
    net = small()
    for discriminator in net.scales:
        discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(faces(64))
    assert torch.equal(seen[0], faces(64))
    for half, full in pairwise(reversed(seen)):
        size = half.shape[-2:]
        expected = [Image.fromarray(channel.numpy()).resize(size, Image.Resampling.BICUBIC) for channel in full[0]]
        assert np.abs(half[0].numpy() - np.stack(expected)).max() < 1e-5


def test_the_smallest_face_leaves_one_score_at_the_last_scale(authors):
    assert (authors[0].smallest, small().smallest) == (132, 36)
    assert small()(faces(36))[-1].score.shape == (1, 1, 1, 1)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_it_learns_to_tell_two_faces_apart(precision):
    net = small().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), 4e-3, (0.5, 0.99))
    real, fake = F.interpolate(faces(16, 2), size=64), faces(64, 2)
    losses = []
    for _ in range(40):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = hinge_discriminator(net(real), net(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert loss.dtype == torch.float32
    assert losses[0] > 0.75
    assert losses[-1] < 0.5 * losses[0]


def test_a_restored_face_in_half_precision_is_halved_in_full():
    net = small().eval()
    face = faces(64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        from_half, from_full = net(face), net(face.float())
    assert all(torch.equal(a.score, b.score) for a, b in zip(from_half, from_full, strict=True))


def test_what_was_learnt_survives_saving():
    net = small().train()
    net(faces(64))
    other = MultiScaleDiscriminator(3, 4, 8, halvings=2)
    other.load_state_dict(net.state_dict())
    for a, b in zip(net(faces(64)), other(faces(64)), strict=True):  # in training mode: power iterations go on as well
        assert torch.equal(a.score, b.score)
