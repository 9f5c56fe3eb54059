"""What a detector learns from: boxes, and a teacher's soft scores and features.

    proposals (Ren et al. 2015, section 3.1.2)         objectness, offsets
    regions (section 3.2, and Hinton et al. 2015)      class, from the boxes and from the teacher; offsets
    pyramid (FitNets, Romero et al. 2015)              the teacher's features, its class scores at each place

All terms take a `SplitDetector` and what its pyramid says; nothing here is specific to one size of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from trifocal.machine.detector import SplitDetector, framed

TEACHER_SHARE = 0.5  # of a region's target, where there are boxes as well
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
    truth = [{"boxes": t.boxes, "labels": t.labels} for t in targets]
    proposals, found = network.rpn(images, pyramid, truth)
    proposals, _, labels, offsets = network.roi_heads.select_training_samples(proposals, truth)
    scores, moved = regions(network, pyramid, proposals, images)
    wanted = F.one_hot(torch.cat(labels), scores.shape[1]).float()
    if seen is not None:
        wanted = torch.cat(
            [
                soft_classes(p, w, s, TEACHER_SHARE if t.certain else 1.0)
                for p, w, s, t in zip(proposals, wanted.split([len(p) for p in proposals]), seen, targets)
            ]
        )
    return {
        "objectness": found["loss_objectness"],
        "proposals": found["loss_rpn_box_reg"],
        "classes": F.kl_div(scores.log_softmax(1), wanted, reduction="batchmean"),
        "boxes": box_loss(moved, torch.cat(labels), torch.cat(offsets)),
    }


def regions(
    network: Any, pyramid: dict[str, Tensor], proposals: list[Tensor], images: Any
) -> tuple[Tensor, Tensor]:
    """Scores of the classes and offsets of the boxes, for all proposals of all pictures."""
    heads = network.roi_heads
    pooled = heads.box_head(heads.box_roi_pool(pyramid, proposals, images.image_sizes))
    scores, moved = heads.box_predictor(pooled)
    return scores, moved


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


def box_loss(moved: Tensor, labels: Tensor, offsets: Tensor) -> Tensor:
    """Smooth L1 of the offsets where there is something, over all proposals: [N, 4·K], [N], [N, 4] → scalar."""
    there = torch.nonzero(labels > 0)[:, 0]
    own = moved.reshape(len(moved), -1, 4)[there, labels[there]]
    return F.smooth_l1_loss(own, offsets[there], beta=1 / 9, reduction="sum") / max(1, len(labels))


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
