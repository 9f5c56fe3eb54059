"""The rivals that people would pick instead, through Pillow: real bytes, and what a viewer makes of them."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import OptionError, PictureError
from trifocal.pictures import Picture
from trifocal.pictures.picture import use_plug_ins

__all__ = ["LOSSLESS", "RIVALS", "Rival", "rivals"]


LOSSLESS = "png"


@dataclass(frozen=True)
class Rival:
    """A format of Pillow with the options that it is measured with; `quality` is the format's own 0..100.

    PNG has no qualities: it stands for the pictures themselves.
    """

    name: str
    format: str  # Pillow's name of it
    title: str
    options: Mapping[str, object] = field(default_factory=dict)
    weights: str = ""
    package: str = "--upgrade pillow"  # what pip installs to have it

    def encode(self, picture: Picture, quality: float, **options: object) -> bytes:
        """The bytes of a whole file, with more options of Pillow's if any are given.

        Raises PictureError, and OptionError where quality is no whole number.
        """
        if quality != int(quality):
            raise OptionError(f"{self.title} takes whole qualities, not {quality:g}.")
        stream = io.BytesIO()
        try:
            picture.to_pil().save(stream, self.format, quality=int(quality), **{**self.options, **options})
        except (OSError, ValueError) as error:
            raise PictureError(f"{self.title} cannot hold this picture: {error}.") from error
        return stream.getvalue()

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]."""
        with Image.open(io.BytesIO(data), formats=[self.format]) as image:
            return np.asarray(image.convert("RGB"))


RIVALS = {
    rival.name: rival
    for rival in (
        Rival("avif", "AVIF", "AVIF (Pillow, speed 4)", {"speed": 4}),
        Rival("webp", "WEBP", "WebP (Pillow, method 6)", {"method": 6}),
        Rival("jpeg", "JPEG", "JPEG (Pillow, progressive, 4:2:0)", {"progressive": True, "optimize": True}),
        Rival("jxl", "JXL", "JPEG XL (pillow-jxl, effort 7)", {"effort": 7}, package="pillow-jxl-plugin"),
        Rival(LOSSLESS, "PNG", "the original (PNG)"),
        Rival("heic", "HEIF", "HEIC (pillow-heif, x265)", package="pillow-heif"),
    )
}


def rivals() -> tuple[Rival, ...]:
    """Those of RIVALS that Pillow and the plug-ins at hand can write."""
    Image.init()
    use_plug_ins()
    return tuple(rival for rival in RIVALS.values() if rival.format in Image.SAVE)
