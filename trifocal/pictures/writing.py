"""Which formats pictures are written in, what each can hold, and how the rest is given up."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trifocal.errors import PictureError
from trifocal.pictures.attachments import MAX_METADATA

BAND_ROWS = 256
JPEG_SEGMENT = 65_500  # bytes of EXIF or XMP in one segment of a JPEG
XMP_OF_TIFF = 700


@dataclass(frozen=True)
class Format:
    """What a format can hold, and how Pillow writes it.

    name: Pillow's.  alpha, grey: transparency, one channel.  metadata: an ICC profile, EXIF and XMP.
    dpi: the resolution.  most: bytes of EXIF and of XMP.  options: of Pillow.
    """

    name: str
    alpha: bool = True
    grey: bool = True
    metadata: bool = True
    dpi: bool = False
    most: int = MAX_METADATA
    options: dict[str, Any] = field(default_factory=dict)


PNG = Format("PNG", dpi=True, options={"compress_level": 1})  # for photographs quicker than 6, and smaller
JPEG = Format("JPEG", alpha=False, dpi=True, most=JPEG_SEGMENT, options={"quality": 95})
WEBP = Format("WEBP", grey=False, options={"quality": 95})
AVIF = Format("AVIF", grey=False, options={"quality": 95})
HEIF = Format("HEIF", grey=False, options={"quality": 95})
TIFF = Format("TIFF", dpi=True)  # not compressed: Pillow cannot write EXIF with GPS beside its compressions
JPEG_XL = Format("JXL", grey=False)
JPEG_2000 = Format("JPEG2000", metadata=False)
BMP = Format("BMP", alpha=False, metadata=False, dpi=True)
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
    for key, what in (("icc_profile", "ICC profile"), ("exif", "EXIF data"), ("xmp", "XMP data")):
        if key in info and not target.metadata:
            notes.append(f"Its {what} was left out, as {target.name} holds none.")
        elif key in info and key != "icc_profile" and len(info[key]) > target.most:
            notes.append(
                f"Its {what} was left out, as {target.name} holds {target.most} bytes of it at most."
            )
        elif key in info:
            options[key] = info[key]
    if "dpi" in info and target.dpi:
        options["dpi"] = info["dpi"]
    elif "dpi" in info:
        notes.append(f"Its resolution was left out, as {target.name} holds none.")
    return image, with_xmp(options, target), tuple(notes)


def with_xmp(options: dict[str, Any], target: Format) -> dict[str, Any]:
    """Pillow has no option for XMP where it is a text of a PNG, or a tag of a TIFF."""
    if target not in (PNG, TIFF) or "xmp" not in options:
        return options
    xmp = options.pop("xmp")
    if target == PNG:
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        return options | {"pnginfo": texts}
    tags = Image.Exif()
    tags.load(options.get("exif", b""))
    tags[XMP_OF_TIFF] = xmp
    return options | {"exif": tags}


def over_white(image: Image.Image) -> Image.Image:
    """In bands, so that there is only one whole copy."""
    background = Image.new(image.mode.removesuffix("A"), image.size, "white")
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(image.height, top + BAND_ROWS)))
        background.paste(band.convert(background.mode), (0, top), band.getchannel("A"))
    return background
