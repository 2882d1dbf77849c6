"""A Python function as a tool: its schema from its signature and docstring, the model's arguments as its parameters.

The schema is made by the compiler of structured output, so a parameter may be of any type that an answer may be of.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, overload

import msgspec

from gpt.errors import InvalidRequestError
from gpt.structured.dialects import PLAIN, Dialect
from gpt.structured.shapes import Shape, arguments
from gpt.types import (
    UNSET,
    CustomFormat,
    CustomTool,
    CustomToolCall,
    CustomToolDefinition,
    FunctionDefinition,
    FunctionTool,
    ToolCall,
    Unset,
)


class ToolContext(msgspec.Struct, frozen=True):
    """What a tool may know of the run that it is called in: a parameter of this type is filled in, and not shown to the model.

    `messages` is the conversation up to and with the message that calls; `call` the call; `turn` counts answers from 0.
    """

    messages: Sequence[Any]
    call: ToolCall | CustomToolCall
    turn: int


class EndRun(msgspec.Struct, frozen=True):
    """What a tool returns to end the run: `content` is its result, as it would have been without it."""

    content: Any = ""


class PythonTool:
    """A Python function that the model may call; made by `tool`. Calling it calls the function.

    `name` and `description` are what the model reads. `strict` asks the server to hold the model to the schema. `custom` makes
    it a tool of free text: the function then takes one text, and `format` may give a grammar for it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        strict: bool = False,
        custom: bool = False,
        format: CustomFormat | Unset = UNSET,
    ) -> None:
        self.function = function
        self.name = name or str(getattr(function, "__name__", ""))
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise InvalidRequestError(
                f"tools: {self.name or function!r} is no name for a tool, which has 1 to 64 of letters, digits, _ and -; "
                "give one with tool(function, name=...)",
                param="tools",
            )
        told, self._of_parameters = described(inspect.getdoc(function) or "")
        self.description = told if description is None else description
        self.strict = strict
        self.custom = custom
        self.format = format
        self._parameters = self._read_signature()
        self._shapes: dict[str, Shape] = {}
        if custom and len(self._parameters) != 1:
            raise InvalidRequestError(
                f"tools: {self.name}: a custom tool takes one text, this one {len(self._parameters)} parameters", param="tools"
            )
        if format is not UNSET and not custom:
            raise InvalidRequestError(f"tools: {self.name}: format= needs custom=True", param="tools")

    def __repr__(self) -> str:
        return f"PythonTool({self.name})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def _read_signature(self) -> dict[str, inspect.Parameter]:
        """The parameters that the model fills in. Raises InvalidRequestError for a signature that has no schema."""
        try:
            signature = inspect.signature(self.function)
            call = self.function if inspect.isroutine(self.function) else type(self.function).__call__
            hints = typing.get_type_hints(inspect.unwrap(call), include_extras=True)
        except (TypeError, ValueError, NameError) as error:
            raise InvalidRequestError(f"tools: {self.name}: its signature cannot be read: {error}", param="tools") from error
        found: dict[str, inspect.Parameter] = {}
        self._context: list[str] = []
        self._hints: dict[str, Any] = {}
        for name, parameter in signature.parameters.items():
            if hints.get(name) is ToolContext:
                self._context.append(name)
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise InvalidRequestError(
                    f"tools: {self.name}: a tool's parameters are filled in by name, which {parameter} is not", param="tools"
                )
            found[name] = parameter
            self._hints[name] = hints.get(name, Any)
        return found

    def shape(self, dialect: Dialect) -> Shape:
        """The parameters as a schema; in strict form where `strict` is given, else as the types say it."""
        dialect = dialect if self.strict else PLAIN
        made = self._shapes.get(dialect.name)
        if made is None:
            required = {name for name, parameter in self._parameters.items() if parameter.default is parameter.empty}
            made = arguments(self.name, self._hints, required, self._of_parameters, dialect)
            self._shapes[dialect.name] = made
        return made

    def definition(self, dialect: Dialect) -> FunctionTool | CustomTool:
        """The tool as it goes out. Raises InvalidRequestError for a type without a schema."""
        description = self.description or UNSET
        if self.custom:
            return CustomTool(CustomToolDefinition(self.name, description, self.format))
        schema = self.shape(dialect).schema
        return FunctionTool(FunctionDefinition(self.name, schema, description, True if self.strict else UNSET))

    def bound(self, text: str, context: ToolContext, dialect: Dialect) -> dict[str, Any]:
        """The function's arguments in the model's words. Raises ValueError, whose text tells the model what was wrong."""
        given: dict[str, Any] = dict.fromkeys(self._context, context)
        if self.custom:
            return {next(iter(self._parameters)): text, **given}
        plain = msgspec.json.decode(text or "{}")
        if isinstance(plain, dict):
            unknown = sorted(plain.keys() - self._parameters.keys())
            if unknown:
                raise ValueError(f"there is no parameter {unknown[0]!r}; there are {', '.join(self._parameters) or 'none'}")
        return {**self.shape(dialect).read(plain), **given}


