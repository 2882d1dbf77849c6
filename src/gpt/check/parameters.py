"""Parameters one by one: what shows of each in the answer. Pure.

What a parameter does is told by comparison: with the answer to the same request without it, at temperature 0, or between two
values. Where a model answers the same request differently each time, such a comparison tells nothing, and the verdict says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from gpt.check.exchange import SHORT, Answer, Ask, Facts, Steps, at, number, said
from gpt.check.judge import Judged, Probe, names_it, shown, turned_down, without_effect
from gpt.check.shapes import TokenLogprob, problem

GROUP = "parameters"
UNSTEADY = Judged("unclear", "the same request gets another answer each time, even at temperature 0")
HOT = 2.0
"""A temperature at which no two answers of a model are alike by chance."""

FORCED = "1000"
"""A token that any vocabulary has. Which text it is does not matter: forced, it comes again and again."""


def limit_of(name: str) -> Callable[[Facts], Steps[Judged]]:
    """max_tokens and its newer name: an answer ends at the limit, and says so."""

    def steps(facts: Facts) -> Steps[Judged]:
        least = 5
        # Sent under its own name, whichever the server takes: it is what is asked about.
        answer = yield msgspec.structs.replace(facts, limit="max_tokens").chat(**{"max_tokens": None, name: least})
        if (bad := turned_down(answer, name)) is not None:
            return bad
        tokens = answer.tokens
        if tokens is None:
            return Judged("unclear", "the answer has no usage to count by")
        if tokens > least:
            return without_effect(answer, name, f"{tokens} tokens where {least} were the most")
        if answer.finish == "length":
            return Judged("honoured", f'{tokens} tokens, then "length"')
        if tokens < least:
            return Judged("unclear", f"the answer ended by itself after {tokens} tokens")
        return Judged("wrong", f"cut at {tokens} tokens, but finish_reason is {shown(answer.finish)}")

    return steps


def stop(facts: Facts) -> Steps[Judged]:
    """A text that the plain answer has, as the stop: the answer ends before it."""
    text = facts.plain.text
    place = next((at for at in range(len(text) // 3, len(text) - 3) if text.find(text[at : at + 3]) == at), None)
    if not facts.steady:
        return UNSTEADY
    if place is None:
        return Judged("unclear", "the plain answer is too short to stop within")
    word = text[place : place + 3]
    answer = yield facts.chat(stop=[word])
    if (bad := turned_down(answer, "stop")) is not None:
        return bad
    if word in answer.text:
        return without_effect(answer, "stop", f"the answer goes on through {shown(word)}")
    if answer.text != text[:place]:
        return Judged("unclear", "the answer is another than without it")
    if answer.finish != "stop":
        return Judged("wrong", f'stopped, but finish_reason is {shown(answer.finish)}, not "stop"')
    return Judged("honoured", f"ends before {shown(word)}")


def choices(facts: Facts) -> Steps[Judged]:
    """n: so many choices, with the indexes from 0."""
    answer = yield facts.chat(n=2)
    if (bad := turned_down(answer, "n")) is not None:
        return bad
    found = [at(choice, "index") for choice in answer.at("choices")]
    if len(found) == 1:
        return without_effect(answer, "n", "one choice where two were asked for")
    if sorted(map(str, found)) != ["0", "1"]:
        return Judged("wrong", f"choices with the indexes {shown(found)}")
    return Judged("honoured", "two choices")


def _hot(facts: Facts, seed: int, **over: Any) -> Ask:
    return facts.chat(temperature=HOT, seed=seed, **over)


def sampling(facts: Facts) -> Steps[tuple[Judged, Judged, Judged]]:
    """temperature, seed and top_p together, because each is told by what the others do."""
    first = yield _hot(facts, 7)
    if (bad := turned_down(first, "temperature", "seed")) is not None:
        return bad, bad, bad
    texts = [first.text]
    for seed in (7, 8, 9):
        again = yield _hot(facts, seed)
        if (bad := turned_down(again, "temperature", "seed")) is not None:
            return bad, bad, bad
        texts.append(again.text)
    varies = len({texts[0], texts[2], texts[3]}) > 1
    repeats = texts[0] == texts[1]
    temperature = _temperature(facts, first, texts)
    if repeats:
        seed_found = (
            Judged("honoured", "equal seeds, equal answers; another seed, another answer")
            if varies
            else Judged("unclear", "all answers are the same, whatever the seed")
        )
    elif len(set(texts)) == len(texts):
        seed_found = without_effect(first, "seed", "the same seed gives another answer")
    else:
        seed_found = Judged("unclear", "some answers are the same, and not those with equal seeds")
    narrow = []
    for seed in (7, 8):
        answer = yield _hot(facts, seed, top_p=0.0001)
        if (bad := turned_down(answer, "top_p")) is not None:
            return temperature, seed_found, bad
        narrow.append(answer)
    if not varies:
        top_p = Judged("unclear", "the answers do not vary without it either")
    elif narrow[0].text == narrow[1].text:
        top_p = Judged("honoured", f"0.0001 leaves one answer at temperature {HOT:g}")
    else:
        top_p = without_effect(narrow[0], "top_p", "0.0001 leaves several answers")
    return temperature, seed_found, top_p


def _temperature(facts: Facts, hot: Answer, texts: list[str]) -> Judged:
    if not facts.samples:
        return Judged("unclear", "a temperature was refused for this model")
    if not facts.steady:
        return UNSTEADY
    if len(set(texts)) > 1:
        return Judged("honoured", f"0 repeats itself, {HOT:g} does not")
    if (facts.plain.tokens or 0) >= SHORT // 2 and texts[0] == facts.plain.text:
        return without_effect(hot, "temperature", f"{HOT:g} gives the same answer as 0, whatever the seed")
    return Judged("unclear", "the answers are the same at every temperature, and short")


def logprobs(facts: Facts) -> Steps[tuple[Judged, Judged]]:
    """Both logprobs and top_logprobs: what each token was worth, and others in its place."""
    answer = yield facts.chat(logprobs=True, top_logprobs=3)
    if (bad := turned_down(answer, "logprobs", "top_logprobs")) is not None:
        return bad, bad
    content = answer.at("choices", 0, "logprobs", "content")
    if not content:
        return (
            without_effect(answer, "logprobs", "none came"),
            without_effect(answer, "top_logprobs", "no logprobs came"),
        )
    if not isinstance(content, list):
        bad = Judged("wrong", f"logprobs.content is {shown(content)}")
        return bad, bad
    for place, token in enumerate(content):
        if (malformed := problem(token, TokenLogprob)) != "":
            bad = Judged("wrong", f"logprobs.content[{place}]: {malformed}")
            return bad, bad
    joined = "".join(token["token"] for token in content)
    if any(token["logprob"] > 0 for token in content):
        own = Judged("wrong", "a logprob is above 0")
    elif joined.strip() != answer.text.strip() and answer.text.isascii():
        own = Judged("wrong", f"the tokens {shown(joined)} are not the answer {shown(answer.text)}")
    else:
        own = Judged("honoured", f"{len(content)} tokens, which are the answer")
    counts = {len(token["top_logprobs"]) for token in content}
    ranked = all(
        [one["logprob"] for one in token["top_logprobs"]]
        == sorted((one["logprob"] for one in token["top_logprobs"]), reverse=True)
        for token in content
    )
    if counts == {0}:
        return own, without_effect(answer, "top_logprobs", "none came")
    if not counts <= {0, 1, 2, 3} or not ranked:
        return own, Judged("wrong", "more than were asked for" if ranked else "they are not in order")
    return own, Judged("honoured", f"up to {max(counts)} beside each token")


def logit_bias(facts: Facts) -> Steps[Judged]:
    """A token with a bias of 100 comes, and nothing else."""
    answer = yield facts.chat(logit_bias={FORCED: 100}, max_tokens=4)
    if (bad := turned_down(answer, "logit_bias")) is not None:
        return bad
    text, plain = answer.text, facts.plain.text
    # Some servers take away the space that a text begins with.
    if any(len(one) >= 4 and one == one[: len(one) // 4] * 4 for one in (text, f" {text}")):
        return Judged("honoured", f"token {FORCED} forced: {shown(text)}")
    if not facts.steady:
        return UNSTEADY
    if text and plain.startswith(text):
        return without_effect(answer, "logit_bias", f"token {FORCED} is forced, yet the answer is as without")
    return Judged("unclear", f"the answer is {shown(text)}")


def penalty(name: str) -> Callable[[Facts], Steps[Judged]]:
    """A penalty that bears on a text that repeats itself changes it."""

    def steps(facts: Facts) -> Steps[Judged]:
        asked: dict[str, Any] = {
            "messages": said('Write the word "river" twenty times, with spaces between.'),
            "max_tokens": 2 * SHORT,
        }
        plain = yield facts.chat(**asked)
        if (bad := turned_down(plain)) is not None:
            return bad
        answer = yield facts.chat(**asked, **{name: 2})
        if (bad := turned_down(answer, name)) is not None:
            return bad
        if not facts.steady:
            return UNSTEADY
        if answer.text != plain.text:
            return Judged("honoured", "another answer than without it")
        if names_it(answer, name):
            return Judged("ignored, said so", "the answer is as without it")
        return Judged("unclear", "the answer is as without it")

    return steps


def stored(facts: Facts) -> Steps[tuple[Judged, Judged]]:
    """Both store and metadata: the answer can be asked for again, with its metadata."""
    mark = {"check": "gpt"}
    answer = yield facts.chat(store=True, metadata=mark)
    if (bad := turned_down(answer, "store", "metadata")) is not None:
        return bad, bad
    name = answer.at("id")
    if names_it(answer, "store") or not isinstance(name, str) or not name:
        note = "not kept" if names_it(answer, "store") else "the answer has no id to ask by"
        return without_effect(answer, "store", note), without_effect(answer, "metadata", note)
    path = f"/chat/completions/{quote(name, safe='')}"
    again = yield Ask(method="GET", path=path)
    if again.status != 200:
        note = f"asking for it again gives {again.status}"
        listed = yield Ask(method="GET")
        if listed.status == 200 and listed.at("object") == "list":
            # Where there are stored completions at all, one may take a while to be found.
            late = Judged("unclear", f"{note}, yet there is a list of such")
            return late, late
        return without_effect(answer, "store", note), without_effect(answer, "metadata", note)
    # It was stored for this look alone.
    yield Ask(method="DELETE", path=path)
    kept = Judged("honoured", "can be asked for by its id")
    if again.at("metadata") == mark:
        return kept, Judged("honoured", "comes back with the stored answer")
    return kept, without_effect(answer, "metadata", f"came back as {shown(again.at('metadata'))}")


class Unseen(NamedTuple):
    """A parameter whose effect shows seldom or never: a value it takes, one of a wrong type, and what would show."""

    name: str
    good: Any
    bad: Any
    shows: Callable[[Answer], str | None] = lambda _: None
    beside: Mapping[str, Any] = {}
    must_show: bool = False
    """Whether an answer that shows nothing of it has ignored it."""


def _present(*path: str | int) -> Callable[[Answer], str | None]:
    def shows(answer: Answer) -> str | None:
        found = answer.at(*path)
        return f"{'.'.join(map(str, path))}: {shown(found)}" if found not in (None, []) else None

    return shows


def _positive(*path: str | int) -> Callable[[Answer], str | None]:
    """What counts above 0 tells of something; a count of 0 is there for everybody."""

    def shows(answer: Answer) -> str | None:
        found = number(answer.at(*path))
        return f"{'.'.join(map(str, path))}: {found}" if found else None

    return shows


_MESSAGE = ("choices", 0, "message")
_DETAILS = ("usage", "completion_tokens_details")

UNSEEN: tuple[Unseen, ...] = (
    Unseen("user", "somebody", {"no": "text"}),
    Unseen("safety_identifier", "somebody", {"no": "text"}),
    Unseen("prompt_cache_key", "check", {"no": "text"}),
    Unseen("service_tier", "auto", {"no": "text"}, _present("service_tier"), must_show=True),
    Unseen(
        "modalities and audio",
        ["text", "audio"],
        "sound",
        _present(*_MESSAGE, "audio", "id"),
        {"audio": {"voice": "alloy", "format": "wav"}},
        must_show=True,
    ),
    Unseen(
        "prediction",
        {"type": "content", "content": "Rivers flow to the sea."},
        "text",
        lambda answer: (
            _positive(*_DETAILS, "accepted_prediction_tokens")(answer)
            or _positive(*_DETAILS, "rejected_prediction_tokens")(answer)
        ),
    ),
    Unseen("reasoning_effort", "low", {"no": "text"}, _positive(*_DETAILS, "reasoning_tokens")),
    Unseen("verbosity", "low", {"no": "text"}),
    Unseen("web_search_options", {}, "text", _present(*_MESSAGE, "annotations")),
)


def unseen(row: Unseen) -> Callable[[Facts], Steps[Judged]]:
    """What can be told of a parameter whose effect need not show.

    A value that it takes is asked with, then one of a wrong type. Where neither changes anything, nor is anything said of it,
    the parameter is not even read.
    """
    name = row.name.split(" ", 1)[0]

    def steps(facts: Facts) -> Steps[Judged]:
        beside = dict(row.beside)
        answer = yield facts.chat(**{name: row.good}, **beside)
        if (bad := turned_down(answer, name, *row.beside)) is not None:
            return bad
        if names_it(answer, name):
            return Judged("ignored, said so")
        if (seen := row.shows(answer)) is not None:
            return Judged("honoured", seen)
        if row.must_show:
            return without_effect(answer, name, "nothing of it in the answer")
        if facts.steady and answer.text != facts.plain.text:
            return Judged("unclear", "the answer is another than without it")
        wrong = yield facts.chat(**{name: row.bad}, **beside)
        if not wrong.is_completion:
            return Judged("unclear", f"accepted, and {shown(row.bad)} is not: {wrong.status}; no effect shows")
        if names_it(wrong, name):
            return Judged("unclear", "accepted; no effect shows")
        return Judged("ignored", f"nothing shows of it, and {shown(row.bad)} is accepted too")

    return steps


def unknown(facts: Facts) -> Steps[Judged]:
    """A field that no protocol has: refused, or named."""
    name = "no_such_parameter"
    answer = yield facts.chat(**{name: 1})
    if (bad := turned_down(answer, name)) is not None:
        return bad
    return without_effect(answer, name, "accepted")


PROBES: tuple[Probe, ...] = (
    Probe(GROUP, ("max_tokens",), limit_of("max_tokens")),
    Probe(GROUP, ("max_completion_tokens",), limit_of("max_completion_tokens")),
    Probe(GROUP, ("stop",), stop),
    Probe(GROUP, ("n",), choices),
    Probe(GROUP, ("temperature", "seed", "top_p"), sampling),
    Probe(GROUP, ("logprobs", "top_logprobs"), logprobs),
    Probe(GROUP, ("logit_bias",), logit_bias),
    Probe(GROUP, ("presence_penalty",), penalty("presence_penalty")),
    Probe(GROUP, ("frequency_penalty",), penalty("frequency_penalty")),
    Probe(GROUP, ("store", "metadata"), stored),
    *(Probe(GROUP, (row.name,), unseen(row)) for row in UNSEEN),
    Probe(GROUP, ("an unknown field",), unknown),
)
