"""The attention visualizer: numbers and figures from a trace; widgets only in `viz.tabs`.

alphas {unit: (C,h,w)} -> atlas: numbers, one figure of every map, NPZ
                       -> overlay: one map in colour over a face
                       -> compare: one face by several models, side by side
                       -> explorer: what the browser needs to do the same at once, without the model
Subject -> one instrument a file -> Finding (finding.py): gate, ablation, edit, regions, faithfulness, sanity, query,
                                    agreement, channels, stability, population -> report; `python -m viz`
"""
