"""The report in words: for the terminal, for a model card (Markdown), for a paper (LaTeX).

    report of training.evaluate -> one column for each method -> terminal
                                -> one row for each method    -> Markdown, LaTeX

A number stands with its 95 % interval; a gain is the mean of the differences to bicubic on the same faces.
"""

from collections.abc import Callable, Iterable, Sequence

from sparnet.metrics import RESAMPLES, Estimate
from sparnet.text import for_latex, for_markdown, plain
from training.evaluation.judges import METRICS
from training.evaluation.ledger import FAULTS, Score
from training.evaluation.protocols import SWEEPS, find_protocol

Text = Callable[[str], str]  # one of sparnet.text
SHOWN_FAULTS = 5  # names of each kind in the terminal; the JSON has all
_TEX = str.maketrans({"↑": "$\\uparrow$", "↓": "$\\downarrow$"})
FLOOR = (
    "A network's points have a bias against another annotation, so the error of those found in the sharp pictures "
    "is the floor for every method"
)
ARROWS = {"higher": "↑", "lower": "↓", "": ""}


def headline(report: dict, text: Text = plain) -> str:
    """What was measured on how much, in one line; `text` makes foreign names text of the medium."""
    faces, data, protocol = report["faces"], report["data"], report["protocol"]
    missing = "" if faces["scored"] == faces["pictures"] else f" of {faces['pictures']}"
    name = "" if protocol["name"] == "plain" else f"{protocol['name']}: "
    cut = f" ({faces['cut_as_celebas']} cut as CelebA's)" if faces["cut_as_celebas"] else ""
    line = "->".join(text(part) for part in protocol["line"].split("->"))
    return f"{name}{text(data['name'])}: {faces['scored']}{missing} faces{cut}, {line}"


def metrics_of(report: dict) -> list[str]:
    """The measured ones in their usual order."""
    found = {metric for scores in report["scores"].values() for metric in scores}
    return [metric for metric in METRICS if metric in found]


def title(metric: str) -> str:
    """Such as "PSNR dB ↑"."""
    known = METRICS[metric]
    return " ".join(filter(None, (known.title, known.unit, ARROWS[known.better])))


def value(mean: float | None, metric: str, sign: str = "") -> str:
    """As many digits as the metric has; without one all pictures were the sharp ones, and a PSNR infinite."""
    return "identical" if mean is None else f"{mean:{sign}.{METRICS[metric].digits}f}"


def interval(estimate: Estimate, metric: str, sign: str = "") -> str:
    """ " [low, high]", or nothing where there is none."""
    if estimate.low is None:
        return ""
    return f" [{value(estimate.low, metric, sign)}, {value(estimate.high, metric, sign)}]"


def measured(score: Score | None, metric: str, scored: int) -> str:
    """Mean, interval, and over how many faces if not over all that were scored; how many are the sharp ones exactly."""
    if score is None:
        return "-"
    if not score.n:
        return f"identical ({score.identical})"
    fewer = [] if score.n == scored else [f"n = {score.n}"]
    fewer += [f"{score.identical} identical left out"] if score.identical else []
    return value(score.mean, metric) + interval(score, metric) + (f" ({', '.join(fewer)})" if fewer else "")


def signed(difference: Estimate | None, metric: str, without: str = "-") -> str:
    """A mean difference with its interval, or `without`."""
    return without if difference is None else value(difference.mean, metric, "+") + interval(difference, metric, "+")


def terminal(report: dict) -> str:
    """Everything but single faces."""
    methods, scored = list(report["scores"]), report["faces"]["scored"]
    body = []
    for metric in metrics_of(report):
        scores = [report["scores"][method].get(metric) for method in methods]
        body.append([title(metric), *(measured(score, metric, scored) for score in scores)])
        if any(score and score.difference for score in scores):
            body.append(["  minus bicubic", *(signed(score and score.difference, metric, "") for score in scores)])
    seconds = report["run"]["seconds_per_face"]
    if seconds:
        body.append(["ms a face", *(f"{1000 * seconds[method]:.1f}" for method in methods)])
    parts = [headline(report), aligned(["mean [95 % interval]", *map(plain, methods)], body)]
    parts += [aligned(*table) for table in sweeps(report)]
    parts += [_identity(report)] if report["identity"] else []
    parts += [landmark_line(report), published_lines(report), fault_lines(report), _run(report)]
    return "\n\n".join(part for part in parts if part)


