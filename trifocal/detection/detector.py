"""Detectors that can be fed in their middle: `front` makes of a picture what the base layer codes, `rest` finds the objects.

    picture ── resize ── x ── front ── h ─┬─ rest: pyramid ── proposals ── boxes, labels, scores
                                          │
                base layer ── bytes ── h_hat

Two of them: torchvision's Faster R-CNN (Ren et al. 2015) with ResNet-50 and a feature pyramid, cut after `layer1` (Shen et al.,
"Dual-layer image codec", section III-B), with COCO weights that torchvision fetches; and a compact one of 3.4 M parameters in the same
frame, whose first stage says box and class of each place, and whose second corrects both. h is channels-last, as every latent of the house.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection as tv
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork

from trifocal.detection.backbone import CHANNELS, DEVIATION, MEAN, CompactDetectorStem, normalised, stage
from trifocal.detection.input_size import COCO_IDS, compact_size, torchvision_size
from trifocal.detection.proposals import CompactProposals
from trifocal.detection.pyramid import Pyramid
from trifocal.detection.roi_head import Correction, RegionHead
from trifocal.detection.two_stage import Find, find_corrected, find_once, framed
from trifocal.weights import FOLDER, load_weights

PYRAMID = 96  # channels of the compact detector's pyramid


@dataclass(frozen=True)
class Detections:
    """Objects in an image: boxes [N, 4] as x0 y0 x1 y1 in its pixels, COCO category ids [N], scores [N] in 0..1.

    `trifocal.detect` also gives their N names.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        names = self.names or [f"category {label}" for label in self.labels.tolist()]
        shown = [f"{name} {score:.2f}" for name, score in zip(names, self.scores.tolist())][:5]
        return f"<Detections {len(self)}: {', '.join(shown)}{', ...' if len(self) > 5 else ''}>"


class DetectorTail(nn.Module, ABC):
    """What stands behind a split: h [B, H/s, W/s, C] → the pyramid by name, each [B, P, h, w]."""

    @abstractmethod
    def stages(self, h: Tensor) -> list[Tensor]:
        """What the pyramid is made of, each [B, h, w, C']; the first is h."""

    @abstractmethod
    def levels(self, stages: Sequence[Tensor]) -> dict[str, Tensor]:
        """The pyramid of these stages."""

    def forward(self, h: Tensor) -> dict[str, Tensor]:
        return self.levels(self.stages(h))


class SplitBackbone(nn.Module):
    """A backbone with a pyramid, in two halves.

    Args:
        front: x [B, 3, H, W], normalised → h [B, H/s, W/s, C].
        rest: h → the pyramid by name, each [B, P, h, w].
        channels: C. stride: s. out_channels: P.
    """

    def __init__(
        self, front: nn.Module, rest: DetectorTail, channels: int, stride: int, out_channels: int
    ) -> None:
        super().__init__()
        self.front, self.rest = front, rest
        self.channels, self.stride, self.out_channels = channels, stride, out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        pyramid: dict[str, Tensor] = self.rest(self.front(x))
        return pyramid


class SplitDetector(nn.Module):
    """A Faster R-CNN of torchvision's whose backbone is a `SplitBackbone`.

    Args:
        network: it.
        categories: COCO's ids of the network's labels 1, 2, …
        looked_at: a picture's width and height → those at which the detector looks at it; None for torchvision's own.
        find: what makes boxes of the pyramid; torchvision's own two stages, unless another is named.
    """

    def __init__(
        self,
        network: tv.FasterRCNN,
        categories: Sequence[int],
        looked_at: Callable[[int, int], tuple[int, int]] | None = None,
        find: Find = find_once,
    ) -> None:
        super().__init__()
        self.network = network
        self.find = find
        self.categories = tuple(categories)
        least, most = network.transform.min_size[-1], network.transform.max_size
        self.looked_at = looked_at or partial(torchvision_size, least=least, most=most)

    @property
    def backbone(self) -> SplitBackbone:
        backbone = self.network.backbone
        assert isinstance(backbone, SplitBackbone)
        return backbone

    def front(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] in 0..1 → h [B, H/s, W/s, C]; H and W are filled up as torchvision does it."""
        transform = self.network.transform
        normal = normalised(x, transform.image_mean, transform.image_std)
        step = transform.size_divisible
        h: Tensor = self.backbone.front(F.pad(normal, (0, -x.shape[3] % step, 0, -x.shape[2] % step)))
        return h

    def rest(self, h: Tensor, size: tuple[int, int]) -> list[Detections]:
        """h [B, h, w, C] of pictures of that height and width → what is in them, in their pixels."""
        found = self.find(self.network, self.framed(h, size), self.backbone.rest(h))
        ids = torch.tensor((0, *self.categories), device=h.device)
        return [Detections(f["boxes"], ids[f["labels"]], f["scores"]) for f in found]

    def framed(self, h: Tensor, size: tuple[int, int] | None = None) -> ImageList:
        """The pictures that h is of, as torchvision's parts want them: their sizes alone."""
        sides = (self.backbone.stride * side for side in h.shape[1:3])
        return framed(h.new_zeros(1).expand(len(h), 3, *sides), size)

    def forward(self, x: Tensor) -> list[Detections]:
        """x [B, 3, H, W] in 0..1 → what is in them: `rest` of `front`."""
        return self.rest(self.front(x), (x.shape[2], x.shape[3]))


