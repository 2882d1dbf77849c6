"""The text of an answer that is held to a form, read back as calls; and calls in the words of the request's tools. Pure."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from gpt.errors import ServerError
from gpt.local.calls.ask import Plan
from gpt.local.calls.form import Form
from gpt.local.calls.grammar import Held
from gpt.local.calls.offer import Offer
from gpt.protocol.profiles import THINK
from gpt.protocol.thinking import Splitter, overlap

_ALPHABET = string.ascii_letters + string.digits


def new_id() -> str:
    """An id for a call, of the form that the hosted service gives."""
    return "call_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))


class Extent:
    """How far a JSON object goes, character by character; and how long its longest text and list are."""

    def __init__(self) -> None:
        self._in_text = self._escaped = False
        self._length = self._text = self._list = 0
        self._open: list[tuple[str, int]] = []
        """What is open, each with the items that it has had."""

    def reaches(self, characters: int, items: int) -> bool:
        """Whether a text has so many characters, or a list so many items."""
        return self._text >= characters or self._list >= items

    def feed(self, text: str) -> int | None:
        """The place behind the object's end; None where it goes on."""
        for place, character in enumerate(text):
            if self._in_text:
                if character == '"' and not self._escaped:
                    self._in_text = False
                    self._text = max(self._text, self._length)
                    continue
                self._escaped = character == "\\" and not self._escaped
                self._length += not self._escaped
            elif character == '"':
                self._in_text, self._length = True, 0
            elif character in "{[":
                self._open.append((character, 1))
            elif character == ",":
                kind, count = self._open[-1]
                self._open[-1] = (kind, count + 1)
                if kind == "[":
                    self._list = max(self._list, count + 1)
            elif character in "}]":
                self._open.pop()
                if not self._open:
                    return place + 1
        return None


class CallReader:
    """The text of an answer that is held to a form -> deltas, as the protocol has them. Text before the calls is content."""

    def __init__(self, form: Form, bounds: Mapping[str, Held] = {}, *, required: bool, ids: Callable[[], str] = new_id) -> None:
        self._form = form
        self._bounds = bounds
        self._required = required
        self._ids = ids
        self._name = ""
        self._text = ""
        self._reading: Literal["content", "name", "arguments", "after"] = "content"
        self._extent = Extent()
        self.calls = 0
        """Calls begun so far."""
        self.is_cut = False
        """Whether a text or a list of the arguments ended at a bound that only the limit of tokens had set."""

    def feed(self, text: str) -> dict[str, Any]:
        """What a piece of text adds to the message: `content`, `tool_calls`, both or nothing."""
        self._text += text
        said: list[str] = []
        pieces: list[dict[str, Any]] = []
        while self._text and self._step(said, pieces):
            pass
        delta: dict[str, Any] = {}
        if said and (content := "".join(said)):
            delta["content"] = content
        if pieces:
            delta["tool_calls"] = pieces
        return delta

    def end(self) -> str:
        """What is left of the content when the answer has ended: text that could have become a call."""
        text, self._text = self._text, ""
        return text if self._reading == "content" and not self._required else ""

    def _step(self, said: list[str], pieces: list[dict[str, Any]]) -> bool:
        """Read on. Gives whether there may be more to read in what has come."""
        form = self._form
        match self._reading:
            case "content":
                before, found, rest = self._text.partition(form.before)
                if self._required and before.strip() and not form.before.startswith(before.lstrip()):
                    raise ServerError("the engine did not keep to the form of a call; try again", 500)
                if not found:
                    if not self._required:
                        place = len(self._text) - overlap(self._text, form.before)
                        said.append(self._text[:place])
                        self._text = self._text[place:]
                    return False
                if not self._required:
                    said.append(before)
                self._text, self._reading = rest, "name"
            case "name":
                name, found, rest = self._text.partition(form.between)
                if not found:
                    return False
                function = {"name": name, "arguments": ""}
                pieces.append({"index": self.calls, "id": self._ids(), "type": "function", "function": function})
                self.calls += 1
                self._name, self._text, self._reading, self._extent = name, rest, "arguments", Extent()
            case "arguments":
                end = self._extent.feed(self._text)
                piece, self._text = self._text[:end], "" if end is None else self._text[end:]
                pieces.append({"index": self.calls - 1, "function": {"arguments": piece}})
                if end is not None:
                    self._reading = "after"
                    if (bounds := self._bounds.get(self._name)) is not None:
                        self.is_cut |= self._extent.reaches(bounds.characters, bounds.items)
            case "after":
                if not form.again or not self._text.startswith(form.again):
                    return False
                self._text, self._reading = self._text[len(form.again) :], "name"
        return True


