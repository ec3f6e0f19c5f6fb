"""Numbers, figures and overlays, each against a second way of getting them."""

import io
from base64 import b64decode

import numpy as np
import pytest
import skimage.data
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from skimage.measure import shannon_entropy

from sparnet.attention import (
    COLORMAPS,
    MapNumbers,
    atlas_figure,
    color_table,
    colorize,
    enlarge,
    feature_strength,
    figure_png,
    group_units,
    maps_npz,
    mean_map,
    overlay,
)
from sparnet.model import SPARNet, SPARNetConfig
from viz.explorer import color_tables, payload, strengths

TINY = SPARNetConfig(
    size=32, smallest=8, min_channels=8, max_channels=16, hourglass_channels=8, body_depth=2, bottleneck=16
)


@pytest.fixture(scope="module", params=["2d", "3d"])
def trace(request):
    torch.manual_seed(0)
    config = SPARNetConfig(**{**TINY.__dict__, "attention": request.param})
    model = SPARNet(config).eval()
    with torch.no_grad():
        return model.trace(torch.rand(1, 3, 32, 32) * 2 - 1, features=True)


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def test_numbers_of_a_map_equal_those_of_numpy_and_scikit_image():
    alpha = np.random.default_rng(1).beta(2, 5, (16, 16)).astype(np.float32)
    numbers = MapNumbers.of(alpha)
    assert numbers.mean == pytest.approx(np.mean(alpha.tolist()))
    assert numbers.std == pytest.approx(np.std(alpha.tolist()))
    assert (numbers.min, numbers.max) == (alpha.min(), alpha.max())
    assert numbers.entropy == pytest.approx(shannon_entropy(np.floor(alpha * 256)), abs=1e-6)
    assert numbers.above_mean == sum(a > numbers.mean for a in alpha.flat) / 256


def test_entropy_is_zero_for_a_constant_map_and_eight_bits_when_every_bin_is_used_equally():
    assert MapNumbers.of(np.full((8, 8), 0.3, np.float32)).entropy == 0
    assert MapNumbers.of(((np.arange(256) + 0.5) / 256).reshape(16, 16)).entropy == pytest.approx(8)


def test_the_map_of_3d_attention_is_the_mean_over_its_channels_and_of_2d_attention_itself():
    alpha = torch.rand(5, 3, 3)
    assert np.allclose(mean_map(alpha), sum(alpha.numpy()) / 5)
    assert np.array_equal(mean_map(alpha[:1]), alpha[0].numpy())
    assert np.array_equal(mean_map(alpha[None]), mean_map(alpha))


def test_a_batch_of_maps_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\)"):
        mean_map(torch.rand(2, 1, 4, 4))


def test_units_are_grouped_in_forward_order():
    names = [plan.name for plan in TINY.units()]
    groups = group_units(names)
    assert list(groups) == ["encoder", "body", "decoder"]
    assert [name for group in groups.values() for name in group] == names


@pytest.mark.parametrize("stretch", [False, True])
def test_the_atlas_shows_each_unit_once_in_forward_order_with_its_values(trace, stretch):
    figure = atlas_figure(trace.alphas, stretch=stretch, title="a title")
    shown = panels(figure)
    assert [axes.get_title(loc="left") for axes in shown] == list(trace.alphas)
    for axes, alpha in zip(shown, trace.alphas.values(), strict=True):
        expected = alpha[0].mean(0).numpy()
        assert np.allclose(axes.images[0].get_array(), expected)
        limits = (expected.min(), expected.max()) if stretch else (0, 1)
        assert axes.images[0].get_clim() == pytest.approx(limits)
        assert f"{alpha.shape[-1]}x{alpha.shape[-1]}" in axes.texts[0].get_text()
    assert figure.get_suptitle() == "a title"
    assert ("do not compare" in figure.axes[-1].get_ylabel()) == stretch


