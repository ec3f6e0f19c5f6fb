"""The trainer and evaluator of the SPARNet family: training.train and training.evaluate are the commands."""

import os
import sys
from importlib.util import find_spec

NEEDS = ("accelerate", "tensorboard")  # the extra `train` of pyproject.toml

# Turns that OpenMP's threads wait before they sleep: little is lost alone, and little by two; see sparnet/threads.py.
SPIN = "3500"

_started = {"training.train", "training.study", "training.evaluate"}.intersection((*sys.orig_argv, *sys.argv[:1]))
if "training.train" in _started:  # before torch is imported: threads that spin keep others back
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
if _started and (_missing := [name for name in NEEDS if find_spec(name) is None]):
    extra = "pip install 'face-sparnet-attention[train]'"
    print(f"error: {_started.pop()} needs {' and '.join(_missing)}: {extra}.", file=sys.stderr)
    sys.exit(2)
