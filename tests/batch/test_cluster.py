"""Shards worked on by a real Ray cluster of this machine, which is busy, too small, or has its workers killed."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

import gpt.batch
from gpt import AsyncGpt, GptError, InvalidRequestError
from gpt.batch import cluster, processes
from gpt.batch.cluster import CPUS, Ray, room_of
from gpt.batch.control import Orders, order, orders
from gpt.batch.directory import JobDirectory, layout
from gpt.batch.jobs import Task
from gpt.batch.processes import DEATHS
from gpt.batch.work import Work
from gpt.testing import FaultServer

from shards import begun
from workers import Unready, client, prompt

ROWS = [{"n": number} for number in range(16)]
TEXTS = [f"answer to row {number}" for number in range(16)]


class Server(FaultServer):
    """Answers a prompt by its own text."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__(self._reply, keep=0)
        self.pause = pause
        """Seconds that an answer takes."""

    def _reply(self, request: Any) -> str:
        time.sleep(self.pause)
        return f"answer to {request['messages'][-1]['content']}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(autouse=True)
def _not_connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins, and ends, without a connection."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not ray.is_initialized()
    yield
    was, _ = ray.is_initialized(), ray.shutdown()
    assert not was


def job(server: Server, out: Path, executor: Any, rows: Any = ROWS, **settings: Any) -> gpt.batch.Report:
    given = {
        "client": partial(client, server.url),
        "model": "m",
        "prompt": prompt,
        "shard_rows": 4,
        "concurrency": 4,
        "keep": [],
    }
    return gpt.batch.run(rows, out, executor=executor, **given | settings)


def fragile(folder: Path, times: int, how: str, at: int) -> list[dict[str, Any]]:
    """Rows, where something happens to who asks one of them, so many times."""
    folder.mkdir()
    return [row | ({"folder": str(folder), "times": times, "how": how} if row["n"] == at else {}) for row in ROWS]


def see_done(out: Path, report: gpt.batch.Report) -> None:
    """See that all rows are there, and nothing is left over."""
    assert (True, 0, 16) == (report.done, report.failed, report.tally.rows)
    assert TEXTS == [row.text for row in gpt.batch.read(out)]
    assert {f"{number:05d}.json" for number in range(4)} == set(os.listdir(out / "_job" / "shards"))


# --------------------------------------------------------------------------------------------------------------------
# A cluster that is there
# --------------------------------------------------------------------------------------------------------------------


