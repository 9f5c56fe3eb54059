"""Words say where the bits go: what methods share whose encoder is steered by a map of how much places matter.

    picture ── image tower ── places ┐
    words ──── text tower ── tokens ─┴─ ground ── p: is it what the words name? ── fineness ── where the bits go
                                                                                       │
    picture ── analysis ── y ── × 2^fineness ── entropy ⇄ bytes ── / 2^fineness ── y_hat ── synthesis ── picture

The error of a place that the words name counts `IMPORTANCE` times as much as elsewhere. To first order a quantiser's error
falls with the square of its step and its rate with the logarithm, so the sum of weighted error and rate is least where step² is
in proportion to 1/weight; the expected weight is 1 + (IMPORTANCE − 1)·p. The map of steps goes into the file in front of the
latent (`entropy/allocation.py`, about a dozen bytes), and the decoder needs no words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from trifocal.codecs.codec import Codec
from trifocal.detection.image_encoder import STRIDE, load_image_encoder
from trifocal.entropy import Coder
from trifocal.entropy.allocation import code_allocation
from trifocal.pictures import Picture
from trifocal.pictures.canvas import LATENT_STRIDE, Canvas
from trifocal.text.grounding import load_grounding_head
from trifocal.types import Condition, TextEmbedding

__all__ = ["RoiCodec", "importance_map_of", "look"]

IMPORTANCE = 4.0
LOOKED_AT = 256  # pixels, the root of the area at which the towers look: about that of their training

DepthwiseConv = Callable[[Tensor, TextEmbedding], Tensor]


def look(x: Tensor, words: TextEmbedding) -> Tensor:
    """x [B, 3, H, W] in 0..1 → probability that a place is what the words name, [B, H/16, W/16]. Raises WeightsError."""
    device = str(x.device)
    logits: Tensor = load_grounding_head(device)(load_image_encoder(device)(x).stages[-1], words)
    return logits.sigmoid()


class RoiCodec(Codec):
    """A codec whose latents have one more channel on the way to the walk: the fineness.

    Attributes:
        look: how places and words are compared; the shipped towers, unless another function is put here.
    """

    look: DepthwiseConv = staticmethod(look)

    @torch.inference_mode()
    def prepare(self, picture: Picture, condition: Condition | None) -> Condition | None:
        """Looks for the words in the whole picture, at a small size."""
        if condition is None or condition.words is None or condition.importance_map is not None:
            return condition
        p = self.places(picture, condition.words)
        return replace(condition, importance_map=importance_map_of(p))

    def places(self, picture: Picture, words: TextEmbedding) -> Tensor:
        """The probability that the words name it, for each latent of the padded picture, [1, h, w], 0..1."""
        small = picture.thumbnail(4 * LOOKED_AT)
        x = torch.tensor(small.rgb, device=self._device()).permute(2, 0, 1)[None]
        p = self.attention(x.float() / 255, Condition(words))
        latents = -(-picture.height // LATENT_STRIDE), -(-picture.width // LATENT_STRIDE)
        p = F.interpolate(p[:, None], size=latents, mode="bilinear", align_corners=False)
        canvas = Canvas(picture.width, picture.height, self.receptive_field)
        wide, high = (side // LATENT_STRIDE for side in canvas.padded)
        return F.pad(p, (0, wide - latents[1], 0, high - latents[0]), mode="replicate")[:, 0]

    def attention(self, x: Tensor, condition: Condition) -> Tensor:
        """Where the words point: x [B, 3, H, W] in 0..1 → the probability that they name it, [B, h, w], 0..1, at the small
        size at which the towers look. Raises ValueError without words."""
        if condition.words is None:
            raise ValueError("There is no attention without words.")
        scale = LOOKED_AT / (x.shape[2] * x.shape[3]) ** 0.5
        size = [max(STRIDE, STRIDE * round(side * scale / STRIDE)) for side in x.shape[2:]]
        small = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)
        return self.look(small.clamp(0, 1), condition.words)

    def analyse(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """x [B, 3, H, W] in 0..1 → y and the fineness, [B, H/16, W/16, M + 1]."""
        y = super().analyse(x, condition)
        importance_map = None if condition is None else condition.importance_map
        if importance_map is None and condition is not None and condition.words is not None:
            p = F.interpolate(self.attention(x, condition)[:, None], size=y.shape[1:3], mode="bilinear")
            importance_map = importance_map_of(p[:, 0])
        if importance_map is None:
            importance_map = y.new_zeros(y.shape[:3])
        return torch.cat([y, importance_map[..., None]], dim=-1)

    def code_latents(self, coder: Coder, y: Tensor | None, level: Tensor, size: tuple[int, int]) -> Tensor:
        """The fineness first, then the latent in steps that it makes finer or coarser."""
        factor = code_allocation(coder, None if y is None else y[..., -1:], size, level.device)
        y_hat = self.entropy.code_latents(coder, None if y is None else y[..., :-1] * factor, level, size)
        return y_hat / factor


def importance_map_of(p: Tensor, importance: float = IMPORTANCE) -> Tensor:
    """Octaves of the step for the expected importance of each place, nothing on the whole: [B, h, w] → [B, h, w]."""
    weight = 1 + (importance - 1) * p
    return 0.5 * torch.log2(weight / weight.mean(dim=(1, 2), keepdim=True))
