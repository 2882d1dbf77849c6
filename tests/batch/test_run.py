"""Jobs from their rows to their output: against a server on loopback, with everything in between."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import gpt.batch
from gpt import AsyncGpt, AuthenticationError, ConnectError, Gpt, GptError, InvalidRequestError, Price, Retry, ServerError
from gpt.batch import BusyError, DifferentError, Progress
from gpt.testing import Fault, FaultServer, no_waiting

ROWS = [{"id": f"r{number}", "n": number} for number in range(25)]
TEXTS = [f"answer to row {number}" for number in range(25)]


@dataclass
class River:
    length: int


class Server(FaultServer):
    """Answers a prompt by its own text; counts what it answered. Rows in `bad` are refused."""

    def __init__(self, *faults: Fault, bad: frozenset[int] = frozenset()) -> None:
        super().__init__(self._reply, faults=faults)
        self.asked: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        self.bad = bad
        self.refusal: dict[str, Any] = {"error": {"message": "no such thing", "type": "invalid_request_error"}}
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.gate.set()

    def _reply(self, request: Any) -> Any:
        text = request["messages"][-1]["content"]
        self.begun.set()
        self.gate.wait(30)
        with self._lock:
            self.asked[text] += 1
            self.models[request.get("model")] += 1
        found = re.search(r"\d+", text)
        if found is not None and int(found[0]) in self.bad:
            return {"error": {"message": f"{text} is no good", "code": 400, "type": "invalid_request_error"}}
        return f"answer to {text}"


def job(server: Server, out: Path, rows: Any = ROWS, **settings: Any) -> gpt.batch.Report:
    """A job over rows with a number each."""
    given = {"client": server.url, "model": "m", "prompt": "row {n}", "shard_rows": 10, "concurrency": 4} | settings
    return gpt.batch.run(rows, out, **given)


def texts(out: Path) -> list[str | None]:
    return [row.text for row in gpt.batch.read(out)]


# --------------------------------------------------------------------------------------------------------------------
# Rows in, rows out
# --------------------------------------------------------------------------------------------------------------------


def lines(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def cells(path: Path) -> Path:
    path.write_text("id,n\n" + "".join(f"r{number},{number}\n" for number in range(25)))
    return path


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(lambda folder: ROWS, id="list"),
        pytest.param(lambda folder: iter(ROWS), id="generator"),
        pytest.param(lambda folder: lines(folder / "rows.jsonl"), id="jsonl"),
        pytest.param(lambda folder: str(cells(folder / "rows.csv")), id="csv"),
    ],
)
@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet", "out"])
def test_rows(tmp_path: Path, rows: Any, out: str) -> None:
    """As many rows come out as go in, in the order of the input, whatever they come from and go to."""
    with Server() as server:
        report = job(server, tmp_path / out, rows(tmp_path))
    assert (True, 0, 25, 25, None) == (report.done, report.failed, report.rows, report.rows_here, report.stopped)
    made = list(report.answers())
    assert list(range(25)) == [row.row for row in made]
    assert [f"r{number}" for number in range(25)] == [row.id for row in made]
    assert TEXTS == [row.text for row in made]
    assert set(Counter(f"row {number}" for number in range(25)).items()) == set(server.asked.items())


def test_one_file(tmp_path: Path) -> None:
    """One file is all that is left of the parts, and a folder that remembers the job."""
    with Server() as server:
        job(server, tmp_path / "out.jsonl")
        again = job(server, tmp_path / "out.jsonl")
    assert ["out.jsonl", "out.jsonl.job"] == sorted(os.listdir(tmp_path))
    assert ["_job", "_manifest.json"] == sorted(os.listdir(tmp_path / "out.jsonl.job"))
    assert 25 == len((tmp_path / "out.jsonl").read_text().splitlines())
    assert (True, 0, 25) == (again.done, again.rows_here, again.tally.rows)
    assert 25 == server.answered


def test_folder(tmp_path: Path) -> None:
    """A folder has a part for each shard, and a manifest of them."""
    with Server() as server:
        job(server, tmp_path / "out")
    assert ["_job", "_manifest.json", "part-00000.jsonl", "part-00001.jsonl", "part-00002.jsonl"] == sorted(
        os.listdir(tmp_path / "out")
    )
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert [10, 10, 5] == [part["rows"] for part in manifest["parts"]]
    for part in manifest["parts"]:
        assert part["bytes"] == (tmp_path / "out" / part["name"]).stat().st_size


def test_no_rows(tmp_path: Path) -> None:
    """A generator without rows makes an output without rows."""
    with Server() as server:
        report = job(server, tmp_path / "out.jsonl", iter(()))
    assert (True, 0, "") == (report.done, report.rows, (tmp_path / "out.jsonl").read_text())


@pytest.mark.parametrize("count", [9, 10, 11, 20])
def test_generator_ends_anywhere(tmp_path: Path, count: int) -> None:
    """Where a generator ends is found out, also where a shard ends just there."""
    with Server() as server:
        report = job(server, tmp_path / "out", iter(ROWS[:count]))
        again = job(server, tmp_path / "out", iter(ROWS[:count]))
    assert (count, TEXTS[:count]) == (report.rows, texts(tmp_path / "out"))
    assert (True, 0) == (again.done, again.rows_here)


def test_service_format(tmp_path: Path) -> None:
    """The service's batch file goes in unchanged, and its output and error files come out."""
    rows = tmp_path / "batch.jsonl"
    body = {"model": "m", "messages": [{"role": "user", "content": "row 0"}]}
    ask = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    rows.write_text(f"{json.dumps(ask)}\n{json.dumps(ask | {'custom_id': 'b', 'url': '/v1/embeddings'})}\n")
    with Server() as server:
        report = gpt.batch.run(rows, tmp_path / "out.jsonl", client=server.url, output="batch")
    good = json.loads((tmp_path / "out.jsonl").read_text())
    bad = json.loads((tmp_path / "out.errors.jsonl").read_text())
    assert (True, 1) == (report.done, report.failed)
    assert ("a", 200, "answer to row 0") == (
        good["custom_id"],
        good["response"]["status_code"],
        good["response"]["body"]["choices"][0]["message"]["content"],
    )
    assert ("b", "InvalidRequestError") == (bad["custom_id"], bad["error"]["code"])


