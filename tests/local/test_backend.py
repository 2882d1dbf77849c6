"""The model in the box, really run."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import pickle
import threading
import weakref
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from gpt import (
    AsyncGpt,
    BadRequestError,
    ContentEvent,
    ContextLengthError,
    Gpt,
    GptError,
    InvalidRequestError,
    Local,
    LogprobsEvent,
    ModelNotFoundError,
    RequestTimeoutError,
    ServerError,
    SystemMessage,
    Timeout,
    UnsupportedParameterError,
    UserMessage,
)
from gpt.backend import CallOptions, in_threads
from gpt.local import llama
from gpt.local.backend import LocalStream, _Answer
from gpt.local.llama import Run
from gpt.types import UNSET, ChatCompletion, ChatRequest

RIVERS = "Name three rivers."
LONG = "The river is long and wide and it flows to the sea. " * 40


@pytest.fixture
def client(box: Local) -> Gpt:
    return Gpt(backend=box)


def test_answers(client: Gpt) -> None:
    """A text in, a completion out, with the model's real name, usage and the facts of the call."""
    answer = client.chat.complete(RIVERS, model="any-name", temperature=0, max_tokens=12)
    assert isinstance(answer, ChatCompletion)
    assert len(answer.text) > 10
    assert ("smollm2-135m-instruct", "chat.completion") == (answer.model, answer.object)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == 12 + answer.usage.prompt_tokens
    assert answer.info is not None
    assert answer.info.tokens_per_second
    assert 0 < (answer.info.first_token or 0) < answer.info.elapsed
    assert "/" not in json.dumps(answer.to_dict()["model"])


def test_wire_form(client: Gpt) -> None:
    """The completion is written with every key that the protocol requires."""
    given = client.chat.complete(RIVERS, max_tokens=2).to_dict()
    assert {"id", "choices", "created", "model", "object", "usage"} <= given.keys()
    assert {"finish_reason", "index", "message", "logprobs"} <= given["choices"][0].keys()
    assert {"content", "refusal", "role"} <= given["choices"][0]["message"].keys()


def test_greedy_is_the_same(client: Gpt) -> None:
    """At temperature 0 the same request gives the same text, streamed or not."""
    texts = {client.chat.complete(RIVERS, temperature=0, max_tokens=20).text for _ in range(2)}
    with client.chat.stream(RIVERS, temperature=0, max_tokens=20) as stream:
        texts.add("".join(stream.text_stream))
    assert len(texts) == 1


def test_seed(client: Gpt) -> None:
    """The same seed gives the same text; another gives another."""

    def text(seed: int) -> str:
        return client.chat.complete(RIVERS, temperature=2, seed=seed, max_tokens=16).text

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("seed", [-1, 2**32 - 1, 2**63 - 1])
def test_any_seed(client: Gpt, seed: int) -> None:
    """Every seed is one, those too that the engine has another meaning for."""
    texts = {client.chat.complete(RIVERS, temperature=2, seed=seed, max_tokens=16).text for _ in range(2)}
    assert 1 == len(texts)


def test_system_and_history(client: Gpt) -> None:
    """Instructions and history reach the model: they change what it answers."""
    plain = client.chat.complete([UserMessage(RIVERS)], temperature=0, max_tokens=16)
    told = client.chat.complete([SystemMessage("Answer in French."), UserMessage(RIVERS)], temperature=0, max_tokens=16)
    again = client.chat.complete([UserMessage(RIVERS), plain.message, UserMessage("More.")], temperature=0, max_tokens=16)
    assert len({plain.text, told.text, again.text}) == 3
    assert again.usage is not None
    assert plain.usage is not None
    assert again.usage.prompt_tokens > plain.usage.prompt_tokens


def test_choices(client: Gpt) -> None:
    """`n` choices come in order, and usage counts them all."""
    answer = client.chat.complete(RIVERS, n=3, temperature=1, seed=3, max_tokens=9)
    assert [0, 1, 2] == [choice.index for choice in answer.choices]
    assert len({choice.message.content for choice in answer.choices}) > 1
    one = client.chat.complete(RIVERS, max_tokens=9)
    assert answer.usage is not None
    assert one.usage is not None
    assert (27, one.usage.prompt_tokens) == (answer.usage.completion_tokens, answer.usage.prompt_tokens)


