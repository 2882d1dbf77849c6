"""The tree of errors."""

from __future__ import annotations

import copy
import pickle

import pytest

import gpt
from gpt import errors
from gpt.errors import GptError
from gpt.protocol.wire import AttemptInfo

TREE = {
    "InvalidRequestError": ("GptError", "caller"),
    "ResponseError": ("GptError", "service"),
    "BadRequestError": ("ResponseError", "caller"),
    "ContextLengthError": ("BadRequestError", "caller"),
    "ContentPolicyError": ("BadRequestError", "caller"),
    "UnsupportedParameterError": ("BadRequestError", "caller"),
    "AuthenticationError": ("ResponseError", "caller"),
    "PermissionDeniedError": ("ResponseError", "caller"),
    "ModelNotFoundError": ("ResponseError", "caller"),
    "RateLimitError": ("ResponseError", "service"),
    "QuotaError": ("ResponseError", "caller"),
    "ServerError": ("ResponseError", "service"),
    "OverloadedError": ("ServerError", "service"),
    "MalformedResponseError": ("ResponseError", "service"),
    "ParseError": ("GptError", "service"),
    "LengthFinishError": ("ParseError", "service"),
    "ContentFilterFinishError": ("ParseError", "service"),
    "RefusalError": ("ParseError", "service"),
    "ToolError": ("GptError", "caller"),
    "ReplayError": ("GptError", "caller"),
    "TransportError": ("GptError", "network"),
    "ConnectError": ("TransportError", "network"),
    "TLSError": ("TransportError", "network"),
    "RequestTimeoutError": ("TransportError", "network"),
    "StreamTruncatedError": ("TransportError", "network"),
}


def test_tree() -> None:
    """Every error stands where the tree says, and tells whose fault it is."""
    assert {"GptError", *TREE} == set(errors.__all__)
    for name, (parent, fault) in TREE.items():
        cls = getattr(gpt, name)
        assert parent == cls.__bases__[0].__name__
        assert fault == cls.fault
        assert name in (errors.__doc__ or "")
    assert issubclass(errors.InvalidRequestError, ValueError)
    assert issubclass(errors.RequestTimeoutError, TimeoutError)


SAMPLES: list[GptError] = [
    errors.InvalidRequestError("m", param="a.b"),
    errors.ReplayError("m", line=3, param="a.b"),
    errors.ResponseError("m", 500, "body", None, code="c", type="t", param="p", request_id="r", retry_after=1.5),
    errors.ContextLengthError("m", 400, requested=5, limit=3),
    errors.StreamTruncatedError("m", partial=gpt.ChatCompletion(id="x")),
    errors.LengthFinishError("m", completion=gpt.ChatCompletion(id="x"), text="{", partial_value={}, usage=gpt.Usage(1)),
    errors.ToolError("m", gpt.ToolCall(gpt.FunctionCall("{}", "f"), "a")),
    errors.RequestTimeoutError("m", phase="read", sent=True),
]


@pytest.mark.parametrize("error", SAMPLES, ids=[type(error).__name__ for error in SAMPLES])
def test_pickles(error: GptError) -> None:
    """Every error pickles and copies, with all that it carries."""
    error.attempts = (AttemptInfo(500, "x", 1.0),)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert vars(twin) == vars(error)
        assert (str(twin), twin.args) == (str(error), error.args)
