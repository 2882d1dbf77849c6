"""`gpt batch`: what each option does, what is said where, how it exits, and what comes of signals."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import gpt.batch
from gpt.backend import below
from gpt.cli.batch import _Interrupts, made_client
from gpt.cli.commands import parser, run
from gpt.cli.progress_line import ProgressLine
from gpt.testing import Fault, FaultServer, no_waiting
from gpt.testing.loopback import closed_port

ROWS = [{"id": f"r{number}", "n": number} for number in range(5)]
KEY = "the-key-of-a-server"
SAID = "gpt: stopping when what is under way has ended; once more stops at once"


class Server(FaultServer):
    """Answers a prompt by its own text, when its gate is open; refuses the rows in `bad`."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(self._reply, faults=faults)
        self.bad: frozenset[int] = frozenset()
        self.gate = threading.Event()
        self.gate.set()
        self.inside = self.most = 0

    def _reply(self, request: Any) -> Any:
        text = request["messages"][-1]["content"]
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.gate.wait(30)
        with self._lock:
            self.inside -= 1
        found = re.search(r"\d+", text)
        if found is not None and int(found[0]) in self.bad:
            return {"error": {"message": f"{text} is no good", "code": 400, "type": "invalid_request_error"}}
        return f"answer to {text}"

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.requests]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no server of the machine's own."""
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "SLURM_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is given: with a file of rows in it."""
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Done:
    """What a command came to."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def batch(folder: Path, server: Server, capfd: pytest.CaptureFixture[str]) -> Any:
    """The command, in this process, over the file of rows; further arguments go after."""

    def command(*arguments: str, rows: str | None = "rows.jsonl", out: str = "out.jsonl", to: bool = True) -> Done:
        asks = ("--base-url", server.url, "-m", "m", "-p", "row {n}") if to else ()
        status = run(["batch", *([rows] if rows else []), "-o", out, *asks, *arguments])
        return Done(status, *capfd.readouterr())

    return command


def rows_of(path: str | Path) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# --------------------------------------------------------------------------------------------------------------------
# Its outline
# --------------------------------------------------------------------------------------------------------------------


def test_job(batch: Any) -> None:
    """Each row has an answer, the summary goes to stderr, nothing to stdout; a second time there is nothing to do."""
    for _ in range(2):
        done = batch()
        assert (0, "") == (done.status, done.out)
        assert "Finished: 5 rows\n  answered  5\n" in done.err
    assert [f"answer to row {number}" for number in range(5)] == [row["text"] for row in rows_of("out.jsonl")]
    assert "5 rows by an earlier run" in done.err


def test_help() -> None:
    """Help fits a terminal, tells of each option, and loads nothing of the library."""
    code = (
        "import sys; from gpt.__main__ import main\n"
        "try: main(['batch', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('msgspec', 'httptools', 'asyncio', 'ssl', 'typing', 'gpt.batch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "80"},
    )
    *told, loaded = done.stdout.splitlines()
    assert ("[]", "") == (loaded, done.stderr)
    assert max(map(len, told)) <= 80
    for action in parser("batch")._actions:
        assert action.help
        assert any(
            f"  {option}" in line or f", {option}" in line for option in action.option_strings or ["IN"] for line in told
        )


def test_options_of_the_issue() -> None:
    """These are promised."""
    known = {option for action in parser("batch")._actions for option in action.option_strings}
    promised = {"--max-cost", "--max-tokens", "--deadline", "--retry-failed", "--fork", "--json", "-o", "--schema"}
    assert promised <= known


def test_each_option_is_tested() -> None:
    """No option goes without a test that names it."""
    source = Path(__file__).read_text()
    for action in parser("batch")._actions:
        assert any(f'"{option}' in source or f"'{option}" in source for option in action.option_strings or ["IN"]), action


# --------------------------------------------------------------------------------------------------------------------
# What is asked, and written
# --------------------------------------------------------------------------------------------------------------------


SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}'


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["-m", "other"], {"model": "other"}),
        (["-s", "Row {n}."], {"messages": [{"role": "system", "content": "Row 0."}, {"role": "user", "content": "row 0"}]}),
        (["--param", "temperature=0", "--param", "user=me"], {"temperature": 0, "user": "me"}),
        (["--param", 'stop=["a", "b"]', "--param", 'body={"zap": 1}'], {"stop": ["a", "b"], "zap": 1}),
        (["-p", "Tell {id}."], {"messages": [{"role": "user", "content": "Tell r0."}]}),
    ],
)
def test_asked(batch: Any, server: Server, options: list[str], asked: dict[str, Any]) -> None:
    """What is asked is what the options say."""
    assert 1 == batch(*options, "--limit", "1").status  # four rows are left
    assert asked.items() <= server.bodies[0].items()


def test_prompt_file(batch: Any, server: Server, folder: Path) -> None:
    """A template may stand in a file; its last line break is not part of it."""
    (folder / "prompt.txt").write_text("Row\n{n}.\n")
    given = ("--base-url", server.url, "-m", "m", "--prompt-file", "prompt.txt")
    assert 0 == batch(*given, to=False).status
    assert "Row\n0." in [body["messages"][0]["content"] for body in server.bodies]
    (folder / "prompt.txt").write_text("{")
    assert "gpt: --prompt-file: the { at character 0" in batch(*given, to=False).err


@pytest.mark.parametrize("as_file", [False, True])
def test_schema(batch: Any, server: Server, folder: Path, as_file: bool) -> None:
    """Each answer is a value of the schema, which stands there or in a file; --reasks asks again where it is none."""
    (folder / "schema.json").write_text(SCHEMA)
    answers = iter(["no value"])
    server.reply = lambda request: next(answers, '{"a": 5}')
    done = batch("--schema", "schema.json" if as_file else SCHEMA, "--reasks", "1", "--concurrency", "1")
    assert (0, [{"a": 5}] * 5, 6) == (done.status, [row["value"] for row in rows_of("out.jsonl")], server.answered)
    assert "json_schema" == server.bodies[0]["response_format"]["type"]


def test_no_reasks(batch: Any, server: Server) -> None:
    """Without --reasks an answer that is no value is an error, and the status says so."""
    answers = iter(['{"a": 1}', "no value"])
    server.reply = lambda request: next(answers, '{"a": 5}')
    done = batch("--schema", SCHEMA, "--concurrency", "1")
    assert (1, 5) == (done.status, server.answered)
    assert "failed    1: 1 ParseError" in done.err


def test_dedupe(batch: Any, server: Server) -> None:
    """Equal requests are asked once."""
    Path("same.jsonl").write_text('{"n": 7}\n' * 5)
    done = batch("--dedupe", rows="same.jsonl")
    assert (0, 1) == (done.status, server.answered)
    assert ["answer to row 7"] * 5 == [row["text"] for row in rows_of("out.jsonl")]
    assert "answered  5, of them 4 from the cache" in done.err


def test_input_format(batch: Any, server: Server, folder: Path) -> None:
    """Where the name does not tell, it is said what a file is."""
    (folder / "rows.txt").write_text("n,m\n1,a\n2,b\n")
    assert 2 == batch(rows="rows.txt").status
    assert 0 == batch("--input-format", "csv", rows="rows.txt").status
    assert ["answer to row 1", "answer to row 2"] == [row["text"] for row in rows_of("out.jsonl")]


def test_inputs(batch: Any, folder: Path) -> None:
    """Files under gzip and folders are read."""
    (folder / "in").mkdir()
    for name in ("a.jsonl.gz", "in/a.jsonl.gz", "in/b.jsonl.gz"):
        (folder / name).write_bytes(gzip.compress((folder / "rows.jsonl").read_bytes()))
    assert 0 == batch(rows="a.jsonl.gz").status
    assert 0 == batch(rows="in", out="all").status
    assert (5, 10) == (len(rows_of("out.jsonl")), len(rows_of("all/part-00000.jsonl")))


def test_write(batch: Any, server: Server) -> None:
    """Whole completions are kept, and the service's own format is written, with its errors apart."""
    server.bad = frozenset({3})
    assert 1 == batch("--write", "completions").status
    assert "chat.completion" == rows_of("out.jsonl")[0]["completion"]["object"]
    done = batch("--write", "batch", out="service.jsonl")
    assert 1 == done.status
    assert ["r0", "r1", "r2", "r4"] == [row["custom_id"] for row in rows_of("service.jsonl")]
    assert ["r3"] == [row["custom_id"] for row in rows_of("service.errors.jsonl")]
    batch("--write", "rows", out="plain.jsonl")
    assert "completion" not in rows_of("plain.jsonl")[0]


