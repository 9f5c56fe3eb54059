"""Both detection stages after the pyramid, for torchvision's and the bundled detector.

pyramid ── first stage: proposals ── second stage: classes and boxes ── non-maximum suppression

The compact detector's first stage also predicts classes, and its second stage refines its predictions. For
torchvision's network,
these functions also return the intermediate outputs that its own methods hide.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from trifocal.detection.proposals import CompactProposals, DensePredictions

MIN_SIDE = 0.01  # pixels

DetectorNetwork = FasterRCNN
TorchvisionOutput = list[dict[str, Tensor]]
"""For each image "boxes" [N, 4], "labels" [N] and "scores" [N], sorted by score, as in torchvision."""
Predict = Callable[[FasterRCNN, ImageList, dict[str, Tensor]], TorchvisionOutput]


@dataclass(frozen=True)
class Proposals:
    """The output of the first stage for B images.

    Attributes:
        objectness: logits of all anchors or grid points, [B, A].
        chosen: the proposed boxes of each image by descending objectness, [N, 4], without gradient.
        dense: all predictions of the compact detector's first stage.
        indices: of the proposed boxes in `dense`, [N] for each image.
    """

    objectness: Tensor
    chosen: list[Tensor]
    dense: DensePredictions | None = None
    indices: Sequence[Tensor] = ()


def propose(network: FasterRCNN, images: ImageList, pyramid: dict[str, Tensor]) -> Proposals:
    """Run the first stage of either detector."""
    rpn = network.rpn
    if isinstance(rpn, CompactProposals):
        return select_proposals(rpn(pyramid), images)
    features = list(pyramid.values())
    logits, offsets = rpn.head(features)
    anchors = rpn.anchor_generator(images, features)
    counts = [level[0].numel() for level in logits]
    flat_logits, flat_offsets = concat_box_prediction_layers(logits, offsets)
    moved = rpn.box_coder.decode(flat_offsets.detach(), anchors).reshape(len(anchors), -1, 4)
    chosen, _ = rpn.filter_proposals(moved, flat_logits.detach(), images.image_sizes, counts)
    return Proposals(flat_logits.reshape(len(anchors), -1), chosen)


def select_proposals(dense: DensePredictions, images: ImageList) -> Proposals:
    """The proposals from the dense predictions of the compact detector's first stage."""
    indices = [dense.select(number, size) for number, size in enumerate(images.image_sizes)]
    boxes = [
        clip_boxes_to_image(own[where].detach(), size)
        for own, where, size in zip(dense.boxes, indices, images.image_sizes)
    ]
    return Proposals(dense.objectness, boxes, dense, indices)


def first_stage_objectness(
    network: FasterRCNN, pyramid: dict[str, Tensor]
) -> tuple[Tensor, DensePredictions | None]:
    """`Proposals.objectness` and `.dense`, without a selection."""
    if isinstance(network.rpn, CompactProposals):
        dense: DensePredictions = network.rpn(pyramid)
        return dense.objectness, dense
    logits, _ = concat_box_prediction_layers(*network.rpn.head(list(pyramid.values())))
    return logits.reshape(len(next(iter(pyramid.values()))), -1), None


@dataclass(frozen=True)
class FirstStage:
    """What a detector computes up to its first stage.

    Attributes:
        stages: the inputs of the pyramid, [B, h, w, C] each.
        pyramid: its levels, [B, P, h, w] each.
        objectness: logits of all anchors or grid points, [B, A].
        classes, bins: logits at each grid point of the compact detector, [B, A, K] and [B, A, 4·BINS].
    """

    stages: Sequence[Tensor]
    pyramid: Mapping[str, Tensor]
    objectness: Tensor
    classes: Tensor | None = None
    bins: Tensor | None = None


def first_stage(network: FasterRCNN, h: Tensor) -> tuple[FirstStage, DensePredictions | None]:
    """The first stage on features h [B, h, w, C] of a split detector, and all predictions of the bundled
    detector.
    """
    rest = network.backbone.rest
    stages = rest.backbone_features(h)
    pyramid = rest.pyramid_levels(stages)
    objectness, dense = first_stage_objectness(network, pyramid)
    if dense is None:
        return FirstStage(stages, pyramid, objectness), None
    return FirstStage(stages, pyramid, objectness, dense.classes, dense.bins), dense


