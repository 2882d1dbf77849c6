"""Both clients: every call on each gives the same request, the same options and the same answer."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gpt.client
import gpt.stream
from gpt import AsyncGpt, Gpt, InvalidRequestError, Retry, Timeout, UserMessage
from gpt.backend import CallOptions
from gpt.testing.scripted import AsyncScripted, Scripted, chunk, completion
from gpt.types import UNSET, ChatRequest, FunctionDefinition, FunctionTool, SystemMessage


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


class Both:
    """One way to make a call on either client."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def ask(self, call: Callable[[Any], Any], *answers: Any, **settings: Any) -> tuple[Any, Scripted]:
        """The result of `call(client)`, settled, and the script that answered."""
        answers = answers or ("hi",)
        if self.kind == "blocking":
            script = Scripted(*answers)
            with Gpt(backend=script, **settings) as client:
                return call(client), script
        over: Any = AsyncScripted(*answers) if self.kind == "async" else Scripted(*answers)

        async def run() -> Any:
            async with AsyncGpt(backend=over, **settings) as client:
                return await _settled(call(client))

        return asyncio.run(run()), over.script if self.kind == "async" else over


@pytest.fixture(params=["blocking", "async", "in threads"])
def both(request: pytest.FixtureRequest) -> Both:
    """The blocking client, the async one, and the async one over a blocking backend."""
    return Both(request.param)


def generated() -> Iterator[UserMessage]:
    yield UserMessage("a")


PROMPTS: list[tuple[str, Callable[[Any], Any], dict[str, Any]]] = [
    ("text", lambda c: c.chat.complete("a"), {}),
    ("messages", lambda c: c.chat.complete([UserMessage("a")]), {}),
    ("a tuple", lambda c: c.chat.complete((UserMessage("a"),)), {}),
    ("a generator", lambda c: c.chat.complete(generated()), {}),
    ("a request", lambda c: c.chat.complete(ChatRequest(messages=[UserMessage("a")])), {}),
    ("a request with a generator", lambda c: c.chat.complete(ChatRequest(messages=generated())), {}),
    ("a dict", lambda c: c.chat.complete({"messages": [UserMessage("a")]}), {}),
    ("a dict with more", lambda c: c.chat.complete({"messages": [UserMessage("a")], "zap": 1}), {"extra": {"zap": 1}}),
    ("by name", lambda c: c.chat.complete(messages=[UserMessage("a")]), {}),
    ("a model", lambda c: c.chat.complete("a", model="m"), {"model": "m"}),
    ("parameters", lambda c: c.chat.complete("a", n=2, stop=["x"], seed=None), {"n": 2, "stop": ["x"], "seed": None}),
    ("a generator of tools", lambda c: c.chat.complete("a", tools=(t for t in [FunctionTool(FunctionDefinition("f"))])),
     {"tools": [FunctionTool(FunctionDefinition("f"))]}),
    ("a body", lambda c: c.chat.complete("a", body={"top_k": 1}), {"extra": {"top_k": 1}}),
    ("an empty body", lambda c: c.chat.complete("a", body={}), {}),
    ("bodies together", lambda c: c.chat.complete({"messages": [UserMessage("a")], "x": 1, "y": 1}, body={"y": 2}),
     {"extra": {"x": 1, "y": 2}}),
    ("a request and more", lambda c: c.chat.complete(ChatRequest(messages=[UserMessage("a")], n=1, model="m"), n=2),
     {"n": 2, "model": "m"}),
    ("a request and a model", lambda c: c.chat.complete(ChatRequest(messages=[UserMessage("a")], model="m"), model="o"),
     {"model": "o"}),
    ("the seed's call", lambda c: c.chat.create_chat_completion(ChatRequest(messages=[UserMessage("a")])), {}),
    ("the official call", lambda c: c.chat.completions.create(messages=[UserMessage("a")], model="m"), {"model": "m"}),
    ("the official call, said not to stream", lambda c: c.chat.completions.create(messages=[UserMessage("a")], stream=False),
     {"stream": False}),
    ("the official extra body", lambda c: c.chat.completions.create(messages=[UserMessage("a")], extra_body={"x": 1}),
     {"extra": {"x": 1}}),
    ("stream=False is nothing to say", lambda c: c.chat.complete("a", stream=False), {}),
]  # fmt: skip


