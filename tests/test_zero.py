"""The page on ZeroGPU, by a stand-in for the package `spaces`: the same answers, from a worker that has the GPU."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import gradio_client.exceptions
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from made_up import PORTRAIT
from served import started

from sparnet import Restorer, images, load_model
from viz.tabs import models, zero
from viz.tabs.serving import QUICK, SLOW


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """(client, file of what was borrowed) of the page as ZeroGPU would run it."""
    files = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPACES_ZERO_GPU", "true")
        patch.setenv("BORROWED", str(files / "borrowed"))
        patch.setenv("PYTHONPATH", str(Path(__file__).with_name("zero_gpu")))
        with started(files, tmp_path_factory.mktemp("log") / "app.log") as (address, _):
            yield Client(address, verbose=False), files / "borrowed"


def test_a_photo_is_restored_in_the_worker_as_it_is_anywhere(space, portrait):
    client, borrowed = space
    photo, facts = client.predict(handle_file(portrait), "sparnet-tiny", "simulate", api_name="/restore")
    expected = Restorer(load_model("sparnet-tiny"))(PORTRAIT, "simulate").photo
    np.testing.assert_array_equal(images.load(photo), expected)
    assert (len(facts["faces"]), facts["device"]) == (1, "a GPU that is lent")
    assert borrowed.read_text().split() == ["20"]


def test_an_instrument_is_measured_there_and_its_files_come_back(space, portrait):
    _, arrays, numbers = space[0].predict(handle_file(portrait), "sparnet-tiny", "simulate", api_name="/gate")
    assert json.loads(Path(numbers).read_text())
    assert np.load(arrays).files


def test_a_visitor_s_mistake_is_told_in_the_same_words(space, portrait):
    with pytest.raises(gradio_client.exceptions.AppError, match="There is no face 7"):
        space[0].predict(handle_file(portrait), "sparnet-tiny", "simulate", 7, api_name="/attention")


def test_arguments_and_answers_cross_with_the_page_s_own_components_and_no_tensor_of_a_gpu():
    with gr.Blocks() as page:
        box = gr.Textbox()
    given = {box: torch.arange(3.0), "update": gr.update(value=1), "not of the page": gr.Textbox("x").value}
    back = zero._loaded(zero._pickled(given, page), page)
    assert back.keys() == given.keys()
    assert back[box].tolist() == [0, 1, 2]


def test_a_loaded_model_crosses_by_its_name_and_is_there_the_one_of_that_side(monkeypatch):
    with gr.Blocks() as page:
        pass
    here, there = models.Shelf(), models.Shelf()
    for shelf in (here, there):
        shelf.put("sparnet-tiny")
    monkeypatch.setattr(models, "_shelf", here)
    data = zero._pickled({"subject": models.named("sparnet-tiny").model}, page)
    assert len(data) < 200
    monkeypatch.setattr(models, "_shelf", there)
    assert zero._loaded(data, page)["subject"] is models.named("sparnet-tiny").model


@pytest.fixture
def page():
    """An event of each lane, and one of none."""
    with gr.Blocks() as page:
        for lane in (QUICK, SLOW, {}):
            gr.Button().click(lambda: "answer", None, gr.Textbox(), **lane)
    return page


def test_only_the_lanes_that_run_networks_borrow_and_each_for_its_time(page, monkeypatch):
    for name in ("_shelf", "DEVICE"):  # the worker, which is this process here, sets them
        monkeypatch.setattr(models, name, getattr(models, name))
    asked = []

    def gpu(duration):
        return lambda task: lambda *given: (asked.append(duration(*given)), task(*given))[1]

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    zero.lend(page)
    assert [event.fn() for event in page.fns.values()] == ["answer"] * 3
    assert asked == [20, 60]


def test_elsewhere_nothing_changes(page, monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    before = [event.fn for event in page.fns.values()]
    zero.lend(page)
    assert [event.fn for event in page.fns.values()] == before
    monkeypatch.setattr(models, "use", None)
    zero.prepare()
