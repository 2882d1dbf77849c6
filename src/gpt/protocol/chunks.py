"""Fold chunks into a completion; make one chunk of a whole completion.

The fold is incremental and takes chunks in any order of choices. Identity (id, name, type) is set once, by the first chunk
that has it; text is appended; usage and other top-level facts are kept from whichever chunk has them.

A piece of a tool call goes to the call with its index, else with its id, else to the last call. It starts a new call when it
brings an id or name that cannot be the open call's: servers leave out the index, count it from 1, give every call index 0,
or repeat id and name on each piece. A piece that repeats the whole of a finished call's arguments adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from gpt.types import (
    Annotation,
    AudioDelta,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    CustomCall,
    CustomToolCall,
    Delta,
    FunctionCall,
    Logprobs,
    ResponseAudio,
    ResponseMessage,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)

_FACTS = ("id", "created", "model", "system_fingerprint", "service_tier", "usage", "moderation", "timings", "provider")


class Growth(NamedTuple):
    """What a chunk added. `kind` is "content", "refusal", "reasoning" or "tool_call"; `grew` is the text or call it was
    added to, `choice` that choice's index.
    """

    kind: str
    grew: Any
    delta: str
    choice: int


class Fold:
    """What the chunks so far add up to."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}
        self._choices: dict[int, _ChoiceFold] = {}

    def add(self, chunk: ChatCompletionChunk) -> list[Growth]:
        """Take one chunk in. Gives what grew, in the order of the chunk."""
        facts = self._facts
        for name in _FACTS:
            value = getattr(chunk, name)
            if value:
                facts[name] = value
        if chunk.prompt_filter_results:
            facts["prompt_filter_results"] = chunk.prompt_filter_results
        grown: list[Growth] = []
        for choice in chunk.choices:
            folded = self._choices.get(choice.index)
            if folded is None:
                folded = self._choices[choice.index] = _ChoiceFold()
            folded.add(choice, grown)
        return grown

    def completion(self) -> ChatCompletion:
        """The completion so far; `choices` are in the order of their indexes."""
        choices = [self._choices[index].choice(index) for index in sorted(self._choices)]
        return ChatCompletion(choices=choices, **self._facts)


class Text:
    """Text that grows: pieces are joined when it is read, so that many small ones stay linear."""

    __slots__ = ("_pieces", "length")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.length = 0

    def add(self, piece: str) -> None:
        """Append `piece`."""
        self._pieces.append(piece)
        self.length += len(piece)

    def get(self) -> str | None:
        """The text so far; None when nothing was ever added."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else None


class _CallFold:
    """One tool call, or the legacy function call. `place` counts the choice's calls from 0, as they came."""

    def __init__(self, place: int = 0) -> None:
        self.place = place
        self.id = self.name = self.type = ""
        self.text = Text()

    def add(self, call_id: str | None, kind: str | None, name: str | None, piece: str | None) -> None:
        self.id = self.id or call_id or ""
        self.type = self.type or kind or ""
        self.name = self.name or name or ""
        if piece and not (len(piece) > 1 and piece == self.text.get() and _is_json(piece)):
            self.text.add(piece)

    def call(self) -> ToolCall | CustomToolCall:
        text = self.text.get() or ""
        if self.type == "custom":
            return CustomToolCall(CustomCall(text, self.name), self.id)
        return ToolCall(FunctionCall(text, self.name), self.id)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


