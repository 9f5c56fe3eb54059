"""The dual-layer codec's conditions from the base preview at three scales, and the synthesis that takes them.

T. Shen, J. Quan and Y. Liu, "Dual-Layer Image Codec with Text Guidance for Hybrid Visual Perception", figure
2. `detection/feature_codec.py` synthesises the preview from the base layer's features (the paper calls it
the extractor), and a U-Net makes conditions from the preview.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trifocal.layers import Conv, Deconv, DepthToSpace, zero_init
from trifocal.transforms.cheng import ConvolutionBlock
from trifocal.transforms.elic import ATTENTION_UNITS, Bottleneck, GatedAttention

__all__ = ["ConditionedSynthesis", "UNet", "conditioned_receptive_field"]

Conditions = tuple[Tensor, Tensor, Tensor]  # c1, c½ and c¼


class UNet(nn.Module):
    """Base preview → conditions c1, c½ and c¼, [B, H, W, C1], [B, H/2, W/2, C2], [B, H/4, W/4, C3].

        f1 = block(conv 3×3 (preview))              c¼ = block(conv 3×3 stride 2 (f½))
        f½ = block(conv 3×3 stride 2 (f1))          c½ = block(cat(f½, up(c¼)))
                                                    c1 = block(cat(f1, up(c½)))

    A block is two 3×3 convolutions and a skip (the figure's ResBlock); cat is a concatenation and a linear
    layer; up is a linear layer and depth to space. The receptive field is bounded.

    Args:
        channels: C1, C2 and C3.
    """

    # pixels to each side: two positions per block, one per convolution, rounded up between scales
    RECEPTIVE_FIELD = 27

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        whole, half, quarter = channels
        self.down = nn.ModuleList(
            [
                nn.Sequential(Conv(3, whole, 3), ConvolutionBlock(whole)),
                nn.Sequential(Conv(whole, half, 3, stride=2), ConvolutionBlock(half)),
                nn.Sequential(Conv(half, quarter, 3, stride=2), ConvolutionBlock(quarter)),
            ]
        )
        self.up = nn.ModuleList([upsample_linear(half, whole), upsample_linear(quarter, half)])
        self.join = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), ConvolutionBlock(width)) for width in (whole, half)
        )

    def forward(self, preview: Tensor) -> Conditions:
        """preview [B, H, W, 3] in 0..1, H and W multiples of 4."""
        whole = self.down[0](preview - 0.5)
        half = self.down[1](whole)
        quarter: Tensor = self.down[2](half)
        half = self.join[1](torch.cat([half, self.up[1](quarter)], dim=-1))
        whole = self.join[0](torch.cat([whole, self.up[0](half)], dim=-1))
        return whole, half, quarter


def upsample_linear(inputs: int, outputs: int) -> nn.Sequential:
    """[B, H, W, I] → [B, 2·H, 2·W, O], each position separately."""
    return nn.Sequential(nn.Linear(inputs, 4 * outputs), DepthToSpace(2))


class ConditionedSynthesis(nn.Module):
    """y_hat [B, h, w, M], and c1, c½, c¼ → the residual that is added to the preview, [B, 16·h, 16·w, 3].

        y_hat ── attention ── ×2, bottlenecks ── 1/8
          ── ×2, concat+linear with c¼, bottlenecks ── 1/4
          ── ×2, concat+linear with c½, bottlenecks ── 1/2
          ── ×2, concat+linear with c1, block, linear to 3 ── 1

    ELIC's parts (×2 is a transposed 5×5 convolution), whose receptive field is bounded; attention windows
    would have to be aligned to 64 pixels, and the latents of a region are not. The residual is initially
    zero.

    Args:
        condition_channels: of c1, c½ and c¼.
        channels: N, of the features at 1/8, 1/4 and 1/2; at 1 there are as many as in c1.
        latent_channels: M.
        bottlenecks: at each of 1/8, 1/4 and 1/2.
    """

    def __init__(
        self,
        condition_channels: Sequence[int],
        channels: int = 192,
        latent_channels: int = 320,
        bottlenecks: int = 3,
    ) -> None:
        super().__init__()
        n, whole = channels, condition_channels[0]
        self.attention = GatedAttention(latent_channels)
        self.up = nn.ModuleList(
            Deconv(inputs, outputs, 5)
            for inputs, outputs in ((latent_channels, n), (n, n), (n, n), (n, whole))
        )
        self.join = nn.ModuleList(
            nn.Linear(width + extra, width)
            for width, extra in zip((whole, n, n), condition_channels, strict=True)
        )
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(*[Bottleneck(n) for _ in range(bottlenecks)]) for _ in range(3)
        )
        self.finish = nn.Sequential(ConvolutionBlock(whole), zero_init(nn.Linear(whole, 3)))

    def forward(self, y_hat: Tensor, conditions: Conditions) -> Tensor:
        features = self.bottlenecks[0](self.up[0](self.attention(y_hat)))
        for scale in (2, 1):
            features = self.join[scale](torch.cat([self.up[3 - scale](features), conditions[scale]], dim=-1))
            features = self.bottlenecks[3 - scale](features)
        features = self.join[0](torch.cat([self.up[3](features), conditions[0]], dim=-1))
        added: Tensor = self.finish(features)
        return added


def conditioned_receptive_field(bottlenecks: int) -> int:
    """Receptive field of `ConditionedSynthesis` with its U-Net, pixels to each side; 122 with three
    bottlenecks.

    The path of the latent is the longest: attention at 1/16, and at each scale a transposed 5×5 kernel (one
    coarser position) and the layers after it.
    """
    kernels = sum(stride * bottlenecks for stride in (8, 4, 2))
    return 16 * ATTENTION_UNITS + (16 + 8 + 4 + 2) + kernels + 2
