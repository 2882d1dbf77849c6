"""The list of models, one of them, and one that is not there. Pure."""

from __future__ import annotations

from urllib.parse import quote

from gpt.check.exchange import Ask, Facts, Steps
from gpt.check.judge import TURNED_AWAY, Judged, Probe, excerpt, refused
from gpt.check.shapes import Model, Models, problem

GROUP = "models"
NOWHERE = "no-such-model"


def listed(_: Facts) -> Steps[Judged]:
    """The list has the protocol's shape."""
    answer = yield Ask(method="GET", path="/models")
    if answer.status != 200:
        return _not_given(answer.status, excerpt(answer))
    malformed = problem(answer.document, Models)
    if malformed:
        return Judged("wrong", malformed)
    return Judged("honoured", f"{len(answer.at('data'))} of them")


def retrieved(facts: Facts) -> Steps[Judged]:
    """One that the list has can be asked for by its name."""
    if not facts.models:
        return Judged("unclear", "no model is listed")
    name = facts.models[0]
    answer = yield Ask(method="GET", path=f"/models/{quote(name, safe='')}")
    if answer.status != 200:
        return _not_given(answer.status, excerpt(answer))
    malformed = problem(answer.document, Model)
    if malformed:
        return Judged("wrong", malformed)
    if answer.at("id") != name:
        return Judged("wrong", f"another than was asked for: {excerpt(answer)}")
    return Judged("honoured", name)


def missing(_: Facts) -> Steps[Judged]:
    """One that is not there is a 404."""
    answer = yield Ask(method="GET", path=f"/models/{NOWHERE}")
    return refused(answer, statuses=(404,))


def _not_given(status: int, said: str) -> Judged:
    return Judged("unclear" if status in TURNED_AWAY else "wrong", f"{status}: {said}")


PROBES: tuple[Probe, ...] = (
    Probe(GROUP, ("the list",), listed, needs_plain=False),
    Probe(GROUP, ("one by its name",), retrieved, needs_plain=False),
    Probe(GROUP, ("one that is not there",), missing, needs_plain=False),
)
