"""Train the five-point landmark net on aligned faces: `python -m training.landmarks --data PATH ... --out DIR`.

    aligned face, its points -> head turned, random warp, each point moved too -> degraded -> crop, exact points
    crop -> LandmarkNet -> points -> L1 distance as a share of the distance of the eyes

An aligned face has its own points only near the canonical ones. Because the warp moves each point by more than that,
the net has to look where a point is; because the deviations average out, it finds the point and not its neighbour.
A head that is turned in the photo deviates most, and canonical points teach to draw its nose to the middle. So the warp
turns heads too, and a net that starts from another (`--init`) learns the points that this one sees in each face: these
are drawn to the middle as well, but less at every such run. `--frontal` leaves out the heads that seem turned most.
The last runs, with `--strength` below 1, see views more like those that the net is for.
"""

import functools
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from numpy import ndarray
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sparnet import images
from sparnet.errors import UserError
from sparnet.faces import (
    TEMPLATE,
    TEMPLATE_SIDE,
    Face,
    crop_face,
    crop_transform,
    inverse_transform,
    transform_points,
)
from sparnet.files import make_folder
from sparnet.folders import check_outside
from sparnet.landmarks import MIRRORED, LandmarkNet
from training.command import Diverged, run_command
from training.data import Item, index_pictures
from training.degradations import Jpeg
from training.networks import channels_last
from training.state import write_model

# Eyes, nose and mouth corners of aligned CelebA photos, 178x218: checked against the mean of 1,000 of them.
CELEBA = np.array([(69, 111), (108, 111), (88.5, 133.5), (72, 152), (105.5, 152)])
CANONICAL = {(178, 218): CELEBA, (160, 160): CELEBA - (16, 32), (TEMPLATE_SIDE,) * 2: TEMPLATE}
YAW = 35  # degrees; beyond, the turned nose would fold over the cheek
ASTRAY = np.array([2, 2, 2.5, 2, 2])[:, None]  # sd of each point's own move, pixels of a crop of 64


class Views(Dataset):
    """Number of a draw -> crop (3,S,S) float32 in [-1,1] and its points (5,2) float32; sources take turns.

    A source is faces, each with the deviation (5,2) of its points from the canonical ones.
    """

    def __init__(self, sources: list[list[tuple[Item, ndarray]]], size: int, seed: int, draws: int, strength: float):
        self.sources, self.size, self.seed, self.draws, self.strength = sources, size, seed, draws, strength

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, draw: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = np.random.default_rng((self.seed, draw))
        source = self.sources[draw % len(self.sources)]
        item, deviation = source[generator.integers(len(source))]
        picture, points = aligned(item)
        crop, points = warped(picture, points + deviation, self.size, generator, self.strength)
        return images.to_tensor(degraded(crop, generator))[0], torch.from_numpy(points).float()


@functools.lru_cache(maxsize=16384)  # decoding is most of the work; at most 3 GB
def aligned(item: Item) -> tuple[ndarray, ndarray]:
    """An aligned face, at most 256 pixels wide, and its canonical points; `UserError` if they are not known."""
    picture = item.picture()
    height, width = picture.shape[:2]
    if (width, height) not in CANONICAL:
        raise UserError(
            f"{item.name} is {width} x {height}: where its points are is known only of faces aligned as CelebA's "
            "(178 x 218, or 160 x 160 cut at 16, 32) or FFHQ's (512 x 512)."
        )
    points = CANONICAL[width, height]
    if width > 256:
        picture = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)
        points = (points + 0.5) * 256 / width - 0.5
    return picture, points


def deviations(items: list[Item], net: LandmarkNet) -> ndarray:
    """How far from the canonical points the net sees those of aligned faces, (N,5,2) in their pixels; the mean is 0."""
    size, found = net.config.size, []
    for item in tqdm(items, desc="points", unit="face", dynamic_ncols=True):
        picture, points = aligned(item)
        to_crop = crop_transform(Face(np.zeros(4), points), size)
        seen = net.locate(crop_face(picture, to_crop, size))
        found.append(transform_points(inverse_transform(to_crop), seen) - points)
    return np.array(found) - np.mean(found, axis=0)


