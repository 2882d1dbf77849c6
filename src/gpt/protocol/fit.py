"""A request as a server takes it: the one place where renames, roles and refusals of its profile are acted upon.

Refused is only what the server would take without a word and not act upon. What it refuses by itself is its own to say, and
what is in `body` goes out as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gpt.errors import UnsupportedParameterError
from gpt.protocol.codec import history
from gpt.protocol.profiles import Profile
from gpt.types import UNSET, ChatRequest

_FOR_TOOLS = frozenset({"tool_choice", "parallel_tool_calls"})
"""Parameters that say nothing without tools."""

_SAY_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True,),
    "function_call": ("auto", "none"),
    "modalities": (["text"], ("text",)),
    "response_format": ("text",),
}
"""Values that ask for what a server does anyway; of an object, its `type`. Empty containers do too."""


def fitted(request: ChatRequest, profile: Profile) -> ChatRequest:
    """The request as the server with this profile takes it; the same object where there is nothing to change.

    Raises UnsupportedParameterError for what would be ignored, with a `status_code` as the server would give.
    """
    changes: dict[str, Any] = {}
    for ignored in profile.ignores:
        name, _, only = ignored.partition(": ")
        value = getattr(request, name)
        if not _says_nothing(name, value, request) and (not only or _kind(value) == only):
            raise _refused(name, f"{profile.name or 'the server'} takes it and does not act upon it", value)
    for ours, theirs in profile.renames:
        value = getattr(request, ours)
        if value is UNSET or value is None:
            continue
        if getattr(request, theirs) not in (UNSET, None, value):
            raise _refused(ours, f"{profile.name or 'the server'} knows only {theirs}, which says something else", value)
        changes |= {ours: UNSET, theirs: value}
    if profile.roles:
        messages = request.messages if type(request.messages) is list else history(request.messages)
        changes["messages"] = _with_roles(messages, dict(profile.roles))
    return msgspec.structs.replace(request, **changes) if changes else request


def _with_roles(messages: list[Any], roles: dict[str, str]) -> list[Any]:
    """The messages with other names for roles; the same list where none has such a role."""
    if not any(_role(message) in roles for message in messages):
        return messages
    return [_with_role(message, roles[_role(message)]) if _role(message) in roles else message for message in messages]


def _role(message: Any) -> Any:
    role = message.get("role") if isinstance(message, Mapping) else getattr(message, "role", None)
    return role if isinstance(role, str) else None


def _with_role(message: Any, role: str) -> Any:
    return {**message, "role": role} if isinstance(message, Mapping) else msgspec.structs.replace(message, role=role)


def _says_nothing(name: str, value: Any, request: ChatRequest) -> bool:
    """Whether a parameter asks for nothing, or for what a server does anyway."""
    if value is UNSET or value is None:
        return True
    if name in _FOR_TOOLS and not request.tools:
        return True
    if isinstance(value, (Mapping, list, tuple)) and not value:
        return name != "web_search_options"  # whose presence alone asks for it
    kind = _kind(value)
    return any(kind == harmless and type(kind) is type(harmless) for harmless in _SAY_NOTHING.get(name, ()))


def _kind(value: Any) -> Any:
    """The `type` of an object; of anything else itself."""
    return value.get("type") if isinstance(value, Mapping) else getattr(value, "type", value)


def _refused(name: str, why: str, value: Any) -> UnsupportedParameterError:
    try:
        shown = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        shown = "..."
    what = shown if len(shown) <= 60 else "..."
    return UnsupportedParameterError(
        f"{name}: {why}, so it was not sent; leave it out, or send it all the same with body={{{name!r}: {what}}}, or if it is "
        f"wrong of this server, with profile=Profile(...)",
        400,
        param=name,
    )
