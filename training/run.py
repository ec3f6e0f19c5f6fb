"""A run made ready: everything checked, built and, to resume, loaded, before the first step.

    recipe, job -> prepare -> Run: model, averaged weights, discriminator?, optimisers, index of the faces, step, best

A run that cannot work, or would overwrite another, ends here with a `UserError`; nothing has been written then.
"""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import IO

import torch
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env, set_seed
from tqdm import tqdm

from sparnet.errors import UserError
from sparnet.files import make_folder, save_bytes
from sparnet.folders import check_outside, printable
from training.data import Crop, FaceBatches, Index, index_pictures
from training.discriminator import MultiScaleDiscriminator
from training.networks import Network, build, network, plain_state
from training.perceptual import Lpips, load_perceptual
from training.precision import choose_precision, is_slow
from training.recipes import Anneal, Loss, Precision, Recipe
from training.state import (
    BEFORE_ANNEAL,
    CHECKPOINT,
    PREVIOUS,
    check_folder,
    load_checkpoint,
    lock,
    put_back,
    save_checkpoint,
)

History = dict[str, list[tuple[int, float]]]
"""Name of a loss or score -> (step, value), in the order of the steps."""


@dataclass(frozen=True)
class Job:
    """How a recipe is run: nothing here decides the weights but data, crop, seed, `init` and `perceptual`."""

    data: Sequence[Path]
    out: Path
    validate: Path | None = None
    init: str | None = None  # a name, folder or Hub id: weights to start from
    perceptual: Path | None = None  # weights of the network behind the perceptual loss; None: from the Hub
    lpips: Path | None = None  # weights of LPIPS, which then decides which model is the best
    crop: Crop = "auto"
    seed: int = 0
    resume: bool = False
    from_constant: bool = False  # resume before the anneal, not after it
    max_minutes: float | None = None
    anneal_minutes: float | None = None  # None: the last quarter of max_minutes, if the recipe anneals
    anneal_loss: Loss | None = None
    anneal_zoom: tuple[float, float] | None = None
    workers: int = 1
    log_every: int = 50  # steps
    save_minutes: float = 5.0
    compile: bool = False  # the model, by torch.compile; what it computes differs in rounding alone


@dataclass
class Run:
    """A training under way; `step` counts finished steps."""

    recipe: Recipe
    job: Job
    accelerator: Accelerator
    index: Index
    held_out: Index | None
    model: torch.nn.Module  # as Accelerate wrapped it
    averaged: Network
    optimizer: torch.optim.Optimizer
    discriminator: torch.nn.Module | None  # this and the next are there if the recipe has a `gan`
    discriminator_optimizer: torch.optim.Optimizer | None
    perceptual: torch.nn.Module | None
    lpips: Lpips | None
    record: dict  # what a resumed run must agree with
    step: int = 0
    anneal: Anneal | None = None  # once it has begun
    best: float = float("-inf")  # of the averaged weights on the held-out faces: PSNR, or -LPIPS
    scores: str = "not validated yet"
    history: History = field(default_factory=dict)  # what the curves are drawn from
    unreadable: set[str] = field(default_factory=set)  # what was told of pictures that cannot be read
    recent: list[dict[str, float]] = field(default_factory=list)  # losses and gradient norms since the last log
    lock: IO | None = None  # of the folder, in the main process
    seconds: Counter[str] = field(default_factory=Counter)  # what the steps since the last log cost, by part
    bar: tqdm | None = None

    @property
    def end(self) -> int:
        """The step after which the training is over."""
        return self.anneal.end if self.anneal else self.recipe.steps

    def say(self, message: str) -> None:
        """One line on stderr, from the main process."""
        say(message)


def say(message: str) -> None:
    """One line on stderr, from the main process."""
    if PartialState().is_main_process:
        tqdm.write(message, file=sys.stderr)


