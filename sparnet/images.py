"""Pixels: the only border between files, photos and tensors.

untrusted bytes -> decode -> (H,W,3) uint8 sRGB -> to_tensor -> (1,3,H,W) float32 [-1,1]
png bytes <- encode_png <- (H,W,3) uint8 sRGB <- to_image <-----------------'
untrusted bytes -> decode_photo -> Decoded: pixels, what is transparent, notes -> encode_png
"""

import codecs
import io
import warnings
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .errors import UserError
from .files import read_whole, save_bytes

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 40_000_000
MAX_BYTES = 8 * MAX_PIXELS + 100_000_000  # of a file: four channels of 16 bits, and what else may be in it
MAX_PROFILE = 4 * 2**20  # bytes of a colour profile; the largest of printing presses have three million
MAX_SCANS = 100  # of a progressive JPEG, as libtiff allows; one costs 26 bytes and a pass over all pixels
ACCEPTED = "JPEG, PNG, WebP, BMP and TIFF are accepted"

_FIRST_BYTES = {  # only to tell the user what was sent instead of a photo, or which photo is damaged
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"GIF8": "a GIF",
    b"PK\x03\x04": "a ZIP archive or an office document",
}

_SCAN = b"\xff\xda"  # a JPEG's marker; within compressed pixels no such bytes follow each other

# How many of 255 levels a profile may move a colour and still be sRGB: profiles of sRGB differ by their rounding.
_SRGB_TOLERANCE = 1
_GREY_MODES = ("1", "L", "LA", "La")
_SAMPLES = {2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}  # of TIFF's tag 339


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded photo, with what its pixels alone do not tell."""

    pixels: np.ndarray  # (H,W,3) uint8 sRGB, over white where it is transparent
    alpha: np.ndarray | None = None  # (H,W) uint8, 255 is opaque; None: all of it is
    notes: tuple[str, ...] = ()  # sentences for the user


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The pixels of `decode_photo`; what it notes is a warning."""
    photo = decode_photo(data, max_pixels)
    for note in photo.notes:
        warnings.warn(note, stacklevel=2)
    return photo.pixels


