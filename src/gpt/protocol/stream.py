"""The body of a streamed answer -> chunks, whatever the server made of the request.

An event stream gives its chunks; a JSON body gives one chunk with the whole answer. Which of the two came is read from the body
itself, because servers name the wrong type. An error, in any spelling and at any place, ends the stream as `problem`, after the
chunks that came before it. A stream ends in one of three ways:

- "complete": the marker `[DONE]` came, or a whole JSON answer;
- "unmarked": the body ended without the marker, but each choice had its finish reason;
- "truncated": neither. That is a problem, unless the server's profile says that it always ends so.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from gpt.errors import GptError, ResponseError, StreamTruncatedError, TransportError
from gpt.protocol import codec
from gpt.protocol.chunks import has_content, whole
from gpt.protocol.failures import failure, is_error, malformed
from gpt.protocol.sse import STRAY, Decoder, Event
from gpt.protocol.wire import Ended, Headers, HttpRequest, HttpResponse
from gpt.types import ChatCompletionChunk

_FIELDS = (b"data", b"event", b"id", b"retry", b":")
"""What an event stream may begin with."""

_MARK = b"\xef\xbb\xbf"

_PINGS = frozenset({"ping", "keep-alive", "keepalive", "heartbeat"})
"""Kinds of events that gateways send to keep a connection open."""


class ChunkDecoder:
    """Pieces of a body in, chunks out.

    `begun` tells whether content has come, `news` whether the last piece had any. `done` is set by the end marker, by an error
    and by the end of the body; `problem` is then what to raise once the chunks have been taken, and `ended` how it ended.
    """

    def __init__(self, headers: Headers, request: HttpRequest, *, may_break_off: bool = False) -> None:
        self._headers = headers
        self._request = request
        self._may_break_off = may_break_off
        self._events: Decoder | None = None
        self._before = b""  # what came before it was clear what kind of body this is
        self._plain: list[bytes] | None = None
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self.begun = self.news = self.done = False
        self.ended: Ended | None = None
        self.problem: GptError | None = None

    def feed(self, piece: bytes) -> list[ChatCompletionChunk]:
        """The chunks that `piece` completes. Raises nothing: see `problem`."""
        self.news = False
        if self._events is None:
            if self._plain is not None:
                self._plain.append(piece)
                return []
            piece = self._before + piece
            if not self._settle(piece):
                rest = piece.lstrip(b"\r\n")  # which some servers send for ever, to keep the connection open
                self._before = piece if len(rest) == len(piece) else b"\n" + rest
                return []
            if self._events is None:
                return []
        chunks: list[ChatCompletionChunk] = []
        try:
            for event in self._events.feed(piece):
                chunk = self._chunk(event)
                if chunk is not None:
                    chunks.append(chunk)
                if self.done:
                    return chunks
        except ResponseError as error:
            self._break(error)
        return chunks

    def end(self) -> list[ChatCompletionChunk]:
        """The chunks that the end of the body completes."""
        self.news = False
        self.done = True
        if self._events is None and (self._plain is not None or self._before.strip() or not self._says_events()):
            return self._from_plain(b"".join(self._plain or [self._before]))
        if self._finished and self._seen <= self._finished:
            self.ended = "unmarked"
            return []
        self.ended = "truncated"
        if not (self._may_break_off and self.begun):
            self.problem = StreamTruncatedError(
                f"{self._request.origin} ended the stream before the answer was whole: no finish reason and no [DONE] came; "
                "try again, or if this server always ends so, Profile(may_break_off=True)"
            )
        return []

    def broke(self, error: TransportError) -> list[ChatCompletionChunk]:
        """The same where the body was cut short by `error`: what has come may be whole all the same."""
        chunks = self.end()
        if self.problem is not None or (self.ended == "truncated" and not isinstance(error, StreamTruncatedError)):
            self.problem = error  # it says more
            self.ended = "truncated"
        return chunks

    @property
    def is_stream(self) -> bool:
        """Whether the body is an event stream."""
        return self._events is not None

    @property
    def is_whole(self) -> bool:
        """Whether the body is a whole answer, in JSON."""
        return self._plain is not None

    def _says_events(self) -> bool:
        return self._headers.get("content-type", "").startswith("text/event-stream")

    def _settle(self, start: bytes) -> bool:
        """Settle whether the body is an event stream. Gives False while too little of it has come."""
        text = start.removeprefix(_MARK).lstrip()
        if _MARK.startswith(text):
            return False
        if text[:1] in b"{[<":  # no event stream begins so, whatever the header says
            self._plain = [start]
        elif self._says_events() or text.startswith(_FIELDS):
            self._events = Decoder(where=str(self._request.origin), strays=True)
        elif any(field.startswith(text) for field in _FIELDS):
            return False
        else:
            self._plain = [start]
        return True

    def _chunk(self, event: Event) -> ChatCompletionChunk | None:
        """The chunk of an event; None for the marker and for what only keeps the connection open. Raises ResponseError."""
        data = event.data.strip()
        if data.startswith(b"[DONE]"):
            self._mark()
            return None
        if not data:
            return None
        if event.event:
            if event.event == STRAY:
                self._look_at(data)
                return None
            if event.event == "error":
                raise self._failure(data)
            if event.event in _PINGS:
                return None
        try:
            chunk = codec.decode_chunk(data)
        except msgspec.DecodeError as error:
            response = HttpResponse(200, self._headers, data)
            raise malformed(response, self._request, f"an event of the stream is no chunk: {error}") from error
        if chunk.error or chunk.object == "error":
            raise failure(HttpResponse(200, self._headers, data), self._request)
        for choice in chunk.choices:
            if choice.error:
                raise failure(HttpResponse(200, self._headers, data), self._request)
            if choice.finish_reason:
                self._finished.add(choice.index)
            else:
                self._seen.add(choice.index)
        if not self.news and has_content(chunk):
            self.begun = self.news = True
        return chunk

    def _mark(self) -> None:
        """Take in the end marker."""
        self.done = True
        self.ended = "complete"
        if not (self._seen or self._finished):
            response = HttpResponse(200, self._headers)
            raise malformed(response, self._request, "the stream had no choices")

    def _look_at(self, line: bytes) -> None:
        """Raise for a line that no event stream has, if it is an error: bare JSON, or llama.cpp's former "error: {...}"."""
        if line[:1] != b"{":
            raise self._failure(line.partition(b":")[2].strip())
        if is_error(line):
            raise failure(HttpResponse(200, self._headers, line), self._request)

    def _failure(self, data: bytes) -> ResponseError:
        """The error in an event of that kind: a body with an error, the error itself, or a text."""
        if not is_error(data):
            said: Any = data.decode("utf-8", "replace") or "an error without a word"
            with suppress(msgspec.DecodeError):
                said = msgspec.json.decode(data)
            data = msgspec.json.encode({"error": said if isinstance(said, dict) else str(said)})
        return failure(HttpResponse(200, self._headers, data), self._request)

    def _break(self, error: ResponseError) -> None:
        self.done = True
        self.ended = None
        self.problem = error

    def _from_plain(self, body: bytes) -> list[ChatCompletionChunk]:
        response = HttpResponse(200, self._headers, body)
        made: Any = None
        try:
            made = codec.decode_completion(body)
        except msgspec.DecodeError as error:
            self._break(malformed(response, self._request, "it is neither a stream nor a completion"))
            assert self.problem is not None
            self.problem.__cause__ = error
        else:
            if codec.is_answer(made):
                self.ended = "complete"
                self.begun = self.news = True
                return [whole(made)]
            self._break(malformed(response, self._request, "it has no choices, or an error"))
        return []
