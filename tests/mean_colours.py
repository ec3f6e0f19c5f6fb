"""In the place of the FID of torchmetrics, which is too large to install for a test: mean colours for features.

`python tests/mean_colours.py ...` is the evaluator with it, to be started in several processes.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import torch
from accelerate.utils import gather_object

from training.evaluation.frechet import frechet_distance


class MeanColours:
    """What torchmetrics documents of `FrechetInceptionDistance` and of every `Metric`, as far as it is used.

    `updates` counts the pictures whose features were computed, by real or not, over all instances.
    """

    updates = {True: 0, False: 0}  # noqa: RUF012

    def __init__(self, feature_extractor_weights_path: str | None, antialias: bool, sync_on_compute: bool):
        assert feature_extractor_weights_path is None
        assert antialias is False
        assert sync_on_compute is False
        self.seen = {True: [], False: []}
        self.update_called = False

    def to(self, device: object) -> "MeanColours":
        return self

    def update(self, pictures: torch.Tensor, real: bool) -> None:
        assert pictures.dtype == torch.uint8
        assert pictures.shape[:2] == (1, 3)
        self.seen[real].append(pictures.double().mean(dim=(0, 2, 3)).numpy())
        self.update_called = True
        self.updates[real] += 1

    def merge_state(self, other: "MeanColours") -> None:
        self.seen = {real: self.seen[real] + other.seen[real] for real in self.seen}

    @contextmanager
    def sync_context(self) -> Iterator[None]:
        own = self.seen
        self.seen = {real: gather_object(own[real]) for real in own}
        yield
        self.seen = own

    @property
    def real_features_num_samples(self) -> torch.Tensor:
        return torch.tensor(len(self.seen[True]))

    @property
    def fake_features_num_samples(self) -> torch.Tensor:
        return torch.tensor(len(self.seen[False]))

    def compute(self) -> torch.Tensor:
        assert self.update_called  # the real one knows the type of its features from then on
        return torch.tensor(frechet_distance(np.array(self.seen[False]), np.array(self.seen[True])))


def put_in_place() -> None:
    for name in ("torchmetrics", "torchmetrics.image"):
        sys.modules[name] = SimpleNamespace()
    sys.modules["torchmetrics.image.fid"] = SimpleNamespace(FrechetInceptionDistance=MeanColours)


if __name__ == "__main__":
    from training.command import run_command
    from training.evaluate import main

    put_in_place()
    run_command(main)
