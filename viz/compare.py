"""One face, restored by several models, side by side at one size.

OneFace -> degraded, the same for every model -> restored_column, one a model --+-> side_by_side -> comparison_strip
        -> crop -> Original, where it is known; Bicubic ------------------------'
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter

import numpy as np
from matplotlib.font_manager import FontProperties, findfont
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from sparnet.attention import colorize, enlarge, mean_attention
from sparnet.faces import Face
from sparnet.images import resize
from sparnet.metrics import psnr, ssim
from sparnet.restorer import Mode, Restorer, cut_face, picture_of, side_in_photo
from sparnet.text import plain

SHARP, SMALL = 128, 16  # pixels a side: what SPARNet's training faces were, and what they were reduced to
PROTOCOL = (
    "PSNR in dB / SSIM: on Y, against the original, of the pictures at the size shown. "
    "Both favour blur: judge by eye as well."
)
ATTENTION = "Attention: the mean of all units' maps; dark 0, the features are held back; bright 1, let through."

_PANEL, _GAP, _MARGIN, _TEXT = 256, 16, 20, 15  # pixels of the strip; panels are larger where a model's faces are
_INK, _GREY, _PAPER, _EMPTY = "#171d1b", "#5d6762", "#ffffff", "#f0f2f1"


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

    def degraded(self, size: int) -> ndarray:
        """(size,size,3) uint8, what a model of this size is given: of one face the same, so that models compare.

        To "simulate" is to reduce the 128x128 face to 16x16 pixels for every model, whatever it was trained on.
        """
        return self.crop(size) if self.mode == "as_is" else resize(resize(self.crop(SHARP), SMALL), size)

    @property
    def pixels(self) -> int:
        """About how many pixels of the photo a side of the crop covers."""
        return round(side_in_photo(cut_face(self.photo, self.face, SHARP, self.whole)[0], SHARP))


@dataclass(frozen=True, eq=False)
class Column:
    """The face as one method shows it; without a picture it failed, and `error` tells a person why."""

    name: str
    picture: ndarray | None = None  # (S,S,3) uint8
    pixels: int | None = None  # a side, before it was brought to the size of the others
    parameters: int | None = None
    seconds: float | None = None  # in the network
    attention: ndarray | None = None  # (h,w) in (0,1), the mean over all units; None: it has no attention
    psnr: float | None = None  # dB; None: the truth is not known
    ssim: float | None = None
    error: str | None = None

    @property
    def identical(self) -> bool:
        """To the original: the PSNR is infinite."""
        return self.psnr == np.inf

    def facts(self) -> dict:
        """Everything but the pictures, for JSON."""
        return {
            "name": self.name,
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
        origin = {"Original": "{0}x{0} in the photo", "Bicubic": "from {0}x{0}"}.get(self.name, "{0}x{0}")
        facts = [origin.format(self.pixels)] if self.pixels else []
        if self.parameters is not None:
            facts += [f"{self.parameters / 1e6:.2f} M", f"{self.seconds:.2f} s"]
        scores = [f"{self.psnr:.2f} dB / {self.ssim:.3f}"] if self.psnr is not None else []
        if self.identical:
            scores = ["identical to the original"]
        return [", ".join(facts), *scores] if facts else []


def restored_column(name: str, restorer: Restorer, face: OneFace) -> Column:
    """The face restored by a model, at the model's own size; `UserError` if the network fails on it."""
    size = restorer.model.config.size
    degraded = face.degraded(size)
    start = perf_counter()
    trace = restorer.trace(degraded)
    picture = picture_of(trace.restored, degraded)  # on a GPU, this waits for it
    seconds = perf_counter() - start
    return Column(
        name,
        picture,
        pixels=size,
        parameters=sum(weight.numel() for weight in restorer.model.parameters()),
        seconds=seconds,
        attention=mean_attention(trace.alphas),
    )


