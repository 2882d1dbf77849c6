"""The text of an answer read back as calls, in any cut; and calls in the words of the request's tools."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.errors import ServerError
from gpt.local.calls.ask import Plan
from gpt.local.calls.form import GENERAL, Form
from gpt.local.calls.grammar import Held
from gpt.local.calls.offer import Offer, offer_of
from gpt.local.calls.read import CallReader, Extent, Reader, new_id
from gpt.types import ChatRequest

LIST = Form('CALLS [{"name": "', '", "arguments": ', '}, {"name": "', "}]")
ONCE = Form('{"id": "a1", "name": "', '", "arguments": ', "", "}")


def reader(form: Form = GENERAL, *, required: bool = False, bounds: dict[str, Held] | None = None) -> CallReader:
    ids = map(str, itertools.count(1))
    return CallReader(form, bounds or {}, required=required, ids=lambda: next(ids))


def read(made: CallReader, pieces: list[str]) -> tuple[str, list[tuple[str, str, str]]]:
    """The content, and the calls as id, name and arguments."""
    content = ""
    calls: list[tuple[str, str, str]] = []
    for delta in [*map(made.feed, pieces), {"content": made.end()}]:
        content += delta.get("content", "")
        for piece in delta.get("tool_calls", ()):
            function = piece["function"]
            if "name" in function:
                assert (len(calls), "function", "") == (piece["index"], piece["type"], function["arguments"])
                calls.append((piece["id"], function["name"], ""))
            else:
                assert len(calls) - 1 == piece["index"]
                calls[-1] = (*calls[-1][:2], calls[-1][2] + function["arguments"])
    return content, calls


def one(name: str, arguments: str) -> str:
    return f"{GENERAL.before}{name}{GENERAL.between}{arguments}{GENERAL.after}"


NESTED = '{"a": {"b": ["}", "\\"]", {}]}, "c": "\\\\"}'
TEXTS: list[tuple[Form, str, str, list[tuple[str, str, str]]]] = [
    (GENERAL, "", "", []),
    (GENERAL, "hi <b>there</b>", "hi <b>there</b>", []),
    (GENERAL, "a <tool", "a <tool", []),
    (GENERAL, one("f", "{}"), "", [("1", "f", "{}")]),
    (GENERAL, one("f", NESTED), "", [("1", "f", NESTED)]),
    (GENERAL, "Let me see. " + one("f", NESTED), "Let me see. ", [("1", "f", NESTED)]),
    (GENERAL, one("f", "{}") + "\n" + one("g-1", '{"x": 1}'), "", [("1", "f", "{}"), ("2", "g-1", '{"x": 1}')]),
    (GENERAL, GENERAL.before + "f", "", []),
    (GENERAL, GENERAL.before + "f" + GENERAL.between + '{"x": "cut o', "", [("1", "f", '{"x": "cut o')]),
    (LIST, 'CALLS [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"a": []}}]', "",
     [("1", "f", "{}"), ("2", "g", '{"a": []}')]),
    (ONCE, '{"id": "a1", "name": "f", "arguments": {"a": "b"}}', "", [("1", "f", '{"a": "b"}')]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "content", "calls"), TEXTS)
def test_cut_anywhere(form: Form, text: str, content: str, calls: list[tuple[str, str, str]]) -> None:
    """The same comes of a text whole, byte by byte, and cut once at any place."""
    cuts = [[text], list(text), *([text[:place], text[place:]] for place in range(len(text)))]
    for pieces in cuts:
        assert (content, calls) == read(reader(form), pieces)


@given(st.text(alphabet='<tol_ca>{"nme: \n', max_size=60), st.integers(1, 9))
def test_content_is_whole(text: str, size: int) -> None:
    """Whatever is no call comes out as content, to the letter."""
    pieces = [text[place : place + size] for place in range(0, len(text), size)]
    content, calls = read(reader(), pieces)
    if GENERAL.before not in text:
        assert (text, []) == (content, calls)


@pytest.mark.parametrize(("text", "calls"), [("\n\n" + one("f", "{}"), [("1", "f", "{}")]), ("\n<tool", [])])
def test_required(text: str, calls: list[Any]) -> None:
    """Where a call must come, white space before it and an unfinished one are no content."""
    for pieces in ([text], list(text)):
        assert ("", calls) == read(reader(required=True), pieces)


def test_required_and_broken() -> None:
    """Text in the place of a call that must come is the engine's failure."""
    with pytest.raises(ServerError, match="form of a call"):
        reader(required=True).feed("Well, ")


