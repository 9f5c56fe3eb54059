"""Parsers of option values, and options that take several values."""

import json
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_size(text: str) -> int:
    """`20k` is 20,000 bytes and `1.5M` 1,500,000; Ki, Mi and Gi count in 1,024s."""
    number = text.strip().lower().removesuffix("b")
    digits = number.rstrip("kmgi")
    try:
        size = round(float(digits) * UNITS[number[len(digits) :]])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise typer.BadParameter(f"{text!r} is not a number of bytes; write it like 20000, 20k or 1.5M.")
    return size


def parse_positive(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise typer.BadParameter(f"{text!r} is not a number above 0.")
    return number


def parse_region(text: str) -> tuple[int, int, int, int]:
    """`x,y,w,h` in pixels, from the top left corner."""
    try:
        x, y, width, height = map(int, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a region; write it as x,y,w,h in pixels.") from None
    return x, y, width, height


def parse_qualities(text: str) -> list[float]:
    """`10,30,50`: numbers with commas or spaces between them."""
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of qualities; write it like 10,30,50.") from None


def parse_components(text: str) -> list[str]:
    """Labels, words and tasks with commas between them, or `@labels.txt`: the lines of a file."""
    if not text.startswith("@"):
        return text.split(",")
    try:
        return Path(text[1:]).read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{text[1:]} is not UTF-8; save it as that.") from None


def parse_fields(words: list[str]) -> dict[str, Any]:
    """`learning_rate=1e-4`: fields and values. A value is JSON, a list such as 1,2,3, or else text."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{word!r} is not a field; write it like learning_rate=1e-4.")
        found[name] = parse_value(value)
    return found


def parse_value(text: str) -> Any:
    """JSON, a list such as 1,2,3, or else the text."""
    for candidate in (text, f"[{text}]") if "," in text else (text,):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return text


class MultiValueCommand(TyperCommand):
    """A command whose repeatable options also take several values: --metrics psnr lpips."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        repeatable = {name for option in self.params if option.multiple for name in option.opts}
        spread: list[str] = []
        option = ""
        for word in args:
            if word.startswith("-"):
                option = word if word in repeatable else ""
            elif option and spread[-1] != option:
                spread.append(option)
            spread.append(word)
        return super().parse_args(ctx, spread)


def printable(text: str) -> str:
    """Text for one line of a terminal: control characters and undecodable bytes are escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
