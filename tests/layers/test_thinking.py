"""Thinking told apart from the answer by the clients, where the backend's profile says so."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from gpt import AsyncGpt, CallEvent, ChatCompletion, Choice, Gpt, Profile, ResponseMessage, StreamTruncatedError
from gpt.backend import in_threads
from gpt.layers.thinking import AsyncSplit, Split
from gpt.protocol.chunks import fold
from gpt.testing import AsyncScripted, Fault, Scripted, serve
from gpt.testing.scripted import chunk

TAGGED = Profile(think_tags=("<think>", "</think>"))
SAID = "<think>a capital, in the north</think>\n\nOslo it is"
TALK = [chunk(""), chunk("<thi"), chunk("nk>hm"), chunk("</think>"), chunk("\nOs"), chunk("lo"), chunk(None, "stop")]


class Tagged(Scripted):
    """A model with a script, which leaves its thinking in the content."""

    profile = TAGGED


class AsyncTagged(AsyncScripted):
    """Tagged for asyncio."""

    profile = TAGGED


def blocking(use: Callable[[Any], Any], **settings: Any) -> Any:
    if "script" in settings:
        settings["backend"] = Tagged(*settings.pop("script"))
    with Gpt(**settings) as client:
        return use(client)


def on_asyncio(use: Callable[[Any], Any], **settings: Any) -> Any:
    if "script" in settings:
        settings["backend"] = AsyncTagged(*settings.pop("script"))

    async def run() -> Any:
        async with AsyncGpt(**settings) as client:
            made = use(client)
            return await made if inspect.isawaitable(made) else made

    return asyncio.run(run())


def in_a_thread(use: Callable[[Any], Any], **settings: Any) -> Any:
    if "script" in settings:
        settings["backend"] = Tagged(*settings.pop("script"))
    return on_asyncio(use, **settings)


@pytest.fixture(params=[blocking, on_asyncio, in_a_thread])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    way: Callable[..., Any] = request.param
    return way


def read(client: Any) -> Any:
    """The kinds and pieces of a stream's events up to its end, and its completion."""
    if isinstance(client, Gpt):
        with client.chat.stream("a") as stream:
            return [(event.type, event.delta) for event in stream if event.type != "done"], stream.completion

    async def run() -> Any:
        async with client.chat.stream("a") as stream:
            return [(event.type, event.delta) async for event in stream if event.type != "done"], stream.completion

    return run()


def test_whole(ask: Callable[..., Any]) -> None:
    """A whole answer has its thinking apart."""
    message = ask(lambda client: client.chat.complete("a"), script=[SAID]).message
    assert ("a capital, in the north", "Oslo it is") == (message.reasoning, message.content)


def test_streamed(ask: Callable[..., Any]) -> None:
    """A streamed one too, and tells of each in its own events."""
    told, made = ask(read, script=[TALK])
    assert [("reasoning", "hm"), ("content", "Os"), ("content", "lo")] == told
    assert ("hm", "Oslo", "stop") == (made.message.reasoning, made.message.content, made.choices[0].finish_reason)


def test_text_stream(ask: Callable[..., Any]) -> None:
    """The text of a stream is the answer alone."""

    async def pieces(client: Any) -> str:
        async with client.chat.stream("a") as stream:
            return "".join([piece async for piece in stream.text_stream])

    def text(client: Any) -> Any:
        return "".join(client.chat.stream("a").text_stream) if isinstance(client, Gpt) else pieces(client)

    assert "Oslo it is" == ask(text, script=[SAID])


def test_raw_chunks(ask: Callable[..., Any]) -> None:
    """Raw chunks are told apart too."""

    async def chunks(client: Any) -> Any:
        return [one async for one in await client.chat.completions.create(messages=[], stream=True)]

    def raw(client: Any) -> Any:
        return list(client.chat.completions.create(messages=[], stream=True)) if isinstance(client, Gpt) else chunks(client)

    made = ask(raw, script=[TALK])
    assert len(TALK) == len(made)
    assert ("hm", "Oslo") == (fold(made).message.reasoning, fold(made).message.content)


def test_over_http(ask: Callable[..., Any]) -> None:
    """`Gpt(..., profile=...)` says so of a server. What arrived is kept, and so are the facts."""
    with serve(SAID) as server:
        whole = ask(lambda client: client.chat.complete("a"), server_url=server.url, profile=TAGGED)
        _, streamed = ask(read, server_url=server.url, profile=TAGGED)
        plain = ask(lambda client: client.chat.complete("a"), server_url=server.url)
    assert SAID == plain.text
    assert SAID == whole.to_dict()["choices"][0]["message"]["content"]
    for made in (whole, streamed):
        assert ("a capital, in the north", "Oslo it is") == (made.message.reasoning, made.text)
        assert 200 == made.info.status
    assert "complete" == streamed.info.ended


