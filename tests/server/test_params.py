"""Honest parameters, by the model in the box: each parameter of the protocol is done, refused by name, or named as ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpt import Local
from gpt.local.sampling import TREATMENT
from gpt.server.app import App

from serving import HELLO, Served, serving

SMALL = {**HELLO, "max_tokens": 2, "temperature": 0}
FUNCTION = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}

DONE: list[dict[str, Any]] = [
    {"temperature": 0.5},
    {"top_p": 0.5},
    {"frequency_penalty": 1},
    {"presence_penalty": -1},
    {"n": 2},
    {"seed": 7},
    {"stop": ["x"]},
    {"logit_bias": {"3": -100}},
    {"logprobs": True, "top_logprobs": 2},
    {"max_completion_tokens": 2},
    {"response_format": {"type": "json_object"}},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"modalities": ["text"]},
    {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "none", "parallel_tool_calls": False},
    {"functions": [FUNCTION], "function_call": "none"},
    {"verbosity": "medium"},
    {"metadata": None, "seed": None},
    {"top_k": 5},
    {"model": "local"},
]

IGNORED: list[tuple[dict[str, Any], str]] = [
    ({"user": "me"}, "user"),
    ({"metadata": {"a": "b"}}, "metadata"),
    ({"store": True}, "store"),
    ({"store": False}, "store"),
    ({"service_tier": "auto"}, "service_tier"),
    ({"safety_identifier": "x"}, "safety_identifier"),
    ({"prompt_cache_key": "x"}, "prompt_cache_key"),
    ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ({"stream": True, "stream_options": {"other": True}}, "stream_options.other"),
    ({"messages": [{"role": "user", "content": "hi", "name": "Ann"}]}, "messages[0].name"),
    ({"messages": [{"role": "user", "content": "hi", "cache_control": {"type": "ephemeral"}}]}, "messages[0].cache_control"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "prompt_cache_breakpoint": {}}]}]},
        "messages[0].content[0].prompt_cache_breakpoint",
    ),
    ({"user": "me", "store": True}, "store, user"),
]

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"audio": {"voice": "a", "format": "wav"}}, "audio", "unsupported_parameter"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
    ({"moderation": {"model": "m"}}, "moderation", "unsupported_parameter"),
    ({"verbosity": "low"}, "verbosity", "unsupported_parameter"),
    ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    ({"made_up": 1}, "made_up", "unsupported_parameter"),
    ({"guided_json": {}}, "guided_json", "unsupported_parameter"),
    ({"n": 5}, "n", "invalid_value"),
    ({"n": -1}, "n", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"top_p": -1}, "top_p", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"logit_bias": {"999999": 1}}, 'logit_bias["999999"]', "invalid_value"),
    ({"logit_bias": {"word": 1}}, 'logit_bias["word"]', "invalid_value"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "unsupported_parameter"),
    ({"messages": [{"role": "oracle", "content": "hi"}]}, "messages[0].role", "invalid_value"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
        "messages[0].content[0]",
        "unsupported_parameter",
    ),
    ({"messages": [{"role": "user", "content": "river " * 9000}]}, "messages", "context_length_exceeded"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(App(Local(slots=4), models=("smollm2-135m-instruct", "local"))) as made:
        yield made


def test_every_parameter_has_a_row() -> None:
    """No parameter of the protocol is missing here."""
    rows = [*DONE, *(row for row, _ in IGNORED), *(row for row, *_ in REFUSED)]
    assert {name for name in TREATMENT if name != "extra"} - {"prompt_cache_options"} <= {name for row in rows for name in row}


@pytest.mark.parametrize("asked", DONE, ids=[",".join(row) for row in DONE])
def test_done(server: Served, asked: dict[str, Any]) -> None:
    """What the engine does is done, and nothing is said to be ignored."""
    status, headers, body = server.chat({**SMALL, **asked})
    assert 200 == status, body
    assert "x-ignored-params" not in headers


@pytest.mark.parametrize(("asked", "named"), IGNORED, ids=[row[1] for row in IGNORED])
def test_ignored(server: Served, asked: dict[str, Any], named: str) -> None:
    """What changes nothing is left out, and named."""
    status, headers, body = server.chat({**SMALL, **asked})
    assert 200 == status, body
    assert named == headers["x-ignored-params"]


@pytest.mark.parametrize(("asked", "param", "code"), REFUSED, ids=[f"{row[1]}-{row[2]}" for row in REFUSED])
def test_refused(server: Served, asked: dict[str, Any], param: str, code: str) -> None:
    """What cannot be done and would change the answer is refused, by its path and with a code."""
    status, _, body = server.chat({**SMALL, **asked})
    assert 400 == status, body
    assert (param, code) == (body["error"]["param"], body["error"]["code"])
    assert "invalid_request_error" == body["error"]["type"]


def test_lenient() -> None:
    """With `lenient` old clients are answered, and told what was left out; a wrong value is refused all the same."""
    with serving(App(Local(slots=4), models=("local",), lenient=True)) as server:
        sent = {
            **SMALL,
            "model": "gpt-4",
            "made_up": 1,
            "verbosity": "low",
            "audio": {"voice": "a", "format": "wav"},
            "user": "me",
        }
        status, headers, body = server.chat(sent)
        assert 200 == status, body
        assert {"made_up", "verbosity", "audio", "user"} == set(headers["x-ignored-params"].split(", "))
        assert 400 == server.chat({**SMALL, "temperature": 9})[0]
        assert 400 == server.chat({**SMALL, "messages": [{"role": "user", "content": "river " * 9000}]})[0]


def test_real_model_is_named(server: Served) -> None:
    """The answer names the model that made it, by whatever name it was asked for."""
    assert "smollm2-135m-instruct" == server.chat({**SMALL, "model": "local"})[2]["model"]


def test_metrics_of_the_engine(server: Served) -> None:
    """The engine's own counts are there beside ours."""
    text = server.ask("GET", "/metrics")[2].decode()
    assert "llamacpp:prompt_tokens_total" in text
    assert "gen_ai_server_request_duration_seconds_bucket" in text


def test_described(server: Served) -> None:
    """The description has no parameter that is refused, and has all others."""
    made = server.ask("GET", "/openapi.json")[2]
    properties = set(made["components"]["schemas"]["CreateChatCompletionRequest"]["properties"])
    assert {"audio", "moderation", "web_search_options"}.isdisjoint(properties)
    assert {"messages", "temperature", "tools", "stream", "verbosity"} <= properties
