"""Whole jobs on a disk that is full, or that may not be written to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import gpt.batch
from gpt.testing import FaultServer

ROWS = 60

JOB = """
import os, resource, sys, tempfile
import gpt.batch
from gpt import GptError

url, out, what, *more = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:  # all is imported by then that others than root may not read
    gpt.batch.run([{"n": 0}], f"{folder}/out", client=url, model="m", prompt="first {n}")
if what == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(more[0]), resource.RLIM_INFINITY))
elif os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
rows = [{"n": number} for number in range(60)]
try:
    gpt.batch.run(rows, out, client=url, model="m", prompt="row {n}", concurrency=4, shard_rows=15)
except (GptError, OSError) as error:
    print(type(error).__name__, error, *getattr(error, "__notes__", ()), sep="|", flush=True)
    os._exit(1)
"""


class Server(FaultServer):
    def __init__(self) -> None:
        super().__init__(self._row)
        self.rows: Counter[str] = Counter()

    def _row(self, request: Any) -> str:
        text = request["messages"][-1]["content"]
        if text.startswith("row"):
            with self._lock:
                self.rows[text] += 1
        return f"answer to {text}"


def child(server: Server, out: Path, *words: object) -> str:
    """What a job says that fails, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", JOB, server.url, str(out), *map(str, words)], capture_output=True, text=True, timeout=60
    )
    assert 1 == done.returncode, (done.stdout, done.stderr)
    return done.stdout


def goes_on(server: Server, out: Path) -> Counter[str]:
    """The job, run where there is room; gives how often each row was asked."""
    rows = [{"n": number} for number in range(ROWS)]
    report = gpt.batch.run(rows, out, client=server.url, model="m", prompt="row {n}", concurrency=4, shard_rows=15)
    assert (True, 0) == (report.done, report.failed)
    assert [f"answer to row {number}" for number in range(ROWS)] == [row.text for row in report.answers()]
    return server.rows


@pytest.mark.parametrize("out", ["out", "out.jsonl"])
@pytest.mark.parametrize("size", [700, 1_500, 2_500])
def test_full(tmp_path: Path, out: str, size: int) -> None:
    """A disk that takes no more stops the job, which says so; what was kept is not asked again when there is room."""
    with Server() as server:
        told = child(server, tmp_path / out, "full", size)
        assert "File too large" in told
        assert "Run the job again when there is room" in told
        before = sum(server.rows.values())
        assert before < ROWS + 4
        rows = goes_on(server, tmp_path / out)
    assert ROWS == len(rows)
    # What was under way when the disk was full may have been lost: four rows, and one that could not be put down.
    assert sum(rows.values()) <= ROWS + 5


@pytest.mark.parametrize("stage", ["new", "begun"])
def test_read_only(tmp_path: Path, stage: str) -> None:
    """A folder that may not be written to is named, and nothing is asked."""
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:  # so that others than root get there
        if folder.stat().st_uid == os.getuid() and "pytest" in folder.name:
            folder.chmod(0o755)
    with Server() as server:
        out = tmp_path / "there" / "out"
        out.parent.mkdir()
        if stage == "begun":
            rows = [{"n": number} for number in range(ROWS)]
            gpt.batch.run(rows, out, client=server.url, model="m", prompt="row {n}", shard_rows=15, limit=20)
        asked = sum(server.rows.values())
        folders = [Path(path) for path, _, _ in os.walk(out.parent)]
        for folder in folders:
            folder.chmod(0o555)
        told = child(server, out, "read-only")
        assert "Permission" in told
        assert str(out) in told
        assert asked == sum(server.rows.values())
        for folder in folders:
            folder.chmod(0o755)
        assert {1} == set(goes_on(server, out).values())


def test_two_runs_at_once(tmp_path: Path) -> None:
    """Of runs that begin at the same time one works, and the others say who does; nothing is asked twice."""
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def work(server: Server) -> None:
        rows = [{"n": number} for number in range(ROWS)]
        start.wait(30)
        try:
            gpt.batch.run(rows, tmp_path / "out", client=server.url, model="m", prompt="row {n}", concurrency=4, shard_rows=15)
        except gpt.batch.BusyError as error:
            errors.append(error)

    with Server() as server:
        threads = [threading.Thread(target=work, args=(server,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {1} == set(goes_on(server, tmp_path / "out").values())
    assert all("another run is at work in" in str(error) for error in errors)
