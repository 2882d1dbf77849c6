"""Long runs that must leave nothing behind: calls with a tenth of them cancelled, and clients made and dropped.

`python -m bench.soak [calls]`. Sockets, tasks and threads must be back to the start; memory may not have grown by a tenth of a
kilobyte a call. Exits with 1 where it is not so.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import threading

import psutil

from bench.loopback import running
from gpt import AsyncGpt, Gpt

CALLS = 20_000
CLIENTS = 1_000


def standing() -> tuple[int, int, int]:
    """Open file descriptors, threads, and bytes of memory of this process."""
    gc.collect()
    process = psutil.Process(os.getpid())
    return process.num_fds(), threading.active_count(), process.memory_info().rss


async def calls(port: int, count: int, chance: random.Random) -> int:
    """Make `count` calls, 50 at a time, a tenth of them cancelled at some turn of the loop. Gives how many were cancelled."""
    cancelled = 0
    async with AsyncGpt(server_url=f"http://127.0.0.1:{port}/v1", api_key="k", model="m") as client:

        async def work(share: int) -> None:
            nonlocal cancelled
            for _ in range(share):
                task = asyncio.ensure_future(client.chat.complete("Name three rivers."))
                if chance.random() < 0.1:
                    for _ in range(chance.randrange(12)):
                        await asyncio.sleep(0)
                    task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    cancelled += 1

        await asyncio.gather(*(work(count // 50) for _ in range(50)))
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if left:
            raise SystemExit(f"{len(left)} tasks were left behind")
    return cancelled


def clients(port: int, count: int) -> None:
    """Make and drop clients, each after a call."""
    for _ in range(count):
        Gpt(server_url=f"http://127.0.0.1:{port}/v1", api_key="k", model="m").chat.complete("Name three rivers.")


def main() -> None:
    """Run, and hold the end against the start."""
    count = int(sys.argv[1]) if sys.argv[1:] else CALLS
    with running() as port:
        asyncio.run(calls(port, 1000, random.Random(1)))
        clients(port, 50)
        before = standing()
        cancelled = asyncio.run(calls(port, count, random.Random(2)))
        clients(port, CLIENTS)
        after = standing()
    grown = (after[2] - before[2]) / count
    print(f"{count} calls, {cancelled} of them cancelled; {CLIENTS} clients made and dropped")
    print(f"file descriptors {before[0]} -> {after[0]}, threads {before[1]} -> {after[1]}, memory {grown:+.0f} bytes a call")
    if after[:2] != before[:2] or grown > 100:
        raise SystemExit("something was left behind")


if __name__ == "__main__":
    main()
