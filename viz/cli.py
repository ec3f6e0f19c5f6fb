"""The instruments' command line.

    python -m viz NAME FACE --model M --out DIR

    FACE -> Bench -> Subject -> the instrument's study ------> Finding -> NAME.json, NAME.npz, NAME.png
    --faces DIR -> a Subject a picture -> its over_faces --^   report: every instrument -> report.html

Every command is made from its instrument: an option from each Option of its study, more from each Source (`SOURCES`).
Exit 0 when done, 2 after one line on stderr when the user can put something right.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from inspect import Parameter, signature
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import skimage.data
import typer
from tqdm import tqdm

from sparnet.checkpoints import weights_file
from sparnet.command import command_line, taking
from sparnet.command import run as run_app
from sparnet.errors import UserError
from sparnet.files import check_targets, make_folder
from sparnet.folders import check_outside, pictures_in
from sparnet.images import save_png
from sparnet.restorer import Progress
from sparnet.text import listed, plain
from viz import report as reports
from viz import survey as surveys
from viz.bench import Bench, FolderOfFaces, Options
from viz.finding import KINDS, Finding
from viz.instrument import (
    EDITS,
    KEEP,
    OTHER,
    OTHER_FACES,
    PATCH,
    POPULATION,
    TRAINING,
    Instrument,
    Setting,
    Source,
    settings_of,
    sources_of,
)
from viz.instruments import INSTRUMENTS, edit, population, training
from viz.subject import Subject

_LONGEST = 400  # characters of a word: a painted mask is one of thousands
EXCLUDE = "FACE and --faces exclude each other: give one of them."
_TOLD = 24  # lines of numbers in the terminal; the JSON has all


def main(arguments: Sequence[str] | None = None) -> None:
    run_app(commands(), arguments)


def commands() -> typer.Typer:
    """A command for each instrument, report and survey."""
    app = command_line(
        help="Look into a face restoration network: where each unit looks, and whether it matters.",
        no_args_is_help=True,
    )
    for instrument in INSTRUMENTS.values():
        add_instrument(app, instrument)
    only = _asked(list[str], "NAME", "Only this instrument; repeatable.")
    skip = _asked(list[str], "NAME", "Not this instrument; repeatable.")
    sources = {name: hint for source in SOURCES if source != KEEP for name, hint in SOURCES[source].options.items()}
    add(app, "report", _report.__doc__, {"only": only, "skip": skip, **sources}, _files_of_report, _report)
    options = {
        "faces": _asked(Path, "DIR", "Aligned faces, 30 or more."),
        "page": _asked(Path, "FILE", "The page; without it, what-we-found.md in --out."),
        "limit": Annotated[int | None, typer.Option(min=1, help="Only the first so many faces.")],
        "only": _asked(list[str], "NAME", f"Beside {' and '.join(surveys.ALWAYS)} only this instrument; repeatable."),
        **{name: _typer_option(setting) for name, setting in settings_of(surveys.Settings).items()},
    }
    add(app, "survey", _survey.__doc__, options, surveys.files_of, _survey)
    return app


def add(
    app: typer.Typer, name: str, about: str | None, options: Mapping[str, Any], files: Callable, study: Callable
) -> None:
    """A command with the common options and these, all by keyword; what it finds is told on the terminal and saved.

    options: their annotations by name; files(out, given): all that it may write; study(bench, progress, given) -> what
    it finds, and by which settings.
    """
    own = (Parameter(key, Parameter.KEYWORD_ONLY, default=None, annotation=hint) for key, hint in options.items())

    def run(options: Options, **given: Any) -> None:
        given = {key: value for key, value in given.items() if value not in (None, [], ())}
        if "faces" in given:
            check_outside(options.out, [given["faces"]])
        targets = [(path.name, path) for path in files(options.out, given)]
        check_targets(targets, inputs_of(options.photo, given))
        make_folder(options.out)
        with progress_bar() as progress:
            bench = Bench(options)
            found, settings = study(bench, progress, given)
        kinds = KINDS if options.pdf else KINDS[:-1]
        show(bench, found, found.save(options.out, bench.provenance(name, settings), kinds))

    app.command(name, help=about)(taking(Options, own, run))


def show(bench: Bench, found: Finding | reports.Report | surveys.Survey, paths: Sequence[Path]) -> None:
    """What was found, in lines; `UserError` if pictures were left out."""
    written = f"Written: {listed(list(map(str, paths)), 4)}"
    lines = [bench.summary(), found.meaning, *shown(found.numbers), written]
    print("\n".join(plain(line) for line in lines))
    if bench.left_out:
        raise UserError(f"{len(bench.left_out)} pictures were left out: {' '.join(bench.left_out)}")


def inputs_of(photo: Path | None, given: Mapping[str, Any]) -> list[Path]:
    """The pictures and edits that a command reads."""
    files = [file for file in (photo, given.get("other_face"), given.get("edits")) if file is not None]
    return files + (pictures_in(given["faces"]) if "faces" in given else [])


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on a terminal, nothing in a pipe."""
    with tqdm(disable=None, leave=False, bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}") as bar:

        def progress(done: int, total: int, text: str) -> None:
            bar.total, bar.n = total or None, done
            bar.set_description_str(text)

        yield progress


