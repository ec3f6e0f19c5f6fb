"""The second tab: the face that is looked at under every instrument.

Opened (bench.py) -> a strip with the face, the unit and the scale -> a rail of instruments under four questions
  -> the panel of the one that is open (controls.py, panel.py; painting.py): measured at once, or when asked
  -> all of them as one HTML file; the maps as a film
"""

from collections.abc import Sequence
from html import escape
from secrets import token_hex

import gradio as gr

from sparnet.errors import UserError
from sparnet.images import data_url, encode_png
from viz.film import coarse_to_fine, gif
from viz.instrument import POPULATION, QUESTIONS, Instrument
from viz.instruments import INSTRUMENTS
from viz.tabs import restore
from viz.tabs.bench import NO_FACE, Opened, current, first
from viz.tabs.controls import on_page, reported, written_report
from viz.tabs.painting import Painting
from viz.tabs.panel import Panel, chosen_unit
from viz.tabs.pieces import NOT_YET, Widget, drawn, notice
from viz.tabs.serving import HIDDEN, PRIVATE, QUICK, SLOW, explained

REPORT = "report"  # beside the instruments
SCALES = ("most", "one", "own")  # of colours, as look.js has them


class Tab:
    """The tab's widgets and what fills them; `change` and `open_at` are for whoever assembles the page."""

    def __init__(self, bench: restore.Tab, tab: gr.Tab):
        self.bench, now = bench, first()
        seen = bool(now.faces)
        face, look, rail = (
            (_face(now), _look(now, None), _rail(now, "atlas")) if seen else (notice(NO_FACE), None, None)
        )
        with gr.Row(elem_classes="strip"):
            self.face = gr.HTML(face, elem_id="inside-face")
            self.change = gr.Button("Change", size="sm", scale=0, min_width=90, elem_id="inside-change")
            self.look = drawn(look, "kept.js", "look.js", elem_id="look")
            self.to_report = gr.Button("Report", size="sm", scale=0, min_width=90, elem_id="to-report")
        with gr.Row(visible=seen, elem_classes="inside") as self.body:
            self.rail = drawn(rail, "rail.js", elem_id="rail")
            with gr.Column(elem_id="answer"):
                self.panels: dict[str, Panel] = {
                    name: (Painting if name == "edit" else Panel)(instrument, now if seen else None, name == "atlas")
                    for name, instrument in on_page().items()
                }
                with self.panels["atlas"].column:
                    self.film = self._film()
                with gr.Column(visible=False, elem_id=f"panel-{REPORT}", elem_classes="instrument") as self.report:
                    self.file = self._report()
        self.columns = {name: panel.column for name, panel in self.panels.items()} | {REPORT: self.report}
        self.opening: list[Widget] = [self.rail, self.look, *self.columns.values()]  # what `open_at` changes
        self._wire(tab)

    def _wire(self, tab: gr.Tab) -> None:
        opened = [*self.bench.state, self.rail]
        asked, done = ([getattr(panel, state) for panel in self.panels.values()] for state in ("asked", "done"))
        renewable = [widget for panel in self.panels.values() for widget in panel.renewable]
        # all are queued, or Gradio tells no State.change
        self.bench.token.change(
            explained(self.renew, self.failed), [*opened, self.look],
            [self.rail, self.look, *renewable, self.face, self.body, self.film, self.file],
            trigger_mode="always_last", **HIDDEN,
        )  # fmt: skip
        self.rail.submit(self.measure_seen, [*opened, *done], asked, trigger_mode="always_last", **HIDDEN)
        for event in (tab.select, self.rail.select):
            event(explained(self.open), [*opened, *done], [*self.columns.values(), *asked],
                  trigger_mode="always_last", **HIDDEN)  # fmt: skip
        self.to_report.click(explained(self.open_report), opened, self.opening, **HIDDEN)
        for panel in self.panels.values():
            panel.wire(self.bench.state, self.look)

    def renew(self, now, token, rail, look) -> dict:
        """Another face: nothing of the last one stays."""
        now = current(now, token)
        made = {self.face: _face(now), self.body: gr.update(visible=True), self.film: "", self.file: NOT_YET}
        made |= {self.look: _look(now, look), self.rail: _rail(now, _of(rail, "open"))}
        for panel in self.panels.values():
            made |= panel.renewed(now)
        return made

    def failed(self, message: str) -> dict:
        """There is no face to look at."""
        return {self.face: notice(message), self.body: gr.update(visible=False)}

    def measure_seen(self, now, token, rail, *done) -> dict:
        """What is open and quick is measured of the face that the browser has just put in the strip."""
        if now is None or now.token != token:  # which `renew` has told
            return gr.skip()
        return self._asked(rail, now, done) or gr.skip()

    def open(self, now, token, rail, *done) -> dict:
        """The instrument that was chosen, measured if it is quick; done: the token of each panel's face."""
        now, name = current(now, token), _of(rail, "open")
        if name not in self.columns:
            raise UserError("There is no such instrument. Choose one of the list.")
        return self._shown(name) | self._asked(rail, now, done)

    def _asked(self, rail: object, now: Opened, done: Sequence) -> dict:
        """What is open, quick and not done is to be measured of this face, once the browser has emptied the panels.

        Asked for sooner, the answer could come before `renew`, which would empty it. The rail then asks again.
        """
        name = _of(rail, "open")
        panel = self.panels.get(name)
        if panel is None or panel.instrument.slow or _of(rail, "token") != now.token:
            return {}
        if done[list(self.panels).index(name)] == now.token:
            return {}
        return {panel.asked: (now.token, token_hex(4))}

    def open_report(self, now, token, rail) -> dict:
        return self._shown(REPORT) | {self.rail: _rail(current(now, token), REPORT) | {"token": _of(rail, "token")}}

    def open_at(self, instrument: object, unit: object) -> dict:
        """As a link asks, of the face that the page opens with; what is not here is let be."""
        now, made = first(), {}
        if isinstance(instrument, str) and instrument in self.columns:
            made = self._shown(instrument) | {self.rail: _rail(now, instrument)}
        return made | {self.look: _look(now, {"unit": unit})} if now.faces else {}

    def _shown(self, name: str) -> dict:
        return {column: gr.update(visible=other == name) for other, column in self.columns.items()}

    def _film(self) -> gr.HTML:
        with gr.Row(elem_classes="files"):
            run = gr.Button("Make a film of these maps, coarse to fine", size="sm", scale=0, elem_id="run-film")
        film = gr.HTML(elem_id="film")

        def make(now, token) -> str:
            source = data_url(gif(coarse_to_fine(current(now, token).subject)), "gif")
            return (
                f"<figure class='film'><img src='{source}' alt='The attention maps in forward order, over the face and "
                "alone'><figcaption>Every unit's map in forward order, over the restored face and alone.</figcaption>"
                "</figure>"
            )

        run.click(explained(make), self.bench.state, film, show_progress_on=film, **PRIVATE, **QUICK)
        return film

    def _report(self) -> gr.DownloadButton:
        gr.HTML(
            "<h2>Everything about this face</h2><p>The instruments that need nothing but the face, as one HTML file "
            "that works without a network. It shows the face: mind whose it is before you pass it on.</p>",
            elem_classes="about",
        )
        chosen = gr.CheckboxGroup(
            [(INSTRUMENTS[name].title, name) for name in reported()],
            value=reported(),
            label="In the report",
            elem_id="report-instruments",
        )
        with gr.Row():
            run = gr.Button("Write the report", variant="primary", elem_id="run-report", scale=0)
            file = gr.DownloadButton("Report (HTML)", interactive=False, elem_id="report-file", scale=0)

        def write(now, token, names: list[str], progress=gr.Progress()):  # noqa: B008  Gradio looks for this default
            now = current(now, token)
            if not names:
                raise UserError("Choose one instrument at least.")
            return gr.update(value=written_report(now, names, progress), interactive=True)

        run.click(explained(write), [*self.bench.state, chosen], file, show_progress_on=chosen, **PRIVATE, **SLOW)
        return file


