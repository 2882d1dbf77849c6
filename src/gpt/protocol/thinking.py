"""Thinking that a server leaves in the content, between tags, told apart from the answer. Incremental, in any cut.

Only a block that leads the content counts, after optional white space; a tag further on is content, because a model may write
of tags. What is between the tags is kept to the letter; white space right after the closing one is dropped. A block that
nothing closes is thinking to its end: the answer was cut short in it. No more is held back than leading white space and what
may yet be a tag.

Where a choice's thinking comes in a field of its own, its content is left alone: that server has told it apart itself.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gpt.protocol.profiles import Profile, Tags
from gpt.types import ChatCompletion, ChatCompletionChunk, ChatCompletionList, Choice, ChunkChoice, Delta


class Splitter:
    """Pieces of one content in; of each the thinking and the answer out, as far as it is clear which is which.

    Of several pairs of `tags` the one that comes counts. With `opened` the first block is open from the start, and its opening
    tag may come or not. `len` tells how many characters are held back.
    """

    __slots__ = ("_closing", "_held", "_opened", "_place", "_tags")

    def __init__(self, *tags: Tags, opened: bool = False) -> None:
        self._tags = tags
        self._opened = opened
        self._place: Literal["before", "inside", "behind", "after"] = "before"
        self._closing = ""
        self._held = ""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def closed(self) -> bool:
        """Whether there was a block, and it has ended."""
        return bool(self._closing) and self._place != "inside"

    def feed(self, piece: str) -> tuple[str, str]:
        """The thinking and the content in a piece, and in what was held back before it."""
        if self._place == "after":
            return "", piece
        piece, self._held = self._held + piece, ""
        if self._place == "before":
            start = piece.lstrip()
            if any(len(start) < len(opening) and opening.startswith(start) for opening, _ in self._tags):
                self._held = piece
                return "", ""
            piece = self._begin(piece, start)
        thinking = ""
        if self._place == "inside":
            thinking, end, piece = piece.partition(self._closing)
            if not end:
                keep = len(thinking) - overlap(thinking, self._closing)
                self._held = thinking[keep:]
                return thinking[:keep], ""
            self._place = "behind"
        if self._place == "behind":
            piece = piece.lstrip()
            if piece:
                self._place = "after"
        return thinking, piece

    def end(self) -> tuple[str, str]:
        """The thinking and the content in what is still held back, which is no tag."""
        inside = self._place == "inside" or (self._place == "before" and self._opened)
        held, self._held, self._place = self._held, "", "after"
        return (held, "") if inside else ("", held)

    def _begin(self, piece: str, start: str) -> str:
        """Settle whether a block leads the content. Gives what comes after its opening tag."""
        for opening, closing in self._tags:
            if start.startswith(opening):
                self._place, self._closing = "inside", closing
                return start[len(opening) :]
        if self._opened:
            self._place, self._closing = "inside", self._tags[0][1]
        else:
            self._place = "after"
        return piece


def overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the beginning of `tag`, less than all of it."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:size])), 0)


def splitter(profile: Profile) -> Splitter:
    """A splitter for one content of the server with this profile, which has `think_tags`."""
    assert profile.think_tags is not None
    return Splitter(profile.think_tags, opened=profile.think_opened)


def split(completion: ChatCompletion, profile: Profile) -> ChatCompletion:
    """The completion with the thinking of each choice in `reasoning_content`. It keeps the bytes and the facts."""
    choices = [_split_choice(choice, profile) for choice in completion.choices]
    if all(new is old for new, old in zip(choices, completion.choices, strict=True)):
        return completion
    made = msgspec.structs.replace(completion, choices=choices)
    made.__dict__.update(completion.__dict__)
    return made


def split_stored(answer: Any, profile: Profile) -> Any:
    """An answer about stored completions, in which those that it has are split."""
    if isinstance(answer, ChatCompletion):
        return split(answer, profile)
    if not isinstance(answer, ChatCompletionList):
        return answer
    made = msgspec.structs.replace(answer, data=[split(completion, profile) for completion in answer.data])
    made.__dict__.update(answer.__dict__)
    return made


def _split_choice(choice: Choice, profile: Profile) -> Choice:
    message = choice.message
    if not message.content or message.reasoning:
        return choice
    one = splitter(profile)
    thinking, content = map("".join, zip(one.feed(message.content), one.end(), strict=True))
    if content == message.content:
        return choice
    message = msgspec.structs.replace(message, content=content or None, reasoning_content=thinking or None)
    return msgspec.structs.replace(choice, message=message)


class ChunkSplitter:
    """Chunks of a stream in, the same with thinking told apart out; each choice for itself."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._splitters: dict[int, Splitter | None] = {}  # None where there is nothing to tell apart

    def feed(self, chunk: ChatCompletionChunk) -> ChatCompletionChunk:
        """The chunk, told apart; the same object where nothing in it changes. It keeps its bytes."""
        choices = [self._split(choice) for choice in chunk.choices]
        if all(new is old for new, old in zip(choices, chunk.choices, strict=True)):
            return chunk
        made = msgspec.structs.replace(chunk, choices=choices)
        made.__dict__.update(chunk.__dict__)
        return made

    def end(self) -> ChatCompletionChunk | None:
        """A chunk with what is still held back, at the end of a stream that broke off; None where that is nothing."""
        held = {index: one for index, one in self._splitters.items() if one is not None and len(one)}
        choices = [ChunkChoice(_delta(Delta(), *one.end()), index=index) for index, one in held.items()]
        return ChatCompletionChunk(choices=choices) if choices else None

    def _split(self, choice: ChunkChoice) -> ChunkChoice:
        delta = choice.delta
        index = choice.index
        if index not in self._splitters:
            if not delta.content and not delta.reasoning:
                return choice
            self._splitters[index] = None if delta.reasoning else splitter(self._profile)
        one = self._splitters[index]
        if one is None:
            return choice
        thinking, content = one.feed(delta.content or "")
        if choice.finish_reason:
            more = one.end()
            thinking, content = thinking + more[0], content + more[1]
        if not thinking and content == (delta.content or ""):
            return choice
        return msgspec.structs.replace(choice, delta=_delta(delta, thinking, content))


def _delta(delta: Delta, thinking: str, content: str) -> Delta:
    thinking = (delta.reasoning_content or "") + thinking
    return msgspec.structs.replace(delta, content=content or None, reasoning_content=thinking or None)
