"""What is asked of each row, and what is written of each answer."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt import (
    UNSET,
    ChatCompletion,
    ChatRequest,
    ConnectError,
    FunctionDefinition,
    FunctionTool,
    Gpt,
    GptError,
    InvalidRequestError,
    LengthFinishError,
    MalformedResponseError,
    ParseError,
    RateLimitError,
    ServerError,
    SystemMessage,
    Usage,
    UserMessage,
)
from gpt.batch.jobs import Asked, Output, Task, answered, asked, failed, read_output, took
from gpt.batch.progress import Facts
from gpt.batch.rows import Row
from gpt.prices import CACHED, Cost
from gpt.protocol.codec import decode_completion, encode_request
from gpt.protocol.wire import Headers, ResponseInfo
from gpt.structured.dialects import PLAIN as PLAIN_DIALECT
from gpt.structured.parse import Parsed
from gpt.structured.shapes import shape
from gpt.testing import Fault, no_waiting, serve

HELLO = [{"role": "user", "content": "Hello"}]
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": HELLO}}


def row(value: Any, number: int = 12) -> Row:
    return Row(number, value, 0)


def sent(request: ChatRequest) -> dict[str, Any]:
    """A request as plain values, as it goes out."""
    made: dict[str, Any] = json.loads(encode_request(request))
    return made


# --------------------------------------------------------------------------------------------------------------------
# What is asked
# --------------------------------------------------------------------------------------------------------------------

QUESTION = {"id": 7, "question": "Why?", "n": 2}
SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


ASKED: list[tuple[dict[str, Any], Any, Any, dict[str, Any], Any]] = [
    # What goes out, the row's name, what is kept of it; the task, the row.
    # A text.
    ({"messages": [user("Why?")]}, None, None, {}, "Why?"),
    ({"messages": [SYSTEM, user("Why?")]}, None, None, {"system": "Be brief."}, "Why?"),
    ({"messages": [user("Why?")]}, None, {"row": "Why?"}, {"keep": ("*",)}, "Why?"),
    ({"messages": [user("Q: Why?")]}, None, {"row": "Why?"}, {"prompt": "Q: {}"}, "Why?"),
    ({"messages": [user("Q: Why?")]}, None, {"row": "Why?"}, {"prompt": "Q: {row}", "keep": ("row",)}, "Why?"),
    ({"messages": [user("7")]}, None, {"row": 7}, {"prompt": "{}"}, 7),
    # A list of messages.
    ({"messages": HELLO}, None, None, {}, HELLO),
    ({"messages": [SYSTEM, *HELLO]}, None, None, {"system": "Be brief."}, HELLO),
    # A row that is filled in.
    ({"messages": [user("Q: Why? 2")]}, 7, QUESTION, {"prompt": "Q: {question} {n}"}, QUESTION),
    ({"messages": [user("Why?")]}, 7, None, {"prompt": "{question}", "keep": ()}, QUESTION),
    ({"messages": [user("Why?")]}, 7, {"n": 2}, {"prompt": "{question}", "keep": ("n",)}, QUESTION),
    ({"messages": [user("Why?")]}, 7, QUESTION, {"prompt": "{question}", "keep": ("*", "x")}, QUESTION),
    ({"messages": [user("Why?")]}, 7, {"n": 2}, {"prompt": "{question}", "keep": ["n"]}, QUESTION),
    (
        {"messages": [{"role": "system", "content": "As 7."}, user("Why?")]},
        7,
        QUESTION,
        {"prompt": "{question}", "system": "As {id}."},
        QUESTION,
    ),
    # With a template set, a request is filled in too.
    ({"messages": [user("Hello")]}, None, {"messages": HELLO}, {"prompt": "{messages[0].content}"}, {"messages": HELLO}),
    # A request. Its id is for who reads the file; what the protocol does not know is sent, but what is kept.
    ({"messages": HELLO}, None, None, {}, {"messages": HELLO}),
    ({"messages": HELLO, "temperature": 0}, "x", None, {}, {"id": "x", "messages": HELLO, "temperature": 0}),
    ({"messages": HELLO}, "c", None, {}, {"id": "x", "custom_id": "c", "messages": HELLO}),
    ({"messages": HELLO}, None, None, {}, {"id": True, "messages": HELLO}),
    ({"messages": HELLO}, None, None, {}, {"id": ["x"], "messages": HELLO}),
    ({"messages": HELLO, "top_k": 5, "stream": False}, None, None, {}, {"messages": HELLO, "top_k": 5, "stream": False}),
    ({"messages": HELLO, "top_k": 5}, None, {"a": 1}, {"keep": ("a",)}, {"messages": HELLO, "top_k": 5, "a": 1}),
    ({"messages": [SYSTEM, *HELLO]}, None, None, {"system": "Be brief."}, {"messages": HELLO}),
    ({"messages": [user("Hello")]}, None, None, {}, {"messages": "Hello"}),
    # A line of a batch file.
    ({"messages": HELLO}, "a", None, {}, LINE),
    ({"messages": HELLO}, "a", None, {}, LINE | {"url": "https://host/v1/chat/completions/", "method": "post"}),
    ({"messages": HELLO}, "a", {"url": "/v1/chat/completions"}, {"keep": ("url",)}, LINE),
    ({"messages": [SYSTEM, *HELLO]}, "a", None, {"system": "Be brief."}, LINE),
    # Parameters and the model go over what rows say.
    ({"model": "m", "messages": [user("Why?")], "top_p": 0.5}, None, None, {"model": "m", "params": {"top_p": 0.5}}, "Why?"),
    (
        {"model": "m", "messages": HELLO, "top_p": 0.5, "seed": 1},
        None,
        None,
        {"model": "m", "params": {"top_p": 0.5}},
        {"model": "r", "messages": HELLO, "top_p": 1, "seed": 1},
    ),
    (
        {"messages": HELLO, "top_k": 1, "min_p": 2, "best_of": 3},
        None,
        None,
        {"params": {"body": {"top_k": 1, "min_p": 2}}},
        {"messages": HELLO, "top_k": 5, "best_of": 3},
    ),
    ({"messages": HELLO, "seed": 1}, None, None, {"params": {"seed": 1, "stop": UNSET, "stream": False, "body": None}}, HELLO),
    ({"messages": HELLO, "stop": ["a", "b"]}, None, None, {"params": {"stop": (one for one in "ab")}}, HELLO),
]


@pytest.mark.parametrize(("expected", "name", "kept", "task", "value"), ASKED)
def test_asked(expected: dict[str, Any], name: Any, kept: Any, task: dict[str, Any], value: Any) -> None:
    """Each kind of row becomes its request; the row itself stays what it was."""
    before = json.dumps(value)
    what = asked(Task(**task), row(value))
    assert (expected, name, kept) == (sent(what.request), what.id, what.kept)
    assert before == json.dumps(value)


FUNCTIONS: list[tuple[dict[str, Any], Callable[[Any], Any]]] = [
    ({"messages": [user("Why?")]}, lambda row: row["question"]),
    ({"messages": [user("Why?")]}, lambda row: [UserMessage(row["question"])]),
    ({"messages": [user("Why?")]}, lambda row: (UserMessage(one) for one in [row["question"]])),
    ({"messages": [user("Why?")], "n": 2}, lambda row: {"messages": [user(row["question"])], "n": row["n"]}),
    ({"messages": HELLO, "question": "Why?", "n": 2}, lambda row: row | {"messages": HELLO}),  # its id is not sent
    ({"messages": HELLO, "seed": 1}, lambda row: ChatRequest(messages=iter(HELLO), seed=1)),
    ({"messages": HELLO, "top_k": 1}, lambda row: ChatRequest(messages=HELLO, extra={"top_k": 1})),
]


@pytest.mark.parametrize(("expected", "function"), FUNCTIONS)
def test_function(expected: dict[str, Any], function: Callable[[Any], Any]) -> None:
    """A function may give a text, messages or a request; the row is kept, and parameters go over it."""
    what = asked(Task(prompt=function, params={"seed": 3, "body": {"min_p": 2}}), row(QUESTION))
    assert expected | {"seed": 3, "min_p": 2} == sent(what.request)
    assert (7, QUESTION) == (what.id, what.kept)


def _raises(error: Exception) -> Callable[[Any], Any]:
    def function(_: Any) -> Any:
        raise error

    return function


def _raises_late(_: Any) -> Any:
    yield UserMessage("one")
    raise KeyError("two")


NOT_ASKED: list[tuple[str, str | None, dict[str, Any], Any]] = [
    # A line of a batch file.
    (
        "method: missing; a line of a batch file has custom_id, method, url and body",
        "method",
        {},
        {"custom_id": "a", "url": "u", "body": {}},
    ),
    (
        "custom_id: expected a text, got a number; a line of a batch file has custom_id, method, url and body",
        "custom_id",
        {},
        LINE | {"custom_id": 1},
    ),
    ("method: expected POST, got GET", "method", {}, LINE | {"method": "GET"}),
    (
        "url: only /v1/chat/completions is asked here, and the line is for /v1/embeddings",
        "url",
        {},
        LINE | {"url": "/v1/embeddings"},
    ),
    ("body: expected an object, got a list", "body", {}, LINE | {"body": []}),
    ("messages: missing; a request needs them", "messages", {}, LINE | {"body": {}}),
    ("messages: missing; a single message: put it in a list", "messages", {}, LINE | {"body": HELLO[0]}),
    ("stream: a batch gives whole answers", "stream", {}, LINE | {"body": {"messages": HELLO, "stream": True}}),
    # A request.
    ("stream: a batch gives whole answers", "stream", {}, {"messages": HELLO, "stream": True}),
    ("messages: expected a list of messages, got int", "messages", {}, {"messages": 7}),
    ('messages: the row is a single message; a request is {"messages": [...]}', "messages", {}, HELLO[0]),
    # An object that nothing is made of.
    (
        'messages: the row has none, and there is no prompt to fill it into, such as "{question}" (prompt=, or -p); it has n, question',
        "messages",
        {},
        {"n": "a", "question": "Why?"},
    ),
    (
        'messages: the row has none, and there is no prompt to fill it into, such as "{a}" (prompt=, or -p); it has a, n',
        "messages",
        {},
        {"a": "x", "n": 1},
    ),
    (
        'messages: the row has none, and there is no prompt to fill it into, such as "{...}" (prompt=, or -p); it has a, b',
        "messages",
        {},
        {"a": "x", "b": "y"},
    ),
    (
        'messages: the row has none, and there is no prompt to fill it into, such as "{...}" (prompt=, or -p); it has none',
        "messages",
        {},
        {},
    ),
    (
        'messages: the row has none, and there is no prompt to fill it into, such as "{...}" (prompt=, or -p); it has message; did you mean "message"?',
        "messages",
        {},
        {"message": HELLO},
    ),
    # Fields that a line of a batch file has too.
    *(
        (
            f'messages: the row has none, and there is no prompt to fill it into, such as "{{{name}}}" (prompt=, or -p); it has {name}',
            "messages",
            {},
            {name: "x"},
        )
        for name in ("body", "url")
    ),
    ("rows: the row is a number; a row is a text, a request or an object with fields for a prompt", "rows", {}, 7),
    ("rows: the row is null; a row is a text, a request or an object with fields for a prompt", "rows", {}, None),
    # Templates.
    ('prompt: {x}: the row has no field "x"; it has a', "prompt", {"prompt": "{x}"}, {"a": 1}),
    ('system: {x}: the row has no field "x"; it has a', "system", {"prompt": "{a}", "system": "{x}"}, {"a": 1}),
    (
        "system: the row's messages begin with a system message of their own; leave one of the two out",
        "system",
        {"system": "x"},
        [SYSTEM],
    ),
    (
        "system: the row's messages begin with a developer message of their own; leave one of the two out",
        "system",
        {"system": "x"},
        {"messages": [{"role": "developer", "content": "x"}]},
    ),
    (
        "system: the row's messages begin with a system message of their own; leave one of the two out",
        "system",
        {"system": "x", "prompt": lambda _: [SystemMessage("y")]},
        "z",
    ),
    (
        'keep: the row has no field "nme"; it has name, a; did you mean "name"?',
        "keep",
        {"prompt": "{a}", "keep": ("nme",)},
        {"name": 1, "a": 2},
    ),
    # Functions.
    ("prompt: the function raised KeyError: 'x'", "prompt", {"prompt": lambda row: row["x"]}, {"a": 1}),
    ("prompt: the function raised KeyError: 'two'", "prompt", {"prompt": _raises_late}, {"a": 1}),
    ("prompt: the function gave int; expected a text, messages or a request", "prompt", {"prompt": len}, "abc"),
    ("prompt: the function gave bytes; expected a text, messages or a request", "prompt", {"prompt": lambda _: b"x"}, "abc"),
    (
        "prompt: the function gave UserMessage; expected a text, messages or a request",
        "prompt",
        {"prompt": lambda _: UserMessage("x")},
        "abc",
    ),
    ("messages: missing; a request needs them", "messages", {"prompt": lambda _: {}}, "abc"),
    ("stream: a batch gives whole answers", "stream", {"prompt": lambda _: ChatRequest(messages=HELLO, stream=True)}, "abc"),
    (
        "stream: a batch gives whole answers",
        "stream",
        {"prompt": lambda _: ChatRequest(messages=HELLO, extra={"stream": 1})},
        "abc",
    ),
    ("its own words", "its", {"prompt": _raises(InvalidRequestError("its own words", param="its"))}, "abc"),
]


@pytest.mark.parametrize(("expected", "param", "task", "value"), NOT_ASKED)
def test_not_asked(expected: str, param: str | None, task: dict[str, Any], value: Any) -> None:
    """What nothing can be asked of is told by its field, with what to do; nothing is sent, and a row of output tells it."""
    made = Task(**task)
    with pytest.raises(InvalidRequestError) as caught:
        asked(made, row(value))
    assert (expected, param) == (caught.value.message, caught.value.param)
    out = read_output(failed(made, row(value), None, caught.value))
    assert (12, expected) == (out.row, out.error and out.error["message"])


def test_function_error() -> None:
    """What a function raises is the cause; an error of ours is raised as it is, because it may be worth trying again."""
    cause = ZeroDivisionError("x")
    with pytest.raises(InvalidRequestError) as caught:
        asked(Task(prompt=_raises(cause)), row("a"))
    assert cause is caught.value.__cause__
    error = RateLimitError("later", 429)
    with pytest.raises(RateLimitError) as other:
        asked(Task(prompt=_raises(error)), row("a"))
    assert error is other.value


def test_problem() -> None:
    """A row that could not be read is an error in its own words, and of it nothing is kept."""
    bad = Row(3, None, 0, "not JSON: expected a value at byte 17")
    task = Task(prompt="{a}", keep=("*",))
    with pytest.raises(InvalidRequestError, match="^not JSON: expected a value at byte 17$") as caught:
        asked(task, bad)
    assert {
        "row": 3,
        "text": None,
        "error": {"type": "InvalidRequestError", "message": "not JSON: expected a value at byte 17", "fault": "caller"},
    } == json.loads(failed(task, bad, None, caught.value))
    line = json.loads(failed(Task(output="batch"), bad, None, caught.value))
    assert ("batch_req_000000000003", "row-3") == (line["id"], line["custom_id"])


# --------------------------------------------------------------------------------------------------------------------
# Tasks
# --------------------------------------------------------------------------------------------------------------------


async def _async_prompt(row: Any) -> str:  # noqa: RUF029
    return str(row)


WRONG: list[tuple[str, str, dict[str, Any]]] = [
    ("model: expected a text, got 7", "model", {"model": 7}),
    ("model: expected a text, got ' '", "model", {"model": " "}),
    ("system: expected a text, got []", "system", {"system": []}),
    ("prompt: expected a template or a function, got int", "prompt", {"prompt": 7}),
    ('prompt: is empty; a template is text with fields of the row in it, such as "{question}"', "prompt", {"prompt": " "}),
    (
        "prompt: is an async function; a row is made a request where nothing waits: give a plain one",
        "prompt",
        {"prompt": _async_prompt},
    ),
    (
        "prompt: the { at character 0 has no other half; for braces that belong to the text write {{ and }}",
        "prompt",
        {"prompt": "{"},
    ),
    (
        "system: the } at character 0 has no other half; for braces that belong to the text write {{ and }}",
        "system",
        {"system": "}"},
    ),
    ("params: expected a dict, got list", "params", {"params": []}),
    (
        'temprature: is no parameter; to send it all the same, give params={"body": {\'temprature\': ...}}; did you mean "temperature"?',
        "temprature",
        {"params": {"temprature": 1}},
    ),
    (
        'top_k: is no parameter; to send it all the same, give params={"body": {\'top_k\': ...}}; did you mean "top_p"?',
        "top_k",
        {"params": {"top_k": 1}},
    ),
    ('1: is no parameter; to send it all the same, give params={"body": {1: ...}}', "1", {"params": {1: 1}}),
    ("messages: rows, prompt= and system= say what is asked, not params", "messages", {"params": {"messages": []}}),
    ("messages: rows, prompt= and system= say what is asked, not body", "messages", {"params": {"body": {"messages": []}}}),
    ("model: has its own place: model=, beside params", "model", {"params": {"model": "m"}}),
    (
        "timeout: says how calls are made, which is the client's to know: Gpt(...), or with_options(...)",
        "timeout",
        {"params": {"timeout": 1}},
    ),
    ("stream: a batch gives whole answers", "stream", {"params": {"stream": True}}),
    ("stream: a batch gives whole answers", "stream", {"params": {"body": {"stream": True}}}),
    ("body: expected a dict, got list", "body", {"params": {"body": [1]}}),
    ("temperature: expected float | null, got str", "temperature", {"params": {"temperature": "hot"}}),
    ("temperature: cannot be sent as JSON: nan is no number", "temperature", {"params": {"temperature": float("nan")}}),
    (
        "response_format: into= says already what form the answer has",
        "response_format",
        {"into": int, "params": {"response_format": {"type": "text"}}},
    ),
    (
        "response_format: into= says already what form the answer has",
        "response_format",
        {"into": int, "params": {"body": {"response_format": {"type": "text"}}}},
    ),
    ("into: ", "into", {"into": object()}),
    ("reasks: expected an int from 0, got -1", "reasks", {"into": int, "reasks": -1}),
    ("reasks: expected an int from 0, got True", "reasks", {"into": int, "reasks": True}),
    ("reasks: expected an int from 0, got '1'", "reasks", {"into": int, "reasks": "1"}),
    ("reasks: is for values; give their type as into=", "reasks", {"reasks": 1}),
    ("keep: expected names of fields, got 'id'; one name is ('id',), all fields are ('*',)", "keep", {"keep": "id"}),
    ("keep: expected names of fields, got 7; one name is (7,), all fields are ('*',)", "keep", {"keep": 7}),
    ("keep: expected names of fields, got 7", "keep", {"keep": ("a", 7)}),
    (
        'keep: the service\'s batch format has no place for fields of rows; take output="rows"',
        "keep",
        {"keep": ("a",), "output": "batch"},
    ),
    ("output: expected one of rows, completions, batch, got 'csv'", "output", {"output": "csv"}),
]


@pytest.mark.parametrize(("expected", "param", "task"), WRONG)
def test_wrong_task(expected: str, param: str, task: dict[str, Any]) -> None:
    """What is wrong in a task is said when it is made, by its name."""
    with pytest.raises(InvalidRequestError) as caught:
        Task(**task)
    assert (expected, param) == (caught.value.message[: len(expected)], caught.value.param)
    assert param == "into" or expected == caught.value.message


def test_task_is_a_value() -> None:
    """A task pickles, is equal to its like, and has its own copy of the parameters."""
    params = {"temperature": 0}
    task = Task(model="m", prompt="{a}", system="{b}", params=params, keep=("a",), into={"type": "object"}, reasks=1)
    params["temperature"] = 2
    again = pickle.loads(pickle.dumps(task))
    assert task == again
    assert asked(task, row({"a": 1, "b": 2})) == asked(again, row({"a": 1, "b": 2}))
    assert 0 == asked(again, row({"a": 1, "b": 2})).request.temperature


# --------------------------------------------------------------------------------------------------------------------
# The fingerprint
# --------------------------------------------------------------------------------------------------------------------


class City(msgspec.Struct):
    name: str
    people: int = 0


FACTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"keep": []}, {"keep": ()}),
    ({"output": "batch"}, {"output": "batch"}),
    (
        {"model": "m", "prompt": "{a}", "system": "{b}", "params": {"stop": ["x"], "logit_bias": {"1": 2}}, "keep": ["*"]},
        {"model": "m", "prompt": "{a}", "system": "{b}", "params": {"stop": ("x",), "logit_bias": {1: 2}}, "keep": ("*",)},
    ),
    (
        {"params": {"tools": [{"function": {"name": "f"}, "type": "function"}]}},
        {"params": {"tools": [FunctionTool(FunctionDefinition("f"))]}},
    ),
    ({"params": {"body": {"top_k": 1}}}, {"params": {"body": {"top_k": 1}}}),
    (
        {
            "reasks": 2,
            "into": {
                "name": "City",
                "schema": {
                    "$ref": "#/$defs/City",
                    "$defs": {
                        "City": {
                            "title": "City",
                            "type": "object",
                            "properties": {"name": {"type": "string"}, "people": {"type": "integer", "default": 0}},
                            "required": ["name"],
                        }
                    },
                },
            },
        },
        {"into": City, "reasks": 2},
    ),
    ({"into": {"name": "value", "schema": {"type": "object"}}}, {"into": {"type": "object"}}),
]


@pytest.mark.parametrize(("expected", "task"), FACTS)
def test_facts(expected: dict[str, Any], task: dict[str, Any]) -> None:
    """What changes answers is in the facts, as plain values; what is left at its default is not."""
    facts = Task(**task).facts()
    assert expected == facts
    assert facts == json.loads(json.dumps(facts))


def first(row: Any) -> str:
    return f"first {row}"


def second(row: Any) -> str:
    return f"second {row}"


def styled(style: Any) -> Callable[[Any], str]:
    return lambda row: f"{style}: {row}"


def with_default(style: str) -> Callable[[Any], str]:
    def function(row: Any, style: str = style) -> str:
        return style + row

    return function


def with_keyword(style: str) -> Callable[[Any], str]:
    def function(row: Any, *, style: str = style) -> str:
        return style + row

    return function


def both(style: str, row: Any) -> str:
    return style + row


def recursive(style: str) -> Callable[[Any], str]:
    def function(row: Any) -> str:
        return function(row[0]) if isinstance(row, list) else style + row

    return function


class Asks:
    def __call__(self, row: Any) -> str:
        return str(row)

    def method(self, row: Any) -> str:
        return str(row)


def made(source: str) -> Callable[[Any], str]:
    """A function without source."""
    names: dict[str, Any] = {"__name__": "nowhere"}
    exec(source, names)
    return names["f"]


PROMPTS: list[Callable[[], Any]] = [
    lambda: first,
    lambda: second,
    lambda: styled("a"),
    lambda: styled("b"),
    lambda: styled(first),
    lambda: styled(second),
    lambda: styled(City),
    lambda: with_default("a"),
    lambda: with_default("b"),
    lambda: with_keyword("a"),
    lambda: with_keyword("b"),
    lambda: recursive("a"),
    lambda: recursive("b"),
    lambda: styled({(1, 2): 3}),
    lambda: functools.partial(both, "a"),
    lambda: functools.partial(both, "b"),
    lambda: functools.partial(both, style="a"),
    lambda: Asks(),
    lambda: Asks().method,
    lambda: str,
    lambda: "{}".format,
    lambda: made("def f(row): return row + 'a'"),
    lambda: made("def f(row): return row + 'b'"),
    lambda: made("def f(row): return row.lower()"),
    lambda: made("def f(row): return row.upper()"),
    lambda: made("def f(row): return row if row in {'a', 'b', 'c'} else 'd'"),
    lambda: made("def f(row): return row if row in {'a', 'b', 'e'} else 'd'"),
    lambda: made("def f(row): return [one + 'a' for one in row][0]"),
    lambda: made("def f(row): return [one + 'b' for one in row][0]"),
]


def test_functions_told_apart() -> None:
    """A function is known again, and told from one that does something else, by what it does and what it holds."""
    facts = [Task(prompt=prompt()).facts()["prompt"] for prompt in PROMPTS]
    assert facts == [Task(prompt=prompt()).facts()["prompt"] for prompt in PROMPTS]
    assert facts == json.loads(json.dumps(facts))
    assert len(PROMPTS) == len({json.dumps(one, sort_keys=True) for one in facts})
    assert {"module", "name", "sha256"} == facts[0].keys()
    assert [("first", True), ("styled.<locals>.<lambda>", True), ("Asks", True), ("Asks.method", True)] == [
        (facts[place]["name"], facts[place]["module"].endswith("test_jobs")) for place in (0, 2, 17, 18)
    ]


def test_held_values() -> None:
    """A value that is no plain one is known by its type, so that an address does not count."""
    one, other = styled(object()), styled(object())
    assert Task(prompt=one).facts() == Task(prompt=other).facts()
    assert Task(prompt=one).facts() != Task(prompt=styled(Decimal(1))).facts()


SCRIPT = """
import json
from gpt.batch.jobs import Task
names = {"__name__": "nowhere"}
exec("def f(row): return row if row in {'a', 'b', 'c', 'd', 'e'} else (lambda x: x)(row)", names)
print(json.dumps(Task(prompt=names["f"]).facts(), sort_keys=True))
"""


def test_same_in_each_process() -> None:
    """The bytecode of a function is known again in another process, whatever order its sets have there."""
    seen = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert 1 == len(seen)


# --------------------------------------------------------------------------------------------------------------------
# What is written
# --------------------------------------------------------------------------------------------------------------------


def completion(message: dict[str, Any] | None = None, **fields: Any) -> ChatCompletion:
    """A completion as it arrives."""
    said = {"role": "assistant", "content": "the Nile"} if message is None else message
    whole: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m-1",
        "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}},
    }
    return decode_completion(json.dumps(whole | fields, separators=(",", ":")).encode(), INFO)


INFO = ResponseInfo(status=200, headers=Headers([("x-request-id", "req_1")]))
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
TAIL = {"finish_reason": "stop", "model": "m-1", "usage": USAGE, "error": None}

WRITTEN: list[tuple[dict[str, Any], ChatCompletion]] = [
    ({"row": 12, "text": "the Nile", **TAIL}, completion()),
    ({"row": 12, "text": "", "refusal": "No.", **TAIL}, completion({"content": None, "refusal": "No."})),
    ({"row": 12, "text": "x", "reasoning": "y", **TAIL}, completion({"content": "x", "reasoning_content": "y"})),
    ({"row": 12, "text": "", "tool_calls": [CALL], **TAIL}, completion({"content": None, "tool_calls": [CALL]})),
    (
        {"row": 12, "text": "", "tool_calls": [{"type": "function", "function": CALL["function"]}], **TAIL},
        completion({"content": None, "function_call": CALL["function"]}),
    ),
    (
        {"row": 12, "text": "a", "texts": ["a", ""], "finish_reason": "length", "model": "m-1", "usage": USAGE, "error": None},
        completion(
            choices=[
                {"index": 0, "message": {"content": "a"}, "finish_reason": "length"},
                {"index": 1, "message": {"content": None}, "finish_reason": "stop"},
            ]
        ),
    ),
    (
        {"row": 12, "text": "a", "error": None},
        completion(model="", usage=None, choices=[{"index": 0, "message": {"content": "a"}, "finish_reason": None}]),
    ),
    ({"row": 12, "text": "", "model": "m-1", "error": None}, completion(choices=[], usage=None)),
]


@pytest.mark.parametrize(("expected", "whole"), WRITTEN)
def test_written(expected: dict[str, Any], whole: ChatCompletion) -> None:
    """A row has what the answer has: its keys in this order, and none that does not apply."""
    what = Asked(ChatRequest(messages=[]), None, None)
    line = answered(Task(), row("a"), what, whole)
    assert list(expected.items()) == list(json.loads(line).items())
    with_whole = answered(Task(output="completions"), row("a"), what, whole)
    error = expected.pop("error")
    assert list((expected | {"completion": whole.to_dict(), "error": error}).items()) == list(json.loads(with_whole).items())


def test_written_beside() -> None:
    """The row's name and what is kept of it stand before the answer."""
    what = Asked(ChatRequest(messages=[]), 7, QUESTION)
    out = json.loads(answered(Task(), row("a"), what, completion()))
    assert ["row", "id", "input", "text"] == list(out)[:4]
    assert (7, QUESTION) == (out["id"], out["input"])


