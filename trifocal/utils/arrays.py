"""Operations that NumPy arrays and torch tensors name differently; torch is not imported."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["clip_", "depth_to_space", "image_array", "log_spaced", "namespace", "space_to_depth", "zeros"]


def namespace(x: Any) -> Any:
    """The module with the functions for an array: numpy or torch."""
    return np if isinstance(x, np.ndarray) else sys.modules["torch"]


def zeros(shape: Sequence[int], like: Any) -> Any:
    """An array of zeros of the kind, type and device of another."""
    return np.zeros(shape, like.dtype) if isinstance(like, np.ndarray) else like.new_zeros(*shape)


def log_spaced(x: Any, top: float, limits: tuple[float, float]) -> Any:
    """The numbers at x in 0..top of a log-spaced range between the limits."""
    low, high = (math.log(limit) for limit in limits)
    return namespace(x).exp(low + (high - low) * x / top)


def image_array(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[H, W, 3] uint8 → [1, 3, H, W] in 0..1."""
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)


def clip_(x: Any, low: float, high: float) -> Any:
    """Clip in place."""
    return np.clip(x, low, high, out=x) if isinstance(x, np.ndarray) else x.clamp_(low, high)


def space_to_depth(x: Any, factor: int) -> Any:
    """[B, H, W, C] → [B, H/f, W/f, f·f·C]; the new channels run over (row, column, old channel)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.swapaxes(2, 3).reshape(b, h // factor, w // factor, factor * factor * c)


def depth_to_space(x: Any, factor: int) -> Any:
    """The inverse of `space_to_depth`: [B, H, W, f·f·C] → [B, f·H, f·W, C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, factor, factor, c // factor**2)
    return x.swapaxes(2, 3).reshape(b, h * factor, w * factor, c // factor**2)
