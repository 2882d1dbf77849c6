"""`gpt serve`: tokens per second against the engine's own HTTP server, and what the server itself costs, holds and withstands.

Each server and the callers are processes of their own (`bench/served.py`, `bench/load.py`). The engine's own server runs the same
model with the same settings of slots, context and threads. What the server itself costs is measured over a source of events
that are there already, against a bare ASGI application on uvicorn which sends the same bytes. `python -m bench.serve NAME ...` prints
some of the parts alone: `engine event first memory idle overload`.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import psutil

from bench import load, served
from bench.measure import Figure, machine, rounds, verdict

T = TypeVar("T")

TALKS = "Tell a long story about a river, its people, and the sea that it comes to."

CLIENTS = ((1, 4, 6), (4, 4, 3), (8, 4, 3), (32, 4, 1), (32, 32, 1))
"""Clients, slots of the engine, and calls that each client makes in a round."""

TOKENS, CONTEXT = 48, 512
ROUNDS = 5

STREAMS, PACE, PACED = 200, 0.02, 200
"""Streams at once, seconds between the events of one, and events of each; as in the research that chose the parts."""

IDLE, PING = 1000, 2.0
BURST, LEAVERS = 2000, 1000


OTHERS = 0.05
"""The part of the machine that other processes may have taken during a measurement; where it was more, it is made again."""

TRIES = 12


def run() -> list[str]:
    """Lines of figures."""
    return list(_lines(PARTS))


class Quiet:
    """Measurements that nobody disturbed, where that can be had: an engine whose threads wait for each other is slowed to a half
    by little work beside it, so that on a machine which others use a median says more of them than of the server.
    """

    def __init__(self) -> None:
        self.made = self.again = 0
        self.others: list[float] = []
        """The parts that others took, of those measurements that count."""

    def __call__(self, process: served.Process, measure: Callable[[], T]) -> Callable[[], T]:
        """A measurement of `process`, made again while it was disturbed; of `TRIES` the least disturbed one."""

        def made() -> T:
            tried: list[tuple[float, T]] = []
            while len(tried) < TRIES and (not tried or tried[-1][0] > OTHERS):
                began, all_of_us, everybody = time.perf_counter(), _ours(process), _everybody()
                value = measure()
                took = _everybody() - everybody - (_ours(process) - all_of_us)
                tried.append((took / (time.perf_counter() - began) / (os.cpu_count() or 1), value))
            self.made += 1
            self.again += len(tried) - 1
            others, value = min(tried, key=lambda one: one[0])
            self.others.append(others)
            return value

        return made

    def __str__(self) -> str:
        return f"{self.made} measurements, {self.again} made again; beside them others took {100 * max(self.others):.0f} % of the machine at most"


def _ours(process: served.Process) -> float:
    """CPU of the server, of this process and of the callers that have ended, in seconds."""
    return process.cpu() + sum(os.times()[:4])


def _everybody() -> float:
    """CPU of the whole machine, and what its host took of it, in seconds."""
    found = psutil.cpu_times()
    return sum(getattr(found, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def _lines(names: Any) -> Iterator[str]:
    for name in names:
        yield f"{name}, at a load of {os.getloadavg()[0]:.1f} (1 min) when it began:"
        for line in PARTS[name]():
            yield f"  {line}"


# --------------------------------------------------------------------------------------------------------------------
# Against the engine's own server
# --------------------------------------------------------------------------------------------------------------------


def against_engine() -> Iterator[str]:
    """Tokens a second of all clients together, and the time to the first content."""
    for slots in sorted({row[1] for row in CLIENTS}):
        settings = {"slots": slots, "context": CONTEXT}
        flags = [f"--{name}={value}" for name, value in settings.items()]
        with served.command(*flags) as ours, served.engine(**settings) as theirs:
            for clients, of, calls in CLIENTS:
                if of == slots:
                    yield from _against(ours, theirs, clients, slots, calls)


class Answered(NamedTuple):
    """A measurement of a server with a model."""

    speed: float
    """Tokens a second."""
    first: float
    """Milliseconds to the first content, the median of the calls."""
    cpu: float
    """CPU of the server, in ms a token."""
    callers: float
    """The part of a core that the callers took."""


def _against(ours: served.Process, theirs: served.Process, clients: int, slots: int, calls: int) -> Iterator[str]:
    def measured(process: served.Process) -> Answered:
        before = process.cpu()
        seen = load.seen(
            port=process.port, key=process.key, model="local", callers=clients, calls=calls, tokens=TOKENS, prompt=TALKS
        )
        assert seen.statuses == {"200": clients * calls}, seen.statuses
        assert seen.tokens == clients * calls * TOKENS, seen.tokens
        took = (process.cpu() - before) / seen.tokens * 1000
        return Answered(seen.tokens / seen.elapsed, statistics.median(seen.first) * 1000, took, seen.cpu / seen.elapsed)

    quiet = Quiet()
    both = {"gpt serve": ours, "engine": theirs}
    taken: dict[str, list[Answered]] = {name: [] for name in both}

    def taking(name: str) -> Callable[[], float]:
        measure = quiet(both[name], lambda: measured(both[name]))

        def take() -> float:
            taken[name].append(measure())
            return taken[name][-1].speed

        return take

    for process in both.values():
        measured(process)
    who = f"{clients} clients, {slots} slots"
    found = rounds({name: taking(name) for name in both}, ROUNDS, "tok/s")
    for name, figure in found.items():
        yield str(figure._replace(name=f"{who}, {name}"))
    for name, kept in taken.items():
        yield str(_figure(f"{who}, {name}, first token", [one.first for one in kept], "ms"))
    for name, kept in taken.items():
        yield str(_figure(f"{who}, {name}, CPU a token", [one.cpu for one in kept], "ms"))
    yield f"{who}: callers took {100 * max(one.callers for kept in taken.values() for one in kept):.1f} % of a core; {quiet}"
    yield verdict(
        f"{who}: tokens a second, ours / engine", found["gpt serve"].median / found["engine"].median, 0.97, at_least=True
    )


def _figure(name: str, values: list[float], unit: str) -> Figure:
    return Figure(name, statistics.median(values), min(values), max(values), unit)


# --------------------------------------------------------------------------------------------------------------------
# Over the source
# --------------------------------------------------------------------------------------------------------------------


def per_event() -> Iterator[str]:
    """CPU of the server's process for an event, paced and at full speed."""
    with served.application() as ours, served.bare() as bare:
        both = {"bare ASGI": bare, "ours": ours}
        callers: list[float] = []
        paces: list[float] = []
        quiet = Quiet()

        def paced(process: served.Process) -> float:
            before = process.cpu()
            seen = load.seen(port=process.port, model=f"{PACED}:{PACE}", callers=STREAMS)
            assert seen.statuses == {"200": STREAMS}, seen.statuses
            callers.append(seen.cpu / seen.events * 1e6)
            paces.append(seen.events / seen.elapsed)
            return (process.cpu() - before) / seen.events * 1e6

        def full(process: served.Process) -> float:
            before = process.cpu()
            seen = load.seen(port=process.port, model="64:0", callers=32, calls=100)
            assert seen.statuses == {"200": 3200}, seen.statuses
            return 3200 / (process.cpu() - before)

        for process in both.values():
            full(process)
        events = rounds(
            {name: quiet(process, lambda process=process: paced(process)) for name, process in both.items()}, ROUNDS, "µs"
        )  # type: ignore[misc]
        answers = rounds(
            {name: quiet(process, lambda process=process: full(process)) for name, process in both.items()}, ROUNDS, "/s"
        )  # type: ignore[misc]
    for name, figure in events.items():
        yield str(figure._replace(name=f"an event, paced, {name}"))
    yield f"{statistics.median(paces):.0f} events a second; the callers took {statistics.median(callers):.1f} µs an event, in another process; {quiet}"
    yield f"an event, ours, times bare ASGI: {events['ours'].median / events['bare ASGI'].median:.2f}"
    for name, figure in answers.items():
        yield str(figure._replace(name=f"answers of 65 events, a second of CPU, {name}"))
    yield f"answers, bare ASGI / ours: {answers['bare ASGI'].median / answers['ours'].median:.2f}"


