"""The dual-layer codec on the compact network.

    image ── resize ── bundled detector's front ─ base ⇄ BASE ─┬─ h_hat ── the detector's tail ── objects
                                                               └─ base preview ── lapped DCT ── · trust ── p
    image ── analysis ── y ── − p ── entropy ⇄ ENHANCEMENT ── + p ── synthesis ── image

Shen et al., "Dual-Layer Image Codec with Text Guidance for Hybrid Visual Perception" (section III-C), code
the residual of the image against the base preview, in a Swin analysis with text and conditions (the preset
`dual-layer`). Here the residual is taken between latents. The compact network's linear path is a lapped
transform, so encoder and decoder can compute the preview's coefficients, and each channel subtracts a learned
fraction of them (`trust`: 1 for a channel that the preview predicts exactly, 0 for one that it does not
predict). Where a component is missing, its latent is the preview's coefficients themselves, so the image
shows the preview there. The prediction is outside the entropy model, so decoders that sum in another order
still read every bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trifocal.codecs import compact
from trifocal.codecs.base_layer import BaseLayer, ScalableNetwork, ScalableTorchRuntime
from trifocal.codecs.roi import RoiNetwork
from trifocal.codecs.scalable import ScalableCodec
from trifocal.detection.feature_codec import CompactBaseAnalysis, CompactBaseSynthesis, PreviewSynthesis
from trifocal.entropy import EntropyModel, ExactNetworks, Gain, Prior
from trifocal.entropy.context import FourPassContext
from trifocal.layers import space_to_depth
from trifocal.transforms import Analysis, HyperAnalysis, HyperSynthesis, Synthesis
from trifocal.transforms.dct import BLOCK
from trifocal.types import Condition

__all__ = ["DualLayerCompact", "dual_layer_compact"]

LAPPING_RECEPTIVE_FIELD = 16  # pixels, of the prediction's lapped transform; added to that of the blocks
DETECTOR_CHANNELS, STRIDE = 96, 8  # of the bundled detector's h
CHANNELS, LATENT_CHANNELS, BLOCKS = 192, 96, 2
SYNTHESIS_BLOCKS = 4  # at each of its two scales
HYPER_CHANNELS, HYPER_WIDTH, WIDTH = 32, 96, 128
QUALITY_KNOTS, COARSEST, OCTAVES = 8, 2.0, 0.45  # quantiser steps: 2 at quality 0, 0.23 at the last knot


class LatentResidualNetwork(ScalableNetwork):
    """A network that codes latents as residuals against those of the base preview.

    Attributes:
        trust: weight of the preview's coefficients, per channel, [M].
    """

    def __init__(
        self,
        base: BaseLayer,
        analysis: Analysis,
        entropy: EntropyModel,
        synthesis: Synthesis,
        receptive_field: int,
    ) -> None:
        super().__init__(base, analysis, entropy, synthesis, receptive_field + LAPPING_RECEPTIVE_FIELD)
        self.trust = nn.Parameter(torch.ones(self.entropy.latent_channels))

    def preview_latent(self, condition: Condition | None) -> Tensor | None:
        """The coefficients of the base preview, [B, h, w, M]; times `trust`, the prediction of y."""
        if condition is None or condition.preview is None:
            return None
        assert isinstance(self.analysis, Analysis)
        pixels = condition.preview.pixels().permute(0, 2, 3, 1) - 0.5
        lapped = space_to_depth(self.analysis.lapping(pixels), BLOCK)
        return 255 * self.analysis.linear(lapped)

    def analyse(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """x [B, 3, H, W] in 0..1 → y minus the prediction, [B, H/16, W/16, M]."""
        y = super().analyse(x, condition)
        p = self.preview_latent(condition)
        return y if p is None else y - p * self.trust

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M], minus the prediction, or minus the whole preview where values are missing
        (`condition.kept`; 0 there shows the preview) → x_hat [B, 3, 16·h, 16·w].
        """
        p = self.preview_latent(condition)
        if p is not None:
            trust: Tensor = self.trust
            if condition is not None and condition.kept is not None:
                trust = torch.where(condition.kept[..., None], trust, 1)
            y_hat = y_hat + p * trust
        return super().synthesise(y_hat, level, condition)


class DualLayerCompact(RoiNetwork, LatentResidualNetwork):
    """`LatentResidualNetwork` with an importance map for the enhancement layer."""


def dual_layer_compact() -> ScalableCodec:
    """The codec of the preset `dual-layer-compact`, with untrained weights."""
    return ScalableCodec(ScalableTorchRuntime(DualLayerCompact(compact_base(), *compact.parts())))


def compact_base() -> BaseLayer:
    """The base layer for the bundled detector, with untrained weights."""
    step_sizes = COARSEST * torch.exp2(-OCTAVES * torch.arange(QUALITY_KNOTS))
    spread = (1 / step_sizes)[:, None].expand(-1, LATENT_CHANNELS)
    exact_networks = ExactNetworks(
        Prior(HYPER_CHANNELS, QUALITY_KNOTS),
        HyperSynthesis(HYPER_CHANNELS, HYPER_WIDTH, WIDTH),
        FourPassContext(LATENT_CHANNELS, WIDTH, 2, spread),
    )
    hyper_analysis = HyperAnalysis(LATENT_CHANNELS, HYPER_WIDTH, HYPER_CHANNELS)
    return BaseLayer(
        CompactBaseAnalysis(CHANNELS, LATENT_CHANNELS, BLOCKS),
        EntropyModel.from_parts(Gain(step_sizes, LATENT_CHANNELS), hyper_analysis, exact_networks),
        CompactBaseSynthesis(LATENT_CHANNELS, CHANNELS, DETECTOR_CHANNELS, SYNTHESIS_BLOCKS),
        PreviewSynthesis(DETECTOR_CHANNELS, STRIDE, DETECTOR_CHANNELS, BLOCKS),
    )
