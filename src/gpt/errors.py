"""The errors.

    GptError
    ├─ InvalidRequestError            the request is wrong, seen before sending (also a ValueError)
    ├─ ResponseError                  the other end answered with a failure; the seed's SDKError
    │  ├─ BadRequestError             4xx: it refused the request
    │  │  ├─ ContextLengthError       prompt and answer do not fit the model's context
    │  │  ├─ ContentPolicyError       a filter refused the prompt
    │  │  └─ UnsupportedParameterError
    │  ├─ AuthenticationError         401
    │  ├─ PermissionDeniedError       403
    │  ├─ ModelNotFoundError          404
    │  ├─ RateLimitError              429, worth trying again later
    │  ├─ QuotaError                  429 or 402, not worth trying again: the account is used up
    │  ├─ ServerError                 5xx
    │  │  └─ OverloadedError          503, 529
    │  └─ MalformedResponseError      an answer that is no completion: HTML, other JSON, nothing
    ├─ ParseError                     an answer came, but not the value that was asked for; carries all that came
    │  ├─ LengthFinishError           it reached its limit of tokens
    │  ├─ ContentFilterFinishError    a filter cut it off
    │  └─ RefusalError                the model refused
    ├─ ToolError                      a tool failed, in a run that was asked to raise
    ├─ ReplayError                    nothing that was recorded answers this request; shows the nearest
    └─ TransportError                 no answer came
       ├─ ConnectError                name, address, refused, reset
       ├─ TLSError                    certificate or handshake
       ├─ RequestTimeoutError         (also a TimeoutError)
       └─ StreamTruncatedError        the answer broke off; carries what had arrived

`fault` says whose it is: "caller", "service" or "network". Every error pickles. The model in the box uses the same classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from gpt.protocol.limits import RateLimits
    from gpt.protocol.wire import AttemptInfo
    from gpt.types import ChatCompletion, Usage

__all__ = [
    "AuthenticationError",
    "BadRequestError",
    "ConnectError",
    "ContentFilterFinishError",
    "ContentPolicyError",
    "ContextLengthError",
    "GptError",
    "InvalidRequestError",
    "LengthFinishError",
    "MalformedResponseError",
    "ModelNotFoundError",
    "OverloadedError",
    "ParseError",
    "PermissionDeniedError",
    "QuotaError",
    "RateLimitError",
    "RefusalError",
    "ReplayError",
    "RequestTimeoutError",
    "ResponseError",
    "ServerError",
    "StreamTruncatedError",
    "TLSError",
    "ToolError",
    "TransportError",
    "UnsupportedParameterError",
]

Fault = Literal["caller", "service", "network"]

_SHOWN = 1000
"""Characters of a body that the text of an error shows; `body` keeps all of it."""


def _told(attempts: tuple[AttemptInfo, ...]) -> str:
    """What was tried, where it was tried more than once: ", 3 attempts in 1.52 s"."""
    if len(attempts) < 2:
        return ""
    return f", {len(attempts)} attempts in {sum(attempt.elapsed + attempt.waited for attempt in attempts):.2f} s"


def _rebuild(cls: type[GptError], args: tuple[Any, ...], state: dict[str, Any]) -> GptError:
    made = cls.__new__(cls, *args)
    made.args = args
    made.__dict__.update(state)
    return made


class GptError(Exception):
    """Anything that goes wrong in a call. `message` says what, where and what to try."""

    fault: ClassVar[Fault] = "caller"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.attempts: tuple[AttemptInfo, ...] = ()
        """What was tried, oldest first; empty when nothing was sent."""
        self.partial: ChatCompletion | None = None
        """The completion as far as it had come, where a stream was broken off; else None."""
        self.conversation: list[Any] | None = None
        """The messages of a run of tools up to where it failed, ready to be sent again; else None."""
        self.elsewhere: tuple[tuple[str, GptError], ...] = ()
        """What the other entries of a Fallback failed with, by name, oldest first; empty where none was asked."""

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # By state, not by calling __init__ again: subclasses take other arguments, and notes and attributes come along.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


class InvalidRequestError(GptError, ValueError):
    """The request is wrong; nothing was sent. `param` is the path of the field, such as "messages[2].content"."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ToolError(GptError):
    """A tool failed in a run that was asked to raise. `call` is the model's call; the cause is what the tool raised."""

    def __init__(self, message: str, call: Any = None) -> None:
        super().__init__(message)
        self.call = call


