"""What a run of `evaluate` measures with: metrics of pictures, and what looks at all pictures together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.data.categories import category_mask, named_categories
from trifocal.data.coco import CAPTIONS, INSTANCES, corner_boxes, find_annotations, read_captions
from trifocal.errors import MissingExtra, NotMeasured
from trifocal.evaluation.metrics.distribution import SETS, SetMetric
from trifocal.evaluation.metrics.per_image import Measure, Metric, Pair, Pixels, metric_of
from trifocal.evaluation.report.results_table import Row
from trifocal.evaluation.tasks.detection import Annotations, Detection, protocol_size
from trifocal.evaluation.tasks.detectors import Detector, Found, resized
from trifocal.evaluation.tasks.task import Task
from trifocal.evaluation.text_ablation import TEXT_BYTES, TEXTLESS_BPP
from trifocal.pictures import Picture

__all__ = ["DecodedImage", "MetricSet", "Whole", "is_metric"]

PROTOCOL = "bpp_"


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """What became of one picture.

    Attributes:
        decoded, original: uint8 [H, W, 3].
        name: as rows have it.
        look: how a detector (its name, and itself) finds objects in the file, in the pixels of `decoded`; None where it is
            shown `decoded`.
    """

    decoded: Pixels
    original: Pixels
    name: str
    look: Callable[[str, Detector], Found] | None = None


@dataclass(frozen=True, eq=False)
class Whole:
    """What looks at all decoded pictures of one codec at one quality: a metric of sets, or a task."""

    columns: tuple[str, ...]
    begin: Callable[[], None]
    add: Callable[[DecodedImage], None]
    result: Callable[[], Mapping[str, float | None]]
    notes: Callable[[], Sequence[str]]

    @classmethod
    def of_set(cls, metric: SetMetric) -> Whole:
        """Raises MissingExtra, NotMeasured."""
        measured = metric.load()
        return cls(
            columns=(metric.column,),
            begin=measured.begin,
            add=lambda outcome: measured.add(outcome.decoded, outcome.original),
            result=lambda: {metric.column: measured.result()},
            notes=lambda: (),
        )

    @classmethod
    def of_task(cls, task: Task) -> Whole:
        """Its columns say of whom they are: ap:fasterrcnn_resnet50_fpn, ap:picodet:800."""
        parts = [part for part in (task.model, task.short_side) if part]
        column = {name: ":".join(map(str, [name, *parts])) for name in task.columns}

        def add(outcome: DecodedImage) -> None:
            if isinstance(task, Detection):
                task.add(outcome.decoded, outcome.name, outcome.look)
            else:
                task.add(outcome.decoded, outcome.name)

        return cls(
            columns=tuple(column.values()),
            begin=task.begin,
            add=add,
            result=lambda: {column[name]: value for name, value in task.result().items()},
            notes=lambda: task.notes,
        )


class MetricSet:
    """The metrics and the task of a run, loaded once; those that cannot be had are named through `note` and left out."""

    def __init__(
        self,
        names: Sequence[str],
        task: Task | None,
        data: str | os.PathLike[str],
        note: Callable[[str], None],
        counts_text: bool = False,
    ) -> None:
        self.note, self.counts_text = note, counts_text
        self.captions = read_captions(data)
        self.instances: Annotations | None = None
        self.short_side = None if task is None else task.short_side
        self.metrics: dict[Metric, Measure] = {}
        self.wholes: list[Whole] = []
        chosen = [SETS[name] if name in SETS else metric_of(name) for name in dict.fromkeys(names)]
        for metric in chosen:
            try:
                if isinstance(metric, SetMetric):
                    self.wholes.append(Whole.of_set(metric))
                    continue
                if metric.places and self.instances is None:
                    self.instances = self.instances_of(data, metric)
                self.metrics[metric] = metric.load()
            except (MissingExtra, NotMeasured) as error:
                note(str(error))
        if task is not None:
            self.wholes.append(Whole.of_task(task))

    @property
    def columns(self) -> list[str]:
        """Of a row."""
        counts = [TEXT_BYTES, TEXTLESS_BPP] if self.counts_text else []
        return [metric.column for metric in self.metrics] + self.protocol + counts

    @property
    def protocol(self) -> list[str]:
        """The column of bits per resized pixel, in a protocol with a short side."""
        return [] if self.short_side is None else [f"{PROTOCOL}{self.short_side}"]

    def prepared(self, picture: Picture) -> Picture:
        """What is coded: the picture, or in a protocol with a short side the picture in that size."""
        if self.short_side is None:
            return picture
        size = protocol_size(picture.width, picture.height, self.short_side)
        return Picture(resized(picture.rgb, size, Image.Resampling.BILINEAR))

    def of(
        self, decoded: Pixels, original: Pixels, name: str, size: int
    ) -> tuple[dict[str, float | None], list[str]]:
        """The values by column, and why there is None among them; `size` is the file's, in bytes."""
        named = None if self.instances is None else self.named(self.instances, name, *original.shape[:2])
        pair = Pair(decoded, original, self.captions.get(Path(name).name, ()), named)
        values = {metric.column: measure(pair) for metric, measure in self.metrics.items()}
        notes = [metric.why_none for metric in self.metrics if values[metric.column] is None]
        height, width = original.shape[:2]
        return values | dict.fromkeys(self.protocol, 8 * size / (width * height)), notes

    def instances_of(self, data: str | os.PathLike[str], metric: Metric) -> Annotations:
        """What is where in the pictures. Raises NotMeasured, and OptionError for a file of another layout."""
        path = find_annotations(data, INSTANCES)
        if path is None or not self.captions:
            missing = CAPTIONS if path else INSTANCES
            remedy = f"put both {CAPTIONS} and {INSTANCES} there, in COCO's layout"
            raise NotMeasured(metric.title, f"there is no {missing} in {data} or above it", remedy)
        return Annotations.read(path)

    def named(self, instances: Annotations, name: str, height: int, width: int) -> NDArray[np.bool_] | None:
        """Where the boxes are of what the picture's first caption names, [height, width]; None where there is none."""
        image, captions = instances.images.find(name), self.captions.get(Path(name).name)
        if image is None or not captions:
            return None
        boxes, labels = corner_boxes(instances.objects[image["id"]])
        boxes *= np.array([width / image["width"], height / image["height"]] * 2, np.float32)
        mask = category_mask(boxes, labels, named_categories(captions[0]), height, width)
        return mask if mask.any() else None

    def is_whole(self, row: Row) -> bool:
        """Whether an old row is of this protocol and has every metric, or says why it has not."""
        protocol = {column for column in row.values if is_protocol(column) and row.values[column] is not None}
        return protocol == set(self.protocol) and all(
            row.values.get(metric.column) is not None or bool(metric.why_none) and metric.why_none in row.note
            for metric in self.metrics
        )


def is_protocol(column: str) -> bool:
    """Bits per pixel of the resized picture: no metric, but the mark of rows measured so."""
    return column.startswith(PROTOCOL)


def is_metric(column: str) -> bool:
    """Whether a column has a metric, and not only counts bits or bytes in another way."""
    return not is_protocol(column) and column not in (TEXT_BYTES, TEXTLESS_BPP)
