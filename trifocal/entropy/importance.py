"""The importance map of a file: a coarse map of the quantiser's step, coded before the latent.

The map has one value per 64×64 pixels, in quarters of an octave of the step, and is coded without loss:
second differences along rows and columns, all with one table whose index is coded first. A map of zeros costs
one symbol.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trifocal.entropy.coder import Array, ArrayT, Coder
from trifocal.entropy.tables import ROWS_PER_OCTAVE
from trifocal.errors import Damaged

QUARTERS = 4
LARGEST = 8  # quarters of an octave to each side
CELL = 4  # latent positions to a side
SPREAD_INDEX_ROW = 30  # of the tables: the row that codes the spread index
SPREAD_INDICES = 7
MEAN_TO_INDEX = 4.0  # index i: a mean magnitude of about 2^(i−4)


def code_importance(
    coder: Coder[ArrayT], importance_map: ArrayT | None, size: tuple[int, int], like: ArrayT
) -> ArrayT:
    """Code the map, and return the factor that encoder and decoder apply around the quantiser.

    Args:
        coder: of NumPy arrays or of tensors.
        importance_map: octaves, [B, h, w, 1], or None for a Reader.
        size: h and w, multiples of 4.
        like: any array of the coder's kind, on the device where the factor is needed.

    Returns:
        2^map as decoded, interpolated between the cells, [B, h, w, 1], float32, positive.

    Raises:
        Damaged: if a Reader finds values that no Writer writes.
    """
    values = None if importance_map is None else _quarters(_numpy(importance_map))
    differences = None if values is None else _differences(values)
    batch = 1 if values is None else len(values)

    def code(symbols: Array | None, scale_index: Array) -> Array:
        sent = None if symbols is None else _like(symbols, like)
        return np.rint(
            _numpy(coder.code(sent, _like(np.zeros(scale_index.shape), like), _like(scale_index, like)))
        )

    index = code(
        None if differences is None else _spread_index(differences),
        np.full((batch, 1, 1, 1), float(SPREAD_INDEX_ROW)),
    )
    _check_range(index, 0, SPREAD_INDICES)
    shape = (batch, size[0] // CELL, size[1] // CELL, 1)
    found = code(differences, np.broadcast_to(index * ROWS_PER_OCTAVE, shape).copy())
    quarters = found.cumsum(1).cumsum(2)
    _check_range(quarters, -LARGEST, LARGEST)
    smooth = _upsampled(_upsampled(quarters, 1), 2)
    return _like(np.exp2(smooth / QUARTERS).astype(np.float32), like)


def _check_range(values: Array, low: int, high: int) -> None:
    if bool(((values < low) | (values > high)).any()):
        raise Damaged("The importance map is out of its range; the file is damaged.")


def _quarters(importance_map: Array) -> Array:
    """[B, h, w, 1] → the cells' means in whole quarters, [B, h/4, w/4, 1]."""
    b, h, w, _ = importance_map.shape
    cells = importance_map.reshape(b, h // CELL, CELL, w // CELL, CELL, 1).mean(axis=(2, 4), dtype=np.float64)
    return np.rint(QUARTERS * cells).clip(-LARGEST, LARGEST)


def _differences(quarters: Array) -> Array:
    """Second differences: their sums along rows and columns are the map."""
    along = np.diff(quarters, axis=2, prepend=0)
    return np.diff(along, axis=1, prepend=0)


def _spread_index(differences: Array) -> Array:
    """The spread index, which selects the table of the differences: 0 where all are zero, else by their mean
    magnitude, [B, 1, 1, 1].
    """
    mean = np.abs(differences).mean(axis=(1, 2, 3), keepdims=True)
    index = np.rint(np.log2(mean.clip(min=2.0**-12)) + MEAN_TO_INDEX).clip(1, SPREAD_INDICES)
    return np.where(mean > 0, index, 0.0)


def _upsampled(cells: Array, axis: int) -> Array:
    """Linear interpolation from cells to latents along an axis, constant beyond the outer centres. It is
    bit-exact, since all weights are eighths.
    """
    count = cells.shape[axis]
    place = ((np.arange(count * CELL) + 0.5) / CELL - 0.5).clip(0, count - 1)
    low = place.astype(np.int64)
    part = (place - low).reshape([-1 if a == axis else 1 for a in range(cells.ndim)])
    below, above = cells.take(low, axis), cells.take((low + 1).clip(max=count - 1), axis)
    return np.asarray(below * (1 - part) + above * part)


def _numpy(values: Any) -> Array:
    return values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()


def _like(values: Array, like: Any) -> Any:
    if isinstance(like, np.ndarray):
        return values
    import torch

    return torch.from_numpy(values).to(like.device)
