"""Losses of the detector by hand: grid points and boxes, classes of proposals, and a teacher's outputs; then
training runs of a few steps.
"""

import copy
import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from helpers.detection import small_faster_rcnn
from helpers.detector_training import (
    CentreTeacher,
    OtherDetectorBatches,
    repeat_first_batch,
    teacher_detections,
    write_annotated_images,
)
from trifocal import training
from trifocal.cli import app
from trifocal.data import read_pictures
from trifocal.detection.detector import SplitDetector, compact_detector
from trifocal.detection.input_size import COCO_IDS
from trifocal.detection.proposals import BINS, DensePredictions, decode_distances, grid_points
from trifocal.detection.two_stage import first_stage_objectness, propose, to_image_list
from trifocal.errors import OptionError, WeightsError
from trifocal.losses import detection as losses
from trifocal.losses.detection import (
    Target,
    TeacherDetections,
    assign_grid_points,
    box_loss,
    detection_losses,
    paired_iou,
    quality_focal_loss,
    resized,
    soft_cross_entropy,
    teacher_score_maps,
)
from trifocal.training import detection_batches as scenes
from trifocal.training import distillation
from trifocal.training.tasks import detector as detector_task
from trifocal.weights import read_weights, write_weights

# ── by hand ──


def test_generalised_iou_loss_by_hand() -> None:
    """Half overlap in the same hull: 1/2. Side by side, two of three parts of the hull: 1 + 1/3. Equal boxes:
    0.
    """
    found = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [1, 2, 3, 4]])
    wanted = torch.tensor([[0.0, 0, 10, 5], [20, 0, 30, 10], [1, 2, 3, 4]])
    assert box_loss(found, wanted).item() == pytest.approx((1 / 2 + 4 / 3 + 0) / 3)
    assert paired_iou(found, wanted).tolist() == pytest.approx([0.5, 0, 1])
    assert box_loss(found[:0], wanted[:0]) == 0 and len(paired_iou(found[:0], wanted[:0])) == 0


def test_quality_focal_loss_is_lowest_at_the_target() -> None:
    """Off by 0.6 at 0.5: 0.36 of the cross-entropy; a confident negative has no loss."""
    quality = torch.tensor([0.0, 1.0, 0.9])
    assert quality_focal_loss(torch.tensor([-30.0, 30, torch.logit(quality[2])]), quality) < 1e-9
    logit, target = torch.logit(torch.tensor(0.3)), torch.tensor(0.9)
    expected = 0.36 * -(0.9 * np.log(0.3) + 0.1 * np.log(0.7))
    assert quality_focal_loss(logit, target).item() == pytest.approx(expected, rel=1e-4)


def test_boxes_are_assigned_to_the_best_points_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two points per box; a point that suits both goes to the box that it fits better; a point outside is
    assigned to no box, however well its prediction fits.
    """
    monkeypatch.setattr(losses, "POINTS_PER_OBJECT", 2)
    target = Target(
        torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [80, 80, 90, 90]]), torch.tensor([1, 1, 2])
    )
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [3, 0, 13, 10], [5, 0, 15, 10], [0, 0, 5, 5], [80, 80, 90, 90], [80, 80, 90, 85]]
    )
    grid = torch.tensor([[4.0, 4], [8, 4], [12, 4], [4, 8], [70, 70], [84, 82]])
    grid = torch.cat([grid, torch.full((6, 1), 8.0)], 1)
    scores = torch.full((6, 2), 0.5)
    points, objects = assign_grid_points(target, scores, boxes, grid)
    assert (points.tolist(), objects.tolist()) == ([0, 1, 2, 5], [0, 1, 1, 2])
    scores[1, 0] = 1e-9  # unsure of the class: the first box's next best is another
    points, objects = assign_grid_points(target, scores, boxes, grid)
    assert (points.tolist(), objects.tolist()) == ([0, 1, 2, 3, 5], [0, 1, 1, 0, 2])
    points, objects = assign_grid_points(Target(target.boxes[:0], target.labels[:0]), scores, boxes, grid)
    assert len(points) == len(objects) == 0


def test_minimum_of_the_soft_cross_entropy_is_zero() -> None:
    target = torch.tensor([0.0, 0.3, 1.0]).reshape(1, 3, 1, 1)
    assert soft_cross_entropy(torch.logit(target, eps=1e-7), target).item() == pytest.approx(0, abs=1e-5)
    found = soft_cross_entropy(torch.zeros(1, 3, 1, 1), target).item()
    entropy = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    assert found == pytest.approx(3 * np.log(2) - entropy, rel=1e-5)  # summed over classes
    assert soft_cross_entropy(torch.zeros(2, 3, 1, 5), target.expand(2, 3, 1, 5)).item() == pytest.approx(
        found
    )


def test_teacher_maps_are_aligned_with_the_images() -> None:
    """The teacher's input is the image stretched to a square; an edge in the middle stays in the middle."""
    step = torch.zeros(2, 4, 4)
    step[:, :, 2:] = 1
    wide = resized([step, step], torch.zeros(2, 7, 3, 8))
    assert wide.shape == (2, 2, 3, 8)
    assert torch.equal(wide[0, 0], wide[1, 1]) and wide[0, 0, 0].tolist() == [0, 0, 0, 0.25, 0.75, 1, 1, 1]


