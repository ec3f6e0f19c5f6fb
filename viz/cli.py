"""The instruments' command line.

    python -m viz NAME FACE --model M --out DIR

    FACE -> find_faces, Restorer -> Subject -> viz.NAME.study -> Finding -> NAME.json, NAME.npz, NAME.png
    --faces DIR -> a Subject a picture -> study_many --^              report: every instrument -> report.html

Exit 0 when done, 2 after one line on stderr when the user can put something right.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import typer
from tqdm import tqdm

from sparnet import images
from sparnet.checkpoints import DEFAULT_MODEL, load_model, weights_file
from sparnet.command import run as run_app
from sparnet.errors import UserError
from sparnet.faces import find_detector, transform_points
from sparnet.files import check_targets, make_folder, sha256_of
from sparnet.folders import check_outside, pictures_in
from sparnet.landmarks import read_landmarks
from sparnet.model import SPARNet
from sparnet.restorer import Progress, Restorer, find_faces
from sparnet.text import plain
from viz.ablation import MODES
from viz.agreement import SHARE
from viz.faithfulness import CELLS, LEVELS
from viz.finding import Finding, Subject
from viz.provenance import model_record, versions
from viz.query import STEPS

if TYPE_CHECKING:
    from viz.report import Report
    from viz.survey import Survey

_PATHS = ("model", "other_model", "checkpoint", "out", "photo")  # paths, whose last parts are told elsewhere
_LONGEST = 400  # characters of a word: a painted mask is one of thousands
FILES = {  # what a command's files are called, where not as the command
    "ablate": ["ablation", "ablation-pairs"],
    "compare": ["agreement"],
    "population": ["population", "training"],
}
FILES["report"] = ["atlas", "gate", *FILES["ablate"], "edit", "regions", "faithfulness", "sanity", "query",
                   *FILES["compare"], "channels", "stability", *FILES["population"]]  # fmt: skip
FILES["survey"] = ["population", "regions", "stability", "ablation", "sanity", "faithfulness"]
MAX_SEED, MAX_STEPS, MAX_CELLS, MAX_BLUR = 2**32 - 1, 1000, 128, 1000  # of the options: beyond, it takes for ever
_TOLD = 24  # lines of numbers in the terminal; the JSON has all


def number(value: float | None) -> float | None:
    """An option's value; not a number would be within any range."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is not a number.")
    return value


