"""CPU of one streamed chunk: ours and `openai`'s two ways (raw chunks, and events with what they add up to) against a hand-written
reader, over a loopback server that writes one chunk at a time. And 200 paced streams at once.

Every measurement is a process of its own. The yardstick reads chunked encoding, splits events and decodes each with msgspec into
the few fields that a chunk of text needs; it checks nothing and adds nothing up.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from bench import yardstick
from bench.measure import Figure, rounds, verdict

CHUNKS = 5000
TEXT = "word"  # 5,000 of them are the 20,000 characters
ROUNDS = 5
STREAMS, PACED, PACE = 200, 50, 0.05
GOALS = {"raw": 25, "events": 18}
"""How many times the CPU of ours `openai` must take at least."""

MESSAGES: list[Any] = [{"role": "user", "content": "x"}]


class Answer(msgspec.Struct):
    """What a structured stream is of."""

    a: str


# --------------------------------------------------------------------------------------------------------------------
# The server
# --------------------------------------------------------------------------------------------------------------------


def chunk(content: str | None, finish: str | None = None) -> bytes:
    """An event of the stream, as one chunk of the chunked encoding."""
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "m",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "delta": {"content": content} if content else {}, "logprobs": None, "finish_reason": finish}],
    }
    event = b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = chunk(None, "stop") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Server(asyncio.Protocol):
    """One connection. A request for `/paced` gets a chunk every PACE seconds, any other all of them at once, one a write."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if not data.startswith((b"POST", b"GET")):
            return  # the body of the request
        if b"/paced" in data.partition(b"\r\n")[0]:
            self.task = asyncio.ensure_future(self._pace())
            return
        self.transport.write(HEAD)
        one = chunk('{"a":"' if b"json_schema" in data else TEXT)
        self.transport.write(one)
        one = chunk(TEXT)
        for _ in range(CHUNKS - 2):
            self.transport.write(one)
        self.transport.write(chunk('"}' if b"json_schema" in data else TEXT))
        self.transport.write(END)

    async def _pace(self) -> None:
        self.transport.write(HEAD)
        one = chunk(TEXT)
        for _ in range(PACED):
            self.transport.write(one)
            await asyncio.sleep(PACE)
        self.transport.write(END)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def running() -> Iterator[int]:
    """The port of a server that runs until the block is left."""
    command = [sys.executable, "-m", "bench.stream", "--serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


# --------------------------------------------------------------------------------------------------------------------
# In the process that is measured
# --------------------------------------------------------------------------------------------------------------------


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    id: str
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Chunk).decode


class Bare:
    """The yardstick's reader: bytes in, chunks counted."""

    def __init__(self) -> None:
        self.data = b""
        self.events = b""
        self.head = False
        self.count = 0

    def feed(self, data: bytes) -> bool:
        """Take in what came. Gives whether the answer is over."""
        self.data += data
        if not self.head:
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return False
            yardstick.parse_head(self.data[:end])
            self.data, self.head = self.data[end + 4 :], True
        at = 0
        over = False
        while not over:
            end = self.data.find(b"\r\n", at)
            if end < 0:
                break
            size = int(self.data[at:end], 16)
            if len(self.data) < end + 2 + size + 2:
                break
            over = not size
            self.events += self.data[end + 2 : end + 2 + size]
            at = end + 2 + size + 2
        self.data = self.data[at:]
        *whole, self.events = self.events.split(b"\n\n")
        for event in whole:
            if event[6:] != b"[DONE]":
                self.count += bool(_decode(event[6:]).choices)
        return over


def bare(port: int, _: str) -> int:
    """One stream by the yardstick."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(yardstick.request_bytes(port, yardstick.encode({"messages": MESSAGES, "stream": True})))
        reader = Bare()
        while not reader.feed(connection.recv(65536)):
            pass
    return reader.count


async def abare(port: int, _: str) -> int:
    """The same on asyncio."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(yardstick.request_bytes(port, yardstick.encode({"messages": MESSAGES, "stream": True})))
    made = Bare()
    while not made.feed(await reader.read(65536)):
        pass
    writer.close()
    return made.count


