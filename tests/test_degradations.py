"""The blind degradation: what is drawn and how often, each stage against another library, the order, the sheet."""

import io
import sys
from collections import Counter
from functools import cache
from math import cos, radians, sin, sqrt

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats
from skimage.data import astronaut
from torch.utils.data import DataLoader

from sparnet import images
from training.command import run_command
from training.degradations import (
    FILTERS,
    Average,
    Blind,
    Gaussian,
    Jpeg,
    Median,
    Motion,
    Noise,
    Reduce,
    apply,
    blind,
    random_grey,
)
from training.degradations.__main__ import CELL, GAP, degradation_sheet, main

DRAWS = 4000
ORDER = ((Gaussian, Average, Median, Motion), (Reduce,), (Noise,), (Jpeg,))


@cache
def face(side: int = 96) -> np.ndarray:
    return images.resize(np.ascontiguousarray(astronaut()[0:220, 115:335]), side)


@pytest.fixture(scope="module")
def drawn() -> list[tuple]:
    """What each of many seeds draws at the published size."""
    return [Blind().draw(np.random.default_rng((7, sample))) for sample in range(DRAWS)]


def of(kind: type, drawn: list[tuple]) -> list:
    return [stage for stages in drawn for stage in stages if isinstance(stage, kind)]


def is_share(count: int, total: int, probability: float) -> bool:
    """Within 4 standard deviations of the binomial."""
    return abs(count - total * probability) <= 4 * sqrt(total * probability * (1 - probability))


def test_stages_come_as_often_as_published_and_independently_of_each_other(drawn):
    blurred, noisy, compressed = (
        np.array([any(isinstance(stage, kinds) for stage in stages) for stages in drawn])
        for kinds in (ORDER[0], Noise, Jpeg)
    )
    assert is_share(blurred.sum(), DRAWS, 0.5)
    assert is_share(noisy.sum(), DRAWS, 0.2)
    assert is_share(compressed.sum(), DRAWS, 0.7)
    assert is_share((blurred & noisy & compressed).sum(), DRAWS, 0.5 * 0.2 * 0.7)
    assert is_share((blurred & ~noisy & compressed).sum(), DRAWS, 0.5 * 0.8 * 0.7)
    for kind in ORDER[0]:
        assert is_share(len(of(kind, drawn)), DRAWS, 0.5 / 4)


def test_noise_is_drawn_per_channel_half_of_the_time(drawn):
    noises = of(Noise, drawn)
    assert is_share(sum(noise.per_channel for noise in noises), len(noises), 0.5)
    assert len({noise.seed for noise in noises}) == len(noises)


def test_filters_are_all_drawn_equally_often(drawn):
    counts = Counter(stage.filter for stage in of(Reduce, drawn))
    assert set(counts) == set(FILTERS)
    assert all(is_share(count, DRAWS, 1 / 4) for count in counts.values())


@pytest.mark.parametrize(
    ("kind", "field", "values"),
    [
        (Reduce, "side", range(32, 129)),
        (Jpeg, "quality", range(35, 91)),
        (Average, "side", range(3, 16, 2)),
        (Median, "side", range(3, 16, 2)),
    ],
)
def test_whole_strengths_take_every_value_of_their_range_equally_often_and_no_other(drawn, kind, field, values):
    found = Counter(getattr(stage, field) for stage in of(kind, drawn))
    assert sorted(found) == list(values)
    assert stats.chisquare(list(found.values())).pvalue > 0.001


@pytest.mark.parametrize(
    ("kind", "field", "low", "high"),
    [
        (Gaussian, "sigma", 3, 15),
        (Motion, "length", 5, 25),
        (Motion, "angle", 0, 180),
        (Noise, "sigma", 0, 25.5),
    ],
)
def test_other_strengths_are_uniform_over_their_range(drawn, kind, field, low, high):
    found = [getattr(stage, field) for stage in of(kind, drawn)]
    assert min(found) >= low
    assert max(found) <= high
    assert stats.kstest(found, stats.uniform(low, high - low).cdf).pvalue > 0.001


