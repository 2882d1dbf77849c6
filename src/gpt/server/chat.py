"""Chat completions: bytes -> request -> backend -> bytes or events.

A request is read by the same types as the client's are checked by. What the backend cannot do it refuses by name; what it says
changes nothing is named to the caller in `x-ignored-params`; with `lenient` what it refuses as a parameter is dropped, and
named there too. Nothing of what a caller sends but the request itself goes to the backend: no header, so no key.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from gpt.backend import DEFAULT_OPTIONS, AsyncBackend, below
from gpt.errors import UnsupportedParameterError
from gpt.protocol import codec
from gpt.protocol.chunks import Fold
from gpt.protocol.limits import PREFIXES, rate_limits
from gpt.server.asgi import Exchange, Left
from gpt.server.events import EventStream
from gpt.server.failures import Refused
from gpt.server.line import Line
from gpt.server.metrics import Metrics
from gpt.types import UNSET, ChatCompletion, ChatCompletionChunk, ChatRequest, StreamOptions, Usage

MAX_IGNORED = 40
"""Names in `x-ignored-params`; there may be as many as there are messages."""

_KNOWN = frozenset(ChatRequest.__struct_fields__) - {"extra"}


class Keeper(Protocol):
    """What keeps completions that were asked to be stored."""

    def check(self, request: dict[str, Any]) -> None:
        """Pass if what is to be kept of a request can be. Raises Refused."""
        ...

    def keep(self, owner: str, request: dict[str, Any], completion: dict[str, Any], request_id: str) -> None: ...


class Call(msgspec.Struct):
    """One call, as it is answered."""

    owner: str
    document: dict[str, Any]
    """The request as it came, as plain values."""
    streamed: bool
    size: int
    """Slots that it takes."""
    wants_usage: bool
    stored_id: str
    """The id under which the answer is kept; "" where it is not."""
    ignored: list[str]
    began: float
    first: float | None = None
    """Seconds to the first content."""
    usage: Usage | None = None
    model: str = ""
    """Who answered; "" before anybody did."""


class Chat:
    """`POST /v1/chat/completions` over a backend.

    `models` are the names that it answers to, None any; `keeper` keeps what is to be stored, None nothing. `ping` and `stall`
    are as EventStream takes them.
    """

    def __init__(
        self,
        backend: AsyncBackend,
        line: Line,
        metrics: Metrics,
        *,
        models: Sequence[str] | None = None,
        keeper: Keeper | None = None,
        lenient: bool = False,
        max_messages: int = 10_000,
        ping: float = 15.0,
        stall: float = 60.0,
        log: Callable[[Exchange, Call, BaseException | None], None] | None = None,
    ) -> None:
        self._backend = backend
        self._line = line
        self._metrics = metrics
        self._models = models
        self._keeper = keeper
        self._lenient = lenient
        self._max_messages = max_messages
        self._ping = ping
        self._stall = stall
        self._log = log
        self._without_effect: Callable[[Mapping[str, Any]], list[str]] | None = below(backend, "without_effect")
        self._streams_usage = bool(getattr(below(backend, "profile"), "streams_usage", False))

    async def create(self, exchange: Exchange, body: bytes, owner: str) -> None:
        """Answer a call. Raises Refused and GptError where nothing was sent yet; Left."""
        call = self._read(body, owner)
        failed: BaseException | None = None
        try:
            await (self._stream(exchange, call) if call.streamed else self._whole(exchange, call))
        except BaseException as error:
            failed = exchange.why or error
            raise
        finally:
            self._count(exchange, call, failed)

    # The request

    def _read(self, body: bytes, owner: str) -> Call:
        try:
            document = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, f"the body is no JSON: {error}", code="invalid_json") from None
        if not isinstance(document, dict):
            raise Refused(400, "the body must be a JSON object, a request", code="invalid_type")
        try:
            codec.check_request(body)
        except RecursionError:
            raise Refused(400, "the body is nested too deeply", code="invalid_json") from None
        self._check(document)
        keeps = self._keeper is not None and document.get("store") is True
        if keeps and self._keeper is not None:
            self._keeper.check(document)
        ignored = self._without_effect(document) if self._without_effect is not None else []
        if keeps:
            ignored = [name for name in ignored if name not in ("store", "metadata")]
        return Call(
            owner,
            document,
            document.get("stream") is True,
            max(1, document.get("n") or 1),
            (document.get("stream_options") or {}).get("include_usage") is True,
            f"chatcmpl-{secrets.token_hex(16)}" if keeps else "",
            ignored,
            perf_counter(),
        )

    def _check(self, document: dict[str, Any]) -> None:
        """What the types do not say."""
        if not document["messages"]:
            raise Refused(
                400, "messages: the list is empty; it needs at least one message", param="messages", code="empty_array"
            )
        if len(document["messages"]) > self._max_messages:
            text = (
                f"messages: {len(document['messages'])} of them are more than the {self._max_messages} that this server takes"
            )
            raise Refused(400, text, param="messages", code="array_above_max_length")
        if document.get("stream_options") is not None and document.get("stream") is not True:
            raise Refused(400, "stream_options: only with stream", param="stream_options", code="invalid_value")
        model = document.get("model")
        if self._models is not None and model and model not in self._models and not self._lenient:
            text = f"The model {model!r} does not exist here; there is {', '.join(self._models)}"
            raise Refused(404, text, param="model", code="model_not_found")

    def _request(self, call: Call) -> ChatRequest:
        """The request as the backend is asked."""
        extra = {name: value for name, value in call.document.items() if name not in _KNOWN}
        known = {name: value for name, value in call.document.items() if name in _KNOWN and name != "stream"}
        if self._keeper is not None and call.stored_id:
            # It is kept here, and so nowhere else; metadata is taken only of what is stored (the hosted service).
            known.pop("store")
            known.pop("metadata", None)
        request = ChatRequest(**known, extra=extra or UNSET)
        if call.streamed and not call.wants_usage and self._streams_usage:
            request.stream_options = StreamOptions(include_usage=True)  # for the counts; it is not passed on
        return request

    def _drops(self, call: Call, error: UnsupportedParameterError) -> bool:
        """Whether to ask again without the parameter that was refused; it is then left out, and told of."""
        name = error.param or ""
        if not self._lenient or name not in call.document or name in ("messages", "model"):
            return False
        del call.document[name]
        call.ignored.append(name)
        return True

    # The answer

    def _headers(self, call: Call, upstream: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
        made: list[tuple[str, str]] = []
        if call.ignored:
            names = [quote(name, safe="[]._- ") for name in call.ignored[:MAX_IGNORED]]
            more = len(call.ignored) - len(names)
            made.append(("x-ignored-params", ", ".join(names) + (f", and {more} more" if more else "")))
        theirs = [(name, value) for name, value in (upstream or {}).items() if name.startswith(PREFIXES)]
        made.extend(theirs or self._line.limits().items())
        made.append(("openai-processing-ms", str(int((perf_counter() - call.began) * 1000))))
        return made

    async def _whole(self, exchange: Exchange, call: Call) -> None:
        async with self._line.turn(call.size):
            while True:
                try:
                    completion = await self._backend.complete(self._request(call), DEFAULT_OPTIONS)
                    break
                except UnsupportedParameterError as error:
                    if not self._drops(call, error):
                        raise
        call.usage, call.model = completion.usage, completion.model
        body = _bytes_of(completion)
        headers = self._headers(call, _upstream(completion))
        if call.stored_id:
            document = {**msgspec.json.decode(body), "id": call.stored_id}
            if call.document.get("metadata"):
                document["metadata"] = call.document["metadata"]
            body = msgspec.json.encode(document)
            if not await self._keep(exchange, call, document):
                headers.append(("x-stored", "false"))
        await exchange.answer(200, body, dict(headers))

    async def _keep(self, exchange: Exchange, call: Call, completion: dict[str, Any]) -> bool:
        """Keep the answer. One that cannot be kept is still an answer, and is not lost to that; `x-stored` tells."""
        assert self._keeper is not None
        try:
            await asyncio.to_thread(self._keeper.keep, call.owner, call.document, completion, exchange.request_id)
        except Exception as error:  # noqa: BLE001 - whatever a disk does
            from gpt.server.log import LOG

            LOG.error("a completion could not be stored: %s", error)
            return False
        return True

    async def _stream(self, exchange: Exchange, call: Call) -> None:
        out = EventStream(exchange, self._ping, self._stall, lambda: self._headers(call))
        self._metrics.open.inc()
        try:
            async with self._line.turn(call.size):
                await self._events(exchange, out, call)
            await out.done()
        finally:
            out.close()
            self._metrics.open.dec()

    async def _events(self, exchange: Exchange, out: EventStream, call: Call) -> None:
        """Send the chunks of an answer as they come."""
        while True:
            try:
                chunks = await self._backend.stream(self._request(call), DEFAULT_OPTIONS)
                try:
                    first = await anext(chunks, None)
                except BaseException:
                    await chunks.close()
                    raise
                break
            except UnsupportedParameterError as error:
                if not self._drops(call, error):
                    raise
        fold = Fold() if call.stored_id else None
        begun: set[int] = set()
        """The choices that have begun, each by its role."""
        try:
            chunk = first
            while chunk is not None:
                if chunk.usage is not None:
                    call.usage = chunk.usage
                if call.first is None and chunk.choices:
                    call.first, call.model = perf_counter() - call.began, chunk.model
                if len(begun) < call.size:
                    chunk = _with_roles(chunk, begun)
                if fold is not None:
                    chunk = _renamed(chunk, call.stored_id)
                    fold.add(chunk)
                if chunk.choices or chunk.usage is None or call.wants_usage:
                    await out.event(_bytes_of(chunk))
                chunk = await anext(chunks, None)
        finally:
            await chunks.close()
        if fold is not None:
            document = fold.completion().to_dict()
            if call.document.get("metadata"):
                document["metadata"] = call.document["metadata"]
            await self._keep(exchange, call, document)

    def _count(self, exchange: Exchange, call: Call, error: BaseException | None) -> None:
        usage = call.usage
        self._metrics.called(
            self._label(call.model),
            perf_counter() - call.began,
            error="" if error is None else kind_of(error),
            first=call.first,
            prompt=usage.prompt_tokens if usage else None,
            completion=usage.completion_tokens if usage else None,
        )
        if self._log is not None:
            self._log(exchange, call, error)

    def _label(self, model: str) -> str:
        """The model as a label of metrics: names that callers made up are none."""
        return model if self._models is None or model in self._models else "other"


def kind_of(error: BaseException) -> str:
    """What an error is called in metrics and log: a name of ours, because the words of a service behind have no bounds."""
    if isinstance(error, Left):
        return "left"
    return (error.code or error.type) if isinstance(error, Refused) else type(error).__name__


def _upstream(completion: ChatCompletion) -> Mapping[str, str] | None:
    """The headers that came with an answer, where they speak of limits."""
    info = completion.info
    if info is None or not info.headers or rate_limits(info.headers) is None:
        return None
    return dict(info.headers.items())


def _bytes_of(value: ChatCompletion | ChatCompletionChunk) -> bytes:
    """The bytes that came; for a value made here, or one whose bytes had to be mended to be read, those of the value."""
    kept = value.__dict__
    body: bytes | None = kept.get("body")
    return msgspec.json.encode(value) if body is None or kept.get("mended") else body


def _with_roles(chunk: ChatCompletionChunk, begun: set[int]) -> ChatCompletionChunk:
    """The chunk with a role where it begins a choice without one: some clients refuse a stream that begins so (npm openai)."""
    new = {choice.index for choice in chunk.choices} - begun
    begun |= new
    if all(choice.delta.role is not None for choice in chunk.choices if choice.index in new):
        return chunk
    document = msgspec.json.decode(_bytes_of(chunk))
    for choice in document["choices"]:
        if choice.get("index", 0) in new:
            choice["delta"] = {**(choice.get("delta") or {}), "role": "assistant"}
    return codec.decode_chunk(msgspec.json.encode(document))


def _renamed(chunk: ChatCompletionChunk, name: str) -> ChatCompletionChunk:
    """The chunk under another id."""
    return codec.decode_chunk(msgspec.json.encode({**msgspec.json.decode(_bytes_of(chunk)), "id": name}))
