"""What a client's calls took, added up."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from gpt import (
    AsyncGpt,
    ChatCompletion,
    Gpt,
    GptError,
    InvalidRequestError,
    Local,
    ParseError,
    Price,
    Prices,
    Profile,
    ServerError,
    Timeout,
    in_threads,
)
from gpt.backend import DEFAULT_OPTIONS, CallOptions, ChunkStream
from gpt.layers.meter import ROOM, AsyncToldStream, Meter, ToldStream, UsageTotals
from gpt.protocol.codec import with_info
from gpt.protocol.wire import AttemptInfo, ResponseInfo
from gpt.testing import AsyncScripted, Fault, Scripted, no_waiting, serve
from gpt.testing.scripted import chunk, completion
from gpt.types import (
    ChatCompletionChunk,
    ChatRequest,
    Choice,
    CompletionTokensDetails,
    FunctionCall,
    PromptTokensDetails,
    ResponseMessage,
    ToolCall,
    Usage,
)

PRICES = Prices({"scripted": Price(input=10, cached_input=5, output=100, currency="EUR")})
USED = Usage(
    20,
    100,
    120,
    prompt_tokens_details=PromptTokensDetails(cached_tokens=40),
    completion_tokens_details=CompletionTokensDetails(reasoning_tokens=5),
)
TOOK = {
    "answers": 1,
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "cached_tokens": 40,
    "reasoning_tokens": 5,
    "costs": {"EUR": Decimal("0.0028")},
}
"""What an answer with USED is in the totals."""


def said(text: str = "x", usage: Usage | None = USED, info: ResponseInfo | None = None, **fields: Any) -> ChatCompletion:
    made = msgspec.structs.replace(completion(text), usage=usage, **fields)
    if info is not None:
        with_info(made, info)
    return made


def totals(calls: int = 1, times: int = 1, **more: Any) -> UsageTotals:
    """So many answers with USED, and what else there is."""
    fields: dict[str, Any] = {name: value * times for name, value in TOOK.items() if name != "costs"} if times else {}
    if times:
        fields["costs"] = {"EUR": Decimal("0.0028") * times}
    return UsageTotals(calls=calls, **(fields | more))


Ask = Callable[[Gpt], object]


def chunks(usage: Usage | None = USED) -> list[ChatCompletionChunk]:
    return [chunk("a"), chunk("b"), chunk(finish="stop"), msgspec.structs.replace(chunk(), choices=[], usage=usage)]


def call(client: Gpt, **params: Any) -> None:
    client.chat.complete("hi", **params)


def streamed(client: Gpt) -> None:
    with client.chat.stream("hi") as stream:
        stream.until_done()


def raw(client: Gpt) -> None:
    assert list(client.chat.completions.create(messages=[], stream=True))


ANSWERED: list[tuple[Ask, Any]] = [
    (call, said()),
    (lambda client: client.chat.completions.create(messages=[]), said()),
    (lambda client: client.chat.create_chat_completion({"messages": []}), said()),
    (lambda client: client.chat.parse("hi", into=list[int]), said('{"value": [1]}')),
    (lambda client: client.chat.run_tools("hi", tools=[]), said()),
    (streamed, chunks()),
    (raw, chunks()),
    (lambda client: list(client.chat.stream_tools("hi", tools=[])), chunks()),
    (lambda client: list(client.chat.stream("hi", into=list[int])), said('{"value": [1]}')),
]


@pytest.mark.parametrize(("ask", "answer"), ANSWERED)
def test_each_way_to_ask(ask: Ask, answer: Any) -> None:
    """Whichever way is asked, an answer is counted once, with its kinds of tokens and its cost."""
    client = Gpt(backend=Scripted(answer), prices=PRICES)
    assert UsageTotals() == client.usage
    ask(client)
    assert totals() == client.usage
    assert totals() == client.usage  # reading changes nothing
    assert 120 == client.usage.total_tokens


async def asked_on_asyncio(way: str, answer: Any) -> UsageTotals:
    client = AsyncGpt(backend=AsyncScripted(answer), prices=PRICES)
    chat = client.chat
    if way == "complete":
        await chat.complete("hi")
    elif way == "create":
        await chat.completions.create(messages=[])
    elif way == "parse":
        await chat.parse("hi", into=list[int])
    elif way == "run_tools":
        await chat.run_tools("hi", tools=[])
    elif way == "raw":
        assert [one async for one in await chat.completions.create(messages=[], stream=True)]
    else:
        streams: dict[str, Any] = {
            "stream": lambda: chat.stream("hi"),
            "stream_tools": lambda: chat.stream_tools("hi", tools=[]),
            "into": lambda: chat.stream("hi", into=list[int]),
        }
        async with streams[way]() as stream:
            await stream.until_done()
    return client.usage


@pytest.mark.parametrize(
    ("way", "answer"),
    [
        ("complete", said()),
        ("create", said()),
        ("parse", said('{"value": [1]}')),
        ("run_tools", said()),
        ("raw", chunks()),
        ("stream", chunks()),
        ("stream_tools", chunks()),
        ("into", said('{"value": [1]}')),
    ],
)
def test_each_way_on_asyncio(way: str, answer: Any) -> None:
    """On asyncio the same is counted."""
    assert totals() == asyncio.run(asked_on_asyncio(way, answer))


def test_turns_and_reasks() -> None:
    """Each turn of a run of tools, and each time that is asked again, is an answer of its own."""
    calls = said(
        usage=USED, choices=[Choice("tool_calls", 0, ResponseMessage(tool_calls=[ToolCall(FunctionCall("{}", "now"), "1")]))]
    )

    def now() -> int:
        return 5

    client = Gpt(backend=Scripted(calls, said()), prices=PRICES)
    run = client.chat.run_tools("hi", tools=[now])
    assert totals(2, 2) == client.usage
    assert Decimal("0.0056") == client.cost_of(*run.completions).amount  # type: ignore[union-attr]
    client = Gpt(backend=Scripted(said("no JSON"), said('{"value": [1]}')), prices=PRICES)
    client.chat.parse("hi", into=list[int], reasks=1)
    assert totals(2, 2) == client.usage


def test_unknown_is_told_apart() -> None:
    """Answers without usage, and those without a price, are counted, and nothing is added for them."""
    zero = Usage()
    client = Gpt(backend=Scripted(said(usage=None), said(usage=zero), said(model="dear"), said()), prices=PRICES)
    for _ in range(4):
        call(client)
    both = {name: value * 2 for name, value in TOOK.items() if name != "costs"}
    assert totals(4, **both | {"answers": 4, "without_usage": 2, "without_price": 3}) == client.usage


def test_failed_calls() -> None:
    """A call that failed is one that was begun; what it took nobody knows."""
    client = Gpt(backend=Scripted(ServerError("down", 500), said()), prices=PRICES)
    with pytest.raises(ServerError):
        call(client)
    with pytest.raises(InvalidRequestError):
        call(client, stream=True)  # never begun
    call(client)
    assert totals(2) == client.usage


def test_failed_attempts() -> None:
    """Attempts that failed before an answer are told, since they may have been charged; a redirect is none of them."""
    moved = AttemptInfo(307, "redirected to http://127.0.0.1/v1/chat/completions", 1)
    tried = (AttemptInfo(500, "x", 1), moved, AttemptInfo(None, "x", 1), AttemptInfo(200, "ok", 1))
    client = Gpt(backend=Scripted(said(info=ResponseInfo(attempts=tried))), prices=PRICES)
    call(client)
    assert totals(failed_attempts=2) == client.usage


def test_attempts_over_http() -> None:
    """Over HTTP: a whole answer and a stream, each with a failed attempt before it."""
    seen = []
    for ask in (call, streamed):
        with serve(said(), faults=[Fault(status=503, times=2)]) as server, no_waiting():
            client = Gpt(server_url=server.url, prices=PRICES, profile=Profile(streams_usage=True))
            ask(client)
            seen.append(client.usage)
    assert [totals(failed_attempts=2)] * 2 == seen


def test_redirects_over_http() -> None:
    """Over HTTP: an answer that says where to ask instead is no attempt that failed."""
    for ask in (call, streamed):
        with serve(said()) as server:
            elsewhere = {"location": f"{server.url}/chat/completions"}
            with serve(said(), faults=[Fault(status=307, headers=elsewhere, times=1)]) as moved:
                client = Gpt(server_url=moved.url, prices=PRICES, profile=Profile(streams_usage=True))
                ask(client)
                assert (1, 1) == (moved.answered, server.answered)
                assert totals() == client.usage


def test_cost_of_several_answers() -> None:
    """What took several answers costs what they do together: a run of tools, a value, an answer that is no value."""
    calls = said(choices=[Choice("tool_calls", 0, ResponseMessage(tool_calls=[ToolCall(FunctionCall("{}", "now"), "1")]))])

    def now() -> int:
        return 5

    client = Gpt(backend=Scripted(calls, said(), said("no JSON"), said('{"value": [1]}'), said("no JSON")), prices=PRICES)
    run = client.chat.run_tools("hi", tools=[now])
    parsed = client.chat.parse("hi", into=list[int], reasks=1)
    with pytest.raises(ParseError) as caught:
        client.chat.parse("hi", into=list[int], reasks=1)
    other = AsyncGpt(backend=Scripted("x"), prices=PRICES)
    for given, times in (((run,), 2), ((parsed,), 2), ((caught.value,), 2), ((run, said(), parsed), 5)):
        for one in (client, other):
            found = one.cost_of(*given)
            assert found is not None
            assert Decimal("0.0028") * times == found.amount
    assert client.cost_of(run, said(usage=None)) is None
    assert {"EUR": Decimal("0.0028") * 6} == client.usage.costs


@pytest.mark.parametrize("given", ["x", None, USED, Gpt(backend=Scripted("x")).chat, [said()]])
def test_cost_of_something_else(given: Any) -> None:
    """What is no answer is refused by its place."""
    with pytest.raises(InvalidRequestError, match=r"answers\[1\]: expected a ChatCompletion, .* got \w+$") as caught:
        Gpt(backend=Scripted("x")).cost_of(said(), given)
    assert "answers[1]" == caught.value.param


def test_from_a_cache() -> None:
    """What came from a cache took nothing, and cost nothing."""
    kept = said(info=ResponseInfo(cached=True))
    client = Gpt(backend=Scripted(kept), prices=PRICES)
    call(client)
    assert totals(1, 0, answers=1, from_cache=1) == client.usage
    found = client.cost_of(kept)
    assert found is not None
    assert ("free", "a cache", 0) == (found.kind, found.source, found.amount)


def left(client: Gpt) -> None:
    with client.chat.stream("hi") as stream:
        next(stream)


def dropped(client: Gpt) -> None:
    stream = client.chat.completions.create(messages=[], stream=True)
    next(iter(stream))
    del stream
    gc.collect()


def broken(client: Gpt) -> None:
    with pytest.raises(GptError), client.chat.stream("hi") as stream:
        stream.until_done()


GROWING = [
    msgspec.structs.replace(chunk("a"), usage=Usage(1, 100, 101)),
    msgspec.structs.replace(chunk("b"), usage=Usage(2, 100, 102)),
]


@pytest.mark.parametrize("leave", [left, dropped])
def test_a_stream_that_was_left(leave: Ask) -> None:
    """A stream that was left or dropped counts what was known of it: of most servers nothing, of some the count so far."""
    client = Gpt(backend=Scripted(chunks(), GROWING), prices=PRICES)
    leave(client)
    assert UsageTotals(calls=1, answers=1, without_usage=1, without_price=1) == client.usage
    leave(client)
    assert (2, 2, 100, 1) == (
        client.usage.calls,
        client.usage.answers,
        client.usage.prompt_tokens,
        client.usage.completion_tokens,
    )


def test_a_stream_that_broke_off() -> None:
    """A stream that broke off counts the last that it said."""
    client = Gpt(backend=Scripted([*GROWING, ServerError("down", 500)]), prices=PRICES)
    broken(client)
    assert (1, 1, 102) == (client.usage.calls, client.usage.answers, client.usage.total_tokens)


def test_a_stream_that_is_read() -> None:
    """A stream is counted when it has ended, and not before."""
    client = Gpt(backend=Scripted(chunks()), prices=PRICES)
    with client.chat.stream("hi") as stream:
        next(stream)
        assert UsageTotals(calls=1) == client.usage
        stream.until_done()
        assert totals() == client.usage
    assert totals() == client.usage


async def left_on_asyncio() -> list[UsageTotals]:
    client = AsyncGpt(backend=AsyncScripted(chunks(), [*GROWING, ServerError("down", 500)], GROWING), prices=PRICES)
    found = []
    async with client.chat.stream("hi") as stream:
        await anext(stream)
    found.append(client.usage)
    with pytest.raises(ServerError):
        async with client.chat.stream("hi") as stream:
            await stream.until_done()
    found.append(client.usage)
    pieces = await client.chat.completions.create(messages=[], stream=True)
    await anext(pieces)
    del pieces
    gc.collect()
    found.append(client.usage)
    return found


def test_a_stream_that_was_left_on_asyncio() -> None:
    """On asyncio too: left, broken off and dropped."""
    found = asyncio.run(left_on_asyncio())
    assert [(1, 0), (2, 102), (3, 203)] == [(one.answers, one.total_tokens) for one in found]


def test_the_model_of_a_stream() -> None:
    """A chunk that does not name its model is of the one that was asked for."""
    last = msgspec.structs.replace(chunk(), choices=[], usage=USED, model="")
    client = Gpt(backend=Scripted([chunk("a"), last]), prices=PRICES, model="scripted")
    streamed(client)
    assert totals() == client.usage
    client = Gpt(backend=Scripted([chunk("a"), last]), prices=PRICES)
    streamed(client)
    assert 1 == client.usage.without_price


def test_service_tier() -> None:
    """The tier that an answer or a chunk names decides whether its price is known."""
    last = msgspec.structs.replace(chunk(), choices=[], usage=USED, service_tier="flex")
    client = Gpt(backend=Scripted(said(service_tier="flex"), [chunk("a"), last]), prices=PRICES)
    call(client)
    streamed(client)
    assert 2 == client.usage.without_price


def test_copies_share() -> None:
    """A copy counts into the same totals, and has the same prices."""
    client = Gpt(backend=Scripted(said()), prices=PRICES)
    copy = client.with_options(timeout=Timeout(connect=1), model="m")
    call(copy)
    call(client)
    assert totals(2, 2) == client.usage == copy.usage
    assert client.cost_of(said()) == copy.cost_of(said())
    other = Gpt(backend=client.backend)
    assert UsageTotals() == other.usage


def test_what_is_kept() -> None:
    """Answers are added up when there are some, so that a client that nobody asks keeps few; none keeps its body."""
    client = Gpt(backend=Scripted(said(info=ResponseInfo(raw=object()))), prices=PRICES)  # type: ignore[arg-type]
    for number in range(3 * ROOM + 1):
        call(client)
        assert len(client._core.meter._noted) < ROOM, number
    assert all(info.raw is None for *_, info in client._core.meter._noted)
    for _ in range(ROOM):
        streamed(client)
    assert len(client._core.meter._noted) < ROOM
    assert totals(4 * ROOM + 1, 4 * ROOM + 1) == client.usage


def test_dropped_while_adding() -> None:
    """A stream may be dropped in the middle of adding up, in the same thread: nothing waits for itself, nothing is lost."""
    meter = Meter(PRICES)
    stream = ToldStream(iter(chunks()), meter._ending("scripted"))  # type: ignore[arg-type]
    for _ in stream:
        break
    for _ in range(ROOM):
        meter._noted.append(("scripted", USED, None, ResponseInfo()))
    with meter._lock:
        del stream
        gc.collect()
    assert ROOM + 1 == meter.read().answers


def test_threads() -> None:
    """Threads that call at once lose no answer, and reading meanwhile loses none either."""
    client = Gpt(backend=Scripted(said()), prices=PRICES)
    seen: list[int] = []

    def work() -> None:
        for _ in range(200):
            call(client)
            seen.append(client.usage.answers)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals(1600, 1600) == client.usage
    assert 1600 == max(seen)


class Layer:
    """A layer of somebody's over a backend."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.complete, self.stream, self.models, self.close = backend.complete, backend.stream, backend.models, lambda: None


