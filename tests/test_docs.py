"""The documentation: its Python code runs and is typed, and pages that scripts write are up to date."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from helpers.scripts import load_script
from trifocal.demo import PHOTOGRAPH

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SAMPLES = ("photo.jpg", "dog.jpg", "street.jpg")


def python_code(page: Path) -> str:
    """All Python blocks of a page, with their line numbers."""
    text = page.read_text("utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        code = block.group(1).splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines)


PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if python_code(page).strip()
]


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder contains the images that the pages name."""
    with Image.open(PHOTOGRAPH) as image:
        for name in SAMPLES:
            image.crop((200, 100, 264, 148)).save(tmp_path / name, icc_profile=None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_documentation_has_code() -> None:
    assert {"README.md", "python.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # short examples leave files open
def test_code_in_the_documentation_runs(page: Path, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trifocal.presets._registered", {})
    exec(compile(python_code(page), str(page), "exec"), {"__name__": page.stem})  # noqa: S102


@pytest.mark.slow  # mypy reads torch
def test_code_in_the_documentation_is_typed(tmp_path: Path) -> None:
    files = []
    for page in PAGES:
        files.append(tmp_path / f"page_{page.stem.lower()}.py")
        files[-1].write_text(python_code(page), "utf-8")
    cache = tmp_path / "cache"
    if (ROOT / ".mypy_cache").exists():
        shutil.copytree(ROOT / ".mypy_cache", cache)
    options = ["--strict", "--allow-untyped-calls", "--follow-imports=silent"]
    options += ["--config-file=", f"--cache-dir={cache}"]
    line = [sys.executable, "-m", "mypy", *options, *map(str, files)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cli_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert load_script("scripts/cli_page.py").page() == page, "run scripts/cli_page.py"
