"""What a request carries that the protocol does not declare: the paths of such fields, by the declared types themselves."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from gpt.types import ChatRequest, UnionMeta


def undeclared(request: Mapping[str, Any]) -> list[str]:
    """The paths of the fields of a request, as plain JSON values, that no type declares, such as "messages[0].cache_control".

    An object of unknown `role` or `type` is not looked into, and a field that takes any object (a schema) has none. The request
    has been checked (`codec.check_request`).
    """
    return list(_of_struct(request, ChatRequest, ""))


def _of_struct(value: Mapping[str, Any], declared: type[msgspec.Struct], path: str) -> Iterator[str]:
    fields = _fields(declared)
    for name, item in value.items():
        place = f"{path}.{name}" if path else name
        if name not in fields:
            yield place
        else:
            yield from _within(item, fields[name], place)


def _within(value: Any, hint: Any, path: str) -> Iterator[str]:
    """The paths below a value whose annotation is `hint`."""
    if isinstance(value, list):
        inner = next((typing.get_args(option)[0] for option in _options(hint) if _is_list(option)), None)
        if inner is not None:
            for place, item in enumerate(value):
                yield from _within(item, inner, f"{path}[{place}]")
    elif isinstance(value, dict):
        for option in _options(hint):
            if isinstance(option, UnionMeta):
                member = option.members.get(value.get(option.tag, ""))
                if member is not None:
                    yield from _of_struct(value, member, path)
                return
            if isinstance(option, type) and issubclass(option, msgspec.Struct):
                yield from _of_struct(value, option, path)
                return


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union of annotations, else the annotation alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_list(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return origin is not None and not issubclass(origin, Mapping) and bool(typing.get_args(hint))


@cache
def _fields(declared: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields by their names on the wire, with their annotations."""
    hints = typing.get_type_hints(declared)
    return {item.encode_name: hints[item.name] for item in msgspec.structs.fields(declared) if item.name != "extra"}
