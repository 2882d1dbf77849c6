"""Shards worked on by other processes: real ones, which die at every moment that matters, and are stopped in every way."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import gpt.batch
from gpt import AsyncGpt, GptError, InvalidRequestError, Price
from gpt.batch import Processes, Progress, processes
from gpt.batch.control import Orders, order, orders
from gpt.batch.directory import JobDirectory, layout
from gpt.batch.jobs import Task
from gpt.batch.processes import DEATHS, Doing, Shards, _told, _Worker, in_a_line, portable, see_portable
from gpt.batch.work import Work
from gpt.testing import FaultServer

from shards import begun, done, loaded
from workers import OddError, client, prompt

ROWS = [{"id": f"r{number}", "n": number} for number in range(24)]
TEXTS = [f"answer to row {number}" for number in range(24)]
PATIENCE = 60.0
"""Seconds that a test waits for something before it fails."""


class Server(FaultServer):
    """Answers a prompt by its own text, when its gate is open; counts what it answered, and when each came."""

    def __init__(self) -> None:
        super().__init__(self._reply, keep=0)
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.under_way = 0
        self.pause = 0.0
        """Seconds that an answer takes."""
        self.gate = threading.Event()
        self.gate.set()
        self.news = threading.Condition()

    def _reply(self, request: Any) -> str:
        text: str = request["messages"][-1]["content"]
        with self.news:
            self.times.append(time.monotonic())
            self.under_way += 1
            self.news.notify_all()
        self.gate.wait(PATIENCE)
        time.sleep(self.pause)
        with self.news:
            self.under_way -= 1
            self.asked[text] += 1
            self.news.notify_all()
        return f"answer to {text}"

    def until(self, holds: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(holds, PATIENCE)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        try:
            yield server
        finally:
            server.gate.set()


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    """No process and no thread is left behind."""
    threads = set(threading.enumerate())
    yield
    assert [] == multiprocessing.active_children()
    assert [] == [one for one in threading.enumerate() if one not in threads and not one.daemon]


def job(server: Server, out: Path, rows: Any = ROWS, **settings: Any) -> gpt.batch.Report:
    given = {
        "client": partial(client, server.url),
        "model": "m",
        "prompt": prompt,
        "shard_rows": 4,
        "concurrency": 4,
        "executor": "processes",
        "workers": 2,
        "keep": "id",
    }
    return gpt.batch.run(rows, out, **given | settings)


def fragile(folder: Path, times: int, how: str, *at: int) -> list[dict[str, Any]]:
    """Rows, where something happens to who asks some of them, so many times."""
    folder.mkdir(exist_ok=True)
    extra = {"folder": str(folder), "times": times, "how": how}
    return [row | (extra if row["n"] in at else {}) for row in ROWS]


def see_done(out: Path, report: gpt.batch.Report, *, shards: int = 6) -> None:
    """See that all rows are there, and nothing is left over."""
    assert (True, 0, 24) == (report.done, report.failed, report.tally.rows)
    assert (shards, shards) == (report.last.shards_done, report.last.shards)
    assert [("r" + str(number), text) for number, text in enumerate(TEXTS)] == [
        (row.id, row.text) for row in gpt.batch.read(out)
    ]
    assert {f"{number:05d}.json" for number in range(shards)} == set(os.listdir(out / "_job" / "shards"))


# --------------------------------------------------------------------------------------------------------------------
# A job
# --------------------------------------------------------------------------------------------------------------------


def test_done(tmp_path: Path, server: Server) -> None:
    """Each row is asked once, by workers that tell what they do, and that are no more at the end."""
    told: list[Progress] = []
    server.gate.clear()
    opened = threading.Event()

    def open_gate(progress: Progress) -> None:
        told.append(progress)
        if progress.in_flight:
            opened.set()
            server.gate.set()

    report = job(server, tmp_path / "out", progress=open_gate)
    see_done(tmp_path / "out", report)
    assert dict.fromkeys((f"row {number}" for number in range(24)), 1) == server.asked
    assert opened.is_set(), "no worker told what was under way"
    assert sorted(one.shards_done for one in told) == [one.shards_done for one in told]
    assert 24 == report.rows_here


def test_nothing_to_do(tmp_path: Path, server: Server) -> None:
    """A job that is done starts nothing; one that is half done goes on, with more workers than shards that are left."""
    job(server, tmp_path / "out", executor=None, workers=None, limit=20)
    report = job(server, tmp_path / "out", workers=5)
    see_done(tmp_path / "out", report)
    assert 4 == report.rows_here
    see_done(tmp_path / "out", job(server, tmp_path / "out"))
    assert 24 == sum(server.asked.values())


def test_rows_elsewhere(tmp_path: Path, server: Server) -> None:
    """Workers read rows from the file that they came in."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    see_done(tmp_path / "out", job(server, tmp_path / "out", path))


