"""One face by several models, side by side; each is given what it is made for, and says what that was.

OneFace -> Original, as in the photo -> its 128x128 is the truth, where the face is reduced on purpose
        -> 16x16 -> Bicubic, models that enlarge  ---+-> side_by_side -> comparison_strip
        -> as it is -> models for faces of any damage'
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from textwrap import wrap
from time import perf_counter

import numpy as np
from matplotlib.font_manager import FontProperties, findfont
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from sparnet.attention import group_units, mean_map, overlay
from sparnet.faces import Face
from sparnet.images import resize, to_grey
from sparnet.metrics import psnr, ssim
from sparnet.restorer import Mode, Restorer, cut_face, picture_of, side_in_photo
from sparnet.text import plain
from viz.instruments.agreement import same_depth

SHARP, SMALL = 128, 16  # pixels a side: what SPARNet's training faces were, and what they were reduced to
SHARP_FACE = "the sharp face"  # of which nothing is to be guessed
UNITS = 3  # whose maps are shown
PROTOCOL = f"PSNR in dB / SSIM: on Y, at {SHARP}x{SHARP}, against the original. Both favour blur: judge by eye as well."
INK, GREY = "#171d1b", "#7f8783"  # frames of Original and Bicubic; models have the palette's colours

_PANEL, _GAP, _MARGIN, _TEXT, _FRAME = 256, 20, 20, 15, 4  # pixels of the strip
_SOFT, _PAPER, _EMPTY = "#5d6762", "#ffffff", "#f0f2f1"


@dataclass(frozen=True, eq=False)
class OneFace:
    """A face of a photo and what is done with it before a network sees it."""

    photo: ndarray  # (H,W,3) uint8
    face: Face
    mode: Mode
    whole: bool = False  # the picture is already a face

    def crop(self, size: int) -> ndarray:
        """(size,size,3) uint8, cut from the photo."""
        return cut_face(self.photo, self.face, size, self.whole)[1]

    def reduced_to(self, small: int | None) -> int | None:
        """To how many pixels a side the face is reduced for a model that enlarges so many; None: it is given as it is.

        A model for faces of any damage always takes it as it is. One that enlarges is only given what it is made for:
        in "as_is" the face is reduced, too, unless the photo has it about that small.
        """
        return None if small is None or (self.mode == "as_is" and self.pixels < 2 * small) else small

    def degraded(self, size: int, small: int | None) -> ndarray:
        """(size,size,3) uint8, what a network is given; of one `small` every model has the very same pixels."""
        return self.crop(size) if small is None else resize(resize(self.crop(max(SHARP, small)), small), size)

    def scores(self, picture: ndarray) -> tuple[float, float] | tuple[None, None]:
        """PSNR in dB and SSIM of a picture (S,S,3) uint8, at 128x128; None where no sharper face is known."""
        if self.mode == "as_is" or self.pixels < 2 * SMALL:
            return None, None
        picture, truth = resize(picture, SHARP), self.crop(SHARP)
        return psnr(picture, truth), ssim(picture, truth)

    @property
    def pixels(self) -> int:
        """About how many pixels of the photo a side of the crop covers."""
        return round(side_in_photo(cut_face(self.photo, self.face, SHARP, self.whole)[0], SHARP))


@dataclass(frozen=True, eq=False)
class Column:
    """The face as one method shows it; without a picture it failed, and `error` tells a person why."""

    name: str
    color: str = INK  # of its frame, bars and half of the slider
    picture: ndarray | None = None  # (S,S,3) uint8
    given: str | None = None  # what it is made of, in words
    reduced_to: int | None = None  # pixels a side of what it is made of; None: the face as it is
    pixels: int | None = None  # a side
    parameters: int | None = None
    seconds: float | None = None  # in the network
    maps: Mapping[str, ndarray] = field(default_factory=dict)  # unit -> (h,w) in (0,1), of attention to places
    psnr: float | None = None  # dB; None: not scored
    ssim: float | None = None
    error: str | None = None

    @property
    def identical(self) -> bool:
        """To the original: the PSNR is infinite."""
        return self.psnr == np.inf

    def facts(self) -> dict:
        """Everything but pictures and maps, for JSON."""
        return {
            "name": self.name,
            "given": self.given,
            "reduced_to": self.reduced_to,
            "pixels": self.pixels,
            "parameters": self.parameters,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "psnr": None if self.psnr is None or self.identical else round(self.psnr, 3),
            "identical": self.identical,
            "ssim": None if self.ssim is None else round(self.ssim, 4),
            "error": self.error,
        }

    def lines(self) -> list[str]:
        """The caption beneath the picture."""
        facts = [f"given {self.given}"] if self.given else []
        if self.name == "Original":
            facts = [f"{self.pixels}x{self.pixels} in the photo"]
        elif self.given == SHARP_FACE:
            facts = [f"given {self.given}: not scored"]
        if self.parameters is not None:
            facts.append(f"{self.pixels}x{self.pixels}, {self.parameters / 1e6:.2f} M, {self.seconds:.2f} s")
        if self.identical:
            facts.append("identical to the original")
        elif self.psnr is not None:
            facts.append(f"{self.psnr:.2f} dB / {self.ssim:.3f}")
        return facts


def restored_column(name: str, restorer: Restorer, face: OneFace, color: str = INK) -> Column:
    """The face restored by a model, at the model's own size; `UserError` if the network fails on it."""
    size, small = restorer.model.config.size, face.reduced_to(restorer.model.config.degraded_size)
    degraded = face.degraded(size, small)
    start = perf_counter()
    trace = restorer.trace(degraded)
    picture = picture_of(trace.restored, degraded)  # on a GPU, this waits for it
    seconds = perf_counter() - start
    maps = {unit: mean_map(alpha) for unit, alpha in trace.alphas.items()}
    score, similarity = face.scores(picture) if small else (None, None)
    as_it_is = SHARP_FACE if face.mode == "simulate" else "the face as it is"
    return Column(
        name,
        color,
        picture,
        given=f"{small}x{small} pixels" if small else as_it_is,
        reduced_to=small,
        pixels=size,
        parameters=sum(weight.numel() for weight in restorer.model.parameters()),
        seconds=seconds,
        maps={unit: alpha for unit, alpha in maps.items() if alpha.size > 1},  # the others gate whole channels
        psnr=score,
        ssim=similarity,
    )


