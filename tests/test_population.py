"""Means over faces against numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import small_network, small_subject

from sparnet.errors import UserError
from viz.instruments.population import (
    FLOOR,
    Moments,
    gather,
    keep,
    kept,
    study,
    study_many,
    z_scores,
)


@pytest.fixture(scope="module")
def faces():
    model = small_network(body_depth=0)
    return [small_subject(i, model) for i in range(5)]


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


def test_a_population_judges_a_face(faces, maps):
    finding = study_many(faces, seed=2)
    judged = study(faces[0], gather(faces))
    for unit, alphas in maps.items():
        z = (alphas[0] - alphas.mean(axis=0)) / np.maximum(alphas.std(axis=0, ddof=1), FLOOR)
        assert np.allclose(judged.arrays[f"{unit}/z"], z, atol=1e-3)
        assert judged.numbers["units"][unit]["rms_z"] == pytest.approx(np.sqrt((z**2).mean()), abs=1e-3)
    for unit, of in finding.numbers["units"].items():
        assert of["mean"] == pytest.approx(maps[unit].mean(dtype=float))
        assert of["low"] < of["mean"] < of["high"]
    shown = [axes for axes in judged.figure.axes if axes.images]
    assert len(shown) == 1 + 3 * len(maps)  # the face is before them
    assert np.array_equal(shown[3].images[0].get_array(), judged.arrays["encoder.0/z"])


def test_what_makes_no_population_is_refused(faces):
    with pytest.raises(UserError, match="two faces"):
        gather(faces[:1])
    with pytest.raises(UserError, match="two models"):
        gather([faces[0], replace(faces[1], name="other")])
    with pytest.raises(UserError, match="units differ"):
        study(small_subject(body_depth=1), gather(faces))
    with pytest.raises(UserError, match="channels, not places"):
        gather([small_subject(attention="channel")])


def test_a_population_is_kept_beside_the_weights_it_was_gathered_with(tmp_path):
    model = small_network()
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    gathered = gather([small_subject(i, model) for i in range(4)])
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
