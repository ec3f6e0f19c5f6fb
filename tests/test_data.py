"""Folders and shards of faces: the order, the draws, the shares of the processes, and what cannot be read."""

import io
import tarfile
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from PIL import Image
from torch.utils.data import DataLoader

from sparnet import images
from sparnet.errors import UserError
from sparnet.landmarks import landmarks_file
from sparnet.model import SPARNetConfig
from training.data import FaceBatches, Faces, centre_view, content_hash, cut, index_pictures, join, random_view
from training.degradations import bicubic
from training.recipes import Recipe

RECIPE = Recipe(
    "test",
    published="none",
    model=SPARNetConfig(
        size=32, smallest=8, min_channels=8, max_channels=16, hourglass_channels=8, body_depth=2, bottleneck=16,
        degraded_size=8,
    ),
)  # fmt: skip


def picture(seed: int, side: int = 40) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return images.resize(coarse, side)


def write_folder(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        images.save_png(picture(i), folder / f"{i:03}.png")
    return folder


def write_shard(path: Path, seeds: range, extra: dict[str, bytes] | None = None) -> Path:
    path.parent.mkdir(exist_ok=True)
    members = {f"{i:03}.png": images.encode_png(picture(i)) for i in seeds} | (extra or {})
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            shard.addfile(entry, io.BytesIO(data))
    return path


def batches(index, start: int, steps: int, workers: int = 0, batch_size: int = 4) -> list[dict]:
    sampler = FaceBatches(len(index.items), batch_size, seed=3, start=start, steps=steps)
    return list(
        DataLoader(
            Faces(index.items, RECIPE, seed=3), batch_sampler=sampler, num_workers=workers, collate_fn=join
        )
    )  # fmt: skip


def test_shards_and_nested_folders_give_every_picture_as_it_was_written(tmp_path):
    write_folder(tmp_path / "a" / "deep", 3)
    write_shard(tmp_path / "a" / "b.tar", range(3, 6), {"notes.txt": b"none"})
    (tmp_path / "a" / "labels.json").write_text("{}")
    index = index_pictures([tmp_path / "a"])
    assert [item.name for item in index.items] == [f"a/b.tar/00{i}.png" for i in (3, 4, 5)] + [
        f"a/deep/00{i}.png" for i in (0, 1, 2)
    ]
    assert index.ignored == ["a/b.tar/notes.txt", "a/labels.json"]
    for item, seed in zip(index.items, (3, 4, 5, 0, 1, 2), strict=True):
        assert np.array_equal(item.picture(), picture(seed))


def test_hidden_files_and_runs_are_no_data_in_a_folder_or_in_a_shard(tmp_path):
    sheet = images.encode_png(picture(9))
    unwanted = dict.fromkeys(("._000.png", ".hidden/1.png", "run/samples/2.png", "run/curves.png"), sheet)
    unwanted["run/checkpoint.pt"] = b""
    write_shard(tmp_path / "a" / "b.tar", range(2), unwanted | {"./fine/../002.png": sheet})
    for name, content in unwanted.items():
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_bytes(content)
    write_shard(tmp_path / "a" / "._c.tar", range(2))
    index = index_pictures([tmp_path / "a"])
    assert [item.name.removeprefix("a/b.tar/") for item in index.items] == ["000.png", "001.png", "./fine/../002.png"]
    within = [f"a/b.tar/{name}" for name in unwanted]
    assert index.ignored == ["a/._000.png", "a/._c.tar", "a/.hidden", "a/run", *within]


def test_the_cheap_fingerprint_follows_names_and_sizes_and_not_the_place(tmp_path):
    here, there = write_folder(tmp_path / "x" / "faces", 3), write_folder(tmp_path / "y" / "faces", 3)

    def told(folder):
        return index_pictures([folder]).describe_names_and_sizes()

    assert told(here) == told(there)
    images.save_png(picture(9), there / "zzz.png")
    assert told(here) != told(there)


def test_the_hash_is_of_every_byte_and_not_of_the_place_or_the_packing(tmp_path):
    folder = write_folder(tmp_path / "faces", 3)
    (folder / "001.json").write_text("points")
    items = index_pictures([folder]).items
    lines = []
    for name, beside in (("000", None), ("001", b"points"), ("002", None)):
        digest = sha256((folder / f"{name}.png").read_bytes()).hexdigest()
        lines.append(f"{name}.png\t{digest}\t{sha256(beside).hexdigest() if beside else 'none'}\n")
    by_hand = sha256("".join(lines).encode()).hexdigest()
    assert content_hash(items, lambda item: landmarks_file(item.path)) == by_hand
    alone = content_hash(items)
    assert alone != by_hand
    assert alone == content_hash(index_pictures([write_shard(tmp_path / "shard.tar", range(3))]).items)
    changed = bytearray((folder / "002.png").read_bytes())
    changed[-20] ^= 1
    (folder / "002.png").write_bytes(changed)
    assert content_hash(items) != alone
    (folder / "000.png").unlink()  # the index is older
    assert content_hash(items) != alone


@pytest.mark.parametrize("kind", ["missing", "empty", "damaged shard"])
def test_data_that_cannot_be_used_is_named(tmp_path, kind):
    path = tmp_path / "faces.tar"
    if kind == "empty":
        path.mkdir()
    if kind == "damaged shard":
        path.write_bytes(write_shard(tmp_path / "whole.tar", range(4)).read_bytes()[:-11000])
    with pytest.raises(UserError, match=r"faces\.tar"):
        index_pictures([path])


def test_a_resumed_stream_and_any_number_of_workers_give_the_same_faces(tmp_path):
    index = index_pictures([write_folder(tmp_path, 10)])
    whole, resumed = batches(index, 0, 7), batches(index, 4, 7, workers=2)
    assert len(whole) == 7
    for a, b in zip(whole[4:], resumed, strict=True):
        assert torch.equal(a["sharp"], b["sharp"])
        assert torch.equal(a["degraded"], b["degraded"])
    assert not torch.equal(whole[0]["sharp"], whole[1]["sharp"])


def test_a_picture_is_seen_in_another_view_in_the_next_epoch(tmp_path):
    faces = Faces(index_pictures([write_folder(tmp_path, 1)]).items, replace(RECIPE, flip=False), seed=3)
    views = [faces[epoch, 0][1] for epoch in (0, 1, 0)]
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views[0], views[2])


