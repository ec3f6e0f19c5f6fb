"""The trainer: faces in, a model out; killed at any moment and resumed, it ends with the same weights.

    recipe, data -> prepare -> [ fetch -> step -> log -> evaluate -> save ] x steps -> checkpoint.pt, model/, best/
                    rate: warm-up, constant over any number of sittings, one anneal to 0 -> annealed/

`python -m training.train RECIPE --data PATH --out DIR`; the same under `accelerate launch` for several processes,
which share each batch; batch norm then sees each process's share, as usual under data parallelism. Several processes on
a CPU: `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N`; with `--cpu` it would start but one.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from accelerate.utils import broadcast_object_list, gather_object
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
from training.recipes import RECIPES, Anneal, Loss, Precision, Recipe, Schedule, find_recipe, last_quarter
from training.run import Job, Run, prepare, write_checkpoint
from training.state import BEFORE_ANNEAL, CHECKPOINT, export
from training.watch import remember, watch

SHEET_FACES = 8
SPEED_STEPS = 10  # steps of a sitting before its speed is known
RESERVE = 0.05  # share of the time for an anneal that is not planned for steps


@dataclass(frozen=True)
class Sitting:
    """What one call of the trainer may take: moments of `time.monotonic`, and the steps finished before it."""

    began: float
    before: int
    deadline: float  # inf: none
    anneal_at: float  # inf: not by the clock
    anneal_seconds: float

    @classmethod
    def begin(cls, recipe: Recipe, job: Job, began: float, before: int) -> "Sitting":
        """From the minutes in `job`; unless it says otherwise, schedule wsd takes their last quarter for the anneal."""
        minutes = job.anneal_minutes
        if minutes is None:
            minutes = job.max_minutes / 4 if recipe.schedule == "wsd" and job.max_minutes is not None else 0
        constant = max(0.0, job.max_minutes - minutes) if job.max_minutes is not None else 0.0
        return cls(
            began,
            before,
            began + 60 * job.max_minutes if job.max_minutes is not None else float("inf"),
            began + 60 * constant if minutes else float("inf"),
            60 * minutes,
        )

    def anneal_due(self, run: Run) -> bool:
        """Whether the anneal begins after the step to come, by the clock or by the recipe's length."""
        if run.anneal:
            return False
        by_length = run.recipe.schedule == "wsd" and run.step + 1 >= last_quarter(run.recipe.steps).start
        return by_length or (time.monotonic() > self.anneal_at and run.step + 1 - self.before >= SPEED_STEPS)

    def plan(self, run: Run) -> Anneal:
        """The anneal that begins now: the recipe's, or as many steps as the time holds at this sitting's speed."""
        anneal = last_quarter(run.recipe.steps)
        if run.recipe.schedule != "wsd" or run.step < anneal.start:
            now = time.monotonic()
            seconds = min(self.anneal_seconds, self.deadline - now)
            steps = int((1 - RESERVE) * seconds * (run.step - self.before) / (now - self.began))
            anneal = Anneal(run.step, run.step + max(1, steps))
        return replace(anneal, loss=run.job.anneal_loss, zoom=run.job.anneal_zoom)


