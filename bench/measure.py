"""How things are measured: interleaved rounds, medians with their spread, the machine recorded."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple


class Figure(NamedTuple):
    """Medians over rounds, in `unit`, with the smallest and the largest."""

    name: str
    median: float
    low: float
    high: float
    unit: str

    def __str__(self) -> str:
        return f"{self.name:<44} {self.median:>10.2f} {self.unit:<6} ({self.low:.2f} to {self.high:.2f})"


def rounds(contenders: dict[str, Callable[[], float]], count: int, unit: str) -> dict[str, Figure]:
    """Each contender measured `count` times, turn by turn, so that a noisy moment hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(count):
        for name, measured in contenders.items():
            taken[name].append(measured())
    return {name: Figure(name, statistics.median(values), min(values), max(values), unit) for name, values in taken.items()}


def cpu_each(work: Callable[[], object], count: int) -> float:
    """CPU (user and system) of this process in µs for each of `count` calls of `work`."""
    started = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - started) / count * 1e6


def of_process(code: str, *, count: int = 9) -> tuple[float, float]:
    """Median wall time in ms and peak memory in MB of a fresh interpreter that runs `code`."""
    walls, peaks = [], []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)  # writes the byte-code
    report = "\nimport resource as r, sys; sys.stderr.write(str(r.getrusage(r.RUSAGE_SELF).ru_maxrss))"
    for _ in range(count):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
        walls.append((time.perf_counter() - started) * 1000)
        done = subprocess.run([sys.executable, "-c", code + report], check=True, capture_output=True, env=environment)
        peaks.append(int(done.stderr) / (1024 if sys.platform != "darwin" else 1024 * 1024))
    return statistics.median(walls), statistics.median(peaks)


def machine() -> str:
    """What this ran on."""
    return f"CPython {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def verdict(name: str, ratio: float, goal: float, *, at_least: bool = False) -> str:
    """A line that holds a figure against its goal."""
    met = ratio >= goal if at_least else ratio <= goal
    return f"{'met   ' if met else 'MISSED'} {name}: {ratio:.3g} (goal: {'at least' if at_least else 'at most'} {goal:.3g})"
