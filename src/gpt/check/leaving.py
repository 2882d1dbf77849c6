"""Whether work stops when its caller leaves, and what becomes of calls that come all at once.

An answer that would go on for long is left, and it is measured when the server is free again: by the number of calls that it
says it works on, where it has one that is known, else by when another call is answered that had to wait for the first. The
measure is the server's own speed: how long the same answer takes when it is not left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gpt.check.asking import Server
from gpt.check.exchange import Answer, Ask, Facts, at, read, said
from gpt.check.judge import Judged, excerpt
from gpt.check.parameters import FORCED
from gpt.errors import TransportError
from gpt.protocol import sse
from gpt.protocol.wire import Seconds

LEFT = ("a stream that is left", "a whole answer that is left")
LONG = 1024
ENOUGH = 48
"""Pieces of an answer by which the server's speed is measured."""

GAUGES = ("gpt_slots_running", "llamacpp:requests_processing", "vllm:num_requests_running", "tgi_batch_current_size")
"""What servers call the number of calls that they work on, in /metrics. Ours; llama.cpp, tools/server/README.md, "GET
/metrics"; vLLM, docs/design/metrics.md; text-generation-inference, docs/source/reference/metrics.md.
"""


def freed(after: Seconds | None, would: Seconds) -> Judged:
    """The verdict on a server that was free `after` so many seconds, None: not within the `would` that the answer had left."""
    if after is None or after >= would:
        return Judged("wrong", f"still busy {would:.2f} s after it was left")
    if after > would / 2:
        return Judged("unclear", f"free after {after:.2f} s, where the answer had {would:.2f} s left at least")
    return Judged("honoured", f"free after {after:.3f} s, where the answer had {would:.2f} s left at least")


def gauge(text: str) -> float | None:
    """The number of calls that a server works on, of its Prometheus text; None where no gauge is known."""
    for name in GAUGES:
        found = [
            line.rpartition(" ")[2]
            for line in text.splitlines()
            if line.startswith(name) and line[len(name) : len(name) + 1] in (" ", "{")
        ]
        try:
            if found:
                return sum(map(float, found))
        except ValueError:
            return None
    return None


class _Held:
    """A stream that is read piece by piece."""

    def __init__(self, server: Server, ask: Ask) -> None:
        self._server = server
        self._ask = ask
        self._decoder = sse.Decoder()
        self._body = b""
        self.came: list[Seconds] = []
        """When each piece with content came."""

    async def open(self) -> None:
        self._stream = await self._server.open(self._ask)

    async def read(self, count: int) -> bool:
        """Read until so many pieces with content have come in all. Gives whether they did before the end."""
        while len(self.came) < count:
            piece = await self._stream.read()
            if not piece:
                return False
            self._stream.news()
            self._body += piece
            for event in self._decoder.feed(piece):
                if at(read(event.data), "choices", 0, "delta", "content"):
                    self.came.append(self._server.clock())
        return True

    async def close(self) -> None:
        await self._stream.close()
        self._server.keep(self._ask, Answer(self._stream.status, dict(self._stream.headers), self._body, "left"))


