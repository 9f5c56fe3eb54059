"""Small dual-layer codecs with random weights, and a detector for them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection as tv
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from helpers.codecs import randomise_weights, small_codec
from trifocal.codecs.base_layer import BaseLayer, ScalableTorchRuntime
from trifocal.codecs.dual_layer import dual_layer
from trifocal.codecs.dual_layer_compact import DETECTOR_CHANNELS, STRIDE, DualLayerCompact
from trifocal.codecs.scalable import ScalableCodec
from trifocal.detection.detector import DetectorRest, SplitBackbone, SplitDetector
from trifocal.detection.feature_codec import CompactBaseAnalysis, CompactBaseSynthesis, PreviewSynthesis
from trifocal.detection.input_size import compact_size
from trifocal.entropy import EntropyModel
from trifocal.layers import Conv
from trifocal.transforms import Analysis, Synthesis

TEXT_CHANNELS = 8
CONDITION_CHANNELS = (4, 4, 8)
small_input_size = partial(compact_size, area=96 * 96)  # input size of the small detector


class OneLevelRest(DetectorRest):
    """One convolution after the split, and a pyramid of one level."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Conv(8, 8, 3)

    def backbone_features(self, h: Tensor) -> list[Tensor]:
        return [h, self.stage(h)]

    def pyramid_levels(self, stages: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"0": stages[-1].permute(0, 3, 1, 2)}


def small_detector(device: str = "cpu") -> SplitDetector:
    """A Faster R-CNN of two classes whose backbone is one convolution; random weights."""
    torch.manual_seed(1)
    backbone = SplitBackbone(ChannelsLastStem(), OneLevelRest(), channels=8, stride=4, out_channels=8)
    network = tv.FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 2, 1),
        box_head=TwoMLPHead(8 * 4, 8),
        box_predictor=FastRCNNPredictor(8, 3),
        box_score_thresh=0.0,
    )
    return SplitDetector(network, (1, 2), small_input_size).eval().requires_grad_(False)


class ChannelsLastStem(nn.Module):
    """x [B, 3, H, W] → h [B, H/4, W/4, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 8, 3, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.stem(x.permute(0, 2, 3, 1))
        return h


DETECTOR = small_detector()


def small_dual_layer(seed: int = 0, gamma: float = 1.0) -> Any:
    """A small `dual-layer` codec with open gates and a base layer of several steps."""
    torch.manual_seed(seed)
    codec: Any = dual_layer(
        channels=8,
        sizes=(4, 4, 4),
        hidden=(4, 4),
        bottlenecks=1,
        condition_channels=CONDITION_CHANNELS,
        swin_channels=8,
        depths=(2, 1, 2),
        window=4,
        text_channels=TEXT_CHANNELS,
        heads=2,
        features=8,
    )
    codec.network.find_detector = lambda device: DETECTOR
    codec.network.input_size = small_input_size
    with torch.no_grad():
        network: Any = codec.network
        for injector in (network.inject_quarter, network.inject_eighth):
            injector.gamma.fill_(gamma)
        randomise_weights(codec, seed)
        y = codec.network.base.analysis(torch.rand(1, 3, 128, 128))
        codec.network.base.entropy.gain.log_gain.table.sub_(y.std().log())
        codec.network.base.entropy.exact_side.context.normalise.table.mul_(y.std())
    return codec


def small_dual_layer_compact(detector: SplitDetector) -> ScalableCodec:
    """A small codec of the classes of `dual-layer-compact`."""
    plain = small_codec(noise=0.0)
    torch.manual_seed(6)
    base = BaseLayer(
        CompactBaseAnalysis(24, 32, 1),
        EntropyModel(32, hyper_channels=8, width=16, blocks=1, step_sizes=torch.logspace(0.3, -0.6, 8)),
        CompactBaseSynthesis(32, 24, DETECTOR_CHANNELS, 1),
        PreviewSynthesis(DETECTOR_CHANNELS, STRIDE, 24, 1),
    )
    assert isinstance(plain.network.analysis, Analysis) and isinstance(plain.network.synthesis, Synthesis)
    codec = ScalableCodec(
        ScalableTorchRuntime(
            DualLayerCompact(
                base,
                plain.network.analysis,
                plain.network.entropy,
                plain.network.synthesis,
                plain.network.receptive_field,
            )
        )
    )
    codec.network.find_detector = lambda device: detector
    assert isinstance(codec.network.base.analysis, CompactBaseAnalysis)
    codec.network.base.analysis.init_from_detector(detector)
    return codec
