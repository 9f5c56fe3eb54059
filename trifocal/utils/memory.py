"""How the C library's allocator keeps freed memory, or returns it to the operating system."""

import ctypes
import sys
from typing import Any

__all__ = ["keep_freed_memory", "trim_heap"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h
LARGEST_KEPT, NEVER = 2**24, 2**30  # bytes


def keep_freed_memory() -> None:
    """Let glibc's allocator keep freed memory for its next blocks until `trim_heap`, also that of arrays of
    up to 16 MiB. Larger ones, which only images of several tiles have, are returned: kept, they would add
    100 MB to the peak for an image of 12 megapixels.

    A program that codes images allocates arrays of the same sizes again and again. Otherwise the system
    clears the pages of each anew, a tenth of the processor time of a decode. The setting is that of the whole
    process. Has no effect on other systems.
    """
    if set_option := allocator_function("mallopt"):
        set_option(M_MMAP_THRESHOLD, LARGEST_KEPT)
        set_option(M_TRIM_THRESHOLD, NEVER)
        set_option(M_ARENA_MAX, 1)  # one heap for all threads: each would keep its own


def trim_heap() -> None:
    """Return freed memory that the allocator still holds to the system, by glibc's `malloc_trim`.

    Has no effect on other systems. Takes a few milliseconds.
    """
    if trim := allocator_function("malloc_trim"):
        trim(0)


def allocator_function(name: str) -> Any:
    """A function of the C library; None where it is not glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
