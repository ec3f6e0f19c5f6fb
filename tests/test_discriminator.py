"""The discriminators against the arithmetic of their layers, and what each of them can see."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from training.discriminator import Discriminator, MultiScaleDiscriminator
from training.losses import hinge_discriminator


def faces(size, count=1):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size)) * 2 - 1


def small(scales=3, layers=2):
    torch.manual_seed(0)
    return MultiScaleDiscriminator(scales, channels=4, max_channels=8, layers=layers)


@pytest.mark.parametrize("size", [512, 256])
def test_three_scales_of_four_layers_have_the_shapes_of_their_arithmetic(size):
    with FakeTensorMode():
        judgements = MultiScaleDiscriminator()(torch.empty(2, 3, size, size))
    assert len(judgements) == 3
    for scale, (features, score) in enumerate(judgements):
        side, shapes = size // 2**scale, []
        for channels in (64, 128, 256, 512):
            side = (side + 2 * 1 - 3) // 2 + 1  # padding 1, kernel 3, stride 2
            shapes.append((2, channels, side, side))
        assert [f.shape for f in features] == shapes
        assert score.shape == (2, 1, side - 3 + 1, side - 3 + 1)  # no padding


def test_channels_double_up_to_their_limit():
    with FakeTensorMode():
        features, _ = Discriminator(48, 100)(torch.empty(1, 3, 128, 128))
        parameters = sum(p.numel() for p in Discriminator().parameters())
    assert [f.shape[1] for f in features] == [48, 96, 100, 100]
    convolutions = 9 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1) + 1  # the last has a bias
    assert parameters == convolutions + 2 * (64 + 128 + 256 + 512)  # and each norm a scale and a shift


def test_one_discriminator_is_its_layers_written_out():
    torch.manual_seed(0)
    net = Discriminator(4, 8, layers=3)
    for layer in net.layers:
        torch.nn.init.normal_(layer[1].weight)
        torch.nn.init.normal_(layer[1].bias)
    face = faces(32, 2)
    net.eval()  # no power iteration between the two ways
    features, score = net(face)
    x = face
    for layer, feature in zip(net.layers, features, strict=True):
        original = layer[0].parametrizations.weight.original
        u, v = layer[0].parametrizations.weight[0]._u, layer[0].parametrizations.weight[0]._v
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), original / (u @ original.flatten(1) @ v), stride=2)
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt() * layer[1].weight.view(-1, 1, 1) + layer[1].bias.view(-1, 1, 1)
        x = torch.where(x > 0, x, 0.2 * x)
        assert torch.allclose(x, feature, atol=1e-4)
    assert torch.allclose(F.conv2d(x, net.score.weight, net.score.bias), score, atol=1e-4)


def test_one_discriminator_is_blind_to_brightness_and_contrast_of_the_whole_face():
    torch.manual_seed(0)
    net, face = Discriminator(4, 8, layers=3).eval(), faces(64)
    score, same, other = net(face).score, net(0.5 * face + 0.3).score, net(face.flip(2)).score
    assert torch.allclose(score, same, atol=1e-3)
    assert not torch.allclose(score, other, atol=1e-1)


def test_every_convolution_has_spectral_norm_one():
    net = small().train()
    for _ in range(40):  # each pass is a power iteration
        net(faces(64))
    convolutions = [m for m in net.eval().modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 3 * (2 + 1)
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


def test_a_face_too_small_for_the_smallest_scale_is_an_error_that_says_what_is_needed():
    with pytest.raises(ValueError, match="at least 132x132"), FakeTensorMode():
        MultiScaleDiscriminator()(torch.empty(1, 3, 128, 128))
    net = small()  # 9 pixels at the third scale
    with pytest.raises(ValueError, match="at least 36x36"):
        net(faces(35))
    assert net(faces(36))[-1].score.shape == (1, 1, 1, 1)


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
    assert losses[0] > 1.5
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
    other = MultiScaleDiscriminator(3, 4, 8, layers=2)
    other.load_state_dict(net.state_dict())
    for a, b in zip(net(faces(64)), other(faces(64)), strict=True):  # in training mode: power iterations go on as well
        assert torch.equal(a.score, b.score)
