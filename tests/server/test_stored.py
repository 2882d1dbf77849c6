"""The routes of stored completions: what they take, what they answer, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.server.failures import Refused
from gpt.server.store import StoredCompletions
from gpt.server.stored import OF_REQUEST, answer, failed, stored

from openapi import errors_of

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png", "detail": "low"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
FILE = {"type": "file", "file": {"file_id": "file-1"}}
CALLS = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def completion(id: str = "chatcmpl-0", created: int = 1_738_960_610, **beside: Any) -> dict[str, Any]:
    return {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": "some-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "a haiku", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 13, "completion_tokens": 18, "total_tokens": 31},
        **beside,
    }


ASKED: dict[str, Any] = {"model": "some-model", "messages": [{"role": "user", "content": "write a haiku about ai"}]}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = StoredCompletions(tmp_path / "stored.sqlite")
    yield made
    made.close()


def keep(store: StoredCompletions, owner: str = "", request: dict[str, Any] = ASKED, **given: Any) -> dict[str, Any]:
    kept, messages = stored(request, completion(**given))
    store.add(owner, kept, messages)
    return kept


def asked(
    store: StoredCompletions, method: str, path: str = "", query: str = "", body: Any = b"", owner: str = ""
) -> dict[str, Any]:
    """The answer, as it is read from the wire."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, made = answer(store, owner, method, tuple(path.split("/")) if path else (), query, raw)
    assert 200 == status
    decoded: dict[str, Any] = json.loads(json.dumps(made))
    return decoded


def object_of(error: Refused) -> Any:
    return json.loads(error.body())


def turned_away(
    store: StoredCompletions, method: str, path: str = "", query: str = "", body: Any = b"", owner: str = ""
) -> Refused:
    with pytest.raises(Refused) as caught:
        asked(store, method, path, query, body, owner)
    assert {"error"} == object_of(caught.value).keys()
    return caught.value


# --------------------------------------------------------------------------------------------------------------------
# What is kept of a call
# --------------------------------------------------------------------------------------------------------------------


def test_nothing_given() -> None:
    """What a request did not give is null, and its metadata an empty object; the completion's own fields stand."""
    kept, messages = stored(ASKED, completion(service_tier="default", odd=1), "req_1")
    unsaid = dict.fromkeys([*OF_REQUEST, "input_user"])
    assert {"request_id": "req_1", **unsaid, **completion(service_tier="default", odd=1), "metadata": {}} == kept
    assert [
        {"role": "user", "content": "write a haiku about ai", "refusal": None, "name": None, "content_parts": None}
    ] == messages


def test_given() -> None:
    """What a request gave is kept as it was on the wire; what only says how to answer, or is secret in other places, is not."""
    given = {
        "temperature": 0,
        "top_p": 0.5,
        "seed": 7,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "none",
        "response_format": {"type": "json_object"},
    }
    kept, _ = stored(
        {**ASKED, **given, "user": "u", "metadata": {"a": "b"}, "stream": True, "store": True, "logit_bias": {"1": 2}},
        completion(),
    )
    assert {"request_id": None, **given, "input_user": "u", **completion(), "metadata": {"a": "b"}} == kept
    assert set(given) == set(OF_REQUEST)


def test_completion_stands() -> None:
    """What a completion itself says of a field is what is kept, but for the metadata, which is the request's."""
    kept, _ = stored({**ASKED, "seed": 7, "metadata": {"a": "b"}}, completion(seed=8, metadata={"a": "c"}))
    assert (8, {"a": "b"}) == (kept["seed"], kept["metadata"])


def said(role: str, content: Any = None, parts: Any = None, **beside: Any) -> dict[str, Any]:
    return {"role": role, "content": content, "refusal": None, "name": None, "content_parts": parts, **beside}


LISTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"role": "user", "content": "hi"}, said("user", "hi")),
    ({"role": "user", "content": ""}, said("user", "")),
    ({"role": "user", "content": "hi", "name": "ann"}, said("user", "hi", name="ann")),
    ({"role": "system", "content": [text("be "), text("brief")]}, said("system", "be brief", [text("be "), text("brief")])),
    ({"role": "developer", "content": [text("")]}, said("developer", "", [text("")])),
    ({"role": "user", "content": [text("see"), IMAGE]}, said("user", "see", [text("see"), IMAGE])),
    ({"role": "user", "content": [IMAGE]}, said("user", None, [IMAGE])),
    ({"role": "assistant", "content": None, "tool_calls": CALLS}, said("assistant", None, tool_calls=CALLS)),
    (
        {"role": "assistant", "tool_calls": CALLS, "function_call": None, "audio": None},
        said("assistant", None, tool_calls=CALLS),
    ),
    (
        {"role": "assistant", "content": "a", "function_call": {"name": "f", "arguments": ""}},
        said("assistant", "a", function_call={"name": "f", "arguments": ""}),
    ),
    ({"role": "assistant", "content": None, "refusal": "no"}, said("assistant", None, refusal="no")),
    ({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, said("assistant", None, refusal="no")),
    (
        {"role": "assistant", "content": [text("a"), {"type": "refusal", "refusal": "no"}]},
        said("assistant", "a", [text("a")], refusal="no"),
    ),
    ({"role": "assistant", "content": "a", "reasoning_content": "hm"}, said("assistant", "a", reasoning_content="hm")),
    ({"role": "tool", "content": "4", "tool_call_id": "call_1"}, said("tool", "4", tool_call_id="call_1")),
    ({"role": "function", "content": None, "name": "f"}, said("function", None, name="f")),
]


@pytest.mark.parametrize(("message", "expected"), LISTED)
def test_listed(store: StoredCompletions, message: dict[str, Any], expected: dict[str, Any]) -> None:
    """A message of any kind is listed with its text, its parts where it had parts, and all else that it had, by the description."""
    before = json.dumps(message)
    keep(store, request={"messages": [message]})
    assert before == json.dumps(message)
    page = asked(store, "GET", "chatcmpl-0/messages")
    assert [{"id": "chatcmpl-0-0", **expected}] == page["data"]
    assert [] == errors_of(page, "ChatCompletionMessageList")


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"role": "user", "content": [text("hear"), SOUND]}, "content_parts"),
        ({"role": "user", "content": [FILE]}, "content_parts"),
        ({"role": "assistant", "content": "a", "audio": {"id": "audio_1"}}, "audio"),
    ],
)
def test_undescribed(store: StoredCompletions, message: dict[str, Any], where: str) -> None:
    """What a request may have, and the description of the list does not know, is listed as it came: there alone is it left."""
    keep(store, request={"messages": [message]})
    page = asked(store, "GET", "chatcmpl-0/messages")
    assert message.get("audio") == page["data"][0].get("audio")
    assert (message["content"] if where == "content_parts" else None) == page["data"][0]["content_parts"]
    wrong = errors_of(page, "ChatCompletionMessageList")
    assert [f"$.data[0].{where}"] == [error.partition(": ")[0] for error in wrong]


# --------------------------------------------------------------------------------------------------------------------
# Answers
# --------------------------------------------------------------------------------------------------------------------


def test_one(store: StoredCompletions) -> None:
    """GET, POST and DELETE of one completion answer in the shapes of the description."""
    kept = keep(store)
    found = asked(store, "GET", "chatcmpl-0")
    assert kept == found
    updated = asked(store, "POST", "chatcmpl-0", body={"metadata": {"foo": "bar"}})
    assert kept | {"metadata": {"foo": "bar"}} == updated == asked(store, "GET", "chatcmpl-0")
    cleared = asked(store, "POST", "chatcmpl-0", body={"metadata": None})
    assert kept == cleared == asked(store, "GET", "chatcmpl-0")
    deleted = asked(store, "DELETE", "chatcmpl-0")
    assert {"object": "chat.completion.deleted", "id": "chatcmpl-0", "deleted": True} == deleted
    assert 404 == turned_away(store, "GET", "chatcmpl-0").status
    for value in (found, updated, cleared):
        assert [] == errors_of(value, "CreateChatCompletionResponse")
    assert [] == errors_of(deleted, "ChatCompletionDeleted")


