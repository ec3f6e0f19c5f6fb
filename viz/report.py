"""Everything that the instruments say about one face, in one HTML file that needs no server and no network.

Subject -> every instrument -> Finding -> NAME.json, NAME.npz, NAME.png
           one that does not apply -> its reason, on the page
Finding.arrays -> View: maps that show their values, charts (Plotly) -> report.html (Jinja) -> page
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader
from numpy import ndarray
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from sparnet.errors import UserError
from sparnet.images import encode_png, save_bytes
from sparnet.restorer import Progress
from viz import (
    ablation,
    agreement,
    atlas,
    channels,
    edit,
    faithfulness,
    gate,
    population,
    query,
    regions,
    sanity,
    stability,
)
from viz.atlas import group_units
from viz.edit import Edit
from viz.explorer import data_url
from viz.finding import Finding, Subject, figure_png
from viz.overlay import color_table
from viz.population import coarse_to_fine, gif
from viz.query import Patch

PAGE, FILM = "report.html", "coarse-to-fine.gif"
MEANING = (
    "One face by every instrument: each says in its first sentence what it shows and what it does not; where several "
    "agree a finding is worth more, and one face is one face."
)
_OTHERS = 8  # faces at most that the sanity check compares with
_CELLS = 128  # a side of a map in the page; the NPZ has every cell
_NONE = 65535  # the 16-bit level of a place without a value
_DPI = 110  # of the figures in the page; the PNG beside it is finer
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")  # Okabe and Ito 2008


@dataclass(frozen=True)
class View:
    """What can be touched of a finding: pictures and maps on one frame, and charts."""

    pictures: list[dict] = field(default_factory=list)  # always there
    groups: dict[str, list[dict]] = field(default_factory=dict)  # one at a time, by their names
    charts: dict[str, go.Figure] = field(default_factory=dict)  # by their captions
    shown: str | None = None  # the group to begin with; None: the first


@dataclass(frozen=True, eq=False)
class Given:
    """What a report is made from; an instrument that needs more than a face is left out where it is not given."""

    subject: Subject
    other: Subject | None = None  # another face, or the same one in front of another network
    edits: Sequence[Edit] | None = None
    faces: Iterable[Subject] | None = None  # others, aligned, in front of the same network; gone through twice
    patch: Patch | None = None  # of the pixel query; None: the middle of the face


@dataclass(frozen=True)
class Instrument:
    """One section of the page."""

    title: str
    study: Callable[[Given, Progress | None], Finding]  # `UserError` says why it does not apply
    view: Callable[[Finding], View]


@dataclass(frozen=True, eq=False)
class Report:
    """The findings about one face by the instruments' names, and why the others have none."""

    subject: Subject
    findings: dict[str, Finding]
    left_out: dict[str, str]
    film: bytes | None  # GIF: the units' maps in forward order over the face; None of maps without places
    meaning: str = MEANING

    @property
    def numbers(self) -> dict:
        return {"model": self.subject.name, "instruments": list(self.findings), "left_out": self.left_out}

    def save(self, folder: Path, provenance: dict, pdf: bool = False) -> list[Path]:
        """Write report.html and each instrument's files into the folder; -> the page's path before theirs."""
        files = {name: finding.save(folder, provenance, pdf) for name, finding in self.findings.items()}
        pages = [folder / PAGE]
        save_bytes(self.page(provenance, files).encode(), pages[0])
        if self.film is not None:
            pages.append(folder / FILM)
            save_bytes(self.film, pages[1])
        return pages + [path for paths in files.values() for path in paths]

    def page(self, provenance: dict, files: dict[str, list[Path]]) -> str:
        """The HTML file; `files` of each instrument are linked by their names."""
        views = {name: INSTRUMENTS[name].view(finding) for name, finding in self.findings.items()}
        sections = [
            {
                "name": name,
                "title": INSTRUMENTS[name].title,
                "meaning": finding.meaning,
                "groups": list(views[name].groups),
                "shown": views[name].shown or next(iter(views[name].groups), None),
                "charts": list(views[name].charts),
                "figure": data_url(figure_png(finding.figure, _DPI)),
                "files": [path.name for path in files.get(name, [])],
            }
            for name, finding in self.findings.items()
        ]
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # units stay in forward order
        panels = [one for view in views.values() for of in (view.pictures, *view.groups.values()) for one in of]
        return environment.get_template(PAGE).render(
            meaning=self.meaning,
            models=provenance["models"],
            face=provenance["faces"][0],
            versions=provenance["versions"],
            film=None if self.film is None else data_url(self.film, "gif"),
            sections=sections,
            left_out={INSTRUMENTS[name].title: why for name, why in self.left_out.items()},
            views={
                section["name"]: {
                    "pictures": views[section["name"]].pictures,
                    "groups": views[section["name"]].groups,
                    "shown": section["shown"],
                    "charts": [chart.to_plotly_json() for chart in views[section["name"]].charts.values()],
                }
                for section in sections
            },
            tables={
                name: b64encode(color_table(name).tobytes()).decode()
                for name in sorted({one["colors"] for one in panels if "colors" in one})
            },
            plotly=get_plotlyjs(),
        )


