"""The only code that waits for a call: two drivers of one flow.

A flow yields an `Attempt`; the driver waits as long as it says, sends, and hands the response back, or throws in the
TransportError.
"""

from __future__ import annotations

import time
from typing import TypeVar

from gpt.errors import TransportError
from gpt.protocol.flow import Flow
from gpt.protocol.wire import AsyncTransport, Transport

T = TypeVar("T")


def run(flow: Flow[T], transport: Transport) -> T:
    """The flow's result. Raises what the flow raises."""
    attempt = next(flow)
    try:
        while True:
            if attempt.after:
                time.sleep(attempt.after)
            try:
                response = transport.send(attempt.request)
            except TransportError as error:
                attempt = flow.throw(error)
            else:
                attempt = flow.send(response)
    except StopIteration as done:
        result: T = done.value
        return result


async def arun(flow: Flow[T], transport: AsyncTransport) -> T:
    """The flow's result, on asyncio. Raises what the flow raises."""
    attempt = next(flow)
    try:
        while True:
            if attempt.after:
                import asyncio

                await asyncio.sleep(attempt.after)
            try:
                response = await transport.send(attempt.request)
            except TransportError as error:
                attempt = flow.throw(error)
            else:
                attempt = flow.send(response)
    except StopIteration as done:
        result: T = done.value
        return result
