"""Tasks in `evaluate` and `compare`, and their options, with fake tasks and detectors."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from trifocal.cli import app
from trifocal.detection.input_size import COCO_IDS
from trifocal.errors import OptionError, PictureError
from trifocal.evaluation import CompareOptions, EvaluateOptions, evaluate, psnr, read_means
from trifocal.evaluation.candidates.pillow_codecs import LOSSLESS, PILLOW_CODECS
from trifocal.evaluation.compare import compare
from trifocal.evaluation.tasks import task as tasks
from trifocal.evaluation.tasks.detectors import Detections
from trifocal.pictures import Picture

BOX = (8, 8, 40, 32)  # of the bright square in each picture: left, top, right, bottom


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three noisy images of 80 × 60 with a bright square, and their COCO annotations."""
    rng = np.random.default_rng(0)
    place = tmp_path / "pictures"
    place.mkdir()
    images, items = [], []
    for number in range(3):
        rgb = rng.normal(60, 15, (60, 80, 3))
        rgb[BOX[1] : BOX[3], BOX[0] : BOX[2]] += 120
        Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(place / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 60})
        box = [BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]]
        items.append({"id": number, "image_id": number, "category_id": 1, "bbox": box})
    text = json.dumps({"images": images, "annotations": items, "categories": [{"id": 1, "name": "square"}]})
    (tmp_path / "instances.json").write_text(text)
    return place


class Bright:
    """A detector that finds the box around pixels brighter than the middle of the range."""

    masks = False
    categories = COCO_IDS

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def find(self, pixels: np.ndarray) -> Detections:
        self.seen.append(pixels.shape[:2])
        rows, columns = np.nonzero(pixels.mean(axis=2) > 130)
        box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float64)
        return Detections(box, np.array([1]), np.array([0.9]), None)


class Agreement:
    """A task that counts its images, and can fail."""

    columns = ("count",)
    model, short_side = "counter", None

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.notices, self.runs = fails, ["One thing was left out."], 0

    def begin(self) -> None:
        self.names: list[str] = []
        self.runs += 1

    def add(self, decoded: np.ndarray, name: str) -> None:
        self.names.append(name)

    def result(self) -> dict[str, float]:
        if self.fails:
            raise OptionError("Nothing was counted.")
        return {"count": float(len(self.names))}


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> Bright:
    pytest.importorskip("faster_coco_eval")
    detector = Bright()
    monkeypatch.setattr(tasks, "create_detector", lambda name, device: detector)
    return detector


def test_task_is_measured_with_the_metrics_and_on_the_originals(folder: Path, tmp_path: Path) -> None:
    task = Agreement()
    said: list[str] = []
    results = evaluate(
        ["webp"], folder, tmp_path / "r.csv", EvaluateOptions([20, 80], task=task), notify=said.append
    )
    assert [(mean.preset, mean.quality, mean.values["count:counter"]) for mean in results.means] == [
        ("webp", 20, 3), ("webp", 80, 3), (LOSSLESS, 100, 3)
    ]  # fmt: skip
    assert all("count:counter" not in row.values for row in results.rows) and len(results.rows) == 9
    assert said.count("One thing was left out.") == 1
    again = evaluate(["webp"], folder, tmp_path / "r.csv", EvaluateOptions([20, 80], resume=True, task=task))
    assert task.runs == 3 and [mean.values["count:counter"] for mean in again.means] == [3, 3, 3]
    other = Agreement()
    other.model = "other"
    evaluate(["webp"], folder, tmp_path / "r.csv", EvaluateOptions([20, 80], resume=True, task=other))
    assert other.runs == 3, "another network's figures are not this one's"


def test_failing_task_is_named_and_other_results_are_kept(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="webp, quality 20: Nothing was counted"):
        evaluate(["webp"], folder, tmp_path / "r.csv", EvaluateOptions([20], task=Agreement(fails=True)))
    means = read_means(tmp_path / "r_summary.csv")
    assert [mean.preset for mean in means] == ["webp", LOSSLESS] and all(
        mean.values["psnr"] is not None for mean in means
    )


def test_results_over_all_images_survive_an_interruption(folder: Path, tmp_path: Path) -> None:
    class Interrupted(Agreement):
        def begin(self) -> None:
            if self.runs == 2:
                raise KeyboardInterrupt
            super().begin()

    with pytest.raises(KeyboardInterrupt):
        evaluate(["webp"], folder, tmp_path / "r.csv", EvaluateOptions([20, 50, 80], task=Interrupted()))
    kept = read_means(tmp_path / "r_summary.csv")
    assert [(mean.quality, mean.values["count:counter"]) for mean in kept] == [(20, 3), (50, 3)]
    task = Agreement()
    results = evaluate(
        ["webp"], folder, tmp_path / "r.csv", EvaluateOptions([20, 50, 80], resume=True, task=task)
    )
    assert task.runs == 2, "the third quality and the originals"
    assert [mean.values["count:counter"] for mean in results.means] == [3, 3, 3, 3]


