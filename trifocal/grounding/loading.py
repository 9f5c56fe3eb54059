"""The grounders by name, each one loaded once."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from trifocal.errors import OptionError, optional_packages
from trifocal.grounding.grounder import Grounder

__all__ = ["GROUNDERS", "GrounderInput", "check_grounder", "load_grounder"]

GROUNDERS = ("compact", "grounding-dino")

GrounderInput: TypeAlias = "str | Grounder"
"""A name of GROUNDERS, or an object with the interface `Grounder`."""


def check_grounder(grounder: GrounderInput) -> None:
    """Raises OptionError for a name that is not in GROUNDERS."""
    if isinstance(grounder, str) and grounder not in GROUNDERS:
        raise OptionError(f"A grounder is {' or '.join(GROUNDERS)}, not {grounder!r}.")


def load_grounder(grounder: GrounderInput) -> Grounder:
    """The grounder of that name; another object unchanged.

    Raises:
        OptionError: for an unknown name.
        MissingExtra, WeightsError: if its packages or weights are missing.
    """
    check_grounder(grounder)
    return load_named(grounder) if isinstance(grounder, str) else grounder


@lru_cache(maxsize=2)
def load_named(name: str) -> Grounder:
    if name == "compact":
        from trifocal.grounding.compact import CompactGrounder

        return CompactGrounder()
    with optional_packages("text", "Grounding DINO"):
        from trifocal.grounding.dino import GroundingDino
    return GroundingDino()
