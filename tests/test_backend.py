"""The bridge from blocking code to asyncio: streams, by a thread that reads them and by threads of the backend's own."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gpt import Limit, ServerError, Timeout
from gpt.backend import CallOptions, in_threads
from gpt.protocol.wire import ResponseInfo
from gpt.testing.scripted import Scripted, chunk
from gpt.types import ChatCompletionChunk, ChatRequest, UserMessage

ASKED = ChatRequest(messages=[UserMessage("a")])
PATIENCE = 30.0
"""Seconds that a test waits for something before it fails."""

TOLD = object()
"""In a script: wait until the call is told to stop."""


class Stream:
    """Items of a script: chunks, exceptions, Events that are waited for, TOLD."""

    info = ResponseInfo(elapsed=3.0)

    def __init__(self, items: Any, cancel: threading.Event, at_close: Exception | None) -> None:
        self._items: Iterator[Any] = iter(items)
        self._cancel = cancel
        self._at_close = at_close

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> ChatCompletionChunk:
        for item in self._items:
            if isinstance(item, ChatCompletionChunk):
                return item
            if isinstance(item, Exception):
                try:
                    raise item
                finally:
                    del item  # the error holds this frame
            assert (self._cancel if item is TOLD else item).wait(PATIENCE)
        raise StopIteration

    def close(self) -> None:
        if self._at_close is not None:
            raise self._at_close


class Read(Scripted):
    """A blocking model with a script. `ways` tells by which method each stream was begun."""

    at_close: Exception | None = None

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self.ways: list[str] = []
        self.threads: list[threading.Thread] = []

    def stream(self, request: ChatRequest, options: CallOptions = CallOptions()) -> Any:  # noqa: B008 - a constant
        self.ways.append("stream")
        return self._begun(request, options)

    def _begun(self, request: ChatRequest, options: CallOptions) -> Stream:
        return Stream(self._next(request, options), options.cancel, self.at_close)


class Pushing(Read):
    """One whose chunks come from threads of its own."""

    def stream(self, request: ChatRequest, options: CallOptions = CallOptions()) -> Any:  # noqa: B008 - a constant
        return super().stream(request, options)

    def stream_into(self, request: ChatRequest, options: CallOptions, put: Callable[[Any], object]) -> Any:
        self.ways.append("stream_into")
        stream = self._begun(request, options)
        self.threads.append(threading.Thread(target=self._push, args=(stream, options.cancel, put), daemon=True))
        self.threads[-1].start()
        return stream

    def _push(self, stream: Stream, cancel: threading.Event, put: Callable[[Any], object]) -> None:
        end: Exception | None = None
        try:
            for item in stream:
                if cancel.is_set():
                    break
                put(item)
        except Exception as error:  # noqa: BLE001 - it belongs to the reader
            end = error
        put(end)
        del end  # the error holds this frame


KINDS: list[type[Read]] = [Read, Pushing]


@pytest.fixture(params=KINDS, ids=["read", "pushed"])
def kind(request: pytest.FixtureRequest) -> type[Read]:
    made: type[Read] = request.param
    return made


async def ended(bridge: Any, model: Read) -> None:
    """Close a bridge, and wait until no thread of it or of its model is left."""
    await bridge.close()
    await asyncio.to_thread(bridge._pool.shutdown)  # after which no more threads of the model's are begun
    for thread in model.threads:
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()


def using(model: Read, use: Callable[[Any], Any], backend: Any = None) -> Any:
    """What `use` gives, awaited, of a bridge over the model or over what stands above it."""

    async def run() -> Any:
        bridge = in_threads(model if backend is None else backend)
        try:
            return await use(bridge)
        finally:
            await ended(bridge, model)

    return asyncio.run(run())


async def read(stream: Any) -> list[Any]:
    """The texts of a stream, then the class of the error that ends it, or "end"; nothing comes after either."""
    found: list[Any] = []
    try:
        async for item in stream:
            found.append(item.choices[0].delta.content)
        found.append("end")
    except Exception as error:  # noqa: BLE001 - whatever it is
        found.append(type(error))
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    return found


READ: list[tuple[str, list[Any], list[Any]]] = [
    ("nothing", [], ["end"]),
    ("chunks", [chunk("a"), chunk("b")], ["a", "b", "end"]),
    ("an error before the first chunk", [ServerError("x", 500)], [ServerError]),
    ("an error in the middle", [chunk("a"), ServerError("x", 500)], ["a", ServerError]),
    ("a fault of the backend's", [chunk("a"), KeyError("x")], ["a", KeyError]),
]


@pytest.mark.parametrize(("said", "expected"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_read(kind: type[Read], said: list[Any], expected: list[Any]) -> None:
    """Each chunk comes in its order, then the end or the error, once; and the facts are the backend's."""
    model = kind(said)

    async def use(bridge: Any) -> Any:
        stream = await bridge.stream(ASKED)
        return await read(stream), stream.info

    assert (expected, Stream.info) == using(model, use)


