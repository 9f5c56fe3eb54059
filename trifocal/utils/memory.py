"""How the C library's allocator takes memory from the operating system, keeps it, and returns it."""

import ctypes
import sys
from ctypes import c_int, c_size_t, c_void_p
from threading import Thread
from typing import Any

__all__ = ["keep_freed_memory", "take_memory_ahead", "trim_heap"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8  # of malloc.h
LARGEST_KEPT, NEVER = 2**24, 2**30  # bytes
DEFAULT_MMAP_MAX = 65536
MADV_POPULATE_WRITE = 23  # of linux/mman.h, since Linux 5.14
AT_ONCE = 2**20  # bytes


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


def take_memory_ahead(size: int) -> None:
    """Take so many bytes from the system in a thread, while the main thread imports modules. The system would
    give them page by page at the first use of each, which takes 5 % of the time of a decode. Has no effect on
    systems without glibc, and on Linux before 5.14.
    """
    set_option, allocate, free, advise = map(allocator_function, ("mallopt", "malloc", "free", "madvise"))
    if set_option is None:
        return
    allocate.argtypes, allocate.restype = [c_size_t], c_void_p
    free.argtypes, advise.argtypes = [c_void_p], [c_void_p, c_size_t, c_int]
    set_option(M_MMAP_MAX, 0)  # the block becomes part of the heap, which keeps it when it is freed
    start = allocate(size)
    set_option(M_MMAP_MAX, DEFAULT_MMAP_MAX)
    if start is None:
        return
    free(start)

    def take() -> None:
        first = -(-start // AT_ONCE) * AT_ONCE
        for part in range(first, start + size - AT_ONCE, AT_ONCE):
            if advise(part, AT_ONCE, MADV_POPULATE_WRITE):
                return

    Thread(target=take, daemon=True).start()


def trim_heap() -> None:
    """Return freed memory that the allocator still holds to the system, by glibc's `malloc_trim`.

    Has no effect on other systems. Takes a few milliseconds.
    """
    if trim := allocator_function("malloc_trim"):
        trim(0)


def allocator_function(name: str) -> Any:
    """A function of the C library; None where it is not glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
