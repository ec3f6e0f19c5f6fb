"""The trainer: faces in, a model out; killed at any moment and resumed, it ends with the same weights.

    recipe, data -> prepare -> [ fetch -> step -> log -> validate -> save ] x steps -> checkpoint.pt, model/, best/
                    rate: warm-up, constant over any number of sittings, one anneal to 0 -> annealed/

`python -m training.train RECIPE --data PATH --out DIR`; the same under `accelerate launch` for several processes,
which share each batch; batch norm then sees each process's share, as usual under data parallelism. Several processes on
a CPU: `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N`; with `--cpu` it would start but one.
"""

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from sparnet import images
from sparnet.command import with_options
from sparnet.errors import UserError
from sparnet.files import make_folder
from training.card import annealing, card
from training.command import Diverged, run_command
from training.data import FaceBatches, Faces, Item, join
from training.networks import Network, plain_state, size_of
from training.perceptual import PerceptualKind
from training.phases import full_phase, phase_at
from training.processes import agreed
from training.recipes import RECIPES, Loss, Precision, Recipe, Schedule, find_recipe
from training.run import Job, Run, prepare, say, show, write_checkpoint
from training.sitting import Sitting, ending_signals
from training.state import BEFORE_ANNEAL, CHECKPOINT, export
from training.validation import measure
from training.watch import remember, watch


def train(recipe: Recipe, job: Job) -> Path:
    """Train, or go on training, until the recipe's steps, the minutes or a signal end it; -> folder of the model.

    `UserError` before the first step if recipe, data and folder do not fit together; `Diverged` on NaN.
    """
    began = time.monotonic()
    run = prepare(recipe, job)
    progress, before, saved = run.progress, run.progress.step, time.monotonic()
    sitting = Sitting.begin(recipe, job, began, before)
    with ending_signals() as signals:
        for batches in fetch(run):
            wishes = {"stop": bool(signals) or sitting.over, "anneal": sitting.anneal_due(run)}
            wishes = take_step(run, batches, wishes)
            if progress.step == before + 1:
                sitting = sitting.started()
            if wishes["anneal"]:
                begin_anneal(run, sitting)
            if progress.step % job.log_every == 0:
                log(run)
            if progress.step % run.recipe.validate_every == 0 or progress.step == run.end:
                validate(run)
            if wishes["stop"]:
                break
            if time.monotonic() - saved > 60 * job.save_minutes:
                save(run)
                saved = time.monotonic()
    save(run)
    finish(run)
    return job.out / "model"


def fetch(run: Run) -> Iterator[list[dict]]:
    """This process's share of the micro-batches of every step that is left, on its device.

    Unreadable pictures are named.
    """
    while run.progress.step < run.end:
        yield from _fetch_alike(run)


