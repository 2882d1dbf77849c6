"""Batches that are killed, again and again, at moments drawn at random, and looked at when they are done.

`python -m bench.kills [kills [executor ...]]` kills jobs on each executor so often (100, and 20 on Ray), the driver, a worker, or
all of them, by SIGKILL: as they start, in the middle, as shards are committed, as the output is made of them. What must hold is
checked after each job: as many rows out as in, none twice, none torn, in order, each answered, nothing left over, no process
left behind; and no request was answered twice but such as were under way at a kill. A second round, a quarter as long, has a
server that answers some with 429, 500, silence, garbage and resets. Exits with 1 where it is not so.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from gpt.testing import Fault, FaultServer

ROWS = 240
SHARD_ROWS = 20
CONCURRENCY = 6
"""Of all workers together."""
WORKERS = 2
ANSWER = 0.03
"""Seconds that the server takes for a row, on average."""

OUTPUTS = ("out", "out.jsonl", "out.batch.jsonl", "out.parquet", "parts.parquet")
"""A folder of parts, one file, the service's format, one Parquet file, a folder of Parquet parts."""

FAULTS = (
    Fault(rate=0.03, status=429, headers={"retry-after": "0"}),
    Fault(rate=0.03, status=500),
    Fault(rate=0.005, stall="head"),
    Fault(rate=0.02, garbage=b"SSH-2.0-OpenSSH_9.2\r\n"),
    Fault(rate=0.02, reset="request"),
    Fault(rate=0.02, reset="body"),
)

