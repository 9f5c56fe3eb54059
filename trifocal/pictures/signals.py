"""What files say about their colours outside of an ICC profile: code points, chromaticities, HDR curves, gain maps."""

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
    made_profile,
)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SRGB_GAMMA, GAMMA_TOLERANCE = 0.45455, 0.001  # what PNG files name for sRGB
SAME_POINT = 0.002  # of chromaticities
GAIN_MAP_MARKS = (b"hdrgm:", b"hdr-gain-map", b'Semantic="GainMap"', b"HDRGainMap")
GAIN_MAP_SEGMENT = b"urn:iso:std:iso:ts:21496:-1"
APPLE_GAIN_MAP = "urn:com:apple:photo:2020:aux:hdrgainmap"

Codes = tuple[int, int]  # colour primaries and transfer characteristics of ITU-T H.273


def codes_of(image: Image.Image, start: bytes) -> Codes | None:
    """Of a PNG, AVIF or HEIC file that starts with these bytes."""
    return cicp_of_png(start) or nclx_of(image, start)


def is_hdr(codes: Codes | None) -> bool:
    return codes is not None and codes[1] in HDR_CURVES


def described_profile(
    image: Image.Image, codes: Codes | None, grey: bool, adobe: bool
) -> tuple[bytes | None, str]:
    """The profile that a file without one describes in another way, or None where that is sRGB, and a notice or "".

    Args:
        image: where the chromaticities and the gamma of a PNG are looked for.
        codes: see `codes_of`; they precede chromaticities.
        grey: whether the profile is to be of grey.
        adobe: whether EXIF data names Adobe RGB.
    """
    try:
        if codes:
            source, icc = "colour code points", profile_of_codes(codes, grey)
        elif "srgb" in image.info:
            return None, ""
        elif "gamma" in image.info or "chromaticity" in image.info:
            source, icc = "cHRM and gAMA values", profile_of_png(image, grey)
        elif adobe:
            source, icc = "EXIF colour space, Adobe RGB", made_profile(grey, ADOBE_RGB, ADOBE_GAMMA)
        else:
            return None, ""
    except ValueError:
        return (
            None,
            f"Its {source_of(codes)} are not known here and were left out; it was read as if it were sRGB.",
        )
    return icc, f"An ICC profile was made of its {source}." if icc else ""


def source_of(codes: Codes | None) -> str:
    return f"colour code points {codes[0]} and {codes[1]}" if codes else "cHRM and gAMA values"


def profile_of_codes(codes: Codes, grey: bool) -> bytes | None:
    """Raises ValueError for codes that are not known here."""
    primaries, transfer = codes
    if transfer in HDR_CURVES:
        return None
    if primaries not in CODED_PRIMARIES or transfer not in CODED_CURVES:
        raise ValueError
    return made_profile(grey, CODED_PRIMARIES[primaries], CODED_CURVES[transfer])


def profile_of_png(image: Image.Image, grey: bool) -> bytes | None:
    """Of its chromaticities and gamma; those of sRGB stand for its curve too."""
    values = image.info.get("chromaticity")
    points = SRGB if values is None else tuple(zip(values[::2], values[1::2], strict=True))
    if np.abs(np.subtract(points, SRGB)).max() < SAME_POINT:
        points = SRGB
    gamma = image.info.get("gamma")
    if gamma is None or points == SRGB and abs(gamma - SRGB_GAMMA) < GAMMA_TOLERANCE:
        return made_profile(grey, points, SRGB_CURVE)
    if not 0.1 <= gamma <= 10:
        raise ValueError("no picture has this gamma")
    return made_profile(grey, points, (1 / gamma,))


def has_gain_map(image: Image.Image, start: bytes) -> bool:
    """Whether the file has a second image that turns this one into HDR."""
    for name, data in getattr(image, "applist", ()):
        if name == "APP1" and any(mark in data for mark in GAIN_MAP_MARKS):
            return True
        if name == "APP2" and data.startswith(GAIN_MAP_SEGMENT):
            return True
    items = b"".join(body for name, body in boxes(meta_of(start)) if name == b"iinf")
    return APPLE_GAIN_MAP in image.info.get("aux", ()) or b"tmap" in items


def cicp_of_png(start: bytes) -> Codes | None:
    """From the cICP chunk of a PNG."""
    at = len(PNG_SIGNATURE)
    while start.startswith(PNG_SIGNATURE) and at + 12 <= len(start):
        length, name = struct.unpack_from(">I4s", start, at)
        if name == b"IDAT":
            break
        if name == b"cICP" and length == 4:
            return start[at + 8], start[at + 9]
        at += 12 + length
    return None


def nclx_of(image: Image.Image, start: bytes) -> Codes | None:
    """From what pillow-heif gives, or from the colour information of the main item of an AVIF or HEIC file."""
    given = image.info.get("nclx_profile")
    if isinstance(given, dict):
        return int(given["color_primaries"]), int(given["transfer_characteristics"])
    with suppress(struct.error, IndexError, KeyError):
        return nclx_of_meta(meta_of(start))
    return None


def nclx_of_meta(meta: bytes) -> Codes | None:
    """Raises struct.error, IndexError or KeyError where it is cut short or says nothing."""
    parts = dict(boxes(meta))
    item = struct.unpack_from(">I" if parts[b"pitm"][0] else ">H", parts[b"pitm"], 4)[0]
    about = list(boxes(parts[b"iprp"]))
    properties = [one for name, body in about if name == b"ipco" for one in boxes(body)]
    for number in associations(dict(about)[b"ipma"], item):
        name, body = properties[number - 1]
        if name == b"colr" and body.startswith(b"nclx"):
            primaries, transfer = struct.unpack_from(">HH", body, 4)
            return primaries, transfer
    return None


def associations(body: bytes, wanted: int) -> list[int]:
    """Numbers, from 1, of an item's properties, from the ipma box. Raises struct.error or IndexError."""
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


def profile_of_jp2(start: bytes) -> bytes | None:
    """The ICC profile of a JPEG 2000 file, which Pillow does not look for."""
    if start[4:8] != b"jP  ":
        return None
    header = b"".join(body for name, body in boxes(start) if name == b"jp2h")
    return next((body[3:] for name, body in boxes(header) if name == b"colr" and body[:1] == b"\2"), None)


def meta_of(start: bytes) -> bytes:
    """The boxes within the meta box of an AVIF or HEIC file; empty for others."""
    if start[4:8] != b"ftyp":
        return b""
    return next((body[4:] for name, body in boxes(start) if name == b"meta"), b"")


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of the boxes of ISO BMFF that follow one another; the last may be cut short."""
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
