"""Exchanges as lines of JSON, and back: what a recording holds, and how it is answered from. `docs/record.md` has the format.

The first line names the format. Each further line is one call: the request as it was sent, what came of it, and when. No key is
in it: of the header fields only those in `HEADERS` are written down, of the options of a call nothing, and what a request
carries outside its messages under a name that speaks of a secret is "...".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import msgspec

from gpt import errors
from gpt.errors import ContextLengthError, GptError, InvalidRequestError, ReplayError, ResponseError, TransportError
from gpt.protocol import codec
from gpt.protocol.canonical import Difference, canonical, common, differences, key
from gpt.protocol.chunks import fold, whole
from gpt.protocol.limits import PREFIXES, rate_limits
from gpt.protocol.profiles import Profile
from gpt.protocol.wire import AttemptInfo, Headers, ResponseInfo, Seconds, is_secret
from gpt.protocol.wire import _shown as shown_query
from gpt.types import ChatCompletion, ChatCompletionChunk, ModelList

VERSION = 1

HEADER = msgspec.json.encode({"format": "gpt-record", "version": VERSION}) + b"\n"
"""The first line."""

HEADERS = frozenset({
    "apim-request-id", "content-type", "date", "openai-processing-ms", "retry-after", "retry-after-ms", "x-request-id",
    "x-should-retry",
})  # fmt: skip
"""Header fields of an answer that are written down, beside those that tell of limits."""

Call = Literal["complete", "stream", "models"]


class Failure(msgspec.Struct, omit_defaults=True):
    """What is written down of an error: its class, and what it carries."""

    type: str
    message: str
    status_code: int = 0
    body: str = ""
    code: str | None = None
    kind: str | None = None
    """The server's own `type`."""
    param: str | None = None
    request_id: str | None = None
    retry_after: Seconds | None = None
    should_retry: bool | None = None
    requested: int | None = None
    limit: int | None = None
    phase: str = ""
    sent: bool = False
    elapsed: Seconds = 0.0
    headers: dict[str, str] = {}
    attempts: list[AttemptInfo] = []

    def error(self) -> GptError:
        """The same error, not raised."""
        cls: type[Any] = getattr(errors, self.type)
        made: GptError
        if issubclass(cls, ResponseError):
            numbers = {"requested": self.requested, "limit": self.limit} if issubclass(cls, ContextLengthError) else {}
            made = cls(
                self.message,
                self.status_code,
                self.body,
                code=self.code,
                type=self.kind,
                param=self.param,
                request_id=self.request_id,
                retry_after=self.retry_after,
                should_retry=self.should_retry,
                rate_limits=rate_limits(Headers(self.headers.items())),
                **numbers,
            )
        elif issubclass(cls, TransportError):
            made = cls(self.message, phase=self.phase, sent=self.sent)
            made.elapsed = self.elapsed
        elif issubclass(cls, InvalidRequestError):
            made = cls(self.message, param=self.param)
        else:
            made = cls(self.message)
        made.attempts = tuple(self.attempts)
        return made


_REPLAYED = (ResponseError, TransportError, InvalidRequestError)


def failure(error: GptError) -> Failure:
    """What is written down of `error`. One of a class that is not the library's own goes by the nearest that is."""
    kind = next(cls for cls in type(error).__mro__ if getattr(errors, cls.__name__, None) is cls)
    if not issubclass(kind, _REPLAYED):
        kind = GptError
    fields = ("message", "status_code", "body", "code", "param", "request_id", "retry_after", "should_retry", "requested",
              "limit", "phase", "sent", "elapsed")  # fmt: skip
    given = {name: value for name in fields if (value := getattr(error, name, None)) is not None}
    headers = getattr(getattr(error, "raw_response", None), "headers", None)
    return Failure(
        kind.__name__, kind=getattr(error, "type", None), headers=kept(headers), attempts=list(error.attempts), **given
    )


_LEFT_OUT = frozenset({"headers", "raw"})


def facts(info: ResponseInfo | None) -> dict[str, Any] | None:
    """What is written down of `info`: what is not as usual, less the whole answer and most header fields."""
    if info is None:
        return None
    usual = ResponseInfo()
    told = {name: getattr(info, name) for name in info.__struct_fields__ if name not in _LEFT_OUT}
    made = {name: _rounded(msgspec.to_builtins(value)) for name, value in told.items() if value != getattr(usual, name)}
    headers = kept(info.headers)
    return {**made, "headers": headers} if headers else made


def _headers(_: Any, value: Any) -> Any:
    return Headers(value.items())


def told(profile: Profile | None) -> dict[str, Any]:
    """What is written down of a profile: that in which it differs from that of a server which nobody knows."""
    usual = msgspec.to_builtins(Profile())
    return {name: value for name, value in msgspec.to_builtins(profile or Profile()).items() if value != usual[name]}


