"""Other codecs for comparison, through Pillow: AVIF, WebP, JPEG, JPEG XL, HEIC, and PNG as the lossless
reference.
"""

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import OptionError, PictureError
from trifocal.pictures import Picture
from trifocal.pictures.picture import register_plug_ins

__all__ = ["LOSSLESS", "PILLOW_CODECS", "PillowCodec", "pillow_codecs"]


LOSSLESS = "png"
CLOSE_ENOUGH = 0.99  # of the allowed bytes, at which the search for a quality stops
GROWTH = 0.04  # of log(bytes) per unit of quality, roughly; first guess of the search


@dataclass(frozen=True)
class PillowCodec:
    """A format that Pillow writes, with fixed options; `quality` is the format's own scale of 0..100.

    PNG ignores the quality: it is lossless.

    Attributes:
        name: on the command line and in tables.
        format: as Pillow names it.
        title: for reports and legends.
        options: of Pillow's writer.
        weights: always empty; presets have a fingerprint here.
        package: what pip installs to add the format.
        qualities: of the published tables, about 0.1 to 2.5 bits per pixel on Kodak.
        slower: whether it is a slower setting of another codec; `trifocal demo` skips those.
    """

    name: str
    format: str
    title: str
    options: Mapping[str, object] = field(default_factory=dict)
    weights: str = ""
    package: str = "--upgrade pillow"
    qualities: tuple[float, ...] = ()
    slower: bool = False

    def encode(self, picture: Picture, quality: float, **options: object) -> bytes:
        """The bytes of a file.

        Args:
            quality: a whole number, 0..100.
            options: further options of Pillow's writer.

        Raises:
            OptionError: for a quality that is not a whole number.
            PictureError: if the format cannot store the image.
        """
        if quality != int(quality):
            raise OptionError(f"{self.title} takes whole qualities, not {quality:g}.")
        stream = io.BytesIO()
        try:
            picture.to_pil().save(stream, self.format, quality=int(quality), **{**self.options, **options})
        except (OSError, ValueError) as error:
            raise PictureError(f"{self.title} cannot store this image: {error}.") from error
        return stream.getvalue()

    def encode_within(
        self, picture: Picture, size: int, encoded: Callable[[], object] = lambda: None
    ) -> tuple[bytes, int]:
        """The file and its quality: about the highest that takes at most `size` bytes, or quality 0 if even
        that takes more.

        Args:
            encoded: called after each quality that is tried.

        Raises:
            PictureError: if the format cannot store the image.
        """
        low, high, quality = -1, 101, 50  # exclusive bounds: the file fits at `low` and not at `high`
        best, chosen = b"", 0
        while high - low > 1:
            data = self.encode(picture, quality)
            encoded()
            if len(data) <= size or quality == 0:
                low, best, chosen = quality, data, quality
            else:
                high = quality
            if CLOSE_ENOUGH * size <= len(data) <= size:
                break
            step = round(math.log(size / len(data)) / GROWTH)
            quality = min(high - 1, max(low + 1, quality + step))
        return best, chosen

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """A file → uint8 [H, W, 3]."""
        with Image.open(io.BytesIO(data), formats=[self.format]) as image:
            return np.asarray(image.convert("RGB"))


AVIF_QUALITIES = (10, 20, 30, 40, 50, 62, 75, 86)
AVIF_444 = {"speed": 4, "subsampling": "4:4:4", "advanced": {"tune": "ssimulacra2"}}
EVEN = (10, 20, 30, 40, 50, 60, 70, 80)

PILLOW_CODECS = {
    codec.name: codec
    for codec in (
        PillowCodec("avif", "AVIF", "AVIF (Pillow, speed 4)", {"speed": 4}, qualities=AVIF_QUALITIES),
        PillowCodec(
            "avif-444",
            "AVIF",
            "AVIF (Pillow, speed 4, 4:4:4, tune=ssimulacra2)",
            AVIF_444,
            qualities=EVEN,
            slower=True,
        ),
        PillowCodec(
            "avif-slow", "AVIF", "AVIF (Pillow, speed 0)", {"speed": 0}, qualities=AVIF_QUALITIES, slower=True
        ),
        PillowCodec(
            "webp",
            "WEBP",
            "WebP (Pillow, method 6)",
            {"method": 6},
            qualities=(5, 15, 30, 50, 70, 82, 90, 95),
        ),
        PillowCodec(
            "jpeg",
            "JPEG",
            "JPEG (Pillow, progressive, 4:2:0)",
            {"progressive": True, "optimize": True},
            qualities=(8, 15, 25, 40, 60, 78, 88, 94),
        ),
        PillowCodec(
            "jxl",
            "JXL",
            "JPEG XL (pillow-jxl, effort 7)",
            {"effort": 7},
            package="pillow-jxl-plugin",
            qualities=(10, 25, 40, 55, 70, 80, 88, 93),
        ),
        PillowCodec(LOSSLESS, "PNG", "the original (PNG)"),
        PillowCodec("heic", "HEIF", "HEIC (pillow-heif, x265)", package="pillow-heif", qualities=EVEN),
    )
}


def pillow_codecs() -> tuple[PillowCodec, ...]:
    """Those of PILLOW_CODECS that Pillow and its installed plug-ins can write."""
    Image.init()
    register_plug_ins()
    return tuple(codec for codec in PILLOW_CODECS.values() if codec.format in Image.SAVE)
