"""`adapt=True`: a request that a server refused for one parameter, with that parameter fixed. Pure: time is passed in.

The parameter is the one that the server names, in its answer's `param` or in its words (`failures.py`). It is fixed once: under
its other name, or by leaving it out, where the answer means the same without it. What a model was seen not to take is
remembered. Nothing that says what is wanted is ever left out: then the server's error stands. The content of messages is not
even read; all happens to the bytes that go out, in which only the names of the parameters are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from gpt.errors import BadRequestError, GptError, UnsupportedParameterError
from gpt.protocol.flow import Flow
from gpt.protocol.wire import AttemptInfo, HttpRequest, ResponseInfo, Seconds

T = TypeVar("T")

RENAMES = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""Two names of one thing, of which some servers and models know only the one."""

ROLES = {"developer": "system", "system": "developer"}
"""Two names of one role, likewise."""

DROPPED = frozenset(
    {
        "frequency_penalty",
        "metadata",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "seed",
        "service_tier",
        "stream_options",
        "temperature",
        "top_p",
        "user",
        "verbosity",
        # Not the protocol's, but other servers' ways to draw tokens:
        "min_p",
        "repetition_penalty",
        "top_a",
        "top_k",
        "typical_p",
    }
)
"""Parameters without which the answer may be another one, but answers the same question in the same form.

Not among them: what the answer must have (tools, response_format, n, stop, logprobs, modalities), what it must not have
(logit_bias), how long it may be, and what is to be kept of it (store).
"""

DROPPED_IF = {"logprobs": b"false", "parallel_tool_calls": b"true", "store": b"false"}
"""Parameters that are left out only where they ask, as JSON, for what a server does anyway."""

AT_MOST = 5
"""Parameters that are fixed in one call, each once."""


class Change(msgspec.Struct, frozen=True):
    """One parameter fixed: `param` goes out as `into`, or not at all. Of roles, `param` is "role" and `old` the one."""

    param: str
    into: str = ""
    old: str = ""

    def __str__(self) -> str:
        if not self.into:
            return f"{self.param} dropped"
        return f"role {self.old} -> {self.into}" if self.old else f"{self.param} -> {self.into}"


def change_for(error: GptError, body: bytes) -> Change | None:
    """What fixes the request with this body, which the server refused with `error`; None where nothing may."""
    if not isinstance(error, UnsupportedParameterError) or not error.param:
        return None
    if re.search(r"\bmessages?\b.*\brole\b", error.param):
        return _role_change(error.message, body)
    fields = _fields(body)
    name = _name(error.param)
    other = RENAMES.get(name)
    if other is not None:
        return Change(name, other) if name in fields and other not in fields else None
    return Change(name) if _may_drop(name, fields) else None


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(body, type=dict[str, msgspec.Raw])


def _may_drop(name: str, fields: dict[str, msgspec.Raw]) -> bool:
    return name in fields and (name in DROPPED or (name in DROPPED_IF and bytes(fields[name]) in (DROPPED_IF[name], b"null")))


def _name(param: str) -> str:
    """The parameter in a path, in the protocol's spelling: "stream_options.include_usage", "presencePenalty" (xAI)."""
    first = re.split(r"[.\[]", param.removeprefix("$.").removeprefix("body."))[0]
    return re.sub(r"(?<=[a-z])[A-Z]", lambda found: f"_{found.group().lower()}", first)


def _role_change(message: str, body: bytes) -> Change | None:
    """The role that the server does not take, for the one that means the same."""
    said = re.split(r"expected|is not one of", message)[0]  # behind these it may name those that it takes
    for old, new in ROLES.items():
        if re.search(rf"\b{old}\b", said) and _with_role(_fields(body)["messages"], old, new) is not None:
            return Change("role", new, old)
    return None


def _with_role(messages: msgspec.Raw, old: str, new: str) -> msgspec.Raw | None:
    """The messages with one role for another; None where no message has it."""
    was, becomes = (msgspec.json.encode(role) for role in (old, new))
    parts = msgspec.json.decode(messages, type=list[dict[str, msgspec.Raw]])
    found = [part for part in parts if bytes(part.get("role", b"")) == was]
    for part in found:
        part["role"] = msgspec.Raw(becomes)
    return msgspec.Raw(msgspec.json.encode(parts)) if found else None


def applied(body: bytes, changes: tuple[Change, ...]) -> tuple[bytes, tuple[Change, ...]]:
    """The body with the changes made, and those of them that it needed."""
    fields = _fields(body)
    needed = []
    for change in changes:
        if change.old:
            messages = _with_role(fields["messages"], change.old, change.into)
            if messages is None:
                continue
            fields["messages"] = messages
        elif change.into:
            if change.param not in fields or change.into in fields:
                continue
            fields[change.into] = fields.pop(change.param)
        elif _may_drop(change.param, fields):
            del fields[change.param]
        else:
            continue
        needed.append(change)
    return (msgspec.json.encode(fields) if needed else body), tuple(needed)


class Adaptations:
    """What the models of one server were seen not to take. May be shared by threads: what is known is replaced, not changed."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[Change, ...]] = {}

    def of(self, model: object) -> tuple[Change, ...]:
        """The changes that this model needs, as far as is known."""
        return self._known.get(model, ())

    def learn(self, model: object, changes: tuple[Change, ...]) -> None:
        """Take in that the model answered a request with these changes."""
        known = self.of(model)
        new = tuple(change for change in changes if change not in known)
        if new:
            self._known[model] = known + new


Note = Callable[[ResponseInfo], ResponseInfo]
Ask = Callable[[HttpRequest, Seconds | None, Note], Flow[T]]
"""The flow of a call: of a request, the seconds that are left for it, and what its facts go through."""


def adapting(
    asked: HttpRequest,
    model: object,
    known: Adaptations,
    ask: Ask[T],
    clock: Callable[[], Seconds],
    retrying: Callable[[AttemptInfo, Seconds], Seconds | None] | None = None,
) -> Flow[T]:
    """The flow of a call whose refused parameters are fixed, each once; its facts tell which, as `adapted`.

    What is asked of a `model` is changed from the start by what is known of it. Attempts before and after a change share the
    request's deadline and are told together. Raises what the last of them raised.
    """
    began = clock()
    tried: tuple[AttemptInfo, ...] = ()
    deadline = left = asked.deadline
    changes = known.of(model)
    if changes:
        body, changes = applied(asked.body, changes)
        asked = msgspec.structs.replace(asked, body=body)
    fixed = 0

    def note(info: ResponseInfo) -> ResponseInfo:
        elapsed = clock() - began if tried else info.elapsed
        return msgspec.structs.replace(
            info, attempts=tried + info.attempts, elapsed=elapsed, adapted=tuple(str(change) for change in changes)
        )

    while True:
        try:
            made = yield from ask(asked, left, note)
        except BadRequestError as error:
            error.attempts = tried = tried + error.attempts
            change = change_for(error, asked.body)
            left = None if deadline is None else deadline - (clock() - began)
            if change is None or fixed == AT_MOST or _undoes(change, changes) or (left is not None and left <= 0):
                raise
            if retrying is not None:
                retrying(tried[-1], 0.0)
            body, _ = applied(asked.body, (change,))
            asked = msgspec.structs.replace(asked, body=body)
            changes, fixed = (*changes, change), fixed + 1
        else:
            known.learn(model, changes)
            return made


def _undoes(change: Change, changes: tuple[Change, ...]) -> bool:
    """Whether a change was made already, or takes one back: a server that takes neither name is not asked for ever."""
    return any(change.param in (done.param, done.into) for done in changes)
