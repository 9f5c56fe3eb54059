"""Batches for detectors: parts of images and mosaics, with boxes and teacher detections."""

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
from trifocal.data.categories import clip_boxes
from trifocal.data.prefetching import Prefetcher
from trifocal.detection.input_size import COCO_IDS, STEP, compact_size
from trifocal.detection.onnx_detector import is_picodet, open_session
from trifocal.detection.picodet import OVERLAP, PICODET_SIDE, STRIDES, picodet_cells, preprocess
from trifocal.errors import OptionError
from trifocal.losses.detection import Target, TeacherDetections

PROPORTIONS = (
    (640, 480),
    (480, 640),
    (640, 582),
)  # width and height of images; the detector's input size for them is the shape of a batch
SHAPE_PROBABILITIES = (0.6, 0.25, 0.15)
WHOLE, MOSAIC = 0.4, 0.25  # probability of a whole image, and of a mosaic
CLOSE = 0.75, 1.34  # aspect ratios of whole images, as multiples of that of their batch
LARGE = 0.2  # of the image: a cut object that covers more is kept, however small the rest of it is
MIN_SIDE = 4  # of a box, in pixels
MIN_SCORE = 0.4  # of a teacher's detection that is a target in an image without boxes
CANDIDATES, MIN_CANDIDATE = 300, 0.05

Rgb = NDArray[np.uint8]
Objects = tuple[NDArray[np.float32], NDArray[np.int64]]  # boxes [N, 4], category ids [N]
DetectionBatch = tuple[Tensor, list[Target], list[TeacherDetections] | None]
"""Images x [B, 3, H, W] in 0..1, their targets, and the teacher's detections."""


class DetectionTeacher:
    """PicoDet before non-maximum suppression.

    Args:
        path: PicoDet as ONNX.

    Raises:
        OptionError: for another file.
        MissingExtra: if ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.session = open_session(Path(path), threads=1)  # the other threads are for training
        if not is_picodet(self.session.get_outputs()):
            raise OptionError(f"{path} is not PicoDet, the only teacher that Trifocal supports.")
        self.input = self.session.get_inputs()[0].name

    def __call__(self, rgb: Rgb) -> TeacherDetections:
        """The detections in an image, uint8 [H, W, 3]."""
        outputs = self.session.run(None, {self.input: preprocess(rgb, PICODET_SIDE, PICODET_SIDE)})
        boxes, scores = candidates(outputs, rgb.shape[1], rgb.shape[0])
        maps = []
        for values in outputs[: len(STRIDES)]:
            side = math.isqrt(values.shape[1])
            maps.append(torch.from_numpy(values[0].T.reshape(-1, side, side).copy()))
        return TeacherDetections(boxes, scores, tuple(maps))


def candidates(outputs: Sequence[NDArray[np.float32]], width: int, height: int) -> tuple[Tensor, Tensor]:
    """PicoDet's best boxes in pixels of an image of that size, [N, 4], and their class scores, [N, 80]."""
    boxes, scores = (torch.from_numpy(part).float() for part in picodet_cells(outputs, width, height))
    best, chosen = scores.max(1).values.topk(CANDIDATES)
    chosen = chosen[best > MIN_CANDIDATE]
    return boxes[chosen], scores[chosen]


