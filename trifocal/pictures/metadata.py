"""Read EXIF, XMP, resolution and orientation from a Pillow image."""

import math
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image

from trifocal.pictures.colour_metadata import iso_boxes
from trifocal.pictures.limits import LOCK

ORIENTATION, X_RESOLUTION = 274, 282
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
GPS_POSITION = (2, 4)  # latitude and longitude
COLOUR_SPACE, INTEROP_INDEX = 0xA001, 1
# TIFF tags that describe the layout of the pixels, or are stored elsewhere; they are not part of the EXIF
# data.
TIFF_STRUCTURE = frozenset(
    {254, 255, *range(256, 260), 262, 266, 273, 277, 278, 279, 284, 317, *range(320, 326)}
)
TIFF_STRUCTURE |= {330, 332, 333, 334, 336, 337, 338, 339, 347, 512, 513, 514, 530, 700, 33723, 34377, 34675}
XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>\s*))[2-8]""")
MAX_DPI = 1_000_000


@dataclass
class Metadata:
    """Metadata of an image file.

    Attributes:
        exif: as in a JPEG file, without orientation.
        xmp: an XMP packet; an orientation in it is set to 1.
        dpi: pixels per inch, horizontal and vertical.
        orientation: EXIF orientation, 1..8.
        adobe: whether EXIF states Adobe RGB.
        has_position: whether EXIF or XMP contain a GPS position.
        fault: a notice about damaged EXIF data, or "".
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    orientation: int = 1
    adobe: bool = False
    has_position: bool = False
    fault: str = ""


def extract_metadata(image: Image.Image) -> Metadata:
    """The metadata of a loaded image, which is not changed."""
    found = Metadata(xmp=read_xmp(image), dpi=read_dpi(image))
    found.has_position = b"GPSLatitude" in (found.xmp or b"")
    with LOCK, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            read_exif(image, found)
        except Exception:  # noqa: BLE001  damaged EXIF data raises almost any exception in Pillow
            found.fault = "The EXIF data is damaged and was dropped."
    if warned and not found.fault:
        found.fault = "The EXIF data is partly damaged."
    return found


def read_exif(image: Image.Image, found: Metadata) -> None:
    """Fill in what EXIF contains. Raises almost any exception on damaged data."""
    exif = image.getexif()
    orientation: Any = exif.get(ORIENTATION)
    found.orientation = orientation if orientation in range(1, 9) else 1
    dropped = {ORIENTATION, *(TIFF_STRUCTURE if hasattr(image, "tag_v2") else ())}
    kept = {tag: exif[tag] for tag in dropped.intersection(exif)}
    for tag in kept:
        del exif[tag]
    try:
        found.exif = exif.tobytes() if len(exif) else None
    finally:
        for tag, value in kept.items():
            exif[tag] = value
    with suppress(Exception):  # damaged directories
        found.has_position |= any(tag in exif.get_ifd(GPS_IFD) for tag in GPS_POSITION)
        interop = exif.get_ifd(INTEROP_IFD).get(INTEROP_INDEX, "")
        found.adobe = str(interop).startswith("R03") or exif.get_ifd(EXIF_IFD).get(COLOUR_SPACE) == 2


def read_xmp(image: Image.Image) -> bytes | None:
    """The XMP packet, with its orientation set to 1, as the pixels are rotated by the EXIF orientation."""
    data: Any = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if data is None and image.format == "JXL":  # its plug-in does not read XMP
        data = dict(iso_boxes(getattr(image, "fc", b""))).get(b"xml ")
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    if not isinstance(data, bytes) or not data.strip(b"\0"):
        return None
    return XMP_ORIENTATION.sub(rb"\g<1>1", data)


def read_dpi(image: Image.Image) -> tuple[float, float] | None:
    """Pixels per inch, if the file states them; Pillow has default values for some files that do not."""
    if hasattr(image, "tag_v2") and X_RESOLUTION not in image.tag_v2:
        return None
    with suppress(Exception):  # info may hold values of any type
        unstated = image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") not in (1, 2)
        if unstated and X_RESOLUTION not in image.getexif():
            return None
        dpi = image.info["dpi"]
        x, y = (float(value) for value in (dpi if isinstance(dpi, tuple | list) else (dpi, dpi)))
        if all(math.isfinite(value) and 0.001 <= value <= MAX_DPI for value in (x, y)):
            return x, y
    return None
