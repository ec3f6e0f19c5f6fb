"""The trainer: faces in, a model out; killed at any moment and resumed, it ends with the same weights.

    recipe, data -> prepare -> [ fetch -> step -> log -> evaluate -> save ] x steps -> checkpoint.pt, model/, best/

`python -m training.train RECIPE --data PATH --out DIR`; the same under `accelerate launch` for several processes,
which share each batch; batch norm then sees each process's share, as usual under data parallelism. Accelerate's own
launcher starts several processes on a CPU only with MPI; there, `torchrun --nproc_per_node N -m training.train` does.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from accelerate.utils import gather_object
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from sparnet import images
from sparnet.errors import UserError
from sparnet.model import SPARNet
from training.command import Diverged, run_command
from training.data import FaceBatches, Faces, join
from training.evaluate import Score, score
from training.recipes import RECIPES, Loss, Precision, Recipe, Schedule, find_recipe, size_of
from training.run import Job, Run, prepare, write_checkpoint
from training.state import CHECKPOINT, export

LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss}
SHEET_FACES = 8


def train(recipe: Recipe, job: Job) -> Path:
    """Train, or go on training, until the recipe's steps, the minutes or a signal end it; -> folder of the model.

    `UserError` before the first step if recipe, data and folder do not fit together; `Diverged` on NaN.
    """
    deadline = time.monotonic() + 60 * job.max_minutes if job.max_minutes is not None else float("inf")
    run = prepare(recipe, job)
    saved = logged = time.monotonic()
    with ending_signals() as signals:
        for batch in fetch(run):
            stop = bool(signals) or time.monotonic() > deadline
            stop = take_step(run, batch, stop)
            if run.step % job.log_every == 0:
                log(run, len(run.recent) / (time.monotonic() - logged))
                logged = time.monotonic()
            if run.step % run.recipe.validate_every == 0 or run.step == run.recipe.steps:
                pause = time.monotonic()
                evaluate(run)
                logged += time.monotonic() - pause  # not part of the speed
            if stop:
                break
            if time.monotonic() - saved > 60 * job.save_minutes:
                save(run)
                saved = time.monotonic()
    save(run)
    finish(run)
    return job.out / "model"


def fetch(run: Run) -> Iterator[dict]:
    """This process's share of the batch of every step that is left, on its device; unreadable pictures are told."""
    recipe, job = run.recipe, run.job
    loader = DataLoader(
        Faces(run.index.items, recipe, job.seed),
        batch_sampler=FaceBatches(len(run.index.items), recipe.batch_size, job.seed, run.step, recipe.steps),
        num_workers=job.workers,
        collate_fn=join,
        pin_memory=run.accelerator.device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_trainer,
        generator=torch.Generator().manual_seed(job.seed),
    )
    for batch in run.accelerator.prepare(loader):
        for message in batch["skipped"]:
            if message not in run.unreadable:
                run.unreadable.add(message)
                tqdm.write(f"warning: skipped {message}", file=sys.stderr)
        if batch["sharp"] is None:
            raise UserError("too many pictures in a row cannot be read (named above); look at the data")
        yield batch


def take_step(run: Run, batch: dict, stop: bool) -> bool:
    """One optimiser step and the moving average after it; -> whether any process wants to stop.

    `Diverged` before the weights are touched if the loss or the gradient is not finite.
    """
    recipe, accelerator = run.recipe, run.accelerator
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.lr_at(run.step, recipe.steps)
    degraded = batch["degraded"].contiguous(memory_format=torch.channels_last)
    loss = LOSSES[recipe.loss](run.model(degraded), batch["sharp"])
    run.optimizer.zero_grad()
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(run.model.parameters(), recipe.clip)
    seen = torch.stack([loss.detach(), norm.detach().to(loss.device), loss.new_tensor(float(stop))])
    loss, norm, stop = accelerator.reduce(seen, "mean").tolist()
    if not np.isfinite([loss, norm]).all():
        raise Diverged(f"loss {loss:.4g}, gradient norm {norm:.4g} at step {run.step + 1:,}; {advice(run)}")
    run.optimizer.step()
    update_average(run.averaged, accelerator.unwrap_model(run.model), recipe.ema_at(run.step))
    run.step += 1
    run.recent.append((loss, norm))
    run.bar.update()
    return stop > 0


def advice(run: Run) -> str:
    kept = f"the last good checkpoint stays in {run.job.out / CHECKPOINT}"
    model = run.job.out / "model"
    return f"{kept}. Start another run with a lower --lr" + (f", from --init {model}" if model.exists() else "")


@torch.no_grad()
def update_average(averaged: SPARNet, model: SPARNet, decay: float) -> None:
    """averaged <- decay * averaged + (1 - decay) * model, over parameters and batch statistics; counters are copied."""
    for mean, value in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def log(run: Run, speed: float) -> None:
    """Mean loss and gradient norm since the last time, rate and images/s: to the tracker and to people."""
    loss, norm = np.mean(run.recent, axis=0).tolist()
    run.recent.clear()
    rate, per_second = run.recipe.lr_at(run.step - 1, run.recipe.steps), speed * run.recipe.batch_size
    values = {"train/loss": loss, "train/lr": rate, "train/gradient_norm": norm, "train/images_per_s": per_second}
    run.accelerator.log(values, step=run.step)
    run.bar.set_postfix_str(f"{run.recipe.loss} {loss:.4f}, rate {rate:.2g}, {per_second:.1f} images/s")
    if run.bar.disable:
        left = (run.recipe.steps - run.step) / speed / 60
        run.say(
            f"step {run.step:,}/{run.recipe.steps:,}  {run.recipe.loss} {loss:.4f}  rate {rate:.2g}  "
            f"{per_second:.1f} images/s  {left:.0f} min left"
        )