def test_stop(client: Gpt) -> None:
    """The answer ends before a stop string."""
    whole = client.chat.complete(RIVERS, temperature=0, max_tokens=20)
    word = whole.text.split()[3]
    cut = client.chat.complete(RIVERS, temperature=0, max_tokens=20, stop=[word])
    assert whole.text.startswith(cut.text)
    assert word not in cut.text
    assert cut.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "limits", [{"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_tokens": 9, "max_completion_tokens": 5}]
)
def test_limits(client: Gpt, limits: dict[str, Any]) -> None:
    """Both names of the token limit hold; of two, the smaller."""
    answer = client.chat.complete(RIVERS, temperature=0, **limits)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_logprobs(client: Gpt) -> None:
    """Log probabilities come one item a token, with as many likeliest ones as were asked for."""
    for asked, expected in ((UNSET, 0), (0, 0), (3, 3)):
        answer = client.chat.complete(RIVERS, temperature=0, max_tokens=4, logprobs=True, top_logprobs=asked)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert [expected] * 4 == [len(token.top_logprobs) for token in logprobs.content]
        assert answer.text == "".join(token.token for token in logprobs.content)
        assert all(token.logprob <= 0 for token in logprobs.content)


def test_logit_bias(client: Gpt) -> None:
    """A token pushed up comes, a token pushed down does not."""
    logprobs = client.chat.complete(RIVERS, temperature=0, max_tokens=1, logprobs=True).to_dict()["choices"][0]["logprobs"]
    assert logprobs["content"][0]["token"] == "1"
    up = client.chat.complete(RIVERS, temperature=0, max_tokens=3, logit_bias={504: 100})  # 504 is "The"
    assert up.text == "TheTheThe"
    down = client.chat.complete(RIVERS, temperature=0, max_tokens=1, logit_bias={"33": -100})  # 33 is "1"
    assert down.text != "1"


def test_penalties_and_knobs(client: Gpt) -> None:
    """Penalties, top_p and the engine's own settings change the answer."""
    plain = client.chat.complete(RIVERS, temperature=0, max_tokens=40).text
    assert plain != client.chat.complete(RIVERS, temperature=0, max_tokens=40, frequency_penalty=2, presence_penalty=2).text
    assert plain == client.chat.complete(RIVERS, temperature=2, max_tokens=40, top_p=0.0001).text
    assert plain == client.chat.complete(RIVERS, temperature=2, max_tokens=40, body={"top_k": 1}).text


RIVER_SCHEMA = {
    "type": "object",
    "properties": {
        "rivers": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
        "n": {"type": "integer"},
    },
    "required": ["rivers", "n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(3))
def test_json_schema(client: Gpt, seed: int) -> None:
    """A schema is kept to, streamed or not."""
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "rivers", "schema": RIVER_SCHEMA}}
    params: dict[str, Any] = {"response_format": wanted, "temperature": 1, "seed": seed, "max_tokens": 200}
    answer = client.chat.complete(RIVERS, **params)
    assert answer.choices[0].finish_reason == "stop"
    value = json.loads(answer.text)
    assert (2, True, {"rivers", "n"}) == (len(value["rivers"]), isinstance(value["n"], int), set(value))
    with client.chat.stream(RIVERS, **params) as stream:
        assert isinstance(json.loads("".join(stream.text_stream)), dict)


@pytest.mark.parametrize(("prompt", "ends"), [(RIVERS, True), ("Write a poem.", True), ("Say hello, no JSON.", False)])
def test_json_object(client: Gpt, prompt: str, ends: bool) -> None:
    """json_object gives a JSON object. So small a model may not find its end; then the limit cuts it, as the reason says."""
    answer = client.chat.complete(prompt, response_format={"type": "json_object"}, temperature=0, max_tokens=150)
    if ends or answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.text), dict)
    assert answer.text.startswith("{")


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"logit_bias": {"key": 544683}}, InvalidRequestError, 'logit_bias["key"]: a key is a token id, a number from 0 to 49151'),
    ({"logit_bias": {"49152": 1}}, InvalidRequestError, 'logit_bias["49152"]: the model has the token ids 0 to 49151'),
    ({"logit_bias": {"5": 544683}}, InvalidRequestError, 'logit_bias["5"]: expected -100 to 100, got 544683'),
    ({"n": 5}, InvalidRequestError, "n: the engine has 4 slots, so at most 4 choices"),
    ({"body": {"zap": 1}}, UnsupportedParameterError, "zap: not one of the engine's settings"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "zap"}}}}, BadRequestError,
     "unrecognized type zap"),
]  # fmt: skip


