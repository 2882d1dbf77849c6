"""Calls written down, and answered from what was written, on both clients."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt import (
    AsyncGpt,
    AsyncRecord,
    AsyncReplay,
    ChatCompletion,
    ChatRequest,
    Gpt,
    GptError,
    InvalidRequestError,
    Profile,
    RateLimitError,
    Record,
    Replay,
    ReplayError,
    RequestTimeoutError,
    ServerError,
    StreamTruncatedError,
    UserMessage,
)
from gpt.backend import CallOptions
from gpt.layers import record as module
from gpt.layers.watch import AsyncWatched, Watched
from gpt.protocol.recording import HEADER
from gpt.testing import AsyncScripted, Fault, Scripted, no_waiting, serve
from gpt.testing.scripted import chunk

SECRET = "sk-0123456789"
TALK = [chunk("the "), chunk("Nile"), chunk(None, "stop")]
REQUEST = ChatRequest(messages=[UserMessage("a")])


class Way:
    """Records and replays, with a blocking client or one on asyncio."""

    def __init__(self, kind: str, path: Path) -> None:
        self.blocking = kind == "blocking"
        self.path = path / "deep" / "talk.jsonl"

    def record(self, *script: Any, use: Callable[[Any], Any], url: str = "", **settings: Any) -> Any:
        """What `use` makes of a client that is recorded."""
        if self.blocking:
            below: Any = Gpt(server_url=url, **settings).backend if url else Scripted(*script)
            with Gpt(backend=Record(below, self.path), model="m") as client:
                return use(client)

        async def run() -> Any:
            below: Any = AsyncGpt(server_url=url, **settings).backend if url else AsyncScripted(*script)
            async with AsyncGpt(backend=AsyncRecord(below, self.path), model="m") as client:
                return await use(client)

        return asyncio.run(run())

    def replay(self, use: Callable[[Any], Any], **settings: Any) -> Any:
        """What `use` makes of a client that is answered from the recording."""
        if self.blocking:
            with Gpt(backend=Replay(self.path, **settings), model="m") as client:
                return use(client)

        async def run() -> Any:
            async with AsyncGpt(backend=AsyncReplay(self.path, **settings), model="m") as client:
                return await use(client)

        return asyncio.run(run())

    def lines(self) -> list[dict[str, Any]]:
        """The recorded calls."""
        return [json.loads(line) for line in self.path.read_text().splitlines()[1:]]


@pytest.fixture(params=["blocking", "asyncio"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    return Way(request.param, tmp_path)


def calls(*steps: Any) -> Callable[[Any], Any]:
    """What these steps, functions of a client, give one after another; their errors too."""

    def caught(step: Any, client: Gpt) -> Any:
        try:
            return step(client)
        except GptError as error:
            return error

    async def on_asyncio(client: AsyncGpt) -> list[Any]:
        made = []
        for step in steps:
            try:
                made.append(await step(client))
            except GptError as error:
                made.append(error)
        return made

    return lambda client: [caught(step, client) for step in steps] if isinstance(client, Gpt) else on_asyncio(client)


def ask(prompt: Any = "a", **params: Any) -> Callable[[Any], Any]:
    return lambda client: client.chat.complete(prompt, **params)


def read(prompt: Any = "a", **params: Any) -> Callable[[Any], Any]:
    return lambda client: client.chat.stream(prompt, **params).until_done()


def pieces(prompt: str = "a") -> Callable[[Any], Any]:
    """The texts of a stream's chunks."""

    async def on_asyncio(client: AsyncGpt) -> list[str]:
        return [one.text async for one in await client.chat.completions.create(messages=[UserMessage(prompt)], stream=True)]

    def blocking(client: Gpt) -> list[str]:
        return [one.text for one in client.chat.completions.create(messages=[UserMessage(prompt)], stream=True)]

    return lambda client: blocking(client) if isinstance(client, Gpt) else on_asyncio(client)


