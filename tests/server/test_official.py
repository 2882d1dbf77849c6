"""The official client, blocking and on asyncio, as a user of our server; and ours, both kinds, beside it: one table for four."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import openai
import pydantic
import pytest

import gpt
from gpt import AsyncGpt, Gpt, Local
from gpt.protocol import codec
from gpt.server.app import App
from gpt.server.store import StoredCompletions
from gpt.testing import AsyncScripted, Scripted, no_waiting
from gpt.testing.scripted import chunk
from gpt.types import ChatCompletion, ChatCompletionChunk

from serving import HELLO, Held, Served, events, serving

KEY = "k" * 20
ASKED: dict[str, Any] = {"model": "scripted", "messages": HELLO["messages"]}


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


class Client:
    """One of the four, which make the same calls by the same names."""

    def __init__(self, whose: str, kind: str) -> None:
        self.ours = whose == "ours"
        self.blocking = kind == "blocking"

    def _made(self, server: Served, settings: dict[str, Any]) -> Any:
        given = {"api_key": KEY, "max_retries": 0, **settings}
        if self.ours:
            return (Gpt if self.blocking else AsyncGpt)(server_url=server.url, **given)
        return (openai.OpenAI if self.blocking else openai.AsyncOpenAI)(base_url=server.url, **given)

    def ask(self, server: Served, use: Callable[[Any], Any], **settings: Any) -> Any:
        """What `use(client)` gives, awaited where it has to be."""
        if self.blocking:
            with self._made(server, settings) as client:
                return use(client)

        async def run() -> Any:
            async with self._made(server, settings) as client:
                return await _settled(use(client))

        return asyncio.run(run())

    def every(self, server: Served, use: Callable[[Any], Any], most: int | None = None, **settings: Any) -> list[Any]:
        """The items of what `use(client)` gives, at most so many; what has more is then left."""
        if self.blocking:
            with self._made(server, settings) as client:
                found: list[Any] = []
                given = use(client)
                for item in given:
                    found.append(item)
                    if len(found) == most:
                        given.close()
                        break
                return found

        async def run() -> list[Any]:
            async with self._made(server, settings) as client:
                given = use(client)
                given = given if hasattr(given, "__aiter__") else await given
                found = []
                async for item in given:
                    found.append(item)
                    if len(found) == most:
                        await given.close()
                        break
                return found

        return asyncio.run(run())

    def streamed(self, server: Served, **params: Any) -> tuple[list[Any], Any, Any]:
        """The events of the stream helper; the whole answer that it made of them; its value, where a type was asked for."""

        def opened(client: Any) -> Any:
            if not self.ours:
                return client.chat.completions.stream(**params)
            own = {("into" if name == "response_format" else name): value for name, value in params.items()}
            return client.chat.stream(own.pop("messages"), **own)

        def made(stream: Any, whole: Any) -> Any:
            if "response_format" not in params:
                return None
            return stream.parsed.value if self.ours else whole.choices[0].message.parsed

        if self.blocking:
            with self._made(server, {}) as client, opened(client) as stream:
                events = list(stream)
                whole = stream.completion if self.ours else stream.get_final_completion()
                return events, whole, made(stream, whole)

        async def run() -> tuple[list[Any], Any, Any]:
            async with self._made(server, {}) as client, opened(client) as stream:
                events = [event async for event in stream]
                whole = stream.completion if self.ours else await stream.get_final_completion()
                return events, whole, made(stream, whole)

        return asyncio.run(run())


CLIENTS = [(whose, kind) for whose in ("official", "ours") for kind in ("blocking", "asyncio")]


@pytest.fixture(params=CLIENTS, ids=[" ".join(row) for row in CLIENTS])
def client(request: pytest.FixtureRequest) -> Client:
    """Each of the four."""
    return Client(*request.param)


@pytest.fixture(params=CLIENTS[:2], ids=[row[1] for row in CLIENTS[:2]])
def official(request: pytest.FixtureRequest) -> Client:
    """Both kinds of the official client, for what has another name in ours."""
    return Client(*request.param)


class Talking:
    """A server whose backend says what it is told to."""

    def __init__(self, served: Served, backend: AsyncScripted) -> None:
        self.served = served
        self._backend = backend

    def says(self, *answers: Any) -> Scripted:
        """Give these answers from now on; the script remembers what it is asked."""
        self._backend.script = Scripted(*answers)
        return self._backend.script


@pytest.fixture(scope="module")
def talking() -> Iterator[Talking]:
    """One server for all tests that need no setting of it."""
    backend = AsyncScripted("hi")
    with serving(App(backend, keys=[KEY])) as served:
        yield Talking(served, backend)


# --------------------------------------------------------------------------------------------------------------------
# Answers
# --------------------------------------------------------------------------------------------------------------------

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "total_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 0},
}
TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1.0, "bytes": None}]}
LOGPROBS = {"content": [TOKEN], "refusal": None}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CUSTOM = {"id": "2", "type": "custom", "custom": {"name": "c", "input": "x"}}


def answer(*messages: dict[str, Any], finish: str = "stop", logprobs: Any = None, **beside: Any) -> dict[str, Any]:
    """A completion as it goes over the wire."""
    choices = [
        {
            "index": index,
            "finish_reason": finish,
            "logprobs": logprobs,
            "message": {"role": "assistant", "content": None, "refusal": None, **message},
        }
        for index, message in enumerate(messages)
    ]
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "scripted", "choices": choices}
    return {**whole, "usage": USAGE, **beside}


WHOLE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("plain", {}, answer({"content": "hä"}, service_tier="default", system_fingerprint="f")),
    ("cut off", {"max_completion_tokens": 1}, answer({"content": "h"}, finish="length")),
    ("tools", {"tools": [FUNCTION], "tool_choice": "required"}, answer({"tool_calls": [CALL, CUSTOM]}, finish="tool_calls")),
    ("function call", {"functions": [{"name": "f"}]},
     answer({"function_call": {"name": "f", "arguments": "{}"}}, finish="function_call")),
    ("two choices", {"n": 2}, answer({"content": "a"}, {"content": "b"})),
    ("logprobs", {"logprobs": True, "top_logprobs": 1}, answer({"content": "a"}, logprobs=LOGPROBS)),
    ("refusal", {}, answer({"refusal": "no"})),
    ("what nobody knows", {"extra_body": {"top_k": 1}}, answer({"content": "a", "zip": 1}, zap={"b": [2]})),
]  # fmt: skip


@pytest.mark.parametrize(("params", "body"), [row[1:] for row in WHOLE], ids=[row[0] for row in WHOLE])
def test_whole(client: Client, talking: Talking, params: dict[str, Any], body: dict[str, Any]) -> None:
    """A whole answer reaches each client as the backend gave it, field by field, and the backend got what was asked."""
    script = talking.says(codec.decode_completion(json.dumps(body).encode()))
    got = client.ask(talking.served, lambda one: one.chat.completions.create(**ASKED, **params))
    assert body == got.to_dict()
    (asked,) = script.asked
    sent = {**ASKED, **{name: value for name, value in params.items() if name != "extra_body"}}
    assert {**sent, **params.get("extra_body", {})} == json.loads(codec.encode_request(asked))


def part(*choices: dict[str, Any], **beside: Any) -> ChatCompletionChunk:
    """A chunk as it goes over the wire."""
    made = [{"index": 0, "finish_reason": None, "logprobs": None, **choice} for choice in choices]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return codec.decode_chunk(json.dumps({**head, "choices": made, **beside}).encode())


def call_part(index: int, arguments: str, **first: Any) -> dict[str, Any]:
    name = {"name": first.pop("name")} if first else {}
    return {"delta": {"tool_calls": [{"index": index, **first, "function": {**name, "arguments": arguments}}]}}


FIRST = {"delta": {"role": "assistant", "content": "", "refusal": None}}
LAST = {"delta": {}, "finish_reason": "stop"}
COUNTS = part(usage=USAGE)
WITH_COUNTS = {"stream_options": {"include_usage": True}}

STREAMS: list[tuple[str, dict[str, Any], list[ChatCompletionChunk], dict[str, Any]]] = [
    ("text", {}, [part(FIRST), part({"delta": {"content": "a"}}), part({"delta": {"content": "\u2028ä\n"}}), part(LAST)],
     {"content": "a\u2028ä\n"}),
    ("tools", {"tools": [FUNCTION]},
     [part(FIRST), part(call_part(0, "", id="1", type="function", name="f")), part(call_part(0, '{"a"')),
      part(call_part(1, "{}", id="2", type="function", name="f")), part(call_part(0, ": 1}")),
      part({**LAST, "finish_reason": "tool_calls"})],
     {"calls": [("1", "f", '{"a": 1}'), ("2", "f", "{}")]}),
    ("two choices", {"n": 2},
     [part({"delta": {"role": "assistant", "content": "a"}}), part({"index": 1, "delta": {"role": "assistant", "content": "b"}}),
      part({"delta": {"content": "c"}}), part({**LAST, "index": 1}), part(LAST)],
     {"contents": ["ac", "b"]}),
    ("logprobs", {"logprobs": True}, [part({"delta": {"role": "assistant", "content": "a"}, "logprobs": LOGPROBS}), part(LAST)],
     {"content": "a", "tokens": ["a"]}),
    ("refusal", {}, [part({"delta": {"role": "assistant", "refusal": "n"}}), part({"delta": {"refusal": "o"}}), part(LAST)],
     {"refusal": "no"}),
    ("usage", WITH_COUNTS, [part(FIRST, usage=None), part({"delta": {"content": "a"}}, usage=None), part(LAST, usage=None), COUNTS],
     {"content": "a", "total": 30}),
]  # fmt: skip


@pytest.mark.parametrize(("params", "chunks"), [row[1:3] for row in STREAMS], ids=[row[0] for row in STREAMS])
def test_chunks(client: Client, talking: Talking, params: dict[str, Any], chunks: list[ChatCompletionChunk]) -> None:
    """The chunks of a stream reach each client as the backend gave them, field by field, and none besides."""
    talking.says(chunks)
    got = client.every(talking.served, lambda one: one.chat.completions.create(**ASKED, **params, stream=True))
    assert [item.to_dict() for item in chunks] == [item.to_dict() for item in got]


def told(whole: Any) -> dict[str, Any]:
    """What is told of a streamed answer in the table."""
    first = whole.choices[0]
    message = first.message
    found = {
        "content": message.content or None,
        "refusal": message.refusal,
        "calls": [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()],
        "contents": [choice.message.content for choice in whole.choices] if len(whole.choices) > 1 else None,
        "tokens": [token.token for token in first.logprobs.content] if first.logprobs else None,
        "total": whole.usage.total_tokens if whole.usage else None,
    }
    return {name: value for name, value in found.items() if value}


@pytest.mark.parametrize(("params", "chunks", "expected"), [row[1:] for row in STREAMS], ids=[row[0] for row in STREAMS])
def test_stream_helper(
    client: Client, talking: Talking, params: dict[str, Any], chunks: list[ChatCompletionChunk], expected: dict[str, Any]
) -> None:
    """The stream helper of each client adds the chunks up to the same answer."""
    talking.says(chunks)
    events, whole, _ = client.streamed(talking.served, **ASKED, **params)
    found = told(whole)
    if "contents" in expected:
        found.pop("content")
    assert expected == found
    said = [event.delta for event in events if event.type in ("content", "content.delta") and getattr(event, "index", 0) == 0]
    if "content" in expected:
        assert expected["content"] == "".join(said)


class River(pydantic.BaseModel):
    """A river."""

    name: str
    length_km: int


NILE = '{"name": "Nile", "length_km": 6650}'


def test_parse(client: Client, talking: Talking) -> None:
    """An answer is parsed into a pydantic model, whole and streamed; the backend is asked for the model's strict schema."""
    script = talking.says(NILE)
    if client.ours:
        value = client.ask(talking.served, lambda one: one.chat.parse(ASKED["messages"], into=River)).value
    else:
        parsed = client.ask(talking.served, lambda one: one.chat.completions.parse(**ASKED, response_format=River))
        value = parsed.choices[0].message.parsed
    assert River(name="Nile", length_km=6650) == value
    assert value == client.streamed(talking.served, **ASKED, response_format=River)[2]
    assert 2 == len(script.asked)
    for asked in script.asked:
        wanted = json.loads(codec.encode_request(asked))["response_format"]
        assert ("json_schema", True) == (wanted["type"], wanted["json_schema"]["strict"])
        assert ["name", "length_km"] == wanted["json_schema"]["schema"]["required"]


