"""Fold chunks into a completion; make one chunk of a whole completion.

The fold is incremental and takes chunks in any order of choices. Identity (id, name, type) is set once, by the first chunk
that has it; text is appended; usage and other top-level facts are kept from whichever chunk has them. Fields that are not
declared are kept too, for `to_dict`: those of a delta or a call add up as deltas do, of the others the last stands.

A piece of a tool call goes to the call with its index, else with its id, else to the last call. It starts a new call when it
brings an id or name that cannot be the open call's: servers leave out the index, count it from 1, give every call index 0,
or repeat id and name on each piece. A piece that repeats the whole of a finished call's arguments adds nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec

from gpt.protocol.events import (
    AudioEvent,
    ContentEvent,
    FilterEvent,
    LogprobsEvent,
    ReasoningEvent,
    RefusalEvent,
    StreamEvent,
    Text,
    ToolCallEvent,
    UsageEvent,
    made_call,
)
from gpt.protocol.wire import ResponseInfo, Seconds
from gpt.types import (
    Annotation,
    AudioDelta,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    CustomToolCall,
    Delta,
    FunctionCall,
    Logprobs,
    ResponseAudio,
    ResponseMessage,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
    details_text,
)

Events = deque[StreamEvent]

_FACTS = ("id", "created", "model", "system_fingerprint", "service_tier", "usage", "moderation", "timings", "provider")
_OF_CHOICE = ("native_finish_reason", "stop_reason", "content_filter_results", "content_filter_offsets")


def has_content(chunk: ChatCompletionChunk) -> bool:
    """Whether a chunk adds to the answer, or ends a choice: not a role, a usage, a filter's finding or nothing at all."""
    for choice in chunk.choices:
        delta = choice.delta
        if (
            delta.content
            or choice.finish_reason
            or delta.tool_calls
            or delta.reasoning_content
            or delta.raw_reasoning
            or delta.refusal
            or delta.audio
            or delta.function_call
            or delta.reasoning_details
            or delta.annotations
            or choice.logprobs
        ):
            return True
    return False


