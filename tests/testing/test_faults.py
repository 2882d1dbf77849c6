"""The server with faults, seen by a client that is not ours."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import openai
import pytest

from gpt import (
    ChatCompletion,
    Choice,
    FunctionCall,
    Gpt,
    Profile,
    ResponseMessage,
    ServerError,
    ToolCall,
    Usage,
)
from gpt.testing import Fault, no_waiting, serve
from gpt.testing.loopback import Loopback, Peer

ASKED: Any = {"model": "m", "messages": [{"role": "user", "content": "a"}]}


def test_speaks_the_protocol() -> None:
    """The official client gets whole answers, streams and the models."""
    with serve("two words") as server, openai.OpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
        assert "two words" == client.chat.completions.create(**ASKED).choices[0].message.content
        pieces = [part.choices[0].delta.content for part in client.chat.completions.create(**ASKED, stream=True)]
        assert ["", "two ", "words", None] == pieces
        assert ["m"] == [model.id for model in client.models.list()]
        assert 3 == server.answered == len(server.requests)


def test_replies() -> None:
    """A reply may be a function of the request, or a whole completion."""
    with serve(lambda request: request["messages"][0]["content"].upper()) as server:
        assert "ABC" == Gpt(server_url=server.url).chat.complete("abc").text


def statuses(seed: int) -> list[str]:
    faults = [Fault(status=500, rate=0.3), Fault(status=429, rate=0.3)]
    with serve(faults=faults, seed=seed) as server:
        client = Gpt(server_url=server.url, max_retries=0)
        found = []
        for _ in range(30):
            try:
                found.append(client.chat.complete("a").text or "")
            except Exception as error:
                found.append(type(error).__name__)
    assert {"ServerError": server.struck[0], "RateLimitError": server.struck[1]} == {
        name: found.count(name) for name in ("ServerError", "RateLimitError")
    }
    return found


def test_seeded() -> None:
    """The same seed strikes the same requests, another one others."""
    assert statuses(1) == statuses(1)
    assert statuses(1) != statuses(2)
    assert {"hi", "ServerError", "RateLimitError"} == set(statuses(1))


def test_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting nothing sleeps before a retry; what would have been waited is told."""

    def asleep(_: float) -> None:
        raise AssertionError("it slept")

    with serve(faults=[Fault(status=429, headers={"retry-after": "100"}, times=1)]) as server:
        monkeypatch.setattr(time, "sleep", asleep)
        with no_waiting():
            made = Gpt(server_url=server.url).chat.complete("a")
    assert made.info is not None
    assert made.info.attempts[1].waited >= 100


def test_keeps_the_last() -> None:
    """A server for long runs keeps the last requests only."""
    from gpt.testing import FaultServer

    with FaultServer(keep=2) as server:
        client = Gpt(server_url=server.url)
        for text in "abc":
            client.chat.complete(text)
        assert 3 == server.answered
        assert [b'"b"' in server.requests[0][1], b'"c"' in server.requests[1][1]] == [True, True]


def test_ends_while_it_stalls() -> None:
    """A server that is left ends its connections, whatever they wait for."""
    with serve(faults=[Fault(slow_close=3600.0)]) as server:
        with Gpt(server_url=server.url).chat.stream("a") as stream:
            next(stream)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"rate": 2.0}, "rate: expected"),
        ({"jitter": -1.0}, "jitter: expected 0 or more"),
        ({"duplicate": -1}, "duplicate: expected 0 or more"),
        ({"uneven": True}, "uneven: needs slices="),
        ({"slices": 0}, "slices: expected"),
        ({"delay": -1.0}, "delay: expected 0 or more"),
    ],
)
def test_refused(fault: dict[str, Any], text: str) -> None:
    """A fault that makes no sense is refused."""
    with pytest.raises(ValueError, match=text):
        Fault(**fault)


def test_error_body() -> None:
    """A status without a body of its own says what it is."""
    with serve(faults=[Fault(status=500)]) as server, pytest.raises(ServerError, match="a fault that was asked for: 500"):
        Gpt(server_url=server.url, max_retries=0).chat.complete("a")


def test_left_while_it_plays() -> None:
    """A connection whose play does not end is an error where the server is left, not a thread that nobody knows of."""
    reached, release = threading.Event(), threading.Event()

    def play(_: Peer) -> None:
        reached.set()
        release.wait(60)

    with pytest.raises(RuntimeError, match="a connection is still being played"), Loopback(play, patience=0.01) as server:
        socket.create_connection(("127.0.0.1", server.port)).close()
        assert reached.wait(10)
    release.set()


def test_completions_of_ones_own() -> None:
    """A completion is answered whole and streamed, with its calls; with its usage where a stream asks for it."""
    calls = [ToolCall(FunctionCall("{}", name), name) for name in ("f", "g")]
    message = ResponseMessage("See: this.", tool_calls=calls)
    said = ChatCompletion(id="c", model="m", choices=[Choice("tool_calls", 0, message)], usage=Usage(1, 2, 3))
    with serve(said) as server:
        for profile in (Profile(), Profile(streams_usage=True)):
            client = Gpt(server_url=server.url, profile=profile)
            assert said == client.chat.complete("x", model="m")
            with client.chat.stream("x", model="m") as stream:
                made = stream.until_done()
            assert said.choices == made.choices
            assert (said.usage if profile.streams_usage else None) == made.usage


def test_duplicates() -> None:
    """The event of a number comes twice; where there is none of it, and in whole answers, nothing does."""
    said = [["", "", "a ", "b", None], ["", "a ", "b", "b", None], ["", "a ", "b", None]]
    with serve("a b", faults=[Fault(duplicate=number, times=1) for number in (0, 2, 5)]) as server:
        with openai.OpenAI(base_url=server.url, api_key="k") as client:
            for texts in said:
                found = [part.choices[0].delta.content for part in client.chat.completions.create(**ASKED, stream=True)]
                assert texts == found
            server.faults = [Fault(duplicate=0)]
            assert "a b" == client.chat.completions.create(**ASKED).choices[0].message.content


class Pieces(Peer):
    """The server's end of a connection that remembers in which pieces it was sent what."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)


def test_uneven() -> None:
    """Uneven pieces have 1 to so many bytes, drawn from the seed, and are the answer."""

    def pieces(seed: int) -> list[bytes]:
        server = serve("a b", faults=[Fault(slices=7, uneven=True)], seed=seed)
        with server:
            peer = Pieces()
            server._answer(peer, *server._draw(), "POST /v1/chat/completions HTTP/1.1", b"{}")
        return peer.sent

    once, again, other = pieces(1), pieces(1), pieces(2)
    assert once == again != other
    assert b"".join(once) == b"".join(other)
    assert set(range(1, 8)) == {len(piece) for piece in once[:-1]}


def test_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of jitter each request has its own part, the same for the same seed, over the delay."""

    def waits(seed: int) -> list[float]:
        with serve(faults=[Fault(delay=1.0, jitter=0.5)], seed=seed) as server:
            found: list[float] = []
            monkeypatch.setattr(server._ending, "wait", lambda seconds: found.append(seconds) or False)
            client = Gpt(server_url=server.url)
            for _ in range(4):
                client.chat.complete("a")
            return found

    once, again, other = waits(1), waits(1), waits(2)
    assert once == again != other
    assert 4 == len(set(once))
    assert all(1.0 <= seconds <= 1.5 for seconds in once)
