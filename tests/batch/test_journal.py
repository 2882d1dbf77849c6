"""The journal of a shard: what was appended is there, whatever became of the process, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.batch.journal import BusyError, Entry, Journal, Reopening, first_line, line, lock, read
from gpt.batch.progress import Facts

from crashes import small_files

FACTS = [
    Facts(),
    Facts(12, 3456, 0.1234, "", "0.000125", "USD", cached=True, counted=False),
    Facts(kind="RateLimitError"),
    Facts(1 << 40, 0, 1e9, 'An"Error\n\u20ac', "1e-30", "\u20ac"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
VALUES = [
    b'{"row":1}',
    b"{}",
    b"[]",
    b"0",
    b"null",
    b'""',
    '{"a":"\u20ac \U0001f600 \\n \\u0000 ]"}'.encode(),
    b'{"a":[1,{"b":[]}]}',
    b"1.5e300",
]
LINES = [
    (row, mark, FACTS[row % len(FACTS)], value)
    for row, (mark, value) in enumerate(zip([0, 1, 2**32 - 1, 7, 7, 8, 9, 10, 11], VALUES, strict=True))
]
WHOLE = b"".join(line(*one) for one in LINES)


def held(journal: Journal) -> list[tuple[int, int, bool, bytes]]:
    """What a journal says."""
    return [(row, journal.mark(row), journal.failed(row), journal.value(row)) for row in journal]


def told(lines: list[tuple[int, int, Facts, bytes]]) -> list[tuple[int, int, bool, bytes]]:
    """What it must say of these lines; the last of a row counts."""
    last = {row: (row, mark, bool(facts.kind), value) for row, mark, facts, value in lines}
    return [last[row] for row in sorted(last)]


def opened(path: Path, data: bytes | None = None, rows: range = range(100)) -> Journal:
    if data is not None:
        path.write_bytes(data)
    return Journal(str(path), rows)


# --------------------------------------------------------------------------------------------------------------------
# Lines
# --------------------------------------------------------------------------------------------------------------------


def test_a_line() -> None:
    """A line is the CRC-32 of its JSON in eight digits, and its JSON: number, mark, facts, output row."""
    made = line(3, 99, Facts(1, 2, 0.5), b'{"row":3}')
    body = b'[3,99,[1,2,0.5,"",null,"",false,true],{"row":3}]'
    assert b"%08x %b\n" % (zlib.crc32(body), body) == made
    assert [Entry(3, 99, Facts(1, 2, 0.5), made.index(b'{"row"'), 9)] == list(read([made]))


def test_first_line(tmp_path: Path) -> None:
    """A reopened shard's journal begins with what its part held."""
    reopening = Reopening((1, 3), 4, 2**32 - 1, {"rows": 2, "costs": {"USD": "1.0"}})
    assert [reopening] == list(read([first_line(reopening)]))
    journal = opened(tmp_path / "j", first_line(reopening) + line(*LINES[3]))
    assert (reopening, told(LINES[3:4])) == (journal.reopening, held(journal))
    assert [3] == [entry.row for entry in journal.entries()]
    journal.close()
    journal = opened(tmp_path / "j", first_line(reopening)[:-1])
    assert journal.reopening is None
    journal.close()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**32 - 1), st.sampled_from(FACTS), JSON), max_size=6),
    st.integers(1, 70),
)
def test_round_trip(rows: list[tuple[int, int, Facts, Any]], size: int) -> None:
    """Any output rows are read as they were written, in pieces of any size, each where it stands."""
    values = [msgspec.json.encode(value) for _, _, _, value in rows]
    data = b"".join(line(row, mark, facts, value) for (row, mark, facts, _), value in zip(rows, values, strict=True))
    found = list(read(data[start : start + size] for start in range(0, len(data), size)))
    assert [(row, mark, facts) for row, mark, facts, _ in rows] == [one[:3] for one in found if isinstance(one, Entry)]
    assert values == [data[one.start : one.start + one.length] for one in found if isinstance(one, Entry)]


