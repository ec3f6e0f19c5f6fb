"""The paper's ablations: which units attend, and to what; and that everything that shows maps copes with each kind."""

from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from torch.nn import functional as F

from sparnet import Restorer, SPARNet, SPARNetConfig, cli, images
from sparnet.attention import atlas_figure
from viz.explorer import payload

SMALL = SPARNetConfig(
    size=32, smallest=8, min_channels=8, max_channels=16, hourglass_channels=8, body_depth=2, bottleneck=16
)
UNITS = ["encoder.0", "encoder.1", "body.0", "body.1", "body.2", "decoder.0", "decoder.1"]
ABLATIONS = pytest.mark.parametrize(
    "changes",
    [
        {"attention": "channel"},
        {"attention": "2d+channel"},
        {"attention": "none"},
        {"attention_units": 3},
        {"attention": "channel", "attention_units": 1, "activation": "prelu"},
        {"bottleneck": None},
    ],
    ids=str,
)


def small(**changes):
    torch.manual_seed(0)
    model = SPARNet(replace(SMALL, **changes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "squeeze.weight", "excite.weight")):
            torch.nn.init.normal_(parameter, std=0.5)  # as drawn at first, every alpha is nearly the same
    return model


def faces(batch=1, seed=0):
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def attending(config):
    return [plan.name for plan in config.units() if plan.attention != "none"]


def squeeze_and_excite(f, unit):
    """alpha (B,C) by the formula of Hu et al., in NumPy; the activation is leaky ReLU."""
    w1, b1, w2, b2 = (p.detach().numpy().squeeze() for p in unit.channel.parameters())
    hidden = f.numpy().mean((2, 3)) @ w1.reshape(-1, f.shape[1]).T + b1
    return 1 / (1 + np.exp(-(np.where(hidden > 0, hidden, 0.2 * hidden) @ w2.reshape(f.shape[1], -1).T + b2)))


def test_attention_is_spread_evenly_over_the_units():
    assert attending(SMALL) == UNITS
    assert attending(replace(SMALL, attention_units=1)) == ["decoder.1"]
    assert attending(replace(SMALL, attention_units=3)) == ["body.0", "body.2", "decoder.1"]
    assert attending(replace(SMALL, attention="none")) == []
    released = SPARNetConfig()
    for count in range(1, 17):
        config = replace(released, attention_units=count)
        places = [i for i, plan in enumerate(config.units()) if plan.attention == "2d"]
        assert len(places) == count
        gaps = np.diff(places)
        assert np.ptp(gaps) <= 1 if count > 1 else places == [15]
        with_maps = [(plan.name, plan.hourglass_depth) for plan in config.units() if plan.attention == "2d"]
        assert set(with_maps) <= {(plan.name, plan.hourglass_depth) for plan in released.units()}


@ABLATIONS
def test_only_the_units_that_attend_have_an_alpha_and_weights_for_it(changes):
    model = small(**changes)
    trace = model.trace(faces(2), features=True)
    names = attending(model.config)
    assert list(trace.alphas) == list(trace.features) == names
    for plan in model.config.units():
        weights = [key for key in model.state_dict() if key.startswith(f"{plan.name}.")]
        parts = {key.split(".")[2] for key in weights}
        assert ({"hourglass", "attention"} <= parts) == (plan.attention in ("2d", "2d+channel"))
        assert ("channel" in parts) == (plan.attention in ("channel", "2d+channel"))
        if plan.name in names:
            side, c = plan.map_size, plan.c_out
            shape = {"2d": (1, side, side), "channel": (c, 1, 1), "2d+channel": (c, side, side)}[plan.attention]
            assert trace.alphas[plan.name].shape == (2, *shape)


@ABLATIONS
def test_a_unit_adds_its_features_to_the_shortcut_gated_if_it_attends(changes):
    model, face = small(**changes), faces()
    trace = model.trace(face, features=True)
    edited = model.trace(face, edit=lambda name, alpha: alpha / 2)
    for shown, factor in ((trace, 1), (edited, 0.5)):
        x = model.stem(face)
        for name, unit in model.units():
            f = unit.conv2(unit.conv1(unit.activation(unit.norm(x))))
            alpha = unit.alpha(f) * factor if name in shown.alphas else 1
            if name in shown.alphas:
                torch.testing.assert_close(shown.alphas[name], alpha)
            x = unit.shortcut(x) + alpha * f
        torch.testing.assert_close(shown.restored, model.out(x))
    assert torch.equal(trace.restored, model(face))
    assert torch.equal(trace.restored, edited.restored) == (changes.get("attention") == "none")