def sweeps(report: dict, text: Text = plain) -> Iterable[tuple[list[str], list[list[str]]]]:
    """A table for each sweep of the robustness protocol: PSNR of every method at every level."""
    metric = "psnr"
    for sweep, (meaning, _) in SWEEPS.items():
        points = [condition for condition in report["conditions"] if condition["sweep"] == sweep]
        if not points:
            continue
        levels = [condition["scores"] for condition in points]
        head = [f"{title(metric)} with {sweep} ({meaning})", "none", *(f"{point['level']:g}" for point in points)]
        rows = [
            [text(method)] + [value(scores[method][metric].mean, metric) for scores in (report["scores"], *levels)]
            for method in report["scores"]
            if metric in report["scores"][method]
        ]
        yield head, rows


def methods_table(report: dict, text: Text = plain) -> tuple[list[str], list[list[str]]]:
    """Head and rows, one for each method, with its gain in PSNR; attention units where they are the question."""
    metrics, about = metrics_of(report), report["methods"]
    units = report["protocol"]["name"] == "attention-units"
    head = ["method", "parameters", *(["attention units"] if units else [])]
    for metric in metrics:
        head += [title(metric), "gain dB"] if metric == "psnr" else [title(metric)]
    rows = []
    for method in order(report):
        scores, entry = report["scores"][method], about[method]
        size = f"{entry['parameters'] / 1e6:.2f} M" if "parameters" in entry else "-"
        cells = [text(method), size, *([str(entry.get("attention_units", "-"))] if units else [])]
        for metric in metrics:
            score = scores.get(metric)
            cells.append(measured(score, metric, report["faces"]["scored"]))
            if metric == "psnr":
                cells.append(signed(score and score.difference, metric))
        rows.append(cells)
    return head, rows


def order(report: dict) -> list[str]:
    """The methods as given; by the number of attention units where they are the question."""
    methods = list(report["scores"])
    if report["protocol"]["name"] != "attention-units":
        return methods
    return sorted(methods, key=lambda method: report["methods"][method].get("attention_units", -1))


def published_table(report: dict) -> tuple[list[str], list[list[str]]] | None:
    """What others printed for this protocol, with the gain over their own bicubic; None where nothing is known."""
    rows = find_protocol(report["protocol"]["name"]).published
    if not rows:
        return None
    floor = next((row.psnr for row in rows if row.method == "bicubic"), None)
    columns = {
        "PSNR dB": [(row.psnr, ".2f") for row in rows],
        "gain dB": [(row.psnr - floor if floor and row.psnr and row.psnr != floor else None, "+.2f") for row in rows],
        "SSIM": [(row.ssim, ".3f") for row in rows],
        "landmark AUC": [(row.landmark_auc, ".3f") for row in rows],
        "identity on UMD-Face": [(row.identity, ".3f") for row in rows],
        "FID": [(row.fid, ".2f") for row in rows],
    }
    columns = {
        name: ["-" if figure is None else format(figure, digits) for figure, digits in cells]
        for name, cells in columns.items()
        if any(figure is not None for figure, _ in cells)
    }
    names = [row.method for row in rows]
    return ["published", *columns], [list(cells) for cells in zip(names, *columns.values(), strict=True)]


def published_lines(report: dict) -> str:
    table = published_table(report)
    where = find_protocol(report["protocol"]["name"]).published_on
    return f"{aligned(*table)}\nnot measured here: {where}" if table else ""


