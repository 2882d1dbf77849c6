"""A request -> what the engine is asked. Pure.

Every parameter of the protocol has a row in `TREATMENT`. What the engine can do is done; what it cannot do and would change the
meaning is refused by name; what changes nothing in the answer is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from gpt.errors import InvalidRequestError, UnsupportedParameterError
from gpt.local.calls.ask import Plan, as_texts, instructed, instructions, plan
from gpt.local.calls.form import Calling, short_id
from gpt.local.calls.offer import Offer
from gpt.protocol.undeclared import undeclared
from gpt.types import UNSET, ChatRequest

MAX_TOKENS = 1024
"""Tokens after which an answer without a limit of its own stops."""

_RANDOM_SEED = 2**32 - 1
"""The seed that the engine takes for "a random one". It keeps 32 bits of a seed, so that -1 is the same."""

Treatment = Literal["passed", "made", "left out", "refused"]

TREATMENT: dict[str, Treatment] = {
    # Done by the engine as they are.
    "frequency_penalty": "passed",
    "presence_penalty": "passed",
    "temperature": "passed",
    "top_p": "passed",
    "n": "passed",
    "reasoning_effort": "passed",  # templates that know it use it
    # Made into what the engine takes.
    "messages": "made",
    "seed": "made",
    "stop": "made",
    "logit_bias": "made",
    "logprobs": "made",
    "top_logprobs": "made",
    "max_tokens": "made",
    "max_completion_tokens": "made",
    "response_format": "made",
    "stream_options": "made",
    "modalities": "made",
    "tools": "made",
    "tool_choice": "made",
    "functions": "made",
    "function_call": "made",
    "parallel_tool_calls": "made",
    "extra": "made",
    # Without meaning here, or a matter of the service's bookkeeping: the answer is the same without them.
    "model": "left out",
    "stream": "left out",
    "metadata": "left out",
    "prediction": "left out",  # only makes a service faster
    "prompt_cache_key": "left out",
    "prompt_cache_options": "left out",
    "prompt_cache_retention": "left out",
    "safety_identifier": "left out",
    "service_tier": "left out",
    "store": "left out",
    "user": "left out",
    # Would change the answer, and cannot be done.
    "audio": "refused",
    "moderation": "refused",
    "verbosity": "refused",
    "web_search_options": "refused",
}

REFUSED = frozenset(name for name, treatment in TREATMENT.items() if treatment == "refused") - {"verbosity"}
"""Parameters that no call can have; `verbosity` may be "medium"."""

_DONE_ELSEWHERE = frozenset({"model", "stream"})
"""Left out of what the engine is asked, but not without effect."""

ENGINE_KNOBS = frozenset(
    {"chat_template_kwargs", "dry_allowed_length", "dry_base", "dry_multiplier", "dynatemp_range", "grammar", "min_p",
     "mirostat", "mirostat_eta", "mirostat_tau", "repeat_last_n", "repeat_penalty", "top_k", "top_n_sigma", "typical_p",
     "xtc_probability", "xtc_threshold"}
)  # fmt: skip
"""What `body=` may hold: the engine's own settings, by the names of llama.cpp's server."""

_ROLES = {
    "developer": "system",  # models know no developer
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def needs_vocabulary(request: ChatRequest) -> bool:
    """Whether `engine_request` must know how many tokens there are."""
    return bool(request.logit_bias)


def needs_calling(request: ChatRequest) -> bool:
    """Whether `engine_request` must know how the model makes calls. The messages are plain dicts."""
    if request.tools or request.functions:
        return True
    return any(
        message.get("tool_calls") or message.get("function_call") or message.get("role") in ("tool", "function")
        for message in request.messages
        if isinstance(message, dict)
    )


def engine_request(
    request: ChatRequest, vocabulary: int = 0, calling: Calling | None = None, offer: Offer | None = None
) -> tuple[dict[str, Any], Plan | None]:
    """What the engine is asked for `request`, whose fields have been checked; and, where it may call tools, how that is read.

    Token ids are below `vocabulary`. `calling` tells how the model makes calls, `offer` what it may call.

    Raises InvalidRequestError for a value out of its range, UnsupportedParameterError for what cannot be honoured; both name
    the parameter.
    """
    for name in request.__struct_fields__:
        treatment = TREATMENT[name]
        value = getattr(request, name)
        if treatment == "refused" and value is not UNSET and value is not None and value != "medium":
            raise _unsupported(name, "the model in this process cannot do it")
    asked: dict[str, Any] = {
        name: value
        for name, treatment in TREATMENT.items()
        if treatment == "passed" and (value := getattr(request, name)) is not UNSET and value is not None
    }
    asked["messages"] = _messages(request, calling, offer)
    asked["max_tokens"] = _limit(request)
    _ranges(request)
    if isinstance(request.seed, int):
        asked["seed"] = request.seed if 0 <= request.seed < _RANDOM_SEED else request.seed % _RANDOM_SEED
    if request.stop is not UNSET and request.stop is not None:
        stop = _stop(request.stop)
        if offer is None or not offer.required:  # it ends what is said, and must not cut a call
            asked["stop"] = stop
    if request.logit_bias:
        asked["logit_bias"] = _logit_bias(request.logit_bias, vocabulary)
    if request.logprobs:
        # The engine gives twenty where none is asked for, so one is asked for and taken away again.
        asked |= {"logprobs": True, "top_logprobs": request.top_logprobs or 1}
    elif request.top_logprobs:
        raise InvalidRequestError("top_logprobs: needs logprobs=True", param="top_logprobs")
    if request.modalities and list(request.modalities) != ["text"]:
        raise _unsupported("modalities", "the model in this process gives text only")
    response_format = _response_format(request)
    if response_format is not None:
        asked["response_format"] = response_format
    if request.extra:
        for name, value in request.extra.items():
            if name not in ENGINE_KNOBS:
                raise _unsupported(name, f"not one of the engine's settings, which are {', '.join(sorted(ENGINE_KNOBS))}")
            if name == "grammar" and response_format is not None:
                raise InvalidRequestError("grammar: response_format is given too, and an answer has one form", param="grammar")
            asked[name] = _sendable(name, value)
    if offer is None or calling is None:
        return asked, None
    if "grammar" in asked:
        raise InvalidRequestError("grammar: tools are given too, whose calls have a form of their own", param="grammar")
    kwargs: Any = asked.get("chat_template_kwargs") or {}
    silent = request.reasoning_effort == "none" or kwargs.get("enable_thinking") is False
    planned = plan(offer, calling, asked["max_tokens"], asked.pop("response_format", None), silent=silent)
    asked |= planned.asked
    if kwargs and "chat_template_kwargs" in planned.asked:
        asked["chat_template_kwargs"] = {**kwargs, **planned.asked["chat_template_kwargs"]}
    return asked, planned


def without_effect(request: Mapping[str, Any], template: str) -> list[str]:
    """The paths of what a request, as plain JSON values, has and what changes nothing in its answer.

    `template` is the model's chat template: what it never speaks of cannot matter.
    """
    found = [
        name
        for name, treatment in TREATMENT.items()
        if treatment == "left out" and name not in _DONE_ELSEWHERE and request.get(name) is not None
    ]
    if request.get("reasoning_effort") is not None and not _speaks_of(template, "reasoning_effort", "enable_thinking"):
        found.append("reasoning_effort")
    if (request.get("stream_options") or {}).get("include_obfuscation"):
        found.append("stream_options.include_obfuscation")
    named = _speaks_of(template, ".name", "['name']", '["name"]')
    for place, message in enumerate(request["messages"]):
        path = f"messages[{place}]"
        if message.get("name") is not None and message.get("role") != "function" and not named:
            found.append(f"{path}.name")
        content = message.get("content")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            if part.get("prompt_cache_breakpoint") is not None:
                found.append(f"{path}.content[{index}].prompt_cache_breakpoint")
    # One that stands at the top is refused, if it is none of the engine's settings.
    return [*found, *(path for path in undeclared(request) if "." in path)]


def _speaks_of(template: str, *words: str) -> bool:
    return any(word in template for word in words)


def _unsupported(name: str, why: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(f"{name}: {why}", 400, code="unsupported_parameter", param=name)


def _sendable(name: str, value: Any) -> Any:
    """`value`, if JSON can say it, which is how the engine takes it."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{name}: cannot be sent as JSON: {error}", param=name) from error
    return value


