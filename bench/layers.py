"""What each layer adds to a warm call: CPU of the whole process in µs, over a scripted backend, which has no HTTP in it.

A row is a name and a function of a folder that gives one call. To add one, add a line to `ROWS`, or to `ON_ASYNCIO`.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure import Figure, cpu_each, rounds
from gpt import AsyncCache, AsyncGpt, AsyncRecord, Cache, Fallback, Gpt, Limit, Profile, Record, Replay
from gpt.layers.learn import Estimates, Learning
from gpt.layers.thinking import Split
from gpt.layers.watch import Watched
from gpt.protocol.codec import decode_completion
from gpt.testing import AsyncScripted, Scripted

COUNT = 400
ROUNDS = 7
PROMPT = "Name three rivers."

ANSWER = decode_completion(
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":{"role":'
    b'"assistant","content":"The Nile, the Amazon and the Yangtze."},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,'
    b'"completion_tokens":11,"total_tokens":23}}'
)


class Tagged(Scripted):
    """A server that leaves its thinking in the content."""

    profile = Profile(think_tags=("<think>", "</think>"))


def called(backend: Any) -> Callable[[], object]:
    """A call of a client over `backend`, always the same."""
    client = Gpt(backend=backend, model="m")
    return lambda: client.chat.complete(PROMPT)


def always_new(backend: Any) -> Callable[[], object]:
    """A call of a client over `backend`, another one each time."""
    client = Gpt(backend=backend, model="m")
    numbers = itertools.count()
    return lambda: client.chat.complete(f"{PROMPT} {next(numbers)}")


def streamed(backend: Any) -> Callable[[], object]:
    """A stream of a client over `backend`, read to its end."""
    client = Gpt(backend=backend, model="m")
    return lambda: client.chat.stream(PROMPT).until_done()


def split() -> Callable[[], object]:
    """Without the client's own layer, so that there is one."""
    backend = Split(Tagged(ANSWER))
    backend.profile = Profile()
    below = called(backend)
    backend.profile = Tagged.profile
    return below


def replayed(folder: Path) -> Callable[[], object]:
    called(Record(Scripted(ANSWER), folder / "tape"))()
    return called(Replay(folder / "tape", strict=False))


BARE = "no layer"
STREAMED = ", streamed"
"""What the names of rows end with that are held against a stream without layers."""

ROWS: dict[str, Callable[[Path], Callable[[], object]]] = {
    BARE: lambda _: called(Scripted(ANSWER)),
    BARE + STREAMED: lambda _: streamed(Scripted(ANSWER)),
    "Watched (on_event)": lambda _: called(Watched(Scripted(ANSWER), lambda _: None)),
    "Split (think_tags)": lambda _: split(),
    "Learning (count_tokens)": lambda _: called(Learning(Scripted(ANSWER), Estimates(Profile()))),
    "Cache, hit": lambda folder: called(Cache(Scripted(ANSWER), folder / "hit")),
    "Cache, hit, streamed": lambda folder: streamed(Cache(Scripted(ANSWER), folder / "streamed")),
    "Cache, miss": lambda folder: always_new(Cache(Scripted(ANSWER), folder / "miss")),
    "Cache, miss, full": lambda folder: always_new(Cache(Scripted(ANSWER), folder / "full", max_bytes=1 << 18)),
    "Record": lambda folder: called(Record(Scripted(ANSWER), folder / "record")),
    "Replay (in place of the backend)": replayed,
    "Limit": lambda _: called(Limit(Scripted(ANSWER))),
    "Fallback": lambda _: called(Fallback([Scripted(ANSWER)])),
}

ON_ASYNCIO: dict[str, Callable[[Path], AsyncGpt]] = {
    BARE: lambda _: AsyncGpt(backend=AsyncScripted(ANSWER), model="m"),
    "AsyncCache, hit": lambda folder: AsyncGpt(backend=AsyncCache(AsyncScripted(ANSWER), folder / "ahit"), model="m"),
    "AsyncRecord": lambda folder: AsyncGpt(backend=AsyncRecord(AsyncScripted(ANSWER), folder / "arecord"), model="m"),
}


def on_asyncio(client: AsyncGpt) -> Callable[[], float]:
    """CPU of a call on asyncio, in µs."""

    async def several() -> None:
        for _ in range(COUNT):
            await client.chat.complete(PROMPT)

    return lambda: cpu_each(lambda: asyncio.run(several()), 1) / COUNT


def added(found: dict[str, Figure]) -> list[str]:
    """A line for each call without layers, and one for what each layer adds to it."""
    lines = []
    for name, figure in found.items():
        if name.startswith(BARE):
            lines.append(str(figure))
            continue
        bare = found[BARE + STREAMED if name.endswith(STREAMED) else BARE].median
        lines.append(str(Figure(f"added by {name}", figure.median - bare, figure.low - bare, figure.high - bare, "µs")))
    return lines


def run() -> list[str]:
    """Lines of figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        works = {row: make(folder) for row, make in ROWS.items()}
        for work in works.values():
            work()
        blocking = rounds({row: lambda work=work: cpu_each(work, COUNT) for row, work in works.items()}, ROUNDS, "µs")
        tasks = rounds({row: on_asyncio(make(folder)) for row, make in ON_ASYNCIO.items()}, ROUNDS, "µs")
    return [*added(blocking), "on asyncio:", *added(tasks)]
