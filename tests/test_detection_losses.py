"""What a detector learns from, by hand: anchors and boxes, a proposal's classes, and a teacher's maps; then a run of a few steps."""

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
from PIL import Image
from test_detector import small_network
from test_scenes import BLUE, RED, Fake, painted, seen_as
from torch import Tensor, nn
from typer.testing import CliRunner

from trifocal import training
from trifocal.cli import app
from trifocal.errors import OptionError, WeightsError
from trifocal.losses import detection as losses
from trifocal.losses.detection import (
    Seen,
    Target,
    anchors_of,
    box_loss,
    detection_losses,
    paired_iou,
    proposal_losses,
    quality_focal_loss,
    resized,
    soft_classes,
    soft_cross_entropy,
)
from trifocal.machine.backbone import CompactFront
from trifocal.machine.detector import (
    CompactRest,
    SplitBackbone,
    SplitDetector,
    compact_detector,
)
from trifocal.machine.looking import COCO_IDS
from trifocal.machine.stages import Find, find_once, find_twice, framed, propose
from trifocal.training import detector as lesson
from trifocal.training import scenes
from trifocal.weights import read_weights, write_weights

# ── by hand ──


def one_hot(*numbers: int, classes: int = 81) -> Tensor:
    return torch.eye(classes)[list(numbers)]


def test_a_proposal_gets_what_the_teacher_says_of_its_box() -> None:
    """The box that overlaps it most speaks, with half of the weight; the second proposal has none, and is nothing."""
    seen = seen_as([[0, 0, 10, 10], [1, 0, 11, 10]], [{3: 0.6, 5: 0.2}, {3: 0.9}])
    proposals = torch.tensor([[0.0, 0, 10, 10], [50.0, 50, 60, 60]])
    wanted = soft_classes(proposals, one_hot(4, 0), seen, 0.5)
    expected = torch.zeros(2, 81)
    expected[0, 4], expected[0, 6], expected[0, 0] = 0.5 + 0.3, 0.1, 0.1
    expected[1, 0] = 1
    assert torch.allclose(wanted, expected)


def test_a_teacher_alone_says_it_all() -> None:
    seen = seen_as([[0, 0, 10, 10]], [{3: 0.6}])
    (wanted,) = soft_classes(torch.tensor([[0.0, 0, 10, 10]]), one_hot(0), seen, 1.0)
    assert wanted[4] == pytest.approx(0.6) and wanted[0] == pytest.approx(0.4)


def test_scores_that_are_more_than_one_in_all_are_shared_out() -> None:
    """And half an overlap is not enough."""
    seen = seen_as([[0, 0, 10, 10]], [{0: 0.9, 1: 0.6}])
    wanted = soft_classes(torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 20]]), one_hot(0, 0), seen, 1.0)
    assert wanted[0, :3].tolist() == pytest.approx([0, 0.6, 0.4])
    assert wanted[1].tolist() == one_hot(0)[0].tolist()
    assert torch.allclose(wanted.sum(1), torch.ones(2))


def test_a_teacher_that_saw_nothing() -> None:
    wanted = soft_classes(torch.rand(3, 4), one_hot(7, 0, 0), seen_as([], []), 0.5)
    assert wanted[0, 7] == wanted[0, 0] == 0.5 and torch.equal(wanted[1:], one_hot(0, 0))


def test_boxes_by_how_they_overlap() -> None:
    """Half of it and no hull around: a half. Beside it, two of three parts of the hull: 1 + 1/3. Of nothing: nothing."""
    found = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [1, 2, 3, 4]])
    wanted = torch.tensor([[0.0, 0, 10, 5], [20, 0, 30, 10], [1, 2, 3, 4]])
    assert box_loss(found, wanted).item() == pytest.approx((1 / 2 + 4 / 3 + 0) / 3)
    assert paired_iou(found, wanted).tolist() == pytest.approx([0.5, 0, 1])
    assert box_loss(found[:0], wanted[:0]) == 0 and len(paired_iou(found[:0], wanted[:0])) == 0


