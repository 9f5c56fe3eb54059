"""Cross-modal side information, a text that only the decoder reads, on the compact network.

    image ── analysis ── entropy ⇄ bytes ── y_hat ── synthesis (text) ── image      as the preset compact, except for
                                             text ── text encoder ┘                the synthesis' second branch

Qin et al., "Perceptual Image Compression with Cooperative Cross-Modal Side Information", put semantic–spatial
aware blocks into HiFiC's generator (the preset `cross-modal`). Here they are parallel to the last layer of
the compact synthesis (`transforms/text_conditioned.py`). Analysis and entropy model are those of
`compact-psnr` and stay frozen in training, so files of both presets hold the same latent. The blocks also
work without text.

Difference from the paper: no adversary, and so no text-conditional discriminator.
"""

from __future__ import annotations

from torch import Tensor

from trifocal.codecs import compact
from trifocal.codecs.codec import Codec
from trifocal.codecs.network import CodecNetwork, module_dtype
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.types import Condition

__all__ = ["CrossModalCompact", "cross_modal_compact"]


class CrossModalCompact(CodecNetwork):
    """A network whose synthesis is a `TextConditionedSynthesis`."""

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w], given the pooled text embedding of the condition."""
        text = None if condition is None else condition.text
        x_hat: Tensor = self.synthesis(y_hat.to(module_dtype(self.synthesis)), level, text)
        return x_hat.float()


def cross_modal_compact() -> Codec:
    """The codec of the preset `cross-modal-compact`, with untrained weights."""
    return Codec(TorchRuntime(compact.text_conditioned_network(CrossModalCompact)))
