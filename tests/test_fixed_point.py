"""Arithmetic 2: no sum overflows, and every implementation and every setting gives the same integers."""

import ctypes
import hashlib
import os
import pickle
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import trifocal
from helpers.codecs import small_codec
from helpers.fixed_point import layers_in, on_numpy
from helpers.images import fixed_pattern, random_rgb
from helpers.plain_arithmetic import Networks
from trifocal import layers
from trifocal.codecs.codec import Codec
from trifocal.codecs.runtime import file_arithmetic
from trifocal.container import Bitstream
from trifocal.entropy import EntropyModel, ExactNetworks, Gain, Prior, SinglePass, fixed_point
from trifocal.entropy.coder import Array
from trifocal.entropy.fixed_point import (
    Depthwise,
    FixedPointLayer,
    Grid,
    Linear,
    overflow_bound,
    quantised_weights,
)
from trifocal.entropy.fixed_point_networks import FixedPointNetworks
from trifocal.entropy.four_passes import put, take
from trifocal.entropy.latent_coding import read_latents, write_latents
from trifocal.entropy.numpy_networks import IntegerNetworks as NumpyIntegerNetworks
from trifocal.entropy.numpy_networks import part
from trifocal.errors import Damaged
from trifocal.pictures import Picture
from trifocal.transforms import HyperAnalysis, HyperSynthesis
from trifocal.utils import threads
from trifocal.weights import WEIGHTS_FOLDER, read_arrays

GOLDEN = Path(__file__).parent / "golden" / "compact-0.1-arithmetic-2.tri"
EARLIER = WEIGHTS_FOLDER / "compact-0.1.safetensors"
SHIPPED = sorted(
    path.name
    for path in WEIGHTS_FOLDER.glob("*.safetensors")
    if any("exact_side." in name for name in read_arrays(path, None))
)
UNIT = Grid(8, -(2**13), 2**13)


def exact_sides(file: str) -> Iterator[dict[str, NDArray[np.float32]]]:
    weights = read_arrays(WEIGHTS_FOLDER / file, None)
    for prefix in ("entropy.exact_side.", "base.entropy.exact_side."):
        if own := part(weights, prefix):
            yield own


def integers(layer: FixedPointLayer) -> tuple[Array, Array]:
    """Weight and offset of a layer as integers."""
    bits = 0 if layer.outputs is None else layer.outputs.bits
    units = 2.0 ** (layer.inputs.bits + layer.exponents - bits)
    return layer.weight * units, layer.offset * units


# ── no sum overflows ──


def test_shipped_weights_have_exact_networks() -> None:
    assert {"compact.safetensors", "compact-0.1.safetensors", "dual-layer-compact.safetensors"} <= {*SHIPPED}


@pytest.mark.parametrize("file", SHIPPED)
def test_no_sum_overflows_with_the_shipped_weights(file: str) -> None:
    """In both arithmetics; the first raises OverflowError while it is built."""
    for weights in exact_sides(file):
        NumpyIntegerNetworks(weights)
        found = [*layers_in(FixedPointNetworks(weights))]
        assert len(found) >= 40
        for layer in found:
            whole, offset = integers(layer)
            assert np.array_equal(whole, np.rint(whole)) and np.array_equal(offset, np.rint(offset))
            assert abs(whole).max() <= 127
            assert overflow_bound(whole, offset, layer.inputs).max() <= layer.largest_sum
            assert layer.largest_sum <= 2**24 or (
                layer.largest_sum < 2**31 and layer.weight.dtype == np.float64
            )


def test_worst_inputs_reach_the_bound_and_are_exact_in_float32() -> None:
    """Weights as large as the bound allows, with the inputs that make the largest sum, in any order."""
    random = np.random.default_rng(0)
    for inputs in (UNIT, Grid(8, 0, 2**13)):
        layer = Linear(random.normal(0, 3, (384, 16)), random.normal(0, 1, 16), inputs, None, np.zeros(0))
        whole, offset = integers(layer)
        worst = np.where(whole > 0, inputs.high, inputs.low).T.astype(np.float32)
        sums = [[int(v) for v in column] for column in whole.T.astype(np.int64) * worst.astype(np.int64)]
        exact = [sum(column) + int(b) for column, b in zip(sums, offset, strict=True)]
        assert max(exact) > 2**22 and max(exact) <= overflow_bound(whole, offset, inputs).max() <= 2**24
        scale = 2.0 ** (inputs.bits + layer.exponents)
        assert (np.diag(layer(worst)) * scale).tolist() == exact
        order = random.permutation(384)
        layer.weight = np.ascontiguousarray(layer.weight[order])
        assert (np.diag(layer(worst[:, order])) * scale).tolist() == exact


