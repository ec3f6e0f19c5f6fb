"""Means over faces against numpy; films read back with Pillow."""

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from sparnet.attention import colorize
from sparnet.errors import UserError
from sparnet.model import SPARNet, SPARNetConfig
from viz.film import coarse_to_fine, gif
from viz.instruments import training
from viz.instruments.population import (
    FLOOR,
    Moments,
    gather,
    keep,
    kept,
    population_of,
    study,
    study_many,
    z_scores,
)
from viz.instruments.training import of_checkpoints, of_run
from viz.subject import Subject

TINY = SPARNetConfig(
    size=32, smallest=8, min_channels=8, max_channels=16, hourglass_channels=8, body_depth=0, bottleneck=16
)


def network(seed: int = 0, **changes) -> SPARNet:
    torch.manual_seed(seed)
    return SPARNet(replace(TINY, **changes)).eval()


def subject(face: int = 0, model: SPARNet | None = None, name: str = "tiny") -> Subject:
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(face)) * 2 - 1
    return Subject(model or network(), name, noise)


@pytest.fixture(scope="module")
def faces():
    model = network()
    return [subject(i, model) for i in range(5)]


@pytest.fixture(scope="module")
def maps(faces):
    """unit -> (faces,h,w)."""
    with torch.no_grad():
        traces = [face.model.trace(face.degraded).alphas for face in faces]
    return {unit: np.stack([trace[unit][0, 0].numpy() for trace in traces]) for unit in traces[0]}


def test_moments_given_one_by_one_are_those_of_numpy_even_far_from_zero():
    values = np.random.default_rng(0).normal(1e7, 1e-2, (50, 3, 4))
    moments = Moments()
    for value in values:
        moments.add(value)
    assert np.allclose(moments.mean, values.mean(axis=0), rtol=1e-15)
    assert np.allclose(moments.std, values.std(axis=0, ddof=1), rtol=1e-6)  # sums of squares would be off by 100 %


def test_a_population_is_the_mean_and_deviation_of_its_faces(faces, maps):
    population = gather(iter(faces))
    assert population.faces == 5
    for unit, alphas in maps.items():
        assert np.allclose(population.mean[unit], alphas.mean(axis=0))
        assert np.allclose(population.std[unit], alphas.std(axis=0, ddof=1), atol=1e-7)
    assert np.allclose(population.levels, np.stack([alphas.mean(axis=(1, 2)) for alphas in maps.values()], axis=1))


def test_the_mean_face_is_at_zero_and_a_map_at_its_deviations(faces):
    population = gather(faces)
    assert all(not z.any() for z in z_scores(population.mean, population).values())
    away = {unit: mean + 3 * population.std[unit].clip(FLOOR) for unit, mean in population.mean.items()}
    assert all(np.allclose(z, 3) for z in z_scores(away, population).values())
    constant = replace(population, std={unit: 0 * std for unit, std in population.std.items()})
    away = {unit: mean + FLOOR / 2 for unit, mean in population.mean.items()}
    assert all(np.allclose(z, 0.5) for z in z_scores(away, constant).values())


def test_a_population_comes_back_from_its_files_and_judges_a_face(faces, maps, tmp_path):
    finding = study_many(faces, seed=2)
    text, stored, _ = finding.save(tmp_path)
    with np.load(stored) as arrays:
        population = population_of(json.loads(text.read_text()), arrays)
        judged = study(faces[0], population)
    for unit, alphas in maps.items():
        z = (alphas[0] - alphas.mean(axis=0)) / np.maximum(alphas.std(axis=0, ddof=1), FLOOR)
        assert np.allclose(judged.arrays[f"{unit}/z"], z, atol=1e-3)
        assert judged.numbers["units"][unit]["rms_z"] == pytest.approx(np.sqrt((z**2).mean()), abs=1e-3)
    for unit, of in finding.numbers["units"].items():
        assert of["mean"] == pytest.approx(maps[unit].mean(dtype=float))
        assert of["low"] < of["mean"] < of["high"]
    shown = [axes for axes in judged.figure.axes if axes.images]
    assert len(shown) == 3 * len(maps)
    assert np.array_equal(shown[2].images[0].get_array(), judged.arrays["encoder.0/z"])


def test_what_makes_no_population_is_refused(faces):
    with pytest.raises(UserError, match="two faces"):
        gather(faces[:1])
    with pytest.raises(UserError, match="two models"):
        gather([faces[0], replace(faces[1], name="other")])
    with pytest.raises(UserError, match="units differ"):
        study(subject(model=network(body_depth=1)), gather(faces))
    with pytest.raises(UserError, match="channels, not places"):
        gather([subject(model=network(attention="channel"))])