def test_limits_are_kept_by_all(tmp_path: Path, server: Server) -> None:
    """Workers keep to the limits of the job together, also when one has ended, and one was replaced. The server counts."""
    rows = fragile(tmp_path / "turns", 1, "SIGKILL", 7) + [{"n": number} for number in range(24, 50)]
    report = job(server, tmp_path / "out", rows, requests_per_minute=900.0, concurrency=64, keep=[])
    assert (True, 50) == (report.done, report.tally.rows)
    times = sorted(server.times)
    assert 50 <= len(times)
    # 15 a second make 3.3 s of it. A worker with all of the limit for itself would be done in half of that.
    assert times[-1] - times[0] > 0.75 * (len(times) - 1) / 15


# --------------------------------------------------------------------------------------------------------------------
# Death
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "times"),
    [
        pytest.param("SIGKILL", 2, id="as it starts"),
        pytest.param("before part", 2, id="as it commits"),
        pytest.param("after part", 2, id="just after it"),
        pytest.param("after journal", 2, id="after all of it"),
    ],
)
def test_worker_dies(tmp_path: Path, server: Server, how: str, times: int) -> None:
    """A worker that is killed is replaced, and what it had not finished is done by another one."""
    (tmp_path / "turns").mkdir()
    made = partial(client, server.url, str(tmp_path / "turns"), times, how, os.getpid())
    see_done(tmp_path / "out", job(server, tmp_path / "out", client=made))
    assert times == len(list((tmp_path / "turns").iterdir())), "nobody died"
    assert 24 <= sum(server.asked.values()) <= 24 + 4 * times


def test_worker_dies_at_the_end(tmp_path: Path, server: Server) -> None:
    """A worker that is killed when all is done is not replaced."""
    (tmp_path / "turns").mkdir()
    made = partial(client, server.url, str(tmp_path / "turns"), 9, "after journal", os.getpid())
    report = job(server, tmp_path / "out", client=made, shard_rows=24)
    see_done(tmp_path / "out", report, shards=1)
    assert 1 == len(list((tmp_path / "turns").iterdir()))


def test_all_workers_die(tmp_path: Path, server: Server) -> None:
    """Workers that die between two rows, all of them, and those that replace them, lose what was under way at most."""
    rows = fragile(tmp_path / "turns", 2, "SIGKILL", 0, 3, 11)
    see_done(tmp_path / "out", job(server, tmp_path / "out", rows))
    assert 2 == len(list((tmp_path / "turns").iterdir()))
    assert 24 <= sum(server.asked.values()) <= 24 + 4 * 2


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGKILL", "the last by SIGKILL, as when memory runs out"),
        ("exit 0", "the last by itself, with exit code 0"),
    ],
)
def test_deadly_row(tmp_path: Path, server: Server, how: str, said: str) -> None:
    """A shard that three workers died of stops the job; what it had is kept, and it goes on when that is mended."""
    rows = fragile(tmp_path / "turns", 99, how, 9)
    with pytest.raises(GptError, match=rf"{DEATHS} workers died at shards? ([\d, ]+, )?2, {said}; what was answered is kept"):
        job(server, tmp_path / "out", rows, workers=1, concurrency=1)
    assert DEATHS == len(list((tmp_path / "turns").iterdir()))
    (tmp_path / "turns" / "over").touch()
    before = sum(server.asked.values())
    see_done(tmp_path / "out", job(server, tmp_path / "out", rows))
    assert 24 <= sum(server.asked.values()) <= 24 + DEATHS
    assert before


