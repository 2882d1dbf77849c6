"""What happens in a streamed answer, as values: each event has what came (`delta`) and the whole so far (`snapshot`).

Snapshots are made when they are read, so that an unread one costs nothing and a long answer stays linear. An event may be kept:
its snapshot stays that of its moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from gpt.types import (
    ChatCompletion,
    CustomCall,
    CustomToolCall,
    FunctionCall,
    TokenLogprob,
    ToolCall,
    Usage,
    sound,
)


class Text:
    """Text that grows: pieces are joined when it is read, so that many small ones stay linear."""

    __slots__ = ("_pieces", "length")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.length = 0

    def add(self, piece: str) -> None:
        """Append `piece`."""
        self._pieces.append(piece)
        self.length += len(piece)

    def get(self) -> str | None:
        """The text so far; None when nothing was ever added."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else None

    def last(self) -> str:
        """The last character. Raises IndexError where there is none."""
        return self._pieces[-1][-1]

    def until(self, length: int) -> str:
        """The first `length` characters."""
        return (self.get() or "")[:length]


class _TextEvent(msgspec.Struct, frozen=True, gc=False, eq=False):
    delta: str
    """What came."""
    index: int
    """The choice that it belongs to."""
    _text: Text
    _length: int

    @property
    def snapshot(self) -> str:
        """The text up to and with this piece."""
        return self._text.until(self._length)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(delta={self.delta!r}, index={self.index})"


class ContentEvent(_TextEvent, frozen=True, gc=False, eq=False):
    """A piece of the answer."""

    type: ClassVar[Literal["content"]] = "content"


class RefusalEvent(_TextEvent, frozen=True, gc=False, eq=False):
    """A piece of the model's refusal."""

    type: ClassVar[Literal["refusal"]] = "refusal"


class ReasoningEvent(_TextEvent, frozen=True, gc=False, eq=False):
    """A piece of the model's thinking, under either of its names on the wire."""

    type: ClassVar[Literal["reasoning"]] = "reasoning"


class AudioEvent(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A piece of sound: `delta` is base64 text, `transcript` what is said in it; either may be empty.

    `snapshot` is the base64 text so far; `bytes` are those that this piece makes whole, so that joined they are the sound.
    """

    delta: str
    transcript: str
    index: int
    _data: Text
    _length: int
    _begun: str = ""
    """The characters, at most three, of the bytes that earlier pieces began."""
    type: ClassVar[Literal["audio"]] = "audio"

    @property
    def snapshot(self) -> str:
        """The base64 text up to and with this piece."""
        return self._data.until(self._length)

    @property
    def bytes(self) -> bytes:
        """The sound in this piece, in the format that was asked for. Raises ValueError where `delta` is no base64.

        Four characters are three bytes; what is left over waits for the next piece.
        """
        text = self._begun + self.delta
        return sound(text[: len(text) // 4 * 4])

    def __repr__(self) -> str:
        return f"AudioEvent({len(self.delta)} characters, transcript={self.transcript!r}, index={self.index})"


class ToolCallEvent(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A piece of a tool call: `delta` is what its arguments (or input) grew by, `snapshot` the call so far.

    `place` is the call's place among the choice's calls, from 0. The deprecated function call is told of the same way.
    """

    delta: str
    place: int
    index: int
    _identity: tuple[str, str, str]
    _text: Text
    _length: int
    type: ClassVar[Literal["tool_call"]] = "tool_call"

    @property
    def snapshot(self) -> ToolCall | CustomToolCall:
        """The call up to and with this piece."""
        return made_call(self._identity, self._text.until(self._length))

    def __repr__(self) -> str:
        return f"ToolCallEvent(delta={self.delta!r}, place={self.place}, index={self.index})"


def made_call(identity: tuple[str, str, str], text: str) -> ToolCall | CustomToolCall:
    """The tool call with this id, type and name."""
    call_id, kind, name = identity
    if kind == "custom":
        return CustomToolCall(CustomCall(text, name), call_id)
    return ToolCall(FunctionCall(text, name), call_id)


class LogprobsEvent(msgspec.Struct, frozen=True, eq=False):
    """Log probabilities of the tokens that came: `delta` new ones of the content, `refusal` new ones of a refusal."""

    delta: list[TokenLogprob]
    refusal: list[TokenLogprob]
    index: int
    _all: list[TokenLogprob]
    _length: int
    type: ClassVar[Literal["logprobs"]] = "logprobs"

    @property
    def snapshot(self) -> list[TokenLogprob]:
        """Those of the content up to and with these."""
        return self._all[: self._length]

    def __repr__(self) -> str:
        return f"LogprobsEvent(delta={self.delta!r}, refusal={self.refusal!r}, index={self.index})"


class FilterEvent(msgspec.Struct, frozen=True, eq=False):
    """What Azure's filters found: in the prompt, or in a choice's content and where in it.

    `delta` is the finding as it came; `index` is the choice, None for the prompt.
    """

    delta: Any
    index: int | None = None
    offsets: dict[str, Any] | None = None
    type: ClassVar[Literal["filter"]] = "filter"


class UsageEvent(msgspec.Struct, frozen=True):
    """The tokens used so far. Most servers say so once, at the end."""

    usage: Usage
    type: ClassVar[Literal["usage"]] = "usage"

    @property
    def snapshot(self) -> Usage:
        """The same: servers count from the start."""
        return self.usage


class ValueEvent(msgspec.Struct, frozen=True, eq=False):
    """Something more of the value that was asked for has come; in streams with `into=` only."""

    _read: Callable[[], Any]
    type: ClassVar[Literal["value"]] = "value"

    @property
    def snapshot(self) -> Any:
        """The value as far as it has come until now, as plain JSON values. It may be one object that grows."""
        return self._read()

    def __repr__(self) -> str:
        return "ValueEvent()"


class DoneEvent(msgspec.Struct, frozen=True):
    """The end: the whole completion."""

    completion: ChatCompletion
    type: ClassVar[Literal["done"]] = "done"

    @property
    def snapshot(self) -> ChatCompletion:
        """The same."""
        return self.completion


StreamEvent: TypeAlias = (
    ContentEvent
    | RefusalEvent
    | ReasoningEvent
    | ToolCallEvent
    | AudioEvent
    | LogprobsEvent
    | FilterEvent
    | UsageEvent
    | ValueEvent
    | DoneEvent
)
