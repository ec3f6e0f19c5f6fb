"""A run made ready: everything checked, built and, to resume, loaded, before the first step.

    recipe, job -> prepare -> Run: what it was given | Learner, two for a GAN | Progress, as a checkpoint keeps it

A run that cannot work, or would overwrite another, ends here with a `UserError`; nothing has been written then.
"""

import json
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Annotated

import torch
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.tracking import TensorBoardTracker
from accelerate.utils import set_seed
from numpy import ndarray
from pydantic import TypeAdapter
from tqdm import tqdm
from typer import Option

from sparnet.checkpoints import fingerprint
from sparnet.errors import UserError
from sparnet.files import make_folder, save_bytes
from sparnet.folders import check_outside, printable
from training.data import Crop, FaceBatches, Index, index_pictures
from training.discriminator import MultiScaleDiscriminator
from training.networks import Network, build, channels_last, network, plain_state
from training.perceptual import Lpips, load_lpips, load_perceptual
from training.precision import choose_precision, is_slow
from training.processes import agreed, device_of, process_state
from training.recipes import Anneal, Loss, Precision, Recipe
from training.state import (
    BEFORE_ANNEAL,
    CHECKPOINT,
    PREVIOUS,
    check_folder,
    differences,
    load_checkpoint,
    lock,
    put_back,
    save_checkpoint,
)

History = dict[str, list[tuple[int, float]]]
"""Name of a loss or score -> (step, value), in the order of the steps."""


@dataclass(frozen=True)
class Job:
    """How a recipe is run, by the trainer's options: of these data, crop, seed, init and perceptual decide the weights.

    What torch.compile computes differs in rounding alone.
    """

    data: Annotated[list[Path], Option(help="Folder of pictures or tar shards, or one shard; repeatable.")]
    out: Annotated[Path, Option(help="Folder of the run: checkpoint, model, logs, samples.")]
    validate: Annotated[Path | None, Option(help="Folder of held-out faces.")] = None
    init: Annotated[str | None, Option(help="Model to start from: a name, folder or Hub id.")] = None
    perceptual: Annotated[Path | None, Option(help="Weights of the perceptual loss's network; else the Hub's.")] = None
    lpips: Annotated[Path | None, Option(help="Weights of LPIPS: scored too, and decides what is best.")] = None
    crop: Annotated[Crop, Option(help="centre: 178x218 and 160x160 pictures are not CelebA's.")] = "auto"
    seed: Annotated[int, Option(min=0)] = 0
    resume: Annotated[bool, Option("--resume", help="Go on from the checkpoint in --out.")] = False
    from_constant: Annotated[
        bool, Option("--from-constant", help="With --resume: from before the anneal, at the constant rate.")
    ] = False
    max_minutes: Annotated[float | None, Option(min=0, help="Stop cleanly after so long.")] = None
    anneal_minutes: Annotated[
        float | None,
        Option(
            min=0,
            help="How long the rate falls to 0, at the end of --max-minutes or, without them, now; 0: not yet, "
            "another sitting goes on. By default a recipe of schedule wsd takes the last quarter of --max-minutes.",
        ),
    ] = None
    anneal_loss: Annotated[Loss | None, Option(help="Pixel loss during the anneal.")] = None
    anneal_zoom: Annotated[tuple[float, float] | None, Option(help="Range of the zoom during it.")] = None
    workers: Annotated[int, Option(min=0, help="Processes that load pictures.")] = 1
    log_every: int = 50  # steps
    save_minutes: Annotated[float, Option(min=0, help="Time between checkpoints.")] = 5.0
    compile: Annotated[bool, Option("--compile", help="Compile the model: minutes first, then faster.")] = False


@dataclass(frozen=True, eq=False)
class Learner:
    """A network and the optimiser that teaches it, as Accelerate wrapped them."""

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    lr: float  # the highest

    def begin(self, share: float) -> None:
        """Make ready for a step at this share of the rate."""
        self.optimizer.zero_grad()
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.lr


