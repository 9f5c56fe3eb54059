"""Networks that sum in another order or precision, and the comparison of what they decode."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from helpers.fixed_point import layers_in
from helpers.images import random_rgb
from trifocal.codecs.codec import Codec
from trifocal.entropy import RateEstimator, Reader, Writer
from trifocal.entropy.fixed_point import Linear
from trifocal.entropy.fixed_point_networks import FixedPointNetworks
from trifocal.entropy.integer_networks import (
    IntegerConv,
    IntegerDeconv,
    IntegerLinear,
    IntegerPlacedLinear,
    to_grid,
)
from trifocal.errors import Damaged
from trifocal.layers import PlacedLinear


class ReorderedLinear(nn.Module):
    """A linear layer that adds its input channels up in another order, one block of channels at a time."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, low: float | None, seed: int) -> None:
        super().__init__()
        self.order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))
        self.weight, self.bias, self.low = weight, bias, low

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(self.bias)
        for part in self.order.split(5):
            total = total + x[..., part] @ self.weight[part]
        return total + self.bias


class ReorderedIntegerLinear(ReorderedLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return to_grid(super().forward(x), 12).clamp(-4096 if self.low is None else self.low, 4096)


class ReorderedFixedPointLinear(Linear):
    """As `ReorderedLinear`, in arithmetic 2."""

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        order = torch.randperm(len(self.weight), generator=torch.Generator().manual_seed(len(self.weight)))
        total = torch.zeros(self.weight.shape[1], dtype=x.dtype)
        for part in order.split(5):
            total = total + x[..., part] @ self.weight[part]
        return self.settle(total, residual)


class LinearPerPosition(nn.Module):
    """A `PlacedLinear` with one layer for each position."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([layer(x[..., place, :]) for place, layer in enumerate(self.layers)], dim=-2)


def replace_linear(module: nn.Module, kind: type[nn.Module], make: type[ReorderedLinear]) -> None:
    for name, child in module.named_children():
        if isinstance(child, IntegerPlacedLinear) and kind is IntegerLinear:
            setattr(
                module,
                name,
                LinearPerPosition(make(w, child.bias, None, seed=len(name)) for w in child.weight),
            )
        elif isinstance(child, PlacedLinear) and kind is nn.Linear:
            weights, bias = child.weight.detach().T[child.columns], child.bias.detach()
            setattr(module, name, LinearPerPosition(make(w, bias, None, seed=len(name)) for w in weights))
        elif isinstance(child, IntegerLinear) and kind is IntegerLinear:
            setattr(module, name, make(child.weight, child.bias, child.low, seed=len(name)))
        elif isinstance(child, nn.Linear) and kind is nn.Linear:
            setattr(module, name, make(child.weight.detach().T, child.bias.detach(), None, seed=len(name)))
        else:
            replace_linear(child, kind, make)


def with_reordered_sums(codec: Codec) -> Codec:
    """A copy of the codec whose integer linear layers sum in another order."""
    other = copy.deepcopy(codec)
    networks = other.network.entropy.integer_networks()
    if not isinstance(networks, FixedPointNetworks):
        replace_linear(networks, IntegerLinear, ReorderedIntegerLinear)
        return other
    for layer in layers_in(networks):
        if isinstance(layer, Linear):
            layer.__class__ = ReorderedFixedPointLinear
    return other


@torch.inference_mode()
def encode_latents(codec: Codec, rgb: np.ndarray, level: int) -> tuple[torch.Tensor, bytes, float]:
    """Encode an image: y_hat, the bytes, and the bits that a RateEstimator counts."""
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    y, q = codec.network.analyse(x), torch.tensor([level])
    size = (y.shape[1], y.shape[2])
    writer, meter = Writer(codec.network.entropy.models()), RateEstimator(codec.network.entropy.cost())
    y_hat = codec.network.code_latents(writer, y, q, size)
    assert torch.equal(codec.network.code_latents(meter, y, q, size), y_hat)
    return y_hat, writer.bytes(), float(meter.bits.sum())


@torch.inference_mode()
def decode_latents(codec: Codec, data: bytes, y_hat: torch.Tensor, level: int) -> torch.Tensor:
    """Decode latents of the size of `y_hat`."""
    size = (y_hat.shape[1], y_hat.shape[2])
    return codec.network.code_latents(
        Reader(codec.network.entropy.models(), data), None, torch.tensor([level]), size
    )


def random_images(count: int) -> Iterator[np.ndarray]:
    return (random_rgb(128, 64, seed) for seed in range(count))


def count_mismatches(writing: Codec, reading: Codec, pictures: Iterable[np.ndarray]) -> int:
    """The number of images whose latents from `writing` are not the same when `reading` decodes them."""
    failures = 0
    for number, rgb in enumerate(pictures):
        level = number * 37 % 801
        y_hat, data, _ = encode_latents(writing, rgb, level)
        try:
            failures += not torch.equal(decode_latents(reading, data, y_hat, level), y_hat)
        except Damaged:
            failures += 1
    return failures


class Float32Network(nn.Module):
    """The network's layers in float32, without rounding to a grid, as in other codecs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args):
        result = self.network(*floats(args))
        return tuple(r.double() for r in result) if isinstance(result, tuple) else result.double()

    def residual(self, *args):
        network: Any = self.network
        result = network.residual(*floats(args))
        return None if result is None else result.double()


def floats(values: Iterable[Any]) -> list[Any]:
    return [a.float() if torch.is_tensor(a) and a.is_floating_point() else a for a in values]


def with_float32(codec: Codec, another_order: bool) -> Codec:
    """A copy of the codec whose integer networks run in float32, optionally with sums in another order."""
    other = copy.deepcopy(codec)
    side = copy.deepcopy(other.network.entropy.exact_side)
    if another_order:
        replace_linear(side, nn.Linear, ReorderedLinear)
    for name, network in list(side.named_children()):
        setattr(side, name, Float32Network(network))
    other.network.entropy.integer_networks = lambda arithmetic=None: side.eval()  # type: ignore[method-assign]
    return other


class ReorderedConvolution(nn.Module):
    """torch's own convolution in float64, with the channels in another order; replaces a sum over taps."""

    def __init__(self, layer: IntegerConv | IntegerDeconv) -> None:
        super().__init__()
        self.layer = layer
        self.order = torch.randperm(layer.weight.shape[2], generator=torch.Generator().manual_seed(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[..., self.order].permute(0, 3, 1, 2).contiguous()
        weight, stride, padding = self.layer.weight[:, :, self.order], self.layer.stride, self.layer.padding
        if isinstance(self.layer, IntegerConv):
            y = F.conv2d(x, weight.permute(3, 2, 0, 1), self.layer.bias, stride, padding)
        else:
            y = F.conv_transpose2d(
                x, weight.permute(2, 3, 0, 1), self.layer.bias, stride, padding, stride - 1
            )
        return to_grid(y.permute(0, 2, 3, 1), 12).clamp(-4096, 4096)


def with_reordered_layers(codec: Codec) -> Codec:
    """A copy of the codec whose integer linear layers and convolutions sum in another order."""
    other = copy.deepcopy(codec)
    networks = other.network.entropy.integer_networks()
    assert isinstance(networks, nn.Module)
    replace_linear(networks, IntegerLinear, ReorderedIntegerLinear)
    replaced = 0
    for module in list(networks.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, (IntegerConv, IntegerDeconv)) and not isinstance(
                module, ReorderedConvolution
            ):
                setattr(module, name, ReorderedConvolution(child))
                replaced += 1
    assert replaced >= 3
    return other
