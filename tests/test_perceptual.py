"""Perceptual distances against the same nets written out a second time; what is wrong with their files."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from sparnet import images
from sparnet.errors import UserError
from training import perceptual
from training.perceptual import VGG19_REPO, Lpips, load_perceptual, vgg19, vgg19_normalised

SHARED = Path(__file__).parents[2] / "shared"
INSTRUMENTS = {
    "vgg19_normalised": SHARED / "instruments" / "vgg19_normalised_to_relu3_1.safetensors",
    "lpips_squeeze": SHARED / "instruments" / "lpips_squeeze.safetensors",
}
TIMM = {"pre_logits.fc1.weight": (4, 4), "head.fc.bias": (4,)}  # of a whole VGG19, beside its features
TORCHVISION = {"classifier.0.weight": (4, 4), "classifier.6.bias": (4,)}
VGG19 = "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512"  # channels; M: maximum over 2x2
VGG19_STAGES = {"relu1_2": 4, "relu2_2": 9, "relu3_4": 18, "relu4_4": 27, "conv5_4": 35}  # layers up to each


def faces(seed, count=2, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module", autouse=True)
def thin_vgg19():
    """A VGG19 of an eighth of the width: it enlarges faces to 224 pixels, where the whole one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perceptual, "vgg19", partial(vgg19, 8))
        yield


@pytest.fixture(scope="module")
def states():
    """Random weights of each kind, as its file has them, such that every stage differs from face to face."""
    torch.manual_seed(0)
    modules = {"vgg19": vgg19(8), "vgg19_normalised": vgg19_normalised().features, "lpips_squeeze": Lpips()}
    for module in modules.values():
        for name, parameter in module.named_parameters():
            if name.startswith("lin"):
                torch.nn.init.uniform_(parameter)  # LPIPS's own are never negative
            elif name.endswith("weight"):
                torch.nn.init.kaiming_normal_(parameter)
            else:
                torch.nn.init.normal_(parameter, std=0.1)
    return {kind: module.state_dict() for kind, module in modules.items()}


@pytest.fixture(scope="module")
def files(states, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for kind, state in states.items():
        save_file(state, folder / f"{kind}.safetensors")
    return {kind: folder / f"{kind}.safetensors" for kind in states}


def with_keys(state, others):
    return state | {key: torch.zeros(shape) for key, shape in others.items()}


def relu_convolution(state, key, x, padding=0, stride=1):
    return F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], stride, padding).relu()


