"""Return freed memory to the operating system."""

import ctypes
import sys

__all__ = ["give_back"]


def give_back() -> None:
    """Gives what was freed, and the allocator keeps for later, back to the system; a few milliseconds. Only
    glibc can be told to.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
