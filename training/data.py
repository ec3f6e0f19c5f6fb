"""Face folders and tar shards -> (degraded, sharp) pairs.

    paths -> index_pictures -> Item per picture
    step -> FaceBatches -> keys (epoch, index) -> Faces: read, decode, draw a view, degrade -> pair -> join -> batch

The draw of a key comes from a generator seeded by (seed, epoch, index) alone, and the keys of a step from (seed, step):
any number of workers or processes, and a run resumed at any step, see the same faces. Nothing is held in memory.
"""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import exp, log
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from PIL import Image
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from sparnet import images
from sparnet.errors import UserError
from sparnet.folders import files_in, is_hidden, is_run, printable
from training.degradations import bicubic, blind, random_grey
from training.recipes import Recipe

TRIES = 50  # unreadable pictures in a row before a draw gives up

FACE_SQUARES = {  # (width, height) of a picture -> x, y, side of the face's square at zoom 1
    (178, 218): (25, 50, 128),  # CelebA's aligned photos; the square of the usual 128x128 test faces
    (160, 160): (9, 18, 128),  # the same photos, cut at (16, 32)
}
Crop = Literal["auto", "centre"]
"""How a picture is cut to the face: by the table, or always to its largest centred square, as data of these sizes that
is not CelebA's should be."""


class Item(NamedTuple):
    """One picture: `size` bytes at `offset` of the file at `path`; `name` is what people are told.

    `name` begins with the folder or shard that was given, `within` is the rest: such as "n000001/0001_01.jpg".
    """

    name: str
    path: str
    offset: int
    size: int

    @property
    def within(self) -> str:
        return self.name.partition("/")[2] or self.name

    def read(self) -> bytes:
        """The file's content; `UserError` names the picture and says why it cannot be read."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise UserError(f"{self.name}: {error.strerror}.") from error

    def picture(self) -> ndarray:
        """Read and decode, (H,W,3) uint8 RGB; `UserError` names the picture and says why it cannot be read."""
        data = self.read()
        try:
            return images.decode(data)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error


class Index(NamedTuple):
    """The pictures found, in a fixed order, and the names of what is left out: not named like pictures, or not data."""

    items: list[Item]
    ignored: list[str]

    def describe_names_and_sizes(self) -> str:
        """Their number and a fingerprint: the same for the same names and sizes, wherever the data lies.

        No picture is read, so one that was changed but kept its size goes unnoticed: see `content_hash`.
        """
        digest = sha256()
        for item in self.items:
            digest.update(f"{item.name}\t{item.size}\n".encode())
        return f"{len(self.items)} pictures, fingerprint {digest.hexdigest()[:12]}"


def index_pictures(paths: Iterable[Path]) -> Index:
    """Every picture in the folders (recursively) and tar shards, sorted by name; no picture is decoded here.

    What is hidden, or of a training run, is not data, in a folder or in a shard. `UserError` if a path is missing, a
    shard is damaged or there is no picture at all.
    """
    index, paths = Index([], []), [Path(path) for path in paths]
    for root in paths:
        if not root.exists():
            raise UserError(f"There is no {root}; --data takes a folder of pictures or of tar shards, or one shard.")

        def name_of(file: Path, root: Path = root) -> str:
            return printable(Path(root.name, file.relative_to(root)).as_posix())

        files, left_out = files_in(root) if root.is_dir() else ([root], [])
        index.ignored.extend(map(name_of, left_out))
        for file in files:
            name = name_of(file)
            if file.suffix.lower() == ".tar":
                _index_shard(file, name, index)
            elif file.suffix.lower() in images.SUFFIXES:
                index.items.append(Item(name, str(file), 0, file.stat().st_size))
            else:
                index.ignored.append(name)
    if not index.items:
        kinds = " ".join(images.SUFFIXES)
        raise UserError(f"No pictures in {', '.join(map(str, paths))}; looked for {kinds} and .tar.")
    return index


def content_hash(items: Sequence[Item], beside: Callable[[Item], Path | None] = lambda item: None) -> str:
    """SHA-256 over the names `within` and the bytes of the pictures, in order, and of the file that belongs to each.

    Every picture is read, one at a time; one that cannot be read counts as such. On a terminal a bar shows after two
    seconds.
    """
    digest = sha256()
    for item in tqdm(items, "hashing", unit="picture", delay=2, disable=None, leave=False, dynamic_ncols=True):
        file = beside(item)
        try:
            content = sha256(item.read()).hexdigest()
            companion = sha256(file.read_bytes()).hexdigest() if file else "none"
        except (UserError, OSError):  # named where it is scored, or looked for landmarks
            content = companion = "unreadable"
        digest.update(f"{item.within}\t{content}\t{companion}\n".encode())
    return digest.hexdigest()


def _index_shard(path: Path, name: str, index: Index) -> None:
    try:
        with tarfile.open(path, "r:") as shard:
            members = [member for member in shard if member.isfile()]
            runs = {place.parent for member in members if is_run([(place := PurePosixPath(member.name)).name])}
            for member in members:
                inside, place = printable(f"{name}/{member.name}"), PurePosixPath(member.name)
                hidden = any(map(is_hidden, place.parts)) or not runs.isdisjoint(place.parents)
                if place.suffix.lower() in images.SUFFIXES and not hidden:
                    index.items.append(Item(inside, str(path), member.offset_data, member.size))
                else:
                    index.ignored.append(inside)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"The shard {path} cannot be read ({error}); copy it again or take it away.") from error


def is_celebas(picture: ndarray, crop: Crop = "auto") -> bool:
    """Whether a picture is taken, by its size, for one of CelebA's."""
    return crop == "auto" and picture.shape[1::-1] in FACE_SQUARES


