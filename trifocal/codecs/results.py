"""What a codec returns: decoded images, and the latents of an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trifocal.container import Layer
from trifocal.entropy.coder import Array
from trifocal.pictures import Picture
from trifocal.types import Condition

__all__ = ["Decoded", "Latents"]


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        picture: the image.
        damaged: numbers of its damaged tiles (only with `best_effort`).
        missing: labels of the components that the file lacks or, with `best_effort`, has damaged, and "the
            rest": they look as `look_of_missing` says. Empty for files without components.
        rest_is_blocked: whether the file has the rest, but not all components that its decoding needs.
        look_of_missing: how the missing ones look, as the end of a sentence.
    """

    picture: Picture
    damaged: tuple[int, ...] = field(default=())
    missing: tuple[str, ...] = field(default=())
    rest_is_blocked: bool = field(default=False, repr=False)
    look_of_missing: str = field(default="as coarse as its base layer", repr=False)

    @property
    def missing_notice(self) -> str | None:
        """What is missing, in a sentence or two; None if nothing is."""
        if not self.missing:
            return None
        *others, last = self.missing
        names = f"{', '.join(others)} and {last}" if others else last
        blocked = (
            " The file has the rest, but decoding it needs all components." if self.rest_is_blocked else ""
        )
        return (
            f"Decoded without {names}, which the file lacks or has damaged: {self.look_of_missing}; "
            f"`trifocal merge` adds other parts.{blocked}"
        )


@dataclass(frozen=True)
class Latents:
    """The latents of one image, from `Codec.analyse` or `Codec.decode_latents`. Change `y` with
    `dataclasses.replace`.

    Attributes:
        y: [1, h, w, M], float32, of the image padded to multiples of 64 pixels. From `analyse` of a codec
            that reads masks there is one more channel, the importance map.
        width, height: of the image in pixels.
        condition: side input of the synthesis.
        layers: the other layers of the file.
        quality: of the file that they were decoded from, or None.
        grey: whether the image has one channel.
    """

    y: Array
    width: int
    height: int
    condition: Condition[Any] | None = None
    layers: tuple[Layer, ...] = ()
    quality: float | None = None
    grey: bool = False
