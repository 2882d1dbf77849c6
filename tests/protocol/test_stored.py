"""What is asked of stored completions, and what its answer is: values in, values out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gpt import errors
from gpt.protocol import flow
from gpt.protocol.retry import Budget, Retry
from gpt.protocol.stored import (
    StoredCall,
    deletion,
    following,
    listing,
    messages,
    reader,
    retrieval,
    telling,
    updating,
)
from gpt.protocol.wire import Headers, HttpRequest, HttpResponse, Origin, ResponseInfo
from gpt.types import ChatCompletion, ChatCompletionDeleted, ChatCompletionList, ChatCompletionMessageList, StoredMessage

CALLS: list[tuple[StoredCall[Any], str, str, type, dict[str, str], bytes]] = [
    (listing(), "GET", "", ChatCompletionList, {}, b""),
    (listing(after="", limit=0, metadata={}, model="", order="", body={}), "GET", "", ChatCompletionList,
     {"after": "", "limit": "0", "order": "", "model": ""}, b""),
    (listing(after="a", limit=5, metadata={"k": "v", "l": ""}, model="m", order="desc", query={"model": "n", "zap": "1"}),
     "GET", "", ChatCompletionList,
     {"after": "a", "limit": "5", "order": "desc", "model": "n", "metadata[k]": "v", "metadata[l]": "", "zap": "1"}, b""),
    (retrieval("chatcmpl-1_~.x"), "GET", "/chatcmpl-1_~.x", ChatCompletion, {}, b""),
    (retrieval("a/b?c#d e%2Fä", query={"zap": "1"}), "GET", "/a%2Fb%3Fc%23d%20e%252F%C3%A4", ChatCompletion, {"zap": "1"}, b""),
    (retrieval("..."), "GET", "/...", ChatCompletion, {}, b""),
    (updating("c", metadata={"a": "b"}), "POST", "/c", ChatCompletion, {}, b'{"metadata":{"a":"b"}}'),
    (updating("c", metadata=None), "POST", "/c", ChatCompletion, {}, b'{"metadata":null}'),
    (updating("c", metadata={}, query={"zap": "1"}, body={"x": [1]}), "POST", "/c", ChatCompletion, {"zap": "1"},
     b'{"metadata":{},"x":[1]}'),
    (updating("c", metadata={"a": "b"}, body={"metadata": 5}), "POST", "/c", ChatCompletion, {}, b'{"metadata":5}'),
    (deletion("c"), "DELETE", "/c", ChatCompletionDeleted, {}, b""),
    (deletion("c", query={"zap": "1"}, body={"x": 1}), "DELETE", "/c", ChatCompletionDeleted, {"zap": "1"}, b'{"x":1}'),
    (messages("c"), "GET", "/c/messages", ChatCompletionMessageList, {}, b""),
    (messages("a/b", after="m", limit=1, order="asc", query={"limit": "2"}), "GET", "/a%2Fb/messages",
     ChatCompletionMessageList, {"after": "m", "limit": "2", "order": "asc"}, b""),
]  # fmt: skip


@pytest.mark.parametrize(("call", "method", "path", "answer", "query", "body"), CALLS)
def test_calls(call: StoredCall[Any], method: str, path: str, answer: type, query: dict[str, str], body: bytes) -> None:
    """What is asked is a method, a path, parameters and a body; the call's own query goes over its parameters."""
    assert StoredCall(method, path, answer, query, body) == call  # type: ignore[arg-type]


Make = Callable[[], Any]

