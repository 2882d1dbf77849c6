"""What is asked of completions that a server has stored, and what its answer is.

A server stores what was asked with `store=True`, where it does so at all. Five things are asked of it: a list, one by its id,
other metadata for it, that it be deleted, and the messages of its request. Paths, parameters and shapes are those of the
published description (`listChatCompletions` and its neighbours). Values are the server's to judge; only their types are
checked here.

Lists come in pages. The next one begins after the last item of this one; a server that does not keep to that is told apart from
one whose list is at its end, so that nothing is left out, and nothing is given for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import msgspec

from gpt.errors import InvalidRequestError, ResponseError
from gpt.protocol import codec, flow
from gpt.protocol.wire import HttpRequest, HttpResponse, ResponseInfo
from gpt.types import (
    Answered,
    ChatCompletion,
    ChatCompletionDeleted,
    ChatCompletionList,
    ChatCompletionMessageList,
)

Answer = TypeVar("Answer", bound=Answered)
Listed = TypeVar("Listed", ChatCompletionList, ChatCompletionMessageList)


class StoredCall(msgspec.Struct, Generic[Answer], frozen=True):
    """One thing that is asked, as the server is asked it.

    `path` is what follows /chat/completions, percent-encoded; `query` holds the parameters, which go before a call's own;
    `answer` is the type of what comes back. The body, which may hold metadata, does not show in repr.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    answer: type[Answer]
    query: Mapping[str, str] = {}
    body: bytes = b""

    def __repr__(self) -> str:
        return f"StoredCall({self.method!r}, {self.path!r})"


# --------------------------------------------------------------------------------------------------------------------
# What is asked
# --------------------------------------------------------------------------------------------------------------------


def listing(
    *,
    after: object = None,
    limit: object = None,
    metadata: object = None,
    model: object = None,
    order: object = None,
    query: object = None,
    body: object = None,
) -> StoredCall[ChatCompletionList]:
    """A page of the stored completions. None is not sent; `query` goes over the rest. Raises InvalidRequestError."""
    _no_body(body)
    asked = _page(after, limit, order)
    if model is not None:
        asked["model"] = _text("model", model)
    for name, value in _pairs("metadata", metadata).items():
        asked[f"metadata[{name}]"] = value
    return StoredCall("GET", "", ChatCompletionList, asked | _pairs("query", query))


def retrieval(completion_id: object, *, query: object = None, body: object = None) -> StoredCall[ChatCompletion]:
    """The completion with this id. Raises InvalidRequestError."""
    _no_body(body)
    return StoredCall("GET", _place(completion_id), ChatCompletion, _pairs("query", query))


def updating(
    completion_id: object, *, metadata: object, query: object = None, body: object = None
) -> StoredCall[ChatCompletion]:
    """Other metadata, or with None none, for the completion with this id. Raises InvalidRequestError."""
    changed: dict[str, Any] = {"metadata": None if metadata is None else _pairs("metadata", metadata)}
    sent = _encoded(changed | _object(body))
    return StoredCall("POST", _place(completion_id), ChatCompletion, _pairs("query", query), sent)


def deletion(completion_id: object, *, query: object = None, body: object = None) -> StoredCall[ChatCompletionDeleted]:
    """That the completion with this id be deleted. Raises InvalidRequestError."""
    sent = _encoded(_object(body)) if body else b""
    return StoredCall("DELETE", _place(completion_id), ChatCompletionDeleted, _pairs("query", query), sent)


def messages(
    completion_id: object,
    *,
    after: object = None,
    limit: object = None,
    order: object = None,
    query: object = None,
    body: object = None,
) -> StoredCall[ChatCompletionMessageList]:
    """A page of the messages that the completion with this id answers. Raises InvalidRequestError."""
    _no_body(body)
    asked = _page(after, limit, order) | _pairs("query", query)
    return StoredCall("GET", f"{_place(completion_id)}/messages", ChatCompletionMessageList, asked)


def following(call: StoredCall[Listed], page: Listed) -> StoredCall[Listed] | None:
    """What asks for the page after `page`, which `call` gave; None where it is the last.

    A server that does not say whether there is more is asked until a page is empty, as the official package does it.
    """
    last = _last(page)
    if page.has_more is False or (page.has_more is None and not page.data) or not last:
        return None
    return msgspec.structs.replace(call, query={**call.query, "after": last})


