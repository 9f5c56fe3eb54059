"""EXIF, XMP and the resolution: what is kept of them, and the orientation that they state."""

import math
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image

from trifocal.pictures.limits import LOCK
from trifocal.pictures.signals import boxes

ORIENTATION, X_RESOLUTION = 274, 282
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
GPS_POSITION = (2, 4)  # latitude and longitude
COLOUR_SPACE, INTEROP_INDEX = 0xA001, 1
# Tags of a TIFF that describe how its pixels lie in the file, or are kept by other means; no part of its EXIF.
TIFF_STRUCTURE = frozenset(
    {254, 255, *range(256, 260), 262, 266, 273, 277, 278, 279, 284, 317, *range(320, 326)}
)
TIFF_STRUCTURE |= {330, 332, 333, 334, 336, 337, 338, 339, 347, 512, 513, 514, 530, 700, 33723, 34377, 34675}
XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>\s*))[2-8]""")
MAX_DPI = 1_000_000


@dataclass
class Metadata:
    """What an image carries beside its pixels.

    exif: as in a JPEG, without orientation.  xmp: with the orientation 1, if it states any.
    dpi: pixels per inch, horizontal and vertical.  orientation: 1..8.  adobe: EXIF names Adobe RGB.
    place: EXIF or XMP hold a GPS position.  fault: a notice about broken EXIF data.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    orientation: int = 1
    adobe: bool = False
    place: bool = False
    fault: str = ""


def metadata_of(image: Image.Image) -> Metadata:
    """Of an image that was loaded; the image stays as it is."""
    found = Metadata(xmp=xmp_of(image), dpi=dpi_of(image))
    found.place = b"GPSLatitude" in (found.xmp or b"")
    with LOCK, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            read_exif(image, found)
        except Exception:  # noqa: BLE001  Pillow's reader of EXIF raises nearly anything on damaged bytes
            found.fault = "Its EXIF data is damaged and was left out."
    if warned and not found.fault:
        found.fault = "Its EXIF data is damaged in part."
    return found


def read_exif(image: Image.Image, found: Metadata) -> None:
    exif = image.getexif()
    stated: Any = exif.get(ORIENTATION)
    found.orientation = stated if stated in range(1, 9) else 1
    dropped = {ORIENTATION, *(TIFF_STRUCTURE if hasattr(image, "tag_v2") else ())}
    kept = {tag: exif[tag] for tag in dropped.intersection(exif)}
    for tag in kept:
        del exif[tag]
    try:
        found.exif = exif.tobytes() if len(exif) else None
    finally:
        for tag, value in kept.items():
            exif[tag] = value
    with suppress(Exception):  # of damaged directories
        found.place |= any(tag in exif.get_ifd(GPS_IFD) for tag in GPS_POSITION)
        interop = exif.get_ifd(INTEROP_IFD).get(INTEROP_INDEX, "")
        found.adobe = str(interop).startswith("R03") or exif.get_ifd(EXIF_IFD).get(COLOUR_SPACE) == 2


def xmp_of(image: Image.Image) -> bytes | None:
    """Its XMP packet. An orientation in it is applied to the pixels, as that of EXIF, and becomes 1."""
    data: Any = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if data is None and image.format == "JXL":  # whose plug-in leaves it in the file
        data = dict(boxes(getattr(image, "fc", b""))).get(b"xml ")
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    if not isinstance(data, bytes) or not data.strip(b"\0"):
        return None
    return XMP_ORIENTATION.sub(rb"\g<1>1", data)


def dpi_of(image: Image.Image) -> tuple[float, float] | None:
    """Pixels per inch, where the file states them; Pillow makes up values for some files that do not."""
    if hasattr(image, "tag_v2") and X_RESOLUTION not in image.tag_v2:
        return None
    with suppress(Exception):  # of whatever is in info
        unstated = image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") not in (1, 2)
        if unstated and X_RESOLUTION not in image.getexif():
            return None
        dpi = image.info["dpi"]
        x, y = (float(value) for value in (dpi if isinstance(dpi, tuple | list) else (dpi, dpi)))
        if all(math.isfinite(value) and 0.001 <= value <= MAX_DPI for value in (x, y)):
            return x, y
    return None
