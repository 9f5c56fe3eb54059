"""Issue notices, such as that metadata was dropped, as warnings or through a callback."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from trifocal.errors import TrifocalWarning

__all__ = ["Notify", "warn"]

Notify = Callable[[str], None]
PACKAGE = f"{Path(__file__).parent.parent}{os.sep}"


def warn(message: str) -> None:
    """Issue a TrifocalWarning at the line that called the package."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
        level += 1
    warnings.warn(message, TrifocalWarning, stacklevel=level)
