"""The networks of the family: which one a recipe's config names, and its weights on their way in and out of training.

recipe -> build -> weights of `init`? -> spectral norm? -> trained
trained -> plain_state -> the same weights under the network's own names, spectral norm folded in
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.flop_counter import FlopCounterMode

from sparnet.checkpoints import load_model
from sparnet.errors import UserError
from sparnet.hub import CONFIG
from sparnet.limits import cost
from sparnet.model import SPARNet, SPARNetConfig
from training.baselines import RCAN, RCANConfig, WaveletSRNet, WaveletSRNetConfig
from training.recipes import NetworkConfig, Recipe

Network = SPARNet | RCAN | WaveletSRNet
AnyModule = TypeVar("AnyModule", bound=nn.Module)
NETWORKS = {SPARNetConfig: SPARNet, RCANConfig: RCAN, WaveletSRNetConfig: WaveletSRNet}
SHAPELESS = ("size", "smallest", "degraded_size")  # fields that no shape of a SPARNet's weights depends on
NORMED = 0.3  # how far from 1 a largest singular value may be: averaging weights lowers it


def network(config: NetworkConfig) -> Network:
    """The network of that config, with fresh weights."""
    return NETWORKS[type(config)](config)


def load(source: str) -> Network:
    """A SPARNet by name, folder, Hub id or released file (`sparnet.load_model`), or a baseline by its folder; eval."""
    if (path := Path(source) / CONFIG).is_file():
        try:
            names = set(json.loads(path.read_text()))
        except ValueError:
            names = set()  # load_model says what is wrong with it
        for config in (RCANConfig, WaveletSRNetConfig):
            if names == {field.name for field in fields(config)}:
                return NETWORKS[config].from_pretrained(source).eval()
    return load_model(source)


def build(recipe: Recipe, init: str | None = None) -> Network:
    """The recipe's network in training mode, with fresh weights or those of the model at `init`."""
    model = network(recipe.model)
    if init:
        model.load_state_dict(initial_weights(init, recipe.model))
    if recipe.gan and recipe.gan.generator_spectral_norm:
        for module in [module for module in model.modules() if isinstance(module, nn.Conv2d)]:
            before = module.weight.detach().norm()
            spectral_norm(module)
            sigma = (before / module.weight.detach().norm()).item()
            if init and abs(sigma - 1) > NORMED:
                raise UserError(
                    f"The weights of {init} were not trained under spectral norm, which would change them (a largest "
                    f"singular value is {sigma:.2f}, not 1); start without --init, or with a recipe without it."
                )
    return model.train()


def initial_weights(source: str, config: NetworkConfig) -> dict[str, Tensor]:
    """State dict of the model at `source`, which may have been trained on faces of another size.

    `UserError` names the field in which it is not the recipe's.
    """
    model = load(source)
    if type(model.config) is not type(config):
        raise UserError(f"{source} is a {type(model).__name__}, which is not what the recipe trains.")
    free = SHAPELESS if isinstance(model, SPARNet) else ()
    for name in (entry.name for entry in fields(config) if entry.name not in free):
        theirs, ours = getattr(model.config, name), getattr(config, name)
        if theirs != ours:
            raise UserError(f"{source} has {name} {theirs!r}, the recipe has {ours!r}; choose that model's recipe.")
    theirs, ours = (config.size // getattr(config, "smallest", 1) for config in (model.config, config))
    if isinstance(model, SPARNet) and theirs != ours:
        raise UserError(f"{source} reduces its faces by {theirs}, the recipe by {ours}; choose another --size.")
    return model.state_dict()


def channels_last(model: AnyModule) -> AnyModule:
    """The model itself, its weights laid out as convolutions are fastest: for faces that are laid out so too."""
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  torch's stubs lack it


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as a network without spectral norm has it: W / sigma in the place of what it is computed from."""
    training = model.training
    model.eval()  # reading W in training mode would move the power iteration on
    state = {}
    for key, value in model.state_dict().items():
        name, parametrization, part = key.partition(".parametrizations.weight.")
        if not parametrization:
            state[key] = value
        elif part == "original":
            state[f"{name}.weight"] = model.get_submodule(f"{name}.parametrizations.weight")().detach()
    model.train(training)
    return state


def size_of(config: NetworkConfig) -> tuple[float, float]:
    """Million parameters, and GFLOP for one face (a multiplication and an addition are two); nothing is computed."""
    with torch.device("meta"):
        millions = sum(parameter.numel() for parameter in network(config).parameters()) / 1e6
    if isinstance(config, SPARNetConfig):
        return millions, cost(config)[0]
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        network(config)(torch.empty(1, 3, config.size, config.size))
    return millions, counter.get_total_flops() / 1e9
