#!/usr/bin/env python3
"""Writes the module tree of docs/architecture.md from the first lines of the modules' docstrings: python
scripts/architecture.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "trifocal"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- scripts/architecture.py -->\n", "<!-- end -->"


def main() -> None:
    PAGE.write_text(with_tree(PAGE.read_text("utf-8")), "utf-8")


def with_tree(text: str) -> str:
    """The page with today's tree between its two marks. Raises ValueError where there are none."""
    block = "\n".join(["```", "trifocal/", *tree(PACKAGE), "```", ""])
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:start] + block + text[end:]


def tree(folder: Path, prefix: str = "") -> list[str]:
    """A line for each module and folder, the modules of a folder first."""
    entries = sorted(
        (path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()),
        key=lambda path: (path.is_dir(), path.name),
    )
    entries = [path for path in entries if path.name not in ("__init__.py", "__pycache__")]
    lines = []
    for path in entries:
        last = path == entries[-1]
        name = f"{path.name}/" if path.is_dir() else path.name
        source = path / "__init__.py" if path.is_dir() else path
        start = f"{prefix}{'└' if last else '├'}── {name}"
        lines.append(f"{start:<36} {summary(source)}".rstrip())
        if path.is_dir():
            lines += tree(path, prefix + ("    " if last else "│   "))
    return lines


def summary(module: Path) -> str:
    """The first sentence of a module's docstring, on one line and without its full stop."""
    text = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].removesuffix(".")


if __name__ == "__main__":
    main()
