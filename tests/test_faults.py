"""The fault matrix: every row of docs/faults.md, on both clients, whole and streamed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gpt
from gpt import AsyncGpt, Gpt, Timeout
from gpt.testing import Fault, no_waiting, serve
from gpt.testing.faults import events
from gpt.testing.loopback import closed_port, completion

QUOTA = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
TEXT = "The Nile, the Rhine and the Amazon."
STREAM = events(completion(TEXT))
ROLE = STREAM[: STREAM.index(b"data: ", 1)]
DONE = b"data: [DONE]\n\n"
BUSY = b'event: error\ndata: {"message": "server is busy"}\n\n'

FAULTS: dict[str, Fault | None] = {
    "none": Fault(rate=0.0),
    "status 500, always": Fault(status=500),
    "status 500, once": Fault(status=500, times=1),
    "status 501": Fault(status=501),
    "status 503, twice": Fault(status=503, times=2),
    "status 529": Fault(status=529),
    "status 408": Fault(status=408),
    "status 400": Fault(status=400),
    "status 401": Fault(status=401),
    "status 403": Fault(status=403),
    "status 429": Fault(status=429),
    "status 429, once, Retry-After 1": Fault(status=429, times=1, headers={"retry-after": "1"}),
    "status 429, Retry-After 600": Fault(status=429, headers={"retry-after": "600"}),
    "status 429, quota used up": Fault(status=429, body=QUOTA),
    "status 500, x-should-retry false": Fault(status=500, headers={"x-should-retry": "false"}),
    "status 400, once, x-should-retry true": Fault(status=400, times=1, headers={"x-should-retry": "true"}),
    "redirect 307 to itself, once": Fault(status=307, times=1, headers={"location": "/v1/chat/completions"}),
    "redirect 307 for ever": Fault(status=307, headers={"location": "/v1/chat/completions"}),
    "redirect 302": Fault(status=302, headers={"location": "/v1/chat/completions"}),
    "HTML with status 200": Fault(body=b"<html>hello</html>", content_type="text/html"),
    "JSON that is no completion": Fault(body={"hello": 1}),
    "an error with status 200": Fault(body={"error": {"message": "upstream failed", "code": 502}}),
    "an empty body": Fault(body=b""),
    "wrong content type": Fault(content_type="text/plain"),
    "no HTTP": Fault(garbage=b"SSH-2.0-OpenSSH_9.2\r\n"),
    "delay of 0.05 s": Fault(delay=0.05),
    "silent before the request is read": Fault(stall="request"),
    "silent after the request": Fault(stall="head"),
    "silent in the body": Fault(stall="body"),
    "silent in the body, once": Fault(stall="body", times=1),
    "reset before the request is read": Fault(reset="request"),
    "reset after the request": Fault(reset="head"),
    "reset after the request, once": Fault(reset="head", times=1),
    "reset in the body": Fault(reset="body"),
    "cut before the first byte": Fault(cut=0),
    "cut in the head": Fault(cut=20),
    "cut in the body": Fault(cut=200),
    "cut in the body, once": Fault(cut=200, times=1),
    "slices of one byte": Fault(slices=1),
    "chunked": Fault(chunked=True),
    "chunked, in slices of seven bytes": Fault(chunked=True, slices=7),
    "ends at close, slowly": Fault(slow_close=0.05),
    "a slow drip": Fault(slices=40, pause=0.001),
    "gzip": Fault(gzip=True),
    "gzip, chunked, in slices of one byte": Fault(gzip=True, chunked=True, slices=1),
    "an event stream for everyone": Fault(body=STREAM, content_type="text/event-stream"),
    "a whole answer for everyone": Fault(body=completion(TEXT)),
    "the same as an event stream's type": Fault(body=completion(TEXT), content_type="text/event-stream"),
    "no [DONE]": Fault(body=STREAM.replace(DONE, b""), content_type="text/event-stream"),
    "a stream that just ends": Fault(body=STREAM[: STREAM.index(b"Rhine")], content_type="text/event-stream"),
    "a stream that just ends, once": Fault(body=STREAM[: STREAM.index(b"Rhine")], content_type="text/event-stream", times=1),
    "[DONE] at once": Fault(body=DONE, content_type="text/event-stream"),
    "an error as the first event, once": Fault(body=BUSY, content_type="text/event-stream", times=1),
    "an error after the role, once": Fault(body=ROLE + BUSY, content_type="text/event-stream", times=1),
    "an error after content": Fault(body=STREAM.replace(DONE, BUSY), content_type="text/event-stream"),
    "pings for ever before any content": Fault(pings=0.02, cut=0),
    "pings for ever before any content, once": Fault(pings=0.02, cut=0, times=1),
    "pings for ever after some content": Fault(pings=0.02),
    "pings for ever after the last content": Fault(pings=0.02, cut=len(STREAM) - len(DONE)),
    "no server": None,
}


def rows() -> list[list[str]]:
    """The cells of the table in the document."""
    lines = (Path(__file__).parents[1] / "docs" / "faults.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def call(client: Any, streamed: bool) -> Any:
    return client.chat.stream("A river?").until_done() if streamed else client.chat.complete("A river?")


def blocking(streamed: bool, **settings: Any) -> Any:
    with Gpt(**settings) as client:
        return call(client, streamed)


def on_asyncio(streamed: bool, **settings: Any) -> Any:
    async def run() -> Any:
        async with AsyncGpt(**settings) as client:
            made = call(client, streamed)
            return await made if inspect.isawaitable(made) else made

    return asyncio.run(run())


def outcome(ask: Callable[..., Any], fault: Fault | None, streamed: bool) -> tuple[str, int]:
    """What comes of a call, and how many requests the server drew a fault for or saw whole."""
    settings = {"model": "m", "timeout": Timeout(first_byte=0.2, idle=0.2)}
    if fault is None:
        with pytest.raises(gpt.GptError) as refused:
            ask(streamed, server_url=f"http://127.0.0.1:{closed_port()}/v1", **settings)
        assert 3 == len(refused.value.attempts)
        return type(refused.value).__name__, 0
    with serve(TEXT, faults=[fault]) as server:
        try:
            made = ask(streamed, server_url=server.url, **settings)
        except gpt.GptError as error:
            kind, named = type(error).__name__, f":{server.port}" in str(error)
        else:
            return ("answers" if TEXT == made.text else made.text), server.answered
        assert named, "the message names the server"
        return kind, server.answered


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
@pytest.mark.parametrize("ask", [blocking, on_asyncio])
def test_row(row: list[str], ask: Callable[..., Any]) -> None:
    """The row's fault has the row's outcome."""
    name, whole, whole_requests, streamed, streamed_requests = row
    with no_waiting():
        assert (whole, int(whole_requests)) == outcome(ask, FAULTS[name], False)
        assert (streamed, int(streamed_requests)) == outcome(ask, FAULTS[name], True)


def test_rows() -> None:
    """Every fault has its row, and every row its fault."""
    assert list(FAULTS) == [row[0] for row in rows()]
