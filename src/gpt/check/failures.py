"""Requests that are wrong as a whole, and what is said to them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gpt.check.exchange import PROMPT, Answer, Ask, Facts, Steps, said
from gpt.check.judge import TURNED_AWAY, Judged, Probe, excerpt, must_refuse, refused, without_effect
from gpt.check.listing import NOWHERE

GROUP = "errors"

WORDS = 1_100_000
"""Words of a prompt that is longer than the context of any model at hand, where the server does not tell its length."""


def _body(facts: Facts, **over: Any) -> bytes:
    """The plain request with fields in place of its own; None leaves one out."""
    return facts.chat(**over).body


def malformed(body: Callable[[Facts], bytes], *names: str) -> Callable[[Facts], Steps[Judged]]:
    """A body that is refused with 400 or 422."""

    def steps(facts: Facts) -> Steps[Judged]:
        answer = yield Ask(body=body(facts))
        if 200 <= answer.status < 300:
            return Judged("ignored", f"accepted: {answer.status}")
        if answer.status in TURNED_AWAY:
            return Judged("unclear", f"{answer.status}: {excerpt(answer)}")
        return refused(answer, *names, statuses=(400, 422))

    return steps


def unknown_model(facts: Facts) -> Steps[Judged]:
    """A model that is not there is not answered for by another."""
    answer = yield facts.chat(model=NOWHERE)
    if answer.is_completion:
        return without_effect(answer, "model", f"answered, as {answer.at('model')}")
    return refused(answer, "model", statuses=(400, 404))


def content_type(facts: Facts) -> Steps[Judged]:
    """A body that does not call itself JSON is refused: a page elsewhere can send such without asking."""
    answer = yield Ask(body=_body(facts), content_type="text/plain")
    if answer.is_completion:
        return Judged("ignored", "text/plain is taken for JSON")
    return refused(answer, statuses=(400, 415))


def too_long(facts: Facts) -> Steps[Judged]:
    """A prompt that does not fit is refused as such, and never cut."""
    words = WORDS if facts.context is None else facts.context * 5 // 4 + 1000
    answer = yield facts.chat(messages=said(" a" * words), max_tokens=1)
    if answer.is_completion:
        counted = answer.at("usage", "prompt_tokens")
        if isinstance(counted, int) and counted < words:
            return Judged("wrong", f"cut: {words} words were sent, and {counted} tokens read")
        return Judged("unclear", f"{words} words fit")
    if answer.status == 413:
        return Judged("unclear", "413: too long to be read at all")
    judged = refused(answer, statuses=(400, 422))
    code, message = answer.at("error", "code"), answer.at("error", "message")
    if judged.verdict == "refused" and code != "context_length_exceeded" and "context" not in str(message):
        return Judged("wrong", f"says nothing of the context: {judged.note}")
    return judged


def nowhere(_: Facts) -> Steps[Judged]:
    """A path that there is not."""
    answer = yield Ask(method="GET", path="/no-such-path")
    return refused(answer, statuses=(404,))


def wrong_method(_: Facts) -> Steps[Judged]:
    """A method that the path does not take (RFC 9110, section 15.5.6)."""
    answer = yield Ask(method="PUT", body=b"{}")
    return refused(answer, statuses=(405,))


def without_key(facts: Facts) -> Steps[Judged]:
    """No key, where one is sent otherwise."""
    if not facts.keyed:
        return Judged("unclear", "the check was given no key")
    answer = yield msgspec.structs.replace(facts.chat(), key="none")
    return _locked(answer)


def wrong_key(facts: Facts) -> Steps[Judged]:
    """A key that is not right."""
    if not facts.keyed:
        return Judged("unclear", "the check was given no key")
    answer = yield msgspec.structs.replace(facts.chat(), key="wrong")
    return _locked(answer)


def _locked(answer: Answer) -> Judged:
    if answer.is_completion:
        return Judged("ignored", "answered: the key is not looked at")
    return refused(answer, statuses=(401,))


def streamed(facts: Facts) -> Steps[Judged]:
    """What is wrong with a request for a stream is told by the status, before the stream."""
    answer = yield facts.chat(stream=True, temperature="hot", messages=5)
    if answer.status == 200:
        return Judged("wrong", f"200: {excerpt(answer)}")
    return must_refuse(answer, "messages", "temperature")


BODIES: tuple[tuple[str, Callable[[Facts], bytes], tuple[str, ...]], ...] = (
    ("no JSON", lambda _: b'{"model": ', ()),
    ("no object", lambda _: b"[]", ()),
    ("no messages", lambda facts: _body(facts, messages=None), ("messages",)),
    ("empty messages", lambda facts: _body(facts, messages=[]), ("messages",)),
    ("messages that are a text", lambda facts: _body(facts, messages=PROMPT), ("messages",)),
    ("an unknown role", lambda facts: _body(facts, messages=[{"role": "oracle", "content": PROMPT}]), ("messages", "role")),
    ("a message without content", lambda facts: _body(facts, messages=[{"role": "user"}]), ("messages", "content")),
    ("content: a number", lambda facts: _body(facts, messages=[{"role": "user", "content": 5}]), ("messages", "content")),
)  # fmt: skip

PROBES: tuple[Probe, ...] = (
    *(Probe(GROUP, (name,), malformed(body, *names), needs_plain=False) for name, body, names in BODIES),
    Probe(GROUP, ("an error before a stream",), streamed, needs_plain=False),
    Probe(GROUP, ("a model that is not there",), unknown_model),
    Probe(GROUP, ("another content type",), content_type),
    Probe(GROUP, ("too long a prompt",), too_long),
    Probe(GROUP, ("a path that there is not",), nowhere, needs_plain=False),
    Probe(GROUP, ("another method",), wrong_method, needs_plain=False),
    Probe(GROUP, ("no key",), without_key, needs_plain=False),
    Probe(GROUP, ("a wrong key",), wrong_key, needs_plain=False),
)
