"""Types <-> JSON bytes. Unset is absent, None is null.

Three things happen here and nowhere else:

- a request becomes bytes, and is checked before anything is sent. The check decodes those very bytes against the declared
  types, so plain dicts, our objects and mixtures of both are checked alike, at the speed of C;
- bytes become an answer, which keeps them;
- a union is told apart by its table (`types.union`). msgspec has no union of untagged classes, so for the check each
  declaration is compiled, once, to a tagged twin; an answer, whose unions are rare, goes through a hook.

What a dict carries beyond the declarations is sent as it is; so is a dict whose `role` or `type` is unknown.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import NoneType
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct, ValidationError

from gpt.errors import InvalidRequestError
from gpt.protocol.profiles import Echoes, Tags
from gpt.protocol.wire import ResponseInfo
from gpt.types import (
    Answered,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionDeleted,
    ChatCompletionList,
    ChatRequest,
    ModelList,
    ResponseMessage,
    StoredMessage,
    UnionMeta,
    UserMessage,
)

Stored = TypeVar("Stored", bound=Answered)

_NUMBERS = ("frequency_penalty", "presence_penalty", "temperature", "top_p")

_NO_NUMBERS = (UNSET,) * 5

_RECEIVED = frozenset({ResponseMessage, StoredMessage})
"""Messages that came from a server, and are sent otherwise than they came."""

_encoder = msgspec.json.Encoder()


# --------------------------------------------------------------------------------------------------------------------
# A request -> bytes
# --------------------------------------------------------------------------------------------------------------------


def encode_request(request: ChatRequest, *, echoes: Echoes = "never", tags: Tags | None = None) -> bytes:
    """The request as UTF-8 JSON, checked.

    Messages that came from an answer are sent as history, less what is output only; their thinking as the server's profile
    says (`echoes`, and `think_tags` as `tags`). Raises InvalidRequestError with the path of the first wrong field.
    """
    messages = request.messages
    if type(messages) is not list or not _RECEIVED.isdisjoint(map(type, messages)):
        request = msgspec.structs.replace(request, messages=_as_sent(messages, echoes, tags))
    if not request.messages:
        raise InvalidRequestError("messages: the list is empty; a request needs at least one message", param="messages")
    try:
        body = _encoder.encode(request if request.extra is UNSET else _with_extra(request))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _unencodable(request, error) from error
    numbers = (request.temperature, request.top_p, request.presence_penalty, request.frequency_penalty, request.logit_bias)
    if numbers != _NO_NUMBERS:
        _check_numbers(request)  # one that is no number would be sent as null
    check_request(body)
    return body


def _check_numbers(request: ChatRequest) -> None:
    """Raise InvalidRequestError for a NaN or an infinity among the parameters, which JSON cannot say."""
    numbers: dict[str, Any] = {name: getattr(request, name) for name in _NUMBERS}
    if isinstance(request.logit_bias, Mapping):
        numbers |= {f'logit_bias["{key}"]': value for key, value in request.logit_bias.items()}
    for name, value in numbers.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequestError(f"{name}: cannot be sent as JSON: {value} is no number", param=name)


def history(messages: object) -> list[Any]:
    """Messages as a list; a generator is read to its end. Those of an answer stay what they are until they are encoded.

    Raises InvalidRequestError when it is no list of messages.
    """
    if isinstance(messages, str):
        return [UserMessage(messages)]
    if isinstance(messages, (Mapping, Struct, bytes)) or not isinstance(messages, Iterable):
        raise InvalidRequestError(f"messages: expected a list of messages, got {type(messages).__name__}", param="messages")
    return list(messages)


def _as_sent(messages: object, echoes: Echoes, tags: Tags | None) -> list[Any]:
    """Messages with those of an answer as history."""
    sent: list[Any] = []
    for message in history(messages):
        if type(message) is ResponseMessage:
            calls = bool(message.tool_calls or message.function_call)
            message = message.to_input(thinking=echoes == "always" or (echoes == "tools" and calls), tags=tags)
        elif type(message) is StoredMessage:
            message = message.to_input()
        sent.append(message)
    return sent


def _with_extra(request: ChatRequest) -> dict[str, Any]:
    """The request's fields by name, with the items of `extra` over them."""
    fields: dict[str, Any] = {
        name: value for name in request.__struct_fields__ if name != "extra" and (value := getattr(request, name)) is not UNSET
    }
    extra = request.extra
    if not isinstance(extra, Mapping):
        raise InvalidRequestError(f"body: expected a dict, got {type(extra).__name__}", param="body")
    return {**fields, **extra}