def test_refused(kind: type[Read]) -> None:
    """What is raised before the stream begins is raised by `stream`, and nothing is left running."""
    model = kind(ServerError("x", 500))
    with pytest.raises(ServerError):
        using(model, lambda bridge: bridge.stream(ASKED))
    assert model.options[0].cancel.is_set()
    assert [] == model.threads


@pytest.mark.parametrize("said", [[chunk("a")], [chunk("a"), ServerError("x", 500)]])
def test_an_error_of_closing(said: list[Any]) -> None:
    """A stream that cannot be closed ends with that error: its reader does not wait for ever."""
    model = Read(said)
    model.at_close = KeyError("close")

    async def use(bridge: Any) -> list[Any]:
        return await read(await bridge.stream(ASKED))

    assert ["a", KeyError] == using(model, use)


# --------------------------------------------------------------------------------------------------------------------
# By which way
# --------------------------------------------------------------------------------------------------------------------


class OwnStream(Pushing):
    """One that does something with each chunk, as a layer would, by inheriting."""

    def stream(self, request: ChatRequest, options: CallOptions = CallOptions()) -> Any:  # noqa: B008 - a constant
        return super().stream(request, options)


class OwnBoth(OwnStream):
    def stream_into(self, request: ChatRequest, options: CallOptions, put: Callable[[Any], object]) -> Any:
        return super().stream_into(request, options, put)


class Through:
    """A layer that gives on whatever it is asked for but streams."""

    def __init__(self, model: Read) -> None:
        self._backend = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def stream(self, request: ChatRequest, options: CallOptions) -> Any:
        return self._backend.stream(request, options)


class Open:
    """One that gives on whatever it is asked for, and has no attributes."""

    __slots__ = ("_backend",)

    def __init__(self, model: Read) -> None:
        self._backend = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class Slotted:
    """A backend without a dictionary that has both."""

    __slots__ = ("_backend",)

    def __init__(self, model: Read) -> None:
        self._backend = model

    def stream(self, request: ChatRequest, options: CallOptions) -> Any:
        return self._backend.stream(request, options)

    def stream_into(self, request: ChatRequest, options: CallOptions, put: Callable[[Any], object]) -> Any:
        return self._backend.stream_into(request, options, put)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._backend.close()


def wrapped(model: Read) -> Read:
    """The model with a `stream` that was set on the object, as an instrumentation does."""
    original = model.stream
    model.stream = lambda request, options: original(request, options)  # type: ignore[method-assign,misc,assignment]
    return model


SAID = [chunk("a"), chunk("b")]

BY_WHICH: list[tuple[str, type[Read], Callable[[Any], Any], CallOptions, str]] = [
    ("read", Read, lambda model: model, CallOptions(), "stream"),
    ("pushed", Pushing, lambda model: model, CallOptions(), "stream_into"),
    ("a timeout", Pushing, lambda model: model, CallOptions(timeout=Timeout()), "stream"),
    ("a deadline", Pushing, lambda model: model, CallOptions(deadline=60.0), "stream"),
    ("a layer", Pushing, lambda model: Limit(model, requests_per_minute=9), CallOptions(), "stream"),
    ("a layer that gives on", Pushing, Through, CallOptions(), "stream"),
    ("all given on", Pushing, Open, CallOptions(), "stream"),
    ("without a dictionary", Pushing, Slotted, CallOptions(), "stream_into"),
    ("its own stream", OwnStream, lambda model: model, CallOptions(), "stream"),
    ("both its own", OwnBoth, lambda model: model, CallOptions(), "stream_into"),
    ("set on the object", Pushing, wrapped, CallOptions(), "stream"),
]


@pytest.mark.parametrize(("made", "above", "options", "way"), [row[1:] for row in BY_WHICH], ids=[row[0] for row in BY_WHICH])
def test_which_way(made: type[Read], above: Callable[[Any], Any], options: CallOptions, way: str) -> None:
    """A backend that pushes is let do so, unless a clock has to be looked at or another `stream` would be passed by."""
    model = made(SAID)

    async def use(bridge: Any) -> list[Any]:
        return await read(await bridge.stream(ASKED, options))

    assert ["a", "b", "end"] == using(model, use, above(model))
    assert [way] == model.ways