def side_by_side(face: OneFace, restored: Sequence[Column]) -> list[Column]:
    """Original (only where a face was degraded on purpose), Bicubic, then the models, all of one size.

    The size is the largest model's, at least 128; smaller pictures are enlarged, bicubic. Scores are of these pictures.
    """
    side = max([SHARP, *(column.pixels or 0 for column in restored if column.picture is not None)])
    if face.mode == "as_is":
        return [Column("Bicubic", face.degraded(side), face.pixels), *(_at(side, column) for column in restored)]
    original = face.crop(side)
    columns = [Column("Bicubic", face.degraded(side), SMALL), *(_at(side, column) for column in restored)]
    return [Column("Original", original, face.pixels), *(_scored(column, original) for column in columns)]


def best(columns: Sequence[Column]) -> str:
    """The model to look at first: of the highest PSNR where it is known, or else the last; Bicubic if all failed."""
    models = [column for column in reversed(columns) if column.seconds is not None]
    return max(models, key=lambda column: column.psnr or 0).name if models else "Bicubic"


def comparison_strip(columns: Sequence[Column], title: str) -> ndarray:
    """Every column with its name, facts and mean attention, (H,W,3) uint8; `columns` as `side_by_side` gives them."""
    side = max(_PANEL, *(len(column.picture) for column in columns if column.picture is not None))
    bold, text = _font(_TEXT + 2, "bold"), _font(_TEXT)
    names = [_wrap(plain(column.name), bold, side) for column in columns]
    captions = [_wrap("\n".join(column.lines()), text, side) for column in columns]
    width = 2 * _MARGIN + len(columns) * (side + _GAP) - _GAP
    notes = [PROTOCOL] * any(column.psnr is not None for column in columns)
    notes += [ATTENTION] * any(column.attention is not None for column in columns)
    foot = _wrap("\n".join(notes), text, width - 2 * _MARGIN)

    line = round(1.45 * _TEXT)
    name_top = _MARGIN + 2 * line
    top = name_top + max(map(len, names)) * (line + 3) + 4
    caption_top = top + side + 8
    maps_top = caption_top + max(map(len, captions)) * line + 10
    map_side = side // 2 if any(column.attention is not None for column in columns) else 0
    foot_top = maps_top + map_side + 12
    strip = Image.new("RGB", (width, foot_top + len(foot) * line + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(strip)

    def write(x: int, y: int, lines: list[str], font=text, color=_GREY, pitch=line) -> None:
        for i, words in enumerate(lines):
            draw.text((x, y + i * pitch), words, fill=color, font=font)

    write(_MARGIN, _MARGIN - 4, [plain(title)], _font(_TEXT + 3), _INK)
    for i, (column, name, caption) in enumerate(zip(columns, names, captions, strict=True)):
        x = _MARGIN + i * (side + _GAP)
        write(x, name_top, name, bold, _INK, line + 3)
        write(x, caption_top, caption)
        if column.picture is None:
            draw.rectangle((x, top, x + side - 1, top + side - 1), fill=_EMPTY)
            write(
                x + 12, top + 12, _wrap(plain(column.error or ""), text, side - 24)[: (side - 24) // line], color=_INK
            )
            continue
        picture = column.picture if len(column.picture) == side else resize(column.picture, side)
        strip.paste(Image.fromarray(picture), (x, top))
        if column.attention is not None:
            strip.paste(Image.fromarray(enlarge(colorize(column.attention), map_side)), (x, maps_top))
            write(x + map_side + 10, maps_top - 4, ["attention", f"mean {column.attention.mean():.2f}"])
    write(_MARGIN, foot_top, foot)
    return np.array(strip)


def _at(side: int, column: Column) -> Column:
    if column.picture is None or len(column.picture) == side:
        return column
    return replace(column, picture=resize(column.picture, side))


def _scored(column: Column, original: ndarray) -> Column:
    if column.picture is None:
        return column
    return replace(column, psnr=psnr(column.picture, original), ssim=ssim(column.picture, original))


@cache
def _font(size: int, weight: str = "normal") -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and so is the same everywhere."""
    return ImageFont.truetype(findfont(FontProperties(family="DejaVu Sans", weight=weight)), size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width` pixels, broken between words, or within one that is too long for a line."""
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            if line and font.getlength(f"{line} {word}") <= width:
                line += f" {word}"
                continue
            if line:
                lines.append(line)
            while font.getlength(word) > width:
                fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
                lines.append(word[:fits])
                word = word[fits:]
            line = word
        lines.append(line)
    return lines
