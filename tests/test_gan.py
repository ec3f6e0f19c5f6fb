"""The training of SPARNetHD: what the full loss does to both networks, and what a run survives."""

import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from double import in_float64
from made_up import pictures
from runs import GAN as RECIPE
from runs import another, job, start, weights
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F

from sparnet import SPARNet, files, images, load_model
from sparnet.errors import UserError
from training import perceptual, state, validation
from training.command import Diverged
from training.data import FaceBatches, Faces, centre_view, index_pictures, join
from training.degradations import blind, random_grey
from training.discriminator import Discriminator, MultiScaleDiscriminator
from training.networks import build, plain_state
from training.recipes import Gan
from training.train import train

pytestmark = pytest.mark.usefixtures("fresh_accelerator", "quick")


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "faces", 8, side=54)


@in_float64()
def test_the_steps_are_those_of_the_published_losses_written_out(faces, tmp_path):
    """Generator and discriminator descend plain PyTorch expressions of the paper's losses, both at their own rates."""
    recipe = replace(RECIPE, steps=4, ema=0.0, gan=replace(RECIPE.gan, pixel_steps=1, generator_spectral_norm=False))
    folder = train(recipe, job(faces, tmp_path / "run"))

    torch.manual_seed(0)
    model = SPARNet(recipe.model)
    SPARNet(recipe.model)  # the trainer makes the averaged model here, which takes random numbers too
    judge = Discriminator(4, 8)
    adam = torch.optim.Adam(model.parameters(), 1e-3, betas=(0.5, 0.99))
    adam_judge = torch.optim.Adam(judge.parameters(), 4e-4, betas=(0.5, 0.99))
    items = index_pictures([faces]).items
    data = Faces(items, recipe, 0)
    for step, keys in enumerate(FaceBatches(len(items), 4, 0, 0, 4)):
        batch = join([data[key] for key in keys])
        share = (0.5, 1, 1, 1)[step]
        adam.param_groups[0]["lr"], adam_judge.param_groups[0]["lr"] = 1e-3 * share, 4e-4 * share
        restored, sharp = model(batch["degraded"]), batch["sharp"]
        loss = 100 * (restored - sharp).abs().mean()
        if step >= 1:
            fake, real = judge(restored), judge(sharp)
            matching = sum((a - b.detach()).abs().mean() for a, b in zip(fake.features, real.features, strict=True))
            loss = loss + 10 * matching - fake.score.mean()
        adam.zero_grad()
        loss.backward()
        if step >= 1:
            adam_judge.zero_grad()
            score = judge(torch.cat([restored.detach(), sharp])).score
            (0.5 * (F.relu(1 + score[:4]).mean() + F.relu(1 - score[4:]).mean())).backward()
            adam_judge.step()
        adam.step()
    for name, value in load_file(folder / "model.safetensors").items():
        torch.testing.assert_close(value, model.state_dict()[name])
    kept = state.load_checkpoint(tmp_path / "run", pytest.fail)["discriminator"]
    for name, value in judge.state_dict().items():
        torch.testing.assert_close(kept[f"scales.0.{name}"], value)


