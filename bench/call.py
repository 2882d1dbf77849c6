"""CPU of one call: ours and `openai` against the hand-written yardstick, over a loopback server in a process of its own.

A call is three messages and a tool, about 2 KB, and a typed answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench import yardstick
from bench.loopback import running
from bench.measure import cpu_each, rounds, verdict

MESSAGES: list[Any] = [{"role": "user", "content": "x" * 600}] * 3
TOOLS: list[Any] = [{"type": "function", "function": {"name": "f", "description": "d" * 100, "parameters": {"type": "object"}}}]
REQUEST = {"model": "m", "messages": MESSAGES, "tools": TOOLS}
CALLS = 2000


async def cpu_of_tasks(call: Callable[[], Awaitable[object]], tasks: int, count: int) -> float:
    """CPU in µs a call, `tasks` of them at a time, after as many to warm up."""

    async def work(share: int) -> None:
        for _ in range(share):
            await call()

    share = max(1, count // tasks)
    await asyncio.gather(*(work(1) for _ in range(tasks)))
    started = time.process_time()
    await asyncio.gather(*(work(share) for _ in range(tasks)))
    return (time.process_time() - started) / (share * tasks) * 1e6


def blocking(port: int) -> list[str]:
    """Lines of figures for blocking calls."""
    import openai

    from gpt import Gpt

    base = f"http://127.0.0.1:{port}/v1"
    bare = yardstick.Blocking(port)
    with Gpt(server_url=base, api_key="k") as ours, openai.OpenAI(base_url=base, api_key="k") as theirs:
        found = rounds(
            {
                "yardstick": lambda: cpu_each(lambda: bare.call(REQUEST), CALLS),
                "ours": lambda: cpu_each(lambda: ours.chat.complete(MESSAGES, model="m", tools=TOOLS), CALLS),
                "openai": lambda: cpu_each(
                    lambda: theirs.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS), CALLS // 10
                ),
            },
            7,
            "µs",
        )
    bare.close()
    return [
        *(f"blocking: {figure}" for figure in found.values()),
        verdict("blocking call, times the yardstick", found["ours"].median / found["yardstick"].median, 1.5),
        verdict("blocking call, openai / ours", found["openai"].median / found["ours"].median, 22, at_least=True),
    ]


def on_asyncio(port: int, tasks: int, goal: float) -> list[str]:
    """Lines of figures for calls on asyncio, so many at a time."""
    import openai

    from gpt import AsyncGpt

    base = f"http://127.0.0.1:{port}/v1"

    async def measured(kind: str) -> float:
        if kind == "yardstick":
            bare = yardstick.OnAsyncio(port)
            figure = await cpu_of_tasks(lambda: bare.call(REQUEST), tasks, CALLS)
            bare.close()
            return figure
        if kind == "ours":
            async with AsyncGpt(server_url=base, api_key="k") as ours:
                return await cpu_of_tasks(lambda: ours.chat.complete(MESSAGES, model="m", tools=TOOLS), tasks, CALLS)
        async with openai.AsyncOpenAI(base_url=base, api_key="k") as theirs:
            call = theirs.chat.completions.create
            return await cpu_of_tasks(lambda: call(model="m", messages=MESSAGES, tools=TOOLS), tasks, max(tasks, CALLS // 10))

    kinds = ("yardstick", "ours", "openai")
    found = rounds({kind: (lambda kind=kind: asyncio.run(measured(kind))) for kind in kinds}, 5, "µs")  # type: ignore[misc]
    return [
        *(f"asyncio, {tasks}: {figure}" for figure in found.values()),
        verdict(f"asyncio call, {tasks} at a time, times the yardstick", found["ours"].median / found["yardstick"].median, 1.5),
        verdict(
            f"asyncio call, {tasks} at a time, openai / ours",
            found["openai"].median / found["ours"].median,
            goal,
            at_least=True,
        ),
    ]


def run() -> list[str]:
    """Lines of figures."""
    with running() as port:
        return [*blocking(port), *on_asyncio(port, 1, 22), *on_asyncio(port, 50, 28), *on_asyncio(port, 500, 30)]
