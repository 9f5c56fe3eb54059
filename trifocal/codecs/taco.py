"""TACO: a text steers the analysis, and the decoder needs none.

H. Lee, M. Kim, J.-H. Kim, S. Kim, D. Oh and J. Lee, "Neural Image Compression with Text-guided Encoding for
both Pixel-level and Perceptual Fidelity" (ICML 2024). ELIC with a text adapter in its analysis:

    x ── 1/4 ── inject ── 1/8 ──┬── inject ── 1/16 ── y ── entropy ⇄ bytes ── y_hat ── synthesis ── x_hat
                  │             extract ──┘
    tokens ───────┴─────────────┘

Choices where the paper and its code are silent, and differences from them:

    - Padding: the published code pads every caption to 38 tokens and attends to the padding. Here it is
      masked; `mask_padding=False` with an encoder that pads to 38 (`ClipTextEncoder(pad_to=38)`) is the
      published behaviour.
    - Without a condition the attention is skipped and the normalisation stays. The paper always has a text.
    - Initial values of the attention (Xavier) and of the Extractor's linear layer (Kaiming, as the
      Injector's); epsilon of the normalisations (1e-5); the code specifies only Kaiming for the Injector's
      linear layer and 0 for its gate.
    - The tokens that the Extractor changes are used by the second Injector only, through a linear layer of
      their own.
    - Images above 1024 pixels are analysed in tiles with a halo, and the Extractor attends to one tile at a
      time.
    - One model for all rates, by gains around the quantiser and a prior of z that both depend on the quality.
      The paper has one model per rate, as `--lambda` trains, and an entropy bottleneck for z.
    - Logistic distributions from integer tables where ELIC has Gaussians: see `entropy/elic.py`.
    - Training differs from the paper, and each difference can be switched off by a field of the recipe: a
      tenth of the steps have no text (`wordless=0`), crops are mirrored (`mirrored=0`), images are drawn by
      area (`sampling=uniform`), one in forty is held out (`held_out=0`), and values are rounded with a dead
      zone (`dead_zone=0`), in training and by `encode`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trifocal.codecs.codec import Codec
from trifocal.codecs.network import CodecNetwork, module_dtype
from trifocal.codecs.torch_runtime import TorchRuntime
from trifocal.entropy import EntropyModel
from trifocal.entropy.elic import elic_hyperprior
from trifocal.layers import QualityInterpolation
from trifocal.transforms.adapters import Extractor, Injector
from trifocal.transforms.elic import ElicAnalysis, ElicSynthesis, elic_receptive_field
from trifocal.types import MAX_LEVEL, Condition

GROUPS = (16, 16, 32, 64, 192)
QUALITY_KNOTS = 8
COARSEST = 2.5  # initial quantiser step at quality 0, the square root of the range of λ; at 50 it is 1


class Taco(CodecNetwork):
    """A network whose analysis reads text.

    Args:
        analysis: in stages at 1/4 and 1/8.
        entropy, synthesis, receptive_field: as in `CodecNetwork`.
        inject_quarter: cross-attention from the features at 1/4 to the tokens.
        extract: cross-attention from the tokens to the features at 1/8.
        inject_eighth: cross-attention from the features at 1/8 to those tokens.
        mask_padding: whether padding tokens are masked.
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
        """x [B, 3, H, W] in 0..1, texts for B images or for one → y [B, H/16, W/16, M]."""
        tokens, mask = self._tokens(condition, x)
        features = self.inject_quarter(self._quarter(x), tokens, mask)
        features = self.analysis.eighth(features)
        if tokens is not None:
            tokens = self.extract(tokens, features)
        features = self.inject_eighth(features, tokens, mask)
        y: Tensor = self.analysis.latent(features)
        return y.float()

    def text_relevance(self, x: Tensor, condition: Condition) -> Tensor:
        """How strongly each position attends to the text at 1/4.

        The share of its attention, mean over heads, that is not on the first token, which every text has. The
        end token counts as part of the text.

        Args:
            x: [B, 3, H, W] in 0..1.
            condition: with texts for B images or for one.

        Returns:
            [B, H/4, W/4], 0..1.

        Raises:
            ValueError: if the condition has no text.
        """
        tokens, mask = self._tokens(condition, x)
        if tokens is None:
            raise ValueError("The relevance of a text needs a text.")
        return self.inject_quarter.mass(self._quarter(x), tokens, mask)

    def _quarter(self, x: Tensor) -> Tensor:
        """Features at 1/4 before the first Injector, [B, H/4, W/4, N]."""
        features: Tensor = self.analysis.quarter(x.to(module_dtype(self.analysis)).permute(0, 2, 3, 1))
        return features

    def _tokens(self, condition: Condition | None, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Tokens [B, T, D] and mask [B, T], or None without text."""
        if condition is None or condition.text is None:
            return None, None
        text = condition.text.to(x.device)
        tokens = text.tokens.expand(len(x), -1, -1)
        return tokens, text.mask.expand(len(x), -1) if self.mask_padding else None


def taco(
    channels: int = 192,
    sizes: Sequence[int] = GROUPS,
    hidden: tuple[int, int] = (224, 128),
    bottlenecks: int = 3,
    text_channels: int = 512,
    heads: int = 8,
    mask_padding: bool = True,
    odd_anchors: bool = True,
) -> Codec:
    """TACO with untrained weights, by default at the paper's size.

    Args:
        channels: N.
        sizes: channels of ELIC's groups; their sum is M.
        hidden: widths inside the channel context.
        bottlenecks: at each scale of analysis and synthesis.
        text_channels: D of the text encoder's tokens.
        heads: of the attentions; must divide N and D.
        mask_padding: as in `Taco`.
        odd_anchors: whether the anchors' row + column is odd, as in TACO, or even, as in CompressAI.
    """
    m = sum(sizes)
    middle = MAX_LEVEL // 2
    step_sizes = COARSEST ** (1 - torch.arange(QUALITY_KNOTS) * QualityInterpolation.SPACING / middle)
    network = Taco(
        analysis=ElicAnalysis(channels, m, bottlenecks),
        entropy=elic_hyperprior(channels, sizes, step_sizes, hidden, odd_anchors),
        synthesis=ElicSynthesis(channels, m, bottlenecks),
        receptive_field=elic_receptive_field(bottlenecks),
        inject_quarter=Injector(channels, text_channels, heads),
        extract=Extractor(channels, text_channels, heads),
        inject_eighth=Injector(channels, text_channels, heads),
        mask_padding=mask_padding,
    )
    return Codec(TorchRuntime(network))
