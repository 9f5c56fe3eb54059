"""Write the table of GPU hours in docs/training.md, from the commands of the papers on that page."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from rich.progress import track

from trifocal.errors import OptionError
from trifocal.training import count_base_operations, count_operations
from trifocal.training.operations import GPU, TERAFLOPS, UTILISATION, StepOperations

PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"
BEGIN, END = "<!-- scripts/gpu_hours.py -->", "<!-- end of scripts/gpu_hours.py -->"
LAUNCH = "accelerate launch -m trifocal train "
HEADING = (
    f"Peak of one {GPU}: {TERAFLOPS:.0f} TFLOP/s (TF32), of which {100 * UTILISATION:.0f} % are reached.\n\n"
    "| `trifocal train` | TFLOP an image | images a step | steps | EFLOP | GPU hours |\n"
    "|---|---:|---:|---:|---:|---:|\n"
)


def commands(page: str) -> Iterator[list[str]]:
    """The words after `train` of each command of a paper."""
    for line in re.sub(r"\\\n\s*", "", page).splitlines():
        if line.startswith(LAUNCH) and "--steps N" not in line:
            yield shlex.split(line.removeprefix(LAUNCH))


def option(words: list[str], name: str, default: str) -> str:
    return words[words.index(name) + 1] if name in words else default


def count(words: list[str]) -> StepOperations:
    """The operations of a step of such a command."""
    if words[0] == "base":
        return count_base_operations(option(words, "--of", "dual-layer-compact"))
    parts = [part for part in option(words, "--parts", "").split(",") if part]
    return count_operations(words[0], int(option(words, "--stage", "1")), parts=parts)


def row(words: list[str], found: StepOperations) -> str:
    """A row of the table."""
    steps = int(option(words, "--steps", "0"))
    named = [f"{name} {option(words, name, '')}" for name in ("--of", "--stage") if name in words]
    return (
        f"| `{' '.join([words[0], *named])}` | {found.image * 1e-12:.2f} | {found.batch} | {steps:,} | "
        f"{found.step * steps * 1e-18:.2f} | {found.hours(steps):,.0f} |\n"
    )


def with_table(page: str, table: str) -> str:
    """The page with another table. Raises OptionError if it has no place for one."""
    if BEGIN not in page or END not in page:
        raise OptionError(f"The page needs the lines {BEGIN} and {END}.")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table}{END}{rest.split(END)[1]}"


def main() -> None:
    page = PAGE.read_text("utf-8")
    rows = [row(words, count(words)) for words in track([*commands(page)], "counting operations")]
    PAGE.write_text(with_table(page, HEADING + "".join(rows)), "utf-8")


if __name__ == "__main__":
    main()
