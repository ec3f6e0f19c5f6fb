"""The app's tabs: widgets and wiring only, one file per tab, and what they share.

bench.py        the page's only state: a photo, its faces, restored by one model
restore.py      a photo in, before and after, what the network looked at
inside.py       the face under every instrument
  controls.py     what each instrument can be told: its options as widgets, checked
  panel.py        one instrument's widgets
  painting.py     attention painted by hand
  programs.py     an endpoint for each instrument
compare.py      the face by several models side by side, a slider between any two
many.py         many photos in one go, their results in one ZIP
live.py         the camera, restored as it moves
pieces.py       what is on the page of several tabs
serving.py      what visitors may do: uploads to photos, results to files, mistakes told as sentences
models.py       the models that visitors may name; fetching.py those from the Hub
door.py         what comes from outside, held to the limits before Gradio sees it
tools.py        the endpoints as tools for assistants
zero.py         a Space on ZeroGPU: what runs a network borrows a GPU
theme.py        how all of it looks, dark and light
"""

import inspect
from unittest import mock


def _file_of(thing: object, file_of=inspect.getfile) -> str:
    """No file of Gradio's classes: it would write type stubs of them all, at every start for a third of its import."""
    if getattr(thing, "__module__", "").startswith("gradio."):
        raise OSError("There are no stubs.")
    return file_of(thing)


with mock.patch("inspect.getfile", _file_of):
    import gradio  # noqa: F401