def test_bad_rows(tmp_path: Path) -> None:
    """Rows that cannot be read, are no requests, or are refused, stand as errors beside the good ones."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"n": 0}\n{"n": 1\n{"m": 2}\n{"n": 3}\n{"n": 4}\n')
    with Server(bad=frozenset({3})) as server:
        report = job(server, tmp_path / "out.jsonl", rows)
    made = list(report.answers())
    assert ["answer to row 0", None, None, None, "answer to row 4"] == [row.text for row in made]
    assert [None, "InvalidRequestError", "InvalidRequestError", "BadRequestError", None] == [
        row.error and row.error["type"] for row in made
    ]
    assert (3, {"InvalidRequestError": 2, "BadRequestError": 1}) == (report.failed, report.tally.errors)


def test_into(tmp_path: Path) -> None:
    """Values of a type are asked for, and stand in their rows."""
    with FaultServer('{"length": 5}') as server:
        report = gpt.batch.run(["Nile"], tmp_path / "out.jsonl", client=server.url, model="m", into=River)
    assert [{"length": 5}] == [row.value for row in report.answers()]


def test_calls_are_as_the_clients(tmp_path: Path) -> None:
    """A caller's client is asked with its own settings, counts what is asked, and stays open."""
    with Server() as server:
        with Gpt(server_url=server.url, model="own", max_retries=0) as client:
            report = gpt.batch.run(["row 1"], tmp_path / "a.jsonl", client=client)
            assert 1 == client.usage.answers
            assert "answer to row 2" == client.chat.complete("row 2").text
        assert (True, {"own": 2}) == (report.done, dict(server.models))


def test_on_asyncio(tmp_path: Path) -> None:
    """The same runs on a loop of the caller's, beside other tasks."""

    async def main(url: str) -> gpt.batch.Report:
        async with AsyncGpt(server_url=url, model="m") as client:
            report, answer = await asyncio.gather(
                gpt.batch.arun(ROWS, tmp_path / "out.jsonl", client=client, prompt="row {n}"), client.chat.complete("row 99")
            )
        assert "answer to row 99" == answer.text
        return report

    with Server() as server:
        assert TEXTS == [row.text for row in asyncio.run(main(server.url)).answers()]