# --------------------------------------------------------------------------------------------------------------------
# Leaving
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "drop"])
def test_leaving(kind: type[Read], how: str) -> None:
    """Closing a stream, or dropping it, tells the backend; a closed one gives nothing more."""
    model = kind([chunk("a"), chunk("b"), TOLD, chunk("late")])

    async def use(bridge: Any) -> None:
        stream = await bridge.stream(ASKED)
        await anext(stream)
        while stream._queue.empty():
            await asyncio.sleep(0)
        assert not model.options[0].cancel.is_set()
        if how == "close":
            await stream.close()
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        else:
            del stream
        assert model.options[0].cancel.is_set()

    using(model, use)


def test_left_though_it_does_not_look() -> None:
    """A blocking backend that does not look at its token is read no further than the next chunk."""
    gate, passed = threading.Event(), threading.Event()

    def said(_: ChatRequest) -> Any:
        yield chunk("a")
        yield gate
        yield chunk("b")
        passed.set()
        yield chunk("c")

    model = Read(said)

    async def use(bridge: Any) -> None:
        stream = await bridge.stream(ASKED)
        await anext(stream)
        await stream.close()
        gate.set()

    using(model, use)
    assert not passed.is_set()


def test_cancelled_before_it_begins(kind: type[Read]) -> None:
    """A task that is cancelled while the stream begins does not wait for that, and the backend is told."""
    began = threading.Event()

    def slow(_: ChatRequest) -> Any:
        began.set()
        assert model.options[0].cancel.wait(PATIENCE)
        return [chunk("late"), TOLD]

    model = kind(slow)

    async def use(bridge: Any) -> None:
        task = asyncio.ensure_future(bridge.stream(ASKED))
        await asyncio.to_thread(began.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    using(model, use)


def test_cancelled_while_it_is_read(kind: type[Read]) -> None:
    """Cancelling one read stops nothing and loses nothing: the next gives what comes then."""
    gate = threading.Event()
    model = kind([chunk("a"), gate, chunk("b")])

    async def use(bridge: Any) -> list[Any]:
        stream = await bridge.stream(ASKED)
        await anext(stream)
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not model.options[0].cancel.is_set()
        gate.set()
        return await read(stream)

    assert ["b", "end"] == using(model, use)


def test_closed_while_it_is_read(kind: type[Read]) -> None:
    """A task that waits for a chunk is let go when another closes the stream."""
    model = kind([chunk("a"), TOLD])

    async def use(bridge: Any) -> None:
        stream = await bridge.stream(ASKED)
        await anext(stream)
        task = asyncio.ensure_future(anext(stream, None))
        await asyncio.sleep(0)
        assert not task.done()
        await stream.close()
        assert await asyncio.wait_for(task, PATIENCE) is None

    using(model, use)


def test_loop_gone(kind: type[Read]) -> None:
    """Where the event loop has ended, nobody reads what comes, and the backend is told to stop."""
    gate = threading.Event()
    model = kind([chunk("a"), gate, chunk("b"), TOLD])
    bridge = in_threads(model)

    async def begin() -> Any:
        stream = await bridge.stream(ASKED)
        await anext(stream)
        return stream

    stream = asyncio.run(begin())
    gate.set()
    assert model.options[0].cancel.wait(PATIENCE)
    asyncio.run(ended(bridge, model))
    assert stream is not None  # it was not dropped


def test_errors_are_let_go(kind: type[Read]) -> None:
    """An error that was raised, and what it lies in, is freed with the last who holds it: it is in no cycle."""

    def said(_: ChatRequest) -> Any:
        yield ServerError("x", 500)  # which a list would hold

    model = kind(said)

    async def use(bridge: Any) -> Any:
        stream = await bridge.stream(ASKED)
        try:
            await anext(stream)
        except ServerError as error:
            return weakref.ref(error), weakref.ref(stream)

    gc.collect()
    gc.disable()
    try:
        held = using(model, use)
        assert [None, None] == [reference() for reference in held]
    finally:
        gc.enable()


FORK = """
import asyncio, os, signal
from gpt import AsyncGpt
from gpt.testing.scripted import Scripted
client = AsyncGpt(backend=Scripted("hi"))
async def ask():
    async with client.chat.stream("a") as stream:
        await stream.until_done()
    return (await client.chat.complete("a")).text
asyncio.run(ask())
child = os.fork()
if not child:
    signal.alarm(20)
    said = asyncio.run(ask())
    asyncio.run(client.close())
    os._exit(said != "hi")
status = os.waitpid(child, 0)[1]
print(os.waitstatus_to_exitcode(status), asyncio.run(ask()))
asyncio.run(client.close())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork here")
def test_fork() -> None:
    """A forked child does not wait for threads that are its parent's."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=False, timeout=60)
    assert (0, "0 hi\n") == (done.returncode, done.stdout), done.stderr
