"""The report as a table and as plain values."""

from __future__ import annotations

import json

import pytest

from gpt.check import Finding, Report
from gpt.check.judge import VERDICTS, Verdict


def report(*verdicts: Verdict) -> Report:
    made = Report("http://a.example/v1")
    for place, verdict in enumerate(verdicts):
        made.add(Finding("values", f"thing {place}", verdict, "because " * 12, ({"status": 200},)))
    return made


@pytest.mark.parametrize(
    ("verdicts", "passed"),
    [
        ((), False),
        (("honoured", "refused", "ignored, said so", "unclear"), True),
        (("honoured", "ignored"), False),
        (("honoured", "wrong"), False),
    ],
)
def test_passed(verdicts: tuple[Verdict, ...], passed: bool) -> None:
    """A server passes with nothing wrong and nothing ignored in silence, if anything was found out at all."""
    made = report(*verdicts)
    assert passed is made.passed
    assert len(verdicts) == sum(made.counts.values())
    assert list(VERDICTS) == list(made.counts)


def test_table() -> None:
    """No line is wider than 100 columns, nothing is lost, and the last line counts."""
    made = report(*VERDICTS)
    made.add(Finding("values", "x" * 70, "wrong", "y" * 170))
    lines = made.text().split("\n")
    assert 100 >= max(map(len, lines[:-1]))
    assert "group        what                           verdict          note" == lines[0]
    assert 12 * 6 == made.text().count("because")
    assert 170 == sum(line.count("y") for line in lines if "yyy" in line)
    assert (
        "http://a.example/v1, model not named: 1 honoured, 1 refused, 1 ignored, said so, 1 ignored, 2 wrong, 1 unclear"
        == lines[-1]
    )
    assert "nothing was found out" in Report("u").closing()


def test_values() -> None:
    """As plain values it has everything; whoever asks to be told is told of each finding."""
    told: list[Finding] = []
    made = Report("u", told.append)
    made.model = "m"
    finding = Finding("g", "w", "wrong", "n", ({"status": 200},))
    made.add(finding)
    assert [finding] == told
    plain = json.loads(made.to_json())
    assert plain == made.to_dict()
    assert ["url", "model", "passed", "counts", "findings"] == list(plain)
    assert [{"group": "g", "what": "w", "verdict": "wrong", "note": "n", "evidence": [{"status": 200}]}] == plain["findings"]
    assert "Report('u', 1 findings)" == repr(made)
