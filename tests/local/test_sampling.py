"""A request -> what the engine is asked."""

from __future__ import annotations

from typing import Any

import pytest

from gpt.errors import GptError, InvalidRequestError, UnsupportedParameterError
from gpt.local.calls.form import GENERAL, Calling, short_id
from gpt.local.calls.offer import offer_of
from gpt.local.sampling import MAX_TOKENS, TREATMENT, engine_request, needs_calling, needs_vocabulary
from gpt.types import ChatRequest

MESSAGES = [{"role": "user", "content": "hi"}]


def asked(calling: Calling | None = None, **fields: Any) -> dict[str, Any]:
    request = ChatRequest(**{"messages": MESSAGES, **fields})
    return engine_request(request, 1000, calling, offer_of(request))[0]


def test_every_parameter_is_treated() -> None:
    """Each parameter of the protocol has its row, and no row is about anything else."""
    assert set(ChatRequest.__struct_fields__) == set(TREATMENT)


def test_least() -> None:
    """A bare request asks for nothing but the messages and a limit."""
    assert {"messages": MESSAGES, "max_tokens": MAX_TOKENS} == asked()


F = {"type": "function", "function": {"name": "f"}}

PASSED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"seed": 0}, {"seed": 0}),
    ({"seed": 2**32 - 2}, {"seed": 2**32 - 2}),
    ({"seed": 2**32 - 1}, {"seed": 0}),  # the engine's word for a random seed
    ({"seed": -1}, {"seed": 2**32 - 2}),  # the same, in 32 bits
    ({"seed": 2**63 - 1}, {"seed": 2**31 - 1}),
    ({"stop": "x"}, {"stop": ["x"]}),
    ({"stop": []}, {"stop": []}),
    ({"response_format": {"type": "text"}, "extra": {"grammar": 'root ::= "x"'}}, {"grammar": 'root ::= "x"'}),
    ({"temperature": 0.5, "top_p": 0.5, "seed": 3, "n": 2, "stop": ["x"]},
     {"temperature": 0.5, "top_p": 0.5, "seed": 3, "n": 2, "stop": ["x"]}),
    ({"frequency_penalty": -2, "presence_penalty": 2}, {"frequency_penalty": -2, "presence_penalty": 2}),
    ({"temperature": None, "seed": None, "n": None, "stop": None}, {}),
    ({"max_tokens": 5}, {"max_tokens": 5}),
    ({"max_tokens": None, "max_completion_tokens": 7}, {"max_tokens": 7}),
    ({"logit_bias": {"5": -100, "999": 1.5}}, {"logit_bias": [[5, -100.0], [999, 1.5]]}),
    ({"logit_bias": {}}, {}),
    ({"logprobs": True}, {"logprobs": True, "top_logprobs": 1}),
    ({"logprobs": True, "top_logprobs": 4}, {"logprobs": True, "top_logprobs": 4}),
    ({"logprobs": False}, {}),
    ({"response_format": {"type": "text"}}, {}),
    ({"response_format": {"type": "json_object"}},
     {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}}),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}},
     {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "integer"}}}}),
    ({"extra": {"top_k": 3, "min_p": 0.1}}, {"top_k": 3, "min_p": 0.1}),
    ({"modalities": ["text"]}, {}),
    ({"verbosity": "medium", "audio": None, "moderation": None}, {}),
    ({"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "s", "stream": False,
      "prompt_cache_key": "k", "prediction": {"type": "content", "content": "x"}, "parallel_tool_calls": False}, {}),
    ({"tools": [F], "tool_choice": "none"}, {}),
    ({"tool_choice": "auto"}, {}),
    ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), PASSED)
def test_passed(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """What the engine can do is asked of it; what changes nothing is left out."""
    assert {"messages": MESSAGES, "max_tokens": MAX_TOKENS, **expected} == asked(**fields)


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def test_messages() -> None:
    """Messages become what templates know: text, and the roles of old."""
    given = [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        {"role": "assistant", "content": None},
    ]
    expected = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "bc"},
        {"role": "assistant", "content": ""},
    ]
    assert expected == asked(messages=given)["messages"]


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ID, ID_OF_F = short_id("1"), short_id("f")


