"""The thirty reproduced defects of the official package: what ours does is in docs/defects.md, and is seen here on both clients.

Each row of that table has a case here, which plays the row's input and gives the words that the table has for what came of it.
"""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gpt
from gpt import AsyncGpt, Gpt, Timeout, UserMessage
from gpt.testing import Fault, no_waiting, serve
from gpt.testing.loopback import Loopback, Peer, completion
from gpt.types import UNSET

QUOTA = {"error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}}
CLOCKS = Timeout(first_byte=0.2, idle=0.2)


class Blocking:
    """`Gpt` through one set of names."""

    def complete(self, prompt: Any = "a", response_format: Any = UNSET, **settings: Any) -> Any:
        with Gpt(**settings) as client:
            return client.chat.complete(prompt, model="m", response_format=response_format)

    def parse(self, into: Any, **settings: Any) -> Any:
        with Gpt(**settings) as client:
            return client.chat.parse("a", model="m", into=into)

    def stream(self, **settings: Any) -> Any:
        with Gpt(**settings) as client:
            return client.chat.stream("a", model="m").until_done()

    def raw(self, times: int = 1, **settings: Any) -> list[Any]:
        found: list[Any] = []
        with Gpt(**settings) as client:
            for _ in range(times):
                found += client.chat.completions.create(messages=[UserMessage("a")], model="m", stream=True)
        return found


class OnAsyncio:
    """`AsyncGpt` through the same names."""

    def complete(self, prompt: Any = "a", response_format: Any = UNSET, **settings: Any) -> Any:
        async def run() -> Any:
            async with AsyncGpt(**settings) as client:
                return await client.chat.complete(prompt, model="m", response_format=response_format)

        return asyncio.run(run())

    def parse(self, into: Any, **settings: Any) -> Any:
        async def run() -> Any:
            async with AsyncGpt(**settings) as client:
                return await client.chat.parse("a", model="m", into=into)

        return asyncio.run(run())

    def stream(self, **settings: Any) -> Any:
        async def run() -> Any:
            async with AsyncGpt(**settings) as client:
                return await client.chat.stream("a", model="m").until_done()

        return asyncio.run(run())

    def raw(self, times: int = 1, **settings: Any) -> list[Any]:
        async def run() -> list[Any]:
            found: list[Any] = []
            async with AsyncGpt(**settings) as client:
                for _ in range(times):
                    chunks = await client.chat.completions.create(messages=[UserMessage("a")], model="m", stream=True)
                    found.extend([chunk async for chunk in chunks])
            return found

        return asyncio.run(run())


Ask = Blocking | OnAsyncio


@pytest.fixture(params=[Blocking, OnAsyncio])
def ask(request: pytest.FixtureRequest) -> Ask:
    made: Ask = request.param()
    return made


# --------------------------------------------------------------------------------------------------------------------
# Streams
# --------------------------------------------------------------------------------------------------------------------

STOP: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
END = b"data: [DONE]\n\n"


def delta(index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": index, "delta": fields, "finish_reason": None}]}


def called(**piece: Any) -> dict[str, Any]:
    return delta(tool_calls=[piece])


def function(arguments: str, name: str | None = None) -> dict[str, Any]:
    return {"arguments": arguments} | ({"name": name} if name else {})


def body(*said: Any) -> bytes:
    """Chunks, or bytes as they are, as the body of a stream."""
    return b"".join(one if isinstance(one, bytes) else b"data: " + json.dumps(one).encode() + b"\n\n" for one in said)


def playing(said: bytes, **fault: Any) -> Any:
    return serve(faults=[Fault(body=said, content_type="text/event-stream", **fault)])


def answered(ask: Ask, *said: Any) -> Any:
    """The completion of these chunks, and the end marker."""
    with playing(body(*said, STOP, END)) as server:
        whole = ask.stream(server_url=server.url)
        assert len([one for one in said if isinstance(one, dict)]) + 1 == len(ask.raw(server_url=server.url))
    return whole


def calls(ask: Ask, *said: Any) -> str:
    """The tool calls of these chunks in a line."""
    message = answered(ask, *said).message
    shown = []
    for call in message.tool_calls:
        called_ = call.function if hasattr(call, "function") else call.custom
        shown.append(f"{call.id} {called_.name} {getattr(called_, 'arguments', None) or getattr(called_, 'input', '')}")
    return "; ".join(shown)


def failed(call: Callable[[], Any]) -> str:
    """The error of a call in a line: its class, and what had come of the answer."""
    with pytest.raises(gpt.GptError) as caught:
        call()
    partial = caught.value.partial
    return type(caught.value).__name__ + (f", partial {partial.text!r}" if partial is not None else "")


def case_1(ask: Ask) -> str:
    made = answered(ask, delta(1, content="b"), delta(0, content="a"), STOP)
    return ", ".join(f"choice {choice.index} {choice.message.content!r}" for choice in made.choices)


def case_2(ask: Ask) -> str:
    return calls(ask, called(id="1", function=function("{", "f")), called(function=function("}")))


def case_3(ask: Ask) -> str:
    first, second = called(index=1, id="1", function=function("{}", "f")), called(index=2, id="2", function=function("[]", "g"))
    return calls(ask, first, second)


def case_4(ask: Ask) -> str:
    return calls(ask, *(called(index=0, id="1", function=function(piece, "f")) for piece in ("{", "}")))


def case_5(ask: Ask) -> str:
    return calls(
        ask, called(index=0, id="1", function=function("{}", "f")), called(index=0, id="2", function=function("[]", "g"))
    )


def case_6(ask: Ask) -> str:
    first = called(index=0, id="1", type="custom", custom={"name": "c", "input": "x"})
    return calls(ask, first, called(index=0, custom={"input": "y"}))


def case_7(ask: Ask) -> str:
    note = {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 1, "url": "u", "title": "t"}}
    made = answered(ask, *(delta(annotations=[note], reasoning_details=[{"text": "x"}]) for _ in range(2)))
    return f"{len(made.message.annotations)} annotations, {len(made.message.reasoning_details)} details"


def case_8(ask: Ask) -> str:
    made = answered(ask, delta(content="a"), {"choices": [], "usage": {"total_tokens": 3}}, delta(content="b"))
    return f"usage {made.usage.total_tokens}"


def case_9(ask: Ask) -> str:
    made = answered(ask, {**delta(content="a"), "service_tier": "auto"}, {**delta(content="b"), "service_tier": "flex"})
    return f"service_tier {made.service_tier!r}"


def case_10(ask: Ask) -> str:
    return repr(answered(ask, {"id": "c", "choices": None}, delta(content="a")).text)


def case_11(ask: Ask) -> str:
    return repr(answered(ask, {"choices": [{"index": 0, "delta": {"content": "a"}}]}).text)


def case_12(ask: Ask) -> str:
    with playing(body(delta(content="a"), delta(content="b"))) as server:
        whole = failed(lambda: ask.stream(server_url=server.url))
        assert whole == failed(lambda: ask.raw(server_url=server.url))
        assert 2 == server.answered
    return whole


def case_13(ask: Ask) -> str:
    return repr(answered(ask, delta(content="a"), b"data:\n\n", b"retry: 5\n\n", delta(content="b")).text)


def case_14(ask: Ask) -> str:
    with playing(body(delta(content="a"), {"error": "server is busy"})) as server:
        shown = failed(lambda: ask.stream(server_url=server.url))
        with pytest.raises(gpt.OverloadedError, match="server is busy"):
            ask.raw(server_url=server.url)
    return shown


def case_15(ask: Ask) -> str:
    shown = []
    frame = b"event: error\ndata: {}\n\n".replace(b"{}", b'{"message": "maximum context length"}')
    for said in (frame, {"object": "error", "message": "maximum context length"}):
        with playing(body(delta(content="a"), said)) as server:
            shown.append(failed(lambda server=server: ask.stream(server_url=server.url)))  # type: ignore[misc]
            assert shown[-1] == failed(lambda server=server: ask.raw(server_url=server.url))  # type: ignore[misc]
    assert shown[0] == shown[1]
    return shown[0]


def case_16(ask: Ask) -> str:
    with serve(faults=[Fault(body=completion("hi"))]) as server:
        assert ["hi"] == [chunk.text for chunk in ask.raw(server_url=server.url)]
        return repr(ask.stream(server_url=server.url).text)


# --------------------------------------------------------------------------------------------------------------------
# Whole answers
# --------------------------------------------------------------------------------------------------------------------


def refused(ask: Ask, fault: Fault, text: str) -> str:
    """The error that a call ends with, and after how many requests."""
    with serve(faults=[fault]) as server, no_waiting():
        with pytest.raises(gpt.GptError) as caught:
            ask.complete(server_url=server.url)
        assert text in str(caught.value)
        return f"{type(caught.value).__name__}, {server.answered} request"


def case_17(ask: Ask) -> str:
    return refused(ask, Fault(body=b"<html>hi", content_type="text/html"), "<html>hi")


def case_18(ask: Ask) -> str:
    return refused(ask, Fault(body={"error": {"message": "no", "code": "invalid_api_key"}}), "no")


def case_19(ask: Ask) -> str:
    return refused(ask, Fault(body=b""), "it is not JSON")


def case_20(ask: Ask) -> str:
    quota = refused(ask, Fault(status=429, body=QUOTA), "current quota")
    return f"{quota}; {refused(ask, Fault(status=501), '501')}"


def case_21(ask: Ask) -> str:
    with serve(faults=[Fault(pings=0.02, cut=0)]) as server:
        before = failed(lambda: ask.stream(server_url=server.url, timeout=CLOCKS, max_retries=0))
    with serve("a b c d", faults=[Fault(pings=0.02)]) as server:
        after = failed(lambda: ask.raw(server_url=server.url, timeout=CLOCKS))
    return f"{before}; after content {after}"


def finished(ask: Ask, text: str, reason: str) -> Any:
    """The answer to a call, and of a stream, that ended so."""
    said = completion(text)
    said["choices"][0]["finish_reason"] = reason
    with serve(said) as server:
        made = ask.complete(server_url=server.url)
        assert made.choices[0].message == ask.stream(server_url=server.url).choices[0].message
    return made


def case_22(ask: Ask) -> str:
    assert "content_filter" == finished(ask, "half of", "content_filter").choices[0].finish_reason
    made = finished(ask, "half of", "length")
    return f"{made.text!r}, finish_reason {made.choices[0].finish_reason!r}"


def case_23(ask: Ask) -> str:
    with serve("{not json") as server:
        with pytest.raises(gpt.ParseError) as caught:
            ask.parse(int, server_url=server.url)
        plain = ask.complete(server_url=server.url, response_format={"type": "json_object"})
    assert "{not json" == plain.text
    return f"{type(caught.value).__name__} with the completion, {caught.value.completion.text!r}"


def case_24(ask: Ask) -> str:
    fence = "`" * 3
    values = []
    for text in (f'{fence}json\n{{"value": 5}}\n{fence}', '<think>x</think>{"value": 5}'):
        with serve(text) as server:
            values.append(ask.parse(int, server_url=server.url).value)
    return f"the values, {values}"


def case_25(ask: Ask) -> str:
    with serve("hi") as server:
        first = ask.complete(server_url=server.url)
        ask.complete([UserMessage("a"), first.message, UserMessage("b")], server_url=server.url)
        return json.dumps(json.loads(server.requests[-1][1])["messages"][1])


def case_26(ask: Ask) -> str:
    said = completion("x")
    said["choices"][0]["message"] |= {
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
    }
    with serve(said) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        made = ask.complete(server_url=server.url)
        assert said == made.to_dict()
        call = made.message.tool_calls[0].function
    return f"no warning, {made.text!r}, arguments {call.arguments}"


def case_27(ask: Ask) -> str:
    with serve(faults=[Fault(status=429, times=1, headers={"x-request-id": "r", "retry-after": "7"})]) as server:
        with pytest.raises(gpt.RateLimitError) as caught:
            ask.complete(server_url=server.url, max_retries=0)
        made = ask.complete(server_url=server.url)
    for twin in (pickle.loads(pickle.dumps(caught.value)), copy.deepcopy(caught.value)):
        assert str(caught.value) == str(twin)
        assert ("r", 7.0, caught.value.attempts) == (twin.request_id, twin.retry_after, twin.attempts)
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert made == again
        assert "hi" == again.text
    return "errors and answers pickle and copy"


def case_28(_: Ask) -> str:
    with serve("hi") as server:
        client = AsyncGpt(server_url=server.url)
        return ", ".join(asyncio.run(client.chat.complete("a")).text for _ in range(3))


def case_29(ask: Ask) -> str:
    with serve("hi") as server:
        text = ask.complete(server_url=server.url, api_key="").text
    assert "authorization" not in server.requests[0][0].lower()
    return repr(text)


def case_30(ask: Ask) -> str:
    def play(peer: Peer) -> None:
        while True:
            peer.read_request()
            said = body(delta(content="a"), STOP, END)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            peer.send(head + b"%x\r\n%b\r\n" % (len(said), said))
            peer.send(b"0\r\n\r\n")

    with Loopback(play) as server:
        assert 20 == len(ask.raw(10, server_url=server.url))
        return f"{server.connections} connection for 10 streams"


CASES: dict[int, Callable[[Ask], str]] = {number: globals()[f"case_{number}"] for number in range(1, 31)}
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (Path(__file__).parents[1] / "docs" / "defects.md").read_text().splitlines()
    if line.startswith("| ") and line[2].isdigit()
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_row(row: list[str], ask: Ask) -> None:
    """What the row says is what happens."""
    number, _, expected = row
    assert expected == CASES[int(number)](ask)


def test_rows() -> None:
    """There are all thirty."""
    assert list(range(1, 31)) == [int(row[0]) for row in ROWS]


def test_as_the_research_has_them() -> None:
    """The inputs are those of the list."""
    page = Path(__file__).parents[2] / "shared" / "research" / "openai-python.md"
    if not page.exists():
        pytest.skip("the research is not here")
    section = page.read_text().partition("## 8. ")[2].partition("\n## ")[0]
    listed = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line[2:3].isdigit()]
    assert [str(number) for number in CASES] == listed