def to_first() -> Iterator[str]:
    """What the server adds to the time to the first content."""
    with served.application() as ours, served.bare() as bare:

        def first(process: served.Process) -> float:
            seen = load.seen(port=process.port, model="2:0", callers=1, calls=300)
            tails.setdefault(process.port, []).append(statistics.quantiles(seen.first, n=100)[98] * 1000)
            return statistics.median(seen.first) * 1000

        tails: dict[int, list[float]] = {}
        quiet = Quiet()
        found = rounds(
            {"bare ASGI": quiet(bare, lambda: first(bare)), "ours": quiet(ours, lambda: first(ours))}, ROUNDS + 2, "ms"
        )
    for name, process in (("bare ASGI", bare), ("ours", ours)):
        yield f"{found[name]._replace(name=f'to the first content, {name}')}, 99 % within {statistics.median(tails[process.port]):.2f}"
    yield verdict("added to the first content, ms", found["ours"].median - found["bare ASGI"].median, 3)


def memory() -> Iterator[str]:
    """What a server holds that does nothing, before and after calls."""
    with served.bare() as bare:
        load.seen(port=bare.port, model="8:0", callers=4, calls=10)
        yield _held("bare ASGI on uvicorn", bare)
    with served.application() as ours:
        yield _held("over a source, fresh", ours)
        load.seen(port=ours.port, model="8:0", callers=4, calls=10)
        yield _held("over a source, after 40 calls", ours)
    with served.application() as behind, served.command(f"http://127.0.0.1:{behind.port}/v1") as remote:
        yield _held("in front of a service, fresh", remote)
        load.seen(port=remote.port, model="8:0", callers=4, calls=10)
        yield _held("in front of a service, after 40 calls", remote)
    with served.engine(slots=4, context=4096) as engine:
        load.seen(port=engine.port, key=served.KEY, callers=4, calls=3, prompt=TALKS)
        yield _held("engine alone, its own server, after 12 calls", engine)
    with served.command() as model:
        yield _held("with the model in the box, fresh", model)
        load.seen(port=model.port, model="local", callers=4, calls=3, prompt=TALKS)
        yield _held("with the model in the box, after 12 calls", model)


