"""Arithmetic 2 of FORMAT.md in plain Python integers: a third implementation, slow and from the text alone.

Arrays are nested lists. A value is an integer in units that its name or comment gives.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import product
from math import floor
from typing import Any

Row = list[int]
Plane = list[list[Row]]  # [rows][columns][channels]
Range = tuple[int, int, int]  # bits, low, high

HIDDEN, POSITIVE = (8, -8192, 8192), (8, 0, 8192)
DECODED, HYPER = (9, -4096, 4096), (4, -4096, 4096)
LATENT_VALUES = (4, -32768, 32768)
LARGEST, LARGEST_NEIGHBOUR_SUM = 2**24, 2**31 - 1
ORDER = (0, 3, 1, 2)


def nearest(x: Fraction) -> int:
    return floor(x + Fraction(1, 2))


def scaled(value: float, bits: int) -> int:
    """value · 2^bits, rounded."""
    top, bottom = value.as_integer_ratio()
    return (2 * top * 2**bits + bottom) // (2 * bottom)


def clamp(x: int, bounds: Range) -> int:
    return max(bounds[1], min(bounds[2], x))


class Output:
    """One output of a layer: integer weights, offset and exponent, by the rule of FORMAT.md."""

    def __init__(
        self, weights: Sequence[float], bias: float, inputs: Range, outputs: Range | None, largest: int
    ) -> None:
        bits, low, high = inputs
        for e in range(14, max(0, (outputs[0] if outputs else 0) - bits), -1):
            w = [scaled(value, e) for value in weights]
            offset = scaled(bias, bits + e)
            self.shift = bits + e - (outputs[0] if outputs else 0)
            if outputs:
                offset += 2 ** (self.shift - 1)
            up, down = sum(v for v in w if v > 0), -sum(v for v in w if v < 0)
            bound = max(up * high - down * low, down * high - up * low) + abs(offset)
            if max(map(abs, w)) <= 127 and bound <= largest:
                break
        else:
            raise OverflowError
        self.weights, self.offset, self.outputs, self.e = w, offset, outputs, e

    def __call__(self, inputs: Sequence[int], residual: int = 0) -> Any:
        total = sum(w * x for w, x in zip(self.weights, inputs, strict=True)) + self.offset
        if self.outputs is None:
            return Fraction(total, 2**self.shift)
        return clamp((total >> self.shift) + residual, self.outputs)


class Networks:
    """Prior, hyper synthesis and context model from the tensors below `entropy.exact_side.`, as lists."""

    def __init__(self, weights: dict[str, Any]) -> None:
        self.weights = weights
        self.layer = lru_cache(maxsize=None)(self._layer)

    def _layer(
        self, name: str, inputs: Range = HIDDEN, outputs: Range | None = HIDDEN, largest: int = LARGEST
    ) -> list[Output]:
        rows = self.weights[f"{name}.weight"]
        bias = self.weights.get(f"{name}.bias", [0.0] * len(rows))
        return [Output(flat(row), b, inputs, outputs, largest) for row, b in zip(rows, bias, strict=True)]

    def level(self, name: str, level: int) -> list[Fraction]:
        table = self.weights[f"{name}.table"]
        knot, part = divmod(level, 128)
        low, high = (
            [max(-(2**26), min(2**26, scaled(v, 14))) for v in table[knot + more]] for more in (0, 1)
        )
        return [
            Fraction(nearest(Fraction(a * (128 - part) + b * part, 128)), 2**14)
            for a, b in zip(low, high, strict=True)
        ]

    def prior(self, level: int) -> tuple[list[Fraction], Row]:
        return [mean(v) for v in self.level("prior.mean", level)], [
            table_row(v) for v in self.level("prior.index", level)
        ]

    def hyper_synthesis(self, z_hat: list[list[list[Fraction]]]) -> Plane:
        x = [[[clamp(nearest(v * 16), HYPER) for v in at] for at in row] for row in z_hat]
        for layer, block, inputs in (("body.0", "body.2", HYPER), ("body.3", "body.5", HIDDEN)):
            outputs = self.layer(f"hyper_synthesis.{layer}", inputs)
            x = self.block(f"hyper_synthesis.{block}", larger([[apply(outputs, at) for at in r] for r in x]))
        return x

    def block(self, name: str, x: Plane) -> Plane:
        y = depthwise(self.layer(f"{name}.depthwise"), x)
        expand = self.layer(f"{name}.expand", outputs=POSITIVE)
        project = self.layer(f"{name}.project", inputs=POSITIVE)
        return [
            [
                [out(hidden, more) for out, more in zip(project, x[r][c], strict=True)]
                for c, hidden in enumerate(apply(expand, at) for at in row)
            ]
            for r, row in enumerate(y)
        ]

    def predict(
        self, k: int, features: Plane, y_hat: list[list[list[Fraction]]], level: int
    ) -> dict[tuple[int, int, int], tuple[Fraction, int]]:
        """(row, column, channel) → mean and table row of each value of pass k."""
        start = [clamp(nearest(v * 2**8), HIDDEN) for v in self.level("context.start", level)]
        normalise, scale, index = (
            self.level(f"context.{name}", level) for name in ("normalise", "mean_scale", "index")
        )
        channels, blocks = len(normalise), {name.split(".")[2] for name in self.weights if ".blocks." in name}
        adapt = [self.adapt(k, p, channels) for p in range(4)] if k else []
        x = [[list(at) for at in row] for row in features]
        for r, c in product(range(len(x)), range(len(x[0]))):
            p = 2 * (r % 2) + c % 2
            known = [ch for j in range(k) for ch in range(channels) if ch % 4 == ORDER[j] ^ p]
            values = [clamp(nearest(y_hat[r][c][ch] * normalise[ch] * 2**9), DECODED) for ch in known]
            more = apply(adapt[p], [*values, *map(abs, values)]) if k else [0] * len(start)
            x[r][c] = [clamp(a + b + d, HIDDEN) for a, b, d in zip(x[r][c], start, more, strict=True)]
        for block in sorted(blocks):
            x = self.block(f"context.blocks.{block}", x)
        heads = [self.layer(f"context.heads.{4 * k + p}", outputs=None) for p in range(4)]
        near = self.neighbours(k, y_hat) if k else []
        found = {}
        for r, c in product(range(len(x)), range(len(x[0]))):
            p = 2 * (r % 2) + c % 2
            raw = apply(heads[p], x[r][c])
            for n, ch in enumerate(ch for ch in range(channels) if ch % 4 == ORDER[k] ^ p):
                linear = near[r][c][ch] if k and ch < len(near[r][c]) else Fraction(0)
                row = raw[channels // 4 + n] * 6 + index[ch]
                found[r, c, ch] = mean(raw[n] * scale[ch] + linear), table_row(row)
        return found

    def adapt(self, k: int, p: int, channels: int) -> list[Output]:
        """The layer of place p in pass k: of its matrix only the columns of known channels."""
        known = [ch for j in range(k) for ch in range(channels) if ch % 4 == ORDER[j] ^ p]
        columns = [*known, *(channels + ch for ch in known)]
        name = f"context.adapt.{k - 1}"
        rows, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return [
            Output([row[c] for c in columns], b, DECODED, HIDDEN, LARGEST)
            for row, b in zip(rows, bias, strict=True)
        ]

    def neighbours(self, k: int, y_hat: list[list[list[Fraction]]]) -> list[list[list[Fraction]]]:
        outputs = self.layer(f"context.neighbours.{k - 1}", LATENT_VALUES, None, LARGEST_NEIGHBOUR_SUM)
        x = [
            [[clamp(nearest(v * 16), LATENT_VALUES) for v in at[: len(outputs)]] for at in row]
            for row in y_hat
        ]
        return depthwise(outputs, x)


def apply(outputs: Sequence[Output], inputs: Sequence[int]) -> list[Any]:
    return [out(inputs) for out in outputs]


def depthwise(outputs: Sequence[Output], x: Plane) -> list[list[list[Any]]]:
    """A 3×3 convolution of each channel, with zeros outside."""

    def window(r: int, c: int, ch: int) -> Row:
        return [
            x[i][j][ch] if 0 <= i < len(x) and 0 <= j < len(x[0]) else 0
            for i, j in product((r - 1, r, r + 1), (c - 1, c, c + 1))
        ]

    return [
        [[out(window(r, c, ch)) for ch, out in enumerate(outputs)] for c in range(len(x[0]))]
        for r in range(len(x))
    ]


def larger(x: Plane) -> Plane:
    """Four groups of channels become 2×2 positions."""
    n = len(x[0][0]) // 4
    return [
        [
            x[r // 2][c // 2][n * (2 * (r % 2) + c % 2) : n * (2 * (r % 2) + c % 2 + 1)]
            for c in range(2 * len(x[0]))
        ]
        for r in range(2 * len(x))
    ]


def mean(x: Fraction) -> Fraction:
    return Fraction(max(-(2**18), min(2**18, nearest(x * 16))), 16)


def table_row(x: Fraction) -> int:
    return max(0, min(63, nearest(x)))


def flat(values: Any) -> list[float]:
    return [v for part in values for v in flat(part)] if isinstance(values, list) else [values]
