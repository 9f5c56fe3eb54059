"""Weights as small integers: how weights that no file's fingerprint covers are stored.

A tensor `NAME` is two tensors of the safetensors file: `NAME.packed`, its values as int8, and `NAME.step`,
the float16 step of each row, which is an output channel. Where it saves a fifth or more, `NAME.packed` is a
raw deflate stream (RFC 1951) of these values instead, as uint8, in Huffman codes without matches, which takes
longer to read; then `NAME.shape` has the shape.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from trifocal.types import Arrays
from trifocal.utils.files import atomic_write

__all__ = ["check_packed", "pack", "to_float16", "unpack", "write_packed"]

PACKED, STEP, SHAPE = ".packed", ".step", ".shape"
MIN_VALUES = 4096  # smaller tensors gain little
LARGEST = 127
SMALLEST_STEP = 2.0**-24  # of float16
VALUES_PER_BYTE = 8  # at most: a Huffman code has at least one bit
MAX_DIMENSIONS = 8
WORTH_DEFLATING = 0.8  # of the size as int8


def pack(weights: Arrays, precision: float) -> Arrays:
    """Weights with their large tensors of at least two dimensions packed, and the other floats as float16.

    Args:
        precision: the steps in a row's root mean square, above 0. Values beyond 127 steps enlarge the step.

    Raises:
        ValueError: for a precision that is not above 0 or not finite, for values that are not finite or too
            large, for large tensors of more than 8 dimensions, and for names that unpacking would take for
            the parts of a packed tensor.
    """
    if not 0 < precision < math.inf:
        raise ValueError(f"The precision must be a finite number above 0, not {precision:g}.")
    packed: Arrays = {}
    for name, w in weights.items():
        large = w.dtype.kind == "f" and w.ndim >= 2 and w.size >= MIN_VALUES
        parts = {name + PACKED, name + STEP, name + SHAPE} if large else set()
        if name.endswith(PACKED) or not weights.keys().isdisjoint(parts):
            raise ValueError(f"The name {name} cannot be packed: a part of it has the name of a tensor.")
        if large and w.ndim > MAX_DIMENSIONS:
            raise ValueError(
                f"The tensor {name} cannot be packed: it has more than {MAX_DIMENSIONS} dimensions."
            )
        if large:
            packed |= {name + part: values for part, values in pack_tensor(w, precision).items()}
        else:
            packed[name] = to_float16(w) if w.dtype.kind == "f" else w
    return packed


def pack_tensor(w: NDArray[Any], precision: float) -> Arrays:
    """The parts of a tensor, by the ends of their names. Raises ValueError as `pack` does."""
    rows = w.reshape(len(w), -1).astype(np.float64)
    largest = np.abs(rows).max(1)
    exact = np.maximum(np.sqrt((rows**2).mean(1)) / precision, largest / LARGEST)
    step = to_float16(np.maximum(exact, SMALLEST_STEP))
    clipped = largest > (LARGEST + 0.5) * step.astype(np.float64)  # very small steps are coarse in float16
    step = np.where(clipped, np.nextafter(step, np.float16(1)), step)
    values = np.rint(rows / step.astype(np.float64)[:, None]).clip(-LARGEST, LARGEST).astype(np.int8)
    stream = np.frombuffer(deflate(values.tobytes()), np.uint8)
    if stream.size > WORTH_DEFLATING * values.size:
        return {PACKED: values.reshape(w.shape), STEP: step}
    return {PACKED: stream, STEP: step, SHAPE: np.array(w.shape, np.int32)}


def to_float16(w: NDArray[Any]) -> NDArray[np.float16]:
    """Raises ValueError for values that float16 does not hold."""
    with np.errstate(over="ignore"):
        halved = w.astype(np.float16)
    if not np.isfinite(halved).all():
        raise ValueError("The weights hold values that are not finite, or too large for float16.")
    return halved


def deflate(data: bytes) -> bytes:
    """Without matches: weights have none, and the stream is read faster."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return compressor.compress(data) + compressor.flush()


