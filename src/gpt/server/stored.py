"""The routes of stored completions: which answer a request for one is. Decides only; what waits for the disk is the store.

Parameters, shapes and defaults are those of the published description (`listChatCompletions` and its neighbours). Where that is
silent:

- `limit` is 1 to 100. The metadata of an update takes the place of all that was there, and `null` leaves none.
- What is unknown in a query, given twice or malformed is refused, not ignored.
- `after` naming nothing is a 400: a 404 would say that the list is not there. One whose completion was deleted holds for a day.
  The empty text is the beginning, as it is the `last_id` of an empty page, where the description wants a text.
- The messages are those of the request, as in the description's example; the answer is in the completion.
- A message whose content was a list of parts has it as `content_parts`, and its texts, joined, as `content`. The description
  knows texts and images there; a sound or a file is listed too, as it came, rather than left out.

The codes, and the words about values, are those that the hosted service uses for such a mistake elsewhere, as other projects
quote them ("Invalid 'metadata': too many properties. Expected ..."). The words of the 404 are those of servers that imitate it
on these routes. Neither was seen from these routes of the hosted service itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args
from urllib.parse import unquote_plus

import msgspec

from gpt.server.failures import FAILED, Refused, not_found
from gpt.server.store import CursorError, Order, StoredCompletions, StoreError

__all__ = ["answer", "failed", "stored"]

Found = TypeVar("Found")

LIMIT = 100
"""The most items of a page. The hosted service's other lists have it too."""

PAIRS, NAME, VALUE = 16, 64, 512
"""The most that metadata may be: pairs, and characters of a name and of a value. Source: the description's `Metadata`."""

SHOWN = 100
"""Characters of what a caller sent that an error gives back."""

OF_REQUEST = (
    "tool_choice",
    "seed",
    "top_p",
    "temperature",
    "presence_penalty",
    "frequency_penalty",
    "tools",
    "response_format",
)
"""What a stored completion tells of its request, beside `input_user`. Source: the description's examples."""


