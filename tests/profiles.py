"""Colour profiles for tests, built byte by byte after ICC.1:2010, with the formula that each one states."""

import struct
from collections.abc import Callable

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
SRGB = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))  # XYZ of red, green, blue at D50
ADOBE_RGB = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
DISPLAY_P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))


def rgb_profile(primaries, gamma: float) -> bytes:
    tags = {f"{c}XYZ": _xyz(xyz) for c, xyz in zip("rgb", primaries, strict=True)}
    return _profile(b"RGB ", b"XYZ ", tags | {f"{c}TRC": _gamma(gamma) for c in "rgb"})


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", b"XYZ ", {"kTRC": _gamma(gamma)})


def cmyk_profile(lightness: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """Grey inks: L* 0..100 at the 16 corners (16,4) of the four inks, 0 or 1."""
    corners = np.array(np.meshgrid(*[[0, 1]] * 4, indexing="ij")).reshape(4, 16).T
    lab = np.stack((lightness(corners) * 2.55, np.full(16, 128), np.full(16, 128)), axis=1)
    identity = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + b"".join(map(_fixed, np.eye(3).ravel()))
    table += 4 * identity + np.rint(lab).astype(np.uint8).tobytes() + 3 * identity
    return _profile(b"CMYK", b"Lab ", {"A2B0": table, "A2B1": table}, b"prtr")


def to_srgb(pixels: np.ndarray, primaries, gamma: float) -> np.ndarray:
    """(...,3) 0..255 by `rgb_profile` -> float 0..255 sRGB, by the formulae of IEC 61966-2-1."""
    xyz = (pixels / 255.0) ** gamma @ np.array(primaries)
    return srgb_of_linear(xyz @ np.linalg.inv(np.array(SRGB)))


def srgb_of_linear(light: np.ndarray) -> np.ndarray:
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _profile(space: bytes, connection: bytes, tags: dict[str, bytes], kind: bytes = b"mntr") -> bytes:
    tags = {"wtpt": _xyz(D50), "cprt": b"text" + bytes(4) + b"none\0", "desc": _description()} | tags
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name.encode() + struct.pack(">II", at + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x02100000, kind, space, connection)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, D50))
    return head.ljust(128, b"\0") + table + body


def _description() -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)


def _xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _gamma(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma))


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))
