"""The remote service as a Backend, blocking and on asyncio.

`Endpoint` knows where the server is and what goes along with each request; it is shared by both. "Hosted" means exactly the
service's own origin, by https. The environment's key goes only there, or to the server that the environment itself names.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec

from gpt.backend import DEFAULT_OPTIONS, CallOptions
from gpt.errors import InvalidRequestError
from gpt.protocol import flow
from gpt.protocol.codec import encode_request
from gpt.protocol.profiles import HOSTED as HOSTED_ORIGIN
from gpt.protocol.profiles import Profile, azure_path
from gpt.protocol.retry import Budget, Retry
from gpt.protocol.servers import profile_named, profile_of
from gpt.protocol.wire import AsyncTransport, HttpRequest, Origin, Timeout, Transport
from gpt.remote.drive import arun, run
from gpt.types import UNSET, ChatCompletion, ChatRequest, ModelList
from gpt.version import __version__

if TYPE_CHECKING:
    from gpt.protocol.adapt import Note
    from gpt.protocol.stored import Answer, StoredCall
    from gpt.remote.http.connect import Network
    from gpt.remote.stream import AsyncStream, Stream

T = TypeVar("T")
Way = TypeVar("Way")

HOSTED = "https://api.openai.com/v1"
"""The hosted service, as the seed's `SERVERS` has it."""

COMPLETIONS = "/chat/completions"

Key: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]]


_beginning = threading.Lock()
"""Held while a client makes its transport, so that threads that begin together share one."""


def _named() -> Iterator[str]:
    """Names for calls: a random one for the process, and a number. Safe to be taken from by several threads."""
    return map(f"{os.urandom(16).hex()}-{{}}".format, count())


_names = _named()


def _rename() -> None:
    global _names  # noqa: PLW0603 - one for the process
    _names = _named()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_rename)


def _draw() -> float:
    import random  # at the first failure, not before

    return random.random()  # noqa: S311 - jitter, not a secret


class Endpoint(msgspec.Struct, frozen=True):
    """Where the server is, and what goes along with each request. Keys and headers do not show in repr."""

    origin: Origin
    path: str
    query: str = ""
    api_key: Key = ""
    """A function that gives the key of each request; a key that is a string is in `headers` already."""
    headers: tuple[tuple[str, str], ...] = ()
    timeout: Timeout = Timeout()
    retry: Retry = Retry()
    authorized: bool = False
    """Whether `headers` has the key."""
    completions: str = ""
    """The target of the most frequent request, made once."""
    profile: Profile = Profile()
    """What is known of the server."""
    names_calls: bool = True
    """Whether each POST gets an Idempotency-Key of its own; not where the caller's headers bring one."""
    by_model: bool = False
    """Whether each model is asked at a path of its own (Azure's deployments)."""
    adapt: bool = False
    """Whether a parameter that the server refuses is fixed, and the call made again."""

    def __repr__(self) -> str:
        return f"Endpoint({str(self.origin) + self.path!r})"

    def request(self, method: str, path: str, body: bytes, options: CallOptions, key: str) -> HttpRequest:
        """The request for `path` below the base URL. Raises InvalidRequestError where a key is needed and there is none."""
        headers = self.headers
        authorized = self.authorized
        if key:
            headers = (*headers, ("authorization", key))
            authorized = True
        named = self.names_calls and method == "POST"
        if options.headers:
            given = {name.lower(): value for name, value in options.headers.items()}
            headers = (*((name, value) for name, value in headers if name not in given), *given.items())
            named = named and "idempotency-key" not in given
            authorized = authorized or "authorization" in given
        if not authorized and self.origin == HOSTED_ORIGIN:
            raise InvalidRequestError(
                "no API key for the hosted service: set OPENAI_API_KEY or pass api_key=; or answer without a key, by the "
                'model in the box with server_url="local:" or by a server of your own with server_url="http://..."',
                param="api_key",
            )
        target = self.completions if path == COMPLETIONS else self._target(path, self.query)
        if options.query:
            from urllib.parse import urlencode

            target = self._target(path, "&".join(part for part in (self.query, urlencode(dict(options.query))) if part))
        # The same on every attempt, so that a server that knows it answers, and charges, once.
        own = (("idempotency-key", next(_names)),) if named else ()
        timeout = options.timeout or self.timeout
        return HttpRequest(method, self.origin, target, headers, body, timeout, options.deadline, own)

    def _target(self, path: str, query: str) -> str:
        return f"{self.path}{path}?{query}" if query else self.path + path

    def at_model(self, asked: HttpRequest, model: object) -> HttpRequest:
        """The request for completions at the path of this model."""
        from urllib.parse import quote

        below = asked.target[len(self.path) :]
        return msgspec.structs.replace(asked, target=f"{self.path}/deployments/{quote(str(model), safe='')}{below}")