def stored(
    request: Mapping[str, Any], completion: Mapping[str, Any], request_id: str | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is kept of a call: the completion with what its request asked for, and the messages as they are listed, without ids.

    `request` and `completion` are the objects on the wire. What was not given is null: which value the model took is not known
    here. What the completion itself says of such a field stands.
    """
    told = {name: request.get(name) for name in OF_REQUEST}
    kept = {"request_id": request_id, **told, "input_user": request.get("user"), **completion}
    kept["metadata"] = dict(request.get("metadata") or {})
    return kept, [_listed(message) for message in request["messages"]]


def _listed(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of a request in the shape of `ChatCompletionMessageList`."""
    content = message.get("content")
    refusal = message.get("refusal")
    parts = None
    if isinstance(content, list):
        parts = content
        texts = [part["text"] for part in parts if part.get("type") == "text"]
        content = "".join(texts) if texts else None
        # An assistant's refusal may be its one part, and has a field here.
        refusals = [part["refusal"] for part in parts if part.get("type") == "refusal"]
        if refusals:
            refusal = refusal or "".join(refusals)
            parts = [part for part in parts if part.get("type") != "refusal"] or None
    beside = {name: value for name, value in message.items() if value is not None}
    return beside | {
        "role": message["role"],
        "content": content,
        "refusal": refusal,
        "name": message.get("name"),
        "content_parts": parts,
    }


def answer(
    store: StoredCompletions, owner: str, method: str, rest: tuple[str, ...], query: str, body: bytes
) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer. `rest` is what follows /chat/completions, in segments; `query` what follows "?".

    Blocks, on the disk alone. Raises Refused, also where the store fails; the cause is then chained.
    """
    try:
        return 200, _answer(store, owner, method, rest, query, body)
    except StoreError as error:
        raise failed(error) from error


def failed(_error: StoreError) -> Refused:
    """The answer where the file fails: what its error says is for the log, since it names the path."""
    text = "stored completions cannot be read or written for now; the operator of this server finds the cause in its log"
    return Refused(500, text, type=FAILED, code="store_failed")


def _answer(
    store: StoredCompletions, owner: str, method: str, rest: tuple[str, ...], query: str, body: bytes
) -> dict[str, Any]:
    match method, rest:
        case "GET", ():
            return _list(store, owner, query)
        case "GET", (id,):
            _parameters(query)
            return _there(store.get(owner, _sayable(id)), id)
        case "POST", (id,):
            _parameters(query)
            return _there(store.update(owner, _sayable(id), _update(body)), id)
        case "DELETE", (id,):
            _parameters(query)
            if not store.delete(owner, _sayable(id)):
                raise _missing(id)
            return {"object": "chat.completion.deleted", "id": id, "deleted": True}
        case "GET", (id, "messages"):
            return _messages(store, owner, id, query)
        case _, () | (_, "messages"):
            raise _method(method, "GET")
        case _, (_,):
            raise _method(method, "GET, POST, DELETE")
        case _:
            raise not_found("there is nothing at this address; look for a slip in its path", code="unknown_url")


def _list(store: StoredCompletions, owner: str, query: str) -> dict[str, Any]:
    given, metadata = _parameters(query, "model", "after", "limit", "order", "metadata")
    page = _page(given)
    try:
        items, more = store.page(owner, model=given.get("model"), metadata=metadata, **page)
    except CursorError as error:
        raise _lost(given["after"]) from error
    return _listing(items, more)


def _messages(store: StoredCompletions, owner: str, id: str, query: str) -> dict[str, Any]:
    given, _ = _parameters(query, "after", "limit", "order")
    page = _page(given)
    try:
        found = store.messages(owner, _sayable(id), **page)
    except CursorError as error:
        raise _lost(given["after"]) from error
    return _listing(*_there(found, id))


def _listing(items: list[dict[str, Any]], more: bool) -> dict[str, Any]:  # noqa: FBT001 - a page is two values
    ends = {"first_id": items[0]["id"] if items else "", "last_id": items[-1]["id"] if items else ""}
    return {"object": "list", "data": items, **ends, "has_more": more}


def _there(found: Found | None, id: str) -> Found:
    if found is None:
        raise _missing(id)
    return found


def _missing(id: str) -> Refused:
    return not_found(f"No chat completion found with id '{_short(id)}'.", param="completion_id")


def _lost(after: str) -> Refused:
    text = f"Invalid 'after': there is nothing with id '{_short(after)}' in this list; leave it out to begin anew."
    return Refused(400, text, param="after", code="invalid_value")


def _method(method: str, allowed: str) -> Refused:
    text = f"Not allowed to {_short(method)} on this address; it takes {allowed}."
    return Refused(405, text, code="method_not_supported", headers={"allow": allowed})


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _sayable(id: str) -> str:
    """The id, if it is text; what is none in UTF-8 is the id of nothing."""
    try:
        id.encode()
    except UnicodeEncodeError as error:
        raise not_found("No chat completion found with this id: it is no text.", param="completion_id") from error
    return id


# --------------------------------------------------------------------------------------------------------------------
# The query
# --------------------------------------------------------------------------------------------------------------------

_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _parameters(query: str, *known: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a query gives, by name, and its `metadata[name]=value` pairs. Raises Refused: unknown, twice, malformed."""
    given: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for item in query.split("&") if query else ():
        name, equals, value = item.partition("=")
        name, value = _unescaped(name), _unescaped(value)
        if not equals:
            text = f"Invalid query: '{_short(name)}' has no value; write it as name=value."
            raise Refused(400, text, param=_short(name) or None, code="invalid_value")
        where, place = given, name
        if "metadata" in known and name.startswith("metadata"):
            if not (name.startswith("metadata[") and name.endswith("]")):
                text = f"Invalid query: '{_short(name)}' is no filter; write it as metadata[name]=value."
                raise Refused(400, text, param="metadata", code="invalid_value")
            where, place = metadata, name[len("metadata[") : -1]
        elif name not in known:
            raise _unknown(name, known)
        if place in where:
            text = f"Invalid query: '{_short(name)}' is given more than once; give it once."
            raise Refused(400, text, param=_short(name), code="duplicate_parameter")
        where[place] = value
    return given, checked_metadata(metadata)


def _unescaped(text: str) -> str:
    try:
        if _ESCAPE.search(text):
            raise ValueError("a % that begins no escape")
        return unquote_plus(text, errors="strict")
    except ValueError as error:
        problem = f"Invalid query: '{_short(text)}' is no escaped UTF-8 text."
        raise Refused(400, problem, code="invalid_value") from error


def _unknown(name: str, known: tuple[str, ...]) -> Refused:
    text = f"Unknown parameter: '{_short(name)}'. "
    text += f"Supported ones are: {', '.join(known)}." if known else "This address takes no query."
    return Refused(400, text, param=_short(name), code="unknown_parameter")


def _page(given: Mapping[str, str]) -> dict[str, Any]:
    """Where a page begins, how long it is and its order."""
    made: dict[str, Any] = {"after": given.get("after") or None, "limit": 20, "order": given.get("order", "asc")}
    if made["order"] not in get_args(Order):
        text = f"Invalid value: '{_short(made['order'])}'. Supported values are: 'asc' and 'desc'."
        raise Refused(400, text, param="order", code="invalid_value")
    if "limit" in given:
        made["limit"] = _limit(given["limit"])
    return made


def _limit(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        problem = f"Invalid type for 'limit': expected an integer, but got '{_short(text)}' instead."
        raise Refused(400, problem, param="limit", code="invalid_type")
    limit = int(text)
    if limit < 1:
        problem = f"Invalid 'limit': integer below minimum value. Expected a value >= 1, but got {limit} instead."
        raise Refused(400, problem, param="limit", code="integer_below_min_value")
    if limit > LIMIT:
        problem = f"Invalid 'limit': integer above maximum value. Expected a value <= {LIMIT}, but got {limit} instead."
        raise Refused(400, problem, param="limit", code="integer_above_max_value")
    return limit


# --------------------------------------------------------------------------------------------------------------------
# The body of an update
# --------------------------------------------------------------------------------------------------------------------


def _update(body: bytes) -> dict[str, str]:
    """The metadata of an update. Raises Refused."""
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"The body is no JSON: {error}.", code="invalid_json") from error
    if not isinstance(given, dict):
        text = f"Invalid type for the body: expected an object, but got {_kind(given)} instead."
        raise Refused(400, text, code="invalid_type")
    for name in given:
        if name != "metadata":
            raise _unknown(name, ("metadata",))
    if "metadata" not in given:
        raise Refused(400, "Missing required parameter: 'metadata'.", param="metadata", code="missing_required_parameter")
    metadata = given["metadata"]
    if metadata is not None and not isinstance(metadata, dict):
        text = f"Invalid type for 'metadata': expected an object or null, but got {_kind(metadata)} instead."
        raise Refused(400, text, param="metadata", code="invalid_type")
    return checked_metadata(metadata or {})


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The pairs, if they are metadata. Raises Refused."""
    if len(metadata) > PAIRS:
        text = (
            f"Invalid 'metadata': too many properties. Expected an object with at most {PAIRS} properties, "
            f"but got an object with {len(metadata)} properties instead."
        )
        raise Refused(400, text, param="metadata", code="object_above_max_properties")
    for name, value in metadata.items():
        param = f"metadata.{_short(name)}"
        if len(name) > NAME:
            text = (
                f"Invalid 'metadata': property name '{_short(name)}' too long. Expected a name with maximum length {NAME}, "
                f"but got one with length {len(name)} instead."
            )
            raise Refused(400, text, param="metadata", code="property_name_above_max_length")
        if not isinstance(value, str):
            text = f"Invalid type for '{param}': expected a string, but got {_kind(value)} instead."
            raise Refused(400, text, param=param, code="invalid_type")
        if len(value) > VALUE:
            text = (
                f"Invalid '{param}': string too long. Expected a string with maximum length {VALUE}, "
                f"but got a string with length {len(value)} instead."
            )
            raise Refused(400, text, param=param, code="string_above_max_length")
    return dict(metadata)


_KINDS = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    return _KINDS[type(value)]
