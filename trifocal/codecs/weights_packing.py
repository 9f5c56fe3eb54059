"""Weights of 5 bits, with a scale for each output channel."""

import numpy as np

from trifocal.weights import Arrays

__all__ = ["pack", "unpack"]

BITS = 5
LARGEST = 2 ** (BITS - 1) - 1  # codes are −LARGEST..LARGEST, stored as 0..2·LARGEST


def pack(weights: Arrays) -> Arrays:
    """Arrays of at least two dimensions as codes, scale and shape; the others as float16."""
    packed: Arrays = {}
    for name, array in weights.items():
        if array.ndim < 2:
            packed[name] = array.astype(np.float16)
            continue
        rows = array.reshape(len(array), -1).astype(np.float32)
        scale = np.maximum(np.abs(rows).max(1) / LARGEST, 1e-7).astype(np.float16)
        steps = np.rint(rows / scale[:, None].astype(np.float32))
        codes = np.clip(steps, -LARGEST, LARGEST).astype(np.int64)
        bits = (codes + LARGEST)[..., None] >> np.arange(BITS)[::-1] & 1
        packed[f"{name}.codes"] = np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)
        packed[f"{name}.scale"] = scale
        packed[f"{name}.shape"] = np.array(array.shape, np.int32)
    return packed


def unpack(packed: Arrays) -> Arrays:
    """The float32 arrays that `pack` packed."""
    weights: Arrays = {}
    for name, array in packed.items():
        own, _, kind = name.rpartition(".")
        if kind == "codes":
            shape = packed[f"{own}.shape"]
            count = int(np.prod(shape[1:]))
            bits = np.unpackbits(array, axis=1, count=count * BITS).reshape(shape[0], count, BITS)
            codes = bits @ (1 << np.arange(BITS)[::-1]) - LARGEST
            scaled = codes * packed[f"{own}.scale"].astype(np.float32)[:, None]
            weights[own] = scaled.astype(np.float32).reshape(shape)
        elif kind not in ("scale", "shape"):
            weights[name] = array
    return weights
