"""Painted edits: their rule place by place, their way through a file, and the files that must be refused."""

import json
from base64 import b64decode, b64encode
from io import BytesIO

import numpy as np
import pytest
import torch
from made_up import small_network, small_subject
from PIL import Image

from sparnet.checkpoints import fingerprint
from sparnet.errors import UserError
from sparnet.images import to_image
from viz.instruments.edit import (
    Edit,
    apply,
    edited,
    from_json,
    load,
    study,
    to_json,
)
from viz.subject import Subject

FULL = np.ones((8, 8), np.float32)


def subject(seed: int = 0, **changes) -> Subject:
    return small_subject(model=small_network(seed, **changes))


def random_mask(side: int = 8) -> np.ndarray:
    return np.random.default_rng(side).uniform(-1, 1, (side, side)).astype(np.float32)


def png(array: np.ndarray) -> str:
    file = BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("strength", [1, 0.25])
def test_alpha_goes_the_painted_share_of_the_way_to_one_or_zero(strength):
    alpha, edit = torch.rand(2, 3, 8, 8), Edit("body.0", random_mask(), strength)
    after = edited(alpha, edit)
    for place in np.ndindex(2, 3, 8, 8):
        a, m = alpha[place].item(), strength * float(edit.mask[place[2:]])
        assert after[place].item() == pytest.approx(a + m * (1 - a) if m > 0 else a + m * a, abs=1e-6)


def test_full_paint_opens_and_closes_exactly_and_no_paint_keeps_every_bit():
    alpha, mask = torch.rand(1, 1, 1, 3), np.array([[1, -1, 0]], np.float32)
    assert edited(alpha, Edit("body.0", mask)).flatten().tolist() == [1, 0, alpha[0, 0, 0, 2].item()]


def test_a_place_takes_the_mean_of_the_paint_that_it_touches_whatever_the_masks_size():
    alpha = torch.full((1, 1, 2, 2), 0.5)
    larger = np.zeros((4, 4), np.float32)
    larger[:2, :1], larger[2:, 2:] = 1, -1  # half of the first place, all of the last
    assert edited(alpha, Edit("body.0", larger))[0, 0].tolist() == [[0.75, 0.5], [0.5, 0]]
    smaller = Edit("body.0", np.array([[1, -1]], np.float32))
    assert edited(alpha, smaller)[0, 0].tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize(
    ("mask", "strength"),
    [
        (FULL * 1.01, 1),
        (np.zeros((1, 1025)), 1),
        (FULL * np.nan, 1),
        (FULL[0], 1),
        (FULL[:0], 1),
        (FULL, 0),
        (FULL, 1.5),
        (FULL, float("nan")),
    ],
)
def test_an_impossible_edit_is_refused(mask, strength):
    with pytest.raises(ValueError, match=r"a mask is|strength is"):
        Edit("body.0", mask, strength)


@pytest.mark.parametrize("attention", ["2d", "3d", "2d+channel"])
def test_edits_gate_their_units_and_leave_what_comes_before(attention):
    one = subject(attention=attention)
    before, after = apply(one, [Edit("body.0", random_mask()), Edit("decoder.1", -np.ones((32, 32)), 0.5)])
    original = one.model.trace(one.degraded)
    assert torch.equal(before.restored, original.restored)
    assert torch.equal(after.alphas["encoder.1"], original.alphas["encoder.1"])
    assert torch.equal(after.alphas["body.0"], edited(original.alphas["body.0"], Edit("body.0", random_mask())))
    maps = dict(after.alphas)
    again = one.model.trace(one.degraded, edit=lambda name, alpha: maps[name])
    assert torch.equal(after.restored, again.restored)
    assert not torch.equal(after.restored, before.restored)


def test_edits_of_one_unit_act_in_order_and_undo_is_the_list_without_its_last():
    one = subject()
    boost, close = Edit("body.0", FULL, 0.5), Edit("body.0", -FULL)
    _, both = apply(one, [boost, close])
    assert not both.alphas["body.0"].any()
    _, reversed_ = apply(one, [close, boost])
    assert torch.equal(reversed_.alphas["body.0"], torch.full((1, 1, 8, 8), 0.5))
    _, undone = apply(one, [boost, close][:-1])
    assert torch.equal(undone.restored, apply(one, [boost])[1].restored)
    before, none_left = apply(one, [])
    assert torch.equal(none_left.restored, before.restored)


def test_a_saved_edit_replays_bit_for_bit(tmp_path):
    one = subject()
    edits = [Edit("body.0", random_mask(50), 0.3), Edit("encoder.1", random_mask(8)), Edit("body.0", -random_mask(3))]
    (tmp_path / "edits.json").write_text(to_json(one, edits))
    replayed = load(tmp_path / "edits.json", one)
    assert [(edit.unit, edit.strength) for edit in replayed] == [("body.0", 0.3), ("encoder.1", 1), ("body.0", 1)]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(edits, replayed, strict=True))
    assert torch.equal(apply(one, replayed)[1].restored, apply(one, edits)[1].restored)
    assert np.abs(replayed[0].mask - random_mask(50)).max() <= 0.5 / 127 + 1e-6


