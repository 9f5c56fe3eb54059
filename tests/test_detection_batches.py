"""Training batches of detectors: boxes follow the augmentations, and teacher detections become targets."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from helpers.detector_training import (
    BLUE,
    BRUSH,
    PERSON,
    RED,
    Box,
    CentreTeacher,
    rectangle_image,
    teacher_detections,
)
from trifocal.data.images import TrainingPicture
from trifocal.detection.input_size import COCO_IDS, compact_size, torchvision_size
from trifocal.errors import OptionError
from trifocal.training import detection_batches
from trifocal.training.detection_batches import (
    PICODET_SIDE,
    STRIDES,
    DetectionBatches,
    DetectionTeacher,
    candidates,
    centre,
    crop,
    label_numbers,
    make_target,
    mirror,
    teacher_target,
)
from trifocal.training.distillation import DISTILLED_PARTS, TeacherOutputs

NUMBERS = label_numbers(COCO_IDS)
SMALL_INPUT = partial(compact_size, area=96 * 96)
PICTURES = [
    rectangle_image("a", 200, 150, (60, 40, 130, 110), RED),
    rectangle_image("b", 150, 200, (10, 20, 90, 150), BLUE),
    rectangle_image("c", 320, 256, (0, 0, 320, 256), RED),
    rectangle_image("d", 400, 90, (300, 5, 399, 85), BLUE),
    rectangle_image("e", 64, 64, (30, 30, 64, 64), RED),
]


def coloured_mask(rgb: NDArray[np.uint8], label: int) -> NDArray[np.bool_]:
    """The pixels that are red, or blue; [H, W]. At the edge of an enlarged rectangle the middle of the slope
    is the limit.
    """
    own, other = (0, 2) if label == PERSON else (2, 0)
    difference = rgb[..., own].astype(float) - rgb[..., other]
    mask: NDArray[np.bool_] = difference > max(20.0, difference.max() / 2)
    return mask


def extent(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def as_pixels(x: torch.Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = x.permute(1, 2, 0).mul(255).round().byte().numpy()
    return pixels


# ── one picture ──


@pytest.mark.parametrize("part", [(0, 0, 200, 150), (30, 20, 180, 140), (70, 50, 125, 105), (0, 0, 100, 90)])
@pytest.mark.parametrize(("height", "width"), [(96, 128), (300, 200)])
def test_boxes_follow_crops(part: Box, height: int, width: int) -> None:
    rgb, objects = crop(PICTURES[0], part, height, width)
    assert rgb.shape == (height, width, 3) and objects is not None
    boxes, labels = objects
    assert labels.tolist() == [PERSON]
    assert np.abs(boxes[0] - extent(coloured_mask(rgb, PERSON))).max() <= 1.5


def test_mostly_cropped_objects_are_dropped() -> None:
    """Less than three tenths of the object, or a side of less than four pixels, remain in the crop."""
    picture = PICTURES[0]
    for part, height, width in (((0, 0, 79, 150), 96, 96), ((0, 0, 200, 150), 8, 96)):
        _, objects = crop(picture, part, height, width)
        assert objects is not None and len(objects[0]) == len(objects[1]) == 0
    _, objects = crop(picture, (0, 0, 82, 150), 96, 96)
    assert objects is not None and len(objects[0]) == 1


def test_images_without_boxes_have_no_targets_without_a_teacher() -> None:
    picture = TrainingPicture("x", PICTURES[0].rgb)
    rgb, objects = crop(picture, (0, 0, 100, 100), 32, 32)
    assert objects is None and mirror(rgb, None)[1] is None


def test_boxes_follow_mirroring() -> None:
    rgb, objects = crop(PICTURES[0], (0, 0, 200, 150), 150, 200)
    flipped, moved = mirror(rgb, objects)
    assert moved is not None and objects is not None
    assert np.array_equal(flipped, rgb[:, ::-1])
    assert (
        moved[0].tolist() == [[70, 40, 140, 110]] == [[*map(float, extent(coloured_mask(flipped, PERSON)))]]
    )
    again, back = mirror(flipped, moved)
    assert back is not None and np.array_equal(again, rgb) and np.array_equal(back[0], objects[0])


def test_labels_are_mapped_to_class_indices() -> None:
    assert sorted(NUMBERS.values()) == [*range(1, 81)] and NUMBERS[PERSON] == 1 and NUMBERS[BRUSH] == 80
    objects = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), np.array([BRUSH, 13])
    target = make_target(objects, NUMBERS)
    assert target.labels.tolist() == [80, 12] and target.boxes.shape == (2, 4) and target.certain
    assert make_target(objects, label_numbers(range(1, 91))).labels.tolist() == [BRUSH, 13]
    nothing = make_target((np.zeros((0, 4), np.float32), np.zeros(0, np.int64)), NUMBERS)
    assert nothing.boxes.shape == (0, 4) and nothing.boxes.dtype == torch.float32


# ── scenes ──


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_boxes_stay_on_their_objects_after_augmentation(
    mosaic: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops, mirroring, colours, one image or a mosaic of four; each box encloses exactly its own colour."""
    monkeypatch.setattr(detection_batches, "MOSAIC", mosaic)
    scenes = DetectionBatches(PICTURES, None, 6, seed=3)
    found = 0
    for _ in range(4):
        x, targets, seen = scenes.next()
        assert seen is None and x.shape[0] == len(targets) == 6
        assert tuple(x.shape[2:]) in ((352, 480), (480, 352), (384, 448)) and 0 <= x.min() and x.max() <= 1
        for rgb, target in zip(map(as_pixels, x), targets):
            found += len(target.labels)
            assert target.certain
            check_boxes(rgb, target.boxes.numpy(), target.labels.tolist(), tiles=2 if mosaic else 1)
    assert found > 24 * (3 if mosaic else 1) * 0.6