BODIES: list[tuple[bytes, bytes]] = [
    # As it arrived: spelling, order, unknown fields and numbers stay.
    (
        b'{"choices":[], "b" : 1.0,"a":1e2,"n":123456789012345678901234567890}',
        b'{"choices":[], "b" : 1.0,"a":1e2,"n":123456789012345678901234567890}',
    ),
    (b'{"choices":[],"b":1.0,"a":[1,2]}', b'\n{"choices": [],\r\n "b": 1.0,\n\t"a": [1, 2]}\n'),
    ('{"choices":[],"a":"\u2028☃"}'.encode(), '{"choices":[],"a":"\u2028☃"}'.encode()),
    ('{"choices":[],"a":"�"}'.encode(), b'{"choices":[],"a":"\xff"}'),
]


@pytest.mark.parametrize(("expected", "body"), BODIES)
def test_body_in_one_line(expected: bytes, body: bytes) -> None:
    """A completion goes into its row as it arrived, in one line of UTF-8."""
    what = Asked(ChatRequest(messages=[]), None, None)
    whole = decode_completion(body)
    line = answered(Task(output="completions"), row("a"), what, whole)
    assert b'"completion":' + expected + b',"error":null}' == line[line.index(b'"completion"') :]
    line = answered(Task(output="batch"), row("a"), what, whole)
    assert b'"body":' + expected + b'},"error":null}' == line[line.index(b'"body"') :]
    assert b"\n" not in line
    assert b"\r" not in line
    assert line.decode()


