"""Our HTTP/1.1 on blocking sockets. May be shared by threads; after a fork the child makes connections of its own.

A request takes an idle connection or makes one. A taken one may have been closed by the server in the meantime: when it
breaks before a byte of the answer has come, the request is sent once more on a new connection, for free. Whatever else goes
wrong, Ctrl-C included, closes the connection.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from gpt.errors import InvalidRequestError, RequestTimeoutError, TransportError
from gpt.protocol.wire import Headers, HttpRequest, HttpResponse, Origin, Seconds
from gpt.remote.http.connect import Network, broken_error, connect, shorter, timeout_error
from gpt.remote.http.parse import HeadWriter, ResponseReader
from gpt.remote.http.pool import Pool, StaleError

if TYPE_CHECKING:
    from gpt.protocol.wire import HttpStream

_READ = 65536
"""Bytes asked of the system at a time."""


class Connection:
    """A socket with the reader of its answers."""

    __slots__ = ("_readable", "_timeout", "origin", "reader", "socket", "until", "where")

    def __init__(self, origin: Origin, sock: socket.socket) -> None:
        self.origin = origin
        self.socket = sock
        self.where = f"{origin.host}:{origin.port}"
        self.reader = ResponseReader(self.where)
        self._timeout = sock.gettimeout()
        self._readable = _readable(sock)
        self.until: float | None = None  # when the whole call must be over

    def is_stale(self) -> bool:
        """Whether the server has closed it, or sent what nobody asked for: an idle connection has nothing to read."""
        if not self._readable():
            return False
        self.wait(0)
        try:
            self.socket.recv(1)
        except BlockingIOError:  # TLS had something to say of its own, such as a session ticket
            return False
        except OSError as error:
            return "WANT" not in getattr(error, "reason", "")
        return True

    def wait(self, seconds: Seconds | None) -> None:
        """Set how long the next operation may take; the system is asked only when that changes."""
        if self.until is not None:
            seconds = shorter(seconds, max(self.until - time.perf_counter(), 0.001))
        if seconds != self._timeout:
            self.socket.settimeout(seconds)
            self._timeout = seconds

    def timed_out(self, phase: str, seconds: Seconds | None, request: HttpRequest) -> RequestTimeoutError:
        """The error of the clock that ran out: the call's own, or that of the phase."""
        if self.until is not None and time.perf_counter() >= self.until:
            return timeout_error("deadline", self.where, request.deadline)
        return timeout_error(phase, self.where, seconds)

    def send(self, data: bytes, request: HttpRequest, *, reused: bool) -> None:
        """Send the request. Raises TransportError, or StaleError on a reused connection."""
        self.reader.start()
        self.wait(request.timeout.write)
        try:
            self.socket.sendall(data)
        except TimeoutError as error:
            raise self.timed_out("write", request.timeout.write, request) from error
        except OSError as error:
            if reused:
                raise StaleError from error
            raise broken_error(error, "write", self.where) from error

    def read_head(self, request: HttpRequest, *, reused: bool) -> None:
        """Read until the head has come. Raises TransportError, or StaleError when a reused connection ends before a byte."""
        reader = self.reader
        first = True
        self.wait(request.timeout.first_byte)
        while not reader.head:
            try:
                data = self.socket.recv(_READ)
            except TimeoutError as error:
                phase, limit = ("first_byte", request.timeout.first_byte) if first else ("read", request.timeout.idle)
                raise self.timed_out(phase, limit, request) from error
            except OSError as error:
                if reused and first:
                    raise StaleError from error
                raise broken_error(error, "first_byte", self.where) from error
            if not data:
                if reused and first:
                    raise StaleError
                reader.end()
            reader.feed(data)
            if not reader.head:
                first = False
                self.wait(request.timeout.idle)

    def read_more(self, request: HttpRequest) -> None:
        """Read one piece of the body. Raises TransportError."""
        self.wait(request.timeout.idle)
        try:
            data = self.socket.recv(_READ)
        except TimeoutError as error:
            raise self.timed_out("read", request.timeout.idle, request) from error
        except OSError as error:
            raise broken_error(error, "read", self.where) from error
        if data:
            self.reader.feed(data)
        else:
            self.reader.end()

    def close(self) -> None:
        self.socket.close()


def _readable(sock: socket.socket) -> Callable[[], object]:
    """A function that tells at once whether there is something to read."""
    if not hasattr(select, "poll"):  # Windows
        return lambda: select.select([sock], [], [], 0)[0]
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return partial(poll.poll, 0)


class HttpTransport:
    """The way out for blocking clients."""

    def __init__(self, network: Network | None = None) -> None:
        self.network = network or Network()
        self._lock = threading.Lock()
        self._closed = False
        self._heads = HeadWriter()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._pool: Pool[Connection] = Pool(self.network.max_idle, self.network.idle_seconds)

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
                connection.close()
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
        data = self._heads.write(request)
        connection = self._take(request.origin)
        reused = connection is not None
        while True:
            if connection is None:
                limit = shorter(request.timeout.connect, request.deadline)
                connection = Connection(request.origin, connect(request.origin, self.network, limit))
            connection.until = until
            try:
                connection.send(data, request, reused=reused)
                connection.read_head(request, reused=reused)
            except StaleError:
                connection.close()
                connection, reused = None, False
            except BaseException:
                connection.close()
                raise
            else:
                return connection

    def _take(self, origin: Origin) -> Connection | None:
        """An idle connection that still stands."""
        if self._closed:
            raise InvalidRequestError("the client is closed; make a new one")
        if os.getpid() != self._process:
            # A fork: the parent's connections are the parent's. They are forgotten, not closed: closing TLS would speak.
            self._inherited = self._pool
            self._begin()
        while True:
            with self._lock:
                connection = self._pool.take(origin)
            if connection is None or not connection.is_stale():
                return connection
            connection.close()

    def _release(self, connection: Connection) -> None:
        """Keep a connection whose answer has been read, if it can be used again."""
        if not connection.reader.keep or self._closed or os.getpid() != self._process:
            connection.close()
            return
        with self._lock:
            surplus = self._pool.put(connection.origin, connection, time.monotonic())
        for other in surplus:
            other.close()

    def close(self) -> None:
        """Close what is idle; what is in use closes when its answer has been read."""
        self._closed = True
        if os.getpid() == self._process:
            with self._lock:
                idle = self._pool.clear()
            for connection in idle:
                connection.close()

    def __del__(self) -> None:
        if hasattr(self, "_pool"):
            self.close()


class BodyStream:
    """The body of an answer as it comes. The connection goes back when the body has ended, else it is closed."""

    def __init__(self, transport: HttpTransport, connection: Connection, request: HttpRequest) -> None:
        self._transport = transport
        self._connection: Connection | None = connection
        self._request = request
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
                connection.read_more(self._request)
            except BaseException:
                self.close()
                raise
        return b""

    def close(self) -> None:
        """End the exchange at once: the server sees the connection closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        self.close()
