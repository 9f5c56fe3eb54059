"""UG-ICM on the compact trunk: one file, and whoever decodes it says whether people or machines shall look at the picture.

    picture ── analysis ── entropy ⇄ bytes ── y_hat ── synthesis (preference) ── picture      as the preset compact, but for
                                                          0 people … 1 machines              the synthesis' second way

"Unified Coding for Both Human Perception and Generalized Machine Analytics with CLIP Supervision" (Yin et al. 2024). Its second
stage of training is what this form has: analysis and entropy model stay as they are, so that a file of this preset
holds the same latent as one of `compact-psnr`, and with preference 0 the same picture comes out of it.

What this form leaves out or does otherwise: the first stage, in which encoder and entropy model learn for machines too; the
perceptron of the preference in each block (see `transforms/preferred.py`); CLIP, in whose place the project's image tower
is (see `losses/ug_icm.py`).
"""

from __future__ import annotations

from torch import Tensor

from trifocal.codecs import compact
from trifocal.codecs.codec import Codec, dtype_of
from trifocal.types import Condition

__all__ = ["UgIcmCompact", "ug_icm_compact"]


class UgIcmCompact(Codec):
    """A codec whose synthesis is a `PreferredSynthesis`."""

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w]; the preference of the condition steers."""
        preference = None if condition is None else condition.preference
        x_hat: Tensor = self.synthesis(y_hat.to(dtype_of(self.synthesis)), level, preference)
        return x_hat.float()


def ug_icm_compact() -> UgIcmCompact:
    """With untrained weights."""
    return compact.preferred(UgIcmCompact)