# --------------------------------------------------------------------------------------------------------------------
# Values
# --------------------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Plain:
    colour: Colour
    day: datetime.date


@attrs.define
class Attrs:
    number: Decimal


class Typed(TypedDict):
    a: int


class Pair(NamedTuple):
    one: int
    two: str


class Renamed(msgspec.Struct, rename="camel"):
    first_name: str


class Aliased(pydantic.BaseModel):
    first_name: str = pydantic.Field(alias="firstName")
    day: datetime.date | None = None


@dataclasses.dataclass
class Holds:
    inside: Aliased


@dataclasses.dataclass
class Left:
    left: int


@dataclasses.dataclass
class Right:
    right: int


@dataclasses.dataclass
class Placed:
    place: Path


VALUES: list[tuple[Any, Any, Any]] = [
    ({"colour": "red", "day": "2026-11-25"}, Plain, Plain(Colour.RED, datetime.date(2026, 11, 25))),
    ({"number": "1.50"}, Attrs, Attrs(Decimal("1.50"))),
    ({"a": 1}, Typed, {"a": 1}),
    ([1, "x"], Pair, Pair(1, "x")),
    ({"firstName": "Ann"}, Renamed, Renamed("Ann")),
    ({"firstName": "Ann", "day": None}, Aliased, Aliased(firstName="Ann")),
    (
        {"inside": {"firstName": "Ann", "day": "2026-11-25"}},
        Holds,
        Holds(Aliased(firstName="Ann", day=datetime.date(2026, 11, 25))),
    ),
    ([{"firstName": "Ann", "day": None}], list[Aliased], [Aliased(firstName="Ann")]),
    ({"right": 1}, Left | Right, Right(1)),  # a union that msgspec has no schema for
    ({"place": "a/b"}, Placed, Placed(Path("a/b"))),  # a type that only pydantic knows
    ("red", Colour, Colour.RED),
    ([1, 2], set[int], {1, 2}),
    (None, int | None, None),
    ({"x": [1, {"y": None}]}, {"type": "object"}, {"x": [1, {"y": None}]}),
]