class Fold:
    """What the chunks so far add up to."""

    __slots__ = ("_choices", "_facts", "_keeps_unknown", "_unknown", "_usage")

    def __init__(self, *, keep_unknown: bool = True) -> None:
        self._keeps_unknown = keep_unknown
        self._facts: dict[str, Any] = {}
        self._choices: dict[int, _ChoiceFold] = {}
        self._unknown: dict[str, Any] = {}
        self._usage: ChatCompletionChunk | None = None

    def add(self, chunk: ChatCompletionChunk, events: Events | None = None) -> None:
        """Take one chunk in. What it added is put into `events`, where they are given, in the order of the chunk."""
        facts = self._facts
        if chunk.id:
            facts["id"] = chunk.id
        if chunk.created:
            facts["created"] = chunk.created
        if chunk.model:
            facts["model"] = chunk.model
        if chunk.system_fingerprint:
            facts["system_fingerprint"] = chunk.system_fingerprint
        if chunk.service_tier:
            facts["service_tier"] = chunk.service_tier
        if chunk.provider:
            facts["provider"] = chunk.provider
        if chunk.timings:
            facts["timings"] = chunk.timings
        if chunk.moderation:
            facts["moderation"] = chunk.moderation
        if chunk.prompt_filter_results:
            facts["prompt_filter_results"] = chunk.prompt_filter_results
            if events is not None:
                events.append(FilterEvent(chunk.prompt_filter_results))
        for choice in chunk.choices:
            folded = self._choices.get(choice.index)
            if folded is None:
                folded = self._choices[choice.index] = _ChoiceFold(choice.index)
            folded.add(choice, events)
        if chunk.usage is not None:
            facts["usage"] = chunk.usage
            self._usage = chunk
            if events is not None:
                events.append(UsageEvent(chunk.usage))
        if self._keeps_unknown and (body := chunk.__dict__.get("body")) is not None:
            try:
                _known(ChatCompletionChunk).decode(body)
            except msgspec.DecodeError:
                self._keep_unknown(msgspec.json.decode(body))

    def _keep_unknown(self, document: Any) -> None:
        """Keep what a chunk, as plain dicts, has beyond the declared fields."""
        _merge(self._unknown, _beyond(document, ChatCompletionChunk), grows=False)
        choices = document.get("choices")
        for place, choice in enumerate(choices if isinstance(choices, list) else ()):
            index = choice.get("index")
            self._choices[index if isinstance(index, int) else place].keep_unknown(choice)

    @property
    def usage(self) -> Usage | None:
        """The tokens used, as far as the server has said."""
        return self._facts.get("usage")

    def info(self, known: ResponseInfo | None, elapsed: Seconds, first_token: Seconds | None) -> ResponseInfo:
        """The facts of the exchange: those that are `known` to who made the chunks, and those that the reader has."""
        return msgspec.structs.replace(
            known or ResponseInfo(first_token=first_token),
            elapsed=elapsed,
            completion_tokens=self.usage.completion_tokens if self.usage else None,
        )

    def completion(self) -> ChatCompletion:
        """The completion so far; `choices` are in the order of their indexes."""
        folds = [self._choices[index] for index in sorted(self._choices)]
        made = ChatCompletion(choices=[fold.choice() for fold in folds], **self._facts)
        usage = self._usage.to_dict().get("usage") if self._usage is not None else None
        if self._unknown or any(fold.unknown for fold in folds) or usage:
            body = msgspec.to_builtins(made)
            if usage:
                body["usage"] = usage
            for choice, fold in zip(body["choices"], folds, strict=True):
                fold.join_unknown(choice)
            made.__dict__["body"] = msgspec.json.encode(body | self._unknown)
        return made


class _CallFold:
    """One tool call, or the legacy function call. `place` counts the choice's calls from 0, as they came."""

    __slots__ = ("id", "index", "name", "place", "text", "type", "unknown")

    def __init__(self, place: int = 0, index: int | None = None) -> None:
        self.place = place
        self.index = index
        self.id = self.name = self.type = ""
        self.text = Text()
        self.unknown: dict[str, Any] = {}

    def add(self, call_id: str | None, kind: str | None, name: str | None, piece: str | None) -> str:
        """Take a piece in. Gives what the text grew by."""
        self.id = self.id or call_id or ""
        self.type = self.type or kind or ""
        self.name = self.name or name or ""
        if not piece or self._repeats(piece):
            return ""
        self.text.add(piece)
        return piece

    def _repeats(self, piece: str) -> bool:
        """Whether `piece` is, once more, the whole of the finished arguments."""
        if not (piece[0] == "{" and piece[-1] == "}" and self.text.length):
            return False
        try:
            return bool(msgspec.json.decode(self.text.get() or "") == msgspec.json.decode(piece))
        except msgspec.DecodeError:
            return False

    def is_whole(self) -> bool:
        """Whether the arguments are whole as JSON."""
        if not self.text.length or self.text.last() not in '}]"':
            return False
        try:
            msgspec.json.decode(self.text.get() or "")
        except msgspec.DecodeError:
            return False
        return True

    def call(self) -> ToolCall | CustomToolCall:
        return made_call((self.id, self.type, self.name), self.text.get() or "")

    def event(self, delta: str, choice: int) -> ToolCallEvent:
        return ToolCallEvent(delta, self.place, choice, (self.id, self.type, self.name), self.text, self.text.length)


