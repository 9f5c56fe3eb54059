"""Machine tasks: each measure against values by hand, fake networks instead of real ones, and no network
access.
"""

import json
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from trifocal.detection import onnx_detector, picodet
from trifocal.detection.detections import Detections
from trifocal.detection.input_size import COCO_IDS
from trifocal.detection.onnx_detector import OnnxDetector
from trifocal.errors import MissingExtra, NotMeasured, OptionError
from trifocal.evaluation.tasks import classification, detection, detectors, networks
from trifocal.evaluation.tasks import task as tasks
from trifocal.evaluation.tasks.annotations import GroundTruth
from trifocal.evaluation.tasks.classification import ClassificationTask, read_classes
from trifocal.evaluation.tasks.detection import Annotations, DetectionTask, protocol_size
from trifocal.evaluation.tasks.detectors import TorchvisionDetector
from trifocal.evaluation.tasks.segmentation import SegmentationTask
from trifocal.evaluation.tasks.task import create_task
from trifocal.evaluation.tasks.voc import read_voc

INSTANCES = "instances.json"
Boxes = Sequence[tuple[float, float, float, float]]


@pytest.fixture(params=["faster_coco_eval", "pycocotools"])
def coco(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of the two packages that measure average precision, while the other is hidden."""
    pytest.importorskip(request.param)
    for other in {"faster_coco_eval", "pycocotools"} - {request.param}:
        monkeypatch.setitem(sys.modules, other, None)
    return request.param


def picture(number: int, width: int = 100, height: int = 80) -> np.ndarray:
    """An image that a fake network identifies by its value."""
    return np.full((height, width, 3), number, np.uint8)


class Fake:
    """A detector that returns `answers[n]` for the image of value n: label, score, box, and masks."""

    def __init__(self, answers: dict[int, list[tuple[int, float, Any]]], masks: Any = None) -> None:
        self.answers, self.outlines, self.masks = answers, masks, masks is not None
        self.categories: Sequence[int] | None = COCO_IDS
        self.seen: list[tuple[int, ...]] = []

    def find(self, pixels: np.ndarray) -> Detections:
        self.seen.append(pixels.shape)
        answer = self.answers[int(pixels[0, 0, 0])]
        boxes = np.array([box for _, _, box in answer], np.float64).reshape(-1, 4)
        labels, scores = [label for label, _, _ in answer], [score for _, score, _ in answer]
        return Detections(boxes, np.array(labels, np.int64), np.array(scores, np.float64), self.outlines)


def item(image: int, box: Sequence[float], category: int = 1, **more: object) -> dict[str, object]:
    """One annotation; box is x y width height."""
    return {"id": 0, "image_id": image, "category_id": category, "bbox": list(box), **more}


def annotations(
    folder: Path, items: list[dict[str, object]], names: Sequence[str] = ("a.png", "b.png")
) -> Path:
    images = [{"id": n, "file_name": name, "width": 100, "height": 80} for n, name in enumerate(names)]
    categories = [{"id": category, "name": str(category)} for category in (1, 2)]
    text = json.dumps({"images": images, "annotations": items, "categories": categories})
    (folder / INSTANCES).write_text(text)
    return folder / INSTANCES


# ── average precision ──


def test_average_precision_by_hand(coco: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Detections: correct at 0.9, wrong at 0.8, correct at 0.7; one of three objects is missed. Precision is
    1 up to recall 1/3 (34 of 101 recalls), and 2/3 up to 2/3 (33 recalls).
    """
    known = annotations(
        tmp_path, [item(0, (10, 10, 20, 20)), item(0, (50, 10, 20, 20)), item(1, (0, 0, 9, 9))]
    )
    fake = Fake({1: [(1, 0.9, (10, 10, 30, 30)), (1, 0.8, (60, 60, 70, 70))], 2: [(1, 0.7, (0, 0, 9, 9))]})
    task = DetectionTask(fake, Annotations.read(known))
    task.add(picture(1), "a.png")
    task.add(picture(2), "b.png")
    expected = (34 + 33 * 2 / 3) / 101
    assert task.columns == ("ap", "ap50", "ap75")
    assert task.result() == pytest.approx(dict.fromkeys(task.columns, expected))
    assert capsys.readouterr().out == "" and task.notices == []

    task.begin()
    task.add(picture(2), "b.png")  # only what was added counts
    assert task.result() == pytest.approx(dict.fromkeys(task.columns, 1.0))


def test_ap_of_an_inexact_box(coco: str, tmp_path: Path) -> None:
    """Its IoU is 0.72: correct at 0.50, 0.55 … 0.70, five of the ten thresholds. Then a second category."""
    known = annotations(tmp_path, [item(0, (0, 0, 10, 100)), item(1, (0, 0, 10, 10), category=2)])
    fake = Fake({1: [(1, 0.9, (0, 0, 10, 72))], 2: []})
    task = DetectionTask(fake, Annotations.read(known))
    task.add(picture(1), "a.png")
    assert task.result() == pytest.approx({"ap": 0.5, "ap50": 1.0, "ap75": 0.0})
    task.add(picture(2), "b.png")
    assert task.result() == pytest.approx({"ap": 0.25, "ap50": 0.5, "ap75": 0.0})


@pytest.mark.parametrize(("crowd", "expected"), [(1, 1.0), (0, (51 * 0.5) / 101)])
def test_boxes_in_a_crowd_are_ignored(coco: str, crowd: int, expected: float, tmp_path: Path) -> None:
    """Without the flag: wrong at 0.9, correct at 0.8, and one of two objects is missed."""
    known = annotations(tmp_path, [item(0, (0, 0, 60, 60), iscrowd=crowd), item(0, (70, 0, 10, 10))])
    task = DetectionTask(
        Fake({1: [(1, 0.9, (5, 5, 15, 15)), (1, 0.8, (70, 0, 80, 10))]}), Annotations.read(known)
    )
    task.add(picture(1), "a.png")
    assert task.result()["ap"] == pytest.approx(expected)


def test_ap_without_detections_or_objects(coco: str, tmp_path: Path) -> None:
    known = Annotations.read(annotations(tmp_path, [item(0, (0, 0, 9, 9))]))
    task = DetectionTask(Fake({1: [], 2: [(1, 0.9, (0, 0, 9, 9))]}), known)
    task.add(picture(1), "a.png")
    assert task.result() == {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    task.begin()
    task.add(picture(2), "b.png")
    assert all(np.isnan(value) for value in task.result().values())


def test_mask_ap_is_measured_if_there_are_masks(coco: str, tmp_path: Path) -> None:
    """The box is correct, the mask has 36 of the 50 rows, an IoU of 0.72; the outline is a polygon."""
    outline = [[0, 0, 10, 0, 10, 50, 0, 50]]
    known = annotations(tmp_path, [item(0, (0, 0, 10, 50), segmentation=outline)])
    mask = np.zeros((1, 80, 100), bool)
    mask[0, :36, :10] = True
    task = DetectionTask(Fake({1: [(1, 0.9, (0, 0, 10, 50))]}, mask), Annotations.read(known))
    task.add(picture(1), "a.png")
    result = task.result()
    assert tuple(result) == task.columns == ("ap", "ap50", "ap75", "mask_ap", "mask_ap50")
    assert result == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1, "mask_ap": 0.5, "mask_ap50": 1})

    bare = DetectionTask(task.detector, Annotations.read(annotations(tmp_path, [item(0, (0, 0, 10, 50))])))
    assert "mask_ap" not in bare.columns and bare.notices == [
        "Masks are not measured: instances.json has no outlines."
    ]


