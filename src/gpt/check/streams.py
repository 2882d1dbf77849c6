"""Streams, looked at line by line and chunk by chunk. Pure."""

from __future__ import annotations

from typing import Any

from gpt.check.exchange import Answer, Facts, Steps, at, read
from gpt.check.judge import Judged, Probe, excerpt, plain, shown, turned_down, without_effect
from gpt.check.shapes import Chunk, problem
from gpt.check.tools import PAINT, QUESTION, ROOM, WEATHER

GROUP = "streams"
DONE = b"[DONE]"
_FIELDS = (b"data", b"event", b"id", b"retry")


class Streamed:
    """A streamed answer taken apart."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.marks = sum(event.data == DONE for event in answer.events)
        self.ends_marked = bool(answer.events) and answer.events[-1].data == DONE
        self.data = [event.data for event in answer.events if event.data != DONE]
        self.chunks = [read(data) for data in self.data]

    def choices(self, index: int = 0) -> list[Any]:
        """The pieces of the choice with this index."""
        found = []
        for chunk in self.chunks:
            choices = at(chunk, "choices")
            found += [one for one in choices if at(one, "index") == index] if isinstance(choices, list) else []
        return found

    def text(self, index: int = 0) -> str:
        """Their content, joined."""
        pieces = [at(choice, "delta", "content") for choice in self.choices(index)]
        return "".join(piece for piece in pieces if isinstance(piece, str))

    def finishes(self, index: int = 0) -> list[Any]:
        """Their reasons for the end, those that are none left out."""
        return [found for choice in self.choices(index) if (found := at(choice, "finish_reason")) is not None]


def lines(answer: Answer) -> Judged:
    """Whether the body is server-sent events, each line with a known field, the last event ended by an empty line."""
    body = answer.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for line in body.split(b"\n"):
        name = line.partition(b":")[0]
        if line and not line.startswith(b":") and name not in _FIELDS:
            return Judged("wrong", f"a line that is no event's: {plain(line.decode('utf-8', 'replace'), 60)}")
    if not body.endswith(b"\n\n"):
        return Judged("wrong", "the last event has no end")
    if not answer.events:
        return Judged("wrong", "no events")
    return Judged("honoured", f"{len(answer.events)} events")


def shapes(streamed: Streamed) -> Judged:
    """Whether each event's data is a chunk as the protocol declares it."""
    for place, (data, chunk) in enumerate(zip(streamed.data, streamed.chunks, strict=True)):
        if chunk is None:
            return Judged("wrong", f"event {place} is no JSON: {plain(data.decode('utf-8', 'replace'), 60)}")
        if (malformed := problem(chunk, Chunk)) != "":
            return Judged("wrong", f"chunk {place}: {malformed}")
    return Judged("honoured", f"{len(streamed.chunks)} chunks")


def identity(streamed: Streamed) -> Judged:
    """Whether id, object, created and model stay the same."""
    for name in ("id", "object", "created", "model"):
        found = {shown(at(chunk, name)) for chunk in streamed.chunks}
        if len(found) > 1:
            return Judged("wrong", f"{name} changes: {', '.join(sorted(found)[:3])}")
    return Judged("honoured")


def role(streamed: Streamed) -> Judged:
    """Whether the first piece begins the message, with the role."""
    pieces = streamed.choices()
    if not pieces:
        return Judged("wrong", "no choices came")
    if at(pieces[0], "delta", "role") != "assistant":
        return Judged("wrong", f"the first delta is {shown(at(pieces[0], 'delta'))}")
    return Judged("honoured")


def finish(streamed: Streamed, index: int = 0) -> Judged:
    """Whether a choice has one reason for its end, in its last piece."""
    found = streamed.finishes(index)
    if len(found) != 1:
        return Judged("wrong", f"{len(found)} of them: {shown(found)}")
    if at(streamed.choices(index)[-1], "finish_reason") is None:
        return Judged("wrong", "pieces of the choice come after it")
    return Judged("honoured", shown(found[0]))


def marker(streamed: Streamed) -> Judged:
    """Whether [DONE] comes once, at the end."""
    if streamed.marks != 1 or not streamed.ends_marked:
        return Judged("wrong", f"{streamed.marks} of them" if streamed.marks != 1 else "events come after it")
    return Judged("honoured")


def folded(streamed: Streamed, facts: Facts) -> Judged:
    """Whether the pieces are the whole answer to the same request."""
    text, whole = streamed.text(), facts.plain
    if text == whole.text and [whole.finish] == streamed.finishes():
        return Judged("honoured")
    if not facts.steady:
        return Judged("unclear", "the same request gets another answer each time, even at temperature 0")
    if text != whole.text:
        return Judged("wrong", f"{shown(text)}, not {shown(whole.text)}")
    return Judged("wrong", f"ends with {shown(streamed.finishes())}, not {shown(whole.finish)}")


PLAIN = (
    "content type",
    "lines",
    "chunks",
    "id, object, created, model",
    "role first",
    "finish_reason once, last",
    "[DONE] once, last",
    "pieces are the whole",
    "no usage unasked",
)