@pytest.mark.parametrize(("expected", "into", "value"), VALUES)
def test_value(expected: Any, into: Any, value: Any) -> None:
    """A value is written by its type's own JSON names, and is read back as plain values; they are what the type is read from."""
    task = Task(into=into)
    whole = completion()
    line = answered(
        task, row("a"), Asked(ChatRequest(messages=[]), None, None), whole, Parsed(value, whole, (whole,), "json_schema")
    )
    assert expected == json.loads(line)["value"]
    assert expected == read_output(line).value
    assert value == shape(into, PLAIN_DIALECT).convert(expected)


def test_value_beside() -> None:
    """With a value the usage is that of all attempts, and where a call was forced its arguments are the text."""
    one = completion({"content": None, "tool_calls": [CALL]})
    parsed = Parsed({"a": 1}, one, (one, one), "tool")
    out = json.loads(
        answered(Task(into={"type": "object"}), row("x"), Asked(ChatRequest(messages=[]), None, None), one, parsed)
    )
    assert {
        "row": 12,
        "text": '{"a":1}',
        "finish_reason": "stop",
        "model": "m-1",
        "usage": {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10},
        "value": {"a": 1},
        "error": None,
    } == out


def test_value_without_json() -> None:
    """A value that its own type cannot write is an error that says so."""

    class Odd(pydantic.BaseModel):
        a: int

        @pydantic.field_serializer("a")
        def _write(self, value: int) -> int:
            raise ValueError("no way")

    one = completion()
    with pytest.raises(InvalidRequestError, match="^into: the value cannot be written as JSON: .*no way") as caught:
        answered(
            Task(into=Odd), row("x"), Asked(ChatRequest(messages=[]), None, None), one, Parsed(Odd(a=1), one, (one,), "prompt")
        )
    assert "into" == caught.value.param


