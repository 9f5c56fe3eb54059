"""Check the size of an image, in place of Pillow's own limit."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from trifocal.errors import PictureError
from trifocal.utils.limits import max_pixels

MAX_SIDE = 1 << 16  # pixels; limit of the file format
LOCK = threading.RLock()


def check_size(width: int, height: int) -> None:
    """Raises PictureError, with the end of a sentence, if an image of this size is not allowed."""
    if not 1 <= width <= MAX_SIDE or not 1 <= height <= MAX_SIDE or width * height > max_pixels():
        raise PictureError(
            f"its size is {width} x {height} pixels, but only 1 to {MAX_SIDE} a side and {max_pixels()} in"
            " total are"
            " allowed; if you trust it, raise the total with --max-pixels, or with trifocal.limit_pixels"
            " in Python"
        )


@contextmanager
def pillow_limit_lifted() -> Iterator[None]:
    """Lift Pillow's global pixel limit while the block runs; call `check_size` before it."""
    with LOCK:
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = theirs