def roi_features(
    network: FasterRCNN, pyramid: dict[str, Tensor], boxes: list[Tensor], images: ImageList
) -> Tensor:
    """The features of all boxes of all images, by RoIAlign and the network's box head."""
    heads = network.roi_heads
    features: Tensor = heads.box_head(heads.box_roi_pool(pyramid, boxes, images.image_sizes))
    return features


def second_stage_predictions(
    network: FasterRCNN, pyramid: dict[str, Tensor], proposals: Proposals, images: ImageList
) -> tuple[Tensor, Tensor]:
    """Final class logits [N, K] and boxes [N, 4] of the compact detector's proposals.

    They are the predictions of the first stage plus the corrections of the second stage.
    """
    assert proposals.dense is not None
    scores, boxes, points = proposals.dense.gather(proposals.indices)
    features = roi_features(network, pyramid, proposals.chosen, images)
    more, offsets = network.roi_heads.box_predictor(features, scores, boxes, points)
    return scores + more, network.roi_heads.box_coder.decode_single(offsets, boxes)


def second_stage_outputs(
    network: FasterRCNN, pyramid: dict[str, Tensor], proposals: Proposals, images: ImageList
) -> tuple[Tensor, Tensor]:
    """Class logits and box offsets of all proposals, for either detector, in torchvision's layout.

    Returns:
        Logits, [N, K] for the compact detector and [N, K + 1] with a background class for torchvision's; and
        offsets from the proposed boxes, [N, 4·(K + 1)].
    """
    if proposals.dense is None:
        outputs: tuple[Tensor, Tensor] = network.roi_heads.box_predictor(
            roi_features(network, pyramid, proposals.chosen, images)
        )
        return outputs
    scores, boxes = second_stage_predictions(network, pyramid, proposals, images)
    offsets = network.roi_heads.box_coder.encode_single(boxes, torch.cat(proposals.chosen))
    return scores, offsets.repeat(1, scores.shape[1] + 1)


def to_image_list(x: Tensor, size: tuple[int, int] | None = None) -> ImageList:
    """x [B, 3, H, W] for torchvision's modules; `size` is the height and width without padding."""
    return ImageList(x, [size or (x.shape[2], x.shape[3])] * len(x))


def predict_torchvision(
    network: FasterRCNN, images: ImageList, pyramid: dict[str, Tensor]
) -> TorchvisionOutput:
    """Both stages of torchvision's Faster R-CNN."""
    proposals, _ = network.rpn(images, pyramid)
    output: TorchvisionOutput
    output, _ = network.roi_heads(pyramid, proposals, images.image_sizes)
    return output


def predict_compact(network: FasterRCNN, images: ImageList, pyramid: dict[str, Tensor]) -> TorchvisionOutput:
    """Both stages of the compact detector: classes are independent, and there is no background class."""
    proposals = propose(network, images, pyramid)
    scores, boxes = second_stage_predictions(network, pyramid, proposals, images)
    counts = [len(own) for own in proposals.indices]
    return [
        filter_detections(network, clip_boxes_to_image(own, size), probabilities)
        for own, probabilities, size in zip(
            boxes.split(counts), scores.sigmoid().split(counts), images.image_sizes
        )
    ]


def filter_detections(network: FasterRCNN, boxes: Tensor, scores: Tensor) -> dict[str, Tensor]:
    """Apply the network's score threshold, non-maximum suppression and maximum number of detections.

    Args:
        network: its `roi_heads` have the limits.
        boxes: of P proposals, [P, 4].
        scores: of each class, [P, K].
    """
    heads = network.roi_heads
    place, label = torch.nonzero(scores > heads.score_thresh, as_tuple=True)
    boxes, scores = boxes[place], scores[place, label]
    large = remove_small_boxes(boxes, MIN_SIDE)
    boxes, scores, label = boxes[large], scores[large], label[large]
    kept = batched_nms(boxes, scores, label, heads.nms_thresh)[: heads.detections_per_img]
    return {"boxes": boxes[kept], "labels": label[kept] + 1, "scores": scores[kept]}