def plain_stream(facts: Facts) -> Steps[tuple[Judged, ...]]:
    """A stream of the plain request, in all that can be seen of it."""
    answer = yield facts.chat(stream=True)
    if answer.status != 200 or not answer.events:
        bad = turned_down(answer, "stream") or without_effect(answer, "stream", "it came whole")
        return (bad,) * len(PLAIN)
    streamed = Streamed(answer)
    kind = answer.headers.get("content-type", "")
    usages = [chunk for chunk in streamed.chunks if at(chunk, "usage") is not None]
    return (
        Judged("honoured" if kind.partition(";")[0].strip() == "text/event-stream" else "wrong", plain(kind, 60)),
        lines(answer),
        shapes(streamed),
        identity(streamed),
        role(streamed),
        finish(streamed),
        marker(streamed),
        folded(streamed, facts),
        Judged("wrong", f"in {len(usages)} chunks") if usages else Judged("honoured"),
    )


def usage(facts: Facts) -> Steps[Judged]:
    """include_usage: a last chunk without choices has the counts, and no other has any."""
    answer = yield facts.chat(stream=True, stream_options={"include_usage": True})
    if answer.status != 200 or not answer.events:
        return turned_down(answer, "stream_options") or Judged("wrong", f"no stream: {excerpt(answer)}")
    chunks = Streamed(answer).chunks
    places = [place for place, chunk in enumerate(chunks) if at(chunk, "usage") is not None]
    if not places:
        return without_effect(answer, "stream_options", "no usage came")
    if places != [len(chunks) - 1]:
        return Judged("wrong", f"usage in the chunks {shown(places)} of {len(chunks)}, not in the last alone")
    if at(chunks[-1], "choices") != []:
        return Judged("wrong", f"the chunk with usage has choices: {shown(at(chunks[-1], 'choices'))}")
    counts = [at(chunks[-1], "usage", name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    whole = [facts.plain.at("usage", name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    if facts.steady and None not in whole and counts != whole:
        return Judged("wrong", f"{shown(counts)}, where the whole answer has {shown(whole)}")
    return Judged("honoured", f"prompt, completion, total: {shown(counts)}")


def several(facts: Facts) -> Steps[Judged]:
    """n=2 streamed: the pieces of each choice carry its index, and each has its end."""
    answer = yield facts.chat(stream=True, n=2)
    if answer.status != 200 or not answer.events:
        return turned_down(answer, "n") or Judged("wrong", f"no stream: {excerpt(answer)}")
    streamed = Streamed(answer)
    if not streamed.choices(1):
        return without_effect(answer, "n", "one choice where two were asked for")
    for index in (0, 1):
        judged = finish(streamed, index)
        if judged.verdict == "wrong":
            return Judged("wrong", f"choice {index}: finish_reason: {judged.note}")
    return Judged("honoured", "two choices")


def called(facts: Facts) -> Steps[Judged]:
    """A call of a tool in pieces: by index, id and name first, arguments that join to JSON."""
    answer = yield facts.chat(stream=True, messages=QUESTION, tools=[WEATHER, PAINT], tool_choice="required", max_tokens=ROOM)
    if answer.status != 200 or not answer.events:
        return turned_down(answer, "tools", "tool_choice") or Judged("wrong", f"no stream: {excerpt(answer)}")
    streamed = Streamed(answer)
    pieces = [
        piece
        for choice in streamed.choices()
        if isinstance(found := at(choice, "delta", "tool_calls"), list)
        for piece in found
    ]
    if not pieces:
        return without_effect(answer, "tool_choice", f"no call came: {shown(streamed.text())}")
    if not isinstance(at(pieces[0], "id"), str) or not isinstance(at(pieces[0], "function", "name"), str):
        return Judged("wrong", f"the first piece has no id or no name: {shown(pieces[0])}")
    if any(not isinstance(at(piece, "index"), int) for piece in pieces):
        return Judged("wrong", "a piece has no index")
    first = [at(piece, "function", "arguments") for piece in pieces if at(piece, "index") == at(pieces[0], "index")]
    arguments = "".join(piece for piece in first if isinstance(piece, str))
    if streamed.finishes() == ["length"]:
        return Judged("unclear", f"cut off before its end: {shown(arguments)}")
    if not isinstance(read(arguments.encode()), dict):
        return Judged("wrong", f"the arguments are no JSON object: {shown(arguments)}")
    return Judged("honoured", shown(arguments))


def worth(facts: Facts) -> Steps[Judged]:
    """Whether logprobs come in a stream: those of each piece belong to its content."""
    answer = yield facts.chat(stream=True, logprobs=True)
    if answer.status != 200 or not answer.events:
        return turned_down(answer, "logprobs") or Judged("wrong", f"no stream: {excerpt(answer)}")
    streamed = Streamed(answer)
    tokens = [
        at(token, "token")
        for choice in streamed.choices()
        if isinstance(found := at(choice, "logprobs", "content"), list)
        for token in found
    ]
    if not tokens:
        return without_effect(answer, "logprobs", "none came")
    joined = "".join(token for token in tokens if isinstance(token, str))
    if joined.strip() != streamed.text().strip() and streamed.text().isascii():
        return Judged("wrong", f"the tokens {shown(joined)} are not the text {shown(streamed.text())}")
    return Judged("honoured", f"{len(tokens)} tokens, which are the text")


PROBES: tuple[Probe, ...] = (
    Probe(GROUP, PLAIN, plain_stream),
    Probe(GROUP, ("stream_options.include_usage",), usage),
    Probe(GROUP, ("n=2",), several),
    Probe(GROUP, ("a call of a tool",), called),
    Probe(GROUP, ("logprobs",), worth),
)