def test_detector_may_get_a_resized_image(coco: str, tmp_path: Path) -> None:
    mask = np.zeros((1, 160, 200), bool)
    mask[0, :100, :20] = True
    outline = [[0, 0, 10, 0, 10, 50, 0, 50]]
    known = annotations(tmp_path, [item(0, (0, 0, 10, 50), segmentation=outline)])
    fake = Fake({1: [(1, 0.9, (0, 0, 20, 100))]}, mask)
    task = DetectionTask(fake, Annotations.read(known), short_side=160)
    task.add(picture(1), "a.png")  # not of the protocol's size
    assert fake.seen == [] and task.notices[-1].startswith("1 image left out, of another size")
    task.begin()
    task.add(picture(1, 200, 160), "a.png")
    assert fake.seen == [(160, 200, 3)]
    assert task.result() == pytest.approx(dict.fromkeys(task.columns, 1.0))


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 480), (1067, 800)), ((480, 640), (800, 1067)), ((2000, 500), (1333, 333))]
)
def test_sizes_of_the_800_pixel_protocol(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """As in detectron2's ResizeShortestEdge(800, 1333)."""
    assert protocol_size(*size, 800) == expected
    with pytest.raises(OptionError, match="1 to 1333 pixels, not 1400"):
        protocol_size(*size, 1400)


def test_images_without_usable_annotations_are_left_out(tmp_path: Path) -> None:
    known = Annotations.read(annotations(tmp_path, [item(0, (0, 0, 9, 9))]))
    task = DetectionTask(Fake({}), known)
    for _ in range(2):
        task.begin()
        task.add(picture(1), "c.png")
        task.add(picture(1, width=50), "a.png")
    assert task.notices == [
        "1 image left out, not in instances.json: c.png.",
        "1 image left out, of another size than in instances.json: a.png.",
    ]
    with pytest.raises(OptionError, match="No image was added that instances.json lists"):
        task.result()


def test_categories_must_match_the_detector(tmp_path: Path) -> None:
    path = annotations(tmp_path, [])
    path.write_text(path.read_text().replace('"id": 2', '"id": 12'))
    fake = Fake({1: [(12, 0.9, (0, 0, 9, 9)), (0, 0.8, (0, 0, 9, 9))]})
    with pytest.raises(OptionError, match="a category 12; the detector knows the ids of COCO only"):
        DetectionTask(fake, Annotations.read(path))
    fake.categories = None
    task = DetectionTask(fake, Annotations.read(path))
    task.add(picture(1), "a.png")
    assert task.notices == ["The detector returns labels that instances.json does not list: [0]."]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": [{"id": 1}]}', '{"images": 3}'])
def test_annotations_in_other_formats_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / INSTANCES).write_text(text)
    with pytest.raises(OptionError, match="is not in COCO's layout"):
        Annotations.read(tmp_path / INSTANCES)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("faster_coco_eval", "pycocotools", "torchvision", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    works: list[Callable[[], object]] = [
        detection.check_installed,
        lambda: networks.load_torchvision("segmentation", "fcn_resnet50"),
        lambda: detectors.create_detector("a.onnx"),
    ]
    for work in works:
        with pytest.raises(MissingExtra, match=r'pip install "trifocal\['):
            work()


# ── names ──


def test_images_are_matched_by_path_or_unique_name() -> None:
    truth = GroundTruth("x.json", {"one/a.png": 1, "two/a.png": 2, "b.png": 3})
    assert truth.claim("one/a.png") == 1 and truth.claim("a.png") is None
    assert truth.claim("images/b.png") == 3 and truth.claim("thumbs/b.png") is None
    assert [note.split(",")[1] for note in truth.notices] == [
        " not in x.json: a.png.",
        " ambiguous in x.json (which names no folder): thumbs/b.png.",
    ]
    truth.begin()
    assert truth.claim("thumbs/b.png") == 3
    for number in range(5):
        truth.claim(f"{number}.png")
    assert truth.notices[0] == "6 images left out, not in x.json: a.png, 0.png, 1.png, …"


def test_annotations_of_other_images_are_refused() -> None:
    truth = GroundTruth("x.json", {"a.png": 1})
    truth.check_any(["z.png", "a.png"])
    with pytest.raises(
        OptionError, match="none of these images: it lists e.g. a.png; the folder contains e.g. z.jpg"
    ):
        truth.check_any(["z.jpg"])
    with pytest.raises(OptionError, match="has annotations for no image"):
        GroundTruth("x.json", {})


# ── detectors ──


def picodet_outputs(side: int = 64) -> list[np.ndarray]:
    cells = [(-(-side // stride)) ** 2 for stride in picodet.STRIDES]
    scores = [np.zeros((1, count, 80), np.float32) for count in cells]
    return scores + [np.zeros((1, count, 32), np.float32) for count in cells]


def test_picodet_outputs_by_hand() -> None:
    """Input 64 x 64: stride 8, row 2, column 3, centre (27.5, 19.5); and the single cell of stride 64."""
    outputs = picodet_outputs()
    outputs[0][0, 2 * 8 + 3, 0] = 0.5
    for side, bins in enumerate((1, 2, 1, 0)):
        outputs[4][0, 2 * 8 + 3, 8 * side + bins] = 60
    outputs[3][0, 0, 79] = 0.9  # bins are equally likely: 3.5 strides to each side, which leaves the picture
    outputs[1][0, 0, 11] = 0.024  # too little
    found = picodet.decode_picodet(outputs, width=128, height=32)
    assert found.boxes == pytest.approx(np.array([[0, 0, 128, 32], [39, 1.75, 71, 9.75]]))
    assert found.labels.tolist() == [90, 1]
    assert found.scores == pytest.approx([0.9, 0.5])
    assert len(picodet.decode_picodet(picodet_outputs(), 128, 32).boxes) == 0


def test_picodet_keeps_the_best_hundred() -> None:
    outputs = picodet_outputs(128)
    outputs[0][0, :, :2] = np.linspace(0.1, 0.9, 256)[:, None]
    outputs[4].reshape(1, 256, 4, 8)[..., 0] = 60  # boxes without extent overlap nothing
    found = picodet.decode_picodet(outputs, 128, 128)
    assert len(found.scores) == 100 and found.scores[0] == pytest.approx(0.9)
    assert (np.diff(found.scores) <= 0).all()


def test_invalid_picodet_outputs_are_refused() -> None:
    with pytest.raises(OptionError, match="eight outputs"):
        picodet.decode_picodet(picodet_outputs()[:7], 64, 64)
    outputs = picodet_outputs()
    outputs[4] = outputs[4][:, 1:]
    with pytest.raises(OptionError, match="do not fit"):
        picodet.decode_picodet(outputs, 64, 64)


def test_nms_keeps_the_box_with_the_highest_score() -> None:
    boxes = np.array([[0, 0, 10, 5], [0, 0, 10, 9], [0, 0, 10, 10], [0, 0, 10, 10]], np.float64)
    kept = picodet.nms(boxes, np.array([1, 1, 1, 2]), np.array([0.3, 0.8, 0.9, 0.5]))
    assert kept.tolist() == [2, 3, 0]


def test_picodet_preprocessing() -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:] = (10, 120, 250)
    x = picodet.preprocess(pixels, 8, 6)
    assert x.shape == (1, 3, 6, 8) and x.dtype == np.float32
    expected = [(10 - 123.675) / 58.395, (120 - 116.28) / 57.12, (250 - 103.53) / 57.375]
    assert x[0, :, 2, 5] == pytest.approx(expected)
    ramp = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[:, None, None], (120, 8, 3))
    assert (np.diff(picodet.preprocess(ramp, 4, 60)[0, 0, :, 0]) > 0).all()  # rows stay rows


def test_coco_category_ids_have_gaps() -> None:
    assert len(COCO_IDS) == 80 and COCO_IDS[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13)
    assert COCO_IDS[-1] == 90


class Session:
    """A fake onnxruntime session."""

    def __init__(self, inputs: list[list[Any]], outputs: dict[str, np.ndarray]) -> None:
        self.inputs = [SimpleNamespace(name="image", shape=shape, type="tensor(float)") for shape in inputs]
        self.outputs = outputs
        self.fed: list[np.ndarray] = []

    def get_inputs(self) -> list[Any]:
        return self.inputs

    def get_outputs(self) -> list[Any]:
        kinds = {"i": "tensor(int64)", "f": "tensor(float)"}
        return [
            SimpleNamespace(name=name, shape=list(value.shape), type=kinds[value.dtype.kind])
            for name, value in self.outputs.items()
        ]

    def run(self, _: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.fed.append(feed["image"])
        return list(self.outputs.values())


THREE: dict[str, np.ndarray] = {
    "boxes": np.array([[0, 0, 10, 20]], np.float32),
    "scores": np.array([0.5], np.float32),
    "labels": np.array([18], np.int64),
}


def onnx(monkeypatch: pytest.MonkeyPatch, session: Session) -> OnnxDetector:
    monkeypatch.setattr(onnx_detector, "open_session", lambda path: session)
    return OnnxDetector("x.onnx")


def test_onnx_file_of_picodet_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = picodet_outputs()
    outputs[3][0, 0, 0] = 0.9
    session = Session([[1, 3, 64, 64]], {str(number): output for number, output in enumerate(outputs)})
    detector = onnx(monkeypatch, session)
    found = detector.find(picture(1))
    assert detector.categories == COCO_IDS and session.fed[0].shape == (1, 3, 64, 64)
    assert found.labels.tolist() == [1] and found.boxes.tolist() == [[0, 0, 100, 80]]


@pytest.mark.parametrize(
    ("shape", "fed", "box"),
    [
        ([3, "h", "w"], (3, 80, 100), [0, 0, 10, 20]),
        ([1, 3, 40, 200], (1, 3, 40, 200), [0, 0, 5, 40]),
    ],
)
def test_onnx_file_with_box_outputs_is_loaded(
    shape: list[Any], fed: tuple[int, ...], box: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session([shape], THREE)
    detector = onnx(monkeypatch, session)
    found = detector.find(picture(51))
    assert session.fed[0].shape == fed and session.fed[0] == pytest.approx(0.2) and not detector.masks
    assert found.labels.tolist() == [18] and found.scores.tolist() == [0.5] and found.boxes.tolist() == [box]
    with pytest.raises(OptionError, match=r"returned float32 \[1, 4\], int64 \[1\]\."):
        onnx_detector.decode_boxes([THREE["boxes"], THREE["labels"]], 1, 1)


def test_other_onnx_files_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"this one returns logits \[1, 1000\] tensor\(float\)"):
        onnx(monkeypatch, Session([[1, 3, 64, 64]], {"logits": np.zeros((1, 1000), np.float32)}))
    parts = [SimpleNamespace(name=str(n), shape=[1, "n", 80 if n < 4 else "m"], type="f") for n in range(8)]
    with pytest.raises(OptionError, match="this one returns 0 "):
        onnx_detector.is_picodet(parts)
    with pytest.raises(OptionError, match="must take one image"):
        onnx(monkeypatch, Session([[1, 3, 64, 64], [2]], THREE))
    monkeypatch.undo()
    pytest.importorskip("onnxruntime")
    with pytest.raises(FileNotFoundError):
        OnnxDetector(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(OptionError, match="is no ONNX file that onnxruntime can read"):
        OnnxDetector(tmp_path / "text.onnx")


class Model(torch.nn.Module):
    """A model that returns a given output for each input."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Any) -> Any:
        return self.answer(x)


def as_float(x: torch.Tensor) -> torch.Tensor:
    return x / 255


def test_detector_with_torchvisions_interface() -> None:
    def answer(pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        assert pictures[0].shape == (3, 80, 100) and float(pictures[0][0, 0, 0]) == pytest.approx(0.2)
        boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        return [{"boxes": boxes, "labels": torch.tensor([7]), "scores": torch.tensor([0.5])}]

    detector = TorchvisionDetector(Model(answer), as_float)
    pixels = picture(51)
    pixels.setflags(write=False)
    found = detector.find(pixels)
    assert found.boxes.tolist() == [[1, 2, 3, 4]] and found.labels.tolist() == [7] and found.masks is None
    assert not detector.masks
    with pytest.raises(OptionError, match="cannot compute on the device 'abacus'"):
        TorchvisionDetector(Model(answer), as_float, "abacus")


def test_small_mask_rcnn_of_torchvision() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 16, stride=16))
    backbone.out_channels = 8  # type: ignore[assignment]
    anchors = models.detection.anchor_utils.AnchorGenerator(((32,),), ((1.0,),))
    model = models.detection.MaskRCNN(
        backbone, 91, min_size=64, max_size=96, rpn_anchor_generator=anchors, box_score_thresh=0.0,
        box_detections_per_img=3, rpn_post_nms_top_n_test=5,
    )  # fmt: skip
    detector = TorchvisionDetector(model, as_float)
    found = detector.find(np.random.default_rng(0).integers(0, 256, (80, 100, 3)).astype(np.uint8))
    assert detector.masks and found.masks is not None and found.masks.dtype == bool
    assert found.masks.shape == (len(found.boxes), 80, 100) and 0 < len(found.boxes) <= 3


@pytest.fixture
def offline_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float | None]:
    """torchvision on a machine that is offline; returns the timeouts of its downloads."""
    models = pytest.importorskip("torchvision.models")
    timeouts: list[float | None] = []

    def refuse(name: str, **options: object) -> None:
        timeouts.append(socket.getdefaulttimeout())
        print("Downloading ...")
        raise URLError("no network")

    monkeypatch.setattr(models, "get_model", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return timeouts


@pytest.mark.parametrize(
    ("kind", "model"),
    [("detection", "ssd300_vgg16"), ("segmentation", "fcn_resnet50"), ("classification", "resnet18")],
)
def test_missing_torchvision_weights_raise_weights_error(
    kind: str, model: str, offline_torchvision: list[float | None], capsys: pytest.CaptureFixture[str]
) -> None:
    before = socket.getdefaulttimeout()
    with pytest.raises(
        NotMeasured, match=rf"{model} is not measured.*curl --create-dirs -o .*cache.*\.pth http"
    ):
        networks.load_torchvision(kind, model)
    assert offline_torchvision == [networks.DOWNLOAD_TIMEOUT] and socket.getdefaulttimeout() == before
    assert capsys.readouterr().out == ""
    with pytest.raises(OptionError, match=f"no {kind} model 'resnet1'; it has: .*{model}"):
        networks.load_torchvision(kind, "resnet1")


def test_weights_in_the_folder_of_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By torchvision's own loader, with random weights in the file of its smallest network."""
    models = pytest.importorskip("torchvision.models")
    weights = models.SqueezeNet1_1_Weights.DEFAULT
    state = models.squeezenet1_1(weights=None).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / weights.url.rpartition("/")[2])
    monkeypatch.setattr("torch.hub.download_url_to_file", None)
    monkeypatch.setenv("TRIFOCAL_NETWORKS", str(tmp_path))
    before = torch.hub.get_dir()
    model, _ = networks.load_torchvision("classification", "squeezenet1_1")
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.hub.get_dir() == before


def test_damaged_download_raises_weights_error_and_other_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("torchvision.models")
    failures = iter([RuntimeError('invalid hash value (expected "a")'), RuntimeError("out of memory")])

    def fail(name: str, **options: object) -> None:
        raise next(failures)

    monkeypatch.setattr(models, "get_model", fail)
    with pytest.raises(NotMeasured):
        networks.load_torchvision("classification", "resnet18")
    with pytest.raises(RuntimeError, match="out of memory"):
        networks.load_torchvision("classification", "resnet18")


# ── regions ──


def label_map(path: Path, labels: list[list[int]], mode: str = "L") -> Path:
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(np.array(labels, np.uint8))
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    (image.convert(mode) if mode == "RGB" else image).save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "P"])
def test_intersection_over_union_by_hand(mode: str, tmp_path: Path) -> None:
    """Class 0: one of three pixels, 1: two of three, 2: none of one; the pixel of 255 does not count."""
    label_map(tmp_path / "labels" / "a.png", [[0, 0, 1], [1, 255, 2]], mode)
    maps = tasks.find_label_maps(tmp_path / "labels")
    task = SegmentationTask(lambda pixels: np.array([[0, 1, 1], [1, 2, 0]]), maps)
    task.add(picture(1, 3, 2), "images/a.jpg")
    assert task.columns == ("miou",) and task.result() == pytest.approx({"miou": 1 / 3})
    task.begin()
    task.add(picture(1, 3, 2), "b.jpg")
    task.add(picture(1, 4, 2), "a.jpg")
    assert [note.split(",")[1].split(":")[0] for note in task.notices] == [
        f" not in {tmp_path / 'labels'}",
        f" of another size than in {tmp_path / 'labels'}",
    ]
    with pytest.raises(OptionError, match="No image was added that has a label map"):
        task.result()


def test_intersection_over_union_is_over_all_images_together(tmp_path: Path) -> None:
    for name, labels in (("a", [[0, 0, 0, 0]]), ("b", [[0, 1, 1, 1]])):
        label_map(tmp_path / f"{name}.png", labels)
    answers = {1: [[0, 0, 0, 1]], 2: [[0, 1, 1, 1]]}
    task = SegmentationTask(
        lambda pixels: np.array(answers[int(pixels[0, 0, 0])]), tasks.find_label_maps(tmp_path)
    )
    task.add(picture(1, 4, 1), "a.png")
    task.add(picture(2, 4, 1), "b.png")
    assert task.result() == pytest.approx({"miou": (4 / 5 + 3 / 4) / 2})


def test_invalid_label_maps_are_refused(tmp_path: Path) -> None:
    label_map(tmp_path / "a.png", [[0, 1]], "RGB")
    task = SegmentationTask(lambda pixels: np.zeros((1, 2), np.int64), tasks.find_label_maps(tmp_path))
    with pytest.raises(OptionError, match="its mode is RGB"):
        task.add(picture(1, 2, 1), "a.png")
    with pytest.raises(OptionError, match="has annotations for no image"):
        tasks.find_label_maps(tmp_path / "nowhere")


def test_segmentation_scores_are_resized_to_the_image() -> None:
    """The network's input has a quarter of the pixels, and its output is class 1 on the right."""

    def answer(x: torch.Tensor) -> dict[str, torch.Tensor]:
        assert x.shape == (1, 3, 2, 4)
        scores = torch.zeros(1, 2, 2, 4)
        scores[:, 1, :, 2:], scores[:, 0, :, :2] = 1, 1
        return {"out": scores}

    segment = networks.Segmenter(Model(answer), lambda x: as_float(x)[:, ::2, ::2])
    assert segment(picture(1, 8, 4)).tolist() == [[0] * 4 + [1] * 4] * 4


# ── classes ──


def scores_of(rows: list[list[float]]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: np.array(rows[int(pixels[0, 0, 0])])


def test_top1_and_top5_by_hand() -> None:
    classify = scores_of([[9, 1, 2, 3, 4, 5], [1, 9, 8, 7, 6, 5], [1, 9, 8, 7, 6, 5], [0, 0, 0, 0, 0, 1]])
    task = ClassificationTask(classify, GroundTruth("x.csv", {"a": 0, "b": 5, "c": 0, "d": 5, "e": 3}))
    for number, name in enumerate("abcd"):  # first; fifth; sixth; first
        task.add(picture(number), name)
    assert task.result() == {"top1": 0.5, "top5": 0.75}
    task.begin()
    task.add(picture(1), "f")
    assert task.notices == ["1 image left out, not in x.csv: f."]
    with pytest.raises(OptionError, match="No image was added that x.csv lists"):
        task.result()


def test_average_precision_of_several_classes_by_hand() -> None:
    """Class 0: ranks 1 and 3 of 3 are right, (1 + 2/3) / 2. Class 1: rank 2, 1/2. Class 2 is in no
    picture.
    """
    classify = scores_of([[0.9, 0.1, 0.5], [0.8, 0.3, 0.5], [0.7, 0.2, 0.5]])
    classes: GroundTruth[int | tuple[int, ...]] = GroundTruth("x.json", {"a": (0,), "b": (), "c": (0, 1)})
    task = ClassificationTask(classify, classes)
    for number, name in enumerate("abc"):
        task.add(picture(number), name)
    assert task.columns == ("map",) and task.result() == pytest.approx({"map": (5 / 6 + 1 / 2) / 2})
    task.begin()
    task.add(picture(1), "b")
    assert np.isnan(task.result()["map"])
    equal = classification.mean_average_precision(np.array([[0.5], [0.5]]), np.array([[True], [False]]))
    assert equal == pytest.approx(0.5)  # whichever stands first


def test_unknown_classes_are_refused() -> None:
    task = ClassificationTask(scores_of([[0.1, 0.2]]), GroundTruth("x.json", {"a": 2}))
    with pytest.raises(OptionError, match="lists a as class 2; the network has 0 to 1"):
        task.add(picture(0), "a")


def test_classifier_is_measured() -> None:
    network = networks.Classifier(Model(lambda x: x.mean(dim=(2, 3))), as_float)
    assert network(picture(51)) == pytest.approx([0.2, 0.2, 0.2])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("x.json", '{"a": 3, "b": 0}', {"a": 3, "b": 0}),
        ("x.json", '{"a": [3, 1], "b": []}', {"a": (3, 1), "b": ()}),
        ("x.csv", "name,class\na,3\nb,0\n", {"a": 3, "b": 0}),
        ("x.csv", "a,3\n\nb,0", {"a": 3, "b": 0}),
        ("x.csv", "a,3 1\nb,0\nc,\n", {"a": (3, 1), "b": (0,), "c": ()}),
    ],
)
def test_class_files_are_read(name: str, text: str, expected: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name).values == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [("x.json", "[3]"), ("x.json", '{"a": "cat"}'), ("x.json", '{"a": [[3]]}'), ("x.json", '{"a": -1}')]
    + [("x.csv", "a,3\nb,cat"), ("x.csv", "a,3,4"), ("x.json", "")],
)
def test_invalid_class_files_are_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match="does not give each file name its class"):
        read_classes(tmp_path / name)