def test_drawn_stages_are_in_the_published_order_and_at_most_once(drawn):
    for stages in drawn:
        places = [next(i for i, kinds in enumerate(ORDER) if isinstance(stage, kinds)) for stage in stages]
        assert places == sorted(set(places))
        assert 1 in places


def test_blur_sees_the_whole_face_and_noise_and_jpeg_the_reduced_one(monkeypatch):
    seen = []
    for kinds in ORDER:
        for kind in kinds:

            def spy(stage, image, kind=kind, run=kind.__call__):
                seen.append((kind, image.shape[0]))
                return run(stage, image)

            monkeypatch.setattr(kind, "__call__", spy)
    everything = Blind(size=160, blurred=1, noisy=1, compressed=1)
    for seed in range(20):
        seen.clear()
        stages = everything.draw(np.random.default_rng(seed))
        degraded = apply(face(160), stages)
        reduced = stages[1].side
        assert [kind for kind, _ in seen] == [type(stage) for stage in stages]
        assert [side for _, side in seen] == [160, 160, reduced, reduced]
        assert len(degraded) == 160


def test_apply_enlarges_as_a_small_face_is_enlarged_when_it_is_restored():
    reduced = Reduce(40, "area")
    assert np.array_equal(apply(face(), [reduced]), images.resize(reduced(face()), 96))


@pytest.mark.parametrize("sigma", [0.7, 3, 8.3, 15])
def test_gaussian_is_scipys(sigma):
    expected = ndimage.gaussian_filter(face().astype(float), (sigma, sigma, 0), mode="mirror", truncate=3.5)
    assert abs(Gaussian(sigma)(face()) - expected).max() < 1.6


@pytest.mark.parametrize("side", [3, 9, 15])
def test_average_is_scipys(side):
    expected = ndimage.uniform_filter(face().astype(float), (side, side, 1), mode="mirror")
    assert abs(Average(side)(face()) - expected).max() < 0.51


@pytest.mark.parametrize("side", [3, 9, 15])
def test_median_is_scipys(side):
    expected = ndimage.median_filter(face(), (side, side, 1), mode="nearest")
    assert np.array_equal(Median(side)(face()), expected)


@pytest.mark.parametrize("length", [0.4, 5, 12.5, 25])
@pytest.mark.parametrize("angle", [0, 33, 90, 145])
def test_motion_kernel_has_the_length_and_the_angle_that_were_drawn(length, angle):
    kernel = Motion(length, angle).kernel()
    right = np.arange(kernel.shape[1]) - kernel.shape[1] // 2
    up = kernel.shape[0] // 2 - np.arange(kernel.shape[0])
    assert kernel.sum() == pytest.approx(1)
    assert kernel.min() >= 0
    assert kernel.sum(0) @ right == pytest.approx(0, abs=1e-9)
    assert kernel.sum(1) @ up == pytest.approx(0, abs=1e-9)
    both = up @ kernel @ right
    spread = np.array([[kernel.sum(0) @ right**2, both], [both, kernel.sum(1) @ up**2]])
    direction = np.array([cos(radians(angle)), sin(radians(angle))])
    # An even line of length L has the variance L²/12 along itself and none across; sharing a point between two pixels
    # adds up to 1/4 to each axis and nothing to their covariance.
    added = spread - length**2 / 12 * np.outer(direction, direction)
    assert -0.01 < added[0, 0] < 0.26
    assert -0.01 < added[1, 1] < 0.26
    assert abs(added[0, 1]) < 0.01


def test_motion_drags_a_point_along_its_kernel_and_a_plain_area_stays():
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    motion = Motion(11, 30)
    kernel = motion.kernel()
    reach = len(kernel) // 2
    dragged = motion(point)[20 - reach : 21 + reach, 20 - reach : 21 + reach]
    assert abs(dragged - 255 * kernel[..., None]).max() < 0.51
    plain = np.full((30, 30, 3), 77, np.uint8)
    assert np.array_equal(motion(plain), plain)