def _fetch_alike(run: Run) -> Iterator[list[dict]]:
    """The steps that are left up to the end, or to the anneal, which may draw other views."""
    recipe, job, progress, end = run.recipe, run.job, run.progress, run.end
    parts, items, seed, anneal = recipe.accumulate, run.index.items, job.seed, progress.anneal
    loader = DataLoader(
        Faces(items, recipe, seed, job.crop),
        batch_sampler=FaceBatches(len(items), recipe.batch_size // parts, seed, progress.step * parts, end * parts),
        num_workers=job.workers,
        collate_fn=join,
        pin_memory=run.accelerator.device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_trainer,
        generator=torch.Generator().manual_seed(seed),
    )
    batches = iter(run.accelerator.prepare(loader))
    for _ in range(progress.step, end):
        with run.clock.part("data"):
            step = list(islice(batches, parts))
        for batch in step:
            for message in batch["skipped"]:
                if message not in progress.unreadable:
                    progress.unreadable.add(message)
                    tqdm.write(f"warning: skipped {message}", file=sys.stderr)  # by whichever process met it
            if batch["sharp"] is None:
                raise UserError("Too many pictures in a row cannot be read (named above); look at the data.")
        yield step
        if progress.anneal != anneal:
            return


def take_step(run: Run, batches: list[dict], wishes: dict[str, bool]) -> dict[str, bool]:
    """One optimiser step from its micro-batches and the moving average after it; -> what any of the processes wishes.

    `Diverged` before any weight is touched if a loss or a gradient is not finite.
    """
    recipe, accelerator, progress, phase = run.recipe, run.accelerator, run.progress, phase_at(run)
    learners = {"generator": run.generator}
    if phase is full_phase and run.discriminator is not None:
        learners["discriminator"] = run.discriminator
    for learner in learners.values():
        learner.begin(recipe.rate_at(progress.step, progress.anneal))
    losses: dict[str, Tensor] = {}
    for batch in batches:
        degraded, sharp = (batch[name].contiguous(memory_format=torch.channels_last) for name in ("degraded", "sharp"))
        with ExitStack() as stack:
            if batch is not batches[-1]:  # processes add up their gradients once, with the last micro-batch
                for learner in learners.values():
                    stack.enter_context(accelerator.no_sync(learner.network))
            for name, loss in phase(run, degraded, sharp, 1 / len(batches)).items():
                losses[name] = losses.get(name, 0) + loss / len(batches)
    with run.clock.part("update"):
        for name, learner in learners.items():
            norm = accelerator.clip_grad_norm_(learner.network.parameters(), recipe.clip or float("inf"))
            losses[f"{name}_gradient_norm"] = torch.as_tensor(norm, device=accelerator.device)
        wished = torch.tensor([float(wish) for wish in wishes.values()], device=accelerator.device)
        shared = torch.cat([torch.stack([*losses.values()]), wished])
        means: list[float] = torch.as_tensor(accelerator.reduce(shared, "mean")).tolist()
        values = dict(zip(losses, means, strict=False))
        if not np.isfinite([*values.values()]).all():
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise Diverged(f"Not finite at step {progress.step + 1:,}: {numbers}; {advice(run)}.")
        for learner in learners.values():
            learner.optimizer.step()
        update_average(
            run.averaged, plain_state(accelerator.unwrap_model(run.generator.network)), recipe.ema_at(progress.step)
        )
    progress.step += 1
    progress.recent.append(values)
    run.clock.steps += 1
    run.bar.update()
    return {name: mean > 0 for name, mean in zip(wishes, means[len(losses) :], strict=True)}


def begin_anneal(run: Run, sitting: Sitting) -> None:
    """Keep the checkpoint from before the anneal; the plan is part of the run from now on and survives a kill."""
    plan = agreed(lambda: sitting.plan(run))
    if run.is_main:
        check_finite(run)
        write_checkpoint(run, BEFORE_ANNEAL)
    run.progress.anneal = plan
    if run.is_main:
        write_checkpoint(run)
    run.bar.total = run.end
    run.bar.refresh()
    say(
        f"step {run.progress.step:,}: the rate falls to 0 by step {run.end:,}, {run.recipe.loss} loss, zoom "
        f"{run.recipe.zoom}; {BEFORE_ANNEAL} keeps what was before (--resume --from-constant)"
    )


def advice(run: Run) -> str:
    model = run.job.out / "model"
    kept = f"the last good checkpoint stays in {run.job.out / CHECKPOINT}"
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


def log(run: Run) -> None:
    """Mean losses and gradient norms since the last time, rate, images/s and what they cost: to tracker and people.

    What it cost is of this process alone: after a resumption of fewer steps than there are losses.
    """
    progress, clock = run.progress, run.clock
    speed = clock.steps / (clock.now() - clock.began)
    names = dict.fromkeys(name for values in progress.recent for name in values)
    means = {name: float(np.mean([values[name] for values in progress.recent if name in values])) for name in names}
    cost = {part: seconds / clock.steps for part, seconds in clock.parts.items()}
    progress.recent.clear()
    rate = run.recipe.lr * run.recipe.rate_at(progress.step - 1, progress.anneal)
    per_second = speed * run.recipe.batch_size
    values = {"train/lr": rate, "train/images_per_s": per_second}
    values |= {f"train/{name}": value for name, value in means.items()}
    values |= {f"seconds_per_step/{part}": seconds for part, seconds in cost.items()}
    run.accelerator.log(values, step=progress.step)
    remember(run, {f"train/{name}": value for name, value in means.items() if "norm" not in name})
    losses = "  ".join(f"{name} {value:.4f}" for name, value in means.items() if "norm" not in name)
    run.bar.set_postfix_str(f"{losses}, rate {rate:.2g}, {per_second:.1f} images/s")
    if run.bar.disable:
        left = (run.end - progress.step) / speed / 60
        costs = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in cost.items())
        say(
            f"step {progress.step:,}/{run.end:,}  {losses}  rate {rate:.2g}  "
            f"{per_second:.1f} images/s ({costs} a step)  {left:.0f} min left"
        )
    clock.restart()


def validate(run: Run) -> None:
    """In the main process: score the averaged weights, export them if they are the best, draw what one watches."""
    with run.clock.paused():
        if run.is_main:
            check_finite(run)
            if run.held_out is not None and run.job.validate is not None:
                score(run, run.held_out.items, run.job.validate.name)
            watch(run)


