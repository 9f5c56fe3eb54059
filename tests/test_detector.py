"""Split detectors: same results as the original network, for images of any size."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.ops import box_iou

from helpers.detection import small_faster_rcnn
from trifocal.detection import detector as module
from trifocal.detection import proposals
from trifocal.detection.detector import (
    Detections,
    SplitDetector,
    compact_detector,
    load_detector,
    split_faster_rcnn,
)
from trifocal.detection.input_size import COCO_IDS, MAX_AREA
from trifocal.detection.roi_head import RoiPredictor, box_geometry
from trifocal.detection.two_stage import (
    predict_compact,
    propose,
    second_stage_outputs,
    second_stage_predictions,
    to_image_list,
)
from trifocal.errors import WeightsError
from trifocal.weights import write_weights

SIZES = [(128, 96), (148, 96), (96, 117), (200, 60), (50, 71), (1, 1)]  # width, height


@pytest.fixture(scope="module")
def uncut() -> FasterRCNN:
    return small_faster_rcnn()


@pytest.fixture(scope="module")
def cut(uncut: FasterRCNN) -> SplitDetector:
    return split_faster_rcnn(copy.deepcopy(uncut))


@pytest.fixture(scope="module")
def compact() -> SplitDetector:
    """A detector with random weights, whose scores differ enough for detections."""
    torch.manual_seed(0)
    detector = compact_detector().eval()
    with torch.no_grad():
        for level in detector.network.rpn.levels:
            level.say.weight.mul_(200)
    return detector


def pictures(count: int, width: int, height: int) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(width + height))


def same(found: Detections, wanted: dict[str, Tensor]) -> bool:
    there = len(found.boxes) > 0
    pairs = ((found.labels, "labels"), (found.scores, "scores"), (found.boxes, "boxes"))
    return there and all(np.array_equal(part, wanted[key].numpy()) for part, key in pairs)


# ── the cut ──


@pytest.mark.parametrize(("width", "height"), SIZES)
@torch.inference_mode()
def test_split_detector_equals_the_original_network(
    uncut: FasterRCNN, cut: SplitDetector, width: int, height: int
) -> None:
    """After torchvision's transform: the same boxes, labels and scores to the last bit."""
    (x,) = pictures(1, width, height)
    seen, _ = cut.network.transform([x])
    found = cut.detect_from_features(cut.backbone.front(seen.tensors), seen.image_sizes[0])[0]
    result: list[dict[str, Tensor]] = [{"boxes": torch.from_numpy(found.boxes).float()}]
    (back,) = cut.network.transform.postprocess(result, seen.image_sizes, [(height, width)])
    assert same(Detections(back["boxes"].double().numpy(), found.labels, found.scores), uncut([x])[0])


@pytest.mark.parametrize(("width", "height"), [(128, 96), (148, 96), (96, 117), (160, 48)])
@torch.inference_mode()
def test_image_of_the_input_size_is_not_resized(
    uncut: FasterRCNN, cut: SplitDetector, width: int, height: int
) -> None:
    """Without torchvision's transform, also for sides that are not multiples of 32: it pads after
    normalising.
    """
    x = pictures(1, width, height)
    assert cut.input_size(width, height) == (width, height)
    assert same(cut(x)[0], uncut([x[0]])[0])


@pytest.mark.parametrize(("width", "height"), [*SIZES, (640, 480), (481, 640), (97, 3001), (2, 3)])
def test_input_size_equals_torchvisions(cut: SplitDetector, width: int, height: int) -> None:
    if width * height > 1:
        seen, _ = cut.network.transform([torch.zeros(3, height, width)])
        assert cut.input_size(width, height) == seen.image_sizes[0][::-1]
    assert min(cut.input_size(width, height)) >= 1


@torch.inference_mode()
def test_front_features_are_layer1_channels_last(cut: SplitDetector) -> None:
    h = cut.front_features(pictures(2, 128, 96))
    assert h.shape == (2, 24, 32, 256)
    backbone = cut.backbone
    assert (backbone.channels, backbone.stride, backbone.out_channels) == (256, 4, 16)


def test_splitting_keeps_all_parameters_once() -> None:
    network = small_faster_rcnn()
    before = {id(p) for p in network.parameters()}
    assert {id(p) for p in split_faster_rcnn(network).parameters()} == before


# ── the compact detector ──


