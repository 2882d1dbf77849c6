"""Tokens added up over several answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from gpt.types import Usage


def added(usages: Iterable[Usage | None]) -> Usage | None:
    """The sum, field by field; a field that nobody gave is None. None where no answer said how much it took."""
    given = [usage for usage in usages if usage is not None]
    return _added(given) if given else None


def _added(values: list[Any]) -> Any:
    fields: dict[str, Any] = {}
    for name in values[0].__struct_fields__:
        parts = [part for value in values if (part := getattr(value, name)) is not None]
        if parts:
            fields[name] = _added(parts) if isinstance(parts[0], msgspec.Struct) else sum(parts)
    return type(values[0])(**fields)