def side_by_side(face: OneFace, restored: Sequence[Column]) -> list[Column]:
    """Original, then Bicubic where a face is reduced, then the models."""
    side = next(side for side in (SHARP, 2 * SHARP, 4 * SHARP) if side >= min(face.pixels, 4 * SHARP))
    columns = [Column("Original", picture=face.crop(side), pixels=face.pixels)]
    reduced = [column.reduced_to for column in restored if column.reduced_to]
    if face.mode == "simulate" or reduced:
        small = min(reduced, default=SMALL)
        picture = face.degraded(SHARP, small)
        score, similarity = face.scores(picture)
        columns.append(
            Column("Bicubic", GREY, picture, f"{small}x{small} pixels", small, small, psnr=score, ssim=similarity)
        )
    return [*columns, *restored]


def reference(columns: Sequence[Column], model: str | None = None) -> Column | None:
    """Whose units are looked at: this model's column, or the first that has maps; None: no column has."""
    with_maps = [column for column in columns if column.maps]
    return next((column for column in with_maps if column.name == model), with_maps[0] if with_maps else None)


def most_contrast(maps: Mapping[str, ndarray]) -> list[str]:
    """The units whose maps differ most from place to place, by their standard deviation; in forward order."""
    chosen = sorted(maps, key=lambda unit: -maps[unit].std())[:UNITS]
    return [unit for unit in maps if unit in chosen]


def counterpart(unit: str, units: Sequence[str], others: Sequence[str]) -> str | None:
    """Of another network's units that of the same group at the same relative depth; None: its group has none."""
    part = unit.partition(".")[0]
    return same_depth(unit, units, others) if part in group_units(others) else None