def train(recipe: Recipe, job: Job) -> Path:
    """Train, or go on training, until the recipe's steps, the minutes or a signal end it; -> folder of the model.

    `UserError` before the first step if recipe, data and folder do not fit together; `Diverged` on NaN.
    """
    began = time.monotonic()
    run = prepare(recipe, job)
    sitting = Sitting.begin(recipe, job, began, run.step)
    saved = logged = time.monotonic()
    logged_step = run.step
    with ending_signals() as signals:
        for batches in fetch(run):
            wishes = {"stop": bool(signals) or time.monotonic() > sitting.deadline, "anneal": sitting.anneal_due(run)}
            wishes = take_step(run, batches, wishes)
            if wishes["anneal"]:
                begin_anneal(run, sitting)
            if run.step % job.log_every == 0:
                log(run, run.step - logged_step, time.monotonic() - logged)
                logged, logged_step = time.monotonic(), run.step
            if run.step % run.recipe.validate_every == 0 or run.step == run.end:
                pause = time.monotonic()
                if run.accelerator.is_main_process:
                    check_weights(run)
                    evaluate(run)
                    watch(run)
                logged += time.monotonic() - pause  # not part of the speed
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

    Unreadable pictures are told.
    """
    while run.step < run.end:
        yield from _fetch_alike(run)


def _fetch_alike(run: Run) -> Iterator[list[dict]]:
    """The steps that are left up to the end, or to the anneal, which may draw other views."""
    recipe, job, anneal = run.recipe, run.job, run.anneal
    parts = recipe.accumulate
    micro = FaceBatches(len(run.index.items), recipe.batch_size // parts, job.seed, run.step * parts, run.end * parts)
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
    for _ in range(run.step, run.end):
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
        if run.anneal != anneal:
            return


def take_step(run: Run, batches: list[dict], wishes: dict[str, bool]) -> dict[str, bool]:
    """One optimiser step from its micro-batches and the moving average after it; -> what any of the processes wishes.

    `Diverged` before any weight is touched if a loss or a gradient is not finite.
    """
    recipe, accelerator, phase = run.recipe, run.accelerator, phase_at(run)
    learners = {"generator": (run.model, run.optimizer, recipe.lr)}
    if phase is full_phase:
        learners["discriminator"] = (run.discriminator, run.discriminator_optimizer, recipe.gan.lr)
    for _, optimizer, lr in learners.values():
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = lr * recipe.rate_at(run.step, run.anneal)
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
        asked = torch.tensor([float(wish) for wish in wishes.values()], device=accelerator.device)
        means = accelerator.reduce(torch.cat([torch.stack([*seen.values()]), asked]), "mean").tolist()
        numbers, asked = means[: len(seen)], means[len(seen) :]
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
    return {name: mean > 0 for name, mean in zip(wishes, asked, strict=True)}


def begin_anneal(run: Run, sitting: Sitting) -> None:
    """Plan the anneal and keep the checkpoint from before it; the plan is part of the run now and survives a kill."""
    [run.anneal] = broadcast_object_list([sitting.plan(run)])
    if run.accelerator.is_main_process:
        check_weights(run)
        plan, run.anneal = run.anneal, None
        write_checkpoint(run, BEFORE_ANNEAL)
        run.anneal = plan
        write_checkpoint(run)
    run.recipe = run.recipe.annealed(run.anneal)
    run.bar.total = run.end
    run.bar.refresh()
    run.say(
        f"step {run.step:,}: the rate falls to 0 by step {run.end:,}, {run.recipe.loss} loss, zoom {run.recipe.zoom}; "
        f"{BEFORE_ANNEAL} keeps what was before (--resume --from-constant)"
    )


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


def log(run: Run, steps: int, seconds: float) -> None:
    """Mean losses and gradient norms since the last time, rate, images/s and what they cost: to tracker and people.

    `steps` and `seconds` are of this process alone: after a resumption fewer than there are losses.
    """
    speed = steps / seconds
    names = dict.fromkeys(name for values in run.recent for name in values)
    means = {name: float(np.mean([values[name] for values in run.recent if name in values])) for name in names}
    cost = {part: seconds / steps for part, seconds in run.seconds.items()}
    run.recent.clear()
    run.seconds.clear()
    rate = run.recipe.lr * run.recipe.rate_at(run.step - 1, run.anneal)
    per_second = speed * run.recipe.batch_size
    values = {"train/lr": rate, "train/images_per_s": per_second}
    values |= {f"train/{name}": value for name, value in means.items()}
    values |= {f"seconds_per_step/{part}": seconds for part, seconds in cost.items()}
    run.accelerator.log(values, step=run.step)
    remember(run, {f"train/{name}": value for name, value in means.items() if "norm" not in name})
    losses = "  ".join(f"{name} {value:.4f}" for name, value in means.items() if "norm" not in name)
    run.bar.set_postfix_str(f"{losses}, rate {rate:.2g}, {per_second:.1f} images/s")
    if run.bar.disable:
        left = (run.end - run.step) / speed / 60
        costs = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in cost.items())
        run.say(
            f"step {run.step:,}/{run.end:,}  {losses}  rate {rate:.2g}  "
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
        f"Averaged weights after {run.step:,} of {run.end:,} steps of recipe `{run.recipe.name}`, "
        f"{seen:,} views of {len(run.index.items):,} pictures{start}; {loss}, computed in {run.recipe.precision}.\n"
        f"{annealing(run)}\n"
        f"Last validation: {run.scores}.\n"
    )


def annealing(run: Run) -> str:
    """One sentence on whether the rate was annealed."""
    if run.anneal is None:
        return "The rate was not annealed."
    changes = "".join(
        f", {name} {value}" for name in ("loss", "zoom") if (value := getattr(run.anneal, name)) is not None
    )
    length = f"from step {run.anneal.start:,} to {run.end:,}{changes}"
    if run.step < run.end:
        return f"The rate is being annealed to 0, {length}: not to its end yet."
    return f"The rate was annealed to 0, {length}."


def finish(run: Run) -> None:
    """Close the logs, keep the annealed model, and say how it ended."""
    run.bar.close()
    if run.anneal and run.step == run.end and run.accelerator.is_main_process:
        export(run.averaged, run.job.out / "annealed", card(run))
    done = "done" if run.step == run.end else "stopped, go on with --resume"
    run.say(
        f"{done}: step {run.step:,} of {run.end:,}; {run.scores}; model in {run.job.out / 'model'}. {annealing(run)}"
    )
    skipped = set(gather_object(sorted(run.unreadable)))
    if skipped:
        run.say(f"{len(skipped)} unreadable pictures were skipped; each was named above or before the run was resumed")
    run.accelerator.end_training()
    if run.lock is not None:
        run.lock.close()


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
    from_constant: Annotated[
        bool, typer.Option("--from-constant", help="With --resume: from before the anneal, at the constant rate.")
    ] = False,
    init: Annotated[str | None, typer.Option(help="Model to start from: a name, folder or Hub id.")] = None,
    perceptual: Annotated[Path | None, typer.Option(help="Weights of the perceptual loss's network.")] = None,
    lpips: Annotated[Path | None, typer.Option(help="Weights of LPIPS: scored too, and decides what is best.")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="Stop cleanly after so long.")] = None,
    anneal_minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How long the rate falls to 0, at the end of --max-minutes or, without them, now; 0: not yet, "
            "another sitting goes on. By default a recipe of schedule wsd takes the last quarter of --max-minutes.",
        ),
    ] = None,
    anneal_loss: Annotated[Loss | None, typer.Option(help="Pixel loss during the anneal.")] = None,
    anneal_zoom: Annotated[tuple[float, float] | None, typer.Option(help="Range of the zoom during it.")] = None,
    validate: Annotated[Path | None, typer.Option(help="Folder of held-out faces.")] = None,
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
    if from_constant and not resume:
        raise UserError("--from-constant says where to go on: give --resume too.")
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
        from_constant=from_constant,
        max_minutes=max_minutes,
        anneal_minutes=anneal_minutes,
        anneal_loss=anneal_loss,
        anneal_zoom=anneal_zoom,
        workers=workers,
        save_minutes=save_minutes,
        compile=compiled,
    )
    train(recipe, job)


if __name__ == "__main__":
    run_command(main)
