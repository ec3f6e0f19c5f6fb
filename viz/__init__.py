"""The attention visualizer: numbers and figures from a trace; widgets only in `viz.tabs`.

alphas {unit: (C,h,w)} -> atlas: numbers, one figure of every map, NPZ
                       -> overlay: one map in colour over a face
                       -> explorer: what the browser needs to do the same at once, without the model
"""
