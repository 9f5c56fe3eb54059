"""The base layer's objective against values by hand, and training runs of a few steps. The runs leave the
detector unchanged and export weights that load. In the detector's third training stage, the layers after the
split are trained on the outputs of base layers, and those before it are frozen.
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

from helpers.detector_training import (
    BRUSH,
    PERSON,
    OtherDetectorBatches,
    repeat_first_batch,
    write_annotated_images,
)
from helpers.dual_layer import small_dual_layer, small_dual_layer_compact
from trifocal.codecs.dual_layer_compact import DualLayerCompact
from trifocal.detection.backbone import normalise
from trifocal.detection.detector import SplitDetector, compact_detector
from trifocal.errors import OptionError, PresetError
from trifocal.losses.base_layer import (
    TERM_WEIGHTS,
    DetectorReference,
    box_error,
    class_cross_entropy,
    class_divergence,
    means,
    objectness_error,
    relative_error,
    task_cost,
    task_weight,
)
from trifocal.losses.detection import Target
from trifocal.losses.objective import Objective
from trifocal.presets import find
from trifocal.training import detection_batches as scenes
from trifocal.training.batches import DataEcho
from trifocal.training.distillation import DISTILLED_PARTS, FeatureSource
from trifocal.training.tasks import base_layer as base_task
from trifocal.training.tasks import detector as detector_task
from trifocal.training.tasks.codec import CodecTask
from trifocal.types import DEAD_ZONE, MAX_LEVEL
from trifocal.weights import (
    BASE_QUANTISER,
    QUANTISER,
    WEIGHTS_FOLDER,
    metadata_of,
    network_dead_zones,
    read_weights,
    write_weights,
)

NOTHING = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


@pytest.fixture(scope="module")
def detector() -> SplitDetector:
    torch.manual_seed(5)
    return compact_detector().eval().requires_grad_(False)


# ── equation (1), by hand ──


def test_task_weight_increases_with_quality() -> None:
    level = torch.tensor([0, MAX_LEVEL // 2, MAX_LEVEL])
    low, middle, high = task_weight(level, (0.01, 1.0)).tolist()
    assert (low, middle, high) == pytest.approx((0.01, 0.1, 1.0))


def test_feature_error_is_normalised_by_channel_variance() -> None:
    """Twice the values with twice the error give the same loss; each image is normalised separately."""
    wanted = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = wanted.clone()
    found[1] += 0.5
    error = relative_error(found, wanted)
    assert error[0] == 0
    assert error[1] == pytest.approx(float((0.25 / wanted.var(dim=(0, 1, 2), correction=0)).mean()), rel=1e-3)
    assert torch.allclose(relative_error(7 * found, 7 * wanted), error, rtol=1e-3)
    assert torch.allclose(relative_error(torch.zeros_like(wanted), wanted), torch.ones(2), atol=0.6)


def test_objectness_loss_covers_points_that_the_teacher_does_not_reject() -> None:
    """20 points count; each is off by log 2 less the entropy at 0.5, which is 0; then each is completely
    wrong.
    """
    wanted = torch.cat([torch.full((1, 24), -9.0), torch.zeros(1, 20)], 1)
    assert objectness_error(wanted, wanted).item() == pytest.approx(0, abs=1e-5)
    found = torch.cat([wanted[:, :24], torch.full((1, 20), 2.0)], 1)
    expected = torch.nn.functional.softplus(torch.tensor(2.0)) - 1 - torch.log(torch.tensor(2.0))
    assert objectness_error(found, wanted).item() == pytest.approx(expected.item(), rel=1e-5)


def test_box_loss_covers_proposals_with_an_object(detector: SplitDetector) -> None:
    """Correct offsets have no loss; offsets of the wrong class do not count; a proposal away from all boxes
    is ignored.
    """
    coder = detector.network.roi_heads.box_coder
    proposals = torch.tensor([[0.0, 0, 10, 10], [50, 50, 70, 70]])
    target = Target(torch.tensor([[0.0, 0, 10, 12]]), torch.tensor([3]))
    moved = torch.full((2, 4 * 5), 9.0)
    moved[0, 12:16] = coder.encode_single(target.boxes, proposals[:1])[0]
    assert box_error(coder, moved, proposals, target) == pytest.approx(0, abs=1e-6)
    moved[0, 12] += 2
    assert box_error(coder, moved, proposals, target) == pytest.approx(1.0)  # 2² over four offsets
    assert box_error(coder, moved, proposals, NOTHING) == 0
    assert box_error(coder, moved, proposals[1:], target) == 0


def test_class_loss_uses_softmax_or_independent_sigmoids() -> None:
    """Two classes at even odds: one half instead of a quarter and three quarters; then both classes
    independently.
    """
    wanted, found = torch.zeros(1, 2), torch.tensor([[0.0, np.log(3.0)]])
    softmax = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert class_divergence(found, wanted, each=False).item() == pytest.approx(softmax, rel=1e-5)
    assert class_divergence(found, wanted, each=True).item() == pytest.approx(softmax, rel=1e-5)
    assert class_divergence(found.repeat(1, 2), wanted.repeat(1, 2), each=True).item() == pytest.approx(
        2 * softmax, rel=1e-5
    )


def test_means_of_consecutive_groups() -> None:
    assert means(torch.tensor([1.0, 3, 5]), [2, 0, 1]).tolist() == [2, 0, 5]


def test_unchanged_features_have_no_loss(detector: SplitDetector) -> None:
    x = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    targets = [NOTHING, Target(torch.tensor([[10.0, 10, 60, 50]]), torch.tensor([2]))]
    with torch.no_grad():
        h, original = detector.front_features(x), DetectorReference(detector, x)
        right = original.terms(h, x, targets)
        wrong = original.terms(torch.zeros_like(h), 1 - x, targets)
    paper = {"class_cross_entropy"}
    assert right.keys() == TERM_WEIGHTS.keys() | paper == {*original.terms(h, x), "boxes"} | paper
    for name in right.keys() - {"boxes", *paper}:
        assert right[name].shape == wrong[name].shape == (2,)
        assert right[name].abs().max() < 1e-4 and (wrong[name] > 20 * right[name].abs()).all(), name
    assert right["boxes"][0] == 0


def test_task_loss_by_hand() -> None:
    terms = {"features": torch.tensor([1.0, 0.0]), "places": torch.tensor([2.0, 3.0])}
    assert torch.allclose(task_cost(terms), torch.tensor([0.3 + 1.4, 2.1]))


def test_gradient_reaches_the_features_but_not_the_detector(detector: SplitDetector) -> None:
    x = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    h_hat = (detector.front_features(x) + 0.1).requires_grad_()
    terms = DetectorReference(detector, x).terms(h_hat, x, [NOTHING, NOTHING])
    for name in ("features", "stages", "pyramid", "classes", "objectness", "places"):
        (slope,) = torch.autograd.grad(terms[name].sum(), h_hat, retain_graph=True)
        assert slope.isfinite().all() and slope.any(), name


def test_autocast_applies_to_transforms_but_not_to_rates(detector: SplitDetector) -> None:
    """Under autocast the bits of a base layer are those of y_obj, up to the precision of the analysis."""
    base = small_dual_layer_compact(detector).network.base.eval()
    x = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    level = torch.tensor([200, 600])
    seen: list[torch.dtype] = []
    base.entropy.hyper_analysis.register_forward_hook(lambda module, given, y: seen.append(y.dtype))
    with torch.no_grad():
        whole = base(x, level)
        with torch.autocast("cpu", torch.bfloat16):
            half = base(x, level)
    assert seen == [torch.float32] * 2 and half.h_hat.dtype == torch.bfloat16
    assert torch.allclose(half.bits, whole.bits, rtol=0.05)


def test_the_papers_bce_is_the_cross_entropy_of_the_classes() -> None:
    """Of proposals with the object that they overlap, or background; a recipe puts it in place of the
    objectness."""
    target = Target(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([2]))
    proposals = torch.tensor([[0.0, 0.0, 10.0, 9.0], [50.0, 50.0, 60.0, 60.0]])
    scores = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]])
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([2, 0]))
    assert torch.equal(class_cross_entropy(scores, proposals, target, each=False), expected)
    each = class_cross_entropy(scores[:, 1:], proposals, target, each=True)
    wanted = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    bits = torch.nn.functional.binary_cross_entropy_with_logits(scores[:, 1:], wanted, reduction="none")
    assert each.item() == pytest.approx(bits.sum(1).mean().item())
    assert class_cross_entropy(scores[:0], proposals[:0], target, each=False).item() == 0
    weights = base_task.weights_by_term(base_task.base_recipe({"bce": "classes", "boxes": 0.3}))
    assert (weights["objectness"], weights["class_cross_entropy"], weights["boxes"]) == (0, 0.5, 0.3)
    assert base_task.weights_by_term(base_task.BASE_LAYER) == TERM_WEIGHTS
    assert base_task.base_recipe({"learning_rate": 7.5e-4}).matrix_rate == 1.5e-3
    with pytest.raises(OptionError, match="no field 'nonsense'; its recipe has learning_rate"):
        base_task.weights_by_term(base_task.base_recipe({"nonsense": 1.0}))


# ── a run ──


@pytest.fixture
def quick(detector: SplitDetector, monkeypatch: pytest.MonkeyPatch) -> list[DualLayerCompact]:
    """Small batches, few of them, a fast moving average, and small codecs."""
    monkeypatch.setattr(scenes, "PROPORTIONS", ((128, 64), (64, 128), (96, 96)))
    monkeypatch.setattr(base_task, "CALIBRATION", 1)
    monkeypatch.setattr(base_task, "BASE_LAYER", replace(base_task.BASE_LAYER, ema=0.0))
    for name in ("validation_batches", "warmup"):
        monkeypatch.setattr(base_task.BaseLayerTask, name, 1)
    built: list[DualLayerCompact] = []

    def build(of: str, start: Path | None) -> DualLayerCompact:
        network = small_dual_layer_compact(detector).network
        assert isinstance(network, DualLayerCompact)
        built.append(network)
        return network

    monkeypatch.setattr(base_task, "codec_with_base", build)
    return built


def log_of(run: Path) -> list[dict[str, float]]:
    with (run / "log.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_training_lowers_the_loss_and_keeps_the_detector(
    quick: list[DualLayerCompact], detector: SplitDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is resumed, and exports the whole preset: base layer trained and calibrated, the rest
    unchanged. Without Muon, which takes half of the time; the next test trains with it.
    """
    monkeypatch.setattr(base_task, "BASE_LAYER", replace(base_task.BASE_LAYER, matrix_rate=None))
    before, fresh = copy.deepcopy(detector.state_dict()), small_dual_layer_compact(detector)
    data, run = write_annotated_images(tmp_path), tmp_path / "run"
    base_task.train_base_layer([data], run, steps=1, batch=4)
    path = base_task.train_base_layer([data], run, steps=6, batch=4, resume=True)
    first, last = log_of(run)
    assert (first["step"], last["step"]) == (1, 6)
    for name in ("loss", "picture", "pyramid"):
        assert last[f"held_out_{name}"] < 0.95 * first[f"held_out_{name}"]
    assert {f"held_out_{name}" for name in (*TERM_WEIGHTS, "rate", "loss")} <= last.keys()
    assert same(before, detector.state_dict()) and not detector.training
    *_, made = quick
    assert same(fresh.network.synthesis.state_dict(), made.synthesis.state_dict())
    assert not torch.equal(fresh.network.base.entropy.frequencies, made.base.entropy.frequencies)
    assert ((made.trust >= 0) & (made.trust <= 1)).all()
    assert path.name == find("dual-layer-compact").weights
    fresh.network.load_state_dict(read_weights(path))
    record = json.loads(path.with_suffix(".json").read_text())
    assert (
        record["steps"] == 6 and record["preset"] == "dual-layer-compact" and record["task"] == TERM_WEIGHTS
    )
    assert record["parameters"] == sum(p.numel() for p in made.base.parameters())
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    assert all(name.startswith("base.") for name in checkpoint["module"])


