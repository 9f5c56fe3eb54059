"""Draw labelled boxes on an image."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trifocal.pictures.picture import Picture

__all__ = ["draw_boxes"]

MIN_SIDE = 320  # pixels of the longer side; smaller images are enlarged, so that labels are readable
LINES = 80  # of text along the longer side
MIN_FONT_SIZE = 12  # pixels
HUE_STEP = 0.618  # of the circle of hues, between two classes: the golden ratio keeps consecutive hues apart

Box = Sequence[float]  # x0, y0, x1, y1
Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are exclusive


def draw_boxes(picture: Picture, boxes: Sequence[Box], texts: Sequence[str], kinds: Sequence[int]) -> Picture:
    """An opaque RGB copy with boxes on it; an image below MIN_SIDE pixels is enlarged by an integer factor.

    Args:
        picture: the image.
        boxes: x0, y0, x1, y1 in pixels; earlier boxes are drawn over later ones.
        texts: the label of each box. A label moves down to avoid earlier labels, and is omitted if there is
            no room.
        kinds: the class of each box, which selects its colour.
    """
    factor = max(1, -(-MIN_SIDE // max(picture.width, picture.height)))
    image = Image.fromarray(np.ascontiguousarray(picture.rgb))
    if factor > 1:
        image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    size = font_size(image.width, image.height)
    font = ImageFont.load_default(size)
    placed = [
        (scaled_box(box, factor, image.size), class_colour(kind))
        for box, kind in zip(boxes, kinds, strict=True)
    ]
    for box, colour in reversed(placed):
        draw.rectangle(box, outline=colour, width=max(1, size // 6))
    labels: list[Rectangle] = []
    for (box, colour), text in zip(placed, texts, strict=True):
        draw_label(draw, font, box, colour, text, labels)
    return Picture(np.asarray(image), icc=None if picture.grey else picture.icc)


def font_size(width: int, height: int) -> int:
    """The font size for an image of that size, in pixels."""
    return max(MIN_FONT_SIZE, min(max(width, height) // LINES, min(width, height) // 8))


def scaled_box(box: Box, factor: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The first and last pixels of a box, inclusive, in an image that was enlarged to `size`."""
    x0, y0, x1, y1 = (
        min(max(round(factor * edge), 0), side) for edge, side in zip(box, (*size, *size), strict=True)
    )
    left, top = min(x0, x1, size[0] - 1), min(y0, y1, size[1] - 1)
    return left, top, max(left, x0 - 1, x1 - 1), max(top, y0 - 1, y1 - 1)


def class_colour(kind: int) -> Colour:
    """A saturated colour for a class number."""
    red, green, blue = colorsys.hsv_to_rgb(kind * HUE_STEP % 1, 0.8, 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_label(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    box: tuple[int, int, int, int],
    colour: Colour,
    text: str,
    labels: list[Rectangle],
) -> None:
    """Draw the text on a rectangle above the box, or in it at the top of the image, below earlier labels."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    margin = max(2, round((bottom - top) / 4))
    wide, high = round(right - left) + 2 * margin, round(bottom - top) + 2 * margin
    x = max(0, min(box[0], draw.im.size[0] - wide))
    y = max(0, min(box[1] - high if box[1] >= high else box[1], draw.im.size[1] - high))
    while (other := first_overlap(labels, (x, y, x + wide, y + high))) is not None:
        y = other[3]
    if labels and y + high > draw.im.size[1]:
        return
    labels.append((x, y, x + wide, y + high))
    draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
    is_bright = 299 * colour[0] + 587 * colour[1] + 114 * colour[2] > 1000 * 110
    draw.text((x + margin - left, y + margin - top), text, fill="black" if is_bright else "white", font=font)


def first_overlap(labels: Sequence[Rectangle], label: Rectangle) -> Rectangle | None:
    """The first of the labels that overlaps this one, or None."""
    left, top, right, bottom = label
    for other in labels:
        if left < other[2] and other[0] < right and top < other[3] and other[1] < bottom:
            return other
    return None
