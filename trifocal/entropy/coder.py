"""Coders of NumPy arrays: a rate estimator, and a writer and a reader of range coding.

Each coder takes the values of one coding call and their predicted parameters, and returns the values that the
decoder will have. Values are coded in the order of their scale index, so that the range coder gets long runs
of one table.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from trifocal.entropy.quantise import dead_zones, quantise
from trifocal.entropy.range_coder import Models
from trifocal.entropy.tables import FREQUENCY_BITS, RADIUS, ROWS, Floats, Frequencies, radii
from trifocal.errors import Damaged
from trifocal.types import DEAD_ZONE

Array: TypeAlias = npt.NDArray[Any]
Integers = npt.NDArray[np.int32]
ArrayT = TypeVar("ArrayT")  # of array: NumPy's or torch's

LARGEST_SYMBOL = 2**13 - 1
ESCAPE_BITS = 13
RADII = radii()


class Coder(Protocol[ArrayT]):
    """Codes the values of one coding call. `RateEstimator`, `Writer` and `Reader` take NumPy arrays, and the
    coders of `estimators.py` take torch tensors.
    """

    def code(
        self, y: ArrayT | None, mean: ArrayT, scale_index: ArrayT, dead_zone: float = DEAD_ZONE
    ) -> ArrayT:
        """Code y − mean, rounded with a dead zone (`quantise.dead_zones`), and return y_hat, of mean's shape.
        A Reader ignores y and the dead zone.
        """
        ...


class RateEstimator:
    """Adds up the bits that a Writer would need, from the same integer tables, without writing.

    Args:
        cost: `cost_table` of the frequencies.
        batch: B.
        count: also fill `counts`.

    Attributes:
        bits: bits of each image so far, [B], float64.
        counts: with `count`, the frequency of each magnitude in each row, [ROWS, RADIUS + 1]: for
            calibration.
    """

    def __init__(self, cost: Floats, batch: int = 1, count: bool = False) -> None:
        self.bits = np.zeros(batch)
        self.counts = np.zeros((ROWS, RADIUS + 1)) if count else None
        self._cost = np.asarray(cost).ravel()

    def code(self, y: Array | None, mean: Array, scale_index: Array, dead_zone: float = DEAD_ZONE) -> Array:
        assert y is not None
        rows = rows_at(scale_index)
        symbols = symbols_at(y, mean, rows, dead_zone)
        magnitude = np.abs(symbols).astype(np.int64)
        row = rows.astype(np.int64)
        bits = self._cost.take(row * (LARGEST_SYMBOL + 1) + magnitude)
        self.bits = self.bits + bits.reshape(len(bits), -1).sum(1)
        if self.counts is not None:
            flat = (row * (RADIUS + 1) + magnitude.clip(max=RADIUS)).ravel()
            self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)
        return symbols + mean


class Writer:
    """Appends to a range-coded stream; `bytes()` ends it.

    Attributes:
        seconds: spent on sorting and range coding.
    """

    def __init__(self, models: Models) -> None:
        self.seconds = 0.0
        self._models = models
        self._encoder = models.encoder()

    def code(self, y: Array | None, mean: Array, scale_index: Array, dead_zone: float = DEAD_ZONE) -> Array:
        assert y is not None
        rows = rows_at(scale_index)
        symbols = symbols_at(y, mean, rows, dead_zone)
        flat = symbols.ravel().astype(np.int32)
        began = time.perf_counter()
        order, runs = _runs(rows.ravel())
        self._write(flat[order], runs)
        self.seconds += time.perf_counter() - began
        symbols += mean
        return symbols

    def _write(self, values: Integers, runs: list[tuple[int, int, int]]) -> None:
        for row, start, end in runs:
            radius = int(RADII[row])
            part = values[start:end]
            outside = np.abs(part) > radius
            self._encoder.encode(
                np.where(outside, 2 * radius + 1, part + radius).astype(np.int32), self._models.rows[row]
            )
            for value in part[outside]:
                self._write_escape(int(value), radius)

    def _write_escape(self, value: int, radius: int) -> None:
        bits = escape_to_bits(abs(value) - radius - 1, value < 0)
        self._encoder.encode(np.array(bits, dtype=np.int32), self._models.bit)

    def bytes(self) -> bytes:
        """The stream so far. Trailing zero bytes are dropped; a Reader restores them."""
        return self._encoder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class Reader:
    """Reads the stream of a Writer.

    Attributes:
        seconds: spent on sorting and range coding.

    Raises:
        Damaged: from all methods, if no Writer can have written the bytes.
    """

    def __init__(self, models: Models, data: bytes) -> None:
        if data.endswith(b"\0"):
            raise Damaged(
                "The coded latent ends in zero bytes, which no encoder writes; the file is damaged."
            )
        self.seconds = 0.0
        self._models = models
        # After the last symbol a decoder has read one word more than an encoder writes.
        words = np.frombuffer(data + b"\0" * (-len(data) % 4 + 4), dtype="<u4").astype(np.uint32)
        self._decoder = models.decoder(words)

    def code(self, y: Array | None, mean: Array, scale_index: Array, dead_zone: float = DEAD_ZONE) -> Array:
        rows = rows_at(scale_index).ravel()
        began = time.perf_counter()
        order, runs = _runs(rows)
        values = np.zeros(len(rows), dtype=np.int32)
        try:
            values[order] = self._read(len(order), runs)
        except (AssertionError, ValueError) as error:
            raise Damaged("The coded latent is not a valid stream; the file is damaged.") from error
        self.seconds += time.perf_counter() - began
        return values.reshape(mean.shape) + mean

    def end(self) -> None:
        """Check that the bytes end where the symbols do. Finds all surplus bytes, and missing bytes in 14 of
        15 cases.
        """
        if not self._decoder.maybe_exhausted():
            raise Damaged("The coded latent does not end with its last symbol; the file is damaged.")

    def _read(self, count: int, runs: list[tuple[int, int, int]]) -> Integers:
        values = np.empty(count, dtype=np.int32)
        for row, start, end in runs:
            radius = int(RADII[row])
            part = self._decoder.decode(self._models.rows[row], end - start) - radius
            outside = np.flatnonzero(part > radius)
            if len(outside):
                part[outside] = escapes_from_bits(self._bits, len(outside), radius)
            values[start:end] = part
        return values

    def _bits(self, count: int) -> str:
        bits: Integers = self._decoder.decode(self._models.bit, count)
        return (bits + ord("0")).astype(np.uint8).tobytes().decode()


def rows_at(scale_index: Array) -> npt.NDArray[np.uint8]:
    """The table row of each scale index, half to even."""
    return np.rint(scale_index).astype(np.uint8)


def symbols_at(y: Array, mean: Array, rows: npt.NDArray[np.uint8], dead_zone: float = DEAD_ZONE) -> Array:
    """The symbols coded for y: integers within ±LARGEST_SYMBOL, and 0 in row 0, whose values are not
    coded.
    """
    symbols: Array = quantise(y - mean, dead_zones(dead_zone).take(rows))
    np.clip(symbols, -LARGEST_SYMBOL, LARGEST_SYMBOL, out=symbols)
    symbols *= rows > 0
    return symbols


def escape_to_bits(extra: int, negative: bool) -> list[int]:
    """Exp-Golomb code of order 0 for extra ≥ 0, then a sign bit."""
    digits = [int(digit) for digit in bin(extra + 1)[2:]]
    return [0] * (len(digits) - 1) + digits + [int(negative)]


def escapes_from_bits(read: Callable[[int], str], count: int, radius: int) -> list[int]:
    """The symbols outside ±radius of a run, from their codes in turn.

    Args:
        read: takes a number of bits off the stream, as "0" and "1".
        count: of the symbols; at least 1.

    Raises:
        ValueError: if a symbol is larger than LARGEST_SYMBOL.
    """
    symbols: list[int] = []
    bits, at = "", 0
    while True:
        one = bits.find("1", at)
        zeros = (len(bits) if one < 0 else one) - at
        end = at + 2 * zeros + 2  # of this code, or its earliest possible end
        if zeros > ESCAPE_BITS:
            raise ValueError("An escape code is too long.")
        if one < 0 or end > len(bits):  # each of the others has at least two bits
            bits, at = bits[at:] + read(end - len(bits) + 2 * (count - len(symbols) - 1)), 0
            continue
        magnitude = radius + int(bits[one : end - 1], 2)
        if magnitude > LARGEST_SYMBOL:
            raise ValueError("A symbol is too large.")
        symbols.append(-magnitude if bits[end - 1] == "1" else magnitude)
        at = end
        if len(symbols) == count:
            return symbols


def _runs(rows: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], list[tuple[int, int, int]]]:
    """The coded positions ordered by row, and (row, start, end) of each row's run; row 0 is left out."""
    ends = np.cumsum(np.bincount(rows, minlength=ROWS))
    order = np.argsort(rows, kind="stable")[ends[0] :]
    ends -= ends[0]
    return order, [
        (row, int(ends[row - 1]), int(ends[row])) for row in range(1, ROWS) if ends[row] > ends[row - 1]
    ]


def cost_table(frequencies: Frequencies) -> Floats:
    """Bits of each magnitude in each row, escapes included, [ROWS, LARGEST_SYMBOL + 1]."""
    magnitude = np.arange(LARGEST_SYMBOL + 1)
    cost = np.zeros((ROWS, len(magnitude)))
    for row in range(1, ROWS):
        radius = RADII[row]
        extra = np.maximum(magnitude - radius - 1, 0)
        escape = 2 * np.floor(np.log2(extra + 1)) + 2 - np.log2(frequencies[row, -1])
        inside = -np.log2(np.maximum(frequencies[row, np.minimum(magnitude, radius)], 1))
        cost[row] = FREQUENCY_BITS + np.where(magnitude > radius, escape, inside)
    return cost