@dataclass
class Progress:
    """How far a run is, which its checkpoint keeps beside the weights; `step` counts finished steps."""

    step: int = 0
    anneal: Anneal | None = None  # once it has begun
    best: float = float("-inf")  # of the averaged weights on the held-out faces: PSNR, or -LPIPS
    scores: str = "not validated yet"
    history: History = field(default_factory=dict)  # what the curves are drawn from
    unreadable: set[str] = field(default_factory=set)  # what was told of pictures that cannot be read
    recent: list[dict[str, float]] = field(default_factory=list)  # losses and gradient norms since the last log

    def state(self) -> dict:
        """As plain values, for the checkpoint."""
        return vars(self) | {"anneal": self.anneal and asdict(self.anneal), "unreadable": sorted(self.unreadable)}


class Stopwatch:
    """What the steps since the last log cost: how many, in how many seconds, and the seconds of each part."""

    def __init__(self, device: torch.device):
        self.device = device
        self.restart()

    def restart(self) -> None:
        self.began, self.steps, self.parts = self.now(), 0, defaultdict(float)

    def now(self) -> float:
        """In seconds; a GPU is waited for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the seconds within as the cost of that part."""
        started = self.now()
        yield
        self.parts[name] += self.now() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within is not part of the speed."""
        started = self.now()
        yield
        self.began += self.now() - started


@dataclass(frozen=True, eq=False)
class Run:
    """A training under way; nothing of it changes but `progress`, the clock and what the networks have learned."""

    planned: Recipe  # as it is outside of the anneal
    job: Job
    steps: int  # of the whole training, unless an anneal ends it
    accelerator: Accelerator
    index: Index
    held_out: Index | None
    perceptual: torch.nn.Module | None
    lpips: Lpips | None
    record: dict  # what a resumed run must agree with
    generator: Learner
    discriminator: Learner | None  # if the recipe has a `gan`
    averaged: Network
    progress: Progress
    lock: IO | None  # of the folder, in the main process
    bar: tqdm
    clock: Stopwatch

    @property
    def recipe(self) -> Recipe:
        """As it is now: in its anneal loss and zoom may be others."""
        return self.planned.annealed(self.progress.anneal)

    @property
    def end(self) -> int:
        """The step after which the training is over."""
        return self.progress.anneal.end if self.progress.anneal else self.steps

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def parts(self) -> dict[str, torch.nn.Module | torch.optim.Optimizer]:
        """What is learned, by its name in the checkpoint."""
        unwrap = self.accelerator.unwrap_model
        parts = {"model": unwrap(self.generator.network), "averaged": self.averaged}
        parts["optimizer"] = self.generator.optimizer
        if self.discriminator:
            parts["discriminator"] = unwrap(self.discriminator.network)
            parts["discriminator_optimizer"] = self.discriminator.optimizer
        return parts


def show(run: Run, name: str, picture: ndarray) -> None:
    """A picture (H,W,3) uint8 of this step, in TensorBoard; from the main process."""
    tracker = run.accelerator.get_tracker("tensorboard")
    if isinstance(tracker, TensorBoardTracker):
        tracker.log_images({name: picture[None]}, step=run.progress.step, dataformats="NHWC")


def say(message: str) -> None:
    """One line on stderr, from the main process."""
    if PartialState().is_main_process:
        tqdm.write(message, file=sys.stderr)


def prepare(recipe: Recipe, job: Job) -> Run:
    """Check that everything fits, build the model and its optimiser, and load the checkpoint to resume."""
    check_folder(job.out, job.resume)
    check_outside(job.out, [*job.data, *([job.validate] if job.validate else [])])
    if printable(str(job.out)) != str(job.out):
        raise UserError(f"{job.out} is a name that is not UTF-8, which TensorBoard cannot write: choose another --out.")
    index = index_pictures(job.data)
    held_out = index_pictures([job.validate]) if job.validate else None
    FaceBatches(len(index.items), recipe.batch_size, job.seed, 0, 1)  # which says if they do not fill a batch
    compiler = os.environ.get("CXX", "g++")
    if job.compile and not shutil.which(compiler):
        raise UserError(
            f"torch.compile needs a C++ compiler and there is no {compiler}: install it, or leave out --compile."
        )
    processes = process_state()  # before Accelerator, which would look up its environment too late
    held = lock(job.out, resume=True) if job.resume and processes.is_main_process else None
    state = load_state(job)
    steps = recipe.length(len(index.items))
    precision = settle_precision(recipe, device_of(processes), state)
    recipe = replace(recipe, steps=steps, precision=precision)
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        log_with="tensorboard",
        project_dir=job.out,
        dataloader_config=DataLoaderConfiguration(split_batches=True, even_batches=False),
    )
    if recipe.batch_size // recipe.accumulate % accelerator.num_processes:
        raise UserError(
            f"A batch of {recipe.batch_size // recipe.accumulate} cannot be split between "
            f"{accelerator.num_processes} processes; choose a --batch-size and --accumulate that can."
        )
    set_seed(job.seed)
    lpips = load_lpips(job.lpips).to(accelerator.device) if job.lpips else None
    perceptual = None
    if recipe.gan and recipe.gan.perceptual > 0 and recipe.gan.pixel_steps < steps:
        perceptual = load_perceptual(recipe.gan.perceptual_kind, job.perceptual).to(accelerator.device)
    generator, averaged = generator_of(recipe, job, accelerator)
    discriminator = discriminator_of(recipe, accelerator)
    record = {
        "recipe": recipe.record(),
        "seed": job.seed,
        "data": index.describe_names_and_sizes(),
        "init": job.init,
        "perceptual": perceptual and fingerprint(perceptual),
        "validated on": held_out and held_out.describe_names_and_sizes(),
        "best by": "LPIPS" if lpips else "PSNR",
        **({} if job.crop == "auto" else {"crop": job.crop}),  # left out, so that runs from before it was asked resume
    }
    if state is not None:
        check_same(state, record, job.out)
    progress = TypeAdapter(Progress).validate_python(state or {})  # earlier versions kept no `anneal` and no `recent`
    accelerator.wait_for_everyone()  # before the main process writes what the others looked for above
    if accelerator.is_main_process and not job.resume:
        make_folder(job.out)
        held = lock(job.out, resume=False)
    quiet = not (accelerator.is_main_process and sys.stderr.isatty())
    run = Run(
        recipe,
        job,
        steps,
        accelerator,
        index,
        held_out,
        perceptual,
        lpips,
        record,
        generator,
        discriminator,
        averaged,
        progress,
        held,
        tqdm(total=steps, initial=progress.step, unit="step", disable=quiet, dynamic_ncols=True),
        Stopwatch(accelerator.device),
    )
    if state is not None:
        put_back(run.parts, state, job.out)
    introduce(run)
    return run


def generator_of(recipe: Recipe, job: Job, accelerator: Accelerator) -> tuple[Learner, Network]:
    """What is trained, with fresh weights or those of `init`, and the network of its averaged weights."""
    model = channels_last(build(recipe, None if job.resume else job.init))
    averaged = channels_last(network(recipe.model).eval().requires_grad_(False))
    averaged.load_state_dict(plain_state(model))
    averaged.to(accelerator.device)
    optimizer = torch.optim.Adam(model.parameters(), recipe.lr, recipe.betas, fused=True)
    if job.compile:
        model.compile()  # in place: names and state dict stay
    model, optimizer = accelerator.prepare(model, optimizer)
    return Learner(model, optimizer, recipe.lr), averaged


def discriminator_of(recipe: Recipe, accelerator: Accelerator) -> Learner | None:
    """The discriminators of the recipe's `gan`, if it has one; `UserError` if its faces are too small for them."""
    gan = recipe.gan
    if gan is None:
        return None
    discriminator = channels_last(MultiScaleDiscriminator(gan.scales, gan.channels, gan.max_channels))
    if recipe.model.size < discriminator.smallest:
        raise UserError(
            f"Faces of {recipe.model.size} pixels are too small for {gan.scales} discriminators, "
            f"which need {discriminator.smallest}; choose a larger --size."
        )
    optimizer = torch.optim.Adam(discriminator.parameters(), gan.lr, recipe.betas, fused=True)
    discriminator, optimizer = accelerator.prepare(discriminator, optimizer)
    return Learner(discriminator, optimizer, gan.lr)


