"""The modules that are exported as graphs: codec, detector and text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim
from torchvision.ops import roi_align

from trifocal.codecs.base_layer import BaseLayer, ScalableNetwork
from trifocal.codecs.dual_layer_compact import LatentResidualNetwork
from trifocal.codecs.gradient_graph import GradientGraph
from trifocal.codecs.latent_refinement import feature_cost, reference
from trifocal.codecs.network import CodecNetwork
from trifocal.codecs.refinement_steps import REFERENCE
from trifocal.codecs.roi import RoiNetwork
from trifocal.detection.detector import SplitDetector
from trifocal.detection.image_encoder import ImageEncoder
from trifocal.detection.proposals import CompactProposals
from trifocal.detection.pyramid import STRIDES
from trifocal.detection.roi_head import SIDE as ROI_SIDE
from trifocal.detection.two_stage import DetectorNetwork, FirstStage
from trifocal.entropy import EntropyModel
from trifocal.text.compact import TextTransformer
from trifocal.text.grounding import GroundingHead
from trifocal.types import BasePreview, Condition, TextEmbedding

__all__ = ["Source", "codec_sources", "detector_sources", "text_sources"]

SAMPLING = 2  # of RoIAlign, as in torchvision's Faster R-CNN


@dataclass(frozen=True)
class Source:
    """A module and how to export it.

    Attributes:
        module: its weights have the names of the weight file, or these after "network.".
        inputs: an example of each input.
        dynamic: for each input, the sizes that vary: {axis: `torch.export.Dim`}.
        outputs: their names.
        variadic: whether the module takes its inputs as `*inputs`.
        large: whether optimising the graph for a processor takes longer than running it, so that it is opened
            as it was exported.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, dict[int, Any]]
    outputs: tuple[str, ...]
    variadic: bool = False
    large: bool = False


@dataclass(frozen=True)
class Pixels:
    """A base preview at full resolution, where the networks expect a `BasePreview`."""

    values: Tensor

    def pixels(self) -> Tensor:
        return self.values


class AnalysisGraph(nn.Module):
    """x, and the preview where there is one → y without the importance map."""

    def __init__(self, network: CodecNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, preview: Tensor | None = None) -> Tensor:
        condition = condition_from(preview=preview)
        if isinstance(self.network, RoiNetwork):  # its analysis appends the map
            return super(RoiNetwork, self.network).analyse(x, condition)
        return self.network.analyse(x, condition)


class SynthesisGraph(nn.Module):
    """y_hat, level, and the side input where there is one → x_hat."""

    def __init__(self, network: CodecNetwork, side: str = "") -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, y_hat: Tensor, level: Tensor, given: Tensor | None = None) -> Tensor:
        condition = condition_from(**{self.side: given}) if self.side else None
        return self.network.synthesise(y_hat, level, condition)


class PreviewLatentGraph(nn.Module):
    """The preview → its coefficients."""

    def __init__(self, network: LatentResidualNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, given: Tensor) -> Tensor:
        latent = self.network.preview_latent(condition_from(preview=given))
        assert latent is not None
        return latent


class HyperAnalysisGraph(nn.Module):
    """The scaled latent and its level → z."""

    def __init__(self, network: CodecNetwork, base: bool = False) -> None:
        super().__init__()
        self.network, self.base = network, base

    @property
    def entropy(self) -> EntropyModel:
        return cast(ScalableNetwork, self.network).base.entropy if self.base else self.network.entropy

    def forward(self, scaled: Tensor, level: Tensor) -> Tensor:
        z: Tensor = self.entropy.hyper_analysis(scaled * self.entropy.exact_side.context.normalise(level))
        return z


class BaseGraph(nn.Module):
    """One part of the base layer: `analysis`, `synthesis` or `extractor`."""

    def __init__(self, network: ScalableNetwork, part: str) -> None:
        super().__init__()
        self.network, self.part = network, part

    def forward(self, given: Tensor) -> Tensor:
        result: Tensor = getattr(self.network.base, self.part)(given)
        return result