@pytest.mark.parametrize(("scales", "body"), [(3, 10), (3, 1), (4, 9), (1, 0)])
def test_no_panel_of_the_atlas_covers_another_or_leaves_the_page(scales, body):
    names = [f"{part}.{i}" for part, n in (("encoder", scales), ("body", body), ("decoder", scales)) for i in range(n)]
    figure = atlas_figure({name: torch.rand(3, 256, 256) for name in names})
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in [*panels(figure), figure.axes[-1]]]
    assert len(boxes) == len(names) + 1
    for i, box in enumerate(boxes):
        assert figure.bbox.containsx(box.x0)
        assert figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0)
        assert figure.bbox.containsy(box.y1)
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_an_atlas_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no attention maps"):
        atlas_figure({})


def test_the_atlas_is_a_png_of_the_asked_resolution(trace):
    figure = atlas_figure(trace.alphas)
    png = Image.open(io.BytesIO(figure_png(figure, dpi=50)))
    assert png.format == "PNG"
    assert png.size == tuple(int(inches * 50) for inches in figure.get_size_inches())


def test_maps_come_back_from_npz_bit_for_bit_in_forward_order(trace):
    stored = np.load(io.BytesIO(maps_npz({name: alpha[0] for name, alpha in trace.alphas.items()})))
    assert stored.files == list(trace.alphas)
    for name, alpha in trace.alphas.items():
        assert stored[name].dtype == np.float32
        assert np.array_equal(stored[name], alpha[0].numpy())


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_every_colour_map_is_perceptually_ordered(colormap):
    lightness = color_table(colormap) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -0.8).all()  # up to the rounding of the table
    assert lightness[-1] - lightness[0] > 120


@pytest.mark.parametrize("opacity", [0, 0.35, 1])
def test_an_overlay_equals_pillows_blend(opacity):
    base = skimage.data.astronaut()[:64, 200:264]
    alpha = np.random.default_rng(2).random((16, 16), np.float32)
    levels = np.array([[int(a * 255 + 0.5) for a in row] for row in alpha], np.uint8)
    colors = Image.fromarray(levels).convert("P")
    colors.putpalette(color_table("magma").tobytes())
    colors = colors.convert("RGB").resize((64, 64), Image.Resampling.NEAREST)
    expected = np.array(Image.blend(Image.fromarray(base), colors, opacity), int)
    assert np.abs(overlay(base, alpha, "magma", opacity).astype(int) - expected).max() <= 1  # Pillow truncates


def test_values_outside_low_and_high_take_the_end_colours():
    table = color_table("viridis")
    shown = colorize(np.array([[0.0, 0.4, 0.6, 1.0]]), low=0.4, high=0.6)
    assert np.array_equal(shown[0], table[[0, 0, 255, 255]])
    assert np.array_equal(colorize(np.full((1, 1), 0.5), low=0.5, high=0.5)[0, 0], table[0])  # a constant map


def test_enlarging_repeats_each_value():
    image = np.arange(4).reshape(2, 2)
    assert np.array_equal(enlarge(image, 6), np.kron(image, np.ones((3, 3), int)))


def test_feature_strength_is_the_length_of_the_feature_vector():
    features = torch.randn(1, 7, 4, 4)
    expected = np.sqrt(sum(channel.numpy() ** 2 for channel in features[0]))
    assert np.allclose(feature_strength(features), expected, atol=1e-6)


def test_the_browser_gets_every_map_exact_to_a_sixteen_bit_step_of_its_range(trace):
    def decoded(sent):
        low, high = sent["range"]
        levels = np.frombuffer(b64decode(sent["values"]), "<u2").reshape(sent["side"], sent["side"])
        return low + (high - low) * levels / 65534, (high - low) / 65534 / 2 + 1e-7

    face = np.zeros((32, 32, 3), np.uint8)
    sent, features = payload(face, face, trace.alphas), strengths(trace.features)
    assert [unit["name"] for unit in sent["units"]] == list(trace.alphas)
    for unit in sent["units"]:
        values, half_a_step = decoded(unit)
        assert np.abs(values - trace.alphas[unit["name"]][0].mean(0).numpy()).max() <= half_a_step
        values, half_a_step = decoded(features["units"][unit["name"]])
        assert np.abs(values - trace.features[unit["name"]][0].square().sum(0).sqrt().numpy()).max() <= half_a_step
    assert list(color_tables()) == list(COLORMAPS)
