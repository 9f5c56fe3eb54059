"""From what a user wants of the size to a quality level."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from trifocal.container import Bitstream
from trifocal.errors import OptionError, RateError
from trifocal.types import LEVELS_PER_QUALITY, MAX_LEVEL

CLOSE_ENOUGH = 0.002


@dataclass(frozen=True)
class Rate:
    """What was asked for: a level, or a size in bytes of the whole file to stay at or under."""

    level: int | None
    size: int | None


def rate_of(pixels: int, quality: float | None, bpp: float | None, size: int | None) -> Rate:
    """Checks the three ways to say it.

    Args:
        pixels: of the picture.
        quality: 0..100; 50 if none of the three is given.
        bpp: bits of the whole file per pixel, above 0.
        size: bytes of the whole file, above 0.

    Raises:
        OptionError: if more than one is given, or one is out of its range.
    """
    if sum(given is not None for given in (quality, bpp, size)) > 1:
        raise OptionError("Say only one of quality, bpp and size.")
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
    """The best stream of at most `size` bytes.

    Args:
        size: bytes of the whole file.
        estimate: level → bytes, by a Meter.
        write: level → stream, by Writers.

    Raises:
        RateError: if level 0 is larger already; the message says how large.
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
    """The largest level whose estimate is within the size, by a secant in the logarithm, kept in a bracket.

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
