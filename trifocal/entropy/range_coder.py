"""Which range coder is used: constriction's, or `plain_range_coder.py` where constriction cannot be imported.

Both code the same symbols to the same words. The choice is made with the models, so training needs neither.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trifocal.entropy.plain_range_coder import PlainModel, PlainRangeDecoder, PlainRangeEncoder, Words
from trifocal.entropy.tables import FREQUENCY_BITS, ROWS, Frequencies, symbol_frequencies


@dataclass(frozen=True)
class Models:
    """The models of a range coder, and its encoder and decoder, with the methods of `PlainRangeEncoder` and
    `PlainRangeDecoder`. constriction has no type stubs.

    Attributes:
        rows: the model of each row of the frequency tables, [ROWS].
        bit: the model of an equiprobable bit.
        encoder: makes an encoder.
        decoder: makes a decoder of words, [count], uint32. Raises ValueError or AssertionError while it
            decodes, if no encoder writes the words.
    """

    rows: Sequence[Any]
    bit: Any
    encoder: Callable[[], Any]
    decoder: Callable[[Words], Any]


def range_coder_models(frequencies: Frequencies) -> Models:
    """The models of frequency tables, [ROWS, RADIUS + 2], for the range coder of this machine."""
    tables = [symbol_frequencies(frequencies, row) for row in range(ROWS)]
    try:
        import constriction
    except ImportError:
        half = np.full(2, 2 ** (FREQUENCY_BITS - 1))
        rows = [PlainModel(table) for table in tables]
        return Models(rows, PlainModel(half), PlainRangeEncoder, PlainRangeDecoder)
    model, queue = constriction.stream.model, constriction.stream.queue
    return Models(
        [model.Categorical(table / 2.0**FREQUENCY_BITS, perfect=False) for table in tables],
        model.Uniform(2),
        queue.RangeEncoder,
        queue.RangeDecoder,
    )