@pytest.mark.parametrize(
    ("keep", "kept"), [("n", {"n": 0}), ("*", {"id": "r0", "n": 0}), ("id,n", {"id": "r0", "n": 0}), ("", None)]
)
def test_keep(batch: Any, keep: str, kept: Any) -> None:
    """The fields that are named stand with the answer."""
    assert 0 == batch("--keep", keep).status
    assert kept == rows_of("out.jsonl")[0].get("input")


def test_parts(batch: Any, folder: Path) -> None:
    """A folder has parts of the kind and size that are said."""
    assert 0 == batch("--parts", "parquet", "--shard-rows", "2", out="out").status
    names = [f"part-{number:05d}.parquet" for number in range(3)]
    assert names == sorted(name for name in os.listdir("out") if name.startswith("part"))
    assert [row["n"] for row in ROWS] == [(row.input or {})["n"] for row in gpt.batch.read("out")]


# --------------------------------------------------------------------------------------------------------------------
# Who answers
# --------------------------------------------------------------------------------------------------------------------


def test_fallback(batch: Any, server: Server) -> None:
    """Of several servers the next is asked where the one before fails; each has the key that is its own."""
    Path("key").write_text(f"# the first\n{KEY}-1\n")
    Path("key2").write_text(f"{KEY}-2 # the second\n")
    nobody = f"http://127.0.0.1:{closed_port()}/v1"
    given = ("-m", "m", "-p", "row {n}", "--base-url", nobody, "--base-url", server.url, "--retries", "0")
    done = batch(*given, "--api-key-file", "key", "--api-key-file", "key2", to=False)
    assert 0 == done.status
    assert {f"Bearer {KEY}-2"} == {
        line.partition(": ")[2] for head, _ in server.requests for line in head.split("\r\n") if "authorization" in line.lower()
    }


