"""Gpt and AsyncGpt: build a request, hand it to the backend.

Both clients and all their calls come down to `_Core.request`, which makes a `ChatRequest` of what the caller wrote, and to one
method of the backend. Nothing here knows where the answer comes from.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypedDict, TypeVar, overload

import msgspec

from gpt.backend import (
    DEFAULT_OPTIONS,
    AsyncBackend,
    Backend,
    CallOptions,
    counter_of,
    host_of,
    in_threads,
    is_awaited,
    keeper_of,
)
from gpt.errors import InvalidRequestError
from gpt.layers.meter import Meter
from gpt.protocol.codec import history
from gpt.protocol.profiles import Profile
from gpt.protocol.retry import Retry
from gpt.protocol.wire import Seconds, Timeout
from gpt.types import (
    UNSET,
    Answered,
    ChatCompletion,
    ChatParams,
    ChatRequest,
    Message,
    ModelList,
    StreamOptions,
    ToollessParams,
    Unset,
    UserMessage,
)

if TYPE_CHECKING:
    from typing import Unpack

    from gpt.layers.learn import Estimates
    from gpt.layers.meter import Answers, AsyncToldStream, ToldStream, UsageTotals
    from gpt.layers.watch import Hook
    from gpt.models import operations
    from gpt.pages import AsyncListing, Page
    from gpt.prices import Cost, Prices
    from gpt.protocol.stored import StoredCall
    from gpt.protocol.tokens import TokenCount
    from gpt.remote.http.connect import Network
    from gpt.sdkconfiguration import SDKConfiguration
    from gpt.stream import AsyncChatStream, AsyncChunkIterator, ChatStream, ChunkIterator
    from gpt.structured.parse import Parsed
    from gpt.structured.partial import Trust
    from gpt.structured.stream import AsyncParsedStream, ParsedStream
    from gpt.tools.loop import ToolRun
    from gpt.tools.run import RunSettings
    from gpt.tools.stream import AsyncToolStream, ToolStream
    from gpt.types import ChatCompletionDeleted, StoredMessage
    from gpt.utils import RetryConfig

__all__ = ["AsyncGpt", "Gpt"]

T = TypeVar("T")
Answer = TypeVar("Answer", bound=Answered)

Order: TypeAlias = Literal["asc", "desc"] | str
"""Of a list, by time."""

Prompt: TypeAlias = str | Iterable[Message] | ChatRequest | Mapping[str, Any]
"""What a call answers: a user's text, a list of messages, or a whole request (an object or a dict)."""

_LISTS = frozenset({"functions", "modalities", "stop", "tools"})
_UNSETTLED = _LISTS | {"stream"}
_OPTIONS = frozenset({"timeout", "deadline", "retry", "headers", "query"})
_KNOWN = frozenset(ChatRequest.__struct_fields__) - {"extra"}


# --------------------------------------------------------------------------------------------------------------------
# From a call to a request
# --------------------------------------------------------------------------------------------------------------------


class CallOptionParams(TypedDict, total=False):
    """How one call is made, as keywords. `timeout` and `deadline` are in seconds."""

    timeout: Timeout | Seconds | None
    deadline: Seconds | None
    retry: Retry | None
    headers: Mapping[str, str] | None
    query: Mapping[str, str] | None


class CallParams(ChatParams, CallOptionParams, total=False):
    """The keywords of a call: the protocol's parameters, the model, and how the call is made.

    `body` holds what the protocol does not know; it goes out beside the parameters and wins over them.
    """

    model: str | None
    body: Mapping[str, Any] | None


if TYPE_CHECKING:

    class RunParams(ToollessParams, CallOptionParams, RunSettings, total=False):
        """The keywords of a run of tools: those of a call, with Python functions for tools, and what bounds the run."""

        model: str | None
        body: Mapping[str, Any] | None


class CreateParams(CallParams, total=False):
    """The keywords of `completions.create`: those of a call, with the official package's names of three of them."""

    extra_headers: Mapping[str, str] | None
    extra_query: Mapping[str, str] | None
    extra_body: Mapping[str, Any] | None


class StoredParams(CallOptionParams, total=False):
    """How a call about stored completions is made, as keywords, also under the official package's names.

    `query` holds parameters that are not known here, and goes over those that are; `body` the same of a call that sends one.
    """

    body: Mapping[str, Any] | None
    extra_headers: Mapping[str, str] | None
    extra_query: Mapping[str, str] | None
    extra_body: Mapping[str, Any] | None


class _Core:
    """What a client and its namespaces share."""

    __slots__ = ("begin", "counted", "estimates", "meter", "model", "on_event", "options")

    def __init__(self, model: str | None, options: CallOptions, on_event: Hook | None, meter: Meter) -> None:
        self.model: str | Unset = UNSET if model is None else model
        self.options = options
        self.on_event = on_event
        self.meter = meter
        self.begin, self.counted = meter.begin, meter.counted
        self.estimates: Estimates | None = None

    def prepare(self, prompt: Prompt, fields: dict[str, Any]) -> tuple[ChatRequest, CallOptions]:
        """The request and the options of a call; `fields` are its keywords, and are used up.

        Raises InvalidRequestError, and TypeError for an unknown keyword.
        """
        options = self.options if _OPTIONS.isdisjoint(fields) else self.options_of(fields)
        model = fields.pop("model", None)
        if "body" in fields:
            fields["extra"] = fields.pop("body") or UNSET
        if isinstance(prompt, str):
            fields["messages"] = [UserMessage(prompt)]
        elif isinstance(prompt, (ChatRequest, Mapping)):
            return self._over(prompt, fields, model), options
        else:
            fields["messages"] = prompt if type(prompt) is list else history(prompt)
        if not _UNSETTLED.isdisjoint(fields):
            _settle(fields)
        try:
            return ChatRequest(model=self.model if model is None else model, **fields), options
        except TypeError:
            raise _unknown(fields) from None

    def options_of(self, fields: Any) -> CallOptions:
        """The options of one call, over the client's. Takes them out of `fields`."""
        given = {name: fields.pop(name) for name in _OPTIONS & fields.keys()}
        if given.get("timeout") is not None:
            given["timeout"] = Timeout.of(given["timeout"])
        for name in ("headers", "query"):
            if given.get(name):
                given[name] = {**(getattr(self.options, name) or {}), **given[name]}
        return msgspec.structs.replace(self.options, **{name: value for name, value in given.items() if value is not None})

    def only_options(self, fields: Any) -> CallOptions:
        """The options of a call that takes nothing else. Raises TypeError for any other keyword."""
        options = self.options_of(fields)
        for name in fields:
            raise TypeError(f"unknown keyword {name!r}; there are {', '.join(sorted(_OPTIONS))}")
        return options

    def estimating(self, backend: object) -> Estimates:
        """What counts tokens where the backend cannot; made when somebody asks."""
        if self.estimates is None:
            from gpt.layers.learn import Estimates

            self.estimates = Estimates(_profile_of(backend))
        return self.estimates

    def _over(self, request: ChatRequest | Mapping[str, Any], fields: dict[str, Any], model: str | None) -> ChatRequest:
        """A copy of the caller's request with the call's own parameters over it."""
        if not isinstance(request, ChatRequest):
            request = _from_dict(request)
        if request.stream:
            raise _not_streamed()
        _settle(fields)
        if model is not None:
            fields["model"] = model
        elif request.model is UNSET:
            fields["model"] = self.model
        if fields.get("extra") and request.extra:
            fields["extra"] = {**request.extra, **fields["extra"]}
        if type(request.messages) is not list:
            fields["messages"] = history(request.messages)
        try:
            return msgspec.structs.replace(request, **fields)
        except TypeError:
            raise _unknown(fields) from None