def load_state(job: Job) -> dict | None:
    """The checkpoint to go on from, if any; `UserError` if it is wanted and not there."""
    if not job.resume:
        return None
    if job.from_constant and not (job.out / BEFORE_ANNEAL).exists():
        raise UserError(f"{job.out} was not annealed yet: go on with --resume alone.")
    return load_checkpoint(job.out, say, [BEFORE_ANNEAL] if job.from_constant else (CHECKPOINT, PREVIOUS))


def settle_precision(recipe: Recipe, device: torch.device, state: dict | None) -> Precision:
    """What the run computes in: what was asked for, or what it was begun in, or the faster of the two here.

    The main process decides for all; it says why, and warns where a resumed run is slow on this machine.
    """
    begun_in = state["record"]["recipe"].get("precision") if state else None
    wanted = begun_in if begun_in and recipe.precision == "auto" else recipe.precision
    if wanted == "auto":
        wanted, why = agreed(lambda: choose_precision(recipe, device))
        say(f"computing in {wanted}: {why}")
    elif wanted == "bf16" and is_slow(device):
        say("warning: this machine has no fast bfloat16, so steps take several times as long as in fp32")
    return wanted


def check_same(state: dict, record: dict, folder: Path) -> None:
    """`UserError` names the first setting in which the checkpoint's run was another than the one to go on with."""
    then = state["record"]
    if not state.get("anneal"):  # nothing that was done so far depends on when it was to end
        then["recipe"]["steps"] = record["recipe"]["steps"]
    if len(then.get("perceptual") or "") == 12:  # earlier versions' hash, of another rule
        say("warning: the run began with an earlier version, so whether --perceptual is the same file is not checked")
        then["perceptual"] = record["perceptual"]
    for name, was, now in differences(then, record):
        raise UserError(
            f"Cannot resume {folder}: {name} was {was!r} and is now {now!r}; "
            "give the same again, or start another run with --init."
        )


