"""A caller's own client as the way out: httpx, httpx2 and requests."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import httpx2
import pytest
import requests

import gpt
from gpt import AsyncGpt, Gpt, InvalidRequestError
from gpt.testing import Fault, no_waiting, serve
from gpt.testing.loopback import Loopback, answer, closed_port, completion, serving

from remote_stream import STREAM

BLOCKING = [httpx.Client, httpx2.Client, requests.Session]
ON_ASYNCIO = [httpx.AsyncClient, httpx2.AsyncClient]
IDS = ["httpx", "httpx2", "requests"]
EVENTS = answer(STREAM, "200 OK", "content-type: text/event-stream")


def silent(peer: Any) -> None:
    peer.read_request()
    peer.wait_for_close()


@pytest.mark.parametrize("library", BLOCKING, ids=IDS)
def test_blocking(library: Any) -> None:
    """Whole answers, streams and failures come through the caller's client, which stays open."""
    with serving(completion("hi"), EVENTS, answer({"error": {"message": "no"}}, "401 No")) as server, library() as client:
        with Gpt(server_url=server.url, api_key="k", client=client) as ours:
            assert ours.chat.complete("a").text == "hi"
            with ours.chat.stream("a") as stream:
                assert "".join(stream.text_stream) == "hello"
            with pytest.raises(gpt.AuthenticationError):
                ours.chat.complete("a")
        assert client.get(f"{server.url}/x").status_code == 401
        assert "Bearer k" in server.requests[0][0]


@pytest.mark.parametrize("library", BLOCKING, ids=IDS)
def test_blocking_failures(library: Any) -> None:
    """Refused connections, timeouts and cut bodies are our errors."""
    with library() as client, pytest.raises(gpt.ConnectError) as caught:
        Gpt(server_url=f"http://127.0.0.1:{closed_port()}", client=client, max_retries=0).chat.complete("a")
    assert caught.value.phase == "connect"
    with Loopback(silent) as server, library() as client, pytest.raises(gpt.RequestTimeoutError) as timed_out:
        Gpt(server_url=server.url, client=client, max_retries=0, timeout=0.1).chat.complete("a")
    assert timed_out.value.phase == "first_byte"
    with serving(EVENTS[:-100]) as server, library() as client:
        server.play = lambda peer: (peer.read_request(), peer.send(EVENTS[:-100]))[0] and None
        with pytest.raises(gpt.TransportError):
            Gpt(server_url=server.url, client=client, max_retries=0).chat.stream("a").until_done()


@pytest.mark.parametrize("library", ON_ASYNCIO, ids=IDS[:2])
def test_asyncio(library: Any) -> None:
    """The same on asyncio."""

    async def run() -> None:
        with serving(completion("hi"), EVENTS) as server:
            async with library() as client, AsyncGpt(server_url=server.url, client=client) as ours:
                assert (await ours.chat.complete("a")).text == "hi"
                async with ours.chat.stream("a") as stream:
                    assert "".join([piece async for piece in stream.text_stream]) == "hello"
        async with library() as client:
            with pytest.raises(gpt.ConnectError):
                await AsyncGpt(server_url=f"http://127.0.0.1:{closed_port()}", client=client, max_retries=0).chat.complete("a")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("ours", "client", "text"),
    [
        (Gpt, httpx.AsyncClient, "an async httpx client belongs to AsyncGpt"),
        (AsyncGpt, httpx.Client, "a blocking httpx client belongs to Gpt"),
        (AsyncGpt, requests.Session, "a requests session blocks"),
        (Gpt, object, "expected a client of httpx, httpx2 or requests, got object"),
        (AsyncGpt, object, "got object"),
    ],
)
def test_refused(ours: Any, client: Any, text: str) -> None:
    """A client of the wrong kind is refused at once."""
    with pytest.raises(InvalidRequestError, match=text):
        ours(server_url="http://h", client=client())
    with pytest.raises(InvalidRequestError, match="network: has no meaning beside client="):
        Gpt(server_url="http://h", client=requests.Session(), network=gpt.Network())


@pytest.mark.parametrize("library", [*BLOCKING, *ON_ASYNCIO])
def test_the_same_call(library: Any) -> None:
    """Through a caller's client, too, a call is tried again under one name, follows redirects without its key, and ends."""
    faults = [Fault(status=500, times=1), Fault(status=307, times=1, headers={"location": "/v1/chat/completions?api-key=k"})]
    asynchronous = library in ON_ASYNCIO

    def ask(url: str, **settings: Any) -> Any:
        if not asynchronous:
            with library() as client:
                return Gpt(server_url=url, client=client, **settings).chat.complete("a")

        async def run() -> Any:
            async with library() as client:
                return await AsyncGpt(server_url=url, client=client, **settings).chat.complete("a")

        return asyncio.run(run())

    with serve("hi", faults=faults) as server, no_waiting():
        made = ask(server.url, api_key="k")
        names = [head.lower().partition("idempotency-key: ")[2][:32] for head, _ in server.requests]
        assert [500, 307, 200] == [attempt.status for attempt in made.info.attempts]
        assert "?api-key=k " in server.requests[2][0]
    assert 32 == len(names[0])
    assert names[0] == names[1] == names[2]
    with serve(faults=[Fault(stall="head")]) as server, pytest.raises(gpt.RequestTimeoutError):
        ask(server.url, deadline=0.2)
