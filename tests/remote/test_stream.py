"""Streams over real sockets, on both clients: cuts, clocks, reuse, leaving, cancelling."""

from __future__ import annotations

import asyncio
import gc
import gzip
import threading
from typing import Any

import pytest

import gpt
from gpt import AsyncGpt, Gpt, Profile, Timeout, UserMessage
from gpt.testing import no_waiting
from gpt.testing.loopback import Loopback, Peer, answer

from remote_stream import EVENTS, STREAM

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ROLE, HEL, LO = (STREAM[: STREAM.index(b"\n\n") + 2], *(part + b"\n\n" for part in STREAM.split(b"\n\n")[1:3]))
ASKED: list[Any] = [UserMessage("a")]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Blocking:
    """`Gpt` through one set of names."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.client: Any = Gpt(server_url=url, model="m", **settings)

    def stream(self) -> Any:
        return self.client.chat.stream(ASKED)

    def raw(self) -> Any:
        return self.client.chat.completions.create(messages=ASKED, stream=True)

    def enter(self, stream: Any) -> Any:
        return stream.__enter__()

    def next(self, stream: Any) -> Any:
        return next(stream)

    def leave(self, stream: Any) -> None:
        stream.close()

    def done(self, stream: Any) -> Any:
        return stream.until_done()

    def close(self) -> None:
        self.client.close()


class OnAsyncio:
    """`AsyncGpt` through the same names."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.runner = asyncio.Runner()
        self.client: Any = AsyncGpt(server_url=url, model="m", **settings)

    def run(self, coroutine: Any) -> Any:
        async def run() -> Any:
            return await coroutine

        return self.runner.run(run())

    def stream(self) -> Any:
        return self.client.chat.stream(ASKED)

    def raw(self) -> Any:
        return self.run(self.client.chat.completions.create(messages=ASKED, stream=True))

    def enter(self, stream: Any) -> Any:
        return self.run(stream.__aenter__())

    def next(self, stream: Any) -> Any:
        return self.run(stream.__anext__())

    def leave(self, stream: Any) -> None:
        self.run(stream.close())
        self.run(asyncio.sleep(0))

    def done(self, stream: Any) -> Any:
        return self.run(stream.until_done())

    def close(self) -> None:
        self.run(self.client.close())
        self.runner.close()


