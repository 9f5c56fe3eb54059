"""Weights as small integers, compressed: rounding, names, damage, and the bundled files that are packed."""

import json
import sys
import tracemalloc
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from helpers.scripts import load_script
from trifocal.errors import WeightsError
from trifocal.presets import PRESETS
from trifocal.types import Arrays
from trifocal.utils.packed_weights import (
    LARGEST,
    MAX_DIMENSIONS,
    MIN_VALUES,
    SMALLEST_STEP,
    check_packed,
    deflate,
    pack,
    unpack,
)
from trifocal.weights import WEIGHTS_FOLDER, metadata_of, read_arrays

BUNDLED_PACKED = {"towers.safetensors", "detector.safetensors", "composition.safetensors"}
DAMAGED = "^The weights w.safetensors are damaged, or no safetensors file; give others, or install Trif"


def layer(*shape: int, seed: int = 0, scale: float = 0.1) -> NDArray[np.float32]:
    """Normal values; each row has a scale of its own."""
    random = np.random.default_rng(seed)
    scales = scale * np.exp(random.normal(size=(shape[0], *(1,) * (len(shape) - 1))))
    return (random.normal(size=shape) * scales).astype(np.float32)


def half_steps(packed: Arrays, name: str, dimensions: int) -> NDArray[np.float64]:
    step: NDArray[np.float64] = packed[name + ".step"].astype(np.float64)
    return 0.5 * step.reshape(-1, *(1,) * (dimensions - 1))


# ── values ──


@pytest.mark.parametrize("shape", [(64, 64), (48, 12, 3, 3), (1, 4096), (4096, 1)])
@pytest.mark.parametrize("precision", [1, 8, 32, 1000])
@pytest.mark.parametrize("scale", [1e-7, 0.1, 1000.0])
def test_round_trip_is_within_half_a_step(shape: tuple[int, ...], precision: float, scale: float) -> None:
    """Also for steps so small that float16 has them coarsely."""
    w = layer(*shape, scale=scale)
    packed = pack({"w": w}, precision)
    assert packed.keys() in ({"w.packed", "w.step"}, {"w.packed", "w.shape", "w.step"})
    found = unpack(packed)
    assert list(found) == ["w"] and found["w"].dtype == np.float32 and found["w"].shape == shape
    limit = half_steps(packed, "w", len(shape))
    assert (np.abs(found["w"] - w.astype(np.float64)) <= limit * 1.13).all()  # steps are rounded to float16
    wanted = np.sqrt((w.reshape(shape[0], -1).astype(np.float64) ** 2).mean(1)) / precision
    largest = np.abs(w.reshape(shape[0], -1)).max(1) / LARGEST
    steps = np.maximum(np.maximum(wanted, largest), SMALLEST_STEP)
    assert packed["w.step"].astype(np.float64) == pytest.approx(steps, rel=1e-3, abs=SMALLEST_STEP)


@pytest.mark.parametrize(("precision", "deflated"), [(1, True), (8, True), (32, False), (1000, False)])
def test_values_are_deflated_where_that_saves_a_fifth(precision: float, deflated: bool) -> None:
    w = layer(64, 16, 3, 3)
    packed = pack({"w": w}, precision)
    assert ("w.shape" in packed) == deflated
    stored = packed["w.packed"]
    assert (
        (stored.nbytes <= 0.8 * w.size) if deflated else (stored.dtype == np.int8 and stored.shape == w.shape)
    )


def plain_parts() -> Arrays:
    return dict(pack({"w": layer(64, 16, 3, 3)}, 32))


@pytest.mark.parametrize(
    "change",
    [
        {"w.step": None},
        {"w.step": np.ones(63, np.float16)},
        {"w.step": np.ones(64, np.float32)},
        {"w.packed": np.ones(64, np.int8)},
        {"w.packed": np.ones((64, 64), np.int16)},
        {"w.packed": np.ones((64, 64), np.uint8)},
        {"w.shape": np.array([64, 16, 3, 3], np.int32)},
    ],
)
def test_damaged_values_that_are_not_deflated_are_errors(
    change: dict[str, NDArray[Any] | None], tmp_path: Path
) -> None:
    weights = {name: w for name, w in (plain_parts() | change).items() if w is not None}
    with pytest.raises(ValueError, match=r"^[^\n]*\.$"):
        unpack(weights)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=DAMAGED):
        read_arrays(tmp_path / "w.safetensors")


