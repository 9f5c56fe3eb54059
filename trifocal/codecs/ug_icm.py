"""UG-ICM: one file, decoded for people or for machines.

The backbones are MLIC++ and the hyperprior of Ballé et al. 2018.

    image ── analysis ── entropy ⇄ bytes ── y_hat ── synthesis ── image
                                                         └ preference: 0 people … 1 machines

K. Yin et al., "Unified Coding for Both Human Perception and Generalized Machine Analytics with CLIP
Supervision" (2024). The preference shifts the features of each decoder block (`transforms/preference.py`),
so the file is the same for all preferences. The objectives of both training stages are in `losses/ug_icm.py`.

Choices where the paper and its code are silent, and differences from them:

    - One model for all rates, by gains around the quantiser and a prior of z that both depend on the quality.
      The paper has one model for each of four rates, and an entropy bottleneck for z.
    - Logistic distributions from integer tables where the backbones have Gaussians: see `entropy/elic.py`.
    - The entropy model of MLIC++ runs in exact arithmetic (`entropy/integer_functions.py`), so that files
      decode on every machine. docs/training.md has its cost in bits.
    - Images above 1024 pixels are coded in tiles. MLIC++'s global attention sees one tile at a time, and in
      the paper the whole image.
    - The paper does not say where the shifts are in the blocks of Bmshj2018, which have one normalisation
      each: here after each of the three.
    - Without a condition the preference is 0.
    - Training differs from the paper, and each difference can be switched off by a field of the recipe: crops
      are mirrored (`mirrored=0`), images are drawn by area (`sampling=uniform`), one in forty is held out
      (`held_out=0`), and values are rounded with a dead zone (`dead_zone=0`), in training and by `encode`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trifocal.codecs.codec import Codec
from trifocal.codecs.network import CodecNetwork, module_dtype
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.entropy import EntropyModel, ExactNetworks, Gain, Prior
from trifocal.entropy.context import ZeroMean
from trifocal.entropy.mlic import PUBLISHED, MlicWidths, mlic_hyperprior
from trifocal.layers import QualityInterpolation
from trifocal.transforms.bmshj2018 import (
    BMSHJ_RECEPTIVE_FIELD,
    BmshjAnalysis,
    BmshjHyperAnalysis,
    PreferredBmshjSynthesis,
    bmshj_hyper_synthesis,
)
from trifocal.transforms.mlic import MLIC_RECEPTIVE_FIELD, MlicAnalysis, PreferredMlicSynthesis
from trifocal.transforms.preference import CODE
from trifocal.types import MAX_LEVEL, Condition

__all__ = ["UgIcm", "ug_icm", "ug_icm_hyperprior"]

SLICES = 10
QUALITY_KNOTS = 8
COARSEST = 2.3  # initial quantiser step at quality 0, the square root of the range of √λ; at 50 it is 1


class UgIcm(CodecNetwork):
    """A network whose synthesis takes y_hat, the level, and a preference [B] or None."""

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w], for the condition's preference."""
        preference = None if condition is None else condition.preference
        x_hat: Tensor = self.synthesis(y_hat.to(module_dtype(self.synthesis)), level, preference)
        return x_hat.float()


def quality_steps() -> Tensor:
    """Initial quantiser step at each quality knot, [K]."""
    at = torch.arange(QUALITY_KNOTS) * QualityInterpolation.SPACING / (MAX_LEVEL // 2)
    return COARSEST ** (1 - at)


def ug_icm(
    channels: int = 192,
    latent_channels: int = 320,
    slices: int = SLICES,
    widths: MlicWidths = PUBLISHED,
    code_channels: int = CODE,
) -> Codec:
    """The codec on MLIC++ with untrained weights, by default at the paper's size.

    Args:
        channels: N.
        latent_channels: M.
        slices: of the latent; their number must divide M.
        widths: inside the networks of the context model.
        code_channels: of the preference's code.
    """
    network = UgIcm(
        analysis=MlicAnalysis(channels, latent_channels),
        entropy=mlic_hyperprior(channels, latent_channels, slices, quality_steps(), widths),
        synthesis=PreferredMlicSynthesis(channels, latent_channels, code_channels),
        receptive_field=MLIC_RECEPTIVE_FIELD,
    )
    return Codec(TorchRuntime(network))


def ug_icm_hyperprior(channels: int = 128, latent_channels: int = 192, code_channels: int = CODE) -> Codec:
    """The codec on the scale hyperprior of Ballé et al. 2018, untrained, by default at the paper's size.

    Args:
        channels: N, of features and z.
        latent_channels: M.
        code_channels: of the preference's code.
    """
    step_sizes = quality_steps()
    entropy = EntropyModel.from_parts(
        Gain(step_sizes, latent_channels),
        BmshjHyperAnalysis(channels, latent_channels),
        ExactNetworks(
            Prior(channels, len(step_sizes)),
            bmshj_hyper_synthesis(channels, latent_channels),
            ZeroMean(latent_channels, step_sizes),
        ),
    )
    network = UgIcm(
        analysis=BmshjAnalysis(channels, latent_channels),
        entropy=entropy,
        synthesis=PreferredBmshjSynthesis(channels, latent_channels, code_channels),
        receptive_field=BMSHJ_RECEPTIVE_FIELD,
    )
    return Codec(TorchRuntime(network))
