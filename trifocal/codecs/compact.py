"""The compact trunk: the parts of the network that ships, for `compact` and for the methods that stand on it.

DESIGN section 9: one variable-rate model, lapped 16×16 DCT start, four-pass context, latent of 384 channels at 1/16.
"""

from typing import TypeVar

import torch

from trifocal.codecs.codec import Codec
from trifocal.entropy import EntropyModel
from trifocal.transforms import Analysis, Synthesis
from trifocal.transforms.preferred import PreferredSynthesis
from trifocal.transforms.worded import WordedSynthesis

__all__ = ["compact", "parts", "plain", "preferred", "worded"]

QUALITY_KNOTS = 8
COARSEST, OCTAVES = (
    118.4,
    0.6162,
)  # the step at quality 0, and how far it falls to the next knot: λ^−1/2 of the losses
CHANNELS, LATENT_CHANNELS, BLOCKS = 128, 384, 4
BLOCK_REACH = 8  # pixels to each side that a block at 1/8 looks at
WORD_CHANNELS, WORDED_BLOCKS = 256, 2
PREFERRING_BLOCKS = 4

Kind = TypeVar("Kind", bound=Codec)


def compact() -> Codec:
    """The trunk and nothing else."""
    return plain(Codec)


def plain(kind: type[Kind]) -> Kind:
    """A codec of that class with untrained weights, 3.6 M."""
    return kind(*parts())


def parts() -> tuple[Analysis, EntropyModel, Synthesis, int]:
    """Analysis, entropy model, synthesis and reach of the trunk, untrained."""
    synthesis = Synthesis(CHANNELS, LATENT_CHANNELS, BLOCKS, QUALITY_KNOTS)
    return _analysis(), _entropy(), synthesis, BLOCKS * BLOCK_REACH


def worded(kind: type[Kind]) -> Kind:
    """The same with a synthesis that words steer, 4.2 M."""
    synthesis = WordedSynthesis(
        CHANNELS, LATENT_CHANNELS, BLOCKS, QUALITY_KNOTS, WORD_CHANNELS, WORDED_BLOCKS
    )
    return kind(_analysis(), _entropy(), synthesis, receptive_field=(BLOCKS + WORDED_BLOCKS) * BLOCK_REACH)


def preferred(kind: type[Kind]) -> Kind:
    """The same with a synthesis that a preference steers, 3.9 M."""
    synthesis = PreferredSynthesis(CHANNELS, LATENT_CHANNELS, BLOCKS, QUALITY_KNOTS, PREFERRING_BLOCKS)
    return kind(
        _analysis(), _entropy(), synthesis, receptive_field=(BLOCKS + PREFERRING_BLOCKS) * BLOCK_REACH
    )


def _analysis() -> Analysis:
    return Analysis(CHANNELS, LATENT_CHANNELS, BLOCKS)


def _entropy() -> EntropyModel:
    steps = COARSEST * torch.exp2(-OCTAVES * torch.arange(QUALITY_KNOTS))
    return EntropyModel(LATENT_CHANNELS, hyper_channels=96, width=192, blocks=2, steps=steps)
