"""Detectors that are split in two, so that a base layer can code the features in between.

    image ── resize ── x ── front ── h ─┬─ rest: pyramid ── proposals ── boxes, labels, scores
                                        │
              base layer ── bytes ── h_hat

There are two. One is torchvision's Faster R-CNN (Ren et al. 2015) with ResNet-50 and FPN, split after
`layer1` (Shen et al., "Dual-layer image codec", section III-B). The other is a small detector of 3.4 M
parameters. Its first stage predicts a box and class scores at each grid point, and its second stage refines
them. h is channels-last, like all latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection as tv
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork

from trifocal.detection.backbone import CHANNELS, DEVIATION, MEAN, CompactDetectorFront, make_stage, normalise
from trifocal.detection.detections import Detections
from trifocal.detection.input_size import COCO_IDS, compact_size, torchvision_size
from trifocal.detection.proposals import CompactProposals
from trifocal.detection.pyramid import Pyramid
from trifocal.detection.roi_head import RoiFeatures, RoiPredictor
from trifocal.detection.two_stage import Predict, predict_compact, predict_torchvision, to_image_list
from trifocal.weights import WEIGHTS_FOLDER, load_weights

PYRAMID_CHANNELS = 96  # of the compact detector


class DetectorRest(nn.Module, ABC):
    """The backbone after the split and the pyramid: h [B, H/s, W/s, C] → levels by name, [B, P, h, w]."""

    @abstractmethod
    def backbone_features(self, h: Tensor) -> list[Tensor]:
        """The inputs of the pyramid, [B, h, w, C'] each; the first is h."""

    @abstractmethod
    def pyramid_levels(self, stages: Sequence[Tensor]) -> dict[str, Tensor]:
        """The levels of the pyramid from its inputs."""

    def forward(self, h: Tensor) -> dict[str, Tensor]:
        return self.pyramid_levels(self.backbone_features(h))


class SplitBackbone(nn.Module):
    """A backbone with a pyramid, split in two.

    Args:
        front: x [B, 3, H, W], normalise → h [B, H/s, W/s, C].
        rest: h → the pyramid by name, each [B, P, h, w].
        channels: C. stride: s. out_channels: P.
    """

    def __init__(
        self, front: nn.Module, rest: DetectorRest, channels: int, stride: int, out_channels: int
    ) -> None:
        super().__init__()
        self.front, self.rest = front, rest
        self.channels, self.stride, self.out_channels = channels, stride, out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        pyramid: dict[str, Tensor] = self.rest(self.front(x))
        return pyramid


class SplitDetector(nn.Module):
    """A torchvision Faster R-CNN with a `SplitBackbone`.

    Args:
        network: the Faster R-CNN.
        categories: COCO ids of the network's labels 1, 2, …
        input_size: width and height of an image → those of the input; by default torchvision's, by the
            network's limits.
        predict: the stages after the pyramid; by default torchvision's.
    """

    def __init__(
        self,
        network: tv.FasterRCNN,
        categories: Sequence[int],
        input_size: Callable[[int, int], tuple[int, int]] | None = None,
        predict: Predict = predict_torchvision,
    ) -> None:
        super().__init__()
        self.network = network
        self.predict = predict
        self.categories = tuple(categories)
        short_side, max_side = network.transform.min_size[-1], network.transform.max_size
        self.input_size = input_size or partial(torchvision_size, least=short_side, most=max_side)

    @property
    def backbone(self) -> SplitBackbone:
        backbone = self.network.backbone
        assert isinstance(backbone, SplitBackbone)
        return backbone

    def front_features(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] in 0..1 → h [B, H/s, W/s, C]; H and W are zero-padded like torchvision's."""
        transform = self.network.transform
        normal = normalise(x, transform.image_mean, transform.image_std)
        step = transform.size_divisible
        h: Tensor = self.backbone.front(F.pad(normal, (0, -x.shape[3] % step, 0, -x.shape[2] % step)))
        return h

    def detect_from_features(self, h: Tensor, size: tuple[int, int]) -> list[Detections]:
        """h [B, h, w, C] of images of that height and width → their objects, in their pixels."""
        outputs = self.predict(self.network, self.image_list(h, size), self.backbone.rest(h))
        ids = np.array((0, *self.categories), np.int64)
        arrays = ([o[key].detach().cpu().numpy() for key in ("boxes", "labels", "scores")] for o in outputs)
        return [
            Detections(boxes.astype(np.float64), ids[labels], scores.astype(np.float64))
            for boxes, labels, scores in arrays
        ]

    def image_list(self, h: Tensor, size: tuple[int, int] | None = None) -> ImageList:
        """The images that belong to h, for torchvision's modules, which need only their sizes."""
        sides = (self.backbone.stride * side for side in h.shape[1:3])
        return to_image_list(h.new_zeros(1).expand(len(h), 3, *sides), size)

    def forward(self, x: Tensor) -> list[Detections]:
        """x [B, 3, H, W] in 0..1 → the objects in each image: `detect_from_features` of `front_features`."""
        return self.detect_from_features(self.front_features(x), (x.shape[2], x.shape[3]))


class CompactDetectorRest(DetectorRest):
    """The stages at 1/16 and 1/32, and the pyramid: h [B, H/8, W/8, 96] → levels "0" to "3", 1/8 to 1/64."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.last = make_stage(1), make_stage(2)
        self.pyramid = Pyramid(CHANNELS[1:], PYRAMID_CHANNELS)

    def backbone_features(self, h: Tensor) -> list[Tensor]:
        middle = self.middle(h)
        return [h, middle, self.last(middle)]

    def pyramid_levels(self, stages: Sequence[Tensor]) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.pyramid(stages)
        return levels


def compact_detector() -> SplitDetector:
    """The network of the bundled detector, with untrained weights."""
    backbone = SplitBackbone(CompactDetectorFront(), CompactDetectorRest(), CHANNELS[1], 8, PYRAMID_CHANNELS)
    network = tv.FasterRCNN(
        backbone,
        image_mean=MEAN,
        image_std=DEVIATION,
        box_head=RoiFeatures(PYRAMID_CHANNELS),
        box_predictor=RoiPredictor(len(COCO_IDS)),
        box_score_thresh=0.02,
    )
    network.rpn = CompactProposals(PYRAMID_CHANNELS, len(COCO_IDS))
    return SplitDetector(network, COCO_IDS, compact_size, predict_compact)


class ResNetDetectorFront(nn.Module):
    """The stem and `layer1` of a ResNet: x [B, 3, H, W], normalised → h [B, H/4, W/4, 256]."""

    def __init__(self, body: nn.ModuleDict) -> None:
        super().__init__()
        self.stem = nn.Sequential(*[body[n] for n in ("conv1", "bn1", "relu", "maxpool", "layer1")])

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.stem(x)
        return h.permute(0, 2, 3, 1)


class ResNetDetectorRest(DetectorRest):
    """`layer2` to `layer4` of a ResNet, and the pyramid: h [B, H/4, W/4, 256] → levels by name."""

    def __init__(self, body: nn.ModuleDict, pyramid: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.layers = nn.ModuleList([body[n] for n in ("layer2", "layer3", "layer4")])
        self.pyramid = pyramid

    def backbone_features(self, h: Tensor) -> list[Tensor]:
        stages = [h]
        for layer in self.layers:
            stages.append(layer(stages[-1].permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return stages

    def pyramid_levels(self, stages: Sequence[Tensor]) -> dict[str, Tensor]:
        named = OrderedDict((name, stage.permute(0, 3, 1, 2)) for name, stage in zip("0123", stages))
        levels: dict[str, Tensor] = self.pyramid(named)
        return levels


def split_faster_rcnn(network: tv.FasterRCNN) -> SplitDetector:
    """Split a torchvision Faster R-CNN with ResNet and FPN after `layer1`, in place."""
    body, pyramid = network.backbone.body, network.backbone.fpn
    backbone = SplitBackbone(
        ResNetDetectorFront(body), ResNetDetectorRest(body, pyramid), 256, 4, pyramid_channels(pyramid)
    )
    network.backbone = backbone
    return SplitDetector(network, range(1, 91))


def pyramid_channels(pyramid: FeaturePyramidNetwork) -> int:
    """Channels of each level."""
    return int(pyramid.layer_blocks[0][0].out_channels)


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def load_detector(device: str = "cpu") -> SplitDetector:
    """The frozen bundled detector with its trained weights.

    Raises WeightsError if they are missing or damaged.
    """
    detector = compact_detector()
    load_weights(detector, WEIGHTS_FOLDER / "detector.safetensors")
    return detector.to(device).eval().requires_grad_(False)
