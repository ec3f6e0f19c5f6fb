"""The report in pictures: one HTML file that needs no network, and a contact sheet.

    report, results -> plots (Plotly) -------------------.
    some faces again -> every method -> JPEG in base64 ---- report.html (Jinja) -> page
    best, median, worst -> attention over the face -------'

Only the shown faces are restored again, so any number of faces can be scored. The page holds them: give it only to
people who may see them.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import cycle
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from sparnet import images
from sparnet.attention import overlay
from sparnet.metrics import Estimate
from sparnet.regions import REGIONS
from sparnet.text import for_html, html_templates, plain
from training.evaluation import tables as words
from training.evaluation.comparison import BATCH, Case, Trial, compare, spread
from training.evaluation.judges import METRICS
from training.evaluation.landmarks import THRESHOLD
from training.evaluation.ledger import FAULTS, SHARP, Results, Score
from training.evaluation.methods import Model
from training.evaluation.protocols import SWEEPS, find_protocol

POINTS = 3000  # of the scatter plot: more are slow to draw and hide each other
CASES = 2  # of the best, of the median and of the worst
THUMBNAIL = 160  # px, at most
COLORS = ("#0f766e", "#c2410c", "#6d28d9", "#0369a1", "#a16207", "#be185d")  # of the methods; bicubic is grey
GREY, INK = "#8a8f98", "#26303c"


def contact_sheet(trial: Trial, count: int) -> ndarray:
    """The first `count` readable faces, a row each: degraded, every method, sharp; (H,W,3) uint8."""
    gap, line, columns = 4, 20, columns_of(trial)
    pitch = trial.size + gap
    rows = [faces(trial, case) for case in again(trial, range(min(count, len(trial.items))))]
    sheet = Image.new("RGB", (gap + len(columns) * pitch, line + len(rows) * pitch + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for x, name in enumerate(columns):
        pen.text((gap + x * pitch, 2), plain(name), "black", font)
        for y, row in enumerate(rows):
            if name in row:
                sheet.paste(Image.fromarray(row[name]), (gap + x * pitch, line + y * pitch))
    return np.array(sheet)


def columns_of(trial: Trial) -> list[str]:
    """What is shown of a face, from left to right; bicubic is the degraded face itself."""
    given = ["degraded"] if trial.anchor else []
    return [*given, *(method.name for method in trial.methods if method.name != trial.anchor)] + (
        ["sharp"] if trial.protocol.sharp else []
    )


def faces(trial: Trial, case: Case) -> dict[str, ndarray]:
    """Column -> (S,S,3) uint8; a column of which there is no picture of this face is missing."""
    given = {} if case.sample is None else {"degraded": case.sample.degraded, "sharp": case.sample.sharp}
    pictures = case.restored | {name: face for name, face in given.items() if face is not None}
    return {name: pictures[name] for name in columns_of(trial) if name in pictures}


def again(trial: Trial, indices: Sequence[int]) -> Iterator[Case]:
    """Those of these faces that can be read, restored once more, as they are under the first condition."""
    for start in range(0, len(indices), BATCH):
        yield from (case for case in compare(trial, indices[start : start + BATCH]) if case.sample is not None)


def page(report: dict, results: Results, trial: Trial, count: int) -> str:
    """The HTML report, with thumbnails of at most `count` faces."""
    pictures = {
        case.index: {name: images.preview(face, THUMBNAIL) for name, face in faces(trial, case).items()}
        for case in again(trial, spread(len(trial.items), count))
    }
    template = html_templates(Path(__file__).parent).get_template("page.html")
    return template.render(
        report=report,
        points=POINTS,
        words=words,
        order=words.order(report),
        rank=rank,
        best={metric: best(report, metric) for metric in words.metrics_of(report)},
        sign=sign,
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


def rank(score: Score) -> float:
    """By which a column is sorted: the mean, infinite where all pictures are the sharp ones exactly."""
    return np.inf if score.mean is None else score.mean


def best(report: dict, metric: str) -> float | None:
    """The best method's `rank`; None where nothing is compared."""
    ranks = [rank(scores[metric]) for scores in report["scores"].values() if metric in scores]
    choose = {"higher": max, "lower": min}.get(METRICS[metric].better)
    return choose(ranks) if choose and len(ranks) > 1 else None


def sign(difference: Estimate, metric: str) -> str:
    """Whether the whole interval lies on one side of zero, and whether that side is the good one."""
    good = {"higher": 1, "lower": -1}.get(METRICS[metric].better, 0)
    return {1: "better", -1: "worse", 0: "unsure"}[good * difference.side()]


