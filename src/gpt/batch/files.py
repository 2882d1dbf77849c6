"""Files that are written whole or not at all, and that the disk keeps."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress


def read(path: str) -> bytes:
    """All of a file. Raises OSError."""
    with open(path, "rb") as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    """Write a file whole or not at all, and have the disk keep it. Raises OSError.

    What a process that is killed leaves behind is told by its name: it ends in LEFT.
    """
    beside = f"{path}.{secrets.token_hex(4)}{LEFT}"  # several may write the same file
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        commit(beside, path)
    except BaseException:
        remove(beside)
        raise


LEFT = ".writing"


def commit(beside: str, path: str) -> None:
    """Give a file that is whole its name, in place of what had it, and have the disk keep that. Raises OSError."""
    os.replace(beside, path)
    sync_folder(os.path.dirname(path))


def sync_folder(path: str) -> None:
    """Have the disk keep which files are in a folder. Raises OSError.

    A file system whose folders cannot be synced (EINVAL) does what it does: so has PostgreSQL it, `fsync_fname_ext`.
    """
    folder = os.open(path or ".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(folder)


def remove(path: str) -> None:
    """Remove a file, if it is there. What cannot be removed is left."""
    with suppress(OSError):
        os.unlink(path)