@pytest.fixture
def filled(store: StoredCompletions) -> StoredCompletions:
    """25 completions, a message each and 25 in the last; every fifth has metadata."""
    for number in range(25):
        metadata = {"five": "y", "n o": f"ä&={number}"} if number % 5 == 0 else {}
        messages = [{"role": "user", "content": str(turn)} for turn in range(25 if number == 24 else 1)]
        keep(store, request={"messages": messages, "metadata": metadata}, id=f"c{number}", created=number // 2)
    return store


@pytest.mark.parametrize(
    ("query", "numbers", "more"),
    [
        ("", range(20), True),
        ("limit=100", range(25), False),
        ("limit=25", range(25), False),
        ("limit=1", range(1), True),
        ("after=c19", range(20, 25), False),
        ("after=c19&limit=5", range(20, 25), False),
        ("after=c19&limit=4", range(20, 24), True),
        ("after=c24", range(0), False),
        ("after=", range(20), True),
        ("order=asc&limit=2", range(2), True),
        ("order=desc&limit=2", range(24, 22, -1), True),
        ("order=desc&after=c1", range(0, -1, -1), False),
        ("model=some-model&limit=3", range(3), True),
        ("model=", range(0), False),
        ("metadata[five]=y", range(0, 25, 5), False),
        ("metadata%5Bfive%5D=y&limit=2", range(0, 10, 5), True),
        ("metadata[five]=y&metadata[n+o]=%C3%A4%26%3D10", range(10, 11), False),
        ("metadata[five]=n", range(0), False),
        ("metadata[]=y", range(0), False),
        ("metadata[a]b]=y", range(0), False),
    ],
)
def test_list(filled: StoredCompletions, query: str, numbers: range, more: bool) -> None:
    """The list is a page by its query, in the shape of the description, an empty one too."""
    page = asked(filled, "GET", query=query)
    ids = [f"c{number}" for number in numbers]
    assert ids == [item["id"] for item in page["data"]]
    assert ("list", ids[0] if ids else "", ids[-1] if ids else "", more) == (
        page["object"],
        page["first_id"],
        page["last_id"],
        page["has_more"],
    )
    assert [] == errors_of(page, "ChatCompletionList")


@pytest.mark.parametrize(
    ("query", "numbers", "more"),
    [
        ("", range(20), True),
        ("limit=100", range(25), False),
        ("after=c24-19", range(20, 25), False),
        ("after=c24-24", range(0), False),
        ("after=&limit=1", range(1), True),
        ("order=desc&limit=2&after=c24-10", range(9, 7, -1), True),
    ],
)
def test_messages(filled: StoredCompletions, query: str, numbers: range, more: bool) -> None:
    """So are the messages of one."""
    page = asked(filled, "GET", "c24/messages", query)
    ids = [f"c24-{number}" for number in numbers]
    assert ids == [item["id"] for item in page["data"]]
    assert [str(number) for number in numbers] == [item["content"] for item in page["data"]]
    assert ("list", ids[0] if ids else "", ids[-1] if ids else "", more) == (
        page["object"],
        page["first_id"],
        page["last_id"],
        page["has_more"],
    )
    assert [] == errors_of(page, "ChatCompletionMessageList")


def test_published_examples_are_kept(store: StoredCompletions) -> None:
    """A stored completion has all that those of the description's examples have."""
    shown = {
        *(
            "object",
            "id",
            "model",
            "created",
            "request_id",
            "tool_choice",
            "usage",
            "seed",
            "top_p",
            "temperature",
            "presence_penalty",
        ),
        *(
            "frequency_penalty",
            "system_fingerprint",
            "input_user",
            "service_tier",
            "tools",
            "metadata",
            "choices",
            "response_format",
        ),
    }
    keep(store, system_fingerprint="fp", service_tier="default")
    assert shown == asked(store, "GET", "chatcmpl-0").keys()


NAMES = st.text(st.characters(codec="utf-8"), max_size=64)
VALUES = st.text(st.characters(codec="utf-8"), max_size=512)


@settings(deadline=None, max_examples=40)
@given(metadata=st.dictionaries(NAMES, VALUES, min_size=1, max_size=16))
def test_filters(tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str]) -> None:
    """Any metadata that an update takes is found by a query of it, and comes back."""
    store = StoredCompletions(tmp_path_factory.mktemp("a") / "stored.sqlite")
    keep(store)
    keep(store, id="other")
    asked(store, "POST", "chatcmpl-0", body={"metadata": metadata})
    query = urlencode([(f"metadata[{name}]", value) for name, value in metadata.items()])
    (found,) = asked(store, "GET", query=query)["data"]
    assert ("chatcmpl-0", metadata) == (found["id"], found["metadata"])
    store.close()


# --------------------------------------------------------------------------------------------------------------------
# Refusals
# --------------------------------------------------------------------------------------------------------------------

LIST, MESSAGES, ONE = "", "chatcmpl-0/messages", "chatcmpl-0"