class FrontGraph(nn.Module):
    """x [1, 3, H, W] in 0..1, H and W multiples of 32 → the detector's features h."""

    def __init__(self, detector: SplitDetector) -> None:
        super().__init__()
        self.network = detector

    def forward(self, x: Tensor) -> Tensor:
        return self.network.front_features(x)


class ProposalsGraph(nn.Module):
    """h → the levels of the pyramid, and class logits and boxes of all grid points."""

    def __init__(self, detector: SplitDetector) -> None:
        super().__init__()
        self.network = detector

    def forward(self, h: Tensor) -> tuple[Tensor, ...]:
        levels = self.network.backbone.rest(h)
        dense = cast(CompactProposals, self.network.network.rpn)(levels)
        return (*levels.values(), dense.classes, dense.boxes, dense.points)


class SecondStageGraph(nn.Module):
    """The levels, and N proposals → their class probabilities [N, K] and boxes [N, 4].

    `chosen` are the clipped boxes [N, 4], and `level` selects the pyramid level of each, one-hot [N, 4].
    """

    def __init__(self, detector: SplitDetector) -> None:
        super().__init__()
        self.network = detector

    def forward(
        self,
        level0: Tensor,
        level1: Tensor,
        level2: Tensor,
        level3: Tensor,
        chosen: Tensor,
        level: Tensor,
        classes: Tensor,
        boxes: Tensor,
        points: Tensor,
    ) -> tuple[Tensor, Tensor]:
        heads = self.network.network.roi_heads
        rois = torch.cat([torch.zeros_like(chosen[:, :1]), chosen], dim=1)
        aligned = sum(
            level[:, number, None, None, None] * roi_align(one, rois, ROI_SIDE, 1 / stride, SAMPLING)
            for number, (one, stride) in enumerate(zip((level0, level1, level2, level3), STRIDES))
        )
        more, offsets = heads.box_predictor(heads.box_head(aligned), classes, boxes, points)
        return (classes + more).sigmoid(), heads.box_coder.decode_single(offsets, boxes)


class ReferenceGraph(nn.Module):
    """x → the detector's features that latent refinement compares with: the stages of the backbone, the
    pyramid, class logits and bins.
    """

    def __init__(self, detector: SplitDetector) -> None:
        super().__init__()
        self.network = detector

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = reference(self.network, x)
        assert found.classes is not None and found.bins is not None
        return (*found.stages, *found.pyramid.values(), found.classes, found.bins)


class FeatureCost(nn.Module):
    """y_obj_hat, x and the outputs of `ReferenceGraph` → the cost that latent refinement lowers, without the
    rate. Its weights have the names of those of the base layer and of the detector.
    """

    def __init__(self, network: ScalableNetwork, detector: SplitDetector) -> None:
        super().__init__()
        self.network = nn.Module()
        self.network.base, self.network.network = network.base, detector.network

    def forward(self, y_hat: Tensor, x: Tensor, *reference: Tensor) -> Tensor:
        *maps, classes, bins = reference
        pyramid = {str(number): level for number, level in enumerate(maps[3:])}
        wanted = FirstStage(maps[:3], pyramid, classes.amax(2), classes, bins)
        base = cast(BaseLayer, self.network.base)
        decoded = base.synthesise(y_hat, (x.shape[2], x.shape[3]))
        return feature_cost(cast(DetectorNetwork, self.network.network), wanted, x, *decoded).sum()


class TextGraph(nn.Module):
    """Token ids and mask [1, T] → token embeddings and the pooled embedding."""

    def __init__(self, text: TextTransformer) -> None:
        super().__init__()
        self.text = text

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.text(ids, mask)
        return embedding.tokens, embedding.pooled


