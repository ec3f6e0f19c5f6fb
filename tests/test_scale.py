"""A run spread over processes, loaders and micro-batches is the run of one process; what much data costs in memory."""

import json
import tracemalloc
from collections import Counter
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import PartialState
from double import in_float64
from runs import GAN, RECIPE, SMALL, another, job, together
from safetensors.torch import load_file
from test_data import picture, write_shard
from torch.utils.data import DataLoader, get_worker_info

import training.train
from sparnet import images
from sparnet.errors import UserError
from training.data import FaceBatches, Faces, index_pictures, join
from training.run import prepare
from training.state import load_checkpoint
from training.train import fetch, train

pytestmark = pytest.mark.usefixtures("fresh_accelerator", "quick")
PIXEL = replace(RECIPE, model=replace(SMALL, norm="instance"))  # batch norm sees each process's share alone
FULL = replace(GAN, steps=4, gan=replace(GAN.gan, pixel_steps=1))
RUNS = {"pixel": PIXEL, "full": FULL}
PNG = images.encode_png(picture(0))
PICTURES = 22  # in three shards: the sixth batch of four spans two epochs


class Witness(Faces):
    """Tells, instead of what it skipped, which worker was asked for which picture of which epoch."""

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        degraded, sharp, _ = super().__getitem__(key)
        return degraded, sharp, [json.dumps([get_worker_info().id, *key])]


@in_float64()
def spread(shards: Path, out: Path) -> None:
    """What each of the processes does: train, then note what comes to it through two workers."""
    PartialState.destroy_process_group = lambda *_: None  # several runs follow each other in one process only here
    training.train.watch = lambda run: None
    for name, recipe in RUNS.items():
        train(recipe, job(shards, out / name, log_every=1))
    training.train.Faces = Witness
    run = prepare(replace(PIXEL, steps=2 * PICTURES // PIXEL.batch_size), job(shards, out / "keys", workers=2))
    seen = []
    for step in fetch(run):
        seen += [json.loads(message) for batch in step for message in batch["skipped"]]
        run.progress.step += 1
    (out / f"keys-{run.accelerator.process_index}.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "faces"
    folder.mkdir()
    for i, seeds in enumerate((range(9), range(9, 18), range(18, PICTURES))):
        write_shard(folder / f"{i}.tar", seeds)
    return folder


@pytest.fixture(scope="module")
@in_float64()
def alone(shards, tmp_path_factory) -> Path:
    """The folder of the runs of one process."""
    out = tmp_path_factory.mktemp("alone")
    for name, recipe in RUNS.items():
        another()
        train(recipe, job(shards, out / name, log_every=1))
    return out


@pytest.fixture(scope="module")
def shared(shards, tmp_path_factory) -> Path:
    """The folder of the same runs by two processes."""
    out = tmp_path_factory.mktemp("shared")
    together(2, spread, shards, out)
    return out


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    return load_checkpoint(run, pytest.fail)["history"]


def assert_same_run(one: Path, two: Path) -> None:
    """The same losses at the same steps, and the same weights at the end, within the rounding of float64."""
    then, now = curves(one), curves(two)
    assert then.keys() == now.keys()
    for name in then:
        np.testing.assert_allclose(now[name], then[name], rtol=1e-7, err_msg=name)
    weights = [load_file(run / "model" / "model.safetensors") for run in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_that_share_each_batch_train_what_one_process_trains(alone, shared, name):
    losses = curves(alone / name)
    assert [step for step, _ in losses["train/pixel"]] == list(range(1, RUNS[name].steps + 1))
    assert ("train/discriminator" in losses) == (name == "full")
    assert_same_run(alone / name, shared / name)


def test_two_processes_with_two_workers_each_see_every_picture_of_the_shards_once_an_epoch(shared):
    ranks = [json.loads((shared / f"keys-{rank}.json").read_text()) for rank in range(2)]
    seen = Counter((epoch, index) for rank in ranks for _, epoch, index in rank)
    assert seen == Counter((epoch, index) for epoch in range(2) for index in range(PICTURES))
    assert [{worker for worker, *_ in rank} for rank in ranks] == [{0, 1}] * 2
    assert [len(rank) for rank in ranks] == [PICTURES] * 2


@in_float64()
def test_micro_batches_train_what_the_whole_batch_trains(shards, alone, tmp_path):
    train(replace(PIXEL, accumulate=4), job(shards, tmp_path / "run", log_every=1))
    assert_same_run(alone / "pixel", tmp_path / "run")


@in_float64()
def test_a_compiled_model_trains_as_it_is_and_its_checkpoint_fits_the_plain_one(shards, alone, tmp_path, monkeypatch):
    """By the compiler's front end: the code that Inductor writes takes minutes to compile."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    compiled = job(shards, tmp_path / "run", log_every=1, compile=True)
    train(FULL, compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert_same_run(alone / "full", compiled.out)
    another()
    train(FULL, replace(compiled, resume=True, compile=False))


def test_the_index_is_small_and_all_that_grows_with_the_data(tmp_path):
    """By Python's own count of its memory, on shards of pictures that share their content."""
    grown, peaks = [], []
    for name, pictures in (("few", 200), ("many", 2000)):
        shard = write_shard(
            tmp_path / f"{name}.tar", range(1), dict.fromkeys(map("{:06}.png".format, range(pictures)), PNG)
        )
        tracemalloc.start()
        index = index_pictures([shard])
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        loader = DataLoader(
            Faces(index.items, PIXEL, 0), batch_sampler=FaceBatches(len(index.items), 4, 0, 0, 20), collate_fn=join
        )
        assert sum(len(batch["sharp"]) for batch in loader) == 80
        grown.append(size)
        peaks.append(tracemalloc.get_traced_memory()[1] - size)
        tracemalloc.stop()
    each = (grown[1] - grown[0]) / 1800
    assert 300_000 * each < 100e6
    assert peaks[1] - peaks[0] < 1800 * 64  # an epoch's order takes 8 bytes a picture, twice while it is drawn


def test_without_a_compiler_compiling_is_refused(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no no-such-compiler: .*leave out --compile"):
        train(PIXEL, job(shards, tmp_path / "run", compile=True))
    assert not (tmp_path / "run").exists()
