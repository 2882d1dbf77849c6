"""Our own server over a real socket, in a thread: `with serving(App(backend)) as server: server.url`."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from gpt.server.app import App
from gpt.server.http import Server
from gpt.server.run import listening
from gpt.types import Model, ModelList

PATIENCE = 30.0
"""Seconds that a test waits for something before it fails."""

HELLO = {"messages": [{"role": "user", "content": "hi"}]}


class Served:
    """A server that runs. `url` is its base URL, `origin` the same without a path."""

    def __init__(self, app: App, port: int, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.url = f"{self.origin}/v1"
        self.server = server
        self._loop = loop

    def call(self, work: Any) -> Any:
        """What a function gives that is called in the server's event loop; what it awaits is awaited there."""

        async def do() -> Any:
            made = work()
            return await made if hasattr(made, "__await__") else made

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(PATIENCE)

    def until(self, condition: Any) -> None:
        """Wait until a condition of the server holds, looked at in its event loop after each of its steps."""

        async def look() -> None:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(look(), self._loop).result(PATIENCE + 1)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of one answer; a JSON body as a value, another as bytes."""
        connection = self.connect()
        try:
            sent = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            given = {"content-type": "application/json"} if body is not None else {}
            connection.request(method, path, sent, {**given, **(headers or {})})
            response = connection.getresponse()
            said = response.read()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return response.status, fields, json.loads(said) if "json" in fields.get("content-type", "") and said else said
        finally:
            connection.close()

    def chat(
        self, body: Mapping[str, Any] = HELLO, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        return self.ask("POST", "/v1/chat/completions", body, headers)

    def raw(self, sent: bytes) -> socket.socket:
        """A connection over which these bytes have been sent."""
        peer = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        peer.sendall(sent)
        return peer


def events(body: bytes) -> list[Any]:
    """The data of the events of a stream, as values; `[DONE]` as the text."""
    found = []
    for block in body.decode().split("\n\n"):
        for line in block.split("\n"):
            if line.startswith("data: "):
                found.append("[DONE]" if line == "data: [DONE]" else json.loads(line[6:]))
    return found


def read_all(peer: socket.socket) -> bytes:
    """What comes until the other end closes. Closes this end then."""
    pieces = []
    with peer, contextlib.suppress(ConnectionResetError):
        while piece := peer.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


@contextlib.contextmanager
def serving(app: App, *, grace: float = 5.0, ready: bool = True, **limits: Any) -> Iterator[Served]:
    """A server over `app` on a free port, until the block is left."""
    listener = listening("127.0.0.1", 0)
    server = Server(app, grace, **limits)
    started = threading.Event()
    held: dict[str, Any] = {}

    async def serve() -> None:
        held["loop"] = asyncio.get_running_loop()
        started.set()
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    served = Served(app, listener.getsockname()[1], server, held["loop"])
    try:
        served.until(lambda: server.started and (not ready or app.state not in ("new", "loading")))
        yield served
    finally:
        served.call(server.end)
        served.call(app.stop)
        thread.join(PATIENCE)
        listener.close()
        assert not thread.is_alive()


class Held:
    """A backend whose answers come when the test lets them: `gates` are those of the calls under way, by their order."""

    def __init__(self) -> None:
        self.gates: list[asyncio.Queue[Any]] = []
        self.ended: list[str] = []
        """How each call ended: "whole", or "stopped"."""

    def _gate(self) -> asyncio.Queue[Any]:
        self.gates.append(asyncio.Queue())
        return self.gates[-1]

    async def complete(self, request: Any, options: Any = None) -> Any:
        gate = self._gate()
        try:
            item = await gate.get()
        except asyncio.CancelledError:
            self.ended.append("stopped")
            raise
        self.ended.append("whole")
        return item

    async def stream(self, request: Any, options: Any = None) -> HeldStream:
        return HeldStream(self, self._gate())

    async def models(self, options: Any = None) -> Any:
        return ModelList([Model("held")])

    async def close(self) -> None:
        pass


class HeldStream:
    """Chunks as the test puts them into the gate; an exception is raised, None is the end."""

    def __init__(self, backend: Held, gate: asyncio.Queue[Any]) -> None:
        self._backend = backend
        self._gate = gate
        self._over = False

    def __aiter__(self) -> HeldStream:
        return self

    async def __anext__(self) -> Any:
        item = await self._gate.get()
        if isinstance(item, Exception):
            raise item
        if item is None:
            self._over = True
            raise StopAsyncIteration
        return item

    async def close(self) -> None:
        self._backend.ended.append("whole" if self._over else "stopped")
