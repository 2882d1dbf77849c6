"""Answers in a SQLite file: how long they stay, how much room they take, and what becomes of a broken file."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt import InvalidRequestError
from gpt.layers import store as module
from gpt.layers.store import APPLICATION, LOG, NOTED, PAGE, SMALLEST, VERSION, Entry, Store


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(
    path: Any, max_age: float | None = None, max_bytes: int | None = None, clock: Callable[[], float] = Clock()
) -> Store:
    return Store(str(path), max_age, max_bytes, clock)


def entry(text: str = "a", size: int = 0) -> Entry:
    return Entry(text.encode() + bytes(size), streamed=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "answers.sqlite"


def keys(store: Store, count: int) -> str:
    """Which of the first keys are there."""
    return "".join(str(number) for number in range(count) if store.get(b"%d" % number) is not None)


def test_kept(path: Path) -> None:
    """What was kept is there again, also when the file is opened anew; what was not is not."""
    store = opened(path)
    assert store.get(b"k") is None
    for kept in (Entry(b"a", False, False, "r"), Entry(b"[]", True, True, None), entry("b")):
        store.put(b"k", kept)
        assert kept == store.get(b"k")
        store.close()
        assert kept == store.get(b"k")
    assert 1 == store.size()[0]
    store.close()
    store.close()
    assert [path.name] == os.listdir(path.parent)


def test_private(path: Path) -> None:
    """The file is its owner's alone, and so is its log."""
    store = opened(path)
    store.put(b"k", entry())
    assert {0o600} == {os.stat(path.parent / name).st_mode & 0o777 for name in os.listdir(path.parent)}
    store.close()


def test_age(path: Path) -> None:
    """An answer is there until it is too old; the next one that is kept takes its room."""
    clock = Clock()
    store = opened(path, max_age=10, clock=clock)
    store.put(b"0", entry())
    clock.now += 9.5
    store.put(b"1", entry())
    assert "01" == keys(store, 2)
    clock.now += 0.5
    assert "1" == keys(store, 2)
    assert 2 == store.size()[0]
    store.put(b"2", entry())
    assert 2 == store.size()[0]
    assert "12" == keys(store, 3)
    store.close()
    forever = opened(path, clock=clock)
    clock.now += 1e9
    assert "12" == keys(forever, 3)
    forever.close()


def test_least_recently_used(path: Path) -> None:
    """Where there is no room, what was not used for longest goes, in the order of use and not of age."""
    store = opened(path, max_bytes=SMALLEST)
    for number in range(4):
        store.put(b"%d" % number, entry(size=PAGE))
    assert store.get(b"0") is not None
    assert store.get(b"1") is not None
    gone: list[str] = []
    for number in range(4, 20):
        store.put(b"%d" % number, entry(size=PAGE))
        with closing(sqlite3.connect(path)) as database:
            there = {key.decode() for (key,) in database.execute("SELECT key FROM answers")}
        gone += [str(one) for one in range(number) if str(one) not in there and str(one) not in gone]
    assert ["2", "3", "0", "1"] == gone[:4]
    assert "4" in gone[4:]
    store.close()


