"""What detectors train on: scenes of one shape, cut from pictures or put together from four, with their boxes, and what a
teacher sees in them."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor
from torchvision.ops import batched_nms

from trifocal.data import TrainingPicture
from trifocal.data.categories import seen_within
from trifocal.data.prefetching import Prefetcher
from trifocal.detection.input_size import COCO_IDS, STEP, compact_size
from trifocal.detection.onnx_detector import is_picodet, open_session
from trifocal.detection.picodet import OVERLAP, PICODET_SIDE, STRIDES, picodet_cells, preprocess
from trifocal.errors import OptionError
from trifocal.losses.detection import Seen, Target

PROPORTIONS = (
    (640, 480),
    (480, 640),
    (640, 582),
)  # widths and heights of pictures as which scenes are looked at
SHARES = (0.6, 0.25, 0.15)
WHOLE, MOSAIC = 0.4, 0.25  # how often a scene is a whole picture, and how often four of them
MUCH = 0.2  # of a scene, that a part of a large object covers: then it is seen, however small a part it is
LEAST_PIXELS = 4  # of a box's sides
LEAST_SCORE = 0.4  # of what the teacher finds where nobody said what is there
CANDIDATES, LEAST_CANDIDATE = 300, 0.05

Rgb = NDArray[np.uint8]
Detections = tuple[NDArray[np.float32], NDArray[np.int64]]  # boxes [N, 4], category ids [N]
Scene = tuple[Tensor, list[Target], list[Seen] | None]
"""Pictures x [B, 3, H, W] in 0..1, what is true of each, and what the teacher says."""


class DetectionTeacher:
    """PicoDet, with what it says before its boxes are sorted out. Raises OptionError for another file, MissingExtra."""

    def __init__(self, path: str | Path) -> None:
        self.session = open_session(Path(path), threads=1)  # the other is for what learns
        if not is_picodet(self.session.get_outputs()):
            raise OptionError(f"{path} is not PicoDet, which is the teacher that is known here.")
        self.input = self.session.get_inputs()[0].name

    def __call__(self, rgb: Rgb) -> Seen:
        """What it says of a picture, uint8 [H, W, 3]."""
        outputs = self.session.run(None, {self.input: preprocess(rgb, PICODET_SIDE, PICODET_SIDE)})
        boxes, scores = candidates(outputs, rgb.shape[1], rgb.shape[0])
        maps = []
        for values in outputs[: len(STRIDES)]:
            side = math.isqrt(values.shape[1])
            maps.append(torch.from_numpy(values[0].T.reshape(-1, side, side).copy()))
        return Seen(boxes, scores, tuple(maps))


def candidates(outputs: Sequence[NDArray[np.float32]], width: int, height: int) -> tuple[Tensor, Tensor]:
    """PicoDet's best boxes in pixels of a picture of that size, [N, 4], and their scores, [N, 80]."""
    boxes, scores = (torch.from_numpy(part).float() for part in picodet_cells(outputs, width, height))
    sure, chosen = scores.max(1).values.topk(CANDIDATES)
    chosen = chosen[sure > LEAST_CANDIDATE]
    return boxes[chosen], scores[chosen]


