"""The instruments, one file each, in order under their questions; all that shows them is made from this list."""

from viz.instrument import Instrument
from viz.instruments import (
    ablation,
    agreement,
    atlas,
    channels,
    edit,
    effect,
    faithfulness,
    gate,
    population,
    query,
    regions,
    sanity,
    stability,
    training,
)

MODULES = (
    *(atlas, gate, regions, channels),  # where does each unit look?
    *(ablation, faithfulness, effect, query),  # does it matter?
    *(sanity, stability, population, agreement, training),  # is it real?
    edit,  # what if it looked elsewhere?
)
INSTRUMENTS: dict[str, Instrument] = {module.INSTRUMENT.name: module.INSTRUMENT for module in MODULES}
