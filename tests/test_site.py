"""The documentation site builds, its links lead somewhere, and its reference and notebook are complete."""

import ast
import inspect
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import trifocal
from helpers.scripts import load_script
from helpers.site import broken_links, loaded_from_elsewhere, read_pages

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NOTEBOOK = DOCS / "tutorial.ipynb"
DIRECTIVE = re.compile(r"^::: (trifocal[\w.]*)$", re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOCSTRING = """Text, with: colons.

Args:
    x: an image,
        [H, W].
    width, height: of the image,
        in pixels.

Raises:
    ValueError, OSError: always.
"""


def resolve(name: str) -> Any:
    """The object of a dotted name, such as trifocal.codecs.codec.Codec."""
    module, _, last = name.rpartition(".")
    return getattr(import_module(module), last) if module else import_module(name)


def documented() -> list[Any]:
    """The objects of the pages of the reference."""
    pages = [DOCS / "api.md", DOCS / "api-research.md"]
    return [resolve(name) for page in pages for name in DIRECTIVE.findall(page.read_text("utf-8"))]


@pytest.mark.slow  # ten seconds
def test_site_builds_and_its_links_resolve(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = read_pages(tmp_path)
    assert not broken_links(tmp_path, pages)
    assert not loaded_from_elsewhere(pages)
    assert {"index.html", "trifocal/container/FORMAT/index.html"} <= pages.keys()
    assert {"trifocal.encode", "trifocal.FrameConverter.__call__"} <= pages["api/index.html"].anchors
    assert not [
        name
        for page in pages.values()
        for name in page.anchors
        if re.search(r"trifocal\S*\._(?!_call__)", name)
    ]
    assert (tmp_path / "CITATION.cff").read_bytes() == (ROOT / "CITATION.cff").read_bytes()
    outputs = {link for link in pages["tutorial-notebook/index.html"].loaded if link.endswith(".jpg")}
    assert len(outputs) == 5


def test_navigation_has_all_pages() -> None:
    listed = re.findall(r": (\S+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    pages = {path.name for path in DOCS.iterdir() if path.suffix in (".md", ".ipynb")}
    assert pages <= {*listed}, "add the page to `nav` in mkdocs.yml"
    assert not [path for path in listed if path not in pages and not (ROOT / path).is_file()]


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<p id="here"><a href="a/#there">1</a> <a href="b/">2</a> <a href="a/">3</a> <a href="#here">4</a>'
    )
    (tmp_path / "a" / "index.html").write_text(
        '<a href="../#here">1</a> <img src="https://cdn.example/x.png">'
    )
    pages = read_pages(tmp_path)
    assert sorted(broken_links(tmp_path, pages)) == ["index.html: a/#there", "index.html: b/"]
    assert loaded_from_elsewhere(pages) == {"https://cdn.example/x.png"}


@pytest.mark.parametrize(
    ("page", "markdown", "expected"),
    [
        ("README.md", "[a](docs/cli.md#trifocal-encode)", "[a](cli.md#trifocal-encode)"),
        ("cli.md", "[a](../README.md#models)", "[a](README.md#models)"),
        ("cli.md", "![a](../results/components_coco.png)", "![a](results/components_coco.png)"),
        ("trifocal/container/FORMAT.md", "[a](../../docs/cli.md)", "[a](../../cli.md)"),
        ("cli.md", "[a](tutorial.ipynb) [b](tutorial.md)", "[a](tutorial-notebook.md) [b](tutorial.md)"),
        ("cli.md", "[a](https://a.example) [b](#c) x[0](y)", "[a](https://a.example) [b](#c) x[0](y)"),
    ],
)
def test_links_lead_to_the_same_files_in_the_site(page: str, markdown: str, expected: str) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    assert load_script("scripts/site_hooks.py").with_site_links(markdown, page)[0] == expected


def test_names_that_share_a_line_of_a_docstring_are_separated() -> None:
    pytest.importorskip("griffe", reason="needs the extra docs")
    separated = load_script("scripts/site_docstrings.py").one_name_per_entry(DOCSTRING)
    lines = ["    width: of the image,", "        in pixels."]
    assert separated == DOCSTRING.replace(
        "\n".join(lines).replace("width:", "width, height:"),
        "\n".join([*lines, lines[0].replace("width", "height"), lines[1]]),
    )


def test_reference_has_all_public_names() -> None:
    public = {name: getattr(trifocal, name) for name in trifocal.__all__}
    missing = [
        name
        for name, value in public.items()
        if not any(value is one or value in vars(trifocal.errors).values() for one in documented())
        and not inspect.ismodule(value)
    ]
    assert missing == ["__version__"]


@pytest.mark.parametrize("page", ["research.md", "tutorial.md"])
def test_reference_has_the_classes_and_functions_of_the_research_pages(page: str) -> None:
    listed = documented()
    code = "\n".join(PYTHON.findall((DOCS / page).read_text("utf-8")))
    names = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trifocal.")
        for alias in node.names
    ]
    used = {name: resolve(name) for name in names if name != "trifocal.cli.app"}
    assert used
    missing = [name for name, value in used.items() if callable(value) and value not in listed]
    assert not missing, f"add {missing} to docs/api-research.md"


def test_notebook_has_stored_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert NOTEBOOK.stat().st_size < 400_000
    outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", [])]
    assert {one["output_type"] for one in outputs} == {"stream", "execute_result"}
    assert "stderr" not in {one.get("name") for one in outputs}
    assert sum("image/jpeg" in one.get("data", {}) for one in outputs) == 5


@pytest.mark.slow  # encodes with refinement, and trains a model
@pytest.mark.filterwarnings("ignore")  # of the notebook's own process and its connection
def test_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    import nbformat

    stored = nbformat.read(NOTEBOOK, as_version=4)
    for old, new in zip(
        stored.cells, load_script("scripts/notebook.py").executed(tmp_path).cells, strict=True
    ):
        kinds = [[one.output_type for one in cell.get("outputs", [])] for cell in (old, new)]
        assert kinds[0] == kinds[1], f"run scripts/notebook.py: {old.source}"
    assert not list(tmp_path.iterdir())