def _last(page: ChatCompletionList | ChatCompletionMessageList) -> str:
    """The id after which the next page begins; "" where nothing tells."""
    return page.last_id or (page.data[-1].id if page.data else "")


def _page(after: object, limit: object, order: object) -> dict[str, str]:
    asked = {}
    if after is not None:
        asked["after"] = _text("after", after)
    if limit is not None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise InvalidRequestError(f"limit: expected an int, got {type(limit).__name__}", param="limit")
        asked["limit"] = str(limit)
    if order is not None:
        asked["order"] = _text("order", order)
    return asked


def _place(completion_id: object) -> str:
    """The path to a completion. An id that would lead to another place, or to the whole list, is refused."""
    text = _text("completion_id", completion_id)
    # Dots are places of their own, and to some servers and proxies also where they are escaped; RFC 3986, section 6.2.2.
    if text.lower().replace("%2e", ".") in ("", ".", ".."):
        raise InvalidRequestError(
            f"completion_id: {text!r} is no id of a completion, and would lead elsewhere; answer.id has it",
            param="completion_id",
        )
    return f"/{quote(text, safe='')}"


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name}: expected str, got {type(value).__name__}", param=name)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{name}: cannot be sent: it has half of a surrogate pair", param=name) from error
    return value


def _object(value: object, name: str = "body") -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequestError(f"{name}: expected a dict, got {type(value).__name__}", param=name)
    return dict(value)


def _pairs(name: str, value: object) -> dict[str, str]:
    """Texts by their names."""
    return {_text(f"{name} (a key)", key): _text(f"{name}.{key}", item) for key, item in _object(value, name).items()}


def _no_body(body: object) -> None:
    if body:
        raise InvalidRequestError("body: a call that only reads sends none; parameters go in query=", param="body")


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequestError(f"body: cannot be sent as JSON: {error}", param="body") from error


# --------------------------------------------------------------------------------------------------------------------
# What the answer is
# --------------------------------------------------------------------------------------------------------------------

_WANTED: dict[type[Answered], str] = {
    ChatCompletionList: "list of chat completions",
    ChatCompletionMessageList: "list of messages",
    ChatCompletionDeleted: "word of what was deleted",
}


def reader(call: StoredCall[Answer]) -> flow.Read[Answer]:
    """What makes the result of a 200. Raises MalformedResponseError, or the error that the body is in disguise."""

    def read(response: HttpResponse, request: HttpRequest, info: ResponseInfo) -> Answer:
        info = msgspec.structs.replace(info, stored=True)
        made: Any
        if call.answer is ChatCompletion:
            made = flow.completion(response, request, info)
        else:
            try:
                made = codec.decode_stored(call.answer, response.body, info)
            except msgspec.DecodeError as error:
                raise flow.malformed(response, request, flow.reason(error), _WANTED[call.answer]) from error
            wrong = _wrong(call, made)
            if wrong:
                raise flow.malformed(response, request, wrong, _WANTED[call.answer])
        return made  # type: ignore[no-any-return]

    return read


def _wrong(call: StoredCall[Any], made: Any) -> str:
    """What is wrong with an answer that is of the right type; "" where nothing is."""
    if isinstance(made, ChatCompletionDeleted):
        return ""
    last = _last(made)
    if made.has_more and not last:
        return "it says that there is more, but not after which id"
    if last and last == call.query.get("after"):
        return f"it ends with {last!r}, after which it was to begin; the server seems not to know the parameter `after`"
    return ""


def telling(call: StoredCall[Answer], attempts: flow.Flow[Answer]) -> flow.Flow[Answer]:
    """The flow of a call; where it deletes, with a word about what a failed attempt may have done."""
    try:
        return (yield from attempts)
    except ResponseError as error:
        if call.method == "DELETE" and error.status_code == 404 and any(attempt.failed for attempt in error.attempts[:-1]):
            error.add_note("It may have been deleted by the attempt before, whose answer did not come.")
        raise
