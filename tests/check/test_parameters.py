"""Parameters whose effect need not show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpt.check.exchange import Answer, Facts
from gpt.check.parameters import UNSEEN, Unseen, unseen


def said(text: str = "rivers", headers: dict[str, str] | None = None, **beside: Any) -> Answer:
    return Answer(200, headers, json.dumps({"choices": [{"message": {"content": text}}], **beside}).encode())


def refused(param: str) -> Answer:
    return Answer(400, {}, json.dumps({"error": {"message": "no", "type": "t", "param": param, "code": None}}).encode())


ROWS = {row.name: row for row in UNSEEN}
THOUGHT = {"usage": {"completion_tokens_details": {"reasoning_tokens": 5}}}
NO_THOUGHT = {"usage": {"completion_tokens_details": {"reasoning_tokens": 0}}}

CASES: list[tuple[str, list[Answer], str]] = [
    ("user", [said(), said()], "ignored"),
    ("user", [said(), refused("user")], "unclear"),
    ("user", [said("lakes")], "unclear"),
    ("user", [said(), said(headers={"x-ignored-params": "user"})], "unclear"),
    ("user", [said(headers={"x-ignored-params": "user"})], "ignored, said so"),
    ("user", [refused("user")], "refused"),
    ("user", [Answer(500)], "wrong"),
    ("service_tier", [said()], "ignored"),
    ("service_tier", [said(service_tier="default")], "honoured"),
    ("modalities and audio", [said()], "ignored"),
    ("modalities and audio", [refused("audio")], "refused"),
    ("reasoning_effort", [said(**THOUGHT)], "honoured"),
    ("reasoning_effort", [said(**NO_THOUGHT), refused("reasoning_effort")], "unclear"),
    ("reasoning_effort", [said(**NO_THOUGHT), said()], "ignored"),
    ("prediction", [said(usage={"completion_tokens_details": {"rejected_prediction_tokens": 1}})], "honoured"),
    ("web_search_options", [Answer(200, {}, b'{"choices": [{"message": {"content": "rivers", "annotations": [1]}}]}')], "honoured"),
    ("web_search_options", [Answer(200, {}, b'{"choices": [{"message": {"content": "rivers", "annotations": []}}]}'), said()], "ignored"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answers", "verdict"), CASES)
def test_unseen(name: str, answers: list[Answer], verdict: str) -> None:
    """What shows of it is honoured; what is accepted in a wrong type too, and changes nothing, is ignored."""
    row: Unseen = ROWS[name]
    steps = unseen(row)(Facts(plain=said(), steady=True))
    asked = [json.loads(next(steps).body)]
    with pytest.raises(StopIteration) as stopped:
        for answer in answers:
            asked.append(json.loads(steps.send(answer).body))
    assert verdict == stopped.value.value.verdict, stopped.value.value
    first = name.split(" ", 1)[0]
    assert [row.good, row.bad][: len(asked)] == [one[first] for one in asked]


def test_unsteady() -> None:
    """Where each answer is another anyway, another answer tells nothing: a wrong type does."""
    steps = unseen(ROWS["user"])(Facts(plain=said(), steady=False))
    next(steps)
    steps.send(said("lakes"))
    with pytest.raises(StopIteration) as stopped:
        steps.send(said("seas"))
    assert "ignored" == stopped.value.value.verdict