@pytest.fixture(params=[Blocking, OnAsyncio])
def make(request: pytest.FixtureRequest) -> Any:
    made: list[Any] = []

    def make(url: str, **settings: Any) -> Any:
        made.append(request.param(url, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("framing", ["chunked", "length", "close", "gzip"])
def test_cut_anywhere(make: Any, framing: str) -> None:
    """A stream cut after any number of bytes is the whole answer, or an error with what had come; never a part as a whole."""
    if framing == "chunked":
        data = HEAD + b"".join(chunk(part + b"\n\n") for part in STREAM.split(b"\n\n")[:-1]) + b"0\r\n\r\n"
    elif framing == "length":
        data = answer(STREAM, "200 OK", "content-type: text/event-stream")
    elif framing == "close":
        data = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + STREAM
    else:
        data = answer(gzip.compress(STREAM), "200 OK", "content-type: text/event-stream", "content-encoding: gzip")
    cut = 0

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(data[:cut])

    with Loopback(play) as server, no_waiting():
        ask = make(server.url, max_retries=0)
        seen = set()
        for cut in range(len(data) + 1):
            stream = ask.stream()
            try:
                text = ask.done(stream).text
            except gpt.TransportError as error:
                partial = error.partial.text if error.partial else None
                assert partial in (None, "hel", "hello")
                seen.add(partial)
            else:
                assert "hello" == text
                assert "hello" in data[:cut].decode("latin-1") or cut > len(data) - 60
                seen.add(text)
    assert {None, "hello"} <= seen
    assert "hel" in seen or framing == "gzip"


def kept(peer: Peer, *, tail: bytes = b"0\r\n\r\n") -> None:
    """Streams on a connection that is kept; the end of the body in a segment of its own."""
    while True:
        peer.read_request()
        peer.send(HEAD + chunk(STREAM))
        peer.send(tail)


@pytest.mark.parametrize("how", ["stream", "raw"])
def test_reuse(make: Any, how: str) -> None:
    """A finished stream's connection carries the next one, though the body's end came after the marker."""
    with Loopback(kept) as server:
        ask = make(server.url)
        for _ in range(5):
            if how == "stream":
                assert "hello" == ask.done(ask.stream()).text
            else:
                chunks = ask.raw()
                assert ["", "hel", "lo"] == [ask.next(chunks).text for _ in range(3)]
                ask.leave(chunks)
        assert 1 == server.connections


def test_no_end_of_the_body(make: Any) -> None:
    """A body that does not end after its marker costs the connection, not the answer."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunk(STREAM))
        peer.wait_for_close()

    with Loopback(play) as server:
        ask = make(server.url)
        assert "hello" == ask.done(ask.stream()).text
        assert server.ended.acquire(timeout=10)
        assert "complete" == ask.done(ask.stream()).info.ended
        assert 2 == server.connections


@pytest.mark.parametrize("how", ["leave", "drop"])
def test_leaving(make: Any, how: str) -> None:
    """Leaving a stream in the middle, or dropping it, closes the connection: the server sees it."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunk(ROLE + HEL))
        peer.wait_for_close()

    with Loopback(play) as server:
        ask = make(server.url)
        for begin in (ask.stream, ask.raw):
            stream = begin()
            ask.next(stream)
            if how == "leave":
                ask.leave(stream)
            del stream
            gc.collect()
            if isinstance(ask, OnAsyncio):
                ask.run(asyncio.sleep(0))
            assert server.ended.acquire(timeout=10)


def test_both_in_one_segment(make: Any) -> None:
    """Content and an error in one segment: first the content, then the error, and nothing is tried again."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunk(ROLE + HEL + b'data: {"error": "server is busy"}\n\n'))
        peer.wait_for_close()

    with Loopback(play) as server, no_waiting():
        ask = make(server.url)
        stream = ask.stream()
        assert "hel" == ask.next(stream).delta
        with pytest.raises(gpt.OverloadedError) as caught:
            ask.next(stream)
        assert caught.value.partial is not None
        assert "hel" == caught.value.partial.text == stream.snapshot.text
        with pytest.raises(gpt.InvalidRequestError, match="broke off.*server is busy"):
            _ = stream.completion
        with pytest.raises((StopIteration, StopAsyncIteration)):
            ask.next(stream)
        assert 1 == len(server.requests)


def test_role_twice(make: Any) -> None:
    """What came before the first content of a failed attempt is not given: the role comes once."""
    tries = iter([ROLE + b'data: {"error": "server is busy"}\n\n', ROLE, STREAM])

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunk(next(tries)) + b"0\r\n\r\n")

    with Loopback(play) as server, no_waiting():
        ask = make(server.url)
        chunks = ask.raw()
        assert ["", "hel", "lo"] == [ask.next(chunks).text for _ in range(3)]
        reasons = [attempt.reason.partition(":")[0] for attempt in chunks.info.attempts]
        assert ["OverloadedError", "StreamTruncatedError", "ok"] == reasons
        assert chunks.info.first_token is not None


@pytest.mark.parametrize(
    ("before", "timeout", "settings", "phase"),
    [
        (ROLE, Timeout(first_byte=0.1, idle=30), {}, "first_token"),
        (ROLE + HEL, Timeout(first_byte=30, idle=0.1), {}, "read"),
        (ROLE, Timeout(first_byte=30, idle=30), {"deadline": 0.1}, "deadline"),
        (ROLE + HEL, Timeout(first_byte=30, idle=30), {"deadline": 0.2}, "deadline"),
        (b"", Timeout(first_byte=0.1, idle=30), {}, "first_token"),
    ],
)
@pytest.mark.parametrize("pings", [True, False])
def test_clocks(make: Any, before: bytes, timeout: Timeout, settings: Any, phase: str, pings: bool) -> None:
    """Each clock of a stream runs out in its phase, in silence and under pings, which are no content."""
    over = threading.Event()

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + (chunk(before) if before else b""))
        while pings and not over.wait(0.01):
            peer.send(chunk(b": ping\n\n"))
        peer.wait_for_close()

    with Loopback(play) as server:
        ask = make(server.url, timeout=timeout, max_retries=0, **settings)
        with pytest.raises(gpt.RequestTimeoutError) as caught:
            ask.done(ask.stream())
        over.set()
    assert phase == caught.value.phase
    assert "127.0.0.1" in str(caught.value)
    assert (HEL in before) == (caught.value.partial is not None)


def test_a_slow_reader_is_not_a_slow_server(make: Any) -> None:
    """Time in which nobody reads does not count: what has come meanwhile is given, and the clock then begins anew."""
    go, sent = threading.Event(), threading.Event()

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunk(ROLE + HEL))
        go.wait(10)
        peer.send(chunk(LO + b"data: [DONE]\n\n") + b"0\r\n\r\n")
        sent.set()

    with Loopback(play) as server:
        ask = make(server.url, timeout=Timeout(idle=0.05), max_retries=0)
        stream = ask.stream()
        ask.next(stream)
        if isinstance(ask, OnAsyncio):
            ask.run(asyncio.sleep(0.2))  # the loop runs, and nobody reads
        else:
            threading.Event().wait(0.2)
        go.set()
        sent.wait(10)
        assert "hello" == ask.done(stream).text


def test_deadline_while_data_comes(make: Any) -> None:
    """The deadline holds also while content keeps coming, and for a reader who comes late."""
    over = threading.Event()

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunk(ROLE))
        while not over.is_set():
            peer.send(chunk(HEL))

    with Loopback(play) as server:
        ask = make(server.url, deadline=0.2, max_retries=0)
        with pytest.raises(gpt.RequestTimeoutError) as caught:
            ask.done(ask.stream())
        over.set()
    assert "deadline" == caught.value.phase


def test_after_the_finish_reason(make: Any) -> None:
    """A server that falls silent, or breaks, after the finish reason has answered."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunk(ROLE + HEL + LO))
        if len(server.requests) > 1:
            peer.reset()
        else:
            peer.wait_for_close()

    with Loopback(play) as server:
        ask = make(server.url, timeout=Timeout(idle=0.1))
        for _ in range(2):
            made = ask.done(ask.stream())
            assert ("hello", "unmarked") == (made.text, made.info.ended)


def test_profile(make: Any) -> None:
    """A server that always breaks off is believed where its profile says so."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunk(ROLE + HEL))

    with Loopback(play) as server:
        made = (ask := make(server.url, profile=Profile(may_break_off=True))).done(ask.stream())
        assert ("hel", "truncated") == (made.text, made.info.ended)
        with pytest.raises(gpt.StreamTruncatedError) as caught:
            (ask := make(server.url)).done(ask.stream())
        assert caught.value.partial is not None
        assert "hel" == caught.value.partial.text


def test_usage_is_asked_for(make: Any) -> None:
    """`chat.stream` asks for usage where the profile allows; raw chunks send only what they were given."""
    with Loopback(kept) as server:
        ask = make(server.url, profile=Profile(streams_usage=True))
        ask.done(ask.stream())
        chunks = ask.raw()
        ask.leave(chunks)
        plain = make(server.url)
        plain.done(plain.stream())
        assert [True, False, False] == [b"include_usage" in body for _, body in server.requests]


def test_one_event_in_a_thousand_pieces(make: Any) -> None:
    """An event that comes a byte at a time is one event."""
    text = "word " * 200
    event = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":"stop"}]}\n\n' % text.encode()
    assert len(event) > 1000

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD)
        for place in range(len(event)):
            peer.send(chunk(event[place : place + 1]))
        peer.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    with Loopback(play) as server:
        ask = make(server.url)
        chunks = ask.raw()
        assert text == ask.next(chunks).text


def test_cancel_at_every_await() -> None:
    """Wherever a task that reads a stream is cancelled, nothing is left behind and the next stream works."""

    def play(peer: Peer) -> None:
        while True:
            peer.read_request()
            peer.send(HEAD + chunk(ROLE))
            for part in (HEL, LO, b"data: [DONE]\n\n"):
                peer.send(chunk(part))
            peer.send(b"0\r\n\r\n")

    async def read(client: AsyncGpt, raw: bool) -> str:
        if raw:
            chunks = await client.chat.completions.create(messages=ASKED, stream=True)
            return "".join([one.text async for one in chunks])
        async with client.chat.stream(ASKED) as stream:
            return "".join([piece async for piece in stream.text_stream])

    async def run(url: str, raw: bool) -> int:
        steps = 0
        async with AsyncGpt(server_url=url, model="m") as client:
            for steps in range(1, 300):
                task = asyncio.ensure_future(read(client, raw))
                for _ in range(steps):
                    await asyncio.sleep(0)
                    if task.done():
                        break
                if task.done():
                    assert "hello" == await task
                    break
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert "hello" == await read(client, raw)
            assert {asyncio.current_task()} == asyncio.all_tasks()
        return steps

    with Loopback(play) as server:
        for raw in (False, True):
            assert 1 < asyncio.run(run(server.url, raw)) < 299


def test_events_are_what_the_server_sent() -> None:
    """The stream of these tests has what they say."""
    assert ["", "hel", "lo"] == [event["choices"][0]["delta"]["content"] for event in EVENTS]
