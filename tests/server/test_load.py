"""Far more callers than there is room for: everybody is answered, and nothing of them is kept, whether they stay or leave.

`GPT_SOAK=N` plays each N times, with ten times as many callers.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from gpt.server.app import App
from gpt.server.asgi import Exchange
from gpt.server.chat import Call
from gpt.server.events import EventStream
from gpt.testing import AsyncScripted

from serving import HELLO, PATIENCE, Served, serving

SOAK = int(os.environ.get("GPT_SOAK", "0"))
ROUNDS = SOAK or 2
CALLERS = 2000 if SOAK else 200
SLOTS, QUEUE = 4, 16
ANSWER = "the longest of all rivers is the Nile"


class Gated(AsyncScripted):
    """A model that says nothing before the gate is open, and then lets others have their turn between two words."""

    def __init__(self) -> None:
        super().__init__(ANSWER)
        self.gate = asyncio.Event()

    async def complete(self, *asked: Any) -> Any:
        await self.gate.wait()
        return await super().complete(*asked)

    async def stream(self, *asked: Any) -> Any:
        await self.gate.wait()
        return Stepping(await super().stream(*asked))


class Stepping:
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.close = stream.close

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        return await self._stream.__anext__()


def asked(*, streamed: bool) -> bytes:
    """The bytes of a call."""
    body = json.dumps({**HELLO, "stream": streamed}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n" % len(body) + body
    )


async def whole(server: Served, sent: bytes) -> bytes:
    """What one caller is answered who waits for all of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    said = await reader.read()
    writer.close()
    return said


def verdict(said: bytes) -> str:
    """The status of an answer; "unanswered" where it is not all there, "untold" where it does not say when to come back."""
    head, _, body = said.partition(b"\r\n\r\n")
    if b"text/event-stream" in head:
        ended = body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    else:
        ended = bool(body) and f"content-length: {len(body)}".encode() in head
    if not ended:
        return "unanswered"
    status = head[9:12].decode()
    return "untold" if status == "429" and b"\r\nretry-after: " not in head else status


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE * max(1, SOAK)):
            await work

    asyncio.run(bounded())


def held() -> list[Any]:
    """What there is of callers in memory."""
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, (Exchange, EventStream, Call))]


@pytest.fixture
def crowded(request: pytest.FixtureRequest) -> Iterator[tuple[Served, Gated]]:
    """A server with few slots; at the end nothing of any caller may be left in it."""
    earlier = held()  # by what other tests left: kept, so that no new one can have its place
    backend = Gated()
    app = App(backend, slots=SLOTS, queue=request.param)
    with serving(app) as server:
        before = server.call(lambda: len(asyncio.all_tasks()))
        yield server, backend
        server.until(lambda: not app._calls and before >= len(asyncio.all_tasks()))
        assert (0, 0) == (app.line.running, app.line.waiting)
        assert 0 == app.metrics.open._value.get()
        assert all(stream.closed for stream in backend.script.streams)
        server.until(lambda: not server.server.server_state.connections)
        assert [] == [type(left) for left in held() if not any(left is other for other in earlier)]


@pytest.mark.parametrize("crowded", [QUEUE], indirect=True)
def test_far_past_capacity(crowded: tuple[Served, Gated]) -> None:
    """Of many at once as many are answered as there are slots and places; each other is told when to come back, at once."""
    server, backend = crowded

    async def crowd() -> None:
        calls = [asyncio.ensure_future(whole(server, asked(streamed=number % 2 == 0))) for number in range(CALLERS)]
        answers = asyncio.as_completed(calls)
        refused = Counter([verdict(await next(answers)) for _ in range(CALLERS - SLOTS - QUEUE)])
        assert {"429": CALLERS - SLOTS - QUEUE} == refused
        assert (SLOTS, QUEUE) == (server.app.line.running, server.app.line.waiting)
        server.call(backend.gate.set)
        assert {"200": SLOTS + QUEUE} == Counter([verdict(await answer) for answer in answers])

    for number in range(ROUNDS):
        server.call(backend.gate.clear)
        run(crowd())
        assert (number + 1) * (SLOTS + QUEUE) == len(backend.script.asked)
        server.until(lambda: not server.app._calls)


MOMENTS = ("amid the request", "at once", "when asked", "after some words", "never")


async def leaving(server: Served, moment: str, chance: random.Random, asking: asyncio.Event, going: asyncio.Event) -> str:
    """One caller who leaves at a moment, by a close or a reset; what the answer was of one who stays."""
    sent = asked(streamed=chance.random() < 0.5 or moment == "after some words")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    if chance.random() < 0.5:
        made = writer.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(sent[: chance.randrange(len(sent))] if moment == "amid the request" else sent)
    await writer.drain()
    if moment == "when asked":
        await asking.wait()
    elif moment == "after some words":
        await going.wait()
        await reader.readexactly(chance.randrange(1, 400))
    elif moment == "never":
        await going.wait()
        said = await reader.read()
        writer.close()
        return verdict(said)
    writer.close()
    return "left"


@pytest.mark.parametrize("crowded", [10 * CALLERS], indirect=True)
def test_leaving_at_random(crowded: tuple[Served, Gated]) -> None:
    """Callers leave at any moment: amid their request, in the queue, at their turn, amid the answer. The others are answered."""
    server, backend = crowded
    chance = random.Random(8)

    async def crowd() -> None:
        asking, going = asyncio.Event(), asyncio.Event()
        moments = chance.choices(MOMENTS, k=CALLERS)
        calls = [
            asyncio.ensure_future(leaving(server, moment, random.Random(number), asking, going))
            for number, moment in enumerate(moments)
        ]
        waiting = sum(moment in ("when asked", "after some words", "never") for moment in moments)
        everybody = lambda: server.app.line.running + server.app.line.waiting >= waiting  # noqa: E731
        await asyncio.to_thread(server.until, everybody)
        asking.set()
        staying = sum(moment in ("after some words", "never") for moment in moments)
        remain = lambda: server.app.line.running + server.app.line.waiting == staying  # noqa: E731
        await asyncio.to_thread(server.until, remain)  # who left is gone, though nothing has been said yet
        going.set()
        server.call(backend.gate.set)
        stay = moments.count("never")
        assert {"left": CALLERS - stay, "200": stay} == Counter(await asyncio.gather(*calls))

    for _ in range(ROUNDS):
        server.call(backend.gate.clear)
        run(crowd())
        server.until(lambda: not server.app._calls)