# --------------------------------------------------------------------------------------------------------------------
# It stops, and goes on
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [lambda: ROWS, lambda: iter(ROWS)], ids=["list", "generator"])
@pytest.mark.parametrize("limit", [0, 1, 10, 13, 25, 99])
def test_limit(tmp_path: Path, rows: Any, limit: int) -> None:
    """The first rows alone are tried, and are not asked again when the others are."""
    with Server() as server:
        first = job(server, tmp_path / "out.jsonl", rows(), limit=limit)
        assert min(limit, 25) == server.answered == first.rows_here
        # Whether a generator has more is not known until it is asked.
        assert (limit > 25 or (limit == 25 and isinstance(rows(), list))) == first.done
        rest = job(server, tmp_path / "out.jsonl", rows())
    assert (True, 25, TEXTS) == (rest.done, server.answered, texts(tmp_path / "out.jsonl"))


def test_changed_job(tmp_path: Path) -> None:
    """A job whose answers would be others is refused with the difference named; what changes no answer is not looked at."""
    with Server() as server, Server() as moved:
        job(server, tmp_path / "out", limit=12)
        for changed, told in [
            ({"prompt": "Row {n}"}, 'prompt was "row {n}", is now "Row {n}"'),
            ({"model": "other"}, 'model was "m", is now "other"'),
            ({"params": {"temperature": 0}}, "params was null"),
            ({"system": "Be brief."}, 'system was null, is now "Be brief."'),
            ({"rows": ROWS[:20]}, "rows"),
            ({"output": "completions"}, 'output was null, is now "completions"'),
            ({"form": "parquet"}, 'form was "jsonl", is now "parquet"'),
            ({"shard_rows": 5}, "shard_rows"),
            ({"into": int}, "into was null"),
        ]:
            with pytest.raises(DifferentError, match=re.escape(told)):
                job(server, tmp_path / "out", **changed)
        with pytest.raises(InvalidRequestError, match="row 11 is not what it was"):
            job(server, tmp_path / "out", [*ROWS[:11], {"n": 33}, *ROWS[12:]])
        assert 12 == server.answered
        report = job(moved, tmp_path / "out", concurrency=2, requests_per_minute=100_000)
    assert (True, 13, TEXTS) == (report.done, moved.answered, texts(tmp_path / "out"))


def test_changed_rows_of_a_part(tmp_path: Path) -> None:
    """Rows in memory are compared with those of parts that are done, too."""
    with Server() as server:
        job(server, tmp_path / "out", limit=20)
        for rows in ([{"n": 99}, *ROWS[1:]], [*ROWS[1:], ROWS[0]]):
            with pytest.raises(InvalidRequestError, match="rows 0 to 9 are not what they were"):
                job(server, tmp_path / "out", rows)
        assert 20 == server.answered


def test_nothing_done_yet(tmp_path: Path) -> None:
    """A job that has come to nothing may be changed freely."""
    with Server() as server:
        with pytest.raises(ConnectError):
            job(server, tmp_path / "out", client="http://127.0.0.1:9/v1", give_up=0)
        report = job(server, tmp_path / "out", prompt="Row {n}")
    assert "answer to Row 0" == texts(tmp_path / "out")[0]
    assert report.done


def test_fork(tmp_path: Path) -> None:
    """A changed job begins under the first free name, and goes on there when it is run again."""
    with Server() as server:
        job(server, tmp_path / "out.jsonl", limit=5)
        first = job(server, tmp_path / "out.jsonl", prompt="Row {n}", fork=True, limit=3)
        other = job(server, tmp_path / "out.jsonl", prompt="ROW {n}", fork=True)
        second = job(server, tmp_path / "out.jsonl", prompt="Row {n}", fork=True)
        own = job(server, tmp_path / "out.jsonl", fork=True)
    names = [str(tmp_path / name) for name in ("out-2.jsonl", "out-3.jsonl", "out-2.jsonl", "out.jsonl")]
    assert names == [first.out, other.out, second.out, own.out]
    assert [3, 25, 22, 20] == [one.rows_here for one in (first, other, second, own)]
    assert 25 * 3 == server.answered == len(server.asked)


