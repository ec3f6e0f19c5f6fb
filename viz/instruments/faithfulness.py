"""Does the rest of the restored face change more where a map is high? The deletion test, from image to image.

attention, gradient, Sobel, random -> saliency (S,S) -> cells of one colour of a checkerboard, ranked
    -> the most, the least salient p % imputed from their neighbours -> network
    -> RMS change at the cells of the other colour -> curves over p -> score -1..1; over faces: mean and 95 % interval

Petsiuk et al. 2018 (RISE, arXiv 1806.07421, section 4.3) delete pixels in order of saliency and watch a class score.
Rong et al. 2022 (ROAD, arXiv 2202.00449) show that what replaces them must not tell where they were, and impute.
Here the answer is a picture, and a picture changes at a damaged pixel whatever any map says. Hence the checkerboard:
only cells of one colour are damaged and only those of the other are watched ("elsewhere"), then with colours swapped.
So every ranking is watched at the same pixels, and every damaged cell has the same share of its border with them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import scipy
import skimage
import torch
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from sparnet.attention import enlarge
from sparnet.errors import UserError
from sparnet.images import to_image
from sparnet.metrics import Estimate, estimates, labelled
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import MATTERS, Instrument, Option, Seed
from viz.instruments.regions import area_weights
from viz.subject import Subject, attending, over_faces, spatial_maps
from viz.views import Bars, Lines, Panel, Values, View

MEANING = (
    "How much the rest of the restored face changes when the most salient cells of the input are damaged, against the "
    "least salient: 1 is all of the change from the first cells, 0 is no better than chance, below 0 is worse; a high "
    "score does not say that the network needs its attention there, since a map that merely finds edges scores too, "
    "unless it is high for as much damage of the input as well."
)
CELLS = 16  # on a side of the face: what SPARNet's faces of 16x16 pixels had to tell
LEVELS = 10  # steps of p up to 50 %, where all cells of one colour are damaged
NOISE = 0.02  # standard deviation, in [-1,1]: 1 % of the range
PROBES = 4  # of the gradient map: its noise is averaged further over each cell
MEASURES = ("elsewhere", "anywhere", "input")
PER_DAMAGE = "elsewhere per damage"
SCORES = (*MEASURES, PER_DAMAGE)
ALPHA, GRADIENT, SOBEL, RANDOM = "mean attention", "gradient", "Sobel", "random"
SCALED = "scaled attention"
MapsToo = Annotated[
    list[str] | None, Option("Test the own maps of these units, too, beside the mean of all.", units=True, shown=True)
]
Cells = Annotated[int, Option("Cells along a side of the face; one after the other is damaged.", 2, 128)]
Levels = Annotated[int, Option("Steps until half of the face is damaged.", 1, 1000)]
Draws = Annotated[int, Option("How many random maps to compare with.", 1, 1000)]

_WEIGHTS = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))  # of the neighbours, ROAD
_SOLVED = 1e-4  # largest residual of an imputed pixel, in [-1,1]
_BATCH = 16 * 128 * 128  # pixels at once through the network
_NOTE = (
    "Cells of the input are damaged in a map's order, or in the reverse; the rest of the restored face is watched for "
    "changes. Good: the solid curve rises at once, the dashed only at the end. All orders end alike, with half of the "
    "input damaged. Where the score of the input's own change is as high, the map may only find what damages easily."
)


@dataclass(frozen=True, eq=False)
class Curves:
    """RMS change in 8-bit levels, (measures, levels) in the order of `MEASURES`, at p = 50 % * (1 .. levels) / levels.

    "elsewhere" is of the restored face at the cells that were not to be damaged, "anywhere" of the whole restored
    face, "input" of the input: what was done to it. All are of both colours together.
    """

    most: ndarray  # the most salient cells damaged
    least: ndarray

    def scores(self) -> dict[str, float | None]:
        """The area between the curves of each measure, `area_between`, and of elsewhere over input.

        The last is what a damage of the same size does: a map that only finds what damages easily has 0 there.
        """
        with np.errstate(invalid="ignore"):  # nothing was done to the input
            most, least = (np.vstack((curves, curves[0] / curves[2])) for curves in (self.most, self.least))
        return dict(zip(SCORES, map(area_between, most, least), strict=True))


def area_between(most: ndarray, least: ndarray) -> float | None:
    """Curves (levels,) that end alike -> mean over the levels before of (most - least) / end; None: nothing changes.

    That is the trapezoidal area between them, which is 0 at p = 0 and at the end, scaled so that 1 is a map that names
    the only cells that matter and 0 is a random order's expectation. Below 0, the least salient cells matter more. As
    more damage can change less, a score may pass 1 by a little.
    """
    return float((most - least)[:-1].mean() / most[-1]) if most[-1] > 0 else None


def gradient_map(network: Callable[[Tensor], Tensor], face: Tensor, probes: int = PROBES, seed: int = 0) -> ndarray:
    """(1,3,S,S) -> (S,S): ||d restored / d pixel||, over all values of the restored face and the pixel's channels.

    The mean over random signs v of (J^T v)^2 is diag(J^T J) (Bekas, Kokiopoulou and Saad 2007), J the Jacobian at this
    face: the exact effect of an infinitely small change only.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(face)
    with torch.enable_grad():
        face = face.detach().clone().requires_grad_()
        restored = network(face)
        for i in range(probes):
            signs = 2 * torch.randint(2, restored.shape, generator=generator) - 1
            (gradient,) = torch.autograd.grad(restored, face, signs.to(restored), retain_graph=i + 1 < probes)
            total += gradient.square()
    return (total.sum(1)[0] / probes).sqrt().cpu().numpy()


