"""Every attention map of one face, in numbers and in one figure.

Subject -> trace -> alphas {unit: (C,h,w)} -> mean_map (h,w) -> MapNumbers -+
                                           -> atlas_figure -----------------+-> Finding
"""

from dataclasses import asdict
from functools import partial
from typing import Annotated

from sparnet.attention import Colormap, MapNumbers, atlas_figure, group_units, mean_map
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import ATTENTION, WHERE, Instrument, Option
from viz.subject import Subject, attending
from viz.views import Bars, Panel, View, pictures

MEANING = (
    "How open each unit's gate is at every place: at 0 the unit's features are held back, at 1 all are let through; a "
    "bright place is not proof that the unit matters there: ablation tells that."
)


def study(
    subject: Subject,
    stretch: Annotated[bool, Option("In the figure, each map in its own range; do not compare maps then.")] = False,
    colormap: Annotated[Colormap, Option("Colours of the figure.")] = "viridis",
    progress: Progress = silent,
) -> Finding:
    """Every map raw, arrays "UNIT" (C,h,w), with its `MapNumbers`; `UserError` for a network without attention."""
    progress(0, 1, "Restoring the face")
    attending(subject)
    faces = subject.faces
    if subject.sharp is not None:
        faces["sharp"] = subject.sharp
    units = {
        name: {"side": alpha.shape[-1], "channels": alpha.shape[-3], **asdict(MapNumbers.of(mean_map(alpha)))}
        for name, alpha in subject.alphas.items()
    }
    progress(1, 1, "Done")
    maps = {name: Panel(name, mean_map(alpha)) for name, alpha in subject.alphas.items()}
    groups = {group: [maps[name] for name in names] for group, names in group_units(list(maps)).items()}
    series = {
        "mean": [unit["mean"] for unit in units.values()],
        "spread over the places (SD)": [unit["std"] for unit in units.values()],
    }
    title = f"Attention of {subject.name} in forward order"
    caption = "How open each unit is, and how much that varies from place to place:"
    return Finding(
        "atlas",
        MEANING,
        {"model": subject.name, "stretch": stretch, "units": units},
        {name: alpha[0].float().cpu().numpy() for name, alpha in subject.alphas.items()} | faces,
        View(pictures(faces), {"all": list(maps.values()), **groups}, {caption: Bars(maps, series, "alpha")}),
        draw=partial(atlas_figure, subject.alphas, stretch, title, colormap, faces),
    )


INSTRUMENT = Instrument(
    "atlas",
    WHERE,
    "How open is each unit's gate at every place?",
    "Every attention map in forward order, from the encoder to the decoder, on one scale.",
    study,
    attention=ATTENTION,
)
