"""The 80 categories of COCO: their names in captions, and where they are in an image."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trifocal.detection.labels import CATEGORIES

PERSON = 1
MAX_NAMES = 2
_NUMBER = {name: number for number, names in CATEGORIES.items() for name in names}
_LONGEST_FIRST = sorted(_NUMBER, key=len, reverse=True)
_NAMES = re.compile(rf"\b({'|'.join(map(re.escape, _LONGEST_FIRST))})(?:e?s)?\b")


def named_categories(text: str) -> frozenset[int]:
    """The ids of the categories that a text names; "hot dog" names no dog."""
    return frozenset(_NUMBER[name] for name in _NAMES.findall(text.lower()))


def category_mask(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], named: frozenset[int], height: int, width: int
) -> NDArray[np.bool_]:
    """True inside the boxes of the named categories, [height, width].

    Args:
        boxes: x0, y0, x1, y1 in pixels, [N, 4].
        labels: category ids, [N].
        named: category ids.
    """
    mask = np.zeros((height, width), dtype=bool)
    for (x0, y0, x1, y1), label in zip(boxes, labels):
        if int(label) in named:
            mask[max(0, int(y0)) : int(np.ceil(y1)), max(0, int(x0)) : int(np.ceil(x1))] = True
    return mask


def clip_boxes(
    boxes: NDArray[np.float32], part: tuple[int, int, int, int], least: float = 0.25
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Clip boxes to a part of an image.

    Args:
        boxes: x0, y0, x1, y1 in pixels, [N, 4].
        part: x0, y0, x1, y1.
        least: share of a box's area that must be inside.

    Returns:
        The clipped boxes relative to the part's corner, [N, 4], and which of them are visible, [N].
    """
    x0, y0, x1, y1 = part
    moved = boxes - np.array([x0, y0, x0, y0], np.float32)
    clipped = moved.clip(0, np.array([x1 - x0, y1 - y0] * 2, np.float32))
    return clipped, _areas(clipped) > least * np.maximum(_areas(moved), 1)


def sample_text(
    captions: Sequence[str],
    labels: NDArray[np.int64],
    random: np.random.Generator,
    caption_probability: float = 0.5,
) -> str:
    """A random text for a part of an image: a caption, or the names of a few objects, or "" if there are
    neither.

    Args:
        captions: that are true of the part.
        labels: category ids of the visible objects, [N].
        caption_probability: probability of a caption where there are both.
    """
    there = sorted(set(labels.tolist()) & set(CATEGORIES))
    if captions and (not there or random.random() < caption_probability):
        return str(random.choice(captions))
    if not there:
        return ""
    chosen = random.choice(there, min(len(there), int(random.integers(1, MAX_NAMES + 1))), replace=False)
    return make_phrase([category_name(int(number), random) for number in chosen], random)


def category_name(number: int, random: np.random.Generator) -> str:
    """A random name of the category; for people always "person", since the other names are not true of
    all."""
    return CATEGORIES[number][0] if number == PERSON else str(random.choice(CATEGORIES[number]))


def make_phrase(names: Sequence[str], random: np.random.Generator) -> str:
    """A short text with these names, in one of several forms."""
    articled = [f"{random.choice(['a', 'the'])} {name}" for name in names]
    listed = " and ".join([", ".join(articled[:-1]), articled[-1]] if len(articled) > 1 else articled)
    return str(random.choice(["{}", "{}", "a photo of {}", "there is {}", "look at {}"])).format(listed)


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)
