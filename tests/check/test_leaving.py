"""What is made of the times and loads that were measured."""

from __future__ import annotations

import pytest

from gpt.check.exchange import Answer
from gpt.check.leaving import GAUGES, freed, gauge, overloaded


@pytest.mark.parametrize(
    ("after", "would", "verdict"),
    [
        (0.0, 1.0, "honoured"),
        (0.5, 1.0, "honoured"),
        (0.6, 1.0, "unclear"),
        (1.0, 1.0, "wrong"),
        (5.0, 1.0, "wrong"),
        (None, 1.0, "wrong"),
        (None, 0.0, "wrong"),
    ],
)
def test_freed(after: float | None, would: float, verdict: str) -> None:
    """Free well before the answer would have ended, or not; what is between tells nothing."""
    assert verdict == freed(after, would).verdict


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((f"# TYPE {name} gauge\n{name} 3\n", 3.0) for name in GAUGES),
        ('vllm:num_requests_running{model_name="a b"} 2.0\nvllm:num_requests_running{model_name="c"} 1.0', 3.0),
        ("llamacpp:requests_processing_more 5\nllamacpp:requests_processing 0", 0.0),
        ("gpt_slots_running 1.0\nllamacpp:requests_processing 7", 1.0),
        ("gpt_slots_running many", None),
        ("process_cpu_seconds_total 5", None),
        ("", None),
    ],
)
def test_gauge(text: str, expected: float | None) -> None:
    """The number of calls under way is read off a gauge whose name is known, added up over its labels."""
    assert expected == gauge(text)


WELL = Answer(200, {}, b'{"choices": [{"index": 0}]}')


@pytest.mark.parametrize(
    ("answers", "verdict", "note"),
    [
        ([WELL, WELL], "honoured", "2 answered, 0 told when to come back"),
        ([WELL, Answer(429, {"Retry-After": "1"})], "honoured", "1 answered, 1 told when to come back"),
        ([Answer(503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"})], "honoured", "0 answered, 1 told"),
        ([WELL, Answer(429)], "wrong", "429 without Retry-After"),
        ([Answer(500, {"retry-after": "1"})], "wrong", "500"),
        ([Answer(200, {}, b"{}")], "wrong", "200"),
        ([WELL, Answer(0, failure="reset")], "wrong", "no answer: reset"),
    ],
)
def test_overloaded(answers: list[Answer], verdict: str, note: str) -> None:
    """Each call of a burst is answered, or told when to come back."""
    judged = overloaded(answers)
    assert verdict == judged.verdict
    assert judged.note.startswith(note)
