"""What a codec returns: decoded images, and the latents of an image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from trifocal.container import Layer
from trifocal.container.components import REST, REST_NAME, ComponentLayout, part_names
from trifocal.entropy.coder import Array
from trifocal.pictures import Picture
from trifocal.types import Condition

__all__ = ["Decoded", "Latents", "partially_decoded"]


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        picture: the image.
        damaged: numbers of its damaged tiles (only with `best_effort`).
        missing: labels of the components that were not decoded, and "the rest" if it was not. Empty for files
            without components.
        rest_is_blocked: whether the file has the rest, but not all components that its decoding needs.
        look_of_missing: how these parts look, as the end of a sentence.
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
        components = [name for name in self.missing if name != REST_NAME]
        *others, last = components if self.rest_is_blocked else self.missing
        names = f"{', '.join(others)} and {last}" if others else last
        blocked = (
            f" Nor is {REST_NAME}, which the file has, but which needs all components."
            if self.rest_is_blocked
            else ""
        )
        return (
            f"Not decoded, because the file lacks them or they are damaged: {names}.{blocked} These parts "
            f"look {self.look_of_missing}; `trifocal merge` adds missing parts."
        )


def partially_decoded(
    picture: Picture,
    layout: ComponentLayout,
    chunks: Sequence[bytes | None],
    missing: Collection[tuple[int, int]],
    composed: Collection[int],
    look: str,
) -> Decoded:
    """The result for a file with components.

    Args:
        missing: the parts that were not decoded, each as (part, index of the tile).
        composed: indices of the tiles in which they are composed.
        look: how they look in other tiles.
    """
    if composed:
        invented = "sharper than its base layer, but their detail is invented"
        look = invented if {tile for _, tile in missing} <= {*composed} else f"{look}, or {invented}"
    lacking = {tile for part, tile in missing if part != REST}
    blocked = any(chunks[layout.chunks[REST, tile]] for tile in lacking if (REST, tile) in missing)
    names = part_names(layout, {part for part, _ in missing})
    return Decoded(picture, (), names, blocked, look)


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
