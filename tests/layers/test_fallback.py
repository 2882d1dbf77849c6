"""Several backends in order: both clients, whole and streamed, over scripts and over real sockets."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
import warnings
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from gpt import (
    AsyncFallback,
    AsyncGpt,
    AuthenticationError,
    BadRequestError,
    CallEvent,
    ConnectError,
    Fallback,
    Gpt,
    InvalidRequestError,
    Local,
    Profile,
    RequestTimeoutError,
    ServerError,
    StreamTruncatedError,
    UserMessage,
    in_threads,
)
from gpt.backend import DEFAULT_OPTIONS, CallOptions, identity_of
from gpt.layers import fallback as layer
from gpt.layers.fallback import common
from gpt.prices import Price, Prices
from gpt.protocol.fallback import LEFT_OUT
from gpt.remote.backend import endpoint
from gpt.testing import AsyncScripted, Fault, Scripted, no_waiting, serve
from gpt.testing.loopback import closed_port
from gpt.testing.scripted import chunk, completion
from gpt.types import ChatRequest, Usage

DOWN = ServerError("down", 500)


async def settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


class Way:
    """One way to ask a Fallback: the blocking client, the async one, the async one over blocking entries or a blocking Fallback."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def script(self, *answers: Any) -> Any:
        """An entry with a script."""
        return AsyncScripted(*answers) if self.kind == "async" else Scripted(*answers)

    def seen(self, entry: Any) -> Scripted:
        """What an entry remembers."""
        made: Scripted = getattr(entry, "script", entry)
        return made

    def ask(self, use: Callable[[Any], Any], entries: list[Any], *, cool_down: float = 0.0, **settings: Any) -> Any:
        """The result of `use(client)`, over a Fallback of the entries."""
        if self.kind == "blocking":
            with Gpt(backend=Fallback(entries, cool_down=cool_down), **settings) as client:
                return use(client)
        over: Any = (Fallback if self.kind == "in a thread" else AsyncFallback)(entries, cool_down=cool_down)

        async def run() -> Any:
            async with AsyncGpt(backend=over, **settings) as client:
                return await settled(use(client))

        return asyncio.run(run())


@pytest.fixture(params=["blocking", "async", "blocking entries", "in a thread"])
def way(request: pytest.FixtureRequest) -> Way:
    return Way(request.param)


def whole(client: Any) -> Any:
    return client.chat.complete("a")


def streamed(client: Any) -> Any:
    return client.chat.stream("a").until_done()


def raw(client: Any) -> Any:
    """The texts of the chunks of a raw stream."""
    if isinstance(client, Gpt):
        return [one.text for one in client.chat.completions.create(messages=[UserMessage("a")], stream=True)]

    async def run() -> Any:
        return [one.text async for one in await client.chat.completions.create(messages=[UserMessage("a")], stream=True)]

    return run()


KINDS = pytest.mark.parametrize("use", [whole, streamed])


@KINDS
def test_next_answers(way: Way, use: Callable[[Any], Any]) -> None:
    """The next entry answers where the one before failed; the result tells of both, and pickles."""
    answer = way.ask(use, [way.script(DOWN), way.script("hi")])
    assert "hi" == answer.text
    assert ["ServerError: down", "ok"] == [entry.reason for entry in answer.info.entries]
    assert ["ServerError: down", "ok"] == [attempt.reason for attempt in answer.info.attempts]
    assert 0 < answer.info.entries[0].elapsed < answer.info.elapsed
    assert answer.info.entries == pickle.loads(pickle.dumps(answer.info)).entries


@KINDS
def test_first_answers(way: Way, use: Callable[[Any], Any]) -> None:
    """The first entry that answers is asked alone."""
    second = way.script("no")
    answer = way.ask(use, [way.script("hi"), second])
    assert ("hi", ["ok"], []) == (answer.text, [entry.reason for entry in answer.info.entries], way.seen(second).asked)