app = typer.Typer(
    help="Look into a face restoration network: where each unit looks, and whether it matters.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@dataclass(frozen=True)
class Options:
    """What every command can be told."""

    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write into.")]
    photo: Annotated[Path | None, typer.Argument(metavar="FACE", help="A photo with a face in it.")] = None
    model: Annotated[
        str, typer.Option(help="A name of `python -m sparnet models`, folder, released .pth or Hub repo.")
    ] = DEFAULT_MODEL
    simulate: Annotated[
        bool | None,
        typer.Option(
            "--simulate/--as-is",
            help="Reduce the face first to the size that the model enlarges, or do not. Without either: reduce if the "
            "model has such a size.",
        ),
    ] = None
    face: Annotated[int, typer.Option(metavar="N", min=1, help="Which face of the photo; 1 is the largest.")] = 1
    whole: Annotated[bool, typer.Option("--whole", help="The picture is already a face.")] = False
    yunet: Annotated[Path | None, typer.Option(metavar="FILE", help="YuNet's .onnx, to find faces with.")] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; without it, cuda if there is one.")] = None
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a Hub repo.")] = None
    pdf: Annotated[bool, typer.Option("--pdf", help="Write the figure as a PDF for print too.")] = False


Faces = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Aligned faces to study instead of one: means with intervals.")
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of everything random.")]
OtherModel = Annotated[str | None, typer.Option(metavar="MODEL", help="A second network, on the same face.")]
OtherFace = Annotated[Path | None, typer.Option(metavar="PHOTO", help="A second face, its photo's largest.")]
Run = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of a training run: maps over the training.")]
Units = Annotated[list[str] | None, typer.Option("--unit", help="Only this unit, such as body.0; repeatable.")]


class Bench:
    """The network and the faces put in front of it, remembered so that what is found can be found again."""

    def __init__(self, options: Options):
        self.options = options
        self.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.detector = find_detector(options.yunet) if options.yunet else None
        self.models: list[dict] = []
        self.faces: dict[tuple, dict] = {}  # each once, however often it was looked at
        self.left_out: list[str] = []  # why, of each picture of a folder that cannot be looked at
        self.network = self.load(options.model, options.revision)

    def load(self, source: str, revision: str | None = None) -> tuple[SPARNet, str]:
        """The model and its name, of a file or folder the last two parts of its path; `UserError` of `load_model`."""
        model = load_model(source, self.device, revision)
        record = model_record(source, model, revision)
        self.models.append(record)
        return model, record["id"]

    def subject(self) -> Subject:
        """FACE of the command line in front of the model."""
        return self.look(self.photo(), self.options.face, self.options.whole)

    def photo(self) -> Path:
        """FACE; `UserError` if it was not given."""
        if self.options.photo is None:
            raise UserError("There is no face to look at: give a photo as FACE.")
        return self.options.photo

    def subjects(self, folder: Path) -> "FolderOfFaces":
        """The aligned faces of a folder, instead of FACE."""
        if self.options.photo is not None:
            raise UserError("FACE and --faces exclude each other: give one of them.")
        return self.faces_in(folder)

    def faces_in(self, folder: Path) -> "FolderOfFaces":
        """The aligned faces of a folder; those that are none are left out. `UserError` if no face is left."""
        paths = []
        for path in pictures_in(folder):
            try:
                find_faces(images.load(path), "whole")
                read_landmarks(path)
            except UserError as error:
                self.left_out.append(str(error))
            else:
                paths.append(path)
        if not paths:
            raise UserError(f"None of the pictures in {folder} can be looked at. {self.left_out[0]}")
        return FolderOfFaces(self, paths)

    def other(self, model: str | None, photo: Path | None) -> Subject | None:
        """The same face in front of another model, or another face in front of the same model; None: neither."""
        if model and photo:
            raise UserError("Two networks on two faces cannot be compared: give --other-model or --other-face.")
        if photo:
            return self.look(photo, whole=self.options.whole)
        if model:
            return self.look(self.photo(), self.options.face, self.options.whole, self.load(model))
        return None

    def look(
        self, path: Path, number: int = 1, whole: bool = False, network: tuple[SPARNet, str] | None = None
    ) -> Subject:
        """One face of a photo as the app takes it; `UserError` if there is no such face or it cannot be restored."""
        model, name = network or self.network
        mode = None if self.options.simulate is None else "simulate" if self.options.simulate else "as_is"
        photo = images.load(path)
        found, detector, notes = find_faces(photo, "whole" if whole else None, self.detector)
        if not found:
            raise UserError(f"{path}: {' '.join(notes)} For that, give --whole.")
        if number > len(found):
            raise UserError(f"{path} has {len(found)} face{'s' * (len(found) > 1)}: there is no --face {number}.")
        result = Restorer(model)(photo, mode, "whole" if whole else [found[number - 1]])
        if not result.faces:
            raise UserError(f"{path}: {' '.join(result.notes)}")
        face = result.faces[0]
        reduced = face.degraded is not face.crop
        mode = "simulate" if reduced else "as_is"
        subject = Subject.of(model, name, face, detector)
        if whole and (written := read_landmarks(path)) is not None:
            points = transform_points(face.to_crop, written)
            subject = replace(subject, points=points, points_from="of the file beside the picture")
        self.faces[path, number, mode] = {
            "file": path.name,
            "sha256": sha256_of(path),
            "face": number,
            "of": len(found),
            "box": face.face.box.round(2).tolist(),
            "detector": detector,
            "points": subject.points_from,
            "mode": mode,
        }
        return subject

    def told(self) -> str:
        """Who looked at what, in one line."""
        models = ", ".join(model["id"] for model in self.models)
        if not self.faces:
            return f"{models} on {self.device}"
        first, *more = self.faces.values()
        face = f"{first['file']}, face {first['face']} of {first['of']} ({first['detector']}), {first['mode']}"
        return f"{face}{f' and {len(more)} more' if more else ''}; {models} on {self.device}"

    def provenance(self, command: str, settings: dict) -> dict:
        """What makes a finding anew; of paths only the names."""
        given = asdict(self.options) | settings
        return {
            "command": command,
            "models": self.models,
            "faces": list(self.faces.values()),
            "settings": {name: _plain(value) for name, value in given.items() if name not in _PATHS},
            "device": self.device,
            "versions": versions(),
        }


@dataclass(frozen=True, eq=False)
class FolderOfFaces:
    """Subjects made one at a time, so that a folder of any size fits into memory; it knows how many there are."""

    bench: Bench
    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Subject]:
        return (self.bench.look(path, whole=True) for path in self.paths)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    run_app(app, arguments)


