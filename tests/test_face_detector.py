"""The script that wraps CenterFace's ONNX file, on a fake file of the same layout whose score is the
brightness.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.scripts import load_script
from trifocal.evaluation.tasks.detectors import create_detector

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

HEIGHT, WIDTH = 8.0, 12.0  # pixels, of every face that it finds


@pytest.fixture
def script() -> Any:
    return load_script("scripts/face_detector.py")


def like_centerface(path: Path, offset: float = 0.0) -> Path:
    """At each cell of stride 4, the mean of the first channel is the score; opset 9, as CenterFace's."""
    make, number = onnx.helper, onnx.TensorProto.FLOAT
    kernel = np.zeros((5, 3, 4, 4), np.float32)  # score, two sizes, two offsets
    kernel[0, 0] = 1 / (16 * 255)
    bias = np.array([0, np.log(HEIGHT / 4), np.log(WIDTH / 4), offset, offset], np.float32)
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in (("k", kernel), ("b", bias))]
    shapes = {"537": 1, "538": 2, "539": 2}
    graph = make.make_graph(
        [
            make.make_node("Conv", ["input.1", "k", "b"], ["all"], strides=[4, 4]),
            make.make_node("Split", ["all"], list(shapes), axis=1, split=[1, 2, 2]),
        ],
        "face",
        [make.make_tensor_value_info("input.1", number, [10, 3, 32, 32])],
        [make.make_tensor_value_info(name, number, [10, depth, 8, 8]) for name, depth in shapes.items()],
        weights,
    )
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 9)], ir_version=4), str(path))
    return path


def wrap(script: Any, monkeypatch: pytest.MonkeyPatch, source: Path, target: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["face_detector.py", str(source), str(target)])
    script.main()


def test_faces_are_returned_as_boxes_in_pixels(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrap(script, monkeypatch, like_centerface(tmp_path / "c.onnx", 0.25), tmp_path / "f.onnx")
    pixels = np.zeros((50, 70, 3), np.uint8)  # no multiples of 32
    pixels[40:44, 8:12] = 255
    pixels[40:44, 12:16] = 204  # its box overlaps that of the place before it, which is surer
    pixels[8:12, 60:64] = 153
    found = create_detector(str(tmp_path / "f.onnx")).find(pixels)
    middles = np.array([[2.75 * 4, 10.75 * 4], [15.75 * 4, 2.75 * 4]])
    receptive_field = np.array([WIDTH, HEIGHT]) / 2
    assert found.boxes == pytest.approx(
        np.hstack([middles - receptive_field, middles + receptive_field]), abs=1e-4
    )
    assert found.scores == pytest.approx([1.0, 0.6]) and found.labels.tolist() == [1, 1]
    assert create_detector(str(tmp_path / "f.onnx")).find(pixels * 0).boxes.shape == (0, 4)


def test_other_onnx_files_are_refused(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrap(script, monkeypatch, like_centerface(tmp_path / "c.onnx"), tmp_path / "f.onnx")
    with pytest.raises(SystemExit, match=r"f\.onnx is not CenterFace: it has no output 537\."):
        wrap(script, monkeypatch, tmp_path / "f.onnx", tmp_path / "g.onnx")
