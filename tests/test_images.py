"""Decoding untrusted files, and the border between pixels and tensors."""

import io
import re
import struct
import warnings
import zlib

import cv2
import numpy as np
import profiles
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from sparnet import images
from sparnet.errors import UserError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def photo(rng):
    """(40,56,3): smooth, so that lossy formats keep it."""
    return cv2.resize(rng.integers(0, 256, (5, 7, 3), np.uint8), (56, 40), interpolation=cv2.INTER_CUBIC)


def encoded(image, format, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


def by_opencv(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_give_the_pixels_that_were_written_and_that_opencv_reads(photo, format, options):
    data = encoded(photo, format, **options)
    assert np.array_equal(images.decode(data), photo)
    assert np.array_equal(images.decode(data), by_opencv(data))


def test_jpeg_is_decoded_as_opencv_does(photo):
    data = encoded(photo, "JPEG", quality=95)
    assert np.abs(images.decode(data).astype(int) - by_opencv(data)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_opencv_does(photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo, "JPEG", quality=95, exif=exif.tobytes())
    decoded, expected = images.decode(data), by_opencv(data)
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= 3


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_composited_over_white(photo, rng, format):
    alpha = rng.integers(0, 256, photo.shape[:2], np.uint8)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    data = encoded(np.dstack((photo, alpha)), format, **options)
    a = alpha[..., None] / 255
    assert np.abs(images.decode(data) - (photo * a + 255 * (1 - a))).max() <= 1


def test_grey_with_alpha_is_composited_over_white(rng):
    grey, alpha = rng.integers(0, 256, (2, 9, 11), np.uint8)
    decoded = images.decode(encoded(Image.fromarray(np.dstack((grey, alpha)), "LA"), "PNG"))
    expected = grey * (alpha / 255) + 255 - alpha
    assert np.abs(decoded - expected[..., None]).max() <= 1


def test_a_transparent_palette_colour_becomes_white_and_the_others_stay():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 250])
    decoded = images.decode(encoded(image, "PNG", transparency=1))
    assert decoded.tolist() == [[[10, 20, 30], [255, 255, 255]], [[0, 0, 250], [255, 255, 255]]]


def test_16_bit_grey_is_scaled_not_clipped(rng):
    values = rng.integers(0, 65536, (20, 30), np.uint16)
    values[0, :2] = 0, 65535
    for data in (encoded(values, "PNG"), encoded(values, "TIFF"), cv2.imencode(".png", values)[1].tobytes()):
        decoded = images.decode(data)
        assert np.array_equal(decoded, np.repeat(np.rint(values / 257).astype(np.uint8)[..., None], 3, 2))


def test_a_transparent_value_of_16_bit_grey_becomes_white():
    values = np.array([[1000, 2000]], np.uint16)
    decoded = images.decode(encoded(values, "PNG", transparency=1000))
    assert decoded[0, 0].tolist() == [255] * 3
    assert decoded[0, 1].tolist() == [8] * 3


def test_16_bit_colour_keeps_its_brightness(rng):
    values = rng.integers(0, 65536, (20, 30, 3), np.uint16)
    decoded = images.decode(cv2.imencode(".png", values[..., ::-1])[1].tobytes())
    assert np.abs(decoded - values / 257).max() <= 1


def test_32_bit_pixels_are_refused_because_white_is_unknown():
    with pytest.raises(UserError, match="32 bits"):
        images.decode(encoded(np.ones((4, 4), np.float32), "TIFF"))


@pytest.mark.parametrize(("kind", "channels"), [(cv2.CV_32F, 3), (cv2.CV_64F, 1), (cv2.CV_64F, 3)])
def test_a_floating_point_tiff_is_called_that_and_not_damaged(kind, channels):
    values = np.ones((4, 4, channels), np.float32 if kind == cv2.CV_32F else np.float64)
    data = cv2.imencode(".tiff", values)[1].tobytes()
    with pytest.raises(
        UserError, match=rf"{channels} x (32|64)-bit floating-point .*Save it with 8 or 16 bits"
    ) as told:
        images.decode(data)
    assert "damaged" not in str(told.value)
    with pytest.raises(UserError, match="damaged"):
        images.decode(data[:20])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("primaries", "gamma"), [(profiles.ADOBE_RGB, 563 / 256), (profiles.DISPLAY_P3, 2.2)])
