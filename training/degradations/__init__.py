"""Sharp face -> degraded face, as pure functions.

    sharp (S,S,3) uint8 -> bicubic -> degraded (S,S,3) uint8                                        SPARNet
    sharp (S,S,3) uint8 -> blur? -> reduce -> noise? -> JPEG? -> enlarge -> degraded (S,S,3) uint8  SPARNetHD, blind

The degraded face has the size of the sharp one: the network takes it enlarged already. What is random is drawn first,
as data: `Blind.draw(generator)` gives the stages with their strengths, `apply` runs them, and the same stages give the
same picture in any process.

`python -m training.degradations IN OUT.png [--seed S] [--rows N] [--columns N]` shows both, side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, cos, radians, sin

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image

from sparnet import images

FILTERS = {
    "nearest": cv2.INTER_NEAREST_EXACT,  # INTER_NEAREST would move the face by half a reduced pixel
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}

Stage = Callable[[ndarray], ndarray]


def bicubic(sharp: ndarray, small: int) -> ndarray:
    """Reduce to small x small and enlarge back, both PIL bicubic, as the paper and the released models do."""
    return images.degrade(sharp, small)


def blind(sharp: ndarray, generator: np.random.Generator) -> ndarray:
    """SPARNetHD's degradation with a fresh draw, its strengths scaled to the picture's size; (S,S,3) uint8."""
    return apply(sharp, Blind().at(len(sharp)).draw(generator))


def fixed(sharp: ndarray, small: int | None, name: str) -> ndarray:
    """The degradation with which the picture of that name is scored: bicubic, or blind with the name as its seed."""
    if small:
        return bicubic(sharp, small)
    return blind(sharp, np.random.default_rng(list(name.encode())))


def random_grey(sharp: ndarray, generator: np.random.Generator, probability: float = 0.3) -> ndarray:
    """The face, or with that probability its luma (BT.601) in all three channels; (S,S,3) uint8, never the same array.

    To be called before the degradation: the target of a grey degraded face is grey too.
    """
    if generator.random() >= probability:
        return sharp.copy()
    return np.array(Image.fromarray(sharp).convert("L").convert("RGB"))


def apply(sharp: ndarray, stages: Sequence[Stage]) -> ndarray:
    """Run the stages in their order, then resize back to the size of the picture; (S,S,3) uint8.

    Back with PIL's bicubic, the filter with which a small face is brought to the network's size when it is restored.
    """
    if sharp.dtype != np.uint8 or sharp.shape != (len(sharp), len(sharp), 3):
        raise ValueError(f"a face to degrade is (S, S, 3) uint8, not {sharp.dtype} {sharp.shape}")
    degraded = sharp
    for stage in stages:
        degraded = stage(degraded)
    return images.resize(degraded, len(sharp))


@dataclass(frozen=True)
class Gaussian:
    """Gaussian blur; sigma in px, the kernel cut at 3 sigma, the border mirrored."""

    sigma: float

    def __call__(self, image: ndarray) -> ndarray:
        side = 2 * ceil(3 * self.sigma) + 1
        return cv2.GaussianBlur(image, (side, side), self.sigma)

    def __str__(self) -> str:
        return f"Gaussian sigma {self.sigma:.1f}"


@dataclass(frozen=True)
class Average:
    """Mean over a square of odd side in px, the border mirrored."""

    side: int

    def __call__(self, image: ndarray) -> ndarray:
        return cv2.blur(image, (self.side, self.side))

    def __str__(self) -> str:
        return f"average {self.side} x {self.side}"


@dataclass(frozen=True)
class Median:
    """Median of each channel over a square of odd side in px, the border repeated."""

    side: int

    def __call__(self, image: ndarray) -> ndarray:
        return cv2.medianBlur(image, self.side)

    def __str__(self) -> str:
        return f"median {self.side} x {self.side}"


@dataclass(frozen=True)
class Motion:
    """Blur of an even motion over `length` px, `angle` degrees anticlockwise from the x axis; the border mirrored."""

    length: float
    angle: float

    def kernel(self) -> ndarray:
        """(K,K) float64, sums to one: a point dragged along the path, shared bilinearly among the pixels it passes."""
        radius = ceil(self.length / 2)
        steps = 16 * ceil(self.length)
        path = self.length * ((np.arange(steps) + 0.5) / steps - 0.5)
        pixels = np.arange(-radius, radius + 1)
        across = np.maximum(0, 1 - abs(pixels - path[:, None] * cos(radians(self.angle))))
        down = np.maximum(0, 1 - abs(pixels + path[:, None] * sin(radians(self.angle))))
        return down.T @ across / steps

    def __call__(self, image: ndarray) -> ndarray:
        return cv2.filter2D(image, -1, self.kernel())

    def __str__(self) -> str:
        return f"motion {self.length:.1f} px, {self.angle:.0f}°"


@dataclass(frozen=True)
class Reduce:
    """Resize to side x side with one of `FILTERS`; only "area" averages, the others alias as careless software does."""

    side: int
    filter: str

    def __call__(self, image: ndarray) -> ndarray:
        return cv2.resize(image, (self.side, self.side), interpolation=FILTERS[self.filter])

    def __str__(self) -> str:
        return f"to {self.side} px, {self.filter}"


@dataclass(frozen=True)
class Noise:
    """White Gaussian noise, sigma in levels of 0-255; drawn for each channel, or once for all three (grey noise)."""

    sigma: float
    per_channel: bool
    seed: int  # of the values, so that the stage is a pure function

    def __call__(self, image: ndarray) -> ndarray:
        shape = image.shape if self.per_channel else (*image.shape[:2], 1)
        noise = np.random.default_rng(self.seed).normal(0, self.sigma, shape)
        return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)

    def __str__(self) -> str:
        return f"noise {self.sigma:.1f}, {'per channel' if self.per_channel else 'grey'}"


@dataclass(frozen=True)
class Jpeg:
    """JPEG there and back; quality as libjpeg counts it, colour at half resolution (4:2:0)."""

    quality: int

    def __call__(self, image: ndarray) -> ndarray:
        settings = [
            cv2.IMWRITE_JPEG_QUALITY,
            self.quality,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        ]
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
        return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)  # pyright: ignore[reportReturnType]  None of what is no picture

    def __str__(self) -> str:
        return f"JPEG quality {self.quality}"


@dataclass(frozen=True)
class Blind:
    """What SPARNetHD's degradation is drawn from: probabilities, and ranges with both ends included.

    The published facts leave open, and here it is so: the four blurs are equally likely; the sides of the average and
    the median are odd; motion has any angle and an even speed; the filters are OpenCV's four; "noise up to" is its
    sigma. Every strength is drawn uniformly from its range.
    """

    size: int = 512  # of the face; sigma, side and length below are in its pixels
    blurred: float = 0.5
    gaussian_sigma: tuple[float, float] = (3, 15)
    average_side: tuple[int, int] = (3, 15)
    median_side: tuple[int, int] = (3, 15)
    motion_length: tuple[float, float] = (5, 25)
    reduced_side: tuple[int, int] = (32, 128)
    noisy: float = 0.2
    noise_sigma: tuple[float, float] = (0, 0.1 * 255)
    noise_per_channel: float = 0.5
    compressed: float = 0.7
    jpeg_quality: tuple[int, int] = (35, 90)

    def at(self, size: int) -> "Blind":
        """The same damage to a face of another size, as if it had been degraded first and resized then.

        Blurs keep their share of the face (sides stay odd and at least 3). The reduced side, the noise and the JPEG
        quality stay as they are: how many pixels a face has in a bad photo does not depend on the network that restores
        it. Only a face smaller than that is not enlarged by the reduction.
        """
        scale = size / self.size

        def length(ends: tuple[float, float]) -> tuple[float, float]:
            return ends[0] * scale, ends[1] * scale

        def odd(ends: tuple[int, int]) -> tuple[int, int]:
            low, high = (max(3, 2 * round((end * scale - 1) / 2) + 1) for end in ends)
            return low, high

        return replace(
            self,
            size=size,
            gaussian_sigma=length(self.gaussian_sigma),
            average_side=odd(self.average_side),
            median_side=odd(self.median_side),
            motion_length=length(self.motion_length),
            reduced_side=(min(self.reduced_side[0], size), min(self.reduced_side[1], size)),
        )

    def draw(self, generator: np.random.Generator) -> tuple[Stage, ...]:
        """The stages of one face, in their order; the generator alone decides. `apply` runs them."""

        def whole(ends: tuple[int, int], step: int = 1) -> int:
            return int(generator.choice(range(ends[0], ends[1] + 1, step)))

        stages: list[Stage] = []
        if generator.random() < self.blurred:
            match generator.integers(4):
                case 0:
                    stages.append(Gaussian(generator.uniform(*self.gaussian_sigma)))
                case 1:
                    stages.append(Average(whole(self.average_side, step=2)))
                case 2:
                    stages.append(Median(whole(self.median_side, step=2)))
                case 3:
                    stages.append(Motion(generator.uniform(*self.motion_length), generator.uniform(0, 180)))
        stages.append(Reduce(whole(self.reduced_side), str(generator.choice(list(FILTERS)))))
        if generator.random() < self.noisy:
            per_channel = bool(generator.random() < self.noise_per_channel)
            stages.append(Noise(generator.uniform(*self.noise_sigma), per_channel, int(generator.integers(2**63))))
        if generator.random() < self.compressed:
            stages.append(Jpeg(whole(self.jpeg_quality)))
        return tuple(stages)