@pytest.mark.parametrize(("params", "kind", "text"), REFUSED)
def test_refused(client: Gpt, params: dict[str, Any], kind: type[Exception], text: str) -> None:
    """What cannot be honoured is refused by name, and the error pickles."""
    with pytest.raises(kind) as caught:
        client.chat.complete(RIVERS, max_tokens=5, **params)
    assert text in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("streamed", [False, True])
def test_too_long(client: Gpt, streamed: bool) -> None:
    """Too long a prompt is an error with both numbers, never cut."""
    with pytest.raises(ContextLengthError) as caught:
        if streamed:
            client.chat.stream("river " * 6000).until_done()
        else:
            client.chat.complete("river " * 6000)
    assert caught.value.limit == 4096
    assert (caught.value.requested or 0) > 6000
    assert "Local(..., context=N)" in str(caught.value)


def test_raw_chunks(client: Gpt) -> None:
    """Raw chunks are well formed: a role first, then content, a finish reason, and usage only if asked for."""
    params: dict[str, Any] = {"messages": [UserMessage(RIVERS)], "max_tokens": 4, "temperature": 0, "stream": True}
    plain = list(client.chat.completions.create(**params))
    assert ("assistant", "") == (plain[0].choices[0].delta.role, plain[0].choices[0].delta.content)
    assert "length" == plain[-1].choices[0].finish_reason
    assert all(chunk.usage is None and chunk.choices for chunk in plain)
    assert all("prompt_progress" not in chunk.to_dict() for chunk in plain)
    counted = list(client.chat.completions.create(**params, stream_options={"include_usage": True}))
    assert counted[-1].choices == []
    assert counted[-1].usage is not None
    assert counted[-1].usage.completion_tokens == 4
    assert len({chunk.id for chunk in counted}) == 1


def test_made_at_one_time(client: Gpt) -> None:
    """All chunks of an answer say the same time, also of one that takes more than a second."""
    endless = {"2": -100}  # without the token that ends an answer
    asked = {"messages": [UserMessage("Count for ever.")], "max_tokens": 2000, "logit_bias": endless}
    created = set()
    began = None
    with client.chat.completions.create(**asked, stream=True) as stream:
        for chunk in stream:
            began = began or perf_counter()
            created.add(chunk.created)
            if perf_counter() - began > 1.1:
                break
        else:
            pytest.fail("it ended too soon")
    assert 1 == len(created)


def test_stream_counts(client: Gpt) -> None:
    """chat.stream asks for usage by itself, and its completion has it."""
    with client.chat.stream(RIVERS, max_tokens=4) as stream:
        assert stream.until_done().usage is not None
    assert stream.completion.info is not None
    assert stream.completion.info.tokens_per_second


def finished(backend: Local) -> bool:
    """Whether nothing runs in the engine any more."""
    engine = backend.load()
    for run in list(engine._running):
        run.thread.join(20)
    return not any(run.thread.is_alive() for run in list(engine._running))


def left(run: Run) -> list[dict[str, Any]]:
    """The chunks of a run that has ended which nobody took."""
    run.thread.join(60)
    assert not run.thread.is_alive()
    chunks: list[dict[str, Any]] = []
    while isinstance(chunk := run.chunks.get(timeout=1), dict):
        chunks.append(chunk)
    assert chunk is None
    return chunks


def run_of(stream: Any) -> Run:
    """The engine's work on a stream."""
    chunks = stream._chunks._chunks  # below the one that tells the client of its end
    assert isinstance(chunks, LocalStream)
    return chunks._run


@pytest.mark.parametrize("how", ["leave", "drop"])
def test_leaving_stops(box: Local, client: Gpt, how: str) -> None:
    """Leaving a stream, or dropping it, stops the engine: the answer never comes to an end of its own."""
    stream = client.chat.stream("Tell a very long story.", max_tokens=1024, logit_bias={2: -100})  # 2 ends an answer
    with stream:
        next(stream)
        run = run_of(stream)
        if how == "drop":
            stream._chunks = None
            gc.collect()
            assert run.stopped
    assert not [choice for chunk in left(run) for choice in chunk.get("choices", ()) if choice["finish_reason"]]


