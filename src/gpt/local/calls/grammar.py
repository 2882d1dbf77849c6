"""A JSON Schema as a grammar of the engine's, never wider than the schema. Pure.

The engine's grammars are LLGuidance's, in which a rule may be a JSON Schema. Facts that this file lives with:

- a grammar that cannot be made is left out by the engine without a word, and the answer is then free. So each schema is tried
  first: `trial` gives a grammar under which one token tells;
- white space, decimals and texts without a bound are filled to the last token by a small model. They are narrowed here: what
  keeps to the narrowed schema keeps to the given one, and fits into the tokens that the answer may have;
- keywords that no grammar can hold a model to are left out, unless the tool is strict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from gpt.errors import UnsupportedParameterError

Schema = dict[str, Any]

LARGEST = 2**53 - 1
"""The largest integer that every reader of JSON takes for what it is. Source: RFC 8259, section 6."""

FINEST = 1e-9
"""The step of decimals that have no `multipleOf`; the engine takes none that is finer."""

_WRITTEN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "coerce_one_of": True, "lenient": True}
"""How the engine is to write JSON: as Python does, and as most chat templates show it. `lenient` passes over keywords."""

_NOT_HELD = ("uniqueItems", "not", "if", "then", "else", "contains", "minContains", "propertyNames", "unevaluatedProperties",
             "unevaluatedItems", "dependentRequired", "dependentSchemas", "contentEncoding")  # fmt: skip
"""Keywords that LLGuidance has no grammar for."""

_FORMATS = {
    "date-time": 27,
    "time": 16,
    "date": 10,
    "duration": 16,
    "email": 64,
    "hostname": 64,
    "ipv4": 15,
    "ipv6": 39,
    "uuid": 36,
}
"""Formats of texts that the engine holds a model to, and how many characters one may take; seconds may have six decimals."""

_NAME = "^.{1,64}$"
"""Names of fields that the schema does not name."""

_PATTERNED = 256
"""Characters that a text with a pattern may have at least."""

_PARTS = ("items", "additionalProperties", "additionalItems")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_TABLES = ("properties", "patternProperties", "$defs", "definitions")

HEADER = "%llguidance {}\n"
"""How the engine tells an LLGuidance grammar from one of its own."""

TOLD = "#"
"""What a trial answers where the grammar could be made."""


class Held(msgspec.Struct, frozen=True):
    """A schema that the engine can hold a model to, with the bounds that were put in: what has as many `characters` or `items`
    may have been meant to go on.
    """

    schema: Schema
    characters: int
    items: int

    @property
    def rule(self) -> str:
        """The schema as the right side of a rule of a grammar."""
        return "%json " + json.dumps({"x-guidance": _WRITTEN, **self.schema})

    @property
    def trial(self) -> str:
        """A grammar under which one token is TOLD, where the schema's can be made."""
        return f"{HEADER}start: {quoted(TOLD)} value\nvalue: {self.rule}\n"


def quoted(text: str) -> str:
    """The text as a literal of a grammar."""
    return json.dumps(text, ensure_ascii=False)


def pattern(text: str) -> str:
    """The text as a part of a regular expression of a grammar, which stands between slashes."""
    return "".join("\\n" if one == "\n" else one if one.isalnum() or one in " <>_" else f"\\{one}" for one in text)


