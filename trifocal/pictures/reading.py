"""A Pillow image of any mode → 8-bit arrays, with a sentence for each thing that changed on the way."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import PictureError
from trifocal.pictures.attachments import MAX_METADATA
from trifocal.pictures.colour import is_srgb, space_of, to_srgb
from trifocal.pictures.invisible import flattened, hides_something
from trifocal.pictures.limits import check_size, no_limit_of_pillow
from trifocal.pictures.metadata import Metadata, metadata_of
from trifocal.pictures.signals import codes_of, described_profile, has_gain_map, is_hdr, profile_of_jp2

BAND_PIXELS = 1 << 22  # converted at a time, so that only one whole copy of the picture is made
TIFF_COMPRESSION, TIFF_PLANES = 259, 284
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_CHANNELS, TIFF_ORIENTATION = 258, 262, 277, 274
METADATA_TEXTS = {"XML:com.adobe.xmp", "Raw profile type exif"}  # of a PNG, that are read as metadata
TIFF_SAMPLE_FORMAT, TIFF_LENGTHS, SIGNED = 339, 279, 2

# Pillow's names of what is opened, the most frequent first. All others stay closed, above all EPS, which Pillow hands to Ghostscript.
FORMATS = [
    *("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "JXL", "JPEG2000", "GIF", "TIFF", "BMP", "DIB", "PPM"),
    *("QOI", "PSD", "ICO", "DDS", "SGI", "PCX", "SUN", "TGA"),
]

Array = NDArray[np.uint8]
ToArray = Callable[[Image.Image], Array]  # of a band: [h, w, 1..4]; of 2 or 4 channels the last is alpha

# Pillow's mode: the mode that it becomes, and what is to say about that.
MODES = {
    "1": ("L", "Its 1 bit per pixel was widened to 8."),
    "L": ("L", ""),
    "LA": ("LA", ""),
    "La": ("LA", "Its premultiplied transparency was made independent of the colours."),
    "P": ("RGB", "Its palette was replaced by RGB colours."),
    "PA": ("RGBA", "Its palette was replaced by RGB colours."),
    "RGB": ("RGB", ""),
    "RGBA": ("RGBA", ""),
    "RGBX": ("RGB", "Its unused fourth channel was left out."),
    "RGBa": ("RGBA", "Its premultiplied transparency was made independent of the colours."),
    "YCbCr": ("RGB", "Its YCbCr colours were converted to RGB."),
    "HSV": ("RGB", "Its HSV colours were converted to RGB."),
}


@dataclass
class Reading:
    """What was read so far: rgb [H, W, 3], alpha [H, W], and metadata; `orientation` is EXIF's 1..8, still to be applied."""

    rgb: Array = field(default_factory=lambda: np.zeros((1, 1, 3), np.uint8))
    alpha: Array | None = None
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    orientation: int = 1
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        if sentence and sentence not in self.notes:
            self.notes.append(sentence)


def read(image: Image.Image, keep: bool, turn: bool, keep_invisible: bool) -> Reading:
    """Unpacks the image. Raises whatever Pillow raises, and PictureError for what cannot be an 8-bit picture.

    Args:
        image: stays as it is.
        keep: keep EXIF, XMP and the resolution.
        turn: whether its orientation tag is to be applied.
        keep_invisible: leave the colours of pixels under alpha 0 as they are.

    The messages of PictureError say why, as the end of a sentence.
    """
    check_size(*image.size)
    reading = Reading()
    start = start_of(image)
    bits = bits_of(image, start)
    if bits > 8:
        reading.note(f"Its {bits} bits per channel were reduced to 8.")
    check_layout(image, bits)
    note_frames(image, reading)
    if has_gain_map(image, start):
        reading.note("Its HDR gain map was left out.")
    turned_by_pillow = getattr(image, "tag_v2", {}).get(TIFF_ORIENTATION, 1) != 1
    with no_limit_of_pillow() if image.width * image.height > BAND_PIXELS else nullcontext():
        image.load()
    read_pixels(image, converter(image, bits, reading), reading)
    drop_unused_alpha(image, start, reading)
    metadata = metadata_of(image)
    read_profile(image, reading, start, metadata)
    read_metadata(metadata, reading, keep)
    reading.orientation = metadata.orientation if turn and not is_turned(image) else 1
    if turned_by_pillow or reading.orientation != 1:
        reading.note("It was turned as its orientation tag says.")
    note_the_rest(image, reading)
    if reading.alpha is not None and not keep_invisible:
        flatten(reading)
    return reading


def flatten(reading: Reading) -> None:
    assert reading.alpha is not None
    if hides_something(reading.rgb, reading.alpha):
        reading.note("What its fully transparent pixels hid was left out.")
    reading.rgb = flattened(reading.rgb, reading.alpha)


def is_turned(image: Image.Image) -> bool:
    """Whether its pixels lie upright whatever EXIF says: JPEG XL has an orientation of its own, which its plug-in applies."""
    return image.format == "JXL" and not getattr(image, "jpeg", False)