def check_boxes(rgb: NDArray[np.uint8], boxes: NDArray[np.float32], labels: list[int], tiles: int) -> None:
    """Compare each box with the pixels of its colour in the tile that contains its centre."""
    high, wide = rgb.shape[0] // tiles, rgb.shape[1] // tiles
    for box, label in zip(boxes, labels):
        x, y = (wide * int((box[0] + box[2]) / 2 // wide), high * int((box[1] + box[3]) / 2 // high))
        tile = rgb[y : y + high, x : x + wide]
        there = extent(coloured_mask(tile, {1: PERSON, 80: BRUSH}[label]))
        assert np.abs(box - np.array(there) - [x, y, x, y]).max() <= 2.5


def test_batches_have_the_detectors_input_size() -> None:
    """In whole steps; labels are those of the detector."""
    scenes = DetectionBatches(PICTURES, None, 1, 0, range(1, 91), torchvision_size)
    assert scenes.shapes == [[800, 1056], [1056, 800], [800, 864]]
    small = DetectionBatches(PICTURES, None, 4, 0, range(1, 91), SMALL_INPUT)
    _, targets, _ = small.next()
    assert {label for target in targets for label in target.labels.tolist()} <= {PERSON, BRUSH}


def test_without_augmentation_images_are_whole_or_central() -> None:
    """Their boxes fit, colours are unchanged, and nothing is mirrored."""
    with DetectionBatches(PICTURES, None, 8, 0, range(1, 91), SMALL_INPUT, augmented=False) as batches:
        x, targets, _ = batches.next()
    height, width = x.shape[2:]
    wanted = [crop(own, centre(own, width / height), height, width) for own in PICTURES]
    for image, target in zip(x, targets, strict=True):
        found = [objects for rgb, objects in wanted if np.array_equal(rgb, as_pixels(image))]
        assert len(found) == 1 and found[0] is not None
        assert np.array_equal(found[0][0], target.boxes.numpy())
    assert centre(PICTURES[0], 200 / 150) == (0, 0, 200, 150)
    assert centre(PICTURES[0], 0.5) == (62, 0, 137, 150)


def test_same_seed_gives_the_same_batches() -> None:
    one, two, other = (DetectionBatches(PICTURES, None, 3, seed).next() for seed in (5, 5, 6))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1][0].boxes, two[1][0].boxes)
    assert one[0].shape != other[0].shape or not torch.equal(one[0], other[0])


