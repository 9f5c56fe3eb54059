"""How large a picture may be. Pillow's own limit is lower, kept in a global, and warns; ours refuses with a sentence."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from trifocal.errors import PictureError
from trifocal.utils.limits import max_pixels

MAX_SIDE = 1 << 16  # pixels; the file format holds no more
LOCK = threading.RLock()


def check_size(width: int, height: int) -> None:
    """Raises PictureError for sizes that no .tri file holds, or that are above the limit of pixels."""
    if not 1 <= width <= MAX_SIDE or not 1 <= height <= MAX_SIDE or width * height > max_pixels():
        raise PictureError(
            f"its size is {width} x {height} pixels, and 1 to {MAX_SIDE} a side and {max_pixels()} in all are allowed; if you trust it,"
            " raise the latter with --max-pixels, or trifocal.limit_pixels in Python"
        )


@contextmanager
def no_limit_of_pillow() -> Iterator[None]:
    """Lifts Pillow's global limit while the block runs; the caller checks the size by check_size."""
    with LOCK:
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = theirs