def leave(client: Any) -> Any:
    """What the first event of a stream says, which is then left."""

    async def on_asyncio() -> str:
        async with client.chat.stream("a") as stream:
            return (await anext(stream)).delta

    def blocking() -> str:
        with client.chat.stream("a") as stream:
            return next(stream).delta

    return blocking() if isinstance(client, Gpt) else on_asyncio()


def models(client: Any) -> Any:
    return client.models.list()


# --------------------------------------------------------------------------------------------------------------------
# Recorded and replayed
# --------------------------------------------------------------------------------------------------------------------


def test_whole(way: Way) -> None:
    """A whole answer, and the list of models, come again from the file, to the byte and with their facts."""
    with serve("the Nile", faults=[Fault(headers={"x-request-id": "r", "set-cookie": SECRET})]) as server:
        recorded = way.record(url=server.url, use=calls(ask(temperature=0, user="u"), models))
    answer, listed = way.replay(calls(ask(temperature=0), models))
    assert recorded[0].to_json() == answer.to_json()
    assert (200, "r", 1) == (answer.info.status, answer.info.request_id, len(answer.info.attempts))
    assert not answer.info.cached
    assert pytest.approx(recorded[0].info.elapsed, abs=1e-6) == answer.info.elapsed
    assert recorded[1].to_json() == listed.to_json()
    first, second = way.lines()
    assert {"model": "m", "messages": [{"content": "a", "role": "user"}], "temperature": 0, "user": "u"} == first["request"]
    assert ("complete", server.url, "models", server.url) == (first["call"], first["server"], second["call"], second["server"])
    assert "request" not in second


def test_streamed(way: Way) -> None:
    """A stream comes again in its chunks; so does one that is asked for whole, and the other way round."""
    recorded = way.record(TALK, "hi", use=calls(read(), ask("b")))
    made = way.replay(calls(read(), read("b"), pieces(), ask(), pieces("b")), strict=False)
    assert recorded == made[:2]
    assert (["the ", "Nile", ""], "the Nile", ["hi"]) == (made[2], made[3].text, made[4])
    (line, _) = way.lines()
    assert ["the ", "Nile", None] == [one["choices"][0]["delta"].get("content") for _, one in line["chunks"]]
    times = [at for at, _ in line["chunks"]]
    assert sorted(times) == times
    assert 0 <= times[0] <= times[-1] <= line["elapsed"]


def test_over_http(way: Way) -> None:
    """A server's stream comes again with its bytes, its facts and its end."""
    with serve("the Nile is long") as server:
        (recorded,) = way.record(url=server.url, use=calls(read()))
    (made,) = way.replay(calls(read()))
    assert recorded == made
    assert recorded.to_dict() == made.to_dict()
    assert ("complete", 200) == (made.info.ended, made.info.status)
    assert made.info.first_token is not None


def test_errors(way: Way) -> None:
    """An error is raised again as it was: of a call, of a stream before its first chunk and in it, and of the list of models."""
    with (
        serve("hi", faults=[Fault(status=429, headers={"retry-after": "7", "x-ratelimit-limit-requests": "5"})]) as server,
        no_waiting(),
    ):
        recorded = way.record(url=server.url, max_retries=1, use=calls(ask(), read(), models))
    way.record([chunk("a"), StreamTruncatedError("cut")], use=calls(read("b")))
    made = way.replay(calls(ask(), read(), models, read("b"), ask("b")), strict=False)
    for error, twin in zip(recorded, made[:3], strict=True):
        assert type(error) is type(twin) is RateLimitError
        assert (error.message, error.status_code, error.body, error.retry_after) == (
            twin.message,
            twin.status_code,
            twin.body,
            7,
        )
        assert [one.status for one in error.attempts] == [one.status for one in twin.attempts] == [429, 429]
        assert error.rate_limits == twin.rate_limits is not None
    assert isinstance(made[3], StreamTruncatedError)
    assert made[3].partial is not None
    assert "a" == made[3].partial.text
    assert isinstance(made[4], StreamTruncatedError)