def vgg19_written_out(narrower):
    """Simonyan and Zisserman 2015, configuration E; numbered as torchvision's `features`."""
    layers, c_in = [], 3
    for width in VGG19.split():
        if width == "M":
            layers.append(torch.nn.MaxPool2d(2, 2))
        else:
            layers += [torch.nn.Conv2d(c_in, int(width) // narrower, 3, padding=1), torch.nn.ReLU()]
            c_in = int(width) // narrower
    return torch.nn.Sequential(*layers).requires_grad_(False)


def vgg19_stages(state, face):
    """Each stage by a slice of its own, from the face on."""
    net = vgg19_written_out(narrower=8).to(face)
    net.load_state_dict({key.removeprefix("features."): value for key, value in state.items()})
    if face.shape[2] < 224:
        face = F.interpolate(face, size=(224, 224), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(rgb).view(3, 1, 1) for rgb in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return [net[:end](((face + 1) / 2 - mean) / std) for end in VGG19_STAGES.values()]


def normalised_stages(state, face):
    x = F.conv2d((face + 1) / 2, state["0.weight"], state["0.bias"])

    def padded(number, x):
        return relu_convolution(state, str(number), F.pad(x, (1, 1, 1, 1), mode="reflect"))

    relu1_1 = padded(2, x)
    relu2_1 = padded(9, F.max_pool2d(padded(5, relu1_1), 2))
    return [relu1_1, relu2_1, padded(16, F.max_pool2d(padded(12, relu2_1), 2))]


def lpips_distances(state, a, b):
    """Zhang et al. 2018, equation 1, SqueezeNet 1.1 written out; the normalisation as published, in NumPy."""

    def fire(number, x):
        x = relu_convolution(state, f"features.{number}.squeeze", x)
        narrow = relu_convolution(state, f"features.{number}.expand1x1", x)
        return torch.cat([narrow, relu_convolution(state, f"features.{number}.expand3x3", x, padding=1)], 1)

    def stages(face):
        x = torch.stack([(face[:, 0] + 0.03) / 0.458, (face[:, 1] + 0.088) / 0.448, (face[:, 2] + 0.188) / 0.45], 1)
        found = [relu_convolution(state, "features.0", x, stride=2)]
        for numbers in ((3, 4), (6, 7), (9,)):
            x = F.max_pool2d(found[-1], 3, 2, ceil_mode=True)
            for number in numbers:
                x = fire(number, x)
            found.append(x)
        for number in (10, 11, 12):
            found.append(fire(number, found[-1]))
        return [stage.numpy().astype(float) for stage in found]

    total = 0
    for i, (x, y) in enumerate(zip(stages(a), stages(b), strict=True)):
        x, y = (phi / (np.sqrt((phi**2).sum(1, keepdims=True)) + 1e-10) for phi in (x, y))
        weight = state[f"lin{i}.weight"].numpy().astype(float)
        total = total + (weight * (x - y) ** 2).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize(
    ("kind", "second", "size", "sides"),
    [
        ("vgg19", vgg19_stages, 32, [224, 112, 56, 28, 14]),  # enlarged
        ("vgg19", vgg19_stages, 240, [240, 120, 60, 30, 15]),
        ("vgg19_normalised", normalised_stages, 32, [32, 16, 8]),
    ],
)
def test_vgg_is_the_same_net_written_out(states, files, kind, second, size, sides):
    net = load_perceptual(kind, files[kind]).double()
    state = {key: value.double() for key, value in states[kind].items()}
    restored, sharp = faces(0, size=size).double(), faces(1, size=size).double()
    ours, theirs = second(state, restored), second(state, sharp)
    assert [stage.shape[2] for stage in ours] == sides
    for stage, expected in zip(net.stages(restored), ours, strict=True):
        assert expected.std(dim=0).mean() > 0.1  # else it would not matter what the layers before it do
        torch.testing.assert_close(stage, expected, rtol=0, atol=1e-6)
    expected = sum(np.abs(a.numpy() - b.numpy()).mean() for a, b in zip(ours, theirs, strict=True))
    assert net(restored, sharp).item() == pytest.approx(expected, rel=1e-6)


def test_the_whole_vgg19_has_the_parameters_of_its_convolutions_and_is_seen_before_its_last_relu(states):
    with FakeTensorMode():
        net = vgg19()
        stages = net.stages(torch.empty(1, 3, 224, 224))
    widths = [int(width) for width in VGG19.split() if width != "M"]
    assert sum(p.numel() for p in net.parameters()) == sum(
        9 * c_in * c_out + c_out for c_in, c_out in pairwise([3, *widths])
    )
    assert [stage.shape[1] for stage in stages] == [64, 128, 256, 512, 512]
    thin = vgg19(8)
    thin.load_state_dict(states["vgg19"])
    with torch.no_grad():
        assert [bool((stage < 0).any()) for stage in thin.stages(faces(0))] == [False] * 4 + [True]


def test_lpips_is_its_equation(states, files):
    net = load_perceptual("lpips_squeeze", files["lpips_squeeze"])
    a, b = faces(0, size=65), faces(1, size=65)  # an odd side, whose pooling rounds up
    expected = lpips_distances(states["lpips_squeeze"], a, b)
    assert net.distances(a, b).tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert net(a, b).item() == pytest.approx(expected.mean(), rel=1e-4)


@pytest.mark.parametrize("kind", ["vgg19", "vgg19_normalised", "lpips_squeeze"])
def test_only_the_restored_face_gets_a_gradient_and_equal_faces_have_no_distance(files, kind):
    net = load_perceptual(kind, files[kind])
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    restored, sharp = faces(0).requires_grad_(), faces(1).requires_grad_()
    assert net(sharp, sharp).item() == 0
    loss = net(restored, sharp)
    assert loss.shape == ()
    assert loss > 0
    loss.backward()
    assert sharp.grad is None
    assert restored.grad.isfinite().all()
    step = 0.01 * restored.grad / restored.grad.abs().max()
    assert net(restored.detach() - step, sharp) < loss


@pytest.mark.parametrize("kind", ["vgg19", "vgg19_normalised", "lpips_squeeze"])
def test_half_precision_is_near_and_its_distance_is_float32(files, kind):
    net = load_perceptual(kind, files[kind])
    restored, sharp = faces(0).requires_grad_(), faces(1)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(restored.bfloat16(), sharp)
    half.backward()
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(net(restored, sharp).item(), rel=0.05)
    assert restored.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["vgg19_normalised", "lpips_squeeze"])
def test_gradients_are_finite_differences(files, kind):
    """Along one direction, in float64; a kink of a ReLU on the way would show as a difference of another order."""
    net = load_perceptual(kind, files[kind]).double()
    restored, sharp = faces(0, count=1).double().requires_grad_(), faces(1, count=1).double()
    net(restored, sharp).backward()
    direction = torch.randn(restored.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        difference = net(restored + 1e-6 * direction, sharp) - net(restored - 1e-6 * direction, sharp)
    assert difference.item() / 2e-6 == pytest.approx((restored.grad * direction).sum().item(), rel=1e-4)


@pytest.mark.parametrize(("others", "file_name"), [(TIMM, "model.safetensors"), (TORCHVISION, "vgg19.pth")])
def test_a_whole_vgg19_is_taken_for_its_part(states, tmp_path, others, file_name):
    file = tmp_path / file_name
    (torch.save if file.suffix == ".pth" else save_file)(with_keys(states["vgg19"], others), file)
    net = load_perceptual("vgg19", file)
    assert all(torch.equal(value, states["vgg19"][key]) for key, value in net.state_dict().items())


def test_vgg19_comes_from_the_hub(states, local_hub):
    weights = {key: value.bfloat16() for key, value in with_keys(states["vgg19"], TIMM).items()}
    local_hub.commit(VGG19_REPO, {"config.json": b"{}", "model.safetensors": save(weights)})
    net = load_perceptual("vgg19")
    assert torch.equal(net.features[28].weight, states["vgg19"]["features.28.weight"].bfloat16().float())


def test_without_the_hub_a_file_is_asked_for(local_hub):
    local_hub.stop()
    message = "timm/vgg19.tv_in1k is not in the cache.*`hf download .*`.* takes a file of VGG19 with the keys"
    with pytest.warns(UserWarning, match="cannot be reached"), pytest.raises(UserError, match=message):
        load_perceptual("vgg19")


@pytest.mark.parametrize(
    ("kind", "message"),
    [("vgg19_normalised", "up to relu3_1 .0.weight"), ("lpips_squeeze", "SqueezeNet 1.1 .* and LPIPS v0.1")],
)
def test_what_cannot_be_downloaded_needs_a_file(kind, message):
    with pytest.raises(
        UserError, match=f"{kind} cannot be downloaded and no file was given.* takes a file of.*{message}"
    ):
        load_perceptual(kind)


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"gone\.safetensors is not there\. The perceptual loss vgg19 takes a file of"):
        load_perceptual("vgg19", tmp_path / "gone.safetensors")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_of_something_else_is_an_error(tmp_path, suffix):
    file = tmp_path / f"vgg19.{suffix}"
    file.write_bytes(b"not weights at all")
    with pytest.raises(UserError, match=r"is not a .*file"):
        load_perceptual("vgg19", file)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("vgg19", lambda s: s.pop("features.0.bias"), "features.0.bias is missing"),
        ("vgg19", lambda s: s.update({"features.1.running_mean": torch.zeros(1)}), "running_mean is unknown"),
        ("vgg19_normalised", lambda s: s.update({"16.weight": torch.zeros(3)}), r"16.weight has shape \(3,\) where"),
        ("lpips_squeeze", lambda s: s.pop("lin6.weight"), "lin6.weight is missing"),
        ("lpips_squeeze", lambda s: s["lin0.weight"].fill_(torch.nan), "lin0.weight has values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_named(states, tmp_path, kind, change, message):
    state = {key: value.clone() for key, value in states[kind].items()}
    change(state)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError, match=f"{message}.* takes a file of"):
        load_perceptual(kind, tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("kind", INSTRUMENTS)
def test_a_blurrier_face_is_further_away(kind):
    if not INSTRUMENTS[kind].is_file():
        pytest.skip("../shared/instruments is not here")
    net = load_perceptual(kind, INSTRUMENTS[kind])
    for file in sorted((SHARED / "faces" / "test" / "hd512").iterdir())[:2]:
        sharp = F.interpolate(images.to_tensor(images.decode(file.read_bytes())), size=128, mode="area")
        distances = [net(sharp, sharp).item()]
        for side in (64, 32, 16):
            blurred = F.interpolate(sharp, size=side, mode="area")
            distances.append(net(F.interpolate(blurred, size=128, mode="bicubic"), sharp).item())
        assert distances[0] == 0
        assert distances == sorted(distances)


def test_the_normalised_vgg_has_mean_activations_of_one():
    """What it was made for; pixels in another range or order would show here."""
    if not INSTRUMENTS["vgg19_normalised"].is_file():
        pytest.skip("../shared/instruments is not here")
    net = load_perceptual("vgg19_normalised", INSTRUMENTS["vgg19_normalised"])
    for file in sorted((SHARED / "faces" / "test" / "hd512").iterdir())[:2]:
        face = F.interpolate(images.to_tensor(images.decode(file.read_bytes())), size=128, mode="area")
        for stage in net.stages(face):
            assert 0.8 < stage.mean() < 1.25