class CompactDetectorTail(DetectorTail):
    """The stages at 1/16 and 1/32, and the pyramid: h [B, H/8, W/8, 96] → {"0".."3"}, 1/8 to 1/64."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.last = stage(1), stage(2)
        self.pyramid = Pyramid(CHANNELS[1:], PYRAMID)

    def stages(self, h: Tensor) -> list[Tensor]:
        middle = self.middle(h)
        return [h, middle, self.last(middle)]

    def levels(self, stages: Sequence[Tensor]) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.pyramid(stages)
        return levels


def compact_detector() -> SplitDetector:
    """With untrained weights."""
    backbone = SplitBackbone(CompactDetectorStem(), CompactDetectorTail(), CHANNELS[1], 8, PYRAMID)
    network = tv.FasterRCNN(
        backbone,
        image_mean=MEAN,
        image_std=DEVIATION,
        box_head=RegionHead(PYRAMID),
        box_predictor=Correction(len(COCO_IDS)),
        box_score_thresh=0.02,
    )
    network.rpn = CompactProposals(PYRAMID, len(COCO_IDS))
    return SplitDetector(network, COCO_IDS, compact_size, find_corrected)


class ResNetDetectorStem(nn.Module):
    """ResNet's stem and `layer1`: x → h [B, H/4, W/4, 256]."""

    def __init__(self, body: nn.ModuleDict) -> None:
        super().__init__()
        self.stem = nn.Sequential(*[body[n] for n in ("conv1", "bn1", "relu", "maxpool", "layer1")])

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.stem(x)
        return h.permute(0, 2, 3, 1)


class ResNetDetectorTail(DetectorTail):
    """`layer2` to `layer4` and the pyramid."""

    def __init__(self, body: nn.ModuleDict, pyramid: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.layers = nn.ModuleList([body[n] for n in ("layer2", "layer3", "layer4")])
        self.pyramid = pyramid

    def stages(self, h: Tensor) -> list[Tensor]:
        stages = [h]
        for layer in self.layers:
            stages.append(layer(stages[-1].permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return stages

    def levels(self, stages: Sequence[Tensor]) -> dict[str, Tensor]:
        named = OrderedDict((name, stage.permute(0, 3, 1, 2)) for name, stage in zip("0123", stages))
        levels: dict[str, Tensor] = self.pyramid(named)
        return levels


def split_faster_rcnn(network: tv.FasterRCNN) -> SplitDetector:
    """torchvision's Faster R-CNN with a ResNet and a pyramid, cut after `layer1`. The network is not copied: it is cut."""
    body, pyramid = network.backbone.body, network.backbone.fpn
    backbone = SplitBackbone(
        ResNetDetectorStem(body), ResNetDetectorTail(body, pyramid), 256, 4, pyramid_channels(pyramid)
    )
    network.backbone = backbone
    return SplitDetector(network, range(1, 91))


def pyramid_channels(pyramid: FeaturePyramidNetwork) -> int:
    return int(pyramid.layer_blocks[0][0].out_channels)


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def load_detector(device: str = "cpu") -> SplitDetector:
    """The compact detector with its trained weights, frozen. Raises WeightsError if they are missing or damaged."""
    detector = compact_detector()
    load_weights(detector, FOLDER / "detector.safetensors")
    return detector.to(device).eval().requires_grad_(False)
