"""The report in pictures: one HTML file that needs no network, and a contact sheet.

    report, results -> plots (Plotly) -------------------.
    some faces again -> every method -> JPEG in base64 ---- report.html (Jinja) -> page
    best, median, worst -> attention over the face -------'

Only the shown faces are restored again, so any number of faces can be scored. The page holds them: give it only to
people who may see them.
"""

import base64
from collections.abc import Iterator, Sequence
from itertools import cycle
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from sparnet import images
from sparnet.regions import REGIONS
from sparnet.text import for_html, html_templates, plain
from training.evaluation import tables as words
from training.evaluation.comparison import BATCH, Case, Trial, compare
from training.evaluation.judges import METRICS
from training.evaluation.landmarks import THRESHOLD, cumulative_error
from training.evaluation.ledger import FAULTS, SHARP, Results, number
from training.evaluation.methods import Model
from training.evaluation.protocols import SWEEPS, find_protocol

POINTS = 3000  # of the scatter plot: more are slow to draw and hide each other
CASES = 2  # of the best, of the median and of the worst
THUMBNAIL = 160  # px, at most
COLORS = ("#0f766e", "#c2410c", "#6d28d9", "#0369a1", "#a16207", "#be185d")  # of the methods; bicubic is grey
GREY, INK = "#8a8f98", "#26303c"


