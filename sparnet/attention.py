"""Attention maps as numbers, colours, files and figures, for whoever shows them.

    alpha (C,h,w) -> mean_map (h,w) -> level 0..255 -> colour table (256,3) -+
    base (S,S,3) uint8 ------------------------------------------------------+-> overlay (S,S,3) uint8
    alphas {unit: (C,h,w)} -> atlas_figure   encoder | body | decoder | 0..1
                           -> maps_npz       raw, nothing averaged

`viz/static/maps.js` lays a map over a face in the browser; a test holds it to this file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Literal, get_args

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from sparnet.files import encode_npz
from sparnet.restorer import RestoredFace
from sparnet.text import for_figure

Colormap = Literal["viridis", "magma", "inferno", "cividis", "gray"]  # perceptually uniform: equal steps look equal
COLORMAPS = get_args(Colormap)
_ENTROPY_BINS = 256
_MAP, _PITCH, _ROW = 1.35, 1.6, 1.85  # inches: side of a map, from one map to the next, from one row to the next
_MARGIN, _HEAD, _BLOCK_GAP = 0.35, 1.15, 0.15


@dataclass(frozen=True)
class MapNumbers:
    """What one attention map (h,w), in (0,1), is like as a whole."""

    mean: float
    std: float  # over the positions, not corrected for sample size
    min: float
    max: float
    entropy: float  # bits; Shannon 1948 on a histogram of 256 bins over 0..1: 0 for one value, 8 for all equally
    above_mean: float  # share of the positions that lie above the mean, 0..1

    @classmethod
    def of(cls, alpha: np.ndarray) -> "MapNumbers":
        counts, _ = np.histogram(alpha, bins=_ENTROPY_BINS, range=(0, 1))
        p = counts[counts > 0] / alpha.size
        mean = alpha.mean(dtype=np.float64)
        return cls(
            mean=float(mean),
            std=float(alpha.std(dtype=np.float64)),
            min=float(alpha.min()),
            max=float(alpha.max()),
            entropy=float(-(p * np.log2(p)).sum()) + 0.0,  # + 0.0: a constant map has 0, not -0
            above_mean=float((alpha > mean).mean()),
        )


def feature_strength(features: Tensor) -> np.ndarray:
    """(C,h,w) -> (h,w) float32, the length of the feature vector at each place (L2 over the channels)."""
    return features.detach().float().square().sum(-3).sqrt().reshape(features.shape[-2:]).cpu().numpy()


def color_table(colormap: str) -> np.ndarray:
    """(256,3) uint8 RGB, the colours of 0..1 in 256 steps."""
    return colormaps[colormap](np.arange(256), bytes=True)[:, :3].copy()


def colorize(alpha: np.ndarray, colormap: str = "viridis", low: float = 0, high: float = 1) -> np.ndarray:
    """(h,w) -> (h,w,3) uint8; `low` and below take the first colour, `high` and above the last."""
    share = np.clip((alpha - low) / max(high - low, 1e-12), 0, 1)
    return color_table(colormap)[_round(share * 255).astype(np.uint8)]


def enlarge(image: np.ndarray, side: int) -> np.ndarray:
    """(h,w,...) -> (side,side,...), nearest: every value shown is one that the map has."""
    rows, columns = (np.arange(side) * extent // side for extent in image.shape[:2])
    return image[rows[:, None], columns]


def overlay(
    base: np.ndarray,
    alpha: np.ndarray,
    colormap: str = "viridis",
    opacity: float = 0.6,
    low: float = 0,
    high: float = 1,
) -> np.ndarray:
    """Map (h,w) over base (S,S,3) uint8 -> (S,S,3) uint8; opacity 0 leaves the base, 1 leaves the map."""
    color = enlarge(colorize(alpha, colormap, low, high), base.shape[0])
    return _round((1 - opacity) * base + opacity * color).astype(np.uint8)


def _round(x: np.ndarray) -> np.ndarray:
    return np.floor(x + 0.5)  # halves go up, as the browser's Math.round does


def mean_map(alpha: Tensor) -> np.ndarray:
    """(C,h,w) or (1,C,h,w) -> (h,w) float32: the map itself for 2D attention (C = 1), for 3D the mean over channels."""
    if alpha.ndim == 4 and alpha.shape[0] == 1:
        alpha = alpha[0]
    if alpha.ndim != 3:
        raise ValueError(f"an attention map of one face is (C,h,w) or (1,C,h,w); this one is {tuple(alpha.shape)}")
    return alpha.detach().float().mean(0).cpu().numpy()


def group_units(names: Iterable[str]) -> dict[str, list[str]]:
    """{"encoder": ["encoder.0", ...], "body": ..., "decoder": ...}, in the order given."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    return groups