# --------------------------------------------------------------------------------------------------------------------
# Models
# --------------------------------------------------------------------------------------------------------------------


def test_models(client: Client) -> None:
    """The models are listed to each client."""
    with serving(App(AsyncScripted("hi"), models=["scripted", "a/b c"], keys=[KEY])) as server:
        found = client.ask(server, lambda one: one.models.list())
        assert ["scripted", "a/b c"] == [model.id for model in found.data]
        assert {"model"} == {model.object for model in found.data}
        assert all(model.created > 0 and model.owned_by for model in found.data)


def test_model(official: Client) -> None:
    """One model is retrieved by its id, also where that has to be escaped; one that is not there is not found."""
    with serving(App(AsyncScripted("hi"), models=["scripted", "a/b c"], keys=[KEY])) as server:
        for name in ("scripted", "a/b c"):
            assert name == official.ask(server, lambda one: one.models.retrieve(name)).id
        with pytest.raises(openai.NotFoundError) as caught:
            official.ask(server, lambda one: one.models.retrieve("other"))
        assert "model_not_found" == caught.value.code


# --------------------------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------------------------


Row = tuple[str, dict[str, Any] | Exception, dict[str, Any], int, str, type[openai.APIError], type[gpt.GptError]]

ERRORS: list[Row] = [
    ("too many messages", {"max_messages": 0}, {},
     400, "array_above_max_length", openai.BadRequestError, gpt.BadRequestError),
    ("a parameter that the model cannot do", gpt.UnsupportedParameterError("audio: no", 400, param="audio"), {},
     400, "unsupported_parameter", openai.BadRequestError, gpt.UnsupportedParameterError),
    ("too long a prompt", gpt.ContextLengthError("m", 400, requested=9, limit=5), {},
     400, "context_length_exceeded", openai.BadRequestError, gpt.ContextLengthError),
    ("a filter", gpt.ContentPolicyError("no", 400), {},
     400, "content_policy_violation", openai.BadRequestError, gpt.ContentPolicyError),
    ("no such key", {"keys": ["o" * 20]}, {}, 401, "invalid_api_key", openai.AuthenticationError, gpt.AuthenticationError),
    ("a foreign page", {}, {"extra_headers": {"origin": "http://evil.test"}},
     403, "foreign_origin", openai.PermissionDeniedError, gpt.PermissionDeniedError),
    ("no such model", {"models": ["other"]}, {}, 404, "model_not_found", openai.NotFoundError, gpt.ModelNotFoundError),
    ("too long a body", {"max_body": 20}, {}, 413, "request_too_large", openai.APIStatusError, gpt.BadRequestError),
    ("not JSON, it says", {}, {"extra_headers": {"content-type": "text/plain"}},
     415, "unsupported_media_type", openai.APIStatusError, gpt.BadRequestError),
    ("the service is overrun", gpt.RateLimitError("m", 429, retry_after=7), {},
     429, "rate_limit_exceeded", openai.RateLimitError, gpt.RateLimitError),
    ("the account is used up", gpt.QuotaError("m", 429), {}, 429, "insufficient_quota", openai.RateLimitError, gpt.QuotaError),
    ("the model failed", gpt.ServerError("m", 500), {}, 500, "model_failed", openai.InternalServerError, gpt.ServerError),
    ("what nobody foresaw", ZeroDivisionError(), {}, 500, "internal_error", openai.InternalServerError, gpt.ServerError),
    ("the service is away", gpt.ConnectError("m"), {},
     502, "upstream_unreachable", openai.InternalServerError, gpt.ServerError),
    ("the model is busy", gpt.OverloadedError("m", 503), {},
     503, "overloaded", openai.InternalServerError, gpt.OverloadedError),
    ("the service is slow", gpt.RequestTimeoutError("m", phase="first_byte"), {},
     504, "upstream_timeout", openai.InternalServerError, gpt.ServerError),
]  # fmt: skip
"""What it is; what the application is made with, or what its backend raises; what is asked; what it is to each client."""