def sobel_map(face: Tensor) -> ndarray:
    """(1,3,S,S) -> (S,S): length of the Sobel gradient of the face's luminance; it knows nothing of the network."""
    return skimage.filters.sobel(skimage.color.rgb2gray(to_image(face)))


def impute(face: Tensor, removed: Tensor) -> Tensor:
    """(3,S,S), (B,S,S) bool -> (B,3,S,S): each removed pixel becomes the weighted mean of its eight neighbours.

    Those removed too included, so all follow from one linear system (Rong et al. 2022, section 4): weights 1/6 beside
    and 1/12 across, scaled up at the border. Symmetric and positive definite, it is solved by conjugate gradients.
    """
    kernel, free = face.new_tensor(_WEIGHTS).expand(len(face), 1, 3, 3), removed[:, None].to(face)
    degree = F.conv2d(torch.ones_like(face), kernel, padding=1, groups=len(face))

    def laplacian(x: Tensor) -> Tensor:
        return degree * x - F.conv2d(x, kernel, padding=1, groups=len(face))

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2, 3), keepdim=True)

    tiny = torch.finfo(face.dtype).tiny  # a system that is solved already must not divide by 0
    x = face * (1 - free)
    residual = -free * laplacian(x)
    direction, energy = residual, dot(residual, residual)
    while residual.abs().max() > _SOLVED:
        change = free * laplacian(direction)
        step = energy / dot(direction, change).clamp_min(tiny)
        x, residual = x + step * direction, residual - step * change
        last, energy = energy, dot(residual, residual)
        direction = residual + energy / last.clamp_min(tiny) * direction
    return x


def ranking(saliency: ndarray, cells: int = CELLS, seed: int = 0) -> tuple[ndarray, ndarray]:
    """(S,S) -> the cells of each colour of the board, most salient first, as indices into (cells * cells).

    A cell's saliency is its mean; equal cells come in a random order. `UserError` if the board does not fit the face.
    """
    if cells % 2 or len(saliency) % cells:
        raise UserError(
            f"A face of {len(saliency)} pixels cannot be a checkerboard of {cells} x {cells} cells. Choose an even "
            "number of cells that divides it."
        )
    mean = area_weights(saliency, cells).ravel()
    shuffled = np.random.default_rng(seed).permutation(mean.size)
    ranked = shuffled[np.argsort(-mean[shuffled], kind="stable")]
    color = np.indices((cells, cells)).sum(0).ravel() % 2
    return ranked[color[ranked] == 0], ranked[color[ranked] == 1]


