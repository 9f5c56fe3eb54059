"""Qin et al., "Perceptual Image Compression with Cooperative Cross-Modal Side Information": words that only the decoder knows.

    x ── analysis ── y ── hyperprior ⇄ bytes ── y_hat ── synthesis ── x_hat
                                                             │
                            words ── text tower ── pooled ── semantic–spatial aware blocks

Analysis, hyperprior and generator are HiFiC's (section 4.1: "identical to that of HiFiC"); only the synthesis reads the words,
so the same file decodes with them, with others, or with none. The words are not in the file's latent: whoever counts
bits counts theirs too, or says that they arrived by another road, as the paper does.

What differs from the paper, or is left open by it:

- One model for all rates: the entropy model's gains follow the quality. The papers have a model for each of three rates.
- The latent's distribution is the house's logistic family with calibrated tables, and so is the prior of z, where HiFiC has a
  Gaussian and a learned density.
- Where the blocks stand and what is in them: `transforms/hific.py` and `transforms/ssa.py` say so.
- Without words the blocks only normalise (γ = β = 0). The paper's ablation puts in a zero vector, which a
  perceptron may turn into something.
- The words' vector is the tower's pooled one as it comes (CLIP's has 512 numbers).
- The paper does not crop its training pictures, "considering that different parts correspond to different semantic
  information", and gives its networks 256×256; crops and their words are training's business here.
"""

from math import log2

import torch
from torch import Tensor

from trifocal.codecs.codec import Codec, dtype_of
from trifocal.entropy import EntropyModel, Gain, IntegerNetworks, Prior, SinglePass
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

WORD_CHANNELS = 512
COARSEST, FINEST = 2.0, 0.5  # quantiser steps at the ends; HiFiC's is 1 for every rate
QUALITY_KNOTS = 8


class CrossModal(Codec):
    """A codec whose synthesis is called with y_hat and the pooled words, [B, D] or None, and not with the level."""

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w]. The condition's words may be for one picture or for B."""
        words = None if condition is None or condition.words is None else condition.words.pooled
        dtype = dtype_of(self.synthesis)
        x_hat: Tensor = self.synthesis(
            y_hat.to(dtype), None if words is None else words.to(y_hat.device, dtype)
        )
        return x_hat.float()


def cross_modal(
    width: int = WIDTH,
    latent_channels: int = LATENT_CHANNELS,
    hyper_channels: int = HYPER_CHANNELS,
    residual_blocks: int = RESIDUAL_BLOCKS,
    word_channels: int = WORD_CHANNELS,
) -> CrossModal:
    """On HiFiC: with the published sizes 210 M parameters, 28 M of them in the semantic–spatial aware blocks.

    Args:
        width: channels at full resolution, doubled at each halving.
        latent_channels: M.
        hyper_channels: Z.
        residual_blocks: of the generator.
        word_channels: D of the tower's pooled words.
    """
    synthesis = HificSynthesis(width, latent_channels, residual_blocks, word_channels)
    return CrossModal(
        analysis=HificAnalysis(width, latent_channels),
        entropy=mean_scale_hyperprior(latent_channels, hyper_channels),
        synthesis=synthesis,
        receptive_field=synthesis.receptive_field,
    )


def mean_scale_hyperprior(latent_channels: int, hyper_channels: int) -> EntropyModel:
    """HiFiC's hyperprior (Minnen et al. 2018, without context), its quantiser steps spread over the qualities."""
    steps = torch.logspace(log2(COARSEST), log2(FINEST), QUALITY_KNOTS, base=2)
    return EntropyModel.of_parts(
        Gain(steps, latent_channels),
        HificHyperAnalysis(latent_channels, hyper_channels),
        IntegerNetworks(
            Prior(hyper_channels, QUALITY_KNOTS),
            HificHyperSynthesis(latent_channels, hyper_channels),
            SinglePass(latent_channels, steps),
        ),
    )


def cross_modal_cheng2020(
    channels: int = CHENG_CHANNELS,
    hyper_channels: int = CHENG_CHANNELS,
    word_channels: int = WORD_CHANNELS,
) -> CrossModal:
    """On Cheng2020's transforms (section 4.5), with the hyperprior as above.

    Cheng's own entropy model (serial context, Gaussian mixtures) is not here: its decoder goes place by place.

    Args:
        channels: N, of features and latent.
        hyper_channels: Z.
        word_channels: D of the tower's pooled words.
    """
    synthesis = ChengSynthesis(channels, word_channels)
    return CrossModal(
        analysis=ChengAnalysis(channels),
        entropy=mean_scale_hyperprior(channels, hyper_channels),
        synthesis=synthesis,
        receptive_field=synthesis.receptive_field,
    )
