"""Rows asked: by whichever client is named, with which key, at what cost, and what is closed at the end."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpt import AsyncGpt, Fallback, Gpt, GptError, InvalidRequestError, Limit, Local, Pace, Price, Prices
from gpt.backend import CallOptions, below, host_of, in_threads
from gpt.batch.asking import MOST, Asking, client_of, width_of
from gpt.batch.jobs import Task
from gpt.batch.memory import row_of
from gpt.batch.progress import Facts
from gpt.batch.rows import Row
from gpt.fallback import AsyncFallback
from gpt.protocol.codec import decode_completion, with_info
from gpt.protocol.wire import ResponseInfo
from gpt.remote.backend import AsyncRemoteBackend
from gpt.testing import AsyncScripted, FaultServer, Scripted, serve
from gpt.testing.loopback import closed_port, completion
from gpt.types import ChatCompletion


class Closing(Scripted):
    """Tells how often it was closed."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*(answers or ("hi",)))
        self.closes = 0

    def close(self) -> None:
        self.closes += 1


class AsyncClosing(AsyncScripted):
    """The same on asyncio."""

    def __init__(self) -> None:
        super().__init__("hi")
        self.closes = 0

    async def close(self) -> None:
        self.closes += 1


class AsyncOverlaid(AsyncGpt):
    """A client of a caller's own class."""


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serve("hi") as made:
        yield made


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    """What was made is closed: no thread stays behind but those that are just ending."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive(), thread.name


def leave(client: Any) -> None:
    """Close a client of either kind, as its caller does."""
    closing = client.close()
    if closing is not None:
        asyncio.run(_awaited(closing))


async def _awaited(closing: Any) -> None:
    await closing


ROW = row_of(3, "Name a river.")


def asking(client: Any, task: Task = Task(), job: str = "job", **more: Any) -> Asking:
    return Asking(client_of(client), task, job, Pace(max_concurrent=8), **more)


def asked(client: Any, *rows: Row, task: Task = Task(), **more: Any) -> list[tuple[Facts, Any]]:
    """What became of rows that are asked one after another."""

    async def main() -> list[tuple[Facts, Any]]:
        made = asking(client, task, **more)
        try:
            return [(facts, json.loads(line)) for facts, line in [await made.ask(row) for row in rows or (ROW,)]]
        finally:
            await made.close()

    return asyncio.run(main())


# --------------------------------------------------------------------------------------------------------------------
# Which client
# --------------------------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[FaultServer], Any]] = {
    "a URL": lambda server: server.url,
    "an AsyncGpt": lambda server: AsyncGpt(server_url=server.url, model="m"),
    "a Gpt": lambda server: Gpt(server_url=server.url, model="m"),
    "a Backend": lambda server: Scripted("hi"),
    "an AsyncBackend": lambda server: AsyncScripted("hi"),
    "a layer": lambda server: Limit(Gpt(server_url=server.url).backend, max_concurrent=2),
    "a Gpt over one": lambda server: Gpt(backend=Scripted("hi")),
    "a blocking Fallback": lambda server: Fallback([server.url]),
    "a list": lambda server: [f"http://127.0.0.1:{closed_port()}/v1", Scripted("hi")],
    "pairs": lambda server: ((server.url, "m"), (Gpt(server_url=server.url), "n")),
    "a function of a URL": lambda server: lambda: server.url,
    "a function of a Gpt": lambda server: lambda: Gpt(server_url=server.url),
    "a function of a Backend": lambda server: lambda: Scripted("hi"),
    "a function of a list": lambda server: lambda: [server.url, "local:"],
    "a class": lambda server: type("Mine", (Scripted,), {"__init__": lambda self: Scripted.__init__(self, "hi")}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(server: FaultServer, kind: str) -> None:
    """Each kind of client answers a row."""
    given = KINDS[kind](server)
    ((facts, line),) = asked(given, task=Task(model="m"))
    assert (3, "hi", None, "") == (line["row"], line["text"], line["error"], facts.kind)
    if hasattr(given, "close") and not isinstance(given, type):
        leave(given)


def test_environment(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a client the environment's server is asked, with its key."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "the-key")
    asked(None, task=Task(model="m"))
    assert "authorization: Bearer the-key" in server.requests[0][0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (3, "got int"),
        ([], "the list is empty"),
        ([3], "got int"),
        (lambda: None, "got a function that gave NoneType"),
        (lambda: lambda: "local:", "got a function that gave function"),
        (lambda: 3, "got int"),
        (object(), "got object"),
    ],
)
def test_no_client(given: Any, told: str) -> None:
    """What is no client is named."""
    with pytest.raises(InvalidRequestError, match=told) as caught:
        client_of(given)
    assert "client" == caught.value.param


def test_model() -> None:
    """The model is that of a client which is made here; a caller's client keeps its own."""
    assert "m" == client_of("http://127.0.0.1:9/v1", "m")._core.model
    assert "m" == client_of(Scripted("hi"), "m")._core.model
    assert "m" == client_of(["http://127.0.0.1:9/v1"], "m")._core.model
    assert "own" == client_of(Gpt(server_url="http://127.0.0.1:9/v1", model="own"), "m")._core.model


