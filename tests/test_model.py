"""The network against the published facts and against a second implementation of them (tests/released.py)."""

from dataclasses import replace

import pytest
import released
import torch
from made_up import SMALL, random_faces
from torch._subclasses.fake_tensor import FakeTensorMode  # shapes without values, so that 512x512 costs nothing
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sparnet.checkpoints import MODELS, convert_released
from sparnet.model import SPARNet, SPARNetConfig


def small(**changes) -> SPARNet:
    torch.manual_seed(0)
    model = SPARNet(replace(SMALL, **changes)).eval()
    for module in model.modules():  # fresh statistics and affine values would hide a norm left out
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.InstanceNorm2d | torch.nn.GroupNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def parameters(config: SPARNetConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in SPARNet(config).parameters())


@pytest.mark.parametrize(
    ("name", "millions", "units"),
    [("sparnet", 10.52, 16), ("sparnet-light-3d", 5.24, 7), ("sparnet-hd", 85.79, 17), ("sparnet-hd-3d", 90.09, 17)],
)
def test_released_models_have_the_published_size(name, millions, units):
    config = MODELS[name].config
    assert round(parameters(config) / 1e6, 2) == millions
    assert len(config.units()) == units


@pytest.mark.parametrize(
    ("name", "map_sizes", "depths"),
    [
        ("sparnet", [64, 32, 16] + [16] * 10 + [32, 64, 128], [4, 3, 2] + [2] * 10 + [3, 4, 5]),
        ("sparnet-tiny", [64, 32, 16] + [16] * 6 + [32, 64, 128], [4, 3, 2] + [2] * 6 + [3, 4, 5]),
        ("sparnet-light-3d", [64, 32, 16, 16, 32, 64, 128], [4, 3, 2, 2, 3, 4, 5]),
        ("sparnet-hd", [256, 128, 64, 32] + [32] * 9 + [64, 128, 256, 512], [4, 3, 2, 1] + [1] * 9 + [2, 3, 4, 5]),
        ("sparnet-hd-3d", [256, 128, 64, 32] + [32] * 9 + [64, 128, 256, 512], [4, 3, 2, 1] + [1] * 9 + [2, 3, 4, 5]),
    ],
)
def test_every_unit_has_the_published_map_size_and_hourglass_depth(name, map_sizes, depths):
    config = MODELS[name].config
    assert [plan.map_size for plan in config.units()] == map_sizes
    assert [plan.hourglass_depth for plan in config.units()] == depths
    with FakeTensorMode():
        model = SPARNet(config)
        alphas = model.train().trace(torch.empty(2, 3, config.size, config.size)).alphas
    channels = [plan.c_out if config.attention == "3d" else 1 for plan in config.units()]
    expected = [(2, c, side, side) for c, side in zip(channels, map_sizes, strict=True)]
    assert [tuple(alpha.shape) for alpha in alphas.values()] == expected
    assert [len(unit.hourglass.down) for _, unit in model.units()] == depths


@pytest.mark.parametrize(("name", "least", "most"), [("sparnet-tiny", 0, 3.5), ("sparnet", 14.25, 14.35)])
def test_a_face_costs_the_promised_arithmetic(name, least, most):
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        SPARNet(MODELS[name].config).train()(torch.empty(1, 3, 128, 128))
    assert least <= counter.get_total_flops() / 1e9 <= most