def introduce(run: Run) -> None:
    """Say what is about to happen, write the first checkpoint of the run and open its logs."""
    recipe, job, accelerator, index = run.recipe, run.job, run.accelerator, run.index
    count, steps = len(index.items), run.steps
    say(
        f"{recipe.name}: {sum(p.numel() for p in run.averaged.parameters()):,} parameters, {count:,} pictures, "
        f"batch {recipe.batch_size}, {steps:,} steps ({steps * recipe.batch_size / count:.1f} epochs), "
        f"{'full' if recipe.gan else recipe.loss} loss, rate {recipe.lr:g} {recipe.schedule}, {recipe.precision}, "
        f"seed {job.seed}, {accelerator.num_processes} x {accelerator.device.type}"
    )
    if index.ignored:
        say(
            f"{len(index.ignored)} files or folders are left out: hidden, a run's, or not named like pictures, "
            f"as {index.ignored[0]}"
        )
    if job.resume:
        say(f"resumed at step {run.progress.step:,}")
    if run.is_main and not job.resume:
        settings = json.dumps(run.record | {"paths": [str(path) for path in job.data]}, indent=1)
        save_bytes(settings.encode(), job.out / "run.json")
    if run.is_main and (job.from_constant or not job.resume):
        write_checkpoint(run)
    accelerator.init_trackers("logs", init_kwargs={"tensorboard": {"purge_step": run.progress.step + 1}})


def write_checkpoint(run: Run, name: str = CHECKPOINT) -> None:
    parts = dict.fromkeys(("discriminator", "discriminator_optimizer"))
    parts |= {part: module.state_dict() for part, module in run.parts.items()}
    save_checkpoint(run.job.out, parts | {"record": run.record} | run.progress.state(), name)