def test_packing_again_stays_within_the_same_tolerance() -> None:
    w = layer(64, 96)
    once = pack({"w": w}, 8)
    found = unpack(once)["w"]
    again = pack({"w": found}, 8)
    assert (np.abs(unpack(again)["w"] - found) <= half_steps(again, "w", 2) * 1.01).all()
    assert again["w.step"] == pytest.approx(once["w.step"], rel=0.02)


def test_small_tensors_vectors_and_integers_are_not_packed() -> None:
    weights: Arrays = {
        "small": layer(1, MIN_VALUES - 1),
        "vector": layer(MIN_VALUES),
        "scalar": np.array(0.3, np.float32),
        "table": np.arange(2 * MIN_VALUES, dtype=np.int32).reshape(2, -1),
    }
    packed = pack(weights, 8)
    assert packed.keys() == weights.keys()
    assert np.array_equal(packed["table"], weights["table"]) and packed["table"].dtype == np.int32
    for name in ("small", "vector", "scalar"):
        assert packed[name].dtype == np.float16
        assert np.array_equal(packed[name], weights[name].astype(np.float16))
    unpacked = unpack(packed)
    assert all(unpacked[name] is w for name, w in packed.items())
    assert "large" not in pack({"large": layer(2, MIN_VALUES // 2)}, 8)


def test_rows_of_zeros_and_a_huge_row() -> None:
    w = layer(16, 512)
    w[3], w[5] = 0, w[5] * 3e6
    w[7, 11] = 8e6  # alone: the step of its row is 1/127 of it
    packed = pack({"w": w}, 8)
    found = unpack(packed)["w"]
    assert not found[3].any()
    assert (np.abs(found - w.astype(np.float64)) <= half_steps(packed, "w", 2) * 1.07).all()
    assert found[7, 11] == pytest.approx(8e6, rel=1e-3) and np.count_nonzero(found[7]) == 1
    assert not unpack(pack({"w": np.zeros((16, 512), np.float32)}, 8))["w"].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e7])
@pytest.mark.parametrize("shape", [(16, 512), (16,)])
def test_values_that_float16_cannot_hold_are_not_packed(value: float, shape: tuple[int, ...]) -> None:
    w = layer(*shape)
    w.flat[5] = value
    with pytest.raises(ValueError, match="not finite, or too large"):
        pack({"w": w}, 8)


@pytest.mark.parametrize("precision", [0, -0.0, -8, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("shape", [(64, 64), (3,)])
def test_precision_is_a_finite_number_above_0(precision: float, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^The precision must be a finite number above 0, not [^ ]+\.$"):
        pack({"w": layer(*shape)}, precision)


def test_what_is_packed_has_at_most_8_dimensions() -> None:
    most = layer(64, 64, *(1,) * (MAX_DIMENSIONS - 2))
    assert unpack(pack({"w": most}, 8))["w"].shape == most.shape
    with pytest.raises(ValueError, match=r"^The tensor w cannot be packed: it has more than 8 dimensions\.$"):
        pack({"w": most[..., None]}, 8)
    small = most[:1, ..., None]
    assert unpack(pack({"w": small}, 8))["w"].shape == small.shape


def test_packed_weights_are_compared_with_the_original_ones() -> None:
    weights: Arrays = {
        "w": layer(64, 64),
        "vector": layer(64),
        "scalar": np.array(0.3, np.float32),
        "none": np.zeros(0, np.float32),
        "table": np.arange(6),
    }
    packed = pack(weights, 8)
    assert check_packed(weights, packed).keys() == weights.keys()
    other_values: dict[str, Arrays] = {
        "w": {"w.packed": stream_of(np.ones(64 * 64, np.int8))},
        "vector": {"vector": packed["vector"] * np.float16(1.01)},
        "table": {"table": np.arange(1, 7)},
    }
    for name, damage in other_values.items():
        with pytest.raises(ValueError, match=f"^The tensor {name} has other values after it was packed.$"):
            check_packed(weights, packed | damage)
    for shape in ((64, 65), (65, 64), (4096, 1)):
        with pytest.raises(ValueError, match=r"^The tensor w has another shape after it was packed\.$"):
            check_packed(weights, packed | pack({"w": layer(*shape)}, 8))
    with pytest.raises(ValueError, match=r"^The packed weights lack or add more\.$"):
        check_packed(weights | {"more": layer(2)}, packed)
    with pytest.raises(ValueError, match=r"^The packed weights lack or add more\.$"):
        check_packed(weights, packed | {"more": layer(2)})


# ── names ──


@pytest.mark.parametrize("name", ["w.packed", "w.step", "w.shape", "other.packed"])
def test_names_that_unpacking_would_mistake_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be packed"):
        pack({"w": layer(64, 64), name: layer(3)}, 8)


def test_tensors_that_are_called_step_or_shape_are_kept() -> None:
    weights: Arrays = {"gain.step": layer(3), "gain.shape": layer(2), "step": layer(3), "packed": layer(4)}
    found = unpack(pack(weights | {"w": layer(64, 64), "step.weight": layer(64, 64)}, 8))
    assert found.keys() == weights.keys() | {"w", "step.weight"}


# ── damage ──


def parts() -> Arrays:
    """A packed tensor [64, 64]."""
    return pack({"w": layer(64, 64)}, 8)


def stream_of(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    return np.frombuffer(deflate(values.tobytes()), np.uint8)


def shape_of(*sizes: int) -> NDArray[np.int32]:
    return np.array(sizes, np.int32)


def damaged(kind: str) -> Arrays:
    """The parts of a tensor with one damage."""
    there = parts()
    stream, step = there["w.packed"], there["w.step"]
    match kind:
        case "cut":
            there["w.packed"] = stream[:-40]
        case "empty":
            there["w.packed"] = stream[:0]
        case "no end":
            compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
            data = compressor.compress(bytes(4096)) + compressor.flush(zlib.Z_SYNC_FLUSH)
            there["w.packed"] = np.frombuffer(data, np.uint8)
        case "changed":
            there["w.packed"] = stream ^ np.uint8(255)
        case "with bytes after its end":
            there["w.packed"] = np.append(stream, stream[:1])
        case "longer by one value":
            there["w.packed"] = stream_of(np.ones(64 * 64 + 1, np.int8))
        case "shorter by one value":
            there["w.packed"] = stream_of(np.ones(64 * 64 - 1, np.int8))
        case "without step" | "without shape":
            del there["w." + kind.split()[1]]
        case "stream of int8":
            there["w.packed"] = stream.view(np.int8)
        case "step of integers":
            there["w.step"] = np.ones(64, np.int32)
        case "step of float64":
            there["w.step"] = np.full(64, 1e300)
        case "shape of int64":
            there["w.shape"] = there["w.shape"].astype(np.int64)
        case "shape of floats":
            there["w.shape"] = there["w.shape"].astype(np.float32)
        case "fewer steps":
            there["w.step"] = step[:-1]
        case "step of two dimensions":
            there["w.step"] = step[:, None]
        case "shape that is a matrix":
            there["w.shape"] = there["w.shape"][None]
        case "shape of one number":
            there["w.shape"] = shape_of(64)
        case "shape of no number":
            there["w.shape"] = shape_of()
        case "negative shape":
            there["w.shape"] = shape_of(64, -64)
        case "twice negative shape":
            there["w.shape"] = shape_of(64, -8, -8)
        case "zero shape":
            there["w.shape"] = shape_of(64, 64, 0)
        case "shape beyond int64":
            there["w.shape"] = shape_of(64, *[2**31 - 1] * 7)
        case "shape beyond float64":
            there["w.shape"] = shape_of(64, *[2**31 - 1] * 60)
        case "shape that wraps to the right size":
            there["w.shape"] = shape_of(64, 64, 2**30, 2**30, 16)
        case "another size":
            there["w.shape"] = shape_of(64, 65)
        case "both packed and not":
            there["w"] = layer(64, 64)
    return there


KINDS = (
    "cut",
    "empty",
    "no end",
    "changed",
    "with bytes after its end",
    "longer by one value",
    "shorter by one value",
    "without step",
    "without shape",
    "stream of int8",
    "step of integers",
    "step of float64",
    "shape of int64",
    "shape of floats",
    "fewer steps",
    "step of two dimensions",
    "shape that is a matrix",
    "shape of one number",
    "shape of no number",
    "negative shape",
    "twice negative shape",
    "zero shape",
    "shape beyond int64",
    "shape beyond float64",
    "shape that wraps to the right size",
    "another size",
    "both packed and not",
)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_an_error(kind: str, tmp_path: Path) -> None:
    weights, sound = damaged(kind), parts()
    assert weights.keys() != sound.keys() or any(
        w.dtype != sound[name].dtype or not np.array_equal(w, sound[name]) for name, w in weights.items()
    )
    with pytest.raises(ValueError, match=r"^[^\n]*\.$"):
        unpack(weights)
    save_file({name: np.ascontiguousarray(w) for name, w in weights.items()}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=DAMAGED):
        read_arrays(tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_steps_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    """Also in a row of zeros."""
    w = layer(64, 64)
    w[5] = 0
    weights = pack({"w": w}, 8)
    weights["w.step"][5] = value
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="^The weights w.safetensors hold values in w that are not finite"):
        read_arrays(tmp_path / "w.safetensors")


def test_memory_is_bounded_by_the_size_of_the_stream() -> None:
    """64 MB of zeros in a stream of 64 kB or 8 MB, for a shape of 4096 values and for one that claims all."""
    zeros = bytes(1 << 26)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    matched = np.frombuffer(compressor.compress(zeros) + compressor.flush(), np.uint8)
    plain = np.frombuffer(deflate(zeros), np.uint8)
    assert matched.size < 1 << 17 and plain.size > 1 << 23
    step, sizes = np.ones(64, np.float16), (shape_of(64, 64), shape_of(64, 1 << 20))
    for stream, shape in ((matched, sizes[0]), (plain, sizes[0]), (matched, sizes[1])):
        tracemalloc.start()
        with pytest.raises(ValueError, match="values than its shape"):
            unpack({"w.packed": stream, "w.step": step, "w.shape": shape})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2 * stream.size + (1 << 18)
    assert unpack({"w.packed": plain, "w.step": step, "w.shape": sizes[1]})["w"].size == 1 << 26


# ── files ──


@pytest.fixture
def script() -> ModuleType:
    return load_script("scripts/pack_weights.py")


def test_script_packs_a_file_in_place(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept tensors do not change, nor does the metadata; the values are those of `pack`."""
    path = tmp_path / "w.safetensors"
    weights: Arrays = {
        name: w.astype(np.float16) for name, w in {"front.w": layer(64, 64), "w": layer(64, 96)}.items()
    }
    save_file(weights, path, metadata={"level": "80"})
    monkeypatch.setattr(sys, "argv", ["", str(path), "--precision", "32", "--keep", "front."])
    script.main()
    printed = capsys.readouterr().out
    assert printed.startswith("w.safetensors: ") and printed.endswith(" dB\n")
    assert metadata_of(path) == {"level": "80"}
    stored, found = load_file(path), read_arrays(path)
    assert sorted(stored) == ["front.w", "w.packed", "w.step"]
    assert stored["front.w"].dtype == np.float16 and np.array_equal(stored["front.w"], weights["front.w"])
    assert np.array_equal(found["w"], unpack(pack({"w": weights["w"]}, 32))["w"])


PRECISION = "The precision must be a finite number above 0, not "


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ({"w": layer(64, 64)}, ["--precision=0"], PRECISION + "0."),
        ({"w": layer(64, 64)}, ["--precision=-8"], PRECISION + "-8."),
        ({"w": layer(64, 64)}, ["--precision=nan"], PRECISION + "nan."),
        (
            {"w": layer(64, 64, *(1,) * 7)},
            ["--precision=8"],
            "The tensor w cannot be packed: it has more than ",
        ),
        (  # a kept tensor takes the place of the steps
            {"a.w": layer(64, 64), "a.w.step": layer(64)},
            ["--precision=8", "--keep=a.w."],
            "The packed weights lack or add a.w.step.",
        ),
        (
            {"w": layer(64, 64), "front.w": np.full(3, 1e6, np.float32)},
            ["--precision=8", "--keep=front."],
            "The weights hold values that are not finite, or too large for float16.",
        ),
        (None, ["--precision=8"], "The weights w.safetensors are not installed; install Trifocal again."),
    ],
)
def test_script_reports_errors_and_leaves_the_file(
    weights: "Arrays | None",
    options: list[str],
    message: str,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "w.safetensors"
    if weights is not None:
        save_file(weights, path)
    before = [path.read_bytes() for path in tmp_path.iterdir()]
    monkeypatch.setattr(sys, "argv", ["", str(path), *options])
    with pytest.raises(SystemExit) as error:
        script.main()
    assert str(error.value).startswith(message) and "\n" not in str(error.value)  # a string: status 1
    assert [path.read_bytes() for path in tmp_path.iterdir()] == before


def test_script_compares_before_it_replaces_the_file(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": layer(64, 64)}, path)
    before = path.read_bytes()
    monkeypatch.setattr(script, "pack", lambda weights, precision: pack({"w": weights["w"] + 1}, precision))
    with pytest.raises(ValueError, match="other values after it was packed"):
        script.pack_file(path, 8, None)
    assert path.read_bytes() == before


def test_only_these_weights_are_packed() -> None:
    """All floats are float16. Packed files have a record of it, and are no preset's weights, whose values the
    fingerprints in files cover.
    """
    paths = sorted(WEIGHTS_FOLDER.glob("*.safetensors"))
    packed = set()
    for path in paths:
        stored = load_file(path)
        assert all(w.dtype == np.float16 for w in stored.values() if w.dtype.kind == "f")
        if any(name.endswith(".packed") for name in stored):
            packed.add(path.name)
        record = json.loads(path.with_suffix(".json").read_text("utf-8"))
        assert ("packed" in record) == (path.name in packed)
    assert packed == BUNDLED_PACKED
    names = {name for preset in PRESETS for name in (preset.weights, preset.shared_weights)}
    assert not packed & names.union(*(preset.earlier_weights for preset in PRESETS))


@pytest.mark.parametrize("name", sorted(BUNDLED_PACKED))
def test_bundled_files_are_packed_as_their_records_say(name: str) -> None:
    """A tensor is packed if it is large and not kept. The smallest step of a tensor's rows that no outlier
    enlarged is the root mean square divided by the precision.
    """
    record = json.loads((WEIGHTS_FOLDER / name).with_suffix(".json").read_text("utf-8"))["packed"]
    stored, values = load_file(WEIGHTS_FOLDER / name), read_arrays(WEIGHTS_FOLDER / name)
    large = {
        tensor
        for tensor, w in values.items()
        if w.dtype.kind == "f"
        and w.ndim >= 2
        and w.size >= MIN_VALUES
        and not tensor.startswith(record.get("kept", " "))
    }
    assert large == {one.removesuffix(".packed") for one in stored if one.endswith(".packed")}
    shares = []
    for tensor in large:
        rows, step = values[tensor].reshape(len(values[tensor]), -1), stored[tensor + ".step"]
        free = (np.abs(rows).max(1) < (LARGEST - 1) * step.astype(np.float32)) & (rows != 0).any(1)
        shares.extend((np.sqrt((rows[free] ** 2).mean(1)) / step[free]).tolist())
    assert np.median(shares) == pytest.approx(record["precision"], rel=0.01)