KNOWS = Calling(True, True, GENERAL, "may", "never")
NONE = Calling(False, True, GENERAL, "never", "never")

HISTORY: list[tuple[Calling | None, list[dict[str, Any]], list[dict[str, Any]]]] = [
    # A template that knows tools shows the calls to the model; ids are such as every template takes.
    (KNOWS, [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "1", "content": "x"}],
     [{"role": "assistant", "tool_calls": [{**CALL, "id": ID}]}, {"role": "tool", "tool_call_id": ID, "content": "x"}]),
    (KNOWS, [{"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "c", "input": 'x"y'}}]}],
     [{"role": "assistant", "tool_calls": [
         {"id": ID, "type": "function", "function": {"name": "c", "arguments": '{"input": "x\\"y"}'}}]}]),
    (KNOWS, [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
             {"role": "function", "name": "f", "content": "x"}],
     [{"role": "assistant", "tool_calls": [{**CALL, "id": ID_OF_F}]}, {"role": "tool", "tool_call_id": ID_OF_F, "content": "x"}]),
    # One that knows none reads them as text.
    (NONE, [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "1", "content": "x"}],
     [{"role": "assistant", "content": '<tool_call>{"name": "f", "arguments": {}}</tool_call>'},
      {"role": "user", "content": "<tool_response>\nx\n</tool_response>"}]),
    # Thinking goes by the engine's name for it.
    (None, [{"role": "assistant", "content": "x", "reasoning": "hm", "reasoning_details": [{"text": "hm"}]}],
     [{"role": "assistant", "content": "x", "reasoning_content": "hm"}]),
    (None, [{"role": "assistant", "content": "x", "reasoning": "a", "reasoning_content": "b"}],
     [{"role": "assistant", "content": "x", "reasoning_content": "b"}]),
    # A refusal is what the model said.
    (None, [{"role": "assistant", "content": None, "refusal": "No."}, {"role": "assistant", "content": [
        {"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]}],
     [{"role": "assistant", "content": "No.", "refusal": "No."}, {"role": "assistant", "content": "ab"}]),
]  # fmt: skip


@pytest.mark.parametrize(("calling", "messages", "expected"), HISTORY)
def test_history(calling: Calling | None, messages: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Calls, results and thinking of the history are what the model's template can show it."""
    assert expected == asked(calling, messages=messages)["messages"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"tools": []}, False),
        ({"tools": [F]}, True),
        ({"functions": [{"name": "f"}]}, True),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL]}]}, True),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": ""}}]}, True),
        ({"messages": [*MESSAGES, {"role": "tool", "tool_call_id": "1", "content": "x"}]}, True),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, True),
    ],
)
def test_needs_calling(fields: dict[str, Any], expected: bool) -> None:
    """The engine is asked how its model makes calls only where the answer matters."""
    assert expected == needs_calling(ChatRequest(**{"messages": MESSAGES, **fields}))


@pytest.mark.parametrize(("bias", "expected"), [({}, False), ({"1": 1}, True)])
def test_needs_vocabulary(bias: dict[str, float], expected: bool) -> None:
    """The engine is asked how many tokens there are only where the answer matters."""
    assert expected == needs_vocabulary(ChatRequest(messages=MESSAGES, logit_bias=bias))


