"""Callers who leave, silence, and a server that stops: the work ends, its slot is free, and who is still there is told."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpt import Local
from gpt.errors import ServerError
from gpt.server.app import App
from gpt.testing.scripted import chunk, completion

from serving import HELLO, PATIENCE, Held, Served, events, read_all, serving

STREAM = {**HELLO, "stream": True}


def asking(server: Served, body: object = STREAM) -> socket.socket:
    """A connection over which a call has been sent."""
    sent = json.dumps(body).encode()
    return server.raw(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n" % len(sent) + sent
    )


def until(peer: socket.socket, wanted: bytes) -> bytes:
    """What comes up to `wanted`."""
    said = b""
    while wanted not in said:
        piece = peer.recv(65536)
        assert piece, said
        said += piece
    return said


@pytest.fixture
def held() -> Iterator[tuple[Served, Held]]:
    backend = Held()
    with serving(App(backend, slots=1, queue=2)) as server:
        yield server, backend


def test_leaves_a_stream(held: tuple[Served, Held]) -> None:
    """Leaving a stream stops the backend's, and frees the slot, though nothing is being sent."""
    server, backend = held
    peer = asking(server)
    server.until(lambda: backend.gates)
    server.call(lambda: backend.gates[0].put_nowait(chunk("the")))
    until(peer, b"the")
    peer.close()
    server.until(lambda: ["stopped"] == backend.ended and 0 == server.app.line.running)


def test_leaves_before_the_first_chunk(held: tuple[Served, Held]) -> None:
    """So does leaving while the prompt is still being read."""
    server, backend = held
    peer = asking(server)
    server.until(lambda: backend.gates)
    peer.close()
    server.until(lambda: ["stopped"] == backend.ended and 0 == server.app.line.running)


def test_leaves_a_whole_answer(held: tuple[Served, Held]) -> None:
    """So does leaving while a whole answer is made."""
    server, backend = held
    peer = asking(server, HELLO)
    server.until(lambda: backend.gates)
    peer.close()
    server.until(lambda: ["stopped"] == backend.ended and 0 == server.app.line.running)


def test_leaves_the_queue(held: tuple[Served, Held]) -> None:
    """Who leaves the queue is never asked for; who came later moves up."""
    server, backend = held
    first = asking(server, HELLO)
    server.until(lambda: backend.gates)
    second = asking(server, HELLO)
    server.until(lambda: 1 == server.app.line.waiting)
    third = asking(server, HELLO)
    server.until(lambda: 2 == server.app.line.waiting)
    assert 429 == server.chat()[0]
    second.close()
    server.until(lambda: 1 == server.app.line.waiting)
    server.call(lambda: backend.gates[0].put_nowait(completion("one")))
    assert b"one" in read_all(first)
    server.until(lambda: 2 == len(backend.gates))
    server.call(lambda: backend.gates[1].put_nowait(completion("three")))
    assert b"three" in read_all(third)


def test_counts_who_left(held: tuple[Served, Held]) -> None:
    """Metrics tell of those who left, as 499."""
    server, backend = held
    peer = asking(server)
    server.until(lambda: backend.gates)
    peer.close()
    server.until(lambda: 0 == server.app.line.running)
    text = server.ask("GET", "/metrics")[2].decode()
    assert 'gpt_http_requests_total{status="499"} 1.0' in text
    assert 'error_type="left"' in text


def test_pings() -> None:
    """In silence comments come, also while a call is queued; the answer follows them."""
    backend = Held()
    with serving(App(backend, slots=1, ping=0.02)) as server:
        first = asking(server)
        until(first, b": ping\n\n")
        second = asking(server)
        until(second, b": ping\n\n")
        assert 1 == len(backend.gates)
        for part in (chunk("the"), None):
            server.call(lambda part=part: backend.gates[0].put_nowait(part))
        assert ["the", "[DONE]"] == [
            part if isinstance(part, str) else part["choices"][0]["delta"]["content"] for part in events(_body(read_all(first)))
        ]
        server.until(lambda: 2 == len(backend.gates))
        server.call(lambda: backend.gates[1].put_nowait(ServerError("x", 500)))
        assert "model_failed" == events(_body(read_all(second)))[-1]["error"]["code"]


def _body(said: bytes) -> bytes:
    """A body less the marks of its chunked encoding."""
    return re.sub(rb"\r\n[0-9a-f]+\r\n", b"", b"\r\n" + said)


def test_no_pings_while_it_speaks(held: tuple[Served, Held]) -> None:
    """Where events come, no comment does."""
    server, backend = held
    peer = asking(server)
    server.until(lambda: backend.gates)
    for part in (chunk("the"), chunk("Nile"), None):
        server.call(lambda part=part: backend.gates[0].put_nowait(part))
    assert b"ping" not in read_all(peer)


