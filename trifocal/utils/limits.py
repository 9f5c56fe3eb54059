"""How many pixels a picture may have. Reading, encoding and decoding one takes up to 900 MB and 20 bytes a pixel."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from trifocal.errors import OptionError

__all__ = ["MAX_PIXELS", "limit_pixels", "max_pixels"]

MAX_PIXELS = 1 << 27  # 134 megapixels; the file format allows more
_limit = ContextVar("max_pixels", default=MAX_PIXELS)


def max_pixels() -> int:
    """The limit in this thread."""
    return _limit.get()


@contextmanager
def limit_pixels(count: int) -> Iterator[None]:
    """Pictures and files with more pixels are refused while the block runs, in this thread; 134,217,728 outside of it.

    Raises OptionError for less than one pixel.
    """
    if count < 1:
        raise OptionError(f"The limit of pixels is 1 or more, not {count}.")
    token = _limit.set(count)
    try:
        yield
    finally:
        _limit.reset(token)