JOB = f"""
import sys
from functools import partial
from gpt import AsyncGpt, Timeout
import gpt.batch

def main(url, out, executor):
    rows = [{{"id": f"r{{number}}", "n": number}} for number in range({ROWS})]
    settings = {{}} if executor == "here" else {{"executor": executor, "workers": {WORKERS}}}
    if out.endswith(".batch.jsonl"):
        settings["output"] = "batch"
    if out.endswith("parts.parquet"):
        settings["form"], out = "parquet", out.removesuffix(".parquet")
    client = partial(AsyncGpt, server_url=url, model="m", timeout=Timeout.of(2.0))
    report = gpt.batch.run(
        rows, out, client=client, prompt="row {{n}}", shard_rows={SHARD_ROWS}, concurrency={CONCURRENCY}, attempts=12,
        **settings,
    )
    print("done" if report.done else report.stopped, flush=True)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


class Server(FaultServer):
    """Answers each row by its number, and counts what it answered."""

    def __init__(self, faults: Sequence[Fault] = (), seed: int = 0) -> None:
        super().__init__(self._row, faults=faults, seed=seed, keep=0)
        self.rows: Counter[int] = Counter()
        self.news = threading.Condition()
        self._chance = random.Random(seed)

    def _row(self, request: Any) -> str:
        number = int(re.fullmatch(r"row (\d+)", request["messages"][-1]["content"])[1])  # type: ignore[index]
        time.sleep(self._chance.uniform(0.2, 1.8) * ANSWER)
        with self.news:
            self.rows[number] += 1
            self.news.notify_all()
        return f"answer {number}"

    def wait_for(self, rows: int, process: subprocess.Popen[str]) -> None:
        """Wait until so many different rows were answered, or the process has ended."""
        with self.news:
            while len(self.rows) < rows and process.poll() is None:
                self.news.wait(0.02)


class Outcome(NamedTuple):
    """What came of jobs that were killed so often."""

    kills: int
    jobs: int
    twice: int
    """Requests that were answered more than once, each time after the first."""
    allowed: int
    """How many may be: as many as were under way at the kills, at most."""


def killed(
    folder: Path, executor: str, kills: int, *, out: str = "out", seed: int = 0, faults: Sequence[Fault] = (), address: str = ""
) -> Outcome:
    """Run a job to its end, killing it up to so often, and check it. Raises AssertionError.

    `address` is that of the Ray cluster, which must be one of this process.
    """
    chance = random.Random(f"{executor}/{out}/{seed}")
    script = folder / "job.py"
    script.write_text(JOB)
    said = folder / "said"
    environment = os.environ | ({"RAY_ADDRESS": address} if address else {})
    done = 0
    sessions = []
    with Server(faults, seed) as server:
        while True:
            with said.open("w") as stderr:
                process = subprocess.Popen(
                    [sys.executable, str(script), server.url, str(folder / out), executor],
                    stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True, env=environment,
                )  # fmt: skip
            sessions.append(process.pid)
            in_this_run = 0
            while done < kills and process.poll() is None:
                _moment(server, process, chance)
                # Three workers that died at one shard would stop the job, as they should.
                whom = chance.choice(("driver", "worker", "all") if in_this_run < 2 else ("driver", "all"))
                if process.poll() is None:
                    _kill(process, whom, chance)
                    done += 1
                    in_this_run += 1
            try:
                told, _ = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                for one in _of_sessions(sessions):
                    one.kill()
                process.communicate()
                raise AssertionError(f"the job did not end; it said {said.read_text()[-2000:]}") from None
            if process.returncode != -signal.SIGKILL:
                break
        wrong = said.read_text()
        assert (told, wrong) == ("done\n", ""), (told, wrong[-3000:])  # not a word of Ray's either
        _none_left(sessions)
        _check(folder, out)
        missing = set(range(ROWS)) - server.rows.keys()
        assert not missing, f"never asked: {sorted(missing)}"
        twice = sum(server.rows.values()) - len(server.rows)
    allowed = done * CONCURRENCY
    if not faults:
        assert twice <= allowed, f"{twice} were answered twice; {allowed} at most were under way at {done} kills"
    return Outcome(done, 1, twice, allowed)


def _moment(server: Server, process: subprocess.Popen[str], chance: random.Random) -> None:
    """Wait for a moment to kill a job: one in its start, its middle, or its end."""
    left = ROWS - len(server.rows)
    when = chance.choice(("start", "middle", "middle", "middle", "end"))
    if when == "start" or not left:
        time.sleep(chance.uniform(0.0, 1.2))
    elif when == "middle":
        server.wait_for(ROWS - left + chance.randint(1, max(1, left // 2)), process)
        time.sleep(chance.uniform(0.0, 0.05))
    else:
        server.wait_for(ROWS, process)
        time.sleep(chance.uniform(0.0, 0.3))


def _kill(process: subprocess.Popen[str], whom: str, chance: random.Random) -> None:
    """Kill by SIGKILL. Where there is no worker yet, it is the driver."""
    # Workers of ours are below the driver, those of a Ray cluster below the process that started it.
    workers = [one.pid for one in psutil.Process().children(recursive=True) if _is_worker(one)]
    targets = (
        [process.pid, *workers]
        if whom == "all"
        else [chance.choice(workers)]
        if workers and whom == "worker"
        else [process.pid]
    )
    for pid in targets:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if process.pid in targets:
        process.wait()


def _is_worker(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:  # gone, or a zombie
        return False
    return bool(command) and (
        command[0].startswith(("ray::work_on", "ray::IDLE")) or any("spawn_main" in part for part in command)
    )


def _of_sessions(sessions: Sequence[int]) -> list[psutil.Process]:
    """The processes of these sessions that are there."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _none_left(sessions: Sequence[int]) -> None:
    """See that no worker outlives its driver by more than it may."""
    end = time.monotonic() + 30
    while left := _of_sessions(sessions):
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(0.1)


# --------------------------------------------------------------------------------------------------------------------
# What must hold
# --------------------------------------------------------------------------------------------------------------------


