"""One verb, `code`, and the three that do it: Meter counts bits, Writer appends to a stream, Reader reads one.

A walk hands a coder the values of one step with what the model says of them; all three return what the decoder will
have. Values are coded in the order of their scale index, so that the range coder gets long runs of one table.
The range coder is imported where it is used: a machine that only trains does without it.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trifocal.entropy.quantise import add_noise, quantise, quantise_through
from trifocal.entropy.tables import (
    PRECISION,
    RADIUS,
    ROWS,
    Frequencies,
    logistic_bits,
    probabilities,
    radii,
)
from trifocal.errors import Damaged

Model: TypeAlias = Any  # constriction.stream.model.Categorical, which has no type stubs
Integers = npt.NDArray[np.int32]

LARGEST_SYMBOL = 2**13 - 1
ESCAPE_BITS = 13


class Coder(Protocol):
    """Meter, Listener, Writer and Reader."""

    def code(self, y: Tensor | None, mean: Tensor, scale_index: Tensor) -> Tensor:
        """Codes y − mean, rounded, and returns y_hat, of mean's shape. A Reader needs no y."""
        ...


class TrainingRateEstimator:
    """Adds up the bits of the rounded values, with two sources of gradient; what is returned is rounded straight-through.

    The scale learns from the rounded values, which are what the file holds: additive noise costs 0.3 bits a pixel more than the
    dead zone, so scales that learn from it are too wide. Analysis and mean learn from noisy values with the scale detached, since
    rounded zeros have no gradient and the encoder then makes its steps ever finer (results/training.csv, run 6).

    Attributes:
        bits: bits of each picture so far, [B].
    """

    def __init__(self, batch: int, device: torch.device | str = "cpu") -> None:
        self.bits = torch.zeros(batch, device=device)

    def code(self, y: Tensor | None, mean: Tensor, scale_index: Tensor) -> Tensor:
        assert y is not None
        residual = y - mean
        rounded = quantise_through(residual, torch.round(scale_index).long())
        noisy = logistic_bits(add_noise(residual), scale_index.detach())
        bits = logistic_bits(rounded.detach(), scale_index) + (noisy - noisy.detach())
        self.bits = self.bits + bits.flatten(1).sum(1)
        return rounded + mean


class RateEstimator:
    """Adds up the bits that a Writer would need, from the same integer tables, without writing.

    Args:
        cost: `cost_table` of the frequencies.
        batch: B.
        count: also fill `counts`.

    Attributes:
        bits: bits of each picture so far, [B], float64.
        counts: with `count`, how often each magnitude fell to each row, [ROWS, RADIUS + 1]: for calibration.
    """

    def __init__(self, cost: Tensor, batch: int = 1, count: bool = False) -> None:
        self.bits = torch.zeros(batch, dtype=torch.float64)
        self.counts = np.zeros((ROWS, RADIUS + 1)) if count else None
        self._cost = cost

    def code(self, y: Tensor | None, mean: Tensor, scale_index: Tensor) -> Tensor:
        assert y is not None
        rows = torch.round(scale_index).long()
        symbols = symbols_of(y, mean, rows)
        magnitude = symbols.abs().long()
        bits = self._cost.to(rows.device)[rows, magnitude]
        self.bits = self.bits + bits.flatten(1).sum(1).cpu()
        if self.counts is not None:
            flat = (rows * (RADIUS + 1) + magnitude.clamp(max=RADIUS)).flatten().cpu().numpy()
            self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)
        return symbols + mean


