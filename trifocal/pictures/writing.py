"""Which formats pictures are written in, what each can hold, and how the rest is given up."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from trifocal.errors import PictureError

BAND_ROWS = 256
EXIF_START = b"Exif\0\0"
SEGMENT_OF_JPEG = 65533  # bytes; EXIF has one segment, with EXIF_START


@dataclass(frozen=True)
class Format:
    """Pillow's name, whether it holds alpha, one grey channel, an ICC profile and EXIF, and options of Pillow."""

    name: str
    alpha: bool = True
    grey: bool = True
    metadata: bool = True
    options: dict[str, Any] = field(default_factory=dict)


PNG = Format("PNG", options={"compress_level": 1})  # for photographs quicker than 6, and smaller
JPEG = Format("JPEG", alpha=False, options={"quality": 95})
WEBP = Format("WEBP", grey=False, options={"quality": 95})
AVIF = Format("AVIF", grey=False, options={"quality": 95})
HEIF = Format("HEIF", grey=False, options={"quality": 95})
TIFF = Format("TIFF")  # not compressed: Pillow cannot write EXIF with GPS beside its compressions
JPEG_XL = Format("JXL", grey=False)
JPEG_2000 = Format("JPEG2000", metadata=False)
BMP = Format("BMP", alpha=False, metadata=False)
PPM = Format("PPM", alpha=False, metadata=False)

FORMATS = {
    ".png": PNG,
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".jpe": JPEG,
    ".jfif": JPEG,
    ".webp": WEBP,
    ".avif": AVIF,
    ".heic": HEIF,
    ".heif": HEIF,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".jxl": JPEG_XL,
    ".jp2": JPEG_2000,
    ".bmp": BMP,
    ".pgm": PPM,
    ".ppm": PPM,
    ".pnm": PPM,
}


def format_of(path: str | os.PathLike[str]) -> Format:
    """By the suffix. Raises PictureError, naming the suffixes that can be written."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise PictureError(
            f"{Path(path).name} cannot be written, as {suffix or 'a name without suffix'} is no format that is known"
            f" here; use one of {' '.join(sorted(FORMATS))}."
        )
    return FORMATS[suffix]


def fit(image: Image.Image, target: Format) -> tuple[Image.Image, dict[str, Any], tuple[str, ...]]:
    """The image as the format can hold it, Pillow's options to write it, and a sentence for each thing given up."""
    notes = []
    options = dict(target.options)
    info = image.info
    if image.mode in ("LA", "RGBA") and not target.alpha:
        image = over_white(image)
        notes.append(f"Its transparency was laid over white, as {target.name} holds none.")
    if image.mode in ("L", "LA") and not target.grey:
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
        if info.pop("icc_profile", None):
            notes.append(f"Its grey ICC profile was left out, as {target.name} holds it as RGB.")
    for key, what in (("icc_profile", "ICC profile"), ("exif", "EXIF data")):
        if key == "exif" and target is JPEG and not fits_jpeg(info.get(key, b"")):
            notes.append("Its EXIF data was left out, as JPEG holds at most 64 KiB of it.")
        elif key in info and target.metadata:
            options[key] = info[key]
        elif key in info:
            notes.append(f"Its {what} was left out, as {target.name} holds none.")
    return image, options, tuple(notes)


def fits_jpeg(exif: bytes) -> bool:
    return len(EXIF_START) + len(exif.removeprefix(EXIF_START)) <= SEGMENT_OF_JPEG


def over_white(image: Image.Image) -> Image.Image:
    """In bands, so that there is only one whole copy."""
    background = Image.new(image.mode.removesuffix("A"), image.size, "white")
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(image.height, top + BAND_ROWS)))
        background.paste(band.convert(background.mode), (0, top), band.getchannel("A"))
    return background