def test_colours_of_a_profile_are_taken_to_srgb_by_its_own_formula(rng, format, primaries, gamma):
    colours = np.repeat(np.repeat(rng.integers(30, 226, (4, 6, 3), np.uint8), 16, 0), 16, 1)
    options = {"lossless": True} if format == "WEBP" else {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    with_profile = encoded(colours, format, icc_profile=profiles.rgb_profile(primaries, gamma), **options)
    decoded = images.decode_photo(with_profile)
    stored = images.decode(encoded(colours, format, **options))
    assert np.abs(decoded.pixels - profiles.to_srgb(stored, primaries, gamma)).max() < 1.5
    assert np.abs(decoded.pixels.astype(int) - colours).max() > 15  # what used to be lost
    assert decoded.notes == ()


def test_transparent_and_palette_pictures_are_converted_too(rng):
    profile = profiles.rgb_profile(profiles.DISPLAY_P3, 2.2)
    colours = rng.integers(0, 256, (8, 8, 3), np.uint8)
    expected = profiles.to_srgb(colours, profiles.DISPLAY_P3, 2.2)
    decoded = images.decode_photo(
        encoded(np.dstack((colours, np.full((8, 8), 51))).astype(np.uint8), "PNG", icc_profile=profile)
    )
    assert np.abs(decoded.pixels - (0.2 * expected + 0.8 * 255)).max() < 2
    palette = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8), "P")
    palette.putpalette(colours.tobytes())
    assert np.abs(images.decode(encoded(palette, "PNG", icc_profile=profile)) - expected).max() < 1.5


@pytest.mark.parametrize("profile", [profiles.grey_profile(1.8), profiles.rgb_profile(profiles.ADOBE_RGB, 1.8)])
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_stays_grey_under_a_profile_of_grey_or_of_colours(rng, profile, bits):
    grey = rng.integers(0, 2**bits, (9, 7), np.uint8 if bits == 8 else np.uint16)
    decoded = images.decode_photo(encoded(grey, "PNG", icc_profile=profile))
    assert decoded.notes == ()
    assert images.is_grey(decoded.pixels)
    eight = np.rint(grey / (1 if bits == 8 else 257))
    assert np.abs(decoded.pixels[..., 0] - profiles.srgb_of_linear((eight / 255) ** 1.8)).max() < 3


def test_cmyk_follows_its_profile_where_it_has_one(rng):
    inks = rng.integers(0, 256, (8, 8, 4), np.uint8)
    profile = profiles.cmyk_profile(lambda corners: 100 - 25 * corners.sum(axis=1))
    decoded = images.decode(encoded(Image.fromarray(inks, "CMYK"), "TIFF", icc_profile=profile))
    lightness = 100 * (1 - inks.mean(axis=2) / 255)
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)  # CIE 1976
    assert np.abs(decoded - profiles.srgb_of_linear(light)[..., None]).max() < 2