def test_teacher_loss_is_zero_for_equal_predictions() -> None:
    """Cross-entropy for classes; divergence for distances, weighted by the teacher's score; both divided by
    the sum of scores.
    """
    wanted = torch.zeros(1, 1, 2, 2 + 4 * BINS)
    wanted[..., :2] = torch.logit(torch.tensor([[0.8, 0.1], [1e-6, 1e-6]]))
    wanted[..., 2:] = torch.randn(2, 4 * BINS, generator=torch.Generator().manual_seed(0))
    assert distillation.prediction_error(wanted, wanted).item() == pytest.approx(0, abs=1e-5)
    found = wanted.clone()
    found[0, 0, 0, 0] = 0.0
    expected = np.log(2) + 0.8 * np.log(0.8) + 0.2 * np.log(0.2)
    assert distillation.prediction_error(found, wanted).item() == pytest.approx(expected, rel=1e-4)
    found = wanted.clone()
    found[0, 0, 1, 2:] = 0.0  # where there is nothing
    assert distillation.prediction_error(found, wanted).item() == pytest.approx(0, abs=1e-4)
    found[0, 0, 0, 2 : 2 + BINS] = 0.0
    share = wanted[0, 0, 0, 2 : 2 + BINS].softmax(0)
    expected = 0.8 * float((share * (share * BINS).log()).sum()) / 4
    assert distillation.prediction_error(found, wanted).item() == pytest.approx(expected, rel=1e-3)


# ── a network's ──


def peaked_logits(*numbers: int) -> Tensor:
    """Logits of all bins for distances of that many strides."""
    bins = torch.full((4, BINS), -40.0)
    bins[range(4), numbers] = 40.0
    return bins.flatten()


def test_distances_to_box_sides_by_hand() -> None:
    """From the centre of a grid point, in strides: the second point of three in a row at 1/16."""
    where = grid_points((1, 3), 16)
    assert where.tolist() == [[7.5, 7.5, 16], [23.5, 7.5, 16], [39.5, 7.5, 16]]
    bins = torch.stack([peaked_logits(0, 0, 0, 0), peaked_logits(1, 0, 2, 7), peaked_logits(0, 0, 0, 0)])[
        None
    ]
    assert decode_distances(bins, where)[0, 1].tolist() == pytest.approx([7.5, 7.5, 55.5, 119.5])
    half = torch.logaddexp(peaked_logits(1, 0, 2, 7), peaked_logits(2, 0, 2, 7))
    assert decode_distances(half[None, None], where[1:2])[0, 0].tolist() == pytest.approx(
        [-0.5, 7.5, 55.5, 119.5]
    )


def test_proposal_losses_equal_torchvisions() -> None:
    """For a first stage from torchvision, which predicts no classes."""
    detector = SplitDetector(small_faster_rcnn().train(), range(1, 6))
    images, network = to_image_list(torch.rand(2, 3, 96, 128)), detector.network
    pyramid = network.backbone(images.tensors)
    wanted, _ = network.rpn(images, pyramid, [{"boxes": torch.tensor([[10.0, 10, 60, 70]])}] * 2)
    found = propose(network, images, pyramid)
    assert all(torch.equal(a, b) for a, b in zip(found.chosen, wanted, strict=True))
    assert found.objectness.shape[0] == 2 and found.dense is None
    objectness, nothing = first_stage_objectness(network, pyramid)
    assert torch.equal(objectness, found.objectness) and nothing is None