def test_connections(server: FaultServer) -> None:
    """A blocking client that asks a server has a twin on asyncio; what is the caller's own way out goes in threads."""
    with httpx.Client() as way_out, Gpt(server_url=server.url, api_key="k") as client:
        own = Gpt(server_url=server.url, model="m", client=way_out)
        assert "hi" == asked(own)[0][1]["text"]
        twin = client_of(client)
        assert isinstance(twin.backend, AsyncRemoteBackend)
        assert client.backend.endpoint is twin.backend.endpoint
        assert not isinstance(client_of(own).backend, AsyncRemoteBackend)
        assert repr(in_threads(own.backend)) == repr(client_of(own).backend)


def test_settings_and_sums(server: FaultServer) -> None:
    """A caller's client is asked by its own settings, tells its own hook, and counts the calls as its own."""
    for kind in (Gpt, AsyncGpt, AsyncOverlaid):
        events: list[str] = []
        client = kind(
            server_url=server.url, model="own", headers={"x-mine": "1"}, on_event=lambda event: events.append(event.kind)
        )
        asked(client, ROW, ROW)
        head, body = server.requests[-1]
        assert ("own", True) == (json.loads(body)["model"], "x-mine: 1" in head)
        assert (2, 2) == (client.usage.calls, client.usage.answers)
        assert ["request", "done"] * 2 == events
        leave(client)


def test_fallback_counts(server: FaultServer) -> None:
    """In a list the one that answers counts, and the one that failed is passed over."""
    with Gpt(server_url=server.url, model="second") as second:
        (_, line) = asked([f"http://127.0.0.1:{closed_port()}/v1", second], task=Task())[0]
        assert ("hi", 1) == (line["text"], second.usage.answers)
    assert "second" == json.loads(server.requests[0][1])["model"]


# --------------------------------------------------------------------------------------------------------------------
# What is closed
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [None, "answers.sqlite"])
@pytest.mark.parametrize("backend", [Closing, AsyncClosing])
def test_open(tmp_path: Path, cache: str | None, backend: Any) -> None:
    """What a caller made stays open; what a function gave for the job is closed, once."""
    path = None if cache is None else str(tmp_path / cache)

    def client(made: Any) -> Any:
        return Gpt(backend=made) if backend is Closing else AsyncGpt(backend=made)

    for closes, given in [
        (0, lambda made: made),
        (0, client),
        (0, lambda made: [made]),
        (0, lambda made: [(client(made), "m")]),
        (0, lambda made: lambda: client(made).with_options(model="m")),
        (1, lambda made: lambda: made),
        (1, lambda made: lambda: client(made)),
        (1, lambda made: lambda: [made]),
    ]:
        made = backend("hi") if backend is Closing else backend()
        asked(given(made), cache=path)
        assert closes == made.closes


def test_open_client_goes_on(server: FaultServer) -> None:
    """A caller's client can be asked after a job, on the connection that it had."""

    async def main() -> None:
        async with AsyncGpt(server_url=server.url, model="m") as client:
            made = asking(client)
            await made.ask(ROW)
            await made.close()
            assert "hi" == (await client.chat.complete("and now?")).text

    asyncio.run(main())
    assert 2 == server.answered


