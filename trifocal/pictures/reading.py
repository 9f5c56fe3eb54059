"""Convert a Pillow image of any mode to 8-bit arrays, with a notice for each change."""

from contextlib import nullcontext, suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import PictureError
from trifocal.pictures.attachments import MAX_METADATA
from trifocal.pictures.colour import is_srgb, profile_mode
from trifocal.pictures.colour_metadata import (
    CodePoints,
    bmp_profile_location,
    has_gain_map,
    is_hdr,
    jp2_profile,
    profile_from_metadata,
    read_code_points,
)
from trifocal.pictures.invisible import fill_invisible, hides_something
from trifocal.pictures.limits import check_size, pillow_limit_lifted
from trifocal.pictures.metadata import Metadata, extract_metadata
from trifocal.pictures.pixel_conversion import ToArray, converter

BAND_PIXELS = 1 << 22  # converted at a time, so that there is only one full copy of the image
TIFF_COMPRESSION, TIFF_PLANES = 259, 284
TIFF_BITS, TIFF_CHANNELS, TIFF_ORIENTATION = 258, 277, 274
METADATA_TEXTS = {"XML:com.adobe.xmp", "Raw profile type exif"}  # text chunks of a PNG that hold XMP and EXIF
START_BYTES = 1 << 16
TIFF_SAMPLE_FORMAT, TIFF_LENGTHS, SIGNED = 339, 279, 2

