"""The two drivers of flows over whole answers: asking again, the tool loop. A flow yields what it wants, and is sent it.

An error of the library is thrown into the flow at its yield, so that the flow decides what follows from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

from gpt.errors import GptError

Want = TypeVar("Want")
Got = TypeVar("Got")
T = TypeVar("T")


def drive(flow: Generator[Want, Got, T], reply: Callable[[Want], Got]) -> T:
    """What the flow returns; `reply` gives what it wants, blocking."""
    wanted = next(flow)
    try:
        while True:
            try:
                got = reply(wanted)
            except GptError as error:
                wanted = flow.throw(error)
            else:
                wanted = flow.send(got)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def adrive(flow: Generator[Want, Got, T], reply: Callable[[Want], Awaitable[Got]]) -> T:
    """What the flow returns; `reply` is awaited."""
    wanted = next(flow)
    try:
        while True:
            try:
                got = await reply(wanted)
            except GptError as error:
                wanted = flow.throw(error)
            else:
                wanted = flow.send(got)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