# --------------------------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------------------------

DETAILS: dict[str, Any] = {"code": "rate_limit", "param": "n", "request_id": "req_2"}
LIMIT_BODY = '{"error": {"message": "Slow down", "type": "requests", "param": null, "code": "rate_limit"}}'

ERRORS: list[tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any] | None, GptError]] = [
    # The error as a row has it; response and error as the service's file has them.
    (
        {"type": "InvalidRequestError", "message": "x: y", "param": "x", "fault": "caller"},
        None,
        {"code": "InvalidRequestError", "message": "x: y"},
        InvalidRequestError("x: y", param="x"),
    ),
    (
        {"type": "ConnectError", "message": "refused", "fault": "network"},
        None,
        {"code": "ConnectError", "message": "refused"},
        ConnectError("refused", phase="connect"),
    ),
    (
        {
            "type": "RateLimitError",
            "message": "Slow down (POST u)",
            "status": 429,
            "code": "rate_limit",
            "param": "n",
            "fault": "service",
            "request_id": "req_2",
        },
        {"status_code": 429, "request_id": "req_2", "body": json.loads(LIMIT_BODY)},
        None,
        RateLimitError("Slow down (POST u)", 429, LIMIT_BODY, **DETAILS),
    ),
    (
        {"type": "ServerError", "message": "down", "status": 502, "fault": "service"},
        {
            "status_code": 502,
            "request_id": "",
            "body": {"error": {"message": "down", "type": "ServerError", "param": None, "code": None}},
        },
        None,
        ServerError("down", 502, "<html>Bad gateway</html>"),
    ),
    (
        {"type": "ServerError", "message": "down", "status": 500, "fault": "service"},
        {
            "status_code": 500,
            "request_id": "",
            "body": {"error": {"message": "down", "type": "ServerError", "param": None, "code": None}},
        },
        None,
        ServerError("down", 500, '["no", "object"]'),
    ),
    (
        {"type": "MalformedResponseError", "message": "no completion", "status": 200, "fault": "service"},
        {"status_code": 200, "request_id": "", "body": {"a": 1}},
        {"code": "MalformedResponseError", "message": "no completion"},
        MalformedResponseError("no completion", 200, '{"a": 1}'),
    ),
    (
        {"type": "ServerError", "message": "from no server", "fault": "service"},
        None,
        {"code": "ServerError", "message": "from no server"},
        ServerError("from no server"),
    ),
]