def test_png_is_lossless_and_has_one_quality(folder: Path, tmp_path: Path) -> None:
    picture = Picture.open(folder / "0.png")
    decoded = PILLOW_CODECS[LOSSLESS].decode(PILLOW_CODECS[LOSSLESS].encode(picture, 100))
    assert np.array_equal(decoded, picture.rgb) and psnr(decoded, picture.rgb) == np.inf
    rows = evaluate([LOSSLESS], folder, tmp_path / "r.csv", EvaluateOptions([20, 80])).rows
    assert [(row.picture, row.quality) for row in rows] == [(f"{number}.png", 100) for number in range(3)]


def test_detection_from_the_command_line(folder: Path, tmp_path: Path, bright: Bright) -> None:
    out = tmp_path / "r.csv"
    words = ["evaluate", "jpeg", "--data", folder, "--task", "detection", "--detector", "some/square.onnx"]
    run = CliRunner().invoke(app, [*map(str, words), "--out", str(out), "--qualities", "90"])
    assert run.exit_code == 0, run.output
    means = {mean.preset: mean for mean in read_means(tmp_path / "r_summary.csv")}
    assert means[LOSSLESS].values["ap:square"] == 1 and means["jpeg"].values["ap50:square"] == 1
    assert set(bright.seen) == {(60, 80)}


def test_detection_in_unlabelled_images(folder: Path, tmp_path: Path, bright: Bright) -> None:
    (tmp_path / "instances.json").unlink()
    out = tmp_path / "r.csv"
    words = ["evaluate", "jpeg", "--data", folder, "--task", "detection", "--detector", "some/square.onnx"]
    words += ["--annotations", "own", "--out", out, "--qualities", "90"]
    run = CliRunner().invoke(app, [*map(str, words)])
    assert run.exit_code == 0, run.output
    means = {mean.preset: mean for mean in read_means(tmp_path / "r_summary.csv")}
    assert means[LOSSLESS].values["ap:square-own"] == 1 and means["jpeg"].values["ap50:square-own"] == 1
    assert len(bright.seen) == 9, "three originals twice: for the truth, and measured"


def test_short_side_protocol_codes_resized_images(folder: Path, tmp_path: Path, bright: Bright) -> None:
    out = tmp_path / "r.csv"
    words = ["evaluate", "jpeg", "--data", folder, "--task", "detection", "--short-side", "120"]
    run = CliRunner().invoke(app, [*map(str, words), "--out", str(out), "--qualities", "90"])
    assert run.exit_code == 0, run.output
    assert set(bright.seen) == {(120, 160)}
    rows = evaluate(["jpeg"], folder, tmp_path / "native.csv", EvaluateOptions([90])).rows
    means = {mean.preset: mean for mean in read_means(tmp_path / "r_summary.csv")}
    mean = means["jpeg"]
    assert mean.values["ap50:fasterrcnn_resnet50_fpn:120"] == 1
    assert mean.values["bpp_120"] == pytest.approx(
        mean.bpp / 4, rel=1e-4
    )  # a quarter of the pixels are native
    assert mean.bpp > rows[0].bpp
    native = evaluate(
        ["jpeg"], folder, out, EvaluateOptions([90], resume=True)
    )  # rows of another protocol do not count
    assert native.means[0].bpp == pytest.approx(np.mean([row.bpp for row in rows]), rel=1e-4)


def test_report_shows_the_task_and_the_value_of_the_originals(
    folder: Path, tmp_path: Path, bright: Bright
) -> None:
    task = tasks.create_task("detection", "square.onnx", None, folder)
    page = compare(["webp", "jpeg"], folder, tmp_path / "report", CompareOptions([20, 50, 80], task=task))
    text = page.read_text("utf-8")
    assert "AP (square; 1.000 on the originals)" in text and "AP50 (square" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--detector", "x.onnx"], "--task"),
        (["--task", "smelling"], "no task 'smelling'"),
        (["--task", "segmentation", "--short-side", "800"], "for detection, not for segmentation"),
        (["--task", "detection", "--annotations", "nowhere.json"], "nowhere.json"),
        (["--task", "detection", "--short-side", "4000"], "1 to 1333 pixels"),
    ],
)
def test_invalid_task_options_are_refused(
    words: list[str], sentence: str, folder: Path, tmp_path: Path, bright: Bright
) -> None:
    out = tmp_path / "r.csv"
    run = CliRunner().invoke(app, ["evaluate", "jpeg", "--data", str(folder), "-o", str(out), *words])
    assert run.exit_code in (1, 2) and sentence in " ".join(run.output.split()) and not out.exists()