def deletions(
    network: Callable[[Tensor], Tensor],
    face: Tensor,
    maps: Sequence[ndarray],
    cells: int = CELLS,
    levels: int = LEVELS,
    seed: int = 0,
) -> list[Curves]:
    """The test of maps (S,S) on one face (1,3,S,S), in at most 4 * (levels - 1) passes a map, and 3 for all.

    The seed is of the noise and of ties. One field of noise serves every set of cells, so that rankings differ only in
    what they choose; a set that several curves have, as all end with every cell of a colour, is damaged once.
    """
    size = face.shape[-1]
    noise = NOISE * torch.randn(face.shape, generator=torch.Generator().manual_seed(seed)).to(face)
    squares = np.zeros((len(maps), 2, len(MEASURES), levels))  # most, least; each colour adds the mean of its squares
    sets: dict[bytes, list[tuple[int, int, int, int]]] = {}  # the cells as a mask -> the curves' points that need it
    for i, saliency in enumerate(maps):
        for color, ranked in enumerate(ranking(saliency, cells, seed)):
            for end, level in np.ndindex(2, levels):
                chosen = np.zeros(cells * cells, bool)
                chosen[(ranked if end == 0 else ranked[::-1])[: round((level + 1) * len(ranked) / levels)]] = True
                sets.setdefault(chosen.tobytes(), []).append((i, end, color, level))
    board = np.indices((cells, cells)).sum(0) % 2
    batch = max(1, _BATCH // size**2)
    with torch.no_grad():
        before = network(face)
        for start in range(0, len(sets), batch):
            keys = list(sets)[start : start + batch]
            chosen = np.frombuffer(b"".join(keys), bool).reshape(-1, cells, cells)
            removed = torch.from_numpy(chosen.repeat(size // cells, 1).repeat(size // cells, 2)).to(face.device)
            imputed = (impute(face[0], removed) + noise).clamp(-1, 1)
            damaged = torch.where(removed[:, None], imputed, face)
            output = (127.5 * (network(damaged) - before)).square().mean(1).cpu().numpy()
            change = (127.5 * (damaged - face)).square().mean((1, 2, 3)).cpu().numpy()
            for key, squared, damage in zip(keys, output, change, strict=True):
                for i, end, color, level in sets[key]:
                    watched = enlarge(board != color, size)
                    squares[i, end, :, level] += squared[watched].mean(), squared.mean(), damage
    return [Curves(*ends) for ends in np.sqrt(squares / 2)]


def saliency_maps(subject: Subject, units: Sequence[str], draws: int, seed: int) -> dict[str, ndarray]:
    """The maps (S,S) that are tested: mean attention, attention of `units`, gradient, Sobel, `draws` random ones.

    The mean of the maps as they are is that of the widest open units; brought to one scale, all units count alike.
    """
    attention, size = spatial_maps(subject), subject.degraded.shape[-1]
    attending(subject, units)
    generator = np.random.default_rng(seed)
    return {
        ALPHA: np.mean([enlarge(alpha, size) for alpha in attention.values()], axis=0),
        SCALED: np.mean([enlarge(standardised(alpha), size) for alpha in attention.values()], axis=0),
        **{unit: enlarge(attention[unit], size) for unit in units},
        GRADIENT: gradient_map(subject.model, subject.degraded, seed=seed),
        SOBEL: sobel_map(subject.degraded),
        **{f"{RANDOM} {i + 1}": generator.random((size, size)) for i in range(draws)},
    }


def standardised(alpha: ndarray) -> ndarray:
    """The map with mean 0 and standard deviation 1 over its places; a constant one is 0."""
    return (alpha - alpha.mean()) / (alpha.std() or 1)


def study(
    subject: Subject,
    units: MapsToo = None,
    cells: Cells = CELLS,
    levels: Levels = LEVELS,
    draws: Draws = 3,
    seed: Seed = 0,
    progress: Progress = silent,
) -> Finding:
    """The test on one face: mean attention, that of `units`, and what a gradient, edges and chance can do."""
    maps = saliency_maps(subject, units or (), draws, seed)
    curves = {}
    for i, (name, saliency) in enumerate(maps.items()):
        progress(i, len(maps), f"Damaging the face by {name}")
        (curves[name],) = deletions(subject.model, subject.degraded, [saliency], cells, levels, seed)
    progress(len(maps), len(maps), "Done")
    pooled, chance = _pooled(curves)
    scores = {name: curve.scores() for name, curve in pooled.items()}
    ranks = {name: _ranks(area_weights(saliency, cells)) for name, saliency in maps.items()}
    numbers = {
        "model": subject.name,
        **_settings(cells, levels, draws, seed),
        "scores": scores,
        "scores_of_random_draws": chance,
        "rms_elsewhere_at_50_percent": float(pooled[ALPHA].most[0, -1]),
    }
    arrays = {f"{name}.{end}": getattr(curve, end) for name, curve in curves.items() for end in ("most", "least")}
    known = [score for score in chance if score is not None]
    drawn = Estimate(scores[RANDOM]["elsewhere"], min(known, default=None), max(known, default=None), len(known))
    shown = scores | {RANDOM: scores[RANDOM] | {"elsewhere": drawn}}
    view = _view(
        [Panel("input", to_image(subject.degraded))],
        ranks,
        {name: np.stack((curve.most[0], curve.least[0])) for name, curve in pooled.items()},
        {measure: [score[measure] for score in shown.values()] for measure in SCORES},
        "; the line is from the lowest to the highest random map",
    )
    title = f"Does the rest of the face depend on what {subject.name} attends to? One face"
    arrays |= {f"{name}.ranks": values for name, values in ranks.items()}
    return Finding("faithfulness", MEANING, numbers, arrays, view, title, _NOTE)


def study_many(
    subjects: Iterable[Subject],
    units: MapsToo = None,
    cells: Cells = CELLS,
    levels: Levels = LEVELS // 2,
    draws: Draws = 1,
    seed: Seed = 0,
    progress: Progress = silent,
) -> Finding:
    """The test over faces of one network: mean scores, and attention's lead over each baseline on the same face.

    95 % bootstrap intervals over the faces; a lead is an answer only if its interval leaves 0 out. It is that of the
    maps brought to one scale, for as much damage of the input.
    """
    names, ranks = [], np.zeros(())

    def measure(i: int, subject: Subject) -> dict[str, ndarray]:
        nonlocal names, ranks
        maps = saliency_maps(subject, units or (), draws, seed + i)  # other random maps for every face
        found = deletions(subject.model, subject.degraded, list(maps.values()), cells, levels, seed + i)
        pooled, _ = _pooled(dict(zip(maps, found, strict=True)))
        names = list(pooled)
        shown = [maps.get(name, maps[f"{RANDOM} 1"]) for name in names]
        ranks = ranks + np.stack([_ranks(area_weights(saliency, cells)) for saliency in shown])
        return {
            "scores": np.array([list(curve.scores().values()) for curve in pooled.values()], float),
            "curves": np.array([[curve.most, curve.least] for curve in pooled.values()]),
        }

    last, arrays = over_faces(subjects, measure, progress, "Damaging")
    scores, faces = arrays["scores"], len(arrays["scores"])
    found = estimates(scores, seed)  # (maps, SCORES)
    baselines, controlled = (GRADIENT, SOBEL, RANDOM), scores[..., SCORES.index(PER_DAMAGE)]
    own = controlled[:, names.index(SCALED)]
    lead = np.stack([own - controlled[:, names.index(name)] for name in baselines], axis=1)
    arrays["mean_ranks"] = ranks / faces
    numbers = {
        "model": last.name,
        "faces": faces,
        **_settings(cells, levels, draws, seed),
        "scores": labelled(found, names, SCORES),
        "lead_of_attention": labelled(estimates(lead, seed), baselines),
    }
    view = _view(
        [],
        dict(zip(names, arrays["mean_ranks"], strict=True)),
        dict(zip(names, arrays["curves"].mean(0)[:, :, 0], strict=True)),
        dict(zip(SCORES, found.T, strict=True)),
        "; lines: 95 % interval over the faces",
    )
    title = f"Does the rest of the face depend on what {last.name} attends to? Mean of {faces} faces"
    return Finding("faithfulness", MEANING, numbers, arrays, view, title, _NOTE)


def _view(
    pictures: list[Panel],
    ranks: Mapping[str, ndarray],
    curves: Mapping[str, ndarray],
    scores: Mapping[str, Values],
    spread: str,
) -> View:
    """Of each map the ranks (cells,cells) 0..1, the curves (most and least, levels), and by `SCORES` its scores."""
    series = {
        "restored face elsewhere": scores["elsewhere"],
        "the input's own change": scores["input"],
        "elsewhere, for as much change of the input": scores[PER_DAMAGE],
    }
    damaged = _percents(next(iter(curves.values())).shape[1])
    ends = enumerate(("most", "least"))
    lines = {f"{name}, {end} salient": curve[i] for i, end in ends for name, curve in curves.items()}
    return View(
        pictures,
        {"rank of each cell, 1 the most salient": [Panel(name, values) for name, values in ranks.items()]},
        {
            f"The share of the change that the most salient cells bring before the least do; 0 is chance{spread}:": (
                Bars(curves, series, "score, -1 to 1", ends=(-1, 1))
            ),
            "How much the rest of the restored face changes when so many cells are damaged:": (
                Lines(damaged, lines, "cells damaged, %", "RMS, 8-bit levels", colors=len(curves))
            ),
        },
    )


def _ranks(values: ndarray) -> ndarray:
    """The share of the other cells that are lower, 0..1; those equal count half."""
    return (scipy.stats.rankdata(values).reshape(values.shape) - 1) / (values.size - 1)


def _pooled(curves: Mapping[str, Curves]) -> tuple[dict[str, Curves], list[float | None]]:
    """The curves with those of all random maps as one mean, and the random maps' scores."""
    draws = [curve for name, curve in curves.items() if name.startswith(RANDOM)]
    mean = Curves(*(np.mean([getattr(curve, end) for curve in draws], axis=0) for end in ("most", "least")))
    rest = {name: curve for name, curve in curves.items() if not name.startswith(RANDOM)}
    return rest | {RANDOM: mean}, [curve.scores()["elsewhere"] for curve in draws]


def _percents(levels: int) -> list[float]:
    return [50 * (level + 1) / levels for level in range(levels)]


def _settings(cells: int, levels: int, draws: int, seed: int) -> dict:
    return {
        "cells": cells,
        "percent": _percents(levels),
        "random_draws": draws,
        "noise": NOISE,
        "gradient_probes": PROBES,
        "seed": seed,
    }


INSTRUMENT = Instrument(
    "faithfulness",
    MATTERS,
    "Does the rest of the face follow?",
    "Cells of the input are damaged in the order of a map, and the rest of the restored face is watched; beside "
    "attention a gradient, an edge filter and chance.",
    study,
    over_faces=study_many,
    slow=True,
)