@pytest.mark.parametrize(("call", "fields"), [row[1:] for row in PROMPTS], ids=[row[0] for row in PROMPTS])
def test_request(both: Both, call: Callable[[Any], Any], fields: dict[str, Any]) -> None:
    """Whatever a call is given becomes one request."""
    _, script = both.ask(call)
    assert [ChatRequest(**{"messages": [UserMessage("a")], **fields})] == script.asked


def test_default_model(both: Both) -> None:
    """The client's model is the default of its calls; a request's own goes first, the call's own before all."""
    request = ChatRequest(messages=[UserMessage("a")], model="own")
    calls: list[tuple[Callable[[Any], Any], str]] = [
        (lambda c: c.chat.complete("a"), "default"),
        (lambda c: c.chat.complete(request), "own"),
        (lambda c: c.chat.complete(request, model="call"), "call"),
        (lambda c: c.chat.complete(ChatRequest(messages=[UserMessage("a")])), "default"),
    ]
    for call, expected in calls:
        assert expected == both.ask(call, model="default")[1].asked[0].model
    assert request.model == "own"


OPTIONS: list[tuple[dict[str, Any], dict[str, Any], CallOptions]] = [
    ({}, {}, CallOptions()),
    ({}, {"timeout": 3, "deadline": 9.0}, CallOptions(timeout=Timeout.of(3), deadline=9.0)),
    ({}, {"headers": {"a": "b"}, "query": {"c": "d"}}, CallOptions(headers={"a": "b"}, query={"c": "d"})),
    ({"deadline": 5.0, "timeout": 2}, {}, CallOptions(timeout=Timeout.of(2), deadline=5.0)),
    ({"deadline": 5.0}, {"deadline": 7.0}, CallOptions(deadline=7.0)),
    ({"deadline": 5.0}, {"timeout": None}, CallOptions(deadline=5.0)),
    ({"max_retries": 0}, {}, CallOptions(retry=Retry(attempts=1))),
    ({"max_retries": 1}, {"retry": Retry(attempts=7)}, CallOptions(retry=Retry(attempts=7))),
]


@pytest.mark.parametrize(("settings", "params", "expected"), OPTIONS)
def test_options(both: Both, settings: dict[str, Any], params: dict[str, Any], expected: CallOptions) -> None:
    """A call's own options go before the client's."""
    calls: list[Callable[[Any], Any]] = [
        lambda c: c.chat.complete("a", **params),
        lambda c: c.chat.create_chat_completion(ChatRequest(messages=[UserMessage("a")]), **params),
        lambda c: c.chat.completions.create(messages=[UserMessage("a")], **params),
    ]
    if both.kind != "in threads":  # there each call has a token of its own to cancel it by
        calls.append(lambda c: c.models.list(**params))
    for call in calls:
        options = both.ask(call, **settings)[1].options[0]
        for name in ("timeout", "deadline", "retry", "headers", "query"):
            assert getattr(expected, name) == getattr(options, name)


REFUSED: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda c: c.chat.complete("a", temprature=1), TypeError, "unknown parameter 'temprature'; did you mean 'temperature'?"),
    (lambda c: c.chat.complete("a", zap=1), TypeError, "to send it all the same, pass body={'zap': ...}"),
    (lambda c: c.chat.complete({"messages": [UserMessage("a")]}, zap=1), TypeError, "unknown parameter 'zap'"),
    (lambda c: c.chat.complete("a", stream=True), InvalidRequestError, "use chat.stream(...)"),
    (lambda c: c.chat.complete({"messages": [UserMessage("a")], "stream": True}), InvalidRequestError, "chat.stream"),
    (lambda c: c.chat.stream("a", stream=True), InvalidRequestError, "chat.stream"),
    (lambda c: c.chat.complete({"role": "user", "content": "a"}), InvalidRequestError, "put it in a list"),
    (lambda c: c.chat.complete({"content": "a"}), InvalidRequestError, "a request needs them"),
    (lambda c: c.chat.complete(5), InvalidRequestError, "messages: expected a list of messages, got int"),
    (lambda c: c.chat.complete(UserMessage("a")), InvalidRequestError, "expected a list of messages, got UserMessage"),
    (lambda c: c.chat.create_chat_completion("a"), InvalidRequestError, "expected a CreateChatCompletionRequest, got str"),
    (lambda c: c.chat.completions.create(messages=["a"], body={"x": 1}, extra_body={"x": 1}), InvalidRequestError,
     "body and extra_body are two names of one thing; give one"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), REFUSED)
