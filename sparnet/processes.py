"""One of several processes, on a host or many, as `accelerate launch` and `torchrun` start them.

RANK, WORLD_SIZE -> Process -> share of the work | together: none leaves before the others have done theirs
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")


@dataclass(frozen=True)
class Process:
    """Which of how many this is; alone it is the first of one."""

    number: int = 0
    count: int = 1
    on_host: int = 0  # its number among those of its host

    @classmethod
    def of_environment(cls) -> "Process":
        given = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        return cls(*(int(os.environ.get(name, least)) for name, least in given))

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `count`-th, so that each item is in the share of exactly one process."""
        return items[self.number :: self.count]

    def device(self) -> str:
        """A GPU of its own, as far as there are enough."""
        return f"cuda:{self.on_host % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait at the end for the others: a launcher ends them all when one leaves with an error."""
        if self.count == 1:
            yield
            return
        distributed.init_process_group("gloo", timeout=timedelta(days=365))
        try:
            yield
            distributed.barrier()
        finally:
            distributed.destroy_process_group()
