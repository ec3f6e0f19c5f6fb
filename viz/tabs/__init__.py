"""The app's tabs: widgets and wiring only, one file per tab, and what they share.

restore.py      a photo in, its faces restored, every attention map
inside.py       one face under every instrument
  looking.py      the face in front of the model, as instruments are given it
  controls.py     what each instrument can be told: its options as widgets, checked
  panel.py        one instrument's widgets
  painting.py     attention painted by hand
  programs.py     an endpoint for each instrument
compare.py      one face by several models side by side, a slider between any two
pieces.py       what is on the page of several tabs
serving.py      models kept loaded, files to download, mistakes told as sentences
hosting.py      what the host sets by the environment
tools.py        the endpoints as tools for assistants
zero.py         a Space on ZeroGPU: what runs a network borrows a GPU
theme.py        how all of it looks, dark and light
"""
