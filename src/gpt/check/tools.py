"""Tools and the choice of one. Pure."""

from __future__ import annotations

from typing import Any

from gpt.check.exchange import Answer, Facts, Steps, at, read, said
from gpt.check.judge import Judged, Probe, must_refuse, shown, turned_down, without_effect

GROUP = "tools"
ROOM = 96
"""Tokens for a call with two short arguments."""


def tool(name: str, what: str, argument: str) -> dict[str, Any]:
    """A tool with one text argument."""
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": what, "parameters": parameters}}


WEATHER = tool("get_weather", "The weather in a city now.", "city")
PAINT = tool("paint_wall", "Paint a wall in a colour.", "colour")
QUESTION = said("What is the weather in Paris now?")


def _asked(facts: Facts, choice: Any, **over: Any) -> Any:
    return facts.chat(**{"messages": QUESTION, "tools": [WEATHER, PAINT], "tool_choice": choice, "max_tokens": ROOM, **over})


def _names(answer: Answer) -> list[Any]:
    return [at(call, "function", "name") for call in answer.calls]


def _malformed(answer: Answer) -> str:
    """What is wrong with the calls of an answer; "" where nothing is, or the limit of tokens cut them off."""
    arguments = {"get_weather": "city", "paint_wall": "colour"}
    for place, call in enumerate(answer.calls):
        name, text = at(call, "function", "name"), at(call, "function", "arguments")
        if name not in arguments:
            return f"tool_calls[{place}] calls {shown(name)}, which is no tool of the request"
        if not isinstance(at(call, "id"), str) or not at(call, "id"):
            return f"tool_calls[{place}] has no id"
        if answer.finish == "length":
            continue
        if not isinstance(text, str) or not isinstance(at(read(text.encode()), arguments[name]), str):
            return f"tool_calls[{place}].arguments do not keep to the schema: {shown(text)}"
    if answer.calls and answer.finish not in ("tool_calls", "stop", "length"):
        return f"finish_reason is {shown(answer.finish)}"
    return ""


def tool_choice(facts: Facts) -> Steps[tuple[Judged, Judged, Judged, Judged]]:
    """required, a named one, none and auto. That none holds is told by a call that comes otherwise."""
    must = yield _asked(facts, "required")
    required = turned_down(must, "tool_choice", "tools")
    if required is None:
        if must.calls:
            bad = _malformed(must)
            required = Judged("wrong", bad) if bad else Judged("honoured", f"calls {shown(_names(must))}")
        elif must.finish == "length" and not must.text:
            required = Judged("unclear", "cut off before anything came")
        else:
            required = without_effect(must, "tool_choice", f"no call came: {shown(must.text)}")
    one = yield _asked(facts, {"type": "function", "function": {"name": "paint_wall"}})
    named = turned_down(one, "tool_choice", "tools")
    if named is None:
        if not one.calls:
            named = without_effect(one, "tool_choice", f"no call came: {shown(one.text)}")
        elif set(_names(one)) != {"paint_wall"}:
            named = without_effect(one, "tool_choice", f"paint_wall was named, and {shown(_names(one))} called")
        else:
            bad = _malformed(one)
            named = Judged("wrong", bad) if bad else Judged("honoured", "calls the one that was named")
    no = yield _asked(facts, "none")
    none = turned_down(no, "tool_choice", "tools")
    may = yield _asked(facts, "auto")
    auto = turned_down(may, "tool_choice", "tools")
    if auto is None:
        bad = _malformed(may)
        auto = (
            Judged("wrong", bad)
            if bad
            else Judged("honoured", f"calls {shown(_names(may))}")
            if may.calls
            else Judged("unclear", "the model did not call, which it may")
        )
    if none is None:
        if no.calls:
            none = without_effect(no, "tool_choice", f"calls {shown(_names(no))}")
        elif may.calls or must.calls:
            none = Judged("honoured", "no call, where there is one otherwise")
        else:
            none = Judged("unclear", "no call, and none otherwise either")
    return required, named, none, auto


def parallel(facts: Facts) -> Steps[Judged]:
    """parallel_tool_calls: one call at most where several would come."""
    question = said("What is the weather in Paris, and what is it in Rome? Ask for both at once.")
    several = yield _asked(facts, "required", messages=question, parallel_tool_calls=True, max_tokens=2 * ROOM)
    if (bad := turned_down(several, "parallel_tool_calls", "tool_choice", "tools")) is not None:
        return bad
    answer = yield _asked(facts, "required", messages=question, parallel_tool_calls=False, max_tokens=2 * ROOM)
    if (bad := turned_down(answer, "parallel_tool_calls", "tool_choice", "tools")) is not None:
        return bad
    if len(answer.calls) > 1:
        return without_effect(answer, "parallel_tool_calls", f"{len(answer.calls)} calls where one was the most")
    if len(several.calls) > 1 and answer.calls:
        return Judged("honoured", f"one call, where there are {len(several.calls)} otherwise")
    return Judged("unclear", "the model makes no more than one call anyway")


def custom(facts: Facts) -> Steps[Judged]:
    """A tool that takes free text."""
    note = {"type": "custom", "custom": {"name": "take_note", "description": "Write a note down."}}
    answer = yield facts.chat(
        messages=said('Take the note "milk".'),
        tools=[note],
        tool_choice={"type": "custom", "custom": {"name": "take_note"}},
        max_tokens=ROOM,
    )
    if (bad := turned_down(answer, "tools", "tool_choice", "custom")) is not None:
        return bad
    if not answer.calls:
        return without_effect(answer, "tools", f"no call came: {shown(answer.text)}")
    call = answer.calls[0]
    if at(call, "type") != "custom" or not isinstance(at(call, "custom", "input"), str):
        return Judged("wrong", f"no call of a custom tool: {shown(call)}")
    return Judged("honoured", f"called with {shown(at(call, 'custom', 'input'))}")


def results(facts: Facts) -> Steps[Judged]:
    """A conversation with a call and its result is answered."""
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    answer = yield facts.chat(
        messages=[
            *QUESTION,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees, sunny"},
        ],
        tools=[WEATHER],
    )
    return turned_down(answer, "messages") or Judged("honoured", "answered")


def not_there(facts: Facts) -> Steps[Judged]:
    """A tool_choice that names none of the tools is refused."""
    answer = yield _asked(facts, {"type": "function", "function": {"name": "no_such_tool"}})
    return must_refuse(answer, "tool_choice", "no_such_tool")


def functions(facts: Facts) -> Steps[Judged]:
    """Whether functions and function_call work, the names that tools had before."""
    answer = yield facts.chat(
        messages=QUESTION, functions=[WEATHER["function"]], function_call={"name": "get_weather"}, max_tokens=ROOM
    )
    if (bad := turned_down(answer, "functions", "function_call")) is not None:
        return bad
    if answer.at("choices", 0, "message", "function_call", "name") == "get_weather":
        return Judged("honoured", "calls the function that was named")
    return without_effect(answer, "functions", f"no function_call came: {shown(answer.text)}")


PROBES: tuple[Probe, ...] = (
    Probe(GROUP, ("tool_choice: required", "tool_choice: a tool", "tool_choice: none", "tool_choice: auto"), tool_choice),
    Probe(GROUP, ("tool_choice of no tool",), not_there),
    Probe(GROUP, ("parallel_tool_calls: false",), parallel),
    Probe(GROUP, ("custom tools",), custom),
    Probe(GROUP, ("a call and its result",), results),
    Probe(GROUP, ("functions (old names)",), functions),
)
