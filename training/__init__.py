"""The trainer and evaluator of the SPARNet family: training.train and training.evaluate are the commands."""

import os
import sys
from importlib.util import find_spec

NEEDS = ("accelerate", "tensorboard")  # the extra `train` of pyproject.toml

_started = {"training.train", "training.study", "training.evaluate"}.intersection((*sys.orig_argv, *sys.argv[:1]))
if "training.train" in _started:  # before torch is imported: threads that spin keep others back
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see sparnet/threads.py
if _started and (_missing := [name for name in NEEDS if find_spec(name) is None]):
    extra = "pip install 'face-sparnet-attention[train]'"
    print(f"error: {_started.pop()} needs {' and '.join(_missing)}: {extra}.", file=sys.stderr)
    sys.exit(2)