def contact_sheet(trial: Trial, count: int) -> ndarray:
    """The first `count` readable faces, a row each: degraded, every method, sharp; (H,W,3) uint8."""
    gap, line = 4, 20
    columns = columns_of(trial)
    rows = [case for case in again(trial, range(min(count, len(trial.items)))) if case.sample is not None]
    side = trial.size + gap
    sheet = Image.new("RGB", (len(columns) * side + gap, len(rows) * side + line + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for x, name in enumerate(columns):
        pen.text((gap + x * side, 2), plain(name), "black", font)
    for y, case in enumerate(rows):
        for x, face in enumerate(faces(trial, case).values()):
            if face is not None:
                sheet.paste(Image.fromarray(face), (gap + x * side, line + y * side))
    return np.array(sheet)


def columns_of(trial: Trial) -> list[str]:
    """What is shown of a face, from left to right; bicubic is the degraded face itself."""
    given = ["degraded"] if trial.anchor else []
    return [*given, *(method.name for method in trial.methods if method.name != trial.anchor)] + (
        ["sharp"] if trial.protocol.sharp else []
    )


def faces(trial: Trial, case: Case) -> dict[str, ndarray | None]:
    """Column -> (S,S,3) uint8, or None where a method has no picture of it."""
    pictures = case.restored | {"degraded": case.sample.degraded, "sharp": case.sample.sharp}
    return {name: pictures.get(name) for name in columns_of(trial)}


def again(trial: Trial, indices: Sequence[int]) -> Iterator[Case]:
    """These faces restored once more, as they are under the first condition."""
    for start in range(0, len(indices), BATCH):
        yield from compare(trial, indices[start : start + BATCH])


def spread(total: int, count: int) -> list[int]:
    """At most `count` of the indices 0 to total - 1, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)).tolist()


def page(report: dict, results: Results, trial: Trial, count: int) -> str:
    """The HTML report, with thumbnails of at most `count` faces."""
    pictures = {
        case.index: {name: data_uri(face) for name, face in faces(trial, case).items() if face is not None}
        for case in again(trial, spread(len(trial.items), count))
        if case.sample is not None
    }
    template = html_templates(Path(__file__).parent).get_template("page.html")
    return template.render(
        report=report,
        points=POINTS,
        table=table(report),
        columns=columns_of(trial),
        landmarks=words.landmark_line(report),
        colors=colors_of(report),
        sweeps=[name for name in SWEEPS if any(condition["sweep"] == name for condition in report["conditions"])],
        published=words.published_table(report),
        published_on=find_protocol(report["protocol"]["name"]).published_on,
        plots={name: plot.to_plotly_json() for name, plot in plots(report, results, trial, pictures).items()},
        pictures=pictures,
        names={index: trial.items[index].within for index in pictures},
        cases=cases(trial, results),
        fault_kinds=FAULTS,
        metrics={metric: METRICS[metric] for metric in words.metrics_of(report)},
        plotly=get_plotlyjs(),
    )


def table(report: dict) -> dict:
    """Head and cells of the sortable table; `best` and `sign` say what the colours mean."""
    metrics = words.metrics_of(report)
    means = {
        metric: [number(estimates[metric]["mean"]) for estimates in report["scores"].values() if metric in estimates]
        for metric in metrics
    }
    rows = []
    for method in words.order(report):
        about, estimates = report["methods"][method], report["scores"][method]
        cells = []
        for metric in metrics:
            estimate = estimates.get(metric)
            if estimate is None:
                cells.append({"sort": None, "mean": "-"})
                continue
            difference = estimate.get("difference")
            cells.append(
                {
                    "sort": str(estimate["mean"]).replace("inf", "Infinity"),  # as JavaScript reads it
                    "mean": words.value(estimate, metric),
                    "interval": words.interval(estimate, metric).strip(),
                    "n": None if estimate["n"] == report["faces"]["scored"] else estimate["n"],
                    "identical": estimate.get("identical"),
                    "best": _is_best(number(estimate["mean"]), means[metric], METRICS[metric].better),
                    "difference": difference and words.value(difference, metric, "+"),
                    "difference_interval": difference and words.interval(difference, metric, "+").strip(),
                    "sign": difference and _sign(difference, METRICS[metric].better),
                }
            )
        parameters = about.get("parameters")
        seconds = report["run"]["seconds_per_face"].get(method)
        rows.append(
            {
                "method": method,
                "parameters": parameters and f"{parameters / 1e6:.2f} M",
                "parameters_sort": parameters or 0,
                "units": about.get("attention_units"),
                "seconds": None if seconds is None else f"{1000 * seconds:.0f}",
                "cells": cells,
            }
        )
    return {"metrics": metrics, "titles": [words.title(metric) for metric in metrics], "rows": rows}


def _decibels(psnr: float, sign: str = "") -> str:
    return "identical" if np.isposinf(psnr) else f"{psnr:{sign}.2f} dB"


def _is_best(mean: float, means: Sequence[float], better: str) -> bool:
    return len(means) > 1 and bool(better) and mean == (max(means) if better == "higher" else min(means))


def _sign(difference: dict, better: str) -> str:
    """Whether the whole interval lies on one side of zero, and whether that side is the good one."""
    low, high = number(difference["low"]), number(difference["high"])
    if not better or not (low > 0 or high < 0):
        return "unsure"
    return "better" if (low > 0) == (better == "higher") else "worse"


def cases(trial: Trial, results: Results) -> dict | None:
    """The best, median and worst faces by the first method that is not bicubic, with its attention where it has any.

    By its gain in PSNR over bicubic, or by PSNR where there is no bicubic. None without sharp faces.
    """
    first = next((method.name for method in trial.methods if method.name != trial.anchor), None)
    if first is None:
        return None
    gain = results.column(first, "psnr")
    if trial.anchor:
        with np.errstate(invalid="ignore"):  # two infinite values have no difference
            gain = gain - results.column(trial.anchor, "psnr")
    order = np.argsort(-gain, kind="stable")
    ranked = order[~np.isnan(gain[order])].tolist()
    if not ranked:
        return None
    last, middle = len(ranked), (len(ranked) - CASES) // 2
    places = {"best": range(CASES), "median": range(middle, middle + CASES), "worst": range(last - CASES, last)}
    chosen: dict[int, str] = {}
    for kind, shown in places.items():
        for place in shown:
            if 0 <= place < last:
                chosen.setdefault(place, kind)
    networks = [method for method in trial.methods if isinstance(method, Model)]
    comparisons = {case.index: case for case in again(trial, sorted(ranked[place] for place in chosen))}
    maps = {
        (index, network.name): network.attention(case.sample.degraded)
        for index, case in comparisons.items()
        for network in networks
    }
    scale = {}
    for network in networks:
        shown = [map_ for (_, name), map_ in maps.items() if name == network.name and map_ is not None]
        if shown:
            scale[network.name] = (float(min(map(np.min, shown))), float(max(map(np.max, shown))))
    rows, sign = [], "+" if trial.anchor else ""
    for place, kind in sorted(chosen.items()):
        case = comparisons[ranked[place]]
        strip = []
        for name, face in faces(trial, case).items():
            if face is None:
                continue
            psnr = results.column(trial.anchor if name == "degraded" else name, "psnr")[case.index]
            strip.append((name, data_uri(face), "" if np.isnan(psnr) else _decibels(psnr)))
            if (attention := maps.get((case.index, name))) is not None:
                strip.append((f"attention of {name}", data_uri(over(face, attention, *scale[name])), ""))
        rows.append({"kind": kind, "name": case.name, "gain": _decibels(gain[case.index], sign), "strip": strip})
    return {"by": first, "over": trial.anchor, "rows": rows, "scale": scale}


def over(face: ndarray, attention: ndarray, low: float, high: float) -> ndarray:
    """Attention (S,S) in viridis from `low` to `high`, six parts over four of the grey face; (S,S,3) uint8."""
    level = np.clip((attention - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
    colour = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[..., None]
    return np.rint(0.6 * colour + 0.4 * grey).astype(np.uint8)


def data_uri(face: ndarray) -> str:
    """A JPEG of the face in the address itself, reduced to `THUMBNAIL` if it is larger."""
    if len(face) > THUMBNAIL:
        face = images.resize(face, THUMBNAIL)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(face, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def colors_of(report: dict) -> dict[str, str]:
    """Of each method, in all figures."""
    palette = cycle(COLORS)
    return {method: GREY if method == "bicubic" else next(palette) for method in report["scores"]}


def plots(report: dict, results: Results, trial: Trial, pictures: dict[int, dict]) -> dict[str, go.Figure]:
    """The figures that the numbers allow, by the name of their place in the page."""
    methods, color = list(report["scores"]), colors_of(report)
    figures = {
        "scatter": scatter(results, trial, methods, color, pictures),
        "landmarks": landmark_curves(results, methods, color),
        "regions": region_bars(report, color),
        **sweep_curves(report, color),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def scatter(results: Results, trial: Trial, methods: Sequence[str], color: dict, pictures: dict) -> go.Figure | None:
    """PSNR of every method over bicubic's, a point for each face, at most `POINTS`; filled points show their face."""
    bicubic = results.column("bicubic", "psnr")
    if np.isnan(bicubic).all():
        return None
    figure, ends = go.Figure(), []
    drawn = list(dict.fromkeys([*pictures, *spread(len(bicubic), POINTS)]))[:POINTS]
    for method in methods[1:]:
        ours = results.column(method, "psnr")
        scored = [index for index in drawn if not np.isnan([bicubic[index], ours[index]]).any()]
        x, y = bicubic[scored].tolist(), ours[scored].tolist()
        ends += x
        names = [trial.items[index].within for index in scored]
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="markers",
                name=for_html(method),
                customdata=[
                    [index, name, for_html(name), for_html(method)] for index, name in zip(scored, names, strict=True)
                ],
                hovertemplate="%{customdata[2]}<br>bicubic %{x:.2f} dB, %{customdata[3]} %{y:.2f} dB<extra></extra>",
                marker={
                    "color": color[method],
                    "size": 8,
                    "symbol": ["circle" if index in pictures else "circle-open" for index in scored],
                },
            )
        )
    finite = [end for end in ends if np.isfinite(end)]
    if not finite:
        return None
    line = [min(finite), max(finite)]
    figure.add_trace(
        go.Scatter(x=line, y=line, mode="lines", name="no gain", line={"color": GREY, "dash": "dot"}, hoverinfo="skip")
    )
    return _styled(figure).update_layout(xaxis_title="bicubic, PSNR dB", yaxis_title="method, PSNR dB")