def test_a_quality_that_is_met_costs_least() -> None:
    """Far off by 0.6 at 0.5: 0.36 of the cross-entropy; what is nothing and is sure of it, nothing."""
    quality = torch.tensor([0.0, 1.0, 0.9])
    assert quality_focal_loss(torch.tensor([-30.0, 30, torch.logit(quality[2])]), quality) < 1e-9
    logit, target = torch.logit(torch.tensor(0.3)), torch.tensor(0.9)
    expected = 0.36 * -(0.9 * np.log(0.3) + 0.1 * np.log(0.7))
    assert quality_focal_loss(logit, target).item() == pytest.approx(expected, rel=1e-4)


def test_a_box_is_learned_by_the_anchors_nearest_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best two of each; one that both want goes to the nearer; one that hardly touches goes to nobody."""
    monkeypatch.setattr(losses, "ANCHORS", 2)
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [80, 80, 90, 90]])
    anchors = torch.tensor(
        [[0.0, 0, 10, 10], [3, 0, 13, 10], [5, 0, 15, 10], [50, 50, 60, 60], [89, 89, 99, 99]]
    )
    there, whose = anchors_of(boxes, anchors)
    assert (there.tolist(), whose.tolist()) == ([0, 1, 2], [0, 1, 1])
    there, whose = anchors_of(boxes[:0], anchors)
    assert len(there) == len(whose) == 0


def test_the_least_soft_cross_entropy_is_zero() -> None:
    target = torch.tensor([0.0, 0.3, 1.0]).reshape(1, 3, 1, 1)
    assert soft_cross_entropy(torch.logit(target, eps=1e-7), target).item() == pytest.approx(0, abs=1e-5)
    found = soft_cross_entropy(torch.zeros(1, 3, 1, 1), target).item()
    entropy = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    assert found == pytest.approx(3 * np.log(2) - entropy, rel=1e-5)  # summed over classes
    assert soft_cross_entropy(torch.zeros(2, 3, 1, 5), target.expand(2, 3, 1, 5)).item() == pytest.approx(
        found
    )


def test_a_teachers_maps_lie_on_the_pictures() -> None:
    """It saw the picture stretched to a square; a step from left to right stays in the middle."""
    step = torch.zeros(2, 4, 4)
    step[:, :, 2:] = 1
    wide = resized([step, step], torch.zeros(2, 7, 3, 8))
    assert wide.shape == (2, 2, 3, 8)
    assert torch.equal(wide[0, 0], wide[1, 1]) and wide[0, 0, 0].tolist() == [0, 0, 0, 0.25, 0.75, 1, 1, 1]


# ── a network's ──


def small_scene() -> tuple[SplitDetector, Tensor, list[Target]]:
    """A network in training mode, two pictures, and what is in them: an object, and nothing."""
    detector = SplitDetector(small_network().train(), range(1, 6))
    targets = [
        Target(torch.tensor([[10.0, 10, 60, 70]]), torch.tensor([2])),
        Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
    ]
    return detector, torch.rand(2, 3, 96, 128), targets


def test_proposals_are_torchvisions() -> None:
    detector, x, targets = small_scene()
    images, network = framed(x), detector.network
    pyramid = network.backbone(x)
    wanted, _ = network.rpn(images, pyramid, [{"boxes": t.boxes} for t in targets])
    found = propose(network, images, pyramid)
    assert all(torch.equal(a, b) for a, b in zip(found.chosen, wanted, strict=True))
    assert (
        found.objectness.shape == (2, len(found.anchors[0]))
        and found.boxes.shape[1:] == found.anchors[0].shape
    )


def test_a_first_stage_that_knows_it_all_costs_nothing() -> None:
    """Each anchor of the object gives its box and is sure of it, and no other is; one that is sure of nothing costs much."""
    detector, x, targets = small_scene()
    images, network = framed(x), detector.network
    first = propose(network, images, network.backbone(x))
    there, _ = anchors_of(targets[0].boxes, first.anchors[0])
    assert len(there) > 1
    boxes, sure = first.boxes.detach().clone(), torch.full_like(first.objectness, -30)
    boxes[0, there] = targets[0].boxes
    unsure = sure.clone()
    sure[0, there] = 30
    terms = proposal_losses(replace(first, objectness=sure, boxes=boxes), targets)
    assert terms["objectness"] < 1e-4 and terms["proposals"] < 1e-4
    terms = proposal_losses(replace(first, objectness=unsure, boxes=boxes), targets)
    assert terms["objectness"] > 20 and terms["proposals"] < 1e-4


def blank_scene() -> tuple[SplitDetector, Tensor, list[Target]]:
    """The same, with a second stage that says the same of everything, and is always shown the object, a box that has three
    quarters of it, and two of nothing."""
    detector, x, targets = small_scene()
    heads = detector.network.roi_heads
    for layer in heads.box_predictor.children():
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    box = targets[0].boxes
    sampled = [torch.cat([box, box + torch.tensor([0.0, 0, 0, 20]), box + 60]), torch.rand(1, 4)]
    labels = [torch.tensor([2, 2, 0]), torch.tensor([0])]
    matched = [torch.tensor([0, 0, 0]), torch.tensor([0])]
    heads.select_training_samples = lambda proposals, truth: (sampled, matched, labels, None)
    return detector, x, targets


def test_a_class_is_as_sure_as_the_box_fits() -> None:
    """Scores that are all alike have a divergence that says what was wanted: of one class by the overlap, the rest nothing."""
    detector, x, targets = blank_scene()
    terms = detection_losses(detector, x, detector.network.backbone(x), targets, None)
    surprise = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert terms["classes"].item() == pytest.approx(np.log(6) - surprise / 4, rel=1e-4)
    assert terms["boxes"].item() == pytest.approx((0 + 0.25) / 2, rel=1e-4)


def test_a_second_look_learns_where_the_first_put_the_boxes() -> None:
    """Where they stay it learns the same; where the first throws them out of the picture there is nothing left to frame."""
    detector, x, targets = blank_scene()

    def terms(find: Find) -> dict[str, float]:
        detector.find = find
        found = detection_losses(detector, x, detector.network.backbone(x), targets, None)
        return {name: found[name].item() for name in ("classes", "boxes")}

    assert terms(find_twice) == pytest.approx(terms(find_once), rel=1e-3)
    with torch.no_grad():
        detector.network.roi_heads.box_predictor.bbox_pred.bias[0::4] = 40.0  # tenths of a width to the right
    once, twice = terms(find_once), terms(find_twice)
    assert twice["boxes"] == pytest.approx(once["boxes"] / 2, rel=1e-3) and once["boxes"] > 1
    assert twice["classes"] == pytest.approx(np.log(6), rel=1e-3) == once["classes"]


def test_a_gradient_reaches_every_part_of_the_compact_detector() -> None:
    torch.manual_seed(0)
    pupil = lesson.Pupil(compact_detector()).train()
    targets = [Target(torch.tensor([[10.0, 10, 60, 50]]), torch.tensor([2]), certain=False)]
    terms = pupil.losses(torch.rand(1, 3, 64, 96), targets, [whole(seen_as([[8, 8, 60, 50]], [{1: 0.8}]))])
    assert terms.keys() == pupil.weights.keys() and all(term.isfinite() for term in terms.values())
    sum(terms.values(), torch.zeros(())).backward()
    without = [name for name, p in pupil.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def whole(seen: Seen) -> Seen:
    """With maps and features of PicoDet's sizes at each level."""
    random = torch.Generator().manual_seed(0)
    sides = (52, 26, 13)
    maps = tuple(0.1 * torch.rand(len(COCO_IDS), side, side, generator=random) for side in sides)
    features = tuple(torch.randn(lesson.TEACHER_CHANNELS, side, side, generator=random) for side in sides)
    return Seen(seen.boxes, seen.scores, maps, features)