REFUSED: list[tuple[Make, str, str]] = [
    *[(lambda name=name: retrieval(name), "completion_id", "is no id of a completion") for name in ("", ".", "..", "%2e", ".%2E")],
    (lambda: updating("", metadata={}), "completion_id", "is no id of a completion"),
    (lambda: deletion(""), "completion_id", "is no id of a completion"),
    (lambda: messages(""), "completion_id", "is no id of a completion"),
    (lambda: retrieval(5), "completion_id", "completion_id: expected str, got int"),
    (lambda: retrieval("\ud800"), "completion_id", "half of a surrogate pair"),
    (lambda: listing(after=5), "after", "after: expected str, got int"),
    (lambda: listing(limit="5"), "limit", "limit: expected an int, got str"),
    (lambda: listing(limit=True), "limit", "limit: expected an int, got bool"),
    (lambda: listing(limit=5.0), "limit", "limit: expected an int, got float"),
    (lambda: listing(order=1), "order", "order: expected str, got int"),
    (lambda: listing(model=1), "model", "model: expected str, got int"),
    (lambda: listing(metadata="a"), "metadata", "metadata: expected a dict, got str"),
    (lambda: listing(metadata={"a": 1}), "metadata.a", "metadata.a: expected str, got int"),
    (lambda: listing(metadata={1: "a"}), "metadata (a key)", "metadata (a key): expected str, got int"),
    (lambda: listing(metadata={"a": "\udc00"}), "metadata.a", "half of a surrogate pair"),
    (lambda: listing(query={"zap": 1}), "query.zap", "query.zap: expected str, got int"),
    (lambda: listing(query=[]), "query", "query: expected a dict, got list"),
    (lambda: listing(body={"a": 1}), "body", "parameters go in query="),
    (lambda: retrieval("c", body={"a": 1}), "body", "parameters go in query="),
    (lambda: messages("c", body={"a": 1}), "body", "parameters go in query="),
    (lambda: messages("c", limit="5"), "limit", "limit: expected an int, got str"),
    (lambda: updating("c", metadata={"a": 1}), "metadata.a", "metadata.a: expected str, got int"),
    (lambda: updating("c", metadata=5), "metadata", "metadata: expected a dict, got int"),
    (lambda: updating("c", metadata={}, body=[1]), "body", "body: expected a dict, got list"),
    (lambda: updating("c", metadata={}, body={"a": object()}), "body", "body: cannot be sent as JSON"),
    (lambda: deletion("c", body=[1]), "body", "body: expected a dict, got list"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "param", "text"), REFUSED)
def test_refused(make: Make, param: str, text: str) -> None:
    """What cannot be meant is refused before it is sent, by its name."""
    with pytest.raises(errors.InvalidRequestError) as caught:
        make()
    assert param == caught.value.param
    assert text in str(caught.value)


def test_repr() -> None:
    """What is asked shows; what is sent does not."""
    assert "StoredCall('POST', '/c')" == repr(updating("c", metadata={"a": "b"}, query={"token": "x"}))


# --------------------------------------------------------------------------------------------------------------------
# Pages
# --------------------------------------------------------------------------------------------------------------------


def page(*ids: str, last: str | None = None, more: bool | None = None) -> ChatCompletionList:
    return ChatCompletionList([ChatCompletion(id=name) for name in ids], last_id=last, has_more=more)


FOLLOWING: list[tuple[ChatCompletionList, str | None]] = [
    # a page, and the id after which the next begins
    (page("a", "b", last="b", more=True), "b"),
    (page("a", "b", last="b", more=False), None),
    (page("a", "b", last="cursor", more=True), "cursor"),
    (page("a", "b", more=True), "b"),
    (page("a", "b", last="", more=True), "b"),
    (page("a", "b", last="b"), "b"),
    (page("a", "b"), "b"),
    (page(), None),
    (page(last="b"), None),
    (page(last="b", more=True), "b"),
    (page(more=False), None),
    (page(""), None),
]


@pytest.mark.parametrize(("given", "after"), FOLLOWING)
def test_following(given: ChatCompletionList, after: str | None) -> None:
    """The next page is asked for as this one was, after its last id; where the server does not tell, until a page is empty."""
    call = listing(after="z", limit=2)
    following_call = following(call, given)
    assert (None if after is None else listing(after=after, limit=2)) == following_call
    assert listing(after="z", limit=2) == call


def test_following_messages() -> None:
    """The same goes for messages."""
    given = ChatCompletionMessageList([StoredMessage("m1")], has_more=True)
    assert messages("c", after="m1") == following(messages("c"), given)


# --------------------------------------------------------------------------------------------------------------------
# Answers
# --------------------------------------------------------------------------------------------------------------------

REQUEST = HttpRequest("GET", Origin("http", "h", 80), "/v1/chat/completions")
GOOD = b'{"id": "c", "choices": [{"finish_reason": "stop", "message": {"content": "hi"}}], "seed": 5}'


def read(call: StoredCall[Any], body: bytes) -> Any:
    return reader(call)(HttpResponse(200, Headers(), body), REQUEST, ResponseInfo(elapsed=2.0))


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (retrieval("c"), GOOD),
        (updating("c", metadata={}), GOOD),
        (deletion("c"), b'{"id": "c", "deleted": true, "x": 1}'),
        (deletion("c"), b'{"id": "c", "deleted": false}'),
        (listing(), b'{"data": [%b], "has_more": true, "x": 1}' % GOOD),
        (listing(after="b"), b'{"data": [%b]}' % GOOD),
        (listing(), b'{"data": [], "first_id": "", "last_id": "", "has_more": false}'),
        (listing(after=""), b'{"data": [], "first_id": null, "last_id": null, "has_more": false}'),
        (messages("c"), b'{"data": [{"id": "m", "role": "user", "content": "a", "x": 1}], "has_more": false}'),
    ],
)
def test_read(call: StoredCall[Any], body: bytes) -> None:
    """An answer is of the type that was asked for, and keeps its bytes and the facts, which say that it was stored."""
    made = read(call, body)
    assert type(made) is call.answer
    assert (body, 2.0, True) == (made.to_json(), made.info.elapsed, made.info.stored)