@torch.no_grad()
def test_channel_attention_is_squeeze_and_excitation():
    model = small(attention="channel")
    trace = model.trace(faces(3), features=True)
    for name, unit in model.units():
        expected = squeeze_and_excite(trace.features[name], unit)
        np.testing.assert_allclose(trace.alphas[name].squeeze((2, 3)).numpy(), expected, rtol=1e-4)
        assert np.ptp(expected) > 0.1  # equal numbers would agree with anything


@torch.no_grad()
def test_spatial_and_channel_attention_gate_one_after_the_other():
    model = small(attention="2d+channel")
    trace = model.trace(faces(), features=True)
    for name, unit in model.units():
        f, alpha = trace.features[name], trace.alphas[name]
        channel = torch.from_numpy(squeeze_and_excite(f, unit))[..., None, None].float()
        spatial = torch.sigmoid(unit.attention(unit.hourglass(channel * f)))
        torch.testing.assert_close(alpha * f, spatial * (channel * f))
        torch.testing.assert_close(alpha / channel, spatial.expand_as(alpha))


@torch.no_grad()
def test_at_a_single_scale_alpha_sees_two_3x3_convolutions_far():
    f = torch.randn(1, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    moved = f.clone()
    moved[..., 16, 16] += 10

    def reach(unit):
        places = (unit.alpha(moved) != unit.alpha(f))[0, 0].nonzero()
        return (places - 16).abs().max()

    assert reach(small(bottleneck=None).decoder[-1]) == 2
    assert reach(small().decoder[-1]) > 2


@ABLATIONS
def test_every_parameter_learns(changes):
    model = small(**changes).train()
    F.l1_loss(model(faces(4)), faces(4, seed=1)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_units": 0}, "attention_units is 0; it must be a positive whole number"),
        ({"attention_units": 8}, "attention_units is 8, but there are 7 units"),
        ({"attention_units": 2, "attention": "none"}, "attention_units is 2, but attention is 'none'"),
        ({"attention": None}, "attention is None; it must be one of '2d', '3d', 'channel', '2d.channel', 'none'"),
    ],
    ids=str,
)
def test_an_impossible_ablation_is_an_error_that_says_which_value_and_why(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


def test_an_hourglass_too_deep_is_no_matter_where_there_is_none():
    for changes in ({"attention": "none"}, {"attention": "channel"}):
        replace(SMALL, bottleneck=1, **changes)


def test_a_saved_ablation_comes_back(tmp_path):
    model = small(attention="2d+channel", attention_units=2, bottleneck=None)
    model.save_pretrained(tmp_path)
    loaded = SPARNet.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(faces()), model(faces()))


def test_a_photo_is_restored_without_attention_maps_and_the_command_line_says_that_there_are_none(tmp_path, capsys):
    model = small(attention="none", degraded_size=8)
    photo = skimage.data.astronaut()
    (face,) = Restorer(model)(photo, faces=[(170, 60, 270, 190)], features=True).faces
    assert face.alphas == face.features == {}
    assert payload(face.degraded, face.restored, face.alphas)["units"] == []
    model.save_pretrained(tmp_path / "model")
    images.save_png(photo, tmp_path / "photo.png")
    command = [tmp_path / "photo.png", tmp_path / "out.png", "--whole", "--model", tmp_path / "model"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["restore", *map(str, command), "--attention", str(tmp_path / "maps")])
    assert ended.value.code == 2
    assert "has no attention maps to write: leave --attention out" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["restore", *map(str, command)])
    assert ended.value.code == 0


@torch.no_grad()
def test_a_channel_alpha_is_shown_as_a_uniform_map_of_its_mean():
    trace = small(attention="channel").trace(faces(), features=True)
    shown = [axes.images[0].get_array() for axes in atlas_figure(trace.alphas, stretch=True).axes if axes.images]
    for array, alpha in zip(shown, trace.alphas.values(), strict=False):  # the colour bar is an image too
        assert array.shape == (1, 1)
        assert array.item() == pytest.approx(alpha.mean().item())
    face = np.zeros((32, 32, 3), np.uint8)
    for unit in payload(face, face, trace.alphas)["units"]:
        assert unit["gates"] == trace.alphas[unit["name"]].flatten().tolist()
        assert unit["numbers"]["std"] == pytest.approx(0, abs=1e-7)
        assert unit["numbers"]["mean"] == pytest.approx(trace.alphas[unit["name"]].mean().item())