QUERIES: list[tuple[str, str, str | None, str]] = [
    ("modle=m", "Unknown parameter: 'modle'.", "modle", "unknown_parameter"),
    ("Limit=1", "Unknown parameter: 'Limit'.", "Limit", "unknown_parameter"),
    ("before=a", "Unknown parameter: 'before'.", "before", "unknown_parameter"),
    ("=a", "Unknown parameter: ''.", "", "unknown_parameter"),
    ("limit", "Invalid query: 'limit' has no value; write it as name=value.", "limit", "invalid_value"),
    ("limit=1&", "Invalid query: '' has no value", None, "invalid_value"),
    ("&", "Invalid query: '' has no value", None, "invalid_value"),
    (
        "limit=1;order=asc",
        "Invalid type for 'limit': expected an integer, but got '1;order=asc' instead.",
        "limit",
        "invalid_type",
    ),
    ("limit=1&limit=1", "Invalid query: 'limit' is given more than once; give it once.", "limit", "duplicate_parameter"),
    ("after=&after=", "Invalid query: 'after' is given more than once", "after", "duplicate_parameter"),
    ("limit=%", "Invalid query: '%' is no escaped UTF-8 text.", None, "invalid_value"),
    ("%zz=1", "Invalid query: '%zz' is no escaped UTF-8 text.", None, "invalid_value"),
    ("after=%ff", "Invalid query: '%ff' is no escaped UTF-8 text.", None, "invalid_value"),
    ("after=%ed%a0%80", "is no escaped UTF-8 text.", None, "invalid_value"),
    ("limit=", "Invalid type for 'limit': expected an integer, but got '' instead.", "limit", "invalid_type"),
    ("limit=ten", "Invalid type for 'limit'", "limit", "invalid_type"),
    ("limit=1.0", "Invalid type for 'limit'", "limit", "invalid_type"),
    ("limit=+1", "Invalid type for 'limit'", "limit", "invalid_type"),
    ("limit=1_0", "Invalid type for 'limit'", "limit", "invalid_type"),
    ("limit=%D9%A3", "Invalid type for 'limit'", "limit", "invalid_type"),
    ("limit=" + "9" * 5000, "Invalid type for 'limit'", "limit", "invalid_type"),
    (
        "limit=0",
        "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        "limit",
        "integer_below_min_value",
    ),
    ("limit=-1", "Invalid 'limit': integer below minimum value.", "limit", "integer_below_min_value"),
    (
        "limit=101",
        "Invalid 'limit': integer above maximum value. Expected a value <= 100, but got 101 instead.",
        "limit",
        "integer_above_max_value",
    ),
    ("order=up", "Invalid value: 'up'. Supported values are: 'asc' and 'desc'.", "order", "invalid_value"),
    ("order=", "Invalid value: ''.", "order", "invalid_value"),
    (
        "after=nobody",
        "Invalid 'after': there is nothing with id 'nobody' in this list; leave it out to begin anew.",
        "after",
        "invalid_value",
    ),
]

FILTERS: list[tuple[str, str, str | None, str]] = [
    ("metadata=a", "Invalid query: 'metadata' is no filter; write it as metadata[name]=value.", "metadata", "invalid_value"),
    ("metadata[a=1", "Invalid query: 'metadata[a' is no filter", "metadata", "invalid_value"),
    ("metadatas[a]=1", "Invalid query: 'metadatas[a]' is no filter", "metadata", "invalid_value"),
    ("metadata.a=1", "Invalid query: 'metadata.a' is no filter", "metadata", "invalid_value"),
    ("metadata[a]", "Invalid query: 'metadata[a]' has no value", "metadata[a]", "invalid_value"),
    (
        "metadata[a]=1&metadata%5Ba%5D=2",
        "Invalid query: 'metadata[a]' is given more than once",
        "metadata[a]",
        "duplicate_parameter",
    ),
    ("model=a&model=b", "Invalid query: 'model' is given more than once", "model", "duplicate_parameter"),
    (
        f"metadata[{'k' * 65}]=1",
        "too long. Expected a name with maximum length 64, but got one with length 65 instead.",
        "metadata",
        "property_name_above_max_length",
    ),
    (f"metadata[k]={'v' * 513}", "Expected a string with maximum length 512", "metadata.k", "string_above_max_length"),
    (
        "&".join(f"metadata[{number}]=v" for number in range(17)),
        "Expected an object with at most 16 properties",
        "metadata",
        "object_above_max_properties",
    ),
]

ALONE = [
    (query, f"Unknown parameter: '{query.partition('=')[0]}'.", query.partition("=")[0], "unknown_parameter")
    for query in ("model=m", "metadata[a]=1", "metadata=a")
]