def test_left(way: Way) -> None:
    """A stream that was left is written down as far as it was read, and says so where a reader goes on."""
    assert ["the "] == way.record(TALK, use=calls(leave))
    assert ["the "] == way.replay(calls(leave))
    beyond, whole = way.replay(calls(read(), ask()), strict=False)
    assert isinstance(beyond, ReplayError)
    assert "left this stream here" in beyond.message
    assert beyond.partial is not None
    assert "the " == beyond.partial.text
    assert isinstance(whole, ReplayError)


def test_dropped(tmp_path: Path) -> None:
    """One that is dropped was left too; one that came to its end is written once."""
    for wrap, taken in (
        (lambda: Record(Scripted(TALK), tmp_path / "x"), 2),
        (lambda: Record(Scripted(TALK), tmp_path / "x"), 4),
    ):
        stream = wrap().stream(REQUEST)
        for _ in range(taken):
            next(iter(stream), None)
        del stream
        gc.collect()

    async def run() -> None:
        stream = await AsyncRecord(AsyncScripted(TALK), tmp_path / "x").stream(REQUEST)
        await anext(stream)
        del stream
        gc.collect()

    asyncio.run(run())
    lines = [json.loads(line) for line in (tmp_path / "x").read_text().splitlines()[1:]]
    assert [(2, True), (3, False), (1, True)] == [(len(line["chunks"]), line.get("left", False)) for line in lines]


def test_cancelled(tmp_path: Path) -> None:
    """A call that was cancelled before its answer is not written down; nobody could replay it."""

    class Never(AsyncScripted):
        async def complete(self, *_: Any) -> Any:
            await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.ensure_future(AsyncRecord(Never("a"), tmp_path / "x").complete(REQUEST))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert [] == os.listdir(tmp_path)


def test_what_cannot_be_sent(way: Way) -> None:
    """What is no request is the backend's to refuse, and is not in the recording."""
    made = way.record("hi", TALK, use=calls(ask([]), read([])))
    assert ["hi", "the Nile"] == [one.text for one in made]
    assert not way.path.exists()


def test_generator(way: Way) -> None:
    """Messages that can be read once are read once, sent and written."""
    request = lambda: ChatRequest(messages=(UserMessage(text) for text in "ab"))  # noqa: E731
    (made,) = way.record("hi", use=calls(lambda client: client.backend.complete(request())))
    (again,) = way.replay(calls(lambda client: client.backend.complete(request())))
    assert "hi" == made.text == again.text
    assert ["a", "b"] == [one["content"] for one in way.lines()[0]["request"]["messages"]]


# --------------------------------------------------------------------------------------------------------------------
# Secrets
# --------------------------------------------------------------------------------------------------------------------

ECHO = Fault(
    status=400, body={"error": {"message": f"what is {SECRET}?"}}, headers={"x-key": SECRET, "www-authenticate": SECRET}
)


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"api_key": SECRET}, {}),
        ({"api_key": lambda: SECRET}, {}),
        ({"api_key": SECRET}, {"user": SECRET}),
        ({"headers": {"X-Api-Key": SECRET}}, {}),
        ({"headers": {"Cookie": f"a=b; id={SECRET}"}}, {}),
        ({"query": {"api_key": SECRET}}, {}),
        ({}, {"headers": {"Authorization": f"Bearer {SECRET}"}}),
        ({}, {"headers": {"Cookie": f"id={SECRET}"}}),
        ({}, {"query": {"token": SECRET}}),
        ({}, {"body": {"api_key": SECRET}}),
        ({}, {"body": {"auth": {"token": [f"Bearer {SECRET}"]}}}),
        ({}, {"tools": [{"type": "mcp", "authorization": SECRET}]}),
    ],
)
@pytest.mark.parametrize("fault", [ECHO, Fault(headers={"x-key": SECRET})], ids=["repeated", "not repeated"])
def test_secrets(way: Way, settings: dict[str, Any], params: dict[str, Any], fault: Fault) -> None:
    """A key is in no line, wherever it was given, and though the server repeats it."""
    # Calls without the parameters do not send the key, so a server has none to repeat.
    steps = [ask(**params), read(**params), *([] if params else [leave, models])]
    with serve("hi", faults=[fault]) as server:
        way.record(url=server.url, use=calls(*steps), **settings)
        assert all(SECRET in str(one) for one in server.requests)
    assert SECRET.encode() not in way.path.read_bytes()
    assert len(steps) == len(way.lines())