class _Leaving:
    def __init__(self, server: Server, facts: Facts, **over: Any) -> None:
        long = {"messages": said("Count from one to a thousand in words, one number a line."), "max_tokens": LONG, **over}
        self._server = server
        self._streamed = facts.chat(**long, stream=True)
        self._whole = facts.chat(**long)
        self._quick = facts.chat(max_tokens=1)
        self._idle = 0.0

    async def _load(self) -> float | None:
        answer = await self._server.ask(Ask(method="GET", path="/metrics", at_root=True), quietly=True)
        return gauge(answer.body.decode("utf-8", "replace")) if answer.status == 200 else None

    async def _freed(self, limit: Seconds) -> Seconds | None:
        """Seconds until the server works on no more than it did before; None where that takes longer than `limit`."""
        began = self._server.clock()
        while True:
            load = await self._load()
            after = self._server.clock() - began
            if load is not None and load <= self._idle:
                return after
            if after >= limit:
                return None

    async def judge(self) -> tuple[Judged, Judged] | None:
        """The verdicts; None where the answers are too short to tell."""
        idle = await self._load()
        held = _Held(self._server, self._streamed)
        await held.open()
        try:
            if not await held.read(1):
                return None
            busy = await self._load()
            if not await held.read(ENOUGH):
                return None
            would = held.came[ENOUGH - 1] - held.came[0]
        finally:
            await held.close()
        if idle is None or busy is None or busy <= idle:
            return await self._by_waiting(would)
        self._idle = idle
        if await self._freed(would) is None:
            return freed(None, would), Judged("unclear", "the server was still busy with the stream that was left")
        return await self._stream(would), await self._call(would)

    async def _stream(self, would: Seconds) -> Judged:
        """A stream that is left after its first content, by the server's gauge."""
        held = _Held(self._server, self._streamed)
        await held.open()
        try:
            if not await held.read(1):
                return Judged("unclear", "no stream with content came")
        finally:
            await held.close()
        return freed(await self._freed(would), would)

    async def _call(self, would: Seconds) -> Judged:
        """A whole answer that is left when the server works on it, by its gauge."""
        call = asyncio.create_task(self._server.ask(self._whole))
        try:
            while not call.done() and ((load := await self._load()) is None or load <= self._idle):
                pass
            if call.done():
                return Judged("unclear", f"answered before it was seen at work: {excerpt(call.result())}")
        finally:
            await _cancel(call)
        self._server.keep(self._whole, Answer(0, failure="left"))
        return freed(await self._freed(would), would)

    async def _by_waiting(self, would: Seconds) -> tuple[Judged, Judged]:
        """By another call, which is answered late by a server that does one at a time.

        Each wait is half of what the answer takes, so that the other half is left of it when it is left.
        """
        server = self._server
        began = server.clock()
        answer = await server.ask(self._quick)
        usual = server.clock() - began
        if not answer.is_completion or would / 2 <= 4 * usual:
            fast = Judged("unclear", f"has no gauge that is known, and a short call takes {usual:.2f} s")
            return fast, fast
        untold = Judged("unclear", "it answers others meanwhile, and has no gauge that is known")
        held = _Held(server, self._streamed)
        await held.open()
        quick = None
        try:
            await held.read(1)
            quick = asyncio.create_task(server.ask(self._quick))
            await asyncio.wait({quick}, timeout=would / 2)
        except BaseException:
            await _cancel(quick)
            raise
        finally:
            await held.close()
        if quick.done():
            return untold, untold
        stream = await self._answered(quick, would / 2)
        call = asyncio.create_task(server.ask(self._whole))
        quick = asyncio.create_task(server.ask(self._quick))
        try:
            await asyncio.wait({quick, call}, timeout=would / 2, return_when=asyncio.FIRST_COMPLETED)
            if quick.done() or call.done():
                await _cancel(quick)
                return stream, untold
        except BaseException:
            await _cancel(quick)
            raise
        finally:
            await _cancel(call)
        return stream, await self._answered(quick, would / 2)

    async def _answered(self, quick: asyncio.Task[Answer], left: Seconds) -> Judged:
        """The verdict, by when a call is answered that waited for the one that was just left."""
        began = self._server.clock()
        answer = await quick
        after = self._server.clock() - began
        if not answer.is_completion:
            return Judged("unclear", f"the call after it: {answer.failure or answer.status}")
        return freed(after, left)


async def _cancel(task: asyncio.Task[object] | None) -> None:
    """End a task, and wait until it has."""
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task})


async def leaving(server: Server, facts: Facts) -> tuple[Judged, Judged]:
    """What comes of a stream that is left, and of a whole answer."""
    try:
        for over in ({}, {"logit_bias": {FORCED: 100}}):  # a token that is forced makes an answer without end of any model
            if (found := await _Leaving(server, facts, **over).judge()) is not None:
                return found
        short = Judged("unclear", f"its answers end by themselves before {ENOUGH} pieces")
        return short, short
    except TransportError as error:
        bad = Judged("wrong", f"no answer: {error}")
        return bad, bad


def overloaded(answers: Sequence[Answer]) -> Judged:
    """The verdict on what calls were answered that came at once: each well, or told to come back and when."""
    told = 0
    for answer in answers:
        if answer.failure or not answer.status:
            return Judged("wrong", f"no answer: {answer.failure}")
        if answer.is_completion:
            continue
        if answer.status not in (429, 503):
            return Judged("wrong", f"{answer.status}: {excerpt(answer)}")
        if not answer.headers.get("retry-after", "").strip():
            return Judged("wrong", f"{answer.status} without Retry-After: {excerpt(answer)}")
        told += 1
    return Judged("honoured", f"{len(answers) - told} answered, {told} told when to come back")


async def overload(server: Server, facts: Facts, burst: int) -> Judged:
    """What comes of so many calls at once."""
    return overloaded(await asyncio.gather(*(server.ask(facts.chat()) for _ in range(burst))))
