"""Faces and what the degradation makes of them, on one picture, to look at.

    pictures -> one a row: sharp | grey? -> draw -> apply | another draw | ... -> sheet (H,W,3) uint8 -> OUT.png

Under every face stands what was done to it. The command is `python -m training.degradations`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from sparnet import images
from sparnet.errors import UserError
from sparnet.files import check_folder, check_targets
from sparnet.folders import check_outside
from sparnet.text import plain
from training.command import run_command
from training.data import centre_view, index_pictures
from training.degradations import Blind, apply, random_grey

CELL = 256  # px a face is shown at; a degraded face has the detail of 128 at most
LINE = 20  # px
LINES = 5  # grey, blur, reduced, noise, JPEG
GAP = 8  # px


def main(
    source: Annotated[Path, typer.Argument(metavar="IN", help="a picture, a folder of pictures or a tar shard")],
    out: Annotated[Path, typer.Argument(metavar="OUT.png", help="where the sheet is written")],
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="the same seed draws the same sheet")] = 0,
    rows: Annotated[int, typer.Option(min=1, max=100, help="faces; one picture alone is drawn in every row")] = 4,
    columns: Annotated[int, typer.Option(min=2, max=100, help="the sharp face and its degradations")] = 6,
    size: Annotated[int, typer.Option(min=8, max=2048, help="of the network; the blurs are scaled to it")] = 512,
) -> None:
    """Draw a sheet of sharp faces, each followed by independent draws of SPARNetHD's degradation, with captions."""
    if out.suffix.lower() != ".png":
        raise UserError(f"{out} is not the name of a PNG file; call it {out.stem or 'sheet'}.png.")
    check_outside(out, [source])
    check_folder(out)
    items = index_pictures([source]).items
    check_targets([("the sheet", out)], (Path(item.path) for item in items))
    faces = []
    for i in np.random.default_rng(seed).permutation(len(items)):
        try:
            faces.append(centre_view(items[i].picture(), size))
        except UserError as error:
            if len(items) == 1:
                raise
            print(f"left out: {plain(str(error))}", file=sys.stderr)
        if len(faces) == rows:
            break
    if len(items) == 1:
        faces = faces * rows
    if not faces:
        raise UserError(f"None of the {len(items)} pictures in {source} can be read.")
    images.save_png(degradation_sheet(faces, columns, seed), out)
    print(f"{plain(str(out))}: {len(faces)} faces of {size} px, {columns - 1} degradations each, seed {seed}")


def degradation_sheet(faces: Sequence[ndarray], columns: int, seed: int) -> ndarray:
    """One row for each face (S,S,3) uint8: sharp, then columns - 1 degradations of it, captioned; (H,W,3) uint8.

    A cell is seeded by (seed, row, column): more rows or columns leave the cells that were there as they are.
    """
    high, wide = CELL + LINES * LINE + GAP, CELL + GAP
    sheet = Image.new("RGB", (columns * wide + GAP, len(faces) * high + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, sharp in enumerate(faces):
        for column in range(columns):
            face, caption = (sharp, ["sharp"]) if column == 0 else degrade(sharp, (seed, row, column))
            x, y = GAP + column * wide, GAP + row * high
            sheet.paste(Image.fromarray(images.resize(face, CELL)), (x, y))
            for line, text in enumerate(caption):
                pen.text((x, y + CELL + 2 + line * LINE), text, "black", font)
    return np.array(sheet)


def degrade(sharp: ndarray, seed: tuple[int, ...]) -> tuple[ndarray, list[str]]:
    """A face as training would draw it, perhaps grey, and what was done to it, a line for each stage."""
    generator = np.random.default_rng(seed)
    target = random_grey(sharp, generator)
    stages = Blind().at(len(sharp)).draw(generator)
    caption = [] if np.array_equal(target, sharp) else ["grey (the sharp face too)"]
    return apply(target, stages), caption + [str(stage) for stage in stages]


if __name__ == "__main__":
    run_command(main)
