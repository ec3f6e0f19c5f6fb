"""Threads: as many as there are free cores, whoever keeps the others busy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparnet import threads
from sparnet.threads import Look, free_cores, own_cores

BEFORE = Look(100.0, 5000.0, 70.0)
UNTIL_TORCH = """
import os, sys

class Watch:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch)
"""


@pytest.mark.parametrize(
    ("everybody", "ours", "machine", "own", "free"),
    [
        (0.0, 0.0, 2, 2, 2),  # nobody computes
        (20.0, 20.0, 2, 2, 2),  # this process alone, on both cores
        (20.0, 10.0, 2, 2, 1),  # another one beside it
        (20.0, 0.0, 2, 2, 1),  # both cores are taken: at least one thread
        (30.0, 10.0, 8, 8, 6),
        (600.0, 10.0, 64, 2, 2),  # of a large machine two cores are this process's, and they are free
    ],
)
def test_the_cores_that_others_leave_idle_are_used(everybody, ours, machine, own, free):
    now = Look(BEFORE.moment + 10, BEFORE.everybody + everybody, BEFORE.ours + ours)
    assert free_cores(BEFORE, now, machine, own) == free


def test_a_container_that_pays_for_fewer_cores_has_fewer(tmp_path):
    quota = tmp_path / "cpu.max"
    quota.write_text("100000 100000\n")
    assert own_cores(quota) == 1
    quota.write_text("max 100000\n")
    assert own_cores(quota) == own_cores(tmp_path / "none") == len(os.sched_getaffinity(0))


def test_torch_follows_unless_the_user_has_said_how_many(monkeypatch):
    before = torch.get_num_threads()
    busy = Look(threads.look().moment + 10, threads.look().everybody + 10 * os.cpu_count(), threads.look().ours)
    monkeypatch.setattr(threads, "look", lambda: busy)
    monkeypatch.setattr(threads, "_last", Look(busy.moment - 10, busy.everybody - 10 * os.cpu_count(), busy.ours))
    monkeypatch.setenv("OMP_NUM_THREADS", str(before))
    torch.set_num_threads(3)
    threads.use_free_cores()
    assert torch.get_num_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.use_free_cores()
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("command", "spins"),
    [("training.train", "3500"), ("sparnet_command train", "3500"), ("training.evaluate", "None")],
)
def test_only_the_trainers_threads_spin_less_when_torch_is_imported(command, spins, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(UNTIL_TORCH)
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"}
    line = [sys.executable, "-m", *command.split(), "--help"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{spins}\n", done.stderr
