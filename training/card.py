"""What is known of the weights that a run exports, in the words of their model card."""

from sparnet.text import for_markdown
from training.run import Run


def card(run: Run) -> str:
    """A model card with what is known of the weights; limits and licence are for whoever publishes them."""
    seen = run.progress.step * run.recipe.batch_size
    pictures = len(run.index.items)
    start = f", started from {for_markdown(run.job.init)}" if run.job.init else ""
    loss = f"{run.recipe.loss} loss"
    if (gan := run.recipe.gan) and run.progress.step > gan.pixel_steps:
        perceptual = f" with perceptual distances of {gan.perceptual_kind}" if gan.perceptual else ""
        loss += f", from step {gan.pixel_steps:,} on the full loss{perceptual}"
    return (
        "---\nlibrary_name: sparnet\npipeline_tag: image-to-image\n---\n"
        f"# {run.recipe.name}\n\n"
        f"Averaged weights after {run.progress.step:,} of {run.end:,} steps of recipe `{run.recipe.name}`, "
        f"{seen:,} views of {pictures:,} pictures{start}; {loss}, computed in {run.recipe.precision}.\n"
        f"{annealing(run)}\n"
        f"Last validation: {run.progress.scores}.\n"
    )


def annealing(run: Run) -> str:
    """One sentence on whether the rate was annealed."""
    if run.progress.anneal is None:
        return "The rate was not annealed."
    changes = "".join(
        f", {name} {value}" for name in ("loss", "zoom") if (value := getattr(run.progress.anneal, name)) is not None
    )
    length = f"from step {run.progress.anneal.start:,} to {run.end:,}{changes}"
    if run.progress.step < run.end:
        return f"The rate is being annealed to 0, {length}: not to its end yet."
    return f"The rate was annealed to 0, {length}."
