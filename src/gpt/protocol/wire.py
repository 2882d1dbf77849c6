"""HTTP as values: what the protocol asks the transport to send, and what it gets back.

Nothing here waits, and nothing here knows a socket. Header names are lower case on both ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from gpt.protocol.limits import RateLimits

Seconds = float


class Timeout(msgspec.Struct, frozen=True, gc=False):
    """The clocks of one attempt, in seconds; None means no limit.

    `connect` covers name, connection, proxy and TLS together, `write` sending the request, `first_byte` the wait for the
    first byte of the answer (and before that for a free connection, where all are in use), `idle` each silence after it. Of a
    streamed answer they limit the wait for its first content and each wait for more: comments, pings and chunks without content
    do not count, nor does time in which nobody waits. A plain number where a Timeout is expected sets all but `connect`. The
    defaults: connect and first_byte are those of the official package.
    """

    connect: Seconds | None = 5.0
    write: Seconds | None = 30.0
    first_byte: Seconds | None = 600.0
    idle: Seconds | None = 120.0

    @classmethod
    def of(cls, value: Timeout | Seconds | None) -> Timeout:
        """`value` as a Timeout: a number sets all but `connect`, None lifts all limits."""
        if isinstance(value, Timeout):
            return value
        if value is None:
            return cls(connect=None, write=None, first_byte=None, idle=None)
        return cls(write=float(value), first_byte=float(value), idle=float(value))


class Origin(NamedTuple):
    """Where a server is: "http" or "https", a host name or address (IPv6 without brackets), a port."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as a URL and a Host field write them: without the scheme's own port, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}.get(self.scheme) else f"{host}:{self.port}"


class HttpRequest(msgspec.Struct, frozen=True, gc=False):
    """A request: `target` is path and query. `headers` go out as given, after Host and before Content-Length.

    The transport adds Host and, when there is a body or the method is POST, Content-Length; no other header. Neither headers
    nor body show in repr.
    """

    method: str
    origin: Origin
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    timeout: Timeout = Timeout()
    deadline: Seconds | None = None
    """For the whole exchange, its body included, however it is spread; None means no limit."""
    own_headers: tuple[tuple[str, str], ...] = ()
    """Headers of this request alone, after `headers`, which a client sends again and again."""

    @property
    def url(self) -> str:
        """The URL as it may be shown: values of the query that may be secrets are left out."""
        path, mark, query = self.target.partition("?")
        return f"{self.origin}{path}{mark}{_shown(query) if query else ''}"

    def __repr__(self) -> str:
        return f"HttpRequest({self.method!r}, {self.url!r}, {len(self.body)} bytes)"


_SECRET = ("auth", "key", "password", "secret", "sig", "token")


def is_secret(name: str) -> bool:
    """Whether the name of a header or of a parameter speaks of a secret."""
    name = name.lower()
    return any(word in name for word in _SECRET)


def _shown(query: str) -> str:
    """A query without the values of those parameters whose names speak of a secret."""
    shown = []
    for part in query.split("&"):
        name, mark, _ = part.partition("=")
        shown.append(f"{name}=..." if mark and is_secret(name) else part)
    return "&".join(shown)


