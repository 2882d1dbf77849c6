"""Which answer an error is: its status, and the protocol's error object. Pure.

What a caller did wrong is said in full. What went wrong behind the server is said without what is none of the caller's
business: no address, no path, no key and no trace; the log has those, under the same request id. The statuses, types and codes
are the hosted service's where it has one for the case (its page "Error codes", and answers quoted in `protocol/failures.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec

from gpt.errors import (
    AuthenticationError,
    BadRequestError,
    ContentPolicyError,
    ContextLengthError,
    GptError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    QuotaError,
    RateLimitError,
    ReplayError,
    RequestTimeoutError,
    ResponseError,
    TransportError,
    UnsupportedParameterError,
)
from gpt.protocol.failures import said

INVALID = "invalid_request_error"
FAILED = "server_error"


class Refused(Exception):  # noqa: N818 - it is an answer, on its way out
    """An answer that is an error. `headers` go along with it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The protocol's error object as JSON."""
        return msgspec.json.encode(
            {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}
        )


def not_found(what: str, *, param: str | None = None, code: str | None = "not_found") -> Refused:
    """404 for something that is not there, or belongs to somebody else: which of the two is not said."""
    return Refused(404, what, param=param, code=code)


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says when to come back: whole seconds, at least 1. Source: RFC 9110, section 10.2.3."""
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def refused(error: BaseException) -> Refused:
    """The answer that an error is. What is no GptError is "internal error"."""
    if isinstance(error, Refused):
        return error
    match error:
        case InvalidRequestError():
            return Refused(400, error.message, param=error.param, code=_code(error.message))
        case ContextLengthError():
            # Said anew where both numbers are known, so that any client finds them in the hosted service's own words.
            text = said(error.body) or error.message
            if error.limit is not None and error.requested is not None:
                text = (
                    f"This model's maximum context length is {error.limit} tokens. However, your messages resulted in "
                    f"{error.requested} tokens. Please reduce the length of the messages."
                )
            return Refused(400, text, param="messages", code="context_length_exceeded")
        case UnsupportedParameterError():
            return Refused(400, _words(error), param=error.param, code=error.code or "unsupported_parameter")
        case ModelNotFoundError():
            return Refused(404, _words(error), param="model", code="model_not_found")
        case ContentPolicyError() | BadRequestError():
            status = error.status_code if 400 <= error.status_code < 500 else 400
            code = error.code or ("content_policy_violation" if isinstance(error, ContentPolicyError) else None)
            return Refused(status, _words(error), param=error.param, code=code)
        case AuthenticationError() | PermissionDeniedError():
            # The caller's own key was right: it is the server's that was not.
            text = "the service behind this server did not accept the server's own key; the operator has to mend that"
            return Refused(502, text, type=FAILED, code="upstream_refused")
        case QuotaError():
            text = "the account of this server at the service behind it is used up"
            return Refused(429, text, type="insufficient_quota", code="insufficient_quota")
        case RateLimitError():
            wait = retry_after(error.retry_after) if error.retry_after is not None else {}
            text = "the service behind this server takes no more requests for now; try again later"
            return Refused(429, text, type="rate_limit_error", code="rate_limit_exceeded", headers=wait)
        case OverloadedError():
            wait = retry_after(error.retry_after or 1)
            return Refused(
                503, "the model has too much to do for now; try again later", type=FAILED, code="overloaded", headers=wait
            )
        case ReplayError():
            return Refused(404, error.message, param=error.param, code="not_recorded")
        case ResponseError():
            return Refused(502 if _remote(error) else 500, "the model failed; try again", type=FAILED, code="model_failed")
        case RequestTimeoutError():
            return Refused(504, "the service behind this server did not answer in time", type=FAILED, code="upstream_timeout")
        case TransportError():
            return Refused(502, "the service behind this server could not be reached", type=FAILED, code="upstream_unreachable")
        case GptError():
            return Refused(500, "the model could not answer", type=FAILED, code="internal_error")
        case _:
            return Refused(500, "internal error", type=FAILED, code="internal_error")


def _remote(error: ResponseError) -> bool:
    """Whether a server answered so, and not the model in this process."""
    return getattr(error.raw_response, "status", 0) != 0


def _words(error: ResponseError) -> str:
    """What the one behind said of the caller's mistake, without where it was asked."""
    return said(error.body) or error.message


_TYPE = re.compile(r": expected .*\b(str|int|float|bool|object|array|null)\b")
"""What our check says of a value of another type; of one out of its range it says numbers."""


def _code(message: str) -> str:
    """The hosted service's code for what our own check says."""
    text = message.partition(" (")[0]
    if text.endswith(": missing"):
        return "missing_required_parameter"
    return "invalid_type" if _TYPE.search(text) else "invalid_value"