def most_frontal(deviations: ndarray, share: float) -> ndarray:
    """Which faces (N,) belong to this share of those whose nose is least to the side of the eyes' middle."""
    aside = np.abs(deviations[:, 2, 0] - deviations[:, :2, 0].mean(axis=1))
    return aside <= np.quantile(aside, share)


def warped(
    picture: ndarray, points: ndarray, size: int, generator: np.random.Generator, strength: float = 1
) -> tuple[ndarray, ndarray]:
    """A view as a detector's box would give it, (size,size,3), and where the points are in it, exactly.

    `strength` scales the turn of the head and the points' own moves.
    """
    target = (TEMPLATE + 0.5) * size / TEMPLATE_SIDE - 0.5
    unit = size / 64
    if generator.random() < 0.5:
        picture, points = np.fliplr(picture), (points * (-1, 1) + (picture.shape[1] - 1, 0))[MIRRORED]
    spread = generator.choice([0.3, 1])  # a second look starts from points that are nearly right
    angle = np.radians(generator.uniform(-35, 35) * spread)
    stretch = np.diag(np.exp(generator.normal(0, 0.05, 2)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    yaw = np.radians(generator.uniform(-YAW, YAW) * strength)
    turn = turn @ np.diag([np.cos(yaw), 1]) @ stretch * np.exp(generator.normal(0, 0.17 * spread))
    to_view = crop_transform(Face(np.zeros(4), points), size)
    to_view[:, 2] -= target.mean(axis=0)
    to_view = turn @ to_view
    to_view[:, 2] += target.mean(axis=0) + generator.normal(0, 3 * spread * unit, 2)
    places = points @ to_view[:, :2].T + to_view[:, 2]
    eyes = places[:2]
    x, y = places.T
    places = places + parallax(x, y, eyes, yaw).T + generator.normal(0, ASTRAY * strength * unit, (5, 2))

    # photo(p) = to_photo(p - parallax(p)) + sum of w_i * bump(p - there_i), with w such that photo(there_i) = points_i
    to_photo = cv2.invertAffineTransform(to_view)
    x, y = places.T
    bumps = _bump(x[:, None] - x, unit) * _bump(y[:, None] - y, unit)
    weights = np.linalg.solve(bumps, points - transform_points(to_photo, places - parallax(x, y, eyes, yaw).T))
    axis = np.arange(size)
    bump_x, bump_y = (_bump(axis[:, None] - centre, unit) for centre in places.T)
    finer = min(1, 1.2 * np.sqrt(np.linalg.det(to_view[:, :2])))  # reduced first, so that sampling does not alias
    reduced = cv2.resize(picture, None, fx=finer, fy=finer, interpolation=cv2.INTER_AREA)
    scales = np.divide(reduced.shape[1::-1], picture.shape[1::-1])
    x, y = np.array(np.meshgrid(axis, axis)) - parallax(axis, axis[:, None], eyes, yaw)
    maps = []
    for (a, b, c), weight, scale in zip(to_photo, weights.T, scales, strict=True):
        place = a * x + b * y + c + (bump_y * weight) @ bump_x.T
        maps.append(((place + 0.5) * scale - 0.5).astype(np.float32))
    return cv2.remap(reduced, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), places


def parallax(x: ndarray, y: ndarray, eyes: ndarray, yaw: float) -> ndarray:
    """How far (2, ...), in pixels, a turn of the head by yaw moves what is at (x, y) along the line of the eyes (2,2).

    In distances of the eyes: the nose is 0.6 before the eyes, the mouth's corners are level, the outline is 0.4 behind.
    """
    left, right = eyes @ (1, 1j)
    place = (x + 1j * y - (left + right) / 2) / (right - left)  # right of and below the middle of the eyes
    head, nose = np.exp(-((place.real / 0.75) ** 2) / 2), np.exp(-(np.abs((place - 0.6j) / 0.42) ** 2) / 2)
    move = np.tan(yaw) * (right - left) * (0.9 * head + 0.5 * nose - 0.81)
    return np.array([move.real, move.imag])


def degraded(crop: ndarray, generator: np.random.Generator) -> ndarray:
    """Light and colour, something in front, blur, few pixels, noise, JPEG: each of them now and then."""
    size = len(crop)
    chance = generator.random(7)
    face = crop.astype(np.float32) / 255
    if chance[0] < 0.8:
        face = face ** np.exp(generator.normal(0, 0.3)) * np.exp(generator.normal(0, [0.15] * 3))
    if chance[1] < 0.15:
        face[:] = face.mean(axis=2, keepdims=True)
    if chance[2] < 0.2:
        x, y, width, height = generator.integers(0, size, 2).tolist() + generator.integers(4, size // 3, 2).tolist()
        face[y : y + height, x : x + width] = generator.random(3)
    if chance[3] < 0.3:
        face = cv2.GaussianBlur(face, (0, 0), generator.uniform(0.4, 2))
    if chance[4] < 0.5:
        small = int(size * generator.uniform(0.3, 1))
        face = cv2.resize(cv2.resize(face, (small, small), interpolation=cv2.INTER_AREA), (size, size))
    if chance[5] < 0.3:
        face = face + generator.normal(0, generator.uniform(0, 0.1), face.shape)
    face = np.rint(face.clip(0, 1) * 255).astype(np.uint8)
    if chance[6] < 0.3:
        face = Jpeg(int(generator.integers(15, 90)))(face)
    return face


def main(
    data: Annotated[list[Path], typer.Option(help="Shard or folder of aligned faces; repeat it, they take turns.")],
    out: Annotated[Path, typer.Option(help="Folder for config.json and model.safetensors.")],
    init: Annotated[
        Path | None, typer.Option(help="Folder of a net to start from, which also tells each face's points.")
    ] = None,
    frontal: Annotated[float, typer.Option(min=0.01, max=1, help="Share of each source to train on with --init.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 1500,
    batch_size: Annotated[int, typer.Option(min=2)] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare crops.")] = 0,
    strength: Annotated[float, typer.Option(min=0, max=1, help="Of the turned heads and the points' own moves.")] = 1,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate at its highest.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same net.")] = 0,
):
    """Train the landmark net."""
    torch.manual_seed(seed)
    check_outside(out, data)
    make_folder(out)
    net = LandmarkNet.from_pretrained(init) if init else LandmarkNet()
    sources = []
    for path in data:
        items = index_pictures([path]).items
        own = deviations(items, net.eval()) if init else np.zeros((len(items), 5, 2))
        sources.append(
            [face for face, kept in zip(zip(items, own, strict=True), most_frontal(own, frontal), strict=True) if kept]
        )
    net = channels_last(net.train())
    views = Views(sources, net.config.size, seed, steps * batch_size, strength)
    eye_distance = np.linalg.norm(TEMPLATE[1] - TEMPLATE[0]) * net.config.size / TEMPLATE_SIDE
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters, {sum(map(len, sources)):,} faces, seed {seed}")
    recent = None
    with tqdm(DataLoader(views, batch_size, num_workers=workers), unit="step", dynamic_ncols=True) as bar:
        for crops, points in bar:
            loss = (net(crops.contiguous(memory_format=torch.channels_last)) - points).abs().mean() / eye_distance
            if not loss.isfinite():
                raise Diverged(f"The loss is {loss.item()} at step {bar.n}; nothing was written.")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            recent = loss.item() if recent is None else 0.99 * recent + 0.01 * loss.item()
            bar.set_postfix(loss=f"{recent:.4f}")
    write_model(net.half(), out)
    print(f"mean distance along x or y at the end: {recent:.2%} of the distance of the eyes; written to {out}")


def _bump(distance: ndarray, unit: float) -> ndarray:
    """Along one axis: a Gaussian of 7 pixels in a crop of 64."""
    return np.exp(-(distance**2) / (2 * (7 * unit) ** 2))


if __name__ == "__main__":
    run_command(main)
