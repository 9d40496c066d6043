"""The one lock of the suite: a file in the folder that it keeps for one process, run folder or ledger.

The kernel's lock ends with its process, however that dies, and so is never left behind by mistake.
"""

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

LOCK = "lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what a file system without locks answers


def take_lock(folder: Path) -> IO[str]:
    """Lock the folder until the returned file is closed; BlockingIOError where another process has it."""
    path = folder / LOCK
    while True:
        file = path.open("a+")
        try:
            _flock(file)
            if _is_at(path, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # removed or renamed while it was opened, so that no one else would see this lock


def is_taken(folder: Path) -> bool:
    """Whether a process has the lock now; OSError where there is no lock, or a file system without."""
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


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
