"""Runs of tools as events, by both clients: what comes when, and what is left behind. How a run goes is in test_run.py."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from gpt import (
    AsyncGpt,
    ChatCompletion,
    Choice,
    FunctionCall,
    Gpt,
    InvalidRequestError,
    Profile,
    ResponseMessage,
    ServerError,
    StreamOptions,
    StreamTruncatedError,
    ToolCall,
    ToolError,
    Usage,
)
from gpt.testing.scripted import Answer, AsyncScripted, Scripted, chunk


class Either:
    """A run streamed by either client, read step by step through blocking names; `script` is what answers."""

    def __init__(self, kind: str) -> None:
        self.blocking = kind == "blocking"
        self.runner = asyncio.Runner()

    def stream(self, *answers: Answer, profile: Profile | None = None, **params: Any) -> Any:
        backend: Any = Scripted(*answers) if self.blocking else AsyncScripted(*answers)
        self.script: Scripted = backend if self.blocking else backend.script
        if profile is not None:
            backend.profile = profile
        client: Any = Gpt(backend=backend) if self.blocking else AsyncGpt(backend=backend)
        return client.chat.stream_tools("go", **{"tools": [double, later], **params})

    def run(self, value: Any) -> Any:
        return self.runner.run(value) if asyncio.iscoroutine(value) else value

    def next(self, stream: Any) -> Any:
        return self.run(next(stream) if self.blocking else stream.__anext__())

    def until(self, stream: Any, kind: str) -> Any:
        """The next event of this type."""
        while (event := self.next(stream)).type != kind:
            pass
        return event

    def all(self, stream: Any) -> list[Any]:
        async def read() -> list[Any]:
            return [item async for item in stream]

        return list(stream) if self.blocking else self.runner.run(read())

    def enter(self, stream: Any) -> Any:
        return stream.__enter__() if self.blocking else self.run(stream.__aenter__())

    def leave(self, stream: Any) -> None:
        stream.__exit__(None, None, None) if self.blocking else self.run(stream.__aexit__(None, None, None))


@pytest.fixture(params=["blocking", "asyncio"])
def either(request: pytest.FixtureRequest) -> Iterator[Either]:
    made = Either(request.param)
    yield made
    made.runner.close()


def double(x: int) -> int:
    """Twice x."""
    return 2 * x


async def later(x: int) -> int:
    """One more than x."""
    await asyncio.sleep(0)
    return x + 1


def calling(*calls: tuple[str, str, str], text: str | None = None) -> ChatCompletion:
    """An answer that calls tools, each by name, arguments and id."""
    made = [ToolCall(FunctionCall(arguments, name), call_id) for name, arguments, call_id in calls]
    choices = [Choice("tool_calls", 0, ResponseMessage(text, tool_calls=made))]
    return ChatCompletion(choices=choices, usage=Usage(3, 7, 10))


TWO = calling(("double", '{"x": 2}', "a"), ("later", '{"x": 2}', "b"), text="wait")
TALK = [chunk("all "), chunk("done"), chunk(finish="stop")]


def roles(messages: list[Any]) -> list[str]:
    return [message.role for message in messages]


def test_the_order_of_events(either: Either) -> None:
    """The events of an answer, its whole, each call and its result, the next answer; at the end the run."""
    steps: list[Any] = []
    stream = either.stream(TWO, TALK, parallel=1, on_step=steps.append)
    events = either.all(stream)
    first = ["content", "tool_call", "tool_call", "usage", "answer", "call", "result", "call", "result"]
    assert [*first, "content", "content", "answer", "done"] == [event.type for event in events]
    assert steps == [event for event in events if event.type in ("answer", "call", "result")]
    assert [(0, "a", "4"), (0, "b", "3")] == [
        (event.turn, event.call.id, event.message.content) for event in events if event.type == "result"
    ]
    run = events[-1].run
    assert (run, run) == (stream.run, events[-1].snapshot)
    assert ("answered", "all done", 2) == (run.ended, run.text, len(run.completions))
    assert roles(run.messages) == ["user", "assistant", "tool", "tool", "assistant"]
    assert run.messages == stream.messages


def test_text(either: Either) -> None:
    """The text stream has the pieces of all answers."""
    assert ["wait", "all ", "done"] == either.all(either.stream(TWO, TALK).text_stream)


def test_nothing_is_sent_before_it_is_read(either: Either) -> None:
    """Entering sends, and so does reading the first event; a stream that is left before sends nothing."""
    stream = either.stream(TALK)
    assert [] == either.script.asked
    assert stream is either.enter(stream)
    assert 1 == len(either.script.asked)
    stream = either.stream(TALK)
    assert "all " == either.next(stream).delta
    assert 1 == len(either.script.asked)
    stream = either.stream(TALK)
    either.run(stream.close())
    assert ([], []) == (either.all(stream), either.script.asked)


def test_bad_settings_are_refused_at_once(either: Either) -> None:
    """What means nothing is refused where it is written, not where the stream is read."""
    with pytest.raises(InvalidRequestError, match="max_turns"):
        either.stream(TALK, max_turns=0)
    with pytest.raises(TypeError, match="unknown parameter 'temprature'"):
        either.stream(TALK, temprature=1)


def test_the_deadline_counts_from_the_first_request(either: Either) -> None:
    """The first answer has the whole deadline, however long the stream had been lying about."""
    either.all(either.stream(TWO, TALK, deadline=60))
    first, second = (options.deadline for options in either.script.options)
    assert 60 == pytest.approx(first, rel=1e-9)
    assert second < first


def test_so_far(either: Either) -> None:
    """At any time there are the answer under way and the conversation, which never has a call without its result."""
    stream = either.stream(TWO, TALK, parallel=1)
    assert ("", ["user"]) == (stream.snapshot.text, roles(stream.messages))
    either.next(stream)
    assert ("wait", ["user"]) == (stream.snapshot.text, roles(stream.messages))
    either.until(stream, "result")
    assert ("wait", ["user"]) == (stream.snapshot.text, roles(stream.messages))
    either.until(stream, "content")
    assert ("all ", ["user", "assistant", "tool", "tool"]) == (stream.snapshot.text, roles(stream.messages))
    with pytest.raises(InvalidRequestError, match="the run has not ended"):
        _ = stream.run
    assert "all done" == either.run(stream.until_done()).text
    assert stream.snapshot is stream.run.completion


def test_leaving_inside_an_answer(either: Either) -> None:
    """Leaving the block stops the answer under way and goes no further."""
    stream = either.stream(TWO, TALK)
    either.enter(stream)
    either.until(stream, "result")
    either.until(stream, "content")
    either.leave(stream)
    assert [True, True] == [one.closed for one in either.script.streams]
    assert [] == either.all(stream)
    assert "all " == stream.snapshot.text
    with pytest.raises(InvalidRequestError):
        _ = stream.run


def test_leaving_between_calls(either: Either) -> None:
    """After leaving no further call begins, and nothing is sent."""
    done: list[int] = []

    def notes(x: int) -> None:
        """Notes x."""
        done.append(x)

    answer = calling(("notes", '{"x": 1}', "a"), ("notes", '{"x": 2}', "b"))
    stream = either.stream(answer, TALK, tools=[notes], parallel_tool_calls=False)
    either.enter(stream)
    either.until(stream, "answer")
    either.leave(stream)
    assert ([], []) == (either.all(stream), done)
    assert 1 == len(either.script.asked)


def test_a_dropped_stream(either: Either) -> None:
    """Dropping the stream drops the answer under way at once, without waiting for the collector of cycles."""
    stream = either.stream(TWO, TALK)
    either.until(stream, "result")
    either.until(stream, "content")
    answers = [weakref.ref(answer) for answer in either.script.streams]
    either.script.streams.clear()
    del stream
    assert [None, None] == [answer() for answer in answers]


@pytest.mark.parametrize("error", [ServerError("x", 500), StreamTruncatedError("cut")])
def test_an_error_inside_an_answer(either: Either, error: Any) -> None:
    """An error in the middle has what had come of the answer, and the conversation before it; the stream is over."""
    error.partial = error.conversation = None
    stream = either.stream(TWO, [*TALK[:1], error])
    with pytest.raises(type(error)) as caught:
        either.all(stream)
    assert "all " == caught.value.partial.text
    assert ["user", "assistant", "tool", "tool"] == roles(caught.value.conversation)
    assert caught.value.conversation == stream.messages
    assert either.script.streams[-1].closed
    assert [] == either.all(stream)
    with pytest.raises(InvalidRequestError, match=r"the run broke off, so there is no ToolRun \("):
        _ = stream.run


@pytest.mark.parametrize("step", ["enter", "next"])
def test_an_error_at_the_start(either: Either, step: str) -> None:
    """An answer that cannot even be begun has the conversation too, whether the block is entered or an event read."""
    stream = either.stream(ServerError("down", 500))
    with pytest.raises(ServerError) as caught:
        getattr(either, step)(stream)
    assert ["user"] == roles(caught.value.conversation or [])
    assert [] == either.all(stream)


def test_an_error_of_a_tool(either: Either) -> None:
    """With on_error="raise" a failed call breaks the stream off, after the results that were there."""
    answer = calling(("double", '{"x": 2}', "a"), ("double", '{"x": "two"}', "b"))
    stream = either.stream(calling(("double", '{"x": 1}', "z")), answer, on_error="raise")
    either.until(stream, "result")
    with pytest.raises(ToolError) as caught:
        either.all(stream)
    assert "b" == caught.value.call.id
    assert ["user", "assistant", "tool"] == roles(stream.messages)


@pytest.mark.parametrize(
    ("params", "profile", "asked"),
    [
        ({}, None, None),
        ({}, Profile(streams_usage=True), True),
        ({"max_total_tokens": 100}, None, True),
        ({"max_total_tokens": 100, "stream_options": StreamOptions(include_usage=False)}, None, False),
        ({"max_total_tokens": 100, "stream_options": None}, None, None),
    ],
)
def test_usage_is_asked_for(either: Either, params: dict[str, Any], profile: Profile | None, asked: bool | None) -> None:
    """Usage is asked for where the server is known to give it, and where a budget needs it; what the caller says wins."""
    either.all(either.stream(calling(("double", '{"x": 2}', "a")), calling(text="on"), profile=profile, **params))
    options = [request.stream_options or None for request in either.script.asked]
    assert [asked, asked] == [one and one.include_usage for one in options]


def waiting(stopped: asyncio.Event) -> Callable[[], Awaitable[None]]:
    """A tool that waits until it is cancelled, and then says so."""

    async def waits() -> None:
        """Waits."""
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    return waits


def test_stopping_async_tools() -> None:
    """Cancelling the task that reads, leaving the block and dropping the stream cancel async tools."""

    async def begun(stopped: asyncio.Event) -> Any:
        """A stream of which one call has its result while another waits."""
        script = AsyncScripted(calling(("waits", "{}", "a"), ("later", '{"x": 2}', "b")))
        stream = AsyncGpt(backend=script).chat.stream_tools("go", tools=[waiting(stopped), later])
        while (await anext(stream)).type != "result":
            pass
        assert not stopped.is_set()
        return stream

    async def main() -> None:
        stopped = asyncio.Event()
        async with await begun(stopped):
            pass
        assert stopped.is_set()

        stopped = asyncio.Event()
        stream = await begun(stopped)
        task = asyncio.ensure_future(stream.until_done())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stopped.is_set()
        assert [] == [event async for event in stream]

        stopped = asyncio.Event()
        stream = await begun(stopped)
        del stream
        await asyncio.wait_for(stopped.wait(), 60)

    asyncio.run(main())


def test_cancelling_inside_an_answer() -> None:
    """Cancelling the task that reads stops the answer under way at the other end."""

    async def main() -> None:
        reading = asyncio.Event()
        closed = asyncio.Event()

        class Silent:
            """The stream of an answer of which nothing comes."""

            def __aiter__(self) -> Any:
                return self

            async def __anext__(self) -> Any:
                reading.set()
                await asyncio.Event().wait()

            async def close(self) -> None:
                closed.set()

        class Quiet(AsyncScripted):
            async def stream(self, *_: Any) -> Any:
                return Silent()

        task = asyncio.ensure_future(AsyncGpt(backend=Quiet("")).chat.stream_tools("go", tools=[]).until_done())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed.is_set()

    asyncio.run(main())


def stops(stopped: asyncio.Event) -> Callable[..., Awaitable[bool]]:
    """An approval that never comes, and says when it is no longer waited for."""

    async def approve(*_: Any) -> bool:
        await waiting(stopped)()
        return True

    return approve


@pytest.mark.parametrize("place", ["tool", "approve"])
def test_closing_from_another_task(place: str) -> None:
    """Closing cancels what is under way, whichever task waits for it; that task meets the end, and nothing more is sent."""

    async def main() -> None:
        stopped = asyncio.Event()
        script = AsyncScripted(calling(("waits", "{}", "a"), ("later", '{"x": 2}', "b")), TALK)
        params: dict[str, Any] = {"tools": [waiting(stopped), later]}
        if place == "approve":
            params["approve"] = stops(stopped)
        stream = AsyncGpt(backend=script).chat.stream_tools("go", **params)
        while (await anext(stream)).type != ("result" if place == "tool" else "answer"):
            pass
        task = asyncio.ensure_future(anext(stream))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not stopped.is_set()
        await stream.close()
        assert stopped.is_set()
        with pytest.raises(StopAsyncIteration):
            await task
        assert ([], 1) == ([event async for event in stream], len(script.script.asked))
        await stream.close()

    asyncio.run(main())


@pytest.mark.parametrize("end", [StopAsyncIteration(), StreamTruncatedError("cut")])
def test_closing_inside_an_answer_from_another_task(end: Exception) -> None:
    """However the answer ends that is stopped by closing, the task that reads it meets the end of the stream."""

    async def main() -> None:
        reading, closed = asyncio.Event(), asyncio.Event()

        class Silent:
            """The stream of an answer of which nothing comes."""

            def __aiter__(self) -> Any:
                return self

            async def __anext__(self) -> Any:
                reading.set()
                await closed.wait()
                raise end

            async def close(self) -> None:
                closed.set()

        class Quiet(AsyncScripted):
            async def stream(self, *_: Any) -> Any:
                return Silent()

        stream = AsyncGpt(backend=Quiet("")).chat.stream_tools("go", tools=[])
        task = asyncio.ensure_future(anext(stream))
        await reading.wait()
        await stream.close()
        with pytest.raises(StopAsyncIteration):
            await task

    asyncio.run(main())


def test_closing_twice_at_once() -> None:
    """Two tasks may close at once: both return when the tools have ended, however long these take to."""

    async def main() -> None:
        ended = asyncio.Event()

        async def slow() -> None:
            """Takes its time to stop."""
            try:
                await asyncio.Event().wait()
            finally:
                for _ in range(20):
                    await asyncio.sleep(0)
                ended.set()

        script = AsyncScripted(calling(("slow", "{}", "a"), ("later", '{"x": 2}', "b")))
        stream = AsyncGpt(backend=script).chat.stream_tools("go", tools=[slow, later])
        while (await anext(stream)).type != "result":
            pass

        async def close() -> bool:
            await stream.close()
            return ended.is_set()

        assert [True, True] == await asyncio.gather(close(), close())

    asyncio.run(main())


def test_an_approval_that_closes() -> None:
    """Who is asked for approval may close the stream: no call begins, and nothing waits for itself."""

    async def main() -> None:
        done: list[int] = []

        def notes(x: int) -> None:
            """Notes x."""
            done.append(x)

        async def approve(*_: Any) -> bool:
            await stream.close()
            return True

        script = AsyncScripted(calling(("notes", '{"x": 1}', "a")), TALK)
        stream = AsyncGpt(backend=script).chat.stream_tools("go", tools=[notes], approve=approve)
        kinds = [event.type async for event in stream]
        assert ["tool_call", "usage", "answer"] == kinds
        assert ([], 1) == (done, len(script.script.asked))

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_tool_that_closes(either: Either) -> None:
    """A tool may close the stream that waits for it: its result goes nowhere, and nothing more is sent."""
    begun = threading.Event()

    def closes() -> int:
        """Closes, from a thread."""
        begun.wait(60)
        stream.close()
        return 5

    async def closes_too() -> int:
        """Closes, from a task."""
        while not begun.is_set():
            await asyncio.sleep(0)
        await stream.close()
        return 5

    closes_too.__name__ = "closes"
    params = {"tools": [closes if either.blocking else closes_too], "on_step": lambda step: step.type == "call" and begun.set()}
    stream = either.stream(calling(("closes", "{}", "a")), TALK, **params)
    assert ["tool_call", "usage", "answer", "call"] == [event.type for event in either.all(stream)]
    assert 1 == len(either.script.asked)
    with pytest.raises(InvalidRequestError, match="the run has not ended"):
        _ = stream.run
