"""A face's maps in forward order as a film: coarse to fine.

Subject -> coarse_to_fine: a frame a unit, its map over the restored face and alone -> gif
"""

from collections.abc import Sequence
from io import BytesIO

from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image

from sparnet.attention import figure_png, overlay
from sparnet.images import decode
from viz.subject import Subject, spatial_maps


def coarse_to_fine(subject: Subject) -> list[ndarray]:
    """One frame a unit in forward order, (H,W,3) uint8: its map over the restored face, and the map alone, 0..1."""
    maps, frames = spatial_maps(subject), []
    for i, (unit, alpha) in enumerate(maps.items()):
        figure = Figure((6.1, 3.4), facecolor="white")
        for x, picture in ((0.02, overlay(subject.restored, alpha)), (0.51, alpha)):
            axes = figure.add_axes((x, 0.02, 0.47, 0.86))
            axes.imshow(picture, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
            axes.axis("off")
        words = "{} of {}: {}, {}x{}, mean {:.2f}".format(i + 1, len(maps), unit, *alpha.shape, alpha.mean())
        figure.text(0.02, 0.92, words, fontsize=11)
        frames.append(decode(figure_png(figure, 100)))
    return frames


def gif(frames: Sequence[ndarray], seconds: float = 0.8) -> bytes:
    """Frames (H,W,3) uint8 of one size -> an animated GIF that repeats, each shown for `seconds`, the last three times.

    256 colours a frame, not dithered. A frame equal to the one before it only prolongs it.
    """
    if not frames or len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"a film has frames of one size; these are {[frame.shape for frame in frames]}")
    pictures = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames]
    times = [round(seconds * 1000)] * (len(frames) - 1) + [round(seconds * 3000)]
    file = BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    return file.getvalue()
