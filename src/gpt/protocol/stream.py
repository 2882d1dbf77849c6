"""The body of a streamed answer -> chunks, whatever the server made of the request.

An event stream gives its chunks. A JSON body gives one chunk with the whole answer. An error, in any spelling and at any
place, is raised as its class. A body that ends with neither the marker `[DONE]` nor a finish reason is truncated: raised.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gpt.errors import StreamTruncatedError
from gpt.protocol import codec
from gpt.protocol.chunks import whole
from gpt.protocol.failures import failure, is_error, malformed
from gpt.protocol.sse import Decoder
from gpt.protocol.wire import Headers, HttpRequest, HttpResponse
from gpt.types import ChatCompletionChunk


class ChunkDecoder:
    """Pieces of a body in, chunks out. `done` is set by the end marker, or by the end of the body."""

    def __init__(self, headers: Headers, request: HttpRequest) -> None:
        self._headers = headers
        self._request = request
        self._events: Decoder | None = None
        self._plain: list[bytes] = []
        if headers.get("content-type", "").startswith("text/event-stream"):
            self._events = Decoder()
        self._finished = False
        self.done = False

    def feed(self, piece: bytes) -> list[ChatCompletionChunk]:
        """The chunks that `piece` completes. Raises ResponseError for an error in the stream."""
        if self._events is None:
            self._plain.append(piece)
            return []
        chunks = []
        for event in self._events.feed(piece):
            data = event.data.strip()
            if not data:
                continue
            if data.startswith(b"[DONE]"):
                self.done = True
                break
            chunks.append(self._chunk(data, event.event))
        return chunks

    def end(self) -> list[ChatCompletionChunk]:
        """The chunks that the end of the body completes. Raises StreamTruncatedError when the answer is not whole."""
        self.done = True
        if self._events is None:
            return [self._from_plain(b"".join(self._plain))]
        if self._finished:
            return []
        raise StreamTruncatedError(
            f"{self._request.origin} ended the stream before the answer was whole: no finish reason and no [DONE] came"
        )

    def _chunk(self, data: bytes, kind: str) -> ChatCompletionChunk:
        response = HttpResponse(200, self._headers, data)
        if kind == "error":
            raise failure(response, self._request)
        try:
            chunk = codec.decode_chunk(data)
        except msgspec.DecodeError as error:
            raise malformed(response, self._request, f"an event of the stream is no chunk: {error}") from error
        if not chunk.choices and is_error(data):
            raise failure(response, self._request)
        if any(choice.finish_reason for choice in chunk.choices):
            self._finished = True
        return chunk

    def _from_plain(self, body: bytes) -> ChatCompletionChunk:
        response = HttpResponse(200, self._headers, body)
        try:
            made: Any = codec.decode_completion(body)
        except msgspec.DecodeError as error:
            raise malformed(response, self._request, "it is neither a stream nor a completion") from error
        if not made.choices:
            raise malformed(response, self._request, "it has no choices")
        return whole(made)
