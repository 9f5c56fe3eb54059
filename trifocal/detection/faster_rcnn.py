"""torchvision's Faster R-CNN with ResNet-50 and FPN, the detector of `dual-layer`.

It has 41.8 M parameters. It is the teacher of the base layer, and reads its decoded features.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn

from trifocal.detection.detector import SplitDetector, split_faster_rcnn
from trifocal.errors import WeightsError
from trifocal.utils.local_networks import HOW_TO_NAME, torch_weights

__all__ = ["CHANNELS", "STRIDE", "load_faster_rcnn", "untrained_faster_rcnn"]

CHANNELS, STRIDE = 256, 4  # of h, the output of `layer1`
MIN_SCORE = 0.02  # torchvision's default is 0.05


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def load_faster_rcnn(device: str = "cpu") -> SplitDetector:
    """The frozen network with its COCO weights, split after `layer1`.

    The weights are in the folder of networks (`utils.local_networks`), or torchvision downloads them.

    Raises:
        WeightsError: if the weights are neither cached nor can be downloaded.
    """
    weights = FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    try:
        with torch_weights():
            network = fasterrcnn_resnet50_fpn(weights=weights, progress=False, box_score_thresh=MIN_SCORE)
    except OSError as error:  # includes urllib's URLError
        raise WeightsError(
            "The weights of torchvision's fasterrcnn_resnet50_fpn are not cached and cannot be downloaded; "
            f"put {weights.url.rpartition('/')[2]} into FOLDER/checkpoints, and {HOW_TO_NAME}."
        ) from error
    return split_faster_rcnn(network).to(device).eval().requires_grad_(False)


def untrained_faster_rcnn() -> SplitDetector:
    """The same network with random weights, to count operations without a download."""
    network = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, box_score_thresh=MIN_SCORE)
    return split_faster_rcnn(network).eval().requires_grad_(False)