def score(run: Run, faces: Sequence[Item], name: str) -> None:
    """Score the averaged weights on the held-out faces, called so; write the sample sheet; export them if the best."""
    progress, out = run.progress, run.job.out
    found = measure(run.averaged, faces, run.accelerator.device, run.lpips, run.job.crop)
    progress.scores = f"step {progress.step:,}: {found} of {name}"  # the run may stop at a later one
    say(progress.scores)
    for message in found.unreadable:
        if message not in progress.unreadable:
            progress.unreadable.add(message)
            say(f"warning: skipped {message}")
    scores = {f"validation/{metric}": getattr(found, metric) for metric in ("psnr", "ssim", "gain", "lpips")}
    scores = {metric: value for metric, value in scores.items() if value is not None}
    run.accelerator.log(scores, step=progress.step)
    remember(run, scores)
    make_folder(out / "samples")
    images.save_png(found.sheet, out / "samples" / f"step-{progress.step:07d}.png")
    show(run, "degraded, restored, sharp", found.sheet)
    quality = found.psnr if found.lpips is None else -found.lpips
    if quality > progress.best:
        progress.best = quality
        export(run.averaged, out / "best", card(run))


def save(run: Run) -> None:
    """The checkpoint, and the averaged weights as a model that can be loaded; `Diverged` if they are not numbers."""
    if run.is_main:  # the others may be at the next step already, where they wait
        check_finite(run)
        write_checkpoint(run)
        export(run.averaged, run.job.out / "model", card(run))


def check_finite(run: Run) -> None:
    """`Diverged` unless all weights are finite numbers."""
    networks = [part for part in run.parts.values() if isinstance(part, torch.nn.Module)]
    if not all(value.isfinite().all() for network in networks for value in network.state_dict().values()):
        raise Diverged(f"The weights are no longer finite after step {run.progress.step:,}; {advice(run)}.")


def finish(run: Run) -> None:
    """Close the logs, keep the annealed model, and say how it ended."""
    progress, out, end = run.progress, run.job.out, run.end
    run.bar.close()
    if progress.anneal and progress.step == end and run.is_main:
        export(run.averaged, out / "annealed", card(run))
    done = "done" if progress.step == end else "stopped, go on with --resume"
    say(f"{done}: step {progress.step:,} of {end:,}; {progress.scores}; model in {out / 'model'}. {annealing(run)}")
    skipped = set(gather_object(sorted(progress.unreadable)))
    if skipped:
        say(f"{len(skipped)} unreadable pictures were skipped; each was named above or before the run was resumed")
    run.accelerator.end_training()
    if run.lock is not None:
        run.lock.close()


def _leave_signals_to_the_trainer(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def print_recipes(asked: bool) -> None:
    """Print them, if asked, and nothing else is done."""
    if not asked:
        return
    for recipe in RECIPES.values():
        millions, gflop = size_of(recipe.model)
        print(
            f"{recipe.name:26}{millions:6.2f} M parameters {gflop:7.1f} GFLOP a face  "
            f"{recipe.loss} loss, batch {recipe.batch_size}, rate {recipe.lr:g} {recipe.schedule}"
        )
        print(f"    published  {recipe.published}\n    ours       {recipe.ours}")
    raise typer.Exit


def given(**options: Any) -> dict[str, Any]:
    """Those of the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


@with_options(Job)
def main(
    job: Job,
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="What to train; --list shows the choice.")],
    size: Annotated[int | None, typer.Option(help="Side of the faces; the smallest map follows.")] = None,
    steps: Annotated[int | None, typer.Option(help="Length of the training.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Micro-batches a step.")] = None,
    pixel_steps: Annotated[int | None, typer.Option(help="Steps by the pixel loss alone before the full one.")] = None,
    perceptual_kind: Annotated[PerceptualKind | None, typer.Option()] = None,
    loss: Annotated[Loss | None, typer.Option()] = None,
    schedule: Annotated[Schedule | None, typer.Option()] = None,
    precision: Annotated[Precision | None, typer.Option()] = None,
    validate_every: Annotated[int | None, typer.Option(help="Steps.")] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="20 steps of a much smaller network, to try the command and the data.")
    ] = False,
    listing: Annotated[
        bool, typer.Option("--list", callback=print_recipes, is_eager=True, help="Print the recipes.")
    ] = False,
) -> None:
    """Train a recipe of the SPARNet family on sharp faces; the options given last change the recipe."""
    recipe = find_recipe(name)
    if rehearse:
        recipe = recipe.rehearsal()
    if size is not None:
        recipe = recipe.at(size)
    lengths = given(steps=steps, batch_size=batch_size, accumulate=accumulate, validate_every=validate_every)
    recipe = replace(recipe, **lengths, **given(lr=lr, loss=loss, schedule=schedule, precision=precision))
    if job.from_constant and not job.resume:
        raise UserError("--from-constant says where to go on: give --resume too.")
    if gan_changes := given(pixel_steps=pixel_steps, perceptual_kind=perceptual_kind):
        if recipe.gan is None:
            raise UserError(f"{name} is trained by its pixel loss alone: give no --pixel-steps or --perceptual-kind.")
        recipe = replace(recipe, gan=replace(recipe.gan, **gan_changes))
    train(recipe, job)


if __name__ == "__main__":
    run_command(main)