def test_uses_are_written(path: Path) -> None:
    """Uses that were noted are written when there are many, and when the file is closed."""
    store = opened(path)
    for number in range(NOTED + 1):
        store.put(b"%d" % number, entry())
    for number in reversed(range(NOTED)):
        store.get(b"%d" % number)
    with closing(sqlite3.connect(path)) as database:
        assert [(b"%d" % number,) for number in reversed(range(NOTED))][-3:] == database.execute(
            "SELECT key FROM answers ORDER BY used DESC LIMIT 3"
        ).fetchall()[::-1]
        store.get(b"5")
        store.close()
        assert (b"5",) == database.execute("SELECT key FROM answers ORDER BY used DESC").fetchone()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(0, 60_000)), max_size=40),
    st.sampled_from([SMALLEST, 200_000, 1 << 19]),
)
@example([(0, 40_874), (0, None), (0, 0)], 100_000)
def test_bytes(steps: list[tuple[int, int | None]], limit: int) -> None:
    """The file is never larger than it may be, whatever is kept and looked up, and what has just been kept is there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sqlite"
        store = opened(path, max_bytes=limit)
        for number, size in steps:
            if size is None:
                store.get(b"%d" % number)
                continue
            kept = entry(str(number), size)
            if module._pages(kept) + module.FIXED > limit // PAGE:
                continue
            store.put(b"%d" % number, kept)
            assert kept == store.get(b"%d" % number)
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA wal_checkpoint(PASSIVE)")
            assert path.stat().st_size <= limit
            assert store.size()[1] <= limit
        store.close()
        assert not path.exists() or path.stat().st_size <= limit


def test_many_small(path: Path) -> None:
    """Many small answers fit as well, though their index grows with the uses that are written."""
    store = opened(path, max_bytes=1 << 18)
    for number in range(3000):
        store.put(b"%032d" % number, entry(str(number)))
        for used in range(number - 200, number, 3):
            store.get(b"%032d" % used)
    store.close()
    assert path.stat().st_size <= 1 << 18
    assert opened(path).size()[0] > 500


def test_log(path: Path) -> None:
    """The log beside the file does not grow without end."""
    store = opened(path, max_bytes=1 << 20)
    for number in range(300):
        store.put(b"%d" % number, entry(size=50_000))
    assert os.stat(f"{path}-wal").st_size <= 2 * LOG
    store.close()
    large = opened(path)
    large.put(b"large", entry(size=8 * LOG))
    for number in range(100):
        large.put(b"%d" % number, entry(size=50_000))
    assert os.stat(f"{path}-wal").st_size <= 2 * LOG
    large.close()


def test_too_large(path: Path) -> None:
    """What does not fit at all is not kept, with a warning, and nothing goes for it. SQLite would not let it in either."""
    store = opened(path, max_bytes=SMALLEST)
    store.put(b"0", entry())
    assert store._database is not None
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store._database.execute(module._INSERT_BODY, (5, bytes(SMALLEST)))
    with pytest.warns(RuntimeWarning, match="an answer of 131073 bytes does not fit into max_bytes"):
        store.put(b"1", entry(size=1 << 17))
    assert "0" == keys(store, 2)
    store.close()


def test_smaller_limit(path: Path) -> None:
    """A file that grew under another limit is brought below the new one when it is opened."""
    store = opened(path)
    for number in range(50):
        store.put(b"%d" % number, entry(size=10_000))
    store.close()
    assert path.stat().st_size > 500_000
    small = opened(path, max_bytes=100_000)
    assert entry(size=10_000) == small.get(b"49")
    assert small.get(b"0") is None
    small.close()
    assert path.stat().st_size <= 100_000


def test_clear(path: Path) -> None:
    """Nothing is left, and the room is given back."""
    store = opened(path)
    for number in range(20):
        store.put(b"%d" % number, entry(size=10_000))
    full = store.size()
    store.get(b"1")
    store.clear()
    assert (20, 0) == (full[0], store.size()[0])
    assert store.size()[1] < 50_000 < full[1]
    store.put(b"1", entry())
    assert "1" == keys(store, 20)
    store.close()
    assert path.stat().st_size < 50_000


# --------------------------------------------------------------------------------------------------------------------
# Files that are not ours
# --------------------------------------------------------------------------------------------------------------------


def plain(path: Path) -> None:
    path.write_bytes(b"dear diary, " * 200)


def another(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE diary (text)")


def marked(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA application_id = 5")


def newer(path: Path) -> None:
    store = opened(path)
    store.put(b"k", entry())
    store.close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")


def damaged(path: Path) -> None:
    store = opened(path)
    store.put(b"k", entry(size=20_000))
    store.close()
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"\xff" * (PAGE - 100) + data[PAGE:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (plain, "is no SQLite database, or a damaged one"),
        (another, "is another program's database"),
        (marked, "is another program's database"),
        (newer, "was made by a newer release of gpt"),
        (damaged, "is no SQLite database, or a damaged one"),
    ],
)
def test_not_ours(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    """A file that is not ours is refused by name, and left as it is, to the byte."""
    path = tmp_path / "x"
    make(path)
    before = path.read_bytes()
    store = opened(path, max_bytes=SMALLEST)
    with pytest.raises(InvalidRequestError, match=f"{path} {message}.*left as it is: name another path") as caught:
        store.get(b"k")
    assert "path" == caught.value.param
    with pytest.raises(InvalidRequestError):
        store.clear()
    with pytest.warns(RuntimeWarning, match=f"cannot write {path}: path: {path} {message}"):
        store.put(b"k", entry())
    store.close()
    assert before == path.read_bytes()
    assert {"x"} == set(os.listdir(tmp_path))


def test_empty_file(tmp_path: Path) -> None:
    """An empty file becomes one of ours."""
    path = tmp_path / "x"
    path.touch()
    store = opened(path)
    store.put(b"k", entry())
    assert entry() == store.get(b"k")
    store.close()
    with closing(sqlite3.connect(path)) as database:
        assert (APPLICATION, VERSION, 2, "wal") == tuple(
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "auto_vacuum", "journal_mode")
        )


# --------------------------------------------------------------------------------------------------------------------
# Disks that do not work
# --------------------------------------------------------------------------------------------------------------------


def test_no_file(tmp_path: Path) -> None:
    """Where no file can be, all goes on without one, with a warning."""
    store = opened(tmp_path)
    for use in (lambda: store.get(b"k"), lambda: store.put(b"k", entry())):
        with pytest.warns(
            RuntimeWarning, match=f"cache: cannot (read|write) {tmp_path}: unable to open.*calls go on without it"
        ):
            assert use() is None
    with pytest.warns(RuntimeWarning, match="cannot read"):
        assert (0, 0) == store.size()
    with pytest.raises(sqlite3.OperationalError):
        store.clear()
    (tmp_path / "file").touch()
    with pytest.warns(RuntimeWarning, match="Not a directory|File exists"):
        opened(tmp_path / "file" / "x").put(b"k", entry())


def test_read_only(path: Path) -> None:
    """A file that can only be read is read; what cannot be written is a warning."""
    store = opened(path)
    store.put(b"0", entry())
    assert store._database is not None
    store._database.execute("PRAGMA query_only = ON")
    assert "0" == keys(store, 2)
    with pytest.warns(RuntimeWarning, match="attempt to write a readonly database"):
        store.put(b"1", entry())
    assert "0" == keys(store, 2)
    for _ in range(NOTED):
        store._noted[os.urandom(4)] = None
    assert "0" == keys(store, 2)  # writing the uses fails, and nobody minds
    assert {} == store._noted
    assert "0" == keys(store, 2)
    store.close()
    kept = opened(path)
    assert "0" == keys(kept, 2)
    kept.close()


def test_full(path: Path) -> None:
    """On a disk that is full nothing is lost but the new answer, and room makes it work again."""
    program = f"""
