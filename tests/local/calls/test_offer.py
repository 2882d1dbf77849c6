"""What a request lets the model call."""

from __future__ import annotations

from typing import Any

import pytest

from gpt.errors import GptError, InvalidRequestError, UnsupportedParameterError
from gpt.local.calls.offer import Offer, offer_of
from gpt.types import ChatRequest


def function(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def custom(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": name, **fields}}


F, G = function("f"), function("g")
C = custom("c")


def offered(**fields: Any) -> Offer | None:
    return offer_of(ChatRequest(messages=[], **fields))


def named(name: str, kind: str = "function") -> dict[str, Any]:
    return {"type": kind, kind: {"name": name}}


def allowed(mode: str, *tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


NOTHING: list[dict[str, Any]] = [
    {},
    {"tools": []},
    {"tool_choice": "auto"},
    {"tool_choice": "none"},
    {"tools": [F], "tool_choice": "none"},
    {"functions": [{"name": "f"}], "function_call": "none"},
    {"functions": [{"name": "f"}], "tool_choice": "none", "function_call": {"name": "f"}},
    {"functions": [{"name": "f"}], "tools": [F], "tool_choice": "none", "function_call": {"name": "f"}},
]


@pytest.mark.parametrize("fields", NOTHING)
def test_nothing(fields: dict[str, Any]) -> None:
    """Without tools, or where they are not to be called, there is no offer; tool_choice outranks function_call."""
    assert offered(**fields) is None


# tools; tool_choice; names, required, parallel, legacy
OFFERS: list[tuple[dict[str, Any], tuple[list[str], bool, bool | None, bool]]] = [
    ({"tools": [F, G]}, (["f", "g"], False, None, False)),
    ({"tools": [F, G], "tool_choice": "auto"}, (["f", "g"], False, None, False)),
    ({"tools": [F, G], "tool_choice": None}, (["f", "g"], False, None, False)),
    ({"tools": [F, G], "tool_choice": "required"}, (["f", "g"], True, None, False)),
    ({"tools": [F, G], "tool_choice": "required", "parallel_tool_calls": True}, (["f", "g"], True, True, False)),
    ({"tools": [F, G], "parallel_tool_calls": False}, (["f", "g"], False, False, False)),
    ({"tools": [F, G], "tool_choice": named("g")}, (["g"], True, False, False)),
    ({"tools": [F, G], "tool_choice": named("g"), "parallel_tool_calls": True}, (["g"], True, False, False)),
    ({"tools": [F, C], "tool_choice": named("c", "custom")}, (["c"], True, False, False)),
    ({"tools": [F, G, C], "tool_choice": allowed("auto", named("f"), named("c", "custom"))}, (["f", "c"], False, None, False)),
    ({"tools": [F, G], "tool_choice": allowed("required", {"type": "function", "name": "g"})}, (["g"], True, None, False)),
    ({"tools": [F], "function_call": "none"}, (["f"], False, None, False)),
    ({"functions": [{"name": "f"}, {"name": "g"}]}, (["f", "g"], False, False, True)),
    ({"functions": [{"name": "f"}, {"name": "g"}], "function_call": {"name": "g"}}, (["g"], True, False, True)),
    ({"functions": [{"name": "f"}], "tool_choice": "required"}, (["f"], True, False, True)),
]


@pytest.mark.parametrize(("fields", "expected"), OFFERS)
def test_offer(fields: dict[str, Any], expected: Any) -> None:
    """Which tools may be called, whether one must be, and whether several may."""
    offer = offered(**fields)
    assert offer is not None
    assert expected == ([tool.name for tool in offer.tools], offer.required, offer.parallel, offer.legacy)


OBJECT = {"type": "object", "properties": {}, "additionalProperties": False}
SCHEMAS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (function("f"), OBJECT),
    (function("f", parameters={}), OBJECT),
    (function("f", parameters={"key": "x"}), {"key": "x", "type": "object"}),
    (function("f", parameters={"$ref": "#/$defs/A"}), {"$ref": "#/$defs/A"}),
    (custom("c"), {"type": "string"}),
    (custom("c", format={"type": "text"}), {"type": "string"}),
    (custom("c", format={"type": "grammar", "grammar": {"syntax": "regex", "definition": "a|b"}}),
     {"type": "string", "pattern": "^(?:a|b)$"}),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "expected"), SCHEMAS)
def test_schema(tool: dict[str, Any], expected: dict[str, Any]) -> None:
    """A function without parameters takes none; a custom tool takes one text, which may have a form."""
    offer = offered(tools=[tool])
    assert offer is not None
    parameters = offer.tools[0].parameters
    if offer.custom:
        assert ["input"] == parameters["required"]
        parameters = parameters["properties"]["input"]
    assert expected == parameters


def test_definitions() -> None:
    """Templates are shown functions, custom tools among them."""
    offer = offered(tools=[function("f", description="F.", parameters={"type": "object"}), custom("c")])
    assert offer is not None
    made = offer.definitions()
    assert function("f", description="F.", parameters={"type": "object"}) == made[0]
    assert ("function", "c", {"input": {"type": "string"}}) == (
        made[1]["type"], made[1]["function"]["name"], made[1]["function"]["parameters"]["properties"],
    )  # fmt: skip


REFUSED: list[tuple[dict[str, Any], type[GptError], str]] = [
    ({"tool_choice": "required"}, InvalidRequestError, "tool_choice"),
    ({"function_call": {"name": "f"}}, InvalidRequestError, "function_call"),
    ({"tools": [F, F]}, InvalidRequestError, "tools[1]"),
    ({"tools": [F, function("a b")]}, InvalidRequestError, "tools[1]"),
    ({"functions": [{"name": "f"}, {"name": ""}]}, InvalidRequestError, "functions[1]"),
    ({"tools": [F], "tool_choice": named("g")}, InvalidRequestError, "tool_choice"),
    ({"tools": [F], "tool_choice": allowed("auto", named("g"))}, InvalidRequestError, "tool_choice"),
    ({"tools": [F], "tool_choice": allowed("never", named("f"))}, InvalidRequestError, "tool_choice"),
    ({"tools": [F], "tool_choice": "sometimes"}, InvalidRequestError, "tool_choice"),
    ({"tools": [F], "tool_choice": {"type": "function"}}, InvalidRequestError, "tool_choice"),
    ({"tools": [F], "functions": [{"name": "g"}]}, InvalidRequestError, "functions"),
    ({"tools": [function("f", parameters={"type": "string"})]}, InvalidRequestError, "tools[0].function.parameters"),
    ({"functions": [{"name": "f", "parameters": {"type": "string"}}]}, InvalidRequestError, "functions[0].parameters"),
    ({"tools": [{"type": "web_search"}]}, UnsupportedParameterError, "tools[0]"),
    ({"tools": [custom("c", format={"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: "a"'}})]},
     UnsupportedParameterError, "tools[0].custom.format.grammar.syntax"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "kind", "param"), REFUSED)
def test_refused(fields: dict[str, Any], kind: type[GptError], param: str) -> None:
    """What is not offered cannot be chosen, and what no model here can be held to is named."""
    with pytest.raises(kind) as caught:
        offered(**fields)
    assert param == caught.value.param  # type: ignore[attr-defined]
    assert param in str(caught.value)