@pytest.mark.parametrize("out", ["out", "out.jsonl", "out.parquet"])
@pytest.mark.parametrize("output", ["rows", "batch"])
def test_retry_failed(tmp_path: Path, out: str, output: str) -> None:
    """Failed rows are asked again, those alone, and what comes stands in their places."""
    if (out, output) == ("out.parquet", "batch"):
        return
    bad = frozenset({0, 7, 12})
    with Server(bad=bad) as server:
        first = job(server, tmp_path / out, output=output)
        assert (True, 3) == (first.done, first.failed)
        server.bad = frozenset({7})
        some = job(server, tmp_path / out, output=output, retry_failed=True)
        assert (True, 1, 3, 25) == (some.done, some.failed, some.rows_here, some.tally.rows)
        server.bad = frozenset()
        assert 0 == job(server, tmp_path / out, output=output).rows_here
        last = job(server, tmp_path / out, output=output, retry_failed=True)
        assert (True, 0, 1) == (last.done, last.failed, last.rows_here)
        assert 0 == job(server, tmp_path / out, output=output, retry_failed=True).rows_here
    assert 25 + 3 + 1 == server.answered
    assert TEXTS == texts(tmp_path / out)
    assert list(range(25)) == [row.row for row in last.answers()]


def test_retry_is_another_request(tmp_path: Path) -> None:
    """A row that is asked again because it failed is no repetition of the request that failed."""
    with Server(bad=frozenset({3})) as server:
        job(server, tmp_path / "out", ROWS[:5])
        job(server, tmp_path / "out", ROWS[:5], retry_failed=True)
        keys = [re.search(r"idempotency-key: (\S+)", head.lower())[1] for head, _ in server.requests]
    assert 6 == len(set(keys)) == len(keys)
    assert 1 == len({key.partition("-")[0] for key in keys[:5]})


def test_slow_source(tmp_path: Path) -> None:
    """The first rows of a source that takes its time are asked before the last are there."""
    asked = threading.Event()

    def rows() -> Any:
        yield from ROWS[:24]
        assert asked.wait(30)
        yield ROWS[24]

    with Server() as server:
        first = server._reply

        def reply(request: Any) -> Any:
            asked.set()
            return first(request)

        server.reply = reply
        report = job(server, tmp_path / "out", rows())
    assert (True, TEXTS) == (report.done, texts(tmp_path / "out"))


def test_nothing_left(tmp_path: Path) -> None:
    """A job that cannot begin leaves nothing behind."""
    for rows in ("there-is-none.jsonl", 3, []):
        for out in ("out.jsonl", "out"):
            with pytest.raises(InvalidRequestError):
                gpt.batch.run(rows, tmp_path / out, client="http://127.0.0.1:9/v1")
    assert [] == os.listdir(tmp_path)


def test_retry_is_broken_off(tmp_path: Path) -> None:
    """A retry that was broken off goes on, also without being asked to retry."""
    with Server(bad=frozenset(range(25))) as server:
        first = job(server, tmp_path / "out.jsonl", attempts=1)
        assert (True, 25) == (first.done, first.failed)
        server.bad = frozenset()
        some = job(server, tmp_path / "out.jsonl", retry_failed=True, limit=13)
        assert ("limit", 13) == (some.stopped, some.rows_here)
        rest = job(server, tmp_path / "out.jsonl")
    assert (True, 0, 12, TEXTS) == (rest.done, rest.failed, rest.rows_here, texts(tmp_path / "out.jsonl"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_tokens": 60}, "max_tokens"),
        ({"max_cost": "0.00003"}, "max_cost"),
        ({"deadline": 0}, "deadline"),
    ],
)
def test_stops(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    """A limit of the job stops it before it is passed, and the job goes on where it is raised."""
    prices = {"m": Price(input=1, output=1)}
    with Server() as server:
        client = AsyncGpt(server_url=server.url, prices=prices)
        first = job(server, tmp_path / "out", client=client, **settings)
        assert (reason, False) == (first.stopped, first.done)
        assert first.rows_here < 25
        assert first.tally.tokens <= 60 or reason != "max_tokens"
        again = job(server, tmp_path / "out", client=client, **settings)
        assert (reason, 0) == (again.stopped, again.rows_here)
        rest = job(server, tmp_path / "out", client=client)
        asyncio.run(client.close())
    assert (True, 25, TEXTS) == (rest.done, server.answered, texts(tmp_path / "out"))


def test_unknown_cost(tmp_path: Path) -> None:
    """A limit on cost that cannot be kept to stops the job, and says why."""
    with Server() as server, pytest.raises(GptError, match="max_cost: what an answer costs is not known"):
        job(server, tmp_path / "out", max_cost=1)
    assert server.answered < 25


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=401), AuthenticationError),
        (Fault(status=503), ServerError),
        (Fault(status=404, body={"error": {"message": "no model", "code": "model_not_found"}}), GptError),
    ],
)
def test_stopped_by_an_error(tmp_path: Path, fault: Fault, error: type[GptError]) -> None:
    """What each row would fail with stops the job and is raised; nothing of it is kept."""
    with Server(fault) as server:
        with no_waiting(), pytest.raises(error):
            job(server, tmp_path / "out", give_up=0)
        server.faults = ()
        report = job(server, tmp_path / "out")
    assert (True, 0, TEXTS) == (report.done, report.failed, texts(tmp_path / "out"))


