"""JSON text that is still coming -> the value so far, in linear time.

Each character is looked at once. Containers grow in place, so the value is the same object all along; what is read of it is
what has come until then.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

Trust = Literal["trusted", "growing"]

_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[^\s,\]}]+")
_WHOLE = re.compile(
    r"""(?:[^\\]+|\\["\\/bfnrt]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|"""
    r"""\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*"""
)
"""A text up to an escape, or a pair of them, of which the rest is still to come."""


class PartialJSON:
    """Pieces of one JSON value in, the value so far out.

    With "trusted" a text or a number is there when it is whole; with "growing" a text of which a part has come is there too.
    `value` is None before anything can be trusted. `broken` is set by what is no JSON; the value then stays as it was.
    """

    def __init__(self, trust: Trust = "trusted") -> None:
        self._growing = trust == "growing"
        self._pending: list[str] = []  # pieces of the unfinished token
        self._stack: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str | None] = []
        self._expects: Literal["value", "key", "colon", "next"] = "value"
        self._in_text = False
        self._escaped = False
        self._tail: object = None  # the list whose last item is a text that grows
        self._value: Any = None
        self.done = False
        self.broken = False

    @property
    def value(self) -> Any:
        """The value so far."""
        if self._growing and self._in_text and self._expects == "value" and not self.broken:
            text = "".join(self._pending)
            self._pending = [text]
            found = _WHOLE.match(text)
            try:
                self._put(msgspec.json.decode(f'{found.group() if found else text}"'), final=False)
            except msgspec.DecodeError:
                self.broken = True
        return self._value

    def feed(self, piece: str) -> bool:
        """Take a piece in. Gives whether the value changed."""
        if self.broken or self.done or not piece:
            return False
        changed = False
        at = 0
        while at < len(piece) and not (self.broken or self.done):
            if self._in_text:
                at, new = self._text(piece, at)
            elif self._pending:
                at, new = self._scalar(piece, at)
            else:
                at, new = self._step(piece, at)
            changed = changed or new
        return changed

    def _step(self, piece: str, at: int) -> tuple[int, bool]:
        """Take in what stands at `at`, between tokens."""
        found = _SPACE.match(piece, at)
        at = found.end() if found else at
        if at == len(piece):
            return at, False
        mark = piece[at]
        if mark == '"' and self._expects in ("value", "key"):
            self._in_text = True
            self._pending = ['"']
            return at + 1, False
        if mark in "{[" and self._expects == "value":
            return at + 1, self._open({} if mark == "{" else [])
        if mark in "}]":
            return at + 1, self._close(mark)
        if mark == ":" and self._expects == "colon":
            self._expects = "value"
            return at + 1, False
        if mark == "," and self._expects == "next":
            self._expects = "key" if isinstance(self._stack[-1], dict) else "value"
            return at + 1, False
        if self._expects == "value" and (mark.isalnum() or mark == "-"):
            return self._scalar(piece, at)
        self.broken = True
        return at, False

    def _text(self, piece: str, at: int) -> tuple[int, bool]:
        """Take in more of a text."""
        end = at
        while end < len(piece):
            if self._escaped:
                self._escaped = False
                end += 1
                continue
            stop = _next(piece, end)
            if stop < 0:
                end = len(piece)
                break
            end = stop + 1
            if piece[stop] == "\\":
                self._escaped = True
                continue
            self._pending.append(piece[at:end])
            self._in_text = False
            return end, self._whole()
        self._pending.append(piece[at:end])
        return end, self._growing and self._expects == "value"

    def _scalar(self, piece: str, at: int) -> tuple[int, bool]:
        """Take in more of a number or a name; it is whole when something else follows."""
        found = _SCALAR.match(piece, at)
        end = found.end() if found else at
        if end > at:
            self._pending.append(piece[at:end])
        return (end, False) if end == len(piece) else (end, self._whole())

    def _whole(self) -> bool:
        """Take in a token that is whole."""
        text = "".join(self._pending)
        self._pending = []
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            self.broken = True
            return False
        if self._expects == "key":
            self._keys[-1] = value
            self._expects = "colon"
            return False
        self._put(value, final=True)
        return True

    def _put(self, value: Any, *, final: bool) -> None:
        """Put a value where it belongs."""
        if not self._stack:
            self._value = value
            self.done = final
            return
        holder = self._stack[-1]
        if isinstance(holder, dict):
            holder[self._keys[-1] or ""] = value
        elif self._tail is holder:
            holder[-1] = value
        else:
            holder.append(value)
        self._tail = None if final else holder
        if final:
            self._expects = "next"

    def _open(self, container: dict[str, Any] | list[Any]) -> bool:
        if self._stack:
            self._put(container, final=True)
        else:
            self._value = container
        self._stack.append(container)
        self._keys.append(None)
        self._expects = "key" if isinstance(container, dict) else "value"
        return True

    def _close(self, mark: str) -> bool:
        holder = self._stack[-1] if self._stack else None
        fits = isinstance(holder, dict) if mark == "}" else isinstance(holder, list)
        empty = not holder and self._expects in ("key", "value")
        if not fits or not (self._expects == "next" or empty):
            self.broken = True
            return False
        self._stack.pop()
        self._keys.pop()
        self._expects = "next"
        self.done = not self._stack
        return self.done

    def end(self) -> bool:
        """The text is over: a number or a name at its very end is whole."""
        if self._pending and not self._in_text and not self.broken:
            return self._whole()
        return False


def _next(piece: str, start: int) -> int:
    """The next quote or backslash; -1 where there is none."""
    quote = piece.find('"', start)
    slash = piece.find("\\", start, quote if quote >= 0 else len(piece))
    return slash if slash >= 0 else quote
