"""How many tokens a prompt takes: the walk over a request, an estimate of texts, and what is learnt from real usage.

The walk is one, whatever counts the texts: a tokenizer, or `estimate`. What a message and a tool take beside their texts is
what the service's cookbook gives for its models ("How to count tokens with tiktoken", sections 6 and 7). What has no documented
number (images, sounds, files) is told, and not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from gpt.types import details_text

TokensOf = Callable[[str], int]
"""How many tokens a text has."""


class TokenCount(msgspec.Struct, frozen=True):
    """How many tokens the prompt of a request takes, and how that is known."""

    tokens: int
    kind: Literal["exact", "tokenizer", "estimate"]
    """"exact": by the engine that will answer, its chat template applied. "tokenizer": the texts by the model's own tokenizer,
    what surrounds them by the service's cookbook. "estimate": by the characters, put right by what answers said (`answers`)."""
    by: str = ""
    """What counted: the engine's model or the tokenizer; "" for an estimate."""
    answers: int = 0
    """Of an estimate: how many answers to earlier prompts it was put right by."""
    uncounted: tuple[str, ...] = ()
    """Parts whose tokens nobody documents, by their paths: `messages[0].content[1] (image_url)`. They come on top."""


# --------------------------------------------------------------------------------------------------------------------
# A text
# --------------------------------------------------------------------------------------------------------------------

_WHOLE = "\u1100-\u11ff\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\uffef\U00010000-\U0010ffff"
"""Chinese, Japanese and Korean, and all beyond the first plane, emoji too: a token each."""

_PIECE = re.compile(
    "[A-Za-z]{1,10}"
    "|[0-9]{1,3}| (?=[0-9])"
    f"|[{_WHOLE}]"
    f"|[^\\x00-\\x7f{_WHOLE}]{{1,3}}"
    r"|[!-/:-@\[-`{-~]{1,3}"
    r"|\n[\t ]*"
)
"""What is taken for a token. docs/tokens.md tells how far it is off."""


def estimate(text: str) -> int:
    """About how many tokens a text has, by its characters."""
    return len(_PIECE.findall(text))


# --------------------------------------------------------------------------------------------------------------------
# A request
# --------------------------------------------------------------------------------------------------------------------

_MESSAGE, _NAME, _REPLY = 3, 1, 3
_TOOL, _TOOLS_END, _PROPERTIES, _PROPERTY, _ENUM, _ENUM_ITEM = 7, 12, 3, 3, -3, 3
"""The cookbook's numbers for gpt-4o and what came after it."""


def count(request: Mapping[str, Any], tokens_of: TokensOf) -> tuple[int, tuple[str, ...]]:
    """The tokens of a request's prompt, and the paths of parts that are not counted. `request` is as sent, in plain values."""
    walk = _Walk(tokens_of)
    for place, message in enumerate(request["messages"]):
        walk.message(message, f"messages[{place}]")
    walk.tokens += _REPLY
    tools = [*_objects(request.get("tools")), *({"function": function} for function in _objects(request.get("functions")))]
    for tool in tools:
        walk.tool(tool)
    if tools:
        walk.tokens += _TOOLS_END
    form = request.get("response_format")
    schema = form.get("json_schema") if isinstance(form, dict) else None
    if schema:
        walk.json(schema)
    return walk.tokens, tuple(walk.uncounted)