@pytest.mark.parametrize(
    ("path", "query", "message", "param", "code"),
    [(path, *row) for path, rows in ((LIST, [*QUERIES, *FILTERS]), (MESSAGES, [*QUERIES, *ALONE])) for row in rows],
)
def test_queries(store: StoredCompletions, path: str, query: str, message: str, param: str | None, code: str) -> None:
    """What is unknown, twice, malformed or out of range in a query is a 400 that names it; nothing is ignored."""
    keep(store)
    error = turned_away(store, "GET", path, query)
    assert (400, param, code) == (error.status, error.param, error.code)
    assert message in error.message
    assert len(error.message) < 400
    assert [] == errors_of(object_of(error), "ErrorResponse")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_no_query(store: StoredCompletions, method: str) -> None:
    """One completion takes no query, and nothing happens to it."""
    kept = keep(store)
    error = turned_away(store, method, ONE, "limit=1", b'{"metadata": {"a": "b"}}')
    assert (400, "Unknown parameter: 'limit'. This address takes no query.", "limit") == (
        error.status,
        error.message,
        error.param,
    )
    assert kept == asked(store, "GET", ONE)


@pytest.mark.parametrize(
    ("body", "message", "param", "code"),
    [
        (b"", "The body is no JSON: ", None, "invalid_json"),
        (b"metadata", "The body is no JSON: ", None, "invalid_json"),
        (b'{"metadata": {}} x', "The body is no JSON: ", None, "invalid_json"),
        (b'{"metadata": {"a": "\xff"}}', "The body is no JSON: ", None, "invalid_json"),
        (b'{"metadata": {"a": "\\ud800"}}', "The body is no JSON: ", None, "invalid_json"),
        (b"[" * 100_000, "The body is no JSON: ", None, "invalid_json"),
        (b"[]", "Invalid type for the body: expected an object, but got an array instead.", None, "invalid_type"),
        (b"null", "Invalid type for the body: expected an object, but got null instead.", None, "invalid_type"),
        (b"{}", "Missing required parameter: 'metadata'.", "metadata", "missing_required_parameter"),
        (
            {"metadata": {}, "model": "m"},
            "Unknown parameter: 'model'. Supported ones are: metadata.",
            "model",
            "unknown_parameter",
        ),
        ({"store": False}, "Unknown parameter: 'store'.", "store", "unknown_parameter"),
        (
            {"metadata": []},
            "Invalid type for 'metadata': expected an object or null, but got an array instead.",
            "metadata",
            "invalid_type",
        ),
        ({"metadata": "a"}, "but got a string instead.", "metadata", "invalid_type"),
        ({"metadata": False}, "but got a boolean instead.", "metadata", "invalid_type"),
        ({"metadata": 0}, "but got an integer instead.", "metadata", "invalid_type"),
        (
            {"metadata": {"a": 1}},
            "Invalid type for 'metadata.a': expected a string, but got an integer instead.",
            "metadata.a",
            "invalid_type",
        ),
        ({"metadata": {"a": 1.5}}, "but got a number instead.", "metadata.a", "invalid_type"),
        ({"metadata": {"a": None}}, "but got null instead.", "metadata.a", "invalid_type"),
        ({"metadata": {"a": {}}}, "but got an object instead.", "metadata.a", "invalid_type"),
        (
            {"metadata": {str(number): "" for number in range(17)}},
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got an object with 17 properties instead.",
            "metadata",
            "object_above_max_properties",
        ),
        ({"metadata": {"k" * 65: ""}}, "with length 65 instead.", "metadata", "property_name_above_max_length"),
        (
            {"metadata": {"k": "v" * 513}},
            "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, but got a string with length 513 instead.",
            "metadata.k",
            "string_above_max_length",
        ),
    ],
)
def test_updates(store: StoredCompletions, body: Any, message: str, param: str | None, code: str) -> None:
    """An update that is no metadata is a 400 that says why, and changes nothing."""
    kept = keep(store, request={**ASKED, "metadata": {"a": "b"}})
    error = turned_away(store, "POST", ONE, body=body)
    assert (400, param, code) == (error.status, error.param, error.code)
    assert message in error.message
    assert [] == errors_of(object_of(error), "ErrorResponse")
    assert kept == asked(store, "GET", ONE)


def test_most_metadata(store: StoredCompletions) -> None:
    """The most that metadata may be, it may be: 16 pairs of 64 and 512 characters, however many bytes these take."""
    keep(store)
    most = {f"{number:x}" + "😀" * 63: "😀" * 512 for number in range(16)}
    assert most == asked(store, "POST", ONE, body={"metadata": most})["metadata"]
    assert most == asked(store, "GET", ONE)["metadata"]


