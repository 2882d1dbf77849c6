"""What a request lets the model call. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gpt.errors import InvalidRequestError, UnsupportedParameterError
from gpt.types import UNSET, ChatRequest


class Declared(msgspec.Struct, frozen=True):
    """A tool of a request. `custom` ones take free text, which goes to the model as an object with one text, `input`."""

    name: str
    parameters: dict[str, Any]
    description: str
    strict: bool
    custom: bool
    path: str
    """Where its schema is in the request."""

    def definition(self) -> dict[str, Any]:
        """The tool as templates know tools."""
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        return {"type": "function", "function": {**function, "parameters": self.parameters}}


class Offer(msgspec.Struct, frozen=True):
    """What a request lets the model call. `legacy` says that it used the deprecated `functions`."""

    tools: tuple[Declared, ...]
    required: bool
    parallel: bool | None
    """Whether several calls may be made; None where the request does not say."""
    legacy: bool

    @property
    def custom(self) -> frozenset[str]:
        """The names of the tools that take free text."""
        return frozenset(tool.name for tool in self.tools if tool.custom)

    def definitions(self) -> list[dict[str, Any]]:
        """The tools as templates know tools."""
        return [tool.definition() for tool in self.tools]


_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def offer_of(request: ChatRequest) -> Offer | None:
    """What the model may call; None where it may call nothing. The request's fields are plain values, and checked.

    `tool_choice` outranks `function_call`. Raises InvalidRequestError for a choice of what is not offered, and
    UnsupportedParameterError for a tool that the engine cannot hold a model to.
    """
    legacy = not request.tools
    choice: Any = request.tool_choice
    if legacy and choice is UNSET:
        choice = request.function_call
    elif not legacy and request.functions and choice != "none":
        raise InvalidRequestError("functions: tools are given too; give the functions as tools", param="functions")
    name = "function_call" if legacy and request.tool_choice is UNSET else "tool_choice"
    if choice == "none":
        return None
    given: Any = (request.functions or ()) if legacy else request.tools
    if not given:
        if choice in (UNSET, None, "auto"):
            return None
        raise InvalidRequestError(f"{name}: there are no tools to choose from", param=name)
    where = "functions" if legacy else "tools"
    tools = [_declared({"function": one} if legacy else one, f"{where}[{place}]") for place, one in enumerate(given)]
    seen: set[str] = set()
    for place, one in enumerate(tools):
        path = f"{where}[{place}]"
        if one.name in seen:
            raise InvalidRequestError(f"{path}: there is already one named {one.name!r}", param=path)
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", one.name):
            raise InvalidRequestError(f"{path}: the name {one.name!r} has not 1 to 64 of letters, digits, _ and -", param=path)
        seen.add(one.name)
    required, names = _chosen(choice, name)
    if names is not None:
        for wanted in names:
            if wanted not in seen:
                there = ", ".join(sorted(seen))
                raise InvalidRequestError(f"{name}: no tool is named {wanted!r}; there are {there}", param=name)
        tools = [one for one in tools if one.name in names]
    single = legacy or (required and names is not None and len(names) == 1 and not _allows(choice))
    parallel = False if single else None if request.parallel_tool_calls is UNSET else request.parallel_tool_calls
    return Offer(tuple(tools), required, parallel, legacy)


def _declared(tool: Mapping[str, Any], path: str) -> Declared:
    if tool.get("type", "function") == "custom":
        custom = tool["custom"]
        return Declared(
            custom["name"],
            {"type": "object", "properties": {"input": _free_text(custom, path)}, "required": ["input"],
             "additionalProperties": False},
            custom.get("description", ""), strict=False, custom=True, path=f"{path}.custom.format",
        )  # fmt: skip
    if tool.get("type", "function") != "function":
        raise UnsupportedParameterError(
            f"{path}.type: {tool['type']!r} is none of function and custom", 400, code="unsupported_parameter", param=path
        )
    function = tool["function"]
    where = f"{path}.parameters" if path.startswith("functions") else f"{path}.function.parameters"
    schema = dict(function.get("parameters") or _NO_PARAMETERS)
    if not schema.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf"}:
        schema["type"] = "object"
    if schema.get("type", "object") != "object":
        raise InvalidRequestError(f"{where}: arguments are an object, this schema is of {schema['type']!r}", param=where)
    return Declared(function["name"], schema, function.get("description", ""), function.get("strict") is True, False, where)


def _free_text(custom: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The schema of a custom tool's text."""
    form = custom.get("format") or {"type": "text"}
    if form.get("type") != "grammar":
        return {"type": "string"}
    grammar = form["grammar"]
    if grammar.get("syntax") == "regex":
        return {"type": "string", "pattern": f"^(?:{grammar['definition']})$"}
    where = f"{path}.custom.format.grammar.syntax"
    raise UnsupportedParameterError(
        f"{where}: the model in this process keeps to a regex, not to {grammar.get('syntax')!r}",
        400, code="unsupported_parameter", param=where,
    )  # fmt: skip


def _chosen(choice: Any, param: str) -> tuple[bool, list[str] | None]:
    """Whether a call must be made, and of which tools; None for any."""
    if choice in (UNSET, None, "auto"):
        return False, None
    if choice == "required":
        return True, None
    if isinstance(choice, dict):
        allowed = choice.get("allowed_tools")
        if allowed is not None:
            if allowed["mode"] not in ("auto", "required"):
                raise InvalidRequestError(
                    f"{param}.allowed_tools.mode: expected auto or required, got {allowed['mode']!r}", param=param
                )
            return allowed["mode"] == "required", [str(_named(one)) for one in allowed["tools"]]
        if (name := _named(choice)) is not None:
            return True, [name]
    raise InvalidRequestError(f"{param}: expected none, auto, required or a tool's name, got {choice!r}", param=param)


def _allows(choice: Any) -> bool:
    return isinstance(choice, dict) and "allowed_tools" in choice


def _named(reference: Mapping[str, Any]) -> str | None:
    """The tool that a reference names, in any of its forms."""
    inside = reference.get("function") or reference.get("custom") or reference
    name = inside.get("name")
    return name if isinstance(name, str) else None