def retry_after(client: Client, error: Any) -> float:
    """Seconds after which to come back, by the error."""
    return error.retry_after if client.ours else float(error.response.headers["retry-after"])


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("row", ERRORS, ids=[row[0] for row in ERRORS])
def test_errors(client: Client, talking: Talking, row: Row, streamed: bool) -> None:
    """Each status is the client's own class for it, with its code and the name of the answer; before a stream begins too."""
    _, cause, params, status, code, theirs, ours = row
    expected = ours if client.ours else theirs

    def fail(_: object) -> str:
        assert isinstance(cause, Exception)
        raise cause

    def ask(server: Served) -> Any:
        asked = {**ASKED, **params, "stream": streamed}
        return client.ask(server, lambda one: one.chat.completions.create(**asked))

    with pytest.raises(expected) as caught:
        if isinstance(cause, dict) and cause:
            with serving(App(AsyncScripted("hi"), **{"keys": [KEY], **cause})) as server:
                ask(server)
        else:
            talking.says(fail if isinstance(cause, Exception) else "hi")
            ask(talking.served)
    error: Any = caught.value
    assert expected is type(error)
    assert (status, code) == (error.status_code, error.code)
    assert error.request_id.startswith("req_")
    if code == "rate_limit_exceeded":
        assert 7 == retry_after(client, error)


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
]


