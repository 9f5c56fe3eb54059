"""The metrics and the task of one evaluation, loaded once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.data.categories import category_mask, named_categories
from trifocal.data.coco import CAPTIONS, INSTANCES, find_annotations
from trifocal.detection.detections import Detections, ObjectDetector, resize
from trifocal.errors import MissingExtra, NotMeasured
from trifocal.evaluation.images import captions_for
from trifocal.evaluation.metrics.distribution import DISTRIBUTION_METRICS, DistributionMetric
from trifocal.evaluation.metrics.pair import Box, Measure, Pair, Pixels
from trifocal.evaluation.metrics.per_image import Metric, find_metric
from trifocal.evaluation.report.results_table import POOLED_BPP, ImageResult
from trifocal.evaluation.tasks.detection import Annotations, DetectionTask, protocol_size
from trifocal.evaluation.tasks.task import Task
from trifocal.evaluation.text_ablation import TEXT_BYTES, TEXTLESS_BPP
from trifocal.pictures import Picture

__all__ = ["DatasetMetric", "DecodedImage", "MetricSet", "is_metric"]

MIN_OBJECT_SIDE = 64  # pixels, of the objects in `Pair.objects`
RESIZED_BPP_PREFIX = "bpp_"  # columns: bits per pixel of the resized image


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One decoded image.

    Attributes:
        decoded, original: uint8 [H, W, 3].
        name: as in tables.
        find: returns the objects in the file, in the pixels of `decoded`, for a detector's name and the
            detector; None if the detector runs on `decoded`.
    """

    decoded: Pixels
    original: Pixels
    name: str
    find: Callable[[str, ObjectDetector], Detections] | None = None


@dataclass(frozen=True, eq=False)
class DatasetMetric:
    """A distribution metric or a task: figures for all decoded images of one codec at one quality."""

    columns: tuple[str, ...]
    begin: Callable[[], None]
    add: Callable[[DecodedImage], None]
    result: Callable[[], Mapping[str, float | None]]
    notices: Callable[[], Sequence[str]]

    @classmethod
    def from_distribution(cls, metric: DistributionMetric, device: str) -> DatasetMetric:
        """Raises MissingExtra, NotMeasured."""
        accumulator = metric.load(device)
        return cls(
            columns=(metric.column,),
            begin=accumulator.begin,
            add=lambda image: accumulator.add(image.decoded, image.original),
            result=lambda: {metric.column: accumulator.result()},
            notices=lambda: (),
        )

    @classmethod
    def from_task(cls, task: Task) -> DatasetMetric:
        """Its columns name the network: ap:fasterrcnn_resnet50_fpn, ap:picodet:800."""
        parts = [part for part in (task.model, task.short_side) if part]
        column = {name: ":".join(map(str, [name, *parts])) for name in task.columns}

        def add(image: DecodedImage) -> None:
            if isinstance(task, DetectionTask):
                task.add(image.decoded, image.name, image.find)
            else:
                task.add(image.decoded, image.name)

        return cls(
            columns=tuple(column.values()),
            begin=task.begin,
            add=add,
            result=lambda: {column[name]: value for name, value in task.result().items()},
            notices=lambda: task.notices,
        )


