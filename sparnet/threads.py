"""How many threads a network computes with: as many as there are cores that nobody else uses.

    cores of this process (affinity, cgroup quota), cores that others keep busy -> use_free_cores -> torch's threads

OpenMP's threads wait for each other by spinning. That is the fastest while nobody else computes, and the slowest where
somebody does: a thread that spins keeps the core from the one it waits for. A restoration is short and looks anew each
time. A training stays with one number of threads, since another rounds otherwise; its threads spin less instead, see
`training`. `make bench-threads` measures both, alone and two at once. OMP_NUM_THREADS, where it is set, is obeyed.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

LOOK_SECONDS = 0.25  # shorter times say too little of who computes
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # "quota period" in microseconds, or "max period"


class Look(NamedTuple):
    """What was computed on this machine up to a moment, in seconds."""

    moment: float
    everybody: float
    ours: float


def use_free_cores() -> None:
    """Let torch compute with as many threads as there are cores that nobody else has used since the last call."""
    global _last
    if "OMP_NUM_THREADS" in os.environ:
        return
    now = look()
    if now.moment - _last.moment < LOOK_SECONDS:
        return
    torch.set_num_threads(free_cores(_last, now, psutil.cpu_count() or 1, own_cores()))
    _last = now


def most_threads() -> int:
    """For what cannot follow the free cores: OMP_NUM_THREADS where it is set, else the cores of this process."""
    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else own_cores()


def free_cores(before: Look, now: Look, machine: int, own: int) -> int:
    """Of `machine` cores those that others left idle between two looks: at least 1, at most `own`."""
    others = (now.everybody - before.everybody - (now.ours - before.ours)) / (now.moment - before.moment)
    return max(1, min(own, round(machine - others)))


def own_cores(cpu_max: Path = CPU_MAX) -> int:
    """The cores that this process may use: its affinity's, and no more than its cgroup's quota pays for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cpu_max.exists():
        quota, period = cpu_max.read_text().split()
        if quota != "max":
            cores = min(cores, round(int(quota) / int(period)))
    return max(1, cores)


def look() -> Look:
    """The clock, and the seconds of computing of all processes and of this one."""
    machine, ours = psutil.cpu_times(), psutil.Process().cpu_times()
    busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0) - getattr(machine, "guest", 0.0)
    return Look(time.monotonic(), busy, ours.user + ours.system)


_last = look()
