"""ICC profiles: which may stay, which say nothing new, and the way from CMYK and LAB to sRGB."""

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SRGB_TOLERANCE = 1  # levels of 255: a profile that moves no colour further is sRGB under another name
BLACK_POINT_COMPENSATION = ImageCms.Flags.BLACKPOINTCOMPENSATION
RELATIVE = ImageCms.Intent.RELATIVE_COLORIMETRIC
PROFILE_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK", b"Lab ": "LAB"}

Convert = Callable[[Image.Image], Image.Image]


def space_of(icc: bytes) -> str | None:
    """The Pillow mode that a profile is for, or None where it cannot be used at all."""
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except OSError:
        return None
    return PROFILE_SPACES.get(icc[16:20])


@lru_cache(maxsize=64)
def is_srgb(icc: bytes) -> bool:
    """Whether the profile (of RGB or grey) leaves all colours of a grid where sRGB has them."""
    mode = space_of(icc)
    if mode not in ("RGB", "L"):
        return False
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    image = Image.fromarray(grid if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    convert = to_srgb(icc, mode)
    if convert is None:
        return False
    before = np.asarray(image.convert("RGB")).astype(int)
    return int(np.abs(np.asarray(convert(image)).astype(int) - before).max()) <= SRGB_TOLERANCE


def to_srgb(icc: bytes | None, mode: str) -> Convert | None:
    """What turns images of this mode into RGB by the profile (LAB needs none); None where the profile cannot do that."""
    try:
        source = ImageCms.createProfile("LAB") if icc is None else ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", RELATIVE, BLACK_POINT_COMPENSATION
        )
    except (ImageCms.PyCMSError, OSError):
        return None

    def convert(image: Image.Image) -> Image.Image:
        changed = ImageCms.applyTransform(image, transform)
        assert changed is not None
        return changed

    return convert
