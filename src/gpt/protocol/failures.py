"""Which error an answer is: a failure by status, or a success that is none.

The status decides first. Within a status, and for failures that hide behind status 200, the server's own words decide:
`code` and `type` where it gives them, else the wording of the message. The wordings are data, one row each with the
servers that use it; the first row that fits wins.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import msgspec

from gpt.errors import (
    AuthenticationError,
    BadRequestError,
    ContentPolicyError,
    ContextLengthError,
    MalformedResponseError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    QuotaError,
    RateLimitError,
    ResponseError,
    ServerError,
    UnsupportedParameterError,
)
from gpt.protocol.limits import rate_limits
from gpt.protocol.wire import Headers, HttpRequest, HttpResponse, Origin, is_secret

_BY_STATUS: dict[int, type[ResponseError]] = {
    401: AuthenticationError,
    402: QuotaError,
    403: PermissionDeniedError,
    404: BadRequestError,
    407: PermissionDeniedError,
    429: RateLimitError,
    503: OverloadedError,
    529: OverloadedError,
}


class Wording(NamedTuple):
    """Answers of these statuses whose code, type or message match are `error`. An empty tuple means any status."""

    error: type[ResponseError]
    statuses: tuple[int, ...]
    pattern: str
    """A regular expression, compiled when there is a failure to look at."""
    source: str
    """The servers that say so, and where one was seen to: a thread (owner/repository#number) or a page."""


_ERROR_CODES = "the hosted service's guide to error codes"

WORDINGS: tuple[Wording, ...] = (
    Wording(
        QuotaError, (429, 403, 402, 200), r"insufficient_quota|exceeded your current quota", "hosted, Azure: openai-python#1671"
    ),
    Wording(
        QuotaError,
        (402, 429, 200),
        r"insufficient.(credits|balance)|requires more credits",
        "OpenRouter: continue#10298, open-assistant#80",
    ),
    Wording(
        QuotaError,
        (400, 403, 429),
        r"budget_exceeded|ExceededBudget|budget has been exceeded|crossed budget",
        "LiteLLM: BerriAI/litellm#14144",
    ),
    Wording(ContextLengthError, (), r"context_length_exceeded", f"hosted, Azure: {_ERROR_CODES}; rahul2002m/ChatPDF#6"),
    Wording(
        ContextLengthError,
        (),
        r"exceed_context_size|exceeds? the available context size|context size has been exceeded|exceed n_ctx",
        "llama.cpp: ggml-org/llama.cpp#15780, ggml-org/llama.cpp#19774, gpustack#1845",
    ),
    Wording(ContextLengthError, (), r"maximum context length", "vLLM, DeepSeek: vllm-project/vllm#20409, fast-agent#621"),
    Wording(ContextLengthError, (400,), r"max_tokens must be at least 1, got -", "vLLM: vllm-project/vllm#4667"),
    Wording(ContextLengthError, (), r"exceed context window of", "llama-cpp-python: CASALIOY#14"),
    Wording(ContextLengthError, (), r"ContextWindowExceeded|prompt is too long", "LiteLLM: its exception mapping"),
    Wording(
        ContentPolicyError,
        (),
        r"content_policy_violation|content_filter|ResponsibleAIPolicy|ContentPolicyViolation",
        "hosted, Azure, LiteLLM: Azure's page on content filtering",
    ),
    Wording(UnsupportedParameterError, (404,), r"no endpoints found that support", "OpenRouter: lastmile-ai/mcp-agent#237"),
    Wording(
        ModelNotFoundError,
        (400, 404, 200),
        r"model_not_found|DeploymentNotFound",
        f"hosted: {_ERROR_CODES}; Azure: chatboxai/chatbox#861",
    ),
    Wording(
        ModelNotFoundError,
        (400, 404, 200),
        r"the model .* does not exist|model .* not found",
        "vLLM: openai/api_server; Ollama: ollama/ollama#3876",
    ),
    Wording(
        ModelNotFoundError,
        (400, 404, 200),
        r"not a valid model id|no endpoints found",
        "OpenRouter: anthropic-proxy#4, free-claude-code#166",
    ),
    Wording(
        UnsupportedParameterError,
        (400, 422),
        r"unsupported_(parameter|value)|unsupported parameter|unsupported value",
        "hosted, Azure: openai-python#2046",
    ),
    Wording(
        UnsupportedParameterError,
        (400, 422),
        r"unrecognized request argument|unknown[ _]parameter",
        "hosted: openai-python#433; Azure: one-api#1423, agno-agi/agno#1066",
    ),
    Wording(
        UnsupportedParameterError,
        (400, 422),
        r"UnsupportedParamsError|extra inputs are not permitted",
        "LiteLLM, TGI: their exception mappings",
    ),
    Wording(UnsupportedParameterError, (400, 422), r"property '\w+' is unsupported", "Groq: fanenr/chatbot#21"),
    Wording(
        UnsupportedParameterError,
        (400, 422),
        r"unknown variant `(developer|system)`|\b(developer|system)'? is not one of \[",
        "DeepSeek: num-scope/pix#34; Alibaba: next-ai-draw-io#304; gateways: cloudflare/cloudflare-os#36",
    ),
    Wording(AuthenticationError, (400, 200), r"invalid_api_key|invalid api key", f"hosted: {_ERROR_CODES}; gateways"),
    Wording(
        OverloadedError,
        (),
        r"overloaded|server busy|server is busy|loading model",
        f"hosted: {_ERROR_CODES}; Ollama: ollama/ollama#15934; llama.cpp: its server's README",
    ),
    Wording(RateLimitError, (200,), r"rate_limit_exceeded|rate limit", "OpenRouter: its page on errors"),
    Wording(OverloadedError, (200,), r"^stopping server_error", "gpt serve: server/app.py, in a stream"),
    Wording(ServerError, (200,), r"(^| )server_error\b", f"hosted, in a stream: {_ERROR_CODES}"),
)

_CONTEXT_NUMBERS = (
    # vLLM and the hosted service: "maximum context length is 4096 tokens. However, you requested 5000 tokens"
    r"maximum context length is (?P<limit>\d+) tokens.*?(?:requested|resulted in|contains) (?:about )?(?P<requested>\d+)",
    # llama.cpp: "request (5000 tokens) exceeds the available context size (4096 tokens)"
    r"request \((?P<requested>\d+) tokens\) exceeds the available context size \((?P<limit>\d+) tokens\)",
    # llama-cpp-python: "Requested tokens (2285) exceed context window of 2048"
    r"requested tokens \((?P<requested>\d+)\) exceed context window of (?P<limit>\d+)",
)

_PARAMS = (
    # hosted, Azure: "Unsupported value: 'temperature' does not support 0 with this model", "Unknown parameter: 'store'"
    r"(?:unsupported (?:parameter|value)|unknown parameter): ['`\"](?P<param>[^'`\"]+)",
    # hosted, older: "Unrecognized request argument supplied: stream_options"
    r"unrecognized request arguments? supplied: (?P<param>\w+)",
    # Groq: "property 'store' is unsupported, did you mean 'stop'?"
    r"property '(?P<param>\w+)' is unsupported",
    # LiteLLM: "openai does not support parameters: ['temperature'], for model=...", "don't support temperature=0.2"
    r"does(?: not|n't) support parameters: [\[{]+['\"](?P<param>\w+)",
    r"don't support (?P<param>\w+)=",
    # Mistral: {"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"], ...}; vLLM, older, the same as a tuple
    r"extra_forbidden['\"], ?['\"]loc['\"]: ?[\[(]['\"]body['\"], ?['\"](?P<param>\w+)['\"][,\])]",
    # "messages[0].role: unknown variant `developer`", "'developer' is not one of ['system', ...] - 'messages.[0].role'"
    r"(?P<param>messages[.\[\]'\d]*\.role)\b",
)
"""Where servers that do not give `param` name it in their words."""


def failure(response: HttpResponse, request: HttpRequest) -> ResponseError:
    """The error that an answered failure is, not raised.

    Covers every status but 200, and the body of a 200 that is an error in disguise.
    """
    response = _without_key(response, request)
    words = _server_words(response.body)
    kind = _kind(response.status, words)
    hint = _hint(response, request, kind)
    text = words.message or f"{request.origin} answered with an error"
    message = f"{text} ({request.method} {request.url}, {response.elapsed:.2f} s)" + (f"; {hint}" if hint else "")
    return _error(kind, words, message, response)


def _without_key(response: HttpResponse, request: HttpRequest) -> HttpResponse:
    """The answer less the keys that the request carried, which some servers repeat when they refuse them."""
    body = response.body
    for name, value in request.headers:
        key = value.rpartition(" ")[2].encode("latin-1", "replace")
        if len(key) >= 8 and is_secret(name):  # shorter ones are no secrets, and would be found in any text
            body = body.replace(key, b"...")
    return response if body is response.body else msgspec.structs.replace(response, body=body)


def engine_failure(status: int, body: bytes, where: str) -> ResponseError:
    """The error in a body that came from no server but from the engine in this process; `where` names the model."""
    words = _server_words(body)
    return _error(_kind(status, words), words, f"{words.message} ({where})", HttpResponse(status, Headers(), body))


def _error(kind: type[ResponseError], words: ServerWords, message: str, response: HttpResponse) -> ResponseError:
    details: dict[str, Any] = {
        "code": words.code,
        "type": words.type,
        "param": words.param,
        "request_id": response.headers.get("x-request-id") or response.headers.get("apim-request-id"),
        "retry_after": retry_after(response.headers),
        "should_retry": {"true": True, "false": False}.get(response.headers.get("x-should-retry", "").lower()),
        "rate_limits": rate_limits(response.headers),
    }
    if issubclass(kind, ContextLengthError):
        details |= _context_numbers(words)
    if issubclass(kind, UnsupportedParameterError) and not words.param:
        details["param"] = _param_in(words.message)
    return kind(message, response.status, response.text, response, **details)


def malformed(response: HttpResponse, request: HttpRequest, reason: str, wanted: str = "chat completion") -> ResponseError:
    """The error that a 200 is without what was `wanted`: the one it disguises, else MalformedResponseError."""
    if _server_words(response.body).is_error:
        return failure(response, request)
    response = _without_key(response, request)
    start = response.body[:200].decode("utf-8", "replace").strip()
    content_type = response.headers.get("content-type", "no content type")
    hint = _hint(response, request, MalformedResponseError)
    return MalformedResponseError(
        f"{request.origin} sent no {wanted}: {reason} ({request.method} {request.url}, {content_type}"
        f", begins {start!r})" + (f"; {hint}" if hint else ""),
        response.status,
        response.text,
        response,
        request_id=response.headers.get("x-request-id"),
    )


def is_error(body: bytes) -> bool:
    """Whether a body is an error in one of the known spellings, whatever its status."""
    return _server_words(body).is_error


def _kind(status: int, words: ServerWords) -> type[ResponseError]:
    said = " ".join(part for part in (words.code, words.type, words.message) if part)
    if status == 200 and words.code is not None and words.code.isdigit() and 400 <= int(words.code) < 600:
        status = int(words.code)  # OpenRouter: the status of the upstream, in a body that comes with 200
    for row in WORDINGS:
        if (not row.statuses or status in row.statuses) and re.search(row.pattern, said, re.IGNORECASE):
            return row.error
    if status == 404 and words.param == "model":
        return ModelNotFoundError
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return ServerError
    return BadRequestError if status >= 400 else MalformedResponseError if status < 300 else ResponseError


def _hint(response: HttpResponse, request: HttpRequest, kind: type[ResponseError]) -> str:
    """What to try; "" when the server's words say enough."""
    html = response.headers.get("content-type", "").startswith("text/html") or response.body.lstrip()[:1] == b"<"
    path = request.target.partition("?")[0]
    if (html or (response.status == 404 and kind is BadRequestError)) and "/v1/" not in path:
        return f"the base URL probably needs /v1: {request.origin}/v1"
    if response.status in (404, 405) and kind is BadRequestError and _is_of_stored(request.method, path):
        return "completions are stored where `store=True` was sent, and not every server stores any"
    if html or (response.status == 404 and kind is BadRequestError):
        return "is this the address of a chat-completions server?"
    if kind is AuthenticationError and not any(name.lower() in ("authorization", "api-key") for name, _ in request.headers):
        return "no key was sent: set OPENAI_API_KEY or pass api_key="
    if response.status == 407:
        return "it is the proxy that answered; name a user of it: http://user:password@host:port"
    if 300 <= response.status < 400:
        return f"its redirect to {response.headers.get('location', 'nowhere')!r} was not followed; if that is right, name it"
    return ""


def _is_of_stored(method: str, path: str) -> bool:
    """Whether a request is for stored completions, and not for a new one."""
    return "/chat/completions/" in path or (method == "GET" and path.endswith("/chat/completions"))


# --------------------------------------------------------------------------------------------------------------------
# Redirects
# --------------------------------------------------------------------------------------------------------------------

_FOLLOWS = frozenset({"accept", "content-type", "user-agent"})
"""Headers that go along to another origin. Keys, cookies and what the caller added stay with the origin they were meant for."""


def redirected(response: HttpResponse, request: HttpRequest) -> HttpRequest | None:
    """The request that a redirect asks for; None when it is not to be followed.

    Not followed: from https to http; what would turn a POST into a GET (301, 302, 303; RFC 9110, section 15.4); an address that
    is none, or carries a password.
    """
    from urllib.parse import urljoin, urlsplit

    if request.method != "GET" and response.status not in (307, 308):
        return None
    try:
        # Header fields are read as Latin-1; anything but ASCII in an address should have been percent-encoded.
        whole = urljoin(f"{request.origin}{request.target}", response.headers["location"].encode("ascii").decode())
        parts = urlsplit(whole)
        origin = Origin(parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme])
    except (KeyError, ValueError):
        return None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not origin.host or parts.username is not None or not target.isprintable() or " " in target:
        return None
    if request.origin.scheme == "https" and origin.scheme != "https":
        return None
    headers = request.headers
    if origin != request.origin:
        headers = tuple((name, value) for name, value in headers if name in _FOLLOWS)
    return msgspec.structs.replace(request, origin=origin, target=target, headers=headers)


