"""uvicorn, with two things otherwise: limits on the heads of requests, and how it stops. The only file that imports it.

A head that is too long, or does not come in time, closes its connection. uvicorn with httptools waits for a head for ever, and
keeps as much of one as comes: a few thousand connections that send a byte now and then would hold a server ("slow headers").
The clock runs from the first byte of a request, or from the start of the connection, to the end of its head.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gpt.server.log import LOG

if TYPE_CHECKING:
    from gpt.server.app import App

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers. nginx takes 32 KiB (large_client_header_buffers), the hosted service's front 64."""

HEAD_TAKES = 20.0
"""Seconds in which a head must have come. Apache's mod_reqtimeout allows 20 to 40."""


class Connection(HttpToolsProtocol):
    """One connection."""

    max_head = MAX_HEAD
    head_takes = HEAD_TAKES

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head: int | None = 0
        """Bytes of the head that is coming; None while there is none."""
        self._clock = self.loop.call_later(self.head_takes, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clock.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > self.max_head:
            self._refuse(b"431 Request Header Fields Too Large", b"the head of the request is too long")

    def on_message_begin(self) -> None:
        if self._head is None:
            self._head = 0
            self._clock = self.loop.call_later(self.head_takes, self._too_slow)
        self._fields = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        """Hold the parts of a head against the limit. The parser makes an error of its own of what is raised, a 400."""
        self._fields += size
        if self._fields > self.max_head:
            raise OverflowError("the head is too long")

    def on_headers_complete(self) -> None:
        self._head = None
        self._clock.cancel()
        super().on_headers_complete()

    def _too_slow(self) -> None:
        self._refuse(b"408 Request Timeout", b"the head of the request did not come in time")

    def _refuse(self, status: bytes, text: bytes) -> None:
        if self.transport.is_closing():
            return
        length = str(len(text)).encode()
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: " + length
            + b"\r\nconnection: close\r\n\r\n" + text
        )  # fmt: skip
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's server over an application. A signal lets what is under way end for `grace` seconds; a second one stops it.

    uvicorn itself would stop to listen at once, so that nobody could see at `/ready` that it is stopping, and end by the
    signal.
    """

    def __init__(self, app: App, grace: float, *, max_head: int = MAX_HEAD, head_takes: float = HEAD_TAKES) -> None:
        # uvicorn makes the protocol of each connection by its class alone, so the limits are the class's.
        connection: Any = type("Connection", (Connection,), {"max_head": max_head, "head_takes": head_takes})
        config = uvicorn.Config(
            app,
            http=connection,
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            log_config=None,
            timeout_keep_alive=75,  # longer than clients keep one, so that they are the ones who close
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)
        self._app = app
        self._grace = grace
        self._ending: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals come to the main thread alone; who runs this calls `end`
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.end)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def end(self) -> None:
        """Begin to stop; the second time, stop what is still under way."""
        if self._ending is None:
            LOG.info("stopping: what is under way has %g s to end; a second signal stops it now", self._grace)
            self._ending = asyncio.get_running_loop().create_task(self._end())
        else:
            self._app.stop()

    async def _end(self) -> None:
        stopped = await self._app.drain(self._grace)
        if stopped:
            LOG.warning("%d calls did not end in time and were stopped", stopped)
        self.should_exit = True