MALFORMED: list[tuple[StoredCall[Any], bytes, str]] = [
    (listing(), b"<html>", "sent no list of chat completions: it is not JSON"),
    (listing(), b"[]", "sent no list of chat completions: Expected object, got array"),
    (listing(), b'{"data": null}', "sent no list of chat completions: Expected array, got null - at $.data"),
    (listing(), b'{"data": [5]}', "sent no list of chat completions: Expected object, got int - at $.data[0]"),
    (listing(), b'{"data": [], "has_more": true}', "it says that there is more, but not after which id"),
    (listing(after="c"), b'{"data": [%b]}' % GOOD, "it ends with 'c', after which it was to begin"),
    (listing(query={"after": "c"}), b'{"data": [], "last_id": "c"}', "seems not to know the parameter `after`"),
    (messages("c"), b'{"data": [{"id": "m", "content": 5}]}', "sent no list of messages: Expected str | null, got int - at $.data[0].content"),
    (messages("c", after="m"), b'{"data": [{"id": "m"}]}', "sent no list of messages: it ends with 'm'"),
    (deletion("c"), b'{"id": "c"}', "sent no word of what was deleted: Object missing required field deleted"),
    (retrieval("c"), b'{"id": "c"}', "sent no chat completion: it has no choices"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "body", "text"), MALFORMED)
def test_malformed(call: StoredCall[Any], body: bytes, text: str) -> None:
    """What is no answer, or cannot be gone on from, is an error that says what was wanted and what is wrong."""
    with pytest.raises(errors.MalformedResponseError) as caught:
        read(call, body)
    assert text in caught.value.message


def test_error_in_disguise() -> None:
    """An error with status 200 is that error."""
    with pytest.raises(errors.QuotaError):
        read(listing(), b'{"error": {"message": "no", "code": "insufficient_quota"}}')


def told(call: StoredCall[Any], *came: HttpResponse | errors.TransportError) -> Any:
    """What comes of a call, of whose attempts these things come."""
    chances = flow.Chances(Retry(), Budget(), lambda: 0.0, lambda: 0.0)
    attempts = telling(call, flow.call(REQUEST, reader(call), chances))
    next(attempts)
    try:
        for one in came:
            if isinstance(one, HttpResponse):
                attempts.send(one)
            else:
                attempts.throw(one)
    except StopIteration as done:
        return done.value
    raise AssertionError("the flow goes on")


MISSING = HttpResponse(404, Headers(), b'{"error": {"message": "No chat completion found with id \'c\'."}}')
MOVED = HttpResponse(307, Headers([("location", "http://h/v1/elsewhere")]))
LOST = errors.ConnectError("reset", phase="read", sent=True)
BUSY = HttpResponse(503, Headers())


@pytest.mark.parametrize(
    ("call", "came", "noted"),
    [
        (deletion("c"), [LOST, MISSING], True),
        (deletion("c"), [BUSY, MISSING], True),
        (deletion("c"), [BUSY, MOVED, MISSING], True),
        (deletion("c"), [MISSING], False),
        (deletion("c"), [MOVED, MISSING], False),
        (deletion("c"), [LOST, HttpResponse(400, Headers())], False),
        (retrieval("c"), [LOST, MISSING], False),
    ],
)
def test_deleted_before(call: StoredCall[Any], came: list[Any], noted: bool) -> None:
    """A deletion that finds nothing says so where an attempt before it may have deleted it."""
    with pytest.raises(errors.BadRequestError) as caught:
        told(call, *came)
    assert noted == any(
        "may have been deleted by the attempt before" in note for note in getattr(caught.value, "__notes__", [])
    )


def test_deleted() -> None:
    """A deletion gives what its flow gives."""
    made = told(deletion("c"), LOST, HttpResponse(200, Headers(), b'{"id": "c", "deleted": true}'))
    assert ("c", True, 2) == (made.id, made.deleted, len(made.info.attempts))
