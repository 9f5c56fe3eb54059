"""The compact network, of all presets with "compact" in their names.

The analysis starts as a lapped 16×16 DCT, and the latent has 384 channels at 1/16. The entropy model has the
four-pass context, and one set of weights has all rates.
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

__all__ = ["compact", "parts", "plain_network", "preference_conditioned_network", "text_conditioned_network"]

QUALITY_KNOTS = 8
COARSEST = 118.4  # quantiser step at quality 0
OCTAVES = 0.6162  # by which it falls from knot to knot: λ^−1/2 of the losses
CHANNELS, LATENT_CHANNELS, BLOCKS = 128, 384, 4
BLOCK_RECEPTIVE_FIELD = 8  # of a block at 1/8, pixels to each side
TEXT_CHANNELS, TEXT_BLOCKS = 256, 2
PREFERENCE_BLOCKS = 4

NetworkT = TypeVar("NetworkT", bound=CodecNetwork)


def compact() -> Codec:
    """The compact codec with untrained weights."""
    return Codec(TorchRuntime(plain_network(CodecNetwork)))


def plain_network(network_class: type[NetworkT]) -> NetworkT:
    """The compact network as a `network_class`, untrained; 3.6 M parameters."""
    return network_class(*parts())


def parts() -> tuple[Analysis, EntropyModel, Synthesis, int]:
    """Analysis, entropy model, synthesis and receptive field of the compact network, untrained."""
    synthesis = Synthesis(CHANNELS, LATENT_CHANNELS, BLOCKS, QUALITY_KNOTS)
    return _analysis(), _entropy(), synthesis, BLOCKS * BLOCK_RECEPTIVE_FIELD


def text_conditioned_network(network_class: type[NetworkT]) -> NetworkT:
    """The compact network with a synthesis that reads text, untrained; 4.0 M parameters."""
    synthesis = TextConditionedSynthesis(
        CHANNELS, LATENT_CHANNELS, BLOCKS, QUALITY_KNOTS, TEXT_CHANNELS, TEXT_BLOCKS
    )
    return network_class(
        _analysis(), _entropy(), synthesis, receptive_field=(BLOCKS + TEXT_BLOCKS) * BLOCK_RECEPTIVE_FIELD
    )


def preference_conditioned_network(network_class: type[NetworkT]) -> NetworkT:
    """The compact network with a synthesis that takes a preference, untrained; 3.9 M parameters."""
    synthesis = PreferenceConditionedSynthesis(
        CHANNELS, LATENT_CHANNELS, BLOCKS, QUALITY_KNOTS, PREFERENCE_BLOCKS
    )
    return network_class(
        _analysis(),
        _entropy(),
        synthesis,
        receptive_field=(BLOCKS + PREFERENCE_BLOCKS) * BLOCK_RECEPTIVE_FIELD,
    )


def _analysis() -> Analysis:
    return Analysis(CHANNELS, LATENT_CHANNELS, BLOCKS)


def _entropy() -> EntropyModel:
    step_sizes = COARSEST * torch.exp2(-OCTAVES * torch.arange(QUALITY_KNOTS))
    return EntropyModel(LATENT_CHANNELS, hyper_channels=96, width=192, blocks=2, step_sizes=step_sizes)