class ParameterRecorder:
    """Codes nothing; it rounds, and keeps what the model says.

    Attributes:
        heard: mean and scale index of each step so far.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[Tensor, Tensor]] = []

    def code(self, y: Tensor | None, mean: Tensor, scale_index: Tensor) -> Tensor:
        assert y is not None
        self.heard.append((mean, scale_index))
        return symbols_of(y, mean, torch.round(scale_index).long()) + mean


class Writer:
    """Appends to a range-coded stream; `bytes()` ends it.

    Attributes:
        seconds: spent on sorting and range coding.
    """

    def __init__(self, models: list[Model]) -> None:
        import constriction

        self.seconds = 0.0
        self._models = models
        self._bit = constriction.stream.model.Uniform(2)
        self._encoder = constriction.stream.queue.RangeEncoder()

    def code(self, y: Tensor | None, mean: Tensor, scale_index: Tensor) -> Tensor:
        assert y is not None
        rows = torch.round(scale_index).long()
        symbols = symbols_of(y, mean, rows)
        flat = symbols.flatten().cpu().numpy().astype(np.int32)
        began = time.perf_counter()
        order, runs = _runs(rows.flatten().cpu().numpy())
        self._write(flat[order], runs)
        self.seconds += time.perf_counter() - began
        return symbols + mean

    def _write(self, values: Integers, runs: list[tuple[int, int, int]]) -> None:
        for row, start, end in runs:
            radius = int(RADII[row])
            part = values[start:end]
            outside = np.abs(part) > radius
            self._encoder.encode(
                np.where(outside, 2 * radius + 1, part + radius).astype(np.int32), self._models[row]
            )
            for value in part[outside]:
                self._write_escape(int(value), radius)

    def _write_escape(self, value: int, radius: int) -> None:
        bits = escape_to_bits(abs(value) - radius - 1, value < 0)
        self._encoder.encode(np.array(bits, dtype=np.int32), self._bit)

    def bytes(self) -> bytes:
        """The stream so far; trailing zero bytes are left out, a Reader puts them back."""
        return self._encoder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class Reader:
    """Reads what a Writer wrote.

    Attributes:
        seconds: spent on sorting and range coding.

    Raises:
        Damaged: from all of its methods, if the bytes cannot have come from a Writer.
    """

    def __init__(self, models: list[Model], data: bytes) -> None:
        import constriction

        if data.endswith(b"\0"):
            raise Damaged(
                "The coded latent ends in zero bytes, which no encoder writes; the file is damaged."
            )
        self.seconds = 0.0
        self._models = models
        self._bit = constriction.stream.model.Uniform(2)
        # After the last symbol a decoder has read one word more than an encoder writes.
        words = np.frombuffer(data + b"\0" * (-len(data) % 4 + 4), dtype="<u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(words)

    def code(self, y: Tensor | None, mean: Tensor, scale_index: Tensor) -> Tensor:
        rows = torch.round(scale_index).long().flatten().cpu().numpy()
        began = time.perf_counter()
        order, runs = _runs(rows)
        values = np.zeros(len(rows), dtype=np.int32)
        try:
            values[order] = self._read(len(order), runs)
        except (AssertionError, ValueError) as error:
            raise Damaged("The coded latent is not a valid stream; the file is damaged.") from error
        self.seconds += time.perf_counter() - began
        return torch.from_numpy(values).to(mean).reshape(mean.shape) + mean

    def end(self) -> None:
        """Checks that the bytes end where the symbols do. Bytes too many are always found, bytes too few in 14 of 15 cases."""
        if not self._decoder.maybe_exhausted():
            raise Damaged("The coded latent does not end with its last symbol; the file is damaged.")

    def _read(self, count: int, runs: list[tuple[int, int, int]]) -> Integers:
        values = np.empty(count, dtype=np.int32)
        for row, start, end in runs:
            radius = int(RADII[row])
            part = self._decoder.decode(self._models[row], end - start) - radius
            outside = np.flatnonzero(part > radius)
            if len(outside):
                part[outside] = escapes_from_bits(self._bits, len(outside), radius)
            values[start:end] = part
        return values

    def _bits(self, count: int) -> str:
        bits: Integers = self._decoder.decode(self._bit, count)
        return (bits + ord("0")).astype(np.uint8).tobytes().decode()


RADII = radii()


def models_of(frequencies: Frequencies) -> list[Model]:
    """A range-coder model for each row."""
    import constriction

    return [
        constriction.stream.model.Categorical(probabilities(frequencies, row), perfect=False)
        for row in range(ROWS)
    ]


def symbols_of(y: Tensor, mean: Tensor, rows: Tensor) -> Tensor:
    """What is coded of y, within ±LARGEST_SYMBOL, and 0 in row 0, which is not coded at all."""
    return quantise(y - mean, rows).clamp(-LARGEST_SYMBOL, LARGEST_SYMBOL) * (rows > 0)


def escape_to_bits(extra: int, negative: bool) -> list[int]:
    """Exp-Golomb code of order 0 for extra ≥ 0, then a sign bit."""
    digits = [int(digit) for digit in bin(extra + 1)[2:]]
    return [0] * (len(digits) - 1) + digits + [int(negative)]


def escapes_from_bits(read: Callable[[int], str], count: int, radius: int) -> list[int]:
    """The symbols outside ±radius of a run, from their codes in turn.

    Args:
        read: takes the next bits off the stream, a number of them, as "0" and "1".
        count: of the symbols; at least 1.

    Raises:
        ValueError: if a symbol is larger than LARGEST_SYMBOL.
    """
    symbols: list[int] = []
    bits, at = "", 0
    while True:
        one = bits.find("1", at)
        zeros = (len(bits) if one < 0 else one) - at
        end = at + 2 * zeros + 2  # of this code, or the least that it can be
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


def _runs(rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], list[tuple[int, int, int]]]:
    """The coded places in the order of their row, and (row, start, end) of each row's run; row 0 is left out."""
    ends = np.cumsum(np.bincount(rows, minlength=ROWS))
    order = np.argsort(rows.astype(np.uint8), kind="stable")[ends[0] :]
    ends -= ends[0]
    return order, [
        (row, int(ends[row - 1]), int(ends[row])) for row in range(1, ROWS) if ends[row] > ends[row - 1]
    ]


def cost_table(frequencies: Frequencies) -> npt.NDArray[np.float64]:
    """What a Meter adds up: bits of each magnitude in each row, escapes included, [ROWS, LARGEST_SYMBOL + 1]."""
    magnitude = np.arange(LARGEST_SYMBOL + 1)
    cost = np.zeros((ROWS, len(magnitude)))
    for row in range(1, ROWS):
        radius = RADII[row]
        extra = np.maximum(magnitude - radius - 1, 0)
        escape = 2 * np.floor(np.log2(extra + 1)) + 2 - np.log2(frequencies[row, -1])
        inside = -np.log2(np.maximum(frequencies[row, np.minimum(magnitude, radius)], 1))
        cost[row] = PRECISION + np.where(magnitude > radius, escape, inside)
    return cost