def bits_of(image: Image.Image, start: bytes) -> int:
    """Bits per channel in the file, as far as it still tells; Pillow itself gives 16-bit RGB as 8 without a word."""
    tags = getattr(image, "tag_v2", {})
    if TIFF_BITS in tags:
        return max(tags[TIFF_BITS])
    if isinstance(image.info.get("bit_depth"), int):  # pillow-heif
        return int(image.info["bit_depth"])
    if image.mode.startswith("I;16") or image.format == "PPM" and image.mode == "I":
        return 16
    return bits_of_start(start)


def check_layout(image: Image.Image, bits: int) -> None:
    """Refuses TIFF files that Pillow reads wrongly without an error."""
    tags = getattr(image, "tag_v2", {})
    plain = tags.get(TIFF_COMPRESSION, 1) == 1
    if bits > 8 and tags.get(TIFF_PLANES) == 2 and plain and len(image.getbands()) > 1:
        raise PictureError(
            f"its {bits}-bit channels lie in separate planes, which Pillow reads wrongly; save it with interleaved channels"
        )
    if SIGNED in tags.get(TIFF_SAMPLE_FORMAT, ()) and bits <= 8:
        raise PictureError(
            "its pixels are signed integers, which Pillow reads wrongly; convert it to unsigned ones"
        )
    lengths = tags.get(TIFF_LENGTHS)
    if image.mode == "YCbCr" and plain and lengths and sum(lengths) < 3 * image.width * image.height:
        raise PictureError(
            "its YCbCr colours are subsampled and not compressed, which Pillow reads wrongly; convert it to RGB"
        )


def drop_unused_alpha(image: Image.Image, start: bytes, reading: Reading) -> None:
    """A TGA of 32 bits may have no alpha. It says so in a byte that Pillow does not read; some have alpha all the same."""
    stated = image.format != "TGA" or len(start) < 18 or start[17] & 15
    if not stated and reading.alpha is not None and not reading.alpha.any():
        reading.alpha = None
        reading.note("Its unused fourth channel was left out.")


def start_of(image: Image.Image, count: int = 1 << 16) -> bytes:
    """The first bytes of the file, as long as the image has it open."""
    stream = getattr(image, "fp", None)
    if stream is None or getattr(stream, "closed", False):
        return b""
    place = stream.tell()
    stream.seek(0)
    start: bytes = stream.read(count)
    stream.seek(place)
    return start


def bits_of_start(start: bytes) -> int:
    """From the first bytes of a PNG, PPM, SGI, AVIF, HEIC or JPEG 2000 file; 8 where they do not say."""
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
    """The others are neither counted nor looked at: there may be a hundred thousand, and they may be damaged."""
    with suppress(Exception):  # of a GIF's second picture
        if getattr(image, "is_animated", False):
            reading.note("Only the first of its pictures was read.")


