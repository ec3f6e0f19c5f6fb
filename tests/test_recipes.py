"""Every recipe by its name: it trains, what it makes can be loaded, and it is what it says it is."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from made_up import pictures, random_faces
from safetensors.torch import save_file

from sparnet.errors import UserError
from sparnet.model import SPARNetConfig
from training import perceptual, state
from training.networks import initial_weights, load, network
from training.recipes import RECIPES, find_recipe
from training.run import Job
from training.train import train

pytestmark = pytest.mark.usefixtures("fresh_accelerator", "quick")


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "faces", 6, side=64)


@pytest.fixture
def nets(tmp_path, monkeypatch) -> dict[str, Path]:
    """Files with random weights for the perceptual losses that the recipes name; VGG19 an eighth as wide."""
    monkeypatch.setattr(perceptual, "vgg19", partial(perceptual.vgg19, 8))
    files = {}
    for kind, net in (("vgg19", perceptual.vgg19()), ("vgg19_normalised", perceptual.vgg19_normalised().features)):
        files[kind] = tmp_path / f"{kind}.safetensors"
        save_file(net.state_dict(), files[kind])
    return files


def first_of_each_kind() -> list[str]:
    """The recipes from which the others differ in their network's config alone."""
    kinds = {}
    for name, recipe in RECIPES.items():
        kind = replace(recipe, name="", published="", ours="", model=type(recipe.model))
        kinds.setdefault(repr(kind), name)
    return list(kinds.values())


def trained(weights: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Those of the convolutions, but for two with a ReLU between that may be dead."""
    return {
        key: value
        for key, value in weights
        if value.ndim == 4 and not key.endswith(("squeeze.weight", "excite.weight"))
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipes_network_has_a_gradient_in_each_convolution_and_can_be_loaded(name, tmp_path):
    config = find_recipe(name).rehearsal().model
    torch.manual_seed(0)
    model = network(config)
    model(random_faces(2, config.size)).abs().mean().backward()
    for key, weight in trained(model.named_parameters()).items():
        assert weight.grad.any(), key
    model.save_pretrained(tmp_path / "model")
    loaded = load(str(tmp_path / "model"))
    assert (type(loaded), loaded.config) == (type(model), config)


@pytest.mark.parametrize("name", first_of_each_kind())
def test_a_recipe_trains_each_convolution_by_its_losses_and_the_model_can_be_loaded(name, faces, nets, tmp_path):
    """Two steps of its rehearsal; where there is a full loss, the second is by it."""
    recipe = find_recipe(name).rehearsal()
    recipe = replace(recipe, steps=2, gan=recipe.gan and replace(recipe.gan, pixel_steps=1))
    file = nets[recipe.gan.perceptual_kind] if recipe.gan else None
    folder = train(recipe, Job([faces], tmp_path / "run", perceptual=file, workers=0, log_every=2))
    kept = state.load_checkpoint(tmp_path / "run", pytest.fail)
    assert kept["step"] == 2
    assert ({"train/perceptual", "train/discriminator"} <= kept["history"].keys()) == bool(RECIPES[name].gan)
    assert recipe.loss == RECIPES[name].loss
    model = load(str(folder))
    assert model.config == recipe.model
    assert type(model) is type(network(recipe.model))
    before = state.load_checkpoint(tmp_path / "run", pytest.fail, [state.PREVIOUS])
    assert before["step"] < 2
    for key, value in trained(model.state_dict().items()).items():
        assert not torch.equal(value, before["averaged"][key]), f"{key} was not trained"


def test_a_rehearsal_has_twenty_steps_the_last_four_by_the_full_loss(faces, nets, tmp_path):
    recipe = find_recipe("sparnet-hd-light-256").rehearsal()
    train(recipe, Job([faces], tmp_path / "run", perceptual=nets["vgg19_normalised"], workers=0, log_every=1))
    history = state.load_checkpoint(tmp_path / "run", pytest.fail)["history"]
    assert [step for step, _ in history["train/pixel"]] == list(range(1, 21))
    assert [step for step, _ in history["train/perceptual"]] == [17, 18, 19, 20]


def test_recipes_of_the_paper_differ_from_the_released_one_in_what_their_names_say():
    released = RECIPES["sparnet"].model
    assert [RECIPES[name].model.degraded_size for name in ("sparnet-4x", "sparnet", "sparnet-16x")] == [32, 16, 8]
    for name, change in {
        "sparnet-no-attention": {"attention": "none"},
        "sparnet-bottleneck-8": {"bottleneck": 8},
        "sparnet-3d": {"attention": "3d"},
        "sparnet-attention-4": {"attention_units": 4},
    }.items():
        assert RECIPES[name].model == replace(released, **change)
    assert RECIPES["sparnet-hd"].model == SPARNetConfig(512, 32, max_channels=512, norm="instance", degraded_size=None)
    gan = RECIPES["sparnet-hd"].gan
    assert (gan.pixel, gan.perceptual, gan.feature_matching, gan.adversarial) == (100, 1, 10, 1)
    assert (RECIPES["sparnet-hd"].lr, gan.lr, RECIPES["sparnet-hd"].betas) == (1e-4, 4e-4, (0.5, 0.99))


def test_the_light_hd_design_has_the_size_it_is_known_for():
    model = network(RECIPES["sparnet-hd-light"].model)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(10.33e6, rel=1e-3)


def test_weights_start_a_training_on_faces_of_another_size_but_not_another_network(faces, tmp_path):
    recipe = RECIPES["sparnet-hd-light-256"]
    small = replace(recipe.rehearsal(), gan=None, steps=1)
    folder = str(train(small, Job([faces], tmp_path / "run", workers=0)))
    larger = small.at(128).model
    assert larger.size == 128
    network(larger).load_state_dict(initial_weights(folder, larger))
    with pytest.raises(UserError, match="reduces its faces by 8, the recipe by 4"):
        initial_weights(folder, replace(larger, smallest=32))
    with pytest.raises(UserError, match="is a SPARNet, which is not what the recipe trains"):
        initial_weights(folder, RECIPES["rcan"].model)
    with pytest.raises(UserError, match="--size 100 does not suit"):
        small.at(100)
