"""A JSON Schema as what the engine holds a model to. The engine itself is asked in tests/local/test_tools.py."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.errors import UnsupportedParameterError
from gpt.local.calls.grammar import FINEST, HEADER, LARGEST, held, pattern, quoted

TEXT = {"type": "string"}
WHOLE = {"minimum": -LARGEST, "maximum": LARGEST}

# Of an answer of 800 tokens 600 are for texts without a bound, a token a character, and for lists; half each where both are.
NARROWED: list[tuple[Any, Any]] = [
    (TEXT, {"type": "string", "maxLength": 600}),
    ({"type": "string", "maxLength": 5}, {"type": "string", "maxLength": 5}),
    ({"type": "string", "maxLength": 99_999}, {"type": "string", "maxLength": 600}),
    ({"type": "string", "minLength": 9_999}, {"type": "string", "minLength": 9_999, "maxLength": 10_000}),
    ({"type": "string", "enum": ["a"]}, {"type": "string", "enum": ["a"]}),
    ({"const": "a"}, {"const": "a"}),
    ({"type": "string", "pattern": "^a+$"}, {"type": "string", "pattern": "^a+$", "maxLength": 600}),
    ({"type": "string", "format": "date"}, {"type": "string", "format": "date", "maxLength": 10}),
    ({"type": "string", "format": "iban"}, {"type": "string", "maxLength": 600}),
    ({"type": ["string", "null"]}, {"type": ["string", "null"], "maxLength": 600}),
    ({"type": "integer"}, {"type": "integer", **WHOLE}),
    ({"type": "integer", "minimum": 3}, {"type": "integer", "minimum": 3, "maximum": LARGEST}),
    ({"type": "integer", "minimum": 2**60}, {"type": "integer", "minimum": 2**60, "maximum": 2**60}),
    ({"type": "integer", "exclusiveMaximum": 0}, {"type": "integer", "exclusiveMaximum": 0, "minimum": -LARGEST}),
    ({"type": "number"}, {"type": "number", **WHOLE, "multipleOf": FINEST}),
    ({"type": "number", "multipleOf": 0.5}, {"type": "number", **WHOLE, "multipleOf": 0.5}),
    ({"type": "number", "minimum": 0, "maximum": 1e-7}, {"type": "number", "minimum": 0, "maximum": 1e-7}),
    ({"type": "number", "minimum": 0, "exclusiveMinimum": True},
     {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": LARGEST, "multipleOf": FINEST}),
    ({"type": "array", "items": {"type": "boolean"}}, {"type": "array", "items": {"type": "boolean"}, "maxItems": 300}),
    ({"type": "array", "minItems": 200}, {"type": "array", "minItems": 200, "maxItems": 201}),
    ({"type": "array", "prefixItems": [TEXT], "items": False},
     {"type": "array", "prefixItems": [{"type": "string", "maxLength": 600}], "items": False}),
    ({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1}, "uniqueItems": True},
     {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1}, "maxItems": 100}),
    ({"type": "object", "properties": {"a": {"type": "null"}}},
     {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": False}),
    ({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "null"}},
     {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "null"}}),
    ({"type": "object", "additionalProperties": {"type": "null"}},
     {"type": "object", "patternProperties": {"^.{1,64}$": {"type": "null"}}, "additionalProperties": False, "maxProperties": 60}),
    ({"type": "object"},
     {"type": "object", "patternProperties": {"^.{1,64}$": True}, "additionalProperties": False, "maxProperties": 37}),
    ({"type": "object", "patternProperties": {"^a": {"type": "null"}}},
     {"type": "object", "patternProperties": {"^a": {"type": "null"}}, "maxProperties": 37}),
    ({"type": "object", "properties": {}, "additionalProperties": False},
     {"type": "object", "properties": {}, "additionalProperties": False}),
    ({"anyOf": [TEXT, {"$ref": "#/$defs/T"}], "$defs": {"T": TEXT}},
     {"anyOf": [{"type": "string", "maxLength": 600}, {"$ref": "#/$defs/T"}],
      "$defs": {"T": {"type": "string", "maxLength": 600}}}),
    # Parts of one object stay open for each other.
    ({"allOf": [{"type": "object", "properties": {"a": {"type": "null"}}}, {"type": "object", "properties": {"b": {}}}]},
     {"allOf": [{"type": "object", "properties": {"a": {"type": "null"}}}, {"type": "object", "properties": {"b": {}}}]}),
    (True, True),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "expected"), NARROWED)
def test_narrowed(schema: Any, expected: Any) -> None:
    """What is without a bound gets one, and what has one keeps it."""
    whole = {"properties": {"x": schema}}
    before = json.dumps(whole)
    assert expected == held(whole, 800, path="p").schema["properties"]["x"]
    assert before == json.dumps(whole)


LEAVES = st.sampled_from([
    TEXT, {"type": "integer"}, {"type": "number", "minimum": 0, "maximum": 1}, {"enum": ["a", 1, None]}, {"type": "boolean"},
    {"type": "string", "format": "date"}, {"type": "string", "minLength": 2, "maxLength": 9}, {"type": ["integer", "null"]},
])  # fmt: skip
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda one, most: {"type": "array", "items": one, "maxItems": most}, inner, st.integers(0, 5)),
        st.builds(lambda one: {"type": "array", "items": one, "uniqueItems": True}, inner),
        st.builds(
            lambda parts: {"type": "object", "properties": parts, "required": sorted(parts)[:1]},
            st.dictionaries(st.sampled_from("abc"), inner),
        ),
        st.builds(lambda one: {"type": "object", "additionalProperties": one}, inner),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
        st.builds(lambda one, other: {"allOf": [one, other]}, inner, inner),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 2**53, "a", "abc", "x" * 70, "2024-01-31"])),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.sampled_from("abcd"), inner)),
    max_leaves=6,
)


@given(SCHEMAS, VALUES)
def test_never_wider(schema: dict[str, Any], value: Any) -> None:
    """What keeps to the narrowed schema keeps to the given one, but for what no grammar can say."""
    narrowed = held(schema, 20, path="p").schema
    if not jsonschema.Draft202012Validator(narrowed).is_valid(value):
        return
    wrong = [error.validator for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]
    assert {"uniqueItems", "anyOf", "allOf"} >= set(wrong)
    if "uniqueItems" not in json.dumps(schema):
        assert [] == wrong


def test_bounds() -> None:
    """The bounds are told, above all that the schema itself asks for; so what it asks for is never taken for cut."""
    assert (75, 2) == ((one := held(TEXT, 100, path="p")).characters, one.items)
    long = {
        "properties": {"a": {"const": "x" * 400}, "b": {"type": "array", "minItems": 30}, "c": {"enum": [None, ["y" * 500]]}}
    }
    made = held(long, 100, path="p")
    assert (505, 31) == (made.characters, made.items)
    assert 3 == held({"type": "array", "prefixItems": [True, True]}, 1, path="p").items


LISTS: list[tuple[Any, int, int]] = [  # an item, the characters of a text and the items of a list, of 800 tokens
    ({"type": "integer"}, 600, 100),
    ({"type": "string"}, 75, 25),
    ({"type": "string", "maxLength": 3}, 75, 100),
    ({"type": "object", "properties": {"x": {"type": "number"}, "name": {"type": "string"}}}, 75, 8),
    ({"$ref": "#/$defs/Node"}, 75, 9),
    ({"type": "array", "items": {"type": "boolean"}}, 600, 60),
    ({"anyOf": [{"type": "boolean"}, {"type": "string", "format": "uuid"}]}, 600, 15),
    ({}, 600, 75),
]


@pytest.mark.parametrize(("item", "characters", "items"), LISTS)
def test_lists_share_the_tokens(item: Any, characters: int, items: int) -> None:
    """A list may have as many items as fit into three quarters of the answer; a text in it has a part of the characters."""
    node = {"type": "object", "properties": {"text": TEXT, "next": {"$ref": "#/$defs/Node"}}}
    made = held({"type": "array", "items": item, "$defs": {"Node": node}}, 800, path="p")
    assert (characters, items) == (made.characters, made.items)


UNHELD: list[tuple[dict[str, Any], str]] = [
    ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, "p.properties.a.uniqueItems"),
    ({"not": {}}, "p.not"),
    ({"anyOf": [{"type": "integer"}, {"if": {}}]}, "p.anyOf[1].if"),
    ({"$defs": {"A": {"items": {"format": "iban"}}}}, "p.$defs.A.items.format"),
    ({"patternProperties": {"^a": {"contains": {}}}}, "p.patternProperties.^a.contains"),
]


@pytest.mark.parametrize(("schema", "path"), UNHELD)
def test_strict(schema: dict[str, Any], path: str) -> None:
    """What no grammar can hold a model to is refused by its path where the tool is strict, and passed over where it is not."""
    held(schema, 100, path="p")
    with pytest.raises(UnsupportedParameterError, match="no grammar|is none of") as caught:
        held(schema, 100, path="p", strict=True)
    assert path == caught.value.param


def test_rules() -> None:
    """A schema is a rule of a grammar; a trial asks for one mark before it."""
    one = held({"type": "boolean"}, 10, path="p")
    assert one.rule.startswith("%json {")
    assert f'{HEADER}start: "#" value\nvalue: {one.rule}\n' == one.trial


@pytest.mark.parametrize(
    ("text", "literal", "expression"),
    [
        ('<a>{"b": ', r'"<a>{\"b\": "', r"<a>\{\"b\"\: "),
        ("a/b\n[x]", r'"a/b\n[x]"', r"a\/b\n\[x\]"),
        ("é.", '"é."', r"é\."),
    ],
)
def test_texts(text: str, literal: str, expression: str) -> None:
    """Any text is a literal of a grammar, and a part of a regular expression."""
    assert literal == quoted(text)
    assert expression == pattern(text)


def test_little_room() -> None:
    """With few tokens left a text with a pattern can still be what it must be: the answer is then cut off."""
    made = held({"properties": {"a": {"type": "string", "pattern": "^[a-c]{2,5}$"}, "b": TEXT}}, 1, path="p")
    assert [256, 1] == [part["maxLength"] for part in made.schema["properties"].values()]