class Scenes(Prefetcher[Scene]):
    """Batches of scenes without end, all of one shape in a batch.

    Args:
        pictures: those without boxes need the teacher.
        categories: COCO's ids of the detector's labels 1, 2, …
        looked_at: a picture's width and height → those at which the detector looks at it.
    """

    def __init__(
        self,
        pictures: Sequence[TrainingPicture],
        teacher: DetectionTeacher | None,
        batch: int,
        seed: int,
        categories: Sequence[int] = COCO_IDS,
        looked_at: Callable[[int, int], tuple[int, int]] = compact_size,
    ) -> None:
        self.labelled = [p for p in pictures if len(p.labels)]
        self.pictures = list(pictures) if teacher else self.labelled
        if not self.pictures:
            raise OptionError("A detector needs pictures with boxes, or a teacher.")
        self.teacher, self.batch = teacher, batch
        self.numbers = numbered(categories)
        self.shapes = [[side // STEP * STEP for side in looked_at(*size)[::-1]] for size in PROPORTIONS]
        self.random = np.random.default_rng(seed)
        super().__init__()

    def _make(self) -> Scene:
        height, width = self.shapes[self.random.choice(len(self.shapes), p=SHARES)]
        scenes = [self._scene(height, width) for _ in range(self.batch)]
        x = torch.from_numpy(np.stack([rgb for rgb, _ in scenes])).permute(0, 3, 1, 2) / 255.0
        targets, seen = [], []
        for rgb, objects in scenes:
            if self.teacher is not None:
                seen.append(self.teacher(rgb))
            if objects is None:
                targets.append(sure_of(seen[-1], self.numbers))
            else:
                targets.append(target_of(objects, self.numbers))
        return x, targets, seen if self.teacher else None

    def _scene(self, height: int, width: int) -> tuple[Rgb, Detections | None]:
        objects: Detections | None
        if self.labelled and self.random.random() < MOSAIC:
            rgb, objects = self._mosaic(height, width)
        else:
            picture = self.pictures[self.random.integers(len(self.pictures))]
            rgb, objects = cut(picture, self._part(picture, width / height), height, width)
        if self.random.random() < 0.5:
            rgb, objects = mirrored(rgb, objects)
        return self._coloured(rgb), objects

    def _mosaic(self, height: int, width: int) -> tuple[Rgb, Detections]:
        rgb = np.empty((height, width, 3), np.uint8)
        boxes, labels = [], []
        for top in (0, height // 2):
            for left in (0, width // 2):
                picture = self.labelled[self.random.integers(len(self.labelled))]
                part = self._part(picture, width / height)
                small, objects = cut(picture, part, height // 2, width // 2)
                assert objects is not None
                rgb[top : top + height // 2, left : left + width // 2] = small
                boxes.append(objects[0] + np.array([left, top, left, top], np.float32))
                labels.append(objects[1])
        return rgb, (np.concatenate(boxes), np.concatenate(labels))

    def _part(self, picture: TrainingPicture, aspect: float) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1: the whole where its aspect is near enough, or a part of about that aspect."""
        height, width = picture.rgb.shape[:2]
        if 0.75 < width / height / aspect < 1.34 and self.random.random() < WHOLE:
            return 0, 0, width, height
        aspect *= self.random.uniform(0.8, 1.25)
        largest = min(width, height * aspect)
        wide = max(32.0, largest * self.random.uniform(0.4, 1.0))
        high = int(min(height, wide / aspect))
        x = int(self.random.integers(width - int(wide) + 1))
        y = int(self.random.integers(height - high + 1))
        return x, y, x + int(wide), y + high

    def _coloured(self, rgb: Rgb) -> Rgb:
        image = Image.fromarray(rgb)
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = change(image).enhance(float(self.random.uniform(0.75, 1.3)))
        return np.asarray(image)


def cut(
    picture: TrainingPicture, part: tuple[int, int, int, int], height: int, width: int
) -> tuple[Rgb, Detections | None]:
    """A part of a picture at another size, and what is in it; None where nobody said."""
    x0, y0, x1, y1 = part
    crop = Image.fromarray(picture.rgb[y0:y1, x0:x1])
    rgb = np.asarray(crop.resize((width, height), Image.Resampling.BICUBIC))
    if not len(picture.labels):
        return rgb, None
    boxes, kept = seen_within(picture.boxes, part, 0.3)
    shares = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) / ((x1 - x0) * (y1 - y0))
    kept |= shares > MUCH
    boxes = boxes * np.array([width / (x1 - x0), height / (y1 - y0)] * 2, np.float32)
    kept &= (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= LEAST_PIXELS
    return rgb, (boxes[kept], picture.labels[kept])


def mirrored(rgb: Rgb, objects: Detections | None) -> tuple[Rgb, Detections | None]:
    """Left and right exchanged."""
    flipped = np.ascontiguousarray(rgb[:, ::-1])
    if objects is None:
        return flipped, None
    boxes = objects[0].copy()
    boxes[:, [0, 2]] = rgb.shape[1] - boxes[:, [2, 0]]
    return flipped, (boxes, objects[1])


def numbered(categories: Sequence[int]) -> dict[int, int]:
    """A detector's labels by category."""
    return {category: number for number, category in enumerate(categories, start=1)}


def target_of(objects: Detections, numbers: Mapping[int, int]) -> Target:
    """With the numbers of the network's labels, by category."""
    boxes, labels = objects
    if unknown := [int(label) for label in labels if int(label) not in numbers]:
        raise OptionError(f"A record has an object of category {unknown[0]}, which is none of COCO's 80.")
    known = torch.tensor([numbers[int(label)] for label in labels], dtype=torch.int64)
    return Target(torch.from_numpy(boxes.astype(np.float32)).reshape(-1, 4), known)


def sure_of(seen: Seen, numbers: Mapping[int, int]) -> Target:
    """What a teacher is sure to find."""
    scores, classes = seen.scores.max(1)
    kept = batched_nms(seen.boxes, scores, classes, OVERLAP)
    kept = kept[scores[kept] > LEAST_SCORE]
    labels = torch.tensor([numbers[COCO_IDS[int(number)]] for number in classes[kept]], dtype=torch.int64)
    return Target(seen.boxes[kept], labels, certain=False)
