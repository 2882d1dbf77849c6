"""Our HTTP/1.1 on asyncio.

The same rules as `blocking.py`: a request takes an idle connection or makes one; a taken one that breaks before a byte of the
answer has come is replaced once, for free. Cancelling closes the connection at once, at whatever await.

Connections belong to the event loop that made them: each loop has a pool of its own, which goes with it, so that one client
lives through several `asyncio.run`. A connection has one timer, set back rather than made anew for each call.
"""

from __future__ import annotations

import asyncio
import time
import warnings
import weakref
from collections import deque
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from gpt.errors import InvalidRequestError, RequestTimeoutError, TransportError
from gpt.protocol.wire import Headers, HttpRequest, HttpResponse, Origin, Seconds, Timeout
from gpt.remote.http.clock import StreamClock
from gpt.remote.http.connect import Network, aconnect, broken_error, place_of, shorter, timeout_error
from gpt.remote.http.parse import HeadWriter, ResponseReader
from gpt.remote.http.pool import Pool, StaleError
from gpt.remote.http.proxy import Proxy, proxy_for

if TYPE_CHECKING:
    from gpt.protocol.wire import AsyncHttpStream

_READ = 65536
"""Bytes read at a time."""

_AHEAD = 1024 * 1024
"""Bytes of a streamed body that may wait to be read before the server is held back."""


