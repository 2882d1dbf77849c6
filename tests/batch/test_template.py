"""Text with fields of a row in it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import InvalidRequestError
from gpt.batch.template import SHOWN, Template, has, kind_of, meant

ROW = {
    "question": "Why?",
    "user": {"name": "Ann", "first name": "A", "age": 4, "tags": []},
    "items": [{"name": "cup", "price": 1.5}, [1, None], "last"],
    "user.age": "flat",
    "a:b!c": "odd",
    "braces{}": "in",
    "": "nameless",
    "yes": True,
    "nothing": None,
    "snow": "☃",
}

FILLED: list[tuple[str, str, Any]] = [
    ("", "", ROW),
    ("no field", "no field", ROW),
    ("Why?", "{question}", ROW),
    ("Q: Why? A:", "Q: {question} A:", ROW),
    ("Why?Why?", "{question}{question}", ROW),
    ("Ann", "{user.name}", ROW),
    ("A", "{user.first name}", ROW),
    ("A", '{user["first name"]}', ROW),
    ("cup", "{items[0].name}", ROW),
    ("cup", '{items[0]["name"]}', ROW),
    ("last", "{items[-1]}", ROW),
    ("null", "{items[1][1]}", ROW),
    ("flat", "{user.age}", ROW),  # a whole path that is a field's name is that field
    ("4", '{user["age"]}', ROW),  # the other one has this spelling
    ("odd", '{["a:b!c"]}', ROW),
    ("in", '{["braces{}"]}', ROW),
    ("nameless", '{[""]}', ROW),
    # Values that are no text, as compact JSON.
    ('{"name":"cup","price":1.5}', "{items[0]}", ROW),
    ("[1,null]", "{items[1]}", ROW),
    ("[]", "{user.tags}", ROW),
    ("true", "{yes}", ROW),
    ("null", "{nothing}", ROW),
    ("☃", "{snow}", ROW),
    ('["☃"]', "{a}", {"a": ["☃"]}),
    # Braces, as in str.format.
    ("{question}", "{{question}}", ROW),
    ("{Why?}", "{{{question}}}", ROW),
    ('{"a": "Why?"}', '{{"a": "{question}"}}', ROW),
    ("}{", "}}{{", ROW),
    # What a row has in it is never read as a template.
    ("{yes}", "{a}", {"a": "{yes}", "yes": "no"}),
    # Rows that are no objects.
    ("bare", "{}", "bare"),
    ("bare", "{row}", "bare"),
    ("a bare b", "a {} b", "bare"),
    ("[1,2]", "{}", [1, 2]),
    ("2", "{row[1]}", [1, 2]),
    ("7", "{}", 7),
    ("null", "{row}", None),
    ("own", "{row}", {"row": "own"}),
]


@pytest.mark.parametrize(("expected", "text", "row"), FILLED)
def test_filled(expected: str, text: str, row: Any) -> None:
    """Fields go in as texts, all else as compact JSON."""
    assert expected == Template(text).fill(row)


HINT = "for braces that belong to the text write {{ and }}"

WRONG: list[tuple[str, str]] = [
    (f"prompt: the {{ at character 2 has no other half; {HINT}", "a {"),
    (f"prompt: the {{ at character 0 has no other half; {HINT}", "{a {b}"),
    (f"prompt: the }} at character 3 has no other half; {HINT}", "{a}}"),
    (f"prompt: the }} at character 1 has no other half; {HINT}", "a}"),
    (f"prompt: {{x!r}}: there are no conversions such as !r; texts go in as they are; {HINT}", "{x!r}"),
    (f'prompt: {{x:>10}}: there are no format specs after a colon; a name with a colon is {{["name"]}}; {HINT}', "{x:>10}"),
    (f'prompt: {{"a": 1}}: there are no format specs after a colon; a name with a colon is {{["name"]}}; {HINT}', '{"a": 1}'),
    *(
        (
            f'prompt: {{{path}}}: is no path such as {{name}}, {{user.name}}, {{items[0]}} or {{["any name"]}}; {HINT}',
            f"{{{path}}}",
        )
        for path in ("a.", ".a", "a..b", "[0]", "a[b]", "a[", "a[0", "a]", "a[1.5]", "a[0]b", 'a"b"', '"a"', "a[]")
    ),
]


@pytest.mark.parametrize(("expected", "text"), WRONG)
def test_refused(expected: str, text: str) -> None:
    """What is no template is said when it is made, with the way to write it."""
    with pytest.raises(InvalidRequestError) as caught:
        Template(text)
    assert (expected, "prompt") == (caught.value.message, caught.value.param)


MISSING: list[tuple[str, str, Any]] = [
    (
        '{qestion}: the row has no field "qestion"; it has question, answer; did you mean "question"?',
        "{qestion}",
        {"question": 1, "answer": 2},
    ),
    ('{x}: the row has no field "x"; it has none', "{x}", {}),
    ('{user.x}: user has no field "x"; it has name', "{user.x}", {"user": {"name": 1}}),
    ('{a[0].b.c}: a[0].b has no field "c"; it has d', "{a[0].b.c}", {"a": [{"b": {"d": 1}}]}),
    ("{a[2]}: a has 2 items, and none at [2]", "{a[2]}", {"a": [1, 2]}),
    ("{a[-3]}: a has 2 items, and none at [-3]", "{a[-3]}", {"a": [1, 2]}),
    ('{a.b}: a is a list, which has no field "b"', "{a.b}", {"a": [1]}),
    ('{a.b}: a is a text, which has no field "b"', "{a.b}", {"a": "text"}),
    ('{a.b}: a is null, which has no field "b"', "{a.b}", {"a": None}),
    ("{a[0]}: a is a text, which has no item [0]", "{a[0]}", {"a": "text"}),
    ("{a[0]}: a is an object, which has no item [0]", "{a[0]}", {"a": {"0": 1}}),
    ("{}: stands for a row that is no object; name a field of this one; it has row", "{}", {"row": 1}),
    ("{question}: the row is a text and has no fields; {} stands for all of it", "{question}", "bare"),
    ('{row.x}: row is a number, which has no field "x"', "{row.x}", 7),
    ('{a.__class__}: a is a text, which has no field "__class__"', "{a.__class__}", {"a": "x"}),
]


@pytest.mark.parametrize(("expected", "text", "row"), MISSING)
def test_missing(expected: str, text: str, row: Any) -> None:
    """A field that is not there is named, with what there is, by the name of what the template is for."""
    with pytest.raises(InvalidRequestError) as caught:
        Template(text, param="system").fill(row)
    assert (f"system: {expected}", "system") == (caught.value.message, caught.value.param)


def test_words() -> None:
    """Many names are cut short, and a near one is found."""
    names = [f"field{number}" for number in range(SHOWN + 2)]
    assert f"it has {', '.join(names[:SHOWN])} and 2 more" == has(names)
    assert f"it has {', '.join(names[:SHOWN])}" == has(names[:SHOWN])
    assert "" == meant("zzz", names)
    assert ["an object", "a list", "a text", "true or false", "null", "a number", "a number"] == [
        kind_of(value) for value in ({}, [], "", True, None, 1, 1.5)
    ]
    assert "Template('{a}')" == repr(Template("{a}"))


NAMES = st.text(st.characters(exclude_characters='"', codec="utf-8"), max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(NAMES, PLAIN, st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_any_name(name: str, value: Any, before: str, after: str) -> None:
    """Every name without a quote can be named, between any texts, and what comes is the value: JSON reads it back."""
    text = f'{_escaped(before)}{{["{name}"]}}{_escaped(after)}'
    filled = Template(text).fill({name: value})
    assert (before, after) == (filled[: len(before)], filled[len(filled) - len(after) :])
    inside = filled[len(before) : len(filled) - len(after)]
    assert value == (inside if isinstance(value, str) else json.loads(inside))


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@given(st.text(st.sampled_from('{}ab.[]0"!:'), max_size=12), PLAIN)
def test_any_text(text: str, row: Any) -> None:
    """Whatever the text and the row: a text comes out, or the one error."""
    with suppress(InvalidRequestError):
        assert isinstance(Template(text).fill(row), str)
