"""Which input pixels made a patch of the restored face what it is: a local attribution map.

degraded -> path: blurred by sigma ... 0 -> network -> detector of the patch, a number at every step
                                                     -> sum of gradient * step: attribution (S,S), signed
attribution -> its sum is the number's change (completeness)
            -> cells, the pixels that the face had before it was enlarged -> Gini coefficient -> diffusion index
            -> overlap with every unit's alpha

"Interpreting Super-Resolution Networks with Local Attribution Maps", Gu and Dong, CVPR 2021, arXiv 2011.11036 (LAM).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sparnet.attention import overlay
from sparnet.errors import UserError
from sparnet.model import SPARNet
from sparnet.restorer import Progress
from viz.finding import Finding, silent
from viz.instrument import MATTERS, PATCH, Instrument, Option
from viz.instruments.agreement import SHARE, correlation, shrink, top_weights
from viz.subject import Subject, spatial_maps
from viz.views import DIVERGING, Bars, Panel, View

MEANING = (
    "The input pixels whose detail, as it returns from blur, made the marked patch of the restored face what it is; "
    "this is what the network used of this input, not whether it was right to, and overlap with a unit's attention "
    "does not prove that the attention caused it."
)
STEPS = 25  # of the path; with the gradient in the middle of each they miss some 0.1 to 2 % of the change
TOLERANCE = 0.05  # of the change that the attributions may miss: Sundararajan et al., ICML 2017, section 5

_SIGMA = 1.2  # as in the authors' demo, in pixels of the degraded face before it was enlarged
_BLIND_SMALL = 64  # side of the small face if the network was trained on no one size: about the middle of the recipes'
_FLAT = 1e-3  # levels of [-1,1], a quarter of a step of 8 bits: where the gradient's length is rounded to be smooth
_BATCH_PIXELS = 4 * 128 * 128  # of the faces that go through the network at once, with their gradients

Patch = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the restored face; right and bottom are the first outside."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Of one patch: what each input pixel gave to the change of the detector's value along the path."""

    pixels: np.ndarray  # (S,S) float64, signed, summed over RGB; in units of the detector
    blurred: float  # the detector's value where the path begins
    value: float  # and for the real input

    @property
    def change(self) -> float:
        return self.value - self.blurred

    @property
    def residual(self) -> float:
        """|sum of the attributions - change| / |change|: 0 for a path of infinitely many steps (completeness)."""
        return float(abs(self.pixels.sum() - self.change) / max(abs(self.change), np.finfo(float).tiny))


@dataclass(frozen=True)
class Overlap:
    """How an attribution lies to one unit's alpha, on alpha's grid; |attribution| is averaged over each cell's area."""

    correlation: float | None  # Pearson's, -1..1; None where alpha is constant
    in_top: float  # share of |attribution| in the top 20 % of alpha, 0..1; chance and a constant alpha: 0.2

    @classmethod
    def of(cls, pixels: np.ndarray, alpha: np.ndarray, share: float = SHARE) -> "Overlap":
        strength = shrink(np.abs(pixels), len(alpha)).astype(np.float64)
        inside = (strength * top_weights(alpha, share)).sum()
        return cls(correlation(strength, alpha), float(inside / strength.sum()) if inside else 0.0)


def gradient_strength(restored: Tensor, patch: Patch) -> Tensor:
    """(B,3,S,S) -> (B,): D = sum over the patch and RGB of sqrt(dx^2 + dy^2 + e^2), e = 0.001: how much detail it has.

    dx, dy: the differences to the pixels right and below, 0 beyond the border. As in the authors' demo; it asks for
    features rather than for brightness; e makes it differentiable where the patch is flat.
    """
    left, top, right, bottom = patch
    padded = F.pad(restored, (0, 1, 0, 1), mode="replicate")
    here = padded[..., top:bottom, left:right]
    dx = padded[..., top:bottom, left + 1 : right + 1] - here
    dy = padded[..., top + 1 : bottom + 1, left:right] - here
    return (dx.square() + dy.square() + _FLAT**2).sqrt().sum((1, 2, 3))


def patch_sum(restored: Tensor, patch: Patch) -> Tensor:
    """(B,3,S,S) -> (B,): the sum over the patch and RGB, in levels of [-1,1]: how bright it is."""
    left, top, right, bottom = patch
    return restored[..., top:bottom, left:right].sum((1, 2, 3))


def blur(face: np.ndarray, sigma: float) -> np.ndarray:
    """(S,S,3) float32 -> the same, Gaussian blur of `sigma` pixels, mirrored at the border; 0: unchanged."""
    return cv2.GaussianBlur(face, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101) if sigma > 0 else face


