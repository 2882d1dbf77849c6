"""A streamed value: the events of the answer, and with them what has come of the value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from gpt.backend import AsyncChunkStream, ChunkStream
from gpt.errors import GptError, InvalidRequestError
from gpt.protocol.events import ContentEvent, ToolCallEvent, ValueEvent
from gpt.protocol.thinking import Splitter
from gpt.stream import AsyncChatStream, ChatStream
from gpt.structured.parse import THINKING, Asking, Parsed
from gpt.structured.partial import PartialJSON, Trust
from gpt.types import ChatCompletion, ChatCompletionChunk, ChatRequest

T = TypeVar("T")

Send = Callable[[ChatRequest], ChunkStream]
AsyncSend = Callable[[ChatRequest], Awaitable[AsyncChunkStream]]


class _Value:
    """The value of a stream, as it comes. A leading block of thinking, or the start of a fence, is passed over."""

    def __init__(self, asking: Asking, trust: Trust) -> None:
        if trust not in ("trusted", "growing"):
            raise InvalidRequestError(f'partial: expected "trusted" or "growing", got {trust!r}', param="partial")
        self._asking = asking
        self._reader = PartialJSON(trust)
        self._begun = False
        self._before = Splitter(*THINKING)

    def feed(self, piece: str) -> bool:
        """Take in a piece of the answer. Gives whether there is more of the value."""
        if not self._begun:
            _, piece = self._before.feed(piece)
            place = piece.find("{")  # every schema's root is an object
            if place < 0:
                return False
            self._begun = True
            piece = piece[place:]
        return self._reader.feed(piece)

    def read(self) -> Any:
        """The value so far; None while there is nothing of it."""
        value = self._reader.value
        return None if value is None else self._asking.shape.part(value)


class _Parsing(Generic[T]):
    """What both streams of a value share."""

    _asking: Asking
    _value: _Value
    _found: Parsed[T] | None = None

    @property
    def parsed(self) -> Parsed[T]:
        """The value, with its completion. Raises InvalidRequestError before the end of the stream."""
        if self._found is None:
            raise InvalidRequestError(
                "the stream has not ended, so there is no value yet; .partial is what has come of it so far"
            )
        return self._found

    @property
    def partial(self) -> Any:
        """The value as far as it has come, as plain JSON values; None while there is nothing of it."""
        return self._value.read()

    def _watch(self, events: Any) -> None:
        """Put word of the value behind the pieces that it is in."""
        kind = ToolCallEvent if self._asking.rung == "tool" else ContentEvent
        changed = False
        for event in events:
            if isinstance(event, kind) and event.index == 0:
                changed = self._value.feed(event.delta) or changed
        if changed:
            events.append(ValueEvent(self._value.read))

    def _read(self, completion: ChatCompletion) -> None:
        self._found = self._asking.read(completion, (completion,))


class ParsedStream(_Parsing[T], ChatStream):
    """A streamed value: `parsed` once it has ended, `partial` at any time; events of type "value" tell when there is more.

    An answer that is no value raises ParseError at its end.
    """

    def __init__(self, send: Send, asking: Asking, trust: Trust) -> None:
        super().__init__(lambda: _opened(send, asking))
        self._asking = asking
        self._value = _Value(asking, trust)

    def _take(self, chunk: ChatCompletionChunk) -> None:
        super()._take(chunk)
        self._watch(self._events)

    def _end(self) -> None:
        super()._end()
        self._read(self.completion)


class AsyncParsedStream(_Parsing[T], AsyncChatStream):
    """ParsedStream for asyncio."""

    def __init__(self, send: AsyncSend, asking: Asking, trust: Trust) -> None:
        super().__init__(lambda: _aopened(send, asking))
        self._asking = asking
        self._value = _Value(asking, trust)

    def _take(self, chunk: ChatCompletionChunk) -> None:
        super()._take(chunk)
        self._watch(self._events)

    def _end(self) -> None:
        super()._end()
        self._read(self.completion)


def _opened(send: Send, asking: Asking) -> ChunkStream:
    """The stream, on the first rung that the server takes."""
    while True:
        try:
            return send(asking.asked())
        except GptError as error:
            if not asking.next_rung(error):
                raise


async def _aopened(send: AsyncSend, asking: Asking) -> AsyncChunkStream:
    while True:
        try:
            return await send(asking.asked())
        except GptError as error:
            if not asking.next_rung(error):
                raise
