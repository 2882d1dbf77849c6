"""The check itself: what is found out first, then group by group what is asked and judged.

A server that does not answer is a finding too; one that leaves three probes in a row unanswered is asked no more.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING

from gpt.check import failures, leaving, listing, parameters, ranges, streams, structured, tools
from gpt.check.asking import Server
from gpt.check.exchange import Answer, Ask, Facts, at, number
from gpt.check.judge import Finding, Judged, Probe, excerpt, plain
from gpt.check.report import Report
from gpt.check.shapes import Completion, problem
from gpt.check.streams import Streamed, shapes
from gpt.errors import InvalidRequestError
from gpt.protocol.wire import Seconds

if TYPE_CHECKING:
    from gpt.remote.http.connect import Network

ANSWERS = "answers"
CANCELLATION = "cancellation"
OVERLOAD = "overload"

PROBES: tuple[Probe, ...] = (
    *listing.PROBES,
    *parameters.PROBES,
    *ranges.PROBES,
    *tools.PROBES,
    *structured.PROBES,
    *failures.PROBES,
    *streams.PROBES,
)

GROUPS: tuple[str, ...] = (*dict.fromkeys(probe.group for probe in PROBES), CANCELLATION, OVERLOAD)
"""The groups that can be chosen. What is seen of any answer, "answers", is reported beside each."""

PATIENCE = 3
"""Probes in a row that may go unanswered."""


class _Unanswered(Exception):  # noqa: N818 - ends a probe
    """No answer came, or half of one."""


def check(
    url: str,
    *,
    api_key: str | None = None,
    model: str | None = None,
    only: str | Iterable[str] = (),
    timeout: Seconds = 60.0,
    burst: int = 8,
    network: Network | None = None,
    report: Report | None = None,
) -> Report:
    """What the server at this base URL honours, refuses, ignores and gets wrong.

    The key is found as the client finds it; without `model` the first that the server lists is asked. `only` names groups of
    GROUPS. `timeout` is for each exchange, in seconds; `burst` calls are made at once to see what comes of them. A `report`
    that is given is filled, and has what there is when the check is interrupted. Raises InvalidRequestError.
    """
    return asyncio.run(
        acheck(
            url, api_key=api_key, model=model, only=only, timeout=timeout, burst=burst, network=network, report=report
        )
    )  # fmt: skip


async def acheck(
    url: str,
    *,
    api_key: str | None = None,
    model: str | None = None,
    only: str | Iterable[str] = (),
    timeout: Seconds = 60.0,  # noqa: ASYNC109 - of each exchange, not of this function
    burst: int = 8,
    network: Network | None = None,
    report: Report | None = None,
    clock: Callable[[], Seconds] = perf_counter,
) -> Report:
    """`check` on asyncio. `clock` measures when a server is free again."""
    from gpt.remote.backend import endpoint
    from gpt.remote.http.aio import AsyncHttpTransport

    groups = _chosen(only)
    if not (isinstance(timeout, (int, float)) and 0 < timeout < math.inf):
        raise InvalidRequestError(f"timeout: expected seconds above 0, got {timeout!r}", param="timeout")
    if not isinstance(burst, int) or not 1 <= burst <= 1000:
        raise InvalidRequestError(f"burst: expected 1 to 1000 calls, got {burst!r}", param="burst")
    place = endpoint(url, api_key)
    if place.by_model:
        raise InvalidRequestError(
            "server_url: paths by deployment are not checked; give the base URL that ends in /openai/v1", param="server_url"
        )
    transport = AsyncHttpTransport(network)
    report = Report() if report is None else report
    report.url = f"{place.origin}{place.path}"
    try:
        await _Check(Server(place, transport, timeout, clock), report, groups, burst).run(model)
    finally:
        await transport.close()
    return report


def _chosen(only: str | Iterable[str]) -> tuple[str, ...]:
    chosen = (only,) if isinstance(only, str) else tuple(only)
    for group in chosen:
        if group not in GROUPS:
            raise InvalidRequestError(f"only: {group!r} is no group; there are {', '.join(GROUPS)}", param="only")
    return chosen or GROUPS


class _Check:
    def __init__(self, server: Server, report: Report, groups: tuple[str, ...], burst: int) -> None:
        self._server = server
        self._report = report
        self._groups = groups
        self._burst = burst
        self._facts = Facts(keyed=server.keyed)
        self._unanswered = 0
        self._given_up = ""

    def _add(self, group: str, names: tuple[str, ...], judged: tuple[Judged, ...]) -> None:
        evidence = self._server.evidence()
        for name, (verdict, note) in zip(names, judged, strict=True):
            self._report.add(Finding(group, name, verdict, self._server.hide(plain(note)), evidence))

    async def run(self, model: str | None) -> None:
        await self._begin(model)
        for probe in PROBES:
            if probe.group in self._groups:
                self._add(probe.group, probe.names, await self._probe(probe))
        if CANCELLATION in self._groups:
            both = self._unless_given_up(leaving.LEFT) or await leaving.leaving(self._server, self._facts)
            self._add(CANCELLATION, leaving.LEFT, both)
        if OVERLOAD in self._groups:
            name = (f"{self._burst} calls at once",)
            one = self._unless_given_up(name) or (await leaving.overload(self._server, self._facts, self._burst),)
            self._add(OVERLOAD, name, one)
        self._end()

    def _unless_given_up(self, names: tuple[str, ...]) -> tuple[Judged, ...] | None:
        """What is said of things that are not asked; None where they are."""
        if self._given_up:
            return (Judged("unclear", f"not asked: {self._given_up}"),) * len(names)
        if self._facts.plain is None:
            return (Judged("unclear", "not asked: a plain request fails"),) * len(names)
        return None

    async def _begin(self, model: str | None) -> None:
        """Find out what the probes need: a model, and how it answers a plain request."""
        facts = self._facts
        listed = await self._server.ask(Ask(method="GET", path="/models"))
        data = listed.at("data")
        names = [at(one, "id") for one in data] if isinstance(data, list) else []
        facts.models = tuple(name for name in names if isinstance(name, str) and name)
        facts.model = self._report.model = model or next(iter(facts.models), None)
        if isinstance(data, list):
            facts.context = next((_context(one) for one in data if at(one, "id") == facts.model), None)
        answer = await self._plain()
        names_found = ("a plain request", "content type", "usage adds up", "an id of its own")
        if not answer.is_completion:
            why = f"no answer: {answer.failure}" if answer.failure else f"{answer.status}: {excerpt(answer)}"
            if not answer.status:
                self._given_up = why
            self._add(ANSWERS, names_found[:1], (Judged("wrong", why),))
            return
        facts.plain = answer
        again = await self._server.ask(facts.chat())
        facts.steady = again.is_completion and (again.text, again.finish) == (answer.text, answer.finish) and facts.samples
        told = f"answered as {answer.at('model')}" + ("" if facts.steady else ", differently each time")
        kind = answer.headers.get("content-type", "none")
        self._add(
            ANSWERS,
            names_found,
            (
                Judged("honoured", told),
                Judged("honoured" if kind.partition(";")[0].strip() == "application/json" else "wrong", kind),
                _usage(answer),
                Judged("honoured")
                if answer.at("id") != again.at("id")
                else Judged("wrong", f"two answers with the id {answer.at('id')}"),
            ),
        )

    async def _plain(self) -> Answer:
        """The answer to a plain request, in the form that this model takes: some refuse max_tokens, or a temperature."""
        facts = self._facts
        answer = Answer(0)
        for limit, samples in (("max_tokens", True), ("max_completion_tokens", True), ("max_completion_tokens", False)):
            facts.limit, facts.samples = limit, samples
            answer = await self._server.ask(facts.chat())
            if answer.status not in (400, 422):
                return answer
        facts.limit, facts.samples = "max_tokens", True
        return answer

    async def _probe(self, probe: Probe) -> tuple[Judged, ...]:
        if self._given_up or probe.needs_plain:
            unasked = self._unless_given_up(probe.names)
            if unasked is not None:
                return unasked
        try:
            judged = await self._steps(probe)
        except _Unanswered as error:
            self._unanswered += 1
            if self._unanswered == PATIENCE:
                self._given_up = f"the server left {PATIENCE} in a row unanswered"
            return (Judged("wrong", f"no answer: {error}"),) * len(probe.names)
        except Exception as error:  # noqa: BLE001 - what came is foreign, and a report is better than a trace
            return (Judged("unclear", f"what came could not be judged: {type(error).__name__}: {error}"),) * len(probe.names)
        self._unanswered = 0
        return judged

    async def _steps(self, probe: Probe) -> tuple[Judged, ...]:
        steps = probe.steps(self._facts)
        try:
            ask = next(steps)
            while True:
                answer = await self._server.ask(ask)
                if answer.failure:
                    raise _Unanswered(answer.failure)
                ask = steps.send(answer)
        except StopIteration as stop:
            found: Judged | tuple[Judged, ...] = stop.value
            return (found,) if isinstance(found, Judged) else found
        finally:
            steps.close()

    def _end(self) -> None:
        """What all answers that came have in common: their shape."""
        if self._server.completions:
            found = [problem(answer.document, Completion) for answer in self._server.completions]
            self._add(ANSWERS, ("shape of whole answers",), (_shape(found),))
        if self._server.chunked:
            found = [
                judged.note if judged.verdict == "wrong" else ""
                for judged in (shapes(Streamed(answer)) for answer in self._server.chunked)
            ]
            self._add(ANSWERS, ("shape of streamed answers",), (_shape(found),))


def _shape(problems: list[str]) -> Judged:
    """The verdict on the shapes of so many answers, "" for each that is well."""
    bad = [one for one in problems if one]
    if not bad:
        return Judged("honoured", f"{len(problems)} as declared")
    return Judged("wrong", f"{len(bad)} of {len(problems)} are not as declared: {'; '.join(dict.fromkeys(bad))}")


def _usage(answer: Answer) -> Judged:
    counts = [number(answer.at("usage", name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    prompt, completion, total = counts
    if prompt is None or completion is None or total is None:
        return Judged("unclear", "no usage, or not all of it")
    return Judged("honoured" if prompt + completion == total else "wrong", f"{prompt} + {completion}, in all {total}")


def _context(model: object) -> int | None:
    """Tokens that a call of this model may have, where its entry in the list says so: as vLLM, OpenRouter or llama.cpp does.

    Sources: vLLM, vllm/entrypoints/openai/engine/protocol.py, ModelCard; openrouter.ai/docs, "Models", model object schema;
    llama.cpp, tools/server/README.md, "GET /v1/models".
    """
    found = (at(model, "max_model_len"), at(model, "context_length"), at(model, "meta", "n_ctx_train"))
    return next((count for one in found if (count := number(one)) is not None and 0 < count < 10_000_000), None)