def framed(body: bytes) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(body), body)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(LINES[0][3] + b"\n", id="bare JSON"),
        pytest.param(b"\n", id="empty"),
        pytest.param(b"\0" * 4096, id="zeros"),
        pytest.param(line(*LINES[0])[:-1], id="no line break"),
        pytest.param(line(*LINES[1])[:7].upper() + b"F" + line(*LINES[1])[8:], id="other digits"),
        pytest.param(line(*LINES[0]).replace(b" [", b"  [", 1), id="two spaces"),
        pytest.param(line(*LINES[0]).replace(b" [", b"[", 1), id="no space"),
        pytest.param(line(*LINES[0])[:-1] + line(*LINES[1]), id="two in one"),
        pytest.param(line(*LINES[0])[:-1] + b"\r\n", id="other line break"),
        pytest.param(b"+" + line(*LINES[0])[1:], id="a sign"),
        pytest.param(framed(b""), id="nothing"),
        pytest.param(framed(b"{"), id="no JSON"),
        pytest.param(framed(b'{"reopens": "x"}'), id="no reopening"),
        pytest.param(framed(b"[1,2,[]]"), id="too short"),
        pytest.param(framed(b'[1,2,[0,0,0.0,"\xff"],{}]'), id="no UTF-8"),
        pytest.param(framed(b"[1,2,[],{}] x"), id="too long"),
    ],
)
def test_no_line(tmp_path: Path, data: bytes) -> None:
    """What is no whole line is passed over, and so is none of those around it."""
    before, after = line(50, 5, Facts(), b"{}"), line(51, 6, Facts(), b"[]")
    for head, expected in ((before, [50, 51]), (b"", [51])):
        ending = b"" if data.endswith(b"\n") else b"\n"
        journal = opened(
            tmp_path / "j", head + data + (ending if b"\0" in data else b"") + (after if data.endswith(b"\n") else b"")
        )
        wanted = expected if data.endswith(b"\n") else expected[:-1]
        assert wanted == list(journal)
        journal.append(60, 1, Facts(), b'"new"')
        journal.close()
        journal = opened(tmp_path / "j")
        assert [*wanted, 60] == [row for row in journal if row >= 50]
        assert b'"new"' == journal.value(60)
        journal.close()


def test_upper_case(tmp_path: Path) -> None:
    """Digits are as they are written: capitals are no line."""
    one = next(made for made in (line(row, 0, Facts(), b"{}") for row in range(99)) if made[:8] != made[:8].upper())
    journal = opened(tmp_path / "j", one[:8].upper() + one[8:])
    assert [] == list(journal)
    journal.close()


def test_other_rows(tmp_path: Path) -> None:
    """A line of a row that the shard does not have is none of its."""
    journal = opened(tmp_path / "j", WHOLE, range(3, 6))
    assert told(LINES[3:6]) == held(journal)
    assert (False, True, True, False) == (2 in journal, 3 in journal, 5 in journal, 6 in journal)
    assert 3 == len(journal)
    journal.close()


# --------------------------------------------------------------------------------------------------------------------
# Cut anywhere
# --------------------------------------------------------------------------------------------------------------------


def test_cut_at_every_byte(tmp_path: Path) -> None:
    """Of a journal that was cut at any byte the whole lines are there, and what is appended then, by this process and the next."""
    ends = [index + 1 for index, byte in enumerate(WHOLE) if byte == 10]
    new = (77, 5, Facts(kind="ServerError"), b'{"new":1}')
    for cut in range(len(WHOLE) + 1):
        lines = LINES[: sum(end <= cut for end in ends)]
        journal = opened(tmp_path / "j", WHOLE[:cut])
        assert told(lines) == held(journal)
        journal.append(*new)
        assert told([*lines, new]) == held(journal)
        journal.close()
        journal = opened(tmp_path / "j")
        # A line that lacked nothing but its line break is whole when the next one begins.
        known = held(journal)
        assert told([*lines, new]) == known or told([*LINES[: len(lines) + 1], new]) == known
        assert len(known) == len(list(journal.entries())) == len(journal)
        journal.close()


