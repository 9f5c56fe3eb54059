"""The range coder in Python: the same bytes, values and refusals as constriction's."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from trifocal.entropy.plain_range_coder import PlainModel, PlainRangeDecoder, PlainRangeEncoder
from trifocal.entropy.range_coder import Models, range_coder_models
from trifocal.entropy.tables import ROWS, logistic_frequencies, symbol_frequencies

constriction = pytest.importorskip("constriction", exc_type=ImportError)
ROOT = Path(__file__).parent.parent
TABLES = logistic_frequencies()
NATIVE = range_coder_models(TABLES)

Run = tuple[int, list[int]]  # a row, and its symbols


@pytest.fixture(scope="module")
def plain() -> Models:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "constriction", None)
        return range_coder_models(TABLES)


def test_constriction_is_used_where_it_can_be_imported(plain: Models) -> None:
    queue = constriction.stream.queue
    assert (NATIVE.encoder, NATIVE.decoder) == (queue.RangeEncoder, queue.RangeDecoder)
    assert (plain.encoder, plain.decoder) == (PlainRangeEncoder, PlainRangeDecoder)
    assert all(type(model) is PlainModel for model in (*plain.rows, plain.bit))


def model(models: Models, row: int) -> object:
    return models.rows[row] if row else models.bit


def sizes(row: int) -> int:
    return len(symbol_frequencies(TABLES, row)) if row else 2


@st.composite
def run(draw: st.DrawFn) -> Run:
    """Row 0 stands for bits. Symbols are rare, common, equal, or any."""
    row = draw(st.integers(0, ROWS - 1))
    last = sizes(row) - 1
    symbol = st.integers(0, last) | st.sampled_from([0, last // 2, last])
    repeated = st.builds(lambda one, count: [one] * count, symbol, st.integers(1, 300))
    return row, draw(st.lists(symbol, min_size=1, max_size=40) | repeated)


RUNS = st.lists(run(), max_size=12)


def encode(models: Models, runs: list[Run]) -> bytes:
    encoder = models.encoder()
    for row, symbols in runs:
        encoder.encode(np.array(symbols, dtype=np.int32), model(models, row))
    return bytes(encoder.get_compressed().astype("<u4").tobytes())


def decode(models: Models, data: bytes, runs: list[Run]) -> list[object]:
    """For each run the symbols, and whether the words may end there; "refused" is the last if there are
    none.
    """
    decoder = models.decoder(np.frombuffer(data, dtype="<u4").astype(np.uint32))
    found: list[object] = [decoder.maybe_exhausted()]
    for row, symbols in runs:
        try:
            found.append(decoder.decode(model(models, row), len(symbols)).tolist())
        except (AssertionError, ValueError):
            return [*found, "refused"]
        found.append(decoder.maybe_exhausted())
    return found


@given(runs=RUNS)
@settings(deadline=None, max_examples=200)
def test_both_write_the_same_bytes_and_read_them(plain: Models, runs: list[Run]) -> None:
    data = encode(NATIVE, runs)
    assert encode(plain, runs).rstrip(b"\0") == data.rstrip(b"\0")
    padded = data.rstrip(b"\0") + b"\0" * (-len(data.rstrip(b"\0")) % 4 + 4)
    found = decode(plain, padded, runs)
    assert found == decode(NATIVE, padded, runs)
    assert found[1::2] == [symbols for _, symbols in runs] and found[-1] is True


@given(runs=RUNS, spoil=st.data())
@settings(deadline=None, max_examples=300)
def test_both_read_the_same_from_damaged_bytes(plain: Models, runs: list[Run], spoil: st.DataObject) -> None:
    data = bytearray(encode(NATIVE, runs))
    kind = spoil.draw(st.sampled_from(["flip", "cut", "more", "any", "ones"]))
    if kind == "flip" and data:
        data[spoil.draw(st.integers(0, len(data) - 1))] ^= 1 << spoil.draw(st.integers(0, 7))
    if kind == "cut":
        del data[spoil.draw(st.integers(0, len(data))) :]
    if kind == "more":
        data += spoil.draw(st.binary(max_size=12))
    if kind == "any":
        data = bytearray(spoil.draw(st.binary(max_size=60)))
    if kind == "ones":
        data = bytearray(b"\xff" * spoil.draw(st.integers(0, 60)))
    padded = bytes(data) + b"\0" * (-len(data) % 4)
    assert decode(plain, padded, runs) == decode(NATIVE, padded, runs)


def test_words_that_no_encoder_writes_are_refused(plain: Models) -> None:
    assert decode(plain, b"\xff" * 12, [(0, [0] * 40)]) == [False, "refused"]


def test_a_carry_passes_through_all_words(plain: Models) -> None:
    """Symbols just below a bound of the interval give words of ones, until a symbol above it adds 1."""
    row, last = 12, sizes(12) - 1
    found = [
        (row, [last // 2] * before + [one] * 400 + [last, last])
        for before in range(1, 30)
        for one in (last // 2, last)
    ]
    for runs in found:
        data = encode(NATIVE, [runs])
        assert encode(plain, [runs]).rstrip(b"\0") == data.rstrip(b"\0")


def test_an_interval_of_exactly_one_word_is_not_renormalised(plain: Models) -> None:
    """Random symbols are encoded until a bit would leave a size of 2^32, which takes some 10,000."""
    random = np.random.default_rng(0)
    encoder, runs = PlainRangeEncoder(), list[Run]()
    while encoder._size >> 24 != 2**9:
        row = int(random.integers(1, ROWS))
        runs.append((row, [int(random.integers(sizes(row)))]))
        encoder.encode(np.array(runs[-1][1]), plain.rows[row])
    encoder.encode(np.array([1]), plain.bit)
    assert encoder._size == 2**32
    runs += [(0, [1, 0, 1, 1] * 9)]
    data = encode(NATIVE, runs)
    assert encode(plain, runs).rstrip(b"\0") == data.rstrip(b"\0")
    assert decode(plain, data, runs) == decode(NATIVE, data, runs)


FEW = [
    "tests/test_entropy.py",
    "tests/test_fixed_point.py::test_golden_file_decodes_to_the_same_latents",
    "tests/test_earlier_weights.py::test_golden_file_decodes_to_its_original_pixels",
]
MANY = [
    f"tests/test_{name}.py"
    for name in (
        "component_files",
        "earlier_weights",
        "entropy",
        "fixed_point",
        "forged_files",
        "fuzz",
        "onnx_engine",
        "round_trip",
        "scalable",
        "weights",
    )
]
WITHOUT_CONSTRICTION = """
import sys
sys.modules["constriction"] = None  # every import of it fails
import pytest
sys.exit(pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("tests", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def test_codecs_work_without_constriction(tests: list[str]) -> None:
    line = [sys.executable, "-c", WITHOUT_CONSTRICTION, *tests]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


MACHINES = [  # sys_platform, platform_machine, and whether constriction has wheels for it
    ("linux", "x86_64", True),
    ("linux", "aarch64", False),
    ("darwin", "arm64", True),
    ("darwin", "x86_64", True),
    ("win32", "AMD64", True),
    ("win32", "ARM64", False),
]


@pytest.mark.parametrize(("system", "machine", "installed"), MACHINES)
def test_constriction_is_installed_where_it_has_wheels(system: str, machine: str, installed: bool) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (found,) = (one for one in map(Requirement, project["dependencies"]) if one.name == "constriction")
    assert found.marker is not None
    assert found.marker.evaluate({"sys_platform": system, "platform_machine": machine}) == installed
