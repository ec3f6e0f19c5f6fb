"""What can be touched of a finding: linked maps and pictures, and charts; for the report's page and the app's tab.

Finding -> view_of -> View: pictures, groups of maps -> payload -> static/maps.js
                                      charts (Plotly)
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

import cv2
import numpy as np
from numpy import ndarray
from plotly import graph_objects as go

from sparnet.images import encode_png
from sparnet.text import for_html
from viz import channels, faithfulness, gate, regions, sanity, stability
from viz.atlas import group_units
from viz.explorer import color_tables, data_url
from viz.finding import Finding
from viz.overlay import COLORMAPS, color_table

_CELLS = 128  # a side of a map in the page; the NPZ has every cell
_NONE = 65535  # the 16-bit level of a place without a value
DIVERGING = "PuOr_r"  # of differences: 0 in the middle
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")  # Okabe and Ito 2008


@dataclass(frozen=True)
class View:
    """What can be touched of a finding: pictures and maps on one frame, and charts."""

    pictures: list[dict] = field(default_factory=list)  # always there
    groups: dict[str, list[dict]] = field(default_factory=dict)  # one at a time, by their names
    charts: dict[str, go.Figure] = field(default_factory=dict)  # by their captions
    shown: str | None = None  # the group to begin with; None: the first
    ordered: bool = False  # whether the groups follow each other, as states of a training do: then a slider chooses

    def payload(self, pick: str | None = None) -> dict:
        """Pictures and groups for static/maps.js; pick: the picture on which a part can be marked."""
        return {
            "pictures": self.pictures,
            "groups": self.groups,
            "shown": self.shown or next(iter(self.groups), None),
            "ordered": self.ordered,
            "pick": pick,
        }


def all_tables() -> dict[str, str]:
    """Every colour table that a view can ask for, as `color_tables`."""
    return color_tables((*COLORMAPS, DIVERGING))


def panel(name: str, values: ndarray, scale: tuple[float, float] = (0, 1), colors: str = "viridis") -> dict:
    """A map (h,w) with its values for the page, in 16 bits from its lowest to its highest; drawn in colours of `scale`.

    A map of more than 128 cells a side is averaged to as many. The highest level is that of NaN, no value.
    """
    if len(values) > _CELLS:
        values = cv2.resize(np.float32(values), (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    share = (values - low) / max(high - low, 1e-12)
    levels = np.where(np.isnan(share), _NONE, np.rint(np.nan_to_num(share) * (_NONE - 1))).astype("<u2")
    return {
        "name": name,
        "side": len(values),
        "values": b64encode(levels.tobytes()).decode(),
        "range": [low, high],
        "scale": [float(end) for end in scale],
        "colors": colors,
    }


def picture(name: str, image: ndarray) -> dict:
    """A picture (S,S,3) uint8 on the same frame as the maps."""
    return {"name": name, "image": data_url(encode_png(image))}


def pictures(arrays: dict[str, ndarray]) -> list[dict]:
    """Those of the face that are among the arrays."""
    return [picture(name, arrays[name]) for name in ("degraded", "restored", "sharp") if name in arrays]


def bars(names: Iterable[str], series: dict[str, Sequence[float | None]], unit: str) -> go.Figure:
    """Bars side by side, one of each series for each name; none of None and NaN."""
    return go.Figure(
        [
            go.Bar(x=list(names), y=[_known(value) for value in values], name=label, marker_color=color)
            for (label, values), color in zip(series.items(), _COLORS, strict=False)
        ],
        {"barmode": "group", "yaxis": {"title": unit}},
    )


def lines(x: ndarray, series: dict[str, ndarray], over: str, unit: str) -> go.Figure:
    """A curve of each series; of each pair of neighbours the second is dashed, in the same colour."""
    return go.Figure(
        [
            go.Scatter(
                x=x.tolist(),
                y=y.tolist(),
                name=label,
                line={"color": _COLORS[i // 2 % len(_COLORS)], "dash": "dash" if i % 2 else "solid"},
            )
            for i, (label, y) in enumerate(series.items())
        ],
        {"xaxis": {"title": over}, "yaxis": {"title": unit, "rangemode": "tozero"}},
    )


def matrix(
    values: ndarray, rows: Sequence[str], columns: Sequence[str], scale: tuple[float, float], text: ndarray
) -> go.Figure:
    """log2 of ratios (rows,columns) in colours from log2 of `scale`, `text` in the cells; NaN is left empty."""
    colors = color_table(DIVERGING)[::17].tolist()
    heat = go.Heatmap(
        z=[[_known(value) for value in row] for row in values],
        x=list(columns),
        y=list(rows),
        text=[["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in text],
        texttemplate="%{text}",
        hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
        zmin=np.log2(scale[0]),
        zmax=np.log2(scale[1]),
        colorscale=[[i / (len(colors) - 1), f"rgb({r},{g},{b})"] for i, (r, g, b) in enumerate(colors)],
        showscale=False,
    )
    return go.Figure(heat, {"yaxis": {"autorange": "reversed"}, "height": 110 + 30 * len(rows)})


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _atlas(finding: Finding) -> View:
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


def _gate(finding: Finding) -> View:
    units, arrays = finding.numbers["units"], finding.arrays
    groups = {}
    for unit in units:
        maps = {name: arrays[f"{unit}/{name}"] for name in gate.MAPS}
        carried = max(maps[name].max() for name in ("x_in", "shortcut", "x_out"))
        tops = dict.fromkeys(gate.MAPS, carried) | dict.fromkeys(("f", "gated"), maps["f"].max())
        groups[unit] = [
            *(panel(name, maps[name], (0, tops[name]), "inferno") for name in ("x_in", "shortcut", "f")),
            panel("alpha", maps["alpha"]),
            panel("alpha f", maps["gated"], (0, tops["gated"]), "inferno"),
            panel("x_out", maps["x_out"], (0, tops["x_out"]), "inferno"),
        ]
    labels = {
        "norm_share": "alpha f beside the shortcut, by norm",
        "passed": "share of f that is passed",
        "mean_alpha": "mean alpha",
    }
    series = {label: [one[name] for one in units.values()] for name, label in labels.items()}
    charts = {"Every unit of this face:": bars(units, series, "share")}
    return View(pictures(arrays), groups, charts, finding.numbers["shown"])


def _ablate(finding: Finding) -> View:
    arrays = finding.arrays
    units, modes = arrays["units"].tolist(), arrays["modes"].tolist()
    top = max(float(arrays[f"{mode}/difference"].max()) for mode in modes)
    groups = {
        f"strongest of {mode}": [
            picture("after", arrays[f"{mode}/picture"]),
            panel("change, RMS", arrays[f"{mode}/difference"], (0, top), "inferno"),
        ]
        for mode in modes
    }
    order = np.argsort(-arrays["rms"].max(axis=1), kind="stable")
    captions = {
        "rms": (
            "How much the face changes, by unit and by what replaces its alpha; the strongest change first:",
            "RMS, 8-bit levels",
        ),
        "psnr_change": ("How much nearer to the sharp face, or, below 0, farther from it:", "PSNR change, dB"),
    }
    charts = {
        caption: bars([units[i] for i in order], dict(zip(modes, arrays[name][order].T, strict=True)), unit)
        for name, (caption, unit) in captions.items()
        if name in arrays
    }
    return View(pictures(arrays), groups, charts)


def _pairs(finding: Finding) -> View:
    arrays = finding.arrays
    units = arrays["units"].tolist()
    captions = {
        "effect": "How much the face changes when both units are replaced (on the diagonal: the one alone), levels:",
        "rest": "How far that is from the sum of the two changes: 0 if they simply add, levels:",
    }
    return View(charts={caption: _levels(arrays[name], units) for name, caption in captions.items()})


def _levels(values: ndarray, names: Sequence[str]) -> go.Figure:
    """Lengths (units,units) from 0 up, dark the highest."""
    colors = color_table("cividis")[::-17].tolist()
    heat = go.Heatmap(
        z=values.tolist(),
        x=list(names),
        y=list(names),
        zmin=0,
        texttemplate="%{z:.1f}",
        hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
        colorscale=[[i / (len(colors) - 1), f"rgb({r},{g},{b})"] for i, (r, g, b) in enumerate(colors)],
        showscale=False,
    )
    return go.Figure(heat, {"yaxis": {"autorange": "reversed"}, "height": 110 + 30 * len(names)})


def _edit(finding: Finding) -> View:
    arrays = finding.arrays
    face = [picture(f"restored {when}", arrays[when]) for when in ("before", "after")]
    face.append(panel("change, RMS", arrays["difference"], (0, max(arrays["difference"].max(), 1)), "inferno"))
    units = dict.fromkeys(name.rpartition("/")[0] for name in arrays if "/" in name)
    maps = {unit: [panel(f"alpha {when}", arrays[f"{unit}/{when}"]) for when in ("before", "after")] for unit in units}
    moved = finding.numbers["rms_change_of_alpha"]
    chart = bars(moved, {"RMS change of alpha": list(moved.values())}, "alpha")
    return View(face, maps, {"How far every unit's alpha moved:": chart})


def _regions(finding: Finding) -> View:
    arrays, units = finding.arrays, list(finding.numbers["ratios"])
    ratios = arrays["ratios"]
    chart = matrix(np.log2(ratios), units, list(regions.COLORS), regions.SCALE, ratios)
    return View(
        [*pictures(arrays), picture("its parts", arrays["parts"])],
        {"attention": [panel(unit, arrays[f"alpha/{unit}"]) for unit in units]},
        {"Mean attention in the region over the map's own mean: 1 is no preference, orange more, violet less.": chart},
    )


def _faithfulness(finding: Finding) -> View:
    arrays, scores = finding.arrays, finding.numbers["scores"]
    names = [name.removesuffix(".ranks") for name in arrays if name.endswith(".ranks")]
    curves = {
        f"{name}, {end} salient": arrays[f"{name}.{end}"][0]
        for name in names
        if name in scores or name == f"{faithfulness.RANDOM} 1"  # one of its draws is enough to see
        for end in ("most", "least")
    }
    damaged = 50 * np.arange(1, len(next(iter(curves.values()))) + 1) / len(next(iter(curves.values())))
    elsewhere = {"score, -1 to 1": [one["elsewhere"] for one in scores.values()]}
    return View(
        groups={"rank of each cell, 1 the most salient": [panel(name, arrays[f"{name}.ranks"]) for name in names]},
        charts={
            "The share of the change that the most salient cells bring before the least do; 0 is chance:": bars(
                scores, elsewhere, "score"
            ),
            "How much the rest of the restored face changes when so many cells are damaged:": lines(
                damaged, curves, "cells damaged, %", "RMS, 8-bit levels"
            ),
        },
    )


def _sanity(finding: Finding) -> View:
    units, badge = finding.numbers["units"], finding.numbers["badge"]
    labels = {"learning": "with every weight random", "face": f"with {badge['face']['against']}"}
    chart = bars(
        units,
        {label: [one[name]["correlation"] for one in units.values()] for name, label in labels.items()},
        "|rank correlation|",
    )
    verdicts = "; ".join(f"on {name}: {badge[name]['verdict']}" for name in labels)
    caption = (
        f"How much of each map stays; below {sanity.YES_BELOW} it depends, from {sanity.NO_FROM} not ({verdicts}):"
    )
    return View(charts={caption: chart})


def _query(finding: Finding) -> View:
    arrays, numbers = finding.arrays, finding.numbers
    top = float(np.abs(arrays["attribution"]).max())
    maps = [panel("attribution", arrays["attribution"], (-top, top), DIVERGING)]
    maps += [panel(unit, arrays[f"alpha/{unit}"]) for unit in numbers["units"]]
    units = numbers["units"]
    series = {
        "correlation with alpha": [one["correlation"] for one in units.values()],
        "share in the top fifth of alpha; chance is 0.2": [one["in_top"] for one in units.values()],
    }
    chart = bars(units, series, "overlap")
    return View(
        _marked(arrays, numbers["patch"]), {"all": maps}, {"How the attribution lies to every unit's alpha:": chart}
    )


def _marked(arrays: dict[str, ndarray], patch: Sequence[int]) -> list[dict]:
    """The pictures with the patch framed."""
    left, top, right, bottom = patch
    framed = {}
    for name in ("degraded", "restored"):
        framed[name] = arrays[name].copy()
        cv2.rectangle(framed[name], (left - 1, top - 1), (right, bottom), (255, 255, 255), 1)
    return pictures(framed)


def _compare(finding: Finding) -> View:
    arrays, pairs = finding.arrays, finding.numbers["pairs"]
    sides = {key: finding.numbers[key] for key in ("first", "other")}
    faces = [
        picture(f"{what}: {side}", arrays[f"{what}/{key}"])
        for what in ("degraded", "restored")
        for key, side in sides.items()
    ]
    names = [name.removesuffix("/first") for name in arrays if name.endswith("/first")]
    groups = {
        name: [
            *(panel(f"alpha: {side}", arrays[f"{name}/{key}"]) for key, side in sides.items()),
            panel("first - other", arrays[f"{name}/first"] - arrays[f"{name}/other"], (-0.5, 0.5), DIVERGING),
        ]
        for name in names
        if name not in ("degraded", "restored")
    }
    series = {"correlation": [one["pearson"] for one in pairs], "IoU of the top": [one["iou"] for one in pairs]}
    chart = bars(groups, series, "1 is the same")
    return View(faces, groups, {"How alike the two maps of each pair are:": chart})


def _channels(finding: Finding) -> View:
    units = finding.numbers["units"]
    groups = {
        unit: [
            panel(name.replace("_", " "), finding.arrays[f"{unit}/{name}"], (0, end))
            for name, end in channels.MAPS.items()
        ]
        for unit in units
        if f"{unit}/mean" in finding.arrays
    }
    labels = {
        "place": "place: one map would do",
        "channel": "channel: one number a channel would do",
        "only_3d": "only 3D",
    }
    chart = bars(units, {label: [one[name] for one in units.values()] for name, label in labels.items()}, "share")
    return View([], groups, {"Whose variance it is:": chart.update_layout(barmode="stack")})


def _stability(finding: Finding) -> View:
    arrays = finding.arrays
    rows, kinds = arrays["rows"].tolist(), arrays["kinds"].tolist()
    spread = {row: np.sqrt(arrays[f"variance/{row}"]) for row in rows if f"variance/{row}" in arrays}
    ends = {row: float(np.nanmax(values)) for row, values in spread.items()}
    alphas = max(end for row, end in ends.items() if row not in (stability.INPUT, stability.OUTPUT))
    maps = [
        panel(row, values, (0, ends[row] if row in (stability.INPUT, stability.OUTPUT) else alphas), "magma")
        for row, values in spread.items()
    ]
    chart = bars(rows, dict(zip(kinds, arrays["correlation"].T, strict=True)), "correlation")
    return View(
        pictures(arrays),
        {"RMS change of each place": maps},
        {"Correlation of each map with itself after the change; 1 holds still:": chart},
    )


def _population(finding: Finding) -> View:
    units, arrays = finding.numbers["units"], finding.arrays
    groups = {
        "difference in SD": [panel(unit, arrays[f"{unit}/z"], (-4, 4), DIVERGING) for unit in units],
        "this face": [panel(unit, arrays[f"{unit}/map"]) for unit in units],
        "mean of the others": [panel(unit, arrays[f"{unit}/mean"]) for unit in units],
    }
    chart = bars(units, {"share beyond 2 SD": [one["rare"] for one in units.values()]}, "share of the places")
    caption = "How much of each map is unusual; 0.046 if the differences were normal:"
    return View(pictures(arrays), groups, {caption: chart})


def _training(finding: Finding) -> View:
    labels, units = finding.numbers["checkpoints"], finding.numbers["units"]
    restored = finding.arrays.get("restored/over_time")
    groups = {
        label: [
            *([picture("restored", restored[i])] if restored is not None else []),
            *(panel(unit, finding.arrays[f"{unit}/over_time"][i]) for unit in units),
        ]
        for i, label in enumerate(labels)
    }
    series = {unit: [_known(r) for r in one["r_with_last"]] for unit, one in units.items()}
    curves = [
        go.Scatter(x=[for_html(label) for label in labels], y=r, name=unit, line={"color": color, "dash": dash})
        for (unit, r), (dash, color) in zip(series.items(), product(("solid", "dash", "dot"), _COLORS), strict=False)
    ]
    chart = go.Figure(curves, {"yaxis": {"title": "correlation"}})
    caption = "Correlation of each unit's map with its last; at 1 it has settled:"
    return View([], groups, {caption: chart}, shown=labels[-1], ordered=True)


def view_of(finding: Finding) -> View:
    """What can be touched of this finding."""
    return _VIEWS[finding.instrument](finding)


_VIEWS: dict[str, Callable[[Finding], View]] = {
    "atlas": _atlas,
    "gate": _gate,
    "ablation": _ablate,
    "ablation-pairs": _pairs,
    "edit": _edit,
    "regions": _regions,
    "faithfulness": _faithfulness,
    "sanity": _sanity,
    "query": _query,
    "agreement": _compare,
    "channels": _channels,
    "stability": _stability,
    "population": _population,
    "training": _training,
}