def checked_model(request: ChatRequest, endpoint: Endpoint) -> ChatRequest:
    """`request`, if it says what the hosted service needs: there is no default model there. Raises InvalidRequestError."""
    if request.model is UNSET and endpoint.origin == HOSTED_ORIGIN:
        raise InvalidRequestError(
            "model: missing; the hosted service has no default: pass model= to the call, or to the client for all its calls",
            param="model",
        )
    return request


def parse_url(url: str) -> tuple[Origin, str, str]:
    """The origin, the path without a trailing "/" and the query of a base URL. Raises InvalidRequestError."""

    def refused(why: str) -> InvalidRequestError:
        return InvalidRequestError(
            f'server_url: {why}; it looks like "http://127.0.0.1:8080/v1", or "local:" for the model in the box',
            param="server_url",
        )

    scheme, found, rest = url.strip().partition("://")
    if not found or scheme not in ("http", "https"):
        raise refused(f"{url!r} does not begin with http:// or https://")
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    if "@" in authority:
        raise refused("a URL must not carry a password; pass api_key= or headers=")
    if fragment or any(mark in rest + query for mark in " \t\r\n"):
        raise refused(f"{url!r} has a fragment or a space")
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = authority.partition(":")
    if not host or not (port.isdigit() or not port):
        raise refused(f"{url!r} names no host, or a port that is no number")
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError as error:
            raise refused(f"{host!r} is no host name") from error
    number = int(port) if port else 443 if scheme == "https" else 80
    if number > 65535:
        raise refused(f"{number} is no port")
    return Origin(scheme, host.lower(), number), f"/{path}".rstrip("/"), query


def endpoint(
    server_url: str | None = None,
    api_key: Key | None = None,
    *,
    organization: str | None = None,
    project: str | None = None,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    timeout: Timeout | float | None = None,
    retry: Retry | None = None,
    profile: Profile | str | None = None,
    adapt: bool | None = None,
) -> Endpoint:
    """The Endpoint for these arguments and the environment (OPENAI_BASE_URL, OPENAI_API_KEY, OPENAI_ORG_ID,
    OPENAI_PROJECT_ID). Raises InvalidRequestError.
    """
    named = os.environ.get("OPENAI_BASE_URL", "").strip() or HOSTED
    origin, path, own_query = parse_url(server_url or named)
    if api_key is None and (
        origin == HOSTED_ORIGIN or (not named.startswith(("local:", "replay:")) and origin == parse_url(named)[0])
    ):
        api_key = os.environ.get("OPENAI_API_KEY", "").strip()
        organization = organization or os.environ.get("OPENAI_ORG_ID")
        project = project or os.environ.get("OPENAI_PROJECT_ID")
    known = profile_of(origin) if profile is None else profile_named(profile) if isinstance(profile, str) else profile
    if not isinstance(known, Profile):
        raise InvalidRequestError(
            f"profile: expected a Profile or the name of one, got {type(known).__name__}", param="profile"
        )
    sent = {"accept": "application/json", "content-type": "application/json", "user-agent": f"gpt-in-the-box/{__version__}"}
    if organization:
        sent["openai-organization"] = organization
    if project:
        sent["openai-project"] = project
    if isinstance(api_key, str) and api_key:
        name, value = credential(api_key, known.key_header)
        sent[name] = value
        api_key = ""
    sent |= {name.lower(): value for name, value in (headers or {}).items()}
    if query:
        from urllib.parse import urlencode

        own_query = "&".join(part for part in (own_query, urlencode(dict(query))) if part)
    by_model = False
    if known.paths == "azure":
        path, by_model = azure_path(path, own_query)
    return Endpoint(
        origin,
        path,
        own_query,
        api_key or "",
        tuple(sent.items()),
        Timeout() if timeout is None else Timeout.of(timeout),
        retry or Retry(),
        "authorization" in sent,
        f"{path}{COMPLETIONS}?{own_query}" if own_query else path + COMPLETIONS,
        known,
        "idempotency-key" not in sent,
        by_model,
        bool(adapt),
    )


def credential(key: str, header: str) -> tuple[str, str]:
    """The header that a key goes out in, and its value. One that begins with "Bearer " is a token, and says how it goes."""
    value = bearer(key)
    return ("authorization", value) if header == "authorization" or value == key else (header, key)