def test_leaving_while_the_prompt_is_read(client: Gpt) -> None:
    """A call can be stopped before its first token: of a long prompt, only a part has been read."""
    stream = client.chat.completions.create(messages=[UserMessage(LONG * 3)], stream=True, max_tokens=1)
    run = run_of(stream)
    stream.close()
    assert [] == list(stream)
    chunks = left(run)
    assert all("prompt_progress" in chunk for chunk in chunks)
    assert all(chunk["prompt_progress"]["processed"] < chunk["prompt_progress"]["total"] for chunk in chunks)


class Later(threading.Event):
    """A cancel token that is set at the nth look at it, and so at a known token of the answer."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


STORY = ChatRequest(messages=[UserMessage("Tell a very long story.")], max_tokens=1024, temperature=0)


@pytest.mark.parametrize("looks", [0, 3, 30])
@pytest.mark.parametrize("streamed", [False, True])
def test_cancelled(box: Local, looks: int, streamed: bool) -> None:
    """An answer stops when its token is set, and what had come by then is never taken for a whole answer."""
    options = CallOptions(cancel=Later(looks))
    with pytest.raises(GptError, match="the call was cancelled"):
        list(box.stream(STORY, options)) if streamed else box.complete(STORY, options)
    assert finished(box)


def test_broken_off(box: Local) -> None:
    """An answer whose end the engine does not tell is an error, not a short answer."""
    stream = box.stream(ChatRequest(messages=[UserMessage(LONG)], max_tokens=2))
    stream._run.chunks.put(None)
    with pytest.raises(ServerError, match="broke off in the middle of its answer"):
        list(stream)
    stream.close()
    assert finished(box)


def test_a_stream_keeps_its_model() -> None:
    """A stream works on when the client that it came from is dropped; the engine is freed after it."""
    before = len(llama._engines)
    stream = Local(context=512).stream(ChatRequest(messages=[UserMessage("hi")], max_tokens=4))
    gc.collect()
    assert "length" == [chunk.choices[0].finish_reason for chunk in stream][-1]
    del stream
    gc.collect()
    assert before == len(llama._engines)


CLOCKS = [
    ({"timeout": Timeout(first_byte=0.02)}, "first_byte", LONG),
    ({"timeout": Timeout(idle=0.000001)}, "read", "Tell a very long story."),
    ({"deadline": 0.3}, "deadline", "Tell a very long story."),
]


@pytest.mark.parametrize(("options", "phase", "prompt"), CLOCKS)
def test_clocks(box: Local, client: Gpt, options: dict[str, Any], phase: str, prompt: str) -> None:
    """Clocks hold for the model in the box too, and stop it."""
    with pytest.raises(RequestTimeoutError) as caught:
        client.chat.complete(prompt, max_tokens=1024, logit_bias={2: -100}, **options)  # 2 ends an answer
    assert phase == caught.value.phase
    assert finished(box)


def test_threads_are_batched(client: Gpt) -> None:
    """Calls of several threads run at the same time, each with its own answer."""
    begun = threading.Barrier(4, timeout=60)
    texts: dict[int, str] = {}

    def work(number: int) -> None:
        with client.chat.stream(f"Count from {number}.", temperature=0, max_tokens=24) as stream:
            pieces = stream.text_stream
            first = next(pieces)
            begun.wait()  # passes only when all four have their first piece while none has ended
            texts[number] = first + "".join(pieces)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [0, 1, 2, 3] == sorted(texts)
    assert all(texts.values())


def test_more_calls_than_slots(client: Gpt) -> None:
    """Calls beyond the slots wait their turn."""
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.chat.complete(RIVERS, max_tokens=3).text)) for _ in range(9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 9


def test_async(box: Local) -> None:
    """On asyncio the same answers come, several at a time; cancelling stops the engine."""

    async def run() -> None:
        client = AsyncGpt(backend=box)
        texts = await asyncio.gather(*(client.chat.complete(RIVERS, temperature=0, max_tokens=6) for _ in range(3)))
        assert len(texts) == 3
        async with client.chat.stream(RIVERS, temperature=0, max_tokens=6) as stream:
            assert [piece async for piece in stream.text_stream]
        assert stream.completion.usage is not None
        task = asyncio.create_task(client.chat.complete("Tell a very long story.", max_tokens=1024))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(InvalidRequestError):
            await client.chat.complete(RIVERS, logit_bias={"x": 1})

    asyncio.run(run())
    assert finished(box)


PUSHED: list[tuple[str, dict[str, Any]]] = [
    ("plain", {}),
    ("with usage", {"stream_options": {"include_usage": True}}),
    ("two choices", {"n": 2}),
    ("logprobs", {"logprobs": True}),
    ("a schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["a", "b"]}}}}),
]


def bare(chunk: Any) -> Any:
    """A chunk without what no two answers have in common."""
    return {name: value for name, value in chunk.to_dict().items() if name not in ("id", "created", "timings")}


@pytest.mark.parametrize("params", [row[1] for row in PUSHED], ids=[row[0] for row in PUSHED])
def test_pushed(box: Local, params: dict[str, Any]) -> None:
    """On asyncio the engine's own thread gives the very chunks that are read from a blocking stream, and the same facts."""
    request = ChatRequest(messages=[UserMessage(RIVERS)], max_tokens=6, temperature=0, **params)
    with box.stream(request) as blocking:
        expected = [bare(chunk) for chunk in blocking]

    async def run() -> None:
        stream = await in_threads(box).stream(request)
        found = [bare(chunk) async for chunk in stream]
        assert sorted(expected, key=repr) == sorted(found, key=repr)  # choices come in any order
        assert expected[-1] == found[-1] or "n" in params
        info = stream.info
        assert info is not None
        assert ("complete", True) == (info.ended, 0 < (info.first_token or 0) < info.elapsed)

    asyncio.run(run())
    assert finished(box)