def test_done(
    tmp_path: Path, server: Server, ray_address: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is asked once; the connection is closed at the end; Ray prints nothing, and reports nothing to its makers."""
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    before = server.answered
    died = iter(range(1000))

    def die(_: Any, *, connected: bool = True) -> None:
        if ray.is_initialized() == connected:  # what it does when it hears so
            said = {"lines": [f"A worker died, {next(died)}"], "pid": "raylet", "is_err": False}
            ray._private.worker.print_to_stdstream(said, ignore_prefix=False)

    see_done(tmp_path / "out", job(server, tmp_path / "out", Ray(2, address=ray_address), progress=die))
    assert 16 == server.answered - before
    assert ("", "") == capfd.readouterr()
    assert "0" == os.environ["RAY_USAGE_STATS_ENABLED"]
    assert next(died)
    die(None, connected=False)
    assert "A worker died" in capfd.readouterr().out, "it is not as it was"


def test_quiet_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of Ray without that switch is left as it is."""
    monkeypatch.delattr(ray._private.worker, "_worker_logs_enabled")
    cluster._hush(quiet=True)
    assert not hasattr(ray._private.worker, "_worker_logs_enabled")


def test_own_connection(tmp_path: Path, server: Server, ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that the caller made is used, and stays; so does what he said of reports."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    ray.init(address=ray_address, log_to_driver=False, logging_level="ERROR")
    try:
        see_done(tmp_path / "out", job(server, tmp_path / "out", "ray", workers=2))
        assert ray.is_initialized()
        assert "1" == os.environ["RAY_USAGE_STATS_ENABLED"]
        Ray(2).close()
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_address_of_the_environment(tmp_path: Path, server: Server, ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster is that of RAY_ADDRESS; without a number as many workers are at it as it has room for."""
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    executor = Ray()
    assert int(2 / CPUS) == executor.workers
    see_done(tmp_path / "out", job(server, tmp_path / "out", executor))


def test_functions(tmp_path: Path, server: Server, ray_address: str) -> None:
    """Ray carries functions that have no name elsewhere."""
    url = server.url
    report = job(
        server,
        tmp_path / "out",
        Ray(2, address=ray_address),
        client=lambda: AsyncGpt(server_url=url, model="m"),
        prompt=lambda row: f"row {row['n']}",
    )
    see_done(tmp_path / "out", report)


def test_local(tmp_path: Path, ray_address: str) -> None:
    """Models in workers of a cluster answer as the one in this process does."""
    given: dict[str, Any] = {
        "client": "local:",
        "prompt": "Name a river in {land}.",
        "params": {"temperature": 0, "max_tokens": 8},
        "concurrency": 1,
        "shard_rows": 3,
    }
    rows = [{"land": land} for land in ("Egypt", "Germany", "France", "Peru", "China", "Russia")]
    gpt.batch.run(rows, tmp_path / "here", **given)
    gpt.batch.run(rows, tmp_path / "there", executor=Ray(2, address=ray_address), **given)
    here, there = ([row.text for row in gpt.batch.read(tmp_path / name)] for name in ("here", "there"))
    assert here == there
    assert all(here)


def test_own_cluster(
    tmp_path_factory: pytest.TempPathFactory, server: Server, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no cluster, one of this machine alone is started, and is gone at the end, without a word. It is not waited
    for a machine that is large enough.
    """
    folder = tmp_path_factory.mktemp("r")  # short: sockets are in it
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    before = {one.pid for one in psutil.Process().children(recursive=True)}
    with pytest.raises(GptError, match=r"no machine of the Ray cluster has room for a task, which asks for .*64.*'CPU'"):
        job(server, folder / "out", Ray(1, num_cpus=64))
    assert before == {one.pid for one in psutil.Process().children(recursive=True)}
    assert ("", "") == capfd.readouterr()
    assert {"out", "ray"} == set(os.listdir(folder))


# --------------------------------------------------------------------------------------------------------------------
# Death
# --------------------------------------------------------------------------------------------------------------------


def test_worker_dies(tmp_path: Path, server: Server, ray_address: str) -> None:
    """What a worker had not finished that was killed is done by another one."""
    rows = fragile(tmp_path / "turns", 2, "SIGKILL", 7)
    see_done(tmp_path / "out", job(server, tmp_path / "out", Ray(2, address=ray_address), rows))
    assert 2 == len(list((tmp_path / "turns").iterdir()))


def test_deadly_row(tmp_path: Path, server: Server, ray_address: str) -> None:
    """A shard that three workers died of stops the job; it goes on when that is mended."""
    rows = fragile(tmp_path / "turns", 99, "SIGKILL", 7)
    with pytest.raises(GptError, match=f"{DEATHS} workers died at shard 1, the last with WorkerCrashedError: "):
        job(server, tmp_path / "out", Ray(2, address=ray_address), rows)
    assert DEATHS == len(list((tmp_path / "turns").iterdir()))
    (tmp_path / "turns" / "over").touch()
    see_done(tmp_path / "out", job(server, tmp_path / "out", Ray(2, address=ray_address), rows))


@pytest.mark.parametrize(
    ("how", "said"),
    [("ValueError", "a worker failed: ValueError: no such river"), ("SystemExit", "a worker failed: SystemExit: enough")],
)
def test_worker_raises(tmp_path: Path, server: Server, ray_address: str, how: str, said: str) -> None:
    """What is raised in a worker is raised by the run, with where it was."""
    (tmp_path / "turns").mkdir()
    made = partial(client, server.url, str(tmp_path / "turns"), 1, how, os.getpid())
    with pytest.raises(GptError, match=said) as raised:
        job(server, tmp_path / "out", Ray(2, address=ray_address), client=made)
    assert "in happen" in raised.value.__notes__[0]


def test_task_raises(tmp_path: Path, server: Server, ray_address: str) -> None:
    """Where a machine cannot even read what it is to do, the error says so, and it is not tried again."""
    made = Unready(partial(client, server.url), os.getpid())
    with pytest.raises(GptError, match="a task failed on the cluster: .*this machine knows no rivers"):
        job(server, tmp_path / "out", Ray(1, address=ray_address), client=made)


def test_broken_here(tmp_path: Path, server: Server, ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver itself breaks, its tasks are ended."""
    directory = begun(tmp_path / "out", rows=16)
    work = Work(where=directory.where, task=Task(prompt=prompt), client=partial(client, server.url), rows=None)
    waited: list[Any] = []

    def broken(tasks: list[Any], **_: Any) -> Any:
        waited.extend(tasks)
        raise KeyboardInterrupt

    ray.init(address=ray_address, log_to_driver=False, logging_level="ERROR")
    try:
        wait = ray.wait
        monkeypatch.setattr(ray, "wait", broken)
        with pytest.raises(KeyboardInterrupt):
            Ray(2).run(work, range(4), lambda doing: Orders())
        assert 2 == len(waited)
        assert 2 == len(wait(waited, num_returns=2, timeout=60)[0])
    finally:
        ray.shutdown()


# --------------------------------------------------------------------------------------------------------------------
# Stopping
# --------------------------------------------------------------------------------------------------------------------


def test_deadline(tmp_path: Path, server: Server, ray_address: str) -> None:
    """A limit that is reached before anything began starts nothing, and the job goes on without it."""
    before = server.answered
    report = job(server, tmp_path / "out", Ray(2, address=ray_address), deadline=0.0)
    assert (False, "deadline", before) == (report.done, report.stopped, server.answered)
    see_done(tmp_path / "out", job(server, tmp_path / "out", Ray(2, address=ray_address)))


def test_limit(tmp_path: Path, ray_address: str) -> None:
    """A limit that is reached is heard of by the workers, who tell what they took."""
    with Server(0.02) as server:
        report = job(
            server,
            tmp_path / "out",
            Ray(2, address=ray_address),
            [{"n": number} for number in range(4000)],
            shard_rows=2000,
            max_tokens=1,
        )
        assert (False, "max_tokens") == (report.done, report.stopped)
        assert 0 < server.answered < 2000  # ten seconds of it
        assert server.answered == gpt.batch.status(tmp_path / "out").tally.rows


def test_worker_that_follows_others(tmp_path: Path, server: Server, ray_address: str) -> None:
    """A task that ends well without having done its shard, as for orders that are not the driver's, does not end the job."""
    directory = begun(tmp_path / "out", rows=16)
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"n": {number}}}\n' for number in range(16)))
    order(directory, Orders(stop="finish"))
    work = Work(
        where=directory.where, task=Task(prompt=prompt), client=partial(client, server.url), rows=str(tmp_path / "rows.jsonl")
    )
    with pytest.raises(GptError, match="3 workers died at shard 0, the last without a word"):
        Ray(1, address=ray_address).run(work, [0], lambda doing: Orders())


def test_stuck_worker_is_ended(tmp_path: Path, server: Server, ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is cancelled ends its tasks, also one that does not hear of it."""
    monkeypatch.setattr(cluster, "GRACE", 0.5)
    rows = fragile(tmp_path / "turns", 1, "sleeps", 5)

    async def main() -> None:
        running = asyncio.create_task(
            gpt.batch.arun(
                rows, tmp_path / "out", client=partial(client, server.url), model="m", prompt=prompt, keep=[],
                executor=Ray(2, address=ray_address), shard_rows=4, concurrency=4,
            )
        )  # fmt: skip
        while not (tmp_path / "turns" / "0").exists():
            await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    see_done(tmp_path / "out", job(server, tmp_path / "out", Ray(2, address=ray_address), rows))


# --------------------------------------------------------------------------------------------------------------------
# Room
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "needs", "room"),
    [
        ({"CPU": 2.0}, {"CPU": 0.5}, 4),
        ({"CPU": 2.0}, {"CPU": 0.1}, 20),
        ({"CPU": 2.0}, {"CPU": 1.5}, 1),
        ({"CPU": 2.0}, {"CPU": 3.0}, 0),
        ({"CPU": 2.0}, {"CPU": 0.0}, 2),
        ({"CPU": 2.0}, {}, 2),
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 0.5, "GPU": 1.0}, 2),
        ({"CPU": 8.0}, {"CPU": 0.5, "GPU": 1.0}, 0),
        ({"CPU": 8.0, "disk": 1.0}, {"CPU": 0.0, "disk": 0.25}, 4),
    ],
)
def test_room(there: dict[str, float], needs: dict[str, float], room: int) -> None:
    """A machine has room for as many tasks as the scarcest of what they ask for allows."""
    assert room == room_of(there, needs)


def test_more_workers_than_room(tmp_path: Path, server: Server, ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that there is no room for have no share of the limits: the two that run have a half each."""
    monkeypatch.setattr(processes, "LOOK", 0.01)
    directory = JobDirectory(layout(tmp_path / "out"))
    shares: set[float] = set()
    report = job(
        server,
        tmp_path / "out",
        Ray(8, address=ray_address, num_cpus=1),
        progress=lambda progress: shares.add(orders(directory).share),
    )
    see_done(tmp_path / "out", report)
    assert 0.5 in shares
    assert {0.5, 1.0} >= shares


def test_busy_cluster(tmp_path: Path, server: Server, ray_address: str) -> None:
    """A cluster that is busy with something else is waited for."""

    @ray.remote(num_cpus=2)
    class Busy:
        def is_there(self) -> bool:
            return True

    ray.init(address=ray_address, log_to_driver=False, logging_level="ERROR")
    try:
        busy = Busy.remote()  # type: ignore[attr-defined]
        assert ray.get(busy.is_there.remote())
        looks: list[int] = []

        def look(progress: gpt.batch.Progress) -> None:
            looks.append(progress.in_flight)
            if 3 == len(looks):
                assert [0, 0, 0] == looks
                ray.kill(busy)

        see_done(tmp_path / "out", job(server, tmp_path / "out", Ray(2), progress=look))
        assert len(looks) > 3
    finally:
        ray.shutdown()


def test_too_small_a_cluster(tmp_path: Path, server: Server, ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster without a machine that is large enough is waited for, and not for ever."""
    monkeypatch.setattr(cluster, "PATIENCE", 0.2)
    monkeypatch.setattr(processes, "LOOK", 0.05)
    with pytest.raises(GptError, match=r"no machine .* asks for \{'num_cpus': 0.5, 'resources': \{'river': 1\}\}"):
        job(server, tmp_path / "out", Ray(2, address=ray_address, resources={"river": 1}))


# --------------------------------------------------------------------------------------------------------------------
# What cannot be
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, True, 1.5, "2"])
def test_workers(workers: Any) -> None:
    """The number of workers is an int from 1."""
    with pytest.raises(InvalidRequestError, match="workers: expected an int from 1"):
        Ray(workers)


def test_repr() -> None:
    """It says how many it is."""
    assert ("Ray(3)", "Ray(None)", 3) == (repr(Ray(3)), repr(Ray()), Ray(3).workers)


def test_client_object(tmp_path: Path, ray_address: str) -> None:
    """A client that is there already cannot be given to another machine: a function that makes one can."""
    with pytest.raises(InvalidRequestError, match=r"client: another process cannot be given it .*functools\.partial"):
        gpt.batch.run(
            ROWS,
            tmp_path / "out",
            client=AsyncGpt(server_url="http://127.0.0.1:1/v1"),
            model="m",
            prompt=prompt,
            executor=Ray(1, address=ray_address),
        )


def test_unknown_option(tmp_path: Path, server: Server, ray_address: str) -> None:
    """An option that a task does not have is named."""
    with pytest.raises(InvalidRequestError, match="an option that a Ray task does not have: .*num_seas"):
        job(server, tmp_path / "out", Ray(1, address=ray_address, num_seas=7))


def test_no_ray(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says how to have it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidRequestError, match=r"needs ray: pip install"):
        job(server, tmp_path / "out", "ray", workers=1)


def test_unreachable(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that is not there is named; so is what may be the matter with it."""

    def init(**settings: Any) -> None:
        raise ConnectionError(f"nobody is at {settings['address']}")

    monkeypatch.setattr(ray, "init", init)  # which would try it for twenty seconds
    with pytest.raises(
        GptError, match=r"the Ray cluster at 127.0.0.1:1 cannot be reached \(ConnectionError: nobody is at .*RAY_AUTH_MODE"
    ):
        job(server, tmp_path / "out", Ray(1, address="127.0.0.1:1"))
    with pytest.raises(GptError, match="a Ray cluster of this machine alone could not be started"):
        job(server, tmp_path / "out", Ray(1))
