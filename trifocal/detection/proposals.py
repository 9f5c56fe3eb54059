"""The first stage of the bundled detector: class scores and a box at each grid point.

    level ── separable ── separable ── linear ─┬─ class logits
                                               └─ distances to the four sides, each a distribution over BINS

A region proposal network (Ren et al. 2015, section 3.1) without anchors that also predicts classes, as
one-stage detectors do (Tian et al. 2019; Li et al. 2020, "Generalized focal loss"; Yu et al. 2021, arXiv
2111.00902).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms

from trifocal.detection.pyramid import STRIDES, SeparableConv, init_for_hardswish

__all__ = ["BINS", "CompactProposals", "DensePredictions", "LevelHead", "decode_distances", "grid_points"]

BINS = 8  # of a distance, in strides: 0, 1, …
NMS_OVERLAP = 0.8  # intersection over union above which only the better of two proposals is kept
BEFORE_NMS, AFTER_NMS = 400, 100  # maximum numbers of proposals per image
MIN_PROBABILITY = 1e-3  # of a proposal
PRIOR_LOGIT = -4.6  # probability 0.01: nearly all grid points are background (Lin et al. 2017, section 4.1)


@dataclass(frozen=True)
class DensePredictions:
    """Predictions at A grid points of each of B images.

    Attributes:
        classes: logits, [B, A, K].
        boxes: x0, y0, x1, y1 in pixels, [B, A, 4].
        bins: logits of the distributions of the distances from which the boxes are decoded, [B, A, 4·BINS].
        points: x, y and stride in pixels, [A, 3]; see `grid_points`.
    """

    classes: Tensor
    boxes: Tensor
    bins: Tensor
    points: Tensor

    @property
    def objectness(self) -> Tensor:
        """Logits of the most probable class, [B, A]."""
        return self.classes.amax(2)

    def gather(self, indices: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [N, K], boxes [N, 4] and points [N, 3] at the indices for each image, concatenated."""
        classes, boxes = (
            torch.cat([own[where] for own, where in zip(values, indices, strict=True)])
            for values in (self.classes, self.boxes)
        )
        return classes, boxes, self.points[torch.cat(list(indices))]

    def select(self, number: int, size: tuple[int, int]) -> Tensor:
        """Indices of the proposals of one image of that height and width, by descending probability, [N]."""
        probability = self.objectness[number].detach().sigmoid()
        highest, where = probability.topk(min(BEFORE_NMS, len(probability)))
        where = where[highest > MIN_PROBABILITY]
        boxes = clip_boxes_to_image(self.boxes[number, where].detach(), size)
        return where[nms(boxes, probability[where], NMS_OVERLAP)[:AFTER_NMS]]


class LevelHead(nn.Module):
    """One level [B, H, W, C] → K class logits and 4·BINS logits of distances: [B, H, W, K + 4·BINS]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = SeparableConv(channels), SeparableConv(channels)
        self.say = nn.Linear(channels, classes + 4 * BINS)
        init_for_hardswish(self.first)
        init_for_hardswish(self.second)
        nn.init.constant_(self.say.bias[:classes], PRIOR_LOGIT)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.say(self.second(self.first(x)))
        return y


class CompactProposals(nn.Module):
    """Levels of a pyramid, [B, C, h, w] each → `DensePredictions`."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.levels = nn.ModuleList([LevelHead(channels, classes) for _ in STRIDES])

    def forward(self, pyramid: dict[str, Tensor]) -> DensePredictions:
        levels = zip(self.levels, pyramid.values(), strict=True)
        return self.dense([head(level.permute(0, 2, 3, 1)) for head, level in levels])

    def dense(self, outputs: Sequence[Tensor]) -> DensePredictions:
        """The outputs of all level heads, [B, h, w, K + 4·BINS] each, concatenated and decoded."""
        points = torch.cat(
            [
                grid_points(own.shape[1:3], stride).to(own.device)
                for own, stride in zip(outputs, STRIDES, strict=True)
            ]
        )
        flat = torch.cat([own.flatten(1, 2).float() for own in outputs], 1)  # box coordinates need 32 bits
        scores, bins = flat.split([self.classes, 4 * BINS], dim=2)
        return DensePredictions(scores, decode_distances(bins, points), bins, points)


def grid_points(sides: Sequence[int], stride: int) -> Tensor:
    """The grid points of a level of height and width `sides`: x, y and stride in pixels, [h·w, 3]."""
    rows, columns = (torch.arange(side) * stride + (stride - 1) / 2 for side in sides)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y, torch.full_like(x, stride)], dim=2).flatten(0, 1)


def decode_distances(bins: Tensor, points: Tensor) -> Tensor:
    """Logits of the distances to the left, top, right and bottom sides, [B, A, 4·BINS] → boxes [B, A, 4]."""
    share = bins.unflatten(2, (4, BINS)).softmax(3)
    distances = (share @ torch.arange(BINS, device=bins.device, dtype=bins.dtype)) * points[:, 2:]
    middle = points[:, :2]
    return torch.cat([middle - distances[..., :2], middle + distances[..., 2:]], dim=2)
