"""The model with a script."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from gpt import (
    AsyncGpt,
    ChatRequest,
    Gpt,
    GptError,
    RateLimitError,
    RequestTimeoutError,
    StreamTruncatedError,
    Timeout,
    UserMessage,
)
from gpt.backend import AsyncBackend, Backend, CallOptions
from gpt.testing import AsyncScripted, Pause, Scripted, Stall, no_waiting, tool_call
from gpt.testing.scripted import chunk, completion, words

import virtual


def test_in_turn() -> None:
    """Answers come in turn, the last one for ever; what was asked is remembered."""
    script = Scripted("one", completion("two"))
    client = Gpt(backend=script, model="m")
    assert ["one", "two", "two"] == [client.chat.complete(text).text for text in "abc"]
    assert [[UserMessage("a")], [UserMessage("b")], [UserMessage("c")]] == [request.messages for request in script.asked]
    assert ["m"] * 3 == [request.model for request in script.asked]
    client.close()
    assert script.closed


@pytest.mark.parametrize("text", ["hi", "The Nile,  the Rhine ", " leading", ""])
def test_streamed_text(text: str) -> None:
    """A streamed text comes word by word and is the text."""
    assert text == "".join(part.choices[0].delta.content or "" for part in words(text))
    with Gpt(backend=Scripted(text)).chat.stream("a") as stream:
        assert text == "".join(stream.text_stream)


def test_folded_chunks() -> None:
    """Chunks asked for whole are folded; an error among them is raised."""
    assert "hello" == Gpt(backend=Scripted([chunk("hel"), chunk("lo", "stop")])).chat.complete("a").text
    with pytest.raises(RateLimitError):
        Gpt(backend=Scripted([chunk("hel"), RateLimitError("slow", 429)])).chat.complete("a")


def test_errors_and_functions() -> None:
    """An error is raised in its turn; a function sees the request."""
    client = Gpt(backend=Scripted(RateLimitError("slow", 429), lambda request: f"{len(request.messages)} messages"))
    with pytest.raises(RateLimitError, match="slow"):
        client.chat.complete("a")
    assert "1 messages" == client.chat.complete("a").text


def test_on_asyncio() -> None:
    """The same on asyncio."""
    script = AsyncScripted("one", RateLimitError("slow", 429), "two words")

    async def run() -> None:
        async with AsyncGpt(backend=script) as client:
            assert "one" == (await client.chat.complete("a")).text
            with pytest.raises(RateLimitError):
                await client.chat.complete("a")
            async with client.chat.stream("a") as stream:
                assert ["two ", "words"] == [piece async for piece in stream.text_stream]
            assert ["scripted"] == [model.id for model in await client.models.list()]

    asyncio.run(run())
    assert 3 == len(script.script.asked)
    assert script.script.closed


def test_left_stream() -> None:
    """A stream that is left is closed."""
    script = Scripted("one two")
    with Gpt(backend=script).chat.stream("a") as stream:
        next(stream)
    assert script.streams[0].closed


def test_threads() -> None:
    """Threads that share a script get each answer once."""
    script = Scripted(*(str(number) for number in range(200)), "end")
    client = Gpt(backend=script)
    got: list[str] = []

    def work() -> None:
        got.extend(client.chat.complete("a").text for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {str(number) for number in range(200)} == set(got)


def test_is_a_backend() -> None:
    """A script is a Backend; an empty one is refused."""
    assert isinstance(Scripted("a"), Backend)
    assert isinstance(AsyncScripted("a"), AsyncBackend)
    with pytest.raises(ValueError, match="a script needs at least one answer"):
        Scripted()


# --------------------------------------------------------------------------------------------------------------------
# Calls, and the parts of an answer
# --------------------------------------------------------------------------------------------------------------------

REQUEST = ChatRequest(messages=[UserMessage("a")])


def test_tool_call() -> None:
    """A call is answered whole and in pieces, and is the same call; calls of one answer have ids of their own."""
    script = Scripted(tool_call("length_of", river="Nile"), [tool_call("f"), "and", tool_call("f", x=[1])])
    client = Gpt(backend=script)
    (call,) = client.chat.complete("a").message.tool_calls or []
    assert ("call_1_0", "function", "length_of", '{"river":"Nile"}') == (
        call.id,
        call.type,
        call.function.name,
        call.function.arguments,
    )
    with client.chat.stream("a") as stream:
        made = stream.until_done()
    calls = made.message.tool_calls or []
    assert [("call_2_0", "{}"), ("call_2_1", '{"x":[1]}')] == [(one.id, one.function.arguments) for one in calls]
    assert ("and", "tool_calls") == (made.text, made.choices[0].finish_reason)
    texts = [piece.function.arguments for part in script.stream(REQUEST) for piece in part.choices[0].delta.tool_calls or []]
    assert ["", "{", "}", "", '{"x"', ":[1]}"] == texts


def test_tool_run() -> None:
    """A script can play a run of tools."""

    def length_of(river: str) -> int:
        return len(river)

    script = Scripted(tool_call("length_of", river="Nile"), "4 km")
    assert "4 km" == Gpt(backend=script).chat.run_tools("a", tools=[length_of]).text
    assert "4" == script.asked[1].messages[-1].content  # type: ignore[union-attr]


PARTS: list[tuple[Any, list[str], str | None]] = [
    (["The ", "Nile"], ["The ", "Nile", ""], "stop"),
    ([], [], None),
    (["The ", chunk("Nile", "length")], ["The ", "Nile"], "length"),
    ([chunk("The "), "Nile"], ["The ", "Nile"], None),
    (("The ", Pause(0.0), "Nile"), ["The ", "Nile", ""], "stop"),
]


@pytest.mark.parametrize(("parts", "texts", "finish"), PARTS)
def test_parts(parts: Any, texts: list[str], finish: str | None) -> None:
    """Texts are chunks as they are written; an end is added where the script has no chunk of its own."""
    chunks = list(Scripted(parts).stream(REQUEST))
    assert texts == [part.text for part in chunks]
    assert ([finish] if chunks else []) == [part.choices[0].finish_reason for part in chunks[-1:]]


def test_broken() -> None:
    """A stream that breaks off in a script is one that breaks off: the error has what had come."""
    with pytest.raises(StreamTruncatedError) as caught:
        with Gpt(backend=Scripted(["The ", StreamTruncatedError("cut")])).chat.stream("a") as stream:
            stream.until_done()
    assert caught.value.partial is not None
    assert "The " == caught.value.partial.text


# --------------------------------------------------------------------------------------------------------------------
# Waiting
# --------------------------------------------------------------------------------------------------------------------

TIMES: list[tuple[str, Any, CallOptions, str | None]] = [
    ("in time", [Pause(3), "a", Pause(3), "b"], CallOptions(timeout=Timeout(first_byte=3, idle=3), deadline=6), None),
    ("the first byte", [Pause(3), "a"], CallOptions(timeout=Timeout(first_byte=2)), "first_byte"),
    ("two pauses are one silence", [Pause(3), Pause(3), "a"], CallOptions(timeout=Timeout(first_byte=5)), "first_byte"),
    ("a silence later", ["a", Pause(3), "b"], CallOptions(timeout=Timeout(first_byte=1, idle=2)), "idle"),
    ("the deadline", ["a", Pause(3), "b", Pause(3), "c"], CallOptions(timeout=Timeout(), deadline=5), "deadline"),
    ("the deadline, no other clock", ["a", Pause(3)], CallOptions(timeout=Timeout.of(None), deadline=2), "deadline"),
    ("no clock", [Pause(1e6), "a"], CallOptions(timeout=Timeout.of(None)), None),
    ("a stall", ["a", Stall()], CallOptions(timeout=Timeout(idle=7)), "idle"),
    ("a stall, as a server is set up", ["a", Stall()], CallOptions(), "idle"),
]  # fmt: skip


def ended(use: Any) -> str | None:
    try:
        use()
    except RequestTimeoutError as error:
        return error.phase
    return None


@pytest.mark.parametrize(("parts", "options", "phase"), [row[1:] for row in TIMES], ids=[row[0] for row in TIMES])
def test_clocks(parts: Any, options: CallOptions, phase: str | None) -> None:
    """What a script waits for is held against the clocks of the call, on both clients alike, and without waiting too."""

    async def streamed() -> None:
        async for _ in await AsyncScripted(parts).stream(REQUEST, options):
            pass

    with no_waiting():
        assert phase == ended(lambda: list(Scripted(parts).stream(REQUEST, options)))
        assert phase == ended(lambda: asyncio.run(streamed()))
    assert phase == ended(lambda: virtual.run(streamed()))


def test_clocks_of_whole_answers() -> None:
    """A whole answer has one silence, before its first byte."""
    parts, options = ["a", Pause(3), "b"], CallOptions(timeout=Timeout(first_byte=2, idle=9))
    with no_waiting():
        assert "first_byte" == ended(lambda: Scripted(parts).complete(REQUEST, options))
        assert "first_byte" == ended(lambda: asyncio.run(AsyncScripted(parts).complete(REQUEST, options)))
        assert "ab" == Scripted(parts).complete(REQUEST).text
    assert "ab" == virtual.run(AsyncScripted(parts).complete(REQUEST)).text
    assert completion("c") == asyncio.run(AsyncScripted(completion("c")).complete(REQUEST))


class Counting(threading.Event):
    """An event that is not waited for, but remembers for how long it was to be."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