def test_first_rows_fail_alike(tmp_path: Path) -> None:
    """First rows that fail in the same words stop the job; in others they are kept as they are."""
    refused = {"error": {"message": "unknown field", "type": "invalid_request_error"}}
    with Server(Fault(status=400, body=refused)) as server:
        with pytest.raises(GptError, match="unknown field") as caught:
            job(server, tmp_path / "out")
        assert ["the first 10 rows all failed so; none of them was kept"] == caught.value.__notes__
        assert server.answered < 25
        few = job(server, tmp_path / "few", ROWS[:9])
        assert (True, 9) == (few.done, few.failed)
    with Server(bad=frozenset(range(25))) as server:
        each = job(server, tmp_path / "each")
        assert (True, 25) == (each.done, each.failed)


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(rate=0.3, status=500)],
        [Fault(rate=0.3, status=429, headers={"retry-after": "0"})],
        [Fault(rate=0.3, garbage=b"SSH-2.0-OpenSSH_9.2\r\n")],
        [Fault(rate=0.2, reset="body"), Fault(rate=0.2, cut=100), Fault(rate=0.2, content_type="text/html", body=b"<html>")],
        [Fault(times=60, status=503)],
    ],
    ids=["500", "429", "garbage", "broken", "away"],
)
def test_faults(tmp_path: Path, faults: list[Fault]) -> None:
    """What the service and the network get wrong costs no row."""
    with Server(*faults) as server, no_waiting():
        report = job(server, tmp_path / "out", attempts=30)
    assert (True, 0, TEXTS) == (report.done, report.failed, texts(tmp_path / "out"))


def test_hangs(tmp_path: Path) -> None:
    """A row whose answer does not come is asked again."""
    with Server(Fault(times=3, stall="head")) as server, no_waiting():
        client = AsyncGpt(server_url=server.url, timeout=0.3)
        report = job(server, tmp_path / "out", client=client)
        asyncio.run(client.close())
    assert (True, 0, TEXTS) == (report.done, report.failed, texts(tmp_path / "out"))


def test_gives_rows_up(tmp_path: Path) -> None:
    """A row that the service fails again and again is an error row at last, and holds up no other."""

    def failing(request: Any) -> Any:
        if request["messages"][-1]["content"] == "row 7":
            return {"error": {"message": "engine error", "code": 500}}
        return f"answer to {request['messages'][-1]['content']}"

    with FaultServer(failing) as server, no_waiting():
        client = AsyncGpt(server_url=server.url, model="m", retry=Retry(attempts=1))
        report = gpt.batch.run(ROWS, tmp_path / "out", client=client, prompt="row {n}", attempts=3)
        asyncio.run(client.close())
    errors = {row.row: row.error["type"] for row in report.answers() if row.error}
    assert (True, {7: "ServerError"}) == (report.done, errors)
    assert 3 == sum(b"row 7" in body for _, body in server.requests)


# --------------------------------------------------------------------------------------------------------------------
# Two at once, signals, leaving
# --------------------------------------------------------------------------------------------------------------------