def test_profiles_of_srgb_leave_every_pixel_as_it_is(rng):
    colours = rng.integers(0, 256, (64, 64, 3), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    decoded = images.decode_photo(encoded(colours, "PNG", icc_profile=profile))
    assert np.array_equal(decoded.pixels, colours)
    assert decoded.notes == ()


BLACK = ((0.0, 0.0, 0.0),) * 3


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (b"no profile at all", "damaged"),
        (profiles.rgb_profile(profiles.SRGB, 2.2)[:300], "damaged"),
        (profiles.grey_profile(2.2), "GRAY pixels, not for RGB"),
        (profiles.rgb_profile(BLACK, 2.2), "damaged|white dark"),
        (profiles.rgb_profile(profiles.SRGB, 200), "everything black"),
    ],
)
def test_a_profile_that_cannot_be_used_is_ignored_in_words(photo, format, profile, words):
    decoded = images.decode_photo(encoded(photo, format, icc_profile=profile))
    assert re.search(f"colour profile .*({words}).*ignored", decoded.notes[0])
    assert np.array_equal(decoded.pixels, images.decode(encoded(photo, format)))
    with pytest.warns(UserWarning, match="colour profile"):  # for those who cannot be shown a note
        images.decode(encoded(photo, format, icc_profile=profile))


def test_a_huge_profile_is_not_even_read(photo):
    profile = profiles.rgb_profile(profiles.ADOBE_RGB, 2.2).ljust(images.MAX_PROFILE + 1, b"\0")
    for format in ("JPEG", "WEBP", "TIFF"):
        decoded = images.decode_photo(encoded(photo, format, icc_profile=profile))
        assert "4.2 MB" in decoded.notes[0]
        assert np.array_equal(decoded.pixels, images.decode(encoded(photo, format)))
    with pytest.raises(UserError, match="profile or a text of more than 1 MB"):  # Pillow's own limit, of a PNG
        images.decode(encoded(photo, "PNG", icc_profile=profile))


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_of_a_profile_never_raise(photo, rng):
    kinds = {
        "RGB": profiles.rgb_profile(profiles.ADOBE_RGB, 2.2),
        "L": profiles.grey_profile(1.8),
        "CMYK": profiles.cmyk_profile(lambda corners: 100 - 25 * corners.sum(axis=1)),
    }
    outcomes = set()
    for _ in range(20):
        for mode, profile in kinds.items():
            damaged = bytearray(profile)
            for _ in range(rng.integers(1, 8)):
                damaged[rng.integers(min(len(damaged), 420))] = rng.choice([0, 1, 128, 255])
            decoded = images.decode_photo(
                encoded(Image.fromarray(photo[:8, :8]).convert(mode), "TIFF", icc_profile=bytes(damaged))
            )
            outcomes.add(bool(decoded.notes))
    assert outcomes == {True, False}


def test_a_transparent_photo_is_written_as_transparent_as_it_was(photo, rng):
    alpha = rng.integers(0, 256, photo.shape[:2], np.uint8)
    alpha[:2], alpha[2:4] = 0, 255
    decoded = images.decode_photo(encoded(np.dstack((photo, alpha)), "PNG"))
    assert np.array_equal(decoded.alpha, alpha)
    written = np.asarray(Image.open(io.BytesIO(images.encode_png(decoded.pixels, decoded.alpha)))).astype(float)
    assert np.array_equal(written[..., 3], alpha)
    assert np.array_equal(written[2:4, :, :3], photo[2:4])
    share = alpha[..., None] / 255
    for background in (0, 90, 255):  # it shows there what the photo shows there
        shown, before = (share * colours + (1 - share) * background for colours in (written[..., :3], photo))
        assert np.abs(shown - before).max() <= 1.5


def test_a_photo_that_is_opaque_everywhere_has_no_transparency(photo):
    opaque = np.dstack((photo, np.full(photo.shape[:2], 255, np.uint8)))
    assert images.decode_photo(encoded(opaque, "PNG")).alpha is None
    assert images.decode_photo(encoded(photo, "JPEG")).alpha is None


