"""What a detector learns from: boxes, and a teacher's soft scores and features.

    proposals (Ren et al. 2015, section 3.1.2)         objectness, which is how well the box will fit (Li et al. 2020); boxes
    regions (section 3.2, and Hinton et al. 2015)      class, as sure as the box fits, and from the teacher; boxes; as often as
                                                       the detector looks, of the boxes that it then looks at (Cai and Vasconcelos 2018)
    pyramid (FitNets, Romero et al. 2015)              the teacher's features, its class scores at each place

All terms take a `SplitDetector` and what its pyramid says; nothing here is specific to one size of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_area, box_iou, clip_boxes_to_image, generalized_box_iou_loss

from trifocal.machine.detector import SplitDetector
from trifocal.machine.stages import Proposed, framed, propose, regions

TEACHER_SHARE = 0.5  # of a region's target, where there are boxes as well
ANCHORS, LEAST_ANCHOR = 10, 0.2  # that learn each box, and their least overlap with it
LEAST_OVERLAP = 0.5  # of a proposal and the teacher's box whose scores it gets


@dataclass(frozen=True)
class Seen:
    """What a teacher says of one picture.

    Attributes:
        boxes: its candidates, before any suppression, x0, y0, x1, y1 in the picture's pixels, [N, 4].
        scores: of each class, 0..1, [N, K].
        maps: scores at each place, by level of the pyramid, finest first, each [K, h, w].
        features: its pyramid, each [C, h, w].
    """

    boxes: Tensor
    scores: Tensor
    maps: tuple[Tensor, ...]
    features: tuple[Tensor, ...]

    def to(self, device: torch.device | str) -> "Seen":
        maps, features = (tuple(t.to(device) for t in part) for part in (self.maps, self.features))
        return Seen(self.boxes.to(device), self.scores.to(device), maps, features)


@dataclass(frozen=True)
class Target:
    """What is true of one picture: boxes [N, 4] in its pixels, labels [N] from 1; `certain` is False where a teacher said it."""

    boxes: Tensor
    labels: Tensor
    certain: bool = True

    def to(self, device: torch.device | str) -> "Target":
        return Target(self.boxes.to(device), self.labels.to(device), self.certain)


def detection_losses(
    detector: SplitDetector,
    x: Tensor,
    pyramid: dict[str, Tensor],
    targets: Sequence[Target],
    seen: Sequence[Seen] | None,
) -> dict[str, Tensor]:
    """The terms "objectness", "proposals", "classes" and "boxes" of a detector in training mode.

    Args:
        x: pictures, [B, 3, H, W].
        pyramid: what the backbone, or a base layer, says of them.
        targets: for each.
        seen: the same, or None without a teacher.
    """
    images, network = framed(x), detector.network
    first = propose(network, images, pyramid)
    truth = [{"boxes": t.boxes, "labels": t.labels} for t in targets]
    proposals, matched, labels, _ = network.roi_heads.select_training_samples(first.chosen, truth)
    looks, moved = [], proposals
    for look in range(detector.looks):
        if look:
            proposals = [clip_boxes_to_image(own, size) for own, size in zip(moved, images.image_sizes)]
            matched, labels = network.roi_heads.assign_targets_to_proposals(
                proposals, [t.boxes for t in targets], [t.labels for t in targets]
            )
        terms, moved = region_losses(network, pyramid, images, proposals, matched, labels, targets, seen)
        looks.append(terms)
    return proposal_losses(first, targets) | {
        name: torch.stack([terms[name] for terms in looks]).mean() for name in looks[0]
    }


def region_losses(
    network: Any,
    pyramid: dict[str, Tensor],
    images: Any,
    proposals: list[Tensor],
    matched: list[Tensor],
    labels: list[Tensor],
    targets: Sequence[Target],
    seen: Sequence[Seen] | None,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The terms of the second stage, one look, and where it moves the proposals, without a gradient.

    Args:
        proposals: of each picture, [N, 4]. matched: whose they are, [N]. labels: and what, 0 for nothing, [N].
    """
    scores, offsets = regions(network, pyramid, proposals, images)
    numbers = torch.cat(labels)
    places = torch.arange(len(numbers), device=numbers.device)
    own = offsets.reshape(len(offsets), -1, 4)[places, numbers]
    moved = network.roi_heads.box_coder.decode_single(own, torch.cat(proposals))
    there = torch.nonzero(numbers > 0)[:, 0]
    true_boxes = torch.cat([boxes_at(t.boxes, at) for t, at in zip(targets, matched)])[there]
    boxes = moved[there]
    quality = torch.ones_like(scores[:, 0])
    quality[there] = paired_iou(boxes.detach(), true_boxes)
    wanted = F.one_hot(numbers, scores.shape[1]) * quality[:, None]
    wanted[:, 0] += 1 - quality
    counts = [len(p) for p in proposals]
    if seen is not None:
        wanted = torch.cat(
            [
                soft_classes(p, w, s, TEACHER_SHARE if t.certain else 1.0)
                for p, w, s, t in zip(proposals, wanted.split(counts), seen, targets)
            ]
        )
    return {
        "classes": F.kl_div(scores.log_softmax(1), wanted, reduction="batchmean"),
        "boxes": box_loss(boxes, true_boxes),
    }, list(moved.detach().split(counts))


