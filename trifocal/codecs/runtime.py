"""The interface between a codec and the engine that runs its networks, on NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trifocal.container import Header
from trifocal.entropy.coder import Array
from trifocal.entropy.latent_coding import CodingNetworks
from trifocal.pictures import Picture
from trifocal.types import Condition

if TYPE_CHECKING:
    from trifocal.detection.detections import Detections

__all__ = ["BaseRuntime", "Runtime", "ScalableRuntime", "file_arithmetic"]


class Runtime(Protocol):
    """The networks of a codec.

    Attributes:
        receptive_field: of analysis and synthesis, pixels to each side, a multiple of 16.
        latent_channels: M.
        has_importance_map: whether latents have an importance map as one more channel, which is coded before
            them.
        arithmetics: ids of those in which the entropy model codes; new files use the last. See FORMAT.md.
    """

    receptive_field: int
    latent_channels: int
    has_importance_map: bool

    @property
    def arithmetics(self) -> tuple[int, ...]: ...

    def fingerprint(self, version: int, arithmetic: int, refresh: bool = True) -> int | None:
        """The fingerprint of the current weights in a version of the file format; see
        `weights.fingerprint`. With `refresh` False, the cached one, without reading the weights again.
        """
        ...

    def decodable_fingerprints(self, version: int, arithmetic: int) -> frozenset[int]:
        """Fingerprints of other weights whose files these weights decode; see docs/research.md."""
        ...

    def entropy(self, arithmetic: int | None = None) -> CodingNetworks:
        """The entropy model with the current weights; in the last of `arithmetics` if None."""
        ...

    def prepare(self, picture: Picture, condition: Condition[Any] | None) -> Condition[Any] | None:
        """Compute the parts of the condition that depend on the whole image, before its tiles are
        analysed.
        """
        ...

    def analyse(self, rgb: NDArray[np.uint8], condition: Condition[Any] | None) -> Array:
        """rgb [H, W, 3] with sides that are multiples of 16 → y [1, H/16, W/16, M], float32."""
        ...

    def synthesise(self, y_hat: Array, level: int, condition: Condition[Any] | None) -> Array:
        """y_hat [1, h, w, M] → x_hat [1, 3, 16·h, 16·w], float32, about 0..1."""
        ...


class BaseRuntime(Protocol):
    """The networks of a base layer, which codes a small image of a detector's input size.

    Attributes:
        refinement: default number of refinement steps.
    """

    refinement: int

    def entropy(self, arithmetic: int | None = None) -> CodingNetworks:
        """As `Runtime.entropy`."""
        ...

    def input_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the small image for an image of that size."""
        ...

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of the latent of a small image of that width and height."""
        ...

    def analyse(self, rgb: NDArray[np.uint8]) -> Array:
        """The small image [H, W, 3] → its latent [1, h, w, M], float32."""
        ...

    def prepare_refinement(self) -> None:
        """Begin to load what `refine` needs. Raises WeightsError without a detector."""
        ...

    def refine(self, rgb: NDArray[np.uint8], y: Array, level: int, steps: int) -> Array:
        """The latent after a number of gradient steps towards the detector's output. Raises WeightsError
        without a detector.
        """
        ...

    def preview(self, y_hat: Array, size: tuple[int, int]) -> Array:
        """Decoded latent → the small image of that width and height, [1, 3, height, width], float32, about
        0..1.
        """
        ...

    def detect(self, y_hat: Array, size: tuple[int, int]) -> Detections:
        """Decoded latent → objects, in pixels of the small image of that width and height. Raises
        WeightsError.
        """
        ...


class ScalableRuntime(Runtime, Protocol):
    """The networks of a codec with a base layer."""

    base: BaseRuntime


def file_arithmetic(runtime: Runtime, header: Header, refresh: bool = True) -> int | None:
    """The arithmetic of a file with this fingerprint; None if the weights do not decode it.

    Args:
        refresh: recompute the fingerprint of the weights; False uses the cached one.
    """
    version, mark = header.version, header.fingerprint
    for number in reversed(runtime.arithmetics):
        own = runtime.fingerprint(version, number, refresh)
        if mark == own or mark in runtime.decodable_fingerprints(version, number):
            return number
    return None
