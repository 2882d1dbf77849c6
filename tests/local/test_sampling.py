"""A request -> what the engine is asked."""

from __future__ import annotations

from typing import Any

import pytest

from gpt.errors import GptError, InvalidRequestError, UnsupportedParameterError
from gpt.local.sampling import MAX_TOKENS, TREATMENT, engine_request, needs_facts
from gpt.types import ChatRequest

MESSAGES = [{"role": "user", "content": "hi"}]


def asked(**fields: Any) -> dict[str, Any]:
    return engine_request(ChatRequest(**{"messages": MESSAGES, **fields}), 1000)


def test_every_parameter_is_treated() -> None:
    """Each parameter of the protocol has its row, and no row is about anything else."""
    assert set(ChatRequest.__struct_fields__) == set(TREATMENT)


def test_least() -> None:
    """A bare request asks for nothing but the messages and a limit."""
    assert {"messages": MESSAGES, "max_tokens": MAX_TOKENS} == asked()


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
    ({"tools": [{"type": "function"}], "tool_choice": "none"}, {}),
    ({"functions": [{"name": "f"}], "function_call": "none"}, {}),
    ({"functions": [{"name": "f"}], "function_call": {"name": "f"}, "tools": [{"type": "function"}], "tool_choice": "none"}, {}),
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


def test_calls_in_the_history() -> None:
    """A template that knows tools shows the calls to the model; they are passed on as they are."""
    given = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [CALL]}]
    assert given == engine_request(ChatRequest(messages=given), 0, tools=True)["messages"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"logit_bias": {}}, False),
        ({"logit_bias": {"1": 1}}, True),
        ({"messages": [*MESSAGES, {"role": "assistant", "tool_calls": [CALL]}]}, True),
    ],
)
def test_needs_facts(fields: dict[str, Any], expected: bool) -> None:
    """The engine is asked what the model is only where the answer matters."""
    assert expected == needs_facts(ChatRequest(**{"messages": MESSAGES, **fields}))


REFUSED: list[tuple[dict[str, Any], type[GptError], str]] = [
    ({"audio": {"voice": "x", "format": "wav"}}, UnsupportedParameterError, "audio"),
    ({"moderation": {"model": "x"}}, UnsupportedParameterError, "moderation"),
    ({"verbosity": "high"}, UnsupportedParameterError, "verbosity"),
    ({"web_search_options": {}}, UnsupportedParameterError, "web_search_options"),
    ({"modalities": ["text", "audio"]}, UnsupportedParameterError, "modalities"),
    ({"tools": [{"type": "function"}]}, UnsupportedParameterError, "tools"),
    ({"tools": [{"type": "function"}], "tool_choice": "auto"}, UnsupportedParameterError, "tool_choice"),
    ({"tool_choice": "required"}, UnsupportedParameterError, "tool_choice"),
    ({"tools": [{"type": "function"}], "function_call": "auto"}, UnsupportedParameterError, "tools"),
    ({"functions": [{"name": "f"}]}, UnsupportedParameterError, "functions"),
    ({"function_call": {"name": "f"}}, UnsupportedParameterError, "function_call"),
    ({"tools": [{"type": "function"}], "function_call": "none"}, UnsupportedParameterError, "tools"),
    ({"stop": ""}, InvalidRequestError, "stop"),
    ({"stop": ["x", ""]}, InvalidRequestError, "stop[1]"),
    ({"extra": {"min_p": float("nan")}}, InvalidRequestError, "min_p"),
    ({"extra": {"grammar": "\ud800"}}, InvalidRequestError, "grammar"),
    ({"extra": {"top_k": object()}}, InvalidRequestError, "top_k"),
    ({"extra": {"grammar": 'root ::= "x"'}, "response_format": {"type": "json_object"}}, InvalidRequestError, "grammar"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, UnsupportedParameterError, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, UnsupportedParameterError,
     "messages[0].function_call"),
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
    ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, InvalidRequestError, "messages[0].role"),
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