def shown(numbers: Mapping[str, Any]) -> list[str]:
    """The first numbers in lines of their own, as many as a screen holds."""
    lines = []
    for name, value in numbers.items():
        if isinstance(value, dict) and any(isinstance(part, dict | list) for part in value.values()):
            lines += [f"    {name}:", *(f"        {key}: {_inline(part)}" for key, part in value.items())]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"    {name}:", *(f"        {_inline(row)}" for row in value)]
        else:
            lines.append(f"    {name}: {_inline(value)}")
    return lines if len(lines) <= _TOLD else [*lines[:_TOLD], f"    ... {len(lines) - _TOLD} more"]


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_inline(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_inline, value))
    return f"{value:.4g}" if isinstance(value, float) else shorten(str(value), _LONGEST, placeholder="...")


@dataclass(frozen=True)
class Opening:
    """How the command line opens a Source."""

    options: dict[str, Any]  # their annotations by name
    open: Callable[..., Any]  # (bench, subject or subjects, progress, the options that were given)


def _other(bench: Bench, subject: Subject | FolderOfFaces, _, other_model: str = "", other_face: Path | None = None):
    """The same face, or faces, in front of another model, or another face in front of the same model."""
    if other_model and other_face:
        raise UserError("Two networks on two faces cannot be compared: give --other-model or --other-face.")
    if isinstance(subject, FolderOfFaces):
        if other_face:
            raise UserError("A folder of faces is compared in front of two networks: give --other-model.")
        return subject.by(other_model)
    if other_face:
        return bench.look(other_face, whole=bench.options.whole)
    return bench.subject(bench.load(other_model))


def _patch(bench: Bench, subject: Subject, _, patch: str) -> tuple[int, int, int, int]:
    try:
        left, top, right, bottom = map(int, patch.split(","))
    except ValueError as error:
        raise UserError(f"--patch is {patch!r}; give left,top,right,bottom in pixels, as in 40,44,60,58.") from error
    return left, top, right, bottom


def _training(bench: Bench, _, progress: Progress, run: Path | None = None, checkpoint: Sequence[str] = ()):
    if run and checkpoint:
        raise UserError("Give --run, the folder of a training run, or --checkpoint, models of one, not both.")
    if run:
        return training.of_run(run, progress)
    return training.of_checkpoints((bench.subject(bench.load(source)) for source in checkpoint), progress)


def _asked(kind: type, metavar: str, about: str) -> Any:
    return Annotated[kind | None, typer.Option(metavar=metavar, help=about)]