@pytest.mark.parametrize("how", ["close", "drop", "cancel", "leave the client's"])
def test_leaving_a_pushed_one(box: Local, how: str) -> None:
    """Whichever way a stream on asyncio is left, the engine stops: the answer never comes to an end of its own."""

    async def run() -> tuple[Run, _Answer]:
        if how == "leave the client's":
            async with AsyncGpt(backend=box).chat.stream(STORY) as talk:
                await anext(talk)
                stream: Any = talk._chunks._chunks  # type: ignore[union-attr]
        else:
            stream = await in_threads(box).stream(STORY)
            await anext(stream)
        found = stream.below._run, stream.below._answer
        if how == "cancel":
            task = asyncio.ensure_future(_all(stream))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        if how == "close":
            await stream.close()
        return found

    async def _all(stream: Any) -> None:
        try:
            async for _ in stream:
                pass
        finally:
            await stream.close()

    made, answer = asyncio.run(run())
    made.thread.join(60)
    assert not made.thread.is_alive()
    assert (1, False) == (answer._unfinished, answer.complete)
    assert made.chunks.empty()


def test_pushed_with_clocks(box: Local) -> None:
    """Clocks hold for a stream on asyncio too, and stop it."""

    async def run() -> None:
        client = AsyncGpt(backend=box)
        for options, phase, prompt in CLOCKS:
            with pytest.raises(RequestTimeoutError) as caught:
                await client.chat.stream(prompt, max_tokens=1024, logit_bias={2: -100}, **options).until_done()
            assert phase == caught.value.phase

    asyncio.run(run())
    assert finished(box)


FAILS: list[tuple[str, dict[str, Any], type[GptError]]] = [
    ("too long", {"messages": [UserMessage("river " * 600)]}, ContextLengthError),
    ("a schema that the engine refuses", {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "zap"}}},
    }, BadRequestError),
    ("a grammar that cannot be made", {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
            "a": {"type": "string", "pattern": "(?=a)b"}}}}}],
        "tool_choice": "required",
    }, InvalidRequestError),
]  # fmt: skip


