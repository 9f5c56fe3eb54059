"""Colour descriptions that Pillow does not read, and ICC profiles made from them."""

import struct
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from PIL import Image

from trifocal.pictures.profiles import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    CODED_CURVES,
    CODED_PRIMARIES,
    HDR_CURVES,
    SRGB,
    SRGB_CURVE,
    make_profile,
)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SRGB_GAMMA, GAMMA_TOLERANCE = 0.45455, 0.001  # the gAMA value that files use for sRGB
CHROMATICITY_TOLERANCE = 0.002
GAIN_MAP_SIGNATURES = (b"hdrgm:", b"hdr-gain-map", b'Semantic="GainMap"', b"HDRGainMap")
GAIN_MAP_SEGMENT = b"urn:iso:std:iso:ts:21496:-1"
BMP_HEADER, BMP_V5_END = 14, 14 + 124  # bytes of the file header, and up to the end of a version 5 header
BMP_EMBEDDED = b"MBED"[::-1]  # colour space type, little-endian
APPLE_GAIN_MAP = "urn:com:apple:photo:2020:aux:hdrgainmap"

CodePoints = tuple[int, int]  # colour primaries and transfer characteristics of ITU-T H.273


def read_code_points(image: Image.Image, start: bytes) -> CodePoints | None:
    """The colour code points of a PNG, AVIF or HEIC file that starts with the bytes `start`, or None."""
    return png_cicp(start) or nclx_code_points(image, start)


def is_hdr(codes: CodePoints | None) -> bool:
    """Whether the transfer characteristics are PQ or HLG."""
    return codes is not None and codes[1] in HDR_CURVES


def profile_from_metadata(
    image: Image.Image, codes: CodePoints | None, grey: bool, adobe: bool
) -> tuple[bytes | None, str]:
    """Make an ICC profile for a file that describes its colours in another way.

    Args:
        image: its info holds the chromaticities and the gamma of a PNG.
        codes: see `read_code_points`; they take precedence over chromaticities.
        grey: whether the profile is for grey pixels.
        adobe: whether EXIF states Adobe RGB.

    Returns:
        The profile, or None for sRGB; and a notice, or "".
    """
    try:
        if codes:
            source, icc = "colour code points", profile_from_code_points(codes, grey)
        elif "srgb" in image.info:
            return None, ""
        elif "gamma" in image.info or "chromaticity" in image.info:
            source, icc = "cHRM and gAMA values", profile_from_png(image, grey)
        elif adobe:
            source, icc = "EXIF colour space, Adobe RGB", make_profile(grey, ADOBE_RGB, ADOBE_GAMMA)
        else:
            return None, ""
    except ValueError:
        return (
            None,
            f"The {source_name(codes)} are not supported and were dropped; the image was read as sRGB.",
        )
    return icc, f"An ICC profile was made from the {source}." if icc else ""


def source_name(codes: CodePoints | None) -> str:
    """The name of the colour description, for a notice."""
    return f"colour code points {codes[0]} and {codes[1]}" if codes else "cHRM and gAMA values"


def profile_from_code_points(codes: CodePoints, grey: bool) -> bytes | None:
    """An ICC profile, or None for sRGB and HDR. Raises ValueError for unsupported code points."""
    primaries, transfer = codes
    if transfer in HDR_CURVES:
        return None
    if primaries not in CODED_PRIMARIES or transfer not in CODED_CURVES:
        raise ValueError
    return make_profile(grey, CODED_PRIMARIES[primaries], CODED_CURVES[transfer])


def profile_from_png(image: Image.Image, grey: bool) -> bytes | None:
    """A profile from cHRM and gAMA, or None for sRGB. A gAMA of SRGB_GAMMA selects sRGB's curve."""
    values = image.info.get("chromaticity")
    points = SRGB if values is None else tuple(zip(values[::2], values[1::2], strict=True))
    if np.abs(np.subtract(points, SRGB)).max() < CHROMATICITY_TOLERANCE:
        points = SRGB
    gamma = image.info.get("gamma")
    if gamma is None or points == SRGB and abs(gamma - SRGB_GAMMA) < GAMMA_TOLERANCE:
        return make_profile(grey, points, SRGB_CURVE)
    if not 0.1 <= gamma <= 10:
        raise ValueError("this gamma is out of range")
    return make_profile(grey, points, (1 / gamma,))