def _held(name: str, process: served.Process) -> str:
    rss, pss = process.memory()
    return f"{name:<48} RSS {rss:>6.1f} MB, PSS {pss:>6.1f} MB"


def idle() -> Iterator[str]:
    """Streams that are held open and say nothing but comments."""
    with served.application(slots=2 * IDLE, ping=PING) as ours:
        load.seen(port=ours.port, model="8:0", callers=4, calls=10)
        before = ours.memory()[0]
        with load.held(port=ours.port, model="1:3600", callers=IDLE) as callers:
            after, cpu, began = ours.memory()[0], ours.cpu(), time.perf_counter()
            time.sleep(5 * PING)
            cpu, spent = ours.cpu() - cpu, time.perf_counter() - began
            busy = ours.busy()
            seen = callers.end()
        left = ours.busy()
    yield f"{IDLE} streams, {busy['streams']:.0f} open at the end: {(after - before) * 1000 / IDLE:.1f} kB each, {seen.statuses}"
    pings = seen.pings
    yield f"a comment each {PING:g} s: {pings} of them reached their callers, CPU {100 * cpu / spent:.1f} % of a core, {cpu / (IDLE * spent / PING) * 1e6:.0f} µs a comment"
    yield f"after they left: {left}"


def overload() -> Iterator[str]:
    """Far past capacity: who is answered, and what is held afterwards."""
    with served.application(slots=4, queue=16) as ours:
        load.seen(port=ours.port, model="5:0.002", callers=BURST)
        sizes = [ours.memory()[0]]
        for _ in range(8):
            seen = load.seen(port=ours.port, model="5:0.002", callers=BURST, tokens=1)
            sizes.append(ours.memory()[0])
            assert set(seen.statuses) <= {"200", "429"}, seen.statuses
            assert sum(seen.statuses.values()) == BURST, seen.statuses
            assert not seen.untold
            assert not any(ours.busy().values()), ours.busy()
        yield f"{BURST} calls at once, 4 slots, 16 wait: {seen.statuses}, each 429 with Retry-After, in {seen.elapsed:.2f} s"
        yield f"RSS in MB after each of {len(sizes)} rounds: {' '.join(f'{size:.1f}' for size in sizes)}"
    with served.application(slots=100, queue=LEAVERS) as ours:
        sizes = []
        for seed in range(9):
            seen = load.seen(port=ours.port, model="40:0.01", callers=LEAVERS, ways="leaving", seed=seed)
            sizes.append(ours.memory()[0])
            deadline = time.perf_counter() + 10
            while any(ours.busy().values()) and time.perf_counter() < deadline:
                time.sleep(0.01)
            assert not any(ours.busy().values()), ours.busy()
        yield f"{LEAVERS} callers who leave at random: {seen.statuses}; slots, queue and streams afterwards: {ours.busy()}"
        yield f"RSS in MB after each of {len(sizes)} rounds: {' '.join(f'{size:.1f}' for size in sizes)}"


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "engine": against_engine,
    "event": per_event,
    "first": to_first,
    "memory": memory,
    "idle": idle,
    "overload": overload,
}

if __name__ == "__main__":
    print(machine())
    for line in _lines(sys.argv[1:] or PARTS):
        print(line, flush=True)