def test_overflow_bound_is_the_largest_sum_of_any_part() -> None:
    weight, offset = np.array([[3.0], [-2.0]]), np.array([5.0])
    assert overflow_bound(weight, offset, Grid(0, -4, 10)).tolist() == [3 * 10 + 2 * 4 + 5]
    assert overflow_bound(weight, offset, Grid(0, -20, 1)).tolist() == [3 * 20 + 2 * 1 + 5]
    assert overflow_bound(-weight, offset, Grid(0, 0, 10)).tolist() == [3 * 10 + 5]


def test_exponents_are_the_largest_that_fit() -> None:
    """FORMAT.md defines them so; columns of zeros and of the largest weights among them."""
    random = np.random.default_rng(5)
    weight = random.normal(0, 1, (40, 60)) * 2.0 ** random.integers(-9, 2, 60)
    weight[:, 0], weight[0, 1], weight[0, 2] = 0, 127.5 / 4, 127.49 / 8
    bias = random.normal(0, 4, 60)
    for inputs in (UNIT, Grid(8, 0, 2**13), Grid(4, -(2**15), 100)):
        _, _, exponents = quantised_weights(weight, bias, inputs, None)
        for column, found in enumerate(exponents):
            fitting = []
            for e in range(1, 15):
                whole = np.floor(weight[:, [column]] * 2.0**e + 0.5)
                offset = np.floor(bias[[column]] * 2.0 ** (e + inputs.bits) + 0.5)
                if abs(whole).max() <= 127 and overflow_bound(whole, offset, inputs)[0] <= 2**24:
                    fitting.append(e)
            assert found == max(fitting)


def test_weights_that_are_too_large_are_refused() -> None:
    with pytest.raises(OverflowError, match="too large for sums of up to 16777216"):
        Linear(np.full((4, 2), 90.0), np.zeros(2), UNIT, UNIT, np.zeros(0))
    with pytest.raises(OverflowError):
        Linear(np.full((4, 2), np.nan), np.zeros(2), UNIT, UNIT, np.zeros(0))


# ── layers ──


def test_layers_are_close_to_float_layers() -> None:
    torch.manual_seed(0)
    x = torch.randint(-900, 900, (2, 4, 5, 6)).double()
    dense, local = torch.nn.Linear(6, 7).double(), layers.Depthwise(6).double()
    weight, bias = dense.weight.detach().numpy(), dense.bias.detach().numpy()
    y = Linear(weight.T, bias, UNIT, UNIT, np.zeros(0))(x.numpy().astype(np.float32))
    assert np.abs(y / 2**8 - dense(x / 2**8).detach().numpy()).max() < 0.05
    taps = local.weight.detach().numpy().reshape(-1, 9).T
    assert local.bias is not None
    layer = Depthwise(taps, local.bias.detach().numpy(), UNIT, UNIT, np.zeros(0))
    y = layer(x.numpy().astype(np.float32))
    assert np.abs(y / 2**8 - local(x / 2**8).detach().numpy()).max() < 0.05


def test_halves_round_up_and_gradients_pass() -> None:
    x = np.array([-1.5, -0.5, 0.5, 1.5, 2.4999])
    assert fixed_point.rounded(x).tolist() == [-1, 0, 1, 2, 2]
    y = torch.tensor(x, requires_grad=True)
    assert fixed_point.rounded(y).tolist() == [-1, 0, 1, 2, 2]
    fixed_point.rounded(y).sum().backward()
    assert y.grad is not None and y.grad.tolist() == [1] * 5


# ── a third implementation ──


