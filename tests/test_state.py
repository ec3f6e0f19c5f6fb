"""The checkpoint on the disk: damage is noticed, a full disk costs nothing, one process has the folder."""

import errno
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from made_up import checkpoint

from sparnet import SPARNet
from sparnet.errors import UserError
from sparnet.model import SPARNetConfig
from training import state
from training.command import run_command


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder with the checkpoints of steps 1 and 2."""
    state.save_checkpoint(tmp_path, checkpoint(1))
    state.save_checkpoint(tmp_path, checkpoint(2))
    return tmp_path


@contextmanager
def small_files() -> Iterator[None]:
    """As on a disk with room for 500 bytes: whoever writes more gets an error from the system, pytest's log too."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_ends_with_the_hash_of_what_torch_reads(run):
    content, end = (run / state.CHECKPOINT).read_bytes()[:-74], (run / state.CHECKPOINT).read_bytes()[-74:]
    assert end == b"\nSHA-256 " + sha256(content).hexdigest().encode() + b"\n"
    assert torch.load(run / state.CHECKPOINT, weights_only=True) == checkpoint(2)


def test_a_flipped_bit_is_noticed_in_every_byte(run):
    path = run / state.CHECKPOINT
    content = path.read_bytes()
    assert state.hash_fits(path)
    with path.open("r+b", buffering=0) as file:
        for i, byte in enumerate(content):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << i % 8]), i)
            assert state.hash_fits(path) is False, i
            os.pwrite(file.fileno(), bytes([byte]), i)
    assert state.hash_fits(path)


@pytest.mark.parametrize("place", [0, 300, -90, -70, -1])
def test_for_a_damaged_checkpoint_the_one_before_is_used_and_survives_the_next_save(run, place):
    content = bytearray((run / state.CHECKPOINT).read_bytes())
    content[place] ^= 4
    (run / state.CHECKPOINT).write_bytes(content)
    told = []
    assert state.load_checkpoint(run, told.append)["step"] == 1
    assert len(told) == 2
    assert "checkpoint.pt is damaged (ValueError: its content does not fit its SHA-256)" in told[0]
    assert "checkpoint.previous.pt, the checkpoint before it, is used" in told[1]
    state.save_checkpoint(run, checkpoint(3))
    assert state.load_checkpoint(run, pytest.fail)["step"] == 3
    (run / state.CHECKPOINT).unlink()
    assert state.load_checkpoint(run, pytest.fail)["step"] == 1


@pytest.mark.parametrize("length", [0, 10, 500, -1, -22])
def test_a_checkpoint_cut_short_is_noticed(run, length):
    (run / state.CHECKPOINT).write_bytes((run / state.CHECKPOINT).read_bytes()[:length])
    assert state.load_checkpoint(run, lambda message: None)["step"] == 1


def test_a_checkpoint_from_before_there_was_a_hash_is_loaded_and_that_told(tmp_path):
    torch.save(checkpoint(5), tmp_path / state.CHECKPOINT)
    told = []
    assert state.load_checkpoint(tmp_path, told.append)["step"] == 5
    assert len(told) == 1
    assert "has no hash" in told[0]
    state.save_checkpoint(tmp_path, checkpoint(6))
    assert state.load_checkpoint(tmp_path, pytest.fail)["step"] == 6


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (torch.zeros(3), "Input should be a valid dictionary"),
        ([1, 2], "Input should be a valid dictionary"),
        ({"step": 3}, "model: Field required"),
        (checkpoint(-1), "step: Input should be greater than or equal to 0"),
        (checkpoint(2.5), "step: Input should be a valid integer"),
        (checkpoint(True), "step: Input should be a valid integer"),
        (checkpoint(1, model=[]), "model: Input should be a valid dictionary"),
        (checkpoint(1, record={}), r"record\.recipe: Field required"),
        (checkpoint(1, history=None), "history: Input should be a valid dictionary"),
    ],
)
def test_something_else_in_the_checkpoints_place_is_refused_by_what_it_is(run, content, fault):
    torch.save(content, run / state.CHECKPOINT)
    with pytest.raises(UserError, match=rf"checkpoint\.pt is not a checkpoint of this trainer \({fault}") as caught:
        state.load_checkpoint(run, lambda message: None)
    assert "\n" not in str(caught.value)


def test_a_disk_that_fills_leaves_what_was_saved_and_nothing_else(run):
    before = contents(run)
    told = r"checkpoint\.pt cannot be written: File too large\. What was saved before"
    with pytest.raises(UserError, match=told), small_files():
        state.save_checkpoint(run, checkpoint(3))
    assert contents(run) == before
    assert state.load_checkpoint(run, pytest.fail)["step"] == 2


def test_a_disk_that_fills_leaves_the_model_exported_before(tmp_path):
    config = SPARNetConfig(
        size=16, smallest=8, min_channels=8, max_channels=8, hourglass_channels=8, body_depth=0, bottleneck=16
    )
    model = SPARNet(config)
    state.export(model, tmp_path / "model", "a card")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be written"), small_files():
        state.export(model, tmp_path / "model", "another card")
    assert contents(tmp_path) == before


def test_a_folder_has_one_trainer_until_that_ends_however_it_ends(run):
    processes = get_context("fork")
    locked = processes.Event()

    def hold() -> None:
        os.setsid()
        file = state.lock(run, resume=True)
        if os.fork():  # the loader's workers outlive a killed trainer as this child does
            locked.set()
        time.sleep(60)
        file.close()

    holder = processes.Process(target=hold)
    holder.start()
    try:
        assert locked.wait(30)
        with pytest.raises(UserError, match="Another process trains in"):
            state.lock(run, resume=True)
        holder.kill()
        holder.join()
        state.lock(run, resume=True).close()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_a_run_that_came_while_another_was_made_ready_is_not_overwritten(run):
    with pytest.raises(UserError, match="already holds a run"):
        state.lock(run, resume=False)


def test_a_full_disk_that_a_thread_finds_first_ends_the_command_with_one_line(monkeypatch, capfd):
    def write() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "logs/events")

    def work() -> None:
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        write()

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # to be put back
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit) as ended:
        run_command(work)
    assert ended.value.code == 2
    assert capfd.readouterr().err == "error: logs/events: No space left on device. Make room or choose another place.\n"


def test_what_a_killed_trainer_had_half_written_goes_when_the_next_has_the_folder(run):
    (run / "model").mkdir()
    for leftover in (run / ".0123.tmp", run / "model" / ".4567.tmp"):
        leftover.write_bytes(b"half")
    state.lock(run, resume=True).close()
    assert not list(run.rglob("*.tmp"))
    assert state.load_checkpoint(run, pytest.fail)["step"] == 2
