"""Every recipe by its name: it trains, what it makes can be loaded, and it is what it says it is."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from made_up import pictures
from safetensors.torch import save_file

from sparnet.errors import UserError
from sparnet.model import SPARNetConfig
from training import perceptual, state
from training.networks import initial_weights, load, network
from training.recipes import RECIPES, find_recipe
from training.run import Job
from training.train import train


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "faces", 6, side=64)


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> dict[str, Path]:
    """Files with random weights for the perceptual losses that the recipes name; VGG19 an eighth as wide."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("nets")
    files = {}
    for kind, net in (("vgg19", perceptual.vgg19(8)), ("vgg19_normalised", perceptual.vgg19_normalised())):
        prefix = "features." if kind == "vgg19_normalised" else ""
        files[kind] = folder / f"{kind}.safetensors"
        save_file({name.removeprefix(prefix): value for name, value in net.state_dict().items()}, files[kind])
    return files


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_twenty_steps_in_a_rehearsal(name, faces, nets, tmp_path, monkeypatch):
    monkeypatch.setattr(perceptual, "vgg19", partial(perceptual.vgg19, 8))
    AcceleratorState._reset_state(reset_partial_state=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = find_recipe(name).rehearsal()
    file = nets[recipe.gan.perceptual_kind] if recipe.gan else None
    start = {key: value.clone() for key, value in network(recipe.model).state_dict().items()}
    folder = train(recipe, Job([faces], tmp_path / "run", perceptual=file, workers=0, log_every=20))
    torch.set_num_threads(threads)
    kept = state.load_checkpoint(tmp_path / "run", pytest.fail)
    assert kept["step"] == 20
    assert ({"train/perceptual", "train/discriminator"} <= kept["history"].keys()) == bool(RECIPES[name].gan)
    model = load(str(folder))
    assert model.config == recipe.model
    assert type(model) is type(network(recipe.model))
    assert any(not torch.equal(value, start[key]) for key, value in model.state_dict().items())
    assert recipe.loss == RECIPES[name].loss


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
    AcceleratorState._reset_state(reset_partial_state=True)
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
