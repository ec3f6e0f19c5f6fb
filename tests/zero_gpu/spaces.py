"""A stand-in for the package `spaces` 0.51 as it behaves on ZeroGPU, without a GPU: tests/test_zero.py puts it first.

decorated function -> arguments, pickled -> a worker, forked when first needed and used again -> its answer, pickled

"cuda" is the CPU, but outside a worker a convolution with a weight that was moved to it raises, as there. What a worker
leaves in memory stays there. Of its errors only `gr.Error` is passed on. Every call is a line in the file $BORROWED.
"""

import functools
import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor

if "torch" in sys.modules or "gradio" in sys.modules:
    raise RuntimeError("CUDA has been initialized before importing the `spaces` package.")

import torch

_context = multiprocessing.get_context("fork")
_forked = False
_lent: set[int] = set()  # where the tensors on the GPU are
_to, _empty, _convolution = torch.Tensor.to, torch.empty, torch.nn.functional.conv2d


def _on_gpu(values) -> bool:
    return any(isinstance(value, str | torch.device) and str(value).startswith("cuda") for value in values)


def _moved(tensor, *given, **named):
    if not _on_gpu([*given, *named.values()]):
        return _to(tensor, *given, **named)
    given = ["cpu" if _on_gpu([value]) else value for value in given]
    moved = _to(tensor, *given, **{name: "cpu" if _on_gpu([value]) else value for name, value in named.items()})
    _lent.add(moved.data_ptr())
    return moved


def _convolved(given, weight, *rest, **named):
    if not _forked and weight.data_ptr() in _lent:
        raise RuntimeError("There is no GPU in this process.")
    return _convolution(given, weight, *rest, **named)


torch.cuda.is_available, torch.cuda.get_device_name = lambda: True, lambda *_: "a GPU that is lent"
torch.Tensor.to = _moved
torch.empty = lambda *given, device=None, **named: _empty(*given, device=None if _on_gpu([device]) else device, **named)
torch.nn.functional.conv2d = _convolved


def GPU(task=None, *, duration=60):
    if task is None:
        return functools.partial(GPU, duration=duration)
    import gradio

    workers = []

    def serve(given, answers):
        global _forked
        _forked = True
        with ThreadPoolExecutor(1) as executor:  # as there, not in a copy of the thread that forked
            executor.submit(answer_all, given, answers).result()

    def answer_all(given, answers):
        while True:
            arguments, named = given.get()
            try:
                answers.put((True, task(*arguments, **named)))
            except gradio.Error as error:
                answers.put((False, error))
            except Exception as error:
                answers.put((False, gradio.Error(type(error).__name__, title="ZeroGPU worker error")))

    @functools.wraps(task)
    def borrowed(*arguments, **named):
        if _forked:
            return task(*arguments, **named)
        seconds = duration(*arguments, **named) if callable(duration) else duration
        with open(os.environ["BORROWED"], "a") as log:
            print(seconds, file=log)
        if not workers:
            given, answers = _context.SimpleQueue(), _context.SimpleQueue()
            process = _context.Process(target=serve, args=(given, answers), daemon=True)
            process.start()
            workers.append((given, answers))
        given, answers = workers[0]
        given.put((arguments, named))
        good, answer = answers.get()
        if good:
            return answer
        raise answer

    return borrowed
