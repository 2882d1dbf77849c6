"""The strict shapes accept and refuse what the published description does."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from gpt.check.shapes import Chunk, Completion, ErrorBody, Model, Models, problem

from places import published_schemas


def nullable(value: Any) -> Any:
    """A schema with OpenAPI's own `nullable`, which JSON Schema does not know, written as JSON Schema writes it."""
    if isinstance(value, list):
        return [nullable(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {name: nullable(one) for name, one in value.items()}
    return {"anyOf": [made, {"type": "null"}]} if made.pop("nullable", False) is True else made


TOKEN = {"token": "a", "logprob": -1.5, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -1.5, "bytes": None}]}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CUSTOM = {"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}
CITED = {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 1, "url": "http://a.example", "title": "A"}}
MESSAGE = {"role": "assistant", "content": "a", "refusal": None}
CHOICE = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": MESSAGE}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
WHOLE = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE], "usage": USAGE}
PIECE = {"index": 0, "delta": {"content": "a"}, "finish_reason": None, "logprobs": None}
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [PIECE]}
ERROR = {"error": {"message": "a", "type": "b", "param": None, "code": None}}

GONE = object()


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    """A copy of `value` with something else at the path, or nothing."""
    made = copy.deepcopy(value)
    place = made
    for step in path[:-1]:
        place = place[step]
    if to is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return made


FIRST, MESSAGE_AT, DELTA = ("choices", 0), ("choices", 0, "message"), ("choices", 0, "delta")
LOGPROBS = {"content": [TOKEN], "refusal": None}

ROWS: list[tuple[str, Any, tuple[Any, ...], list[Any]]] = [
    ("CreateChatCompletionResponse", WHOLE, ("id",), ["x", 5, None, GONE]),
    ("CreateChatCompletionResponse", WHOLE, ("object",), ["chat.completion", "chat.completion.chunk", GONE]),
    ("CreateChatCompletionResponse", WHOLE, ("created",), [0, 1.5, "1", None, GONE]),
    ("CreateChatCompletionResponse", WHOLE, ("model",), ["", None, GONE]),
    ("CreateChatCompletionResponse", WHOLE, ("choices",), [[], {}, None, [5], GONE]),
    ("CreateChatCompletionResponse", WHOLE, ("usage",), [USAGE, None, {}, GONE, {**USAGE, "completion_tokens_details": {}}, {**USAGE, "completion_tokens_details": {"reasoning_tokens": None}}, {**USAGE, "prompt_tokens_details": {"cached_tokens": 1}}, {**USAGE, "prompt_tokens_details": {"cached_tokens": "1"}}, {**USAGE, "total_tokens": 1.5}]),
    ("CreateChatCompletionResponse", WHOLE, ("service_tier",), ["auto", "fast", None, "golden", 5]),
    ("CreateChatCompletionResponse", WHOLE, ("system_fingerprint",), ["x", None, 5]),
    ("CreateChatCompletionResponse", WHOLE, ("metadata",), [{}, {"a": "b"}, {"a": 1}, None, []]),
    ("CreateChatCompletionResponse", WHOLE, ("unknown",), [5, None]),
    ("CreateChatCompletionResponse", WHOLE, (*FIRST, "index"), [0, "0", None, GONE]),
    ("CreateChatCompletionResponse", WHOLE, (*FIRST, "finish_reason"), ["length", "tool_calls", "content_filter", "function_call", "eos", None, GONE]),
    ("CreateChatCompletionResponse", WHOLE, (*FIRST, "logprobs"), [LOGPROBS, {"content": None, "refusal": [TOKEN]}, {"content": []}, {}, GONE, {"content": [changed(TOKEN, ("bytes",), GONE)], "refusal": None}, {"content": [changed(TOKEN, ("top_logprobs",), GONE)], "refusal": None}, {"content": [changed(TOKEN, ("logprob",), "x")], "refusal": None}, {"content": [changed(TOKEN, ("logprob",), -1)], "refusal": None}, {"content": [changed(TOKEN, ("top_logprobs", 0, "bytes"), GONE)], "refusal": None}]),
    ("CreateChatCompletionResponse", WHOLE, MESSAGE_AT, [GONE, None, {}]),
    ("CreateChatCompletionResponse", WHOLE, (*MESSAGE_AT, "role"), ["user", None, GONE]),
    ("CreateChatCompletionResponse", WHOLE, (*MESSAGE_AT, "content"), [None, [], GONE]),
    ("CreateChatCompletionResponse", WHOLE, (*MESSAGE_AT, "refusal"), ["no", 5, GONE]),
    ("CreateChatCompletionResponse", WHOLE, (*MESSAGE_AT, "tool_calls"), [[], [CALL], [CUSTOM], [CALL, CUSTOM], None, {}, [changed(CALL, ("id",), GONE)], [changed(CALL, ("type",), "other")], [changed(CALL, ("function", "arguments"), {})], [changed(CUSTOM, ("custom", "input"), GONE)], [{**CALL, "type": "custom"}]]),
    ("CreateChatCompletionResponse", WHOLE, (*MESSAGE_AT, "annotations"), [[], [CITED], None, [changed(CITED, ("url_citation", "url"), GONE)], [changed(CITED, ("type",), "x")], [changed(CITED, ("url_citation", "title"), GONE)]]),
    ("CreateChatCompletionResponse", WHOLE, (*MESSAGE_AT, "function_call"), [{"name": "f", "arguments": "{}"}, {"name": "f"}, None]),
    ("CreateChatCompletionResponse", WHOLE, (*MESSAGE_AT, "audio"), [None, {"id": "a", "expires_at": 1, "data": "", "transcript": ""}, {"id": "a"}]),
    ("CreateChatCompletionStreamResponse", CHUNK, ("object",), ["chat.completion.chunk", "chat.completion", GONE]),
    ("CreateChatCompletionStreamResponse", CHUNK, ("id",), ["x", None, GONE]),
    ("CreateChatCompletionStreamResponse", CHUNK, ("created",), [1, None, GONE]),
    ("CreateChatCompletionStreamResponse", CHUNK, ("model",), ["x", None, GONE]),
    ("CreateChatCompletionStreamResponse", CHUNK, ("choices",), [[], None, GONE]),
    ("CreateChatCompletionStreamResponse", CHUNK, ("usage",), [USAGE, None, {}, GONE]),
    ("CreateChatCompletionStreamResponse", CHUNK, ("service_tier",), ["flex", None, "golden"]),
    ("CreateChatCompletionStreamResponse", CHUNK, ("system_fingerprint",), ["x", None]),
    ("CreateChatCompletionStreamResponse", CHUNK, ("obfuscation",), ["x", 5]),
    ("CreateChatCompletionStreamResponse", CHUNK, (*FIRST, "index"), [0, None, GONE]),
    ("CreateChatCompletionStreamResponse", CHUNK, (*FIRST, "finish_reason"), [None, "stop", "eos", GONE]),
    ("CreateChatCompletionStreamResponse", CHUNK, (*FIRST, "logprobs"), [None, LOGPROBS, {"content": [TOKEN]}, GONE]),
    ("CreateChatCompletionStreamResponse", CHUNK, DELTA, [{}, None, GONE]),
    ("CreateChatCompletionStreamResponse", CHUNK, (*DELTA, "content"), ["", None, 5, GONE]),
    ("CreateChatCompletionStreamResponse", CHUNK, (*DELTA, "refusal"), ["", None, 5]),
    ("CreateChatCompletionStreamResponse", CHUNK, (*DELTA, "role"), ["assistant", "tool", "oracle", None]),
    ("CreateChatCompletionStreamResponse", CHUNK, (*DELTA, "function_call"), [{}, {"name": "f"}, None]),
    ("CreateChatCompletionStreamResponse", CHUNK, (*DELTA, "tool_calls"), [[], [{"index": 0}], [{"index": 0, **CALL}], [{}], None, [{"index": 0, "type": "custom"}], [{"index": 0, "function": {"arguments": 5}}], [{"index": 0, "id": None}]]),
    ("ErrorResponse", ERROR, ("error",), [None, "no", {}, GONE]),
    ("ErrorResponse", ERROR, ("error", "message"), ["x", None, GONE]),
    ("ErrorResponse", ERROR, ("error", "type"), ["x", None, GONE]),
    ("ErrorResponse", ERROR, ("error", "param"), ["x", 5, GONE]),
    ("ErrorResponse", ERROR, ("error", "code"), ["x", 400, GONE]),
]  # fmt: skip