def kept(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The header fields that are written down."""
    return {name: value for name, value in (headers or {}).items() if name in HEADERS or name.startswith(PREFIXES)}


_NO_SECRETS = frozenset({"messages", "prompt_cache_key"})
"""Fields whose names, and the names in which, say nothing of secrets: a signature of thinking is none."""


def without_secrets(request: Mapping[str, Any], found: list[str] | None = None) -> dict[str, Any]:
    """The request, plain values, with "..." for the texts whose names speak of a secret: in what the protocol does not know, in
    tools of other kinds, in metadata; and in the queries of addresses in messages.

    Those texts are put into `found`, less those in metadata, where a key may be any word.
    """
    made = {}
    for name, value in request.items():
        kept = None if name == "metadata" else found
        made[name] = _hidden(name, value, kept, by_name=name not in _NO_SECRETS)
    return made


def _hidden(name: str, value: Any, found: list[str] | None, *, by_name: bool) -> Any:
    if isinstance(value, dict):
        return {inner: _hidden(inner, item, found, by_name=by_name) for inner, item in value.items()}
    if isinstance(value, list):
        return [_hidden(name, item, found, by_name=by_name) for item in value]
    if not isinstance(value, str):
        return value
    if by_name and is_secret(name):
        if found is not None:
            found.append(value.rpartition(" ")[2])
        return "..."
    if name.endswith("url") and value.startswith("http"):
        address, mark, query = value.partition("?")
        return f"{address}{mark}{shown_query(query)}"
    return value


def scrubbed(line: bytes, secrets: Iterable[str]) -> bytes:
    """A line with "..." in place of the secrets that are known; those of fewer than 8 characters would be found in any text."""
    for secret in secrets:
        if len(secret) >= 8:
            line = line.replace(msgspec.json.encode(secret)[1:-1], b"...")
    return line


# --------------------------------------------------------------------------------------------------------------------
# Lines
# --------------------------------------------------------------------------------------------------------------------

_NOTHING = msgspec.Raw()


class Exchange(msgspec.Struct, kw_only=True):
    """One line. It has an `answer`, `chunks` with the seconds at which each came, an `error`, or the last two."""

    call: Call
    server: str = ""
    profile: dict[str, Any] = {}
    """What the server is known to do otherwise than others, which requests are made by."""
    request: dict[str, Any] = {}
    answer: msgspec.Raw = _NOTHING
    chunks: list[tuple[Seconds, msgspec.Raw]] | None = None
    error: Failure | None = None
    left: bool = False
    """The caller left before the end."""
    elapsed: Seconds = 0.0
    """From the start of the call to its end."""
    info: dict[str, Any] | None = None

    def line(self, secrets: Iterable[str] = ()) -> bytes:
        """The line, its end included."""
        document: dict[str, Any] = {"call": self.call, "server": self.server}
        if self.profile:
            document["profile"] = self.profile
        found: list[str] = []
        if self.call != "models":
            document["request"] = without_secrets(self.request, found)
        if bytes(self.answer):
            document["answer"] = self.answer
        if self.chunks is not None:
            document["chunks"] = [(_rounded(at), chunk) for at, chunk in self.chunks]
        if self.error is not None:
            document["error"] = _rounded(msgspec.to_builtins(self.error))
        if self.left:
            document["left"] = True
        document["elapsed"] = _rounded(self.elapsed)
        if self.info is not None:
            document["info"] = self.info
        return scrubbed(msgspec.json.encode(document), [*secrets, *found]) + b"\n"

    def completion(self) -> ChatCompletion:
        """The whole answer, with its facts, whichever way it came."""
        info = self.facts()
        if self.chunks is None:
            return codec.decode_completion(bytes(self.answer), info)
        made = fold(chunk for _, chunk in self.timed())
        if info is not None:
            codec.with_info(made, info)
        return made

    def timed(self) -> list[tuple[Seconds, ChatCompletionChunk]]:
        """The chunks, and when each came; of a whole answer one."""
        if self.chunks is None:
            return [(self.elapsed, whole(codec.decode_completion(bytes(self.answer))))]
        return [(at, codec.decode_chunk(bytes(chunk))) for at, chunk in self.chunks]

    def models(self) -> ModelList:
        """The list of models."""
        return codec.decode_models(bytes(self.answer), self.facts())

    def facts(self) -> ResponseInfo | None:
        """The facts of the exchange, as far as they were written down."""
        return None if self.info is None else msgspec.convert(self.info, ResponseInfo, dec_hook=_headers)


def _rounded(value: Any) -> Any:
    """The value with its seconds to the microsecond."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def raw(body: bytes) -> msgspec.Raw:
    """A body as a part of a line: as it came, but on one line."""
    return msgspec.Raw(msgspec.json.format(body, indent=-1) if b"\n" in body or b"\r" in body else body)


class _Head(msgspec.Struct):
    format: str = ""
    version: int = 0


_lines = msgspec.json.Decoder(Exchange)
_heads = msgspec.json.Decoder(_Head)


def is_line(line: bytes) -> bool:
    """Whether `line` is whole."""
    try:
        _lines.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def check_head(line: bytes, where: str) -> None:
    """Raise InvalidRequestError if `line` does not begin a recording of this version; `where` names the file."""
    try:
        head = _heads.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        head = _Head()
    if head.format != "gpt-record":
        raise InvalidRequestError(f"{where}: is no recording: its first line is not {HEADER.decode().strip()}", param="path")
    if head.version != VERSION:
        raise InvalidRequestError(
            f"{where}: is a recording of version {head.version}, and this release of gpt knows version {VERSION}", param="path"
        )


def read(data: bytes, where: str) -> list[tuple[int, Exchange]]:
    """The exchanges in a recording, with the numbers of their lines. What is left of a last line that was not written whole is
    passed over; so are empty lines. Raises InvalidRequestError for what is no recording; `where` names it.
    """
    first, *rest = data.split(b"\n")
    check_head(first, where)
    found = []
    for number, line in enumerate(rest, 2):
        if not line.strip():
            continue
        try:
            found.append((number, _checked(_lines.decode(line))))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if number == len(rest) + 1 and not isinstance(error, msgspec.ValidationError):
                break  # no line end came after it: whoever wrote it was stopped
            raise InvalidRequestError(f"{where}, line {number}: {error}; mend it or take it out", param="path") from error
    return found


def _checked(exchange: Exchange) -> Exchange:
    """The exchange, if it has what its call needs. Raises msgspec.ValidationError."""
    error = exchange.error
    if error is not None and not _is_error(getattr(errors, error.type, None)):
        raise msgspec.ValidationError(f"there is no error {error.type!r}")
    msgspec.convert(exchange.profile, Profile)
    exchange.facts()
    if exchange.chunks is None and error is None and not bytes(exchange.answer) and not exchange.left:
        raise msgspec.ValidationError("it has neither answer nor chunks nor error")
    return exchange


def _is_error(kind: Any) -> bool:
    return isinstance(kind, type) and (kind is GptError or issubclass(kind, _REPLAYED))


# --------------------------------------------------------------------------------------------------------------------
# Answering from them
# --------------------------------------------------------------------------------------------------------------------


class _Recorded(NamedTuple):
    form: dict[str, Any]
    takes: list[tuple[int, Exchange]]


class Tape:
    """Exchanges, each to be used once, in their order. Not safe for threads."""

    def __init__(self, exchanges: Iterable[tuple[int, Exchange]], where: str, *, strict: bool) -> None:
        self._where = where
        self._strict = strict
        self._recorded: dict[bytes, _Recorded] = {}
        self._used: dict[bytes, int] = {}
        self._models: list[tuple[int, Exchange]] = []
        self.left = 0
        """Exchanges that have not been used."""
        self.profile = Profile()
        """That of the server which was asked first."""
        for number, exchange in exchanges:
            if not self.left:
                self.profile = msgspec.convert(exchange.profile, Profile)
            self.left += 1
            if exchange.call == "models":
                self._models.append((number, exchange))
                continue
            form = canonical(without_secrets(exchange.request))
            self._recorded.setdefault(key(form, ""), _Recorded(form, [])).takes.append((number, exchange))

    def take(self, request: Mapping[str, Any]) -> Exchange:
        """The next exchange with this request, plain values. Raises ReplayError where there is none."""
        form = canonical(without_secrets(request))
        name = key(form, "")
        recorded = self._recorded.get(name)
        if recorded is None:
            raise self._unknown(form)
        return self._next(name, recorded.takes, "this request")

    def take_models(self) -> Exchange:
        """The next list of models. Raises ReplayError where there is none."""
        if not self._models:
            raise ReplayError(f"{self._where}: no list of models was recorded")
        return self._next(b"", self._models, "the list of models")

    def _next(self, name: bytes, takes: list[tuple[int, Exchange]], what: str) -> Exchange:
        used = self._used.get(name, 0)
        if used < len(takes):
            self.left -= 1
        elif self._strict:
            numbers = ", ".join(str(number) for number, _ in takes)
            lines = f"line {numbers}" if len(takes) == 1 else f"lines {numbers}"
            raise ReplayError(
                f"{self._where}: {what} was recorded {len(takes)} times ({lines}) and is asked for once more; record it again, "
                "or with strict=False the last answer repeats",
                line=takes[-1][0],
            )
        self._used[name] = used + 1
        return takes[min(used, len(takes) - 1)][1]

    def _unknown(self, form: dict[str, Any]) -> ReplayError:
        """The error for a request that was not recorded. It shows the nearest that was: the one with the fewest differences, of
        those the one whose first differing text is alike for longest, of those the first.
        """
        if not self._recorded:
            return ReplayError(f"{self._where}: this request was not recorded; nothing was")
        found = [(list(differences(one.form, form)), one.takes[0][0]) for one in self._recorded.values()]
        nearest, line = min(found, key=lambda pair: (len(pair[0]), -_alike(pair[0][0]), pair[1]))
        first, *others = nearest
        more = f", and {len(others)} more" if others else ""
        return ReplayError(
            f"{self._where}: this request was not recorded; the nearest is line {line}, which differs at {first}{more}; record "
            "it again if the program has changed",
            line=line,
            param=first.path,
        )


def _alike(difference: Difference) -> int:
    recorded, asked = difference.recorded, difference.asked
    return common(recorded, asked) if isinstance(recorded, str) and isinstance(asked, str) else 0


# --------------------------------------------------------------------------------------------------------------------
# Chunks cut anew
# --------------------------------------------------------------------------------------------------------------------

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
_OF_ALL = ("id", "object", "created", "model")


def recut(chunk: ChatCompletionChunk, size: int, draw: Callable[[int], int] | None = None) -> list[ChatCompletionChunk]:
    """The chunk in pieces, whose texts have at most `size` characters each, and which add up to the same.

    Each piece but the last has `size` characters, or as many as `draw(size)` says, which gives 1 to `size`. Texts are content,
    thinking, refusals and the arguments of calls; but not arguments that are a whole object, which may repeat what came before.
    What is no text comes with the last piece.
    """
    document = chunk.to_dict()
    # The index as the decoder has it: some servers leave it out.
    choices = [
        {**choice, "index": read.index} for choice, read in zip(document.get("choices") or (), chunk.choices, strict=True)
    ]
    longest = max((len(text) for choice in choices for text in _texts(choice)), default=0)
    cuts = [0]
    while cuts[-1] < longest:
        cuts.append(cuts[-1] + (size if draw is None else draw(size)))
    if len(cuts) <= 2 or not _apart(choices):
        return [chunk]
    facts = {name: document[name] for name in _OF_ALL if name in document}
    pieces = [
        {**facts, "choices": [_piece(choice, slice(begin, end)) for choice in choices]} for begin, end in pairwise(cuts[:-1])
    ]
    last = slice(cuts[-2], None)
    pieces.append({**document, "choices": [{**choice, **_piece(choice, last, whole=True)} for choice in choices]})
    return [codec.decode_chunk(msgspec.json.encode(piece)) for piece in pieces]


def _apart(choices: list[dict[str, Any]]) -> bool:
    """Whether each choice, and each piece of a call, is told from the others by more than its place in the chunk."""
    names = [(choice["index"], None) for choice in choices]
    for choice in choices:
        calls = _calls(choice)
        if len(calls) > 1:
            named = [call.get("id") if call.get("index") is None else call["index"] for call in calls]
            if None in named:
                return False
            names += [(choice["index"], name) for name in named]
    return len(names) == len(set(names))


def _calls(choice: dict[str, Any]) -> list[dict[str, Any]]:
    calls = (choice.get("delta") or {}).get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _texts(choice: dict[str, Any]) -> Iterator[str]:
    delta = choice.get("delta") or {}
    yield from (delta[name] for name in _TEXTS if isinstance(delta.get(name), str))
    yield from (text for call in _calls(choice) if (text := _arguments(call)) is not None)


def _arguments(call: dict[str, Any]) -> str | None:
    """The arguments of a piece of a call that may be cut."""
    function = call.get("function")
    text = function.get("arguments") if isinstance(function, dict) else None
    return text if isinstance(text, str) and not (text[:1] == "{" and text[-1:] == "}") else None


def _piece(choice: dict[str, Any], part: slice, *, whole: bool = False) -> dict[str, Any]:
    """A choice with a part of its texts; with `whole` also with all that is no text."""
    delta = choice.get("delta") or {}
    made = dict(delta) if whole else {"role": delta["role"]} if delta.get("role") else {}
    for name in _TEXTS:
        if isinstance(delta.get(name), str):
            made[name] = delta[name][part]
    calls = []
    for call in _calls(choice):
        text = _arguments(call)
        if text is not None:
            call = {**call, "function": {**call["function"], "arguments": text[part]}}
            if not whole:
                call = {name: call[name] for name in ("index", "id", "type", "function") if name in call}
        if text is not None or whole:
            calls.append(call)
    if calls:
        made["tool_calls"] = calls
    return {"index": choice["index"], "delta": made}
