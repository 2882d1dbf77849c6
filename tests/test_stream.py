"""Streamed answers: events, snapshots, ends; both clients."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from gpt import AsyncGpt, Gpt, InvalidRequestError, ServerError, StreamTruncatedError
from gpt.protocol.codec import decode_chunk
from gpt.testing.scripted import AsyncScripted, Scripted, chunk
from gpt.types import Choice, FunctionCall, ResponseMessage, ToolCall

TALK = [chunk(""), chunk("hel"), chunk("lo"), chunk(None, "stop")]
RICH = [
    decode_chunk(b'{"choices":[{"index":0,"delta":{"role":"assistant","reasoning_content":"hm"}}]}'),
    decode_chunk(b'{"choices":[{"index":0,"delta":{"refusal":"no"},"logprobs":{"content":[{"token":"a","logprob":-1}]}}]}'),
    decode_chunk(
        b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"1","function":{"name":"f","arguments":"{"}}]}}]}'
    ),
    decode_chunk(
        b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]},"finish_reason":"tool_calls"}]}'
    ),
    decode_chunk(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'),
]


class Both:
    """A stream of either client, read step by step through blocking names."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.runner = asyncio.Runner()

    def stream(self, chunks: list[Any]) -> tuple[Any, Scripted]:
        if self.kind == "blocking":
            script = Scripted(chunks)
            return Gpt(backend=script).chat.stream("a"), script
        backend = AsyncScripted(chunks)
        return AsyncGpt(backend=backend).chat.stream("a"), backend.script

    def run(self, value: Any) -> Any:
        return self.runner.run(value) if asyncio.iscoroutine(value) else value

    def next(self, stream: Any) -> Any:
        return next(stream) if self.kind == "blocking" else self.run(stream.__anext__())

    def all(self, stream: Any) -> list[Any]:
        if self.kind == "blocking":
            return list(stream)

        async def read() -> list[Any]:
            return [item async for item in stream]

        found: list[Any] = self.run(read())
        return found

    def texts(self, stream: Any) -> list[str]:
        return self.all(stream.text_stream)

    def enter(self, stream: Any) -> Any:
        return stream.__enter__() if self.kind == "blocking" else self.run(stream.__aenter__())

    def exit(self, stream: Any) -> None:
        stream.__exit__(None, None, None) if self.kind == "blocking" else self.run(stream.__aexit__(None, None, None))


@pytest.fixture(params=["blocking", "async"])
def both(request: pytest.FixtureRequest) -> Any:
    made = Both(request.param)
    yield made
    made.runner.close()


def test_text(both: Both) -> None:
    """The text stream gives the pieces; at the end the completion is there, with the facts of the call."""
    stream, script = both.stream(TALK)
    assert [] == script.asked
    assert stream is both.enter(stream)
    assert 1 == len(script.asked)
    assert ["hel", "lo"] == both.texts(stream)
    assert [Choice("stop", 0, ResponseMessage("hello"))] == stream.completion.choices
    assert stream.completion.info is not None
    assert 0 < stream.completion.info.first_token <= stream.completion.info.elapsed
    both.exit(stream)
    assert script.streams[0].closed


def test_events(both: Both) -> None:
    """Each piece is an event of its kind, with what came and the whole so far."""
    stream, _ = both.stream(TALK)
    first = both.next(stream)
    assert ("content", "hel", 0, "hel") == (first.type, first.delta, first.index, first.snapshot)
    second = both.next(stream)
    assert ("lo", "hello", "hel") == (second.delta, second.snapshot, first.snapshot)
    assert repr(second) == "ContentEvent(delta='lo', index=0)"
    done = both.next(stream)
    assert ("done", stream.completion) == (done.type, done.completion)
    with pytest.raises((StopIteration, StopAsyncIteration)):
        both.next(stream)


def test_kinds(both: Both) -> None:
    """Thinking, refusals, log probabilities, calls and usage are events too."""
    stream, _ = both.stream(RICH)
    events = both.all(stream)
    assert ["reasoning", "logprobs", "refusal", "tool_call", "tool_call", "usage", "done"] == [event.type for event in events]
    assert ("hm", "no") == (events[0].snapshot, events[2].snapshot)
    assert "a" == events[1].delta[0].token
    assert [("{", 0), ("}", 0)] == [(event.delta, event.place) for event in events[3:5]]
    assert ToolCall(FunctionCall("{}", "f"), "1") == events[4].snapshot
    assert 3 == events[5].usage.total_tokens
    assert events[6].completion.message.reasoning_content == "hm"


def test_before_the_end(both: Both) -> None:
    """Before the end there is a snapshot, and the completion raises."""
    stream, _ = both.stream(TALK)
    both.next(stream)
    assert "hel" == stream.snapshot.text
    with pytest.raises(InvalidRequestError, match="the stream has not ended"):
        _ = stream.completion
    assert "hello" == both.run(stream.until_done()).text
    assert stream.snapshot is stream.completion


def test_leaving(both: Both) -> None:
    """Leaving the block in the middle closes the stream; what came stays."""
    stream, script = both.stream(TALK)
    both.enter(stream)
    both.next(stream)
    both.exit(stream)
    assert script.streams[0].closed
    assert "hel" == stream.snapshot.text
    assert [] == both.all(stream)
    with pytest.raises(InvalidRequestError):
        _ = stream.completion


def test_never_entered(both: Both) -> None:
    """A stream that is closed before it was entered sends nothing."""
    stream, script = both.stream(TALK)
    both.run(stream.close())
    assert [] == both.all(stream)
    assert [] == script.asked


@pytest.mark.parametrize("error", [ServerError("x", 500), StreamTruncatedError("cut")])
def test_errors(both: Both, error: Any) -> None:
    """An error in the middle is raised; a cut stream carries what had come."""
    error.partial = None
    stream, _ = both.stream([*TALK[:2], error])
    assert "hel" == both.next(stream).delta
    with pytest.raises(type(error)) as caught:
        both.next(stream)
    if isinstance(error, StreamTruncatedError):
        assert caught.value.partial.text == "hel"


def test_in_threads() -> None:
    """A blocking backend's stream is read on asyncio; closing or dropping it sets the token that stops it."""

    async def run() -> None:
        script = Scripted(list(TALK))
        client = AsyncGpt(backend=script)
        async with client.chat.stream("a") as stream:
            assert ["hel", "lo"] == [piece async for piece in stream.text_stream]
        script.answers = [[*TALK[:2], ServerError("x", 500)]]
        with pytest.raises(ServerError):
            await client.chat.stream("a").until_done()
        script.answers = [[chunk("a")] * 1000]
        async with client.chat.stream("a") as stream:
            await anext(stream)
        assert script.options[-1].cancel.is_set()
        dropped = client.chat.stream("a")
        await anext(dropped)
        del dropped
        gc.collect()
        assert script.options[-1].cancel.is_set()
        await client.close()
        assert script.closed

    asyncio.run(run())
