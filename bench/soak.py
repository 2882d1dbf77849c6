"""Long runs that must leave nothing behind: calls with faults at random, a tenth of them cancelled; streams with faults at random,
half of them cancelled or left; clients made and dropped.

`python -m bench.soak [calls [streams]]`. The server is that of `gpt.testing`, in a process of its own. Sockets, tasks and threads must be
back to the start; so must the blocks that Python has allocated, but for 500, and the memory of the process, but for 20 bytes
a call. Exits with 1 where it is not so.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from gpt import AsyncGpt, Gpt, GptError, Timeout
from gpt.testing import Fault, FaultServer, no_waiting

CALLS = 100_000
STREAMS = 10_000
CLIENTS = 1_000
TASKS = 50

FAULTS = (
    Fault(rate=0.02, status=500),
    Fault(rate=0.02, status=429, headers={"retry-after": "0"}),
    Fault(rate=0.01, status=307, headers={"location": "/v1/chat/completions"}),
    Fault(rate=0.01, delay=0.01),
    Fault(rate=0.002, stall="request"),
    Fault(rate=0.002, stall="head"),
    Fault(rate=0.002, stall="body"),
    Fault(rate=0.01, reset="request"),
    Fault(rate=0.01, reset="head"),
    Fault(rate=0.01, reset="body"),
    Fault(rate=0.01, cut=0),
    Fault(rate=0.01, cut=250),
    Fault(rate=0.02, slices=50),
    Fault(rate=0.02, chunked=True),
    Fault(rate=0.01, garbage=b"SSH-2.0-OpenSSH_9.2\r\n"),
    Fault(rate=0.01, content_type="text/html", body=b"<html>"),
    Fault(rate=0.01, slow_close=0.01),
    Fault(rate=0.01, gzip=True, chunked=True),
    Fault(rate=0.01, body=b'data: {"error": "server is busy"}\n\n', content_type="text/event-stream"),
    Fault(rate=0.01, cut=550),
    Fault(rate=0.001, pings=0.05),
)


def serve() -> None:
    """Serve until standard input ends. The port goes to stdout."""
    with FaultServer("The Nile.", faults=FAULTS, seed=int(sys.argv[2]), keep=10) as server:
        print(server.port, flush=True)
        sys.stdin.read()


@contextmanager
def serving() -> Iterator[str]:
    """The base URL of a server with faults, in a process of its own."""
    command = [sys.executable, "-m", "bench.soak", "--serve", "1"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


class Standing(NamedTuple):
    """What this process holds: file descriptors, threads, blocks that Python has allocated, and bytes of memory."""

    descriptors: int
    threads: int
    blocks: int
    memory: int


def standing() -> Standing:
    """What this process holds now, less what the allocator keeps for later."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    process = psutil.Process(os.getpid())
    return Standing(process.num_fds(), threading.active_count(), sys.getallocatedblocks(), process.memory_info().rss)


CLOCKS = Timeout(connect=5, write=5, first_byte=0.5, idle=0.5)