@KINDS
def test_callers_mistake(way: Way, use: Callable[[Any], Any]) -> None:
    """The caller's own mistake is raised at once."""
    second = way.script("no")
    with pytest.raises(BadRequestError, match="bad"):
        way.ask(use, [way.script(BadRequestError("bad", 400)), second])
    assert [] == way.seen(second).asked


@KINDS
def test_all_fail(way: Way, use: Callable[[Any], Any]) -> None:
    """Where all fail the last error is raised, with the others."""
    with pytest.raises(ConnectError) as caught:
        way.ask(use, [way.script(ServerError("down", 500)), way.script(ConnectError("no"))])
    assert ["down"] == [error.message for _, error in caught.value.elsewhere]
    assert ["Asked too: gpt.testing.scripted"] == [note[:31] for note in caught.value.__notes__]


@pytest.mark.parametrize(
    "before", [[], [chunk("")], [chunk(""), chunk("")]], ids=["at once", "after a role", "after two chunks without content"]
)
@pytest.mark.parametrize("use", [streamed, raw])
def test_before_the_first_content(way: Way, before: list[Any], use: Callable[[Any], Any]) -> None:
    """A stream that fails before its first content is followed by the next entry, none of its chunks are given, and it is left."""
    first = way.script([*before, StreamTruncatedError("cut")])
    made = way.ask(use, [first, way.script([chunk("hi"), chunk(None, "stop")])])
    assert (["hi", ""] if use is raw else "hi") == (made if use is raw else made.text)
    assert [True] == [stream.closed for stream in way.seen(first).streams]


@pytest.mark.parametrize("use", [streamed, raw])
def test_after_the_first_content(way: Way, use: Callable[[Any], Any]) -> None:
    """One that fails after it is not: its error is raised, with what had come."""
    second = way.script("no")
    with pytest.raises(StreamTruncatedError) as caught:
        way.ask(use, [way.script([chunk(""), chunk("he"), StreamTruncatedError("cut")]), second])
    assert caught.value.partial is not None
    assert ("he", []) == (caught.value.partial.text, way.seen(second).asked)


def test_chunks(way: Way) -> None:
    """Each chunk of the entry that answers is given once, in order, those before the first content too."""
    said = [chunk(""), chunk("a"), chunk("b"), chunk(None, "stop")]
    assert ["", "a", "b", ""] == way.ask(raw, [way.script(DOWN), way.script(said)])


def test_no_content(way: Way) -> None:
    """An answer without content is an answer."""
    second = way.script("no")
    assert [""] == way.ask(raw, [way.script([chunk("")]), second])
    assert [] == way.seen(second).asked


def test_left_early(way: Way) -> None:
    """Leaving the stream leaves that of the entry."""
    entry = way.script("a b c")

    def use(client: Any) -> Any:
        if isinstance(client, Gpt):
            with client.chat.stream("a") as stream:
                next(iter(stream))
            return list(stream)

        async def run() -> Any:
            async with client.chat.stream("a") as stream:
                await anext(aiter(stream))
            return [event async for event in stream]

        return run()

    assert [] == way.ask(use, [entry])
    if way.kind in ("blocking", "async"):  # in threads the other end is left when the thread comes round
        assert way.seen(entry).streams[0].closed


@KINDS
def test_models_names(way: Way, use: Callable[[Any], Any]) -> None:
    """An entry's model goes before the call's, which is that of entries without one; the caller's request is left alone."""
    entries = [way.script(DOWN), way.script(DOWN), way.script("hi")]
    request = ChatRequest(messages=[UserMessage("a")], model="own")
    answer = way.ask(
        lambda client: client.chat.complete(request) if use is whole else client.chat.stream(request).until_done(),
        [(entries[0], "first"), entries[1], (entries[2], "third")],
    )
    assert [["first"], ["own"], ["third"]] == [[one.model for one in way.seen(entry).asked] for entry in entries]
    assert "own" == request.model
    assert [" (first)", "", " (third)"] == [
        entry.entry.removeprefix("gpt.testing.scripted.").removeprefix("Async").removeprefix("Scripted")
        for entry in answer.info.entries
    ]


