"""One training or evaluation in several processes, as `accelerate launch` and `torchrun` start them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env


def process_state() -> PartialState:
    """Which of the processes this is; the others wait while the main one validates, hashes pictures or writes."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(hours=2))


def device_of(state: PartialState) -> torch.device:
    return torch.device(state.device or "cpu")


def agreed(make: Callable[[], Any]) -> Any:
    """What the main process makes, in every process."""
    return broadcast_object_list([make() if PartialState().is_main_process else None])[0]
