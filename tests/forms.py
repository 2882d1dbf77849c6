"""Schemas of arguments, varied: nested objects, enumerations, arrays, tuples, dictionaries, unions, references, bounds."""

from __future__ import annotations

import json
import random
from typing import Any

_VALUES = ["red", "green", "deep blue", "ü", 1, 2.5, None, True, 'a "quoted" one', "<x>", "{"]
_NAMES = ["city", "unit", "count", "when", "tags", "size", "note", "flag", "level", "owner", "point", "ratio"]
_POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}, "y": {"type": "number", "minimum": 0, "maximum": 1}},
    "required": ["x", "y"],
    "additionalProperties": False,
}


class _Maker:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def _maybe(self, chance: float, **keywords: Any) -> dict[str, Any]:
        return keywords if self._random.random() < chance else {}

    def _leaf(self) -> dict[str, Any]:
        pick, number = self._random.randint, self._random.uniform
        low, least = pick(-50, 50), round(number(-5, 5), 2)
        leaves: list[dict[str, Any]] = [
            {"type": "string", **self._maybe(0.7, minLength=pick(0, 3), maxLength=pick(4, 24))},
            {"type": "integer", **self._maybe(0.6, minimum=low, maximum=low + pick(0, 500))},
            {"type": "integer", "multipleOf": 5, "exclusiveMinimum": low, "maximum": low + 50},
            {"type": "number", **self._maybe(0.6, minimum=least, exclusiveMaximum=round(least + number(0.5, 99), 2))},
            {"type": "boolean"},
            {"enum": self._random.sample(_VALUES, pick(1, 5))},
            {"const": self._random.choice(["x", 7, False])},
            {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
            {"type": "string", "format": self._random.choice(["date", "date-time", "time", "uuid", "ipv4"])},
            {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"},
            {"$ref": "#/$defs/Point"},
        ]
        return self._random.choice(leaves)

    def _schema(self, depth: int) -> dict[str, Any]:
        if depth >= 2 or self._random.random() < 0.5:
            return self._leaf()
        kind = self._random.choice(["array", "object", "tuple", "dictionary", "union"])
        if kind == "array":
            bounds = self._maybe(0.7, minItems=self._random.randint(0, 2), maxItems=self._random.randint(2, 4))
            return {"type": "array", "items": self._schema(depth + 1), **bounds}
        if kind == "tuple":
            parts = [self._schema(depth + 2) for _ in range(2)]
            return {"type": "array", "prefixItems": parts, "minItems": 2, "maxItems": 2, "items": False}
        if kind == "dictionary":
            return {"type": "object", "additionalProperties": self._schema(depth + 2), "maxProperties": 3}
        if kind == "union":
            return {"anyOf": [self._schema(depth + 1) for _ in range(2)]}
        return self.object(depth + 1)

    def object(self, depth: int) -> dict[str, Any]:
        names = self._random.sample(_NAMES, self._random.choice([1, 1, 2, 2, 3]))
        return {
            "type": "object",
            "properties": {name: self._schema(depth) for name in names},
            "required": [name for name in names if self._random.random() < 0.8],
            **self._maybe(0.6, additionalProperties=False),
        }


def form(seed: int) -> dict[str, Any]:
    """The schema of this number: always the same."""
    made = _Maker(seed).object(0)
    return made | {"$defs": {"Point": _POINT}} if "Point" in json.dumps(made) else made


def tool(seed: int) -> dict[str, Any]:
    """A tool that takes the form of this number."""
    return {"type": "function", "function": {"name": "fill", "description": "Fill in a form.", "parameters": form(seed)}}