def targets_of(name: str, out: Path, page: Path | None) -> list[tuple[str, Path]]:
    """All that a command may write, (what it is, path); `page` is the survey's, if it is to be another file."""
    files = [f"{file}.{kind}" for file in FILES.get(name, [name]) for kind in ("json", "npz", "png", "pdf")]
    targets = [(file, out / file) for file in files]
    if name == "report":
        from viz import report  # here, because it is slow to import

        targets += [(file, out / file) for file in (report.PAGE, report.FILM)]
    if name == "survey":
        from viz import survey  # the same

        targets += survey.targets(out, page or out / survey.PAGE)
    return targets


def inputs_of(photo: Path | None, given: Mapping[str, Any]) -> list[Path]:
    """The pictures and edits that a command reads."""
    files = [file for file in (photo, given.get("other_face"), given.get("edits")) if file is not None]
    return files if given.get("faces") is None else files + pictures_in(given["faces"])


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on a terminal, nothing in a pipe."""
    with tqdm(disable=None, leave=False, bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}") as bar:

        def progress(done: int, total: int, text: str) -> None:
            bar.total, bar.n = total or None, done
            bar.set_description_str(text)

        yield progress


def command(study: Callable[..., Finding]) -> Callable[..., Finding]:
    """Make study(bench, progress, its own options) a command that has the common options too.

    What it finds is told on the terminal and saved.
    """
    parameters = [*signature(Options).parameters.values(), *list(signature(study).parameters.values())[2:]]

    def run(**given: Any) -> None:
        options = Options(**{name: given.pop(name) for name in signature(Options).parameters})
        if given.get("faces") is not None:
            check_outside(options.out, [given["faces"]])
        check_targets(targets_of(study.__name__, options.out, given.get("page")), inputs_of(options.photo, given))
        make_folder(options.out)
        with progress_bar() as progress:
            bench = Bench(options)
            finding = study(bench, progress, **given)
        paths = finding.save(options.out, bench.provenance(study.__name__, given), options.pdf)
        more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
        written = f"Written: {', '.join(map(str, paths[:4]))}{more}"
        lines = [bench.told(), finding.meaning, *told(finding.numbers), written]
        print("\n".join(plain(line) for line in lines))
        if bench.left_out:
            raise UserError(f"{len(bench.left_out)} pictures were left out: {' '.join(bench.left_out)}")

    run.__signature__ = Signature([parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters])
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(study.__name__, help=study.__doc__)(run)
    return study


def told(numbers: dict, depth: int = 1) -> list[str]:
    """The first numbers in lines of their own, as many as a screen holds."""
    lines = []
    for name, value in numbers.items():
        if isinstance(value, dict) and value and depth == 1 and not _flat(value):
            lines += [f"    {name}:", *told(value, 2)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"    {name}:", *(f"        {_inline(row)}" for row in value)]
        else:
            lines.append(f"{'    ' * depth}{name}: {_inline(value)}")
    return lines if depth > 1 or len(lines) <= _TOLD else [*lines[:_TOLD], f"    ... {len(lines) - _TOLD} more"]


def _flat(value: dict) -> bool:
    return not any(isinstance(part, dict | list) for part in value.values())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_inline(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_inline, value))
    return f"{value:.4g}" if isinstance(value, float) else shorten(str(value), _LONGEST, placeholder="...")


def _patch(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        left, top, right, bottom = map(int, text.split(","))
    except ValueError as error:
        raise UserError(f"--patch is {text!r}; give left,top,right,bottom in pixels, as in 40,44,60,58.") from error
    return left, top, right, bottom


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.name if isinstance(value, Path) else value


@command
def atlas(
    bench: Bench,
    progress: Progress,
    stretch: Annotated[bool, typer.Option("--stretch", help="Each map in its own range; do not compare maps.")] = False,
    colormap: Annotated[Literal["viridis", "magma", "inferno", "cividis", "gray"], typer.Option()] = "viridis",
) -> Finding:
    """Every attention map of one face in forward order."""
    from viz.atlas import study

    return study(bench.subject(), stretch, colormap, progress)


@command
def gate(
    bench: Bench,
    progress: Progress,
    unit: Annotated[str | None, typer.Option(help="The unit to draw; without it, that of the most contrast.")] = None,
) -> Finding:
    """What a unit's attention lets through, term by term."""
    from viz.gate import study

    return study(bench.subject(), unit, progress)


