"""Views of images with captions, phrases, boxes and class scores, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trifocal.data import TrainingPicture
from trifocal.data.categories import (
    category_mask,
    category_name,
    clip_boxes,
    make_phrase,
    named_categories,
    sample_text,
)
from trifocal.detection.image_encoder import SIDE, STRIDE
from trifocal.detection.labels import CATEGORIES
from trifocal.detection.onnx_detector import open_session
from trifocal.detection.picodet import PICODET_SIDE, preprocess

GRID = (
    SIDE // STRIDE
)  # the teacher's input has twice the side: its strides 16 and 32 are the image encoder's 8 and 16
CROP_KINDS = ("whole", "square", "part", "part")


@dataclass(frozen=True)
class View:
    """A part of an image, resized to SIDE × SIDE.

    Attributes:
        rgb: uint8 [SIDE, SIDE, 3].
        boxes: x0, y0, x1, y1 in pixels of the view, [N, 4].
        labels: COCO category ids, [N].
        captions: of the image, if the view covers most of it.
        scores: the teacher's class scores at strides 8 and 16, times 255, uint8 [2·GRID, 2·GRID, 80] and
            [GRID, GRID, 80].
    """

    rgb: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    captions: tuple[str, ...]
    scores: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None


@dataclass(frozen=True)
class ImageTextBatch:
    """A batch of B views with texts.

    Attributes:
        x: [B, 3, SIDE, SIDE] in 0..1.
        captions: one per view, "" where there is none.
        phrases: one per view; every fourth names an object that is absent.
        coverage: the share of each position that is covered by a box of a named object, [B, GRID, GRID],
            0..1.
        named_categories: COCO category ids that the phrases name, per view.
        scores: the teacher's class scores, [B, 2·GRID, 2·GRID, 80] and [B, GRID, GRID, 80], 0..1; or None.
    """

    x: Tensor
    captions: list[str]
    phrases: list[str]
    coverage: Tensor
    named_categories: list[frozenset[int]]
    scores: tuple[Tensor, Tensor] | None

    def to(self, device: torch.device) -> ImageTextBatch:
        """The batch on a device."""
        scores = None if self.scores is None else (self.scores[0].to(device), self.scores[1].to(device))
        return replace(self, x=self.x.to(device), coverage=self.coverage.to(device), scores=scores)


class ClassMapTeacher:
    """Class scores of PicoDet at each position of a view. Raises OptionError if the file is not an ONNX
    model.

    Args:
        path: PicoDet as ONNX.
    """

    def __init__(self, path: str | Path) -> None:
        self.session = open_session(Path(path))

    def __call__(self, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """An image [H, W, 3] → scores times 255, [2·GRID, 2·GRID, 80] and [GRID, GRID, 80]."""
        outputs = self.session.run(
            None, {self.session.get_inputs()[0].name: preprocess(rgb, PICODET_SIDE, PICODET_SIDE)}
        )
        fine, coarse = (np.rint(255 * scores[0]).astype(np.uint8) for scores in outputs[1:3])
        return fine.reshape(2 * GRID, 2 * GRID, -1), coarse.reshape(GRID, GRID, -1)


def make_views(
    pictures: Sequence[TrainingPicture],
    teacher: ClassMapTeacher | None,
    crop_kinds: Sequence[str] = CROP_KINDS,
    seed: int = 1,
    progress: Callable[[float], None] | None = None,
) -> list[View]:
    """Views of every image, one for each kind of crop.

    Args:
        teacher: of class scores, or None.
        crop_kinds: "whole", "square" (the largest square, at a random place) or "part" (a random part).
        progress: called with the fraction of the images that are done.
    """
    random = np.random.default_rng(seed)
    views = []
    for number, picture in enumerate(pictures):
        views += [_view(picture, crop_kind, teacher, random) for crop_kind in crop_kinds]
        if progress:
            progress((number + 1) / len(pictures))
    return views


class ImageTextBatches:
    """Endless batches of views in random order, each once per epoch, mirrored at random. Each batch depends
    only on the arguments and its number, of which `first` is that of the first one."""

    def __init__(self, views: Sequence[View], batch: int, seed: int, first: int = 0) -> None:
        self.views, self.batch, self.seed, self.number = views, batch, seed, first

    def next(self) -> tuple[ImageTextBatch]:
        """The next batch."""
        indices = range(self.number * self.batch, (self.number + 1) * self.batch)
        epochs = {index // len(self.views) for index in indices}
        orders = {
            epoch: np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.views))
            for epoch in epochs
        }
        chosen = [self.views[orders[index // len(self.views)][index % len(self.views)]] for index in indices]
        random = np.random.default_rng((self.seed, 1, self.number))
        self.number += 1
        return (collate(chosen, random),)

    def close(self) -> None:
        """Nothing to stop."""


class RepeatedBatch:
    """All views as one batch, which is the same each time."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views = views

    def next(self) -> tuple[ImageTextBatch]:
        """The batch."""
        return (collate(self.views, np.random.default_rng(0)),)

    def close(self) -> None:
        """Nothing to stop."""


