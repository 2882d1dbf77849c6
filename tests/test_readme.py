"""The README's tree is the tree."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]


def listed() -> set[str]:
    """The files of src/gpt that the README gives a line."""
    lines = (ROOT / "README.md").read_text().partition("    src/gpt/\n")[2].splitlines()
    found, folders = set(), [""]
    for line in lines:
        depth = (len(line) - len(line.lstrip()) - 6) // 2
        if depth < 0:
            break
        name, _, text = line.strip().partition(" ")
        assert text.strip() or name.endswith("/"), f"{name} has no line"
        folders = [*folders[: depth + 1], name]
        if not name.endswith("/"):
            found.add("".join(folders))
    return found


def test_tree() -> None:
    """Every file has its line, and every line its file."""
    source = ROOT / "src" / "gpt"
    there = {
        path.relative_to(source).as_posix()
        for path in (*source.rglob("*.py"), *source.rglob("*.html"))
        if path.name != "__init__.py" or path.parent == source
    }
    assert there == listed()


def test_unaffiliated() -> None:
    """The README says whose project this is not."""
    assert "not affiliated" in (ROOT / "README.md").read_text()