def test_connections_are_closed(server: FaultServer) -> None:
    """A client that was made here leaves no connection open."""

    async def main(given: Any) -> None:
        made = asking(given, Task(model="m"))
        await made.ask(ROW)
        await made.close()
        assert server.ended.acquire(timeout=20)

    with Gpt(server_url=server.url) as client:
        for given in (server.url, [server.url], client, lambda: Gpt(server_url=server.url)):
            asyncio.run(main(given))


# --------------------------------------------------------------------------------------------------------------------
# How many at a time
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted", "width"),
    [
        ("http://127.0.0.1:9/v1", None, (MOST, True)),
        ("http://127.0.0.1:9/v1", 7, (7, True)),
        (Local(slots=3), None, (3, False)),
        (Local(slots=3), 2, (2, False)),
        (Gpt(backend=Limit(Local(slots=2), max_concurrent=9)), None, (2, False)),
        (["http://127.0.0.1:9/v1", "local:"], None, (MOST, True)),
    ],
)
def test_width(given: Any, wanted: int | None, width: tuple[int, bool]) -> None:
    """An engine is asked as many rows at a time as it has slots; a server, which others ask too, up to a limit."""
    assert width == width_of(client_of(given), wanted)


def test_engine_is_known() -> None:
    """Through all that is put over it the model in this process is known for what it is."""
    for given in ("local:", Local(), Gpt(backend=Local()), lambda: Local(), AsyncGpt(server_url="local:")):
        backend = client_of(given).backend
        assert ("local:", 4) == (host_of(backend), below(backend, "slots"))


def test_threads() -> None:
    """A backend that blocks is asked as many rows at once as a job may ask."""
    inside = threading.Barrier(70)

    def answer(request: Any) -> str:
        inside.wait(20)
        return "hi"

    async def main() -> None:
        made = Asking(client_of(Scripted(answer)), Task(), "job", Pace(max_concurrent=MOST))
        await asyncio.gather(*(made.ask(row_of(number, "hi")) for number in range(70)))
        await made.close()

    asyncio.run(main())


# --------------------------------------------------------------------------------------------------------------------
# The key of a row
# --------------------------------------------------------------------------------------------------------------------


def keys(server: FaultServer) -> list[str | None]:
    made = []
    for head, _ in server.requests:
        found = [line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("idempotency-key:")]
        made.append(found[0] if found else None)
    return made


def test_keys(server: FaultServer) -> None:
    """A row has the same key in each run of its job, and another than other rows and other jobs."""
    rows = [row_of(number, "the same") for number in (0, 1)]
    with Gpt(server_url=server.url, headers={"x-mine": "1"}) as client:
        for job, given in (("a", server.url), ("a", client), ("b", server.url)):
            asked(given, *rows, task=Task(model="m"), job=job)
    assert ["a-0", "a-1", "a-0", "a-1", "b-0", "b-1"] == keys(server)


def test_key_of_attempts() -> None:
    """The client's own attempts have the key of their row, too."""
    from gpt.testing import Fault, no_waiting

    with serve("hi", faults=[Fault(status=503, times=1)]) as server, no_waiting():
        asked(server.url, task=Task(model="m"), job="a")
    assert ["a-3", "a-3"] == keys(server)


def test_no_keys(server: FaultServer) -> None:
    """Where a row is asked several times over, or not by one server, there is none but those that the client makes by itself."""
    server.reply = '{"value": [1]}'
    asked(server.url, task=Task(model="m", into=list[int]), job="a")
    asked([server.url], task=Task(model="m"), job="a")
    assert [False, False] == ["a-3" in (key or "") for key in keys(server)]
    scripted = Scripted("hi")
    asked(scripted)
    assert [None] == [options.headers for options in scripted.options]


# --------------------------------------------------------------------------------------------------------------------
# What it took
# --------------------------------------------------------------------------------------------------------------------