@pytest.mark.parametrize(("width", "height"), [(64, 64), (64, 900), (900, 64), (1000, 700)])
@pytest.mark.parametrize("aspect", [192 / 256, 1.0, 320 / 256])
def test_crops_are_within_the_image(width: int, height: int, aspect: float) -> None:
    scenes = DetectionBatches(PICTURES, None, 1, seed=0)
    picture = TrainingPicture("x", np.zeros((height, width, 3), np.uint8))
    for _ in range(50):
        x0, y0, x1, y1 = scenes._part(picture, aspect)
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert min(x1 - x0, y1 - y0) >= 16
        assert 0.6 < (x1 - x0) / (y1 - y0) / aspect < 1.5


# ── a teacher ──


def test_teacher_is_used_for_images_without_boxes() -> None:
    """It runs on every batch; images without boxes are used only if there is a teacher."""
    bare = [TrainingPicture(str(number), PICTURES[0].rgb) for number in range(3)]
    fake = CentreTeacher()
    scenes = DetectionBatches([*bare, PICTURES[1]], fake, 8, seed=0)  # type: ignore[arg-type]
    assert len(scenes.pictures) == 4 and len(DetectionBatches([*bare, PICTURES[1]], None, 1, 0).pictures) == 1
    x, targets, seen = scenes.next()
    assert seen is not None and len(seen) == 8 and fake.asked >= 8
    assert {target.certain for target in targets} == {True, False}
    height, width = x.shape[2:]
    for target in targets:
        if not target.certain:
            assert target.labels.tolist() == [1]
            assert target.boxes.tolist() == [[width / 4, height / 4, width / 2, height / 2]]


def test_images_without_boxes_need_a_teacher() -> None:
    with pytest.raises(OptionError, match="needs images with boxes, or a teacher"):
        DetectionBatches([TrainingPicture("x", PICTURES[0].rgb)], None, 1, 0)


def test_confident_teacher_detections_become_targets() -> None:
    """Of two overlapping boxes of a class the one with the higher score; boxes of other classes too; none
    with a low score.
    """
    near, far = [10.0, 10, 50, 50], [60.0, 60, 90, 90]
    seen = teacher_detections(
        [near, [11.0, 10, 51, 50], near, far, far], [{4: 0.6}, {4: 0.8}, {7: 0.5}, {4: 0.39}, {4: 0.41}]
    )
    target = teacher_target(seen, NUMBERS)
    assert not target.certain
    assert target.labels.tolist() == [5, 8, 5] and target.boxes[0].tolist() == [11, 10, 51, 50]
    assert target.boxes[2].tolist() == far
    assert teacher_target(seen, label_numbers(range(1, 91))).labels.tolist() == [5, 8, 5]
    assert len(teacher_target(teacher_detections([], []), NUMBERS).labels) == 0


