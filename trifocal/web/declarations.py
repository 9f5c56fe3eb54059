"""Declarations of the server's operations, which parse requests and make the OpenAPI description."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trifocal.errors import OptionError

__all__ = ["Answer", "Operation", "Parameter", "openapi"]

ERROR_SCHEMA = {
    "type": "object",
    "required": ["error", "type"],
    "properties": {
        "error": {"type": "string", "description": "One sentence that says what to do."},
        "type": {"type": "string", "description": "The name of the exception, such as OptionError."},
    },
}
ERRORS = {
    "403": "The request comes from a page of another site.",
    "408": "The file was not received in time.",
    "413": "The file is too large.",
    "422": "The file cannot be read, or a parameter is wrong.",
    "501": "The installation lacks a package.",
    "503": "The server is busy; Retry-After has the seconds to wait.",
    "504": "The work took too long.",
}
NOTICES = "Trifocal-Notices"
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """A parameter in the query of a URL.

    Attributes:
        name: in the URL, and of the option that it sets.
        kind: str, int, float or bool.
        description: one sentence or two.
        minimum, maximum: of a number, inclusive.
        choices: the values of a text, if it has few.
        required: whether it must be given.
        convert: makes the option from the value; raises OptionError.
    """

    name: str
    kind: type
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False
    convert: Callable[[Any], Any] | None = None

    def parse(self, text: str) -> Any:
        """The option's value. Raises OptionError."""
        value = self._value(text)
        if value is None or not self._is_in_range(value):
            raise OptionError(f"{self.name} must be {self._accepted()}, not {text[:40]!r}.")
        return self.convert(value) if self.convert else value

    def _value(self, text: str) -> Any:
        if self.kind is bool:
            return TRUTH.get(text.lower())
        try:
            return self.kind(text)
        except ValueError:
            return None

    def _is_in_range(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if self.kind in (int, float):
            low = -math.inf if self.minimum is None else self.minimum
            high = math.inf if self.maximum is None else self.maximum
            return bool(math.isfinite(value) and low <= value <= high)
        return True

    def _accepted(self) -> str:
        if self.choices:
            return " or ".join(self.choices)
        noun = {int: "a whole number", float: "a number", bool: "true or false"}.get(self.kind, "a text")
        low = "" if self.minimum is None else f" from {self.minimum:,g}"
        high = "" if self.maximum is None else f" to {self.maximum:,g}"
        return noun + low + high

    def schema(self) -> dict[str, Any]:
        """The parameter in OpenAPI."""
        limits = {"minimum": self.minimum, "maximum": self.maximum, "enum": [*self.choices] or None}
        given = {name: value for name, value in limits.items() if value is not None}
        return {
            "name": self.name,
            "in": "query",
            "required": self.required,
            "description": self.description,
            "schema": {"type": TYPES[self.kind], **given},
        }


@dataclass(frozen=True)
class Answer:
    """What an operation returns.

    Attributes:
        content: bytes of the body.
        media: its media type.
        notices: sentences about what was dropped or done differently; sent in a header.
        headers: further headers, ASCII.
    """

    content: bytes
    media: str
    notices: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """An operation on the file in the body of a POST request.

    Attributes:
        path: of the URL.
        summary: one sentence.
        body: what the body is.
        answer: what the answer is.
        media: its media types.
        run: body, options, progress → answer.
        parameters: of the URL.
        headers: of the answer, with their descriptions.
    """

    path: str
    summary: str
    body: str
    answer: str
    media: tuple[str, ...]
    run: Callable[[bytes, dict[str, Any], Callable[[float], None]], Answer]
    parameters: tuple[Parameter, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def parse(self, query: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """The options in a query. Raises OptionError for unknown, repeated, missing and wrong parameters."""
        known = {parameter.name: parameter for parameter in self.parameters}
        options: dict[str, Any] = {}
        for name, text in query:
            if name not in known:
                names = ", ".join(known) or "none"
                raise OptionError(f"{self.path} has no parameter {name[:40]!r}; its parameters are: {names}.")
            if name in options:
                raise OptionError(f"The parameter {name} is given twice; give it once.")
            options[name] = known[name].parse(text)
        for parameter in self.parameters:
            if parameter.required and parameter.name not in options:
                raise OptionError(f"{self.path} needs the parameter {parameter.name}; add it to the URL.")
        return options

    def schema(self) -> dict[str, Any]:
        """The operation in OpenAPI."""
        notices = "A JSON array of sentences about what was dropped or done differently."
        headers = {NOTICES: notices, **self.headers}
        return {
            "post": {
                "operationId": self.path.strip("/"),
                "summary": self.summary,
                "parameters": [parameter.schema() for parameter in self.parameters],
                "requestBody": {
                    "required": True,
                    "description": self.body,
                    "content": {"application/octet-stream": {"schema": binary("application/octet-stream")}},
                },
                "responses": {
                    "200": {
                        "description": self.answer,
                        "content": {media: {"schema": binary(media)} for media in self.media},
                        "headers": {
                            name: {"description": text, "schema": {"type": "string"}}
                            for name, text in headers.items()
                        },
                    },
                    **{
                        status: {
                            "description": text,
                            "content": {
                                "application/json": {"schema": {"$ref": "#/components/schemas/Error"}}
                            },
                        }
                        for status, text in ERRORS.items()
                    },
                },
            }
        }


def binary(media: str) -> dict[str, str]:
    """The schema of a body in OpenAPI 3.1."""
    return {"type": "object"} if media == "application/json" else {"contentMediaType": media}


def openapi(
    operations: Iterable[Operation], pages: Mapping[str, tuple[str, str]], version: str
) -> dict[str, Any]:
    """The OpenAPI description of a server.

    Args:
        operations: on files.
        pages: the summary and the media type of each GET request, by its path.
        version: of Trifocal.
    """
    found: dict[str, Any] = {operation.path: operation.schema() for operation in operations}
    for path, (summary, media) in pages.items():
        answer = {"description": summary, "content": {media: {"schema": binary(media)}}}
        name = path.strip("/").replace(".", "_")
        found[path] = {"get": {"operationId": name, "summary": summary, "responses": {"200": answer}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Trifocal", "version": version, "summary": "A learned image codec"},
        "paths": found,
        "components": {"schemas": {"Error": ERROR_SCHEMA}},
    }