def test_environment(batch: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --base-url the environment's server is asked, with its key, which is shown nowhere and written nowhere."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.bad = frozenset({1})
    done = batch("-m", "m", "-p", "row {n}", to=False)
    assert f"Bearer {KEY}" in server.requests[0][0]
    server.faults = (Fault(status=401, body={"error": {"message": f"{KEY} is no key"}}),)
    refused = batch("-m", "m", "-p", "Row {n}", out="other", to=False)
    assert (1, 1) == (done.status, refused.status)
    written = [path.read_bytes() for path in Path().rglob("*") if path.is_file()]
    for told in [done.out, done.err, *written]:
        assert (KEY if isinstance(told, str) else KEY.encode()) not in told


def test_key_file(batch: Any, server: Server) -> None:
    """A key in a file is shown nowhere and written nowhere, also where other processes work."""
    Path("key").write_text(KEY)
    done = batch("--api-key-file", "key", "--executor", "processes", "--workers", "1")
    assert 0 == done.status, done.err
    assert f"Bearer {KEY}" in server.requests[0][0]
    written = [path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != "key"]
    assert not any(KEY.encode() in data for data in written)
    assert KEY not in done.out + done.err


def test_profile(batch: Any, server: Server) -> None:
    """A known kind of server is asked in its own words."""
    assert 0 == batch("--profile", "mistral", "--param", "max_completion_tokens=9").status
    assert {9} == {body["max_tokens"] for body in server.bodies}


def test_adapt(batch: Any, server: Server) -> None:
    """A parameter that the model says it does not take is put right, and the row asked again."""
    said = "Unsupported parameter: 'temperature' is not supported with this model."
    refused = {
        "error": {"message": said, "type": "invalid_request_error", "param": "temperature", "code": "unsupported_parameter"}
    }
    for status, adapt in ((1, ()), (0, ("--adapt",))):
        server.faults, server.struck = (Fault(status=400, body=refused, times=1),), type(server.struck)()
        done = batch("--param", "temperature=0", "--concurrency", "1", *adapt, out=f"{status}.jsonl")
        assert status == done.status, done.err
    assert [True, False] == ["temperature" in body for body in server.bodies[5:7]]


def test_local(batch: Any) -> None:
    """The model in the box answers where nobody else is named, and that is said."""
    done = batch("-p", "row {n}", "--param", "max_tokens=2", "--slots", "2", "--context", "256", "--threads", "1", to=False)
    assert (0, 5) == (done.status, len(rows_of("out.jsonl"))), done.err
    assert "so the model in the box answers" in done.err


def test_engine() -> None:
    """What is said of the model in this process goes to it, also where it is one of several."""
    settings = {"slots": 3, "context": 512, "threads": 2}
    for urls in (("local:",), ("http://127.0.0.1:9/v1", "local:")):
        backend = made_client(urls, {"timeout": 5.0}, settings).backend
        entries = getattr(backend, "_entries", None)
        backend = backend if entries is None else entries[1].backend
        local = below(backend, "_backend")
        local = getattr(local, "_backend", local)
        assert (3, 512, 2) == (local._slots, local._context, local._threads)


def test_price(batch: Any) -> None:
    """What tokens cost is told of the whole job."""
    assert "cost      $25.00" in batch("--price", "1000000,2000000").err


# --------------------------------------------------------------------------------------------------------------------
# How fast, and what goes wrong
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--input-tpm", "the limit on input tokens is 5 a minute"),
        ("--output-tpm", "the limit on output tokens is 5 a minute"),
        ("--tpm", "prompt and answer together, and the limit is 5 a minute"),
    ],
)
def test_tokens_a_minute(batch: Any, server: Server, option: str, told: str) -> None:
    """A row that takes more tokens than a minute has is not asked."""
    done = batch(option, "5", "--param", "max_tokens=100", "-p", "many words " * 9 + "{n}")
    assert (1, 0) == (done.status, server.answered)
    assert all(told in row["error"]["message"] for row in rows_of("out.jsonl"))


