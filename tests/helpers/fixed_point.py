"""Entropy models in arithmetic 2 for tests."""

import copy
from collections.abc import Iterator
from typing import Any

from trifocal.codecs.codec import Codec
from trifocal.entropy.coder import Array
from trifocal.entropy.fixed_point import FixedPointLayer
from trifocal.entropy.numpy_model import NumpyCodingNetworks


class SymbolsOnly(NumpyCodingNetworks):
    """A NumPy entropy model whose y_hat stays in quantiser steps, which are exact."""

    def unscale(self, y_hat: Array, level: Array) -> Array:
        return y_hat


def on_numpy(codec: Codec, arithmetic: int = 2) -> SymbolsOnly:
    """The entropy model of a torch codec on NumPy; only the hyper-analysis, of the encoder, runs on torch."""
    weights = {name: w.numpy() for name, w in codec.network.entropy.state_dict().items()}
    return SymbolsOnly(weights, codec.runtime.entropy(arithmetic).hyper_analysis, arithmetic=arithmetic)


def in_arithmetic(codec: Codec, arithmetic: int) -> Codec:
    """The codec, on the ONNX engine, changed to write files in an arithmetic."""
    runtime: Any = copy.copy(codec.runtime)  # all codecs of a preset share one
    runtime.arithmetics = (arithmetic,)
    if hasattr(runtime, "base"):
        runtime.base = copy.copy(runtime.base)
        runtime.base.arithmetics = (arithmetic,)
    codec.runtime, codec.tiles = runtime, codec.tile_coder(runtime)
    return codec


def layers_in(part: Any) -> Iterator[FixedPointLayer]:
    """All layers of networks in arithmetic 2."""
    if isinstance(part, FixedPointLayer):
        yield part
    elif isinstance(part, list | tuple):
        for item in part:
            yield from layers_in(item)
    elif type(part).__module__.startswith("trifocal."):
        yield from layers_in(list(vars(part).values()))
