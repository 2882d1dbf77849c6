"""The only code that waits for a call: two drivers of one flow.

A flow yields an `Attempt`; the driver waits as long as it says, sends, and hands the response back, or throws in the
TransportError. What happens is told to the logger `gpt`, at debug level: no header, no body, nothing secret.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gpt.errors import GptError, TransportError
from gpt.protocol.flow import Attempt, Flow
from gpt.protocol.wire import HttpRequest, HttpResponse

if TYPE_CHECKING:
    import logging
    import threading

T = TypeVar("T")


class Sends(Protocol):
    """What a driver needs of a transport."""

    def send(self, request: HttpRequest) -> HttpResponse: ...


class AsyncSends(Protocol):
    """What a driver needs of a transport, on asyncio."""

    async def send(self, request: HttpRequest) -> HttpResponse: ...


waits = True
"""False in tests that have no time to wait: `gpt.testing.no_waiting`."""


def run(flow: Flow[T], transport: Sends, cancel: threading.Event | None = None) -> T:
    """The flow's result. Raises what the flow raises; between attempts, also GptError when `cancel` is set."""
    attempt = next(flow)
    log = _log()
    try:
        while True:
            if attempt.after and waits:
                if cancel is None:
                    time.sleep(attempt.after)
                elif cancel.wait(attempt.after):
                    raise GptError("the call was cancelled")
            try:
                response = transport.send(attempt.request)
            except TransportError as error:
                if log is not None:
                    _tell(log, attempt, error)
                attempt = flow.throw(error)
            else:
                if log is not None:
                    _tell(log, attempt, response)
                attempt = flow.send(response)
    except StopIteration as done:
        result: T = done.value
        return result


async def arun(flow: Flow[T], transport: AsyncSends) -> T:
    """The flow's result, on asyncio. Raises what the flow raises."""
    attempt = next(flow)
    log = _log()
    try:
        while True:
            if attempt.after and waits:
                import asyncio

                await asyncio.sleep(attempt.after)
            try:
                response = await transport.send(attempt.request)
            except TransportError as error:
                if log is not None:
                    _tell(log, attempt, error)
                attempt = flow.throw(error)
            else:
                if log is not None:
                    _tell(log, attempt, response)
                attempt = flow.send(response)
    except StopIteration as done:
        result: T = done.value
        return result


# --------------------------------------------------------------------------------------------------------------------
# The log
# --------------------------------------------------------------------------------------------------------------------

_logger: Any = None


def _log() -> logging.Logger | None:
    """The logger, if anyone listens. Nobody does who has not imported logging, so it is not imported here."""
    global _logger  # noqa: PLW0603 - getLogger takes a lock and costs more than all the rest
    if _logger is None:
        logging = sys.modules.get("logging")
        if logging is None:
            return None
        _logger = logging.getLogger("gpt")
    return _logger if _logger.isEnabledFor(10) else None


def _tell(log: logging.Logger, attempt: Attempt, came: HttpResponse | TransportError) -> None:
    request = attempt.request
    if isinstance(came, TransportError):
        what: Any = f"{type(came).__name__} in phase {came.phase}"
        name = None
    else:
        what, name = came.status, came.headers.get("x-request-id")
    log.debug(
        "%s %s -> %s in %.3f s, %d bytes sent, after a wait of %.2f s%s",
        request.method,
        request.url,
        what,
        came.elapsed,
        len(request.body),
        attempt.after,
        f", request id {name}" if name else "",
    )
