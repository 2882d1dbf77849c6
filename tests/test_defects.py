"""The reproduced defects of the official package that are not about streams: each is done right here, on both clients.

The numbers are those of the list in the project's research. Those about streams belong to their own tests.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import gpt
from gpt import AsyncGpt, Gpt, UserMessage
from gpt.testing import Fault, no_waiting, serve

QUOTA = {"error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}}


def blocking(call: Callable[[Any], Any], **settings: Any) -> Any:
    with Gpt(**settings) as client:
        return call(client)


def on_asyncio(call: Callable[[Any], Any], **settings: Any) -> Any:
    async def run() -> Any:
        async with AsyncGpt(**settings) as client:
            made = call(client)
            return await made if inspect.isawaitable(made) else made

    return asyncio.run(run())


@pytest.fixture(params=[blocking, on_asyncio])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    way: Callable[..., Any] = request.param
    return way


def complete(client: Any) -> Any:
    return client.chat.complete("a", model="m")


FAILURES: list[tuple[str, Fault, type[gpt.GptError], str, int]] = [
    ("17 HTML with 200", Fault(body=b"<html>hi", content_type="text/html"), gpt.MalformedResponseError, "<html>hi", 1),
    ("18 an error with 200", Fault(body={"error": {"message": "no", "code": "x"}}), gpt.MalformedResponseError, "no", 1),
    ("19 an empty body", Fault(body=b""), gpt.MalformedResponseError, "it is not JSON", 1),
    ("20 quota", Fault(status=429, body=QUOTA), gpt.QuotaError, "current quota", 1),
    ("20 not implemented", Fault(status=501), gpt.ServerError, "501", 1),
]


@pytest.mark.parametrize(("fault", "kind", "text", "requests"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_failures(ask: Callable[..., Any], fault: Fault, kind: type[gpt.GptError], text: str, requests: int) -> None:
    """17 to 20: what is no answer is a typed error, and what another try cannot mend is asked once."""
    with serve(faults=[fault]) as server, no_waiting(), pytest.raises(kind) as caught:
        ask(complete, server_url=server.url)
    assert type(caught.value) is kind
    assert text in str(caught.value)
    assert requests == server.answered


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_finish_reason(ask: Callable[..., Any], reason: str) -> None:
    """22: an answer that ended for another reason is an answer; nobody asked for a format."""
    from gpt.testing.loopback import completion

    body = completion("half of")
    body["choices"][0]["finish_reason"] = reason
    with serve(body) as server:
        assert ("half of", reason) == (
            (made := ask(complete, server_url=server.url)).text,
            made.choices[0].finish_reason,
        )


def test_resent(ask: Callable[..., Any]) -> None:
    """25, 26: a message goes back as history without what is output only and without nulls; dumping it warns of nothing."""
    with serve("hi") as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        first = ask(complete, server_url=server.url)
        json.dumps(first.to_dict())
        ask(lambda client: client.chat.complete([UserMessage("a"), first.message, UserMessage("b")]), server_url=server.url)
        sent = json.loads(server.requests[-1][1])["messages"][1]
    assert {"role": "assistant", "content": "hi"} == sent


def test_copies(ask: Callable[..., Any]) -> None:
    """27: errors and answers pickle and copy, with what they carry."""
    with serve(faults=[Fault(status=429, times=1, headers={"x-request-id": "r", "retry-after": "7"})]) as server:
        with pytest.raises(gpt.RateLimitError) as caught:
            ask(complete, server_url=server.url, max_retries=0)
        made = ask(complete, server_url=server.url)
    for twin in (pickle.loads(pickle.dumps(caught.value)), copy.deepcopy(caught.value)):
        assert (str(caught.value), "r", 7.0, caught.value.attempts) == (
            str(twin),
            twin.request_id,
            twin.retry_after,
            twin.attempts,
        )
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert made == again
        assert "hi" == again.text


def test_two_loops() -> None:
    """28: one client answers in one `asyncio.run` after another."""
    with serve("hi") as server:
        client = AsyncGpt(server_url=server.url)
        assert ["hi", "hi", "hi"] == [asyncio.run(client.chat.complete("a")).text for _ in range(3)]


def test_no_key(ask: Callable[..., Any]) -> None:
    """29: a server of one's own is asked without a key."""
    with serve("hi") as server:
        assert "hi" == ask(complete, server_url=server.url, api_key="").text
    assert "authorization" not in server.requests[0][0].lower()