def atlas_figure(
    alphas: dict[str, Tensor],
    stretch: bool = False,
    title: str | None = None,
    colormap: str = "viridis",
    pictures: dict[str, np.ndarray] | None = None,
) -> Figure:
    """Every map in forward order, encoder | body | decoder, on one scale 0..1; before them, `pictures` of the face.

    `pictures` maps a caption to (S,S,3) uint8, such as what the network saw and what it made of it.

    `stretch` gives each map the whole colour range from its own min to its own max, and says so: colours then compare
    places of one map, never two maps. Maps of 3D attention are averaged over their channels.
    """
    if not alphas:
        raise ValueError("there are no attention maps to draw")
    maps = {name: mean_map(alpha) for name, alpha in alphas.items()}
    pictures = pictures or {}
    groups = ({"face": list(pictures)} if pictures else {}) | group_units(list(maps))
    rows = max([len(names) for group, names in groups.items() if group not in ("face", "body")] or [1])
    columns = {group: -(-len(names) // rows) for group, names in groups.items()}

    blocks = sum(count * _PITCH + _BLOCK_GAP for count in columns.values())
    width, height = _MARGIN + blocks + 0.9, _HEAD + rows * _ROW
    figure = Figure(figsize=(width, height), facecolor="white")
    x = _MARGIN
    for group, names in groups.items():
        for i, name in enumerate(names):
            row, column = divmod(i, columns[group])
            axes = in_inches(figure, x + column * _PITCH, _HEAD + row * _ROW, _MAP, _MAP)
            axes.set_title(name, fontsize=8, loc="left", pad=11, weight="bold")
            if group == "face":
                axes.imshow(pictures[name], interpolation="nearest")
            else:
                _draw(axes, maps[name], alphas[name].shape[-3], stretch, colormap)
            bare(axes)
        span = columns[group] * _PITCH - (_PITCH - _MAP)
        line = in_inches(figure, x, _HEAD - 0.45, span, 0)
        line.axis("off")
        line.set_title(group, fontsize=9, loc="left", pad=3, color="0.2")
        line.add_artist(Line2D([0, 1], [0, 0], transform=line.transAxes, color="0.75", linewidth=0.8, clip_on=False))
        x += columns[group] * _PITCH + _BLOCK_GAP

    place = in_inches(figure, x, _HEAD, 0.12, (rows - 1) * _ROW + _MAP)
    bar = color_bar(figure, ScalarMappable(Normalize(0, 1), colormap), place)
    if stretch:
        bar.set_ticks([0, 1], labels=["min", "max"])
    bar.set_label("each map's own range: do not compare maps" if stretch else r"attention $\alpha$", fontsize=8)
    figure.suptitle(
        for_figure(title or "Attention maps in forward order"),
        x=_MARGIN / width, y=1 - 0.18 / height, ha="left", va="top", size=11,
    )  # fmt: skip
    return figure


def face_atlas(face: RestoredFace, title: str) -> bytes:
    """One face's maps beside what the network was given, what it made of it and the photo's own pixels, as a PNG."""
    pictures = {"network input": face.degraded, "restored": face.restored, "cut from photo": face.crop}
    return figure_png(atlas_figure(face.alphas, title=title, pictures=pictures))


def maps_npz(alphas: dict[str, Tensor]) -> bytes:
    """Raw maps as an NPZ file: unit name -> (C,h,w) float32, in forward order."""
    return encode_npz({name: alpha.detach().float().cpu().numpy() for name, alpha in alphas.items()})


def _draw(axes: Axes, alpha: np.ndarray, channels: int, stretch: bool, colormap: str) -> None:
    low, high = (alpha.min(), alpha.max()) if stretch else (0, 1)
    axes.imshow(alpha, cmap=colormap, vmin=low, vmax=high, interpolation="nearest")
    height, width = alpha.shape
    size = f"{height}x{width}" + (f", {channels} ch." if channels > 1 else "")
    range_ = f"{low:.2f}…{high:.2f}" if stretch else f"mean {alpha.mean():.2f}"
    axes.text(0, 1.035, f"{size}  {range_}", transform=axes.transAxes, fontsize=6, color="0.35")


def mean_attention(alphas: dict[str, Tensor]) -> np.ndarray | None:
    """Maps (1,C,h,w) or (C,h,w) -> (h,w) float32, the mean over all units at the largest map's size; None of none."""
    if not alphas:
        return None
    maps = [mean_map(alpha) for alpha in alphas.values()]
    side = max(map(len, maps))
    return np.mean([enlarge(alpha, side) for alpha in maps], axis=0)


def in_inches(figure: Figure, x: float, y: float, w: float, h: float) -> Axes:
    """Axes placed in inches from the top left, so that every map has exactly the same size."""
    width, height = figure.get_size_inches()
    return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))


def color_bar(figure: Figure, image: ScalarMappable, place: Axes) -> Colorbar:
    """The image's colours and their values, with small ticks and no frame."""
    bar = figure.colorbar(image, cax=place)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    return bar


def bare(axes: Axes) -> None:
    """Nothing around what is shown."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def figure_png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as a PNG file."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()