@pytest.mark.parametrize("id", ["nobody", "", "..", "chatcmpl-0 ", "CHATCMPL-0", "%", "' OR 1=1 --", "\ud800", "x" * 5000])
@pytest.mark.parametrize(("method", "end"), [("GET", ()), ("POST", ()), ("DELETE", ()), ("GET", ("messages",))])
def test_not_there(store: StoredCompletions, method: str, end: tuple[str, ...], id: str) -> None:
    """What is not there is a 404, whatever its id is made of; so is what another has, in the same words."""
    keep(store, "ann")
    with pytest.raises(Refused) as caught:
        answer(store, "ann", method, (id, *end), "", b'{"metadata": {}}')
    assert (404, "completion_id", "not_found") == (caught.value.status, caught.value.param, caught.value.code)
    assert caught.value.message.startswith("No chat completion found with ")
    assert len(caught.value.message) < 200
    assert [] == errors_of(object_of(caught.value), "ErrorResponse")
    with pytest.raises(Refused) as another:
        answer(store, "bob", method, ("chatcmpl-0", *end), "", b'{"metadata": {}}')
    with pytest.raises(Refused) as nobody:
        answer(store, "bob", method, ("chatcmpl-1", *end), "", b'{"metadata": {}}')
    assert another.value.body().replace(b"-0", b"-1") == nobody.value.body()
    assert "chatcmpl-0" == asked(store, "GET", ONE, owner="ann")["id"]


def test_owners(store: StoredCompletions) -> None:
    """Each sees what is theirs, under the same id too."""
    for owner in ("ann", "bob"):
        keep(store, owner, request={**ASKED, "user": owner})
    assert ["ann"] == [item["input_user"] for item in asked(store, "GET", owner="ann")["data"]]
    asked(store, "DELETE", ONE, owner="ann")
    assert [] == asked(store, "GET", owner="ann")["data"]
    assert "bob" == asked(store, "GET", ONE, owner="bob")["input_user"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", LIST, "GET"),
        ("DELETE", LIST, "GET"),
        ("PUT", ONE, "GET, POST, DELETE"),
        ("PATCH", ONE, "GET, POST, DELETE"),
        ("POST", MESSAGES, "GET"),
        ("DELETE", MESSAGES, "GET"),
    ],
)
def test_methods(store: StoredCompletions, method: str, path: str, allowed: str) -> None:
    """A method that an address does not take is a 405 that says which it takes."""
    kept = keep(store)
    error = turned_away(store, method, path, body={"metadata": {"a": "b"}})
    assert (405, {"allow": allowed}) == (error.status, error.headers)
    assert f"Not allowed to {method} on this address; it takes {allowed}." == error.message
    assert kept == asked(store, "GET", ONE)


@pytest.mark.parametrize("path", ["chatcmpl-0/messages/0", "chatcmpl-0/choices", "chatcmpl-0/", "chatcmpl-0/Messages"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_addresses(store: StoredCompletions, method: str, path: str) -> None:
    """What is no address of these is a 404."""
    keep(store)
    error = turned_away(store, method, path)
    assert (404, "unknown_url") == (error.status, error.code)
    assert "chatcmpl-0" == asked(store, "GET", ONE)["id"]


def test_broken(tmp_path: Path) -> None:
    """Where the file fails that is a 500 without a word of where the file is; the cause, for the log, has it."""
    path = tmp_path / "stored.sqlite"
    store = StoredCompletions(path)
    keep(store)
    store.close()
    path.write_bytes(b"dear diary, " * 200)
    for method in ("GET", "POST", "DELETE"):
        error = turned_away(store, method, ONE, body={"metadata": {}})
        assert (500, "server_error", "store_failed") == (error.status, error.type, error.code)
        assert str(tmp_path) not in error.body().decode()
        assert str(path) in str(error.__cause__)
        assert error.message == failed(error.__cause__).message  # type: ignore[arg-type]


def test_walk(store: StoredCompletions) -> None:
    """Who follows `last_id` while there is more sees all, once, even deleting each page as it is read."""
    for number in range(9):
        keep(store, id=f"c{number}")
    seen: list[str] = []
    page = asked(store, "GET", query="limit=2")
    while True:
        for item in page["data"]:
            seen.append(item["id"])
            asked(store, "DELETE", item["id"])
        if not page["has_more"]:
            break
        page = asked(store, "GET", query=f"limit=2&after={page['last_id']}")
    assert [f"c{number}" for number in range(9)] == seen