class Boxed(Local):
    """The model in the box, with a script."""

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        return said()

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChunkStream:  # type: ignore[override]
        return Scripted(chunks()).stream(request, options)


@pytest.mark.parametrize("wrap", [lambda backend: backend, Layer, lambda backend: Layer(Layer(backend))])
def test_the_box_is_free(wrap: Callable[[Any], Any]) -> None:
    """What the model in the box does costs nothing, below layers too, and is not unknown."""
    client = Gpt(backend=wrap(Boxed()), prices=PRICES)
    call(client)
    streamed(client)
    assert totals(2, 2, costs={}) == client.usage
    found = client.cost_of(said())
    assert found is not None
    assert ("free", 0) == (found.kind, found.amount)


async def boxed_on_asyncio() -> UsageTotals:
    client = AsyncGpt(backend=in_threads(Boxed()), prices=PRICES)
    await client.chat.complete("hi")
    return client.usage


def test_the_box_is_free_on_asyncio() -> None:
    """Below the bridge too."""
    assert totals(costs={}) == asyncio.run(boxed_on_asyncio())


def test_whose_price() -> None:
    """A price of a host is for answers from there, and others have none; OpenRouter's own word counts first."""
    own = Prices({"a.test/scripted": Price(input=1, cached_input=1, output=1)})
    for url, known in (("http://a.test/v1", True), ("http://b.test/v1", False)):
        client = Gpt(server_url=url, prices=own)
        assert known == (client.cost_of(said()) is not None)
    router = Gpt(server_url="https://openrouter.ai/api/v1", api_key="")
    found = router.cost_of(said(usage=Usage(1, 2, 3, cost=0.25)))
    assert found is not None
    assert ("credits", Decimal("0.25")) == (found.currency, found.amount)
    assert AsyncGpt(server_url="http://a.test/v1", prices=own).cost_of(said()) is not None


