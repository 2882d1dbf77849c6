"""What a Backend answers, as HTTP: a scripted model, a recording or the model in the box, behind the server with faults."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec

from gpt.backend import Backend, CallOptions, ChunkStream, is_awaited
from gpt.errors import GptError, InvalidRequestError, ReplayError, ResponseError, TransportError
from gpt.protocol import codec
from gpt.types import UNSET, ChatCompletionChunk, ChatRequest

_KNOWN = frozenset(ChatRequest.__struct_fields__) - {"extra"}


Events: TypeAlias = Generator[bytes, None, None]


class Answered(NamedTuple):
    """An answer of a server: the body at once, or the events of a stream as they come."""

    status: int
    content_type: str
    body: bytes | Events
    headers: tuple[tuple[str, str], ...] = ()


def check(backend: Any) -> None:
    """Pass if this server can ask the backend. Raises ValueError."""
    if is_awaited(backend):
        name = type(backend).__name__
        raise ValueError(
            f"reply: {name} is for asyncio, and this server answers by threads; give it {name.removeprefix('Async')}"
        )


def answered(backend: Backend, head: str, body: bytes, options: CallOptions) -> Answered:
    """What the backend answers to this request. What it raises is the answer that a server would give.

    Raises TransportError where a server would give none.
    """
    method, path = head.split(" ", 2)[:2]
    route = f"{method} /{path.partition('?')[0].rpartition('/v1/')[2]}"
    try:
        if route == "GET /models":
            return Answered(200, "application/json", msgspec.json.encode(backend.models(options).to_dict()))
        if route != "POST /chat/completions":
            return Answered(404, "application/json", _error(f"there is no {method} {path} here", "invalid_request_error"))
        codec.check_request(body)
        document = msgspec.json.decode(body)
        request = _request(document)
        if document.get("stream") is True:
            return Answered(200, "text/event-stream", _streamed(backend.stream(request, options)))
        return Answered(200, "application/json", backend.complete(request, options).to_json())
    except TransportError:
        raise
    except GptError as error:
        return failed(error)


def _request(document: Mapping[str, Any]) -> ChatRequest:
    extra = {name: value for name, value in document.items() if name not in _KNOWN}
    known = {name: value for name, value in document.items() if name in _KNOWN and name != "stream"}
    return ChatRequest(**known, extra=extra or UNSET)


def _streamed(stream: ChunkStream) -> Events:
    """The events of a stream. What it raises before its first chunk is raised here, and after it is an event.

    The events raise TransportError where the connection would break.
    """
    try:
        first = next(stream, None)
    except BaseException:
        stream.close()
        raise
    return _events(stream, first)


def _events(stream: ChunkStream, chunk: ChatCompletionChunk | None) -> Events:
    try:
        while chunk is not None:
            yield b"data: %b\n\n" % chunk.to_json()
            chunk = next(stream, None)
    except TransportError:
        raise
    except GptError as error:
        _, _, said, _ = failed(error)
        assert isinstance(said, bytes)
        yield b"data: %b\n\n" % said
    else:
        yield b"data: [DONE]\n\n"
    finally:
        stream.close()


def failed(error: GptError) -> Answered:
    """The answer of a server that an error came from, or would have come from."""
    if not isinstance(error, ResponseError):
        status, kind = (400, "invalid_request_error") if isinstance(error, InvalidRequestError) else (500, "server_error")
        if isinstance(error, ReplayError):
            status, kind = 404, "not_recorded"  # not a status at which clients try again
        return Answered(status, "application/json", _error(error.message, kind, param=getattr(error, "param", None)))
    body = error.body.encode() or _error(error.message, error.type, code=error.code, param=error.param)
    headers = [("retry-after", f"{error.retry_after:g}")] if error.retry_after is not None else []
    if error.should_retry is not None:
        headers.append(("x-should-retry", "true" if error.should_retry else "false"))
    if error.request_id is not None:
        headers.append(("x-request-id", error.request_id))
    return Answered(error.status_code or 500, "application/json", body, tuple(headers))


def _error(message: str, kind: str | None, *, code: str | None = None, param: str | None = None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": kind, "code": code, "param": param}})
