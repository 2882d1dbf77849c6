"""How a request with tools is put to the engine."""

from __future__ import annotations

from typing import Any

import pytest

from gpt.local.calls.ask import as_texts, instructed, instructions, plan
from gpt.local.calls.form import GENERAL, Calling, Form
from gpt.local.calls.offer import Offer, offer_of
from gpt.types import ChatRequest

LIST = Form('[{"name": "', '", "arguments": ', '}, {"name": "', "}]")
IDS = Form('C{"name": "', '", "arguments": ', "", ', "id": "probe0abc"}')
NONE = Calling(False, True, GENERAL, "never", "never")
KNOWS = Calling(True, True, LIST, "never", "never")
JSON = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}


def function(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


F, G = function("f", description="Does f."), function("g")


def offer(**fields: Any) -> Offer:
    made = offer_of(ChatRequest(messages=[], tools=[F, G], **fields))
    assert made is not None
    return made


def lines(offer: Offer, calling: Calling, response_format: Any = None, *, silent: bool = False) -> dict[str, str]:
    """The rules of the grammar, by name."""
    grammar = plan(offer, calling, 100, response_format, silent=silent).asked["grammar"]
    header, *rules = grammar.splitlines()
    assert "%llguidance {}" == header
    return dict(rule.partition(": ")[::2] for rule in rules)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        ({"parallel_tool_calls": True}, {"parallel_tool_calls": True}),
    ],
)
def test_the_engine_reads(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """Where a template knows tools and no call is forced, the engine is given the tools, and reads the calls."""
    asked = offer(**fields)
    made = plan(asked, KNOWS, 100, None, silent=False)
    assert {"tools": asked.definitions(), "tool_choice": "auto", **expected} == made.asked
    assert (None, ()) == (made.form, made.trials)


def test_choices() -> None:
    """A call that must come stands alone, one that may come stands alone or after text; of several only where asked for."""
    assert "calls" == lines(offer(tool_choice="required"), NONE)["start"]
    free = lines(offer(), NONE)
    assert "TEXT? calls?" == free["start"]
    assert "<tool_call>" in free["TEXT"]
    assert '"f\\", \\"arguments\\": " arguments_0 | "g\\", \\"arguments\\": " arguments_1' == free["call"]
    assert "{0,7}" in lines(offer(parallel_tool_calls=True), NONE)["calls"]
    assert "{0,7}" not in free["calls"]
    named = lines(offer(tool_choice={"type": "function", "function": {"name": "g"}}, parallel_tool_calls=True), NONE)
    assert ('"g\\", \\"arguments\\": " arguments_0', False) == (named["call"], "{0,7}" in named["calls"])


def test_the_templates_own_form() -> None:
    """A forced call is in the form of the model's template, which is shown the tools; an id in it is a new one."""
    asked = offer(tool_choice="required", parallel_tool_calls=True)
    made = plan(asked, KNOWS, 100, None, silent=False)
    assert LIST == made.form
    assert {"tools": asked.definitions()} == made.asked["chat_template_kwargs"]
    assert "tools" not in made.asked
    own = plan(asked, Calling(True, True, IDS, "never", "never"), 100, None, silent=False)
    assert own.form is not None
    assert "probe" not in own.form.after
    assert "{0,7}" not in own.asked["grammar"]  # each would have the same id


def test_content_of_a_form() -> None:
    """A response_format is what the answer may be in place of a call, which then must not look like JSON."""
    free = lines(offer(), KNOWS, JSON)
    assert "(calls | content)" == free["start"]
    assert '"type": "object"' in free["content"]
    assert GENERAL == plan(offer(), KNOWS, 100, JSON, silent=False).form
    forced = plan(offer(tool_choice="required"), NONE, 100, JSON, silent=False)
    assert "content" not in forced.asked["grammar"]


def test_trials() -> None:
    """Each schema is tried by its path in the request."""
    paths = [path for path, _ in plan(offer(), NONE, 100, JSON, silent=False).trials]
    assert [
        "tools[0].function.parameters",
        "tools[1].function.parameters",
        "response_format.json_schema.schema",
    ] == paths


@pytest.mark.parametrize(
    ("thinks", "thinks_silent", "silent", "start", "opened"),
    [
        ("never", "never", False, "calls", False),
        ("may", "never", False, '("<think>" THOUGHT)? calls', False),
        ("may", "never", True, "calls", False),
        ("always", "never", False, "THOUGHT calls", True),
        ("always", "never", True, "calls", False),
        ("always", "always", True, "THOUGHT calls", True),
    ],
)
def test_thinking(thinks: Any, thinks_silent: Any, silent: bool, start: str, opened: bool) -> None:
    """A model may think before a forced call, for half of the answer; where its prompt has opened the block it must close it."""
    calling = Calling(True, True, LIST, thinks, thinks_silent)
    rules = lines(offer(tool_choice="required"), calling, silent=silent)
    assert start == rules["start"]
    assert ("{0,50}" in rules.get("THOUGHT", "")) == ("THOUGHT" in start)
    assert opened == plan(offer(tool_choice="required"), calling, 100, None, silent=silent).opened


# --------------------------------------------------------------------------------------------------------------------
# Templates that know no tools
# --------------------------------------------------------------------------------------------------------------------

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
WRITTEN = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


TEXTS: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    ([user("a")], [user("a")]),
    ([{"role": "assistant", "content": None, "tool_calls": [CALL]}], [{"role": "assistant", "content": WRITTEN}]),
    ([{"role": "assistant", "content": "So:", "tool_calls": [CALL, CALL]}],
     [{"role": "assistant", "content": f"So:\n{WRITTEN}\n{WRITTEN}"}]),
    ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ""}}], "reasoning_content": "x"}],
     [{"role": "assistant", "reasoning_content": "x", "content": WRITTEN.replace('{"a": 1}', "{}")}]),
    ([{"role": "tool", "content": "b"}, {"role": "tool", "content": "c"}, user("d")],
     [user("<tool_response>\nb\n</tool_response>\n<tool_response>\nc\n</tool_response>"), user("d")]),
    ([user("a"), {"role": "tool", "content": "b"}], [user("a"), user("<tool_response>\nb\n</tool_response>")]),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "expected"), TEXTS)