@pytest.mark.parametrize(
    ("how", "times", "said"),
    [
        ("exit 7", 1, "the last by itself, with exit code 7"),
        ("SIGKILL", DEATHS, "the last by SIGKILL"),
    ],
)
def test_no_worker_starts(tmp_path: Path, server: Server, how: str, times: int, said: str) -> None:
    """A worker that ends by itself before it has asked for anything is not tried again; one that is killed is, some times."""
    (tmp_path / "turns").mkdir()
    made = partial(client, server.url, str(tmp_path / "turns"), 99, how, os.getpid())
    with pytest.raises(GptError, match=f"workers do not start; {said}.*stderr.*__main__"):
        job(server, tmp_path / "out", client=made, workers=1)
    assert times == len(list((tmp_path / "turns").iterdir()))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("ValueError", "a worker failed: ValueError: no such river"),
        ("SystemExit", "a worker failed: SystemExit: enough"),
        ("OddError", "a worker failed: OddError: no such sea"),
    ],
)
def test_worker_raises(tmp_path: Path, server: Server, how: str, said: str) -> None:
    """What is raised in a worker is raised by the run, with where it was; the others end what is under way."""
    (tmp_path / "turns").mkdir()
    made = partial(client, server.url, str(tmp_path / "turns"), 1, how, os.getpid())
    with pytest.raises(GptError, match=said) as raised:
        job(server, tmp_path / "out", client=made)
    assert "in happen" in raised.value.__notes__[0]
    see_done(tmp_path / "out", job(server, tmp_path / "out"))
    assert 24 == sum(server.asked.values())


def test_failure_ends_the_others(tmp_path: Path, server: Server) -> None:
    """A worker that fails does not have the others go on: they let end what is under way."""
    (tmp_path / "turns").mkdir()
    made = partial(client, server.url, str(tmp_path / "turns"), 1, "ValueError when told", os.getpid())
    rows = [{"n": number} for number in range(4000)]
    server.pause = 0.02  # ten seconds for a shard, a hundred times of what the other worker needs to hear of it

    def look(progress: Progress) -> None:
        if progress.in_flight:
            (tmp_path / "turns" / "told").touch()

    with pytest.raises(GptError, match="no such river"):
        job(server, tmp_path / "out", rows, client=made, shard_rows=2000, keep=[], progress=look)
    assert 0 < sum(server.asked.values()) < 2000


def test_worker_stays(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has said that it has ended, and stays, is killed after a while."""
    monkeypatch.setattr(processes, "GRACE", 0.2)
    (tmp_path / "turns").mkdir()
    made = partial(client, server.url, str(tmp_path / "turns"), 9, "stays", os.getpid())
    see_done(tmp_path / "out", job(server, tmp_path / "out", client=made))


# --------------------------------------------------------------------------------------------------------------------
# What cannot be
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        pytest.param({"client": lambda: AsyncGpt(server_url="http://127.0.0.1:1/v1")}, "client", id="lambda"),
        pytest.param({"client": AsyncGpt(server_url="http://127.0.0.1:1/v1")}, "client", id="client"),
        pytest.param({"prompt": lambda row: "hi"}, "prompt", id="prompt"),
    ],
)
def test_not_portable(tmp_path: Path, settings: dict[str, Any], param: str) -> None:
    """What another process cannot be given is named, with what can be, before any is started."""
    given = {"client": "http://127.0.0.1:1/v1", "prompt": "row {n}"} | settings
    with pytest.raises(
        InvalidRequestError, match=rf"^{param}: another process cannot be given it \(.*functools\.partial"
    ) as raised:
        gpt.batch.run(ROWS, tmp_path / "out", model="m", executor="processes", workers=1, **given)
    assert param == raised.value.param


def test_portable_work(tmp_path: Path) -> None:
    """What can be given to another process passes."""
    work = Work(where=layout(tmp_path), task=Task(prompt=prompt), client="local:", rows=None)
    see_portable(work, pickle.dumps)


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_workers(workers: Any) -> None:
    """So many processes are an int from 1."""
    with pytest.raises(InvalidRequestError, match="workers: expected an int from 1"):
        Processes(workers)


def test_repr() -> None:
    """It says how many it is, and may be closed at any time."""
    made = Processes(3)
    assert ("Processes(3)", 3) == (repr(made), made.workers)
    made.close()


def test_while_main_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that imports the main module for a worker begins no job."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(InvalidRequestError, match="__main__"):
        Processes(1)


def test_process_cannot_be_started(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine starts no more processes, the error says so, and nothing is left open."""

    def start(self: Any) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", start)
    before = psutil.Process().num_fds()
    with pytest.raises(GptError, match="another process could not be started .*unavailable.*fewer workers"):
        job(server, tmp_path / "out")
    assert before == psutil.Process().num_fds()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GptError("no"), "no"),
        (InvalidRequestError("no", param="client"), "no"),
        (OddError(), "a worker failed: OddError: no such sea"),
        (ValueError("no"), "a worker failed: ValueError: no"),
    ],
)
def test_portable_error(error: BaseException, said: str) -> None:
    """An error of ours goes to another process as it is, where it can; of others what they say does."""
    made = pickle.loads(pickle.dumps(portable(error)))
    assert said == str(made)
    assert (said == str(error)) == (type(error) is type(made))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "by itself, with exit code 0"),
        (3, "by itself, with exit code 3"),
        (-9, "by SIGKILL, as when memory runs out"),
        (-11, "by SIGSEGV"),
        (-99, "by signal 99"),
    ],
)
def test_told(code: int, said: str) -> None:
    """How a process ended is told in words."""
    assert said == _told(code)