def converter(image: Image.Image, bits: int, reading: Reading) -> ToArray:
    """The way from a band of the image to its array. Raises PictureError where there is none."""
    mode = image.mode
    if mode in MODES:
        target, sentence = MODES[mode]
        reading.note(sentence)
        target += alpha_of_key(image, target, bits, reading)
        key = image.info.get("transparency")
        if (mode, target) == ("L", "LA") and bits < 8 and isinstance(key, int):
            return key_converter(key * 255 // ((1 << bits) - 1))  # Pillow widens the pixels, and not the key
        return plain_converter(target)
    if mode in ("CMYK", "LAB"):
        return profile_converter(image, reading)
    if mode.startswith("I;16") or mode == "I" and image.format in ("PPM", "PNG"):
        return deep_converter(image, bits)
    if mode in ("I", "F"):
        kind = "floating-point numbers" if mode == "F" else "32-bit or signed integers"
        raise PictureError(
            f"its pixels are {kind} of unknown range; convert it to 8 or 16 bits per channel first"
        )
    raise PictureError(f"its pixels are of a kind that is not known here (Pillow's mode {mode})")


def alpha_of_key(image: Image.Image, target: str, bits: int, reading: Reading) -> str:
    """ "A" where a colour or palette entries stand for transparency; a 16-bit colour cannot be found among 8-bit ones."""
    if target.endswith("A") or not image.has_transparency_data:
        return ""
    if bits > 8:
        reading.note("Its transparent colour was left out.")
        return ""
    reading.note("Its transparent colours became an alpha channel.")
    return "A"


def plain_converter(target: str) -> ToArray:
    return lambda band: as_array(band.convert(target))


def key_converter(key: int) -> ToArray:
    """Grey, one of whose values stands for transparency."""

    def convert(band: Image.Image) -> Array:
        grey = np.asarray(band)
        return np.stack([grey, np.where(grey == key, 0, 255).astype(np.uint8)], axis=-1)

    return convert


def profile_converter(image: Image.Image, reading: Reading) -> ToArray:
    """CMYK and LAB to sRGB, through the picture's profile where it has one that works."""
    icc = image.info.get("icc_profile") if image.mode == "CMYK" else None
    convert = to_srgb(icc, image.mode) if icc or image.mode == "LAB" else None
    if convert:
        through = " through its ICC profile" if icc else ""
        reading.note(f"Its {image.mode} colours were converted to sRGB{through}.")
        return lambda band: as_array(convert(band))
    if image.mode == "LAB":
        raise PictureError("its LAB colours cannot be converted by this Pillow; convert it to RGB first")
    why = "its ICC profile does not work" if icc else "it has no ICC profile"
    reading.note(f"Its CMYK colours were converted to RGB by a plain formula, as {why}.")
    return plain_converter("RGB")


def deep_converter(image: Image.Image, bits: int) -> ToArray:
    """16-bit grey, rounded to 8 bits; one of its values may stand for transparency."""
    white = (1 << bits) - 1
    inverted = getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == 0  # white is zero; Pillow leaves it so
    key = image.info.get("transparency")

    def convert(band: Image.Image) -> Array:
        deep = np.asarray(band).astype(np.uint32)
        value = np.minimum((deep * 255 + white // 2) // white, 255).astype(np.uint8)
        grey = 255 - value if inverted else value
        if not isinstance(key, int):
            return grey[..., None]
        return np.stack([grey, np.where(deep == key, 0, 255).astype(np.uint8)], axis=-1)

    return convert


def as_array(band: Image.Image) -> Array:
    array = np.asarray(band)
    return array[..., None] if array.ndim == 2 else array


def read_pixels(image: Image.Image, convert: ToArray, reading: Reading) -> None:
    """Fills rgb, alpha and grey band by band; the image itself stays as it is."""
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
        reading.note("Its alpha channel is opaque everywhere and was left out.")
        alpha = None
    reading.rgb, reading.alpha = rgb, alpha


def read_profile(image: Image.Image, reading: Reading, start: bytes, metadata: Metadata) -> None:
    """Keeps the ICC profile where it says something about the pixels as they are now, or makes one of what else says so."""
    if image.mode in ("CMYK", "LAB"):
        return
    codes = codes_of(image, start)
    if is_hdr(codes):
        reading.note(
            "It is an HDR picture that was read as if it were sRGB, and looks different; convert it to SDR first."
        )
    icc = image.info.get("icc_profile") or profile_of_jp2(start)
    if not icc:
        reading.icc, notice = described_profile(image, codes, reading.grey, metadata.adobe)
        reading.note(notice)
        return
    space = space_of(icc)
    if space is None or len(icc) > MAX_METADATA:
        reading.note("Its ICC profile is damaged or of an unknown kind, and was left out.")
    elif is_srgb(icc):
        reading.note("Its ICC profile is that of sRGB, the default, and was left out.")
    elif space != ("L" if reading.grey else "RGB"):
        reading.note("Its ICC profile is made for other kinds of pixels, and was left out.")
    else:
        reading.icc = icc


def read_metadata(metadata: Metadata, reading: Reading, keep: bool) -> None:
    """Keeps EXIF, XMP and the resolution where that is asked; what is too large is left out."""
    reading.note(metadata.fault)
    if not keep:
        found = [name for name, data in (("EXIF", metadata.exif), ("XMP", metadata.xmp)) if data]
        place = ", and a GPS position in it" if metadata.place else ""
        if found:
            reading.note(f"Its {' and '.join(found)} data was left out{place}.")
        return
    reading.exif = kept(metadata.exif, "EXIF", reading)
    reading.xmp = kept(metadata.xmp, "XMP", reading)
    reading.dpi = metadata.dpi


def kept(data: bytes | None, name: str, reading: Reading) -> bytes | None:
    if data and len(data) > MAX_METADATA:
        reading.note(f"Its {name} data has more than {MAX_METADATA >> 20} MiB and was left out.")
        return None
    return data


def note_the_rest(image: Image.Image, reading: Reading) -> None:
    """Says what else the file holds that is left behind."""
    tags = getattr(image, "tag_v2", {})
    extra = tags.get(TIFF_CHANNELS, 0) - len(image.getbands())
    if extra > 0 and image.mode != "P":
        reading.note(f"Its {extra} further channels were left out.")
    kinds = {"photoshop": "Photoshop data", "comment": "comment", "depth_images": "depth map"}
    found = [what for key, what in kinds.items() if image.info.get(key) and image.format != "JPEG2000"]
    texts = getattr(image, "text", {})
    found += ["text"] if any(isinstance(texts[key], str) for key in {*texts} - METADATA_TEXTS) else []
    for what in dict.fromkeys(found):
        reading.note(f"Its {what} was left out.")


def turned(array: Array, orientation: int) -> Array:
    """[H, W, ...] as it should be seen, for EXIF's orientation 1..8."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)