def held(schema: Mapping[str, Any], tokens: int, *, path: str, strict: bool = False) -> Held:
    """The schema, narrowed so that its values fit into an answer of `tokens`.

    `strict` says that every keyword must hold: UnsupportedParameterError, by its path, for one that no grammar can.
    """
    plain: Schema = msgspec.to_builtins(schema)
    if strict:
        _refuse_unheld(plain, path)
    size = _Size(plain)
    # Three quarters of the tokens are for texts and lists. A character may be a token: digits are, in many models.
    share = 3 * tokens // (8 if size.texts and size.listed else 4)
    characters = max(share // max(1, size.texts), size.least_characters + 1)
    items = max(share // size.listed if size.listed else 0, size.least_items + 1, 2)
    narrowed = _Narrowing(characters, items, closes=not _is_joined(plain)).node(plain)
    return Held(narrowed, characters, items)


def _refuse_unheld(schema: Any, path: str) -> None:
    if not isinstance(schema, dict):
        return
    for name in _NOT_HELD:
        if name in schema:
            raise _unheld(f"{path}.{name}", "the engine has no grammar for it; without strict it is left to you to check")
    if schema.get("format", "date") not in _FORMATS:
        raise _unheld(f"{path}.format", f"{schema['format']!r} is none of {', '.join(sorted(_FORMATS))}")
    for name, part in _inside(schema):
        _refuse_unheld(part, f"{path}.{name}")


def _unheld(path: str, why: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(f"{path}: {why}", 400, code="unsupported_parameter", param=path)


def _inside(schema: Schema) -> list[tuple[str, Any]]:
    """The schemas right inside one, with their places."""
    found: list[tuple[str, Any]] = [(name, schema[name]) for name in _PARTS if isinstance(schema.get(name), dict)]
    for name in _LISTS:
        parts = schema.get(name)
        found += [(f"{name}[{place}]", part) for place, part in enumerate(parts if isinstance(parts, list) else ())]
    for name in _TABLES:
        table = schema.get(name)
        found += [(f"{name}.{key}", part) for key, part in (table.items() if isinstance(table, dict) else ())]
    return found


def _is_joined(schema: Any) -> bool:
    """Whether objects of the schema are put together of several parts, which must then stay open for each other."""
    if not isinstance(schema, dict):
        return False
    together = len(schema.get("allOf", ())) > 1 or (schema.keys() & {"$ref", "allOf"} and "properties" in schema)
    return bool(together) or any(_is_joined(part) for _, part in _inside(schema))


class _Size:
    """How much of an answer a schema takes.

    `texts` are the places that take a text of any length, four for each place in a list; `listed` the tokens that one ordinary
    item of each list takes, together; `least_characters` and `least_items` what the schema itself asks for at the most.
    """

    def __init__(self, schema: Schema) -> None:
        self._defined: Schema = {**schema.get("definitions", {}), **schema.get("$defs", {})}
        self._open: list[str] = []
        self.texts = self.listed = self.least_characters = self.least_items = 0
        self._tokens(schema, 1)

    def _tokens(self, schema: Any, times: int) -> int:
        """About how many tokens an ordinary value takes, which the schema has `times` places for."""
        if not isinstance(schema, dict):
            return 8
        self.least_characters = max(self.least_characters, schema.get("minLength", 0))
        self.least_items = max(self.least_items, schema.get("minItems", 0))
        values = [json.dumps(value) for value in [*schema.get("enum", ()), schema.get("const")] if value is not None]
        if values:
            longest = max(map(len, values))
            self.least_characters = max(self.least_characters, longest)
            return 2 + longest // 3
        if "$ref" in schema:
            name = str(schema["$ref"]).rpartition("/")[2]
            if name in self._open or name not in self._defined:
                return 8
            self._open.append(name)
            made = self._tokens(self._defined[name], times)
            self._open.pop()
            return made
        parts = [part for name in ("anyOf", "oneOf", "allOf") for part in schema.get(name, ())]
        joined = max((self._tokens(part, times) for part in parts), default=0)
        kinds = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else None)
        if kinds is None and parts:
            return joined
        return joined + max(self._of_kind(schema, kind, times) for kind in (kinds if isinstance(kinds, list) else [kinds]))

    def _of_kind(self, schema: Schema, kind: Any, times: int) -> int:
        if kind == "string":
            if schema.get("format") in _FORMATS:
                return 2 + _FORMATS[schema["format"]]
            self.texts += times
            return 2 + int(min(schema.get("maxLength", 30), 30)) // 3
        if kind == "array":
            fixed = schema.get("prefixItems", schema.get("items"))
            if isinstance(fixed, list):
                self.least_items = max(self.least_items, len(fixed))
                return 2 + sum(self._tokens(part, times) for part in fixed)
            return self._of_list(self._tokens(schema.get("items", True), 4 * times))
        if kind == "object":
            further = schema.get("additionalProperties", True)
            properties = schema.get("properties", {})
            inside = sum(len(name) // 3 + 4 + self._tokens(part, times) for name, part in properties.items())
            if not properties and further is not False:
                return self._of_list(8 + self._tokens(further, 4 * times))
            return 2 + inside
        return {"null": 2, "boolean": 2, "integer": 6, "number": 12}.get(kind, 8)

    def _of_list(self, item: int) -> int:
        self.listed += item
        return 2 + 3 * item


class _Narrowing:
    """Bounds put into a schema where it has none."""

    def __init__(self, characters: int, items: int, *, closes: bool) -> None:
        self.characters = characters
        self.items = items
        self._closes = closes

    def node(self, schema: Any) -> Any:
        """A copy of the schema with bounds."""
        if not isinstance(schema, dict):
            return schema
        made = {name: value for name, value in schema.items() if name not in _NOT_HELD}
        if made.get("format", "date") not in _FORMATS:
            del made["format"]
        for name in _PARTS:
            if isinstance(made.get(name), dict):
                made[name] = self.node(made[name])
        for name in _LISTS:
            if isinstance(made.get(name), list):
                made[name] = [self.node(part) for part in made[name]]
        for name in _TABLES:
            if isinstance(made.get(name), dict):
                made[name] = {key: self.node(part) for key, part in made[name].items()}
        if not made.keys() & {"enum", "const", "$ref"}:
            kinds = made.get("type")
            for kind in kinds if isinstance(kinds, list) else [kinds]:
                self._bound(made, kind)
        return made

    def _bound(self, schema: Schema, kind: Any) -> None:
        if kind == "string":
            # What a pattern asks for may be longer than there are tokens for; then the answer is cut off, and not impossible.
            free = max(self.characters, _PATTERNED) if "pattern" in schema else self.characters
            most = _FORMATS.get(schema.get("format", ""), free)
            schema["maxLength"] = min(schema.get("maxLength", most), most)
        elif kind == "array":
            if isinstance(schema.get("items"), list) or schema.get("items") is False:
                return  # a tuple, as long as it is
            schema["maxItems"] = min(schema.get("maxItems", self.items), self.items)
        elif kind in ("integer", "number"):
            self._bound_number(schema, kind)
        elif kind == "object":
            if schema.get("properties"):
                if self._closes and "patternProperties" not in schema:
                    schema.setdefault("additionalProperties", False)
            elif schema.get("additionalProperties", True) is not False:
                most = min(schema.get("maxProperties", self.items), self.items)
                schema["maxProperties"] = max(most, schema.get("minProperties", 0))
                if self._closes and "patternProperties" not in schema:
                    # A name without a bound is filled to the last token, as a text is.
                    schema["patternProperties"] = {_NAME: schema.get("additionalProperties", True)}
                    schema["additionalProperties"] = False

    def _bound_number(self, schema: Schema, kind: str) -> None:
        least = schema.get("minimum", schema.get("exclusiveMinimum"))
        most = schema.get("maximum", schema.get("exclusiveMaximum"))
        # Draft 4 has true and false for whether a bound is exclusive.
        least, most = (None if isinstance(bound, bool) else bound for bound in (least, most))
        if least is None:
            schema["minimum"] = min(-LARGEST, most if most is not None else 0)
        if most is None:
            schema["maximum"] = max(LARGEST, least if least is not None else 0)
        tight = least is not None and most is not None and most - least < 1000 * FINEST
        if kind == "number" and "multipleOf" not in schema and not tight:
            schema["multipleOf"] = FINEST
