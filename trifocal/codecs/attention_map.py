"""A picture of where words point: `trifocal encode --attention map.png`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from trifocal.codecs.codec import Codec
from trifocal.errors import PresetError
from trifocal.pictures import Picture
from trifocal.types import Condition

__all__ = ["attention_map"]

LONGEST = 1024  # pixels of the map's longer side
DARKEST = 0.25  # of the light that is left where the words do not point


@torch.inference_mode()
def attention_map(codec: Codec, picture: Picture, condition: Condition | None) -> Picture:
    """The picture in its colours where the words point, and darker and greyer the less they do; at most 1024 pixels a side.

    The scale is that of the codec's `attention`, 0..1: words that name nothing in the picture leave it dark.

    Raises:
        PresetError: for a codec whose encoder reads no words, or without words.
    """
    attention = getattr(codec, "attention", None)
    if attention is None or condition is None or condition.words is None:
        raise PresetError(
            "--attention shows where words steer an encoder: name a preset such as taco-compact, and words."
        )
    device = next(codec.parameters()).device
    small = picture.thumbnail(LONGEST)
    x = torch.tensor(small.rgb, device=device).permute(2, 0, 1)[None].float() / 255
    map_ = attention(x, condition.to(device))[:, None].float()
    wide = F.interpolate(map_, size=x.shape[2:], mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
    return Picture(drawn(small.rgb, wide))


def drawn(rgb: NDArray[np.uint8], map_: NDArray[np.float32]) -> NDArray[np.uint8]:
    """rgb [H, W, 3], map 0..1 [H, W] → [H, W, 3]."""
    weight = map_[..., None]
    grey = rgb.mean(axis=2, keepdims=True) * DARKEST
    return np.rint(weight * rgb + (1 - weight) * grey).astype(np.uint8)
