"""Make ICC profiles from primaries and a transfer curve."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trifocal.pictures.colour import is_srgb

Chromaticity = tuple[float, float]  # CIE 1931 x, y
Curve = tuple[float, ...]  # gamma, or gamma, a, b, c, d of ICC's parametric curve type 3
Matrix = NDArray[np.float64]

D65 = (0.3127, 0.3290)
D50_XYZ = (0.9642, 1.0, 0.8249)
SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SRGB = (D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))  # white, red, green, blue
ADOBE_RGB = (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_GAMMA: Curve = (563 / 256,)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

# Code points of ITU-T H.273. The transfer curves of video are treated as that of sRGB, as in browsers.
CODED_PRIMARIES = {
    1: SRGB,
    2: SRGB,  # not specified
    5: (D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (D65, (0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    7: (D65, (0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    9: (D65, (0.708, 0.292), (0.17, 0.797), (0.131, 0.046)),
    12: (D65, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
}
CODED_CURVES: dict[int, Curve] = dict.fromkeys((1, 2, 6, 13, 14, 15), SRGB_CURVE)
CODED_CURVES |= {4: (2.2,), 5: (2.8,), 8: (1.0,)}
HDR_CURVES = {16: "PQ", 18: "HLG"}


def make_profile(grey: bool, points: Sequence[Chromaticity], curve: Curve) -> bytes | None:
    """A version 4 ICC profile for RGB or grey, or None if it would be equivalent to sRGB.

    Args:
        grey: whether the profile is for grey pixels.
        points: chromaticities of white, red, green and blue.
        curve: the exponent, or the five parameters, from values in 0..1 to linear light.

    Raises:
        ValueError: if the chromaticities are invalid.
    """
    colours, adaptation = adapt_to_d50(points)
    if not grey and points == SRGB and curve == SRGB_CURVE or grey and curve == SRGB_CURVE:
        return None
    tags = {
        b"desc": localized_text("made by Trifocal"),
        b"cprt": localized_text("no copyright"),
        b"wtpt": xyz(D50_XYZ),
    }
    tags |= {b"chad": b"sf32" + bytes(4) + s15fixed16(*adaptation.ravel())}
    tone = b"para" + bytes(4) + struct.pack(">HH", 0 if len(curve) == 1 else 3, 0) + s15fixed16(*curve)
    if grey:
        tags |= {b"kTRC": tone}
    else:
        tags |= {name: xyz(colour) for name, colour in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colours.T)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone)
    profile = assemble(b"GRAY" if grey else b"RGB ", tags)
    return None if is_srgb(profile) else profile


def adapt_to_d50(points: Sequence[Chromaticity]) -> tuple[Matrix, Matrix]:
    """XYZ of red, green and blue as columns, adapted to D50 (Bradford), and the matrix of the adaptation."""
    if any(not (0 <= x <= 1 and 0 < y <= 1) for x, y in points):
        raise ValueError("these are not chromaticities")
    white, *colours = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in points)
    plain = np.stack(colours, axis=1)
    if abs(np.linalg.det(plain)) < 1e-6:
        raise ValueError("the primaries are collinear")
    scaled = plain * np.linalg.solve(plain, white)
    gains = (BRADFORD @ D50_XYZ) / (BRADFORD @ white)
    adaptation: Matrix = np.linalg.inv(BRADFORD) @ np.diag(gains) @ BRADFORD
    return adaptation @ scaled, adaptation


def assemble(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """The bytes of a display profile: header, tag table and tags; equal tags are stored once."""
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    offsets: dict[bytes, int] = {}
    for name, data in tags.items():
        if data not in offsets:
            offsets[data] = at + len(body)
            body += data + bytes(-len(data) % 4)
        table += name + struct.pack(">II", offsets[data], len(data))
    head = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x04300000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + s15fixed16(*D50_XYZ) + bytes(48)
    return head + table + body


def s15fixed16(*values: Any) -> bytes:
    """ICC's signed 15.16 fixed-point numbers, big-endian. Raises ValueError if a value is out of range."""
    try:
        return struct.pack(f">{len(values)}i", *(round(65536 * float(value)) for value in values))
    except (struct.error, OverflowError) as error:
        raise ValueError("a value is out of range") from error


def xyz(value: Sequence[float] | NDArray[np.float64]) -> bytes:
    """ICC's XYZType."""
    return b"XYZ " + bytes(4) + s15fixed16(*value)


def localized_text(content: str) -> bytes:
    """ICC's multiLocalizedUnicodeType with one string, in English."""
    data = content.encode("utf-16-be")
    return b"mluc" + struct.pack(">III2s2sII", 0, 1, 12, b"en", b"US", len(data), 28) + data
