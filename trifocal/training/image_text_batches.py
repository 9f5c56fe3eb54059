"""What the towers train on: views of pictures with their words, boxes, and what a teacher sees in them."""

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
from trifocal.data.categories import CATEGORIES, focus_of, name_of, named_in, phrase, seen_within, words_of
from trifocal.detection.image_encoder import SIDE, STRIDE
from trifocal.detection.onnx_detector import open_session
from trifocal.detection.picodet import PICODET_SIDE, preprocess

GRID = SIDE // STRIDE  # the teacher sees twice the side: its strides 16 and 32 are the tower's 8 and 16
ROLES = ("whole", "square", "part", "part")


@dataclass(frozen=True)
class View:
    """A part of a picture, stretched to SIDE × SIDE.

    Attributes:
        rgb: uint8 [SIDE, SIDE, 3].
        boxes: x0, y0, x1, y1 in pixels of the view, [N, 4]; labels: COCO's category ids, [N].
        captions: of the picture, if enough of it is there for them to be true.
        seen: the teacher's class scores at 1/8 and 1/16 as uint8 of 255, [2·GRID, 2·GRID, 80] and [GRID, GRID, 80].
    """

    rgb: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    captions: tuple[str, ...]
    seen: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None


@dataclass(frozen=True)
class TowerBatch:
    """What a step sees.

    Attributes:
        x: [B, 3, SIDE, SIDE].
        captions: one for each, "" where there is none.
        phrases: words for each, which name an absent thing in every fourth.
        where: where they point, [B, GRID, GRID], 0..1.
        named: the categories that the words name, for each.
        seen: the teacher's scores, [B, ..., 80], or None.
    """

    x: Tensor
    captions: list[str]
    phrases: list[str]
    where: Tensor
    named: list[frozenset[int]]
    seen: tuple[Tensor, Tensor] | None

    def to(self, device: torch.device) -> TowerBatch:
        seen = None if self.seen is None else (self.seen[0].to(device), self.seen[1].to(device))
        return replace(self, x=self.x.to(device), where=self.where.to(device), seen=seen)


class Teacher:
    """PicoDet's class scores of a square view. Raises OptionError for another file."""

    def __init__(self, path: str | Path) -> None:
        self.session = open_session(Path(path))

    def __call__(self, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        outputs = self.session.run(
            None, {self.session.get_inputs()[0].name: preprocess(rgb, PICODET_SIDE, PICODET_SIDE)}
        )
        fine, coarse = (np.rint(255 * scores[0]).astype(np.uint8) for scores in outputs[1:3])
        return fine.reshape(2 * GRID, 2 * GRID, -1), coarse.reshape(GRID, GRID, -1)


def views_of(
    pictures: Sequence[TrainingPicture],
    teacher: Teacher | None,
    roles: Sequence[str] = ROLES,
    seed: int = 1,
    progress: Callable[[float], None] | None = None,
) -> list[View]:
    """A view in each role of every picture: the whole, the largest square at random, random parts."""
    random = np.random.default_rng(seed)
    views = []
    for number, picture in enumerate(pictures):
        views += [_view(picture, role, teacher, random) for role in roles]
        if progress:
            progress((number + 1) / len(pictures))
    return views


class TowerBatches:
    """Batches without end, each view once a round, in random order, mirrored at random."""

    def __init__(self, views: Sequence[View], batch: int, seed: int) -> None:
        self.views, self.batch = views, batch
        self.random = np.random.default_rng(seed)
        self.order: list[int] = []

    def next(self) -> tuple[TowerBatch]:
        if len(self.order) < self.batch:
            self.order += self.random.permutation(len(self.views)).tolist()
        chosen, self.order = self.order[: self.batch], self.order[self.batch :]
        return (collate([self.views[i] for i in chosen], self.random),)


class AllViews:
    """All views as one batch, always the same."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views = views

    def next(self) -> tuple[TowerBatch]:
        return (collate(self.views, np.random.default_rng(0)),)


def collate(views: Sequence[View], random: np.random.Generator, mirrored: float = 0.5) -> TowerBatch:
    """Views with words of their own, each mirrored with that probability."""
    flips = random.random(len(views)) < mirrored
    said = [_say(view, random, absent=place % 4 == 3) for place, view in enumerate(views)]
    named = [names for _, names in said]
    seen = None
    if all(view.seen is not None for view in views):
        fine, coarse = (
            torch.stack([_flipped(view.seen[k], flip) for view, flip in zip(views, flips) if view.seen])
            for k in (0, 1)
        )
        seen = fine.float() / 255, coarse.float() / 255
    return TowerBatch(
        x=torch.stack([_flipped(v.rgb, flip) for v, flip in zip(views, flips)]).permute(0, 3, 1, 2) / 255.0,
        captions=[str(random.choice(v.captions)) if v.captions else "" for v in views],
        phrases=[text for text, _ in said],
        where=where_of(views, named, flips),
        named=named,
        seen=seen,
    )


def _say(view: View, random: np.random.Generator, absent: bool) -> tuple[str, frozenset[int]]:
    """Words and the categories that they name: some that are there, a caption, or something that is not there."""
    there = set(view.labels.tolist())
    if absent or not there:
        number = int(random.choice([n for n in CATEGORIES if n not in there]))
        return phrase([name_of(number, random)], random), frozenset({number})
    text = words_of(view.captions, view.labels, random, caption_in=0.4)
    return text, named_in(text)


def where_of(views: Sequence[View], named: Sequence[frozenset[int]], flips: NDArray[np.bool_]) -> Tensor:
    """The share of each place that lies in a box of what is named, [B, GRID, GRID]."""
    masks = [focus_of(view.boxes, view.labels, names, SIDE, SIDE) for view, names in zip(views, named)]
    stacked = torch.stack([_flipped(mask, flip) for mask, flip in zip(masks, flips)]).float()
    return torch.nn.functional.avg_pool2d(stacked[:, None], SIDE // GRID)[:, 0]


def _flipped(values: NDArray[np.generic], flip: bool) -> Tensor:
    return torch.from_numpy((values[:, ::-1] if flip else values).copy())


def _view(picture: TrainingPicture, role: str, teacher: Teacher | None, random: np.random.Generator) -> View:
    height, width = picture.rgb.shape[:2]
    x0, y0, x1, y1 = _part(width, height, role, random)
    crop = Image.fromarray(picture.rgb[y0:y1, x0:x1])
    rgb = np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    scale = np.array([SIDE / (x1 - x0), SIDE / (y1 - y0)] * 2, np.float32)
    boxes, kept = seen_within(picture.boxes, (x0, y0, x1, y1))
    share = (x1 - x0) * (y1 - y0) / (width * height)
    return View(
        rgb=rgb,
        boxes=boxes[kept] * scale,
        labels=picture.labels[kept],
        captions=picture.captions if share > 0.6 else (),
        seen=None if teacher is None else teacher(np.asarray(crop)),
    )


def _part(width: int, height: int, role: str, random: np.random.Generator) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a view in the picture."""
    if role == "whole":
        return 0, 0, width, height
    wide = high = min(width, height)
    if role == "part":
        wide = int(width * random.uniform(0.45, 0.95))
        high = int(np.clip(wide * random.uniform(0.75, 1.33), 64, height))
    x, y = int(random.integers(width - wide + 1)), int(random.integers(height - high + 1))
    return x, y, x + wide, y + high
