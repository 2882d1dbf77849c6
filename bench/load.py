"""Many callers of a server, in a process of their own: as little work for each as possible, so that it is the server that is measured.

A caller is a protocol of asyncio on uvloop: it sends bytes that were made before, looks in what comes for the first content and
for the end, and decodes nothing else. What that cost, in CPU, is reported with what was seen.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import uvloop

PATIENCE = 300.0
"""Seconds after which a caller that has no whole answer counts as unanswered."""

_CONTENT = re.compile(rb'"content":"[^"]')
_TOKENS = re.compile(rb'"completion_tokens":(\d+)')
_CACHED = re.compile(rb'"cached_tokens":(\d+)')
_EVENT = b"data: {"


class Load(msgspec.Struct, kw_only=True):
    """What to do. `callers` at a time, each `calls` calls, one after the other over one connection."""

    port: int
    key: str = ""
    model: str = "m"
    callers: int = 1
    calls: int = 1
    streamed: bool = True
    tokens: int = 32
    prompt: str = ""
    """What each call says, after a number of its own; so prompts begin alike for both servers, and differ from call to call."""
    ways: str = "answered"
    """ "answered": each waits for its answers; "held": all streams are held open after their first event until a line comes on
    standard input; "leaving": each caller leaves at a moment of its own, `calls` times.
    """
    seed: int = 1


class Seen(msgspec.Struct):
    """What came of it. Seconds."""

    statuses: dict[str, int]
    """How many answers of which status; "unanswered" those that had none, or no end."""
    tokens: int
    events: int
    elapsed: float
    """From the first thing sent to the last received."""
    first: list[float]
    """To the first content, of each stream."""
    cpu: float
    """CPU of all callers."""
    untold: int = 0
    """Answers of 429 without a Retry-After."""
    pings: int = 0
    cached: int = 0
    """Tokens of prompts that had not to be read, because a slot had them from a call before."""


def request(load: Load, number: int) -> bytes:
    """The bytes of a call."""
    body: dict[str, Any] = {
        "model": load.model,
        "messages": [{"role": "user", "content": f"{number}. {load.prompt}"}],
        "max_tokens": load.tokens,
        "temperature": 0,
        "logit_bias": {"2": -100},  # the end of the answer, for the model in the box: all answers are of one length
    }
    if load.streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    sent = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{load.port}\r\ncontent-type: application/json\r\n"
    if load.key:
        head += f"authorization: Bearer {load.key}\r\n"
    return f"{head}content-length: {len(sent)}\r\n\r\n".encode() + sent


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.begin(None)

    def begin(self, over: asyncio.Future[bool] | None) -> None:
        """Forget the answer before; `over` is told when the next has ended, and whether it was whole."""
        self.over = over
        self.spoken: asyncio.Future[None] | None = None
        self.sent = time.perf_counter()
        self.first: float | None = None
        self.status = ""
        self.head = b""
        self.left: int | None = None
        self.tail = b""
        self.tokens = self.cached = self.events = self.pings = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self.head[: end + 4].lower(), self.head[end + 4 :]
            self.head, self.status = head, head[9:12].decode()
            at = head.find(b"content-length:")
            self.left = int(head[at + 15 : head.find(b"\r", at)]) if at >= 0 else None
        self.events += data.count(_EVENT)
        self.pings += data.count(b": ping")
        if self.first is None and _CONTENT.search(data):
            self.first = time.perf_counter() - self.sent
        if self.spoken is not None and not self.spoken.done():
            self.spoken.set_result(None)
        self.tail = (self.tail + data)[-4000:]
        if self.left is not None:
            self.left -= len(data)
        if self.left == 0 or (self.left is None and self.tail.endswith(b"0\r\n\r\n")):
            found = _TOKENS.search(self.tail)
            self.tokens = int(found[1]) if found else 0
            found = _CACHED.search(self.tail)
            self.cached = int(found[1]) if found else 0
            self._end(whole=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(whole=False)

    def _end(self, *, whole: bool) -> None:
        if self.over is not None and not self.over.done():
            self.over.set_result(whole)


async def connected(load: Load) -> Caller:
    _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", load.port)
    return caller


class Callers:
    """All of them, and what they have seen."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.statuses: Counter[str] = Counter()
        self.first: list[float] = []
        self.tokens = self.cached = self.events = self.untold = self.pings = 0

    def note(self, caller: Caller, *, whole: bool) -> None:
        self.statuses[caller.status if whole else "unanswered"] += 1
        self.untold += caller.status == "429" and b"\r\nretry-after:" not in caller.head
        self.tokens += caller.tokens
        self.cached += caller.cached
        self.events += caller.events
        self.pings += caller.pings
        if caller.first is not None:
            self.first.append(caller.first)

    async def answered(self, number: int, start: asyncio.Event) -> None:
        """One caller who waits for each answer."""
        load, loop = self.load, asyncio.get_running_loop()
        caller = await connected(load)
        await start.wait()
        for call in range(load.calls):
            over = loop.create_future()
            sent = request(load, number + call * load.callers)
            began = time.perf_counter()
            for again in (call > 0, False):  # a connection that was used may have been closed, which is no answer
                caller.begin(over)
                caller.sent = began
                caller.transport.write(sent)
                try:
                    async with asyncio.timeout(PATIENCE):
                        whole = await over
                except TimeoutError:
                    whole = False
                if whole or caller.status or not again:
                    break
                caller, over = await connected(load), loop.create_future()
            self.note(caller, whole=whole)
            if not whole or caller.transport.is_closing():
                caller.transport.abort()
                caller = await connected(load)
        caller.transport.close()

    async def held(self, number: int, ready: list[int], end: asyncio.Event) -> None:
        """One caller who hears the first event, and holds on."""
        caller = await connected(self.load)
        over = asyncio.get_running_loop().create_future()
        caller.begin(over)
        caller.spoken = asyncio.get_running_loop().create_future()
        caller.transport.write(request(self.load, number))
        await caller.spoken
        ready.append(number)
        await end.wait()
        self.note(caller, whole=not over.done() and caller.status == "200")
        caller.transport.close()

    async def leaving(self, number: int, chance: random.Random) -> None:
        """One caller who leaves: amid the head, the body, before the answer, or somewhere in it."""
        load, loop = self.load, asyncio.get_running_loop()
        for _ in range(load.calls):
            try:
                caller = await connected(load)
            except OSError:
                self.statuses["unanswered"] += 1
                continue
            over = loop.create_future()
            caller.begin(over)
            sent = request(load, number)
            if chance.random() < 0.1:
                sent = sent[: chance.randrange(len(sent))]
            caller.transport.write(sent)
            try:
                async with asyncio.timeout(chance.expovariate(10)):
                    whole = await over
            except TimeoutError:
                whole = False
            self.statuses[caller.status if whole else "left"] += 1
            caller.transport.abort() if chance.random() < 0.5 else caller.transport.close()


