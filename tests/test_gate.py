"""The gate of a unit: its terms against `SPARNet.trace`, its numbers against numpy, and where alpha is set by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import SMALL, small_network, small_subject

from sparnet.errors import UserError
from sparnet.images import to_image
from viz.instruments.gate import MAPS, GateNumbers, gate_maps, resume, steps, study
from viz.subject import Subject


def subject(alpha: float | None = None, **changes) -> Subject:
    """A face in front of a random network; with `alpha` every unit's is that everywhere."""
    model = small_network(**changes)
    for _, unit in model.units():
        if alpha is not None:
            torch.nn.init.zeros_(unit.attention.weight)
            torch.nn.init.constant_(unit.attention.bias, np.log(alpha / (1 - alpha)))
    return small_subject(model=model)


def lengths(x: torch.Tensor) -> np.ndarray:
    return np.linalg.norm(x[0].numpy(), axis=0)


@pytest.mark.parametrize(
    "changes", [{}, {"attention": "3d"}, {"attention": "channel"}, {"attention_units": 2}], ids=str
)
@torch.no_grad()
def test_the_steps_are_those_of_the_trace_and_end_in_the_restored_face(changes):
    one = subject(**changes)
    trace = one.model.trace(one.degraded, features=True)
    walked = list(steps(one.model, one.degraded))
    assert [step.name for step in walked] == list(trace.alphas)
    for step in walked:
        assert torch.equal(step.alpha, trace.alphas[step.name])
        assert torch.equal(step.f, trace.features[step.name])
        assert torch.equal(step.x_out, step.shortcut + step.alpha * step.f)
        assert torch.equal(resume(one.model, step.name, step.x_out), trace.restored)


@pytest.mark.parametrize("attention", ["2d", "3d", "channel"])
@torch.no_grad()
def test_maps_are_the_lengths_of_the_vectors_and_the_mean_of_alpha(attention):
    one = subject(attention=attention)
    for step in steps(one.model, one.degraded):
        maps = gate_maps(step)
        assert tuple(maps) == MAPS
        for name in ("x_in", "shortcut", "f", "x_out"):
            assert np.allclose(maps[name], lengths(getattr(step, name)), atol=1e-5)
        assert np.allclose(maps["gated"], lengths(step.alpha * step.f), atol=1e-5)
        assert np.allclose(maps["alpha"], step.alpha[0].expand_as(step.f[0]).mean(0), atol=1e-6)
        assert GateNumbers.of(step).passed == pytest.approx(maps["gated"].sum() / maps["f"].sum(), rel=1e-4)


@torch.no_grad()
def test_an_alpha_set_by_hand_passes_that_share_everywhere():
    one = subject(alpha=0.3)
    for step in steps(one.model, one.degraded):
        numbers, maps = GateNumbers.of(step), gate_maps(step)
        assert numbers.mean_alpha == pytest.approx(0.3)
        assert numbers.passed == pytest.approx(0.3)
        assert np.allclose(maps["gated"], 0.3 * maps["f"], atol=1e-6)


@torch.no_grad()
def test_more_than_the_mean_is_passed_where_alpha_is_high_on_strong_features_and_less_where_it_is_low():
    step = next(steps(subject().model, subject().degraded))
    strength = step.f.norm(dim=1, keepdim=True)
    towards, away = (replace(step, alpha=a / a.max()) for a in (strength, strength.max() - strength))
    for changed, sign in ((towards, 1), (away, -1)):
        numbers = GateNumbers.of(changed)
        assert sign * (numbers.passed - numbers.mean_alpha) > 0.01


@torch.no_grad()
def test_the_shares_of_both_terms_are_those_of_numpy_and_sum_to_one():
    one = subject()
    for step in steps(one.model, one.degraded):
        shortcut, gated = step.shortcut.numpy().astype(float), (step.alpha * step.f).numpy().astype(float)
        out = (shortcut + gated).ravel()
        numbers = GateNumbers.of(step)
        assert numbers.output_share + shortcut.ravel() @ out / (out @ out) == pytest.approx(1)
        both = np.sqrt((shortcut**2).sum()), np.sqrt((gated**2).sum())
        assert numbers.norm_share == pytest.approx(both[1] / sum(both), rel=1e-4)


@torch.no_grad()
def test_the_finding_holds_every_unit_and_shows_the_one_asked_for():
    one, told = subject(), []
    finding = study(one, "decoder.0", progress=lambda *message: told.append(message[:2]))
    names = [plan.name for plan in SMALL.units()]
    assert list(finding.numbers["units"]) == names
    assert {key for key in finding.arrays if "/" in key} == {f"{name}/{key}" for name in names for key in MAPS}
    assert np.array_equal(finding.arrays["restored"], to_image(one.model(one.degraded)))
    assert told == [(i, len(names)) for i in range(len(names) + 1)]
    shown = [axes.images[0] for axes in finding.figure.axes if axes.images]
    expected = ["degraded", "restored"]
    expected += [f"decoder.0/{key}" for key in ("x_in", "shortcut", "x_out", "f", "gated", "alpha")]
    assert all(np.array_equal(i.get_array(), finding.arrays[key]) for i, key in zip(shown, expected, strict=True))
    assert shown[5].get_clim() == shown[6].get_clim()  # so that what alpha takes away is seen
    assert shown[7].get_clim() == (0, 1)


def test_without_a_wish_the_map_of_the_most_contrast_is_shown():
    finding = study(subject())
    contrast = {key: array.std() for key, array in finding.arrays.items() if key.endswith("/alpha")}
    assert finding.numbers["shown"] == max(contrast, key=contrast.get).removesuffix("/alpha")


def test_a_network_without_attention_and_an_unknown_unit_say_what_to_do():
    with pytest.raises(UserError, match=r"no attention maps.*Choose a model with attention"):
        study(subject(attention="none"))
    with pytest.raises(UserError, match=r"no attention in body\.7. Choose from encoder\.0, "):
        study(subject(), "body.7")