@pytest.mark.parametrize(
    ("pieces", "thinking", "content"),
    [(["<think>hm</th"], "hm</th", None), (["<think>hm</think>", "Oslo"], "hm", "Oslo"), (["<thi"], None, "<thi")],
)
def test_broken_off(ask: Callable[..., Any], pieces: list[str], thinking: str | None, content: str | None) -> None:
    """A stream that breaks off carries all that had come, what was held back included, and raises once."""
    script = [[*map(chunk, pieces), StreamTruncatedError("cut")]]
    with pytest.raises(StreamTruncatedError) as caught:
        ask(lambda client: client.chat.stream("a").until_done(), script=script)
    assert caught.value.partial is not None
    assert (thinking, content) == (caught.value.partial.message.reasoning, caught.value.partial.message.content)


def test_ended_without_a_word(ask: Callable[..., Any]) -> None:
    """A stream that ends without a finish reason gives what was held back before its end."""
    told, made = ask(read, script=[[chunk("<think>hm</th")]])
    assert [("reasoning", "hm"), ("reasoning", "</th")] == told
    assert "hm</th" == made.message.reasoning


def test_left() -> None:
    """A stream that was left gives nothing any more, not even what was held back."""
    split = Split(Tagged([chunk("<think>hm</th"), StreamTruncatedError("cut")]))
    for taken in (1, 2):
        stream = split.stream(None)  # type: ignore[arg-type]
        for _ in range(taken):
            next(stream)
        stream.close()
        assert [] == list(stream)

    async def run() -> None:
        left = await AsyncSplit(AsyncTagged([chunk("<think>hm</th")])).stream(None)  # type: ignore[arg-type]
        await anext(left)
        await left.close()
        assert [] == [one async for one in left]

    asyncio.run(run())


def test_watched(ask: Callable[..., Any]) -> None:
    """A hook sees the two apart, and is told of the backend below."""
    told: list[CallEvent] = []
    ask(lambda client: client.chat.complete("a"), script=[SAID], on_event=told.append)
    ask(lambda client: client.chat.stream("a").until_done(), script=[TALK], on_event=told.append)
    for event in told:
        if event.kind == "done":
            assert event.completion is not None
            assert event.completion.message.reasoning
            assert "<" not in event.completion.text
    assert ["hm"] == [
        event.chunk.choices[0].delta.reasoning for event in told if event.chunk and event.chunk.choices[0].delta.reasoning
    ]
    assert all("Tagged" in repr(event.backend) or "Scripted" in repr(event.backend) for event in told)
    assert not any(isinstance(event.backend, Split | AsyncSplit) for event in told)
    with serve(SAID) as server:
        ask(lambda client: client.chat.complete("a"), server_url=server.url, profile=TAGGED, on_event=told.append)
    assert server.port == told[-1].backend.endpoint.origin.port


def test_value(ask: Callable[..., Any]) -> None:
    """A value is asked for, and read, from the answer alone."""
    said = '<think>is it {"value": 1}?</think>\n```json\n{"value": 5}\n```'
    assert 5 == ask(lambda client: client.chat.parse("a", into=int), script=[said]).value


@pytest.mark.parametrize(("fault", "ended"), [(Fault(slices=3), "complete"), (Fault(slices=1), "complete")])
def test_small_pieces(ask: Callable[..., Any], fault: Fault, ended: str) -> None:
    """However the bytes come, the two are apart."""
    with serve(SAID, faults=[fault]) as server:
        _, made = ask(read, server_url=server.url, profile=TAGGED)
    assert ("a capital, in the north", "Oslo it is", ended) == (made.message.reasoning, made.text, made.info.ended)


def test_own_field(ask: Callable[..., Any]) -> None:
    """Thinking that has a field of its own is left where it is."""
    answer = ChatCompletion(choices=[Choice("stop", 0, ResponseMessage(SAID, reasoning_content="hm"))])
    assert answer is ask(lambda client: client.chat.complete("a"), script=[answer])


def test_unused() -> None:
    """Where no profile says so, nothing stands between the client and its backend; a copy of one that does has it too."""
    script = Scripted(SAID)
    assert script is Gpt(backend=script).chat._backend
    assert SAID == Gpt(backend=script).chat.complete("a").text
    tagged = Gpt(backend=Tagged(SAID)).with_options(model="m")
    assert "Oslo it is" == tagged.chat.complete("a").text
    assert "Split(Scripted(" in repr(tagged.chat._backend)
    assert "AsyncSplit(in_threads(" in repr(AsyncGpt(backend=Tagged(SAID)).chat._backend)


def test_other_calls(ask: Callable[..., Any]) -> None:
    """What is no conversation is passed on, and closing closes what is below."""
    assert 1 == len(ask(lambda client: client.models.list(), script=["hi"]))
    below = Tagged("hi")
    split = Split(below)
    split.close()
    assert below.closed
    above = AsyncSplit(in_threads(Tagged("hi")))
    asyncio.run(above.close())
    assert TAGGED is above.profile