import resource, warnings
from gpt.layers.store import Entry, Store
store = Store({str(path)!r}, None, None, lambda: 0.0)
store.put(b"0", Entry(b"a", False))
free = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, free[1]))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    store.put(b"1", Entry(bytes(200_000), False))
print(len(told), told[0].message, store.get(b"0") is not None, store.get(b"1") is not None)
resource.setrlimit(resource.RLIMIT_FSIZE, free)
store.put(b"2", Entry(bytes(200_000), False))
print(store.get(b"0") is not None, store.get(b"2") is not None)
store.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith(f"1 cache: cannot write {path}: ")
    assert ("True False", "True True") == (first[-10:], second)


def test_damaged_in_use(path: Path) -> None:
    """A file that is damaged while it is used is a warning, and no answer."""
    store = opened(path)
    for number in range(20):
        store.put(b"%d" % number, entry(size=20_000))
    store.close()
    assert store.get(b"0") is not None
    with open(path, "r+b") as file:
        file.seek(PAGE)
        file.write(os.urandom(path.stat().st_size - PAGE))
    assert store._database is not None
    store._database.execute("PRAGMA shrink_memory")
    with pytest.warns(RuntimeWarning, match="malformed"):
        assert store.get(b"19") is None
    with pytest.warns(RuntimeWarning, match="malformed"):
        store.put(b"x", entry())
    store.close()


