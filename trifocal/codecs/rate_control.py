"""The requested rate, and the quality level that reaches a requested size."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from trifocal.container import Bitstream
from trifocal.errors import OptionError, RateError
from trifocal.types import LEVELS_PER_QUALITY, MAX_LEVEL

CLOSE_ENOUGH = 0.002
REFINEMENT = 4  # default gradient steps of the compact base layer
HIGHEST_DEFAULT = 20  # quality of a base layer


@dataclass(frozen=True)
class Rate:
    """The requested rate: at most one of the three; quality 50 if all are None. It is checked when it is
    made.

    Attributes:
        quality: 0..100.
        bpp: bits of the whole file per pixel, above 0.
        max_bytes: bytes of the whole file, 1 or more.

    Raises:
        OptionError: if more than one is given, or one is not a number in its range.
    """

    quality: float | None = None
    bpp: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) > 1:
            raise OptionError("Give only one of quality, bpp and max_bytes.")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise OptionError(f"{name} must be a number, not {value!r}.")
        if self.quality is not None and not 0 <= self.quality <= 100:
            raise OptionError(f"Quality must be from 0 to 100, not {self.quality}.")
        if self.bpp is not None and not 0 < self.bpp < math.inf:
            raise OptionError(f"bpp must be above 0, not {self.bpp}.")
        if self.max_bytes is not None and not 1 <= self.max_bytes < math.inf:
            raise OptionError(f"max_bytes must be 1 or more, not {self.max_bytes}.")

    def at_level(self, level: int | None) -> "Rate":
        """This rate for a model of a single quality level; None is a model of all rates.

        Raises:
            OptionError: if another quality, or a size, is requested.
        """
        if level is None:
            return self
        quality = level / LEVELS_PER_QUALITY
        if self.level is None or self.quality is not None and self.level != level:
            raise OptionError(
                f"These weights were trained for a single rate, quality {quality:g}; leave out quality, bpp "
                "and max_bytes (--quality, --bpp, --bytes)."
            )
        return Rate(quality)

    @property
    def level(self) -> int | None:
        """The quality level, 0..800; None where a size is requested."""
        if self.bpp is not None or self.max_bytes is not None:
            return None
        return round((50.0 if self.quality is None else float(self.quality)) * LEVELS_PER_QUALITY)

    def size(self, pixels: int) -> int | None:
        """The largest size of the file in bytes for an image of so many pixels; None where a quality is
        requested.
        """
        if self.bpp is not None:
            return max(1, int(self.bpp * pixels / 8))
        return None if self.max_bytes is None else int(self.max_bytes)


@dataclass(frozen=True)
class BaseLayerOptions:
    """Options of the base layer of a scalable codec, checked when they are made.

    Attributes:
        quality: 0..100; None for min(20, quality of the image / 2), or by the requested size.
        refinement: gradient steps that adapt the base layer to the image, 0 for none; None for the codec's
            default.
        condition_enhancement: whether the enhancement layer is conditioned on the base preview.

    Raises:
        OptionError: for a value that is not a whole number in its range.
    """

    quality: int | None = None
    refinement: int | None = None
    condition_enhancement: bool = True

    def __post_init__(self) -> None:
        given: dict[str, object] = {"base_quality": self.quality, "refinement": self.refinement}
        for name, value in given.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
                raise OptionError(f"{name} must be a whole number, not {value!r}.")
        if self.quality is not None and not 0 <= self.quality <= 100:
            raise OptionError(f"base_quality must be from 0 to 100, not {self.quality}.")
        if self.refinement is not None and self.refinement < 0:
            raise OptionError(f"refinement must be 0 steps or more, not {self.refinement}.")

    @property
    def is_default(self) -> bool:
        return self == DEFAULT_BASE


DEFAULT_BASE = BaseLayerOptions()


def search(size: int, estimate: Callable[[int], float], write: Callable[[int], Bitstream]) -> Bitstream:
    """The bitstream of highest quality with at most `size` bytes.

    Args:
        size: upper limit of the file's bytes.
        estimate: level → estimated bytes.
        write: level → bitstream.

    Raises:
        RateError: if level 0 exceeds the limit; the message names its size.
    """
    level = _level_for(size, estimate)
    while True:
        stream = write(level)
        if stream.size <= size:
            return stream
        if level == 0:
            raise RateError(
                f"This image needs at least {stream.size} bytes (quality 0); {size} were allowed."
            )
        level -= 1


def _level_for(size: int, estimate: Callable[[int], float]) -> int:
    """The largest level with an estimate within the size, by a bracketed secant search on the logarithm.

    Stops early at an estimate less than CLOSE_ENOUGH under the size.
    """
    low, high = 0, MAX_LEVEL
    bytes_low, bytes_high = estimate(low), estimate(high)
    if bytes_high <= size:
        return high
    if bytes_low > size:
        return low
    while high - low > 1:
        part = math.log(size / bytes_low) / math.log(bytes_high / bytes_low)
        middle = min(high - 1, max(low + 1, low + round(part * (high - low))))
        now = estimate(middle)
        if size * (1 - CLOSE_ENOUGH) <= now <= size:
            return middle
        low, bytes_low, high, bytes_high = (
            (middle, now, high, bytes_high) if now <= size else (low, bytes_low, middle, now)
        )
    return low


def default_base_quality(level: Any) -> Any:
    """The base layer's quality for a level of the enhancement: half of its quality, at most 20. An int, or a
    tensor [B].
    """
    half = level // (2 * LEVELS_PER_QUALITY)
    return half - (half - HIGHEST_DEFAULT) * (half > HIGHEST_DEFAULT)
