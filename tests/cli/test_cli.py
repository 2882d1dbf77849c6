"""The command line, as a process of its own: what it prints where, and how it exits."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from typing import Any

import pytest

import gpt
from gpt.testing.loopback import Loopback, Peer, answer, closed_port, completion, serving

from remote_stream import STREAM

EVENTS = answer(STREAM, "200 OK", "content-type: text/event-stream")


def run(*arguments: str, stdin: str | None = "", environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`gpt` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "gpt", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def messages(server: Loopback, place: int = -1) -> Any:
    return json.loads(server.requests[place][1])["messages"]


def test_streams() -> None:
    """The answer goes to stdout, and nothing else to anywhere."""
    with serving(EVENTS) as server:
        done = run("say", "hello", "--base-url", server.url, "-m", "m")
        assert (0, "hello\n", "") == (done.returncode, done.stdout, done.stderr)
        assert [{"role": "user", "content": "say hello"}] == messages(server)
        assert {"model": "m", "stream": True}.items() <= json.loads(server.requests[0][1]).items()


def test_no_stream() -> None:
    """With --no-stream one whole answer is asked for and printed."""
    with serving(completion("whole")) as server:
        done = run("say hello", "--base-url", server.url, "--no-stream", "-s", "be brief")
        assert (0, "whole\n", "") == (done.returncode, done.stdout, done.stderr)
        assert [{"role": "system", "content": "be brief"}, {"role": "user", "content": "say hello"}] == [
            {key: message[key] for key in ("role", "content")} for message in messages(server)
        ]
        assert "stream" not in json.loads(server.requests[0][1])


def test_json() -> None:
    """With --json stdout is the completion as one JSON object, exactly as it arrived."""
    body = completion("x", zap=1)
    with serving(body) as server:
        done = run("hi", "--base-url", server.url, "--json")
    assert body == json.loads(done.stdout)
    assert 1 == done.stdout.count("\n")


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [(["sum up"], "the material", "sum up\n\nthe material"), ([], "only this", "only this"), (["a"], "  \n", "a")],
)
def test_stdin(arguments: list[str], stdin: str, expected: str) -> None:
    """What comes on stdin is joined to the prompt."""
    with serving(EVENTS) as server:
        assert run(*arguments, "--base-url", server.url, stdin=stdin).returncode == 0
        assert expected == messages(server)[0]["content"]


def test_box() -> None:
    """With no key and no server the model in the box answers, and one line on stderr says so."""
    done = run("Name three rivers.")
    assert done.returncode == 0
    assert len(done.stdout) > 10
    assert 1 == done.stderr.count("\n")
    assert "the model in the box answers" in done.stderr


def test_environment() -> None:
    """OPENAI_BASE_URL and OPENAI_API_KEY are used."""
    with serving(EVENTS) as server:
        done = run("hi", environment={"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "k"})
        assert (0, "") == (done.returncode, done.stderr)
        assert "Bearer k" in server.requests[0][0]


FAILURES: list[tuple[list[str], int, str]] = [
    ([], 2, "nothing to answer"),
    (["--zap"], 2, "unrecognized arguments: --zap"),
    (["hi", "--base-url", "nowhere"], 1, "does not begin with http:// or https://"),
    (["hi", "--base-url", f"http://127.0.0.1:{closed_port()}/v1"], 1, "connection refused"),
    (["hi", "--base-url", "local:/no/such.gguf"], 1, "there is no such file"),
]


@pytest.mark.parametrize(("arguments", "code", "text"), FAILURES)
def test_failures(arguments: list[str], code: int, text: str) -> None:
    """A failure is a line on stderr and an exit code, never a traceback."""
    done = run(*arguments)
    assert (code, "") == (done.returncode, done.stdout)
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_refusal() -> None:
    """A refusal is told apart by the exit code."""
    body = completion(None)  # type: ignore[arg-type]
    body["choices"][0]["message"]["refusal"] = "I would rather not."
    with serving(body) as server:
        done = run("hi", "--base-url", server.url, "--no-stream")
    assert 3 == done.returncode
    assert "I would rather not." in done.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["hi", "--version"], ["chat", "--version"]])
def test_version(arguments: list[str]) -> None:
    """--version prints the version, wherever it stands."""
    assert f"gpt {gpt.__version__}\n" == run(*arguments).stdout


@pytest.mark.parametrize("arguments", [["--help"], ["chat", "--help"]])
def test_help(arguments: list[str]) -> None:
    """Help needs no key, no server and no model, and loads nothing of the library."""
    done = run(*arguments)
    assert (0, "") == (done.returncode, done.stderr)
    assert "--base-url" in done.stdout
    code = "import sys; from gpt.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint([m for m in ('msgspec', 'httptools', 'asyncio', 'ssl', 'xllamacpp') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "[]" == loaded.splitlines()[-1]


def test_ctrl_c() -> None:
    """Ctrl-C ends with 130 and no traceback."""

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(EVENTS[:-60])
        peer.wait_for_close()

    with Loopback(play) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpt", "hi", "--base-url", server.url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.read(3) == b"hel"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (130, b"") == (process.returncode, errors)
        assert server.ended.acquire(timeout=10)


def test_closed_pipe() -> None:
    """A reader that goes away ends it quietly."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"xxxxxxxxxx"}}]}\n\n'

    def play(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        while True:
            peer.send(event * 100)

    with Loopback(play) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpt", "hi", "--base-url", server.url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.read(5)
        process.stdout.close()
        assert process.stderr is not None
        assert b"" == process.stderr.read()
        assert 141 == process.wait(30)
        process.stderr.close()


def test_chat() -> None:
    """A conversation keeps what was said; /new forgets it; a failed question is not kept."""
    with serving(EVENTS, EVENTS, answer(b"", "400 Bad"), EVENTS, EVENTS) as server:
        done = run(
            "chat", "--base-url", server.url, "-s", "be brief", stdin="one\n\ntwo\nbad\nthree\n/new\nfour\n/quit\nfive\n"
        )
        assert 0 == done.returncode
        assert "hello\n" * 4 == done.stdout
        assert "Status 400" in done.stderr
        said = [[message["content"] for message in messages(server, place)] for place in range(5)]
    assert [
        ["be brief", "one"],
        ["be brief", "one", "hello", "two"],
        ["be brief", "one", "hello", "two", "hello", "bad"],
        ["be brief", "one", "hello", "two", "hello", "three"],
        ["be brief", "four"],
    ] == said


def test_chat_whole() -> None:
    """With --no-stream the answers are printed whole."""
    with serving(EVENTS) as server:
        done = run("chat", "--base-url", server.url, "--no-stream", stdin="one\n/help\n")
    assert (0, "hello\n") == (done.returncode, done.stdout)
    assert "/quit ends" in done.stderr


def test_chat_on_a_terminal() -> None:
    """On a terminal there is a prompt; Ctrl-C stops the answer and not the program; Ctrl-D ends."""

    def play(peer: Peer) -> None:
        peer.read_request()
        if len(peer.server.requests) == 1:
            peer.send(EVENTS[:-60])
            peer.wait_for_close()
        else:
            peer.send(EVENTS)

    ours, theirs = pty.openpty()
    with Loopback(play) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpt", "chat", "--base-url", server.url],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(theirs)
        seen = b""

        def until(text: bytes) -> None:
            nonlocal seen
            while text not in seen:
                seen += os.read(ours, 1024)
            seen = seen.partition(text)[2]

        until(b"> ")
        os.write(ours, b"one\n")
        until(b"hel")
        os.write(ours, b"\x03")
        until(b"stopped")
        until(b"> ")
        os.write(ours, b"two\n")
        until(b"hello")
        until(b"> ")
        os.write(ours, b"\x04")
        assert 0 == process.wait(30)
        assert ["one", "hel", "two"] == [message["content"] for message in messages(server)]
    os.close(ours)