def test_refused(both: Both, call: Callable[[Any], Any], kind: type[Exception], text: str) -> None:
    """What makes no request is refused before anything is sent, and the text says what to do."""
    with pytest.raises(kind) as caught:
        both.ask(call)
    assert text in str(caught.value)


def test_answers(both: Both) -> None:
    """A call gives the backend's completion, and raises the backend's error."""
    answer = completion("hi")
    assert answer is both.ask(lambda c: c.chat.complete("a"), answer)[0]
    assert answer is both.ask(lambda c: c.chat.completions.create(messages=["a"]), answer)[0]
    error = gpt.RateLimitError("slow down", 429)
    with pytest.raises(gpt.RateLimitError) as caught:
        both.ask(lambda c: c.chat.complete("a"), error)
    assert error is caught.value


def test_envelope(both: Both) -> None:
    """The seed's call gives the envelope with its four attributes."""
    answer = completion("hi")
    envelope, _ = both.ask(lambda c: c.chat.create_chat_completion(ChatRequest(messages=[UserMessage("a")])), answer)
    assert answer is envelope.create_chat_completion_response
    assert ("application/json", 200, None) == (envelope.content_type, envelope.status_code, envelope.raw_response)


def test_models(both: Both) -> None:
    """`models.list` gives the backend's models."""
    models, _ = both.ask(lambda c: c.models.list())
    assert ["scripted"] == [model.id for model in models]


def test_models_unknown_keyword(both: Both) -> None:
    """A keyword that lists of models do not take is an error, as with every call."""
    with pytest.raises(TypeError, match="zap"):
        both.ask(lambda c: c.models.list(zap=1))


def test_raw_chunks(both: Both) -> None:
    """`create(stream=True)` gives the backend's chunks, and leaving the block closes the stream."""

    async def read(client: Any) -> list[str]:
        chunks = await _settled(client.chat.completions.create(messages=[UserMessage("a")], stream=True))
        if both.kind == "blocking":
            with chunks:
                return [next(chunks).text, *(piece.text for piece in chunks)]
        async with chunks:
            return [piece.text async for piece in chunks]

    texts, script = both.ask(
        (lambda c: asyncio.run(read(c))) if both.kind == "blocking" else read, [chunk("a"), chunk("b", "stop")]
    )
    assert ["a", "b"] == texts
    assert script.streams[0].closed
    assert script.asked[0].stream is UNSET


def test_closes(both: Both) -> None:
    """Leaving the client's block closes its backend."""
    assert both.ask(lambda c: c.chat.complete("a"))[1].closed


CONSTRUCTION: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"api_key": "a", "api_key_auth": "b"}, InvalidRequestError, "api_key_auth and api_key are two names of one thing"),
    ({"server_url": "http://a", "base_url": "http://b"}, InvalidRequestError, "two names of one thing"),
    ({"server_idx": 1}, InvalidRequestError, "server_idx: 1 is not among the 1 servers (0 to 0)"),
    ({"server_idx": -1}, InvalidRequestError, "server_idx"),
    ({"server_url": "127.0.0.1:8080"}, InvalidRequestError, 'it looks like "http://127.0.0.1:8080/v1"'),
    ({"server_url": "ftp://x"}, InvalidRequestError, "does not begin with http:// or https://"),
    ({"server_url": "http://"}, InvalidRequestError, "names no host"),
    ({"server_url": "http://h:port"}, InvalidRequestError, "server_url"),
    ({"server_url": "http://h:99999"}, InvalidRequestError, "99999 is no port"),
    ({"server_url": "http://h/a b"}, InvalidRequestError, "has a fragment or a space"),
    ({"server_url": "http://h/#x"}, InvalidRequestError, "has a fragment or a space"),
    ({"server_url": "http://me:secret@h"}, InvalidRequestError, "must not carry a password"),
    ({"server_url": "http://ä\u3002\u3002x"}, InvalidRequestError, "is no host name"),
    ({"max_retries": -1}, InvalidRequestError, "max_retries: expected an int from 0, got -1"),
    ({"max_retries": True}, InvalidRequestError, "max_retries"),
    ({"max_retries": 1, "retry": Retry()}, InvalidRequestError, "ways to say one thing"),
    ({"timeot": 1}, TypeError, "unknown setting 'timeot'"),
    ({"backend": object()}, InvalidRequestError, "backend: object has not the methods"),
    ({"backend": Scripted("a"), "api_key": "x"}, InvalidRequestError, "api_key: has no meaning beside backend="),
    ({"backend": Scripted("a"), "headers": {}}, InvalidRequestError, "headers"),
]


