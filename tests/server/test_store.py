"""Stored completions in a file: whose they are, in what order, and what becomes of them when something breaks."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import InvalidRequestError
from gpt.layers.store import Store
from gpt.server import store as module
from gpt.server.store import APPLICATION, REMEMBERED, VERSION, CursorError, StoredCompletions, StoreError


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def completion(id: str = "c-0", created: int = 5, model: str = "m", **beside: Any) -> dict[str, Any]:
    return {"id": id, "object": "chat.completion", "created": created, "model": model, "choices": [], **beside}


SAID = [{"role": "user", "content": f"said {number}"} for number in range(5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "stored.sqlite"


@pytest.fixture
def store(path: Path) -> Any:
    made = StoredCompletions(path, clock=Clock())
    yield made
    made.close()


def ids(store: StoredCompletions, owner: str = "", **page: Any) -> list[str]:
    return [item["id"] for item in store.page(owner, **page)[0]]


# --------------------------------------------------------------------------------------------------------------------
# What is kept
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (completion(metadata={"b": "1", "a": "2"}), completion(metadata={"b": "1", "a": "2"})),
        (completion(metadata=None), completion(metadata={})),
        (completion(), completion(metadata={})),
        (
            completion(seed=4944116822809979520, tools=None, odd={"x": [1.5, "ä\0€😀"]}),
            completion(seed=4944116822809979520, tools=None, odd={"x": [1.5, "ä\0€😀"]}, metadata={}),
        ),
    ],
)
def test_kept(path: Path, given: dict[str, Any], kept: dict[str, Any]) -> None:
    """A completion comes back as it was, with its metadata as an object in its order, also when the file is opened anew."""
    before = json.dumps(given)
    store = StoredCompletions(path)
    store.add("", given, SAID[:1])
    assert before == json.dumps(given)
    assert kept == store.get("", "c-0")
    assert ([kept], False) == store.page("")
    store.close()
    anew = StoredCompletions(path)
    found = anew.get("", "c-0")
    assert kept == found
    assert list(kept["metadata"]) == list(found["metadata"])
    assert ([{"id": "c-0-0", **SAID[0]}], False) == anew.messages("", "c-0")
    anew.close()


def test_missing(store: StoredCompletions) -> None:
    """What is not there is None or False; an empty file has an empty page."""
    assert ([], False) == store.page("")
    assert (None, None, False, None) == (
        store.get("", "c-0"),
        store.update("", "c-0", {}),
        store.delete("", "c-0"),
        store.messages("", "c-0"),
    )


def test_update(store: StoredCompletions) -> None:
    """New metadata takes the place of all that was there, for who looks for it too, and nothing else changes."""
    store.add("", completion(metadata={"a": "1", "b": "2"}), SAID)
    store.add("", completion("c-1", metadata={"a": "1"}), SAID)
    assert completion(metadata={"c": "3"}) == store.update("", "c-0", {"c": "3"})
    assert completion(metadata={"c": "3"}) == store.get("", "c-0")
    assert (["c-1"], ["c-0"]) == (ids(store, metadata={"a": "1"}), ids(store, metadata={"c": "3"}))
    assert completion(metadata={}) == store.update("", "c-0", {})
    assert [] == ids(store, metadata={"c": "3"})
    assert completion("c-1", metadata={"a": "1"}) == store.get("", "c-1")
    assert 5 == len(store.messages("", "c-0")[0])  # type: ignore[index]


def test_delete(store: StoredCompletions, path: Path) -> None:
    """What was deleted is gone with its messages, and its text is nowhere in the file."""
    store.add("", completion(secret="correct horse", metadata={"a": "battery"}), [{"role": "user", "content": "staple"}])
    store.add("", completion("c-1"), SAID)
    assert (True, False) == (store.delete("", "c-0"), store.delete("", "c-0"))
    assert (None, None, None) == (store.get("", "c-0"), store.messages("", "c-0"), store.update("", "c-0", {}))
    assert ["c-1"] == ids(store)
    assert ["c-1"] == ids(store, metadata={})
    assert 5 == len(store.messages("", "c-1")[0])  # type: ignore[index]
    store.close()
    data = path.read_bytes()
    assert [] == [text for text in (b"correct horse", b"battery", b"staple") if text in data]
    assert b"said 4" in data


def test_owners(store: StoredCompletions) -> None:
    """What is another's is as if it were not there, though the id is the same; no cursor goes across."""
    store.add("a", completion(model="a's", metadata={"k": "v"}), SAID[:1])
    store.add("b", completion(model="b's", metadata={"k": "w"}), SAID[:2])
    store.add("b", completion("c-1"), SAID)
    assert ["a's", "b's"] == [store.get(owner, "c-0")["model"] for owner in "ab"]  # type: ignore[index]
    assert (None, None, None, False) == (
        store.get("a", "c-1"),
        store.messages("a", "c-1"),
        store.update("a", "c-1", {}),
        store.delete("a", "c-1"),
    )
    assert (["c-0"], ["c-0", "c-1"], []) == (ids(store, "a"), ids(store, "b"), ids(store, ""))
    assert ([], ["c-0"]) == (ids(store, "a", metadata={"k": "w"}), ids(store, "b", metadata={"k": "w"}))
    with pytest.raises(CursorError):
        store.page("a", after="c-1")
    store.update("b", "c-0", {"k": "x"})
    assert {"k": "v"} == store.get("a", "c-0")["metadata"]  # type: ignore[index]
    assert store.delete("b", "c-0")
    assert ["a's"] == [item["model"] for item in store.page("a")[0]]
    assert 1 == len(store.messages("a", "c-0")[0])  # type: ignore[index]
    store.delete("b", "c-1")
    with pytest.raises(CursorError):
        store.page("a", after="c-1")