def collate(views: Sequence[View], random: np.random.Generator, mirrored: float = 0.5) -> ImageTextBatch:
    """A batch of views with random captions and phrases, each mirrored with probability `mirrored`."""
    flips = random.random(len(views)) < mirrored
    phrases = [_phrase(view, random, absent=place % 4 == 3) for place, view in enumerate(views)]
    named = [names for _, names in phrases]
    scores = None
    if all(view.scores is not None for view in views):
        fine, coarse = (
            torch.stack([_flipped(view.scores[k], flip) for view, flip in zip(views, flips) if view.scores])
            for k in (0, 1)
        )
        scores = fine.float() / 255, coarse.float() / 255
    return ImageTextBatch(
        x=torch.stack([_flipped(v.rgb, flip) for v, flip in zip(views, flips)]).permute(0, 3, 1, 2) / 255.0,
        captions=[str(random.choice(v.captions)) if v.captions else "" for v in views],
        phrases=[text for text, _ in phrases],
        coverage=phrase_masks(views, named, flips),
        named_categories=named,
        scores=scores,
    )


def _phrase(view: View, random: np.random.Generator, absent: bool) -> tuple[str, frozenset[int]]:
    """A text and the categories that it names: names of present objects, a caption, or the name of an absent
    object."""
    there = set(view.labels.tolist())
    if absent or not there:
        number = int(random.choice([n for n in CATEGORIES if n not in there]))
        return make_phrase([category_name(number, random)], random), frozenset({number})
    text = sample_text(view.captions, view.labels, random, caption_probability=0.4)
    return text, named_categories(text)


def phrase_masks(views: Sequence[View], named: Sequence[frozenset[int]], flips: NDArray[np.bool_]) -> Tensor:
    """The share of each position that is covered by a box of a named category, [B, GRID, GRID].

    Args:
        named: category ids, per view.
        flips: which views are mirrored, [B].
    """
    masks = [category_mask(view.boxes, view.labels, names, SIDE, SIDE) for view, names in zip(views, named)]
    stacked = torch.stack([_flipped(mask, flip) for mask, flip in zip(masks, flips)]).float()
    return torch.nn.functional.avg_pool2d(stacked[:, None], SIDE // GRID)[:, 0]


def _flipped(values: NDArray[np.generic], flip: bool) -> Tensor:
    return torch.from_numpy((values[:, ::-1] if flip else values).copy())


def _view(
    picture: TrainingPicture, crop_kind: str, teacher: ClassMapTeacher | None, random: np.random.Generator
) -> View:
    height, width = picture.rgb.shape[:2]
    x0, y0, x1, y1 = _part(width, height, crop_kind, random)
    crop = Image.fromarray(picture.rgb[y0:y1, x0:x1])
    rgb = np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    scale = np.array([SIDE / (x1 - x0), SIDE / (y1 - y0)] * 2, np.float32)
    boxes, kept = clip_boxes(picture.boxes, (x0, y0, x1, y1))
    share = (x1 - x0) * (y1 - y0) / (width * height)
    return View(
        rgb=rgb,
        boxes=boxes[kept] * scale,
        labels=picture.labels[kept],
        captions=picture.captions if share > 0.6 else (),
        scores=None if teacher is None else teacher(np.asarray(crop)),
    )


def _part(width: int, height: int, crop_kind: str, random: np.random.Generator) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a view in its image."""
    if crop_kind == "whole":
        return 0, 0, width, height
    wide = high = min(width, height)
    if crop_kind == "part":
        wide = int(width * random.uniform(0.45, 0.95))
        high = int(np.clip(wide * random.uniform(0.75, 1.33), 64, height))
    x, y = int(random.integers(width - wide + 1)), int(random.integers(height - high + 1))
    return x, y, x + wide, y + high
