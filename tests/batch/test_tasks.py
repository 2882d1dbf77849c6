"""Tasks that each do their part of a job, as those of a Slurm array: processes that know nothing of each other but the directory."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gpt.batch
from gpt.batch import BusyError
from gpt.batch.directory import JobDirectory, layout
from gpt.batch.drive import Drive
from gpt.testing import FaultServer

from workers import prompt

ROWS = 60
TEXTS = [f"answer to row {number}" for number in range(ROWS)]
PATIENCE = 60.0

TASK = f"""
import sys
import gpt.batch
from workers import prompt

def main(url, out, folder, how, number, of):
    rows = [{{"n": number}} for number in range({ROWS})]
    if how:
        rows[20] |= {{"how": how, "folder": folder, "times": 1}}  # the third row of shard 2
    shard = None if of == "0" else (int(number), int(of))
    report = gpt.batch.run(
        rows, out, client=url, model="m", prompt=prompt, shard_rows=9, concurrency=2, keep=[], shard=shard,
    )
    print("done" if report.done else report.stopped)

main(*sys.argv[1:])
"""


class Server(FaultServer):
    """Answers a prompt by its own text, and counts what it answered."""

    def __init__(self) -> None:
        super().__init__(self._reply, keep=0)
        self.asked: Counter[str] = Counter()
        self.counting = threading.Lock()

    def _reply(self, request: Any) -> str:
        text = request["messages"][-1]["content"]
        with self.counting:
            self.asked[text] += 1
        return f"answer to {text}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def task(server: Server, folder: Path, number: int, of: int, *, how: str = "", out: str = "out") -> subprocess.Popen[str]:
    """A task of an array; of none it is a run of the whole job."""
    if not (folder / "task.py").exists():  # which another one may just be reading
        (folder / "task.py").write_text(TASK)
    (folder / "turns").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(folder / "task.py"), server.url, str(folder / out), str(folder / "turns"), how, str(number), str(of)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")))},
    )  # fmt: skip


def said(running: subprocess.Popen[str]) -> str:
    """What a task says at its end."""
    try:
        told, wrong = running.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        running.kill()
        running.communicate()
        raise
    assert 0 == running.returncode, wrong
    return told.strip()


def see_done(server: Server, out: Path, *, twice: int = 0) -> None:
    """See that each row is there, and was asked once, but for so many that may have been asked again."""
    assert TEXTS == [row.text for row in gpt.batch.read(out)]
    assert {f"row {number}" for number in range(ROWS)} == set(server.asked)
    assert ROWS <= sum(server.asked.values()) <= ROWS + twice


@pytest.mark.parametrize("out", ["out", "out.jsonl"])
@pytest.mark.parametrize("of", [2, 5])
def test_together(tmp_path: Path, server: Server, of: int, out: str) -> None:
    """Tasks that start at the same time begin one job, do their parts, and the last one that leaves ends it."""
    told = [said(one) for one in [task(server, tmp_path, number, of, out=out) for number in range(of)]]
    assert {"done", "elsewhere"} >= set(told)
    assert "done" in told
    see_done(server, tmp_path / out)
    assert gpt.batch.status(tmp_path / out).done


def test_more_tasks_than_shards(tmp_path: Path, server: Server) -> None:
    """A task for which there is nothing to do leaves."""
    assert "elsewhere" == said(task(server, tmp_path, 9, 10))
    assert not server.asked
    assert ["elsewhere"] * 6 + ["done"] == [said(task(server, tmp_path, number, 10)) for number in range(7)]
    see_done(server, tmp_path / "out")
    assert "done" == said(task(server, tmp_path, 8, 10))


def test_one_dies(tmp_path: Path, server: Server) -> None:
    """A task that died is started again, and does what it had left."""
    running = [task(server, tmp_path, number, 3, how="SIGKILL") for number in range(3)]
    assert ["elsewhere", "elsewhere"] == [said(one) for one in running[:2]]
    running[2].communicate(timeout=PATIENCE)
    assert -signal.SIGKILL == running[2].returncode
    assert "done" == said(task(server, tmp_path, 2, 3, how="SIGKILL"))
    see_done(server, tmp_path / "out", twice=2)


def test_one_never_runs(tmp_path: Path, server: Server) -> None:
    """What a task had to do that never ran is done by a run of the whole job, which asks nothing again."""
    assert ["elsewhere", "elsewhere"] == [said(one) for one in [task(server, tmp_path, number, 3) for number in (0, 2)]]
    asked = set(server.asked)
    assert {f"row {number}" for number in range(ROWS) if number // 9 % 3 != 1} == asked
    assert "done" == said(task(server, tmp_path, 0, 0))
    see_done(server, tmp_path / "out")


@pytest.mark.parametrize("stops", [False, True])
def test_waits_for_who_begins(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, stops: bool) -> None:
    """A task waits while another one has the directory for itself, as to begin the job; Ctrl-C ends that."""
    other = JobDirectory(layout(tmp_path / "out"))
    other.lock()
    made = Drive(
        [{"n": number} for number in range(ROWS)],
        tmp_path / "out",
        {"client": server.url, "model": "m", "prompt": prompt, "shard": (0, 1), "keep": []},
    )
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if stops:
            made.interrupt()
        else:
            other.close()

    monkeypatch.setattr(time, "sleep", sleep)
    try:
        if stops:
            with pytest.raises(BusyError, match="another run is at work"):
                asyncio.run(made.run())
        else:
            assert asyncio.run(made.run()).done
            see_done(server, tmp_path / "out")
    finally:
        other.close()
    assert 1 == len(waits)
