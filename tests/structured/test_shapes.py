"""Any Python type: its schema, and values through it and back; held against an independent validator."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import itertools
import typing
import uuid
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict

import attrs
import jsonschema
import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt.errors import InvalidRequestError
from gpt.structured.dialects import AZURE, GRAMMAR, PLAIN, STRICT, Dialect
from gpt.structured.shapes import shape

Made = tuple[Any, Any, Any]
"""A type, a value of it, and the value as the strict dialect has it."""

SAFE = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
NAMES = st.text("abcdefgh", min_size=1, max_size=5)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


SCALARS: st.SearchStrategy[Made] = st.one_of(
    st.integers(-(2**50), 2**50).map(lambda value: (int, value, value)),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: (float, value, value)),
    SAFE.map(lambda value: (str, value, value)),
    st.booleans().map(lambda value: (bool, value, value)),
    st.sampled_from(Colour).map(lambda value: (Colour, value, value.value)),
    st.sampled_from(["a", "b"]).map(lambda value: (Literal["a", "b"], value, value)),
    st.sampled_from([1, "b"]).map(lambda value: (Literal[1, "b"], value, value)),
    st.dates().map(lambda value: (datetime.date, value, value.isoformat())),
    st.uuids().map(lambda value: (uuid.UUID, value, str(value))),
)


def containers(inner: st.SearchStrategy[Made]) -> st.SearchStrategy[Made]:
    def paired(pair: tuple[Made, Made]) -> Made:
        (first, one, one_wire), (second, two, two_wire) = pair
        return tuple[first, second], (one, two), {"item_1": one_wire, "item_2": two_wire}

    def keyed(pair: tuple[str, Made]) -> Made:
        name, (kind, one, wire) = pair
        return dict[str, kind], {name: one}, [{"key": name, "value": wire}]

    return st.one_of(
        inner.map(lambda one: (list[one[0]], [one[1]] * 2, [one[2]] * 2)),
        inner.map(lambda one: (list[one[0]], [], [])),
        st.tuples(NAMES, inner).map(keyed),
        st.tuples(inner, inner).map(paired),
        inner.map(lambda one: (Optional[one[0]], None, None)),  # noqa: UP045 - made of a value
        inner.map(lambda one: (Optional[one[0]], one[1], one[2])),  # noqa: UP045
        st.integers(0, 9).map(lambda value: (set[int], {value}, [value])),
        classes(inner),
    )


_numbers = itertools.count()


@st.composite
def classes(draw: st.DrawFn, inner: st.SearchStrategy[Made]) -> Made:
    """A class of some kind with some fields."""
    fields = draw(st.dictionaries(NAMES, inner, min_size=1, max_size=3))
    wire = {name: one[2] for name, one in fields.items()}
    values = {name: one[1] for name, one in fields.items()}
    hints: list[tuple[str, Any]] = [(name, one[0]) for name, one in fields.items()]
    name = f"Made{next(_numbers)}"  # msgspec takes classes of one name for one
    kind = draw(st.sampled_from(["dataclass", "attrs", "struct", "typeddict", "namedtuple"]))
    if kind == "typeddict":
        return typing.TypedDict(name, dict(hints)), values, wire  # type: ignore[operator]
    if kind == "namedtuple":
        made: Any = NamedTuple(name, hints)  # type: ignore[misc]
        return made, made(**values), {f"item_{place + 1}": one for place, one in enumerate(wire.values())}
    if draw(st.booleans()):
        # A field with a default that is not given: null on the wire, the default in the value.
        hints.append(("zz", int))
        wire["zz"] = None
    if kind == "dataclass":
        spec: list[Any] = [(*hint, dataclasses.field(default=7)) if hint[0] == "zz" else hint for hint in hints]
        cls: Any = dataclasses.make_dataclass(name, spec)
    elif kind == "attrs":
        attributes: Any = {name: attrs.field(type=hint, **({"default": 7} if name == "zz" else {})) for name, hint in hints}
        cls = attrs.make_class(name, attributes)
    else:
        cls = msgspec.defstruct(name, [(*hint, 7) if hint[0] == "zz" else hint for hint in hints])
    return cls, cls(**values), wire


TYPES = st.recursive(SCALARS, containers, max_leaves=6)


@given(TYPES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip(made: Made) -> None:
    """A value, written as the dialect has it, keeps to the compiled schema by an independent validator, and comes back equal."""
    into, value, wire = made
    built = shape(into, STRICT)
    if built.compiled.wrapped:
        wire = {"value": wire}
    jsonschema.Draft202012Validator.check_schema(built.schema)
    jsonschema.Draft202012Validator(built.schema).validate(wire)
    assert value == built.read(wire)
    strict(built.schema)
    plain = shape(into, PLAIN)
    body = msgspec.json.decode(msgspec.json.encode(value))
    jsonschema.Draft202012Validator(plain.schema).validate({"value": body} if plain.compiled.wrapped else body)


def strict(schema: Any) -> None:
    """Hold the strict rules for every node."""
    if isinstance(schema, list):
        for part in schema:
            strict(part)
        return
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        assert {"$ref"} == set(schema), "a reference stands alone"
    if schema.get("type") == "object":
        assert schema["additionalProperties"] is False
        assert list(schema["properties"]) == schema["required"]
    assert not {"allOf", "oneOf", "not", "prefixItems", "uniqueItems", "default", "title", "const"} & set(schema)
    for name, part in schema.items():
        if name in ("properties", "$defs"):
            for inner in part.values():
                strict(inner)
        elif name not in ("enum", "required"):
            strict(part)


class Town(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=2, description="its name")
    people: int = pydantic.Field(ge=0, default=0)


class Country(pydantic.BaseModel):
    towns: list[Town]
    capital: Town | None = None
    codes: dict[str, int] = {}


@dataclasses.dataclass
class Node:
    name: str
    children: list[Node] = dataclasses.field(default_factory=list)
    parent: Node | None = None


@dataclasses.dataclass
class Cat:
    lives: int


@dataclasses.dataclass
class Dog:
    tricks: list[str]


class Odd:
    """A class that says nothing of what is in it."""

    def __init__(self, *anything: Any) -> None: ...


class Point(NamedTuple):
    x: int
    y: int


class Movie(TypedDict, total=False):
    title: str
    year: int


CASES: list[tuple[str, Any, Any, Any]] = [
    ("pydantic", Country, {"towns": [{"name": "Oslo", "people": None}], "capital": None, "codes": [{"key": "no", "value": 47}]},
     Country(towns=[Town(name="Oslo")], codes={"no": 47})),
    ("pydantic in a list", list[Town], {"value": [{"name": "Oslo", "people": 5}]}, [Town(name="Oslo", people=5)]),
    ("recursive", Node, {"name": "a", "children": [{"name": "b", "children": [], "parent": None}], "parent": None},
     Node("a", [Node("b")])),
    ("a union of dataclasses", Cat | Dog, {"value": {"tricks": ["sit"]}}, Dog(["sit"])),
    ("a list of a union", list[Cat | Dog], {"value": [{"lives": 9}, {"tricks": []}]}, [Cat(9), Dog([])]),
    ("scalars in a union", int | str, {"value": "x"}, "x"),
    ("a dictionary of tuples", dict[str, tuple[int, str]],
     {"value": [{"key": "a", "value": {"item_1": 1, "item_2": "x"}}]}, {"a": (1, "x")}),
    ("a named tuple", Point, {"value": {"item_1": 1, "item_2": 2}}, Point(1, 2)),
    ("fields that may be missing", Movie, {"title": "Up", "year": None}, {"title": "Up"}),
    ("anything", Any, {"value": '{"a": [1]}'}, {"a": [1]}),
    ("a dictionary of anything", dict[str, Any], {"value": [{"key": "a", "value": "[1]"}]}, {"a": [1]}),
    ("a set", set[str], {"value": ["a", "a", "b"]}, {"a", "b"}),
    ("bounds", Annotated[int, msgspec.Meta(ge=1, le=5)], {"value": 3}, 3),
    ("a JSON Schema", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"a": 5}, {"a": 5}),
    ("a JSON Schema of a list", {"type": "array", "items": {"type": "string", "minLength": 2}}, {"value": ["ab"]}, ["ab"]),
    ("allOf", {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}]}, {"a": 5}, {"a": 5}),
    ("types in a list", {"type": ["string", "null"], "minLength": 1}, {"value": None}, None),
]  # fmt: skip


@pytest.mark.parametrize(("into", "wire", "value"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_types(into: Any, wire: Any, value: Any) -> None:
    """Each kind of type: what the server is told, what it answers, and the value."""
    built = shape(into, STRICT)
    jsonschema.Draft202012Validator(built.schema).validate(wire)
    strict(built.schema)
    assert value == built.read(wire)


WRONG: list[tuple[Any, Any, str]] = [
    (Town, {"name": "x", "people": 1}, "name"),
    (Town, {"name": "Oslo", "people": -1}, "people"),
    (Cat, {"lives": "nine"}, "lives"),
    (Annotated[int, msgspec.Meta(ge=1)], {"value": 0}, ">= 1"),
    ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, {"value": ["a", "a"]}, "uniqueItems"),
    ({"type": "string", "minLength": 3}, {"value": "ab"}, "minLength 3"),
    (
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 1}}},
        {"a": "ab"},
        "a: it does not keep to maxLength",
    ),
    (dict[str, int], {"value": [{"key": "a"}]}, 'expected {"key"'),
    (dict[str, int], {"value": 5}, "expected a list of keys"),
    (tuple[int, int], {"value": {"item_1": 1}}, "missing"),
    (tuple[int, int], {"value": 5}, "expected an object of items"),
    (int, {"x": 1}, 'expected an object with "value"'),
    (int, 5, 'expected an object with "value"'),
    (Any, {"value": "{"}, "expected JSON text"),
    (Country, {"towns": [], "capital": None, "codes": 5}, "codes: expected a list"),
    (Cat | dict[str, Any], {"value": [{"key": "a", "value": "{"}]}, "expected JSON text"),
    (list[Movie], {"value": [5]}, "expected an object, got integer"),
    (list[Movie], {"value": 5}, "expected a list, got integer"),
    (list[Cat | tuple[int, int]], {"value": [{"tricks": 1}]}, "of none of the kinds"),
]


@pytest.mark.parametrize(("into", "wire", "text"), WRONG)
def test_wrong_values(into: Any, wire: Any, text: str) -> None:
    """A value that does not keep to its type is a ValueError that says where and what, also for what the dialect cannot say."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        shape(into, STRICT).read(wire)
    assert text in str(caught.value)


