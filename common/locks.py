"""The suite has one kind of lock: a file that keeps its folder, a run's or a ledger's, for one process.

The kernel releases the lock when its process ends, however it ends. So no lock outlives its owner.
"""

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

LOCK = "lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what a file system without locks answers


def take_lock(folder: Path) -> IO[str]:
    """Lock the folder until the returned file is closed; raise BlockingIOError if another process has the lock."""
    path = folder / LOCK
    while True:
        file = path.open("a+")
        try:
            _flock(file)
            if is_locked_by(folder, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # it was removed or renamed after it was opened: no other process would see this lock


def is_taken(folder: Path) -> bool:
    """Say whether a process holds the lock now; raise OSError if there is no lock file, or the file system has none."""
    with (folder / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _flock(file: IO[str]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def is_locked_by(folder: Path, file: IO[str]) -> bool:
    """Say whether the lock file in the folder is still this open one, and was not removed or renamed with it."""
    try:
        return os.path.samestat((folder / LOCK).stat(), os.fstat(file.fileno()))
    except (FileNotFoundError, NotADirectoryError):
        return False