def picodet_outputs() -> list[NDArray[np.float32]]:
    """PicoDet's eight outputs with one object: at 1/16, row 4, column 6; 1, 2, 3 and 4 strides to its four
    sides.
    """
    scores, distances = [], []
    for stride in STRIDES:
        places = (PICODET_SIDE // stride) ** 2
        scores.append(np.zeros((1, places, 80), np.float32))
        distances.append(np.zeros((1, places, 32), np.float32))
    place = 4 * (PICODET_SIDE // 16) + 6
    scores[1][0, place, 79] = 0.75
    for side, bin_of_it in enumerate((1, 2, 3, 4)):
        distances[1][0, place, 8 * side + bin_of_it] = 50
    return scores + distances


def test_teacher_candidates_by_hand() -> None:
    """The object's grid point is at (6 · 16 + 7.5, 4 · 16 + 7.5); the image is twice as wide as the teacher's
    square input.
    """
    boxes, scores = candidates(picodet_outputs(), 2 * PICODET_SIDE, PICODET_SIDE)
    x, y = 6 * 16 + 7.5, 4 * 16 + 7.5
    assert boxes.tolist() == [pytest.approx([2 * (x - 16), y - 32, 2 * (x + 48), y + 64], abs=1e-3)]
    assert scores.shape == (1, 80) and scores[0, 79] == 0.75 and scores.sum() == 0.75


def onnx_file(path: Path, inside: Sequence[str] = ()) -> Path:
    """An ONNX file with PicoDet's eight outputs, and inside it the means of the image over 8×8 pixels, with
    these names.
    """
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes, outputs = [], []
    for name in inside:
        nodes.append(
            make.make_node("AveragePool", ["image"], [name], name=name, kernel_shape=[8, 8], strides=[8, 8])
        )
    for place, values in enumerate(picodet_outputs()):
        value = onnx.numpy_helper.from_array(values, f"value{place}")
        nodes.append(make.make_node("Constant", [], [f"out{place}"], name=f"out{place}", value=value))
        outputs.append(make.make_tensor_value_info(f"out{place}", number, list(values.shape)))
    picture = make.make_tensor_value_info("image", number, [1, 3, PICODET_SIDE, PICODET_SIDE])
    graph = make.make_graph(nodes, "picodet", [picture], outputs)
    opset = make.make_opsetid("", 13)
    onnx.save(make.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
    return path


def test_onnx_teacher_gives_outputs_by_position(tmp_path: Path) -> None:
    """What it says of each place stands where the place is."""
    rgb = np.zeros((50, 100, 3), np.uint8)
    rgb[:, 50:] = 255
    seen = DetectionTeacher(onnx_file(tmp_path / "t.onnx"))(rgb)
    assert [tuple(m.shape) for m in seen.maps] == [(80, 52, 52), (80, 26, 26), (80, 13, 13), (80, 6, 6)]
    assert seen.maps[1][79, 4, 6] == 0.75 and sum(float(m.sum()) for m in seen.maps) == 0.75
    x, y = (6 * 16 + 7.5) * 100 / PICODET_SIDE, (4 * 16 + 7.5) * 50 / PICODET_SIDE
    x0, y0, x1, y1 = seen.boxes[0].tolist()
    assert x0 < x < x1 and y0 < y < y1 and teacher_target(seen, NUMBERS).labels.tolist() == [len(COCO_IDS)]


def test_other_onnx_files_are_refused_as_teacher(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "x.onnx"
    path.write_text("hello, this is no ONNX")
    with pytest.raises(OptionError, match=r"x\.onnx"):
        DetectionTeacher(path)


def test_teacher_features_are_the_requested_tensors(tmp_path: Path) -> None:
    """Channels-last, for the batch it was given; a PicoDet without these tensors is refused."""
    names = ["block 3", "extra 64", "say 64"]
    asked = [DISTILLED_PARTS[name][0] for name in names]
    answers = TeacherOutputs(PICTURES, onnx_file(tmp_path / "t.onnx", asked), names, 2, seed=0)
    x, said = answers.next()
    assert x.shape == (2, 3, PICODET_SIDE, PICODET_SIDE) and len(said) == 3
    means = F.avg_pool2d(x, 8).permute(0, 2, 3, 1)
    assert all(torch.allclose(answer, means, atol=1e-4) for answer in said)
    with pytest.raises(OptionError, match=f"it has no tensor {asked[-1]}"):
        TeacherOutputs(PICTURES, onnx_file(tmp_path / "other.onnx", asked[:-1]), names, 2, seed=0)


def test_label_that_coco_lacks_is_an_error() -> None:
    """COCO has no category 12."""
    with pytest.raises(OptionError, match="12"):
        make_target((np.zeros((1, 4), np.float32), np.array([12])), NUMBERS)
