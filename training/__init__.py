"""The trainer and evaluator of the SPARNet family: training.train and training.evaluate are the commands."""

import os
import sys

if "training.train" in (*sys.orig_argv, *sys.argv[:1]):  # before torch is imported: threads that spin keep others back
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see sparnet/threads.py
