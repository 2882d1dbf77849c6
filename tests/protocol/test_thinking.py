"""Thinking between tags, told apart from the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt.protocol.chunks import fold
from gpt.protocol.codec import decode_chunk, decode_completion, decode_stored
from gpt.protocol.profiles import THINK, Profile
from gpt.protocol.thinking import ChunkSplitter, Splitter, overlap, split, split_stored
from gpt.protocol.wire import ResponseInfo
from gpt.types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionDeleted,
    ChatCompletionList,
    Choice,
    ChunkChoice,
    Delta,
    ResponseMessage,
    ToolCallDelta,
)

TAGGED = Profile(think_tags=THINK)
OPENED = Profile(think_tags=THINK, think_opened=True)

SPLIT: list[tuple[str, bool, str, str]] = [
    # a content, whether its block is open from the start, its thinking and its answer
    ("", False, "", ""),
    ("Oslo", False, "", "Oslo"),
    ("<think>hm</think>Oslo", False, "hm", "Oslo"),
    (" \n<think>\nhm\n</think> \n\nOslo \n", False, "\nhm\n", "Oslo \n"),
    ("<think></think>Oslo", False, "", "Oslo"),
    ("<think>hm</think>", False, "hm", ""),
    ("<think>hm</think>\n", False, "hm", ""),
    ("<think>hm", False, "hm", ""),
    ("<think>hm</thi", False, "hm</thi", ""),
    ("<think>a</thi<</think>Oslo", False, "a</thi<", "Oslo"),
    ("<thi", False, "", "<thi"),
    ("<thinking>hm</thinking>", False, "", "<thinking>hm</thinking>"),
    (" Oslo", False, "", " Oslo"),
    (" ", False, "", " "),
    ("It is <think>hm</think>", False, "", "It is <think>hm</think>"),
    ("<think>a</think>b<think>c</think>", False, "a", "b<think>c</think>"),
    ("<think>a<think>b</think>c</think>", False, "a<think>b", "c</think>"),
    ("hm</think>Oslo", False, "", "hm</think>Oslo"),
    ("hm</think>\nOslo", True, "hm", "Oslo"),
    ("\nhm</think>Oslo", True, "\nhm", "Oslo"),
    ("<think>hm</think>Oslo", True, "hm", "Oslo"),
    ("</think>Oslo", True, "", "Oslo"),
    ("hm", True, "hm", ""),
    (" <thi", True, " <thi", ""),
]


def parted(pieces: list[str], *tags: tuple[str, str], opened: bool) -> tuple[str, str]:
    """The thinking and the answer in a content that comes in these pieces. No more is held back than may be needed."""
    splitter = Splitter(*tags, opened=opened)
    said: list[tuple[str, str]] = []
    for piece in pieces:
        said.append(splitter.feed(piece))
        given = sum(len(thinking) + len(content) for thinking, content in said)
        assert not given or len(splitter) < max(len(tag) for pair in tags for tag in pair)
    said.append(splitter.end())
    assert 0 == len(splitter)
    thinking, content = map("".join, zip(*said, strict=True))
    return thinking, content


@pytest.mark.parametrize(("text", "opened", "thinking", "content"), SPLIT)
@pytest.mark.parametrize("step", [1, 2, 5, 100])
def test_split(text: str, opened: bool, thinking: str, content: str, step: int) -> None:
    """A block that leads a content is its thinking; a tag further on is content."""
    pieces = [text[place : place + step] for place in range(0, len(text), step)]
    assert (thinking, content) == parted(pieces, THINK, opened=opened)


WORDS = ["<think>", "</think>", "<thi", "</th", "nk>", "<", ">", " ", "\n", "a", "Oslo", "<thinking>", "</thinking>"]
PARTS = st.lists(st.sampled_from(WORDS))


@given(PARTS, st.lists(st.integers(0, 60)), st.booleans())
@example(["<think>", "a", "</th", "</think>", " ", "b"], [8, 9, 10], False)
def test_any_cut(parts: list[str], cuts: list[int], opened: bool) -> None:
    """Any cut of any text gives what the whole gives, of several kinds of tags too, and loses nothing but tags and space."""
    text = "".join(parts)
    for tags in ([THINK], [THINK, ("<thinking>", "</thinking>")], [("<t", "</t"), THINK]):
        places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
        pieces = [text[start:end] for start, end in zip(places, places[1:], strict=False)]
        whole = parted([text], *tags, opened=opened)
        assert whole == parted(pieces, *tags, opened=opened)
        assert whole == parted(list(text), *tags, opened=opened)
        thinking, content = whole
        assert text.endswith(content)
        assert thinking in text
        assert opened or thinking or content == text or text.lstrip().startswith(tuple(opening for opening, _ in tags))


def test_closed() -> None:
    """Whether there was a block is told once it has ended, not before."""
    splitter = Splitter(THINK)
    told = [splitter.closed]
    for piece in ("<think>", "hm", "</think>", "Oslo"):
        splitter.feed(piece)
        told.append(splitter.closed)
    assert [False, False, False, True, True] == told
    splitter = Splitter(THINK)
    splitter.feed("Oslo</think>")
    assert not splitter.closed


@given(st.text("ab"), st.text("ab", min_size=1))
def test_overlap(text: str, tag: str) -> None:
    """The overlap is the longest end of a text that begins a tag and is not all of it."""
    assert max(size for size in range(len(tag)) if text.endswith(tag[:size])) == overlap(text, tag)


def completion(*messages: dict[str, Any]) -> ChatCompletion:
    choices = [{"index": index, "finish_reason": "stop", "message": message} for index, message in enumerate(messages)]
    return decode_completion(json.dumps({"choices": choices, "zap": 1}).encode(), ResponseInfo(elapsed=1.5))


def test_whole() -> None:
    """A whole answer's choices are each told apart; its bytes and its facts stay."""
    arrived = completion(
        {"content": "<think>hm</think>\n\nOslo"}, {"content": "Bonn"}, {"content": "<think>a"}, {"content": None}
    )
    made = split(arrived, TAGGED)
    assert [("hm", "Oslo"), (None, "Bonn"), ("a", None), (None, None)] == [
        (choice.message.reasoning, choice.message.content) for choice in made.choices
    ]
    assert (arrived.to_dict(), arrived.info) == (made.to_dict(), made.info)
    assert made.choices[1] is arrived.choices[1]