class _ChoiceFold:
    """One choice."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._role = ""
        self._content, self._refusal = Text(), Text()
        self._reasoning_content, self._reasoning = Text(), Text()
        self._reasoning_details: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._function: _CallFold | None = None
        self._calls: list[tuple[int | None, _CallFold]] = []
        self._audio: dict[str, Any] = {}
        self._logprobs: tuple[list[TokenLogprob], list[TokenLogprob]] | None = None
        self._others: dict[str, Any] = {}

    def add(self, choice: ChunkChoice, grown: list[Growth]) -> None:
        delta, index = choice.delta, choice.index
        self._grow("content", self._content, delta.content, index, grown)
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
        if choice.logprobs is not None:
            content, refusal = self._logprobs = self._logprobs or ([], [])
            content.extend(choice.logprobs.content or ())
            refusal.extend(choice.logprobs.refusal or ())
        for name in ("native_finish_reason", "stop_reason", "content_filter_results"):
            value = getattr(choice, name)
            if value is not None:
                self._others[name] = value
        self._role = self._role or delta.role or ""
        self._grow("refusal", self._refusal, delta.refusal, index, grown)
        self._grow("reasoning", self._reasoning_content, delta.reasoning_content, index, grown)
        # A server that sends both names sends the same piece twice.
        news = grown if delta.reasoning_content is None else []
        self._grow("reasoning", self._reasoning, delta.reasoning, index, news)
        self._reasoning_details.extend(delta.reasoning_details or ())
        self._annotations.extend(delta.annotations or ())
        for piece in delta.tool_calls or ():
            self._add_call(piece, index, grown)
        if delta.function_call is not None:
            self._function = self._function or _CallFold()
            self._function.add(None, None, delta.function_call.name, delta.function_call.arguments)
        if delta.audio is not None:
            self._add_audio(delta.audio)

    @staticmethod
    def _grow(kind: str, text: Text, piece: str | None, index: int, grown: list[Growth]) -> None:
        if piece is not None:
            text.add(piece)
            if piece:
                grown.append(Growth(kind, text, piece, index))

    def _add_call(self, piece: ToolCallDelta, index: int, grown: list[Growth]) -> None:
        body = piece.custom or piece.function
        name = body.name if body else None
        text = piece.custom.input if piece.custom else piece.function.arguments if piece.function else None
        kind = "custom" if piece.custom else piece.type
        call = self._slot(piece.index, piece.id, name)
        before = call.text.length
        call.add(piece.id, kind, name, text)
        grown.append(Growth("tool_call", call, text or "" if call.text.length > before else "", index))

    def _slot(self, index: int | None, call_id: str | None, name: str | None) -> _CallFold:
        """The call that a piece belongs to, new where it must be."""
        found: _CallFold | None = None
        if index is not None:
            found = next((call for place, call in reversed(self._calls) if place == index), None)
            # The same index with another id and a name is another call: some servers give every call index 0.
            if found and call_id and found.id and call_id != found.id and name:
                found = next((call for _, call in self._calls if call.id == call_id), None)
        elif call_id:
            found = next((call for _, call in self._calls if call.id == call_id), None)
        elif self._calls:
            found = self._calls[-1][1]
            if name and found.name and (name != found.name or _is_json(found.text.get() or "")):
                found = None
        if found is None:
            found = _CallFold(len(self._calls))
            self._calls.append((index, found))
        return found

    def _add_audio(self, piece: AudioDelta) -> None:
        audio = self._audio
        for name in ("id", "expires_at"):
            value = getattr(piece, name)
            if value is not None:
                audio[name] = value
        for name in ("data", "transcript"):
            audio.setdefault(name, Text()).add(getattr(piece, name) or "")

    def calls(self) -> list[ToolCall | CustomToolCall]:
        """The calls so far, by index where every one has an index, else as they came."""
        calls = self._calls
        if all(place is not None for place, _ in calls):
            calls = sorted(calls, key=lambda item: item[0] or 0)
        return [call.call() for _, call in calls]

    def choice(self, index: int) -> Choice:
        function = self._function
        message = ResponseMessage(
            content=self._content.get(),
            role=self._role or "assistant",
            refusal=self._refusal.get(),
            function_call=FunctionCall(function.text.get() or "", function.name) if function else None,
            tool_calls=self.calls() or None,
            annotations=msgspec.convert(self._annotations, list[Annotation]) if self._annotations else None,
            audio=self._sound(),
            reasoning_content=self._reasoning_content.get(),
            reasoning=self._reasoning.get(),
            reasoning_details=self._reasoning_details or None,
        )
        logprobs = Logprobs(self._logprobs[0] or None, self._logprobs[1] or None) if self._logprobs else None
        return Choice(self.finish_reason, index, message, logprobs, **self._others)

    def _sound(self) -> ResponseAudio | None:
        if not self._audio:
            return None
        audio = self._audio
        return ResponseAudio(
            audio.get("id", ""), audio.get("expires_at"), audio["data"].get() or "", audio["transcript"].get() or ""
        )


def fold(chunks: Iterable[ChatCompletionChunk]) -> ChatCompletion:
    """The completion that these chunks add up to."""
    folded = Fold()
    for chunk in chunks:
        folded.add(chunk)
    return folded.completion()


def whole(completion: ChatCompletion) -> ChatCompletionChunk:
    """One chunk that folds to `completion`."""
    facts = {name: getattr(completion, name) for name in (*_FACTS, "prompt_filter_results")}
    choices = []
    for choice in completion.choices:
        message = msgspec.to_builtins(choice.message)
        for place, call in enumerate(message.get("tool_calls") or ()):
            call["index"] = place
        choices.append(
            ChunkChoice(
                delta=msgspec.convert(message, Delta),
                finish_reason=choice.finish_reason,
                index=choice.index,
                logprobs=choice.logprobs,
                native_finish_reason=choice.native_finish_reason,
                stop_reason=choice.stop_reason,
                content_filter_results=choice.content_filter_results,
            )
        )
    return ChatCompletionChunk(choices=choices, **facts)
