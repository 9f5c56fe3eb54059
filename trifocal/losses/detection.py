"""Losses of the bundled detector: boxes, and the soft class scores of a teacher.

scores: class scores of each grid point; the target is the IoU of its box (Li et al. 2020, "Generalized focal
    loss"), mixed with the teacher's scores
boxes:  generalised IoU of the grid points that are assigned to an object (Feng et al. 2021, "TOOD", section
3.3)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_area, box_iou, generalized_box_iou_loss

from trifocal.detection.proposals import BINS, DensePredictions

TEACHER_SHARE = 0.5  # of the target of a class score, in images with boxes
POINTS_PER_OBJECT, IOU_POWER = (
    10,
    6.0,
)  # grid points per object; TOOD's alignment metric is score · IoU^IOU_POWER


@dataclass(frozen=True)
class TeacherDetections:
    """A teacher's outputs for one image.

    Attributes:
        boxes: candidates before non-maximum suppression, x0, y0, x1, y1 in pixels, [N, 4].
        scores: class scores of the boxes, 0..1, [N, K].
        maps: class scores at each position, by pyramid level, finest first, each [K, h, w].
    """

    boxes: Tensor
    scores: Tensor
    maps: tuple[Tensor, ...]

    def to(self, device: torch.device | str) -> "TeacherDetections":
        return TeacherDetections(
            self.boxes.to(device), self.scores.to(device), tuple(t.to(device) for t in self.maps)
        )


@dataclass(frozen=True)
class Target:
    """The objects in one image.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels, [N, 4].
        labels: from 1, [N].
        certain: False if a teacher detected them.
    """

    boxes: Tensor
    labels: Tensor
    certain: bool = True

    def to(self, device: torch.device | str) -> "Target":
        return Target(self.boxes.to(device), self.labels.to(device), self.certain)


def detection_losses(
    dense: DensePredictions, targets: Sequence[Target], maps: Tensor | None = None
) -> dict[str, Tensor]:
    """The scalar terms "scores" and "boxes".

    The target of a class score is the IoU of the grid point's box and the object that it is assigned to, and
    0 elsewhere. With a teacher it is the mean of that and the teacher's score, or the teacher's score alone
    for uncertain targets.

    Args:
        dense: outputs of the detector for B images.
        targets: their objects.
        maps: the teacher's class scores at each grid point, [B, A, K], or None.
    """
    wanted = torch.zeros_like(dense.classes)
    found, true = [], []
    for number, target in enumerate(targets):
        scores = dense.classes[number].detach().sigmoid()
        points, objects = assign_grid_points(target, scores, dense.boxes[number].detach(), dense.points)
        found.append(dense.boxes[number, points])
        true.append(target.boxes[objects])
        wanted[number, points, target.labels[objects] - 1] = paired_iou(found[-1].detach(), true[-1])
        if maps is not None:
            wanted[number] = torch.lerp(
                wanted[number], maps[number].to(wanted), TEACHER_SHARE if target.certain else 1.0
            )
    all_found, all_true = torch.cat(found), torch.cat(true)
    return {
        "scores": quality_focal_loss(dense.classes, wanted) / max(1, len(all_true)),
        "boxes": box_loss(all_found, all_true),
    }


def assign_grid_points(
    target: Target, scores: Tensor, boxes: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Assign grid points to objects: of the grid points inside an object's box the POINTS_PER_OBJECT with the
    best alignment of score and IoU.

    A grid point that is chosen for several objects is assigned to the one with the largest IoU.

    Args:
        target: the objects of an image.
        scores: class scores, 0..1, [A, K].
        boxes: predicted boxes, [A, 4].
        points: x, y and stride of the grid points, [A, 3].

    Returns:
        Indices of grid points, and of the objects that they are assigned to, [N] each.
    """
    if not len(target.boxes):
        empty = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return empty, empty
    x, y = points[:, 0], points[:, 1]
    left, top, right, bottom = target.boxes.T[:, :, None]
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    overlap = box_iou(target.boxes, boxes)
    alignment = scores.T[target.labels - 1] * overlap**IOU_POWER * inside
    best, indices = alignment.topk(min(POINTS_PER_OBJECT, len(boxes)), dim=1)
    candidates = torch.zeros_like(overlap).scatter_(1, indices, overlap.gather(1, indices) * (best > 0))
    largest, objects = candidates.max(0)
    chosen = torch.nonzero(largest > 0)[:, 0]
    return chosen, objects[chosen]


