"""What a run of `evaluate` measures with: metrics of pictures, and what looks at all pictures together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from trifocal.errors import MissingExtra, NotMeasured, OptionError
from trifocal.evaluation.detection import protocol_size
from trifocal.evaluation.detectors import resized
from trifocal.evaluation.metrics import Measure, Metric, Pair, Pixels, metric_of
from trifocal.evaluation.rows import Row
from trifocal.evaluation.sets import SETS, SetMetric
from trifocal.evaluation.tasks import Task
from trifocal.pictures import Picture

__all__ = ["Gauge", "Whole", "captions_of"]

CAPTIONS = "captions.json"
PROTOCOL = "bpp_"


@dataclass(frozen=True, eq=False)
class Whole:
    """What looks at all decoded pictures of one codec at one quality: a metric of sets, or a task."""

    columns: tuple[str, ...]
    begin: Callable[[], None]
    add: Callable[[Pixels, Pixels, str], None]  # decoded, original, name
    result: Callable[[], Mapping[str, float | None]]
    notes: Callable[[], Sequence[str]]

    @classmethod
    def of_set(cls, metric: SetMetric) -> Whole:
        """Raises MissingExtra, NotMeasured."""
        measured = metric.load()
        return cls(
            columns=(metric.column,),
            begin=measured.begin,
            add=lambda decoded, original, name: measured.add(decoded, original),
            result=lambda: {metric.column: measured.result()},
            notes=lambda: (),
        )

    @classmethod
    def of_task(cls, task: Task) -> Whole:
        """Its columns say of whom they are: ap:fasterrcnn_resnet50_fpn, ap:picodet:800."""
        parts = [part for part in (task.model, task.short_side) if part]
        column = {name: ":".join(map(str, [name, *parts])) for name in task.columns}
        return cls(
            columns=tuple(column.values()),
            begin=task.begin,
            add=lambda decoded, original, name: task.add(decoded, name),
            result=lambda: {column[name]: value for name, value in task.result().items()},
            notes=lambda: task.notes,
        )


class Gauge:
    """The metrics and the task of a run, loaded once; those that cannot be had are named through `note` and left out."""

    def __init__(
        self,
        names: Sequence[str],
        task: Task | None,
        captions: Mapping[str, tuple[str, ...]],
        note: Callable[[str], None],
    ) -> None:
        self.note, self.captions = note, captions
        self.short_side = None if task is None else task.short_side
        self.metrics: dict[Metric, Measure] = {}
        self.wholes: list[Whole] = []
        chosen = [SETS[name] if name in SETS else metric_of(name) for name in dict.fromkeys(names)]
        for metric in chosen:
            try:
                if isinstance(metric, SetMetric):
                    self.wholes.append(Whole.of_set(metric))
                else:
                    self.metrics[metric] = metric.load()
            except (MissingExtra, NotMeasured) as error:
                note(str(error))
        if task is not None:
            self.wholes.append(Whole.of_task(task))

    @property
    def columns(self) -> list[str]:
        """Of a row."""
        return [metric.column for metric in self.metrics] + self.protocol

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
        pair = Pair(decoded, original, self.captions.get(Path(name).name, ()))
        values = {metric.column: measure(pair) for metric, measure in self.metrics.items()}
        notes = [metric.why_none for metric in self.metrics if values[metric.column] is None]
        height, width = original.shape[:2]
        return values | dict.fromkeys(self.protocol, 8 * size / (width * height)), notes

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


def captions_of(data: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """The captions by file name from a captions.json in the folder or above it, in COCO's layout or as {name: text}.

    Empty where there is none. Raises OptionError for one of another layout.
    """
    folder = Path(data)
    path = next((p for p in (folder / CAPTIONS, folder.parent / CAPTIONS) if p.is_file()), None)
    if path is None:
        return {}
    try:
        table = json.loads(path.read_text("utf-8"))
        if "annotations" not in table:
            return {name: (said,) if isinstance(said, str) else tuple(said) for name, said in table.items()}
        names = {image["id"]: image["file_name"] for image in table["images"]}
        captions: dict[str, tuple[str, ...]] = {}
        for entry in table["annotations"]:
            name = names[entry["image_id"]]
            captions[name] = (*captions.get(name, ()), entry["caption"])
        return captions
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError(
            f"{path} is no table of captions: neither COCO's layout nor {{file name: caption}}."
        ) from None