@pytest.mark.parametrize(("told", "response", "error", "raised"), ERRORS)
def test_failed(told: dict[str, Any], response: Any, error: Any, raised: GptError) -> None:
    """An error is a row beside the others; in the service's format an answered one has status and body, another its words."""
    what = Asked(ChatRequest(messages=[]), 7, QUESTION)
    assert {"row": 12, "id": 7, "input": QUESTION, "text": None, "error": told} == json.loads(
        failed(Task(), row(QUESTION), what, raised)
    )
    line = failed(Task(output="batch"), row(QUESTION), what, raised)
    assert {"id": "batch_req_000000000012", "custom_id": "7", "response": response, "error": error} == json.loads(line)
    out = read_output(line)
    assert (False, 12, "7") == (out.ok, out.row, out.id)
    # The server's words stand for ours, where its body has some.
    known = {name: value for name, value in told.items() if name not in ("message", "param")}
    assert known == {name: value for name, value in (out.error or {}).items() if name not in ("message", "param")}


@pytest.mark.parametrize(
    ("expected", "task", "value"),
    [
        ({"row": 12, "id": 7, "input": QUESTION}, Task(prompt="{x}"), QUESTION),
        ({"row": 12, "id": 7}, Task(), QUESTION),
        ({"row": 12, "id": 7, "input": {"n": 2}}, Task(keep=("n", "zz")), QUESTION),
        ({"row": 12, "id": "a"}, Task(), LINE | {"method": "GET"}),
        ({"row": 12, "input": {"row": "a"}}, Task(prompt="{x}"), "a"),
    ],
)
def test_failed_before_it_was_asked(expected: dict[str, Any], task: Task, value: Any) -> None:
    """A row that nothing could be asked of keeps its name and its fields all the same."""
    out = json.loads(failed(task, row(value), None, InvalidRequestError("x")))
    del out["text"], out["error"]
    assert expected == out


def test_no_value() -> None:
    """An answer that is no value is a failed row with all that came: it was paid for."""
    one = completion({"content": '{"a": tru', "reasoning_content": "hm"})
    error = LengthFinishError("cut", completion=one, attempts_made=(one, one), text='{"a": tru', usage=Usage(4, 6, 10))
    what = Asked(ChatRequest(messages=[]), None, None)
    expected = {
        "row": 12,
        "text": '{"a": tru',
        "reasoning": "hm",
        "finish_reason": "stop",
        "model": "m-1",
        "usage": {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10},
        "error": {"type": "LengthFinishError", "message": "cut", "fault": "service", "request_id": "req_1"},
    }
    assert expected == json.loads(failed(Task(), row("a"), what, error))
    assert expected | {"completion": one.to_dict()} == json.loads(failed(Task(output="completions"), row("a"), what, error))
    line = failed(Task(output="batch"), row("a"), what, error)
    assert {
        "id": "batch_req_000000000012",
        "custom_id": "row-12",
        "response": {"status_code": 200, "request_id": "req_1", "body": one.to_dict()},
        "error": {"code": "LengthFinishError", "message": "cut"},
    } == json.loads(line)
    out = read_output(line)
    assert (expected["error"], '{"a": tru', one.to_dict()) == (out.error, out.text, out.completion)


KEY = "sk-0123456789abcdef"


def test_no_secrets() -> None:
    """A key in a header or in the URL is in no output row, not even where the server says it again."""
    body = {
        "error": {"message": f"Incorrect API key provided: {KEY}", "type": "invalid_request_error", "code": "invalid_api_key"}
    }
    with serve(faults=[Fault(status=401, body=body), Fault(status=500)]) as server:
        for client in (
            Gpt(server_url=server.url, api_key=KEY, max_retries=0),
            Gpt(server_url=server.url, api_key=KEY, query={"api-key": f"q-{KEY}"}, max_retries=0),
        ):
            with client, pytest.raises(GptError) as caught:
                client.chat.complete("a", model="m")
            for task in (Task(), Task(output="completions"), Task(output="batch")):
                line = failed(task, row("a"), asked(task, row("a")), caught.value)
                assert b"Incorrect API key provided" in line
                assert KEY.encode() not in line
    with no_waiting(), Gpt(server_url="http://127.0.0.1:9/v1", api_key=KEY, query={"api-key": KEY}, max_retries=1) as client:
        with pytest.raises(GptError) as gone:
            client.chat.complete("a", model="m")
        assert KEY.encode() not in failed(Task(), row("a"), None, gone.value)


# --------------------------------------------------------------------------------------------------------------------
# The service's format
# --------------------------------------------------------------------------------------------------------------------

# As published: the guide "Batch API", step 1, and the reference's page of the request input object.
INPUT_LINES = """\
{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-3.5-turbo-0125", "messages": [{"role": "system", "content": "You are a helpful assistant."},{"role": "user", "content": "Hello world!"}],"max_tokens": 1000}}
{"custom_id": "request-2", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-3.5-turbo-0125", "messages": [{"role": "system", "content": "You are an unhelpful assistant."},{"role": "user", "content": "Hello world!"}],"max_tokens": 1000}}
{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-4o-mini", "messages": [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "What is 2+2?"}]}}
""".splitlines()

