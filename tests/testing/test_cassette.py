"""Recordings of tests: where they lie, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt import Gpt, InvalidRequestError
from gpt.protocol.recording import HEADER
from gpt.testing import serve
from gpt.testing.cassette import place, recorded, replayed

PLACES = [
    ("test_a", "/x/cassettes/test_it/test_a.jsonl"),
    ("TestA::test_b", "/x/cassettes/test_it/TestA.test_b.jsonl"),
    ("test_a[b/c]", "/x/cassettes/test_it/test_a-b-c-5344afd0.jsonl"),
    ("test_a[ü]", "/x/cassettes/test_it/test_a-bbe163ac.jsonl"),
]


@pytest.mark.parametrize(("test", "path"), PLACES)
def test_place(test: str, path: str) -> None:
    """A recording lies beside the test's file, by a name that any system takes."""
    assert path == place("/x/test_it.py", test)


def test_places_of_their_own() -> None:
    """No two tests have one place, however alike or long their names are."""
    names = [
        "test_a[b/c]",
        "test_a[b-c]",
        "test_a[b:c]",
        "test_a-b-c",
        "a::b",
        "b",
        *(f"test_{'x' * 300}{end}" for end in "ab"),
    ]
    places = {place("test_it.py", name) for name in names}
    assert len(names) == len(places)
    assert all(len(Path(one).name) <= 140 for one in places)


def test_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test asks is recorded from the server that the environment names; what was left of a run that was ended is not
    taken for a part of it.
    """
    path = tmp_path / "cassettes" / "test_it" / "test_a.jsonl"
    path.parent.mkdir(parents=True)
    (path.parent / "test_a.jsonl.new").write_bytes(HEADER + b"what was left")
    with serve("Nile") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with recorded(str(path), lambda: True) as backend:
            assert "Nile" == Gpt(backend=backend).chat.complete("a").text
            assert not path.exists()
    with replayed(str(path)) as backend:
        assert "Nile" == Gpt(backend=backend).chat.complete("a").text
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize("passed", [True, False])
def test_nothing_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passed: bool) -> None:
    """A test that asks nothing has a recording of nothing; one that failed changes nothing."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    path = tmp_path / "deep" / "x.jsonl"
    with recorded(str(path), lambda: passed):
        pass
    assert ([HEADER] if passed else []) == [one.read_bytes() for one in tmp_path.rglob("*.jsonl*")]


def test_none(tmp_path: Path) -> None:
    """Where there is no recording the error says how one is made."""
    with (
        pytest.raises(InvalidRequestError, match="there is no recording .*x; make it with `pytest --gpt-record`"),
        replayed(str(tmp_path / "x")),
    ):
        pass
