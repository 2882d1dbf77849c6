"""What goes out, and what is kept of what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import perf_counter
from typing import Any

import pytest

from gpt.check import asking
from gpt.check.asking import Server
from gpt.check.exchange import Answer, Ask
from gpt.remote.backend import endpoint
from gpt.remote.http.aio import AsyncHttpTransport
from gpt.testing.loopback import Loopback, Peer, answer, closed_port

KEY = "key-of-the-test"


def ask(url: str, *asks: Ask, key: str | None = None, timeout: float = 20.0) -> tuple[Server, list[Answer]]:
    """The server as it was asked, and the answers."""

    async def run() -> tuple[Server, list[Answer]]:
        server = Server(endpoint(url, key), AsyncHttpTransport(), timeout, perf_counter)
        return server, [await server.ask(one) for one in asks]

    return asyncio.run(run())


def play(*pieces: bytes) -> Any:
    def played(peer: Peer) -> None:
        peer.read_request()
        for piece in pieces:
            peer.send(piece)
        peer.wait_for_close()

    return played


def fields(head: str) -> dict[str, str]:
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])}


@pytest.mark.parametrize(
    ("one", "line", "key"),
    [
        (Ask(body=b"{}"), "POST /v1/chat/completions HTTP/1.1", f"Bearer {KEY}"),
        (Ask(body=b"{}", key="none"), "POST /v1/chat/completions HTTP/1.1", None),
        (Ask(body=b"{}", key="wrong"), "POST /v1/chat/completions HTTP/1.1", f"Bearer {asking.WRONG_KEY}"),
        (Ask(method="GET", path="/metrics", at_root=True), "GET /metrics HTTP/1.1", f"Bearer {KEY}"),
        (Ask(body=b"x", content_type="text/plain"), "POST /v1/chat/completions HTTP/1.1", f"Bearer {KEY}"),
    ],
)
def test_sent(one: Ask, line: str, key: str | None) -> None:
    """A request goes out as it is, with the key, without one, or with another."""
    with Loopback(play(answer({}))) as server:
        ask(server.url, one, key=KEY)
        head, body = server.requests[0]
    assert line == head.split("\r\n", maxsplit=1)[0]
    assert one.body == body
    sent = fields(head)
    assert key == sent.get("authorization")
    assert (one.content_type if one.body else None) == sent.get("content-type")


def test_query() -> None:
    """The query of the base URL goes along."""
    with Loopback(play(answer({}))) as server:
        ask(f"{server.url}?version=1", Ask(method="GET", path="/models"))
        assert server.requests[0][0].startswith("GET /v1/models?version=1 HTTP/1.1")


def test_nothing_mended() -> None:
    """A redirect, an error and whatever else comes are kept as they came, after one request."""
    with Loopback(play(answer(b"moved", "307 X", "location: /elsewhere"))) as server:
        _, (came,) = ask(server.url, Ask(body=b"{}"))
        assert (307, b"moved", "/elsewhere") == (came.status, came.body, came.headers["location"])
        assert 1 == len(server.requests)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def test_left() -> None:
    """An answer that would go on for ever is left after its first event."""
    with Loopback(play(HEAD, b"9\r\ndata: 1\n\n\r\n")) as server:
        _, (came,) = ask(server.url, Ask(body=b"{}", leave=True))
        assert server.ended.acquire(timeout=20)
    assert (200, b"data: 1\n\n", "") == (came.status, came.body, came.failure)


def failures() -> Iterable[tuple[Any, str]]:
    yield play(HEAD, b"9\r\ndata: 1\n\n\r\n"), "are over"
    yield play(HEAD + b"9\r\ndata"), "are over"
    yield play(b"HTTP/1.1 nonsense\r\n\r\n"), "HTTP"
    yield play(), "are over"
    yield lambda peer: peer.read_request() and None, "closed"


@pytest.mark.parametrize(("played", "why"), list(failures()), ids=range(5))
def test_failure(played: Any, why: str) -> None:
    """What breaks off, hangs or is no HTTP is an answer with its failure, and with what had come."""
    with Loopback(played) as server:
        _, (came,) = ask(server.url, Ask(body=b"{}"), timeout=0.3)
    assert why in came.failure


def test_nobody() -> None:
    """Where nobody listens there is a failure and no status."""
    _, (came,) = ask(f"http://127.0.0.1:{closed_port()}/v1", Ask(body=b"{}"))
    assert 0 == came.status
    assert came.failure


def test_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer without end is given up at the limit."""
    monkeypatch.setattr(asking, "MOST", 100)
    with Loopback(play(answer(b"x" * 500))) as server:
        _, (came,) = ask(server.url, Ask(body=b"{}"))
    assert "the answer has more than 100 bytes" == came.failure


def test_evidence() -> None:
    """The evidence has both sides in excerpt, without the key, and is handed out once."""
    said = {"error": {"message": f"bad key {KEY} \x1b[1m"}}
    with Loopback(play(answer(said, "429 X", "retry-after: 1", "x-ignored-params: user, n"))) as server:
        asked, _ = ask(server.url, Ask(body=b'{"a": "' + b"x" * 900 + b'"}', key="wrong"), key=KEY)
    (shown,) = asked.evidence()
    assert KEY not in str(shown)
    assert ("POST", "/chat/completions", 429, "1", ["user", "n"], "wrong") == tuple(
        shown[name] for name in ("method", "path", "status", "retry_after", "x_ignored_params", "key")
    )
    assert 500 == len(shown["sent"])
    assert "bad key ..." in shown["answer"]
    assert () == asked.evidence()
    assert KEY not in repr(asked)