@KINDS
def test_rest(way: Way, use: Callable[[Any], Any]) -> None:
    """An entry that failed is not asked again for a while."""
    first = way.script(DOWN, "back")

    def twice(client: Any) -> Any:
        if isinstance(client, Gpt):
            return use(client), use(client)

        async def run() -> Any:
            return await use(client), await use(client)

        return run()

    _, answer = way.ask(twice, [first, way.script("hi")], cool_down=1000.0)
    assert (1, [LEFT_OUT, "ok"]) == (len(way.seen(first).asked), [entry.reason for entry in answer.info.entries])


@KINDS
def test_deadline(way: Way, use: Callable[[Any], Any]) -> None:
    """Each entry is given what is left of the deadline; what is over is not begun."""
    entries = [way.script(DOWN), way.script("hi")]
    way.ask(use, entries, deadline=1000.0)
    first, second = (way.seen(entry).options[0].deadline for entry in entries)
    assert first is not None
    assert second is not None
    assert 900 < second < first <= 1000
    late = way.script("no")
    with pytest.raises(ServerError):
        way.ask(use, [way.script(DOWN), late], deadline=1e-9)
    assert [] == way.seen(late).asked


def test_options(way: Way) -> None:
    """How the call is made holds for each entry."""
    entry = way.script("hi")
    way.ask(lambda client: client.chat.complete("a", timeout=5, headers={"x-a": "b"}, query={"c": "d"}), [entry])
    options = way.seen(entry).options[0]
    assert options.timeout is not None
    assert (5.0, {"x-a": "b"}, {"c": "d"}, None) == (options.timeout.idle, options.headers, options.query, options.deadline)


@pytest.mark.parametrize("given", [{"headers": {"Authorization": "Bearer k"}}, {"query": {"api_key": "k"}}])
@KINDS
def test_no_key_for_all(way: Way, given: dict[str, Any], use: Callable[[Any], Any]) -> None:
    """A key of a call would go to every server, and is refused; the error does not show it."""
    entry = way.script("hi")
    call = (lambda c: c.chat.complete("a", **given)) if use is whole else (lambda c: c.chat.stream("a", **given).until_done())
    with pytest.raises(InvalidRequestError, match="it may hold a secret") as caught:
        way.ask(call, [entry])
    assert ([], False) == (way.seen(entry).asked, "Bearer" in str(caught.value))


def test_how_it_is_made() -> None:
    """What cancels a call, and who is told of its retries, is handed on."""
    entry = Scripted("hi")
    options = CallOptions(cancel=threading.Event(), retrying=lambda attempt, wait: None)
    Fallback([entry]).complete(ChatRequest(messages=[UserMessage("a")]), options)
    assert options.cancel is entry.options[0].cancel
    assert options.retrying is entry.options[0].retrying


def test_first_token(way: Way) -> None:
    """The time to the first token is told also where the entry does not tell it."""
    info = way.ask(streamed, [way.script(DOWN), way.script("hi")]).info
    assert 0 < info.first_token < info.elapsed


def test_messages_once(way: Way) -> None:
    """Messages that can be read only once are asked of each entry."""
    entries = [way.script(DOWN), way.script("hi")]
    request = ChatRequest(messages=(one for one in [UserMessage("a")]))
    backend: Any = Fallback(entries) if way.kind in ("blocking", "in a thread") else AsyncFallback(entries)

    async def run() -> None:
        await settled(backend.complete(request))

    asyncio.run(run())
    assert [UserMessage("a")] == way.seen(entries[0]).asked[0].messages == way.seen(entries[1]).asked[0].messages


def test_told(way: Way) -> None:
    """A hook is told when the next entry is asked."""
    told: list[CallEvent] = []
    way.ask(whole, [way.script(DOWN), way.script("hi")], on_event=told.append)
    assert ["request", "retry", "done"] == [event.kind for event in told]
    assert told[1].attempt is not None
    assert told[1].attempt.reason.endswith("ServerError: down; the next entry is asked")