PRICES = {"*": Price(input="1000000", output="2000000")}
"""A token of a prompt costs 1, one of an answer 2."""


class Clock:
    """Each look takes a second more than the one before."""

    def __init__(self) -> None:
        self.at = 0.0
        self.step = 0.0

    def __call__(self) -> float:
        self.step += 1
        self.at += self.step
        return self.at


def said(text: str) -> ChatCompletion:
    """An answer that took one token of a prompt and two of its own."""
    return decode_completion(json.dumps(completion(text)).encode())


def priced(*answers: Any) -> Gpt:
    return Gpt(backend=Scripted(*answers), prices=PRICES, model="m")


def test_cost() -> None:
    """An answer costs what the client says, and takes the time between two looks at the clock."""
    ((facts, _),) = asked(priced(said("hi")), clock=Clock())
    assert Facts(1, 2, 2.0, "", "5", "USD") == facts
    ((facts, _),) = asked(Gpt(backend=Scripted(said("hi")), prices=Prices({})), clock=Clock())
    assert Facts(1, 2, 2.0) == facts


def test_cost_of_a_value() -> None:
    """A value costs what all of its answers do."""
    ((facts, line),) = asked(
        priced(said("nothing"), said('{"value": [1]}')), task=Task(into=list[int], reasks=1), clock=Clock()
    )
    assert ([1], Facts(2, 4, 2.0, "", "10", "USD")) == (line["value"], facts)


def failing(client: Any, row: Row, task: Task) -> tuple[Facts, Any]:
    """What is put down of a row that fails."""

    async def main() -> tuple[Facts, Any]:
        made = asking(client, task)
        try:
            await made.ask(row)
        except GptError as raised:
            facts, line = made.failed(row, raised)
            return facts, json.loads(line)
        finally:
            await made.close()
        raise AssertionError

    return asyncio.run(main())


def test_cost_of_no_value() -> None:
    """An answer that was no value is paid all the same, and counts; a call without an answer took nothing."""
    facts, line = failing(priced(said("none")), ROW, Task(into=list[int], reasks=1))
    assert ("ParseError", "none") == (line["error"]["type"], line["text"])
    assert Facts(2, 4, 0.0, "ParseError", "10", "USD") == facts
    facts, line = failing(priced(InvalidRequestError("no")), ROW, Task())
    assert Facts(0, 0, 0.0, "InvalidRequestError") == facts
    assert (3, None, "no") == (line["row"], line["text"], line["error"]["message"])


def test_row_that_asks_nothing() -> None:
    """A row that is no request fails without being asked, and keeps its name."""
    scripted = Scripted("hi")
    _, line = failing(scripted, row_of(5, {"id": "five"}), Task())
    assert (5, "five", "InvalidRequestError", []) == (line["row"], line["id"], line["error"]["type"], scripted.asked)


def test_waiting_is_no_latency() -> None:
    """The time that a row waits for its turn is not told as the time of its call."""

    class Turn(Scripted):
        def complete(self, request: Any, options: CallOptions = CallOptions()) -> ChatCompletion:
            made = super().complete(request, options)
            with_info(made, ResponseInfo(waited=1.5))
            return made

    ((facts, _),) = asked(Turn(said("hi")), clock=Clock())
    assert 0.5 == facts.elapsed
    ((facts, _),) = asked(Turn(said("no"), said('{"value": [1]}')), task=Task(into=list[int], reasks=1), clock=Clock())
    assert -1.0 == facts.elapsed  # of a clock that is set


def test_left() -> None:
    """Told to leave, rows that wait for their turn are given up; one that has been sent comes to its end."""
    sent, go = threading.Event(), threading.Event()

    def answer(request: Any) -> str:
        sent.set()
        assert go.wait(20)
        return "hi"

    async def main() -> list[Any]:
        made = Asking(client_of(Scripted(answer)), Task(), "job", Pace(max_concurrent=1))
        tasks = [asyncio.create_task(made.ask(row_of(number, "hi"))) for number in range(3)]
        await asyncio.to_thread(sent.wait, 20)
        made.leave()
        go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        made.leave()  # nobody is there any more
        await made.close()
        return [type(one) for one in found]

    assert [tuple, asyncio.CancelledError, asyncio.CancelledError] == asyncio.run(main())