def _stop(stop: str | Sequence[str]) -> list[str]:
    """The strings that end the answer. An empty one would end every answer before its first token."""
    strings = [stop] if isinstance(stop, str) else list(stop)
    for place, string in enumerate(strings):
        if not string:
            path = "stop" if isinstance(stop, str) else f"stop[{place}]"
            raise InvalidRequestError(f"{path}: an empty string would end the answer before it begins", param=path)
    return strings


def _messages(request: ChatRequest, calling: Calling | None, offer: Offer | None) -> list[dict[str, Any]]:
    """The messages as plain dicts, with the roles that templates know. Only text can be read."""
    messages: list[dict[str, Any]] = msgspec.to_builtins(request.messages)
    for place, message in enumerate(messages):
        role = message.get("role")
        if role not in _ROLES:
            raise InvalidRequestError(
                f"messages[{place}].role: {role!r} is not one that the model in this process knows ({', '.join(_ROLES)})",
                param=f"messages[{place}].role",
            )
        content = message.get("content")
        if isinstance(content, list):
            for index, part in enumerate(content):
                if part.get("type") not in ("text", "refusal"):
                    path = f"messages[{place}].content[{index}]"
                    raise _unsupported(path, f"a part of type {part.get('type')!r}; the model in this process reads text only")
            message["content"] = "".join(part[part["type"]] for part in content)
        if message.get("audio") is not None:
            raise _unsupported(f"messages[{place}].audio", "the model in this process reads text only")
        if role == "function" or message.get("function_call") or message.get("tool_calls"):
            messages[place] = message = _as_tools(message)
        message["role"] = _ROLES[role]
        if message.get("content") is None and not message.get("tool_calls"):
            message["content"] = message.get("refusal") or ""
        # What the engine knows of thinking in the history is this name alone; templates that keep none pass over it.
        thought = message.pop("reasoning", None)
        message.pop("reasoning_details", None)
        if isinstance(thought, str) and not message.get("reasoning_content"):
            message["reasoning_content"] = thought
    if calling is None:
        return messages
    if calling.knows_tools:
        for message in messages:
            if "tool_call_id" in message:
                message["tool_call_id"] = short_id(message["tool_call_id"])
            for call in message.get("tool_calls") or ():
                call["id"] = short_id(call.get("id") or "")
        return messages
    messages = as_texts(messages)
    return messages if offer is None else instructed(messages, instructions(offer), knows_system=calling.knows_system)


