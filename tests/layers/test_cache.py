"""Answers given again from disk, on both clients: what is kept, what is not, and who asks."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import gpt
from gpt import (
    AsyncCache,
    AsyncGpt,
    BadRequestError,
    Cache,
    CacheStats,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    FunctionCall,
    Gpt,
    GptError,
    InvalidRequestError,
    RequestTimeoutError,
    ResponseMessage,
    ServerError,
    StreamTruncatedError,
    ToolCall,
    Usage,
    UserMessage,
    repeatable,
)
from gpt.backend import CallOptions, identity_of, in_threads
from gpt.layers import cache as module
from gpt.layers.watch import Watched
from gpt.protocol.codec import decode_chunk, decode_completion
from gpt.protocol.profiles import Profile
from gpt.testing import AsyncScripted, Fault, Scripted, serve
from gpt.testing.scripted import chunk

BODY = b'{"id": "c", "object": "chat.completion", "created": 1, "model": "m", "own": 1.50, "choices": [{"index": 0, "message": {"role": "assistant", "content": "the Nile"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}'
CHUNKS = [
    b'{"id":"c","own":1,"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}',
    b'{"id":"c","choices":[{"index":0,"delta":{"content":"the "}}]}',
    b'{"id":"c","choices":[{"index":0,"delta":{"content":"Nile"},"finish_reason":"stop"}]}',
    b'{"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}',
]


def whole() -> ChatCompletion:
    return decode_completion(BODY)


def streamed() -> list[ChatCompletionChunk]:
    return [decode_chunk(one) for one in CHUNKS]


class Way:
    """A client over a cache over a script, blocking or on asyncio."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path / "answers.sqlite"

    def __call__(self, *script: Any, use: Callable[[Any], Any], backend: Any = None, **settings: Any) -> tuple[Any, Scripted]:
        """What `use` makes of the client, and the script, which knows what it was asked."""
        if self.kind == "blocking":
            below = backend or Scripted(*script)
            with Gpt(backend=Cache(below, self.path, **settings), model="m") as client:
                return use(client), below

        async def run() -> tuple[Any, Scripted]:
            below = backend or AsyncScripted(*script)
            async with AsyncGpt(backend=AsyncCache(below, self.path, **settings), model="m") as client:
                return await use(client), getattr(below, "script", below)

        return asyncio.run(run())

    def server(self, url: str) -> Any:
        """A backend that asks a server."""
        return (Gpt if self.kind == "blocking" else AsyncGpt)(server_url=url).backend


