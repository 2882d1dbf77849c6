"""The ASGI application: who may come in, and which route answers. It runs on any ASGI server, alone or within another one.

    app = App(Local(), keys=[...])                          # uvicorn module:app
    starlette.routing.Mount("/llm", app)                    # within an application of one's own

The order in which a request is looked at: Host, Origin, key, route, content type, size. What is refused is refused before its
body is read.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from gpt.backend import MAX_THREADS, AsyncBackend, Backend, below, in_threads, is_awaited
from gpt.errors import GptError, InvalidRequestError
from gpt.server.asgi import Exchange, Left, Receive, Scope, Send
from gpt.server.chat import Call, Chat, kind_of
from gpt.server.failures import FAILED, Refused, refused, retry_after
from gpt.server.guard import OPEN, Guard, checked_content, preflight, shared_with
from gpt.server.line import Line
from gpt.server.log import LOG, answer_line, call_line
from gpt.server.metrics import CONTENT_TYPE, Metrics
from gpt.server.models import Models
from gpt.version import __version__

if TYPE_CHECKING:
    from gpt.server.store import StoredCompletions

REMOTE_SLOTS = 256
"""Calls at a time where the backend does not say how many it makes: a service elsewhere takes many."""

State = Literal["new", "loading", "ready", "failed", "stopping"]

Route = Callable[[Exchange, str], Awaitable[None]]


class App:
    """The protocol, answered by `backend`.

    `slots` calls are made at a time (by default as many as the backend says), `queue` more wait, and others are told to come
    back. `keys` are those that callers may have; without any, everybody is let in who can reach the server. `allow_hosts` are
    names that the Host header may have beside localhost and addresses, `cors_origins` the origins of pages that may call from
    elsewhere. `models` are the names that are answered to, None any. `store` keeps what is to be stored; None keeps nothing.
    `lenient` drops parameters that cannot be honoured, and names them, instead of refusing them. Seconds: `ping` of silence
    before a comment in a stream, `stall` for which a caller may read nothing, `patience` for a body to come. `max_body` is in
    bytes, `max_messages` in a request. Belongs to one event loop at a time. Raises InvalidRequestError.
    """

    def __init__(
        self,
        backend: Backend | AsyncBackend,
        *,
        slots: int | None = None,
        queue: int = 64,
        keys: Iterable[str] = (),
        allow_hosts: Iterable[str] = (),
        cors_origins: Iterable[str] = (),
        models: Sequence[str] | None = None,
        store: StoredCompletions | None = None,
        lenient: bool = False,
        ping: float = 15.0,
        stall: float = 60.0,
        patience: float = 60.0,
        max_body: int = 32 * 1024 * 1024,
        max_messages: int = 10_000,
    ) -> None:
        for name, value, least in (("slots", slots, 1), ("queue", queue, 0), ("max_body", max_body, 1)):
            if value is not None and (not isinstance(value, int) or value < least):
                raise InvalidRequestError(f"{name}: expected an int from {least}, got {value!r}", param=name)
        self.guard = Guard(keys, allow_hosts, cors_origins)
        self.line = Line(slots or below(backend, "slots") or REMOTE_SLOTS, queue)
        self.metrics = Metrics(self.line)
        self.store = store
        self._behind = backend
        self.backend: AsyncBackend = on_asyncio(backend, self.line.slots)
        self._max_body, self._patience = max_body, patience
        self._models = Models(self.backend, models)
        self._chat = Chat(
            self.backend,
            self.line,
            self.metrics,
            models=models,
            keeper=None if store is None else _keeper(store),
            lenient=lenient,
            max_messages=max_messages,
            ping=ping,
            stall=stall,
            log=self._called,
        )
        self._load: Callable[[], object] | None = below(backend, "load")
        self.state: State = "new" if self._load is not None else "ready"
        self._loading: asyncio.Task[None] | None = None
        self._calls: dict[Exchange, str] = {}
        """Calls of the model under way, and what the log says of them."""
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"App({self._behind!r}, {self.guard!r})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, by the ASGI specification, version 3."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1000, "reason": "this server speaks HTTP"})
            return
        began = perf_counter()
        exchange = Exchange(scope, receive, send, f"req_{secrets.token_hex(12)}")
        try:
            await self._answer(exchange)
        except Left:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            await self._fail(exchange, error)
        finally:
            self.metrics.answered(exchange.status or 499)
            LOG.info("%s", answer_line(exchange, began, self._calls.pop(exchange, "")))
            if not self._calls:
                self._idle.set()

    async def _fail(self, exchange: Exchange, error: Exception) -> None:
        """Tell the caller, and the log what the caller is not told."""
        answer = refused(error)
        if answer.status >= 500:
            trace = error if not isinstance(error, (GptError, Refused)) else None
            LOG.error("%s: %s", exchange.request_id, error, exc_info=trace)
        if not exchange.ended:
            await exchange.refuse(answer)

    # Coming and going

    async def _live(self, receive: Receive, send: Send) -> None:
        """The lifespan: loading begins at once, and what is here is closed at the end."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def start(self) -> None:
        """Begin to load the model, beside whatever else happens. Also done by the first call."""
        if self.state == "new":
            self.state = "loading"
            self._loading = asyncio.get_running_loop().create_task(self._make_ready())

    async def _make_ready(self) -> None:
        assert self._load is not None
        try:
            await asyncio.to_thread(self._load)
            prepare = below(self._behind, "without_effect")
            if prepare is not None:  # the first time it asks the model what it knows
                await asyncio.to_thread(prepare, {"messages": []})
        except Exception as error:  # noqa: BLE001 - it is told to each caller
            LOG.error("the model could not be loaded: %s", error)
            self.state = "failed"
        else:
            if self.state == "loading":
                self.state = "ready"

    async def drain(self, grace: float) -> int:
        """Take no more calls, and wait for those under way; after `grace` seconds stop them. Gives how many were stopped."""
        self.state = "stopping"
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            stopped = self.stop()
            await self._idle.wait()
            return stopped
        return 0

    def stop(self) -> int:
        """Stop the calls under way: each gets an error. Gives how many there were."""
        under_way = list(self._calls)
        for exchange in under_way:
            exchange.stop(_stopping())
        return len(under_way)

    async def close(self) -> None:
        """Free what is held: the engine or connections, and the file of stored completions."""
        self.state = "stopping"
        await self.backend.close()
        if self.store is not None:
            await asyncio.to_thread(self.store.close)

    def _called(self, exchange: Exchange, call: Call, error: BaseException | None) -> None:
        self._calls[exchange] = call_line(call) + (f" {kind_of(error)}" if error is not None else "")

    # Routes

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.repeated("host") or exchange.repeated("authorization"):
            raise Refused(400, "a header that may come once came twice", code="repeated_header")
        self.guard.host(exchange.headers)
        origin = self.guard.origin(exchange.headers)
        exchange.also.extend(shared_with(origin))
        path = exchange.path
        if exchange.method == "OPTIONS" and origin is not None:
            await exchange.answer(204, b"", preflight(exchange.headers))
            return
        owner = "" if path in OPEN else self.guard.owner(exchange.headers)
        route, methods = self._route(path)
        if exchange.method not in methods and not (exchange.method == "HEAD" and "GET" in methods):
            raise Refused(
                405, f"{exchange.method} is not allowed here; {', '.join(methods)}", code="method_not_allowed",
                headers={"allow": ", ".join(methods)},
            )  # fmt: skip
        if exchange.method == "POST":
            checked_content(exchange.headers)
        await route(exchange, owner)

    def _route(self, path: str) -> tuple[Route, tuple[str, ...]]:
        """What answers at a path, and the methods that it takes. Raises Refused (404)."""
        match path.split("/")[1:]:
            case ["v1", "chat", "completions"]:
                return self._completions, ("POST", "GET")
            case ["v1", "chat", "completions", _]:
                return self._stored, ("GET", "POST", "DELETE")
            case ["v1", "chat", "completions", _, "messages"]:
                return self._stored, ("GET",)
            case ["v1", "models"]:
                return self._models.list, ("GET",)
            case ["v1", "models", *_]:
                return self._models.retrieve, ("GET",)
            case [""]:
                return _page, ("GET",)
            case ["health"]:
                return self._health, ("GET",)
            case ["ready"]:
                return self._ready, ("GET",)
            case ["metrics"]:
                return self._measured, ("GET",)
            case ["version"]:
                return _version, ("GET",)
            case ["openapi.json"]:
                return self._described, ("GET",)
            case _:
                near = "; chat completions are at /v1/chat/completions" if path.endswith("/completions") else ""
                raise Refused(404, f"there is nothing at this path{near}", code="unknown_url")

    async def _completions(self, exchange: Exchange, owner: str) -> None:
        if exchange.method != "POST":
            await self._stored(exchange, owner)
            return
        self._check_state()
        self.line.check()
        body = await exchange.body(self._max_body, self._patience)
        self._check_state()  # which may have changed meanwhile
        self._calls[exchange] = ""
        self._idle.clear()
        await exchange.watched(self._chat.create(exchange, body, owner))

    def _check_state(self) -> None:
        if self.state == "new":
            self.start()
        if self.state == "loading":
            raise Refused(
                503, "the model is being loaded; try again in a moment", type=FAILED, code="loading", headers=retry_after(1)
            )
        if self.state == "stopping":
            raise _stopping()
        if self.state == "failed":
            raise Refused(503, "the model could not be loaded; the server's log says why", type=FAILED, code="not_loaded")

    async def _stored(self, exchange: Exchange, owner: str) -> None:
        if self.store is None:
            raise Refused(404, "this server stores no completions; the operator can say --store FILE", code="not_stored")
        from gpt.server.stored import answer

        body = await exchange.body(self._max_body, self._patience) if exchange.method == "POST" else b""
        method = "GET" if exchange.method == "HEAD" else exchange.method
        rest = tuple(exchange.path.split("/")[4:])
        status, value = await asyncio.to_thread(answer, self.store, owner, method, rest, exchange.query, body)
        await exchange.give(value, status)

    async def _health(self, exchange: Exchange, _: str) -> None:
        """Whether the process answers at all."""
        await exchange.give({"status": "ok"})

    async def _ready(self, exchange: Exchange, _: str) -> None:
        """Whether calls are taken."""
        if self.state == "new":
            self.start()
        ready = self.state == "ready"
        await exchange.give({"status": self.state}, 200 if ready else 503, {} if ready else retry_after(1))

    async def _measured(self, exchange: Exchange, _: str) -> None:
        engine: Callable[[], str] | None = below(self._behind, "metrics")
        theirs = await asyncio.to_thread(engine) if engine is not None else ""
        await exchange.answer(200, self.metrics.text() + theirs.encode(), content_type=CONTENT_TYPE)

    async def _described(self, exchange: Exchange, _: str) -> None:
        from gpt.server.describe import document

        made = document(
            stores=self.store is not None, needs_key=self.guard.needs_key, refuses=below(self._behind, "refuses") or ()
        )
        await exchange.answer(200, made)