def test_transparency_is_turned_upright_with_the_pixels(photo):
    alpha = np.zeros(photo.shape[:2], np.uint8)
    alpha[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    decoded = images.decode_photo(encoded(np.dstack((photo, alpha)), "PNG", exif=exif))
    assert np.array_equal(decoded.alpha, alpha[::-1, ::-1])


def test_grey_is_known_and_made_by_the_luma_of_bt_601(rng):
    colours = rng.integers(0, 256, (9, 7, 3), np.uint8)
    grey = images.to_grey(colours)
    assert images.is_grey(grey)
    assert not images.is_grey(colours)
    assert np.abs(grey[..., 0] - colours @ (0.299, 0.587, 0.114)).max() < 1
    assert np.array_equal(images.to_grey(grey), grey)


def test_cmyk_follows_the_printing_formula(rng):
    cmyk = rng.integers(0, 256, (8, 8, 4), np.uint8)
    decoded = images.decode(encoded(Image.fromarray(cmyk, "CMYK"), "TIFF"))
    expected = (255 - cmyk[..., :3].astype(float)) * (255 - cmyk[..., 3:]) / 255
    assert np.abs(decoded - expected).max() <= 1


def test_grey_and_one_bit_become_three_equal_channels(rng):
    grey = rng.integers(0, 256, (9, 7), np.uint8)
    assert np.array_equal(images.decode(encoded(grey, "PNG")), np.repeat(grey[..., None], 3, 2))
    bits = grey > 127
    decoded = images.decode(encoded(Image.fromarray(bits), "PNG"))
    assert np.array_equal(decoded, np.repeat(bits[..., None], 3, 2) * np.uint8(255))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame(photo, format):
    frames = [Image.fromarray(photo), Image.fromarray(255 - photo)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert np.array_equal(images.decode(data), photo)


def test_no_metadata_survives_a_round_trip(photo):
    info = PngImagePlugin.PngInfo()
    info.add_text("place", "home")
    exif = Image.Exif()
    exif[0x010E] = "secret"
    written = images.encode_png(images.decode(encoded(photo, "PNG", pnginfo=info, exif=exif)))
    assert b"home" not in written
    assert b"secret" not in written
    assert Image.open(io.BytesIO(written)).info == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"this is a letter\n" * 50, "a text"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>', "SVG"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;", "GIF"),
        (bytes(range(200, 256)) * 3, "unknown kind"),
    ],
)
def test_what_is_not_a_photo_is_named_with_what_is_accepted(data, message):
    with pytest.raises(UserError, match=message) as caught:
        images.decode(data)
    assert "JPEG, PNG, WebP, BMP and TIFF" in str(caught.value)


def test_a_bomb_is_called_too_large_and_not_damaged():
    data = bytearray(encoded(Image.new("L", (1, 1)), "BMP"))
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    with pytest.raises(UserError, match=r"^The picture has hundreds of megapixels, which is more than 40 megapixels"):
        images.decode(bytes(data))