# Pillow's names of the formats to open, the most common first. EPS is excluded because Pillow runs
# Ghostscript for it.
READ_FORMATS = [
    *("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "JXL", "JPEG2000", "GIF", "TIFF", "BMP", "DIB", "PPM"),
    *("QOI", "PSD", "ICO", "DDS", "SGI", "PCX", "SUN", "TGA"),
]

Array = NDArray[np.uint8]


@dataclass
class Reading:
    """rgb [H, W, 3], alpha [H, W], metadata, and the EXIF orientation, 1..8, that is still to be applied."""

    rgb: Array = field(default_factory=lambda: np.zeros((1, 1, 3), np.uint8))
    alpha: Array | None = None
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    orientation: int = 1
    notices: list[str] = field(default_factory=list)

    def add_notice(self, sentence: str) -> None:
        """Add a notice, unless it is empty or already there."""
        if sentence and sentence not in self.notices:
            self.notices.append(sentence)


def read(image: Image.Image, keep_metadata: bool, use_orientation: bool, keep_invisible: bool) -> Reading:
    """Convert an image to 8-bit arrays and metadata.

    Args:
        image: is not changed.
        keep_metadata: keep EXIF, XMP and the resolution.
        use_orientation: return the image's EXIF orientation; otherwise 1.
        keep_invisible: keep the colours of fully transparent pixels.

    Raises:
        PictureError: if the image cannot be converted to 8 bits; the message is the end of a sentence.
        Exception: whatever Pillow raises on damaged files.
    """
    check_size(*image.size)
    reading = Reading()
    start = read_bytes(image, 0, START_BYTES)
    embedded = embedded_profile(image, start)
    bits = bit_depth(image, start)
    if bits > 8:
        reading.add_notice(f"{bits} bits per channel were reduced to 8.")
    check_layout(image, bits)
    note_frames(image, reading)
    if has_gain_map(image, start):
        reading.add_notice("The HDR gain map was dropped.")
    transposed_by_pillow = getattr(image, "tag_v2", {}).get(TIFF_ORIENTATION, 1) != 1
    with pillow_limit_lifted() if image.width * image.height > BAND_PIXELS else nullcontext():
        image.load()
    read_pixels(image, converter(image, bits, reading.add_notice), reading)
    drop_unused_alpha(image, start, reading)
    metadata = extract_metadata(image)
    read_profile(image, reading, read_code_points(image, start), embedded, metadata)
    add_metadata(metadata, reading, keep_metadata)
    reading.orientation = (
        metadata.orientation if use_orientation and not orientation_already_applied(image) else 1
    )
    if transposed_by_pillow or reading.orientation != 1:
        reading.add_notice("The image was rotated or mirrored by its orientation tag.")
    note_dropped_data(image, reading)
    if reading.alpha is not None and not keep_invisible:
        fill_transparent(reading)
    return reading


def fill_transparent(reading: Reading) -> None:
    """Replace the colours of fully transparent pixels, with a notice if that loses something."""
    assert reading.alpha is not None
    if hides_something(reading.rgb, reading.alpha):
        reading.add_notice("The colours of fully transparent pixels were dropped.")
    reading.rgb = fill_invisible(reading.rgb, reading.alpha)


def orientation_already_applied(image: Image.Image) -> bool:
    """Whether the pixels are rotated already: the plug-in of JPEG XL applies the orientation itself."""
    return image.format == "JXL" and not getattr(image, "jpeg", False)


def bit_depth(image: Image.Image, start: bytes) -> int:
    """Bits per channel in the file, as far as known; Pillow converts 16-bit RGB to 8 bits silently."""
    tags = getattr(image, "tag_v2", {})
    if TIFF_BITS in tags:
        return max(tags[TIFF_BITS])
    if isinstance(image.info.get("bit_depth"), int):  # pillow-heif
        return int(image.info["bit_depth"])
    if image.mode.startswith("I;16") or image.format == "PPM" and image.mode == "I":
        return 16
    return header_bit_depth(start)


def check_layout(image: Image.Image, bits: int) -> None:
    """Raises PictureError for TIFF files that Pillow would silently read incorrectly."""
    tags = getattr(image, "tag_v2", {})
    plain = tags.get(TIFF_COMPRESSION, 1) == 1
    if bits > 8 and tags.get(TIFF_PLANES) == 2 and plain and len(image.getbands()) > 1:
        raise PictureError(
            f"its {bits}-bit channels are in separate planes, which Pillow reads incorrectly; save it with"
            " interleaved channels"
        )
    if SIGNED in tags.get(TIFF_SAMPLE_FORMAT, ()) and bits <= 8:
        raise PictureError(
            "its pixels are signed integers, which Pillow reads incorrectly; convert them to unsigned"
            " integers"
        )
    lengths = tags.get(TIFF_LENGTHS)
    if image.mode == "YCbCr" and plain and lengths and sum(lengths) < 3 * image.width * image.height:
        raise PictureError(
            "its YCbCr colours are subsampled and uncompressed, which Pillow reads incorrectly; convert"
            " them to RGB"
        )


def drop_unused_alpha(image: Image.Image, start: bytes, reading: Reading) -> None:
    """Drop all-zero alpha of a 32-bit TGA file if its header, which Pillow ignores, states no alpha."""
    stated = image.format != "TGA" or len(start) < 18 or start[17] & 15
    if not stated and reading.alpha is not None and not reading.alpha.any():
        reading.alpha = None
        reading.add_notice("An unused fourth channel was dropped.")


def read_bytes(image: Image.Image, offset: int, count: int) -> bytes:
    """Up to `count` bytes of the file from `offset`; empty if the image has no open file."""
    stream = getattr(image, "fp", None)
    if stream is None or getattr(stream, "closed", False):
        return b""
    position = stream.tell()
    stream.seek(offset)
    data: bytes = stream.read(count)
    stream.seek(position)
    return data


def embedded_profile(image: Image.Image, start: bytes) -> bytes | None:
    """The ICC profile of a BMP or JPEG 2000 file, which Pillow does not read, or None."""
    location = bmp_profile_location(start)
    if location is None:
        return jp2_profile(start)
    offset, size = location
    return read_bytes(image, offset, min(size, MAX_METADATA + 1)) or None


def header_bit_depth(start: bytes) -> int:
    """Bits per channel by the start of a PNG, PPM, SGI, AVIF, HEIC or JPEG 2000 file; 8 by default."""
    if start.startswith(b"\x89PNG") and len(start) > 24:
        return start[24]
    if start[:2] == b"\x01\xda" and len(start) > 3:
        return 8 * max(1, start[3])
    if start[:2] in (b"P3", b"P6"):
        numbers = [word for line in start[2:1024].split(b"\n") for word in line.split(b"#")[0].split()]
        return 16 if len(numbers) > 2 and numbers[2].isdigit() and int(numbers[2]) > 255 else 8
    box = start.find(b"pixi")
    if start[4:8] == b"ftyp" and 0 <= box < len(start) - 10 and start[box + 8]:
        return start[box + 9]
    size = start.find(b"\xff\x4f\xff\x51")  # JPEG 2000: start of codestream, then its SIZ segment
    return (start[size + 42] & 127) + 1 if 0 <= size < len(start) - 42 else 8


def note_frames(image: Image.Image, reading: Reading) -> None:
    """Note that there are more frames, without counting or reading them: they may be many, or damaged."""
    with suppress(Exception):  # the second frame of a GIF may be damaged
        if getattr(image, "is_animated", False):
            reading.add_notice("Only the first frame or page was read.")


def read_pixels(image: Image.Image, convert: ToArray, reading: Reading) -> None:
    """Fill in rgb, alpha and grey, one band of rows at a time."""
    width, height = image.size
    rows = max(1, BAND_PIXELS // width)
    rgb = np.empty((height, width, 3), np.uint8)
    alpha = None
    for top in range(0, height, rows):
        block = convert(image.crop((0, top, width, min(height, top + rows))))
        channels = block.shape[-1]
        rgb[top : top + rows] = block[..., : max(1, channels - 1 + channels % 2)]
        if channels in (2, 4):
            alpha = np.empty((height, width), np.uint8) if alpha is None else alpha
            alpha[top : top + rows] = block[..., -1]
        reading.grey = channels < 3
    if alpha is not None and alpha.min() == 255:
        reading.add_notice("The alpha channel is opaque and was dropped.")
        alpha = None
    reading.rgb, reading.alpha = rgb, alpha


def read_profile(
    image: Image.Image,
    reading: Reading,
    codes: CodePoints | None,
    embedded: bytes | None,
    metadata: Metadata,
) -> None:
    """Keep the ICC profile if it fits the pixels and is not sRGB, or make one from other metadata."""
    if image.mode in ("CMYK", "LAB"):
        return
    if is_hdr(codes):
        reading.add_notice(
            "The image is HDR, but was read as sRGB, which changes its appearance; convert it to SDR first."
        )
    icc = image.info.get("icc_profile") or embedded
    if not icc:
        reading.icc, notice = profile_from_metadata(image, codes, reading.grey, metadata.adobe)
        reading.add_notice(notice)
        return
    mode = profile_mode(icc)
    if mode is None or len(icc) > MAX_METADATA:
        reading.add_notice("The ICC profile is damaged or of an unknown kind, and was dropped.")
    elif is_srgb(icc):
        reading.add_notice("The ICC profile is sRGB, the default, and was dropped.")
    elif mode != ("L" if reading.grey else "RGB"):
        reading.add_notice("The ICC profile does not apply to these pixels, and was dropped.")
    else:
        reading.icc = icc


def add_metadata(metadata: Metadata, reading: Reading, keep_metadata: bool) -> None:
    """Keep EXIF, XMP and the resolution if requested, except data that is too large."""
    reading.add_notice(metadata.fault)
    if not keep_metadata:
        found = [name for name, data in (("EXIF", metadata.exif), ("XMP", metadata.xmp)) if data]
        position = ", including a GPS position" if metadata.has_position else ""
        if found:
            reading.add_notice(f"The {' and '.join(found)} data was dropped{position}.")
        return
    reading.exif = within_limit(metadata.exif, "EXIF", reading)
    reading.xmp = within_limit(metadata.xmp, "XMP", reading)
    reading.dpi = metadata.dpi


def within_limit(data: bytes | None, name: str, reading: Reading) -> bytes | None:
    """The data, or None with a notice if it is larger than MAX_METADATA."""
    if data and len(data) > MAX_METADATA:
        reading.add_notice(f"The {name} data has more than {MAX_METADATA >> 20} MiB and was dropped.")
        return None
    return data


def note_dropped_data(image: Image.Image, reading: Reading) -> None:
    """Add a notice for other data in the file that is not kept."""
    tags = getattr(image, "tag_v2", {})
    extra = tags.get(TIFF_CHANNELS, 0) - len(image.getbands())
    if extra > 0 and image.mode != "P":
        reading.add_notice(f"{extra} extra channels were dropped.")
    kinds = {"photoshop": "Photoshop data", "comment": "comment", "depth_images": "depth map"}
    found = [what for key, what in kinds.items() if image.info.get(key) and image.format != "JPEG2000"]
    texts = getattr(image, "text", {})
    found += ["PNG text"] if any(isinstance(texts[key], str) for key in {*texts} - METADATA_TEXTS) else []
    for what in dict.fromkeys(found):
        reading.add_notice(f"The {what} was dropped.")


def apply_orientation(array: Array, orientation: int) -> Array:
    """Rotate and mirror [H, W, ...] by an EXIF orientation, 1..8."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)
