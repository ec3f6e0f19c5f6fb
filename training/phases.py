"""What one micro-batch teaches: the losses of each phase, and the gradients that they leave on the networks.

    pixel phase   degraded -> model -> restored, sharp -> pixel loss -> gradient of the model
    full phase    the same, + perceptual + feature matching + adversarial -> gradient of the model
                  restored, sharp -> discriminators -> hinge loss -> gradient of the discriminators

No weight changes here: `training.train` applies the gradients of a step together.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.discriminator import Judgement
from training.losses import PIXEL, feature_matching, hinge_discriminator, hinge_generator
from training.recipes import Gan
from training.run import Run

Phase = Callable[[Run, Tensor, Tensor, float], dict[str, Tensor]]
"""(run, degraded, sharp, their share of the step's batch) -> the losses by name, detached."""


def phase_at(run: Run) -> Phase:
    """The phase of the step to come."""
    gan = run.recipe.gan
    return full_phase if gan is not None and run.progress.step >= gan.pixel_steps else pixel_phase


def pixel_phase(run: Run, degraded: Tensor, sharp: Tensor, share: float) -> dict[str, Tensor]:
    """L = pixel(restored, sharp), equation 5 of the paper; in a GAN run with its weight there.

    Adam's step does not depend on the size of the gradient, but it would on a sudden change of it.
    """
    weight = run.recipe.gan.pixel if run.recipe.gan else 1.0
    with run.clock.part("generator"):
        loss = PIXEL[run.recipe.loss](run.generator.network(degraded), sharp)
        run.accelerator.backward(weight * loss * share)
    return {"pixel": loss.detach()}


def full_phase(run: Run, degraded: Tensor, sharp: Tensor, share: float) -> dict[str, Tensor]:
    """The generator's part and the discriminators'; both judge the restored faces of the same forward pass."""
    gan, discriminator = run.recipe.gan, run.discriminator
    assert gan is not None
    assert discriminator is not None  # see `phase_at`
    with run.clock.part("generator"):
        restored, losses = generator_part(run, gan, discriminator.network, degraded, sharp, share)
    with run.clock.part("discriminator"):
        losses["discriminator"] = discriminator_part(run, discriminator.network, restored, sharp, share)
    return losses


def generator_part(
    run: Run, gan: Gan, discriminator: nn.Module, degraded: Tensor, sharp: Tensor, share: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_G = w_pix L_pix + w_pcp L_pcp + w_fm L_fm + w_adv L_adv (section III-C); -> detached faces and losses."""
    restored = run.generator.network(degraded)
    judge = run.accelerator.unwrap_model(discriminator)  # its gradient is wanted for the faces alone
    judge.requires_grad_(False)
    fake = judge(restored)
    with torch.no_grad():
        real = judge(sharp)
    terms = {
        "pixel": (gan.pixel, PIXEL[run.recipe.loss](restored, sharp)),
        "feature_matching": (gan.feature_matching, feature_matching(real, fake)),
        "adversarial": (gan.adversarial, hinge_generator(fake)),
    }
    if run.perceptual is not None:
        with run.accelerator.autocast():
            terms["perceptual"] = (gan.perceptual, run.perceptual(restored, sharp))
    loss = torch.stack([weight * term for weight, term in terms.values()]).sum()
    run.accelerator.backward(loss * share)
    judge.requires_grad_(True)
    return restored.detach(), {"generator": loss.detach()} | {name: term.detach() for name, (_, term) in terms.items()}


def discriminator_part(run: Run, discriminator: nn.Module, restored: Tensor, sharp: Tensor, share: float) -> Tensor:
    """L_D, the hinge loss; -> its value, detached."""
    judgements = discriminator(torch.cat([restored, sharp]))
    fake, real = (
        [Judgement([layer.chunk(2)[half] for layer in j.features], j.score.chunk(2)[half]) for j in judgements]
        for half in (0, 1)
    )
    loss = hinge_discriminator(real, fake)
    run.accelerator.backward(loss * share)
    return loss.detach()
