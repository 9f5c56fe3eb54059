"""Peak memory as measured in a separate process, and what keeps it low."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trifocal.demo import PHOTOGRAPH
from trifocal.evaluation.candidates.variant import Variant
from trifocal.evaluation.peak_memory import own_peak_memory, peak_memory, processor
from trifocal.preset_table import DEFAULT
from trifocal.utils.timing import COMPILER, compiler_deferred


def test_peak_memory_includes_all_allocations() -> None:
    held = np.ones(64 << 20, np.uint8)
    peak = own_peak_memory()
    if peak is None:
        pytest.skip("this system does not say")
    assert peak > held.nbytes
    del held
    later = own_peak_memory()
    assert later is not None and later >= 0.99 * peak  # counted in lumps, by thread


KEEPING = """
import resource, sys
from trifocal.cli.main import prepare_coding
from trifocal.utils.memory import trim_heap
if sys.argv[1] == "kept":
    prepare_coding()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes([1]) * (12 << 20)  # freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
trim_heap()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has the setting")
def test_coding_commands_keep_freed_memory_until_it_is_trimmed() -> None:
    found = {}
    for mode in ("kept", "freed"):
        run = [sys.executable, "-c", KEEPING, mode]
        printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
        found[mode] = [int(line) > 150 for line in printed.split()]  # 192 pages of 64 KiB, or more of 4
    assert found == {"kept": [False, True], "freed": [True, True]}


TAKING = """
import resource, sys, time
from trifocal.utils.memory import keep_freed_memory, take_memory_ahead

faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
keep_freed_memory()
if sys.argv[1] == "ahead":
    take_memory_ahead(2**26)
    time.sleep(0.5)
before = faults()
blocks = [bytes(2**20) for _ in range(32)]
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has the setting")
@pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (5, 14), reason="a new call of Linux"
)
def test_memory_is_taken_ahead() -> None:
    found = {}
    for mode in ("ahead", "later"):
        run = [sys.executable, "-c", TAKING, mode]
        found[mode] = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert found["ahead"] < found["later"] / 4


def test_coding_commands_give_blas_one_thread_and_leave_the_environment_alone() -> None:
    code = """
import os
from trifocal.cli.main import prepare_coding
prepare_coding()
from threadpoolctl import threadpool_info
print([pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"])
print(os.environ.get("OPENBLAS_NUM_THREADS"))
"""
    for given in (None, "3"):
        environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
        environment |= {} if given is None else {"OPENBLAS_NUM_THREADS": given}
        run = [sys.executable, "-c", code]
        printed = subprocess.run(run, check=True, env=environment, capture_output=True, text=True).stdout
        assert printed.splitlines() == ["[1]", str(given)]


def test_larger_image_takes_more_memory(tmp_path: Path) -> None:
    if own_peak_memory() is None:
        pytest.skip("this system does not say")
    peaks = []
    for side in (16, 3000):
        path = tmp_path / f"{side}.png"
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(path)
        peaks.append(peak_memory(Variant("webp"), path, 50))
    assert peaks[0] and peaks[1] and peaks[1] - peaks[0] > 2 * 3000 * 3000 * 3
    assert peak_memory(Variant("webp"), tmp_path / "none.png", 50) is None


def test_peak_memory_and_processor_of_systems_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")

    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    class Usage:
        ru_maxrss = 5000

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(resource, "getrusage", lambda who: Usage)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    for system, peak in (("linux", 5000 << 10), ("darwin", 5000)):  # in KiB, and in bytes
        monkeypatch.setattr(sys, "platform", system)
        assert own_peak_memory() == peak
    assert processor() == "arm64"
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert own_peak_memory() is None


def test_placeholder_of_torchs_compiler_imports_it_when_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Compiler:
        @staticmethod
        def double(value: int) -> int:
            return 2 * value

    for name in ("torchvision", COMPILER):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with compiler_deferred():
        placeholder = sys.modules[COMPILER]
        assert not hasattr(placeholder, "__path__")
        double = placeholder.double
    assert COMPILER not in sys.modules
    monkeypatch.setitem(sys.modules, COMPILER, Compiler)
    assert double(21) == 42
    with compiler_deferred():  # it is there already
        assert sys.modules[COMPILER] is Compiler  # type: ignore[comparison-overlap]


FRESH = """
import sys
import numpy as np
import trifocal
trifocal.load("dual-layer-compact", engine="torch").encode(np.zeros((64, 64, 3), np.uint8))
brought = {"sympy", "torch._dynamo", "torch._inductor", "triton"} & sys.modules.keys()
import torch._dynamo
from torchvision.ops.roi_align import is_compile_supported as asked
from torch._dynamo.utils import is_compile_supported
print(sorted(brought), asked is not is_compile_supported, asked("cpu") == is_compile_supported("cpu"))
"""


def test_encoding_does_not_import_torchs_compiler() -> None:
    """It takes 130 MB; a placeholder replaces it while torchvision is imported, and forwards calls to it."""
    run = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=False)
    assert run.stdout.split("\n")[0] == "[] True True", run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["compact", DEFAULT])
def test_documented_memory_limit_holds(preset: str, tmp_path: Path) -> None:
    """600 MB plus 20 bytes per pixel, for an encode and a decode in one process."""
    path = tmp_path / "large.jpg"
    with Image.open(PHOTOGRAPH) as image:
        image.resize((2400, 1700)).save(path)
    peak = peak_memory(Variant(preset), path, 50)
    assert peak is not None and peak < 600e6 + 20 * 2400 * 1700