def test_in_texts(way: Way) -> None:
    """A known key that is in what was said is left out of the line too."""
    with serve(f"your key is {SECRET}") as server:
        way.record(url=server.url, api_key=SECRET, use=calls(ask(f"my key is {SECRET}"), read("b")))
    assert SECRET.encode() not in way.path.read_bytes()
    assert "my key is ..." == way.lines()[0]["request"]["messages"][0]["content"]


# --------------------------------------------------------------------------------------------------------------------
# What is asked
# --------------------------------------------------------------------------------------------------------------------


def test_not_recorded(way: Way) -> None:
    """A request that was not recorded is refused, with the nearest one and the first difference; nothing is used up."""
    way.record("a", "b", use=calls(ask("Name two rivers."), ask("Name two rivers.", temperature=1)))
    (error, answer, late) = way.replay(calls(ask("Name ten rivers.", seed=5), ask("Name two rivers."), ask("Name two rivers.")))
    assert isinstance(error, ReplayError)
    assert (2, "messages[0].content", "caller") == (error.line, error.param, error.fault)
    assert "recorded 'Name two rivers.', asked 'Name ten rivers.', and 1 more" in error.message
    assert "a" == answer.text
    assert "recorded 1 times (line 2) and is asked for once more" in late.message


def test_in_order(way: Way) -> None:
    """Each answer is used once, in order; the client can tell that all were used; loosely the last one repeats."""
    way.record("1", "2", use=calls(ask(), ask()))

    def left(client: Any) -> Any:
        async def number() -> int:
            return client.backend.left

        return client.backend.left if isinstance(client, Gpt) else number()

    assert [2, "1", 1, "2", 0] == [getattr(one, "text", one) for one in way.replay(calls(left, ask(), left, ask(), left))]
    assert ["1", "2", "2"] == [one.text for one in way.replay(calls(ask(), ask(), ask()), strict=False)]


def test_secrets_match(way: Way) -> None:
    """What was left out as a secret may be another one when it is replayed."""
    way.record("hi", use=calls(ask(body={"api_key": SECRET})))
    (made,) = way.replay(calls(ask(body={"api_key": "another"})))
    assert "hi" == made.text


def test_profile(way: Way) -> None:
    """The recording knows the server's profile, by which requests are made: thinking, values."""
    profile = Profile(echoes="always", think_tags=("<think>", "</think>"), rungs=("tool",))
    with serve("<think>hm</think>5") as server:
        recorded = way.record(url=server.url, profile=profile, use=calls(read()))
        way.record(url=server.url, profile=profile, use=calls(ask([recorded[0].message, UserMessage("b")])))
    (made, more) = way.replay(calls(read(), ask([recorded[0].message, UserMessage("b")])))
    assert ("hm", "5", "hm") == (made.message.reasoning, made.text, more.message.reasoning)
    assert profile == Replay(way.path).profile
    assert Profile(dialect="azure") == Replay(way.path, profile=Profile(dialect="azure")).profile


