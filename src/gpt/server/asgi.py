"""An exchange over ASGI: the request as values, and the one way that an answer goes out.

Whoever handles a request runs in `Exchange.watched`, which cancels it when the caller leaves: at once, because it waits for
that beside the work, and not only at the next thing sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias

import msgspec

from gpt.server.failures import Refused

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

JSON = "application/json"


class Left(Exception):  # noqa: N818 - nothing went wrong
    """The caller has left."""


class Exchange:
    """One request, and the answer to it. `path` is below where the application is mounted, `headers` have lower-case names."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self.method: str = scope["method"]
        root: str = scope.get("root_path", "")
        path: str = scope["path"]
        self.path = path[len(root) :] if root and path.startswith(root) else path
        self.query = bytes(scope.get("query_string", b"")).decode("latin-1")
        self._raw: Sequence[tuple[bytes, bytes]] = scope["headers"]
        self.headers: dict[str, str] = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._raw}
        self.request_id = request_id
        self.also: list[tuple[str, str]] = [("x-request-id", request_id)]
        """Headers that go along with whatever is answered."""
        self.started = False
        """Whether the answer has begun, so that its status stands."""
        self.ended = False
        self.status = 0
        self._watch: asyncio.Task[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self.why: BaseException | None = None
        """Why the work was stopped; None where it was not."""

    def repeated(self, name: str) -> bool:
        """Whether a header came more than once."""
        wanted = name.encode()
        return sum(1 for key, _ in self._raw if key.lower() == wanted) > 1

    # What comes

    async def body(self, limit: int, patience: float) -> bytes:
        """The whole body. Raises Refused where it is longer than `limit` bytes or takes more than `patience` seconds; Left."""
        length = self.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large(limit)
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(patience):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Left
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > limit:
                        raise too_large(limit)
                    pieces.append(piece)
                    if not message.get("more_body", False):
                        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except TimeoutError:
            self.also.append(("connection", "close"))
            raise Refused(408, f"the body did not come within {patience:g} s", code="request_timeout") from None

    # Who leaves

    async def watched(self, work: Awaitable[None]) -> None:
        """Do the work, which is cancelled when the caller leaves, or by `stop`.

        Raises Left, or what `stop` was given; what the work raises.
        """
        self._task = asyncio.current_task()
        self._watch = asyncio.create_task(self._wait_until_left())
        try:
            await work
        except asyncio.CancelledError:
            if self.why is None:
                raise
            assert self._task is not None
            self._task.uncancel()
            raise self.why from None
        finally:
            self._watch.cancel()

    async def _wait_until_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.stop(Left())

    def stop(self, why: BaseException) -> None:
        """End the work, whose `watched` raises `why`."""
        if self.why is None and self._task is not None:
            self.why = why
            self._task.cancel()

    # What goes

    async def begin(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Send status and headers."""
        self.started = True
        self.status = status
        sent = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (*headers, *self.also)]
        await self._send({"type": "http.response.start", "status": status, "headers": sent})

    def piece(self, body: bytes) -> Awaitable[None]:
        """Send a piece of the body, after which more comes. Waits while the caller reads too slowly."""
        return self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        """Send the last piece of the body."""
        self.ended = True
        if self._watch is not None:
            self._watch.cancel()  # what it would hear next is that the exchange is over
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def answer(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, content_type: str = JSON
    ) -> None:
        """Send a whole answer."""
        own = [("content-type", content_type), ("content-length", str(len(body))), *(headers or {}).items()]
        await self.begin(status, own)
        await self.end(b"" if self.method == "HEAD" else body)

    async def give(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a value as JSON."""
        await self.answer(status, msgspec.json.encode(value), headers)

    async def refuse(self, error: Refused) -> None:
        """Send an error: as an answer of its own, or as the last event of a stream that has begun."""
        if self.started:
            await self.piece(b"data: " + error.body() + b"\n\n")
            await self.end()
        else:
            await self.answer(error.status, error.body(), error.headers)


def too_large(limit: int) -> Refused:
    """The answer to a body that is too long; the connection is closed, because the rest of it is not wanted."""
    return Refused(
        413, f"the body is longer than the {limit} bytes that this server takes", code="request_too_large",
        headers={"connection": "close"},
    )  # fmt: skip