def test_dual_layer_base_layer_is_trained_with_torchvisions_detector(
    quick: list[DualLayerCompact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uses the same command, and that detector's input sizes and labels; only the base layer is trained."""
    codec, fresh = small_dual_layer(), small_dual_layer()
    own = copy.deepcopy(codec.network.detector)
    own.categories = (PERSON, BRUSH)
    codec.network.find_detector = lambda device: own
    monkeypatch.setattr(base_task, "codec_with_base", lambda of, start: codec.network)
    run = tmp_path / "run"
    path = base_task.train_base_layer(
        [write_annotated_images(tmp_path)], run, of="dual-layer", steps=4, batch=2, every=0
    )
    first, *_, last = log_of(run)
    assert last["held_out_loss"] < first["held_out_loss"]
    assert path.name == "dual-layer.safetensors" and path.with_suffix(".csv").exists()
    assert same(fresh.network.synthesis.state_dict(), codec.network.synthesis.state_dict())
    assert not torch.equal(fresh.network.base.entropy.frequencies, codec.network.base.entropy.frequencies)


def test_departures_of_the_base_layer_are_switched_off(
    quick: list[DualLayerCompact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dead zone, held-out images and augmentation; the weights keep the dead zone, and so does a resumed
    training of the enhancement."""
    data, run = write_annotated_images(tmp_path), tmp_path / "run"
    augmented: list[bool] = []
    make = scenes.DetectionBatches

    def noted(*given: Any, **more: Any) -> scenes.DetectionBatches:
        augmented.append(more["augmented"])
        return make(*given, **more)

    monkeypatch.setattr("trifocal.training.tasks.base_layer.DetectionBatches", noted)
    plain = {"dead_zone": 0, "held_out": 0, "augmentation": "none"}
    path = base_task.train_base_layer([data], run, steps=1, batch=2, fields=plain)
    record = json.loads(path.with_suffix(".json").read_text())
    assert augmented and not any(augmented) and record["read"]["held_out"] == 0
    assert quick[-1].base.entropy.dead_zone == 0 and quick[-1].entropy.dead_zone == DEAD_ZONE
    assert metadata_of(path) == {"format": "pt", BASE_QUANTISER: "0.0"}
    preset = replace(find("dual-layer-compact"), build=lambda: small_dual_layer_compact(quick[-1].detector))
    task, resumed = (CodecTask(preset, objective=Objective) for _ in range(2))
    task.start_from(path)
    resumed.load_state(task.state())
    for own in (task, resumed):
        assert network_dead_zones(own.network) == {QUANTISER: DEAD_ZONE, BASE_QUANTISER: 0.0}
    with pytest.raises(OptionError, match="augmentation is full or none, not 'some'"):
        base_task.train_base_layer([data], run, steps=1, fields={"augmentation": "some"}, force=True)


def test_images_without_boxes_need_a_teacher(quick: list[DualLayerCompact], tmp_path: Path) -> None:
    data = write_annotated_images(tmp_path)
    for record in data.glob("*.json"):
        record.unlink()
    with pytest.raises(OptionError, match="or a teacher"):
        base_task.train_base_layer([data], tmp_path / "run", steps=1)
    with pytest.raises(OptionError, match="either steps or minutes"):
        base_task.train_base_layer([data], tmp_path / "run", steps=1, minutes=1)


def test_enhancement_starts_from_compact_weights(tmp_path: Path) -> None:
    """Also from named custom weights."""
    codec, compact = (
        base_task.codec_with_base("dual-layer-compact", None),
        read_weights(WEIGHTS_FOLDER / "compact.safetensors"),
    )
    own = codec.state_dict()
    assert all(torch.equal(own[name], value) for name, value in compact.items())
    with torch.no_grad():
        for parameter in codec.base.parameters():
            if parameter.requires_grad:  # the front is the detector's
                parameter.fill_(0.25)
    write_weights(codec, tmp_path / "w.safetensors")
    again = base_task.codec_with_base("dual-layer-compact", tmp_path / "w.safetensors")
    assert same(codec.base.state_dict(), again.base.state_dict())
    with pytest.raises(PresetError, match="compact has no base layer"):
        base_task.codec_with_base("compact", None)


# ── the detector's third stage ──


@pytest.mark.slow
def test_third_stage_trains_layers_after_the_split_only(
    detector: SplitDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Therefore existing base layers and files stay valid."""
    for name, value in (("validation_batches", 1), ("warmup", 1), ("ema", 0.0)):
        monkeypatch.setattr(detector_task.ContinuedDistillationTask, name, value)
    monkeypatch.setattr(detector_task, "TeacherOutputs", OtherDetectorBatches)
    repeat_first_batch(monkeypatch, OtherDetectorBatches)
    codec = small_dual_layer_compact(detector)
    before = copy.deepcopy(codec.network.state_dict())
    monkeypatch.setattr(detector_task, "load", lambda preset: codec)
    start = tmp_path / "start.safetensors"
    write_weights(detector, start)
    run = tmp_path / "run"
    train = partial(detector_task.train_detector, stage=3, batch=2, start=start, teacher="some/pico.onnx")
    train([write_annotated_images(tmp_path)], run, steps=1)
    path = train([tmp_path / "pictures"], run, steps=6, resume=True)
    first, last = log_of(run)
    terms = list(DISTILLED_PARTS)[4:]
    assert sum(last[name] for name in terms) < sum(first[name] for name in terms)
    old, new = read_weights(start), read_weights(path)
    assert all(torch.equal(old[name], new[name]) for name in old if ".front." in name)
    for part in (".middle.", ".pyramid.", ".rpn.", ".box_head.", ".box_predictor."):
        assert not all(torch.equal(old[name], new[name]) for name in old if part in name), part
    assert same(before, codec.network.state_dict())
    assert json.loads(path.with_suffix(".json").read_text())["stage"] == 3


def test_third_stage_codes_half_of_the_images_with_the_base_layer(detector: SplitDetector) -> None:
    """The others are used unchanged; the teacher's outputs are those for the original image."""
    pixels = torch.rand(4, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    answers = [torch.full((4, 2), float(number)) for number in range(3)]

    class Same:
        def next(self) -> tuple[Tensor, list[Tensor]]:
            return normalise(pixels), answers

        def close(self) -> None: ...

    base, seen = small_dual_layer_compact(detector).network.base.eval(), []
    source = FeatureSource(Same(), detector, base)
    base.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    h, said = source.next()
    whole = detector.front_features(pixels)
    assert h.shape == whole.shape and said == answers
    kept = [bool(torch.allclose(one, other, atol=1e-5)) for one, other in zip(h, whole)]
    assert sum(kept) == 2
    assert all((pixels - one).abs().amax((1, 2, 3)).min() < 1e-5 for one in seen[0])
    alone, _ = FeatureSource(Same(), detector).next()
    assert torch.allclose(alone, whole, atol=1e-5)


def test_echoed_batches_are_reused() -> None:
    """On average as often as requested, the newest first, and only from the batches that are kept."""

    class Counting:
        number = -1

        def next(self) -> tuple[int]:
            self.number += 1
            return (self.number,)

        def close(self) -> None: ...

    slow = Counting()
    source: Any = DataEcho(slow, 3, seed=0)
    came = [source.next()[0] for _ in range(DataEcho.kept + 3000)]
    assert came[: DataEcho.kept] == list(range(DataEcho.kept))
    assert slow.number == pytest.approx(DataEcho.kept + 1000, rel=0.1)
    assert max(came) == slow.number and len(source.pool) == DataEcho.kept
    assert len(set(came)) == slow.number + 1
    fresh: list[Any] = [DataEcho(Counting(), 1, seed=0) for _ in range(3)]
    assert [source.next()[0] for source in fresh] == [0, 0, 0]
