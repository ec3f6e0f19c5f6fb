"""The attention visualizer: numbers and figures from a trace; widgets only in `viz.tabs`.

alphas {unit: (C,h,w)} -> compare: one face by several models, side by side
                       -> explorer: what the browser needs to lay any map over the face, without the model
Subject (subject.py) -> an instrument (instrument.py), one file each in viz/instruments -> Finding (finding.py)
                        -> report, survey; `python -m viz` (cli.py); a tab and an endpoint (viz/tabs)
"""