def test_plain_integers_give_the_same_means_and_rows() -> None:
    codec, random = small_codec(seed=3), np.random.default_rng(0)
    ours, level = on_numpy(codec), 333
    state = codec.network.entropy.exact_side.state_dict()
    theirs = Networks({name: w.tolist() for name, w in state.items()})
    mean, index = ours.prior(np.array([level]), (4, 8))
    assert (mean[0, 0, 0].tolist(), index[0, 0, 0].tolist()) == tuple(
        [float(v) for v in row] for row in theirs.prior(level)
    )
    z_hat = random.integers(-200, 200, (1, 1, 2, 8)) / 16
    features = ours.hyper_synthesis(z_hat)
    assert theirs.hyper_synthesis(fractions(z_hat[0])) == features[0].tolist() and features.any()
    y_hat, whole = np.zeros((1, 4, 8, 48)), random.integers(-400, 400, (1, 4, 8, 48)) / 16
    for k in range(4):
        mean, index = ours.predict(k, features, y_hat, np.array([level]))
        found = theirs.predict(k, features[0].astype(int).tolist(), fractions(y_hat[0]), level)
        placed = put(mean, k)[0], put(index, k)[0]
        assert len(found) == mean.size and len({row for _, row in found.values()}) > 5
        for at, (wanted, row) in found.items():
            assert (placed[0][at], placed[1][at]) == (float(wanted), row)
        y_hat = y_hat + put(take(whole, k), k)


def fractions(values: Array) -> list[list[list[Fraction]]]:
    return [[[Fraction(v) for v in at] for at in row] for row in values.tolist()]


# ── engines ──


def mismatches(codec: Codec, count: int, sizes: tuple[int, ...] = (64,)) -> int:
    """Images whose bytes or latents differ between NumPy and torch."""
    ours, theirs, wrong = on_numpy(codec), codec.runtime.entropy(), 0
    for number in range(count):
        width, height = (sizes[(number >> bit) % len(sizes)] for bit in (0, 1))
        y = codec.runtime.analyse(random_rgb(width, height, number), None)
        level, size = np.array([number * 37 % 801]), (y.shape[1], y.shape[2])
        data, written, _ = write_latents(ours, y, level)
        again, y_hat, _ = write_latents(theirs, y, level)
        try:
            read = read_latents(theirs, data, level, size)[0], read_latents(ours, again, level, size)[0]
            wrong += not (
                data == again and np.array_equal(read[0], y_hat) and np.array_equal(read[1], written)
            )
        except Damaged:
            wrong += 1
    return wrong


def test_engines_agree_in_fifty_files() -> None:
    assert mismatches(small_codec(seed=4), 50) == 0


@pytest.mark.slow
def test_engines_agree_in_a_thousand_files() -> None:
    """With random weights, and with those that ship."""
    assert sum(mismatches(small_codec(seed=seed), 80, (64, 128)) for seed in range(10)) == 0
    for preset in ("compact", "compact-psnr"):
        assert mismatches(trifocal.load(preset, engine="torch"), 100) == 0