def progressive(face: np.ndarray, sigma: float, t: float) -> np.ndarray:
    """The paper's path: blurred by (1 - t) sigma, so that coarse detail returns before fine detail; t 0..1."""
    return blur(face, (1 - t) * sigma)


def linear(face: np.ndarray, sigma: float, t: float) -> np.ndarray:
    """From the face blurred by sigma to the face in a straight line: all detail returns at once; t 0..1."""
    return ((1 - t) * blur(face, sigma) + t * face).astype(face.dtype)


DETECTORS: dict[str, Callable[[Tensor, Patch], Tensor]] = {"gradient": gradient_strength, "sum": patch_sum}
PATHS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {"progressive": progressive, "linear": linear}


def attribute(
    model: SPARNet,
    degraded: Tensor,
    patch: Patch,
    sigma: float,
    detector: str = "gradient",
    path: str = "progressive",
    steps: int = STEPS,
    progress: Progress = silent,
) -> Attribution:
    """Path-integrated gradients of D(F(x)), D a detector of the patch, F the network, along a path g of inputs x.

    LAM_i = integral over t of dD(F(g(t)))/dg_i * dg_i/dt, here the sum over k = 0 ... steps - 1 of the gradient at
    t = (k + 1/2)/steps times g((k + 1)/steps) - g(k/steps): the gradient is taken in the middle of each step, where the
    paper takes it at an end, so the residual falls with the square of the steps while the network is smooth.
    """
    face = degraded[0].permute(1, 2, 0).cpu().numpy()
    detect, at = DETECTORS[detector], PATHS[path]

    def faces(ts: list[float]) -> Tensor:
        return (
            torch.from_numpy(np.stack([at(face, sigma, t) for t in ts])).permute(0, 3, 1, 2).contiguous().to(degraded)
        )

    with torch.no_grad():
        ends = detect(model(faces([0, 1])), patch).double().tolist()
    pixels = np.zeros(face.shape[:2])
    batch = max(1, _BATCH_PIXELS // pixels.size)
    for start in range(0, steps, batch):
        progress(start, steps, f"Step {start + 1} of {steps}")
        ks = range(start, min(start + batch, steps))
        with torch.enable_grad():
            x = faces([(k + 0.5) / steps for k in ks]).requires_grad_()
            (gradient,) = torch.autograd.grad(detect(model(x), patch).sum(), x)  # and nothing for the weights
        step = faces([(k + 1) / steps for k in ks]) - faces([k / steps for k in ks])
        pixels += (gradient.double() * step.double()).sum((0, 1)).cpu().numpy()
    progress(steps, steps, "Done")
    return Attribution(pixels, *ends)


def gini(values: np.ndarray) -> float | None:
    """Inequality of n values >= 0: sum over i, j of |v_i - v_j| / (2 n^2 mean); None where all are 0.

    0 if all are equal, 1 - 1/n if one has all. Sorted, v_1 smallest: sum over i of (2 i - n - 1) v_i / (n sum v).
    """
    v = np.sort(values, axis=None).astype(np.float64)
    if not v[-1]:
        return None
    rank = np.arange(1, v.size + 1)
    return float((2 * rank - v.size - 1) @ v / (v.size * v.sum()))


def cells(pixels: np.ndarray, small: int) -> np.ndarray:
    """(S,S) -> (small,small) float64: the sums over the pixels that the face had before it was enlarged.

    Each stands for its own square only, though bicubic enlarging spread it into its neighbours too.
    """
    return shrink(pixels, small).astype(np.float64) * (len(pixels) / small) ** 2


def diffusion_index(pixels: np.ndarray, small: int) -> float | None:
    """The paper's DI = (1 - Gini) * 100 of |attribution|, summed in `cells`: 100 if all count alike, near 0 if few do.

    Over the small face's pixels, as in the paper; single pixels of the enlarged one would tell of the network's strides
    instead. None if nothing is attributed.
    """
    inequality = gini(cells(np.abs(pixels), small))
    return None if inequality is None else 100 * (1 - inequality)


def patch_around(x: float, y: float, side: int, size: int) -> Patch:
    """The patch of this side about the pixel x, y of a size x size face, moved inside where it would leave it."""
    left, top = (min(max(round(center - side / 2), 0), size - side) for center in (x, y))
    return left, top, left + side, top + side


def study(
    subject: Subject,
    patch: Annotated[Patch | None, PATCH] = None,
    detector: Annotated[
        Literal["gradient", "sum"],
        Option("What of the part is traced: its detail (gradient) or its brightness (sum).", shown=True),
    ] = "gradient",
    path: Annotated[
        Literal["progressive", "linear"],
        Option("How the blurred input becomes the real one: ever less blur, or mixed."),
    ] = "progressive",
    sigma: Annotated[
        float | None, Option("Blur where the path begins, in pixels; empty: by the model.", 0, 1000)
    ] = None,
    steps: Annotated[int, Option("Steps of the path; with more, less of the change is missed.", 1, 1000)] = STEPS,
    progress: Progress = silent,
) -> Finding:
    """Where the patch came from, and how that lies to every unit's attention; array "attribution" (S,S), signed.

    patch: None takes an eighth of the face's side in its middle. sigma: of the blur where the path begins, in pixels of
    the face; None: 1.2 of those the face had before it was enlarged, 1.2/64 of the side for a network of no one size.
    `UserError` if the patch is not inside the face, or the network has no attention that has places.
    """
    alphas = spatial_maps(subject)
    size = subject.model.config.size
    patch = patch or patch_around(size / 2, size / 2, size // 8, size)
    left, top, right, bottom = patch
    if not (0 <= left < right <= size and 0 <= top < bottom <= size):
        raise UserError(
            f"The patch {left},{top},{right},{bottom} is not inside the face of {size} x {size} pixels. "
            "Give it as left,top,right,bottom."
        )
    small = subject.model.config.degraded_size or _BLIND_SMALL
    sigma = sigma or _SIGMA * size / small
    found = attribute(subject.model, subject.degraded, patch, sigma, detector, path, steps, progress)
    overlaps = {name: Overlap.of(found.pixels, alpha) for name, alpha in alphas.items()}
    strength, tiny = np.abs(found.pixels), np.finfo(float).tiny
    numbers = {
        "model": subject.name,
        "patch": list(patch),
        "detector": detector,
        "path": path,
        "sigma": sigma,
        "steps": steps,
        "value": found.value,
        "value_blurred": found.blurred,
        "change": found.change,
        "attributed": float(found.pixels.sum()),
        "residual": found.residual,
        "tolerance": TOLERANCE,
        "complete": found.residual <= TOLERANCE,
        "diffusion_index": diffusion_index(found.pixels, small),
        "cells": small,
        "inside_patch": float(strength[top:bottom, left:right].sum() / max(strength.sum(), tiny)),
        "units": {name: asdict(overlap) for name, overlap in overlaps.items()},
    }
    faces = subject.faces
    framed = [Panel(name, _framed(face, patch)) for name, face in faces.items()]
    signed, end = cells(found.pixels, small), max(float(strength.max()), tiny)
    limit = max(float(np.abs(signed).max()), tiny)
    series = {
        "correlation with alpha": [overlap.correlation for overlap in overlaps.values()],
        f"share in the top {SHARE:.0%} of alpha": [overlap.in_top for overlap in overlaps.values()],
    }
    chart = Bars(overlaps, series, "overlap", {SHARE: "share by chance"}, (-1, 1))
    diagrams = {"How the attribution lies to every unit's alpha:": chart}
    maps = [Panel("attribution", found.pixels, (-end, end), DIVERGING)]
    maps += [Panel(unit, alpha) for unit, alpha in alphas.items()]
    printed = [
        *framed,
        Panel(f"attribution of its {small}x{small} pixels", signed, (-limit, limit), DIVERGING),
        Panel("|attribution| / strongest, over the input", overlay(faces["degraded"], strength / end, "inferno")),
    ]
    state = "complete" if numbers["complete"] else "NOT complete: take more steps"
    spread = "undefined" if numbers["diffusion_index"] is None else f"{numbers['diffusion_index']:.1f}"
    note = (
        f"Diffusion index {spread}; {numbers['inside_patch']:.0%} of |attribution| inside the patch. {detector} of the "
        f"patch {found.blurred:.2f} → {found.value:.2f} from blur to input; attributions miss {found.residual:.2%} of "
        f"the change: {state}. Orange raised it, violet lowered it."
    )
    return Finding(
        "query",
        MEANING,
        numbers,
        {"attribution": found.pixels, **faces, **{f"alpha/{name}": alpha for name, alpha in alphas.items()}},
        View(framed, {"all": maps}, diagrams),
        f"{subject.name}: where a patch came from",
        note,
        side=2.0,
        printed=View([], {"the patch": printed}, diagrams),
    )


def _framed(face: np.ndarray, patch: Patch) -> np.ndarray:
    """The picture with a white frame around the patch."""
    left, top, right, bottom = patch
    return cv2.rectangle(face.copy(), (left - 1, top - 1), (right, bottom), (255, 255, 255), 1)


INSTRUMENT = Instrument(
    "query",
    MATTERS,
    "Where did this part come from?",
    "Mark a part of the restored face. Gradients along the way from the blurred to the real input tell which input "
    "pixels made it.",
    study,
    slow=True,
    pick="restored",
)