def _as_tools(message: dict[str, Any]) -> dict[str, Any]:
    """A message of the history with calls of custom tools, and the deprecated function call, as calls of functions."""
    if message["role"] == "function":
        return {"role": "tool", "tool_call_id": message["name"], "content": message.get("content")}
    legacy = message.pop("function_call", None)
    calls = list(message.get("tool_calls") or ())
    if legacy:
        calls.append({"id": legacy["name"], "type": "function", "function": legacy})
    for place, call in enumerate(calls):
        if call.get("type") == "custom":
            custom = call["custom"]
            arguments = json.dumps({"input": custom["input"]}, ensure_ascii=False)
            calls[place] = {"id": call["id"], "type": "function", "function": {"name": custom["name"], "arguments": arguments}}
    return {**message, "tool_calls": calls}


def _limit(request: ChatRequest) -> int:
    """How many tokens the answer may have."""
    given = {
        name: value for name in ("max_completion_tokens", "max_tokens") if isinstance(value := getattr(request, name), int)
    }
    for name, value in given.items():
        if value < 1:
            raise InvalidRequestError(f"{name}: expected at least 1, got {value}", param=name)
    return min(given.values(), default=MAX_TOKENS)


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("frequency_penalty", -2, 2),
    ("presence_penalty", -2, 2),
    ("n", 1, 128),
    ("top_logprobs", 0, 20),
)


def _ranges(request: ChatRequest) -> None:
    """Values in the ranges that the protocol gives; the engine would take others for something else."""
    for name, low, high in _RANGES:
        value = getattr(request, name)
        if isinstance(value, (int, float)) and not low <= value <= high:
            raise InvalidRequestError(f"{name}: expected {low:g} to {high:g}, got {value!r}", param=name)


def _logit_bias(biases: Mapping[Any, float], vocabulary: int) -> list[list[float]]:
    """Pairs of token id and bias. The engine would take a key that is no number for text, and an unknown id for nothing."""
    pairs: list[list[float]] = []
    for key, bias in biases.items():
        path = f'logit_bias["{key}"]'
        if not str(key).isascii() or not str(key).isdigit():
            raise InvalidRequestError(f"{path}: a key is a token id, a number from 0 to {vocabulary - 1}", param=path)
        if int(key) >= vocabulary:
            raise InvalidRequestError(f"{path}: the model has the token ids 0 to {vocabulary - 1}", param=path)
        if not -100 <= bias <= 100:
            raise InvalidRequestError(f"{path}: expected -100 to 100, got {bias!r}", param=path)
        pairs.append([int(key), float(bias)])
    return pairs


def _response_format(request: ChatRequest) -> dict[str, Any] | None:
    """The form that the engine is to keep to, as a schema."""
    if request.response_format is UNSET:
        return None
    wanted: dict[str, Any] = msgspec.to_builtins(request.response_format)
    match wanted.get("type"):
        case "text":
            return None
        case "json_object":
            schema: Any = {"type": "object"}
        case "json_schema" if wanted.get("json_schema"):
            schema = wanted["json_schema"].get("schema", {})
        case "json_schema":
            raise InvalidRequestError("response_format.json_schema: missing", param="response_format.json_schema")
        case other:
            raise _unsupported("response_format.type", f"{other!r} is none of text, json_object and json_schema")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