def started(server: Server, *arguments: str, rows: str = "rows.jsonl", **more: Any) -> subprocess.Popen[str]:
    """The command, as a process."""
    given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | more
    asks = ["--base-url", server.url, "-m", "m", "-p", "row {n}"]
    return subprocess.Popen([sys.executable, "-m", "gpt", "batch", rows, "-o", "out.jsonl", *asks, *arguments], **given)


def moments(process: subprocess.Popen[str]) -> Iterator[Any]:
    """What it says in JSON, as it comes."""
    assert process.stdout is not None
    return map(json.loads, iter(process.stdout.readline, ""))


def test_requests_a_minute(server: Server, folder: Path) -> None:
    """Rows that have no turn within the limit wait for it; they do not hold up the end."""
    process = started(server, "--rpm", "1", "--json")
    next(moment for moment in moments(process) if (1, 0) == (moment["done"], moment["in_flight"]))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (130, 1) == (process.returncode, server.answered)
    last = json.loads(out.splitlines()[-1])
    assert ("summary", "interrupted", 1) == (last["type"], last["stopped"], last["rows"])


def test_concurrency(batch: Any, server: Server) -> None:
    """No more rows are asked at a time than that."""
    assert (0, 1) == (batch("--concurrency", "1").status, server.most)


def test_timeout(batch: Any, server: Server) -> None:
    """An attempt that takes longer is given up, and a row as often as is said."""
    server.faults = (Fault(stall="head"),)
    with no_waiting():
        done = batch("--timeout", "0.2", "--retries", "0", "--attempts", "1", "--limit", "1")
    assert (1, 1) == (done.status, server.answered)
    assert "1 RequestTimeoutError" in done.err


@pytest.mark.parametrize(("retries", "attempts", "asked"), [("0", "1", 1), ("0", "3", 3), ("1", "2", 4)])
def test_attempts(batch: Any, server: Server, retries: str, attempts: str, asked: int) -> None:
    """A row is asked so many times, each with so many further attempts."""
    server.faults = (Fault(status=500),)
    with no_waiting():
        done = batch("--retries", retries, "--attempts", attempts, "--limit", "1")
    assert (1, asked) == (done.status, server.answered)
    assert "1 ServerError" in done.err


def test_give_up(batch: Any, server: Server) -> None:
    """A service that is away stops the job, and the error says what it said."""
    server.faults = (Fault(status=503),)
    with no_waiting():
        done = batch("--give-up", "0", "--attempts", "1000", "--concurrency", "1")
    assert (1, "") == (done.status, done.out)
    assert re.match(r"gpt: .*503", done.err), done.err


# --------------------------------------------------------------------------------------------------------------------
# It stops, and goes on
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "head", "way"),
    [
        (["--limit", "2"], "Stopped (--limit): 2 of 5 rows", "the same command without --limit does the rest"),
        (["--deadline", "0"], "Stopped (--deadline): 0 of 5 rows", "the same command again does the rest"),
        (["--max-tokens", "7"], "Stopped (--max-tokens): 2 of 5 rows", "with a higher --max-tokens, or without it"),
        (
            ["--max-cost", "10.5", "--price", "1000000,2000000"],
            "Stopped (--max-cost): 2 of 5 rows",
            "with a higher --max-cost, or without it",
        ),
    ],
)
def test_stops(batch: Any, server: Server, options: list[str], head: str, way: str) -> None:
    """It stops where it is told to, says why, and goes on without that."""
    done = batch(*options, "--concurrency", "1")
    assert 1 == done.status
    assert head in done.err
    assert way in done.err
    assert (0, 5) == (batch().status, server.answered)


def test_unknown_cost(batch: Any) -> None:
    """A limit on cost without prices cannot be kept to, and the option that gives them is named."""
    done = batch("--max-cost", "1")
    assert 1 == done.status
    assert "--price" in done.err


def test_retry_failed(batch: Any, server: Server) -> None:
    """Rows that failed are asked again, those alone."""
    server.bad = frozenset({1, 3})
    done = batch()
    assert (1, 5) == (done.status, server.answered)
    assert "the same command with --retry-failed asks the failed rows again" in done.err
    server.bad = frozenset()
    assert (0, 7) == (batch("--retry-failed").status, server.answered)


