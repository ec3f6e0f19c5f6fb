"""The third tab: one face under every instrument.

photo, model, mode -> look (looking.py) -> Looked -> choose -> the same of another face
Looked -> the instrument whose tab is open (controls.py, panel.py) -> maps, charts, files
       -> paint on a map (painting.py)                             -> all of them as one HTML file
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import gradio as gr

from sparnet.errors import UserError
from sparnet.images import data_url
from viz.explorer import photo_payload
from viz.film import coarse_to_fine, gif
from viz.instruments import INSTRUMENTS, query
from viz.tabs.controls import lane, on_page, reported, study
from viz.tabs.looking import Looked, look, telling, written_report
from viz.tabs.models import LOADING, arrival, first_model
from viz.tabs.painting import Painting
from viz.tabs.panel import Panel
from viz.tabs.pieces import EXPIRED, GUESS, facts_line, model_input, notice, photo_inputs, script, status_html
from viz.tabs.restore import Shown
from viz.tabs.serving import (
    QUICK,
    SLOW,
    UNOPENED,
    chosen_index,
    device_name,
    event_value,
    explained,
    read_photo,
    sentence,
)
from viz.views import View, picture

WELCOME = """<div class="welcome"><ol>
<li><b>Give it a face.</b> A photo here, or one that you restore in the first tab: it is taken over.</li>
<li><b>Ask.</b> Where does each unit look, does it matter, is it real, and what if it looked elsewhere?</li>
<li><b>Keep it.</b> Every answer as a figure, its numbers and its arrays, or all of them as one report.</li>
</ol><p>Your photo is read on this server, kept for an hour at most, and never shared or used for training.</p></div>"""
MEASURE = "<p class='hint'>Not measured of this face yet: it takes some seconds.</p>"
MARK = "<p class='hint'>Drag over a part of the restored face, or click on it.</p>"


class Tab:
    """The tab's widgets and what fills them."""

    def __init__(self):
        self.now, self.open = gr.State(None, time_to_live=3600), gr.State(next(iter(on_page())))
        with gr.Row(elem_classes="bench"):
            with gr.Column(scale=4, min_width=320):
                self.model = model_input("inside-model")
                self.photo, self.mode, self.whole = photo_inputs(self.model, "inside-")
                self.ask = gr.Button("Look inside", variant="primary", elem_id="inside")
            with gr.Column(scale=8, min_width=320):
                self.status = gr.HTML(_ready(), elem_id="inside-status", elem_classes="status")
                self.welcome = gr.HTML(WELCOME)
                with gr.Row(visible=False) as self.result:
                    with gr.Column(min_width=300):
                        self.film = gr.HTML(elem_id="film")
                    with gr.Column(min_width=300):
                        self.faces = gr.HTML(
                            None, html_template="", js_on_load=script("photo.js"), elem_id="inside-faces"
                        )
                gr.HTML(f"<p class='guess'>{GUESS}</p>")
        with gr.Column(visible=False, elem_id="instruments") as self.instruments, gr.Tabs(overflow_behavior="wrap"):
            self.panels: dict[str, Panel] = {}
            tabs = {}
            for name, instrument in on_page().items():
                with gr.Tab(instrument.tab, id=name, elem_id=f"tab-{name}") as tabs[name]:
                    if name == "edit":
                        self.painting = Painting(self.now)
                    else:
                        self.panels[name] = Panel(instrument)
            with gr.Tab("Report", id="report", elem_id="tab-report") as tabs["report"]:
                self.file = self._report()
        self._wire(tabs)

    @property
    def outputs(self) -> list:
        """Everything that another face changes."""
        own = [self.photo, self.mode, self.status, self.now, self.welcome, self.result, self.film, self.faces]
        panels = [widget for panel in self.panels.values() for widget in panel.outputs]
        told = [control for panel in self.panels.values() for control in panel.of_units]
        told += [panel.patch for panel in self._marked]
        return [*own, self.instruments, self.file, *panels, *told, *self.painting.outputs]

    @property
    def _marked(self) -> list[Panel]:
        """Those that ask about a part of the face."""
        return [panel for panel in self.panels.values() if panel.instrument.pick]

    @property
    def _quick(self) -> list[Panel]:
        """Those that need no button: measured when they are open."""
        return [panel for panel in self.panels.values() if not panel.instrument.slow]

    def _wire(self, tabs: dict[str, gr.Tab]) -> None:
        private = {"api_visibility": "private", **QUICK}
        inputs = [self.photo, self.model, self.mode, self.whole, self.now]
        shown = {"show_progress_on": self.status, **UNOPENED, **private}
        given = self.photo.change(self.look_if_given, inputs, self.outputs, **shown)
        arrived = self.model.input(arrival, self.model, None, show_progress_on=self.status, **LOADING)
        changes = [
            event(self.look_again, inputs, self.outputs, **shown)
            for event in (arrived.then, self.mode.input, self.whole.input)
        ]
        asked = self.ask.click(self.look, inputs, self.outputs, **shown)
        picked = self.faces.select(
            explained(self.choose), self.now, self.outputs, show_progress_on=self.film, **private
        )
        for event in (given, *changes, asked, picked):
            self.refresh_after(event)
        self.photo.clear(
            lambda: self.view(_ready()), None, self.outputs, show_progress="hidden", api_visibility="private"
        )
        for name, tab in tabs.items():
            opened = tab.select(
                lambda name=name: name, None, self.open, show_progress="hidden", queue=False, api_visibility="private"
            )
            if self.panels.get(name) in self._quick:
                self.refresh_after(opened, self.panels[name])
        for panel in self.panels.values():
            settings = {"show_progress_on": panel.told, "api_visibility": "private", **UNOPENED}
            settings |= lane(panel.instrument)
            inputs = [self.now, *panel.controls.values()]
            panel.run.click(partial(self.measure, panel), inputs, panel.outputs, **settings)
            if panel.patch is not None:
                outputs = [*panel.outputs, panel.patch]
                panel.view.select(self._marking(panel), inputs, outputs, **settings)

    def refresh_after(self, event: gr.events.Dependency, *panels: Panel) -> None:
        """After the event, measure what is quick and open, if its answer is not there; `panels`: if it is of these."""
        quick = panels or self._quick
        controls = {control for panel in self._quick for control in panel.controls.values()}
        event.then(
            self.refresh,
            {self.now, self.open, *(panel.done for panel in self._quick), *controls},
            [widget for panel in quick for widget in panel.outputs],
            show_progress_on=[panel.told for panel in quick],
            api_visibility="private",
            **UNOPENED,
            **QUICK,
        )

    def refresh(self, given: dict):
        """What is quick and open, of the face that has just been chosen, unless it was its last answer."""
        now, panel = given[self.now], self.panels.get(given[self.open])
        if now is None or panel not in self._quick or given[panel.done] == now.token:
            return gr.skip()
        return self.measure(panel, now, *(given[control] for control in panel.controls.values()))

    def look(self, upload, model, mode, whole, now: Looked | None, progress=gr.Progress()):  # noqa: B008
        """A photo, or the one that is looked at, in front of a model."""
        try:
            photo = now.photo if now and not upload else read_photo(upload)
        except Exception as error:  # told on the page; `sentence` logs what is not the visitor's mistake
            return self.view(_ready() + notice(sentence(error))) | {self.photo: None}
        try:
            looked = look(photo, model, mode, whole, progress)
            if now and not upload:
                looked = replace(looked, came_from=now.came_from)
            return self.view(_status(looked), looked) | {self.mode: looked.mode}
        except Exception as error:  # the same
            return self.view(_ready() + notice(sentence(error)))

    def look_if_given(self, upload, *rest, progress=gr.Progress()):  # noqa: B008
        return self.look(upload, *rest, progress) if upload else gr.skip()

    def look_again(self, upload, model, mode, whole, now: Looked | None, progress=gr.Progress()):  # noqa: B008
        return self.look(upload, model, mode, whole, now, progress) if upload or now else gr.skip()

    def choose(self, now: Looked | None, event: gr.EventData):
        if now is None:
            raise UserError(EXPIRED)
        now = now.at(chosen_index(event, len(now.faces)))
        view = self.view(_status(now), now)
        del view[self.faces]  # where the visitor has just chosen
        return view

    def take_from(self, shown: gr.State, chosen: gr.State, opened: Callable, asked: Callable) -> None:
        """The face that is chosen in the first tab is looked into: when `asked`, and when this tab is `opened`.

        Opening it takes nothing away from a visitor who gave it a photo of its own.
        """

        def take(restored: Shown | None, index: int, now: Looked | None, by_hand: bool):
            if restored is None:
                return gr.skip()
            here = restored.token, index
            if now is not None and (now.came_from == here or (now.came_from is None and not by_hand)):
                return gr.skip()
            taken = Looked(
                restored.photo, restored.faces, restored.model, restored.mode, restored.whole, restored.detector,
                restored.notes,
            )  # fmt: skip
            now = replace(taken.at(index), came_from=here)
            settings = {self.photo: None, self.model: now.model, self.mode: now.mode, self.whole: now.whole}
            return self.view(_status(now), now) | settings

        outputs = [*self.outputs, self.model, self.whole]
        for event, by_hand in ((opened, False), (asked, True)):
            taken = event(
                explained(partial(take, by_hand=by_hand)), [shown, chosen, self.now], outputs,
                show_progress_on=self.status, api_visibility="private", **QUICK,
            )  # fmt: skip
            self.refresh_after(taken)

    def view(self, told: str, now: Looked | None = None) -> dict:
        """Every output at once, so that nothing of an earlier face stays beside a later one."""
        there = now is not None and now.one is not None
        made = {
            self.status: told,
            self.now: now if there else None,
            self.welcome: gr.update(visible=not there),
            self.result: gr.update(visible=there),
            self.instruments: gr.update(visible=there),
            self.film: _film(now) if there else "",
            self.faces: photo_payload(now.photo.pixels(), None, [face.box for face in now.faces]) if there else None,
            self.file: gr.update(value=None, interactive=False),
        }
        for panel in self.panels.values():
            made |= panel.empty(MEASURE if panel.instrument.slow else "")
            made |= dict.fromkeys(panel.of_units, gr.update(choices=list(now.one.alphas) if there else [], value=None))
        for panel in self._marked:
            made[panel.patch] = None
            if there:
                faces = View([picture("degraded", now.one.degraded), picture("restored", now.one.restored)])
                made |= panel.empty(MARK, faces)
        return made | self.painting.empty(now if there else None)

    def measure(self, panel: Panel, now: Looked | None, *values) -> dict:
        """What the instrument says of the face by the values of its controls, or why it says nothing."""
        try:
            if now is None:
                raise UserError(EXPIRED)
            given = dict(zip(panel.controls, values, strict=True))
            finding, settings = study(panel.instrument, now, given, telling(gr.Progress()))
            return panel.answer(finding, now.provenance(panel.instrument.name, settings), now.token)
        except Exception as error:  # told on the page; `sentence` logs what is not the visitor's mistake
            return panel.empty(notice(sentence(error)))

    def _marking(self, panel: Panel) -> Callable:
        """The handler of a part that was marked on the face: the same, of that part."""
        place = list(panel.controls).index("patch")

        def mark(now: Looked | None, event: gr.EventData, *values) -> dict:
            shares = event_value(event, "patch")
            patch = None if now is None or not _is_patch(shares) else _pixels(shares, len(now.one.restored))
            return self.measure(panel, now, *values[:place], patch, *values[place + 1 :]) | {panel.patch: patch}

        return mark

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

        def write(now: Looked | None, names: list[str], progress=gr.Progress()):  # noqa: B008
            if now is None:
                raise UserError(EXPIRED)
            if not names:
                raise UserError("Choose one instrument at least.")
            return gr.update(value=written_report(now, names, progress), interactive=True)

        run.click(
            explained(write), [self.now, chosen], file, show_progress_on=chosen, api_visibility="private",
            **SLOW,
        )  # fmt: skip
        return file