OBJECT = Target(torch.tensor([[10.0, 10, 60, 70]]), torch.tensor([2]))
NOTHING = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def perfect_first_stage(classes: int = 5) -> DensePredictions:
    """First-stage outputs that are correct for the first of two images, and empty for the other."""
    where = torch.cat([grid_points((12, 16), 8), grid_points((6, 8), 16)])
    boxes = torch.cat([where[:, :2] - 4, where[:, :2] + 4], 1).repeat(2, 1, 1)
    bins = torch.zeros(2, len(where), 4 * BINS)
    dense = DensePredictions(torch.full((2, len(where), classes), -30.0), boxes, bins, where)
    inside = ((where[:, :2] > 10) & (where[:, :2] < torch.tensor([60.0, 70]))).all(1)
    dense.boxes[0, inside] = OBJECT.boxes
    there = inside.nonzero()[: losses.POINTS_PER_OBJECT, 0]
    dense.classes[0, there, OBJECT.labels - 1] = 30.0
    return dense


def test_perfect_first_stage_has_no_loss() -> None:
    """Low scores and displaced boxes both have a high loss."""
    dense = perfect_first_stage()
    terms = detection_losses(dense, [OBJECT, NOTHING])
    assert terms["scores"] < 1e-4 and terms["boxes"] < 1e-4
    terms = detection_losses(replace(dense, classes=torch.full_like(dense.classes, -30)), [OBJECT, NOTHING])
    assert terms["scores"] > 20 and terms["boxes"] < 1e-4
    terms = detection_losses(
        replace(dense, boxes=dense.boxes + torch.tensor([0.0, 0, 0, 60])), [OBJECT, NOTHING]
    )
    assert terms["boxes"].item() == pytest.approx(0.5) and terms["scores"] > 0.1


def test_teacher_scores_count_half_or_fully() -> None:
    """A correct map changes nothing; an empty map leaves half of the target score, or none."""
    dense = perfect_first_stage()
    truth = dense.classes.sigmoid()
    assert detection_losses(dense, [OBJECT, NOTHING], truth)["scores"] < 1e-4
    silent = torch.zeros_like(truth)
    half = detection_losses(dense, [OBJECT, NOTHING], silent)["scores"].item()
    assert half == pytest.approx(
        losses.POINTS_PER_OBJECT * 30 * 0.5 * 0.5**2 / losses.POINTS_PER_OBJECT, rel=1e-3
    )
    alone = detection_losses(dense, [replace(OBJECT, certain=False), NOTHING], silent)["scores"].item()
    assert alone == pytest.approx(30.0, rel=1e-3)


def test_teacher_outputs_are_ordered_like_the_grid_points() -> None:
    """Level by level, row by row."""
    pyramid = {str(n): torch.zeros(1, 7, *sides) for n, sides in enumerate([(8, 12), (4, 6)])}
    fine, coarse = torch.rand(80, 8, 12), torch.rand(80, 4, 6)
    found = teacher_score_maps(
        [TeacherDetections(torch.zeros(0, 4), torch.zeros(0, 80), (fine, coarse))], pyramid
    )
    assert found.shape == (1, 8 * 12 + 4 * 6, 80)
    assert torch.allclose(found[0, 12 + 5], fine[:, 1, 5]) and torch.allclose(
        found[0, 96 + 6 + 2], coarse[:, 1, 2]
    )


def test_box_gradient_reaches_all_but_the_second_stage() -> None:
    torch.manual_seed(0)
    model = detector_task.DetectorLosses(compact_detector()).train()
    targets = [Target(torch.tensor([[10.0, 10, 60, 50]]), torch.tensor([2]), certain=False)]
    terms = model(
        torch.rand(1, 3, 64, 96), targets, [full_maps(teacher_detections([[8, 8, 60, 50]], [{1: 0.8}]))]
    )
    assert terms.keys() == detector_task.DetectorTask.weights.keys() and all(
        term.isfinite() for term in terms.values()
    )
    sum(terms.values(), torch.zeros(())).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {name for name, p in model.named_parameters() if ".roi_heads." in name}
    assert not any(p.requires_grad for p in model.detector.network.roi_heads.parameters())


