"""What all instruments find over a folder of faces, on one short page that shows nobody but an astronaut.

folder -> Subjects -> regions, faithfulness ... population -> Finding -> OUT/NAME.json, .npz, .png; kept, not done again
astronaut (skimage, public domain) -> atlas, query -> Finding --------> OUT/astronaut/
OUT -> Found -> viz.claims -> survey.md (Jinja) -> what-we-found.md, its figures in what-we-found/
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy import ndarray
from PIL import Image

from sparnet.errors import UserError
from sparnet.files import make_folder, save_bytes
from sparnet.regions import OUTLINES
from sparnet.restorer import Progress
from sparnet.text import for_markdown, for_markdown_code, plain
from viz import claims
from viz.finding import Finding, silent, within
from viz.instrument import OTHER, Seed, settings_of, sources_of
from viz.instruments import INSTRUMENTS, atlas, faithfulness, query, regions, stability
from viz.instruments.query import patch_around
from viz.subject import Subject, attending

PAGE, TEMPLATE = "what-we-found.md", "survey.md"
MEANING = (
    "The instruments over many faces, each claim chosen by its 95 % interval: it holds for these weights and faces "
    "like these, and about attention it tells where gates are open and what changes if they are not, no more."
)
FEWEST = 30  # faces: the mean map of a few may still show whose they were
WIDTH = 1300  # px, of a figure on the page
ALWAYS = ("regions", "population")  # which cost little, and which the others are read beside
ASTRONAUT, OF_ASTRONAUT = "astronaut", ("atlas", "query")


@dataclass(frozen=True)
class Settings:
    """What every instrument of the survey that has such an option is told."""

    levels: faithfulness.Levels = 2  # of damage
    noises: stability.Noises = 2
    seed: Seed = 0


def studies(only: Sequence[str] = ()) -> dict[str, Callable[..., Finding]]:
    """What is done over the faces: every instrument that needs no more than them, or `only` these and `ALWAYS`."""
    found = {
        name: instrument.over_faces
        for name, instrument in INSTRUMENTS.items()
        if instrument.over_faces is not None and OTHER not in sources_of(instrument.over_faces).values()
    }
    if unknown := [name for name in only if name not in found]:
        raise UserError(f"There is no survey by {', '.join(unknown)}. Choose from {', '.join(found)}.")
    return {name: study for name, study in found.items() if not only or name in (*ALWAYS, *only)}


@dataclass(frozen=True, eq=False)
class Found:
    """A finding as its files have it, so that the page is the same whether it was made now or before."""

    numbers: dict
    arrays: dict[str, ndarray]
    figure: Path

    @classmethod
    def read(cls, folder: Path, name: str) -> "Found":
        with np.load(folder / f"{name}.npz") as arrays:
            return cls(json.loads((folder / f"{name}.json").read_text()), dict(arrays), folder / f"{name}.png")


@dataclass(frozen=True, eq=False)
class Survey:
    found: dict[str, Found]  # by the names of `studies`
    astronaut: dict[str, Found]
    settings: Settings
    data: str  # the folder's name
    page: Path
    kept: Sequence[str]  # what had been found before
    meaning: str = MEANING

    @property
    def numbers(self) -> dict:
        return {"kept": list(self.kept) or "nothing", "figures": str(len(self.found) + len(self.astronaut))}

    def save(self, folder: Path, provenance: dict, kinds: Sequence[str] = ()) -> list[Path]:
        """Write the page and the figures beside it; -> its path before theirs. The findings lie in `folder` already."""
        files = figures_of(self.page, list(self.found))
        beside = self.page.with_suffix("")
        make_folder(beside)
        figures = [finding.figure for finding in (*self.found.values(), *self.astronaut.values())]
        for path, figure in zip(files.values(), figures, strict=True):
            save_bytes(for_the_page(figure), path)
        links = {name: quote(f"{beside.name}/{path.name}") for name, path in files.items()}
        save_bytes(self.text(links).encode(), self.page)
        return [self.page, *files.values()]

    def text(self, figures: Mapping[str, str]) -> str:
        """The page in Markdown; `figures`: where each is, seen from the page."""
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            undefined=StrictUndefined,
        )
        environment.filters |= {
            "text": for_markdown,
            "code": for_markdown_code,
            "word": lambda text: shlex.quote(plain(text)),
        }
        numbers = {name: finding.numbers for name, finding in self.found.items()}
        made = numbers["population"]["provenance"]
        attention = claims.attention_at(
            self.found["regions"].arrays,
            self.found["population"].arrays["levels"],
            list(numbers["population"]["units"]),
            self.settings.seed,
        )
        chosen = [claims.parts(numbers["regions"], attention)]
        chosen += [claim(numbers[name]) for name, those in claims.OF.items() if name in numbers for claim in those]
        return environment.get_template(TEMPLATE).render(
            found=chosen,
            attention=attention,
            figures=figures,
            numbers=numbers,
            astronaut={name: finding.numbers for name, finding in self.astronaut.items()},
            parts=OUTLINES,
            only=[name for name in self.found if name not in ALWAYS] if len(self.found) < len(studies()) else [],
            claims=claims,
            kinds=stability.KINDS,
            model=made["models"][0],
            versions=made["versions"],
            faces=len(made["faces"]),
            digest=digest(made["faces"]),
            data=self.data,
            settings=self.settings,
            page=self.page.name,
        )


def study(
    faces: Sequence[Subject],
    astronaut: Subject,
    folder: Path,
    made: tuple[dict, dict],
    settings: Settings,
    data: str,
    page: Path,
    only: Sequence[str] = (),
    progress: Progress = silent,
) -> Survey:
    """The `studies` over the faces, and two on the astronaut; what `folder` has of the same provenance is kept.

    made: the provenance of the faces' findings and of hers; pictures and weights are part of it, the program's own code
    is not. `UserError` for fewer than `FEWEST` faces.
    """
    if len(faces) < FEWEST:
        raise UserError(
            f"Mean maps of {len(faces)} faces may still show whose they are; a page that others will see needs at "
            f"least {FEWEST}. Give a folder with more of them, or look at these by the instruments themselves."
        )
    kept, chosen = [], studies(only)
    for i, (name, study_faces) in enumerate(chosen.items()):
        provenance = json.loads(json.dumps(made[0] | {"command": f"survey: {name}"}))  # as it will be read back
        if is_kept(folder, name, provenance):
            kept.append(name)
            continue
        for path in finding_files(folder, name):  # a finding is never half of this and half of another run
            path.unlink(missing_ok=True)
        options = {key: value for key, value in asdict(settings).items() if key in settings_of(study_faces)}
        if name == "faithfulness":
            options["units"] = attending(faces[0])  # the mean of all maps may hide what each of them does
        study_faces(faces, progress=within(progress, i, len(chosen), name), **options).save(folder, provenance)
    alone = folder / ASTRONAUT
    for name, finding in (("atlas", atlas.study(astronaut)), ("query", query.study(astronaut, eye_of(astronaut)))):
        finding.save(alone, made[1] | {"command": f"survey: {name} of the {ASTRONAUT}"})
    return Survey(
        {name: Found.read(folder, name) for name in chosen},
        {name: Found.read(alone, name) for name in OF_ASTRONAUT},
        settings, data, page, kept,
    )  # fmt: skip


def figures_of(page: Path, found: Sequence[str]) -> dict[str, Path]:
    """The figures of the page, in a folder beside it: of what was found of the faces, then of the astronaut."""
    names = [*found, *(f"{ASTRONAUT}-{name}" for name in OF_ASTRONAUT)]
    return {name: page.with_suffix("") / f"{name}.png" for name in names}


def files_of(folder: Path, given: Mapping) -> list[Path]:
    """All that a survey into the folder may write; `given` may name its "page"."""
    page = given.get("page", folder / PAGE)
    found = [path for name in studies() for path in finding_files(folder, name)]
    alone = [path for name in OF_ASTRONAUT for path in finding_files(folder / ASTRONAUT, name)]
    return [*found, folder / ASTRONAUT / f"{ASTRONAUT}.png", *alone, page, *figures_of(page, list(studies())).values()]


def finding_files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.{kind}" for kind in ("json", "npz", "png")]


def is_kept(folder: Path, name: str, provenance: dict) -> bool:
    """Whether all files of a finding of this provenance are there."""
    paths = finding_files(folder, name)
    return all(path.is_file() for path in paths) and json.loads(paths[0].read_text()).get("provenance") == provenance


def eye_of(subject: Subject) -> tuple[int, int, int, int]:
    """The patch about the eye on the left of the face; about where the template has it if no points are known."""
    masks, _ = regions.face_regions(subject)
    rows, columns = np.nonzero(masks["eyes"])
    left = columns < np.median(columns)
    size = len(masks["eyes"])
    return patch_around(columns[left].mean(), rows[left].mean(), size // 8, size)


def for_the_page(figure: Path) -> bytes:
    """A figure's PNG made small: at most `WIDTH` wide, of 256 colours.

    Those farthest apart, so that a small patch of the legend keeps its own; by frequency it would take a neighbour's.
    """
    picture = Image.open(figure).convert("RGB")
    picture.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def digest(faces: Sequence[Mapping]) -> str:
    """SHA-256 of the pictures' own, in their order: which faces it was, and of nobody a name."""
    return sha256("".join(face["sha256"] for face in faces).encode()).hexdigest()
