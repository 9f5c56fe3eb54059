"""The networks of a scalable codec: a base layer for a detector, and an enhancement layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trifocal.codecs.network import CodecNetwork, Estimate, check_images, quality_levels, rate_estimator
from trifocal.codecs.rate_control import REFINEMENT, default_base_quality
from trifocal.codecs.torch_runtime import TorchRuntime, as_array, image_tensor
from trifocal.detection.feature_codec import crop_features, pad_image
from trifocal.detection.input_size import STEP, base_latent_size, compact_size
from trifocal.entropy import EntropyModel, RateEstimator, TrainingRateEstimator
from trifocal.entropy.coder import Array
from trifocal.entropy.hyperprior import TorchCodingNetworks
from trifocal.types import (
    HYPER_LATENT_PIXELS,
    LATENT_STRIDE,
    LEVELS_PER_QUALITY,
    BasePreview,
    Condition,
    Output,
    PartialTile,
)
from trifocal.utils.timing import compiler_deferred, gc_paused

if TYPE_CHECKING:
    from trifocal.detection.detections import Detections
    from trifocal.detection.detector import SplitDetector

__all__ = ["BaseLayer", "BaseOutput", "BaseTorchRuntime", "ScalableNetwork", "ScalableTorchRuntime"]


@dataclass(frozen=True)
class BaseOutput:
    """The result of `BaseLayer.forward`.

    Attributes:
        h_hat: decoded detector features of x, [B, h, w, C].
        preview: the base preview, [B, 3, H, W], about 0..1.
        bits: of each image, [B].
    """

    h_hat: Tensor
    preview: Tensor
    bits: Tensor


class BaseLayer(nn.Module):
    """A small image ⇄ bytes ⇄ a detector's features. The detector is a separate module, trained separately.

    Args:
        analysis: x → y_obj [B, H/16, W/16, M].
        entropy: y_obj ⇄ coder ⇄ y_obj_hat.
        synthesis: y_obj_hat → h_hat.
        preview_synthesis: h_hat → the base preview (the paper calls it the extractor).
    """

    def __init__(
        self, analysis: nn.Module, entropy: EntropyModel, synthesis: nn.Module, preview_synthesis: nn.Module
    ) -> None:
        super().__init__()
        self.analysis, self.entropy = analysis, entropy
        self.synthesis, self.extractor = synthesis, preview_synthesis

    def forward(
        self, x: Tensor, level: Tensor, estimator: RateEstimator | TrainingRateEstimator | None = None
    ) -> BaseOutput:
        """x [B, 3, H, W] in 0..1, H and W multiples of 32; level [B]. The estimator counts the bits."""
        estimator = estimator or rate_estimator(self.entropy, x)
        y = self.analyse(x)
        with torch.autocast(x.device.type, enabled=False):  # rates need float32
            y_hat = self.entropy.code_latents(estimator, y.float(), level, (y.shape[1], y.shape[2]))
        h_hat, preview = self.synthesise(y_hat, (x.shape[2], x.shape[3]))
        return BaseOutput(h_hat, preview, torch.as_tensor(estimator.bits))

    def synthesise(self, y_hat: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """y_obj_hat → h_hat and the base preview of a small image of that height and width."""
        h_hat: Tensor = self.synthesis(y_hat)
        h_hat = crop_features(h_hat, LATENT_STRIDE * y_hat.shape[1] // h_hat.shape[1], size)
        preview: Tensor = self.extractor(h_hat)
        return h_hat, preview[:, :, : size[0], : size[1]]

    def analyse(self, x: Tensor) -> Tensor:
        """Small images x [B, 3, H, W] in 0..1 → y_obj."""
        y: Tensor = self.analysis(pad_image(x))
        return y


@gc_paused()
@compiler_deferred()
def bundled_detector(device: str) -> SplitDetector:
    """The bundled detector. Imports torchvision only when called. Raises WeightsError."""
    from trifocal.detection.detector import load_detector

    return load_detector(device)


class ScalableNetwork(CodecNetwork):
    """The network of a codec with a base layer. A subclass for each paper defines how `analyse` and
    `synthesise` use `condition.preview`.

    Args:
        base: the base layer.
        analysis, entropy, synthesis, receptive_field: as in `CodecNetwork`.

    Attributes:
        find_detector: device name → the detector of the base layer; decoding images does not need it.
        input_size: width and height of an image → those of the detector's input.
        refinement: default number of refinement steps of the base layer, which need the detector.
        random_base_quality: share of training steps in which the base has any quality from 0 to 100; in the
            others it has its default.
        scales: sizes of the base layer's input relative to a training crop; validation uses the first.
    """

    scales: tuple[float, ...] = (0.625, 0.5, 0.75)
    refinement = REFINEMENT
    random_base_quality = 0.5
    find_detector: Callable[[str], SplitDetector] = staticmethod(bundled_detector)
    input_size: Callable[[int, int], tuple[int, int]] = staticmethod(compact_size)

    def __init__(
        self,
        base: BaseLayer,
        analysis: nn.Module,
        entropy: EntropyModel,
        synthesis: nn.Module,
        receptive_field: int,
    ) -> None:
        super().__init__(analysis, entropy, synthesis, receptive_field)
        self.base = base

    @property
    def arithmetics(self) -> tuple[int, ...]:
        """Those of both entropy models, since a file has one arithmetic."""
        return tuple(number for number in super().arithmetics if number in self.base.entropy.arithmetics)

    def train(self, mode: bool = True) -> ScalableNetwork:
        """The base layer stays in evaluation mode: it is trained separately, and frozen while the enhancement
        learns.
        """
        super().train(mode)
        self.base.eval()
        return self

    @property
    def detector(self) -> SplitDetector:
        """The detector of the base layer, on the network's device. Raises WeightsError."""
        return self.find_detector(str(self.device))

    def _forward(
        self,
        x: Tensor,
        level: Tensor,
        condition: Condition | None,
        estimator: RateEstimator | TrainingRateEstimator | None,
        partial: Sequence[PartialTile | None] | None = None,
    ) -> Output:
        """If the condition has no preview, the base layer codes x at another scale and its bits count; it
        gets no gradient.
        """
        bits = x.new_zeros(len(x))
        if condition is None or condition.preview is None:
            preview, bits = self.simulate_base_layer(x, level)
            condition = replace(condition or Condition(), preview=preview)
        output = super()._forward(x, level, condition, estimator, partial)
        return replace(output, bits=output.bits + bits.to(output.bits))

    @torch.no_grad()
    def simulate_base_layer(self, x: Tensor, level: Tensor) -> tuple[BasePreview, Tensor]:
        """Base previews of crops and the bits of their base layers, [B], as a file would have them. Training
        draws the scale, and in a share of the steps base qualities from 0..100, since users may choose any.
        """
        scale = self.scales[int(torch.randint(len(self.scales), ()))] if self.training else self.scales[0]
        size = [max(STEP, round(side * scale / STEP) * STEP) for side in x.shape[2:]]
        quality = default_base_quality(level)
        if self.training and float(torch.rand(())) < self.random_base_quality:
            quality = torch.randint_like(level, 101)
        return self._preview(x, size, quality)

    def _preview(self, x: Tensor, size: list[int], quality: Tensor) -> tuple[BasePreview, Tensor]:
        small = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)
        output = self.base(small.clamp(0, 1), LEVELS_PER_QUALITY * quality)
        height, width = x.shape[2:]
        return BasePreview(output.preview, (width, height), (0, 0, width, height)), output.bits

    def estimate(
        self, x: Tensor, quality: float | Tensor = 50.0, condition: Condition | None = None
    ) -> Estimate:
        """As `CodecNetwork.estimate`, with the bits of the base layer at its default quality. The base layer
        is not refined here, and its bits have no gradient. The bit map spreads them evenly.
        """
        bits = x.new_zeros(len(x))
        if condition is None or condition.preview is None:
            check_images(x)
            level = quality_levels(quality, len(x), x.device)
            width, height = self.input_size(x.shape[3], x.shape[2])
            with torch.no_grad():
                preview, bits = self._preview(x, [height, width], default_base_quality(level))
            condition = replace(condition or Condition(), preview=preview)
        assert condition.preview is not None
        x0, y0, width, height = condition.preview.region
        region = (x0, y0, width + -width % HYPER_LATENT_PIXELS, height + -height % HYPER_LATENT_PIXELS)
        condition = replace(condition, preview=replace(condition.preview, region=region))
        enhancement = super().estimate(x, quality, condition)
        positions = enhancement.bit_map.shape[1] * enhancement.bit_map.shape[2]
        bits = bits.to(enhancement.bits)
        return replace(
            enhancement,
            bits=enhancement.bits + bits,
            bit_map=enhancement.bit_map + (bits / positions)[:, None, None],
        )