def test_mistakes(official: Client, talking: Talking) -> None:
    """What is wrong in a request is told by its path. Ours are told by our client, before anything is sent."""
    script = talking.says("hi")
    for params, param, code in MISTAKES:
        with pytest.raises(openai.BadRequestError) as caught:
            official.ask(talking.served, lambda one: one.chat.completions.create(**{**ASKED, **params}))
        assert (param, code, "invalid_request_error") == (caught.value.param, caught.value.code, caught.value.type)
    assert [] == script.asked


def test_context_numbers(client: Client, talking: Talking) -> None:
    """Too long a prompt is told with both numbers, in the words that clients look for."""
    talking.says(gpt.ContextLengthError("m", 400, requested=9000, limit=4096))
    expected = gpt.ContextLengthError if client.ours else openai.BadRequestError
    with pytest.raises(expected, match="maximum context length is 4096 tokens") as caught:
        client.ask(talking.served, lambda one: one.chat.completions.create(**ASKED))
    error: Any = caught.value
    if client.ours:
        assert (9000, 4096) == (error.requested, error.limit)
    else:
        assert "9000 tokens" in error.message


def test_error_in_a_stream(client: Client, talking: Talking) -> None:
    """What goes wrong after the first chunk is raised in the loop, after what had come; it is not taken for an end."""
    talking.says([chunk("the"), gpt.ServerError("at /home/secret", 500)])
    came: list[str] = []
    with pytest.raises((openai.APIError, gpt.GptError)) as caught:

        def use(one: Any) -> Any:
            given = one.chat.completions.create(**ASKED, stream=True)
            if client.blocking:
                return [came.append(item.choices[0].delta.content) for item in given]

            async def read() -> None:
                async for item in await given:
                    came.append(item.choices[0].delta.content)

            return read()

        client.ask(talking.served, use)
    assert ["the"] == came
    error: Any = caught.value
    assert "model_failed" == error.code
    assert "secret" not in str(error)
    if client.ours:
        assert gpt.ServerError is type(error)
        assert "the" == error.partial.text
    else:
        assert openai.APIError is type(error)
        assert "the model failed; try again" == error.message