def test_twice(store: StoredCompletions) -> None:
    """An owner's second completion with the same id is an error, and the first stays."""
    store.add("", completion(), SAID)
    with pytest.raises(StoreError, match="there is one with the id c-0 in .*; it stays as it is"):
        store.add("", completion(model="other"), [])
    assert completion(metadata={}) == store.get("", "c-0")
    assert 5 == len(store.messages("", "c-0")[0])  # type: ignore[index]


def test_age(path: Path) -> None:
    """What is too old is not there, wherever it is asked for, and leaves the file with the next that is stored."""
    clock = Clock()
    store = StoredCompletions(path, max_age=10, clock=clock)
    store.add("", completion(secret="horse"), SAID)
    clock.now += 5
    store.add("", completion("c-1"), SAID)
    clock.now += 4.5
    assert ["c-0", "c-1"] == ids(store)
    clock.now += 0.5
    assert ["c-1"] == ids(store)
    assert ["c-1"] == ids(store, after="c-0")
    assert (None, None, None) == (store.get("", "c-0"), store.messages("", "c-0"), store.update("", "c-0", {}))
    store.add("", completion(), [])  # the id is free again
    assert ["c-1", "c-0"] == ids(store)
    store.close()
    assert b"horse" not in path.read_bytes()
    assert ["c-1", "c-0"] == ids(StoredCompletions(path, clock=clock))
    clock.now += 10
    anew = StoredCompletions(path, max_age=10, clock=clock)
    assert False is anew.delete("", "c-1")  # which lets go what is too old as well
    assert [] == ids(StoredCompletions(path, clock=clock))
    anew.close()


# --------------------------------------------------------------------------------------------------------------------
# Pages
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(store: StoredCompletions) -> StoredCompletions:
    """Completions of three seconds, of which the second is older than the first."""
    for name, created, model, metadata in [
        ("a", 20, "m", {"k": "1"}),
        ("b", 10, "m", {"k": "1", "l": "2"}),
        ("c", 20, "n", {"k": "2"}),
        ("d", 30, "n", {"k": "1", "l": "3"}),
        ("e", 20, "m", {}),
    ]:
        store.add("", completion(name, created, model, metadata=metadata), SAID)
    return store


@pytest.mark.parametrize(
    ("page", "expected", "more"),
    [
        ({}, "baced", False),
        ({"order": "desc"}, "decab", False),
        ({"limit": 2}, "ba", True),
        ({"limit": 5}, "baced", False),
        ({"limit": 2, "after": "a"}, "ce", True),
        ({"limit": 2, "after": "c"}, "ed", False),
        ({"after": "d"}, "", False),
        ({"limit": 2, "after": "e", "order": "desc"}, "ca", True),
        ({"after": "b", "order": "desc"}, "", False),
        ({"model": "m"}, "bae", False),
        ({"model": "m", "limit": 2}, "ba", True),
        ({"model": "m", "after": "c"}, "e", False),
        ({"model": "M"}, "", False),
        ({"metadata": {}}, "baced", False),
        ({"metadata": {"k": "1"}}, "bad", False),
        ({"metadata": {"k": "1", "l": "2"}}, "b", False),
        ({"metadata": {"k": "1", "l": "2", "m": "3"}}, "", False),
        ({"metadata": {"l": "1"}}, "", False),
        ({"metadata": {"k": "1"}, "model": "n", "order": "desc"}, "d", False),
        ({"metadata": {"k": "1"}, "limit": 2, "order": "desc"}, "da", True),
    ],
)
def test_page(filled: StoredCompletions, page: dict[str, Any], expected: str, more: bool) -> None:
    """A page is in the order of created, then of storing; it begins after its cursor, keeps to filters and limit, and tells of more."""
    found, has_more = filled.page("", **page)
    assert (expected, more) == ("".join(item["id"] for item in found), has_more)


