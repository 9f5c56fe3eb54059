"""The runtimes of the compact codecs on ONNX Runtime and NumPy, without torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trifocal.codecs.preview import preview_pixels
from trifocal.codecs.rate_control import REFINEMENT
from trifocal.codecs.text_importance import with_text_importance
from trifocal.container.fields import VERSION
from trifocal.detection.input_size import STEP, base_latent_size, compact_size
from trifocal.entropy.coder import Array
from trifocal.entropy.numpy_model import ARITHMETICS, NumpyCodingNetworks
from trifocal.entropy.numpy_networks import part
from trifocal.graphs.session import Graphs, network_record
from trifocal.pictures import Picture
from trifocal.types import DEAD_ZONE, HYPER_LATENT_PIXELS, Arrays, Condition
from trifocal.utils.arrays import image_array
from trifocal.utils.threads import Background
from trifocal.weights import DecodableFingerprints, check_arrays, fingerprint, kind_of_fingerprint

if TYPE_CHECKING:
    from trifocal.codecs.torch_runtime import TorchRuntime
    from trifocal.detection.detections import Detections

__all__ = ["BaseOnnxRuntime", "OnnxRuntime", "ScalableOnnxRuntime"]

FEATURE_STRIDE = 8  # of the compact detector's features


class OnnxRuntime:
    """`Runtime` of a compact codec.

    Args:
        name: of the preset.
        file_name: of its weights, for messages.
        weights: all tensors of its weight file, floats as float32.
        decodes: fingerprints of other weights whose files these weights decode.
        on_torch: makes the runtime of a new network with these weights on torch.
        dead_zone: of the quantiser.

    Raises:
        WeightsError: for weights that do not fit the preset.
    """

    arithmetics = ARITHMETICS

    def __init__(
        self,
        name: str,
        file_name: str,
        weights: Arrays,
        decodes: DecodableFingerprints,
        on_torch: Callable[[], TorchRuntime],
        dead_zone: float = DEAD_ZONE,
    ) -> None:
        sizes = network_record(name)
        check_arrays(weights, sizes["tensors"], file_name)
        self.receptive_field: int = sizes["receptive_field"]
        self.latent_channels: int = sizes["latent_channels"]
        self.has_importance_map: bool = sizes["reads_importance"]
        self.weights, self.decodes, self.on_torch = weights, decodes, on_torch
        self.graphs = Graphs(name, weights)
        self._entropy = entropy_models(weights, "entropy.", self.graphs, "hyper_analysis", dead_zone)
        self._fingerprints: dict[tuple[int, int], Background[int | None]] = {}
        self._begin_fingerprint(VERSION, self.arithmetics[-1])  # of new files; it takes 20 ms

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxRuntime:
        """Return this runtime itself: its weights never change. `on_torch` makes one whose weights can."""
        return self

    def fingerprint(self, version: int, arithmetic: int, refresh: bool = True) -> int | None:
        """The weights never change here, so `refresh` has no effect."""
        return self._begin_fingerprint(version, arithmetic).result()

    def _begin_fingerprint(self, version: int, arithmetic: int) -> Background[int | None]:
        key = version, arithmetic
        if key not in self._fingerprints:
            self._fingerprints[key] = Background(partial(fingerprint, self.weights, *key))
        return self._fingerprints[key]

    def decodable_fingerprints(self, version: int, arithmetic: int) -> frozenset[int]:
        return self.decodes.get(kind_of_fingerprint(version, arithmetic), frozenset())

    def entropy(self, arithmetic: int | None = None) -> NumpyCodingNetworks:
        return self._entropy[arithmetic or self.arithmetics[-1]]

    def prepare(self, picture: Picture, condition: Condition[Any] | None) -> Condition[Any] | None:
        if not self.has_importance_map:
            return condition
        from trifocal.text.compact_onnx import text_probability

        return with_text_importance(picture, condition, text_probability)

    def analyse(self, rgb: NDArray[np.uint8], condition: Condition[Any] | None) -> Array:
        side = self._side("analysis", condition)
        given = {} if side is None else {side: side_input(side, condition)}
        graph = "analysis" if side is None else f"analysis.{side}"
        (y,) = self.graphs.run(graph, x=image_array(rgb), **given)
        if not self.has_importance_map:
            return y
        sent = None if condition is None else condition.importance_map
        importance = np.zeros(y.shape[:3], np.float32) if sent is None else np.asarray(sent, np.float32)
        return np.concatenate([y, importance[..., None]], axis=-1)

    def synthesise(self, y_hat: Array, level: int, condition: Condition[Any] | None) -> Array:
        side = self._side("synthesis", condition)
        given = {} if side is None else {"given": side_input(side, condition)}
        graph = "synthesis" if side is None else f"synthesis.{side}"
        if side == "preview" and condition is not None and condition.kept is not None:
            y_hat = y_hat + self.preview_latent(condition) * (1 - self.trust) * ~condition.kept[..., None]
        return self.graphs.run(graph, y_hat=y_hat, level=np.array([level]), **given)[0]

    @property
    def trust(self) -> Array:
        """The weight of the preview's coefficients in the prediction, [M], for a codec that has one."""
        return self.weights["trust"]

    def preview_latent(self, condition: Condition[Any]) -> Array:
        """The coefficients of the base preview, [1, h, w, M]."""
        return self.graphs.run("preview_latent", given=side_input("preview", condition))[0]

    def _side(self, transform: str, condition: Condition[Any] | None) -> str | None:
        """The side input of the condition that a transform takes."""
        return next(
            (
                name
                for name in ("preview", "text", "preference")
                if getattr(condition, name, None) is not None and f"{transform}.{name}" in self.graphs
            ),
            None,
        )