def face_square(picture: ndarray, crop: Crop = "auto") -> tuple[float, float, float]:
    """x, y, side in pixels of the square that holds the face: the table's, else the largest centred square."""
    width, height = picture.shape[1::-1]
    if is_celebas(picture, crop):
        return FACE_SQUARES[width, height]
    side = min(width, height)
    return (width - side) / 2, (height - side) / 2, side


def cut(picture: ndarray, x: float, y: float, side: float, size: int) -> ndarray:
    """The square at (x, y) moved and shrunk as little as needed to lie in the picture, as (size,size,3) uint8."""
    height, width = picture.shape[:2]
    side = min(side, width, height)
    x, y = min(max(x, 0), width - side), min(max(y, 0), height - side)
    box = (x, y, x + side, y + side)
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, box=box))


def centre_view(picture: ndarray, size: int, crop: Crop = "auto") -> ndarray:
    """The face as it is validated and scored: zoom 1, no shift, no flip; (size,size,3) uint8."""
    return cut(picture, *face_square(picture, crop), size)


def random_view(picture: ndarray, recipe: Recipe, generator: np.random.Generator, crop: Crop = "auto") -> ndarray:
    """A zoomed, shifted, perhaps mirrored view of the face, as the recipe says; (S,S,3) uint8."""
    x, y, side = face_square(picture, crop)
    low, high = recipe.zoom
    view = side / exp(generator.uniform(log(low), log(high)))
    move_x, move_y = generator.uniform(-recipe.shift, recipe.shift, 2) * side
    face = cut(picture, x + move_x + (side - view) / 2, y + move_y + (side - view) / 2, view, recipe.model.size)
    return np.fliplr(face).copy() if recipe.flip and generator.random() < 0.5 else face


@dataclass(frozen=True, eq=False)
class Faces(Dataset):
    """(epoch, index) -> (degraded, sharp, one message for each unreadable picture passed over).

    Degraded and sharp are (3,S,S) float32 in [-1,1]. An unreadable picture is replaced by another of the same draw;
    after `TRIES` in a row both are None.
    """

    items: Sequence[Item]
    recipe: Recipe
    seed: int
    crop: Crop = "auto"

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor | None, torch.Tensor | None, list[str]]:
        epoch, index = key
        generator = np.random.default_rng((self.seed, epoch, index))
        skipped = []
        while len(skipped) < TRIES:
            try:
                picture = self.items[index].picture()
            except UserError as error:
                skipped.append(str(error))
                index = int(generator.integers(len(self.items)))
                continue
            sharp = random_view(picture, self.recipe, generator, self.crop)
            if self.recipe.grey:
                sharp = random_grey(sharp, generator, self.recipe.grey)
            small = self.recipe.model.degraded_size
            degraded = bicubic(sharp, small) if small else blind(sharp, generator)
            return images.to_tensor(degraded)[0], images.to_tensor(sharp)[0], skipped
        return None, None, skipped


def join(samples: list[tuple]) -> dict:
    """Samples -> {"degraded", "sharp": (B,3,S,S), "skipped": messages}; the faces are None if one draw gave up."""
    degraded, sharp, skipped = zip(*samples, strict=True)
    messages = [message for some in skipped for message in some]
    if any(face is None for face in sharp):
        return {"degraded": None, "sharp": None, "skipped": messages}
    return {"degraded": torch.stack(degraded), "sharp": torch.stack(sharp), "skipped": messages}


class FaceBatches(Sampler):
    """Keys of the batch of every step from `start` on; each epoch is a new order of all pictures, none left out.

    A batch may span two epochs. `batch_size` counts over all processes: Accelerate splits each batch between them.
    """

    def __init__(self, pictures: int, batch_size: int, seed: int, start: int, steps: int):
        if pictures < batch_size:
            raise UserError(
                f"{pictures} pictures do not fill a batch of {batch_size}; give more or a smaller --batch-size."
            )
        self.pictures, self.batch_size, self.seed, self.start, self.steps = pictures, batch_size, seed, start, steps
        self.drop_last = True

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, int)
        for step in range(self.start, self.steps):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.pictures != epoch:
                    epoch = position // self.pictures
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.pictures)
                batch.append((epoch, int(order[position % self.pictures])))
            yield batch
