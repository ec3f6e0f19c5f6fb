"""What one watches a run by: that the pictures show the run's own numbers, whole, also after it was resumed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from runs import GAN, RECIPE, SMALL, another, job
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_data import write_folder

from sparnet import SPARNet, images, load_model
from sparnet.attention import atlas_figure
from training.baselines import RCANConfig
from training.state import load_checkpoint
from training.train import train
from training.watch import ASTRONAUT, curves, probe
from viz.instruments import training

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "faces", 8)


@pytest.fixture(scope="module")
def history() -> dict[str, list[tuple[int, float]]]:
    """Six logged steps of a run by the full loss from step 2 on, validated three times."""
    steps = range(1, 7)
    losses = {"train/pixel": [(s, 1 / s) for s in steps], "train/adversarial": [(s, 0.1 * s) for s in steps if s > 2]}
    psnr = {2: 20.0, 4: 23.0, 6: 22.0}
    return losses | {
        "validation/psnr": list(psnr.items()),
        "validation/gain": [(step, value - 21) for step, value in psnr.items()],
        "validation/lpips": [(2, 0.5), (4, 0.3), (6, 0.4)],
    }


def panels(figure) -> dict:
    return {axes.get_title("left"): axes for axes in figure.axes if axes.get_title("left")}


def test_every_loss_and_score_has_a_panel_of_its_values_over_images_seen(history):
    recipe = replace(GAN, batch_size=4, gan=replace(GAN.gan, pixel_steps=2))
    found = panels(curves(history, recipe))
    assert list(found) == ["pixel loss", "adversarial loss", "PSNR on Y, dB", "LPIPS, less is better"]
    for name, axes in zip(
        ("train/pixel", "train/adversarial", "validation/psnr", "validation/lpips"), found.values(), strict=True
    ):
        drawn = np.column_stack(axes.lines[0].get_data())
        assert np.allclose(drawn, np.array(history[name]) * (4, 1))
        assert axes.get_xlabel() == "images seen"
        assert axes.get_xlim() == (0, 24)
        assert any(np.array_equal(line.get_xdata(), (8, 8)) for line in axes.lines)  # where the full loss began
    assert found["PSNR on Y, dB"].get_title("right") == "best 23"
    assert found["LPIPS, less is better"].get_title("right") == "best 0.3"
    assert any(np.array_equal(line.get_ydata(), (21, 21)) for line in found["PSNR on Y, dB"].lines)  # bicubic


def test_many_values_are_drawn_with_their_running_mean(history):
    noise = np.random.default_rng(0).normal(1, 0.3, 400)
    [axes] = panels(curves({"train/pixel": list(enumerate(noise, 1))}, RECIPE)).values()
    raw, mean = (line.get_ydata() for line in axes.lines[:2])
    assert np.array_equal(raw, noise)
    assert mean[200] == pytest.approx(noise[195:205].mean())
    assert mean.std() < 0.5 * noise.std()


def test_the_atlas_shows_the_faces_and_every_map_on_one_scale():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    maps = {f"body.{i}": rng.random((4, 4), np.float32) * np.float32(0.2) for i in range(5)}
    alphas = {name: torch.from_numpy(alpha)[None] for name, alpha in maps.items()}
    figure = atlas_figure(alphas, title="title", pictures=dict(zip(("degraded", "restored"), pictures, strict=True)))
    found = {axes.get_title("left"): axes for axes in figure.axes if axes.images}
    assert list(found) == ["degraded", "restored", *maps]
    for name, picture in zip(found, [*pictures, *maps.values()], strict=True):
        shown = found[name].images[0]
        assert np.array_equal(shown.get_array(), picture)
        if name in maps:
            assert shown.get_clim() == (0, 1)
            assert found[name].texts[0].get_text() == f"4x4  mean {picture.mean():.2f}"


def test_the_probe_is_the_astronaut_as_the_averaged_model_sees_her():
    torch.manual_seed(0)
    model = SPARNet(replace(SMALL, attention="3d")).eval()
    degraded, restored, alphas = probe(model, torch.device("cpu"))
    x, y, side = ASTRONAUT
    face = Image.fromarray(skimage.data.astronaut()).crop((x, y, x + side, y + side)).resize((32, 32), Image.BICUBIC)
    assert np.abs(degraded.astype(int) - images.degrade(np.array(face), 8)).mean() < 1  # beyond the cut there is hair
    with torch.no_grad():
        trace = model.trace(images.to_tensor(degraded))
    assert np.array_equal(restored, images.to_image(trace.restored))
    assert list(alphas) == list(trace.alphas)
    for name, alpha in trace.alphas.items():
        assert alpha.shape[1] > 1
        torch.testing.assert_close(alphas[name], alpha[0])


def test_a_run_leaves_its_curves_and_a_frame_at_every_validation(faces, tmp_path, capsys):
    out = tmp_path / "run"
    train(RECIPE, job(faces, out, validate=faces))
    assert images.load(out / "curves.png").std() > 0
    frames = sorted((out / "attention").glob("*.png"))
    assert [frame.name for frame in frames] == ["step-0000003.png", "step-0000006.png"]
    first, last = map(images.load, frames)
    assert first.shape == last.shape
    assert not np.array_equal(first, last)
    found = training.study(training.of_run(out))  # reads the numbers beside the frames
    assert found.numbers["checkpoints"] == ["step 3", "step 6"]
    averaged = load_model(str(out / "model"))
    maps = averaged.trace(images.to_tensor(np.load(out / "attention/step-0000006.npz")["degraded"])).alphas
    for unit, alpha in maps.items():
        assert np.allclose(found.arrays[f"{unit}/over_time"][-1], alpha[0].mean(0).detach(), atol=0.002)
    logged = EventAccumulator(str(out / "logs")).Reload()
    [tag] = [tag for tag in logged.Tags()["images"] if "attention" in tag]
    assert [entry.step for entry in logged.Images(tag)] == [3, 6]
    scores = load_checkpoint(out, pytest.fail)["history"]["validation/psnr"]
    assert [step for step, _ in scores] == [3, 6]
    told = f"step 6: {scores[-1][1]:.3f} dB"
    assert capsys.readouterr().err.count(told) == 2, "when it was measured, and at the end"
    assert f"Last validation: {told}" in (out / "model" / "README.md").read_text()


def test_a_resumed_run_draws_the_curves_of_the_whole(faces, tmp_path):
    whole, parted = (job(faces, tmp_path / name, validate=faces, log_every=1) for name in ("whole", "parted"))
    train(RECIPE, whole)
    for task in (replace(parted, max_minutes=0.0), replace(parted, resume=True)):
        another()
        train(RECIPE, task)
    then, now = (load_checkpoint(task.out, pytest.fail)["history"] for task in (whole, parted))
    assert now == then
    assert [step for step, _ in now["train/pixel"]] == [1, 2, 3, 4, 5, 6]
    assert (parted.out / "curves.png").read_bytes() == (whole.out / "curves.png").read_bytes()


@pytest.mark.parametrize(
    "model", [replace(SMALL, attention="none"), RCANConfig(32, 8, groups=1, blocks=1, channels=16)]
)
def test_a_network_without_attention_is_told_once_and_has_no_pictures(faces, tmp_path, capsys, model):
    train(replace(RECIPE, model=model), job(faces, tmp_path / "run"))
    assert capsys.readouterr().err.count("no attention maps") == 1
    assert not (tmp_path / "run" / "attention").exists()
    assert (tmp_path / "run" / "curves.png").exists()
