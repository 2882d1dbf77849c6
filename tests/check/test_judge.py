"""How an answer becomes a verdict."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpt.check.exchange import Answer, Facts, at
from gpt.check.judge import FAULTS, VERDICTS, must_refuse, names_it, plain, refused, turned_down, without_effect


def error(status: int = 400, **over: Any) -> Answer:
    """An error in the protocol's shape, with fields in place of its own; one that is `...` is left out."""
    fields = {"message": "no", "type": "invalid_request_error", "param": None, "code": None} | over
    return Answer(
        status, {}, json.dumps({"error": {name: value for name, value in fields.items() if value is not ...}}).encode()
    )


WELL = Answer(200, {}, b'{"choices": [{"message": {"content": "hi"}}]}')

REFUSED: list[tuple[Answer, tuple[str, ...], tuple[int, ...], str, str]] = [
    (error(param="n", code="invalid_value"), ("n",), (), "refused", "400 invalid_value: no"),
    (error(param="messages[0].content"), ("content", "messages"), (), "refused", "400: no"),
    (error(message="n is bad"), ("n",), (), "refused", "named in the message alone"),
    (error(message="it is bad"), ("seed",), (), "wrong", "names nothing of seed"),
    (error(param="stop", message="bad"), ("seed",), (), "wrong", "names nothing of seed"),
    (error(), (), (), "refused", "400: no"),
    (error(501, param="n"), ("n",), (), "refused", "501"),
    (error(500, param="n"), ("n",), (), "wrong", "500, expected an error of the caller's"),
    (error(302), (), (), "wrong", "302, expected an error of the caller's"),
    (error(404), (), (404,), "refused", "404"),
    (error(400), (), (404, 405), "wrong", "400, expected 404 or 405"),
    (error(code=400, param="n"), ("n",), (), "wrong", "error.code: Expected `str | null`, got `int`"),
    (error(param=...), (), (), "wrong", "missing required field `param`"),
    (error(message=5), (), (), "wrong", "error.message: Expected `str`, got `int`"),
    (Answer(404, {}, b"<html>"), (), (404,), "wrong", "no JSON"),
    (Answer(400, {}, b'{"detail": "no"}'), (), (), "wrong", "missing required field `error`"),
]


@pytest.mark.parametrize(("answer", "names", "statuses", "verdict", "note"), REFUSED)
def test_refused(answer: Answer, names: tuple[str, ...], statuses: tuple[int, ...], verdict: str, note: str) -> None:
    """An error is one if its status is the caller's, its shape the protocol's, and it names what was refused."""
    judged = refused(answer, *names, statuses=statuses)
    assert verdict == judged.verdict, judged
    assert note in judged.note


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (WELL, None),
        (Answer(200, {}, b"{}"), "wrong"),
        (Answer(200, {}, b'{"choices": []}'), "wrong"),
        (error(429), "unclear"),
        (error(401), "unclear"),
        (error(503), "unclear"),
        (error(param="n"), "refused"),
        (error(500), "wrong"),
    ],
)
def test_turned_down(answer: Answer, verdict: str | None) -> None:
    """An answer with choices goes on to be looked at; what says nothing of the parameter is unclear."""
    judged = turned_down(answer, "n")
    assert verdict == (judged and judged.verdict)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (WELL, "ignored"),
        (Answer(200, {"x-ignored-params": "user, n"}, b"{}"), "ignored, said so"),
        (error(param="n"), "refused"),
        (error(429, param="n"), "unclear"),
        (error(param="stop", message="bad"), "wrong"),
        (error(500, param="n"), "wrong"),
    ],
)
def test_must_refuse(answer: Answer, verdict: str) -> None:
    """What must not be taken is ignored where it is, unless that is said."""
    assert verdict == must_refuse(answer, "n").verdict


@pytest.mark.parametrize(
    ("header", "name", "expected"),
    [
        ("user", "user", True),
        ("user, stop", "stop", True),
        ("User,stop", "stop", True),
        ("messages[0].name, audio.format", "messages", True),
        ("messages[0].name, audio.format", "audio", True),
        ("user_name", "user", False),
        ("", "user", False),
        ("a%2Cb", "a,b", True),
    ],
)
def test_named(header: str, name: str, expected: bool) -> None:
    """A parameter, or a part of it, is named in the header as the server writes it."""
    answer = Answer(200, {"X-Ignored-Params": header}, b"{}")
    assert expected is names_it(answer, name)
    assert ("ignored, said so" if expected else "ignored") == without_effect(answer, name, "").verdict


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\nb  c", "a b c"), ("\x1b[31mred", " [31mred"), ("x" * 200, "x" * 157 + "..."), ("\u202eleft", " left")],
)
def test_plain(text: str, expected: str) -> None:
    """Foreign text is one line that a terminal does not act upon."""
    assert expected == plain(text)


def test_faults() -> None:
    """Two verdicts are faults; each has its meaning."""
    assert {"ignored", "wrong"} == FAULTS
    assert 6 == len(VERDICTS)


@pytest.mark.parametrize(
    ("path", "expected"),
    [(("a", 1, "b"), 5), (("a", 2), None), (("b",), None), (("a", "b"), None), ((0,), None), ((), {"a": [0, {"b": 5}]})],
)
def test_at(path: tuple[str | int, ...], expected: Any) -> None:
    """What is not there is None, whatever stands there instead."""
    assert expected == at({"a": [0, {"b": 5}]}, *path)


@pytest.mark.parametrize(
    ("facts", "over", "expected"),
    [
        ({}, {}, {"max_tokens": 16, "temperature": 0, "seed": 1}),
        ({"samples": False}, {}, {"max_tokens": 16}),
        ({"limit": "max_completion_tokens"}, {"max_tokens": 5}, {"max_completion_tokens": 5, "temperature": 0, "seed": 1}),
        ({}, {"seed": None, "n": 2}, {"max_tokens": 16, "temperature": 0, "n": 2}),
        ({"model": "m"}, {}, {"model": "m", "max_tokens": 16, "temperature": 0, "seed": 1}),
    ],
)
def test_fields(facts: dict[str, Any], over: dict[str, Any], expected: dict[str, Any]) -> None:
    """A request has the limit by the name that the server takes, and what is None not at all."""
    made = Facts(**facts).fields(**over)
    del made["messages"]
    assert expected == made
