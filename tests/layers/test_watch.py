"""What a hook is told, on both clients."""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest

from gpt import AsyncGpt, CallEvent, Gpt, InvalidRequestError, ServerError, StreamTruncatedError
from gpt.backend import CallOptions
from gpt.layers.watch import Watched
from gpt.protocol.wire import AttemptInfo
from gpt.testing import AsyncScripted, Fault, Scripted, no_waiting, serve
from gpt.testing.scripted import chunk
from gpt.types import ChatRequest

TALK = [chunk(""), chunk("hel"), chunk("lo"), chunk(None, "stop")]


def blocking(use: Callable[[Any], Any], **settings: Any) -> Any:
    if "script" in settings:
        settings["backend"] = Scripted(*settings.pop("script"))
    with Gpt(**settings) as client:
        return use(client)


def on_asyncio(use: Callable[[Any], Any], **settings: Any) -> Any:
    if "script" in settings:
        settings["backend"] = AsyncScripted(*settings.pop("script"))

    async def run() -> Any:
        async with AsyncGpt(**settings) as client:
            made = use(client)
            return await made if inspect.isawaitable(made) else made

    return asyncio.run(run())


@pytest.fixture(params=[blocking, on_asyncio])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    way: Callable[..., Any] = request.param
    return way


def kinds(told: list[CallEvent]) -> list[str]:
    return [event.kind for event in told]


def test_whole(ask: Callable[..., Any]) -> None:
    """A call is told of when it begins and when it has ended, with its answer."""
    told: list[CallEvent] = []
    made = ask(lambda client: client.chat.complete("a", model="m"), script=["hi"], on_event=told.append)
    assert ["request", "done"] == kinds(told)
    assert made is told[1].completion
    assert ("m", False, told[0].call) == (told[1].request.model, told[1].streamed, told[1].call)
    assert 0 <= told[0].elapsed <= told[1].elapsed
    assert "CallEvent('done'" in repr(told[1])


def test_streamed(ask: Callable[..., Any]) -> None:
    """A streamed one also by its first content and each chunk; at the end with what they add up to."""
    told: list[CallEvent] = []
    ask(lambda client: client.chat.stream("a").until_done(), script=[TALK], on_event=told.append)
    assert ["request", "chunk", "first_token", "chunk", "chunk", "chunk", "done"] == kinds(told)
    done = told[-1].completion
    assert done is not None
    assert ("hello", "stop") == (done.text, done.choices[0].finish_reason)
    assert done.info is not None
    assert done.info.first_token is not None
    assert 0 < done.info.first_token <= done.info.elapsed
    assert TALK[1] is told[3].chunk


def test_retries(ask: Callable[..., Any]) -> None:
    """Each attempt that failed is told of, with the wait until the next; the backend tells where it asked."""
    told: list[CallEvent] = []
    with serve("hi", faults=[Fault(status=503, times=2)]) as server, no_waiting():
        ask(lambda client: client.chat.complete("a"), server_url=server.url, on_event=told.append)
        ask(lambda client: client.chat.stream("a").until_done(), server_url=server.url, on_event=told.append)
    assert ["request", "retry", "retry", "done", "request"] == kinds(told)[:5]
    assert [503, 503] == [event.attempt.status for event in told if event.attempt is not None]
    assert all(event.wait > 0 for event in told if event.kind == "retry")
    assert told[0].backend.endpoint.origin.port == server.port
    assert told[-1].completion is not None
    assert told[-1].completion.info is not None
    assert "complete" == told[-1].completion.info.ended


@pytest.mark.parametrize(("put_off", "waits"), [(None, [0.5]), (0.1, [0.5]), (7.0, [7.0]), (math.inf, [])])
def test_retries_that_others_put_off(put_off: float | None, waits: list[float]) -> None:
    """A retry is told of with the wait that it has in the end, and not at all where it is not made; others still hear of it."""
    told: list[CallEvent] = []
    heard: list[tuple[AttemptInfo, float]] = []

    def other(attempt: AttemptInfo, wait: float) -> float | None:
        heard.append((attempt, wait))
        return put_off

    script = Scripted("hi")
    failed = AttemptInfo(500, "ServerError: x", 1.0)
    Watched(script, told.append, script).complete(ChatRequest(messages=[]), CallOptions(retrying=other))
    assert script.options[0].retrying is not None
    assert max(0.5, put_off or 0.0) == script.options[0].retrying(failed, 0.5)
    assert [(failed, 0.5)] == heard
    assert waits == [event.wait for event in told if event.kind == "retry"]


