"""Endless batches of random crops with texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from trifocal.data.categories import clip_boxes, sample_text
from trifocal.data.images import TrainingPicture
from trifocal.data.prefetching import Prefetcher
from trifocal.errors import PictureError

__all__ = ["CROP_TEXTS", "SAMPLINGS", "CropBatch", "CropRules", "Crops", "centre_crop", "crop_text"]

CROPS_AHEAD = 4  # batches made ahead
CAPTION_AREA = 0.45  # share of an image's area from which its captions are taken to be true of a crop
ATTEMPTS = 20  # images in a row that cannot be read

CropText = Literal["visible", "captions", "names", "none"]
CROP_TEXTS: tuple[CropText, ...] = ("visible", "captions", "names", "none")
Sampling = Literal["area", "uniform"]
SAMPLINGS: tuple[Sampling, ...] = ("area", "uniform")
TextKind = Literal["caption", "names", ""]
Crop = tuple[npt.NDArray[np.uint8], str, TextKind, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class CropBatch:
    """Crops, a text for each, and what kind of text it is.

    Attributes:
        rgb: uint8 [B, size, size, 3].
        texts: "" where there is none.
        kinds: "caption", "names" or "".
        boxes: of the objects in each crop, x0, y0, x1, y1 in its pixels, float32 [N, 4].
    """

    rgb: npt.NDArray[np.uint8]
    texts: tuple[str, ...]
    kinds: tuple[TextKind, ...]
    boxes: tuple[npt.NDArray[np.float32], ...]


@dataclass(frozen=True)
class CropRules:
    """How crops are drawn.

    Attributes:
        text: the text of a crop. "captions": one of the image's captions, wherever the crop is. "names":
            names of objects in the crop. "visible": a caption if the crop covers most of the image, or else
            names. "none": no text.
        mirrored: probability that a crop is mirrored from left to right.
        sampling: "area" draws images with a probability proportional to the square root of their area,
            "uniform" each with the same.
    """

    text: CropText = "visible"
    mirrored: float = 0.5
    sampling: Sampling = "area"


class Crops(Prefetcher[CropBatch]):
    """Endless batches of random crops. Each batch depends only on the arguments and its number.

    An image that cannot be read any more is replaced by another.

    Args:
        pictures: none may be smaller than a crop.
        batch: crops in a batch.
        size: of a crop in pixels.
        seed: of images, positions, mirroring and texts.
        rules: how crops are drawn.
        first: number of the first batch.

    Attributes:
        unreadable: keys of images that could not be read.
    """

    def __init__(
        self,
        pictures: Sequence[TrainingPicture],
        batch: int,
        size: int,
        seed: int,
        rules: CropRules | None = None,
        first: int = 0,
    ) -> None:
        self.pictures = pictures
        self.batch = batch
        self.size = size
        self.seed = seed
        self.rules = rules or CropRules()
        self.number = first
        self.unreadable: set[str] = set()
        areas = np.array([picture.area for picture in pictures], dtype=np.float64)
        weights = np.sqrt(areas) if self.rules.sampling == "area" else np.ones(len(areas))
        self.weights = weights / weights.sum()
        super().__init__(CROPS_AHEAD)

    def _make(self) -> CropBatch:
        self.random = np.random.default_rng((self.seed, self.number))
        self.text_random = np.random.default_rng(
            (self.seed, self.number, 1)
        )  # a second one, so that texts do not change the crops
        self.number += 1
        chosen = self.random.choice(len(self.pictures), self.batch, p=self.weights)
        crops = [self._readable_crop(self.pictures[i]) for i in chosen]
        rgb, texts, kinds, boxes = zip(*crops, strict=True)
        return CropBatch(np.stack(rgb), texts, kinds, boxes)

    def _readable_crop(self, picture: TrainingPicture) -> Crop:
        for _ in range(ATTEMPTS):
            try:
                return self._crop(picture)
            except (PictureError, OSError):
                self.unreadable.add(picture.key)
                picture = self.pictures[self.random.choice(len(self.pictures), p=self.weights)]
        return self._crop(picture)

    def _crop(self, picture: TrainingPicture) -> Crop:
        rgb = picture.rgb
        height, width = rgb.shape[:2]
        top = int(self.random.integers(height - self.size + 1))
        left = int(self.random.integers(width - self.size + 1))
        crop = rgb[top : top + self.size, left : left + self.size]
        text, kind = crop_text(
            picture, (left, top, self.size), (height, width), self.rules.text, self.text_random
        )
        boxes, seen = clip_boxes(picture.boxes, (left, top, left + self.size, top + self.size))
        if self.random.random() < self.rules.mirrored:
            crop, boxes = crop[:, ::-1], mirrored_boxes(boxes, self.size)
        return crop, text, kind, boxes[seen]


def mirrored_boxes(boxes: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
    """The boxes in the image mirrored from left to right."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def crop_text(
    picture: TrainingPicture,
    place: tuple[int, int, int],
    image_size: tuple[int, int],
    rule: CropText,
    random: np.random.Generator,
) -> tuple[str, TextKind]:
    """A random text for a crop, and its kind; "" if there is none.

    Args:
        picture: its captions, boxes and labels.
        place: left, top and side of the crop in pixels.
        image_size: height and width of the image.
        rule: see `CropRules`.
    """
    left, top, size = place
    if rule == "none":
        return "", ""
    if rule == "captions":
        return (str(random.choice(picture.captions)), "caption") if picture.captions else ("", "")
    _, seen = clip_boxes(picture.boxes, (left, top, left + size, top + size))
    most = size**2 > CAPTION_AREA * image_size[0] * image_size[1] or not len(picture.labels)
    captions = picture.captions if most and rule == "visible" else ()
    text = sample_text(captions, picture.labels[seen], random)
    return text, "" if not text else "caption" if text in captions else "names"


def centre_crop(rgb: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """The central size × size pixels."""
    top, left = (rgb.shape[0] - size) // 2, (rgb.shape[1] - size) // 2
    return rgb[top : top + size, left : left + size]
