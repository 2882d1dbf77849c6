"""Counts that are not exact, and what answers teach of them."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec
import pytest

from gpt import (
    AsyncGpt,
    ChatRequest,
    Gpt,
    InvalidRequestError,
    Profile,
    TokenCount,
    Usage,
    UserMessage,
    in_threads,
)
from gpt import tokenizer as tokenizers
from gpt.backend import DEFAULT_OPTIONS, CallOptions
from gpt.layers.learn import AsyncLearning, Estimates, Learning
from gpt.testing import AsyncScripted, Scripted
from gpt.testing.scripted import chunk, completion

HELLO = 3 + 3 + 1 + 1
"""What "hi" is estimated at."""

FAR = msgspec.structs.replace(completion("x"), usage=Usage(1, 40, 41))
"""An answer that says that its prompt took 40 tokens."""

PIECES = [chunk("x"), msgspec.structs.replace(chunk(), choices=[], usage=Usage(1, 40, 41))]


@pytest.fixture(autouse=True)
def _no_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tiktoken, whatever the machine has."""
    monkeypatch.setitem(sys.modules, "tiktoken.model", None)


def test_estimate() -> None:
    """Where nothing counts, the request that would go out is estimated, and nothing is sent."""
    client = Gpt(backend=Scripted("x"))
    assert TokenCount(HELLO, "estimate") == client.chat.count_tokens("hi")
    assert HELLO < client.chat.count_tokens("hi", tools=[{"type": "function", "function": {"name": "f"}}]).tokens
    assert [] == client.backend.asked  # type: ignore[attr-defined]
    assert 0 == client.usage.calls


def test_is_checked() -> None:
    """What cannot be sent cannot be counted."""
    with pytest.raises(InvalidRequestError, match=r"messages\[0\].content"):
        Gpt(backend=Scripted("x")).chat.count_tokens([UserMessage(5)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="temperature"):
        Gpt(backend=Scripted("x")).chat.count_tokens("hi", temprature=1)  # type: ignore[call-arg]


def test_history_as_it_is_sent() -> None:
    """Thinking counts where it goes back to the server, and not where it does not."""
    message = msgspec.structs.replace(completion("x").message, reasoning_content="a b c d")

    class Echoing(Scripted):
        profile = Profile(echoes="always")

    once = Gpt(backend=Scripted("x")).chat.count_tokens([message])
    assert once.tokens + 4 == Gpt(backend=Echoing("x")).chat.count_tokens([message]).tokens


def test_uncounted() -> None:
    """Parts that nobody can count are told."""
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "https://h/x.png"}}]
    found = Gpt(backend=Scripted("x")).chat.count_tokens([{"role": "user", "content": parts}])
    assert TokenCount(HELLO, "estimate", uncounted=("messages[0].content[1] (image_url)",)) == found


def test_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model's tokenizer is there it counts, and nothing has to be learnt."""
    monkeypatch.setattr(tokenizers, "tokenizer", lambda model: (f"of {model}", len))
    client = Gpt(backend=Scripted("x"), model="m")
    assert TokenCount(3 + 3 + 4 + 2, "tokenizer", "of m") == client.chat.count_tokens("hi")
    assert not isinstance(client.chat._backend, Learning)