def test_two_runs(tmp_path: Path) -> None:
    """A second run is kept out while the first is at work."""
    with Server() as server:
        server.gate.clear()
        first = threading.Thread(target=job, args=(server, tmp_path / "out"))
        first.start()
        try:
            server.begun.wait(30)
            with pytest.raises(BusyError, match=f"another run is at work in .*process {os.getpid()}"):
                job(server, tmp_path / "out")
        finally:
            server.gate.set()
            first.join()
    assert TEXTS == texts(tmp_path / "out")


def test_cancelled(tmp_path: Path) -> None:
    """Cancelling stops at once; what was answered is kept."""

    async def main(server: Server) -> None:
        seen = asyncio.Event()

        def progress(moment: Progress) -> None:
            if moment.in_flight == 4:
                seen.set()

        running = asyncio.create_task(
            gpt.batch.arun(
                ROWS, tmp_path / "out", client=server.url, model="m", prompt="row {n}", concurrency=4, progress=progress
            )
        )
        await seen.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with Server() as server:
        job(server, tmp_path / "out", limit=3, shard_rows=None)
        server.gate.clear()
        asyncio.run(main(server))
        server.gate.set()
        report = job(server, tmp_path / "out", shard_rows=None)
    assert (True, 22, TEXTS) == (report.done, report.rows_here, texts(tmp_path / "out"))


SCRIPT = """
import sys
import gpt.batch

def main(url, out):
    rows = [{"n": number} for number in range(25)]
    def progress(moment):
        print(moment.in_flight, moment.stopping, flush=True)
    try:
        gpt.batch.run(rows, out, client=url, model="m", prompt="row {n}", concurrency=4, progress=progress)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)

main(*sys.argv[1:])
"""


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_interrupted(tmp_path: Path, signals: list[int]) -> None:
    """Ctrl-C lets end what is under way; a second one does not wait for it. Either way the job goes on later."""
    with Server() as server:
        server.gate.clear()
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, server.url, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        told = iter(process.stdout.readline, "")
        next(line for line in told if line.startswith("4 "))
        process.send_signal(signals[0])
        next(line for line in told if "interrupted" in line)
        for more in signals[1:]:
            process.send_signal(more)
        if len(signals) == 1:
            server.gate.set()
        rest = process.communicate(timeout=30)[0]
        server.gate.set()
        assert (130, "interrupted") == (process.returncode, rest.split("\n")[-2])
        kept = gpt.batch.status(tmp_path / "out").tally.rows
        assert (4 if len(signals) == 1 else 0) == kept
        report = job(server, tmp_path / "out", [{"n": number} for number in range(25)], shard_rows=None)
    assert (25 - kept, TEXTS) == (report.rows_here, texts(tmp_path / "out"))


def test_progress(tmp_path: Path) -> None:
    """Progress is told at the end, with what earlier runs did; what the caller's function raises stops the job and comes out."""
    told: list[Progress] = []

    def failing(moment: Progress) -> None:
        if moment.done:
            raise ZeroDivisionError

    with Server() as server:
        job(server, tmp_path / "out", limit=7)
        with pytest.raises(ZeroDivisionError):
            job(server, tmp_path / "out", progress=failing)
        report = job(server, tmp_path / "out", progress=told.append)
    assert told[-1] == report.last
    assert (25, 25, 0, 100.0, 3, 3) == (
        report.last.done,
        report.last.total,
        report.last.failed,
        report.last.percent,
        report.last.shards_done,
        report.last.shards,
    )
    assert 7 <= report.last.earlier < 25
    assert TEXTS == texts(tmp_path / "out")
    assert 25 == server.answered