class Told:
    """Calls as the request declared its tools: custom tools' as their text, `functions`' as the deprecated function call."""

    def __init__(self, offer: Offer) -> None:
        self._custom = offer.custom
        self._legacy = offer.legacy
        self._inputs: dict[int, tuple[dict[str, Any], list[str]]] = {}

    def delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        """The delta with its calls in the form that was asked for. A custom tool's call is kept until it is whole."""
        pieces = delta.pop("tool_calls", None) or ()
        told: list[dict[str, Any]] = []
        for piece in pieces:
            function = piece.get("function") or {}
            index = piece.get("index", 0)
            if self._legacy:
                told_of = delta.setdefault("function_call", {})
                for key, value in function.items():
                    told_of[key] = told_of.get(key, "") + value
            elif function.get("name") in self._custom:
                self._inputs[index] = ({"index": index, "id": piece.get("id"), "type": "custom"} |
                                       {"custom": {"name": function["name"]}}, [function.get("arguments") or ""])  # fmt: skip
            elif index in self._inputs:
                self._inputs[index][1].append(function.get("arguments") or "")
            else:
                told.append(piece)
        if told:
            delta["tool_calls"] = told
        return delta

    def end(self) -> list[dict[str, Any]]:
        """The calls of custom tools, whole."""
        made = []
        for call, pieces in self._inputs.values():
            call["custom"]["input"] = _input_of("".join(pieces))
            made.append(call)
        return made

    def reason(self, reason: str) -> str:
        """The finish reason in the words of what was asked for."""
        return "function_call" if self._legacy and reason == "tool_calls" else reason


def _input_of(arguments: str) -> str:
    """The text in a custom tool's arguments, which may have been cut off in its middle."""
    for cut in range(7):  # the longest escape has six characters
        for closing in ("", '"}'):
            try:
                plain = msgspec.json.decode(arguments[: len(arguments) - cut] + closing)
            except msgspec.DecodeError:
                continue
            return str(plain.get("input", "")) if isinstance(plain, dict) else ""
    return ""


class Reader:
    """One choice of the engine's answer, chunk by chunk -> the same as the request declared its tools."""

    def __init__(self, offer: Offer, plan: Plan) -> None:
        held_to = plan.form is not None
        self._thinking = Splitter(THINK, opened=plan.opened) if held_to else None
        self._calls = CallReader(plan.form, plan.bounds, required=offer.required) if plan.form is not None else None
        self._told = Told(offer)
        self._single = offer.parallel is False
        self._logprobs: list[dict[str, Any]] = []

    def read(self, choice: dict[str, Any]) -> bool:
        """Put what the chunk adds to the choice in the place of the engine's. Gives whether there is anything to tell."""
        delta, reason = choice["delta"], choice["finish_reason"]
        if self._calls is not None:
            self._read_text(delta, self._calls, ends=bool(reason))
            if reason == "stop" and self._calls.calls:
                reason = "length" if self._calls.is_cut else "tool_calls"
        elif self._single and "tool_calls" in delta:
            # The engine lets a model go on to a second call in some templates' forms.
            delta["tool_calls"] = [piece for piece in delta["tool_calls"] if not piece.get("index")]
        self._told.delta(delta)
        if reason:
            if calls := self._told.end():
                delta["tool_calls"] = [*delta.get("tool_calls", ()), *calls]
            choice["finish_reason"] = self._told.reason(reason)
        if "role" in delta:
            delta.setdefault("content", None)  # as the hosted service begins
        logprobs = choice.get("logprobs")
        if logprobs:
            self._logprobs += logprobs["content"]
        if not (delta or reason):
            return False
        if self._logprobs:
            choice["logprobs"], self._logprobs = {**(logprobs or {}), "content": self._logprobs}, []
        return True

    def _read_text(self, delta: dict[str, Any], calls: CallReader, *, ends: bool) -> None:
        thinking = self._thinking
        assert thinking is not None
        pieces = [thinking.feed(delta.pop("content", None) or "")]
        if ends:
            pieces.append(thinking.end())
        thought = "".join(piece for piece, _ in pieces)
        if thought:
            delta["reasoning_content"] = thought
        delta |= calls.feed("".join(piece for _, piece in pieces))
        if ends and (rest := calls.end()):
            delta["content"] = delta.get("content", "") + rest
