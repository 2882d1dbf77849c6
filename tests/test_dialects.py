"""The corpus of dialects: each stream adds up to its message, in any cut, on both clients, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gpt import AsyncGpt, ChatCompletion, ChatRequest, Gpt, ToolMessage, UserMessage
from gpt.protocol.chunks import fold
from gpt.protocol.codec import encode_request
from gpt.protocol.stream import ChunkDecoder
from gpt.protocol.wire import Headers, HttpRequest, Origin
from gpt.testing import Fault, serve

from places import published_schemas

CORPUS = sorted((Path(__file__).parent / "dialects").glob("*.sse"))
HEADERS = Headers([("content-type", "text/event-stream")])
REQUEST = HttpRequest("POST", Origin("http", "h", 80), "/v1/chat/completions")


def expected(path: Path) -> dict[str, Any]:
    """What the stream adds up to, by its first line."""
    head: dict[str, Any] = json.loads(path.read_text().splitlines()[0].removeprefix(": "))
    assert head["source"], "every dialect says where it was reported"
    stated: dict[str, Any] = head["expected"]
    return stated


def seen(made: ChatCompletion, stated: dict[str, Any]) -> dict[str, Any]:
    """The completion in the words of the corpus, as far as it speaks of them."""
    message = made.message
    plain = made.to_dict()
    calls = [call for call in message.tool_calls or () if hasattr(call, "function")]
    custom = [call for call in message.tool_calls or () if hasattr(call, "custom")]
    about: dict[str, Any] = {
        "content": message.content,
        "contents": [choice.message.content for choice in made.choices],
        "finish_reason": made.choices[0].finish_reason,
        "calls": [[call.id, call.function.name, call.function.arguments] for call in calls],
        "custom": [[call.id, call.custom.name, call.custom.input] for call in custom],
        "function": message.function_call and [message.function_call.name, message.function_call.arguments],
        "reasoning": message.reasoning,
        "details": message.reasoning_details,
        "refusal": message.refusal,
        "audio": message.audio and [message.audio.data, message.audio.transcript],
        "usage": made.usage and made.usage.total_tokens,
        "logprobs": len((made.choices[0].logprobs and made.choices[0].logprobs.refusal) or ()),
        "top": {name: plain.get(name) for name in stated.get("top", ())},
        "unknown": {name: plain.get(name) for name in stated.get("unknown", ())},
        "ended": made.info and made.info.ended,
    }
    if "call_unknown" in stated:
        first = plain["choices"][0]["message"]["tool_calls"][0]
        about["call_unknown"] = {name: first.get(name) for name in stated["call_unknown"]}
    return {name: about[name] for name in stated}


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_any_cut(path: Path) -> None:
    """The stream adds up to the same in any cut, and is whole."""
    body, stated = path.read_bytes(), expected(path)
    ended = stated.pop("ended", "complete")
    for step in (1, 2, 3, 50, 777, len(body)):
        decoder = ChunkDecoder(HEADERS, REQUEST)
        chunks = []
        for place in range(0, len(body), step):
            chunks += decoder.feed(body[place : place + step])
            if decoder.done:
                break
        else:
            chunks += decoder.end()
        assert (None, ended) == (decoder.problem, decoder.ended)
        assert stated == seen(fold(chunks), stated)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_clients(path: Path) -> None:
    """Both clients give it: as events, as raw chunks, and as a completion where a whole answer was asked for."""
    stated = expected(path)

    async def on_asyncio(url: str) -> list[Any]:
        async with AsyncGpt(server_url=url, model="m") as client:
            chunks = await client.chat.completions.create(messages=[{"role": "user", "content": "a"}], stream=True)
            raw = fold([chunk async for chunk in chunks])
            return [await client.chat.stream("a").until_done(), await client.chat.complete("a"), raw]

    with serve(faults=[Fault(body=path.read_bytes(), content_type="text/event-stream")]) as server:
        with Gpt(server_url=server.url, model="m") as client:
            raw = fold(client.chat.completions.create(messages=[{"role": "user", "content": "a"}], stream=True))
            blocking = [client.chat.stream("a").until_done(), client.chat.complete("a"), raw]
        for one in [*blocking, *asyncio.run(on_asyncio(server.url))]:
            known = stated if one.info is not None else {name: value for name, value in stated.items() if name != "ended"}
            assert known == seen(one, known)


@pytest.fixture(scope="module")
def assistant() -> Any:
    """The published schema of a message of the assistant in a request."""
    schema = {"$ref": "#/components/schemas/ChatCompletionRequestAssistantMessage"}
    return jsonschema.Draft202012Validator(schema | {"components": {"schemas": published_schemas()}})


THINKING = ("reasoning_content", "reasoning", "reasoning_details")


@pytest.mark.parametrize("tags", [None, ("<think>", "</think>")], ids=["fields", "tags"])
@pytest.mark.parametrize("echoes", ["never", "tools", "always"])
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_sent_again(path: Path, echoes: Any, tags: Any, assistant: Any) -> None:
    """Any answer of any dialect can be sent again, by any rule about its thinking: as a message by the published description,
    with the thinking as the rule says and under the names that it came under.
    """
    decoder = ChunkDecoder(HEADERS, REQUEST)
    answer = fold([*decoder.feed(path.read_bytes()), *decoder.end()])
    for choice in answer.choices:
        message = choice.message
        request = ChatRequest(model="m", messages=[UserMessage("a"), message])
        sent = json.loads(encode_request(request, echoes=echoes, tags=tags))["messages"][1]
        assert [] == [error.message for error in assistant.iter_errors(sent)]
        echoed = echoes == "always" or (echoes == "tools" and bool(message.tool_calls or message.function_call))
        whole = message.to_dict()
        there = {name: whole[name] for name in THINKING if whole.get(name) is not None} if echoed and tags is None else {}
        assert there == {name: sent.pop(name) for name in THINKING if name in sent}
        assert (echoed and tags is not None and message.reasoning is not None) == str(sent.get("content")).startswith("<think>")
        assert sent.keys() <= {"role", "content", "refusal", "tool_calls", "function_call", "audio"}
        assert sent.get("content") is not None or sent.keys() - {"role", "content"}
        results = [ToolMessage("done", call["id"]) for call in sent.get("tool_calls", ())]
        assert all(result.tool_call_id for result in results)
        encode_request(ChatRequest(model="m", messages=[UserMessage("a"), message, *results]), echoes=echoes, tags=tags)
