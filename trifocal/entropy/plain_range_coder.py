"""A range coder in Python and NumPy, for machines without constriction; both write the same bytes.

The code lies in an interval: a lower end of 64 bits, and a size. A symbol narrows the interval to its part of
the cumulative frequencies (FORMAT.md, "LATENT chunks"). NumPy looks up those of all symbols of a call; the
interval is updated symbol by symbol.
"""

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from trifocal.entropy.tables import FREQUENCY_BITS

PRECISION = 24  # bits of the cumulative frequencies
WORD_BITS = 32
WORD = 2**WORD_BITS
WHOLE = WORD**2 - 1  # size of the first interval

Integers = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint32]


class PlainModel:
    """The cumulative frequencies of symbols 0..n − 1.

    Args:
        frequencies: integers of at least 1, [n]; their sum is 2^16.
    """

    def __init__(self, frequencies: npt.NDArray[np.integer]) -> None:
        count = len(frequencies)
        before = np.concatenate([[0], np.cumsum(frequencies, dtype=np.int64)])
        bounds = ((2**PRECISION - count) * before >> FREQUENCY_BITS) + np.arange(count + 1)
        self.starts, self.widths = bounds[:-1], np.diff(bounds)
        self.bounds: list[int] = bounds.tolist()


class PlainRangeEncoder:
    """Encodes symbols to words. A carry out of the lower end is added to earlier words at the end."""

    def __init__(self) -> None:
        self._low, self._size = 0, WHOLE
        self._words: list[int] = []

    def encode(self, symbols: Integers, model: PlainModel) -> None:
        """Append symbols 0..n − 1 of the model, [count]."""
        low, size, words = self._low, self._size, self._words
        starts, widths = model.starts[symbols].tolist(), model.widths[symbols].tolist()
        for start, width in zip(starts, widths, strict=True):
            unit = size >> PRECISION
            low += unit * start
            size = unit * width
            if size < WORD:
                words.append(low >> WORD_BITS)
                low = low % WORD << WORD_BITS
                size <<= WORD_BITS
        self._low, self._size = low, size

    def get_compressed(self) -> Words:
        """The words of the symbols so far, [count], uint32."""
        words = [*self._words, self._low + WORD - 1 >> WORD_BITS]
        carry = 0
        for at in range(len(words) - 1, -1, -1):
            carry, words[at] = divmod(words[at] + carry, WORD)
        return np.array(words, dtype=np.uint32)


class PlainRangeDecoder:
    """Decodes symbols from words, [count], uint32. Zeros follow the last word."""

    def __init__(self, words: Words) -> None:
        self._words: list[int] = words.tolist()
        self._at = 2
        first, second = [*self._words, 0, 0][:2]
        self._offset, self._size = first * WORD + second, WHOLE  # offset of the code from the lower end

    def decode(self, model: PlainModel, count: int) -> Integers:
        """The next symbols, 0..n − 1 of the model, [count], int32.

        Raises:
            ValueError: if no encoder writes these words.
        """
        offset, size, at, words = self._offset, self._size, self._at, self._words
        bounds = model.bounds
        symbols = [0] * count
        for place in range(count):
            unit = size >> PRECISION
            symbol = bisect_right(bounds, offset // unit) - 1
            if symbol + 1 == len(bounds):
                raise ValueError("No encoder writes these words.")
            start = bounds[symbol]
            symbols[place] = symbol
            offset -= unit * start
            size = unit * (bounds[symbol + 1] - start)
            if size < WORD:
                size <<= WORD_BITS
                offset = offset << WORD_BITS | (words[at] if at < len(words) else 0)
                at += 1
        self._offset, self._size, self._at = offset, size, at
        return np.array(symbols, dtype=np.int32)

    def maybe_exhausted(self) -> bool:
        """Whether an encoder may have written the words for the symbols so far."""
        return self._at >= len(self._words) and (self._size == WHOLE or self._offset < 2 * WORD - 1)
