"""Weights as small integers, compressed: how weights that no file's fingerprint covers are stored.

A tensor `NAME` is three tensors of the safetensors file: `NAME.packed`, the raw deflate stream (RFC 1951) of
its values as int8; `NAME.step`, the float16 step of each row, which is an output channel; `NAME.shape`.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from trifocal.weights import Arrays

__all__ = ["pack", "unpack"]

PACKED, STEP, SHAPE = ".packed", ".step", ".shape"
MIN_VALUES = 4096  # smaller tensors gain little
LARGEST = 127
SMALLEST_STEP = 2.0**-24  # of float16


def pack(weights: Arrays, precision: float) -> Arrays:
    """Weights with their large tensors of at least two dimensions packed, and the other floats as float16.

    Args:
        weights: floats are finite.
        precision: the steps in a row's root mean square. Values beyond 127 steps enlarge the step.
    """
    packed: Arrays = {}
    for name, w in weights.items():
        if w.dtype.kind != "f" or w.ndim < 2 or w.size < MIN_VALUES:
            packed[name] = w.astype(np.float16) if w.dtype.kind == "f" else w
            continue
        rows = w.reshape(len(w), -1).astype(np.float64)
        step = np.maximum(np.sqrt((rows**2).mean(1)) / precision, np.abs(rows).max(1) / LARGEST)
        step = np.maximum(step, SMALLEST_STEP).astype(np.float16)
        values = np.rint(rows / step.astype(np.float64)[:, None]).clip(-LARGEST, LARGEST).astype(np.int8)
        packed[name + PACKED] = np.frombuffer(deflate(values.tobytes()), np.uint8)
        packed[name + STEP] = step
        packed[name + SHAPE] = np.array(w.shape, np.int32)
    return packed


def deflate(data: bytes) -> bytes:
    """Without matches: weights have none, and the stream is read faster."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return compressor.compress(data) + compressor.flush()


def unpack(weights: Arrays) -> Arrays:
    """The tensors that `pack` packed, as float32, and all others as they are.

    Raises ValueError for packed tensors that are damaged.
    """
    unpacked: Arrays = {}
    for name, w in weights.items():
        own, point, kind = name.rpartition(".")
        if point + kind == PACKED:
            unpacked[own] = unpack_tensor(w, weights.get(own + STEP), weights.get(own + SHAPE))
        elif point + kind not in (STEP, SHAPE) or own + PACKED not in weights:
            unpacked[name] = w
    return unpacked


def unpack_tensor(
    stream: NDArray[Any], step: NDArray[Any] | None, shape: NDArray[Any] | None
) -> NDArray[Any]:
    """One tensor, float32. Raises ValueError."""
    if step is None or shape is None or shape.dtype != np.int32 or shape.ndim != 1 or shape.size < 2:
        raise ValueError("A packed tensor lacks its step or its shape.")
    size = int(np.prod(shape.astype(np.float64)))  # does not overflow
    if stream.dtype != np.uint8 or (shape < 1).any() or step.shape != (shape[0],) or step.dtype.kind != "f":
        raise ValueError("The parts of a packed tensor do not fit together.")
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = decompressor.decompress(stream.tobytes(), size)
    except zlib.error as error:
        raise ValueError("A packed tensor is damaged.") from error
    if len(data) != size or not decompressor.eof:
        raise ValueError("A packed tensor has another number of values than its shape.")
    rows = np.frombuffer(data, np.int8).reshape(len(step), -1)
    return (rows * step.astype(np.float32)[:, None]).reshape(shape)