def test_every_epoch_takes_every_picture_once_in_a_new_order():
    keys = [key for batch in FaceBatches(10, 4, seed=0, start=0, steps=5) for key in batch]
    orders = [[index for epoch, index in keys if epoch == wanted] for wanted in (0, 1)]
    assert [sorted(order) for order in orders] == [list(range(10))] * 2
    assert orders[0] != orders[1]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch_without_overlap_or_loss(processes):
    whole = list(FaceBatches(25, 6, seed=1, start=2, steps=9))
    shares = [
        list(BatchSamplerShard(FaceBatches(25, 6, seed=1, start=2, steps=9), processes, rank, True, False))
        for rank in range(processes)
    ]
    for step, batch in enumerate(whole):
        seen = Counter(key for share in shares for key in share[step])
        assert seen == Counter(batch)
        assert len({len(share[step]) for share in shares}) == 1


def test_fewer_pictures_than_a_batch_are_refused():
    with pytest.raises(UserError, match="3 pictures do not fill a batch of 4"):
        FaceBatches(3, 4, seed=0, start=0, steps=1)


def test_unreadable_pictures_are_named_and_replaced_by_others(tmp_path):
    folder = write_folder(tmp_path, 6)
    (folder / "text.jpg").write_text("not a photo")
    (folder / "cut.png").write_bytes(images.encode_png(picture(1))[:200])
    index = index_pictures([folder])
    loaded = batches(index, 0, 4)
    told = {message for batch in loaded for message in batch["skipped"]}
    assert any("text.jpg" in message for message in told)
    assert any("cut.png" in message for message in told)
    assert len(told) == 2
    assert all(batch["sharp"].shape == (4, 3, 32, 32) for batch in loaded)


def test_a_folder_without_one_readable_picture_gives_no_batch(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_text("not a photo")
    [batch] = batches(index_pictures([tmp_path]), 0, 1)
    assert batch["sharp"] is None
    assert len(set(batch["skipped"])) == 4


def test_a_pair_is_the_sharp_view_and_its_bicubic_reduction(tmp_path):
    [batch] = batches(index_pictures([write_folder(tmp_path, 4)]), 0, 1)
    for degraded, sharp in zip(batch["degraded"], batch["sharp"], strict=True):
        pixels = Image.fromarray(((sharp.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8))
        small = pixels.resize((8, 8), Image.Resampling.BICUBIC).resize((32, 32), Image.Resampling.BICUBIC)
        assert np.abs((degraded.permute(1, 2, 0).numpy() + 1) * 127.5 - np.asarray(small)).max() < 1e-3


def test_a_whole_picture_at_zoom_one_is_unchanged():
    face = picture(0, 32)
    assert np.array_equal(centre_view(face, 32), face)
    still = replace(RECIPE, zoom=(1.0, 1.0), shift=0.0, flip=False)
    assert np.array_equal(random_view(face, still, np.random.default_rng(0)), face)


def test_celeba_pictures_are_cut_at_the_face():
    photo = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)
    assert np.array_equal(centre_view(photo, 128), photo[50:178, 25:153])
    assert np.array_equal(centre_view(photo[32:192, 16:176], 128), photo[50:178, 25:153])  # the shards' cut


def test_other_peoples_pictures_of_these_sizes_can_be_kept_whole():
    photo = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    assert np.array_equal(centre_view(photo, 160, "centre"), photo)
    still = replace(RECIPE, zoom=(1.0, 1.0), shift=0.0, flip=False)
    view = random_view(photo, still, np.random.default_rng(0), "centre")
    assert np.array_equal(view, centre_view(photo, 32, "centre"))
    assert not np.array_equal(view, centre_view(photo, 32))


def test_a_cut_beyond_the_edge_is_moved_inside_not_padded():
    face = picture(0, 40)
    assert np.array_equal(cut(face, -9, 30, 32, 32), face[8:40, 0:32])
    assert np.array_equal(cut(face, 3, 3, 99, 40), face)


def test_views_are_mirrored_half_the_time_and_zoomed_within_the_recipe():
    ramp = np.tile(np.linspace(0, 255, 64).round().astype(np.uint8)[None, :, None], (64, 1, 3))
    recipe = replace(RECIPE, zoom=(1.0, 1.25), shift=0.0)
    views = [random_view(ramp, recipe, np.random.default_rng(seed)).astype(int) for seed in range(200)]
    slopes = np.array([view[16, -2, 0] - view[16, 1, 0] for view in views])
    assert 80 <= (slopes < 0).sum() <= 120
    shares = np.abs(slopes) / (255 * 29 / 32)  # of the ramp that the view shows: 1 / zoom
    assert shares.min() >= 1 / 1.25 - 0.02
    assert shares.max() <= 1 + 0.02
    assert shares.max() - shares.min() > 0.15


def test_bicubic_keeps_the_size_and_loses_the_detail():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 255
    degraded = bicubic(stripes, 8)
    assert degraded.shape == (32, 32, 3)
    assert np.ptp(degraded[4:-4, 4:-4].astype(int)) < 16
