"""The dual-layer codec: a base layer for a detector, an enhancement for people, and text.

The text steers the encoder of the enhancement.

T. Shen, J. Quan and Y. Liu, "Dual-Layer Image Codec with Text Guidance for Hybrid Visual Perception" (Santa
Clara University).

    image ── resize ── four convolutions ── y_obj ⇄ BASE ── h_hat ─┬─ the tail of Faster R-CNN ── objects
                                                                   └─ preview synthesis ── x_p ── U-Net ── c1, c½, c¼

    x − x_p, c1 ── 1/2, c½ ── 1/4, c¼ ── inject ── 1/8 ──┬── inject ── 1/16 ── y
    tokens ──────────────────────────────────┴───────────┴─ extract ─┘
    y ⇄ ENHANCEMENT ── y_hat, c ── synthesis, + x_p ── x_hat

Choices where the paper is silent, and differences from it:

    - The split layer is the output of `layer1` ("an early feature"), 256 channels at 1/4 of the resized
      image, whose short side is 800 pixels as for torchvision's detector. The base layer codes that feature.
    - The base's transforms: four 5×5 convolutions down and two up (`detection/feature_codec.py`). The entropy
      models of both layers are ELIC's, since the paper's reference for its spatial–channel context is of that
      family, with integer logistic tables and a prior of z that depends on the quality.
    - Channel counts: ELIC's N 192 and M 320 in both layers; the analysis as in Lu et al.'s transformer codec
      (`transforms/swin.py`); 32, 64 and 128 channels of c1, c½ and c¼.
    - The preview synthesis (the paper calls it the extractor) is trained with the base, and both are frozen
      while the enhancement is trained. The paper says that the base is frozen, and its figure has the
      extractor between the layers. The U-Net is trained with the enhancement and shared by encoder and
      decoder.
    - The decoder adds the preview to the output of the synthesis. The paper only says that it is conditioned.
    - The three cross-attentions: image ← text at 1/4, text ← image and image ← text at 1/8, as in TACO, with
      TACO's gates. Without a text the attentions are skipped and the normalisation before each stays. Padding
      is masked.
    - Images above 1024 pixels are analysed in tiles with a halo. Windows are aligned to the whole image; text
      ← image attends to one tile at a time, so a text steers each tile separately. The decoder uses no text
      and has no seams.
    - Captions: the paper names none for OpenImages. Training takes COCO's.
    - Training differs from the paper, and each difference can be switched off by a field of the recipe: a tenth
      of the steps have no text (`wordless=0`), crops are mirrored (`mirrored=0`), images are drawn by area
      (`sampling=uniform`), one in forty is held out (`held_out=0`), and values are rounded with a dead zone
      (`dead_zone=0`), in training and by `encode`. In `train base`, images are parts, mosaics, mirrored and
      recoloured (`augmentation=none`), one in forty is held out (`held_out=0`), values have a dead zone
      (`dead_zone=0`), and L_BCE is that of the objectness (`bce=classes`).
    - λ, the weights of the other terms, and the schedule: `losses/dual_layer.py` and the preset's recipe. One
      model has all rates, by gains around the quantiser; the paper has one model per rate, as `--lambda` trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trifocal.codecs.base_layer import BaseLayer, ScalableNetwork, ScalableTorchRuntime
from trifocal.codecs.network import module_dtype
from trifocal.codecs.scalable import ScalableCodec
from trifocal.detection.detector import SplitDetector
from trifocal.detection.faster_rcnn import CHANNELS, STRIDE, load_faster_rcnn
from trifocal.detection.feature_codec import BaseAnalysis, BaseSynthesis, PreviewSynthesis
from trifocal.detection.input_size import torchvision_size
from trifocal.entropy import EntropyModel
from trifocal.entropy.elic import elic_hyperprior
from trifocal.layers import QualityInterpolation
from trifocal.transforms.adapters import Extractor, Injector
from trifocal.transforms.conditioned import ConditionedSynthesis, UNet, conditioned_receptive_field
from trifocal.transforms.swin import GRID, SwinAnalysis, swin_receptive_field
from trifocal.types import LATENT_STRIDE, MAX_LEVEL, Condition

GROUPS = (16, 16, 32, 64, 192)
QUALITY_KNOTS = 8
COARSEST = 2.5  # initial quantiser step at quality 0; at 50 it is 1
GREY = 0.5


class TextGuided(ScalableNetwork):
    """The enhancement layer: the residual against the base preview, steered by a text.

    Args:
        base: the base layer.
        conditions: the base preview → conditions of analysis and synthesis, at three scales.
        analysis, entropy, synthesis, receptive_field: as in `CodecNetwork`; the last is a multiple of 64.
        inject_quarter: cross-attention from the features at 1/4 to the tokens.
        extract: cross-attention from the tokens to the features at 1/8.
        inject_eighth: cross-attention from the features at 1/8 to those tokens.
    """

    analysis: SwinAnalysis
    find_detector: Callable[[str], SplitDetector] = staticmethod(load_faster_rcnn)
    input_size: Callable[[int, int], tuple[int, int]] = staticmethod(torchvision_size)
    refinement = 0  # the detector costs ten times as much as the codec, and its weights are a download
    scales = (1.33, 1.0, 1.67)  # most images have a shorter side of less than 800 pixels

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
        """x [B, 3, H, W] in 0..1, H and W multiples of 64, texts for B images or for one → y [B, H/16, W/16,
        M].
        """
        preview = preview_pixels(condition, x, (len(x), x.shape[2], x.shape[3]))
        tokens, mask = tokens_in(condition, x)
        residual = (x.permute(0, 2, 3, 1) - preview).to(module_dtype(self.analysis))
        features = self.analysis.quarter(residual, self._conditions(preview, self.analysis))
        features = self.analysis.eighth(self.inject_quarter(features, tokens, mask))
        if tokens is not None:
            tokens = self.extract(tokens, features)
        y: Tensor = self.analysis.latent(self.inject_eighth(features, tokens, mask))
        return y.float()

    def synthesise(self, y_hat: Tensor, level: Tensor, condition: Condition | None = None) -> Tensor:
        """y_hat [B, h, w, M] → x_hat [B, 3, 16·h, 16·w]. The text has no effect."""
        b, h, w, _ = y_hat.shape
        preview = preview_pixels(condition, y_hat, (b, LATENT_STRIDE * h, LATENT_STRIDE * w))
        added = self.synthesis(
            y_hat.to(module_dtype(self.synthesis)), self._conditions(preview, self.synthesis)
        )
        return (preview + added.float()).permute(0, 3, 1, 2)

    def _conditions(self, preview: Tensor, transform: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """c1, c½ and c¼ in the dtype of a transform."""
        whole, half, quarter = self.conditions(preview.to(module_dtype(self.conditions)))
        dtype = module_dtype(transform)
        return whole.to(dtype), half.to(dtype), quarter.to(dtype)


def preview_pixels(condition: Condition | None, like: Tensor, size: tuple[int, int, int]) -> Tensor:
    """The base preview, [B, H, W, 3] for size B, H and W; grey without one, on the device of `like`."""
    if condition is None or condition.preview is None:
        return like.new_full((1,), GREY).expand(*size, 3)
    return condition.preview.pixels().permute(0, 2, 3, 1)


def tokens_in(condition: Condition | None, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Tokens [B, T, D] and mask [B, T], or None without text."""
    if condition is None or condition.text is None:
        return None, None
    text = condition.text.to(x.device)
    return text.tokens.expand(len(x), -1, -1), text.mask.expand(len(x), -1)


