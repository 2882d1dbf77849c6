"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gpt.batch.files import commit, read, remove, sync_folder, write

from crashes import full_at, put, seen, states


def test_written(tmp_path: Path) -> None:
    """A file holds what was written last, and nothing is beside it."""
    path = str(tmp_path / "a")
    for data in (b"", b"one", b"\0" * 100_000):
        write(path, data)
        assert data == read(path)
        assert ["a"] == os.listdir(tmp_path)


def test_by_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without a folder is one of the current folder."""
    monkeypatch.chdir(tmp_path)
    write("a", b"one")
    assert b"one" == read("a")


def test_killed(tmp_path: Path) -> None:
    """After a death at any point there is the one or the other; what is left beside it tells that by its name."""
    folder = tmp_path / "one"
    folder.mkdir()
    write(str(folder / "a"), b"before")
    found = states(folder, lambda: write(str(folder / "a"), b"after it"))
    assert len(found) > 4
    for number, state in enumerate(found):
        put(state, tmp_path / str(number))
        assert read(str(tmp_path / str(number) / "a")) in (b"before", b"after it")
        others = set(os.listdir(tmp_path / str(number))) - {"a"}
        assert all(name.startswith("a.") and name.endswith(".writing") for name in others)


def test_full_disk(tmp_path: Path) -> None:
    """A write that fails leaves what was there, or all of what is new, and nothing beside it."""
    path = tmp_path / "a"
    came, call = True, 0
    while came:
        call += 1
        write(str(path), b"before")
        came = full_at(call, lambda: write(str(path), b"after it"))
        assert {"a"} == set(seen(tmp_path))
        assert path.read_bytes() in (b"before", b"after it")
    assert b"after it" == path.read_bytes()
    assert call > 4


def test_nowhere(tmp_path: Path) -> None:
    """A folder that is not there is an error, and so is one that stands in a file's place."""
    with pytest.raises(FileNotFoundError):
        write(str(tmp_path / "b" / "a"), b"")
    (tmp_path / "c").mkdir()
    with pytest.raises(IsADirectoryError):
        write(str(tmp_path / "c"), b"")
    assert ["c"] == os.listdir(tmp_path)


def test_renamed(tmp_path: Path) -> None:
    """A file that is whole takes the place of what had its name."""
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    commit(str(tmp_path / "a"), str(tmp_path / "b"))
    assert b"new" == read(str(tmp_path / "b"))
    assert ["b"] == os.listdir(tmp_path)


def test_removed(tmp_path: Path) -> None:
    """A file goes; what is not there, or cannot go, is no matter."""
    (tmp_path / "a").touch()
    (tmp_path / "b").mkdir()
    for name in "abc":
        remove(str(tmp_path / name))
    assert ["b"] == os.listdir(tmp_path)


@pytest.mark.parametrize(("code", "raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_folders_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, raised: bool) -> None:
    """A file system whose folders cannot be synced is taken as it is; what goes wrong is not. No file is left open."""

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    before = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(os, "fsync", refuse)
    if raised:
        with pytest.raises(OSError, match="Input/output"):
            sync_folder(str(tmp_path))
    else:
        sync_folder(str(tmp_path))
    assert before == len(os.listdir("/dev/fd"))