@pytest.mark.parametrize("name", list(FILTERS))
@pytest.mark.parametrize("side", [32, 48, 37])
def test_reducing_moves_nothing(name, side):
    ramp = np.arange(192, dtype=np.uint8)
    picture = np.stack([np.tile(ramp, (192, 1)), np.tile(ramp[:, None], (1, 192)), np.full((192, 192), 9, np.uint8)], 2)
    centres = (np.arange(side) + 0.5) * 192 / side - 0.5
    reduced = Reduce(side, name)(picture).astype(float)[2:-2, 2:-2]
    assert abs(reduced[..., 0] - centres[None, 2:-2]).max() < 1.01
    assert abs(reduced[..., 1] - centres[2:-2, None]).max() < 1.01
    assert (reduced[..., 2] == 9).all()


def test_filters_are_what_they_are_called():
    blocks = face().reshape(32, 3, 32, 3, 3).astype(float)
    assert abs(Reduce(32, "area")(face()) - blocks.mean((1, 3))).max() < 0.51
    assert np.array_equal(Reduce(32, "nearest")(face()), blocks[:, 1, :, 1])
    low, high = face(8), 13
    at = np.clip((np.arange(high) + 0.5) * 8 / high - 0.5, 0, 7)
    grid = np.meshgrid(at, at, indexing="ij")
    linear = np.stack([ndimage.map_coordinates(channel, grid, float, order=1) for channel in np.moveaxis(low, 2, 0)], 2)
    assert abs(Reduce(high, "bilinear")(low) - linear).max() < 1.5
    assert abs(Reduce(high, "bicubic")(low) - linear).max() > 5
    step = np.repeat(np.array([0, 200], np.uint8), 20)[None, :, None].repeat(40, 0).repeat(3, 2) + np.uint8(20)
    over = {name: int(Reduce(63, name)(step).max()) > 220 for name in FILTERS}
    assert over == {"nearest": False, "bilinear": False, "bicubic": True, "area": False}


@pytest.mark.parametrize("sigma", [2, 10, 25.5])
@pytest.mark.parametrize("per_channel", [True, False])
def test_noise_has_its_sigma_and_is_one_or_three_fields(sigma, per_channel):
    plain = np.full((200, 200, 3), 128, np.uint8)
    noise = Noise(sigma, per_channel, seed=5)(plain).astype(float) - 128
    assert abs(noise.mean()) < 4 * sigma / 200
    assert noise.var() == pytest.approx(sigma**2 + 1 / 12, rel=0.03)  # 1/12 by rounding
    links = np.corrcoef(noise.reshape(-1, 3).T)[np.triu_indices(3, 1)]
    assert np.allclose(links, 0, atol=0.03) if per_channel else np.allclose(links, 1)
    neighbours = np.corrcoef(noise[:, :-1, 0].ravel(), noise[:, 1:, 0].ravel())[0, 1]
    assert abs(neighbours) < 0.03


def test_noise_stops_at_black_and_white():
    noisy = Noise(25, True, seed=1)(np.repeat(np.array([[[0], [255]]], np.uint8), 3, 2).repeat(100, 0))
    assert (noisy[:, 0] < 128).all()
    assert (noisy[:, 1] > 127).all()


@pytest.mark.parametrize("quality", [35, 60, 90])
def test_jpeg_is_pillows_of_the_same_quality(quality, monkeypatch):
    files, encode = [], cv2.imencode

    def spy(*arguments):
        done, data = encode(*arguments)
        files.append(data.tobytes())
        return done, data

    monkeypatch.setattr(cv2, "imencode", spy)
    degraded = Jpeg(quality)(face())
    buffer = io.BytesIO()
    Image.fromarray(face()).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    pillows = Image.open(buffer)
    assert Image.open(io.BytesIO(files[0])).quantization == pillows.quantization
    difference = abs(degraded.astype(int) - np.asarray(pillows))
    assert difference.mean() < 0.1
    assert abs(Jpeg(quality - 5)(face()).astype(int) - np.asarray(pillows)).mean() > 5 * difference.mean()


