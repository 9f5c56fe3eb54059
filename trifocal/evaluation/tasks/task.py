"""What machines still see in decoded pictures: objects, regions and classes, as networks that others trained find them.

A task is given each decoded picture of one codec at one quality, and gives numbers for all of them together:

    task = task_of("detection", "fasterrcnn_resnet50_fpn", None, "coco/images")
    for quality in qualities:
        task.begin()
        for name, pixels in decoded(quality):
            task.add(pixels, name)
        print(task.result())    # {"ap": 0.37, "ap50": 0.58, "ap75": 0.40}
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trifocal.errors import NotMeasured, OptionError
from trifocal.evaluation.tasks.annotations import GroundTruth, name_of
from trifocal.evaluation.tasks.detection import OWN, Annotations, Detection, check_installed
from trifocal.evaluation.tasks.detectors import detector_of
from trifocal.evaluation.tasks.networks import Classifier, Pixels, Segmenter, load
from trifocal.pictures import list_pictures

__all__ = [
    "KINDS",
    "NETWORKS",
    "OWN",
    "TITLES",
    "Classification",
    "Detection",
    "NotMeasured",
    "Segmentation",
    "Task",
    "average_precision",
    "mean_iou",
    "read_classes",
    "task_of",
]

# Where the annotations of a kind are looked for, beside the pictures and then a folder above.
KINDS = {
    "detection": ("instances.json", "annotations/instances*.json"),
    "segmentation": ("labels", "annotations"),
    "classification": ("labels.json", "labels.csv"),
}
NETWORKS = {
    "detection": "fasterrcnn_resnet50_fpn",
    "segmentation": "deeplabv3_resnet50",
    "classification": "resnet50",
}
TITLES = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "miou": "mIoU",
    "top1": "top-1",
    "top5": "top-5",
    "map": "mAP",
}
UNLABELLED = 255  # in a label map: a pixel that does not count

Floats = NDArray[np.float64]


class Task(Protocol):
    """What is measured of all pictures together.

    `columns` are the keys of `result`, all of them 0..1, or nan; `model` is the network's short name; `notes` are
    sentences on what was left out; with a `short_side`, pictures are resized so before they are coded.
    """

    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def model(self) -> str: ...
    @property
    def short_side(self) -> int | None: ...
    @property
    def notes(self) -> list[str]: ...
    def begin(self) -> None: ...
    def add(self, decoded: Pixels, name: str) -> None: ...
    def result(self) -> dict[str, float]: ...


def task_of(
    kind: str,
    model: str | None,
    annotations: str | os.PathLike[str] | None,
    data: str | os.PathLike[str],
    short_side: int | None = None,
    device: str = "cpu",
    report: Callable[[float, str], None] = lambda fraction, text: None,
) -> Task:
    """The task of a kind (one of KINDS) on the pictures of the folder `data`, named by their paths in it.

    `model` is a name of torchvision's (NETWORKS, if None), or a path to a detector that ends in .onnx. Without `annotations`, they are
    looked for beside the pictures; OWN, of a detector, is what it finds itself in the pictures, which it is shown here, with `report`
    called before each. `short_side`, in pixels, is for detection: see `Detection`. Raises OptionError where something
    cannot be asked, or the annotations are of other pictures, NotMeasured where the weights are not to be had,
    MissingExtra, OSError.
    """
    if kind not in KINDS:
        raise OptionError(f"There is no task {kind}; there are {', '.join(KINDS)}.")
    model = model or NETWORKS[kind]
    if kind != "detection" and (short_side is not None or model.lower().endswith(".onnx")):
        raise OptionError(f"ONNX files and a short side are for detection, not for {kind}.")
    if annotations == OWN and (kind != "detection" or short_side is not None):
        raise OptionError(
            f"Annotations {OWN} are for detection, in pictures as they are; leave --short-side out."
        )
    label = Path(model).stem if model.lower().endswith(".onnx") else model
    paths = {name_of(path, Path(data)): path for path in list_pictures([data], True)}
    if annotations == OWN:
        check_installed()
        detector = detector_of(model, device)
        return Detection(detector, Annotations.found_by(detector, paths, report), model=label)
    truth = find_annotations(kind, Path(data)) if annotations is None else Path(annotations)
    names = list(paths)
    if kind == "detection":
        check_installed()
        known = Annotations.read(truth)
        known.images.check_any(names)
        return Detection(detector_of(model, device), known, short_side, label)
    if kind == "segmentation":
        maps = find_maps(truth)
        maps.check_any(names)
        return Segmentation(Segmenter(*load(kind, model), device), maps, label)
    classes = read_classes(truth)
    classes.check_any(names)
    return Classification(Classifier(*load(kind, model), device), classes, label)


def find_annotations(kind: str, data: Path) -> Path:
    """Raises OptionError where there are none, or more than one."""
    beside = Path(os.path.abspath(data if data.is_dir() else data.parent))
    for place in (beside, beside.parent):
        for pattern in KINDS[kind]:
            found = sorted(place.glob(pattern))
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise OptionError(f"Name the annotations of {data}: {found[0].parent} has {names}.")
            if found:
                return found[0]
    raise OptionError(f"Name the annotations of {data}: beside it is no {' or '.join(KINDS[kind])}.")


class Segmentation:
    """`miou`: the mean over classes of intersection over union, both counted over the pixels of all pictures.

    `segment` gives the class of each pixel, [H, W]. A label map is a picture of class indices (grey or palette) of the
    same name and size; its pixels of value UNLABELLED do not count.
    """

    columns = ("miou",)
    short_side = None

    def __init__(
        self, segment: Callable[[Pixels], NDArray[np.int64]], maps: GroundTruth[Path], model: str = ""
    ) -> None:
        self.segment, self.maps, self.model = segment, maps, model
        self.begin()

    @property
    def notes(self) -> list[str]:
        return self.maps.notes

    def begin(self) -> None:
        self.maps.begin()
        self.confusion = np.zeros((UNLABELLED, UNLABELLED), np.int64)  # [label, predicted]
        self.added = 0

    def add(self, decoded: Pixels, name: str) -> None:
        """Raises OptionError where the label map is none, OSError where it cannot be read."""
        path = self.maps.take(name)
        if path is None:
            return
        labels = read_map(path)
        if labels.shape != decoded.shape[:2]:
            self.maps.leave_out(name, f"of another size than in {self.maps.source}")
            return
        counts = labels != UNLABELLED
        pairs = labels[counts] * UNLABELLED + self.segment(decoded)[counts]
        self.confusion += np.bincount(pairs, minlength=UNLABELLED**2).reshape(UNLABELLED, UNLABELLED)
        self.added += 1

    def result(self) -> dict[str, float]:
        """Raises OptionError where no picture was measured."""
        if not self.added:
            raise OptionError(f"No picture was added that has a label map in {self.maps.source}.")
        return {"miou": mean_iou(self.confusion)}


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """From pixel counts [label, predicted]; the mean is over classes that occur in either. nan where none does."""
    shared = np.diag(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - shared
    return float(np.mean(shared[either > 0] / either[either > 0])) if either.any() else float("nan")


def find_maps(folder: Path) -> GroundTruth[Path]:
    """The label maps of a folder, at any depth. Raises OptionError where there is none."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.png"))}
    return GroundTruth(str(folder), paths, suffixes=False)


