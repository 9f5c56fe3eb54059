"""Files between this machine and an emulated aarch64: the same integers, and pixels within a level.

The variable TRIFOCAL_AARCH64 of the environment names a Python that `scripts/aarch64_python.sh` makes.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
AARCH64 = os.environ.get("TRIFOCAL_AARCH64")
PRESETS = ("compact", "dual-layer-compact")
GOLDEN = [ROOT / "tests" / "golden" / f"compact-0.1{name}.tri" for name in ("", "-arithmetic-2")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(AARCH64 is None, reason="TRIFOCAL_AARCH64 does not name a Python"),
]


@dataclass(frozen=True)
class Machine:
    python: str
    folder: Path

    def exactness(self, files: list[Path]) -> dict[str, Any]:
        """What `helpers/exactness.py` prints."""
        script = ROOT / "tests" / "helpers" / "exactness.py"
        line = [self.python, str(script), str(self.folder), ",".join(PRESETS), *map(str, files)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def files(self) -> list[Path]:
        return [self.folder / f"{preset}.tri" for preset in PRESETS]

    def pixels(self) -> dict[str, Any]:
        return {path.stem: np.load(path).astype(int) for path in self.folder.glob("*.npy")}


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Machine, Machine]:
    """This machine and the emulated one."""
    assert AARCH64 is not None
    names = {"here": sys.executable, "there": AARCH64}
    here, there = (Machine(python, tmp_path_factory.mktemp(name)) for name, python in names.items())
    return here, there


def test_both_machines_decode_the_same_values(machines: tuple[Machine, Machine]) -> None:
    """Each encodes, and each decodes what both wrote, and the golden files."""
    here, there = machines
    here.exactness([])
    found = there.exactness([*here.files(), *GOLDEN])
    expected = here.exactness([*there.files(), *GOLDEN])
    assert (found["machine"], found["coder"]) == ("aarch64", "PlainRangeEncoder")
    assert found["sums"] == expected["sums"] and len(found["sums"]) == 2 * len(PRESETS) + len(GOLDEN)
    pixels = there.pixels()
    assert pixels.keys() == here.pixels().keys() == found["sums"].keys()
    for name, rgb in here.pixels().items():
        assert np.abs(rgb - pixels[name]).max() <= 1, name
