"""What a driver and its workers in other processes tell each other: small files in the job's directory, looked at every second.

Files, because whoever can work on a shard can reach the directory, whichever way it was started: another process, another
machine of a cluster, a task of a Slurm array. The driver writes `control.json`: whether to stop, and which share of the limits
each worker has. A worker writes, for each shard that it works on, what it is doing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec

from gpt.batch import files
from gpt.batch.directory import JobDirectory
from gpt.batch.progress import Tally
from gpt.errors import InvalidRequestError
from gpt.protocol.wire import Seconds

LOOK: Seconds = 1.0
"""Between two looks."""

LATE: Seconds = 5.0
"""How late what a worker tells, and is told in turn, may be."""


class Orders(msgspec.Struct, frozen=True):
    """What the driver says. `stop` is "finish" or "now"; `share` is the part of all limits that each worker may use.

    A service that asked one worker to wait `hold` seconds asked all of them; `holds` counts such words, so that each is heeded
    once.
    """

    stop: str | None = None
    reason: str = ""
    share: float = 1.0
    hold: Seconds = 0.0
    holds: int = 0


class Alive(msgspec.Struct):
    """What a worker is doing with a shard."""

    shard: int
    worker: str
    tally: dict[str, Any]
    """What the shard's rows took up to now."""
    under_way: int = 0
    """Of the worker, as those that follow; 0 but for one of its shards."""
    waiting: int = 0
    pause: str | None = None
    held: Seconds = 0.0
    """How long the service has asked it to wait yet."""


class Holds:
    """What the service asked one worker to wait, told to all. A word travels for seconds, so shorter waits are not told."""

    def __init__(self) -> None:
        self._until: Seconds = float("-inf")

    def told(self, now: Seconds, held: Seconds) -> bool:
        """A worker is asked to wait so long yet; gives whether that is news, and not the echo of what all were told."""
        news = held > LATE and now + held > self._until + LATE
        if news:
            self._until = now + held
        return news


def order(directory: JobDirectory, orders: Orders) -> None:
    """Tell the workers."""
    files.write(directory.path("control.json"), msgspec.json.encode(orders))


def orders(directory: JobDirectory, last: Orders | None = None) -> Orders:
    """What the driver says; `last` where that cannot be read now, what it says to begin with where it has said nothing."""
    try:
        return msgspec.json.decode(files.read(directory.path("control.json")), type=Orders)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return last or Orders()


def tell(directory: JobDirectory, doing: Alive) -> None:
    """Tell the driver. What cannot be written is not: it is for people to look at."""
    path = directory.of_shard(doing.shard, "alive")
    beside = f"{path}{files.LEFT}"
    try:
        with open(beside, "wb") as file:
            file.write(msgspec.json.encode(doing))
        os.replace(beside, path)
    except OSError:
        files.remove(beside)


def told(directory: JobDirectory, shards: Iterable[int]) -> list[tuple[Alive, Tally]]:
    """What workers are doing with these shards, as far as they say, and it can be read."""
    found = []
    for number in shards:
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, InvalidRequestError):
            doing = msgspec.json.decode(files.read(directory.of_shard(number, "alive")), type=Alive)
            found.append((doing, Tally.from_dict(doing.tally)))
    return found
