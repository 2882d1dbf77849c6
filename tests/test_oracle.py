"""The official client as an oracle: the same bytes decode to the same values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import openai
import pytest

from gpt import Gpt
from gpt.testing import Fault, serve
from gpt.testing.loopback import completion, serving

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "total_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0, "cache_write_tokens": 1},
    "completion_tokens_details": {
        "reasoning_tokens": 5,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 1,
        "rejected_prediction_tokens": 2,
    },
}
TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1.0, "bytes": None}]}


def choice(message: dict[str, Any], **beside: Any) -> dict[str, Any]:
    full = {"role": "assistant", "content": None, "refusal": None, **message}
    return {"index": 0, "finish_reason": "stop", "logprobs": None, "message": full, **beside}


BODIES: list[tuple[str, dict[str, Any]]] = [
    ("plain", completion("hi")),
    ("two choices", completion(choices=[choice({"content": "a"}), choice({"content": "b"}, index=1, finish_reason="length")])),
    ("tool calls", completion(choices=[choice({"tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "2", "type": "custom", "custom": {"name": "c", "input": "x"}}]}, finish_reason="tool_calls")])),
    ("function call", completion(choices=[choice({"function_call": {"name": "f", "arguments": "{}"}})])),
    ("refusal", completion(choices=[choice({"refusal": "no"})])),
    ("usage in detail", completion(usage=USAGE)),
    ("logprobs", completion(choices=[choice({"content": "a"}, logprobs={"content": [TOKEN], "refusal": None})])),
    ("audio", completion(choices=[choice({"audio": {"id": "a", "data": "QQ==", "expires_at": 5, "transcript": "t"}})])),
    ("annotations", completion(choices=[choice({"content": "x", "annotations": [
        {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 1, "url": "u", "title": "t"}}]})])),
    ("top level", completion(service_tier="flex", system_fingerprint="f", metadata={"a": "b"})),
    ("unknown fields", completion(zap={"a": [1]}, choices=[choice({"content": "x", "reasoning_content": "hm"}, zip=1)])),
    ("an unknown finish reason", completion(choices=[choice({"content": "x"}, finish_reason="sensitive")])),
    ("moderation", completion(moderation={"input": {"type": "moderation_results", "model": "m", "results": []},
                                          "output": {"type": "error", "code": "c", "message": "m"}})),
]  # fmt: skip


def same(ours: Any, theirs: Any, path: str = "$") -> None:
    """Every value that the official client made is the one that ours made."""
    if theirs is None:
        assert ours is None, path
    elif isinstance(theirs, openai.BaseModel):
        for name in type(theirs).model_fields:
            if not hasattr(ours, name):
                continue  # a field of theirs that servers of this protocol do not send
            same(getattr(ours, name), getattr(theirs, name), f"{path}.{name}")
    elif isinstance(theirs, list):
        assert len(theirs) == len(ours), path
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            same(*pair, f"{path}[{index}]")
    else:
        assert theirs == ours, path


@pytest.mark.parametrize("body", [row[1] for row in BODIES], ids=[row[0] for row in BODIES])
def test_same_values(body: dict[str, Any]) -> None:
    """The same answer, read by both, has the same values; ours gives back exactly what arrived."""
    with serving(body) as server:
        with openai.OpenAI(base_url=server.url, api_key="k") as official:
            theirs = official.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        ours = Gpt(server_url=server.url).chat.complete("x", model="m")
        same(ours, theirs)
        assert body == ours.to_dict()


WELL_FORMED = ("hosted", "hosted-tools", "hosted-refusal", "older-hosted", "deepseek", "perplexity")
"""Dialects of the corpus that the official client reads without a fault."""


@pytest.mark.parametrize("name", WELL_FORMED)
def test_same_streams(name: str) -> None:
    """A well-formed stream, read by both, has the same chunks and adds up to the same completion."""
    body = (Path(__file__).parent / "dialects" / f"{name}.sse").read_bytes()
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    with serve(faults=[Fault(body=body, content_type="text/event-stream")]) as server:
        with openai.OpenAI(base_url=server.url, api_key="k") as official:
            their_chunks = list(official.chat.completions.create(**asked, stream=True))
            with official.chat.completions.stream(**asked) as stream:
                theirs = stream.get_final_completion()
        client = Gpt(server_url=server.url)
        same(list(client.chat.completions.create(**asked, stream=True)), their_chunks)
        same(client.chat.stream("x", model="m").until_done(), theirs)


def test_same_request() -> None:
    """The same call sends the same JSON."""
    asked: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "ä"}]}],
        "temperature": 0.5,
        "stop": ["a"],
        "seed": None,
        "logit_bias": {"5": 1},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_object"},
        "extra_body": {"top_k": 3},
    }
    with serving(completion()) as server:
        with openai.OpenAI(base_url=server.url, api_key="k") as official:
            official.chat.completions.create(**asked)
        Gpt(server_url=server.url).chat.completions.create(**asked)
        theirs, ours = (json.loads(body) for _, body in server.requests)
    assert theirs == ours


STORED: list[tuple[str, Any]] = [
    ("list", lambda c: c.list()),
    ("list, with all", lambda c: c.list(after="c1", limit=3, model="a b/ü", order="desc", metadata={"k 1": "v&=", "l": "ü"})),
    ("list, with more", lambda c: c.list(limit=3, extra_query={"limit": "5", "zap": "1"}, extra_headers={"x-a": "1"})),
    ("retrieve", lambda c: c.retrieve("c1")),
    ("retrieve, by an odd id", lambda c: c.retrieve("a/b?c d%2F")),
    ("update", lambda c: c.update("c1", metadata={"a": "b"})),
    ("update, with none", lambda c: c.update("c1", metadata=None)),
    ("update, with more", lambda c: c.update("c1", metadata={}, extra_body={"zap": 1})),
    ("delete", lambda c: c.delete("c1")),
    ("messages", lambda c: c.messages.list("c1", after="m1", limit=3, order="asc")),
]


@pytest.mark.parametrize("use", [row[1] for row in STORED], ids=[row[0] for row in STORED])
def test_same_stored(use: Any) -> None:
    """The same call about stored completions asks the same: method, path, parameters, JSON; and gives the same values."""
    item = {**completion("hi"), "id": "c1", "seed": 5, "metadata": {"a": "b"}, "role": "user", "content": "a", "deleted": True}
    body = {**item, "object": "list", "data": [{**item, "id": "c2"}], "has_more": False, "first_id": "c2", "last_id": "c2"}
    with serving(body) as server:
        with openai.OpenAI(base_url=server.url, api_key="k") as official:
            theirs = use(official.chat.completions)
        ours = use(Gpt(server_url=server.url).chat.completions)
        (their_head, their_body), (our_head, our_body) = server.requests
    their_line, our_line = their_head.split("\r\n")[0].split(" "), our_head.split("\r\n")[0].split(" ")
    assert their_line[0] == our_line[0]
    their_path, our_path = urlsplit(their_line[1]), urlsplit(our_line[1])
    assert unquote(their_path.path) == unquote(our_path.path)
    assert their_path.path.count("/") == our_path.path.count("/")
    assert sorted(parse_qsl(their_path.query)) == sorted(parse_qsl(our_path.query))
    assert (json.loads(their_body) if their_body else None) == (json.loads(our_body) if our_body else None)
    assert ("x-a: 1" in their_head) == ("x-a: 1" in our_head)
    same(ours, theirs)


def test_same_pages() -> None:
    """The same pages are asked for, one after the other, and the same items come of them."""
    pages = [
        {"object": "list", "data": [{**completion(), "id": name} for name in ids], "has_more": more}
        for ids, more in (("ab", True), ("cd", True), ("e", False))
    ]
    found = []
    with serving(*pages, *pages) as server:
        with openai.OpenAI(base_url=server.url, api_key="k") as official:
            found.append([item.id for item in official.chat.completions.list(limit=2, metadata={"k": "v"})])
        found.append([item.id for item in Gpt(server_url=server.url).chat.completions.list(limit=2, metadata={"k": "v"})])
        asked = [sorted(parse_qsl(urlsplit(head.split(" ")[1]).query)) for head, _ in server.requests]
    assert [list("abcde")] * 2 == found
    assert asked[:3] == asked[3:]
