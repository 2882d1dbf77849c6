"""A streamed answer on its way out: events, a comment where nothing else was sent for a while, and an end that tells how it
went.

The answer begins with the first event, so that what goes wrong before it still has a status of its own; or with the first
comment, because a caller who hears nothing for long gives up. From then on an error is an event, and never a cut connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from gpt.protocol import sse
from gpt.server.asgi import Exchange, Left

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
_LF, _CR = b"\n\r"  # looked for as numbers, which takes a fifth of the time

HEADERS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache, no-transform"),
    ("x-accel-buffering", "no"),  # nginx would hold events back
)


class EventStream:
    """The events of one answer. `ping` and `stall` are seconds: of silence before a comment, and for which a caller may read
    nothing before that counts as leaving.
    """

    def __init__(self, exchange: Exchange, ping: float, stall: float, headers: Callable[[], Sequence[tuple[str, str]]]) -> None:
        self._exchange = exchange
        self._ping = ping
        self._stall = stall
        self._headers = headers
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._sending = False
        self._comment: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(min(ping, stall), self._look)

    def event(self, data: bytes) -> Awaitable[None]:
        """Send one event, whose data is JSON."""
        # Given on, and not awaited here: each function that waits is run through at each event, by each stream.
        return self._send(b"data: " + data + b"\n\n" if _LF not in data and _CR not in data else sse.encode(data))

    async def _send(self, piece: bytes) -> None:
        if self._comment is not None:
            await self._comment  # it may be beginning the answer
            self._comment = None
        exchange = self._exchange
        self._sending = True
        self._last = self._loop.time()
        if not exchange.started:
            await exchange.begin(200, [*HEADERS, *self._headers()])
        await exchange.piece(piece)
        self._sending = False

    def _look(self) -> None:
        """Whether it is time for a comment, or the caller reads no more."""
        now = self._loop.time()
        if self._sending:
            if now - self._last >= self._stall:
                self._exchange.stop(Left())
                return
        elif now - self._last >= self._ping and (self._comment is None or self._comment.done()):
            self._comment = self._loop.create_task(self._say())
        self._timer = self._loop.call_later(min(self._ping, self._stall), self._look)

    async def _say(self) -> None:
        self._last = self._loop.time()
        if not self._exchange.started:
            await self._exchange.begin(200, [*HEADERS, *self._headers()])
        await self._exchange.piece(PING)

    async def done(self) -> None:
        """Say that this was all, and end."""
        await self._send(DONE)
        await self._exchange.end()

    def close(self) -> None:
        """Look no more, and say nothing that has not begun to be said."""
        self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()