def test_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited long enough to write goes on."""
    monkeypatch.setattr(module, "BUSY", 0.0)
    store = opened(path)
    store.put(b"0", entry())
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        assert "0" == keys(store, 2)
        with pytest.warns(RuntimeWarning, match="database is locked"):
            store.put(b"1", entry())
        database.execute("ROLLBACK")
    store.put(b"1", entry())
    assert "01" == keys(store, 2)
    store.close()


def test_readers_wait_for_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads does not wait for a writer, not even to write the uses that are noted, nor does who closes."""
    monkeypatch.setattr(module, "BUSY", 3600.0)
    store = opened(path)
    store.put(b"0", entry())
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        store._noted = dict.fromkeys(b"%d" % number for number in range(NOTED))
        reader = threading.Thread(target=lambda: (keys(store, 2), keys(store, 2), store.close()))
        reader.start()
        reader.join(20)
        waited = reader.is_alive()
        database.execute("ROLLBACK")
        reader.join()
    assert not waited
    assert "0" == keys(store, 2)
    store.put(b"1", entry())
    assert (3_600_000,) == store._database.execute("PRAGMA busy_timeout").fetchone()  # type: ignore[union-attr]
    store.close()


# --------------------------------------------------------------------------------------------------------------------
# Threads and processes
# --------------------------------------------------------------------------------------------------------------------


def test_threads(path: Path) -> None:
    """Threads share one."""
    store = opened(path, max_bytes=1 << 20)
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(30):
            name = b"%d" % (turn % 5)
            store.put(name, entry(name.decode(), size=number))
            found = store.get(name)
            if found is None or not found.body.startswith(name):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == wrong
    assert "01234" == keys(store, 9)
    store.close()


def test_processes(path: Path) -> None:
    """Processes that begin together share the file, from its making on."""
    program = f"""
import sys, warnings
from gpt.layers.store import Entry, Store
warnings.simplefilter("error")
store = Store({str(path)!r}, None, 1 << 20, lambda: 0.0)
for turn in range(20):
    store.put(b"%s %d" % (sys.argv[1].encode(), turn), Entry(b"a", False))
store.close()
"""
    running = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(4)]
    assert [0, 0, 0, 0] == [process.wait() for process in running]
    store = opened(path)
    assert 80 == store.size()[0]
    store.close()


def test_fork(path: Path) -> None:
    """A child opens the file anew, and leaves its parent's connection alone."""
    program = f"""
import os
from gpt.layers.store import Entry, Store
store = Store({str(path)!r}, None, None, lambda: 0.0)
store.put(b"0", Entry(b"a", False))
store._lock.acquire()  # as another thread might have it
child = os.fork()
if child == 0:
    store.close()  # opened by the parent: nothing to do
    store.put(b"1", Entry(b"b", False))
    ok = store.get(b"0") is not None
    store.close()
    os._exit(0 if ok else 1)
store._lock.release()
assert os.waitpid(child, 0)[1] == 0
store.put(b"2", Entry(b"c", False))
assert all(store.get(b"%d" % number) is not None for number in range(3))
store.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
