"""A request as a server takes it."""

from __future__ import annotations

from typing import Any

import pytest

from gpt.errors import UnsupportedParameterError
from gpt.protocol.fit import fitted
from gpt.protocol.profiles import Profile
from gpt.types import UNSET, ChatRequest, DeveloperMessage, FunctionDefinition, ResponseFormat, SystemMessage, UserMessage

LIMIT = Profile(name="old", renames=(("max_completion_tokens", "max_tokens"),))
ROLES = Profile(name="old", roles=(("developer", "system"),))
TOOL = {"type": "function", "function": {"name": "f"}}
NAMED = {"type": "function", "function": {"name": "f"}}


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest(**{"messages": [UserMessage("a")], **fields})


RENAMES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"max_tokens": 5}, {"max_tokens": 5}),
    ({"max_completion_tokens": 5}, {"max_tokens": 5}),
    ({"max_completion_tokens": 5, "max_tokens": 5}, {"max_tokens": 5}),
    ({"max_completion_tokens": 5, "max_tokens": None}, {"max_tokens": 5}),
    ({"max_completion_tokens": None}, {"max_completion_tokens": None}),
    ({"extra": {"max_completion_tokens": 5}}, {"extra": {"max_completion_tokens": 5}}),
]


@pytest.mark.parametrize(("given", "sent"), RENAMES)
def test_renames(given: dict[str, Any], sent: dict[str, Any]) -> None:
    """A parameter goes out under the server's name for it; what is in the body as it is."""
    assert asked(**sent) == fitted(asked(**given), LIMIT)


def test_two_limits() -> None:
    """Two limits that differ are refused where the server would act upon one alone."""
    with pytest.raises(UnsupportedParameterError, match="max_completion_tokens: old knows only max_tokens") as caught:
        fitted(asked(max_completion_tokens=5, max_tokens=6), LIMIT)
    assert ("max_completion_tokens", 400, "caller") == (caught.value.param, caught.value.status_code, caught.value.fault)


IGNORED: list[tuple[str, Any, dict[str, Any], bool]] = [
    ("n", UNSET, {}, False),
    ("n", None, {}, False),
    ("n", 1, {}, False),
    ("n", True, {}, True),
    ("n", 2, {}, True),
    ("tool_choice", "required", {}, False),
    ("tool_choice", "auto", {"tools": [TOOL]}, False),
    ("tool_choice", "none", {"tools": [TOOL]}, True),
    ("tool_choice", "required", {"tools": [TOOL]}, True),
    ("tool_choice", NAMED, {"tools": [TOOL]}, True),
    ("parallel_tool_calls", True, {"tools": [TOOL]}, False),
    ("parallel_tool_calls", False, {"tools": [TOOL]}, True),
    ("parallel_tool_calls", False, {}, False),
    ("logit_bias", {}, {}, False),
    ("logit_bias", {"5": 1}, {}, True),
    ("functions", [], {}, False),
    ("functions", [FunctionDefinition("f")], {}, True),
    ("function_call", "auto", {}, False),
    ("function_call", {"name": "f"}, {}, True),
    ("modalities", ["text"], {}, False),
    ("modalities", ["text", "audio"], {}, True),
    ("web_search_options", {}, {}, True),
    ("response_format", ResponseFormat("text"), {}, False),
    ("response_format", {"type": "text"}, {}, False),
    ("response_format", ResponseFormat("json_object"), {}, True),
    ("response_format", {"type": "json_object"}, {}, True),
]


@pytest.mark.parametrize(("name", "value", "beside", "refused"), IGNORED)
def test_ignored(name: str, value: Any, beside: dict[str, Any], refused: bool) -> None:
    """What the server would ignore is refused by name where it asks for something, and passes where it asks for nothing."""
    request = asked(**{name: value}, **beside)
    profile = Profile(name="deaf", ignores=(name,))
    if not refused:
        assert request is fitted(request, profile)
        return
    with pytest.raises(UnsupportedParameterError, match=f"^{name}: deaf takes it and does not act upon it") as caught:
        fitted(request, profile)
    assert (name, 400) == (caught.value.param, caught.value.status_code)
    assert request is fitted(request, Profile())


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        (ResponseFormat("json_object"), True),
        ({"type": "json_object"}, True),
        ({"type": "json_schema"}, False),
        (ResponseFormat("text"), False),
    ],
)
def test_ignored_value(value: Any, refused: bool) -> None:
    """What it ignores only with a certain value is refused with that value alone."""
    request = asked(response_format=value)
    profile = Profile(ignores=("response_format: json_object",))
    if not refused:
        assert request is fitted(request, profile)
        return
    with pytest.raises(UnsupportedParameterError, match="^response_format: "):
        fitted(request, profile)


@pytest.mark.parametrize(
    ("value", "shown"), [(2, "body={'n': 2}"), ("x" * 100, "body={'n': ...}"), (object(), "body={'n': ...}")]
)
def test_ways_out(value: Any, shown: str) -> None:
    """The error says how the parameter can be sent all the same; sent so, it passes."""
    with pytest.raises(UnsupportedParameterError, match="n: the server takes it") as caught:
        fitted(asked(n=value), Profile(ignores=("n",)))
    assert shown in caught.value.message
    request = asked(extra={"n": 2})
    assert request is fitted(request, Profile(ignores=("n",)))


def test_roles() -> None:
    """A role goes out under the server's name for it, of objects and dicts; what else is said is left as it is."""
    said = [DeveloperMessage("a"), {"role": "developer", "content": "b", "zap": 1}, UserMessage("c"), {"role": 5}]
    before = list(said)
    made = fitted(asked(messages=said), ROLES)
    assert ["system", "system", "user"] == [getattr(one, "role", None) or one["role"] for one in made.messages[:3]]  # type: ignore[index]
    assert {"role": "system", "content": "b", "zap": 1} == made.messages[1]  # type: ignore[index]
    assert "a" == made.messages[0].content  # type: ignore[index]
    assert before == said
    assert "developer" == said[0].role  # type: ignore[union-attr]


def test_messages_once() -> None:
    """Messages that can be read only once are read; those without such a role are the same list."""
    made = fitted(asked(messages=(one for one in [DeveloperMessage("a")])), ROLES)
    assert "system" == made.messages[0].role  # type: ignore[index]
    said = [SystemMessage("a")]
    assert said is fitted(asked(messages=said), ROLES).messages