def prepare(recipe: Recipe, job: Job) -> Run:
    """Check that everything fits, build the model and its optimiser, and load the checkpoint to resume."""
    check_folder(job.out, job.resume)
    check_outside(job.out, [*job.data, *([job.validate] if job.validate else [])])
    if printable(str(job.out)) != str(job.out):
        raise UserError(f"{job.out} is a name that is not UTF-8, which TensorBoard cannot write: choose another --out")
    index = index_pictures(job.data)
    held_out = index_pictures([job.validate]) if job.validate else None
    FaceBatches(len(index.items), recipe.batch_size, job.seed, 0, 1)  # which says if they do not fill a batch
    compiler = os.environ.get("CXX", "g++")
    if job.compile and not shutil.which(compiler):
        raise UserError(
            f"torch.compile needs a C++ compiler and there is no {compiler}: install it, or leave out --compile"
        )
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU")  # which Accelerator would look up, too late
    processes = PartialState(cpu, timeout=timedelta(hours=2))  # the others wait while one validates
    held = lock(job.out, resume=True) if job.resume and processes.is_main_process else None
    state = load_state(job)
    recipe = replace(
        recipe, steps=recipe.length(len(index.items)), precision=settle_precision(recipe, processes.device, state)
    )
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        log_with="tensorboard",
        project_dir=job.out,
        dataloader_config=DataLoaderConfiguration(split_batches=True, even_batches=False),
    )
    if recipe.batch_size // recipe.accumulate % accelerator.num_processes:
        raise UserError(
            f"a batch of {recipe.batch_size // recipe.accumulate} cannot be split between "
            f"{accelerator.num_processes} processes; choose a --batch-size and --accumulate that can"
        )
    set_seed(job.seed)
    perceptual, lpips = judges(recipe, job)
    model = build(recipe, None if job.resume else job.init).to(memory_format=torch.channels_last)
    averaged = network(recipe.model).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    averaged.load_state_dict(plain_state(model))
    averaged.to(accelerator.device)
    optimizer = torch.optim.Adam(model.parameters(), recipe.lr, recipe.betas, fused=True)
    if job.compile:
        model.compile()  # in place: names and state dict stay
    model, optimizer = accelerator.prepare(model, optimizer)
    discriminator = discriminator_optimizer = None
    if recipe.gan:
        discriminator = MultiScaleDiscriminator(recipe.gan.scales, recipe.gan.channels, recipe.gan.max_channels)
        if recipe.model.size < discriminator.smallest:
            raise UserError(
                f"faces of {recipe.model.size} pixels are too small for {recipe.gan.scales} discriminators, "
                f"which need {discriminator.smallest}; choose a larger --size"
            )
        discriminator.to(memory_format=torch.channels_last)
        discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), recipe.gan.lr, recipe.betas, fused=True)
        discriminator, discriminator_optimizer = accelerator.prepare(discriminator, discriminator_optimizer)
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
    for judge in (perceptual, lpips):
        if judge is not None:
            judge.to(accelerator.device)
    run = Run(
        recipe,
        job,
        accelerator,
        index,
        held_out,
        model,
        averaged,
        optimizer,
        discriminator,
        discriminator_optimizer,
        perceptual,
        lpips,
        record,
        lock=held,
    )
    if state is not None:
        resume(run, state)
    accelerator.wait_for_everyone()  # before the main process writes what the others looked for above
    introduce(run)
    return run


def judges(recipe: Recipe, job: Job) -> tuple[torch.nn.Module | None, Lpips | None]:
    """The networks of the perceptual loss and of LPIPS, as far as the run needs them; `UserError` without weights."""
    needed = recipe.gan is not None and recipe.gan.perceptual > 0 and recipe.gan.pixel_steps < recipe.steps
    perceptual = load_perceptual(recipe.gan.perceptual_kind, job.perceptual) if needed else None
    return perceptual, load_perceptual("lpips_squeeze", job.lpips) if job.lpips else None


def fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 of the module's weights, shortened."""
    digest = sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


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
        choice = [choose_precision(recipe, device)] if PartialState().is_main_process else [None]
        [(wanted, why)] = broadcast_object_list(choice)
        say(f"computing in {wanted}: {why}")
    elif wanted == "bf16" and is_slow(device):
        say("warning: this machine has no fast bfloat16, so steps take several times as long as in fp32")
    return wanted


