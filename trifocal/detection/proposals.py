"""The compact detector's head: at each place of each level of the pyramid one box, and how sure of each class.

    level ── separable ── separable ── linear ─┬─ scores of the classes, logits
                                               └─ distances to the four sides, each a distribution over BINS

A region proposal network (Ren et al. 2015, section 3.1) without anchors, which says the class as well, as one-stage detectors do
(Tian et al. 2019; Li et al. 2020, "Generalized focal loss"; Yu et al. 2021, arXiv 2111.00902).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms

from trifocal.detection.pyramid import STRIDES, Separable, awake

__all__ = ["BINS", "CompactProposals", "Dense", "LevelHead", "places"]

BINS = 8  # of a distance, in strides: 0, 1, …
OVERLAP = 0.8  # of two proposals that share more of their union, the better one stays
BEFORE, AFTER = 400, 100  # proposals of a picture, before and after that
LEAST = 1e-3  # of how sure a proposal is
RARE = -4.6  # the logit of 0.01: at nearly every place is nothing (Lin et al. 2017, section 4.1)


@dataclass(frozen=True)
class Dense:
    """What it says at A places of each of B pictures.

    Attributes:
        classes: logits, [B, A, K].
        boxes: x0, y0, x1, y1 in pixels, [B, A, 4].
        bins: what they are made of, the distributions of the distances, logits, [B, A, 4·BINS].
        places: where that is: x and y of the place's middle, and its level's stride, in pixels, [A, 3].
    """

    classes: Tensor
    boxes: Tensor
    bins: Tensor
    places: Tensor

    @property
    def objectness(self) -> Tensor:
        """Logits, [B, A]: of the class that is there most surely."""
        return self.classes.amax(2)

    def at(self, places: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [N, K] and boxes [N, 4] at those places of each picture, all in one, and the places [N, 3]."""
        classes, boxes = (
            torch.cat([own[where] for own, where in zip(said, places, strict=True)])
            for said in (self.classes, self.boxes)
        )
        return classes, boxes, self.places[torch.cat(list(places))]

    def chosen(self, number: int, size: tuple[int, int]) -> Tensor:
        """Which places of a picture of that height and width are looked at further, the surest first, [N]."""
        sure = self.objectness[number].detach().sigmoid()
        best, where = sure.topk(min(BEFORE, len(sure)))
        where = where[best > LEAST]
        boxes = clip_boxes_to_image(self.boxes[number, where].detach(), size)
        return where[nms(boxes, sure[where], OVERLAP)[:AFTER]]


class LevelHead(nn.Module):
    """A level [B, H, W, C] → of each place K scores, logits, and 4·BINS of the distances: [B, H, W, K + 4·BINS]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = Separable(channels), Separable(channels)
        self.say = nn.Linear(channels, classes + 4 * BINS)
        awake(self.first)
        awake(self.second)
        nn.init.constant_(self.say.bias[:classes], RARE)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.say(self.second(self.first(x)))
        return said


class CompactProposals(nn.Module):
    """Levels of a pyramid, [B, C, h, w] each → `Dense`. A level at 1/s has the places that a picture of its size has."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.levels = nn.ModuleList([LevelHead(channels, classes) for _ in STRIDES])

    def forward(self, pyramid: dict[str, Tensor]) -> Dense:
        levels = zip(self.levels, pyramid.values(), strict=True)
        return self.dense([head(level.permute(0, 2, 3, 1)) for head, level in levels])

    def dense(self, said: Sequence[Tensor]) -> Dense:
        """What its heads say of the levels, each [B, h, w, K + 4·BINS], as one."""
        where = [
            places(own.shape[1:3], stride).to(own.device) for own, stride in zip(said, STRIDES, strict=True)
        ]
        flat = torch.cat([own.flatten(1, 2).float() for own in said], 1)  # boxes need their digits
        scores, bins = flat.split([self.classes, 4 * BINS], dim=2)
        middles = torch.cat(where)
        return Dense(scores, boxes_of(bins, middles), bins, middles)


def places(sides: Sequence[int], stride: int) -> Tensor:
    """Of a level of that height and width, row by row: x and y of each place's middle, and the stride, [h·w, 3]."""
    rows, columns = (torch.arange(side) * stride + (stride - 1) / 2 for side in sides)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y, torch.full_like(x, stride)], dim=2).flatten(0, 1)


def boxes_of(bins: Tensor, where: Tensor) -> Tensor:
    """Of distances to the left, top, right and bottom, [B, A, 4·BINS] logits → boxes [B, A, 4]."""
    share = bins.unflatten(2, (4, BINS)).softmax(3)
    receptive_field = (share @ torch.arange(BINS, device=bins.device, dtype=bins.dtype)) * where[:, 2:]
    middle = where[:, :2]
    return torch.cat([middle - receptive_field[..., :2], middle + receptive_field[..., 2:]], dim=2)