@settings(deadline=None)
@given(st.data())
def test_damaged_anywhere(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever happens to some bytes, a row is as it was written or is not there."""
    start = data.draw(st.integers(0, len(WHOLE)))
    length = data.draw(st.integers(0, 60))
    instead = data.draw(st.binary(max_size=60) | st.just(bytes(length)))
    journal = opened(tmp_path_factory.mktemp("j") / "j", WHOLE[:start] + instead + WHOLE[start + length :])
    assert set(held(journal)) <= set(told(LINES))
    journal.close()


def test_last_counts(tmp_path: Path) -> None:
    """Of several lines of a row the last one counts, at once and when it is read again."""
    journal = opened(tmp_path / "j")
    lines = [(5, 1, Facts(), b"1"), (4, 2, FACTS[2], b"2"), (5, 3, FACTS[2], b"3"), (4, 4, Facts(), b"44")]
    for one in lines:
        journal.append(*one)
    for _ in range(2):
        assert told(lines) == held(journal)
        assert 2 == len(journal)
        assert [(5, 3, FACTS[2]), (4, 4, Facts())] == [entry[:3] for entry in journal.entries()]
        journal.close()
        journal = opened(tmp_path / "j")
    journal.close()


# --------------------------------------------------------------------------------------------------------------------
# Appending
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "facts", "value"),
    [
        (100, Facts(), b"{}"),
        (-1, Facts(), b"{}"),
        (1, Facts(), b""),
        (1, Facts(), b'{"a":\n1}'),
        (1, Facts(), b"{} "),
        (1, Facts(), b" {}"),
        (1, Facts(), b"{}}"),
        (1, Facts(), b"{"),
        (1, Facts(elapsed=float("nan")), b"{}"),
        (1, Facts(prompt_tokens=1.5), b"{}"),  # type: ignore[arg-type]
    ],
)
def test_not_appended(tmp_path: Path, row: int, facts: Facts, value: bytes) -> None:
    """What could not be read again is not written."""
    journal = opened(tmp_path / "j", WHOLE)
    with pytest.raises(ValueError, match=f"row {row}: not an output row"):
        journal.append(row, 1, facts, value)
    assert told(LINES) == held(journal)
    journal.close()
    assert WHOLE == (tmp_path / "j").read_bytes()


@pytest.mark.parametrize("room", range(0, 60, 3))
def test_no_room(tmp_path: Path, room: int) -> None:
    """A line that fits in part only is not there; it is appended when there is room, and all others are as they were."""
    journal = opened(tmp_path / "j", WHOLE)
    new, other = (77, 5, Facts(), b'{"new":1}'), (78, 5, Facts(), b'{"new":2}')
    with small_files(len(WHOLE) + room):
        for _ in range(2):
            with pytest.raises(OSError, match="too large"):
                journal.append(*new)
    assert told(LINES) == held(journal)
    assert (len(LINES), 0) == (len(journal), journal.unsynced)
    journal.append(*other)
    journal.append(*new)
    for _ in range(2):
        assert told([*LINES, new, other]) == held(journal)
        journal.close()
        journal = opened(tmp_path / "j")
    journal.close()


def test_synced(tmp_path: Path) -> None:
    """What was appended since the last sync is known; a sync of a closed journal does nothing."""
    journal = opened(tmp_path / "j", WHOLE)
    assert 0 == journal.unsynced
    journal.append(1, 2, Facts(), b"{}")
    journal.append(2, 2, Facts(), b"{}")
    assert 2 == journal.unsynced
    journal.sync()
    assert 0 == journal.unsynced
    journal.append(3, 2, Facts(), b"{}")
    journal.close()
    journal.sync()
    assert 1 == journal.unsynced


def test_sync_failed(tmp_path: Path) -> None:
    """After a sync that failed none succeeds: what it was to write may be forgotten. The journal is opened again."""
    journal = opened(tmp_path / "new")
    journal.append(1, 2, Facts(), b"{}")
    kept = os.dup(journal._file)
    reading, writing = os.pipe()  # which cannot be synced
    os.dup2(writing, journal._file)
    for _ in range(2):
        with pytest.raises(OSError, match="Invalid argument"):
            journal.sync()
        os.dup2(kept, journal._file)
    assert 1 == journal.unsynced
    journal.close()
    for file in (kept, reading, writing):
        os.close(file)
    journal = opened(tmp_path / "new")
    journal.sync()
    assert [1] == list(journal)
    journal.close()


def test_synced_while_closed(tmp_path: Path) -> None:
    """A thread that syncs and one that closes do not disturb each other."""
    errors: list[BaseException] = []

    def sync(journal: Journal) -> None:
        try:
            for _ in range(20):
                journal.sync()
        except BaseException as error:
            errors.append(error)

    for number in range(30):
        journal = opened(tmp_path / str(number))
        journal.append(1, 2, Facts(), b"{}")
        thread = threading.Thread(target=sync, args=(journal,))
        thread.start()
        journal.close()
        thread.join()
    assert [] == errors


# --------------------------------------------------------------------------------------------------------------------
# Whose it is
# --------------------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from gpt.batch.journal import Journal
from gpt.batch.progress import Facts
journal = Journal(sys.argv[1], range(9))
journal.append(1, 2, Facts(), b'{}')
print("open", flush=True)
sys.stdin.read()
"""


def test_two_processes(tmp_path: Path) -> None:
    """A journal is open in one process; when that is killed it is free, and what was appended is there."""
    path = str(tmp_path / "j")
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert b"open\n" == other.stdout.readline()
        with pytest.raises(BusyError, match=f"{path} is in use by another run"):
            Journal(path, range(9))
        other.send_signal(signal.SIGKILL)
        other.wait()
    journal = Journal(path, range(9))
    assert [1] == list(journal)
    journal.close()


def test_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that its owner removed between the opening here and the lock is not taken for the shard's: a new one is made."""
    path = tmp_path / "j"
    path.write_bytes(WHOLE)
    flock, removed = __import__("fcntl").flock, [False, True]

    def late(file: int, how: int) -> None:
        if removed:
            path.unlink()
            if removed.pop():
                path.touch()  # and somebody has made another one
        flock(file, how)

    monkeypatch.setattr("fcntl.flock", late)
    journal = Journal(str(path), range(100))
    assert os.path.samestat(os.stat(path), os.fstat(journal._file))
    assert [] == list(journal)
    journal.close()


def test_dropped(tmp_path: Path) -> None:
    """A journal that is dropped is closed, and one that could not be opened leaves nothing open."""
    before = len(os.listdir("/dev/fd"))
    opened(tmp_path / "j", WHOLE)
    journal = opened(tmp_path / "j")
    for _ in range(3):
        with pytest.raises(BusyError):
            opened(tmp_path / "j")
    journal.close()
    journal.close()
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "no" / "j")
    assert before == len(os.listdir("/dev/fd"))


