"""A Python type as a JSON Schema, and plain JSON values as that type: over msgspec's generators, and pydantic's where used.

Pydantic models and dataclasses, dataclasses, attrs, TypedDict, NamedTuple, msgspec Structs, Enum, Literal, unions, containers,
scalars; a JSON Schema as a dict gives plain values.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from gpt.errors import InvalidRequestError
from gpt.structured.dialects import Compiled, Dialect, Schema, compile_schema, target


class Shape(msgspec.Struct, frozen=True):
    """A type in a dialect: `schema` as it goes out, `read` from plain JSON values to the type (raises ValueError)."""

    name: str
    compiled: Compiled
    convert: Callable[[Any], Any]

    @property
    def schema(self) -> Schema:
        """The schema as it goes out."""
        return self.compiled.schema

    def read(self, value: Any) -> Any:
        """The plain JSON value of an answer as the type. Raises ValueError, with the path of what is wrong."""
        return self.convert(self.compiled.restore(value, False))

    def part(self, value: Any) -> Any:
        """A part of an answer, as plain values by the type's own names; the very object where nothing had been rewritten."""
        return self.compiled.restore(value, True)


def shape(into: Any, dialect: Dialect) -> Shape:
    """The type in a dialect; made once for each. Raises InvalidRequestError."""
    if isinstance(into, Mapping):
        return _of_schema(into, dialect)
    try:
        return _shape(into, dialect)
    except TypeError:  # not hashable, such as Annotated with a list
        return _shape.__wrapped__(into, dialect)


@lru_cache(maxsize=1024)
def _shape(into: Any, dialect: Dialect) -> Shape:
    bare = typing.get_args(into)[0] if typing.get_origin(into) is Annotated else into
    name = _name(getattr(bare, "__name__", "value"))
    schema, convert = _generated(into, getattr(bare, "__name__", repr(into)), "into")
    return Shape(name, compile_schema(schema, dialect, name, checked=False), convert)


def _generated(into: Any, name: str, param: str) -> tuple[Schema, Callable[[Any], Any]]:
    """The schema of a type, and the way from plain values to it. Raises InvalidRequestError."""
    if _mentions_pydantic(into, set()):
        return _by_pydantic(into)
    try:
        return _by_msgspec(into)
    except NameError as error:
        raise InvalidRequestError(
            f"{param}: an annotation of {name} cannot be read: {error}; define what it names at the top of the module",
            param=param,
        ) from error
    except (TypeError, KeyError) as error:  # KeyError: msgspec's, where two classes have one name
        try:
            return _by_pydantic(into)
        except Exception:  # noqa: BLE001 - pydantic has many; what msgspec said names the type
            raise InvalidRequestError(f"{param}: {name} has no JSON Schema: {error}", param=param) from error


def arguments(name: str, hints: dict[str, Any], required: set[str], told: Mapping[str, str], dialect: Dialect) -> Shape:
    """A function's parameters as an object; `read` gives a dict of those that came. `told` describes them, by name.

    Raises InvalidRequestError for a parameter whose type has no schema.
    """
    fields = {one: hint if one in required else typing.NotRequired[hint] for one, hint in hints.items()}
    schema, convert = _generated(_typed_dict()(name, fields), name, "tools")
    definitions = schema.pop("$defs", {})
    root = definitions.pop(target(schema)) if "$ref" in schema else schema
    root = {key: value for key, value in root.items() if key != "title"} | {"additionalProperties": False}
    # A generator may sort them; the model fills them in as they come.
    root["properties"] = {one: root["properties"][one] for one in hints}
    root["required"] = [one for one in hints if one in required]
    for one, text in told.items():
        if one in root["properties"]:
            root["properties"][one].setdefault("description", text)
    if definitions:
        root["$defs"] = definitions
    return Shape(name, compile_schema(root, dialect, name, checked=False), convert)


def _of_schema(schema: Mapping[str, Any], dialect: Dialect) -> Shape:
    name = _name(str(schema.get("title", "value")))
    return Shape(name, compile_schema(dict(schema), dialect, name), lambda value: value)


def _name(text: str) -> str:
    """A name that the protocol takes: letters, digits, _ and -, 64 at most."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:64] or "value"


def _by_msgspec(into: Any) -> tuple[Schema, Callable[[Any], Any]]:
    schema = msgspec.json.schema(into)
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(into)

    def convert(value: Any) -> Any:
        return decoder.decode(msgspec.json.encode(value))

    return schema, convert


def _by_pydantic(into: Any) -> tuple[Schema, Callable[[Any], Any]]:
    import pydantic

    adapter: Any = pydantic.TypeAdapter(into)
    return adapter.json_schema(), lambda value: adapter.validate_json(msgspec.json.encode(value))


def _typed_dict() -> Any:
    """What makes a TypedDict. Before Python 3.12 pydantic takes only those of typing_extensions, which it brings along."""
    try:
        from typing_extensions import TypedDict
    except ImportError:
        from typing import TypedDict
    return TypedDict


def _mentions_pydantic(into: Any, seen: set[int]) -> bool:
    """Whether a type is pydantic's, or has one that is."""
    if id(into) in seen:
        return False
    seen.add(id(into))
    if isinstance(into, type) and hasattr(into, "__pydantic_core_schema__"):
        return True
    if any(type(part).__module__.partition(".")[0] in ("pydantic", "annotated_types") for part in typing.get_args(into)):
        return True
    inside = list(typing.get_args(into))
    if isinstance(into, type) and (dataclasses.is_dataclass(into) or hasattr(into, "__annotations__")):
        try:
            inside += typing.get_type_hints(into, include_extras=True).values()
        except (NameError, TypeError):
            return False
    return any(_mentions_pydantic(part, seen) for part in inside)