async def _version(exchange: Exchange, _: str) -> None:
    await exchange.give({"version": __version__})


async def _page(exchange: Exchange, _: str) -> None:
    from gpt.server.page import page

    body, headers = page()
    await exchange.answer(200, body, headers, content_type="text/html; charset=utf-8")


def _stopping() -> Refused:
    return Refused(
        503, "the server is stopping", type=FAILED, code="stopping", headers={**retry_after(1), "connection": "close"}
    )


def on_asyncio(backend: Any, slots: int | None = None) -> AsyncBackend:
    """The backend itself, if its calls are awaited; a blocking one in as many threads as it has slots, and some more."""
    if is_awaited(backend):
        awaited: AsyncBackend = backend
        return awaited
    return in_threads(backend, 2 * (slots or below(backend, "slots") or MAX_THREADS) + 4)


class _Keeping:
    """A store as Chat asks it."""

    def __init__(self, store: StoredCompletions) -> None:
        self._store = store

    def check(self, request: dict[str, Any]) -> None:
        from gpt.server.stored import checked_metadata

        if request.get("metadata"):
            checked_metadata(request["metadata"])

    def keep(self, owner: str, request: dict[str, Any], completion: dict[str, Any], request_id: str) -> None:
        from gpt.server.stored import stored

        kept, messages = stored(request, completion, request_id)
        self._store.add(owner, kept, messages)


def _keeper(store: StoredCompletions) -> _Keeping:
    return _Keeping(store)