class ReplayError(GptError):
    """Nothing that was recorded answers this request.

    `line` is where in the recording the nearest request stands, `param` the path of the first difference, such as
    "messages[1].content"; both are None where there is nothing to compare.
    """

    def __init__(self, message: str, *, line: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.param = param


class ResponseError(GptError):
    """The other end answered with a failure.

    `status_code` is the HTTP status (for the model in the box, the one that a server would give), `body` the text of the
    answer, `raw_response` the whole answer where there was one. `code`, `type` and `param` are the server's own words.
    The text is "message: Status code", then the body on its own line, as in the seed.
    """

    fault: ClassVar[Fault] = "service"

    def __init__(
        self,
        message: str,
        status_code: int = 0,
        body: str = "",
        raw_response: Any = None,
        *,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        rate_limits: RateLimits | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.body = body
        self.raw_response = raw_response
        self.code = code
        self.type = type
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after
        """Seconds that the server asks to wait; None when it does not say."""
        self.should_retry = should_retry
        """What the server says of another try (`x-should-retry`); None when it does not."""
        self.rate_limits = rate_limits
        """What the server said of its limits; None when it did not."""

    def __str__(self) -> str:
        text = f"{self.message}: Status {self.status_code}{_told(self.attempts)}"
        if not self.body:
            return text
        more = len(self.body) - _SHOWN
        shown = self.body if more <= 0 else f"{self.body[:_SHOWN]}... ({more} more characters)"
        return f"{text}\n{shown}"


class BadRequestError(ResponseError):
    """The server refused the request."""

    fault = "caller"


class ContextLengthError(BadRequestError):
    """The prompt (with the answer asked for) does not fit. Both numbers are tokens; None where the server did not say."""

    def __init__(self, *args: Any, requested: int | None = None, limit: int | None = None, **details: Any) -> None:
        super().__init__(*args, **details)
        self.requested = requested
        self.limit = limit


class ContentPolicyError(BadRequestError):
    """A filter refused the prompt."""


class UnsupportedParameterError(BadRequestError):
    """The server or the model does not take the parameter named by `param`."""


class AuthenticationError(ResponseError):
    """The key is missing or not accepted."""

    fault = "caller"


class PermissionDeniedError(ResponseError):
    """The key does not allow this."""

    fault = "caller"


class ModelNotFoundError(ResponseError):
    """There is no such model, or no such file."""

    fault = "caller"


class RateLimitError(ResponseError):
    """Too many requests or tokens for now; `retry_after` says when to come back, where the server does."""


class QuotaError(ResponseError):
    """The account is used up; waiting does not help."""

    fault = "caller"


class ServerError(ResponseError):
    """The server failed."""


class OverloadedError(ServerError):
    """The server has too much to do."""


class MalformedResponseError(ResponseError):
    """The answer is not what the protocol says: HTML, other JSON, an empty body. `body` keeps it."""


class TransportError(GptError):
    """No answer came, or not all of it.

    `phase` is where it went wrong: "pool" (no connection was free), "resolve", "connect", "proxy", "tls", "write",
    "first_byte", "first_token" (a stream had begun, but no content had come), "read", or "deadline". `sent` tells whether the
    request may have reached the server, and so may have been charged; `permanent` whether another try would end the same way.
    """

    fault: ClassVar[Fault] = "network"
    permanent: bool = False

    def __init__(self, message: str, *, phase: str = "", sent: bool = False) -> None:
        super().__init__(message)
        self.phase = phase
        self.sent = sent
        self.elapsed = 0.0
        """Seconds that the attempt took before it failed; 0.0 where nobody measured."""

    def __str__(self) -> str:
        took = f", {self.elapsed:.2f} s" if self.elapsed else ""
        return f"{self.message} ({self.phase}{took}{_told(self.attempts)})"


class ConnectError(TransportError):
    """The connection could not be made, or broke."""


class TLSError(TransportError):
    """The certificate is not trusted, or the handshake failed."""

    permanent = True


class RequestTimeoutError(TransportError, TimeoutError):
    """One of the clocks ran out; `phase` names it."""


class StreamTruncatedError(TransportError):
    """The answer broke off; `partial` is the completion as far as it came."""

    def __init__(
        self,
        message: str,
        *,
        partial: ChatCompletion | None = None,
        phase: str = "read",
        sent: bool = True,
    ) -> None:
        super().__init__(message, phase=phase, sent=sent)
        self.partial = partial


class ParseError(GptError):
    """An answer came, but it is not the value that was asked for.

    `completion` is the answer, `text` its text, `partial_value` as much of the value as can be read, as plain JSON values; None
    where there is nothing. `completions` are the answers of all attempts, `usage` their tokens together.
    """

    fault = "service"

    def __init__(
        self,
        message: str,
        *,
        completion: ChatCompletion,
        attempts_made: tuple[ChatCompletion, ...] = (),
        text: str = "",
        partial_value: Any = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.completion = completion
        self.completions = attempts_made or (completion,)
        self.text = text
        self.partial_value = partial_value
        self.usage = usage


class LengthFinishError(ParseError):
    """The answer reached its limit of tokens before the value was whole."""


class ContentFilterFinishError(ParseError):
    """A filter cut the answer off before the value was whole."""


class RefusalError(ParseError):
    """The model refused; `completion.message.refusal` has its words."""
