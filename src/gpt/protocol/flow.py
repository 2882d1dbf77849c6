"""A call as the attempts it asks for: the one place to read what a call is.

A flow is a generator. It yields an `Attempt`: "wait `after` seconds, then send this". It is sent the `HttpResponse`; when no
answer came, the `TransportError` is thrown in at the yield. It returns the call's result or raises a GptError. Flows never
wait: `remote/drive.py` does the waiting, once blocking and once on asyncio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import TypeVar

import msgspec

from gpt.errors import GptError, ResponseError, TransportError
from gpt.protocol import codec
from gpt.protocol.retry import Budget, Retry
from gpt.protocol.wire import REDIRECTED, AttemptInfo, HttpRequest, HttpResponse, ResponseInfo, Seconds
from gpt.types import ChatCompletion, ModelList

T = TypeVar("T")

MAX_REDIRECTS = 5
"""Browsers allow 20; an API has no use for more than one or two."""


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """Wait `after` seconds, then send `request`."""

    request: HttpRequest
    after: Seconds = 0.0


Flow = Generator[Attempt, HttpResponse, T]
Read = Callable[[HttpResponse, HttpRequest, ResponseInfo], T]


class Chances(msgspec.Struct, frozen=True):
    """What a call may do when it fails: the policy, the client's budget, and where clock and randomness come from.

    `clock` gives seconds from any start; `draw` gives random numbers in [0, 1).
    """

    retry: Retry
    budget: Budget
    clock: Callable[[], Seconds]
    draw: Callable[[], float]


def call(
    request: HttpRequest,
    read: Read[T],
    chances: Chances,
    deadline: Seconds | None = None,
    retrying: Callable[[AttemptInfo, Seconds], Seconds | None] | None = None,
) -> Flow[T]:
    """The flow of one call: attempts until one is answered with 200, the policy gives up, or `deadline` seconds are over.

    `read` makes the result of a 200. Attempts and waits share the deadline; a wait that would pass it is not begun. An answer
    that says where to ask instead is followed. `retrying` is called with each attempt that failed, and the wait until the next;
    it may ask for a longer one. Raises ResponseError or TransportError; its `attempts` tell what was tried.
    """
    clock = chances.clock
    began = clock()
    tried: list[AttemptInfo] = []
    after: Seconds = 0.0
    paid = failures = redirects = 0
    asked = request
    while True:
        if deadline is not None:
            asked = msgspec.structs.replace(asked, deadline=deadline - (clock() - began) - after)
        problem: GptError
        try:
            response = yield Attempt(asked, after)
        except TransportError as error:
            problem, status, elapsed = error, None, error.elapsed
        else:
            status, elapsed = response.status, response.elapsed
            if status == 200:
                info = ResponseInfo(
                    200,
                    response.headers,
                    clock() - began,
                    response.first_byte,
                    None,
                    (*tried, AttemptInfo(200, "ok", elapsed, after)),
                    raw=response,
                )
                try:
                    made = read(response, asked, info)
                except (ResponseError, TransportError) as error:
                    problem = error
                else:
                    budget = chances.budget
                    if budget.tokens < budget.capacity:
                        budget.succeed(paid)
                    return made
            else:
                further = _redirected(response, asked)
                if further is not None and redirects < MAX_REDIRECTS:
                    tried.append(AttemptInfo(status, f"{REDIRECTED}{further.url}", elapsed, after))
                    asked, after, redirects = further, 0.0, redirects + 1
                    continue
                problem = _failure(response, asked, request)
        tried.append(AttemptInfo(status, f"{type(problem).__name__}: {problem.message}", elapsed, after))
        problem.attempts = tuple(tried)
        retry = chances.retry
        wait = retry.delay(failures, problem, chances.draw())
        most = min(deadline or math.inf, retry.total or math.inf)
        if wait is None or clock() - began + wait >= most:
            raise problem
        if retry.budgeted:
            paid = _spend(chances.budget, problem)
        failures += 1
        if retrying is not None:
            wait = _put_off(problem, wait, retrying(tried[-1], wait), most - (clock() - began))
        asked = msgspec.structs.replace(request, own_headers=(*request.own_headers, ("x-retry-count", str(failures))))
        after = wait


def _spend(budget: Budget, problem: GptError) -> int:
    """What the retry after `problem` was paid with. Raises `problem` where there is not enough."""
    cost = budget.spend(problem)
    if not cost:
        problem.add_note("Not tried again: too many calls of this client have failed, and its retry budget is used up.")
        raise problem
    return cost


def _put_off(problem: GptError, wait: Seconds, asked: Seconds | None, left: Seconds) -> Seconds:
    """The wait before the next attempt where somebody may have asked for a longer one. Raises `problem` where so much is not
    `left`.
    """
    wait = max(wait, asked or 0.0)
    if wait >= left:
        problem.add_note("Not tried again: the limits that it is kept to would have let it go too late.")
        raise problem
    return wait


def completion(response: HttpResponse, request: HttpRequest, info: ResponseInfo) -> ChatCompletion:
    """The completion in a 200. Raises MalformedResponseError, or the error that the body is in disguise."""
    try:
        made = codec.decode_completion(response.body, info)
    except msgspec.DecodeError as error:
        folded = _from_stream(response, request, info)
        if folded is None:
            raise malformed(response, request, reason(error)) from error
        made = folded
    if not codec.is_answer(made):
        raise malformed(response, request, "it has no choices, or an error")
    return made


def _from_stream(response: HttpResponse, request: HttpRequest, info: ResponseInfo) -> ChatCompletion | None:
    """The completion in an event stream that nobody asked for; None where the body is none. Raises what the stream says."""
    from gpt.protocol.chunks import fold
    from gpt.protocol.stream import ChunkDecoder

    decoder = ChunkDecoder(response.headers, request)
    chunks = decoder.feed(response.body)
    if not decoder.done:
        chunks += decoder.end()
    if not decoder.is_stream:
        return None
    if decoder.problem is not None:
        raise decoder.problem
    made = fold(chunks)
    codec.with_info(made, msgspec.structs.replace(info, ended=decoder.ended))
    return made


def models(response: HttpResponse, request: HttpRequest, info: ResponseInfo) -> ModelList:
    """The list of models in a 200. Raises MalformedResponseError, or the error that the body is in disguise."""
    try:
        return codec.decode_models(response.body, info)
    except msgspec.DecodeError as error:
        raise malformed(response, request, reason(error)) from error


def _redirected(response: HttpResponse, request: HttpRequest) -> HttpRequest | None:
    if response.status not in (301, 302, 303, 307, 308):
        return None
    from gpt.protocol.failures import redirected

    return redirected(response, request)


def _failure(response: HttpResponse, asked: HttpRequest, request: HttpRequest) -> ResponseError:
    """The error that an answer is to `asked`, where `request` may have led by redirects."""
    from gpt.protocol.failures import failure  # a table that most processes never look at

    problem = failure(response, asked)
    if asked.origin != request.origin:
        problem.message += "; a redirect led there, and keys do not follow one to another server: name that server"
    return problem


def malformed(response: HttpResponse, request: HttpRequest, reason: str, wanted: str = "chat completion") -> ResponseError:
    """The error that a 200 is without what was `wanted`."""
    from gpt.protocol import failures

    return failures.malformed(response, request, reason, wanted)


def reason(error: msgspec.DecodeError) -> str:
    """Why a body is not what it should be, in words."""
    return str(error).replace("`", "") if isinstance(error, msgspec.ValidationError) else "it is not JSON"
