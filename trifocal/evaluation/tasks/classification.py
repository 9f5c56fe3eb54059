"""Classification: top-1 and top-5 accuracy, or mAP where images have several classes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trifocal.detection.detections import Floats, Pixels
from trifocal.errors import MissingExtra, OptionError, PictureError
from trifocal.evaluation.tasks.annotations import GroundTruth
from trifocal.pictures import Picture

__all__ = ["ClassificationTask", "mean_average_precision", "own_classes", "read_classes"]


class ClassificationTask:
    """`top1` and `top5`: the share of images whose class has the highest score, or one of the five highest.

    Where images have several classes each, `map` instead: see `mean_average_precision`.

    Args:
        classify: uint8 [H, W, 3] → a score for each class, [classes].
        classes: the class of each image, or a tuple of classes.
        model: the name of the network in columns.
    """

    short_side = None

    def __init__(
        self,
        classify: Callable[[Pixels], Floats],
        classes: GroundTruth[int | tuple[int, ...]],
        model: str = "",
    ) -> None:
        self.classify, self.classes, self.model = classify, classes, model
        self.multilabel = any(isinstance(value, tuple) for value in classes.values.values())
        self.columns: tuple[str, ...] = ("map",) if self.multilabel else ("top1", "top5")
        self.begin()

    @property
    def notices(self) -> list[str]:
        """Sentences about images that were left out."""
        return self.classes.notices

    def begin(self) -> None:
        """Forget all images."""
        self.classes.begin()
        self.scores: list[Floats] = []
        self.labels: list[tuple[int, ...]] = []

    def add(self, decoded: Pixels, name: str) -> None:
        """Classify an image, uint8 [H, W, 3]. Raises OptionError if the network does not have the image's
        class.
        """
        value = self.classes.claim(name)
        if value is None:
            return
        labels = value if isinstance(value, tuple) else (value,)
        scores = self.classify(decoded)
        if not all(0 <= label < len(scores) for label in labels):
            raise OptionError(
                f"{self.classes.source} lists {name} as class {max(labels)}; the network has 0 to "
                f"{len(scores) - 1}."
            )
        self.scores.append(scores)
        self.labels.append(labels)

    def result(self) -> dict[str, float]:
        """Shares or mAP, 0..1. Raises OptionError if no image was measured."""
        if not self.scores:
            raise OptionError(f"No image was added that {self.classes.source} lists.")
        scores = np.stack(self.scores)
        if self.multilabel:
            truth = np.array([np.isin(np.arange(scores.shape[1]), labels) for labels in self.labels])
            return {"map": mean_average_precision(scores, truth)}
        order = np.argsort(-scores, axis=1, kind="stable")
        right = order == np.array(self.labels)
        return {"top1": float(right[:, 0].mean()), "top5": float(right[:, :5].any(axis=1).mean())}


def mean_average_precision(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """The mean of average precision over the classes that some image has, 0..1; nan if there are none.

    Args:
        scores: [images, classes]. Images with the same score share a rank.
        truth: [images, classes].

    Raises:
        MissingExtra: without torchmetrics.
    """
    present = [bool(column.any()) for column in truth.T]
    if not any(present):
        return float("nan")
    try:
        import torch
        from torchmetrics.functional.classification import binary_average_precision
    except ImportError:
        raise MissingExtra("evaluate", "Measuring mAP") from None

    def precision(number: int) -> float:
        # Ranks in 0..1: torchmetrics applies a sigmoid to other scores, which can make them equal.
        values, ranks = np.unique(scores[:, number], return_inverse=True)
        labels = torch.from_numpy(truth[:, number]).long()
        return float(binary_average_precision(torch.from_numpy(ranks / len(values)), labels))

    return float(np.mean([precision(number) for number in range(len(present)) if present[number]]))


def own_classes(
    classify: Callable[[Pixels], Floats], paths: Mapping[str, Path], report: Callable[[float, str], None]
) -> GroundTruth[int | tuple[int, ...]]:
    """A network's own most likely class of each original, as ground truth for images without labels: top-1
    is then the share of images whose class coding does not change.

    Images that cannot be opened are skipped.

    Args:
        classify: as in `ClassificationTask`.
        paths: the images by name.
        report: called with a fraction and a text before each image.

    Raises:
        OptionError: if no image can be opened.
        OSError: if an image cannot be read.
    """
    known: dict[str, int | tuple[int, ...]] = {}
    for number, (name, path) in enumerate(paths.items()):
        report(number / len(paths), f"classifying {name}")
        try:
            known[name] = int(np.argmax(classify(Picture.open(path).rgb)))
        except PictureError:
            continue  # `evaluate` reports it
    return GroundTruth("the classes of the originals", known)


def read_classes(path: Path) -> GroundTruth[int | tuple[int, ...]]:
    """The class of each image by file name, or several, from JSON (`{"a.jpg": 3}`, `{"a.jpg": [3, 8]}`) or
    CSV.

    A line of CSV is a file name, a comma and the class, or classes separated by spaces. A first line without
    a number is a heading.

    Raises:
        OptionError: for a file of another form.
        OSError: if it cannot be read.
    """
    text = path.read_text("utf-8")
    try:
        table = json.loads(text) if path.suffix.lower() == ".json" else _parse_lines(text.splitlines())
        known = {name: _parse_classes(value) for name, value in table.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise OptionError(f"{path} does not give each file name its class ({error}).") from None
    return GroundTruth(path.name, known)


def _parse_lines(lines: Sequence[str]) -> Mapping[str, object]:
    rows = [row for row in csv.reader(lines) if row]
    if any(len(row) != 2 for row in rows):
        raise ValueError("each line has two cells")
    if rows and rows[0][1].strip() and not rows[0][1].split()[0].isdecimal():
        rows = rows[1:]
    several = any(len(cell.split()) != 1 for _, cell in rows)
    return {name: [int(part) for part in cell.split()] if several else int(cell) for name, cell in rows}


def _parse_classes(value: object) -> int | tuple[int, ...]:
    return tuple(map(_parse_class, value)) if isinstance(value, list) else _parse_class(value)


def _parse_class(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no class")
    return value