BOUNDS = {"f": Held({}, 5, 3)}
CUT: list[tuple[str, bool]] = [
    ('{"a": "1234"}', False),
    ('{"a": "12345"}', True),
    (r'{"a": "1\"3\n"}', False),
    (r'{"a": "1\"3\n5"}', True),
    ('{"a": [1, 2]}', False),
    ('{"a": [1, 2, 3]}', True),
    ('{"a": 1, "b": 2, "c": 3, "d": 4}', False),
    ('{"a": [[1, 2], [{"x": 1, "y": 2}, 4]]}', False),
]


@pytest.mark.parametrize(("arguments", "is_cut"), CUT)
def test_is_cut(arguments: str, is_cut: bool) -> None:
    """A text or a list that reached a bound which only the limit of tokens had set may have been meant to go on."""
    made = reader(bounds=BOUNDS)
    made.feed(one("f", arguments) + "\n" + one("g", '{"a": "123456789"}'))
    assert is_cut == made.is_cut


def test_extent() -> None:
    """The place behind an object's end, wherever its text is cut."""
    text = NESTED + " rest"
    for place in range(len(NESTED)):
        extent = Extent()
        assert extent.feed(text[:place]) is None
        assert len(NESTED) - place == extent.feed(text[place:])


def test_ids() -> None:
    """Ids look like the hosted service's, and differ."""
    assert 100 == len({new_id() for _ in range(100)})
    assert new_id().startswith("call_")


# --------------------------------------------------------------------------------------------------------------------
# Choices
# --------------------------------------------------------------------------------------------------------------------


def offer(**fields: Any) -> Offer:
    made = offer_of(ChatRequest(messages=[], **fields))
    assert made is not None
    return made


F = {"type": "function", "function": {"name": "f"}}
C = {"type": "custom", "custom": {"name": "c"}}
HELD = Plan({}, GENERAL)


def told(made: Reader, *choices: dict[str, Any]) -> list[dict[str, Any]]:
    """What is told of the chunks' choices; what is held back is not."""
    return [choice for choice in choices if made.read(choice)]


