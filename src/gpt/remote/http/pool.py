"""Which connection a request takes: the arithmetic of the pool, the same for both transports.

Idle connections of one origin are a stack: the one used last is the freshest. Those that stand too long, and those beyond the
limit, are handed back to be closed. Nothing here waits or closes; the owner holds the lock.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from gpt.protocol.wire import Origin, Seconds

C = TypeVar("C")


class StaleError(Exception):
    """A connection that had been idle gave nothing: the server has closed it. Never leaves the transports."""


class Pool(Generic[C]):
    """Idle connections by origin, and the places of all that are open, idle or in use.

    A place is taken before a connection is made and given back when it is closed. Giving one back twice does no harm, and is
    one step even when an object that is dropped does it at whatever moment.
    """

    def __init__(self, max_idle: int, idle_seconds: Seconds, max_open: int = 1000) -> None:
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._max_open = max_open
        self._idle: dict[Origin, deque[tuple[float, C]]] = {}
        self.places: set[object] = set()

    @property
    def has_room(self) -> bool:
        """Whether one more connection may be made."""
        return len(self.places) < self._max_open

    def take(self, origin: Origin) -> C | None:
        """The connection that was put back last; None when there is none."""
        idle = self._idle.get(origin)
        return idle.pop()[1] if idle else None

    def take_oldest(self) -> C | None:
        """The connection that has stood longest, whatever its origin, to be closed for a new one; None when none is idle."""
        stacks = [stack for stack in self._idle.values() if stack]
        return min(stacks, key=lambda stack: stack[0][0]).popleft()[1] if stacks else None

    def put(self, origin: Origin, connection: C, now: float) -> list[C]:
        """Keep a connection. Gives those that are to be closed for it: too old, or too many."""
        idle = self._idle.get(origin)
        if idle is None:
            idle = self._idle[origin] = deque()
        idle.append((now, connection))
        if len(idle) <= self._max_idle and idle[0][0] + self._idle_seconds > now:
            return []
        surplus = []
        while idle and (len(idle) > self._max_idle or idle[0][0] + self._idle_seconds <= now):
            surplus.append(idle.popleft()[1])
        return surplus

    def clear(self) -> list[C]:
        """Forget all. Gives those that are to be closed."""
        idle, self._idle = self._idle, {}
        return [connection for stack in idle.values() for _, connection in stack]

    def __len__(self) -> int:
        return sum(map(len, self._idle.values()))
