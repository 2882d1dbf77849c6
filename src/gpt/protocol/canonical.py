"""The canonical form of a request: equal for requests that ask the same, however they are spelled. And a key made of it.

It is made of what is sent, so that dicts, objects and mixtures come out alike, with

- the fields left out that do not change the answer (`FIELDS`), and the marks that tell a server what to keep of the prompt;
- null left out among the parameters and the fields of a message, where the protocol's null means "not given";
- numbers by their value (1.0 is 1, as in RFC 8785), a single stop text as a list of one, keys in order.

Nothing else is taken for equal: not a default that is written out, since it is the server's to choose; not a text and a list
of one part of text, which chat templates put down differently; not null in a schema, where it is a value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from gpt.protocol.codec import encode_request, history
from gpt.protocol.profiles import Profile
from gpt.types import UNSET, ChatRequest


class Field(NamedTuple):
    """Whether a field of the request is part of its canonical form, and why."""

    counts: bool
    why: str


_ASKED = Field(True, "what is asked")
_SAMPLED = Field(True, "how the answer is drawn")
_FORM = Field(True, "what the answer may be or what is in it")
_BOUND = Field(True, "where the answer ends")
_TOOLS = Field(True, "what the model may call")
_WHO = Field(False, "who asks: for finding misuse")
_PREFIX = Field(False, "what the service keeps of the prompt, for speed and price")

FIELDS: dict[str, Field] = {
    "model": _ASKED,
    "messages": _ASKED,
    "stream": Field(False, "in how many pieces the answer comes"),
    "stream_options": Field(False, "what comes beside the pieces: usage, padding"),
    "service_tier": Field(False, "how soon and at what price the same model answers"),
    "audio": _FORM,
    "frequency_penalty": _SAMPLED,
    "function_call": _TOOLS,
    "functions": _TOOLS,
    "logit_bias": _SAMPLED,
    "logprobs": _FORM,
    "max_completion_tokens": _BOUND,
    "max_tokens": _BOUND,
    "metadata": Field(False, "labels on the stored answer"),
    "modalities": _FORM,
    "moderation": Field(True, "it may block the answer, and its findings are in it"),
    "n": _FORM,
    "parallel_tool_calls": _TOOLS,
    "prediction": Field(True, "meant for speed alone; but the usage counts it, and asking once too often does least harm"),
    "presence_penalty": _SAMPLED,
    "prompt_cache_key": _PREFIX,
    "prompt_cache_options": _PREFIX,
    "prompt_cache_retention": _PREFIX,
    "reasoning_effort": _SAMPLED,
    "response_format": _FORM,
    "safety_identifier": _WHO,
    "seed": _SAMPLED,
    "stop": _BOUND,
    "store": Field(False, "whether the service keeps the answer"),
    "temperature": _SAMPLED,
    "tool_choice": _TOOLS,
    "tools": _TOOLS,
    "top_logprobs": _FORM,
    "top_p": _SAMPLED,
    "user": _WHO,
    "verbosity": _FORM,
    "web_search_options": _FORM,
    "extra": Field(True, "the protocol does not know its items, so each counts; one with a field's name counts as that field"),
}
"""Each field of ChatRequest. Source: what the OpenAPI description of `POST /chat/completions` says that it is for."""

_MARK = "prompt_cache_breakpoint"
"""A mark on a part of a message, of the same kind as `prompt_cache_key`."""


def with_list(request: ChatRequest) -> ChatRequest:
    """The request with its messages as a list: the same object where they are one. A generator is read to its end.

    Who looks at a request before it is sent needs this, or nothing is left to send. Raises InvalidRequestError.
    """
    if type(request.messages) is list:
        return request
    return msgspec.structs.replace(request, messages=history(request.messages))


def plain(request: ChatRequest, profile: Profile | None) -> dict[str, Any]:
    """The request as plain values, as it is sent to a server with this profile. Raises InvalidRequestError."""
    known = profile or Profile()
    made: dict[str, Any] = msgspec.json.decode(encode_request(request, echoes=known.echoes, tags=known.think_tags))
    return made


def canonical(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical form of a request that is plain values."""
    form: dict[str, Any] = {}
    for name, value in sent.items():
        if value is None or not FIELDS.get(name, _ASKED).counts:
            continue
        if name == "messages" and isinstance(value, list):
            value = [_message(message) for message in value]
        elif name == "stop" and isinstance(value, str):
            value = [value]
        form[name] = _by_value(value)
    return form


def _message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    kept = {name: value for name, value in message.items() if value is not None}
    content = kept.get("content")
    if isinstance(content, list):
        kept["content"] = [
            {name: value for name, value in part.items() if name != _MARK} if isinstance(part, dict) else part
            for part in content
        ]
    return kept


def _by_value(value: Any) -> Any:
    """The value with whole floats as integers."""
    if type(value) is float:
        return int(value) if value.is_integer() else value
    if type(value) is dict:
        return {name: _by_value(item) for name, item in value.items()}
    if type(value) is list:
        return [_by_value(item) for item in value]
    return value


def key(form: Mapping[str, Any], server: str) -> bytes:
    """The 32 bytes that stand for a canonical form, asked of `server`: its origin and path, or another name; never a key."""
    return hashlib.sha256(msgspec.json.encode([server, form], order="sorted")).digest()


def repeatable(request: ChatRequest) -> bool:
    """Whether a request asks for the same answer each time: by a temperature of 0, or a seed."""
    asked: dict[str, Any] = {"temperature": request.temperature, "seed": request.seed}
    if request.extra is not UNSET:
        asked |= request.extra
    return asked["seed"] not in (UNSET, None) or asked["temperature"] == 0


# --------------------------------------------------------------------------------------------------------------------
# Where two differ
# --------------------------------------------------------------------------------------------------------------------


class Missing:
    """What stands for a value that is not there."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = Missing()


class Difference(NamedTuple):
    """A place at which two requests are not the same, as a user writes it: "messages[2].content"; and what each has there."""

    path: str
    recorded: Any
    asked: Any

    def __str__(self) -> str:
        recorded, asked = _shown(self.recorded, self.asked)
        return f"{self.path}: recorded {recorded}, asked {asked}"


def differences(recorded: Any, asked: Any, path: str = "") -> Iterator[Difference]:
    """Where two plain values differ, in order: dicts by name, lists by place; a value of another kind is one difference."""
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for name in sorted({*recorded, *asked}):
            step = f"{path}.{name}" if path else name
            yield from differences(recorded.get(name, MISSING), asked.get(name, MISSING), step)
    elif isinstance(recorded, list) and isinstance(asked, list):
        for place in range(max(len(recorded), len(asked))):
            yield from differences(_at(recorded, place), _at(asked, place), f"{path}[{place}]")
    elif type(recorded) is not type(asked) or recorded != asked:
        yield Difference(path, recorded, asked)


def _at(values: list[Any], place: int) -> Any:
    return values[place] if place < len(values) else MISSING


_SHOWN = 60
"""Characters of a value that a difference shows."""


def _shown(*values: Any) -> list[str]:
    """The values as texts, from a little before where they part."""
    texts = [value if isinstance(value, str) else repr(value) if value is MISSING else _json(value) for value in values]
    start = max(0, common(*texts) - _SHOWN // 3)
    shown = []
    for value, text in zip(values, texts, strict=True):
        cut = ("..." if start else "") + text[start : start + _SHOWN] + ("..." if len(text) > start + _SHOWN else "")
        shown.append(repr(cut) if isinstance(value, str) else cut)
    return shown


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def common(first: str, second: str) -> int:
    """How many characters two texts have in common from their start."""
    return next(
        (place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
