"""Pixels: the only border between files, photos and tensors.

untrusted bytes -> decode -> (H,W,3) uint8 RGB -> to_tensor -> (1,3,H,W) float32 [-1,1]
png bytes <- encode_png <- (H,W,3) uint8 RGB <- to_image <-----------------'
"""

import codecs
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import UserError
from .files import read_whole, save_bytes

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 40_000_000
MAX_BYTES = 8 * MAX_PIXELS + 100_000_000  # of a file: four channels of 16 bits, and what else may be in it
ACCEPTED = "JPEG, PNG, WebP, BMP and TIFF are accepted"

_FIRST_BYTES = {  # only to tell the user what was sent instead of a photo, or which photo is damaged
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"GIF8": "a GIF",
    b"PK\x03\x04": "a ZIP archive or an office document",
}


def decode(data: bytes) -> np.ndarray:
    """Untrusted file content -> (H,W,3) uint8 RGB as a viewer shows it; `UserError` says what is wrong with it.

    The first frame, upright by its EXIF orientation, over white where it is transparent, 16 bits scaled to 8; colour
    profiles and all other metadata are dropped.
    """
    if not data:
        raise UserError(f"The file is empty. Choose a photo: {ACCEPTED}.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)  # reads the header only
    except UnidentifiedImageError as error:
        raise UserError(_unreadable(data)) from error
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged headers, bombs included
        raise UserError(_unreadable(data, error)) from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(
                f"The picture has {image.width} x {image.height} pixels, which is more than "
                f"{MAX_PIXELS // 1_000_000} megapixels. Make it smaller and try again."
            )
        try:
            return _rgb(ImageOps.exif_transpose(image))
        except UserError:
            raise
        except Exception as error:  # the same for damaged or truncated pixels
            raise UserError(_unreadable(data, error)) from error


def load(path: str | Path) -> np.ndarray:
    """`decode` for a file; `UserError` names it."""
    data = read_whole(Path(path), MAX_BYTES)
    try:
        return decode(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def encode_png(image: np.ndarray) -> bytes:
    """(H,W,3) uint8 RGB -> a PNG file's content, without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(check_image(image)).save(buffer, "PNG")
    return buffer.getvalue()


def save_png(image: np.ndarray, path: str | Path) -> None:
    """Write (H,W,3) uint8 RGB as PNG; the file is there whole or not at all."""
    save_bytes(encode_png(image), path)


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """(H,W,3) uint8 -> (side,side,3) uint8, Pillow's bicubic, antialiased when it reduces."""
    return np.array(Image.fromarray(check_image(image)).resize((side, side), Image.Resampling.BICUBIC))


def degrade(image: np.ndarray, small: int) -> np.ndarray:
    """(S,S,3) uint8 -> (S,S,3) uint8 with the detail of small x small pixels: bicubic down, then up, as in training."""
    height, width, _ = check_image(image).shape
    if height != width:
        raise ValueError(f"the face is {width}x{height}, not square")
    return resize(resize(image, small), width)


def to_tensor(image: np.ndarray) -> Tensor:
    """(H,W,3) uint8 RGB -> (1,3,H,W) float32 in [-1,1]."""
    pixels = torch.from_numpy(check_image(image).copy())  # a view may have negative strides, which torch has not
    return pixels.permute(2, 0, 1)[None].float().contiguous() / 127.5 - 1


def to_image(face: Tensor) -> np.ndarray:
    """(3,H,W) or (1,3,H,W) in [-1,1] -> (H,W,3) uint8 RGB: clamped, scaled, rounded; NaN is a `ValueError`."""
    if face.ndim == 4 and len(face) == 1:
        face = face[0]
    if face.ndim != 3 or len(face) != 3:
        raise ValueError(f"the face has shape {tuple(face.shape)}; (3, H, W) or (1, 3, H, W) is expected")
    face = face.detach().float().cpu()
    if face.isnan().any():
        raise ValueError("the face has values that are not numbers")
    return ((face.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy()


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):  # Pillow clips these instead of scaling them
        values = np.asarray(image).astype(np.uint32)
        grey = ((values + 128) // 257).astype(np.uint8)
        if "transparency" in image.info:
            grey[values == image.info["transparency"]] = 255
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UserError("The picture has 32 bits a pixel, without a range that means white. Save it with 8 or 16 bits.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _unreadable(data: bytes, error: Exception | None = None) -> str:
    kind = next((kind for start, kind in _FIRST_BYTES.items() if data.startswith(start)), None)
    if kind and not kind.startswith("a "):
        reason = f" ({error})" if str(error or "") else ""
        return f"The {kind} file is damaged or incomplete{reason}. Save or download it again."
    if data[4:8] == b"ftyp":
        kind = "a HEIC, AVIF or video file"
    elif kind is None and _is_text(data):
        kind = "an SVG drawing" if b"<svg" in data[:1000].lower() else "a text"
    return f"The file is {kind or 'of an unknown kind'}, not a photo that can be read: {ACCEPTED}."


def _is_text(data: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data[:1000])  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)


def check_image(image: np.ndarray) -> np.ndarray:
    """The image itself; `ValueError` if it is not (H,W,3) uint8 RGB."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"an image is (H, W, 3) uint8 RGB, not {got}; sparnet.images.load makes one of a file")
    return image