def teacher_score_maps(seen: Sequence[TeacherDetections], pyramid: dict[str, Tensor]) -> Tensor:
    """The teacher's class scores at each grid point of all pyramid levels, [B, A, K]."""
    levels = zip(zip(*(s.maps for s in seen), strict=True), pyramid.values(), strict=True)
    return torch.cat([resized(maps, level).flatten(2).transpose(1, 2) for maps, level in levels], 1)


def quality_focal_loss(logits: Tensor, quality: Tensor) -> Tensor:
    """Binary cross-entropy with a quality in 0..1, weighted by the squared error, summed (Li et al. 2020,
    equation 3)."""
    error = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return ((quality - logits.detach().sigmoid()).square() * error).sum()


def box_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """1 − generalised IoU (Rezatofighi et al. 2019), [N, 4] twice → the mean, 0 for no boxes."""
    loss: Tensor = generalized_box_iou_loss(found, wanted, reduction="sum")
    return loss / max(1, len(found))


def paired_iou(found: Tensor, wanted: Tensor) -> Tensor:
    """The IoU of each pair of boxes, [N, 4] twice → [N]."""
    both = (torch.minimum(found[:, 2:], wanted[:, 2:]) - torch.maximum(found[:, :2], wanted[:, :2])).clamp(
        min=0
    )
    shared = both.prod(1)
    return shared / (box_area(found) + box_area(wanted) - shared).clamp(min=1e-6)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy above its minimum, summed over classes, mean over positions: [B, K, h, w] twice →
    scalar."""
    return excess_cross_entropy(logits, target).sum() / target[:, 0].numel()


def excess_cross_entropy(logits: Tensor, p: Tensor) -> Tensor:
    """Elementwise binary cross-entropy of logits with probabilities p, above its minimum."""
    return F.binary_cross_entropy_with_logits(logits, p, reduction="none") - entropy(p)


def grid_point_errors(
    scores: Tensor, bins: Tensor, teacher_scores: Tensor, teacher_bins: Tensor
) -> tuple[Tensor, Tensor]:
    """The errors of a detector's outputs at grid points against a teacher's.

    Args:
        scores, teacher_scores: class logits, [..., K].
        bins, teacher_bins: logits of the distributions of the four box distances, [..., 4·BINS].

    Returns:
        Cross-entropy of the classes above its minimum + confidence · divergence of the distances, [...]; and
        the confidence, the teacher's largest class score, [...].
    """
    p = teacher_scores.sigmoid()
    confidence = p.amax(-1)
    classes = excess_cross_entropy(scores, p).sum(-1)
    own, true = (part.unflatten(-1, (4, BINS)).log_softmax(-1) for part in (bins, teacher_bins))
    distances = F.kl_div(own, true, reduction="none", log_target=True).sum(-1).mean(-1)
    return classes + confidence * distances, confidence


def entropy(p: Tensor) -> Tensor:
    """The binary entropy of each probability, in nats."""
    return -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p)


def resized(maps: Sequence[Tensor], like: Tensor) -> Tensor:
    """A teacher's maps of images resized to a square, [C, h, w] each, resampled to the positions of a pyramid
    level."""
    stacked = torch.stack(list(maps)).to(like.dtype)
    return F.interpolate(stacked, size=like.shape[2:], mode="bilinear", align_corners=False)
