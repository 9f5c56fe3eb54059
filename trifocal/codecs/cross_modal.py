"""Cross-modal side information: a text that only the decoder reads improves the image.

Qin et al., "Perceptual Image Compression with Cooperative Cross-Modal Side Information".

    x ── analysis ── y ── hyperprior ⇄ bytes ── y_hat ── synthesis ── x_hat
                                                             │
                          text ── text encoder ── pooled ── semantic–spatial aware blocks

Analysis, hyperprior and generator are HiFiC's (section 4.1: "identical to that of HiFiC"). Only the synthesis
reads the text, so the same file decodes with that text, another, or none. The text is not part of the latent:
rate figures must include its bytes, or state that the decoder has it from elsewhere, as the paper does.

Choices where the paper is silent, and differences from it:

- One model for all rates: the entropy model's gains depend on the quality. The paper has one model for each
  of three rates, as `--quality` trains.
- Latent and z have logistic distributions with calibrated tables, where HiFiC has a Gaussian and a learned
  density.
- Positions and contents of the blocks: see `transforms/hific.py` and `transforms/ssa.py`.
- Without text the blocks only normalise (γ = β = 0). The paper's ablations replace the embedding by a zero
  vector, for which the blocks' perceptrons may give other γ and β. `generator_text=False` and
  `discriminator_text=False` of `CrossModalObjective` train the ablations; docs/evaluation.md has the
  commands.
- The pooled text embedding is used unchanged (CLIP's has 512 numbers).
- The paper does not crop its training images, "considering that different parts correspond to different
  semantic information", and trains on 256×256; here it takes crops, each with a caption of the whole image.
- Training differs in more, and each difference can be switched off by a field of the recipe: a tenth of the
  steps have no text (`wordless=0`), crops are mirrored (`mirrored=0`), images are drawn by area
  (`sampling=uniform`), one in forty is held out (`held_out=0`), and values are rounded with a dead zone
  (`dead_zone=0`), in training and by `encode`.
"""

from math import log2

import torch
from torch import Tensor

from trifocal.codecs.codec import Codec
from trifocal.codecs.network import CodecNetwork, module_dtype
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.entropy import EntropyModel, ExactNetworks, Gain, Prior, SinglePass
from trifocal.transforms.cheng import CHANNELS as CHENG_CHANNELS
from trifocal.transforms.cheng import ChengAnalysis, ChengSynthesis
from trifocal.transforms.hific import (
    HYPER_CHANNELS,
    LATENT_CHANNELS,
    RESIDUAL_BLOCKS,
    WIDTH,
    HificAnalysis,
    HificHyperAnalysis,
    HificHyperSynthesis,
    HificSynthesis,
)
from trifocal.types import Condition

TEXT_CHANNELS = 512
COARSEST, FINEST = 2.0, 0.5  # quantiser steps at the ends; HiFiC's is 1 for every rate
QUALITY_KNOTS = 8


class CrossModal(CodecNetwork):
    """A network whose synthesis takes y_hat and pooled text embeddings, [B, D] or None, and no level."""

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w]. The condition has texts for B images or for one."""
        pooled = None if condition is None or condition.text is None else condition.text.pooled
        dtype = module_dtype(self.synthesis)
        x_hat: Tensor = self.synthesis(
            y_hat.to(dtype), None if pooled is None else pooled.to(y_hat.device, dtype)
        )
        return x_hat.float()


def cross_modal(
    width: int = WIDTH,
    latent_channels: int = LATENT_CHANNELS,
    hyper_channels: int = HYPER_CHANNELS,
    residual_blocks: int = RESIDUAL_BLOCKS,
    text_channels: int = TEXT_CHANNELS,
) -> Codec:
    """The codec on HiFiC, untrained: 210 M parameters at the published sizes, 28 M of them in the
    semantic–spatial aware blocks.

    Args:
        width: channels at full resolution, doubled at each halving.
        latent_channels: M.
        hyper_channels: Z.
        residual_blocks: of the generator.
        text_channels: D of the pooled text embedding.
    """
    synthesis = HificSynthesis(width, latent_channels, residual_blocks, text_channels)
    network = CrossModal(
        analysis=HificAnalysis(width, latent_channels),
        entropy=mean_scale_hyperprior(latent_channels, hyper_channels),
        synthesis=synthesis,
        receptive_field=synthesis.receptive_field,
    )
    return Codec(TorchRuntime(network))


def mean_scale_hyperprior(latent_channels: int, hyper_channels: int) -> EntropyModel:
    """HiFiC's hyperprior (Minnen et al. 2018, without context), with quantiser steps that depend on the
    quality.
    """
    step_sizes = torch.logspace(log2(COARSEST), log2(FINEST), QUALITY_KNOTS, base=2)
    return EntropyModel.from_parts(
        Gain(step_sizes, latent_channels),
        HificHyperAnalysis(latent_channels, hyper_channels),
        ExactNetworks(
            Prior(hyper_channels, QUALITY_KNOTS),
            HificHyperSynthesis(latent_channels, hyper_channels),
            SinglePass(latent_channels, step_sizes),
        ),
    )


def cross_modal_cheng2020(
    channels: int = CHENG_CHANNELS,
    hyper_channels: int = CHENG_CHANNELS,
    text_channels: int = TEXT_CHANNELS,
) -> Codec:
    """The codec on Cheng2020's transforms (section 4.5), untrained, with the same hyperprior.

    Cheng's own entropy model (serial context, Gaussian mixtures) is left out: its decoder works position by
    position.

    Args:
        channels: N, of features and latent.
        hyper_channels: Z.
        text_channels: D of the pooled text embedding.
    """
    synthesis = ChengSynthesis(channels, text_channels)
    network = CrossModal(
        analysis=ChengAnalysis(channels),
        entropy=mean_scale_hyperprior(channels, hyper_channels),
        synthesis=synthesis,
        receptive_field=synthesis.receptive_field,
    )
    return Codec(TorchRuntime(network))
