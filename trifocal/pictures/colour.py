"""Read ICC profiles, detect sRGB, and convert CMYK and LAB to sRGB."""

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

SRGB_TOLERANCE = 1  # levels of 255; a profile that changes no colour by more is treated as sRGB
PROFILE_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK", b"Lab ": "LAB"}

Convert = Callable[[Image.Image], Image.Image]


def profile_mode(icc: bytes) -> str | None:
    """The Pillow mode of the pixels that a profile describes, or None if the profile cannot be used."""
    from PIL import ImageCms  # takes 10 ms, and few images have a profile

    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except OSError:
        return None
    return PROFILE_SPACES.get(icc[16:20])


@lru_cache(maxsize=64)
def is_srgb(icc: bytes) -> bool:
    """Whether an RGB or grey profile maps a grid of colours to the same sRGB colours."""
    mode = profile_mode(icc)
    if mode not in ("RGB", "L"):
        return False
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    image = Image.fromarray(grid if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    convert = srgb_converter(icc, mode)
    if convert is None:
        return False
    before = np.asarray(image.convert("RGB")).astype(int)
    return int(np.abs(np.asarray(convert(image)).astype(int) - before).max()) <= SRGB_TOLERANCE


def srgb_converter(icc: bytes | None, mode: str) -> Convert | None:
    """A function from images of a mode to sRGB by a profile (LAB: None); None if the profile is invalid."""
    from PIL import ImageCms

    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    try:
        source = ImageCms.createProfile("LAB") if icc is None else ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags
        )
    except (ImageCms.PyCMSError, OSError):
        return None

    def convert(image: Image.Image) -> Image.Image:
        changed = ImageCms.applyTransform(image, transform)
        assert changed is not None
        return changed

    return convert
