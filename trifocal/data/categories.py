"""The 80 categories of COCO: their names in captions, and where they are in an image."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Names in captions by COCO category id (the ids have gaps). The first is COCO's own.
CATEGORIES: dict[int, tuple[str, ...]] = {
    1: ("person", "man", "woman", "boy", "girl", "child", "kid", "lady", "guy", "baby", "player", "rider", "skier",
        "surfer", "snowboarder", "skateboarder", "people", "men", "women", "children", "crowd", "toddler", "skater"),
    2: ("bicycle", "bike", "cyclist"), 3: ("car", "suv", "sedan"), 4: ("motorcycle", "motorbike", "scooter"),
    5: ("airplane", "plane", "jet", "aircraft", "airliner"), 6: ("bus",), 7: ("train", "locomotive"),
    8: ("truck", "pickup"), 9: ("boat", "ship", "sailboat", "canoe", "kayak"), 10: ("traffic light", "stoplight"),
    11: ("fire hydrant", "hydrant"), 13: ("stop sign",), 14: ("parking meter",), 15: ("bench",),
    16: ("bird", "seagull", "pigeon", "parrot", "duck"), 17: ("cat", "kitten"), 18: ("dog", "puppy"),
    19: ("horse", "pony"), 20: ("sheep", "lamb", "goat"), 21: ("cow", "cattle", "bull", "calf"), 22: ("elephant",),
    23: ("bear",), 24: ("zebra",), 25: ("giraffe",), 27: ("backpack",), 28: ("umbrella", "parasol"),
    31: ("handbag", "purse"), 32: ("tie", "necktie"), 33: ("suitcase", "luggage"), 34: ("frisbee",), 35: ("skis", "ski"),
    36: ("snowboard",), 37: ("sports ball", "ball", "soccer ball", "baseball", "basketball"), 38: ("kite",),
    39: ("baseball bat", "bat"), 40: ("baseball glove", "glove", "mitt"), 41: ("skateboard",), 42: ("surfboard",),
    43: ("tennis racket", "racket", "racquet"), 44: ("bottle",), 46: ("wine glass",), 47: ("cup", "mug"), 48: ("fork",),
    49: ("knife",), 50: ("spoon",), 51: ("bowl",), 52: ("banana",), 53: ("apple",), 54: ("sandwich", "burger"),
    55: ("orange",), 56: ("broccoli",), 57: ("carrot",), 58: ("hot dog", "hotdog"), 59: ("pizza",),
    60: ("donut", "doughnut"), 61: ("cake", "cupcake"), 62: ("chair",), 63: ("couch", "sofa"),
    64: ("potted plant", "plant", "flower pot"), 65: ("bed",), 67: ("dining table", "table"), 70: ("toilet",),
    72: ("tv", "television", "monitor", "screen"), 73: ("laptop",), 74: ("mouse",), 75: ("remote", "controller"),
    76: ("keyboard",), 77: ("cell phone", "phone", "cellphone"), 78: ("microwave",), 79: ("oven", "stove"),
    80: ("toaster",), 81: ("sink",), 82: ("refrigerator", "fridge"), 84: ("book",), 85: ("clock",), 86: ("vase",),
    87: ("scissors",), 88: ("teddy bear", "teddy"), 89: ("hair drier", "hair dryer"), 90: ("toothbrush",),
}  # fmt: skip
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