@pytest.mark.parametrize(
    "message", [{"content": "Oslo"}, {"content": "a</think>b", "reasoning_content": "hm"}, {"content": ""}]
)
def test_left_alone(message: dict[str, Any]) -> None:
    """An answer without a block, or whose thinking has a field of its own, stays the object that it was."""
    arrived = completion(message)
    assert arrived is split(arrived, TAGGED)


def chunk(content: str | None, index: int = 0, finish: str | None = None, **delta: Any) -> ChatCompletionChunk:
    choice = {"index": index, "delta": {"content": content, **delta}, "finish_reason": finish}
    return decode_chunk(json.dumps({"id": "c", "choices": [choice]}).encode())


def split_chunks(chunks: list[ChatCompletionChunk], profile: Profile = TAGGED) -> list[tuple[int, str | None, str | None]]:
    """The choice, the thinking and the content of each chunk with either, told apart."""
    splitter = ChunkSplitter(profile)
    made = [splitter.feed(one) for one in chunks]
    rest = splitter.end()
    assert splitter.end() is None
    choices = [choice for one in [*made, *([rest] if rest else [])] for choice in one.choices]
    return [(c.index, c.delta.reasoning, c.delta.content) for c in choices if c.delta.reasoning or c.delta.content]


CHUNKS: list[tuple[list[ChatCompletionChunk], list[tuple[int, str | None, str | None]]]] = [
    ([chunk(""), chunk("<thi"), chunk("nk>h"), chunk("m</think>\n"), chunk("\nOslo"), chunk(None, 0, "stop")],
     [(0, "h", None), (0, "m", None), (0, None, "Oslo")]),
    ([chunk("<think>hm</think>Os"), chunk("lo")], [(0, "hm", "Os"), (0, None, "lo")]),
    ([chunk("<think>a", 0), chunk("<think>b", 1), chunk("</think>A", 0), chunk("B", 1)],
     [(0, "a", None), (1, "b", None), (0, None, "A"), (1, "B", None)]),
    ([chunk("a <"), chunk("b")], [(0, None, "a <"), (0, None, "b")]),
    ([chunk("<think>hm</th", 0, "length")], [(0, "hm</th", None)]),
    ([chunk("<thi", 0, "length")], [(0, None, "<thi")]),
    ([chunk("<thi", 0), chunk("<think>a<", 1)], [(1, "a", None), (0, None, "<thi"), (1, "<", None)]),
    ([chunk(None, reasoning_content="hm"), chunk("<think>a</think>b")], [(0, "hm", None), (0, None, "<think>a</think>b")]),
    ([chunk("<think>a"), chunk(None, reasoning_content="b"), chunk("c", reasoning_content="d")],
     [(0, "a", None), (0, "b", None), (0, "dc", None)]),
    ([chunk("a", 0, "stop"), chunk("b")], [(0, None, "a"), (0, None, "b")]),
]  # fmt: skip