def landmark_curves(results: Results, methods: Sequence[str], color: dict) -> go.Figure | None:
    """Share of faces whose landmark error is at most x, up to the threshold; the sharp pictures' too, if known."""
    figure = go.Figure()
    lines = {method: (for_html(method), {"color": color[method]}) for method in methods}
    lines[SHARP] = "sharp (floor)", {"color": INK, "dash": "dot"}
    for method, (name, line) in lines.items():
        asked, error = (results.column(method, metric) for metric in ("landmark_auc", "nrmse"))
        error = error[~np.isnan(asked)]
        if error.size:
            x, y = cumulative_error(np.where(np.isnan(error), np.inf, error))
            figure.add_trace(
                go.Scatter(x=x.tolist(), y=y.tolist(), mode="lines", name=name, line=line | {"shape": "hv"})
            )
    if not figure.data:
        return None
    return _styled(figure).update_layout(
        xaxis_title=f"NRMSE, up to the threshold {THRESHOLD}", yaxis_title="share of faces", yaxis_range=[0, 1]
    )


def region_bars(report: dict, color: dict) -> go.Figure | None:
    """Gain in PSNR over bicubic in each region, with its interval."""
    figure = go.Figure()
    for method, estimates in report["scores"].items():
        gains = {name: estimates.get(f"psnr_{name}", {}).get("difference") for name in REGIONS}
        gains = {name: gain for name, gain in gains.items() if gain}
        if gains:
            mean, low, high = ([number(gain[key]) for gain in gains.values()] for key in ("mean", "low", "high"))
            error = {"array": np.subtract(high, mean).tolist(), "arrayminus": np.subtract(mean, low).tolist()}
            figure.add_trace(
                go.Bar(
                    x=list(gains),
                    y=mean,
                    name=for_html(method),
                    marker_color=color[method],
                    error_y={"symmetric": False} | error,
                )
            )
    if not figure.data:
        return None
    return _styled(figure).update_layout(yaxis_title="gain over bicubic, dB", barmode="group", showlegend=True)