class BaseTorchRuntime:
    """`BaseRuntime` on the network's device."""

    def __init__(self, network: ScalableNetwork) -> None:
        self.network = network

    @property
    def refinement(self) -> int:
        return self.network.refinement

    @torch.inference_mode()
    def entropy(self, arithmetic: int | None = None) -> TorchCodingNetworks:
        return self.network.base.entropy.arrays(arithmetic or self.network.arithmetics[-1])

    def input_size(self, width: int, height: int) -> tuple[int, int]:
        return self.network.input_size(width, height)

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        return base_latent_size(width, height)

    @torch.inference_mode()
    def analyse(self, rgb: NDArray[np.uint8]) -> Array:
        return as_array(self.network.base.analyse(image_tensor(rgb, self.network.device)))

    def prepare_refinement(self) -> None:
        _ = self.network.detector

    @torch.inference_mode()
    def refine(self, rgb: NDArray[np.uint8], y: Array, level: int, steps: int) -> Array:
        detector = self.network.detector
        from trifocal.codecs.latent_refinement import refined  # imports what the detector has imported

        device = self.network.device
        x, latent = image_tensor(rgb, device), torch.from_numpy(y).to(device)
        levels = torch.tensor([level], device=device)
        return as_array(refined(self.network.base, detector, x, latent, levels, steps))

    @torch.inference_mode()
    def preview(self, y_hat: Array, size: tuple[int, int]) -> Array:
        return as_array(self._synthesise(y_hat, size)[1])

    @torch.inference_mode()
    def detect(self, y_hat: Array, size: tuple[int, int]) -> Detections:
        h_hat, _ = self._synthesise(y_hat, size)
        return self.network.detector.detect_from_features(h_hat, (size[1], size[0]))[0]

    def _synthesise(self, y_hat: Array, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        latent = torch.from_numpy(y_hat).to(self.network.device)
        return self.network.base.synthesise(latent, (size[1], size[0]))


class ScalableTorchRuntime(TorchRuntime):
    """`ScalableRuntime` on the network's device."""

    network: ScalableNetwork

    def __init__(self, network: ScalableNetwork) -> None:
        super().__init__(network)
        self.base = BaseTorchRuntime(network)

    @property
    def trust(self) -> Array:
        """As for `OnnxRuntime`, if the network is a `LatentResidualNetwork`."""
        network: Any = self.network
        return as_array(network.trust.detach())

    @torch.inference_mode()
    def preview_latent(self, condition: Condition) -> Array:
        """As for `OnnxRuntime`, if the network is a `LatentResidualNetwork`."""
        network: Any = self.network
        return as_array(network.preview_latent(self._tensors(condition)))