@command
def regions(bench: Bench, progress: Progress, faces: Faces = None, seed: Seed = 0) -> Finding:
    """Which parts of the face each unit prefers."""
    from viz.regions import study, study_many

    if faces is not None:
        return study_many(bench.subjects(faces), seed, progress)
    return study(bench.subject(), progress)


@command
def ablate(
    bench: Bench,
    progress: Progress,
    unit: Units = None,
    mode: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(MODES)}: what replaces alpha; repeatable. Without it, all.")
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Every two units at once.")] = False,
    faces: Faces = None,
    seed: Seed = 0,
) -> Finding:
    """Whether a unit matters: its attention replaced, the restored face before and after."""
    from viz.ablation import study, study_many, study_pairs

    if unknown := set(mode or ()) - set(MODES):
        raise UserError(f"There is no --mode {', '.join(unknown)}. Choose from {', '.join(MODES)}.")
    if pairs and (faces is not None or len(mode or ()) > 1):
        raise UserError("--pairs is for one face and one --mode; without one, mean.")
    if pairs:
        return study_pairs(bench.subject(), unit, mode[0] if mode else "mean", seed, progress)
    if faces is not None:
        return study_many(bench.subjects(faces), unit, mode or MODES, seed, progress)
    return study(bench.subject(), unit, mode or MODES, seed, progress)


@command
def edit(
    bench: Bench,
    progress: Progress,
    edits: Annotated[Path, typer.Option(metavar="FILE", help="Edits as the app saves them, JSON.")],
) -> Finding:
    """The face with attention as it was painted in the app, beside the face without."""
    from viz.edit import load, study

    subject = bench.subject()
    return study(subject, load(edits, subject), progress)


@command
def faithfulness(
    bench: Bench,
    progress: Progress,
    unit: Annotated[
        list[str] | None, typer.Option(help="This unit's map too, beside the mean of all; repeatable.")
    ] = None,
    cells: Annotated[
        int, typer.Option(min=2, max=MAX_CELLS, help="On a side of the face; one of them is damaged at a time.")
    ] = CELLS,
    levels: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_STEPS, help=f"Steps up to 50 % damaged; {LEVELS} for one face, half for many."),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_STEPS, help="Random maps to compare with; 3 for one face, 1 for each of many."),
    ] = None,
    faces: Faces = None,
    seed: Seed = 0,
) -> Finding:
    """Whether damage where attention is high changes the rest of the face more, against gradient, edges and chance."""
    from viz.faithfulness import study, study_many

    if faces is not None:
        return study_many(bench.subjects(faces), unit, cells, levels or LEVELS // 2, draws or 1, seed, progress)
    return study(bench.subject(), unit, cells, levels or LEVELS, draws or 3, seed, progress)


@command
def sanity(
    bench: Bench,
    progress: Progress,
    draws: Annotated[
        int | None, typer.Option(min=1, max=MAX_STEPS, help="Random networks; 3 for one face, 1 for each of many.")
    ] = None,
    faces: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Aligned faces: to compare FACE with, or to study instead of it.")
    ] = None,
    seed: Seed = 0,
) -> Finding:
    """Whether the maps depend on what the network learned, and on the face."""
    from viz.sanity import study, study_many

    if bench.options.photo is None and faces is not None:
        return study_many(bench.subjects(faces), draws or 1, seed, progress)
    subject = bench.subject()
    others = None if faces is None else list(bench.faces_in(faces))
    return study(subject, others, draws or 3, seed, progress)