@pytest.mark.parametrize(("settings", "kind", "text"), CONSTRUCTION)
@pytest.mark.parametrize("client", [Gpt, AsyncGpt])
def test_construction(client: Any, settings: dict[str, Any], kind: type[Exception], text: str) -> None:
    """Settings that make no sense are refused at once, and no secret shows."""
    with pytest.raises(kind) as caught:
        client(**settings)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


PARITY = [
    (Gpt, AsyncGpt),
    (gpt.client.Chat, gpt.client.AsyncChat),
    (gpt.client.Completions, gpt.client.AsyncCompletions),
    (gpt.client.Models, gpt.client.AsyncModels),
    (gpt.stream.ChunkIterator, gpt.stream.AsyncChunkIterator),
    (gpt.stream.ChatStream, gpt.stream.AsyncChatStream),
]


@pytest.mark.parametrize(("blocking", "on_asyncio"), PARITY)
def test_parity(blocking: type, on_asyncio: type) -> None:
    """The async classes have the same public names, with the same parameters."""

    def surface(cls: type) -> dict[str, list[str]]:
        made = {}
        for name, value in inspect.getmembers(cls):
            if not name.startswith("_"):
                made[name] = list(inspect.signature(value).parameters) if callable(value) else []
        made["__init__"] = list(inspect.signature(cls).parameters)
        return made

    assert surface(blocking) == surface(on_asyncio)


def test_names_of_the_package() -> None:
    """Names of the package load on demand, all by a star too, and an unknown one is an AttributeError."""
    names: dict[str, Any] = {}
    exec("from gpt import *", names)
    assert {"Gpt", "UserMessage", "SDKConfiguration", "ContentEvent", "RateLimitError", "Local"} <= set(names)
    code = "import gpt; gpt.models.components.UserMessage; gpt.utils.RetryConfig; gpt.errors.GptError"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert gpt.SystemMessage is SystemMessage
    assert "Gpt" in dir(gpt)
    with pytest.raises(AttributeError, match="has no attribute 'zap'"):
        _ = gpt.zap  # type: ignore[attr-defined]


def test_with_options(both: Both) -> None:
    """A copy has its own settings, the original keeps its; closing the copy closes nothing."""

    def call(client: Any) -> Any:
        copy = client.with_options(model="other", timeout=3, deadline=5.0, max_retries=7)
        copy.close() if isinstance(client, Gpt) else asyncio.ensure_future(copy.close())
        return copy.chat.complete("a")

    _, script = both.ask(call, "hi", model="m", deadline=1.0)
    assert "other" == script.asked[-1].model
    assert (Timeout.of(3), 5.0, Retry(attempts=8)) == (
        script.options[-1].timeout,
        script.options[-1].deadline,
        script.options[-1].retry,
    )
    _, script = both.ask(lambda client: client.with_options(timeout=None, deadline=None).chat.complete("a"), deadline=1.0)
    assert 1.0 == script.options[-1].deadline  # None leaves a setting as it is
    joined = lambda client: client.with_options(headers={"a": "1", "b": "1"}).chat.complete("a", headers={"b": "2"})
    _, script = both.ask(joined)
    assert {"a": "1", "b": "2"} == script.options[-1].headers
    _, script = both.ask(lambda client: (client.with_options(model="other"), client.chat.complete("a"))[1], "hi", model="m")
    assert ("m", None) == (script.asked[-1].model, script.options[-1].deadline)


def test_with_options_refused(both: Both) -> None:
    """What a copy cannot change is refused by name."""
    with pytest.raises(TypeError, match="with_options changes no 'base_url'; it takes deadline, headers"):
        both.ask(lambda client: client.with_options(base_url="http://h"), "hi")
