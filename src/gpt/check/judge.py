"""Verdicts, and how an answer becomes one. Pure; what cannot be told from an answer is "unclear", and never guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from gpt.check.exchange import Answer, Facts, Steps
from gpt.check.shapes import ErrorBody, problem

Verdict: TypeAlias = Literal["honoured", "refused", "ignored, said so", "ignored", "wrong", "unclear"]

VERDICTS: dict[Verdict, str] = {
    "honoured": "done as asked, or as the protocol has it",
    "refused": "an error in the protocol's shape that names what was refused",
    "ignored, said so": "accepted without effect, and named in the answer's x-ignored-params",
    "ignored": "accepted without effect, and nothing said",
    "wrong": "malformed, unanswered, or against the protocol",
    "unclear": "what came does not tell",
}
"""What each means."""

FAULTS: frozenset[Verdict] = frozenset({"ignored", "wrong"})
"""Those with which a server does not pass."""

TURNED_AWAY = frozenset({401, 403, 429, 503})
"""Statuses that say nothing of the parameter that was asked about."""


class Judged(NamedTuple):
    """A verdict, and why."""

    verdict: Verdict
    note: str = ""


class Probe(NamedTuple):
    """One thing, or several that one look tells: what they are called, and how they are found out."""

    group: str
    names: tuple[str, ...]
    steps: Callable[[Facts], Steps[Judged | tuple[Judged, ...]]]
    needs_plain: bool = True
    """Whether it can only be told of a server that answers a plain request."""


class Finding(msgspec.Struct, frozen=True):
    """One line of a report. `evidence` are the exchanges that it rests on: what was asked, what came, both in excerpt."""

    group: str
    what: str
    verdict: Verdict
    note: str = ""
    evidence: tuple[dict[str, Any], ...] = ()


def plain(text: str, length: int = 160) -> str:
    """`text` in one line, without what a terminal would act upon, at most so long."""
    text = "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))
    return text if len(text) <= length else text[: length - 3] + "..."


def excerpt(answer: Answer, length: int = 80) -> str:
    """The beginning of an answer's body."""
    return plain(answer.body[: 4 * length].decode("utf-8", "replace"), length)


def shown(value: Any) -> str:
    """A value as JSON, short."""
    return plain(msgspec.json.encode(value).decode(), 60)


def refused(answer: Answer, *names: str, statuses: tuple[int, ...] = ()) -> Judged:
    """What an error is worth: "refused" where it has the protocol's shape and names one of `names`, if any are given.

    `statuses` are those that are right for it; without any, every 4xx is, and 501.
    """
    status = answer.status
    message = answer.at("error", "message")
    told = plain(message, 80) if isinstance(message, str) else excerpt(answer)
    if status < 400 or (status >= 500 and status != 501):
        return Judged("wrong", f"{status}, expected an error of the caller's: {told}")
    if statuses and status not in statuses:
        return Judged("wrong", f"{status}, expected {' or '.join(map(str, statuses))}: {told}")
    malformed = problem(answer.document, ErrorBody) if answer.document is not None else "no JSON"
    if malformed:
        return Judged("wrong", f"{status}, malformed ({malformed}): {told}")
    param, code = answer.at("error", "param"), answer.at("error", "code")
    if names and not any(name in (param or "") for name in names):
        if not any(name in message for name in names):
            return Judged("wrong", f"{status}, names nothing of {', '.join(names)}: {told}")
        return Judged("refused", f"{status} {code or ''}, named in the message alone: {told}".replace(" ,", ","))
    return Judged("refused", f"{status} {code or ''}".rstrip() + f": {told}")


def turned_down(answer: Answer, *names: str) -> Judged | None:
    """What an answer is that is no completion; None for one that is."""
    if answer.is_completion:
        return None
    if answer.status in TURNED_AWAY:
        return Judged("unclear", f"{answer.status}: {excerpt(answer)}")
    if answer.status == 200:
        return Judged("wrong", f"200, and no completion: {excerpt(answer)}")
    return refused(answer, *names)


def names_it(answer: Answer, name: str) -> bool:
    """Whether an answer says that it ignored the parameter, or a part of it."""
    return any(one == name or one.startswith((f"{name}.", f"{name}[")) for one in answer.ignored)


def without_effect(answer: Answer, name: str, note: str) -> Judged:
    """The verdict for an answer that shows no effect of `name`."""
    return Judged("ignored, said so", note) if names_it(answer, name) else Judged("ignored", note)


def must_refuse(answer: Answer, name: str, *others: str) -> Judged:
    """The verdict where only an error is right: one that names `name` or one of `others`."""
    if answer.status in TURNED_AWAY:
        return Judged("unclear", f"{answer.status}: {excerpt(answer)}")
    if 200 <= answer.status < 300:
        return without_effect(answer, name, f"accepted: {answer.status}")
    return refused(answer, name, *others)
