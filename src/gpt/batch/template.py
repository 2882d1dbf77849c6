"""Text with fields of a row in it: `{question}`, `{user.name}`, `{items[0].price}`. Pure.

What stands between braces is a path: a field, then `.field`, `[number]` (from the end where it is negative) or `["any text"]`,
which may be the first step too, for names that have one of `.[]:!{}` in them. It reads as in `str.format`, and can less: no
attributes, no conversions, no format specs. A row is data, and must not reach into the program. A whole path that is the name
of a field is that field, as tables have "user.name". Of a row that is no object `{}` and `{row}` are the row.

A text goes in as it is, any other value as compact JSON. `{{` and `}}` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from gpt.errors import InvalidRequestError

SHOWN = 12
"""Names that an error shows, at most."""

_PIECES = re.compile(r'\{\{|\}\}|\{((?:"[^"]*"|[^{}"])*)\}|[{}]')
_FIRST = re.compile(r'([^.\[\]"]+)|\["([^"]*)"\]')
_NEXT = re.compile(r'\.([^.\[\]"]+)|\["([^"]*)"\]|\[(-?[0-9]+)\]')
_BRACES = "for braces that belong to the text write {{ and }}"


class _Field(NamedTuple):
    path: str
    """As it is written."""
    steps: tuple[str | int, ...]


class Template:
    """Text with fields of a row in it. `param` is what errors call it. Raises InvalidRequestError."""

    __slots__ = ("_parts", "param", "text")

    def __init__(self, text: str, *, param: str = "prompt") -> None:
        self.text = text
        self.param = param
        self._parts: list[str | _Field] = []
        end = 0
        for piece in _PIECES.finditer(text):
            self._parts.append(text[end : piece.start()])
            end = piece.end()
            whole = piece[0]
            if whole in ("{{", "}}"):
                self._parts.append(whole[0])
            elif piece[1] is None:
                raise self._wrong(f"the {whole} at character {piece.start()} has no other half; {_BRACES}")
            else:
                self._parts.append(_Field(piece[1], self._steps(piece[1])))
        self._parts.append(text[end:])

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    @property
    def names_fields(self) -> bool:
        """Whether it is another text for another row."""
        return any(isinstance(part, _Field) for part in self._parts)

    def fill(self, row: Any) -> str:
        """The text with the fields of `row`, of plain JSON values, in it. Raises InvalidRequestError where one is missing."""
        return "".join([part if type(part) is str else _as_text(self._value(part, row)) for part in self._parts])  # type: ignore[arg-type]

    def _steps(self, path: str) -> tuple[str | int, ...]:
        """The steps of a path. Raises InvalidRequestError."""
        if not path:
            return ("row",)
        bare = re.sub(r'"[^"]*"', "", path)
        if "!" in bare:
            raise self._wrong(f"{{{path}}}: there are no conversions such as !r; texts go in as they are; {_BRACES}")
        if ":" in bare:
            raise self._wrong(
                f'{{{path}}}: there are no format specs after a colon; a name with a colon is {{["name"]}}; {_BRACES}'
            )
        steps: list[str | int] = []
        step = _FIRST.match(path)
        while step is not None:
            name, quoted, *number = step.groups()
            steps.append(int(number[0]) if number and number[0] is not None else quoted if name is None else name)
            if step.end() == len(path):
                return tuple(steps)
            step = _NEXT.match(path, step.end())
        raise self._wrong(
            f'{{{path}}}: is no path such as {{name}}, {{user.name}}, {{items[0]}} or {{["any name"]}}; {_BRACES}'
        )

    def _value(self, field: _Field, row: Any) -> Any:
        """What a field stands for. Raises InvalidRequestError."""
        steps = field.steps
        if not isinstance(row, dict):
            if steps[0] != "row":
                raise self._wrong(f"{{{field.path}}}: the row is {kind_of(row)} and has no fields; {{}} stands for all of it")
        elif not field.path:
            raise self._wrong(f"{{}}: stands for a row that is no object; name a field of this one; {has(row)}")
        elif len(steps) > 1 and field.path in row:
            return row[field.path]
        value: Any = fields_of(row)
        for place, step in enumerate(steps):
            try:
                if not issubclass(type(value), dict if isinstance(step, str) else list):
                    raise self._missing(field, place, step, value)
                value = value[step]
            except LookupError:
                raise self._missing(field, place, step, value) from None
        return value

    def _missing(self, field: _Field, place: int, step: str | int, value: Any) -> InvalidRequestError:
        """The error for a step that leads nowhere."""
        whose = (
            "the row"
            if place == 0
            else "".join(f".{one}" if isinstance(one, str) else f"[{one}]" for one in field.steps[:place])
        )
        where = f"{{{field.path}}}: {whose.removeprefix('.')}"
        if isinstance(step, str) and isinstance(value, dict):
            return self._wrong(f'{where} has no field "{step}"; {has(value)}{meant(step, value)}')
        if isinstance(value, list) and isinstance(step, int):
            return self._wrong(f"{where} has {len(value)} items, and none at [{step}]")
        wanted = f'field "{step}"' if isinstance(step, str) else f"item [{step}]"
        return self._wrong(f"{where} is {kind_of(value)}, which has no {wanted}")

    def _wrong(self, what: str) -> InvalidRequestError:
        return InvalidRequestError(f"{self.param}: {what}", param=self.param)


def fields_of(row: Any) -> Mapping[str, Any]:
    """The fields of a row; one that is no object has itself as its field "row"."""
    return row if isinstance(row, dict) else {"row": row}


def has(names: Iterable[str]) -> str:
    """The names that there are, in words."""
    given = list(names)
    if not given:
        return "it has none"
    more = f" and {len(given) - SHOWN} more" if len(given) > SHOWN else ""
    return f"it has {', '.join(given[:SHOWN])}{more}"


def meant(name: str, names: Iterable[str]) -> str:
    """The nearest of the names, as the end of an error; "" where none is near."""
    import difflib

    near = difflib.get_close_matches(name, list(names), 1)
    return f'; did you mean "{near[0]}"?' if near else ""


_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def kind_of(value: Any) -> str:
    """What a plain JSON value is, in words."""
    return _KINDS.get(type(value), "a number")


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