def _objects(value: object) -> list[dict[str, Any]]:
    """The objects in a list; none where it is no list. What has an unknown `role` or `type` may have any form."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


class _Walk:
    """What has been counted so far."""

    def __init__(self, tokens_of: TokensOf) -> None:
        self._tokens_of = tokens_of
        self.tokens = 0
        self.uncounted: list[str] = []

    def text(self, value: object) -> None:
        if isinstance(value, str):
            self.tokens += self._tokens_of(value)

    def json(self, value: object) -> None:
        self.text(msgspec.json.encode(value).decode())

    def message(self, message: Mapping[str, Any], path: str) -> None:
        self.tokens += _MESSAGE
        for name in ("role", "refusal"):
            self.text(message.get(name))
        if message.get("name"):
            self.tokens += _NAME
            self.text(message["name"])
        self._content(message.get("content"), path)
        # A server that takes thinking back takes it under one name.
        thinking = message.get("reasoning_content") or message.get("reasoning")
        self.text(thinking or details_text(_objects(message.get("reasoning_details"))))
        if message.get("audio"):
            self.uncounted.append(f"{path}.audio")
        for call in _objects(message.get("tool_calls")):
            self._call(call.get("function") or call.get("custom"))
        self._call(message.get("function_call"))

    def _call(self, made: object) -> None:
        if isinstance(made, dict):
            for name in ("name", "arguments", "input"):
                self.text(made.get(name))

    def _content(self, content: object, path: str) -> None:
        self.text(content)
        for place, part in enumerate(_objects(content)):
            text = part.get("text", part.get("refusal"))
            if isinstance(text, str):
                self.text(text)
            else:
                self.uncounted.append(f"{path}.content[{place}] ({part.get('type')})")

    def tool(self, tool: Mapping[str, Any]) -> None:
        self.tokens += _TOOL
        made = tool.get("function") or tool.get("custom")
        if not isinstance(made, dict):
            self.json(tool)  # of a kind that only its server knows
            return
        self.text(f"{made.get('name')}:{_description(made)}")
        self._schema(made.get("parameters"))
        if made.get("format"):
            self.json(made["format"])

    def _schema(self, schema: object) -> None:
        """A schema's properties. Those within properties, items and alternatives, of which the cookbook has none, likewise."""
        if not isinstance(schema, dict):
            return
        properties = schema.get("properties")
        if isinstance(properties, dict) and properties:
            self.tokens += _PROPERTIES
            for name, inner in properties.items():
                self.tokens += _PROPERTY
                known = inner if isinstance(inner, dict) else {}
                self.text(f"{name}:{known.get('type', '')}:{_description(known)}")
                self._schema(inner)
        values = schema.get("enum")
        if isinstance(values, list):
            self.tokens += _ENUM
            for value in values:
                self.tokens += _ENUM_ITEM
                self.text(str(value))
        self._schema(schema.get("items"))
        defined = schema.get("$defs")
        for inner in (*_objects(schema.get("anyOf")), *(defined.values() if isinstance(defined, dict) else ())):
            self._schema(inner)


def _description(made: Mapping[str, Any]) -> str:
    """As the cookbook counts it: without the full stop at its end."""
    return str(made.get("description") or "").rstrip(".")


# --------------------------------------------------------------------------------------------------------------------
# What real usage teaches
# --------------------------------------------------------------------------------------------------------------------

_FORGET = 0.98
"""What an answer weighs after each further one: a model behind a name may change."""

_FIRM_CONSTANT, _FIRM_SLOPE = 1.0, 100.0**2
"""How firmly no correction is held to at the first answer: as if another had said so, to a prompt of 100 tokens.

Each further answer loosens it. Prompts of like sizes tell a constant from a share only by little, which it would drown.
"""


class Correction(msgspec.Struct, frozen=True):
    """What answers taught about the estimates of a model: by how much they are off, as a constant and a share.

    A constant, because templates add text of their own; a share, because tokenizers differ. Both are fitted by least squares
    (ridge regression towards no correction), with weights that fall with each further answer.
    """

    answers: int = 0
    weight: float = 0.0
    x: float = 0.0
    """Weighted sums: of the estimates `x`, of what they were off by `r`, and of the products."""
    r: float = 0.0
    xx: float = 0.0
    xr: float = 0.0

    def learn(self, estimated: int, actual: int) -> Correction:
        """With one more answer, to a prompt that was estimated at `estimated` tokens and took `actual`."""
        off = actual - estimated
        return Correction(
            self.answers + 1,
            self.weight * _FORGET + 1,
            self.x * _FORGET + estimated,
            self.r * _FORGET + off,
            self.xx * _FORGET + estimated * estimated,
            self.xr * _FORGET + estimated * off,
        )

    def apply(self, estimated: int) -> int:
        """The estimate put right; at least 1."""
        doubt = 1 / max(1, self.answers)
        a, b, d = self.weight + doubt * _FIRM_CONSTANT, self.x, self.xx + doubt * _FIRM_SLOPE
        determinant = a * d - b * b  # above 0, by Cauchy and Schwarz
        constant = (self.r * d - b * self.xr) / determinant
        share = (a * self.xr - b * self.r) / determinant
        return max(1, round(estimated + constant + share * estimated))