def test_spectral_norm_is_folded_into_the_weights_that_are_saved(faces, tmp_path):
    model = build(RECIPE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = SPARNet(RECIPE.model).train()
    plain.load_state_dict(plain_state(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # reading moved nothing
    face = torch.rand(1, 3, 48, 48)
    model.eval()
    torch.testing.assert_close(plain.eval()(face), model(face))
    trained = load_model(str(train(RECIPE, job(faces, tmp_path / "run"))))
    for module in trained.modules():
        if isinstance(module, nn.Conv2d):
            assert torch.linalg.svdvals(module.weight.flatten(1))[0] < 1.5


def test_weights_that_came_from_spectral_norm_start_another_run_as_they_are(faces, tmp_path):
    folder = train(RECIPE, job(faces, tmp_path / "run"))
    trained, again = load_model(str(folder)), build(RECIPE, str(folder)).eval()
    convolutions = [(name, module) for name, module in trained.named_modules() if isinstance(module, nn.Conv2d)]
    scales = torch.stack(
        [again.get_submodule(name).weight.norm() / module.weight.norm() for name, module in convolutions]
    )
    assert (scales - 1).abs().median() < 0.01
    assert (scales - 1).abs().max() < 0.15  # a few largest singular values are found late: the next ones are near


def test_weights_that_spectral_norm_would_change_do_not_start_a_run_under_it(faces, tmp_path):
    plain = replace(RECIPE, gan=replace(RECIPE.gan, generator_spectral_norm=False), steps=1)
    folder = str(train(plain, job(faces, tmp_path / "plain")))
    with pytest.raises(UserError, match="were not trained under spectral norm, which would change them"):
        build(RECIPE, folder)


def test_the_discriminator_learns_to_tell_restored_from_sharp(faces, tmp_path):
    recipe = replace(RECIPE, steps=40, lr=1e-5, warmup=0, gan=replace(RECIPE.gan, lr=8e-3))
    train(recipe, job(faces, tmp_path / "run"))
    judge = MultiScaleDiscriminator(1, 4, 8)
    judge.load_state_dict(state.load_checkpoint(tmp_path / "run", pytest.fail)["discriminator"])
    model = load_model(str(tmp_path / "run" / "model"))
    data = Faces(index_pictures([faces]).items, recipe, seed=5)
    batch = join([data[0, i] for i in range(8)])
    with torch.no_grad():
        fake, real = (judge.eval()(face)[0].score.mean() for face in (model(batch["degraded"]), batch["sharp"]))
    assert real > fake + 0.5


def test_a_gan_run_killed_and_resumed_ends_with_the_same_bytes(faces, tmp_path):
    recipe = replace(RECIPE, steps=6, gan=replace(RECIPE.gan, pixel_steps=2))
    train(recipe, job(faces, tmp_path / "untouched"))
    killed = job(faces, tmp_path / "killed", save_minutes=0.0)
    process = start(recipe, killed)
    step = 0
    while step < 3:
        assert process.is_alive()
        time.sleep(0.02)
        if state.has_run(killed.out):
            step = state.load_checkpoint(killed.out, print)["step"]
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    train(recipe, replace(killed, resume=True))
    assert weights(killed.out) == weights(tmp_path / "untouched")
    ends = [state.load_checkpoint(tmp_path / name, pytest.fail) for name in ("killed", "untouched")]
    for name, value in ends[0]["discriminator"].items():
        assert torch.equal(value, ends[1]["discriminator"][name]), name


def test_a_discriminator_that_is_no_number_stops_the_run_before_any_weight_is_touched(faces, tmp_path, monkeypatch):
    from training import phases

    calls = 0

    def poisoned(real: list, fake: list) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real[0].score.mean() * float("nan" if calls == 3 else 1)

    monkeypatch.setattr(phases, "hinge_discriminator", poisoned)
    with pytest.raises(Diverged, match=r"at step 3: .*discriminator nan.*; the last good checkpoint stays in .*--init"):
        train(RECIPE, job(faces, tmp_path / "run", save_minutes=0.0))
    kept = state.load_checkpoint(tmp_path / "run", pytest.fail)
    assert kept["step"] == 2
    for part in ("model", "discriminator", "averaged"):
        assert all(value.isfinite().all() for value in kept[part].values())


def test_without_the_weights_of_the_perceptual_loss_nothing_starts(faces, tmp_path):
    recipe = replace(RECIPE, gan=Gan(scales=1, channels=4, max_channels=8, perceptual_kind="vgg19_normalised"))
    with pytest.raises(UserError, match="vgg19_normalised"):
        train(recipe, job(faces, tmp_path / "run"))
    with pytest.raises(UserError, match=r"absent\.safetensors"):
        train(recipe, job(faces, tmp_path / "run", perceptual=tmp_path / "absent.safetensors"))
    assert not (tmp_path / "run").exists()


def test_a_run_of_pixel_steps_alone_needs_no_perceptual_weights(faces, tmp_path):
    gan = Gan(scales=1, channels=4, max_channels=8, perceptual_kind="vgg19_normalised", pixel_steps=2)
    assert train(replace(RECIPE, gan=gan, steps=2), job(faces, tmp_path / "run")).is_dir()


@pytest.fixture
def vgg(tmp_path) -> Path:
    torch.manual_seed(1)
    state = perceptual.vgg19_normalised().features.state_dict()
    save_file(state, tmp_path / "vgg.safetensors")
    return tmp_path / "vgg.safetensors"


def test_the_perceptual_loss_takes_part_and_the_card_names_it(faces, tmp_path, vgg):
    recipe = replace(RECIPE, steps=2, gan=replace(RECIPE.gan, perceptual=50.0, perceptual_kind="vgg19_normalised"))
    train(recipe, job(faces, tmp_path / "with", perceptual=vgg, log_every=1))
    another()
    train(replace(recipe, gan=replace(recipe.gan, perceptual=0.0)), job(faces, tmp_path / "without", log_every=1))
    history, other = (state.load_checkpoint(tmp_path / name, pytest.fail)["history"] for name in ("with", "without"))
    (_, total), *_ = history["train/generator"]
    parts = {
        name: history[f"train/{name}"][0][1] for name in ("pixel", "feature_matching", "adversarial", "perceptual")
    }
    weights_of = {"pixel": 100, "feature_matching": 10, "adversarial": 1, "perceptual": 50}
    assert total == pytest.approx(sum(weight * parts[name] for name, weight in weights_of.items()), rel=1e-5)
    assert parts["perceptual"] > 0
    assert "train/perceptual" not in other
    assert weights(tmp_path / "with") != weights(tmp_path / "without")
    cards = [(tmp_path / name / "model" / "README.md").read_text() for name in ("with", "without")]
    assert ["vgg19_normalised" in card for card in cards] == [True, False]


def test_a_resumed_run_keeps_its_perceptual_loss_its_held_out_faces_and_what_is_best(faces, tmp_path, vgg):
    recipe = replace(RECIPE, steps=4, gan=replace(RECIPE.gan, perceptual=1.0, perceptual_kind="vgg19_normalised"))
    begun = job(faces, tmp_path / "run", perceptual=vgg, max_minutes=0.0)
    train(recipe, begun)
    another()
    other = {name: value + 1 for name, value in perceptual.vgg19_normalised().features.state_dict().items()}
    save_file(other, tmp_path / "other.safetensors")
    for change, named in (
        ({"perceptual": tmp_path / "other.safetensors"}, "perceptual was"),
        ({"validate": faces}, "validated on was None"),
    ):
        with pytest.raises(UserError, match=named):
            train(recipe, replace(begun, resume=True, **change))
        another()


def test_a_discriminator_that_blew_up_is_not_kept_as_a_good_checkpoint(faces, tmp_path):
    recipe = replace(RECIPE, warmup=0, gan=replace(RECIPE.gan, lr=float("inf")))
    with pytest.raises(Diverged, match="no longer finite after step 1"):
        train(recipe, job(faces, tmp_path / "run", save_minutes=0.0))
    kept = state.load_checkpoint(tmp_path / "run", pytest.fail)
    assert kept["step"] == 0
    assert all(value.isfinite().all() for value in kept["discriminator"].values())


def test_what_cannot_work_is_told_before_a_folder_is_made(faces, tmp_path):
    with pytest.raises(UserError, match="8 pictures do not fill a batch of 9"):
        train(replace(RECIPE, batch_size=9), job(faces, tmp_path / "run"))
    another()
    with pytest.raises(UserError, match="Faces of 48 pixels are too small for 3 discriminators, which need 132"):
        train(replace(RECIPE, gan=replace(RECIPE.gan, scales=3)), job(faces, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_each_part_of_a_step_costs_is_logged(faces, tmp_path):
    train(replace(RECIPE, steps=2), job(faces, tmp_path / "run", log_every=1))
    logs = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    for part in ("data", "generator", "discriminator", "update"):
        assert all(entry.value > 0 for entry in logs.Scalars(f"seconds_per_step/{part}"))


def test_faces_without_one_size_are_degraded_blindly_after_they_may_have_become_grey(faces):
    items = index_pictures([faces]).items
    data = Faces(items, replace(RECIPE, zoom=(1.0, 1.0), shift=0.0, flip=False), seed=3)
    greys = 0
    for index in range(8):
        degraded, sharp, _ = data[2, index]
        generator = np.random.default_rng((3, 2, index))
        picture = centre_view(items[index].picture(), 48)
        generator.uniform(0, 0)  # zoom
        generator.uniform(0, 0, 2)  # shift
        expected = random_grey(picture, generator, 0.3)
        torch.testing.assert_close(sharp, images.to_tensor(expected)[0])
        torch.testing.assert_close(degraded, images.to_tensor(blind(expected, generator))[0])
        greys += bool((sharp[0] == sharp[1]).all())
    assert 0 < greys < 8


def test_with_lpips_the_best_model_is_the_nearest_by_lpips(faces, tmp_path):
    torch.manual_seed(1)
    net = perceptual.Lpips()
    for name, value in net.named_parameters():
        if name.startswith("lin"):
            nn.init.uniform_(value)  # LPIPS's own are never negative
    save_file(net.state_dict(), tmp_path / "lpips.safetensors")
    recipe = replace(RECIPE, steps=9, validate_every=3, lr=0.02, ema=0.0)
    train(recipe, job(faces, tmp_path / "run", validate=faces, lpips=tmp_path / "lpips.safetensors", log_every=1))
    logs = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    distances = [entry.value for entry in logs.Scalars("validation/lpips")]
    assert len(set(distances)) == 3
    kept = state.load_checkpoint(tmp_path / "run", pytest.fail)["best"]
    assert kept == pytest.approx(-min(distances))
    items = index_pictures([faces]).items
    judge = perceptual.load_perceptual("lpips_squeeze", tmp_path / "lpips.safetensors")
    best = validation.measure(load_model(str(tmp_path / "run" / "best")), items, lpips=judge)
    assert best.lpips == pytest.approx(min(distances), abs=1e-5)


def test_a_full_disk_ends_the_run_with_what_to_do_and_the_checkpoint_before_is_whole(faces, tmp_path, monkeypatch):
    out = tmp_path / "run"
    train(replace(RECIPE, steps=4), job(faces, out, max_minutes=0.0))  # one step
    full = out / "model" / ".full.tmp"

    def full_disk(size: int) -> str:
        if not full.is_symlink():
            full.symlink_to("/dev/full")  # whose every write fails with "no space left on device"
        return "full"

    another()
    with monkeypatch.context() as patch:
        patch.setattr(files.secrets, "token_hex", full_disk)
        with pytest.raises(UserError, match=r"cannot be written: .*(N|n)o space left.*make room.*--resume"):
            train(replace(RECIPE, steps=4), job(faces, out, resume=True))
    assert load_model(str(out / "model")).config == RECIPE.model
    another()
    train(replace(RECIPE, steps=4), job(faces, out, resume=True))
    train_alone = job(faces, tmp_path / "untouched")
    another()
    train(replace(RECIPE, steps=4), train_alone)
    assert weights(out) == weights(train_alone.out)