# The guide, step 5, and the reference's page of the request output object.
OUTPUT_LINES = """\
{"id": "batch_req_123", "custom_id": "request-2", "response": {"status_code": 200, "request_id": "req_123", "body": {"id": "chatcmpl-123", "object": "chat.completion", "created": 1711652795, "model": "gpt-3.5-turbo-0125", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "logprobs": null, "finish_reason": "stop"}], "usage": {"prompt_tokens": 22, "completion_tokens": 2, "total_tokens": 24}, "system_fingerprint": "fp_123"}}, "error": null}
{"id": "batch_req_456", "custom_id": "request-1", "response": {"status_code": 200, "request_id": "req_789", "body": {"id": "chatcmpl-abc", "object": "chat.completion", "created": 1711652789, "model": "gpt-3.5-turbo-0125", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello! How can I assist you today?"}, "logprobs": null, "finish_reason": "stop"}], "usage": {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}, "system_fingerprint": "fp_3ba"}}, "error": null}
{"id": "batch_req_wnaDys", "custom_id": "request-2", "response": {"status_code": 200, "request_id": "req_c187b3", "body": {"id": "chatcmpl-9758Iw", "object": "chat.completion", "created": 1711475054, "model": "gpt-4o-mini", "choices": [{"index": 0, "message": {"role": "assistant", "content": "2 + 2 equals 4."}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 24, "completion_tokens": 15, "total_tokens": 39}, "system_fingerprint": null}}, "error": null}
""".splitlines()

# The guide, "Batch expiration".
EXPIRED = '{"id": "batch_req_123", "custom_id": "request-3", "response": null, "error": {"code": "batch_expired", "message": "This request could not be executed before the completion window expired."}}'


@pytest.mark.parametrize("line", INPUT_LINES)
def test_published_input(line: str) -> None:
    """The service's input file is taken as it is: its body goes out unchanged."""
    published = json.loads(line)
    what = asked(Task(output="batch"), row(published))
    assert (published["body"], published["custom_id"]) == (sent(what.request), what.id)


@pytest.mark.parametrize("line", OUTPUT_LINES)
def test_published_output(line: str) -> None:
    """The published output comes out of the answer that is in it, but for the id; and it can be read."""
    published = json.loads(line)
    response = published["response"]
    info = ResponseInfo(status=200, headers=Headers([("x-request-id", response["request_id"])]))
    whole = decode_completion(json.dumps(response["body"]).encode(), info)
    ours = json.loads(
        answered(Task(output="batch"), row("a"), Asked(ChatRequest(messages=[]), published["custom_id"], None), whole)
    )
    assert list((published | {"id": "batch_req_000000000012"}).items()) == list(ours.items())
    assert list(response) == list(ours["response"])
    out = read_output(line)
    assert (True, None, published["custom_id"], response["body"]) == (out.ok, out.row, out.id, out.completion)
    message = response["body"]["choices"][0]["message"]
    assert (message["content"], "stop", response["body"]["model"]) == (out.text, out.finish_reason, out.model)
    assert response["body"]["usage"]["total_tokens"] == (out.usage and out.usage.total_tokens)


READ: list[tuple[dict[str, Any], str]] = [
    (
        {
            "type": "batch_expired",
            "message": "This request could not be executed before the completion window expired.",
            "code": "batch_expired",
        },
        EXPIRED,
    ),
    # vLLM's run_batch writes its words as a text, and no body (vllm/entrypoints/openai/run_batch.py).
    (
        {"type": "BadRequestError", "message": "no such url", "status": 400, "fault": "caller", "request_id": "vllm-batch-1"},
        '{"id": "vllm-1", "custom_id": "a", "response": {"status_code": 400, "request_id": "vllm-batch-1", "body": null}, "error": "no such url"}',
    ),
    (
        {
            "type": "ContextLengthError",
            "message": "too long",
            "status": 400,
            "code": "context_length_exceeded",
            "param": "messages",
            "fault": "caller",
            "request_id": "r",
        },
        '{"id": "batch_req_1", "custom_id": "a", "response": {"status_code": 400, "request_id": "r", "body": {"error": {"message": "too long", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}}}, "error": null}',
    ),
    (
        {"type": "ServerError", "message": "down", "status": 500, "fault": "service"},
        '{"id": "x", "custom_id": "a", "response": {"status_code": 500, "body": {"error": "down"}}, "error": null}',
    ),
    (
        {"type": "NotFoundError", "message": "gone", "status": 200},
        '{"id": "x", "custom_id": "a", "response": {"status_code": 200, "body": {"message": "gone", "type": "NotFoundError"}}, "error": null}',
    ),
    (
        {"type": "error", "message": "the line does not say what went wrong"},
        '{"id": "x", "custom_id": "a", "response": null, "error": null}',
    ),
    (
        {"type": "429", "message": "later", "code": "429"},
        '{"custom_id": "a", "response": null, "error": {"code": 429, "message": "later"}}',
    ),
    (
        {"type": "GptError", "message": "x", "fault": "caller"},
        '{"custom_id": "a", "response": null, "error": {"code": "GptError", "message": "x"}}',
    ),
    (
        {"type": "Any", "message": "x", "code": "Any"},  # a name that our module has, and that is no error
        '{"custom_id": "a", "response": null, "error": {"code": "Any", "message": "x"}}',
    ),
]


@pytest.mark.parametrize(("expected", "line"), READ)
def test_read_errors(expected: dict[str, Any], line: str) -> None:
    """Lines of error files, the service's and others', say what went wrong as ours do."""
    out = read_output(line)
    assert (False, None, expected) == (out.ok, out.row, out.error)


def test_read_nulls() -> None:
    """What is null reads as what is not there, as tables have it."""
    names = [name for name in Output.__struct_fields__ if name != "row"]
    assert Output(row=1) == read_output(json.dumps({"row": 1} | dict.fromkeys(names)))
    assert Output(row=1) == read_output(b'{"row":1,"of a later release":2}')


@pytest.mark.parametrize(
    ("expected", "line"),
    [
        ("line: is no output row of a batch: JSON is malformed", b"nothing"),
        ("line: is no output row of a batch: Input data was truncated", b""),
        ("line: is no output row of a batch: it has neither row nor custom_id and response", b"[]"),
        ("line: is no output row of a batch: it has neither row nor custom_id and response", b'{"custom_id":"a"}'),
        ("line: is no output row of a batch: Expected `int | null`, got `str` - at `$.row`", b'{"row":"a"}'),
        ("line: is no output row of a batch: Expected `str | null`, got `int` - at `$.text`", b'{"row":1,"text":2}'),
        ("line: is no output row of a batch: ", b'{"custom_id":"a","response":{"body":{"choices":[1]}}}'),
        ("line: is no output row of a batch: ", b'{"row":1,"text":"\xff"}'),
    ],
)
def test_not_read(expected: str, line: bytes) -> None:
    """What is no output row is one error."""
    with pytest.raises(InvalidRequestError) as caught:
        read_output(line)
    assert (expected, "line") == (caught.value.message[: len(expected)], caught.value.param)


