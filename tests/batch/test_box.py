"""Jobs answered by the model in the box."""

from __future__ import annotations

from pathlib import Path

import gpt.batch
from gpt import Gpt, Local
from gpt.batch import Progress
from gpt.batch.asking import client_of, width_of

PROMPTS = ["Name a river.", "Count to five.", "What is red?", "Say hello.", "Name a colour.", "What is two and two?"]
PARAMS = {"max_tokens": 8, "temperature": 0}


def test_same_answers(tmp_path: Path, box: Local) -> None:
    """A job's answers are those that the model gives one by one; what they took is added up, and costs nothing."""
    with Gpt(backend=Local(slots=1)) as client:
        wanted = [client.chat.complete(prompt, **PARAMS) for prompt in PROMPTS]
        report = gpt.batch.run(PROMPTS, tmp_path / "out.jsonl", client=client, params=PARAMS, shard_rows=4)
    assert [one.text for one in wanted] == [row.text for row in report.answers()]
    assert sum(one.usage.total_tokens for one in wanted) == report.tally.tokens
    assert (0, {}, 0) == (report.failed, report.tally.costs, report.tally.without_price)


def test_slots(tmp_path: Path, box: Local) -> None:
    """As many rows are asked at a time as the engine has slots, and no more."""
    most = 0

    def progress(moment: Progress) -> None:
        nonlocal most
        most = max(most, moment.in_flight)

    assert (4, False) == width_of(client_of(box), None)
    report = gpt.batch.run(PROMPTS * 2, tmp_path / "out", client=box, params=PARAMS, progress=progress)
    assert (True, 12) == (report.done, report.tally.answered)
    assert most <= 4


def test_schema(tmp_path: Path, box: Local) -> None:
    """Each answer is a value of the schema."""
    colour = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"]}
    report = gpt.batch.run(
        [{"n": number} for number in range(5)],
        tmp_path / "out",
        client=box,
        prompt="Colour {n}?",
        into=colour,
        params=PARAMS | {"max_tokens": 40},
    )
    assert (True, 0) == (report.done, report.failed)
    assert all(row.value["colour"] in ("red", "green") for row in report.answers())


def test_goes_on(tmp_path: Path, box: Local) -> None:
    """A job that was stopped goes on."""
    first = gpt.batch.run(PROMPTS, tmp_path / "out", client=box, params=PARAMS, limit=2)
    rest = gpt.batch.run(PROMPTS, tmp_path / "out", client="local:", params=PARAMS)
    assert (2, 4, True) == (first.rows_here, rest.rows_here, rest.done)