@pytest.fixture(params=["blocking", "asyncio"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    return Way(request.param, tmp_path)


def calls(*steps: Any) -> Callable[[Any], Any]:
    """What these steps, functions of a client, give one after another; their errors too."""

    def blocking(client: Gpt) -> list[Any]:
        return [caught(lambda: step(client)) for step in steps]

    async def on_asyncio(client: AsyncGpt) -> list[Any]:
        made = []
        for step in steps:
            try:
                made.append(await step(client))
            except GptError as error:
                made.append(error)
        return made

    return lambda client: blocking(client) if isinstance(client, Gpt) else on_asyncio(client)


def caught(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except GptError as error:
        return error


def ask(prompt: Any = "a", **params: Any) -> Callable[[Any], Any]:
    return lambda client: client.chat.complete(prompt, **params)


def read(prompt: Any = "a", **params: Any) -> Callable[[Any], Any]:
    """A stream read to its end: its completion."""
    return lambda client: client.chat.stream(prompt, **params).until_done()


def pieces(prompt: str = "a", **params: Any) -> Callable[[Any], Any]:
    """The raw chunks of a stream."""

    async def on_asyncio(client: AsyncGpt) -> list[Any]:
        return [
            one async for one in await client.chat.completions.create(messages=[UserMessage(prompt)], stream=True, **params)
        ]

    def blocking(client: Gpt) -> list[Any]:
        return list(client.chat.completions.create(messages=[UserMessage(prompt)], stream=True, **params))

    return lambda client: blocking(client) if isinstance(client, Gpt) else on_asyncio(client)


def leave(client: Any) -> Any:
    """A stream that is left after its second chunk."""

    async def on_asyncio() -> None:
        async with client.chat.stream("a") as stream:
            await anext(stream)
            await anext(stream)

    def blocking() -> None:
        with client.chat.stream("a") as stream:
            next(stream)
            next(stream)

    return blocking() if isinstance(client, Gpt) else on_asyncio()


def stats(client: Any) -> Any:
    return client.backend.stats()


def from_cache(answers: list[Any]) -> list[bool | None]:
    return [answer.info.cached if answer.info is not None else None for answer in answers]


# --------------------------------------------------------------------------------------------------------------------
# What comes
# --------------------------------------------------------------------------------------------------------------------


def test_again(way: Way) -> None:
    """An equal request gets the same answer, to the byte, and is told where it came from; another one is asked."""
    (first, again, other), script = way(
        whole(), "no", use=calls(ask(), ask([{"role": "user", "content": "a"}], user="u"), ask("b"))
    )
    assert first == again
    assert (BODY, BODY) == (first.to_json(), again.to_json())
    assert again.info.cached
    assert (200, None, (), None, None) == (
        again.info.status,
        again.info.raw,
        again.info.attempts,
        again.info.ended,
        again.info.tokens_per_second,
    )
    assert again.info.elapsed > 0
    assert "no" == other.text
    assert 2 == len(script.asked)


def test_later(way: Way) -> None:
    """It is there for the next client too."""
    way(whole(), use=ask())
    answer, script = way("no", use=ask())
    assert (BODY, []) == (answer.to_json(), script.asked)


def test_stream_again(way: Way) -> None:
    """A stream that was read to its end is a stream again, chunk by chunk, to the byte."""
    asked = {"stream_options": {"include_usage": True}}
    (first, again), script = way(streamed(), use=calls(pieces(**asked), pieces(**asked)))
    assert CHUNKS == [one.to_json() for one in first] == [one.to_json() for one in again]
    (made,), _ = way("no", use=calls(read(**asked)))
    assert ("the Nile", 1, Usage(2, 1, 3)) == (made.text, made.to_dict()["own"], made.usage)
    assert (True, "complete", None) == (made.info.cached, made.info.ended, made.info.tokens_per_second)
    assert 1 == len(script.asked)


def test_stream_as_whole(way: Way) -> None:
    """A stream serves a whole call: the completion that its chunks add up to."""
    (live, kept), script = way(streamed(), use=calls(read(stream_options={"include_usage": True}), ask()))
    assert live == kept
    assert live.to_dict() == kept.to_dict()
    assert (True, "complete", 1) == (kept.info.cached, kept.info.ended, len(script.asked))


def test_whole_as_stream(way: Way) -> None:
    """A whole answer serves a stream, with usage."""
    (first, made, chunks), script = way(whole(), use=calls(ask(), read(), pieces()))
    assert (first.text, first.usage, True) == (made.text, made.usage, made.info.cached)
    assert ["the Nile"] == [one.text for one in chunks]
    assert 1 == len(script.asked)


def test_usage_that_nobody_asked_for(way: Way) -> None:
    """Who did not ask for usage gets no chunk of it, which a loop over the choices would trip over, as from the server itself."""
    steps = calls(pieces(stream_options={"include_usage": True}), pieces(), pieces(stream_options={"include_usage": False}))
    (first, second, third), script = way(streamed(), use=steps)
    assert (CHUNKS, CHUNKS[:3], CHUNKS[:3]) == tuple([one.to_json() for one in made] for made in (first, second, third))
    assert 1 == len(script.asked)


def test_usage_that_always_comes(way: Way) -> None:
    """What a server sends unasked comes again, as from the server itself."""
    (first, second), _ = way(streamed(), use=calls(pieces(), pieces(stream_options=gpt.StreamOptions(include_usage=True))))
    assert CHUNKS == [one.to_json() for one in first] == [one.to_json() for one in second]


def test_request_id(way: Way) -> None:
    """The server's name for the exchange is kept, and no other header of it."""
    headers = {"x-request-id": "r1", "set-cookie": "secret", "x-ratelimit-remaining-requests": "5"}
    with serve("hi", faults=[Fault(headers=headers)]) as server:
        for step in (ask(), read("b")):
            (first, again), _ = way(use=calls(step, step), backend=way.server(server.url))
            assert "secret" == first.info.headers["set-cookie"]
            assert ("r1", {"x-request-id": "r1"}) == (again.info.request_id, dict(again.info.headers))
        assert 2 == server.answered


def test_usage_is_not_counted_again(way: Way) -> None:
    """A client adds up what its calls took; what came from the cache took nothing."""
    (*_, used), _ = way(whole(), use=calls(ask(), ask(), read(), totals))
    assert (3, 1, 2) == (used.answers, used.prompt_tokens, used.from_cache)


def totals(client: Any) -> Any:
    async def on_asyncio() -> Any:
        return client.usage

    return client.usage if isinstance(client, Gpt) else on_asyncio()


TOOL = {"type": "function", "function": {"name": "f"}}


def test_tools_choices_and_values(way: Way) -> None:
    """Answers with calls, with several choices and with values are kept as they are."""
    calling = ChatCompletion(
        choices=[Choice("tool_calls", 0, ResponseMessage(None, tool_calls=[ToolCall(FunctionCall("{}", "f"), "a")]))]
    )
    several = ChatCompletion(choices=[Choice("stop", index, ResponseMessage(str(index))) for index in range(3)])
    value = lambda client: client.chat.parse("c", into=int)  # noqa: E731
    steps = [ask(tools=[TOOL]), ask("b", n=3), value]
    made, script = way(calling, several, '{"value": 5}', use=calls(*steps, *steps))
    assert (calling, several, 5) == (made[3], made[4], made[5].value)
    assert 3 == len(script.asked)
    assert [None, None, None, True, True, True] == from_cache([*made[:2], made[2].completion, *made[3:5], made[5].completion])


# --------------------------------------------------------------------------------------------------------------------
# What is kept, and what is not
# --------------------------------------------------------------------------------------------------------------------


def test_errors(way: Way) -> None:
    """An error is never kept."""
    error = ServerError("x", 500)
    (first, second, third), script = way(
        error, [chunk("a"), StreamTruncatedError("cut")], whole(), use=calls(ask(), read(), ask())
    )
    assert (error, StreamTruncatedError, BODY) == (first, type(second), third.to_json())
    assert 3 == len(script.asked)


def test_left(way: Way) -> None:
    """A stream that was left before its end is not kept."""
    (_, made), script = way([chunk("a"), chunk("b"), chunk("c", "stop")], whole(), use=calls(leave, ask()))
    assert (BODY, 2) == (made.to_json(), len(script.asked))


@pytest.mark.parametrize(
    ("chunks", "kept"),
    [
        ([chunk("a"), chunk("b")], False),
        ([chunk("a"), chunk(None, "length")], True),
        ([chunk("a", "stop"), ChatCompletionChunk(choices=[ChunkChoice(Delta("b"), index=1)])], False),
        ([chunk("a", "stop"), ChatCompletionChunk(choices=[ChunkChoice(Delta("b"), "stop", 1)])], True),
        ([], False),
    ],
)
def test_finished(way: Way, chunks: list[Any], kept: bool) -> None:
    """Where nobody says how a stream ended, it is whole if each choice has its finish reason."""
    _, script = way(chunks, use=calls(read(), read()))
    assert (1 if kept else 2) == len(script.asked)


CUT = Fault(body=b"data: " + CHUNKS[1] + b"\n\n", content_type="text/event-stream")


@pytest.mark.parametrize(("fault", "asked"), [(Fault(), 1), (CUT, 2)])
def test_truncated(way: Way, fault: Fault, asked: int) -> None:
    """A stream of a server whose streams may break off is kept if it says that it is whole."""
    profile = Profile(may_break_off=True)
    with serve("one two three four five", faults=[fault]) as server:
        backend = (Gpt if way.kind == "blocking" else AsyncGpt)(server_url=server.url, profile=profile).backend
        made, _ = way(use=calls(read(), read()), backend=backend)
        assert asked == server.answered
    assert ["complete" if asked == 1 else "truncated"] * 2 == [one.info.ended for one in made]


def test_not_an_answer(way: Way) -> None:
    """A completion without choices is handed on and not kept."""
    made, script = way(ChatCompletion(id="x"), use=calls(ask(), ask()))
    assert (["x", "x"], 2) == ([one.id for one in made], len(script.asked))


def test_when(way: Way) -> None:
    """`when` says what is looked up and kept; the rest goes through, whole and streamed."""
    steps = [ask(), read(), ask(temperature=0), ask(temperature=0), ask(seed=1), read(seed=1)]
    made, script = way("hi", use=calls(*steps, stats), when=repeatable)
    assert [None, False, None, True, None, True] == from_cache(made[:-1])
    assert (4, 2, 2, 2) == (len(script.asked), made[-1].hits, made[-1].misses, made[-1].answers)


def test_what_cannot_be_sent(way: Way) -> None:
    """What is no request is the backend's to refuse."""
    (made,), script = way("hi", use=calls(ask([])))
    assert ("hi", 1) == (made.text, len(script.asked))


def test_generator(way: Way) -> None:
    """Messages that can be read once are read once, and sent."""
    request = lambda: ChatRequest(messages=(UserMessage(text) for text in "ab"))  # noqa: E731
    steps = [lambda client: client.backend.complete(request()), lambda client: client.backend.complete(request())]
    made, script = way("hi", use=calls(*steps))
    assert (2, 1) == (len(made), len(script.asked))
    assert [UserMessage("a"), UserMessage("b")] == script.asked[0].messages


def test_age(way: Way) -> None:
    """An answer that is too old is asked for anew."""
    now = [0.0]

    def wait(client: Any) -> Any:
        now[0] += 10

        async def nothing() -> None: ...

        return None if isinstance(client, Gpt) else nothing()

    made, script = way("a", "b", use=calls(ask(), ask(), wait, ask()), max_age=10, clock=lambda: now[0])
    assert (["a", "a", "b"], 2) == ([one.text for one in made if one], len(script.asked))


def test_size(way: Way) -> None:
    """The file is no larger than it may be."""
    way("x" * 20_000, use=calls(*[ask(str(number)) for number in range(30)]), max_bytes=1 << 17)
    assert way.path.stat().st_size <= 1 << 17
    made, script = way("no", use=calls(ask("29"), ask("0")), max_bytes=1 << 17)
    assert (["x" * 20_000, "no"], 1) == ([one.text for one in made], len(script.asked))


def test_stats_and_clear(way: Way) -> None:
    """What the cache holds and what came of the calls; nothing is left after `clear`."""

    def clear(client: Any) -> Any:
        return client.backend.clear()

    (_, _, full, _, empty, _), script = way("a", use=calls(ask(), ask(), stats, clear, stats, ask()))
    assert (1, 1, 1) == (full.hits, full.misses, full.answers)
    assert 0 < full.bytes < 100_000
    assert CacheStats(1, 1, 0, empty.bytes) == empty
    assert 2 == len(script.asked)


# --------------------------------------------------------------------------------------------------------------------
# Equal calls at the same time
# --------------------------------------------------------------------------------------------------------------------


class Gate(Scripted):
    """A script that answers when it is let."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)

    def complete(self, request: Any, options: Any = None) -> Any:
        self.begun.release()
        self.open.wait(10)
        return super().complete(request, options)


def waiting(cache: Cache, count: int) -> None:
    """Wait until so many calls wait for another one. Looked at, not timed."""
    while sum(len(flight._waiters) + len(flight._done_callbacks) for flight in list(cache._flights._flights.values())) < count:
        threading.Event().wait(0.001)


def together(cache: Cache, gate: Gate, calls: list[Callable[[], Any]]) -> list[Any]:
    """What calls give that are made while the first is being answered."""
    made: list[Any] = [None] * len(calls)

    def work(number: int) -> None:
        try:
            made[number] = calls[number]()
        except BaseException as error:  # noqa: BLE001
            made[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    threads[0].start()
    gate.begun.acquire()
    for thread in threads[1:]:
        thread.start()
    waiting(cache, len(calls) - 1)
    gate.open.set()
    for thread in threads:
        thread.join()
    return made


REQUEST = ChatRequest(messages=[UserMessage("a")])


def test_together(tmp_path: Path) -> None:
    """Equal calls in threads ask once, streams too; all get the answer."""
    gate = Gate("hi", "no")
    cache = Cache(gate, tmp_path / "x")
    options = CallOptions(deadline=100, cancel=threading.Event())
    made = together(
        cache,
        gate,
        [
            *[lambda: cache.complete(REQUEST)] * 5,
            lambda: cache.complete(REQUEST, options),
            lambda: "".join(one.text for one in cache.stream(REQUEST)),
        ],
    )
    assert (["hi"] * 6 + ["hi"], 1) == ([one if isinstance(one, str) else one.text for one in made], len(gate.asked))
    assert [None, *[True] * 5] == from_cache(made[:6])
    assert (6, 1) == (cache.stats().hits, cache.stats().misses)
    cache.close()


def test_together_failed(tmp_path: Path) -> None:
    """Where the call that the others wait for fails, each asks for itself, with what is left of its deadline."""
    gate = Gate(ServerError("x", 500), "hi")
    cache = Cache(gate, tmp_path / "x")
    options = CallOptions(deadline=100)
    made = together(
        cache, gate, [lambda: cache.complete(REQUEST, options)] * 3 + [lambda: list(cache.stream(REQUEST, options))]
    )
    assert isinstance(made[0], ServerError)
    assert ["hi", "hi"] == [one.text for one in made[1:3]]
    assert 4 == len(gate.asked) or made[3]  # the stream may have come after another's answer was kept
    assert 100 == gate.options[0].deadline
    assert all(one.deadline is not None and 0 < one.deadline < 100 for one in gate.options[1:])
    cache.close()


class Interrupted(BaseException):
    """Ctrl-C, or another end that is nobody's error."""


def test_together_left(tmp_path: Path) -> None:
    """Where whoever asks leaves, one of the others asks in its place."""

    def leave_once(_: Any) -> Any:
        raise Interrupted

    gate = Gate(leave_once, "hi")
    cache = Cache(gate, tmp_path / "x")
    made = together(cache, gate, [lambda: cache.complete(REQUEST)] * 4)
    assert isinstance(made[0], Interrupted)
    assert ["hi"] * 3 == [one.text for one in made[1:]]
    assert 2 == len(gate.asked)
    cache.close()


def test_waiting_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for another call stops at its own deadline, and when nobody wants its answer any more."""
    gate = Gate("hi")
    cache = Cache(gate, tmp_path / "x")
    first = threading.Thread(target=lambda: cache.complete(REQUEST))
    first.start()
    gate.begun.acquire()
    with pytest.raises(RequestTimeoutError, match="an equal call was being waited for") as caught:
        cache.complete(REQUEST, CallOptions(deadline=0.001))
    assert "deadline" == caught.value.phase
    cancel = threading.Event()
    cancel.set()
    monkeypatch.setattr(module, "LOOK", 0.001)
    for options in (CallOptions(cancel=cancel), CallOptions(cancel=cancel, deadline=100)):
        with pytest.raises(GptError, match="the call was cancelled"):
            cache.complete(REQUEST, options)
    gate.open.set()
    first.join()
    assert 1 == len(gate.asked)
    cache.close()


class AsyncGate(AsyncScripted):
    """A script that answers when it is let, on asyncio."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self.open = asyncio.Event()

    async def complete(self, request: Any, options: Any = None) -> Any:
        await self.open.wait()
        return await super().complete(request, options)


async def asked_together(cache: AsyncCache, gate: AsyncGate, *rest: Any) -> list[Any]:
    """The first call, and others that are made while it is being answered."""
    first = asyncio.ensure_future(cache.complete(REQUEST))
    while not cache._flights._flights:
        await asyncio.sleep(0)
    others = [asyncio.ensure_future(one) for one in rest]
    (flight,) = cache._flights._flights.values()
    while len(flight._done_callbacks) < len(rest):
        await asyncio.sleep(0)
    return [first, *others]


def test_tasks_together(tmp_path: Path) -> None:
    """Equal calls in tasks ask once, streams too."""

    async def run() -> None:
        gate = AsyncGate("hi", "no")
        cache = AsyncCache(gate, tmp_path / "x")
        tasks = await asked_together(cache, gate, *[cache.complete(REQUEST) for _ in range(5)], cache.stream(REQUEST))
        gate.open.set()
        made = await asyncio.gather(*tasks)
        assert [None, *[True] * 5] == from_cache(made[:6])
        assert ["hi"] == [one.text async for one in made[6]]
        assert (1, 6) == (len(gate.script.asked), (await cache.stats()).hits)
        await cache.close()

    asyncio.run(run())


def test_tasks_failed_and_late(tmp_path: Path) -> None:
    """Where the first fails each asks for itself; where it is cancelled one asks in its place; a deadline ends the wait."""

    async def run() -> None:
        gate = AsyncGate(ServerError("x", 500), "hi")
        cache = AsyncCache(gate, tmp_path / "x")
        options = CallOptions(deadline=100)
        tasks = await asked_together(cache, gate, cache.complete(REQUEST, options), cache.complete(REQUEST))
        with pytest.raises(RequestTimeoutError, match="an equal call was being waited for"):
            await cache.complete(REQUEST, CallOptions(deadline=0.001))
        gate.open.set()
        made = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(made[0], ServerError)
        assert (["hi", "hi"], 3) == ([one.text for one in made[1:]], len(gate.script.asked))
        deadline = gate.script.options[1].deadline
        assert deadline is not None
        assert 0 < deadline < 100
        await cache.clear()

        gate.open.clear()
        first, second, third = await asked_together(cache, gate, cache.complete(REQUEST), cache.complete(REQUEST))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.open.set()
        assert ["hi", "hi"] == [one.text for one in await asyncio.gather(second, third)]
        assert 4 == len(gate.script.asked)
        await cache.close()

    asyncio.run(run())


def test_several_loops(tmp_path: Path) -> None:
    """One cache serves several event loops, and a call of one waits for an equal one of another."""
    gate = Gate("hi", "no")
    cache = AsyncCache(in_threads(gate), tmp_path / "x")

    def run() -> Any:
        return asyncio.run(cache.complete(REQUEST))  # type: ignore[arg-type]

    made = together(cache, gate, [run, run, run])  # type: ignore[arg-type]
    assert ["hi"] * 3 == [one.text for one in made]
    assert 1 == len(gate.asked)
    assert "hi" == run().text
    asyncio.run(cache.close())


def test_loop_that_is_gone(tmp_path: Path) -> None:
    """A task that waited in a loop that is closed by now is no matter."""

    async def run() -> None:
        loop = asyncio.new_event_loop()
        loop.close()
        module._tell(loop, asyncio.Event())

    asyncio.run(run())


def test_streams_do_not_wait(way: Way) -> None:
    """Two equal streams that are read in turn both come: neither waits for the other."""

    async def on_asyncio(client: AsyncGpt) -> Any:
        first, second = [await client.chat.completions.create(messages=[UserMessage("a")], stream=True) for _ in range(2)]
        return [
            (await anext(first)).text,
            (await anext(second)).text,
            *[one.text async for one in first],
            *[one.text async for one in second],
        ]

    def blocking(client: Gpt) -> Any:
        first, second = [client.chat.completions.create(messages=[UserMessage("a")], stream=True) for _ in range(2)]
        return [next(first).text, next(second).text, *[one.text for one in first], *[one.text for one in second]]

    made, script = way("a b", use=lambda client: blocking(client) if isinstance(client, Gpt) else on_asyncio(client))
    assert (["a ", "a ", "b", "", "b", ""], 2) == (made, len(script.asked))


def test_fork(tmp_path: Path) -> None:
    """A child waits for no call of its parent's."""
    program = f"""
import os
from gpt import AsyncCache, Cache, ChatRequest, UserMessage
from gpt.testing import AsyncScripted, Scripted
import asyncio
cache = Cache(Scripted("hi"), {str(tmp_path / "x")!r})
other = AsyncCache(AsyncScripted("hi"), {str(tmp_path / "y")!r})
asyncio.run(other.complete(ChatRequest(messages=[UserMessage("b")])))
request = ChatRequest(messages=[UserMessage("a")])
cache._flights.enter(cache._key(request))
cache._flights._lock.acquire()
child = os.fork()
if child == 0:
    ok = cache.complete(request).text == "hi" and asyncio.run(other.complete(request)).text == "hi"
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# --------------------------------------------------------------------------------------------------------------------
# Files and disks
# --------------------------------------------------------------------------------------------------------------------


def test_not_ours(way: Way) -> None:
    """A file that is another's is an error before anything is asked, and is left alone."""
    way.path.write_text("dear diary, " * 100)
    (error, streaming), script = way("hi", use=calls(ask(), read()))
    assert isinstance(error, InvalidRequestError)
    assert isinstance(streaming, InvalidRequestError)
    assert "is no SQLite database" in error.message
    assert ([], "dear diary, " * 100) == (script.asked, way.path.read_text())


def test_broken_disk(way: Way) -> None:
    """Where no file can be, answers come all the same, whole and streamed, with warnings."""
    way.path.mkdir()
    with pytest.warns(RuntimeWarning, match="unable to open database file.*calls go on without it"):
        made, script = way("hi", use=calls(ask(), ask(), read()))
    assert (["hi", "hi", "hi"], 3) == ([one.text for one in made], len(script.asked))


@pytest.mark.parametrize("body", [b'{"choices": 5}', b"\xff", b"["])
def test_damaged_answer(way: Way, body: bytes) -> None:
    """An answer that cannot be read any more is asked for anew, with a warning, and is then whole again."""
    way("hi", use=calls(ask(), read("b")))
    for step in (ask(), read(), ask("b"), read("b")):
        with closing(sqlite3.connect(way.path)) as database, database:
            database.execute("UPDATE bodies SET body = ?", (body,))
        with pytest.warns(RuntimeWarning, match="an answer in .* is damaged .*; it is asked for anew"):
            (made,), script = way("new", use=calls(step))
        assert ("new", 1) == (made.text, len(script.asked))
        (made,), script = way("no", use=calls(step))
        assert ("new", 0) == (made.text, len(script.asked))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_age": 0}, "max_age: expected seconds above 0"),
        ({"max_age": float("nan")}, "max_age"),
        ({"max_bytes": 1000}, "max_bytes: expected an int from 131072"),
        ({"max_bytes": True}, "max_bytes"),
        ({"max_bytes": 1e9}, "max_bytes"),
    ],
)
@pytest.mark.parametrize("kind", [Cache, AsyncCache])
def test_settings(kind: Any, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Settings that make no sense are refused by name."""
    with pytest.raises(InvalidRequestError, match=message):
        kind(Scripted("a"), tmp_path / "x", **settings)
    assert [] == os.listdir(tmp_path)


# --------------------------------------------------------------------------------------------------------------------
# As a layer
# --------------------------------------------------------------------------------------------------------------------


class Named(Scripted):
    """A backend with a name of its own."""

    identity = "mine"
    profile = Profile(dialect="plain", think_tags=("<think>", "</think>"))
    count_tokens = 5


def test_layer(tmp_path: Path) -> None:
    """A cache stands for what is below it, and closes it."""
    below = Named("hi")
    cache = Cache(below, tmp_path / "x")
    assert (Named.profile, 5) == (cache.profile, cache.count_tokens)
    assert (None, None) == (Cache(Scripted("hi"), tmp_path / "y").profile, Cache(Scripted("hi"), tmp_path / "y").count_tokens)
    assert f"Cache(Scripted(1 answers left), {str(tmp_path / 'x')!r})" == repr(cache)
    assert "scripted" == Gpt(backend=cache).models.list().data[0].id
    cache.close()
    assert below.closed
    other = AsyncScripted("hi")
    again = AsyncCache(other, tmp_path / "x")

    async def run() -> None:
        assert "scripted" == (await again.models()).data[0].id
        await again.close()

    asyncio.run(run())
    assert other.script.closed


def test_thinking(way: Way) -> None:
    """Thinking between tags is told apart above the cache, of what was kept too."""
    profile = Profile(think_tags=("<think>", "</think>"))
    with serve("<think>hm</think>Oslo") as server:
        backend = (Gpt if way.kind == "blocking" else AsyncGpt)(server_url=server.url, profile=profile).backend
        made, _ = way(use=calls(ask(), ask(), read(), read("b"), read("b"), ask("b")), backend=backend)
        assert 2 == server.answered
    assert [("hm", "Oslo")] * 6 == [(one.message.reasoning, one.text) for one in made]
    assert [False, True, True, False, True, True] == from_cache(made)


def test_identity(tmp_path: Path) -> None:
    """Who is asked is in the key: another server, or another backend, is another answer. Layers are not."""
    first, second = Gpt(server_url="http://a/v1", api_key="secret").backend, Gpt(server_url="http://a/v2?key=secret").backend
    assert ("http://a/v1", "http://a/v2") == (identity_of(first), identity_of(second))
    assert first.endpoint is Cache(first, tmp_path / "x").endpoint  # type: ignore[attr-defined]
    assert "http://a/v1" == identity_of(in_threads(Watched(Cache(first, tmp_path / "x"), print)))  # type: ignore[arg-type]
    assert "mine" == identity_of(Named("a"))
    assert "gpt.testing.scripted.Scripted" == identity_of(Scripted("a"))
    assert "local:x.gguf" == identity_of(gpt.Local("x.gguf"))
    path = tmp_path / "answers"
    for backend in (Scripted("a"), Named("b"), Scripted("c"), Named("d")):
        cache = Cache(backend, path)
        cache.complete(REQUEST)
        cache.close()
    made = [Cache(backend, path) for backend in (Scripted("x"), Named("x"))]
    assert ["a", "b"] == [one.complete(REQUEST).text for one in made]
    for one in made:
        one.close()


def test_no_secrets(way: Way) -> None:
    """No key is in the file, and none decides which answer comes."""
    secret = "sk-0123456789"
    with serve("hi", faults=[Fault(headers={"x-token": secret})]) as server:
        for key in (secret, "another-key"):
            backend = (Gpt if way.kind == "blocking" else AsyncGpt)(
                server_url=f"{server.url}?api_key={key}", api_key=key
            ).backend
            made, _ = way(use=calls(ask(headers={"x-api-key": key}, query={"token": key}), read("b")), backend=backend)
            assert "hi" == made[0].text
        assert 2 == server.answered
    assert secret.encode() not in way.path.read_bytes()


def test_dropped(tmp_path: Path) -> None:
    """A cached stream that is closed gives nothing more; a stream that is dropped is not kept."""
    cache = Cache(Scripted(streamed()), tmp_path / "x")
    stream = cache.stream(REQUEST)
    next(stream)
    del stream
    gc.collect()
    assert 0 == cache.stats().answers
    assert len(CHUNKS) == len(list(cache.stream(REQUEST)))
    kept = cache.stream(REQUEST)
    next(iter(kept))
    kept.close()
    assert [] == list(kept)
    cache.close()

    async def run() -> None:
        other = AsyncCache(AsyncScripted("no"), tmp_path / "x")
        other._server = cache._server
        kept = await other.stream(REQUEST)
        await anext(kept)
        await kept.close()
        assert [] == [one async for one in kept]
        await other.close()

    asyncio.run(run())


def test_badly_ended(way: Way) -> None:
    """After its end a stream ends again, and is kept once; an error in it is raised as it is."""
    (first, second, error), script = way(streamed(), BadRequestError("no", 400), use=calls(pieces(), pieces(), pieces("b")))
    assert len(first) == len(second)
    assert isinstance(error, BadRequestError)
    cache = Cache(Scripted(streamed()), way.path)
    stream = cache.stream(ChatRequest(messages=[UserMessage("c")]))
    assert len(CHUNKS) == len(list(stream))
    assert [] == list(stream)
    assert 2 == cache.stats().answers
    cache.close()