def dual_layer(
    channels: int = 192,
    sizes: Sequence[int] = GROUPS,
    hidden: tuple[int, int] = (224, 128),
    bottlenecks: int = 3,
    condition_channels: Sequence[int] = (32, 64, 128),
    swin_channels: int = 128,
    depths: Sequence[int] = (2, 4, 6),
    window: int = 8,
    text_channels: int = 512,
    heads: int = 8,
    features: int = CHANNELS,
    stride: int = STRIDE,
) -> ScalableCodec:
    """The codec with untrained weights, by default at the sizes in this module's docstring. Downloads no
    detector.

    Args:
        channels: N of both layers.
        sizes: channels of ELIC's groups; their sum is M, of both layers.
        hidden: widths inside the channel contexts.
        bottlenecks: at each scale of the synthesis.
        condition_channels: channels of c1, c½ and c¼.
        swin_channels: of the analysis; a multiple of `heads`.
        depths: of its blocks at 1/2, 1/4 and 1/8.
        window: of its attentions, in positions.
        text_channels: D of the text encoder's tokens, a multiple of `heads`.
        heads: of all attentions.
        features, stride: channels and stride of the detector's split layer.
    """
    m = sum(sizes)
    step_sizes = COARSEST ** (
        1 - torch.arange(QUALITY_KNOTS) * QualityInterpolation.SPACING / (MAX_LEVEL // 2)
    )
    receptive_field = max(
        swin_receptive_field(depths, window) + UNet.RECEPTIVE_FIELD, conditioned_receptive_field(bottlenecks)
    )
    network = TextGuided(
        base=BaseLayer(
            BaseAnalysis(channels, m),
            elic_hyperprior(channels, sizes, step_sizes, hidden),
            BaseSynthesis(m, channels, features),
            PreviewSynthesis(features, stride, channels, blocks=2),
        ),
        conditions=UNet(condition_channels),
        analysis=SwinAnalysis(condition_channels, swin_channels, m, depths, heads, window),
        entropy=elic_hyperprior(channels, sizes, step_sizes, hidden),
        synthesis=ConditionedSynthesis(condition_channels, channels, m, bottlenecks),
        receptive_field=receptive_field + -receptive_field % GRID,
        inject_quarter=Injector(swin_channels, text_channels, heads),
        extract=Extractor(swin_channels, text_channels, heads),
        inject_eighth=Injector(swin_channels, text_channels, heads),
    )
    return ScalableCodec(ScalableTorchRuntime(network))