def blocking(kind: str, way: str, port: int) -> int:
    """One stream, read to its end. Gives how many chunks, or events of content, it had."""
    base = f"http://127.0.0.1:{port}/v1"
    if kind == "yardstick":
        return bare(port, way)
    if kind == "ours":
        from gpt import Gpt

        ours = Gpt(server_url=base, api_key="k")
        if way == "raw":
            return sum(1 for _ in ours.chat.completions.create(model="m", messages=MESSAGES, stream=True))
        into: Any = Answer if way == "structured" else None
        with ours.chat.stream(MESSAGES, model="m", into=into) as events:
            return sum(event.type == "content" for event in events) + 1
    import openai

    theirs = openai.OpenAI(base_url=base, api_key="k")
    if way == "raw":
        return sum(1 for _ in theirs.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    with theirs.chat.completions.stream(model="m", messages=MESSAGES, **_their_format(way)) as their_events:
        return sum(event.type == "content.delta" for event in their_events) + 1


def _their_format(way: str) -> Any:
    if way != "structured":
        return {}
    import pydantic

    class T(pydantic.BaseModel):
        a: str

    return {"response_format": T}


async def on_asyncio(kind: str, way: str, port: int, path: str = "v1") -> int:
    """The same on asyncio."""
    base = f"http://127.0.0.1:{port}/{path}"
    if kind == "yardstick":
        return await abare(port, way)
    if kind == "ours":
        from gpt import AsyncGpt

        async with AsyncGpt(server_url=base, api_key="k") as ours:
            return await _ours(ours, way)
    import openai

    async with openai.AsyncOpenAI(base_url=base, api_key="k") as theirs:
        return await _theirs(theirs, way)


async def _ours(client: Any, way: str) -> int:
    count = 0
    if way == "raw":
        async for _ in await client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
            count += 1
        return count
    async with client.chat.stream(MESSAGES, model="m") as events:
        async for event in events:
            count += event.type == "content"
    return count + 1


async def _theirs(client: Any, way: str) -> int:
    count = 0
    if way == "raw":
        async for _ in await client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
            count += 1
        return count
    async with client.chat.completions.stream(model="m", messages=MESSAGES) as events:
        async for event in events:
            count += event.type == "content.delta"
    return count + 1


async def paced(kind: str, port: int) -> int:
    """STREAMS streams at once over one client. Gives the chunks of all."""
    base = f"http://127.0.0.1:{port}/paced"
    if kind == "ours":
        from gpt import AsyncGpt

        async with AsyncGpt(server_url=base, api_key="k") as ours:
            return sum(await asyncio.gather(*(_ours(ours, "events") for _ in range(STREAMS))))
    import httpx2
    import openai

    http = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=1000), timeout=600)
    async with openai.AsyncOpenAI(base_url=base, api_key="k", http_client=http) as theirs:
        return sum(await asyncio.gather(*(_theirs(theirs, "events") for _ in range(STREAMS))))


def measured(kind: str, way: str, client: str, port: int) -> None:
    """Print CPU in µs a chunk, and the peak memory in MB."""
    if client == "paced":
        expected = STREAMS * (PACED + 1)
        started = time.process_time()
        count = asyncio.run(paced(kind, port))
        cpu = time.process_time() - started
    else:

        def once() -> int:
            return blocking(kind, way, port) if client == "blocking" else asyncio.run(on_asyncio(kind, way, port))

        once()
        times = 1 if way == "structured" else 3
        expected = times * (CHUNKS + 1)
        started = time.process_time()
        count = sum(once() for _ in range(times))
        cpu = time.process_time() - started
    if count != expected:
        raise SystemExit(f"{kind} saw {count} chunks of {expected}")
    print(
        cpu / count * 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
    )


# --------------------------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------------------------


def lines_for(way: str, client: str, port: int) -> list[str]:
    """Lines of figures for one way to read."""
    kinds = ["yardstick", "ours", "openai"] if way in GOALS and client != "paced" else ["ours", "openai"]
    if importlib.util.find_spec("openai") is None:
        kinds.remove("openai")
    peaks: dict[str, float] = {}

    def measure(kind: str) -> float:
        command = [sys.executable, "-W", "ignore", "-m", "bench.stream", kind, way, client, str(port)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        cpu, peak = map(float, done.stdout.split())
        peaks[kind] = max(peak, peaks.get(kind, 0.0))
        return cpu

    count = ROUNDS if way in GOALS and client != "paced" else 3
    found: dict[str, Figure] = rounds({kind: (lambda kind=kind: measure(kind)) for kind in kinds}, count, "µs")  # type: ignore[misc]
    name = f"{way}, {client}"
    lines = [f"{name}: {figure}, peak {peaks[kind]:.0f} MB" for kind, figure in found.items()]
    if "openai" not in found:
        return lines
    ratio = found["openai"].median / found["ours"].median
    if way in GOALS and client != "paced":
        return [*lines, verdict(f"{name}: openai, times ours", ratio, GOALS[way], at_least=True)]
    return [*lines, f"{name}: openai, times ours: {ratio:.3g}"]


def run() -> list[str]:
    """Lines of figures."""
    with running() as port:
        lines = [line for way in GOALS for client in ("blocking", "asyncio") for line in lines_for(way, client, port)]
        lines += lines_for("structured", "blocking", port)
        return lines + lines_for("events", "paced", port)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        asyncio.run(_serve())
    else:
        measured(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