def test_retries(client: Client, talking: Talking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal for now is tried again after the time that the server named."""
    waits: list[float] = []

    async def awaited(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("openai._base_client.time.sleep", waits.append)
    monkeypatch.setattr("openai._base_client.anyio.sleep", awaited)
    script = talking.says(gpt.RateLimitError("m", 429, retry_after=7), gpt.OverloadedError("m", 503, retry_after=3), "hi")
    with no_waiting():
        got = client.ask(talking.served, lambda one: one.chat.completions.create(**ASKED), max_retries=2)
    assert "hi" == got.choices[0].message.content
    assert 3 == len(script.asked)
    if client.ours:
        waits = [attempt.waited for attempt in got.info.attempts[1:]]
        assert 7 <= waits[0] < 14
        assert 3 <= waits[1] < 10
    else:
        assert [7, 3] == waits


def test_queue_full(client: Client) -> None:
    """Where the queue is full the client's own error for it says so, and when to come back."""
    backend = Held()
    with serving(App(backend, slots=1, queue=0, keys=[KEY])) as server:
        first = server.connect()
        body = json.dumps({**HELLO, "stream": True}).encode()
        first.request(
            "POST", "/v1/chat/completions", body, {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        )
        server.until(lambda: backend.gates)
        with pytest.raises((openai.RateLimitError, gpt.RateLimitError)) as caught:
            client.ask(server, lambda one: one.chat.completions.create(**ASKED))
        first.close()
    error: Any = caught.value
    assert ("queue_full", 429) == (error.code, error.status_code)
    assert 1 == retry_after(client, error)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_timeout(client: Client, streamed: bool) -> None:
    """A client whose patience ends raises its timeout, and the backend's call, if it had come so far, is stopped."""
    backend = Held()
    app = App(backend, keys=[KEY])
    expected = gpt.RequestTimeoutError if client.ours else openai.APITimeoutError
    with serving(app) as server:
        with pytest.raises(expected):
            client.ask(server, lambda one: one.chat.completions.create(**ASKED, stream=streamed, timeout=0.2))
        server.until(lambda: len(backend.ended) == len(backend.gates) and app.line.running == 0)
    assert ["stopped"] * len(backend.gates) == backend.ended


def test_leaving(client: Client) -> None:
    """A stream that is left is stopped behind the server."""
    backend = Held()
    with serving(App(backend, keys=[KEY])) as server:

        def say_one() -> None:
            server.until(lambda: backend.gates)
            server.call(lambda: backend.gates[0].put_nowait(chunk("the")))

        behind = threading.Thread(target=say_one)
        behind.start()
        got = client.every(server, lambda one: one.chat.completions.create(**ASKED, stream=True), most=1)
        behind.join()
        server.until(lambda: backend.ended)
    assert ["the"] == [item.choices[0].delta.content for item in got]
    assert ["stopped"] == backend.ended


def test_ignored_parameters(client: Client) -> None:
    """What was left out is named in a header that each client shows."""

    def strict(request: Any) -> str:
        for name in ("logit_bias", "seed"):
            if getattr(request, name):
                raise gpt.UnsupportedParameterError(f"{name}: no", 400, param=name)
        return "hi"

    asked = {**ASKED, "logit_bias": {"1": 1}, "seed": 3}
    with serving(App(AsyncScripted(strict), lenient=True, keys=[KEY])) as server:
        if client.ours:
            headers = client.ask(server, lambda one: one.chat.completions.create(**asked)).info.headers
        else:
            headers = client.ask(server, lambda one: one.chat.completions.with_raw_response.create(**asked)).headers
    assert "logit_bias, seed" == headers["x-ignored-params"]
    assert headers["x-request-id"].startswith("req_")


# --------------------------------------------------------------------------------------------------------------------
# Stored completions
# --------------------------------------------------------------------------------------------------------------------


def echo(request: Any) -> ChatCompletion:
    """What the last message says, by the model that was asked."""
    said = request.messages[-1]["content"]
    body = answer({"content": said if isinstance(said, str) else "parts"}, model=request.model)
    return codec.decode_completion(json.dumps(body).encode())


PARTS = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
CALLS: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("a", "m", "first", {"metadata": {"kind": "x", "run": "1"}}),
    ("a", "m", "second", {"metadata": {"kind": "y", "run": "1"}, "user": "me"}),
    ("a", "o", "third", {"metadata": {"kind": "x", "run": "1"}, "temperature": 0.5}),
    ("a", "o", PARTS, {"n": 1}),
    ("a", "m", "not kept", {"store": False}),
    ("b", "m", "of another", {}),
]
"""Whose key, the model, what is said and what else of the calls that are kept."""

KEYS = {"a": "a" * 20, "b": "b" * 20}


class Kept(NamedTuple):
    """A server that has kept some completions, and what it answered them with."""

    served: Served
    answers: list[dict[str, Any]]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """The calls of the table, answered and kept."""
    app = App(AsyncScripted(echo), keys=KEYS.values(), store=StoredCompletions(tmp_path / "kept.sqlite"))
    with serving(app) as served:
        answers = []
        for place, (whose, model, said, beside) in enumerate(CALLS):
            messages = [{"role": "system", "content": "Repeat."}, {"role": "user", "content": said}]
            # Each second one is streamed.
            asked = {"model": model, "messages": messages, "store": True, **beside, "stream": place % 2 == 1}
            status, _, body = served.chat(asked, {"authorization": f"Bearer {KEYS[whose]}"})
            assert 200 == status
            answers.append({"id": events(body)[0]["id"]} if isinstance(body, bytes) else body)
        yield Kept(served, answers)


LISTS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [0, 1, 2, 3]),
    ({"limit": 1}, [0, 1, 2, 3]),
    ({"limit": 3, "order": "desc"}, [3, 2, 1, 0]),
    ({"model": "m"}, [0, 1]),
    ({"model": "nobody"}, []),
    ({"metadata": {"kind": "x"}}, [0, 2]),
    ({"metadata": {"kind": "x", "run": "1"}, "model": "o", "limit": 1}, [2]),
    ({"metadata": {"kind": "x", "run": "2"}}, []),
]


