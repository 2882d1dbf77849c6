"""The model with a script."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gpt import AsyncGpt, Gpt, RateLimitError, UserMessage
from gpt.backend import AsyncBackend, Backend
from gpt.testing import AsyncScripted, Scripted
from gpt.testing.scripted import chunk, completion, words


def test_in_turn() -> None:
    """Answers come in turn, the last one for ever; what was asked is remembered."""
    script = Scripted("one", completion("two"))
    client = Gpt(backend=script, model="m")
    assert ["one", "two", "two"] == [client.chat.complete(text).text for text in "abc"]
    assert [[UserMessage("a")], [UserMessage("b")], [UserMessage("c")]] == [request.messages for request in script.asked]
    assert ["m"] * 3 == [request.model for request in script.asked]
    client.close()
    assert script.closed


@pytest.mark.parametrize("text", ["hi", "The Nile,  the Rhine ", " leading", ""])
def test_streamed_text(text: str) -> None:
    """A streamed text comes word by word and is the text."""
    assert text == "".join(part.choices[0].delta.content or "" for part in words(text))
    with Gpt(backend=Scripted(text)).chat.stream("a") as stream:
        assert text == "".join(stream.text_stream)


def test_folded_chunks() -> None:
    """Chunks asked for whole are folded; an error among them is raised."""
    assert "hello" == Gpt(backend=Scripted([chunk("hel"), chunk("lo", "stop")])).chat.complete("a").text
    with pytest.raises(RateLimitError):
        Gpt(backend=Scripted([chunk("hel"), RateLimitError("slow", 429)])).chat.complete("a")


def test_errors_and_functions() -> None:
    """An error is raised in its turn; a function sees the request."""
    client = Gpt(backend=Scripted(RateLimitError("slow", 429), lambda request: f"{len(request.messages)} messages"))
    with pytest.raises(RateLimitError, match="slow"):
        client.chat.complete("a")
    assert "1 messages" == client.chat.complete("a").text


def test_on_asyncio() -> None:
    """The same on asyncio."""
    script = AsyncScripted("one", RateLimitError("slow", 429), "two words")

    async def run() -> None:
        async with AsyncGpt(backend=script) as client:
            assert "one" == (await client.chat.complete("a")).text
            with pytest.raises(RateLimitError):
                await client.chat.complete("a")
            async with client.chat.stream("a") as stream:
                assert ["two ", "words"] == [piece async for piece in stream.text_stream]
            assert ["scripted"] == [model.id for model in await client.models.list()]

    asyncio.run(run())
    assert 3 == len(script.script.asked)
    assert script.script.closed


def test_left_stream() -> None:
    """A stream that is left is closed."""
    script = Scripted("one two")
    with Gpt(backend=script).chat.stream("a") as stream:
        next(stream)
    assert script.streams[0].closed


def test_threads() -> None:
    """Threads that share a script get each answer once."""
    script = Scripted(*(str(number) for number in range(200)), "end")
    client = Gpt(backend=script)
    got: list[str] = []

    def work() -> None:
        got.extend(client.chat.complete("a").text for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {str(number) for number in range(200)} == set(got)


def test_is_a_backend() -> None:
    """A script is a Backend; an empty one is refused."""
    assert isinstance(Scripted("a"), Backend)
    assert isinstance(AsyncScripted("a"), AsyncBackend)
    with pytest.raises(ValueError, match="a script needs at least one answer"):
        Scripted()
