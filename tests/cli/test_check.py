"""`gpt check` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from gpt.check import GROUPS
from gpt.testing.loopback import closed_port

from checked import Behaving


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gpt", "check", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_table() -> None:
    """A row a thing and a line of counts on stdout; 0 where all is well."""
    with Behaving() as server:
        done = run(server.url, "--only", "models", "--only", "overload", "--burst", "2", "-m", "words", "--timeout", "20")
    lines = done.stdout.splitlines()
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    assert lines[0].startswith("group        what")
    assert lines[-1].startswith(f"{server.url}, model words: ")
    assert {"answers", "models", "overload"} == {line.split()[0] for line in lines[1:-2] if line[:1] != " "}


def test_json() -> None:
    """One object with the evidence; 1 where something is ignored."""
    with Behaving("the-key-of-the-server", n="ignore") as server:
        done = run(server.url, "--only", "parameters", "--json", "--api-key", "the-key-of-the-server")
    report = json.loads(done.stdout)
    assert (1, "") == (done.returncode, done.stderr)
    (finding,) = [one for one in report["findings"] if one["what"] == "n"]
    assert "ignored" == finding["verdict"]
    (evidence,) = finding["evidence"]
    assert ("POST", "/chat/completions", 200) == (evidence["method"], evidence["path"], evidence["status"])
    assert 2 == json.loads(evidence["sent"])["n"]
    assert "the-key-of-the-server" not in done.stdout


def test_nobody() -> None:
    """A server that is not there gives a report and 1, and no trace."""
    done = run(f"http://127.0.0.1:{closed_port()}/v1")
    assert (1, "") == (done.returncode, done.stderr)
    assert "1 wrong" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("ftp://x",), 1, "gpt: server_url: 'ftp://x' does not begin with http"),
        (("http://127.0.0.1:9", "--only", "all"), 1, "gpt: only: 'all' is no group"),
        ((), 2, "the following arguments are required: URL"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], code: int, said: str) -> None:
    """Wrong use is said on stderr in a line."""
    done = run(*arguments)
    assert code == done.returncode
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupted() -> None:
    """Ctrl-C prints what there is, and the counts."""
    with Behaving() as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpt", "check", server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "the list" in line:
                process.send_signal(signal.SIGINT)
                break
        rest, errors = process.communicate(timeout=60)
    assert (130, "") == (process.returncode, errors)
    assert rest.splitlines()[-1].startswith(f"{server.url}, model words: ")


def test_help() -> None:
    """The help names the groups that there are."""
    told = " ".join(run("--help").stdout.split())
    assert ", ".join(GROUPS) in told