def decode_photo(data: bytes, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Untrusted file content -> `Decoded` as a viewer shows it; `UserError` says what is wrong with it.

    The first frame, upright by its EXIF orientation, its colours taken to sRGB by the profile in it, over white where
    it is transparent, 16 bits scaled to 8; all other metadata is dropped. A profile that cannot be used is noted.
    """
    if not data:
        raise UserError(_unreadable(data))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)  # reads the header only
    except UnidentifiedImageError as error:
        raise UserError(_unreadable(data)) from error
    except Image.DecompressionBombError as error:
        raise UserError(_too_large("hundreds of megapixels", max_pixels)) from error
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged headers
        raise UserError(_unreadable(data, error)) from error
    with image:
        if image.width * image.height > max_pixels:
            raise UserError(_too_large(f"{image.width} x {image.height} pixels", max_pixels))
        if image.format in ("JPEG", "MPO") and data.count(_SCAN) > MAX_SCANS:
            raise UserError(f"The JPEG file builds its picture in more than {MAX_SCANS} passes. Save it again.")
        try:
            return _photo(ImageOps.exif_transpose(image))
        except UserError:
            raise
        except Exception as error:  # the same for damaged or truncated pixels
            raise UserError(_unreadable(data, error)) from error


def check_first_bytes(data: bytes) -> None:
    """`UserError` unless a file that begins so, with 12 bytes or more, can be a photo."""
    kind = next((kind for start, kind in _FIRST_BYTES.items() if data.startswith(start)), "a ")
    if kind.startswith("a ") or (kind == "WebP" and data[8:12] != b"WEBP"):
        raise UserError(_unreadable(data))


def load(path: str | Path) -> np.ndarray:
    """`decode` for a file; `UserError` names it."""
    return _of_file(path, decode)


def load_photo(path: str | Path) -> Decoded:
    """`decode_photo` for a file; `UserError` names it."""
    return _of_file(path, decode_photo)


def encode_png(image: np.ndarray, alpha: np.ndarray | None = None, description: str | None = None) -> bytes:
    """(H,W,3) uint8 sRGB -> a PNG file's content, with no metadata but the text chunk Description, where one is given.

    alpha: (H,W) uint8, as in `Decoded`: the PNG is transparent like the photo, and over white it shows the image.
    """
    picture = Image.fromarray(check_image(image))
    if alpha is not None:
        share = alpha[..., None].astype(np.float32) / 255
        colours = 255 - (255 - image.astype(np.float32)) / np.maximum(share, 1 / 255)
        picture = Image.fromarray(np.dstack((np.rint(colours.clip(0, 255)).astype(np.uint8), alpha)))
    buffer, chunks = io.BytesIO(), PngInfo()
    if description is not None:
        chunks.add_itxt("Description", description)
    picture.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def save_png(
    image: np.ndarray, path: str | Path, alpha: np.ndarray | None = None, description: str | None = None
) -> None:
    """Write (H,W,3) uint8 sRGB as PNG, see `encode_png`; the file is there whole or not at all."""
    save_bytes(encode_png(image, alpha, description), path)


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


def is_grey(image: np.ndarray) -> bool:
    """Whether (H,W,3) has no colour anywhere: red = green = blue."""
    red, green, blue = np.moveaxis(image, 2, 0)
    return np.array_equal(red, green) and np.array_equal(green, blue)


def to_grey(image: np.ndarray) -> np.ndarray:
    """(H,W,3) uint8 RGB -> the same without colour, the luma of ITU-R BT.601 in all three channels."""
    return np.array(Image.fromarray(check_image(image)).convert("L").convert("RGB"))


def _of_file(path: str | Path, decoder):
    data = read_whole(Path(path), MAX_BYTES)
    try:
        return decoder(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _photo(image: Image.Image) -> Decoded:
    info, alpha = image.info, None
    if image.mode.startswith("I;16"):  # Pillow clips these instead of scaling them
        values = np.asarray(image).astype(np.uint32)
        if "transparency" in info:
            alpha = Image.fromarray(np.where(values == info["transparency"], 0, 255).astype(np.uint8))
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UserError("The picture has 32 bits a pixel, without a range that means white. Save it with 8 or 16 bits.")
    elif image.has_transparency_data:
        grey = image.mode in _GREY_MODES
        image = image.convert("LA" if grey else "RGBA")
        alpha, image = image.getchannel("A"), image.convert("L" if grey else "RGB")
    notes = ()
    if "icc_profile" in info:
        image, notes = _to_srgb(image, info["icc_profile"])
    image = image.convert("RGB")
    if alpha is None or alpha.getextrema()[0] == 255:
        return Decoded(np.array(image), None, notes)
    over_white = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return Decoded(np.array(over_white), np.array(alpha), notes)


def _to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture in sRGB by the colour profile in it, and a note if that cannot be used; grey stays grey."""
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")  # of a palette, for example
    transform, fault = _transform(profile, image.mode)
    if fault:
        note = f"The picture's colour profile {fault} and was ignored: colours may look wrong. Save it as sRGB."
        return image, (note,)
    if transform is None:
        return image, ()
    converted = transform.apply(image.convert(transform.input_mode))
    return converted.convert("L") if image.mode == "L" else converted, ()


@lru_cache(8)  # pictures of one source have one profile; at most 8 x MAX_PROFILE are kept
def _transform(profile: bytes | None, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str | None]:
    """From an untrusted profile to sRGB, for pictures of mode L, RGB or CMYK, and what is wrong with it.

    Neither where it is sRGB. Relative colorimetric with black point compensation, as image editors do by default.
    """
    if not isinstance(profile, bytes):
        return None, "is damaged"  # so Pillow has it
    if len(profile) > MAX_PROFILE:
        return None, f"has {len(profile) / 1e6:.1f} MB, more than is read,"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()  # pyright: ignore[reportAttributeAccessIssue]: Pillow's annotation
        if space not in _CHARTS:
            return None, "is of a kind that is not read here"
        if space != mode and (space, mode) not in (("GRAY", "L"), ("RGB", "L")):
            return None, f"is for {space} pixels, not for {mode} ones,"
        chart = _CHARTS[space]
        transform = ImageCms.ImageCmsTransform(
            source,
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            chart.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        colours = np.asarray(transform.apply(chart)).astype(int)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # what Pillow makes of LittleCMS's errors
        return None, "is damaged"
    darkest, lightest = (colours[0, 0], colours[-1, -1]) if space != "CMYK" else (colours[-1, -1], colours[0, 0])
    if lightest.min() < 192 or darkest.max() > 96 or not 24 < colours.mean() < 232:
        return None, "makes white dark or everything black or white"
    same = space != "CMYK" and np.abs(colours - np.asarray(chart.convert("RGB"))).max() <= _SRGB_TOLERANCE
    return (None if same else transform), None


def _chart(mode: str, steps: int) -> Image.Image:
    """Every colour of `steps` levels a channel, from all 0 to all 255."""
    levels = np.linspace(0, 255, steps).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(*[levels] * len(Image.new(mode, (1, 1)).getbands()), indexing="ij"), axis=-1)
    colours = colours.reshape(steps, -1, colours.shape[-1])
    return Image.fromarray(colours[..., 0] if mode == "L" else colours, mode)


_CHARTS = {"GRAY": _chart("L", 52), "RGB": _chart("RGB", 18), "CMYK": _chart("CMYK", 3)}  # by a profile's colour space


def _too_large(size: str, max_pixels: int) -> str:
    most = max_pixels // 1_000_000
    return f"The picture has {size}, which is more than {most} megapixels. Make it smaller and try again."


def _unreadable(data: bytes, error: Exception | None = None) -> str:
    if not data:
        return f"The file is empty. Choose a photo: {ACCEPTED}."
    kind = next((kind for start, kind in _FIRST_BYTES.items() if data.startswith(start)), None)
    if kind == "TIFF" and error is None and (samples := _tiff_samples(data)):
        return f"The TIFF file holds {samples}, which cannot be read here. Save it with 8 or 16 bits a channel."
    if "MAX_TEXT_CHUNK" in str(error or ""):
        return f"The {kind} file holds a colour profile or a text of more than 1 MB. Save it without."
    if kind and not kind.startswith("a "):
        reason = f" ({error})" if str(error or "") else ""
        return f"The {kind} file is damaged or incomplete{reason}. Save or download it again."
    if data[4:8] == b"ftyp":
        kind = "a HEIC, AVIF or video file"
    elif kind is None and _is_text(data):
        kind = "an SVG drawing" if b"<svg" in data[:1000].lower() else "a text"
    return f"The file is {kind or 'of an unknown kind'}, not a photo that can be read: {ACCEPTED}."


def _tiff_samples(data: bytes) -> str | None:
    """What the pixels of a TIFF are that Pillow does not know; None if the tags that say so are damaged."""
    file = io.BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if 43 in data[2:4] else 8))
        file.seek(tags.next)
        tags.load(file)
        kind = _SAMPLES.get(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0], "")
        bits, channels = max(tags[TiffImagePlugin.BITSPERSAMPLE]), tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        return f"{channels} x {bits}-bit {kind}samples (compression {tags.get(TiffImagePlugin.COMPRESSION, 1)})"
    except Exception:  # the same as above
        return None


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


def data_url(image: bytes, kind: str = "png") -> str:
    """An encoded picture as the address of an <img>, for pages that ask no server."""
    return f"data:image/{kind};base64,{b64encode(image).decode()}"


def preview(image: np.ndarray, side: int = 1280) -> str:
    """A picture (H,W,3) uint8 for a screen, no result: a JPEG of at most `side` pixels a side, as a data URL."""
    file, picture = io.BytesIO(), Image.fromarray(image)
    picture.thumbnail((side, side))
    picture.save(file, "JPEG", quality=92)
    return data_url(file.getvalue(), "jpeg")
