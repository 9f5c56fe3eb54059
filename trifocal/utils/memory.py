"""Return freed memory to the operating system."""

import ctypes
import sys

__all__ = ["trim_heap"]


def trim_heap() -> None:
    """Return freed memory that the allocator still holds to the system, by glibc's `malloc_trim`.

    Has no effect on other systems. Takes a few milliseconds.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
