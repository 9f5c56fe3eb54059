"""TACO's idea on the compact network: a text steers the encoder, and the decoder needs none.

Lee et al., "Neural image compression with text-guided encoding for both pixel-level and perceptual fidelity"
(2024), let text tokens meet image features in cross-attention inside the analysis, trained by the loss. Here
the cross-attention (`text/grounding.py`) yields an explicit importance map; see `codecs/roi.py`. The network
and its weights are those of the preset compact.

Differences from the paper: no extractor (image → text), no joint image–text loss, no LPIPS. The preset `taco`
has them.
"""

from trifocal.codecs import compact
from trifocal.codecs.codec import Codec
from trifocal.codecs.roi import RoiNetwork
from trifocal.codecs.torch_runtime import TorchRuntime

__all__ = ["TacoCompact", "taco_compact"]


class TacoCompact(RoiNetwork):
    """The compact network with an importance map."""


def taco_compact() -> Codec:
    """With untrained weights."""
    return Codec(TorchRuntime(compact.plain_network(TacoCompact)))