def deep(levels: int) -> Any:
    into: Any = int
    for level in range(levels):
        into = dataclasses.make_dataclass(f"Level{level}", [("inner", into)])
    return into


REFUSED: list[tuple[str, Any, Dialect, str]] = [
    ("levels", deep(11), STRICT, "nested deeper than 10 levels"),
    ("levels, Azure", deep(6), AZURE, "nested deeper than 5 levels"),
    ("properties", dataclasses.make_dataclass("Wide", [(f"f{n}", int) for n in range(101)]), AZURE, "more than 100 properties"),
    ("choices", Literal[tuple(f"v{n}" for n in range(1001))], STRICT, "more than 1000 values"),
    ("a long enumeration", Literal[tuple(f"{n:03}" * 25 for n in range(251))], STRICT, "251 texts has"),
    ("characters", {"type": "object", "properties": {"x" * 120_001: {"type": "string"}}}, STRICT, "more than 120000 characters"),
    ("not", {"type": "object", "properties": {"a": {"not": {}}}}, STRICT, "value.a: not, if"),
    ("false", {"type": "object", "properties": {"a": False}}, STRICT, "value.a: a schema that nothing keeps to"),
    ("a reference to nothing", {"type": "object", "properties": {"a": {"$ref": "#/$defs/X"}}}, STRICT, "$ref to 'X'"),
    ("a tuple that goes on", {"prefixItems": [{"type": "string"}], "items": {"type": "string"}}, STRICT, "goes on after"),
    ("allOf that differs", {"allOf": [{"type": "string"}, {"type": "integer"}]}, STRICT, "differ in 'type'"),
    ("no schema", Odd, STRICT, "has no JSON Schema"),
]  # fmt: skip