def test_used_by_threads(tmp_path: Path) -> None:
    """Threads share a recorder and a replay; each line is whole, and each answer is used once."""
    script = Scripted(*[str(number) for number in range(80)])
    recorder = Record(script, tmp_path / "x")

    def work(backend: Any, made: list[str]) -> None:
        for _ in range(10):
            made.append(backend.complete(REQUEST).text)

    for backend in (recorder, Replay(tmp_path / "x") if (tmp_path / "x").exists() else None):
        backend = backend or Replay(tmp_path / "x")
        made: list[str] = []
        threads = [threading.Thread(target=work, args=(backend, made)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, range(80))) == sorted(made)


# --------------------------------------------------------------------------------------------------------------------
# Pace and pieces
# --------------------------------------------------------------------------------------------------------------------


class Time:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


def paced(way: Way, time: Time, use: Callable[[Any], Any]) -> Any:
    return way.replay(use, paced=True, clock=time, sleep=time.sleep if way.blocking else time.asleep)


def slow(way: Way) -> None:
    """A recording of a stream with chunks after 0.5, 0.5 and 2 s and its end after 2.25, and of an answer after 1 s."""
    way.path.parent.mkdir()
    chunks = [[at, json.loads(one.to_json())] for at, one in zip((0.5, 0.5, 2), TALK, strict=True)]
    asked = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    answer = {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}
    lines = [
        {"call": "stream", "request": asked, "chunks": chunks, "elapsed": 2.25},
        {"call": "complete", "request": {**asked, "seed": 1}, "answer": answer, "elapsed": 1},
        {"call": "complete", "request": {**asked, "seed": 2}, "error": {"type": "ServerError", "message": "m"}, "elapsed": 1.5},
        {"call": "models", "answer": {"data": []}, "elapsed": 0.25},
        {"call": "stream", "request": {**asked, "seed": 3}, "error": {"type": "ServerError", "message": "m"}, "elapsed": 3},
    ]
    way.path.write_bytes(HEADER + b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def test_paced(way: Way) -> None:
    """With `paced` all comes when it came."""
    slow(way)
    time = Time()
    made = paced(way, time, calls(pieces(), ask(seed=1), ask(seed=2), models, read(seed=3)))
    assert (["the ", "Nile", ""], "hi") == (made[0], made[1].text)
    assert [0.5, 1.5, 0.25, 1, 1.5, 0.25, 3] == time.waits
    assert isinstance(made[2], ServerError)
    assert isinstance(made[4], ServerError)


def test_slow_reader(way: Way) -> None:
    """Who reads slowly waits for nothing that would have come by then."""
    slow(way)
    time = Time()

    def blocking(client: Gpt) -> None:
        for _ in client.chat.completions.create(messages=[UserMessage("a")], stream=True):
            time.now += 1.5

    async def on_asyncio(client: AsyncGpt) -> None:
        async for _ in await client.chat.completions.create(messages=[UserMessage("a")], stream=True):
            time.now += 1.5

    paced(way, time, lambda client: blocking(client) if way.blocking else on_asyncio(client))
    assert [0.5] == time.waits


def test_unpaced(way: Way) -> None:
    """Without it nothing waits."""
    slow(way)
    time = Time()
    way.replay(calls(pieces(), ask(seed=1), models), clock=time, sleep=time.sleep if way.blocking else time.asleep)
    assert [] == time.waits


def test_deadline(way: Way) -> None:
    """Where the deadline comes first, it ends the call when it comes."""
    slow(way)
    time = Time()
    whole, stream = paced(way, time, calls(ask(seed=1, deadline=0.75), read(deadline=1.5)))
    for error in (whole, stream):
        assert isinstance(error, RequestTimeoutError)
        assert "deadline" == error.phase
    assert stream.partial is not None
    assert "the Nile" == stream.partial.text
    assert [0.75, 0.5, 1.0] == time.waits


def test_cancelled_while_waiting(tmp_path: Path) -> None:
    """A blocking call that nobody waits for any more stops."""
    way = Way("blocking", tmp_path)
    slow(way)
    cancel = threading.Event()
    cancel.set()
    replay = Replay(way.path, paced=True, clock=Time())
    with pytest.raises(GptError, match="cancelled"):
        replay.models(CallOptions(cancel=cancel))


def test_recut(way: Way) -> None:
    """With `recut` texts come in pieces of so many characters, and add up to the same."""
    way.record(TALK, use=calls(read()))
    made, whole = way.replay(calls(pieces(), read()), recut=3, strict=False)
    assert (["the", " ", "Nil", "e", ""], "the Nile") == (made, whole.text)


def test_closed(way: Way) -> None:
    """A stream that was left gives nothing more."""
    way.record(TALK, use=calls(read()))

    def blocking(client: Gpt) -> list[str]:
        stream = client.backend.stream(msg())
        next(stream)
        stream.close()
        return [one.text for one in stream]

    async def on_asyncio(client: AsyncGpt) -> list[str]:
        stream = await client.backend.stream(msg())
        await anext(stream)
        await stream.close()
        return [one.text async for one in stream]

    msg = lambda: ChatRequest(model="m", messages=[UserMessage("a")])  # noqa: E731
    assert [] == way.replay(lambda client: blocking(client) if way.blocking else on_asyncio(client))


# --------------------------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------------------------


def test_appended(way: Way) -> None:
    """A second recording goes on where the first ended."""
    way.record("1", use=calls(ask()))
    way.record("2", use=calls(ask()))
    assert ["1", "2"] == [one.text for one in way.replay(calls(ask(), ask()))]
    assert 1 == way.path.read_bytes().count(HEADER.strip())


LINE = b'{"call":"models","answer":{"data":[]}}\n'


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (b"", HEADER),
        (HEADER[:10], HEADER),
        (HEADER.strip(), HEADER),
        (HEADER, HEADER),
        (HEADER + LINE, HEADER + LINE),
        (HEADER + LINE.strip(), HEADER + LINE),
        (HEADER + LINE + LINE[:-5], HEADER + LINE),
        (HEADER + LINE + b'{"' + b"x" * 200_000, HEADER + LINE),
        (
            HEADER + LINE + LINE.replace(b"[]", b"[" + b" " * 200_000 + b"]").strip(),
            HEADER + LINE + LINE.replace(b"[]", b"[" + b" " * 200_000 + b"]"),
        ),
        (b'{"version":1,"format":"gpt-record"}\n', b'{"version":1,"format":"gpt-record"}\n'),
    ],
)
def test_mended(way: Way, before: bytes, kept: bytes) -> None:
    """What was not written whole is taken away before the next line, and nothing else is."""
    way.path.parent.mkdir()
    way.path.write_bytes(before)
    way.record("hi", use=calls(models))
    after = way.path.read_bytes()
    assert kept == after[: len(kept)]
    assert 1 == after[len(kept) :].count(b"\n")
    assert b"scripted" in after[len(kept) :]


