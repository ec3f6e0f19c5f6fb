"""What one looks at while a run goes on, drawn anew at every validation.

    losses, scores -> remember -> history, kept in the checkpoint -> curves -> OUT/curves.png, over images seen
    astronaut -> degraded -> averaged model -> atlas -> OUT/attention/step-0000500.png: where every unit looks
                                                     -> OUT/attention/step-0000500.npz: its numbers

The face is the same in every run, so that runs compare; the frames of a run have one size and sort, as a film needs.
`python -m viz training --run OUT` lays them beside each other.
"""

from math import ceil

import numpy as np
import skimage.data
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy import ndarray
from torch import Tensor

from sparnet import SPARNet, images
from sparnet.attention import atlas_figure, figure_png, mean_map
from sparnet.files import encode_npz, make_folder, save_bytes
from training.data import cut
from training.degradations import fixed
from training.recipes import Recipe
from training.run import History, Run, say, show

ASTRONAUT = (150, 33, 150)  # x, y, side of her face's square: eyes and mouth about where aligned faces have them
SCORES = {"validation/psnr": "PSNR on Y, dB", "validation/lpips": "LPIPS, less is better"}
INK, STRONG, PALE, FLOOR = "0.2", "#20639b", "#b8cfe3", "0.55"
SMALL = {"fontsize": 7, "color": FLOOR}


def remember(run: Run, values: dict[str, float]) -> None:
    """Keep losses ("train/...") and scores ("validation/...") of this step for the curves."""
    for name, value in values.items():
        run.progress.history.setdefault(name, []).append((run.progress.step, value))


def watch(run: Run) -> None:
    """Draw the curves and the probe's attention, into files and, the attention, into TensorBoard."""
    recipe, step, out = run.recipe, run.progress.step, run.job.out
    if run.progress.history:
        save_bytes(figure_png(curves(run.progress.history, recipe), 120), out / "curves.png")
    model = run.averaged
    if not isinstance(model, SPARNet) or model.config.attention == "none":
        if step <= recipe.validate_every:  # once
            say(f"{recipe.name} has no attention maps to make pictures of")
        return
    degraded, restored, alphas = probe(model, run.accelerator.device)
    title = f"{recipe.name} after {step * recipe.batch_size:,} images, step {step:,}"
    atlas = atlas_figure(alphas, title=title, pictures={"degraded": degraded, "restored": restored})
    frame = figure_png(atlas, 100)
    make_folder(out / "attention")
    save_bytes(frame, out / "attention" / f"step-{step:07d}.png")
    half = {name: mean_map(alpha).astype(np.float16) for name, alpha in alphas.items()}  # finer than a colour's step
    numbers = encode_npz({"degraded": degraded, "restored": restored} | half)
    save_bytes(numbers, out / "attention" / f"step-{step:07d}.npz")
    show(run, "attention", images.decode(frame))


def probe(model: SPARNet, device: torch.device) -> tuple[ndarray, ndarray, dict[str, Tensor]]:
    """The astronaut, degraded and restored, (S,S,3) uint8; and each unit's alpha (C,h,w)."""
    config = model.config
    degraded = fixed(cut(skimage.data.astronaut(), *ASTRONAUT, config.size), config.degraded_size, "astronaut")
    with torch.inference_mode():
        trace = model.trace(images.to_tensor(degraded).to(device))
    return degraded, images.to_image(trace.restored), {name: alpha[0] for name, alpha in trace.alphas.items()}


def curves(history: History, recipe: Recipe) -> Figure:
    """A panel for each loss and score, over images seen: the values, their running mean, bicubic's score, the best."""
    names = [name for name in history if name.startswith("train/")] + [name for name in SCORES if name in history]
    columns = min(len(names), 4)
    rows = ceil(len(names) / columns)
    figure = Figure((3.4 * columns, 2.5 * rows + 0.4), facecolor="white", layout="constrained")
    figure.suptitle(
        f"{recipe.name}: losses on training faces, scores on held-out faces", fontsize=10, color=INK, x=0.01, ha="left"
    )
    for name, axes in zip(names, figure.subplots(rows, columns, squeeze=False).flat, strict=False):
        _curve(axes, history, name, recipe)
    for axes in figure.axes[len(names) :]:
        axes.axis("off")
    return figure


def _curve(axes: Axes, history: History, name: str, recipe: Recipe) -> None:
    steps, values = np.array(history[name]).T
    seen = steps * recipe.batch_size
    window = np.ones(max(1, len(values) // 40))
    mean = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
    axes.plot(seen, values, color=PALE, linewidth=0.8)
    axes.plot(seen, mean, color=STRONG, linewidth=1.6, marker="." if len(values) < 40 else None)
    if name in SCORES:
        best = np.argmax(values) if name == "validation/psnr" else np.argmin(values)
        axes.plot(seen[best], values[best], "o", color=STRONG, markersize=5, clip_on=False)
        note = f"best {values[best]:.4g}"
    else:
        note = f"now {mean[-1]:.3g}"
    if name == "validation/psnr":
        bicubic = values[-1] - history["validation/gain"][-1][1]
        axes.axhline(bicubic, color=FLOOR, linewidth=0.8, linestyle="--")
        axes.annotate("bicubic", (1, bicubic), xycoords=("axes fraction", "data"), **SMALL, ha="right", va="bottom")
    if recipe.gan and 0 < recipe.gan.pixel_steps < steps[-1]:
        axes.axvline(recipe.gan.pixel_steps * recipe.batch_size, color=FLOOR, linewidth=0.8, linestyle=":")
    title = SCORES.get(name, name.removeprefix("train/").replace("_", " ") + " loss")
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    axes.set_title(note, fontsize=8, loc="right", color=STRONG)
    axes.set_xlabel("images seen", fontsize=8, color=INK)
    axes.set_xlim(0, max(entries[-1][0] for entries in history.values()) * recipe.batch_size)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=7, length=2, colors=INK, which="both")
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.7")
