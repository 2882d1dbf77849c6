"""Our HTTP/1.1 on blocking sockets. May be shared by threads; after a fork the child makes connections of its own.

A request takes an idle connection or makes one. A taken one may have been closed by the server in the meantime: when it
breaks before a byte of the answer has come, the request is sent once more on a new connection, for free. Whatever else goes
wrong, Ctrl-C included, closes the connection.
"""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpt.errors import InvalidRequestError, RequestTimeoutError, TransportError
from gpt.protocol.wire import Headers, HttpRequest, HttpResponse, Origin, Seconds
from gpt.remote.http.clock import StreamClock
from gpt.remote.http.connect import Network, broken_error, connect, place_of, shorter, timeout_error
from gpt.remote.http.parse import HeadWriter, ResponseReader
from gpt.remote.http.pool import Pool, StaleError
from gpt.remote.http.proxy import Proxy, proxy_for

if TYPE_CHECKING:
    from gpt.protocol.wire import HttpStream

_READ = 65536
"""Bytes asked of the system at a time."""

_READABLE, _WRITABLE = 1, 4
"""POLLIN and POLLOUT, which Windows has no names for."""


class Connection:
    """A socket that never blocks, with the reader of its answers. All waiting is in `_wait`, so each clock is exact."""

    __slots__ = ("_poll", "_secure", "asked", "origin", "place", "proxy", "reader", "socket", "until", "where")

    def __init__(self, origin: Origin, sock: socket.socket, place: object, proxy: Proxy | None = None) -> None:
        self.origin = origin
        self.socket = sock
        self.place = place
        self.proxy = proxy
        self.where = place_of(origin, proxy)
        self.reader = ResponseReader(self.where)
        self._poll = _poller(sock)
        self._secure = origin.scheme == "https"
        self.until: float | None = None  # when the whole call must be over
        self.asked = 0.0  # when the last request went out

    def is_stale(self) -> bool:
        """Whether the server has closed it, or sent what nobody asked for: an idle connection has nothing to read."""
        if not self._poll(_READABLE, 0):
            return False
        try:
            self.socket.recv(1)
        except OSError as error:
            return not _wanted(error, _READABLE)  # TLS may have something to say of its own, such as a session ticket
        return True

    def _wait(self, events: int, phase: str, seconds: Seconds | None, request: HttpRequest, waited: Seconds = 0.0) -> None:
        """Until the socket is ready. Raises the error of the clock that ran out: the phase's, or the call's own.

        `waited` seconds of the phase's are over already.
        """
        limit = None if seconds is None else seconds - waited
        if self.until is not None:
            left = self.until - time.perf_counter()
            if limit is None or left < limit:
                phase, seconds, limit = "deadline", request.deadline, left
        if limit is None:
            self._poll(events, None)
        elif limit <= 0 or not self._poll(events, math.ceil(limit * 1000)):
            raise timeout_error(phase, self.where, seconds)

    def send(self, data: bytes, request: HttpRequest, *, reused: bool) -> None:
        """Send the request. Raises TransportError, or StaleError on a reused connection."""
        self.reader.start()
        self.asked = time.perf_counter()
        sent = 0
        while True:
            try:
                sent += self.socket.send(data if not sent else memoryview(data)[sent:])
            except OSError as error:
                events = _wanted(error, _WRITABLE)
                if not events:
                    if reused:
                        raise StaleError from error
                    raise broken_error(error, "write", self.where) from error
                self._wait(events, "write", request.timeout.write, request)
            else:
                if sent == len(data):
                    return

    def read_head(self, request: HttpRequest, *, reused: bool) -> None:
        """Read until the head has come. Raises TransportError, or StaleError when a reused connection ends before a byte."""
        reader = self.reader
        phase, seconds = "first_byte", request.timeout.first_byte
        while not reader.head:
            try:
                data = self._receive(phase, seconds, request)
            except OSError as error:
                if isinstance(error, TransportError):
                    raise
                if reused and phase == "first_byte":
                    raise StaleError from error
                raise broken_error(error, "first_byte", self.where) from error
            if not data:
                if reused and phase == "first_byte":
                    raise StaleError
                reader.end()
            reader.feed(data)
            phase, seconds = "read", request.timeout.idle

    def read_more(self, request: HttpRequest, clock: StreamClock | None = None) -> None:
        """Read one piece of the body. Raises TransportError."""
        try:
            if clock is None:
                data = self._receive("read", request.timeout.idle, request)
            else:
                began = time.perf_counter()
                data = self._receive(clock.phase, clock.limit, request, clock.waited)
                clock.waited += time.perf_counter() - began
        except OSError as error:
            if isinstance(error, TransportError):
                raise
            raise broken_error(error, "read", self.where) from error
        if data:
            self.reader.feed(data)
        else:
            self.reader.end()

    def _receive(self, phase: str, seconds: Seconds | None, request: HttpRequest, waited: Seconds = 0.0) -> bytes:
        """What the connection gives next; b"" at its end. Raises RequestTimeoutError, and OSError when it broke."""
        events = 0 if self._secure and self.socket.pending() else _READABLE  # type: ignore[attr-defined]
        while True:
            if events:
                self._wait(events, phase, seconds, request, waited)
            try:
                return self.socket.recv(_READ)
            except OSError as error:  # not ready after all: another reader's wake-up, or TLS that needs more
                events = _wanted(error, _READABLE)
                if not events:
                    raise

    def close(self) -> None:
        self.socket.close()