@KINDS
def test_warned(way: Way, use: Callable[[Any], Any]) -> None:
    """An entry that is set up wrongly is told of, because nobody else would notice while others answer."""
    wrong = AuthenticationError("wrong key", 401)
    with pytest.warns(RuntimeWarning, match=r"passed over in a Fallback: the entry's key; others have their own .*wrong key"):
        assert "hi" == way.ask(use, [way.script(wrong), way.script("hi")]).text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AuthenticationError):
            way.ask(use, [way.script(wrong)])


def test_models(way: Way) -> None:
    """The models are those of the first entry that answers."""

    class Silent(Scripted):
        def models(self, options: CallOptions = DEFAULT_OPTIONS) -> Any:
            raise DOWN

    class AsyncSilent(AsyncScripted):
        async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> Any:
            raise DOWN

    silent = AsyncSilent("a") if way.kind == "async" else Silent("a")
    models = way.ask(lambda client: client.models.list(), [silent, way.script("b")])
    assert ["scripted"] == [model.id for model in models]
    assert ["ServerError: down", "ok"] == [entry.reason for entry in models.info.entries]


def test_closed(way: Way) -> None:
    """Closing it closes all entries."""
    entries = [way.script("a"), way.script("b")]
    way.ask(whole, entries)
    assert [True, True] == [way.seen(entry).closed for entry in entries]


def test_answers_are_left_alone() -> None:
    """The facts of a call are put beside a copy: a backend may give one answer to several."""
    from gpt.testing.scripted import completion

    given = completion("hi")
    made = Fallback([Scripted(given)]).complete(ChatRequest(messages=[UserMessage("a")]))
    assert (given, None) == (made, given.info)
    assert made.info is not None


THINKING = Profile(think_tags=("<think>", "</think>"))


class Tagged(Scripted):
    profile = THINKING


class AsyncTagged(AsyncScripted):
    profile = THINKING


@KINDS
def test_thinking(way: Way, use: Callable[[Any], Any]) -> None:
    """Thinking is told apart by each entry's own profile."""
    said = "<think>hm</think>hi"
    tagged = AsyncTagged(said) if way.kind == "async" else Tagged(said)
    answer = way.ask(use, [way.script(DOWN), tagged])
    assert ("hm", "hi") == (answer.message.reasoning, answer.text)
    assert "<think>" in way.ask(use, [way.script(said)]).text


PROFILES: list[tuple[list[Profile], Profile]] = [
    ([Profile(streams_usage=True, dialect="grammar", rungs=("json_schema",), echoes="always", may_break_off=True)],
     Profile(streams_usage=True, dialect="grammar", rungs=("json_schema",))),
    ([Profile(streams_usage=True), Profile()], Profile()),
    ([Profile(dialect="grammar"), Profile(dialect="azure")], Profile(dialect="strict")),
    ([Profile(dialect="azure"), Profile(dialect="azure")], Profile(dialect="azure")),
    ([Profile(rungs=("json_schema", "tool", "prompt")), Profile(rungs=("prompt", "tool"))], Profile(rungs=("tool", "prompt"))),
    ([Profile(rungs=("json_schema",)), Profile(rungs=("tool",))], Profile(rungs=("prompt",))),
]  # fmt: skip


@pytest.mark.parametrize(("profiles", "expected"), PROFILES)
def test_profile(profiles: list[Profile], expected: Profile) -> None:
    """What is decided before it is known who answers is what is safe with all of them."""
    assert expected == common(profiles)


REFUSED: list[tuple[Any, str]] = [
    ([], "the list is empty"),
    ("local:", "expected a list, got str"),
    (5, "expected a list, got int"),
    ([5], "int has not the methods complete, stream, models, close"),
    ([(Scripted("a"), 5)], "expected the name of a model, got int"),
    ([AsyncScripted("a")], "AsyncScripted is for asyncio; it belongs in an AsyncFallback"),
]


