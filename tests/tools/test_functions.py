"""A function as a tool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
import pytest

from gpt import FunctionCall, InvalidRequestError, PythonTool, ToolCall, ToolContext, tool
from gpt.structured.dialects import STRICT
from gpt.tools.functions import described

CONTEXT = ToolContext((), ToolCall(FunctionCall("{}", "f"), "a"), 0)


@dataclass
class Place:
    city: str
    country: str = "IT"


class Period(pydantic.BaseModel):
    days: int


def weather(place: Place, unit: Literal["C", "F"] = "C", *, days: int = 1) -> str:
    """The weather of a place.

    Args:
        place: Where.
        unit (str): Of the temperature,
            as one letter.

    Returns:
        A sentence.
    """
    return f"{place.city} {place.country} {unit} {days}"


def test_schema() -> None:
    """The signature gives the schema, the docstring what is said of it."""
    made = tool(weather).definition(STRICT).to_dict()["function"]
    assert "weather" == made["name"]
    assert "The weather of a place." == made["description"]
    assert "strict" not in made
    assert ["place"] == made["parameters"]["required"]
    assert ["place", "unit", "days"] == list(made["parameters"]["properties"])
    assert {"description": "Of the temperature, as one letter.", "enum": ["C", "F"]} == made["parameters"]["properties"]["unit"]
    assert "Where." == made["parameters"]["properties"]["place"]["description"]


def test_strict() -> None:
    """In strict form each property is required, and one that has a default may be null."""
    made = PythonTool(weather, strict=True)
    schema = made.definition(STRICT).to_dict()["function"]
    assert True is schema["strict"]
    assert ["place", "unit", "days"] == schema["parameters"]["required"]
    given = made.bound('{"place": {"city": "Rome", "country": null}, "unit": null, "days": 2}', CONTEXT, STRICT)
    assert {"place": Place("Rome"), "days": 2} == given


@pytest.mark.parametrize(
    ("function", "text", "expected"),
    [
        (weather, '{"place": {"city": "Rome"}}', {"place": Place("Rome")}),
        (lambda: None, "", {}),
        (lambda anything: None, '{"anything": [1, "a"]}', {"anything": [1, "a"]}),
    ],
)
def test_arguments(function: Callable[..., Any], text: str, expected: dict[str, Any]) -> None:
    """The model's text becomes the function's arguments; a default is left to the function."""
    assert expected == PythonTool(function, name="f").bound(text, CONTEXT, STRICT)


def test_pydantic_and_context() -> None:
    """A parameter may be a pydantic model; one that is a ToolContext is filled in and not shown."""

    def plan(period: Period, context: ToolContext, note: str = "") -> None: ...

    plan.__annotations__ = {"period": Period, "context": ToolContext, "note": str, "return": None}
    made = tool(plan)
    assert ["period", "note"] == list(made.definition(STRICT).to_dict()["function"]["parameters"]["properties"])
    assert {"period": Period(days=3), "context": CONTEXT} == made.bound('{"period": {"days": 3}}', CONTEXT, STRICT)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "malformed|truncated"),
        ("[]", "Expected"),
        ('{"place": 1}', "place"),
        ('{"place": {"city": "Rome"}, "when": 1}', "no parameter 'when'; there are place, unit, days"),
        ("{}", "place"),
    ],
)
def test_garbage(text: str, why: str) -> None:
    """What cannot be the arguments is a ValueError that tells the model why."""
    with pytest.raises(ValueError, match=why):
        tool(weather).bound(text, CONTEXT, STRICT)


@dataclass
class Nowhere:
    why: str


def test_whatever_an_answer_may_be() -> None:
    """A parameter may be what only pydantic has a schema for, under a name that pydantic's models keep for themselves."""

    def go(copy: Place | Nowhere, model_x: int = 1) -> None: ...

    go.__annotations__ = {"copy": Place | Nowhere, "model_x": int}
    assert {"copy": Nowhere("shut")} == tool(go).bound('{"copy": {"why": "shut"}}', CONTEXT, STRICT)


def test_custom() -> None:
    """A custom tool takes its text as it is."""

    @tool(name="run", custom=True, description="Runs code.", format={"type": "text"})
    def run(code: str) -> str:
        return code

    assert {"custom": {"name": "run", "description": "Runs code.", "format": {"type": "text"}}, "type": "custom"} == (
        run.definition(STRICT).to_dict()
    )
    assert {"code": "{not json"} == run.bound("{not json", CONTEXT, STRICT)
    assert "x" == run("x")


def every(*parts: int) -> None: ...


def unreadable(part: Nothing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: tool(lambda: None), "no name for a tool"),
        (lambda: tool(every), "filled in by name"),
        (lambda: tool(unreadable), "cannot be read"),
        (lambda: PythonTool(weather, custom=True), "takes one text"),
        (lambda: PythonTool(weather, format={"type": "text"}), "needs custom=True"),
    ],
)
def test_refused(make: Callable[[], object], why: str) -> None:
    """What cannot be a tool is refused, by the tool's name."""
    with pytest.raises(InvalidRequestError, match=why):
        make()


def test_a_type_without_a_schema() -> None:
    """A parameter of a type that JSON cannot say is refused when the tool is sent."""

    class Odd:
        pass

    def hold(what: Odd) -> None: ...

    hold.__annotations__ = {"what": Odd}
    with pytest.raises(InvalidRequestError, match="tools: hold has no JSON Schema"):
        tool(hold).definition(STRICT)


@pytest.mark.parametrize(
    "docstring",
    [
        "Adds.\n\nArgs:\n    a: One,\n        and more.\n    b (int): Two.\n\nReturns:\n    c: three",
        "Adds.\n\nParameters\n----------\na : int\n    One,\n    and more.\nb\n    Two.\n\nReturns\n-------\nint\n    three",
        "Adds.\n\n:param a: One,\n    and more.\n:param int b: Two.\n:returns: three",
    ],
    ids=["google", "numpy", "sphinx"],
)
def test_docstrings(docstring: str) -> None:
    """The three styles of docstrings tell the same."""
    assert ("Adds.", {"a": "One, and more.", "b": "Two."}) == described(docstring)


def test_a_text_after_the_parameters() -> None:
    """What comes after a section, at the margin, is of the text again."""
    assert ("Adds.\n\nAnd that is all.", {"a": "One."}) == described("Adds.\n\nArgs:\n    a: One.\nAnd that is all.")
