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
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import InitProcessGroupKwargs, set_seed
from tqdm import tqdm

from sparnet.errors import UserError
from sparnet.files import make_folder
from training.data import Crop, FaceBatches, Index, index_pictures
from training.discriminator import MultiScaleDiscriminator
from training.networks import Network, build, network, plain_state
from training.perceptual import Lpips, load_perceptual
from training.recipes import Recipe
from training.state import has_run, load_checkpoint, save_checkpoint, write_whole

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
    max_minutes: float | None = None
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
    best: float = float("-inf")  # of the averaged weights on the held-out faces: PSNR, or -LPIPS
    scores: str = "not validated yet"
    history: History = field(default_factory=dict)  # what the curves are drawn from
    unreadable: set[str] = field(default_factory=set)  # what was told of pictures that cannot be read
    recent: list[dict[str, float]] = field(default_factory=list)  # losses and gradient norms since the last log
    seconds: Counter[str] = field(default_factory=Counter)  # what the steps since the last log cost, by part
    bar: tqdm | None = None

    def say(self, message: str) -> None:
        """One line on stderr, from the main process."""
        if self.accelerator.is_main_process:
            tqdm.write(message, file=sys.stderr)


def prepare(recipe: Recipe, job: Job) -> Run:
    """Check that everything fits, build the model and its optimiser, and load the checkpoint to resume."""
    if has_run(job.out) and not job.resume:
        raise UserError(f"{job.out} already holds a run; go on with --resume, or choose another --out")
    index = index_pictures(job.data)
    held_out = index_pictures([job.validate]) if job.validate else None
    FaceBatches(len(index.items), recipe.batch_size, job.seed, 0, 1)  # which says if they do not fill a batch
    compiler = os.environ.get("CXX", "g++")
    if job.compile and not shutil.which(compiler):
        raise UserError(
            f"torch.compile needs a C++ compiler and there is no {compiler}: install it, or leave out --compile"
        )
    recipe = replace(recipe, steps=recipe.length(len(index.items)))
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        log_with="tensorboard",
        project_dir=job.out,
        dataloader_config=DataLoaderConfiguration(split_batches=True, even_batches=False),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],  # the others wait while one validates
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
    )
    if job.resume:
        resume(run)
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


def resume(run: Run) -> None:
    """Put the checkpoint's state into the run; `UserError` names the first setting that differs from it."""
    state = load_checkpoint(run.job.out, run.say)
    for name, then, now in differences(state["record"], run.record):
        raise UserError(
            f"cannot resume {run.job.out}: {name} was {then!r} and is now {now!r}; "
            "give the same again, or start another run with --init"
        )
    run.accelerator.unwrap_model(run.model).load_state_dict(state["model"])
    run.averaged.load_state_dict(state["averaged"])
    run.optimizer.load_state_dict(state["optimizer"])
    if run.discriminator is not None:
        run.accelerator.unwrap_model(run.discriminator).load_state_dict(state["discriminator"])
        run.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
    run.step, run.best, run.scores, run.history = state["step"], state["best"], state["scores"], state["history"]
    run.unreadable.update(state["unreadable"])


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
        run.say(f"{len(run.index.ignored)} files are no pictures by name and left out, like {run.index.ignored[0]}")
    if job.resume:
        run.say(f"resumed at step {run.step:,}")
    elif run.accelerator.is_main_process:
        make_folder(job.out)
        settings = json.dumps(run.record | {"paths": [str(path) for path in job.data]}, indent=1)
        write_whole(job.out / "run.json", lambda path: path.write_text(settings))
        write_checkpoint(run)
    run.accelerator.init_trackers("logs", init_kwargs={"tensorboard": {"purge_step": run.step + 1}})
    quiet = not (run.accelerator.is_main_process and sys.stderr.isatty())
    run.bar = tqdm(total=recipe.steps, initial=run.step, unit="step", disable=quiet, dynamic_ncols=True)


def write_checkpoint(run: Run) -> None:
    state = {
        "model": run.accelerator.unwrap_model(run.model).state_dict(),
        "averaged": run.averaged.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "discriminator": run.discriminator and run.accelerator.unwrap_model(run.discriminator).state_dict(),
        "discriminator_optimizer": run.discriminator and run.discriminator_optimizer.state_dict(),
        "record": run.record,
        "step": run.step,
        "best": run.best,
        "scores": run.scores,
        "history": run.history,
        "unreadable": sorted(run.unreadable),
    }
    save_checkpoint(run.job.out, state)