@pytest.mark.parametrize("content", [b"dear diary", b"dear diary\n", b"", b'{"format":"gpt-record","version":2}\n'])
def test_not_a_recording(tmp_path: Path, content: bytes) -> None:
    """A file that is something else is refused before anything is asked, and left as it is."""
    path = tmp_path / "x"
    path.write_bytes(content)
    for kind in (Record, AsyncRecord) if content else ():
        with pytest.raises(InvalidRequestError, match="x: is (no|a) recording"):
            kind(Scripted("a"), path)  # type: ignore[arg-type, type-var]
    for kind in (Replay, AsyncReplay):
        with pytest.raises(InvalidRequestError, match="x: is (no|a) recording"):
            kind(path)
    assert content == path.read_bytes()


def test_no_file(tmp_path: Path) -> None:
    """Where there is no file, that is said."""
    for kind in (Replay, AsyncReplay):
        with pytest.raises(InvalidRequestError, match=r"cannot read the recording .*x.jsonl: .*No such file"):
            kind(tmp_path / "x.jsonl")
    with pytest.raises(InvalidRequestError, match="cannot read"):
        Record(Scripted("a"), tmp_path)


def test_became_another(way: Way) -> None:
    """Where the file has become another's meanwhile, it is left alone; the answer is not lost."""

    def change(client: Any) -> Any:
        way.path.write_text("dear diary")

        async def nothing() -> None: ...

        return None if way.blocking else nothing()

    with pytest.warns(RuntimeWarning, match="record: cannot write .*is no recording.*the call goes on"):
        made = way.record("1", "2", use=calls(ask(), change, ask()))
    assert ("2", "dear diary") == (made[2].text, way.path.read_text())


