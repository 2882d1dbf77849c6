"""The limit on open connections, on both transports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from gpt.errors import InvalidRequestError, RequestTimeoutError
from gpt.protocol.wire import Timeout
from gpt.remote.http.aio import AsyncHttpTransport
from gpt.remote.http.blocking import HttpTransport
from gpt.remote.http.connect import Network
from gpt.testing.loopback import Loopback, Peer, answer, serving

from transports import Blocking, OnAsyncio, request

Make = Callable[..., Blocking | OnAsyncio]
TWO = Network(max_connections=2)


class Counting:
    """Answers each request after the others had time to come, and knows how many it had at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __call__(self, peer: Peer) -> None:
        while True:
            _, body = peer.read_request()
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            peer.send(b"HTTP/1.1 200 OK\r\n")
            with self.lock:
                self.now -= 1
            peer.send(b"content-length: %d\r\n\r\n%b" % (len(body), body))


def test_threads() -> None:
    """Many threads share two connections, and each gets its own answer."""
    counting = Counting()
    wrong: list[object] = []
    with Loopback(counting) as server:
        transport = HttpTransport(TWO)

        def work(number: int) -> None:
            for turn in range(40):
                body = b"%d-%d" % (number, turn)
                got = transport.send(request(server.port, body)).body
                if got != body:
                    wrong.append((body, got))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert [] == wrong
        assert 2 == server.connections
        assert counting.most <= 2
        transport.close()


def test_tasks() -> None:
    """Many tasks share two connections, also when some are cancelled while they wait; nobody waits for ever."""

    async def run(port: int) -> None:
        transport = AsyncHttpTransport(TWO)

        async def work(number: int) -> None:
            for turn in range(20):
                body = b"%d-%d" % (number, turn)
                task = asyncio.ensure_future(transport.send(request(port, body)))
                if (number + turn) % 5 == 0:
                    for _ in range((number * turn) % 9):
                        await asyncio.sleep(0)
                    task.cancel()
                try:
                    assert body == (await task).body
                except asyncio.CancelledError:
                    pass

        async with asyncio.timeout(60):
            await asyncio.gather(*(work(number) for number in range(20)))
            await asyncio.gather(*(transport.send(request(port, b"x")) for _ in range(20)))
        pool = next(iter(transport._pools.values()))
        assert not pool.waiting
        assert len(pool.idle.places) <= 2
        await transport.close()

    counting = Counting()
    with Loopback(counting) as server:
        asyncio.run(run(server.port))
    assert counting.most <= 2


def half(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal")
    peer.wait_for_close()


def test_none_free(make: Make) -> None:
    """When no connection becomes free, a clock ends the wait and the error says what to do; leaving one makes room."""
    with Loopback(half) as server:
        way = make(Network(max_connections=1))
        stream = way.open(request(server.port))
        with pytest.raises(RequestTimeoutError, match="no connection to 127.0.0.1:.* became free within 0.05 s") as caught:
            way.send(request(server.port, timeout=Timeout(first_byte=0.05)))
        assert ("pool", False) == (caught.value.phase, caught.value.sent)
        way.end(stream)
        again = way.open(request(server.port))
        assert b"hal" == way.read(again)
        way.end(again)


def test_room_for_another_server(make: Make) -> None:
    """An idle connection to one server makes room for one to another."""
    with serving(answer(b"a")) as first, serving(answer(b"b")) as second:
        way = make(Network(max_connections=1))
        got = [way.send(request(server.port)).body for server in (first, second, first)]
        assert [b"a", b"b", b"a"] == got
        assert (2, 1) == (first.connections, second.connections)


def test_dropped_stream_makes_room(make: Make) -> None:
    """A stream that is dropped unread gives its place back."""
    with Loopback(half) as server:
        way = make(Network(max_connections=1))
        stream: Any = way.open(request(server.port))
        del stream
        way.end(way.open(request(server.port, timeout=5.0)))


def test_at_least_one() -> None:
    """A limit of none is refused."""
    with pytest.raises(InvalidRequestError, match="max_connections: expected at least 1, got 0"):
        Network(max_connections=0)