def test_list(client: Client, kept: Kept) -> None:
    """Iterating goes through all pages, of this key's alone, filtered and in the order that was asked for."""
    for params, expected in LISTS:
        found = client.every(kept.served, lambda one: one.chat.completions.list(**params), api_key=KEYS["a"])
        assert (params, [kept.answers[place]["id"] for place in expected]) == (params, [item.id for item in found])


def test_page(client: Client, kept: Kept) -> None:
    """One page is as long as was asked for and knows whether there are more; the next begins after its last."""
    ids = [answered["id"] for answered in kept.answers]
    first = client.ask(kept.served, lambda one: one.chat.completions.list(limit=3), api_key=KEYS["a"])
    assert (ids[:3], True) == ([item.id for item in first.data], first.has_more)
    rest = client.ask(kept.served, lambda one: one.chat.completions.list(limit=3, after=ids[2]), api_key=KEYS["a"])
    assert (ids[3:4], False) == ([item.id for item in rest.data], rest.has_more)


def test_retrieve(client: Client, kept: Kept) -> None:
    """What was kept is the answer that was given, with what it was asked; streamed ones too."""
    found = [
        client.ask(kept.served, lambda one: one.chat.completions.retrieve(answered["id"]), api_key=KEYS["a"]).to_dict()
        for answered in kept.answers[:4]
    ]
    for place in (0, 2):
        given = kept.answers[place]
        assert given == {name: found[place][name] for name in given}
    assert ["first", "second", "third", "parts"] == [item["choices"][0]["message"]["content"] for item in found]
    assert [beside.get("metadata", {}) for *_, beside in CALLS[:4]] == [item["metadata"] for item in found]
    assert 0.5 == found[2]["temperature"]
    assert "me" == found[1]["input_user"]


