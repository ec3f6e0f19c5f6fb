"""The trainer: faces in, a model out; killed at any moment and resumed, it ends with the same weights.

    recipe, data -> prepare -> [ fetch -> step -> log -> evaluate -> save ] x steps -> checkpoint.pt, model/, best/

`python -m training.train RECIPE --data PATH --out DIR`; the same under `accelerate launch` for several processes,
which share each batch; batch norm then sees each process's share, as usual under data parallelism. Several processes on
a CPU: `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N`; with `--cpu` it would start but one.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from sparnet import images
from sparnet.errors import UserError
from sparnet.text import for_markdown
from training.command import Diverged, run_command
from training.data import Crop, FaceBatches, Faces, join
from training.evaluate import Score, score
from training.networks import Network, plain_state, size_of
from training.perceptual import PerceptualKind
from training.phases import full_phase, phase_at, spent
from training.recipes import RECIPES, Loss, Precision, Recipe, Schedule, find_recipe
from training.run import Job, Run, prepare, write_checkpoint
from training.state import CHECKPOINT, export
from training.watch import remember, watch

SHEET_FACES = 8


def train(recipe: Recipe, job: Job) -> Path:
    """Train, or go on training, until the recipe's steps, the minutes or a signal end it; -> folder of the model.

    `UserError` before the first step if recipe, data and folder do not fit together; `Diverged` on NaN.
    """
    deadline = time.monotonic() + 60 * job.max_minutes if job.max_minutes is not None else float("inf")
    run = prepare(recipe, job)
    saved = logged = time.monotonic()
    with ending_signals() as signals:
        for batches in fetch(run):
            stop = bool(signals) or time.monotonic() > deadline
            stop = take_step(run, batches, stop)
            if run.step % job.log_every == 0:
                log(run, len(run.recent) / (time.monotonic() - logged))
                logged = time.monotonic()
            if run.step % run.recipe.validate_every == 0 or run.step == run.recipe.steps:
                pause = time.monotonic()
                if run.accelerator.is_main_process:
                    check_weights(run)
                    evaluate(run)
                    watch(run)
                logged += time.monotonic() - pause  # not part of the speed
            if stop:
                break
            if time.monotonic() - saved > 60 * job.save_minutes:
                save(run)
                saved = time.monotonic()
    save(run)
    finish(run)
    return job.out / "model"


def fetch(run: Run) -> Iterator[list[dict]]:
    """This process's share of the micro-batches of every step that is left, on its device.

    Unreadable pictures are told.
    """
    recipe, job = run.recipe, run.job
    parts = recipe.accumulate
    micro = FaceBatches(
        len(run.index.items), recipe.batch_size // parts, job.seed, run.step * parts, recipe.steps * parts
    )
    loader = DataLoader(
        Faces(run.index.items, recipe, job.seed, job.crop),
        batch_sampler=micro,
        num_workers=job.workers,
        collate_fn=join,
        pin_memory=run.accelerator.device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_trainer,
        generator=torch.Generator().manual_seed(job.seed),
    )
    batches = iter(run.accelerator.prepare(loader))
    for _ in range(run.step, recipe.steps):
        with spent(run, "data"):
            step = list(islice(batches, parts))
        for batch in step:
            for message in batch["skipped"]:
                if message not in run.unreadable:
                    run.unreadable.add(message)
                    tqdm.write(f"warning: skipped {message}", file=sys.stderr)
            if batch["sharp"] is None:
                raise UserError("too many pictures in a row cannot be read (named above); look at the data")
        yield step


def take_step(run: Run, batches: list[dict], stop: bool) -> bool:
    """One optimiser step from its micro-batches and the moving average after it; -> whether any process wants to stop.

    `Diverged` before any weight is touched if a loss or a gradient is not finite.
    """
    recipe, accelerator, phase = run.recipe, run.accelerator, phase_at(run)
    learners = {"generator": (run.model, run.optimizer, recipe.lr)}
    if phase is full_phase:
        learners["discriminator"] = (run.discriminator, run.discriminator_optimizer, recipe.gan.lr)
    for _, optimizer, lr in learners.values():
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = lr * recipe.rate_at(run.step, recipe.steps)
    seen: dict[str, Tensor] = {}
    for batch in batches:
        faces = [batch[name].contiguous(memory_format=torch.channels_last) for name in ("degraded", "sharp")]
        with ExitStack() as stack:
            if batch is not batches[-1]:  # processes add up their gradients once, with the last micro-batch
                for network, *_ in learners.values():
                    stack.enter_context(accelerator.no_sync(network))
            for name, loss in phase(run, *faces, 1 / len(batches)).items():
                seen[name] = seen.get(name, 0) + loss / len(batches)
    with spent(run, "update"):
        for name, (network, *_) in learners.items():
            norm = accelerator.clip_grad_norm_(network.parameters(), recipe.clip or float("inf"))
            seen[f"{name}_gradient_norm"] = norm.detach().to(accelerator.device)
        *numbers, stop = accelerator.reduce(
            torch.stack([*seen.values(), torch.tensor(float(stop), device=accelerator.device)]), "mean"
        ).tolist()
        values = dict(zip(seen, numbers, strict=True))
        if not np.isfinite(numbers).all():
            told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise Diverged(f"not finite at step {run.step + 1:,}: {told}; {advice(run)}")
        for _, optimizer, _ in learners.values():
            optimizer.step()
        update_average(run.averaged, plain_state(accelerator.unwrap_model(run.model)), recipe.ema_at(run.step))
    run.step += 1
    run.recent.append(values)
    run.bar.update()
    return stop > 0


def advice(run: Run) -> str:
    kept = f"the last good checkpoint stays in {run.job.out / CHECKPOINT}"
    model = run.job.out / "model"
    return f"{kept}. Start another run with a lower --lr" + (f", from --init {model}" if model.exists() else "")


@torch.no_grad()
def update_average(averaged: Network, state: dict[str, Tensor], decay: float) -> None:
    """averaged <- decay * averaged + (1 - decay) * state, over parameters and batch statistics; counters are copied."""
    for name, mean in averaged.state_dict().items():
        value = state[name]
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def log(run: Run, speed: float) -> None:
    """Mean losses and gradient norms since the last time, rate, images/s and what they cost: to tracker and people."""
    names = dict.fromkeys(name for values in run.recent for name in values)
    means = {name: float(np.mean([values[name] for values in run.recent if name in values])) for name in names}
    cost = {part: seconds / len(run.recent) for part, seconds in run.seconds.items()}
    run.recent.clear()
    run.seconds.clear()
    rate = run.recipe.lr * run.recipe.rate_at(run.step - 1, run.recipe.steps)
    per_second = speed * run.recipe.batch_size
    values = {"train/lr": rate, "train/images_per_s": per_second}
    values |= {f"train/{name}": value for name, value in means.items()}
    values |= {f"seconds_per_step/{part}": seconds for part, seconds in cost.items()}
    run.accelerator.log(values, step=run.step)
    remember(run, {f"train/{name}": value for name, value in means.items() if "norm" not in name})
    losses = "  ".join(f"{name} {value:.4f}" for name, value in means.items() if "norm" not in name)
    run.bar.set_postfix_str(f"{losses}, rate {rate:.2g}, {per_second:.1f} images/s")
    if run.bar.disable:
        left = (run.recipe.steps - run.step) / speed / 60
        costs = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in cost.items())
        run.say(
            f"step {run.step:,}/{run.recipe.steps:,}  {losses}  rate {rate:.2g}  "
            f"{per_second:.1f} images/s ({costs} a step)  {left:.0f} min left"
        )


def evaluate(run: Run) -> None:
    """Score the averaged weights on the held-out faces, write the sample sheet, export them if they are the best."""
    if run.held_out is not None:
        rows = []

        def keep(*row: np.ndarray) -> None:
            if len(rows) < SHEET_FACES:
                rows.append(np.hstack(row))

        _, ours = score(
            run.averaged, run.held_out.items, run.recipe.name, run.accelerator.device, keep, run.lpips, run.job.crop
        )
        run.scores = describe(ours, run.job.validate)
        run.say(f"step {run.step:,}: {run.scores}")
        for message in ours.unreadable:
            if message not in run.unreadable:
                run.unreadable.add(message)
                run.say(f"warning: skipped {message}")
        scores = {name: getattr(ours, name) for name in ("psnr", "ssim", "gain", "lpips")}
        scores = {f"validation/{name}": value for name, value in scores.items() if value is not None}
        run.accelerator.log(scores, step=run.step)
        remember(run, scores)
        sheet = np.vstack(rows)
        folder = run.job.out / "samples"
        folder.mkdir(exist_ok=True)
        images.save_png(sheet, folder / f"step-{run.step:07d}.png")
        run.accelerator.get_tracker("tensorboard").log_images(
            {"degraded, restored, sharp": sheet[None]}, step=run.step, dataformats="NHWC"
        )
        quality = ours.psnr if ours.lpips is None else -ours.lpips
        if quality > run.best:
            run.best = quality
            export(run.averaged, run.job.out / "best", card(run))


def describe(ours: Score, folder: Path) -> str:
    lpips = "" if ours.lpips is None else f"{ours.lpips:.4f} LPIPS, "
    return (
        f"{ours.psnr:.3f} dB PSNR, {ours.ssim:.4f} SSIM (Y), {ours.gain:+.3f} dB over bicubic, {lpips}"
        f"on {ours.faces} faces of {folder.name}"
    )


def save(run: Run) -> None:
    """The checkpoint, and the averaged weights as a model that can be loaded; `Diverged` if they are not numbers."""
    if run.accelerator.is_main_process:  # the others may be at the next step already, where they wait
        check_weights(run)
        write_checkpoint(run)
        export(run.averaged, run.job.out / "model", card(run))


def check_weights(run: Run) -> None:
    networks = [run.model, run.averaged, *([run.discriminator] if run.discriminator else [])]
    if not all(value.isfinite().all() for network in networks for value in network.state_dict().values()):
        raise Diverged(f"the weights are no longer finite after step {run.step:,}; {advice(run)}")


def card(run: Run) -> str:
    """A model card with what is known of the weights; limits and licence are for whoever publishes them."""
    seen = run.step * run.recipe.batch_size
    start = f", started from {for_markdown(run.job.init)}" if run.job.init else ""
    loss = f"{run.recipe.loss} loss"
    if (gan := run.recipe.gan) and run.step > gan.pixel_steps:
        perceptual = f" with perceptual distances of {gan.perceptual_kind}" if gan.perceptual else ""
        loss += f", from step {gan.pixel_steps:,} on the full loss{perceptual}"
    return (
        "---\nlibrary_name: sparnet\npipeline_tag: image-to-image\n---\n"
        f"# {run.recipe.name}\n\n"
        f"Averaged weights after {run.step:,} of {run.recipe.steps:,} steps of recipe `{run.recipe.name}`, "
        f"{seen:,} views of {len(run.index.items):,} pictures{start}; {loss}.\n"
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
            f"{recipe.name:26}{millions:6.2f} M parameters {gflop:7.1f} GFLOP a face  "
            f"{recipe.loss} loss, batch {recipe.batch_size}, rate {recipe.lr:g} {recipe.schedule}"
        )
        print(f"    published  {recipe.published}\n    ours       {recipe.ours}")


def main(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="What to train; --list shows the choice.")] = "",
    data: Annotated[list[Path], typer.Option(help="Folder of pictures or tar shards, or one shard; repeatable.")] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Folder of the run: checkpoint, model, logs, samples.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    init: Annotated[str | None, typer.Option(help="Model to start from: a name, folder or Hub id.")] = None,
    perceptual: Annotated[Path | None, typer.Option(help="Weights of the perceptual loss's network.")] = None,
    lpips: Annotated[Path | None, typer.Option(help="Weights of LPIPS: scored too, and decides what is best.")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="Stop cleanly after so long.")] = None,
    validate: Annotated[Path | None, typer.Option(help="Folder of held-out faces.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the faces; the smallest map follows.")] = None,
    steps: Annotated[int | None, typer.Option(help="Length of the training and of its schedule.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Micro-batches a step.")] = None,
    pixel_steps: Annotated[int | None, typer.Option(help="Steps by the pixel loss alone before the full one.")] = None,
    perceptual_kind: Annotated[PerceptualKind | None, typer.Option()] = None,
    loss: Annotated[Loss | None, typer.Option()] = None,
    schedule: Annotated[Schedule | None, typer.Option()] = None,
    precision: Annotated[Precision | None, typer.Option()] = None,
    validate_every: Annotated[int | None, typer.Option(help="Steps.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load pictures.")] = 1,
    save_minutes: Annotated[float, typer.Option(min=0, help="Time between checkpoints.")] = 5.0,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the model: minutes first, then faster.")] = False,
    crop: Annotated[Crop, typer.Option(help="centre: 178x218 and 160x160 pictures are not CelebA's.")] = "auto",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="20 steps of a much smaller network, to try the command and the data.")
    ] = False,
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
        "accumulate": accumulate,
        "lr": lr,
        "loss": loss,
        "schedule": schedule,
        "precision": precision,
        "validate_every": validate_every,
    }
    if rehearse:
        recipe = recipe.rehearsal()
    if size is not None:
        recipe = recipe.at(size)
    recipe = replace(recipe, **{field: value for field, value in changes.items() if value is not None})
    gan_changes = {"pixel_steps": pixel_steps, "perceptual_kind": perceptual_kind}
    gan_changes = {field: value for field, value in gan_changes.items() if value is not None}
    if gan_changes and recipe.gan is None:
        raise UserError(f"{name} is trained by its pixel loss alone: leave out --pixel-steps and --perceptual-kind")
    if gan_changes:
        recipe = replace(recipe, gan=replace(recipe.gan, **gan_changes))
    job = Job(
        data=data,
        out=out,
        validate=validate,
        init=init,
        perceptual=perceptual,
        lpips=lpips,
        crop=crop,
        seed=seed,
        resume=resume,
        max_minutes=max_minutes,
        workers=workers,
        save_minutes=save_minutes,
        compile=compiled,
    )
    train(recipe, job)


if __name__ == "__main__":
    run_command(main)
