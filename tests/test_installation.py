"""The package builds, and its wheel and its source distribution install and work where nobody may write.

Imports only the standard library and pytest, so that CI runs it without the package:
`pytest --noconftest -n 0 -m slow tests/test_installation.py`. It needs a package index.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AS_USER = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")  # root without the right to write everywhere
MOST_BYTES = 250_000_000  # of site-packages, without what an empty environment has
MOST_BYTES_OF_WEIGHTS = 65_000_000
OF_THE_ENVIRONMENT = ("pip", "setuptools", "pkg_resources")

pytestmark = [
    pytest.mark.slow,  # builds and installs; a minute or two
    pytest.mark.skipif(sys.platform == "win32", reason="the permissions are those of POSIX"),
]


def run(*line: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(list(map(str, line)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that is removed at the end: two environments take 600 MB."""
    path = Path(tempfile.mkdtemp(prefix="trifocal-installation-"))
    yield path
    set_writable(path, True)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def distributions(folder: Path) -> Path:
    """The folder of a wheel and a source distribution."""
    build = folder / "build"
    run(sys.executable, "-m", "venv", build)
    run(build / "bin" / "pip", "install", "--quiet", "build")
    run(build / "bin" / "python", "-m", "build", "--outdir", folder / "dist", ROOT)
    return folder / "dist"


def set_writable(path: Path, writable: bool) -> None:
    """Let the owner write to all folders and files of a tree, or nobody."""
    for parent, _, files in os.walk(path):
        for one in (Path(parent), *(Path(parent, name) for name in files)):
            if not one.is_symlink():
                mode = one.stat().st_mode
                one.chmod(mode | 0o200 if writable else mode & ~0o222)


def tree_size(path: Path) -> int:
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file() and not one.is_symlink())


def check_installed(site: Path) -> None:
    """Only the plain dependencies, within the sizes that the documentation states."""
    names = {one.name for one in site.iterdir()}
    assert "trifocal" in names and not names & {"torch", "torchvision", "onnx"}
    assert tree_size(site) - sum(tree_size(site / name) for name in OF_THE_ENVIRONMENT) < MOST_BYTES
    assert tree_size(site / "trifocal" / "weights") < MOST_BYTES_OF_WEIGHTS


def output(environment: Path, work: Path, name: str, *words: str) -> str:
    """The standard output of an installed command, run in the folder `work`; standard error is empty."""
    line = [str(environment / "bin" / name), *words]
    if os.geteuid() == 0:
        line = [*AS_USER, *line]
    done = subprocess.run(
        line,
        cwd=work,
        env={"HOME": str(work), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["whl", "tar.gz"])
def test_distribution_works_from_a_read_only_installation(
    kind: str, distributions: Path, folder: Path
) -> None:
    (archive,) = distributions.glob(f"*.{kind}")
    environment = folder / f"installed-{kind}"
    run(sys.executable, "-m", "venv", environment)
    run(environment / "bin" / "pip", "install", "--quiet", archive)
    (site,) = environment.glob("lib/python*/site-packages")
    check_installed(site)
    set_writable(environment, False)
    work = folder / f"work-{kind}"
    work.mkdir()
    command = partial(output, environment, work)

    writable = f"import os; print(os.access({str(site / 'trifocal' / 'weights')!r}, os.W_OK))"
    assert command("python", "-c", writable) == "False\n"
    photograph = site / "trifocal" / "demo" / "astronaut.png"
    line = json.loads(command("trifocal", "encode", str(photograph), "-o", "photo.tri", "--json", "--quiet"))
    assert line["preset"] == "dual-layer-compact"
    assert f"{line['width']}×{line['height']}" in command("trifocal", "decode", "photo.tri")
    assert (work / "photo.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(command("trifocal", "detect", "photo.tri"))
    assert "person" in {one["label"] for one in found["objects"]}
    assert "dual-layer-compact" in command("trifocal", "presets")