def bearer(key: object) -> str:
    """The Authorization value for a key; one that already begins with "bearer " is sent unchanged, as in the seed."""
    if not isinstance(key, str):
        raise InvalidRequestError(
            f"api_key: expected a string or a function that gives one, got {type(key).__name__}", param="api_key"
        )
    if not key:
        return ""
    if not key.isascii() or not key.isprintable():
        # The transport would refuse it too, but its error would show the key.
        raise InvalidRequestError("api_key: it has a line break or another character that no key has", param="api_key")
    return key if key[:7].lower() == "bearer " else f"Bearer {key}"


class _Calls(Protocol):
    """How the flow of a call is begun."""

    def __call__(
        self, remote: Any, asked: HttpRequest, read: flow.Read[T], options: CallOptions, request: ChatRequest, /
    ) -> flow.Flow[T]: ...


def _encode_fitted(endpoint: Endpoint, thinking: dict[str, Any], request: ChatRequest) -> bytes:
    """The request as this server takes it, encoded."""
    from gpt.protocol.fit import fitted

    if endpoint.by_model and not isinstance(request.model, str):
        raise InvalidRequestError(
            "model: missing; it is the deployment's name: pass model= to the call or the client, or name the deployment in the "
            "base URL: .../openai/deployments/NAME",
            param="model",
        )
    return encode_request(fitted(request, endpoint.profile), **thinking)


class _Remote(Generic[Way]):
    """What both backends are made of: where the server is, the way out to it, and the budget for retries."""

    def __init__(self, endpoint: Endpoint, transport: Way | None = None, network: Network | None = None) -> None:
        self.endpoint = endpoint
        self._transport = transport
        self._network = network
        self._closed = False
        # How thinking goes back to this server: the arguments of `encode_request`.
        self._thinking: dict[str, Any] = {"echoes": endpoint.profile.echoes, "tags": endpoint.profile.think_tags}
        # Settled once, so that a call whose request is not changed for its server costs nothing more. No methods of this very
        # object, whose cycle would keep a client that is dropped from closing itself.
        self._encode: Callable[[ChatRequest], bytes] = partial(encode_request, **self._thinking)
        self._call: _Calls = _Remote._flow
        known = endpoint.profile
        if endpoint.by_model or known.renames or known.roles or known.ignores:
            self._encode = partial(_encode_fitted, endpoint, self._thinking)
        if endpoint.by_model or endpoint.adapt:
            from gpt.protocol.adapt import Adaptations

            self._call = _Remote._changed
            self._adaptations = Adaptations()
        self._chances = flow.Chances(endpoint.retry, Budget(lock=threading.Lock()), perf_counter, _draw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.endpoint!r})"

    @property
    def transport(self) -> Way:
        """The way out, made at the first use: a client that is only made opens and loads nothing."""
        return self._transport or self._begin()

    def _begin(self) -> Way:
        with _beginning:
            if self._closed:
                raise InvalidRequestError("the client is closed; make a new one")
            if self._transport is None:
                self._transport = self._make()
            return self._transport

    def _make(self) -> Way:
        raise NotImplementedError

    def _changed(self, asked: HttpRequest, read: flow.Read[T], options: CallOptions, request: ChatRequest) -> flow.Flow[T]:
        """The flow of a call whose request is changed for the model, or for what the server says of it."""
        if self.endpoint.by_model:
            asked = self.endpoint.at_model(asked, request.model)
        if not self.endpoint.adapt:
            return self._flow(asked, read, options)
        from gpt.protocol.adapt import adapting

        def ask(changed: HttpRequest, left: float | None, note: Note) -> flow.Flow[T]:
            if changed.body is not asked.body and asked.own_headers:
                # Another request than the one that a server may remember by this name.
                changed = msgspec.structs.replace(changed, own_headers=(("idempotency-key", next(_names)),))
            return self._flow(
                changed,
                lambda response, sent, info: read(response, sent, note(info)),
                msgspec.structs.replace(options, deadline=left),
            )

        return adapting(asked, request.model, self._adaptations, ask, self._chances.clock, options.retrying)

    def _flow(self, asked: HttpRequest, read: flow.Read[T], options: CallOptions, _: ChatRequest | None = None) -> flow.Flow[T]:
        """The flow of a call."""
        chances = self._chances
        if options.retry is not None:
            chances = msgspec.structs.replace(chances, retry=options.retry)
        return flow.call(asked, read, chances, options.deadline, options.retrying)

    def _stored(self, call: StoredCall[Answer], options: CallOptions, key: str) -> flow.Flow[Answer]:
        """The flow of a call about stored completions. Not at the path of a model, where Azure has none."""
        from gpt.protocol.stored import reader, telling

        if call.query:
            options = msgspec.structs.replace(options, query={**(options.query or {}), **call.query})
        asked = self.endpoint.request(call.method, COMPLETIONS + call.path, call.body, options, key)
        return telling(call, self._flow(asked, reader(call), options))

    @property
    def profile(self) -> Profile:
        """What is known of the server."""
        return self.endpoint.profile