def comparison_strip(columns: Sequence[Column], title: str, model: str | None = None) -> ndarray:
    """Every column with its colour, name, facts and maps, (H,W,3) uint8; `columns` as `side_by_side` gives them.

    model: whose units of the highest contrast are shown, see `reference`.
    """
    side = max(_PANEL, *(len(column.picture) for column in columns if column.picture is not None))
    bold, text, small = _font(_TEXT + 2, "bold"), _font(_TEXT), _font(_TEXT - 3)
    names = [_wrap(plain(column.name), bold, side) for column in columns]
    captions = [_wrap("\n".join(column.lines()), text, side) for column in columns]
    width = 2 * _MARGIN + len(columns) * (side + _GAP) - _GAP
    source = reference(columns, model)
    order = list(source.maps) if source else []
    units = most_contrast(source.maps) if source else []
    highest = highest_alpha(columns)
    notes = [PROTOCOL] * any(column.psnr is not None for column in columns)
    if source:
        notes.append(
            f"Attention: dark 0, the features are held back; bright {highest:.2f}, let through. Units of the highest "
            f"contrast in {plain(source.name)}; of other models those at the same relative depth."
        )
    foot = _wrap("\n".join(notes), text, width - 2 * _MARGIN)

    line, map_side = round(1.45 * _TEXT), (side - (UNITS - 1) * 8) // UNITS
    name_top = _MARGIN + 2 * line
    top = name_top + max(map(len, names)) * (line + 3) + 4 + _FRAME
    caption_top = top + side + 8 + _FRAME
    maps_top = caption_top + max(map(len, captions)) * line + 10
    foot_top = maps_top + (map_side + line if units else 0) + 12
    strip = Image.new("RGB", (width, foot_top + len(foot) * line + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(strip)

    def write(x: int, y: int, lines: list[str], font=text, color=_SOFT, pitch=line) -> None:
        for i, words in enumerate(lines):
            draw.text((x, y + i * pitch), words, fill=color, font=font)

    write(_MARGIN, _MARGIN - 4, [plain(title)], _font(_TEXT + 3), INK)
    for i, (column, name, caption) in enumerate(zip(columns, names, captions, strict=True)):
        x = _MARGIN + i * (side + _GAP)
        write(x, name_top, name, bold, INK, line + 3)
        write(x, caption_top, caption)
        frame = (x - _FRAME, top - _FRAME, x + side - 1 + _FRAME, top + side - 1 + _FRAME)
        draw.rectangle(frame, column.color if column.picture is not None else _EMPTY)
        if column.picture is None:
            draw.rectangle((x, top, x + side - 1, top + side - 1), fill=_EMPTY)
            lines = _wrap(plain(column.error or ""), text, side - 24)[: (side - 24) // line]
            write(x + 12, top + 12, lines, color=INK)
            continue
        picture = column.picture if len(column.picture) == side else resize(column.picture, side)
        strip.paste(Image.fromarray(picture), (x, top))
        for j, unit in enumerate(units if column.maps else ()):
            own = counterpart(unit, order, list(column.maps))
            if own:
                base = to_grey(resize(column.picture, map_side))
                left = x + j * (map_side + 8)
                strip.paste(Image.fromarray(overlay(base, column.maps[own], high=highest)), (left, maps_top))
                write(left, maps_top + map_side + 2, [own], small)
    write(_MARGIN, foot_top, foot)
    return np.array(strip)


def highest_alpha(columns: Sequence[Column]) -> float:
    """The largest value of all columns' maps, where their shared scale ends; 1 if there are none."""
    return max((float(alpha.max()) for column in columns for alpha in column.maps.values()), default=1.0)


@cache
def _font(size: int, weight: str = "normal") -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and so is the same everywhere."""
    return ImageFont.truetype(findfont(FontProperties(family="DejaVu Sans", weight=weight)), size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of about `width` pixels, broken between words, or within one that is too long for a line."""
    letters = int(width / font.getlength("m") * 1.5)
    return [line for paragraph in text.splitlines() for line in wrap(paragraph, letters)]