# --------------------------------------------------------------------------------------------------------------------
# There and back
# --------------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.integers(0, 10**12 - 1)
IDS = st.none() | TEXT | st.integers(-(2**60), 2**60)
KEPT = st.none() | st.dictionaries(TEXT, PLAIN, max_size=3)
COUNTS = st.integers(0, 10**9)
CALLS = st.builds(
    lambda name, arguments, one: {"id": one, "type": "function", "function": {"name": name, "arguments": arguments}},
    TEXT,
    TEXT,
    TEXT,
)
MESSAGES = st.fixed_dictionaries(
    {"content": st.none() | TEXT},
    optional={
        "refusal": st.none() | TEXT,
        "reasoning_content": TEXT,
        "tool_calls": st.lists(CALLS, max_size=2),
        "unknown": PLAIN,
    },
)
WHOLES = st.builds(
    lambda messages, end, usage, more: {
        **more,
        "model": "m",
        "choices": [{"index": place, "message": one, "finish_reason": end} for place, one in enumerate(messages)],
        "usage": usage,
    },
    st.lists(MESSAGES, min_size=1, max_size=2),
    st.sampled_from(["stop", "length", "of a server's own"]),
    st.none()
    | st.builds(lambda one, two: {"prompt_tokens": one, "completion_tokens": two, "total_tokens": one + two}, COUNTS, COUNTS),
    st.dictionaries(st.sampled_from(["x", "y"]), PLAIN),
)


@given(NUMBERS, IDS, KEPT, WHOLES, st.integers(0, 3))
def test_answer_round_trip(number: int, name: Any, kept: Any, whole: dict[str, Any], indent: int) -> None:
    """What was answered is read back from each format, as far as that has a place for it."""
    arrived = decode_completion(json.dumps(whole, ensure_ascii=False, indent=indent or None).encode())
    what = Asked(ChatRequest(messages=[]), name, kept)
    message = arrived.message
    full = Output(
        row=number,
        id=name,
        input=kept,
        text=arrived.text,
        texts=[choice.message.content or "" for choice in arrived.choices] if len(arrived.choices) > 1 else None,
        refusal=message.refusal,
        reasoning=message.reasoning,
        tool_calls=whole["choices"][0]["message"].get("tool_calls") or None,
        finish_reason=whole["choices"][0]["finish_reason"],
        model="m",
        usage=arrived.usage,
        completion=whole,
    )
    lines = {
        output: answered(Task(output=output), Row(number, "a", 0), what, arrived)  # type: ignore[arg-type]
        for output in ("rows", "completions", "batch")
    }
    assert full == read_output(lines["completions"])
    assert msgspec.structs.replace(full, completion=None) == read_output(lines["rows"])
    custom_id = f"row-{number}" if name is None else str(name)
    assert msgspec.structs.replace(full, id=custom_id, input=None) == read_output(lines["batch"])
    assert not any(mark in line for line in lines.values() for mark in (b"\n", b"\r"))


FAILURES = st.one_of(
    st.builds(lambda message, param: InvalidRequestError(message, param=param), TEXT, st.none() | TEXT),
    st.builds(ConnectError, TEXT),
    st.builds(
        lambda message, status, code, param, request_id: ServerError(
            message, status, code=code, param=param, request_id=request_id
        ),
        TEXT,
        st.integers(500, 599),
        st.none() | st.sampled_from(["a", "b"]),
        st.none() | TEXT,
        st.none() | st.just("req"),
    ),
)


@given(NUMBERS, IDS, KEPT, FAILURES)
def test_error_round_trip(number: int, name: Any, kept: Any, error: GptError) -> None:
    """What failed is read back from each format, with its words, its class and whose fault it is."""
    what = Asked(ChatRequest(messages=[]), name, kept)
    told = {
        "type": type(error).__name__,
        "message": error.message,
        "fault": error.fault,
        "status": getattr(error, "status_code", None),
        **{one: getattr(error, one, None) for one in ("code", "param", "request_id")},
    }
    told = {one: value for one, value in told.items() if value is not None}
    for output in ("rows", "completions"):
        line = failed(Task(output=output), Row(number, "a", 0), what, error)  # type: ignore[arg-type]
        assert Output(row=number, id=name, input=kept, error=told) == read_output(line)
    out = read_output(failed(Task(output="batch"), Row(number, "a", 0), what, error))
    if isinstance(error, InvalidRequestError):
        told.pop("param", None)  # the format has no place for it
    assert Output(row=number, id=f"row-{number}" if name is None else str(name), error=told) == out


# --------------------------------------------------------------------------------------------------------------------
# What a row took
# --------------------------------------------------------------------------------------------------------------------


def kept_answer(whole: ChatCompletion) -> ChatCompletion:
    """The same from a cache."""
    return decode_completion(whole.to_json(), ResponseInfo(cached=True))


ONE = completion()
UNCOUNTED = completion(usage=None)
PRICE = Cost(Decimal("0.00000120"), "USD", "table")


def no_value(*answers: ChatCompletion) -> ParseError:
    return ParseError("no value", completion=answers[-1], attempts_made=answers)


TOOK: list[tuple[Facts, Any, Cost | None]] = [
    (Facts(3, 2, 0.5, cost="0.00000120", currency="USD"), ONE, PRICE),
    (Facts(3, 2, 0.5), ONE, None),
    (Facts(3, 2, 0.5, cost="0.0000001"), ONE, Cost(Decimal("1E-7"), "", "reported")),
    (Facts(3, 2, 0.5, cost="0"), ONE, Cost(Decimal(0), "", "free")),
    (Facts(0, 0, 0.5, counted=False), UNCOUNTED, None),
    (Facts(0, 0, 0.5, counted=False), completion(usage={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}), None),
    (Facts(0, 0, 0.5, cost="0", cached=True), kept_answer(ONE), CACHED),
    (Facts(6, 4, 0.5), Parsed(1, ONE, (ONE, ONE), "tool"), None),
    (Facts(3, 2, 0.5, counted=False), Parsed(1, ONE, (UNCOUNTED, ONE), "tool"), None),
    (Facts(3, 2, 0.5), Parsed(1, ONE, (kept_answer(ONE), ONE), "tool"), None),
    (Facts(0, 0, 0.5, cached=True), Parsed(1, ONE, (kept_answer(ONE), kept_answer(ONE)), "tool"), None),
    (Facts(6, 4, 0.5, kind="ParseError", cost="0.00000120", currency="USD"), no_value(ONE, ONE), PRICE),
    (Facts(0, 0, 0.5, kind="ParseError", counted=False), no_value(UNCOUNTED), None),
    (Facts(0, 0, 0.5, kind="RateLimitError"), RateLimitError("later", 429), None),
]


@pytest.mark.parametrize(("expected", "source", "cost"), TOOK)
def test_took(expected: Facts, source: Any, cost: Cost | None) -> None:
    """Tokens are those of all answers that were paid for; an error without an answer took none."""
    assert expected == took(source, 0.5, cost)


def test_nothing_heavy() -> None:
    """Neither pydantic nor the engine is loaded before a type or a model needs it."""
    code = "import sys, gpt.batch.jobs; gpt.batch.jobs.Task(prompt='{a}'); print([one for one in ('pydantic', 'xllamacpp', 'pyarrow') if one in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    assert b"[]" == told.stdout.strip()
