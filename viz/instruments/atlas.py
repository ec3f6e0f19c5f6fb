"""Every attention map of one face, in numbers and in one figure.

Subject -> trace -> alphas {unit: (C,h,w)} -> mean_map (h,w) -> MapNumbers -+
                                           -> atlas_figure -----------------+-> Finding
"""

from dataclasses import asdict
from typing import Annotated

from sparnet.attention import Colormap, MapNumbers, atlas_figure, group_units, mean_map
from sparnet.images import to_image
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import ATTENTION, WHERE, Instrument, Option
from viz.subject import Subject, attending
from viz.views import View, bars, panel, pictures

MEANING = (
    "How open each unit's gate is at every place: at 0 the unit's features are held back, at 1 all are let through; a "
    "bright place is not proof that the unit matters there: ablation tells that."
)


def study(
    subject: Subject,
    stretch: Annotated[bool, Option("Each map in its own range; do not compare maps.")] = False,
    colormap: Annotated[Colormap, Option("Of the figure.")] = "viridis",
    progress: Progress = silent,
) -> Finding:
    """Every map raw, arrays "UNIT" (C,h,w), with its `MapNumbers`; `UserError` for a network without attention."""
    progress(0, 1, "Restoring the face")
    attending(subject)
    pictures = {"degraded": to_image(subject.degraded), "restored": subject.restored}
    if subject.sharp is not None:
        pictures["sharp"] = subject.sharp
    numbers = {
        name: {"side": alpha.shape[-1], "channels": alpha.shape[-3], **asdict(MapNumbers.of(mean_map(alpha)))}
        for name, alpha in subject.alphas.items()
    }
    title = f"Attention of {subject.name} in forward order"
    progress(1, 1, "Done")
    return Finding(
        "atlas",
        MEANING,
        {"model": subject.name, "stretch": stretch, "units": numbers},
        {name: alpha[0].float().cpu().numpy() for name, alpha in subject.alphas.items()} | pictures,
        atlas_figure(subject.alphas, stretch, title, colormap, pictures),
    )


def view(finding: Finding) -> View:
    of = finding.numbers["units"]
    maps = {name: panel(name, finding.arrays[name].mean(0)) for name in of}
    shown = {"all": list(maps), **group_units(list(maps))}
    groups = {group: [maps[name] for name in names] for group, names in shown.items()}
    series = {
        "mean": [one["mean"] for one in of.values()],
        "spread over the places (SD)": [one["std"] for one in of.values()],
    }
    chart = bars(of, series, "alpha")
    return View(
        pictures(finding.arrays),
        groups,
        {"How open each unit is, and how much that varies from place to place:": chart},
    )


INSTRUMENT = Instrument(
    "atlas",
    WHERE,
    "How open is each unit's gate at every place?",
    "Every attention map in forward order, from the encoder to the decoder, on one scale from 0 to 1.",
    study,
    view=view,
    attention=ATTENTION,
)
