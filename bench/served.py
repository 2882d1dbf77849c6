"""Servers that are measured, each in a process of its own: `gpt serve`, the engine's own, and two over a source that speaks as it is told.

The source is told by the model's name: "64:0.02" are 64 events, one each 0.02 seconds, and "64:0" as many at once. The
yardstick sends the same bytes, and does what must not be left out: it reads the request, and waits beside the work for the
caller to leave.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psutil

PIECE = (
    b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","system_fingerprint":"fp_1",'
    b'"choices":[{"index":0,"delta":{"content":"word"},"logprobs":null,"finish_reason":null}]}'
)
END = PIECE.replace(b'{"content":"word"}', b"{}").replace(b'"finish_reason":null', b'"finish_reason":"stop"')


class Process:
    """One that runs."""

    def __init__(self, process: subprocess.Popen[str], port: int, key: str = "") -> None:
        self.port = port
        self.key = key
        self._process = psutil.Process(process.pid)

    def cpu(self) -> float:
        """CPU that it has taken, in seconds."""
        return sum(self._process.cpu_times()[:2])

    def memory(self) -> tuple[float, float]:
        """RSS and PSS in MB: what it holds, and that with its share of what others hold too."""
        found = self._process.memory_full_info()
        return found.rss / 1e6, found.pss / 1e6

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body at a path."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def busy(self) -> dict[str, float]:
        """Slots taken, calls that wait, and streams that are open."""
        said = self.ask("/metrics")[1]
        names = {"slots": "gpt_slots_running", "queue": "gpt_calls_waiting", "streams": "gpt_streams_open"}
        return {short: float(re.search(rf"^{name} (\S+)$", said, re.MULTILINE)[1]) for short, name in names.items()}  # type: ignore[index]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "GPT_SERVE"))}
    return {**kept, "GOMP_SPINCOUNT": "1000"}


@contextmanager
def _started(command: list[str], pattern: str, key: str = "") -> Iterator[Process]:
    """A process that says where it listens on stderr."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment())
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(pattern, line)
        assert found, line + process.stderr.read()
        yield Process(process, int(found[1]), key)
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def command(*arguments: str) -> Iterator[Process]:
    """`gpt serve`, ready."""
    line = [sys.executable, "-m", "gpt", "serve", "--port", "0", "--quiet", "--grace", "1", *arguments]
    with _started(line, r"answers at http://127\.0\.0\.1:(\d+)/v1") as process:
        _wait(process, "/ready")
        yield process


@contextmanager
def engine(**settings: int) -> Iterator[Process]:
    """The engine's own HTTP server, with these settings of `gpt.local.llama.Settings`."""
    with _started(
        [sys.executable, "-m", "bench.served", "engine", msgspec.json.encode(settings).decode()], r"^(\d+)$"
    ) as process:
        process.key = KEY
        yield process


@contextmanager
def application(**settings: Any) -> Iterator[Process]:
    """Ours over the source, run as `gpt serve` is; `settings` are those of App."""
    with _started(
        [sys.executable, "-m", "bench.served", "ours", msgspec.json.encode(settings).decode()], r"^(\d+)$"
    ) as process:
        yield process


@contextmanager
def bare() -> Iterator[Process]:
    """The yardstick."""
    with _started([sys.executable, "-m", "bench.served", "bare", "{}"], r"^(\d+)$") as process:
        yield process


def _wait(process: Process, path: str) -> None:
    import time

    for _ in range(600):
        if process.ask(path)[0] == 200:
            return
        time.sleep(0.05)
    raise SystemExit(f"{path} did not become ready")


# --------------------------------------------------------------------------------------------------------------------
# In the processes
# --------------------------------------------------------------------------------------------------------------------

KEY = "bench-key-of-the-engine"


def _told(model: str) -> tuple[int, float]:
    count, _, pace = model.partition(":")
    return int(count), float(pace or 0)


class Source:
    """A backend on asyncio."""

    def __init__(self) -> None:
        from gpt.protocol.codec import decode_chunk

        self.piece, self.end = decode_chunk(PIECE), decode_chunk(END)

    async def complete(self, request: Any, options: Any = None) -> Any:
        from gpt.protocol.chunks import Fold

        fold = Fold()
        async for chunk in await self.stream(request):
            fold.add(chunk)
        return fold.completion()

    async def stream(self, request: Any, options: Any = None) -> SourceStream:
        return SourceStream(self, *_told(request.model))

    async def models(self, options: Any = None) -> Any:
        from gpt.types import Model, ModelList

        return ModelList([Model("m")])

    async def close(self) -> None:
        pass


class SourceStream:
    """As many chunks as it was told, and the end."""

    def __init__(self, source: Source, count: int, pace: float) -> None:
        self._source = source
        self._left = count
        self._pace = pace

    def __aiter__(self) -> SourceStream:
        return self

    async def __anext__(self) -> Any:
        if self._left < 0:
            raise StopAsyncIteration
        self._left -= 1
        if self._left < 0:
            return self._source.end
        if self._pace:
            await asyncio.sleep(self._pace)
        return self._source.piece

    async def close(self) -> None:
        pass


async def yardstick(scope: Any, receive: Any, send: Any) -> None:
    """A bare ASGI application."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["method"] == "GET":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    count, pace = _told(msgspec.json.decode(body)["model"])
    watch = asyncio.ensure_future(receive())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(count):
        if pace:
            await asyncio.sleep(pace)
        if watch.done():
            return
        await send({"type": "http.response.body", "body": b"data: " + PIECE + b"\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b"data: " + END + b"\n\n", "more_body": True})
    watch.cancel()
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _serve_ours(settings: dict[str, Any]) -> None:
    from gpt.server.app import App
    from gpt.server.run import listening, run

    listener = listening("127.0.0.1", 0)
    print(listener.getsockname()[1], file=sys.stderr, flush=True)
    run(App(Source(), **settings), listener, 1)


def _serve_bare() -> None:
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listener.getsockname()[1], file=sys.stderr, flush=True)
    config = uvicorn.Config(yardstick, http="httptools", ws="none", lifespan="off", access_log=False, log_config=None)
    uvicorn.Server(config).run(sockets=[listener])


def _serve_engine(settings: dict[str, Any]) -> None:
    """As `gpt.local.llama` starts it, but for the threads of its HTTP server, of which it has there as many as it needs: one."""
    import xllamacpp

    from gpt.local import weights
    from gpt.local.llama import BATCH

    params = xllamacpp.CommonParams()
    params.model.path = str(weights.find("").path)
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["context"] * settings["slots"]
    params.n_batch = params.n_ubatch = BATCH
    if "threads" in settings:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.api_keys = [KEY]
    params.endpoint_slots = params.ui = params.warmup = False
    params.cache_ram_mib = 0
    params.verbosity = -1
    server = xllamacpp.Server(params)
    server.handle_metrics()
    print(server.listening_address.rpartition(":")[2], file=sys.stderr, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    kind, given = sys.argv[1], msgspec.json.decode(sys.argv[2])
    if kind == "ours":
        _serve_ours(given)
    elif kind == "bare":
        _serve_bare()
    else:
        _serve_engine(given)
