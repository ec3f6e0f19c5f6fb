"""A table of the paper from runs of our own: every row from one seed, on one order of the views, for one budget.

    NAME -> Study: rows -> [ recipe at this scale -> train, or go on -> OUT/rows/ROW/annealed ] x rows
    rows, held-out faces -> evaluate -> differences to one row, face by face -> OUT/NAME.json .md .html, curves NAME.png

`python -m training.study NAME --data PATH --validate DIR --views N --out DIR`. Killed at any moment, the same command
goes on; a row that several studies of one --out share is trained once. `--narrow`: what a CPU trains in minutes a row.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from itertools import count, pairwise
from math import ceil
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from matplotlib.figure import Figure

from sparnet.attention import figure_png
from sparnet.command import with_options
from sparnet.errors import UserError
from sparnet.files import make_folder, save_bytes
from sparnet.folders import check_outside
from sparnet.hub import WEIGHTS
from sparnet.images import data_url
from sparnet.metrics import Estimate, ends
from sparnet.model import SPARNetConfig
from sparnet.text import for_markdown, html_templates
from training.command import run_command
from training.data import Index, index_pictures
from training.evaluation import tables
from training.evaluation.comparison import Trial
from training.evaluation.judges import choose
from training.evaluation.ledger import Results, plain_numbers, summary
from training.evaluation.methods import Bicubic, load_network
from training.evaluation.protocols import PROTOCOLS, Published
from training.evaluation.report import evaluate
from training.networks import size_of
from training.precision import choose_precision, step_timer
from training.processes import agreed, device_of, process_state
from training.recipes import Precision, Recipe, find_recipe
from training.run import History, Job, say
from training.state import differences, has_run, load_checkpoint
from training.train import train

Scale = Literal["full", "narrow", "rehearsal"]
FULL = "sparnet"  # the recipe whose batch and minutes are every row's
VALIDATIONS = 5  # of each row, for its curve
ROUNDS = 5  # of timing
MEANING = (
    "All rows saw the same views in the same order from the same seed, and are scored on the same faces, which chose "
    "nothing. The intervals are over the faces: that another seed would order the rows alike does not follow."
)
SCALES: dict[Scale, str] = {
    "full": "at the paper's size",
    "narrow": "at a size that a CPU trains in minutes, 8x8 to 64x64 by narrow networks: no rival of the published rows",
    "rehearsal": "a rehearsal, which shows that the command works and nothing else",
}


@dataclass(frozen=True)
class Row:
    """A recipe as a row: what it is called in the table, and what it has as many of as the others, or as SPARNet.

    views: of those alone; minutes: of training, in place of the views; parameters: beside the views, by a deeper body.
    """

    recipe: str
    label: str
    equal: Literal["views", "minutes", "parameters"] = "views"

    @property
    def name(self) -> str:
        return self.recipe if self.equal == "views" else f"{self.recipe}-equal-{self.equal}"


@dataclass(frozen=True)
class Study:
    """A table: `against` is the label of the row that the others are compared with, face by face."""

    question: str
    rows: tuple[Row, ...]
    against: str
    published: tuple[Published, ...] = ()
    published_on: str = ""


NONE, ALL = Row("sparnet-no-attention", "no attention"), Row(FULL, "2D, all units")
PAPER, UNITS = PROTOCOLS["helen-16to128"], PROTOCOLS["attention-units"]
STUDIES = {
    "attention-units": Study(
        "What is attention worth in none, few and all of the units?",
        (
            NONE,
            Row(NONE.recipe, "no attention, equal minutes", "minutes"),
            Row(NONE.recipe, "no attention, equal parameters", "parameters"),
            *(Row(f"sparnet-attention-{count}", f"2D, {count} of them") for count in (1, 4, 8)),
            ALL,
        ),
        NONE.label,
        UNITS.published,
        UNITS.published_on,
    ),
    "attention-kind": Study(
        "Which kind of attention?",
        (
            NONE,
            Row("sparnet-channel-attention", "channel"),
            Row("sparnet-single-scale", "2D, a single scale"),
            Row("sparnet-bottleneck-16", "2D, bottleneck 16"),
            Row("sparnet-bottleneck-8", "2D, bottleneck 8"),
            Row(FULL, "2D, bottleneck 4"),
            Row("sparnet-3d", "3D, bottleneck 4"),
            Row("sparnet-spatial-channel", "spatial and channel"),
        ),
        NONE.label,
    ),
    "baselines": Study(
        "SPARNet beside the networks that the paper compares it with, for as many views and for as many minutes",
        (
            Row(FULL, "SPARNet"),
            Row("rcan", "RCAN, equal views"),
            Row("rcan", "RCAN, equal minutes", "minutes"),
            Row("wavelet-srnet", "Wavelet-SRNet, equal views"),
            Row("wavelet-srnet", "Wavelet-SRNet, equal minutes", "minutes"),
        ),
        "SPARNet",
        PAPER.published,
        PAPER.published_on,
    ),
    "beyond": Study(
        "Beyond the paper: channels beside places, frequencies beside pixels",
        (
            Row(FULL, "spatial, L1"),
            Row("sparnet-spatial-channel", "spatial and channel, L1"),
            Row("sparnet-amplitude", "spatial, L1 and amplitudes"),
            Row("sparnet-spatial-channel-amplitude", "spatial and channel, L1 and amplitudes"),
        ),
        "spatial, L1",
    ),
}


@dataclass(frozen=True)
class Plan:
    """What is the same for all rows."""

    data: Annotated[list[Path], typer.Option(help="Folder of pictures or tar shards, or one shard; repeatable.")]
    validate: Annotated[Path, typer.Option(help="Folder of held-out faces: the rows are scored on them.")]
    out: Annotated[Path, typer.Option(help="Folder of the rows and of the table; studies may share it.")]
    views: Annotated[int, typer.Option(min=1, help="Of faces, that every row is trained on.")]
    scale: Scale = "full"
    seed: Annotated[int, typer.Option(min=0)] = 0
    workers: Annotated[int, typer.Option(min=0, help="Processes that load pictures.")] = 1
    precision: Annotated[Precision, typer.Option(help="Of all rows; auto: the faster one here.")] = "auto"
    lpips: Annotated[Path | None, typer.Option(help="Weights of LPIPS with SqueezeNet.")] = None

    def folder(self, row: Row) -> Path:
        return self.out / "rows" / row.name

    def recipe(self, name: str, precision: Precision) -> Recipe:
        """The recipe at this scale; its loss and rate are its own, views, batch, schedule and length those of all."""
        scaled = {"full": lambda recipe: recipe, "narrow": Recipe.narrow, "rehearsal": Recipe.rehearsal}[self.scale]
        recipe, batch = scaled(find_recipe(name)), scaled(find_recipe(FULL)).batch_size
        steps = ceil(self.views / batch)
        return replace(
            recipe,
            batch_size=batch,
            steps=steps,
            schedule="wsd",
            warmup=min(recipe.warmup, ceil(steps / 10)),
            precision=precision,
            validate_every=ceil(steps / VALIDATIONS),
        )


@dataclass(frozen=True, eq=False)
class Table:
    """What a study found."""

    study: Study
    plan: Plan
    report: dict  # of the evaluator, without its rows
    differences: dict[str, dict[str, Estimate]]  # row, metric -> minus the row `against`, the mean over the faces
    views: dict[str, int]
    curves: dict[str, History] = field(default_factory=dict)  # over images seen

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows, bicubic first: parameters, views, every metric with its interval and difference."""
        metrics = tables.metrics_of(self.report)
        head = ["row", "parameters", "views"]
        for metric in metrics:
            head += [tables.title(metric), f"minus {self.study.against}"]
        rows = []
        for label, scores in self.report["scores"].items():
            parameters = self.report["methods"][label].get("parameters")
            cells = [label, f"{parameters / 1e6:.3f} M" if parameters else "-", f"{self.views.get(label, 0):,}"]
            for metric in metrics:
                difference = self.differences.get(label, {}).get(metric)
                cells.append(tables.measured(scores[metric], metric, self.report["faces"]["scored"]))
                cells.append(tables.signed(difference, metric))
            rows.append(cells)
        return head, rows

    def headline(self) -> str:
        return f"{self.study.question} {SCALES[self.plan.scale].capitalize()}. {tables.headline(self.report)}."

    def published(self) -> tuple[list[str], list[list[str]]]:
        rows = [[row.method, f"{row.psnr:.2f}", "-" if row.ssim is None else f"{row.ssim:.3f}"]
                for row in self.study.published]  # fmt: skip
        return ["published, not measured here", "PSNR dB", "SSIM"], rows

    def markdown(self) -> str:
        parts = [for_markdown(self.headline()), tables.pipes(*self.cells()), MEANING]
        if self.study.published:
            parts.append(f"{tables.pipes(*self.published())}\n\n{self.study.published_on}.")
        return "\n\n".join(parts) + "\n"

    def save(self, name: str) -> list[Path]:
        """NAME.json with everything, NAME.md, NAME.png and NAME.html, which shows nobody's face."""
        picture = figure_png(self.figure(), 150)
        page = html_templates(Path(__file__).parent).get_template("study.html")
        numbers = self.report | {
            "study": asdict(self.study),
            "views": self.views,
            "scale": self.plan.scale,
            "differences": self.differences,
            "curves": self.curves,
        }
        contents = {
            "html": page.render(name=name, table=self, meaning=MEANING, curves=data_url(picture)).encode(),
            "md": self.markdown().encode(),
            "png": picture,
            "json": json.dumps(plain_numbers(numbers), indent=1, allow_nan=False).encode(),
        }
        files = {self.plan.out / f"{name}.{kind}": content for kind, content in contents.items()}
        for file, content in files.items():
            save_bytes(content, file)
        return list(files)

    def figure(self) -> Figure:
        """PSNR over views seen, a line a row; beside it the differences at the end with their intervals."""
        labels, places = list(self.curves), range(len(self.curves))
        colors = [f"C{i}" for i in places]
        figure = Figure((11, 1.6 + 0.32 * max(6, len(labels))), facecolor="white", layout="constrained")
        over_views, at_end = figure.subplots(1, 2, width_ratios=(3, 2))
        for color, (label, history) in zip(colors, self.curves.items(), strict=True):
            views, values = np.array(history["validation/psnr"]).T
            over_views.plot(views, values, color=color, marker=".", label=label)
        bicubic = self.report["scores"]["bicubic"]["psnr"].mean
        over_views.axhline(bicubic, color="0.5", linestyle="--", linewidth=0.8, label="bicubic")
        over_views.set(xlabel="views seen", ylabel="PSNR on Y, dB, averaged weights")
        over_views.legend(fontsize=7, frameon=False)
        differences = self.differences | {self.study.against: {"psnr": 0.0}}
        mean, low, high = ends([differences.get(label, {}).get("psnr") for label in labels])
        at_end.scatter(mean, places, color=colors)
        at_end.hlines(places, low, high, color=colors)
        at_end.axvline(0, color="0.3", linewidth=0.8)
        at_end.set_yticks(places, labels)
        at_end.invert_yaxis()
        at_end.set_xlabel(f"PSNR minus {self.study.against}, dB, 95 % over faces", fontsize=9)
        for axes in (over_views, at_end):
            axes.grid(color="0.92")
            axes.set_axisbelow(True)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
        return figure