@command
def query(
    bench: Bench,
    progress: Progress,
    patch: Annotated[
        str | None, typer.Option(metavar="X1,Y1,X2,Y2", help="In pixels of the restored face; without it, its middle.")
    ] = None,
    detector: Annotated[
        Literal["gradient", "sum"], typer.Option(help="The patch's number: detail, or light.")
    ] = "gradient",
    path: Annotated[
        Literal["progressive", "linear"], typer.Option(help="From blur to the real input.")
    ] = "progressive",
    sigma: Annotated[
        float | None,
        typer.Option(min=0, max=MAX_BLUR, callback=number, help="Of the blur at its beginning, in pixels."),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, max=MAX_STEPS, help="Of the path; more miss less of the change.")
    ] = STEPS,
) -> Finding:
    """Which input pixels a patch of the restored face came from."""
    from viz.query import study

    return study(bench.subject(), _patch(patch), detector, path, sigma, steps, progress)


@command
def compare(
    bench: Bench,
    progress: Progress,
    other_model: OtherModel = None,
    other_face: OtherFace = None,
    share: Annotated[
        float, typer.Option(min=0.001, max=1, callback=number, help="Of the places: those that count as looked at.")
    ] = SHARE,
    faces: Faces = None,
    seed: Seed = 0,
) -> Finding:
    """Whether two networks look at the same places of a face, or one network of two faces."""
    from viz.agreement import study, study_many

    if faces is not None:
        if other_model is None or other_face is not None:
            raise UserError("A folder of faces is compared in front of two networks: give --other-model.")
        network = bench.load(other_model)
        folder = bench.subjects(faces)
        couples = ((bench.look(one, whole=True), bench.look(one, whole=True, network=network)) for one in folder.paths)
        return study_many(couples, share, seed, progress)
    subject, other = bench.subject(), bench.other(other_model, other_face)
    if other is None:
        raise UserError("There is nothing to compare with: give --other-model or --other-face.")
    return study(subject, other, share, progress)


@command
def channels(
    bench: Bench,
    progress: Progress,
    count: Annotated[int, typer.Option(min=1, max=MAX_STEPS, help="Groups of channels that look alike.")] = 4,
    seed: Seed = 0,
) -> Finding:
    """What differs from channel to channel, for 3D and channel attention."""
    from viz.channels import study

    return study(bench.subject(), count, seed, progress)


@command
def stability(
    bench: Bench,
    progress: Progress,
    noises: Annotated[int, typer.Option(min=1, max=MAX_STEPS, help="How many different noises are added.")] = 4,
    faces: Faces = None,
    seed: Seed = 0,
) -> Finding:
    """Whether maps and result hold still under noise, JPEG, a shift and a flip."""
    from viz.stability import study, study_many

    seeds = range(seed, seed + noises)
    if faces is not None:
        return study_many(bench.subjects(faces), seeds, seed, progress)
    return study(bench.subject(), seeds, progress)