def test_a_jpeg_of_more_passes_than_any_program_makes_is_refused_before_it_is_decoded(photo):
    """A pass costs 26 bytes and the time of all pixels: 40 MB would take hours."""
    data = encoded(photo, "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    more = [data[:-2] + last * count + data[-2:] for count in (20, images.MAX_SCANS)]
    assert images.decode(more[0]).shape == photo.shape
    with pytest.raises(UserError, match=r"more than 100 passes\. Save it again\.$"):
        images.decode(more[1])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_called_damaged_by_its_format(photo, format):
    data = encoded(photo, format)
    with pytest.raises(UserError, match=rf"(?i){format}.*damaged"):
        images.decode(data[: len(data) // 2])


def test_too_many_pixels_are_refused_from_the_header_alone():
    def png(width, height):
        header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
        start = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + zlib.crc32(header).to_bytes(4, "big")
        return start + b"\0\0\0\0IDAT5\xaf\x06\x1e"

    with pytest.raises(UserError, match=r"8000 x 5001 pixels.* 40 megapixels"):
        images.decode(png(8000, 5001))
    with pytest.raises(UserError, match="damaged"):  # 40 megapixels pass the check and fail on their missing pixels
        images.decode(png(8000, 5000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for side in (10_000, 60_000):  # where Pillow itself warns, and refuses
            with pytest.raises(UserError):
                images.decode(png(side, side))


def test_warnings_of_pillow_reach_the_caller(photo):
    corrupt = encoded(photo, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\0\x01")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert images.decode(corrupt).shape == photo.shape
    assert any("EXIF" in str(warning.message) for warning in caught)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_damaged_bytes_give_an_image_or_a_user_error_and_nothing_else(photo, rng, format):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if format == "BMP" else {"exif": exif.tobytes()}
    valid = bytearray(encoded(photo, format, **options))
    outcomes = set()
    for _ in range(300):
        data = bytearray(valid)
        for _ in range(rng.integers(1, 6)):
            region = len(data) if rng.random() < 0.5 else min(len(data), 120)  # headers more often
            data[rng.integers(region)] = rng.integers(256)
        if rng.random() < 0.3:
            data = data[: rng.integers(len(data))]
        try:
            image = images.decode(bytes(data))
        except UserError:
            outcomes.add("error")
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
            outcomes.add("image")
    assert outcomes == {"image", "error"}


def test_load_names_the_file_in_its_errors(tmp_path, photo):
    images.save_png(photo, tmp_path / "a.png")
    assert np.array_equal(images.load(tmp_path / "a.png"), photo)
    (tmp_path / "b.jpg").write_text("not a photo")
    for name in ("b.jpg", "missing.png", "."):
        with pytest.raises(UserError, match=str(tmp_path / name)):
            images.load(tmp_path / name)


def test_a_written_file_is_whole_readable_by_others_and_alone(tmp_path, photo):
    (tmp_path / "a.png").write_bytes(b"old")
    images.save_png(photo, tmp_path / "a.png")
    assert np.array_equal(by_opencv((tmp_path / "a.png").read_bytes()), photo)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_unwritable_place_is_a_user_error_and_leaves_nothing(tmp_path, photo):
    for target in (tmp_path / "nowhere" / "a.png", tmp_path / "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="cannot be written"):
            images.save_png(photo, target)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_degrade_is_pillow_bicubic_down_then_up(rng):
    face = rng.integers(0, 256, (128, 128, 3), np.uint8)
    small = Image.fromarray(face).resize((16, 16), Image.BICUBIC)
    expected = np.asarray(small.resize((128, 128), Image.BICUBIC))
    assert np.array_equal(images.degrade(face, 16), expected)
    with pytest.raises(ValueError, match="not square"):
        images.degrade(face[:100], 16)


def test_every_pixel_value_survives_the_way_to_a_tensor_and_back():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    ramp[..., 1] = ramp[..., 0].T
    tensor = images.to_tensor(ramp)
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert (tensor.min(), tensor.max()) == (-1, 1)
    expected = (ramp / 255 - 0.5) / 0.5
    assert np.abs(tensor[0].numpy().transpose(1, 2, 0) - expected).max() < 1e-6
    assert np.array_equal(images.to_image(tensor), ramp)
    assert np.array_equal(images.to_image(tensor[0].bfloat16().double()), images.to_image(tensor.bfloat16()))


def test_out_of_range_values_are_clamped_and_nan_is_refused():
    values = torch.tensor([-3.0, -1, 0.0039, 1, 3, float("inf")]).view(1, 1, 6).expand(3, 1, 6)
    assert images.to_image(values)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]
    with pytest.raises(ValueError, match="not numbers"):
        images.to_image(torch.full((3, 2, 2), torch.nan))
    with pytest.raises(ValueError, match="shape"):
        images.to_image(torch.zeros(2, 3, 4, 4))


def test_what_is_not_rgb_uint8_is_refused_at_the_border(photo):
    for wrong in (photo.astype(np.float32), photo[..., 0], np.dstack((photo, photo)), Image.fromarray(photo)):
        for function in (images.to_tensor, images.encode_png):
            with pytest.raises(ValueError, match="uint8 RGB"):
                function(wrong)
    mirrored = photo[:, ::-1]  # a view with negative strides
    assert np.array_equal(images.to_image(images.to_tensor(mirrored)), mirrored)
