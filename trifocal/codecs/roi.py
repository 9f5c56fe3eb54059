"""Region-of-interest coding: an importance map sets the quantiser's step at each position.

The map comes from a text or a mask.

    image ── image encoder ── features ┐
    text ──── text encoder ── tokens ──┴─ cross-attention ── p: probability that the text names it
                                                             └── or a mask ── p ── log₂ gain map
                                                                                        │
    image ── analysis ── y ── × 2^map ── entropy ⇄ bytes ── / 2^map ── y_hat ── synthesis ── image

The squared error of positions with p = 1 weighs `IMPORTANCE` times as much as elsewhere
(`mask.log2_gain_map`). The map is coded before the latent (`entropy/importance.py`, about a dozen bytes), so
the decoder needs neither text nor mask.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from trifocal.codecs.mask import log2_gain_map
from trifocal.codecs.network import CodecNetwork
from trifocal.codecs.text_importance import with_text_importance
from trifocal.codecs.torch_runtime import as_array
from trifocal.detection.image_encoder import load_image_encoder
from trifocal.detection.input_size import encoder_size
from trifocal.entropy.coder import Array
from trifocal.pictures import Picture
from trifocal.text.grounding import load_grounding_head
from trifocal.types import Condition, TextEmbedding

__all__ = ["RoiNetwork", "text_probability"]


Grounding = Callable[[Tensor, TextEmbedding], Tensor]


def text_probability(x: Tensor, text: TextEmbedding) -> Tensor:
    """x [B, 3, H, W] in 0..1 → the probability that the text names what a position shows, [B, H/16, W/16].

    Raises WeightsError.
    """
    device = str(x.device)
    logits: Tensor = load_grounding_head(device)(load_image_encoder(device)(x).feature_maps[-1], text)
    return logits.sigmoid()


class RoiNetwork(CodecNetwork):
    """A codec network whose latents have one more channel: the importance map.

    Attributes:
        text_probability: image at the encoders' input size and text embedding → probability that the text
            names what a position shows; by default with the bundled encoders.
    """

    has_importance_map = True
    text_probability: Grounding = staticmethod(text_probability)

    @torch.inference_mode()
    def prepare(self, picture: Picture, condition: Condition | None) -> Condition | None:
        """Compute the importance map of a text for the whole image. A map that the condition has is kept."""

        def probability(x: Array, text: TextEmbedding) -> Array:
            return as_array(self.text_probability(torch.from_numpy(x).to(self.device), text).float())

        prepared = with_text_importance(picture, condition, probability)
        return None if prepared is None else prepared.to(self.device)

    def text_relevance(self, x: Tensor, condition: Condition) -> Tensor:
        """As `text_probability`, for images of any size: they are resized first. x [B, 3, H, W] in 0..1 →
        [B, h, w].

        Raises ValueError without text.
        """
        if condition.text is None:
            raise ValueError("The relevance of a text needs a text.")
        width, height = encoder_size(x.shape[3], x.shape[2])
        small = F.interpolate(x, size=(height, width), mode="bicubic", align_corners=False, antialias=True)
        return self.text_probability(small.clamp(0, 1), condition.text)

    def analyse(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """x [B, 3, H, W] in 0..1 → y and the importance map, [B, H/16, W/16, M + 1]."""
        y = super().analyse(x, condition)
        importance_map = None if condition is None else condition.importance_map
        if importance_map is None and condition is not None and condition.text is not None:
            p = F.interpolate(self.text_relevance(x, condition)[:, None], size=y.shape[1:3], mode="bilinear")
            importance_map = log2_gain_map_tensor(p[:, 0])
        if importance_map is None:
            importance_map = y.new_zeros(y.shape[:3])
        return torch.cat([y, importance_map.to(y)[..., None]], dim=-1)


def log2_gain_map_tensor(p: Tensor) -> Tensor:
    """`log2_gain_map` of a tensor, without a gradient."""
    return torch.from_numpy(log2_gain_map(p.detach().cpu().numpy())).to(p.device)