def answers(address: str) -> bool:
    """Whether the engine at an address is there."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])
@pytest.mark.parametrize(("params", "kind"), [row[1:] for row in FAILS], ids=[row[0] for row in FAILS])
def test_an_error_holds_no_model(params: dict[str, Any], kind: type[GptError], asynchronous: bool) -> None:
    """A closed model is freed though an error of its stream is kept; the error comes once, and then the end."""
    box = Local(context=256, slots=1)
    address = box.load().address
    request = ChatRequest(**{"messages": [UserMessage("hi")], **params})

    async def run() -> GptError:
        stream = await in_threads(box).stream(request)
        with pytest.raises(kind) as caught:
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        return caught.value

    if asynchronous:
        kept = asyncio.run(run())
    else:
        with pytest.raises(kind) as caught:
            list(box.stream(request))
        kept = caught.value
    assert answers(address)
    box.close()
    assert not answers(address)
    assert kept.__traceback__ is not None


def test_closed_while_one_is_pushed() -> None:
    """Closing the client while its streams run ends them with an error that says so, and frees the engine."""

    async def run() -> None:
        box = Local(context=512, slots=2)
        bridge = in_threads(box)
        address = box.load().address
        streams = [await bridge.stream(STORY) for _ in range(3)]  # the third waits for its turn
        await anext(streams[0])
        closing = asyncio.ensure_future(bridge.close())
        for stream in streams:
            with pytest.raises(InvalidRequestError, match="was stopped, because the client was closed"):
                while True:
                    await anext(stream)
        await closing
        assert not answers(address)

    asyncio.run(run())


def test_a_pushed_one_keeps_its_model() -> None:
    """A stream on asyncio works on when its client is dropped; with the stream the engine is freed, though nothing collects."""

    async def run() -> str:
        box = Local(context=512)
        address = box.load().address
        stream = await in_threads(box).stream(ChatRequest(messages=[UserMessage("hi")], max_tokens=4))
        del box
        assert "length" == [chunk.choices[0].finish_reason async for chunk in stream][-1]
        assert answers(address)
        return address

    gc.collect()
    gc.disable()
    try:
        assert not answers(asyncio.run(run()))
    finally:
        gc.enable()


def test_who_pushes_holds_no_model(box: Local) -> None:
    """While the engine's thread is giving a chunk, the client may be let go of, and is freed; so is what it began, which stops."""
    came, go_on = threading.Event(), threading.Event()

    def put(_: Any) -> None:
        came.set()
        assert go_on.wait(60)

    other = Local()
    stream = other.stream_into(STORY, CallOptions(), put)
    run, client = stream._run, weakref.ref(other)
    assert came.wait(60)
    del other, stream
    stopped, left = run.stopped, client()
    go_on.set()
    assert (True, None) == (stopped, left)
    assert finished(box)


def test_a_fault_of_ours(box: Local) -> None:
    """What we cannot make of the engine's words ends a stream with that error, once, and stops the engine."""
    given: list[Any] = []
    answer = _Answer("m", [None], None, usage=False, bare_logprobs=False)
    run = Run(None, {}, None, listener=partial(answer.give, given.append))
    run._put({"no": "choices"})
    assert (True, False) == (run.stopped, answer.complete)
    run._put({"choices": []})
    run._put(None)
    assert [KeyError] == [type(item) for item in given]
    stream = box.stream(ChatRequest(messages=[UserMessage(LONG)], max_tokens=2))
    stream._run.chunks.put({"no": "choices"})
    with pytest.raises(KeyError):
        list(stream)
    assert stream._run.stopped
    assert finished(box)


def test_one_engine(box: Local) -> None:
    """Equal settings share one engine, which lives until the last user lets go."""
    engine = box.load()
    users = engine.users
    other = Local()
    assert engine is other.load()
    assert users + 1 == engine.users
    other.close()
    other.close()
    assert users == engine.users
    with pytest.raises(InvalidRequestError, match="the client is closed"):
        other.complete(ChatRequest(messages=[UserMessage("x")]))
    dropped = Local()
    dropped.load()
    del dropped
    gc.collect()
    assert users == engine.users


def test_freed_when_the_last_closes() -> None:
    """Other settings are another engine; closing its only user frees it, and stops what runs on it."""
    client = Gpt(backend=Local(context=512, slots=1))
    stream = client.chat.stream("Tell a very long story.", max_tokens=500)
    next(stream)
    before = len(llama._engines)
    client.close()
    assert before - 1 == len(llama._engines)
    with pytest.raises(InvalidRequestError, match="because the client was closed"):
        stream.until_done()


def test_context_setting() -> None:
    """`context` are the tokens that one call may take."""
    with Gpt(backend=Local(context=256, slots=2)) as client:
        with pytest.raises(ContextLengthError) as caught:
            client.chat.complete("river " * 400)
        assert caught.value.limit == 256
        long = client.chat.complete("Tell a very long story.", max_tokens=1000, temperature=0)
        assert long.choices[0].finish_reason == "length"