def test_waits() -> None:
    """A blocking call waits as long as its script says; whoever cancels it ends the wait. Without waiting there is none."""
    cancel = Counting()
    stream = Scripted([Pause(3), "a", Pause(5)]).stream(REQUEST, CallOptions(cancel=cancel))
    assert ["a", ""] == [part.text for part in stream]
    assert [3, 5] == cancel.waits
    with no_waiting():
        list(Scripted([Pause(3)]).stream(REQUEST, CallOptions(cancel=cancel)))
    assert [3, 5] == cancel.waits
    cancel.set()
    with pytest.raises(GptError, match="the call was cancelled"):
        next(Scripted([Pause(3)]).stream(REQUEST, CallOptions(cancel=cancel)))


@pytest.mark.parametrize("waiting", [True, False])
def test_left_while_it_stalls(waiting: bool) -> None:
    """A stall that no clock ends is ended by whoever closes the stream, from another thread, also where no test waits."""
    stream = Scripted(["a", Stall()]).stream(REQUEST, CallOptions(timeout=Timeout.of(None)))
    next(stream)
    left: list[Any] = []
    thread = threading.Thread(target=lambda: left.extend(stream))
    if waiting:
        thread.start()
        stream.close()
    else:
        with no_waiting():
            thread.start()
            stream.close()
    thread.join(30)
    assert ([], False) == (left, thread.is_alive())


def test_refused() -> None:
    """A pause that makes no sense is refused."""
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="seconds: expected 0 or more"):
            Pause(seconds)


def test_completion_streamed() -> None:
    """A whole completion that is streamed is one chunk, with all that it has."""
    said = completion("the Nile")
    chunks = list(Scripted(said).stream(REQUEST))
    assert ["the Nile"] == [part.text for part in chunks]
    with Gpt(backend=Scripted(said)).chat.stream("a") as stream:
        assert said == stream.until_done()