def test_update(client: Client, kept: Kept) -> None:
    """The metadata of a completion takes the place of what was there, for whoever asks next."""
    stored = kept.answers[0]["id"]
    for metadata in ({"new": "ä"}, {}):
        updated = client.ask(kept.served, lambda one: one.chat.completions.update(stored, metadata=metadata), api_key=KEYS["a"])
        assert (stored, metadata) == (updated.id, updated.metadata)
        read = client.ask(kept.served, lambda one: one.chat.completions.retrieve(stored), api_key=KEYS["a"])
        assert metadata == read.metadata


def test_delete(client: Client, kept: Kept) -> None:
    """What is deleted is gone, and is not found again."""
    stored = kept.answers[1]["id"]
    gone = client.ask(kept.served, lambda one: one.chat.completions.delete(stored), api_key=KEYS["a"])
    assert (stored, True, "chat.completion.deleted") == (gone.id, gone.deleted, gone.object)
    for use in (lambda one: one.chat.completions.retrieve(stored), lambda one: one.chat.completions.delete(stored)):
        missing(client, kept, "a", use)
    left = client.every(kept.served, lambda one: one.chat.completions.list(), api_key=KEYS["a"])
    assert [kept.answers[place]["id"] for place in (0, 2, 3)] == [item.id for item in left]


def missing(client: Client, kept: Kept, whose: str, use: Callable[[Any], Any]) -> None:
    """Check that a call is answered with "not found"."""
    expected = gpt.ResponseError if client.ours else openai.NotFoundError
    with pytest.raises(expected) as caught:
        client.ask(kept.served, use, api_key=KEYS[whose])
    error: Any = caught.value
    assert (404, "completion_id") == (error.status_code, error.param)


def test_another_key(client: Client, kept: Kept) -> None:
    """What was kept for one key is not there for another, in any way."""
    stored = kept.answers[0]["id"]
    uses: list[Callable[[Any], Any]] = [
        lambda one: one.chat.completions.retrieve(stored),
        lambda one: one.chat.completions.update(stored, metadata={"mine": "now"}),
        lambda one: one.chat.completions.delete(stored),
        lambda one: one.chat.completions.messages.list(stored),
    ]
    for use in uses:
        missing(client, kept, "b", use)
    seen = client.every(kept.served, lambda one: one.chat.completions.list(), api_key=KEYS["b"])
    assert [kept.answers[5]["id"]] == [item.id for item in seen]
    assert {"kind": "x", "run": "1"} == client.ask(
        kept.served, lambda one: one.chat.completions.retrieve(stored), api_key=KEYS["a"]
    ).metadata


def test_messages(client: Client, kept: Kept) -> None:
    """The messages of a completion are those of its request, each with an id, over all pages and in either order."""
    text, parts = kept.answers[0]["id"], kept.answers[3]["id"]
    for params, expected in (
        ({}, ["Repeat.", "first"]),
        ({"limit": 1}, ["Repeat.", "first"]),
        ({"limit": 1, "order": "desc"}, ["first", "Repeat."]),
    ):
        found = client.every(kept.served, lambda one: one.chat.completions.messages.list(text, **params), api_key=KEYS["a"])
        assert expected == [message.content for message in found]
        assert 2 == len({message.id for message in found})
    (_, said) = client.every(kept.served, lambda one: one.chat.completions.messages.list(parts), api_key=KEYS["a"])
    assert ("one two", PARTS) == (said.content, [plain(part) for part in said.content_parts])


def plain(value: Any) -> Any:
    """A value of either client as JSON has it."""
    return value if isinstance(value, dict) else value.to_dict()


def test_not_kept(client: Client, kept: Kept) -> None:
    """Who does not ask for it keeps nothing; a server without a store says so."""
    missing(client, kept, "a", lambda one: one.chat.completions.retrieve(kept.answers[4]["id"]))
    expected = gpt.ResponseError if client.ours else openai.NotFoundError
    with serving(App(AsyncScripted("hi"))) as server, pytest.raises(expected) as caught:
        client.ask(server, lambda one: one.chat.completions.list())
    assert "not_stored" == caught.value.code


# --------------------------------------------------------------------------------------------------------------------
# The model in the box
# --------------------------------------------------------------------------------------------------------------------

RIVERS: dict[str, Any] = {
    "model": "any",
    "messages": [{"role": "user", "content": "Name three rivers."}],
    "temperature": 0,
    "max_completion_tokens": 8,
}