def _wanted(error: OSError, events: int) -> int:
    """What an operation that was not ready waits for; 0 when it failed. `events` is what it waits for without TLS."""
    if isinstance(error, BlockingIOError):
        return events
    # By name, so that plain connections do not load ssl.
    return {"SSLWantReadError": _READABLE, "SSLWantWriteError": _WRITABLE}.get(type(error).__name__, 0)


def _poller(sock: socket.socket) -> Callable[[int, int | None], object]:
    """A function that waits for events, so many milliseconds (None: for ever), and gives something true when one came."""
    if not hasattr(select, "poll"):  # Windows

        def wait(events: int, milliseconds: int | None) -> object:
            wanted = [sock]
            found = select.select(
                wanted if events == _READABLE else [],
                wanted if events == _WRITABLE else [],
                [],
                None if milliseconds is None else milliseconds / 1000,
            )
            return any(found)

        return wait
    poll = select.poll()
    poll.register(sock, _READABLE)
    registered = _READABLE

    def wait_polling(events: int, milliseconds: int | None) -> object:
        nonlocal registered
        if events != registered:
            poll.modify(sock, events)
            registered = events
        return poll.poll(milliseconds)

    return wait_polling


class HttpTransport:
    """The way out for blocking clients."""

    def __init__(self, network: Network | None = None) -> None:
        self.network = network or Network()
        self._closed = False
        self._heads = HeadWriter()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        network = self.network
        self._pool: Pool[Connection] = Pool(network.max_idle, network.idle_seconds, network.max_connections)
        # One that its holder may take again: a stream may be dropped, and give back its place, at any moment.
        self._lock = threading.RLock()
        self._freed = threading.Condition(self._lock)
        self._waiting = 0

    def send(self, request: HttpRequest) -> HttpResponse:
        """Send, and read the whole answer. Raises TransportError, and InvalidRequestError for what cannot be sent."""
        started = time.perf_counter()
        try:
            connection = self._exchange(request, started)
            first_byte = time.perf_counter() - started
            try:
                reader = connection.reader
                while not reader.done:
                    connection.read_more(request)
                response = HttpResponse(reader.status, reader.headers, reader.take(), time.perf_counter() - started, first_byte)
            except BaseException:
                self._discard(connection)
                raise
        except TransportError as error:
            error.elapsed = time.perf_counter() - started
            raise
        self._release(connection)
        return response

    def open(self, request: HttpRequest) -> HttpStream:
        """Send, and read the head of the answer. Raises as `send` does."""
        started = time.perf_counter()
        try:
            connection = self._exchange(request, started)
        except TransportError as error:
            error.elapsed = time.perf_counter() - started
            raise
        return BodyStream(self, connection, request)

    def _exchange(self, request: HttpRequest, started: float) -> Connection:
        """A connection over which the request has gone out and the head of its answer has come."""
        until = None if request.deadline is None else started + request.deadline
        connection = self._take(request)
        reused = connection is not None
        while True:
            if connection is None:
                connection, reused = self._connect(request, until)
            connection.until = until
            try:
                connection.send(self._heads.write(request, connection.proxy), request, reused=reused)
                connection.read_head(request, reused=reused)
            except StaleError:
                self._discard(connection)
                connection = None
            except BaseException:
                self._discard(connection)
                raise
            else:
                return connection

    def _take(self, request: HttpRequest) -> Connection | None:
        """An idle connection that still stands."""
        if self._closed:
            raise InvalidRequestError("the client is closed; make a new one")
        if os.getpid() != self._process:
            # A fork: the parent's connections are the parent's. They are forgotten, not closed: closing TLS would speak.
            self._inherited = self._pool
            self._begin()
        while True:
            with self._lock:
                connection = self._pool.take(request.origin)
            if connection is None or not connection.is_stale():
                return connection
            self._discard(connection)

    def _connect(self, request: HttpRequest, until: float | None) -> tuple[Connection, bool]:
        """A new connection, as soon as there is room for one; or, with True, one that became free in the meantime."""
        place: object = object()
        found = self._room(place, request, until)
        if found is not None:
            return found, True
        origin = request.origin
        try:
            proxy = proxy_for(origin, self.network.proxy)
            clock = request.timeout.connect
            limit = clock if until is None else shorter(clock, until - time.perf_counter())
            try:
                sock = connect(origin, self.network, limit, proxy)
            except RequestTimeoutError as error:
                if until is not None and time.perf_counter() >= until:
                    raise timeout_error("deadline", place_of(origin, proxy), request.deadline) from error
                raise
            return Connection(origin, sock, place, proxy), False
        except BaseException:
            self._free(place)
            raise

    def _room(self, place: object, request: HttpRequest, until: float | None) -> Connection | None:
        """Take the place for a new connection, waiting until there is one; or give a connection that became free."""
        limit = request.timeout.first_byte
        end = None if limit is None else time.perf_counter() + limit
        if until is not None and (end is None or until < end):
            limit, end = request.deadline, until
        with self._freed:
            self._waiting += 1
            try:
                while not self._pool.has_room:
                    connection = self._pool.take(request.origin)
                    if connection is not None and not connection.is_stale():
                        return connection
                    connection = connection or self._pool.take_oldest()
                    if connection is not None:
                        connection.close()
                        self._pool.places.discard(connection.place)
                    elif not self._freed.wait(None if end is None else max(0.0, end - time.perf_counter())):
                        phase = "deadline" if end == until else "pool"
                        raise timeout_error(phase, place_of(request.origin, None), limit)
                self._pool.places.add(place)
            finally:
                self._waiting -= 1
        return None

    def _free(self, place: object) -> None:
        """Give back the place of a connection that is gone."""
        self._pool.places.discard(place)
        if self._waiting:
            with self._freed:
                self._freed.notify()

    def _discard(self, connection: Connection) -> None:
        """Close a connection."""
        connection.close()
        self._free(connection.place)

    def _release(self, connection: Connection) -> None:
        """Keep a connection whose answer has been read, if it can be used again."""
        if not connection.reader.keep or self._closed or os.getpid() != self._process:
            self._discard(connection)
            return
        with self._lock:
            surplus = self._pool.put(connection.origin, connection, time.monotonic())
            if self._waiting:
                self._freed.notify()
        for other in surplus:
            self._discard(other)

    def close(self) -> None:
        """Close what is idle; what is in use closes when its answer has been read."""
        self._closed = True
        if os.getpid() == self._process:
            with self._lock:
                idle = self._pool.clear()
            for connection in idle:
                self._discard(connection)

    def __del__(self) -> None:
        if hasattr(self, "_waiting"):
            self.close()


