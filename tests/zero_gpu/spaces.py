"""A stand-in for the package `spaces` 0.51 as it behaves on ZeroGPU, without a GPU: tests/test_zero.py puts it first.

decorated function -> arguments, pickled -> a worker, forked when first needed and used again -> its answer, pickled

Outside a worker there is no GPU: a convolution raises there, once a function was decorated. What a worker leaves in
memory stays there. Of its errors only `gr.Error` is passed on. Every call is a line in the file $BORROWED.
"""

import functools
import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor

if "torch" in sys.modules or "gradio" in sys.modules:
    raise RuntimeError("CUDA has been initialized before importing the `spaces` package.")

_context = multiprocessing.get_context("fork")
_forked = False


def GPU(task=None, *, duration=60):
    if task is None:
        return functools.partial(GPU, duration=duration)
    import gradio
    import torch

    convolution = torch.nn.functional.conv2d

    def emulated(*arguments, **named):
        if not _forked:
            raise RuntimeError("There is no GPU in this process.")
        return convolution(*arguments, **named)

    torch.nn.functional.conv2d = emulated
    torch.nn.modules.conv.F.conv2d = emulated
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