def test_broken_disk(way: Way) -> None:
    """What cannot be written is a warning; the answer is not lost."""

    def change(client: Any) -> Any:
        way.path.parent.touch()  # a file where a folder must be

        async def nothing() -> None: ...

        return None if way.blocking else nothing()

    with pytest.warns(RuntimeWarning, match="record: cannot write .*; the call goes on, and is not in the recording"):
        made = way.record("hi", TALK, use=calls(change, ask(), read()))
    assert ["hi", "the Nile"] == [one.text for one in made[1:]]


def test_no_locks(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without locks of files lines are written all the same."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    way.record("hi", use=calls(ask()))
    assert 1 == len(way.lines())


def test_processes(tmp_path: Path) -> None:
    """Processes that begin together write one recording, with one first line and each line whole."""
    program = f"""
import sys
from gpt import ChatRequest, Record, UserMessage
from gpt.testing import Scripted
recorder = Record(Scripted("x" * 20_000), {str(tmp_path / "x")!r})
for turn in range(20):
    recorder.complete(ChatRequest(messages=[UserMessage(f"{{sys.argv[1]}} {{turn}}")]))
"""
    running = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(4)]
    assert [0, 0, 0, 0] == [process.wait() for process in running]
    assert 80 == Replay(tmp_path / "x").left
    assert (tmp_path / "x").read_bytes().startswith(HEADER)


# --------------------------------------------------------------------------------------------------------------------
# As a layer
# --------------------------------------------------------------------------------------------------------------------


def test_layer(tmp_path: Path) -> None:
    """A recorder stands for what is below it, and closes it."""
    below = Scripted("hi")
    recorder = Record(below, tmp_path / "x")
    assert (None, None, None) == (recorder.profile, recorder.count_tokens, recorder.endpoint)
    assert f"Record(Scripted(1 answers left), {str(tmp_path / 'x')!r})" == repr(recorder)
    recorder.close()
    assert below.closed
    with serve("hi") as server:
        watched = Record(Watched(Gpt(server_url=server.url, api_key=SECRET).backend, print), tmp_path / "x")  # type: ignore[arg-type]
        assert [SECRET] == module._secrets(watched._backend, CallOptions())
        assert server.url == watched._server
    assert isinstance(AsyncRecord(AsyncWatched(AsyncScripted("a"), print), tmp_path / "x").profile, type(None))  # type: ignore[arg-type]
    recorder.complete(REQUEST)
    assert f"Replay({str(tmp_path / 'x')!r})" == repr(Replay(tmp_path / "x"))


URLS: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("?recut=3", {"_recut": 3}),
    ("?recut=3&seed=7", {"_recut": 3, "_seed": 7}),
    ("?paced=true&strict=false", {"_paced": True}),
    ("?paced=false&strict=true", {}),
]


