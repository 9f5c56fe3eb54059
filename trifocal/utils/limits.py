"""The maximum number of pixels of an image.

Reading, encoding and decoding take up to 600 MB plus 20 bytes per pixel, with the torch engine 950 MB.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from trifocal.errors import OptionError

__all__ = ["MAX_PIXELS", "limit_pixels", "max_pixels"]

MAX_PIXELS = 1 << 27  # 134 megapixels; the file format allows more
_limit = ContextVar("max_pixels", default=MAX_PIXELS)


def max_pixels() -> int:
    """The current limit in this thread."""
    return _limit.get()


@contextmanager
def limit_pixels(count: int) -> Iterator[None]:
    """Refuse images and files with more than `count` pixels in this thread while the block runs.

    The default limit is 134,217,728 pixels.

    Raises:
        OptionError: if `count` is less than 1.
    """
    if count < 1:
        raise OptionError(f"The pixel limit must be 1 or more, not {count}.")
    token = _limit.set(count)
    try:
        yield
    finally:
        _limit.reset(token)
