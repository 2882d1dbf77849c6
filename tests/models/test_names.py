"""docs/names.md, row by row; and every name of the seed is in it."""

from __future__ import annotations

import importlib
import re
from enum import Enum
from pathlib import Path

import pytest

import gpt

from places import SHARED

PAGE = Path(__file__).parents[2] / "docs" / "names.md"


def rows() -> list[tuple[str, str, str]]:
    """The rows of the first table: seed name, canonical name or values, where."""
    text = PAGE.read_text().partition("| seed name |")[2].partition("Calls and parameters")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    return [(seed.strip("`"), canonical, where) for seed, canonical, where in cells]


def home(where: str) -> object:
    return importlib.import_module({"gpt": "gpt", "utils": "gpt.utils"}.get(where, f"gpt.models.{where}"))


@pytest.mark.parametrize(("seed", "canonical", "where"), rows(), ids=[f"{row[2]}.{row[0]}" for row in rows()])
def test_row(seed: str, canonical: str, where: str) -> None:
    """The seed's name is the canonical class itself; an enumeration has exactly the values of its row."""
    found = getattr(home(where), seed)
    values = re.findall(r'`"([^"]+)"`', canonical)
    if values:
        assert issubclass(found, Enum)
        assert issubclass(found, str)
        assert values == [member.value for member in found]
        assert all(member == member.value for member in found)
    elif named := re.fullmatch(r"`(\w+)`", canonical):
        other = getattr(gpt, named[1])
        assert found is other or where == "utils"
    else:
        assert isinstance(found, type)


def seed_names() -> list[tuple[str, str]]:
    """Every name of section 5 of the seed's surface, with its module."""
    page = SHARED / "seed" / "surface.md"
    if not page.exists():
        return []
    table = page.read_text().partition("## 5. Minimal export list")[2]
    found = []
    for line in table.splitlines():
        if line.startswith("| `gpt"):
            modules, names = line.split("|")[1:3]
            module = re.findall(r"`(gpt[\w.]*)`", modules)[0]
            if module != "gpt.models":
                found += [
                    (module.removeprefix("gpt.models.").removeprefix("gpt."), name) for name in re.findall(r"`(\w+)`", names)
                ]
    return found


def test_every_name_of_the_seed() -> None:
    """No name of the seed is missing from the table."""
    wanted = seed_names()
    if not wanted:
        pytest.skip("the seed's surface is not here")
    listed = {(where, seed) for seed, _, where in rows()}
    assert len(wanted) > 50
    assert [] == [name for name in wanted if name not in listed]


@pytest.mark.parametrize("module", ["components", "operations", "errors"])
def test_every_name_has_its_row(module: str) -> None:
    """What `from gpt.models.<module> import *` brings is what the table lists, and no more."""
    assert sorted(seed for seed, _, where in rows() if where == module) == sorted(home(module).__all__)  # type: ignore[attr-defined]