# --------------------------------------------------------------------------------------------------------------------
# Stopping
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"deadline": 0.0}, "deadline"), ({"max_tokens": 1, "max_cost": 1}, "max_tokens")],
)
def test_limits_stop(tmp_path: Path, server: Server, settings: dict[str, Any], reason: str) -> None:
    """A limit that is reached stops the workers, and the job goes on without it."""
    server.pause = 0.02  # ten seconds for all of it
    made = partial(client, server.url, prices={"m": Price(input=1, output=1)})
    rows = [{"n": number} for number in range(2000)]
    report = job(server, tmp_path / "out", rows, client=made, shard_rows=500, keep=[], **settings)
    assert (False, reason) == (report.done, report.stopped)
    asked = sum(server.asked.values())
    assert asked < 2000
    assert asked == sum(one.rows for one in _tallies(tmp_path / "out")), "what came was not kept"


def _tallies(out: Path) -> list[Any]:
    directory = JobDirectory(layout(out))
    directory.load()
    return [
        directory.tally_of(number) if not directory.is_done_now(number) else directory.shard(number).tally
        for number in range(4)
    ]


def test_cancelled(tmp_path: Path, server: Server) -> None:
    """A run that is cancelled ends its workers at once."""
    server.gate.clear()

    async def main() -> None:
        made = partial(client, server.url)
        running = asyncio.create_task(
            gpt.batch.arun(
                ROWS,
                tmp_path / "out",
                client=made,
                model="m",
                prompt=prompt,
                executor=Processes(2),
                shard_rows=4,
                concurrency=4,
            )
        )
        await asyncio.to_thread(server.until, lambda: server.under_way >= 4)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert 4 == server.under_way, "it waited for what was under way"