@pytest.mark.parametrize(("entries", "match"), REFUSED)
def test_refused(entries: Any, match: str) -> None:
    """What cannot be asked is refused where the list is made."""
    with pytest.raises(InvalidRequestError, match=match) as caught:
        Fallback(entries)
    assert "entries" == caught.value.param


@pytest.mark.parametrize("cool_down", [-1, True, float("nan"), "5"])
def test_no_rest(cool_down: Any) -> None:
    """A rest is some seconds, or none."""
    with pytest.raises(InvalidRequestError, match="cool_down: expected seconds from 0"):
        Fallback([Scripted("a")], cool_down=cool_down)


def test_layer_takes_backends() -> None:
    """Below the clients nobody knows what a URL is; the error says who does."""
    for cls in (layer.Fallback, layer.AsyncFallback):
        with pytest.raises(InvalidRequestError, match=r"gpt\.Fallback takes URLs and clients too"):
            cls(["local:"])


def test_name() -> None:
    """What is shown of it has the entries, without secrets; for a cache it is one by its entries and their models."""
    made = Fallback([(Gpt(server_url="http://h/v1?a=b", api_key="secret"), "m"), "http://h/v1"])
    assert "Fallback(['http://h/v1 (m)', 'http://h/v1'])" == repr(made)
    assert "http://h:80/v1 (m) | http://h:80/v1".replace(":80", "") == identity_of(made)


# --------------------------------------------------------------------------------------------------------------------
# What it costs
# --------------------------------------------------------------------------------------------------------------------

MINI = msgspec.structs.replace(completion("hi"), model="gpt-5-mini", usage=Usage(10, 100, 110))
OWN = Prices(
    {
        "a.test/*": Price(input=1, output=1, currency="A"),
        "b.test/*": Price(input=2, output=2, currency="B"),
        "gpt-5-*": Price(input=3, output=3, currency="any"),
    }
)
HOSTED, A, B, NOBODY = "https://api.openai.com/v1", "http://a.test/v1", "http://b.test/v1", ""


class Boxed(Local):
    """The model in the box, with a script."""

    def __init__(self) -> None:
        super().__init__("/nowhere/x.gguf")
        self.script = Scripted(MINI)
        self.complete, self.stream = self.script.complete, self.script.stream  # type: ignore[method-assign, assignment]


def at(way: Way, url: str, *answers: Any) -> Any:
    """An entry that is the server at `url`, with a script; "local:" is the model in the box."""
    if url == "local:":
        return Boxed() if way.kind != "async" else in_threads(Boxed())
    entry = way.script(*answers)
    if url:
        entry.endpoint = endpoint(url, "")
    return entry


def nested(way: Way, entries: list[Any]) -> Any:
    return (AsyncFallback if way.kind in ("async", "blocking entries") else Fallback)(entries)


# Who fails, who answers, prices; who answered, and what it cost.
COSTS: list[tuple[str, str, Prices | None, str | None, tuple[str, str] | None]] = [
    (A, HOSTED, None, "api.openai.com", ("USD", "0.000045")),
    (HOSTED, A, None, "a.test", None),
    (A, B, OWN, "b.test", ("B", "0.000220")),
    (B, A, OWN, "a.test", ("A", "0.000110")),
    (A, HOSTED, OWN, "api.openai.com", ("any", "0.000330")),
    (A, NOBODY, OWN, None, ("any", "0.000330")),
    (A, NOBODY, None, None, None),
    (HOSTED, "local:", None, "local:", ("", "0")),
]


