"""How well a model in training restores held-out faces: the trainer's own few lines, not the evaluator.

held-out picture -> sharp -> degraded -> averaged weights -> restored -> PSNR, SSIM, LPIPS? -> means -> Validation
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray

from sparnet import images
from sparnet.errors import UserError
from sparnet.metrics import psnr, ssim
from training.command import Diverged
from training.data import Crop, Item, centre_view
from training.degradations import fixed
from training.networks import Network
from training.perceptual import Lpips

BATCH = 8  # faces restored together
SHEET_FACES = 8


@dataclass(frozen=True, eq=False)
class Validation:
    """Means over the faces: PSNR on Y in dB, SSIM on Y; `gain` is the PSNR above bicubic's on the same faces."""

    psnr: float
    ssim: float
    gain: float
    lpips: float | None  # None: not measured
    faces: int
    unreadable: tuple[str, ...]  # one message each; not scored
    sheet: ndarray  # of the first faces, a row each: degraded, restored, sharp; (H,W,3) uint8

    def __str__(self) -> str:
        lpips = "" if self.lpips is None else f"{self.lpips:.4f} LPIPS, "
        scores = f"{self.psnr:.3f} dB PSNR, {self.ssim:.4f} SSIM (Y), {self.gain:+.3f} dB over bicubic"
        return f"{scores}, {lpips}on {self.faces} faces"


@torch.inference_mode()
def measure(
    model: Network,
    items: Sequence[Item],
    device: torch.device | str = "cpu",
    lpips: Lpips | None = None,
    crop: Crop = "auto",
) -> Validation:
    """Score a model in eval mode, and bicubic, on the degradation it is made for; `UserError` if no face is readable.

    `Diverged` where its answer is not finite.
    """
    scores, distances, sheet, unreadable = [], [], [], []
    for start in range(0, len(items), BATCH):
        pairs = []
        for item in items[start : start + BATCH]:
            try:
                sharp = centre_view(item.picture(), model.config.size, crop)
            except UserError as error:
                unreadable.append(str(error))
                continue
            pairs.append((fixed(sharp, model.config.degraded_size, item.within), sharp))
        if not pairs:
            continue
        answers = model(torch.cat([images.to_tensor(degraded) for degraded, _ in pairs]).to(device)).float().cpu()
        if not answers.isfinite().all():
            raise Diverged("The model answers with values that are not finite numbers.")
        for (degraded, sharp), answer in zip(pairs, answers, strict=True):
            restored = images.to_image(answer)
            scores.append((psnr(restored, sharp), ssim(restored, sharp), psnr(degraded, sharp)))
            if lpips is not None:
                distances.append(lpips.distances(*(images.to_tensor(face).to(device) for face in (restored, sharp))))
            if len(sheet) < SHEET_FACES:
                sheet.append(np.hstack((degraded, restored, sharp)))
    if not scores:
        raise UserError(f"None of the {len(items)} held-out pictures can be read, so there is nothing to score.")
    mean_psnr, mean_ssim, bicubic = map(_mean, zip(*scores, strict=True))
    distance = torch.cat(distances).double().mean().item() if distances else None
    gain = mean_psnr - bicubic
    return Validation(mean_psnr, mean_ssim, gain, distance, len(scores), tuple(unreadable), np.vstack(sheet))


def _mean(values: Sequence[float]) -> float:
    """Of the pictures that are not identical to the sharp ones, whose PSNR is infinite."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else np.inf
