"""Fallback over clients and URLs, the model in the box among them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gpt import AsyncFallback, AsyncGpt, CallEvent, Fallback, Gpt, InvalidRequestError, Local, Profile, Retry
from gpt.protocol.fallback import RULES
from gpt.testing import Fault, Scripted, no_waiting, serve
from gpt.testing.loopback import closed_port

DEAD = f"http://127.0.0.1:{closed_port()}/v1"


def ask(entries: Any, asynchronous: bool, **params: Any) -> Any:
    """The answer to "a" by a Fallback of the entries."""
    if not asynchronous:
        return Gpt(backend=Fallback(entries)).chat.complete("a", **params)

    async def run() -> Any:
        async with AsyncGpt(backend=AsyncFallback(entries)) as client:
            return await client.chat.complete("a", **params)

    return asyncio.run(run())


BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])


@BOTH
def test_model_in_the_box(asynchronous: bool, box: Local) -> None:
    """The model in the box answers where no server does; its name on the result is the URL's or its own."""
    dead = Gpt(server_url=DEAD, max_retries=0)
    # The one that other tests use, which must not be closed: a copy of its client borrows it.
    entry = Gpt(backend=box).with_options(model="m")
    answer = Gpt(backend=Fallback([dead, entry])).chat.complete("Name a river.", max_tokens=5) if not asynchronous else None
    if asynchronous:

        async def run() -> Any:
            client = AsyncGpt(backend=AsyncFallback([dead, entry]))
            return await client.chat.complete("Name a river.", max_tokens=5)

        answer = asyncio.run(run())
    assert answer is not None
    assert answer.text
    assert answer.info is not None
    assert [DEAD, "ok"] == [answer.info.entries[0].entry, answer.info.entries[1].reason]
    assert [None, None] == [attempt.status for attempt in answer.info.attempts]


def test_local_url() -> None:
    """ "local:" is an entry, and is loaded when it is asked, not before."""
    made = Fallback([DEAD, "local:/nowhere/x.gguf"])
    assert 2 == len(made._entries)
    assert isinstance(made._entries[1].backend, Local)


@BOTH
def test_a_clients_settings(asynchronous: bool) -> None:
    """A client's model, options, hook and profile hold for its calls; what the call says goes before its options."""
    told: list[CallEvent] = []
    said = "<think>hm</think>hi"
    with serve("no", faults=[Fault(status=500)]) as broken, serve(said) as works, no_waiting():
        tagged = Profile(think_tags=("<think>", "</think>"))
        first = Gpt(server_url=broken.url, retry=Retry(attempts=1), model="first", on_event=told.append)
        second = Gpt(server_url=works.url, profile=tagged, model="second", on_event=told.append)
        second = second.with_options(headers={"x-a": "client", "x-b": "client"})
        answer = ask([first, second], asynchronous, model="call", headers={"x-b": "call"})
        assert 1 == broken.answered
        head = works.requests[-1][0]
        assert b'"model":"second"' in works.requests[-1][1]
        assert b'"model":"first"' in broken.requests[-1][1]
    assert ("hm", "hi") == (answer.message.reasoning, answer.text)
    assert ["x-a: client", "x-b: call"] == [line for line in head.split("\r\n") if line.startswith(("x-a", "x-b"))]
    assert ["request", "error", "request", "done"] == [event.kind for event in told]


def test_a_clients_layers() -> None:
    """A client's layers are put over its backend once; how its calls are made holds where the call does not say."""

    class Tagged(Scripted):
        profile = Profile(think_tags=("<think>", "</think>"))

    script = Tagged("hi")
    client = Gpt(backend=script, max_retries=1, timeout=7, deadline=1000)
    made = Fallback([client])
    assert client.chat._backend is made._entries[0].backend._backend
    Gpt(backend=made).chat.complete("a")
    Gpt(backend=made).chat.complete("a", retry=Retry(attempts=5), timeout=8, deadline=500)
    own, called = script.options
    assert (Retry(attempts=2), 7, 1000) == (own.retry, own.timeout and own.timeout.idle, own.deadline)
    assert (Retry(attempts=5), 8) == (called.retry, called.timeout and called.timeout.idle)
    assert called.deadline is not None
    assert called.deadline <= 500


@BOTH
def test_a_pairs_model(asynchronous: bool) -> None:
    """The model of a pair goes before the client's."""
    with serve("hi") as server:
        ask([(Gpt(server_url=server.url, model="client"), "pair")], asynchronous)
        ask([(server.url, "pair")], asynchronous)
        assert all(b'"model":"pair"' in body for _, body in server.requests)


@BOTH
def test_keys_stay_with_their_servers(asynchronous: bool) -> None:
    """The key of one entry does not go to another."""
    with serve("no", faults=[Fault(status=500)]) as broken, serve("hi") as works, no_waiting():
        answer = ask([Gpt(server_url=broken.url, api_key="sk-secret"), works.url], asynchronous)
        assert "sk-secret" in broken.requests[0][0]
        assert "sk-secret" not in works.requests[0][0]
    assert "sk-secret" not in repr(answer.info)


def test_async_clients() -> None:
    """An AsyncGpt is an entry of an AsyncFallback, a Gpt of both."""
    with serve("hi") as server:
        assert "hi" == ask([AsyncGpt(server_url=server.url)], asynchronous=True).text
        assert "hi" == ask([Gpt(server_url=server.url)], asynchronous=True).text
        with pytest.raises(InvalidRequestError, match="an AsyncGpt belongs in an AsyncFallback"):
            Fallback([AsyncGpt(server_url=server.url)])
    with pytest.raises(InvalidRequestError, match="server_url"):
        Fallback(["nonsense"])


def test_within_another() -> None:
    """A Fallback is a Backend, and so an entry of another."""
    inner = Fallback([DEAD, Scripted("hi")], cool_down=0)
    with no_waiting():
        answer = Gpt(backend=Fallback([inner])).chat.complete("a")
    assert answer.info is not None
    assert ("hi", ["ok"]) == (answer.text, [entry.reason for entry in answer.info.entries])


def test_page() -> None:
    """The table of docs/fallback.md is the one that is acted upon."""
    page = (Path(__file__).parents[1] / "docs" / "fallback.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")]
    expected = []
    for rule in RULES:
        statuses = f" {', '.join(map(str, rule.statuses))}" if rule.statuses else ""
        then = ("asked" if rule.moves_on else "not asked") + (", with a warning" if rule.warns else "")
        expected.append([f"`{rule.error.__name__}`{statuses}", then, "yes" if rule.rests else "no", rule.why])
    assert expected == rows


def test_values() -> None:
    """A value is asked for in a way that every entry knows."""
    with serve("no", faults=[Fault(status=500)]) as broken, serve('{"value": 5}') as works, no_waiting():
        entries = [Gpt(server_url=broken.url, profile="lm-studio"), Gpt(server_url=works.url, profile="mlx-lm")]
        parsed = Gpt(backend=Fallback(entries)).chat.parse("a", into=int)
    assert (5, "prompt") == (parsed.value, parsed.rung)