def test_signals_are_given_back(tmp_path: Path) -> None:
    """What a caller has done with Ctrl-C and SIGTERM is as before."""
    own = {number: lambda *_: None for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    try:
        with Server() as server:
            job(server, tmp_path / "out")
        assert own == {number: signal.getsignal(number) for number in own}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with Server() as server:
        job(server, tmp_path / "again")
    assert before == {number: signal.getsignal(number) for number in own}


def test_in_a_loop(tmp_path: Path) -> None:
    """Where an event loop is running, the caller is told to await."""

    async def main() -> None:
        with pytest.raises(InvalidRequestError, match=re.escape("await gpt.batch.arun(...)")):
            gpt.batch.run(["hi"], tmp_path / "out", client="http://127.0.0.1:9/v1")

    asyncio.run(main())


def test_goes_on_with_a_row_of_another_model(tmp_path: Path) -> None:
    """A model that is not there stops a job that has no answers; in one that has some it is a fault of the row."""
    rows = [{"model": "m", "messages": [{"role": "user", "content": f"row {number}"}]} for number in range(4)]

    def reply(request: Any) -> Any:
        if request["model"] == "gone":
            return {"error": {"message": "no such model", "code": "model_not_found", "type": "invalid_request_error"}}
        return f"answer to {request['messages'][-1]['content']}"

    with FaultServer(reply) as server:
        with pytest.raises(GptError, match="no such model"):
            gpt.batch.run([{**rows[0], "model": "gone"}], tmp_path / "none", client=server.url)
        rows[2]["model"] = "gone"
        first = gpt.batch.run(rows, tmp_path / "out", client=server.url, limit=2)
        report = gpt.batch.run(rows, tmp_path / "out", client=server.url)
    assert (2, 2, 1) == (first.rows_here, report.rows_here, report.failed)
    assert [None, None, "ModelNotFoundError", None] == [row.error and row.error["type"] for row in report.answers()]


# --------------------------------------------------------------------------------------------------------------------
# Bad arguments
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"executor": "threads"}, 'executor: expected None, "processes", "ray", or an Executor'),
        ({"workers": 3}, "workers: needs an executor"),
        ({"shard": (3, 3)}, "shard: expected a task's number from 0"),
        ({"shard": 3}, "shard: expected"),
        ({"shard": (0, 2), "executor": "processes"}, "shard: a task that works on its own part needs no executor"),
        ({"shard": (0, 2), "dedupe": True}, "dedupe: tasks on several machines"),
        ({"shard_rows": 0}, "shard_rows: expected an int from 1"),
        ({"max_cost": -1}, "max_cost: expected an amount above 0"),
        ({"max_tokens": 0}, "max_tokens: expected an int from 1"),
        ({"client": 3}, "client: expected an AsyncGpt"),
        ({"params": {"temprature": 0}}, "temprature"),
        ({"form": "csv"}, "form: expected"),
        ({"concurrency": 0}, "concurrency: expected an int from 1"),
        ({"attempts": 0}, "attempts: expected an int from 1"),
        ({"give_up": -1}, "give_up: expected seconds from 0"),
        ({"deadline": -1}, "deadline: expected seconds from 0"),
        ({"limit": -1}, "limit: expected an int from 0"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"executor": "processes", "workers": 0}, "workers: expected an int from 1"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    """What is wrong is named, before anything is asked or made."""
    with pytest.raises(InvalidRequestError, match=re.escape(told)):
        gpt.batch.run(["hi"], tmp_path / "out", **{"client": "http://127.0.0.1:9/v1", **settings})
    assert not (tmp_path / "out" / "_job" / "job.json").exists()


def test_unknown_setting(tmp_path: Path) -> None:
    """An unknown keyword is a TypeError that names the nearest."""
    with pytest.raises(TypeError, match="did you mean 'max_tokens'"):
        gpt.batch.run(["hi"], tmp_path / "out", max_token=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (lambda folder: (folder / "out.jsonl").write_text("mine"), "is there already, and of no job"),
        (lambda folder: (folder / "out.errors.jsonl").write_text("mine"), "is there already, and of no job"),
    ],
)
def test_other_files(tmp_path: Path, there: Any, told: str) -> None:
    """What is there and of no job is left as it is."""
    there(tmp_path)
    with pytest.raises(InvalidRequestError, match=told):
        gpt.batch.run(["hi"], tmp_path / "out.jsonl", client="http://127.0.0.1:9/v1", output="batch")
    assert ["mine"] == [path.read_text() for path in tmp_path.iterdir() if path.is_file()]


def test_read_nothing(tmp_path: Path) -> None:
    """Where no job's output is, that is said."""
    with pytest.raises(InvalidRequestError, match="there is no output of a job at"):
        gpt.batch.read(tmp_path / "out")