def evaluate(run: Run) -> None:
    """Score the averaged weights on the held-out faces, write the sample sheet, export them if they are the best."""
    if run.held_out is not None and run.accelerator.is_main_process:
        check_weights(run)
        rows = []

        def keep(*row: np.ndarray) -> None:
            if len(rows) < SHEET_FACES:
                rows.append(np.hstack(row))

        _, ours = score(run.averaged, run.held_out.items, run.recipe.name, run.accelerator.device, keep)
        run.scores = describe(ours, run.job.validate)
        run.say(f"step {run.step:,}: {run.scores}")
        for message in ours.unreadable:
            if message not in run.unreadable:
                run.unreadable.add(message)
                run.say(f"warning: skipped {message}")
        run.accelerator.log({f"validation/{k}": getattr(ours, k) for k in ("psnr", "ssim", "gain")}, step=run.step)
        sheet = np.vstack(rows)
        folder = run.job.out / "samples"
        folder.mkdir(exist_ok=True)
        images.save_png(sheet, folder / f"step-{run.step:07d}.png")
        run.accelerator.get_tracker("tensorboard").log_images(
            {"degraded, restored, sharp": sheet[None]}, step=run.step, dataformats="NHWC"
        )
        if ours.psnr > run.best:
            run.best = ours.psnr
            export(run.averaged, run.job.out / "best", card(run))


def describe(ours: Score, folder: Path) -> str:
    return (
        f"{ours.psnr:.3f} dB PSNR, {ours.ssim:.4f} SSIM (Y), {ours.gain:+.3f} dB over bicubic, "
        f"on {ours.faces} faces of {folder.name}"
    )


def save(run: Run) -> None:
    """The checkpoint, and the averaged weights as a model that can be loaded; `Diverged` if they are not numbers."""
    if run.accelerator.is_main_process:  # the others may be at the next step already, where they wait
        check_weights(run)
        write_checkpoint(run)
        export(run.averaged, run.job.out / "model", card(run))


def check_weights(run: Run) -> None:
    if not all(value.isfinite().all() for value in run.model.state_dict().values()):
        raise Diverged(f"the weights are no longer finite after step {run.step:,}; {advice(run)}")


def card(run: Run) -> str:
    """A model card with what is known of the weights; limits and licence are for whoever publishes them."""
    seen, start = run.step * run.recipe.batch_size, f", started from {run.job.init}" if run.job.init else ""
    return (
        "---\nlibrary_name: sparnet\npipeline_tag: image-to-image\n---\n"
        f"# {run.recipe.name}\n\n"
        f"Averaged weights after {run.step:,} of {run.recipe.steps:,} steps of recipe `{run.recipe.name}`, "
        f"{seen:,} views of {len(run.index.items):,} pictures{start}.\n"
        f"Last validation: {run.scores}.\n"
    )


def finish(run: Run) -> None:
    """Close the logs and say how it ended."""
    run.bar.close()
    done = "done" if run.step == run.recipe.steps else "stopped, go on with --resume"
    run.say(f"{done}: step {run.step:,} of {run.recipe.steps:,}; {run.scores}; model in {run.job.out / 'model'}")
    skipped = set(gather_object(sorted(run.unreadable)))
    if skipped:
        run.say(f"{len(skipped)} unreadable pictures were skipped; each was named above or before the run was resumed")
    run.accelerator.end_training()


@contextmanager
def ending_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are collected, for a clean end after the step; the second one of a kind acts as usual."""
    caught = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_signals_to_the_trainer(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def print_recipes() -> None:
    for recipe in RECIPES.values():
        millions, gflop = size_of(recipe.model)
        print(
            f"{recipe.name:18}{millions:6.2f} M parameters {gflop:7.1f} GFLOP a face  "
            f"{recipe.loss} loss, batch {recipe.batch_size}, rate {recipe.lr:g} {recipe.schedule}"
        )
        print(f"    published  {recipe.published}\n    ours       {recipe.ours}")


def main(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="What to train; --list shows the choice.")] = "",
    data: Annotated[list[Path], typer.Option(help="Folder of pictures or tar shards, or one shard; repeatable.")] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Folder of the run: checkpoint, model, logs, samples.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    init: Annotated[str | None, typer.Option(help="Model to start from: a name, folder or Hub id.")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="Stop cleanly after so long.")] = None,
    validate: Annotated[Path | None, typer.Option(help="Folder of held-out faces.")] = None,
    steps: Annotated[int | None, typer.Option(help="Length of the training and of its schedule.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    loss: Annotated[Loss | None, typer.Option()] = None,
    schedule: Annotated[Schedule | None, typer.Option()] = None,
    precision: Annotated[Precision | None, typer.Option()] = None,
    validate_every: Annotated[int | None, typer.Option(help="Steps.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load pictures.")] = 1,
    save_minutes: Annotated[float, typer.Option(min=0, help="Time between checkpoints.")] = 5.0,
    seed: Annotated[int, typer.Option()] = 0,
    listing: Annotated[bool, typer.Option("--list", help="Print the recipes.")] = False,
) -> None:
    """Train a recipe of the SPARNet family on sharp faces; the options given last change the recipe."""
    if listing:
        print_recipes()
        return
    recipe = find_recipe(name)
    if not data or out is None:
        raise UserError("--data PATH and --out DIR are needed: the faces to train on, and the folder of the run")
    changes = {
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "loss": loss,
        "schedule": schedule,
        "precision": precision,
        "validate_every": validate_every,
    }
    recipe = replace(recipe, **{field: value for field, value in changes.items() if value is not None})
    train(recipe, Job(data, out, validate, init, seed, resume, max_minutes, workers, save_minutes=save_minutes))


if __name__ == "__main__":
    run_command(main)
