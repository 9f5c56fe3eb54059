"""The file formats that images can be written in, and what each can store."""

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
TIFF_XMP = 700


@dataclass(frozen=True)
class Format:
    """What a file format can store.

    Attributes:
        name: Pillow's name of the format.
        alpha, grey: whether it can store alpha, and images with one channel.
        metadata: whether it can store an ICC profile, EXIF and XMP.
        dpi: whether it can store the resolution.
        max_metadata: bytes of EXIF and of XMP, each.
        options: for Pillow's writer.
    """

    name: str
    alpha: bool = True
    grey: bool = True
    metadata: bool = True
    dpi: bool = False
    max_metadata: int = MAX_METADATA
    options: dict[str, Any] = field(default_factory=dict)


PNG = Format(
    "PNG", dpi=True, options={"compress_level": 1}
)  # faster than the default 6, and smaller for photographs
JPEG = Format("JPEG", alpha=False, dpi=True, max_metadata=JPEG_SEGMENT, options={"quality": 95})
WEBP = Format("WEBP", grey=False, options={"quality": 95})
AVIF = Format("AVIF", grey=False, options={"quality": 95})
HEIF = Format("HEIF", grey=False, options={"quality": 95})
TIFF = Format(
    "TIFF", dpi=True
)  # uncompressed, because Pillow cannot write EXIF with GPS in a compressed TIFF
JPEG_XL = Format("JXL", grey=False)
JPEG_2000 = Format("JPEG2000", metadata=False)
BMP = Format("BMP", alpha=False, metadata=False, dpi=True)
PPM = Format("PPM", alpha=False, metadata=False)

WRITE_FORMATS = {
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


def format_for(path: str | os.PathLike[str]) -> Format:
    """The format of a suffix. Raises PictureError, with the list of supported suffixes."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITE_FORMATS:
        raise PictureError(
            f"{Path(path).name} cannot be written: {suffix or 'a name without suffix'} is not a supported"
            " format;"
            f" use one of {' '.join(sorted(WRITE_FORMATS))}."
        )
    return WRITE_FORMATS[suffix]


def prepare(image: Image.Image, target: Format) -> tuple[Image.Image, dict[str, Any], tuple[str, ...]]:
    """Convert an image to what a format can store.

    Returns:
        The image, the options for Pillow's writer, and one sentence for each loss.
    """
    notes = []
    options = dict(target.options)
    info = image.info
    if image.mode in ("LA", "RGBA") and not target.alpha:
        image = composite_on_white(image)
        notes.append(f"The image was composited on white, because {target.name} has no transparency.")
    if image.mode in ("L", "LA") and not target.grey:
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
        if info.pop("icc_profile", None):
            notes.append(f"The grey ICC profile was dropped, because {target.name} stores the image as RGB.")
    for key, what in (("icc_profile", "ICC profile"), ("exif", "EXIF data"), ("xmp", "XMP data")):
        if key in info and not target.metadata:
            notes.append(f"The {what} was dropped, because {target.name} cannot store it.")
        elif key in info and key != "icc_profile" and len(info[key]) > target.max_metadata:
            notes.append(
                f"The {what} was dropped, because {target.name} can store only {target.max_metadata} bytes"
                " of it."
            )
        elif key in info:
            options[key] = info[key]
    if "dpi" in info and target.dpi:
        options["dpi"] = info["dpi"]
    elif "dpi" in info:
        notes.append(f"The resolution was dropped, because {target.name} cannot store it.")
    return image, with_xmp(options, target), tuple(notes)


def with_xmp(options: dict[str, Any], target: Format) -> dict[str, Any]:
    """The options with XMP as a text chunk of a PNG or a tag of a TIFF, for which Pillow has no option."""
    if target not in (PNG, TIFF) or "xmp" not in options:
        return options
    xmp = options.pop("xmp")
    if target == PNG:
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        return options | {"pnginfo": texts}
    tags = Image.Exif()
    tags.load(options.get("exif", b""))
    tags[TIFF_XMP] = xmp
    return options | {"exif": tags}


def composite_on_white(image: Image.Image) -> Image.Image:
    """Composite on white, one band of rows at a time, so that there is only one full copy."""
    background = Image.new(image.mode.removesuffix("A"), image.size, "white")
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(image.height, top + BAND_ROWS)))
        background.paste(band.convert(background.mode), (0, top), band.getchannel("A"))
    return background