# --------------------------------------------------------------------------------------------------------------------
# Blocking
# --------------------------------------------------------------------------------------------------------------------


class RemoteBackend(_Remote[Transport]):
    """Answers by a server that speaks the protocol."""

    def _make(self) -> Transport:
        from gpt.remote.http.blocking import HttpTransport

        return HttpTransport(self._network)

    def _called_key(self) -> str:
        given: Any = self.endpoint.api_key()  # type: ignore[operator]
        if hasattr(given, "__await__"):
            if hasattr(given, "close"):
                given.close()  # else Python warns that nobody awaited it
            raise InvalidRequestError("api_key: an async function belongs to AsyncGpt", param="api_key")
        return bearer(given)

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        body = self._encode(checked_model(request, self.endpoint))
        key = self._called_key() if self.endpoint.api_key else ""
        asked = self.endpoint.request("POST", COMPLETIONS, body, options, key)
        return run(self._call(self, asked, flow.completion, options, request), self.transport, options.cancel)

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        key = self._called_key() if self.endpoint.api_key else ""
        asked = self.endpoint.request("GET", "/models", b"", options, key)
        return run(self._flow(asked, flow.models, options), self.transport, options.cancel)

    def stored(self, call: StoredCall[Answer], options: CallOptions = DEFAULT_OPTIONS) -> Answer:
        """What `call` asks of the completions that the server has stored."""
        key = self._called_key() if self.endpoint.api_key else ""
        return run(self._stored(call, options, key), self.transport, options.cancel)

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> Stream:
        request = msgspec.structs.replace(checked_model(request, self.endpoint), stream=True)
        body = self._encode(request)
        key = self._called_key() if self.endpoint.api_key else ""
        asked = self.endpoint.request("POST", COMPLETIONS, body, options, key)
        from gpt.remote.stream import Opening

        opening = Opening(self.transport, self.endpoint.profile)
        return run(self._call(self, asked, opening.read, options, request), opening, options.cancel)

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()


# --------------------------------------------------------------------------------------------------------------------
# On asyncio
# --------------------------------------------------------------------------------------------------------------------


class AsyncRemoteBackend(_Remote[AsyncTransport]):
    """Answers by a server that speaks the protocol, on asyncio."""

    def _make(self) -> AsyncTransport:
        from gpt.remote.http.aio import AsyncHttpTransport

        return AsyncHttpTransport(self._network)

    async def _called_key(self) -> str:
        given: Any = self.endpoint.api_key()  # type: ignore[operator]
        return bearer(await given if hasattr(given, "__await__") else given)

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        body = self._encode(checked_model(request, self.endpoint))
        key = await self._called_key() if self.endpoint.api_key else ""
        asked = self.endpoint.request("POST", COMPLETIONS, body, options, key)
        return await arun(self._call(self, asked, flow.completion, options, request), self.transport)

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        key = await self._called_key() if self.endpoint.api_key else ""
        asked = self.endpoint.request("GET", "/models", b"", options, key)
        return await arun(self._flow(asked, flow.models, options), self.transport)

    async def stored(self, call: StoredCall[Answer], options: CallOptions = DEFAULT_OPTIONS) -> Answer:
        """What `call` asks of the completions that the server has stored."""
        key = await self._called_key() if self.endpoint.api_key else ""
        return await arun(self._stored(call, options, key), self.transport)

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncStream:
        request = msgspec.structs.replace(checked_model(request, self.endpoint), stream=True)
        body = self._encode(request)
        key = await self._called_key() if self.endpoint.api_key else ""
        asked = self.endpoint.request("POST", COMPLETIONS, body, options, key)
        from gpt.remote.stream import AsyncOpening

        opening = AsyncOpening(self.transport, self.endpoint.profile)
        return await arun(self._call(self, asked, opening.read, options, request), opening)

    async def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            await self._transport.close()
