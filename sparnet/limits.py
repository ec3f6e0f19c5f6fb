"""What a model may be at most, known before anything of it is downloaded, allocated or built.

    config -> each field up to LARGEST -> its convolutions -> GFLOP, memory -> `ValueError` that names what is too much

Every configuration checks itself, so no model comes into being without: of the table, a folder, the Hub or a .pth file.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparnet.model import SPARNetConfig

LARGEST = {  # of a configuration's fields
    "size": 1024,
    "smallest": 512,
    "min_channels": 1024,
    "max_channels": 1024,
    "base_channels": 1024,
    "body_depth": 100,
    "degraded_size": 1024,
    "attention_units": 200,
    "hourglass_channels": 512,
}
MAX_GFLOP = 3000  # for one face: twice the largest released model's
MAX_MEMORY = 3_000_000_000  # bytes for one face: about twice the largest released model's

MAX_CONFIG_BYTES = 64 * 1024  # of config.json; ours have about 400
MAX_HEADER_BYTES = 2 * 1024**2  # of a safetensors file, where the names are; ours have up to 150,000
MAX_WEIGHTS_BYTES = 2 * 1024**3  # of a weights file; the largest released one has 360 million
MAX_TENSORS = 10_000  # in a weights file; ours have up to 1,325


def cost(config: "SPARNetConfig") -> tuple[float, int]:
    """GFLOP for one face (a multiplication and an addition are two), and bytes for weights, trace and working space.

    Arithmetic alone. The GFLOP are exact; the memory is at most a fifth above what was measured of the table's models
    in float32, with both alphas and features kept.
    """
    layers = list(_convolutions(config))
    flop = sum(18 * c_in * c_out * side**2 for c_in, c_out, side in layers)
    weights = sum(9 * c_in * c_out for c_in, c_out, _ in layers)
    kept = sum(2 * plan.c_out * plan.map_size**2 for plan in config.units())
    working = 2 * max((c_in + c_out) * side**2 for c_in, c_out, side in layers)
    return flop / 1e9, 4 * (weights + kept + working)


def check_cost(config: "SPARNetConfig") -> None:
    """`ValueError` if one face would cost more than `MAX_GFLOP` or `MAX_MEMORY`."""
    gflop, memory = cost(config)
    if gflop > MAX_GFLOP or memory > MAX_MEMORY:
        raise ValueError(
            f"such a model takes {gflop:,.0f} GFLOP and {memory / 1e9:,.1f} GB for one face; {MAX_GFLOP:,} GFLOP and "
            f"{MAX_MEMORY / 1e9:g} GB are the most: choose a smaller size or fewer channels"
        )


def _convolutions(config: "SPARNetConfig") -> Iterator[tuple[int, int, int]]:
    """(c_in, c_out, side of its output) of every 3x3 convolution of the network."""
    plans, inner = config.units(), config.hourglass_channels
    yield 3, plans[0].c_in, config.size
    for plan in plans:
        if plan.scale != "same" or plan.c_in != plan.c_out:
            yield plan.c_in, plan.c_out, plan.map_size
        yield plan.c_in, plan.c_out, plan.map_size * (2 if plan.scale == "down" else 1)
        yield plan.c_out, plan.c_out, plan.map_size
        if plan.attention in ("channel", "none"):
            continue
        width, side = plan.c_out, plan.map_size
        for _ in range(plan.hourglass_depth):
            smaller = -(-side // 2)
            yield width, inner, side
            yield width, inner, smaller
            yield inner, inner, 2 * smaller
            width, side = inner, smaller
        yield width, inner, side
        yield inner, plan.c_out if plan.attention == "3d" else 1, plan.map_size
    yield plans[-1].c_out, 3, config.size