def full_maps(seen: TeacherDetections) -> TeacherDetections:
    """Teacher outputs with maps of PicoDet's sizes at each level."""
    random = torch.Generator().manual_seed(0)
    maps = tuple(0.1 * torch.rand(len(COCO_IDS), side, side, generator=random) for side in (52, 26, 13, 7))
    return TeacherDetections(seen.boxes, seen.scores, maps)


# ── a run ──


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches, few of them, and a fast moving average."""
    monkeypatch.setattr(scenes, "PROPORTIONS", ((96, 64), (64, 96), (64, 64)))
    for kind in (detector_task.DetectorTask, detector_task.DistillationTask):
        for name, value in (("validation_batches", 1), ("warmup", 1), ("ema", 0.0)):
            monkeypatch.setattr(kind, name, value)


@pytest.fixture
def adamw_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Muon, a step of which takes four seconds for the matrices of the whole detector."""
    monkeypatch.setattr(detector_task.DetectorTask, "matrix_rate", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_annotated_images(tmp_path)


def log_of(run: Path) -> list[dict[str, float]]:
    with (run / "log.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def last_loss(row: dict[str, float]) -> float:
    """The mean training loss of the last steps."""
    return sum(weight * row.get(name, 0.0) for name, weight in detector_task.DetectorTask.weights.items())


def test_checkpoint_of_an_older_version_is_refused(
    quick: None, adamw_only: None, folder: Path, tmp_path: Path
) -> None:
    """It has one optimiser with another name."""
    train = partial(detector_task.train_detector, [folder], tmp_path / "run", stage=2, batch=2)
    train(steps=1)
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state = {"lesson": state["module"], "optimiser": state["optimisers"]["detector"][0]}
    torch.save(state, path)
    with pytest.raises(OptionError, match="or version"):
        train(steps=2, resume=True)


@pytest.mark.slow  # base layers and text encoders train by the same loop in seconds
def test_detector_training_lowers_the_loss_resumes_and_exports(
    quick: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeat_first_batch(monkeypatch, scenes.DetectionBatches)
    run = tmp_path / "run"
    said: list[str] = []
    train = partial(detector_task.train_detector, [folder], stage=2, batch=2)
    train(run, steps=1)
    path = train(run, steps=8, resume=True, report=lambda _, text: said.append(text))
    first, last = log_of(run)
    assert (first["step"], last["step"]) == (1, 8)
    assert last_loss(last) < last_loss(first)
    assert said[-1].startswith("step 8  scores")
    record = json.loads((run / "detector.json").read_text())
    assert record["steps"] == 8 and record["teacher"] is None and record["pictures"] == 5
    assert record["start"] is None and record["parameters"] < 6_000_000 and record["stage"] == 2
    compact_detector().load_state_dict(read_weights(path))
    again = json.loads(train(tmp_path / "again", steps=1, start=path).with_suffix(".json").read_text())
    assert again["start"]["steps"] == 8  # the record of what it began with


@pytest.mark.parametrize(("started", "factor"), [(False, 1.0), (True, detector_task.START_FACTOR)])
def test_trained_detector_has_a_lower_learning_rate(
    quick: None, folder: Path, started: bool, factor: float
) -> None:
    pictures = read_pictures([folder], 64)
    task = detector_task.DetectorTask(compact_detector(), started, pictures, pictures, None, 1)
    (adamw, muon) = task.optimisers()["detector"]
    assert {group["factor"] for group in adamw.param_groups} == {factor}
    expected = factor * task.matrix_rate / task.learning_rate
    assert [group["factor"] for group in muon.param_groups] == [pytest.approx(expected)]
    assert detector_task.START_FACTOR < 1


# ── the first stage ──

BEHIND = tuple(distillation.DISTILLED_PARTS)[distillation.FRONT_BLOCKS :]


def test_distilled_parts_match_teacher_outputs() -> None:
    detector = compact_detector()
    parts = distillation.detector_parts(detector)
    assert (
        len(parts)
        == len(distillation.DISTILLED_PARTS)
        == len({answer for answer, _ in distillation.DISTILLED_PARTS.values()})
        == 34
    )
    learned = {id(p) for part in parts for p in part.parameters()}
    assert len(learned) == len([*detector.backbone.parameters(), *detector.network.rpn.parameters()])
    x, answers = OtherDetectorBatches().next()
    pyramid = OtherDetectorBatches().detector.backbone(x)  # made as the detector itself makes it
    named = dict(zip(distillation.DISTILLED_PARTS, answers, strict=True))
    for level, name in zip(
        pyramid.values(), ("top-down 8", "bottom-up 16", "bottom-up 32", "extra 64"), strict=True
    ):
        assert torch.allclose(level.permute(0, 2, 3, 1), named[name], atol=1e-5)


@pytest.mark.slow
def test_distillation_trains_every_part(
    quick: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors fall, also after the run is resumed, and every part changes."""
    monkeypatch.setattr(detector_task, "TeacherOutputs", OtherDetectorBatches)
    repeat_first_batch(monkeypatch, OtherDetectorBatches)
    torch.manual_seed(0)
    start = tmp_path / "start.safetensors"
    write_weights(compact_detector(), start)
    train = partial(detector_task.train_detector, [folder], teacher="some/pico.onnx", start=start)
    train(tmp_path / "one", steps=1)
    path = train(tmp_path / "one", steps=6, resume=True)
    first, last = log_of(tmp_path / "one")
    blocks = [name for name in distillation.DISTILLED_PARTS if name in first]
    assert len(blocks) == 34
    assert sum(last[name] for name in blocks) < 0.9 * sum(first[name] for name in blocks)
    assert len({last[f"held_out_{name}"] for name in blocks}) == 34
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["stage"] == 1 and record["steps"] == 6
    detector_task.train_detector([folder], tmp_path / "two", steps=1, stage=2, batch=2, start=path)
    one, two = (read_weights(tmp_path / run / "detector.safetensors") for run in ("one", "two"))
    begun = read_weights(start)
    for part in ("front", "middle", "pyramid", "rpn"):
        assert not equal(one, begun, part), part
    assert not equal(one, two, "rpn")


@pytest.mark.slow
def test_frozen_stem_is_kept_in_training(
    quick: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other layers are trained on the features of the frozen front, also in the second stage. Without a
    stem, --keep-front is refused.
    """
    monkeypatch.setattr(detector_task, "TeacherOutputs", OtherDetectorBatches)
    repeat_first_batch(monkeypatch, OtherDetectorBatches)
    start, run = tmp_path / "start.safetensors", tmp_path / "run"
    torch.manual_seed(0)
    write_weights(compact_detector(), start)
    train = partial(detector_task.train_detector, [folder], teacher="some/pico.onnx", keep_front=True)
    with pytest.raises(OptionError, match="--start"):
        train(run, steps=1)
    train(run, steps=1, start=start)
    path = train(run, steps=6, start=start, resume=True)
    first, last = log_of(run)
    blocks = list(distillation.DISTILLED_PARTS)[4:]
    assert [name for name in first if name in distillation.DISTILLED_PARTS] == blocks
    assert sum(last[name] for name in blocks) < 0.9 * sum(first[name] for name in blocks)
    begun, made = read_weights(start), read_weights(path)
    assert equal(made, begun, "front") and not equal(made, begun, "middle") and not equal(made, begun, "last")
    path = detector_task.train_detector(
        [folder], run / "2", steps=1, stage=2, batch=2, start=path, keep_front=True
    )
    assert equal(read_weights(path), begun, "front") and not equal(read_weights(path), made, "rpn")
    told = CliRunner().invoke(app, ["train", "towers", str(folder), "--steps", "1", "--keep-front"])
    assert told.exit_code == 2 and "--keep-front" in told.output


def equal(one: dict[str, Tensor], other: dict[str, Tensor], part: str) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items() if f".{part}." in name)


def test_parts_equal_to_the_teachers_have_no_error() -> None:
    """With the teacher's inputs, and with their own."""
    source = OtherDetectorBatches()
    own = distillation.DistillationLosses(source.detector)
    given = source.next()
    own.set_variances([given[1]])
    for fraction, training_now in ((0.0, True), (1.0, True), (0.0, False)):
        own.fraction = fraction
        own.train(training_now)
        assert all(term.abs() < 1e-4 for term in own(*given).values())


def test_parts_use_our_outputs_at_the_end_of_distillation() -> None:
    """At first a wrong stem affects only its own error, at the end also those of the following parts."""
    source = OtherDetectorBatches()
    own = distillation.DistillationLosses(copy.deepcopy(source.detector))
    with torch.no_grad():
        for parameter in distillation.detector_parts(own.detector)[0].parameters():
            parameter.mul_(1.5)
    given = source.next()
    own.set_variances([given[1]])
    wrong = []
    for fraction in (0.0, 1.0):
        own.fraction = fraction
        terms = own.train()(*given)
        wrong.append([bool(term.detach() > 1e-4) for term in terms.values()])
    assert wrong[0] == [True] + 33 * [False] and wrong[1][:3] == [True, True, True]


def test_predictions_weigh_twice_in_stage_3() -> None:
    source = OtherDetectorBatches(parts=BEHIND)
    own = distillation.ContinuedDistillationLosses(copy.deepcopy(source.detector))
    with torch.no_grad():
        for lateral in distillation.detector_parts(own.detector)[14:17]:
            for parameter in lateral.parameters():
                parameter.mul_(1.5)
    h, said = distillation.FeatureSource(source, own.detector).next()
    own.set_variances([said])
    own.fraction = 0.0
    terms = own.train()(h, said)
    assert terms.keys() == own.weights.keys() == {*BEHIND, *distillation.REGIONS}
    errors = {name: float(terms[name].detach()) for name in BEHIND if not name.startswith("say")}
    assert [name for name, error in errors.items() if error < 1e-4] == list(distillation.DISTILLED_PARTS)[
        4:14
    ]
    assert {name for name in BEHIND if own.weights[name] == 2} == {f"say {side}" for side in (8, 16, 32, 64)}
    assert all(weight in (1, 2) for weight in own.weights.values())


def test_equal_region_predictions_have_no_loss() -> None:
    """One class off by a half: cross-entropy over the sum of the teacher's scores; a box without an object
    counts nothing.
    """
    scores = torch.logit(torch.tensor([[0.8, 0.1], [1e-6, 1e-6]]))
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 4, 4]])
    right = distillation.region_errors(scores, boxes, scores, boxes)
    assert right.keys() == distillation.REGIONS.keys()
    assert all(float(term) == pytest.approx(0, abs=1e-5) for term in right.values())
    half = scores.clone()
    half[0, 0] = 0.0
    wrong = distillation.region_errors(half, boxes * torch.tensor([1.0, 1, 1, 0.5]), scores, boxes)
    expected = np.log(2) + 0.8 * np.log(0.8) + 0.2 * np.log(0.2)
    assert float(wrong["region classes"]) == pytest.approx(expected / 1.0, rel=1e-4)
    assert float(wrong["region boxes"]) == pytest.approx(0.8 * 0.5, rel=1e-4)


