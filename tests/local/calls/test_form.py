"""How a template writes calls, read off what it makes of conversations."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gpt.local.calls.form import Form, read_form, short_id, thinks

Write = Callable[[list[dict[str, Any]]], str]


def rendered(write: Write, *, opening: str = "", end: str = "</s>\n") -> Callable[[list[dict[str, Any]]], str]:
    """A template that writes calls with `write`."""

    def render(messages: list[dict[str, Any]]) -> str:
        made = ""
        for message in messages:
            calls = [{"id": call["id"], **call["function"]} for call in message.get("tool_calls", ())]
            made += f"<{message['role']}>" + (message["content"] or "") + (write(calls) if calls else "") + end
        return made + "<assistant>" + opening

    return render


def each(pattern: str, between: str = "") -> Write:
    def write(calls: list[dict[str, Any]]) -> str:
        return between.join(
            pattern.replace("@N", call["name"]).replace("@A", call["arguments"]).replace("@I", call["id"]) for call in calls
        )

    return write


def compact(write: Write) -> Write:
    def written(calls: list[dict[str, Any]]) -> str:
        for call in calls:
            call["arguments"] = json.dumps(json.loads(call["arguments"]), separators=(",", ":"))
        return write(calls)

    return written


def listed(write: Write) -> Write:
    return lambda calls: "CALLS[" + write(calls) + "]"


TAGS = '\n<call>\n{"name": "@N", "arguments": @A}\n</call>'
FORMS: list[tuple[Write, Form | None]] = [
    (each(TAGS), Form('<call>\n{"name": "', '", "arguments": ', '}\n</call>\n<call>\n{"name": "', "}\n</call>")),
    (compact(each(TAGS)), Form('<call>\n{"name": "', '", "arguments": ', '}\n</call>\n<call>\n{"name": "', "}\n</call>")),
    (each('{"name": "@N", "parameters": @A}', "; "), Form('{"name": "', '", "parameters": ', '}; {"name": "', "}")),
    (each("@N: @A"), None),  # nothing tells where it begins, nor where it ends
    (each("@N: @A;"), None),
    (each("call @N: @A\n"), None),
    (listed(each('{"n": "@N", "a": @A}', ", ")), Form('CALLS[{"n": "', '", "a": ', '}, {"n": "', "}]")),
    (each('{"id": "@I", "name": "@N", "arguments": @A}'), Form('{"id": "probe0abc", "name": "', '", "arguments": ', "", "}")),
    (each('{"name": "@N", "arguments": @A, "id": "@I"}'), Form('{"name": "', '", "arguments": ', "", ', "id": "probe0abc"}')),
    (each("<@N id=@I>@A</@N>"), None),  # the name, and the id, where no grammar puts them
    (each("<@N><key>first value</key></@N>"), None),
    (each("@A @N"), None),
    (each(""), None),
]


@pytest.mark.parametrize(("write", "expected"), FORMS)
@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_form(write: Write, expected: Form | None, opening: str) -> None:
    """Name and JSON, one after the other, are a form; anything else is none. A block of thinking may be open before it."""
    assert expected == read_form(rendered(write, opening=opening))


def test_one_call_alone() -> None:
    """A template that refuses two calls at once has a form for one."""
    render = rendered(each(TAGS))

    def refuses(messages: list[dict[str, Any]]) -> str:
        return "" if any(len(message.get("tool_calls", ())) > 1 for message in messages) else render(messages)

    assert Form('<call>\n{"name": "', '", "arguments": ', "", "}\n</call>") == read_form(refuses)


def test_templates_that_refuse() -> None:
    """A template that makes nothing of calls has no form."""
    assert read_form(lambda messages: "" if len(messages) > 1 else "hi") is None
    assert read_form(lambda _: "") is None


def test_identified() -> None:
    """Where the form shows the call's id, each call is written with its own."""
    form = Form('{"id": "probe0abc", "name": "', ": ", "", "}").identified("123456789")
    assert Form('{"id": "123456789", "name": "', ": ", "", "}") == form


@pytest.mark.parametrize(
    ("call_id", "same"), [("abcDEF123", True), ("call_1", False), ("", False), ("abc-EF123", False), ("a" * 40, False)]
)
def test_short_id(call_id: str, same: bool) -> None:
    """An id of nine letters and digits stays; of another one the same nine are made each time."""
    made = short_id(call_id)
    assert (9, True) == (len(made), made.isalnum())
    assert same == (made == call_id)
    assert made == short_id(call_id)


@pytest.mark.parametrize(
    ("prompt", "template", "expected"),
    [
        ("<assistant>", "", "never"),
        ("<assistant>", "{{ '<think>' }} {{ '</think>' }}", "may"),
        ("<assistant><think>", "", "always"),
        ("<assistant><think>\n", "<think></think>", "always"),
        ("<assistant><think>\n\n</think>\n\n", "<think></think>", "may"),
    ],
)
def test_thinks(prompt: str, template: str, expected: str) -> None:
    """A model whose prompt opens a block of thinking thinks always; one whose template knows the tags may."""
    assert expected == thinks(prompt, template)
