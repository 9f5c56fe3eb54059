"""Cross-modal side information on the compact trunk: words that only the decoder knows help it to draw the picture.

    picture ── analysis ── entropy ⇄ bytes ── y_hat ── synthesis (words) ── picture      as the preset compact, but for
                                                           words ── text tower ┘             the synthesis' second way

"Perceptual image compression with cooperative cross-modal side information" puts semantic–spatial aware blocks into
HiFiC's generator (the preset `cross-modal`). Here they stand beside the compact synthesis' last layer
(`transforms/worded.py`). Analysis and entropy model are those of `compact-psnr` and stay as they are in training, so that a file
of both presets holds the same latent. Without words the blocks work too.

What this form leaves out: the adversary, and with it the text-conditional discriminator.
"""

from __future__ import annotations

from torch import Tensor

from trifocal.codecs import compact
from trifocal.codecs.codec import Codec, dtype_of
from trifocal.types import Condition

__all__ = ["CrossModalCompact", "cross_modal_compact"]


class CrossModalCompact(Codec):
    """A codec whose synthesis is a `WordedSynthesis`."""

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w]; the pooled words of the condition steer."""
        words = None if condition is None else condition.words
        x_hat: Tensor = self.synthesis(y_hat.to(dtype_of(self.synthesis)), level, words)
        return x_hat.float()


def cross_modal_compact() -> CrossModalCompact:
    """With untrained weights."""
    return compact.worded(CrossModalCompact)
