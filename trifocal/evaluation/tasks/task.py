"""Machine tasks on decoded images: detection, segmentation and classification by published networks.

A task takes each decoded image of one codec at one quality, and returns figures for all of them together:

    task = create_task("detection", "fasterrcnn_resnet50_fpn", None, "coco/images")
    for quality in qualities:
        task.begin()
        for name, pixels in decoded(quality):
            task.add(pixels, name)
        print(task.result())    # {"ap": 0.37, "ap50": 0.58, "ap75": 0.40}
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from trifocal.detection.detections import Pixels
from trifocal.errors import OptionError
from trifocal.evaluation.images import find_images, relative_name
from trifocal.evaluation.tasks.classification import ClassificationTask, own_classes, read_classes
from trifocal.evaluation.tasks.detection import DETECTOR_LABELS, Annotations, DetectionTask, check_installed
from trifocal.evaluation.tasks.detectors import create_detector
from trifocal.evaluation.tasks.networks import Segmenter, load_classifier, load_torchvision
from trifocal.evaluation.tasks.segmentation import SegmentationTask, find_label_maps
from trifocal.evaluation.tasks.voc import read_voc

__all__ = ["NETWORKS", "TASKS", "TITLES", "Task", "create_task"]

# By task: where annotations are searched for, in the folder of the images and then in the folder above.
TASKS = {
    "detection": ("instances.json", "annotations/instances*.json", "Annotations"),
    "segmentation": ("labels", "SegmentationClass", "annotations"),
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


class Task(Protocol):
    """A measurement over all images of a folder.

    `columns` are the keys of `result`, whose values are 0..1 or nan. `model` is the short name of the
    network. `notices` are sentences about images that were left out. With a `short_side`, images are resized
    before they are coded.
    """

    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def model(self) -> str: ...
    @property
    def short_side(self) -> int | None: ...
    @property
    def notices(self) -> list[str]: ...
    def begin(self) -> None: ...
    def add(self, decoded: Pixels, name: str) -> None: ...
    def result(self) -> dict[str, float]: ...


def create_task(
    kind: str,
    model: str | None,
    annotations: str | os.PathLike[str] | None,
    data: str | os.PathLike[str],
    short_side: int | None = None,
    device: str = "cpu",
    report: Callable[[float, str], None] = lambda fraction, text: None,
) -> Task:
    """A task on the images of the folder `data`, whose names are their paths in it.

    Args:
        kind: detection, segmentation or classification.
        model: a torchvision model, "compact", the path of a detector that ends in .onnx, or for
            classification efficientnet-lite0 to 2; None for NETWORKS.
        annotations: their file or folder; None to search for them next to the images (TASKS). For detection
            a file in COCO's layout or a folder in PASCAL VOC's. "own", for detection and classification:
            the network's own answers on the originals are the ground truth.
        short_side: in pixels, for detection: see `DetectionTask`.
        report: called with a fraction and a text while the network runs on the originals.

    Raises:
        OptionError: for options that do not fit together, a folder without images, or annotations of
            other images.
        NotMeasured: if weights cannot be downloaded.
        MissingExtra: without the packages that the task needs.
        OSError: if annotations cannot be read.
    """
    _check(kind, model, annotations, short_side)
    model = model or NETWORKS[kind]
    label = Path(model).stem if model.lower().endswith(".onnx") else model
    paths = {relative_name(path, Path(data)): path for path in find_images(data)}
    if kind == "detection":
        check_installed()
    if annotations == DETECTOR_LABELS and kind == "classification":
        classifier = load_classifier(model, device)
        return ClassificationTask(
            classifier, own_classes(classifier, paths, report), f"{label}-{DETECTOR_LABELS}"
        )
    if annotations == DETECTOR_LABELS:
        detector = create_detector(model, device)
        return DetectionTask(detector, Annotations.from_detector(detector, paths, report), model=label)
    source = find_annotations(kind, Path(data)) if annotations is None else Path(annotations)
    names = list(paths)
    if kind == "detection":
        known = read_voc(source) if source.is_dir() else Annotations.read(source)
        known.images.check_any(names)
        detector = create_detector(model, device)
        if source.is_dir() and detector.categories is None:
            known = read_voc(source, coco_ids=False)
        return DetectionTask(detector, known, short_side, label)
    if kind == "segmentation":
        label_maps = find_label_maps(source)
        label_maps.check_any(names)
        return SegmentationTask(Segmenter(*load_torchvision(kind, model), device), label_maps, label)
    classes = read_classes(source)
    classes.check_any(names)
    return ClassificationTask(load_classifier(model, device), classes, label)


def _check(kind: str, model: str | None, annotations: object, short_side: int | None) -> None:
    if kind not in TASKS:
        raise OptionError(f"There is no task {kind!r}; choose one of: {', '.join(TASKS)}.")
    is_onnx = model is not None and model.lower().endswith(".onnx")
    if kind != "detection" and (short_side is not None or is_onnx):
        raise OptionError(f"ONNX files and a short side are for detection, not for {kind}.")
    if annotations == DETECTOR_LABELS and (kind == "segmentation" or short_side is not None):
        raise OptionError(
            f"The annotations {DETECTOR_LABELS!r} are for detection and classification without --short-side."
        )


def find_annotations(kind: str, data: Path) -> Path:
    """The annotations of a folder of images. Raises OptionError if there are none, or several."""
    folder = Path(os.path.abspath(data if data.is_dir() else data.parent))
    for place in (folder, folder.parent):
        for pattern in TASKS[kind]:
            found = sorted(place.glob(pattern))
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise OptionError(f"Name the annotations of {data}: {found[0].parent} has several ({names}).")
            if found:
                return found[0]
    raise OptionError(
        f"Name the annotations of {data}: there is no {' or '.join(TASKS[kind])} next to the images."
    )