ODD = ["", "a", "A", "'", '"', "%", "_", "a\0b", "\0", "ä", "a\u0308", "😀", "]", "[k]", "1"]


def test_filters_are_exact(store: StoredCompletions) -> None:
    """A filter finds the very text, of names, values and models, and nothing like it."""
    for number, text in enumerate(ODD):
        store.add("", completion(f"name {number}", model="m", metadata={text: "v"}), [])
        store.add("", completion(f"value {number}", model="m", metadata={"k": text}), [])
        store.add(text + "o", completion(f"model {number}", model=text), [])
    for number, text in enumerate(ODD):
        assert [f"name {number}"] == ids(store, metadata={text: "v"})
        assert [f"value {number}"] == ids(store, metadata={"k": text})
        assert [f"model {number}"] == ids(store, text + "o", model=text)


def test_cursor_of_the_deleted(path: Path) -> None:
    """Who deletes each page before asking for the next gets all, once. The place of what is gone is known for a day."""
    clock = Clock()
    store = StoredCompletions(path, clock=clock)
    for number in range(7):
        store.add("", completion(f"c-{number}", created=number // 3), SAID)
    seen: list[str] = []
    page = ids(store, limit=2)
    while page:
        seen += page
        assert [True] * len(page) == [store.delete("", one) for one in page]
        page = ids(store, limit=2, after=page[-1])
    assert [f"c-{number}" for number in range(7)] == seen
    clock.now += REMEMBERED - 1
    store.add("", completion("c-7", created=9), SAID)
    assert ["c-7"] == ids(store, after="c-3")
    clock.now += 1
    assert False is store.delete("", "x")
    with pytest.raises(CursorError):
        store.page("", after="c-3")
    store.close()


def test_place_is_never_given_twice(store: StoredCompletions) -> None:
    """A row that comes after a deleted one is after it in the order, though it was the last."""
    for name in "ab":
        store.add("", completion(name), [])
    store.delete("", "b")
    store.add("", completion("c"), [])
    assert ["c"] == ids(store, after="b")
    store.add("", completion("b"), [])
    assert ["c", "b"] == ids(store, after="a")
    assert [] == ids(store, after="b")
    store.delete("", "b")
    assert [] == ids(store, after="b")


@pytest.mark.parametrize("after", ["c", "", "c-0-0", "C-0", "c-0 ", "%"])
def test_unknown_cursor(store: StoredCompletions, after: str) -> None:
    """A cursor that names nothing is an error, not an empty page."""
    store.add("", completion(), SAID)
    with pytest.raises(CursorError):
        store.page("", after=after)


@pytest.mark.parametrize(
    ("page", "expected", "more"),
    [
        ({}, "01234", False),
        ({"order": "desc"}, "43210", False),
        ({"limit": 2}, "01", True),
        ({"limit": 5}, "01234", False),
        ({"limit": 2, "after": "c-0-1"}, "23", True),
        ({"limit": 2, "after": "c-0-2"}, "34", False),
        ({"after": "c-0-4"}, "", False),
        ({"limit": 2, "after": "c-0-4", "order": "desc"}, "32", True),
        ({"after": "c-0-0", "order": "desc"}, "", False),
    ],
)
def test_messages(store: StoredCompletions, page: dict[str, Any], expected: str, more: bool) -> None:
    """Messages are in the order of the request, or the reverse; a page begins after its cursor and tells of more."""
    store.add("", completion(), SAID)
    store.add("", completion("c-1"), SAID[:2])
    wanted = [{"id": f"c-0-{number}", **SAID[int(number)]} for number in expected]
    assert (wanted, more) == store.messages("", "c-0", **page)


@pytest.mark.parametrize(
    "after", ["c-0-5", "c-0--1", "c-0-", "c-0", "c-1-0", "c-0-01", "c-0-٣", "0", "", "c-0-" + "9" * 50, "c-0-1 ", "c-0-1_0"]
)
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_unknown_message(store: StoredCompletions, after: str, order: Any) -> None:
    """A cursor that names no message of this completion is an error."""
    store.add("", completion(), SAID)
    store.add("", completion("c-1"), SAID)
    with pytest.raises(CursorError):
        store.messages("", "c-0", after=after, order=order)


def test_no_messages(store: StoredCompletions) -> None:
    """A completion without messages has an empty page of them."""
    store.add("", completion(), [])
    assert ([], False) == store.messages("", "c-0")


CHANGES = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 4), st.sampled_from("mn")),
    st.tuples(st.just("update"), st.integers(0, 30), st.sampled_from("mn")),
    st.tuples(st.just("delete"), st.integers(0, 30), st.just("")),
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(CHANGES, max_size=25),
    st.lists(st.lists(CHANGES, max_size=3), max_size=12),
    st.integers(1, 5),
    st.sampled_from(["asc", "desc"]),
    st.sampled_from([None, {"k": "m"}]),
)
def test_paging(before: Any, between: Any, limit: int, order: Any, metadata: Any) -> None:
    """Whatever is added, updated and deleted before and between pages, of any size and in any order: what was there all the time is
    listed, nothing is twice, and the order holds.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = StoredCompletions(Path(folder) / "a", clock=Clock())
        made: dict[str, tuple[int, int]] = {}
        tags: dict[str, str] = {}
        removed: set[str] = set()
        touched: set[str] = set()

        def change(what: str, number: int, tag: str) -> None:
            if what == "add":
                name = f"c-{len(made)}"
                made[name] = (number, len(made))
                tags[name] = tag
                store.add("", completion(name, created=number, metadata={"k": tag}), SAID[:1])
                return
            name = f"c-{number}"
            there = name in made and name not in removed
            if what == "update":
                assert there == (store.update("", name, {"k": tag}) is not None)
                if there:
                    touched.add(name)
                    tags[name] = tag
            else:
                assert there == store.delete("", name)
                if there:
                    removed.add(name)

        def wanted(name: str) -> bool:
            return metadata is None or tags[name] == metadata["k"]

        for step in before:
            change(*step)
        touched.clear()
        there = [name for name in made if name not in removed and wanted(name)]
        seen: list[str] = []
        after, more, rounds = None, True, iter(between)
        while more:
            page, more = store.page("", metadata=metadata, after=after, limit=limit, order=order)
            assert len(page) <= limit
            assert len(page) == limit or not more
            assert [True] * len(page) == [wanted(item["id"]) and item["id"] not in removed for item in page]
            seen += [item["id"] for item in page]
            after = seen[-1] if seen else None
            for step in next(rounds, []):
                change(*step)
        assert len(seen) == len(set(seen))
        assert [] == [name for name in there if name not in seen and name not in removed and name not in touched]
        places = [made[name] for name in seen]
        assert places == sorted(places, reverse=order == "desc")
        store.close()


# --------------------------------------------------------------------------------------------------------------------
# Files and disks
# --------------------------------------------------------------------------------------------------------------------


def test_marked(store: StoredCompletions, path: Path) -> None:
    """The file is told from a cache's: neither takes the other's."""
    store.add("", completion(), [])
    store.close()
    with closing(sqlite3.connect(path)) as database:
        assert (APPLICATION, VERSION, "wal") == tuple(
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version", "journal_mode")
        )
    cache = Store(str(path), None, None, Clock())
    with pytest.raises(InvalidRequestError, match="is another program's database; .* for the cache"):
        cache.get(b"k")
    other = Store(str(path.with_name("cache")), None, None, Clock())
    other.get(b"k")
    with pytest.raises(InvalidRequestError, match="is another program's database; .* for the stored completions"):
        StoredCompletions(path.with_name("cache"))
    other.close()


def test_no_file(tmp_path: Path) -> None:
    """Where no file can be, that is told at once, with the path."""
    with pytest.raises(StoreError, match=f"stored completions: cannot open {tmp_path}: unable to open.*; see whether the disk"):
        StoredCompletions(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot open .*(Not a directory|File exists)"):
        StoredCompletions(tmp_path / "file" / "x")


def test_replaced(store: StoredCompletions, path: Path) -> None:
    """A file that became another's while it was closed is an error of the store: no caller of the server is at fault."""
    store.close()
    path.write_bytes(b"dear diary, " * 200)
    with pytest.raises(StoreError, match="cannot read .* is no SQLite database"):
        store.get("", "c-0")
    with pytest.raises(StoreError, match="cannot write .* is no SQLite database"):
        store.add("", completion(), [])


