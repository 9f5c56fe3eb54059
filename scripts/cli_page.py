#!/usr/bin/env python3
"""Writes docs/cli.md from the commands and their options: python scripts/cli_page.py"""

import inspect
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer import Typer
from typer.models import OptionInfo

from trifocal.cli import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """# Command line

Written by `python scripts/cli_page.py` from the commands themselves; `trifocal COMMAND --help` lists the same options.
An option with `...` takes several values, separated by spaces; one with `,...` takes one value with commas in it.

Results go to standard output, everything else to standard error. The exit status is 0, 1 if something failed, and 2 for wrong usage.
`encode`, `decode`, `detect`, `strip` and `merge` replace an existing file only if `-o`, `--draw` or `--attention` names exactly that file, or
with `--force`; they never replace an input. `evaluate`, `compare`, `demo` and `train` do not start where an earlier run left results, unless with
`--force`, which replaces them, or `--resume` (not `demo`), which continues it. One exception: `evaluate -o FILE`, without `--resume`, replaces
FILE and the tables beside it whose names end in `_summary` and `_words`. `export` and `export-onnx` replace their own files.

`trifocal --networks FOLDER COMMAND` uses the networks of other projects in that folder: see [docs/evaluation.md](evaluation.md#networks-of-other-projects).
"""


def main() -> None:
    PAGE.write_text(page(), "utf-8")


def page() -> str:
    """The whole page."""
    commands = commands_in(app)
    links = [
        f"- [`trifocal {name}`](#trifocal-{name.replace(' ', '-')}): {summary(commands[name])}"
        for name in sorted(commands)
    ]
    return "\n".join([HEAD, *links, "", *(section(name, commands[name]) for name in sorted(commands))])


def commands_in(group: Typer, prefix: str = "") -> dict[str, Callable[..., Any]]:
    """The functions of all commands by name, such as `encode` and `batch encode`."""
    found = {
        f"{prefix}{one.name or one.callback.__name__}": one.callback
        for one in group.registered_commands
        if one.callback
    }
    for one in group.registered_groups:
        if one.typer_instance:
            found |= commands_in(one.typer_instance, f"{prefix}{one.name} ")
    return found


def summary(command: Callable[..., Any]) -> str:
    return (inspect.getdoc(command) or "").partition("\n")[0]


def section(name: str, command: Callable[..., Any]) -> str:
    """A command: its usage, its help, and a table of its options."""
    arguments, rows = [], []
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        kind, info = get_args(hints[parameter.name])[:2]
        if isinstance(info, OptionInfo):
            rows.append(f"| {names(parameter.name, kind, info)} | {description(parameter, kind, info)} |")
        else:
            arguments.append(info.metavar or parameter.name.upper())
            rows.append(f"| `{arguments[-1]}` | {sentence(info.help)} |" if info.help else "")
    usage = " ".join(["trifocal", name, "[OPTIONS]", *arguments])
    help = "\n\n".join(sentence(part) for part in (inspect.getdoc(command) or "").split("\n\n"))
    table = ["| option | |", "|---|---|", *filter(None, rows), ""] if any(rows) else []
    return "\n".join([f"## trifocal {name}", "", "```", usage, "```", "", help, "", *table])


def plain_type(kind: Any) -> Any:
    """`float | None` and `list[float]` are float."""
    inner = [one for one in get_args(kind) if one is not type(None)]
    return plain_type(inner[0]) if inner else kind


def names(name: str, kind: Any, info: OptionInfo) -> str:
    """`-q`, `--quality FLOAT`."""
    given = map(str, (info.default, *(info.param_decls or ())))
    declared = [one for one in given if one.startswith("-")] or [f"--{name.replace('_', '-')}"]
    written: list[str] = sorted(declared, key=len)
    kind = plain_type(kind)
    choices = "|".join(one.value for one in kind) if inspect.isclass(kind) and issubclass(kind, Enum) else ""
    value = info.metavar or choices or {int: "INT", float: "FLOAT"}.get(kind, "TEXT")
    if kind is not bool:
        written[-1] += f" {value}".replace("|", "\\|")
    return ", ".join(f"`{one}`" for one in written)


def description(parameter: inspect.Parameter, kind: Any, info: OptionInfo) -> str:
    """The help with the range of a number, and the default if the help has none."""
    text, mark, default = sentence(info.help).partition(" [default:")
    if info.min is not None:
        text += f" {info.min:g} to {info.max:g}." if info.max is not None else f" At least {info.min:g}."
    text += mark + default
    value = getattr(parameter.default, "value", parameter.default)
    if value is parameter.empty:
        text += " Required."
    elif value is not None and not isinstance(value, bool):
        text += f" [default: {value}]"
    return text.replace("|", "\\|")


def sentence(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    main()