def test_maps_over_a_training_are_those_of_each_checkpoint_in_order():
    checkpoints = [subject(model=network(seed), name=f"step {seed}") for seed in (2, 1, 0)]
    finding = training.study(of_checkpoints(iter(checkpoints)))
    assert finding.numbers["checkpoints"] == ["step 2", "step 1", "step 0"]
    for i, checkpoint in enumerate(checkpoints):
        for unit, alpha in checkpoint.model.trace(checkpoint.degraded).alphas.items():
            alpha = alpha[0, 0].detach().numpy()
            stack = finding.arrays[f"{unit}/over_time"]
            assert np.array_equal(stack[i], alpha)
            r = finding.numbers["units"][unit]["r_with_last"][i]
            assert r == pytest.approx(np.corrcoef(alpha.ravel(), stack[-1].ravel())[0, 1], abs=1e-5)
    assert finding.numbers["units"]["encoder.0"]["r_with_last"][-1] == pytest.approx(1)


def test_checkpoints_of_another_network_or_face_are_refused():
    with pytest.raises(UserError, match=r"units of b are not those of a"):
        of_checkpoints([subject(name="a"), subject(model=network(body_depth=1), name="b")])
    with pytest.raises(UserError, match="b was given another face than a"):
        of_checkpoints([subject(name="a"), subject(1, name="b")])
    with pytest.raises(UserError, match="at least one"):
        of_checkpoints([])


def read_back(film):
    """Frames (H,W,3) uint8 of a GIF, and how long each is shown in ms."""
    frames, times = [], []
    with Image.open(BytesIO(film)) as picture:
        assert picture.format == "GIF"
        assert picture.info["loop"] == 0
        for i in range(picture.n_frames):
            picture.seek(i)
            frames.append(np.array(picture.convert("RGB")))
            times.append(picture.info["duration"])
    return frames, times


def test_a_film_has_its_frames_in_their_order():
    frames = [np.full((20, 30, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255), (9, 200, 40), (0, 0, 0))]
    shown, times = read_back(gif(frames, seconds=0.5))
    assert np.array_equal(shown, frames)
    assert times == [500, 500, 500, 1500]
    with pytest.raises(ValueError, match="one size"):
        gif([frames[0], frames[1][:10]])


def test_a_population_is_kept_beside_the_weights_it_was_gathered_with(tmp_path):
    model = network()
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    gathered = gather([subject(model=model, face=i) for i in range(4)])
    with pytest.raises(UserError, match="was gathered yet"):
        kept("tiny", weights)
    path = keep(gathered, weights, "made-up faces")
    usual = kept("tiny", weights)
    assert (usual.faces, usual.data) == (4, "made-up faces")
    for unit, mean in gathered.mean.items():
        assert np.allclose(usual.mean[unit], mean, atol=5e-4)
        assert np.allclose(usual.std[unit], gathered.std[unit], atol=5e-4)
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(UserError, match="other weights"):
        kept("tiny", weights)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        kept("tiny", weights)


def test_a_run_is_read_in_the_order_of_its_steps_and_its_maps_settle_on_the_last(tmp_path):
    folder = tmp_path / "attention"
    folder.mkdir()
    last = np.random.default_rng(0).random((4, 4))
    maps = {500: 1 - last, 1000: last[::-1], 20000: last}
    for step, alpha in maps.items():
        face = np.full((8, 8, 3), step // 100, np.uint8)
        np.savez(folder / f"step-{step:07d}.npz", degraded=face, restored=face, **{"body.0": alpha})
    found = training.study(of_run(tmp_path))
    assert found.numbers["checkpoints"] == ["step 500", "step 1,000", "step 20,000"]
    r = found.numbers["units"]["body.0"]["r_with_last"]
    assert r == pytest.approx([-1, np.corrcoef(last[::-1].ravel(), last.ravel())[0, 1], 1])
    assert found.arrays["restored/over_time"][:, 0, 0, 0].tolist() == [5, 10, 200]
    view = training.view(found)
    assert view.ordered
    assert [len(panels) for panels in view.groups.values()] == [2, 2, 2]
    np.savez(folder / "step-0030000.npz", degraded=face, restored=face, **{"body.0": np.zeros((8, 8))})
    with pytest.raises(UserError, match="different networks"):
        of_run(tmp_path)
    (folder / "step-0030000.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="Take it away"):
        of_run(tmp_path)
    with pytest.raises(UserError, match="training run"):
        of_run(folder)


def test_the_film_of_a_face_has_a_frame_for_each_unit():
    one = subject(model=network(0))
    forward = coarse_to_fine(one)
    shown, _ = read_back(gif(forward))
    assert len(shown) == len(TINY.units())
    for frame, alpha in zip(forward, one.model.trace(one.degraded).alphas.values(), strict=True):
        alpha = alpha[0, 0].detach().numpy()
        cell = len(alpha) // 2  # of the map alone, which fills the right half
        x, y = np.array((311.1, 43.6)) + 286.7 * (cell + 0.5) / len(alpha)
        assert np.allclose(frame[int(y), int(x)], colorize(alpha)[cell, cell], atol=2)
