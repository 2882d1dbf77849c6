"""CPU and memory of one call: ours, `openai`, `httpx2` and `aiohttp` against the hand-written yardstick, over the loopback server.

A call is three messages and a tool, about 2 KB, and a typed answer; `httpx2` and `aiohttp` are paired with msgspec and the
yardstick's types. Every measurement is a process of its own, so that none finds the memory as another left it: the first
large allocation of one client can make each read of the next cost twice as much.
"""

from __future__ import annotations

import asyncio
import importlib.util
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench import yardstick
from bench.loopback import running
from bench.measure import Figure, rounds, verdict

MESSAGES: list[Any] = [{"role": "user", "content": "x" * 600}] * 3
TOOLS: list[Any] = [{"type": "function", "function": {"name": "f", "description": "d" * 100, "parameters": {"type": "object"}}}]
REQUEST = {"model": "m", "messages": MESSAGES, "tools": TOOLS}
HEADERS = {"authorization": "Bearer k", "content-type": "application/json"}
CALLS = 4000
ROUNDS = 5
GOALS = {0: 22, 1: 22, 50: 28, 500: 30}
"""How many times the CPU of ours `openai` must take at least, by how many calls at a time; 0: blocking."""

# --------------------------------------------------------------------------------------------------------------------
# In the process that is measured
# --------------------------------------------------------------------------------------------------------------------


def blocking(kind: str, port: int) -> Callable[[], object]:
    """One blocking call."""
    base = f"http://127.0.0.1:{port}/v1"
    if kind == "yardstick":
        bare = yardstick.Blocking(port)
        return lambda: bare.call(REQUEST)
    if kind == "ours":
        from gpt import Gpt

        ours = Gpt(server_url=base, api_key="k")
        return lambda: ours.chat.complete(MESSAGES, model="m", tools=TOOLS)
    if kind == "httpx2":
        import httpx2

        client, url = httpx2.Client(), f"{base}/chat/completions"
        return lambda: yardstick.decode(client.post(url, content=yardstick.encode(REQUEST), headers=HEADERS).content)
    import openai

    theirs = openai.OpenAI(base_url=base, api_key="k")
    return lambda: theirs.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS)


def on_asyncio(kind: str, port: int) -> Callable[[], Awaitable[object]]:
    """One call on asyncio."""
    base = f"http://127.0.0.1:{port}/v1"
    if kind == "yardstick":
        bare = yardstick.OnAsyncio(port)
        return lambda: bare.call(REQUEST)
    if kind == "ours":
        from gpt import AsyncGpt

        ours = AsyncGpt(server_url=base, api_key="k")
        return lambda: ours.chat.complete(MESSAGES, model="m", tools=TOOLS)
    url = f"{base}/chat/completions"
    if kind == "httpx2":
        import httpx2

        client = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=1000), timeout=600)

        async def over_httpx2() -> object:
            return yardstick.decode((await client.post(url, content=yardstick.encode(REQUEST), headers=HEADERS)).content)

        return over_httpx2
    if kind == "aiohttp":
        import aiohttp

        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1000))

        async def over_aiohttp() -> object:
            async with session.post(url, data=yardstick.encode(REQUEST), headers=HEADERS) as response:
                return yardstick.decode(await response.read())

        return over_aiohttp
    import openai

    theirs = openai.AsyncOpenAI(base_url=base, api_key="k")
    return lambda: theirs.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS)


async def cpu_of_tasks(call: Callable[[], Awaitable[object]], tasks: int, count: int) -> float:
    """CPU in µs a call, `tasks` of them at a time, after two each to warm up."""

    async def work(share: int) -> None:
        for _ in range(share):
            await call()

    share = max(2, count // tasks)
    await asyncio.gather(*(work(2) for _ in range(tasks)))
    started = time.process_time()
    await asyncio.gather(*(work(share) for _ in range(tasks)))
    return (time.process_time() - started) / (share * tasks) * 1e6


def measured(kind: str, tasks: int, port: int) -> None:
    """Print CPU in µs a call and the peak memory in MB."""
    count = CALLS // 8 if kind in ("openai", "httpx2") else CALLS
    if tasks:

        async def run() -> float:
            return await cpu_of_tasks(on_asyncio(kind, port), tasks, count)

        cpu = asyncio.run(run())
    else:
        call = blocking(kind, port)
        for _ in range(50):
            call()
        started = time.process_time()
        for _ in range(count):
            call()
        cpu = (time.process_time() - started) / count * 1e6
    print(cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024 * 1024))


# --------------------------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------------------------


def lines_for(tasks: int, port: int) -> list[str]:
    """Lines of figures for so many calls at a time."""
    kinds = [kind for kind in ("yardstick", "ours", "aiohttp", "httpx2", "openai") if _is_there(kind, tasks)]
    peaks: dict[str, float] = {}

    def measure(kind: str) -> float:
        command = [sys.executable, "-W", "ignore", "-m", "bench.call", kind, str(tasks), str(port)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        cpu, peak = map(float, done.stdout.split())
        peaks[kind] = max(peak, peaks.get(kind, 0.0))
        return cpu

    found: dict[str, Figure] = rounds({kind: (lambda kind=kind: measure(kind)) for kind in kinds}, ROUNDS, "µs")  # type: ignore[misc]
    name = f"asyncio, {tasks} at a time" if tasks else "blocking"
    ours = found["ours"].median
    return [
        *(f"{name}: {figure}, peak {peaks[kind]:.0f} MB" for kind, figure in found.items()),
        verdict(f"{name}: ours, times the yardstick", ours / found["yardstick"].median, 1.5),
        verdict(f"{name}: openai, times ours", found["openai"].median / ours, GOALS[tasks], at_least=True),
    ]


def _is_there(kind: str, tasks: int) -> bool:
    if kind in ("yardstick", "ours"):
        return True
    if kind == "aiohttp" and not tasks:
        return False
    return importlib.util.find_spec(kind) is not None


def run() -> list[str]:
    """Lines of figures."""
    with running() as port:
        return [line for tasks in GOALS for line in lines_for(tasks, port)]


if __name__ == "__main__":
    measured(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
