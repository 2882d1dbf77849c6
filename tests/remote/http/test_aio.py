"""What only the asyncio transport must do: cancellation, many tasks, several event loops."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from gpt.errors import ConnectError
from gpt.remote.http.aio import AsyncHttpTransport
from gpt.testing.loopback import Loopback, Peer, always, answer, serving

from transports import request


def half(peer: Peer) -> None:
    """An answer that stops in the middle; tells when it has got there."""
    peer.read_request()
    peer.server.reached.release()  # type: ignore[attr-defined]
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal")
    peer.wait_for_close()


def silent(peer: Peer) -> None:
    peer.read_request()
    peer.server.reached.release()  # type: ignore[attr-defined]
    peer.wait_for_close()


@pytest.mark.parametrize("play", [silent, half])
def test_cancel_while_waiting(play: object) -> None:
    """Cancelling a task closes its connection at once, and the transport works on."""

    async def run(server: Loopback) -> None:
        transport = AsyncHttpTransport()
        task = asyncio.create_task(transport.send(request(server.port)))
        assert await asyncio.to_thread(server.reached.acquire, timeout=10)  # type: ignore[attr-defined]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.ended.acquire, timeout=10)
        server.play = always(answer(b"a"))
        assert (await transport.send(request(server.port))).body == b"a"
        await transport.close()

    server = Loopback(play)  # type: ignore[arg-type]
    server.reached = threading.Semaphore(0)  # type: ignore[attr-defined]
    with server:
        asyncio.run(run(server))


def test_cancel_at_every_await() -> None:
    """Wherever a call is cancelled, nothing is left behind and the next call works."""

    async def run(server: Loopback) -> int:
        transport = AsyncHttpTransport()
        steps = 0
        for steps in range(1, 200):
            task = asyncio.ensure_future(transport.send(request(server.port)))
            for _ in range(steps):  # so many turns of the loop, then cancel
                await asyncio.sleep(0)
                if task.done():
                    break
            if task.done():
                assert (await task).body == b"a"
                break
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await transport.send(request(server.port))).body == b"a"
            await asyncio.sleep(0)
        await transport.close()
        return steps

    with serving(answer(b"a")) as server:
        assert asyncio.run(run(server)) < 199


def test_cancel_a_stream() -> None:
    """Cancelling while a piece is awaited closes the connection."""

    async def run(server: Loopback) -> None:
        transport = AsyncHttpTransport()
        stream = await transport.open(request(server.port))
        assert await stream.read() == b"hal"
        task = asyncio.create_task(stream.read())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.ended.acquire, timeout=10)
        assert await stream.read() == b""
        await transport.close()

    server = Loopback(half)
    server.reached = threading.Semaphore(0)  # type: ignore[attr-defined]
    with server:
        asyncio.run(run(server))


def test_many_tasks() -> None:
    """Hundreds of tasks share a transport: each gets its own answer, over no more connections than tasks."""

    def play(peer: Peer) -> None:
        while True:
            _, body = peer.read_request()
            peer.send(answer(body))

    async def run(server: Loopback) -> None:
        transport = AsyncHttpTransport()

        async def work(number: int) -> None:
            for turn in range(5):
                body = b"%d-%d" % (number, turn)
                assert body == (await transport.send(request(server.port, body))).body

        await asyncio.gather(*(work(number) for number in range(200)))
        await transport.close()

    with Loopback(play) as server:
        asyncio.run(run(server))
        assert server.connections <= 200


def test_two_loops() -> None:
    """One transport lives through several event loops, and leaves no warning behind."""
    with serving(answer(b"a")) as server:
        transport = AsyncHttpTransport()
        for number in range(3):
            assert asyncio.run(transport.send(request(server.port))).body == b"a"
            assert server.ended.acquire(timeout=10)
            assert number + 1 == server.connections
        del transport
        gc.collect()


def test_loop_closed_by_hand() -> None:
    """A loop that was closed without shutting down is survived too."""
    with serving(answer(b"a")) as server:
        transport = AsyncHttpTransport()
        for _ in range(2):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(transport.send(request(server.port))).body == b"a"
            loop.close()
        assert asyncio.run(transport.send(request(server.port))).body == b"a"
        asyncio.run(transport.close())
        del transport, loop
        gc.collect()


def test_two_threads() -> None:
    """One transport serves event loops in several threads at once."""
    with serving(answer(b"a")) as server:
        transport = AsyncHttpTransport()
        bodies: list[bytes] = []

        async def run() -> None:
            for _ in range(20):
                bodies.append((await transport.send(request(server.port))).body)

        threads = [threading.Thread(target=asyncio.run, args=(run(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [b"a"] * 80 == bodies


def test_unasked() -> None:
    """What a server sends without being asked closes the connection, and is no answer to the next request."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer(b"a"))
        if peer.server.connections == 1:
            peer.send(answer(b"unasked"))
            peer.wait_for_close()

    async def run(server: Loopback) -> None:
        transport = AsyncHttpTransport()
        assert (await transport.send(request(server.port))).body == b"a"
        assert await asyncio.to_thread(server.ended.acquire, timeout=10)
        assert (await transport.send(request(server.port))).body == b"a"
        await transport.close()

    with Loopback(play) as server:
        asyncio.run(run(server))


def test_dropped_in_a_running_loop() -> None:
    """A transport that is dropped closes what is idle, without a warning."""

    async def run(server: Loopback) -> None:
        transport = AsyncHttpTransport()
        await transport.send(request(server.port))
        del transport
        gc.collect()
        assert await asyncio.to_thread(server.ended.acquire, timeout=10)

    with serving(answer(b"a")) as server:
        asyncio.run(run(server))


def test_error_in_a_group() -> None:
    """A refused connection is one plain error, also where asyncio tried several addresses."""
    from gpt.testing.loopback import closed_port

    async def run() -> None:
        with pytest.raises(ConnectError, match="connection refused"):
            await AsyncHttpTransport().send(request(closed_port(), host="localhost"))

    asyncio.run(run())