def _decibels(psnr: float, sign: str = "") -> str:
    return "identical" if np.isposinf(psnr) else f"{psnr:{sign}.2f} dB"


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
    middle = max(0, (len(ranked) - CASES) // 2)
    kinds = dict.fromkeys(ranked[-CASES:], "worst") | dict.fromkeys(ranked[middle : middle + CASES], "median")
    kinds |= dict.fromkeys(ranked[:CASES], "best")
    chosen = {case.index: case for case in again(trial, sorted(kinds))}
    maps: dict[str, dict[int, ndarray]] = defaultdict(dict)
    for network in (method for method in trial.methods if isinstance(method, Model)):
        for index, case in chosen.items():
            if case.sample and (attention := network.attention(case.sample.degraded)) is not None:
                maps[network.name][index] = attention
    scale = {
        name: (float(min(map(np.min, shown.values()))), float(max(map(np.max, shown.values()))))
        for name, shown in maps.items()
    }
    rows, sign = [], "+" if trial.anchor else ""
    for index in (index for index in ranked if index in kinds):
        strip = []
        for name, face in faces(trial, chosen[index]).items():
            psnr = results.column(trial.anchor if trial.anchor and name == "degraded" else name, "psnr")[index]
            strip.append((name, images.preview(face, THUMBNAIL), "" if np.isnan(psnr) else _decibels(float(psnr))))
            if index in maps[name]:
                painted = overlay(images.to_grey(face), maps[name][index], "viridis", 0.6, *scale[name])
                strip.append((f"attention of {name}", images.preview(painted, THUMBNAIL), ""))
        name, note = chosen[index].name, _decibels(float(gain[index]), sign)
        rows.append({"kind": kinds[index], "name": name, "gain": note, "strip": strip})
    return {"by": first, "over": trial.anchor, "rows": rows, "scale": scale}


def colors_of(report: dict) -> dict[str, str]:
    """Of each method, in all figures."""
    palette = cycle(COLORS)
    return {method: GREY if method == "bicubic" else next(palette) for method in report["scores"]}


def plots(report: dict, results: Results, trial: Trial, pictures: dict[int, dict]) -> dict[str, go.Figure]:
    """The figures that the numbers allow, by the name of their place in the page."""
    color = colors_of(report)
    figures = {
        "scatter": scatter(results, trial, color, pictures),
        "landmarks": landmark_curves(results, color),
        "regions": region_bars(report, color),
        **sweep_curves(report, color),
    }
    return {name: _styled(figure) for name, figure in figures.items() if figure.data}


def scatter(results: Results, trial: Trial, color: dict[str, str], pictures: dict) -> go.Figure:
    """PSNR of every method over bicubic's, a point for each face, at most `POINTS`; filled points show their face."""
    figure, ends = go.Figure(), []
    bicubic = results.column("bicubic", "psnr")
    drawn = list(dict.fromkeys([*pictures, *spread(len(bicubic), POINTS)]))[:POINTS]
    for method in color:
        psnr = results.column(method, "psnr")
        scored = [index for index in drawn if np.isfinite([bicubic[index], psnr[index]]).all()]
        if method == "bicubic" or not scored:
            continue
        ends += bicubic[scored].tolist()
        names = [trial.items[index].within for index in scored]
        symbols = ["circle" if index in pictures else "circle-open" for index in scored]
        figure.add_scatter(
            x=bicubic[scored].tolist(),
            y=psnr[scored].tolist(),
            mode="markers",
            name=for_html(method),
            customdata=[(i, name, for_html(name), for_html(method)) for i, name in zip(scored, names, strict=True)],
            hovertemplate="%{customdata[2]}<br>bicubic %{x:.2f} dB, %{customdata[3]} %{y:.2f} dB<extra></extra>",
            marker={"color": color[method], "size": 8, "symbol": symbols},
        )
    if ends:
        line, style = [min(ends), max(ends)], {"color": GREY, "dash": "dot"}
        figure.add_scatter(x=line, y=line, mode="lines", name="no gain", line=style, hoverinfo="skip")
    return figure.update_layout(xaxis_title="bicubic, PSNR dB", yaxis_title="method, PSNR dB")


def landmark_curves(results: Results, color: dict[str, str]) -> go.Figure:
    """Share of faces whose landmark error is at most x, up to the threshold; the sharp pictures' too, if known."""
    figure, x = go.Figure(), np.linspace(0, THRESHOLD, 101)
    lines = {method: (for_html(method), {"color": shade}) for method, shade in color.items()}
    lines[SHARP] = "sharp (floor)", {"color": INK, "dash": "dot"}
    for method, (name, line) in lines.items():
        errors = results.column(method, "nrmse")[~np.isnan(results.column(method, "landmark_auc"))]
        if errors.size:  # NaN, where no landmarks were found, is at most nothing
            shares = (errors[:, None] <= x).mean(axis=0)
            figure.add_scatter(x=x.tolist(), y=shares.tolist(), mode="lines", name=name, line=line | {"shape": "hv"})
    return figure.update_layout(
        xaxis_title=f"NRMSE, up to the threshold {THRESHOLD}", yaxis_title="share of faces", yaxis_range=[0, 1]
    )


def region_bars(report: dict, color: dict[str, str]) -> go.Figure:
    """Gain in PSNR over bicubic in each region, with its interval."""
    figure = go.Figure()
    for method, scores in report["scores"].items():
        gains = {name: score.difference for name in REGIONS if (score := scores.get(f"psnr_{name}"))}
        gains = {name: (gain.low, gain.mean, gain.high) for name, gain in gains.items() if gain}
        if gains:
            low, mean, high = np.array(list(gains.values()), float).T
            error = {"symmetric": False, "array": (high - mean).tolist(), "arrayminus": (mean - low).tolist()}
            name, shade = for_html(method), color[method]
            figure.add_bar(x=list(gains), y=mean.tolist(), name=name, marker_color=shade, error_y=error)
    return figure.update_layout(yaxis_title="gain over bicubic, dB", barmode="group", showlegend=True)


def sweep_curves(report: dict, color: dict[str, str]) -> dict[str, go.Figure]:
    """A figure for each sweep: PSNR of every method over its levels, the unchanged faces among them."""
    unchanged = {"scale": 1.0, "JPEG": 100.0}  # where the faces as they are stand; elsewhere at 0
    figures = {}
    for sweep, (meaning, _) in SWEEPS.items():
        points = [(point["level"], point["scores"]) for point in report["conditions"] if point["sweep"] == sweep]
        if not points:
            continue
        figure = go.Figure()
        points = sorted([*points, (unchanged.get(sweep, 0.0), report["scores"])], key=itemgetter(0))
        for method, shade in color.items():
            x, y = zip(*((level, scores[method]["psnr"].mean) for level, scores in points), strict=True)
            figure.add_scatter(x=x, y=y, mode="lines+markers", name=for_html(method), line={"color": shade})
        figure.update_layout(
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