Faces = _asked(Path, "DIR", "Aligned faces: to study instead of FACE, or to compare it with where it can be.")
SOURCES: dict[Source, Opening] = {
    OTHER: Opening(
        {
            "other_model": _asked(str, "MODEL", "A second network, on the same face."),
            "other_face": _asked(Path, "PHOTO", "A second face, its photo's largest."),
        },
        _other,
    ),
    EDITS: Opening(
        {"edits": _asked(Path, "FILE", "Edits as the app saves them, JSON.")},
        lambda bench, subject, _, edits: edit.load(edits, subject),
    ),
    PATCH: Opening(
        {"patch": _asked(str, "X1,Y1,X2,Y2", "In pixels of the restored face; without it, its middle.")}, _patch
    ),
    OTHER_FACES: Opening({"faces": Faces}, lambda bench, subject, _, faces: list(bench.faces_in(faces))),
    POPULATION: Opening(
        {"faces": Faces},
        lambda bench, subject, progress, faces: population.gather(bench.faces_in(faces), progress),
    ),
    TRAINING: Opening(
        {
            "run": _asked(Path, "DIR", "Folder of a training run: maps over the training."),
            "checkpoint": _asked(list[str], "MODEL", "One more state of a training run, in order; repeatable."),
        },
        _training,
    ),
    KEEP: Opening(
        {"keep": _asked(str, "WORDS", "Keep it beside the weights for the app; which faces they are. With --faces.")},
        lambda bench, subject, _, keep: partial(
            population.keep, weights=weights_file(bench.options.model, bench.options.revision), data=keep
        ),
    ),
}


def openers(bench: Bench, subject: Subject | FolderOfFaces | None, given: Mapping[str, Any]) -> dict[Source, Callable]:
    """How to open each Source of which an option was given, called with a Progress."""
    options = {
        source: {name: given[name] for name in opening.options if name in given} for source, opening in SOURCES.items()
    }
    return {source: partial(SOURCES[source].open, bench, subject, **own) for source, own in options.items() if own}


def add_instrument(app: typer.Typer, instrument: Instrument) -> None:
    studies = [study for study in (instrument.study, instrument.over_faces) if study is not None]
    sources = dict.fromkeys(source for study in studies for source in sources_of(study).values())
    options = {name: hint for source in sources for name, hint in SOURCES[source].options.items()}
    if instrument.over_faces is not None:
        options["faces"] = Faces
    settings = {name: setting for study in reversed(studies) for name, setting in settings_of(study).items()}
    options |= {name: _typer_option(setting) for name, setting in settings.items()}
    about = f"{instrument.title} {instrument.about}"
    files = partial(_files_of, (instrument.name, *instrument.more_files))
    add(app, instrument.name, about, options, files, partial(_study, instrument))


def _files_of(names: Sequence[str], out: Path, given: Mapping) -> list[Path]:
    return [out / f"{name}.{kind}" for name in names for kind in KINDS]


def _study(instrument: Instrument, bench: Bench, progress: Progress, given: dict) -> tuple[Finding, dict]:
    """The finding about FACE, or about a folder of faces instead, and all settings."""
    study, subject = instrument.study, None
    if "faces" in given and bench.options.photo is None and instrument.over_faces is not None:
        study, subject = instrument.over_faces, bench.faces_in(given["faces"])
    elif instrument.needs_face:
        subject = bench.subject()
    settings, sources, over_faces = settings_of(study), sources_of(study), isinstance(subject, FolderOfFaces)
    used = {"faces"} if over_faces else set()
    used = used.union(settings, *(SOURCES[source].options for source in sources.values()))
    if unused := [name for name in given if name not in used]:
        raise UserError(_unused(unused, over_faces))
    ways, opened = openers(bench, subject, given), {}
    for name, source in sources.items():
        if source in ways:
            opened[name] = ways[source](progress)
        elif signature(study).parameters[name].default is Parameter.empty:
            raise UserError(source.missing)
    values = {name: given.get(name, setting.default) for name, setting in settings.items()}
    arguments = opened | values | {"progress": progress}
    return study(**arguments) if subject is None else study(subject, **arguments), given | values