class DetectionBatches(Prefetcher[DetectionBatch]):
    """Endless batches of images, all of one shape in a batch.

    Args:
        pictures: images; those without boxes are used only with a teacher.
        teacher: its detections are added, and are the targets of images without boxes.
        batch: images in a batch.
        seed: of the augmentation.
        first: number of the first batch; each depends only on the arguments and its number.
        categories: COCO ids of the detector's labels 1, 2, …
        input_size: width and height of an image → those of the detector's input.
        augmented: with parts of images, mosaics, mirroring and other colours. Otherwise each image is whole,
            or its centre is cropped to the proportions of the batch.

    Raises:
        OptionError: if no image has boxes and there is no teacher.
    """

    def __init__(
        self,
        pictures: Sequence[TrainingPicture],
        teacher: DetectionTeacher | None,
        batch: int,
        seed: int,
        categories: Sequence[int] = COCO_IDS,
        input_size: Callable[[int, int], tuple[int, int]] = compact_size,
        first: int = 0,
        augmented: bool = True,
    ) -> None:
        self.augmented = augmented
        self.labelled = [p for p in pictures if len(p.labels)]
        self.pictures = list(pictures) if teacher else self.labelled
        if not self.pictures:
            raise OptionError("A detector needs images with boxes, or a teacher.")
        self.teacher, self.batch = teacher, batch
        self.numbers = label_numbers(categories)
        self.shapes = [[side // STEP * STEP for side in input_size(*size)[::-1]] for size in PROPORTIONS]
        self.seed, self.number = seed, first
        super().__init__()

    def _make(self) -> DetectionBatch:
        self.random = np.random.default_rng((self.seed, self.number))
        self.number += 1
        height, width = self.shapes[self.random.choice(len(self.shapes), p=SHAPE_PROBABILITIES)]
        images = [self._image(height, width) for _ in range(self.batch)]
        x = torch.from_numpy(np.stack([rgb for rgb, _ in images])).permute(0, 3, 1, 2) / 255.0
        targets, seen = [], []
        for rgb, objects in images:
            if self.teacher is not None:
                seen.append(self.teacher(rgb))
            if objects is None:
                targets.append(teacher_target(seen[-1], self.numbers))
            else:
                targets.append(make_target(objects, self.numbers))
        return x, targets, seen if self.teacher else None

    def _image(self, height: int, width: int) -> tuple[Rgb, Objects | None]:
        objects: Objects | None
        if not self.augmented:
            picture = self.pictures[self.random.integers(len(self.pictures))]
            return crop(picture, centre(picture, width / height), height, width)
        if self.labelled and self.random.random() < MOSAIC:
            rgb, objects = self._mosaic(height, width)
        else:
            picture = self.pictures[self.random.integers(len(self.pictures))]
            rgb, objects = crop(picture, self._part(picture, width / height), height, width)
        if self.random.random() < 0.5:
            rgb, objects = mirror(rgb, objects)
        return self._jitter(rgb), objects

    def _mosaic(self, height: int, width: int) -> tuple[Rgb, Objects]:
        """Four images in a 2×2 grid."""
        rgb = np.empty((height, width, 3), np.uint8)
        boxes, labels = [], []
        for top in (0, height // 2):
            for left in (0, width // 2):
                picture = self.labelled[self.random.integers(len(self.labelled))]
                part = self._part(picture, width / height)
                small, objects = crop(picture, part, height // 2, width // 2)
                assert objects is not None
                rgb[top : top + height // 2, left : left + width // 2] = small
                boxes.append(objects[0] + np.array([left, top, left, top], np.float32))
                labels.append(objects[1])
        return rgb, (np.concatenate(boxes), np.concatenate(labels))

    def _part(self, picture: TrainingPicture, aspect: float) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the whole image, if its aspect ratio is close enough, or of a random part of
        about that ratio."""
        height, width = picture.rgb.shape[:2]
        if CLOSE[0] < width / height / aspect < CLOSE[1] and self.random.random() < WHOLE:
            return 0, 0, width, height
        aspect *= self.random.uniform(0.8, 1.25)
        largest = min(width, height * aspect)
        wide = max(32.0, largest * self.random.uniform(0.4, 1.0))
        high = int(min(height, wide / aspect))
        x = int(self.random.integers(width - int(wide) + 1))
        y = int(self.random.integers(height - high + 1))
        return x, y, x + int(wide), y + high

    def _jitter(self, rgb: Rgb) -> Rgb:
        """Random brightness, contrast and saturation."""
        image = Image.fromarray(rgb)
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = change(image).enhance(float(self.random.uniform(0.75, 1.3)))
        return np.asarray(image)


def centre(picture: TrainingPicture, aspect: float) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the whole image, if its aspect ratio is close enough, or of its largest central part
    of that ratio."""
    height, width = picture.rgb.shape[:2]
    if CLOSE[0] < width / height / aspect < CLOSE[1]:
        return 0, 0, width, height
    wide, high = round(min(width, height * aspect)), round(min(height, width / aspect))
    x, y = (width - wide) // 2, (height - high) // 2
    return x, y, x + wide, y + high


def crop(
    picture: TrainingPicture, part: tuple[int, int, int, int], height: int, width: int
) -> tuple[Rgb, Objects | None]:
    """A part of an image (x0, y0, x1, y1), resized, and its objects; None if the image has no boxes."""
    x0, y0, x1, y1 = part
    own = Image.fromarray(picture.rgb[y0:y1, x0:x1])
    rgb = np.asarray(own.resize((width, height), Image.Resampling.BICUBIC))
    if not len(picture.labels):
        return rgb, None
    boxes, kept = clip_boxes(picture.boxes, part, 0.3)
    shares = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) / ((x1 - x0) * (y1 - y0))
    kept |= shares > LARGE
    boxes = boxes * np.array([width / (x1 - x0), height / (y1 - y0)] * 2, np.float32)
    kept &= (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= MIN_SIDE
    return rgb, (boxes[kept], picture.labels[kept])


def mirror(rgb: Rgb, objects: Objects | None) -> tuple[Rgb, Objects | None]:
    """The image and its boxes mirrored from left to right."""
    flipped = np.ascontiguousarray(rgb[:, ::-1])
    if objects is None:
        return flipped, None
    boxes = objects[0].copy()
    boxes[:, [0, 2]] = rgb.shape[1] - boxes[:, [2, 0]]
    return flipped, (boxes, objects[1])


def label_numbers(categories: Sequence[int]) -> dict[int, int]:
    """A detector's label, from 1, by COCO category id."""
    return {category: number for number, category in enumerate(categories, start=1)}


def make_target(objects: Objects, numbers: Mapping[int, int]) -> Target:
    """The target of an image's objects.

    Args:
        objects: boxes and category ids.
        numbers: the detector's label by category id.

    Raises:
        OptionError: for a category that is not among them.
    """
    boxes, labels = objects
    if unknown := [int(label) for label in labels if int(label) not in numbers]:
        raise OptionError(
            f"A record has an object of category {unknown[0]}, which is not one of the 80 of COCO."
        )
    known = torch.tensor([numbers[int(label)] for label in labels], dtype=torch.int64)
    return Target(torch.from_numpy(boxes.astype(np.float32)).reshape(-1, 4), known)


def teacher_target(seen: TeacherDetections, numbers: Mapping[int, int]) -> Target:
    """The confident detections of a teacher, after non-maximum suppression, as an uncertain target."""
    scores, classes = seen.scores.max(1)
    kept = batched_nms(seen.boxes, scores, classes, OVERLAP)
    kept = kept[scores[kept] > MIN_SCORE]
    labels = torch.tensor([numbers[COCO_IDS[int(number)]] for number in classes[kept]], dtype=torch.int64)
    return Target(seen.boxes[kept], labels, certain=False)