class BodyStream:
    """The body of an answer as it comes. The connection goes back when the body has ended, else it is closed."""

    def __init__(self, transport: HttpTransport, connection: Connection, request: HttpRequest) -> None:
        self._transport = transport
        self._connection: Connection | None = connection
        self._request = request
        self._clock = StreamClock(request.timeout, time.perf_counter() - connection.asked)
        self.status: int = connection.reader.status
        self.headers: Headers = connection.reader.headers

    def read(self) -> bytes:
        """The next piece of the body, decoded; b"" at its end. Raises TransportError."""
        connection = self._connection
        while connection is not None:
            reader = connection.reader
            piece = reader.take()
            if reader.done:
                self._connection = None
                self._transport._release(connection)
                return piece
            if piece:
                return piece
            try:
                connection.read_more(self._request, self._clock)
            except BaseException:
                self.close()
                raise
        return b""

    def news(self) -> None:
        """What was read last was worth waiting for: the idle clock begins anew."""
        self._clock.news()

    def finish(self) -> None:
        """Nothing more is wanted: keep the connection if the body ends within a moment, else close it."""
        self._clock.hurry()
        try:
            if self.read():
                self.read()
        except TransportError:
            pass  # it is closed
        self.close()

    def close(self) -> None:
        """End the exchange at once: the server sees the connection closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport._discard(connection)

    def __del__(self) -> None:
        self.close()