class BaseOnnxRuntime:
    """`BaseRuntime` of the compact base layer.

    Args:
        graphs, weights: of the whole preset.
        dead_zone: of the base layer's quantiser.
    """

    refinement, arithmetics = REFINEMENT, ARITHMETICS

    def __init__(self, graphs: Graphs, weights: Arrays, dead_zone: float = DEAD_ZONE) -> None:
        self.graphs = graphs
        self._entropy = entropy_models(weights, "base.entropy.", graphs, "base.hyper_analysis", dead_zone)

    def entropy(self, arithmetic: int | None = None) -> NumpyCodingNetworks:
        return self._entropy[arithmetic or self.arithmetics[-1]]

    def input_size(self, width: int, height: int) -> tuple[int, int]:
        return compact_size(width, height)

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        return base_latent_size(width, height)

    def analyse(self, rgb: NDArray[np.uint8]) -> Array:
        high, wide = (-side % HYPER_LATENT_PIXELS for side in rgb.shape[:2])
        padded = np.pad(rgb, ((0, high), (0, wide), (0, 0)), mode="edge")
        return self.graphs.run("base.analysis", given=image_array(padded))[0]

    def prepare_refinement(self) -> None:
        both, detector = self._refinement_graphs()
        both.prefetch("base.refinement")  # takes longest
        self.graphs.prefetch("base.analysis")
        detector.prefetch("reference")

    def _refinement_graphs(self) -> tuple[Graphs, Graphs]:
        """The graphs of the preset with the detector's weights too, and those of the detector."""
        from trifocal.detection.compact_onnx import load_compact_detector

        detector = load_compact_detector().graphs
        return self.graphs.with_weights(detector.weights), detector

    def refine(self, rgb: NDArray[np.uint8], y: Array, level: int, steps: int) -> Array:
        if not steps:
            return y
        from trifocal.codecs.refinement_steps import refined_array

        return refined_array(*self._refinement_graphs(), self.entropy(), image_array(rgb), y, level, steps)

    def preview(self, y_hat: Array, size: tuple[int, int]) -> Array:
        (first,) = self.graphs.run("base.extractor", given=self._features(y_hat, size))
        return first[:, :, : size[1], : size[0]]

    def detect(self, y_hat: Array, size: tuple[int, int]) -> Detections:
        from trifocal.detection.compact_onnx import load_compact_detector

        detector = load_compact_detector()
        detector.prefetch()
        return detector.detect_from_features(self._features(y_hat, size), (size[1], size[0]))

    def _features(self, y_hat: Array, size: tuple[int, int]) -> Array:
        (h_hat,) = self.graphs.run("base.synthesis", given=y_hat)
        columns, rows = (-(-side // STEP) * STEP // FEATURE_STRIDE for side in size)
        return h_hat[:, :rows, :columns]


class ScalableOnnxRuntime(OnnxRuntime):
    """`ScalableRuntime` of the compact codec with a base layer."""

    def __init__(self, *arguments: Any, base_dead_zone: float = DEAD_ZONE) -> None:
        """Arguments as for `OnnxRuntime`, and the dead zone of the base layer's quantiser."""
        super().__init__(*arguments)
        self.base = BaseOnnxRuntime(self.graphs, self.weights, base_dead_zone)


def entropy_models(
    weights: Arrays, prefix: str, graphs: Graphs, hyper_analysis: str, dead_zone: float
) -> dict[int, NumpyCodingNetworks]:
    """The entropy model with the weights below a prefix, in each arithmetic. Its networks are built on first
    use.
    """
    own = part(weights, prefix)

    def analyse(scaled: Array, level: Array) -> Array:
        return graphs.run(hyper_analysis, scaled=scaled, level=level)[0]

    return {number: NumpyCodingNetworks(own, analyse, dead_zone, number) for number in ARITHMETICS}


def side_input(name: str, condition: Any) -> Array:
    """The input of a graph for a side input of the condition."""
    if name == "preview":
        return preview_pixels(condition.preview)
    given: Array = condition.text.pooled if name == "text" else condition.preference
    return given
