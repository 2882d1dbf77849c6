"""A call as the attempts it asks for: the one place to read what a call is.

A flow is a generator. It yields an `Attempt`: "wait `after` seconds, then send this". It is sent the `HttpResponse`; when no
answer came, the `TransportError` is thrown in at the yield. It returns the call's result or raises a GptError. Flows never
wait and know no clock: `remote/drive.py` does the waiting, once blocking and once on asyncio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

import msgspec

from gpt.errors import GptError, ResponseError, TransportError
from gpt.protocol import codec
from gpt.protocol.retry import Retry
from gpt.protocol.wire import AttemptInfo, HttpRequest, HttpResponse, ResponseInfo, Seconds
from gpt.types import ChatCompletion, ModelList

T = TypeVar("T")


class Attempt(NamedTuple):
    """Wait `after` seconds, then send `request`."""

    request: HttpRequest
    after: Seconds = 0.0


Flow = Generator[Attempt, HttpResponse, T]
Read = Callable[[HttpResponse, HttpRequest, ResponseInfo], T]


def call(
    request: HttpRequest, read: Read[T], retry: Retry, draw: Callable[[], float], deadline: Seconds | None = None
) -> Flow[T]:
    """The flow of one call: attempts until one is answered with 200, `retry` gives up, or `deadline` seconds are over.

    `read` makes the result of a 200; `draw` gives random numbers in [0, 1). Attempts and waits share the deadline; a wait that
    would pass it is not begun. Raises ResponseError or TransportError; its `attempts` tell what was tried.
    """
    tried: list[AttemptInfo] = []
    after = spent = 0.0
    while True:
        problem: GptError
        if deadline is not None:
            request = msgspec.structs.replace(request, deadline=deadline - spent - after)
        try:
            response = yield Attempt(request, after)
        except TransportError as error:
            problem, status, elapsed = error, None, error.elapsed
        else:
            status, elapsed = response.status, response.elapsed
            if status == 200:
                attempts = (*tried, AttemptInfo(200, "ok", elapsed, after))
                info = ResponseInfo(
                    200, response.headers, spent + after + elapsed, response.first_byte, None, attempts, raw=response
                )
                try:
                    return read(response, request, info)
                except ResponseError as error:
                    problem = error
            else:
                from gpt.protocol.failures import failure  # a table that most processes never look at

                problem = failure(response, request)
        spent += after + elapsed
        tried.append(AttemptInfo(status, f"{type(problem).__name__}: {problem.message}", elapsed, after))
        problem.attempts = tuple(tried)
        wait = retry.delay(len(tried) - 1, problem, draw())
        limit = min(deadline or math.inf, retry.total or math.inf)
        if wait is None or spent + wait >= limit:
            raise problem
        after = wait


def completion(response: HttpResponse, request: HttpRequest, info: ResponseInfo) -> ChatCompletion:
    """The completion in a 200. Raises MalformedResponseError, or the error that the body is in disguise."""
    try:
        made = codec.decode_completion(response.body, info)
    except msgspec.DecodeError as error:
        raise _malformed(response, request, _reason(error)) from error
    if not made.choices:
        raise _malformed(response, request, "it has no choices")
    return made


def models(response: HttpResponse, request: HttpRequest, info: ResponseInfo) -> ModelList:
    """The list of models in a 200. Raises MalformedResponseError, or the error that the body is in disguise."""
    try:
        return codec.decode_models(response.body, info)
    except msgspec.DecodeError as error:
        raise _malformed(response, request, _reason(error)) from error


def _malformed(response: HttpResponse, request: HttpRequest, reason: str) -> ResponseError:
    from gpt.protocol.failures import malformed

    return malformed(response, request, reason)


def _reason(error: msgspec.DecodeError) -> str:
    return str(error).replace("`", "") if isinstance(error, msgspec.ValidationError) else "it is not JSON"