def test_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a journal cannot be read, it is let go again."""

    def broken(*_: Any) -> bytes:
        raise OSError(5, os.strerror(5))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        with pytest.raises(OSError, match="Input/output"):
            opened(tmp_path / "j", WHOLE)
    opened(tmp_path / "j").close()


def test_shared(tmp_path: Path) -> None:
    """A shared lock keeps out only those that want the file for themselves."""
    path = tmp_path / "lock"
    with path.open("w") as one, path.open("w") as two, path.open("w") as three:
        lock(one.fileno(), str(path), shared=True)
        lock(two.fileno(), str(path), shared=True)
        with pytest.raises(BusyError):
            lock(three.fileno(), str(path))


# --------------------------------------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------------------------------------


def test_memory(tmp_path: Path) -> None:
    """A journal takes some 17 bytes a row, and what it is read by; not the rows themselves."""
    rows = 20_000
    value = b'{"row":1,"text":"%b"}' % (b"x" * 1000)
    with open(tmp_path / "j", "wb") as file:
        for row in range(rows):
            file.write(line(row, 2**31 + row, Facts(10, 20, 1.5, cost="0.00125", currency="USD"), value))
    tracemalloc.start()
    try:
        journal = opened(tmp_path / "j", rows=range(rows))
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == len(journal)
    assert kept < 32 * rows
    assert most < 32 * rows + 6 * 2**20
    journal.close()