def said(content: str | None = None, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    return {"index": 0, "delta": delta, "finish_reason": reason, **fields}


def deltas(choices: list[dict[str, Any]]) -> list[Any]:
    return [choice["delta"] for choice in choices]


def test_a_held_choice() -> None:
    """The first delta is the role with no content; calls come as calls, and the reason says so."""
    first = {"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}
    made = told(
        Reader(offer(tools=[F]), HELD), first, said(GENERAL.before + "f"), said(GENERAL.between + "{}}"), said(None, "stop")
    )
    assert {"role": "assistant", "content": None} == made[0]["delta"]
    assert ["f", "{}"] == [
        piece["function"].get("name") or piece["function"]["arguments"] for piece in made[1]["delta"]["tool_calls"]
    ]
    assert [None, None, "tool_calls"] == [choice["finish_reason"] for choice in made]


@pytest.mark.parametrize(("reason", "expected"), [("stop", "length"), ("length", "length")])
def test_a_cut_choice(reason: str, expected: str) -> None:
    """A call that was made to end by the limit of tokens says so, as one that was cut off does."""
    made = Reader(offer(tools=[F]), Plan({}, GENERAL, bounds=BOUNDS))
    assert expected == told(made, said(one("f", '{"a": "12345"}'), reason))[0]["finish_reason"]


def test_text_only() -> None:
    """An answer in words ends as any does; what could have become a call comes at the end."""
    made = told(Reader(offer(tools=[F]), HELD), said("a <tool_"), said(None, "stop"))
    assert [{"content": "a "}, {"content": "<tool_"}] == deltas(made)
    assert "stop" == made[-1]["finish_reason"]


def test_thinking() -> None:
    """Thinking before a call is told apart, whether the prompt had opened it or not."""
    text = f"so\n</think>\n\n{one('f', '{}')}"
    for opened, before in ((True, ""), (True, "<think>"), (False, "<think>")):
        choices = [*map(said, before + text), said(None, "stop")]
        made = told(Reader(offer(tools=[F], tool_choice="required"), Plan({}, GENERAL, opened)), *choices)
        assert "so\n" == "".join(delta.get("reasoning_content", "") for delta in deltas(made))
        assert not any("content" in delta for delta in deltas(made))
        assert "tool_calls" == made[-1]["finish_reason"]


def test_logprobs() -> None:
    """Log probabilities of what is held back come with what is told next."""
    token = {"token": "x", "logprob": -1.0}
    choices = [said("<tool", logprobs={"content": [token]}), said("s", logprobs={"content": [token]}), said(None, "stop")]
    made = told(Reader(offer(tools=[F]), HELD), *choices)
    assert [[token, token], None] == [(choice.get("logprobs") or {}).get("content") for choice in made]


def called(name: str, *pieces: str) -> list[dict[str, Any]]:
    """The engine's own deltas of a call."""
    first = {"index": 0, "id": "1", "type": "function", "function": {"name": name, "arguments": pieces[0]}}
    rest = [{"index": 0, "function": {"arguments": piece}} for piece in pieces[1:]]
    return [{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": None} for piece in (first, *rest)]


INPUTS: list[tuple[list[str], str]] = [
    (['{"input": "a\\n', 'b"}'], "a\nb"),
    (['{"input": "a', "b"], "ab"),
    (['{"input": "a\\u00e'], "a"),
    (["{"], ""),
    (["", '{"input": "'], ""),
]


@pytest.mark.parametrize(("pieces", "expected"), INPUTS)
@pytest.mark.parametrize("held", [True, False])
def test_custom(pieces: list[str], expected: str, held: bool) -> None:
    """A custom tool's call has its text, also where that was cut off; by whoever it was read."""
    plan = HELD if held else Plan({})
    choices = [said(GENERAL.before + "c" + GENERAL.between), *map(said, pieces)] if held else called("c", *pieces)
    made = told(Reader(offer(tools=[F, C]), plan), *choices, said(None, "length"))
    assert 1 == len(made)
    call = made[0]["delta"]["tool_calls"][0]
    assert (0, "custom", {"name": "c", "input": expected}) == (call["index"], call["type"], call["custom"])
    assert call["id"]


def test_functions() -> None:
    """A request with the deprecated `functions` is answered by a function call."""
    held = told(Reader(offer(functions=[{"name": "f"}]), HELD), said(one("f", "{}"), "stop"))
    assert [({"name": "f", "arguments": "{}"}, "function_call")] == [
        (choice["delta"]["function_call"], choice["finish_reason"]) for choice in held
    ]
    made = told(Reader(offer(functions=[{"name": "f"}]), Plan({})), *called("f", "", "{", "}"), said(None, "tool_calls"))
    assert [{"name": "f", "arguments": ""}, {"arguments": "{"}, {"arguments": "}"}] == [
        choice["delta"]["function_call"] for choice in made[:-1]
    ]
    assert "function_call" == made[-1]["finish_reason"]


def test_the_engines_calls() -> None:
    """Calls that the engine has read pass as they are."""
    choices = called("f", "{", "}")
    before = [dict(choice["delta"]) for choice in choices]
    made = told(Reader(offer(tools=[F]), Plan({})), *choices, said(None, "tool_calls"))
    assert before == deltas(made)[:-1]
    assert "tool_calls" == made[-1]["finish_reason"]


def test_one_call_of_the_engines() -> None:
    """Where one call is allowed, what the engine reads as a second is not told."""
    pieces = [
        {"index": place, "id": str(place), "type": "function", "function": {"name": "f", "arguments": "{}"}} for place in (0, 1)
    ]
    for parallel, expected in ((True, ["0", "1"]), (False, ["0"])):
        choices = [{"index": 0, "delta": {"tool_calls": [dict(piece)]}, "finish_reason": None} for piece in pieces]
        both = {"index": 0, "delta": {"tool_calls": [dict(piece) for piece in pieces]}, "finish_reason": "tool_calls"}
        for rows in ([*choices, said(None, "tool_calls")], [both]):
            made = told(Reader(offer(tools=[F], parallel_tool_calls=parallel), Plan({})), *rows)
            assert expected == [piece["id"] for delta in deltas(made) for piece in delta.get("tool_calls", ())]
            assert "tool_calls" == made[-1]["finish_reason"]
