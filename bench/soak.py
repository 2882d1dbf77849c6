"""Long runs that must leave nothing behind: calls with faults at random, a tenth of them cancelled, and clients made and dropped.

`python -m bench.soak [calls]`. The server is that of `gpt.testing`, in a process of its own. Sockets, tasks and threads must be
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


async def calls(url: str, count: int, chance: random.Random) -> Counter[str]:
    """Make `count` calls, a tenth of them streams, another tenth cancelled at one of its turns. Gives what came of them."""
    ends: Counter[str] = Counter()

    async def one(client: AsyncGpt) -> None:
        if chance.random() < 0.1:
            await client.chat.stream("Name a river.").until_done()
        else:
            await client.chat.complete("Name a river.")

    async with AsyncGpt(server_url=url, model="m", timeout=CLOCKS) as client:

        async def work(share: int) -> None:
            for _ in range(share):
                task = asyncio.ensure_future(one(client))
                if chance.random() < 0.14:  # some have ended before
                    for _ in range(chance.randrange(6)):
                        await asyncio.sleep(0)
                    task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    ends["cancelled"] += 1
                except GptError as error:
                    ends[type(error).__name__] += 1
                else:
                    ends["answered"] += 1

        await asyncio.gather(*(work(count // TASKS) for _ in range(TASKS)))
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if left:
            raise SystemExit(f"{len(left)} tasks were left behind")
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
    began = time.perf_counter()
    with serving() as url, no_waiting():
        asyncio.run(calls(url, min(count, 30_000), random.Random(1)))
        clients(url, 50)
        asyncio.run(async_clients(url, 50))
        before = standing()
        ends = asyncio.run(calls(url, count, random.Random(2)))
        between = standing()
        clients(url, CLIENTS)
        asyncio.run(async_clients(url, CLIENTS))
        after = standing()
    grown = (after.memory - before.memory) / count
    blocks = max(between.blocks, after.blocks) - before.blocks
    print(f"{sum(ends.values())} calls in {time.perf_counter() - began:.0f} s: {dict(ends.most_common())}")
    print(f"{2 * CLIENTS} clients made and dropped")
    for name in ("descriptors", "threads", "blocks", "memory"):
        print(f"{name} {' -> '.join(str(getattr(one, name)) for one in (before, between, after))}")
    print(f"that is {grown:+.1f} bytes a call")
    if not before[:2] == between[:2] == after[:2] or blocks > 500 or grown > 20:
        raise SystemExit("something was left behind")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve()
    else:
        main()
