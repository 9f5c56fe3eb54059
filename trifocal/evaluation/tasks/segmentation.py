"""Semantic segmentation: mean IoU over classes, from pixel counts of all images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.detection.detections import Pixels
from trifocal.errors import MissingExtra, OptionError
from trifocal.evaluation.tasks.annotations import GroundTruth

__all__ = ["SegmentationTask", "find_label_maps", "read_label_map"]

UNLABELLED = 255  # pixels of a label map with this value are not counted


class SegmentationTask:
    """`miou`: the mean over classes of intersection over union, both counted over the pixels of all images.

    Classes that occur neither in a label map nor in a prediction do not count.

    Args:
        segment: uint8 [H, W, 3] → the class of each pixel, [H, W].
        label_maps: the path of each image's label map: class indices, grey or palette, of the image's name
            and size.
        model: the name of the network in columns.

    Raises:
        MissingExtra: without torchmetrics.
    """

    columns = ("miou",)
    short_side = None

    def __init__(
        self, segment: Callable[[Pixels], NDArray[np.int64]], label_maps: GroundTruth[Path], model: str = ""
    ) -> None:
        try:
            from torchmetrics.classification import MulticlassJaccardIndex
        except ImportError:
            raise MissingExtra("evaluate", "Measuring mean IoU") from None
        self.segment, self.label_maps, self.model = segment, label_maps, model
        self.index = MulticlassJaccardIndex(UNLABELLED, ignore_index=UNLABELLED, validate_args=False)
        self.begin()

    @property
    def notices(self) -> list[str]:
        """Sentences about images that were left out."""
        return self.label_maps.notices

    def begin(self) -> None:
        """Forget all images."""
        self.label_maps.begin()
        self.index.reset()
        self.added = 0

    def add(self, decoded: Pixels, name: str) -> None:
        """Count the pixels of an image, uint8 [H, W, 3].

        Raises:
            OptionError: if its label map is of another mode.
            OSError: if its label map cannot be read.
        """
        import torch

        path = self.label_maps.claim(name)
        if path is None:
            return
        labels = read_label_map(path)
        if labels.shape != decoded.shape[:2]:
            self.label_maps.skip(name, f"of another size than in {self.label_maps.source}")
            return
        self.index.update(torch.from_numpy(self.segment(decoded)), torch.from_numpy(labels))
        self.added += 1

    def result(self) -> dict[str, float]:
        """Mean IoU, 0..1. Raises OptionError if no image was measured."""
        if not self.added:
            raise OptionError(f"No image was added that has a label map in {self.label_maps.source}.")
        return {"miou": float(self.index.compute())}


def find_label_maps(folder: Path) -> GroundTruth[Path]:
    """The PNG files of a folder and its subfolders. Raises OptionError if there are none."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.png"))}
    return GroundTruth(str(folder), paths, suffixes=False)


def read_label_map(path: Path) -> NDArray[np.int64]:
    """Class indices [H, W]. Raises OptionError for a mode other than grey or palette."""
    with Image.open(path) as image:
        if image.mode not in ("L", "P"):
            raise OptionError(
                f"{path} is no map of class indices (grey or palette): its mode is {image.mode}."
            )
        return np.asarray(image).astype(np.int64)