@pytest.fixture(scope="module")
def coded() -> tuple[Codec, Array, bytes, Array]:
    """A codec, the latents of an image, their bytes, and the decoded values in quantiser steps."""
    codec = small_codec(seed=5)
    y = codec.runtime.analyse(random_rgb(128, 192, 1), None)
    data, decoded, _ = write_latents(on_numpy(codec), y, np.array([500]))
    return codec, y, data, decoded


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_numbers_of_threads_agree(
    coded: tuple[Codec, Array, bytes, Array], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, y, data, decoded = coded
    monkeypatch.setenv("OMP_NUM_THREADS", str(count))
    monkeypatch.setattr(threads, "COST_PER_THREAD", 1.0)  # so that small arrays are split too
    assert write_latents(on_numpy(codec), y, np.array([500]))[0] == data
    read = read_latents(on_numpy(codec), data, np.array([500]), (y.shape[1], y.shape[2]))[0]
    assert np.array_equal(read, decoded)


FENV = {"upward": 0x800, "downward": 0x400, "towards zero": 0xC00}  # of x86


@contextmanager
def rounding(mode: int) -> Iterator[None]:
    """Floating-point operations of this thread round in another mode."""
    libm = ctypes.CDLL("libm.so.6")
    before = libm.fegetround()
    assert libm.fesetround(mode) == 0
    try:
        yield
    finally:
        libm.fesetround(before)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="the modes' numbers are of Linux on x86"
)
@pytest.mark.parametrize("mode", FENV)
def test_rounding_modes_agree(
    coded: tuple[Codec, Array, bytes, Array], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode has an effect: float64 sums of thirds differ."""
    codec, y, data, decoded = coded
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # other threads keep their mode
    thirds = np.full(64, 1 / 3)
    usual, level, size = np.cumsum(thirds), np.array([500]), (y.shape[1], y.shape[2])
    fresh = on_numpy(codec)
    with rounding(FENV[mode]):
        different = np.cumsum(thirds)
        read = read_latents(fresh, data, level, size)[0]  # the layers are built in this mode too
    assert not np.array_equal(usual, different) and np.array_equal(read, decoded)


DECODE = """
import hashlib, pickle, sys
import numpy as np
from trifocal.entropy.numpy_model import NumpyCodingNetworks
weights, data, size = pickle.load(open(sys.argv[1], "rb"))
class SymbolsOnly(NumpyCodingNetworks):
    def unscale(self, y_hat, level): return y_hat
from trifocal.entropy.latent_coding import read_latents
y_hat = read_latents(SymbolsOnly(weights, None), data, np.array([500]), size)[0]
print(hashlib.sha256(np.ascontiguousarray(y_hat)).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-user is not installed")
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell"])
def test_emulated_processors_agree(
    coded: tuple[Codec, Array, bytes, Array], processor: str, tmp_path: Path
) -> None:
    """SSE4.2, and AVX2 without VNNI: other kernels of NumPy and OpenBLAS."""
    codec, y, data, decoded = coded
    model = on_numpy(codec)
    (tmp_path / "coded").write_bytes(pickle.dumps((model.weights, data, (y.shape[1], y.shape[2]))))
    command = ["qemu-x86_64", "-cpu", processor, os.path.realpath(sys.executable), "-c", DECODE]
    places = os.pathsep.join([str(Path(trifocal.__file__).parent.parent), *filter(None, sys.path)])
    run = subprocess.run(
        [*command, str(tmp_path / "coded")],
        capture_output=True,
        text=True,
        check=False,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS")},
            "PYTHONPATH": places,
            "OMP_NUM_THREADS": "1",
        },  # OPENBLAS_CORETYPE would choose kernels that the processor lacks
    )
    assert run.stdout.strip() == hashlib.sha256(decoded.tobytes()).hexdigest(), run.stderr


# ── files ──


def test_files_of_arithmetic_1_are_decoded() -> None:
    codec, other = small_codec(seed=6), small_codec(seed=6)
    other.runtime.network.__class__ = type("Old", (type(codec.network),), {"arithmetics": (1,)})  # type: ignore[attr-defined]
    picture = Picture(random_rgb(100, 60, 1))
    old, new = other.encode(picture, quality=60), codec.encode(picture, quality=60)
    assert file_arithmetic(codec.runtime, old.header) == 1 and file_arithmetic(codec.runtime, new.header) == 2
    assert old.layers != new.layers and old.header.fingerprint != new.header.fingerprint
    assert np.array_equal(codec.decode_latents(old).y, other.decode_latents(old).y)
    assert not other.can_decode(new.header)


def test_version_1_means_arithmetic_1() -> None:
    codec = trifocal.load("compact", weights=EARLIER)
    assert codec.fingerprint_in(1, 2) is None
    assert file_arithmetic(codec.runtime, Bitstream.open(GOLDEN.with_name("compact-0.1.tri")).header) == 1


def test_networks_without_fixed_point_keep_arithmetic_1() -> None:
    steps = torch.ones(2)
    networks = ExactNetworks(Prior(4, 2), HyperSynthesis(4, 8, 16), SinglePass(8, steps))
    model = EntropyModel.from_parts(Gain(steps, 8), HyperAnalysis(8, 8, 4), networks)
    assert model.arithmetics == (1,) and small_codec().network.entropy.arithmetics == (1, 2)
    assert isinstance(model.integer_networks(), ExactNetworks)


def test_golden_file_decodes_to_the_same_latents() -> None:
    data = GOLDEN.read_bytes()
    stream = Bitstream.from_bytes(data)
    assert hashlib.sha256(data).hexdigest().startswith("cbd1f93bd9b95520")
    codec = trifocal.presets.load_for(stream.header)
    assert file_arithmetic(codec.runtime, stream.header) == 2
    y_hat = codec.decode_latents(stream).y
    symbols = np.rint(16 * codec.runtime.entropy().scale(y_hat, np.array([stream.header.level])))
    assert hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest().startswith("420be1c41114d6cd")
    assert np.abs(codec.decode(stream).picture.rgb - fixed_pattern().astype(int)).mean() < 12
