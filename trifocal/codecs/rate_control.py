"""Rate control: from a requested quality, rate or file size to a quality level."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trifocal.container import Bitstream
from trifocal.errors import OptionError, RateError
from trifocal.types import LEVELS_PER_QUALITY, MAX_LEVEL

CLOSE_ENOUGH = 0.002
HIGHEST_DEFAULT = 20  # quality of a base layer


@dataclass(frozen=True)
class Rate:
    """The request: a level, or an upper limit of the file in bytes."""

    level: int | None
    size: int | None


def requested_rate(pixels: int, quality: float | None, bpp: float | None, size: int | None) -> Rate:
    """Check the three ways to request a rate.

    Args:
        pixels: of the image.
        quality: 0..100; 50 if none of the three is given.
        bpp: upper limit of the file's bits per pixel, above 0.
        size: upper limit of the file's bytes, above 0.

    Raises:
        OptionError: if more than one is given, or one is out of its range.
    """
    if sum(given is not None for given in (quality, bpp, size)) > 1:
        raise OptionError("Give only one of quality, bpp and size.")
    if bpp is not None:
        if not 0 < bpp < math.inf:
            raise OptionError(f"bpp must be above 0, not {bpp}.")
        return Rate(None, max(1, int(bpp * pixels / 8)))
    if size is not None:
        if size < 1:
            raise OptionError(f"The size must be at least 1 byte, not {size}.")
        return Rate(None, size)
    quality = 50.0 if quality is None else quality
    if not 0 <= quality <= 100:
        raise OptionError(f"Quality goes from 0 to 100, not {quality}.")
    return Rate(round(quality * LEVELS_PER_QUALITY), None)


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
                f"This picture needs at least {stream.size} bytes (quality 0); {size} were allowed."
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
    """The base layer's quality for a level of the enhancement: half of its quality, at most 20. An int, or a tensor [B]."""
    half = level // (2 * LEVELS_PER_QUALITY)
    return half - (half - HIGHEST_DEFAULT) * (half > HIGHEST_DEFAULT)