def test_listener_is_closed(box: Local) -> None:
    """The engine's HTTP listener refuses whoever has not the key: no answer, no slots, no page, no foreign origin."""
    host, _, port = box.load().address.removeprefix("http://").rpartition(":")
    assert host == "127.0.0.1"
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1})
    for method, path, status in (
        ("POST", "/v1/chat/completions", 401),
        ("GET", "/slots", 401),
        ("GET", "/props", 401),
        ("GET", "/", 404),
    ):
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request(method, path, body if method == "POST" else None, {"Origin": "http://evil.test"})
        response = connection.getresponse()
        assert status == response.status
        assert not response.getheader("Access-Control-Allow-Origin")
        connection.close()


def test_models(client: Gpt) -> None:
    """The list of models has the one that answers, by its real name."""
    assert ["smollm2-135m-instruct"] == [model.id for model in client.models.list()]
    assert ["smollm2-135m-instruct"] == [model.id for model in Local().models()]


def test_models_are_not_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asking for the list fetches and loads nothing; a file that is not there is an error all the same."""
    monkeypatch.setenv("GPT_CACHE", str(tmp_path))
    monkeypatch.setenv("GPT_OFFLINE", "1")
    for model, name in (("", "smollm2-135m-instruct"), ("owner/repository/some.gguf", "some")):
        assert [name] == [model.id for model in Local(model).models()]
    assert [] == list(tmp_path.iterdir())
    with pytest.raises(ModelNotFoundError):
        Local(str(tmp_path / "x.gguf")).models()


@pytest.mark.parametrize("settings", [{"batch": 0}, {"slots": 0}, {"context": -1}, {"threads": True}, {"slots": "4"}])
def test_settings(settings: dict[str, Any]) -> None:
    """Settings that make no sense are refused."""
    with pytest.raises(InvalidRequestError, match=f"{next(iter(settings))}: expected an int from 1"):
        Local(**settings)


@pytest.mark.parametrize(
    ("url", "model"), [("local:", ""), ("local:/m/x.gguf", "/m/x.gguf"), ("local:name", "name"), ("local://", "")]
)
def test_url(url: str, model: str) -> None:
    """A URL names the model."""
    assert model == Local.from_url(url).model
    client = Gpt(server_url=url)
    assert repr(client) == f"Gpt(backend=Local({model!r}))"


@pytest.mark.parametrize("options", [{"headers": {"a": "b"}}, {"query": {"a": "b"}}])
def test_nothing_to_send_headers_to(box: Local, options: dict[str, Any]) -> None:
    """Headers and query are for a server: here they are refused, not ignored."""
    with pytest.raises(InvalidRequestError, match="there is no server here to send them to"):
        Gpt(backend=box).chat.complete("a", **options)


def test_client_settings() -> None:
    """A client's timeout and policy hold for `local:`; what only a server could use is refused."""
    assert 3.0 == Gpt(server_url="local:", timeout=3).chat._core.options.timeout.idle  # type: ignore[union-attr]
    with pytest.raises(InvalidRequestError, match='organization: has no meaning with "local:"'):
        Gpt(server_url="local:", organization="o")


def test_stream(client: Gpt) -> None:
    """A stream from the engine is the same object as one from a server: events of all kinds, several choices, times, its end."""
    with client.chat.stream("Name three rivers.", n=2, logprobs=True, top_logprobs=1, max_tokens=6) as stream:
        events = list(stream)
        made = stream.completion
    assert {"content", "logprobs", "usage", "done"} == {event.type for event in events}
    for choice in made.choices:
        own = [event for event in events if isinstance(event, ContentEvent) and event.index == choice.index]
        assert choice.message.content == own[-1].snapshot == "".join(event.delta for event in own)
        tokens = [event for event in events if isinstance(event, LogprobsEvent) and event.index == choice.index]
        assert choice.logprobs is not None
        assert choice.logprobs.content == tokens[-1].snapshot
    assert made.info is not None
    assert "complete" == made.info.ended
    assert made.info.first_token is not None
    assert 0 < made.info.first_token < made.info.elapsed
    assert made.info.tokens_per_second is not None


def test_clocks_keep_what_came(client: Gpt) -> None:
    """A clock that runs out in the middle of an answer leaves what had come with its error."""
    stream = client.chat.stream("Tell a very long story.", timeout=Timeout(idle=0.000001), logit_bias={2: -100})
    with pytest.raises(RequestTimeoutError) as caught:
        stream.until_done()
    assert caught.value.partial is not None
    assert stream.snapshot.text == caught.value.partial.text