def test_the_compact_detector_is_small(compact: SplitDetector) -> None:
    assert sum(p.numel() for p in compact.parameters()) <= 6_000_000
    front = sum(p.numel() for p in compact.backbone.front.parameters())
    assert front < 200_000  # what a camera runs before its base layer


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (2, 1), (31, 33), (333, 501), (640, 480), (10_000, 10_000), (1, 4000), (65536, 1)],
)
@torch.inference_mode()
def test_images_of_any_size_are_detected(compact: SplitDetector, width: int, height: int) -> None:
    """At the detector's input size: all boxes lie within the image, and all labels are COCO's."""
    wide, high = compact.input_size(width, height)
    assert wide % 32 == high % 32 == 0
    assert wide * high <= 1.25 * MAX_AREA
    (found,) = compact(pictures(1, wide, high))
    assert found.boxes.shape == (len(found.labels), 4) and len(found.scores) == len(found.labels) <= 100
    assert np.isfinite(found.boxes).all() and (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
    assert (found.boxes >= 0).all() and (found.boxes <= np.array([wide, high, wide, high])).all()
    assert ((found.scores > 0.02) & (found.scores <= 1)).all()
    assert set(found.labels.tolist()) <= {*COCO_IDS}


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (500, 333), (1000, 990), (3000, 1000)])
def test_aspect_ratio_is_kept(compact: SplitDetector, width: int, height: int) -> None:
    """As far as multiples of 32 allow."""
    wide, high = compact.input_size(width, height)
    assert abs(wide / high / (width / height) - 1) < 0.12


@torch.inference_mode()
def test_tail_of_a_batch_equals_that_of_each_image(compact: SplitDetector) -> None:
    x = pictures(3, 160, 128)
    h = compact.front_features(x)
    assert h.shape == (3, 16, 20, compact.backbone.channels) and compact.backbone.stride == 8
    together = compact.detect_from_features(h, (128, 160))
    assert len(together) == 3
    for one, found in zip(h, together):
        (alone,) = compact.detect_from_features(one[None], (128, 160))
        assert len(found.boxes) == len(alone.boxes) > 0
        assert np.allclose(found.scores, alone.scores, atol=1e-4)
        one_row, other_row = (
            np.concatenate([o.boxes, 1000 * o.labels[:, None], 100 * o.scores[:, None]], 1)
            for o in (found, alone)
        )
        apart = np.linalg.norm(one_row[:, None] - other_row[None], axis=2)
        assert apart.min(1).max() < 0.02  # equal scores may change places


@torch.inference_mode()
def test_boxes_are_clipped_to_the_image(compact: SplitDetector) -> None:
    """h may extend beyond the image; objects outside it are dropped."""
    h = compact.front_features(pictures(1, 160, 128))
    (found,) = compact.detect_from_features(h, (90, 100))
    assert len(found.boxes) and (found.boxes <= np.array([100, 90, 100, 90])).all()


@torch.inference_mode()
def test_labels_are_coco_category_ids(compact: SplitDetector) -> None:
    """The network's 12th class is category 13: COCO has no category 12."""
    sure = copy.deepcopy(compact)
    for level in sure.network.rpn.levels:
        level.say.bias[11] = 100.0
    (found,) = sure(pictures(1, 160, 128))
    assert set(found.labels[found.scores > 0.99].tolist()) == {13}


@torch.inference_mode()
def test_detections_of_an_untrained_second_stage_are_the_proposals(compact: SplitDetector) -> None:
    """The best class of each grid point, with its box, clipped to the image; no two boxes of a class overlap
    much.
    """
    network, x = compact.network, pictures(1, 160, 128)
    images, pyramid = to_image_list(x), network.backbone(x)
    (found,) = predict_compact(network, images, pyramid)
    dense = network.rpn(pyramid)
    assert found["scores"][0] == dense.classes.sigmoid().max()
    place, label = divmod(int(dense.classes[0].argmax()), 80)
    limits = torch.tensor([160.0, 128.0, 160.0, 128.0])
    assert torch.allclose(found["boxes"][0], dense.boxes[0, place].clamp(min=0).minimum(limits))
    assert found["labels"][0] == label + 1
    alike = box_iou(found["boxes"], found["boxes"]) * (found["labels"][:, None] == found["labels"])
    assert alike.fill_diagonal_(0).max() <= network.roi_heads.nms_thresh


@torch.inference_mode()
def test_nms_keeps_the_proposal_with_the_highest_score(compact: SplitDetector) -> None:
    """By descending score; no two overlap much, and there are at most as many as the second stage takes."""
    network, x = compact.network, pictures(1, 160, 128)
    proposed = propose(network, to_image_list(x), network.backbone(x))
    assert proposed.dense is not None
    (boxes,), (where,) = proposed.chosen, proposed.indices
    sure = proposed.dense.objectness[0, where]
    assert (sure.diff() <= 0).all() and 1 < len(boxes) <= proposals.AFTER_NMS
    overlap = box_iou(boxes, boxes).fill_diagonal_(0)
    assert overlap.max() <= proposals.NMS_OVERLAP