def resume(run: Run, state: dict) -> None:
    """Put the checkpoint's state into the run; `UserError` names the first setting that differs from it."""
    if state.get("anneal"):
        run.anneal = Anneal(**state["anneal"])
        run.recipe = run.recipe.annealed(run.anneal)
    else:  # nothing that was done so far depends on when it was to end
        state["record"]["recipe"]["steps"] = run.record["recipe"]["steps"]
    for name, then, now in differences(state["record"], run.record):
        raise UserError(
            f"cannot resume {run.job.out}: {name} was {then!r} and is now {now!r}; "
            "give the same again, or start another run with --init"
        )
    parts = {"model": run.accelerator.unwrap_model(run.model), "averaged": run.averaged, "optimizer": run.optimizer}
    if run.discriminator is not None:
        parts["discriminator"] = run.accelerator.unwrap_model(run.discriminator)
        parts["discriminator_optimizer"] = run.discriminator_optimizer
    put_back(parts, state, run.job.out)
    run.step, run.best, run.scores, run.history = state["step"], state["best"], state["scores"], state["history"]
    run.unreadable.update(state["unreadable"])
    run.recent = state.get("recent", [])  # not in checkpoints from before it was kept


def differences(then: dict, now: dict, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    """(dotted name, value then, value now) wherever two records of the same shape differ."""
    for key in sorted(then.keys() | now.keys()):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b


def introduce(run: Run) -> None:
    """Say what is about to happen, open the logs and the progress bar, and make sure that the folder can be written."""
    recipe, job, count = run.recipe, run.job, len(run.index.items)
    run.say(
        f"{recipe.name}: {sum(p.numel() for p in run.averaged.parameters()):,} parameters, {count:,} pictures, "
        f"batch {recipe.batch_size}, {recipe.steps:,} steps ({recipe.steps * recipe.batch_size / count:.1f} epochs), "
        f"{'full' if recipe.gan else recipe.loss} loss, rate {recipe.lr:g} {recipe.schedule}, {recipe.precision}, "
        f"seed {job.seed}, {run.accelerator.num_processes} x {run.accelerator.device.type}"
    )
    if run.index.ignored:
        run.say(
            f"{len(run.index.ignored)} files or folders are left out: hidden, a run's, or not named like pictures, "
            f"as {run.index.ignored[0]}"
        )
    if job.resume:
        run.say(f"resumed at step {run.step:,}")
        if job.from_constant and run.accelerator.is_main_process:
            write_checkpoint(run)
    elif run.accelerator.is_main_process:
        make_folder(job.out)
        run.lock = lock(job.out, resume=False)
        settings = json.dumps(run.record | {"paths": [str(path) for path in job.data]}, indent=1)
        save_bytes(settings.encode(), job.out / "run.json")
        write_checkpoint(run)
    run.accelerator.init_trackers("logs", init_kwargs={"tensorboard": {"purge_step": run.step + 1}})
    quiet = not (run.accelerator.is_main_process and sys.stderr.isatty())
    run.bar = tqdm(total=recipe.steps, initial=run.step, unit="step", disable=quiet, dynamic_ncols=True)


def write_checkpoint(run: Run, name: str = CHECKPOINT) -> None:
    state = {
        "model": run.accelerator.unwrap_model(run.model).state_dict(),
        "averaged": run.averaged.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "discriminator": run.discriminator and run.accelerator.unwrap_model(run.discriminator).state_dict(),
        "discriminator_optimizer": run.discriminator and run.discriminator_optimizer.state_dict(),
        "record": run.record,
        "step": run.step,
        "anneal": run.anneal and asdict(run.anneal),
        "best": run.best,
        "scores": run.scores,
        "history": run.history,
        "unreadable": sorted(run.unreadable),
        "recent": run.recent,
    }
    save_checkpoint(run.job.out, state, name)
