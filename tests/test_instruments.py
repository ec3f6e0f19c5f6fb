"""One list of instruments: who adds a file and its line finds it in the command line, the page and the report."""

import re
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import gradio as gr
import numpy as np
import pytest
import torch
from made_up import small_subject

import app
from sparnet import SPARNet, SPARNetConfig, images
from sparnet.errors import UserError
from viz import cli, instruments
from viz.finding import Finding, silent
from viz.instrument import QUESTIONS, REAL, Instrument, Option, Units, settings_of
from viz.report import PAGE
from viz.tabs import controls
from viz.tabs.panel import Panel

SMALL = SPARNetConfig(
    size=32, smallest=16, min_channels=8, max_channels=8, body_depth=1, bottleneck=32, hourglass_channels=8
)


def study(
    subject,
    units: Units = None,
    ways: Annotated[list[Literal["up", "down"]] | None, Option("Where to.")] = None,
    power: Annotated[float, Option("Of the dummy.", 0, 9)] = 2.0,
    count: Annotated[int | None, Option("How many.", 1, 5)] = None,
    loud: Annotated[bool, Option("Whether it is heard.", shown=True)] = False,
    progress=silent,
) -> Finding:
    numbers = {"model": subject.name, "power": power, "loud": loud, "ways": ways}
    return Finding("dummy", "A dummy means nothing.", numbers, {"power": np.array(power)})


@pytest.fixture
def dummy(monkeypatch) -> Instrument:
    """An instrument as a file would give it, in the list."""
    module = ModuleType("dummy")
    module.INSTRUMENT = Instrument("dummy", REAL, "Is it a dummy?", "It returns what it is told.", study)
    monkeypatch.setitem(instruments.INSTRUMENTS, module.INSTRUMENT.name, module.INSTRUMENT)
    return module.INSTRUMENT


@pytest.fixture
def run(tmp_path, capsys):
    """run(command, *options) -> stdout, of a face in front of a small network, into tmp_path/out."""
    torch.manual_seed(0)
    SPARNet(SMALL).save_pretrained(tmp_path / "net")
    images.save_png(np.full((64, 64, 3), 90, np.uint8), tmp_path / "face.png")

    def run(command, *options):
        given = [command, tmp_path / "face.png", "--whole", "--model", tmp_path / "net", "--out", tmp_path / "out"]
        with pytest.raises(SystemExit) as caught:
            cli.main([*map(str, given), *options])
        out, err = capsys.readouterr()
        assert caught.value.code == 0, err
        return out

    return run


def test_a_new_instrument_is_a_command_with_its_options(dummy, run, tmp_path):
    out = run("dummy", "--power", "3", "--loud", "--way", "up", "--way", "down")
    assert "power: 3" in out
    assert "loud: True" in out
    assert "ways: up down" in out
    assert (tmp_path / "out/dummy.json").is_file()


def test_a_new_instrument_is_a_section_of_the_report(dummy, run, tmp_path):
    run("report", "--only", "dummy")
    page = (tmp_path / "out" / PAGE).read_text()
    assert '<section id="dummy">' in page
    assert "Is it a dummy?" in page


def test_a_new_instrument_is_a_tab_with_its_options_and_an_endpoint(dummy):
    config = app.build().config
    parts = {part["props"].get("elem_id"): part for part in config["components"]}
    assert "panel-dummy" in parts
    assert "dummy" in str(parts["rail"])
    assert parts["dummy-power"]["props"]["maximum"] == 9
    assert {"dummy-units", "dummy-ways", "dummy-count", "dummy-loud"} <= parts.keys()
    names = [event["api_name"] for event in config["dependencies"] if event["api_visibility"] == "public"]
    assert "dummy" in names
    assert ("Is it a dummy?", "dummy") in map(tuple, parts["report-instruments"]["props"]["choices"])


def test_progress_that_is_hidden_costs_the_browser_nothing():
    """Gradio's page looks up each component that progress is shown on, and all below it, at every event of any kind."""
    config = app.build().get_config_file()
    kinds = {part["id"]: part["type"] for part in config["components"]}
    hidden = [event for event in config["dependencies"] if event["show_progress"] == "hidden"]
    assert len(hidden) > 20
    for event in hidden:
        assert [kinds[shown] for shown in event["show_progress_on"]] == ["state"], event["api_name"]


def test_all_charts_of_a_finding_are_on_the_page():
    findings = {
        "sanity": instruments.sanity.study(small_subject(), draws=1),
        "ablation": instruments.ablation.study(small_subject(), pairs=True),
        "channels": instruments.channels.study(small_subject(attention="channel")),
    }
    with gr.Blocks():
        for name, finding in findings.items():
            panel = Panel(instruments.INSTRUMENTS[name])
            made = panel.answer(finding, "token")
            assert len(finding.view.charts) == 3
            assert [made[caption] for caption in panel.charts[::2]] == [
                f"<p>{words}</p>" for words in finding.view.charts
            ]


def test_every_file_is_listed_under_its_question_and_called_as_its_instrument():
    order = [QUESTIONS.index(module.INSTRUMENT.question) for module in instruments.MODULES]
    assert order == sorted(order)
    for module in instruments.MODULES:
        assert module.__name__ == f"viz.instruments.{module.INSTRUMENT.name}"
    assert set(controls.on_page()) == set(instruments.INSTRUMENTS) - {"training"}  # a visitor has no run here


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("units", "body.0"), ("units", [5]), ("ways", ["left"]), ("ways", [["up"]]), ("power", float("nan")),
        ("power", "2"), ("power", 9.5), ("power", -1), ("power", True), ("count", 2.0), ("count", 6), ("loud", 1),
        ("loud", "no"), ("power", {}), ("count", 10**400), ("power", 10**400),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_its_option_is_refused_in_a_sentence(name, value):
    with pytest.raises(UserError, match=rf"^{name} .*\.$"):
        settings_of(study)[name].checked(value)


def test_a_value_that_fits_is_itself_and_nothing_is_the_default():
    settings = settings_of(study)
    for name, value in {"units": ["body.0"], "ways": ["up"], "power": 3, "count": 5, "loud": True}.items():
        assert settings[name].checked(value) == value
    for nothing in (None, "", []):
        assert settings["power"].checked(nothing) == 2.0


def test_a_visitors_limit_is_the_lower_of_the_hosts_and_the_options():
    power = settings_of(study)["power"]
    assert power.checked(9, most=20) == 9
    for value, most in ((10, 20), (8, 7)):
        with pytest.raises(UserError, match=f"to {min(9, most)}"):
            power.checked(value, most=most)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_documentation_lists_every_instrument_under_its_question(question):
    lines = (Path(__file__).parents[1] / "docs/instruments.md").read_text().splitlines()
    (row,) = (line for line in lines if line.startswith(f"| {question.rstrip('?').lower()} |"))
    names = [module.INSTRUMENT.name for module in instruments.MODULES if module.INSTRUMENT.question == question]
    assert re.findall(r"`(\w+)`", row) == names