class ServerWords(NamedTuple):
    """What a server says of its failure, as far as it does."""

    message: str = ""
    code: str | None = None
    type: str | None = None
    param: str | None = None
    is_error: bool = False
    raw: dict[str, Any] | None = None


def _server_words(body: bytes) -> ServerWords:
    """The words in an error body, in the spellings met in the wild.

    `{"error": {...}}` is the standard; `{"error": "text"}` Ollama's; a bare `{"object": "error", "message": ...}` older
    vLLM's; `{"detail": ...}` FastAPI's; `{"message": ...}` gateways'; `error` in a choice OpenRouter's.
    """
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ServerWords()
    if isinstance(document, list) and document and isinstance(document[0], dict):
        document = document[0]
    if not isinstance(document, dict):
        return ServerWords()
    error = document.get("error")
    if isinstance(error, str) and error:
        return ServerWords(error, is_error=True, raw=document)
    if isinstance(error, dict):
        return _from_object(error)
    if document.get("object") == "error":
        return _from_object(document)
    choices = document.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and isinstance(choice.get("error"), dict):
            return _from_object(choice["error"])
    for name in ("detail", "message"):
        said = document.get(name)
        if said:
            return ServerWords(said if isinstance(said, str) else msgspec.json.encode(said).decode(), raw=document)
    return ServerWords(raw=document)


