"""Everything that the instruments say about one face, in one HTML file that needs no server and no network.

Subject -> every instrument -> Finding -> NAME.json, NAME.npz, NAME.png
           one that does not apply -> its reason, on the page
Finding -> its view: maps that show their values, charts (Plotly) -> report.html (Jinja) -> page
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from sparnet.attention import figure_png
from sparnet.errors import UserError
from sparnet.files import save_bytes
from sparnet.images import data_url
from sparnet.restorer import Progress
from sparnet.text import html_templates
from viz.film import coarse_to_fine, gif
from viz.finding import KINDS, Finding, silent, within
from viz.instrument import Instrument, Source
from viz.instruments import INSTRUMENTS
from viz.subject import Subject
from viz.views import all_tables

STATIC = Path(__file__).parent / "static"
PAGE, FILM = "report.html", "coarse-to-fine.gif"
MEANING = (
    "One face by every instrument: each says in its first sentence what it shows and what it does not; where several "
    "agree a finding is worth more, and one face is one face."
)
OTHERS = 8  # faces at most that the sanity check compares with
_DPI = 110  # of the figures in the page; the PNG beside it is finer


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

    def save(self, folder: Path, provenance: dict, kinds: Sequence[str] = KINDS[:-1]) -> list[Path]:
        """Write report.html and each instrument's files into the folder; -> the page's path before theirs."""
        files = {name: finding.save(folder, provenance, kinds) for name, finding in self.findings.items()}
        pages = [folder / PAGE]
        save_bytes(self.page(provenance, files).encode(), pages[0])
        if self.film is not None:
            pages.append(folder / FILM)
            save_bytes(self.film, pages[1])
        return pages + [path for paths in files.values() for path in paths]

    def page(self, provenance: dict, files: dict[str, list[Path]]) -> str:
        """The HTML file; `files` of each instrument are linked by their names."""
        sections, views = [], {}
        for name, finding in self.findings.items():
            charts = finding.view.charts
            section = {
                "name": name,
                "title": INSTRUMENTS[name].title,
                "meaning": finding.meaning,
                "groups": list(finding.view.groups),
                "charts": list(charts),
                "figure": data_url(figure_png(finding.figure, _DPI)),
                "files": [path.name for path in files.get(name, [])],
            }
            sections.append(section)
            views[name] = finding.view.payload() | {"charts": [chart.to_plotly_json() for chart in charts.values()]}
        template = html_templates(Path(__file__).parent).get_template(PAGE)
        return template.render(
            meaning=self.meaning,
            models=provenance["models"],
            face=provenance["faces"][0],
            versions=provenance["versions"],
            film=None if self.film is None else data_url(self.film, "gif"),
            sections=sections,
            left_out={INSTRUMENTS[name].title: why for name, why in self.left_out.items()},
            views=views,
            tables=all_tables(),
            maps_js=(STATIC / "maps.js").read_text(encoding="utf-8"),
            maps_css=(STATIC / "maps.css").read_text(encoding="utf-8"),
            plotly=get_plotlyjs(),
        )


def study(
    subject: Subject,
    given: Mapping[Source, Callable[[Progress], Any]],
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    progress: Progress = silent,
) -> Report:
    """Every instrument on the face, or `only` some, without those to `skip`; `UserError` if none has an answer.

    given: how to open what is more than the face; an instrument that needs what is not given is left out.
    """
    if unknown := [name for name in (*only, *skip) if name not in INSTRUMENTS]:
        raise UserError(f"There is no instrument {', '.join(unknown)}. Choose from {', '.join(INSTRUMENTS)}.")
    chosen = [name for name in INSTRUMENTS if name in (only or INSTRUMENTS) and name not in skip]
    findings, left_out = {}, {}
    for i, name in enumerate(chosen):
        try:
            findings[name] = _study(INSTRUMENTS[name], subject, given, within(progress, i, len(chosen), name))
        except UserError as error:
            left_out[name] = str(error)
    if not findings:
        raise UserError(" ".join(left_out.values()) or "No instrument is left: skip fewer of them.")
    has_places = "atlas" in findings and any(unit["side"] > 1 for unit in findings["atlas"].numbers["units"].values())
    film = gif(coarse_to_fine(subject)) if has_places else None
    return Report(subject, findings, left_out, film)


def _study(instrument: Instrument, subject: Subject, given: Mapping, progress: Progress) -> Finding:
    if missing := [source for source in instrument.required if source not in given]:
        raise UserError(missing[0].missing)
    opened = {name: given[source](progress) for name, source in instrument.sources.items() if source in given}
    return instrument.study(**({"subject": subject} if instrument.needs_face else {}), **opened, progress=progress)
