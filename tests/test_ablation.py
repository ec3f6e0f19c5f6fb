"""Ablation against `SPARNet.trace(edit=...)`, and where the answer is known by construction."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from made_up import SMALL, small_network
from skimage.color import rgb2ycbcr

from sparnet.errors import UserError
from sparnet.images import to_image
from sparnet.model import SPARNet
from viz.instruments import ablation
from viz.instruments.ablation import MODES, levels, replaced, replacement, rms, study, study_many, study_pairs
from viz.subject import Subject

UNITS = [plan.name for plan in SMALL.units()]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 summed in another order


def network(alpha_bias: float | None = None, **changes) -> SPARNet:
    """A random network of strong attention; with `alpha_bias` b every unit's alpha is sigmoid(b) everywhere."""
    model = small_network(**changes)
    for _, unit in model.units():
        last = unit.channel.excite if changes.get("attention") == "channel" else getattr(unit, "attention", None)
        if alpha_bias is not None:
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.constant_(last.bias, alpha_bias)
        elif last is not None:
            last.weight.data *= 50
        torch.nn.init.constant_(unit.conv2.norm.weight, 4)  # f is strong
    return model


def subject(model: SPARNet | None = None, sharp: bool = False, seed: int = 1) -> Subject:
    generator = np.random.default_rng(seed)
    degraded = torch.from_numpy(generator.uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32))
    truth = generator.integers(0, 256, (32, 32, 3), np.uint8) if sharp else None
    return Subject(model or network(), "tiny", degraded, truth)


def traced(one: Subject, maps: dict[str, torch.Tensor]) -> torch.Tensor:
    """The long way: everything again, with the alphas of some units replaced."""
    with torch.no_grad():
        return one.model.trace(one.degraded, edit=lambda name, alpha: maps.get(name, alpha)).restored


def psnr(picture: np.ndarray, sharp: np.ndarray) -> float:
    error = rgb2ycbcr(picture)[..., 0] - rgb2ycbcr(sharp)[..., 0]
    return 10 * np.log10(255**2 / np.mean(error**2))


@pytest.mark.parametrize("attention", ["2d", "3d", "channel", "2d+channel"])
@torch.no_grad()
def test_every_replacement_gives_the_face_of_a_trace_with_that_edit(attention, monkeypatch):
    one = subject(network(attention=attention))
    alphas = one.model.trace(one.degraded).alphas
    assert min(alpha.std() for alpha in alphas.values()) > 0.04  # or a wrong map would do as well
    for memory in (10**9, 1):  # all modes in one batch, and one by one
        monkeypatch.setattr(ablation, "_BYTES", memory)
        found = dict(replaced(one.model, one.degraded, UNITS))
        assert list(found) == UNITS
        for unit, restored in found.items():
            for mode, face in zip(MODES, restored, strict=True):
                torch.testing.assert_close(face[None], traced(one, {unit: replacement(alphas[unit], mode)}), **CLOSE)


def test_replacements_are_what_they_are_called():
    alpha = torch.rand(1, 5, 4, 4)
    assert torch.equal(replacement(alpha, "zero"), 0 * alpha)
    assert torch.equal(replacement(alpha, "one"), 0 * alpha + 1)
    assert np.allclose(replacement(alpha, "mean")[0, :, 2, 1], alpha.numpy().mean((0, 2, 3)))
    assert replacement(alpha, "mean").std((2, 3)).max() < 1e-6
    shuffled = replacement(alpha, "shuffle", seed=3)
    vectors, before = ({tuple(v) for v in x[0].flatten(1).T.tolist()} for x in (shuffled, alpha))
    assert vectors == before  # whole vectors moved: all channels alike
    assert not torch.equal(shuffled, alpha)
    assert torch.equal(shuffled, replacement(alpha, "shuffle", seed=3))
    assert not torch.equal(shuffled, replacement(alpha, "shuffle", seed=4))
    channels = torch.rand(1, 6, 1, 1)
    assert torch.allclose(replacement(channels, "mean"), channels.mean())
    assert torch.equal(replacement(channels, "shuffle").sort(1).values, channels.sort(1).values)
    with pytest.raises(ValueError, match="mode is 'half'; it must be one of zero, one"):
        replacement(alpha, "half")