def test_as_texts(messages: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Calls and results of the history reach a model whose template knows neither."""
    assert expected == as_texts(messages)


def test_instructions() -> None:
    """The model is told of each tool, how a call is written, and whether one must come."""
    free, forced = instructions(offer()), instructions(offer(tool_choice="required"))
    for told in (free, forced):
        assert '{"name": "f", "description": "Does f.", "parameters":' in told
        assert '<tool_call>{"name": "NAME", "arguments": {...}}</tool_call>' in told
    assert ("or answer in words" in free, "or answer in words" in forced) == (True, False)


INSTRUCTED: list[tuple[list[dict[str, Any]], bool, list[dict[str, Any]]]] = [
    ([user("a")], True, [{"role": "system", "content": "T"}, user("a")]),
    ([{"role": "system", "content": "S"}, user("a")], True, [{"role": "system", "content": "S\n\nT"}, user("a")]),
    ([user("a"), user("b")], False, [user("T\n\na"), user("b")]),
    ([{"role": "assistant", "content": "x"}], False, [user("T"), {"role": "assistant", "content": "x"}]),
    ([{"role": "system", "content": "S"}, user("a")], False, [user("S\n\nT\n\na")]),
]


@pytest.mark.parametrize(("messages", "knows_system", "expected"), INSTRUCTED)
def test_instructed(messages: list[dict[str, Any]], knows_system: bool, expected: list[dict[str, Any]]) -> None:
    """Instructions stand behind the caller's own; before what the user says where a template knows no system message."""
    assert expected == instructed(messages, "T", knows_system=knows_system)