def test_the_teachers_features_are_standardised() -> None:
    pupil = lesson.Pupil(compact_detector())
    seen = [whole(seen_as([], [])) for _ in range(2)]
    pupil.look_at([(torch.zeros(2, 3, 64, 64), [], seen)])
    values = torch.stack([s.features[1] for s in seen])
    standard = (values - pupil.mean[1, :, None, None]) / pupil.deviation[1, :, None, None]
    assert standard.mean().abs() < 1e-4 and standard.std() == pytest.approx(1, abs=1e-2)
    pupil.look_at([(torch.zeros(2, 3, 64, 64), [], None)])  # without a teacher it stays as it is
    assert torch.isfinite(pupil.mean).all()


# ── a run ──


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small scenes, few of them, and an average that follows at once."""
    monkeypatch.setattr(scenes, "PROPORTIONS", ((96, 64), (64, 96), (64, 64)))
    for kind in (lesson.Pupil, lesson.Imitation):
        for name, value in (("held_out", 1), ("warmup", 1), ("ema", 0.0)):
            monkeypatch.setattr(kind, name, value)


def pictures_in(folder: Path) -> Path:
    """A folder of pictures with a red or a blue rectangle, and records beside them."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(6):
        left, top = 10 + 6 * number, 8 + 5 * number
        box, colour = (left, top, left + 50, top + 40), BLUE if number % 2 else RED
        picture = painted(str(number), 128, 96, box, colour)
        Image.fromarray(picture.rgb).save(pictures / f"{number}.png")
        record = {"boxes": picture.boxes.tolist(), "labels": picture.labels.tolist()}
        (pictures / f"{number}.json").write_text(json.dumps(record))
    return pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pictures_in(tmp_path)