def sweep_curves(report: dict, color: dict) -> dict[str, go.Figure]:
    """A figure for each sweep: PSNR of every method over its levels, the unchanged faces among them."""
    unchanged = {"scale": 1.0, "JPEG": 100.0}  # where the faces as they are stand; elsewhere at 0
    figures = {}
    for sweep, (meaning, _) in SWEEPS.items():
        points = [
            (condition["level"], condition["scores"])
            for condition in report["conditions"]
            if condition["sweep"] == sweep
        ]
        if not points:
            continue
        figure = go.Figure()
        points = sorted([*points, (unchanged.get(sweep, 0.0), report["scores"])], key=itemgetter(0))
        for method in report["scores"]:
            x, y = zip(*((level, number(scores[method]["psnr"]["mean"])) for level, scores in points), strict=True)
            figure.add_trace(
                go.Scatter(x=x, y=y, mode="lines+markers", name=for_html(method), line={"color": color[method]})
            )
        figure = _styled(figure).update_layout(
            title={"text": sweep, "x": 0.5, "font_size": 14},
            xaxis_title={"text": meaning, "font_size": 12},
            yaxis_title={"text": "PSNR dB", "font_size": 12},
            showlegend=False,
        )
        if sweep == "JPEG":  # the damage grows to the right, as in the others
            figure.update_xaxes(autorange="reversed")
        figures[sweep] = figure
    return figures


def _styled(figure: go.Figure) -> go.Figure:
    return figure.update_layout(
        template="plotly_white",
        font={"family": "Inter, system-ui, sans-serif", "size": 13, "color": INK},
        margin={"l": 60, "r": 16, "t": 36, "b": 52},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"bgcolor": "white"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#aab2bb", "activecolor": "#0f766e"},
    )