class GroundingGraph(nn.Module):
    """x, tokens and mask → the probability that the text names a position."""

    def __init__(self, image: ImageEncoder, ground: GroundingHead) -> None:
        super().__init__()
        self.image, self.ground = image, ground

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        features = self.image(x).feature_maps[-1]
        logits: Tensor = self.ground(features, TextEmbedding(tokens, mask, tokens[:, 0]))
        return logits.sigmoid()


def condition_from(**sides: Tensor | None) -> Condition | None:
    """The condition with a preview in pixels, a pooled text embedding, or a preference."""
    found = {name: value for name, value in sides.items() if value is not None}
    if not found:
        return None
    if "preview" in found:
        return Condition(preview=cast(BasePreview, Pixels(found["preview"])))
    if "text" in found:
        return Condition(text=TextEmbedding(found["text"], found["text"], found["text"]))
    return Condition(preference=found["preference"])


def codec_sources(network: CodecNetwork, sides: Sequence[str]) -> dict[str, Source]:
    """The graphs of a compact codec: "analysis", "synthesis" and "hyper_analysis"; one more synthesis for
    each side input, such as "synthesis.text", and one more analysis for "preview"; and those of a base layer.

    Args:
        network: in evaluation mode.
        sides: side inputs of the synthesis: "text", "preference", "preview".
    """
    h, w = Dim("h", max=4096), Dim("w", max=4096)
    m = network.entropy.latent_channels
    level, y = torch.tensor([400]), torch.zeros(1, 12, 8, m)
    x, of_x, of_y = torch.zeros(1, 3, 192, 128), {2: 16 * h, 3: 16 * w}, {1: h, 2: w}
    examples = {"preview": torch.ones_like(x), "text": torch.zeros(1, 256), "preference": torch.ones(1)}
    found = {
        "analysis": Source(AnalysisGraph(network), {"x": x}, {"x": of_x}, ("y",)),
        "synthesis": Source(
            SynthesisGraph(network), {"y_hat": y, "level": level}, {"y_hat": of_y, "level": {}}, ("x_hat",)
        ),
        "hyper_analysis": hyper_source(HyperAnalysisGraph(network), m),
    }
    for side in sides:
        varying = of_x if side == "preview" else {}
        found[f"synthesis.{side}"] = Source(
            SynthesisGraph(network, side),
            {"y_hat": y, "level": level, "given": examples[side]},
            {"y_hat": of_y, "level": {}, "given": varying},
            ("x_hat",),
        )
    if "preview" in sides:
        found["analysis.preview"] = Source(
            AnalysisGraph(network),
            {"x": x, "preview": examples["preview"]},
            {"x": of_x, "preview": of_x},
            ("y",),
        )
    if isinstance(network, ScalableNetwork):
        found |= base_sources(network)
    if isinstance(network, LatentResidualNetwork):
        preview = {"given": examples["preview"]}
        found["preview_latent"] = Source(PreviewLatentGraph(network), preview, {"given": of_x}, ("y",))
    return found


def base_sources(network: ScalableNetwork) -> dict[str, Source]:
    h, w = Dim("h", max=4096), Dim("w", max=4096)
    m = network.base.entropy.latent_channels
    inputs = {
        "analysis": (torch.zeros(1, 3, 192, 128), {2: 64 * h, 3: 64 * w}, "y"),
        "synthesis": (torch.zeros(1, 12, 8, m), {1: h, 2: w}, "h_hat"),
        "extractor": (torch.zeros(1, 24, 16, 96), {1: h, 2: w}, "preview"),
    }
    found = {
        f"base.{part}": Source(BaseGraph(network, part), {"given": given}, {"given": varying}, (output,))
        for part, (given, varying, output) in inputs.items()
    }
    found["base.hyper_analysis"] = hyper_source(HyperAnalysisGraph(network, base=True), m)
    return found | {"base.refinement": refinement_source(network)}