def landmark_line(report: dict) -> str:
    """What landmarks are compared with, or regions drawn by; nothing where neither was measured."""
    if not {"landmark_auc", "psnr_eyes"} & set(metrics_of(report)):
        return ""
    known, scored = report["faces"]["known_landmarks"], report["faces"]["scored"]
    line = f"landmarks known from files beside {known} of {scored} faces"
    if known < scored:
        line += ", found in the sharp picture for the others"
    floor = report["landmark_floor"]
    if not floor:
        return line
    errors = [f"{title(metric)} {measured(floor[metric], metric, known)}" for metric in METRICS if metric in floor]
    return f"{line}; sharp (floor): {', '.join(errors)}. {FLOOR}"


def fault_lines(report: dict, text: Text = plain) -> str:
    """A line for each kind of fault, with the first names."""
    lines = []
    for kind, found in report["faces"]["faults"].items():
        named = [f"{text(fault['name'])} ({text(fault['of'])}: {text(fault['why'])})" for fault in found[:SHOWN_FAULTS]]
        count = report["faces"]["fault_counts"][kind]
        more = f" and {count - SHOWN_FAULTS} more" if count > SHOWN_FAULTS else ""
        lines.append(f"{kind} ({FAULTS[kind]}), {count}: {'; '.join(named)}{more}")
    return "\n".join(lines)


def _identity(report: dict) -> str:
    identity = report["identity"]
    strangers = identity.get("impostors")
    lines = [
        f"identity over {identity['faces']} faces of {identity['people']} people: sharp faces of two strangers have a "
        f"cosine of {strangers['mean']:.4f}, one pair of 20 above {strangers['highest_of_20']:.4f}"
        if strangers
        else f"identity over {identity['faces']} faces of one person"
    ]
    for method, numbers in identity["methods"].items():
        auc = f"verification AUC {numbers['verification_auc']:.4f}, " if "verification_auc" in numbers else ""
        lines.append(
            f"  {plain(method)}: {auc}Frechet distance on the embeddings {numbers['frechet_on_identity']:.4f} (no FID)"
        )
    return "\n".join(lines)


def _run(report: dict) -> str:
    run = report["run"]
    where = f"{run['processes']} x {run['device']}, {run['threads']} threads"
    return (
        f"{run['seconds']:.1f} s on {where}; {run['peak_memory_gb']:.2f} GB at most, all methods together; "
        f"intervals from {RESAMPLES} bootstrap samples of the faces, seed {report['protocol']['seed']}"
    )


def markdown(report: dict) -> str:
    """Tables for a README or a model card."""
    parts = [
        f"{headline(report, for_markdown)}. In brackets: 95 % bootstrap intervals over the faces.",
        pipes(*methods_table(report, for_markdown)),
    ]
    parts += [pipes(*table) for table in sweeps(report, for_markdown)]
    if line := landmark_line(report):
        parts.append(line[0].upper() + line[1:] + ".")
    if table := published_table(report):
        where = find_protocol(report["protocol"]["name"]).published_on
        parts.append(f"Published, not measured here ({where}):\n\n{pipes(*table)}")
    if lines := fault_lines(report, for_markdown):
        parts.append("\n".join(f"- {line}" for line in lines.splitlines()))
    return "\n\n".join(parts) + "\n"


def latex(report: dict) -> str:
    """The methods' table for booktabs, with the protocol as its caption."""
    head, rows = methods_table(report, for_latex)
    caption = headline(report, for_latex).replace("->", "$\\to$")
    lines = [
        "\\begin{table}",
        f"  \\caption{{{caption}. 95\\,\\% bootstrap intervals over the faces.}}",
        f"  \\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        "    \\toprule",
        "    " + " & ".join(for_latex(name).translate(_TEX) for name in head) + " \\\\",
        "    \\midrule",
        *("    " + " & ".join(row) + " \\\\" for row in rows),
        "    \\bottomrule",
        "  \\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def pipes(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *rows)
    )
