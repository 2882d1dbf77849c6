"""What a server is asked, and what came of it, as values. Nothing that came is mended here."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import cached_property
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from gpt.protocol import sse
from gpt.protocol.wire import Headers

T = TypeVar("T")

COMPLETIONS = "/chat/completions"
PROMPT = "Write two sentences about rivers."
SHORT = 16
"""Tokens of the answers that are compared with each other: enough to differ, few enough to be cheap."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request. `path` is below the base URL, or below the server's root; `leave` leaves an answer after its first event."""

    method: str = "POST"
    path: str = COMPLETIONS
    body: bytes = b""
    content_type: str = "application/json"
    key: Literal["own", "none", "wrong"] = "own"
    leave: bool = False
    at_root: bool = False


class Answer:
    """What came. `status` is 0 where no answer did, and `failure` why; with both, it broke off after the head."""

    def __init__(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", failure: str = "") -> None:
        self.status = status
        self.headers: Mapping[str, str] = Headers((headers or {}).items())
        self.body = body
        self.failure = failure

    @cached_property
    def document(self) -> Any:
        """The body as JSON; None where it is none."""
        return read(self.body)

    @cached_property
    def text(self) -> str:
        """The first choice's content; "" where there is none."""
        found = self.at("choices", 0, "message", "content")
        return found if isinstance(found, str) else ""

    @property
    def finish(self) -> Any:
        """The first choice's reason for its end."""
        return self.at("choices", 0, "finish_reason")

    @property
    def tokens(self) -> int | None:
        """Tokens of the answer, as the server counted; None where it did not."""
        return number(self.at("usage", "completion_tokens"))

    @property
    def calls(self) -> list[Any]:
        """The first choice's calls of tools."""
        found = self.at("choices", 0, "message", "tool_calls")
        return found if isinstance(found, list) else []

    @property
    def is_completion(self) -> bool:
        """Whether it is an answer with choices, in whatever shape."""
        return self.status == 200 and bool(self.at("choices", 0))

    @cached_property
    def events(self) -> list[sse.Event]:
        """The events of a streamed body, lines among them that are none but say something."""
        return sse.Decoder(strays=True).feed(self.body)

    @cached_property
    def ignored(self) -> tuple[str, ...]:
        """Parameters that the answer says it ignored."""
        from urllib.parse import unquote

        named = self.headers.get("x-ignored-params", "")
        return tuple(unquote(name.strip()) for name in named.split(",") if name.strip())

    def at(self, *path: str | int) -> Any:
        """What stands there in the body; None where nothing does."""
        return at(self.document, *path)


def read(data: bytes) -> Any:
    """`data` as JSON; None where it is none."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def at(value: Any, *path: str | int) -> Any:
    """What stands there in a value of dicts and lists; None where nothing does."""
    for step in path:
        if isinstance(step, str) and isinstance(value, dict):
            value = value.get(step)
        elif isinstance(step, int) and isinstance(value, list) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def number(value: Any) -> int | None:
    """`value` if it is an integer."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


Steps: TypeAlias = Generator[Ask, Answer, T]
"""A probe: yields what to ask, is sent what came, and returns what it found."""


class Facts(msgspec.Struct, kw_only=True):
    """What the probes know of the server, found out before them."""

    model: str | None = None
    models: tuple[str, ...] = ()
    keyed: bool = False
    """Whether a key is sent."""
    limit: str = "max_tokens"
    """The name under which it takes a limit of tokens."""
    samples: bool = True
    """Whether it takes a temperature and a seed."""
    plain: Any = None
    """The Answer to a plain request; None where there was none."""
    steady: bool = False
    """Whether the same request at temperature 0 was answered the same twice."""
    context: int | None = None
    """Tokens that a call may have, where the list of models tells."""

    def fields(self, **over: Any) -> dict[str, Any]:
        """The fields of a short request whose answer repeats; `over` takes their place, and None leaves one out."""
        made: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": PROMPT}], self.limit: SHORT}
        if self.samples:
            made |= {"temperature": 0, "seed": 1}
        if "max_tokens" in over and over["max_tokens"] is not None and self.limit != "max_tokens":
            over[self.limit] = over.pop("max_tokens")
        return {name: value for name, value in (made | over).items() if value is not None}

    def chat(self, **over: Any) -> Ask:
        """That request."""
        return Ask(body=msgspec.json.encode(self.fields(**over)))


def said(text: str) -> list[dict[str, str]]:
    """The messages of a request that says this."""
    return [{"role": "user", "content": text}]