READ_ONLY = """
import os, sys
import gpt.layers.store  # loads what is needed before the files of this checkout may be out of reach
from gpt.server.store import StoredCompletions, StoreError
path = sys.argv[1]
if os.geteuid() == 0:
    os.setuid(65534)  # nobody: what is root's own may always be written
store = StoredCompletions(path)
print(store.get("", "c-0")["model"], len(store.page("")[0]), len(store.messages("", "c-0")[0]))
for write in (
    lambda: store.add("", {"id": "c-1", "created": 1, "model": "m"}, []),
    lambda: store.update("", "c-0", {"a": "b"}),
    lambda: store.delete("", "c-0"),
):
    try:
        write()
    except StoreError as error:
        print(error)
print(len(store.page("")[0]))
"""


@pytest.fixture
def open_to_all() -> Any:
    """A folder that anybody may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        Path(folder).chmod(0o755)


@pytest.mark.parametrize("opened", [True, False], ids=["a server has it open", "nobody has it open"])
def test_read_only(open_to_all: Path, opened: bool) -> None:
    """A file that may only be read is read while a server has it open, and each write is an error; else opening it is one, for SQLite
    wants to write a log beside it. Nothing changes.
    """
    path = open_to_all / "stored.sqlite"
    store = StoredCompletions(path)
    store.add("", completion(), SAID)
    if not opened:
        store.close()
    before = {file: file.read_bytes() for file in open_to_all.iterdir()}
    for file in before:
        file.chmod(0o444)
    open_to_all.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", READ_ONLY, str(path)], capture_output=True, text=True, check=False)
    assert before == {file: file.read_bytes() for file in open_to_all.iterdir()}
    store.close()
    if not opened:
        assert done.stderr.splitlines()[-1].startswith(f"gpt.server.store.StoreError: stored completions: cannot open {path}: ")
        return
    lines = done.stdout.splitlines()
    assert ("", "m 1 5", "1") == (done.stderr, lines[0], lines[-1])
    assert [True] * 3 == [
        line.startswith(f"stored completions: cannot write {path}: attempt to write a readonly database")
        for line in lines[1:-1]
    ]


def test_full(path: Path) -> None:
    """On a full disk what does not fit is an error, nothing of it is there, what was there stays, and room makes it work again."""
    program = f"""