@pytest.mark.parametrize(("settings", "what"), URLS)
@pytest.mark.parametrize("slashes", ["", "//"])
def test_by_url(way: Way, settings: str, what: dict[str, Any], slashes: str) -> None:
    """A URL names a recording to both clients, with its settings."""
    way.record(TALK, use=calls(read()))
    url = f"replay:{slashes}{way.path}{settings}"

    usual = {"_recut": None, "_seed": None, "_paced": False}

    def settled(client: Any) -> None:
        assert usual | what == {name: getattr(client.backend, name) for name in usual}
        assert ("strict=false" not in settings) == client.backend._tape._strict

    async def on_asyncio() -> ChatCompletion:
        async with AsyncGpt(server_url=url, model="m", timeout=5) as client:
            settled(client)
            return await client.chat.complete("a")

    if way.blocking:
        with Gpt(server_url=url, model="m", timeout=5) as client:
            settled(client)
            made = client.chat.complete("a")
    else:
        made = asyncio.run(on_asyncio())
    assert "the Nile" == made.text


def test_by_environment(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment may name a recording as it names a server."""
    way.record(TALK, use=calls(read()))
    monkeypatch.setenv("OPENAI_BASE_URL", f"replay:{way.path}")
    assert "the Nile" == Gpt(model="m").chat.complete("a").text


WRONG_URLS: list[tuple[str, dict[str, Any], str]] = [
    ("replay:", {}, 'server_url: "replay:" needs a recording'),
    ("replay:x?zap=1", {}, "server_url: 'replay:x\\?zap=1' has zap=1; there are recut"),
    ("replay:x?recut=few", {}, "has recut=few"),
    ("replay:x?recut=-1", {}, "has recut=-1"),
    ("replay:x?strict=no", {}, "has strict=no"),
    ("replay:x?strict", {}, "has strict=;"),
    ("replay:x?recut=0", {}, "recut: expected characters a piece"),
    ("replay:x?seed=1", {}, "seed: says where streams are cut, which needs recut="),
    ("replay:nowhere.jsonl", {}, "path: cannot read the recording nowhere.jsonl"),
    ("replay:x", {"headers": {"a": "b"}}, 'headers: has no meaning with "replay:", where there is no server'),
]


@pytest.mark.parametrize(("url", "settings", "text"), WRONG_URLS)
@pytest.mark.parametrize("kind", [Gpt, AsyncGpt])
def test_wrong_urls(kind: Any, url: str, settings: dict[str, Any], text: str) -> None:
    """What names no recording, or has no meaning with one, is refused by name."""
    with pytest.raises(InvalidRequestError, match=text):
        kind(server_url=url, **settings)


def test_recut_by_seed(way: Way) -> None:
    """With a seed texts come in pieces of 1 to so many characters, the same for every stream and every run with that seed."""
    way.record([chunk("the Nile is a long river in Africa"), chunk(None, "stop")], use=calls(read()))
    first, again = way.replay(calls(pieces(), pieces()), recut=4, seed=1, strict=False)
    (other,) = way.replay(calls(pieces()), recut=4, seed=2)
    assert first == again != other
    assert ["the Nile is a long river in Africa"] * 2 == ["".join(first), "".join(other)]
    assert {1, 2, 3, 4} == {len(piece) for piece in first if piece}


def test_paced_without_waiting(way: Way) -> None:
    """Where no test waits a paced replay gives all at once; the deadline is still held against the recorded times."""
    slow(way)
    time = Time()
    sleep = time.sleep if way.blocking else time.asleep
    with no_waiting():
        made = way.replay(calls(read(), read(deadline=0.1)), paced=True, strict=False, clock=time, sleep=sleep)
    assert isinstance(made[1], RequestTimeoutError)
    assert ("the Nile", []) == (made[0].text, time.waits)


@pytest.mark.parametrize("recut", [0, True, 1.5])
@pytest.mark.parametrize("kind", [Replay, AsyncReplay])
def test_settings(tmp_path: Path, kind: Any, recut: Any) -> None:
    """Settings that make no sense are refused by name."""
    with pytest.raises(InvalidRequestError, match="recut: expected characters a piece"):
        kind(tmp_path / "x", recut=recut)