@overload
def tool(function: Callable[..., Any], /) -> PythonTool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = False,
    custom: bool = False,
    format: CustomFormat | Unset = UNSET,
) -> Callable[[Callable[..., Any]], PythonTool]: ...


def tool(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """The function as a tool, with other settings than its own name and docstring; also a decorator. See `PythonTool`."""
    if function is None:
        return lambda function: PythonTool(function, **settings)
    return PythonTool(function, **settings)


AnyTool = Callable[..., Any] | Callable[..., Awaitable[Any]] | PythonTool | FunctionTool | CustomTool | Mapping[str, Any]
"""What a run may be given: a function, or a tool as it goes out, whose calls are handed to the caller."""


# --------------------------------------------------------------------------------------------------------------------
# Docstrings
# --------------------------------------------------------------------------------------------------------------------

_SPHINX = re.compile(r"^:param\s+(?:[^:\s]+\s+)?(\w+)\s*:\s*(.*)$")
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Params)\s*:\s*$")
_ENTRY = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_NUMPY_ENTRY = re.compile(r"^\*{0,2}(\w+)\s*(?::.*)?$")


def described(docstring: str) -> tuple[str, dict[str, str]]:
    """What a docstring says of the function, and of each of its parameters, in the styles of Google, NumPy and Sphinx.

    Sections on what it gives back and raises are left out: the model does not need them to call.
    """
    lines = docstring.splitlines()
    parameters: dict[str, str] = {}
    told: list[str] = []
    section, style, indent, entry = "text", "", 0, ""
    first_depth = 0
    for place, line in enumerate(lines):
        bare = line.strip()
        under = lines[place + 1].strip() if place + 1 < len(lines) else ""
        heading = _SECTION.match(bare) is not None or (bare == "Parameters" and bool(re.fullmatch("-{3,}", under)))
        ruled = bool(bare) and bool(re.fullmatch("-{3,}", under))
        if heading or ruled or re.fullmatch(r"(Returns?|Raises|Yields?)\s*:", bare):
            section, entry = ("parameters" if heading else "other"), ""
            style, indent = ("numpy" if ruled else "google"), len(line) - len(line.lstrip())
            continue
        if sphinx := _SPHINX.match(bare):
            section, style, entry = "parameters", "sphinx", sphinx[1]
            parameters[entry] = sphinx[2]
            continue
        if bare.startswith(":"):
            section, entry = "other", ""
        depth = len(line) - len(line.lstrip())
        if section == "parameters" and style == "google" and bare and depth <= indent:
            section = "text"
        if section == "text":
            told.append(line)
        elif section == "parameters" and bare and not re.fullmatch("-{3,}", bare):
            begins = None
            if style == "google" and (not entry or depth <= first_depth):
                begins = _ENTRY.match(bare)
                first_depth = depth
            elif style == "numpy" and depth <= indent:
                begins = _NUMPY_ENTRY.match(bare)
            if begins:
                entry = begins[1]
                parameters[entry] = begins[2] if style == "google" else ""
            elif entry:
                parameters[entry] = f"{parameters[entry]} {bare}".strip()
    return "\n".join(told).strip(), {name: text for name, text in parameters.items() if text}
