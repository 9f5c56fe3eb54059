"""Frequency tables, range coders, and the order of the context model."""

import math

import numpy as np
import pytest
import torch

from trifocal.entropy import RateEstimator, Reader, TrainingRateEstimator, Writer
from trifocal.entropy.coder import (
    LARGEST_SYMBOL,
    Array,
    cost_table,
    escape_to_bits,
    escapes_from_bits,
)
from trifocal.entropy.context import PASSES, put, take
from trifocal.entropy.estimators import logistic_bits
from trifocal.entropy.quantise import ZERO_BELOW, quantise
from trifocal.entropy.range_coder import range_coder_models
from trifocal.entropy.tables import (
    FREQUENCY_BITS,
    RADIUS,
    ROWS,
    calibrated_frequencies,
    logistic_frequencies,
    radii,
    symbol_frequencies,
)
from trifocal.errors import Damaged

TABLES = logistic_frequencies()


def values(seed: int, count: int = 4000) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    rows = random.integers(0, ROWS, count)
    scale = 0.05 * 2 ** (rows / 6) * random.choice([1, 8], count, p=[0.95, 0.05])
    mean = np.round(random.normal(size=count) * 160) / 16
    y = mean + random.logistic(size=count) * scale
    return y[None], mean[None], rows[None].astype(float)


def test_rows_fill_the_range_exactly():
    for row in range(ROWS):
        table = symbol_frequencies(TABLES, row)
        assert table.sum() == 2**FREQUENCY_BITS and table.min() >= 1
        assert len(table) == 2 * radii()[row] + 2
        assert np.array_equal(table[:-1], table[-2::-1])


@pytest.mark.parametrize("seed", range(5))
def test_reader_reads_what_writer_wrote(seed):
    y, mean, rows = values(seed)
    writer, meter = Writer(range_coder_models(TABLES)), RateEstimator(cost_table(TABLES))
    written = writer.code(y, mean, rows)
    assert np.array_equal(meter.code(y, mean, rows), written)
    data = writer.bytes()
    assert np.array_equal(Reader(range_coder_models(TABLES), data).code(None, mean, rows), written)
    assert abs(len(data) - float(meter.bits.sum()) / 8) < 8
    coded = rows > 0
    error, symbols = np.abs(written - y)[coded], np.round(written - mean)[coded]
    assert error[symbols != 0].max() <= 0.5
    assert (error < ZERO_BELOW[rows[coded].astype(int)]).all()
    assert np.array_equal(written[~coded], mean[~coded])


def test_values_beyond_the_largest_symbol_are_clamped():
    y = np.array([1e9, -1e9, 0.0, 500.0, -401.0])
    mean, rows = np.zeros(5), np.full(5, 5.0)
    writer = Writer(range_coder_models(TABLES))
    written = writer.code(y, mean, rows)
    assert written.tolist() == [LARGEST_SYMBOL, -LARGEST_SYMBOL, 0.0, 500.0, -401.0]
    assert np.array_equal(Reader(range_coder_models(TABLES), writer.bytes()).code(None, mean, rows), written)


def test_golden_bytes_of_a_stream():
    """These bytes must never change, or existing files cannot be decoded."""
    y = np.array([0.0, 1.0, -2.0, 3.0, 0.0, 0.0, 17.0, -1.0, 90.0])
    rows = np.array([20.0, 30, 30, 40, 1, 0, 40, 20, 12])
    writer = Writer(range_coder_models(TABLES))
    writer.code(y, np.zeros(9), rows)
    assert writer.bytes().hex() == GOLDEN


GOLDEN = "d9fff3ffa595aa07"


def test_escape_codes_round_trip():
    symbols = [7, -7, 8, -9, 10, 107, -LARGEST_SYMBOL, LARGEST_SYMBOL, -7]
    bits = [bit for symbol in symbols for bit in escape_to_bits(abs(symbol) - 7, symbol < 0)]
    code = Bits(bits + [1] * 9)
    assert escapes_from_bits(code.read, len(symbols), radius=6) == symbols
    assert code.at == len(bits)