async def calls(url: str, count: int, chance: random.Random, streamed: float = 0.1, cancelled: float = 0.14) -> Counter[str]:
    """Make `count` calls, that part of them streams. That part is cancelled at one of its turns, but for some that have ended before;
    of the streams, every other one that is to be cancelled is left after some events instead. Gives what came of them.
    """
    ends: Counter[str] = Counter()

    async def one(client: AsyncGpt, leave: int | None) -> str:
        if chance.random() >= streamed:
            await client.chat.complete("Name a river.")
            return "answered"
        async with client.chat.stream("Name a river.") as stream:
            async for _ in stream:
                if leave == 0:
                    return "left"
                leave = None if leave is None else leave - 1
        return "streamed"

    async with AsyncGpt(server_url=url, model="m", timeout=CLOCKS) as client:

        async def work(share: int) -> None:
            for _ in range(share):
                cancel = chance.random() < cancelled
                leave = chance.randrange(4) if cancel and streamed == 1 and chance.random() < 0.5 else None
                task = asyncio.ensure_future(one(client, leave))
                if cancel and leave is None:
                    for _ in range(chance.randrange(6)):
                        await asyncio.sleep(0)
                    task.cancel()
                try:
                    ends[await task] += 1
                except asyncio.CancelledError:
                    ends["cancelled"] += 1
                except GptError as error:
                    ends[type(error).__name__] += 1

        await asyncio.gather(*(work(count // TASKS) for _ in range(TASKS)))
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if left:
            raise SystemExit(f"{len(left)} tasks were left behind")
    return ends


def blocking_streams(url: str, count: int, chance: random.Random) -> Counter[str]:
    """Streams of the blocking client, half of them left or dropped in the middle. Gives what came of them."""
    ends: Counter[str] = Counter()
    with Gpt(server_url=url, model="m", timeout=CLOCKS) as client:
        for _ in range(count):
            stream = client.chat.stream("Name a river.")
            try:
                if chance.random() < 0.55:
                    next(stream)
                    if chance.random() < 0.5:
                        stream.close()
                    ends["left"] += 1
                else:
                    stream.until_done()
                    ends["streamed"] += 1
            except GptError as error:
                ends[type(error).__name__] += 1
    return ends


def clients(url: str, count: int) -> None:
    """Make and drop clients, each after a call that may have failed."""
    for _ in range(count):
        try:
            Gpt(server_url=url, model="m", timeout=CLOCKS).chat.complete("Name a river.")
        except GptError:
            pass


async def async_clients(url: str, count: int) -> None:
    """The same on asyncio, closed."""
    for _ in range(count):
        async with AsyncGpt(server_url=url, model="m", timeout=CLOCKS) as client:
            try:
                await client.chat.complete("Name a river.")
            except GptError:
                pass


def main() -> None:
    """Run, and hold the end against the start."""
    count = int(sys.argv[1]) if sys.argv[1:] else CALLS
    streams = int(sys.argv[2]) if sys.argv[2:] else STREAMS
    began = time.perf_counter()
    with serving() as url, no_waiting():
        asyncio.run(calls(url, min(count, 30_000), random.Random(1)))
        asyncio.run(calls(url, 1000, random.Random(1), streamed=1, cancelled=0.6))
        blocking_streams(url, 200, random.Random(1))
        clients(url, 50)
        asyncio.run(async_clients(url, 50))
        marks = {"before": standing()}
        ends = asyncio.run(calls(url, count, random.Random(2)))
        marks["after the calls"] = standing()
        streamed = asyncio.run(calls(url, streams // 2, random.Random(3), streamed=1, cancelled=0.6))
        streamed += blocking_streams(url, streams // 2, random.Random(4))
        marks["after the streams"] = standing()
        clients(url, CLIENTS)
        asyncio.run(async_clients(url, CLIENTS))
        marks["after the clients"] = standing()
    before, after = marks["before"], marks["after the clients"]
    grown = (after.memory - before.memory) / (count + streams)
    blocks = max(one.blocks for one in marks.values()) - before.blocks
    print(f"{sum(ends.values())} calls, {sum(streamed.values())} streams, in {time.perf_counter() - began:.0f} s")
    print(f"calls: {dict(ends.most_common())}")
    print(f"streams: {dict(streamed.most_common())}")
    print(f"{2 * CLIENTS} clients made and dropped")
    print(", ".join(marks))
    for name in ("descriptors", "threads", "blocks", "memory"):
        print(f"{name} {' -> '.join(str(getattr(one, name)) for one in marks.values())}")
    print(f"that is {grown:+.1f} bytes a call")
    if any(one[:2] != before[:2] for one in marks.values()) or blocks > 500 or grown > 20:
        raise SystemExit("something was left behind")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve()
    else:
        main()
