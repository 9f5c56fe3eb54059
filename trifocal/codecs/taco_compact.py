"""TACO's idea on the compact trunk: words steer the encoder, and the decoder needs none.

Lee et al., "Neural image compression with text-guided encoding for both pixel-level and perceptual fidelity" (2024), let
words meet image features in cross-attention inside the analysis, and the losses decide what comes of it. Here they meet in
cross-attention too (`text/ground.py`), but what comes of it is said: `trifocal/codecs/roi.py` has the road. The trunk, and its
weights, are those of the preset compact.

What this form leaves out: the extractor (image → words), the joint image–text loss and LPIPS. The preset `taco` has them.
"""

from trifocal.codecs import compact
from trifocal.codecs.roi import RoiCodec

__all__ = ["TacoCompact", "taco_compact"]


class TacoCompact(RoiCodec):
    """The trunk, whose bits go where the words point."""


def taco_compact() -> TacoCompact:
    """With untrained weights."""
    return compact.plain(TacoCompact)