def test_a_mask_in_a_file_is_a_grey_png_that_anything_reads():
    mask = np.array([[-1, 0, 1, 0.5]], np.float32)
    stored = json.loads(to_json(subject(), [Edit("decoder.0", mask)]))["edits"][0]
    assert np.array(Image.open(BytesIO(b64decode(stored["mask"])))).tolist() == [[1, 128, 255, 192]]
    assert stored["map"] == [16, 16]
    painted_by_hand = np.zeros((128, 128), np.float32)
    painted_by_hand[30:60, 40:90] = 1
    assert len(to_json(subject(), [Edit("decoder.0", painted_by_hand)])) < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format="edits"), "no edits as they are saved here: format: Input should be"),
        (lambda data: data.update(version=2), "version: Input should be 1"),
        (lambda data: data.pop("version"), "version: Field required"),
        (lambda data: data.update(model="tiny"), "model: Input should be"),
        (lambda data: data["model"].update(sha256="0" * 64), "painted for other weights than those of tiny: for tiny"),
        (lambda data: data.update(edits={}), "edits: Input should be a valid array"),
        (lambda data: data.update(edits=data["edits"] * 65), "at most 64 items"),
        (lambda data: data.update(edits=[1]), r"edits\.0: Input should be an object"),
        (lambda data: data["edits"][0].update(unit="body.9"), r"no attention in body\.9"),
        (lambda data: data["edits"][0].update(unit=["body.0"]), r"edits\.0\.unit: Input should be a valid string"),
        (lambda data: data["edits"][0].update(map=[16, 16]), r"map of \[16, 16\]; that of body.0 is \[8, 8\]"),
        (
            lambda data: data["edits"][0].update(strength=2),
            r"edits\.0\.strength: Input should be less than or equal to 1",
        ),
        (lambda data: data["edits"][0].update(strength=True), r"edits\.0\.strength: Input should be a valid number"),
        (lambda data: data["edits"][0].update(strength=float("nan")), r"edits\.0\.strength: Input should be"),
        (lambda data: data["edits"][0].update(mask="no base 64"), "mask of edit 1 is not an 8-bit grey PNG"),
        (lambda data: data["edits"][0].update(mask=b64encode(b"GIF89a").decode()), "not an 8-bit grey PNG"),
        (lambda data: data["edits"][0].update(mask=data["edits"][0]["mask"][:64]), "not an 8-bit grey PNG"),
        (lambda data: data["edits"][0].update(mask=png(np.ones((8, 8, 3), np.uint8))), "not an 8-bit grey PNG"),
        (lambda data: data["edits"][0].update(mask=png(np.ones((1, 1025), np.uint8))), "at most 1024 x 1024"),
        (lambda data: data["edits"][0].update(mask=png(np.zeros((8, 8), np.uint8))), "a value below -1"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_reason(change, message):
    one = subject()
    data = json.loads(to_json(one, [Edit("body.0", FULL)]))
    change(data)
    with pytest.raises(UserError, match=message):
        from_json(json.dumps(data), one)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        ("[" * 10**5, "Invalid JSON"),
        ("[]", "no edits"),
        ("0" * 9_000_000, "8 MB"),
    ],
    ids=["cut", "bytes", "deep", "list", "large"],
)
def test_a_file_of_anything_else_is_refused(text, message, tmp_path):
    (tmp_path / "edits.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        load(tmp_path / "edits.json", subject())
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "missing.json", subject())


def test_the_fingerprint_changes_with_any_weight_and_the_file_names_other_weights():
    one, other = subject(), subject(seed=1)
    text = to_json(one, [Edit("body.0", FULL)])
    assert fingerprint(one.model) == fingerprint(subject().model)
    with pytest.raises(UserError, match="other weights"):
        from_json(text, other)
    same_weights = subject(size=64, smallest=16)
    same_weights.model.load_state_dict(one.model.state_dict())
    with pytest.raises(UserError, match=r"map of \[8, 8\]; that of body.0 is \[16, 16\]"):
        from_json(text, same_weights)
    one.model.out.bias.data[1] += 1e-6
    with pytest.raises(UserError, match="other weights"):
        from_json(text, one)


def test_the_finding_shows_the_face_and_alpha_before_and_after_and_can_be_replayed():
    one, edit = subject(), Edit("decoder.0", random_mask(16))
    finding = study(one, [edit])
    before, after = apply(one, [edit])
    arrays = finding.arrays
    assert np.array_equal(arrays["before"], to_image(before.restored))
    assert np.array_equal(arrays["after"], to_image(after.restored))
    assert np.array_equal(arrays["decoder.0/after"], after.alphas["decoder.0"][0, 0].numpy())
    shown = [axes.images[0].get_array() for axes in finding.figure.axes if axes.images]
    painted_on = arrays["decoder.0/before"], arrays["decoder.0/after"]
    expected = [arrays["before"], arrays["after"], arrays["difference"], *painted_on, painted_on[1] - painted_on[0]]
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=True))
    difference = (after.restored - before.restored).numpy() * 127.5  # nothing of it is clamped
    assert finding.numbers["rms"] == pytest.approx(np.sqrt(np.mean(difference**2)), rel=1e-4)
    moved = finding.numbers["rms_change_of_alpha"]
    assert moved["body.0"] == 0
    assert moved["decoder.0"] > 0.1
    replayed = from_json(json.dumps(finding.numbers["edits"]), one)
    assert torch.equal(apply(one, replayed)[1].restored, after.restored)


def test_what_cannot_be_edited_says_what_to_do():
    with pytest.raises(UserError, match="at most 64 edits"):
        to_json(subject(), [Edit("body.0", FULL)] * 65)
    with pytest.raises(UserError, match="no edit to apply"):
        study(subject(), [])
    with pytest.raises(UserError, match=r"no attention in stem"):
        apply(subject(), [Edit("stem", FULL)])
    with pytest.raises(UserError, match=r"body\.0 weighs channels and has no places"):
        apply(subject(attention="channel"), [Edit("body.0", FULL)])
    with pytest.raises(UserError, match="no attention maps"):
        apply(subject(attention="none"), [Edit("body.0", FULL)])