def study(given: Given, only: Sequence[str] = (), skip: Sequence[str] = (), progress: Progress | None = None) -> Report:
    """Every instrument on the face, or `only` some, without those to `skip`; `UserError` if none has an answer."""
    if unknown := [name for name in (*only, *skip) if name not in INSTRUMENTS]:
        raise UserError(f"There is no instrument {', '.join(unknown)}. Choose from {', '.join(INSTRUMENTS)}.")
    chosen = [name for name in INSTRUMENTS if name in (only or INSTRUMENTS) and name not in skip]
    findings, left_out = {}, {}
    for i, name in enumerate(chosen):
        try:
            findings[name] = INSTRUMENTS[name].study(given, _within(progress, i, len(chosen), name))
        except UserError as error:
            left_out[name] = str(error)
    if not findings:
        raise UserError(" ".join(left_out.values()) or "No instrument is left: skip fewer of them.")
    has_places = "atlas" in findings and any(of["side"] > 1 for of in findings["atlas"].numbers["units"].values())
    film = gif(coarse_to_fine(given.subject)) if has_places else None
    return Report(given.subject, findings, left_out, film)


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
    colors = color_table("PuOr_r")[::17].tolist()
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


def _within(progress: Progress | None, i: int, count: int, name: str) -> Progress | None:
    """Progress of instrument `i` as its share of the whole."""
    if progress is None:
        return None
    return lambda done, total, text: progress(round(1000 * (i + done / max(total, 1))), 1000 * count, f"{name}: {text}")


def _alone(study: Callable[..., Finding]) -> Callable[[Given, Progress | None], Finding]:
    """An instrument that needs nothing but the face."""
    return lambda given, progress: study(given.subject, progress=progress)


def _query_study(given: Given, progress: Progress | None) -> Finding:
    return query.study(given.subject, given.patch, progress=progress)


def _edit_study(given: Given, progress: Progress | None) -> Finding:
    if given.edits is None:
        raise UserError("Nobody has painted on a map: give a file of edits with --edits.")
    return edit.study(given.subject, given.edits, progress)


def _compare_study(given: Given, progress: Progress | None) -> Finding:
    if given.other is None:
        raise UserError("There is nothing to compare with: give --other-model or --other-face.")
    return agreement.study(given.subject, given.other, progress=progress)


def _population_study(given: Given, progress: Progress | None) -> Finding:
    if given.faces is None:
        raise UserError(
            "There are no other faces to compare this one with: give a folder of aligned ones with --faces."
        )
    return population.study(given.subject, population.gather(given.faces, progress))


def _sanity_study(given: Given, progress: Progress | None) -> Finding:
    others = None if given.faces is None else list(islice(given.faces, _OTHERS))
    return sanity.study(given.subject, others, progress=progress)


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
    captions = {
        "rms": ("How much the face changes, by unit and by what replaces its alpha:", "RMS, 8-bit levels"),
        "psnr_change": ("How much nearer to the sharp face, or, below 0, farther from it:", "PSNR change, dB"),
    }
    charts = {
        caption: bars(units, dict(zip(modes, arrays[name].T, strict=True)), unit)
        for name, (caption, unit) in captions.items()
        if name in arrays
    }
    return View(pictures(arrays), groups, charts)


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
    ratios = finding.arrays["ratios"]
    chart = matrix(np.log2(ratios), list(finding.numbers["ratios"]), list(regions.COLORS), regions.SCALE, ratios)
    return View(
        charts={
            "Mean attention in the region over the map's own mean: 1 is no preference, orange more, violet less.": chart
        }
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
    maps = [panel("attribution", arrays["attribution"], (-top, top), "PuOr_r")]
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
            panel("first - other", arrays[f"{name}/first"] - arrays[f"{name}/other"], (-0.5, 0.5), "PuOr_r"),
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
    units = finding.numbers["units"]
    groups = {
        "difference in SD": [panel(unit, finding.arrays[f"{unit}/z"], (-4, 4), "PuOr_r") for unit in units],
        "this face": [panel(unit, finding.arrays[f"{unit}/map"]) for unit in units],
    }
    chart = bars(units, {"share beyond 2 SD": [one["rare"] for one in units.values()]}, "share of the places")
    return View([], groups, {"How much of each map is unusual; 0.046 if the differences were normal:": chart})


INSTRUMENTS = {
    "atlas": Instrument("Every attention map", _alone(atlas.study), _atlas),
    "gate": Instrument("What the gates let through", _alone(gate.study), _gate),
    "ablate": Instrument("Does a unit matter?", _alone(ablation.study), _ablate),
    "edit": Instrument("What if it looked elsewhere?", _edit_study, _edit),
    "regions": Instrument("Which parts of the face", _alone(regions.study), _regions),
    "faithfulness": Instrument("Does the rest of the face follow?", _alone(faithfulness.study), _faithfulness),
    "sanity": Instrument("Is it learned, and of this face?", _sanity_study, _sanity),
    "query": Instrument("Where a patch came from", _query_study, _query),
    "compare": Instrument("Beside another", _compare_study, _compare),
    "channels": Instrument("Channels", _alone(channels.study), _channels),
    "stability": Instrument("Does it hold still?", _alone(stability.study), _stability),
    "population": Instrument("Against other faces", _population_study, _population),
}