# ── a detector's own answers ──


def test_detections_in_originals_can_be_the_ground_truth(coco: str, tmp_path: Path) -> None:
    """In image 1 one box is confident and another is not; in a decoded image the first is found, shifted, or
    missed.
    """
    sure, unsure = (1, 0.9, (10, 10, 30, 50)), (2, 0.4, (50, 10, 70, 30))
    fake = Fake({1: [sure, unsure], 2: [], 3: [(1, 0.3, (10, 10, 30, 50))], 4: [(1, 0.9, (10, 10, 30, 39))]})
    for number, name in ((1, "a.png"), (2, "b.png")):
        Image.fromarray(picture(number)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    paths = {name: tmp_path / name for name in ("a.png", "b.png", "broken.png")}
    said: list[tuple[float, str]] = []
    known = Annotations.from_detector(fake, paths, lambda fraction, text: said.append((fraction, text)))
    assert said == [
        (0, "detecting objects in a.png"),
        (1 / 3, "detecting objects in b.png"),
        (2 / 3, "detecting objects in broken.png"),
    ]
    assert [item["bbox"] for item in known.objects[0]] == [[10, 10, 20, 40]] and known.objects[1] == []
    task = DetectionTask(fake, known, model="fake")
    assert task.model == "fake-own" and not task.masks
    for decoded, expected in ((1, 1.0), (3, 1.0), (4, 0.5), (2, 0.0)):
        task.begin()
        task.add(picture(decoded), "a.png")
        assert task.result()["ap"] == pytest.approx(expected), decoded
    task.add(picture(2), "broken.png")
    assert "broken.png" in task.notices[0]
    with pytest.raises(OptionError, match=r"finds no object in these images with a score of 0\.5"):
        Annotations.from_detector(fake, {"b.png": tmp_path / "b.png"}, lambda fraction, text: None)


def test_detector_without_a_list_of_labels(tmp_path: Path) -> None:
    fake = Fake({1: [(7, 0.9, (10, 10, 30, 50)), (9, 0.1, (0, 0, 5, 5))]})
    fake.categories = None
    Image.fromarray(picture(1)).save(tmp_path / "a.png")
    known = Annotations.from_detector(fake, {"a.png": tmp_path / "a.png"}, lambda fraction, text: None)
    assert known.ids == {7, 9}


# ── create_task ──


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "images"
    place.mkdir()
    for number, name in enumerate(("a.png", "b.png")):
        Image.fromarray(picture(number)).save(place / name)
    return place


def test_each_kind_of_task_finds_its_annotations(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(lambda x: torch.zeros(1, 4))
    monkeypatch.setattr(tasks, "load_torchvision", lambda kind, name: (model, as_float))
    monkeypatch.setattr(
        "trifocal.evaluation.tasks.networks.load_torchvision", lambda kind, name: (model, as_float)
    )
    monkeypatch.setattr(tasks, "create_detector", lambda name, device: Fake({0: []}))
    monkeypatch.setattr(tasks, "check_installed", lambda: None)
    annotations(folder.parent, [item(0, (0, 0, 9, 9))])
    label_map(folder.parent / "labels" / "a.png", [[0]])
    (folder.parent / "labels.csv").write_text("a.png,1\n")
    found = [create_task(kind, "any", None, folder) for kind in tasks.TASKS]
    assert [type(task) for task in found] == [DetectionTask, SegmentationTask, ClassificationTask]
    assert [task.columns for task in found] == [("ap", "ap50", "ap75"), ("miou",), ("top1", "top5")]
    found[2].add(picture(0), "a.png")
    assert found[2].result() == {"top1": 0.0, "top5": 1.0}
    assert create_task("detection", "any", None, folder / "a.png", short_side=800).columns
    assert create_task("detection", "any", None, folder.parent).columns  # the pictures are images/a.png here


def voc(folder: Path, name: str, *boxes: tuple[str, int, tuple[int, ...]]) -> None:
    """An XML file of PASCAL VOC for an image of 100×80: objects with class, difficult or not, and corners."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        f"<object><name>{kind}</name><difficult>{difficult}</difficult><part><name>head</name></part><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(corners, box))
        + "</bndbox></object>"
        for kind, difficult, box in boxes
    )
    text = f"<annotation><size><width>100</width><height>80</height></size>{objects}</annotation>"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.xml").write_text(text)


def test_annotations_of_voc(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A found person, a missed difficult one, and a found sofa that is COCO's couch: nothing is wrong."""
    place = folder.parent / "Annotations"
    voc(place, "a", ("person", 0, (11, 21, 30, 40)), ("person", 1, (60, 60, 70, 70)))
    voc(place, "b", ("sofa", 0, (1, 1, 50, 50)))
    found = {0: [(1, 0.9, (10, 20, 30, 40))], 1: [(63, 0.8, (0, 0, 50, 50))]}
    monkeypatch.setattr(tasks, "create_detector", lambda name, device: Fake(found))
    task = create_task("detection", "any", None, folder)
    for number, name in enumerate(("a.png", "b.png")):
        task.add(picture(number), name)
    assert task.result() == {"ap": 1.0, "ap50": 1.0, "ap75": 1.0} and task.notices == []
    voc(place, "b", ("sofa", 0, (1, 1, 50, 50)), ("person", 0, (60, 60, 70, 70)))
    task = create_task("detection", "any", None, folder)
    for number, name in enumerate(("a.png", "b.png")):
        task.add(picture(number), name)
    assert 0.6 < task.result()["ap50"] < 0.8, "one of two persons is missed"


def test_voc_numbers_its_classes_for_other_detectors(folder: Path, tmp_path: Path) -> None:
    place = folder.parent / "Annotations"
    voc(place, "a", ("aeroplane", 0, (1, 1, 9, 9)), ("tvmonitor", 0, (1, 1, 9, 9)))
    for coco_ids, expected in ((True, [5, 72]), (False, [1, 20])):
        (objects,) = read_voc(place, coco_ids).objects.values()
        assert [item["category_id"] for item in objects] == expected
        assert objects[0]["bbox"] == [0, 0, 9, 9]
    assert len(read_voc(place).categories) == 20
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="has no .xml files"):
        read_voc(tmp_path / "empty")
    voc(place, "b", ("unicorn", 0, (1, 1, 9, 9)))
    with pytest.raises(OptionError, match=r"b\.xml is not an annotation in PASCAL VOC's layout.*unicorn"):
        read_voc(place)


def test_annotations_are_named_where_they_cannot_be_found(folder: Path) -> None:
    with pytest.raises(
        OptionError, match=r"Name the annotations of .*images: there is no instances\.json or"
    ):
        create_task("detection", "any", None, folder)
    place = folder.parent / "annotations"
    place.mkdir()
    for name in ("instances_train.json", "instances_val.json"):
        (place / name).write_text("{}")
    with pytest.raises(OptionError, match=r"has several \(instances_train\.json, instances_val\.json\)"):
        create_task("detection", "any", None, folder)
    (place / "instances_train.json").unlink()
    assert tasks.find_annotations("detection", folder) == place / "instances_val.json"
    with pytest.raises(FileNotFoundError):
        create_task("classification", "any", folder / "no.csv", folder)


def test_invalid_requests_are_refused_before_a_network_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(tasks, "load_torchvision", load)
    monkeypatch.setattr(tasks, "create_detector", load)
    monkeypatch.setattr(tasks, "check_installed", lambda: None)
    other = annotations(folder.parent, [], names=["z.jpg"])
    with pytest.raises(
        OptionError, match=r"instances\.json matches none of these images: it lists e\.g\. z\.jpg"
    ):
        create_task("detection", "any", other, folder)
    with pytest.raises(
        OptionError, match="no task 'poetry'; choose one of: detection, segmentation, classification"
    ):
        create_task("poetry", "any", None, folder)
    for kind, side in (("segmentation", None), ("detection", 800)):
        with pytest.raises(OptionError, match="The annotations 'own' are for detection and class"):
            create_task(kind, "any", "own", folder, side)
    for kind, model, side in (("segmentation", "x.onnx", None), ("classification", "resnet18", 800)):
        with pytest.raises(OptionError, match=f"are for detection, not for {kind}"):
            create_task(kind, model, None, folder, side)


def test_agreement_of_a_classifier_with_itself_on_the_originals(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most likely class of each original is the truth; images that changed count as wrong."""

    def scores(pixels: np.ndarray) -> np.ndarray:
        return np.eye(256)[pixels[0, 0, 0]]

    monkeypatch.setattr(tasks, "load_classifier", lambda model, device: scores)
    task = create_task("classification", "efficientnet-lite1", "own", folder)
    assert task.model == "efficientnet-lite1-own"
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
    for name in names:
        task.add(np.array(Image.open(folder / name).convert("RGB")), name)
    assert task.result()["top1"] == 1
    task.begin()
    for name in names:
        task.add(255 - np.array(Image.open(folder / name).convert("RGB")), name)
    assert task.result()["top1"] == 0


def test_efficientnet_lite_classifies_the_centre_of_an_image() -> None:
    classify = networks.load_classifier("efficientnet-lite1")
    wide = np.random.default_rng(0).integers(0, 256, (90, 200, 3), np.uint8)
    logits = classify(wide)
    assert logits.shape == (1000,) and logits.std() > 0.1
    edges = wide.copy()
    edges[:, :30] = edges[:, -30:] = 0
    assert np.array_equal(classify(edges), logits)
    square = networks.centre_square(torch.from_numpy(wide).permute(2, 0, 1), 240)
    assert square.shape == (3, 240, 240) and 0 <= square.min() < square.max() <= 1