def refinement_source(network: ScalableNetwork) -> Source:
    """The gradient of `FeatureCost` by y_hat."""
    detector = network.find_detector("cpu")
    x = torch.rand(1, 3, 288, 416)  # no size equals another or a number of channels, which tracing would join
    with torch.inference_mode(False), torch.no_grad():
        maps = [x, *(own.contiguous() for own in ReferenceGraph(detector)(x))]
    inputs = {"y_hat": torch.randn(1, 20, 28, network.base.entropy.latent_channels)}
    inputs |= dict(zip(REFERENCE, maps, strict=True))
    sides = [(1, 2), (2, 3), *[(1, 2)] * 3, *[(2, 3)] * 4, (1,), (1,)]
    dynamic = {name: dict.fromkeys(axes, Dim.AUTO) for name, axes in zip(inputs, sides, strict=True)}
    module = GradientGraph(FeatureCost(network, detector), list(inputs.values()))
    return Source(module, inputs, dynamic, ("gradient",), variadic=True, large=True)


def hyper_source(module: HyperAnalysisGraph, channels: int) -> Source:
    h, w = Dim("h", max=4096), Dim("w", max=4096)
    inputs = {"scaled": torch.zeros(1, 12, 8, channels), "level": torch.tensor([400])}
    return Source(module, inputs, {"scaled": {1: 4 * h, 2: 4 * w}, "level": {}}, ("z",))


def detector_sources(detector: SplitDetector) -> dict[str, Source]:
    """The graphs of the bundled detector: "front", "reference", "proposals" and "second_stage"."""
    h, w, n = Dim("h", max=256), Dim("w", max=256), Dim("n", max=400)
    with torch.inference_mode(False), torch.no_grad():
        x = torch.rand(1, 3, 192, 128)
        features = detector.front_features(x)
        *levels, classes, boxes, points = ProposalsGraph(detector)(features)
    some = slice(0, 5)
    named = {f"level{number}": level for number, level in enumerate(levels)}
    sides = {
        f"level{number}": {2: Dim(f"rows{number}", max=256), 3: Dim(f"columns{number}", max=256)}
        for number in range(len(levels))
    }
    return {
        "front": Source(FrontGraph(detector), {"x": x}, {"x": {2: 32 * h, 3: 32 * w}}, ("h",)),
        "reference": Source(
            ReferenceGraph(detector), {"x": x}, {"x": {2: 32 * h, 3: 32 * w}}, REFERENCE[1:], large=True
        ),
        "proposals": Source(
            ProposalsGraph(detector),
            {"h": features},
            {"h": {1: 4 * h, 2: 4 * w}},
            (*named, "classes", "boxes", "points"),
        ),
        "second_stage": Source(
            SecondStageGraph(detector),
            named
            | {
                "chosen": boxes[0, some],
                "level": torch.eye(len(levels))[[0, 1, 2, 3, 0]],
                "classes": classes[0, some],
                "boxes": boxes[0, some],
                "points": points[some].float(),
            },
            sides | {name: {0: n} for name in ("chosen", "level", "classes", "boxes", "points")},
            ("scores", "refined"),
        ),
    }


def text_sources(text: TextTransformer, image: ImageEncoder, ground: GroundingHead) -> dict[str, Source]:
    """The graphs of the bundled text encoder, "text", and of the grounding head, "grounding"."""
    h, w, t = Dim("h", max=64), Dim("w", max=64), Dim("t", max=64)
    ids, mask = torch.arange(7)[None], torch.ones(1, 7, dtype=torch.bool)
    return {
        "text": Source(
            TextGraph(text), {"ids": ids, "mask": mask}, {"ids": {1: t}, "mask": {1: t}}, ("tokens", "pooled")
        ),
        "grounding": Source(
            GroundingGraph(image, ground),
            {"x": torch.zeros(1, 3, 192, 128), "tokens": torch.zeros(1, 7, 256), "mask": mask},
            {"x": {2: 16 * h, 3: 16 * w}, "tokens": {1: t}, "mask": {1: t}},
            ("p",),
        ),
    }