@KINDS
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(("fails", "answers", "prices", "host", "cost"), COSTS)
def test_cost(
    way: Way,
    use: Callable[[Any], Any],
    deep: bool,
    fails: str,
    answers: str,
    prices: Prices | None,
    host: str | None,
    cost: tuple[str, str] | None,
) -> None:
    """An answer costs what it does where it came from, in a Fallback within another too; nothing else is known of it."""

    def used(client: Any) -> Any:
        async def later() -> Any:
            return (await settled(use(client)), client.usage, client.cost_of)

        return (use(client), client.usage, client.cost_of) if isinstance(client, Gpt) else later()

    entries = [at(way, fails, DOWN), at(way, answers, MINI)]
    if deep:
        entries = [at(way, "http://c.test/v1", DOWN), nested(way, entries)]
    answer, usage, cost_of = way.ask(used, entries, prices=prices)
    assert ("c.test" if deep else hostname(fails), host) == tuple(entry.host for entry in answer.info.entries)
    found = cost_of(answer)
    expected = cost and (cost[0], Decimal(cost[1]))
    assert expected == (found and (found.currency, found.amount))
    paid = dict([expected]) if expected and expected[1] else {}
    assert (1, paid, int(cost is None), 2 if deep else 1) == (
        usage.answers,
        usage.costs,
        usage.without_price,
        usage.failed_attempts,
    )


def hostname(url: str) -> str:
    return url.removeprefix("https://").removeprefix("http://").removesuffix("/v1")


# --------------------------------------------------------------------------------------------------------------------
# Over real sockets
# --------------------------------------------------------------------------------------------------------------------

CLIENTS = pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])


def over_http(asynchronous: bool, use: Callable[[Any], Any], entries: list[Any]) -> Any:
    return Way("blocking entries" if asynchronous else "blocking").ask(use, entries)


@CLIENTS
@KINDS
def test_servers(asynchronous: bool, use: Callable[[Any], Any]) -> None:
    """A server that fails, after it has been asked as often as a call is, is followed by the next; all attempts are told."""
    with serve("no", faults=[Fault(status=503)]) as broken, serve("hi") as works, no_waiting():
        answer = over_http(asynchronous, use, [broken.url, f"http://127.0.0.1:{closed_port()}/v1", works.url])
    assert "hi" == answer.text
    assert [broken.url, "ok"] == [answer.info.entries[0].entry, answer.info.entries[-1].reason]
    assert 3 == broken.answered
    assert [503, 503, 503, None, None, None, 200] == [attempt.status for attempt in answer.info.attempts]
    assert 200 == answer.info.status


@CLIENTS
def test_broken_streams(asynchronous: bool) -> None:
    """A stream whose head came, and nothing more, is followed by the next entry's."""
    with serve("no", faults=[Fault(cut=60)]) as broken, serve("hi") as works, no_waiting():
        answer = over_http(asynchronous, streamed, [Gpt(server_url=broken.url, max_retries=0), works.url])
    assert ("hi", "complete") == (answer.text, answer.info.ended)


@CLIENTS
def test_silent_server(asynchronous: bool) -> None:
    """A client's own deadline leaves time for the entries after it."""
    with serve("no", faults=[Fault(stall="head")]) as silent, serve("hi") as works:
        entries = [Gpt(server_url=silent.url, deadline=0.05), works.url]
        answer = over_http(asynchronous, lambda client: client.chat.complete("a", deadline=60), entries)
        assert "hi" == answer.text
        assert answer.info.entries[0].reason.startswith(RequestTimeoutError.__name__)
        assert 0.04 < answer.info.entries[0].elapsed < 30


def test_many_threads() -> None:
    """May be shared by threads."""
    made = Fallback([Scripted(DOWN), Scripted("hi")], cool_down=0.0)
    answers: list[str] = []

    def work() -> None:
        answers.extend(Gpt(backend=made).chat.complete("a").text for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["hi"] * 160 == answers


def test_cancelled() -> None:
    """A task that is cancelled asks no further entry, and stops what is under way."""

    async def run() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        class Slow(AsyncScripted):
            async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> Any:
                began.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()

        second = AsyncScripted("no")
        async with AsyncGpt(backend=AsyncFallback([Slow("a"), second])) as client:
            task = asyncio.ensure_future(client.chat.complete("a"))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended.is_set()
        assert [] == second.script.asked

    asyncio.run(run())