class _ChoiceFold:
    """One choice."""

    __slots__ = (
        "_annotations",
        "_audio",
        "_by_id",
        "_by_index",
        "_calls",
        "_content",
        "_delta_unknown",
        "_function",
        "_in_details",
        "_logprobs",
        "_others",
        "_quad",
        "_reasoning",
        "_reasoning_content",
        "_reasoning_details",
        "_refusal",
        "_role",
        "_unknown",
        "finish_reason",
        "index",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self._role = ""
        self._content, self._refusal = Text(), Text()
        self._reasoning_content, self._reasoning, self._in_details = Text(), Text(), Text()
        self._reasoning_details: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._function: _CallFold | None = None
        self._calls: list[_CallFold] = []
        self._by_index: dict[int, _CallFold] = {}
        self._by_id: dict[str, _CallFold] = {}
        self._audio: dict[str, Any] = {}
        self._quad = ""  # the characters of base64 that make no whole bytes yet
        self._logprobs: tuple[list[TokenLogprob], list[TokenLogprob]] | None = None
        self._others: dict[str, Any] = {}
        self._unknown: dict[str, Any] = {}
        self._delta_unknown: dict[str, Any] = {}

    def add(self, choice: ChunkChoice, events: Events | None) -> None:
        delta = choice.delta
        # First, because a chunk may have the end of the thinking and the beginning of the answer.
        if delta.reasoning_content is not None or delta.raw_reasoning is not None or delta.reasoning_details:
            self._add_reasoning(delta, events)
        content = delta.content
        if content is not None:
            self._content.add(content)
            if content and events is not None:
                events.append(ContentEvent(content, self.index, self._content, self._content.length))
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
        if delta.role and not self._role:
            self._role = delta.role
        if delta.tool_calls:
            for piece in delta.tool_calls:
                self._add_call(piece, events)
        if choice.logprobs is not None:
            self._add_logprobs(choice.logprobs, events)
        if delta.refusal is not None:
            self._refusal.add(delta.refusal)
            if delta.refusal and events is not None:
                events.append(RefusalEvent(delta.refusal, self.index, self._refusal, self._refusal.length))
        if delta.annotations:
            self._annotations.extend(delta.annotations)
        if delta.function_call is not None:
            self._function = self._function or _CallFold()
            grew = self._function.add(None, None, delta.function_call.name, delta.function_call.arguments)
            if events is not None:
                events.append(self._function.event(grew, self.index))
        if delta.audio is not None:
            self._add_audio(delta.audio, events)
        if choice.native_finish_reason is not None:
            self._others["native_finish_reason"] = choice.native_finish_reason
        if choice.stop_reason is not None:
            self._others["stop_reason"] = choice.stop_reason
        if choice.content_filter_results or choice.content_filter_offsets:
            self._add_filter(choice, events)

    def _add_reasoning(self, delta: Delta, events: Events | None) -> None:
        """Take a piece of thinking in. A server that sends it under several names sends the same piece under each."""
        details = delta.reasoning_details
        if details:
            self._reasoning_details.extend(details)
        told = events is None
        for text, piece in (
            (self._reasoning_content, delta.reasoning_content),
            (self._reasoning, delta.raw_reasoning),
            (self._in_details, details_text(details) if details else None),
        ):
            if piece is not None:
                text.add(piece)
                if piece and not told:
                    told = True
                    events.append(ReasoningEvent(piece, self.index, text, text.length))  # type: ignore[union-attr]

    def _add_logprobs(self, logprobs: Logprobs, events: Events | None) -> None:
        content, refusal = self._logprobs = self._logprobs or ([], [])
        new, new_refusal = logprobs.content or [], logprobs.refusal or []
        content.extend(new)
        refusal.extend(new_refusal)
        if events is not None and (new or new_refusal):
            events.append(LogprobsEvent(new, new_refusal, self.index, content, len(content)))

    def _add_filter(self, choice: ChunkChoice, events: Events | None) -> None:
        for name in ("content_filter_results", "content_filter_offsets"):
            value = getattr(choice, name)
            if value:
                self._others[name] = value
        if events is not None:
            events.append(FilterEvent(choice.content_filter_results, self.index, choice.content_filter_offsets))

    def _add_call(self, piece: ToolCallDelta, events: Events | None) -> None:
        body = piece.custom or piece.function
        name = body.name if body else None
        text = piece.custom.input if piece.custom else piece.function.arguments if piece.function else None
        call = self._slot(piece.index, piece.id, name)
        grew = call.add(piece.id, "custom" if piece.custom else piece.type, name, text)
        if call.id and call.id not in self._by_id:
            self._by_id[call.id] = call
        if events is not None:
            events.append(call.event(grew, self.index))

    def _slot(self, index: int | None, call_id: str | None, name: str | None) -> _CallFold:
        """The call that a piece belongs to, new where it must be."""
        found: _CallFold | None
        if index is not None:
            found = self._by_index.get(index)
            if found is None and not (call_id or name) and self._calls and self._calls[-1].index is None:
                found = self._calls[-1]  # the first piece of it had no index
            # The same index with another id and a name is another call: some servers give every call index 0. Unless the open
            # one is in the middle of its arguments: then the server makes a new id for each piece.
            elif found and call_id and found.id and call_id != found.id and name:
                found = self._by_id.get(call_id) or (found if _goes_on(found, name) else None)
        elif call_id:
            found = self._by_id.get(call_id)
        else:
            found = self._calls[-1] if self._calls else None
            if found and name and found.name and (name != found.name or found.is_whole()):
                found = None
        if found is None:
            found = _CallFold(len(self._calls), index)
            self._calls.append(found)
        if index is not None:
            found.index = index
            self._by_index[index] = found
        return found

    def _add_audio(self, piece: AudioDelta, events: Events | None) -> None:
        audio = self._audio
        for name in ("id", "expires_at"):
            value = getattr(piece, name)
            if value is not None:
                audio[name] = value
        data, transcript = audio.setdefault("data", Text()), audio.setdefault("transcript", Text())
        begun = self._quad
        new = piece.data or ""
        open_quad = begun + new
        self._quad = open_quad[len(open_quad) // 4 * 4 :]
        data.add(new)
        transcript.add(piece.transcript or "")
        if events is not None and (new or piece.transcript):
            events.append(AudioEvent(new, piece.transcript or "", self.index, data, data.length, begun))

    def _ordered(self) -> list[_CallFold]:
        """The calls by index where every one has an index, else as they came."""
        calls = self._calls
        return sorted(calls, key=lambda call: call.index or 0) if all(call.index is not None for call in calls) else calls

    def choice(self) -> Choice:
        function = self._function
        message = ResponseMessage(
            content=self._content.get(),
            role=self._role or "assistant",
            refusal=self._refusal.get(),
            function_call=FunctionCall(function.text.get() or "", function.name) if function else None,
            tool_calls=[call.call() for call in self._ordered()] or None,
            annotations=[_annotation(note) for note in self._annotations] or None,
            audio=self._sound(),
            reasoning_content=self._reasoning_content.get(),
            raw_reasoning=self._reasoning.get(),
            reasoning_details=_whole_details(self._reasoning_details) or None,
        )
        # Copies, because more may come.
        logprobs = Logprobs(self._logprobs[0][:] or None, self._logprobs[1][:] or None) if self._logprobs else None
        return Choice(self.finish_reason, self.index, message, logprobs, **self._others)

    def _sound(self) -> ResponseAudio | None:
        if not self._audio:
            return None
        audio = self._audio
        return ResponseAudio(
            audio.get("id", ""), audio.get("expires_at"), audio["data"].get() or "", audio["transcript"].get() or ""
        )

    @property
    def unknown(self) -> bool:
        """Whether there is more to tell than the declared fields can."""
        return bool(self._unknown or self._delta_unknown or self._annotations or any(call.unknown for call in self._calls))

    def keep_unknown(self, choice: dict[str, Any]) -> None:
        """Keep what a choice of a chunk, as plain dicts, has beyond the declared fields."""
        _merge(self._unknown, _beyond(choice, ChunkChoice), grows=False)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        _merge(self._delta_unknown, _beyond(delta, Delta), grows=True)
        calls = delta.get("tool_calls")
        for place, piece in enumerate(calls if isinstance(calls, list) else ()):
            beyond = _beyond(piece, ToolCallDelta) if isinstance(piece, dict) else {}
            if beyond:
                call = self._by_id.get(str(piece.get("id"))) or self._by_index.get(piece.get("index", place)) or self._calls[-1]
                _merge(call.unknown, beyond, grows=True)

    def join_unknown(self, choice: dict[str, Any]) -> None:
        """Put what was kept into the choice as a plain dict."""
        choice |= self._unknown
        message = choice["message"]
        message |= self._delta_unknown
        if self._annotations:
            message["annotations"] = self._annotations
        for made, call in zip(message.get("tool_calls") or (), self._ordered(), strict=False):
            made |= call.unknown


def _goes_on(call: _CallFold, name: str) -> bool:
    """Whether a piece with this name and another id can only be more of `call`."""
    return name == call.name and call.text.length > 0 and not call.is_whole()


def _whole_details(pieces: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of the thinking: pieces of one type and index are one part, whose text grows. Without an index each is one.

    They must be whole to be sent back: Anthropic's signature comes in a piece of its own and is of the whole text
    (agno#5802, OpenRouterTeam/ai-sdk-provider#423).
    """
    parts: dict[Any, list[dict[str, Any]]] = {}
    for place, piece in enumerate(pieces):
        index = piece.get("index")
        parts.setdefault((str(piece.get("type")), index) if isinstance(index, int) else place, []).append(piece)
    return [_whole_detail(part) for part in parts.values()]


def _whole_detail(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    if len(pieces) == 1:
        return pieces[0]
    made = {name: value for piece in pieces for name, value in piece.items() if value is not None}
    for name in ("text", "summary"):
        if isinstance(made.get(name), str):
            made[name] = "".join(text for piece in pieces if isinstance(text := piece.get(name), str))
    return made


def _annotation(note: dict[str, Any]) -> Annotation:
    """The note as far as it has the declared form."""
    try:
        return msgspec.convert(note, Annotation)
    except msgspec.ValidationError:
        return Annotation(None, str(note.get("type")))


# --------------------------------------------------------------------------------------------------------------------
# Undeclared fields
# --------------------------------------------------------------------------------------------------------------------

_NESTED = {"choices": ChunkChoice, "delta": Delta, "tool_calls": ToolCallDelta}


@cache
def _known(kind: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    """A decoder that refuses what has fields beyond those that `kind`, and what is in it, declare. It reads no values."""
    return msgspec.json.Decoder(_outline(kind))


def _outline(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for name in kind.__struct_encode_fields__:
        nested: Any = _NESTED.get(name)
        inside: Any = msgspec.Raw
        if nested is not None:
            one: Any = _outline(nested)
            inside = one | None if name == "delta" else list[one] | None
        fields.append((name, inside, None))
    return msgspec.defstruct("Outline", fields, forbid_unknown_fields=True, gc=False)


def _beyond(document: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields of a plain dict that `kind` does not declare."""
    return {name: value for name, value in document.items() if name not in kind.__struct_encode_fields__}


def _merge(kept: dict[str, Any], new: dict[str, Any], *, grows: bool) -> None:
    """Put fields beside those that were kept. With `grows`, text and lists are appended; else the last value stands."""
    for name, value in new.items():
        old: Any = kept.get(name)
        if value is None and old is not None:
            continue
        if grows and type(old) is type(value) and type(old) in (str, list):
            kept[name] = old + value
        elif grows and isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value, grows=True)
        else:
            kept[name] = value


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
                **{name: getattr(choice, name) for name in _OF_CHOICE},
            )
        )
    return ChatCompletionChunk(choices=choices, **facts)
