"""Dual-layer with text guidance: a detector reads the base, people get both layers, and words steer the encoder.

T. Shen, J. Quan and Y. Liu, "Dual-Layer Image Codec with Text Guidance for Hybrid Visual Perception" (Santa Clara University).

    picture ── small ── four convolutions ── y_obj ⇄ BASE ── h_hat ─┬─ the rest of Faster R-CNN ── objects
                                                                    └─ extractor ── first picture x_p ── U-Net ── c1, c½, c¼

    x − x_p, c1 ── 1/2, c½ ── 1/4, c¼ ── inject ── 1/8 ──┬── inject ── 1/16 ── y ⇄ ENHANCEMENT ── y_hat, c ── synthesis, + x_p ── x_hat
    tokens ──────────────────────────────────┴───────────┴─ extract ─┘

What the paper leaves open, or where this departs from it:

    - The split layer. Here it is the output of `layer1` ("an early feature"), 256 channels at 1/4 of the small picture. The picture
      is brought to the size at which torchvision's detector looks at it, a short side of 800 pixels, and that is what the base codes.
    - The base's transforms: four 5×5 convolutions down and two up (`machine/bridge.py`). The entropy models of both layers are
      ELIC's, since the paper's reference for its spatial–channel context is of that family; its bytes come from the house's range
      coder, with logistic tables and a prior of z that follows the quality.
    - Channel counts: ELIC's N 192 and M 320 in both layers; the analysis as Lu et al.'s transformer codec (`transforms/swin.py`);
      32, 64 and 128 channels of c1, c½ and c¼.
    - The first picture's extractor is trained with the base, and both are frozen when the enhancement is trained. The paper says
      that the base is frozen, and draws the extractor between the layers. The U-Net is trained with the enhancement, and is one for
      encoder and decoder.
    - The decoder adds the first picture to what the synthesis makes. The paper only says that it is conditioned.
    - Where the three cross-attentions stand: image ← words at 1/4, words ← image and image ← words at 1/8, as in TACO, with TACO's
      gates. Without words the attentions are left out and the normalisation before each stays. Padding is masked.
    - Pictures above 1024 pixels are analysed in tiles, each with its halo. The windows are the whole picture's; words ← image looks
      at one tile at a time, so that words steer each tile by itself. The decoder has no words and no seams.
    - Captions: the paper names none for OpenImages. Training takes COCO's; a picture has no words in a tenth of the steps.
    - The rates' λ, the weights of the other terms, and the schedule: `losses/dual_layer.py` and the preset's recipe. One model has
      all rates, by gains around the quantiser; the paper has a model for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trifocal.codecs.codec import dtype_of
from trifocal.codecs.scalable import BaseLayer, ScalableCodec
from trifocal.detection.detector import SplitDetector
from trifocal.detection.faster_rcnn import CHANNELS, STRIDE, load_faster_rcnn
from trifocal.detection.feature_codec import BaseAnalysis, BaseSynthesis
from trifocal.detection.feature_codec import PreviewSynthesis as FirstPicture
from trifocal.detection.input_size import torchvision_size
from trifocal.entropy import EntropyModel
from trifocal.entropy.groups import elic_hyperprior
from trifocal.layers import QualityInterpolation
from trifocal.transforms.adapters import Extractor, Injector
from trifocal.transforms.extractor import ConditionedSynthesis, UNet, conditioned_reach
from trifocal.transforms.swin import GRID, SwinAnalysis, swin_reach
from trifocal.types import LATENT_STRIDE, MAX_LEVEL, Condition

GROUPS = (16, 16, 32, 64, 192)
QUALITY_KNOTS = 8
COARSEST = 2.5  # quantiser step at quality 0 before training; at 50 it is 1
GREY = 0.5


class TextGuided(ScalableCodec):
    """The enhancement layer: what is left of the first picture, coded under words.

    Args:
        base: the layer below.
        conditions: the first picture → what both sides know, at three scales.
        analysis, entropy, synthesis, reach: as those of any codec; `receptive_field` is a multiple of 64.
        inject_quarter: words into the features at 1/4.
        extract: the features at 1/8 into the words.
        inject_eighth: those words into the features at 1/8.
    """

    analysis: SwinAnalysis
    find_detector: Callable[[str], SplitDetector] = staticmethod(load_faster_rcnn)
    input_size: Callable[[int, int], tuple[int, int]] = staticmethod(torchvision_size)
    refinement = 0  # the detector has ten times the codec's work to do, and its weights are fetched
    scales = (1.33, 1.0, 1.67)  # a short side of 800 pixels is mostly more than the picture has

    def __init__(
        self,
        base: BaseLayer,
        conditions: UNet,
        analysis: SwinAnalysis,
        entropy: EntropyModel,
        synthesis: ConditionedSynthesis,
        receptive_field: int,
        inject_quarter: Injector,
        extract: Extractor,
        inject_eighth: Injector,
    ) -> None:
        super().__init__(base, analysis, entropy, synthesis, receptive_field)
        self.conditions = conditions
        self.inject_quarter = inject_quarter
        self.extract = extract
        self.inject_eighth = inject_eighth

    def analyse(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """x [B, 3, H, W] in 0..1, H and W multiples of 64, words for B pictures or for one → y [B, H/16, W/16, M]."""
        first = base_preview(condition, x, (len(x), x.shape[2], x.shape[3]))
        tokens, mask = words_of(condition, x)
        residual = (x.permute(0, 2, 3, 1) - first).to(dtype_of(self.analysis))
        features = self.analysis.quarter(residual, self._known(first, self.analysis))
        features = self.analysis.eighth(self.inject_quarter(features, tokens, mask))
        if tokens is not None:
            tokens = self.extract(tokens, features)
        y: Tensor = self.analysis.latent(self.inject_eighth(features, tokens, mask))
        return y.float()

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w]. Words are not looked at."""
        b, h, w, _ = y_hat.shape
        first = base_preview(condition, y_hat, (b, LATENT_STRIDE * h, LATENT_STRIDE * w))
        added = self.synthesis(y_hat.to(dtype_of(self.synthesis)), self._known(first, self.synthesis))
        return (first + added.float()).permute(0, 3, 1, 2)

    def _known(self, first: Tensor, of: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """c1, c½ and c¼ in the precision of the transform that takes them."""
        whole, half, quarter = self.conditions(first.to(dtype_of(self.conditions)))
        dtype = dtype_of(of)
        return whole.to(dtype), half.to(dtype), quarter.to(dtype)


def base_preview(condition: Condition | None, like: Tensor, size: tuple[int, int, int]) -> Tensor:
    """The first picture, [B, H, W, 3] for size B, H and W; grey where there is none, on the device of `like`."""
    if condition is None or condition.preview is None:
        return like.new_full((1,), GREY).expand(*size, 3)
    return condition.preview.pixels().permute(0, 2, 3, 1)


def words_of(condition: Condition | None, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Tokens [B, T, D] and mask [B, T], where there are any."""
    if condition is None or condition.words is None:
        return None, None
    words = condition.words.to(x.device)
    return words.tokens.expand(len(x), -1, -1), words.mask.expand(len(x), -1)


def dual_layer(
    channels: int = 192,
    sizes: Sequence[int] = GROUPS,
    hidden: tuple[int, int] = (224, 128),
    bottlenecks: int = 3,
    known: Sequence[int] = (32, 64, 128),
    swin_channels: int = 128,
    depths: Sequence[int] = (2, 4, 6),
    window: int = 8,
    word_channels: int = 512,
    heads: int = 8,
    features: int = CHANNELS,
    stride: int = STRIDE,
) -> TextGuided:
    """With untrained weights, at the size that the module's page names unless told otherwise. No detector is fetched.

    Args:
        channels: N of both layers.
        sizes: channels of ELIC's groups; their sum is M, of both layers.
        hidden: widths inside the channel contexts.
        bottlenecks: at each scale of the synthesis.
        known: channels of c1, c½ and c¼.
        swin_channels: of the analysis; a multiple of `heads`.
        depths: of its blocks at 1/2, 1/4 and 1/8.
        window: of its attentions, in places.
        word_channels: D of the text tower's tokens, a multiple of `heads`.
        heads: of all attentions.
        features, stride: of what the detector is cut at.
    """
    m = sum(sizes)
    steps = COARSEST ** (1 - torch.arange(QUALITY_KNOTS) * QualityInterpolation.SPACING / (MAX_LEVEL // 2))
    receptive_field = max(swin_reach(depths, window) + UNet.REACH, conditioned_reach(bottlenecks))
    return TextGuided(
        base=BaseLayer(
            BaseAnalysis(channels, m),
            elic_hyperprior(channels, sizes, steps, hidden),
            BaseSynthesis(m, channels, features),
            FirstPicture(features, stride, channels, blocks=2),
        ),
        conditions=UNet(known),
        analysis=SwinAnalysis(known, swin_channels, m, depths, heads, window),
        entropy=elic_hyperprior(channels, sizes, steps, hidden),
        synthesis=ConditionedSynthesis(known, channels, m, bottlenecks),
        receptive_field=receptive_field + -receptive_field % GRID,
        inject_quarter=Injector(swin_channels, word_channels, heads),
        extract=Extractor(swin_channels, word_channels, heads),
        inject_eighth=Injector(swin_channels, word_channels, heads),
    )
