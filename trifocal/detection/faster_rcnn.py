"""torchvision's Faster R-CNN with ResNet-50 and a feature pyramid (41.8 M parameters), as `dual-layer` uses it: its teacher and,
behind the base layer, its reader."""

from __future__ import annotations

from functools import lru_cache

import torch
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn

from trifocal.detection.detector import SplitDetector, split_faster_rcnn
from trifocal.errors import WeightsError

__all__ = ["CHANNELS", "STRIDE", "load_faster_rcnn"]

CHANNELS, STRIDE = 256, 4  # of h, the output of `layer1`
LEAST_SCORE = 0.02  # torchvision's own is 0.05


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def load_faster_rcnn(device: str = "cpu") -> SplitDetector:
    """The network with its COCO weights, frozen, cut after `layer1`; torchvision fetches the weights where they are not here.

    Raises:
        WeightsError: if they are neither here nor to be had.
    """
    weights = FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    try:
        network = fasterrcnn_resnet50_fpn(weights=weights, progress=False, box_score_thresh=LEAST_SCORE)
    except OSError as error:  # urllib's URLError is one
        raise WeightsError(
            "The weights of torchvision's fasterrcnn_resnet50_fpn are not on this machine and could not be fetched; "
            "run it once where there is a network, and copy torch's cache here."
        ) from error
    return split_faster_rcnn(network).to(device).eval().requires_grad_(False)
