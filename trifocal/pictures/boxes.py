"""Boxes, with words at them, drawn on a picture."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trifocal.pictures.picture import Picture

__all__ = ["with_boxes"]

LEAST = (
    320  # pixels of the longer side; smaller pictures are shown enlarged, so that words can be read on them
)
LINES = 80  # of text, that the longer side has room for
LETTERS = 12  # pixels, at least
GOLDEN_RATIO = 0.618  # of the circle of hues, between one kind and the next: neighbours look different

Box = Sequence[float]
Ink = tuple[int, int, int]
Plate = tuple[int, int, int, int]  # left, top, right and bottom; the last two are the first pixels outside


def with_boxes(picture: Picture, boxes: Sequence[Box], texts: Sequence[str], kinds: Sequence[int]) -> Picture:
    """The picture in colour and opaque, with boxes on it; one below LEAST pixels is enlarged by a whole factor.

    Args:
        boxes: x0, y0, x1, y1 in pixels; those that come first are drawn over the others.
        texts: what stands at each; a text moves down from those that come before it, and is left out where it has no room.
        kinds: a number for each; boxes of one kind have one colour.
    """
    factor = max(1, -(-LEAST // max(picture.width, picture.height)))
    image = Image.fromarray(np.ascontiguousarray(picture.rgb))
    if factor > 1:
        image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    size = letters_of(image.width, image.height)
    font = ImageFont.load_default(size)
    placed = [(fitted(box, factor, image.size), ink_of(kind)) for box, kind in zip(boxes, kinds, strict=True)]
    for box, ink in reversed(placed):
        draw.rectangle(box, outline=ink, width=max(1, size // 6))
    plates: list[Plate] = []
    for (box, ink), text in zip(placed, texts, strict=True):
        label(draw, font, box, ink, text, plates)
    return Picture(np.asarray(image), icc=None if picture.grey else picture.icc)


def letters_of(width: int, height: int) -> int:
    """The height of letters for a picture of that size, in pixels."""
    return max(LETTERS, min(max(width, height) // LINES, min(width, height) // 8))


def fitted(box: Box, factor: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The first and last pixels of a box, within a picture that was enlarged to `size`."""
    x0, y0, x1, y1 = (
        min(max(round(factor * place), 0), side) for place, side in zip(box, (*size, *size), strict=True)
    )
    left, top = min(x0, x1, size[0] - 1), min(y0, y1, size[1] - 1)
    return left, top, max(left, x0 - 1, x1 - 1), max(top, y0 - 1, y1 - 1)


def ink_of(kind: int) -> Ink:
    red, green, blue = colorsys.hsv_to_rgb(kind * GOLDEN_RATIO % 1, 0.8, 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def label(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    box: tuple[int, int, int, int],
    ink: Ink,
    text: str,
    plates: list[Plate],
) -> None:
    """The text on a plate of the box's colour, above the box or, at the picture's upper edge, in it; below other plates."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    margin = max(2, round((bottom - top) / 4))
    wide, high = round(right - left) + 2 * margin, round(bottom - top) + 2 * margin
    x = max(0, min(box[0], draw.im.size[0] - wide))
    y = max(0, min(box[1] - high if box[1] >= high else box[1], draw.im.size[1] - high))
    while (under := covered(plates, (x, y, x + wide, y + high))) is not None:
        y = under[3]
    if plates and y + high > draw.im.size[1]:
        return
    plates.append((x, y, x + wide, y + high))
    draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=ink)
    dark = 299 * ink[0] + 587 * ink[1] + 114 * ink[2] > 1000 * 110
    draw.text((x + margin - left, y + margin - top), text, fill="black" if dark else "white", font=font)


def covered(plates: Sequence[Plate], plate: Plate) -> Plate | None:
    """The first of the plates that this one would cover a part of."""
    left, top, right, bottom = plate
    for other in plates:
        if left < other[2] and other[0] < right and top < other[3] and other[1] < bottom:
            return other
    return None
