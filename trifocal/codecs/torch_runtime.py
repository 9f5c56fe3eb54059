"""The runtime of a codec on torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trifocal.codecs.network import CodecNetwork
from trifocal.entropy.coder import Array
from trifocal.entropy.hyperprior import TorchCodingNetworks
from trifocal.pictures import Picture
from trifocal.types import Condition
from trifocal.weights import (
    DecodableFingerprints,
    checksum,
    checksum_without_synthesis,
    fingerprint,
    kind_of_fingerprint,
)

__all__ = ["TorchRuntime", "as_array", "image_tensor"]


class TorchRuntime:
    """`Runtime` on the network's device.

    Args:
        network: in evaluation mode. Its weights may change between calls.
    """

    def __init__(self, network: CodecNetwork) -> None:
        self.network = network
        self.receptive_field = network.receptive_field
        self.latent_channels = network.entropy.latent_channels
        self.has_importance_map = network.has_importance_map
        self._accepted: DecodableFingerprints = {}
        self._accepted_checksum: tuple[int, ...] = ()
        self._checksum: tuple[int, ...] = ()
        self._fingerprints: dict[tuple[int, int], int | None] = {}

    @property
    def arithmetics(self) -> tuple[int, ...]:
        return self.network.arithmetics

    def fingerprint(self, version: int, arithmetic: int, refresh: bool = True) -> int | None:
        key = version, arithmetic
        if not refresh and key in self._fingerprints:
            return self._fingerprints[key]
        now = checksum(self.network)
        if now != self._checksum:
            self._checksum, self._fingerprints = now, {}
        if key not in self._fingerprints:
            self._fingerprints[key] = fingerprint(self.network.state_dict(), version, arithmetic)
        return self._fingerprints[key]

    def decodable_fingerprints(self, version: int, arithmetic: int) -> frozenset[int]:
        fingerprints = self._accepted.get(kind_of_fingerprint(version, arithmetic), frozenset())
        if fingerprints and self._accepted_checksum != checksum_without_synthesis(self.network):
            return frozenset()
        return fingerprints

    def accept_fingerprints(self, fingerprints: DecodableFingerprints) -> None:
        """Accept the files of other weights until a weight outside the synthesis changes; see
        `weights.read_decodable_fingerprints`.
        """
        self._accepted = fingerprints
        self._accepted_checksum = checksum_without_synthesis(self.network)

    @torch.inference_mode()
    def entropy(self, arithmetic: int | None = None) -> TorchCodingNetworks:
        return self.network.entropy.arrays(arithmetic or self.arithmetics[-1])

    @torch.inference_mode()
    def prepare(self, picture: Picture, condition: Condition[Any] | None) -> Condition[Any] | None:
        return self.network.prepare(picture, self._tensors(condition))

    @torch.inference_mode()
    def analyse(self, rgb: NDArray[np.uint8], condition: Condition[Any] | None) -> Array:
        y = self.network.analyse(image_tensor(rgb, self.network.device), self._tensors(condition))
        return as_array(y)

    @torch.inference_mode()
    def synthesise(self, y_hat: Array, level: int, condition: Condition[Any] | None) -> Array:
        device = self.network.device
        latent, levels = torch.from_numpy(y_hat).to(device), torch.tensor([level], device=device)
        return as_array(self.network.synthesise(latent, levels, self._tensors(condition)))

    def _tensors(self, condition: Condition[Any] | None) -> Condition | None:
        return None if condition is None else condition.to(self.network.device)


def image_tensor(rgb: NDArray[np.uint8], device: torch.device) -> Tensor:
    """[H, W, 3] uint8 → [1, 3, H, W] in 0..1."""
    return torch.tensor(rgb, device=device).permute(2, 0, 1)[None].float() / 255


def as_array(values: Tensor) -> Array:
    array: Array = values.cpu().numpy()
    return array
