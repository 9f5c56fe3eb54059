"""What the compact detector learns from: boxes, and a teacher's soft scores.

scores: of each class at each place, as sure as the place's box will fit (Li et al. 2020, "Generalized focal loss"), and the teacher's
boxes:  of the places that suit an object best (Feng et al. 2021, "TOOD", section 3.3), by generalised overlap
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_area, box_iou, generalized_box_iou_loss

from trifocal.detection.proposals import BINS, DensePredictions

TEACHER_SHARE = 0.5  # of a target, where there are boxes as well
PLACES, FIT = 10, 6.0  # that learn each box, and the power of how well theirs fits, beside how sure they are


@dataclass(frozen=True)
class Seen:
    """What a teacher says of one picture.

    Attributes:
        boxes: its candidates, before any suppression, x0, y0, x1, y1 in the picture's pixels, [N, 4].
        scores: of each class, 0..1, [N, K].
        maps: scores at each place, by level of the pyramid, finest first, each [K, h, w].
    """

    boxes: Tensor
    scores: Tensor
    maps: tuple[Tensor, ...]

    def to(self, device: torch.device | str) -> "Seen":
        return Seen(self.boxes.to(device), self.scores.to(device), tuple(t.to(device) for t in self.maps))


@dataclass(frozen=True)
class Target:
    """What is true of one picture: boxes [N, 4] in its pixels, labels [N] from 1; `certain` is False where a teacher said it."""

    boxes: Tensor
    labels: Tensor
    certain: bool = True

    def to(self, device: torch.device | str) -> "Target":
        return Target(self.boxes.to(device), self.labels.to(device), self.certain)


def detection_losses(
    first: DensePredictions, targets: Sequence[Target], maps: Tensor | None = None
) -> dict[str, Tensor]:
    """The terms "scores" and "boxes".

    A place's score is to be the overlap of its box with the true one, of that one's class, which is 0 for all but the places of
    an object; or half of that and half of what the teacher says; or that alone, where it is all that is known.

    Args:
        first: what the detector says of pictures. targets: what is true of each.
        maps: what the teacher says at each place, [B, A, K].
    """
    wanted = torch.zeros_like(first.classes)
    found, true = [], []
    for number, target in enumerate(targets):
        sure = first.classes[number].detach().sigmoid()
        there, whose = places_of(target, sure, first.boxes[number].detach(), first.points)
        found.append(first.boxes[number, there])
        true.append(target.boxes[whose])
        wanted[number, there, target.labels[whose] - 1] = paired_iou(found[-1].detach(), true[-1])
        if maps is not None:
            wanted[number] = torch.lerp(
                wanted[number], maps[number], TEACHER_SHARE if target.certain else 1.0
            )
    all_found, all_true = torch.cat(found), torch.cat(true)
    return {
        "scores": quality_focal_loss(first.classes, wanted) / max(1, len(all_true)),
        "boxes": box_loss(all_found, all_true),
    }


def places_of(target: Target, sure: Tensor, boxes: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Which places learn which box: of those inside of it the PLACES that are surest of its class and whose own box fits best; a
    place of several boxes is of the one that it fits best.

    Scores [A, K], boxes [A, 4], places [A, 3] → places and numbers of boxes, [N] each.
    """
    if not len(target.boxes):
        nowhere = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return nowhere, nowhere
    x, y = places[:, 0], places[:, 1]
    left, top, right, bottom = target.boxes.T[:, :, None]
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    overlap = box_iou(target.boxes, boxes)
    suits = sure.T[target.labels - 1] * overlap**FIT * inside
    best, where = suits.topk(min(PLACES, len(boxes)), dim=1)
    taken = torch.zeros_like(overlap).scatter_(1, where, overlap.gather(1, where) * (best > 0))
    fit, whose = taken.max(0)
    there = torch.nonzero(fit > 0)[:, 0]
    return there, whose[there]


def maps_of(seen: Sequence[Seen], pyramid: dict[str, Tensor]) -> Tensor:
    """What the teacher says at each place of all levels, [B, A, K]."""
    levels = zip(zip(*(s.maps for s in seen), strict=True), pyramid.values(), strict=True)
    return torch.cat([resized(maps, level).flatten(2).transpose(1, 2) for maps, level in levels], 1)


def quality_focal_loss(logits: Tensor, quality: Tensor) -> Tensor:
    """Binary cross-entropy with a quality of 0..1, weighted by how far off it is squared, summed (Li et al. 2020, eq. 3)."""
    error = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return ((quality - logits.detach().sigmoid()).square() * error).sum()


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
    return excess_cross_entropy(logits, target).sum() / target[:, 0].numel()


def excess_cross_entropy(logits: Tensor, p: Tensor) -> Tensor:
    """Binary, of each logit with its own probability, less its least value."""
    return F.binary_cross_entropy_with_logits(logits, p, reduction="none") - entropy(p)


def place_errors(
    scores: Tensor, bins: Tensor, true_scores: Tensor, true_bins: Tensor
) -> tuple[Tensor, Tensor]:
    """What a detector says of places against what a teacher says of them: scores [..., K] and the distances' distributions
    [..., 4·BINS], logits. Cross-entropy of the classes less its least value, and the divergence of the distances as much as there
    is something; and how sure the teacher is of that, both [...]."""
    p = true_scores.sigmoid()
    sure = p.amax(-1)
    classes = excess_cross_entropy(scores, p).sum(-1)
    own, true = (part.unflatten(-1, (4, BINS)).log_softmax(-1) for part in (bins, true_bins))
    distances = F.kl_div(own, true, reduction="none", log_target=True).sum(-1).mean(-1)
    return classes + sure * distances, sure


def entropy(p: Tensor) -> Tensor:
    """Of a choice between two, in nats, for each probability."""
    return -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p)


def resized(maps: Sequence[Tensor], like: Tensor) -> Tensor:
    """Maps of a teacher that saw the picture stretched, [C, h, w] each, at the places of a pyramid's level."""
    stacked = torch.stack(list(maps)).to(like.dtype)
    return F.interpolate(stacked, size=like.shape[2:], mode="bilinear", align_corners=False)
