"""An image of the positions that a text names: `trifocal encode --attention map.png`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from trifocal.codecs.codec import Codec
from trifocal.codecs.named_objects import named_probability
from trifocal.codecs.torch_runtime import image_tensor
from trifocal.errors import PresetError
from trifocal.pictures import Picture
from trifocal.types import LATENT_STRIDE, Condition

__all__ = ["attention_map"]

LONGEST = 1024  # pixels of the map's longer side
DARKEST = 0.25  # brightness where the attention is 0


@torch.inference_mode()
def attention_map(codec: Codec, picture: Picture, condition: Condition[Any] | None) -> Picture:
    """The image in its colours where the text names it, darker and greyer elsewhere; at most 1024 pixels a
    side.

    Brightness follows the probability that the text names a position: that of `named_probability`, or the
    network's `text_relevance`. A text that names nothing in the image leaves it dark.

    Raises:
        PresetError: for a codec whose encoder reads no text, or without text.
    """
    small = picture.thumbnail(LONGEST)
    if condition is not None and condition.categories is not None:
        p = torch.from_numpy(named_probability(small, condition.categories[0]))
        map_ = p[None, None, : -(-small.height // LATENT_STRIDE), : -(-small.width // LATENT_STRIDE)]
    else:
        map_ = network_attention(codec, small, condition)
    size = small.height, small.width
    wide = F.interpolate(map_, size=size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
    return Picture(shaded(small.rgb, wide))


def network_attention(codec: Codec, picture: Picture, condition: Condition[Any] | None) -> torch.Tensor:
    """The attention of the network to the text, [1, 1, h, w]. Raises PresetError as `attention_map`."""
    network = codec.network
    text_relevance = getattr(network, "text_relevance", None)
    if text_relevance is None or condition is None or condition.text is None:
        raise PresetError(
            "--attention shows where a text steers the encoder; use a preset such as taco-compact, with "
            "--text."
        )
    x = image_tensor(picture.rgb, network.device)
    map_: torch.Tensor = text_relevance(x, condition.to(network.device))[:, None].float()
    return map_


def shaded(rgb: NDArray[np.uint8], map_: NDArray[np.float32]) -> NDArray[np.uint8]:
    """rgb [H, W, 3], map 0..1 [H, W] → [H, W, 3]."""
    weight = map_[..., None]
    grey = rgb.mean(axis=2, keepdims=True) * DARKEST
    return np.rint(weight * rgb + (1 - weight) * grey).astype(np.uint8)