def run_study(study: Study, plan: Plan) -> Table | None:
    """Train what is not trained yet, then measure all; None where a signal ended it before, or in other processes."""
    check_outside(plan.out, [*plan.data, plan.validate])
    state, data, held_out = process_state(), index_pictures(plan.data), index_pictures([plan.validate])
    recipes = agreed(lambda: settle(study, plan, data, device_of(state)))
    for number, row in enumerate(study.rows, 1):
        folder = plan.folder(row)
        if not trained(folder):
            say(f"{number} of {len(study.rows)}: {row.label}")
            job = Job(plan.data, folder, plan.validate, seed=plan.seed, workers=plan.workers, resume=has_run(folder))
            train(recipes[row.name], job)
        if not trained(folder):
            say("stopped: the same command goes on")
            return None
    return measure(study, plan, held_out, recipes)


def trained(folder: Path) -> bool:
    """Whether the row is done: its anneal has come to its end."""
    return (folder / "annealed" / WEIGHTS).exists()


def settle(study: Study, plan: Plan, data: Index, device: torch.device) -> dict[str, Recipe]:
    """Every row's recipe by its name; `UserError` if rows that are there were trained otherwise.

    All compute in one precision, as they began. The length of a row of equal minutes is measured once, before it is.
    """
    kept = {row.name: json.loads(file.read_text()) for row in study.rows
            if (file := plan.folder(row) / "run.json").exists() and has_run(plan.folder(row))}  # fmt: skip
    precision = next((record["recipe"]["precision"] for record in kept.values()), None)
    if plan.precision != "auto":
        precision = plan.precision
    elif precision is None:
        precision, why = choose_precision(plan.recipe(FULL, "auto"), device)
        say(f"computing in {precision}: {why}")
    recipes = {}
    for row in study.rows:
        recipe = plan.recipe(row.recipe, precision)
        if row.equal == "minutes":
            steps = kept[row.name]["recipe"]["steps"] if row.name in kept else None
            steps = steps or steps_in_equal_time(recipe, plan.recipe(FULL, precision), plan.views, device)
            recipe = replace(recipe, steps=steps, validate_every=ceil(steps / VALIDATIONS))
        if row.equal == "parameters":
            recipe = as_large(recipe, plan.recipe(FULL, precision))
        recipes[row.name] = recipe
        now = {"recipe": recipe.record(), "seed": plan.seed, "data": data.describe_names_and_sizes()}
        if row.name in kept:
            then = {name: kept[row.name][name] for name in now}
            for name, was, is_now in differences(then, json.loads(json.dumps(now))):
                raise UserError(
                    f"{plan.folder(row)} was trained with {name} {was!r}, and it is now {is_now!r}; "
                    "give the same again, or another --out."
                )
    return recipes


