"""How boxes are made of a pyramid: by the two stages of torchvision's Faster R-CNN, with what it does not tell, or by the compact
detector's, whose first says boxes and classes of places already, and whose second corrects them.

pyramid ── proposals, objectness ── regions ── boxes, classes ── the best
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from trifocal.detection.proposals import CompactProposals, Dense

SMALLEST = 0.01  # pixels

Found = list[dict[str, Tensor]]
"""For each picture boxes [N, 4], labels [N] and scores [N], the best first, as torchvision has them."""
Find = Callable[[FasterRCNN, ImageList, dict[str, Tensor]], Found]


@dataclass(frozen=True)
class Proposed:
    """What a first stage says of B pictures.

    Attributes:
        objectness: of each anchor or place, logits, [B, A].
        chosen: of each picture the boxes that are looked at further, the surest first, [N, 4], without a gradient.
        dense: all that it says, where it is the compact one's.
        places: then, where in `dense` the chosen boxes are, [N].
    """

    objectness: Tensor
    chosen: list[Tensor]
    dense: Dense | None = None
    places: Sequence[Tensor] = ()


def propose(network: FasterRCNN, images: ImageList, pyramid: dict[str, Tensor]) -> Proposed:
    """What the first stage does, torchvision's or the compact one's, with what torchvision's does not tell."""
    rpn = network.rpn
    if isinstance(rpn, CompactProposals):
        return proposed_by(rpn(pyramid), images)
    features = list(pyramid.values())
    logits, offsets = rpn.head(features)
    anchors = rpn.anchor_generator(images, features)
    counts = [level[0].numel() for level in logits]
    flat_logits, flat_offsets = concat_box_prediction_layers(logits, offsets)
    moved = rpn.box_coder.decode(flat_offsets.detach(), anchors).reshape(len(anchors), -1, 4)
    chosen, _ = rpn.filter_proposals(moved, flat_logits.detach(), images.image_sizes, counts)
    return Proposed(flat_logits.reshape(len(anchors), -1), chosen)


def proposed_by(dense: Dense, images: ImageList) -> Proposed:
    """What the compact one's first stage proposes where it says that."""
    places = [dense.chosen(number, size) for number, size in enumerate(images.image_sizes)]
    boxes = [
        clip_boxes_to_image(own[where].detach(), size)
        for own, where, size in zip(dense.boxes, places, images.image_sizes)
    ]
    return Proposed(dense.objectness, boxes, dense, places)


def objectness_of(network: FasterRCNN, pyramid: dict[str, Tensor]) -> tuple[Tensor, Dense | None]:
    """What the first stage says before anything is chosen: `Proposed.objectness` and `.dense`."""
    if isinstance(network.rpn, CompactProposals):
        dense: Dense = network.rpn(pyramid)
        return dense.objectness, dense
    logits, _ = concat_box_prediction_layers(*network.rpn.head(list(pyramid.values())))
    return logits.reshape(len(next(iter(pyramid.values()))), -1), None


def pooled(
    network: FasterRCNN, pyramid: dict[str, Tensor], proposals: list[Tensor], images: ImageList
) -> Tensor:
    """What the second stage sees of all proposals of all pictures."""
    heads = network.roi_heads
    seen: Tensor = heads.box_head(heads.box_roi_pool(pyramid, proposals, images.image_sizes))
    return seen


def corrected(
    network: FasterRCNN, pyramid: dict[str, Tensor], proposed: Proposed, images: ImageList
) -> tuple[Tensor, Tensor]:
    """What the compact detector says in the end of all that its first stage has chosen: that stage's scores and boxes at those places,
    and what its second stage, which looks at the regions, adds to them. Logits [N, K] and boxes [N, 4]."""
    assert proposed.dense is not None
    scores, boxes, where = proposed.dense.at(proposed.places)
    seen = pooled(network, pyramid, proposed.chosen, images)
    more, offsets = network.roi_heads.box_predictor(seen, scores, boxes, where)
    return scores + more, network.roi_heads.box_coder.decode_single(offsets, boxes)


def judged(
    network: FasterRCNN, pyramid: dict[str, Tensor], proposed: Proposed, images: ImageList
) -> tuple[Tensor, Tensor]:
    """What the detector says in the end of all that its first stage has chosen: scores of the classes, logits, and offsets of the boxes
    from the chosen ones."""
    if proposed.dense is None:
        said: tuple[Tensor, Tensor] = network.roi_heads.box_predictor(
            pooled(network, pyramid, proposed.chosen, images)
        )
        return said
    scores, boxes = corrected(network, pyramid, proposed, images)
    offsets = network.roi_heads.box_coder.encode_single(boxes, torch.cat(proposed.chosen))
    return scores, offsets.repeat(1, scores.shape[1] + 1)


def framed(x: Tensor, size: tuple[int, int] | None = None) -> ImageList:
    """x [B, 3, H, W] as torchvision's parts want it; `size` is the height and width that is not padding."""
    return ImageList(x, [size or (x.shape[2], x.shape[3])] * len(x))


def find_once(network: FasterRCNN, images: ImageList, pyramid: dict[str, Tensor]) -> Found:
    """As torchvision does it."""
    proposals, _ = network.rpn(images, pyramid)
    found: Found
    found, _ = network.roi_heads(pyramid, proposals, images.image_sizes)
    return found


def find_corrected(network: FasterRCNN, images: ImageList, pyramid: dict[str, Tensor]) -> Found:
    """As the compact detector does it: classes are not exclusive, and none of them is the background."""
    proposed = propose(network, images, pyramid)
    scores, boxes = corrected(network, pyramid, proposed, images)
    counts = [len(where) for where in proposed.places]
    return [
        best(network, clip_boxes_to_image(own, size), sure)
        for own, sure, size in zip(boxes.split(counts), scores.sigmoid().split(counts), images.image_sizes)
    ]


def best(network: FasterRCNN, boxes: Tensor, scores: Tensor) -> dict[str, Tensor]:
    """boxes [P, 4] and a score of each for each class, [P, K] → what is left by the network's limits and suppression."""
    heads = network.roi_heads
    place, label = torch.nonzero(scores > heads.score_thresh, as_tuple=True)
    boxes, scores = boxes[place], scores[place, label]
    large = remove_small_boxes(boxes, SMALLEST)
    boxes, scores, label = boxes[large], scores[large], label[large]
    kept = batched_nms(boxes, scores, label, heads.nms_thresh)[: heads.detections_per_img]
    return {"boxes": boxes[kept], "labels": label[kept] + 1, "scores": scores[kept]}