@pytest.fixture(scope="module")
def boxed(box: Local) -> Iterator[Served]:
    """A server over the model in the box."""
    assert box
    # Equal settings share one engine; the application closes the backend that it was given, and `box` is for other tests too.
    with serving(App(Local(), keys=[KEY])) as served:
        yield served


def test_model_answers(client: Client, boxed: Served, box: Local) -> None:
    """The model says the same to each client, whole and streamed, as in this process; its tokens are counted."""
    expected = Gpt(backend=box).chat.completions.create(**RIVERS)
    assert expected.usage is not None
    counts = (expected.usage.prompt_tokens, expected.usage.completion_tokens)
    whole = client.ask(boxed, lambda one: one.chat.completions.create(**RIVERS))
    chunks = client.every(boxed, lambda one: one.chat.completions.create(**RIVERS, stream=True, **WITH_COUNTS))
    *parts, last = chunks
    assert expected.text == whole.choices[0].message.content == "".join(item.choices[0].delta.content or "" for item in parts)
    assert "length" == whole.choices[0].finish_reason == parts[-1].choices[0].finish_reason
    assert [counts] * 2 == [(item.usage.prompt_tokens, item.usage.completion_tokens) for item in (whole, last)]
    assert {expected.model} == {item.model for item in (whole, *chunks)}


def test_model_choices(client: Client, boxed: Served) -> None:
    """Two choices with the probabilities of their tokens."""
    asked = {**RIVERS, "n": 2, "logprobs": True, "top_logprobs": 2, "max_completion_tokens": 3}
    got = client.ask(boxed, lambda one: one.chat.completions.create(**asked))
    assert [0, 1] == sorted(choice.index for choice in got.choices)
    for choice in got.choices:
        tokens = choice.logprobs.content
        assert choice.message.content == "".join(token.token for token in tokens)
        assert [2, 2, 2] == [len(token.top_logprobs) for token in tokens]
    assert 6 == got.usage.completion_tokens


class Answer(pydantic.BaseModel):
    """Which way to go."""

    way: Literal["left", "right"]


def test_model_parse(client: Client, boxed: Served) -> None:
    """A pydantic model is kept to by the model in the box, streamed."""
    asked = {**RIVERS, "max_completion_tokens": 40}
    value = client.streamed(boxed, **asked, response_format=Answer)[2]
    assert value.way in ("left", "right")


def test_model_tools(client: Client, boxed: Served) -> None:
    """A call that must come comes, whole and in pieces that add up, with arguments of its schema."""
    parameters = {
        "type": "object",
        "properties": {"way": {"enum": ["left", "right"]}},
        "required": ["way"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "turn", "parameters": parameters, "strict": True}}
    asked = {**RIVERS, "tools": [tool], "tool_choice": "required", "max_completion_tokens": 60}
    for got in (
        client.ask(boxed, lambda one: one.chat.completions.create(**asked)),
        client.streamed(boxed, **asked)[1],
    ):
        choice = got.choices[0]
        (call,) = choice.message.tool_calls
        assert ("tool_calls", "turn", "function") == (choice.finish_reason, call.function.name, call.type)
        assert json.loads(call.function.arguments)["way"] in ("left", "right")
        assert call.id


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}, "audio", "unsupported_parameter"),
    ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    ({"logit_bias": {"x": 1}}, 'logit_bias["x"]', "invalid_value"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"extra_body": {"zap": 1}}, "zap", "unsupported_parameter"),
    ({"messages": [{"role": "user", "content": "river " * 9000}]}, "messages", "context_length_exceeded"),
]


def test_model_refuses(client: Client, boxed: Served) -> None:
    """What the model cannot do, and would change its answer, is refused by its path."""
    expected = gpt.BadRequestError if client.ours else openai.BadRequestError
    for params, param, code in REFUSED:
        with pytest.raises(expected) as caught:
            client.ask(boxed, lambda one: one.chat.completions.create(**{**RIVERS, **params}))
        error: Any = caught.value
        assert (400, param, code) == (error.status_code, error.param, error.code)


def test_model_ignores(client: Client, boxed: Served) -> None:
    """What changes nothing in the answer is named in the header, and nothing else is."""
    harmless = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "safety_identifier": "s"}
    for params, names in ((harmless, set(harmless)), ({"seed": 3, "stop": ["x"]}, set())):
        asked = {**RIVERS, **params}
        if client.ours:
            headers = client.ask(boxed, lambda one: one.chat.completions.create(**asked)).info.headers
        else:
            headers = client.ask(boxed, lambda one: one.chat.completions.with_raw_response.create(**asked)).headers
        said = headers.get("x-ignored-params", "")
        assert names == set(said.split(", ") if said else [])
