"""Values that no server should take: wrong types, and numbers out of range. Each is to be refused by its name. Pure.

The ranges are those of the published description (CreateChatCompletionRequest and what it is made of), of a bias those of its
text ("from -100 to 100").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from gpt.check.exchange import Ask, Facts, Steps
from gpt.check.judge import Judged, Probe, must_refuse, shown

GROUP = "values"


class Row(NamedTuple):
    """A value that `name` does not take. `beside` is sent along; `others` are names that the error may speak of instead."""

    name: str
    value: Any
    beside: Mapping[str, Any] = {}
    others: tuple[str, ...] = ()
    label: str = ""


_TOOL = {"type": "function", "function": {"name": "paint", "parameters": {"type": "object", "properties": {}}}}

ROWS: tuple[Row, ...] = (
    Row("temperature", 2.5),
    Row("temperature", -1),
    Row("temperature", "hot"),
    Row("top_p", 1.5),
    Row("top_p", -0.5),
    Row("top_p", "all"),
    Row("presence_penalty", 3),
    Row("presence_penalty", "high"),
    Row("frequency_penalty", -3),
    Row("frequency_penalty", "high"),
    Row("n", 0),
    Row("n", "two"),
    Row("max_tokens", -5),
    Row("max_tokens", "many"),
    Row("max_completion_tokens", -5),
    Row("max_completion_tokens", 1.5),
    Row("logprobs", "yes"),
    Row("top_logprobs", 21, {"logprobs": True}),
    Row("top_logprobs", -1, {"logprobs": True}),
    Row("top_logprobs", 2, {}, ("logprobs",), "top_logprobs without logprobs"),
    Row("logit_bias", {"1000": 101}),
    Row("logit_bias", {"1000": "much"}),
    Row("logit_bias", {"99999999": 1}, label="logit_bias of no token"),
    Row("stop", 5),
    Row("seed", "one"),
    Row("stream", "yes"),
    Row("stream_options", {"include_usage": True}, {}, ("stream",), "stream_options without stream"),
    Row("user", 5),
    Row("metadata", {"number": 1}),
    Row("metadata", {f"name{count}": "x" for count in range(17)}, label="metadata with 17 entries"),
    Row("store", "yes"),
    Row("service_tier", "golden"),
    Row("modalities", ["smell"]),
    Row("prediction", {"type": "guess"}),
    Row("reasoning_effort", "utmost"),
    Row("verbosity", "loud"),
    Row("web_search_options", "all"),
    Row("response_format", {"type": "xml"}),
    Row("tools", {"type": "function"}),
    Row("tools", [{"type": "function"}], {}, ("function",), "tools: one without its function"),
    Row("tool_choice", "perhaps", {"tools": [_TOOL]}),
    Row("tool_choice", "required", {}, ("tools",), "tool_choice without tools"),
    Row("parallel_tool_calls", "no", {"tools": [_TOOL]}),
)


def refuses(row: Row) -> Callable[[Facts], Steps[Judged]]:
    """The value is refused, by an error that names its parameter."""

    def steps(facts: Facts) -> Steps[Judged]:
        asked: dict[str, Any] = {"max_tokens": 1, **row.beside}
        if row.name in ("max_tokens", "max_completion_tokens"):
            # A server that takes it may answer without end: it is left after the first event.
            asked |= {facts.limit: None, "stream": True}
        body = facts.fields(**asked)
        body[row.name] = row.value
        answer = yield Ask(body=msgspec.json.encode(body), leave="stream" in body)
        return must_refuse(answer, row.name, *row.others)

    return steps


PROBES: tuple[Probe, ...] = tuple(Probe(GROUP, (row.label or f"{row.name}: {shown(row.value)}",), refuses(row)) for row in ROWS)