# --------------------------------------------------------------------------------------------------------------------
# Equal rows
# --------------------------------------------------------------------------------------------------------------------


def test_dedupe(tmp_path: Path) -> None:
    """Equal requests are asked once, in one run and in the next; those after the first take nothing."""
    path = str(tmp_path / "answers.sqlite")
    rows = [row_of(number, text) for number, text in enumerate(["a", "b", "a", "a"])]
    scripted = Scripted(said("first"), said("second"))
    first = asked(Gpt(backend=scripted, prices=PRICES, model="m"), *rows, cache=path)
    assert ["first", "second", "first", "first"] == [line["text"] for _, line in first]
    assert [False, False, True, True] == [facts.cached for facts, _ in first]
    assert [1, 1, 0, 0] == [facts.prompt_tokens for facts, _ in first]
    assert ["5", "5", "0", "0"] == [facts.cost for facts, _ in first]
    again = asked(Gpt(backend=scripted, model="m"), *rows, cache=path)
    assert [True] * 4 == [facts.cached for facts, _ in again]
    assert 2 == len(scripted.asked)
    other = asked(Gpt(backend=scripted, model="m"), *rows, task=Task(system="Be brief."), cache=path)
    assert (False, 4) == (other[0][0].cached, len(scripted.asked))


def test_dedupe_at_once(tmp_path: Path) -> None:
    """Equal requests that are under way together are asked once, too."""

    async def main(scripted: Scripted) -> list[Facts]:
        made = asking(scripted, cache=str(tmp_path / "answers.sqlite"))
        found = await asyncio.gather(*(made.ask(row_of(number, "the same")) for number in range(20)))
        await made.close()
        return [facts for facts, _ in found]

    scripted = Scripted("hi")
    facts = asyncio.run(main(scripted))
    assert (1, 19) == (len(scripted.asked), sum(one.cached for one in facts))


def test_equal_rows_without_dedupe() -> None:
    """Without being told to, equal rows are asked each."""
    scripted = Scripted("hi")
    asked(scripted, row_of(0, "a"), row_of(1, "a"))
    assert 2 == len(scripted.asked)


# --------------------------------------------------------------------------------------------------------------------
# Beside
# --------------------------------------------------------------------------------------------------------------------


def test_models_and_streams() -> None:
    """A backend that stays open is asked for all else as it is, too."""

    async def main(backend: Any) -> tuple[list[str], str, str]:
        client = client_of(backend)
        listed = await client.models.list()
        async with client.chat.stream("hi") as stream:
            await stream.until_done()
        await client.close()
        return [model.id for model in listed.data], stream.completion.text, repr(client.backend)

    models, text, shown = asyncio.run(main(Scripted("a b")))
    assert (["scripted"], "a b", "in_threads(Scripted(1 answers left))") == (models, text, shown)
    backend = AsyncScripted("a b")
    assert (["scripted"], "a b", repr(backend)) == asyncio.run(main(backend))


def test_cancel_reaches_a_blocking_backend() -> None:
    """When a job stops at once, a backend that blocks in a thread is told."""
    begun, cancels = threading.Event(), []

    class Waiting(Scripted):
        def complete(self, request: Any, options: CallOptions = CallOptions()) -> Any:
            cancels.append(options.cancel)
            begun.set()
            assert options.cancel.wait(20)
            return super().complete(request, options)

    async def main() -> None:
        made = asking(Waiting("hi"))
        task = asyncio.create_task(made.ask(ROW))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await made.close()

    asyncio.run(main())
    assert cancels[0].is_set()


def test_sent_to_other_processes() -> None:
    """A function of a module and a URL pickle, which is what other processes need."""
    for given in ("local:", Gpt, ["http://127.0.0.1:9/v1", "local:"]):
        assert given == pickle.loads(pickle.dumps(given))


def test_fallback_is_known() -> None:
    """Several are a Fallback, under one client."""
    assert isinstance(client_of(["http://127.0.0.1:9/v1", "local:"]).backend, AsyncFallback)
