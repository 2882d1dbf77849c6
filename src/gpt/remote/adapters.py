"""A caller's own HTTP client as the way out: `httpx`, `httpx2` or `requests`, blocking or on asyncio.

For what our own transport leaves out: HTTP/2, SOCKS, a company's authentication, recorded tests. The client stays the
caller's: its settings hold, its cookies are its own, and it is not closed here. Redirects are followed by the flow, not by it.
A deadline caps each of its clocks; a whole answer that keeps coming in small pieces can outlast it. The clocks of a stream are
looked at after each piece, and in silence it is the client's own that runs out.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from gpt.errors import ConnectError, InvalidRequestError, RequestTimeoutError, TLSError, TransportError
from gpt.protocol.wire import (
    AsyncHttpStream,
    AsyncTransport,
    Headers,
    HttpRequest,
    HttpResponse,
    HttpStream,
    Transport,
)
from gpt.remote.http.clock import StreamClock
from gpt.remote.http.connect import shorter, timeout_error


def adapt(client: Any) -> Transport:
    """The client as a Transport. Raises InvalidRequestError for one of an unknown kind."""
    library = _library(client)
    if library == "requests":
        return RequestsTransport(client)
    if library in ("httpx", "httpx2"):
        if hasattr(client, "aclose"):
            raise InvalidRequestError(f"client: an async {library} client belongs to AsyncGpt", param="client")
        return HttpxTransport(client, sys.modules[library])
    raise _unknown(client)


def aadapt(client: Any) -> AsyncTransport:
    """The client as an AsyncTransport. Raises InvalidRequestError for one of an unknown kind."""
    library = _library(client)
    if library in ("httpx", "httpx2"):
        if not hasattr(client, "aclose"):
            raise InvalidRequestError(f"client: a blocking {library} client belongs to Gpt", param="client")
        return AsyncHttpxTransport(client, sys.modules[library])
    if library == "requests":
        raise InvalidRequestError("client: a requests session blocks; it belongs to Gpt", param="client")
    raise _unknown(client)


def _library(client: Any) -> str:
    """The library that the client's class, or one that it inherits from, comes from."""
    for cls in type(client).__mro__:
        root = cls.__module__.partition(".")[0]
        if root in ("httpx", "httpx2", "requests"):
            return root
    return ""


def _unknown(client: Any) -> InvalidRequestError:
    return InvalidRequestError(
        f"client: expected a client of httpx, httpx2 or requests, got {type(client).__name__}", param="client"
    )


def _timed_out(where: str, phase: str) -> RequestTimeoutError:
    return RequestTimeoutError(
        f"no answer from {where}: the client's own clock ran out ({phase})", phase=phase, sent=phase != "connect"
    )


def _failed(error: Exception, where: str, *, phase: str, sent: bool) -> TransportError:
    text = str(error) or type(error).__name__
    kind = TLSError if "CERTIFICATE" in text.upper() or "SSL" in text.upper() else ConnectError
    return kind(f"could not reach {where}: {text}", phase="tls" if kind is TLSError else phase, sent=sent)


# --------------------------------------------------------------------------------------------------------------------
# httpx and httpx2
# --------------------------------------------------------------------------------------------------------------------


class _Httpx:
    """What both forms of the httpx adapter share."""

    def __init__(self, client: Any, library: Any) -> None:
        self._client = client
        self._library = library

    def _built(self, request: HttpRequest) -> Any:
        clocks, deadline = request.timeout, request.deadline
        return self._client.build_request(
            request.method,
            f"{request.origin}{request.target}",
            headers=[*request.headers, *request.own_headers],
            content=request.body,
            timeout=self._library.Timeout(
                connect=shorter(clocks.connect, deadline),
                write=shorter(clocks.write, deadline),
                read=shorter(clocks.first_byte, deadline),
                pool=shorter(clocks.first_byte, deadline),
            ),
        )

    def _error(self, error: Any, request: HttpRequest, started: float) -> TransportError:
        library, where = self._library, f"{request.origin.host}:{request.origin.port}"
        made: TransportError
        if isinstance(error, library.TimeoutException):
            connecting = isinstance(error, (library.ConnectTimeout, library.PoolTimeout))
            phase = "connect" if connecting else "write" if isinstance(error, library.WriteTimeout) else "first_byte"
            made = _timed_out(where, phase)
        else:
            connecting = isinstance(error, library.ConnectError)
            made = _failed(error, where, phase="connect" if connecting else "read", sent=not connecting)
        made.elapsed = time.perf_counter() - started
        return made


class _Clocks:
    """The clocks of a stream: those of `StreamClock`, and the deadline of the call."""

    def __init__(self, request: HttpRequest, started: float) -> None:
        self._clock = StreamClock(request.timeout, time.perf_counter() - started)
        self._where = f"{request.origin.host}:{request.origin.port}"
        self._deadline = request.deadline
        self._until = None if request.deadline is None else started + request.deadline

    def news(self) -> None:
        """What was read last was worth waiting for: the idle clock begins anew."""
        self._clock.news()

    def spend(self, began: float) -> None:
        """Take in a wait that began then. Raises RequestTimeoutError when a clock has run out by it."""
        now = time.perf_counter()
        clock = self._clock
        clock.waited += now - began
        if self._until is not None and now >= self._until:
            raise timeout_error("deadline", self._where, self._deadline)
        if clock.left is not None and clock.left <= 0:
            raise timeout_error(clock.phase, self._where, clock.limit)


def _response(status: int, headers: Any, body: bytes, started: float) -> HttpResponse:
    return HttpResponse(status, Headers(headers), body, time.perf_counter() - started)


