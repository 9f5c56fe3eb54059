"""Convert the pixels of any Pillow mode to 8-bit grey or RGB, with or without alpha."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import PictureError
from trifocal.pictures.colour import srgb_converter
from trifocal.utils.notices import Notify

TIFF_PHOTOMETRIC = 262

Array = NDArray[np.uint8]
ToArray = Callable[[Image.Image], Array]
"""A band of rows → [h, w, 1..4]; of 2 or 4 channels, the last is alpha."""

# Pillow's mode: the mode to convert it to, and a notice.
MODES = {
    "1": ("L", "Pixels of 1 bit were converted to 8 bits."),
    "L": ("L", ""),
    "LA": ("LA", ""),
    "La": ("LA", "Premultiplied alpha was converted to straight alpha."),
    "P": ("RGB", "Palette colours were converted to RGB."),
    "PA": ("RGBA", "Palette colours were converted to RGB."),
    "RGB": ("RGB", ""),
    "RGBA": ("RGBA", ""),
    "RGBX": ("RGB", "An unused fourth channel was dropped."),
    "RGBa": ("RGBA", "Premultiplied alpha was converted to straight alpha."),
    "YCbCr": ("RGB", "YCbCr colours were converted to RGB."),
    "HSV": ("RGB", "HSV colours were converted to RGB."),
}


def converter(image: Image.Image, bits: int, notify: Notify) -> ToArray:
    """A function from a band of the image to its array. Raises PictureError if the mode is not supported."""
    mode = image.mode
    if mode in MODES:
        target, sentence = MODES[mode]
        notify(sentence)
        target += alpha_suffix(image, target, bits, notify)
        key = image.info.get("transparency")
        if (mode, target) == ("L", "LA") and bits < 8 and isinstance(key, int):
            return key_converter(key * 255 // ((1 << bits) - 1))  # Pillow scales the pixels, but not the key
        return plain_converter(target)
    if mode in ("CMYK", "LAB"):
        return profile_converter(image, notify)
    if mode.startswith("I;16") or mode == "I" and image.format in ("PPM", "PNG"):
        return grey16_converter(image, bits)
    if mode in ("I", "F"):
        kind = "floating-point numbers" if mode == "F" else "32-bit or signed integers"
        raise PictureError(
            f"its pixels are {kind} of unknown range; convert them to 8 or 16 bits per channel first"
        )
    raise PictureError(
        f"its pixels have Pillow's mode {mode}, which is not supported; convert it to RGB first"
    )


def alpha_suffix(image: Image.Image, target: str, bits: int, notify: Notify) -> str:
    """ "A" if a colour or palette entries are transparent.

    A 16-bit colour key is dropped: its pixels have 8 bits.
    """
    if target.endswith("A") or not image.has_transparency_data:
        return ""
    if bits > 8:
        notify("The transparent colour was dropped.")
        return ""
    notify("Transparent colours were converted to an alpha channel.")
    return "A"


def plain_converter(target: str) -> ToArray:
    """Conversion to a mode by Pillow alone."""
    return lambda band: as_array(band.convert(target))


def key_converter(key: int) -> ToArray:
    """Conversion of grey pixels, of which the value `key` is transparent."""

    def convert(band: Image.Image) -> Array:
        grey = np.asarray(band)
        return np.stack([grey, np.where(grey == key, 0, 255).astype(np.uint8)], axis=-1)

    return convert


def profile_converter(image: Image.Image, notify: Notify) -> ToArray:
    """Conversion of CMYK or LAB to sRGB, by the ICC profile if there is a valid one."""
    icc = image.info.get("icc_profile") if image.mode == "CMYK" else None
    convert = srgb_converter(icc, image.mode) if icc or image.mode == "LAB" else None
    if convert:
        by_profile = " by the ICC profile" if icc else ""
        notify(f"{image.mode} colours were converted to sRGB{by_profile}.")
        return lambda band: as_array(convert(band))
    if image.mode == "LAB":
        raise PictureError("its LAB colours cannot be converted by this Pillow; convert it to RGB first")
    reason = "the ICC profile is invalid" if icc else "there is no ICC profile"
    notify(f"CMYK colours were converted to RGB by a simple formula, because {reason}.")
    return plain_converter("RGB")


def grey16_converter(image: Image.Image, bits: int) -> ToArray:
    """Conversion of 16-bit grey to 8 bits, rounded; one of the values may be transparent."""
    white = (1 << bits) - 1
    inverted = getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == 0  # white is zero, which Pillow ignores
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
    """[h, w, C]."""
    array = np.asarray(band)
    return array[..., None] if array.ndim == 2 else array