import resource
from gpt.server.store import StoredCompletions, StoreError
store = StoredCompletions({str(path)!r})
def one(id, size):
    return {{"id": id, "created": 1, "model": "m", "text": "x" * size, "metadata": {{"a": id}}}}
store.add("", one("a", 10), [{{"role": "user"}}])
free = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, free[1]))
try:
    store.add("", one("b", 10), [{{"role": "user", "content": "y" * 300_000}}])
except StoreError as error:
    print(error)
print(store.get("", "a")["metadata"], store.get("", "b"), len(store.page("")[0]), store.page("", metadata={{"a": "b"}}))
resource.setrlimit(resource.RLIMIT_FSIZE, free)
store.add("", one("b", 200_000), [])
print(len(store.get("", "b")["text"]), store.messages("", "b"))
store.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second, third = done.stdout.splitlines()
    assert first.startswith(f"stored completions: cannot write {path}: ")
    assert ("{'a': 'a'} None 1 ([], False)", "200000 ([], False)") == (second, third)
    with closing(sqlite3.connect(path)) as database:
        assert [("ok",)] == database.execute("PRAGMA integrity_check").fetchall()
        assert [(0,)] == database.execute(
            "SELECT count(*) FROM messages JOIN completions USING (place) WHERE id = 'b'"
        ).fetchall()


