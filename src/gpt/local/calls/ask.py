"""How a request with tools is put to the engine. Pure.

A model's template may know tools. Then the tools go to the template, and what the model calls of its own accord is read by the
engine. Two things the engine does not do, and this file does:

- a model whose template knows no tools is told of them in the prompt, and its calls are held to by a grammar; calls and results
  in the history become texts;
- a call that must be made is held to by a grammar on every model, in the form that its own template writes calls in. The engine
  lets the model write as much as it likes before a call, and a small one never comes to it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gpt.local.calls.form import GENERAL, Calling, Form, Thinks, short_id
from gpt.local.calls.grammar import HEADER, Held, held, pattern, quoted
from gpt.local.calls.offer import Offer
from gpt.protocol.profiles import THINK

AROUND = 24
"""Tokens of a call beside its arguments, more or less."""

MOST_CALLS = 8
"""Calls of one answer that is held to a form. As many as `run_tools` does at once."""


class Plan(msgspec.Struct, frozen=True):
    """How a request with tools is put to the engine: what is `asked` besides, and how its text is read.

    `form` is None where the engine reads the calls. `bounds` are those that were put into the schemas, by the tool's name.
    `trials` are grammars to be tried first, each with what it is of.
    """

    asked: dict[str, Any]
    form: Form | None = None
    opened: bool = False
    """Whether the prompt has opened a block of thinking."""
    bounds: Mapping[str, Held] = {}
    trials: tuple[tuple[str, str], ...] = ()


def plan(offer: Offer, calling: Calling, tokens: int, response_format: Any, *, silent: bool) -> Plan:
    """How a request is put to the engine, whose answer may have `tokens`. `silent` says that it is not to think first."""
    shown: dict[str, Any] = {"tools": offer.definitions()}
    if calling.knows_tools and not offer.required and response_format is None:
        parallel = {} if offer.parallel is None else {"parallel_tool_calls": offer.parallel}
        return Plan({**shown, "tool_choice": "auto", **parallel})
    form = calling.form
    if response_format is not None and form.before[0] in "{[":
        form = GENERAL  # JSON that is an answer must not look like a call
    form = form.identified(short_id(secrets.token_hex()))
    room = max(1, tokens - AROUND)
    rules = [held(tool.parameters, room, path=tool.path, strict=tool.strict) for tool in offer.tools]
    trials = [(tool.path, rule.trial) for tool, rule in zip(offer.tools, rules, strict=True)]
    content: Held | None = None
    if response_format is not None and not offer.required:
        path = "response_format.json_schema.schema"
        content = held(response_format["json_schema"]["schema"], room, path=path)
        trials.append((path, content.trial))
    thinking: Thinks = calling.thinks_silent if silent else calling.thinks
    asked: dict[str, Any] = {
        "grammar": _grammar(offer, rules, form, content, thinks=thinking, tokens=tokens),
        "reasoning_format": "none",  # the reader takes it off
    }
    if calling.knows_tools:
        # As `tools` they would exclude the grammar.
        asked["chat_template_kwargs"] = shown
    bounds = {tool.name: rule for tool, rule in zip(offer.tools, rules, strict=True)}
    return Plan(asked, form, thinking == "always", bounds, tuple(trials))


def _grammar(offer: Offer, rules: Sequence[Held], form: Form, content: Held | None, *, thinks: Thinks, tokens: int) -> str:
    """The grammar of an answer: calls alone; or text or content, calls, or calls after text.

    Several calls only where they are asked for: a small model that may go on does.
    """
    more = f" ({quoted(form.again)} call){{0,{MOST_CALLS - 1}}}" if offer.parallel and form.again else ""
    choices = [f"{quoted(tool.name + form.between)} arguments_{place}" for place, tool in enumerate(offer.tools)]
    lines = [
        f"calls: {quoted(form.before)} call{more} {quoted(form.after)}",
        f"call: {' | '.join(choices)}",
        *(f"arguments_{place}: {rule.rule}" for place, rule in enumerate(rules)),
    ]
    answer = "calls"
    if content is not None:
        answer = "(calls | content)"
        lines.append(f"content: {content.rule}")
    elif not offer.required:
        answer = "TEXT? calls?"
        tag = form.before.partition("{")[0].rstrip() or form.before
        lines.append(f"TEXT: /(?s:.+)/ & ~/(?s:.*){pattern(tag)}(?s:.*)/")
    if thinks != "never":
        # Half of the answer at most, even where each character is a token. A block that the prompt has opened must be closed.
        thought = f"/[^<]{{0,{tokens // 2}}}{pattern(THINK[1])}\\s{{0,2}}/"
        answer = f"THOUGHT {answer}" if thinks == "always" else f"({quoted(THINK[0])} THOUGHT)? {answer}"
        lines.append(f"THOUGHT: {thought}")
    return HEADER + "\n".join([f"start: {answer}", *lines]) + "\n"


_TOLD = """\
You can call tools. These are the tools, one a line:
{tools}
A call is written like this, and stands alone:
{example}
"""


def instructions(offer: Offer) -> str:
    """What a model is told whose template knows no tools."""
    tools = "\n".join(json.dumps(one["function"], ensure_ascii=False) for one in offer.definitions())
    example = f"{GENERAL.before}NAME{GENERAL.between}{{...}}{GENERAL.after}"
    wanted = "Answer with a call." if offer.required else "Call a tool where one helps, or answer in words."
    return _TOLD.format(tools=tools, example=example) + wanted


def written(calls: Sequence[Mapping[str, Any]]) -> str:
    """Calls of the history as text, for a model whose template knows no tools."""
    lines = []
    for call in calls:
        function = call["function"]
        lines.append(f"{GENERAL.before}{function['name']}{GENERAL.between}{function['arguments'] or '{}'}{GENERAL.after}")
    return "\n".join(lines)


def as_texts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages for a template that knows no tools: calls become the text of their message, results what the user says.

    Results that follow each other are one message, since many templates want the two sides to take turns.
    """
    made: list[dict[str, Any]] = []
    results: list[str] = []

    def told() -> None:
        if results:
            made.append({"role": "user", "content": "\n".join(results)})
            results.clear()

    for message in messages:
        if message["role"] == "tool":
            results.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        told()
        calls = message.get("tool_calls")
        if calls:
            said = message.get("content")
            kept = {name: value for name, value in message.items() if name not in ("tool_calls", "content")}
            made.append({**kept, "content": "\n".join(filter(None, [said, written(calls)]))})
        else:
            made.append(dict(message))
    told()
    return made


def instructed(messages: Sequence[Mapping[str, Any]], text: str, *, knows_system: bool) -> list[dict[str, Any]]:
    """The messages with instructions behind those that there are; before what the user says where there is no such role."""
    made = [dict(message) for message in messages]
    if made and made[0]["role"] == "system":
        text = f"{made.pop(0)['content']}\n\n{text}"
    if knows_system:
        return [{"role": "system", "content": text}, *made]
    if made and made[0]["role"] == "user":
        text = f"{text}\n\n{made.pop(0)['content']}"
    return [{"role": "user", "content": text}, *made]