def _from_object(error: dict[str, Any]) -> ServerWords:
    def text(name: str) -> str | None:
        value = error.get(name)
        return None if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()

    return ServerWords(text("message") or "", text("code"), text("type"), text("param"), True, error)


def said(body: str) -> str:
    """What the body of an error says in words; "" where it says nothing in a known spelling."""
    return _server_words(body.encode("utf-8", "replace")).message


def _param_in(message: str) -> str | None:
    """The parameter that a server's words name, where they do."""
    found = (re.search(pattern, message, re.IGNORECASE) for pattern in _PARAMS)
    return next((match["param"] for match in found if match), None)


def _context_numbers(words: ServerWords) -> dict[str, int | None]:
    raw = words.raw or {}
    numbers = {"requested": raw.get("n_prompt_tokens"), "limit": raw.get("n_ctx")}  # llama.cpp gives them as fields
    if all(isinstance(number, int) for number in numbers.values()):
        return numbers
    for pattern in _CONTEXT_NUMBERS:
        if found := re.search(pattern, words.message, re.IGNORECASE):
            return {name: int(number) for name, number in found.groupdict().items()}
    return {}


# --------------------------------------------------------------------------------------------------------------------
# Retry-After
# --------------------------------------------------------------------------------------------------------------------


def retry_after(headers: Headers) -> float | None:
    """Seconds that the server asks to wait, never negative; None when it does not say or not in a known form.

    Three spellings: `retry-after-ms` (hosted service), `retry-after` in seconds, and as a date (RFC 9110, 10.2.3). A date is
    taken against the answer's own `date`, so that the two clocks need not agree.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    from email.utils import parsedate_to_datetime  # heavy, and dates are rare

    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):  # no date, or one with a time zone and one without
        return None
    return max(0.0, wait.total_seconds())


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None