def test_several_currencies() -> None:
    """Costs are added up by currency."""
    prices = PRICES | Prices({"dollars": Price(input=1, output=1)})
    client = Gpt(backend=Scripted(said(), said(model="dollars")), prices=prices)
    call(client)
    call(client)
    assert ({"EUR": Decimal("0.0028")}, 1) == (
        client.usage.costs,
        client.usage.without_price,
    )  # cached tokens have no price there
    client = Gpt(backend=Scripted(said(), said(model="dollars", usage=Usage(20, 100, 120))), prices=prices)
    call(client)
    call(client)
    assert {"EUR": Decimal("0.0028"), "USD": Decimal("0.00012")} == client.usage.costs
    assert client.cost_of(said(), said(model="dollars", usage=Usage(20, 100, 120))) is None


def test_prices_as_a_dict() -> None:
    """A dict of prices will do; anything else is refused by name."""
    client = Gpt(backend=Scripted(said()), prices=dict(PRICES))
    call(client)
    assert totals() == client.usage
    with pytest.raises(InvalidRequestError, match="prices: expected Prices, or a dict of Price by model, got list"):
        Gpt(backend=Scripted("x"), prices=[])  # type: ignore[arg-type]


def test_deepseeks_cached_tokens() -> None:
    """Tokens from the server's cache count under DeepSeek's name too."""
    client = Gpt(backend=Scripted(said(usage=Usage(20, 100, 120, prompt_cache_hit_tokens=40))), prices=PRICES)
    call(client)
    assert totals(reasoning_tokens=0) == client.usage


