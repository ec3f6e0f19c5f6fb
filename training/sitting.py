"""One sitting: what a call of the trainer may take, until its minutes or a signal end it.

minutes -> Sitting: deadline | when the anneal begins, and over how many steps | SIGINT, SIGTERM -> ending_signals
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from training.recipes import Anneal, Recipe, last_quarter
from training.run import Job, Run

SPEED_STEPS = 10  # steps of a sitting before its speed is known
RESERVE = 0.05  # share of the time for an anneal that is not planned for steps


@dataclass(frozen=True)
class Sitting:
    """What one call of the trainer may take, in moments of `time.monotonic`."""

    began: float  # with its speed measured from here, and from so many finished steps
    before: int
    deadline: float  # inf: none
    anneal_at: float  # inf: not by the clock
    anneal_seconds: float

    @classmethod
    def begin(cls, recipe: Recipe, job: Job, began: float, before: int) -> "Sitting":
        """From the minutes in `job`; unless it says otherwise, schedule wsd takes their last quarter for the anneal."""
        minutes = job.anneal_minutes
        if minutes is None:
            minutes = job.max_minutes / 4 if recipe.schedule == "wsd" and job.max_minutes is not None else 0
        constant = max(0.0, job.max_minutes - minutes) if job.max_minutes is not None else 0.0
        return cls(
            began,
            before,
            began + 60 * job.max_minutes if job.max_minutes is not None else float("inf"),
            began + 60 * constant if minutes else float("inf"),
            60 * minutes,
        )

    def started(self) -> "Sitting":
        """As it is once the first step is over: the speed is measured from now on, without the start."""
        return replace(self, began=time.monotonic(), before=self.before + 1)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.deadline

    def anneal_due(self, run: Run) -> bool:
        """Whether the anneal begins after the step to come, by the clock or by the recipe's length."""
        if run.progress.anneal:
            return False
        by_length = run.recipe.schedule == "wsd" and run.progress.step + 1 >= last_quarter(run.steps).start
        return by_length or (time.monotonic() > self.anneal_at and run.progress.step + 1 - self.before >= SPEED_STEPS)

    def plan(self, run: Run) -> Anneal:
        """The anneal that begins now: the recipe's, or as many steps as the time holds at this sitting's speed."""
        anneal = last_quarter(run.steps)
        if run.recipe.schedule != "wsd" or run.progress.step < anneal.start:
            now = time.monotonic()
            seconds = min(self.anneal_seconds, self.deadline - now)
            steps = int((1 - RESERVE) * seconds * (run.progress.step - self.before) / (now - self.began))
            anneal = Anneal(run.progress.step, run.progress.step + max(1, steps))
        return replace(anneal, loss=run.job.anneal_loss, zoom=run.job.anneal_zoom)


@contextmanager
def ending_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are collected, for a clean end after the step; the second one of a kind acts as usual."""
    caught = []
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
