"""TACO's idea on the compact network: a text steers the encoder; the decoder needs none.

Lee et al., "Neural Image Compression with Text-guided Encoding for both Pixel-level and Perceptual Fidelity"
(ICML 2024), have cross-attention between text tokens and image features inside the analysis, and train it
with the codec. Here a cross-attention that is trained separately (`text/grounding.py`) gives an importance
map; see `codecs/roi.py`. The network and its weights are those of the preset `compact`.

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
    """The codec of the preset `taco-compact`, with untrained weights."""
    return Codec(TorchRuntime(compact.plain_network(TacoCompact)))