SHAPES: dict[str, Any] = {
    "CreateChatCompletionResponse": Completion,
    "CreateChatCompletionStreamResponse": Chunk,
    "ErrorResponse": ErrorBody,
}

CASES = [
    pytest.param(name, case, id=f"{name}-{'.'.join(map(str, path))}-{'GONE' if to is GONE else json.dumps(to)[:40]}")
    for name, value, path, others in ROWS
    for to in others
    if not (to is GONE and path[-1] not in value and len(path) == 1)
    for case in [changed(value, path, to)]
]


@pytest.fixture(scope="module")
def published() -> Any:
    return nullable(published_schemas())


@pytest.mark.parametrize(("name", "value"), CASES)
def test_as_published(published: Any, name: str, value: Any) -> None:
    """A body that the description takes is taken, and one that it refuses is refused."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": published}}
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert expected is (problem(value, SHAPES[name]) == ""), problem(value, SHAPES[name])


def test_both_ways() -> None:
    """The table has bodies of both kinds for each shape; what is said has the path."""
    for shape, value in ((Completion, WHOLE), (Chunk, CHUNK), (ErrorBody, ERROR)):
        assert "" == problem(value, shape)
    assert "choices[0].message: Object missing required field `refusal`" == problem(
        changed(WHOLE, (*MESSAGE_AT, "refusal"), GONE), Completion
    ).replace("[...]", "[0]")
    assert "Expected `object`, got `array`" == problem([], Completion)


MODEL = {"id": "m", "object": "model", "created": 1, "owned_by": "us"}


@pytest.mark.parametrize(
    ("value", "well"),
    [(MODEL, True), *((changed(MODEL, (name,), GONE), False) for name in MODEL), (changed(MODEL, ("id",), ""), False), (changed(MODEL, ("object",), "x"), False)],
)  # fmt: skip
def test_models(value: Any, well: bool) -> None:
    """A model has its four fields, in a list too."""
    assert well is (problem(value, Model) == "")
    assert well is (problem({"object": "list", "data": [value]}, Models) == "")
    assert problem({"data": [value]}, Models)