def as_large(recipe: Recipe, reference: Recipe) -> Recipe:
    """The recipe with the depth of the body, at least its own, that brings it nearest to the reference's parameters."""
    goal, _ = size_of(reference.model)
    assert isinstance(recipe.model, SPARNetConfig)  # the baselines have no such row
    models = (replace(recipe.model, body_depth=depth) for depth in count(recipe.model.body_depth))
    smaller, larger = next(pair for pair in pairwise(models) if size_of(pair[1])[0] >= goal)
    return replace(recipe, model=min((smaller, larger), key=lambda model: abs(size_of(model)[0] - goal)))


def steps_in_equal_time(recipe: Recipe, reference: Recipe, views: int, device: torch.device) -> int:
    """So many steps of the recipe take the time of the reference's views: loss and gradient, timed in turns.

    Reading the faces, which other processes may do, is left out.
    """
    timers = [step_timer(each, device, each.batch_size) for each in (recipe, reference)]
    own, other = np.min([[timer(recipe.precision) for timer in timers] for _ in range(1 + ROUNDS)][1:], axis=0)
    return max(1, round(ceil(views / reference.batch_size) * other / own))


def measure(study: Study, plan: Plan, held_out: Index, recipes: dict[str, Recipe]) -> Table | None:
    """The rows' last weights on the same held-out faces; None but in the main process."""
    device = device_of(process_state())
    networks = [load_network(f"{row.label}={plan.folder(row) / 'annealed'}", device) for row in study.rows]
    judges = choose(plan.lpips, device=device)
    size, factor = networks[0].size, networks[0].factor
    trial = Trial(held_out.items, [Bicubic(), *networks], size, f"bicubic{factor}", judges, seed=plan.seed)
    found = evaluate(trial, held_out, plan.validate.absolute().name)
    if found is None:
        return None
    report, results = found
    views, curves = {}, {}
    for row in study.rows:
        batch, end = recipes[row.name].batch_size, load_checkpoint(plan.folder(row), say)
        views[row.label] = end["step"] * batch
        curves[row.label] = {
            name: [(step * batch, value) for step, value in entries] for name, entries in end["history"].items()
        }
    return Table(study, plan, report, paired(study, report, results, plan.seed), views, curves)


