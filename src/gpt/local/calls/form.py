"""How a model writes calls of tools: read off what its template makes of a conversation with calls in it. Pure.

A call, or several, in the form of a template:

    before NAME between ARGUMENTS after
    before NAME between ARGUMENTS again NAME between ARGUMENTS after

For a template that knows no tools there is a general form, in which the calls of the history become texts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from gpt.protocol.profiles import THINK


class Form(msgspec.Struct, frozen=True):
    """How calls are written; see the module's text. `again` is empty where several cannot be told apart."""

    before: str
    between: str
    again: str
    after: str

    def identified(self, call_id: str) -> Form:
        """The form with this id where it shows the call's: Mistral's does."""
        return Form(self.before.replace(_IDS[0], call_id), self.between, self.again, self.after.replace(_IDS[0], call_id))


GENERAL = Form('<tool_call>{"name": "', '", "arguments": ', '}</tool_call>\n<tool_call>{"name": "', "}</tool_call>")
"""The form for models whose template has none. Models of many makers have been trained on it or on something like it."""

Thinks = Literal["never", "may", "always"]
"""Whether a model thinks before it answers: "always" where its prompt has opened the block of thinking already."""


class Calling(msgspec.Struct, frozen=True):
    """How a model makes calls: whether its template knows tools and a system message, the form that it is held to, and whether
    it thinks before; `thinks_silent` is that where it is asked not to.
    """

    knows_tools: bool
    knows_system: bool
    form: Form
    thinks: Thinks
    thinks_silent: Thinks


Render = Callable[[list[dict[str, Any]]], str]
"""What a template makes of messages, up to where the answer begins."""


def short_id(call_id: str) -> str:
    """An id for the same call that every template takes: nine letters and digits, as Mistral's wants them."""
    return call_id if re.fullmatch("[A-Za-z0-9]{9}", call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]


_SAID = "Hello."
_NAMES = ("probe_one", "probe_two")
_VALUES = ("first value", "second value")
_IDS = ("probe0abc", "probe1abc")  # Mistral's template takes ids of nine letters and digits alone
_RESULT = "the result"


def _probe_call(place: int) -> dict[str, Any]:
    function = {"name": _NAMES[place], "arguments": json.dumps({"key": _VALUES[place]})}
    return {"id": _IDS[place], "type": "function", "function": function}


def _probe(calls: int) -> list[dict[str, Any]]:
    """A conversation with so many calls, and their results."""
    made = [_probe_call(place) for place in range(calls)]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": _RESULT} for call in made]
    return [{"role": "user", "content": _SAID}, {"role": "assistant", "content": None, "tool_calls": made}, *results]


def read_form(render: Render) -> Form | None:
    """The form that a template writes calls in; None where it is none of name and JSON, one after the other."""
    prompt = _unopened(render([{"role": "user", "content": _SAID}]))
    one = render(_probe(1))
    if not one.startswith(prompt):
        return None
    first = _parted(one[len(prompt) :], 0)
    if first is None:
        return None
    before, between, rest = first
    text = [{"role": "user", "content": _SAID}, {"role": "assistant", "content": _RESULT}, {"role": "user", "content": _SAID}]
    plain = render(text)
    _, found, ending = plain.rpartition(_RESULT)
    after = _until(rest, ending) if found else ""
    # Where nothing stands before or after, nothing tells where a call begins or ends; a name that comes twice is another form.
    if not before.strip() or not after.strip() or "probe" in between + (before + after).replace(_IDS[0], ""):
        return None
    again = ""
    of_two = _parted(render(_probe(2))[len(prompt) :], 0)
    if of_two is not None and of_two[:2] == (before, between):
        gap, found, second = of_two[2].partition(_NAMES[1])
        if found and second.startswith(between) and _IDS[0] not in before + after:
            again = gap
    return Form(before.lstrip(), between, again, after.rstrip())


def _unopened(prompt: str) -> str:
    """A prompt without the block of thinking that it may open, which no history has."""
    return re.sub(rf"{THINK[0]}\s*\Z", "", prompt)


def _parted(text: str, place: int) -> tuple[str, str, str] | None:
    """What stands before a call's name, between name and arguments, and after them."""
    before, found, rest = text.partition(_NAMES[place])
    if not found:
        return None
    value = {"key": _VALUES[place]}
    for written in (json.dumps(value), json.dumps(value, separators=(",", ":"))):
        between, found, after = rest.partition(written)
        if found and between:
            return before, between, after
    return None


def _until(rest: str, ending: str) -> str:
    """`rest` up to where an answer ends: where it goes on longest as `ending` does, which is what follows any answer."""

    def alike(place: int) -> int:
        length = 0
        for mine, other in zip(rest[place:], ending, strict=False):
            if mine != other:
                break
            length += 1
        return length

    return rest[: max(range(len(rest)), key=alike)] if rest else ""


def thinks(prompt: str, template: str) -> Thinks:
    """Whether a model thinks before it answers, by its prompt (up to where the answer begins) and its template."""
    if prompt != _unopened(prompt):
        return "always"
    return "may" if all(tag in template for tag in THINK) else "never"
