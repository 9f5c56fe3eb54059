"""Rounding with a dead zone that depends on the scale index."""

from functools import lru_cache
from typing import Any

import numpy as np

from trifocal.entropy.tables import ROWS, Floats, table_bits
from trifocal.types import DEAD_ZONE


@lru_cache(maxsize=8)
def dead_zones(width: float = DEAD_ZONE) -> Floats:
    """The magnitude below which a value of each row is coded as 0, in steps, [ROWS].

    A ±1 among zeros costs several bits more than another 0 and removes little error, so the threshold is half
    a step plus `width` for each of those bits. On held-out images this saved 1.2 % of the rate at equal PSNR,
    before the networks were trained with it. The decoder does not depend on it.

    Args:
        width: steps per bit, 0 or more; 0 is plain rounding, as in the papers.
    """
    rows = np.arange(ROWS, dtype=np.float64)
    price = table_bits(np.ones(ROWS), rows) - table_bits(np.zeros(ROWS), rows)
    return 0.5 + width * price


ZERO_BELOW = dead_zones()


def quantise(residual: Any, thresholds: Any) -> Any:
    """Round to integers; magnitudes below the thresholds become 0.

    Args:
        residual: a NumPy array or a tensor.
        thresholds: `ZERO_BELOW` of each value's row, of the same kind and shape.
    """
    return residual.round() * (abs(residual) >= thresholds)
