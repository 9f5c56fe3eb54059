"""Check values, such as fields of a recipe from JSON, against annotated types and their ranges."""

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from inspect import Parameter, signature
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from trifocal.errors import OptionError

__all__ = [
    "OTHERS",
    "Count",
    "Length",
    "NonNegative",
    "Positive",
    "Range",
    "Share",
    "argument_types",
    "checked",
    "checked_fields",
    "json_types",
]

OTHERS = "**"  # in `argument_types`: every name that is not listed
SINGULAR = {float: "a number", int: "an integer", str: "a text", bool: "true or false", NoneType: "null"}
PLURAL = {float: "numbers", int: "integers", str: "texts", bool: "true or false", NoneType: "null"}


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, for annotations: `Annotated[float, Range(0, 1)]`.

    Attributes:
        low, high: the ends.
        above, below: whether the ends themselves are out of range.
        step: if not 0, integers are multiples of it.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    step: int = 0

    def __contains__(self, value: float) -> bool:
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high and not (self.step and value % self.step)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.above else f"of {self.low:g} or more"
        if self.above or self.below:
            low = "above" if self.above else "from"
            return f"{low} {self.low:g} to {'below' if self.below else 'at most'} {self.high:g}"
        return f"from {self.low:,} to {self.high:,}" + (f" in steps of {self.step}" if self.step else "")


@dataclass(frozen=True)
class Length:
    """Lists of at least so many elements, for annotations."""

    least: int

    def __contains__(self, value: Sequence[object]) -> bool:
        return len(value) >= self.least

    def __str__(self) -> str:
        return f"({self.least} or more)"


Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1, 1_000_000_000)]


def checked(name: str, value: object, kind: Any) -> Any:
    """A value in its annotated type: integers for `float` as floats, lists as tuples.

    Args:
        name: of the value, for the message.
        value: of Python, or from JSON.
        kind: float, int, str, bool, None, Literal, a class, Any; tuples, sequences, mappings and unions of
            these; and each as Annotated with a `Range` or a `Length`. Numbers are finite.

    Raises:
        OptionError: for a value of another type, or out of its range.
    """
    try:
        return converted(value, kind)
    except (TypeError, ValueError, OverflowError):
        raise OptionError(f"{name} is {described(kind)}, not {reprlib.repr(value)}.") from None


def converted(value: Any, kind: Any) -> Any:
    """The value in the type `kind`. Raises TypeError, ValueError or OverflowError if it does not fit."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        found = converted(value, parts[0])
        if all(found in limit for limit in parts[1:]):
            return found
    elif origin in (Union, UnionType):
        return first_converted(value, parts)
    elif origin is Literal:
        if any(value is part or isinstance(value, str) and value == part for part in parts):
            return value
    elif origin in (tuple, Sequence):
        if isinstance(value, list | tuple):
            kinds = parts[:1] * len(value) if origin is Sequence or parts[-1] is ... else parts
            return tuple(converted(own, part) for own, part in zip(value, kinds, strict=True))
    elif origin in (dict, Mapping):
        if isinstance(value, Mapping):
            return {converted(key, parts[0]): converted(own, parts[1]) for key, own in value.items()}
    elif kind in (int, float):
        return converted_number(value, kind)
    elif isinstance(value, NoneType if kind is None else kind):
        return value
    raise TypeError


def converted_number(value: Any, kind: type[int] | type[float]) -> float:
    """A finite number, which is integral for `int`. Raises as `converted`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    found = kind(value)
    if not math.isfinite(found) or kind is int and found != value:
        raise ValueError
    return found


def first_converted(value: object, kinds: Sequence[Any]) -> Any:
    """The value in the first of these types that it fits. Raises TypeError if there is none."""
    for kind in kinds:
        try:
            return converted(value, kind)
        except (TypeError, ValueError, OverflowError):
            continue
    raise TypeError


def described(kind: Any, words: Mapping[Any, str] = SINGULAR) -> str:
    """A type in words: "a number from 0 to 1"."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return " ".join([described(parts[0], words), *map(str, parts[1:])])
    if origin in (Union, UnionType):
        return " or ".join(described(part, words) for part in parts)
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    if origin in (dict, Mapping):
        return "a JSON object" + ("" if parts[1] is Any else f" of {described(parts[1], PLURAL)}")
    if origin is tuple and parts[-1] is not ...:
        if len({*parts}) > 1:
            return f"[{', '.join(described(part) for part in parts)}]"
        return f"a list of {len(parts)} {described(parts[0], PLURAL)}"
    if origin in (tuple, Sequence):
        return f"a list of {described(parts[0], PLURAL)}"
    return words.get(NoneType if kind is None else kind, getattr(kind, "__name__", str(kind)))


def checked_fields(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass in their types. Raises OptionError as `checked`."""
    own: Any = type(instance)
    return {name: checked(name, getattr(instance, name), kind) for name, kind in field_types(own).items()}


@cache
def field_types(kind: Any) -> dict[str, Any]:
    """The annotated types of the fields of a dataclass."""
    return get_type_hints(kind, include_extras=True)


def argument_types(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotated types of a function's arguments by name; those without an annotation are Any.

    Arguments that `functools.partial` binds are left out. For `**options` the names are those of the next
    base class, or for a function those of what it returns; if neither is known, there is an entry `OTHERS`.
    """
    if isinstance(function, partial):
        own = argument_types(function.func)
        return {name: kind for name, kind in own.items() if name not in function.keywords}
    bases = function.__mro__ if isinstance(function, type) else ()
    number = next((number for number, base in enumerate(bases) if "__init__" in vars(base)), 0)
    hints = annotations(vars(bases[number])["__init__"] if bases else function)
    further = next(iter(bases[number + 1 :]), None) if bases else hints.get("return")
    found: dict[str, Any] = {}
    for name, parameter in signature(function).parameters.items():
        if parameter.kind is Parameter.VAR_KEYWORD:
            found |= argument_types(further) if isinstance(further, type) else {OTHERS: Any}
        elif parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            found[name] = hints.get(name, Any)
    return found


def annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's arguments; none if a name in them is not defined at run time."""
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:
        return {}


def json_types(kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Those types that JSON can express; of a union only the parts that it can."""
    parts = {name: json_part(kind) for name, kind in kinds.items()}
    return {name: kind for name, kind in parts.items() if kind is not None}


def json_part(kind: Any) -> Any:
    """The part of a type that JSON can express, or None if that is at most null."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        kept = [part for part in parts if part is NoneType or json_part(part) is not None]
        return None if all(part is NoneType for part in kept) else Union[*kept]
    if origin in (Annotated, tuple, Sequence, dict, Mapping):
        inner = parts[:1] if origin is Annotated else [part for part in parts if part is not ...]
        return kind if all(json_part(part) is not None for part in inner) else None
    return kind if origin is Literal or kind is Any or kind in (int, float, str, bool) else None