def test_jpeg_keeps_red_red():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert abs(Jpeg(90)(red).astype(int) - red).max() < 4


def test_at_half_the_size_blurs_halve_and_the_rest_stays():
    half, whole = Blind().at(256), Blind()
    assert half.gaussian_sigma == (1.5, 7.5)
    assert half.motion_length == (2.5, 12.5)
    assert half.average_side == half.median_side == (3, 7)
    assert (half.reduced_side, half.noise_sigma, half.jpeg_quality) == ((32, 128), (0, 25.5), (35, 90))
    assert (half.blurred, half.noisy, half.compressed) == (whole.blurred, whole.noisy, whole.compressed)
    assert Blind().at(512) == whole
    assert Blind().at(64).reduced_side == (32, 64)
    assert Blind().at(16).reduced_side == (16, 16)


def test_a_face_of_half_the_size_is_damaged_as_if_it_had_been_reduced_afterwards():
    sharp = face(512)
    whole = Blind(blurred=1, noisy=1, compressed=0)
    for seed in range(24):
        stages = whole.draw(np.random.default_rng(seed))
        if isinstance(stages[0], Average | Median):
            continue  # their odd sides cannot be halved
        reduced = Reduce(stages[1].side, "area")  # what the other filters alias depends on the very pixels
        halved = whole.at(256).draw(np.random.default_rng(seed))
        assert halved[1:] == stages[1:]
        expected = images.resize(apply(sharp, (stages[0], reduced, stages[2])), 256).astype(float)
        small = images.resize(sharp, 256)
        difference = abs(apply(small, (halved[0], reduced, halved[2])) - expected).mean()
        unscaled = abs(apply(small, (stages[0], reduced, stages[2])) - expected).mean()
        assert difference < 1
        assert difference < unscaled / 2


def test_the_same_seed_degrades_alike_and_another_seed_does_not():
    pictures = [blind(face(), np.random.default_rng((3, sample))) for sample in range(30)]
    again = [blind(face(), np.random.default_rng((3, sample))) for sample in reversed(range(30))]
    assert all(np.array_equal(a, b) for a, b in zip(pictures, reversed(again), strict=True))
    assert len({picture.tobytes() for picture in pictures}) == 30