def test_second_detection_stage_is_trained_in_training_stage_3_only() -> None:
    """It corrects an imperfect first stage; its gradient reaches all of its parameters and the pyramid."""
    source = OtherDetectorBatches(parts=BEHIND)
    perfect = distillation.ContinuedDistillationLosses(copy.deepcopy(source.detector))
    h, said = distillation.FeatureSource(source, source.detector).next()
    perfect.set_variances([said])
    assert all(perfect(h, said)[name] < 1e-4 for name in distillation.REGIONS)
    own = distillation.ContinuedDistillationLosses(copy.deepcopy(source.detector))
    own.set_variances([said])
    heads = own.detector.network.roi_heads
    with torch.no_grad():
        for level in own.detector.network.rpn.levels:
            level.say.bias.add_(0.5)
        for last in (heads.box_predictor.scores, heads.box_predictor.offsets):
            last.weight.normal_(std=0.1)
    terms = own(h, said)
    assert all(terms[name] > 0.01 for name in distillation.REGIONS)
    sum((terms[name] for name in distillation.REGIONS), torch.zeros(())).backward()
    reached = {name for name, p in own.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name for name, _ in own.named_parameters() if ".roi_heads." in name} <= reached
    assert any(".pyramid." in name for name in reached) and not any(".front." in name for name in reached)
    factor = partial(detector_task.ContinuedDistillationTask.factor, None)  # type: ignore[arg-type]
    assert factor("detector.network.roi_heads.box_head.whole.weight") > factor("detector.network.rpn") == 1
    first = distillation.DistillationLosses(copy.deepcopy(source.detector), keep_front=True)
    assert not any(p.requires_grad for p in first.detector.network.roi_heads.parameters())


