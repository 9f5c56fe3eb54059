"""Griffe extension of the documentation site: names that share a line of a docstring become entries.

The docstrings of Trifocal write `width, height: of the image in pixels.` in Args and Attributes. Griffe takes
the part before the colon for one name.
"""

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(?:Args|Attributes):\n((?: {4}.*\n?|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}((?:\w+, )+\w+): (.*\n?(?: {5,}.*\n?)*)", re.MULTILINE)


class SharedLines(griffe.Extension):
    """Rewrites docstrings before Griffe parses them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = one_name_per_entry(obj.docstring.value)


def one_name_per_entry(docstring: str) -> str:
    """`a, b: text` in Args and Attributes of a docstring without indentation becomes `a: text`, `b: text`."""
    return SECTION.sub(lambda section: ENTRY.sub(separate, section.group()), docstring)


def separate(entry: re.Match[str]) -> str:
    names, text = entry.groups()
    return "\n".join(f"    {name}: {text.rstrip()}" for name in names.split(", ")) + "\n"
