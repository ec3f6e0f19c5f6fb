"""ZeroGPU, the Hub's GPUs that are lent by the second: what runs a network runs in a worker that has one.

models and detector, loaded at the start -> lend: an event of a lane -> arguments, pickled -> a forked worker -> answer

A worker is a copy of this process as it was when the worker began, so a handler's answer is all that comes back of it.
What is in no lane, as the camera, runs on the CPU. Anywhere but on ZeroGPU nothing here does anything.
"""

import functools
import io
import logging
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

import gradio as gr
import torch
from gradio.blocks import Block

from sparnet.errors import UserError
from sparnet.faces import find_detector
from sparnet.model import SPARNet
from viz.tabs import models
from viz.tabs.serving import QUICK, SLOW

log = logging.getLogger(__name__)

SECONDS = {QUICK["concurrency_id"]: 20, SLOW["concurrency_id"]: 60}  # for which a lane's events borrow a GPU
_lent = models.Shelf()  # the models of the workers


def is_here() -> bool:
    """Whether this is a Space on ZeroGPU, and its package was imported, which has to come before PyTorch."""
    return "spaces" in sys.modules and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def prepare() -> None:
    """Load what a worker will need, in this thread, whose CUDA `spaces` emulates."""
    if not is_here():
        return
    find_detector()
    for name in models.models_here():
        try:
            _lent.put(name)
        except UserError as error:
            log.error("%s", error)
    models.use(models.Shelf(), "cpu")


def lend(page: gr.Blocks) -> None:
    """Have the page's events that run a network run in a worker with a GPU."""
    if not is_here():
        return
    events = {number: event for number, event in page.fns.items() if event.concurrency_id in SECONDS}
    handlers: dict[int, Callable] = {number: event.fn for number, event in events.items() if event.fn}

    def seconds(number: int, given: bytes) -> int:
        return SECONDS[events[number].concurrency_id]

    @sys.modules["spaces"].GPU(duration=seconds)
    def work(number: int, given: bytes) -> bytes:
        models.use(_lent, "cuda")
        arguments, named = _loaded(given, page)
        return _pickled(handlers[number](*arguments, **named), page)

    def borrowing(number: int) -> Callable:
        @functools.wraps(handlers[number])
        def handler(*arguments: Any, **named: Any) -> Any:
            return _loaded(work(number, _pickled((arguments, named), page)), page)

        return handler

    for number in handlers:
        events[number].fn = borrowing(number)


class _Pickler(pickle.Pickler):
    """Pickles a component of the page as its number, a loaded model by name, a tensor of the GPU as one of the CPU."""

    def __init__(self, file: io.BytesIO, page: gr.Blocks):
        super().__init__(file)
        self.page = page

    def persistent_id(self, obj: Any) -> int | str | None:
        if isinstance(obj, SPARNet):
            return models.name_of(obj)
        known = isinstance(obj, Block) and self.page.blocks.get(obj._id) is obj
        return obj._id if known else None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor) and obj.is_cuda:
            return obj.cpu().__reduce_ex__(pickle.DEFAULT_PROTOCOL)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, page: gr.Blocks):
        super().__init__(file)
        self.page = page

    def persistent_load(self, pid: int | str) -> Block | SPARNet:
        return models.named(pid).model if isinstance(pid, str) else self.page.blocks[pid]


def _pickled(value: Any, page: gr.Blocks) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, page).dump(value)
    return buffer.getvalue()


def _loaded(data: bytes, page: gr.Blocks) -> Any:
    return _Unpickler(io.BytesIO(data), page).load()