def _check(folder: Path, out: str) -> None:
    """See that each row is there once, whole, in order, and nothing else."""
    path = folder / (out.removesuffix(".parquet") if out.startswith("parts.") else out)
    joined = path.is_file()
    rows: list[Any] = []
    parts = [path] if joined else sorted(path.glob("part-*"))
    for part in parts:
        if out.endswith(".parquet"):
            import pyarrow.parquet

            rows += pyarrow.parquet.read_table(part).to_pylist()
        else:
            data = part.read_bytes()
            assert data.endswith(b"\n"), f"{part} ends in a torn row"
            rows += [json.loads(line) for line in data.splitlines()]
    wanted = [(f"r{number}", f"answer {number}") for number in range(ROWS)]
    if ".batch." in out:
        assert b"" == (folder / out.replace(".jsonl", ".errors.jsonl")).read_bytes()
        found = [(row["custom_id"], row["response"]["body"]["choices"][0]["message"]["content"]) for row in rows]
    else:
        assert list(range(ROWS)) == [row["row"] for row in rows], "rows are missing, twice, or out of order"
        assert not [row for row in rows if row["error"] is not None]
        found = [(row["id"], row["text"]) for row in rows]
    assert wanted == found
    job = Path(f"{path}.job") if joined else path
    manifest = json.loads((job / "_manifest.json").read_text())
    assert (ROWS, 0, joined) == (manifest["rows"], manifest["failed"], manifest["joined"])
    names = {one.name for one in job.iterdir()} - {part.name for part in parts}
    assert {"_job", "_manifest.json"} == names, names
    inner = {one.name for one in (job / "_job").iterdir()} - {"job.json", "lock", "shards", "control.json"}
    assert not inner - {"input.index", "input.jsonl"}, inner
    assert {f"{number:05d}.json" for number in range(ROWS // SHARD_ROWS)} == {
        one.name for one in (job / "_job/shards").iterdir()
    }


# --------------------------------------------------------------------------------------------------------------------
# Rounds
# --------------------------------------------------------------------------------------------------------------------


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray cluster of this machine alone, with room for the workers. Gives its address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A token of its own, by which its drivers are let in: else Ray would make one in the home folder.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:  # short: sockets are in it
        ray.init(
            address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            object_store_memory=100_000_000, _temp_dir=folder,
        )  # fmt: skip
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()


def rounds(executor: str, kills: int, *, faults: Sequence[Fault] = (), address: str = "") -> bool:
    """Kill jobs so often, each up to five times, and print what came of it. Gives whether all held."""
    began = time.monotonic()
    total = Outcome(0, 0, 0, 0)
    while total.kills < kills:
        out = OUTPUTS[total.jobs % len(OUTPUTS)]
        with tempfile.TemporaryDirectory() as folder:
            wanted = min(5, kills - total.kills)
            try:
                came = killed(Path(folder), executor, wanted, out=out, seed=total.jobs, faults=faults, address=address)
            except AssertionError as error:
                print(f"{executor}, job {total.jobs}, {out}: {error}", flush=True)
                return False
        total = Outcome(*map(sum, zip(total, came, strict=True)))
    print(
        f"{executor:10}{'faults' if faults else '':8}{total.kills:5} kills{total.jobs:5} jobs{total.twice:6} answered twice, of "
        f"{total.allowed} under way at most{time.monotonic() - began:7.0f} s",
        flush=True,
    )
    return True


def main() -> None:
    """Kill jobs on the named executors, or on all."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    held = True
    for executor in sys.argv[2:] or ("here", "processes", "ray"):
        if executor == "ray":
            wanted = min(kills, 20)
            with cluster() as address:
                held = rounds(executor, wanted, address=address) and held
                held = rounds(executor, wanted // 4, faults=FAULTS, address=address) and held
        else:
            held = rounds(executor, kills) and held
            held = rounds(executor, kills // 4, faults=FAULTS) and held
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cluster"]:
        with cluster() as found:
            print(found, flush=True)
            sys.stdin.read()
    else:
        main()