class HttpxTransport(_Httpx):
    """A caller's `httpx.Client` or `httpx2.Client`."""

    def send(self, request: HttpRequest) -> HttpResponse:
        started = time.perf_counter()
        try:
            answer = self._client.send(self._built(request), follow_redirects=False)
        except self._library.TransportError as error:
            raise self._error(error, request, started) from error
        return _response(answer.status_code, answer.headers.multi_items(), answer.content, started)

    def open(self, request: HttpRequest) -> HttpStream:
        started = time.perf_counter()
        try:
            answer = self._client.send(self._built(request), stream=True, follow_redirects=False)
        except self._library.TransportError as error:
            raise self._error(error, request, started) from error
        return _HttpxStream(self, answer, request, started)

    def close(self) -> None:
        """Nothing: the client is the caller's."""


class _HttpxStream(_Clocks):
    def __init__(self, transport: HttpxTransport, answer: Any, request: HttpRequest, started: float) -> None:
        super().__init__(request, started)
        self._transport, self._answer, self._request = transport, answer, request
        self._pieces = answer.iter_bytes()
        self.status: int = answer.status_code
        self.headers = Headers(answer.headers.multi_items())

    def read(self) -> bytes:
        began = time.perf_counter()
        try:
            piece = next((piece for piece in self._pieces if piece), b"")
        except self._transport._library.TransportError as error:
            raise self._transport._error(error, self._request, began) from error
        self.spend(began)
        return piece

    def finish(self) -> None:
        """The client closes the connection, unless the body has ended already."""
        self._answer.close()

    def close(self) -> None:
        self._answer.close()


class AsyncHttpxTransport(_Httpx):
    """A caller's `httpx.AsyncClient` or `httpx2.AsyncClient`."""

    async def send(self, request: HttpRequest) -> HttpResponse:
        started = time.perf_counter()
        try:
            answer = await self._client.send(self._built(request), follow_redirects=False)
        except self._library.TransportError as error:
            raise self._error(error, request, started) from error
        return _response(answer.status_code, answer.headers.multi_items(), answer.content, started)

    async def open(self, request: HttpRequest) -> AsyncHttpStream:
        started = time.perf_counter()
        try:
            answer = await self._client.send(self._built(request), stream=True, follow_redirects=False)
        except self._library.TransportError as error:
            raise self._error(error, request, started) from error
        return _AsyncHttpxStream(self, answer, request, started)

    async def close(self) -> None:
        """Nothing: the client is the caller's."""


class _AsyncHttpxStream(_Clocks):
    def __init__(self, transport: AsyncHttpxTransport, answer: Any, request: HttpRequest, started: float) -> None:
        super().__init__(request, started)
        self._transport, self._answer, self._request = transport, answer, request
        self._pieces = answer.aiter_bytes()
        self.status: int = answer.status_code
        self.headers = Headers(answer.headers.multi_items())

    async def read(self) -> bytes:
        began = time.perf_counter()
        piece = b""
        try:
            async for piece in self._pieces:
                if piece:
                    break
        except self._transport._library.TransportError as error:
            raise self._transport._error(error, self._request, began) from error
        self.spend(began)
        return piece

    async def finish(self) -> None:
        """The client closes the connection, unless the body has ended already."""
        await self._answer.aclose()

    async def close(self) -> None:
        await self._answer.aclose()


# --------------------------------------------------------------------------------------------------------------------
# requests
# --------------------------------------------------------------------------------------------------------------------


class RequestsTransport:
    """A caller's `requests.Session`, as the seed took it."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._errors = sys.modules["requests"].exceptions

    def _sent(self, request: HttpRequest, *, stream: bool) -> Any:
        started = time.perf_counter()
        clocks, deadline = request.timeout, request.deadline
        try:
            return self._session.request(
                request.method,
                f"{request.origin}{request.target}",
                headers=dict([*request.headers, *request.own_headers]),
                data=request.body,
                timeout=(shorter(clocks.connect, deadline), shorter(clocks.first_byte, deadline)),
                stream=stream,
                allow_redirects=False,
            )
        except self._errors.RequestException as error:
            made = self._error(error, request)
            made.elapsed = time.perf_counter() - started
            raise made from error

    def _error(self, error: Any, request: HttpRequest) -> TransportError:
        where = f"{request.origin.host}:{request.origin.port}"
        if isinstance(error, self._errors.Timeout):
            return _timed_out(where, "connect" if isinstance(error, self._errors.ConnectTimeout) else "first_byte")
        broke = isinstance(error, (self._errors.ChunkedEncodingError, self._errors.ContentDecodingError))
        return _failed(error, where, phase="read" if broke else "connect", sent=broke)

    def send(self, request: HttpRequest) -> HttpResponse:
        started = time.perf_counter()
        answer = self._sent(request, stream=False)
        return _response(answer.status_code, answer.headers.items(), answer.content, started)

    def open(self, request: HttpRequest) -> HttpStream:
        started = time.perf_counter()
        return _RequestsStream(self, self._sent(request, stream=True), request, started)

    def close(self) -> None:
        """Nothing: the session is the caller's."""


class _RequestsStream(_Clocks):
    def __init__(self, transport: RequestsTransport, answer: Any, request: HttpRequest, started: float) -> None:
        super().__init__(request, started)
        self._transport, self._answer, self._request = transport, answer, request
        self.status: int = answer.status_code
        self.headers = Headers(answer.headers.items())
        # None: give what has come, as it comes.
        self._pieces = answer.iter_content(chunk_size=None)

    def read(self) -> bytes:
        began = time.perf_counter()
        try:
            piece = next((piece for piece in self._pieces if piece), b"")
        except self._transport._errors.RequestException as error:
            raise self._transport._error(error, self._request) from error
        self.spend(began)
        return piece

    def finish(self) -> None:
        """The client closes the connection, unless the body has ended already."""
        self._answer.close()

    def close(self) -> None:
        self._answer.close()
