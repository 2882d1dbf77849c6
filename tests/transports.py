"""Both transports through one set of names, so that one table of cases serves both."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from gpt.protocol.wire import HttpRequest, HttpResponse, Origin, Timeout
from gpt.remote.http.aio import AsyncHttpTransport
from gpt.remote.http.blocking import HttpTransport
from gpt.remote.http.connect import Network


def request(
    port: int = 80,
    body: bytes = b"{}",
    *,
    scheme: str = "http",
    host: str = "127.0.0.1",
    headers: tuple[tuple[str, str], ...] = (),
    timeout: Timeout | float | None = 20.0,
    method: str = "POST",
    target: str = "/v1/x",
) -> HttpRequest:
    """A request to a loopback port."""
    return HttpRequest(method, Origin(scheme, host, port), target, headers, body, Timeout.of(timeout))


class Blocking:
    """The blocking transport."""

    name = "blocking"

    def __init__(self, network: Network | None = None) -> None:
        self.transport: Any = HttpTransport(network)

    def send(self, asked: HttpRequest) -> HttpResponse:
        response: HttpResponse = self.transport.send(asked)
        return response

    def open(self, asked: HttpRequest) -> Any:
        return self.transport.open(asked)

    def read(self, stream: Any) -> bytes:
        piece: bytes = stream.read()
        return piece

    def end(self, stream: Any) -> None:
        stream.close()

    def close(self) -> None:
        self.transport.close()
        del self.transport
        gc.collect()


class OnAsyncio:
    """The asyncio transport, in an event loop of its own."""

    name = "asyncio"

    def __init__(self, network: Network | None = None) -> None:
        self.runner = asyncio.Runner()
        self.transport: Any = AsyncHttpTransport(network)

    def send(self, asked: HttpRequest) -> HttpResponse:
        response: HttpResponse = self.runner.run(self.transport.send(asked))
        return response

    def open(self, asked: HttpRequest) -> Any:
        return self.runner.run(self.transport.open(asked))

    def read(self, stream: Any) -> bytes:
        piece: bytes = self.runner.run(stream.read())
        return piece

    def end(self, stream: Any) -> None:
        self.runner.run(stream.close())
        self.runner.run(asyncio.sleep(0))

    def close(self) -> None:
        self.runner.run(self.transport.close())
        self.runner.close()
        del self.transport
        gc.collect()