def _film(now: Looked) -> str:
    if all(alpha.shape[-2:] == (1, 1) for alpha in now.one.alphas.values()):
        return notice(f"{now.model} has no attention maps of places. Choose another model to look into.")
    source = data_url(gif(coarse_to_fine(now.subject)), "gif")
    return (
        f"<figure class='film'><img src='{source}' alt='The attention maps in forward order, over the face and alone'>"
        "<figcaption>Every unit's map in forward order, over the restored face and alone.</figcaption></figure>"
    )


def _is_patch(shares: object) -> bool:
    """Whether the browser's mark is four numbers of 0 to 1."""
    return (
        isinstance(shares, list)
        and len(shares) == 4
        and all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares)
    )


def _pixels(shares: list[float], size: int) -> list[int]:
    """left, top, right, bottom in shares of the face -> in pixels; a point becomes an eighth of the face about it."""
    left, top, right, bottom = (round(share * size) for share in shares)
    if right - left < 2 or bottom - top < 2:
        return list(query.patch_around((left + right) / 2, (top + bottom) / 2, size // 8, size))
    return [left, top, right, bottom]


def _ready() -> str:
    return facts_line({"status": "ready", "model": first_model(), "device": device_name()})


def _status(now: Looked) -> str:
    return status_html(
        {
            "face": f"{now.index + 1} of {len(now.faces)}" if now.faces else "none",
            "model": now.model,
            "device": device_name(),
            "mode": "reduced first" if now.mode == "simulate" else "as it is",
            "detector": now.detector,
        },
        now.notes,
        found=bool(now.faces),
    )
