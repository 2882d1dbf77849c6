"""A batch: rows a second against a loop written by hand over aiohttp, memory at any length, and how soon a half-done job goes on.

The yardstick reads the same JSON lines, asks as many at a time over one aiohttp session, reads the answers as JSON, and writes a line
for each to a file, without a journal, retries, limits, order or resumption. Each runs in a process of its own against the same
loopback server.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import loopback

ROWS = 50_000
CONCURRENCY = 64
ROUNDS = 5
LENGTHS = (10_000, 100_000, 1_000_000)

_OURS = """
import sys, time
from gpt import AsyncGpt
import gpt.batch
port, rows, out, concurrency = sys.argv[1:]
started = time.perf_counter()
client = AsyncGpt(server_url=f"http://127.0.0.1:{port}/v1", api_key="key")
report = gpt.batch.run(rows, out, client=client, concurrency=int(concurrency))
assert report.done and not report.failed
print(time.perf_counter() - started, time.process_time(), report.rows_here)
"""

_YARDSTICK = """
import asyncio, json, sys, time
import aiohttp
port, rows, out, concurrency = sys.argv[1:]

async def main():
    url, done = f"http://127.0.0.1:{port}/v1/chat/completions", 0
    with open(rows) as source, open(out, "w") as target:
        connector = aiohttp.TCPConnector(limit=int(concurrency))
        async with aiohttp.ClientSession(connector=connector, headers={"Authorization": "Bearer key"}) as session:
            async def work():
                nonlocal done
                for line in source:
                    async with session.post(url, json=json.loads(line)) as response:
                        response.raise_for_status()
                        made = await response.json()
                    row = {"text": made["choices"][0]["message"]["content"], "usage": made["usage"]}
                    target.write(json.dumps(row) + "\\n")
                    done += 1
            await asyncio.gather(*(work() for _ in range(int(concurrency))))
    return done

started = time.perf_counter()
done = asyncio.run(main())
print(time.perf_counter() - started, time.process_time(), done)
"""


def write_rows(path: Path, count: int) -> None:
    """Requests of about 1 kB."""
    text = "Tell in one sentence what this is about. " + "The Nile rises in the highlands and runs north. " * 18
    with path.open("w") as file:
        for number in range(count):
            said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{number}: {text}"}]
            file.write(json.dumps({"model": "m", "messages": said, "max_tokens": 60}) + "\n")


def _run(code: str, *words: object) -> tuple[float, float, int]:
    """Wall and CPU seconds, and rows done."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True, text=True)
    wall, cpu, rows = done.stdout.split()
    return float(wall), float(cpu), int(rows)


def _speed(folder: Path, port: int) -> Iterator[str]:
    rows = folder / "rows.jsonl"
    write_rows(rows, ROWS)
    taken: dict[str, list[tuple[float, float, int]]] = {"ours": [], "yardstick": []}
    for number in range(ROUNDS):
        taken["ours"].append(_run(_OURS, port, rows, folder / f"out-{number}", CONCURRENCY))
        taken["yardstick"].append(_run(_YARDSTICK, port, rows, folder / f"hand-{number}.jsonl", CONCURRENCY))
    for name, rounds in taken.items():
        speeds = [ROWS / wall for wall, _, _ in rounds]
        cpu = statistics.median(cpu / ROWS * 1e6 for _, cpu, _ in rounds)
        yield f"{name:<12} {statistics.median(speeds):8,.0f} rows/s ({min(speeds):,.0f} to {max(speeds):,.0f}), {cpu:.0f} µs CPU a row"
    ratio = statistics.median(hand[0] / ours[0] for ours, hand in zip(taken["ours"], taken["yardstick"], strict=True))
    yield f"ours / yardstick, rows a second: {ratio:.2f} (goal: at least 1)"


def _memory(folder: Path, port: int) -> Iterator[str]:
    for count in LENGTHS:
        rows, out = folder / f"{count}.jsonl", folder / f"of-{count}"
        write_rows(rows, count)
        process = subprocess.Popen(
            [sys.executable, "-c", _OURS, str(port), str(rows), str(out), str(CONCURRENCY)], stdout=subprocess.PIPE, text=True
        )
        peak = _watched(process)
        wall = float(process.communicate()[0].split()[0])
        yield f"{count:>9,} rows: at most {peak / 1e6:.0f} MB, {wall:.1f} s, {count / wall:,.0f} rows/s"


def _watched(process: subprocess.Popen[str]) -> int:
    """The most memory that a process had, in bytes."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


def _resume(folder: Path, port: int) -> Iterator[str]:
    """How long after its start a half-done job of the most rows asks for the first of the others."""
    rows, count = folder / f"{LENGTHS[-1]}.jsonl", LENGTHS[-1]
    out = folder / "half"
    code = _OURS.replace("client=client,", f"client=client, limit={count // 2},").replace("assert report.done and", "assert")
    _run(code, port, rows, out, CONCURRENCY)
    first = """
import sys, time
started = time.perf_counter()
from gpt import AsyncGpt
import gpt.batch
port, rows, out, concurrency = sys.argv[1:]
class First(Exception): pass
def seen(event):
    if event.kind == "request":
        print(time.perf_counter() - started, time.process_time(), 0, flush=True)
        import os; os._exit(0)
client = AsyncGpt(server_url=f"http://127.0.0.1:{port}/v1", api_key="key", on_event=seen)
gpt.batch.run(rows, out, client=client, concurrency=int(concurrency))
"""
    times = [_run(first, port, rows, out, CONCURRENCY)[0] for _ in range(ROUNDS)]
    yield f"a job of {count:,} rows, half done: {statistics.median(times):.2f} s from the start to the first request"


def run() -> Iterator[str]:
    """The figures."""
    with loopback.running() as port, tempfile.TemporaryDirectory() as folder:
        yield from _speed(Path(folder), port)
        yield from _memory(Path(folder), port)
        started = time.perf_counter()
        yield from _resume(Path(folder), port)
        yield f"({time.perf_counter() - started:.0f} s)"