def proposal_losses(first: Proposed, targets: Sequence[Target]) -> dict[str, Tensor]:
    """The terms of the first stage: over all anchors, where torchvision's own draws a few.

    An anchor's objectness is to be the overlap of its box with the true one, which is 0 for all but the anchors of that box.
    """
    quality = torch.zeros_like(first.objectness)
    found, true = [], []
    for number, (target, anchors) in enumerate(zip(targets, first.anchors)):
        there, whose = anchors_of(target.boxes, anchors)
        found.append(first.boxes[number, there])
        true.append(target.boxes[whose])
        quality[number, there] = paired_iou(found[-1].detach(), true[-1])
    all_found, all_true = torch.cat(found), torch.cat(true)
    return {
        "objectness": quality_focal_loss(first.objectness, quality) / max(1, len(all_true)),
        "proposals": box_loss(all_found, all_true),
    }


def anchors_of(boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """The ANCHORS that overlap each box most, and whose they are; an anchor of several is of the one that it overlaps most.

    [N, 4], [A, 4] → places in the anchors and in the boxes, [K] each.
    """
    if not len(boxes):
        nowhere = torch.zeros(0, dtype=torch.int64, device=anchors.device)
        return nowhere, nowhere
    overlap = box_iou(boxes, anchors)
    best, places = overlap.topk(min(ANCHORS, len(anchors)), dim=1)
    near = torch.zeros_like(overlap).scatter_(1, places, best)
    share, whose = near.max(0)
    there = torch.nonzero(share > LEAST_ANCHOR)[:, 0]
    return there, whose[there]


def quality_focal_loss(logits: Tensor, quality: Tensor) -> Tensor:
    """Binary cross-entropy with a quality of 0..1, weighted by how far off it is squared, summed (Li et al. 2020, eq. 3)."""
    error = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return ((quality - logits.detach().sigmoid()).square() * error).sum()


def boxes_at(boxes: Tensor, places: Tensor) -> Tensor:
    """Of no boxes, as many that are nothing: torchvision then gives the place 0."""
    return boxes[places] if len(boxes) else boxes.new_zeros(len(places), 4)


def soft_classes(proposals: Tensor, labels: Tensor, seen: Seen, share: float) -> Tensor:
    """What the classes of proposals should be: [N, 4], one-hot [N, K + 1] with nothing first → [N, K + 1].

    A proposal gets the scores of the teacher's box that overlaps it most; where it has none, nothing.
    """
    teacher = torch.zeros_like(labels)
    if len(seen.boxes):
        overlap, nearest = box_iou(proposals, seen.boxes).max(dim=1)
        scores = seen.scores[nearest] * (overlap > LEAST_OVERLAP)[:, None]
        teacher[:, 1:] = scores / scores.sum(1, keepdim=True).clamp(min=1.0)
    teacher[:, 0] = (1 - teacher[:, 1:].sum(1)).clamp(min=0.0)
    return (1 - share) * labels + share * teacher


def box_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """1 less the generalised overlap (Rezatofighi et al. 2019), [N, 4] twice → the mean, 0 of nothing."""
    loss: Tensor = generalized_box_iou_loss(found, wanted, reduction="sum")
    return loss / max(1, len(found))


def paired_iou(found: Tensor, wanted: Tensor) -> Tensor:
    """The overlap of each box with its own, [N, 4] twice → [N]."""
    both = (torch.minimum(found[:, 2:], wanted[:, 2:]) - torch.maximum(found[:, :2], wanted[:, :2])).clamp(
        min=0
    )
    shared = both.prod(1)
    return shared / (box_area(found) + box_area(wanted) - shared).clamp(min=1e-6)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary, summed over classes, less its least value; mean over places: [B, K, h, w] twice → scalar."""
    found = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return (found - entropy(target).sum()) / target[:, 0].numel()


def entropy(p: Tensor) -> Tensor:
    """Of a choice between two, in nats, for each probability."""
    return -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p)


def resized(maps: Sequence[Tensor], like: Tensor) -> Tensor:
    """Maps of a teacher that saw the picture stretched, [C, h, w] each, at the places of a pyramid's level."""
    stacked = torch.stack(list(maps)).to(like.dtype)
    return F.interpolate(stacked, size=like.shape[2:], mode="bilinear", align_corners=False)