def _unencodable(request: ChatRequest, error: Exception) -> InvalidRequestError:
    """The error that names the place of the first value that JSON has no form for."""
    path, value = _find_unencodable(
        {name: getattr(request, name) for name in request.__struct_fields__ if name != "extra"}
        if request.extra is UNSET
        else _with_extra(request)
    )
    return InvalidRequestError(f"{path}: cannot be sent as JSON: {_reason(value, error)}", param=path)


def _find_unencodable(value: object, path: str = "") -> tuple[str, object]:
    """The path of the deepest first part of `value` that cannot be encoded, and that part."""
    steps: Iterable[tuple[str, object]] = ()
    if isinstance(value, Mapping):
        steps = ((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
    elif isinstance(value, Struct):
        steps = ((f"{path}.{name}" if path else name, getattr(value, name)) for name in value.__struct_fields__)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        steps = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    for step, item in steps:
        if item is UNSET:
            continue
        try:
            _encoder.encode(item)
        except RecursionError:
            return step, item
        except (TypeError, ValueError, OverflowError):
            return _find_unencodable(item, step)
    return path, value


def _reason(value: object, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it contains itself"
    if isinstance(error, UnicodeEncodeError):
        return f"the text has a lone surrogate at {error.start}"
    if isinstance(error, TypeError) and not isinstance(value, (Mapping, Struct)):
        return f"got {type(value).__name__}"
    return str(error)


# --------------------------------------------------------------------------------------------------------------------
# The check
# --------------------------------------------------------------------------------------------------------------------

_UNKNOWN = "\0"
"""The tag under which each twin of a union takes any object: no server knows such a role or type."""


def check_request(body: bytes) -> None:
    """Pass if `body` is a request by the declared types; else raise InvalidRequestError with the path of the wrong field."""
    try:
        _request_decoder().decode(body)
    except ValidationError as error:
        _check_open(body, error)


def _check_open(body: bytes, error: ValidationError) -> None:
    """The same check, with objects of unknown `role` or `type` let through. Runs only after the fast one has failed."""
    document = msgspec.json.decode(body)
    while True:
        what, path = _split(error)
        if not what.startswith("Invalid value"):
            raise _wrong(what, path) from error
        holder, key = _reach(document, path)
        holder[key] = _UNKNOWN
        try:
            msgspec.convert(document, _twin(ChatRequest))
        except ValidationError as following:
            error = following
        else:
            return


def _split(error: ValidationError) -> tuple[str, str]:
    """What is wrong, and the path as a user writes it: "messages[2].content"."""
    what, _, path = str(error).partition(" - at `$")
    return what, path.rstrip("`").removeprefix(".")


def _wrong(what: str, path: str) -> InvalidRequestError:
    """Msgspec's words as ours: "messages[2].content: expected str, got int"."""
    what = what.replace("`", "")
    if what.startswith("Object missing required field "):
        path = f"{path}.{what.rpartition(' ')[2]}".removeprefix(".")
        what = "missing"
    return InvalidRequestError(f"{path}: {what[0].lower()}{what[1:]}", param=path)


def _reach(document: Any, path: str) -> tuple[Any, str]:
    """The object that holds the last name of `path`, and that name."""
    *steps, last = path.replace("[", ".[").split(".")
    for step in steps:
        document = document[int(step[1:-1])] if step.startswith("[") else document[step]
    return document, last


@cache
def _request_decoder() -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_twin(ChatRequest))


@cache
def _twin(declared: type[Struct], tag_field: str | None = None, tag: str | None = None) -> type[Struct]:
    """A class for checking only, with the same fields as `declared`; its unions are tagged ones."""
    hints = typing.get_type_hints(declared)
    fields: list[Any] = []
    for item in msgspec.structs.fields(declared):
        if item.name == tag_field:
            continue
        checked = _twin_of(hints[item.name])
        fields.append((item.encode_name, checked) if item.required else (item.encode_name, checked, UNSET))
    return msgspec.defstruct(declared.__name__, fields, tag_field=tag_field, tag=tag, kw_only=True)


@cache
def _other(tag_field: str) -> type[Struct]:
    return msgspec.defstruct("Other", [], tag_field=tag_field, tag=_UNKNOWN)


def _twin_of(hint: Any) -> Any:
    """The annotation `hint` with each declared class replaced by its twin."""
    if isinstance(hint, UnionMeta):
        twins = [_twin(member, hint.tag, value) for value, member in hint.members.items()]
        return typing.Union[(*twins, _other(hint.tag), *((str,) if hint.texts else ()))]
    if isinstance(hint, type) and issubclass(hint, Struct):
        return _twin(hint)
    arguments = typing.get_args(hint)
    if not arguments:
        return hint
    twins = [_twin_of(argument) for argument in arguments]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(twins)]  # noqa: UP007 - made of a list
    return dict[tuple(twins)] if issubclass(origin, Mapping) else list[twins[0]]  # type: ignore[misc, valid-type]


# --------------------------------------------------------------------------------------------------------------------
# Bytes -> an answer
# --------------------------------------------------------------------------------------------------------------------


def member_of(union: Any, value: Any) -> Any:
    """`value`, a plain dict, as the class that the union's table gives it; of unknown kind, the dict itself.

    Where the field that tells is missing, the field that only one class has tells (a tool call without `type`).
    """
    if not isinstance(union, UnionMeta) or not isinstance(value, dict):
        raise ValidationError(f"Expected `object`, got `{type(value).__name__}`")
    kind = value.get(union.tag)
    member = union.members.get(kind) if kind else None
    if member is None and kind is None:
        member = next((other for other in union.members.values() if other.__struct_fields__[0] in value), None)
    return value if member is None else msgspec.convert(value, member, dec_hook=member_of)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """Made at the first answer: making one reads all the declarations."""
    return msgspec.json.Decoder(kind, dec_hook=member_of)


def decode_completion(body: bytes, info: ResponseInfo | None = None) -> ChatCompletion:
    """The completion in `body`, which it keeps. Raises msgspec.DecodeError (ValidationError with the path)."""
    try:
        made: ChatCompletion = _decoder(ChatCompletion).decode(body)
    except ValidationError:
        made = msgspec.convert(mended(msgspec.json.decode(body)), ChatCompletion, dec_hook=member_of)
        made.__dict__["mended"] = True  # for who passes the bytes on
    made.__dict__["body"] = body
    made.__dict__["info"] = info
    return made


def is_answer(made: ChatCompletion) -> bool:
    """Whether a decoded body answers: it has choices, and neither beside them nor in one an error."""
    return bool(made.choices) and not made.error and not any(choice.error for choice in made.choices)


def decode_chunk(body: bytes) -> ChatCompletionChunk:
    """The chunk in `body`, which it keeps. Raises msgspec.DecodeError (ValidationError with the path)."""
    try:
        made: ChatCompletionChunk = _decoder(ChatCompletionChunk).decode(body)
    except ValidationError:
        made = msgspec.convert(mended(msgspec.json.decode(body)), ChatCompletionChunk, dec_hook=member_of)
        made.__dict__["mended"] = True
    made.__dict__["body"] = body
    return made


def decode_models(body: bytes, info: ResponseInfo | None = None) -> ModelList:
    """The list of models in `body`, which it keeps. Raises msgspec.DecodeError (ValidationError with the path)."""
    made: ModelList = _decoder(ModelList).decode(body)
    made.__dict__["body"] = body
    made.__dict__["info"] = info
    return made


class _Page(Struct):
    """A page of a list, whose items are read one by one, so that each keeps its bytes."""

    data: list[msgspec.Raw]
    object: str = "list"
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool | None = None


def decode_stored(kind: type[Stored], body: bytes, info: ResponseInfo) -> Stored:
    """The answer in `body` about stored completions, which it keeps; so does each item of a list, with the same `info`.

    `kind` is ChatCompletion, ChatCompletionList, ChatCompletionMessageList or ChatCompletionDeleted. Raises
    msgspec.DecodeError (ValidationError with the path).
    """
    made: Any
    if kind is ChatCompletion:
        made = decode_completion(body, info)
    elif kind is ChatCompletionDeleted:
        made = _decoder(ChatCompletionDeleted).decode(body)
    else:
        page: _Page = _decoder(_Page).decode(body)
        read: Any = decode_completion if kind is ChatCompletionList else _decode_message
        data = [_item(read, bytes(raw), info, place) for place, raw in enumerate(page.data)]
        several: Any = kind
        made = several(data, page.object, page.first_id, page.last_id, page.has_more)
    made.__dict__["body"] = body
    made.__dict__["info"] = info
    answered: Stored = made
    return answered


def _item(read: Any, body: bytes, info: ResponseInfo, place: int) -> Any:
    try:
        return read(body, info)
    except ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        raise ValidationError(f"{what} - at `$.data[{place}]{path.rstrip('`')}`") from error


def _decode_message(body: bytes, info: ResponseInfo) -> StoredMessage:
    made: StoredMessage = _decoder(StoredMessage).decode(body)
    made.__dict__["body"] = body
    made.__dict__["info"] = info
    return made


def with_info(made: Answered, info: ResponseInfo) -> None:
    """Put the facts of the exchange beside a value that was made here."""
    made.__dict__["info"] = info


# --------------------------------------------------------------------------------------------------------------------
# Answers that miss the declarations in known ways
# --------------------------------------------------------------------------------------------------------------------


def mended(value: Any) -> Any:
    """An answer, as plain dicts, with what real servers are known to do otherwise put right. Changes `value`.

    Runs only on answers that the declared types refuse; the bytes that arrived stay what they were. Known, by server:
    `created` with a fraction and an `id` that is a number (small local servers), `choices: null` on keep-alive chunks,
    arguments of a call as an object (Ollama's native form, some gateways), a missing `index` or `finish_reason`,
    `content` as a list of text parts, thinking among them (Mistral), and thinking that is no text.
    """
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("created"), float):
        value["created"] = int(value["created"])
    _as_text(value, "id")
    for name in ("choices", "object", "model", "created", "id"):
        if name in value and value[name] is None:
            del value[name]
    choices = value.get("choices")
    for place, choice in enumerate(choices if isinstance(choices, list) else ()):
        if not isinstance(choice, dict):
            continue
        if not isinstance(choice.get("index"), int):
            choice["index"] = place
        choice.setdefault("finish_reason", None)
        if choice.get("delta", True) is None:
            del choice["delta"]
        for name in ("message", "delta"):
            _mend_message(choice.get(name))
    return value


