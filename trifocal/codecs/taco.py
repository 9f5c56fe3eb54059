"""TACO: words steer the analysis, and the decoder needs none.

H. Lee, M. Kim, J.-H. Kim, S. Kim, D. Oh and J. Lee, "Neural Image Compression with Text-guided Encoding for both
Pixel-level and Perceptual Fidelity" (ICML 2024). ELIC with a text adapter in its analysis:

    x ── 1/4 ── inject ── 1/8 ──┬── inject ── 1/16 ── y ── entropy ⇄ bytes ── y_hat ── synthesis ── x_hat
                  │             extract ──┘
    tokens ───────┴─────────────┘

What paper and published code leave open, or where this departs from them:

    - Padding: the published code pads every caption to 38 tokens and lets places attend to the padding. Here it is
      masked; `mask_padding=False` with a tower that pads to 38 (`ClipTextEncoder(pad_to=38)`) is the published behaviour.
    - Without a condition the attention is left out and the normalisation stays. The paper always has words.
    - Initial values of the attention (Xavier) and of the Extractor's linear layer (Kaiming, as the Injector's); epsilon
      of the normalisations (1e-5); the code names only Kaiming for the Injector's linear layer and 0 for its gate.
    - The words that the Extractor changes serve the second Injector only, and there they get a linear layer of their own.
    - Pictures above 1024 pixels are analysed in tiles, each with its halo, and the Extractor sees one tile at a time.
    - One model for all rates, by gains around the quantiser and a prior for z that both follow the quality. The paper
      has a model for each rate, and an entropy bottleneck for z.
    - Logistic distributions from integer tables where ELIC has Gaussians: see `entropy/groups.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trifocal.codecs.codec import Codec, dtype_of
from trifocal.entropy import EntropyModel
from trifocal.entropy.groups import elic_hyperprior
from trifocal.layers import QualityInterpolation
from trifocal.transforms.adapters import Extractor, Injector
from trifocal.transforms.elic import ElicAnalysis, ElicSynthesis, elic_reach
from trifocal.types import MAX_LEVEL, Condition

GROUPS = (16, 16, 32, 64, 192)
QUALITY_KNOTS = 8
COARSEST = 2.5  # quantiser step at quality 0 before training, the root of how far λ goes; at 50 it is 1


class Taco(Codec):
    """A codec whose analysis reads words.

    Args:
        analysis: in stages at 1/4 and 1/8.
        entropy, synthesis, reach: as those of any codec.
        inject_quarter: words into the features at 1/4.
        extract: the features at 1/8 into the words.
        inject_eighth: those words into the features at 1/8.
        mask_padding: whether the tokens' padding is hidden from the picture.
    """

    analysis: ElicAnalysis

    def __init__(
        self,
        analysis: ElicAnalysis,
        entropy: EntropyModel,
        synthesis: ElicSynthesis,
        receptive_field: int,
        inject_quarter: Injector,
        extract: Extractor,
        inject_eighth: Injector,
        mask_padding: bool = True,
    ) -> None:
        super().__init__(analysis, entropy, synthesis, receptive_field)
        self.inject_quarter = inject_quarter
        self.extract = extract
        self.inject_eighth = inject_eighth
        self.mask_padding = mask_padding

    def analyse(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """x [B, 3, H, W] in 0..1, words for B pictures or for one → y [B, H/16, W/16, M]."""
        tokens, mask = self._words(condition, x)
        features = self.inject_quarter(self._quarter(x), tokens, mask)
        features = self.analysis.eighth(features)
        if tokens is not None:
            tokens = self.extract(tokens, features)
        features = self.inject_eighth(features, tokens, mask)
        y: Tensor = self.analysis.latent(features)
        return y.float()

    def attention(self, x: Tensor, condition: Condition) -> Tensor:
        """How strongly each place attends to the words at 1/4.

        The share of its attention, mean over heads, that is not on the first token. Every text has that token, and a
        place that has nothing to do with the words can look there; the token of the end counts as one of the words.

        Args:
            x: [B, 3, H, W] in 0..1.
            condition: with words for B pictures or for one.

        Returns:
            [B, H/4, W/4], 0..1.

        Raises:
            ValueError: if the condition has no words.
        """
        tokens, mask = self._words(condition, x)
        if tokens is None:
            raise ValueError("There is no attention without words.")
        return self.inject_quarter.mass(self._quarter(x), tokens, mask)

    def _quarter(self, x: Tensor) -> Tensor:
        """Features at 1/4 before they see words, [B, H/4, W/4, N]."""
        features: Tensor = self.analysis.quarter(x.to(dtype_of(self.analysis)).permute(0, 2, 3, 1))
        return features

    def _words(self, condition: Condition | None, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Tokens [B, T, D] and mask [B, T], where there are any."""
        if condition is None or condition.words is None:
            return None, None
        words = condition.words.to(x.device)
        tokens = words.tokens.expand(len(x), -1, -1)
        return tokens, words.mask.expand(len(x), -1) if self.mask_padding else None


def taco(
    channels: int = 192,
    sizes: Sequence[int] = GROUPS,
    hidden: tuple[int, int] = (224, 128),
    bottlenecks: int = 3,
    word_channels: int = 512,
    heads: int = 8,
    mask_padding: bool = True,
    odd_anchors: bool = True,
) -> Taco:
    """TACO with untrained weights, at the paper's size unless told otherwise.

    Args:
        channels: N.
        sizes: channels of ELIC's groups; their sum is M.
        hidden: widths inside the channel context.
        bottlenecks: at each scale of analysis and synthesis.
        word_channels: D of the text tower's tokens.
        heads: of the attentions; N and D are multiples of it.
        mask_padding: as `Taco` has it.
        odd_anchors: which colour of the checkerboard comes first; TACO's is odd, CompressAI's even.
    """
    m = sum(sizes)
    middle = MAX_LEVEL // 2
    steps = COARSEST ** (1 - torch.arange(QUALITY_KNOTS) * QualityInterpolation.SPACING / middle)
    return Taco(
        analysis=ElicAnalysis(channels, m, bottlenecks),
        entropy=elic_hyperprior(channels, sizes, steps, hidden, odd_anchors),
        synthesis=ElicSynthesis(channels, m, bottlenecks),
        receptive_field=elic_reach(bottlenecks),
        inject_quarter=Injector(channels, word_channels, heads),
        extract=Extractor(channels, word_channels, heads),
        inject_eighth=Injector(channels, word_channels, heads),
        mask_padding=mask_padding,
    )