class MetricSet:
    """The metrics and the task of one evaluation. Those that cannot be measured are reported and left out.

    Args:
        names: of metrics.
        task: measured too, if given.
        data: the folder of the images, where captions and annotations are searched for.
        notify: called with a sentence for each metric that is left out.
        counts_text: whether rows have the columns `text_bytes` and `textless_bpp`.
        captions: as for `captions_for`.
        device: of the metrics' networks, if it is a CUDA device; on other devices they run on the CPU, since
            FID needs float64.

    Raises:
        OptionError: for an unknown metric, or captions or annotations of another layout.
    """

    def __init__(
        self,
        names: Sequence[str],
        task: Task | None,
        data: str | os.PathLike[str],
        notify: Callable[[str], None],
        counts_text: bool = False,
        captions: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.notify, self.counts_text = notify, counts_text
        device = device if device.startswith("cuda") else "cpu"
        self.captions = captions_for(data, captions)
        self.instances: Annotations | None = None
        self.needs: set[str | None] = set()
        self.short_side = None if task is None else task.short_side
        self.per_image: dict[Metric, Measure] = {}
        self.dataset_metrics: list[DatasetMetric] = []
        chosen = [DISTRIBUTION_METRICS.get(name) or find_metric(name) for name in dict.fromkeys(names)]
        for metric in chosen:
            try:
                if isinstance(metric, DistributionMetric):
                    self.dataset_metrics.append(DatasetMetric.from_distribution(metric, device))
                    continue
                if metric.needs is not None:
                    self.instances = self.instances or self._find_instances(data, metric)
                self.per_image[metric] = metric.load_on(device)
                self.needs.add(metric.needs)
            except (MissingExtra, NotMeasured) as error:
                notify(str(error))
        if task is not None:
            self.dataset_metrics.append(DatasetMetric.from_task(task))

    @property
    def columns(self) -> list[str]:
        """The columns of a row."""
        counts = [TEXT_BYTES, TEXTLESS_BPP] if self.counts_text else []
        return [metric.column for metric in self.per_image] + self.resized_bpp_columns + counts

    @property
    def resized_bpp_columns(self) -> list[str]:
        """The column for bits per pixel of the resized image, if images are resized to a short side."""
        return [] if self.short_side is None else [f"{RESIZED_BPP_PREFIX}{self.short_side}"]

    def prepare(self, picture: Picture) -> Picture:
        """The image to code: the given one, resized if the task has a short side."""
        if self.short_side is None:
            return picture
        size = protocol_size(picture.width, picture.height, self.short_side)
        return Picture(resize(picture.rgb, size, Image.Resampling.BILINEAR))

    def measure(
        self, decoded: Pixels, original: Pixels, name: str, size: int
    ) -> tuple[dict[str, float | None], list[str]]:
        """The values by column, and the reason for each None; `size` is that of the file in bytes."""
        named, objects = self._boxes(name, *original.shape[:2])
        pair = Pair(decoded, original, self.captions.get(Path(name).name, ()), named, objects)
        values = {metric.column: measure(pair) for metric, measure in self.per_image.items()}
        notes = [metric.missing_reason for metric in self.per_image if values[metric.column] is None]
        height, width = original.shape[:2]
        return values | dict.fromkeys(self.resized_bpp_columns, 8 * size / (width * height)), notes

    def is_complete(self, row: ImageResult) -> bool:
        """Whether an old row has the same resized-bpp columns, and every metric or a note on its absence."""
        columns = {
            column for column in row.values if _is_resized_bpp(column) and row.values[column] is not None
        }
        return columns == set(self.resized_bpp_columns) and all(
            row.values.get(metric.column) is not None
            or bool(metric.missing_reason)
            and metric.missing_reason in row.note
            for metric in self.per_image
        )

    def _find_instances(self, data: str | os.PathLike[str], metric: Metric) -> Annotations:
        """Boxes of the images. Raises NotMeasured, and OptionError for a file of another layout."""
        path = find_annotations(data, INSTANCES)
        captions_missing = metric.needs == "named" and not self.captions
        if path is None or captions_missing:
            missing = CAPTIONS if path else INSTANCES
            both = f"both {CAPTIONS} and {INSTANCES}" if metric.needs == "named" else INSTANCES
            remedy = f"put {both} there, in COCO's layout"
            raise NotMeasured(metric.title, f"there is no {missing} in {data} or above it", remedy)
        return Annotations.read(path)

    def _boxes(self, name: str, height: int, width: int) -> tuple[NDArray[np.bool_] | None, tuple[Box, ...]]:
        """`Pair.named` and `Pair.objects` of an image of this size, as far as the metrics need them."""
        found = None if self.instances is None else self.instances.scaled_boxes(name, height, width)
        if found is None:
            return None, ()
        boxes, labels = found
        objects = large_boxes(boxes, height, width) if "objects" in self.needs else ()
        captions = self.captions.get(Path(name).name)
        if "named" not in self.needs or not captions:
            return None, objects
        mask = category_mask(boxes, labels, named_categories(captions[0]), height, width)
        return (mask if mask.any() else None), objects


def large_boxes(boxes: NDArray[np.float32], height: int, width: int) -> tuple[Box, ...]:
    """The boxes of at least MIN_OBJECT_SIDE a side, in whole pixels of the image."""
    edges = np.clip(boxes, 0, [width, height, width, height])
    edges = np.concatenate((np.floor(edges[:, :2]), np.ceil(edges[:, 2:])), axis=1).astype(int)
    large = (edges[:, 2:] - edges[:, :2]).min(axis=1, initial=height + width) >= MIN_OBJECT_SIDE
    return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in edges[large].tolist())


def is_metric(column: str) -> bool:
    """Whether a column holds a metric, rather than another count of bits or bytes."""
    return not _is_resized_bpp(column) and column not in (TEXT_BYTES, TEXTLESS_BPP, POOLED_BPP)


def _is_resized_bpp(column: str) -> bool:
    return column.startswith(RESIZED_BPP_PREFIX)