def has_gain_map(image: Image.Image, start: bytes) -> bool:
    """Whether the file has a gain map, which would turn this image into HDR."""
    for name, data in getattr(image, "applist", ()):
        if name == "APP1" and any(signature in data for signature in GAIN_MAP_SIGNATURES):
            return True
        if name == "APP2" and data.startswith(GAIN_MAP_SEGMENT):
            return True
    items = b"".join(body for name, body in iso_boxes(meta_boxes(start)) if name == b"iinf")
    return APPLE_GAIN_MAP in image.info.get("aux", ()) or b"tmap" in items


def png_cicp(start: bytes) -> CodePoints | None:
    """The code points in the cICP chunk of a PNG, or None."""
    at = len(PNG_SIGNATURE)
    while start.startswith(PNG_SIGNATURE) and at + 12 <= len(start):
        length, name = struct.unpack_from(">I4s", start, at)
        if name == b"IDAT":
            break
        if name == b"cICP" and length == 4:
            return start[at + 8], start[at + 9]
        at += 12 + length
    return None


def nclx_code_points(image: Image.Image, start: bytes) -> CodePoints | None:
    """The code points from pillow-heif, or from the colr box of the primary item of an AVIF or HEIC file."""
    given = image.info.get("nclx_profile")
    if isinstance(given, dict):
        return int(given["color_primaries"]), int(given["transfer_characteristics"])
    with suppress(struct.error, IndexError, KeyError):
        return primary_item_nclx(meta_boxes(start))
    return None


def primary_item_nclx(meta: bytes) -> CodePoints | None:
    """The code points in a meta box.

    Raises struct.error, IndexError or KeyError if they are missing or cut short.
    """
    parts = dict(iso_boxes(meta))
    item = struct.unpack_from(">I" if parts[b"pitm"][0] else ">H", parts[b"pitm"], 4)[0]
    about = list(iso_boxes(parts[b"iprp"]))
    properties = [one for name, body in about if name == b"ipco" for one in iso_boxes(body)]
    for number in property_indices(dict(about)[b"ipma"], item):
        name, body = properties[number - 1]
        if name == b"colr" and body.startswith(b"nclx"):
            primaries, transfer = struct.unpack_from(">HH", body, 4)
            return primaries, transfer
    return None


def property_indices(body: bytes, wanted: int) -> list[int]:
    """Indices from 1 of the properties of an item, from the ipma box. Raises struct.error or IndexError."""
    wide_items, wide_numbers = body[0] > 0, body[3] & 1
    (entries,) = struct.unpack_from(">I", body, 4)
    at = 8
    for _ in range(entries):
        (item,) = struct.unpack_from(">I" if wide_items else ">H", body, at)
        at += 4 if wide_items else 2
        count, at = body[at], at + 1
        form, mask = (f">{count}H", 0x7FFF) if wide_numbers else (f">{count}B", 0x7F)
        numbers = [number & mask for number in struct.unpack_from(form, body, at)]
        at += struct.calcsize(form)
        if item == wanted:
            return [number for number in numbers if number]
    return []


def jp2_profile(start: bytes) -> bytes | None:
    """The ICC profile of a JPEG 2000 file, which Pillow does not read, or None."""
    if start[4:8] != b"jP  ":
        return None
    header = b"".join(body for name, body in iso_boxes(start) if name == b"jp2h")
    return next((body[3:] for name, body in iso_boxes(header) if name == b"colr" and body[:1] == b"\2"), None)


def bmp_profile_location(start: bytes) -> tuple[int, int] | None:
    """Offset and size in bytes of the ICC profile that a BMP file with a version 5 header embeds, or None."""
    if start[:2] != b"BM" or len(start) < BMP_V5_END or start[70:74] != BMP_EMBEDDED:
        return None
    (header_size,) = struct.unpack_from("<I", start, BMP_HEADER)
    offset, size = struct.unpack_from("<II", start, BMP_HEADER + 112)
    return (BMP_HEADER + offset, size) if header_size >= 124 else None


def meta_boxes(start: bytes) -> bytes:
    """The content of the meta box of an AVIF or HEIC file; empty for other files."""
    if start[4:8] != b"ftyp":
        return b""
    return next((body[4:] for name, body in iso_boxes(start) if name == b"meta"), b"")


def iso_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of consecutive ISO BMFF boxes; the last may be cut short."""
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1 and at + 16 <= len(data):
            (size,), head = struct.unpack_from(">Q", data, at + 8), 16
        end = at + size if size else len(data)
        if end < at + head:
            return
        yield name, data[at + head : end]
        at = end