class Samples:
    """Sample -> its degraded face, as a worker of the loader makes it."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, sample: int) -> np.ndarray:
        generator = np.random.default_rng((3, sample))
        return blind(random_grey(face(), generator), generator)


def test_workers_draw_what_one_process_draws():
    alone, shared = (
        [picture.numpy()[0] for picture in DataLoader(Samples(), num_workers=workers)] for workers in (0, 2)
    )
    assert np.array_equal(alone, shared)


def test_stages_are_data_that_can_be_applied_again():
    for seed in range(20):
        stages = Blind().at(96).draw(np.random.default_rng(seed))
        copies = tuple(eval(repr(stage)) for stage in stages)
        assert copies == stages
        assert np.array_equal(apply(face(), stages), apply(face(), copies))


@pytest.mark.parametrize("side", [32, 100, 128, 200])
def test_shape_and_type_are_kept_and_the_sharp_face_is_left_alone(side):
    sharp = np.fliplr(face(side))  # a view with a negative stride
    sharp.flags.writeable = False
    before = sharp.tobytes()
    for seed in range(12):
        generator = np.random.default_rng(seed)
        for made in (random_grey(sharp, generator), blind(sharp, generator)):
            assert made.shape == (side, side, 3)
            assert made.dtype == np.uint8
            assert not np.shares_memory(made, sharp)
    assert sharp.tobytes() == before


@pytest.mark.parametrize("wrong", [np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3))])
def test_what_is_no_square_rgb_face_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\(S, S, 3\) uint8"):
        apply(wrong, [])


def test_three_faces_in_ten_are_made_grey_by_their_luma():
    sharp = face(16)
    luma = (sharp @ np.array([0.299, 0.587, 0.114]))[..., None]
    grey = 0
    for seed in range(1000):
        made = random_grey(sharp, np.random.default_rng(seed))
        if not np.array_equal(made, sharp):
            grey += 1
            assert abs(made - luma).max() < 1
            assert (made == made[..., :1]).all()
    assert is_share(grey, 1000, 0.3)


def test_the_sheet_shows_the_sharp_face_and_under_every_degraded_one_what_was_done():
    sheet = degradation_sheet([face(CELL), face(CELL)], columns=4, seed=2)
    cell = sheet[GAP : GAP + CELL, GAP : GAP + CELL]
    assert np.array_equal(cell, face(CELL))
    for row in range(2):
        top = GAP + row * (len(sheet) - GAP) // 2
        for column in range(4):
            left = GAP + column * (CELL + GAP)
            caption = sheet[top + CELL : top + CELL + 24, left : left + CELL]
            assert (caption == 0).any()
    one_row, three_columns = len(sheet) // 2 + GAP // 2, 3 * (CELL + GAP) + GAP
    assert np.array_equal(degradation_sheet([face(CELL)], columns=3, seed=2), sheet[:one_row, :three_columns])
    assert not np.array_equal(degradation_sheet([face(CELL)], columns=4, seed=3), sheet[:one_row])


def test_the_command_writes_the_sheet_of_a_folder_and_says_the_seed(tmp_path, monkeypatch, capsys):
    for name in "ab":
        images.save_png(face(), tmp_path / f"{name}.png")
    out = tmp_path.parent / f"{tmp_path.name}-sheet.png"
    line = ["degradations", str(tmp_path), str(out), "--seed=4", "--columns=2", "--size=64"]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert not ended.value.code
    told = capsys.readouterr()
    assert "2 faces" in told.out
    assert "seed 4" in told.out
    assert told.err == ""
    assert np.array_equal(images.load(out), degradation_sheet([images.resize(face(), 64)] * 2, columns=2, seed=4))


def test_one_picture_is_drawn_in_every_row(tmp_path, capsys):
    images.save_png(face(), tmp_path / "face.png")
    main(tmp_path / "face.png", tmp_path / "out.png", seed=1, rows=3, columns=2, size=96)
    assert np.array_equal(images.load(tmp_path / "out.png"), degradation_sheet([face()] * 3, columns=2, seed=1))
    assert "3 faces" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "out", "word"),
    [
        ("missing", "out.png", "There is no"),
        ("face.png", "out.jpg", "out.png"),
        ("face.png", "no/out.png", "There is no folder"),
        ("broken.png", "out.png", "broken.png"),
        (".", "out.png", "would be read as data"),
    ],
)
def test_a_users_mistake_ends_the_command_with_one_line(tmp_path, source, out, word, monkeypatch, capsys):
    images.save_png(face(), tmp_path / "face.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    monkeypatch.setattr(sys, "argv", ["degradations", str(tmp_path / source), str(tmp_path / out), "--size=32"])
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / out).exists()


def test_the_sheet_is_never_drawn_over_a_picture_and_a_damaged_one_is_left_out(tmp_path, monkeypatch, capsys):
    faces = tmp_path / "faces"
    faces.mkdir()
    for name in ("a", "b"):
        images.save_png(face(), faces / f"{name}.png")
    (faces / "c.png").write_bytes(b"cut short")

    def run(out):
        monkeypatch.setattr(sys, "argv", ["degradations", str(faces), str(out), "--size=32"])
        with pytest.raises(SystemExit) as ended:
            run_command(main)
        return ended.value.code, capsys.readouterr()

    before = (faces / "a.png").read_bytes()
    code, told = run(faces / "a.png")
    assert (code, told.err.count("\n")) == (2, 1)
    assert (faces / "a.png").read_bytes() == before
    (tmp_path / "out").mkdir()
    code, told = run(tmp_path / "out" / "sheet.png")
    assert code == 0
    assert "2 faces" in told.out
    assert "c.png" in told.err
