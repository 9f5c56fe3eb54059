"""UG-ICM on the compact network: one file, decoded for people or for machines.

    image ── analysis ── entropy ⇄ bytes ── y_hat ── synthesis (preference) ── image      as the preset compact, except for
                                                         0 people … 1 machines           the synthesis' second branch

"Unified Coding for Both Human Perception and Generalized Machine Analytics with CLIP Supervision" (Yin et al.
2024). In the first training stage all parts learn for people and for machines, from the weights of `compact`
(`losses/ug_icm_compact.py`). In the second one analysis and entropy model are frozen, and only the branch for
machines learns (`losses/ug_icm.py`).

Differences from the paper: no perceptron of the preference in each block (see
`transforms/preference_conditioned.py`); features of EfficientNet-Lite0 at several depths in the first stage,
and those of the bundled image encoder in the second, in place of CLIP's embeddings.
"""

from __future__ import annotations

from torch import Tensor

from trifocal.codecs import compact
from trifocal.codecs.codec import Codec
from trifocal.codecs.network import CodecNetwork, module_dtype
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.types import Condition

__all__ = ["UgIcmCompact", "ug_icm_compact"]


class UgIcmCompact(CodecNetwork):
    """A network whose synthesis is a `PreferenceConditionedSynthesis`."""

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w], for the condition's preference."""
        preference = None if condition is None else condition.preference
        x_hat: Tensor = self.synthesis(y_hat.to(module_dtype(self.synthesis)), level, preference)
        return x_hat.float()


def ug_icm_compact() -> Codec:
    """The codec of the preset `ug-icm-compact`, with untrained weights."""
    return Codec(TorchRuntime(compact.preference_conditioned_network(UgIcmCompact)))