@pytest.mark.parametrize(
    ("bias", "harmless"), [(40, "one mean shuffle"), (-200, "zero mean shuffle"), (0, "mean shuffle")]
)
def test_replacing_alpha_by_what_it_is_already_changes_nothing(bias, harmless):
    finding = study(subject(network(alpha_bias=bias)))
    for mode, effects in zip(MODES, finding.arrays["rms"].T, strict=True):
        if mode in harmless.split():
            assert effects.max() < 1e-3  # of 255 levels: rounding
        else:
            assert effects.min() > 0.05


def test_the_one_unit_that_does_anything_is_ranked_first_and_the_others_do_nothing():
    model = network()
    for name, unit in model.units():
        if name != "body.0":
            torch.nn.init.zeros_(unit.conv2.norm.weight)  # f = 0
    finding = study(subject(model))
    ranking = finding.numbers["ranking"]
    assert {row["unit"] for row in ranking[:4]} == {"body.0"}
    assert min(row["rms"] for row in ranking[:4]) > 0.05
    assert max(row["rms"] for row in ranking[4:]) < 1e-3
    (bars,) = (axes for axes in finding.figure.axes if axes.get_ylabel())
    assert bars.get_xticklabels()[0].get_text() == "body.0"


def test_rms_is_in_levels_of_the_clamped_face():
    a, b = torch.full((2, 3, 4, 4), -0.5), torch.full((2, 3, 4, 4), -0.5)
    b[0] += 10 / 127.5
    b[1, 0] = -7  # one colour, from level 63.75 to below black
    assert rms(levels(a) - levels(b)) == pytest.approx([10, np.sqrt(63.75**2 / 3)], rel=1e-5)


def test_numbers_and_pictures_of_a_study_are_those_of_the_long_way():
    one = subject(sharp=True)
    told = []
    finding = study(one, modes=("zero", "mean"), progress=lambda done, total, text: told.append((done, total)))
    trace = one.model.trace(one.degraded)
    before = to_image(trace.restored)
    assert finding.numbers["psnr"] == pytest.approx(psnr(before, one.sharp))
    assert told[-1] == (len(UNITS), len(UNITS))
    assert len(finding.numbers["ranking"]) == 2 * len(UNITS)
    for row in finding.numbers["ranking"]:
        maps = {row["unit"]: replacement(trace.alphas[row["unit"]], row["mode"])}
        after = traced(one, maps)
        difference = (after.clamp(-1, 1) - trace.restored.clamp(-1, 1)).detach().numpy() * 127.5
        assert row["rms"] == pytest.approx(np.sqrt(np.mean(difference**2)), rel=1e-3, abs=1e-3)
        assert row["psnr_change"] == pytest.approx(psnr(to_image(after), one.sharp) - psnr(before, one.sharp), abs=1e-3)
    strongest = next(row for row in finding.numbers["ranking"] if row["mode"] == "mean")
    maps = {strongest["unit"]: replacement(trace.alphas[strongest["unit"]], "mean")}
    assert np.abs(finding.arrays["mean/picture"].astype(int) - to_image(traced(one, maps))).max() <= 1
    assert np.sqrt(np.mean(finding.arrays["mean/difference"] ** 2)) == pytest.approx(strongest["rms"], rel=1e-4)


def test_without_the_sharp_face_there_is_no_psnr():
    finding = study(subject(), units=["body.0"])
    assert set(finding.numbers["ranking"][0]) == {"unit", "mode", "rms"}
    assert finding.arrays["rms"].shape == (1, 4)


