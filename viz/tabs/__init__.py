"""The app's tabs: widgets and wiring only, one file per tab, and what they share.

restore.py   a photo in, its faces restored, every attention map
compare.py   one face by several models side by side, a slider between any two
pieces.py    what is on the page of several tabs
serving.py   models kept loaded, files to download, mistakes told as sentences
theme.py     how all of it looks, dark and light
"""