def test_stuck_worker_is_killed(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is to stop at once, and does not, is killed after a while."""
    monkeypatch.setattr(processes, "GRACE", 0.2)
    rows = fragile(tmp_path / "turns", 1, "sleeps", 9)

    async def main() -> None:
        running = asyncio.create_task(
            gpt.batch.arun(
                rows, tmp_path / "out", client=partial(client, server.url), model="m", prompt=prompt,
                executor=Processes(1), shard_rows=4, concurrency=4,
            )
        )  # fmt: skip
        while not (tmp_path / "turns" / "0").exists():
            await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())


PROGRAM = """
import sys
from functools import partial
import gpt.batch
from workers import client, prompt

def main(url, out, rows, shard_rows):
    rows = [{"id": f"r{number}", "n": number} for number in range(int(rows))]
    gpt.batch.run(
        rows, out, client=partial(client, url), model="m", prompt=prompt, shard_rows=int(shard_rows), concurrency=4,
        executor="processes", workers=2, keep="id",
    )

GUARD
    main(*sys.argv[1:])
"""


def program(
    folder: Path, server: Server, *, rows: int = 24, shard_rows: int = 4, guard: str = 'if __name__ == "__main__":'
) -> subprocess.Popen[str]:
    """A program with a job, as the first of a group of processes, as a terminal has it."""
    path = folder / "program.py"
    path.write_text(PROGRAM.replace("GUARD", guard))
    tests = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, str(path), server.url, str(folder / "out"), str(rows), str(shard_rows)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((tests, os.environ.get("PYTHONPATH", "")))},
    )  # fmt: skip


def ends(running: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status of a program, and what it said on stderr; no process of its group is left."""
    try:
        _, said = running.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        raise
    end = time.monotonic() + PATIENCE
    while any(_in_session(running.pid)):
        assert time.monotonic() < end, "a worker is left"
        time.sleep(0.05)
    return running.returncode, said


def _in_session(session: int) -> Iterator[int]:
    for one in psutil.pids():
        try:
            if os.getsid(one) == session and psutil.Process(one).status() != psutil.STATUS_ZOMBIE:
                yield one
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue


def kept(out: Path) -> int:
    """How many rows have come to something."""
    return gpt.batch.status(out).tally.rows


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_once(tmp_path: Path, server: Server, signal_number: int) -> None:
    """Ctrl-C on a terminal, which all processes get, lets what is under way end, which is kept; so does a scheduler's SIGTERM."""
    server.gate.clear()
    running = program(tmp_path, server)
    server.until(lambda: server.under_way >= 4)
    os.killpg(running.pid, signal_number)
    directory = JobDirectory(layout(tmp_path / "out"))
    end = time.monotonic() + PATIENCE
    while orders(directory).stop is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    server.gate.set()
    code, said = ends(running)
    assert -signal.SIGINT == code
    assert 1 == said.count("Traceback"), said
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert 0 < sum(server.asked.values()) == kept(tmp_path / "out")


def test_interrupted_twice(tmp_path: Path, server: Server) -> None:
    """The second Ctrl-C stops at once, though nothing is answered."""
    server.gate.clear()
    running = program(tmp_path, server)
    server.until(lambda: server.under_way >= 4)
    directory = JobDirectory(layout(tmp_path / "out"))
    for how in ("finish", "now"):
        os.killpg(running.pid, signal.SIGINT)
        end = time.monotonic() + PATIENCE
        while orders(directory).stop != how:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert ends(running)[1].rstrip().endswith("KeyboardInterrupt")
    assert 0 == sum(server.asked.values())
    assert 0 == kept(tmp_path / "out")


def test_driver_is_killed(tmp_path: Path, server: Server) -> None:
    """Workers whose driver was killed put down what is under way, and end; another driver starts at once, and asks none twice."""
    server.gate.clear()
    running = program(tmp_path, server)
    server.until(lambda: server.under_way >= 4)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    again = program(tmp_path, server)
    workers: set[int] = set()
    end = time.monotonic() + PATIENCE
    while len(workers) < 2:  # the new ones are there while the old ones still hold the shards
        assert time.monotonic() < end
        workers = {one for one in _in_session(again.pid) if "spawn_main" in " ".join(psutil.Process(one).cmdline())}
    server.gate.set()
    running.communicate()
    assert (0, "") == ends(again)
    assert TEXTS == [row.text for row in gpt.batch.read(tmp_path / "out")]
    assert dict.fromkeys((f"row {number}" for number in range(24)), 1) == server.asked


def test_workers_without_a_driver_end(tmp_path: Path, server: Server) -> None:
    """Workers whose driver was killed ask nothing more, however much they had been given."""
    server.pause = 0.02  # twenty seconds for all of it
    running = program(tmp_path, server, rows=4000, shard_rows=2000)
    server.until(lambda: sum(server.asked.values()) > 20)
    os.kill(running.pid, signal.SIGKILL)
    ends(running)
    assert sum(server.asked.values()) < 2000
    assert sum(server.asked.values()) == kept(tmp_path / "out"), "what was under way was not put down"


def test_no_guard(tmp_path: Path, server: Server) -> None:
    """A program without a guard is told what it needs; it does not start processes for ever."""
    code, said = ends(program(tmp_path, server, guard="if True:"))
    assert 1 == code
    assert re.search(r'GptError: workers do not start.*under if __name__ == "__main__":', said)
    assert re.search(r"InvalidRequestError: executor: a worker imports the main module too", said)


# --------------------------------------------------------------------------------------------------------------------
# Which shards are whose
# --------------------------------------------------------------------------------------------------------------------


def shards_of(tmp_path: Path, numbers: Any = range(3), look: Any = lambda doing: Orders()) -> Shards:
    return Shards(numbers, begun(tmp_path / "out", rows=12), look)


def test_given_again(tmp_path: Path) -> None:
    """What a worker had that died is given out again, first; what it had finished is not."""
    shards = shards_of(tmp_path)
    assert [0, 1, 2, None] == [shards.give() for _ in range(4)]
    done(loaded(tmp_path / "out"), 1)
    shards.lost([0, 1, 2], "by SIGKILL")
    assert 2 == len(shards)
    assert [0, 2, None] == [shards.give() for _ in range(3)]


def test_first_error_counts(tmp_path: Path) -> None:
    """The first error is the one that is raised; nothing is given out after it."""
    shards = shards_of(tmp_path)
    shards.fail(GptError("first"))
    shards.fail(GptError("second"))
    assert ("first", True, None) == (str(shards.error), shards.stopping, shards.give())
    shards.lost([0], "by SIGKILL")
    assert 3 == len(shards)


def test_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look tells what has ended since the last one, and takes the orders; it is not made before its time, but for the last."""
    seen: list[Doing] = []
    shards = shards_of(tmp_path, look=lambda doing: seen.append(doing) or Orders(share=0.5))
    shards.look((), 2)
    assert 0.5 == shards.orders.share
    assert 0 < shards.wait() <= processes.LOOK
    shards.undone([0])
    done(loaded(tmp_path / "out"), 1)
    assert [0] == shards.undone([0, 1])
    shards.look([0], 2)
    shards.look([], 0, last=True)
    shards.fail(GptError("no"))
    shards.look([2], 1)
    assert [Doing([], [], 2), Doing([], [1], 0), Doing([2], [], 1, failed=True)] == seen


def test_look_raises(tmp_path: Path) -> None:
    """Where no orders can be had, the workers are told to end, and the error is raised at the end."""

    def look(doing: Doing) -> Orders:
        raise ValueError("no orders")

    shards = shards_of(tmp_path, look=look)
    shards.look((), 2)
    shards.look((), 2, last=True)
    assert "no orders" == str(shards.error)
    assert Orders(stop="finish", reason="error") == orders(JobDirectory(layout(tmp_path / "out"))) == shards.orders


def test_look_raises_in_a_run(tmp_path: Path, server: Server) -> None:
    """An error of who gives the orders comes out of the run, and no process is left behind."""
    directory = begun(tmp_path / "out", rows=24)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    work = Work(
        where=directory.where, task=Task(prompt=prompt), client=partial(client, server.url), rows=str(tmp_path / "rows.jsonl")
    )
    looks = iter((Orders(),))

    def look(doing: Doing) -> Orders:
        try:
            return next(looks)
        except StopIteration:
            raise ValueError("no orders") from None

    server.gate.clear()
    threading.Timer(0.2, server.gate.set).start()
    with pytest.raises(ValueError, match="no orders"):
        Processes(2).run(work, range(6), look)


def test_worker_that_follows_others(tmp_path: Path, server: Server) -> None:
    """A worker that ends well without having done what it had, as for orders that are not the driver's, does not end the job."""
    directory = begun(tmp_path / "out", rows=24)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    order(directory, Orders(stop="finish"))
    work = Work(
        where=directory.where, task=Task(prompt=prompt), client=partial(client, server.url), rows=str(tmp_path / "rows.jsonl")
    )
    with pytest.raises(GptError, match="workers do not start|3 workers died"):
        Processes(1).run(work, range(6), lambda doing: Orders())


def test_broken_here(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver itself breaks, its workers are killed before it says so."""
    directory = begun(tmp_path / "out", rows=24)
    work = Work(where=directory.where, task=Task(prompt=prompt), client=partial(client, server.url), rows=None)

    def broken(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "wait", broken)
    with pytest.raises(KeyboardInterrupt):
        Processes(2).run(work, range(6), lambda doing: Orders())


def test_word_from_nobody(tmp_path: Path) -> None:
    """Signals for the driver are held back while a process starts, and only then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    work = Work(where=layout(tmp_path), task=Task(prompt=prompt), client=None, rows=None)
    worker = _Worker(work)
    try:
        assert before == signal.pthread_sigmask(signal.SIG_BLOCK, ())
        masks = Path(f"/proc/{worker.process.pid}/status")
        if masks.exists():  # Linux has it
            found = dict(re.findall(r"^(SigBlk|SigIgn):\s*(\w+)", masks.read_text(), re.MULTILINE))
            held = int(found["SigBlk"], 16) | int(found["SigIgn"], 16)
            assert all(held >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM))
    finally:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError("\nno\nnever"), "ValueError: no"),
        (ValueError(), "ValueError"),
    ],
)
def test_in_a_line(error: BaseException, said: str) -> None:
    """An error is told in a line, whether it says something or not."""
    assert said == in_a_line(error)