# ── with a teacher ──


class TeacherWithMaps(CentreTeacher):
    """A teacher that also returns maps."""

    def __call__(self, rgb: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> TeacherDetections:
        return full_maps(super().__call__(rgb))


def test_training_with_a_teacher(
    quick: None, adamw_only: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without any boxes; its terms are in the log, and its name is in the record."""
    for record in folder.glob("*.json"):
        record.unlink()
    with pytest.raises(OptionError, match="or a teacher"):
        detector_task.train_detector([folder], tmp_path / "without", steps=1, stage=2)
    monkeypatch.setattr(detector_task, "DetectionTeacher", lambda path: TeacherWithMaps())
    path = detector_task.train_detector(
        [folder], tmp_path / "run", steps=2, stage=2, batch=2, teacher="some/pico.onnx"
    )
    (row,) = log_of(tmp_path / "run")
    assert row["scores"] > 0 and row["held_out_boxes"] > 0 and last_loss(row) > 0
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["teacher"] == "pico.onnx" and record["terms"] == dict(detector_task.DetectorTask.weights)


def test_invalid_detector_training_options_are_refused(quick: None, folder: Path, tmp_path: Path) -> None:
    train = partial(detector_task.train_detector, [folder], tmp_path / "run", steps=1)
    with pytest.raises(OptionError, match="either steps or minutes"):
        train(stage=2, minutes=1)
    for stage in 1, 3, 4:  # the first and the third are a teacher's
        with pytest.raises(OptionError, match="stages 1 to 3"):
            train(stage=stage)
    with pytest.raises(OptionError, match="no checkpoint"):
        train(stage=2, resume=True)
    with pytest.raises(WeightsError, match="not installed"):
        train(stage=2, start=tmp_path / "none.safetensors")


# ── the verb ──


def said(*words: str) -> Any:
    return CliRunner().invoke(app, ["train", *words])


@pytest.mark.parametrize(("name", "function"), [("detector", "train_detector"), ("base", "train_base_layer")])
def test_train_passes_its_options_on(name: str, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def stand_in(*words: Any, **options: Any) -> Path:
        calls.append((words, options))
        return Path("w.safetensors")

    monkeypatch.setattr(training, function, stand_in)
    line = (
        "--data a.tar b.tar --teacher t.onnx --minutes 5 --batch 4 --every 2 --start s.safetensors --resume"
    )
    result = said(name, *line.split())
    assert result.exit_code == 0 and result.stdout.split() == ["w.safetensors"]
    (words, options), *_ = calls
    assert words == (["a.tar", "b.tar"], f"runs/{name}")
    report = options.pop("report")
    report(0.5, "step 5")
    options.pop("notify")("trains in float32")
    assert options == {
        "steps": None,
        "minutes": 5,
        "start": "s.safetensors",
        "teacher": "t.onnx",
        "resume": True,
        "every": 2,
        "batch": 4,
        "precision": None,
        "force": False,
    }
    assert said(name, "--data", "a.tar", "-o", "elsewhere", "--steps", "3").exit_code == 0
    assert calls[1][0] == (["a.tar"], "elsewhere") and calls[1][1]["resume"] is False
    assert said(name, "--data", "a.tar", "--steps", "3", "--learning-rate", "4e-4").exit_code == 0
    assert calls.pop()[1]["learning_rate"] == 4e-4
    if name != "base":
        said(name, "--stage", "2", "--steps", "3")
        assert calls[2][0] == ([], f"runs/{name}-stage2") and calls[2][1]["stage"] == 2


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("towers --steps 1 --learning-rate 0.1", "--learning-rate"),
        ("base --steps 1 --stage 2", "--stage"),
        ("compact --steps 1 --teacher t.onnx", "--teacher"),
    ],
)
def test_options_of_other_runs_are_refused(line: str, named: str) -> None:
    result = said(*line.split())
    assert result.exit_code == 2 and named in result.stderr
