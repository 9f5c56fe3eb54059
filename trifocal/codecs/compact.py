"""The compact network: variable rate, lapped 16×16 DCT initialisation, four-pass context, latent of 384
channels at 1/16.
"""

from typing import TypeVar

import torch

from trifocal.codecs.codec import Codec
from trifocal.codecs.network import CodecNetwork
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.entropy import EntropyModel
from trifocal.transforms import Analysis, Synthesis
from trifocal.transforms.preference_conditioned import PreferenceConditionedSynthesis
from trifocal.transforms.text_conditioned import TextConditionedSynthesis

__all__ = ["compact", "parts", "plain", "with_preference", "with_text"]

QUALITY_KNOTS = 8
COARSEST = 118.4  # quantiser step at quality 0
OCTAVES = 0.6162  # by which it falls from knot to knot: λ^−1/2 of the losses
CHANNELS, LATENT_CHANNELS, BLOCKS = 128, 384, 4
BLOCK_REACH = 8  # receptive field of a block at 1/8, pixels to each side
TEXT_CHANNELS, WORDED_BLOCKS = 256, 2
PREFERRING_BLOCKS = 4

Kind = TypeVar("Kind", bound=CodecNetwork)


def compact() -> Codec:
    """The compact codec with untrained weights."""
    return Codec(TorchRuntime(plain(CodecNetwork)))


def plain(kind: type[Kind]) -> Kind:
    """A compact network of that class with untrained weights, 3.6 M parameters."""
    return kind(*parts())


def parts() -> tuple[Analysis, EntropyModel, Synthesis, int]:
    """Analysis, entropy model, synthesis and receptive field of the compact network, untrained."""
    synthesis = Synthesis(CHANNELS, LATENT_CHANNELS, BLOCKS, QUALITY_KNOTS)
    return _analysis(), _entropy(), synthesis, BLOCKS * BLOCK_REACH


def with_text(kind: type[Kind]) -> Kind:
    """The same with a synthesis that reads text, 4.2 M parameters."""
    synthesis = TextConditionedSynthesis(
        CHANNELS, LATENT_CHANNELS, BLOCKS, QUALITY_KNOTS, TEXT_CHANNELS, WORDED_BLOCKS
    )
    return kind(_analysis(), _entropy(), synthesis, receptive_field=(BLOCKS + WORDED_BLOCKS) * BLOCK_REACH)


def with_preference(kind: type[Kind]) -> Kind:
    """The same with a synthesis that takes a preference, 3.9 M parameters."""
    synthesis = PreferenceConditionedSynthesis(
        CHANNELS, LATENT_CHANNELS, BLOCKS, QUALITY_KNOTS, PREFERRING_BLOCKS
    )
    return kind(
        _analysis(), _entropy(), synthesis, receptive_field=(BLOCKS + PREFERRING_BLOCKS) * BLOCK_REACH
    )


def _analysis() -> Analysis:
    return Analysis(CHANNELS, LATENT_CHANNELS, BLOCKS)


def _entropy() -> EntropyModel:
    steps = COARSEST * torch.exp2(-OCTAVES * torch.arange(QUALITY_KNOTS))
    return EntropyModel(LATENT_CHANNELS, hyper_channels=96, width=192, blocks=2, steps=steps)