@pytest.mark.parametrize(("chunks", "expected"), CHUNKS)
def test_chunks(chunks: list[ChatCompletionChunk], expected: list[tuple[int, str | None, str | None]]) -> None:
    """Chunks are told apart, each choice for itself; what is held back comes with the finish reason, or at the end."""
    assert expected == split_chunks(chunks)


def test_chunks_opened() -> None:
    """A block may be open from the start."""
    assert [(0, "h", None), (0, "m", "Oslo")] == split_chunks([chunk("h"), chunk("m</think>Oslo")], OPENED)


def test_chunks_keep() -> None:
    """A chunk in which nothing changes is the same object; one that changes keeps its bytes and all else."""
    splitter = ChunkSplitter(TAGGED)
    role, usage = chunk("", role="assistant"), decode_chunk(b'{"choices":[],"usage":{"total_tokens":3}}')
    assert (role, usage) == (splitter.feed(role), splitter.feed(usage))
    assert role is splitter.feed(role)
    assert usage is splitter.feed(usage)
    call = chunk("<think>hm</think>", tool_calls=[{"index": 0, "id": "1"}])
    made = splitter.feed(call)
    assert call.to_json() == made.to_json()
    assert Delta(reasoning_content="hm", tool_calls=[ToolCallDelta(0, "1")]) == made.choices[0].delta
    assert call.id == made.id
    plain = chunk("Oslo")
    assert plain is splitter.feed(plain)


@given(PARTS, st.lists(st.integers(0, 60)), st.booleans())
def test_streamed_as_whole(parts: list[str], cuts: list[int], opened: bool) -> None:
    """A streamed answer adds up to what the whole one is."""
    text, profile = "".join(parts), OPENED if opened else TAGGED
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    chunks = [
        ChatCompletionChunk(choices=[ChunkChoice(Delta(text[start:end]))])
        for start, end in zip(places, places[1:], strict=False)
    ]
    splitter = ChunkSplitter(profile)
    streamed = fold([*map(splitter.feed, chunks), splitter.feed(chunk(None, 0, "stop"))]).message
    whole = split(ChatCompletion(choices=[Choice("stop", 0, ResponseMessage(text))]), profile).message
    assert (whole.reasoning, whole.content or "") == (streamed.reasoning, streamed.content or "")


def test_split_stored() -> None:
    """Of what was stored each completion is split, alone or in a list; what came with it stays, and other answers too."""
    body = b'{"data": [{"choices": [{"finish_reason": "stop", "message": {"content": "<think>hm</think>Oslo"}}]}]}'
    arrived = decode_stored(ChatCompletionList, body, ResponseInfo(elapsed=2.0))
    made = split_stored(arrived, TAGGED)
    assert [("hm", "Oslo")] == [(one.message.reasoning, one.text) for one in made.data]
    assert (body, 2.0, 2.0) == (made.to_json(), made.info.elapsed, made.data[0].info.elapsed)
    assert made.data[0] == split_stored(arrived.data[0], TAGGED)
    deleted = ChatCompletionDeleted("c1", deleted=True)
    assert deleted is split_stored(deleted, TAGGED)