class Bits:
    """A stream of bits that are read in order."""

    def __init__(self, bits):
        self.text, self.at = "".join(map(str, bits)), 0

    def read(self, count):
        self.at += count
        return self.text[self.at - count : self.at]


def test_symbols_beyond_the_bound_are_refused():
    with pytest.raises(ValueError, match="too long"):
        escapes_from_bits(Bits([0] * 40).read, 1, radius=6)
    for extra, negative in ((LARGEST_SYMBOL - 6, False), (2 * LARGEST_SYMBOL, True)):
        with pytest.raises(ValueError, match="too large"):
            escapes_from_bits(Bits(escape_to_bits(extra, negative)).read, 1, radius=6)


@pytest.mark.parametrize("seed", range(20))
def test_decoding_random_bytes_ends(seed):
    data = np.random.default_rng(seed).bytes(seed * 7)
    _, mean, rows = values(seed)
    try:
        y_hat = Reader(range_coder_models(TABLES), data).code(None, mean, rows)
    except Damaged:
        return
    assert np.abs(y_hat - mean).max() <= LARGEST_SYMBOL


@pytest.mark.parametrize("count", [0, 1, 2, 5, 40, 4000])
def test_a_stream_ends_with_its_last_symbol(count):
    y, mean, rows = (part[:, :count] for part in values(count))
    writer = Writer(range_coder_models(TABLES))
    writer.code(y, mean, rows)
    data = writer.bytes()
    decoded(data, mean, rows)
    random = np.random.default_rng(count)
    for more in (b"\1" * 8, random.bytes(9) + b"x", random.bytes(100_000) + b"x", b"\0"):
        with pytest.raises(Damaged, match="the file is damaged"):
            decoded(data + more, mean, rows)


def decoded(data, mean, rows):
    reader = Reader(range_coder_models(TABLES), data)
    y_hat = reader.code(None, mean, rows)
    reader.end()
    return y_hat


def test_truncated_streams_and_flipped_bits_are_detected():
    """A range coder decodes any bytes to symbols; most damage is detected by where the stream ends."""
    random = np.random.default_rng(1)
    found = []
    for seed in range(10):
        y, mean, rows = values(seed, count=500)
        writer = Writer(range_coder_models(TABLES))
        writer.code(y, mean, rows)
        data = writer.bytes()
        flips = [bytearray(data) for _ in range(20)]
        for flipped in flips:
            flipped[random.integers(len(data) - 8)] ^= 1 << random.integers(8)
        cuts = [data[:end].rstrip(b"\0") for end in random.integers(len(data) - 8, size=20)]
        found += [refused(bytes(bad), mean, rows) for bad in (*flips, *cuts)]
    assert sum(found) > 0.85 * len(found)


def refused(data, mean, rows):
    try:
        decoded(data, mean, rows)
    except Damaged:
        return True
    return False


def test_logistic_bits_equal_the_formula():
    v, row = torch.tensor([0.0, 1.0, -3.0], dtype=torch.float64), torch.tensor([30.0, 33.5, 40.0]).double()
    s = 0.05 * 2 ** (row / 6)
    p = torch.sigmoid((v + 0.5) / s) - torch.sigmoid((v - 0.5) / s)
    assert torch.allclose(logistic_bits(v, row), -torch.log2(p))
    far = torch.tensor([300.0], dtype=torch.float64, requires_grad=True)
    bits = logistic_bits(far, torch.tensor([0.0], dtype=torch.float64))
    bits.backward()
    assert torch.isfinite(bits) and far.grad is not None and 0 < far.grad < 100


def test_tables_agree_with_the_training_rate_estimator():
    row = torch.full((2001,), 35.0, dtype=torch.float64)
    v = torch.arange(-2, 3).double().repeat_interleave(10)
    exact = cost_table(TABLES)[35][v.abs().long()]
    assert torch.allclose(logistic_bits(v, row[: len(v)]), torch.from_numpy(exact), atol=0.02)