def _settle(fields: dict[str, Any]) -> None:
    """Read generators to their end, and refuse `stream`."""
    for name in _LISTS & fields.keys():
        value = fields[name]
        if value is not None and not isinstance(value, (list, str, tuple, Unset, Mapping)):
            fields[name] = list(value)
    if "stream" in fields and fields.pop("stream"):
        raise _not_streamed()


def _not_streamed() -> InvalidRequestError:
    return InvalidRequestError(
        "stream: this call gives a whole completion; use chat.stream(...) for events, or "
        "chat.completions.create(stream=True) for raw chunks",
        param="stream",
    )


def _from_dict(request: Mapping[str, Any]) -> ChatRequest:
    """A request that came as a dict. What the protocol does not know is sent as it is."""
    if "messages" not in request:
        what = "a single message: put it in a list" if "role" in request else "a request needs them"
        raise InvalidRequestError(f"messages: missing in the dict; {what}", param="messages")
    extra = {name: value for name, value in request.items() if name not in _KNOWN}
    known = {name: value for name, value in request.items() if name in _KNOWN}
    return ChatRequest(**known, extra=extra or UNSET)


def _unknown(fields: Mapping[str, Any]) -> TypeError:
    """The error for a keyword that no call takes, with the one that was probably meant."""
    import difflib

    name = next(name for name in fields if name not in _KNOWN and name != "extra")
    near = difflib.get_close_matches(name, sorted(_KNOWN | _OPTIONS), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"to send it all the same, pass body={{{name!r}: ...}}"
    return TypeError(f"unknown parameter {name!r}; {hint}")


def _envelope(completion: ChatCompletion) -> operations.CreateChatCompletionResponse:
    """The seed's envelope round a completion."""
    from gpt.models.operations import CreateChatCompletionResponse

    info = completion.info
    return CreateChatCompletionResponse(
        content_type=info.headers.get("content-type", "application/json") if info else "application/json",
        status_code=info.status if info else 200,
        create_chat_completion_response=completion,
        raw_response=info.raw if info else None,
    )


# --------------------------------------------------------------------------------------------------------------------
# Construction
# --------------------------------------------------------------------------------------------------------------------


class ClientSettings(TypedDict, total=False):
    """The settings of both clients, as keywords. `timeout` (per attempt) and `deadline` (per call) are in seconds."""

    base_url: str | None
    model: str | None
    timeout: Timeout | Seconds | None
    deadline: Seconds | None
    max_retries: int | None
    retry: Retry | None
    headers: Mapping[str, str] | None
    query: Mapping[str, str] | None
    organization: str | None
    project: str | None
    network: Network | None
    profile: Profile | str | None
    adapt: bool | None
    prices: Prices | None
    on_event: Hook | None


class BlockingClientSettings(ClientSettings, total=False):
    """The settings of `Gpt`."""

    backend: Backend | None
    api_key: str | Callable[[], str] | None


class AsyncClientSettings(ClientSettings, total=False):
    """The settings of `AsyncGpt`."""

    backend: AsyncBackend | Backend | None
    api_key: str | Callable[[], str] | Callable[[], Awaitable[str]] | None


class CopySettings(CallOptionParams, total=False):
    """What `with_options` may change, as keywords: how calls are made, the model, and who is told of calls."""

    model: str | None
    max_retries: int | None
    on_event: Hook | None


_SETTINGS = frozenset(BlockingClientSettings.__optional_keys__)


class _Setup(msgspec.Struct):
    """The arguments of both clients, checked."""

    core: _Core
    backend: Any = None
    endpoint: Any = None
    network: Any = None
    local_url: str | None = None
    replay_url: str | None = None


def _set_up(
    api_key_auth: Any,
    server_idx: int | None,
    server_url: str | None,
    url_params: Mapping[str, str] | None,
    client: Any,
    retry_config: RetryConfig | None,
    settings: Mapping[str, Any],
) -> _Setup:
    """Settle which of two names was used, and what answers. Raises InvalidRequestError."""
    for name in settings:
        if name not in _SETTINGS:
            raise TypeError(f"unknown setting {name!r}; there are {', '.join(sorted(_SETTINGS))}")
    of = settings.get
    key = _one_of("api_key_auth", api_key_auth, "api_key", of("api_key"))
    url = _one_of("server_url", server_url, "base_url", of("base_url"))
    policy = _policy(of("retry"), of("max_retries"), retry_config)
    model, timeout, deadline, on_event = of("model"), of("timeout"), of("deadline"), of("on_event")
    meter = Meter(_checked_prices(of("prices")))
    backend = of("backend")
    if backend is not None:
        given = {"api_key": key, "server_url": url, "server_idx": server_idx, "client": client}
        _refuse(given | {name: of(name) for name in _FOR_SERVERS}, "beside backend=, which answers by itself")
        return _Setup(_Core(model, _local_options(timeout, deadline, policy), on_event, meter), backend=backend)
    if url is None and server_idx is not None:
        from gpt.sdkconfiguration import SERVERS

        if not 0 <= server_idx < len(SERVERS):
            raise InvalidRequestError(
                f"server_idx: {server_idx} is not among the {len(SERVERS)} servers (0 to {len(SERVERS) - 1})",
                param="server_idx",
            )
        url = SERVERS[server_idx]
    if url is not None and url_params:
        for name, value in url_params.items():
            url = url.replace("{" + name + "}", value)
    if url is None:
        url = os.environ.get("OPENAI_BASE_URL", "").strip() or None
    if url is not None and url.startswith("local:"):
        _refuse({"client": client} | {name: of(name) for name in _FOR_SERVERS}, 'with "local:", where there is no server')
        return _Setup(_Core(model, _local_options(timeout, deadline, policy), on_event, meter), local_url=url)
    if url is not None and url.startswith("replay:"):
        _refuse({"client": client} | {name: of(name) for name in _FOR_SERVERS}, 'with "replay:", where there is no server')
        return _Setup(_Core(model, _local_options(timeout, deadline, policy), on_event, meter), replay_url=url)
    from gpt.remote.backend import endpoint

    made = endpoint(
        url,
        key,
        organization=of("organization"),
        project=of("project"),
        headers=of("headers"),
        query=of("query"),
        timeout=timeout,
        retry=policy,
        profile=of("profile"),
        adapt=of("adapt"),
    )
    if client is not None and of("network") is not None:
        raise InvalidRequestError("network: has no meaning beside client=, which has its own settings", param="network")
    options = DEFAULT_OPTIONS if deadline is None else CallOptions(deadline=deadline)
    return _Setup(_Core(model, options, on_event, meter), endpoint=made, network=of("network"))


_FOR_SERVERS = ("headers", "query", "organization", "project", "network", "profile", "adapt")
"""Settings that say how a server is asked."""


def _checked_prices(given: Any) -> Prices | None:
    if given is None:
        return None
    from gpt.prices import Prices

    if isinstance(given, Prices):
        return given
    if isinstance(given, Mapping):
        return Prices(given)
    raise InvalidRequestError(
        f"prices: expected Prices, or a dict of Price by model, got {type(given).__name__}", param="prices"
    )


def _refuse(given: Mapping[str, Any], where: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise InvalidRequestError(f"{name}: has no meaning {where}", param=name)


def _local_options(timeout: Timeout | Seconds | None, deadline: Seconds | None, retry: Retry | None) -> CallOptions:
    """The options of a client whose backend has no endpoint to hold them."""
    return CallOptions(timeout=None if timeout is None else Timeout.of(timeout), deadline=deadline, retry=retry)


def _one_of(first_name: str, first: Any, second_name: str, second: Any) -> Any:
    if first is not None and second is not None:
        raise InvalidRequestError(f"{first_name} and {second_name} are two names of one thing; give one", param=second_name)
    return second if first is None else first


def _policy(retry: Retry | None, max_retries: int | None, retry_config: RetryConfig | None) -> Retry | None:
    given = [value for value in (retry, max_retries, retry_config) if value is not None]
    if len(given) > 1:
        raise InvalidRequestError("retry, max_retries and retry_config are ways to say one thing; give one", param="retry")
    if max_retries is not None:
        if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
            raise InvalidRequestError(f"max_retries: expected an int from 0, got {max_retries!r}", param="max_retries")
        return Retry(attempts=1 + max_retries)
    if retry_config is not None:
        from gpt.utils import policy

        return policy(retry_config)
    return retry


def _copied(core: _Core, settings: Mapping[str, Any]) -> _Core:
    """The core of a client's copy. Raises InvalidRequestError, and TypeError for an unknown setting."""
    for name in settings:
        if name not in CopySettings.__optional_keys__:
            raise TypeError(f"with_options changes no {name!r}; it takes {', '.join(sorted(CopySettings.__optional_keys__))}")
    fields = dict(settings)
    fields["retry"] = _policy(fields.get("retry"), fields.pop("max_retries", None), None)
    on_event = fields.pop("on_event", None) or core.on_event
    copied = _Core(fields.pop("model", None) or core.model or None, core.options_of(fields), on_event, core.meter)
    copied.estimates = core.estimates
    return copied


# --------------------------------------------------------------------------------------------------------------------
# Blocking
# --------------------------------------------------------------------------------------------------------------------


class Gpt:
    """A client: asks a model, wherever it is.

    Without arguments it asks the server that OPENAI_BASE_URL names, else the hosted service, with OPENAI_API_KEY.
    `server_url="local:"` asks the model in the box, "replay:talk.jsonl" is answered from a recording, `backend=` asks any
    Backend. `api_key=""` means no key, None the environment's.
    The first six parameters are the seed's; `api_key` and `base_url` are other names of the first and third. Seconds
    throughout: `timeout` per attempt, `deadline` for a whole call. May be shared by threads. Raises InvalidRequestError.
    """

    def __init__(
        self,
        api_key_auth: str | Callable[[], str] | None = None,
        server_idx: int | None = None,
        server_url: str | None = None,
        url_params: Mapping[str, str] | None = None,
        client: Any = None,
        retry_config: RetryConfig | None = None,
        **settings: Unpack[BlockingClientSettings],
    ) -> None:
        setup = _set_up(api_key_auth, server_idx, server_url, url_params, client, retry_config, settings)
        self._take(setup.core, _blocking_backend(setup, client))

    def _take(self, core: _Core, backend: Backend, *, borrows: bool = False) -> None:
        self._core = core
        self._borrows = borrows
        self.backend = backend
        core.meter.host = host_of(backend)
        if _profile_of(backend).think_tags is not None:
            from gpt.layers.thinking import Split

            backend = Split(backend)
        if core.on_event is not None:
            from gpt.layers.watch import Watched

            backend = Watched(backend, core.on_event, self.backend)
        self.chat = Chat(core, backend)
        self.models = Models(core, backend)

    def with_options(self, **settings: Unpack[CopySettings]) -> Gpt:
        """A copy with other settings, over the same connections, which closing the copy leaves open.

        Headers and query are joined to the client's. As in a call, None leaves a setting as it is. Raises InvalidRequestError,
        and TypeError for what a copy cannot change.
        """
        copy: Gpt = object.__new__(type(self))
        copy._take(_copied(self._core, settings), self.backend, borrows=True)
        return copy

    def __repr__(self) -> str:
        return f"Gpt(backend={self.backend!r})"

    @property
    def usage(self) -> UsageTotals:
        """What the calls of this client and of its copies took up to now, added up. A stream is in it once it has ended."""
        return self._core.meter.read()

    def cost_of(self, *answers: ChatCompletion | Answers) -> Cost | None:
        """What these answers cost together, by what the server said or by the client's prices; None where that is not known.

        A ToolRun, a Parsed and a ParseError cost what all of their answers do. Raises InvalidRequestError for anything else.
        """
        return self._core.meter.cost_of(answers)

    @property
    def sdk_configuration(self) -> SDKConfiguration:
        """The seed's view of the client's settings."""
        from gpt.sdkconfiguration import configuration

        return configuration(self.backend)

    def close(self) -> None:
        """Free connections, or the engine. A backend that the caller made is closed too."""
        if not self._borrows:
            self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _blocking_backend(setup: _Setup, client: Any) -> Backend:
    if setup.backend is not None:
        if not isinstance(setup.backend, Backend):
            raise InvalidRequestError(
                f"backend: {type(setup.backend).__name__} has not the methods complete, stream, models, close", param="backend"
            )
        own: Backend = setup.backend
        return own
    if setup.local_url is not None:
        from gpt.local.backend import Local

        return Local.from_url(setup.local_url)
    if setup.replay_url is not None:
        from gpt.layers.record import Replay

        return Replay.from_url(setup.replay_url)
    from gpt.remote.backend import RemoteBackend

    transport = None
    if client is not None:
        from gpt.remote.adapters import adapt

        transport = adapt(client)
    return RemoteBackend(setup.endpoint, transport, setup.network)


class Models:
    """`client.models`."""

    def __init__(self, core: _Core, backend: Backend) -> None:
        self._core = core
        self._backend = backend

    def list(self, **options: Unpack[CallOptionParams]) -> ModelList:
        """The models that the server offers. Raises GptError."""
        return self._backend.models(self._core.only_options(options))


class Chat:
    """`client.chat`: conversations in, answers out."""

    def __init__(self, core: _Core, backend: Backend) -> None:
        self._core = core
        self._backend = backend
        self.completions = Completions(core, backend)
        if core.estimates is not None:
            self._learn(core.estimates)

    def complete(self, messages: Prompt, **params: Unpack[CallParams]) -> ChatCompletion:
        """The model's answer to `messages`; `choices` has `n` items.

        `body` holds what the protocol does not know; it goes out beside the parameters and wins over them. Raises GptError:
        InvalidRequestError before sending, ResponseError for an answered failure, TransportError when no answer came; and
        TypeError for an unknown keyword.
        """
        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        return self._core.counted(self._core.begin(), self._backend.complete(request, options))

    @overload
    def stream(self, messages: Prompt, *, into: None = None, **params: Unpack[CallParams]) -> ChatStream: ...

    @overload
    def stream(
        self, messages: Prompt, *, into: type[T], partial: Trust = "trusted", **params: Unpack[CallParams]
    ) -> ParsedStream[T]: ...

    @overload
    def stream(
        self, messages: Prompt, *, into: Any, partial: Trust = "trusted", **params: Unpack[CallParams]
    ) -> ParsedStream[Any]: ...

    def stream(
        self, messages: Prompt, *, into: Any = None, partial: Trust = "trusted", **params: Unpack[CallParams]
    ) -> ChatStream | ParsedStream[Any]:
        """The same answer as events while it is made. Nothing is sent before the block is entered or the first event read.

        With `into`, a type as `parse` takes it, also what has come of the value: with `partial` "trusted" each part when it is
        whole, with "growing" texts as they grow. Raises as `complete` does; a stream that breaks off raises
        StreamTruncatedError with what had arrived, an answer that is no value ParseError at its end.
        """
        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        core, backend = self._core, self._backend
        request = _with_usage(request, backend)
        if into is None:
            _no_value(partial)
            from gpt.stream import ChatStream

            return ChatStream(lambda: _opened(core, backend, request, options))
        from gpt.structured.parse import Asking
        from gpt.structured.stream import ParsedStream

        asking = Asking(request, into, _profile_of(backend))
        return ParsedStream(lambda asked: _opened(core, backend, asked, options), asking, partial)

    @overload
    def parse(self, messages: Prompt, *, into: type[T], reasks: int = 0, **params: Unpack[CallParams]) -> Parsed[T]: ...

    @overload
    def parse(self, messages: Prompt, *, into: Any, reasks: int = 0, **params: Unpack[CallParams]) -> Parsed[Any]: ...

    def parse(self, messages: Prompt, *, into: Any, reasks: int = 0, **params: Unpack[CallParams]) -> Parsed[Any]:
        """The model's answer as a value of the type `into`; `value` has it.

        `into` is a pydantic model, dataclass, attrs class, TypedDict, NamedTuple, msgspec Struct, Enum, Literal, union,
        container or scalar, or a JSON Schema as a dict, which gives plain values. To a type checker a class gives Parsed of it,
        anything else Parsed[Any]. `reasks` times the model is told what was wrong and asked again. Raises as `complete` does;
        InvalidRequestError for a type that the server's dialect cannot say; ParseError for an answer that is no value, by how
        it ended LengthFinishError, ContentFilterFinishError or RefusalError.
        """
        from gpt.flows import drive
        from gpt.structured.parse import Asking, parsing

        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        flow = parsing(Asking(request, into, _profile_of(self._backend)), reasks)
        core, backend = self._core, self._backend
        return drive(flow, lambda asked: core.counted(core.begin(), backend.complete(asked, options)))

    def run_tools(self, messages: Prompt, **params: Unpack[RunParams]) -> ToolRun:
        """The conversation with the model's calls of `tools` done, until it answers without one.

        `tools` are Python functions, blocking or async, whose schema comes from their signature and docstring (`tool(...)` for
        other settings), or tools as they go out, whose calls end the run and are handed over. The calls of an answer run at
        once, at most `parallel` (8), one by one with `parallel_tool_calls=False`. What a tool raises, or cannot be given, is
        told to the model, or raised as ToolError with `on_error="raise"`. The run stops after `max_turns` (20) answers, once
        they have taken `max_total_tokens`, or at `deadline`, in seconds for the whole run; `ended` tells which. A deadline that
        passes while the model answers is a RequestTimeoutError. A tool that takes `tool_timeout` seconds counts as failed; a
        blocking one goes on in its thread. `approve(call, context)` is asked before each call that can be done; `on_step` is
        told of each answer, of each call when it begins and of its result when it is there. Raises as `complete` does; the
        error's `conversation` is what had been said.
        """
        from gpt.flows import drive
        from gpt.tools.run import Run, taken

        settings = taken(params)  # type: ignore[arg-type]
        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        run = Run(request, options, _profile_of(self._backend), settings)

        def reply(wanted: Any) -> Any:
            if isinstance(wanted, ChatRequest):
                return self._core.counted(self._core.begin(), self._backend.complete(wanted, run.options()))
            return run.outcome(wanted)

        return drive(run.flow, reply)

    def stream_tools(self, messages: Prompt, **params: Unpack[RunParams]) -> ToolStream:
        """The same run as events: those of its answers while they are made, and what becomes of the calls.

        Takes what `run_tools` takes. Nothing is sent before the block is entered or the first event read. Beside the events of
        `stream` there are "answer" for each whole answer, "call" and "result" when a call begins and when its result is there,
        and at the end "done", whose `run` is what `run_tools` gives. Leaving the block stops the answer under way at the other
        end. Raises as `run_tools` does; an error inside an answer has as `partial` what had come of it.
        """
        from gpt.tools.run import taken
        from gpt.tools.stream import ToolStream

        settings = taken(params)  # type: ignore[arg-type]
        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        request = _with_usage(request, self._backend, needed=settings.get("max_total_tokens") is not None)
        core, backend = self._core, self._backend
        return ToolStream(
            lambda asked, how: _opened(core, backend, asked, how), request, options, _profile_of(backend), settings
        )

    def count_tokens(self, messages: Prompt, **params: Unpack[CallParams]) -> TokenCount:
        """How many tokens the prompt of this call takes; sends nothing to a server, and fetches nothing.

        Exact where the backend can tell, as the model in the box can. Else by the model's own tokenizer, where tiktoken (extra
        `tokens`) is installed and has its file. Else an estimate, which gets better: once one was asked for, each answer that
        comes to this client teaches it how far it is off. `kind` says which. Raises InvalidRequestError as a call does.
        """
        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        exactly = counter_of(self._backend)
        if exactly is not None:
            exact: TokenCount = exactly(request, options)
            return exact
        estimates = self._core.estimating(self._backend)
        counted = estimates.count(request)
        if counted.kind == "estimate":
            self._learn(estimates)
        return counted

    def _learn(self, estimates: Estimates) -> None:
        """Let answers teach from now on."""
        from gpt.layers.learn import Learning

        if not isinstance(self._backend, Learning):
            self._backend = self.completions._backend = Learning(self._backend, estimates)

    def create_chat_completion(
        self, request: ChatRequest | Mapping[str, Any], **options: Unpack[CallOptionParams]
    ) -> operations.CreateChatCompletionResponse:
        """The seed's call: a request object in, the answer in an envelope out. Raises as `complete` does."""
        return _envelope(self.complete(_whole_request(request), **options))


def _opened(core: _Core, backend: Backend, request: ChatRequest, options: CallOptions) -> ToldStream:
    """The stream, whose end the client's meter is told of."""
    return core.meter.stream(core.begin(), backend.stream(request, options), request.model)


async def _aopened(core: _Core, backend: AsyncBackend, request: ChatRequest, options: CallOptions) -> AsyncToldStream:
    return core.meter.astream(core.begin(), await backend.stream(request, options), request.model)


def _profile_of(backend: object) -> Profile:
    """What is known of a backend."""
    return getattr(backend, "profile", None) or Profile()


def _no_value(partial: str) -> None:
    if partial != "trusted":
        raise InvalidRequestError("partial: says how a value comes, and needs into= to say of what type", param="partial")


def _with_usage(request: ChatRequest, backend: object, *, needed: bool = False) -> ChatRequest:
    """The request asking for usage at the end of the stream, where the backend can give it and nobody said otherwise.

    Where it is `needed`, a backend is asked of which that is not known.
    """
    if request.stream_options is UNSET and (needed or _profile_of(backend).streams_usage):
        return msgspec.structs.replace(request, stream_options=StreamOptions(include_usage=True))
    return request


_DROPPED = ("function_call", "functions", "response_format", "tool_choice", "tools", "user")
"""Fields that the seed left out when they were None; the protocol has no null for them."""


def _whole_request(request: object) -> ChatRequest | Mapping[str, Any]:
    """The seed's request, less what the seed never sent."""
    if isinstance(request, Mapping):
        return request
    if not isinstance(request, ChatRequest):
        raise InvalidRequestError(
            f"request: expected a CreateChatCompletionRequest, got {type(request).__name__}", param="request"
        )
    unset = dict.fromkeys((name for name in _DROPPED if getattr(request, name) is None), UNSET)
    return msgspec.structs.replace(request, **unset) if unset else request


class Completions:
    """`client.chat.completions`: the official package's names."""

    def __init__(self, core: _Core, backend: Backend) -> None:
        self._core = core
        self._backend = backend

    @overload
    def create(
        self,
        *,
        messages: Iterable[Message],
        stream: Literal[False] | Unset | None = UNSET,
        **params: Unpack[CreateParams],
    ) -> ChatCompletion: ...

    @overload
    def create(
        self,
        *,
        messages: Iterable[Message],
        stream: Literal[True],
        **params: Unpack[CreateParams],
    ) -> ChunkIterator: ...

    def create(
        self,
        *,
        messages: Iterable[Message],
        stream: bool | Unset | None = UNSET,
        **params: Unpack[CreateParams],
    ) -> ChatCompletion | ChunkIterator:
        """The model's answer, as `chat.complete` gives it; with `stream=True`, its raw chunks. Raises as `complete` does."""
        request, options = self._core.prepare(messages, _official(params))
        if stream is True:
            from gpt.stream import ChunkIterator

            started = perf_counter()
            return ChunkIterator(_opened(self._core, self._backend, request, options), started)
        if stream is not UNSET:
            request.stream = stream
        return self._core.counted(self._core.begin(), self._backend.complete(request, options))

    @property
    def messages(self) -> CompletionMessages:
        """The messages of stored completions."""
        return CompletionMessages(self._core, self._backend)

    def list(
        self,
        *,
        after: str | None = None,
        limit: int | None = None,
        metadata: Mapping[str, str] | None = None,
        model: str | None = None,
        order: Order | None = None,
        **options: Unpack[StoredParams],
    ) -> Page[ChatCompletion]:
        """The first page of the completions that the server has stored, which iterates over those of all pages.

        Only those of `model`, and with these pairs among their `metadata`, where they are given. `after` is the id after which
        the list begins, `limit` how many items a page has, `order` of their times "asc" or "desc"; None leaves it to the
        server. Raises InvalidRequestError where the backend stores nothing, GptError as a call does, TypeError for an unknown
        keyword.
        """
        from gpt.pages import Page
        from gpt.protocol.stored import listing

        asked = {"after": after, "limit": limit, "metadata": metadata, "model": model, "order": order}
        call, ask = _asking(self._core, self._backend, options, listing, **asked)
        return Page(ask(call), call, ask)

    def retrieve(self, completion_id: str, **options: Unpack[StoredParams]) -> ChatCompletion:
        """The stored completion with this id; `to_dict()` has what it tells of its request too. Raises as `list` does."""
        from gpt.protocol.stored import retrieval

        call, ask = _asking(self._core, self._backend, options, retrieval, completion_id)
        made: ChatCompletion = ask(call)
        return made

    def update(
        self, completion_id: str, *, metadata: Mapping[str, str] | None, **options: Unpack[StoredParams]
    ) -> ChatCompletion:
        """The stored completion with this metadata; nothing else of it can be changed. Raises as `list` does."""
        from gpt.protocol.stored import updating

        call, ask = _asking(self._core, self._backend, options, updating, completion_id, metadata=metadata)
        made: ChatCompletion = ask(call)
        return made

    def delete(self, completion_id: str, **options: Unpack[StoredParams]) -> ChatCompletionDeleted:
        """What the server says of the stored completion that it was to delete. Raises as `list` does.

        Where an attempt failed and the next finds nothing, the error has a note that the first may have done it.
        """
        from gpt.protocol.stored import deletion

        call, ask = _asking(self._core, self._backend, options, deletion, completion_id)
        made: ChatCompletionDeleted = ask(call)
        return made


class CompletionMessages:
    """`client.chat.completions.messages`: what stored completions answer."""

    def __init__(self, core: _Core, backend: Backend) -> None:
        self._core = core
        self._backend = backend

    def list(
        self,
        completion_id: str,
        *,
        after: str | None = None,
        limit: int | None = None,
        order: Order | None = None,
        **options: Unpack[StoredParams],
    ) -> Page[StoredMessage]:
        """The first page of the messages of a stored completion's request, which iterates over those of all pages.

        Parameters and errors are those of `completions.list`. The messages can be sent again, as part of a conversation.
        """
        from gpt.pages import Page
        from gpt.protocol.stored import messages

        call, ask = _asking(self._core, self._backend, options, messages, completion_id, after=after, limit=limit, order=order)
        return Page(ask(call), call, ask)


def _official(params: CreateParams | StoredParams) -> dict[str, Any]:
    """The official package's names of three options, as ours."""
    settled: dict[str, Any] = dict(params)
    for name in ("headers", "query", "body"):
        official = settled.pop(f"extra_{name}", None)
        if official is not None:
            settled[name] = _one_of(name, settled.get(name), f"extra_{name}", official)
    return settled


def _asking(
    core: _Core, backend: object, given: StoredParams, make: Callable[..., StoredCall[Answer]], *where: str, **named: Any
) -> tuple[StoredCall[Answer], Callable[[StoredCall[Answer]], Any]]:
    """A call about stored completions, made by `make`, and what asks for it or for the next page, on `AsyncGpt` awaited.

    The call's own query goes over its parameters, and these over the client's query. Raises InvalidRequestError, and TypeError
    for an unknown keyword.
    """
    settled = _official(given)
    query, body = settled.pop("query", None), settled.pop("body", None)
    options = core.options_of(settled)
    for name in settled:
        raise TypeError(
            f"unknown parameter {name!r}; there are {', '.join([*named, *sorted(_OPTIONS), 'body'])}; "
            f"to send it all the same, pass query={{{name!r}: ...}}"
        )
    ask = keeper_of(backend)
    if ask is None:
        raise InvalidRequestError(
            f"{_lowest(backend)} stores no completions: ask the server that does, by a client of its own, as in "
            "Gpt(server_url=...).chat.completions.list(); `gpt serve --store FILE` stores those of any backend"
        )
    return make(*where, **named, query=query, body=body), partial(ask, options=options)


def _lowest(backend: Any) -> str:
    """The name of a backend below its layers."""
    while getattr(backend, "_backend", None) is not None:
        backend = backend._backend
    return type(backend).__name__


# --------------------------------------------------------------------------------------------------------------------
# On asyncio
# --------------------------------------------------------------------------------------------------------------------


class AsyncGpt:
    """Gpt for asyncio: the same names, awaited. `backend` may be an AsyncBackend, or a Backend, which then runs in threads."""

    def __init__(
        self,
        api_key_auth: str | Callable[[], str] | Callable[[], Awaitable[str]] | None = None,
        server_idx: int | None = None,
        server_url: str | None = None,
        url_params: Mapping[str, str] | None = None,
        client: Any = None,
        retry_config: RetryConfig | None = None,
        **settings: Unpack[AsyncClientSettings],
    ) -> None:
        setup = _set_up(api_key_auth, server_idx, server_url, url_params, client, retry_config, settings)
        self._take(setup.core, _async_backend(setup, client))

    def _take(self, core: _Core, backend: AsyncBackend, *, borrows: bool = False) -> None:
        self._core = core
        self._borrows = borrows
        self.backend = backend
        core.meter.host = host_of(backend)
        if _profile_of(backend).think_tags is not None:
            from gpt.layers.thinking import AsyncSplit

            backend = AsyncSplit(backend)
        if core.on_event is not None:
            from gpt.layers.watch import AsyncWatched

            backend = AsyncWatched(backend, core.on_event, self.backend)
        self.chat = AsyncChat(core, backend)
        self.models = AsyncModels(core, backend)

    def with_options(self, **settings: Unpack[CopySettings]) -> AsyncGpt:
        """A copy with other settings, over the same connections, which closing the copy leaves open; see `Gpt.with_options`."""
        copy: AsyncGpt = object.__new__(type(self))
        copy._take(_copied(self._core, settings), self.backend, borrows=True)
        return copy

    def __repr__(self) -> str:
        return f"AsyncGpt(backend={self.backend!r})"

    @property
    def usage(self) -> UsageTotals:
        """What the calls of this client and of its copies took up to now, added up. A stream is in it once it has ended."""
        return self._core.meter.read()

    def cost_of(self, *answers: ChatCompletion | Answers) -> Cost | None:
        """What these answers cost together; see `Gpt.cost_of`."""
        return self._core.meter.cost_of(answers)

    @property
    def sdk_configuration(self) -> SDKConfiguration:
        """The seed's view of the client's settings."""
        from gpt.sdkconfiguration import configuration

        return configuration(self.backend)

    async def close(self) -> None:
        """Free connections, or the engine. A backend that the caller made is closed too."""
        if not self._borrows:
            await self.backend.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _async_backend(setup: _Setup, client: Any) -> AsyncBackend:
    if setup.backend is not None:
        if not isinstance(setup.backend, AsyncBackend):
            raise InvalidRequestError(
                f"backend: {type(setup.backend).__name__} has not the methods complete, stream, models, close", param="backend"
            )
        backend: Any = setup.backend
        return backend if is_awaited(backend) else in_threads(backend)
    if setup.local_url is not None:
        from gpt.local.backend import Local

        return in_threads(Local.from_url(setup.local_url))
    if setup.replay_url is not None:
        from gpt.layers.record import AsyncReplay

        return AsyncReplay.from_url(setup.replay_url)
    from gpt.remote.backend import AsyncRemoteBackend

    transport = None
    if client is not None:
        from gpt.remote.adapters import aadapt

        transport = aadapt(client)
    return AsyncRemoteBackend(setup.endpoint, transport, setup.network)


class AsyncModels:
    """`client.models`, awaited."""

    def __init__(self, core: _Core, backend: AsyncBackend) -> None:
        self._core = core
        self._backend = backend

    async def list(self, **options: Unpack[CallOptionParams]) -> ModelList:
        """The models that the server offers. Raises GptError."""
        return await self._backend.models(self._core.only_options(options))


class AsyncChat:
    """`client.chat`, awaited."""

    def __init__(self, core: _Core, backend: AsyncBackend) -> None:
        self._core = core
        self._backend = backend
        self.completions = AsyncCompletions(core, backend)
        if core.estimates is not None:
            self._learn(core.estimates)

    async def complete(self, messages: Prompt, **params: Unpack[CallParams]) -> ChatCompletion:
        """The model's answer to `messages`; see `Chat.complete`. Cancelling the task stops the work at the other end."""
        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        return self._core.counted(self._core.begin(), await self._backend.complete(request, options))

    @overload
    def stream(self, messages: Prompt, *, into: None = None, **params: Unpack[CallParams]) -> AsyncChatStream: ...

    @overload
    def stream(
        self, messages: Prompt, *, into: type[T], partial: Trust = "trusted", **params: Unpack[CallParams]
    ) -> AsyncParsedStream[T]: ...

    @overload
    def stream(
        self, messages: Prompt, *, into: Any, partial: Trust = "trusted", **params: Unpack[CallParams]
    ) -> AsyncParsedStream[Any]: ...

    def stream(
        self, messages: Prompt, *, into: Any = None, partial: Trust = "trusted", **params: Unpack[CallParams]
    ) -> AsyncChatStream | AsyncParsedStream[Any]:
        """The same answer as events while it is made; see `Chat.stream`. Not awaited: `async with`."""
        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        core, backend = self._core, self._backend
        request = _with_usage(request, backend)
        if into is None:
            _no_value(partial)
            from gpt.stream import AsyncChatStream

            return AsyncChatStream(lambda: _aopened(core, backend, request, options))
        from gpt.structured.parse import Asking
        from gpt.structured.stream import AsyncParsedStream

        asking = Asking(request, into, _profile_of(backend))
        return AsyncParsedStream(lambda asked: _aopened(core, backend, asked, options), asking, partial)

    @overload
    async def parse(self, messages: Prompt, *, into: type[T], reasks: int = 0, **params: Unpack[CallParams]) -> Parsed[T]: ...

    @overload
    async def parse(self, messages: Prompt, *, into: Any, reasks: int = 0, **params: Unpack[CallParams]) -> Parsed[Any]: ...

    async def parse(self, messages: Prompt, *, into: Any, reasks: int = 0, **params: Unpack[CallParams]) -> Parsed[Any]:
        """The model's answer as a value of the type `into`; see `Chat.parse`."""
        from gpt.flows import adrive
        from gpt.structured.parse import Asking, parsing

        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        flow = parsing(Asking(request, into, _profile_of(self._backend)), reasks)
        core, backend = self._core, self._backend

        async def reply(asked: ChatRequest) -> ChatCompletion:
            return core.counted(core.begin(), await backend.complete(asked, options))

        return await adrive(flow, reply)

    async def run_tools(self, messages: Prompt, **params: Unpack[RunParams]) -> ToolRun:
        """The conversation with the model's calls of `tools` done; see `Chat.run_tools`. Cancelling it cancels async tools."""
        from gpt.flows import adrive
        from gpt.tools.run import Run, taken

        settings = taken(params)  # type: ignore[arg-type]
        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        run = Run(request, options, _profile_of(self._backend), settings)

        async def reply(wanted: Any) -> Any:
            if isinstance(wanted, ChatRequest):
                return self._core.counted(self._core.begin(), await self._backend.complete(wanted, run.options()))
            return await run.aoutcome(wanted)

        try:
            return await adrive(run.flow, reply)
        finally:
            await run.astop()

    def stream_tools(self, messages: Prompt, **params: Unpack[RunParams]) -> AsyncToolStream:
        """The same run as events; see `Chat.stream_tools`. Not awaited: `async with`. Leaving it cancels async tools too."""
        from gpt.tools.run import taken
        from gpt.tools.stream import AsyncToolStream

        settings = taken(params)  # type: ignore[arg-type]
        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        request = _with_usage(request, self._backend, needed=settings.get("max_total_tokens") is not None)
        core, backend = self._core, self._backend
        return AsyncToolStream(
            lambda asked, how: _aopened(core, backend, asked, how), request, options, _profile_of(backend), settings
        )

    async def count_tokens(self, messages: Prompt, **params: Unpack[CallParams]) -> TokenCount:
        """How many tokens the prompt of this call takes; see `Chat.count_tokens`. What takes a while is done in a thread."""
        request, options = self._core.prepare(messages, params)  # type: ignore[arg-type]
        exactly = counter_of(self._backend)
        if exactly is not None:
            exact: TokenCount = await exactly(request, options)
            return exact
        import asyncio

        estimates = self._core.estimating(self._backend)
        counted = await asyncio.to_thread(estimates.count, request)
        if counted.kind == "estimate":
            self._learn(estimates)
        return counted

    def _learn(self, estimates: Estimates) -> None:
        """Let answers teach from now on."""
        from gpt.layers.learn import AsyncLearning

        if not isinstance(self._backend, AsyncLearning):
            self._backend = self.completions._backend = AsyncLearning(self._backend, estimates)

    async def create_chat_completion(
        self, request: ChatRequest | Mapping[str, Any], **options: Unpack[CallOptionParams]
    ) -> operations.CreateChatCompletionResponse:
        """The seed's call: a request object in, the answer in an envelope out. Raises as `Chat.complete` does."""
        return _envelope(await self.complete(_whole_request(request), **options))


class AsyncCompletions:
    """`client.chat.completions`, awaited."""

    def __init__(self, core: _Core, backend: AsyncBackend) -> None:
        self._core = core
        self._backend = backend

    @overload
    async def create(
        self,
        *,
        messages: Iterable[Message],
        stream: Literal[False] | Unset | None = UNSET,
        **params: Unpack[CreateParams],
    ) -> ChatCompletion: ...

    @overload
    async def create(
        self,
        *,
        messages: Iterable[Message],
        stream: Literal[True],
        **params: Unpack[CreateParams],
    ) -> AsyncChunkIterator: ...

    async def create(
        self,
        *,
        messages: Iterable[Message],
        stream: bool | Unset | None = UNSET,
        **params: Unpack[CreateParams],
    ) -> ChatCompletion | AsyncChunkIterator:
        """The model's answer; with `stream=True`, its raw chunks. See `Completions.create`."""
        request, options = self._core.prepare(messages, _official(params))
        if stream is True:
            from gpt.stream import AsyncChunkIterator

            started = perf_counter()
            return AsyncChunkIterator(await _aopened(self._core, self._backend, request, options), started)
        if stream is not UNSET:
            request.stream = stream
        return self._core.counted(self._core.begin(), await self._backend.complete(request, options))

    @property
    def messages(self) -> AsyncCompletionMessages:
        """The messages of stored completions."""
        return AsyncCompletionMessages(self._core, self._backend)

    def list(
        self,
        *,
        after: str | None = None,
        limit: int | None = None,
        metadata: Mapping[str, str] | None = None,
        model: str | None = None,
        order: Order | None = None,
        **options: Unpack[StoredParams],
    ) -> AsyncListing[ChatCompletion]:
        """The stored completions: awaited their first page, with `async for` those of all pages. See `Completions.list`."""
        from gpt.pages import AsyncListing
        from gpt.protocol.stored import listing

        asked = {"after": after, "limit": limit, "metadata": metadata, "model": model, "order": order}
        return AsyncListing(*_asking(self._core, self._backend, options, listing, **asked))

    async def retrieve(self, completion_id: str, **options: Unpack[StoredParams]) -> ChatCompletion:
        """The stored completion with this id; see `Completions.retrieve`."""
        from gpt.protocol.stored import retrieval

        call, ask = _asking(self._core, self._backend, options, retrieval, completion_id)
        made: ChatCompletion = await ask(call)
        return made

    async def update(
        self, completion_id: str, *, metadata: Mapping[str, str] | None, **options: Unpack[StoredParams]
    ) -> ChatCompletion:
        """The stored completion with this metadata; see `Completions.update`."""
        from gpt.protocol.stored import updating

        call, ask = _asking(self._core, self._backend, options, updating, completion_id, metadata=metadata)
        made: ChatCompletion = await ask(call)
        return made

    async def delete(self, completion_id: str, **options: Unpack[StoredParams]) -> ChatCompletionDeleted:
        """What the server says of the stored completion that it was to delete; see `Completions.delete`."""
        from gpt.protocol.stored import deletion

        call, ask = _asking(self._core, self._backend, options, deletion, completion_id)
        made: ChatCompletionDeleted = await ask(call)
        return made


class AsyncCompletionMessages:
    """`client.chat.completions.messages`, awaited."""

    def __init__(self, core: _Core, backend: AsyncBackend) -> None:
        self._core = core
        self._backend = backend

    def list(
        self,
        completion_id: str,
        *,
        after: str | None = None,
        limit: int | None = None,
        order: Order | None = None,
        **options: Unpack[StoredParams],
    ) -> AsyncListing[StoredMessage]:
        """The messages of a stored completion's request: awaited their first page, with `async for` those of all pages.

        See `CompletionMessages.list`.
        """
        from gpt.pages import AsyncListing
        from gpt.protocol.stored import messages

        return AsyncListing(
            *_asking(self._core, self._backend, options, messages, completion_id, after=after, limit=limit, order=order)
        )