def test_tools() -> None:
    """What is asked for tools is beside the rest; a stop string ends what is said, and never cuts a call."""
    for choice, stop in (("auto", ["x"]), ("required", None)):
        given = asked(NONE, tools=[F], tool_choice=choice, stop="x", temperature=0)
        assert (stop, 0) == (given.get("stop"), given["temperature"])
        assert "grammar" in given
        assert "system" == given["messages"][0]["role"]
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    assert "response_format" not in asked(NONE, tools=[F], response_format=form)
    with pytest.raises(InvalidRequestError, match="grammar: tools are given too"):
        asked(NONE, tools=[F], extra={"grammar": "x"})


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, True),
        ({"reasoning_effort": "low"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"extra": {"chat_template_kwargs": {"enable_thinking": False, "a": 1}}}, False),
    ],
)
def test_thinking_before_a_call(fields: dict[str, Any], thinks: bool) -> None:
    """A model that is asked not to think does not before a call; what the template is told besides stays."""
    given = asked(KNOWS, tools=[F], tool_choice="required", **fields)
    assert thinks == ("THOUGHT" in given["grammar"])
    wanted = fields.get("extra", {}).get("chat_template_kwargs", {})
    assert {"tools", *wanted} == set(given["chat_template_kwargs"])


REFUSED: list[tuple[dict[str, Any], type[GptError], str]] = [
    ({"audio": {"voice": "x", "format": "wav"}}, UnsupportedParameterError, "audio"),
    ({"moderation": {"model": "x"}}, UnsupportedParameterError, "moderation"),
    ({"verbosity": "high"}, UnsupportedParameterError, "verbosity"),
    ({"web_search_options": {}}, UnsupportedParameterError, "web_search_options"),
    ({"modalities": ["text", "audio"]}, UnsupportedParameterError, "modalities"),
    ({"stop": ""}, InvalidRequestError, "stop"),
    ({"stop": ["x", ""]}, InvalidRequestError, "stop[1]"),
    ({"extra": {"min_p": float("nan")}}, InvalidRequestError, "min_p"),
    ({"extra": {"grammar": "\ud800"}}, InvalidRequestError, "grammar"),
    ({"extra": {"top_k": object()}}, InvalidRequestError, "top_k"),
    ({"extra": {"grammar": 'root ::= "x"'}, "response_format": {"type": "json_object"}}, InvalidRequestError, "grammar"),
    ({"extra": {"zap": 1}}, UnsupportedParameterError, "zap"),
    ({"response_format": {"type": "zap"}}, UnsupportedParameterError, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, InvalidRequestError, "response_format.json_schema"),
    ({"max_tokens": 0}, InvalidRequestError, "max_tokens"),
    ({"max_completion_tokens": -1}, InvalidRequestError, "max_completion_tokens"),
    ({"temperature": 2.1}, InvalidRequestError, "temperature"),
    ({"top_p": -0.1}, InvalidRequestError, "top_p"),
    ({"n": 0}, InvalidRequestError, "n"),
    ({"frequency_penalty": 3}, InvalidRequestError, "frequency_penalty"),
    ({"logprobs": True, "top_logprobs": 21}, InvalidRequestError, "top_logprobs"),
    ({"top_logprobs": 3}, InvalidRequestError, "top_logprobs"),
    ({"logit_bias": {"key": 1}}, InvalidRequestError, 'logit_bias["key"]'),
    ({"logit_bias": {"-1": 1}}, InvalidRequestError, 'logit_bias["-1"]'),
    ({"logit_bias": {"1000": 1}}, InvalidRequestError, 'logit_bias["1000"]'),
    ({"logit_bias": {"5": 101}}, InvalidRequestError, 'logit_bias["5"]'),
    ({"messages": [{"role": "critic", "content": "x"}]}, InvalidRequestError, "messages[0].role"),
    ({"messages": user([{"type": "image_url", "image_url": {"url": "x"}}])}, UnsupportedParameterError, "messages[0].content[0]"),
    ({"messages": [*user("a"), *user([{"type": "text", "text": "a"}, {"type": "input_audio"}])]}, UnsupportedParameterError,
     "messages[1].content[1]"),
    ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, UnsupportedParameterError, "messages[0].audio"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "kind", "param"), REFUSED, ids=[f"{row[2]}-{n}" for n, row in enumerate(REFUSED)])
def test_refused(fields: dict[str, Any], kind: type[GptError], param: str) -> None:
    """What cannot be honoured and would change the meaning is refused by name."""
    with pytest.raises(kind) as caught:
        asked(**fields)
    assert param == caught.value.param  # type: ignore[attr-defined]
    assert param in str(caught.value)