def unpack(weights: Arrays) -> Arrays:
    """The tensors that `pack` packed, as float32, and all others unchanged.

    Raises ValueError for packed tensors that are damaged. Values are not finite where steps are not.
    """
    unpacked: Arrays = {}
    for name, w in weights.items():
        own, point, kind = name.rpartition(".")
        if point + kind == PACKED:
            if own in weights:
                raise ValueError(f"The tensor {own} is there twice, once packed.")
            unpacked[own] = unpack_tensor(w, weights.get(own + STEP), weights.get(own + SHAPE))
        elif point + kind not in (STEP, SHAPE) or own + PACKED not in weights:
            unpacked[name] = w
    return unpacked


def check_packed(weights: Arrays, stored: Arrays) -> Arrays:
    """What `stored` unpacks to, float32 where it was packed.

    Raises ValueError unless it has the names, shapes and values of `weights`: packed ones within a step, the
    other floats as float16.
    """
    found = unpack(stored)
    if found.keys() != weights.keys():
        raise ValueError(f"The packed weights lack or add {min(found.keys() ^ weights.keys())}.")
    for name, w in weights.items():
        if found[name].shape != w.shape:
            raise ValueError(f"The tensor {name} has another shape after it was packed.")
        step, wanted = stored.get(name + STEP), w
        if name + PACKED not in stored or step is None:
            wanted, step = (to_float16(w) if w.dtype.kind == "f" else w), np.zeros(1)
        error = np.abs(found[name].astype(np.float64) - wanted.astype(np.float64))
        if not (error.reshape(len(step), -1) <= step.astype(np.float64)[:, None]).all():
            raise ValueError(f"The tensor {name} has other values after it was packed.")
    return found


def write_packed(
    path: Path, weights: Arrays, stored: Arrays, metadata: Mapping[str, str] | None = None
) -> Arrays:
    """Write `stored` as a safetensors file, and return what it unpacks to.

    Raises ValueError as `check_packed` does, or OSError, and then leaves the file unchanged.
    """
    content = save(stored, metadata=dict(metadata) if metadata else None)
    found = check_packed(weights, load(content))
    with atomic_write(path) as stream:
        stream.write(content)
    return found


def unpack_tensor(
    packed: NDArray[Any], step: NDArray[Any] | None, shape: NDArray[Any] | None
) -> NDArray[Any]:
    """One tensor, float32. Raises ValueError."""
    if step is None or step.dtype != np.float16:
        raise ValueError("A packed tensor lacks its steps, or they have another type than float16.")
    values = packed if packed.dtype == np.int8 and shape is None else inflate(packed, shape)
    if values.ndim < 2 or step.shape != values.shape[:1]:
        raise ValueError("The shape of a packed tensor does not fit its steps.")
    with np.errstate(invalid="ignore"):  # steps that are not finite
        unpacked: NDArray[Any] = values * step.astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1))
    return unpacked


def inflate(stream: NDArray[Any], shape: NDArray[Any] | None) -> NDArray[np.int8]:
    """The values of a deflate stream. Raises ValueError."""
    if shape is None or shape.dtype != np.int32 or shape.ndim != 1 or stream.dtype != np.uint8:
        raise ValueError("A packed tensor lacks its shape, or has another type than it must have.")
    if not 2 <= shape.size <= MAX_DIMENSIONS or (shape < 1).any():
        raise ValueError("The shape of a packed tensor is not valid.")
    size = math.prod(shape.tolist())
    if size > VALUES_PER_BYTE * stream.size:
        raise ValueError("A packed tensor has fewer values than its shape.")
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = decompressor.decompress(stream.tobytes(), size + 1)
    except zlib.error as error:
        raise ValueError("A packed tensor is damaged.") from error
    if len(data) != size or not decompressor.eof or decompressor.unused_data:
        raise ValueError("A packed tensor has another number of values than its shape.")
    return np.frombuffer(data, np.int8).reshape(shape)