def _mend_message(message: Any) -> None:
    if not isinstance(message, dict):
        return
    if "role" in message and message["role"] is None:
        del message["role"]
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        thinking = "".join(_text_of(part.get("thinking")) for part in content if part.get("type") == "thinking")
        texts = [part["text"] for part in content if isinstance(part.get("text"), str)]
        message["content"] = "".join(texts) if texts or not thinking else None
        message["reasoning_content"] = message.get("reasoning_content") or thinking or None
    for name in ("reasoning_content", "reasoning"):
        if not isinstance(message.get(name), (str, NoneType)):
            message[name] = _text_of(message[name]) or None
    details = message.get("reasoning_details", [])
    if not (isinstance(details, list) and all(isinstance(detail, dict) for detail in details)):
        del message["reasoning_details"]
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            _as_text(call, "id")
            _arguments_as_text(call.get("function"))
    _arguments_as_text(message.get("function_call"))


def _text_of(value: Any) -> str:
    """The text in a text, a part with a text, or a list of these."""
    parts = value if isinstance(value, list) else [value]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _as_text(holder: dict[str, Any], name: str) -> None:
    if isinstance(holder.get(name), int):
        holder[name] = str(holder[name])


def _arguments_as_text(function: Any) -> None:
    if not isinstance(function, dict) or "arguments" not in function:
        return
    arguments = function["arguments"]
    if arguments is None:
        function["arguments"] = ""
    elif not isinstance(arguments, str):
        function["arguments"] = _encoder.encode(arguments).decode()