def log_of(run: Path) -> list[dict[str, float]]:
    with (run / "log.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def loss_of(row: dict[str, float]) -> float:
    """Of the last steps, as it was trained on."""
    return sum(weight * row.get(name, 0.0) for name, weight in lesson.Pupil.weights.items())


def test_a_checkpoint_of_an_older_version_is_refused(quick: None, folder: Path, tmp_path: Path) -> None:
    """It had one optimiser, and another name for it."""
    train = partial(lesson.train_detector, [folder], tmp_path / "run", stage=2, batch=2)
    train(steps=1)
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["optimiser"] = state.pop("optimisers")[0]
    torch.save(state, path)
    with pytest.raises(OptionError, match="or version"):
        train(steps=2, resume=True)


def test_steps_lower_the_loss_resume_and_leave_weights(quick: None, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said: list[str] = []
    train = partial(lesson.train_detector, [folder], stage=2, batch=2)
    train(run, steps=1)
    path = train(run, steps=3, resume=True, report=lambda _, text: said.append(text))
    first, last = log_of(run)
    assert (first["step"], last["step"]) == (1, 3)
    assert loss_of(last) < 0.75 * loss_of(first)
    assert last["held_out_objectness"] < first["held_out_objectness"]
    assert said[-1].startswith("step 3  objectness")
    record = json.loads((run / "detector.json").read_text())
    assert record["steps"] == 3 and record["teacher"] is None and record["pictures"] == 5
    assert record["start"] is None and record["parameters"] < 6_000_000 and record["stage"] == 2
    compact_detector().load_state_dict(read_weights(path))
    again = json.loads(train(tmp_path / "again", steps=1, start=path).with_suffix(".json").read_text())
    assert again["start"]["steps"] == 3  # the record of what it began with


def test_the_backbone_learns_more_slowly_than_what_stands_on_it() -> None:
    pupil = lesson.Pupil(compact_detector())
    backbone = pupil.detector.backbone
    rest = backbone.rest
    assert isinstance(rest, CompactRest)
    begun = [*backbone.front.parameters(), *rest.middle.parameters(), *rest.last.parameters()]
    slow = {id(p) for name, p in pupil.named_parameters() if pupil.factor(name) < 1}
    assert slow == {id(p) for p in begun}


# ── the first stage ──


class Blocks:
    """Batches as `Answers` gives them, whose answers are those of another backbone."""

    def __init__(self, *given: Any) -> None:
        torch.manual_seed(7)
        self.backbone = compact_detector().backbone
        self.random = torch.Generator().manual_seed(8)

    @torch.no_grad()
    def next(self) -> tuple[Tensor, list[Tensor]]:
        y = x = torch.rand(2, 3, 64, 64, generator=self.random) - 0.5
        answers = []
        for block in blocks_of(self.backbone):
            y = block(y)
            answers.append(y)
        return x, answers


def blocks_of(backbone: SplitBackbone) -> list[nn.Module]:
    front, rest = backbone.front, backbone.rest
    assert isinstance(front, CompactFront) and isinstance(rest, CompactRest)
    return [front.stem, *front.stage, *rest.middle, *rest.last]


def test_every_block_learns_what_a_teachers_does(
    quick: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors fall, also after the run is resumed, and what is no backbone stays as it was."""
    monkeypatch.setattr(lesson, "Answers", Blocks)
    torch.manual_seed(0)
    start = tmp_path / "start.safetensors"
    write_weights(compact_detector(), start)
    train = partial(lesson.train_detector, [folder], teacher="some/pico.onnx", start=start)
    train(tmp_path / "one", steps=1)
    path = train(tmp_path / "one", steps=6, resume=True)
    first, last = log_of(tmp_path / "one")
    blocks = [name for name in first if name.startswith("block")]
    assert len(blocks) == len(blocks_of(compact_detector().backbone)) == 14
    assert sum(last[name] for name in blocks) < 0.9 * sum(first[name] for name in blocks)
    assert len({last[f"held_out_{name}"] for name in blocks}) == 14
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["stage"] == 1 and record["steps"] == 6
    lesson.train_detector([folder], tmp_path / "two", steps=1, stage=2, batch=2, start=path)
    one, two = (read_weights(tmp_path / run / "detector.safetensors") for run in ("one", "two"))
    begun = read_weights(start)
    assert not equal(one, begun, "front") and not equal(one, begun, "middle")
    assert equal(one, begun, "pyramid") and equal(one, begun, "rpn") and equal(one, begun, "roi_heads")
    assert not equal(one, two, "roi_heads")


def test_what_is_behind_the_split_learns_and_the_front_stays(
    quick: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what the front that stays makes of pictures; in the second stage too. Without a front there is none to keep."""
    monkeypatch.setattr(lesson, "Answers", Blocks)
    start, run = tmp_path / "start.safetensors", tmp_path / "run"
    torch.manual_seed(0)
    write_weights(compact_detector(), start)
    train = partial(lesson.train_detector, [folder], teacher="some/pico.onnx", keep_front=True)
    with pytest.raises(OptionError, match="--start"):
        train(run, steps=1)
    train(run, steps=1, start=start)
    path = train(run, steps=6, start=start, resume=True)
    first, last = log_of(run)
    blocks = [f"block {number}" for number in range(4, 14)]
    assert [name for name in first if name.startswith("block")] == blocks
    assert sum(last[name] for name in blocks) < 0.9 * sum(first[name] for name in blocks)
    begun, made = read_weights(start), read_weights(path)
    assert equal(made, begun, "front") and not equal(made, begun, "middle") and not equal(made, begun, "last")
    path = lesson.train_detector([folder], run / "2", steps=1, stage=2, batch=2, start=path, keep_front=True)
    assert equal(read_weights(path), begun, "front") and not equal(read_weights(path), begun, "roi_heads")
    told = CliRunner().invoke(app, ["train", "towers", str(folder), "--steps", "1", "--keep-front"])
    assert told.exit_code == 2 and "--keep-front" in told.output


def equal(one: dict[str, Tensor], other: dict[str, Tensor], part: str) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items() if f".{part}." in name)


def test_blocks_that_are_the_teachers_have_no_error() -> None:
    """Alone, and standing on each other."""
    source = Blocks()
    imitation = lesson.Imitation(compact_detector())
    imitation.detector.network.backbone = source.backbone
    given = source.next()
    imitation.look_at([given])
    for fraction, training_now in ((0.0, True), (1.0, True), (0.0, False)):
        imitation.fraction = fraction
        imitation.train(training_now)
        assert all(term < 1e-9 for term in imitation.losses(*given).values())


def test_blocks_stand_on_each_other_at_the_end() -> None:
    """A wrong stem spoils only itself at first, and then what follows."""
    source = Blocks()
    imitation = lesson.Imitation(compact_detector())
    imitation.detector.network.backbone = backbone = copy.deepcopy(source.backbone)
    with torch.no_grad():
        for parameter in blocks_of(backbone)[0].parameters():
            parameter.mul_(1.5)
    given = source.next()
    imitation.look_at([given])
    wrong = []
    for fraction in (0.0, 1.0):
        imitation.fraction = fraction
        terms = imitation.train().losses(*given)
        wrong.append([bool(term.detach() > 1e-6) for term in terms.values()])
    assert wrong[0] == [True] + 13 * [False] and wrong[1][:3] == [True, True, True]


# ── with a teacher ──


class Whole(Fake):
    """A teacher with maps and features too."""

    def __call__(self, rgb: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> Seen:
        return whole(super().__call__(rgb))


def test_a_teacher_teaches(
    quick: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no picture has a box; its terms are in the log, and its name is in the record."""
    for record in folder.glob("*.json"):
        record.unlink()
    with pytest.raises(OptionError, match="or a teacher"):
        lesson.train_detector([folder], tmp_path / "without", steps=1, stage=2)
    monkeypatch.setattr(lesson, "DetectionTeacher", lambda path: Whole())
    path = lesson.train_detector(
        [folder], tmp_path / "run", steps=2, stage=2, batch=2, teacher="some/pico.onnx"
    )
    (row,) = log_of(tmp_path / "run")
    assert row["places"] > 0 and row["held_out_features"] > 0 and loss_of(row) > 0
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["teacher"] == "pico.onnx" and record["terms"]["places"] == 0.5


def test_a_run_that_cannot_begin_is_one_sentence(quick: None, folder: Path, tmp_path: Path) -> None:
    train = partial(lesson.train_detector, [folder], tmp_path / "run", steps=1)
    with pytest.raises(OptionError, match="either steps or minutes"):
        train(stage=2, minutes=1)
    for stage in 1, 4:  # the first is a teacher's
        with pytest.raises(OptionError, match="stages 1 to 3"):
            train(stage=stage)
    with pytest.raises(OptionError, match="no checkpoint"):
        train(stage=2, resume=True)
    with pytest.raises(WeightsError, match="not installed"):
        train(stage=2, start=tmp_path / "none.safetensors")


# ── the verb ──


def said(*words: str) -> Any:
    return CliRunner().invoke(app, ["train", *words])


@pytest.mark.parametrize(("name", "function"), [("detector", "train_detector"), ("base", "train_base")])
def test_train_hands_over_what_it_was_told(name: str, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert options == {
        "steps": None,
        "minutes": 5,
        "start": "s.safetensors",
        "teacher": "t.onnx",
        "resume": True,
        "every": 2,
        "batch": 4,
    } | ({} if name == "base" else {"stage": 1})
    assert said(name, "--data", "a.tar", "-o", "elsewhere", "--steps", "3").exit_code == 0
    assert calls[1][0] == (["a.tar"], "elsewhere") and calls[1][1]["resume"] is False
    if name != "base":
        said(name, "--stage", "2", "--steps", "3")
        assert calls[2][0] == ([], f"runs/{name}-stage2") and calls[2][1]["stage"] == 2


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("detector --steps 1 --learning-rate 0.1", "--learning-rate"),
        ("base --steps 1 --stage 2", "--stage"),
        ("compact --steps 1 --teacher t.onnx", "--teacher"),
    ],
)
def test_options_that_a_run_has_not_are_refused(line: str, named: str) -> None:
    result = said(*line.split())
    assert result.exit_code == 2 and named in result.stderr