def _face(now: Opened) -> str:
    """The strip's picture of the face, which it is, and by what it was restored."""
    small = now.subject.model.config.degraded_size
    how = f"rebuilt from {small}x{small}" if now.mode == "simulate" else "restored as it is"
    which = f"Face {now.index + 1} of {len(now.faces)}, {how}" + ", left out of the photo" * (now.index in now.left_out)
    pictures = [("what the network was given", now.face.degraded), ("restored", now.face.restored)]
    shown = "".join(f"<img src='{data_url(encode_png(face))}' alt='The face, {what}'>" for what, face in pictures)
    return f"<div class='who'>{shown}<p><b>{which}</b>{escape(now.model)}</p></div>"


def _look(now: Opened, look: object) -> dict:
    """Unit and scale for look.js, as they were chosen where this network has the unit."""
    scale = look.get("scale") if isinstance(look, dict) else None
    return {
        "units": list(now.face.alphas),
        "unit": chosen_unit(look, now),
        "scale": scale if scale in SCALES else SCALES[0],
    }


def _of(rail: object, name: str) -> str:
    """What the browser says is "open", or the "token" of the face whose panels it has; "" if it says none."""
    value = rail.get(name) if isinstance(rail, dict) else None
    return value if isinstance(value, str) else ""


def _rail(now: Opened, opened: str) -> dict:
    """The instruments under their questions for rail.js, with the reason why one has nothing to say of this face."""
    groups = {question: [] for question in QUESTIONS}
    for name, instrument in on_page().items():
        groups[instrument.question].append(
            {"name": name, "label": instrument.tab, "title": instrument.title, "why": _why_not(instrument, now)}
        )
    listed = [{"question": question, "instruments": instruments} for question, instruments in groups.items()]
    return {"groups": listed, "open": opened, "token": now.token}


def _why_not(instrument: Instrument, now: Opened) -> str | None:
    """Why the instrument has nothing to say of this network, in a few words."""
    kind = now.subject.model.config.attention
    if kind == "none":
        return "no attention here"
    if kind not in instrument.attention:
        return "no maps of places here" if kind == "channel" else "no maps of channels here"
    if instrument.needs_sharp and now.subject.sharp is None:
        return "for faces rebuilt from 16x16"
    if POPULATION in instrument.required:
        try:
            now.population()
        except UserError:
            return "no other faces gathered"
    return None