def test_errors(ask: Callable[..., Any]) -> None:
    """An error ends a call, before an answer, in the middle of one, and in raw chunks."""
    told: list[CallEvent] = []
    error = ServerError("x", 500)
    with pytest.raises(ServerError):
        ask(lambda client: client.chat.complete("a"), script=[error], on_event=told.append)
    with pytest.raises(ServerError):
        ask(lambda client: client.chat.stream("a").until_done(), script=[error], on_event=told.append)
    cut = StreamTruncatedError("cut")
    with pytest.raises(StreamTruncatedError):
        ask(lambda client: client.chat.stream("a").until_done(), script=[[TALK[1], cut]], on_event=told.append)
    assert ["request", "error", "request", "error", "request", "first_token", "chunk", "error"] == kinds(told)
    assert [error, error, cut] == [event.error for event in told if event.kind == "error"]


@pytest.mark.parametrize("how", ["close", "drop"])
def test_leaving(how: str) -> None:
    """A caller who leaves before the end is told of, once, with what had come."""
    told: list[CallEvent] = []
    client = Gpt(backend=Scripted(TALK), on_event=told.append)
    stream = client.chat.stream("a")
    next(stream)
    if how == "close":
        stream.close()
    del stream
    gc.collect()
    assert ["request", "chunk", "first_token", "chunk", "closed"] == kinds(told)
    assert told[-1].completion is not None
    assert "hel" == told[-1].completion.text


def test_cancelling() -> None:
    """A task that is cancelled is a caller who left: before the answer, and in it."""

    class Never(AsyncScripted):
        async def complete(self, *_: Any) -> Any:
            await asyncio.Event().wait()

        async def stream(self, request: Any, options: Any = None) -> Any:
            chunks = await super().stream(request, options)

            async def wait() -> Any:
                await asyncio.Event().wait()

            class Hanging(type(chunks)):  # type: ignore[misc]
                __anext__ = staticmethod(wait)

            chunks.__class__ = Hanging
            return chunks

    told: list[CallEvent] = []

    async def run() -> None:
        client = AsyncGpt(backend=Never("a"), on_event=told.append)
        for call in (client.chat.complete("a"), client.chat.stream("a").until_done()):
            task = asyncio.ensure_future(call)
            while len(told) % 2 == 0:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert ["request", "closed"] * 2 == kinds(told)


def test_hook_that_raises(ask: Callable[..., Any]) -> None:
    """What a hook raises is a warning; the answer is not lost."""

    def hook(_: CallEvent) -> None:
        raise RuntimeError("broken")

    with pytest.warns(RuntimeWarning, match="on_event raised RuntimeError"):
        assert "hi" == ask(lambda client: client.chat.complete("a"), script=["hi"], on_event=hook).text


async def awaited(_: CallEvent) -> None: ...


@pytest.mark.parametrize("hook", [5, awaited])
@pytest.mark.parametrize("client", [Gpt, AsyncGpt])
def test_no_hook(client: Any, hook: Any) -> None:
    """What is no plain function is refused at once."""
    with pytest.raises(InvalidRequestError, match="on_event: expected a plain function"):
        client(backend=Scripted("a"), on_event=hook)


def test_unused() -> None:
    """Where nobody asked to be told, nothing stands between the client and its backend; a copy may ask."""
    script = Scripted("hi")
    client = Gpt(backend=script)
    assert script is client.chat._backend
    told: list[CallEvent] = []
    client.with_options(on_event=told.append).with_options(model="m").chat.complete("a")
    assert ["request", "done"] == kinds(told)
    assert "m" == told[0].request.model


def test_other_calls(ask: Callable[..., Any]) -> None:
    """What is no conversation is passed on untold, and the backend shows."""
    told: list[CallEvent] = []
    assert 1 == len(ask(lambda client: client.models.list(), script=["hi"], on_event=told.append))
    assert [] == told
    assert "Watched(" in ask(lambda client: repr(client.chat._backend), script=["hi"], on_event=told.append)