@pytest.mark.parametrize("end", ["read", "broken", "closed"])
def test_an_end_is_told_at_once(end: str) -> None:
    """Who still holds a stream has it counted all the same, once, when it was read to its end, broke off or was closed."""
    told: list[Any] = []
    pieces = [*chunks(), ServerError("down", 500)] if end == "broken" else chunks()
    stream = ToldStream(Scripted(pieces).stream(ChatRequest(messages=[])), lambda last, info: told.append((last, info)))
    if end == "closed":
        next(stream)
    else:
        with pytest.raises(ServerError if end == "broken" else StopIteration):
            while True:
                next(stream)
        assert [(chunks()[-1], None)] == told
    stream.close()
    stream.close()
    assert 1 == len(told)


async def told_on_asyncio(end: str) -> list[Any]:
    told: list[Any] = []
    pieces = [*chunks(), ServerError("down", 500)] if end == "broken" else chunks()
    stream = AsyncToldStream(await AsyncScripted(pieces).stream(ChatRequest(messages=[])), lambda last, info: told.append(last))
    if end == "closed":
        await anext(stream)
    else:
        with pytest.raises(ServerError if end == "broken" else StopAsyncIteration):
            while True:
                await anext(stream)
        assert 1 == len(told)
    await stream.close()
    await stream.close()
    return list(told)


@pytest.mark.parametrize("end", ["read", "broken", "closed"])
def test_an_end_is_told_at_once_on_asyncio(end: str) -> None:
    """On asyncio too."""
    assert [None if end == "closed" else chunks()[-1]] == asyncio.run(told_on_asyncio(end))


def test_the_facts_of_a_stream_pass() -> None:
    """Who reads a stream still sees the facts of its exchange."""

    class Facts:
        info = ResponseInfo(202)

        def __iter__(self) -> Iterator[ChatCompletionChunk]:
            return self  # type: ignore[return-value]

        def __next__(self) -> ChatCompletionChunk:
            raise StopIteration

        def close(self) -> None: ...

    stream = ToldStream(Facts(), lambda last, info: None)
    assert Facts.info is stream.info
    assert stream is iter(stream)