class Headers(Mapping[str, str]):
    """The header fields of an answer. Names match in any case; repeated fields are joined by ", " (RFC 9110, 5.3).

    Made of pairs, or of the lines of a head as they came, which are then read when a field is first asked for.
    """

    __slots__ = ("_fields", "_lines")

    def __init__(self, items: Iterable[tuple[str, str]] = (), lines: bytes = b"") -> None:
        self._lines = lines
        self._fields: dict[str, str] | None = None if lines else _joined(items)

    def _read(self) -> dict[str, str]:
        if self._fields is None:
            lines = self._lines.decode("latin-1").split("\r\n")
            self._fields = _joined((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        return self._fields

    def mentions(self, part: str) -> bool:
        """Whether a name may have this in it, in lower case: a quick look, which does not read the lines yet."""
        if self._fields is None:
            return part.encode("latin-1") in self._lines.lower()
        return any(part in name for name in self._fields)

    def __getitem__(self, name: str) -> str:
        return self._read()[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return f"Headers({self._read()!r})"


def _joined(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in items:
        name = name.lower()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


class HttpResponse(msgspec.Struct, frozen=True, gc=False):
    """A whole answer. `body` is decoded from its content encoding. `elapsed` and `first_byte` are seconds since the start."""

    status: int
    headers: Headers
    body: bytes = b""
    elapsed: Seconds = 0.0
    first_byte: Seconds = 0.0

    @property
    def status_code(self) -> int:
        """The status, by the name that `requests` gives it."""
        return self.status

    @property
    def content(self) -> bytes:
        """The body, by the name that `requests` gives it."""
        return self.body

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 become U+FFFD."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body read as JSON. Raises msgspec.DecodeError (a ValueError) when it is none."""
        return msgspec.json.decode(self.body)

    def __repr__(self) -> str:
        return f"HttpResponse({self.status}, {len(self.body)} bytes)"


class HttpStream(Protocol):
    """An answer whose body is still coming. `close` ends the exchange at once; after the last byte it costs nothing.

    The first_byte clock runs on until `news` is called, from then on the idle clock, begun anew by each call. They count only
    the time in which `read` waits.
    """

    status: int
    headers: Headers

    def read(self) -> bytes:
        """The next piece of the body, decoded; b"" at its end. Raises TransportError."""
        ...

    def news(self) -> None:
        """What was read last was worth waiting for."""
        ...

    def finish(self) -> None:
        """Nothing more is wanted: keep the connection if the body ends within a moment, else close it. Raises nothing."""
        ...

    def close(self) -> None: ...


class AsyncHttpStream(Protocol):
    """HttpStream for asyncio."""

    status: int
    headers: Headers

    async def read(self) -> bytes: ...

    def news(self) -> None: ...

    async def finish(self) -> None: ...

    async def close(self) -> None: ...


class Transport(Protocol):
    """The way out. Raises TransportError and nothing else for what goes wrong on the network."""

    def send(self, request: HttpRequest) -> HttpResponse:
        """Send, and read the whole answer."""
        ...

    def open(self, request: HttpRequest) -> HttpStream:
        """Send, and read the head of the answer."""
        ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """Transport for asyncio; cancelling the task closes the connection at once."""

    async def send(self, request: HttpRequest) -> HttpResponse: ...

    async def open(self, request: HttpRequest) -> AsyncHttpStream: ...

    async def close(self) -> None: ...


class AttemptInfo(msgspec.Struct, frozen=True, gc=False):
    """One attempt of a call: what came of it, after how long, and how long the wait before it was."""

    status: int | None
    """The HTTP status; None when no answer came."""
    reason: str
    """"ok", the error in a line, or "redirected to" and where to."""
    elapsed: Seconds
    waited: Seconds = 0.0

    @property
    def failed(self) -> bool:
        """Whether it ended with an error. One that was redirected did not."""
        return self.reason != "ok" and not self.reason.startswith(REDIRECTED)


REDIRECTED = "redirected to "
"""How the reason of an attempt begins that led elsewhere."""


class EntryInfo(msgspec.Struct, frozen=True, gc=False):
    """What came of one entry of a Fallback: its name, "ok" or the error in a line, and after how long."""

    entry: str
    reason: str
    elapsed: Seconds = 0.0
    """0.0 for one that was left out because it had failed shortly before."""
    host: str | None = None
    """Who it is to prices: a server's host, or "local:" for the model in this process; None where that is not known."""


Ended = Literal["complete", "unmarked", "truncated"]
"""How a stream ended: with the marker `[DONE]`; without it, but with its finish reasons; with neither."""


class ResponseInfo(msgspec.Struct, frozen=True, gc=False):
    """The facts of the exchange that made a value. For the model in the box, `status` is 200 and `headers` are empty."""

    status: int = 200
    headers: Headers = msgspec.field(default_factory=Headers)
    elapsed: Seconds = 0.0
    """From the start of the call to its last byte, attempts and waits together."""
    first_byte: Seconds | None = None
    """From the start of the last attempt to the first byte of its answer."""
    first_token: Seconds | None = None
    """Time to first token: from the start of the last attempt to the first content; None when the answer came whole."""
    attempts: tuple[AttemptInfo, ...] = ()
    completion_tokens: int | None = None
    """Tokens that the answer took, where it came in pieces."""
    raw: HttpResponse | None = None
    """The whole HTTP answer, where there was one."""
    ended: Ended | None = None
    """How the stream ended; None for an answer that came whole, and before the end."""
    adapted: tuple[str, ...] = ()
    """What was changed of the request because the model does not take it, as "temperature dropped" (`adapt=True`)."""
    entries: tuple[EntryInfo, ...] = ()
    """What came of each entry of a Fallback, in the order in which they were asked; the last one answered."""
    waited: Seconds = 0.0
    """For its turn, where calls are kept to limits; part of `elapsed`."""
    cached: bool = False
    """The answer was kept from an earlier call (`gpt.Cache`): its usage is that call's, and was not used again."""
    stored: bool = False
    """The completion was made by an earlier call, and stored by the server; the times are of this call, which asked for it."""

    @property
    def request_id(self) -> str | None:
        """The server's name for this exchange: `x-request-id`, or Azure's `apim-request-id`."""
        return self.headers.get("x-request-id") or self.headers.get("apim-request-id")

    @property
    def rate_limits(self) -> RateLimits | None:
        """What the server said of its limits on requests and tokens; None when it did not."""
        from gpt.protocol.limits import rate_limits

        return rate_limits(self.headers)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of the answer a second: of a stream from its first to its last, of an answer that came whole over its whole
        attempt, the reading of the prompt included. None where the server did not count, or a stream had fewer than two, and of
        an answer from a cache or a stored completion.
        """
        if self.cached or self.stored:
            return None
        counted = self.completion_tokens or _counted(self.raw)
        if counted is None:
            return None
        before = sum(attempt.elapsed + attempt.waited for attempt in self.attempts)
        if self.attempts:
            before -= self.attempts[-1].elapsed
        seconds = self.elapsed - self.waited - before - (self.first_token or 0.0)
        tokens = counted if self.first_token is None else counted - 1
        return tokens / seconds if tokens > 0 and seconds > 0 else None


class _Counted(msgspec.Struct):
    completion_tokens: int | None = None


class _Usage(msgspec.Struct):
    usage: _Counted | None = None


def _counted(raw: HttpResponse | None) -> int | None:
    """The tokens that an answer says it took."""
    try:
        usage = msgspec.json.decode(raw.body, type=_Usage).usage if raw is not None else None
    except msgspec.DecodeError:
        return None
    return usage.completion_tokens if usage is not None else None
