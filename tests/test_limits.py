"""What a model may be at most, held against the built network and the models that there are."""

from dataclasses import replace

import pytest

from sparnet import SPARNetConfig, limits
from sparnet.checkpoints import MODELS
from training.networks import size_of

TINY = MODELS["sparnet-tiny"].config
CONFIGS = [
    TINY,
    MODELS["sparnet-light-3d"].config,
    MODELS["sparnet-hd-light-256"].config,
    replace(TINY, attention="channel"),
    replace(TINY, attention="none"),
    replace(TINY, attention="2d+channel", attention_units=3),
    replace(TINY, bottleneck=None),
    replace(TINY, size=160, smallest=20, bottleneck=8),
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_the_cost_by_arithmetic_is_that_of_the_built_network(config):
    parameters, gflop = size_of(config)
    estimated, memory = limits.cost(config)
    assert estimated == pytest.approx(gflop, rel=0.002)
    assert memory > 4e6 * 0.95 * parameters


def test_every_model_of_the_table_would_fit_nearly_twice():
    for entry in MODELS.values():
        gflop, memory = limits.cost(entry.config)
        assert 1.9 * gflop < limits.MAX_GFLOP
        assert 1.8 * memory < limits.MAX_MEMORY


@pytest.mark.parametrize("field", limits.LARGEST)
def test_a_field_beyond_its_limit_is_named(field):
    with pytest.raises(ValueError, match=f"{field} is 1000000000; it must be at most {limits.LARGEST[field]}"):
        replace(TINY, **{field: 10**9})


@pytest.mark.parametrize(
    "changes",
    [{"size": 1024, "smallest": 512, "max_channels": 1024}, {"size": 1024, "smallest": 32, "min_channels": 128}],
    ids=["few units, all wide", "many units, wide at the largest map"],
)
def test_fields_that_are_too_much_together_are_refused(changes):
    with pytest.raises(ValueError, match=r"GFLOP and .* GB for one face"):
        SPARNetConfig(**changes)