@torch.inference_mode()
def test_second_stage_adds_to_the_first_stages_outputs(compact: SplitDetector) -> None:
    """Untrained it adds nothing; then it raises all scores by one, and widens all boxes by half, for all
    proposals of two images. The base layer's objective gets the same outputs, as offsets from the proposals.
    """
    network, x = copy.deepcopy(compact.network), pictures(2, 160, 128)
    images, pyramid = to_image_list(x), network.backbone(x)
    first = propose(network, images, pyramid)
    assert first.dense is not None
    given = (network, pyramid, first, images)
    scores, boxes, _ = first.dense.gather(first.indices)
    assert len(scores) == sum(len(chosen) for chosen in first.chosen) and len(first.chosen) == 2
    same_scores, same_boxes = second_stage_predictions(*given)
    assert torch.equal(same_scores, scores) and torch.allclose(same_boxes, boxes, atol=1e-4)
    coder = network.roi_heads.box_coder
    with torch.no_grad():
        network.roi_heads.box_predictor.scores.bias[7] = 3.0
        network.roi_heads.box_predictor.offsets.bias[2] = coder.weights[2] * math.log(1.5)
    more, wider = second_stage_predictions(*given)
    assert torch.allclose(more - scores, torch.eye(80)[7] * 3, atol=1e-5)
    widths, heights = (boxes[:, 2:] - boxes[:, :2]).T
    assert torch.allclose(
        (wider[:, 2:] - wider[:, :2]).T, torch.stack([1.5 * widths, heights]), rtol=1e-3, atol=1e-3
    )
    judged_scores, offsets = second_stage_outputs(*given)
    assert torch.equal(judged_scores, more) and offsets.shape == (len(more), 4 * 81)
    back = coder.decode_single(offsets[:, 4:8], torch.cat(first.chosen))
    whole = torch.cat([(own[:, 2:] - own[:, :2]).amin(1) > 1 for own in first.chosen])
    assert torch.allclose(back[whole], wider[whole], atol=0.05)
    network.roi_heads.box_predictor.scores.bias[7] = 1000.0
    found = predict_compact(network, images, pyramid)
    assert all(set(one["labels"][one["scores"] == 1].tolist()) == {8} for one in found)
    assert all((one["boxes"] >= 0).all() and (one["boxes"] <= 160).all() for one in found)


@torch.inference_mode()
def test_second_stage_depends_on_the_region_features(compact: SplitDetector) -> None:
    """Its outputs depend on the pyramid, not only on the first stage's."""
    network, x = copy.deepcopy(compact.network), pictures(1, 160, 128)
    network.roi_heads.box_predictor.scores.weight.normal_(generator=torch.Generator().manual_seed(3))
    images, pyramid = to_image_list(x), network.backbone(x)
    first = propose(network, images, pyramid)
    one, _ = second_stage_predictions(network, pyramid, first, images)
    other, _ = second_stage_predictions(
        network, {name: 2 * level for name, level in pyramid.items()}, first, images
    )
    assert (one - other).abs().max() > 1e-3


@torch.inference_mode()
def test_no_proposals_give_no_detections(compact: SplitDetector) -> None:
    network, x = copy.deepcopy(compact.network), pictures(2, 96, 64)
    for level in network.rpn.levels:
        level.say.bias[:80] = -1000.0
        level.say.weight[:80] = 0.0
    found = predict_compact(network, to_image_list(x), network.backbone(x))
    assert [len(one["boxes"]) for one in found] == [0, 0]


def test_first_stage_without_detections_has_a_gradient() -> None:
    correction = RoiPredictor(80)
    torch.nn.init.normal_(correction.scores.weight)
    scores = torch.full((3, 80), -1000.0, requires_grad=True)
    boxes, places = torch.tensor([[5.0, 5, 5, 5]]).repeat(3, 1), torch.tensor([[4.0, 4, 8]]).repeat(3, 1)
    more, offsets = correction(torch.zeros(3, 256), scores, boxes, places)
    (more.sum() + offsets.sum()).backward()
    assert more.isfinite().all() and scores.grad is not None and scores.grad.isfinite().all()


def test_relative_position_of_a_grid_point_in_its_box() -> None:
    """A box of two by one strides; its point is a quarter of the width right of the centre, on the lower
    side; logarithm of the stride.
    """
    found = box_geometry(torch.tensor([[0.0, 0, 32, 16]]), torch.tensor([[24.0, 16, 16]]))
    assert found[0].tolist() == pytest.approx([math.log(2) / 2, 0, 0.25, 0.5, 0])


@torch.inference_mode()
def test_backbone_is_stem_and_tail(compact: SplitDetector) -> None:
    x = pictures(1, 96, 64)
    pyramid = compact.backbone(x)
    apart = compact.backbone.rest(compact.backbone.front(x))
    assert list(pyramid) == ["0", "1", "2", "3"]
    assert [tuple(level.shape[2:]) for level in pyramid.values()] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert all(torch.equal(pyramid[name], apart[name]) for name in pyramid)


# ── its weights ──


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the weights."""
    monkeypatch.setattr(module, "WEIGHTS_FOLDER", tmp_path)
    load_detector.cache_clear()
    yield tmp_path
    load_detector.cache_clear()


@torch.inference_mode()
def test_loaded_weights_are_frozen(folder: Path, compact: SplitDetector) -> None:
    write_weights(compact, folder / "detector.safetensors")
    loaded = load_detector()
    assert loaded is load_detector() and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert all(torch.equal(a, b.half().float()) for a, b in zip(loaded.parameters(), compact.parameters()))


def test_missing_weights_raise_weights_error(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"detector\.safetensors are not installed"):
        load_detector()