@pytest.mark.parametrize(
    ("architecture", "known"),
    [
        (released.SPARNET, {}),
        (released.LIGHT_3D, {}),
        (replace(released.HD, max_ch=128), {"size": 64, "smallest": 4}),  # narrower, on a smaller face
        (replace(released.HD_3D, max_ch=128), {"size": 64, "smallest": 4}),
        (replace(released.LIGHT_3D, prelu=True, size=96, smallest=12, inner=16), {"size": 96, "smallest": 12}),
        (replace(released.LIGHT_3D, max_ch=64, norm="group", inner=32, maps="2d"), {"norm": "group"}),
    ],
    ids=["sparnet", "light-3d", "hd", "hd-3d", "prelu-odd-sizes", "group-norm"],
)
def test_released_weights_give_the_arithmetic_of_the_published_facts(architecture, known):
    state = released.random_state(architecture)
    weights = {f"module.{key}": value for key, value in state.items()} if architecture.maps == "3d" else state
    model = SPARNet.from_weights(*convert_released(weights, **known))
    face = random_faces(1, model.config.size)
    restored, alphas = released.restore(state, face, groups=32 if architecture.norm == "group" else None)
    with torch.inference_mode():
        trace = model.trace(face)
    assert relative_difference(trace.restored, restored) < 1e-4
    assert len(trace.alphas) == len(alphas)
    for mine, theirs in zip(trace.alphas.values(), alphas, strict=True):
        assert mine.shape == theirs.shape
        assert relative_difference(mine, theirs) < 1e-4
        assert theirs.std() > 1e-3  # a flat map would agree with anything


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        (released.SPARNET, "sparnet"),
        (released.LIGHT_3D, "sparnet-light-3d"),
        (released.HD, "sparnet-hd"),
        (released.HD_3D, "sparnet-hd-3d"),
    ],
)
def test_released_names_and_shapes_give_the_configuration_in_the_table(architecture, name):
    state = {key: torch.ones(()).expand(shape) for key, shape in released.shapes(architecture).items()}
    state = {key: torch.tensor(0) if key.endswith("tracked") else value for key, value in state.items()}
    config, weights = convert_released(state)
    assert config == MODELS[name].config
    assert len(weights) == len(state)


def test_trace_and_forward_give_the_same_face():
    model, face = small(), random_faces(2)
    assert torch.equal(model.trace(face, features=True).restored, model(face))


def test_nothing_stays_on_the_model():
    model = small()

    def state():
        attributes = {name: sorted(module.__dict__) for name, module in model.named_modules()}
        hooks = [module._forward_hooks or module._forward_pre_hooks for module in model.modules()]
        return attributes, hooks, {key: value.clone() for key, value in model.state_dict().items()}

    attributes, hooks, weights = state()
    model.trace(random_faces(), edit=lambda name, alpha: alpha / 2, features=True)
    assert state()[:2] == (attributes, hooks)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_a_unit_adds_its_gated_features_to_the_shortcut():
    model, face = small(), random_faces()
    trace = model.trace(face, features=True)
    first = model.encoder[0].shortcut(model.stem(face)) + trace.alphas["encoder.0"] * trace.features["encoder.0"]
    x = first
    for name, unit in list(model.units())[1:]:
        x = unit.shortcut(x) + trace.alphas[name] * trace.features[name]
    assert torch.equal(model.out(x), trace.restored)
    assert list(trace.alphas) == list(trace.features) == [plan.name for plan in model.config.units()]
    assert model.trace(face).features is None


@pytest.mark.parametrize("attention", ["2d", "3d"])
def test_alpha_zero_closes_every_unit_and_one_opens_it(attention):
    model, face = small(attention=attention), random_faces()
    x = model.stem(face)
    for _, unit in model.units():
        x = unit.shortcut(x)
    closed = model.trace(face, edit=lambda name, alpha: torch.zeros(1))
    assert torch.equal(closed.restored, model.out(x))
    assert all(not alpha.any() for alpha in closed.alphas.values())
    x = model.stem(face)
    for _, unit in model.units():
        x = unit.shortcut(x) + unit.conv2(unit.conv1(unit.activation(unit.norm(x))))
    opened = model.trace(face, edit=lambda name, alpha: torch.ones_like(alpha))
    torch.testing.assert_close(opened.restored, model.out(x))


def test_an_edit_changes_only_its_unit_and_what_comes_after():
    model, face = small(), random_faces()
    before = model.trace(face)
    after = model.trace(face, edit=lambda name, alpha: alpha * 0.25 if name == "body.0" else alpha)
    names = list(before.alphas)
    for name in names[: names.index("body.0")]:
        assert torch.equal(after.alphas[name], before.alphas[name])
    assert torch.equal(after.alphas["body.0"], before.alphas["body.0"] * 0.25)
    assert not torch.equal(after.alphas["decoder.1"], before.alphas["decoder.1"])
    assert not torch.equal(after.restored, before.restored)


@pytest.mark.parametrize("edited", [torch.ones(5, 7), None], ids=["wrong shape", "nothing"])
def test_an_edit_that_does_not_fit_names_its_unit(edited):
    with pytest.raises(ValueError, match=r"for encoder\.1; a tensor is needed that broadcasts .*\(1, 1, 8, 8\)"):
        small().trace(random_faces(), edit=lambda name, alpha: edited if name == "encoder.1" else alpha)


