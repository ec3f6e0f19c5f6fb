"""Scores of models on a folder of sharp faces.

    picture -> centre view -> sharp -> bicubic 16x16 -> degraded -> model -> restored -> PSNR, SSIM on Y, and the gain

`python -m training.evaluate --model M --data DIR [--json FILE]`
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy import ndarray

from sparnet import images
from sparnet.checkpoints import load_model
from sparnet.errors import UserError
from sparnet.model import SPARNet
from training.command import Diverged, run_command
from training.data import Item, centre_view, index_pictures
from training.degradations import bicubic
from training.metrics import psnr, ssim

BATCH = 8


@dataclass(frozen=True)
class Score:
    """Means over the faces: PSNR on Y in dB, SSIM on Y; `gain` is the PSNR above bicubic's on the same faces."""

    model: str
    psnr: float
    ssim: float
    gain: float
    faces: int
    unreadable: tuple[str, ...]  # one message each; not scored
    seconds: float


def score(
    model: SPARNet,
    items: list[Item],
    name: str = "model",
    device: torch.device | str = "cpu",
    watch: Callable[[ndarray, ndarray, ndarray], None] | None = None,
    truncate: bool = False,
) -> tuple[Score, Score]:
    """Score bicubic and the model, in float32, on the same degraded faces; -> (bicubic's Score, the model's).

    `watch(degraded, restored, sharp)` sees each face as (S,S,3) uint8. The model's mode is put back afterwards.
    """
    started, training = time.monotonic(), model.training
    size, small = model.config.size, model.config.degraded_size
    floor, ours, unreadable = [], [], []
    model.eval()
    for start in range(0, len(items), BATCH):
        faces = []
        for item in items[start : start + BATCH]:
            try:
                faces.append(centre_view(item.picture(), size))
            except UserError as error:
                unreadable.append(str(error))
        if not faces:
            continue
        degraded = [bicubic(sharp, small) for sharp in faces]
        with torch.inference_mode():
            restored = model(torch.cat([images.to_tensor(face) for face in degraded]).to(device)).cpu()
        if not restored.isfinite().all():
            raise Diverged(f"{name} answers with values that are not numbers")
        for sharp, low, tensor in zip(faces, degraded, restored, strict=True):
            face = images.to_image(tensor)
            floor.append((psnr(low, sharp, truncate), ssim(low, sharp, truncate)))
            ours.append((psnr(face, sharp, truncate), ssim(face, sharp, truncate)))
            if watch is not None:
                watch(low, face, sharp)
    model.train(training)
    if not ours:
        raise UserError(f"none of the {len(items)} pictures can be read, so there is nothing to score")
    seconds = time.monotonic() - started
    (bicubic_psnr, bicubic_ssim), (model_psnr, model_ssim) = np.mean(floor, 0).tolist(), np.mean(ours, 0).tolist()
    common = {"faces": len(ours), "unreadable": tuple(unreadable), "seconds": round(seconds, 1)}
    return (
        Score("bicubic", bicubic_psnr, bicubic_ssim, 0.0, **common),
        Score(name, model_psnr, model_ssim, model_psnr - bicubic_psnr, **common),
    )


def main(
    model: Annotated[list[str], typer.Option(help="A name, folder, Hub id or released .pth; repeatable.")],
    data: Annotated[Path, typer.Option(help="Folder of sharp faces.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the scores there as well.")] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut Y to 8 bits like the released script.")] = False,
) -> None:
    """Score models and bicubic on the same bicubic-degraded faces."""
    items, scores = index_pictures([data]).items, []
    for name in model:
        net = load_model(name)
        floor, ours = score(net, items, name, truncate=truncate)
        scores += [ours] if scores else [floor, ours]
    size, small = net.config.size, net.config.degraded_size
    protocol = f"{small}x{small} -> {size}x{size}, bicubic, PSNR and SSIM on Y" + (" cut to 8 bits" if truncate else "")
    print(f"{data.name}: {scores[0].faces} faces, {protocol}")
    print(f"{'model':24} {'PSNR dB':>8} {'SSIM':>7} {'gain dB':>8} {'seconds':>8}")
    for row in scores:
        print(f"{row.model:24} {row.psnr:8.3f} {row.ssim:7.4f} {row.gain:+8.3f} {row.seconds:8.1f}")
    for message in scores[0].unreadable:
        print(f"not scored: {message}")
    if json_file:
        json_file.write_text(json.dumps({"protocol": protocol, "scores": [asdict(row) for row in scores]}, indent=1))


if __name__ == "__main__":
    run_command(main)