class AsyncConnection(asyncio.BufferedProtocol):
    """A connection with the reader of its answers. At most one task waits for it at a time.

    A buffered protocol, because asyncio reads for the other kind into 256 KiB made anew each time, which costs more CPU than
    everything else here together.
    """

    def __init__(self, origin: Origin, pool: _LoopPool, proxy: Proxy | None = None) -> None:
        self.origin = origin
        self.proxy = proxy
        self.pool = pool
        self.where = place_of(origin, proxy)
        self.reader = ResponseReader(self.where)
        self.loop = pool.loop
        self.transport: asyncio.Transport
        self.closed = False
        self.begun = 0.0
        self.first_byte: float | None = None
        self._busy = False
        self._reused = False
        self._streamed = False
        self._asked = 0.0
        self.stream_clock: StreamClock | None = None
        self._held_back = False
        self._ahead = 0
        self._problem: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timeout = Timeout()
        self._phase = "first_byte"
        self._due: float | None = None
        self._until: float | None = None  # when the whole call must be over
        self._deadline: Seconds | None = None
        self._timer: asyncio.TimerHandle | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        return self.pool.buffer  # one for all connections of a loop: it is read before another is

    def buffer_updated(self, nbytes: int) -> None:
        if not self._busy:
            self.abort()  # nobody asked
            return
        data = bytes(self.pool.buffer[:nbytes])
        if self.first_byte is None:
            self.first_byte = time.perf_counter()
        reader = self.reader
        try:
            reader.feed(data)
        except TransportError as error:
            self._fail(error)
            return
        if reader.done:
            self._due = None
        elif self._streamed and reader.head:
            self._due = None  # the clocks of a stream run while it is waited for
            self._ahead += nbytes
            if self._ahead > _AHEAD and not self._held_back:
                self._held_back = True
                self.transport.pause_reading()
        else:
            self._clock("read", self._timeout.idle)
            if not reader.head or self._waiter is None:
                return
        if reader.done or (self._streamed and reader.head):
            self._wake()

    def eof_received(self) -> bool:
        self._ended(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.pool.free(self)

    def pause_writing(self) -> None:
        self._clock("write", self._timeout.write)

    def resume_writing(self) -> None:
        if self._phase == "write":
            self._clock("first_byte", self._timeout.first_byte)

    def _ended(self, exc: Exception | None) -> None:
        """The server has closed the connection, or it broke."""
        self.closed = True
        if not self._busy or self.reader.done or self._problem is not None:
            return
        if self._reused and self.first_byte is None:
            self._fail(StaleError())
        elif isinstance(exc, OSError):
            self._fail(broken_error(exc, "first_byte" if self.first_byte is None else "read", self.where))
        else:
            try:
                self.reader.end()
            except TransportError as error:
                self._fail(error)
            else:
                self._wake()

    def _fail(self, problem: Exception) -> None:
        self._problem = problem
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Clocks.

    def _clock(self, phase: str, seconds: Seconds | None) -> None:
        """From now on, `phase` may last `seconds`."""
        due = None if seconds is None else self.loop.time() + seconds
        if self._until is not None and (due is None or due > self._until):
            phase, due = "deadline", self._until
        self._phase = phase
        self._due = due
        if due is None:
            return
        timer = self._timer
        if timer is None or timer.when() > due:
            if timer is not None:
                timer.cancel()
            self._timer = self.loop.call_at(due, self._tick)

    def _tick(self) -> None:
        """The timer has run out: either time is up, or it was set back since."""
        self._timer = None
        if self._due is None:
            return
        if self._due > self.loop.time():
            self._timer = self.loop.call_at(self._due, self._tick)
            return
        first = self._timeout.first_byte
        clocks = {"write": self._timeout.write, "first_byte": first, "first_token": first, "deadline": self._deadline}
        seconds = clocks.get(self._phase, self._timeout.idle)
        self._fail(timeout_error(self._phase, self.where, seconds))

    # What the transport calls.

    def send(self, data: bytes, request: HttpRequest, spent: Seconds, *, reused: bool, streamed: bool) -> None:
        """Begin an exchange, `spent` seconds after the start of the call."""
        timeout = request.timeout
        self._deadline = request.deadline
        self._until = None if request.deadline is None else self.loop.time() + request.deadline - spent
        self.reader.start()
        self.first_byte = None
        self._busy, self._reused, self._streamed = True, reused, streamed
        if streamed:
            self._asked = self.loop.time()
        self._problem = None
        self._ahead = 0
        self._timeout = timeout
        self._clock("first_byte", timeout.first_byte)
        self.transport.write(data)

    def news(self) -> asyncio.Future[None]:
        """Done when there is news: the whole answer, or for a stream its head or a piece; `check` says whether it is good."""
        waiter = self._waiter = self.loop.create_future()
        if self._problem is not None:
            waiter.set_result(None)
        return waiter

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        self._waiter = None
        if self._problem is not None:
            raise self._problem

    async def piece(self) -> bytes:
        """The next piece of the body; b"" at its end."""
        reader = self.reader
        clock = self.stream_clock
        if clock is None:
            clock = self.stream_clock = StreamClock(self._timeout, self.loop.time() - self._asked)
        while True:
            piece = reader.take()
            if self._held_back:
                self._held_back = False
                self.transport.resume_reading()
            self._ahead = 0
            if reader.done:
                return piece
            began = self.loop.time()
            if self._until is not None and began >= self._until:
                raise timeout_error("deadline", self.where, self._deadline)
            if piece:
                return piece
            if self._problem is None:
                self._clock(clock.phase, clock.left)
            await self.news()
            self._due = None
            clock.waited += self.loop.time() - began
            self.check()

    def finish(self) -> bool:
        """End an exchange whose answer has been read. Gives whether the connection can carry another."""
        self._busy = False
        self._due = self.stream_clock = None
        return self.reader.keep and not self.closed

    def abort(self) -> None:
        """Close at once. Safe from any thread."""
        self._busy = False
        self._due = None
        self.closed = True
        transport = self.transport
        if self.loop.is_closed():
            _drop(transport)
            return
        try:
            here = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            here = False
        if here:
            transport.abort()
        else:
            self.loop.call_soon_threadsafe(transport.abort)


def _drop(transport: Any) -> None:
    """Close the socket of a transport whose loop is gone, without a word: nobody can close it properly any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        sock = getattr(transport, "_sock", None)
        if sock is not None:
            sock.close()
            transport._sock = None
        inner = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
        if inner is not None:
            transport._closed = True
            _drop(inner)


class _LoopPool:
    """The connections of one event loop. They are closed when the loop shuts down."""

    def __init__(self, network: Network) -> None:
        self.loop = asyncio.get_running_loop()
        self.idle: Pool[AsyncConnection] = Pool(network.max_idle, network.idle_seconds, network.max_connections)
        self.buffer = memoryview(bytearray(_READ))
        self.waiting: deque[asyncio.Future[None]] = deque()
        self._keeper = self._keep()

    async def begin(self) -> None:
        # A loop that shuts down closes its asynchronous generators first, while connections can still be closed properly.
        await anext(self._keeper)

    async def _keep(self) -> AsyncGenerator[None]:
        idle = self.idle
        try:
            yield
        finally:
            for connection in idle.clear():
                connection.abort()

    def take(self, origin: Origin) -> AsyncConnection | None:
        """An idle connection that still stands."""
        while (connection := self.idle.take(origin)) is not None and connection.closed:
            self.free(connection)
        return connection

    async def turn(self, origin: Origin) -> AsyncConnection | None:
        """Wait until a connection is free, which is given, or there is room for a new one: None."""
        first = True
        while True:
            if not (first and self.waiting):
                connection = self.take(origin)
                if connection is not None or self.idle.has_room:
                    return connection
                oldest = self.idle.take_oldest()
                if oldest is not None:
                    oldest.abort()
                    self.idle.places.discard(oldest)
                    continue
            waiter = self.loop.create_future()
            # One that was woken and came too late keeps its turn.
            (self.waiting.append if first else self.waiting.appendleft)(waiter)
            first = False
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():
                    self.wake()  # it was meant for one that does not wait any more
                else:
                    self.waiting.remove(waiter)
                raise

    def free(self, connection: AsyncConnection) -> None:
        """Give back the place of a connection that is gone."""
        if connection in self.idle.places:
            self.idle.places.discard(connection)
            self.wake()

    def wake(self) -> None:
        """Tell the one that has waited longest that something is free."""
        if self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
            else:
                self.wake()


class AsyncHttpTransport:
    """The way out for clients on asyncio."""

    def __init__(self, network: Network | None = None) -> None:
        self.network = network or Network()
        self._closed = False
        self._heads = HeadWriter()
        self._recent: _LoopPool | None = None
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPool] = weakref.WeakKeyDictionary()

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Send, and read the whole answer. Raises TransportError, and InvalidRequestError for what cannot be sent."""
        started = time.perf_counter()
        try:
            connection, pool = await self._exchange(request, started, streamed=False)
        except TransportError as error:
            error.elapsed = time.perf_counter() - started
            raise
        reader = connection.reader
        first_byte = (connection.first_byte or started) - started
        response = HttpResponse(reader.status, reader.headers, reader.take(), time.perf_counter() - started, first_byte)
        self._release(connection, pool)
        return response

    async def open(self, request: HttpRequest) -> AsyncHttpStream:
        """Send, and read the head of the answer. Raises as `send` does."""
        started = time.perf_counter()
        try:
            connection, pool = await self._exchange(request, started, streamed=True)
        except TransportError as error:
            error.elapsed = time.perf_counter() - started
            raise
        return AsyncBodyStream(self, connection, pool)

    async def _exchange(self, request: HttpRequest, started: float, *, streamed: bool) -> tuple[AsyncConnection, _LoopPool]:
        """A connection over which the request has gone out and the answer, or for a stream its head, has come."""
        if self._closed:
            raise InvalidRequestError("the client is closed; make a new one")
        pool = self._recent
        if pool is None or pool.loop is not asyncio.get_running_loop():
            pool = self._recent = await self._pool()
        connection = None if pool.waiting else pool.take(request.origin)
        reused = connection is not None
        while True:
            if connection is None:
                connection, reused = await self._connect(pool, request, started)
            try:
                data = self._heads.write(request, connection.proxy)
                connection.send(data, request, time.perf_counter() - started, reused=reused, streamed=streamed)
                await connection.news()
                connection.check()
            except StaleError:
                connection.abort()
                connection = None
            except BaseException:
                connection.abort()
                raise
            else:
                return connection, pool

    async def _connect(self, pool: _LoopPool, request: HttpRequest, started: float) -> tuple[AsyncConnection, bool]:
        """A new connection, as soon as there is room for one; or, with True, one that became free in the meantime."""
        origin, clocks = request.origin, request.timeout
        if pool.waiting or not pool.idle.has_room:
            limit = shorter(clocks.first_byte, _left(request, started))
            try:
                async with asyncio.timeout(limit):
                    free = await pool.turn(origin)
            except TimeoutError as error:
                over = _left(request, started) == 0
                phase, seconds = ("deadline", request.deadline) if over else ("pool", clocks.first_byte)
                raise timeout_error(phase, place_of(origin, None), seconds) from error
            if free is not None:
                return free, True
        proxy = proxy_for(origin, self.network.proxy)
        connection = AsyncConnection(origin, pool, proxy)
        pool.idle.places.add(connection)
        try:
            await aconnect(connection, origin, self.network, shorter(clocks.connect, _left(request, started)), proxy)
        except BaseException as error:
            pool.free(connection)
            if isinstance(error, RequestTimeoutError) and _left(request, started) == 0:
                raise timeout_error("deadline", connection.where, request.deadline) from error
            raise
        return connection, False

    async def _pool(self) -> _LoopPool:
        """The pool of the running loop; those of loops that are gone are dropped."""
        for loop in list(self._pools):
            if loop.is_closed():
                for connection in self._pools.pop(loop).idle.clear():
                    connection.abort()
        here = asyncio.get_running_loop()
        pool = self._pools.get(here)
        if pool is None:
            pool = self._pools[here] = _LoopPool(self.network)
            await pool.begin()
        return pool

    def _release(self, connection: AsyncConnection, pool: _LoopPool) -> None:
        """Keep a connection whose answer has been read, if it can be used again."""
        if not connection.finish() or self._closed:
            connection.abort()
            return
        for other in pool.idle.put(connection.origin, connection, time.monotonic()):
            other.abort()
        if pool.waiting:
            pool.wake()

    async def close(self) -> None:
        """Close what is idle; what is in use closes when its answer has been read."""
        self._close()
        await asyncio.sleep(0)  # asyncio closes a socket one turn after it was told to

    def _close(self) -> None:
        self._closed = True
        for pool in list(self._pools.values()):
            for connection in pool.idle.clear():
                connection.abort()

    def __del__(self) -> None:
        if hasattr(self, "_pools"):
            self._close()


def _left(request: HttpRequest, started: float) -> Seconds | None:
    """Seconds until the call must be over; None where it need not."""
    return None if request.deadline is None else max(0.0, request.deadline - (time.perf_counter() - started))


class AsyncBodyStream:
    """The body of an answer as it comes. The connection goes back when the body has ended, else it is closed."""

    def __init__(self, transport: AsyncHttpTransport, connection: AsyncConnection, pool: _LoopPool) -> None:
        self._transport = transport
        self._connection: AsyncConnection | None = connection
        self._pool = pool
        self.status: int = connection.reader.status
        self.headers: Headers = connection.reader.headers

    async def read(self) -> bytes:
        """The next piece of the body, decoded; b"" at its end. Raises TransportError."""
        connection = self._connection
        if connection is None:
            return b""
        try:
            piece = await connection.piece()
        except BaseException:
            await self.close()
            raise
        if connection.reader.done and self._connection is not None:
            self._connection = None
            self._transport._release(connection, self._pool)
        return piece

    def news(self) -> None:
        """What was read last was worth waiting for: the idle clock begins anew."""
        if self._connection is not None and self._connection.stream_clock is not None:
            self._connection.stream_clock.news()

    async def finish(self) -> None:
        """Nothing more is wanted: keep the connection if the body ends within a moment, else close it."""
        if self._connection is not None and self._connection.stream_clock is not None:
            self._connection.stream_clock.hurry()
        try:
            if await self.read():
                await self.read()
        except TransportError:
            pass  # it is closed
        await self.close()

    async def close(self) -> None:
        """End the exchange at once: the server sees the connection closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def __del__(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