def test_calibrated_tables_follow_the_counts():
    counts = np.zeros((ROWS, RADIUS + 1))
    counts[30, 0], counts[30, 1], counts[30, 2] = 1e6, 2e6, 1e6
    cost = cost_table(calibrated_frequencies(counts))
    assert cost[30, 0] == pytest.approx(2.0, abs=0.01) and cost[30, 1] == pytest.approx(2.0, abs=0.01)
    assert cost[30, 2] == pytest.approx(3.0, abs=0.01)
    assert np.abs(cost_table(TABLES) - cost)[40, :9].max() < 0.01


def test_dead_zone_grows_with_the_cost_of_a_one():
    """Rows of small scale, where ±1 costs many bits, round to 0 more often; rows of large scale round to the
    nearest.
    """
    assert (np.diff(ZERO_BELOW) < 0).all() and ZERO_BELOW[-1] - 0.5 < 1e-3
    price = -math.log2(1 / (1 + math.exp(0.5 / 0.1)) - 1 / (1 + math.exp(1.5 / 0.1)))
    price += math.log2(math.tanh(0.5 / 0.1 / 2))
    assert ZERO_BELOW[6] == pytest.approx(0.5 + 0.025 * price)
    below, above = ZERO_BELOW[6] - 0.01, ZERO_BELOW[6] + 0.01
    values = np.array([below, -below, above, -above, 1.6])
    assert quantise(values, np.full(5, ZERO_BELOW[6])).tolist() == [0, 0, 1, -1, 2]


def test_gradients_pass_through_rounding():
    residual = torch.tensor([0.3, 0.7, -1.2], requires_grad=True)
    mean, index = torch.zeros(3), torch.full((3,), 20.0, requires_grad=True)
    meter = TrainingRateEstimator(1)
    coded = meter.code(residual[None], mean[None], index[None])
    assert coded.tolist() == [[0, 1, -1]]
    coded.sum().backward(retain_graph=True)
    assert residual.grad is not None and torch.equal(residual.grad, torch.ones(3))
    meter.bits.sum().backward()
    assert index.grad is not None and index.grad.abs().min() > 0


def test_training_rate_estimator_estimates_the_bits():
    torch.manual_seed(0)
    y, mean, rows = values(9, 20000)
    rows = rows.clip(min=24)
    training, meter = TrainingRateEstimator(1), RateEstimator(cost_table(TABLES))
    y_tensor, mean_tensor, rows_tensor = (torch.from_numpy(part).float() for part in (y, mean, rows))
    training.code(y_tensor, mean_tensor, rows_tensor)
    meter.code(y, mean, rows)
    assert float(training.bits) == pytest.approx(float(meter.bits.sum()), rel=0.08)


def test_passes_cover_each_value_once():
    y = torch.arange(1, 1 + 2 * 4 * 6 * 8).reshape(2, 4, 6, 8).float()
    parts = [put(take(y, step), step) for step in range(PASSES)]
    assert torch.equal(torch.stack(parts).sum(0), y)
    assert sum((part != 0).sum() for part in parts) == y.numel()


def test_context_uses_only_decoded_values(codec):
    """Values of later passes do not change the parameters of an earlier one."""
    context = codec.network.entropy.integer_networks().context
    torch.manual_seed(0)
    features, level = torch.randn(1, 4, 4, 16).double(), torch.tensor([300])
    y = torch.round(torch.randn(1, 4, 4, 48) * 3).double()
    for step in range(PASSES):
        decoded = sum(put(take(y, s), s) for s in range(step)) + torch.zeros_like(y)
        mean, index = context(step, features, decoded, level)
        assert mean.shape == take(y, step).shape == index.shape
        if step:
            other = context(step, features, decoded * 2, level)
            assert not torch.equal(other[0], mean)