@command
def population(
    bench: Bench,
    progress: Progress,
    faces: Annotated[Path | None, typer.Option(metavar="DIR", help="Aligned faces: their mean maps.")] = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="One more state of a training run, in order; repeatable.")
    ] = None,
    run: Run = None,
    keep: Annotated[
        str | None, typer.Option(metavar="WORDS", help="Keep it beside the weights for the app; which faces they are.")
    ] = None,
    seed: Seed = 0,
) -> Finding:
    """Mean maps of a folder of faces; with FACE, how it differs from them. Or maps over a training.

    --run takes the astronaut's maps that the trainer wrote at every validation, --checkpoint FACE's by saved models.
    """
    from viz import population as instrument
    from viz.population import gather, study, study_many, study_run, study_training

    if keep and (faces is None or bench.options.photo is not None):
        raise UserError("--keep is for a folder of faces alone: give --faces and no FACE.")
    if (faces is not None) + bool(checkpoint) + (run is not None) != 1:
        raise UserError(
            "Give one of --faces, a folder of aligned faces, --run, the folder of a training run, and --checkpoint, "
            "models of one training run."
        )
    if run is not None:
        return study_run(run, progress)
    if checkpoint:
        photo = bench.photo()
        networks = (bench.load(source) for source in checkpoint)
        look = partial(bench.look, photo, bench.options.face, bench.options.whole)
        return study_training((look(network) for network in networks), progress)
    if bench.options.photo is None:
        finding = study_many(bench.subjects(faces), seed, progress)
        if keep:
            weights = weights_file(bench.options.model, bench.options.revision)
            instrument.keep(instrument.population_of(finding.numbers, finding.arrays), weights, keep)
        return finding
    subject = bench.subject()
    return study(subject, gather(bench.faces_in(faces), progress))


@command
def report(
    bench: Bench,
    progress: Progress,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this instrument; repeatable.")] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Not this instrument; repeatable.")] = None,
    other_model: OtherModel = None,
    other_face: OtherFace = None,
    edits: Annotated[Path | None, typer.Option(metavar="FILE", help="Edits as the app saves them, for `edit`.")] = None,
    faces: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Aligned faces, for `population` and `sanity`.")
    ] = None,
    patch: Annotated[str | None, typer.Option(metavar="X1,Y1,X2,Y2", help="Of the restored face, for `query`.")] = None,
    run: Run = None,
) -> "Report":
    """Every instrument on one face, as one HTML file that needs no network, with all their files."""
    from viz.edit import load
    from viz.report import Given, study

    subject = bench.subject()
    given = Given(
        subject,
        other=bench.other(other_model, other_face),
        edits=None if edits is None else load(edits, subject),
        faces=None if faces is None else bench.faces_in(faces),
        patch=_patch(patch),
        run=run,
    )
    return study(given, only or (), skip or (), progress)


@command
def survey(
    bench: Bench,
    progress: Progress,
    faces: Annotated[Path, typer.Option(metavar="DIR", help="Aligned faces, 30 or more.")],
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; without it, what-we-found.md in --out.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many faces.")] = None,
    levels: Annotated[int, typer.Option(min=2, max=MAX_STEPS, help="Steps of damage, of `faithfulness`.")] = LEVELS
    // 2,
    seed: Seed = 0,
) -> "Survey":
    """All instruments over a folder of faces, as one short Markdown page that shows none of them.

    Findings are kept in --out: run again after an interruption, or for another page, only what is missing is done.
    After a change of the instruments' code take a new folder.
    """
    from viz.survey import PAGE, Settings, save_astronaut, study

    settings, folder = Settings(levels, seed=seed), bench.options.out
    paths = bench.subjects(faces).paths[:limit]
    subjects = []
    for i, path in enumerate(paths):
        progress(i, len(paths), f"Reading face {i + 1}")
        subjects.append(bench.look(path, whole=True))
    made = bench.provenance("survey", asdict(settings))
    astronaut = bench.look(save_astronaut(folder / "astronaut"))
    hers = made | {"faces": bench.provenance("survey", {})["faces"][-1:]}  # who is no part of the population
    return study(
        subjects,
        astronaut,
        folder,
        (made, hers),
        settings,
        faces.resolve().name,
        page or folder / PAGE,
        progress,
    )
