"""A JSON Schema as a server takes it, and the way back for what it answers.

A dialect says what a server's schemas may have. What they may not is rewritten, and the answer turned back:

- a root that is no object is wrapped as {"value": ...};
- a dictionary becomes a list of {"key": ..., "value": ...}, a tuple an object with item_1, item_2 ..., anything at all a text;
- each property is required, one that need not be there may be null instead, and is then left out;
- a keyword that the dialect refuses goes into the description, for the model to read, and is checked here on the way back.

Source of the strict rules and limits: the hosted service's guide to structured outputs, as its transcriptions have it.
"""

# ruff: noqa: FBT001 - a way back takes two values, and is called by position only

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from gpt.errors import InvalidRequestError

Schema = dict[str, Any]
Restore = Callable[[Any, bool], Any]
"""The way back of a value; True says that more of it may be still to come, so that nothing that is missing is wrong."""

FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_BOUNDS = frozenset(
    {"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "pattern"}
)
_ALWAYS = frozenset({"type", "enum", "description", "properties", "required", "items", "anyOf", "$ref"})
_SILENT = frozenset({"title", "default", "$defs", "$schema", "$id", "$comment", "discriminator", "examples", "deprecated"})
"""Keywords that constrain nothing, and are left out."""


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """What a server's schemas may have."""

    name: str
    rewrites: bool = True
    """Whether anything is rewritten; else the schema goes out as it is, with its root wrapped."""
    keywords: frozenset[str] = _BOUNDS
    formats: frozenset[str] = FORMATS
    properties: int | None = None
    """How many properties a schema may have in all."""
    levels: int | None = None
    """How deep objects and lists may nest."""
    characters: int | None = None
    """How many characters all names and values of enumerations may have together."""
    choices: int | None = None
    """How many values all enumerations may have together."""
    long_enumeration: tuple[int, int] | None = None
    """An enumeration of more than so many texts may have so many characters."""


STRICT = Dialect(name="strict", properties=5000, levels=10, characters=120_000, choices=1000, long_enumeration=(250, 15_000))
"""The hosted service's strict mode."""
AZURE = Dialect(name="azure", properties=100, levels=5, characters=120_000, choices=1000, long_enumeration=(250, 15_000))
"""Azure's, whose page gives fewer properties and levels; in the rest it is taken for the hosted service's."""
GRAMMAR = Dialect(
    name="grammar",
    keywords=_BOUNDS | {"minLength", "maxLength"},
    formats=frozenset({"date-time", "date", "time", "uuid"}),
)
"""What the engine makes a grammar of."""
PLAIN = Dialect(name="plain", rewrites=False)
"""The schema as it is."""


class SchemaError(ValueError):
    """An answer does not keep to its schema. `path` is the place in it."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path or 'the value'}: {what}")
        self.path = path


class Compiled(msgspec.Struct, frozen=True):
    """A schema in a dialect: `schema` goes out, `restore` turns the answer (plain JSON values) back. Raises SchemaError."""

    schema: Schema
    restore: Restore
    wrapped: bool
    strict: bool
    """Whether it keeps to the strict rules, so that a server may be asked to hold the model to it."""


def compile_schema(schema: Schema, dialect: Dialect, name: str = "value", *, checked: bool = True) -> Compiled:
    """The schema in `dialect`. With `checked` the way back checks the keywords that the dialect does not have.

    Raises InvalidRequestError that names the field that cannot be said in it.
    """
    return _Compiler(schema, dialect, name, checked=checked).compiled()


def _same(value: Any, partial: bool) -> Any:  # noqa: ARG001 - as every way back
    return value


def _unwrapping(inner: Restore) -> Restore:
    def unwrapped(value: Any, partial: bool) -> Any:
        if not isinstance(value, dict) or "value" not in value:
            if partial:
                return None
            raise SchemaError("", 'expected an object with "value"')
        return inner(value["value"], partial)

    return unwrapped


class _Compiler:
    def __init__(self, root: Schema, dialect: Dialect, name: str, *, checked: bool) -> None:
        self._checked = checked
        self._root = root
        self._dialect = dialect
        self._name = name
        self._given: dict[str, Schema] = {**root.get("definitions", {}), **root.get("$defs", {})}
        self._made: dict[str, Schema] = {}
        self._restores: dict[str, Restore] = {}
        self._open: list[str] = []
        """Definitions in whose middle the work is."""

    def compiled(self) -> Compiled:
        root = self._root
        if not self._dialect.rewrites:
            return self._plain(root)
        while set(root) - _SILENT - {"description"} == {"$ref"}:
            root = self._definition(target(root), self._name)
        schema, restore = self._node(root, self._name)
        wrapped = schema.get("type") != "object" or "item_1" in schema["properties"]
        if wrapped:
            schema, restore = _object({"value": schema}), _unwrapping(restore)
        if self._made:
            schema["$defs"] = self._made
        self._check_limits(schema)
        return Compiled(schema, restore, wrapped, strict=True)

    def _plain(self, root: Schema) -> Compiled:
        top = root
        while "$ref" in top:
            top = self._definition(target(top), self._name)
        if top.get("type") == "object":
            return Compiled(root, _same, False, strict=False)
        inner = {name: value for name, value in root.items() if name != "$defs"}
        schema = _object({"value": inner}) | ({"$defs": root["$defs"]} if "$defs" in root else {})
        return Compiled(schema, _unwrapping(_same), True, strict=False)

    def _definition(self, name: str, path: str) -> Schema:
        if name not in self._given:
            raise _refused(path, f"$ref to {name!r}, which $defs does not have")
        return self._given[name]

    # One node.

    def _node(self, schema: Any, path: str) -> tuple[Schema, Restore]:
        if schema is False:
            raise _refused(path, "a schema that nothing keeps to")
        if schema is True or not set(schema) - _SILENT - {"description"}:
            return _anything(schema if isinstance(schema, dict) else {})
        if "$ref" in schema:
            return self._reference(schema, path)
        if "allOf" in schema:
            return self._node(self._merged(schema, path), path)
        if "not" in schema or "if" in schema or "dependentSchemas" in schema or "dependentRequired" in schema:
            raise _refused(path, "not, if and dependent schemas, which no dialect can say")
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self._union(schema, schema[union], path)
        if "const" in schema:
            schema = {name: value for name, value in schema.items() if name != "const"} | {"enum": [schema["const"]]}
        if "enum" in schema:
            return self._enumeration(schema)
        kind = schema.get("type") or _guessed(schema)
        if isinstance(kind, list):
            if len(kind) == 1:
                return self._node({**schema, "type": kind[0]}, path)
            parts = [_of_type(schema, one) for one in kind]
            return self._union(schema, parts, path)
        if kind == "object":
            return self._of_object(schema, path)
        if kind == "array":
            return self._of_array(schema, path)
        return self._constrained({**schema, "type": kind}, {"type": kind})

    def _reference(self, schema: Schema, path: str) -> tuple[Schema, Restore]:
        name = target(schema)
        definition = self._definition(name, path)
        beside = {key: value for key, value in schema.items() if key not in _SILENT | {"$ref"}}
        if beside and name not in self._open:
            # A reference stands alone, so what is beside it is put into a copy.
            self._open.append(name)
            made = self._node({**definition, **beside}, path)
            self._open.pop()
            return made
        if name not in self._made:
            self._made[name] = {}
            self._restores[name] = _same
            self._open.append(name)
            self._made[name], self._restores[name] = self._node(definition, name)
            self._open.pop()
        if name not in self._open and self._restores[name] is _same:
            return {"$ref": f"#/$defs/{name}"}, _same
        return {"$ref": f"#/$defs/{name}"}, lambda value, partial: self._restores[name](value, partial)  # noqa: PLW0108 - it is made later

    def _merged(self, schema: Schema, path: str) -> Schema:
        """One schema of an `allOf`. Raises InvalidRequestError where two parts say otherwise of one thing."""
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            if "$ref" in part:
                part = {**self._definition(target(part), path), **{key: part[key] for key in part if key != "$ref"}}
            for key, value in part.items():
                if key == "properties":
                    merged[key] = {**value, **merged.get(key, {})}
                elif key == "required":
                    merged[key] = [*merged.get(key, ()), *value]
                elif key in merged and merged[key] != value and key not in _SILENT | {"description"}:
                    raise _refused(path, f"allOf whose parts differ in {key!r}")
                else:
                    merged.setdefault(key, value)
        return merged

    def _union(self, schema: Schema, parts: list[Any], path: str) -> tuple[Schema, Restore]:
        made = [self._node(part, path) for part in parts]
        schemas: list[Schema] = []
        for one, _ in made:
            if one not in schemas:
                schemas.append(one)
        result: Schema = schemas[0].copy() if len(schemas) == 1 else {"anyOf": schemas}
        if schema.get("description"):
            result["description"] = schema["description"]
        if "$ref" in result and len(result) > 1:
            result = {"anyOf": [schemas[0]], "description": schema["description"]}

        if all(inner is _same for _, inner in made):
            return result, _same

        def restore(value: Any, partial: bool) -> Any:
            error: SchemaError | None = None
            for one, inner in made:
                if self._fits(one, value):
                    try:
                        return inner(value, partial)
                    except SchemaError as problem:
                        error = error or problem
            if partial:
                return value
            raise error or SchemaError("", "it is of none of the kinds that it may be")

        return result, restore

    def _enumeration(self, schema: Schema) -> tuple[Schema, Restore]:
        values: list[Any] = schema["enum"]
        kinds: dict[str, list[Any]] = {}
        for value in values:
            kinds.setdefault(_kind_of(value), []).append(value)
        parts: list[Schema] = [{"type": kind, "enum": some} for kind, some in kinds.items()]
        made: Schema = parts[0] if len(parts) == 1 else {"anyOf": parts}
        if schema.get("description"):
            made["description"] = schema["description"]
        return made, _same

    def _of_object(self, schema: Schema, path: str) -> tuple[Schema, Restore]:
        further = schema.get("additionalProperties", True)
        if not schema.get("properties") and further is not False:
            return self._of_dictionary(schema, further, path)
        required = set(schema.get("required", ()))
        properties: dict[str, Schema] = {}
        restores: dict[str, tuple[Restore, bool]] = {}
        for name, inner in schema.get("properties", {}).items():
            made, restore = self._node(inner, f"{path}.{name}")
            left_out = name not in required and not self._fits(made, None)
            properties[name] = _nullable(made) if left_out else made
            restores[name] = (restore, left_out)
        result = _object(properties)
        if all(restore is _same and not left_out for restore, left_out in restores.values()):
            return self._constrained(schema, result)

        def restored(value: Any, partial: bool) -> Any:
            if not isinstance(value, dict):
                raise SchemaError("", f"expected an object, got {_kind_of(value)}")
            plain: dict[str, Any] = {}
            for name, part in value.items():
                restore, left_out = restores.get(name, (_same, False))
                if part is None and left_out:
                    continue
                plain[name] = _within(name, restore, part, partial)
            return plain

        return self._constrained(schema, result, restored)

    def _of_dictionary(self, schema: Schema, further: Any, path: str) -> tuple[Schema, Restore]:
        made, restore = self._node(further, f"{path}[]")
        keys, _ = self._node({"type": "string", **schema.get("propertyNames", {})}, f"{path}[]")
        pair = _object({"key": keys, "value": made})
        result: Schema = {"type": "array", "items": pair}

        def restored(value: Any, partial: bool) -> Any:
            if not isinstance(value, list):
                raise SchemaError("", f"expected a list of keys and values, got {_kind_of(value)}")
            plain: dict[str, Any] = {}
            for place, one in enumerate(value):
                if not isinstance(one, dict) or not isinstance(one.get("key"), str) or "value" not in one:
                    if partial:
                        continue
                    raise SchemaError(f"[{place}]", 'expected {"key": ..., "value": ...}')
                plain[one["key"]] = _within(one["key"], restore, one["value"], partial)
            return plain

        bounds = {"minProperties": "minItems", "maxProperties": "maxItems"}
        kept = {bounds.get(key, key): value for key, value in schema.items() if key not in ("type", "propertyNames")}
        return self._constrained(kept, result, restored)

    def _of_array(self, schema: Schema, path: str) -> tuple[Schema, Restore]:
        if "prefixItems" in schema:
            return self._of_tuple(schema, path)
        made, restore = self._node(schema.get("items", True), f"{path}[]")

        if restore is _same:
            return self._constrained(schema, {"type": "array", "items": made})

        def restored(value: Any, partial: bool) -> Any:
            if not isinstance(value, list):
                raise SchemaError("", f"expected a list, got {_kind_of(value)}")
            return [_within(f"[{place}]", restore, one, partial) for place, one in enumerate(value)]

        return self._constrained(schema, {"type": "array", "items": made}, restored)

    def _of_tuple(self, schema: Schema, path: str) -> tuple[Schema, Restore]:
        if isinstance(schema.get("items"), dict):
            raise _refused(path, "a tuple that goes on after its fixed items")
        parts = [self._node(part, f"{path}[{place}]") for place, part in enumerate(schema["prefixItems"])]
        result = _object({f"item_{place + 1}": made for place, (made, _) in enumerate(parts)})

        def restored(value: Any, partial: bool) -> Any:
            if not isinstance(value, dict):
                raise SchemaError("", f"expected an object of items, got {_kind_of(value)}")
            items = []
            for place, (_, restore) in enumerate(parts):
                if f"item_{place + 1}" not in value:
                    if partial:
                        break
                    raise SchemaError(f"[{place}]", "missing")
                items.append(_within(f"[{place}]", restore, value[f"item_{place + 1}"], partial))
            return items

        kept = {key: value for key, value in schema.items() if key not in ("prefixItems", "items", "minItems", "maxItems")}
        return self._constrained(kept, result, restored)

    def _constrained(self, schema: Schema, made: Schema, restore: Restore = _same) -> tuple[Schema, Restore]:
        """`made` with the keywords of `schema` that the dialect has; the others go into its description, and are checked."""
        moved: list[tuple[str, Any]] = []
        structural = _ALWAYS | _SILENT | {"additionalProperties", "const", "allOf", "oneOf"}
        for key, value in schema.items():
            if key in structural:
                continue
            if key in self._dialect.keywords or (key == "format" and value in self._dialect.formats):
                made[key] = value
            elif key == "uniqueItems" and value is False:
                continue
            else:
                moved.append((key, value))
        said = [schema["description"]] if schema.get("description") else []
        said += [f"{key}: {value if isinstance(value, str) else msgspec.json.encode(value).decode()}" for key, value in moved]
        if said:
            made["description"] = "; ".join(said)
        checks = [(key, value) for key, value in moved if key in _CHECKS] if self._checked else []
        if not checks:
            return made, restore

        def checked(value: Any, partial: bool) -> Any:
            plain = restore(value, partial)
            for key, limit in () if partial else checks:
                if not _CHECKS[key](plain, limit):
                    raise SchemaError("", f"it does not keep to {key} {limit!r}")
            return plain

        return made, checked

    def _fits(self, schema: Schema, value: Any) -> bool:
        """Whether a value is of the kind that a schema made here asks for; bounds are not looked at."""
        if "$ref" in schema:
            definition = self._made[target(schema)]
            return self._fits(definition, value) if definition else value is not None  # else it is in the making: a class
        if "anyOf" in schema:
            return any(self._fits(part, value) for part in schema["anyOf"])
        if "enum" in schema and value not in schema["enum"]:
            return False
        kind = schema.get("type")
        if kind == "object":
            properties = schema["properties"]
            return (
                isinstance(value, dict)
                and value.keys() >= properties.keys()
                and all(self._fits(part, value[name]) for name, part in properties.items())
            )
        if kind == "array":
            return isinstance(value, list) and all(self._fits(schema["items"], one) for one in value)
        return kind is None or kind == _kind_of(value) or (kind == "number" and _kind_of(value) == "integer")

    # Limits.

    def _check_limits(self, schema: Schema) -> None:
        limits = self._dialect
        properties = choices = characters = 0
        for path, node in _walk(schema, self._name):
            names = list(node.get("properties", ()))
            values = node.get("enum", ())
            properties += len(names)
            choices += len(values)
            texts = [value for value in values if isinstance(value, str)]
            characters += sum(map(len, names)) + sum(map(len, texts))
            found = (
                ("properties", properties, limits.properties),
                ("values of enumerations", choices, limits.choices),
                ("characters of names and values", characters, limits.characters),
            )
            for what, count, most in found:
                if most is not None and count > most:
                    raise _refused(path, f"there are more than {most} {what}, up to here {count}")
            if limits.long_enumeration is not None and len(texts) > limits.long_enumeration[0]:
                size, most = sum(map(len, texts)), limits.long_enumeration[1]
                if size > most:
                    raise _refused(path, f"an enumeration of {len(texts)} texts has {size} characters, of at most {most}")
        if limits.levels is not None:
            self._check_depth(schema, self._name, limits.levels, ())

    def _check_depth(self, schema: Schema, path: str, left: int, names: tuple[str, ...]) -> None:
        if "$ref" in schema:
            name = target(schema)
            if name not in names:  # recursion is allowed, and has no depth
                self._check_depth(self._made[name], path, left, (*names, name))
            return
        if schema.get("type") in ("object", "array"):
            if not left:
                raise _refused(path, f"it is nested deeper than {self._dialect.levels} levels")
            left -= 1
        for name, part in schema.get("properties", {}).items():
            self._check_depth(part, f"{path}.{name}", left, names)
        if "items" in schema:
            self._check_depth(schema["items"], f"{path}[]", left, names)
        for part in schema.get("anyOf", ()):
            self._check_depth(part, path, left, names)


def _walk(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Each node of a schema that was made here, with its path."""
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from _walk(part, f"{path}.{name}")
    if "items" in schema:
        yield from _walk(schema["items"], f"{path}[]")
    for part in schema.get("anyOf", ()):
        yield from _walk(part, path)
    for name, part in schema.get("$defs", {}).items():
        yield from _walk(part, name)


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _nullable(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {"anyOf": [schema, {"type": "null"}]}


def _anything(schema: Schema) -> tuple[Schema, Restore]:
    def restored(value: Any, partial: bool) -> Any:
        try:
            return msgspec.json.decode(value) if isinstance(value, str) else value
        except msgspec.DecodeError as error:
            if partial:
                return None
            raise SchemaError("", f"expected JSON text ({error})") from error

    said = [schema["description"]] if schema.get("description") else []
    return {"type": "string", "description": "; ".join([*said, "any JSON value, as JSON text"])}, restored


def _of_type(schema: Schema, kind: str) -> Schema:
    """The part of a schema of several types that speaks of one of them."""
    foreign = {"null": set(schema) - {"type"}, "boolean": set(schema) - {"type"}}.get(kind, {"description"})
    return {**{key: value for key, value in schema.items() if key not in foreign}, "type": kind}


def _guessed(schema: Schema) -> str:
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return "number" if schema.keys() & {"minimum", "maximum", "multipleOf"} else "string"


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")


def target(schema: Schema) -> str:
    """The name of the definition that a `$ref` names."""
    return str(schema["$ref"]).rpartition("/")[2]


def _within(name: str, restore: Restore, value: Any, partial: bool) -> Any:
    """The restored value; the path of what is wrong in it begins with `name`."""
    if restore is _same:
        return value
    try:
        return restore(value, partial)
    except SchemaError as error:
        rest = f".{error.path}" if error.path and not error.path.startswith("[") else error.path
        raise SchemaError(name + rest, str(error).partition(": ")[2]) from error


def _refused(path: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"into: {path}: {what}", param=path)


def _unique(value: Any, wanted: Any) -> bool:
    return not wanted or len({msgspec.json.encode(one) for one in value}) == len(value)


_CHECKS: dict[str, Callable[[Any, Any], bool]] = {
    "minLength": lambda value, limit: len(value) >= limit,
    "maxLength": lambda value, limit: len(value) <= limit,
    "minItems": lambda value, limit: len(value) >= limit,
    "maxItems": lambda value, limit: len(value) <= limit,
    "minProperties": lambda value, limit: len(value) >= limit,
    "maxProperties": lambda value, limit: len(value) <= limit,
    "uniqueItems": _unique,
    "pattern": lambda value, pattern: re.search(pattern, value) is not None,
    "minimum": lambda value, limit: bool(value >= limit),
    "maximum": lambda value, limit: bool(value <= limit),
    "exclusiveMinimum": lambda value, limit: bool(value > limit),
    "exclusiveMaximum": lambda value, limit: bool(value < limit),
}
"""Keywords that are checked here where a dialect does not have them, and no Python type does."""