def test_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited long enough to write is told; who reads waits for nobody."""
    monkeypatch.setattr(module, "BUSY", 0.0)
    store = StoredCompletions(path)
    store.add("", completion(), SAID)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        assert ["c-0"] == ids(store)
        assert (0,) == store._database.execute("PRAGMA busy_timeout").fetchone()  # type: ignore[union-attr]
        with pytest.raises(StoreError, match="cannot write .*: database is locked"):
            store.add("", completion("c-1"), SAID)
        database.execute("ROLLBACK")
    store.add("", completion("c-1"), SAID)
    assert ["c-0", "c-1"] == ids(store)
    store.close()


def test_damaged(store: StoredCompletions, path: Path) -> None:
    """A file that is damaged while it is used is an error, never another answer."""
    for number in range(20):
        store.add("", completion(f"c-{number}", text="x" * 20_000), [])
    store.close()
    assert store.get("", "c-0") is not None
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    assert store._database is not None
    store._database.execute("PRAGMA shrink_memory")
    with pytest.raises(StoreError, match="cannot read .*malformed"):
        store.get("", "c-19")
    with pytest.raises(StoreError, match="cannot write .*malformed"):
        store.add("", completion("c-20"), [])


KILLED = """
import sys
from gpt.server.store import StoredCompletions
store = StoredCompletions(sys.argv[1])
number = 0
while True:
    store.add("", {"id": f"c-{number}", "created": number, "model": "m", "metadata": {"n": str(number)}}, [{"role": "user", "content": str(number)}])
    print(number, flush=True)
    number += 1
"""


def test_killed(path: Path) -> None:
    """What `add` has returned for outlives a SIGKILL of the process, whole, and the file is sound."""
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout if line.endswith("\n")]
        assert -signal.SIGKILL == process.wait()
    store = StoredCompletions(path)
    for number in told:
        assert {"n": str(number)} == store.get("", f"c-{number}")["metadata"]  # type: ignore[index]
        assert [str(number)] == [message["content"] for message in store.messages("", f"c-{number}")[0]]  # type: ignore[index]
    whole = ids(store, limit=10_000)
    assert len(whole) in {len(told), len(told) + 1}
    store.add("", completion("after"), SAID)
    store.close()
    with closing(sqlite3.connect(path)) as database:
        assert [("ok",)] == database.execute("PRAGMA integrity_check").fetchall()


def test_durable(store: StoredCompletions) -> None:
    """Each commit is written through to the disk: SQLite's setting for that is on, as is the one that overwrites what is deleted."""
    assert store._database is not None
    assert (2, 1) == tuple(store._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "secure_delete"))


# --------------------------------------------------------------------------------------------------------------------
# Threads and processes
# --------------------------------------------------------------------------------------------------------------------


def test_threads(store: StoredCompletions) -> None:
    """Threads share one, and none sees half of another's work."""
    wrong: list[object] = []

    def work(name: str) -> None:
        for turn in range(10):
            own = f"{name}-{turn}"
            store.add(name, completion(own, metadata={"n": name}), SAID)
            store.update(name, own, {"n": name, "t": str(turn)})
            if turn % 2:
                store.delete(name, own)
            found = ids(store, name, metadata={"n": name})
            if found != [f"{name}-{done}" for done in range(0, turn + 1, 2)]:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == wrong


def test_processes(path: Path) -> None:
    """Processes that begin together share the file, from its making on, and see each other's."""
    program = f"""
import sys
from gpt.server.store import StoredCompletions
store = StoredCompletions({str(path)!r})
for turn in range(10):
    store.add("", {{"id": f"{{sys.argv[1]}} {{turn}}", "created": turn, "model": "m"}}, [])
    store.update("", f"{{sys.argv[1]}} {{turn}}", {{"by": sys.argv[1]}})
store.close()
"""
    running = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(3)]
    assert [0, 0, 0] == [process.wait() for process in running]
    store, other = StoredCompletions(path), StoredCompletions(path)
    assert 30 == len(ids(store, limit=100))
    assert [f"1 {turn}" for turn in range(10)] == ids(store, metadata={"by": "1"})
    other.delete("", "1 3")
    other.add("", completion("new", created=99), SAID)
    assert (None, "new") == (store.get("", "1 3"), ids(store, order="desc", limit=1)[0])
    assert ["1 4"] == ids(store, metadata={"by": "1"}, after="1 3", limit=1)
    store.close()
    other.close()


def test_fork(path: Path) -> None:
    """A child opens the file anew."""
    program = f"""
import os
from gpt.server.store import StoredCompletions
store = StoredCompletions({str(path)!r})
store._lock.acquire()  # as another thread might have it
child = os.fork()
if child == 0:
    store.add("", {{"id": "child", "created": 1, "model": "m"}}, [])
    store.close()
    os._exit(0)
store._lock.release()
assert os.waitpid(child, 0)[1] == 0
assert store.get("", "child") is not None
store.add("", {{"id": "parent", "created": 1, "model": "m"}}, [])
assert ["child", "parent"] == [item["id"] for item in store.page("")[0]]
store.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