def test_drain() -> None:
    """A server that stops takes no more calls, says so at /ready, and lets what is under way end."""
    backend = Held()
    with serving(App(backend)) as server:
        peer = asking(server, HELLO)
        server.until(lambda: backend.gates)
        server.call(server.server.end)
        server.until(lambda: "stopping" == server.app.state)
        status, headers, body = server.ask("GET", "/ready")
        assert (503, "stopping") == (status, body["status"])
        status, headers, body = server.chat()
        assert (503, "stopping", "1") == (status, body["error"]["code"], headers["retry-after"])
        server.call(lambda: backend.gates[0].put_nowait(completion("the Nile")))
        assert b"the Nile" in read_all(peer)


def test_deadline() -> None:
    """What does not end in time is stopped, and its caller told: by a status, or in a stream by an event."""
    backend = Held()
    with serving(App(backend, slots=2), grace=0.05) as server:
        whole, streamed, queued = asking(server, HELLO), asking(server), None
        server.until(lambda: 2 == len(backend.gates))
        server.call(lambda: [gate.put_nowait(chunk("the")) for gate in backend.gates[1:]])
        queued = asking(server)
        server.until(lambda: 1 == server.app.line.waiting)
        server.call(server.server.end)
        said = [read_all(peer) for peer in (whole, streamed, queued)]
    assert all(b'"code":"stopping"' in one for one in said)
    assert sum(b" 503 " in one[:20] for one in said) >= 1


class Loading(Held):
    """A backend that is ready when the test says so."""

    def __init__(self, failing: bool = False) -> None:
        super().__init__()
        self.failing = failing
        self.loaded = threading.Event()

    def load(self) -> None:
        assert self.loaded.wait(PATIENCE)
        if self.failing:
            raise ServerError("at /home/secret", 500)


def test_loading() -> None:
    """Until the model is there, calls are told to come back, and health is told from readiness."""
    backend = Loading()
    with serving(App(backend), ready=False) as server:
        assert 200 == server.ask("GET", "/health")[0]
        status, headers, body = server.ask("GET", "/ready")
        assert (503, "loading", "1") == (status, body["status"], headers["retry-after"])
        status, _, body = server.chat()
        assert (503, "loading") == (status, body["error"]["code"])
        backend.loaded.set()
        server.until(lambda: "ready" == server.app.state)
        assert 200 == server.ask("GET", "/ready")[0]


def test_not_loaded(caplog: pytest.LogCaptureFixture) -> None:
    """A model that cannot be loaded is told of: to callers without, to the log with where it is."""
    backend = Loading(failing=True)
    backend.loaded.set()
    with serving(App(backend)) as server:
        assert (503, "failed") == (server.ask("GET", "/ready")[0], server.ask("GET", "/ready")[2]["status"])
        status, _, body = server.chat()
    assert (503, "not_loaded") == (status, body["error"]["code"])
    assert "secret" not in str(body)
    assert "/home/secret" in caplog.text


# --------------------------------------------------------------------------------------------------------------------
# The command, as a process
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Starts `gpt serve` with arguments; gives the process and its port."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpt", "serve", "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "GOMP_SPINCOUNT": "1000"},
        )
        started.append(process)
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"answers at http://127\.0\.0\.1:(\d+)/v1", line)
        assert found, line + process.stderr.read()
        return process, int(found[1])

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(command: Callable[..., tuple[subprocess.Popen[str], int]], number: signal.Signals) -> None:
    """A signal ends the server with status 0, and what is under way gets its end first."""
    process, port = command("--grace", "0.1", "http://127.0.0.1:9/v1")
    peer = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    peer.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
    until(peer, b'"ok"')
    process.send_signal(number)
    assert 0 == process.wait(PATIENCE)
    peer.close()


def test_the_model_in_the_box(command: Callable[..., tuple[subprocess.Popen[str], int]], tmp_path: Path) -> None:
    """The command answers with the model in the box, stores what asks for it, stops a long answer at the deadline, and exits 0."""
    from gpt import Gpt

    process, port = command("--grace", "0.2", "--store", str(tmp_path / "stored.sqlite"), "--slots", "1")
    with Gpt(server_url=f"http://127.0.0.1:{port}/v1", model="local") as client:
        answer = client.chat.complete("Name a river.", max_tokens=5, store=True, user="me", temperature=0)
        assert answer.info is not None
        assert "user" == answer.info.headers["x-ignored-params"]
        with pytest.raises(ServerError, match="stopping"), client.chat.stream("Count for ever.", max_tokens=1000) as stream:
            for event in stream:
                if event.type == "content":
                    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(PATIENCE)


def test_leaving_the_model(tmp_path: Path) -> None:
    """Leaving while the engine reads a long prompt, or writes, frees the engine's slot for the next within a step."""
    local = Local(slots=1, batch=64)
    app = App(local, slots=1)
    with serving(app) as server:
        long = {"messages": [{"role": "user", "content": "river " * 3000}], "max_tokens": 500}
        for body in (long, {**long, "stream": True}, {**STREAM, "max_tokens": 1000}):
            peer = asking(server, body)
            server.until(lambda: 1 == app.line.running)
            peer.close()
            server.until(lambda: 0 == app.line.running)
            engine = local.load()
            server.until(lambda: not any(run.thread.is_alive() for run in engine._running))
            assert 200 == server.chat({**HELLO, "max_tokens": 2})[0]
