"""Annotated images, teachers and batches for training a detector."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trifocal.data.images import TrainingPicture
from trifocal.detection.detector import compact_detector
from trifocal.losses.detection import TeacherDetections
from trifocal.training import distillation

GREY, RED, BLUE = (110, 110, 110), (230, 40, 40), (40, 40, 230)
PERSON, BRUSH = 1, 90  # COCO's first category and its last: the network's 1 and 80
Box = tuple[int, int, int, int]


def rectangle_image(
    key: str, width: int, height: int, box: Box, colour: tuple[int, int, int]
) -> TrainingPicture:
    """A grey image with one rectangle; red is a person, any other colour a brush."""
    rgb = np.full((height, width, 3), GREY, np.uint8)
    rgb[box[1] : box[3], box[0] : box[2]] = colour
    label = PERSON if colour == RED else BRUSH
    return TrainingPicture(key, rgb, (), np.array([box], np.float32), np.array([label]))


def teacher_detections(
    boxes: Sequence[Sequence[float]], scores: Sequence[dict[int, float]]
) -> TeacherDetections:
    """A teacher's output: boxes, and for each box the scores of some of the 80 classes."""
    rows = torch.zeros(len(boxes), 80)
    for row, known in zip(rows, scores):
        for number, score in known.items():
            row[number] = score
    return TeacherDetections(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), rows, ())


class CentreTeacher:
    """A teacher that finds a person in the middle of each image."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, rgb: NDArray[np.uint8]) -> TeacherDetections:
        self.asked += 1
        height, width = rgb.shape[:2]
        return teacher_detections([[width / 4, height / 4, width / 2, height / 2]], [{0: 0.9}])


def write_annotated_images(folder: Path) -> Path:
    """Write six images with a red or a blue rectangle, and their annotations."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(6):
        left, top = 10 + 6 * number, 8 + 5 * number
        box, colour = (left, top, left + 50, top + 40), BLUE if number % 2 else RED
        picture = rectangle_image(str(number), 128, 96, box, colour)
        Image.fromarray(picture.rgb).save(pictures / f"{number}.png")
        record = {"boxes": picture.boxes.tolist(), "labels": picture.labels.tolist()}
        (pictures / f"{number}.json").write_text(json.dumps(record))
    return pictures


def repeat_first_batch(monkeypatch: pytest.MonkeyPatch, source: type) -> None:
    """All batches of a class become its first one, so that losses of different steps can be compared."""
    first: list[Any] = []
    original = source.next  # type: ignore[attr-defined]

    def same(self: Any) -> Any:
        if not first:
            first.append(original(self))
        return first[0]

    monkeypatch.setattr(source, "next", same)


class OtherDetectorBatches:
    """Batches like those of `TeacherOutputs`, from a detector with other random weights."""

    def __init__(
        self,
        pictures: Any = None,
        teacher: Any = None,
        parts: Sequence[str] = tuple(distillation.DISTILLED_PARTS),
        *given: Any,
    ) -> None:
        self.parts = parts
        torch.manual_seed(7)
        self.detector = compact_detector()
        self.random = torch.Generator().manual_seed(8)

    @torch.no_grad()
    def next(self) -> tuple[Tensor, list[Tensor]]:
        x = torch.rand(2, 3, 128, 128, generator=self.random) - 0.5
        answers = {"picture": x}
        for (name, (_, sources)), part in zip(
            distillation.DISTILLED_PARTS.items(), distillation.detector_parts(self.detector)
        ):
            answers[name] = part(*[answers[source] for source in sources])
        return x, [answers[name] for name in self.parts]

    def close(self) -> None: ...