def test_many_faces_give_the_mean_of_each_with_its_interval():
    model = network()
    faces = [subject(model, sharp=True, seed=seed) for seed in (1, 2, 3)]
    some = {"units": ["body.0", "decoder.1"], "modes": ("zero", "shuffle")}
    many = study_many(faces, **some)
    alone = [study(face, **some).arrays for face in faces]
    for name in ("rms", "psnr_change", "ssim_change"):
        each = np.array([arrays[name] for arrays in alone])
        assert np.allclose(many.arrays[f"{name}_of_faces"], each, atol=1e-4)
        assert np.allclose(many.arrays[name], each.mean(0), atol=1e-4)
        assert (many.arrays[f"{name}_low"] <= each.mean(0) + 1e-4).all()
        assert (many.arrays[f"{name}_high"] >= each.mean(0) - 1e-4).all()
    assert many.numbers["faces"] == 3
    json.dumps(many.numbers, allow_nan=False)
    first = many.numbers["ranking"][0]
    assert first["rms"]["low"] < first["rms"]["mean"] == many.arrays["rms"].max() < first["rms"]["high"]
    single = study_many(faces[:1], **some).numbers["ranking"][0]["psnr_change"]
    assert (single["low"], single["n"]) == (None, 1)  # one face has no interval
    assert "psnr_change" not in study_many([faces[0], subject(model)], **some).arrays
    with pytest.raises(UserError, match="at least one face"):
        study_many([])
    with pytest.raises(UserError, match="two models"):
        study_many([subject(), replace(subject(), name="other")])


@pytest.mark.parametrize("mode", ["zero", "shuffle"])
def test_pairs_are_two_edits_of_one_trace(mode):
    one = subject()
    units = ["encoder.0", "body.0", "decoder.1"]
    found = study_pairs(one, units=units, mode=mode).arrays
    trace = one.model.trace(one.degraded)
    maps = {unit: replacement(trace.alphas[unit], mode).detach() for unit in units}

    def change(*some: str) -> np.ndarray:
        return levels(traced(one, {unit: maps[unit] for unit in some})) - levels(trace.restored.detach())

    for i, j in combinations(range(3), 2):
        a, b, both = change(units[i]), change(units[j]), change(units[i], units[j])
        assert found["effect"][i, i] == pytest.approx(rms(a).item(), rel=1e-3)
        assert found["effect"][i, j] == pytest.approx(rms(both).item(), rel=1e-3)
        assert found["interaction"][i, j] == pytest.approx((rms(both) - rms(a) - rms(b)).item(), abs=2e-3)
        assert found["rest"][i, j] == pytest.approx(rms(both - a - b).item(), rel=1e-2, abs=1e-3)
    for table in ("effect", "interaction", "rest"):
        assert np.array_equal(found[table], found[table].T)
    assert found["rest"].max() > 0.01


def test_units_whose_changes_add_leave_no_rest():
    model = network()
    for name, unit in model.units():
        if name != "encoder.0":
            torch.nn.init.zeros_(unit.norm.weight)  # so that f does not see x: the units are linear in x
            torch.nn.init.normal_(unit.norm.bias)
    torch.nn.init.constant_(model.out.weight, 1e-4)  # far from black and white, where clamping is not linear
    torch.nn.init.zeros_(model.out.bias)
    found = study_pairs(subject(model), mode="zero").arrays
    assert found["effect"].max() > 1e-2
    assert found["rest"].max() < 1e-3


def test_what_cannot_be_studied_says_what_to_do():
    plain = subject(network(attention="none"))
    for run in (study, study_pairs, lambda one: study_many([one])):
        with pytest.raises(UserError, match="no attention maps"):
            run(plain)
    with pytest.raises(UserError, match=r"no attention in stem\. Choose from encoder\.0"):
        study(subject(), units=["stem"])
    with pytest.raises(UserError, match="A pair needs two units"):
        study_pairs(subject(), units=["body.0"])
