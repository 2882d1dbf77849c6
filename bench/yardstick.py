"""The yardstick: a careful hand-written HTTP/1.1 with msgspec, blocking and on asyncio.

It does what must not be left out (a pool, every header parsed, Content-Length and chunked framing, a timeout, a stale
connection tried again) and nothing else. Ours may take at most 1.5 times its CPU.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import msgspec


class Message(msgspec.Struct):
    role: str
    content: str | None = None


class Choice(msgspec.Struct):
    index: int
    message: Message
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Completion(msgspec.Struct):
    id: str
    model: str
    created: int
    choices: list[Choice]
    usage: Usage | None = None


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Completion).decode


def request_bytes(port: int, body: bytes) -> bytes:
    """Head and body of a POST."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer key\r\n"
        "Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: yardstick\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers."""
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return int(first.split(" ", 2)[1]), headers


def chunked(data: bytearray) -> bytes | None:
    """The body of a complete chunked message, else None."""
    body, at = [], 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(data[at:end].split(b";")[0], 16)
        if len(data) < end + 2 + size + 2:
            return None
        if not size:
            return b"".join(body)
        body.append(bytes(data[end + 2 : end + 2 + size]))
        at = end + 2 + size + 2


class Blocking:
    """The blocking one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[socket.socket] = []

    def call(self, request: Any) -> Completion:
        """One completion."""
        data = request_bytes(self.port, encode(request))
        while self.idle:
            connection = self.idle.pop()
            try:
                connection.sendall(data)
                return self._read(connection)
            except (ConnectionError, EOFError):
                connection.close()
        connection = socket.create_connection(("127.0.0.1", self.port), 5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(60)
        connection.sendall(data)
        return self._read(connection)

    def close(self) -> None:
        """Close what is idle."""
        for connection in self.idle:
            connection.close()

    def _read(self, connection: socket.socket) -> Completion:
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            piece = connection.recv(65536)
            if not piece:
                raise EOFError
            data += piece
        status, headers = parse_head(bytes(data[:end]))
        del data[: end + 4]
        if "content-length" in headers:
            length = int(headers["content-length"])
            while len(data) < length:
                piece = connection.recv(65536)
                if not piece:
                    raise EOFError
                data += piece
            body = bytes(data[:length])
        else:
            while (whole := chunked(data)) is None:
                piece = connection.recv(65536)
                if not piece:
                    raise EOFError
                data += piece
            body = whole
        if headers.get("connection", "").lower() == "close":
            connection.close()
        else:
            self.idle.append(connection)
        if status != 200:
            raise RuntimeError(status)
        return decode(body)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = bytearray()
        self.waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self.head: tuple[int, dict[str, str]] | None = None
        self.closed = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.waiter and not self.waiter.done():
            self.waiter.set_exception(exc or EOFError())

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.head is None:
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head = parse_head(bytes(self.data[:end]))
            del self.data[: end + 4]
        status, headers = self.head
        body: bytes | None
        if "content-length" in headers:
            length = int(headers["content-length"])
            body = bytes(self.data[:length]) if len(self.data) >= length else None
        else:
            body = chunked(self.data)
        if body is not None and self.waiter and not self.waiter.done():
            self.data.clear()
            self.head = None
            self.waiter.set_result((status, body))


class OnAsyncio:
    """The asyncio one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[_Connection] = []

    async def call(self, request: Any) -> Completion:
        """One completion."""
        data = request_bytes(self.port, encode(request))
        loop = asyncio.get_running_loop()
        while self.idle:
            connection = self.idle.pop()
            if not connection.closed:
                break
        else:
            _, connection = await loop.create_connection(_Connection, "127.0.0.1", self.port)
        connection.waiter = loop.create_future()
        timer = loop.call_later(60, connection.transport.abort)
        try:
            connection.transport.write(data)
            status, body = await connection.waiter
        except BaseException:
            connection.transport.abort()
            raise
        finally:
            timer.cancel()
        self.idle.append(connection)
        if status != 200:
            raise RuntimeError(status)
        return decode(body)

    def close(self) -> None:
        """Close what is idle."""
        for connection in self.idle:
            connection.transport.abort()