def test_fork(batch: Any) -> None:
    """A job that was changed is refused, by what was changed; --fork begins it under another name."""
    batch("--limit", "1")
    done = batch("-p", "Row {n}")
    assert 2 == done.status
    assert (
        f'gpt: -o: the job at {Path("out.jsonl").resolve()} is another one: prompt was "row {{n}}", is now "Row {{n}}".'
        in done.err
    )
    done = batch("-p", "Row {n}", "--fork")
    assert 0 == done.status
    assert f"output    {Path('out-2.jsonl').resolve()}" in done.err
    assert "answer to Row 0" == rows_of("out-2.jsonl")[0]["text"]


def test_status(batch: Any, server: Server) -> None:
    """How a job stands is told on stdout, by --json as an object, and by the exit status."""
    done = batch("--status", rows=None, to=False)
    assert (2, "") == (done.status, done.out)
    assert "gpt: -o: there is no job at" in done.err
    batch("--limit", "2")
    done = batch("--status")
    assert (1, "") == (done.status, done.err)
    assert "Not finished: 2 of 5 rows\n  answered  2\n" in done.out
    assert "the same command again does the rest" in done.out
    assert "time" not in done.out
    batch()
    done = batch("--status", rows=None, to=False)
    assert 0 == done.status
    assert done.out.startswith("Finished: 5 rows\n")
    told = json.loads(batch("--status", "--json", rows=None, to=False).out)
    assert ("status", 5, 5, 0, True, None) == tuple(
        told[name] for name in ("type", "rows", "answered", "failed", "complete", "stopped")
    )
    assert 5 == server.answered


@pytest.mark.parametrize("executor", [(), ("--executor", "processes", "--workers", "1")])
def test_status_while_it_runs(batch: Any, server: Server, executor: tuple[str, ...]) -> None:
    """A job that is at work is told as that, and is not held up."""
    batch("--limit", "2")
    server.gate.clear()
    process = started(server, "--json", *executor)
    try:
        next(moment for moment in moments(process) if moment["in_flight"] == 3)
        done = batch("--status", to=False)
        told = json.loads(batch("--status", "--json", to=False).out)
    finally:
        server.gate.set()
        process.communicate(timeout=30)
    assert (1, "At work: 2 of 5 rows", "at work") == (done.status, done.out.splitlines()[0], told["stopped"])
    assert "go on" not in done.out
    assert 0 == process.returncode


# --------------------------------------------------------------------------------------------------------------------
# Where it works
# --------------------------------------------------------------------------------------------------------------------


def test_processes(batch: Any, server: Server) -> None:
    """Other processes do the same, each with the client that the options say."""
    done = batch("--executor", "processes", "--workers", "2", "--shard-rows", "2")
    assert (0, 5) == (done.status, server.answered), done.err
    assert [f"answer to row {number}" for number in range(5)] == [row["text"] for row in rows_of("out.jsonl")]


