"""The trainer and evaluator of the SPARNet family: training.train and training.evaluate are the commands."""

import os
import sys

if "training.train" in sys.orig_argv:  # before torch is imported: threads that spin keep others from computing
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see sparnet/threads.py
