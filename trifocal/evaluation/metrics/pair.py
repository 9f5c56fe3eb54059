"""A decoded image with its original: the input of a metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trifocal.detection.detections import Pixels
from trifocal.errors import OptionError

__all__ = ["Box", "Measure", "Pair", "Pixels", "check_pair"]

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are outside."""


@dataclass(frozen=True)
class Pair:
    """A decoded image and its original, both uint8 [H, W, 3].

    Attributes:
        captions: of the original; the first is the one that text conditioning uses.
        named: True inside the boxes of the objects that the first caption names, [H, W]; None without such
            boxes.
        objects: boxes x0, y0, x1, y1 of the annotated objects that are large enough to measure, in whole
            pixels.

    Raises:
        OptionError: for other types or different sizes.
    """

    decoded: Pixels
    original: Pixels
    captions: tuple[str, ...] = ()
    named: NDArray[np.bool_] | None = None
    objects: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        check_pair(self.decoded, self.original)


Measure = Callable[[Pair], float | None]
"""Returns None for an image that it cannot measure."""


def check_pair(decoded: Pixels, original: Pixels) -> None:
    """Raise OptionError unless both are uint8 of one shape."""
    if decoded.shape != original.shape or decoded.dtype != np.uint8 or original.dtype != np.uint8:
        raise OptionError(
            f"Only 8-bit images of one size can be compared, not {decoded.dtype} {list(decoded.shape)}"
            f" and {original.dtype} {list(original.shape)}."
        )
