"""Masks of the objects in an image, by torchvision's instance segmentation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection as detection_models
from torchvision.models import get_model, get_model_weights, list_models

from trifocal.errors import OptionError, WeightsError
from trifocal.utils.local_networks import HOW_TO_NAME, torch_weights

__all__ = ["MASK_RCNN", "InstanceSegmenter", "load_instance_segmenter"]

MASK_RCNN = "maskrcnn_resnet50_fpn"
MIN_SCORE = 0.5
MIN_MASK = 0.5  # of a pixel's probability


class InstanceSegmenter(nn.Module):
    """Images [B, 3, H, W] in 0..1 → masks of the objects of each, [N, H, W], bool. It is never trained.

    Args:
        network: torchvision's Mask R-CNN, or another with its interface.
        min_score: of an object.
    """

    def __init__(self, network: nn.Module, min_score: float = MIN_SCORE) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.min_score = min_score

    def train(self, mode: bool = True) -> InstanceSegmenter:
        """Stays in evaluation mode: in training mode the network would want targets."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        outputs: list[dict[str, Tensor]] = self.network(list(x))
        return [output["masks"][output["scores"] >= self.min_score, 0] >= MIN_MASK for output in outputs]


def load_instance_segmenter(name: str = MASK_RCNN, trained: bool = True) -> InstanceSegmenter:
    """A network of torchvision with its COCO weights, which are in the folder of networks
    (`utils.local_networks`), or torchvision downloads them.

    Args:
        name: "maskrcnn_resnet50_fpn" or "maskrcnn_resnet50_fpn_v2".
        trained: False makes one with random weights, to count operations without a download.

    Raises:
        OptionError: if torchvision has no instance segmentation of this name.
        WeightsError: if the weights are neither cached nor can be downloaded.
    """
    available = list_models(module=detection_models, include="mask*")
    if name not in available:
        raise OptionError(
            f"torchvision has no instance segmentation {name!r}; choose from {', '.join(available)}."
        )
    if not trained:
        return InstanceSegmenter(get_model(name, weights=None, weights_backbone=None))
    weights: Any = get_model_weights(name)
    try:
        with torch_weights():
            network = get_model(name, weights=weights.DEFAULT, progress=False)
    except OSError as error:  # includes urllib's URLError
        raise WeightsError(
            f"The weights of torchvision's {name} are not cached and cannot be downloaded; put "
            f"{weights.DEFAULT.url.rpartition('/')[2]} into FOLDER/checkpoints, and {HOW_TO_NAME}."
        ) from error
    return InstanceSegmenter(network)