def test_faces_of_a_batch_do_not_see_each_other():
    model, batch = small(), random_faces(3)
    together = model.trace(batch)
    for i in range(3):
        alone = model.trace(batch[i : i + 1])
        torch.testing.assert_close(together.restored[i : i + 1], alone.restored, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.alphas["body.0"][i : i + 1], alone.alphas["body.0"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"activation": "prelu"}, {"norm": "instance"}, {"attention": "3d"}])
def test_every_parameter_learns(changes):
    model = small(**changes).train()
    F.l1_loss(model(random_faces(2)), random_faces(2, seed=1)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "prelu"},
        {"norm": "instance"},
        {"norm": "group"},
        {"size": 96, "smallest": 12, "bottleneck": 4},
        {"size": 40, "smallest": 5, "bottleneck": 8},
        {"bottleneck": 64},
        {"base_channels": 12},
    ],
    ids=str,
)
def test_every_member_of_the_family_restores_a_face(changes):
    model = small(**changes)
    trace = model.trace(random_faces(2, model.config.size))
    assert trace.restored.shape == (2, 3, model.config.size, model.config.size)
    assert trace.restored.isfinite().all()
    assert all(alpha.min() > 0 and alpha.max() < 1 for alpha in trace.alphas.values())


def test_bfloat16_autocast_gives_nearly_the_same_face():
    model, face = small(), random_faces()
    with torch.autocast("cpu", torch.bfloat16):
        halved = model.trace(face)
    assert halved.alphas["body.0"].dtype == torch.bfloat16
    assert 0 < relative_difference(halved.restored.float(), model(face)) < 0.05


@pytest.mark.parametrize(
    ("face", "message"),
    [
        (torch.zeros(1, 3, 16, 16), r"shape \(1, 3, 16, 16\).*takes \(B, 3, 32, 32\): enlarge"),
        (torch.zeros(3, 32, 32), r"shape \(3, 32, 32\)"),
        (torch.zeros(1, 1, 32, 32), r"shape \(1, 1, 32, 32\)"),
        (torch.zeros(0, 3, 32, 32), r"shape \(0, 3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "uint8.*float32: convert one"),
        (torch.zeros(1, 3, 32, 32).half(), "float16.*float32: convert one"),
        (torch.full((1, 3, 32, 32), 255.0), r"from 255 to 255; RGB in \[-1, 1\]"),
        (torch.full((1, 3, 32, 32), -1.01), "from -1.01"),
        (torch.full((1, 3, 32, 32), float("nan")), "from nan"),
    ],
    ids=lambda value: str(tuple(value.shape)) if isinstance(value, torch.Tensor) else "",
)
def test_an_unusable_face_is_an_error_that_says_what_is_expected(face, message):
    model = small()
    for call in (model, model.trace):
        with pytest.raises(ValueError, match=message):
            call(face)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "4d"}, "attention is '4d'; it must be one of '2d', '3d'"),
        ({"norm": None}, "norm is None; it must be one of"),
        ({"size": 0}, "size is 0; it must be a positive whole number"),
        ({"size": 32.0}, "size is 32.0; it must be a positive whole number"),
        ({"size": True}, "size is True; it must be a positive whole number"),
        ({"size": 48}, "size 48 is not smallest 8 times 2, 4, 8"),
        ({"size": 8}, "size 8 is not smallest 8 times 2, 4, 8"),
        ({"min_channels": 64}, "min_channels 64 is greater than max_channels 16"),
        ({"base_channels": 4}, "base_channels 4 is outside min_channels 8 to max_channels 16"),
        ({"base_channels": 17}, "base_channels 17 is outside min_channels 8 to max_channels 16"),
        ({"bottleneck": 3}, "bottleneck is 3; it must be a power of two"),
        ({"bottleneck": 128}, "bottleneck is 128; it must be a power of two, at most 64"),
        ({"body_depth": -2}, "body_depth -2 leaves -1 body units after 2 encoder units; it must be at least -1"),
        ({"bottleneck": 1}, "the hourglass of encoder.0 would shrink its 16x16 map to 1x1.*raise bottleneck"),
    ],
    ids=str,
)
def test_an_impossible_configuration_is_an_error_that_says_which_value_and_why(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)
