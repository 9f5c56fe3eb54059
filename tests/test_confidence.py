"""Standard errors of average precision, with a detector whose errors are known."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from helpers.detection import (
    BRIGHT_BOX,
    HEIGHT,
    WIDTH,
    BrightDetector,
    detection_task,
    use_two_jpeg_preset,
    write_bright_images,
)
from trifocal.errors import OptionError
from trifocal.evaluation.tasks import task as tasks
from trifocal.evaluation.tasks.confidence import ap_with_errors, bootstrap_ap
from trifocal.evaluation.tasks.detection import DetectionTask
from trifocal.evaluation.tasks.detectors import Detections, ObjectDetector


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bright_images(tmp_path)


def showing(seen: Detections, name: str, detector: ObjectDetector) -> Detections:
    return seen


def detection_task_with(folder: Path, *right: bool) -> DetectionTask:
    """A task whose detector finds the square of an image, or another box with a lower score."""
    way = detection_task(folder, BrightDetector(), "bright")
    for number, found in enumerate(right):
        box = np.array([BRIGHT_BOX if found else (0, 0, 20, 20)], np.float64)
        seen = Detections(box, np.array([1]), np.array([0.9 if found else 0.5]))
        way.add(np.zeros((HEIGHT, WIDTH, 3), np.uint8), f"{number}.png", partial(showing, seen))
    return way


def test_bootstrap_samples_images_equally_for_all_runs(folder: Path) -> None:
    """With two images a sample has the first twice, the second twice, or each once."""
    both, first, none = (
        detection_task_with(folder, True, True),
        detection_task_with(folder, True, False),
        detection_task_with(folder, False, False),
    )
    table = bootstrap_ap([both, first, first, none], 60)
    assert table.shape == (60, 4)
    assert (table[:, 0] == 1).all() and (table[:, 3] == 0).all()
    assert np.array_equal(table[:, 1], table[:, 2])
    once = first.result()["ap"]
    assert 0 < once < 1 and {round(float(value), 6) for value in table[:, 1]} == {0.0, round(once, 6), 1.0}
    assert np.isclose(np.mean(table[:, 1] == 1), 0.25, atol=0.15)
    assert np.array_equal(table, bootstrap_ap([both, first, first, none], 60))


def test_image_counts_as_often_as_it_is_sampled(folder: Path) -> None:
    way = detection_task_with(folder, True, False)
    assert way.average_precision("bbox") == way.average_precision("bbox", [0, 1])
    assert way.average_precision("bbox", [0, 0, 0])[0] == 1 and way.average_precision("bbox", [1, 1])[0] == 0
    assert way.average_precision("bbox", [0, 0, 1])[0] > way.average_precision("bbox", [0, 1])[0]


def test_runs_without_common_images_are_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match="No image was measured in all runs"):
        bootstrap_ap(
            [detection_task_with(folder, True), detection_task(folder, BrightDetector(), "bright")], 5
        )


def test_ap_with_errors_measures_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The originals are first, and their loss is 0."""
    pytest.importorskip("faster_coco_eval")
    use_two_jpeg_preset(monkeypatch)
    monkeypatch.setattr(tasks, "create_detector", lambda name, device: BrightDetector())
    said: list[tuple[float, str]] = []
    sure = ap_with_errors(
        {"two:base": (20, 80), "jpeg": (50,)}, folder, "bright", 5, lambda *told: said.append(told)
    )
    assert [(one.name, one.quality) for one in sure] == [
        ("png", 100),
        ("two:base", 20),
        ("two:base", 80),
        ("jpeg", 50),
    ]
    assert sure[0].loss == sure[0].loss_error == 0
    assert all(one.ap == sure[0].ap - one.loss and one.ap_error >= 0 for one in sure)
    fractions = [fraction for fraction, _ in said]
    assert fractions == sorted(fractions) and fractions[-1] == 1 and said[0][1] == "png, quality 100"
    with pytest.raises(OptionError, match="at least two bootstrap samples, not 1"):
        ap_with_errors({}, folder, "bright", 1)