@pytest.mark.parametrize(("into", "dialect", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(into: Any, dialect: Dialect, text: str) -> None:
    """What the dialect cannot say, or not so much of, is refused before sending, by the field's name."""
    with pytest.raises(InvalidRequestError) as caught:
        shape(into, dialect)
    assert text in str(caught.value)


def fields(**properties: Any) -> dict[str, Any]:
    """A JSON Schema of an object with these fields, all of them required."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
NULL = {"type": "null"}

REWRITTEN: list[tuple[str, Any, Any]] = [
    ("const", {"const": "a"}, {"type": "string", "enum": ["a"]}),
    ("an enumeration of several kinds", {"enum": ["a", 1, None], "description": "d"},
     {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "integer", "enum": [1]}, {"type": "null", "enum": [None]}],
      "description": "d"}),
    ("oneOf", {"oneOf": [{"type": "string"}, {"type": "integer"}], "discriminator": {}, "description": "d"},
     {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "d"}),
    ("one of one kind", {"anyOf": [{"type": "string"}, {"type": "string", "title": "t"}]}, {"type": "string"}),
    ("a type in a list", {"type": ["string"], "default": None, "title": "t"}, {"type": "string"}),
    ("types in a list", {"type": ["string", "integer"], "minimum": 1, "pattern": "a"},
     {"anyOf": [{"type": "string", "minimum": 1, "pattern": "a"}, {"type": "integer", "minimum": 1, "pattern": "a"}]}),
    ("no type, properties", {"properties": {"a": {"type": "string"}}, "required": ["a"]}, fields(a={"type": "string"})),
    ("no type, items", {"items": {"type": "string"}}, {"type": "array", "items": {"type": "string"}}),
    ("no type, bounds", {"minimum": 1}, {"type": "number", "minimum": 1}),
    ("no type, a format", {"format": "date"}, {"type": "string", "format": "date"}),
    ("a reference with words beside it", {"$ref": "#/$defs/P", "description": "d"}, {**POINT, "description": "d"}),
    ("a union of one reference, with words", {"anyOf": [{"$ref": "#/$defs/P"}], "description": "d"},
     {"anyOf": [{"$ref": "#/$defs/P"}], "description": "d"}),
    ("allOf of a reference", {"allOf": [{"$ref": "#/$defs/P", "title": "t"}, {"required": ["x"]}]}, POINT),
    ("not unique", {"type": "array", "items": {"type": "string"}, "uniqueItems": False}, {"type": "array", "items": {"type": "string"}}),
    ("what strict mode has of texts", {"type": "string", "pattern": "^a", "format": "email"},
     {"type": "string", "pattern": "^a", "format": "email"}),
    ("what it has of numbers", {"type": "number", "multipleOf": 2, "minimum": 0, "maximum": 9, "exclusiveMinimum": -1},
     {"type": "number", "multipleOf": 2, "minimum": 0, "maximum": 9, "exclusiveMinimum": -1}),
    ("what it has of lists", {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
     {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3}),
    ("a dictionary's size and keys",
     {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2, "propertyNames": {"pattern": "a"}},
     {"type": "array", "items": fields(key={"type": "string", "pattern": "a"}, value={"type": "integer"}), "maxItems": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "expected"), [row[1:] for row in REWRITTEN], ids=[row[0] for row in REWRITTEN])
def test_rewritten(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each form that a schema may have, as strict mode has it; the order of fields stays."""
    built = shape({**fields(first={"type": "string"}, that=schema), "$defs": {"P": POINT}}, STRICT)
    assert expected == built.schema["properties"]["that"]
    assert ["first", "that"] == built.schema["required"]
    strict(built.schema)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, {"anyOf": [{"type": "string"}, {"type": "integer"}, NULL]}),
        ({"type": "string"}, {"anyOf": [{"type": "string"}, NULL]}),
        ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, NULL]}),
    ],
)
def test_what_may_be_left_out(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    """A field that is not required may be null, and is then left out, unless null is a value of its own."""
    built = shape({"type": "object", "properties": {"a": schema}}, STRICT)
    assert expected == built.schema["properties"]["a"]
    assert ({"a": None} if "null" in str(schema) else {}) == built.read({"a": None})


def test_annotations_that_cannot_be_read() -> None:
    """A class whose annotations name what only a function knows is refused, and says so."""

    class Hidden(NamedTuple):
        x: int

    @dataclasses.dataclass
    class Local:
        hidden: Hidden

    with pytest.raises(InvalidRequestError, match="an annotation of Local cannot be read.*Hidden"):
        shape(Local, STRICT)


def test_moved_keywords() -> None:
    """A keyword that the dialect refuses stands in the description; one that it has stays."""
    strict_town, grammar_town = (shape(Town, dialect).schema["properties"]["name"] for dialect in (STRICT, GRAMMAR))
    assert {"type": "string", "description": "its name; minLength: 2"} == strict_town
    assert {"type": "string", "description": "its name", "minLength": 2} == grammar_town


def test_made_once() -> None:
    """A type is compiled once for each dialect; one that cannot be a key is compiled all the same."""
    assert shape(Town, STRICT) is shape(Town, STRICT)
    assert shape(Town, STRICT) is not shape(Town, GRAMMAR)
    assert 2 == shape(Annotated[int, ["note"]], STRICT).read({"value": 2})


@pytest.mark.parametrize(("name", "expected"), [("A b/c", "A_b_c"), ("x" * 80, "x" * 64)])
def test_names(name: str, expected: str) -> None:
    """A form's name has letters, digits, _ and -, 64 at most."""
    schema = {"title": name, "type": "object", "properties": {}, "additionalProperties": False}
    assert expected == shape(schema, STRICT).name


def test_parts() -> None:
    """A part of a value is turned back as far as it has come, and nothing that is missing is wrong."""
    codes = [{"key": "no", "value": 47}, {"key": "s"}, {}]
    part = shape(Country, STRICT).part({"towns": [{"name": "O"}], "capital": None, "codes": codes})
    assert ([{"name": "O"}], {"no": 47}) == (part["towns"], part["codes"])
    assert shape(int, STRICT).part({}) is None
    assert [1] == shape(tuple[int, int], STRICT).part({"value": {"item_1": 1}})
    assert shape(Any, STRICT).part({"value": "{"}) is None
    assert [{"tricks": [1]}] == shape(list[Cat | tuple[int, int]], STRICT).part({"value": [{"tricks": [1]}]})
    live = {"lives": 1}
    assert live is shape(Cat, STRICT).part(live)