class Counting(Scripted):
    """A backend that counts by itself."""

    def count_tokens(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> TokenCount:
        assert options.deadline == 5
        return TokenCount(len(request.messages), "exact", "me")


class AsyncCounting(AsyncScripted):
    async def count_tokens(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> TokenCount:
        return TokenCount(len(request.messages), "exact", "me")


def test_exact() -> None:
    """A backend that counts by itself is asked, below layers too, with the call's options."""
    exact = TokenCount(1, "exact", "me")
    client = Gpt(backend=Counting("x"))
    assert exact == client.chat.count_tokens("hi", deadline=5)
    assert exact == client.with_options(on_event=lambda event: None).chat.count_tokens("hi", deadline=5)


async def exact_on_asyncio() -> list[TokenCount]:
    return [
        await AsyncGpt(backend=backend).chat.count_tokens("hi", deadline=5)
        for backend in (
            AsyncCounting("x"),
            Counting("x"),
            in_threads(Learning(Counting("x"), Estimates(Profile()))),
            Scripted("x"),
        )
    ]


def test_exact_on_asyncio() -> None:
    """On asyncio, in threads, and below a layer that is in threads; where it is not there it is not asked."""
    exact = TokenCount(1, "exact", "me")
    assert [exact, exact, exact, TokenCount(HELLO, "estimate")] == asyncio.run(exact_on_asyncio())


def ask(client: Gpt, way: str) -> None:
    if way == "complete":
        client.chat.complete("hi")
    elif way == "create":
        client.chat.completions.create(messages=[UserMessage("hi")])
    elif way == "run_tools":
        client.chat.run_tools("hi", tools=[])
    else:
        with client.chat.stream("hi") as stream:
            stream.until_done()


@pytest.mark.parametrize(("way", "answer"), [("complete", FAR), ("create", FAR), ("run_tools", FAR), ("stream", PIECES)])
def test_answers_teach(way: str, answer: Any) -> None:
    """Once a count was asked for, answers teach; before that, nothing is done for it."""
    client = Gpt(backend=Scripted(answer))
    ask(client, way)
    assert TokenCount(HELLO, "estimate") == client.chat.count_tokens("hi")
    for number in range(1, 40):
        ask(client, way)
        assert number == client.chat.count_tokens("hi").answers
    assert client.chat.count_tokens("hi").tokens == pytest.approx(40, abs=1)
    assert client.usage.answers == 40


async def taught_on_asyncio() -> list[int]:
    client = AsyncGpt(backend=AsyncScripted(FAR, PIECES))
    chat = client.chat
    found = [(await chat.count_tokens("hi")).answers]
    await chat.complete("hi")
    found.append((await chat.count_tokens("hi")).answers)
    async with chat.stream("hi") as stream:
        await stream.until_done()
    found.append((await chat.count_tokens("hi")).answers)
    found.append((await client.with_options(timeout=1).chat.count_tokens("hi")).answers)
    return found


def test_answers_teach_on_asyncio() -> None:
    """On asyncio too, whole answers and streams; a copy knows what was learnt."""
    assert [0, 1, 2, 2] == asyncio.run(taught_on_asyncio())


def test_by_model() -> None:
    """What is learnt of one model says nothing of another."""
    client = Gpt(backend=Scripted(FAR))
    client.chat.count_tokens("hi")
    client.chat.complete("hi", model="a")
    assert [1, 0, 0] == [client.chat.count_tokens("hi", model=model).answers for model in ("a", "b", None)]


def test_copies() -> None:
    """A copy that is made later learns too, and so does the client from it; the layer is there once."""
    client = Gpt(backend=Scripted(FAR))
    client.chat.count_tokens("hi")
    client.chat.count_tokens("hi")
    copy = client.with_options(timeout=1)
    copy.chat.complete("hi")
    assert 1 == client.chat.count_tokens("hi").answers == copy.chat.count_tokens("hi").answers
    assert 1 == repr(copy.chat._backend).count("Learning(")


@pytest.mark.parametrize(
    "answer",
    [
        completion("x"),
        msgspec.structs.replace(completion("x"), usage=Usage()),
        [chunk("x")],
    ],
)
def test_nothing_to_learn(answer: Any) -> None:
    """An answer that does not say what its prompt took teaches nothing, and is given all the same."""
    client = Gpt(backend=Scripted(answer))
    client.chat.count_tokens("hi")
    client.chat.complete("hi")
    with client.chat.stream("hi") as stream:
        stream.until_done()
    assert 0 == client.chat.count_tokens("hi").answers


def test_uncounted_teaches_nothing() -> None:
    """Nor does a prompt with an image, or one that only its backend can read; that one is answered."""
    client = Gpt(backend=Scripted(FAR))
    client.chat.count_tokens("hi")
    client.chat.complete([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://h/x.png"}}]}])
    assert "x" == client.chat.complete([UserMessage(object())]).text  # type: ignore[arg-type]
    assert 0 == client.chat.count_tokens("hi").answers


async def layered() -> tuple[Any, ...]:
    script = AsyncScripted("x")
    layer = AsyncLearning(script, Estimates(Profile()))
    models = await layer.models()
    await layer.close()
    return layer.profile, len(models.data), script.script.closed, repr(layer).startswith("AsyncLearning(")


def test_is_a_backend() -> None:
    """The layer is a backend, and hands on what it has nothing to do with."""
    script = Scripted("x")
    layer = Learning(script, Estimates(Profile()))
    assert (None, 1) == (layer.profile, len(layer.models().data))
    layer.close()
    assert script.closed
    assert (None, 1, True, True) == asyncio.run(layered())