async def _run(load: Load) -> Seen:
    callers = Callers(load)
    began, cpu = time.perf_counter(), time.process_time()
    if load.ways == "answered":
        start = asyncio.Event()
        tasks = [asyncio.ensure_future(callers.answered(number, start)) for number in range(load.callers)]
        await asyncio.sleep(0.2)  # they are connected by then; one that is not loses time of its own alone
        began, cpu = time.perf_counter(), time.process_time()
        start.set()
        await asyncio.gather(*tasks)
    elif load.ways == "held":
        ready: list[int] = []
        end = asyncio.Event()
        tasks = [asyncio.ensure_future(callers.held(number, ready, end)) for number in range(load.callers)]
        while len(ready) < load.callers:
            await asyncio.sleep(0.01)
        print("held", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        end.set()
        await asyncio.gather(*tasks)
    else:
        chance = random.Random(load.seed)
        await asyncio.gather(*(callers.leaving(number, chance) for number in range(load.callers)))
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Seen(
        dict(callers.statuses),
        callers.tokens,
        callers.events,
        elapsed,
        callers.first,
        cpu,
        callers.untold,
        callers.pings,
        callers.cached,
    )


class Running:
    """Callers that run."""

    def __init__(self, load: Load) -> None:
        command = [sys.executable, "-m", "bench.load", msgspec.json.encode(load).decode()]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        """What they say next."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> Seen:
        """Let them end, and give what they have seen."""
        said, _ = self._process.communicate("end\n")
        return msgspec.json.decode(said, type=Seen)


def seen(**load: Any) -> Seen:
    """What callers saw."""
    return Running(Load(**load)).end()


@contextmanager
def held(**load: Any) -> Iterator[Running]:
    """Callers who hold their streams until the block is left."""
    running = Running(Load(**load, ways="held"))
    assert running.line() == "held"
    try:
        yield running
    finally:
        if running._process.poll() is None:
            running._process.communicate("end\n")


if __name__ == "__main__":
    print(msgspec.json.encode(uvloop.run(_run(msgspec.json.decode(sys.argv[1], type=Load)))).decode(), flush=True)