def read_map(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        if image.mode not in ("L", "P"):
            raise OptionError(
                f"{path} is no map of class indices, grey or palette: its mode is {image.mode}."
            )
        return np.asarray(image).astype(np.int64)


class Classification:
    """`top1` and `top5`: the share of pictures whose class is the likeliest, or among the five likeliest.

    Where pictures have several classes each, `map` instead: the mean of `average_precision` over the classes that
    some picture has. `classify` gives a score for each class, [classes].
    """

    short_side = None

    def __init__(
        self,
        classify: Callable[[Pixels], Floats],
        classes: GroundTruth[int | tuple[int, ...]],
        model: str = "",
    ) -> None:
        self.classify, self.classes, self.model = classify, classes, model
        self.several = any(isinstance(value, tuple) for value in classes.known.values())
        self.columns: tuple[str, ...] = ("map",) if self.several else ("top1", "top5")
        self.begin()

    @property
    def notes(self) -> list[str]:
        return self.classes.notes

    def begin(self) -> None:
        self.classes.begin()
        self.scores: list[Floats] = []
        self.labels: list[tuple[int, ...]] = []

    def add(self, decoded: Pixels, name: str) -> None:
        """Raises OptionError where the network has no such class as the picture should have."""
        value = self.classes.take(name)
        if value is None:
            return
        labels = value if isinstance(value, tuple) else (value,)
        scores = self.classify(decoded)
        if not all(0 <= label < len(scores) for label in labels):
            raise OptionError(
                f"{self.classes.source} has {name} as class {max(labels)}; the network's are 0 to {len(scores) - 1}."
            )
        self.scores.append(scores)
        self.labels.append(labels)

    def result(self) -> dict[str, float]:
        """Raises OptionError where no picture was measured."""
        if not self.scores:
            raise OptionError(f"No picture was added that {self.classes.source} knows.")
        scores = np.stack(self.scores)
        if self.several:
            truth = np.array([np.isin(np.arange(scores.shape[1]), labels) for labels in self.labels])
            present = np.flatnonzero(truth.any(axis=0))
            each = [average_precision(scores[:, label], truth[:, label]) for label in present]
            return {"map": float(np.mean(each)) if each else float("nan")}
        order = np.argsort(-scores, axis=1, kind="stable")
        right = order == np.array(self.labels)
        return {"top1": float(right[:, 0].mean()), "top5": float(right[:, :5].any(axis=1).mean())}


def average_precision(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """The precision at each true picture's score, in the mean over them; pictures of one score count together."""
    at_least = scores[:, None] >= scores[truth]
    return float(np.mean(at_least[truth].sum(axis=0) / at_least.sum(axis=0)))


def read_classes(path: Path) -> GroundTruth[int | tuple[int, ...]]:
    """The class of each picture by file name, or several, from JSON (`{"a.jpg": 3}`, `{"a.jpg": [3, 8]}`) or CSV.

    A line of CSV is a file name, a comma and the class, or classes with blanks between; a first line that has no
    number there is a heading. Raises OptionError, OSError.
    """
    text = path.read_text("utf-8")
    try:
        said = json.loads(text) if path.suffix.lower() == ".json" else classes_of_lines(text.splitlines())
        known = {name: class_of(value) for name, value in said.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise OptionError(f"{path} does not give each file name its class ({error}).") from None
    return GroundTruth(path.name, known)


def classes_of_lines(lines: Sequence[str]) -> Mapping[str, object]:
    rows = [row for row in csv.reader(lines) if row]
    if any(len(row) != 2 for row in rows):
        raise ValueError("each line has two cells")
    if rows and rows[0][1].strip() and not rows[0][1].split()[0].isdecimal():
        rows = rows[1:]
    several = any(len(cell.split()) != 1 for _, cell in rows)
    return {name: [int(part) for part in cell.split()] if several else int(cell) for name, cell in rows}


def class_of(value: object) -> int | tuple[int, ...]:
    return tuple(map(number_of, value)) if isinstance(value, list) else number_of(value)


def number_of(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no class")
    return value