def paired(study: Study, report: dict, results: Results, seed: int) -> dict[str, dict[str, Estimate]]:
    """Row, metric -> the mean over the faces of its score minus that of the row `against`, with its interval."""
    scores = summary(results.columns, list(report["scores"]), study.against, seed)
    return {
        label: {metric: score.difference for metric, score in row.items() if score.difference}
        for label, row in scores.items()
        if label != study.against
    }


@with_options(Plan)
def main(
    plan: Plan,
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(STUDIES)}.")],
    narrow: Annotated[bool, typer.Option("--narrow", help="8x8 to 64x64 by narrow networks, for a CPU.")] = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Much smaller still, to try the command.")] = False,
) -> None:
    """Train and measure every row of a table of the paper."""
    if name not in STUDIES:
        raise UserError(f"There is no study {name!r}; choose one of {', '.join(STUDIES)}.")
    if narrow and rehearse:
        raise UserError("--narrow and --rehearse are two sizes: give one of them.")
    make_folder(plan.out)
    scale = "rehearsal" if rehearse else "narrow" if narrow else "full"
    table = run_study(STUDIES[name], replace(plan, scale=scale))
    if table is not None:
        print(f"{table.headline()}\n\n{tables.aligned(*table.cells())}\n\n{MEANING}")
        print(f"Written: {', '.join(map(str, table.save(name)))}")


if __name__ == "__main__":
    run_command(main)