def _unused(names: Sequence[str], over_faces: bool) -> str:
    if names == ["faces"]:
        return EXCLUDE
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in names)
    if over_faces:
        return f"{flags}: only for one face. Give FACE and no --faces."
    return f"{flags}: only for a folder of faces. Give --faces and no FACE."


def _typer_option(setting: Setting) -> Any:
    """The annotation by which Typer makes an option; a list is repeated by its singular: units by --unit."""
    option = setting.option
    flag = setting.name.removesuffix("s") if setting.many else setting.name
    about = f"{option.about} Repeatable." if setting.many else option.about
    default = False if setting.default is None or setting.default is False else str(setting.default)
    choices = "|".join(setting.choices) or None
    least, most = (option.least, option.most) if setting.kind in (int, float) else (None, None)

    def checked(value: Any) -> Any:
        try:
            setting.checked(value)
        except UserError as error:
            raise typer.BadParameter(str(error)) from error
        return value

    kind = list[setting.kind] if setting.many else setting.kind
    return Annotated[
        kind | None,
        typer.Option(
            f"--{flag}", help=about, show_default=default, callback=checked, metavar=choices, min=least, max=most
        ),
    ]


def _files_of_report(out: Path, given: Mapping) -> list[Path]:
    names = [name for instrument in INSTRUMENTS.values() for name in (instrument.name, *instrument.more_files)]
    return [out / reports.PAGE, out / reports.FILM, *_files_of(names, out, given)]


def _report(bench: Bench, progress: Progress, given: dict) -> tuple[reports.Report, dict]:
    """Every instrument on one face, as one HTML file that needs no network, with all their files."""
    subject, opened = bench.subject(), {}
    for source, way in openers(bench, subject, {name: given[name] for name in given if name != "faces"}).items():
        value = way(progress)
        opened[source] = lambda _, value=value: value
    if "faces" in given:
        faces = bench.faces_in(given["faces"])
        opened[OTHER_FACES] = lambda _: list(islice(faces, reports.OTHERS))
        opened[POPULATION] = lambda progress: population.gather(faces, progress)
    return reports.study(subject, opened, given.get("only", ()), given.get("skip", ()), progress), given


def _survey(bench: Bench, progress: Progress, given: dict) -> tuple[surveys.Survey, dict]:
    """All instruments over a folder of faces, as one short Markdown page that shows none of them.

    Findings are kept in --out: run again after an interruption, or for another page, only what is missing is done.
    After a change of the instruments' code take a new folder.
    """
    if "faces" not in given:
        raise UserError("There are no faces to look at: give a folder of aligned ones with --faces.")
    names = signature(surveys.Settings).parameters
    settings = surveys.Settings(**{name: given[name] for name in names if name in given})
    folder = bench.options.out
    if bench.options.photo is not None:
        raise UserError(EXCLUDE)
    faces = bench.faces_in(given["faces"])
    progress(0, 1, "Reading the faces")
    subjects = list(replace(faces, paths=faces.paths[: given.get("limit")]))
    made = bench.provenance("survey", asdict(settings))
    portrait = folder / surveys.ASTRONAUT / f"{surveys.ASTRONAUT}.png"  # NASA's of Eileen Collins, in the public domain
    make_folder(portrait.parent)
    save_png(skimage.data.astronaut(), portrait)
    astronaut = bench.look(portrait)
    alone = made | {"faces": bench.provenance("survey", {})["faces"][-1:]}  # who is no part of the population
    page = given.get("page", folder / surveys.PAGE)
    data = given["faces"].resolve().name
    only = given.get("only", ())
    return surveys.study(subjects, astronaut, folder, (made, alone), settings, data, page, only, progress), given
