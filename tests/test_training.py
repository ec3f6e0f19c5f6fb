"""The trainer: it learns, it survives being killed, and it says plainly what it will not do."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from double import in_float64
from made_up import checkpoint, pictures
from runs import ALONE, RECIPE, ROOT, SMALL, another, job, start, weights
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from sparnet import SPARNet, images, load_model
from sparnet.errors import UserError
from sparnet.metrics import psnr
from sparnet.model import SPARNetConfig
from training import evaluate, precision, sitting, state, validation
from training import train as trainer
from training.command import Diverged, run_command
from training.data import FaceBatches, Faces, index_pictures, join
from training.losses import PIXEL
from training.recipes import RECIPES, Anneal, Gan, last_quarter
from training.run import check_same, prepare
from training.sitting import SPEED_STEPS
from training.train import main, train

pytestmark = pytest.mark.usefixtures("fresh_accelerator", "quick")


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "faces", 12, side=36)


def test_the_loss_falls_and_the_averaged_weights_beat_their_start(faces, tmp_path):
    recipe = replace(RECIPE, steps=40, zoom=(1.0, 1.0), shift=0.0, flip=False, ema=0.8, validate_every=20)
    train(recipe, job(faces, tmp_path / "run", validate=faces))
    logs = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    losses = [entry.value for entry in logs.Scalars("train/pixel")]
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    scores = [entry.value for entry in logs.Scalars("validation/psnr")]
    assert scores[-1] > scores[0]
    rates = [entry.value for entry in logs.Scalars("train/lr")]
    assert rates[-1] == pytest.approx(0.1 * max(rates))  # the last of the ten steps of the anneal
    assert {"train/generator_gradient_norm", "train/images_per_s", "validation/gain", "validation/ssim"} <= set(
        logs.Tags()["scalars"]
    )


@in_float64()
def test_a_step_is_plain_adam_on_the_clipped_gradient_with_the_stated_rate_and_average(faces, tmp_path):
    recipe = replace(RECIPE, steps=4, ema=0.4, clip=0.05, schedule="wsd", warmup=2, loss="l2")
    folder = train(recipe, job(faces, tmp_path / "run"))
    torch.manual_seed(0)
    model = SPARNet(SMALL)
    mean = {name: value.clone() for name, value in model.state_dict().items()}
    adam = torch.optim.Adam(model.parameters(), recipe.lr, betas=recipe.betas)
    items = index_pictures([faces]).items
    data = Faces(items, recipe, 0)
    for step, keys in enumerate(FaceBatches(len(items), 4, 0, 0, 4)):
        batch = join([data[key] for key in keys])
        adam.param_groups[0]["lr"] = recipe.lr * (0.5, 1, 1, 1)[step]
        adam.zero_grad()
        F.mse_loss(model(batch["degraded"]), batch["sharp"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        adam.step()
        decay = min(0.4, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            mean[name] = value if value.dtype == torch.long else decay * mean[name] + (1 - decay) * value
    trained = load_file(folder / "model.safetensors")
    for name, value in mean.items():
        torch.testing.assert_close(trained[name], value)


def test_a_run_killed_at_a_random_moment_and_resumed_ends_with_the_same_bytes(faces, tmp_path):
    recipe = replace(RECIPE, steps=12, validate_every=6)
    untouched = job(faces, tmp_path / "untouched", validate=faces)
    train(recipe, untouched)
    killed = job(faces, tmp_path / "killed", validate=faces, workers=1, save_minutes=0.0)
    seed = time.time_ns()
    process = start(recipe, killed)
    while not (killed.out / state.CHECKPOINT).exists():
        assert process.is_alive()
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.3))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert state.load_checkpoint(killed.out, pytest.fail)["step"] < recipe.steps
    train(recipe, replace(killed, resume=True, workers=0))
    assert weights(killed.out) == weights(untouched.out), f"seed {seed}"
    best = [(task.out / "best/model.safetensors").read_bytes() for task in (killed, untouched)]
    assert best[0] == best[1]


def test_a_kill_at_any_step_of_a_save_leaves_the_old_or_the_new_checkpoint(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    calls, deadly = 0, 0

    def guarded(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == deadly:
                raise Killed
            return function(*arguments, **options)

        return call

    for name in ("replace", "fsync", "open"):
        monkeypatch.setattr(state.os, name, guarded(getattr(os, name)))
    monkeypatch.setattr(state.torch, "save", guarded(torch.save))
    state.save_checkpoint(tmp_path, checkpoint(0))
    state.save_checkpoint(tmp_path, checkpoint(1))
    calls, survived = 0, []
    state.save_checkpoint(tmp_path, checkpoint(2))
    for deadly in range(1, calls + 1):  # the guard reads it
        calls = 0
        with pytest.raises(Killed):
            state.save_checkpoint(tmp_path, checkpoint(3))
        survived.append(state.load_checkpoint(tmp_path, pytest.fail)["step"])
        calls, deadly_now, deadly = 0, deadly, 0
        state.save_checkpoint(tmp_path, checkpoint(2))
        deadly = deadly_now
    assert set(survived) == {2, 3}


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(tmp_path):
    state.save_checkpoint(tmp_path, checkpoint(1))
    state.save_checkpoint(tmp_path, checkpoint(2))
    (tmp_path / state.CHECKPOINT).write_bytes(b"PK damaged")
    told = []
    assert state.load_checkpoint(tmp_path, told.append) == checkpoint(1)
    assert "checkpoint.pt is damaged" in told[0]
    (tmp_path / state.PREVIOUS).write_bytes(b"")
    with pytest.raises(UserError, match="No readable checkpoint"):
        state.load_checkpoint(tmp_path, told.append)


def test_a_hash_of_an_earlier_version_is_not_compared_and_that_is_told(tmp_path, capsys):
    def began(digest):
        return {"record": {"recipe": {"steps": 9}, "perceptual": digest}}

    now = began("f" * 64)["record"]
    check_same(began("a" * 12), now, tmp_path)
    assert "is not checked" in capsys.readouterr().err
    with pytest.raises(UserError, match="perceptual was 'a"):
        check_same(began("a" * 64), now, tmp_path)


@pytest.fixture
def ticking(monkeypatch):
    """A clock that moves by a second whenever the trainer looks at it, so that a busy machine changes nothing."""
    seconds = count()
    for module in (trainer, sitting):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(seconds)))


@pytest.mark.usefixtures("ticking")
def test_minutes_that_are_over_end_the_run_with_a_checkpoint_and_a_model(faces, tmp_path, capsys):
    folder = train(replace(RECIPE, steps=1000), job(faces, tmp_path / "run", max_minutes=0.5, anneal_minutes=0))
    step = state.load_checkpoint(tmp_path / "run", pytest.fail)["step"]
    assert 1 <= step < 1000
    assert f"stopped, go on with --resume: step {step}" in capsys.readouterr().err
    assert SPARNet.from_pretrained(folder).config == SMALL
    assert f"{step} of 1,000 steps" in (folder / "README.md").read_text()


@pytest.mark.usefixtures("ticking")
def test_minutes_are_annealed_in_their_last_quarter_and_the_card_says_so(faces, tmp_path, capsys):
    folder = train(replace(RECIPE, steps=100_000), job(faces, tmp_path / "run", max_minutes=3))
    end = state.load_checkpoint(tmp_path / "run", pytest.fail)
    start, stop = end["anneal"]["start"], end["anneal"]["end"]
    assert start >= SPEED_STEPS
    assert (stop - start) / stop == pytest.approx(0.25, abs=0.05)
    before = state.load_checkpoint(tmp_path / "run", pytest.fail, [state.BEFORE_ANNEAL])
    assert (before["step"], before["anneal"]) == (start, None)
    assert end["step"] == stop
    assert "done: step" in capsys.readouterr().err
    assert f"The rate was annealed to 0, from step {start:,} to {stop:,}." in (folder / "README.md").read_text()
    assert (tmp_path / "run/annealed/model.safetensors").read_bytes() == weights(tmp_path / "run")


@pytest.mark.usefixtures("ticking")
def test_sittings_go_on_at_the_constant_rate_until_one_anneals(faces, tmp_path):
    recipe = replace(RECIPE, steps=100_000, warmup=0)
    task = job(faces, tmp_path / "run", max_minutes=1, anneal_minutes=0, resume=False)
    for number in range(2):
        another()
        folder = train(recipe, replace(task, resume=number > 0))
        assert "The rate was not annealed." in (folder / "README.md").read_text()
    another()
    train(recipe, replace(task, resume=True, max_minutes=None, anneal_minutes=0.5, anneal_loss="l2"))
    annealed = state.load_checkpoint(task.out, pytest.fail)
    assert annealed["step"] == annealed["anneal"]["end"]
    assert "to 0, from step" in (folder / "README.md").read_text()
    assert "loss l2" in (folder / "README.md").read_text()
    another()
    train(recipe, replace(task, resume=True, from_constant=True))  # as if it had not been annealed
    again = state.load_checkpoint(task.out, pytest.fail)
    assert again["anneal"] is None
    assert again["step"] > annealed["anneal"]["start"]


@pytest.mark.usefixtures("ticking")
def test_an_anneal_is_as_long_after_a_slow_start_as_after_a_quick_one(faces, tmp_path, monkeypatch):
    def slow(*arguments):
        for _ in range(600):
            sitting.time.monotonic()
        return prepare(*arguments)

    lengths = []
    for name, begin in (("quick", prepare), ("slow", slow)):
        monkeypatch.setattr(trainer, "prepare", begin)
        another()
        train(replace(RECIPE, steps=100_000), job(faces, tmp_path / name, anneal_minutes=1))
        anneal = state.load_checkpoint(tmp_path / name, pytest.fail)["anneal"]
        lengths.append(anneal["end"] - anneal["start"])
    assert lengths[0] == lengths[1] > 5


@pytest.mark.usefixtures("ticking")
def test_a_run_killed_in_its_anneal_and_resumed_ends_with_the_same_bytes(faces, tmp_path, monkeypatch):
    """The checkpoint written as the anneal begins is what a kill at any later moment leaves at least."""
    task = job(faces, tmp_path / "run", anneal_minutes=0.5, anneal_loss="charbonnier", anneal_zoom=(0.9, 1.1))
    killed = tmp_path / "killed"
    write = trainer.write_checkpoint

    def copy_as_a_kill_would_leave_it(run, name=state.CHECKPOINT):
        write(run, name)
        if run.progress.anneal and not killed.exists():
            shutil.copytree(run.job.out, killed)

    monkeypatch.setattr(trainer, "write_checkpoint", copy_as_a_kill_would_leave_it)
    recipe = replace(RECIPE, steps=100_000)
    train(recipe, task)
    anneal = state.load_checkpoint(killed, pytest.fail)["anneal"]
    assert (anneal["loss"], anneal["zoom"]) == ("charbonnier", (0.9, 1.1))
    another()
    train(recipe, job(faces, killed, resume=True))
    assert weights(killed) == weights(task.out)


def test_precision_is_the_faster_of_the_two_and_a_resumed_run_keeps_it(faces, tmp_path, monkeypatch, capsys):
    recipe = replace(RECIPE, precision="auto", steps=2)
    for native, seconds, choice in (
        (False, {}, "fp32"),
        (True, {"bf16": 1.0, "fp32": 2.0}, "bf16"),
        (True, {"bf16": 2.0, "fp32": 1.0}, "fp32"),
    ):
        another()
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(precision, "time_steps", lambda *_, seconds=seconds: seconds)
        out = tmp_path / f"{choice}-{native}"
        train(recipe, job(faces, out))
        assert json.loads((out / "run.json").read_text())["recipe"]["precision"] == choice
        assert f"computing in {choice}: " in capsys.readouterr().err
    another()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    train(recipe, job(faces, tmp_path / "bf16-True", resume=True))
    assert "warning: this machine has no fast bfloat16" in capsys.readouterr().err


def test_the_time_of_a_step_is_measured_both_ways():
    seconds = precision.time_steps(RECIPE, torch.device("cpu"))
    assert seconds.keys() == {"bf16", "fp32"}
    assert all(value > 0 for value in seconds.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_as_cleanly(faces, tmp_path, monkeypatch, number):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    take_step = trainer.take_step

    def signalled_in_the_third_step(run, *arguments):
        if run.progress.step == 2:
            signal.raise_signal(number)
        return take_step(run, *arguments)

    monkeypatch.setattr(trainer, "take_step", signalled_in_the_third_step)
    train(replace(RECIPE, steps=100_000), job(faces, tmp_path / "run"))
    assert state.load_checkpoint(tmp_path / "run", pytest.fail)["step"] == 4  # it ends after the next step
    assert weights(tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lr": 1e-4}, r"recipe\.lr was 0\.002 and is now 0\.0001"),
        ({"model": replace(SMALL, body_depth=3)}, r"recipe\.model\.body_depth was 0 and is now 3"),
        ({"seed": 5}, r"seed was 0 and is now 5"),
        ({"crop": "centre"}, r"crop was None and is now 'centre'"),
        ({"data": 1}, r"data was '12 pictures.*now '11 pictures"),
    ],
)
def test_a_resumed_run_that_would_differ_is_refused_by_the_name_of_the_difference(
    faces, tmp_path, finished, change, told
):
    recipe, task = RECIPE, job(faces, finished, resume=True)
    if change.keys() <= {"seed", "crop"}:
        task = replace(task, **change)
    elif "data" in change:
        fewer = tmp_path / "faces"
        fewer.mkdir()
        for path in sorted(faces.iterdir())[1:]:
            (fewer / path.name).write_bytes(path.read_bytes())
        task = replace(task, data=[fewer])
    else:
        recipe = replace(recipe, **change)
    before = weights(finished)
    with pytest.raises(UserError, match=told):
        train(recipe, task)
    assert weights(finished) == before


@pytest.fixture(scope="module")
def finished(faces, tmp_path_factory) -> Path:
    another()
    out = tmp_path_factory.mktemp("finished") / "run"
    train(RECIPE, job(faces, out, validate=faces))
    return out


def test_a_finished_run_resumed_has_nothing_to_do_and_changes_nothing(faces, finished):
    before = weights(finished)
    train(RECIPE, job(faces, finished, validate=faces, resume=True))
    assert weights(finished) == before


def test_a_checkpoint_has_the_keys_of_earlier_versions_and_those_of_the_earliest_are_enough_to_go_on(
    faces, finished, tmp_path
):
    kept = state.load_checkpoint(finished, pytest.fail)
    assert kept.keys() == {
        *("model", "averaged", "optimizer", "discriminator", "discriminator_optimizer", "record", "step", "anneal"),
        *("best", "scores", "history", "unreadable", "recent"),
    }
    out = tmp_path / "run"
    train(replace(RECIPE, schedule="constant"), job(faces, out, max_minutes=0.0))
    early = state.load_checkpoint(out, pytest.fail)
    for name in ("discriminator", "discriminator_optimizer", "anneal", "recent"):
        del early[name]
    state.save_checkpoint(out, early)
    another()
    train(replace(RECIPE, schedule="constant"), job(faces, out, resume=True))
    assert state.load_checkpoint(out, pytest.fail)["step"] == RECIPE.steps


def test_nothing_is_overwritten_without_resume_and_nothing_resumed_where_nothing_is(faces, finished, tmp_path):
    before = weights(finished)
    with pytest.raises(UserError, match="already holds a run; go on with --resume"):
        train(RECIPE, job(faces, finished))
    assert weights(finished) == before
    with pytest.raises(UserError, match="no run to resume"):
        train(RECIPE, job(faces, tmp_path / "new", resume=True))
    assert not (tmp_path / "new").exists()


def test_the_curves_of_a_run_stopped_between_two_logs_are_those_of_one_that_was_not(faces, tmp_path):
    untouched, stopped = job(faces, tmp_path / "untouched", log_every=4), job(faces, tmp_path / "stopped", log_every=4)
    train(RECIPE, untouched)
    for task in (replace(stopped, max_minutes=0.0), replace(stopped, resume=True)):
        another()
        train(RECIPE, task)
    histories = [state.load_checkpoint(task.out, pytest.fail)["history"] for task in (untouched, stopped)]
    assert histories[0]["train/pixel"]
    assert histories[1] == histories[0]


@pytest.mark.parametrize(
    ("part", "state_of_it"),
    [
        ("model", {}),
        ("model", {"stem.weight": torch.zeros(1)}),
        ("averaged", [1, 2]),
        ("optimizer", {}),
        ("optimizer", {"state": {}, "param_groups": []}),
        ("optimizer", "moments"),
    ],
)
def test_states_that_do_not_fit_the_recipe_are_refused_by_the_part(faces, tmp_path, finished, part, state_of_it):
    shutil.copytree(finished, tmp_path / "run")
    kept = state.load_checkpoint(finished, pytest.fail)
    if state_of_it == "moments":  # of another shape, which the optimiser takes without a word
        kept["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1)
    else:
        kept[part] = state_of_it
    state.save_checkpoint(tmp_path / "run", kept)
    task = job(faces, tmp_path / "run", validate=faces, resume=True)
    kind = rf"\({part}: Input should be" if isinstance(state_of_it, list) else f"does not fit: its {part}"
    with pytest.raises(UserError, match=kind) as caught:
        train(RECIPE, task)
    assert "\n" not in str(caught.value)


def test_a_second_run_in_the_folder_is_refused_and_a_killed_one_leaves_it_free_at_once(faces, tmp_path):
    task = job(faces, tmp_path / "run", workers=1)
    first = start(replace(RECIPE, steps=100_000), task)
    while not (task.out / state.CHECKPOINT).exists():
        assert first.is_alive()
        time.sleep(0.01)
    again = replace(task, resume=True, max_minutes=0.0)
    try:
        with pytest.raises(UserError, match="Another process trains in"):
            train(replace(RECIPE, steps=100_000), again)
    finally:
        first.kill()
        first.join()
    another()
    train(replace(RECIPE, steps=100_000), again)


def test_what_a_run_leaves_is_no_data(finished):
    with pytest.raises(UserError, match="is the folder of a training run"):
        index_pictures([finished])
    with pytest.raises(UserError, match="No pictures in"):
        index_pictures([finished.parent])


@pytest.mark.parametrize("where", ["data", "data/run", "validate/deep/run", "link/run"])
def test_a_run_within_its_data_is_refused_before_anything_is_written(tmp_path, where):
    data, validate = (pictures(tmp_path / name, 4, side=36) for name in ("data", "validate"))
    (tmp_path / "link").symlink_to(data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="would be read as data"):
        train(RECIPE, job(data, tmp_path / where, validate=validate))
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_are_not_utf8_are_trained_on_and_told_as_text(tmp_path, capfd):
    odd = tmp_path / os.fsdecode(b"faces\xff")
    pictures(odd, 4, side=36)
    (odd / "00.png").rename(odd / os.fsdecode(b"\xe9.png"))
    (odd / os.fsdecode(b"broken\xe9.png")).write_bytes(b"not a photo")
    out = tmp_path / "run"
    with pytest.raises(UserError, match="a name that is not UTF-8"):
        train(RECIPE, job(odd, tmp_path / os.fsdecode(b"run\xfe")))
    train(RECIPE, job(odd, out, validate=odd))
    told = capfd.readouterr().err
    assert "skipped faces\\udcff/broken\\udce9.png" in told
    assert "on 4 faces of faces\\udcff" in (out / "model" / "README.md").read_text(encoding="utf-8")
    assert state.load_checkpoint(out, pytest.fail)["step"] == RECIPE.steps


def test_the_sample_sheet_shows_degraded_restored_and_sharp_side_by_side(faces, finished):
    sheet = images.load(finished / "samples" / "step-0000006.png")
    assert sheet.shape == (8 * 32, 3 * 32, 3)
    degraded, restored, sharp = np.hsplit(sheet[:32], 3)
    assert np.array_equal(degraded, images.degrade(sharp, 8))
    model = load_model(str(finished / "model"))
    with torch.inference_mode():
        assert np.abs(images.to_image(model(images.to_tensor(degraded))).astype(int) - restored).max() <= 1


def test_init_starts_from_the_given_weights(faces, finished, tmp_path):
    recipe = replace(RECIPE, steps=1, lr=1e-12, ema=0.0, warmup=0)
    folder = train(recipe, job(faces, tmp_path / "run", init=str(finished / "model")))
    there, here = load_file(finished / "model" / "model.safetensors"), load_file(folder / "model.safetensors")
    for name, value in there.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(here[name], value, rtol=0, atol=1e-9)
    assert f"started from {finished / 'model'}" in (folder / "README.md").read_text()


def test_init_from_another_architecture_is_refused_by_the_field(faces, finished, tmp_path):
    recipe = replace(RECIPE, model=replace(SMALL, activation="prelu"))
    with pytest.raises(UserError, match="has activation 'leaky_relu', the recipe has 'prelu'"):
        train(recipe, job(faces, tmp_path / "run", init=str(finished / "model")))
    assert not (tmp_path / "run").exists()


def test_a_number_that_is_none_stops_the_run_and_the_last_good_checkpoint_stays(faces, tmp_path, monkeypatch):
    calls = 0

    def poisoned(restored: torch.Tensor, sharp: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return F.l1_loss(restored, sharp) * (float("nan") if calls == 5 else 1.0)

    monkeypatch.setitem(PIXEL, "l1", poisoned)
    with pytest.raises(Diverged, match=r"at step 5: pixel nan.*; the last good checkpoint stays in .*--init"):
        train(RECIPE, job(faces, tmp_path / "run", save_minutes=0.0))
    kept = state.load_checkpoint(tmp_path / "run", pytest.fail)
    assert kept["step"] == 4
    for values in (kept["model"], kept["averaged"], load_file(tmp_path / "run/model/model.safetensors")):
        assert all(value.isfinite().all() for value in values.values())


@pytest.mark.parametrize("validated", [True, False])
def test_weights_blown_up_by_the_rate_are_neither_saved_nor_exported(faces, tmp_path, validated):
    recipe = replace(RECIPE, lr=float("inf"), warmup=0, steps=1, schedule="constant")
    with pytest.raises(Diverged, match="no longer finite after step 1"):
        train(recipe, job(faces, tmp_path / "run", validate=faces if validated else None))
    assert state.load_checkpoint(tmp_path / "run", pytest.fail)["step"] == 0
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "best").exists()


def test_bfloat16_training_keeps_float32_weights_near_those_of_float32(faces, tmp_path):
    folders = []
    for name in ("fp32", "bf16"):
        another()
        folders.append(train(replace(RECIPE, precision=name), job(faces, tmp_path / name)))
    a, b = (load_file(folder / "model.safetensors") for folder in folders)
    assert {value.dtype for value in b.values()} == {torch.float32, torch.int64}
    name = "decoder.0.conv1.convolution.weight"
    assert not torch.equal(a[name], b[name])
    assert F.cosine_similarity(a[name].flatten(), b[name].flatten(), dim=0) > 0.95


def test_unreadable_pictures_are_named_once_and_counted_at_the_end(faces, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in faces.iterdir():
        (mixed / path.name).write_bytes(path.read_bytes())
    (mixed / "broken.jpg").write_text("not a photo")
    (mixed / "readme.txt").write_text("a note")
    train(replace(RECIPE, steps=10), job(mixed, tmp_path / "run"))
    told = capsys.readouterr().err
    assert told.count("broken.jpg") == 1
    assert "1 unreadable pictures were skipped" in told
    assert "1 files or folders are left out: hidden, a run's, or not named like pictures, as mixed/readme.txt" in told


def test_data_without_any_readable_picture_stops_the_run(tmp_path):
    (tmp_path / "faces").mkdir()
    for i in range(4):
        (tmp_path / "faces" / f"{i}.jpg").write_text("not a photo")
    with pytest.raises(UserError, match="Too many pictures in a row"):
        train(RECIPE, job(tmp_path / "faces", tmp_path / "run"))


def test_the_rate_rises_then_stays_and_falls_to_zero_along_a_line_once_there_is_an_anneal():
    recipe = replace(RECIPE, lr=1.0, warmup=10)
    rates = [recipe.rate_at(step, Anneal(60, 110)) for step in range(111)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert set(rates[10:61]) == {1.0}
    assert rates[60:] == pytest.approx(1 - np.arange(51) / 50)
    assert {recipe.rate_at(step) for step in range(10, 110)} == {1.0}
    assert last_quarter(110) == Anneal(82, 110)


def test_a_pixel_phase_is_annealed_to_its_end_before_the_full_loss_warms_up_anew():
    recipe = replace(RECIPE, gan=Gan(pixel_steps=100), warmup=10)
    rates = [recipe.rate_at(step, Anneal(160, 200)) for step in range(200)]
    assert rates[74:77] == pytest.approx([1, 1, 0.96])
    assert rates[99] == pytest.approx(0.04)
    assert rates[100:110] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[199] == pytest.approx(1 / 40)


def test_twenty_epochs_are_enough_steps_to_see_every_picture_twenty_times():
    recipe = RECIPES["sparnet"]
    assert recipe.length(1000) * recipe.batch_size >= 20 * 1000 > (recipe.length(1000) - 1) * recipe.batch_size


def test_the_paper_and_the_released_recipe_differ_as_the_facts_say():
    paper, released = RECIPES["sparnet-paper"], RECIPES["sparnet"]
    assert (paper.model.activation, paper.loss) == ("prelu", "l2")
    assert (released.model, released.loss) == (SPARNetConfig(), "l1")
    assert (released.lr, released.betas, released.batch_size, released.epochs) == (2e-4, (0.9, 0.99), 32, 20)
    assert (released.zoom, released.flip) == ((1.0, 1.3), True)


def test_validation_measures_the_model_and_bicubic_on_the_same_faces_and_shows_them(faces):
    torch.manual_seed(0)
    items = index_pictures([faces]).items[:5]
    found = validation.measure(SPARNet(SMALL).eval(), items)
    assert (found.faces, found.sheet.shape) == (5, (5 * 32, 3 * 32, 3))
    shown = [[found.sheet[y : y + 32, x : x + 32] for x in (0, 32, 64)] for y in range(0, 5 * 32, 32)]
    for (degraded, _, sharp), item in zip(shown, items, strict=True):
        np.testing.assert_array_equal(sharp, images.resize(images.load(item.path), 32))
        np.testing.assert_array_equal(degraded, images.degrade(sharp, 8))
    bicubic = np.mean([psnr(degraded, sharp) for degraded, _, sharp in shown])
    assert found.psnr == pytest.approx(np.mean([psnr(restored, sharp) for _, restored, sharp in shown]))
    assert found.gain == pytest.approx(found.psnr - bicubic)


def test_the_trainer_needs_nothing_of_the_evaluator_and_neither_anything_of_the_app():
    code = (
        "import sys, training.train\n"
        "print([name for name in sys.modules if 'training.evaluat' in name])\n"
        "import training.evaluate\n"
        "print([name for name in ('gradio', 'plotly', 'viz', 'app', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ALONE, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]


def run(monkeypatch, *arguments: object) -> object:
    """The command line in this process; -> how it exits."""
    monkeypatch.setattr(sys, "argv", ["training.train", *map(str, arguments)])
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # the trainer sets its own
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    return ended.value.code


def test_the_command_lists_recipes_and_answers_mistakes_in_one_line(tmp_path, capsys, monkeypatch):
    few = {name: RECIPES[name] for name in ("sparnet", "sparnet-hd-light", "wavelet-srnet-published")}
    monkeypatch.setattr(trainer, "RECIPES", few)  # to count what others compute takes half a second each
    assert not run(monkeypatch, "--list")
    listing = capsys.readouterr().out
    assert all(f"{name} " in listing and recipe.published in listing for name, recipe in few.items())
    assert "10.52 M parameters    14.3 GFLOP" in listing
    assert run(monkeypatch, "sparnet-huge", "--data", tmp_path, "--out", tmp_path / "run") == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: There is no recipe 'sparnet-huge'")


@pytest.mark.parametrize("module", ["training.train", "training.evaluate"])
def test_without_the_packages_of_its_extra_a_command_says_in_one_line_what_to_install(module, tmp_path):
    """In a new interpreter, as `python -m` starts it, from which the packages are hidden."""
    hidden = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "accelerate" else find_spec(name, *rest)
"""
    (tmp_path / "sitecustomize.py").write_text(hidden)
    environment = ALONE | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    line = [sys.executable, "-m", module, "--list"]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {module} needs accelerate: pip install 'face-sparnet-attention[train]'.\n"


def test_the_commands_train_a_shipped_recipe_and_score_what_came_out(tmp_path, faces, capsys, monkeypatch):
    options = ("--size", 64, "--steps", 2, "--batch-size", 2, "--loss", "l2", "--validate-every", 5)
    assert not run(monkeypatch, "sparnet-tiny", "--data", faces, "--out", tmp_path / "run", *options)
    assert "done: step 2 of 2" in capsys.readouterr().err
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert (recipe["name"], recipe["loss"], recipe["batch_size"], recipe["steps"]) == ("sparnet-tiny", "l2", 2, 2)
    model, out = tmp_path / "run" / "model", tmp_path / "scores.json"
    evaluate.main([str(model)], faces, out)
    printed = capsys.readouterr().out
    scores = json.loads(out.read_text())["scores"]
    ours = scores["model"]["psnr"]
    assert f"{ours['mean']:.3f}" in printed
    assert "12 faces, 8x8 -> 64x64" in printed
    assert ours["difference"]["mean"] == pytest.approx(ours["mean"] - scores["bicubic"]["psnr"]["mean"])
