"""Everything that the instruments say about one face, in one HTML file that needs no server and no network.

Subject -> every instrument -> Finding -> NAME.json, NAME.npz, NAME.png
           one that does not apply -> its reason, on the page
Finding -> viz.views: maps that show their values, charts (Plotly) -> report.html (Jinja) -> page
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from plotly.offline import get_plotlyjs

from sparnet.errors import UserError
from sparnet.files import save_bytes
from sparnet.restorer import Progress
from sparnet.text import html_templates
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
from viz.edit import Edit
from viz.explorer import data_url
from viz.finding import Finding, Subject, figure_png, within
from viz.population import Population, coarse_to_fine, gif
from viz.query import Patch
from viz.views import all_tables, view_of

STATIC = Path(__file__).parent / "static"
PAGE, FILM = "report.html", "coarse-to-fine.gif"
MEANING = (
    "One face by every instrument: each says in its first sentence what it shows and what it does not; where several "
    "agree a finding is worth more, and one face is one face."
)
_OTHERS = 8  # faces at most that the sanity check compares with
_DPI = 110  # of the figures in the page; the PNG beside it is finer


@dataclass(frozen=True, eq=False)
class Given:
    """What a report is made from; an instrument that needs more than a face is left out where it is not given."""

    subject: Subject
    other: Subject | None = None  # another face, or the same one in front of another network
    edits: Sequence[Edit] | None = None
    faces: Iterable[Subject] | None = None  # others, aligned, in front of the same network; gone through twice
    patch: Patch | None = None  # of the pixel query; None: the middle of the face
    run: Path | None = None  # folder of a training run
    population: Population | None = None  # where `faces` are not given


@dataclass(frozen=True)
class Instrument:
    """One section of the page."""

    title: str
    study: Callable[[Given, Progress | None], Finding]  # `UserError` says why it does not apply


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
        views = {name: view_of(finding) for name, finding in self.findings.items()}
        sections = [
            {
                "name": name,
                "title": INSTRUMENTS[name].title,
                "meaning": finding.meaning,
                "groups": list(views[name].groups),
                "charts": list(views[name].charts),
                "figure": data_url(figure_png(finding.figure, _DPI)),
                "files": [path.name for path in files.get(name, [])],
            }
            for name, finding in self.findings.items()
        ]
        return (
            html_templates(Path(__file__).parent)
            .get_template(PAGE)
            .render(
                meaning=self.meaning,
                models=provenance["models"],
                face=provenance["faces"][0],
                versions=provenance["versions"],
                film=None if self.film is None else data_url(self.film, "gif"),
                sections=sections,
                left_out={INSTRUMENTS[name].title: why for name, why in self.left_out.items()},
                views={
                    name: view.payload() | {"charts": [chart.to_plotly_json() for chart in view.charts.values()]}
                    for name, view in views.items()
                },
                tables=all_tables(),
                maps_js=(STATIC / "maps.js").read_text(encoding="utf-8"),
                maps_css=(STATIC / "maps.css").read_text(encoding="utf-8"),
                plotly=get_plotlyjs(),
            )
        )


def study(given: Given, only: Sequence[str] = (), skip: Sequence[str] = (), progress: Progress | None = None) -> Report:
    """Every instrument on the face, or `only` some, without those to `skip`; `UserError` if none has an answer."""
    if unknown := [name for name in (*only, *skip) if name not in INSTRUMENTS]:
        raise UserError(f"There is no instrument {', '.join(unknown)}. Choose from {', '.join(INSTRUMENTS)}.")
    chosen = [name for name in INSTRUMENTS if name in (only or INSTRUMENTS) and name not in skip]
    findings, left_out = {}, {}
    for i, name in enumerate(chosen):
        try:
            findings[name] = INSTRUMENTS[name].study(given, within(progress, i, len(chosen), name))
        except UserError as error:
            left_out[name] = str(error)
    if not findings:
        raise UserError(" ".join(left_out.values()) or "No instrument is left: skip fewer of them.")
    has_places = "atlas" in findings and any(of["side"] > 1 for of in findings["atlas"].numbers["units"].values())
    film = gif(coarse_to_fine(given.subject)) if has_places else None
    return Report(given.subject, findings, left_out, film)


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
    if given.faces is None and given.population is not None:
        return population.study(given.subject, given.population, progress)
    if given.faces is None:
        raise UserError(
            "There are no other faces to compare this one with: give a folder of aligned ones with --faces."
        )
    return population.study(given.subject, population.gather(given.faces, progress))


def _training_study(given: Given, progress: Progress | None) -> Finding:
    if given.run is None:
        raise UserError("There is no training to look at: give the folder of a run with --run.")
    return population.study_run(given.run, progress)


def _sanity_study(given: Given, progress: Progress | None) -> Finding:
    others = None if given.faces is None else list(islice(given.faces, _OTHERS))
    return sanity.study(given.subject, others, progress=progress)


INSTRUMENTS = {
    "atlas": Instrument("Every attention map", _alone(atlas.study)),
    "gate": Instrument("What the gates let through", _alone(gate.study)),
    "ablate": Instrument("Does a unit matter?", _alone(ablation.study)),
    "edit": Instrument("What if it looked elsewhere?", _edit_study),
    "regions": Instrument("Which parts of the face", _alone(regions.study)),
    "faithfulness": Instrument("Does the rest of the face follow?", _alone(faithfulness.study)),
    "sanity": Instrument("Is it learned, and of this face?", _sanity_study),
    "query": Instrument("Where a patch came from", _query_study),
    "compare": Instrument("Beside another", _compare_study),
    "channels": Instrument("Channels", _alone(channels.study)),
    "stability": Instrument("Does it hold still?", _alone(stability.study)),
    "population": Instrument("Against other faces", _population_study),
    "training": Instrument("How the maps came about", _training_study),
}