def test_shard(batch: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task does its part, by its number or by what Slurm says; the last one finishes the job."""
    done = batch("--shard", "1/2", "--shard-rows", "2")
    assert (1, 2) == (done.status, server.answered)
    assert "Stopped (other tasks are not done): 2 of 5 rows" in done.err
    assert "the last task to end finishes the job" in done.err
    for name, value in {"ID": "5", "COUNT": "2", "MIN": "5", "STEP": "3"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert (0, 5) == (batch("--shard", "slurm", "--shard-rows", "2").status, server.answered)
    assert 5 == len(rows_of("out.jsonl"))


# --------------------------------------------------------------------------------------------------------------------
# What is said
# --------------------------------------------------------------------------------------------------------------------


def test_quiet(batch: Any, server: Server) -> None:
    """Quiet, it says what goes wrong, in a line, and nothing else."""
    server.bad = frozenset({4})
    done = batch("-q", "--limit", "2")
    assert (1, "", "gpt: Stopped (--limit): 2 of 5 rows\n") == (done.status, done.out, done.err)
    done = batch("-q")
    assert (1, "", "gpt: Finished: 5 rows; failed 1: 1 BadRequestError\n") == (done.status, done.out, done.err)
    server.bad = frozenset()
    done = batch("--quiet", "--retry-failed")
    assert (0, "", "") == (done.status, done.out, done.err)
    done = batch("--quiet", "--json")
    assert ("summary", "") == (json.loads(done.out)["type"], done.err)


def test_json(batch: Any, server: Server) -> None:
    """For programs there are objects on stdout, the last one the summary, and nothing on stderr."""
    done = batch("--json", "--price", "1000000,2000000")
    objects = [json.loads(line) for line in done.out.splitlines()]
    last = objects[-1]
    assert (0, "", "summary", 5, 5) == (done.status, done.err, last["type"], last["rows"], last["answered"])
    assert {"USD": 25.0} == {currency: float(amount) for currency, amount in last["costs"].items()}
    assert str(Path("out.jsonl").resolve()) == objects[-1]["out"]
    assert {"progress"} == {one["type"] for one in objects[:-1]}


def test_first_rows_fail_alike(batch: Any, server: Server, folder: Path) -> None:
    """Where the first rows all fail in the same words the job stops, and says that nothing was kept."""
    (folder / "many.jsonl").write_text('{"m": 1}\n' * 20)
    done = batch(rows="many.jsonl")
    assert (2, 0) == (done.status, server.answered)
    assert "has no field" in done.err
    assert "the first 10 rows all failed so; none of them was kept" in done.err


WRONG: list[tuple[list[str], str]] = [
    (["--rpm", "0"], "--rpm: expected a number above 0"),
    (["--tpm", "-1"], "--tpm: expected"),
    (["--input-tpm", "0"], "--input-tpm: expected"),
    (["--output-tpm", "0"], "--output-tpm: expected"),
    (["--input-format", "xml"], "--input-format: expected one of jsonl, csv, tsv, parquet"),
    (["--schema", "{"], "--schema: not a JSON Schema"),
    (["--schema", "no.json"], "--schema: no.json cannot be read: No such file"),
    (["--reasks", "-1", "--schema", SCHEMA], "--reasks: expected an int from 0"),
    (["--reasks", "1"], "--reasks: is for values"),
    (["--param", "temperature"], "--param: expected NAME=VALUE"),
    (["--param", "temprature=0"], "--param temprature: is no parameter"),
    (["--param", "temperature=hot"], "--param temperature: expected"),
    (["--param", "max_tokens=no"], "--param max_tokens: expected"),
    (["--param", "model=x"], "--param model: has its own place"),
    (["--prompt-file", "x"], "--prompt-file: another way to say --prompt"),
    (["-p", "{"], "--prompt: the { at character 0"),
    (["-s", "{"], "--system: the { at character 0"),
    (["--max-cost", "much"], "--max-cost: expected an amount above 0"),
    (["--max-tokens", "0"], "--max-tokens: expected an int from 1"),
    (["--deadline", "soon"], "--deadline: expected a time such as 90, 30m, 12h or 2d, got 'soon'"),
    (["--give-up", "²"], "--give-up: expected a time"),
    (["--limit", "-1"], "--limit: expected an int from 0"),
    (["--attempts", "0"], "--attempts: expected an int from 1"),
    (["--concurrency", "0"], "--concurrency: expected an int from 1"),
    (["--retries", "-1"], "--retries: expected an int from 0"),
    (["--timeout", "-1"], "--timeout: expected seconds above 0, got -1"),
    (["--workers", "2"], "--workers: needs an executor"),
    (["--shard-rows", "0"], "--shard-rows: expected an int from 1"),
    (["--shard", "3"], "--shard: expected I/N, as in 3/16, or slurm, got '3'"),
    (["--shard", "3/3"], "--shard: expected a task's number"),
    (["--shard", "slurm"], "--shard: SLURM_ARRAY_TASK_ID"),
    (["--keep", "n", "--write", "batch"], "--keep: the service's batch format"),
    (["--parts", "parquet"], "--parts: parquet does not go with the name out.jsonl"),
    (["--slots", "2"], "--slots: is for a model in this process"),
    (["--profile", "nobody"], "--profile: "),
    (["--price", "1"], "--price: expected two amounts a million tokens, as in 0.25,2, got '1'"),
    (["--price", "1,-2"], "--price: expected two amounts"),
    (["--api-key-file", "no"], "--api-key-file: no cannot be read"),
    (["--api-key-file", "empty"], "--api-key-file: empty has no key in it"),
    (["--api-key-file", "picture"], "--api-key-file: picture is no text in UTF-8"),
    (["--api-key-file", "key", "--api-key-file", "key"], "--api-key-file: more of them than servers"),
    (["--base-url", " "], "--base-url: is empty"),
    (["--base-url", "nowhere"], "--base-url: "),
    (["--base-url", f"http://me:{KEY}@127.0.0.1:9/v1"], "--base-url: a URL must not carry a password"),
    (["--limit", "1", "--executor", "processes"], "--limit: the first rows are tried in this process"),
]


@pytest.mark.parametrize(("options", "told"), WRONG, ids=[" ".join(options) for options, _ in WRONG])
def test_wrong_use(batch: Any, server: Server, options: list[str], told: str) -> None:
    """What is wrong is said by the option that said it; the status is 2, and nothing is asked."""
    Path("empty").write_text("# nothing\n")
    Path("picture").write_bytes(b"\xff\xd8")
    Path("key").write_text(KEY)
    url = () if "--base-url" in options else ("--base-url", server.url)
    prompt = () if "-p" in options else ("-p", "row {n}")
    done = batch(*url, "-m", "m", *prompt, *options, to=False)
    assert (2, "", 0) == (done.status, done.out, server.answered)
    assert done.err.startswith(f"gpt: {told}"), done.err
    assert KEY not in done.err
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("option", ["--profile=vllm", "--adapt", "--retries=2"])
def test_no_server(batch: Any, option: str) -> None:
    """What is for servers is refused where there is none."""
    done = batch("--base-url", "local:", "-p", "row {n}", option, to=False)
    assert (2, f"gpt: {option.partition('=')[0]}: is for a server, and the model in this process answers\n") == (
        done.status,
        done.err,
    )


@pytest.mark.parametrize(
    ("rows", "out", "status", "told"),
    [
        (None, "out", 2, "gpt: IN: missing: a file of rows, a folder of such files, or - for stdin"),
        ("nothing.jsonl", "out", 2, "gpt: IN: there is no nothing.jsonl"),
        ("rows.jsonl", "out.csv", 2, "gpt: -o: out.csv would be a file of a kind that is not written"),
        ("rows.jsonl", "rows.jsonl", 2, "gpt: -o: "),
        ("rows.jsonl", "-", 2, "gpt: -o: - would be stdout"),
        ("rows.jsonl", "rows.jsonl/out", 1, "gpt: "),
    ],
)
def test_paths(batch: Any, rows: str | None, out: str, status: int, told: str) -> None:
    """What is wrong with a path is said without a trace of the program."""
    done = batch(rows=rows, out=out)
    assert (status, True, 1) == (done.status, done.err.startswith(told), done.err.count("\n")), done.err
    assert 5 == len(rows_of("rows.jsonl"))


def test_no_output(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without an output there is no job."""
    with pytest.raises(SystemExit) as caught:
        run(["batch", "rows.jsonl"])
    assert 2 == caught.value.code
    assert "the following arguments are required: -o/--out" in capfd.readouterr().err


def test_two_at_once(batch: Any, server: Server) -> None:
    """A second run is told of the first, and is no wrong use."""
    server.gate.clear()
    process = started(server, "--json")
    try:
        next(moment for moment in moments(process) if moment["in_flight"])
        done = batch()
    finally:
        server.gate.set()
        process.communicate(timeout=30)
    assert 1 == done.status
    assert f"process {process.pid}" in done.err


# --------------------------------------------------------------------------------------------------------------------
# Stdin, and signals, in this process
# --------------------------------------------------------------------------------------------------------------------

BAD = b"\xef\xbb\xbf" + b"".join(json.dumps(row).encode() + b"\n\n" for row in ROWS[:3]) + b"{bad\n" + b'{"n": 9}'


@pytest.fixture
def stdin() -> Iterator[int]:
    """Where is written what comes on stdin."""
    kept, (theirs, ours) = os.dup(0), os.pipe()
    os.dup2(theirs, 0)
    os.close(theirs)
    yield ours
    os.dup2(kept, 0)
    os.close(kept)
    with suppress(OSError):  # closed by the test
        os.close(ours)


def test_stdin(batch: Any, server: Server, stdin: int) -> None:
    """Rows come on stdin, as lines of a file would; one that cannot be read is an error row."""
    os.write(stdin, BAD)
    os.close(stdin)
    done = batch(rows="-")
    assert (1, 4) == (done.status, server.answered), done.err
    made = rows_of("out.jsonl")
    assert [f"answer to row {number}" for number in range(3)] + [None, "answer to row 9"] == [row["text"] for row in made]
    assert "not JSON" in made[3]["error"]["message"]


def after(holds: Callable[[], bool], *signals: int) -> threading.Thread:
    """Signals that come when something holds."""

    def send() -> None:
        while not holds():
            pass
        for number in signals:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("executor", [(), ("--executor", "processes")])
def test_stdin_is_left(batch: Any, stdin: int, executor: tuple[str, ...]) -> None:
    """Who is told to stop does not wait for rows that have not come."""
    os.write(stdin, b'{"n": 1}\n')
    thread = after(lambda: Path("out.jsonl.job/_job/lock").exists(), signal.SIGINT)
    done = batch(*executor, rows="-")
    thread.join()
    assert (130, "") == (done.status, done.out)
    assert done.err.startswith(f"{SAID}\n")


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_two_signals(batch: Any, server: Server, quiet: tuple[str, ...]) -> None:
    """The second signal does not wait for what is under way."""
    server.gate.clear()
    thread = after(lambda: server.inside > 0, signal.SIGINT, signal.SIGTERM)
    done = batch(*quiet)
    thread.join()
    server.gate.set()
    said = done.err.splitlines()
    head = "Stopped (interrupted): 0 of 5 rows"
    assert (130, "", [f"gpt: {head}"] if quiet else [SAID, head]) == (done.status, done.out, said[:2])


# --------------------------------------------------------------------------------------------------------------------
# As a process
# --------------------------------------------------------------------------------------------------------------------


def test_stdin_of_a_process(server: Server, folder: Path) -> None:
    """The same rows on stdin again are the same job."""
    for answered in (4, 4):
        process = started(server, "--input-format", "jsonl", rows="-", stdin=subprocess.PIPE, text=False)
        _, err = process.communicate(BAD, timeout=60)
        assert (1, answered) == (process.returncode, server.answered), err


def test_reader_of_the_status_goes_away(batch: Any, folder: Path) -> None:
    """As in other commands, a reader that is gone ends it quietly."""
    batch("--limit", "1")
    for more in ((), ("--json",)):
        ours, theirs = os.pipe()
        os.close(ours)
        done = subprocess.run(
            [sys.executable, "-m", "gpt", "batch", "-o", "out.jsonl", "--status", *more],
            stdout=theirs,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
        os.close(theirs)
        assert (141, b"") == (done.returncode, done.stderr)


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
def test_signals(server: Server, folder: Path, signals: list[signal.Signals]) -> None:
    """The first lets end what is under way, and that is said; a second one does not wait. Then the summary is said."""
    server.gate.clear()
    process = started(server, "--concurrency", "2")
    while server.inside < 2:
        assert process.poll() is None
    process.send_signal(signals[0])
    assert process.stderr is not None
    assert f"{SAID}\n" == process.stderr.readline()
    for more in signals[1:]:
        process.send_signal(more)
    if len(signals) == 1:
        server.gate.set()
    out, err = process.communicate(timeout=30)
    server.gate.set()
    kept = 2 if len(signals) == 1 else 0
    assert (130, "", f"Stopped (interrupted): {kept} of 5 rows") == (process.returncode, out, err.splitlines()[0])
    assert "the same command again does the rest" in err


def test_third_signal(server: Server, folder: Path) -> None:
    """What hangs so that not even a second signal ends it is ended by a third: here a disk that does not answer."""
    (folder / "out.jsonl.job" / "_job").mkdir(parents=True)
    os.mkfifo(folder / "out.jsonl.job" / "_job" / "input.index")
    process = started(server)
    while not Path("out.jsonl.job/_job/lock").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert f"{SAID}\n" == process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (130, "", "") == (process.returncode, out, err)


def test_third_signal_is_the_last() -> None:
    """The third one leaves, and takes the line away."""
    left: list[int] = []
    with closing(_Interrupts(ProgressLine(), quiet=True, leave=left.append)) as interrupts:
        for expected in ([], [], [130], [130, 130]):
            interrupts()
            assert expected == left


def test_reader_goes_away(server: Server, folder: Path) -> None:
    """Who reads the objects may go away: the job is done all the same."""
    server.gate.clear()
    process = started(server, "--json", "--concurrency", "1")
    next(moments(process))
    assert process.stdout is not None
    process.stdout.close()
    server.gate.set()
    assert process.stderr is not None
    assert "" == process.stderr.read()
    assert 0 == process.wait(30)
    process.stderr.close()
    assert 5 == len(rows_of("out.jsonl"))


def test_terminal(server: Server, folder: Path) -> None:
    """On a terminal a line tells how it goes; it is gone when the summary is there."""
    ours, theirs = pty.openpty()
    server.gate.clear()
    server.bad = frozenset({0})
    process = started(server, "--concurrency", "1", stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    written = b""

    def until(mark: bytes) -> None:
        nonlocal written
        while mark not in written:
            assert select.select([ours], [], [], 30)[0], written
            written += os.read(ours, 4096)

    until(b"0 %  0/5  1 in flight")
    server.gate.set()
    until(b"Finished: 5 rows")
    until(b"again\r\n")
    assert 1 == process.wait(30)
    os.close(ours)
    *_, last = written.decode().replace("\r\n", "\n").split("\x1b[K")
    assert last.startswith("Finished: 5 rows\n  answered  4\n  failed    1: 1 BadRequestError\n"), written
